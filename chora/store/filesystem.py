"""The store as files that people can read.

    content/{content-id}/v1/2026-11-22T10-15-30.123Z-7f3a.json    one text; a new vN begins with a new config version
    content/{content-id}/v1/metadata.json                         their number, oldest and newest
    drafts/draft-….json                                           one draft
    outputs.jsonl traces.jsonl jobs.jsonl models.jsonl            see `chora.store.journal`
    samples.jsonl events.jsonl
    last-version-id                                               so that no id is assigned twice
    deleting.json                                                 versions being deleted, if that was interrupted
    .lock                                                         held by the one process that writes
    .check                                                        written to check that writing works

Every file is written atomically. A file that can't be decoded is left out with one warning and never changed.
A folder is listed again when its modification time changed, a file read again when its stamp did.

Longer than other modules: it is one class with the methods of `chora.store.store.Store`, most of them a few lines.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from bisect import bisect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import trio

from chora.disk import (
    check_free_space,
    delete_file,
    file_name,
    keep_private,
    make_folder,
    replace_file,
    sync_folder,
    unsafe_path_error,
)
from chora.errors import InvalidInput, StorageError, io_details
from chora.locks import file_lock
from chora.nofollow import UnsafePath, check_file, open_folder, read_file
from chora.store.ids import id_after, time_of_id
from chora.store.journal import COMPLETIONS, COSTS, EVENTS, JOBS, OUTPUTS, SAMPLES, TRACES, Journal, JournalKind
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
from chora.store.store import LAST
from chora.store.users import Entry
from chora.store.version_files import (
    DRAFT_FILE_NAME,
    VERSION_FILE_NAME,
    CachedFolder,
    ContentFolders,
    PendingDeletion,
    T,
    VersionSummary,
    encode_pretty,
    foreign_file_error,
    load_file,
    parse_deletion,
    parse_draft,
    parse_summary,
    parse_version,
    version_file_name,
    version_to_file,
)
from chora.store.write_check import LOCK_TIMEOUT, WriteCheck

R = TypeVar("R", bound=Record)

PAGE_RECORDS = 100  # records in memory at once while all of a kind are read


class _Overview(NamedTuple):
    """What is known of all versions of a content together."""

    places: dict[str, CachedFolder[VersionSummary]]
    """Where they were when this was made."""
    state: ContentState
    fingerprints: dict[str, str]
    """The newest version with each fingerprint that isn't deleted."""


