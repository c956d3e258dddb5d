"""One peer's conversation: who it is, what is spoken, and what is under way."""

from __future__ import annotations

from typing import Any, cast

import trio

from chora.access import Principal
from chora.protocol.broadcast import NotificationQueue
from chora.protocol.wire import Revision


class Waiting:
    """A question that a client has been asked."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.result: dict[str, Any] | None = None
        self.refusal: str | None = None

    def settle(self, result: Any, error: Any) -> None:
        """Take the client's answer; only the first one counts."""
        if self.arrived.is_set():
            return
        if isinstance(result, dict):
            self.result = cast("dict[str, Any]", result)
        else:
            self.refusal = f"the client answered with an error: {str(error)[:200]}"
        self.arrived.set()


class Session:
    """One peer's conversation.

    Args:
        transport: `stdio`, `http` or `sse`, for the log and for `hello_world`.
        principal: who is speaking.
    """

    def __init__(self, transport: str, principal: Principal) -> None:
        self.transport = transport
        self.principal = principal
        self.revision: Revision | None = None
        self.capabilities: dict[str, Any] = {}
        """What the client said in its handshake that it can do."""
        self.level: str | None = None
        """The least level of the log messages it wants; None wants none."""
        self.asked = 0
        self.waiting: dict[str, Waiting] = {}
        """What the client was asked and hasn't answered yet."""
        self.in_flight: dict[bytes, trio.CancelScope] = {}
        self.mailbox = NotificationQueue()
        """What the server has to say of itself, in revisions with a handshake; the transport has the hub fill it."""
        self.listening: set[NotificationQueue] = set()
        """The subscriptions that are open, in revisions without one."""

    @property
    def caller(self) -> str:
        """Who this is when work is shared out: requests without a session are one caller by their principal."""
        return self.principal.name if self.revision is None else f"{self.principal.name} {id(self)}"

    def stop_listening(self) -> None:
        """End the subscriptions; each is answered."""
        for mailbox in self.listening:
            mailbox.close()
