"""Building a collection: its members with shared context, at once or in turn, and a manifest of what came of them.

A member of which nothing has changed is recalled by its trace, without opening a config. Members are built on
their own: one that fails leaves the others alone, and the manifest tells the truth about each, also when the
work is cancelled half-way.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import msgspec
import trio
from msgspec import Struct

from chora.catalog import FoundConfig
from chora.concurrency import for_each_bounded
from chora.config_parsing import ParsedConfig
from chora.engine.build import artifact
from chora.engine.build.content import reach_of
from chora.engine.build.context import deep_merge, gather_shared_context
from chora.engine.engine import Build, CallerContext, Engine
from chora.errors import (
    ChoraError,
    CircularReference,
    CompositionFailed,
    ConfigNotFound,
    GenerationFailed,
    LimitExceeded,
    ManifestNotFound,
    MaxDepthExceeded,
    OutputEdited,
    PermissionDenied,
    ValidationFailed,
    WriteFailed,
    io_details,
)
from chora.events import redacted
from chora.hashing import digest_of, sha256
from chora.model import CollectionConfig, Member, Sources
from chora.nesting import decode_json
from chora.render import Render, RenderFailed
from chora.sources.source import NOT_THE_SOURCES_FAULT
from chora.timestamps import now

log = logging.getLogger("chora.engine")

DEEPEST_NESTING = 10
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 64_000_000
CANCELLED = "cancelled"
PROGRESS_INTERVAL = 0.1
"""Seconds between two words on progress; ten thousand members would drown whoever asked."""
CHECKPOINT_INTERVAL = 200
"""Members recalled between two chances for others to run."""

Status = Literal["success", "failed", "skipped"]


class MemberError(NamedTuple):
    """Why a member failed or was left out."""

    code: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: ChoraError) -> MemberError:
        return cls(error.code, error.message, error.hint)


class BuiltMember(NamedTuple):
    """What came of one member."""

    member: Member
    status: Status
    cache_used: bool = False
    error: MemberError | None = None
    outputs: list[str] = []  # noqa: RUF012 (never changed)
    generated_at: str | None = None
    context_hash: str | None = None
    seconds: float = 0.0
    warnings: list[str] = []  # noqa: RUF012
    inner: BuiltCollection | None = None
    """A nested collection's own result."""


class BuiltCollection(NamedTuple):
    """What came of a collection."""

    config: CollectionConfig
    base_path: str
    manifest_path: str | None
    members: list[BuiltMember]
    seconds: float
    warnings: list[str]
    rules: list[RuleResult]

    def count(self, status: Status) -> int:
        return sum(built.status == status for built in self.members)

    @property
    def cached(self) -> int:
        return sum(built.cache_used for built in self.members)

    @property
    def generated_at(self) -> str | None:
        """When its oldest member was made; None while one is missing."""
        times = [built.generated_at for built in self.members if built.status != "skipped"]
        return None if not times or None in times else min(time for time in times if time)


class RuleResult(NamedTuple):
    """Whether a rule on the finished collection holds."""

    type: str
    passed: bool
    required: bool


class PlannedMember(NamedTuple):
    """What a run would do with one member."""

    member: Member
    reasons: list[str]
    """Why it isn't what it would be; empty if nothing has changed."""
    files: list[artifact.PlannedOutput]
    error: MemberError | None = None
    inner: list[PlannedMember] = []  # noqa: RUF012


class ManifestMember(Struct, frozen=True):
    """What a manifest says of a member, as far as it is read again."""

    id: str
    status: str = ""
    output_path: str | None = None
    generated_at: str | None = None


class Manifest(Struct, frozen=True):
    """A manifest, as far as it is read again."""

    collection_id: str
    members: list[ManifestMember]
    generated_at: str | None = None


class CollectionPlan(NamedTuple):
    """Where and how the members of one run are built."""

    parsed: ParsedConfig
    base_path: str
    shared: dict[str, Any]
    """The resolved shared context."""
    digest: str
    """Hash of everything that all members have in common."""
    caller: dict[str, Any]
    """Context from whoever asked; it wins over everything."""
    warnings: list[str]

    @property
    def config(self) -> CollectionConfig:
        return self.parsed.config

    @property
    def manifest_path(self) -> str:
        return str(PurePosixPath(self.base_path) / MANIFEST)


# -- the whole --------------------------------------------------------------------------------------------------


