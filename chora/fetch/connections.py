"""Connections to a server, pooled, and the requests sent over them."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence

import trio

from chora.fetch.addresses import Origin
from chora.fetch.failures import CertificateRejected, ConnectFailed, ConnectionBroken, FetchFailed, StaleConnection
from chora.fetch.limits import CONNECT_TIMEOUT, HEAD_LIMIT, IDLE_LIMIT, IDLE_TIME, INTERIM_LIMIT, LINE_LIMIT, READ_BYTES
from chora.fetch.proxies import Proxy, find_proxy
from chora.fetch.response import HttpResponse, parse_head

Headers = Sequence[tuple[str, str]]


class ConnectionPool:
    """The connections to one server.

    Args:
        origin: the server.
        trust: a PEM file whose certificates are trusted besides the system's.
        any_name: trust only these, whatever name they have.
    """

    def __init__(self, origin: Origin, *, trust: str = "", any_name: bool = False) -> None:
        self.origin = origin
        self.proxy: Proxy | None = None
        """The proxy of the last connection; requests of plain HTTP name their server to it."""
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
        proxy = self.proxy = find_proxy(self.origin)
        host, port = (self.origin.host, self.origin.port) if proxy is None else (proxy.host, proxy.port)
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                bare = await trio.open_tcp_stream(host, port)
                _enable_tcp_keepalive(bare.socket)
                if self.origin.scheme == "http":
                    return ClientConnection(self, bare, bare)
                try:
                    if proxy is not None:
                        await _open_tunnel(bare, self.origin, proxy)
                    return ClientConnection(self, bare, await self._start_tls(bare))
                except BaseException:
                    bare.socket.close()
                    raise
        except trio.TooSlowError:
            raise ConnectFailed(f"{proxy or self.origin} doesn't answer within {CONNECT_TIMEOUT:g} s") from None
        except socket.gaierror as error:
            raise ConnectFailed(f"the name {host} is not known: {error.strerror or error}") from error
        except OSError as error:
            raise ConnectFailed(f"{proxy or self.origin} doesn't answer: {_reason(error)}") from error

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
        proxy, origin = self.pool.proxy, self.pool.origin
        is_forwarded = proxy is not None and origin.scheme == "http"
        lines = [f"{method} {origin if is_forwarded else ''}{target} HTTP/1.1", f"host: {origin.netloc}"]
        if proxy is not None and is_forwarded:
            lines += proxy.headers
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
            head = parse_head(await self._read_head())
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


async def _open_tunnel(bare: trio.SocketStream, origin: Origin, proxy: Proxy) -> None:
    """Have a proxy connect to the server (RFC 9110 §9.3.6).

    Raises:
        ConnectFailed: it refuses, or isn't an HTTP proxy.
    """
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    place = f"{host}:{origin.port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"host: {place}", *proxy.headers]
    await bare.send_all("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    answer = b""
    # Byte by byte at the end: what follows belongs to the server.
    while not answer.endswith(b"\r\n\r\n"):
        received = await bare.receive_some(1)
        if not received or len(answer) >= HEAD_LIMIT:
            raise ConnectFailed(f"{proxy} doesn't answer as an HTTP proxy")
        answer += received
    try:
        status = parse_head(answer[:-4]).status
    except FetchFailed:
        raise ConnectFailed(f"{proxy} doesn't answer as an HTTP proxy") from None
    if not 200 <= status < 300:
        wants = ", and wants a name and a password in its URL" if status == 407 else ""
        raise ConnectFailed(f"{proxy} refuses to connect to {origin} (HTTP {status}){wants}")


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
