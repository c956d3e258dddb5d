"""Storage: versions of contents, drafts, outputs on disk, traces, jobs, costs, measurements, events."""

import os
from collections.abc import Callable
from pathlib import Path

from chora.disk import file_name
from chora.project import locate
from chora.settings import StorageSettings
from chora.store.database import translate_errors
from chora.store.presence import StorePresence
from chora.store.records import (
    Completion,
    Cost,
    Draft,
    Event,
    Job,
    Output,
    Record,
    Sample,
    SampleCounts,
    Trace,
    Version,
    VersionInfo,
)
from chora.store.sqlite import SqliteStore
from chora.store.store import TRACES_KEPT, Store
from chora.store.users import Entry, StoreUsers

__all__ = [
    "BACKENDS",
    "TRACES_KEPT",
    "Completion",
    "Cost",
    "Draft",
    "Event",
    "Job",
    "Output",
    "Record",
    "Sample",
    "SampleCounts",
    "SqliteStore",
    "Store",
    "Trace",
    "Version",
    "VersionInfo",
    "open_existing_store",
    "open_store",
    "store_place",
    "store_presence",
    "store_users",
]


def _open_filesystem(project: Path, settings: StorageSettings, entry: Entry | None) -> Store:
    from chora.store.filesystem import FilesystemStore  # imported only for this backend

    return FilesystemStore(locate(project, settings.folder), retention_days=settings.retention_days, entry=entry)


BACKENDS: dict[str, Callable[[Path, StorageSettings, Entry | None], Store]] = {
    "sqlite": lambda project, settings, entry: SqliteStore(locate(project, settings.path), entry=entry),
    "filesystem": _open_filesystem,
    "memory": lambda _, __, ___: SqliteStore(None),
}
"""How each backend is opened; the entry is closed with the store."""


def store_place(project: Path, settings: StorageSettings) -> Path | None:
    """The database or folder of the store of a project; None in memory."""
    places = {"sqlite": settings.path, "filesystem": settings.folder}
    return locate(project, places[settings.backend]) if settings.backend in places else None


def store_users(project: Path, settings: StorageSettings) -> StoreUsers | None:
    """Who has the store of a project open; None in memory."""
    place = store_place(project, settings)
    if place is None:
        return None
    # Beside a database, which may be shared; a folder of texts may lie among the files of a person.
    folder = place.parent if settings.backend == "sqlite" else locate(project, ".chora")
    return StoreUsers(folder / f".{file_name(place.name)}.open", place)


def store_presence(project: Path, settings: StorageSettings) -> StorePresence | None:
    """Whether the store of a project is where it has been; None in memory."""
    place = store_place(project, settings)
    return None if place is None else StorePresence(project, settings, place)


def open_store(project: Path, settings: StorageSettings) -> Store:
    """Open the store of a project, as its settings say; no other process replaces it until it is closed.

    Raises:
        StorageError: it can't be used, or is gone; what is there is left unchanged.
    """
    users, presence = store_users(project, settings), store_presence(project, settings)
    if users is None or presence is None:
        return BACKENDS[settings.backend](project, settings, None)
    with translate_errors(store_place(project, settings)):
        presence.check()
        entry = users.enter()
    try:
        store = BACKENDS[settings.backend](project, settings, entry)
    except BaseException:
        if entry is not None:
            entry.close()
        raise
    presence.note()
    return store


def open_existing_store(project: Path, settings: StorageSettings) -> Store:
    """Open the store for reading, without creating one: where there never was one, an empty one in memory.

    Raises:
        StorageError: there is one that can't be used, or it is gone.
    """
    place, presence = store_place(project, settings), store_presence(project, settings)
    if place is not None and presence is not None and not os.path.lexists(place):
        presence.check()
        return SqliteStore(None)
    return open_store(project, settings)
