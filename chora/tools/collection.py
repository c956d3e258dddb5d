"""Tools that build collections, and inspect what was built."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import trio
from msgspec import Meta, Struct, field

from chora.catalog import FoundConfig
from chora.engine.building import collection
from chora.engine.building.artifact import PlannedOutput
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.members import BuiltMember, PlannedMember, open_member
from chora.engine.engine import Engine
from chora.engine.manifest import ManifestMember, read_manifest
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    InvalidConfigId,
    LimitExceeded,
    ManifestNotFound,
    PermissionDenied,
)
from chora.model import CollectionConfig
from chora.protocol.types import Call, Link
from chora.tools.artifact import Orphans, PlannedFile, describe_orphans, describe_planned_file
from chora.tools.paging import ROWS, Limit, Offset, Page
from chora.tools.tool import Context, ToolArguments, ToolResult, milliseconds_since, parse_context, tool

MEMBERS_LISTED = 50_000
"""Members that can be listed with nested ones; a few collections nested repeatedly can come to any number (CWE-770)."""
MEMBERS_SHOWN = ROWS
"""Members in an answer. Of a larger collection only those that were built or failed, the failed ones first: unchanged
ones are counted. The command line gets all.
"""

CollectionPath = Annotated[
    str, Meta(description="Id of a collection config, or its file, relative to configs/collection/")
]
BasePath = Annotated[str, Meta(description="Folder to use instead of the config's base path")]


T = TypeVar("T")


def find_collection(engine: Engine, path: str) -> FoundConfig:
    """The collection config that a path or an id names.

    Raises:
        InvalidConfigId: it leads outside the project.
        ConfigNotFound, ValidationFailed: as `Catalog.open`.
    """
    try:
        return engine.catalog.open_config("collection", path)
    except (PermissionDenied, InvalidConfigId) as error:
        hint = error.hint or "Name a collection config of the project by its id or its file."
        raise InvalidConfigId(error.message, hint, config_path=path, **error.details) from None
    except ConfigNotFound as error:
        error.details["config_path"] = path
        raise


class GenerateCollection(ToolArguments):
    collection_config_path: CollectionPath
    force: Annotated[bool, Meta(description="Build every member again")] | None = False
    force_members: Annotated[list[str], Meta(description="Ids of members to build again")] | None = None
    output_path: BasePath | None = None
    context: Context = None
    dry_run: Annotated[bool, Meta(description="Only report what would be built, and why")] | None = False
    show_diff: Annotated[bool, Meta(description="In a dry run, also how each file would differ")] | None = False


class MemberFailure(Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None
    diff: str = ""
    """How a file that a person edited differs from what would be written."""


class MemberResult(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["artifact", "collection"]
    status: Literal["success", "failed", "skipped"]
    cache_used: bool
    error: MemberFailure | None
    output_path: str | None
    reasons: list[str] = []
    """In a dry run: why it would be built."""
    files: list[PlannedFile] = []
    """In a dry run with show_diff: the planned action for each file."""
    conflicts: list[str] = []
    """Files in which conflicts between an edit and the new text are marked."""


class CollectionMetadata(Struct, frozen=True, kw_only=True):
    cached_members: int
    regenerated_members: int
    propagation_mode: str
    strategy: str
    dry_run: bool
    warnings: list[str]
    conflicts: list[str] = []
    """Files of all members in which conflicts between an edit and the new text are marked, until they are settled."""
    orphans: Orphans = Orphans()


class GeneratedCollection(ToolResult):
    collection_id: str
    collection_name: str
    members: list[MemberResult]
    manifest_path: str | None
    generation_time_seconds: float
    total_members: int
    successful_members: int
    failed_members: int
    metadata: CollectionMetadata
    truncated: bool = False
    resource: str | None = None

    def links(self) -> list[Link]:
        return [] if self.resource is None else [Link(self.resource, self.collection_id, "application/json")]


@tool(title="Generate a collection", category="Collections", destructive=True, idempotent=True, long=True)
async def generate_collection(engine: Engine, arguments: GenerateCollection, call: Call) -> GeneratedCollection:
    """Build a collection's members with their shared context, and write manifest.json. Unchanged members are not built.

    dry_run reports what would be built and why, without writing.
    """
    started = time.monotonic()
    parsed = find_collection(engine, arguments.collection_config_path).parsed
    caller = CallerContext(parse_context(arguments.context))
    config: CollectionConfig = parsed.config
    forced = frozenset(arguments.force_members or ())
    if arguments.dry_run:
        build = Build(engine, force=bool(arguments.force), dry=True)
        plans, orphans = await collection.plan_collection(
            build, parsed, caller, output_path=arguments.output_path, force_members=forced
        )
        noted = _noteworthy(plans, call, is_quiet=lambda plan: plan.cached, has_failed=lambda plan: bool(plan.error))
        shown = [_planned_member(plan, show_files=bool(arguments.show_diff)) for plan in noted]
        manifest_path: str | None = None
        failed = sum(plan.error is not None for plan in plans)
        total, warnings = len(plans), list[str]()
        cached, successful = sum(plan.cached for plan in plans), total - failed
        made = total - cached - failed
        conflicts = [file.path for plan in plans for file in _files_of(plan) if file.conflicts]
    else:
        build = Build(engine, force=bool(arguments.force), progress=call.progress)
        built = await collection.build_collection(
            build, parsed, caller, output_path=arguments.output_path, force_members=forced
        )
        noted = _noteworthy(
            built.members,
            call,
            is_quiet=lambda each: each.cache_used and not each.conflicts,
            has_failed=lambda each: each.status == "failed",
        )
        shown = [_member_result(each) for each in noted]
        manifest_path = built.manifest_path
        cached, failed, successful = built.cached, built.count("failed"), built.count("success")
        total, made = len(built.members), successful - cached
        named = [f"{each.member.id}: {warning}" for each in noted for warning in each.warnings]
        warnings = [*built.warnings, *named][:MEMBERS_SHOWN]
        conflicts, orphans = built.conflicts, built.orphans
    truncated = len(shown) < total
    return GeneratedCollection(
        collection_id=config.id,
        collection_name=config.name,
        members=shown,
        manifest_path=manifest_path,
        generation_time_seconds=round(time.monotonic() - started, 3),
        total_members=total,
        successful_members=successful,
        failed_members=failed,
        metadata=CollectionMetadata(
            cached_members=cached,
            regenerated_members=made,
            propagation_mode=config.context.propagation,
            strategy=config.generation.strategy,
            dry_run=bool(arguments.dry_run),
            warnings=warnings,
            conflicts=conflicts[:MEMBERS_SHOWN],
            orphans=describe_orphans(orphans),
        ),
        truncated=truncated,
        resource=f"manifest://{config.id}" if truncated and manifest_path else None,
    )


def _noteworthy(
    members: Sequence[T], call: Call, *, is_quiet: Callable[[T], bool], has_failed: Callable[[T], bool]
) -> Sequence[T]:
    """The members that an answer lists; making rows of ten thousand would take longer than an unchanged build."""
    if call.transport == "cli" or len(members) <= MEMBERS_SHOWN:
        return members
    changed = [each for each in members if not is_quiet(each)]
    return sorted(changed, key=has_failed, reverse=True)[:MEMBERS_SHOWN]


def _member_result(built: BuiltMember) -> MemberResult:
    return MemberResult(
        id=built.member.id,
        type=built.member.type,
        status=built.status,
        cache_used=built.cache_used,
        error=MemberFailure(*built.error) if built.error else None,
        output_path=built.outputs[0] if built.outputs else None,
        conflicts=built.conflicts[:MEMBERS_SHOWN],
    )


def _planned_member(plan: PlannedMember, *, show_files: bool) -> MemberResult:
    files = _files_of(plan)
    return MemberResult(
        id=plan.member.id,
        type=plan.member.type,
        status="failed" if plan.error else "success",
        cache_used=plan.cached,
        error=MemberFailure(*plan.error) if plan.error else None,
        output_path=plan.files[0].path if plan.files else None,
        reasons=plan.reasons,
        files=[describe_planned_file(file) for file in files] if show_files else [],
        conflicts=[file.path for file in files if file.conflicts][:MEMBERS_SHOWN],
    )


def _files_of(plan: PlannedMember) -> list[PlannedOutput]:
    return [*plan.files, *(file for nested in plan.nested for file in _files_of(nested))]


# -- members ----------------------------------------------------------------------------------------------------


class ListCollectionMembers(ToolArguments):
    collection_config_path: CollectionPath
    check_status: Annotated[bool, Meta(description="Also report whether each was generated")] | None = True
    recursive: Annotated[bool, Meta(description="Also the members of nested collections")] | None = False
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class MemberInfo(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["artifact", "collection"]
    title: str | None
    description: str | None
    generated: bool | None
    output_path: str | None
    member_count: int | None
    parent: str | None = None
    error: str | None = None


class CollectionMembers(ToolResult):
    collection_id: str
    members: list[MemberInfo]
    next_offset: int | None
    total_members: int
    generated_members: int
    duration_ms: int


@tool(title="List a collection's members", category="Collections", read_only=True, idempotent=True)
async def list_collection_members(engine: Engine, arguments: ListCollectionMembers, call: Call) -> CollectionMembers:
    """List the members of a collection and whether each was generated."""
    started = time.monotonic()
    parsed = find_collection(engine, arguments.collection_config_path).parsed
    collection.check_nesting(engine, parsed)
    page = Page(arguments.limit, arguments.offset, call)
    members: list[MemberInfo] = []
    await _list_members(Build(engine, dry=True), parsed, arguments, members)
    return CollectionMembers(
        collection_id=parsed.config.id,
        members=list(page.of(members)),
        next_offset=page.next_offset(len(members)),
        total_members=len(members),
        generated_members=sum(bool(member.generated) for member in members),
        duration_ms=milliseconds_since(started),
    )


async def _list_members(
    build: Build,
    parsed: Any,
    arguments: ListCollectionMembers,
    listed: list[MemberInfo],
    parent: str | None = None,
    base_path: str | None = None,
) -> None:
    config: CollectionConfig = parsed.config
    made: dict[str, ManifestMember] = {}
    path = ""
    if arguments.check_status is not False:
        try:
            path = await collection.find_manifest_path(build, parsed, base_path)
            manifest = read_manifest(build.engine, config, path)
            made = {member.id: member for member in manifest.members}
        except ManifestNotFound as error:
            path = str(error.details["manifest_path"])
    await trio.lowlevel.checkpoint()
    for member in sorted(config.members, key=lambda member: member.order):
        known = made.get(member.id) or ManifestMember(member.id)
        title = description = error = None
        count: int | None = None
        inner = None
        try:
            inner = open_member(build.engine, member).parsed
            if member.type == "collection":
                title, description, count = inner.config.name, inner.config.description, len(inner.config.members)
            else:
                title = inner.config.metadata.title
                description = inner.config.metadata.description or inner.config.metadata.purpose
        except ChoraError as problem:
            error = problem.message
        listed.append(
            MemberInfo(
                id=member.id,
                type=member.type,
                title=title,
                description=description,
                generated=None if arguments.check_status is False else known.status == "success",
                output_path=known.output_path,
                member_count=count,
                parent=parent,
                error=error,
            )
        )
        if arguments.recursive and inner is not None and member.type == "collection":
            is_custom = config.output.structure == "custom"
            place = None if is_custom else f"{path.rpartition('/')[0] or '.'}/{member.id}"
            outer = config.id if parent is None else f"{parent}/{config.id}"
            await _list_members(build, inner, arguments, listed, outer, place)
        if len(listed) > MEMBERS_LISTED:
            raise LimitExceeded(
                f"The list would be longer than {MEMBERS_LISTED:,} members.",
                "List the members of one collection at a time, without recursive.",
                limit="collection.members",
            )


# -- cache ------------------------------------------------------------------------------------------------------


class CheckCollectionCache(ToolArguments):
    collection_config_path: CollectionPath
    check_member_cache: Annotated[bool, Meta(description="Check every member")] | None = True
    output_path: BasePath | None = None
    context: Context = None
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class CacheMetadata(Struct, frozen=True, kw_only=True):
    manifest_path: str
    last_generated: str | None
    reasons: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


class CollectionCache(ToolResult):
    collection_id: str
    cache_valid: bool
    manifest_exists: bool
    members_cached: int
    members_stale: int
    stale_members: list[str]
    next_offset: int | None
    recommendation: Literal["use_cache", "regenerate_all", "regenerate_stale"]
    metadata: CacheMetadata


@tool(title="Check a collection's cache", category="Collections", read_only=True, idempotent=True)
async def check_collection_cache(engine: Engine, arguments: CheckCollectionCache, call: Call) -> CollectionCache:
    """Report which members generate_collection would build now and why, without building any."""
    page = Page(arguments.limit, arguments.offset, call)
    parsed = find_collection(engine, arguments.collection_config_path).parsed
    build = Build(engine, dry=True)
    last_generated = None
    exists = True
    try:
        path = await collection.find_manifest_path(build, parsed, arguments.output_path)
        manifest = read_manifest(engine, parsed.config, path)
        last_generated = manifest.generated_at
    except ManifestNotFound as error:
        exists, path = False, str(error.details["manifest_path"])
    members = [member.id for member in parsed.config.members]
    reasons: dict[str, list[str]] = {}
    is_checked = arguments.check_member_cache is not False
    if not is_checked:
        stale = [] if exists else members
    else:
        plans, _ = await collection.plan_collection(
            build,
            parsed,
            CallerContext(parse_context(arguments.context)),
            output_path=arguments.output_path,
            render=False,
        )
        reasons = {plan.member.id: plan.reasons for plan in plans if plan.reasons}
        stale = list(reasons)
    # Unless the members were looked at, nobody knows that none is stale.
    is_valid = exists and is_checked and not stale
    shown = list(page.of(stale))
    return CollectionCache(
        collection_id=parsed.config.id,
        cache_valid=is_valid,
        manifest_exists=exists,
        members_cached=len(members) - len(stale) if is_checked else 0,
        members_stale=len(stale),
        stale_members=shown,
        next_offset=page.next_offset(len(stale)),
        # Unless the members were looked at, nobody knows that none is stale.
        recommendation="regenerate_all"
        if not exists
        else "use_cache"
        if is_checked and not stale
        else "regenerate_stale",
        metadata=CacheMetadata(
            manifest_path=path,
            last_generated=last_generated,
            reasons={id: reasons[id] for id in shown if id in reasons},
        ),
    )
