"""Validates a collection: its config, and the configs of its members and of theirs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

import trio

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.building import collection
from chora.engine.building.build import Build
from chora.engine.building.members import SharedContextFailed, open_member, output_location
from chora.engine.engine import Engine
from chora.engine.manifest import manifest_path
from chora.engine.outputs import check_output_path, is_template, same_file
from chora.engine.validation.child_checks import check_child
from chora.engine.validation.generator_checks import check_composition
from chora.engine.validation.source_checks import ContentChecks
from chora.errors import (
    ChoraError,
    CompositionFailed,
    ConfigNotFound,
    LimitExceeded,
    PermissionDenied,
)
from chora.model import (
    ArtifactConfig,
    CollectionConfig,
    Member,
    Severity,
    Sources,
)
from chora.sources.source import SERVER_ERRORS
from chora.wording import as_sentence

CHECKPOINT_INTERVAL = 200
"""Members visited between two checkpoints, at which other tasks run."""


class MemberFinding(NamedTuple):
    """One thing that is wrong with a collection, or with one of its members."""

    severity: Severity
    code: str
    message: str
    member_id: str | None
    """The member's path of ids from the outermost collection, separated by slashes."""


class CollectionReport(NamedTuple):
    """The findings about a collection."""

    findings: list[MemberFinding]
    missing: list[str]
    """The ids of members whose configs are missing."""
    total: int
    """The collection's own members."""
    depth: int
    """How many levels of collections it has."""

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)


async def validate_collection(build: Build, parsed: ParsedConfig, *, check_members: bool = True) -> CollectionReport:
    """Check a collection config, and the configs of its members and theirs.

    Args:
        build: a dry build.
        parsed: the config.
        check_members: also open the members' configs.

    Raises:
        Busy, StorageError: the server is at fault.
    """
    validation = _CollectionValidation(build, check_members)
    depth = await validation.check_collection(parsed, ())
    return CollectionReport(validation.findings, validation.missing, len(parsed.config.members), depth)


