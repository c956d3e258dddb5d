"""Retrieval strategies: which stored texts of a content are selected.

| strategy | takes |
|---|---|
| `latest` | the newest |
| `all` | every one, oldest first |
| `version:X.Y.Z` | those generated while the config had this version |
| `timestamp:PREFIX` | those whose time, or version id, begins so |
| `approved_only` | the newest generated while the config, or all of its elements, were approved |
"""

from __future__ import annotations

from chora.errors import InvalidInput
from chora.store.records import Version, VersionInfo
from chora.store.store import Store

STRATEGIES = ("latest", "all", "version:X.Y.Z", "timestamp:PREFIX", "approved_only")


def find_version_infos(store: Store, content_id: str, strategy: str) -> list[VersionInfo]:
    """The versions that a strategy selects, oldest first, without their texts.

    Raises:
        InvalidInput: there is no such strategy.
    """
    kept = [info for info in store.version_infos(content_id) if not info.deleted]
    name, _, wanted = strategy.partition(":")
    match name:
        case "latest" if not wanted:
            return kept[-1:]
        case "all" if not wanted:
            return kept
        case "version" if wanted:
            return [info for info in kept if info.config_version == wanted]
        case "timestamp" if wanted:
            return [info for info in kept if info.generated_at.startswith(wanted) or info.version_id.startswith(wanted)]
        case "approved_only" if not wanted:
            return [info for info in kept if info.approved][-1:]
        case _:
            raise InvalidInput(
                f"{strategy!r} is not a way to choose a stored text.",
                f"Write one of {', '.join(STRATEGIES)}.",
                field="strategy",
                received=strategy,
            )


def find_version_ids(store: Store, content_id: str, strategy: str) -> list[str]:
    """The ids of the versions that a strategy selects, oldest first."""
    return [info.version_id for info in find_version_infos(store, content_id, strategy)]


def find_versions(store: Store, content_id: str, strategy: str) -> list[Version]:
    """The versions that a strategy selects, oldest first."""
    if strategy == "latest":
        newest = store.latest_version(content_id)
        return [newest] if newest else []
    found = (store.version(content_id, version_id) for version_id in find_version_ids(store, content_id, strategy))
    return [version for version in found if version is not None]
