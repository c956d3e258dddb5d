"""The HTTP/1.1 server of an ASGI app: listens, counts connections, checks their deadlines, and drains at the end."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import format_date_time

import trio
from msgspec import Struct

from chora.peer_memory import PeerMemory, limit_by_settings
from chora.settings import LimitSettings
from chora.transport.connection import (
    ERROR_RESPONSES,
    PHRASES,
    RETRY_AFTER,
    ConnectionLimits,
    ServerConnection,
    close_gracefully,
)
from chora.transport.lifespan import Lifespan

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from hypercorn.config import Config, Sockets

    from chora.transport.connection import App, Headers, Stream

SWEEP_INTERVAL = 0.1  # seconds between two checks of the deadlines; a limit may act two of them late
FINAL_WRITE_TIME = 0.8  # seconds after the grace for the last response; the app's shutdown has one more
CONCURRENT_REFUSALS = 64  # connections beyond the limit that get a 503 at a time; others are closed at once


class ConnectionStatistics(Struct, frozen=True):
    """Connections open now, and since the start: accepted, refused at the cap, ended by the server (reason → count)."""

    open: int
    accepted: int
    refused: int
    aborted: dict[str, int]


class HttpServer:
    """Serves one ASGI app, once.

    Args:
        app: an ASGI 3 app; lifespan support is optional.
        config: its binds, backlog, TLS files and `startup_timeout` are used, and its `errorlog` if that is a
            `logging.Logger`; otherwise the log is `chora.transport`.
        limits: of one connection.
        memory: the account of what is held for peers; one of its own by default.
        error_headers: what a response that the app doesn't send has to carry besides, by the headers of the request,
            such as the headers of CORS.
    """

    def __init__(
        self,
        app: App,
        config: Config,
        limits: ConnectionLimits,
        memory: PeerMemory | None = None,
        error_headers: Callable[[Headers], Headers] = lambda request_headers: (),
    ) -> None:
        self.app = app
        self.error_headers = error_headers
        self.limits = limits
        self.memory = memory or PeerMemory(limit_by_settings(LimitSettings()))
        errorlog = config.errorlog
        self.log = errorlog if isinstance(errorlog, logging.Logger) else logging.getLogger("chora.transport")
        self.state: dict[str, Any] = {}
        self.draining = trio.Event()
        self._config = config
        self._tls: ssl.SSLContext | None = None
        self._connections: set[ServerConnection] = set()
        self._arrival = trio.Event()
        self._sweeping = trio.CancelScope()
        self._accepted = self._refused = self._refusing = 0
        self._aborted: dict[str, int] = {}
        self._date = (0, b"")

    async def serve(
        self,
        *,
        sockets: Sockets | None = None,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop`, then drain for at most `limits.grace` plus two seconds; cancelled, end at once.

        Args:
            sockets: bound ones, closed at the end; by default those that the config describes.
            task_status: gets the bound URLs once the app has started up and every socket listens.

        Raises:
            OSError: an address can't be bound, or a TLS file can't be read.
            LifespanFailed: the app failed to start up or to shut down.
        """
        sockets = sockets or self._config.create_sockets()
        lifespan = Lifespan(self.app, self.state)
        try:
            tls = self._tls = self._config.create_ssl_context()
            with lifespan.dependents:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lifespan.run_lifespan)
                    await lifespan.wait_started(self._config.startup_timeout)
                    lifespan.dependents.deadline = await self._serve_connections(sockets, tls, task_status) + 1
                    lifespan.stopping.set()
        finally:
            for each in (*sockets.secure_sockets, *sockets.insecure_sockets):
                each.close()
        if lifespan.failure is not None:
            raise lifespan.failure
        if not lifespan.ended:
            self.log.warning("the app was still shutting down at the end of the grace period; it was cancelled")

    async def _serve_connections(
        self, sockets: Sockets, tls: ssl.SSLContext | None, task_status: trio.TaskStatus[list[str]]
    ) -> float:
        """Accept until `stop`, then drain; returns when draining was to be over at the latest."""
        async with trio.open_nursery() as connections:
            connections.start_soon(self._sweep)
            async with trio.open_nursery() as accepting:
                listeners, urls = _start_listening(sockets, tls, self._config.backlog)
                accept = partial(trio.serve_listeners, handler_nursery=connections)
                accepting.start_soon(accept, self._handle, listeners)
                task_status.started(urls)
                await self.draining.wait()
                accepting.cancel_scope.cancel()
            for connection in self._connections:
                connection.deadlines["grace"] = None
            connections.cancel_scope.deadline = trio.current_time() + self.limits.grace + FINAL_WRITE_TIME
        return connections.cancel_scope.deadline

    def stop(self) -> None:
        """Begin to drain: no new connections, idle ones end now, requests get the grace. Any task may call it."""
        self.draining.set()
        for connection in self._connections:
            if connection.exchange is None and not connection.head_started:
                connection.abort("draining")
        if not self._connections:
            self._sweeping.cancel()

    @property
    def has_tls(self) -> bool:
        """Whether it speaks HTTPS."""
        return self._tls is not None

    def load_certificate(self, certificate: str, key: str) -> None:
        """Use another certificate and its key from the next connection on; `check_tls` has found them sound.

        Raises:
            OSError: they can't be read, or don't belong together.
        """
        if self._tls is not None:
            self._tls.load_cert_chain(certificate, key, password="")

    def statistics(self) -> ConnectionStatistics:
        """The counts as they are now."""
        return ConnectionStatistics(len(self._connections), self._accepted, self._refused, dict(self._aborted))

    async def _sweep(self) -> None:
        with self._sweeping:
            while True:
                if not self._connections:  # an idle server has no deadlines
                    self._arrival = trio.Event()
                    await self._arrival.wait()
                await trio.sleep(SWEEP_INTERVAL)
                now = trio.current_time()
                for connection in self._connections:
                    connection.check_deadlines(now)

    async def _handle(self, stream: Stream) -> None:
        if self.draining.is_set():
            return
        if len(self._connections) >= self.limits.connections:
            await self._refuse(stream)
            return
        self._accepted += 1
        connection = ServerConnection(self, stream)
        self._connections.add(connection)
        self._arrival.set()
        try:
            await connection.serve_requests()
        finally:
            self._connections.discard(connection)
            if self.draining.is_set() and not self._connections:
                self._sweeping.cancel()
            if connection.reason is not None:
                self._aborted[connection.reason] = self._aborted.get(connection.reason, 0) + 1

    async def _refuse(self, stream: Stream) -> None:
        self._refused += 1
        if self._refusing < CONCURRENT_REFUSALS and isinstance(stream, trio.SocketStream):  # TLS would take a handshake
            self._refusing += 1
            try:
                await close_gracefully(stream, self.error_response("connections"), linger=True)
            finally:
                self._refusing -= 1

    def error_response(self, reason: str, headers: Headers = (), *, head_only: bool = False) -> bytes:
        """The whole response for a reason to end the connection; `head_only` for a HEAD request.

        Args:
            reason: a key of `ERROR_RESPONSES`.
            headers: those that it has besides its own.
        """
        status, sentence = ERROR_RESPONSES[reason]
        head = (
            b"HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
            b"Connection: close\r\nDate: %s\r\n" % (status, PHRASES[status], len(sentence) + 1, self.date_header())
        )
        head += b"Retry-After: %d\r\n" % RETRY_AFTER if status == 503 else b""
        head += b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n"
        return head if head_only else head + sentence.encode() + b"\n"

    def date_header(self) -> bytes:
        """The `Date` of a response sent now, made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, format_date_time(now).encode()
        return self._date[1]


def _start_listening(
    sockets: Sockets, tls: ssl.SSLContext | None, backlog: int
) -> tuple[list[trio.abc.Listener[Stream]], list[str]]:
    """Start listening; returns the listeners and their URLs."""
    listeners: list[trio.abc.Listener[Stream]] = []
    urls: list[str] = []
    for each in (*sockets.secure_sockets, *sockets.insecure_sockets):
        each.set_inheritable(False)  # hypercorn makes them inheritable for its worker processes
        each.listen(backlog)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(each))
        name: Any = each.getsockname()
        if isinstance(name, tuple):
            address = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        else:
            address = f"unix:{name}"
        if each in sockets.insecure_sockets:
            listeners.append(listener)
            urls.append(f"http://{address}")
        else:
            assert tls is not None, "secure sockets need a certificate and a key in the config"
            tls.set_alpn_protocols(["http/1.1"])  # hypercorn offers h2
            listeners.append(trio.SSLListener(listener, tls))
            urls.append(f"https://{address}")
    return listeners, urls
