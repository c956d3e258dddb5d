"""HTTP/1.1 for ASGI apps, with a bound on everything a peer can take.

    Server              listens, counts, sweeps, drains
     └─ Connection      one peer: its bytes, its deadlines, its end
         └─ Exchange    one request and its response: the app's `receive` and `send`

Configuration, sockets and TLS context are hypercorn's, the protocol is h11's. hypercorn's own protocol stack
stays out: one packet can end it, and it costs several times a plain h11 loop.

- Nothing but cancellation leaves a connection. Its nursery's cancel scope is the only kill switch, and whoever
  pulls it records the reason first; what the peer is told for that reason is written once the nursery has closed
  and nobody else can write.
- One sweeper per server starts and compares all deadlines, which are floats, every `TICK`. A request costs no clock,
  no cancel scope and no task of its own.
- One task reads at a time, the others wait for its news. So a departure is noticed while the app works, whoever
  needed bytes last and whatever is pipelined behind the request.

What an app can rely on, beyond ASGI:

- It isn't cancelled when the peer leaves: `receive()` returns `http.disconnect` and `send()` raises `Disconnected`,
  which it may let escape. It is cancelled when the peer breaks a bound or a stopping server's grace is over.
- `receive()` after the body waits until the peer has left or the response is complete.
- The response head is sent with the first body message, even an empty one. One task at a time may `send()`.
- `scope["extensions"]["chora.on_disconnect"](callback)` has the callback called when the peer leaves before the
  app has sent its last message.
- `scope["extensions"]["chora.draining"]` is a `trio.Event`, set when the server begins to stop: event streams
  should end themselves then.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import format_date_time

import h11
import trio
from msgspec import Struct

from chora.settings import LimitSettings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config, Sockets

    App = Callable[[Any, Any, Any], Awaitable[None]]
    Message = dict[str, Any]
    Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

IO_BYTES = 64 * 1024  # bytes of one read, and of a write that must end within `write_stall`
CHUNK_COST = 64  # bytes that each chunk of a body counts on top: tiny ones cost far more time than their size
HEAD_LIMIT = 64 * 1024  # bytes of a request head
READ_AHEAD = 64 * 1024  # bytes a peer may pipeline while a response is made; one that sends more is cut
SWEEP_INTERVAL = 0.1  # seconds between two looks at the connections; a limit may strike two of them late
LINGER_TIME = 5.0  # seconds a peer may go on sending after its last answer; see `_say_goodbye`
FINAL_WRITE_TIME = 0.8  # seconds connections have after the grace to say their last; the app's shutdown has one more
CONCURRENT_REFUSALS = 64  # connections beyond the cap that are told so at a time; others are closed without a word

ERROR_RESPONSES: dict[str, tuple[int, str]] = {
    "malformed": (400, "This isn't a valid HTTP/1.1 request for a path."),
    "head": (431, "The request head is too large."),
    "coding": (501, "The only transfer coding understood here is chunked."),
    "upgrade": (501, "Upgrades aren't supported; send the request without the Upgrade header."),
    "version": (505, "This server speaks HTTP/1.1."),
    "body": (413, "The request body is too large."),
    "header_time": (408, "The request head took too long to arrive."),
    "body_time": (408, "The request body took too long to arrive."),
    "crash": (500, "The server failed to answer; its log says why."),
    "grace": (503, "The server is stopping."),
    "connections": (503, "The server has as many connections as it allows; try again in a moment."),
}
"""Why a connection ends → what a peer that still waits for an answer is told: status and sentence.

