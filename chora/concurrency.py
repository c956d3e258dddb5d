"""Bounded concurrency: work on the items of a list, and a semaphore that is fair among callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from chora.errors import ChoraError

T = TypeVar("T")


async def for_each_bounded(
    items: Sequence[T],
    work: Callable[[T], Awaitable[None]],
    *,
    limit: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[T]:
    """Do `work` on items in order, at most `limit` of them at once.

    Args:
        items: what to work on.
        work: called with each item, in a task of its own.
        limit: how many at once.
        should_stop: whether no further item is to be started; items that were started are finished.

    Returns:
        the items that weren't started.

    Raises:
        ChoraError: what `work` raised first; the other tasks were cancelled.
    """
    waiting = list(items[::-1])
    failures: list[ChoraError] = []

    async def work_on_rest() -> None:
        while waiting and not should_stop():
            try:
                await work(waiting.pop())
            except ChoraError as error:  # raised below without the group that a nursery wraps it in
                failures.append(error)
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(limit, len(waiting))):
            nursery.start_soon(work_on_rest)
    if failures:
        raise failures[0]
    return waiting[::-1]


class FairSemaphore:
    """A semaphore that serves the callers round-robin, and the waiting tasks of one caller in order.

    So a caller with a hundred jobs makes another caller wait for a single job, not for all of them.

    Args:
        slots: how many tasks may hold it at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: dict[str, trio.lowlevel.ParkingLot] = {}

    def waiting_count(self) -> int:
        """The number of waiting tasks."""
        return sum(len(lot) for lot in self._waiting.values())

    def waiting_count_of(self, caller: str) -> int:
        """The number of waiting tasks of one caller."""
        return len(self._waiting.get(caller, ()))

    def has_free_slot(self) -> bool:
        return self._free > 0

    async def acquire(self, caller: str) -> None:
        """Wait for a slot; `release` returns it."""
        if self._free:
            self._free -= 1
            return
        parking_lot = self._waiting.setdefault(caller, trio.lowlevel.ParkingLot())
        try:
            await parking_lot.park()
        except trio.Cancelled:
            if not parking_lot and self._waiting.get(caller) is parking_lot:
                del self._waiting[caller]
            raise

    def release(self) -> None:
        """Pass the slot to the next waiting task, if there is one."""
        while self._waiting:
            caller = next(iter(self._waiting))
            parking_lot = self._waiting.pop(caller)
            if parking_lot:  # else all of them were cancelled, and haven't run since
                parking_lot.unpark()
                if parking_lot:
                    self._waiting[caller] = parking_lot
                return
        self._free += 1
