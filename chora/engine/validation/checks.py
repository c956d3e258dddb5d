"""The shelf of checks: what a validation rule can ask for, one function each, named in `CHECKS`.

A check takes its `Case` and returns what is wrong, nothing if all is well. Whatever somebody else can make
expensive runs elsewhere: patterns, languages and schemas in the template workers, linters as processes of their own.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar, cast

import msgspec
import trio

from chora.config_parsing import ParsedConfig
from chora.decoding import decode_text
from chora.engine import retrieval
from chora.engine.build.build import Build
from chora.engine.build.content import is_approved
from chora.engine.build.gather import generator_name
from chora.engine.build.pieces import find_child
from chora.engine.engine import Engine
from chora.engine.outputs import check_output_path
from chora.engine.validation import lint
from chora.errors import ChoraError, ConfigNotFound, LimitExceeded, PermissionDenied, ValidationExecutionFailed
from chora.generators.generator import lookup
from chora.model import ArtifactChild, ArtifactConfig, ContentChild, ContentConfig, Severity
from chora.render import CheckJob, CompareJob, MatchJob, RenderFailed
from chora.render.validation import LANGUAGES, PROBLEMS_LIMIT
from chora.sources.selectors import part_of
from chora.sources.source import SourceFailed
from chora.store import Version

T = TypeVar("T")

INLINE_LENGTH = 64 * 1024
"""Texts up to this length are looked through at once; the others in a thread, so that nothing else waits for them."""

GENERATED = ("", "generated_output", "output", "content", "outputs", "content.children")
"""Targets that mean the text itself, for checks of text; of an artifact, its files."""
CONFIG = "config"
"""The target that means the config."""

_OTHER_NAMES = {
    "bdd": "gherkin",
    "feature": "gherkin",
    "htm": "html",
    "j2": "jinja2",
    "jinja": "jinja2",
    "md": "markdown",
    "py": "python",
    "yml": "yaml",
}
_ANYTHING = frozenset({"text", "txt", "section", "plain"})
"""Formats that every text is of."""
_UNCHECKED = frozenset({"javascript", "typescript", "js", "ts", "code", "binary", "test_results"})
"""Formats that can't be told without running something."""


class ValidationRule(NamedTuple):
    """One thing to check."""

    type: str
    target: str = ""
    config: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    severity: Severity = "error"


class Problem(NamedTuple):
    """Something that is wrong."""

    code: str
    message: str
    location: str | None = None
    details: dict[str, Any] = {}  # noqa: RUF012
    severity: Severity | None = None
    """None for the rule's."""


class MalformedRule(Exception):
    """A rule that can't be understood; the sentence says what of it."""


class TargetMissing(Exception):
    """A rule whose target isn't there; the sentence says why."""


class ContentNotGenerated(Exception):
    """A rule that looks at a text of which nothing is stored yet."""


class CheckedText(NamedTuple):
    """A text that a check looks at."""

    text: str
    where: str
    """How the text is called; empty for the text that is validated."""
    format: str | None
    folder: str = "."
    """Where relative links in it start from."""

    def at(self, line: int | None = None, path: str | None = None) -> str | None:
        """A place in it, in words."""
        return ", ".join(filter(None, [self.where, path, f"line {line}" if line else None])) or None


class ValidationSubject(NamedTuple):
    """What is validated: a text, its config, or both."""

    build: Build
    name: str
    version: Version | None
    parsed: ParsedConfig | None

    @property
    def engine(self) -> Engine:
        return self.build.engine

    @property
    def config(self) -> Any:
        return self.parsed.config if self.parsed else None


