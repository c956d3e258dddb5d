"""Validating: what is wrong with a text, with the config it was made from, or with a collection and its members.

Nothing is generated and nothing is written. What is wrong is a finding; only what can't be looked at is an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import trio

from chora.catalog import FoundConfig
from chora.config_parsing import Issue, ParsedConfig, parse_config
from chora.engine.build import collection
from chora.engine.build.build import Build, CallerContext
from chora.engine.build.content import gather_content
from chora.engine.build.context import gather_shared_context
from chora.engine.build.gather import generator_name
from chora.engine.build.members import SharedContextFailed, open_member, output_location, shared_source_access
from chora.engine.engine import Engine
from chora.engine.manifest import manifest_path
from chora.engine.outputs import check_output_path
from chora.engine.validation.checks import Problem, ValidationRule, ValidationSubject, run_rule, why_missing
from chora.errors import (
    ChoraError,
    CompositionFailed,
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
    Member,
    Severity,
    Sources,
)
from chora.sources.source import NOT_THE_SOURCES_FAULT
from chora.store import Version

SHORT_TEXT = 10
"""Characters below which a text is suspiciously short."""
CHECKPOINT_INTERVAL = 200
"""Members looked at between two chances for others to run."""


class Finding(NamedTuple):
    """One thing that is wrong, and how much that matters."""

    severity: Severity
    code: str
    message: str
    location: str | None
    details: dict[str, Any]


class Findings(NamedTuple):
    """All that is wrong with something."""

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
    """Check what goes by a name: the stored text and its config, else a config, else a draft.

    Args:
        work: dry work.
        name: the id of a content, artifact or collection config, or of a draft.
        rules: checked besides those that the config declares.
        malformed: what was wrong with further rules; found and told with the rest.

    Raises:
        InvalidConfigId, ConfigNotFound: nothing goes by this name.
        ValidationExecutionFailed: a rule can't be checked at all.
        Busy, StorageError: the house is at fault.
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
        engine.events.emit(
            "validation_completed",
            "success" if findings else "error",
            content_config_id=name,
            validation_passed=findings is not None and findings.valid,
            rule_count=rule_count,
            duration_ms=round((time.monotonic() - started) * 1000),
            error_message=error_message,
        )


def _find(build: Build, name: str) -> tuple[ValidationSubject, ChoraError | None]:
    """What goes by a name, and why its config can't be read if it can't."""
    engine = build.engine
    engine.catalog.check_id(name)
    version = engine.store.latest_version(name)
    searched: list[str] = []
    for kind in KINDS:
        try:
            return ValidationSubject(build, name, version, engine.catalog.find(kind, name).parsed), None
        except ConfigNotFound as error:
            searched += error.details["searched_paths"]
        except NOT_THE_SOURCES_FAULT:
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
    found = [_of_remark(remark) for remark in subject.parsed.warnings] if subject.parsed else []
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


def _of_remark(remark: Issue) -> Finding:
    details = {"found": remark.found, "expected": remark.expected, "write": remark.write}
    return Finding(remark.severity, remark.code, remark.message, remark.path, details)


def _schema_findings(error: ChoraError) -> list[Finding]:
    """What is wrong with a config that can't be read, fault by fault."""
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
    """Whether a content can be generated, as far as that can be told without its context."""
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


# -- collections ------------------------------------------------------------------------------------------------


class MemberFinding(NamedTuple):
    """One thing that is wrong with a collection, or with one of its members."""

    severity: Severity
    code: str
    message: str
    member_id: str | None
    """Its ids from the outermost collection on, with slashes between them."""


class CollectionFindings(NamedTuple):
    """All that is wrong with a collection."""

    issues: list[MemberFinding]
    missing: list[str]
    """The members, by their ids, whose configs aren't there."""
    total: int
    """The collection's own members."""
    depth: int
    """How many collections deep it goes."""

    def count(self, severity: Severity) -> int:
        return sum(issue.severity == severity for issue in self.issues)


async def validate_collection(build: Build, parsed: ParsedConfig, *, check_members: bool = True) -> CollectionFindings:
    """Check a collection config, and the configs of its members and theirs.

    Args:
        work: dry work.
        parsed: the config.
        check_members: also open the members' configs.

    Raises:
        Busy, StorageError: the house is at fault.
    """
    survey = _CollectionValidation(build, check_members)
    depth = await survey.look_at(parsed, ())
    return CollectionFindings(survey.issues, survey.missing, len(parsed.config.members), depth)


