"""Work on the items of a list, several at once."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from chora.concurrency import for_each_bounded
from chora.errors import InvalidInput
from tests.patience import PATIENCE


@pytest.mark.parametrize("limit", [1, 2, 5, 9])
async def test_items_are_begun_in_order_and_no_more_at_once_than_allowed(limit: int):
    """All of them, each once; nothing is left."""
    begun: list[int] = []
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        begun.append(item)
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        running -= 1

    with trio.fail_after(PATIENCE):
        assert await for_each_bounded(range(5), work, limit=limit) == []
    assert sorted(begun) == [0, 1, 2, 3, 4]
    assert begun == sorted(begun) or limit > 1
    assert most == min(limit, 5)


async def test_what_is_not_begun_is_returned_in_order():
    """Once the work is to stop, what was begun is finished and the rest comes back."""
    done: list[str] = []

    async def work(item: str) -> None:
        await trio.lowlevel.checkpoint()
        done.append(item)

    with trio.fail_after(PATIENCE):
        rest = await for_each_bounded(["d", "a", "c", "b"], work, limit=1, should_stop=lambda: bool(done))
    assert (done, rest) == (["d"], ["a", "c", "b"])


async def test_the_first_failure_cancels_the_others():
    """It is raised as it is, not in a group."""
    cancelled: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            await trio.lowlevel.checkpoint()
            raise InvalidInput("One is wrong.", "Leave it out.")
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(item)

    with trio.fail_after(PATIENCE), pytest.raises(InvalidInput, match="One is wrong"):
        await for_each_bounded([0, 1, 2, 3], work, limit=3)
    assert sorted(cancelled) == [0, 2]
