"""The store as files that people can read.

    content/{content-id}/v1/2026-11-22T10-15-30.123Z-7f3a.json    one text; a new vN begins with a new config version
    content/{content-id}/v1/metadata.json                         how many, and from when to when
    drafts/draft-….json                                           one draft
    outputs.jsonl traces.jsonl jobs.jsonl models.jsonl            see `chora.store.journal`
    samples.jsonl events.jsonl
    last-version-id                                               so that none is given twice
    deleting.json                                                 versions on their way out, if a deletion was cut off
    .lock                                                         held by the one process that writes
    .check                                                        written to see whether anything can be

Every file appears whole or not at all. What can't be understood is left out with one warning and never touched.
A folder is looked through again when its time of change says so, a file is read again when it changed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
import time
from bisect import bisect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec
import trio
from msgspec import Struct

from chora.disk import check_room, file_name, make_folder, replace, sync_folder
from chora.errors import InvalidInput, StorageError, io_details
from chora.file_stamps import FileStamp, is_at_rest
from chora.locks import file_lock
from chora.store.ids import id_after, time_of
from chora.store.journal import COMPLETIONS, COSTS, EVENTS, JOBS, OUTPUTS, SAMPLES, TRACES, Journal, JournalKind
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

log = logging.getLogger("chora.store")

T = TypeVar("T")
R = TypeVar("R", bound=Record)

RETRY_TIME = 0.5
"""Seconds for which a failed write speaks for the next one."""
PAGE = 100  # records that are in memory at once while all of a kind are read

_VERSION_FILE = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d)-(\d\d)-(\d\d)\.(\d{3})Z-([0-9a-f]{4})\.json", re.ASCII)
_DRAFT_FILE = re.compile(r"[^.].*\.json")
_GENERATION = re.compile(r"v([1-9][0-9]{0,8})", re.ASCII)


class VersionFile(Struct, frozen=True, kw_only=True):
    """A version as its file spells it; the names are those that chora-compose used."""

    content_id: str
    version: str | None
    version_id: str
    generated_at: str
    generator_type: str
    generator_version: str
    context_hash: str
    sha256: str
    stage: str
    approved: bool
    deleted: bool
    content: str
    metadata: dict[str, Any]


class _Brief(NamedTuple):
    """What is kept in memory of a version."""

    info: VersionInfo
    fingerprint: str


class _Deletion(Struct, frozen=True):
    version_ids: list[str]
    keep_metadata: bool


class _Folder(Generic[T]):
    """The files of one folder whose names fit, each read only when it is asked for and has changed.

    Args:
        path: the folder; a missing one is empty.
        form: what the names look like.
        parse: what a file's bytes mean; raises msgspec.DecodeError if they mean nothing.
    """

    def __init__(self, path: Path, form: re.Pattern[str], parse: Callable[[bytes, str], T]) -> None:
        self.path = path
        self._form = form
        self._parse = parse
        self._trusted = -1
        self._stamps: dict[str, FileStamp] = {}
        self._parsed: dict[str, tuple[FileStamp, T | None]] = {}

    def names(self) -> list[str]:
        """The files that are there now, sorted."""
        try:
            modified = self.path.stat().st_mtime_ns
            if modified != self._trusted:
                self._stamps = self._look()
                self._trusted = modified if is_at_rest(modified) else -1
        except (FileNotFoundError, NotADirectoryError):
            self._trusted, self._stamps = -1, {}
        return sorted(self._stamps)

    def _look(self) -> dict[str, FileStamp]:
        stamps: dict[str, FileStamp] = {}
        with os.scandir(self.path) as found:
            for entry in found:
                if self._form.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # another process deletes it at this moment
                        status = entry.stat(follow_symlinks=False)
                        stamps[entry.name] = FileStamp.of(status)
        return stamps

    def read(self, name: str) -> T | None:
        """What a file means; None if it is gone or means nothing."""
        stamp = self._stamps.get(name)
        known = self._parsed.get(name)
        if known is None or known[0] != stamp:
            if stamp is None:
                return None
            known = self._parsed[name] = stamp, load(self.path / name, self._parse)
        return known[1]

    def all(self) -> Iterator[T]:
        """What the files mean that mean something, by name."""
        for name in self.names():
            if (found := self.read(name)) is not None:
                yield found


def load(path: Path, parse: Callable[[bytes, str], T]) -> T | None:
    """What a file means; None, and a warning, if it means nothing, and None if it isn't there."""
    try:
        return parse(path.read_bytes(), path.name)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("%s is left out and kept as it is: %s", path, error)
        return None


