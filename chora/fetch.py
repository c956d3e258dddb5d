"""An HTTP/1.1 client: requests to one server over pooled connections, with a limit on everything it may send.

Responses are parsed here: h11 takes 90 µs more for a short call, a third of what the whole bridge adds to it.

ConnectionPool      the connections to one server
 └─ HttpResponse    the response to one request: its head, then its body in pieces, whole, or as events
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import trio

READ_BYTES = 64 * 1024  # bytes of one read
HEAD_LIMIT = 64 * 1024  # bytes of a response head
LINE_LIMIT = 16 * 1024  # bytes of a line between the chunks of a body
INTERIM_LIMIT = 20  # responses of the 1xx kind before the real one
CONNECT_TIMEOUT = 10.0  # seconds to connect, TLS included
IDLE_LIMIT = 8  # idle connections
IDLE_TIME = 30.0  # seconds for which an idle connection is kept, unless the server says less
DRAIN_LIMIT = 64 * 1024  # bytes of an unwanted response that are read to keep its connection

Headers = Sequence[tuple[str, str]]

_NETLOC = re.compile(r"([^\[\]:]+|\[[^\[\]]+\])(:[0-9]*)?")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9a-f.]*:[0-9a-f:.]*(%[A-Za-z0-9._~%-]+)?")


class FetchFailed(Exception):
    """There is no response, or none that is HTTP; the message says why. The request may have been carried out."""


class ConnectFailed(FetchFailed):
    """The server wasn't reached, so that nothing was carried out."""


class CertificateRejected(ConnectFailed):
    """The server was reached, but its certificate isn't trusted; another attempt won't help."""


class ConnectionBroken(FetchFailed):
    """The connection ended before the response did."""


class StaleConnection(ConnectionBroken):
    """A pooled connection ended without a response, most likely just before the request was sent."""


class ResponseTooLarge(FetchFailed):
    """The response exceeds a limit."""


class Origin(NamedTuple):
    """A server: scheme, host and port of an address."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """Host and port as an address writes them: the port only when it isn't the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Address(NamedTuple):
    """The address of a request."""

    origin: Origin
    target: str
    """Path and query."""

    def __str__(self) -> str:
        """For messages and logs; without the query, which may hold a secret."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    def join(self, reference: str) -> Address:
        """The address of a reference, relative to this one.

        Raises:
            ValueError: it isn't an address.
        """
        return parse_address(urljoin(f"{self.origin}{self.target}", reference))


def parse_address(url: str) -> Address:
    """Parse an address.

    Raises:
        ValueError: it isn't the address of an HTTP server; the message says why.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it doesn't begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("it holds a user name or password")
    try:
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    except UnicodeError:
        raise ValueError("its host is no name") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not all("!" <= letter <= "~" for letter in target):
        raise ValueError("it holds characters that an address must escape")
    # urlsplit ignores what stands before or behind an address in brackets.
    if not _NETLOC.fullmatch(parts.netloc) or not _HOST.fullmatch(host):
        raise ValueError("its host is no name")
    port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    return Address(Origin(parts.scheme, host, port), target)


