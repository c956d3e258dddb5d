"""Mailboxes: bounded, each change once, and only what was asked for."""

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


async def heard(mailbox: NotificationQueue) -> dict[str, object]:
    with trio.fail_after(PATIENCE):
        return msgspec.json.decode(await mailbox.wait_next())


async def test_a_change_waits_once_however_often_it_happens():
    """A peer that doesn't read costs what it asked for and no more."""
    mailbox = NotificationQueue()
    mailbox.subscribed = {NOTE: NOTE.uri, LIST_CHANGES["resources"]: ""}
    for _ in range(100_000):
        mailbox.notify(NOTE)
        mailbox.notify(LIST_CHANGES["resources"])
    assert await heard(mailbox) == {"jsonrpc": "2.0", "method": RESOURCE_UPDATED, "params": {"uri": NOTE.uri}}
    assert (await heard(mailbox))["method"] == "notifications/resources/list_changed"
    mailbox.close()
    with pytest.raises(QueueClosed):
        await mailbox.wait_next()


async def test_only_what_was_asked_for_is_heard():
    """Under the URI by which the peer knows it, with the meta of its subscription."""
    broadcaster, mailbox = Broadcaster(), NotificationQueue(meta={"id": 7})
    assert broadcaster.is_empty
    broadcaster.subscribe(mailbox)
    mailbox.subscribed[NOTE] = "choracompose://config/content/note"
    broadcaster.publish(ChangeNotification(RESOURCE_UPDATED, "config://content/other"))
    broadcaster.publish(LIST_CHANGES["tools"])
    broadcaster.publish(NOTE)
    params = (await heard(mailbox))["params"]
    assert params == {"uri": "choracompose://config/content/note", "_meta": {"id": 7}}
    broadcaster.unsubscribe(mailbox)
    broadcaster.unsubscribe(mailbox)
    broadcaster.publish(NOTE)
    mailbox.close()
    with pytest.raises(QueueClosed):
        await mailbox.wait_next()


async def test_what_nobody_wants_any_more_is_not_told():
    """An unsubscription counts at once, also for what waits already."""
    mailbox = NotificationQueue()
    mailbox.subscribed = {NOTE: NOTE.uri, LIST_CHANGES["prompts"]: ""}
    mailbox.notify(NOTE)
    mailbox.notify(LIST_CHANGES["prompts"])
    del mailbox.subscribed[NOTE]
    assert (await heard(mailbox))["method"] == "notifications/prompts/list_changed"


async def test_messages_come_first_and_are_bounded():
    """Answers are owed; beyond the limit the transport gives the peer up."""
    mailbox = NotificationQueue(2)
    mailbox.subscribed[NOTE] = NOTE.uri
    mailbox.notify(NOTE)
    mailbox.put(b"1")
    mailbox.put(b"2")
    with pytest.raises(QueueFull):
        mailbox.put(b"3")
    assert [await mailbox.wait_next(), await mailbox.wait_next()] == [b"1", b"2"]
    assert (await heard(mailbox))["method"] == RESOURCE_UPDATED
    with pytest.raises(QueueFull):
        NotificationQueue().put(b"1")


async def test_each_change_reaches_one_of_two_readers():
    """Two streams of one session: everything is told, and nothing twice."""
    mailbox, taken = NotificationQueue(), list[bytes]()
    changes = [ChangeNotification(RESOURCE_UPDATED, f"config://content/{number}") for number in range(20)]
    mailbox.subscribed = {change: change.uri for change in changes}

    async def read() -> None:
        while True:
            taken.append(await mailbox.wait_next())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            for change in changes:
                await trio.testing.wait_all_tasks_blocked()
                mailbox.notify(change)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == len(changes)


async def test_what_waits_is_bounded_in_size_too(monkeypatch: pytest.MonkeyPatch):
    """A few large messages are as much as many small ones; a single one may be as large as it is."""
    monkeypatch.setattr(broadcast, "QUEUE_BYTES_LIMIT", 100)
    mailbox = NotificationQueue(10)
    for _ in range(3):
        mailbox.put(b"x" * 500)
        with pytest.raises(QueueFull):
            mailbox.put(b"y")
        assert await mailbox.wait_next() == b"x" * 500
    mailbox.put(b"x" * 60)
    mailbox.put(b"x" * 40)
    with pytest.raises(QueueFull):
        mailbox.put(b"x")
