"""Building one member of a collection: an artifact, or a nested collection, with its part of the shared context."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.building.artifact import Locate, PlannedOutput, build_artifact, explain_stale_artifact, plan_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content, explain_content, gather_content
from chora.engine.building.context import deep_merge, gather_shared_context
from chora.engine.building.gather import source_access
from chora.engine.building.output_names import render_output_names
from chora.engine.building.recall import keep_trace, recall_trace
from chora.engine.engine import Engine
from chora.engine.inputs import InputRecorder
from chora.engine.orphans import Orphan
from chora.engine.outputs import check_output_path, same_file
from chora.engine.traces import TraceKey
from chora.errors import ChoraError, CompositionFailed, ConfigNotFound, GenerationFailed, OutputEdited
from chora.hashing import digest_of
from chora.model import CollectionConfig, Member, Sources
from chora.sources.source import SERVER_ERRORS, SourceAccess

Status = Literal["success", "failed", "skipped"]
NESTED_SHOWN = 5
"""Members of a nested collection whose reasons are those of the collection."""


class MemberError(NamedTuple):
    """Why a member failed or was left out."""

    code: str
    message: str
    hint: str | None = None
    diff: str = ""
    """How a file that was left alone, because a person edited it, differs from what would be written."""

    @classmethod
    def from_error(cls, error: ChoraError) -> MemberError:
        return cls(error.code, error.message, error.next_step, error.details.get("diff", ""))

    def as_dict(self) -> dict[str, str | None]:
        """The error as a manifest has it."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class BuiltMember(NamedTuple):
    """The result of one member."""

    member: Member
    status: Status
    cache_used: bool = False
    error: MemberError | None = None
    outputs: list[str] = []  # noqa: RUF012 (never changed)
    generated_at: str | None = None
    context_hash: str | None = None
    seconds: float = 0.0
    warnings: list[str] = []  # noqa: RUF012
    nested: BuiltCollection | None = None
    """A nested collection's own result."""
    conflicts: list[str] = []  # noqa: RUF012
    """Files in which conflicts between an edit and the new text are marked."""


class BuiltCollection(NamedTuple):
    """The result of a collection."""

    config: CollectionConfig
    base_path: str
    manifest_path: str | None
    members: list[BuiltMember]
    seconds: float
    warnings: list[str]
    rules: list[RuleResult]
    orphans: list[Orphan] = []  # noqa: RUF012 (never changed)
    """Files of earlier builds that nothing writes any more."""

    def count(self, status: Status) -> int:
        return sum(built.status == status for built in self.members)

    @property
    def cached(self) -> int:
        return sum(built.cache_used for built in self.members)

    @property
    def conflicts(self) -> list[str]:
        return [path for built in self.members for path in built.conflicts]

    @property
    def generated_at(self) -> str | None:
        """When its oldest member was generated; None while one is missing."""
        times = [built.generated_at for built in self.members if built.status != "skipped"]
        return None if not times or None in times else min(time for time in times if time)


class RuleResult(NamedTuple):
    """Whether a rule about the finished collection holds."""

    type: str
    passed: bool
    required: bool


class PlannedMember(NamedTuple):
    """What a build would do with one member."""

    member: Member
    reasons: list[str]
    """Why it would be built; empty if nothing has changed."""
    files: list[PlannedOutput]
    error: MemberError | None = None
    nested: list[PlannedMember] = []  # noqa: RUF012
    cached: bool = False
    """Whether its files are as they would be written; then the build counts it as from the cache."""


class MemberTrace(Struct, frozen=True):
    """What a trace keeps of a built member."""

    outputs: list[str]
    generated_at: str
    context_hash: str
    warnings: list[str]


class CollectionScope(NamedTuple):
    """What the members of one build have in common."""

    parsed: ParsedConfig
    base_path: str
    shared: dict[str, Any]
    """The resolved shared context."""
    digest: str
    """Hash of everything that all members have in common."""
    context: dict[str, Any]
    """The caller's context, which overrides everything."""
    warnings: list[str]
    shared_names: frozenset[str] = frozenset()
    """Names that its shared context gives, or that of a collection it is in."""

    @property
    def config(self) -> CollectionConfig:
        return self.parsed.config


class SharedContextFailed(CompositionFailed):
    """A source of a shared context that has no value."""


BuildNested = Callable[[Build, ParsedConfig, CallerContext, str | None], Awaitable[BuiltCollection]]
PlanNested = Callable[[Build, ParsedConfig, CallerContext, str | None], Awaitable[list[PlannedMember]]]


