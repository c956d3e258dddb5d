"""The health status of this process: what /health, /ready, /metrics and the status page show."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from chora import __version__, this_process
from chora.audit import AuditLog
from chora.errors import ChoraError, StorageError, without_folders
from chora.supervision import Supervisor
from chora.watch.uptime import measure_uptime
from chora.web.status import ServerState, ServerStatus
from chora.wording import quantity

if TYPE_CHECKING:
    from chora.metrics import Metrics
    from chora.store import Store
    from chora.transport.http_server import HttpServer

WRITE_CHECK_INTERVAL = 2.0
"""Seconds for which the last write answers whether the store can be written to."""
WATCH_INTERVAL = 5.0
"""Seconds between two looks at the readiness while nobody asks for it."""
STOPPING = "The server is stopping."
OUTPUTS_TIMEOUT = 2.0
"""Seconds for which the disks of the outputs are waited for; until a thread that hangs there ends, none is added."""


class HealthStatus:
    """Collects the status of one server process.

    Args:
        store: the store of the project.
        metrics: where calls and sessions are counted.
        supervisor: knows which services fail; that is a reason of its own, but doesn't make the server less ready.
        check_outputs: raises StorageError if a disk of outputs is full; runs in a thread.
        audit: where changes of readiness are recorded.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        supervisor: Supervisor | None = None,
        check_outputs: Callable[[], None] | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._supervisor = supervisor or Supervisor()
        self._check_outputs = check_outputs
        self._output_checks = trio.CapacityLimiter(1)
        self._audit = audit or AuditLog()
        self._started = time.monotonic()
        self.state: ServerState = "starting"
        self.http_server: HttpServer | None = None

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        if self.http_server is not None:
            connections = self.http_server.statistics()
            self._metrics.connections.set(connections.open)
            for reason, count in connections.aborted.items():
                self._metrics.connections_killed.set(count, reason)
            memory = self.http_server.memory
            held = sum(memory.held.values())
            self._metrics.held_bytes.set(held, "requests")
            self._metrics.held_bytes.set(memory.total - held, "sessions")
        return self._metrics.exposition()

    def uptime_seconds(self) -> float:
        """Seconds since the process began."""
        return time.monotonic() - self._started

    async def watch_readiness(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: looks now and then, so that changes of readiness are recorded although nobody asks."""
        task_status.started()
        while True:
            await self.readiness(within=math.inf)  # no writing just to look, unless the last write failed
            await trio.sleep(WATCH_INTERVAL)

    def begin_draining(self) -> None:
        """The server is stopping from now on."""
        self.state = "draining"
        self._audit.record_readiness(self.state, [STOPPING])

    async def readiness(self, *, within: float = WRITE_CHECK_INTERVAL) -> tuple[ServerState, list[str]]:
        """Whether calls would be served now, and the reasons.

        Args:
            within: seconds for which the last write answers whether the store can be written to; else that is tried.
        """
        faults: list[str] = []
        try:
            await self._store.check(within=within)
        except ChoraError as error:
            faults.append(error.message)
        if (fault := await self._why_no_outputs()) is not None:
            faults.append(fault)
        state = "failing" if faults and self.state == "ready" else self.state
        reasons = [*([STOPPING] if state == "draining" else []), *faults, *self._supervisor.reasons]
        self._audit.record_readiness(state, reasons)
        return state, reasons

    async def status_line(self) -> str:
        """The status now in a few words, for `systemctl status`."""
        state, reasons = await self.readiness(within=math.inf)
        if reasons:
            return f"{state}: {' '.join(reasons)}"
        sessions = int(sum(self._metrics.sessions.values.values()))
        calls = int(sum(self._metrics.calls.values.values()))
        try:
            uptime = measure_uptime(self._store).percent
        except ChoraError as error:
            return f"{state}: {error.message}"
        up = "" if uptime is None else f", up {uptime:.2f} %"
        return f"{state}: {quantity(sessions, 'session')}, {quantity(calls, 'call')} since the start{up}"

    async def status(self) -> ServerStatus:
        """The status now, with what the store knows."""
        state, reasons = await self.readiness()
        store: dict[str, Any] = {
            "path": without_folders(str(self._store.path)),
            "versions": 0,
            "drafts": 0,
            "outputs": 0,
        }
        uptime: dict[str, Any] = {"samples": 0, "up": 0, "percent": None, "last": None}
        latency: dict[str, Any] = {}
        try:
            store |= await trio.to_thread.run_sync(self._store.counts)  # those of files are counted one by one
            uptime = _probe_results(self._store)
            latency = _last_benchmark(self._store)
        except ChoraError as error:
            state = "failing" if state == "ready" else state
            reasons = list(dict.fromkeys([*reasons, error.message]))
        calls: dict[str, int] = {}
        for (_, outcome), count in self._metrics.calls.values.items():
            calls[outcome] = calls.get(outcome, 0) + int(count)
        return ServerStatus(
            version=__version__,
            state=state,
            reasons=reasons,
            uptime_seconds=self.uptime_seconds(),
            uptime=uptime,
            latency=latency,
            calls=calls,
            sessions={labels[0]: int(count) for labels, count in self._metrics.sessions.values.items()},
            store=store,
            build={
                "python": platform.python_version(),
                "platform": sys.platform,
                "frozen": this_process.is_frozen(),
            },
        )

    async def _why_no_outputs(self) -> str | None:
        """Why outputs can't be written, as far as the disks tell."""
        if self._check_outputs is None:
            return None
        with trio.move_on_after(OUTPUTS_TIMEOUT):
            try:
                await trio.to_thread.run_sync(self._check_outputs, abandon_on_cancel=True, limiter=self._output_checks)
            except StorageError as error:
                return error.message
            return None
        return f"The disks of the outputs don't answer within {OUTPUTS_TIMEOUT:g} s."


def _probe_results(store: Store) -> dict[str, Any]:
    uptime = measure_uptime(store)
    last = msgspec.to_builtins(uptime.last) if uptime.last else None
    return {"samples": uptime.samples, "up": uptime.up, "percent": uptime.percent, "last": last}


def _last_benchmark(store: Store) -> dict[str, Any]:
    sample = store.last_sample("latency")
    return {"at": sample.at, "ok": sample.ok, **sample.facts} if sample else {}
