# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""All SQL: one SQLite database, written by one thread at a time, read inline.

WAL with `synchronous=FULL` keeps every acknowledged write through `kill -9` and power cuts. Several processes
share a project, so every write transaction begins IMMEDIATE: a deferred one fails when it turns into a writer.
Reads by key take microseconds inline and hundreds through a thread, which is why only writes leave the loop.
Writes that wait while another one is on its way to disk go there together afterwards, in one transaction.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast, get_origin

import apsw
import msgspec
import trio

from chora.disk import check_room
from chora.errors import StorageError, io_details
from chora.store.ids import id_after, time_of
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
from chora.store.store import TRACES_KEPT

T = TypeVar("T")
R = TypeVar("R", bound=Record)

APPLICATION_ID = 0x63686F72  # "chor": tells our databases from any other SQLite file
BUSY_TIMEOUT = 5000  # milliseconds
PAGE_SIZE = 4096  # bytes of a page of the file, SQLite's own choice
LOOK_TIME = 0.1
"""Seconds that opening takes at most to look for damage; a database of 50 MB needs a fifth of that."""
READ_TIME = 5.0
WRITE_TIME = 60.0
"""Seconds after which a statement is given up, so that none holds the loop or the writing thread for ever."""
RETRY_TIME = 0.5
"""Seconds for which a failed write speaks for the next one."""
STEPS = 1000  # instructions of SQLite's machine between two looks at the clock
PAGE = 100  # records that are in memory at once while all of a kind are read

FAULTS = (
    *(apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError),
    *(apsw.PermissionsError, apsw.NoLFSError, apsw.NoMemError),
)
"""What isn't the doing of whoever asked: the next one will most likely meet it too."""

Rows = list[tuple[Any, ...]]

TABLES: dict[type[Record], str] = {
    Version: "versions",
    Draft: "drafts",
    Output: "outputs",
    Trace: "traces",
    Job: "jobs",
    Cost: "costs",
    Completion: "completions",
    Sample: "samples",
    Event: "events",
}
"""Every record has a table whose columns are its fields; objects are kept as JSON text."""

_OBJECTS: dict[type[Record], frozenset[str]] = {
    kind: frozenset(field.name for field in msgspec.structs.fields(kind) if get_origin(field.type) is dict)
    for kind in TABLES
}


def migrations() -> list[tuple[int, str]]:
    """The numbered migration scripts, oldest first."""
    files = (resources.files("chora.store") / "migrations").iterdir()
    return sorted((int(file.name[:4]), file.read_text("utf-8")) for file in files if file.name.endswith(".sql"))