async def build_collection(
    build: Build,
    parsed: ParsedConfig,
    caller: dict[str, Any],
    *,
    output_path: str | None = None,
    force_members: frozenset[str] = frozenset(),
) -> BuiltCollection:
    """Build every member that isn't what it would be now, and write the manifest.

    Args:
        work: the call it is part of.
        parsed: the collection config.
        given: context from whoever asks.
        output_path: replaces the config's base path.
        force_members: members to build again, changed or not.

    Raises:
        CircularReference, MaxDepthExceeded: collections contain one another, or go too deep; nothing was built.
        CompositionFailed: shared context or base path can't be had, or a required member failed; the manifest says
            which, and is written in the latter case.
        OutputEdited: where the manifest belongs there is somebody else's file; nothing was built.
        Busy, StorageError, StorageFailed: the work ended early; the manifest says how far it came.
        ValidationFailed: a required rule on the result doesn't hold; the manifest is written.
        PermissionDenied: the base path lies outside the folders outputs may be written to.
        WriteFailed: the manifest couldn't be written.
    """
    engine = build.engine
    config: CollectionConfig = parsed.config
    started = time.monotonic()
    try:
        check_nesting(engine, parsed)
        setting = await _settle(build, parsed, caller, output_path)
        if config.output.manifest:
            _check_manifest(build, setting)
        async with engine.write_locks(f"collection:{parsed.origin}:{setting.base_path}"):
            collected = await _CollectionRun(build, setting, force_members).run(started)
        _judge(collected)
    except ChoraError as error:
        _tell(engine, config, "error", started, None, error.message)
        raise
    _tell(engine, config, "success", started, collected, None)
    return collected


def _tell(
    engine: Engine,
    config: CollectionConfig,
    status: str,
    started: float,
    collected: BuiltCollection | None,
    error: str | None,
) -> None:
    engine.events.emit(
        "collection_generated",
        status,
        collection_id=config.id,
        member_count=len(config.members),
        cached_count=collected.cached if collected else None,
        failed_count=collected.count("failed") if collected else None,
        duration_ms=round((time.monotonic() - started) * 1000),
        error_message=error,
    )


def check_nesting(engine: Engine, parsed: ParsedConfig) -> int:
    """How many collections deep it goes; members that can't be opened are leaves.

    Raises:
        CircularReference: a collection contains itself.
        MaxDepthExceeded: there are too many levels.
    """
    known: dict[str, int] = {}
    """Levels below each collection that was looked at; many may share one."""

    def depth_of(collection: ParsedConfig, chain: tuple[ParsedConfig, ...]) -> int:
        names = [each.config.id for each in (*chain, collection)]
        if any(each.origin == collection.origin for each in chain):
            raise CircularReference(
                f"The collections contain one another: {' → '.join(names)}.",
                "Take one of them out of the other.",
                collection_id=names[0],
                cycle=names,
                chain=names,
            )
        if (depth := known.get(collection.origin)) is None:
            depth = 1
            if len(names) <= DEEPEST_NESTING:
                for member in collection.config.members:
                    if member.type == "collection" and (inner := _inner(engine, member)) is not None:
                        depth = max(depth, 1 + depth_of(inner, (*chain, collection)))
                known[collection.origin] = depth
        if len(chain) + depth > DEEPEST_NESTING:
            raise MaxDepthExceeded(
                f"{names[0]} nests collections more than {DEEPEST_NESTING} deep.",
                "Take some of the artifacts into an outer collection.",
                collection_id=names[0],
                chain=names,
                max_depth=DEEPEST_NESTING,
            )
        return depth

    return depth_of(parsed, ())


def _inner(engine: Engine, member: Member) -> ParsedConfig | None:
    try:
        return open_member(engine, member).parsed
    except ChoraError:
        return None


def open_member(engine: Engine, member: Member, noting: Callable[[str], None] | None = None) -> FoundConfig:
    """A member's config: at its path, else by its id; raises what the catalog raises."""
    try:
        return engine.catalog.open(member.type, member.path, noting)
    except ConfigNotFound:
        try:
            engine.catalog.check_id(member.id)
            return engine.catalog.find(member.type, member.id, noting)
        except ChoraError:
            pass
        raise


