"""What the code below the protocol may know about the request it works for, as context variables."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple


class Caller(NamedTuple):
    """Whose share of limited resources the work uses up."""

    principal: str
    session: str
    """One of the principal's sessions; the principal's name for requests without one."""


caller: ContextVar[Caller] = ContextVar("caller", default=Caller("local", "local"))  # noqa: B039  (it is immutable)

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""The trace that the request belongs to."""

event_listener: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("event_listener", default=None)
"""Called with each event that is emitted while the request is worked on, for a client that asked for log messages."""
