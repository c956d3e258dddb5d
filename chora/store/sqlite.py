# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""The SQLite backend: written by one thread at a time, read inline.

WAL mode with `synchronous=FULL` keeps every acknowledged write through `kill -9` and power cuts; NORMAL may lose the
last transactions (sqlite.org/pragma.html#pragma_synchronous).
Several processes share a project, so every write transaction begins IMMEDIATE: a deferred one fails with SQLITE_BUSY
when it turns into a writer (sqlite.org/lang_transaction.html).
Reads by key take microseconds inline and hundreds through a thread, which is why only writes leave the loop.
No call takes longer because more is stored: every list is a page of an index, and numbers are kept by triggers.
Group commit: writes that wait while another transaction is committed are committed together, in the next one.
It is one class because it is one interface, `Store`; each method is a query of a few lines. Connections, schema and
rows are in `database.py`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_args, get_type_hints

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
    ContentState,
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
    VersionAge,
    VersionInfo,
)
from chora.store.store import DELETED_AT_ONCE, LAST, TRACES_KEPT
from chora.store.users import Entry
from chora.store.write_check import LOCK_TIMEOUT, WriteCheck

T = TypeVar("T")

READ_TIMEOUT = 5.0
WRITE_TIMEOUT = 60.0
"""Seconds after which a statement is interrupted, so that none blocks the event loop or the writer thread forever."""
PAGE_RECORDS = 100  # records in memory at once while all of a kind are read

HOUR_LENGTH = len("2026-11-22T10")

