"""What happened, as JSON lines: one object per line, appended.

Telling must never fail the work, so a full disk or a missing folder is said once in the log and no more.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from chora import config
from chora.stamps import legible, now

log = logging.getLogger("chora.events")

# Never waits: whoever sends events to a pipe that nobody reads loses them.
_APPEND = os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Events:
    """The event file of one project; None tells nobody."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._complained = False
        self._may_be_torn = True  # a process killed, or a disk full, in the middle of a line left no end of it

    def emit(self, kind: str, status: str, **facts: Any) -> None:
        """Append one event, `chora.<kind>`, with the time and the trace it belongs to."""
        if self._path is None:
            return
        event = {
            "timestamp": now(),
            "trace_id": config.trace_id(),
            "event_type": f"chora.{kind}",
            "status": status,
            **facts,
        }
        plain = {key: legible(value) if isinstance(value, str) else value for key, value in event.items()}
        try:
            self._append(self._path, msgspec.json.encode(plain) + b"\n")
        except OSError as error:
            if not self._complained:
                log.warning("events are not being written to %s: %s", self._path, error.strerror)
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
