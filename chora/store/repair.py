# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""Diagnosing a project's database, and replacing a damaged one by what can be read of it.

Diagnosing changes nothing. Only a database is repaired that is ours, not of a newer schema, damaged or with another
schema than chora's, and not open in another process; the damaged one is kept beside it under a dated name.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

import apsw

from chora.disk import delete_file
from chora.errors import StorageError, io_details
from chora.nofollow import UnsafePath, open_file, open_folder, read_file, temporary_folder
from chora.store.backup import BACKUP_NAMES, verify_backup
from chora.store.database import APPLICATION_ID, connect, find_schema_problem, has_wal, migrations
from chora.store.salvage import HEADER_LENGTH, SalvageResult, salvage_database
from chora.store.users import SHARED_LOCK_BYTES, StoreUsers, find_database_users, in_use_error
from chora.wording import list_quantities

ConditionKind = Literal["missing", "gone", "whole", "damaged", "altered", "foreign", "newer", "unreadable", "held"]
REPAIRABLE = ("damaged", "altered")


class DatabaseCondition(NamedTuple):
    """The condition of a database in one sentence, and the remedy."""

    kind: ConditionKind
    reason: str
    remedy: str | None = None


# -- diagnosing ----------------------------------------------------------------------------------------------------


def examine_database(path: Path) -> DatabaseCondition:
    """Check all of a database; it and the files beside it stay unchanged."""
    if not os.path.lexists(path):
        return DatabaseCondition("missing", f"There is no {path} yet; the first write creates it.")
    try:
        is_empty = not read_file(path, 1)
    except UnsafePath as error:
        return DatabaseCondition("foreign", f"{error.strerror}.", error.hint)
    except OSError as error:
        remedy = "Check the permissions of the file and its folder."
        return DatabaseCondition("unreadable", f"{path} can't be read: {error.strerror}.", remedy)
    if is_empty:
        return DatabaseCondition("missing", f"{path} is empty; the first write makes a database of it.")
    if (problem := _check_header(path)) is not None:
        return problem
    try:
        return _check_integrity(path)
    except apsw.BusyError:
        return DatabaseCondition("held", f"Another process holds {path} exclusively.", "Try again when it is done.")
    except (apsw.CantOpenError, apsw.PermissionsError) as error:
        return DatabaseCondition(
            "unreadable", f"{path} can't be opened: {error}.", "Check the permissions of its folder."
        )
    except apsw.Error as error:
        return _classify_damage(path, str(error))


def _check_header(path: Path) -> DatabaseCondition | None:
    """The condition, if the header says that the database isn't ours or is newer; damage of the rest doesn't matter."""
    header = read_file(path, HEADER_LENGTH)
    if not header.startswith(b"SQLite format 3\0"):
        return None
    version, newest = int.from_bytes(header[60:64], "big"), migrations()[-1][0]
    if (owner := int.from_bytes(header[68:72], "big")) not in (APPLICATION_ID, 0):
        remedy = "Point the setting storage.path at another file."
        reason = f"{path} is a database of another program; chora leaves it unchanged."
        return DatabaseCondition("foreign", reason, remedy)
    if owner and version > newest:
        reason = f"{path} was written by a newer chora (schema {version}, this one knows {newest})."
        return DatabaseCondition(
            "newer", reason, "Install the newer chora again, or restore a backup made by this one."
        )
    return None


def _check_integrity(path: Path) -> DatabaseCondition:
    # Without a WAL the file is complete; immutable=1 keeps SQLite from creating files beside it.
    how = "mode=ro" if has_wal(path) else "mode=ro&immutable=1"
    db = connect(path, apsw.SQLITE_OPEN_READONLY, parameters=how)
    try:
        if db.pragma("application_id") != APPLICATION_ID:
            if not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
                return DatabaseCondition("missing", f"{path} is empty; the first write fills it.")
            remedy = "Point the setting storage.path at another file."
            return DatabaseCondition(
                "foreign", f"{path} is a database of another program; chora leaves it unchanged.", remedy
            )
        found = [" ".join(str(row[0]).split()) for row in db.execute("PRAGMA integrity_check(20)")]
        problem = find_schema_problem(db, cast(int, db.pragma("user_version")))
    finally:
        db.close()
    if found == ["ok"] and problem is not None:
        remedy = "`chora doctor --repair` makes a new database with all records and keeps this one"
        if advice := _restore_advice(path):
            remedy += f"; or {advice[0].lower()}{advice[1:]}"
        reason = f"{path} doesn't have the schema that chora makes: {problem}."
        return DatabaseCondition("altered", reason, remedy.rstrip(".") + ".")
    if found == ["ok"]:
        return DatabaseCondition("whole", f"{path} is intact: every page, index and row is consistent.")
    return _classify_damage(path, found[0] + (f", and {len(found) - 1} more problems" if len(found) > 1 else ""))


