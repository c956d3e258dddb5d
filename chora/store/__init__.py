"""Storage: versions of contents, drafts, outputs on disk, traces, jobs, costs, measurements, events."""

import os
from collections.abc import Callable
from pathlib import Path

from chora.project import locate
from chora.settings import StorageSettings
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
]


def _open_filesystem(project: Path, settings: StorageSettings) -> Store:
    from chora.store.filesystem import FilesystemStore  # imported only for this backend

    return FilesystemStore(locate(project, settings.folder), retention_days=settings.retention_days)


BACKENDS: dict[str, Callable[[Path, StorageSettings], Store]] = {
    "sqlite": lambda project, settings: SqliteStore(locate(project, settings.path)),
    "filesystem": _open_filesystem,
    "memory": lambda _, __: SqliteStore(None),
}
"""How each backend is opened."""


def open_store(project: Path, settings: StorageSettings) -> Store:
    """Open the store of a project, as its settings say.

    Raises:
        StorageError: it can't be used; it is left unchanged.
    """
    return BACKENDS[settings.backend](project, settings)


def open_existing_store(project: Path, settings: StorageSettings) -> Store:
    """Open the store for reading, without creating one: where there is none yet, an empty one in memory.

    Raises:
        StorageError: there is one that can't be used.
    """
    places = {"sqlite": settings.path, "filesystem": settings.folder}
    is_there = settings.backend in places and os.path.lexists(locate(project, places[settings.backend]))
    return open_store(project, settings) if is_there else SqliteStore(None)
