"""What holds for the code of chora as a whole: found by reading it, so that a new place can't be forgotten."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

import chora
from chora.errors import ChoraError
from chora.tools import TOOLS
from chora.tools.tool import ToolArguments, ToolResult

ROOT = Path(chora.__file__).parents[1]

pytestmark = pytest.mark.slow("reads or imports every module")


@functools.cache
def code() -> dict[str, ast.Module]:
    """Every module of chora, by its path."""
    files = sorted((ROOT / "chora").rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_bytes()) for file in files}


class CodeCall(NamedTuple):
    """A call that stands in the code: where, of what, and the arguments by position."""

    path: str
    line: int
    name: str
    arguments: list[ast.expr]

    def place(self, places: dict[tuple[str, str], tuple[int, ...]]) -> tuple[int, ...] | None:
        """Where the arguments stand, by the module or else the folder of the call."""
        return places.get((self.path, self.name)) or places.get((self.path.rpartition("/")[0], self.name))


def calls() -> Iterator[CodeCall]:
    for path, module in code().items():
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
                yield CodeCall(path, node.lineno, name, node.args)


def texts_of(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may give, as far as they stand in the code; what is put into them is `{}`."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr():
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        case ast.BinOp(left=left, op=ast.Add()):
            yield from texts_of(left)
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts_of(body)
            yield from texts_of(orelse)
        case _:
            pass


# -- errors -----------------------------------------------------------------------------------------------------


def parameters() -> Iterator[tuple[str, str, list[str]]]:
    """The functions of chora, and the classes that are called, each with its module and its parameters by position."""
    for path, module in code().items():
        for node in ast.walk(module):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name != "__init__":
                    yield path, name, [each.arg for each in node.args.args if each.arg != "self"]
                case ast.ClassDef(name=name):
                    fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
                    yield path, name, [each.id for each in fields if isinstance(each, ast.Name)]
                    for each in node.body:
                        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                            yield path, name, [each.arg for each in each.args.args[1:]]
                case _:
                    pass


def places_of(*wanted: str) -> dict[tuple[str, str], tuple[int, ...]]:
    """Where parameters of these names stand, by the module, and the folder, and the name of what is called."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for path, name, names in parameters():
        if set(wanted) <= set(names):
            for place in (path, path.rpartition("/")[0]):
                found[place, name] = tuple(names.index(each) for each in wanted)
    return found


def kinds_of_errors() -> set[str]:
    waiting, found = [ChoraError], set[str]()
    while waiting:
        kind = waiting.pop()
        found.add(kind.__name__)
        waiting += kind.__subclasses__()
    return found


# Another article or pronoun is added here; a verb in the imperative isn't.
_BEGINS_A_MESSAGE = re.compile(
    r"(?!resources/)(?:(?:The|There|It|No|This|A|An|Another|What|Nothing|None|With|Asking|Rendering|Requests)\b|\{\}|[a-z]|[A-Z]{2}|--)"
)


def test_a_message_says_what_is_wrong_and_the_hint_what_to_do():
    """A message begins with its subject, an article or the name of something; a verb in the imperative begins a hint.

    So the two aren't confused, which neither types nor most tests would notice.
    """
    places, kinds = places_of("message", "hint"), kinds_of_errors()
    wrong: list[str] = []
    checked = 0
    for call in calls():
        at = (0, 1) if call.name in kinds else call.place(places)
        for message in texts_of(call.arguments[at[0]]) if at and len(call.arguments) > at[1] else ():
            checked += 1
            if not _BEGINS_A_MESSAGE.match(message) or message.partition(" ")[0] in TOOLS:
                wrong.append(f"{call.path}:{call.line}: {message}")
    assert wrong == []
    assert checked > 200


@pytest.mark.parametrize(("parameter", "form"), [("code", r"[a-z_]+(\{\})?"), ("error_type", r"([A-Z][A-Za-z0-9]+)?")])
def test_words_for_programs_have_the_form_of_their_kind(parameter: str, form: str):
    """A code isn't the sentence beside it: programs tell errors and findings by it."""
    places = places_of(parameter)
    checked = 0
    for call in calls():
        if (at := call.place(places)) and len(call.arguments) > at[0]:
            for word in texts_of(call.arguments[at[0]]):
                checked += 1
                assert re.fullmatch(form, word), f"{call.path}:{call.line}: {word}"
    assert checked > 5


def test_an_error_of_the_system_has_its_number_first():
    """Then its sentence and the path: what handles one looks at the number."""
    kinds = {name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, OSError)}
    checked = 0
    for call in calls():
        if call.name in kinds and len(call.arguments) > 1:
            checked += 1
            assert not list(texts_of(call.arguments[0])), f"{call.path}:{call.line}"
    assert checked > 5


# -- logs -------------------------------------------------------------------------------------------------------


def test_the_format_of_a_log_line_stands_in_the_code():
    """No text of others is one, as its `%` would be looked at (CWE-134); and it has a place for each argument."""
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    found = 0
    for path, module in code().items():
        for node in ast.walk(module):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[first, *rest]) if (
                    level in levels
                ):
                    found += 1
                    texts = list(texts_of(first))
                    assert texts, f"{path}:{node.lineno}"
                    assert not isinstance(first, ast.JoinedStr), f"{path}:{node.lineno}"
                    for text in texts:
                        if not any(isinstance(each, ast.Starred) for each in rest):
                            assert text.replace("%%", "").count("%") == len(rest), f"{path}:{node.lineno}"
                case _:
                    pass
    assert found > 50


# -- values -----------------------------------------------------------------------------------------------------


def test_values_are_immutable() -> None:
    """Every Struct is frozen, but for the arguments and results of tools, which one call has for itself."""
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(chora.__path__, "chora.")]
    structs = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__module__.startswith("chora.")
    }
    of_tools = {each for each in structs if issubclass(each, ToolArguments | ToolResult)}
    assert len(structs) > 150
    assert {each.__name__ for each in structs - of_tools if not each.__struct_config__.frozen} == set()