class CheckCase(NamedTuple):
    """One rule, applied to one subject."""

    subject: ValidationSubject
    rule: ValidationRule

    async def pieces(self) -> list[CheckedText]:
        """The texts that the rule looks at.

        Raises:
            NotGenerated, NoTarget: there is none.
        """
        target = self.rule.target
        if target in GENERATED:
            return self._generated()
        if target == CONFIG:
            return [self.config_piece()]
        if target.startswith("element."):
            return [await self._element(target)]
        return [_file(self.subject.engine, target.removeprefix("file:"))]

    def config_piece(self) -> CheckedText:
        """The config as data.

        Raises:
            NoTarget: there is none.
        """
        if self.subject.parsed is None:
            raise TargetMissing(f"{self.subject.name} has no config")
        return CheckedText(msgspec.json.encode(self.subject.parsed.raw).decode(), CONFIG, "json")

    def _generated(self) -> list[CheckedText]:
        subject = self.subject
        if subject.version is not None:
            declared = subject.config.metadata.output_format if isinstance(subject.config, ContentConfig) else None
            return [CheckedText(subject.version.body, "", declared)]
        found: list[CheckedText] = []
        if isinstance(subject.config, ArtifactConfig):
            for output in subject.config.metadata.outputs:
                is_exact = output.format == "code" and output.language_dialect
                try:
                    piece = _file(subject.engine, output.file)
                except TargetMissing:
                    continue
                found.append(piece._replace(format=output.language_dialect if is_exact else output.format))
        if not found:
            raise ContentNotGenerated(f"{self.rule.type} looks at the text, and {subject.name} wasn't generated yet")
        return found

    async def _element(self, target: str) -> CheckedText:
        subject, name = self.subject, target.removeprefix("element.")
        elements = subject.config.elements if isinstance(subject.config, ContentConfig) else ()
        element = next((element for element in elements if element.name == name), None)
        form = (element.output_format or element.format) if element else None
        if subject.version is not None:
            section = await _beside(len(subject.version.body), _section, subject.version.body, name)
            if section is not None:
                return CheckedText(section, target, form)
        if element is not None and element.example_output is not None:
            return CheckedText(element.example_output, target, form)
        if element is not None and subject.version is None:
            raise ContentNotGenerated(f"{self.rule.type} looks at {target}, and {subject.name} wasn't generated yet")
        raise TargetMissing(f"there is no {target}: no section of this name in the text, and no example of the element")

    def option(self, *names: str) -> Any:
        """The value of an option under the first of its names that is there."""
        return next((value for name in names if (value := self.rule.config.get(name)) is not None), None)