class _Write(Generic[T]):
    """A change that waits to be written, and what came of it."""

    def __init__(self, change: Callable[[apsw.Connection], T]) -> None:
        self._change = change
        self._answer: list[T] = []
        self.error: Exception | None = None

    @property
    def is_settled(self) -> bool:
        return self.error is not None or bool(self._answer)

    def make(self, db: apsw.Connection) -> None:
        """Make the change inside a transaction, or nothing of it, which leaves the transaction usable."""
        self._answer.clear()
        db.execute("SAVEPOINT change")
        try:
            self._answer.append(self._change(db))
        except Exception as error:  # whatever it is, it belongs to whoever asked for the change
            self.error = error
            if not db.in_transaction:  # SQLite has undone everything, the changes of others too
                raise
            db.execute("ROLLBACK TO change")
        db.execute("RELEASE change")

    def answer(self) -> T:
        """What the change returned or raised."""
        if self.error is not None:
            raise self.error
        return self._answer[0]


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
        self._broken: apsw.Error | None = None
        """Why the last write failed, if it was the disk's or the file's doing."""
        self._written = -math.inf
        """When the last write ended, well or not."""
        self._checking = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._turn = trio.Lock()
        self._waiting: list[_Write[Any]] = []
        with translated(path):
            if path is None:
                # One that both connections share: a single one couldn't read while its thread writes.
                place, flags = f"file:/{secrets.token_hex(8)}?vfs=memdb", apsw.SQLITE_OPEN_URI
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                place, flags = str(path), 0
            self.address, self.flags = place, flags
            was_left_open = path is not None and has_wal(path)
            self._writer = _connect(place, flags)
            try:
                _migrate(self._writer, path)
                self._reader = _connect(place, flags)
            except BaseException:
                if was_left_open:  # closing would fold what the WAL holds into a file that isn't ours to change
                    self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                self._writer.close()
                raise
            self._file = _file_at(path)
            self._reading, self._writing = Deadline(self._reader), Deadline(self._writer)

    def close(self) -> None:
        """Close both connections; the WAL is folded into the database by the last one out."""
        self._reader.close()
        self._writer.close()

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the database answers now, takes writes, and its disk has room."""
        if not self._seems_fine(within):
            async with self._checking:
                if not self._seems_fine(within):  # while somebody else checked, it may have been written to
                    # The version that is there already: the smallest write that really goes to disk.
                    await self._write(lambda db: db.pragma("user_version", db.pragma("user_version")))

    def _seems_fine(self, within: float) -> bool:
        """Whether there is no need to try a write; raises StorageError where one would be in vain."""
        self._check_in_place()
        self._read("SELECT count(*) FROM sqlite_schema")
        if self.path is not None:
            check_room(self.path.parent)
        age = time.monotonic() - self._written
        if self._broken is not None and age < RETRY_TIME:
            with translated(self.path):
                raise self._broken
        return self._broken is None and age <= within

    def counts(self) -> dict[str, int]:
        """How many rows each table holds."""
        return {table: self._read(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES.values()}

    # -- versions -------------------------------------------------------------------------------------------

    async def add_version(self, version: Version) -> Version:
        """Store a text durably and return it with its `version_id`.

        Raises:
            InvalidInput: it came with an id, and that isn't one.
        """
        if version.version_id:
            time_of(version.version_id)

        def add(db: apsw.Connection) -> Version:
            saved = msgspec.structs.replace(version, version_id=version.version_id or _next_version_id(db))
            put_record(db, saved)
            return saved

        return await self._write(add)

    def version(self, content_id: str, version_id: str) -> Version | None:
        """The version of this id, if it is this content's."""
        return self._first(Version, "version_id = ? AND content_id = ?", version_id, content_id)

    def latest_version(self, content_id: str) -> Version | None:
        """The newest text of a content, whatever it was made from."""
        return self._first(Version, "content_id = ? AND NOT deleted ORDER BY version_id DESC LIMIT 1", content_id)

    def version_made_from(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest text of a content that was made from exactly this."""
        where = "content_id = ? AND fingerprint = ? AND NOT deleted ORDER BY version_id DESC LIMIT 1"
        return self._first(Version, where, content_id, fingerprint)

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first."""
        return self._all(Version, "content_id = ? ORDER BY version_id", content_id)

    def version_infos(self, content_id: str) -> list[VersionInfo]:
        """Every version of a content without its text, oldest first; read from an index that has no bodies."""
        names = VersionInfo.__struct_fields__
        sql = f"SELECT {', '.join(names)} FROM versions WHERE content_id = ? ORDER BY version_id"
        rows = self._read(sql, content_id)
        return [msgspec.convert(dict(zip(names, row, strict=True)), VersionInfo, strict=False) for row in rows]

    def content_ids(self) -> list[str]:
        """Every content of which there is a version, sorted."""
        return [content_id for (content_id,) in self._read("SELECT DISTINCT content_id FROM versions ORDER BY 1")]

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions, all of them in one transaction."""
        chosen = msgspec.json.encode(version_ids).decode()  # one parameter, however many there are
        among = "version_id IN (SELECT value FROM json_each(?))"

        def delete(db: apsw.Connection) -> None:
            if keep_metadata:
                db.execute(f"UPDATE versions SET body = '', size = 0, deleted = 1 WHERE {among}", (chosen,))
                return
            if highest := _highest_id(db, f"WHERE {among}", chosen):
                db.execute("DELETE FROM last_deleted_version")
                db.execute("INSERT INTO last_deleted_version (version_id) VALUES (?)", (highest,))
                db.execute(f"DELETE FROM versions WHERE {among}", (chosen,))

        await self._write(delete)

    # -- drafts ---------------------------------------------------------------------------------------------

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft durably, over an earlier one of the same id."""
        await self._write(lambda db: put_record(db, draft))

    def draft(self, draft_id: str) -> Draft | None:
        """The draft of this id."""
        return self._first(Draft, "draft_id = ?", draft_id)

    def drafts(self) -> list[Draft]:
        """Every draft, oldest first."""
        return self._all(Draft, "true ORDER BY created_at, draft_id")

    async def delete_draft(self, draft_id: str) -> None:
        """Forget a draft; one that isn't there is fine."""
        await self._write(lambda db: _run(db, "DELETE FROM drafts WHERE draft_id = ?", draft_id))

    # -- outputs --------------------------------------------------------------------------------------------

    def output(self, path: str) -> Output | None:
        """What we know of the file at a project-relative path."""
        return self._first(Output, "path = ?", path)

    def outputs(self) -> list[Output]:
        """Every file that was written, by path."""
        return self._all(Output, "true ORDER BY path")

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file this artifact wrote."""
        return self._all(Output, "artifact_id = ? ORDER BY path", artifact_id)

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Remember files, all of them in one transaction."""
        await self._put_all(outputs)

    # -- traces ---------------------------------------------------------------------------------------------

    def trace(self, subject: str, key: str) -> Trace | None:
        """What is known of this piece of work."""
        return self._first(Trace, "subject = ? AND key = ?", subject, key)

    def traces(self, subject: str) -> list[Trace]:
        """Every trace of a subject, newest first."""
        return self._all(Trace, "subject = ? ORDER BY at DESC, rowid DESC", subject)

    async def save_traces(self, traces: Iterable[Trace]) -> None:
        """Remember traces, all of them in one transaction, and forget the oldest of their subjects."""
        await self._put_all(traces)

    # -- jobs -----------------------------------------------------------------------------------------------

    async def save_job(self, job: Job) -> None:
        """Store a job durably, over an earlier state of it."""
        await self._write(lambda db: put_record(db, job))

    def job(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._first(Job, "job_id = ?", job_id)

    def job_of(self, key: str) -> Job | None:
        """The newest job of a key."""
        return self._first(Job, "key = ? ORDER BY created_at DESC, job_id DESC LIMIT 1", key)

    def jobs(self) -> list[Job]:
        """Every job, newest first."""
        return self._all(Job, "true ORDER BY created_at DESC, job_id DESC")

    async def delete_jobs(self, job_ids: Sequence[str]) -> None:
        """Forget jobs, all of them in one transaction."""
        chosen = msgspec.json.encode(job_ids).decode()
        delete = "DELETE FROM jobs WHERE job_id IN (SELECT value FROM json_each(?))"
        await self._write(lambda db: _run(db, delete, chosen))

    # -- language models ------------------------------------------------------------------------------------

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Keep an answer and what it cost, in one transaction."""
        await self._put_all([completion, cost])

    def completion(self, key: str) -> Completion | None:
        """The answer to exactly this."""
        return self._first(Completion, "key = ?", key)

    def spent(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        return self._read("SELECT total(usd) FROM costs WHERE at >= ?", since)[0][0]

    def costs(self, since: str = "") -> list[Cost]:
        """What was spent at or after a time, oldest first."""
        return self._all(Cost, "at >= ? ORDER BY at, rowid", since)

    # -- measurements and happenings ------------------------------------------------------------------------

    async def add_sample(self, sample: Sample) -> None:
        """Store one measurement durably."""
        await self._write(lambda db: put_record(db, sample))

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        return self._all(Sample, "kind = ? AND at >= ? ORDER BY at, rowid", kind, since)

    def last_sample(self, kind: str) -> Sample | None:
        """The newest measurement of a kind."""
        return self._first(Sample, "kind = ? ORDER BY at DESC, rowid DESC LIMIT 1", kind)

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts:
        """How many measurements of a kind were taken at or after a time, and how many were fine."""
        rows = self._read("SELECT count(*), total(ok) FROM samples WHERE kind = ? AND at >= ?", kind, since)
        return SampleCounts(rows[0][0], int(rows[0][1]))

    async def add_events(self, events: Sequence[Event]) -> None:
        """Store happenings, all of them in one transaction."""
        await self._put_all(events)

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """The newest happenings at or after a time, newest first."""
        return self._all(Event, "at >= ? ORDER BY at DESC, rowid DESC LIMIT ?", since, limit)

    async def forget(self, before: str) -> int:
        """Delete events and samples from before a time; returns how many."""

        def delete(db: apsw.Connection) -> int:
            return _run(db, "DELETE FROM events WHERE at < ?", before) + _run(
                db, "DELETE FROM samples WHERE at < ?", before
            )

        return await self._write(delete)

    # -- everything -----------------------------------------------------------------------------------------

    def records(self, kind: type[R]) -> Iterator[R]:
        """Everything of a kind, in the order in which it was stored."""
        names, last = kind.__struct_fields__, 0
        while True:
            # A page at a time, because a query that stays open keeps the WAL from being folded in.
            rows = self._read(
                f"SELECT rowid, {', '.join(names)} FROM {TABLES[kind]} WHERE rowid > ? ORDER BY rowid LIMIT {PAGE}",
                last,
            )
            if not rows:
                return
            for row in rows:
                yield record_of(kind, row[1:])
            last = rows[-1][0]

    async def add_records(self, records: Iterable[Record]) -> None:
        """Store records as they are, all of them in one transaction.

        Raises:
            InvalidInput: a version without an id.
        """
        given = list(records)
        for record in given:
            if isinstance(record, Version):
                time_of(record.version_id)
        await self._put_all(given)

    # -- underneath -----------------------------------------------------------------------------------------

    def _first(self, kind: type[R], where: str, *values: Any) -> R | None:
        return next(iter(self._all(kind, where, *values)), None)

    def _all(self, kind: type[R], where: str, *values: Any) -> list[R]:
        rows = self._read(f"SELECT {', '.join(kind.__struct_fields__)} FROM {TABLES[kind]} WHERE {where}", *values)
        return [record_of(kind, row) for row in rows]

    def _read(self, sql: str, *values: Any) -> Rows:
        with translated(self.path), self._reading.within(READ_TIME):
            return cast(Rows, self._reader.execute(sql, values).fetchall())

    async def _put_all(self, records: Iterable[Record]) -> None:
        given = list(records)

        def put(db: apsw.Connection) -> None:
            for record in given:
                put_record(db, record)
            for subject in {record.subject for record in given if isinstance(record, Trace)}:
                _forget_old_traces(db, subject)

        await self._write(put)

    async def _write(self, change: Callable[[apsw.Connection], T]) -> T:
        """Have a change written, together with all that waits by the time it is its turn.

        A caller that is cancelled while it waits takes its change back; one whose change is on its way to disk waits
        for the end of that: who is told "cancelled" must not race its own write.
        """
        write = _Write(change)
        self._waiting.append(write)
        try:
            await self._turn.acquire()
        except trio.Cancelled:
            if write in self._waiting:
                self._waiting.remove(write)
            else:
                with trio.CancelScope(shield=True):
                    async with self._turn:
                        pass
            raise
        try:
            if not write.is_settled:
                batch, self._waiting = self._waiting, []
                with trio.CancelScope(shield=True):  # the others of the batch weren't cancelled
                    await trio.to_thread.run_sync(self._commit, batch, limiter=self._limiter)
        finally:
            self._turn.release()
        with translated(self.path):
            return write.answer()

    def _check_in_place(self) -> None:
        """Raise StorageError if the file isn't where it was: what is written to it now, nobody would find again."""
        if _file_at(self.path) != self._file:
            raise StorageError(
                f"{self.path} was moved, removed or replaced while it was open.",
                "Put it back, or start chora again to go on with what is there now.",
                storage_path=str(self.path),
            )

    def _commit(self, batch: list[_Write[Any]]) -> None:
        try:
            self._check_in_place()
            with self._writing.within(WRITE_TIME), _transaction(self._writer):
                for write in batch:
                    write.make(self._writer)
        except (apsw.FullError, apsw.InterruptError) as error:
            self._broken = error if isinstance(error, FAULTS) else None
            if len(batch) == 1:
                batch[0].error = error
                return
            for write in batch:  # without those that are too large, the others may find room, and time
                write.error = None
                self._commit([write])
        except (apsw.Error, StorageError) as error:
            self._broken = error if isinstance(error, FAULTS) else None
            for write in batch:
                write.error = error
        else:
            self._broken = next((write.error for write in batch if isinstance(write.error, FAULTS)), None)
        finally:
            self._written = time.monotonic()


class Deadline:
    """Gives up whatever a connection executes once its time is over."""

    def __init__(self, db: apsw.Connection) -> None:
        self._until = math.inf
        db.set_progress_handler(lambda: time.monotonic() > self._until, STEPS)

    @contextmanager
    def within(self, seconds: float) -> Generator[None]:
        """Let what is executed inside take so long; beyond it, apsw.InterruptError is raised."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf


def has_wal(path: Path) -> bool:
    """Whether changes lie beside a database that aren't folded in: a process has it open, or was ended."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except OSError:
        return False


def _file_at(path: Path | None) -> tuple[int, int] | None:
    """What tells a file from another one that was put in its place."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    if not is_empty:
        _look_for_damage(db, path)
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


def _look_for_damage(db: apsw.Connection, path: Path | None) -> None:
    """Refuse a damaged database while it is still as it was; a large one is looked at for as long as there is time."""
    with contextlib.suppress(apsw.InterruptError), Deadline(db).within(LOOK_TIME):
        found = cast(str, db.execute("PRAGMA quick_check(1)").fetchall()[0][0])
        if found != "ok":
            raise StorageError(
                f"{path} is damaged: {' '.join(found.split())}.",
                "`chora doctor` says what can be saved, `chora restore` puts a backup in its place.",
                storage_path=str(path),
                error_type="CorruptError",
            )
    db.set_progress_handler(None)


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
    """An id above every one there is or was."""
    return id_after(_highest_id(db))


def _highest_id(db: apsw.Connection, where: str = "", *values: str) -> str | None:
    """The highest id among some versions and those deleted before."""
    known = f"SELECT max(version_id) AS id FROM versions {where} UNION SELECT version_id FROM last_deleted_version"
    return cast("str | None", db.execute(f"SELECT max(id) FROM ({known})", values).fetchall()[0][0])


def put_record(db: apsw.Connection, record: Record) -> None:
    """Write a record over that of the same identity."""
    columns: dict[str, Any] = {name: getattr(record, name) for name in record.__struct_fields__}
    for name in _OBJECTS[type(record)]:
        columns[name] = msgspec.json.encode(columns[name]).decode()
    if isinstance(record, Version):
        columns["size"] = len(record.body.encode())
    marks = ", ".join("?" * len(columns))
    sql = f"INSERT OR REPLACE INTO {TABLES[type(record)]} ({', '.join(columns)}) VALUES ({marks})"
    db.execute(sql, tuple(columns.values()))


def _forget_old_traces(db: apsw.Connection, subject: str) -> None:
    newest = f"SELECT rowid FROM traces WHERE subject = ?1 ORDER BY at DESC, rowid DESC LIMIT {TRACES_KEPT}"
    db.execute(f"DELETE FROM traces WHERE subject = ?1 AND rowid NOT IN ({newest})", (subject,))


def _run(db: apsw.Connection, sql: str, value: str) -> int:
    """Execute a statement; returns how many rows it changed."""
    db.execute(sql, (value,))
    return db.changes()


def record_of(kind: type[R], row: Sequence[Any], names: Sequence[str] = ()) -> R:
    """The record in a row of all its columns, or of those with the names.

    Raises:
        msgspec.MsgspecError: it isn't one.
    """
    objects = _OBJECTS[kind]
    fields = {
        name: msgspec.json.decode(value) if name in objects else value
        for name, value in zip(names or kind.__struct_fields__, row, strict=True)
    }
    return msgspec.convert(fields, kind, strict=False)


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
def translated(path: Path | None) -> Generator[None]:
    """Turn SQLite's exceptions into StorageError, in this one place."""
    try:
        yield
    except apsw.Error as error:
        advice: dict[type[apsw.Error], str] = {
            apsw.FullError: "Free some disk space; nothing that was acknowledged is lost.",
            apsw.BusyError: "Another process holds the database for long; try again.",
            apsw.CorruptError: "The file is damaged and was left as it is; `chora doctor` says what can be saved, or "
            "restore a backup.",
            apsw.NotADBError: "The file is not a database; it was left as it is. Move it away or restore a backup.",
            apsw.InterruptError: "It took too long and was given up; ask for less, or see whether the disk is slow.",
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
