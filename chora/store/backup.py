# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""Backups of a project's store, and restoring them.

A backup is one SQLite file, whatever the backend. It appears under its name only when it is complete, synced and
verified; until then it is a hidden temporary file. It is made while others read and write. Restoring verifies first,
needs the store for itself, and keeps what it replaces.
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
import msgspec
import trio

from chora.disk import make_folder, sync_folder, unsafe_path_error
from chora.errors import BackupNotFound, ChoraError, StorageError, UsageError, io_details
from chora.files import delete_leftovers
from chora.nofollow import CREATE, UnsafePath, check_file, copy_file, open_file, open_folder
from chora.settings import StorageSettings
from chora.store import BACKENDS, SqliteStore, Store, store_place, store_presence, store_users
from chora.store.database import (
    APPLICATION_ID,
    DATABASE_SUFFIXES,
    TABLES,
    connect,
    find_schema_problem,
    migrations,
    translate_errors,
)
from chora.store.migrate import migrate_store
from chora.store.presence import StorePresence
from chora.store.users import StoreUsers
from chora.store.wal import count_lost_pages

log = logging.getLogger("chora.store")

BACKUP_NAMES = re.compile(r"(storage|replaced)-\d{8}T\d{9}Z\.db")
"""The names of our backups; other files in the folder are left alone."""
BACKUP_LEFTOVERS = re.compile(rf"\.{BACKUP_NAMES.pattern}\.tmp(-wal|-shm|-journal)?")
"""Temporary files of backups that were interrupted."""


class Backup(NamedTuple):
    """A backup on disk."""

    path: Path
    size: int
    counts: dict[str, int]
    """How many records of each kind it holds."""


# -- creating ---------------------------------------------------------------------------------------------------


async def make_backup(store: Store, folder: Path, *, prefix: str = "storage") -> Backup:
    """Write everything in a store to a new file in a folder, readable by its owner only.

    Raises:
        StorageError: the store or the disk failed; no partial backup is left.
    """
    name = f"{prefix}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + "Z.db"
    target, temporary = folder / name, folder / f".{name}.tmp"
    try:
        with open_folder(folder, make=True) as opened:
            delete_leftovers(opened, BACKUP_LEFTOVERS)
            os.close(opened.open_file(temporary.name, CREATE))
        try:
            if isinstance(store, SqliteStore):
                # Not abandoned on cancellation, or it would go on writing to a deleted file.
                await trio.to_thread.run_sync(_copy_database, store, temporary)
            else:
                with contextlib.closing(SqliteStore(temporary)) as copy:
                    await migrate_store(store, copy)
                await trio.to_thread.run_sync(_leave_wal, temporary)
            counts = await trio.to_thread.run_sync(verify_backup, temporary)
            size = await trio.to_thread.run_sync(_move_into_place, temporary, target)
        finally:
            _delete_database_files(temporary)
    except UnsafePath as error:
        raise unsafe_path_error(error) from error
    except OSError as error:
        raise StorageError(
            f"The backup {target} couldn't be written: {error.strerror}.",
            "Check disk space and permissions; no partial backup was left behind.",
            **io_details(error, path=str(target)),
        ) from error
    return Backup(target, size, counts)


def _copy_database(store: SqliteStore, target: Path) -> None:
    if store.path is None:  # VACUUM INTO would write to memory, too: the file system of the database
        _overwrite_database(target, store.address, store.flags)
        return
    # VACUUM INTO is one read transaction: a consistent snapshot while others write, without free pages.
    with translate_errors(store.path), _open_database(store.address, store.flags) as db:
        db.execute("VACUUM INTO ?", (str(target),))


def _leave_wal(path: Path) -> None:
    """Checkpoint the WAL into the database file and leave WAL mode."""
    with translate_errors(path), _open_database(path, apsw.SQLITE_OPEN_READWRITE) as db:
        db.execute("PRAGMA journal_mode = DELETE")


def _move_into_place(temporary: Path, target: Path) -> int:
    """Rename a file, durably; returns its size."""
    with open_folder(temporary.parent) as folder:
        descriptor = folder.open_file(temporary.name, os.O_RDWR)
        try:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        folder.replace(temporary.name, target.name)
        folder.sync()
    return size