Reasons without an answer: `keep_alive` (idle for too long), `write_stall` (doesn't read), `read_ahead` (pipelines
too much), `draining` (idle when the server stops).
"""

ASGI = {"version": "3.0", "spec_version": "2.4"}
END_OF_MESSAGE = h11.EndOfMessage()
PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}
DEFAULT_LIMITS = LimitSettings()


class ConnectionLimits(Struct, frozen=True):
    """What one peer may take, in bytes and seconds: the fields of `[limits]`.

    `body_time` counts only while we wait for the peer; a slow app doesn't use it up.
    """

    body: int = DEFAULT_LIMITS.body
    header_time: float = DEFAULT_LIMITS.header_time
    body_time: float = DEFAULT_LIMITS.body_time
    write_stall: float = DEFAULT_LIMITS.write_stall
    keep_alive: float = DEFAULT_LIMITS.keep_alive
    connections: int = DEFAULT_LIMITS.connections
    grace: float = DEFAULT_LIMITS.grace


class ConnectionStatistics(Struct, frozen=True):
    """Connections open now, and since the start: accepted, refused at the cap, ended by us (reason → how many)."""

    open: int
    accepted: int
    refused: int
    aborted: dict[str, int]


class Disconnected(trio.BrokenResourceError, OSError):
    """The peer left, so nothing can be sent; an `OSError` because ASGI promises one."""


class LifespanFailed(Exception):
    """The app failed to start up or to shut down, or its lifespan ended in an error, which is the cause."""


class RequestRefused(Exception):
    """A request that no app gets to see; the argument is the reason."""


class HttpServer:
    """Serves one ASGI app, once.

    Args:
        app: an ASGI 3 app; lifespan support is optional.
        config: its binds, backlog, TLS files and `startup_timeout` are used, and its `errorlog` if that is a
            `logging.Logger`; otherwise the log is `chora.transport`.
        bounds: what one peer may take.
    """

    def __init__(self, app: App, config: Config, limits: ConnectionLimits) -> None:
        self.app = app
        self.limits = limits
        errorlog = config.errorlog
        self.log = errorlog if isinstance(errorlog, logging.Logger) else logging.getLogger("chora.transport")
        self.state: dict[str, Any] = {}
        self.draining = trio.Event()
        self._config = config
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
        """Serve until `stop`, then drain for at most `bounds.grace` plus two seconds; cancelled, end at once.

        Args:
            sockets: bound ones, closed at the end; by default those that the config describes.
            task_status: told the bound URLs once the app has started up and every socket listens.

        Raises:
            OSError: an address can't be bound, or a TLS file can't be read.
            LifespanFailed: the app failed to start up or to shut down.
        """
        sockets = sockets or self._config.create_sockets()
        lifespan = Lifespan(self.app, self.state)
        try:
            tls = self._config.create_ssl_context()
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
            self.log.warning("the app was still shutting down when the time for that was over")

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
            if connection.exchange is None and not connection.head_begun:
                connection.abort("draining")
        if not self._connections:
            self._sweeping.cancel()

    def statistics(self) -> ConnectionStatistics:
        """The counts as they are now."""
        return ConnectionStatistics(len(self._connections), self._accepted, self._refused, dict(self._aborted))

    async def _sweep(self) -> None:
        with self._sweeping:
            while True:
                if not self._connections:  # an idle server has nothing to wake up for
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
                await _close_gracefully(stream, self.error_response("connections"), linger=True)
            finally:
                self._refusing -= 1

    def error_response(self, reason: str, *, head_only: bool = False) -> bytes:
        """All that is said to a peer that is sent away; `bare` leaves out the body, for a HEAD request."""
        status, sentence = ERROR_RESPONSES[reason]
        head = (
            b"HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
            b"Connection: close\r\nDate: %s\r\n\r\n" % (status, PHRASES[status], len(sentence) + 1, self.date_header())
        )
        return head if head_only else head + sentence.encode() + b"\n"

    def date_header(self) -> bytes:
        """The `Date` of a response sent now, made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, format_date_time(now).encode()
        return self._date[1]


