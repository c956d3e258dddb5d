"""What happened, as JSON lines: one object per line, appended.

Telling must never fail the work, so a full disk or a missing folder is said once in the log and no more.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from chora import config
from chora.stamps import now

log = logging.getLogger("chora.events")


class Events:
    """The event file of one project; None tells nobody."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._complained = False

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
        line = msgspec.json.encode(event) + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One write on an appending descriptor: lines of several processes don't mix.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._complained:
                log.warning("events are not being written to %s: %s", self._path, error.strerror)
            self._complained = True
        else:
            self._complained = False
