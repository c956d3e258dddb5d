"""Notification queues: bounded, each change once, and only for subscriptions."""

import msgspec
import pytest
import trio
import trio.testing

from chora.protocol import broadcast
from chora.protocol.broadcast import (
    LIST_CHANGES,
    RESOURCE_UPDATED,
    Broadcaster,
    ChangeNotification,
    NotificationQueue,
    QueueClosed,
    QueueFull,
)
from tests.patience import PATIENCE

NOTE = ChangeNotification(RESOURCE_UPDATED, "config://content/note")


async def next_notification(queue: NotificationQueue) -> dict[str, object]:
    with trio.fail_after(PATIENCE):
        return msgspec.json.decode(await queue.wait_next())


async def test_a_change_is_queued_once_however_often_it_happens():
    """The queue of a client that doesn't read is bounded by its subscriptions."""
    queue = NotificationQueue()
    queue.subscribed = {NOTE: NOTE.uri, LIST_CHANGES["resources"]: ""}
    for _ in range(100_000):
        queue.notify(NOTE)
        queue.notify(LIST_CHANGES["resources"])
    assert await next_notification(queue) == {"jsonrpc": "2.0", "method": RESOURCE_UPDATED, "params": {"uri": NOTE.uri}}
    assert (await next_notification(queue))["method"] == "notifications/resources/list_changed"
    queue.close()
    with pytest.raises(QueueClosed):
        await queue.wait_next()


async def test_only_subscribed_changes_are_sent():
    """Under the URI that the client used, with the meta of its subscription."""
    broadcaster, queue = Broadcaster(), NotificationQueue(meta={"id": 7})
    assert broadcaster.is_empty
    broadcaster.subscribe(queue)
    queue.subscribed[NOTE] = "choracompose://config/content/note"
    broadcaster.publish(ChangeNotification(RESOURCE_UPDATED, "config://content/other"))
    broadcaster.publish(LIST_CHANGES["tools"])
    broadcaster.publish(NOTE)
    params = (await next_notification(queue))["params"]
    assert params == {"uri": "choracompose://config/content/note", "_meta": {"id": 7}}
    broadcaster.unsubscribe(queue)
    broadcaster.unsubscribe(queue)
    broadcaster.publish(NOTE)
    queue.close()
    with pytest.raises(QueueClosed):
        await queue.wait_next()


async def test_a_change_without_a_subscription_is_not_sent():
    """An unsubscription also applies to queued changes."""
    queue = NotificationQueue()
    queue.subscribed = {NOTE: NOTE.uri, LIST_CHANGES["prompts"]: ""}
    queue.notify(NOTE)
    queue.notify(LIST_CHANGES["prompts"])
    del queue.subscribed[NOTE]
    assert (await next_notification(queue))["method"] == "notifications/prompts/list_changed"


async def test_messages_come_first_and_are_bounded():
    """They may not be dropped; beyond the limit the transport ends the session."""
    queue = NotificationQueue(2)
    queue.subscribed[NOTE] = NOTE.uri
    queue.notify(NOTE)
    queue.put(b"1")
    queue.put(b"2")
    with pytest.raises(QueueFull):
        queue.put(b"3")
    assert [await queue.wait_next(), await queue.wait_next()] == [b"1", b"2"]
    assert (await next_notification(queue))["method"] == RESOURCE_UPDATED
    with pytest.raises(QueueFull):
        NotificationQueue().put(b"1")


async def test_each_change_reaches_one_of_two_readers():
    """Two streams of one session together get every change once."""
    queue, taken = NotificationQueue(), list[bytes]()
    changes = [ChangeNotification(RESOURCE_UPDATED, f"config://content/{number}") for number in range(20)]
    queue.subscribed = {change: change.uri for change in changes}

    async def read() -> None:
        while True:
            taken.append(await queue.wait_next())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            for change in changes:
                await trio.testing.wait_all_tasks_blocked()
                queue.notify(change)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == len(changes)


async def test_the_queue_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch):
    """By the total size of messages; a single one may be of any size."""
    monkeypatch.setattr(broadcast, "QUEUE_BYTES_LIMIT", 100)
    queue = NotificationQueue(10)
    for _ in range(3):
        queue.put(b"x" * 500)
        with pytest.raises(QueueFull):
            queue.put(b"y")
        assert await queue.wait_next() == b"x" * 500
    queue.put(b"x" * 60)
    queue.put(b"x" * 40)
    with pytest.raises(QueueFull):
        queue.put(b"x")
