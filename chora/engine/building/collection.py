"""Building a collection: its members with shared context, several at once or in turn, and a manifest of the results.

A member of which nothing has changed is recalled by its trace, without opening a config. A member that fails leaves the
others alone, and the manifest records the state of each, also when the build is cancelled half-way.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import trio

from chora.concurrency import for_each_bounded
from chora.config_parsing import ParsedConfig
from chora.config_parsing.cross_checks import COLLECTION_RULES
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.context import deep_merge
from chora.engine.building.members import (
    BuiltCollection,
    BuiltMember,
    CollectionScope,
    MemberBuilder,
    MemberError,
    PlannedMember,
    RuleResult,
    open_member,
    resolve_shared_context,
)
from chora.engine.engine import Engine
from chora.engine.manifest import (
    CANCELLED,
    MANIFEST,
    check_replaceable,
    fixed_manifest_path,
    manifest_path,
    write_manifest,
)
from chora.engine.orphans import Orphan, take_inventory
from chora.engine.outputs import check_output_path
from chora.errors import (
    ChoraError,
    CircularReference,
    CompositionFailed,
    ConfigNotFound,
    MaxDepthExceeded,
    ValidationFailed,
)
from chora.hashing import digest_of
from chora.model import CollectionConfig, Member
from chora.render import RenderFailed, RenderJob
from chora.wording import find_nearest

log = logging.getLogger("chora.engine")

NESTING_LIMIT = 10
PROGRESS_INTERVAL = 0.1
"""Seconds between two progress notifications: ten thousand members would flood a client."""
CHECKPOINT_INTERVAL = 200
"""Members recalled between two checkpoints, at which other tasks run."""
FAILURES_SHOWN = 50
"""Members that a failed build's error lists; the manifest has all."""


class CollectionPlan(NamedTuple):
    """What a build would do with each member, and which files nothing writes any more."""

    members: list[PlannedMember]
    orphans: list[Orphan]


async def build_collection(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    force_members: frozenset[str] = frozenset(),
) -> BuiltCollection:
    """Build every member that has changed, and write the manifest.

    Args:
        build: the build it is part of.
        parsed: the collection config.
        caller: the caller's context.
        output_path: replaces the config's base path.
        force_members: members to build again, changed or not.

    Raises:
        CircularReference, MaxDepthExceeded: collections contain one another, or nest too deep; nothing was built.
        ConfigNotFound: `force_members` names what is no member; nothing was built.
        CompositionFailed: the shared context or the base path can't be resolved, or a required member failed; in the
            latter case the manifest is written and says which.
        OutputEdited: where the manifest belongs is a file that chora didn't write; nothing was built.
        Busy, StorageError, StorageFailed: the build ended early; the manifest says how far it got.
        ValidationFailed: a required rule about the result doesn't hold; the manifest is written.
        PermissionDenied: the base path lies outside the folders that outputs may be written to.
        WriteFailed: the manifest couldn't be written.
    """
    engine = build.engine
    config: CollectionConfig = parsed.config
    started = time.monotonic()
    try:
        check_nesting(engine, parsed)
        _check_forced(config, force_members)
        scope = await _resolve_scope(build, parsed, caller, output_path)
        if config.output.manifest:
            check_replaceable(build, scope)
        is_outermost = build.writer is None
        build = build.for_collection(config.id, scope.base_path, is_given=_is_given(build, config, output_path))
        async with engine.write_locks(f"collection:{parsed.origin}:{scope.base_path}"):
            built = await _CollectionBuild(build, scope, force_members).run_build(started)
            if is_outermost:
                built = built._replace(orphans=await _take_inventory(build, built))
        _raise_failures(built)
    except ChoraError as error:
        _emit_event(engine, config, started, None, error)
        raise
    _emit_event(engine, config, started, built, None)
    return built