def _classify_damage(path: Path, what: str) -> DatabaseCondition:
    """Distinguish a damaged database of ours, of which records can be read, from another file."""
    try:
        saved = preview_salvage(path)
    except StorageError:
        reason = f"{path} is not a database of chora, or none of its records can be read any more ({what})."
        return DatabaseCondition(
            "foreign", reason, _restore_advice(path) or "Move it away; chora then creates a new one."
        )
    remedy = f"`chora doctor --repair` saves {describe_salvage(saved)}"
    if advice := _restore_advice(path):
        remedy += f"; or {advice[0].lower()}{advice[1:]}"
    return DatabaseCondition("damaged", f"{path} is damaged: {what}.", remedy.rstrip(".") + ".")


def preview_salvage(path: Path) -> SalvageResult:
    """What could be saved of a damaged database; leaves no file.

    Raises:
        StorageError: no record can be read.
    """
    with temporary_folder(Path(os.path.realpath(tempfile.gettempdir())), "chora-") as folder:
        return salvage_database(path, folder / "saved.db")


def describe_salvage(saved: SalvageResult) -> str:
    """Describe what was saved and what may be lost."""
    words = list_quantities(saved.saved)
    if saved.lost:
        words += f" (up to {list_quantities(saved.lost)} are lost)"
    return words


def _restore_advice(path: Path) -> str | None:
    """How to restore the newest backup in the default folder, if there is one."""
    with contextlib.suppress(OSError), open_folder(path.parent / "backups") as folder:
        if names := sorted(name for name in folder.names() if BACKUP_NAMES.fullmatch(name)):
            return f"Restore a backup: `chora restore {path.parent / 'backups' / names[-1]}`."
    return None


# -- repairing ----------------------------------------------------------------------------------------------------


class RepairResult(NamedTuple):
    """What was saved, and where the damaged database is kept."""

    saved: SalvageResult
    replaced: Path


def repair_database(path: Path, users: StoreUsers | None = None) -> RepairResult:
    """Replace a damaged database by what can be read of it, verified, in one rename.

    Args:
        path: the database.
        users: who has it open; None if only SQLite knows.

    Raises:
        StorageError: it isn't damaged, isn't ours, is open elsewhere, or the disk failed; then it is unchanged.
    """
    with users.exclusive("repaired") if users is not None else nullcontext():
        return _repair(path)


def _repair(path: Path) -> RepairResult:
    condition = examine_database(path)
    if condition.kind not in REPAIRABLE:
        raise StorageError(condition.reason, condition.remedy, storage_path=str(path))
    fresh = path.with_name(f".{path.name}.repaired")
    replaced = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}Z")
    try:
        saved = salvage_database(path, fresh)
        verify_backup(fresh)
        with _exclusive_access(path), open_folder(path.parent) as folder:
            _sync_file(fresh)
            folder.link(path.name, replaced.name)
            for suffix in ("-wal", "-shm"):  # the WAL of the damaged one must not be applied to the new one
                with contextlib.suppress(FileNotFoundError):
                    folder.replace(path.name + suffix, replaced.name + suffix)
            folder.replace(fresh.name, path.name)
            folder.sync()
    except OSError as error:
        raise StorageError(
            f"{path} couldn't be repaired: {error.strerror}.",
            "Check disk space and permissions; it is unchanged.",
            **io_details(error, storage_path=str(path)),
        ) from error
    finally:
        delete_file(fresh)
    return RepairResult(saved._replace(path=path), replaced)


def _sync_file(path: Path) -> None:
    descriptor = open_file(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _exclusive_access(path: Path) -> Generator[None]:
    """Keep other processes from opening the database; Windows refuses to rename an open file anyway.

    Raises:
        StorageError: another process has it open.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = open_file(path, os.O_RDWR)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *SHARED_LOCK_BYTES)
        except (BlockingIOError, PermissionError):
            raise in_use_error(path, "repaired", find_database_users(path)) from None
        yield
    finally:
        os.close(descriptor)