class _Content:
    """The folders of one content, v1 and so on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trusted = -1
        self._folders: dict[int, _Folder[_Brief]] = {}

    def folders(self) -> dict[int, _Folder[_Brief]]:
        """The folder of each number."""
        try:
            modified = self.path.stat().st_mtime_ns
            if modified != self._trusted:
                with os.scandir(self.path) as found:
                    numbers = [int(form[1]) for each in found if (form := _GENERATION.fullmatch(each.name))]
                self._folders = {
                    number: self._folders.get(number) or _Folder(self.path / f"v{number}", _VERSION_FILE, _parse_brief)
                    for number in sorted(numbers)
                }
                self._trusted = modified if is_at_rest(modified) else -1
        except (FileNotFoundError, NotADirectoryError):
            self._trusted, self._folders = -1, {}
        return self._folders

    def places(self) -> dict[str, _Folder[_Brief]]:
        """The id of every version and the folder that its file is in, oldest first."""
        found = {id_of(name): folder for folder in self.folders().values() for name in folder.names()}
        return dict(sorted(found.items()))


class FilesystemStore:
    """The store of one project, in a folder.

    Args:
        folder: the folder, made when missing.
        retention_days: what the files about each folder of versions say on how long they are kept.

    Raises:
        StorageError: the folder can't be made or written.
    """

    def __init__(self, folder: Path, *, retention_days: int | None = None) -> None:
        self.path: Path | None = folder
        self._root = folder
        self._retention = {"keep_versions": None, "keep_days": retention_days or None}
        self._is_closed = False
        self._deleting = folder / "deleting.json"
        self._broken: StorageError | None = None
        """Why the last write failed."""
        self._written = -math.inf
        """When the last write ended, well or not."""
        self._checking = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._guard = threading.RLock()  # the loop and the writing thread both look at what is known
        self._contents: dict[str, _Content] = {}
        self._drafts = _Folder(folder / "drafts", _DRAFT_FILE, _parse_draft)
        self._journals: dict[type[Record], tuple[Journal, JournalKind[Any]]] = {}
        for name, kinds in _JOURNALS.items():
            journal = Journal(folder / f"{name}.jsonl", *kinds)
            self._journals.update({kind.record: (journal, kind) for kind in kinds})
        self._highest: str | None = None
        with self._translated():
            make_folder(folder)
            with self._turn():
                pass  # what was cut off is finished now, and a folder that can't be written is known

    def close(self) -> None:
        """Nothing is open between two calls; from now on there are none."""
        self._is_closed = True

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the folder is there, takes files, and its disk has room."""
        async with self._checking:
            with self._looking():
                if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
                    raise FileNotFoundError(2, "it is gone, or closed to us", str(self._root))
            check_room(self._root)
            age = time.monotonic() - self._written
            if self._broken is not None and age < RETRY_TIME:
                raise self._broken
            if self._broken is not None or age > within:
                await self._write(lambda: replace(self._root / ".check", [b"This can be written.\n"]))

    def counts(self) -> dict[str, int]:
        """How many records of each kind there are."""
        with self._looking():
            counts = {"versions": sum(len(content.places()) for content in self._all_contents())}
            counts["drafts"] = sum(1 for _ in self._drafts.all())
            for kind, (journal, how) in self._journals.items():
                counts[f"{kind.__name__.lower()}s"] = journal.count(how)
            return counts

    # -- versions -------------------------------------------------------------------------------------------

    async def add_version(self, version: Version) -> Version:
        """Store a text durably and return it with its `version_id`.

        Raises:
            InvalidInput: it came with an id, and that isn't one.
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
        """The version of this id, if it is this content's."""
        with self._looking():
            folder = self._content(content_id).places().get(version_id)
            brief = folder and self._brief(folder, content_id, version_id)
            return self._load(folder, brief) if folder and brief else None

    def latest_version(self, content_id: str) -> Version | None:
        """The newest text of a content that isn't deleted."""
        return self._newest(content_id, lambda _: True)

    def version_made_from(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest text of a content that was made from exactly this and isn't deleted."""
        return self._newest(content_id, lambda brief: brief.fingerprint == fingerprint)

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first, deleted ones too."""
        with self._looking():
            found = (self._load(folder, brief) for folder, brief in self._briefs(content_id))
            return [version for version in found if version is not None]

    def version_infos(self, content_id: str) -> list[VersionInfo]:
        """Every version of a content without its text, oldest first."""
        with self._looking():
            return [brief.info for _, brief in self._briefs(content_id)]

    def content_ids(self) -> list[str]:
        """Every content of which there is a version, sorted."""
        with self._looking():
            return sorted(found for content in self._all_contents() if (found := _id_of_content(content)) is not None)

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions in one step; with `keep_metadata` only their texts, and they count as deleted."""
        deletion = _Deletion(list(version_ids), keep_metadata)

        def delete() -> None:
            # Thousands of files don't go in one moment: whoever comes next finishes what is written down here.
            replace(self._deleting, [msgspec.json.encode(deletion)])
            self._finish_deletion()

        if version_ids:
            await self._write(delete)

    def _newest(self, content_id: str, fits: Callable[[_Brief], bool]) -> Version | None:
        with self._looking():
            places = self._content(content_id).places()
            for version_id in reversed(places):
                brief = self._brief(places[version_id], content_id, version_id)
                if brief is not None and not brief.info.deleted and fits(brief):
                    return self._load(places[version_id], brief)
            return None

    def _content(self, content_id: str) -> _Content:
        return self._content_at(self._root / "content" / file_name(content_id))

    def _content_at(self, path: Path) -> _Content:
        if (content := self._contents.get(path.name)) is None:
            content = self._contents[path.name] = _Content(path)
        return content

    def _all_contents(self) -> list[_Content]:
        try:
            with os.scandir(self._root / "content") as found:
                return [self._content_at(Path(entry.path)) for entry in found if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []

    def _briefs(self, content_id: str) -> Iterator[tuple[_Folder[_Brief], _Brief]]:
        for version_id, folder in self._content(content_id).places().items():
            if (brief := self._brief(folder, content_id, version_id)) is not None:
                yield folder, brief

    def _brief(self, folder: _Folder[_Brief], content_id: str, version_id: str) -> _Brief | None:
        brief = folder.read(name_of(version_id))
        return brief if brief is not None and brief.info.content_id == content_id else None

    def _load(self, folder: _Folder[_Brief], brief: _Brief) -> Version | None:
        return load(folder.path / name_of(brief.info.version_id), _parse_version)

    # -- drafts ---------------------------------------------------------------------------------------------

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft durably, over an earlier one of the same id."""
        await self._write(lambda: self._put_draft(draft))

    def draft(self, draft_id: str) -> Draft | None:
        """The draft of this id."""
        with self._looking():
            self._drafts.names()
            found = self._drafts.read(f"{file_name(draft_id)}.json")
            return found if found is not None and found.draft_id == draft_id else None

    def drafts(self) -> list[Draft]:
        """Every draft, oldest first."""
        with self._looking():
            return sorted(self._drafts.all(), key=lambda draft: (draft.created_at, draft.draft_id))

    async def delete_draft(self, draft_id: str) -> None:
        """Forget a draft; one that isn't there is fine."""

        def delete() -> None:
            path = self._draft_path(draft_id)
            if load(path, _parse_draft) is not None:
                path.unlink()
                sync_folder(path.parent)

        await self._write(delete)

    def _draft_path(self, draft_id: str) -> Path:
        return self._root / "drafts" / f"{file_name(draft_id)}.json"

    # -- outputs --------------------------------------------------------------------------------------------

    def output(self, path: str) -> Output | None:
        """What is known of the file at a project-relative path."""
        return self._find(Output, path)

    def outputs(self) -> list[Output]:
        """Every file that was written, by path."""
        return self._all(Output)

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file this artifact wrote, by path."""
        return self._all(Output, artifact_id)

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Remember files, all of them in one step."""
        await self._add(outputs)

    # -- traces ---------------------------------------------------------------------------------------------

    def trace(self, subject: str, key: str) -> Trace | None:
        """What is known of this piece of work."""
        return self._find(Trace, subject, key)

    def traces(self, subject: str) -> list[Trace]:
        """Every trace of a subject, newest first."""
        return self._all(Trace, subject)[::-1]

    async def save_traces(self, traces: Iterable[Trace]) -> None:
        """Remember traces in one step; of a subject only the newest stay."""
        await self._add(traces)

    # -- jobs -----------------------------------------------------------------------------------------------

    async def save_job(self, job: Job) -> None:
        """Store a job over an earlier state of it."""
        await self._add([job])

    def job(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._find(Job, job_id)

    def job_of(self, key: str) -> Job | None:
        """The newest job of a key."""
        return next((job for job in self.jobs() if job.key == key), None)

    def jobs(self) -> list[Job]:
        """Every job, newest first."""
        return sorted(self._all(Job), key=lambda job: (job.created_at, job.job_id), reverse=True)

    async def delete_jobs(self, job_ids: Sequence[str]) -> None:
        """Forget jobs in one step."""
        journal, _ = self._journals[Job]
        await self._write(lambda: journal.drop(job_ids))

    # -- language models ------------------------------------------------------------------------------------

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Keep an answer and what it cost, in one step."""
        await self._add([completion, cost])

    def completion(self, key: str) -> Completion | None:
        """The answer to exactly this."""
        return self._find(Completion, key)

    def spent(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        journal, kind = self._journals[Cost]
        with self._looking():
            return sum((usd for usd in journal.notes(kind, since=since) if usd is not None), 0.0)

    def costs(self, since: str = "") -> list[Cost]:
        """What was spent at or after a time, oldest first."""
        return self._all(Cost, since=since)

    # -- measurements and happenings ------------------------------------------------------------------------

    async def add_sample(self, sample: Sample) -> None:
        """Store one measurement durably."""
        await self._add([sample])

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        return self._all(Sample, kind, since)

    def last_sample(self, kind: str) -> Sample | None:
        """The newest measurement of a kind."""
        return next(iter(self._all(Sample, kind, newest=1)), None)

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts:
        """How many measurements of a kind were taken at or after a time, and how many were fine."""
        journal, how = self._journals[Sample]
        with self._looking():
            fine = journal.notes(how, kind, since)
        return SampleCounts(len(fine), sum(fine))

    async def add_events(self, events: Sequence[Event]) -> None:
        """Store happenings, all of them in one step."""
        await self._add(events)

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """The newest happenings at or after a time, newest first."""
        return self._all(Event, since=since, newest=limit)[::-1]

    async def forget(self, before: str) -> int:
        """Delete events and samples from before a time; returns how many."""
        return await self._write(lambda: sum(self._journals[kind][0].forget(before) for kind in (Event, Sample)))

    # -- everything -----------------------------------------------------------------------------------------

    def records(self, kind: type[R]) -> Iterator[R]:
        """Everything of a kind, in the order in which it was stored; versions by content, drafts by age."""
        if kind is Version:
            for content_id in self.content_ids():
                for info in self.version_infos(content_id):
                    if (version := self.version(content_id, info.version_id)) is not None:
                        yield cast(R, version)
        elif kind is Draft:
            yield from cast("list[R]", self.drafts())
        else:
            journal, how = self._journals[kind]
            last = -1
            while True:
                with self._translated():
                    page, last = journal.page(how, last, PAGE)
                if not page:
                    return
                yield from page

    async def add_records(self, records: Iterable[Record]) -> None:
        """Store records as they are, over those of the same identity; what has none is added.

        Those of one journal are stored in one step, versions and drafts one after the other.

        Raises:
            InvalidInput: a version without an id.
        """
        given = list(records)
        for record in given:
            if isinstance(record, Version):
                time_of(record.version_id)

        def add() -> None:
            versions = [record for record in given if isinstance(record, Version)]
            places = self._all_places() if versions else {}
            for version in versions:
                self._put_version(version, places.get(version.version_id))
            for record in given:
                if isinstance(record, Draft):
                    self._put_draft(record)
            for journal in {journal.path: journal for journal, _ in self._journals.values()}.values():
                journal.add([each for each in given if type(each) in journal.records])

        await self._write(add)

    # -- underneath -----------------------------------------------------------------------------------------

    def _find(self, kind: type[R], *key: str) -> R | None:
        journal, how = self._journals[kind]
        with self._translated():
            return journal.find(how, key)

    def _all(self, kind: type[R], group: str | None = None, since: str = "", *, newest: int | None = None) -> list[R]:
        journal, how = self._journals[kind]
        with self._translated():
            return journal.all(how, group, since, newest=newest)

    async def _add(self, records: Iterable[Record]) -> None:
        given = list(records)
        if given:
            journal, _ = self._journals[type(given[0])]
            await self._write(lambda: journal.add(given))

    @contextmanager
    def _looking(self) -> Generator[None]:
        """Look at files, while the other of loop and writing thread doesn't."""
        with self._translated(), self._guard:
            yield

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Turn what the disk says into StorageError."""
        if self._is_closed:
            raise StorageError(f"The store in {self._root} is closed.", None, storage_path=str(self._root))
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The store in {self._root} failed: {error.strerror or error}.",
                "Another process writes for long; try again."
                if isinstance(error, TimeoutError)
                else "Check that the folder is there and may be written, and that its disk has room.",
                **io_details(error, storage_path=str(self._root)),
            ) from error

    async def _write(self, change: Callable[[], T]) -> T:
        def run() -> T:
            try:
                with self._translated(), self._turn():
                    done = change()
            except StorageError as error:
                self._broken = error
                raise
            else:
                self._broken = None
                return done
            finally:
                self._written = time.monotonic()

        # Not abandoned on cancellation: a caller that is told "cancelled" must not race its own write.
        return await trio.to_thread.run_sync(run, limiter=self._limiter)

    # -- writing, in one's turn -----------------------------------------------------------------------------

    @contextmanager
    def _turn(self) -> Generator[None]:
        """Be the only one who writes, and finish what a process that was ended began."""
        with file_lock(self._root / ".lock"):
            if self._deleting.exists():
                self._finish_deletion()
            yield

    def _put_version(self, version: Version, elsewhere: _Folder[_Brief] | None = None) -> None:
        """Write a version's file; `elsewhere` is the folder where one of the same id is now."""
        self._note_id(version.version_id)
        name = name_of(version.version_id)
        with self._guard:
            folder = self._folder_for(version)
        if folder.path.joinpath(name).exists() and load(folder.path / name, _parse_version) is None:
            raise _in_the_way(folder.path / name)
        replace(folder.path / name, [_pretty(_file_of(version))])
        if elsewhere is not None and elsewhere.path != folder.path:
            (elsewhere.path / name).unlink()
            self._describe(elsewhere)
        self._describe(folder)

    def _folder_for(self, version: Version) -> _Folder[_Brief]:
        """The folder of a version: its neighbours', if they are of the same config version, else a new one."""
        content = self._content(version.content_id)
        places = content.places()
        if (same := places.get(version.version_id)) is not None:
            return same
        ids = list(places)
        here = bisect(ids, version.version_id)
        for neighbour in ids[max(0, here - 1) : here + 1]:
            brief = self._brief(places[neighbour], version.content_id, neighbour)
            if brief is not None and brief.info.config_version == version.config_version:
                return places[neighbour]
        return _Folder(content.path / f"v{max(content.folders(), default=0) + 1}", _VERSION_FILE, _parse_brief)

    def _describe(self, folder: _Folder[_Brief]) -> None:
        """Write what a folder holds beside it, or remove it when it holds nothing."""
        with self._guard:
            names = folder.names()
            briefs = [brief for name in names[:1] + names[-1:] if (brief := folder.read(name)) is not None]
        description = folder.path / "metadata.json"
        if briefs:
            about = {
                "content_id": briefs[0].info.content_id,
                "version": briefs[0].info.config_version,
                "total_generations": len(names),
                "latest_generation": briefs[-1].info.generated_at,
                "oldest_generation": briefs[0].info.generated_at,
                "retention_policy": self._retention,
            }
            replace(description, [_pretty(about)], durably=False)  # it can be made again
        elif not names:
            description.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's files are in there
                folder.path.rmdir()
                folder.path.parent.rmdir()

    def _finish_deletion(self) -> None:
        deletion = load(self._deleting, _parse_deletion)
        if deletion is None:
            return
        with self._guard:
            places = self._all_places()
        chosen = [(each, places[each]) for each in deletion.version_ids if each in places]
        if chosen:
            self._note_id(max(each for each, _ in chosen), durably=True)
        for version_id, folder in chosen:
            path = folder.path / name_of(version_id)
            if (version := load(path, _parse_version)) is None:
                continue
            if deletion.keep_metadata:
                replace(path, [_pretty(_file_of(msgspec.structs.replace(version, body="", deleted=True)))])
            else:
                path.unlink()
        for folder in {folder.path: folder for _, folder in chosen}.values():
            sync_folder(folder.path)
            self._describe(folder)
        self._deleting.unlink()
        sync_folder(self._root)

    def _put_draft(self, draft: Draft) -> None:
        path = self._draft_path(draft.draft_id)
        if path.exists() and load(path, _parse_draft) is None:
            raise _in_the_way(path)
        replace(path, [_pretty(draft)])

    def _next_version_id(self) -> str:
        """An id above every one there is or was."""
        if self._highest is None:
            with self._guard:
                self._highest = max(self._all_places(), default="")
        return id_after(max(self._highest, self._noted_id()) or None)

    def _note_id(self, version_id: str, *, durably: bool = False) -> None:
        """Remember the highest id beyond its deletion; while its file is there, that one will tell."""
        self._highest = max(self._highest or "", version_id) if self._highest is not None else None
        if durably or version_id > self._noted_id():
            highest = max(version_id, self._noted_id())
            replace(self._root / "last-version-id", [highest.encode(), b"\n"], durably=durably)

    def _noted_id(self) -> str:
        with contextlib.suppress(FileNotFoundError, InvalidInput, UnicodeDecodeError):
            noted = (self._root / "last-version-id").read_text("ascii").strip()
            time_of(noted)
            return noted
        return ""

    def _all_places(self) -> dict[str, _Folder[_Brief]]:
        return {each: folder for content in self._all_contents() for each, folder in content.places().items()}


_JOURNALS: dict[str, tuple[JournalKind[Any], ...]] = {
    "outputs": (OUTPUTS,),
    "traces": (TRACES,),
    "jobs": (JOBS,),
    "models": (COMPLETIONS, COSTS),
    "samples": (SAMPLES,),
    "events": (EVENTS,),
}
"""The files of JSON lines, and what stands in them; what one step may write together is in one."""


def name_of(version_id: str) -> str:
    """The name of a version's file: its id as the time it is."""
    d = version_id
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[9:11]}-{d[11:13]}-{d[13:15]}.{d[15:18]}Z{d[19:]}.json"


def id_of(name: str) -> str:
    """The id of the version that a file of this name holds."""
    form = _VERSION_FILE.fullmatch(name)
    assert form is not None
    year, month, day, hour, minute, second, milliseconds, count = form.groups()
    return f"{year}{month}{day}T{hour}{minute}{second}{milliseconds}Z-{count}"


def _id_of_content(content: _Content) -> str | None:
    """The id of the content whose folder it is; None if there is no version of it inside."""
    for version_id, folder in content.places().items():
        brief = folder.read(name_of(version_id))
        if brief is not None and file_name(brief.info.content_id) == content.path.name:
            return brief.info.content_id
    return None


_decode_version = msgspec.json.Decoder(VersionFile).decode
_decode_draft = msgspec.json.Decoder(Draft).decode


def _parse_version(data: bytes, name: str) -> Version:
    file = _decode_version(data)
    if name != name_of(file.version_id):
        raise msgspec.ValidationError(f"it holds the version {file.version_id}, which would have another name")
    return Version(
        content_id=file.content_id,
        body=file.content,
        sha256=file.sha256,
        fingerprint=file.context_hash,
        generator=file.generator_type,
        generator_version=file.generator_version,
        generated_at=file.generated_at,
        config_version=file.version,
        stage=file.stage,
        approved=file.approved,
        metadata=file.metadata,
        version_id=file.version_id,
        deleted=file.deleted,
    )


def _parse_brief(data: bytes, name: str) -> _Brief:
    version = _parse_version(data, name)
    return _Brief(
        VersionInfo(
            version_id=version.version_id,
            content_id=version.content_id,
            generated_at=version.generated_at,
            generator=version.generator,
            config_version=version.config_version,
            stage=version.stage,
            approved=version.approved,
            deleted=version.deleted,
            size=len(version.body.encode()),
        ),
        version.fingerprint,
    )


def _parse_draft(data: bytes, name: str) -> Draft:
    draft = _decode_draft(data)
    if name != f"{file_name(draft.draft_id)}.json":
        raise msgspec.ValidationError(f"it holds the draft {draft.draft_id}, which would have another name")
    return draft


def _parse_deletion(data: bytes, _: str) -> _Deletion:
    return msgspec.json.decode(data, type=_Deletion)


def _file_of(version: Version) -> VersionFile:
    return VersionFile(
        content_id=version.content_id,
        version=version.config_version,
        version_id=version.version_id,
        generated_at=version.generated_at,
        generator_type=version.generator,
        generator_version=version.generator_version,
        context_hash=version.fingerprint,
        sha256=version.sha256,
        stage=version.stage,
        approved=version.approved,
        deleted=version.deleted,
        content=version.body,
        metadata=version.metadata,
    )


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _in_the_way(path: Path) -> StorageError:
    return StorageError(
        f"{path} holds something that chora didn't write; it is left as it is.",
        "Move the file away.",
        storage_path=str(path),
    )
