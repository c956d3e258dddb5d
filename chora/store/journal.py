"""An append-only file of JSON lines, in which the last line about a record counts.

Lines look like `{"job": {…}}`. All lines of a transaction but the last say `"more": true`; without the last one, none
of them counts. `{"gone": […]}` deletes records, `{"forgotten": "2026-…"}` all from before a time. The file is compacted
when it is more than twice the size of its live lines; lines that can't be decoded are kept.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Struct

from chora.disk import append_to_file, replace_file
from chora.errors import StorageError
from chora.nesting import check_json_structure
from chora.nofollow import open_file
from chora.store.records import Completion, Cost, Event, Job, Output, Record, Sample, Trace
from chora.store.store import TRACES_KEPT

log = logging.getLogger("chora.store")

R = TypeVar("R", bound=Record)
RecordKey = tuple[str | int, ...]

COMPACTION_SLACK = 1024 * 1024
"""Bytes of outdated lines below which a file isn't compacted."""
HEAD_LENGTH = 200
"""Maximum length of the first line, whose random id identifies a rewritten file."""


class JournalKind(NamedTuple, Generic[R]):
    """The fields by which records of a kind are identified, grouped and ordered."""

    name: str
    record: type[R]
    key: tuple[str, ...] = ()
    """The fields of its identity; empty for records without one."""
    group: str = ""
    at: str = "at"
    note: str = ""
    """A field kept in memory, so that sums need no reading."""
    kept: int | None = None
    """How many of a group are kept, the newest."""


OUTPUTS = JournalKind("output", Output, ("path",), group="artifact_id", at="path")
TRACES = JournalKind("trace", Trace, ("subject", "key"), group="subject", kept=TRACES_KEPT)
JOBS = JournalKind("job", Job, ("job_id",), at="created_at")
COMPLETIONS = JournalKind("completion", Completion, ("key",))
COSTS = JournalKind("cost", Cost, note="usd")
SAMPLES = JournalKind("sample", Sample, group="kind", note="ok")
EVENTS = JournalKind("event", Event)


class _JournalLine(Struct, frozen=True, omit_defaults=True):
    """The JSON of a line."""

    output: Output | None = None
    trace: Trace | None = None
    job: Job | None = None
    completion: Completion | None = None
    cost: Cost | None = None
    sample: Sample | None = None
    event: Event | None = None
    gone: list[str] = []
    forgotten: str = ""
    more: bool = False
    journal: str = ""


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_JournalLine).decode


def _decode(line: bytes) -> _JournalLine:
    check_json_structure(line)
    return _decode_line(line)


class RecordLocation(NamedTuple):
    """Where a record is in the file, and what is known of it without reading."""

    at: str
    offset: int
    length: int
    note: Any


