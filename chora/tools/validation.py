"""Tools that validate configs and texts, and check how old a collection is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import msgspec
from msgspec import Meta, Struct

from chora.engine import freshness
from chora.engine.building import collection
from chora.engine.building.build import Build
from chora.engine.engine import Engine
from chora.engine.manifest import read_manifest
from chora.engine.validation import findings
from chora.engine.validation.checks import CHECKS
from chora.engine.validation.collections import MemberFinding, validate_collection
from chora.engine.validation.rules import RuleFinding, ValidationRule
from chora.errors import InvalidContext, InvalidInput
from chora.leniency import is_unset
from chora.model import CollectionConfig, Severity
from chora.nesting import decode_json
from chora.protocol.types import Call
from chora.timestamps import format_timestamp
from chora.tools.collection import BasePath, CollectionPath, find_collection
from chora.tools.paging import ROWS, Limit, Offset, Page
from chora.tools.tool import ToolArguments, ToolResult, milliseconds_since, parse_object, tool
from chora.wording import cut_texts

RULES_LIMIT = 100
"""Rules in one call."""
ISSUES_SHOWN = 100
"""Issues in a result, the most severe first; the command line gets all of them."""

T = TypeVar("T", findings.Finding, MemberFinding)

_RULE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "What is checked", "enum": list(CHECKS)},
        "severity": {
            "type": "string",
            "description": 'How bad a finding is (default "error")',
            "enum": list(get_args(Severity)),
        },
        "target": {"type": "string", "description": "A part, such as element.intro, instead of the whole"},
        "config": {
            "type": "object",
            "description": "Options. length: min, max; format: format; syntax: language; regex: pattern, flags; lint: "
            "linter, filename, options; links: base; schema: schema or schema_file; required_fields: fields",
        },
    },
    "required": ["type"],
}
ValidationRules = Annotated[
    Any,
    Meta(
        description="Rules to check besides those of the config",
        extra_json_schema={"type": "array", "items": _RULE_SCHEMA},
    ),
]


class ValidateContent(ToolArguments):
    content_or_config_id: Annotated[str, Meta(description="Id of a content, an artifact or a draft")]
    validation_rules: ValidationRules = None


class ValidationIssue(Struct, frozen=True, kw_only=True):
    severity: Severity
    code: str
    message: str
    location: str | None
    details: dict[str, Any]


class ValidatedContent(ToolResult):
    content_or_config_id: str
    valid: bool
    issues: list[ValidationIssue]
    error_count: int
    warning_count: int
    info_count: int
    rule_count: int
    truncated: bool
    duration_ms: int


@tool(title="Validate content", category="Validation", read_only=True, idempotent=True, long=True)
async def validate_content(engine: Engine, arguments: ValidateContent, call: Call) -> ValidatedContent:
    """Check a stored text and the config it is made from; `valid` means that no issue is an error."""
    started = time.monotonic()
    rules, malformed = parse_rules(arguments.validation_rules)
    found = await findings.validate(Build(engine, dry=True), arguments.content_or_config_id, rules, malformed)
    shown = _most_severe(found.findings, call)
    return ValidatedContent(
        content_or_config_id=found.name,
        valid=found.valid,
        issues=[ValidationIssue(**cut_texts(finding._asdict())) for finding in shown],
        error_count=found.count("error"),
        warning_count=found.count("warning"),
        info_count=found.count("info"),
        rule_count=found.rule_count,
        truncated=len(shown) < len(found.findings),
        duration_ms=milliseconds_since(started),
    )


def _most_severe(found: Sequence[T], call: Call) -> Sequence[T]:
    """All findings; of very many, the most severe ones."""
    if call.transport == "cli" or len(found) <= ISSUES_SHOWN:
        return found
    return sorted(found, key=lambda finding: get_args(Severity).index(finding.severity))[:ISSUES_SHOWN]


def parse_rules(value: Any) -> tuple[list[ValidationRule], list[RuleFinding]]:
    """The rules of a call, and findings about those that can't be parsed.

    Raises:
        InvalidInput: they aren't a list, or too many.
    """
    if isinstance(value, str):
        try:
            value = decode_json(value) if value.strip() else []
        except msgspec.DecodeError as error:
            raise _invalid_rules(f"is a string that is not JSON: {error}") from None
    listed = [] if is_unset(value) else cast("list[object]", value)
    if not isinstance(listed, list):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _invalid_rules("is not a list")
    if len(listed) > RULES_LIMIT:
        raise _invalid_rules(f"has {len(listed)} rules, and {RULES_LIMIT} are allowed")
    rules: list[ValidationRule] = []
    malformed: list[RuleFinding] = []
    for index, written in enumerate(listed):
        try:
            rules.append(_parse_rule(written))
        except ValueError as error:
            message = f"validation_rules[{index}] is not a rule: {error}"
            malformed.append(RuleFinding("invalid_rule", message, f"validation_rules[{index}]"))
    return rules, malformed


def _invalid_rules(problem: str) -> InvalidInput:
    return InvalidInput(
        f"validation_rules {problem}.",
        'Pass a list such as [{"type": "length", "config": {"min": 100}}].',
        field="validation_rules",
    )


def _parse_rule(written: object) -> ValidationRule:
    """Parse a rule in the form of a call or of a config; its options may also stand beside its type."""
    if not isinstance(written, dict):
        raise ValueError("it is not an object")
    beside = dict(cast("dict[str, Any]", written))
    kind = beside.pop("type", None) or beside.pop("check_type", None)
    severity = beside.pop("severity", None) or "error"
    target = beside.pop("target", None) or ""
    beside.pop("id", None)
    if not isinstance(kind, str):
        raise ValueError("it has no type")
    if severity not in get_args(Severity):
        raise ValueError(f"its severity is none of {', '.join(get_args(Severity))}")
    if not isinstance(target, str):
        raise ValueError("its target is not a string")
    try:
        options = parse_object(beside.pop("config", None) or beside.pop("check_config", None), "config")
    except InvalidContext as error:
        raise ValueError(error.message.removesuffix(".")) from None
    return ValidationRule(kind, target, {**beside, **options}, severity)


# -- collections ------------------------------------------------------------------------------------------------


class ValidateCollectionConfig(ToolArguments):
    collection_config_path: CollectionPath
    check_member_configs: Annotated[bool, Meta(description="Also check the configs of the members")] | None = True


class MemberIssue(Struct, frozen=True, kw_only=True):
    severity: Severity
    code: str
    message: str
    member_id: str | None


class ConfigMetadata(Struct, frozen=True, kw_only=True):
    total_members: int
    missing_configs: list[str]
    depth: int


class ValidatedCollection(ToolResult):
    collection_id: str
    valid: bool
    issues: list[MemberIssue]
    error_count: int
    warning_count: int
    truncated: bool
    metadata: ConfigMetadata


@tool(title="Validate a collection config", category="Collections", read_only=True, idempotent=True, long=True)
async def validate_collection_config(
    engine: Engine, arguments: ValidateCollectionConfig, call: Call
) -> ValidatedCollection:
    """Check a collection config and the configs of its members, nested ones too, without building anything."""
    parsed = find_collection(engine, arguments.collection_config_path).parsed
    check_members = arguments.check_member_configs is not False
    found = await validate_collection(Build(engine, dry=True), parsed, check_members=check_members)
    shown = _most_severe(found.findings, call)
    return ValidatedCollection(
        collection_id=parsed.config.id,
        valid=not found.count("error"),
        issues=[MemberIssue(**cut_texts(finding._asdict())) for finding in shown],
        error_count=found.count("error"),
        warning_count=found.count("warning"),
        truncated=len(shown) < len(found.findings),
        metadata=ConfigMetadata(
            total_members=found.total,
            missing_configs=list(found.missing if call.transport == "cli" else found.missing[:ISSUES_SHOWN]),
            depth=found.depth,
        ),
    )


# -- freshness --------------------------------------------------------------------------------------------------


class CheckFreshness(ToolArguments):
    collection_config_path: CollectionPath
    output_path: BasePath | None = None
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class MemberAge(Struct, frozen=True, kw_only=True):
    member_id: str
    generated_at: str | None
    age_days: float | None
    max_age_days: float
    freshness_status: Literal["fresh", "stale", "expired"]
    expires_at: str | None
    threshold_percentage: Annotated[float, Meta(description="Age in per cent of the maximum age")] | None
    expires_in_days: float | None
    expired_by_days: float | None


class AgeMetadata(Struct, frozen=True, kw_only=True):
    oldest_age_days: float | None
    newest_age_days: float | None
    average_age_days: float | None
    manifest_path: str | None


class CollectionFreshness(ToolResult):
    collection_id: str
    freshness_enabled: bool
    overall_status: Literal["fresh", "stale", "expired"]
    members: list[MemberAge]
    next_offset: int | None
    fresh_count: int
    stale_count: int
    expired_count: int
    recommendation: Literal["all_fresh", "regenerate_stale", "regenerate_expired"]
    action: Literal["no_action", "schedule_regeneration", "regenerate_immediately"]
    checked_at: str
    metadata: AgeMetadata


@tool(title="Check a collection's freshness", category="Validation", read_only=True, idempotent=True)
async def check_freshness(engine: Engine, arguments: CheckFreshness, call: Call) -> CollectionFreshness:
    """Report the age of a collection's members against their maximum age. Whether inputs changed is reported by
    check_collection_cache.
    """
    page = Page(arguments.limit, arguments.offset, call)
    parsed = find_collection(engine, arguments.collection_config_path).parsed
    config: CollectionConfig = parsed.config
    moment = datetime.now(UTC)
    ages: list[freshness.Age] = []
    manifest_path = None
    if config.freshness.enabled:
        manifest_path = await collection.find_manifest_path(Build(engine, dry=True), parsed, arguments.output_path)
        ages = freshness.member_ages(config, read_manifest(engine, config, manifest_path), moment)
    counts = {band: sum(age.band == band for age in ages) for band in ("fresh", "stale", "expired")}
    worst: Literal["fresh", "stale", "expired"] = (
        "expired" if counts["expired"] else "stale" if counts["stale"] else "fresh"
    )
    known = [age.age_days for age in ages if age.age_days is not None]
    return CollectionFreshness(
        collection_id=config.id,
        freshness_enabled=config.freshness.enabled,
        overall_status=worst,
        members=[_member_age(age) for age in page.of(ages)],
        next_offset=page.next_offset(len(ages)),
        fresh_count=counts["fresh"],
        stale_count=counts["stale"],
        expired_count=counts["expired"],
        recommendation={"fresh": "all_fresh", "stale": "regenerate_stale", "expired": "regenerate_expired"}[worst],  # pyright: ignore[reportArgumentType]
        action={"fresh": "no_action", "stale": "schedule_regeneration", "expired": "regenerate_immediately"}[worst],  # pyright: ignore[reportArgumentType]
        checked_at=format_timestamp(moment),
        metadata=AgeMetadata(
            oldest_age_days=_rounded(max(known, default=None)),
            newest_age_days=_rounded(min(known, default=None)),
            average_age_days=_rounded(sum(known) / len(known) if known else None),
            manifest_path=manifest_path,
        ),
    )


def _member_age(age: freshness.Age) -> MemberAge:
    left = None if age.age_days is None else age.max_age_days - age.age_days
    return MemberAge(
        member_id=age.member_id,
        generated_at=age.generated_at,
        age_days=_rounded(age.age_days),
        max_age_days=age.max_age_days,
        freshness_status=age.band,
        expires_at=age.expires_at,
        threshold_percentage=None if age.age_days is None else round(100 * age.age_days / age.max_age_days, 1),
        expires_in_days=_rounded(left) if left is not None and left > 0 else None,
        expired_by_days=_rounded(-left) if left is not None and left <= 0 else None,
    )


def _rounded(days: float | None) -> float | None:
    return None if days is None else round(days, 4)
