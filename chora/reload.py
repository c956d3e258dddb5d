"""What SIGHUP does: what can change without a restart is read again, and the log says what.

That is the log's level and format, the access token, the named tokens and the TLS files. All of it is read and checked
before any of it is used, so a mistake leaves everything as it was. The key of a language model isn't kept: it is looked
up for every request.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from chora import settings
from chora.access import Authenticator, Tokens
from chora.errors import ChoraError
from chora.logs import start_logging
from chora.secrets import FoundSecret, find_token
from chora.settings import LoadedSettings
from chora.starting import take_hangup
from chora.systemd import notify_reloading

if TYPE_CHECKING:
    from chora.transport.http_server import HttpServer
    from chora.watch.probe import ProbeTarget

log = logging.getLogger("chora")

Reload = Callable[[], Awaitable[list[str]]]
"""Reads again what can be; returns what that was, for the log."""


async def serve(reload: Reload, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """A service: reloads at every SIGHUP, and once if one came while the process was starting."""
    if sys.platform == "win32":
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        if take_hangup():
            await _reload_once(reload)
        async for _ in signals:
            await _reload_once(reload)


async def _reload_once(reload: Reload) -> None:
    try:
        with notify_reloading():
            done = await reload()
    except ChoraError as error:
        log.error("SIGHUP: nothing was reloaded, everything stays as it was: %s", error.message)
    else:
        log.info("SIGHUP: reloaded %s", "; ".join(done))


def describe_tokens(found: FoundSecret | None, tokens: Tokens, issuer: str = "") -> str:
    """Which tokens a server accepts, for the log."""
    accepted = [found.origin] if found else []
    accepted += [f"{len(tokens.list_tokens())} named"] if tokens.in_use else []
    accepted += [f"those of {issuer}"] if issuer else []
    return ", ".join(accepted) or "none; only this machine can reach the server"


class ReloadLog:
    """Reloads the settings of the log, which is all that a process without HTTP keeps.

    Args:
        project: the project folder.
        loaded: the settings that the process was started with.
    """

    RELOADED = frozenset({"log.level", "log.format"})
    """The settings whose new values are used; those of others need a restart."""

    def __init__(self, project: Path, loaded: LoadedSettings) -> None:
        self._project = project
        self._started = loaded
        self._log = loaded.settings.log

    async def __call__(self) -> list[str]:
        """Read the settings again, and use those of the log.

        Raises:
            UsageError: they don't fit.
        """
        return self._use(await self._load(), self.RELOADED)

    async def _load(self) -> LoadedSettings:
        return await trio.to_thread.run_sync(partial(settings.load, self._project, flags=self._started.flags))

    def _use(self, newer: LoadedSettings, reloaded: frozenset[str]) -> list[str]:
        for warning in newer.warnings:
            log.warning("%s", warning)
        if newer.settings.log != self._log:
            self._log = newer.settings.log
            start_logging(self._log)
        done = [f"the log's level {self._log.level} and format {self._log.format}"]
        waiting = [key for key in self._started.changes(newer.settings) if key not in reloaded]
        return [*done, f"a restart is needed for {', '.join(waiting)}"] if waiting else done


class ReloadServer(ReloadLog):
    """Reloads what an HTTP server keeps: tokens and TLS files too.

    Args:
        project, loaded: as of `ReloadLog`.
        authenticator: knows the access token.
        tokens: the named tokens.
        http_server: has the TLS files.
        target: trusts the server's own certificate.
    """

    def __init__(
        self,
        project: Path,
        loaded: LoadedSettings,
        authenticator: Authenticator,
        tokens: Tokens,
        http_server: HttpServer,
        target: ProbeTarget,
    ) -> None:
        super().__init__(project, loaded)
        self._authenticator = authenticator
        self._tokens = tokens
        self._http_server = http_server
        self._target = target

    async def __call__(self) -> list[str]:
        """Read settings, tokens and TLS files again.

        An access token that isn't there any more is accepted no more, and none is needed less than before.

        Raises:
            UsageError: one of them doesn't fit, or can't be read.
        """
        from chora.transport.listener import check_tls

        newer = await self._load()
        http = newer.settings.http
        # The keyring may prompt, and files may be on a slow disk.
        found = await trio.to_thread.run_sync(partial(find_token, reference=http.token, fail_closed=True))
        has_tls = self._http_server.has_tls and bool(http.cert)
        if has_tls:
            await trio.to_thread.run_sync(check_tls, http)
        self._authenticator.replace_token(found.secret if found else None)
        self._tokens.forget()
        done = [f"tokens: {describe_tokens(found, self._tokens)}"]
        reloaded = self.RELOADED | {"http.token"}
        if has_tls:
            self._http_server.load_certificate(http.cert, http.key)
            self._target.trust = http.cert
            reloaded |= {"http.cert", "http.key"}
            done.append(f"the TLS certificate {http.cert}")
        return [*done, *self._use(newer, reloaded)]
