"""MCP on stdin and stdout: one JSON message per line.

stdout belongs to the protocol. The descriptor is taken away before anything else runs and its number pointed at
stderr, so that a stray print of any library can't break the conversation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
from typing import NamedTuple

import trio

from chora.access import LOCAL
from chora.protocol import wire
from chora.protocol.hub import Closed
from chora.protocol.server import Server, Session
from chora.protocol.wire import RpcError

log = logging.getLogger("chora.stdio")

CHUNK = 64 * 1024


class Pipes(NamedTuple):
    """The two ends of a conversation, as descriptors of our own."""

    incoming: int
    outgoing: int


def take_over() -> Pipes:
    """Take stdin and stdout for the protocol; whoever reads or prints from now on gets nothing and stderr."""
    sys.stdout.flush()
    pipes = Pipes(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return pipes


async def serve(server: Server, pipes: Pipes, *, limit: int, grace: float, stopping: trio.Event) -> None:
    """Answer messages until the peer closes its end or `stopping` is set; then finish the calls in flight.

    Args:
        server: who answers.
        pipes: where from and where to.
        limit: the longest line accepted, bytes; a longer one is answered with an error and skipped.
        grace: seconds that calls in flight get to finish once the conversation is over.
        stopping: set when the process is asked to end.
    """
    session = Session("stdio", LOCAL)
    server.hub.join(session.mailbox)
    async with _open(pipes.outgoing) as sink, _open(pipes.incoming) as source:
        sending = trio.Lock()

        async def send(message: bytes) -> None:
            async with sending:
                await sink.send_all(message + b"\n")

        async def answer(line: bytes) -> None:
            reply = await server.answer(session, line, send)
            if reply is not None:
                await send(reply.body)

        async def tell() -> None:
            with contextlib.suppress(Closed):
                while True:
                    await send(await session.mailbox.take())

        async def stop() -> None:
            await stopping.wait()
            reading.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as calls:
                calls.start_soon(tell)
                async with trio.open_nursery() as reading:
                    reading.start_soon(stop)
                    lines = Lines(source, limit)
                    while True:
                        try:
                            line = await lines.receive()
                        except LineTooLong:
                            await send(_too_long(limit))
                            continue
                        if line is None:
                            break
                        # Everything but what may take long is answered at once and in order, so that a client
                        # which sends its handshake and its first call in one breath is understood.
                        if any(word in line for word in wire.LASTING):
                            calls.start_soon(answer, line)
                        elif line.strip():
                            await answer(line)
                    reading.cancel_scope.cancel()
                session.mailbox.close()
                session.stop_listening()
                calls.cancel_scope.deadline = trio.current_time() + grace
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.info("the client closed its end")
        finally:
            server.hub.leave(session.mailbox)


def _too_long(limit: int) -> bytes:
    return wire.error_response(None, RpcError(wire.INVALID_REQUEST, f"A message is longer than {limit:,} bytes"))


class LineTooLong(Exception):
    """A line is beyond the limit; its bytes were dropped as they arrived."""


class Lines:
    """Cuts what a stream receives into lines of at most `limit` bytes."""

    def __init__(self, source: trio.abc.ReceiveStream, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._dropping = False
        self._ended = False

    async def receive(self) -> bytes | None:
        """The next line, without its end; None when there is none any more.

        Raises:
            LineTooLong: the next line is too long; the one after it may be received.
        """
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > self._limit:
                self._dropping = True
                self._cut(self._searched)
            if self._ended:
                return self._take(len(self._buffer), 0) if self._buffer or self._dropping else None
            chunk = await self._source.receive_some(CHUNK)
            self._buffer += chunk
            self._ended = not chunk
        return self._take(end, 1)

    def _take(self, length: int, end: int) -> bytes:
        line = bytes(self._buffer[:length])
        self._cut(length + end)
        if self._dropping or length > self._limit:
            self._dropping = False
            raise LineTooLong
        return line

    def _cut(self, length: int) -> None:
        del self._buffer[:length]
        self._searched = 0


class ThreadedPipe(trio.abc.Stream):
    """Reads or writes a descriptor that the event loop can't wait for (a file, a Windows pipe) through a thread.

    A read is abandoned on cancellation; a buffered reader would hold its lock for ever.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        most = CHUNK if max_bytes is None else max_bytes
        return await trio.to_thread.run_sync(os.read, self._descriptor, most, abandon_on_cancel=True)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[await trio.to_thread.run_sync(os.write, self._descriptor, view) :]
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def _open(descriptor: int) -> trio.abc.Stream:
    """The cheapest way to wait for a descriptor: the event loop for pipes and sockets, a thread for the rest."""
    kind = os.fstat(descriptor).st_mode
    if sys.platform != "win32" and (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return trio.lowlevel.FdStream(descriptor)
    return ThreadedPipe(descriptor)
