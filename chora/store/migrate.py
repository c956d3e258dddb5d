"""Copying everything from one store to another, and verifying the copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from chora.errors import MigrationFailed
from chora.hashing import sha256 as stamped_sha256
from chora.store.records import Completion, Cost, Draft, Event, Job, Output, Record, Sample, Trace, Version
from chora.store.store import TRACES_KEPT, Store

MigrationProgress = Callable[[str, int, int], None]
"""Called with the kind of record, how many of it are done, and the total."""

BATCH_RECORDS = 200
BATCH_CHARACTERS = 8 * 1024 * 1024
"""Records, and characters of their texts, per transaction."""
DIFFERENCES_NAMED = 20
"""Differences listed in an error."""


class KindCounts(Struct, frozen=True):
    """How many records of one kind were copied."""

    total: int
    copied: int
    already_there: int
    """Records that the target has, or has a newer state of."""


class MigrationResult(Struct, frozen=True):
    """What a migration did, or would do, by kind of record."""

    kinds: dict[str, KindCounts]
    dry_run: bool

    @property
    def copied(self) -> int:
        return sum(moved.copied for moved in self.kinds.values())


RECORD_KINDS: dict[str, type[Record]] = {
    "versions": Version,
    "drafts": Draft,
    "outputs": Output,
    "traces": Trace,
    "jobs": Job,
    "completions": Completion,
    "costs": Cost,
    "samples": Sample,
    "events": Event,
}
"""Everything that is copied, in this order."""


async def migrate_store(
    source: Store, target: Store, *, dry_run: bool = False, progress: MigrationProgress | None = None
) -> MigrationResult:
    """Copy every record that the target doesn't have, with its id, times and order, and compare both afterwards.

    The source stays unchanged. Repeating it copies what is new since; where the target has a newer state of a
    record, that state stays.

    Args:
        source: the store to read.
        target: the store to write.
        dry_run: only count what would be copied.
        progress: called after every transaction.

    Raises:
        MigrationFailed: a version of the same id has another text in the target, or afterwards something is
            missing; `details.differences` names up to 20 of them.
        StorageError: one of the stores can't be read or written; the migration may be repeated.
    """
    totals = source.counts()
    kinds: dict[str, KindCounts] = {}
    for name, kind in RECORD_KINDS.items():
        kinds[name] = await _copy_kind(
            kind, source, target, dry_run, partial(_report_progress, progress, name, totals[name])
        )
    if not dry_run:
        _verify_copied(source, target)
    return MigrationResult(kinds, dry_run)


def _report_progress(progress: MigrationProgress | None, name: str, total: int, done: int) -> None:
    if progress is not None:
        progress(name, done, total)


async def _copy_kind(
    kind: type[Record], source: Store, target: Store, dry_run: bool, progress: Callable[[int], None]
) -> KindCounts:
    copied = already_there = text = 0
    batch: list[Record] = []
    is_there = _presence_check(kind, target)
    for record in source.records(kind):
        if is_there(record):
            already_there += 1
            continue
        copied += 1
        if dry_run:
            continue
        batch.append(record)
        text += len(record.body) if isinstance(record, Version) else 0
        if len(batch) >= BATCH_RECORDS or text >= BATCH_CHARACTERS:
            await target.add_records(batch)
            batch, text = [], 0
            progress(copied + already_there)
    if batch:
        await target.add_records(batch)
    progress(copied + already_there)
    return KindCounts(copied + already_there, copied, already_there)


def _presence_check(kind: type[Record], target: Store) -> Callable[[Record], bool]:
    """Return a function that says of each record in turn whether the target has it, or a newer state of it."""
    if kind not in (Cost, Sample, Event):
        return lambda record: _is_present(record, target)
    # These have no identity: equal ones are matched by number.
    alike = Counter(_record_digest(record) for record in target.records(kind))

    def match_one(record: Record) -> bool:
        digest = _record_digest(record)
        alike[digest] -= 1
        return alike[digest] >= 0

    return match_one


def _record_digest(record: Record) -> bytes:
    return sha256(msgspec.json.encode(record)).digest()[:16]


def _is_present(record: Record, target: Store) -> bool:
    found = _counterpart(record, target)
    match record:
        case Version():
            if isinstance(found, Version) and found != record and not found.deleted and not record.deleted:
                hint = "Decide which of the two is right, and delete the other one."
                raise _failed([_difference(record, found)], hint)
            return found == record or (isinstance(found, Version) and found.deleted)
        case Trace() if found is None:
            newer = target.traces(record.subject)
            return len(newer) >= TRACES_KEPT and newer[-1].at >= record.at
        case _:
            return found is not None and (found == record or _time_of(found) > _time_of(record))


def _counterpart(record: Record, store: Store) -> Record | None:
    match record:
        case Version():
            return store.version(record.content_id, record.version_id)
        case Draft():
            return store.draft(record.draft_id)
        case Output():
            return store.output(record.path)
        case Trace():
            return store.trace(record.subject, record.key)
        case Job():
            return store.job(record.job_id)
        case Completion():
            return store.completion(record.key)
        case Cost() | Sample() | Event():
            return None


def _time_of(record: Record) -> str:
    match record:
        case Draft() | Job():
            return record.updated_at
        case Output():
            return record.written_at
        case Version():
            return record.generated_at
        case _:
            return record.at


def _verify_copied(source: Store, target: Store) -> None:
    """Raise MigrationFailed unless the target holds every record of the source, with equal texts."""
    there = target.counts()
    differences: list[dict[str, Any]] = []
    for name, kind in RECORD_KINDS.items():
        is_there = _presence_check(kind, target)
        count = 0
        for record in source.records(kind):
            count += 1
            found = _counterpart(record, target)
            if not is_there(record) or (isinstance(record, Version) and not _is_same_text(record, found)):
                differences.append(_difference(record, found))
                if len(differences) >= DIFFERENCES_NAMED:
                    raise _failed(differences)
        if kind is not Trace and there[name] < count:
            differences.append({"kind": name, "name": "all", "problem": f"{there[name]} of {count}"})
    if differences:
        raise _failed(differences)


def _is_same_text(record: Version, found: Record | None) -> bool:
    hashes = [stamped_sha256(each.body.encode()) for each in (record, found) if isinstance(each, Version)]
    return isinstance(found, Version) and (found.deleted or hashes[0] == hashes[1])


def _difference(record: Record, found: Record | None) -> dict[str, Any]:
    named: dict[str, Any] = {"kind": type(record).__name__.lower(), "name": _name_of(record)}
    if found is None:
        return {**named, "problem": "missing"}
    if isinstance(record, Version) and isinstance(found, Version) and record.body != found.body:
        hashes = {"source": stamped_sha256(record.body.encode()), "target": stamped_sha256(found.body.encode())}
        return {**named, "problem": "another text", "sha256": hashes}
    fields = [field for field in record.__struct_fields__ if getattr(record, field) != getattr(found, field)]
    return {**named, "problem": "other values", "fields": fields}


def _name_of(record: Record) -> str:
    match record:
        case Version():
            return f"{record.content_id} {record.version_id}"
        case Draft():
            return record.draft_id
        case Output():
            return record.path
        case Trace():
            return f"{record.subject} {record.key}"
        case Job():
            return record.job_id
        case Completion():
            return record.key
        case Cost() | Sample() | Event():
            return record.at


def _failed(
    differences: list[dict[str, Any]],
    hint: str = "The old store is as it was. End other chora processes of this project and repeat the migration.",
) -> MigrationFailed:
    first = differences[0]
    more = "" if len(differences) == 1 else f" There are {len(differences) - 1} or more others."
    return MigrationFailed(
        f"The stores differ: {first['problem']} for {first['kind']} {first['name']}.{more}",
        hint,
        differences=differences,
    )
