"""Traces: what earlier builds read and what they gave, so that an unchanged build does nothing.

A trace saves work and proves nothing: each of its inputs is compared before its result is used. New traces are stored
in the background, and a lost one costs a rebuild.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import trio

from chora.engine.file_digests import FileDigests
from chora.errors import ChoraError
from chora.file_stamps import FileStamp
from chora.store.records import Trace
from chora.store.store import Store
from chora.timestamps import now

log = logging.getLogger("chora.engine")

R = TypeVar("R", bound=msgspec.Struct)

TRACES_IN_MEMORY = 50_000
RECENT = 20
"""Traces of one subject that are looked at for the one that is most like another key."""
SAVE_INTERVAL = 0.2
"""Seconds for which new traces are collected before they are stored."""


class TraceKey(NamedTuple):
    """What was built, and a hash of all that decides the result besides its inputs."""

    subject: str
    key: str


class KnownTrace(NamedTuple, Generic[R]):
    """A trace in memory."""

    inputs: dict[str, str]
    result: R
    at: str


class Traces:
    """The traces of one project, in memory and in the store.

    Results are Structs. A stored one that doesn't fit its Struct, because another version of chora wrote it, is as good
    as none.
    """

    def __init__(self, store: Store, digests: FileDigests) -> None:
        self._store = store
        self._digests = digests
        self._known: OrderedDict[TraceKey, KnownTrace[Any]] = OrderedDict()
        self._unsaved: dict[TraceKey, KnownTrace[Any]] = {}
        self._being_saved: dict[TraceKey, KnownTrace[Any]] = {}
        """Those that the store doesn't have yet, but is writing."""
        self._added = trio.Event()

    def find_trace(self, key: TraceKey, result_type: type[R]) -> KnownTrace[R] | None:
        """The trace of a subject under a key, from memory or the store."""
        if (known := self._known.get(key)) is not None:
            return known
        record = self._store.trace(*key)
        if record is None:
            return None
        try:
            result = msgspec.convert(record.result, result_type)
        except msgspec.ValidationError as error:
            log.debug("the trace of %s can't be decoded and is ignored: %s", key.subject, error)
            return None
        inputs: dict[str, str] = {}
        for name, (digest, *stamp) in record.seen.items():
            inputs[name] = digest
            if stamp:
                self._digests.remember(name, FileStamp(*stamp), digest)
        known = KnownTrace(inputs, result, record.at)
        self._remember(key, known)
        return known

    def latest_trace(self, subject: str, result_type: type[R]) -> KnownTrace[R] | None:
        """The newest trace of a subject, under whatever key."""
        for newest in (self._unsaved, self._being_saved):
            if unsaved := [known for key, known in newest.items() if key.subject == subject]:
                return unsaved[-1]
        records = self._store.traces(subject)
        return self.find_trace(TraceKey(subject, records[0].key), result_type) if records else None

    def recent_traces(self, subject: str, result_type: type[R]) -> list[KnownTrace[R]]:
        """The traces of a subject under all keys that are remembered, the newest first; at most `RECENT`."""
        found: dict[TraceKey, KnownTrace[R]] = {}
        for newest in (self._unsaved, self._being_saved):
            found |= {key: known for key, known in reversed(newest.items()) if key.subject == subject}
        for record in self._store.traces(subject)[:RECENT]:
            key = TraceKey(subject, record.key)
            if key not in found and (known := self.find_trace(key, result_type)) is not None:
                found[key] = known
        return list(found.values())[:RECENT]

    def add_trace(self, key: TraceKey, inputs: dict[str, str], result: msgspec.Struct) -> None:
        """Keep what a build read and what it gave."""
        known = KnownTrace(inputs, result, now())
        self._remember(key, known)
        self._unsaved[key] = known
        self._added.set()

    def _remember(self, key: TraceKey, known: KnownTrace[Any]) -> None:
        self._known[key] = known
        if len(self._known) > TRACES_IN_MEMORY:
            self._known.popitem(last=False)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: stores new traces every now and then, and the rest when it is cancelled."""
        task_status.started()
        try:
            while True:
                await self._added.wait()
                await trio.sleep(SAVE_INTERVAL)
                await self.save_traces()
        finally:
            with trio.CancelScope(shield=True):
                await self.save_traces()

    async def save_traces(self) -> None:
        """Store the new traces."""
        self._added = trio.Event()
        unsaved, self._unsaved = self._unsaved, {}
        if unsaved:
            self._being_saved = unsaved
            try:
                await self._store.save_traces([self._record_of(key, known) for key, known in unsaved.items()])
            except ChoraError as error:
                log.warning("the traces of the last build couldn't be stored: %s", error.message)
            except trio.Cancelled:
                self._unsaved = unsaved | self._unsaved  # the process ends: they are stored with the rest
                raise
            finally:
                self._being_saved = {}

    def _record_of(self, key: TraceKey, known: KnownTrace[Any]) -> Trace:
        return Trace(
            subject=key.subject,
            key=key.key,
            seen={
                name: [digest, *(self._digests.stamp_of(name, digest) or ())] for name, digest in known.inputs.items()
            },
            result=msgspec.to_builtins(known.result),
            at=known.at,
        )
