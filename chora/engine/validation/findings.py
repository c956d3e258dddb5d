"""Validating a text, the config it was generated from, or a collection and its members.

Nothing is generated and nothing is written. What is wrong is a finding; only what can't be validated is an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from chora.config_parsing import Issue, parse_config
from chora.engine.building.build import Build
from chora.engine.building.gather import generator_name
from chora.engine.validation.checks import run_rule
from chora.engine.validation.collections import validate_collection
from chora.engine.validation.rules import Problem, ValidationRule, ValidationSubject
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    GenerationFailed,
    LimitExceeded,
    PermissionDenied,
    ValidationFailed,
)
from chora.generators.generator import GenerationJob
from chora.model import (
    KINDS,
    ArtifactConfig,
    CollectionConfig,
    ContentConfig,
    Kind,
    Severity,
)
from chora.sources.source import SERVER_ERRORS
from chora.store import Version

SHORT_TEXT = 10
"""Characters below which a text is suspiciously short."""


class Finding(NamedTuple):
    """One problem, and its severity."""

    severity: Severity
    code: str
    message: str
    location: str | None
    details: dict[str, Any]


class Findings(NamedTuple):
    """Everything that is wrong with one subject."""

    name: str
    issues: list[Finding]
    rule_count: int

    @property
    def valid(self) -> bool:
        return not self.count("error")

    def count(self, severity: Severity) -> int:
        return sum(issue.severity == severity for issue in self.issues)


# -- texts and configs ------------------------------------------------------------------------------------------


async def validate(
    build: Build, name: str, rules: Sequence[ValidationRule] = (), malformed: Sequence[Problem] = ()
) -> Findings:
    """Validate what has a name: the stored text and its config, else a config, else a draft.

    Args:
        build: a dry build.
        name: the id of a content, artifact or collection config, or of a draft.
        rules: checked besides those that the config declares.
        malformed: what is wrong with further rules; reported with the rest.

    Raises:
        InvalidConfigId, ConfigNotFound: nothing has this name.
        ValidationExecutionFailed: a rule can't be checked at all.
        Busy, StorageError: the server is at fault.
    """
    engine = build.engine
    started = time.monotonic()
    rule_count = len(rules) + len(malformed)
    findings: Findings | None = None
    error_message: str | None = None
    try:
        subject, fault = _find(build, name)
        declared = _declared(subject)
        rule_count += len(declared)
        issues = _schema_findings(fault) if fault else []
        issues += await _findings(subject, [*declared, *rules])
        issues += [_finding(problem, "error") for problem in malformed]
        findings = Findings(name, issues, rule_count)
        error_message = next((issue.message for issue in issues if issue.severity == "error"), None)
        return findings
    except ChoraError as error:
        error_message = error.message
        raise
    finally:
        engine.events.emit_event(
            "validation_completed",
            "success" if findings else "error",
            content_config_id=name,
            validation_passed=findings is not None and findings.valid,
            rule_count=rule_count,
            duration_ms=round((time.monotonic() - started) * 1000),
            error_message=error_message,
        )


def _find(build: Build, name: str) -> tuple[ValidationSubject, ChoraError | None]:
    """What has a name, and why its config can't be parsed if it can't."""
    engine = build.engine
    engine.catalog.check_id(name)
    version = engine.store.latest_version(name)
    searched: list[str] = []
    for kind in KINDS:
        try:
            return ValidationSubject(build, name, version, engine.catalog.find_config(kind, name).parsed), None
        except ConfigNotFound as error:
            searched += error.details["searched_paths"]
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
            "list_content_configs and list_artifact_configs show every config.",
            content_or_config_id=name,
            searched_paths=searched,
        )
    return ValidationSubject(build, name, version, None), None


def _declared(subject: ValidationSubject) -> list[ValidationRule]:
    """The rules that a config declares."""
    config = subject.config
    if not isinstance(config, ContentConfig | ArtifactConfig):
        return []
    return [
        ValidationRule(rule.check_type, rule.target, rule.check_config, rule.severity)
        for rule in config.validation.rules
    ]


async def _findings(subject: ValidationSubject, rules: list[ValidationRule]) -> list[Finding]:
    found = [_of_issue(remark) for remark in subject.parsed.warnings] if subject.parsed else []
    match subject.config:
        case ContentConfig() as config:
            found += [_finding(problem, "error") for problem in await _check_generator(subject, config)]
        case ArtifactConfig():
            declared = {rule.type for rule in rules}
            usual = (ValidationRule("completeness"), ValidationRule("coherence", severity="warning"))
            rules = [*(rule for rule in usual if rule.type not in declared), *rules]
        case CollectionConfig():
            assert subject.parsed is not None
            for issue in (await validate_collection(subject.build, subject.parsed)).issues:
                found.append(Finding(issue.severity, issue.code, issue.message, issue.member_id, {}))
        case _:
            pass
    if subject.version is not None:
        found += [_finding(problem, "error") for problem in check_text(subject.version)]
    for rule in rules:
        found += [_finding(problem, rule.severity) for problem in await run_rule(subject, rule)]
    return found


def _finding(problem: Problem, severity: Severity) -> Finding:
    message = problem.message[:1].upper() + problem.message[1:].removesuffix(".") + "."
    return Finding(problem.severity or severity, problem.code, message, problem.location, problem.details)


def _of_issue(remark: Issue) -> Finding:
    details = {"found": remark.found, "expected": remark.expected, "write": remark.write}
    return Finding(remark.severity, remark.code, remark.message, remark.path, details)


def _schema_findings(error: ChoraError) -> list[Finding]:
    """The findings for a config that can't be parsed."""
    faults: list[dict[str, Any]] = error.details.get("schema_errors") or [{"message": error.message}]
    return [
        Finding(
            "error",
            "schema_validation_failed",
            fault.get("message", error.message),
            fault.get("path"),
            {key: value for key, value in fault.items() if key not in ("message", "path")},
        )
        for fault in faults
    ]


