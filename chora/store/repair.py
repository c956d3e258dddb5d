# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""Saying what is wrong with a project's database, and putting a whole one in the place of a damaged one.

Looking changes nothing. Repairing touches only a database that is ours, no newer than we are, damaged, and open
nowhere else; what it replaces stays beside it under a dated name.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from array import array
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from chora.disk import sync_folder
from chora.errors import StorageError, io_details
from chora.store.backup import NAMES, verify
from chora.store.salvage import HEADER, Salvaged, salvage
from chora.store.sqlite import APPLICATION_ID, BUSY_TIMEOUT, has_wal, migrations

DamageKind = Literal["missing", "whole", "damaged", "foreign", "newer", "unreadable", "held"]

LOG_MAGIC, LOG_HEAD, FRAME_HEAD = 0x377F0682, 32, 24
"""How SQLite's write-ahead log begins, and the bytes before its frames and before the page in each of them."""
SHARED = (510, 0x40000002)
"""Length and start of the bytes by which SQLite marks a database as open; nothing is ever stored there."""


class Condition(NamedTuple):
    """How a database is, in one sentence, and what can be done about it."""

    kind: DamageKind
    reason: str
    remedy: str | None = None


# -- looking ------------------------------------------------------------------------------------------------------


def examine(path: Path) -> Condition:
    """Look at all of a database; it, and what lies beside it, stays as it is."""
    if not os.path.lexists(path):
        return Condition("missing", f"There is no {path} yet; the first thing to be remembered makes it.")
    if not path.is_file():
        return Condition("foreign", f"{path} is no file.", "Point the setting storage.path at another place.")
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        remedy = "Check the permissions of the file and its folder."
        return Condition("unreadable", f"{path} can't be read: {error.strerror}.", remedy)
    if is_empty:
        return Condition("missing", f"{path} is empty; the first thing to be remembered makes a database of it.")
    if (stranger := _judge_header(path)) is not None:
        return stranger
    try:
        return _look_into(path)
    except apsw.BusyError:
        return Condition("held", f"Another process keeps {path} to itself.", "Try again when it is done.")
    except (apsw.CantOpenError, apsw.PermissionsError) as error:
        return Condition("unreadable", f"{path} can't be opened: {error}.", "Check the permissions of its folder.")
    except apsw.Error as error:
        return _judge_damage(path, str(error))


def _judge_header(path: Path) -> Condition | None:
    """What a database says of itself is believed, however damaged the rest is, if it says that it isn't ours."""
    with path.open("rb") as file:
        header = file.read(HEADER)
    if not header.startswith(b"SQLite format 3\0"):
        return None
    version, newest = int.from_bytes(header[60:64], "big"), migrations()[-1][0]
    if (owner := int.from_bytes(header[68:72], "big")) not in (APPLICATION_ID, 0):
        remedy = "Point the setting storage.path at another file."
        return Condition("foreign", f"{path} is a database of another program; chora leaves it alone.", remedy)
    if owner and version > newest:
        reason = f"{path} was written by a newer chora (schema {version}, this one knows {newest})."
        return Condition("newer", reason, "Install the newer chora again, or restore a backup made by this one.")
    return None


