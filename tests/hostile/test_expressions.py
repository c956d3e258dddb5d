"""Regular expressions: each one in chora takes linear time, whatever text it is applied to (CWE-1333)."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

import chora
from tests.conftest import requirement

METHODS = {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
IN_WORKERS = "chora.render."
"""Where patterns that others wrote are applied too, by processes that can be killed."""

MADE_WHEN_NEEDED: dict[tuple[str, str], str] = {
    ("chora.config_parsing.schema_errors", "search"): r"[a-z][a-z0-9-]*",
    ("chora.engine.legacy.conversion", "sub"): r"[^a-z0-9-]+",
    ("chora.sources.selectors", "fullmatch"): (
        r"\s*(?:export\s+)?(?:default\s+)?(?:(?:async\s+)?(?:def\s|function\s*\*|function\s))\s*name(?![\w$]).*"
    ),
    ("chora.store.backup", "fullmatch"): r"\.(storage|replaced)-\d{8}T\d{9}Z\.db\.tmp(-wal|-shm|-journal)?",
}
"""Those that are put together where they are used, as they are then: by module and method."""

SHORT, LONG = 10_000, 40_000
"""Characters of a text, and of one that takes four times as long in linear time."""
QUICK = 0.004
"""Seconds below which nothing quadratic can be: ten thousand characters have fifty million pairs."""


class Expression(NamedTuple):
    module: str
    pattern: re.Pattern[Any]
    method: str

    def __str__(self) -> str:
        return f"{self.module}: {self.pattern.pattern!r} ({self.method})"


def modules() -> Iterator[tuple[str, ast.Module]]:
    for found in pkgutil.walk_packages(chora.__path__, "chora."):
        path = importlib.util.find_spec(found.name)
        if path and path.origin and not found.name.startswith(("chora.__main__", IN_WORKERS)):
            yield found.name, ast.parse(Path(path.origin).read_text())


def expressions() -> Iterator[Expression]:
    """Every expression of every module, with the methods that are called on it."""
    for name, tree in modules():
        known = vars(importlib.import_module(name))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            method, on = call.func.attr, call.func.value
            if method not in METHODS or not isinstance(on, ast.Name):
                continue
            if on.id == "re" and isinstance(call.args[0], ast.Constant):
                yield Expression(name, re.compile(cast("str | bytes", call.args[0].value)), method)
            elif on.id == "re" or (on.id not in known and (name, method) in MADE_WHEN_NEEDED):
                yield Expression(name, re.compile(MADE_WHEN_NEEDED[name, method]), method)
            elif isinstance(known.get(on.id), re.Pattern):
                yield Expression(name, known[on.id], method)


def letters_of(pattern: re.Pattern[Any]) -> list[str]:
    """Characters that the expression may treat in different ways: those in it, and one of each usual class."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    plain = {each for each in re.sub(r"\\[a-zA-Z]|\{\d*,?\d*\}|\(\?<?[=!:]", "", text) if not each.isalnum()}
    return sorted(plain - set("^$|") | set("aZ0_ \t\n\\"))


def starts_of(pattern: re.Pattern[Any]) -> Iterator[str]:
    """What a text begins with to get an expression going: its own literal text, as far as there is some."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    yield ""
    for word in re.findall(r"(?:\\[^a-zA-Z]|[\w`~ ])+", text):
        yield re.sub(r"\\(.)", r"\1", word)[:10]
    yield from ("```", "{{", "](", "](<", '"', "a:", "Bearer ", "def ", "export ", "[[", "0", "aA", "{{ a ")


def worst_texts(pattern: re.Pattern[Any], length: int) -> Iterator[str]:
    letters = letters_of(pattern)
    for start in dict.fromkeys(starts_of(pattern)):
        yield start * (length // max(len(start), 1))
        for letter in letters:
            for end in ("", "\0", "`"):
                yield start + letter * length + end
            yield (start + letter) * (length // (len(start) + 1))
    for one in letters:
        for other in letters:
            yield (one + other) * (length // 2)


def seconds_of(expression: Expression, text: Any) -> float:
    apply = getattr(expression.pattern, expression.method)
    arguments = (text[:0], text) if expression.method in ("sub", "subn") else (text,)
    best = 60.0
    for _ in range(3):
        began = time.thread_time()
        result = apply(*arguments)
        if expression.method == "finditer":
            for _ in result:
                pass
        best = min(best, time.thread_time() - began)
        if best < QUICK:
            break
    return best


def find_slow_text(expression: Expression) -> str | None:
    """The beginning of a text for which four times the length takes far more than four times as long."""
    for short, long in zip(worst_texts(expression.pattern, SHORT), worst_texts(expression.pattern, LONG), strict=True):
        is_bytes = isinstance(expression.pattern.pattern, bytes)
        first: Any = short.encode() if is_bytes else short
        if (took := seconds_of(expression, first)) >= QUICK:
            second: Any = long.encode() if is_bytes else long
            if seconds_of(expression, second) > 8 * took:
                return short[:20]
    return None


@requirement("hostile.expressions")
@pytest.mark.parametrize("expression", sorted(set(expressions()), key=str), ids=str)
def test_every_expression_takes_linear_time(expression: Expression):
    """With texts of blanks, of what the expression begins with, of repeated beginnings, and of pairs of characters."""
    assert find_slow_text(expression) is None


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"```[ \t]*[^`]*", "fullmatch"),
        (r"\]\([^)]*\)", "sub"),
        (r"\s*\[+([^\]]+)\]", "match"),
        (r"\s+$", "search"),
        (r'"(?:[^"\\\n]|\\.)*+"', "search"),
    ],
)
def test_slow_expressions_are_found(pattern: str, method: str):
    """Quadratic ones, each in its own way."""
    assert find_slow_text(Expression("", re.compile(pattern), method)) is not None


def test_patterns_of_others_are_applied_in_workers_only():
    """Nothing but constants is compiled, apart from what is listed here."""
    found: set[str] = set()
    for name, tree in modules():
        for call in ast.walk(tree):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and isinstance(call.func.value, ast.Name)
                and call.func.value.id == "re"
                and call.func.attr in METHODS | {"compile"}
                and not isinstance(call.args[0], ast.Constant)
            ):
                found.add(name)
    # Made of escaped paths and suffixes, and of the forms of YAML's values.
    own = {"chora.decoding", "chora.errors", "chora.sources.external_file", "chora.store.backup"}
    assert found <= {name for name, _ in MADE_WHEN_NEEDED} | own
