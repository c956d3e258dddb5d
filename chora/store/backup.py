# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""Backups of a project's store, and restoring them.

A backup is one SQLite file, whatever the backend. It appears under its name only when it is complete, synced and
verified; until then it is a hidden temporary file. Restoring verifies first, and keeps what it replaces as a backup of
its own. Both work while other processes read and write.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import apsw
import trio

from chora.errors import ChoraError, StorageError, UsageError, io_details
from chora.files import drop_leftovers
from chora.settings import StorageSettings
from chora.store import BACKENDS, SqliteStore, Store, open_store
from chora.store.migrate import migrate
from chora.store.sqlite import APPLICATION_ID, TABLES, migrations, translated

log = logging.getLogger("chora.store")

NAMES = re.compile(r"(storage|replaced)-\d{8}T\d{9}Z\.db")
"""What backups of ours are called; others in the folder are none of our business."""


LEFTOVERS = re.compile(rf"\.{NAMES.pattern}\.tmp(-wal|-shm|-journal)?")
"""What is left of one whose making was ended."""


class Backup(NamedTuple):
    """A backup on disk."""

    path: Path
    size: int
    counts: dict[str, int]
    """How many records of each kind it holds."""


# -- making -----------------------------------------------------------------------------------------------------


async def back_up(store: Store, folder: Path, *, prefix: str = "storage") -> Backup:
    """Put everything that a store holds into a new file of a folder, readable by its owner alone.

    Raises:
        StorageError: the store or the disk failed; no file was left that looks like a backup.
    """
    name = f"{prefix}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + "Z.db"
    target, temporary = folder / name, folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drop_leftovers(folder, LEFTOVERS)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            if isinstance(store, SqliteStore):
                # Not abandoned on cancellation, or it would go on writing into a file that is gone.
                await trio.to_thread.run_sync(_copy, store, temporary)
            else:
                with contextlib.closing(SqliteStore(temporary)) as copy:
                    await migrate(store, copy)
                await trio.to_thread.run_sync(_leave_wal, temporary)
            counts = await trio.to_thread.run_sync(verify, temporary)
            await trio.to_thread.run_sync(_publish, temporary, target)
        finally:
            _clear(temporary)
    except OSError as error:
        raise StorageError(
            f"The backup {target} couldn't be written: {error.strerror}.",
            "Check disk space and permissions; there is no half backup.",
            **io_details(error, path=str(target)),
        ) from error
    return Backup(target, target.stat().st_size, counts)


def _copy(store: SqliteStore, target: Path) -> None:
    # One read transaction: a consistent picture, however much is written meanwhile, and no page that isn't needed.
    with translated(store.path), _opened(store.address, store.flags | apsw.SQLITE_OPEN_READWRITE) as db:
        db.execute("VACUUM INTO ?", (str(target),))


def _leave_wal(path: Path) -> None:
    """Fold everything into the file itself."""
    with translated(path), _opened(str(path), apsw.SQLITE_OPEN_READWRITE) as db:
        db.execute("PRAGMA journal_mode = DELETE")


