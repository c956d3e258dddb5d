"""The registry of checks: one function for each type of validation rule, and the options it knows, in `CHECKS`.

A check takes its `RuleContext` and returns its findings. Work that takes an unbounded time runs in another process:
patterns, languages and schemas in the template workers, linters as processes of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from chora.engine.validation.child_checks import check_coherence, check_completeness
from chora.engine.validation.data_checks import check_required_fields, check_schema
from chora.engine.validation.link_checks import check_links
from chora.engine.validation.rules import (
    ContentNotGenerated,
    MalformedRule,
    RuleContext,
    RuleFinding,
    TargetMissing,
    ValidationRule,
    ValidationSubject,
    cannot_run,
)
from chora.engine.validation.text_checks import (
    TextCheck,
    check_format,
    check_length,
    check_lint,
    check_presence,
    check_regex,
    check_syntax,
)
from chora.errors import LimitExceeded
from chora.render import RenderFailed
from chora.render.validation import LANGUAGES
from chora.wording import find_nearest


def _for_each_text(check: TextCheck) -> Callable[[RuleContext], Awaitable[list[RuleFinding]]]:
    """The check, applied to every text that a rule is about."""

    async def check_texts(context: RuleContext) -> list[RuleFinding]:
        return [finding for piece in await context.find_texts() for finding in await check(context, piece)]

    return check_texts


class Check(NamedTuple):
    """What a type of rule requires, and the options that it knows; a rule with another option isn't checked."""

    run: Callable[[RuleContext], Awaitable[list[RuleFinding]]]
    description: str
    options: Mapping[str, str] = MappingProxyType({})
    """What each option says."""


CHECKS: dict[str, Check] = {
    "presence": Check(_for_each_text(check_presence), "There is a text, and it isn't blank."),
    "length": Check(
        _for_each_text(check_length),
        "The text has so many characters.",
        {
            "min": "Least number of characters",
            "max": "Greatest number of characters; one of the two is needed",
            "min_length": "Another name of min",
            "max_length": "Another name of max",
        },
    ),
    "format": Check(
        _for_each_text(check_format),
        "The text is of its format.",
        {
            "format": f"One of {', '.join(LANGUAGES)}, or text; without it the format that the config declares",
            "language": "Another name of format",
        },
    ),
    "syntax": Check(
        _for_each_text(check_syntax),
        "The text can be parsed; its findings are syntax_error, those of format are format_mismatch.",
        {"language": "As format above", "format": "Another name of language"},
    ),
    "lint": Check(
        _for_each_text(check_lint),
        "A linter finds nothing. It is run only if the setting validation.linters names it.",
        {
            "linter": "The program, such as ruff or yamllint; required",
            "options": "A text or a list: for ruff --select, --ignore and --line-length, for yamllint -d; others are "
            "refused",
            "filename": "The name of the text for the linter, such as app.py",
        },
    ),
    "regex": Check(
        _for_each_text(check_regex),
        "A regular expression occurs in the text, or doesn't.",
        {
            "pattern": "A regular expression of Python that must occur",
            "must_match": "Another expression that must occur; or false, and pattern mustn't",
            "must_not_match": "An expression that mustn't occur; or true, and pattern mustn't",
            "flags": "Letters of Python's flags, such as im: a, i, m, s, x",
        },
    ),
    "links": Check(
        _for_each_text(check_links),
        "Relative Markdown links lead to files of the project, and #anchors to headings of the text.",
        {"base": "The folder that relative links begin at; without it that of the file, or the project"},
    ),
    "schema": Check(
        _for_each_text(check_schema),
        "The text is JSON or YAML that fits a JSON Schema.",
        {
            "schema": "The JSON Schema, or the path of a file of the project that holds it",
            "schema_file": "The path of such a file",
        },
    ),
    "required_fields": Check(
        check_required_fields,
        "Names have a value: in a text that is JSON or YAML, else in the config.",
        {"fields": "A name such as metadata.version, or a list of them; required"},
    ),
    "completeness": Check(
        check_completeness,
        "Every child has a config, and a text that is stored or can be generated, and they can be composed.",
    ),
    "coherence": Check(
        check_coherence, "No child, order or output stands twice, and outputs go where they may be written."
    ),
}
"""By the type of the rule; `custom` and `custom_check` name another one as `type` in their options."""

_CUSTOM = ("custom", "custom_check")


async def run_rule(subject: ValidationSubject, rule: ValidationRule) -> list[RuleFinding]:
    """Check one rule.

    Raises:
        ValidationExecutionFailed: it can't be checked at all.
        Busy, StorageError: the server is at fault.
    """
    if rule.type in _CUSTOM:
        options = dict(rule.config)
        named = options.pop("type", None) or options.pop("check_type", None)
        if named is None:
            message = f"the rule {rule.type} names no rule: `type` in its options is one of {', '.join(CHECKS)}"
            return [RuleFinding("unknown_rule_type", message, None, {"rule_type": rule.type}, "error")]
        rule = rule._replace(type=str(named), config=options)
    check = CHECKS.get(rule.type)
    if check is None:
        # Never a warning: who asks for a check that isn't there would take "valid" for its answer.
        near = find_nearest(rule.type, CHECKS, 1)
        meant = f"did you mean {near[0]}? There are" if near else "write one of"
        message = f"there is no rule {rule.type[:80]!r}, so it wasn't checked; {meant} {', '.join(CHECKS)}"
        return [RuleFinding("unknown_rule_type", message, None, {"rule_type": rule.type[:80]}, "error")]
    try:
        _check_options(rule, tuple(check.options))
        return await check.run(RuleContext(subject, rule))
    except MalformedRule as error:
        message = f"the rule {rule.type} doesn't fit: {error}"
        return [RuleFinding("invalid_rule", message, None, {"rule_type": rule.type}, "error")]
    except TargetMissing as error:
        code = "content_missing" if rule.type == "presence" else "target_not_found"
        return [RuleFinding(code, str(error), rule.target or None, {"target": rule.target})]
    except ContentNotGenerated as error:
        return [RuleFinding("not_generated", str(error), rule.target or None, {"rule_type": rule.type}, "warning")]
    except RenderFailed as failure:
        raise cannot_run(rule, failure.reason.message) from None
    except LimitExceeded as error:
        raise cannot_run(rule, error.message) from None


def _check_options(rule: ValidationRule, known: tuple[str, ...]) -> None:
    """Refuse options that the check doesn't know: a rule with a misspelt one would find nothing.

    Raises:
        MalformedRule: there is one.
    """
    for name in rule.config:
        if name not in known:
            near = find_nearest(name, known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            options = f"it takes {', '.join(known)}" if known else "it takes none"
            raise MalformedRule(f"{name[:80]!r} is not an option of {rule.type}; {meant}{options}")
