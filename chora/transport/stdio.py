"""MCP on stdin and stdout: one JSON message per line."""

from __future__ import annotations

import contextlib
import logging

import trio

from chora.access import LOCAL
from chora.errors import Busy, LimitExceeded
from chora.leniency import without_bom
from chora.protocol import wire
from chora.protocol.broadcast import QueueClosed
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.protocol.wire import RpcError
from chora.transport.call_queue import CallQueue, refusal
from chora.transport.pipes import LineReader, LineTooLong, Pipes, open_pipe

log = logging.getLogger("chora.stdio")


async def serve(server: McpServer, pipes: Pipes, *, limit: int, grace: float, stopping: trio.Event) -> None:
    """Answer messages until the client closes its end or `stopping` is set; then finish the calls in flight.

    Args:
        server: answers the messages.
        pipes: stdin and stdout.
        limit: the longest line accepted, bytes; a longer one is answered with an error and skipped. As many bytes of
            calls may wait until earlier ones end.
        grace: seconds that calls in flight get to finish at the end.
        stopping: set when the process is asked to end; set here when the client has closed its end.
    """
    session = Session("stdio", LOCAL)
    server.broadcaster.subscribe(session.notifications)
    async with open_pipe(pipes.outgoing) as sink, open_pipe(pipes.incoming) as source:
        sending = trio.Lock()

        async def send(message: bytes) -> None:
            try:
                sending.acquire_nowait()  # acquire() is a checkpoint: all other tasks would run first
            except trio.WouldBlock:
                await sending.acquire()
            try:
                await sink.send_all(message + b"\n")
            finally:
                sending.release()

        async def answer(line: bytes) -> None:
            with server.memory.hold(session.principal.name) as holding:
                with contextlib.suppress(Busy, LimitExceeded):  # then there is no room for the decoded message either
                    holding.charge(len(line))
                reply = await server.answer(session, line, send, holding=holding)
                if reply is not None:
                    await send(reply.body)

        async def send_notifications() -> None:
            with contextlib.suppress(QueueClosed):
                while True:
                    await send(await session.notifications.wait_next())

        async def stop() -> None:
            await stopping.wait()
            reading.cancel_scope.cancel()

        try:
            with server.memory.hold(session.principal.name) as queued:
                async with trio.open_nursery() as calls:
                    calls.start_soon(send_notifications)
                    queue = CallQueue(session, answer, calls, queued, limit)
                    async with trio.open_nursery() as reading:
                        reading.start_soon(stop)
                        lines = LineReader(source, limit)
                        while True:
                            try:
                                line = await lines.receive_line()
                            except LineTooLong:
                                await send(_line_too_long(limit))
                                continue
                            if line is None:
                                break
                            line = without_bom(line)
                            # Messages that can't take long are answered at once and in order, so that a client may send
                            # its handshake and its first call in one write.
                            if wire.is_long_running(line):
                                try:
                                    await queue.add_call(line)
                                except Busy as error:
                                    await send(refusal(line, error))
                            elif line.strip():
                                await answer(line)
                        reading.cancel_scope.cancel()
                    stopping.set()
                    session.notifications.close()
                    session.close_subscriptions()
                    calls.cancel_scope.deadline = trio.current_time() + grace
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.info("the client closed the connection")
        finally:
            server.broadcaster.unsubscribe(session.notifications)


def _line_too_long(limit: int) -> bytes:
    return wire.error_response(None, RpcError(wire.INVALID_REQUEST, f"A message is longer than {limit:,} bytes"))
