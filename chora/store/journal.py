"""A file of JSON lines that is only appended to: the last line about a record counts.

Lines look like `{"job": {…}}`. Those of one step that is written all or not at all say `"more": true` but for the
last one. `{"gone": […]}` takes records back, `{"forgotten": "2026-…"}` all from before a time. What is no longer
true is left out when the file has grown to more than twice of what is; lines that can't be understood are kept.
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

from chora.disk import append, replace
from chora.errors import StorageError
from chora.store.records import Completion, Cost, Event, Job, Output, Record, Sample, Trace
from chora.store.store import TRACES_KEPT

log = logging.getLogger("chora.store")

R = TypeVar("R", bound=Record)
Key = tuple[str | int, ...]

SLACK = 1024 * 1024
"""Bytes of outdated lines that aren't worth writing a file anew."""
HEAD = 200
"""Bytes that the first line may have; it tells a file that was written anew."""


class JournalKind(NamedTuple, Generic[R]):
    """By which fields records of a kind are told apart, found together, and ordered."""

    name: str
    record: type[R]
    key: tuple[str, ...] = ()
    """Its identity; empty where there is none."""
    group: str = ""
    at: str = "at"
    note: str = ""
    """What is kept in memory of each, so that adding up needs no reading."""
    kept: int | None = None
    """How many of a group stay, the newest."""


OUTPUTS = JournalKind("output", Output, ("path",), group="artifact_id", at="path")
TRACES = JournalKind("trace", Trace, ("subject", "key"), group="subject", kept=TRACES_KEPT)
JOBS = JournalKind("job", Job, ("job_id",), at="created_at")
COMPLETIONS = JournalKind("completion", Completion, ("key",))
COSTS = JournalKind("cost", Cost, note="usd")
SAMPLES = JournalKind("sample", Sample, group="kind", note="ok")
EVENTS = JournalKind("event", Event)


class _Line(Struct, frozen=True, omit_defaults=True):
    """Whatever a line may say."""

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
_decode = msgspec.json.Decoder(_Line).decode


class Spot(NamedTuple):
    """Where a record stands in the file, and what is known of it without reading."""

    at: str
    offset: int
    length: int
    note: Any


