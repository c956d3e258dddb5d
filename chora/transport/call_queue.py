"""The calls of a client that has all of its messages on one stream: so many at a time, the others in a queue.

The client can't be told to wait in any other way than by not reading on. But behind its next call may stand what the
calls in flight wait for: the answer to a question, or a cancellation. So calls that are too many wait in a queue, as
the lines that they are, and reading goes on; it only stops when the queue is full, and not for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio
from msgspec import UNSET

from chora.errors import Busy, LimitExceeded
from chora.peer_memory import Holding
from chora.protocol import wire
from chora.protocol.envelope import parse_message
from chora.protocol.session import CALLS_LIMIT, Session
from chora.protocol.wire import RpcError

LINE_BYTES = 1024
"""Bytes that a queued line takes besides its own."""
STUCK_AFTER = 10.0
"""Seconds for which reading stops while the queue is full and no call ends. After that, calls are refused until one
ends: those in flight may be waiting for a message of the client."""


class _QueuedCall(NamedTuple):
    line: bytes
    id_bytes: bytes | None
    scope: trio.CancelScope
    """Is cancelled when the client cancels the call."""

    @property
    def size(self) -> int:
        return len(self.line) + LINE_BYTES


class CallQueue:
    """Runs the calls of one session.

    Args:
        session: whose calls.
        answer: answers one line.
        nursery: where the calls run.
        holding: is charged for what waits.
        limit: bytes that may wait.
    """

    def __init__(
        self,
        session: Session,
        answer: Callable[[bytes], Awaitable[None]],
        nursery: trio.Nursery,
        holding: Holding,
        limit: int,
    ) -> None:
        self._session = session
        self._answer = answer
        self._nursery = nursery
        self._holding = holding
        self._limit = limit
        self._running = 0
        self._queued: deque[_QueuedCall] = deque()
        self._call_ended = trio.Event()
        self._is_stuck = False

    async def add_call(self, line: bytes) -> None:
        """Run a call, now or when there is a slot; while the queue is full, wait for room in it.

        Answers to questions, and notifications, which may look like calls, are handled at once.

        Raises:
            Busy: there was none for `STUCK_AFTER` seconds.
        """
        if self._running < CALLS_LIMIT:
            self._start(line)
            return
        try:
            incoming = None if line.lstrip()[:1] == b"[" else parse_message(line)
        except RpcError:  # the answer is an error, which takes no time
            await self._answer(line)
            return
        id_bytes = None if incoming is None else incoming.id_bytes
        is_call = incoming is None or (incoming.method is not UNSET and id_bytes is not None)
        if not is_call or id_bytes in self._session.in_flight:  # what only looks like a call, or is a wrong one
            await self._answer(line)
            return
        call = _QueuedCall(line, id_bytes, trio.CancelScope())
        await self._wait_for_room(call)
        if self._running < CALLS_LIMIT:
            self._start(line)
            return
        if id_bytes is not None:
            self._session.in_flight[id_bytes] = call.scope
        self._queued.append(call)

    async def _wait_for_room(self, call: _QueuedCall) -> None:
        with trio.move_on_after(0 if self._is_stuck else STUCK_AFTER):
            while self._running >= CALLS_LIMIT:
                if not self._queued or self._holding.bytes + call.size <= self._limit:
                    try:
                        self._holding.charge(call.size)
                        return
                    except (Busy, LimitExceeded):
                        pass
                await self._call_ended.wait()
            return
        self._is_stuck = True
        raise Busy(
            f"{CALLS_LIMIT} calls wait for their answers, and {len(self._queued):,} for them.",
            "Wait for some of them, answer what was asked, or cancel some.",
        )

    def _start(self, line: bytes) -> None:
        self._running += 1
        self._nursery.start_soon(self._run, line)

    async def _run(self, line: bytes) -> None:
        try:
            await self._answer(line)
        finally:
            self._running -= 1
            self._is_stuck = False
            self._call_ended.set()
            self._call_ended = trio.Event()
            self._start_next()

    def _start_next(self) -> None:
        while self._queued and self._running < CALLS_LIMIT:
            call = self._queued.popleft()
            self._holding.charge(-call.size)
            if call.id_bytes is not None:
                del self._session.in_flight[call.id_bytes]
            if not call.scope.cancel_called:
                self._start(call.line)


def refusal(line: bytes, error: Busy) -> bytes:
    """The answer to a call that isn't run."""
    failure = RpcError(
        wire.INTERNAL_ERROR, error.message, {**error.details, "code": error.code, "hint": error.next_step}
    )
    try:
        return wire.error_response(parse_message(line).id_bytes, failure)
    except RpcError:
        return wire.error_response(None, failure)