def _publish(temporary: Path, target: Path) -> None:
    for path, flags in ((temporary, os.O_RDWR), (temporary.parent, os.O_RDONLY)):
        if path == temporary.parent:
            temporary.rename(target)
        with contextlib.suppress(PermissionError):  # Windows doesn't open folders
            descriptor = os.open(path, flags)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _clear(path: Path) -> None:
    """Remove a temporary database with what SQLite put beside it."""
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def drop_old(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest backups of a folder; returns those removed. Other files stay, whatever they are."""
    names = sorted(path.name for path in folder.iterdir() if NAMES.fullmatch(path.name))
    ours = [folder / name for name in names if name.startswith("storage-")]
    old = ours[: max(0, len(ours) - keep)]
    for path in old:
        path.unlink(missing_ok=True)
    return old


async def serve(
    store: Store,
    folder: Path,
    *,
    every: float,
    keep: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A service: makes a backup every so many seconds and keeps so many of them."""
    task_status.started()
    while True:
        await trio.sleep(every)
        try:
            made = await back_up(store, folder)
        except ChoraError as error:
            log.error("the backup failed and is tried again later: %s", error.message)
            continue
        log.info("backed up %d bytes to %s", made.size, made.path)
        drop_old(folder, keep)


# -- looking ----------------------------------------------------------------------------------------------------


def verify(path: Path) -> dict[str, int]:
    """Make sure that a file is a whole database of ours; returns how many records of each kind it holds.

    Raises:
        StorageError: it isn't there, is damaged, somebody else's or a newer chora's.
    """
    if not path.is_file():
        raise StorageError(f"There is no file {path}.", "`chora backup` makes one.", path=str(path))
    with translated(path), _opened(str(path), apsw.SQLITE_OPEN_READONLY) as db:
        if db.pragma("application_id") != APPLICATION_ID:
            raise StorageError(f"{path} is not a backup that chora made.", "Name another file.", path=str(path))
        version, newest = cast(int, db.pragma("user_version")), migrations()[-1][0]
        if version > newest:
            raise StorageError(
                f"{path} was made by a newer chora (schema {version}, this one knows {newest}).",
                "Restore it with that one.",
                path=str(path),
            )
        found = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise StorageError(
                f"{path} is damaged: {found[0]}.",
                "Name another backup; `chora restore --salvage` saves what can still be read of this one.",
                path=str(path),
            )
        here = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        return {
            table: cast(int, db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])  # noqa: S608
            for table in TABLES.values()
            if table in here
        }


@contextmanager
def _opened(place: str, flags: int) -> Generator[apsw.Connection]:
    db = apsw.Connection(place, flags)
    db.set_busy_timeout(5000)
    try:
        yield db
    finally:
        db.close()


# -- restoring --------------------------------------------------------------------------------------------------


class Restored(NamedTuple):
    """What was put back, and where what it replaced is kept."""

    counts: dict[str, int]
    replaced: Path | None


async def restore(project: Path, settings: StorageSettings, backup: Path, folder: Path) -> Restored:
    """Put a backup in the place of what the store holds now.

    A database is overwritten in one transaction, so processes that have it open go on with the restored one. One that
    is too damaged to be opened is moved aside as it is.

    Raises:
        StorageError: the backup isn't one, or the disk failed; then the store is as it was.
        UsageError: the backend keeps nothing.
    """
    counts = await trio.to_thread.run_sync(verify, backup)
    if settings.backend == "memory":
        raise UsageError("The backend memory keeps nothing.", "Set storage.backend to sqlite or filesystem.")
    replaced: Path | None = None
    if settings.backend == "filesystem":
        place = project / settings.folder
        if place.exists():
            replaced = place.with_name(f"{place.name}-replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}Z")
            place.rename(replaced)
        await _pour(backup, project, settings, folder)
        return Restored(counts, replaced)
    path = project / settings.path
    if path.exists():
        try:
            with contextlib.closing(SqliteStore(path)) as current:
                replaced = (await back_up(current, folder, prefix="replaced")).path
        except StorageError as error:
            replaced = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}Z")
            log.warning("%s can't be opened and is moved to %s: %s", path, replaced, error.message)
            for ending in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + ending).rename(replaced.with_name(replaced.name + ending))
    await trio.to_thread.run_sync(_overwrite, path, backup)
    BACKENDS[settings.backend](project, settings).close()  # brings an older one up to date
    return Restored(counts, replaced)


async def _pour(backup: Path, project: Path, settings: StorageSettings, folder: Path) -> None:
    """Move everything of a backup into a fresh store; the backup itself is only read."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f".{backup.name}.restoring"
    try:
        await trio.to_thread.run_sync(_overwrite, copy, backup)
        with (
            contextlib.closing(SqliteStore(copy)) as source,
            contextlib.closing(open_store(project, settings)) as target,
        ):
            await migrate(source, target)
    finally:
        _clear(copy)


def _overwrite(path: Path, source: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    read_write = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    with (
        translated(path),
        _opened(str(source), apsw.SQLITE_OPEN_READONLY) as old,
        _opened(str(path), read_write) as new,
        new.backup("main", old, "main") as copying,
    ):
        copying.step(-1)
