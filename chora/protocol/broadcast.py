"""Notifications of changes, from the broadcaster to the queue of each client.

A notification says that something changed, not what it is now: the client reads it again. So a change waits in a queue
once, however often it happens, and a client that doesn't read costs the memory of its subscriptions and no more.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import trio

from chora.errors import Busy, LimitExceeded
from chora.peer_memory import Holding
from chora.protocol import wire

URI_LIMIT = 2048
"""Characters of a URI that may be subscribed to."""
SUBSCRIPTION_LIMIT = 1000
"""Resources that one stream of the modern era may be subscribed to."""
SUBSCRIPTION_BYTES = 200
"""Bytes that a subscription to a resource takes, besides those of its URI."""
QUEUE_BYTES_LIMIT = 4 * 1024 * 1024
"""Bytes of messages that may wait in one queue; a single one may be larger."""
RESOURCE_UPDATED = "notifications/resources/updated"


class ChangeNotification(NamedTuple):
    """A notification to send: about a list, or about one resource."""

    method: str
    uri: str = ""


ListName = Literal["tools", "resources", "prompts"]

LIST_CHANGES: dict[ListName, ChangeNotification] = {
    "tools": ChangeNotification("notifications/tools/list_changed"),
    "resources": ChangeNotification("notifications/resources/list_changed"),
    "prompts": ChangeNotification("notifications/prompts/list_changed"),
}


class QueueFull(Exception):
    """Too many messages wait for a client that doesn't read them."""


class QueueClosed(Exception):
    """The queue is closed and empty."""


class NotificationQueue:
    """What waits to be sent to one client: messages in order, and changes that it is subscribed to.

    Args:
        limit: messages that may wait.
        meta: the `_meta` of every notification.
        holding: is charged for the messages that wait, where there are any.
    """

    __slots__ = (
        "_arrived",
        "_changes",
        "_closed",
        "_holding",
        "_limit",
        "_messages",
        "_meta",
        "_size",
        "_taken",
        "subscribed",
    )

    def __init__(self, limit: int = 0, meta: dict[str, Any] | None = None, holding: Holding | None = None) -> None:
        self.subscribed: dict[ChangeNotification, str] = {}
        """The changes that the client is subscribed to, and for a resource the URI as the client spells it."""
        self._limit = limit
        self._meta = meta
        self._holding = holding
        self._taken = 0  # bytes of the message that was taken last, and may not be sent yet
        self._messages: list[bytes] = []  # few; an empty deque holds 600 bytes, and every session has one
        self._size = 0
        self._changes: dict[ChangeNotification, None] = {}
        self._arrived: trio.Event | None = None
        self._closed = False

    def state_bytes(self) -> int:
        """About the bytes that the subscriptions take."""
        different = sum(len(each) for change, each in self.subscribed.items() if change.uri != each)
        return different + sum(SUBSCRIPTION_BYTES + len(change.uri) for change in self.subscribed)

    def put(self, message: bytes) -> None:
        """Add a message.

        Raises:
            QueueFull: too many wait already, or the account of what is held for peers has no room.
        """
        if len(self._messages) >= self._limit or (self._messages and self._size + len(message) > QUEUE_BYTES_LIMIT):
            raise QueueFull
        try:
            if self._holding is not None:
                self._holding.charge(len(message))
        except (Busy, LimitExceeded):
            raise QueueFull from None
        self._messages.append(message)
        self._size += len(message)
        self._wake()

    def notify(self, change: ChangeNotification) -> None:
        """Queue a change, if the client is subscribed to it."""
        if change in self.subscribed:
            self._changes[change] = None
            self._wake()

    def close(self) -> None:
        """Accept nothing more; what waits may still be taken."""
        self._closed = True
        self._wake()

    async def wait_next(self) -> bytes:
        """Wait for the next message.

        Raises:
            QueueClosed: the queue is closed and empty.
        """
        if self._holding is not None:
            self._holding.charge(-self._taken)
        self._taken = 0
        while True:
            if self._messages:
                message = self._messages.pop(0)
                self._taken = len(message)
                self._size -= len(message)
                return message
            if self._changes:
                change = next(iter(self._changes))
                del self._changes[change]
                if change in self.subscribed:  # the client may have unsubscribed meanwhile
                    return self._notification(change)
                continue
            if self._closed:
                raise QueueClosed
            if self._arrived is None or self._arrived.is_set():
                self._arrived = trio.Event()
            await self._arrived.wait()

    def _notification(self, change: ChangeNotification) -> bytes:
        params: dict[str, Any] = {} if self._meta is None else {"_meta": self._meta}
        if change.uri:
            params["uri"] = self.subscribed[change]
        return wire.notification(change.method, params)

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()


class Broadcaster:
    """Publishes changes to the subscribed queues."""

    def __init__(self) -> None:
        self._queues: set[NotificationQueue] = set()

    @property
    def is_empty(self) -> bool:
        """Whether no queue is subscribed."""
        return not self._queues

    def subscribe(self, queue: NotificationQueue) -> None:
        """Notify a queue of changes from now on."""
        self._queues.add(queue)

    def unsubscribe(self, queue: NotificationQueue) -> None:
        """Stop notifying a queue; one that isn't subscribed is ignored."""
        self._queues.discard(queue)

    def publish(self, change: ChangeNotification) -> None:
        """Notify every queue that is subscribed to the change; never waits."""
        for queue in self._queues:
            queue.notify(change)
