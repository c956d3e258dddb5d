# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""All SQL: one SQLite database, written by one thread at a time, read inline.

WAL with `synchronous=FULL` keeps every acknowledged write through `kill -9` and power cuts. Several processes
share a project, so every write transaction begins IMMEDIATE: a deferred one fails when it turns into a writer.
Reads by key take microseconds inline and hundreds through a thread, which is why only writes leave the loop.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import apsw
import msgspec
import trio

from chora.errors import StorageError, io_details
from chora.store.records import Draft, Output, Sample, SampleCounts, Version

T = TypeVar("T")

APPLICATION_ID = 0x63686F72  # "chor": tells our databases from any other SQLite file
BUSY_TIMEOUT = 5000  # milliseconds

Record = TypeVar("Record", Version, Draft, Output, Sample)
Rows = list[tuple[Any, ...]]

TABLES: dict[type, str] = {Version: "versions", Draft: "drafts", Output: "outputs", Sample: "samples"}
"""Every record has a table whose columns are its fields; objects are kept as JSON text."""


def migrations() -> list[tuple[int, str]]:
    """The numbered migration scripts, oldest first."""
    files = (resources.files("chora.store") / "migrations").iterdir()
    return sorted((int(file.name[:4]), file.read_text("utf-8")) for file in files if file.name.endswith(".sql"))