def _look_into(path: Path) -> Condition:
    # Without changes beside it the file is all there is; opened so, nothing is made beside it either.
    how = "mode=ro" if has_wal(path) else "mode=ro&immutable=1"
    db = apsw.Connection(f"{path.absolute().as_uri()}?{how}", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        db.set_busy_timeout(BUSY_TIMEOUT)
        if db.pragma("application_id") != APPLICATION_ID:
            if not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
                return Condition("missing", f"{path} is empty; the first thing to be remembered fills it.")
            remedy = "Point the setting storage.path at another file."
            return Condition("foreign", f"{path} is a database of another program; chora leaves it alone.", remedy)
        found = [" ".join(str(row[0]).split()) for row in db.execute("PRAGMA integrity_check(20)")]
    finally:
        db.close()
    if found == ["ok"]:
        return Condition("whole", f"{path} is whole: every page, index and row fits.")
    return _judge_damage(path, found[0] + (f", and {len(found) - 1} more faults" if len(found) > 1 else ""))


def _judge_damage(path: Path, what: str) -> Condition:
    """Tell a damaged database of ours from a file that never was one: something of ours can be read of it."""
    try:
        saved = preview(path)
    except StorageError:
        reason = f"{path} is not a database of chora, or nothing of it can be read any more ({what})."
        return Condition("foreign", reason, _restore_advice(path) or "Move it away; chora makes a new one then.")
    remedy = f"`chora doctor --repair` saves {describe(saved)}"
    if advice := _restore_advice(path):
        remedy += f"; or {advice[0].lower()}{advice[1:]}"
    return Condition("damaged", f"{path} is damaged: {what}.", remedy.rstrip(".") + ".")


def preview(path: Path) -> Salvaged:
    """What could be saved of a damaged database; nothing stays of the attempt.

    Raises:
        StorageError: nothing.
    """
    with tempfile.TemporaryDirectory(prefix="chora-") as folder:
        return salvage(path, Path(folder) / "saved.db")


def describe(saved: Salvaged) -> str:
    """What was saved and what may be lost, for people."""
    words = ", ".join(f"{count:,} {kind}" for kind, count in saved.saved.items() if count) or "nothing"
    if saved.lost:
        words += f" (up to {', '.join(f'{count:,} {kind}' for kind, count in saved.lost.items())} are lost)"
    return words


def _restore_advice(path: Path) -> str | None:
    """The newest backup in the usual folder."""
    with contextlib.suppress(OSError):
        if names := sorted(each.name for each in (path.parent / "backups").iterdir() if NAMES.fullmatch(each.name)):
            return f"Restore a backup: `chora restore {path.parent / 'backups' / names[-1]}`."
    return None


def lost_changes(path: Path) -> int:
    """Pages of changes beside a database that lie behind a damaged one, where SQLite doesn't find them any more."""
    log = path.with_name(f"{path.name}-wal")
    try:
        with log.open("rb") as file:
            head = file.read(LOG_HEAD)
            if len(head) < LOG_HEAD or int.from_bytes(head[:4], "big") & ~1 != LOG_MAGIC:
                return 0
            order: Literal["big", "little"] = "big" if head[3] & 1 else "little"
            size, salt = int.from_bytes(head[8:12], "big"), head[16:24]
            sums, is_sound, lost = _checksum(head[:24], order, (0, 0)), True, 0
            while len(frame := file.read(FRAME_HEAD + size)) == FRAME_HEAD + size and frame[8:16] == salt:
                sums = _checksum(frame[:8] + frame[FRAME_HEAD:], order, sums)
                is_sound = is_sound and frame[16:24] == b"".join(each.to_bytes(4, "big") for each in sums)
                lost += not is_sound
    except OSError:
        return 0
    return max(0, lost - 1)  # the first of them may be one that was never written to its end


def _checksum(data: bytes, order: Literal["big", "little"], sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum of a write-ahead log."""
    words = array("I", data)
    if order != sys.byteorder:
        words.byteswap()
    one, two = sums
    for place in range(0, len(words), 2):
        one = (one + words[place] + two) & 0xFFFFFFFF
        two = (two + words[place + 1] + one) & 0xFFFFFFFF
    return one, two


# -- repairing ----------------------------------------------------------------------------------------------------


class Repaired(NamedTuple):
    """What the new database holds, and where the damaged one is."""

    saved: Salvaged
    replaced: Path


def repair(path: Path) -> Repaired:
    """Put what can be read of a damaged database in its place, verified, in one rename.

    Raises:
        StorageError: it isn't damaged, or not ours, or open elsewhere, or the disk failed; then it is as it was.
    """
    condition = examine(path)
    if condition.kind != "damaged":
        raise StorageError(condition.reason, condition.remedy, storage_path=str(path))
    fresh = path.with_name(f".{path.name}.repaired")
    replaced = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}Z")
    try:
        saved = salvage(path, fresh)
        verify(fresh)
        with _alone(path):
            _sync(fresh)
            os.link(path, replaced)
            for ending in ("-wal", "-shm"):  # what belongs to the damaged one must not be applied to the new one
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + ending).rename(replaced.with_name(replaced.name + ending))
            fresh.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path} couldn't be repaired: {error.strerror}.",
            "Check disk space and permissions; it is as it was.",
            **io_details(error, storage_path=str(path)),
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
    return Repaired(saved._replace(path=path), replaced)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Keep every process from opening the database meanwhile; Windows does so by not renaming what is open.

    Raises:
        StorageError: somebody has it open.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *SHARED)
        except (BlockingIOError, PermissionError):
            raise StorageError(
                f"Another process has {path} open.",
                "End it first; what it writes would be lost.",
                storage_path=str(path),
            ) from None
        yield
    finally:
        os.close(descriptor)
