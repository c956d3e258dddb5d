# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""Copying what can be read of a damaged database into a new one. A copy is opened; the damaged one is only read.

SQLite ends a query at the first corrupt page. So a table is read by rowid: forwards from its beginning to the damage,
backwards from its end, and the range between in ever smaller halves. A row is saved only if it is a valid record: a
text that doesn't match its hash counts as damaged, too.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw
import msgspec

from chora.errors import StorageError, io_details
from chora.hashing import sha256
from chora.nofollow import check_file, copy_file, move_file, open_file, read_file, temporary_folder
from chora.store.database import PAGE_SIZE, TABLES, connect, put_record, record_of, translate_errors
from chora.store.records import Record, Version
from chora.store.sqlite import SqliteStore

HEADER_LENGTH = 100
"""Length of the database header at the beginning of the first page (sqlite.org/fileformat2.html, 1.3)."""
ATTEMPTS = 20_000
"""Ranges that are tried where pages are damaged; most of them cost microseconds."""


class SalvageResult(NamedTuple):
    """What was read of a damaged database, and where it was written."""

    path: Path
    saved: dict[str, int]
    """Records by kind."""
    lost: dict[str, int]
    """Rowids that may have held a record and couldn't be read, by kind; kinds without losses are left out."""


def salvage_database(damaged: Path, target: Path) -> SalvageResult:
    """Copy every record that can still be read into a new database, in the order in which they were stored.

    Raises:
        StorageError: no record of ours can be read, or the new database can't be written.
    """
    try:
        with temporary_folder(target.parent, ".salvaging-") as folder:
            copy, made = folder / "damaged.db", folder / "saved.db"
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    copy_file(damaged.with_name(damaged.name + suffix), copy.with_name(copy.name + suffix))
            SqliteStore(made).close()
            with translate_errors(made), _open_database(made) as new:
                done = _copy_records(damaged, copy, made, new)
                new.execute("PRAGMA journal_mode = DELETE")
            move_file(made, target)
    except OSError as error:
        raise StorageError(
            f"What can be read of {damaged} couldn't be written to {target.parent}: {error.strerror}.",
            "Check disk space and permissions.",
            **io_details(error, path=str(target)),
        ) from error
    return SalvageResult(target, *done)


def _copy_records(damaged: Path, copy: Path, made: Path, new: apsw.Connection) -> tuple[dict[str, int], dict[str, int]]:
    for rebuild in (None, _rebuild_header, _rebuild_first_page):
        if rebuild is not None:
            rebuild(copy, made)
        with _open_database(copy) as old:
            new.execute("BEGIN IMMEDIATE")
            counts = {name: _TableSalvage(old, new, kind, name).save_records() for kind, name in TABLES.items()}
            with contextlib.suppress(apsw.Error):
                rows = cast(Any, old).execute("SELECT version_id FROM last_deleted_version").fetchall()
                new.executemany("INSERT INTO last_deleted_version (version_id) VALUES (?)", rows)
            new.execute("COMMIT")
        if any(saved for saved, _ in counts.values()):
            lost = {name: lost for name, (_, lost) in counts.items() if lost}
            return {name: saved for name, (saved, _) in counts.items()}, lost
    raise StorageError(
        f"No record of chora can be read from {damaged}.", "Restore a backup.", storage_path=str(damaged)
    )


@contextmanager
def _open_database(path: Path) -> Generator[apsw.Connection]:
    db = connect(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        yield db
    finally:
        db.close()


# -- the first page -----------------------------------------------------------------------------------------------


def _rebuild_header(copy: Path, fresh: Path) -> None:
    """Replace the header by that of a new database, with the size of the damaged file."""
    status = check_file(copy)
    pages = max(1, (status.st_size if status else 0) // PAGE_SIZE)
    header = bytearray(read_file(fresh, HEADER_LENGTH))
    header[28:32] = pages.to_bytes(4, "big")
    header[32:40] = bytes(8)  # no freelist: nothing will be written
    header[92:96] = header[24:28]  # version-valid-for must equal the change counter, or SQLite ignores the size
    _overwrite(copy, bytes(header))


def _rebuild_first_page(copy: Path, fresh: Path) -> None:
    """Replace all of the first page by that of a new database: unless the schema was changed since, the root pages of
    its tables have the same numbers."""
    _overwrite(copy, read_file(fresh, PAGE_SIZE))
    _rebuild_header(copy, fresh)


def _overwrite(path: Path, data: bytes) -> None:
    with open(open_file(path, os.O_RDWR), "r+b") as file:
        file.write(data)


# -- one table ----------------------------------------------------------------------------------------------------


class _TableSalvage:
    """Saves the records of one table."""

    def __init__(self, old: apsw.Connection, new: apsw.Connection, kind: type[Record], name: str) -> None:
        self._old, self._new, self._kind, self._name = old, new, kind, name
        self._saved = self._lost = 0
        self._names: list[str] = []

    def save_records(self) -> tuple[int, int]:
        """Return how many records were saved, and how many may be lost."""
        try:
            here = {cast(str, row[1]) for row in self._old.execute(f"PRAGMA table_info({self._name})")}
        except apsw.Error:
            return 0, 1
        self._names = [name for name in self._kind.__struct_fields__ if name in here]
        if not self._names:
            return 0, 0  # an older schema has no such table
        waiting = deque([(0, self._end_rowid())])
        for _ in range(ATTEMPTS):
            if not waiting:
                break
            low, high = waiting.popleft()
            if (low := self._save_range(low, high, "ASC")) is None or (
                high := self._save_range(low, high, "DESC")
            ) is None:
                continue
            if high - low <= 2:
                self._lost += high - low - 1
                continue
            middle = (low + high) // 2
            waiting += [(low, middle + 1), (middle, high)]
        self._lost += sum(high - low - 1 for low, high in waiting)
        return self._saved, self._lost

    def _end_rowid(self) -> int:
        """A number above every rowid."""
        try:
            return cast(int, self._old.execute(f"SELECT max(rowid) FROM {self._name}").fetchall()[0][0] or 0) + 1  # noqa: S608
        except apsw.Error:
            # The last page is damaged; a page holds at most about a hundred rows of ours.
            with contextlib.suppress(apsw.Error):
                return cast(int, self._old.pragma("page_count")) * 100
            return PAGE_SIZE

    def _save_range(self, low: int, high: int, order: str) -> int | None:
        """Save the rows between two rowids, in an order, up to the first damage.

        Returns the last rowid that was read, or None if the range was read completely.
        """
        place = low if order == "ASC" else high
        sql = (
            f"SELECT rowid, {', '.join(self._names)} FROM {self._name} NOT INDEXED "  # noqa: S608
            f"WHERE rowid > ? AND rowid < ? ORDER BY rowid {order}"
        )
        rows: Any = None
        while True:
            try:
                rows = rows or self._old.execute(sql, (low, high))
                row = next(rows, None)
            except (apsw.Error, UnicodeDecodeError):
                return place
            if row is None:
                return None
            self._save_row(row[1:])
            place = row[0]

    def _save_row(self, row: tuple[Any, ...]) -> None:
        try:
            record = record_of(self._kind, row, self._names)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            record = None
        if record is None or (isinstance(record, Version) and not record.deleted and _is_corrupt(record)):
            self._lost += 1
            return
        put_record(self._new, record)
        self._saved += 1


def _is_corrupt(version: Version) -> bool:
    """Whether a text differs from the stored one, by its hash, if that is a hash."""
    known = version.sha256
    return len(known) == len(right := sha256(version.body.encode())) and known != right
