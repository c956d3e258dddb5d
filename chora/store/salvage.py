# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""Copying out of a damaged database what can still be read of it. The damaged one is only read, and never opened.

SQLite ends a query at the first page it can't make sense of. So a table is read by its row numbers: from its beginning
to the damage, from its end back to it, and what lies between in ever smaller halves. A row counts as saved only if it
is a record: a text whose hash isn't its own is damaged too, however readable it looks.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw
import msgspec

from chora.errors import StorageError, io_details
from chora.hashing import sha256
from chora.store.records import Record, Version
from chora.store.sqlite import PAGE_SIZE, TABLES, SqliteStore, put_record, record_of, translated

HEADER = 100
"""Bytes before the first page's own content: what tells SQLite that it is a database, and how large."""
ATTEMPTS = 20_000
"""Stretches that are tried where pages are damaged; most of them cost microseconds."""


class Salvaged(NamedTuple):
    """What could be read of a damaged database, and where it was written."""

    path: Path
    saved: dict[str, int]
    """Records of each kind."""
    lost: dict[str, int]
    """Row numbers that may have held a record and couldn't be read; kinds of which nothing is lost are left out."""


def salvage(damaged: Path, target: Path) -> Salvaged:
    """Copy every record that can still be read into a new database, in the order in which they were stored.

    Raises:
        StorageError: nothing of it can be read as a database of ours, or the new one can't be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".salvaging-") as folder:
            copy, made = Path(folder) / "damaged.db", Path(folder) / "saved.db"
            for ending in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(damaged.with_name(damaged.name + ending), copy.with_name(copy.name + ending))
            SqliteStore(made).close()
            with translated(made), _opened(made) as new:
                done = _pour(damaged, copy, made, new)
                new.execute("PRAGMA journal_mode = DELETE")
            made.replace(target)
    except OSError as error:
        raise StorageError(
            f"What can be read of {damaged} couldn't be written to {target.parent}: {error.strerror}.",
            "Check disk space and permissions.",
            **io_details(error, path=str(target)),
        ) from error
    return Salvaged(target, *done)


def _pour(damaged: Path, copy: Path, made: Path, new: apsw.Connection) -> tuple[dict[str, int], dict[str, int]]:
    for mend in (None, _mend_header, _mend_first_page):
        if mend is not None:
            mend(copy, made)
        with _opened(copy) as old:
            new.execute("BEGIN IMMEDIATE")
            counts = {name: _Table(old, new, kind, name).save() for kind, name in TABLES.items()}
            with contextlib.suppress(apsw.Error):
                rows = cast(Any, old).execute("SELECT version_id FROM last_deleted_version").fetchall()
                new.executemany("INSERT INTO last_deleted_version (version_id) VALUES (?)", rows)
            new.execute("COMMIT")
        if any(saved for saved, _ in counts.values()):
            lost = {name: lost for name, (_, lost) in counts.items() if lost}
            return {name: saved for name, (saved, _) in counts.items()}, lost
    raise StorageError(
        f"Nothing of {damaged} can be read as a database of chora.", "Restore a backup.", storage_path=str(damaged)
    )


@contextmanager
def _opened(path: Path) -> Generator[apsw.Connection]:
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE)
    try:
        yield db
    finally:
        db.close()


# -- the first page -----------------------------------------------------------------------------------------------


def _mend_header(copy: Path, fresh: Path) -> None:
    """Write the header of a new database over that of the damaged one, with the size that the file has."""
    pages = max(1, copy.stat().st_size // PAGE_SIZE)
    header = bytearray(fresh.read_bytes()[:HEADER])
    header[28:32] = pages.to_bytes(4, "big")
    header[32:40] = bytes(8)  # no free pages: nothing will be written
    header[92:96] = header[24:28]  # or SQLite wouldn't believe the size
    _overwrite(copy, bytes(header))


def _mend_first_page(copy: Path, fresh: Path) -> None:
    """Take all of the first page from a new database: where nothing was moved since, its tables begin in the same
    places."""
    _overwrite(copy, fresh.read_bytes()[:PAGE_SIZE])
    _mend_header(copy, fresh)


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


# -- one table ----------------------------------------------------------------------------------------------------


class _Table:
    """The saving of the records of one kind."""

    def __init__(self, old: apsw.Connection, new: apsw.Connection, kind: type[Record], name: str) -> None:
        self._old, self._new, self._kind, self._name = old, new, kind, name
        self._saved = self._lost = 0
        self._names: list[str] = []

    def save(self) -> tuple[int, int]:
        """Returns how many records were saved, and how many may be lost."""
        try:
            here = {cast(str, row[1]) for row in self._old.execute(f"PRAGMA table_info({self._name})")}
        except apsw.Error:
            return 0, 1
        self._names = [name for name in self._kind.__struct_fields__ if name in here]
        if not self._names:
            return 0, 0  # an older schema has no such table
        waiting = deque([(0, self._top())])
        for _ in range(ATTEMPTS):
            if not waiting:
                break
            low, high = waiting.popleft()
            if (low := self._read(low, high, "ASC")) is None or (high := self._read(low, high, "DESC")) is None:
                continue
            if high - low <= 2:
                self._lost += high - low - 1
                continue
            middle = (low + high) // 2
            waiting += [(low, middle + 1), (middle, high)]
        self._lost += sum(high - low - 1 for low, high in waiting)
        return self._saved, self._lost

    def _top(self) -> int:
        """A number above that of every row."""
        try:
            return cast(int, self._old.execute(f"SELECT max(rowid) FROM {self._name}").fetchall()[0][0] or 0) + 1  # noqa: S608
        except apsw.Error:
            # The end itself is damaged; a page holds at most about a hundred rows of ours.
            with contextlib.suppress(apsw.Error):
                return cast(int, self._old.pragma("page_count")) * 100
            return PAGE_SIZE

    def _read(self, low: int, high: int, order: str) -> int | None:
        """Save the rows between two numbers, in an order, until something is damaged.

        Returns the last number that was passed, or None if there are no more.
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
            self._take(row[1:])
            place = row[0]

    def _take(self, row: tuple[Any, ...]) -> None:
        try:
            record = record_of(self._kind, row, self._names)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            record = None
        if record is None or (isinstance(record, Version) and not record.deleted and _is_torn(record)):
            self._lost += 1
            return
        put_record(self._new, record)
        self._saved += 1


def _is_torn(version: Version) -> bool:
    """Whether a text is another one than was stored, by its hash, if that is one."""
    known = version.sha256
    return len(known) == len(right := sha256(version.body.encode())) and known != right
