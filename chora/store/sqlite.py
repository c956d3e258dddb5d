# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""The SQLite backend: written by one thread at a time, read inline.

WAL mode with `synchronous=FULL` keeps every acknowledged write through `kill -9` and power cuts; NORMAL may lose the
last transactions (sqlite.org/pragma.html#pragma_synchronous).
Several processes share a project, so every write transaction begins IMMEDIATE: a deferred one fails with SQLITE_BUSY
when it turns into a writer (sqlite.org/lang_transaction.html).
Reads by key take microseconds inline and hundreds through a thread, which is why only writes leave the loop.
Group commit: writes that wait while another transaction is committed are committed together, in the next one.
It is one class because it is one interface, `Store`; each method is a query of a few lines. Connections, schema and
rows are in `database.py`.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import apsw
import msgspec
import trio

from chora.disk import check_free_space, make_folder
from chora.errors import StorageError
from chora.store.database import (
    TABLES,
    R,
    StatementTimeout,
    connect,
    file_identity,
    has_wal,
    keep_store_private,
    migrate_schema,
    put_record,
    record_of,
    transaction,
    translate_errors,
)
from chora.store.ids import id_after, time_of_id
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

READ_TIMEOUT = 5.0
WRITE_TIMEOUT = 60.0
"""Seconds after which a statement is interrupted, so that none blocks the event loop or the writer thread forever."""
FAILURE_REUSE_TIME = 0.5
"""Seconds for which `check` reports the last failure without trying another write."""
PAGE_RECORDS = 100  # records in memory at once while all of a kind are read

DISK_FAULTS = (
    *(apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError),
    *(apsw.PermissionsError, apsw.NoLFSError, apsw.NoMemError),
)
"""Failures that the caller didn't cause: the next write will most likely meet them too."""

Rows = list[tuple[Any, ...]]


class _PendingWrite(Generic[T]):
    """A change to be written, and its result."""

    def __init__(self, change: Callable[[apsw.Connection], T]) -> None:
        self._change = change
        self._results: list[T] = []
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.error is not None or bool(self._results)

    def apply(self, db: apsw.Connection) -> None:
        """Apply the change inside a transaction, all of it or none; the transaction stays usable."""
        self._results.clear()
        db.execute("SAVEPOINT change")
        try:
            self._results.append(self._change(db))
        except Exception as error:  # it is raised to the caller of the change
            self.error = error
            if not db.in_transaction:  # SQLite has rolled back all changes, those of other callers too
                raise
            db.execute("ROLLBACK TO change")
        db.execute("RELEASE change")

    def result(self) -> T:
        """Return or raise what the change did."""
        if self.error is not None:
            raise self.error
        return self._results[0]


class SqliteStore:
    """The store of one project.

    Args:
        path: the database file, created with its folder when missing; None keeps everything in memory.

    Raises:
        StorageError: the file is not a chora database, is damaged, was written by a newer chora, or can't be
            opened; it is left unchanged.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._last_failure: apsw.Error | None = None
        """Why the last write failed, if the disk or the file was the cause."""
        self._last_write_time = -math.inf
        """When the last write ended, successful or not."""
        self._check_lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._commit_lock = trio.Lock()
        self._pending: list[_PendingWrite[Any]] = []
        with translate_errors(path):
            if path is None:
                # Shared by both connections: a single one couldn't read while the writer thread writes.
                place, flags = f"file:/{secrets.token_hex(8)}?vfs=memdb", apsw.SQLITE_OPEN_URI
            else:
                make_folder(path.parent)
                keep_store_private(path)
                place, flags = path, 0
            flags |= apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            self.address, self.flags = place, flags
            was_left_open = path is not None and has_wal(path)
            self._writer = connect(place, flags)
            try:
                migrate_schema(self._writer, path)
                self._reader = connect(place, flags)
            except BaseException:
                if was_left_open:  # closing would checkpoint the WAL into a file that isn't ours to change
                    self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                self._writer.close()
                raise
            self._file = file_identity(path)
            self._read_timeout, self._write_timeout = StatementTimeout(self._reader), StatementTimeout(self._writer)

    def close(self) -> None:
        """Close both connections; the last one closed checkpoints the WAL."""
        self._reader.close()
        self._writer.close()

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the database can be read and written now, and its disk has free space."""
        if not self._is_known_writable(within):
            async with self._check_lock:
                if not self._is_known_writable(within):  # it may have been written meanwhile
                    # The unchanged version: the smallest write that really goes to disk.
                    await self._write(lambda db: db.pragma("user_version", db.pragma("user_version")))

    def _is_known_writable(self, within: float) -> bool:
        """Whether no test write is needed; raises StorageError where one would fail."""
        self._check_file_identity()
        self._query("SELECT count(*) FROM sqlite_schema")
        if self.path is not None:
            check_free_space(self.path.parent)
        age = time.monotonic() - self._last_write_time
        if self._last_failure is not None and age < FAILURE_REUSE_TIME:
            with translate_errors(self.path):
                raise self._last_failure
        return self._last_failure is None and age <= within

    def counts(self) -> dict[str, int]:
        """The number of rows by table."""
        return {table: self._query(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES.values()}

    # -- versions -------------------------------------------------------------------------------------------

    async def add_version(self, version: Version) -> Version:
        """Store a text durably and return it with its `version_id`.

        Raises:
            InvalidInput: its id isn't a version id.
        """
        if version.version_id:
            time_of_id(version.version_id)

        def add(db: apsw.Connection) -> Version:
            saved = msgspec.structs.replace(version, version_id=version.version_id or _next_version_id(db))
            put_record(db, saved)
            return saved

        return await self._write(add)

    def version(self, content_id: str, version_id: str) -> Version | None:
        """The version of this id, if it is this content's."""
        return self._select_one(Version, "version_id = ? AND content_id = ?", version_id, content_id)

    def latest_version(self, content_id: str) -> Version | None:
        """The newest version of a content that isn't deleted."""
        return self._select_one(Version, "content_id = ? AND NOT deleted ORDER BY version_id DESC LIMIT 1", content_id)

    def version_with_fingerprint(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest version of a content with this fingerprint that isn't deleted."""
        where = "content_id = ? AND fingerprint = ? AND NOT deleted ORDER BY version_id DESC LIMIT 1"
        return self._select_one(Version, where, content_id, fingerprint)

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first."""
        return self._select(Version, "content_id = ? ORDER BY version_id", content_id)

    def version_infos(self, content_id: str) -> list[VersionInfo]:
        """Every version of a content without its text, oldest first; read from an index that has no bodies."""
        names = VersionInfo.__struct_fields__
        sql = f"SELECT {', '.join(names)} FROM versions WHERE content_id = ? ORDER BY version_id"
        rows = self._query(sql, content_id)
        return [msgspec.convert(dict(zip(names, row, strict=True)), VersionInfo, strict=False) for row in rows]

    def content_ids(self) -> list[str]:
        """Every content that has a version, sorted."""
        return [content_id for (content_id,) in self._query("SELECT DISTINCT content_id FROM versions ORDER BY 1")]

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions in one transaction."""
        chosen = msgspec.json.encode(version_ids).decode()  # one parameter: their number has no limit
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
        """Store a draft durably, replacing one of the same id."""
        await self._write(lambda db: put_record(db, draft))

    def draft(self, draft_id: str) -> Draft | None:
        """The draft of this id."""
        return self._select_one(Draft, "draft_id = ?", draft_id)

    def drafts(self) -> list[Draft]:
        """Every draft, oldest first."""
        return self._select(Draft, "true ORDER BY created_at, draft_id")

    async def delete_draft(self, draft_id: str) -> None:
        """Delete a draft, if there is one."""
        await self._write(lambda db: _count_changes(db, "DELETE FROM drafts WHERE draft_id = ?", draft_id))

    # -- outputs --------------------------------------------------------------------------------------------

    def output(self, path: str) -> Output | None:
        """The record of the file at a project-relative path."""
        return self._select_one(Output, "path = ?", path)

    def outputs(self) -> list[Output]:
        """Every file that was written, sorted by path."""
        return self._select(Output, "true ORDER BY path")

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file of this artifact, sorted by path."""
        return self._select(Output, "artifact_id = ? ORDER BY path", artifact_id)

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Store records of files in one transaction."""
        await self._put_records(outputs)

    # -- traces ---------------------------------------------------------------------------------------------

    def trace(self, subject: str, key: str) -> Trace | None:
        """The trace of a subject under a key."""
        return self._select_one(Trace, "subject = ? AND key = ?", subject, key)

    def traces(self, subject: str) -> list[Trace]:
        """Every trace of a subject, newest first."""
        return self._select(Trace, "subject = ? ORDER BY at DESC, rowid DESC", subject)

    async def save_traces(self, traces: Iterable[Trace]) -> None:
        """Store traces in one transaction, and delete the oldest ones of their subjects."""
        await self._put_records(traces)

    # -- jobs -----------------------------------------------------------------------------------------------

    async def save_job(self, job: Job) -> None:
        """Store a job durably, replacing an earlier state of it."""
        await self._write(lambda db: put_record(db, job))

    def job(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._select_one(Job, "job_id = ?", job_id)

    def latest_job(self, key: str) -> Job | None:
        """The newest job with this key."""
        return self._select_one(Job, "key = ? ORDER BY created_at DESC, job_id DESC LIMIT 1", key)

    def jobs(self) -> list[Job]:
        """Every job, newest first."""
        return self._select(Job, "true ORDER BY created_at DESC, job_id DESC")

    async def delete_jobs(self, job_ids: Sequence[str]) -> None:
        """Delete jobs in one transaction."""
        chosen = msgspec.json.encode(job_ids).decode()
        delete = "DELETE FROM jobs WHERE job_id IN (SELECT value FROM json_each(?))"
        await self._write(lambda db: _count_changes(db, delete, chosen))

    # -- language models ------------------------------------------------------------------------------------

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Store an answer and its cost in one transaction."""
        await self._put_records([completion, cost])

    def completion(self, key: str) -> Completion | None:
        """The answer stored under a key."""
        return self._select_one(Completion, "key = ?", key)

    def total_cost(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        return self._query("SELECT total(usd) FROM costs WHERE at >= ?", since)[0][0]

    def costs(self, since: str = "") -> list[Cost]:
        """Costs at or after a time, oldest first."""
        return self._select(Cost, "at >= ? ORDER BY at, rowid", since)

    # -- samples and events ---------------------------------------------------------------------------------

    async def add_sample(self, sample: Sample) -> None:
        """Store one measurement durably."""
        await self._write(lambda db: put_record(db, sample))

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        return self._select(Sample, "kind = ? AND at >= ? ORDER BY at, rowid", kind, since)

    def last_sample(self, kind: str) -> Sample | None:
        """The newest measurement of a kind."""
        return self._select_one(Sample, "kind = ? ORDER BY at DESC, rowid DESC LIMIT 1", kind)

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts:
        """How many measurements of a kind were taken at or after a time, and how many succeeded."""
        rows = self._query("SELECT count(*), total(ok) FROM samples WHERE kind = ? AND at >= ?", kind, since)
        return SampleCounts(rows[0][0], int(rows[0][1]))

    async def add_events(self, events: Sequence[Event]) -> None:
        """Store events in one transaction."""
        await self._put_records(events)

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """Events at or after a time, newest first."""
        return self._select(Event, "at >= ? ORDER BY at DESC, rowid DESC LIMIT ?", since, limit)

    async def delete_before(self, before: str) -> int:
        """Delete events and samples from before a time; returns their number."""

        def delete(db: apsw.Connection) -> int:
            return _count_changes(db, "DELETE FROM events WHERE at < ?", before) + _count_changes(
                db, "DELETE FROM samples WHERE at < ?", before
            )

        return await self._write(delete)

    # -- all records ----------------------------------------------------------------------------------------

    def records(self, kind: type[R]) -> Iterator[R]:
        """Every record of a kind, in the order in which they were stored."""
        names, last = kind.__struct_fields__, 0
        while True:
            # A page at a time, because an open read transaction keeps the WAL from being checkpointed.
            rows = self._query(
                f"SELECT rowid, {', '.join(names)} FROM {TABLES[kind]} "
                f"WHERE rowid > ? ORDER BY rowid LIMIT {PAGE_RECORDS}",
                last,
            )
            if not rows:
                return
            for row in rows:
                yield record_of(kind, row[1:])
            last = rows[-1][0]

    async def add_records(self, records: Iterable[Record]) -> None:
        """Store records unchanged, in one transaction.

        Raises:
            InvalidInput: a version without an id.
        """
        given = list(records)
        for record in given:
            if isinstance(record, Version):
                time_of_id(record.version_id)
        await self._put_records(given)

    # -- internals ------------------------------------------------------------------------------------------

    def _select_one(self, kind: type[R], where: str, *values: Any) -> R | None:
        return next(iter(self._select(kind, where, *values)), None)

    def _select(self, kind: type[R], where: str, *values: Any) -> list[R]:
        rows = self._query(f"SELECT {', '.join(kind.__struct_fields__)} FROM {TABLES[kind]} WHERE {where}", *values)
        return [record_of(kind, row) for row in rows]

    def _query(self, sql: str, *values: Any) -> Rows:
        with translate_errors(self.path), self._read_timeout.limit(READ_TIMEOUT):
            return cast(Rows, self._reader.execute(sql, values).fetchall())

    async def _put_records(self, records: Iterable[Record]) -> None:
        given = list(records)

        def put(db: apsw.Connection) -> None:
            for record in given:
                put_record(db, record)
            for subject in {record.subject for record in given if isinstance(record, Trace)}:
                _delete_old_traces(db, subject)

        await self._write(put)

    async def _write(self, change: Callable[[apsw.Connection], T]) -> T:
        """Commit a change, together with all others that are pending by then.

        A caller that is cancelled while its change is pending withdraws it; one whose change is being committed waits
        for the commit, so that no write of a cancelled caller happens later.
        """
        write = _PendingWrite(change)
        self._pending.append(write)
        try:
            await self._commit_lock.acquire()
        except trio.Cancelled:
            if write in self._pending:
                self._pending.remove(write)
            else:
                with trio.CancelScope(shield=True):
                    async with self._commit_lock:
                        pass
            raise
        try:
            if not write.is_done:
                batch, self._pending = self._pending, []
                with trio.CancelScope(shield=True):  # the other callers of the batch weren't cancelled
                    await trio.to_thread.run_sync(self._commit, batch, limiter=self._limiter)
        finally:
            self._commit_lock.release()
        with translate_errors(self.path):
            return write.result()

    def _check_file_identity(self) -> None:
        """Raise StorageError if the file was moved or replaced: writes to the open one would be lost."""
        if file_identity(self.path) != self._file:
            raise StorageError(
                f"{self.path} was moved, removed or replaced while it was open.",
                "Put it back, or restart chora to continue with the file that is there now.",
                storage_path=str(self.path),
            )

    def _commit(self, batch: list[_PendingWrite[Any]]) -> None:
        try:
            self._check_file_identity()
            with self._write_timeout.limit(WRITE_TIMEOUT), transaction(self._writer):
                for write in batch:
                    write.apply(self._writer)
        except (apsw.FullError, apsw.InterruptError) as error:
            self._last_failure = error if isinstance(error, DISK_FAULTS) else None
            if len(batch) == 1:
                batch[0].error = error
                return
            for write in batch:  # one by one: without the change that is too large, the others may succeed
                write.error = None
                self._commit([write])
        except (apsw.Error, StorageError) as error:
            self._last_failure = error if isinstance(error, DISK_FAULTS) else None
            for write in batch:
                write.error = error
        else:
            self._last_failure = next((write.error for write in batch if isinstance(write.error, DISK_FAULTS)), None)
        finally:
            self._last_write_time = time.monotonic()


def _next_version_id(db: apsw.Connection) -> str:
    """An id above every existing and deleted one."""
    return id_after(_highest_id(db))


def _highest_id(db: apsw.Connection, where: str = "", *values: str) -> str | None:
    """The highest id among some versions and the deleted ones."""
    known = f"SELECT max(version_id) AS id FROM versions {where} UNION SELECT version_id FROM last_deleted_version"
    return cast("str | None", db.execute(f"SELECT max(id) FROM ({known})", values).fetchall()[0][0])


def _delete_old_traces(db: apsw.Connection, subject: str) -> None:
    newest = f"SELECT rowid FROM traces WHERE subject = ?1 ORDER BY at DESC, rowid DESC LIMIT {TRACES_KEPT}"
    db.execute(f"DELETE FROM traces WHERE subject = ?1 AND rowid NOT IN ({newest})", (subject,))


def _count_changes(db: apsw.Connection, sql: str, value: str) -> int:
    """Execute a statement and return the number of changed rows."""
    db.execute(sql, (value,))
    return db.changes()
