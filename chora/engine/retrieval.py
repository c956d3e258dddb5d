"""Retrieval strategies: which stored text of a content is selected, or which ones.

| strategy | takes |
|---|---|
| `latest` | the newest |
| `all` | every one, oldest first, up to `ALL_LIMIT` |
| `version:X.Y.Z` | the newest generated while the config had this version |
| `timestamp:PREFIX` | the newest whose time, or version id, begins so |
| `approved_only` | the newest generated while the config, or all of its elements, were approved |
"""

from __future__ import annotations

from chora.errors import InvalidInput, LimitExceeded
from chora.store.records import Version, VersionInfo
from chora.store.store import Store

STRATEGIES = ("latest", "all", "version:X.Y.Z", "timestamp:PREFIX", "approved_only")
ALL_LIMIT = 10_000
"""Texts that `all` may take; whether they have changed is looked up before every build."""


def find_version_infos(store: Store, content_id: str, strategy: str) -> list[VersionInfo]:
    """The versions that a strategy selects, oldest first, without their texts; only `all` selects several.

    Raises:
        InvalidInput: there is no such strategy.
        LimitExceeded: `all` would take too many.
    """
    name, _, wanted = strategy.partition(":")
    match name:
        case "latest" if not wanted:
            found = store.content_state(content_id).newest
        case "all" if not wanted:
            return _find_all(store, content_id)
        case "version" if wanted:
            found = store.find_info(content_id, config_version=wanted)
        case "timestamp" if wanted:
            found = store.find_info(content_id, prefix=wanted)
        case "approved_only" if not wanted:
            found = store.find_info(content_id, approved=True)
        case _:
            raise InvalidInput(
                f"{strategy!r} is not a way to choose a stored text.",
                f"Write one of {', '.join(STRATEGIES)}.",
                field="strategy",
                received=strategy,
            )
    return [] if found is None else [found]


def _find_all(store: Store, content_id: str) -> list[VersionInfo]:
    if (count := store.content_state(content_id).kept) > ALL_LIMIT:
        raise LimitExceeded(
            f"{content_id} has {count:,} stored texts; the strategy all takes {ALL_LIMIT:,} at most.",
            "Delete old ones with cleanup_ephemeral, or choose another strategy.",
            limit="retrieval.all",
            content_id=content_id,
        )
    return store.version_infos(content_id, kept=True)


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
