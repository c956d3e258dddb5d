"""A heartbeat in the event loop: how long content that others wrote keeps the process from doing anything else."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from tests.patience import PATIENCE
from tests.stress.conftest import MIB

LONGEST_PAUSE = 0.15
"""Seconds of processor time between two heartbeats that any content may cost."""
USUAL = 0.03
"""Seconds that `slowness` decodes on a quiet machine."""
RETAINED = 64 * MIB
"""Bytes by which the process may be larger afterwards."""

Act = Callable[[], Awaitable[object]]


class Heartbeat:
    """Wakes up every millisecond, and remembers the longest pause.

    Pauses are measured in processor time of the whole process. Other processes don't lengthen it, and a thread that
    doesn't release the interpreter, as in a regular expression, counts as much as a task that doesn't yield.
    """

    def __init__(self) -> None:
        self.longest_pause = 0.0
        self.beats = 0

    async def beat(self) -> None:
        last = time.process_time()
        while True:
            await trio.sleep(0.001)
            moment = time.process_time()
            self.longest_pause = max(self.longest_pause, moment - last)
            self.beats += 1
            last = moment


async def longest_pause(act: Act) -> float:
    """Seconds of the longest pause while this is done, and until the loop is idle again."""
    gc.collect()
    heartbeat = Heartbeat()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat.beat)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await act()
        beats = heartbeat.beats
        while heartbeat.beats < beats + 3:  # what follows the answer counts too
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    return heartbeat.longest_pause


def slowness() -> float:
    """How many times as long as usual this machine takes now: others may use its caches and its memory."""
    data = msgspec.msgpack.encode([[number] for number in range(100_000)])
    began = time.process_time()
    msgspec.msgpack.decode(data)
    return max(1.0, (time.process_time() - began) / USUAL)


async def long_pauses(acts: Mapping[str, Act]) -> dict[str, float]:
    """Those of the acts that pause the loop for too long, and their seconds; each of three measurements."""
    found: dict[str, float] = {}
    gc.collect()
    gc.freeze()  # what earlier tests left is no server's, and the collector would go through it
    try:
        for name, act in acts.items():
            pause = 0.0
            for attempt in range(3):
                if (pause := await longest_pause(act)) <= LONGEST_PAUSE * (1.0 if attempt == 0 else slowness()):
                    break
            else:
                found[name] = round(pause, 3)
    finally:
        gc.unfreeze()
    return found


def resident() -> int:
    """Bytes that this process occupies, once the allocator has returned what it keeps."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
