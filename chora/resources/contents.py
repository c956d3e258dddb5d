"""Stored texts and their versions."""

from __future__ import annotations

from collections.abc import Iterator

from chora.errors import ContentNotFound
from chora.protocol.types import VALUES_LIMIT, Resource, ResourceStat
from chora.resources.family import TEXT, Listed, Parameter, ResourceContext, format_json
from chora.resources.uris import Arguments, content_uri
from chora.store.store import Store

PAGE = 100
"""Contents that are looked up at once."""
COUNTED_AT_ONCE = 10_000
VERSIONS_SHOWN = 500
"""The newest versions of a content are shown; any can be read."""


def read_content(context: ResourceContext, arguments: Arguments) -> str:
    version = context.engine.store.latest_version(arguments["content_id"])
    if version is None:
        raise _content_not_found(arguments["content_id"])
    return version.body


def read_version(context: ResourceContext, arguments: Arguments) -> str:
    content_id, version_id = arguments["content_id"], arguments["version_id"]
    version = context.engine.store.version(content_id, version_id)
    if version is None or version.deleted:
        raise ContentNotFound(
            f"There is no text of {content_id} with the version {version_id!r}.",
            f"Read {content_uri(content_id)}/versions for those there are.",
            content_id=content_id,
            version_id=version_id,
        )
    return version.body


def read_versions(context: ResourceContext, arguments: Arguments) -> str:
    content_id = arguments["content_id"]
    state = context.engine.store.content_state(content_id)
    if not state.versions:
        raise _content_not_found(content_id)
    latest = state.newest.version_id if state.newest else None
    versions = [
        {
            "version": info.version_id,
            "timestamp": info.generated_at,
            "size_bytes": info.size,
            "is_latest": info.version_id == latest,
            "generator": info.generator,
            "config_version": info.config_version,
            "stage": info.stage,
            "approved": info.approved,
            "deleted": info.deleted,
        }
        for info in reversed(context.engine.store.newest_infos(content_id, VERSIONS_SHOWN))
    ]
    shown = {"content_id": content_id, "total_versions": state.versions, "versions": versions}
    return format_json(shown | ({"truncated": True} if len(versions) < state.versions else {}))


def _content_not_found(content_id: str) -> ContentNotFound:
    return ContentNotFound(
        f"No text of {content_id!r} is stored.",
        "Make one with generate_content; resources/list shows what is stored.",
        content_id=content_id,
    )


def list_contents(context: ResourceContext, after: str) -> Iterator[Listed]:
    page = context.engine.store.content_ids(after or None, PAGE)
    while page:
        for content_id in page:
            yield content_id, _describe_text(context, content_id)
        page = context.engine.store.content_ids(page[-1], PAGE)


def _describe_text(context: ResourceContext, content_id: str) -> Resource:
    def stat() -> ResourceStat:
        newest = context.engine.store.content_state(content_id).newest
        return ResourceStat(newest.size, newest.generated_at) if newest else ResourceStat()

    return Resource(content_uri(content_id), content_id, f"The newest text of {content_id}", TEXT, stat)


def count_contents(context: ResourceContext) -> int:
    count, page = 0, context.engine.store.content_ids(limit=COUNTED_AT_ONCE)
    while page:
        count += len(page)
        page = context.engine.store.content_ids(page[-1], COUNTED_AT_ONCE)
    return count


def first_content_ids(store: Store, typed: str) -> list[str]:
    """The first ids of contents of which a text is stored, and the first ones from what was typed on."""
    ids = [typed] if store.content_state(typed).versions else []
    ids += store.content_ids(typed, VALUES_LIMIT // 2) if typed else []
    return list(dict.fromkeys([*ids, *store.content_ids(limit=VALUES_LIMIT - len(ids))]))


def _stored_ids(context: ResourceContext, arguments: Arguments) -> list[str]:
    return first_content_ids(context.engine.store, arguments.get("content_id", ""))


def _version_ids(context: ResourceContext, arguments: Arguments) -> list[str]:
    newest = context.engine.store.newest_infos(arguments.get("content_id", ""), VERSIONS_SHOWN, kept=True)
    return [info.version_id for info in reversed(newest)]


CONTENT_ID = Parameter("Id of a content of which a text is stored", _stored_ids)

VERSION_ID = Parameter("Id of a stored text", _version_ids)
