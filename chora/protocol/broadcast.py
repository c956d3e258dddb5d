"""Who is told what changed.

A change says that something is no longer what it was, not what it is now: whoever cares reads it again. So a change
waits in a mailbox once, however often it happens, and a peer that doesn't read costs what it asked for and no more.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import trio

from chora.protocol import wire

URI_LIMIT = 2048
"""Characters of a URI that may be subscribed to."""
SUBSCRIPTION_LIMIT = 1000
"""Resources that one mailbox may wait for."""
WAITING_BYTES = 4 * 1024 * 1024
"""Of messages that may wait in one mailbox; a single one may be larger."""
UPDATED = "notifications/resources/updated"


class Change(NamedTuple):
    """A notification to send: about a list, or about one resource."""

    method: str
    uri: str = ""


List = Literal["tools", "resources", "prompts"]

LISTS: dict[List, Change] = {
    "tools": Change("notifications/tools/list_changed"),
    "resources": Change("notifications/resources/list_changed"),
    "prompts": Change("notifications/prompts/list_changed"),
}


class QueueFull(Exception):
    """More waits for a peer than it may let pile up."""


class QueueClosed(Exception):
    """Nothing will come any more."""


class NotificationQueue:
    """What waits to be sent to one peer: messages in order, and changes that it wants to hear of.

    Args:
        limit: messages that may wait.
        meta: the `_meta` of every notification.
    """

    __slots__ = ("_arrived", "_changes", "_closed", "_limit", "_messages", "_meta", "_size", "wanted")

    def __init__(self, limit: int = 0, meta: dict[str, Any] | None = None) -> None:
        self.wanted: dict[Change, str] = {}
        """What the peer wants to hear of, and for a resource the URI by which it knows it."""
        self._limit = limit
        self._meta = meta
        self._messages: list[bytes] = []  # few; an empty deque holds 600 bytes, and every session has one
        self._size = 0
        self._changes: dict[Change, None] = {}
        self._arrived: trio.Event | None = None
        self._closed = False

    def put(self, message: bytes) -> None:
        """Add a message.

        Raises:
            Full: too many wait already.
        """
        if len(self._messages) >= self._limit or (self._messages and self._size + len(message) > WAITING_BYTES):
            raise QueueFull
        self._messages.append(message)
        self._size += len(message)
        self._wake()

    def notify(self, change: Change) -> None:
        """Take note of a change, if it is wanted."""
        if change in self.wanted:
            self._changes[change] = None
            self._wake()

    def close(self) -> None:
        """Let nothing more in; what waits may still be taken."""
        self._closed = True
        self._wake()

    async def wait_next(self) -> bytes:
        """The next message, once there is one.

        Raises:
            Closed: the mailbox is closed and empty.
        """
        while True:
            if self._messages:
                message = self._messages.pop(0)
                self._size -= len(message)
                return message
            if self._changes:
                change = next(iter(self._changes))
                del self._changes[change]
                if change in self.wanted:  # nobody unsubscribed meanwhile
                    return self._notification(change)
                continue
            if self._closed:
                raise QueueClosed
            if self._arrived is None or self._arrived.is_set():
                self._arrived = trio.Event()
            await self._arrived.wait()

    def _notification(self, change: Change) -> bytes:
        params: dict[str, Any] = {} if self._meta is None else {"_meta": self._meta}
        if change.uri:
            params["uri"] = self.wanted[change]
        return wire.notification(change.method, params)

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()


class Broadcaster:
    """Passes changes on to every mailbox."""

    def __init__(self) -> None:
        self._queues: set[NotificationQueue] = set()

    @property
    def is_empty(self) -> bool:
        """Whether nobody could hear."""
        return not self._queues

    def subscribe(self, mailbox: NotificationQueue) -> None:
        """Have a mailbox hear of changes from now on."""
        self._queues.add(mailbox)

    def unsubscribe(self, mailbox: NotificationQueue) -> None:
        """Have it hear of nothing more; one that isn't there is fine."""
        self._queues.discard(mailbox)

    def publish(self, change: Change) -> None:
        """Tell everybody who wants to hear of it; never waits."""
        for mailbox in self._queues:
            mailbox.notify(change)