def _file(engine: Engine, path: str) -> CheckedText:
    try:
        text = engine.folder.read_text(path)
        folder = str(PurePosixPath(engine.folder.relative(path)).parent)
    except FileNotFoundError:
        raise TargetMissing(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise TargetMissing(f"{path} is not UTF-8 text") from None
    except ChoraError as error:
        raise TargetMissing(error.message.removesuffix(".")) from None
    return CheckedText(text, path, PurePosixPath(path).suffix.removeprefix(".").lower() or None, folder)


def _section(text: str, name: str) -> str | None:
    """The Markdown section under a heading of this name, whatever its level; hyphens may be blanks."""
    for title in dict.fromkeys((name, re.sub("[-_]", " ", name))):
        for level in range(1, 7):
            try:
                return part_of(text, f"{'#' * level} {title}").partition("\n")[2]
            except SourceFailed:
                continue
    return None


async def _beside(length: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, in a thread if there is much to look through."""
    if length <= INLINE_LENGTH:
        return function(*arguments)
    return await trio.to_thread.run_sync(function, *arguments)


# -- checks of a text -------------------------------------------------------------------------------------------

TextCheck = Callable[[CheckCase, CheckedText], Awaitable[list[Problem]]]


async def check_presence(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """There is something."""
    if piece.text.strip():
        return []
    return [Problem("content_missing", f"{piece.where or case.subject.name} is empty", piece.at())]


async def check_length(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """`min` and `max` characters, also spelt `min_length` and `max_length`."""
    least, most = (_whole_number(case, *names) for names in (("min", "min_length"), ("max", "max_length")))
    if least is None and most is None:
        raise MalformedRule("neither min nor max says how long the text is to be")
    if least is not None and most is not None and least > most:
        raise MalformedRule(f"min is {least}, and max is {most}")
    actual = len(piece.text)
    if least is not None and actual < least:
        message = f"it has {actual} characters, and {least} are required"
        return [Problem("content_too_short", message, piece.at(), {"actual": actual, "required": least})]
    if most is not None and actual > most:
        message = f"it has {actual} characters, and {most} are allowed"
        return [Problem("content_too_long", message, piece.at(), {"actual": actual, "limit": most})]
    return []


def _whole_number(case: CheckCase, *names: str) -> int | None:
    value = case.option(*names)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedRule(f"{names[0]} is {_shown(value)}, and not a whole number from 0 on")
    return value


async def check_format(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """The text is of its format: `format`, else the one that the config declares."""
    return await _check_language(case, piece, "format_mismatch", ("format", "language"))


async def check_syntax(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """The text can be parsed: `language`, else the format that the config declares."""
    return await _check_language(case, piece, "syntax_error", ("language", "format"))


async def _check_language(case: CheckCase, piece: CheckedText, code: str, names: tuple[str, ...]) -> list[Problem]:
    written = case.option(*names) or piece.format
    if not isinstance(written, str):
        raise MalformedRule(f"{names[0]} isn't given, and the config declares none")
    word = written.strip().lower()
    language = _OTHER_NAMES.get(word, word)
    details: dict[str, Any] = {"format": language}
    if language in _ANYTHING:
        return []
    if language in _UNCHECKED:
        message = f"texts of the format {language} aren't checked"
        return [Problem("format_not_checked", message, piece.at(), details, "info")]
    if language not in LANGUAGES:
        raise MalformedRule(f"{written[:80]!r} is no format; write one of {', '.join([*LANGUAGES, 'text'])}")
    found = await case.subject.engine.templates.pool.check_text(CheckJob(language, piece.text, f"a text of {language}"))
    return [
        Problem(
            code,
            f"it is not {language}: {flaw.message}",
            piece.at(flaw.line),
            {**details, "line": flaw.line, "column": flaw.column},
        )
        for flaw in found.problems
    ]


async def check_regex(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """`pattern` occurs, or with `must_not_match` doesn't; `flags` are some of `aimsx`."""
    flags = case.option("flags") or ""
    problems: list[Problem] = []
    for pattern, wanted in _patterns(case):
        try:
            job = MatchJob(pattern, piece.text, str(flags), f"the pattern {pattern[:80]}")
            place = (await case.subject.engine.templates.pool.match_pattern(job)).place
        except RenderFailed as failure:
            if failure.reason.kind != "syntax":
                raise
            raise MalformedRule(f"the pattern {pattern[:80]!r} doesn't fit: {failure.reason.message}") from None
        details: dict[str, Any] = {"pattern": pattern}
        if wanted and place is None:
            problems.append(Problem("pattern_not_found", f"{pattern[:80]!r} matches nothing", piece.at(), details))
        elif not wanted and place is not None:
            line = piece.text.count("\n", 0, place) + 1
            message = f"{pattern[:80]!r} matches, and must not"
            problems.append(Problem("pattern_found", message, piece.at(line), {**details, "line": line}))
    return problems


def _patterns(case: CheckCase) -> Iterator[tuple[str, bool]]:
    """The patterns of a rule, and whether each is to match."""
    caller = case.rule.config
    must, must_not = caller.get("must_match"), caller.get("must_not_match")
    wanted = must is not False and must_not is not True
    found = [
        (pattern, is_wanted)
        for pattern, is_wanted in ((caller.get("pattern"), wanted), (must, True), (must_not, False))
        if isinstance(pattern, str) and pattern
    ]
    if not found:
        raise MalformedRule("pattern isn't a regular expression, and neither is must_match or must_not_match")
    return iter(found)


async def check_required_fields(case: CheckCase) -> list[Problem]:
    """Every one of `fields`, dotted names, has a value: in a text that is JSON or YAML, else in the config."""
    fields = case.option("fields")
    names = cast("list[object]", fields if isinstance(fields, list) else [fields])
    if not names or not all(isinstance(name, str) and name for name in names):
        raise MalformedRule("fields isn't a list of names such as metadata.version")
    problems: list[Problem] = []
    for piece in await _data_pieces(case):
        try:
            record = await _data_of(piece)
        except TargetMissing as error:
            problems.append(Problem("format_mismatch", str(error), piece.at()))
            continue
        for name in cast("list[str]", names):
            if lookup(cast("dict[str, Any]", record), name) is None:
                message = f"{name} has no value in {piece.where or 'the text'}"
                problems.append(Problem("missing_required_field", message, piece.at(), {"field": name}))
    return problems


async def _data_pieces(case: CheckCase) -> list[CheckedText]:
    """The texts of a rule that are data; if none is, and the rule names no other, the config."""
    if case.rule.target not in GENERATED:
        return await case.pieces()
    try:
        found = [piece for piece in await case.pieces() if _is_data(piece)]
    except ContentNotGenerated:
        found = []
    return found or [case.config_piece()]


def _is_data(piece: CheckedText) -> bool:
    if piece.format is None:
        return piece.text.lstrip()[:1] in ("{", "[")
    return piece.format in ("json", "yaml", "yml")


async def _data_of(piece: CheckedText) -> Any:
    """The document that a text holds.

    Raises:
        NoTarget: it holds none.
    """
    looks_like_json = piece.text.lstrip()[:1] in ("{", "[")
    is_json = piece.format == "json" or (piece.format not in ("yaml", "yml") and looks_like_json)
    language: Literal["json", "yaml"] = "json" if is_json else "yaml"
    try:
        return await _beside(len(piece.text), decode_text, piece.text, language, piece.where or "the text")
    except ChoraError as error:
        raise TargetMissing(error.message.removesuffix(".")) from None


async def check_schema(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """The text, JSON or YAML, fits `schema`: a JSON Schema, or a file of the project that holds one."""
    schema = case.option("schema", "schema_file")
    if isinstance(schema, str):
        try:
            schema = await _data_of(_file(case.subject.engine, schema))
        except TargetMissing as error:
            raise MalformedRule(f"the schema can't be read: {error}") from None
    if not isinstance(schema, dict | bool):
        raise MalformedRule("schema is neither a JSON Schema nor the path of a file that holds one")
    try:
        data = await _data_of(piece)
    except TargetMissing as error:
        return [Problem("format_mismatch", str(error), piece.at())]
    try:
        job = CompareJob(cast("dict[str, Any] | bool", schema), data, "the schema")
        found = await case.subject.engine.templates.pool.check_text(job)
    except RenderFailed as failure:
        if failure.reason.kind != "syntax":
            raise
        raise MalformedRule(f"the schema doesn't fit: {failure.reason.message}") from None
    return [
        Problem("schema_validation_failed", flaw.message, piece.at(path=flaw.path), {"path": flaw.path})
        for flaw in found.problems
    ]


async def check_lint(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """A linter finds nothing: `linter`, with `options`, told that the text is a file called `filename`."""
    name, filename = case.option("linter"), case.option("filename")
    if not isinstance(name, str):
        raise MalformedRule("linter says no program")
    settings = case.subject.engine.settings.validation
    if name not in settings.linters:
        message = f"the linter {name[:80]!r} isn't one of those that the setting validation.linters names"
        return [Problem("linter_not_allowed", message, piece.at(), {"linter": name[:80]}, "error")]
    if (program := lint.find_linter(name)) is None:
        message = f"{name} isn't on PATH, so nothing was linted"
        return [Problem("linter_unavailable", message, piece.at(), {"linter": name}, "warning")]
    try:
        options = lint.read_options(name, case.rule.config.get("options"))
        usual = PurePosixPath(piece.where).name if "/" in piece.where else "text.py" if name == "ruff" else "text"
        remarks = await lint.run_linter(
            name, program, options, piece.text, settings.lint_time, usual if filename is None else str(filename)
        )
    except lint.OptionsRefused as error:
        raise MalformedRule(str(error)) from None
    except lint.LinterFailed as error:
        raise cannot_run(case.rule, str(error)) from None
    return [
        Problem(
            "lint_finding",
            remark.message,
            piece.at(remark.line),
            {"linter": name, "line": remark.line, "column": remark.column},
        )
        for remark in remarks[:PROBLEMS_LIMIT]
    ]


def cannot_run(rule: ValidationRule, problem: str) -> ValidationExecutionFailed:
    """The error for a rule that couldn't be checked at all."""
    return ValidationExecutionFailed(
        f"The rule {rule.type} couldn't be checked: {problem.removesuffix('.')}.",
        "Make the rule simpler, or leave it out.",
        rule_type=rule.type,
        error=problem,
    )


# -- links ------------------------------------------------------------------------------------------------------

_REFERENCE = re.compile(r" {0,3}\[(?!\^)[^\]\n]{1,200}\]:[ \t]*(\S{1,2000})")
_INLINE = re.compile(
    r"\]\([ \t]*+(?:<([^<>\n]{1,2000}+)>"
    r"|([^\s()<]{1,2000}+(?:\([^\s()]{0,200}+\)[^\s()]{0,200}+){0,5}+)(?=[\s)]))"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")
_NAMED = re.compile(r"""\b(?:id|name)=["']([^"'<>\s]{1,200})["']""")


class MarkdownLink(NamedTuple):
    """A link in a text, and the line it stands in."""

    target: str
    line: int


async def check_links(case: CheckCase, piece: CheckedText) -> list[Problem]:
    """Relative Markdown links lead to files of the project, and anchors to headings of the text; `base` is where
    relative ones start from. Links to anywhere else aren't followed.
    """
    base = case.option("base")
    if base is not None and not isinstance(base, str):
        raise MalformedRule("base isn't the path of a folder")
    start = piece.folder if base is None else base
    return await _beside(len(piece.text), _broken_links, case.subject.engine, piece, start)


def _broken_links(engine: Engine, piece: CheckedText, start: str) -> list[Problem]:
    links, anchors = _survey(piece.text)
    problems: list[Problem] = []
    for link in links:
        if (reason := _why_broken(engine, link.target, start, anchors)) is not None:
            code = "broken_anchor" if link.target.startswith("#") else "broken_link"
            details: dict[str, Any] = {"link": link.target, "line": link.line}
            problems.append(Problem(code, f"{link.target} {reason}", piece.at(link.line), details))
            if len(problems) == PROBLEMS_LIMIT:
                break
    return problems


def _why_broken(engine: Engine, target: str, start: str, anchors: set[str]) -> str | None:
    from urllib.parse import unquote

    if _SCHEME.match(target):
        return None
    path, _, anchor = target.partition("#")
    if not path:
        is_known = not anchor or unquote(anchor).casefold() in anchors
        return None if is_known else "is no heading or anchor of the text"
    inside = unquote(path.partition("?")[0])
    wanted = inside.lstrip("/") if inside.startswith("/") else str(PurePosixPath(start, inside))
    try:
        return None if engine.folder.resolve(wanted or ".").exists() else "leads to no file of the project"
    except PermissionDenied:
        return "leads outside the project"
    except OSError as error:  # a name too long for any disk
        return f"can't be looked up: {error.strerror}"


def _survey(text: str) -> tuple[list[MarkdownLink], set[str]]:
    """The links of a Markdown text, and what anchors in it may be called; code is passed over."""
    links: list[MarkdownLink] = []
    anchors: set[str] = set()
    headings: Counter[str] = Counter()
    fence = ""
    before = ""
    for number, line in enumerate(io.StringIO(text), 1):
        bare = line.strip()
        if bare[:3] in ("```", "~~~"):
            mark = bare[: len(bare) - len(bare.lstrip(bare[0]))]
            if not fence:
                fence = mark
            elif mark.startswith(fence) and bare == mark:
                fence = ""
            continue
        if fence:
            continue
        title = bare.lstrip("#").strip().rstrip("#").strip() if bare.startswith("#") else ""
        if bare and before and not bare.strip("=-"):
            title = before  # underlined
        if title:
            slug = _slug(title)
            anchors.add(slug if not headings[slug] else f"{slug}-{headings[slug]}")
            headings[slug] += 1
        before = bare
        prose = _without_code(line)
        anchors.update(found[1].casefold() for found in _NAMED.finditer(prose))
        links += [MarkdownLink(target, number) for target in _targets(prose)]
    return links, anchors


def _slug(title: str) -> str:
    """What GitHub makes of a heading."""
    words = re.sub(r"\]\([^)]*\)", "", title).replace(" ", "-").casefold()
    return "".join(letter for letter in words if letter.isalnum() or letter in "-_")


def _without_code(line: str) -> str:
    """The line without what stands between two runs of equally many backticks."""
    parts = re.split("(`+)", line)
    ends: dict[int, int] = {}
    closing: dict[int, int] = {}
    for at in range(len(parts) - 2, 0, -2):
        length = len(parts[at])
        if length in ends:
            closing[at] = ends[length]
        ends[length] = at
    kept: list[str] = []
    at = 0
    while at < len(parts):
        if at in closing:
            at = closing[at]
        else:
            kept.append(parts[at])
        at += 1
    return "".join(kept)


def _targets(line: str) -> Iterator[str]:
    """Where the links of a line lead."""
    if reference := _REFERENCE.match(line):
        yield reference[1].strip("<>")
    else:
        for found in _INLINE.finditer(line):
            yield found[1] or found[2]


# -- checks of what belongs together ----------------------------------------------------------------------------


def _children(case: CheckCase) -> tuple[ArtifactChild | ContentChild, ...]:
    config = case.subject.config
    if isinstance(config, ArtifactConfig):
        return config.content.children
    if isinstance(config, ContentConfig):
        return config.children
    raise MalformedRule(f"{case.subject.name} has no config with children")


async def check_completeness(case: CheckCase) -> list[Problem]:
    """Every child has a config, and a text that is stored or can be generated; an optional one's lack is a warning."""
    problems: list[Problem] = []
    for index, child in enumerate(_children(case)):
        for problem in why_missing(case.subject.engine, child):
            severity = problem.severity or (None if child.required else "warning")
            place = f"content.children[{index}]" if isinstance(child, ArtifactChild) else f"children[{index}]"
            details = {"content_id": child.id, **problem.details}
            problems.append(problem._replace(location=place, details=details, severity=severity))
    return problems


def why_missing(engine: Engine, child: ArtifactChild | ContentChild) -> Iterator[Problem]:
    """What stands against taking a child's text."""
    strategy = child.retrieval_strategy if isinstance(child, ArtifactChild) else "latest"
    wanted = f"version:{child.version}" if strategy == "version" else strategy
    if strategy == "version" and not child.version:
        yield Problem("invalid_child", f"{child.id} wants a version and doesn't say which")
        return
    config: ContentConfig | None = None
    try:
        config = find_child(engine, cast(ArtifactChild, child)).parsed.config
    except ConfigNotFound:
        if strategy == "latest":
            yield Problem("missing_child", f"there is no content config {child.id}", details={"path": child.path})
            return
    except ChoraError as error:
        yield Problem("invalid_child", error.message.removesuffix("."), details={"path": child.path})
        return
    can_be_made = config is not None and knows_generator(engine, config)
    fits = (
        config is not None
        and (strategy != "version" or config.metadata.version == child.version)
        and (strategy != "approved_only" or is_approved(config))
    )
    if not (can_be_made and fits) and (
        strategy == "latest" or not retrieval.find_version_ids(engine.store, config.id if config else child.id, wanted)
    ):
        reason = "no generator can make it" if strategy == "latest" else f"nothing is stored that is {wanted}"
        yield Problem("child_not_available", f"{child.id} has no text: {reason}")
    if isinstance(child, ArtifactChild) and child.review_required and config is not None and not is_approved(config):
        message = f"{child.id} asks for a review, and neither it nor all of its elements are approved"
        yield Problem("review_pending", message, severity="warning")


def knows_generator(engine: Engine, config: ContentConfig) -> bool:
    """Whether there is a generator for a content."""
    name = generator_name(config)
    return name is not None and name in engine.generators.by_name


async def check_coherence(case: CheckCase) -> list[Problem]:
    """No child, position or output stands twice, and outputs go where they may."""
    children = _children(case)
    config, engine = case.subject.config, case.subject.engine
    problems: list[Problem] = []
    for name in _twice(child.id for child in children):
        problems.append(Problem("duplicate_child", f"{name} is a child twice", "children", {"content_id": name}))
    # An order that isn't written is 0 for everybody and means: as they stand.
    for order in _twice(child.order for child in children if child.order):
        named = [child.id for child in children if child.order == order]
        message = f"{', '.join(named)} have the order {order:g}, so they stay as they stand in the config"
        problems.append(Problem("duplicate_order", message, "children", {"order": order, "content_ids": named}))
    if isinstance(config, ArtifactConfig):
        paths: list[str] = []
        for index, output in enumerate(config.metadata.outputs):
            try:
                paths.append(check_output_path(engine, output.file))
            except ChoraError as error:
                place = f"metadata.outputs[{index}]"
                problems.append(Problem("invalid_output", error.message.removesuffix("."), place, severity="error"))
        for path in _twice(paths):
            message = f"{path} is an output twice"
            problems.append(
                Problem("duplicate_output", message, "metadata.outputs", {"output_path": path}, severity="error")
            )
    return problems


def _twice(values: Iterator[T] | list[T]) -> list[T]:
    return [value for value, count in Counter(values).items() if count > 1]


# -- the shelf --------------------------------------------------------------------------------------------------


def _of_texts(check: TextCheck) -> Callable[[CheckCase], Awaitable[list[Problem]]]:
    """The check, made on every text that a rule looks at."""

    async def check_pieces(case: CheckCase) -> list[Problem]:
        return [problem for piece in await case.pieces() for problem in await check(case, piece)]

    return check_pieces


CHECKS: dict[str, Callable[[CheckCase], Awaitable[list[Problem]]]] = {
    "presence": _of_texts(check_presence),
    "length": _of_texts(check_length),
    "format": _of_texts(check_format),
    "syntax": _of_texts(check_syntax),
    "lint": _of_texts(check_lint),
    "regex": _of_texts(check_regex),
    "links": _of_texts(check_links),
    "schema": _of_texts(check_schema),
    "required_fields": check_required_fields,
    "completeness": check_completeness,
    "coherence": check_coherence,
}

_CUSTOM = ("custom", "custom_check")


async def run_rule(subject: ValidationSubject, rule: ValidationRule) -> list[Problem]:
    """Check one rule.

    Raises:
        ValidationExecutionFailed: it can't be checked at all.
        Busy, StorageError: the house is at fault.
    """
    if rule.type in _CUSTOM and (named := rule.config.get("type") or rule.config.get("check_type")) in CHECKS:
        rule = rule._replace(type=str(named))
    check = CHECKS.get(rule.type)
    if check is None:
        message = f"there is no rule {rule.type[:80]!r}, so it wasn't checked; write one of {', '.join(CHECKS)}"
        return [Problem("unknown_rule_type", message, None, {"rule_type": rule.type[:80]}, "warning")]
    try:
        return await check(CheckCase(subject, rule))
    except MalformedRule as error:
        message = f"the rule {rule.type} doesn't fit: {error}"
        return [Problem("invalid_rule", message, None, {"rule_type": rule.type}, "error")]
    except TargetMissing as error:
        code = "content_missing" if rule.type == "presence" else "target_not_found"
        return [Problem(code, str(error), rule.target or None, {"target": rule.target})]
    except ContentNotGenerated as error:
        return [Problem("not_generated", str(error), rule.target or None, {"rule_type": rule.type}, "warning")]
    except RenderFailed as failure:
        raise cannot_run(rule, failure.reason.message) from None
    except LimitExceeded as error:
        raise cannot_run(rule, error.message) from None


def _shown(value: Any) -> str:
    return repr(value)[:80]
