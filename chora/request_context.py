"""What the code below the protocol may know about the request it works for, as context variables."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

caller: ContextVar[str] = ContextVar("caller", default="local")
"""Whose share of limited resources the work uses up: a session, or a principal without one."""

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""The trace that the request belongs to."""

event_listener: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("event_listener", default=None)
"""Called with each event that is emitted while the request is worked on, for a client that asked for log messages."""
