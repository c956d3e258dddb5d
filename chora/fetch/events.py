"""Server-sent events (html.spec.whatwg.org/multipage/server-sent-events.html) in the body of a response."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from chora.fetch.failures import ResponseTooLarge
from chora.fetch.response import HttpResponse


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
        resize: called with the bytes of the event that have arrived, again and again; what it raises is raised here.
    """

    def __init__(self, response: HttpResponse, limit: int, resize: Callable[[int], object] | None = None) -> None:
        self._response = response
        self._limit = limit
        self._resize = resize
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
            if self._resize is not None:
                self._resize(len(buffer) + self._limit - most)

    def _too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(f"an event of the stream is larger than {self._limit:,} bytes")
