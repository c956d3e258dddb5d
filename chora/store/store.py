"""The protocol of a storage backend. Reads are quick and inline; writes are durable once they return.

Neither takes longer because more is stored: a list has a limit, and goes on after the last item of the page before. One
without a limit is for commands, migrations and tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

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

LAST = chr(0x10FFFF)
"""Sorts after every time and id."""
DELETED_AT_ONCE = 500
"""Records deleted in one transaction: other writes wait for no more."""

R = TypeVar("R", bound=Record)


class Store(Protocol):
    """The store of one project.

    Every method raises StorageError when the disk or the database fails; acknowledged writes stay.
    """

    path: Path | None
    """The database file or folder; None in memory."""

    def close(self) -> None:
        """Close files; nothing is lost without it."""
        ...

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the store can be read and written now, and its disk has free space.

        The last write shows that it can be written; if that failed, or was longer than `within` seconds ago, something
        small is written, once for all concurrent callers.
        """
        ...

    def counts(self) -> dict[str, int]:
        """The number of records by kind: `versions`, `drafts`, `outputs`, …"""
        ...

    # -- versions --

    async def add_version(self, version: Version) -> Version:
        """Store a text and return it with its `version_id`, which sorts after every earlier one.

        A version that already has an id (imported, migrated) keeps it; storing the same id again replaces it.
        """
        ...

    def version(self, content_id: str, version_id: str) -> Version | None:
        """The version of this id, if it belongs to this content."""
        ...

    def latest_version(self, content_id: str) -> Version | None:
        """The newest version of a content that isn't deleted."""
        ...

    def version_with_fingerprint(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest version of a content with this fingerprint that isn't deleted."""
        ...

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first, including deleted ones; for tests and imports."""
        ...

    def content_state(self, content_id: str) -> ContentState:
        """How much is stored of a content, and the newest of it without its text."""
        ...

    def version_infos(
        self, content_id: str, *, kept: bool = False, after: str = "", limit: int | None = None
    ) -> list[VersionInfo]:
        """The versions of a content without their texts, oldest first: at most `limit` of those whose id is above
        `after`; with `kept`, without deleted ones."""
        ...

    def newest_infos(self, content_id: str, limit: int, *, kept: bool = False, skip: int = 0) -> list[VersionInfo]:
        """The newest versions of a content without their texts, newest first, after the `skip` newest ones."""
        ...

    def find_info(
        self, content_id: str, *, config_version: str | None = None, prefix: str = "", approved: bool = False
    ) -> VersionInfo | None:
        """The newest version that isn't deleted and that fits.

        Args:
            content_id: its content.
            config_version: that of the config it was made from.
            prefix: the beginning of its time or of its id.
            approved: whether it has to be approved.
        """
        ...

    def versions_by_time(
        self, content_id: str, after: VersionAge, *, before: str = LAST, limit: int
    ) -> list[VersionAge]:
        """At most `limit` versions that aren't deleted, by time and id: those after one, and from before a time."""
        ...

    def content_ids(self, after: str | None = None, limit: int | None = None) -> list[str]:
        """The contents that have a version, sorted: at most `limit` of those above `after`."""
        ...

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions in one transaction, which no other write can pass, so at most `DELETED_AT_ONCE` of them; with
        `keep_metadata` only their texts, and they are marked as deleted."""
        ...

    # -- drafts --

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft, replacing one of the same id."""
        ...

    def draft(self, draft_id: str) -> Draft | None: ...

    def drafts(self, limit: int | None = None) -> list[Draft]:
        """The drafts, oldest first; at most `limit`."""
        ...

    def drafts_before(self, before: str, limit: int) -> list[str]:
        """The ids of drafts that were last changed before a time, the oldest `limit` of them."""
        ...

    async def delete_draft(self, draft_id: str) -> None:
        """Delete a draft, if there is one."""
        ...

    # -- outputs --

    def output(self, path: str) -> Output | None:
        """The record of the file at a project-relative path."""
        ...

    def outputs(self) -> list[Output]:
        """Every file that was written, sorted by path."""
        ...

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file of this artifact, sorted by path."""
        ...

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Store records of files in one transaction."""
        ...

    # -- traces --

    def trace(self, subject: str, key: str) -> Trace | None: ...

    def traces(self, subject: str) -> list[Trace]:
        """Every trace of a subject, newest first."""
        ...

    async def save_traces(self, traces: Iterable[Trace]) -> None:
        """Store traces in one transaction; per subject, only the newest `TRACES_KEPT` are kept."""
        ...

    # -- jobs --

    async def save_job(self, job: Job) -> None:
        """Store a job, replacing an earlier state of it."""
        ...

    def job(self, job_id: str) -> Job | None: ...

    def latest_job(self, key: str) -> Job | None:
        """The newest job with this key."""
        ...

    def jobs(self, limit: int | None = None) -> list[Job]:
        """The jobs, newest first; at most `limit`."""
        ...

    def jobs_before(self, before: str, limit: int) -> list[str]:
        """The ids of jobs that last changed before a time, the oldest `limit` of them."""
        ...

    async def delete_jobs(self, job_ids: Sequence[str]) -> None: ...

    # -- language models --

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Store an answer and its cost in one transaction."""
        ...

    def completion(self, key: str) -> Completion | None: ...

    def total_cost(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        ...

    def costs(self, since: str = "") -> list[Cost]:
        """Costs at or after a time, oldest first."""
        ...

    # -- samples and events --

    async def add_sample(self, sample: Sample) -> None: ...

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        ...

    def last_sample(self, kind: str) -> Sample | None: ...

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts: ...

    async def add_events(self, events: Sequence[Event]) -> None: ...

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """Events at or after a time, newest first."""
        ...

    async def delete_before(self, before: str) -> int:
        """Delete events and samples from before a time, a slice at a time; returns their number."""
        ...

    # -- all records, for migration --

    def records(self, kind: type[R]) -> Iterator[R]:
        """Every record of a kind, in the order in which they were stored."""
        ...

    async def add_records(self, records: Iterable[Record]) -> None:
        """Store records unchanged, in one transaction; one with the identity of another replaces it.

        Raises:
            InvalidInput: a version without an id.
        """
        ...


TRACES_KEPT = 20
"""Traces kept per subject: a content may be built for this many contexts in turn and still be found up to date."""