async def _settle(
    build: Build, parsed: ParsedConfig, caller: dict[str, Any], output_path: str | None
) -> CollectionPlan:
    """Resolve the shared context and the base path."""
    engine = build.engine
    config: CollectionConfig = parsed.config
    shared, warnings = await _context_of(build, config.id, config.context.shared)
    base_path = output_path or await _base_path(engine, config, deep_merge(shared, caller))
    base_path = artifact.check_output_path(engine, str(PurePosixPath(base_path) / MANIFEST)).removesuffix(MANIFEST)
    base_path = base_path.rstrip("/") or "."
    return CollectionPlan(
        parsed, base_path, shared, shared_digest(build.salt, config, base_path, shared, caller), caller, warnings
    )


def shared_digest(
    salt: str, config: CollectionConfig, base_path: str, shared: dict[str, Any], caller: dict[str, Any]
) -> str:
    """A hash of all that the members of a collection have in common; what is their own is in their keys."""
    names = [config.id, config.name, config.context.propagation, config.output.structure]
    return digest_of([salt, names, base_path, shared, caller])


def _check_manifest(build: Build, setting: CollectionPlan) -> None:
    """See that the manifest replaces none but a manifest.

    Raises:
        OutputEdited: there is a file that nobody but a person, or another program, can have written.
    """
    path, config, traces = setting.manifest_path, setting.config, build.engine.traces
    subject = f"manifest:{setting.parsed.origin}"
    known = traces.find_trace(subject, setting.digest)
    if known is not None and known.inputs.get(path) == build.snapshot.digest(path):
        return
    try:
        stands_there = decode_json(build.engine.folder.read_bytes(path, limit=MANIFEST_LIMIT), Manifest)
    except FileNotFoundError:
        return
    except (msgspec.MsgspecError, UnicodeDecodeError, PermissionDenied, LimitExceeded):
        known = traces.latest_trace(subject)
        if known is not None and path in known.inputs:
            return  # ours, and broken since
        raise OutputEdited(
            f"{path} exists and was not written by chora; it is left as it is, and nothing was built.",
            "Move the file away, choose another output.base_path, or write no manifest: output.manifest false.",
            output_path=path,
            collection_id=config.id,
        ) from None
    if stands_there.collection_id != config.id:
        setting.warnings.append(f"{path} was the manifest of the collection {stands_there.collection_id} before")


async def _context_of(build: Build, name: str, sources: Sources) -> tuple[dict[str, Any], list[str]]:
    try:
        return await gather_shared_context(name, sources, reach_of(build, build.new_recorder()))
    except GenerationFailed as error:
        details = {key: value for key, value in error.details.items() if key not in ("generator_type", "error_type")}
        raise CompositionFailed(
            error.message, error.hint, composition_strategy="collection", error_type="SourceFailed", **details
        ) from None


async def _base_path(engine: Engine, config: CollectionConfig, context: dict[str, Any]) -> str:
    """The base path of a config, rendered if it is a template."""
    text = config.output.base_path
    if "{" not in text:
        return text
    names = {**context, "collection_id": config.id, "collection_name": config.name}
    job = Render(template=text, name=f"the base path of {config.id}", context=names, undefined="strict")
    try:
        return (await engine.templates.pool.render(job)).text.strip()
    except RenderFailed as failure:
        raise CompositionFailed(
            f"{config.id}: {job.name} can't be rendered: {failure.failed.message}.",
            "A base path knows collection_id, collection_name and the shared context.",
            composition_strategy="collection",
            error_type="InvalidBasePath",
            output_path=text,
        ) from None


def _judge(collected: BuiltCollection) -> None:
    """Raise what a failed required member or rule comes to."""
    failed = [
        built
        for built in collected.members
        if built.member.required and built.status != "success" and built.error is not None
    ]
    details: dict[str, Any] = {
        "collection_id": collected.config.id,
        "manifest_path": collected.manifest_path,
        "failed_members": [built.member.id for built in failed],
        "members": [
            {"id": built.member.id, "status": built.status, "error": built.error._asdict() if built.error else None}
            for built in collected.members
            if built.status != "success"
        ],
        "total_members": len(collected.members),
        "successful_members": collected.count("success"),
        "cached_members": collected.cached,
        "generation_time_seconds": round(collected.seconds, 3),
    }
    if failed:
        first = next((built for built in failed if built.status == "failed"), failed[0])
        assert first.error is not None
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CompositionFailed(
            f"{collected.config.id}: the required member {first.member.id} failed{more}: {first.error.message}",
            first.error.hint or "Mend the member and call again; what succeeded isn't built a second time.",
            composition_strategy=collected.config.generation.strategy,
            error_type=first.error.code,
            **details,
        )
    broken = [rule.type for rule in collected.rules if rule.required and not rule.passed]
    if broken:
        raise ValidationFailed(
            f"{collected.config.id}: the rule {broken[0]} doesn't hold for the result.",
            "The manifest says what came of each member.",
            rules=broken,
            **details,
        )


