"""Checks of a text: presence, length, format, syntax, patterns, linters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from chora.engine.validation import lint
from chora.engine.validation.rules import CheckedText, MalformedRule, RuleContext, RuleFinding, cannot_run
from chora.render import CheckJob, MatchJob, RenderFailed
from chora.render.validation import FINDINGS_LIMIT, LANGUAGES
from chora.wording import quantity

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
UNCHECKED = frozenset({"javascript", "typescript", "js", "ts", "code", "binary", "test_results"})
"""Formats that can't be checked without running something."""


TextCheck = Callable[[RuleContext, CheckedText], Awaitable[list[RuleFinding]]]


async def check_presence(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """There is something."""
    if piece.text.strip():
        return []
    return [RuleFinding("content_missing", f"{piece.name or context.subject.name} is empty", piece.location())]


async def check_length(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """`min` and `max` characters, or `min_length` and `max_length`."""
    least, most = (_whole_number(context, *names) for names in (("min", "min_length"), ("max", "max_length")))
    if least is None and most is None:
        raise MalformedRule("neither min nor max says how long the text is to be")
    if least is not None and most is not None and least > most:
        raise MalformedRule(f"min is {least}, and max is {most}")
    actual = len(piece.text)
    if least is not None and actual < least:
        message = f"it has {quantity(actual, 'character')}, and {least} are required"
        return [RuleFinding("content_too_short", message, piece.location(), {"actual": actual, "required": least})]
    if most is not None and actual > most:
        message = f"it has {quantity(actual, 'character')}, and {most} are allowed"
        return [RuleFinding("content_too_long", message, piece.location(), {"actual": actual, "limit": most})]
    return []


def _whole_number(context: RuleContext, *names: str) -> int | None:
    value = context.option(*names)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedRule(f"{names[0]} is {_shown(value)}, and not a whole number from 0 on")
    return value


async def check_format(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """The text is of its format: `format`, else the one that the config declares."""
    return await _check_language(context, piece, "format_mismatch", ("format", "language"))


async def check_declared_format(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """The text is of the format that its config declares; nothing if it declares none that can be checked."""
    word = (piece.format or "").strip().lower()
    if _OTHER_NAMES.get(word, word) not in LANGUAGES:
        return []
    return await _check_language(context, piece, "format_mismatch", ())


async def check_syntax(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """The text can be parsed: `language`, else the format that the config declares."""
    return await _check_language(context, piece, "syntax_error", ("language", "format"))


async def _check_language(
    context: RuleContext, piece: CheckedText, code: str, names: tuple[str, ...]
) -> list[RuleFinding]:
    written = (context.option(*names) if names else None) or piece.format
    if not isinstance(written, str):
        raise MalformedRule(f"{names[0]} isn't given, and the config declares none")
    word = written.strip().lower()
    language = _OTHER_NAMES.get(word, word)
    details: dict[str, Any] = {"format": language}
    if language in _ANYTHING:
        return []
    if language in UNCHECKED:
        message = f"texts of the format {language} aren't checked"
        return [RuleFinding("format_not_checked", message, piece.location(), details, "info")]
    if language not in LANGUAGES:
        raise MalformedRule(f"{written[:80]!r} is no format; write one of {', '.join([*LANGUAGES, 'text'])}")
    found = await context.subject.engine.templates.pool.check_text(
        CheckJob(language, piece.text, f"a text of {language}")
    )
    return [
        RuleFinding(
            code,
            f"it is not {language}: {finding.message}",
            piece.location(finding.line),
            {**details, "line": finding.line, "column": finding.column},
        )
        for finding in found.findings
    ]


async def check_regex(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """`pattern` occurs, or with `must_not_match` doesn't; `flags` are some of `aimsx`."""
    flags = context.option("flags") or ""
    findings: list[RuleFinding] = []
    for pattern, wanted in _patterns(context):
        try:
            job = MatchJob(pattern, piece.text, str(flags), f"the pattern {pattern[:80]}")
            place = (await context.subject.engine.templates.pool.match_pattern(job)).index
        except RenderFailed as failure:
            if failure.reason.kind != "syntax":
                raise
            raise MalformedRule(f"the pattern {pattern[:80]!r} doesn't fit: {failure.reason.message}") from None
        details: dict[str, Any] = {"pattern": pattern}
        if wanted and place is None:
            findings.append(
                RuleFinding("pattern_not_found", f"{pattern[:80]!r} matches nothing", piece.location(), details)
            )
        elif not wanted and place is not None:
            line = piece.text.count("\n", 0, place) + 1
            message = f"{pattern[:80]!r} matches, and must not"
            findings.append(RuleFinding("pattern_found", message, piece.location(line), {**details, "line": line}))
    return findings


def _patterns(context: RuleContext) -> Iterator[tuple[str, bool]]:
    """The patterns of a rule, and whether each is to match."""
    caller = context.rule.config
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


async def check_lint(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """A linter finds nothing: `linter`, with `options`, with `filename` as the name of the text."""
    name, filename = context.option("linter"), context.option("filename")
    if not isinstance(name, str):
        raise MalformedRule("linter says no program")
    settings = context.subject.engine.settings.validation
    if name not in settings.linters:
        message = f"the linter {name[:80]!r} isn't one of those that the setting validation.linters names"
        return [RuleFinding("linter_not_allowed", message, piece.location(), {"linter": name[:80]}, "error")]
    if (program := lint.find_linter(name)) is None:
        message = f"{name} isn't on PATH, so nothing was linted"
        return [RuleFinding("linter_unavailable", message, piece.location(), {"linter": name}, "warning")]
    try:
        options = lint.read_options(name, context.rule.config.get("options"))
        usual = PurePosixPath(piece.name).name if "/" in piece.name else "text.py" if name == "ruff" else "text"
        findings = await lint.run_linter(
            name, program, options, piece.text, settings.lint_time, usual if filename is None else str(filename)
        )
    except lint.OptionsRefused as error:
        raise MalformedRule(str(error)) from None
    except lint.LinterFailed as error:
        raise cannot_run(context.rule, str(error)) from None
    return [
        RuleFinding(
            "lint_finding",
            finding.message,
            piece.location(finding.line),
            {"linter": name, "line": finding.line, "column": finding.column},
        )
        for finding in findings[:FINDINGS_LIMIT]
    ]


def _shown(value: Any) -> str:
    return repr(value)[:80]
