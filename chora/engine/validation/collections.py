"""Validating a collection: its config, and the configs of its members and theirs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

import trio

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.building import collection
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import gather_content
from chora.engine.building.context import gather_shared_context
from chora.engine.building.members import SharedContextFailed, open_member, output_location, shared_source_access
from chora.engine.engine import Engine
from chora.engine.manifest import manifest_path
from chora.engine.outputs import check_output_path
from chora.engine.validation.child_checks import why_missing
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

CHECKPOINT_INTERVAL = 200
"""Members visited between two checkpoints, at which other tasks run."""


class MemberFinding(NamedTuple):
    """One thing that is wrong with a collection, or with one of its members."""

    severity: Severity
    code: str
    message: str
    member_id: str | None
    """The member's path of ids from the outermost collection, separated by slashes."""


class CollectionFindings(NamedTuple):
    """All that is wrong with a collection."""

    issues: list[MemberFinding]
    missing: list[str]
    """The ids of members whose configs are missing."""
    total: int
    """The collection's own members."""
    depth: int
    """How many levels of collections it has."""

    def count(self, severity: Severity) -> int:
        return sum(issue.severity == severity for issue in self.issues)


async def validate_collection(build: Build, parsed: ParsedConfig, *, check_members: bool = True) -> CollectionFindings:
    """Check a collection config, and the configs of its members and theirs.

    Args:
        build: a dry build.
        parsed: the config.
        check_members: also open the members' configs.

    Raises:
        Busy, StorageError: the server is at fault.
    """
    survey = _CollectionValidation(build, check_members)
    depth = await survey.check_collection(parsed, ())
    return CollectionFindings(survey.issues, survey.missing, len(parsed.config.members), depth)


class _CollectionValidation:
    """One validation of a collection. A collection that is a member in several places is validated once."""

    def __init__(self, build: Build, check_members: bool) -> None:
        self.issues: list[MemberFinding] = []
        self.missing: list[str] = []
        self._build = build
        self._engine: Engine = build.engine
        self._check_members = check_members
        self._depths: dict[str, int] = {}
        self._seen = 0

    async def check_collection(self, parsed: ParsedConfig, chain: tuple[tuple[str, ParsedConfig], ...]) -> int:
        """Check a collection; `chain` has the collections it is in, each with the id of the member that leads here."""
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
            known = self._depths[parsed.origin] = await self.check_collection(parsed, chain)
        return known

    async def _open(self, member: Member, within: str) -> FoundConfig | None:
        """A member's config, if it is there and nothing is wrong with it."""
        self._seen += 1
        if self._seen % CHECKPOINT_INTERVAL == 0:
            await trio.lowlevel.checkpoint()
        severity: Severity = "error" if member.required else "warning"
        try:
            found = open_member(self._engine, member)
        except SERVER_ERRORS:
            raise
        except ConfigNotFound as error:
            await trio.lowlevel.checkpoint()  # the whole folder was searched
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
            except SERVER_ERRORS:
                raise
            except ChoraError as error:
                self._note(severity, "source_failed", error.message, within, member_id)
            else:
                for warning in warnings:
                    self._note("warning", "source_failed", warning, within, member_id)

    async def _base_path(self, parsed: ParsedConfig, within: str) -> str | None:
        """Where the collection's files go, if that is known."""
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
        """Check that no two members write the same file."""
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
