"""Tools that delete stored versions."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from chora.engine import retention
from chora.engine.building.context import json_type
from chora.engine.engine import Engine
from chora.errors import ContentNotFound, DeletionFailed, InvalidRetention, ReferencedByArtifacts, StorageError
from chora.leniency import is_unset
from chora.protocol.types import Call
from chora.tools.schemas import object_schema
from chora.tools.tool import ToolArguments, ToolResult, milliseconds_since, parse_object, tool

Days = Annotated[int, Meta(ge=0)]


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    keep_versions: Annotated[int, Meta(ge=0, description="How many of the newest versions stay")] = 3
    keep_days: Annotated[
        int, Meta(ge=0, description="Versions of the last days stay; 0: none stays because of its age")
    ] = 7
    keep_latest: Annotated[bool, Meta(description="The newest version stays")] = True


RETENTION_SCHEMA = object_schema(Retention)


class CleanupFilter(Struct, frozen=True, forbid_unknown_fields=True):
    content_ids: Annotated[list[str], Meta(description="Only these contents")] | None = None
    older_than_days: Annotated[Days, Meta(description="Only versions older than that")] | None = None


class CleanupEphemeral(ToolArguments):
    retention: Annotated[Any, Meta(description="What to keep", extra_json_schema=RETENTION_SCHEMA)] = None
    filter: Annotated[CleanupFilter | None, Meta(description="What to look at")] = None
    dry_run: Annotated[bool, Meta(description="Only report what would be deleted")] | None = False


class ContentCleanup(Struct, frozen=True, kw_only=True):
    content_id: str
    versions_before: int
    versions_after: int
    versions_deleted: int
    bytes_freed: int
    oldest_kept: str | None
    latest_kept: str | None


class Cleanup(ToolResult):
    status: Literal["cleaned", "dry_run"]
    total_content_checked: int
    total_versions_deleted: int
    bytes_freed: int
    content_cleaned: list[ContentCleanup]
    drafts_deleted: int
    dry_run: bool
    duration_ms: int


@tool(title="Clean up stored texts", category="Storage", destructive=True, idempotent=True, scope="admin")
async def cleanup_ephemeral(engine: Engine, arguments: CleanupEphemeral, call: Call) -> Cleanup:
    """Delete old stored versions. A version stays that is the latest, among the newest keep_versions, or younger than
    keep_days. Old drafts are deleted, too.
    """
    started = time.monotonic()
    wanted = arguments.filter or CleanupFilter()
    rules = _parse_retention(arguments.retention, wanted.older_than_days)
    dry_run = bool(arguments.dry_run)
    checked, cleaned = await retention.clean_content(engine, rules, content_ids=wanted.content_ids, dry_run=dry_run)
    drafts = 0 if wanted.content_ids is not None else await retention.drop_old_drafts(engine, dry_run=dry_run)
    return Cleanup(
        status="dry_run" if dry_run else "cleaned",
        total_content_checked=checked,
        total_versions_deleted=sum(each.deleted for each in cleaned),
        bytes_freed=sum(each.bytes_freed for each in cleaned),
        content_cleaned=[
            ContentCleanup(
                content_id=each.content_id,
                versions_before=each.before,
                versions_after=each.before - each.deleted,
                versions_deleted=each.deleted,
                bytes_freed=each.bytes_freed,
                oldest_kept=each.oldest_kept,
                latest_kept=each.newest_kept,
            )
            for each in cleaned
        ],
        drafts_deleted=drafts,
        dry_run=dry_run,
        duration_ms=milliseconds_since(started),
    )


def _parse_retention(given: Any, older_than_days: int | None) -> retention.RetentionRules:
    """The requested retention.

    Raises:
        InvalidRetention: a rule is out of bounds; the details name it.
    """
    rules = {} if is_unset(given) else parse_object(given, "retention")
    for field in msgspec.structs.fields(Retention):
        value = rules.get(field.name, field.default)
        kind = bool if field.name == "keep_latest" else int
        is_right = type(value) is kind and (kind is bool or value >= 0)
        if not is_right:
            constraint = "true or false" if kind is bool else "a whole number, 0 or more"
            raise InvalidRetention(
                f"retention.{field.name} is {msgspec.json.encode(value).decode()[:80]} ({json_type(value)}), "
                f"not {constraint}.",
                "Leave it out for its default: keep_versions 3, keep_days 7, keep_latest true.",
                field=field.name,
                value=value,
                constraint=constraint,
            )
    if unknown := sorted(set(rules) - set(Retention.__struct_fields__)):
        raise InvalidRetention(
            f"retention has no rule {unknown[0]!r}.",
            f"There are {', '.join(Retention.__struct_fields__)}.",
            field=unknown[0],
            value=rules[unknown[0]],
            constraint="a known rule",
        )
    asked = msgspec.convert(rules, Retention)
    return retention.RetentionRules(asked.keep_versions, asked.keep_days, asked.keep_latest, older_than_days)


class DeleteContent(ToolArguments):
    content_id: Annotated[str, Meta(description="Id of a content with stored versions, or of a draft")]
    preserve_metadata: Annotated[bool, Meta(description="Delete the texts and keep their metadata")] | None = False
    force: Annotated[bool, Meta(description="Delete even if artifacts are assembled from it")] | None = False


class References(Struct, frozen=True):
    artifact_ids: list[str]
    count: int


class DeletedContent(ToolResult):
    status: Literal["deleted"]
    content_id: str
    versions_deleted: int
    bytes_freed: int
    metadata_preserved: bool
    references: References
    warnings: list[str]
    duration_ms: int


async def _confirm_deletion(call: Call, content_id: str, users: list[str]) -> bool:
    """Whether the user, if the client supports elicitation, confirms deleting a content that artifacts use."""
    if call.client is None:
        return False
    named = ", ".join(users[:10]) + (f" and {len(users) - 10} more" if len(users) > 10 else "")
    message = f"{content_id} is a part of {named}. Delete its texts anyway?"
    return bool(await call.client.confirm(message, ["delete_content", content_id, users]))


@tool(title="Delete a content's texts", category="Storage", destructive=True, scope="admin")
async def delete_content(engine: Engine, arguments: DeleteContent, call: Call) -> DeletedContent:
    """Delete every stored version of a content; its config stays. Refused while artifacts use it, unless forced.

    With the id of a draft, the draft is discarded.
    """
    started = time.monotonic()
    engine.catalog.check_id(arguments.content_id)
    draft = engine.store.draft(arguments.content_id)
    state = engine.store.content_state(arguments.content_id)
    if draft is None and not (state.kept if arguments.preserve_metadata else state.versions):
        raise ContentNotFound(
            f"No text of {arguments.content_id!r} is stored.",
            engine.catalog.hint_for_missing(arguments.content_id, "content") or "list_content shows what is stored.",
            content_id=arguments.content_id,
        )
    users = await retention.referring_artifacts(engine, arguments.content_id)
    if users and not arguments.force and not await _confirm_deletion(call, arguments.content_id, users):
        raise ReferencedByArtifacts(
            f"{arguments.content_id} is a part of {', '.join(users[:10])}.",
            "Take it out of them first, or pass force: true; they will generate it again.",
            content_id=arguments.content_id,
            artifact_ids=users,
        )
    try:
        deleted = await retention.delete_content(
            engine.store, arguments.content_id, keep_metadata=bool(arguments.preserve_metadata)
        )
        await engine.store.delete_draft(arguments.content_id)
    except StorageError as error:
        raise DeletionFailed(
            f"{arguments.content_id} couldn't be deleted: {error.message}",
            error.hint,
            content_id=arguments.content_id,
            **error.details,
        ) from error
    engine.changes.publish(f"content://{arguments.content_id}")
    return DeletedContent(
        status="deleted",
        content_id=arguments.content_id,
        versions_deleted=deleted.number,
        bytes_freed=deleted.bytes,
        metadata_preserved=bool(arguments.preserve_metadata),
        references=References(users, len(users)),
        warnings=[f"{user} is assembled from it and will generate it again" for user in users],
        duration_ms=milliseconds_since(started),
    )