class _KindIndex:
    """The locations of records of one kind, by group and key, in the order in which they were written."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[RecordKey, RecordLocation]] = {}
        self.group_of: dict[RecordKey, str] = {}


class Journal:
    """One file with the records of some kinds.

    Reads are quick and inline; writers hold the store's lock. Writes of other processes are noticed, because every read
    opens the file and indexes what was appended.

    Args:
        path: the file; the first record creates it.
        kinds: the kinds of records in it.
    """

    def __init__(self, path: Path, *kinds: JournalKind[Any]) -> None:
        self.path = path
        self._kinds = {kind.name: kind for kind in kinds}
        self.records: dict[type[Record], str] = {kind.record: kind.name for kind in kinds}
        self._lock = threading.Lock()  # the writer thread and the event loop both read
        self._reported: set[bytes] = set()
        self._reset(-1, b"")

    def _reset(self, node: int, head: bytes) -> None:
        self._inode = node
        self._head = head
        self._end = 0
        """The end of the indexed part; beyond it there may be an incomplete line."""
        self._open_transaction: list[tuple[_JournalLine, RecordLocation]] = []
        self._damaged: list[RecordLocation] = []
        self._live_bytes = 0
        self._indexes = {name: _KindIndex() for name in self._kinds}

    # -- reading --

    def find_record(self, kind: JournalKind[R], key: RecordKey) -> R | None:
        """The record with this key."""
        with self._open_current() as file:
            index = self._indexes[kind.name]
            group = index.group_of.get(key)
            return None if group is None else self._read_record(file, kind, index.groups[group][key])

    def list_records(
        self, kind: JournalKind[R], group: str | None = None, since: str = "", *, newest: int | None = None
    ) -> list[R]:
        """Records by time, those of the same time as they were written; with `newest`, only the last `newest` ones."""
        with self._open_current() as file:
            locations = sorted(location for location in self._locations(kind, group) if location.at >= since)
            if newest is not None:
                locations = locations[max(0, len(locations) - newest) :]
            return [self._read_record(file, kind, location) for location in locations]

    def list_notes(self, kind: JournalKind[Any], group: str | None = None, since: str = "") -> list[Any]:
        """The notes of records at or after a time."""
        with self._open_current():
            return [location.note for location in self._locations(kind, group) if location.at >= since]

    def count_records(self, kind: JournalKind[Any]) -> int:
        """The number of records of a kind."""
        with self._open_current():
            return sum(map(len, self._indexes[kind.name].groups.values()))

    def read_page(self, kind: JournalKind[R], after: int, size: int) -> tuple[list[R], int]:
        """Up to `size` records in the order in which they were written, and the offset to continue after."""
        with self._open_current() as file:
            locations = sorted(
                (location.offset, location) for location in self._locations(kind, None) if location.offset > after
            )[:size]
            return [self._read_record(file, kind, location) for _, location in locations], locations[-1][
                0
            ] if locations else after

    def _locations(self, kind: JournalKind[Any], group: str | None) -> Iterator[RecordLocation]:
        groups = self._indexes[kind.name].groups
        for chosen in groups.values() if group is None else (groups.get(group, {}),):
            yield from chosen.values()

    def _read_record(self, file: FileIO, kind: JournalKind[R], location: RecordLocation) -> R:
        file.seek(location.offset)
        try:
            record = getattr(_decode(file.read(location.length)), kind.name)
        except msgspec.DecodeError:
            record = None
        if record is None:
            self._reset(-1, b"")  # the next call indexes the file as it is now
            raise StorageError(
                f"{self.path} was changed by another program.",
                "Try again; stop chora before editing it by hand.",
                storage_path=str(self.path),
            )
        return cast(R, record)

    @contextmanager
    def _open_current(self) -> Generator[FileIO]:
        """Open the file, with everything indexed that was written to it up to now."""
        with self._lock:
            try:
                file = FileIO(open_file(self.path))  # unbuffered: most reads are of one line
                is_there = True
            except FileNotFoundError:
                self._reset(-1, b"")
                file, is_there = FileIO(os.devnull), False
            with file:
                if is_there:
                    self._catch_up(file)
                yield file

    def _catch_up(self, file: FileIO) -> None:
        status = os.fstat(file.fileno())
        # A rewritten file may reuse an inode number, but never the first line.
        if status.st_ino != self._inode or status.st_size < self._end or file.read(len(self._head)) != self._head:
            file.seek(0)
            self._reset(status.st_ino, file.readline(HEAD_LENGTH))
        if status.st_size > self._end:
            file.seek(self._end)
            lines = BufferedReader(file)
            for line in lines:
                if not line.endswith(b"\n"):  # incomplete
                    break
                self._index_line(line)
                self._end += len(line)
            lines.detach()

    def _index_line(self, line: bytes) -> None:
        location = RecordLocation("", self._end, len(line), None)
        if not line.strip():
            self._open_transaction.clear()  # a process was killed in the middle of a transaction
            return
        try:
            entry = _decode(line)
            if entry in (_JournalLine(), _JournalLine(more=True)):
                raise msgspec.ValidationError("it holds no record")
        except msgspec.DecodeError as error:
            self._open_transaction.clear()
            self._damaged.append(location)
            self._live_bytes += location.length
            if line not in self._reported:
                self._reported.add(line)
                log.warning("a line of %s can't be decoded; it is ignored and left in the file: %s", self.path, error)
            return
        self._open_transaction.append((entry, location))
        if not entry.more:
            for earlier_entry, earlier_location in self._open_transaction:
                self._apply_line(earlier_entry, earlier_location)
            self._open_transaction.clear()

    def _apply_line(self, entry: _JournalLine, location: RecordLocation) -> None:
        for name, kind in self._kinds.items():
            if (record := getattr(entry, name)) is not None:
                self._index_record(kind, record, location)
            index = self._indexes[name]
            for key in entry.gone:
                self._unindex(index, (key,))
            if entry.forgotten:
                for key, group in list(index.group_of.items()):
                    if index.groups[group][key].at < entry.forgotten:
                        self._unindex(index, key)

    def _index_record(self, kind: JournalKind[Any], record: Record, location: RecordLocation) -> None:
        index = self._indexes[kind.name]
        key: RecordKey = tuple(getattr(record, name) for name in kind.key) or (location.offset,)
        self._unindex(index, key)
        group = index.group_of[key] = getattr(record, kind.group) if kind.group else ""
        members = index.groups.setdefault(group, {})
        note = getattr(record, kind.note) if kind.note else None
        members[key] = RecordLocation(getattr(record, kind.at), location.offset, location.length, note)
        self._live_bytes += location.length
        if kind.kept is not None and len(members) > kind.kept:
            self._unindex(index, min(members, key=members.__getitem__))

    def _unindex(self, index: _KindIndex, key: RecordKey) -> None:
        if (group := index.group_of.pop(key, None)) is not None:
            self._live_bytes -= index.groups[group].pop(key).length
            if not index.groups[group]:
                del index.groups[group]

    # -- writing, under the store's lock --

    def add_records(self, records: Iterable[Record]) -> None:
        """Write records in one transaction; one with the key of another replaces it."""
        self._append_lines(
            [msgspec.structs.replace(_JournalLine(), **{self.records[type(record)]: record}) for record in records]
        )

    def delete_records(self, keys: Sequence[str]) -> None:
        """Delete records."""
        if keys:
            self._append_lines([_JournalLine(gone=list(keys))])

    def delete_before(self, before: str) -> int:
        """Delete all records from before a time; returns their number."""
        with self._open_current():
            old = sum(location.at < before for kind in self._kinds.values() for location in self._locations(kind, None))
        if old:
            self._append_lines([_JournalLine(forgotten=before)])
        return old

    def _append_lines(self, lines: list[_JournalLine]) -> None:
        if not lines:
            return
        *more, last = lines
        data = b"".join(
            [*(_encode(msgspec.structs.replace(line, more=True)) + b"\n" for line in more), _encode(last) + b"\n"]
        )
        with self._open_current() as file:
            is_there = self._inode != -1
            is_torn = is_there and os.fstat(file.fileno()).st_size > self._end
            # What a killed process left of its transaction must not become the beginning of ours.
            between = b"#\n" if is_torn else b"\n" if self._open_transaction else b""
        if not is_there:
            replace_file(self.path, [self._new_first_line(), data])
            return
        append_to_file(self.path, between + data)
        with self._open_current():
            is_outdated = self._end - self._live_bytes > COMPACTION_SLACK + self._live_bytes
        if is_outdated:
            self._compact()

    def _new_first_line(self) -> bytes:
        return _encode(_JournalLine(journal=f"{self.path.stem} {secrets.token_hex(8)}")) + b"\n"

    def _compact(self) -> None:
        """Rewrite the file without outdated lines."""
        with self._open_current() as file:
            locations = sorted(
                [
                    *self._damaged,
                    *(location for kind in self._kinds.values() for location in self._locations(kind, None)),
                ],
                key=lambda location: location.offset,
            )
            damaged = {location.offset for location in self._damaged}

            def lines() -> Iterator[bytes]:
                yield self._new_first_line()
                for location in locations:
                    file.seek(location.offset)
                    line = file.read(location.length)
                    yield line if location.offset in damaged else _as_own_transaction(line)

            with contextlib.suppress(PermissionError):  # Windows, while another process reads it; a later write retries
                replace_file(self.path, lines())


def _as_own_transaction(line: bytes) -> bytes:
    """A line as a transaction of its own."""
    return _encode(msgspec.structs.replace(_decode(line), more=False)) + b"\n"
