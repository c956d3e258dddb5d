"""The status of a server, as the pages show it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

ServerState = Literal["starting", "ready", "draining", "failing"]


class ServerStatus(Struct, frozen=True, kw_only=True):
    """A snapshot of the status."""

    version: str
    state: ServerState
    reasons: list[str]
    uptime_seconds: float
    uptime: dict[str, Any]
    """The probe of the last seven days: samples, how many were up, the percentage, the last sample."""
    latency: dict[str, Any]
    """The benchmarker: p50, p95 and p99 of its last round in milliseconds, and loop lag."""
    calls: dict[str, int]
    """Tool calls by outcome."""
    sessions: dict[str, int]
    store: dict[str, Any]
    build: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)