async def plan_collection(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    force_members: frozenset[str] = frozenset(),
    render: bool = True,
) -> CollectionPlan:
    """What `build_collection` would do with each member and why, without doing it.

    Args:
        build: a dry build.
        parsed, caller, output_path, force_members: as for `build_collection`.
        render: also generate the texts in memory, to say what would happen to each file.

    Raises:
        as `build_collection`, except for failed members and rules: a failure is part of the member's plan.
    """
    check_nesting(build.engine, parsed)
    _check_forced(parsed.config, force_members)
    scope = await _resolve_scope(build, parsed, caller, output_path)
    is_outermost = build.writer is None
    build = build.for_collection(scope.config.id, scope.base_path, is_given=_is_given(build, scope.config, output_path))
    if scope.config.output.manifest:
        check_replaceable(build, scope)

    async def plan_nested(
        part: Build, nested: ParsedConfig, nested_caller: CallerContext, base_path: str | None
    ) -> list[PlannedMember]:
        plan = await plan_collection(part, nested, nested_caller, output_path=base_path, render=render)
        return plan.members

    builder = MemberBuilder(build, scope, force_members, _claimed_files(scope))
    plans: list[PlannedMember] = []
    await trio.lowlevel.checkpoint()
    for number, member in enumerate(scope.config.members):
        plans.append(await builder.plan_member(member, plan_nested, render=render))
        if number % CHECKPOINT_INTERVAL == CHECKPOINT_INTERVAL - 1:
            await trio.lowlevel.checkpoint()
    unknown = {plan.member.id for plan in plans if plan.error is not None}
    return CollectionPlan(plans, await _find_gone(build, unknown, dry=True) if is_outermost else [])


def _is_given(build: Build, config: CollectionConfig, output_path: str | None) -> bool:
    """Whether a caller or a context decides where a collection goes."""
    return output_path is not None or fixed_manifest_path(build.engine, config) is None


async def _take_inventory(build: Build, built: BuiltCollection) -> list[Orphan]:
    return await _find_gone(build, {each.member.id for each in built.members if each.status != "success"}, dry=False)


async def _find_gone(build: Build, unknown: set[str], *, dry: bool) -> list[Orphan]:
    """The files of earlier builds that are orphans now.

    Args:
        build: the build of the outermost collection.
        unknown: the members that failed: what they wrote before is still theirs.
        dry: remember nothing.
    """
    assert build.writer is not None
    return await take_inventory(build.engine, build.writer, build.claimed, unknown, dry=dry)


def _check_forced(config: CollectionConfig, force_members: frozenset[str]) -> None:
    """Refuse to force what is no member: nobody would notice that nothing was built again."""
    members = [member.id for member in config.members]
    unknown = sorted(force_members.difference(members))
    if not unknown:
        return
    near = [name for each in unknown[:10] for name in find_nearest(each, members, 1)]
    meant = f"Did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    raise ConfigNotFound(
        f"{config.id} has no member {', '.join(unknown[:10])}{' …' * (len(unknown) > 10)}; nothing was built.",
        f"{meant}It has {', '.join(members[:20])}{' …' * (len(members) > 20)}.",
        collection_id=config.id,
        unknown_members=unknown[:100],
    )


def check_nesting(engine: Engine, parsed: ParsedConfig) -> int:
    """How many levels of collections it has; members that can't be opened count as artifacts.

    Raises:
        CircularReference: a collection contains itself.
        MaxDepthExceeded: there are too many levels.
    """
    known: dict[str, int] = {}
    """Levels below each collection that was visited; many may share one."""

    def depth_of(collection: ParsedConfig, chain: tuple[ParsedConfig, ...]) -> int:
        names = [each.config.id for each in (*chain, collection)]
        if any(each.origin == collection.origin for each in chain):
            raise CircularReference(
                f"The collections contain one another: {' → '.join(names)}.",
                "Remove one of them from the other.",
                collection_id=names[0],
                cycle=names,
                chain=names,
            )
        if (depth := known.get(collection.origin)) is None:
            depth = 1
            if len(names) <= NESTING_LIMIT:
                for member in collection.config.members:
                    if member.type == "collection" and (nested := _open_nested(engine, member)) is not None:
                        depth = max(depth, 1 + depth_of(nested, (*chain, collection)))
                known[collection.origin] = depth
        if len(chain) + depth > NESTING_LIMIT:
            raise MaxDepthExceeded(
                f"{names[0]} nests collections more than {NESTING_LIMIT} deep.",
                "Move some of the artifacts into an outer collection.",
                collection_id=names[0],
                chain=names,
                max_depth=NESTING_LIMIT,
            )
        return depth

    return depth_of(parsed, ())


async def find_manifest_path(build: Build, parsed: ParsedConfig, output_path: str | None = None) -> str:
    """Where a collection's manifest is, or would be; raises as `build_collection`."""
    if output_path is None and "{" not in parsed.config.output.base_path:
        output_path = parsed.config.output.base_path
    if output_path is None:
        return manifest_path((await _resolve_scope(build, parsed, CallerContext({}), None)).base_path)
    return check_output_path(build.engine, manifest_path(output_path))