class ServerConnection:
    """One peer, from accept to close."""

    def __init__(self, server: HttpServer, stream: Stream) -> None:
        self.server = server
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self.deadlines: dict[str, float | None] = {"header_time": None}  # by bound; None: the sweeper is to start it
        self.exchange: Exchange | None = None
        self.reason: str | None = None  # why we end it
        self.head_begun = False  # part of a request head has arrived
        self.disconnected = False  # nothing more can be sent: the peer left, or a write was cut halfway
        self.writing = False
        self.state_changed = (
            trio.lowlevel.ParkingLot()
        )  # woken when bytes arrive, a write ends, or the peer or a response does
        self._stream = stream
        self._handshake_done = self._reading = self._reading_ahead = self._is_head_request = False
        self._nursery: trio.Nursery

    async def serve_requests(self) -> None:
        """Serve the peer until one side has had enough, then close."""
        try:
            async with trio.open_nursery() as self._nursery:
                await self._serve_until_closed()
                self._nursery.cancel_scope.cancel()
            self.deadlines.clear()
            if self._handshake_done:
                last_words = self._final_bytes()
                unread = self.exchange is not None and not self.exchange.body_done
                linger = self.reason != "grace" and (unread or last_words != b"")
                await _close_gracefully(self._stream, last_words, linger=linger)
        except* Exception as group:  # a bug in here ends this connection, never the server
            self.reason = self.reason or "crash"
            self.server.log.error("a connection failed", exc_info=group)
        finally:
            self.disconnected = True  # a task that the app left behind may still hold its `send`

    def check_deadlines(self, now: float) -> None:
        """Start and compare the deadlines, and have a long request watched. The sweeper calls this."""
        for bound, deadline in self.deadlines.items():
            if deadline is None:
                self.deadlines[bound] = now + getattr(self.server.limits, bound)
            elif now >= deadline:
                self.abort(bound)
                return
        if self.exchange is not None:
            if self.exchange.is_long:
                self.start_reading_ahead(self.exchange)
            self.exchange.is_long = True  # if the sweeper meets it again

    def abort(self, reason: str) -> None:
        """Cancel all that runs for this peer; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._nursery.cancel_scope.cancel()

    async def abort_and_raise(self, reason: str) -> NoReturn:
        """`kill`, from within the app's task."""
        self.abort(reason)
        await trio.lowlevel.checkpoint()
        raise Disconnected  # the app shields itself from cancellation

    def start_reading_ahead(self, exchange: Exchange) -> None:
        """Have a task read while the app works, once the body has been read: it will see the peer leave."""
        over = exchange.complete or self.disconnected or self.reason is not None  # the nursery may be closing then
        if exchange.body_done and not over and not self._reading_ahead and exchange.bytes_ahead <= READ_AHEAD:
            self._reading_ahead = True
            self._nursery.start_soon(self._read_ahead, exchange)

    async def _read_ahead(self, exchange: Exchange) -> None:
        while not (exchange.complete or self.disconnected):
            exchange.bytes_ahead += await self.read()
            if exchange.bytes_ahead > READ_AHEAD:
                if not exchange.finishing:  # whoever has its answer may well have sent the next request
                    self.abort("read_ahead")  # to stop reading would be to miss the departure
                break
        self._reading_ahead = False

    async def read(self) -> int:
        """Take in what arrives next, or learn that the peer left; where another task reads, wait for its news.

        Returns how many bytes this task took in.
        """
        if self._reading:
            await self.state_changed.park()
            return 0
        self._reading = True
        try:
            data = bytes(await self._stream.receive_some(IO_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        finally:
            self._reading = False
            _wake(self.state_changed)
        if data:
            self.head_begun = True
            self.h11.receive_data(data)
        else:
            self.mark_disconnected()
        return len(data)

    def mark_disconnected(self) -> None:
        """Take note that nothing can be sent any more, and tell an app that wanted to know."""
        was_here, self.disconnected = not self.disconnected, True
        exchange = self.exchange
        if was_here and exchange is not None and exchange.on_disconnect is not None and not exchange.finishing:
            exchange.on_disconnect()

    async def write(self, data: bytes) -> None:
        """Send, each slice within `write_stall`; raises `Disconnected` when the peer has left."""
        view = data if len(data) <= IO_BYTES else memoryview(data)
        self.writing = True
        try:
            for start in range(0, len(data), IO_BYTES):
                self.deadlines["write_stall"] = None
                await self._stream.send_all(view[start : start + IO_BYTES])
        except BaseException as error:  # a cancellation too: what was cut halfway can't be continued
            self.mark_disconnected()
            if isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError)):
                raise Disconnected from error
            raise
        finally:
            self.deadlines.pop("write_stall", None)
            self.writing = False
            _wake(self.state_changed)

    async def _serve_until_closed(self) -> None:
        """Answer requests in their order, until the connection can't go on."""
        try:
            if isinstance(self._stream, trio.SSLStream):
                await self._stream.do_handshake()
            peer = _describe_connection(self._stream)
        except (trio.BrokenResourceError, OSError):  # left already
            return
        self._handshake_done = True
        while True:
            try:
                request = await self._next_request()
                if request is None:
                    return
                self._is_head_request = request.method == b"HEAD"
                scope = _make_scope(request, self.server, peer)
                exchange = self.exchange = Exchange(self, has_no_body=self._is_head_request)
                scope["extensions"]["chora.on_disconnect"] = exchange.call_on_disconnect
                exchange.parse_body()
                del request  # an event stream may stay open for hours, and the scope says it all
            except RequestRefused as refused:
                self.reason = str(refused)
                return
            await self._run_app(scope, exchange)
            if self.reason is not None or not exchange.complete:
                return
            if not exchange.body_done and self.h11.our_state is h11.DONE:
                await exchange.discard_body()  # an early answer needn't cost the connection
            if self.server.draining.is_set():
                return
            try:
                self.h11.start_next_cycle()
            except h11.LocalProtocolError:  # one of the two wants to close
                return
            self.exchange, self._is_head_request = None, False
            self.head_begun = bool(self.h11.trailing_data[0])
            self.deadlines["keep_alive"] = None

    async def _next_request(self) -> h11.Request | None:
        """The next request head, or None when the peer left first."""
        while not self.disconnected:
            if self.head_begun:
                event = self.next_event()
                if isinstance(event, h11.Request):
                    self.deadlines.pop("keep_alive", None)
                    self.deadlines.pop("header_time", None)
                    return event
                if "keep_alive" in self.deadlines:
                    del self.deadlines["keep_alive"]
                    self.deadlines["header_time"] = None
            await self.read()
        return None

    def next_event(self) -> object:
        """What h11 makes of the bytes that have arrived; raises `Refused` where it can't make anything of them."""
        try:
            return self.h11.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestRefused({431: "head", 501: "coding"}.get(error.error_status_hint, "malformed")) from None

    async def _run_app(self, scope: Message, exchange: Exchange) -> None:
        try:
            await self.server.app(scope, exchange.receive, exchange.send)
            if not exchange.complete and not self.disconnected:
                raise RuntimeError("the app returned before its response was complete")
        except* Disconnected:
            pass
        except* Exception as group:
            self.reason = self.reason or "crash"
            error = group.exceptions[0] if len(group.exceptions) == 1 else group
            # The query isn't logged: it may hold a secret.
            self.server.log.error(
                "the app failed on %s %s", scope["method"], scope["raw_path"].decode(), exc_info=error
            )

    def _final_bytes(self) -> bytes:
        """What the peer is still told: an answer if it has none, the end of a stream that is cut at the grace."""
        if self.exchange is not None and self.exchange.head_sent:
            if self.reason == "grace" and not self.disconnected:
                with suppress(h11.LocalProtocolError):  # a body of promised length can't be ended early
                    return self.h11.send(END_OF_MESSAGE)
            return b""
        if self.reason not in ERROR_RESPONSES or (self.reason == "header_time" and not self.head_begun):
            return b""
        return self.server.error_response(self.reason, head_only=self._is_head_request)