# -- one run ----------------------------------------------------------------------------------------------------


class _CollectionRun:
    """The building of one collection."""

    def __init__(self, build: Build, setting: CollectionPlan, force_members: frozenset[str]) -> None:
        self._build = build
        self._engine = build.engine
        self._setting = setting
        self._config = setting.config
        self._forced = force_members | frozenset(self._config.generation.force_members)
        self._force_all = build.force or self._config.generation.force
        self._results: dict[str, BuiltMember] = {}
        self._claimed: dict[str, str] = {}
        if self._config.output.manifest:
            self._claimed[setting.manifest_path.casefold()] = "the manifest"
        self._told = 0.0
        self._last = "nothing has changed"
        self._stopping = False

    async def run(self, started: float) -> BuiltCollection:
        try:
            for group in self._groups():
                await self._build_group(group)
            if self._build.progress:
                total = len(self._config.members)
                await self._build.progress(total, total, self._last)
        except BaseException as error:  # cancelled, or the house failed: whoever looks must see how far it came
            with trio.CancelScope(shield=True):
                try:
                    await self._conclude(started, _reason_of(error))
                except ChoraError as another:
                    log.warning("the manifest of %s couldn't be written: %s", self._config.id, another.message)
            raise
        return await self._conclude(started)

    def _groups(self) -> list[list[Member]]:
        """The members that may be built at once, in turn."""
        members = sorted(self._config.members, key=lambda member: member.order)
        match self._config.generation.strategy:
            case "parallel":
                return [members]
            case "sequential":
                return [[member] for member in members]
            case "mixed":
                groups: dict[float, list[Member]] = {}
                for member in members:
                    groups.setdefault(member.order, []).append(member)
                return list(groups.values())

    async def _build_group(self, group: list[Member]) -> None:
        waiting: list[Member] = []
        for number, member in enumerate(group):
            if self._stopping or not await self._recall(member):
                waiting.append(member)
            if number % CHECKPOINT_INTERVAL == CHECKPOINT_INTERVAL - 1:
                await trio.lowlevel.checkpoint()

        async def build_member(member: Member) -> None:
            await self._note(await self._make(member))

        limit = self._config.generation.concurrency_limit
        for member in await for_each_bounded(waiting, build_member, limit=limit, should_stop=lambda: self._stopping):
            fault = MemberError("not_run", f"{member.id} wasn't started, because another member had failed.")
            self._results[member.id] = BuiltMember(member, "skipped", error=fault)

    async def _note(self, built: BuiltMember) -> None:
        self._results[built.member.id] = built
        if built.status == "failed" and self._config.validation.fail_fast:
            self._stopping = True
        self._last = f"{built.member.id}: {built.status}"
        done, total = len(self._results), len(self._config.members)
        # The last word is said when all is done.
        if self._build.progress and done < total and trio.current_time() - self._told >= PROGRESS_INTERVAL:
            self._told = trio.current_time()
            await self._build.progress(done, total, self._last)

    # -- a member --

    def _is_forced(self, member: Member) -> bool:
        return self._force_all or member.id in self._forced

    def trace_of(self, member: Member) -> tuple[str, str]:
        """Under which subject and key the member's trace is kept."""
        own = self._config.context.overrides.get(member.id)
        parts = [self._setting.digest, member.id, member.type, member.path]
        if own:
            parts.append(digest_of(own))
        key = "sha256:" + hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"member:{self._setting.parsed.origin}#{member.id}", key

    async def _recall(self, member: Member) -> bool:
        """Take a member's earlier result, if nothing it was made from, nor what was made, has changed."""
        # What a member's own sources hold decides its key, so they have to be read first.
        if member.type == "collection" or member.context_override.sources or self._is_forced(member):
            return False
        known = self._engine.traces.find_trace(*self.trace_of(member))
        if known is None or await self._build.snapshot.changes(known.inputs, first=True):
            return False
        result = known.result
        if self._claim(member, result["outputs"]):
            return False
        built = BuiltMember(
            member,
            "success",
            True,
            None,
            result["outputs"],
            result["generated_at"],
            result["context_hash"],
            0.0,
            result["warnings"],
        )
        self._results[member.id] = built
        return True

    async def _make(self, member: Member) -> BuiltMember:
        began = time.monotonic()
        try:
            built = await self._make_it(member)
        except NOT_THE_SOURCES_FAULT:
            raise
        except ChoraError as error:
            gone = isinstance(error, ConfigNotFound) and not member.required
            built = BuiltMember(member, "skipped" if gone else "failed", error=MemberError.of(error))
        return built._replace(seconds=time.monotonic() - began)

    async def _make_it(self, member: Member) -> BuiltMember:
        build = self._build.derive(force=self._is_forced(member))
        own, warnings = await _context_of(build, member.id, member.context_override)
        own = deep_merge(own, self._config.context.overrides.get(member.id, {}))
        caller = self._given_to(member, own)
        seen = build.new_recorder()
        parsed = open_member(self._engine, member, seen.record).parsed
        if member.type == "collection":
            return await self._make_inner(build, member, parsed, caller)
        place = self._claimed_place(member, parsed)
        made = await artifact.build_artifact(build, parsed, caller, place=place)
        subject, key = self.trace_of(member)
        inputs = {name: digest for name, digest in made.inputs.items() if name not in made.outputs}
        context_hash = digest_of([key, caller.digest, inputs])
        warnings = [*warnings, *made.pieces.warnings]
        if made.reproducible and not member.context_override.sources:
            seen.record_all(made.inputs)
            result = {
                "outputs": made.outputs,
                "generated_at": made.generated_at,
                "context_hash": context_hash,
                "warnings": warnings,
            }
            self._engine.traces.add_trace(subject, key, seen.inputs, result)
        cached = made.status == "skipped"
        return BuiltMember(
            member, "success", cached, None, made.outputs, made.generated_at, context_hash, 0.0, warnings, None
        )

    async def _make_inner(
        self, build: Build, member: Member, parsed: ParsedConfig, caller: CallerContext
    ) -> BuiltMember:
        is_custom = self._config.output.structure == "custom"
        base = None if is_custom else str(PurePosixPath(self._setting.base_path) / member.id)
        inner = await build_collection(build, parsed, caller.context, output_path=base)
        outputs = [inner.manifest_path] if inner.manifest_path else []
        hashes = digest_of([[built.member.id, built.context_hash] for built in inner.members])
        cached = inner.cached == len(inner.members)
        return BuiltMember(
            member, "success", cached, None, outputs, inner.generated_at, hashes, 0.0, inner.warnings, inner
        )

    async def plan(self, member: Member, *, render: bool) -> PlannedMember:
        """What building the member would do."""
        build = self._build.derive(force=self._is_forced(member))
        if not self._is_forced(member) and await self._recall(member):
            return PlannedMember(member, [], [])
        own, _ = await _context_of(build, member.id, member.context_override)
        caller = self._given_to(member, deep_merge(own, self._config.context.overrides.get(member.id, {})))
        parsed = open_member(self._engine, member).parsed
        if member.type == "collection":
            is_custom = self._config.output.structure == "custom"
            base = None if is_custom else str(PurePosixPath(self._setting.base_path) / member.id)
            inner = await plan_collection(build, parsed, caller.context, output_path=base, render=render)
            stale = [each.member.id for each in inner if each.reasons]
            return PlannedMember(member, [f"{', '.join(stale[:5])} would be built"] if stale else [], [], None, inner)
        place = self._claimed_place(member, parsed)
        reasons = (
            ["force was asked for"] if build.force else await artifact.why_stale(build, parsed, caller, place=place)
        )
        if not reasons:
            return PlannedMember(member, [], [])
        files = await artifact.plan_artifact(build, parsed, caller, place=place) if render else []
        return PlannedMember(member, reasons, files)

    def _given_to(self, member: Member, own: dict[str, Any]) -> CallerContext:
        """The context of a member: shared and its own, by the propagation mode, and the caller's over both."""
        shared = self._setting.shared
        match self._config.context.propagation:
            case "merge":
                context = deep_merge(shared, own)
            case "override":
                context = own or shared
            case "isolate":
                context = own
        names = {"collection_id": self._config.id, "collection_name": self._config.name, "member_id": member.id}
        return CallerContext(deep_merge(context, self._setting.caller), names)

    def _claimed_place(self, member: Member, parsed: ParsedConfig) -> Callable[[str], str]:
        """Where the outputs of a member go, and nobody else's.

        Raises:
            CompositionFailed: another one writes one of the files.
            PermissionDenied: one lies where no output may be.
        """
        place = output_location(self._config, self._setting.base_path, member)
        outputs = parsed.config.metadata.outputs
        rival = self._claim(
            member, [artifact.check_output_path(self._engine, place(output.file)) for output in outputs]
        )
        if rival:
            raise CompositionFailed(
                f"{member.id} writes {rival[1]}, as {rival[0]} does already.",
                "Choose the structure nested, or give the outputs different names.",
                composition_strategy=self._config.generation.strategy,
                error_type="DuplicateOutput",
                output_path=rival[1],
            )
        return place

    def _claim(self, member: Member, paths: list[str]) -> tuple[str, str] | None:
        """Take files for a member; another member that has one of them already, and the file."""
        for path in paths:
            if (holder := self._claimed.get(path.casefold(), member.id)) != member.id:
                return holder, path
        self._claimed.update((path.casefold(), member.id) for path in paths)
        return None

    # -- the end --

    async def _conclude(self, started: float, ended_by: MemberError | None = None) -> BuiltCollection:
        """Write down what came of each member; of those that weren't reached, what the work was ended by."""
        members = [
            self._results.get(member.id) or BuiltMember(member, "skipped", error=ended_by)
            for member in self._config.members
        ]
        path = self._setting.manifest_path if self._config.output.manifest else None
        seconds = time.monotonic() - started
        rules = [] if ended_by else _check_rules(self._config, members)
        warnings = self._setting.warnings
        collected = BuiltCollection(self._config, self._setting.base_path, path, members, seconds, warnings, rules)
        if path is not None:
            await self._write_manifest(collected, path, ended_by)
        return collected

    async def _write_manifest(self, collected: BuiltCollection, path: str, ended_by: MemberError | None) -> None:
        """Write the manifest, unless it says already what it would say."""
        said = digest_of(
            [[built.member.id, built.status, built.outputs, built.context_hash] for built in collected.members]
        )
        subject, key = f"manifest:{self._setting.parsed.origin}", self._setting.digest
        known = self._engine.traces.find_trace(subject, key)
        if (
            known is not None
            and collected.cached == len(collected.members)
            and known.result["said"] == said
            and self._build.snapshot.digest(path) == known.inputs.get(path)
        ):
            return
        document = manifest_of(collected, self._setting, ended_by)
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        try:
            await self._engine.folder.write(path, data)
        except OSError as error:
            raise WriteFailed(
                f"The manifest {path} couldn't be written: {error.strerror}.",
                "Check disk space and permissions, then call again; what was built isn't built a second time.",
                **io_details(error, output_path=path),
            ) from error
        self._build.snapshot.forget(path)
        self._engine.traces.add_trace(subject, key, {path: sha256(data)}, {"said": said})
        self._engine.tell_changed(f"manifest://{self._config.id}")


