"""One HTTP/1.1 connection for an ASGI app, with a bound on everything the client can take.

    HttpServer              listens, counts, sweeps, drains: `http_server.py`
     └─ ServerConnection    one client: its bytes, its deadlines, its end
         └─ Exchange        one request and its response: the app's `receive` and `send`

Configuration, sockets and TLS context are hypercorn's, the protocol is h11's. hypercorn's own protocol stack
isn't used: one packet can end it, and it costs several times a plain h11 loop. Connection and exchange share the h11
state and the wake-ups of the one reading task, so they stand in one module.

- Nothing but cancellation leaves a connection. Only the cancel scope of its nursery ends it, and the reason is
  recorded before; the response for that reason is written after the nursery has closed and nothing else can write.
- One sweeper per server starts and compares all deadlines, which are floats, every `SWEEP_INTERVAL`. A request costs
  no clock, no cancel scope and no task of its own. So a client that sends one byte at a time (slowloris, CWE-400)
  holds nothing but its own connection, and that only until a deadline.
- One task reads at a time, the others wait until it has read. So a disconnect is noticed while the app works,
  whichever task needed bytes last and whatever is pipelined behind the request.

What an app can rely on, beyond ASGI:

- It isn't cancelled when the client disconnects: `receive()` returns `http.disconnect` and `send()` raises
  `Disconnected`, which it may let escape. It is cancelled when the client exceeds a limit or a stopping server's
  grace is over.
- `receive()` after the body waits until the client has disconnected or the response is complete.
- The response head is sent with the first body message, even an empty one. One task at a time may `send()`.
- `scope["extensions"]["chora.on_disconnect"](callback)` has the callback called when the client disconnects before
  the app has sent its last message.
- `scope["extensions"]["chora.holding"]` is the `Holding` to which the app charges what it keeps for this exchange. All
  of it is given back when the app has returned.
- `scope["extensions"]["chora.draining"]` is a `trio.Event`, set when the server begins to stop: event streams
  should end themselves then.
"""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import unquote_to_bytes

import h11
import trio
from msgspec import Struct

from chora.errors import Busy, LimitExceeded
from chora.peer_memory import UNKNOWN_PEER, PeerMemory
from chora.settings import LimitSettings

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Sequence

    App = Callable[[Any, Any, Any], Awaitable[None]]
    Headers = Sequence[tuple[bytes, bytes]]
    Message = dict[str, Any]
    Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

IO_BYTES = 64 * 1024  # bytes of one read, and of a write that must end within `write_stall`
CHUNK_COST = 64  # bytes added per chunk of a body: tiny chunks cost far more time than their size (CWE-405)
CHUNKS_AT_ONCE = 200  # parsed before others get their turn: a millisecond; one read may hold 10,000
HEAD_LIMIT = 64 * 1024  # bytes of a request head; beyond that 431, RFC 6585 §5
READ_AHEAD = 64 * 1024  # bytes a client may pipeline while a response is made; one that sends more is disconnected
RETRY_AFTER = 1  # seconds after which a client that gets a 503 may come again; RFC 9110 §10.2.3
LINGER_TIME = 5.0  # seconds a client may go on sending after its last response; see `close_gracefully`

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
    "memory": (503, "The server holds as much for its clients as it may; try again in a moment."),
    "connections": (503, "The server has as many connections as it allows; try again in a moment."),
}
"""Why a connection ends → the response to a client that still waits for one: status and sentence.

Reasons without a response: `keep_alive` (idle for too long), `write_stall` (doesn't read), `read_ahead` (pipelines
too much), `draining` (idle when the server stops).
"""

ASGI = {"version": "3.0", "spec_version": "2.4"}
END_OF_MESSAGE = h11.EndOfMessage()
BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
PHRASES = {int(status): status.phrase.encode() for status in HTTPStatus}
DEFAULT_LIMITS = LimitSettings()


class ConnectionLimits(Struct, frozen=True):
    """The limits of one connection, in bytes and seconds: the fields of `[limits]`.

    `body_time` counts only while we wait for the client; a slow app doesn't use it up.
    """

    body: int = DEFAULT_LIMITS.body
    header_time: float = DEFAULT_LIMITS.header_time
    body_time: float = DEFAULT_LIMITS.body_time
    write_stall: float = DEFAULT_LIMITS.write_stall
    keep_alive: float = DEFAULT_LIMITS.keep_alive
    connections: int = DEFAULT_LIMITS.connections
    grace: float = DEFAULT_LIMITS.grace


