"""Trimming the allocator after much memory was given back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from chora import allocator
from chora.peer_memory import TRIM_AFTER, PeerMemory


async def test_the_allocator_is_trimmed_once_a_storm_is_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
):
    """Once for all that was given back meanwhile, and not for little."""
    trims: list[float] = []

    async def run_here(trim: Callable[[], object]) -> None:
        trim()

    monkeypatch.setattr(allocator, "_find_trim", lambda: lambda: trims.append(0))
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    memory = PeerMemory(100 * TRIM_AFTER)

    def give_back(count: int) -> None:
        with memory.hold("a") as holding:
            holding.charge(count)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(allocator.serve, memory)
        give_back(TRIM_AFTER - 1)
        await trio.sleep(60)
        assert trims == []
        for _ in range(10):
            give_back(TRIM_AFTER)
        await trio.sleep(allocator.TRIM_DELAY + 1)
        assert trims == [0]
        await trio.sleep(60)
        give_back(TRIM_AFTER)
        await trio.sleep(60)
        assert trims == [0, 0]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
async def test_where_nothing_can_be_trimmed_the_service_sleeps(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, platform: str
):
    """Elsewhere than with glibc."""
    import ctypes

    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with trio.move_on_after(60) as scope:
        await allocator.serve(PeerMemory(1))
    assert scope.cancelled_caught
