"""Work on the items of a list, several at once."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
import trio.testing

from chora.concurrency import Displaced, FairSemaphore, for_each_bounded
from chora.errors import InvalidInput
from tests.conftest import requirement
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


# -- the fair semaphore -----------------------------------------------------------------------------------------


def share(principal: str, session: str = "", work: str = "") -> tuple[str, str, str]:
    return principal, f"{principal} {session}", f"{principal} does {work}"


async def served_order(turns: FairSemaphore, *shares: tuple[str, str, str], seconds: float = 0.0) -> list[str]:
    """The order in which shares, waiting in this order, get the one slot, which each holds for some seconds."""
    order: list[str] = []

    async def work(number: int, mine: tuple[str, str, str]) -> None:
        await turns.acquire(mine)
        order.append(f"{mine[1]} {number}".replace("  ", " "))
        turns.release(mine, seconds)

    await turns.acquire(share("x"))
    async with trio.open_nursery() as nursery:
        for number, mine in enumerate(shares):
            nursery.start_soon(work, number, mine)
            await trio.testing.wait_all_tasks_blocked()
        turns.release(share("x"), 0.0)
    assert turns.has_slot_for(share("x"))
    assert turns.waiting_count() == 0
    return order


async def test_equal_callers_take_turns_in_the_order_of_their_arrival(autojump_clock: trio.testing.MockClock):
    """The first waiting task of each, then the second of each."""
    shares = [share(who) for who in ("a", "a", "a", "b", "b", "c")]
    assert await served_order(FairSemaphore(1), *shares, seconds=2.0) == ["a 0", "b 3", "c 5", "a 1", "b 4", "a 2"]


@pytest.mark.parametrize(
    ("flood", "mine"),
    [
        ([share("bad", str(n), f"bomb{n}") for n in range(20)], share("good", "", "text")),
        ([share("all", "bad", f"bomb{n}") for n in range(20)], share("all", "good", "text")),
        ([share("all", str(n), "bomb") for n in range(20)], share("all", "good", "text")),
    ],
    ids=["of another principal", "in one session", "of one work in many sessions"],
)
@requirement("render.fair")
async def test_a_flood_makes_others_wait_for_one_task(
    flood: list[tuple[str, str, str]], mine: tuple[str, str, str], autojump_clock: trio.testing.MockClock
):
    """Once the first has shown how long it takes: by its principal, its session or the work itself."""
    order = await served_order(FairSemaphore(1), *flood, mine, seconds=5.0)
    assert order.index(f"{mine[1]} 20".replace("  ", " ")) == 1


@requirement("render.fair")
async def test_what_usually_takes_long_leaves_a_slot_free(autojump_clock: trio.testing.MockClock):
    """For what is quick or not known yet, so that it needn't wait; where there is one slot only, it may have that. What
    has become quick counts as quick again.
    """
    turns = FairSemaphore(2)
    slow, quick, unknown = share("a", "1", "slow"), share("a", "2", "quick"), share("a", "3", "new")
    for mine, seconds in ((slow, 5.0), (quick, 0.01)):
        await turns.acquire(mine)
        turns.release(mine, seconds)
    await turns.acquire(slow)
    assert [turns.has_slot_for(each) for each in (slow, quick, unknown)] == [False, True, True]
    served: list[str] = []

    async def wait(name: str, mine: tuple[str, str, str]) -> None:
        await turns.acquire(mine)
        served.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "slow", slow)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, "quick", quick)
        await trio.testing.wait_all_tasks_blocked()
        assert served == ["quick"]
        turns.release(quick, 0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert served == ["quick"]
        turns.release(slow, 0.01)
    assert served == ["quick", "slow"]
    for _ in range(5):
        turns.release(slow, 0.01)
    assert turns.has_slot_for(slow)
    alone = FairSemaphore(1)
    await alone.acquire(slow)
    alone.release(slow, 5.0)
    assert alone.has_slot_for(slow)


async def test_use_is_forgotten_with_time(autojump_clock: trio.testing.MockClock):
    """Who held it long ago isn't behind for ever."""
    turns = FairSemaphore(1)
    old, new = share("old"), share("new")
    await turns.acquire(old)
    turns.release(old, 100.0)
    await turns.acquire(new)
    turns.release(new, 1.0)
    assert await served_order(turns, old, new) == ["new 1", "old 0"]
    await trio.sleep(20 * FairSemaphore.HALF_LIFE)
    await turns.acquire(new)
    turns.release(new, 1.0)
    assert await served_order(turns, new, old) == ["old 1", "new 0"]


async def test_the_largest_share_makes_room(autojump_clock: trio.testing.MockClock):
    """The last task of it; nobody makes room for a share that is as large."""
    turns = FairSemaphore(1)
    greedy, modest = share("greedy"), share("modest")
    outcomes: list[str] = []

    async def wait(name: str, mine: tuple[str, str, str]) -> None:
        try:
            await turns.acquire(mine)
        except Displaced:
            outcomes.append(f"{name} displaced")
        else:
            outcomes.append(name)
            turns.release(mine, 0.0)

    assert not turns.displace(modest)
    await turns.acquire(greedy)
    turns.release(greedy, 5.0)
    await turns.acquire(greedy)
    async with trio.open_nursery() as nursery:
        for name in ("first", "second"):
            nursery.start_soon(wait, name, greedy)
            await trio.testing.wait_all_tasks_blocked()
        assert not turns.displace(greedy)
        assert turns.displace(modest)
        nursery.start_soon(wait, "modest", modest)
        await trio.testing.wait_all_tasks_blocked()
        assert (outcomes, turns.waiting_count(), turns.waiting_count_of(greedy[1])) == (["second displaced"], 2, 1)
        turns.release(greedy, 0.0)
    assert outcomes == ["second displaced", "modest", "first"]


async def test_the_memory_of_use_is_bounded(autojump_clock: trio.testing.MockClock):
    """Whatever keys are made up, and who used most is remembered."""
    turns = FairSemaphore(1)
    heavy = share("heavy")
    await turns.acquire(heavy)
    turns.release(heavy, 100.0)
    for number in range(3 * FairSemaphore.KEYS_LIMIT):
        await turns.acquire(mine := share("light", str(number), str(number)))
        turns.release(mine, 0.001)
    assert len(turns._use) <= FairSemaphore.KEYS_LIMIT
    assert await served_order(turns, heavy, share("new")) == ["new 1", "heavy 0"]


@pytest.mark.parametrize("at_once", [True, False], ids=["before it notices", "after it noticed"])
async def test_a_slot_is_not_given_to_a_cancelled_task(at_once: bool):
    """It is skipped, or passes its slot on, even if that becomes free at the same moment."""
    turns = FairSemaphore(1)
    await turns.acquire(share("x"))
    async with trio.open_nursery() as nursery:
        for who in ("a", "b"):
            nursery.start_soon(turns.acquire, share(who))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        if not at_once:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            assert turns.waiting_count() == 0
        turns.release(share("x"), 0.0)
    assert turns.has_slot_for(share("x"))
    assert turns.waiting_count() == 0