class _Index:
    """The spots of one kind, by group and key, in the order in which they were written."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[Key, Spot]] = {}
        self.group_of: dict[Key, str] = {}


class Journal:
    """One file with the records of some kinds.

    Reading is quick and inline; who writes holds the store's turn. What other processes write is noticed, because
    every reading opens the file and looks at what was added.

    Args:
        path: the file; it is made by the first record.
        kinds: what may stand in it.
    """

    def __init__(self, path: Path, *kinds: JournalKind[Any]) -> None:
        self.path = path
        self._kinds = {kind.name: kind for kind in kinds}
        self.records: dict[type[Record], str] = {kind.record: kind.name for kind in kinds}
        self._guard = threading.Lock()  # a writer's thread and the loop both look
        self._told: set[bytes] = set()
        self._reset(-1, b"")

    def _reset(self, node: int, head: bytes) -> None:
        self._node = node
        self._head = head
        self._end = 0
        """Up to here everything was taken in; beyond it there may be a line that isn't whole yet."""
        self._open_step: list[tuple[_Line, Spot]] = []
        self._damaged: list[Spot] = []
        self._live = 0
        self._shelves = {name: _Index() for name in self._kinds}

    # -- reading --

    def find(self, kind: JournalKind[R], key: Key) -> R | None:
        """The record of this identity."""
        with self._opened() as file:
            shelf = self._shelves[kind.name]
            group = shelf.group_of.get(key)
            return None if group is None else self._record(file, kind, shelf.groups[group][key])

    def all(
        self, kind: JournalKind[R], group: str | None = None, since: str = "", *, newest: int | None = None
    ) -> list[R]:
        """Records by time, and of the same time as they were written; with `newest` only so many of the last."""
        with self._opened() as file:
            spots = sorted(spot for spot in self._spots(kind, group) if spot.at >= since)
            if newest is not None:
                spots = spots[max(0, len(spots) - newest) :]
            return [self._record(file, kind, spot) for spot in spots]

    def notes(self, kind: JournalKind[Any], group: str | None = None, since: str = "") -> list[Any]:
        """What is kept in memory of records at or after a time."""
        with self._opened():
            return [spot.note for spot in self._spots(kind, group) if spot.at >= since]

    def count(self, kind: JournalKind[Any]) -> int:
        """How many records there are of a kind."""
        with self._opened():
            return sum(map(len, self._shelves[kind.name].groups.values()))

    def page(self, kind: JournalKind[R], after: int, size: int) -> tuple[list[R], int]:
        """Some records in the order in which they were written, and where to go on."""
        with self._opened() as file:
            spots = sorted((spot.offset, spot) for spot in self._spots(kind, None) if spot.offset > after)[:size]
            return [self._record(file, kind, spot) for _, spot in spots], spots[-1][0] if spots else after

    def _spots(self, kind: JournalKind[Any], group: str | None) -> Iterator[Spot]:
        groups = self._shelves[kind.name].groups
        for chosen in groups.values() if group is None else (groups.get(group, {}),):
            yield from chosen.values()

    def _record(self, file: FileIO, kind: JournalKind[R], spot: Spot) -> R:
        file.seek(spot.offset)
        try:
            record = getattr(_decode(file.read(spot.length)), kind.name)
        except (msgspec.DecodeError, RecursionError):
            record = None
        if record is None:
            self._reset(-1, b"")  # so that whoever asks again is answered by what stands there now
            raise StorageError(
                f"{self.path} was changed by another program.",
                "Try again; if a person edits it, let chora not run meanwhile.",
                storage_path=str(self.path),
            )
        return cast(R, record)

    @contextmanager
    def _opened(self) -> Generator[FileIO]:
        """The file, with everything taken in that was written to it up to now."""
        with self._guard:
            try:
                file = FileIO(self.path)  # not buffered: most readings are of one line
            except FileNotFoundError:
                self._reset(-1, b"")
                file = FileIO(os.devnull)
            with file:
                if file.name != os.devnull:
                    self._catch_up(file)
                yield file

    def _catch_up(self, file: FileIO) -> None:
        status = os.fstat(file.fileno())
        # A file that was written anew may have got the number of one that we knew, but never its first line.
        if status.st_ino != self._node or status.st_size < self._end or file.read(len(self._head)) != self._head:
            file.seek(0)
            self._reset(status.st_ino, file.readline(HEAD))
        if status.st_size > self._end:
            file.seek(self._end)
            lines = BufferedReader(file)
            for line in lines:
                if not line.endswith(b"\n"):  # not whole yet, or never
                    break
                self._take(line)
                self._end += len(line)
            lines.detach()

    def _take(self, line: bytes) -> None:
        spot = Spot("", self._end, len(line), None)
        if not line.strip():
            self._open_step.clear()  # a process was ended in the middle of it
            return
        try:
            said = _decode(line)
            if said in (_Line(), _Line(more=True)):
                raise msgspec.ValidationError("it says nothing that belongs here")
        except (msgspec.DecodeError, RecursionError) as error:
            self._open_step.clear()
            self._damaged.append(spot)
            self._live += spot.length
            if line not in self._told:
                self._told.add(line)
                log.warning("%s holds a line that is left out and kept as it is: %s", self.path, error)
            return
        self._open_step.append((said, spot))
        if not said.more:
            for each, where in self._open_step:
                self._apply(each, where)
            self._open_step.clear()

    def _apply(self, said: _Line, spot: Spot) -> None:
        for name, kind in self._kinds.items():
            if (record := getattr(said, name)) is not None:
                self._put(kind, record, spot)
            shelf = self._shelves[name]
            for key in said.gone:
                self._drop(shelf, (key,))
            if said.forgotten:
                for key, group in list(shelf.group_of.items()):
                    if shelf.groups[group][key].at < said.forgotten:
                        self._drop(shelf, key)

    def _put(self, kind: JournalKind[Any], record: Record, spot: Spot) -> None:
        shelf = self._shelves[kind.name]
        key: Key = tuple(getattr(record, name) for name in kind.key) or (spot.offset,)
        self._drop(shelf, key)
        group = shelf.group_of[key] = getattr(record, kind.group) if kind.group else ""
        members = shelf.groups.setdefault(group, {})
        note = getattr(record, kind.note) if kind.note else None
        members[key] = Spot(getattr(record, kind.at), spot.offset, spot.length, note)
        self._live += spot.length
        if kind.kept is not None and len(members) > kind.kept:
            self._drop(shelf, min(members, key=members.__getitem__))

    def _drop(self, shelf: _Index, key: Key) -> None:
        if (group := shelf.group_of.pop(key, None)) is not None:
            self._live -= shelf.groups[group].pop(key).length
            if not shelf.groups[group]:
                del shelf.groups[group]

    # -- writing, in one's turn --

    def add(self, records: Iterable[Record]) -> None:
        """Write records in one step, over those of the same identity."""
        self._append([msgspec.structs.replace(_Line(), **{self.records[type(record)]: record}) for record in records])

    def drop(self, keys: Sequence[str]) -> None:
        """Take records back."""
        if keys:
            self._append([_Line(gone=list(keys))])

    def forget(self, before: str) -> int:
        """Take back all from before a time; returns how many."""
        with self._opened():
            old = sum(spot.at < before for kind in self._kinds.values() for spot in self._spots(kind, None))
        if old:
            self._append([_Line(forgotten=before)])
        return old

    def _append(self, lines: list[_Line]) -> None:
        if not lines:
            return
        *more, last = lines
        data = b"".join(
            [*(_encode(msgspec.structs.replace(line, more=True)) + b"\n" for line in more), _encode(last) + b"\n"]
        )
        with self._opened() as file:
            is_there = self._node != -1
            is_torn = is_there and os.fstat(file.fileno()).st_size > self._end
            # What a process that was ended left of its last step must not become the beginning of ours.
            between = b"#\n" if is_torn else b"\n" if self._open_step else b""
        if not is_there:
            replace(self.path, [self._new_head(), data])
            return
        append(self.path, between + data)
        with self._opened():
            is_outdated = self._end - self._live > SLACK + self._live
        if is_outdated:
            self._write_anew()

    def _new_head(self) -> bytes:
        return _encode(_Line(journal=f"{self.path.stem} {secrets.token_hex(8)}")) + b"\n"

    def _write_anew(self) -> None:
        """Leave out what is no longer true."""
        with self._opened() as file:
            spots = sorted(
                [*self._damaged, *(spot for kind in self._kinds.values() for spot in self._spots(kind, None))],
                key=lambda spot: spot.offset,
            )
            damaged = {spot.offset for spot in self._damaged}

            def lines() -> Iterator[bytes]:
                yield self._new_head()
                for spot in spots:
                    file.seek(spot.offset)
                    line = file.read(spot.length)
                    yield line if spot.offset in damaged else _alone(line)

            with contextlib.suppress(PermissionError):  # on Windows, while another process reads it: another time
                replace(self.path, lines())


def _alone(line: bytes) -> bytes:
    """A line as it stands where it is a step of its own."""
    return _encode(msgspec.structs.replace(_decode(line), more=False)) + b"\n"
