"""What happened, as JSON lines and as rows of the store.

Telling must never fail the work, so a full disk, a missing folder or a broken store is said once in the log and no
more. The line is written at once; the row follows in the background, together with others.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import deque
from pathlib import Path
from typing import Any, cast

import msgspec
import trio

from chora import this_process
from chora.errors import StorageError
from chora.request_context import event_listener, trace_id
from chora.secrets import redact
from chora.store.records import Event
from chora.store.store import Store
from chora.timestamps import now, printable

log = logging.getLogger("chora.events")

SCHEMA_VERSION = "1.0"
"""Of the lines; the first number changes when a reader of the old ones would misunderstand."""

ROWS_LIMIT = 10_000
"""Rows that may wait for the store; the file has those that don't fit."""
BATCH = 500
PAUSE = 0.2
"""Seconds for which rows are gathered before they are stored together."""
PATIENCE = 5.0
"""Seconds that the store may take for a batch."""

# Never waits: whoever sends events to a pipe that nobody reads loses them.
_APPEND = os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Events:
    """The events of one project.

    Args:
        path: their file; None writes none.
    """

    def __init__(self, path: Path | None) -> None:
        self.dropped = 0
        """Rows that the store never got."""
        self._path = path
        self._complained = False
        self._may_be_torn = True  # a process killed, or a disk full, in the middle of a line left no end of it
        self._rows: deque[Event] = deque()
        self._arrived: trio.Event | None = None
        self._rows_complained = False

    def emit(self, kind: str, status: str, **facts: Any) -> None:
        """Tell of one event, `chora.<kind>`, with the time and the trace it belongs to.

        The trace is the fact `trace_id` if there is one, else the request's, else `CHORA_TRACE_ID`. Of a fact
        `context` only what is no secret is told.
        """
        if "context" in facts:
            facts["context"] = redacted(facts["context"])
        event = {
            "timestamp": now(),
            "trace_id": trace_id.get() or this_process.trace_id(),
            "event_type": f"chora.{kind}",
            "schema_version": SCHEMA_VERSION,
            "status": status,
            **facts,
        }
        plain = {key: printable(redact(value)) if isinstance(value, str) else value for key, value in event.items()}
        if (hear := event_listener.get()) is not None:
            hear(plain)
        if self._path is not None:
            self._write(self._path, msgspec.json.encode(plain) + b"\n")
        if self._arrived is not None:
            self._keep(plain, list(facts))

    # -- lines ----------------------------------------------------------------------------------------------

    def _write(self, path: Path, line: bytes) -> None:
        try:
            self._append(path, line)
        except OSError as error:
            if not self._complained:
                log.warning("events are not being written to %s: %s", path, error.strerror)
            self._complained = True
        else:
            self._complained = False

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, _APPEND | (os.O_RDWR if self._may_be_torn else os.O_WRONLY), 0o644)
        try:
            if self._may_be_torn and os.fstat(descriptor).st_size:
                os.lseek(descriptor, -1, os.SEEK_END)
                if os.read(descriptor, 1) != b"\n":
                    line = b"\n" + line
            # One write on an appending descriptor: lines of several processes don't mix.
            self._may_be_torn = os.write(descriptor, line) < len(line)
            if self._may_be_torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    # -- rows -----------------------------------------------------------------------------------------------

    async def serve(self, store: Store, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: stores what is told from now on; when cancelled, first what is waiting."""
        self._arrived = trio.Event()
        task_status.started()
        try:
            while True:
                await self._arrived.wait()
                await trio.sleep(PAUSE)
                self._arrived = trio.Event()
                await self._store_rows(store)
        finally:
            self._arrived = None
            await self._store_rows(store)

    def _keep(self, plain: dict[str, Any], facts: list[str]) -> None:
        assert self._arrived is not None
        if len(self._rows) >= ROWS_LIMIT:
            self._drop(1, "too many wait to be stored")
            return
        row = Event(
            at=plain["timestamp"],
            kind=plain["event_type"],
            status=plain["status"],
            trace_id=plain["trace_id"],
            facts={key: plain[key] for key in facts if key != "trace_id"},
        )
        self._rows.append(row)
        self._arrived.set()

    async def _store_rows(self, store: Store) -> None:
        while self._rows:
            batch = [self._rows.popleft() for _ in range(min(BATCH, len(self._rows)))]
            # Shielded, or a batch under way when everything ends would be neither here nor there.
            with trio.move_on_after(PATIENCE, shield=True) as patience:
                try:
                    await store.add_events(batch)
                except StorageError as error:
                    self._drop(len(batch), error.message)
                else:
                    self._rows_complained = False
            if patience.cancelled_caught:
                self._drop(len(batch) + len(self._rows), "the store takes too long")
                self._rows.clear()

    def _drop(self, count: int, reason: str) -> None:
        self.dropped += count
        if not self._rows_complained:
            log.warning("events are missing from the store: %s", reason)
        self._rows_complained = True


# -- secrets ----------------------------------------------------------------------------------------------------

HIDDEN = "***"
DEEPEST = 64
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET = re.compile(
    r"(api|access|auth|private|secret|signing|encryption)?keys?|(access|auth|refresh|bearer|id)?tokens?"
    r"|(client)?secrets?|passwords?|credentials?|authorization"
)


def redacted(data: Any, depth: int = 0) -> Any:
    """The same data with `***` for every value whose key says that it is a secret, at any depth.

    A key says so by one of its words: `api_key`, `accessToken`, `DB-PASSWORD`, and not `monkey`. Numbers under
    plurals, such as `max_tokens`, are counts and stay. What lies deeper than 64 levels is hidden too.
    """
    if isinstance(data, dict):
        if depth >= DEEPEST:
            return HIDDEN
        record = cast("dict[Any, Any]", data)
        return {
            key: HIDDEN if _is_secret(str(key), value) else redacted(value, depth + 1) for key, value in record.items()
        }
    if isinstance(data, list | tuple):
        return HIDDEN if depth >= DEEPEST else [redacted(each, depth + 1) for each in cast("list[Any]", data)]
    return data


def _is_secret(key: str, value: Any) -> bool:
    found = [word for word in (part.lower() for part in _WORDS.findall(key)) if _SECRET.fullmatch(word)]
    counted = isinstance(value, int | float) and not isinstance(value, bool)
    return any(not (counted and word.endswith("s")) for word in found)