DISK_FAULTS = (
    *(apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError),
    *(apsw.PermissionsError, apsw.NoLFSError, apsw.NoMemError, apsw.BusyError),
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
        entry: that this process has it open; it is closed with the store.

    Raises:
        StorageError: the file is not a chora database, is damaged, was written by a newer chora, or can't be
            opened; it is left unchanged.
    """

    def __init__(self, path: Path | None, *, entry: Entry | None = None) -> None:
        self.path = path
        self._entry = entry
        self._is_writing = False
        """Whether the writer is in a transaction, and so holds the lock."""
        self._write_check = WriteCheck(path, self._look_at_file, self._make_test_write)
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
                self._checker = connect(place, flags)
                self._checker.set_busy_timeout(round(LOCK_TIMEOUT * 1000))
            except BaseException:
                if was_left_open:  # closing would checkpoint the WAL into a file that isn't ours to change
                    self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                self._writer.close()
                raise
            self._file = file_identity(path)
            self._read_timeout, self._write_timeout = StatementTimeout(self._reader), StatementTimeout(self._writer)

    def close(self) -> None:
        """Close all connections; the last one closed checkpoints the WAL."""
        if not self._write_check.is_writing:  # else a thread uses it that wasn't waited for
            self._checker.close()
        self._reader.close()
        self._writer.close()
        if self._entry is not None:
            self._entry.close()

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the database can be read and written now, and its disk has free space."""
        await self._write_check.run(within)

    def _look_at_file(self) -> None:
        self._check_file_identity()
        self._query("SELECT count(*) FROM sqlite_schema")
        if self.path is not None:
            check_free_space(self.path.parent)

    def _make_test_write(self) -> bool:
        with translate_errors(self.path):
            try:
                with transaction(self._checker):
                    # The unchanged version: the smallest write that really goes to disk.
                    self._checker.pragma("user_version", self._checker.pragma("user_version"))
            except apsw.BusyError:
                if not self._is_writing:  # else it waits for ourselves: a large change takes a while
                    raise
                return False
            return True

    def _note_failure(self, fault: Exception) -> None:
        try:
            with translate_errors(self.path):
                raise fault
        except StorageError as error:
            self._write_check.note_failure(error)

    def counts(self) -> dict[str, int]:
        """The number of rows by table."""
        numbers = dict(self._query("SELECT name, number FROM row_counts"))
        return {table: numbers[table] for table in TABLES.values()}

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
        where = "content_id = ? AND deleted = 0 ORDER BY version_id DESC LIMIT 1"
        return self._select_one(Version, where, content_id)

    def version_with_fingerprint(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest version of a content with this fingerprint that isn't deleted."""
        where = "content_id = ? AND fingerprint = ? AND deleted = 0 ORDER BY version_id DESC LIMIT 1"
        return self._select_one(Version, where, content_id, fingerprint)

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first."""
        return sorted(self._select(Version, "content_id = ?", content_id), key=_id_of)

    def content_state(self, content_id: str) -> ContentState:
        """How much is stored of a content, and the newest of it."""
        rows = self._query("SELECT versions, kept FROM contents WHERE content_id = ?", content_id)
        versions, kept = rows[0] if rows else (0, 0)
        newest = self.newest_infos(content_id, 1, kept=True) if kept else []
        return ContentState(versions, kept, newest[0] if newest else None)

    def version_infos(
        self, content_id: str, *, kept: bool = False, after: str = "", limit: int | None = None
    ) -> list[VersionInfo]:
        """A page of the versions of a content, oldest first."""
        page = "version_id > ? ORDER BY version_id LIMIT ?"
        found = self._version_infos(content_id, 0, page, after, limit)
        if not kept:
            found = sorted(found + self._version_infos(content_id, 1, page, after, limit), key=_id_of)
        return found[:limit]

    def newest_infos(self, content_id: str, limit: int, *, kept: bool = False, skip: int = 0) -> list[VersionInfo]:
        """The newest versions of a content, newest first."""
        order = "1 ORDER BY version_id DESC LIMIT ? OFFSET ?"
        if kept:
            return self._version_infos(content_id, 0, order, limit, skip)
        found = [
            info for deleted in (0, 1) for info in self._version_infos(content_id, deleted, order, limit + skip, 0)
        ]
        return sorted(found, key=_id_of, reverse=True)[skip : skip + limit]

    def find_info(
        self, content_id: str, *, config_version: str | None = None, prefix: str = "", approved: bool = False
    ) -> VersionInfo | None:
        """The newest version that isn't deleted and that fits."""
        newest = "ORDER BY version_id DESC LIMIT 1"
        if approved:
            ids = self._find_ids("versions_approved", content_id, f"approved = 1 {newest}")
        elif config_version is not None:
            ids = self._find_ids("versions_by_config", content_id, f"config_version = ? {newest}", config_version)
        else:
            between = (prefix, prefix + LAST)
            ids = self._find_ids("versions_of_content", content_id, f"version_id BETWEEN ? AND ? {newest}", *between)
            latest = "generated_at BETWEEN ? AND ? ORDER BY generated_at DESC, version_id DESC LIMIT 1"
            ids += self._find_ids("versions_by_time", content_id, latest, *between)
        found = self._version_infos(content_id, 0, "version_id = ?", max(ids)) if ids else []
        return found[0] if found else None

    def _find_ids(self, index: str, content_id: str, where: str, *values: str) -> list[str]:
        # Named, because SQLite prefers an index that holds all columns, and would walk along it.
        sql = f"SELECT version_id FROM versions INDEXED BY {index} WHERE content_id = ? AND deleted = 0 AND {where}"
        return [version_id for (version_id,) in self._query(sql, content_id, *values)]

    def versions_by_time(
        self, content_id: str, after: VersionAge, *, before: str = LAST, limit: int
    ) -> list[VersionAge]:
        """A page of the versions that aren't deleted, by time and id."""
        rows = self._query(
            "SELECT generated_at, version_id, size FROM versions WHERE content_id = ? AND deleted = 0 "
            "AND (generated_at, version_id) > (?, ?) AND generated_at < ? ORDER BY generated_at, version_id LIMIT ?",
            *(content_id, after.generated_at, after.version_id, before, limit),
        )
        return [VersionAge(*row) for row in rows]

    def _version_infos(self, content_id: str, deleted: int, where: str, *values: Any) -> list[VersionInfo]:
        """Versions without their texts, read from an index that holds no texts."""
        names = VersionInfo.__struct_fields__
        rows = self._query(
            f"SELECT {', '.join(names)} FROM versions INDEXED BY versions_of_content "
            f"WHERE content_id = ? AND deleted = {deleted} AND {where}",
            *(content_id, *(-1 if value is None else value for value in values)),  # LIMIT -1 is none
        )
        return [msgspec.convert(dict(zip(names, row, strict=True)), VersionInfo, strict=False) for row in rows]

    def content_ids(self, after: str | None = None, limit: int | None = None) -> list[str]:
        """A page of the contents that have a version, sorted."""
        where, values = ("content_id > ?", [after]) if after is not None else ("1", [])
        sql = f"SELECT content_id FROM contents WHERE {where} ORDER BY content_id LIMIT ?"
        return [content_id for (content_id,) in self._query(sql, *values, -1 if limit is None else limit)]

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions in one transaction."""
        chosen = [(version_id,) for version_id in version_ids]

        def delete(db: apsw.Connection) -> None:
            if keep_metadata:
                db.executemany("UPDATE versions SET body = '', size = 0, deleted = 1 WHERE version_id = ?", chosen)
                return
            there = "SELECT version_id FROM versions WHERE version_id = ?"
            if found := [version_id for (version_id,) in cast(Any, db).executemany(there, chosen)]:
                highest = max([*found, *_deleted_ids(db)])
                db.execute("DELETE FROM last_deleted_version")
                db.execute("INSERT INTO last_deleted_version (version_id) VALUES (?)", (highest,))
                db.executemany("DELETE FROM versions WHERE version_id = ?", chosen)

        await self._write(delete)

    # -- drafts ---------------------------------------------------------------------------------------------

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft durably, replacing one of the same id."""
        await self._write(lambda db: put_record(db, draft))

    def draft(self, draft_id: str) -> Draft | None:
        """The draft of this id."""
        return self._select_one(Draft, "draft_id = ?", draft_id)

    def drafts(self, limit: int | None = None) -> list[Draft]:
        """The drafts, oldest first."""
        return self._select(Draft, "true ORDER BY created_at, draft_id LIMIT ?", -1 if limit is None else limit)

    def drafts_before(self, before: str, limit: int) -> list[str]:
        """The ids of drafts that were last changed before a time."""
        sql = "SELECT draft_id FROM drafts WHERE updated_at < ? ORDER BY updated_at, draft_id LIMIT ?"
        return [draft_id for (draft_id,) in self._query(sql, before, limit)]

    async def delete_draft(self, draft_id: str) -> None:
        """Delete a draft, if there is one."""
        await self._write(lambda db: db.execute("DELETE FROM drafts WHERE draft_id = ?", (draft_id,)))

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

    def jobs(self, limit: int | None = None) -> list[Job]:
        """The jobs, newest first."""
        return self._select(Job, "true ORDER BY created_at DESC, job_id DESC LIMIT ?", -1 if limit is None else limit)

    def jobs_before(self, before: str, limit: int) -> list[str]:
        """The ids of jobs that last changed before a time."""
        sql = "SELECT job_id FROM jobs WHERE updated_at < ? ORDER BY updated_at, job_id LIMIT ?"
        return [job_id for (job_id,) in self._query(sql, before, limit)]

    async def delete_jobs(self, job_ids: Sequence[str]) -> None:
        """Delete jobs in one transaction."""
        chosen = [(job_id,) for job_id in job_ids]
        await self._write(lambda db: db.executemany("DELETE FROM jobs WHERE job_id = ?", chosen))

    # -- language models ------------------------------------------------------------------------------------

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Store an answer and its cost in one transaction."""
        await self._put_records([completion, cost])

    def completion(self, key: str) -> Completion | None:
        """The answer stored under a key."""
        return self._select_one(Completion, "key = ?", key)

    def total_cost(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        return self._hourly_totals("cost", "SELECT count(*), total(usd) FROM costs WHERE 1", (), since)[1]

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
        counted = "SELECT count(*), total(ok) FROM samples WHERE kind = ?"
        total, ok = self._hourly_totals(kind, counted, (kind,), since)
        return SampleCounts(total, int(ok))

    def _hourly_totals(self, name: str, counted: str, values: tuple[str, ...], since: str) -> tuple[int, float]:
        """A number and a total since a time: those of whole hours are kept, and only the first hour's are added up."""
        hour = since[:HOUR_LENGTH]
        if len(since) <= HOUR_LENGTH:  # from the beginning of an hour, or of all
            hour, first = "", [(0, 0.0)]
            hours = "hour >= ?"
        else:
            first = self._query(f"{counted} AND at >= ? AND at < ?", *values, since, hour + LAST)
            hours = "hour > ?"
        whole = self._query(
            f"SELECT total(number), total(total) FROM hourly_totals WHERE name = ? AND {hours}", name, hour or since
        )
        return int(first[0][0] + whole[0][0]), first[0][1] + whole[0][1]

    async def add_events(self, events: Sequence[Event]) -> None:
        """Store events in one transaction."""
        await self._put_records(events)

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """Events at or after a time, newest first."""
        return self._select(Event, "at >= ? ORDER BY at DESC, rowid DESC LIMIT ?", since, limit)

    async def delete_before(self, before: str) -> int:
        """Delete events and samples from before a time; returns their number."""
        count = await self._delete_in_slices("events", "at < ? ORDER BY at", before)
        for kind in get_args(get_type_hints(Sample)["kind"]):
            count += await self._delete_in_slices("samples", "at < ? AND kind = ? ORDER BY at", before, kind)
        return count

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

    async def _delete_in_slices(self, table: str, where: str, *values: str) -> int:
        """Delete rows, `DELETED_AT_ONCE` in one transaction, so that other writes don't wait long for it."""
        sql = f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {where} LIMIT {DELETED_AT_ONCE})"

        def delete(db: apsw.Connection) -> int:
            db.execute(sql, values)
            return db.changes()

        count = 0
        while done := await self._write(delete):
            count += done
        return count

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
                self._is_writing = True
                for write in batch:
                    write.apply(self._writer)
        except (apsw.Error, StorageError) as error:
            if isinstance(error, DISK_FAULTS):
                self._note_failure(error)
            if isinstance(error, (apsw.FullError, apsw.InterruptError)) and len(batch) > 1:
                for write in batch:  # one by one: without the change that is too large, the others may succeed
                    write.error = None
                    self._commit([write])
                return
            for write in batch:
                write.error = error
        else:
            fault = next((write.error for write in batch if isinstance(write.error, DISK_FAULTS)), None)
            if fault is not None:
                self._note_failure(fault)
            else:
                self._write_check.note_success()
        finally:
            self._is_writing = False


def _id_of(version: Version | VersionInfo) -> str:
    return version.version_id


def _next_version_id(db: apsw.Connection) -> str:
    """An id above every existing and deleted one."""
    newest = cast(Rows, db.execute("SELECT version_id FROM versions ORDER BY version_id DESC LIMIT 1").fetchall())
    return id_after(max([*(row[0] for row in newest), *_deleted_ids(db)], default=None))


def _deleted_ids(db: apsw.Connection) -> list[str]:
    """The highest deleted id, if any was deleted."""
    return [cast(str, row[0]) for row in db.execute("SELECT version_id FROM last_deleted_version")]


def _delete_old_traces(db: apsw.Connection, subject: str) -> None:
    newest = f"SELECT rowid FROM traces WHERE subject = ?1 ORDER BY at DESC, rowid DESC LIMIT {TRACES_KEPT}"
    db.execute(f"DELETE FROM traces WHERE subject = ?1 AND rowid NOT IN ({newest})", (subject,))