class _CollectionValidation:
    """One validation of a collection. A collection that is a member in several places is looked at once."""

    def __init__(self, build: Build, check_members: bool) -> None:
        self.issues: list[MemberFinding] = []
        self.missing: list[str] = []
        self._build = build
        self._engine: Engine = build.engine
        self._check_members = check_members
        self._depths: dict[str, int] = {}
        self._seen = 0

    async def look_at(self, parsed: ParsedConfig, chain: tuple[tuple[str, ParsedConfig], ...]) -> int:
        """Check a collection; `chain` has the collections it is in, each with the member id that leads on."""
        config: CollectionConfig = parsed.config
        within = "/".join(member_id for member_id, _ in chain)
        named = {f"$.members[{index}]": member.id for index, member in enumerate(config.members)}
        for remark in parsed.warnings:
            place = remark.path.partition("]")[0] + "]"
            self._note(remark.severity, remark.code, remark.message, within, named.get(place))
        await self._check_sources(parsed, within)
        base = await self._base_path(parsed, within)
        inner: list[FoundConfig | None] = []
        depth = 0
        if self._check_members:
            for member in config.members:
                found = await self._open(member, within)
                inner.append(found)
                if found is not None and member.type == "collection":
                    depth = max(depth, await self._descend(found.parsed, (*chain, (member.id, parsed))))
            self._check_files(parsed, inner, base, within)
        return 1 + depth

    def _note(self, severity: Severity, code: str, message: str, within: str, member_id: str | None = None) -> None:
        ids = "/".join(filter(None, [within, member_id])) or None
        self.issues.append(MemberFinding(severity, code, message.removesuffix(".") + ".", ids))

    async def _descend(self, parsed: ParsedConfig, chain: tuple[tuple[str, ParsedConfig], ...]) -> int:
        """The depth of a nested collection, which is checked unless it was already."""
        within = "/".join(member_id for member_id, _ in chain)
        ids = [each.config.id for _, each in chain] + [parsed.config.id]
        if any(each.origin == parsed.origin for _, each in chain):
            message = f"The collections contain one another: {' → '.join(ids)}"
            self._note("error", "circular_reference", message, within)
            return 0
        known = self._depths.get(parsed.origin)
        if len(chain) + (known or 1) > collection.DEEPEST_NESTING:
            message = f"Collections are nested more than {collection.DEEPEST_NESTING} deep here: {' → '.join(ids)}"
            self._note("error", "max_depth_exceeded", message, within)
            return known or 1
        if known is None:
            known = self._depths[parsed.origin] = await self.look_at(parsed, chain)
        return known

    async def _open(self, member: Member, within: str) -> FoundConfig | None:
        """A member's config, if it is there and nothing is wrong with it."""
        self._seen += 1
        if self._seen % CHECKPOINT_INTERVAL == 0:
            await trio.lowlevel.checkpoint()
        severity: Severity = "error" if member.required else "warning"
        try:
            found = open_member(self._engine, member)
        except NOT_THE_SOURCES_FAULT:
            raise
        except ConfigNotFound as error:
            await trio.lowlevel.checkpoint()  # it was searched for among all there are
            self.missing.append("/".join(filter(None, [within, member.id])))
            self._note(severity, "missing_config", error.message, within, member.id)
            return None
        except ChoraError as error:
            self._note(severity, "invalid_config", error.message, within, member.id)
            return None
        if isinstance(found.parsed.config, ArtifactConfig):
            for child in found.parsed.config.content.children:
                for problem in why_missing(self._engine, child) if child.required else ():
                    message = problem.message[:1].upper() + problem.message[1:]
                    self._note(problem.severity or severity, problem.code, message, within, member.id)
        return found

    # -- context and places --

    async def _check_sources(self, parsed: ParsedConfig, within: str) -> None:
        config: CollectionConfig = parsed.config
        await self._check_each(config.context.shared, "error", within, None)
        for member in config.members:
            severity: Severity = "error" if member.required else "warning"
            await self._check_each(member.context_override, severity, within, member.id)

    async def _check_each(self, sources: Sources, severity: Severity, within: str, member_id: str | None) -> None:
        async def only_prepare(other: FoundConfig) -> str:
            await gather_content(self._build, other.parsed, CallerContext({}))
            return ""

        for source in sources.sources:
            reach = shared_source_access(self._build, self._build.new_recorder())._replace(generate=only_prepare)
            try:
                _, warnings = await gather_shared_context(
                    member_id or "The shared context", Sources(sources=(source,)), reach
                )
            except NOT_THE_SOURCES_FAULT:
                raise
            except ChoraError as error:
                self._note(severity, "source_failed", error.message, within, member_id)
            else:
                for warning in warnings:
                    self._note("warning", "source_failed", warning, within, member_id)

    async def _base_path(self, parsed: ParsedConfig, within: str) -> str | None:
        """Where the collection's files go, if that can be told."""
        try:
            return str(PurePosixPath(await collection.find_manifest_path(self._build, parsed)).parent)
        except SharedContextFailed:
            return None  # found by _check_sources
        except CompositionFailed as error:
            self._note("error", "invalid_base_path", error.message, within)
        except (PermissionDenied, LimitExceeded) as error:
            self._note("error", "invalid_base_path", error.message, within)
        return None

    def _check_files(
        self, parsed: ParsedConfig, inner: list[FoundConfig | None], base: str | None, within: str
    ) -> None:
        """No two members write one file."""
        config: CollectionConfig = parsed.config
        if base is None:
            return
        claimed: dict[str, str] = {}
        if config.output.manifest:
            claimed[manifest_path(base).casefold()] = "the manifest"
        for member, found in zip(config.members, inner, strict=True):
            if found is None or not isinstance(found.parsed.config, ArtifactConfig):
                continue
            place = output_location(config, base, member)
            severity: Severity = "error" if member.required else "warning"
            for output in found.parsed.config.metadata.outputs:
                try:
                    path = check_output_path(self._engine, place(output.file))
                except ChoraError as error:
                    self._note(severity, "invalid_output", error.message, within, member.id)
                    continue
                if rival := claimed.get(path.casefold()):
                    by_whom = "twice" if rival == member.id else f"and so does {rival}"
                    self._note(severity, "duplicate_output", f"{member.id} writes {path}, {by_whom}", within, member.id)
                else:
                    claimed[path.casefold()] = member.id