def _reason_of(error: BaseException) -> MemberError:
    """What ended the work before its time."""
    if isinstance(error, ChoraError):
        return MemberError(error.code, f"It wasn't built, because the work ended early: {error.message}", error.hint)
    return MemberError(CANCELLED, "It wasn't built, because the work was cancelled.")


def output_location(config: CollectionConfig, base_path: str, member: Member) -> Callable[[str], str]:
    """Where the structure of a collection puts the outputs of a member."""
    base = PurePosixPath(base_path)
    match config.output.structure:
        case "nested":
            return lambda file: str(base / member.id / PurePosixPath(file).name)
        case "flat":
            return lambda file: str(base / PurePosixPath(file).name)
        case "custom":
            return lambda file: file


def _check_rules(config: CollectionConfig, members: list[BuiltMember]) -> list[RuleResult]:
    present = all(built.status == "success" for built in members if built.member.required)
    clean = all(built.status != "failed" for built in members)
    holds = {"all_members_present": present, "no_failures": clean}
    return [RuleResult(rule.type, holds.get(rule.type, True), rule.required) for rule in config.validation.rules]


def manifest_of(
    collected: BuiltCollection, setting: CollectionPlan, ended_by: MemberError | None = None
) -> dict[str, Any]:
    """The manifest as it is written; secrets in the shared context are blotted out."""
    config, members = collected.config, collected.members
    hits, total = collected.cached, len(members)
    if ended_by:
        status = CANCELLED if ended_by.code == CANCELLED else "failed"
    else:
        status = "failed" if collected.count("failed") else "complete"
    return {
        "collection_id": config.id,
        "collection_name": config.name,
        "status": status,
        "generated_at": now(),
        "generation_time_seconds": round(collected.seconds, 3),
        "total_members": total,
        "successful_members": collected.count("success"),
        "failed_members": collected.count("failed"),
        "members": [
            {
                "id": built.member.id,
                "type": built.member.type,
                "status": built.status,
                "output_path": built.outputs[0] if built.outputs else None,
                "outputs": built.outputs,
                "generated_at": built.generated_at,
                "generation_time_seconds": round(built.seconds, 3),
                "cache_used": built.cache_used,
                "context_hash": built.context_hash,
                "error": built.error._asdict() if built.error else None,
            }
            for built in members
        ],
        "context": {"shared": redacted(setting.shared), "propagation_mode": config.context.propagation},
        "validation": {
            "passed": all(rule.passed for rule in collected.rules if rule.required),
            "rules_evaluated": len(collected.rules),
        },
        "cache_stats": {
            "total_members": total,
            "cache_hits": hits,
            "cache_misses": total - hits,
            "cache_hit_rate": round(hits / total, 4),
        },
    }


