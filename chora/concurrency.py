"""Bounded concurrency: work on the items of a list, several at once."""

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