class ConnectionPool:
    """The connections to one server.

    Args:
        origin: the server.
        trust: a PEM file whose certificates are trusted besides the system's.
        any_name: trust only these, whatever name they have.
    """

    def __init__(self, origin: Origin, *, trust: str = "", any_name: bool = False) -> None:
        self.origin = origin
        self._trust = trust
        self._any_name = any_name
        self._context: ssl.SSLContext | None = None
        self._idle: list[ClientConnection] = []

    async def request(self, method: str, target: str, headers: Headers = (), body: bytes = b"") -> HttpResponse:
        """Send a request; returns the response after its head, its body is read within `async with`.

        Raises:
            ConnectFailed: no connection; nothing was sent.
            StaleConnection: a pooled connection was ended meanwhile.
            FetchFailed: no response that is HTTP.
        """
        connection = self._take_idle() or await self.connect()
        try:
            return await connection.send_request(method, target, headers, body)
        except BaseException:
            connection.close()
            raise

    async def connect(self) -> ClientConnection:
        """Open a new connection.

        Raises:
            ConnectFailed: the server can't be reached.
        """
        host, port = self.origin.host, self.origin.port
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                bare = await trio.open_tcp_stream(host, port)
                _enable_tcp_keepalive(bare.socket)
                if self.origin.scheme == "http":
                    return ClientConnection(self, bare, bare)
                try:
                    return ClientConnection(self, bare, await self._start_tls(bare))
                except BaseException:
                    bare.socket.close()
                    raise
        except trio.TooSlowError:
            raise ConnectFailed(f"{self.origin} doesn't answer within {CONNECT_TIMEOUT:g} s") from None
        except socket.gaierror as error:
            raise ConnectFailed(f"the name {host} is not known: {error.strerror or error}") from error
        except OSError as error:
            raise ConnectFailed(f"{self.origin} doesn't answer: {_reason(error)}") from error

    async def _start_tls(self, bare: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        if self._context is None:
            self._context = _make_context(self._trust, any_name=self._any_name)
        stream = trio.SSLStream(bare, self._context, server_hostname=self.origin.host, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = cause.verify_message or str(cause)
                raise CertificateRejected(f"the certificate of {self.origin} isn't trusted: {why}") from error
            if isinstance(cause, ssl.SSLError):
                raise CertificateRejected(
                    f"there is no TLS to be had with {self.origin}: {cause.reason or cause}"
                ) from error
            raise ConnectFailed(f"{self.origin} hung up during the TLS handshake") from error
        return stream

    def _take_idle(self) -> ClientConnection | None:
        now = trio.current_time()
        while self._idle:
            connection = self._idle.pop()
            # What can be read between two requests is the end, or an unrequested response (CWE-444).
            if connection.usable_until > now and not connection.socket_stream.socket.is_readable():
                return connection
            connection.close()
        return None

    def return_connection(self, connection: ClientConnection, seconds: float = IDLE_TIME) -> None:
        """Keep a connection that can be used again, for a number of seconds."""
        connection.usable_until = trio.current_time() + seconds
        self._idle.append(connection)
        if len(self._idle) > IDLE_LIMIT:
            self._idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


class ClientConnection:
    """One connection, with one request at a time."""

    def __init__(self, pool: ConnectionPool, bare: trio.SocketStream, stream: trio.abc.Stream) -> None:
        self.pool = pool
        self.socket_stream = bare
        self.usable_until = 0.0
        self._stream = stream
        self._buffer = bytearray()
        self._used = False

    async def send_request(self, method: str, target: str, headers: Headers, body: bytes) -> HttpResponse:
        """Send a request and wait for the head of its response."""
        lines = [f"{method} {target} HTTP/1.1", f"host: {self.pool.origin.netloc}"]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join(lines)
        if not head.isascii() or "\0" in head or not (head.count("\r") == len(lines) - 1 == head.count("\n")):
            raise ValueError("a header holds what no header can")
        # A server that refuses a long body responds and closes: the response may be there nevertheless.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(f"{head}\r\n\r\n".encode() + body)
        for _ in range(INTERIM_LIMIT):
            head = _parse_head(await self._read_head())
            if head.status >= 200:
                self._used = True
                return HttpResponse(self, head)
            if head.status == 101:
                raise FetchFailed("the server changes to a protocol that wasn't requested")
        raise FetchFailed("the server sends too many interim responses")

    async def _read_head(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise FetchFailed(f"the answer is not HTTP, or its head is larger than {HEAD_LIMIT:,} bytes")
            searched = max(0, len(self._buffer) - 3)
            try:
                ended = not await self.fill()
            except ConnectionBroken as broken:
                if self._used and not self._buffer:
                    raise StaleConnection(str(broken)) from broken
                raise
            if ended:
                if self._used and not self._buffer:
                    raise StaleConnection("the connection ended without an answer")
                raise ConnectionBroken("the connection ended without an answer")
        return self.take_bytes(end, 4)

    async def read_line(self) -> bytes:
        """A line that frames the body."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > LINE_LIMIT:
                raise FetchFailed("the answer is not HTTP: a chunk has no size")
            if not await self.fill():
                raise ConnectionBroken("the connection ended in the middle of the answer")
        return self.take_bytes(end, 2)

    async def read_some(self, most: int) -> bytes:
        """At most this many bytes of the body; nothing at the end of the connection."""
        if not self._buffer and not await self.fill():
            return b""
        return self.take_bytes(min(most, len(self._buffer)), 0)

    async def fill(self) -> bool:
        """Read more bytes; returns False at the end of the connection.

        Raises:
            ConnectionBroken: it ended with an error.
        """
        try:
            received = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionBroken(f"the connection broke: {_reason(error.__cause__ or error)}") from error
        self._buffer += received
        return bool(received)

    def take_bytes(self, length: int, end: int) -> bytes:
        """Take bytes that have arrived, without the delimiter behind them."""
        if length + end == len(self._buffer):
            taken, self._buffer = bytes(self._buffer[:length]) if end else bytes(self._buffer), bytearray()
            return taken
        taken = bytes(self._buffer[:length])
        del self._buffer[: length + end]
        return taken

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and weren't taken."""
        return len(self._buffer)

    def close(self) -> None:
        """Close it at once."""
        self.socket_stream.socket.close()


class ResponseHead(NamedTuple):
    """The head of a response."""

    status: int
    headers: dict[bytes, bytes]
    """By name in lower case; of several with one name the first, except of the two lists that matter."""
    length: int
    """Bytes of the body; or `CHUNKED`, or `TO_THE_END` of the connection."""
    keep_alive: bool
    """Whether the connection can be used again."""


CHUNKED, UNTIL_CLOSE = -1, -2
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( .*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?")


def _parse_head(head: bytes) -> ResponseHead:
    """Parse the head of a response. What proxies and servers could read in two ways is refused (CWE-444): other line
    ends and folded lines (RFC 9112 §2.2, §5.2), and two lengths (§6.3)."""
    first, *lines = head.split(b"\r\n")
    if (found := _STATUS.fullmatch(first)) is None:
        raise FetchFailed("the answer is not HTTP/1.1")
    status = int(found[2])
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or b"\n" in value or b"\r" in value:
            raise FetchFailed("the answer is not HTTP: a header is malformed")
        name, value = name.lower(), value.strip(b" \t")
        if name not in headers:
            headers[name] = value
        elif name == b"transfer-encoding" or (name == b"content-length" and value != headers[name]):
            raise FetchFailed("the answer is not HTTP: it has two lengths")
        elif name in (b"connection", b"content-encoding"):
            headers[name] += b", " + value
    keeps = found[1] == b"1" and b"close" not in headers.get(b"connection", b"").lower()
    if status < 200 or status in (204, 304):
        return ResponseHead(status, headers, 0, keeps)
    if (coding := headers.get(b"transfer-encoding")) is not None:
        if coding.lower() != b"chunked":
            raise FetchFailed("the answer comes in a transfer coding that wasn't requested")
        return ResponseHead(status, headers, CHUNKED, keeps and b"content-length" not in headers)
    if (length := headers.get(b"content-length")) is not None:
        if not length.isdigit() or len(length) > 15:
            raise FetchFailed("the answer is not HTTP: its length is no number")
        return ResponseHead(status, headers, int(length), keeps)
    return ResponseHead(status, headers, UNTIL_CLOSE, False)


class HttpResponse:
    """The response to one request: `async with` returns its connection to the pool."""

    def __init__(self, connection: ClientConnection, head: ResponseHead) -> None:
        self._connection = connection
        self._headers = head.headers
        self._keep_alive = head.keep_alive
        self._is_chunked = head.length == CHUNKED
        self._until_close = head.length == UNTIL_CLOSE
        self._bytes_left = max(head.length, 0)
        self._in_chunk = False
        self._complete = head.length == 0
        self.status = head.status
        self.media_type = (self.header("content-type") or "").partition(";")[0].strip().lower()
        """The media type, without its parameters."""
        if head.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            connection.close()
            raise FetchFailed("the answer is compressed, which wasn't requested")

    async def __aenter__(self) -> HttpResponse:
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection = self._connection
        if not self._complete and not self._is_chunked and 0 < self._bytes_left <= connection.buffered:
            connection.take_bytes(self._bytes_left, 0)  # not wanted, and it has arrived already
            self._complete = True
        if not (self._complete and self._keep_alive) or connection.buffered:
            connection.close()
            return
        keep_time = IDLE_TIME
        for part in (self.header("keep-alive") or "").split(","):
            name, _, seconds = part.strip().partition("=")
            if name.lower() == "timeout" and seconds.isdecimal():
                keep_time = min(IDLE_TIME, max(0, int(seconds[:9]) - 1))
        connection.pool.return_connection(connection, keep_time)

    def header(self, name: str) -> str | None:
        """The first header of this name, which is written in lower case."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def receive(self) -> bytes:
        """A piece of the body; nothing at its end.

        Raises:
            FetchFailed: it can't be read, or broke off.
        """
        if self._complete:
            return b""
        if self._is_chunked and not self._bytes_left:
            self._bytes_left = await self._next_chunk()
            if not self._bytes_left:
                self._complete = True
                return b""
        piece = await self._connection.read_some(READ_BYTES if self._until_close else self._bytes_left)
        if not piece:
            if not self._until_close:
                raise ConnectionBroken("the connection ended in the middle of the answer")
            self._complete = True
        elif not self._until_close:
            self._bytes_left -= len(piece)
            self._complete = not self._bytes_left and not self._is_chunked
        return piece

    async def _next_chunk(self) -> int:
        """The length of the next chunk; 0 at the end, with the trailers read."""
        connection = self._connection
        if self._in_chunk and await connection.read_line():
            raise FetchFailed("the answer is not HTTP: a chunk is longer than it says")
        self._in_chunk = True
        if (found := _SIZE.fullmatch(await connection.read_line())) is None:
            raise FetchFailed("the answer is not HTTP: a chunk has no size")
        if not (size := int(found[1], 16)):
            left = HEAD_LIMIT
            while trailer := await connection.read_line():
                left -= len(trailer)
                if left < 0:
                    raise FetchFailed("the answer is not HTTP: its trailers don't end")
        return size

    async def read(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes.

        Raises:
            ResponseTooLarge: it is longer.
            FetchFailed: it can't be read, or broke off.
        """
        first = await self.receive()
        if self._complete and len(first) <= limit:
            return first
        body = bytearray(first)
        while len(body) <= limit:
            if not (piece := await self.receive()):
                return bytes(body)
            body += piece
        raise ResponseTooLarge(f"the answer is larger than {limit:,} bytes")

    async def drain(self) -> None:
        """Read the rest, if it isn't much, so that the connection can be kept."""
        left = DRAIN_LIMIT
        while left > 0 and (piece := await self.receive()):
            left -= len(piece)


class ServerSentEvent(NamedTuple):
    """One event of a stream."""

    type: str
    data: bytes
    id: str | None
    """The id to resume after; None when the event has none."""


class EventReader:
    """Cuts a body into the events of a `text/event-stream`.

    Args:
        response: whose body it is.
        limit: the longest event, bytes.
    """

    def __init__(self, response: HttpResponse, limit: int) -> None:
        self._response = response
        self._limit = limit
        self._buffer = bytearray()
        self._start = 0
        self._searched = 0
        self._after_return = False
        self._began = False
        self.retry: float | None = None
        """Seconds after which the server wants the client to reconnect, once it said so."""

    async def receive(self) -> ServerSentEvent | None:
        """The next event that has data or an id; None when the stream is over.

        Raises:
            ResponseTooLarge: it is longer than the limit.
            FetchFailed: the stream can't be read, or broke off.
        """
        kind, data, id, size = "message", list[bytes](), None, 0
        while (line := await self._line(self._limit - size)) is not None:
            if not line:
                if data or id is not None:
                    return ServerSentEvent(kind, b"\n".join(data), id)
                kind, size = "message", 0
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value.decode("utf-8", "replace")
            elif name == b"id" and b"\0" not in value:
                id = value.decode("utf-8", "replace")
            elif name == b"retry" and value.isdigit():
                self.retry = int(value[:9]) / 1000
            if name:  # a comment only keeps the connection open and doesn't count
                size += len(line) + 64
        return None

    async def _line(self, most: int) -> bytes | None:
        while True:
            buffer, start = self._buffer, self._start
            if self._after_return and len(buffer) > start:
                self._after_return = False
                if buffer[start] == 0x0A:
                    self._start = self._searched = start = start + 1
            end = buffer.find(b"\n", self._searched)
            lone = buffer.find(b"\r", self._searched, len(buffer) if end < 0 else end)
            if lone >= 0:
                end, self._after_return = lone, True
            if end >= 0:
                if end - start > most:
                    raise self._too_large()
                line = bytes(buffer[start:end])
                self._start = self._searched = end + 1
                if not self._began:
                    self._began = True
                    line = line.removeprefix(b"\xef\xbb\xbf")
                return line
            del buffer[:start]
            self._start, self._searched = 0, len(buffer)
            if len(buffer) > most:
                raise self._too_large()
            piece = await self._response.receive()
            if not piece:
                return None  # an event without an empty line at its end is dropped
            buffer += piece

    def _too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(f"an event of the stream is larger than {self._limit:,} bytes")


def _make_context(trust: str, *, any_name: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust if any_name else None)
    if trust:
        context.load_verify_locations(trust)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself may be named, not its issuer
    context.check_hostname = not any_name
    return context


def _enable_tcp_keepalive(sock: trio.socket.SocketType) -> None:
    """Have the system notice a server that vanished, in about a minute."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _reason(error: BaseException) -> str:
    """The system's reason; several attempts at once come as a group behind the error."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    if isinstance(cause, OSError):
        error = cause
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.rpartition("): ")[2]  # trio puts the address before it
