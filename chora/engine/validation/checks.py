"""The registry of checks: what a validation rule can ask for, one function each, named in `CHECKS`.

A check takes its `CheckCase` and returns the problems it finds. Work whose time others decide runs elsewhere: patterns,
languages and schemas in the template workers, linters as processes of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from chora.engine.validation.child_checks import check_coherence, check_completeness
from chora.engine.validation.data_checks import check_required_fields, check_schema
from chora.engine.validation.link_checks import check_links
from chora.engine.validation.rules import (
    CheckCase,
    ContentNotGenerated,
    MalformedRule,
    Problem,
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
        Busy, StorageError: the server is at fault.
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
