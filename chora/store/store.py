"""What every storage backend does. Reads are quick and inline; writes are durable once they return."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

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

R = TypeVar("R", bound=Record)


class Store(Protocol):
    """The store of one project.

    Every method raises StorageError when the disk or the database fails; what was acknowledged stays.
    """

    path: Path | None
    """Where it keeps what it keeps; None for memory."""

    def close(self) -> None:
        """Let go of files; nothing is lost by not calling it."""
        ...

    async def check(self, within: float = math.inf) -> None:
        """Raise StorageError unless the store answers now, takes writes, and its disk has room.

        That it takes writes is known from the last one; if that failed, or was longer ago than `within` in seconds,
        something small is written, by one caller for all who ask meanwhile.
        """
        ...

    def counts(self) -> dict[str, int]:
        """How many records of each kind there are: `versions`, `drafts`, `outputs`, …"""
        ...

    # -- versions --

    async def add_version(self, version: Version) -> Version:
        """Store a text and return it with its `version_id`, which is above every earlier one.

        A version that has an id already (imported, migrated) keeps it; storing the same id again replaces it.
        """
        ...

    def version(self, content_id: str, version_id: str) -> Version | None:
        """The version of this id, if it is this content's."""
        ...

    def latest_version(self, content_id: str) -> Version | None:
        """The newest text of a content that isn't deleted."""
        ...

    def version_made_from(self, content_id: str, fingerprint: str) -> Version | None:
        """The newest text of a content that was made from exactly this and isn't deleted."""
        ...

    def versions(self, content_id: str) -> list[Version]:
        """Every version of a content, oldest first, deleted ones too."""
        ...

    def version_infos(self, content_id: str) -> list[VersionInfo]:
        """Every version of a content without its text, oldest first."""
        ...

    def content_ids(self) -> list[str]:
        """Every content of which there is a version, sorted."""
        ...

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        """Delete versions in one step; with `keep_metadata` only their texts, and they count as deleted."""
        ...

    # -- drafts --

    async def save_draft(self, draft: Draft) -> None:
        """Store a draft, over an earlier one of the same id."""
        ...

    def draft(self, draft_id: str) -> Draft | None: ...

    def drafts(self) -> list[Draft]:
        """Every draft, oldest first."""
        ...

    async def delete_draft(self, draft_id: str) -> None:
        """Forget a draft; one that isn't there is fine."""
        ...

    # -- outputs --

    def output(self, path: str) -> Output | None:
        """What is known of the file at a project-relative path."""
        ...

    def outputs(self) -> list[Output]:
        """Every file that was written, by path."""
        ...

    def outputs_of(self, artifact_id: str) -> list[Output]:
        """Every file this artifact wrote, by path."""
        ...

    async def save_outputs(self, outputs: Iterable[Output]) -> None:
        """Remember files, all of them in one step."""
        ...

    # -- traces --

    def trace(self, subject: str, key: str) -> Trace | None: ...

    def traces(self, subject: str) -> list[Trace]:
        """Every trace of a subject, newest first."""
        ...

    async def save_traces(self, traces: Iterable[Trace]) -> None:
        """Remember traces in one step; of a subject only the newest `TRACES_KEPT` stay."""
        ...

    # -- jobs --

    async def save_job(self, job: Job) -> None:
        """Store a job over an earlier state of it."""
        ...

    def job(self, job_id: str) -> Job | None: ...

    def job_of(self, key: str) -> Job | None:
        """The newest job of a key."""
        ...

    def jobs(self) -> list[Job]:
        """Every job, newest first."""
        ...

    async def delete_jobs(self, job_ids: Sequence[str]) -> None: ...

    # -- language models --

    async def add_completion(self, completion: Completion, cost: Cost) -> None:
        """Keep an answer and what it cost, in one step."""
        ...

    def completion(self, key: str) -> Completion | None: ...

    def spent(self, since: str = "") -> float:
        """US dollars spent at or after a time."""
        ...

    def costs(self, since: str = "") -> list[Cost]:
        """What was spent at or after a time, oldest first."""
        ...

    # -- measurements and happenings --

    async def add_sample(self, sample: Sample) -> None: ...

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        """Measurements of a kind taken at or after a time, oldest first."""
        ...

    def last_sample(self, kind: str) -> Sample | None: ...

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts: ...

    async def add_events(self, events: Sequence[Event]) -> None: ...

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        """The newest happenings at or after a time, newest first."""
        ...

    async def forget(self, before: str) -> int:
        """Delete events and samples from before a time; returns how many."""
        ...

    # -- everything, for moving house --

    def records(self, kind: type[R]) -> Iterator[R]:
        """Everything of a kind, in the order in which it was stored."""
        ...

    async def add_records(self, records: Iterable[Record]) -> None:
        """Store records as they are, in one step: over those of the same identity; what has none is added.

        Raises:
            InvalidInput: a version without an id.
        """
        ...


TRACES_KEPT = 20
"""Traces per subject: as many contexts may a content be made for in turn without being looked into again."""
