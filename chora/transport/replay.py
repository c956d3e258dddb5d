"""Event streams that survive their connection.

The events of a session's requests are recorded for a while, under ids that the client gets with them. A client whose
connection broke, or was dropped on purpose, resumes the stream after the last id it saw.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

import trio

from chora.protocol.session import STATE_LIMIT

Write = Callable[[bytes], Awaitable[None]]

STREAM_EVENTS_LIMIT = 256
STREAM_BYTES_LIMIT = 1024 * 1024
"""Bytes of the stream of a request; the newest events are recorded, and the very newest in any case. The stream of a
session, which has no request to be charged to, records as much as a session may keep."""
ENDED_STREAMS_LIMIT = 8
"""Ended streams that are recorded of one session."""
ENDED_STREAM_LIFETIME = 300.0
"""Seconds for which a stream is recorded after it ended."""
REPLAY_BYTES_LIMIT = 64 * 1024 * 1024
"""Bytes of ended streams of all sessions (CWE-770); beyond that the oldest are removed before their time."""


def encode_event(data: bytes, *, identity: str = "", kind: bytes = b"message", retry: float | None = None) -> bytes:
    """One event as it is sent.

    Args:
        data: one line; an empty one only brings the id.
        identity: the id after which a client can resume.
        kind: the event's type.
        retry: seconds after which the client is to reconnect when the connection ends.
    """
    head = b"id: " + identity.encode() + b"\r\n" if identity else b""
    if retry is not None:
        head += b"retry: %d\r\n" % round(retry * 1000)
    if data:
        head += b"event: " + kind + b"\r\n"
    return head + b"data: " + data + b"\r\n\r\n"


class RecordedEvent(NamedTuple):
    """An event that was sent, or will be."""

    number: int
    frame: bytes


class EventStream:
    """The events of one stream.

    Args:
        name: unique among the streams of its session.
        is_standalone: it has what belongs to no request; such a stream ends with its connection.
    """

    def __init__(self, name: str, *, is_standalone: bool = False) -> None:
        self.name = name
        self.is_standalone = is_standalone
        self.ended_at: float | None = trio.current_time() if is_standalone else None
        self.size = 0
        """Bytes of the recorded events."""
        self.on_end: Callable[[], None] | None = None
        """Called when the stream ends."""
        self._events: deque[RecordedEvent] = deque()
        self.last_number = 0
        """The number of the newest event."""
        self._sent = 0
        self._connection: trio.CancelScope | None = None
        self._changed = trio.Event()

    def add_event(self, data: bytes, *, retry: float | None = None) -> RecordedEvent:
        """Add an event; never waits."""
        self.last_number += 1
        recorded = RecordedEvent(
            self.last_number, encode_event(data, identity=f"{self.name}.{self.last_number}", retry=retry)
        )
        self._events.append(recorded)
        self.size += len(recorded.frame)
        limit = STATE_LIMIT if self.is_standalone else STREAM_BYTES_LIMIT
        while len(self._events) > 1 and (len(self._events) > STREAM_EVENTS_LIMIT or self.size > limit):
            self.size -= len(self._events.popleft().frame)
        self._wake()
        return recorded

    async def send_event(self, data: bytes, *, retry: float | None = None) -> None:
        """Add an event, and wait until it was sent if there is a connection."""
        await self.wait_sent(self.add_event(data, retry=retry).number)

    async def wait_sent(self, number: int) -> None:
        """Wait until an event was sent if there is a connection."""
        await trio.lowlevel.checkpoint()
        while self._connection is not None and self._sent < number:
            await self._changed.wait()

    def forget_events(self) -> None:
        """Keep the newest event only: there is no room for those that a client may want to see again."""
        while len(self._events) > 1:
            self.size -= len(self._events.popleft().frame)

    def events_after(self, number: int) -> list[RecordedEvent]:
        """The recorded events after a number."""
        return [each for each in self._events if each.number > number]

    def end_stream(self) -> None:
        """End the stream; its recorded events can still be read."""
        self.ended_at = trio.current_time()
        self._wake()
        if self.on_end is not None:
            self.on_end()

    def disconnect(self) -> None:
        """Stop writing to the current connection; the client may resume on another one."""
        if self._connection is not None:
            self._connection.cancel()

    @contextmanager
    def attach_connection(self) -> Generator[trio.CancelScope]:
        """Make this the stream's connection; when another one takes over, what is inside is cancelled."""
        self.disconnect()
        with trio.CancelScope() as scope:
            self._connection = scope
            self.ended_at = None if self.is_standalone else self.ended_at
            try:
                yield scope
            finally:
                if self._connection is scope:  # not if another connection took over
                    self._connection = None
                    self._wake()
                    if self.is_standalone:
                        self.end_stream()

    async def write_events(
        self, write: Write, after: int = 0, on_disconnect: Callable[[Callable[[], None]], None] | None = None
    ) -> bool:
        """Write the events after a number as they come.

        An earlier connection is dropped: the client has reconnected.

        Args:
            write: to the connection.
            after: the number.
            on_disconnect: registers a callback for the end of this connection.

        Returns:
            Whether the stream ended; if not, the connection was dropped.
        """
        with self.attach_connection() as scope:
            if on_disconnect is not None:
                on_disconnect(scope.cancel)
            self._sent = after
            while True:
                changed = self._changed
                for recorded in self.events_after(self._sent):
                    await write(recorded.frame)
                    self._sent = recorded.number
                    self._wake()
                if self.ended_at is not None and self._sent >= self.last_number:
                    return True
                await changed.wait()
        return False

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class ReplayBuffer:
    """Bounds the memory of the ended streams of all sessions.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = REPLAY_BYTES_LIMIT if limit is None else min(limit, REPLAY_BYTES_LIMIT)
        self._ended: dict[EventStream, tuple[SessionStreams, int]] = {}
        self.size = 0
        """Bytes."""

    def add_stream(self, stream: EventStream, owner: SessionStreams) -> None:
        """Add an ended stream; removes the oldest ones when there are too many bytes."""
        self.remove_stream(stream)
        self._ended[stream] = owner, stream.size
        self.size += stream.size
        while self.size > self._limit and len(self._ended) > 1:
            oldest = next(iter(self._ended))
            self._ended[oldest][0].remove_stream(oldest)

    def remove_stream(self, stream: EventStream) -> None:
        """Count a stream no longer."""
        _, size = self._ended.pop(stream, (None, 0))
        self.size -= size


class SessionStreams:
    """The streams of one session.

    Args:
        replay_buffer: bounds the memory of all sessions together.
    """

    def __init__(self, replay_buffer: ReplayBuffer | None = None) -> None:
        self._replay_buffer = replay_buffer or ReplayBuffer()
        self._streams: dict[str, EventStream] = {}
        self._count = 0

    def open_stream(self, *, is_standalone: bool = False) -> EventStream:
        """Open a new stream."""
        self.remove_expired()
        self._count += 1
        stream = self._streams[str(self._count)] = EventStream(str(self._count), is_standalone=is_standalone)
        stream.on_end = lambda: self._add_to_replay_buffer(stream)
        return stream

    def _add_to_replay_buffer(self, stream: EventStream) -> None:
        if stream.name in self._streams:  # not if the session has ended meanwhile
            self._replay_buffer.add_stream(stream, self)

    def find_event(self, last_event: str) -> tuple[EventStream, int] | None:
        """The stream of an event id, and the event's number; None if it isn't known (any more)."""
        name, _, number = last_event.partition(".")
        stream = self._streams.get(name)
        if stream is None or not (number.isascii() and number.isdecimal() and len(number) <= 9):
            return None
        return (stream, int(number)) if int(number) <= stream.last_number else None

    def remove_expired(self) -> None:
        """Remove streams that ended long ago, and the oldest where there are too many."""
        ended = [(each.ended_at, each) for each in self._streams.values() if each.ended_at is not None]
        ended.sort(key=lambda each: each[0])
        for number, (when, stream) in enumerate(ended, ENDED_STREAMS_LIMIT - len(ended)):
            if number < 0 or when < trio.current_time() - ENDED_STREAM_LIFETIME:
                self.remove_stream(stream)

    def remove_stream(self, stream: EventStream) -> None:
        """Remove one stream."""
        self._streams.pop(stream.name, None)
        self._replay_buffer.remove_stream(stream)

    def clear(self) -> None:
        """Remove all streams: the session has ended."""
        for stream in list(self._streams.values()):
            self.remove_stream(stream)