class _CollectionValidation:
    """One validation of a collection. A collection that is a member in several places is validated once."""

    def __init__(self, build: Build, check_members: bool) -> None:
        self.findings: list[MemberFinding] = []
        self.missing: list[str] = []
        self._build = build
        self._engine: Engine = build.engine
        self._check_members = check_members
        self._content_checks = ContentChecks(build)
        self._depths: dict[str, int] = {}
        self._visited = 0

    async def check_collection(self, parsed: ParsedConfig, chain: tuple[tuple[str, ParsedConfig], ...]) -> int:
        """Check a collection; `chain` has the collections it is in, each with the id of the member that leads here."""
        config: CollectionConfig = parsed.config
        within = "/".join(member_id for member_id, _ in chain)
        named = {f"$.members[{index}]": member.id for index, member in enumerate(config.members)}
        for issue in parsed.warnings:
            place = issue.path.partition("]")[0] + "]"
            # A collection with a rule that chora doesn't have is built all the same, but it isn't valid.
            severity: Severity = "error" if issue.code == "unknown_rule_type" else issue.severity
            self._add_finding(severity, issue.code, issue.message, within, named.get(place))
        await self._check_sources(parsed, within)
        base = await self._find_base_path(parsed, within)
        found_configs: list[FoundConfig | None] = []
        depth = 0
        if self._check_members:
            for member in config.members:
                found = await self._open_config(member, within)
                found_configs.append(found)
                if found is not None and member.type == "collection":
                    depth = max(depth, await self._check_nested(found.parsed, (*chain, (member.id, parsed))))
            self._check_outputs(parsed, found_configs, base, within)
        return 1 + depth

    def _add_finding(
        self, severity: Severity, code: str, message: str, within: str, member_id: str | None = None
    ) -> None:
        ids = "/".join(filter(None, [within, member_id])) or None
        self.findings.append(MemberFinding(severity, code, message.removesuffix(".") + ".", ids))

    async def _check_nested(self, parsed: ParsedConfig, chain: tuple[tuple[str, ParsedConfig], ...]) -> int:
        """The depth of a nested collection, which is checked unless it was already."""
        within = "/".join(member_id for member_id, _ in chain)
        ids = [each.config.id for _, each in chain] + [parsed.config.id]
        if any(each.origin == parsed.origin for _, each in chain):
            message = f"The collections contain one another: {' → '.join(ids)}"
            self._add_finding("error", "circular_reference", message, within)
            return 0
        known = self._depths.get(parsed.origin)
        if len(chain) + (known or 1) > collection.NESTING_LIMIT:
            message = f"Collections are nested more than {collection.NESTING_LIMIT} deep here: {' → '.join(ids)}"
            self._add_finding("error", "max_depth_exceeded", message, within)
            return known or 1
        if known is None:
            known = self._depths[parsed.origin] = await self.check_collection(parsed, chain)
        return known

    async def _open_config(self, member: Member, within: str) -> FoundConfig | None:
        """A member's config; None, with a finding, if it is missing or invalid."""
        self._visited += 1
        if self._visited % CHECKPOINT_INTERVAL == 0:
            await trio.lowlevel.checkpoint()
        severity: Severity = "error" if member.required else "warning"
        try:
            found = open_member(self._engine, member)
        except SERVER_ERRORS:
            raise
        except ConfigNotFound as error:
            await trio.lowlevel.checkpoint()  # the whole folder was searched
            self.missing.append("/".join(filter(None, [within, member.id])))
            self._add_finding(severity, "missing_config", error.message, within, member.id)
            return None
        except ChoraError as error:
            self._add_finding(severity, "invalid_config", error.message, within, member.id)
            return None
        if isinstance(found.parsed.config, ArtifactConfig):
            artifact = found.parsed.config
            findings = await check_composition(self._engine, artifact)
            for child in artifact.content.children:
                for finding in await check_child(self._engine, child, self._content_checks):
                    findings.append(finding if child.required else finding._replace(severity="warning"))
            for finding in findings:
                message = as_sentence(finding.message).removesuffix(".")
                worst: Severity = severity if finding.severity == "error" else finding.severity or severity
                self._add_finding(worst, finding.code, message, within, member.id)
        return found

    # -- shared context and output paths --

    async def _check_sources(self, parsed: ParsedConfig, within: str) -> None:
        config: CollectionConfig = parsed.config
        await self._check_each_source(config.context.shared, "error", within, None)
        for member in config.members:
            severity: Severity = "error" if member.required else "warning"
            await self._check_each_source(member.context_override, severity, within, member.id)

    async def _check_each_source(
        self, sources: Sources, severity: Severity, within: str, member_id: str | None
    ) -> None:
        for source in sources.sources:
            whose = member_id or "The shared context"
            for finding in await self._content_checks.check_source(whose, source):
                message = f"{whose}: {finding.message}"
                self._add_finding(finding.severity or severity, finding.code, message, within, member_id)

    async def _find_base_path(self, parsed: ParsedConfig, within: str) -> str | None:
        """Where the collection's files go, if that is known."""
        try:
            return str(PurePosixPath(await collection.find_manifest_path(self._build, parsed)).parent)
        except SharedContextFailed:
            return None  # found by _check_sources
        except CompositionFailed as error:
            self._add_finding("error", "invalid_base_path", error.message, within)
        except (PermissionDenied, LimitExceeded) as error:
            self._add_finding("error", "invalid_base_path", error.message, within)
        return None

    def _check_outputs(
        self, parsed: ParsedConfig, found_configs: list[FoundConfig | None], base: str | None, within: str
    ) -> None:
        """Check that no two members write the same file."""
        config: CollectionConfig = parsed.config
        if base is None:
            return
        claimed: dict[str, str] = {}
        if config.output.manifest:
            claimed[same_file(manifest_path(base))] = "the manifest"
        for member, found in zip(config.members, found_configs, strict=True):
            if found is None or not isinstance(found.parsed.config, ArtifactConfig):
                continue
            place = output_location(config, base, member)
            severity: Severity = "error" if member.required else "warning"
            for output in found.parsed.config.metadata.outputs:
                if is_template(output.file):  # what it comes to depends on the context
                    continue
                try:
                    path = check_output_path(self._engine, place(output.file))
                except ChoraError as error:
                    self._add_finding(severity, "invalid_output", error.message, within, member.id)
                    continue
                if other_writer := claimed.get(same_file(path)):
                    by_whom = "twice" if other_writer == member.id else f"and so does {other_writer}"
                    self._add_finding(
                        severity, "duplicate_output", f"{member.id} writes {path}, {by_whom}", within, member.id
                    )
                else:
                    claimed[same_file(path)] = member.id
