"""Bounded concurrency: work on the items of a list, and a semaphore that is fair among callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
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


Share = tuple[Hashable, ...]
"""Whose use of a resource something is, from the outermost: such as a principal, then its sessions and works."""


class Displaced(Exception):
    """A waiting task had to make room for one whose share of the resource was smaller."""


class FairSemaphore:
    """A semaphore that serves those first who have held it least lately, and keeps a slot free for what is quick.

    First counts how many seconds the first key of a share held it; where that is equal, how long any of its other keys
    did, whichever is the most, and how long this will usually take. So neither many tasks, nor many sessions of one
    principal, nor one work that many sessions ask for keep the others waiting: what has taken long goes behind what
    hasn't. Equal shares are served by arrival.

    What usually takes long never holds all slots, if there are several, so that what is quick needn't even wait for it.
    How long something usually takes is known from the last key of its share that has been seen before; the first one,
    which may stand for many, doesn't count.

    Args:
        slots: how many tasks may hold it at once.
    """

    QUICK = 1.0
    """Seconds of use below which something is quick."""
    UNKNOWN = 0.05
    """Seconds that a use is taken to need if nothing like it was seen before."""
    HALF_LIFE = 30.0
    """Seconds after which use counts half."""
    LEAST_USE = 0.001
    """Seconds that each use counts at least, and at once, so that equal shares take turns."""
    DISPLACING_USE = 1.0
    """Seconds of use that one share must be larger than another to make room for it."""
    KEYS_LIMIT = 1000
    """Keys that are remembered; of more, those that have used least are forgotten."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._reserved = min(slots - 1, 1)
        self._waiting: list[_Waiting] = []
        """In order of arrival."""
        self._use: dict[Hashable, tuple[float, float]] = {}
        """By key: seconds of use, as they counted at a time."""
        self._usual: dict[Hashable, float] = {}
        """By key: seconds that it usually takes."""

    def waiting_count(self) -> int:
        """The number of waiting tasks."""
        return len(self._waiting)

    def waiting_count_of(self, key: Hashable) -> int:
        """The number of waiting tasks with a key in their share."""
        return sum(key in waiting.share for waiting in self._waiting)

    def is_unproven(self, share: Share) -> bool:
        """Whether others wait, and it isn't known that this takes long: it had better be quick, or wait its turn."""
        return bool(self._waiting) and not self._is_slow(share)

    def has_slot_for(self, share: Share) -> bool:
        """Whether a task needn't wait."""
        return self._free > (self._reserved if self._is_slow(share) else 0)

    async def acquire(self, share: Share) -> None:
        """Wait for a slot; `release` returns it.

        Raises:
            Displaced: it had to make room.
        """
        if self.has_slot_for(share):
            self._take_slot(share)
            return
        waiting = _Waiting(share)
        self._waiting.append(waiting)
        try:
            await waiting.decided.wait()
        except trio.Cancelled:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.is_displaced:  # it got a slot at the same moment
                self._return_slot()
            raise
        if waiting.is_displaced:
            raise Displaced

    def release(self, share: Share, seconds: float) -> None:
        """Count the use, and pass the slot to the waiting task with the smallest share, if there is one."""
        for key in share[1:]:
            self._usual[key] = (self._usual.get(key, seconds) + seconds) / 2
        self._count_use(share, seconds)
        self._return_slot()

    def displace(self, share: Share) -> bool:
        """End the waiting of the task with the largest share, if it is much larger than this one."""
        now = trio.current_time()
        ranks = self._ranks(now)
        last = max(reversed(self._waiting), key=lambda waiting: ranks[waiting.share], default=None)
        if last is None:
            return False
        (first, second), (last_first, last_second) = self._rank(share, now), ranks[last.share]
        if last_first <= first and not (last_first == first and last_second - second >= self.DISPLACING_USE):
            return False
        self._waiting.remove(last)
        last.is_displaced = True
        last.decided.set()
        return True

    def _take_slot(self, share: Share) -> None:
        self._free -= 1
        self._count_use(share, self.LEAST_USE)

    def _return_slot(self) -> None:
        self._free += 1
        ranks = self._ranks(trio.current_time()) if self._waiting else {}
        while able := [waiting for waiting in self._waiting if self.has_slot_for(waiting.share)]:
            first = min(able, key=lambda waiting: ranks[waiting.share])
            self._waiting.remove(first)
            self._take_slot(first.share)
            first.decided.set()

    def _is_slow(self, share: Share) -> bool:
        return self._usual_seconds(share, 0.0) >= self.QUICK

    def _usual_seconds(self, share: Share, unknown: float) -> float:
        return next((self._usual[key] for key in reversed(share) if key in self._usual), unknown)

    def _ranks(self, now: float) -> dict[Share, tuple[int, float]]:
        return {share: self._rank(share, now) for share in {waiting.share for waiting in self._waiting}}

    def _rank(self, share: Share, now: float) -> tuple[int, float]:
        first, *others = (self._use_of(key, now) for key in share)
        return int(first), max(others, default=0.0) + self._usual_seconds(share, self.UNKNOWN)

    def _use_of(self, key: Hashable, now: float) -> float:
        seconds, then = self._use.get(key, (0.0, now))
        return seconds * 0.5 ** ((now - then) / self.HALF_LIFE)

    def _count_use(self, share: Share, seconds: float) -> None:
        now = trio.current_time()
        for key in share:
            self._use[key] = self._use_of(key, now) + seconds, now
        if len(self._use) > self.KEYS_LIMIT:
            ordered = sorted(self._use, key=lambda key: self._use_of(key, now))
            for key in ordered[: self.KEYS_LIMIT // 2]:
                del self._use[key]
                self._usual.pop(key, None)


class _Waiting:
    """A task that waits for a slot."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.decided = trio.Event()
        self.is_displaced = False