def scope_digest(
    settings_digest: str, config: CollectionConfig, base_path: str, shared: dict[str, Any], context: dict[str, Any]
) -> str:
    """A hash of everything that the members of a collection have in common; the rest is in the members' own keys."""
    names = [config.id, config.name, config.context.propagation, config.output.structure]
    return digest_of([settings_digest, names, base_path, shared, context])


class _CollectionBuild:
    """The building of one collection: its members in groups, progress, and the manifest in the end."""

    def __init__(self, build: Build, scope: CollectionScope, force_members: frozenset[str]) -> None:
        self._build = build
        self._scope = scope
        self._config = scope.config
        self._builder = MemberBuilder(build, scope, force_members, _claimed_files(scope))
        self._results: dict[str, BuiltMember] = {}
        self._notified_at = 0.0
        self._last_message = "nothing has changed"
        self._stopping = False

    async def run_build(self, started: float) -> BuiltCollection:
        try:
            for group in self._group_members():
                await self._build_group(group)
            if self._build.progress:
                total = len(self._config.members)
                await self._build.progress(total, total, self._last_message)
        except BaseException as error:  # cancelled, or the server is at fault: the manifest says how far it got
            with trio.CancelScope(shield=True):
                try:
                    await self._finish(started, _ended_by(error))
                except ChoraError as another:
                    log.warning("the manifest of %s couldn't be written: %s", self._config.id, another.message)
            raise
        return await self._finish(started, None)

    def _group_members(self) -> list[list[Member]]:
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
        changed: list[Member] = []
        for number, member in enumerate(group):
            recalled = None if self._stopping else await self._builder.recall_member(member)
            if recalled is None:
                changed.append(member)
            else:
                self._results[member.id] = recalled
            if number % CHECKPOINT_INTERVAL == CHECKPOINT_INTERVAL - 1:
                await trio.lowlevel.checkpoint()

        async def build_member(member: Member) -> None:
            await self._add_result(await self._builder.build_member(member, _build_nested))

        limit = self._config.generation.concurrency_limit
        for member in await for_each_bounded(changed, build_member, limit=limit, should_stop=lambda: self._stopping):
            error = MemberError("not_run", f"{member.id} wasn't started, because another member had failed.")
            self._results[member.id] = BuiltMember(member, "skipped", error=error)

    async def _add_result(self, built: BuiltMember) -> None:
        self._results[built.member.id] = built
        if built.status == "failed" and self._config.validation.fail_fast:
            self._stopping = True
        self._last_message = f"{built.member.id}: {built.status}"
        done, total = len(self._results), len(self._config.members)
        # The last notification follows when everything is done.
        if self._build.progress and done < total and trio.current_time() - self._notified_at >= PROGRESS_INTERVAL:
            self._notified_at = trio.current_time()
            await self._build.progress(done, total, self._last_message)

    async def _finish(self, started: float, ended_by: MemberError | None) -> BuiltCollection:
        """The result, written to the manifest; members that weren't reached have the reason why."""
        config = self._config
        members = [
            self._results.get(member.id) or BuiltMember(member, "skipped", error=ended_by) for member in config.members
        ]
        rules = [] if ended_by else _check_rules(config, members)
        unchecked = [rule.type for rule in config.validation.rules if rule.type not in COLLECTION_RULES]
        built = BuiltCollection(
            config,
            self._scope.base_path,
            manifest_path(self._scope.base_path) if config.output.manifest else None,
            members,
            time.monotonic() - started,
            [*self._scope.warnings, *(f"there is no rule {name}, so it wasn't checked" for name in unchecked)],
            rules,
        )
        if config.output.manifest:
            await write_manifest(self._build, self._scope, built, ended_by)
        return built


async def _build_nested(
    build: Build, parsed: ParsedConfig, caller: CallerContext, base_path: str | None
) -> BuiltCollection:
    return await build_collection(build, parsed, caller, output_path=base_path)


def _open_nested(engine: Engine, member: Member) -> ParsedConfig | None:
    try:
        return open_member(engine, member).parsed
    except ChoraError:
        return None