class Disconnected(trio.BrokenResourceError, OSError):
    """The client disconnected, so nothing can be sent; an `OSError` because ASGI promises one."""


class RequestRefused(Exception):
    """A request that the app doesn't get; the argument is the reason."""


class ConnectionOwner(Protocol):
    """What a connection needs of the server that accepted it."""

    app: App
    limits: ConnectionLimits
    memory: PeerMemory
    log: logging.Logger
    state: dict[str, Any]
    draining: trio.Event
    error_headers: Callable[[Headers], Headers]

    def date_header(self) -> bytes:
        """The value of the Date header, now."""
        ...

    def error_response(self, reason: str, headers: Headers = (), *, head_only: bool = False) -> bytes:
        """The whole response for a reason to end the connection, with these headers besides its own."""
        ...


class ServerConnection:
    """One client, from accept to close."""

    def __init__(self, server: ConnectionOwner, stream: Stream) -> None:
        self.server = server
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self.deadlines: dict[str, float | None] = {"header_time": None}  # by limit; None: the sweeper is to start it
        self.exchange: Exchange | None = None
        self.reason: str | None = None  # why we end it
        self.head_started = False  # part of a request head has arrived
        self.disconnected = False  # nothing more can be sent: the client left, or a write was cut halfway
        self.writing = False
        # Unparked when bytes arrive, a write ends, the client disconnects or a response is complete.
        self.state_changed = trio.lowlevel.ParkingLot()
        self._stream = stream
        self._unparsed = 0  # bytes of a head that hasn't arrived in whole, and of what is pipelined behind a request
        self._handshake_done = self._reading = self._reading_ahead = self._is_head_request = False
        self._head_end = b""  # the last bytes of a head that hasn't arrived in whole
        self._request_headers: Headers = ()  # of the request that is answered, with names in lower case
        self._nursery: trio.Nursery

    async def serve_requests(self) -> None:
        """Serve requests until one side ends the connection, then close it."""
        try:
            with self.server.memory.hold(UNKNOWN_PEER) as self._holding:
                async with trio.open_nursery() as self._nursery:
                    await self._serve_until_closed()
                    self._nursery.cancel_scope.cancel()
            self.deadlines.clear()
            if self._handshake_done:
                final_bytes = self._final_bytes()
                unread = self.exchange is not None and not self.exchange.body_done
                linger = self.reason != "grace" and (unread or final_bytes != b"")
                await close_gracefully(self._stream, final_bytes, linger=linger)
        except* Exception as group:  # a bug in here ends this connection, never the server
            self.reason = self.reason or "crash"
            self.server.log.error("a connection failed", exc_info=group)
        finally:
            self.disconnected = True  # a task that the app left behind may still hold its `send`

    def check_deadlines(self, now: float) -> None:
        """Start and compare the deadlines, and start reading ahead of a long request. The sweeper calls this."""
        for limit, deadline in self.deadlines.items():
            if deadline is None:
                self.deadlines[limit] = now + getattr(self.server.limits, limit)
            elif now >= deadline:
                self.abort(limit)
                return
        if self.exchange is not None:
            if self.exchange.is_long:
                self.start_reading_ahead(self.exchange)
            self.exchange.is_long = True  # if the sweeper meets it again

    def abort(self, reason: str) -> None:
        """Cancel all that runs for this connection; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._nursery.cancel_scope.cancel()

    async def abort_and_raise(self, reason: str) -> NoReturn:
        """`abort`, from within the app's task."""
        self.abort(reason)
        await trio.lowlevel.checkpoint()
        raise Disconnected  # the app shields itself from cancellation

    def start_reading_ahead(self, exchange: Exchange) -> None:
        """Read in a task while the app works, once the body has been read, to notice a disconnect."""
        over = exchange.complete or self.disconnected or self.reason is not None  # the nursery may be closing then
        if exchange.body_done and not over and not self._reading_ahead and exchange.bytes_ahead <= READ_AHEAD:
            self._reading_ahead = True
            self._nursery.start_soon(self._read_ahead, exchange)

    async def _read_ahead(self, exchange: Exchange) -> None:
        while not (exchange.complete or self.disconnected):
            exchange.bytes_ahead += await self.read()
            try:
                self._holding.resize(exchange.bytes_ahead)
            except (Busy, LimitExceeded):
                self.abort("memory")
                break
            if exchange.bytes_ahead > READ_AHEAD:
                if not exchange.finishing:  # a client that has its response may go on
                    self.abort("read_ahead")  # without reading, a disconnect would go unnoticed
                break
        self._reading_ahead = False

    async def read(self) -> int:
        """Read what arrives next, or notice that the client disconnected; if another task reads, wait for it.

        Returns the number of bytes that this task read.
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
            self.head_started = True
            if self.exchange is None:
                self._unparsed += len(data)
                self._check_line_ends(data)
            self.h11.receive_data(data)
        else:
            self.mark_disconnected()
        return len(data)

    def _check_line_ends(self, data: bytes) -> None:
        """Refuse a head with a line feed alone at the end of a line, which h11 accepts.

        A proxy in front may take it for a part of the line and see another request than we do (request smuggling:
        RFC 9112 §2.2, CWE-444).

        Raises:
            RequestRefused: it has one.
        """
        known = len(self._head_end)
        head, end, _ = (self._head_end + data).partition(b"\r\n\r\n")
        if BARE_LINE_FEED.search(head, known):
            raise RequestRefused("malformed")
        self._head_end = b"" if end else head[-3:]

    def mark_disconnected(self) -> None:
        """Record that nothing can be sent any more, and call the app's callback."""
        was_connected, self.disconnected = not self.disconnected, True
        exchange = self.exchange
        if was_connected and exchange is not None and exchange.on_disconnect is not None and not exchange.finishing:
            exchange.on_disconnect()

    async def write(self, data: bytes | memoryview) -> None:
        """Send, each slice within `write_stall`; raises `Disconnected` when the client has disconnected."""
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
            shared = _describe_connection(self._stream)
        except (trio.BrokenResourceError, OSError):  # the client has disconnected already
            return
        self._handshake_done = True
        while True:
            try:
                request = await self._next_request()
                if request is None:
                    return
                self._is_head_request = request.method == b"HEAD"
                # cheaper than list(headers)
                self._request_headers = headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
                scope = _make_scope(request, headers, self.server, shared)
                exchange = self.exchange = Exchange(self, has_no_body=self._is_head_request)
                scope["extensions"]["chora.on_disconnect"] = exchange.call_on_disconnect
                self._holding.resize(0)
                exchange.parse_body()
                del request  # an event stream may stay open for hours, and the scope says it all
            except RequestRefused as refused:
                self.reason = str(refused)
                return
            with self.server.memory.hold(UNKNOWN_PEER) as holding:
                scope["extensions"]["chora.holding"] = holding
                await self._run_app(scope, exchange)
            if self.reason is not None or not exchange.complete:
                return
            if not exchange.body_done and self.h11.our_state is h11.DONE:
                await exchange.discard_body()  # an early response needn't cost the connection
            if self.server.draining.is_set():
                return
            try:
                self.h11.start_next_cycle()
            except h11.LocalProtocolError:  # client or server wants to close
                return
            self.exchange, self._is_head_request, self._head_end, self._request_headers = None, False, b"", ()
            ahead = self.h11.trailing_data[0]
            self.head_started, self._unparsed = bool(ahead), len(ahead)
            self._holding.resize(0)
            try:
                self._check_line_ends(ahead)
            except RequestRefused as refused:
                self.reason = str(refused)
                return
            self.deadlines["keep_alive"] = None

    async def _next_request(self) -> h11.Request | None:
        """The next request head, or None when the client disconnected first."""
        while not self.disconnected:
            if self.head_started:
                event = self.next_event()
                if isinstance(event, h11.Request):
                    self.deadlines.pop("keep_alive", None)
                    self.deadlines.pop("header_time", None)
                    return event
                try:
                    self._holding.resize(self._unparsed)  # only what didn't arrive in one piece is charged
                except (Busy, LimitExceeded):
                    raise RequestRefused("memory") from None
                if "keep_alive" in self.deadlines:
                    del self.deadlines["keep_alive"]
                    self.deadlines["header_time"] = None
            await self.read()
        return None

    def next_event(self) -> object:
        """The next h11 event of the bytes that have arrived; raises `RequestRefused` where they are malformed."""
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
            # The query isn't logged: it may hold a secret (CWE-532).
            self.server.log.error(
                "the app failed on %s %s", scope["method"], scope["raw_path"].decode(), exc_info=error
            )

    def _final_bytes(self) -> bytes:
        """The last bytes to send: a response if there was none, the end of a stream that is cut at the grace."""
        if self.exchange is not None and self.exchange.head_sent:
            if self.reason == "grace" and not self.disconnected:
                with suppress(h11.LocalProtocolError):  # a body of declared length can't be ended early
                    return self.h11.send(END_OF_MESSAGE)
            return b""
        if self.reason not in ERROR_RESPONSES or (self.reason == "header_time" and not self.head_started):
            return b""
        headers = self.server.error_headers(self._request_headers)
        return self.server.error_response(self.reason, headers, head_only=self._is_head_request)