def check_text(version: Version) -> Iterator[Problem]:
    """What is suspicious about any text."""
    text = version.body.strip()
    if not text:
        yield Problem("content_empty", "the text is empty")
    elif len(text) < SHORT_TEXT:
        details = {"actual": len(text)}
        yield Problem("content_very_short", f"the text has {len(text)} characters", None, details, "warning")
    if text.endswith(("...", "…")):
        yield Problem("content_incomplete", "the text ends as if more were to come", severity="warning")
    if (place := version.body.find("[TBD]")) >= 0:
        line = version.body.count("\n", 0, place) + 1
        yield Problem("content_incomplete", "the text holds [TBD]", f"line {line}", {"line": line}, "warning")


async def _check_generator(subject: ValidationSubject, config: ContentConfig) -> list[Problem]:
    """Whether a content can be generated, as far as that is known without its context."""
    engine = subject.engine
    name = generator_name(config)
    available = [each.name for each in engine.generators.list_generators()]
    details = {"generator_type": name, "available_generators": available}
    place = "generation.patterns[0].type"
    if name is None:
        message = f"{config.id} names no generator, so it can't be generated"
        return [Problem("invalid_generator", message, place, details, "warning")]
    generator = engine.generators.by_name.get(name)
    if generator is None:
        message = f"there is no generator {name!r}; write one of {', '.join(available)}"
        return [Problem("invalid_generator", message, place, details)]
    pattern = config.generation.patterns[0] if config.generation.patterns else None
    job = GenerationJob(config, pattern, {}, engine.templates, engine.settings.templates.undefined, {})
    try:
        await generator.gather_ingredients(job)
    except (GenerationFailed, PermissionDenied, LimitExceeded) as error:
        message = error.message.removeprefix(f"{config.id}: ").removesuffix(".")
        return [Problem("invalid_template", message, "generation.patterns[0]", {"generator_type": name})]
    return []