class FilesystemStore:
    """The store of one project, in a folder.

    Args:
        folder: the folder, created when missing.
        retention_days: the retention that the metadata files state.
        entry: that this process has it open; it is closed with the store.

    Raises:
        StorageError: the folder can't be created or written.
    """

    def __init__(self, folder: Path, *, retention_days: int | None = None, entry: Entry | None = None) -> None:
        self.path: Path | None = folder
        self._entry = entry
        self._root = folder
        self._retention = {"keep_versions": None, "keep_days": retention_days or None}
        self._is_closed = False
        self._deleting = folder / "deleting.json"
        self._is_writing = False
        """Whether this holds the write lock."""
        self._write_check = WriteCheck(folder, self._look_at_folder, self._make_test_write)
        self._limiter = trio.CapacityLimiter(1)
        self._cache_lock = threading.RLock()  # the event loop and the writer thread both use the caches
        self._contents = ContentFolders(folder / "content")
        self._overviews: dict[str, _Overview] = {}
        self._drafts = CachedFolder(folder / "drafts", DRAFT_FILE_NAME, parse_draft)
        self._journals: dict[type[Record], tuple[Journal, JournalKind[Any]]] = {}
        for name, kinds in _JOURNALS.items():
            journal = Journal(folder / f"{name}.jsonl", *kinds)
            self._journals.update({kind.record: (journal, kind) for kind in kinds})
        self._highest: str | None = None
        with self._translate_errors():
            make_folder(folder)
            keep_private(folder)  # and so everything in it, whatever its own permissions
            with self._exclusive():
                pass  # finishes an interrupted deletion, and fails if the folder can't be written

    def close(self) -> None:
        """Refuse further calls; no file is open between two calls."""
        self._is_closed = True
        if self._entry is not None:
            self._entry.close()

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the folder exists, can be written, and its disk has free space."""
        await self._write_check.run(within)

    def _look_at_folder(self) -> None:
        with self._reading():
            if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
                raise FileNotFoundError(2, "it is gone, or can't be accessed", str(self._root))
        check_free_space(self._root)

    def _make_test_write(self) -> bool:
        with self._translate_errors():
            try:
                with file_lock(self._root / ".lock", LOCK_TIMEOUT):
                    replace_file(self._root / ".check", [b"This can be written.\n"])
            except TimeoutError:
                if not self._is_writing:  # else it waits for ourselves: a large change takes a while
                    raise
                return False
            return True

    def counts(self) -> dict[str, int]:
        """The number of records by kind."""
        with self._reading():
            contents = self._contents.all_folders()
        counts = {"versions": 0}
        for content in contents:  # one by one: the event loop isn't kept waiting while a thread counts
            with self._reading():
                counts["versions"] += len(content.version_folders())
        with self._reading():
            counts["drafts"] = sum(1 for _ in self._drafts.read_all())
            for record_type, (journal, kind) in self._journals.items():
                counts[f"{record_type.__name__.lower()}s"] = journal.count_records(kind)
            return counts

    # -- versions -------------------------------------------------------------------------------------------

    async def add_version(self, version: Version) -> Version:
        """Store a text durably and return it with its `version_id`.

        Raises:
            InvalidInput: its id isn't a version id.
        """
        if version.version_id:
            await self.add_records([version])
            return version

        def add() -> Version:
            saved = msgspec.structs.replace(version, version_id=self._next_version_id())
            self._put_version(saved)
            return saved

        return await self._write(add)

    def version(self, content_id: str, version_id: str) -> Version | None:
        """The version of this id, if it belongs to this content."""
        with self._reading():
            folder = self._contents.folder_of(content_id).version_folders().get(version_id)
            summary = folder and self._summary(folder, content_id, version_id)
            return self._load_version(folder, summary) if folder and summary else None

    def latest_version(self, content_id: str) -> Version | None:
        """The newest version of a content that isn't deleted."""
        newest = self.newest_infos(content_id, 1, kept=True)
        return self.version(content_id, newest[0].version_id) if newest else None

    def version_with_fingerprint(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest version of a content with this fingerprint that isn't deleted."""
        with self._reading():
            version_id = self._overview(content_id).fingerprints.get(fingerprint)
        return None if version_id is None else self.version(content_id, version_id)

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first, including deleted ones."""
        with self._reading():
            found = (self._load_version(folder, summary) for folder, summary in self._summaries(content_id))
            return [version for version in found if version is not None]

    def content_state(self, content_id: str) -> ContentState:
        """How much is stored of a content, and the newest of it without its text."""
        with self._reading():
            return self._overview(content_id).state

    def _overview(self, content_id: str) -> _Overview:
        """What is known of all versions of a content together; made anew only when they have changed."""
        places = self._contents.folder_of(content_id).version_folders()
        known = self._overviews.get(content_id)
        if known is None or known.places is not places:
            summaries = [summary for _, summary in self._summaries(content_id)]
            kept = [summary for summary in summaries if not summary.info.deleted]
            state = ContentState(len(summaries), len(kept), kept[-1].info if kept else None)
            fingerprints = {summary.fingerprint: summary.info.version_id for summary in kept}
            known = _Overview(places, state, fingerprints)
            if len(known.places) == len(summaries):  # else a file couldn't be read, and may be readable the next time
                self._overviews[content_id] = known
        return known

    def version_infos(
        self, content_id: str, *, kept: bool = False, after: str = "", limit: int | None = None
    ) -> list[VersionInfo]:
        """A page of the versions of a content without their texts, oldest first."""
        with self._reading():
            infos = (summary.info for _, summary in self._summaries(content_id))
            fit = (info for info in infos if info.version_id > after and not (kept and info.deleted))
            return list(islice(fit, limit))

    def newest_infos(self, content_id: str, limit: int, *, kept: bool = False, skip: int = 0) -> list[VersionInfo]:
        """The newest versions of a content without their texts, newest first."""
        with self._reading():
            places = self._contents.folder_of(content_id).version_folders()
            found = (self._summary(places[version_id], content_id, version_id) for version_id in reversed(places))
            fit = (each.info for each in found if each is not None and not (kept and each.info.deleted))
            return list(islice(fit, skip, skip + limit))

    def find_info(
        self, content_id: str, *, config_version: str | None = None, prefix: str = "", approved: bool = False
    ) -> VersionInfo | None:
        """The newest version that isn't deleted and that fits."""

        def fits(info: VersionInfo) -> bool:
            return (
                (config_version is None or info.config_version == config_version)
                and (info.generated_at.startswith(prefix) or info.version_id.startswith(prefix))
                and (info.approved or not approved)
            )

        return next((info for info in reversed(self.version_infos(content_id, kept=True)) if fits(info)), None)

    def versions_by_time(
        self, content_id: str, after: VersionAge, *, before: str = LAST, limit: int
    ) -> list[VersionAge]:
        """A page of the versions that aren't deleted, by time and id."""
        infos = self.version_infos(content_id, kept=True)
        ages = sorted(VersionAge(info.generated_at, info.version_id, info.size) for info in infos)
        return [age for age in ages if age[:2] > after[:2] and age.generated_at < before][:limit]

    def content_ids(self, after: str | None = None, limit: int | None = None) -> list[str]:
        """A page of the contents that have a version, sorted."""
        with self._reading():
            return self._contents.ids(after, limit)

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions in one step; with `keep_metadata` only their texts, and they are marked as deleted."""
        deletion = PendingDeletion(list(version_ids), keep_metadata)

        def delete() -> None:
            # Deleting thousands of files isn't atomic: if this process ends meanwhile, the next writer finishes it.
            replace_file(self._deleting, [msgspec.json.encode(deletion)])
            self._finish_deletion()

        if version_ids:
            await self._write(delete)

    def _summaries(self, content_id: str) -> Iterator[tuple[CachedFolder[VersionSummary], VersionSummary]]:
        for version_id, folder in self._contents.folder_of(content_id).version_folders().items():
            if (summary := self._summary(folder, content_id, version_id)) is not None:
                yield folder, summary

    def _summary(self, folder: CachedFolder[VersionSummary], content_id: str, version_id: str) -> VersionSummary | None:
        summary = folder.read_file(version_file_name(version_id))
        return summary if summary is not None and summary.info.content_id == content_id else None

    def _load_version(self, folder: CachedFolder[VersionSummary], summary: VersionSummary) -> Version | None:
        return load_file(folder.path / version_file_name(summary.info.version_id), parse_version)

    # -- drafts ---------------------------------------------------------------------------------------------

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft durably, replacing one of the same id."""
        await self._write(lambda: self._put_draft(draft))

    def draft(self, draft_id: str) -> Draft | None:
        """The draft of this id."""
        with self._reading():
            self._drafts.file_names()
            found = self._drafts.read_file(f"{file_name(draft_id)}.json")
            return found if found is not None and found.draft_id == draft_id else None

    def drafts(self, limit: int | None = None) -> list[Draft]:
        """The drafts, oldest first."""
        with self._reading():
            return sorted(self._drafts.read_all(), key=lambda draft: (draft.created_at, draft.draft_id))[:limit]

    def drafts_before(self, before: str, limit: int) -> list[str]:
        """The ids of drafts that were last changed before a time."""
        old = sorted((draft.updated_at, draft.draft_id) for draft in self.drafts() if draft.updated_at < before)
        return [draft_id for _, draft_id in old[:limit]]

    async def delete_draft(self, draft_id: str) -> None:
        """Delete a draft, if there is one."""

        def delete() -> None:
            path = self._draft_path(draft_id)
            if load_file(path, parse_draft) is not None:
                delete_file(path, durably=True)

        await self._write(delete)

    def _draft_path(self, draft_id: str) -> Path:
        return self._root / "drafts" / f"{file_name(draft_id)}.json"

    # -- outputs --------------------------------------------------------------------------------------------

    def output(self, path: str) -> Output | None:
        """The record of the file at a project-relative path."""
        return self._find_record(Output, path)

    def outputs(self) -> list[Output]:
        """Every file that was written, sorted by path."""
        return self._list_records(Output)

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file of this artifact, sorted by path."""
        return self._list_records(Output, artifact_id)

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Store records of files in one transaction."""
        await self._append_records(outputs)

    # -- traces ---------------------------------------------------------------------------------------------

    def trace(self, subject: str, key: str) -> Trace | None:
        """The trace of a subject under a key."""
        return self._find_record(Trace, subject, key)

    def traces(self, subject: str) -> list[Trace]:
        """Every trace of a subject, newest first."""
        return self._list_records(Trace, subject)[::-1]

    async def save_traces(self, traces: Iterable[Trace]) -> None:
        """Store traces in one transaction; per subject, only the newest are kept."""
        await self._append_records(traces)

    # -- jobs -----------------------------------------------------------------------------------------------

    async def save_job(self, job: Job) -> None:
        """Store a job, replacing an earlier state of it."""
        await self._append_records([job])

    def job(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._find_record(Job, job_id)

    def latest_job(self, key: str) -> Job | None:
        """The newest job with this key."""
        return next((job for job in self.jobs() if job.key == key), None)

    def jobs(self, limit: int | None = None) -> list[Job]:
        """The jobs, newest first."""
        found = sorted(self._list_records(Job), key=lambda job: (job.created_at, job.job_id), reverse=True)
        return found[:limit]

    def jobs_before(self, before: str, limit: int) -> list[str]:
        """The ids of jobs that last changed before a time."""
        old = sorted((job.updated_at, job.job_id) for job in self._list_records(Job) if job.updated_at < before)
        return [job_id for _, job_id in old[:limit]]

    async def delete_jobs(self, job_ids: Sequence[str]) -> None:
        """Delete jobs in one transaction."""
        journal, _ = self._journals[Job]
        await self._write(lambda: journal.delete_records(job_ids))

    # -- language models ------------------------------------------------------------------------------------

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Store an answer and its cost in one transaction."""
        await self._append_records([completion, cost])

    def completion(self, key: str) -> Completion | None:
        """The answer stored under a key."""
        return self._find_record(Completion, key)

    def total_cost(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        journal, kind = self._journals[Cost]
        with self._reading():
            return sum((usd for usd in journal.list_notes(kind, since=since) if usd is not None), 0.0)

    def costs(self, since: str = "") -> list[Cost]:
        """Costs at or after a time, oldest first."""
        return self._list_records(Cost, since=since)

    # -- samples and events ---------------------------------------------------------------------------------

    async def add_sample(self, sample: Sample) -> None:
        """Store one measurement durably."""
        await self._append_records([sample])

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        return self._list_records(Sample, kind, since)

    def last_sample(self, kind: str) -> Sample | None:
        """The newest measurement of a kind."""
        return next(iter(self._list_records(Sample, kind, newest=1)), None)

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts:
        """How many measurements of a kind were taken at or after a time, and how many succeeded."""
        journal, journal_kind = self._journals[Sample]
        with self._reading():
            fine = journal.list_notes(journal_kind, kind, since)
        return SampleCounts(len(fine), sum(fine))

    async def add_events(self, events: Sequence[Event]) -> None:
        """Store events in one transaction."""
        await self._append_records(events)

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """Events at or after a time, newest first."""
        return self._list_records(Event, since=since, newest=limit)[::-1]

    async def delete_before(self, before: str) -> int:
        """Delete events and samples from before a time; returns their number."""
        return await self._write(lambda: sum(self._journals[kind][0].delete_before(before) for kind in (Event, Sample)))

    # -- all records ----------------------------------------------------------------------------------------

    def records(self, kind: type[R]) -> Iterator[R]:
        """Every record of a kind, in the order in which they were stored; versions by content, drafts by age."""
        if kind is Version:
            for content_id in self.content_ids():
                for info in self.version_infos(content_id):
                    if (version := self.version(content_id, info.version_id)) is not None:
                        yield cast(R, version)
        elif kind is Draft:
            yield from cast("list[R]", self.drafts())
        else:
            journal, journal_kind = self._journals[kind]
            last = -1
            while True:
                with self._translate_errors():
                    page, last = journal.read_page(journal_kind, last, PAGE_RECORDS)
                if not page:
                    return
                yield from page

    async def add_records(self, records: Iterable[Record]) -> None:
        """Store records unchanged; one with the identity of another replaces it.

        Those of one journal are stored in one transaction, versions and drafts one after the other.

        Raises:
            InvalidInput: a version without an id.
        """
        given = list(records)
        for record in given:
            if isinstance(record, Version):
                time_of_id(record.version_id)

        def add() -> None:
            versions = [record for record in given if isinstance(record, Version)]
            places = self._all_version_folders() if versions else {}
            for version in versions:
                self._put_version(version, places.get(version.version_id))
            for record in given:
                if isinstance(record, Draft):
                    self._put_draft(record)
            for journal in {journal.path: journal for journal, _ in self._journals.values()}.values():
                journal.add_records([each for each in given if type(each) in journal.records])

        await self._write(add)

    # -- internals ------------------------------------------------------------------------------------------

    def _find_record(self, kind: type[R], *key: str) -> R | None:
        journal, journal_kind = self._journals[kind]
        with self._translate_errors():
            return journal.find_record(journal_kind, key)

    def _list_records(
        self, kind: type[R], group: str | None = None, since: str = "", *, newest: int | None = None
    ) -> list[R]:
        journal, journal_kind = self._journals[kind]
        with self._translate_errors():
            return journal.list_records(journal_kind, group, since, newest=newest)

    async def _append_records(self, records: Iterable[Record]) -> None:
        given = list(records)
        if given:
            journal, _ = self._journals[type(given[0])]
            await self._write(lambda: journal.add_records(given))

    @contextmanager
    def _reading(self) -> Generator[None]:
        """Hold the caches, which the event loop and the writer thread share, and translate errors."""
        with self._translate_errors(), self._cache_lock:
            yield

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        """Translate errors of the disk into StorageError."""
        if self._is_closed:
            raise StorageError(f"The store in {self._root} is closed.", None, storage_path=str(self._root))
        try:
            yield
        except UnsafePath as error:
            raise unsafe_path_error(error) from error
        except OSError as error:
            raise StorageError(
                f"The store in {self._root} failed: {error.strerror or error}.",
                "Another process has been writing for long; try again."
                if isinstance(error, TimeoutError)
                else "Check that the folder exists and may be written, and that its disk has free space.",
                **io_details(error, storage_path=str(self._root)),
            ) from error

    async def _write(self, change: Callable[[], T]) -> T:
        def run() -> T:
            try:
                with self._translate_errors(), self._exclusive():
                    self._is_writing = True
                    done = change()
            except StorageError as error:
                self._write_check.note_failure(error)
                raise
            else:
                self._write_check.note_success()
                return done
            finally:
                self._is_writing = False

        # Not abandoned on cancellation, so that no write of a cancelled caller happens later.
        return await trio.to_thread.run_sync(run, limiter=self._limiter)

    # -- writing, under the lock -----------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self) -> Generator[None]:
        """Hold the write lock, after finishing a deletion that another process was killed in."""
        with file_lock(self._root / ".lock"):
            if check_file(self._deleting) is not None:
                self._finish_deletion()
            yield

    def _put_version(self, version: Version, elsewhere: CachedFolder[VersionSummary] | None = None) -> None:
        """Write a version's file; `elsewhere` is the folder that holds one of the same id."""
        self._record_highest_id(version.version_id)
        name = version_file_name(version.version_id)
        with self._cache_lock:
            folder = self._folder_for(version)
        if check_file(folder.path / name) is not None and load_file(folder.path / name, parse_version) is None:
            raise foreign_file_error(folder.path / name)
        replace_file(folder.path / name, [encode_pretty(version_to_file(version))])
        if elsewhere is not None and elsewhere.path != folder.path:
            delete_file(elsewhere.path / name)
            self._write_folder_metadata(elsewhere)
        self._write_folder_metadata(folder)

    def _folder_for(self, version: Version) -> CachedFolder[VersionSummary]:
        """The folder for a version: that of its neighbours, if they are of the same config version, else a new one."""
        content = self._contents.folder_of(version.content_id)
        places = content.version_folders()
        if (same := places.get(version.version_id)) is not None:
            return same
        ids = list(places)
        here = bisect(ids, version.version_id)
        for neighbour in ids[max(0, here - 1) : here + 1]:
            summary = self._summary(places[neighbour], version.content_id, neighbour)
            if summary is not None and summary.info.config_version == version.config_version:
                return places[neighbour]
        return CachedFolder(
            content.path / f"v{max(content.numbered_folders(), default=0) + 1}", VERSION_FILE_NAME, parse_summary
        )

    def _write_folder_metadata(self, folder: CachedFolder[VersionSummary]) -> None:
        """Write the metadata file of a folder, or remove the folder when it is empty."""
        with self._cache_lock:
            names = folder.file_names()
            summaries = [summary for name in names[:1] + names[-1:] if (summary := folder.read_file(name)) is not None]
        description = folder.path / "metadata.json"
        if summaries:
            about = {
                "content_id": summaries[0].info.content_id,
                "version": summaries[0].info.config_version,
                "total_generations": len(names),
                "latest_generation": summaries[-1].info.generated_at,
                "oldest_generation": summaries[0].info.generated_at,
                "retention_policy": self._retention,
            }
            replace_file(description, [encode_pretty(about)], durably=False)  # it can be derived again
        elif not names:
            with contextlib.suppress(OSError):  # it holds files that aren't ours
                delete_file(description)
                for each in (folder.path, folder.path.parent):
                    with open_folder(each.parent) as above:
                        above.delete_folder(each.name)

    def _finish_deletion(self) -> None:
        deletion = load_file(self._deleting, parse_deletion)
        if deletion is None:
            return
        places = self._all_version_folders()
        chosen = [(each, places[each]) for each in deletion.version_ids if each in places]
        if chosen:
            self._record_highest_id(max(each for each, _ in chosen), durably=True)
        for version_id, folder in chosen:
            path = folder.path / version_file_name(version_id)
            if (version := load_file(path, parse_version)) is None:
                continue
            if deletion.keep_metadata:
                replace_file(
                    path, [encode_pretty(version_to_file(msgspec.structs.replace(version, body="", deleted=True)))]
                )
            else:
                delete_file(path)
        for folder in {folder.path: folder for _, folder in chosen}.values():
            sync_folder(folder.path)
            self._write_folder_metadata(folder)
        delete_file(self._deleting, durably=True)

    def _put_draft(self, draft: Draft) -> None:
        path = self._draft_path(draft.draft_id)
        if check_file(path) is not None and load_file(path, parse_draft) is None:
            raise foreign_file_error(path)
        replace_file(path, [encode_pretty(draft)])

    def _next_version_id(self) -> str:
        """An id above every existing and deleted one."""
        if self._highest is None:
            self._highest = max(self._all_version_folders(), default="")
        return id_after(max(self._highest, self._recorded_id()) or None)

    def _record_highest_id(self, version_id: str, *, durably: bool = False) -> None:
        """Record the highest id, so that it outlives its deletion; while its version exists, that shows it."""
        self._highest = max(self._highest or "", version_id) if self._highest is not None else None
        if durably or version_id > self._recorded_id():
            highest = max(version_id, self._recorded_id())
            replace_file(self._root / "last-version-id", [highest.encode(), b"\n"], durably=durably)

    def _recorded_id(self) -> str:
        with contextlib.suppress(FileNotFoundError, InvalidInput, UnicodeDecodeError):
            noted = read_file(self._root / "last-version-id").decode("ascii").strip()
            time_of_id(noted)
            return noted
        return ""

    def _all_version_folders(self) -> dict[str, CachedFolder[VersionSummary]]:
        found: dict[str, CachedFolder[VersionSummary]] = {}
        with self._cache_lock:
            contents = self._contents.all_folders()
        for content in contents:  # one by one: the event loop isn't kept waiting for all of them
            with self._cache_lock:
                found |= content.version_folders()
        return found


_JOURNALS: dict[str, tuple[JournalKind[Any], ...]] = {
    "outputs": (OUTPUTS,),
    "traces": (TRACES,),
    "jobs": (JOBS,),
    "models": (COMPLETIONS, COSTS),
    "samples": (SAMPLES,),
    "events": (EVENTS,),
}
"""The journals and the kinds of records in each; what one transaction may write together is in one journal."""