class Exchange:
    """One request and its response."""

    body_done = False  # the whole request body has arrived
    head_sent = False
    finishing = False  # the app has sent all of the body, which the client may have before we know
    complete = False  # the whole response has been sent
    is_long = False  # has run for at least a tick
    bytes_ahead = 0  # bytes that arrived after the request
    on_disconnect: Callable[[], object] | None = None
    _body_delivered = False  # the app got the end of the request body
    _received = 0  # bytes of the request body
    _has_unparsed = False  # bytes of the request body that have arrived may not be parsed yet
    _start: Message | None = None  # the response head, until there is a body message to send it with
    _body_bytes_left: int | None = None  # bytes of the response body that the head declared and that aren't sent yet

    def __init__(self, connection: ServerConnection, *, has_no_body: bool) -> None:
        self._connection = connection
        self._has_no_body = has_no_body  # the response has no body, whatever the app sends
        self._pieces: list[bytes] = []  # of the request body, not yet passed to the app
        self._body_time_left = connection.server.limits.body_time

    def call_on_disconnect(self, callback: Callable[[], object]) -> None:
        """The scope extension `chora.on_disconnect`: cheaper for an app than a task that waits for the disconnect."""
        self.on_disconnect = callback
        if self._connection.disconnected:
            callback()

    def parse_body(self) -> None:
        """Take of the request body what has arrived, at most `CHUNKS_AT_ONCE`, from h11.

        Raises:
            RequestRefused: it is malformed or too large.
        """
        self._has_unparsed = False
        for _ in range(0 if self.body_done else CHUNKS_AT_ONCE):
            event = self._connection.next_event()
            if isinstance(event, h11.Data):
                self._received += len(event.data) + (CHUNK_COST if event.chunk_start else 0)
                if self._received > self._connection.server.limits.body:
                    raise RequestRefused("body")
                self._pieces.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.body_done = True
                return
            else:
                return
        self._has_unparsed = not self.body_done

    async def receive(self) -> Message:
        """ASGI `receive`: the request body as it arrives, then the end of the exchange."""
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
            Disconnected: the client disconnected.
            RuntimeError: the message doesn't fit what was sent before.
            h11.LocalProtocolError: the status, a header or the length of the body breaks the protocol.
        """
        connection, kind = self._connection, message["type"]
        while connection.writing:  # before h11 encodes anything, so that messages can't overtake each other
            await connection.state_changed.park()
        if connection.disconnected:
            raise Disconnected
        if kind == "http.response.start" and self._start is None:
            self._start = message
            return
        if kind != "http.response.body" or self._start is None or self.complete:
            raise RuntimeError(f"an app can't send {kind} now")
        head = b"" if self.head_sent else self._make_head(self._start)
        body, more = message.get("body", b""), message.get("more_body", False)
        data = connection.h11.send(h11.Data(data=body)) if body and not self._has_no_body else b""
        end = b"" if more else connection.h11.send(END_OF_MESSAGE)
        if more and self._body_bytes_left is not None:  # some apps send all of the body before their last message
            self._body_bytes_left -= len(body)
        self.finishing = not more or self._body_bytes_left == 0
        self.head_sent = True
        if len(data) > IO_BYTES:  # isn't copied: it is held for as long as the client takes to read it
            await connection.write(head + data[:IO_BYTES])
            await connection.write(memoryview(data)[IO_BYTES:])
            if end:
                await connection.write(end)
        elif whole := head + data + end:
            await connection.write(whole)
        else:
            await trio.lowlevel.checkpoint()
        if not more:
            self.complete = True
            _wake(connection.state_changed)

    async def discard_body(self) -> None:
        """Read the rest of the request body, within its limits."""
        while not (self.body_done or self._connection.disconnected):
            await self._wait_for_body()
            self._pieces.clear()

    async def _wait_for_body(self) -> None:
        """Wait until a piece of it arrives, or its end."""
        connection = self._connection
        while not (self._pieces or self.body_done or connection.disconnected):
            if self._has_unparsed:
                await trio.lowlevel.checkpoint()  # the others' turn
            else:
                await self._read_body()
            try:
                self.parse_body()
            except RequestRefused as refused:
                await connection.abort_and_raise(str(refused))

    async def _read_body(self) -> None:
        """Read what arrives next of it, within `body_time`."""
        connection = self._connection
        if connection.h11.they_are_waiting_for_100_continue:  # so nothing has been sent yet, and no task writes
            response = h11.InformationalResponse(status_code=100, headers=[], reason=PHRASES[100])
            with suppress(Disconnected):
                await connection.write(connection.h11.send(response))
            return
        began = trio.current_time()
        connection.deadlines["body_time"] = began + self._body_time_left
        try:
            await connection.read()
        finally:
            connection.deadlines.pop("body_time", None)
            self._body_time_left -= trio.current_time() - began

    def _make_head(self, start: Message) -> bytes:
        connection, status = self._connection, start["status"]
        headers = start.get("headers", ())
        # A client that waits for 100 Continue may or may not send the body after this response (RFC 9110 §10.1.1).
        if connection.server.draining.is_set() or connection.h11.they_are_waiting_for_100_continue:
            headers = [*headers, (b"connection", b"close")]
        self._has_no_body = self._has_no_body or status in (204, 304)
        head = connection.h11.send(h11.Response(status_code=status, headers=headers, reason=PHRASES.get(status, b"")))
        self._body_bytes_left = next((int(value) for name, value in headers if name.lower() == b"content-length"), None)
        if b"\r\ndate:" in head:
            return head
        return b"%sdate: %s\r\n\r\n" % (head[:-2], connection.server.date_header())  # h11 would check it every time


def _make_scope(
    request: h11.Request, headers: list[tuple[bytes, bytes]], server: ConnectionOwner, shared: Message
) -> Message:
    """The ASGI scope of a request; raises `RequestRefused` where its head isn't acceptable."""
    fields = dict(headers)
    if request.http_version not in (b"1.1", b"1.0"):
        raise RequestRefused("version")
    # h11 checks the size of incomplete heads only.
    if len(request.target) + sum([len(name) + len(value) for name, value in headers]) > HEAD_LIMIT:
        raise RequestRefused("head")
    if b"upgrade" in fields:
        raise RequestRefused("upgrade")
    if not request.target.startswith(b"/") or request.method == b"CONNECT":
        raise RequestRefused("malformed")
    # Request smuggling: servers that disagree on where a body ends can be played off against each other. So both
    # lengths at once, and a transfer coding in HTTP/1.0, are refused (RFC 9112 §6.1, §6.3; CWE-444).
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
        **shared,
    }


def _describe_connection(stream: Stream) -> Message:
    """The part of a scope that all requests of a connection share; raises `OSError` if the client disconnected."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    local, remote = transport.socket.getsockname(), transport.socket.getpeername()
    return {
        "scheme": "http" if transport is stream else "https",
        "server": local[:2] if isinstance(local, tuple) else (local, None),  # a Unix socket has a path
        "client": remote[:2] if isinstance(remote, tuple) else None,
    }


def _wake(lot: trio.lowlevel.ParkingLot) -> None:
    if lot:  # this check is much cheaper than unparking nothing
        lot.unpark_all()


async def close_gracefully(stream: Stream, final_bytes: bytes, *, linger: bool) -> None:
    """Send the last bytes and close.

    With `linger`, what the client still sends is read and dropped first: bytes that arrive after closing are answered
    with a reset, which destroys what the client hasn't read yet (RFC 9112 §9.6).
    """
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with trio.move_on_after(LINGER_TIME), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if final_bytes:
            await stream.send_all(final_bytes)
        if linger:
            if transport is stream:
                await transport.send_eof()
            while await transport.receive_some(IO_BYTES):
                pass
        await stream.aclose()
