"""Stored texts and their versions."""

from __future__ import annotations

from collections.abc import Iterator

from chora.errors import ContentNotFound
from chora.protocol.types import Resource, ResourceStat
from chora.resources.family import TEXT, Parameter, ResourceContext, format_json
from chora.resources.uris import Arguments, content_uri


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
    infos = context.engine.store.version_infos(content_id)
    if not infos:
        raise _content_not_found(content_id)
    latest = next((info.version_id for info in reversed(infos) if not info.deleted), None)
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
        for info in infos
    ]
    return format_json({"content_id": content_id, "total_versions": len(versions), "versions": versions})


def _content_not_found(content_id: str) -> ContentNotFound:
    return ContentNotFound(
        f"No text of {content_id!r} is stored.",
        "Make one with generate_content; resources/list shows what is stored.",
        content_id=content_id,
    )


def list_contents(context: ResourceContext) -> Iterator[Resource]:
    for content_id in _stored_ids(context, {}):

        def stat(content_id: str = content_id) -> ResourceStat:
            kept = [info for info in context.engine.store.version_infos(content_id) if not info.deleted]
            return ResourceStat(kept[-1].size, kept[-1].generated_at) if kept else ResourceStat()

        yield Resource(content_uri(content_id), content_id, f"The newest text of {content_id}", TEXT, stat)


def list_none(context: ResourceContext) -> tuple[Resource, ...]:
    """Of versions only the newest is listed, as the content's text; their list is a resource of its own."""
    return ()


def _stored_ids(context: ResourceContext, arguments: Arguments) -> list[str]:
    return context.engine.store.content_ids()


def _version_ids(context: ResourceContext, arguments: Arguments) -> list[str]:
    infos = context.engine.store.version_infos(arguments.get("content_id", ""))
    return [info.version_id for info in infos if not info.deleted]


CONTENT_ID = Parameter("Id of a content of which a text is stored", _stored_ids)

VERSION_ID = Parameter("Id of a stored text", _version_ids)