class Exchange:
    """One request and its response."""

    body_done = False  # the whole request body has arrived
    head_sent = False
    finishing = False  # the app has sent all of the body, which the peer may have before we know
    complete = False  # the whole response has been sent
    is_long = False  # has run for at least a tick
    bytes_ahead = 0  # bytes that arrived after the request
    on_disconnect: Callable[[], object] | None = None
    _body_delivered = False  # the app knows that the request body is complete
    _received = 0  # bytes of the request body
    _start: Message | None = None  # the response head, until there is a body message to send it with
    _body_bytes_left: int | None = (
        None  # bytes of the response body that the head has promised and that aren't sent yet
    )

    def __init__(self, connection: ServerConnection, *, has_no_body: bool) -> None:
        self._connection = connection
        self._has_no_body = has_no_body  # the response has no body, whatever the app sends
        self._pieces: list[bytes] = []  # of the request body, not yet given to the app
        self._body_time_left = connection.server.limits.body_time

    def call_on_disconnect(self, callback: Callable[[], object]) -> None:
        """The scope extension `chora.on_disconnect`: cheaper for an app than a task of its own that waits."""
        self.on_disconnect = callback
        if self._connection.disconnected:
            callback()

    def parse_body(self) -> None:
        """Take what has arrived of the request body from h11; raises `Refused` when it is malformed or too much."""
        while not self.body_done:
            event = self._connection.next_event()
            if isinstance(event, h11.Data):
                self._received += len(event.data) + (CHUNK_COST if event.chunk_start else 0)
                if self._received > self._connection.server.limits.body:
                    raise RequestRefused("body")
                self._pieces.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.body_done = True
            else:
                return

    async def receive(self) -> Message:
        """ASGI `receive`: the request body as it arrives, then the news that the exchange is over."""
        connection = self._connection
        if not (self._body_delivered or self.complete):
            await self._wait_for_body()
            if (self._pieces or self.body_done) and not self._body_delivered:  # another task may have been faster
                body = b"".join(self._pieces)
                self._pieces.clear()
                self._body_delivered = self.body_done
                return {"type": "http.request", "body": body, "more_body": not self._body_delivered}
        while not (self.complete or connection.disconnected):
            connection.start_reading_ahead(self)
            await connection.state_changed.park()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI `send`.

        Raises:
            Disconnected: the peer left.
            RuntimeError: the message doesn't fit what was sent before.
            h11.LocalProtocolError: the status, a header or the length of the body breaks the protocol.
        """
        connection, kind = self._connection, message["type"]
        while connection.writing:  # before anything is made to be written, or it could overtake what is
            await connection.state_changed.park()
        if connection.disconnected:
            raise Disconnected
        if kind == "http.response.start" and self._start is None:
            self._start = message
            return
        if kind != "http.response.body" or self._start is None or self.complete:
            raise RuntimeError(f"an app can't send {kind} now")
        data = b"" if self.head_sent else self._make_head(self._start)
        body, more = message.get("body", b""), message.get("more_body", False)
        if body and not self._has_no_body:
            data += connection.h11.send(h11.Data(data=body))
        if not more:
            data += connection.h11.send(END_OF_MESSAGE)
        elif self._body_bytes_left is not None:  # an app may send its last message only after all of the body
            self._body_bytes_left -= len(body)
        self.finishing = not more or self._body_bytes_left == 0
        self.head_sent = True
        if data:
            await connection.write(data)
        else:
            await trio.lowlevel.checkpoint()
        if not more:
            self.complete = True
            _wake(connection.state_changed)

    async def discard_body(self) -> None:
        """Read what is left of the request body, within its bounds."""
        while not (self.body_done or self._connection.disconnected):
            await self._wait_for_body()
            self._pieces.clear()

    async def _wait_for_body(self) -> None:
        """Wait until there is a piece of it, or no more to come."""
        connection = self._connection
        while not (self._pieces or self.body_done or connection.disconnected):
            if connection.h11.they_are_waiting_for_100_continue:  # so nothing has been sent yet, and nobody writes
                response = h11.InformationalResponse(status_code=100, headers=[], reason=PHRASES[100])
                with suppress(Disconnected):
                    await connection.write(connection.h11.send(response))
                continue
            began = trio.current_time()
            connection.deadlines["body_time"] = began + self._body_time_left
            try:
                await connection.read()
            finally:
                connection.deadlines.pop("body_time", None)
                self._body_time_left -= trio.current_time() - began
            try:
                self.parse_body()
            except RequestRefused as refused:
                await connection.abort_and_raise(str(refused))

    def _make_head(self, start: Message) -> bytes:
        connection, status = self._connection, start["status"]
        headers = start.get("headers", ())
        # A client that waits for 100 Continue may or may not send the body after this answer: don't guess.
        if connection.server.draining.is_set() or connection.h11.they_are_waiting_for_100_continue:
            headers = [*headers, (b"connection", b"close")]
        self._has_no_body = self._has_no_body or status in (204, 304)
        head = connection.h11.send(h11.Response(status_code=status, headers=headers, reason=PHRASES.get(status, b"")))
        self._body_bytes_left = next((int(value) for name, value in headers if name.lower() == b"content-length"), None)
        if b"\r\ndate:" in head:
            return head
        return b"%sdate: %s\r\n\r\n" % (head[:-2], connection.server.date_header())  # h11 would check it every time


class Lifespan:
    """The app's start-up and shutdown.

    hypercorn's own takes an app that fails while starting up for one that knows no lifespan, and serves on; importing
    it also brings in the protocol stack. Here an app knows no lifespan if it fails before it asks for an event.
    """

    def __init__(self, app: App, state: dict[str, Any]) -> None:
        self.dependents = trio.CancelScope()
        """Cancelled when the app's lifespan fails, so all that depends on the app belongs in it."""
        self.stopping = trio.Event()
        self.ended = False
        self.failure: LifespanFailed | None = None
        self._app = app
        self._state = state
        self._started = trio.Event()
        self._phase = ""

    async def run_lifespan(self) -> None:
        """Run the app's lifespan to its end."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except* Exception as group:
            if self._phase:
                self._fail(f"The app failed {self._phase}.", group)
        self.ended = True
        self._started.set()

    async def wait_started(self, timeout: float) -> None:
        """Wait until the app has started up; one that hasn't after `timeout` seconds has failed."""
        with trio.move_on_after(timeout):
            await self._started.wait()
        if not self._started.is_set():
            self._fail(f"The app didn't start up within {timeout:g} seconds.")
        await trio.lowlevel.checkpoint_if_cancelled()

    def _fail(self, sentence: str, cause: BaseException | None = None) -> None:
        if self.failure is None:
            self.failure = LifespanFailed(sentence)
            self.failure.__cause__ = cause
            self.dependents.cancel()

    async def _receive(self) -> Message:
        if not self._phase:
            self._phase = "in start-up"
            return {"type": "lifespan.startup"}
        await self.stopping.wait()
        self._phase = "in shutdown"
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if message["type"].endswith(".failed"):
            self._fail(f"The app failed {self._phase}: {message.get('message', '')}")
        elif message["type"] == "lifespan.startup.complete":
            self._phase = "while it served"
            self._started.set()


