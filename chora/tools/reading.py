"""Tools that read configs and texts, for clients that can't read resources. They are offered only on request."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from chora.engine.engine import Engine
from chora.engine.saved_configs import find_saved_config
from chora.errors import ContentNotFound
from chora.model import Kind
from chora.protocol.types import Call, Link
from chora.tools.discovery import InvalidConfigInfo, invalid_configs
from chora.tools.paging import ROWS, Limit, Offset, Page
from chora.tools.tool import HEAD_LIMIT, ToolArguments, ToolResult, milliseconds_since, tool

CONFIG_BYTES = 64 * 1024
"""The size of a config that is returned whole; a larger one has to be read as a resource."""


class GetConfig(ToolArguments):
    config_id: Annotated[str, Meta(description="Id of the config")]
    config_type: (
        Annotated[
            Literal["content", "artifact", "collection"],
            Meta(description="Its kind, where configs of several kinds have the id"),
        ]
        | None
    ) = None


class ReadConfig(ToolResult):
    config_id: str
    config_type: Kind
    file_path: str
    config: dict[str, Any] | None
    truncated: bool
    resource: str

    def links(self) -> list[Link]:
        return [Link(self.resource, self.config_id, "application/json")] if self.truncated else []


@tool(title="Get a config", category="Reading", read_only=True, idempotent=True)
async def get_config(engine: Engine, arguments: GetConfig, call: Call) -> ReadConfig:
    """Read a config as it is written. Of one over 64 KiB only the URI of its resource is returned."""
    found = find_saved_config(engine, arguments.config_id, arguments.config_type)
    kind, config_id = found.parsed.kind, found.parsed.config.id
    is_whole = call.transport == "cli" or len(msgspec.json.encode(found.parsed.raw)) <= CONFIG_BYTES
    return ReadConfig(
        config_id=config_id,
        config_type=kind,
        file_path=found.path,
        config=found.parsed.raw if is_whole else None,
        truncated=not is_whole,
        resource=f"config://{kind}/{quote(config_id, safe='')}",
    )


class GetText(ToolArguments):
    content_id: Annotated[str, Meta(description="Id of the content")]
    version_id: Annotated[str, Meta(description="An older version; without it the newest")] | None = None
    offset: Annotated[int, Meta(ge=0, description="Characters to leave out before; next_offset goes on")] | None = 0


class ReadText(ToolResult):
    content_id: str
    version_id: str
    generated_at: str
    text: str
    content_length: int
    next_offset: int | None


@tool(title="Get a stored text", category="Reading", read_only=True, idempotent=True)
async def get_text(engine: Engine, arguments: GetText, call: Call) -> ReadText:
    """Read the stored text of a content, 16 KiB at a time."""
    engine.catalog.check_id(arguments.content_id)
    if arguments.version_id:
        version = engine.store.version(arguments.content_id, arguments.version_id)
    else:
        version = engine.store.latest_version(arguments.content_id)
    if version is None or version.deleted:
        named = f" with the version {arguments.version_id[:80]!r}" if arguments.version_id else ""
        exists = engine.catalog.list_configs("content").find(arguments.content_id) is not None
        raise ContentNotFound(
            f"There is no stored text of {arguments.content_id!r}{named}.",
            (None if exists else engine.catalog.hint_for_missing(arguments.content_id, "content"))
            or "list_content shows which contents have one; generate_content makes it.",
            content_id=arguments.content_id,
        )
    rest = version.body[arguments.offset or 0 :]
    shown = rest if call.transport == "cli" else rest[:HEAD_LIMIT].encode()[:HEAD_LIMIT].decode(errors="ignore")
    return ReadText(
        content_id=version.content_id,
        version_id=version.version_id,
        generated_at=version.generated_at,
        text=shown,
        content_length=len(version.body),
        next_offset=(arguments.offset or 0) + len(shown) if len(shown) < len(rest) else None,
    )


class ListCollections(ToolArguments):
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class CollectionInfo(Struct, frozen=True, kw_only=True):
    id: str
    file_path: str
    name: str
    description: str | None
    member_count: int


class Collections(ToolResult):
    total: int
    next_offset: int | None
    collections: list[CollectionInfo]
    invalid: list[InvalidConfigInfo]
    invalid_total: int
    duration_ms: int


@tool(title="List collections", category="Reading", read_only=True, idempotent=True)
async def list_collections(engine: Engine, arguments: ListCollections, call: Call) -> Collections:
    """List the collection configs of the project; files that can't be read are listed under `invalid`."""
    started = time.monotonic()
    page = Page(arguments.limit, arguments.offset, call)
    listing = await engine.catalog.list_in_slices("collection")
    return Collections(
        total=len(listing.found),
        next_offset=page.next_offset(len(listing.found)),
        collections=[
            CollectionInfo(
                id=found.parsed.config.id,
                file_path=found.path,
                name=found.parsed.config.name,
                description=found.parsed.config.description,
                member_count=len(found.parsed.config.members),
            )
            for found in page.of(listing.found)
        ],
        invalid=invalid_configs(listing, page),
        invalid_total=len(listing.invalid),
        duration_ms=milliseconds_since(started),
    )
