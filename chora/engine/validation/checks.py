"""The registry of checks: one function for each type of validation rule, and the options it knows, in `CHECKS`.

A check takes its `RuleContext` and returns its findings. Work that takes an unbounded time runs in another process:
patterns, languages and schemas in the template workers, linters as processes of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from chora.wording import find_nearest


def _for_each_text(check: TextCheck) -> Callable[[RuleContext], Awaitable[list[RuleFinding]]]:
    """The check, applied to every text that a rule is about."""

    async def check_texts(context: RuleContext) -> list[RuleFinding]:
        return [finding for piece in await context.find_texts() for finding in await check(context, piece)]

    return check_texts


class Check(NamedTuple):
    """What a type of rule does, and the options that it knows; a rule with another option isn't checked."""

    run: Callable[[RuleContext], Awaitable[list[RuleFinding]]]
    options: tuple[str, ...] = ()


CHECKS: dict[str, Check] = {
    "presence": Check(_for_each_text(check_presence)),
    "length": Check(_for_each_text(check_length), ("min", "max", "min_length", "max_length")),
    "format": Check(_for_each_text(check_format), ("format", "language")),
    "syntax": Check(_for_each_text(check_syntax), ("language", "format")),
    "lint": Check(_for_each_text(check_lint), ("linter", "options", "filename")),
    "regex": Check(_for_each_text(check_regex), ("pattern", "must_match", "must_not_match", "flags")),
    "links": Check(_for_each_text(check_links), ("base",)),
    "schema": Check(_for_each_text(check_schema), ("schema", "schema_file")),
    "required_fields": Check(check_required_fields, ("fields",)),
    "completeness": Check(check_completeness),
    "coherence": Check(check_coherence),
}

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
        rule = rule._replace(type=str(named), config=options) if named in CHECKS else rule
    check = CHECKS.get(rule.type)
    if check is None:
        # Never a warning: who asks for a check that isn't there would take "valid" for its answer.
        near = find_nearest(rule.type, CHECKS, 1)
        meant = f"did you mean {near[0]}? There are" if near else "write one of"
        message = f"there is no rule {rule.type[:80]!r}, so it wasn't checked; {meant} {', '.join(CHECKS)}"
        return [RuleFinding("unknown_rule_type", message, None, {"rule_type": rule.type[:80]}, "error")]
    try:
        _check_options(rule, check.options)
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