# -- looking, without building ----------------------------------------------------------------------------------


async def plan_collection(
    build: Build,
    parsed: ParsedConfig,
    caller: dict[str, Any],
    *,
    output_path: str | None = None,
    force_members: frozenset[str] = frozenset(),
    render: bool = True,
) -> list[PlannedMember]:
    """What `collect` would do with each member and why, without doing it.

    Args:
        work: dry work.
        parsed, given, output_path, force_members: as for `collect`.
        render: also make the texts in memory, to tell what would become of each file.

    Raises:
        as `collect`, but for failed members and rules: those are told with the member.
    """
    check_nesting(build.engine, parsed)
    setting = await _settle(build, parsed, caller, output_path)
    if setting.config.output.manifest:
        _check_manifest(build, setting)
    run = _CollectionRun(build, setting, force_members)
    plans: list[PlannedMember] = []
    await trio.lowlevel.checkpoint()
    for number, member in enumerate(setting.config.members):
        try:
            plans.append(await run.plan(member, render=render))
        except NOT_THE_SOURCES_FAULT:
            raise
        except ChoraError as error:
            plans.append(PlannedMember(member, ["it fails"], [], MemberError.of(error)))
        if number % CHECKPOINT_INTERVAL == CHECKPOINT_INTERVAL - 1:
            await trio.lowlevel.checkpoint()
    return plans


