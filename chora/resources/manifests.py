"""The manifests of collections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from chora.catalog import FoundConfig
from chora.engine.engine import Engine
from chora.engine.manifest import fixed_manifest_path
from chora.errors import ManifestNotFound, PermissionDenied
from chora.protocol.types import VALUES_LIMIT, Resource
from chora.resources.family import JSON, Listed, ResourceContext, file_stat
from chora.resources.uris import Arguments, manifest_uri


def manifest_files(engine: Engine) -> dict[str, str]:
    """Where the manifest of each collection is, or would be, project-relative, by the collection's id."""
    found: dict[str, str] = {}
    for each in engine.catalog.list_configs("collection").found:
        try:
            found[each.parsed.config.id] = _manifest_path(engine, each)
        except (ManifestNotFound, PermissionDenied):
            continue
    return found


def _manifest_path(engine: Engine, found: FoundConfig) -> str:
    """Where a collection's manifest is; raises ManifestNotFound if that depends on the context of a build."""
    path = fixed_manifest_path(engine, found.parsed.config)
    if path is None:
        raise _manifest_not_found(found.parsed.config.id)
    return path


def read_manifest(context: ResourceContext, arguments: Arguments) -> str:
    found = context.engine.catalog.find_config("collection", arguments["collection_id"])
    try:
        return context.engine.folder.read_text(_manifest_path(context.engine, found))
    except (FileNotFoundError, UnicodeDecodeError):
        raise _manifest_not_found(found.parsed.config.id) from None


def _manifest_not_found(collection_id: str) -> ManifestNotFound:
    return ManifestNotFound(
        f"The collection {collection_id} has no manifest yet.",
        "Make it with generate_collection; resources/list shows which collections have one.",
        collection_id=collection_id,
    )


def collection_ids(context: ResourceContext, arguments: Arguments) -> list[str]:
    listing = context.engine.catalog.list_configs("collection")
    return listing.first_ids(arguments.get("collection_id", ""), VALUES_LIMIT)


def list_manifests(context: ResourceContext, after: str) -> Iterator[Listed]:
    for found in context.engine.catalog.list_configs("collection").after(after):
        collection_id, resource = found.parsed.config.id, None
        with contextlib.suppress(ManifestNotFound, PermissionDenied):
            path = _manifest_path(context.engine, found)
            if context.engine.folder.is_file(path):
                resource = Resource(
                    manifest_uri(collection_id),
                    f"{collection_id} manifest",
                    f"What the collection {collection_id} was built into",
                    JSON,
                    file_stat(context, path, sized=True),
                )
        yield collection_id, resource
