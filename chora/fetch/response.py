"""Responses: their heads, and their bodies piece by piece."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from chora.fetch.failures import ConnectionBroken, FetchFailed, ResponseTooLarge
from chora.fetch.limits import DRAIN_LIMIT, HEAD_LIMIT, IDLE_TIME, READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from chora.fetch.connections import ClientConnection

CHUNKED, UNTIL_CLOSE = -1, -2

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( .*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?")


class ResponseHead(NamedTuple):
    """The head of a response."""

    status: int
    headers: dict[bytes, bytes]
    """By name in lower case; of several with one name the first, except of the two lists that matter."""
    length: int
    """Bytes of the body; or `CHUNKED`, or `UNTIL_CLOSE`: what comes before the connection ends."""
    keep_alive: bool
    """Whether the connection can be used again."""


def parse_head(head: bytes) -> ResponseHead:
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

    async def read(self, limit: int, resize: Callable[[int], object] | None = None) -> bytes:
        """The whole body, of at most `limit` bytes.

        Args:
            limit: bytes.
            resize: called with the bytes that have arrived, again and again; what it raises is raised here.

        Raises:
            ResponseTooLarge: it is longer.
            FetchFailed: it can't be read, or broke off.
        """
        first = await self.receive()
        if self._complete and len(first) <= limit:
            return first
        body = bytearray(first)
        while len(body) <= limit:
            if resize is not None:
                resize(len(body))
            if not (piece := await self.receive()):
                return bytes(body)
            body += piece
        raise ResponseTooLarge(f"the answer is larger than {limit:,} bytes")

    async def drain(self) -> None:
        """Read the rest, if it isn't much, so that the connection can be kept."""
        left = DRAIN_LIMIT
        while left > 0 and (piece := await self.receive()):
            left -= len(piece)
