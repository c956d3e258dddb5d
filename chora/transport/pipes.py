"""Stdin and stdout for the protocol: taking them over, waiting for them, reading lines.

stdout belongs to the protocol. Its descriptor is duplicated before anything else runs, and its number pointed at
stderr, so that a stray print of any library can't corrupt the messages.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import NamedTuple

import trio

READ_BYTES = 64 * 1024


class Pipes(NamedTuple):
    """Stdin and stdout, as descriptors of our own."""

    incoming: int
    outgoing: int


def take_stdio() -> Pipes:
    """Take stdin and stdout for the protocol; from now on reading stdin gives nothing, and prints go to stderr."""
    sys.stdout.flush()
    pipes = Pipes(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return pipes


class LineTooLong(Exception):
    """A line is beyond the limit; its bytes were dropped as they arrived."""


class LineReader:
    """Cuts what a stream receives into lines of at most `limit` bytes (CWE-770)."""

    def __init__(self, source: trio.abc.ReceiveStream, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._dropping = False
        self._ended = False

    async def receive_line(self) -> bytes | None:
        """The next line, without its end; None at the end of the stream.

        Raises:
            LineTooLong: the next line is too long; the one after it may be received.
        """
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > self._limit:
                self._dropping = True
                self._consume(self._searched)
            if self._ended:
                return self._take_line(len(self._buffer), 0) if self._buffer or self._dropping else None
            chunk = await self._source.receive_some(READ_BYTES)
            self._buffer += chunk
            self._ended = not chunk
        return self._take_line(end, 1)

    def _take_line(self, length: int, end: int) -> bytes:
        line = bytes(self._buffer[:length])
        self._consume(length + end)
        if self._dropping or length > self._limit:
            self._dropping = False
            raise LineTooLong
        return line

    def _consume(self, length: int) -> None:
        del self._buffer[:length]
        self._searched = 0


class PolledPipe(trio.abc.Stream):
    """Reads or writes a pipe that the event loop can wait for.

    Unlike trio's own stream it only waits when it has to, and `send_now` writes without a point at which the writer
    could be cancelled.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_drained = False
        """Whether the last read took all there was, so that the next one has to wait."""
        if sys.platform != "win32":
            os.set_blocking(descriptor, False)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        most = READ_BYTES if max_bytes is None else max_bytes
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            waited = self._is_drained
            if waited:
                await trio.lowlevel.wait_readable(self._open_descriptor())
            try:
                received = os.read(self._open_descriptor(), most)
            except BlockingIOError:
                self._is_drained = True
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            else:
                self._is_drained = len(received) < most
                if not waited:  # other tasks run, even if the other side never pauses
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(data)[self.send_now(data) :]
        while view:
            await trio.lowlevel.wait_writable(self._open_descriptor())
            view = view[self.send_now(view) :]

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Write as much as fits without waiting; returns the number of bytes."""
        try:
            return os.write(self._open_descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._open_descriptor())

    async def aclose(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)
        await trio.lowlevel.checkpoint()

    def _open_descriptor(self) -> int:
        if self._descriptor < 0:
            raise trio.ClosedResourceError("the pipe was closed")
        return self._descriptor


class ThreadedPipe(trio.abc.Stream):
    """Reads or writes a descriptor that the event loop can't wait for (a file, a Windows pipe) through a thread.

    A read is abandoned on cancellation; a buffered reader would hold its lock forever.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        most = READ_BYTES if max_bytes is None else max_bytes
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


def open_pipe(descriptor: int) -> trio.abc.Stream:
    """The cheapest way to wait for a descriptor: the event loop for pipes and sockets, a thread for the rest."""
    kind = os.fstat(descriptor).st_mode
    if sys.platform != "win32" and (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return PolledPipe(descriptor)
    return ThreadedPipe(descriptor)