def _delete_database_files(path: Path) -> None:
    """Delete a temporary database with the files that SQLite keeps beside it."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, UnsafePath), open_folder(path.parent) as folder:
        for suffix in DATABASE_SUFFIXES:
            folder.delete_file(path.name + suffix)


def delete_old_backups(folder: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` backups in a folder; returns the deleted ones. Other files stay."""
    with open_folder(folder) as opened:
        names = sorted(name for name in opened.names() if BACKUP_NAMES.fullmatch(name))
        ours = [name for name in names if name.startswith("storage-")]
        old = ours[: max(0, len(ours) - keep)]
        for name in old:
            opened.delete_file(name)
    return [folder / name for name in old]


async def serve(
    store: Store,
    folder: Path,
    *,
    every: float,
    keep: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A service: makes a backup every `every` seconds and keeps the newest `keep`."""
    task_status.started()
    while True:
        await trio.sleep(every)
        try:
            made = await make_backup(store, folder)
        except ChoraError as error:
            log.error("the backup failed; the next one is in %g s: %s", every, error.message)
            continue
        log.info("wrote a backup of %d bytes to %s", made.size, made.path)
        delete_old_backups(folder, keep)


# -- verifying --------------------------------------------------------------------------------------------------


def verify_backup(path: Path) -> dict[str, int]:
    """Verify that a file is an intact database of ours; returns the number of records by kind.

    Raises:
        BackupNotFound: it doesn't exist.
        StorageError: it is damaged, or belongs to another program or a newer chora.
    """
    if not path.is_file():
        if not os.path.lexists(path):
            raise BackupNotFound(f"There is no file {path}.", "`chora backup` makes one.", path=str(path))
        raise StorageError(f"{path} is not a file.", "`chora backup` makes one.", path=str(path))
    with translate_errors(path), _open_database(path, apsw.SQLITE_OPEN_READONLY) as db:
        if db.pragma("application_id") != APPLICATION_ID:
            raise StorageError(f"{path} is not a backup that chora made.", "Name another file.", path=str(path))
        version, newest = cast(int, db.pragma("user_version")), migrations()[-1][0]
        if version > newest:
            raise StorageError(
                f"{path} was made by a newer chora (schema {version}, this one knows {newest}).",
                "Restore it with that version.",
                path=str(path),
            )
        if problem := find_schema_problem(db, version):
            raise StorageError(
                f"{path} doesn't have the schema that chora makes: {problem}.",
                "Name another backup; `chora restore --salvage` saves the records of this one into a new one.",
                path=str(path),
                error_type="SchemaError",
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
def _open_database(place: Path | str, flags: int) -> Generator[apsw.Connection]:
    db = connect(place, flags)
    try:
        yield db
    finally:
        db.close()


# -- restoring --------------------------------------------------------------------------------------------------


class RestoreResult(NamedTuple):
    """The number of restored records by kind, and where the replaced store is kept."""

    counts: dict[str, int]
    replaced: Path | None


async def restore_backup(project: Path, settings: StorageSettings, backup: Path, folder: Path) -> RestoreResult:
    """Replace the content of the store by a backup, while no process has it open; what was there is kept whole.

    A database is copied with its WAL, and overwritten in one transaction. One that can't be opened is moved aside with
    everything that belongs to it. A folder of texts is made anew, and the old one renamed.

    Raises:
        StorageError: the backup is invalid, others have the store open, or the disk failed; then the store is
            unchanged.
        UsageError: the backend keeps nothing.
    """
    counts = await trio.to_thread.run_sync(verify_backup, backup)
    place, users, presence = _find_store(project, settings)
    with translate_errors(place), users.exclusive("restored"):
        restore = _restore_folder if settings.backend == "filesystem" else _restore_database
        replaced = await restore(project, settings, place, backup, folder)
        presence.note()
        return RestoreResult(counts, replaced)


def begin_empty_store(project: Path, settings: StorageSettings) -> RestoreResult:
    """Begin with an empty store where one has been that is gone; what is left of it is moved aside.

    Raises:
        StorageError: others have it open, or the disk failed.
        UsageError: there is a store, or the backend keeps nothing.
    """
    place, users, presence = _find_store(project, settings)
    with translate_errors(place), users.exclusive("replaced by an empty one"):
        left = presence.make_way()
        with contextlib.closing(BACKENDS[settings.backend](project, settings, None)) as store:
            counts = store.counts()
        presence.note()
        return RestoreResult(counts, left)


def _find_store(project: Path, settings: StorageSettings) -> tuple[Path, StoreUsers, StorePresence]:
    place, users = store_place(project, settings), store_users(project, settings)
    presence = store_presence(project, settings)
    if place is None or users is None or presence is None:
        raise UsageError("The backend memory keeps nothing.", "Set storage.backend to sqlite or filesystem.")
    return place, users, presence


async def _restore_database(
    project: Path, settings: StorageSettings, path: Path, backup: Path, folder: Path
) -> Path | None:
    """Returns where the replaced database is kept."""
    replaced = await trio.to_thread.run_sync(_keep_replaced, path, folder) if check_file(path) is not None else None
    await trio.to_thread.run_sync(_overwrite_database, path, backup)
    BACKENDS[settings.backend](project, settings, None).close()  # migrates an older schema
    return replaced


def _keep_replaced(path: Path, folder: Path) -> Path:
    """Copy a database to the backups, with the files beside it; move it aside if it can't be opened."""
    moment = datetime.now(UTC)
    kept = folder / (f"replaced-{moment:%Y%m%dT%H%M%S%f}"[:-3] + "Z.db")
    make_folder(folder)
    _copy_database_files(path, kept)
    is_whole = not count_lost_pages(kept)
    try:
        SqliteStore(path).close()
        if is_whole:  # then its WAL holds nothing that the database can't be given
            _leave_wal(kept)
    except StorageError as error:
        _delete_database_files(kept)
        aside = path.with_name(f"{path.name}.damaged-{moment:%Y%m%dT%H%M%S}Z")
        log.warning("%s can't be opened and is moved to %s: %s", path, aside, error.message)
        with open_folder(path.parent) as parent:
            for suffix in DATABASE_SUFFIXES:  # the database first: without its WAL it would be opened as it is
                with contextlib.suppress(FileNotFoundError):
                    parent.replace(path.name + suffix, aside.name + suffix)
            parent.sync()
        return aside
    return kept


def _copy_database_files(path: Path, target: Path) -> None:
    """Copy a database that no process has open, durably, with its WAL."""
    for suffix in ("", "-wal", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            copy_file(path.with_name(path.name + suffix), copied := target.with_name(target.name + suffix))
            descriptor = open_file(copied, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(target.parent)


async def _restore_folder(
    project: Path, settings: StorageSettings, place: Path, backup: Path, folder: Path
) -> Path | None:
    """Returns where the replaced folder is kept. The new one is made beside it, complete, before they change places."""
    moment = f"{datetime.now(UTC):%Y%m%dT%H%M%S}Z"
    fresh = place.with_name(f".{place.name}-restoring-{moment}")
    make_folder(folder)
    copy = folder / f".{backup.name}.restoring"
    try:
        await trio.to_thread.run_sync(_overwrite_database, copy, backup)
        changed = msgspec.structs.replace(settings, folder=str(fresh))
        with (
            contextlib.closing(SqliteStore(copy)) as source,
            contextlib.closing(BACKENDS[settings.backend](project, changed, None)) as target,
        ):
            await migrate_store(source, target)
        replaced = None
        with open_folder(place.parent) as parent:
            if place.exists():
                replaced = place.with_name(f"{place.name}-replaced-{moment}")
                parent.replace(place.name, replaced.name)
            try:
                parent.replace(fresh.name, place.name)
            except BaseException:
                if replaced is not None:
                    parent.replace(replaced.name, place.name)
                raise
            parent.sync()
        return replaced
    finally:
        _delete_database_files(copy)


def _overwrite_database(path: Path, source: Path | str, flags: int = apsw.SQLITE_OPEN_READONLY) -> None:
    make_folder(path.parent)
    read_write = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    with (
        translate_errors(path),
        _open_database(source, flags) as old,
        _open_database(path, read_write) as new,
        new.backup("main", old, "main") as copying,
    ):
        copying.step(-1)
