"""Retrieval strategies: which stored text of a content is selected, or which ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from chora.errors import InvalidInput, LimitExceeded
from chora.store.records import Version, VersionInfo
from chora.store.store import Store

STRATEGIES = {
    "latest": "the text that the content has now; a source also the newest stored one of a content without a config",
    "all": "every one, oldest first",
    "version:X.Y.Z": "the newest of those generated while the config had this version; a child writes it in version",
    "timestamp:PREFIX": "the newest whose time, or version id, begins so; for sources alone",
    "approved_only": "the newest of those generated while the config, or every one of its elements, was approved",
}
"""What each takes. A child whose config is in that state now is generated, and that text is taken."""
MadeWith = Literal["config", "build", "call"]
"""What a text was made with: its config alone; the context of an artifact or collection that it is part of; or one that
a caller gave for this very text."""
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


def describe_making(made_with: MadeWith, previous: Version | None) -> dict[str, Any]:
    """What the metadata of a new version says of how it was made, to be found by `find_record`.

    A build leaves the record of before in force, so its versions say which one that is.
    """
    kept = _record_id(previous) if made_with == "build" and previous is not None else None
    return {"made_with": made_with, **({"record": kept} if kept else {})}


def find_record(store: Store, content_id: str) -> Version | None:
    """The latest text of a content, if a caller gave a context for it: its config can't make it again.

    What builds made for their own context in between doesn't count, and what was made by the config alone ends it. Of
    texts that are older than this note nobody knows; they count as records.
    """
    newest = store.latest_version(content_id)
    if newest is None or (record_id := _record_id(newest)) is None:
        return None
    if record_id == newest.version_id:
        return newest
    found = store.version(content_id, record_id)
    return None if found is None or found.deleted else found


def find_build_text(store: Store, content_id: str) -> Version | None:
    """The latest text of a content, if an artifact or a collection made it for its own context."""
    newest = store.latest_version(content_id)
    return newest if newest is not None and newest.metadata.get("made_with") == "build" else None


def _record_id(version: Version) -> str | None:
    match version.metadata.get("made_with"):
        case "config":
            return None
        case "build":
            return version.metadata.get("record")
        case _:
            return version.version_id


UNREPEATABLE: dict[str, Callable[[Store, str], Version | None]] = {"record": find_record, "build": find_build_text}
"""How texts are found that a config alone can't make again; no strategies that a config may write."""
KNOWN_LIMIT = 50_000


class UnrepeatableTexts:
    """Which texts a config alone can't make again, by their ids.

    That is looked up before every build, and only read anew when the content has another newest version.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def find_id(self, content_id: str, kind: str) -> str:
        """The version, or an empty text."""
        newest = self._store.newest_infos(content_id, 1, kept=True)
        if not newest:
            return ""
        known = self._known.get((content_id, kind))
        if known is None or known[0] != newest[0].version_id:
            found = UNREPEATABLE[kind](self._store, content_id)
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()
            known = self._known[content_id, kind] = newest[0].version_id, found.version_id if found else ""
        return known[1]