class MemberBuilder:
    """Builds the members of one collection.

    Args:
        build: the build it is part of.
        scope: what the members have in common.
        force_members: members to build again, changed or not.
        claimed: files that no member may write, with what writes them.
    """

    def __init__(
        self, build: Build, scope: CollectionScope, force_members: frozenset[str], claimed: dict[str, str]
    ) -> None:
        self._build = build
        self._engine = build.engine
        self._scope = scope
        self._config = scope.config
        self._force_all = build.force or self._config.generation.force
        self._force_members = force_members | frozenset(self._config.generation.force_members)
        self._claimed = {same_file(path): writer for path, writer in claimed.items()}

    async def recall_member(self, member: Member) -> BuiltMember | None:
        """A member's earlier result, if nothing has changed that it was made from, nor what was made.

        No config is opened for that.
        """
        # The values of a member's own sources are part of its key, so they would have to be read first.
        if member.type == "collection" or member.context_override.sources or self._is_forced(member):
            return None
        known = await recall_trace(self._build, self.trace_key(member), MemberTrace)
        if known is None or self._claim(member, known.result.outputs):
            return None
        result = known.result
        return BuiltMember(
            member,
            "success",
            True,
            None,
            result.outputs,
            result.generated_at,
            result.context_hash,
            0.0,
            result.warnings,
        )

    async def build_member(self, member: Member, build_nested: BuildNested) -> BuiltMember:
        """Build a member; that it fails is a result.

        Raises:
            Busy, StorageError, StorageFailed: the server, not the member, is at fault.
        """
        started = time.monotonic()
        try:
            built = await self._build_member(member, build_nested)
        except SERVER_ERRORS:
            raise
        except ChoraError as error:
            gone = isinstance(error, ConfigNotFound) and not member.required
            built = BuiltMember(member, "skipped" if gone else "failed", error=MemberError.from_error(error))
        return built._replace(seconds=time.monotonic() - started)

    async def plan_member(self, member: Member, plan_nested: PlanNested, *, render: bool) -> PlannedMember:
        """What building the member would do; that it would fail is a result.

        Args:
            member: the member.
            plan_nested: plans a nested collection.
            render: also generate the texts in memory, to say what would happen to each file.

        Raises:
            as `build_member`.
        """
        try:
            return await self._plan_member(member, plan_nested, render=render)
        except SERVER_ERRORS:
            raise
        except ChoraError as error:
            return PlannedMember(member, ["it fails"], [], MemberError.from_error(error))

    def trace_key(self, member: Member) -> TraceKey:
        """Under which subject and key the member's trace is kept."""
        own = self._config.context.overrides.get(member.id)
        parts = [self._scope.digest, member.id, member.type, member.path]
        if own:
            parts.append(digest_of(own))
        # Not digest_of: this is most of the time that an unchanged member takes.
        key = "sha256:" + hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return TraceKey(f"member:{self._scope.parsed.origin}#{member.id}", key)

    def _is_forced(self, member: Member) -> bool:
        return self._force_all or member.id in self._force_members

    async def _build_member(self, member: Member, build_nested: BuildNested) -> BuiltMember:
        build = self._build.derive(force=self._is_forced(member), member=member.id)
        caller, warnings = await self._member_context(build, member)
        recorder = build.new_recorder()
        parsed = open_member(self._engine, member, recorder.record).parsed
        if member.type == "collection":
            nested = await build_nested(build, parsed, caller, self._nested_base_path(member))
            return _nested_result(member, nested)
        locate = await self._claim_outputs(member, parsed, caller)
        built = await build_artifact(build, parsed, caller, locate=locate)
        key = self.trace_key(member)
        inputs = {name: digest for name, digest in built.inputs.items() if name not in built.outputs}
        context_hash = digest_of([key.key, caller.digest, inputs])
        warnings = [*warnings, *built.pieces.warnings]
        if not member.context_override.sources:
            recorder.record_all(built.inputs)
            recorder.reproducible = built.reproducible
            keep_trace(build, key, recorder, MemberTrace(built.outputs, built.generated_at, context_hash, warnings))
        cached = built.status == "skipped"
        return BuiltMember(
            member,
            "success",
            cached,
            None,
            built.outputs,
            built.generated_at,
            context_hash,
            0.0,
            warnings,
            conflicts=built.conflicts,
        )

    async def _plan_member(self, member: Member, plan_nested: PlanNested, *, render: bool) -> PlannedMember:
        build = self._build.derive(force=self._is_forced(member), member=member.id)
        if await self.recall_member(member):
            return PlannedMember(member, [], [], cached=True)
        caller, _ = await self._member_context(build, member)
        parsed = open_member(self._engine, member).parsed
        if member.type == "collection":
            nested = await plan_nested(build, parsed, caller, self._nested_base_path(member))
            stale = [each for each in nested if each.reasons]
            reasons = [f"{each.member.id}: {'; '.join(each.reasons)}" for each in stale[:NESTED_SHOWN]]
            if len(stale) > NESTED_SHOWN:
                reasons.append(f"and {len(stale) - NESTED_SHOWN} more")
            return PlannedMember(member, reasons, [], None, nested, all(each.cached for each in nested))
        locate = await self._claim_outputs(member, parsed, caller)
        if build.force:
            reasons = ["force is set"]
        else:
            reasons = await explain_stale_artifact(build, parsed, caller, locate=locate)
        if not reasons:
            return PlannedMember(member, [], [], cached=True)
        if not render:
            return PlannedMember(member, reasons, [])
        files = await plan_artifact(build, parsed, caller, locate=locate)
        edited = next((file for file in files if file.action == "refuse"), None)
        error = edited and MemberError(
            OutputEdited.code,
            f"{edited.path} was edited, or isn't chora's; it would be left as it is.",
            "`chora edits` shows what was edited, and settles it.",
            edited.diff,
        )
        current = not build.force and all(file.is_current for file in files)
        return PlannedMember(member, reasons, files, error, cached=current)

    async def _member_context(self, build: Build, member: Member) -> tuple[CallerContext, list[str]]:
        """The context of a member, by the propagation mode and with the caller's over all, and warnings."""
        own, warnings = await resolve_shared_context(build, member.id, member.context_override)
        own = deep_merge(own, self._config.context.overrides.get(member.id, {}))
        shared = self._scope.shared
        match self._config.context.propagation:
            case "merge":
                context = deep_merge(shared, own)
            case "override":
                context = own or shared
            case "isolate":
                context = own
        names = {"collection_id": self._config.id, "collection_name": self._config.name, "member_id": member.id}
        given = self._scope.context
        shared_names = self._scope.shared_names & (context.keys() | given.keys()) - (own.keys() - given.keys())
        return CallerContext(deep_merge(context, given), names, shared=frozenset(shared_names)), warnings

    def _nested_base_path(self, member: Member) -> str | None:
        """Where a nested collection goes; None for where its own config says."""
        if self._config.output.structure == "custom":
            return None
        return str(PurePosixPath(self._scope.base_path) / member.id)

    async def _claim_outputs(self, member: Member, parsed: ParsedConfig, caller: CallerContext) -> Locate:
        """Where the outputs of a member go, which no other member may write.

        Raises:
            CompositionFailed: another one writes one of the files, or the name of one can't be rendered.
            PermissionDenied: one lies where no output may be.
        """
        locate = output_location(self._config, self._scope.base_path, member)
        names = await render_output_names(self._engine, parsed.config, caller)
        conflict = self._claim(member, [check_output_path(self._engine, locate(name)) for name in names])
        if conflict:
            raise CompositionFailed(
                f"{member.id} writes {conflict[1]}, as {conflict[0]} does already.",
                "Choose the structure nested, or give the outputs different names.",
                composition_strategy=self._config.generation.strategy,
                error_type="DuplicateOutput",
                output_path=conflict[1],
            )
        return locate

    def _claim(self, member: Member, paths: list[str]) -> tuple[str, str] | None:
        """Claim files for a member; another member that has claimed one of them already, and that file."""
        for path in paths:
            if (writer := self._claimed.get(same_file(path), member.id)) != member.id:
                return writer, path
        self._claimed.update((same_file(path), member.id) for path in paths)
        self._build.claimed.update(paths)
        return None


