"""Reading a store where nothing may be written: a read-only mount, or a folder of another user.

SQLite needs to write beside a database even to read it, and every backend repairs what a crash left. So what is there
is copied to a temporary folder, and that copy is opened; what is written to it is lost with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from chora.errors import StorageError
from chora.nofollow import copy_file, list_entries
from chora.settings import StorageSettings
from chora.store import open_existing_store, open_store, store_place
from chora.store.store import Store

ATTEMPTS = 3
"""Copies that are made if another process writes meanwhile."""


def is_writable(place: Path) -> bool:
    """Whether a store may be written, or made, at a place."""
    while not os.path.lexists(place):
        place = place.parent
    return all(os.access(each, os.W_OK) for each in (place, place if place.is_dir() else place.parent))


@contextmanager
def reading_store(project: Path, settings: StorageSettings) -> Generator[Store]:
    """The store of a project, opened to read from; where it can be written, the store itself.

    Raises:
        StorageError: there is one that can't be read, or it is gone.
    """
    place = store_place(project, settings)
    with ExitStack() as opened:
        if place is None or is_writable(place):
            store = open_store(project, settings)
        elif not os.path.lexists(place):
            store = open_existing_store(project, settings)  # an empty one in memory
        else:
            # On macOS, the folder of temporary files is behind a link.
            made = opened.enter_context(tempfile.TemporaryDirectory(prefix="chora-reading-"))
            folder = Path(os.path.realpath(made))
            copy = folder / place.name
            _copy(place, copy)
            where = {"path": str(copy)} if settings.backend == "sqlite" else {"folder": str(copy)}
            store = open_store(folder, msgspec.structs.replace(settings, **where))
        opened.callback(store.close)
        yield store


def _copy(place: Path, copy: Path) -> None:
    """Copy a store as it is at one time.

    Raises:
        StorageError: it can't be read, or others keep changing it.
    """
    try:
        for _ in range(ATTEMPTS):
            before = _stamps(place)
            if place.is_dir():
                shutil.rmtree(copy, ignore_errors=True)
                _copy_folder(place, copy)
            else:
                for suffix in ("", "-wal"):
                    source = place.with_name(place.name + suffix)
                    target = copy.with_name(copy.name + suffix)
                    target.unlink(missing_ok=True)
                    if source.is_file():
                        copy_file(source, target)
            if _stamps(place) == before:
                return
    except OSError as error:
        raise StorageError(
            f"{place} can't be read: {error.strerror}.",
            "Check its permissions, and the space for temporary files.",
            storage_path=str(place),
        ) from error
    raise StorageError(
        f"{place} can't be read while it is being written, because nothing may be written beside it.",
        "Try again, or read where the project can be written.",
        storage_path=str(place),
    )


def _copy_folder(place: Path, copy: Path) -> None:
    """Copy a folder with everything in it.

    Raises:
        UnsafePath: there is something in it that is neither a folder nor a regular file.
        OSError: it can't be read.
    """
    waiting = [(place, copy)]
    while waiting:
        source, target = waiting.pop()
        target.mkdir()
        for entry in list_entries(source):
            if entry.is_dir(follow_symlinks=False):
                waiting.append((source / entry.name, target / entry.name))
            else:
                copy_file(source / entry.name, target / entry.name)


def _stamps(place: Path) -> list[tuple[str, int, int]]:
    files = sorted(place.rglob("*")) if place.is_dir() else [place, place.with_name(place.name + "-wal")]
    found = [(str(file), file.stat()) for file in files if file.exists()]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found]
