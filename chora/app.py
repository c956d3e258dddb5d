"""The wiring of the server processes: what is opened in which order, what runs beside what, and how it ends.

open the store → start the template workers → [listen → probe, benchmarker, housekeeping] → watcher → stdio
a signal or the end of stdin → stop listening → finish the calls in flight → end the services → close the store
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from chora import __version__, allocator, reload, systemd, this_process
from chora.access import Authenticator, Principal, Tokens
from chora.engine import retention
from chora.engine.engine import Engine, open_engine
from chora.errors import ChoraError
from chora.metrics import Metrics
from chora.project import locate, tokens_folder
from chora.protocol.server import McpServer
from chora.provider import project_server
from chora.render import RenderFailed
from chora.render.pool import RenderPool
from chora.secret_report import describe_secret, examine_secret
from chora.secrets import KNOWN_SECRETS, Secret, find_token
from chora.settings import LoadedSettings, Settings
from chora.shutdown import end_with_parent, stop_on_signals
from chora.store import backup
from chora.supervision import Service
from chora.systemd import notify_systemd, status_state
from chora.tools import ALL_TOOLS
from chora.transport import stdio
from chora.transport.pipes import Pipes

if TYPE_CHECKING:
    from chora.transport.http_server import HttpServer
    from chora.watch.probe import ProbeTarget

log = logging.getLogger("chora")


async def run_stdio(project: Path, loaded: LoadedSettings, pipes: Pipes) -> None:
    """MCP on stdin and stdout until the client or a signal ends it."""
    limits = loaded.settings.limits
    reading = loaded.settings.mcp.read_only
    async with (
        stop_on_signals(limits.grace) as stopping,
        open_engine(project, loaded.settings, reading=reading) as engine,
    ):
        server = project_server(engine, ALL_TOOLS, Metrics(), is_watched=True)
        engine.changes.subscribe(server.notify_resource_changed)
        async with trio.open_nursery() as services:
            keep_running = engine.supervisor.keep_running
            services.start_soon(keep_running, "file watcher", _file_watcher(engine, server))
            services.start_soon(keep_running, "housekeeping", partial(retention.serve, engine))
            services.start_soon(keep_running, "allocator", partial(_serve_allocator, server))
            reloading = partial(reload.serve, reload.ReloadLog(project, loaded))
            await services.start(keep_running, "reload", reloading)
            services.start_soon(keep_running, "watch over readiness", partial(_watch_readiness, engine, server))
            await services.start(end_with_parent, stopping)
            async with trio.open_nursery() as finishing:
                finishing.start_soon(engine.jobs.finish, stopping, limits.grace)
                await stdio.serve(server, pipes, limit=limits.body, grace=limits.grace, stopping=stopping)
                stopping.set()  # also when the client broke the connection off
            services.cancel_scope.cancel()


def _file_watcher(engine: Engine, server: McpServer) -> Service:
    """The file watcher, whose import would delay the first answer on stdio."""
    watcher = None

    async def serve(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        nonlocal watcher
        task_status.started()
        await server.first_request_answered.wait()
        try:
            if watcher is None:
                from chora.watch.files import ProjectWatcher

                watcher = ProjectWatcher(engine, server)
            await watcher.serve()
        finally:
            server.changes_known.set()  # without a watcher, subscribers miss changes, but aren't held up

    return serve


async def _serve_allocator(server: McpServer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """A service: gives memory back to the system; its start would delay the first answer."""
    task_status.started()
    await server.first_request_answered.wait()
    await allocator.serve(server.memory)


async def _watch_readiness(engine: Engine, server: McpServer, *, task_status: trio.TaskStatus[None]) -> None:
    """A service: records changes of readiness where there is no page that shows it."""
    task_status.started()
    await server.first_request_answered.wait()
    from chora.web.health import HealthStatus

    health = HealthStatus(engine.store, Metrics(), engine.supervisor, engine.folder.check_space, server.audit)
    health.state = "ready"
    await health.watch_readiness()


class RunningServer(NamedTuple):
    """A server that listens."""

    url: str
    http: HttpServer
    target: ProbeTarget
    engine: Engine
    server: McpServer


async def run_server(
    project: Path,
    loaded: LoadedSettings,
    *,
    pipes: Pipes | None = None,
    task_status: trio.TaskStatus[RunningServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP, and stdio too when given pipes, until a signal (or the end of stdin) ends it.

    Raises:
        UsageError: an address beyond loopback without a token, or one that can't be bound.
        StorageError: the store can't be used.
    """
    # Imported only here: these take longer than the whole start of stdio.
    from chora.oauth import Issuer
    from chora.transport.http import HttpApplication
    from chora.transport.listener import loopback_url, make_http_server, start_listening
    from chora.watch import files, latency, probe
    from chora.web.health import HealthStatus
    from chora.web.pages import make_pages

    files.import_notifications()
    http, limits = loaded.settings.http, loaded.settings.limits
    found = find_token(reference=http.token, fail_closed=True)
    issuer = Issuer(loaded.settings.oauth) if loaded.settings.oauth.issuer else None
    tokens = Tokens(tokens_folder(project))
    authenticator = Authenticator(
        http.host,
        found.secret if found else None,
        tokens,
        trusted_proxies=http.trusted_proxies,
        has_issuer=issuer is not None,
    )
    probe_token = Secret(secrets.token_urlsafe(32))
    authenticator.add_token(probe_token, Principal("probe", "read", routine=True))
    log.info("tokens: %s", reload.describe_tokens(found, tokens, issuer.url if issuer else ""))

    metrics = Metrics()
    async with (
        stop_on_signals(limits.grace) as stopping,
        open_engine(project, loaded.settings) as engine,
        trio.open_nursery() as services,
    ):
        server = project_server(engine, ALL_TOOLS, metrics, is_watched=True)
        engine.changes.subscribe(server.notify_resource_changed)
        keep_running = engine.supervisor.keep_running
        health = HealthStatus(engine.store, metrics, engine.supervisor, engine.folder.check_space, server.audit)
        pages = make_pages(health.readiness, health.status, health.uptime_seconds, health.exposition)
        application = HttpApplication(server, authenticator, http, limits, pages, metrics, issuer)
        http_server = health.http_server = make_http_server(application, http, limits, server.memory)
        async with trio.open_nursery() as listening:
            url = await start_listening(listening, http_server, http)
            listening.start_soon(engine.jobs.finish, stopping, limits.grace)
            target = probe.ProbeTarget(loopback_url(url) + "/mcp", probe_token, http.cert)
            reloader = reload.ReloadServer(project, loaded, authenticator, tokens, http_server, target)
            await services.start(keep_running, "reload", partial(reload.serve, reloader))
            await services.start(application.serve, http_server.draining)
            probe_settings, backups = loaded.settings.probe, loaded.settings.backup
            measured = target, engine.store, metrics
            calling = partial(probe.serve, *measured, interval=probe_settings.interval)
            timing = partial(
                latency.serve, *measured, interval=probe_settings.latency_interval, calls=probe_settings.latency_calls
            )
            await services.start(keep_running, "uptime probe", calling)
            await services.start(keep_running, "latency benchmarker", timing)
            services.start_soon(_warm_up, engine.templates.pool)
            services.start_soon(_log_secrets, loaded.settings)
            if backups.every:
                folder = locate(project, backups.folder)
                backing_up = partial(backup.serve, engine.store, folder, every=backups.every * 3600, keep=backups.keep)
                services.start_soon(keep_running, "backups", backing_up)
            services.start_soon(keep_running, "file watcher", _file_watcher(engine, server))
            services.start_soon(keep_running, "housekeeping", partial(retention.serve, engine))
            services.start_soon(keep_running, "allocator", partial(_serve_allocator, server))
            health.state = "ready"
            services.start_soon(keep_running, "watch over readiness", health.watch_readiness)
            log.info("chora %s serves %s at %s", __version__, project, url)
            notify_systemd("READY=1", status_state(f"ready at {url}"))
            if this_process.notify_socket():
                services.start_soon(keep_running, "notices for systemd", partial(systemd.serve, health.status_line))
            task_status.started(RunningServer(url, http_server, target, engine, server))

            if pipes is not None:
                await stdio.serve(server, pipes, limit=limits.body, grace=limits.grace, stopping=stopping)
            else:
                await stopping.wait()
            health.begin_draining()
            notify_systemd("STOPPING=1", status_state("stopping: finishing the calls in flight"))
            log.info("stopping: finishing the calls in flight")
            http_server.stop()
        services.cancel_scope.cancel()
    server.audit.close()
    log.info("stopped")


async def _warm_up(pool: RenderPool) -> None:
    """Start a template worker before the first render needs it; if that fails, the first render reports why."""
    with contextlib.suppress(ChoraError, RenderFailed):
        await pool.warm_up()


async def _log_secrets(settings: Settings) -> None:
    """Say of each secret where it was found, and what that switches on; a keyring may take seconds to say nothing."""
    for known in KNOWN_SECRETS:
        report = await trio.to_thread.run_sync(partial(examine_secret, known, settings), abandon_on_cancel=True)
        log.info("%s", describe_secret(known, report))
