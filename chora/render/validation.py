"""What a worker judges: where a pattern matches, whether a text is of a language, whether data fits a schema.

Every one of these can be made to take for ever, or to overflow a stack, by who writes the pattern, text or schema.
So it happens where it can be killed. The libraries are imported by the job that needs them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from chora.nesting import NestedTooDeeply, check_json_depth
from chora.render import Check, Checked, Compare, Failed, Flaw, Match, Matched

MOST_FLAWS: Final = 100
MESSAGE_LENGTH: Final = 500
NAME_LENGTH: Final = 200

_FLAGS: Final = {"a": re.ASCII, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def match(job: Match) -> Matched | Failed:
    """Where a regular expression first matches."""
    flags = re.NOFLAG
    for letter in job.flags:
        if letter not in _FLAGS:
            return _failed(job, f"{letter!r} is not a flag; write some of {''.join(_FLAGS)}")
        flags |= _FLAGS[letter]
    try:
        with warnings.catch_warnings(action="ignore"):  # of syntax that Python may read otherwise some day
            found = re.compile(job.pattern, flags).search(job.text)
    except (re.error, RecursionError, OverflowError) as error:
        return _failed(job, str(error))
    return Matched(None if found is None else found.start())


def compare(job: Compare) -> Checked | Failed:
    """In what data doesn't fit a schema."""
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # Of our own, because the usual registry fetches what a schema refers to, from wherever it says.
    registry = cast(Any, Registry())  # pyright: ignore[reportUnknownArgumentType]
    flaws: list[Flaw] = []
    try:
        kind: Any = validator_for(job.schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(job.schema)
        for error in kind(job.schema, registry=registry).iter_errors(job.data):
            flaws.append(Flaw(_short(error.message), path=error.json_path[:NAME_LENGTH]))
            if len(flaws) == MOST_FLAWS:
                break
    except jsonschema.SchemaError as error:
        return _failed(job, f"it is no JSON Schema: {error.message} (at {error.json_path})")
    except Unresolvable as error:
        return _failed(job, f"it refers to {error.ref!r}, which isn't in it; other documents aren't looked up")
    except MemoryError:
        raise
    except Exception as error:  # the library lets through whatever a strange schema makes of it
        return _failed(job, f"it can't be applied: {type(error).__name__}: {error}")
    return Checked(flaws)


def check(job: Check) -> Checked | Failed:
    """What is wrong with a text, by its language."""
    judge = LANGUAGES.get(job.language)
    if judge is None:
        return _failed(job, f"texts of {job.language!r} aren't checked; write one of {', '.join(LANGUAGES)}")
    flaws: list[Flaw] = []
    try:
        for flaw in judge(job.text):
            flaws.append(Flaw(_short(flaw.message), flaw.line, flaw.column))
            if len(flaws) == MOST_FLAWS:
                break
    except RecursionError:
        flaws.append(Flaw("it is nested too deeply"))
    return Checked(flaws)


def _failed(job: Match | Check | Compare, message: str) -> Failed:
    return Failed("syntax", _short(message), job.name[:NAME_LENGTH])


def _short(message: str) -> str:
    return message if len(message) <= MESSAGE_LENGTH else f"{message[: MESSAGE_LENGTH - 1]}…"


# -- languages: what makes a text none of theirs ----------------------------------------------------------------


def _check_json(text: str) -> Iterator[Flaw]:
    import json

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no value that JSON has")

    def once(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} stands twice in one object")
            seen.add(key)

    try:
        check_json_depth(text)
        json.loads(text, parse_constant=refuse, parse_int=str, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        yield Flaw(error.msg, error.lineno, error.colno)
    except (ValueError, NestedTooDeeply) as error:
        yield Flaw(str(error))


def _check_yaml(text: str) -> Iterator[Flaw]:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # As nodes: aliases are looked up and nothing is made of tags, which are anybody's.
        for _ in yaml.compose_all(text, loader):
            pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "it can't be parsed"
        yield Flaw(said, mark.line + 1, mark.column + 1) if mark else Flaw(said)
    except yaml.YAMLError as error:
        yield Flaw(str(error).partition("\n")[0])


def _check_toml(text: str) -> Iterator[Flaw]:
    import tomllib

    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", said := str(error))
        yield Flaw(said[: place.start()], int(place[1]), int(place[2])) if place else Flaw(said)


def _check_xml(text: str) -> Iterator[Flaw]:
    from xml.parsers import expat

    parser = expat.ParserCreate()

    def refuse(*declared: object) -> None:
        raise ValueError("it declares a document type; entities and other files aren't read")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        yield Flaw(expat.ErrorString(error.code) or str(error), error.lineno, error.offset + 1)
    except ValueError as error:
        yield Flaw(str(error), parser.CurrentLineNumber, parser.CurrentColumnNumber + 1)


_VOID: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
)
_MAY_STAY_OPEN: Final = frozenset(
    {"html", "head", "body", "p", "li", "dt", "dd", "rb", "rt", "rtc", "rp", "optgroup", "option", "colgroup"}
    | {"caption", "thead", "tbody", "tfoot", "tr", "td", "th"}
)


def _check_html(text: str) -> Iterator[Flaw]:
    """Only what no reading of HTML allows: an element that isn't closed, or closed without being open."""
    from html.parser import HTMLParser

    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[tuple[str, int, int]] = []
            self.flaws: list[Flaw] = []
            self.elements = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.elements += 1
            if tag not in _VOID:
                line, column = self.getpos()
                self.open.append((tag, line, column + 1))

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.elements += 1

        def handle_endtag(self, tag: str) -> None:
            if tag in _VOID or tag == "p":  # </p> alone is an empty paragraph
                return
            if not any(name == tag for name, _, _ in self.open):
                line, column = self.getpos()
                self.flaws.append(Flaw(f"</{tag}> closes nothing", line, column + 1))
                return
            while (last := self.open.pop())[0] != tag:
                self.leave(last)

        def leave(self, element: tuple[str, int, int]) -> None:
            tag, line, column = element
            if tag not in _MAY_STAY_OPEN:
                self.flaws.append(Flaw(f"<{tag}> is never closed", line, column))

    balance = Balance()
    balance.feed(text)
    balance.close()
    while balance.open:
        balance.leave(balance.open.pop())
    yield from sorted(balance.flaws, key=lambda flaw: (flaw.line or 0, flaw.column or 0))
    if not balance.elements:
        yield Flaw("it has no element")


def _check_csv(text: str) -> Iterator[Flaw]:
    import csv

    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    width: int | None = None
    try:
        for row in rows:
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                yield Flaw(f"this row has {len(row)} cells, the first one {width}", rows.line_num)
    except csv.Error as error:
        yield Flaw(str(error), rows.line_num)


def _check_python(text: str) -> Iterator[Flaw]:
    import ast

    try:
        with warnings.catch_warnings(action="ignore"):
            compile(text, "<text>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        yield Flaw(error.msg, error.lineno, error.offset)
    except ValueError as error:
        yield Flaw(str(error))
    except MemoryError:  # how the parser says that its own stack is full
        yield Flaw("it is nested too deeply")


def _check_jinja2(text: str) -> Iterator[Flaw]:
    from jinja2 import TemplateSyntaxError
    from jinja2.environment import Environment

    extensions = ("jinja2.ext.do", "jinja2.ext.loopcontrols")
    try:
        Environment(extensions=extensions).parse(text)
    except TemplateSyntaxError as error:
        yield Flaw(error.message or "it can't be parsed", error.lineno)


def _check_markdown(text: str) -> Iterator[Flaw]:
    """Any text is Markdown; but a block of code that never ends swallows the rest of it."""
    fence, opened = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if len(line) - len(line.lstrip(" ")) > 3 or bare[:3] not in ("```", "~~~"):
            continue
        mark = bare[: len(bare) - len(bare.lstrip(bare[0]))]
        if not fence:
            if bare[0] == "~" or "`" not in bare[len(mark) :]:
                fence, opened = mark, number
        elif mark.startswith(fence) and bare == mark:
            fence = ""
    if fence:
        yield Flaw(f"the block of code that {fence} opens is never closed", opened)


def _check_gherkin(text: str) -> Iterator[Flaw]:
    """Only what is no feature at all; what its steps must look like depends on the language they are written in."""
    spoken = re.match(r"\s*#\s*language\s*:\s*(\S+)", text)
    is_english = spoken is None or spoken[1].startswith("en")
    if is_english and not re.search(r"^[ \t]*(?:Feature|Business Need|Ability):", text, re.MULTILINE):
        yield Flaw("there is no line that begins with Feature:", 1)
    elif not re.search(r"^[ \t]*[^\W\d_][^\n:]{0,40}:", text, re.MULTILINE):
        yield Flaw("there is no line that begins with a keyword and a colon", 1)


LANGUAGES: Final[dict[str, Callable[[str], Iterator[Flaw]]]] = {
    "json": _check_json,
    "yaml": _check_yaml,
    "toml": _check_toml,
    "xml": _check_xml,
    "html": _check_html,
    "csv": _check_csv,
    "python": _check_python,
    "jinja2": _check_jinja2,
    "markdown": _check_markdown,
    "gherkin": _check_gherkin,
}
