"""The life of one process: what is opened in which order, what runs beside what, and how it ends.

open the store → start the template workers → [open the door → probe, benchmarker, housekeeping] → watcher → stdio
a signal or the end of stdin → close the door → finish the calls in flight → end the services → close the store
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import socket
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from chora import __version__, settings, this_process
from chora.access import Authenticator, Principal, Tokens
from chora.engine import retention
from chora.engine.engine import Engine, open_engine
from chora.errors import ChoraError, UsageError
from chora.metrics import Metrics
from chora.protocol.server import Server
from chora.provider import project_server
from chora.render import RenderFailed
from chora.render.pool import RenderPool
from chora.secrets import Secret, find_token
from chora.settings import LoadedSettings
from chora.shutdown import end_with_parent, stop_on_signals
from chora.store import Store, backup
from chora.timestamps import format_timestamp
from chora.tools import TOOLS
from chora.transport import stdio
from chora.transport.pipes import Pipes

if TYPE_CHECKING:
    from chora.transport.connection import Server as HttpServer
    from chora.watch.probe import Target
    from chora.web.status import State, Status

log = logging.getLogger("chora")

OWN_DESCRIPTORS = 160
"""Descriptors that aren't for connections: the store, workers, watches, and the last words to those sent away."""
CHECKED = 2.0
"""Seconds for which the last write answers whether the store can be written to."""


async def run_stdio(project: Path, loaded: LoadedSettings, pipes: Pipes) -> None:
    """MCP on stdin and stdout until the client or a signal ends it."""
    limits = loaded.settings.limits
    async with stop_on_signals(limits.grace) as stopping, open_engine(project, loaded.settings) as engine:
        server = project_server(engine, TOOLS, Metrics())
        engine.changes.subscribe(server.changed)
        async with trio.open_nursery() as services:
            services.start_soon(_watch_files, engine, server)
            services.start_soon(retention.serve, engine)
            await services.start(end_with_parent, stopping)
            await stdio.serve(server, pipes, limit=limits.body, grace=limits.grace, stopping=stopping)
            services.cancel_scope.cancel()


async def _watch_files(engine: Engine, server: Server) -> None:
    """A service: importing it can wait until somebody was answered."""
    await server.greeted.wait()
    from chora.watch import files

    await files.serve(engine, server)


class RunningServer(NamedTuple):
    """A server that listens."""

    url: str
    http: HttpServer
    target: Target
    engine: Engine
    server: Server


