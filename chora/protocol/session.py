"""The session of one client: its principal, its revision, and the requests in flight."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import trio

from chora.access import Principal
from chora.errors import Busy
from chora.protocol.broadcast import NotificationQueue
from chora.protocol.wire import Revision
from chora.request_context import Caller

STATE_LIMIT = 16 * 1024
"""Bytes that a session may keep for its client while nothing is in flight: its subscriptions."""
CALLS_LIMIT = 64
"""Calls of one session that may be in flight, until their answers are sent."""


class PendingRequest:
    """A request that was sent to the client."""

    def __init__(self) -> None:
        self.resolved = trio.Event()
        self.result: dict[str, Any] | None = None
        self.failure: str | None = None

    def resolve(self, result: Any, error: Any) -> None:
        """Take the client's response; only the first one counts."""
        if self.resolved.is_set():
            return
        if isinstance(result, dict):
            self.result = cast("dict[str, Any]", result)
        else:
            self.failure = f"the client answered with an error: {str(error)[:200]}"
        self.resolved.set()


class Session:
    """The session of one client.

    Args:
        transport: `stdio`, `http` or `sse`, for the log and for `hello_world`.
        principal: whose token the client uses.
    """

    def __init__(self, transport: str, principal: Principal) -> None:
        self.transport = transport
        self.principal = principal
        self.revision: Revision | None = None
        self.capabilities: dict[str, Any] = {}
        """The capabilities that the client announced in its handshake, as far as the server reads them."""
        self.log_level: str | None = None
        """The least level of log messages that the client gets; None for none."""
        self.requests_sent = 0
        self.pending_requests: dict[str, PendingRequest] = {}
        """Requests to the client that it hasn't answered yet, by id."""
        self.in_flight: dict[bytes, trio.CancelScope] = {}
        """What cancels each call in flight, by its id."""
        self._calls = 0
        self.notifications = NotificationQueue()
        """Notifications of the server, in handshake revisions; the transport subscribes the queue and sends them."""
        self.subscriptions: set[NotificationQueue] = set()
        """The queues of open subscriptions, in modern revisions."""

    @property
    def caller(self) -> Caller:
        """Those among whom work is shared fairly: the principal, and the session where there is one."""
        name = self.principal.name
        return Caller(name, name if self.revision is None else f"{name} {id(self)}")

    @contextmanager
    def call_slot(self) -> Generator[None]:
        """Count a call within the block.

        Raises:
            Busy: too many are in flight.
        """
        if self._calls >= CALLS_LIMIT:
            raise Busy(f"{CALLS_LIMIT} calls of this session wait for their answers.", "Wait for some of them.")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def cancel_calls(self) -> None:
        """Cancel the calls in flight; they get no answer."""
        for call in list(self.in_flight.values()):
            call.cancel()

    def close_subscriptions(self) -> None:
        """End the subscriptions; each gets its answer."""
        for queue in self.subscriptions:
            queue.close()