class SqliteStore:
    """The store of one project.

    Args:
        path: the database file, made with its folder when missing; None keeps everything in memory.

    Raises:
        StorageError: the file is not a chora database, is damaged, was written by a newer chora, or can't be
            opened; it is left as it was.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._limiter = trio.CapacityLimiter(1)
        with _translated(path):
            if path is None:
                # One that both connections share: a single one couldn't read while its thread writes.
                place, flags = f"file:/{secrets.token_hex(8)}?vfs=memdb", apsw.SQLITE_OPEN_URI
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                place, flags = str(path), 0
            self._writer = _connect(place, flags)
            try:
                _migrate(self._writer, path)
                self._reader = _connect(place, flags)
            except BaseException:
                self._writer.close()
                raise

    def close(self) -> None:
        """Close both connections; the WAL is folded into the database by the last one out."""
        self._reader.close()
        self._writer.close()

    def check(self) -> None:
        """Raise StorageError unless the database answers now."""
        with _translated(self.path):
            self._reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()

    # -- versions -------------------------------------------------------------------------------------------

    async def add_version(self, version: Version) -> Version:
        """Store a text durably and return it with its `version_id`."""

        def add(db: apsw.Connection) -> Version:
            saved = msgspec.structs.replace(version, version_id=_next_version_id(db))
            _put(db, saved)
            return saved

        return await self._write(add)

    def latest_version(self, content_id: str) -> Version | None:
        """The newest text of a content, whatever it was made from."""
        return self._first(Version, "content_id = ? ORDER BY version_id DESC LIMIT 1", content_id)

    def version_made_from(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest text of a content that was made from exactly this."""
        where = "content_id = ? AND fingerprint = ? ORDER BY version_id DESC LIMIT 1"
        return self._first(Version, where, content_id, fingerprint)

    def versions(self, content_id: str) -> list[Version]:
        """Every text of a content, oldest first."""
        return self._all(Version, "content_id = ? ORDER BY version_id", content_id)

    # -- drafts ---------------------------------------------------------------------------------------------

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft durably, over an earlier one of the same id."""
        await self._write(lambda db: _put(db, draft))

    def draft(self, draft_id: str) -> Draft | None:
        """The draft of this id."""
        return self._first(Draft, "draft_id = ?", draft_id)

    async def delete_draft(self, draft_id: str) -> None:
        """Forget a draft; one that isn't there is fine."""
        await self._write(lambda db: db.execute("DELETE FROM drafts WHERE draft_id = ?", (draft_id,)))

    # -- outputs --------------------------------------------------------------------------------------------

    def output(self, path: str) -> Output | None:
        """What we know of the file at a project-relative path."""
        return self._first(Output, "path = ?", path)

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file this artifact wrote."""
        return self._all(Output, "artifact_id = ? ORDER BY path", artifact_id)

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Remember files, all of them in one transaction."""

        def save(db: apsw.Connection) -> None:
            for output in outputs:
                _put(db, output)

        await self._write(save)

    # -- samples --------------------------------------------------------------------------------------------

    async def add_sample(self, sample: Sample) -> None:
        """Store one measurement durably."""
        await self._write(lambda db: _put(db, sample))

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        return self._all(Sample, "kind = ? AND at >= ? ORDER BY at", kind, since)

    def last_sample(self, kind: str) -> Sample | None:
        """The newest measurement of a kind."""
        return self._first(Sample, "kind = ? ORDER BY at DESC LIMIT 1", kind)

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts:
        """How many measurements of a kind were taken at or after a time, and how many were fine."""
        rows = self._read("SELECT count(*), total(ok) FROM samples WHERE kind = ? AND at >= ?", kind, since)
        return SampleCounts(rows[0][0], int(rows[0][1]))

    # -- underneath -----------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many rows each table holds."""
        return {table: self._read(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES.values()}

    def _first(self, kind: type[Record], where: str, *values: Any) -> Record | None:
        return next(iter(self._all(kind, where, *values)), None)

    def _all(self, kind: type[Record], where: str, *values: Any) -> list[Record]:
        names = kind.__struct_fields__
        rows = self._read(f"SELECT {', '.join(names)} FROM {TABLES[kind]} WHERE {where}", *values)
        return [msgspec.convert(_from_row(names, row), kind, strict=False) for row in rows]

    def _read(self, sql: str, *values: Any) -> Rows:
        with _translated(self.path):
            return cast(Rows, self._reader.execute(sql, values).fetchall())

    async def _write(self, change: Callable[[apsw.Connection], T]) -> T:
        def run() -> T:
            with _translated(self.path), _transaction(self._writer):
                return change(self._writer)

        # Not abandoned on cancellation: a caller that is told "cancelled" must not race its own write.
        return await trio.to_thread.run_sync(run, limiter=self._limiter)


def _connect(place: str, flags: int) -> apsw.Connection:
    db = apsw.Connection(place, flags | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    db.set_busy_timeout(BUSY_TIMEOUT)
    return db


def _migrate(db: apsw.Connection, path: Path | None) -> None:
    """Bring the schema up to date, one transaction per step.

    What isn't ours is refused before anything is written, the journal mode included.
    """
    scripts = migrations()
    newest = scripts[-1][0]
    with _transaction(db, "DEFERRED"):  # one look at it all: another process may be making it at this moment
        is_ours = db.pragma("application_id") == APPLICATION_ID
        is_empty = not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        version = cast(int, db.pragma("user_version"))
    if not is_ours and not is_empty:
        raise StorageError(
            f"{path} is a database of another program; chora leaves it alone.",
            "Point the setting storage.path at another file.",
            storage_path=str(path),
        )
    if version > newest:
        raise StorageError(
            f"{path} was written by a newer chora (schema {version}, this one knows {newest}).",
            "Install the newer chora again, or restore a backup made by this one.",
            storage_path=str(path),
        )
    _enter_wal(db)
    db.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
    while version < newest:
        with _transaction(db):
            # Another process may have migrated while we waited for the lock.
            version = cast(int, db.pragma("user_version"))
            if version < newest:
                number, script = scripts[version]
                db.execute(script)
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", number)
                version = number


def _enter_wal(db: apsw.Connection) -> None:
    """Change the journal mode, which fails at once, without the usual wait, while another process does the same."""
    deadline = time.monotonic() + BUSY_TIMEOUT / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _next_version_id(db: apsw.Connection) -> str:
    """An id above every earlier one, also when the clock stands still or goes back."""
    moment = datetime.now(UTC)
    fresh = f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z-{secrets.randbelow(0x8000):04x}"
    newest = cast("str | None", db.execute("SELECT max(version_id) FROM versions").fetchall()[0][0])
    if newest is None or fresh > newest:
        return fresh
    instant, _, count = newest.partition("-")
    if count == "ffff":  # the next millisecond: a sortable name, the true time stands in generated_at
        later = datetime.strptime(instant + "+0000", "%Y%m%dT%H%M%S%fZ%z") + timedelta(milliseconds=1)
        return f"{later:%Y%m%dT%H%M%S}{later.microsecond // 1000:03}Z-0000"
    return f"{instant}-{int(count, 16) + 1:04x}"


def _put(db: apsw.Connection, record: Version | Draft | Output | Sample) -> None:
    names = record.__struct_fields__
    values: list[Any] = [getattr(record, name) for name in names]
    row = [msgspec.json.encode(value).decode() if isinstance(value, dict) else value for value in values]
    marks = ", ".join("?" * len(names))
    db.execute(f"INSERT OR REPLACE INTO {TABLES[type(record)]} ({', '.join(names)}) VALUES ({marks})", row)


_OBJECTS = {"metadata", "config_data", "facts"}


def _from_row(names: tuple[str, ...], row: tuple[Any, ...]) -> dict[str, Any]:
    return {
        name: msgspec.json.decode(value) if name in _OBJECTS else value for name, value in zip(names, row, strict=True)
    }


@contextmanager
def _transaction(db: apsw.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Generator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself after a full disk
            db.execute("ROLLBACK")
        raise


@contextmanager
def _translated(path: Path | None) -> Generator[None]:
    """Turn SQLite's exceptions into StorageError, in this one place."""
    try:
        yield
    except apsw.Error as error:
        advice: dict[type[apsw.Error], str] = {
            apsw.FullError: "Free some disk space; nothing that was acknowledged is lost.",
            apsw.BusyError: "Another process holds the database for long; try again.",
            apsw.CorruptError: "The file is damaged and was left as it is; restore a backup.",
            apsw.NotADBError: "The file is not a database; it was left as it is. Move it away or restore a backup.",
            apsw.CantOpenError: "Check that the folder exists and may be written.",
            apsw.ReadOnlyError: "Check the permissions of the file and its folder.",
            apsw.IOError: "Check the disk: it failed, or is full.",
        }
        raise StorageError(
            f"The database {path or 'in memory'} failed: {error}.",
            advice.get(type(error)),
            storage_path=str(path),
            error_type=type(error).__name__,
        ) from error
    except OSError as error:
        raise StorageError(
            f"The database folder of {path} can't be made: {error.strerror}.",
            "Check that the folder above it may be written, or point the setting storage.path elsewhere.",
            **io_details(error, storage_path=str(path)),
        ) from error