def open_member(engine: Engine, member: Member, on_read: Callable[[str], None] | None = None) -> FoundConfig:
    """A member's config: at its path, else by its id; raises what the catalog raises."""
    try:
        return engine.catalog.open_config(member.type, member.path, on_read)
    except ConfigNotFound:
        try:
            engine.catalog.check_id(member.id)
            return engine.catalog.find_config(member.type, member.id, on_read)
        except ChoraError:
            pass
        raise


def output_location(config: CollectionConfig, base_path: str, member: Member) -> Locate:
    """Where the structure of a collection puts the outputs of a member."""
    base = PurePosixPath(base_path)
    match config.output.structure:
        case "nested":
            return lambda file: str(base / member.id / PurePosixPath(file).name)
        case "flat":
            return lambda file: str(base / PurePosixPath(file).name)
        case "custom":
            return lambda file: file


async def resolve_shared_context(build: Build, name: str, sources: Sources) -> tuple[dict[str, Any], list[str]]:
    """The values of sources that belong to no content, and warnings.

    Raises:
        SharedContextFailed: a required source has no value; `name` says whose it is.
    """
    try:
        return await gather_shared_context(name, sources, shared_source_access(build, build.new_recorder()))
    except GenerationFailed as error:
        details = {key: value for key, value in error.details.items() if key not in ("generator_type", "error_type")}
        raise SharedContextFailed(
            error.message, error.hint, composition_strategy="collection", error_type="SourceFailed", **details
        ) from None


def shared_source_access(build: Build, recorder: InputRecorder) -> SourceAccess:
    """What the sources of a shared context may use."""

    async def generate(other: FoundConfig) -> str:
        if build.dry:
            return (await (await gather_content(build, other.parsed, CallerContext({}))).generate_text()).text
        built = await build_content(build, other.parsed, CallerContext({}))
        recorder.record_all(built.inputs)
        return built.version.body

    return source_access(build.engine, recorder, generate, partial(explain_content, build))


def _nested_result(member: Member, nested: BuiltCollection) -> BuiltMember:
    outputs = [nested.manifest_path] if nested.manifest_path else []
    hashes = digest_of([[built.member.id, built.context_hash] for built in nested.members])
    cached = nested.cached == len(nested.members)
    return BuiltMember(
        member,
        "success",
        cached,
        None,
        outputs,
        nested.generated_at,
        hashes,
        0.0,
        nested.warnings,
        nested,
        nested.conflicts,
    )
