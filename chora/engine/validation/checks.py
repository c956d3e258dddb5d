"""The registry of checks: one function for each type of validation rule, listed in `CHECKS`.

A check takes its `RuleContext` and returns its findings. Work that takes an unbounded time runs in another process:
patterns, languages and schemas in the template workers, linters as processes of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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


def _for_each_text(check: TextCheck) -> Callable[[RuleContext], Awaitable[list[RuleFinding]]]:
    """The check, applied to every text that a rule is about."""

    async def check_texts(context: RuleContext) -> list[RuleFinding]:
        return [finding for piece in await context.find_texts() for finding in await check(context, piece)]

    return check_texts


CHECKS: dict[str, Callable[[RuleContext], Awaitable[list[RuleFinding]]]] = {
    "presence": _for_each_text(check_presence),
    "length": _for_each_text(check_length),
    "format": _for_each_text(check_format),
    "syntax": _for_each_text(check_syntax),
    "lint": _for_each_text(check_lint),
    "regex": _for_each_text(check_regex),
    "links": _for_each_text(check_links),
    "schema": _for_each_text(check_schema),
    "required_fields": check_required_fields,
    "completeness": check_completeness,
    "coherence": check_coherence,
}

_CUSTOM = ("custom", "custom_check")


async def run_rule(subject: ValidationSubject, rule: ValidationRule) -> list[RuleFinding]:
    """Check one rule.

    Raises:
        ValidationExecutionFailed: it can't be checked at all.
        Busy, StorageError: the server is at fault.
    """
    if rule.type in _CUSTOM and (named := rule.config.get("type") or rule.config.get("check_type")) in CHECKS:
        rule = rule._replace(type=str(named))
    check = CHECKS.get(rule.type)
    if check is None:
        message = f"there is no rule {rule.type[:80]!r}, so it wasn't checked; write one of {', '.join(CHECKS)}"
        return [RuleFinding("unknown_rule_type", message, None, {"rule_type": rule.type[:80]}, "warning")]
    try:
        return await check(RuleContext(subject, rule))
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