def _make_scope(request: h11.Request, server: HttpServer, peer: Message) -> Message:
    """The ASGI scope of a request; raises `Refused` where there is something to object to."""
    headers = [(name.lower(), value) for name, value in request.headers.raw_items()]  # cheaper than list(headers)
    fields = dict(headers)
    if request.http_version not in (b"1.1", b"1.0"):
        raise RequestRefused("version")
    # h11 looks only at the size of heads that are incomplete.
    if len(request.target) + sum([len(name) + len(value) for name, value in headers]) > HEAD_LIMIT:
        raise RequestRefused("head")
    if b"upgrade" in fields:
        raise RequestRefused("upgrade")
    if not request.target.startswith(b"/") or request.method == b"CONNECT":
        raise RequestRefused("malformed")
    # Two servers that disagree on where a body ends can be played off against each other.
    if b"transfer-encoding" in fields and (b"content-length" in fields or request.http_version == b"1.0"):
        raise RequestRefused("malformed")
    if int(fields.get(b"content-length", 0)) > server.limits.body:
        raise RequestRefused("body")
    raw_path, _, query = request.target.partition(b"?")
    try:
        path = (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode()
    except UnicodeDecodeError:
        raise RequestRefused("malformed") from None
    return {
        "type": "http",
        "asgi": ASGI,
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "state": server.state.copy(),
        "extensions": {"chora.draining": server.draining},
        **peer,
    }


def _describe_connection(stream: Stream) -> Message:
    """The part of a scope that all requests of a connection share; raises `OSError` when the peer is gone already."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    local, remote = transport.socket.getsockname(), transport.socket.getpeername()
    return {
        "scheme": "http" if transport is stream else "https",
        "server": local[:2] if isinstance(local, tuple) else (local, None),  # a Unix socket has a path
        "client": remote[:2] if isinstance(remote, tuple) else None,
    }


def _start_listening(
    sockets: Sockets, tls: ssl.SSLContext | None, backlog: int
) -> tuple[list[trio.abc.Listener[Stream]], list[str]]:
    """Open the doors: what to accept from, and the URLs."""
    listeners: list[trio.abc.Listener[Stream]] = []
    urls: list[str] = []
    for each in (*sockets.secure_sockets, *sockets.insecure_sockets):
        each.set_inheritable(False)  # hypercorn shares them with worker processes; our children have no use for them
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


def _wake(lot: trio.lowlevel.ParkingLot) -> None:
    if lot:  # to find nobody is much cheaper than to wake nobody
        lot.unpark_all()


async def _close_gracefully(stream: Stream, last_words: bytes, *, linger: bool) -> None:
    """Send the last words and close.

    With `linger`, what the peer still sends is read and dropped first: bytes that arrive after closing are answered
    with a reset, which destroys what the peer hasn't read yet.
    """
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with trio.move_on_after(LINGER_TIME), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if last_words:
            await stream.send_all(last_words)
        if linger:
            if transport is stream:
                await transport.send_eof()
            while await transport.receive_some(IO_BYTES):
                pass
        await stream.aclose()