async def manifest_path_of(build: Build, parsed: ParsedConfig, output_path: str | None = None) -> str:
    """Where a collection's manifest is, or would be."""
    if output_path is None and "{" not in parsed.config.output.base_path:
        output_path = parsed.config.output.base_path
    if output_path is None:
        return str(PurePosixPath((await _settle(build, parsed, {}, None)).base_path) / MANIFEST)
    return artifact.check_output_path(build.engine, str(PurePosixPath(output_path) / MANIFEST))


async def read_manifest(build: Build, parsed: ParsedConfig, output_path: str | None = None) -> tuple[str, Manifest]:
    """The path and the content of a collection's manifest.

    Raises:
        ManifestNotFound: there is none, it can't be read, or it is another collection's.
    """
    config: CollectionConfig = parsed.config
    path = await manifest_path_of(build, parsed, output_path)
    problem = "it was never generated there"
    try:
        manifest = decode_json(build.engine.folder.read_bytes(path, limit=MANIFEST_LIMIT), Manifest)
        if manifest.collection_id == config.id:
            return path, manifest
        problem = "what stands there is not its manifest"
    except FileNotFoundError:
        pass
    except (ChoraError, OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = f"what stands there can't be read: {error}"
    raise ManifestNotFound(
        f"{config.id} has no manifest at {path}: {problem}.",
        "Build it with generate_collection.",
        collection_id=config.id,
        manifest_path=path,
    )
