"""Events, as JSON lines in a file and as rows in the store.

An event must never fail the work that emits it, so a full disk, a missing folder or a failing store is logged once. The
line is written at once; the row is stored in the background, in batches.
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
from chora.nofollow import OpenFolder, open_folder
from chora.request_context import event_listener, trace_id
from chora.secrets import redact
from chora.store.records import Event
from chora.store.store import Store
from chora.timestamps import now
from chora.wording import printable

log = logging.getLogger("chora.events")

SCHEMA_VERSION = "1.0"
"""The version of the lines; the first number changes when readers of older lines would break."""

FILE_LIMIT = 16 * 1024 * 1024
"""Bytes from which on the event file is put aside and a new one begun."""
FILES_KEPT = 4
"""Event files that were put aside and are kept: `events.jsonl.1` is the newest."""
ROWS_LIMIT = 10_000
"""Rows that may wait for the store; others are in the file only."""
BATCH_ROWS = 500
BATCH_INTERVAL = 0.2
"""Seconds for which rows are collected before they are stored together."""
STORE_TIMEOUT = 5.0
"""Seconds until storing a batch is given up."""


class Events:
    """The events of one project.

    Args:
        path: the event file; None writes none.
    """

    def __init__(self, path: Path | None) -> None:
        self.dropped = 0
        """The number of rows that weren't stored."""
        self._path = path
        self._file_failing = False
        self._may_be_torn = True  # a killed process or a full disk may have left an incomplete line
        self._rows: deque[Event] = deque()
        self._rows_arrived: trio.Event | None = None
        self._store_failing = False

    def emit_event(self, kind: str, status: str, **facts: Any) -> None:
        """Emit the event `chora.<kind>` with the time and the trace id.

        The trace id is the fact `trace_id`, else that of the request, else `CHORA_TRACE_ID`. In a fact `context`,
        secrets are redacted (CWE-532).
        """
        if "context" in facts:
            facts["context"] = redact_secrets(facts["context"])
        event = {
            "timestamp": now(),
            "trace_id": trace_id.get() or this_process.trace_id(),
            "event_type": f"chora.{kind}",
            "schema_version": SCHEMA_VERSION,
            "status": status,
            **facts,
        }
        plain = {key: printable(redact(value)) if isinstance(value, str) else value for key, value in event.items()}
        if (listener := event_listener.get()) is not None:
            listener(plain)
        if self._path is not None:
            self._write_line(self._path, msgspec.json.encode(plain) + b"\n")
        if self._rows_arrived is not None:
            self._queue_row(plain, list(facts))

    # -- lines ----------------------------------------------------------------------------------------------

    def _write_line(self, path: Path, line: bytes) -> None:
        try:
            self._append_line(path, line)
        except OSError as error:
            if not self._file_failing:
                log.warning("events are not being written to %s: %s", path, error.strerror)
            self._file_failing = True
        else:
            self._file_failing = False

    def _append_line(self, path: Path, line: bytes) -> None:
        flags = os.O_CREAT | os.O_APPEND | (os.O_RDWR if self._may_be_torn else os.O_WRONLY)
        with open_folder(path.parent, make=True) as folder:
            status = folder.find_status(path.name)
            if status is not None and status.st_size >= FILE_LIMIT:
                self._put_aside(folder, path.name)
            descriptor = folder.open_file(path.name, flags)
        try:
            if self._may_be_torn and os.fstat(descriptor).st_size:
                os.lseek(descriptor, -1, os.SEEK_END)
                if os.read(descriptor, 1) != b"\n":
                    line = b"\n" + line
            # One write(2) with O_APPEND: lines of several processes don't interleave.
            self._may_be_torn = os.write(descriptor, line) < len(line)
            if self._may_be_torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    @staticmethod
    def _put_aside(folder: OpenFolder, name: str) -> None:
        """Rename the file and those before it; a line that another process is writing goes where the file goes."""
        for number in range(FILES_KEPT, 0, -1):
            before = name if number == 1 else f"{name}.{number - 1}"
            if folder.find_status(before) is not None:
                folder.replace(before, f"{name}.{number}")

    # -- rows -----------------------------------------------------------------------------------------------

    async def serve(self, store: Store, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: stores the events emitted from now on, and the waiting ones when it is cancelled."""
        self._rows_arrived = trio.Event()
        task_status.started()
        try:
            while True:
                await self._rows_arrived.wait()
                await trio.sleep(BATCH_INTERVAL)
                self._rows_arrived = trio.Event()
                await self._store_rows(store)
        finally:
            self._rows_arrived = None
            await self._store_rows(store)

    def _queue_row(self, plain: dict[str, Any], facts: list[str]) -> None:
        assert self._rows_arrived is not None
        if len(self._rows) >= ROWS_LIMIT:
            self._count_dropped(1, "too many are waiting to be stored")
            return
        row = Event(
            at=plain["timestamp"],
            kind=plain["event_type"],
            status=plain["status"],
            trace_id=plain["trace_id"],
            facts={key: plain[key] for key in facts if key != "trace_id"},
        )
        self._rows.append(row)
        self._rows_arrived.set()

    async def _store_rows(self, store: Store) -> None:
        while self._rows:
            batch = [self._rows.popleft() for _ in range(min(BATCH_ROWS, len(self._rows)))]
            # Shielded, or the batch being stored at shutdown would be lost.
            with trio.move_on_after(STORE_TIMEOUT, shield=True) as timeout:
                try:
                    await store.add_events(batch)
                except StorageError as error:
                    self._count_dropped(len(batch), error.message)
                else:
                    self._store_failing = False
            if timeout.cancelled_caught:
                self._count_dropped(len(batch) + len(self._rows), "the store takes too long")
                self._rows.clear()

    def _count_dropped(self, count: int, reason: str) -> None:
        self.dropped += count
        if not self._store_failing:
            log.warning("events are missing from the store: %s", reason)
        self._store_failing = True


# -- secrets ----------------------------------------------------------------------------------------------------

REDACTED_VALUE = "***"
DEPTH_LIMIT = 64
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET = re.compile(
    r"(api|access|auth|private|secret|signing|encryption)?keys?|(access|auth|refresh|bearer|id)?tokens?"
    r"|(client)?secrets?|passwords?|credentials?|authorization"
)


def redact_secrets(data: Any, depth: int = 0) -> Any:
    """The data with `***` for every value whose key names a secret, at any depth.

    One word of the key decides: `api_key`, `accessToken`, `DB-PASSWORD`, but not `monkey`. Numbers under plurals, such
    as `max_tokens`, are counts and stay. Values deeper than 64 levels are redacted, too.
    """
    if isinstance(data, dict):
        if depth >= DEPTH_LIMIT:
            return REDACTED_VALUE
        record = cast("dict[Any, Any]", data)
        return {
            key: REDACTED_VALUE if _is_secret_key(str(key), value) else redact_secrets(value, depth + 1)
            for key, value in record.items()
        }
    if isinstance(data, list | tuple):
        return (
            REDACTED_VALUE
            if depth >= DEPTH_LIMIT
            else [redact_secrets(each, depth + 1) for each in cast("list[Any]", data)]
        )
    return data


def _is_secret_key(key: str, value: Any) -> bool:
    found = [word for word in (part.lower() for part in _WORDS.findall(key)) if _SECRET.fullmatch(word)]
    counted = isinstance(value, int | float) and not isinstance(value, bool)
    return any(not (counted and word.endswith("s")) for word in found)
