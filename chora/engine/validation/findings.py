"""Validates a text, the config it was generated from, or a collection and its members.

Nothing is generated and nothing is written. What is wrong is a finding; an error is raised only for what can't be
validated at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from chora.config_parsing import Issue, parse_config
from chora.engine.building.build import Build
from chora.engine.validation.checks import run_rule
from chora.engine.validation.collections import validate_collection
from chora.engine.validation.rules import (
    ContentNotGenerated,
    RuleContext,
    RuleFinding,
    ValidationRule,
    ValidationSubject,
    cannot_run,
)
from chora.engine.validation.source_checks import ContentChecks
from chora.engine.validation.text_checks import check_declared_format
from chora.engine.validation.unused_fields import find_unused_fields
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    ValidationFailed,
)
from chora.model import (
    KINDS,
    ArtifactConfig,
    CollectionConfig,
    ContentConfig,
    Kind,
    Severity,
)
from chora.render import RenderFailed
from chora.sources.source import SERVER_ERRORS
from chora.store import Version
from chora.wording import as_sentence, quantity

SHORT_TEXT = 10
"""Characters below which a text is suspiciously short."""


class Finding(NamedTuple):
    """Something that is wrong, and how severe it is."""

    severity: Severity
    code: str
    message: str
    location: str | None
    details: dict[str, Any]


class ValidationReport(NamedTuple):
    """The findings about one text or config."""

    name: str
    findings: list[Finding]
    rule_count: int

    @property
    def valid(self) -> bool:
        return not self.count("error")

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)


# -- texts and configs ------------------------------------------------------------------------------------------


async def validate(
    build: Build, name: str, rules: Sequence[ValidationRule] = (), malformed: Sequence[RuleFinding] = ()
) -> ValidationReport:
    """Validate what has this id: a stored text and its config, else a config, else a draft.

    Args:
        build: a dry build.
        name: the id of a content, artifact or collection config, or of a draft.
        rules: checked besides those that the config declares.
        malformed: findings about rules that can't be parsed; reported with the rest.

    Raises:
        InvalidConfigId, ConfigNotFound: nothing has this id.
        ValidationExecutionFailed: a rule can't be checked at all.
        Busy, StorageError: the server is at fault.
    """
    engine = build.engine
    started = time.monotonic()
    rule_count = len(rules) + len(malformed)
    report: ValidationReport | None = None
    error_message: str | None = None
    error_code: str | None = None
    try:
        subject, parse_error = _find_subject(build, name)
        declared = _declared_rules(subject)
        rule_count += len(declared)
        findings = _schema_findings(parse_error) if parse_error else []
        findings += await _collect_findings(subject, [*declared, *rules])
        findings += [_with_severity(finding, "error") for finding in malformed]
        report = ValidationReport(name, findings, rule_count)
        worst = next((finding for finding in findings if finding.severity == "error"), None)
        error_message, error_code = (worst.message, worst.code) if worst else (None, None)
        return report
    except ChoraError as error:
        error_message, error_code = error.message, error.code
        raise
    finally:
        engine.events.emit_event(
            "validation_completed",
            "success" if report else "error",
            content_config_id=name,
            validation_passed=report is not None and report.valid,
            rule_count=rule_count,
            duration_ms=round((time.monotonic() - started) * 1000),
            error_code=error_code,
            error_message=error_message,
        )


def _find_subject(build: Build, name: str) -> tuple[ValidationSubject, ChoraError | None]:
    """What has this id, and the error if its config can't be parsed."""
    engine = build.engine
    engine.catalog.check_id(name)
    version = engine.store.latest_version(name)
    for kind in KINDS:
        try:
            return ValidationSubject(build, name, version, engine.catalog.find_config(kind, name).parsed), None
        except ConfigNotFound:
            continue
        except SERVER_ERRORS:
            raise
        except ChoraError as error:
            return ValidationSubject(build, name, version, None), error
    draft = engine.store.draft(name)
    if draft is not None:
        try:
            parsed = parse_config(cast(Kind, draft.config_type), draft.config_data, where=name)
        except ValidationFailed as error:
            return ValidationSubject(build, name, version, None), error
        return ValidationSubject(build, name, version, parsed), None
    if version is None:
        raise ConfigNotFound(
            f"There is no text, config or draft {name!r}.",
            engine.catalog.hint_for_missing(name, "content", "artifact")
            or "list_content_configs and list_artifact_configs list the configs.",
            content_or_config_id=name,
            **engine.catalog.describe_search(name, *KINDS),
        )
    return ValidationSubject(build, name, version, None), None


