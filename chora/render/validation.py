"""Checks in a worker: where a pattern matches, whether a text is valid in its language, whether data fits a schema.

The author of a pattern, text or schema can make each of these run forever (CWE-1333, CWE-400) or overflow a stack
(CWE-674), so they run in a process that can be killed. Libraries are imported by the job that needs them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from chora.nesting import NestedTooDeeply, check_json_structure
from chora.render import (
    NESTED_TOO_DEEPLY,
    CheckJob,
    CheckResult,
    CompareJob,
    JobFailure,
    MatchJob,
    MatchPosition,
    TextFinding,
)
from chora.render.text_parts import list_lines
from chora.wording import quantity

FINDINGS_LIMIT: Final = 100
MESSAGE_LENGTH: Final = 500
NAME_LENGTH: Final = 200

_FLAGS: Final = {"a": re.ASCII, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def match_pattern(job: MatchJob) -> MatchPosition | JobFailure:
    """Find where a regular expression first matches."""
    flags = re.NOFLAG
    for letter in job.flags:
        if letter not in _FLAGS:
            return _failure(job, f"{letter!r} is not a flag; write some of {''.join(_FLAGS)}")
        flags |= _FLAGS[letter]
    try:
        with warnings.catch_warnings(action="ignore"):  # about syntax that a later Python may read differently
            found = re.compile(job.pattern, flags).search(job.text)
    except (re.error, RecursionError, OverflowError) as error:
        return _failure(job, str(error))
    return MatchPosition(None if found is None else found.start())


def compare_with_schema(job: CompareJob) -> CheckResult | JobFailure:
    """Validate data against a schema."""
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry of our own: the default one fetches references from any URL (CWE-918, SSRF).
    registry = cast(Any, Registry())  # pyright: ignore[reportUnknownArgumentType]
    findings: list[TextFinding] = []
    try:
        kind: Any = validator_for(job.schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(job.schema)
        for error in kind(job.schema, registry=registry).iter_errors(job.data):
            findings.append(TextFinding(_shorten(error.message), path=error.json_path[:NAME_LENGTH]))
            if len(findings) == FINDINGS_LIMIT:
                break
    except jsonschema.SchemaError as error:
        return _failure(job, f"it is not a JSON Schema: {error.message} (at {error.json_path})")
    except Unresolvable as error:
        return _failure(job, f"it refers to {error.ref!r}, which isn't in it; other documents aren't looked up")
    except MemoryError:
        raise
    except Exception as error:  # the library passes on any exception that an odd schema causes
        return _failure(job, f"it can't be applied: {type(error).__name__}: {error}")
    return CheckResult(findings)


def check_text(job: CheckJob) -> CheckResult | JobFailure:
    """Check a text in its language."""
    check_language = LANGUAGES.get(job.language)
    if check_language is None:
        return _failure(job, f"texts of {job.language!r} aren't checked; write one of {', '.join(LANGUAGES)}")
    findings: list[TextFinding] = []
    try:
        for finding in check_language(job.text):
            findings.append(TextFinding(_shorten(finding.message), finding.line, finding.column))
            if len(findings) == FINDINGS_LIMIT:
                break
    except RecursionError:
        findings.append(TextFinding(NESTED_TOO_DEEPLY))
    return CheckResult(findings)


def _failure(job: MatchJob | CheckJob | CompareJob, message: str) -> JobFailure:
    return JobFailure("syntax", _shorten(message), job.name[:NAME_LENGTH])


def _shorten(message: str) -> str:
    return message if len(message) <= MESSAGE_LENGTH else f"{message[: MESSAGE_LENGTH - 1]}…"


# -- languages: yields the problems of a text -------------------------------------------------------------------


def _check_json(text: str) -> Iterator[TextFinding]:
    import json

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a JSON value")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} stands twice in one object")
            seen.add(key)

    try:
        check_json_structure(text)
        json.loads(text, parse_constant=refuse, parse_int=str, object_pairs_hook=refuse_duplicates)
    except json.JSONDecodeError as error:
        yield TextFinding(error.msg, error.lineno, error.colno)
    except (ValueError, NestedTooDeeply) as error:
        yield TextFinding(str(error))


def _check_yaml(text: str) -> Iterator[TextFinding]:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Composed to nodes only: aliases stay references (CWE-776) and no tag constructs an object (CWE-502).
        for _ in yaml.compose_all(text, loader):
            pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "it can't be parsed"
        yield TextFinding(message, mark.line + 1, mark.column + 1) if mark else TextFinding(message)
    except yaml.YAMLError as error:
        yield TextFinding(str(error).partition("\n")[0])


def _check_toml(text: str) -> Iterator[TextFinding]:
    import tomllib

    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", said := str(error))
        yield TextFinding(said[: place.start()], int(place[1]), int(place[2])) if place else TextFinding(said)


def _check_xml(text: str) -> Iterator[TextFinding]:
    from xml.parsers import expat

    parser = expat.ParserCreate()

    # No DOCTYPE, hence neither entity expansion (CWE-776) nor external entities (CWE-611).
    def refuse(*declared: object) -> None:
        raise ValueError("it declares a document type; entities and external files aren't read")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        yield TextFinding(expat.ErrorString(error.code) or str(error), error.lineno, error.offset + 1)
    except ValueError as error:
        yield TextFinding(str(error), parser.CurrentLineNumber, parser.CurrentColumnNumber + 1)


_VOID_ELEMENTS: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
)
_OPTIONAL_END_TAG: Final = frozenset(
    {"html", "head", "body", "p", "li", "dt", "dd", "rb", "rt", "rtc", "rp", "optgroup", "option", "colgroup"}
    | {"caption", "thead", "tbody", "tfoot", "tr", "td", "th"}
)


_VERBATIM: Final = frozenset({"pre", "code", "kbd", "samp", "script", "style", "textarea", "template", "title"})
"""Elements whose text may look like anything."""
_MARKDOWN: Final = (
    (re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+\S", re.MULTILINE), "a heading"),
    (re.compile(r"^[ \t]{0,3}(?:```|~~~)", re.MULTILINE), "a code block"),
    (re.compile(r"^[^\n]*\S[ \t]*\n[ \t]{0,3}(?:={3,}|-{3,})[ \t]*$", re.MULTILINE), "a heading"),
    (re.compile(r"^[ \t]*\|?[ \t]*:?-{3,}:?[ \t]*\|[ \t:|-]*$", re.MULTILINE), "a table"),
    (re.compile(r"^[ \t]*([-*+])[ \t]+\S[^\n]*\n[ \t]*\1[ \t]+\S", re.MULTILINE), "a list"),
    (re.compile(r"^[ \t]*\d{1,9}\.[ \t]+\S[^\n]*\n[ \t]*\d{1,9}\.[ \t]+\S", re.MULTILINE), "a list"),
    (re.compile(r"^[ \t]{0,3}>[ \t]+\S", re.MULTILINE), "a quotation"),
    (re.compile(r"\*\*[^\s*][^*\n]{0,200}\*\*"), "bold text"),
    (re.compile(r"!?\[[^\]\n]{1,200}\]\([^()\s]{1,500}\)"), "a link"),
)
"""What Markdown looks like between the elements of HTML, where it is shown as it stands."""


def _check_html(text: str) -> Iterator[TextFinding]:
    """What no version of HTML allows, an element that is never closed or closed without being open, and Markdown."""
    from html.parser import HTMLParser

    class TagBalance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[tuple[str, int, int]] = []
            self.findings: list[TextFinding] = []
            self.elements = 0
            self.markdown: dict[str, TextFinding] = {}

        def handle_data(self, data: str) -> None:
            if any(tag in _VERBATIM for tag, _, _ in self.open):
                return
            for pattern, what in _MARKDOWN:
                if what not in self.markdown and (found := pattern.search(data)):
                    line = self.getpos()[0] + data.count("\n", 0, found.start())
                    message = f"{what} is written as Markdown, which HTML shows as it stands"
                    self.markdown[what] = TextFinding(message, line)

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.elements += 1
            if tag not in _VOID_ELEMENTS:
                line, column = self.getpos()
                self.open.append((tag, line, column + 1))

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.elements += 1

        def handle_endtag(self, tag: str) -> None:
            if tag in _VOID_ELEMENTS or tag == "p":  # </p> alone is an empty paragraph
                return
            if not any(name == tag for name, _, _ in self.open):
                line, column = self.getpos()
                self.findings.append(TextFinding(f"</{tag}> closes nothing", line, column + 1))
                return
            while (last := self.open.pop())[0] != tag:
                self.report_unclosed(last)

        def report_unclosed(self, element: tuple[str, int, int]) -> None:
            tag, line, column = element
            if tag not in _OPTIONAL_END_TAG:
                self.findings.append(TextFinding(f"<{tag}> is never closed", line, column))

    balance = TagBalance()
    balance.feed(text)
    balance.close()
    while balance.open:
        balance.report_unclosed(balance.open.pop())
    faults = [*balance.findings, *balance.markdown.values()]
    yield from sorted(faults, key=lambda finding: (finding.line or 0, finding.column or 0))
    if not balance.elements:
        yield TextFinding("it has no element")


def _check_csv(text: str) -> Iterator[TextFinding]:
    import csv

    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    width: int | None = None
    try:
        for row in rows:
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                yield TextFinding(f"this row has {quantity(len(row), 'cell')}, the first one {width}", rows.line_num)
    except csv.Error as error:
        yield TextFinding(str(error), rows.line_num)


def _check_python(text: str) -> Iterator[TextFinding]:
    import ast

    try:
        with warnings.catch_warnings(action="ignore"):
            compile(text, "<text>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        yield TextFinding(error.msg, error.lineno, error.offset)
    except ValueError as error:
        yield TextFinding(str(error))
    except MemoryError:  # raised by the parser when its own stack overflows
        yield TextFinding("it is nested too deeply")


def _check_jinja2(text: str) -> Iterator[TextFinding]:
    from jinja2 import TemplateSyntaxError
    from jinja2.environment import Environment

    extensions = ("jinja2.ext.do", "jinja2.ext.loopcontrols")
    try:
        Environment(extensions=extensions).parse(text)
    except TemplateSyntaxError as error:
        yield TextFinding(error.message or "it can't be parsed", error.lineno)


def _check_markdown(text: str) -> Iterator[TextFinding]:
    """Any text is Markdown, but an unclosed code block swallows the rest of it."""
    fence, opened = "", 0
    for number, line in enumerate(list_lines(text), 1):
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
        yield TextFinding(f"the code block that {fence} opens is never closed", opened)


def _check_gherkin(text: str) -> Iterator[TextFinding]:
    from chora.render.gherkin import find_faults

    return find_faults(text)


LANGUAGES: Final[dict[str, Callable[[str], Iterator[TextFinding]]]] = {
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
