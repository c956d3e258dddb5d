"""Every requirement is cited by a test, and no test cites an unknown one."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from tests import requirements
from tests.requirements import REQUIREMENTS

HERE = Path(__file__).parent


@functools.cache
def citations() -> list[tuple[str, str]]:
    """Each id that a test cites, and where; read from the sources, so that one file can be run alone."""
    found: list[tuple[str, str]] = []
    for file in sorted(HERE.rglob("test_*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "requirement":
                    for argument in decorator.args:
                        assert isinstance(argument, ast.Constant), f"{file.name}: {node.name} cites what is no literal"
                        found.append((str(argument.value), f"{file.relative_to(HERE).as_posix()}::{node.name}"))
    return found


def test_every_requirement_is_tested():
    """By a test that cites it."""
    assert sorted(set(REQUIREMENTS) - {cited for cited, _ in citations()}) == []


def test_only_known_requirements_are_cited():
    """A typo in an id would leave a requirement untested, and a removed one leaves its citations behind."""
    assert sorted({f"{where} cites {cited}" for cited, where in citations() if cited not in REQUIREMENTS}) == []


def test_requirements_are_sentences():
    """One each, under a unique id of lower-case words."""
    for cited, sentence in REQUIREMENTS.items():
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", cited), cited
        assert sentence.endswith("."), cited
        assert len(sentence) <= 110, (cited, len(sentence))
    groups = [value for name, value in vars(requirements).items() if name.isupper() and name != "REQUIREMENTS"]
    assert sum(map(len, groups)) == len(REQUIREMENTS) == len(set(REQUIREMENTS.values()))