async def run_server(
    project: Path,
    loaded: LoadedSettings,
    *,
    pipes: Pipes | None = None,
    task_status: trio.TaskStatus[RunningServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP, and stdio too when given pipes, until a signal (or the end of stdin) ends it.

    Raises:
        UsageError: a door beyond loopback without a token, or an address that can't be bound.
        StorageError: the store can't be used.
    """
    # Only a server pays for these: importing them takes longer than all of stdio's start.
    from hypercorn.config import Config

    from chora.oauth import Issuer
    from chora.transport.connection import Bounds
    from chora.transport.connection import Server as HttpServer
    from chora.transport.http import HttpApplication
    from chora.watch import latency, probe
    from chora.web.pages import make_pages

    http, limits = loaded.settings.http, loaded.settings.limits
    found = find_token(reference=http.token)
    issuer = Issuer(loaded.settings.oauth) if loaded.settings.oauth.issuer else None
    tokens = Tokens(settings.tokens_folder(project))
    secret = found.secret if found else None
    gate = Authenticator(http.host, secret, tokens, trusted_proxies=http.trusted_proxies, elsewhere=issuer is not None)
    probe_token = Secret(secrets.token_urlsafe(32))
    gate.add_token(probe_token, Principal("probe", "read", routine=True))
    known = [found.origin] if found else []
    known += [f"{len(tokens.all())} named"] if tokens.in_use else []
    known += [f"those of {issuer.url}"] if issuer else []
    log.info("tokens: %s", ", ".join(known) or "none; only this machine can reach the server")

    metrics = Metrics()
    async with (
        stop_on_signals(limits.grace) as stopping,
        open_engine(project, loaded.settings) as engine,
        trio.open_nursery() as services,
    ):
        server = project_server(engine, TOOLS, metrics)
        engine.changes.subscribe(server.changed)
        life = HealthStatus(engine, metrics)
        door = HttpApplication(
            server, gate, http, limits, make_pages(life.status, life.uptime, life.exposition), metrics, issuer
        )
        listener = HttpServer(
            door,
            _hypercorn(Config(), http),
            Bounds(
                body=limits.body,
                header_time=limits.header_time,
                body_time=limits.body_time,
                write_stall=limits.write_stall,
                keep_alive=limits.keep_alive,
                connections=_affordable(limits.connections),
                grace=limits.grace,
            ),
        )
        life.listener = listener
        async with trio.open_nursery() as doors:
            url = await _listen(doors, listener, http)
            target = probe.Target(_reachable(url) + "/mcp", probe_token, http.cert)
            watched = loaded.settings.probe
            await services.start(door.serve, listener.draining)
            await services.start(partial(probe.serve, target, engine.store, metrics, interval=watched.interval))
            await services.start(
                partial(
                    latency.serve,
                    target,
                    engine.store,
                    metrics,
                    interval=watched.latency_interval,
                    calls=watched.latency_calls,
                )
            )
            services.start_soon(_warm, engine.templates.pool)
            if loaded.settings.backup.every:
                kept = loaded.settings.backup
                every = kept.every * 3600
                services.start_soon(
                    partial(backup.serve, engine.store, project / kept.folder, every=every, keep=kept.keep)
                )
            services.start_soon(_watch_files, engine, server)
            services.start_soon(retention.serve, engine)
            life.state = "ready"
            log.info("chora %s serves %s at %s", __version__, project, url)
            _notify_systemd("READY=1")
            task_status.started(RunningServer(url, listener, target, engine, server))

            if pipes is not None:
                await stdio.serve(server, pipes, limit=limits.body, grace=limits.grace, stopping=stopping)
            else:
                await stopping.wait()
            life.state = "draining"
            _notify_systemd("STOPPING=1")
            log.info("stopping: finishing the calls in flight")
            listener.stop()
        services.cancel_scope.cancel()
    log.info("stopped")


async def _warm(pool: RenderPool) -> None:
    """Have a template worker ready before somebody waits for it; without one, the first render will say why."""
    with contextlib.suppress(ChoraError, RenderFailed):
        await pool.warm()


class HealthStatus:
    """What the pages are told about this process."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._started = time.monotonic()
        self.state: State = "starting"
        self.listener: HttpServer | None = None

    def exposition(self) -> bytes:
        """What is counted, as Prometheus reads it."""
        if self.listener is not None:
            connections = self.listener.statistics()
            self._metrics.connections.set(connections.open)
            for reason, count in connections.killed.items():
                self._metrics.connections_killed.set(count, reason)
        return self._metrics.exposition()

    def uptime(self) -> float:
        """Seconds since the process began."""
        return time.monotonic() - self._started

    async def status(self) -> Status:
        """Look at everything, now."""
        from chora.web.status import Status

        state, reasons = self.state, list[str]()
        store: dict[str, Any] = {"path": str(self._engine.store.path), "versions": 0, "drafts": 0, "outputs": 0}
        uptime: dict[str, Any] = {"samples": 0, "up": 0, "last": None}
        latency: dict[str, Any] = {}
        if state == "draining":
            reasons.append("The server is stopping.")
        try:
            store |= self._engine.store.counts()
            uptime, latency = _watched(self._engine.store)
            await self._engine.store.check(within=CHECKED)
        except ChoraError as error:
            state = "failing" if state == "ready" else state
            reasons.append(error.message.replace(f"{self._engine.folder.root}{os.sep}", ""))  # anybody may read it
        calls: dict[str, int] = {}
        for (_, outcome), count in self._metrics.calls.values.items():
            calls[outcome] = calls.get(outcome, 0) + int(count)
        return Status(
            version=__version__,
            state=state,
            reasons=reasons,
            uptime_seconds=self.uptime(),
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


def _watched(store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    """What probe and benchmarker found in the last seven days."""
    since = format_timestamp(datetime.now(UTC) - timedelta(days=7))
    probes = store.sample_counts("probe", since)
    last_probe, last_round = store.last_sample("probe"), store.last_sample("latency")
    uptime = {
        "samples": probes.total,
        "up": probes.ok,
        "last": msgspec.to_builtins(last_probe) if last_probe else None,
    }
    latency = {"at": last_round.at, "ok": last_round.ok, **last_round.facts} if last_round else {}
    return uptime, latency


# -- the edges of a process -------------------------------------------------------------------------------------


def _affordable(connections: int) -> int:
    """As many connections as there are descriptors for, with enough left for everything else.

    A process without descriptors can't do anything any more, not even say so.
    """
    if sys.platform == "win32":
        return connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    affordable = max(1, soft - OWN_DESCRIPTORS)
    log.warning("limits.connections is lowered to %d: this process may have %d files open", affordable, soft)
    return affordable


def _hypercorn(settings: Any, http: settings.HttpSettings) -> Any:
    settings.bind = [f"{f'[{http.host}]' if ':' in http.host else http.host}:{http.port}"]
    settings.certfile = http.cert or None
    settings.keyfile = http.key or None
    settings.accesslog = None
    settings.errorlog = logging.getLogger("chora.transport")
    return settings


async def _listen(doors: trio.Nursery, listener: HttpServer, http: settings.HttpSettings) -> str:
    try:
        urls: list[str] = await doors.start(listener.serve)
    except OSError as error:
        raise UsageError(
            f"chora can't listen on {http.host}:{http.port}: {error.strerror or error}.",
            "Choose another --port, or end what listens there.",
            host=http.host,
            port=http.port,
        ) from error
    return urls[0]


def _reachable(url: str) -> str:
    """An address that this machine can connect to: a door bound to everything is reached over loopback."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _notify_systemd(state: str) -> None:
    """Tell systemd, when it started us and wants to know."""
    path = this_process.notify_socket()
    if sys.platform == "win32" or not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