async def _resolve_scope(
    build: Build, parsed: ParsedConfig, caller: CallerContext, output_path: str | None
) -> CollectionScope:
    """Resolve the shared context and the base path."""
    config: CollectionConfig = parsed.config
    context = caller.context
    shared, warnings = await resolve_shared_context(build, config.id, config.context.shared)
    base_path = output_path or await _resolve_base_path(build.engine, config, deep_merge(shared, context))
    checked = check_output_path(build.engine, manifest_path(base_path))
    base_path = checked.removesuffix(MANIFEST).rstrip("/") or "."
    digest = scope_digest(build.settings_digest, config, base_path, shared, context)
    names = caller.shared | shared.keys() - context.keys()
    return CollectionScope(parsed, base_path, shared, digest, context, warnings, frozenset(names))


async def _resolve_base_path(engine: Engine, config: CollectionConfig, context: dict[str, Any]) -> str:
    """The base path of a config, rendered if it is a template."""
    text = config.output.base_path
    if "{" not in text:
        return text
    names = {**context, "collection_id": config.id, "collection_name": config.name}
    job = RenderJob(template=text, name=f"the base path of {config.id}", context=names, undefined="strict")
    try:
        return (await engine.templates.pool.render_template(job)).text.strip()
    except RenderFailed as failure:
        raise CompositionFailed(
            f"{config.id}: {job.name} can't be rendered: {failure.reason.message}.",
            "A base path knows collection_id, collection_name and the shared context.",
            composition_strategy="collection",
            error_type="InvalidBasePath",
            output_path=text,
        ) from None


def _claimed_files(scope: CollectionScope) -> dict[str, str]:
    """The files that no member may write."""
    return {manifest_path(scope.base_path): "the manifest"} if scope.config.output.manifest else {}


def _ended_by(error: BaseException) -> MemberError:
    """Why the remaining members weren't built."""
    if isinstance(error, ChoraError):
        return MemberError(
            error.code, f"It wasn't built, because the build ended early: {error.message}", error.next_step
        )
    return MemberError(CANCELLED, "It wasn't built, because the build was cancelled.")


def _check_rules(config: CollectionConfig, members: list[BuiltMember]) -> list[RuleResult]:
    present = all(built.status == "success" for built in members)  # optional ones too: they may fail, not be present
    clean = all(built.status != "failed" for built in members)
    holds = {"all_members_present": present, "no_failures": clean}
    return [
        RuleResult(rule.type, holds[rule.type], rule.required) for rule in config.validation.rules if rule.type in holds
    ]


def _raise_failures(built: BuiltCollection) -> None:
    """Raise the error of a failed required member or rule."""
    failed = [
        each for each in built.members if each.member.required and each.status != "success" and each.error is not None
    ]
    unsuccessful = [each for each in built.members if each.status != "success"]
    details: dict[str, Any] = {
        "collection_id": built.config.id,
        "manifest_path": built.manifest_path,
        "failed_members": [each.member.id for each in failed[:FAILURES_SHOWN]],
        "failed_total": len(failed),
        "members": [
            {"id": each.member.id, "status": each.status, "error": each.error._asdict() if each.error else None}
            for each in unsuccessful[:FAILURES_SHOWN]
        ],
        "total_members": len(built.members),
        "successful_members": built.count("success"),
        "cached_members": built.cached,
        "generation_time_seconds": round(built.seconds, 3),
    }
    if failed:
        first = next((each for each in failed if each.status == "failed"), failed[0])
        assert first.error is not None
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CompositionFailed(
            f"{built.config.id}: the required member {first.member.id} failed{more}: {first.error.message}",
            first.error.hint or "Fix the member and call again; what succeeded isn't built a second time.",
            composition_strategy=built.config.generation.strategy,
            error_type=first.error.code,
            **details,
        )
    broken = [rule.type for rule in built.rules if rule.required and not rule.passed]
    if broken:
        raise ValidationFailed(
            f"{built.config.id}: the rule {broken[0]} doesn't hold for the result.",
            "The manifest has the result of each member.",
            rules=broken,
            **details,
        )


def _emit_event(
    engine: Engine, config: CollectionConfig, started: float, built: BuiltCollection | None, error: ChoraError | None
) -> None:
    engine.events.emit_event(
        "collection_generated",
        "error" if error else "success",
        collection_id=config.id,
        member_count=len(config.members),
        cached_count=built.cached if built else None,
        failed_count=built.count("failed") if built else None,
        duration_ms=round((time.monotonic() - started) * 1000),
        cache_hit=built is not None and built.cached == len(built.members),
        error_code=error.code if error else None,
        error_message=error.message if error else None,
    )