def _declared_rules(subject: ValidationSubject) -> list[ValidationRule]:
    """The rules that a config declares."""
    config = subject.config
    if not isinstance(config, ContentConfig | ArtifactConfig):
        return []
    return [
        ValidationRule(rule.check_type, rule.target, rule.check_config, rule.severity)
        for rule in config.validation.rules
    ]


async def _collect_findings(subject: ValidationSubject, rules: list[ValidationRule]) -> list[Finding]:
    found = [_from_config_issue(issue) for issue in subject.parsed.warnings] if subject.parsed else []
    match subject.config:
        case ContentConfig() as config:
            assert subject.parsed is not None
            faults = await ContentChecks(subject.build).check_content(subject.parsed)
            found += [_with_severity(finding, "error") for finding in faults]
            found += [_with_severity(finding, "info") for finding in find_unused_fields(config)]
        case ArtifactConfig():
            declared = {rule.type for rule in rules}
            usual = (ValidationRule("completeness"), ValidationRule("coherence", severity="warning"))
            rules = [*(rule for rule in usual if rule.type not in declared), *rules]
        case CollectionConfig():
            assert subject.parsed is not None
            for finding in (await validate_collection(subject.build, subject.parsed)).findings:
                found.append(Finding(finding.severity, finding.code, finding.message, finding.member_id, {}))
        case _:
            pass
    if subject.version is not None:
        found += [_with_severity(finding, "error") for finding in check_text(subject.version)]
    if all(rule.type != "format" for rule in rules):
        found += [_with_severity(finding, "error") for finding in await _check_declared_format(subject)]
    for rule in rules:
        found += [_with_severity(finding, rule.severity) for finding in await run_rule(subject, rule)]
    return found


async def _check_declared_format(subject: ValidationSubject) -> list[RuleFinding]:
    """Check the text, or the files, for the format that the config declares, as a rule would."""
    rule = ValidationRule("format")
    context = RuleContext(subject, rule)
    try:
        return [
            finding for piece in await context.find_texts() for finding in await check_declared_format(context, piece)
        ]
    except ContentNotGenerated:
        return []
    except RenderFailed as failure:
        raise cannot_run(rule, failure.reason.message) from None


def _with_severity(finding: RuleFinding, severity: Severity) -> Finding:
    message = as_sentence(finding.message)
    return Finding(finding.severity or severity, finding.code, message, finding.location, finding.details)


def _from_config_issue(issue: Issue) -> Finding:
    details = {"found": issue.found, "expected": issue.expected, "write": issue.write}
    return Finding(issue.severity, issue.code, issue.message, issue.path, details)


def _schema_findings(error: ChoraError) -> list[Finding]:
    """The findings for a config that can't be parsed."""
    schema_errors: list[dict[str, Any]] = error.details.get("schema_errors") or [{"message": error.message}]
    return [
        Finding(
            "error",
            "schema_validation_failed",
            schema_error.get("message", error.message),
            schema_error.get("path"),
            {key: value for key, value in schema_error.items() if key not in ("message", "path")},
        )
        for schema_error in schema_errors
    ]


def check_text(version: Version) -> Iterator[RuleFinding]:
    """Find what is suspicious in any text, whatever its rules."""
    text = version.body.strip()
    if not text:
        yield RuleFinding("content_empty", "the text is empty")
    elif len(text) < SHORT_TEXT:
        details = {"actual": len(text)}
        yield RuleFinding(
            "content_very_short", f"the text has {quantity(len(text), 'character')}", None, details, "warning"
        )
    if text.endswith(("...", "…")):
        yield RuleFinding("content_incomplete", "the text ends as if more were to come", severity="warning")
    if (place := version.body.find("[TBD]")) >= 0:
        line = version.body.count("\n", 0, place) + 1
        yield RuleFinding("content_incomplete", "the text holds [TBD]", f"line {line}", {"line": line}, "warning")
