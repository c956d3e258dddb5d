"""How a process comes to its end: a signal, a parent that is gone, and a thread for when neither is heard.

What decides is an event; whoever serves waits for it, finishes what is under way and returns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

log = logging.getLogger("chora")

FORCED_EXIT_DELAY = 2.0
"""Seconds after the grace in which everything has to be closed."""
PARENT_INTERVAL = 2.0
"""Seconds between two looks whether our parent process is still there."""


@asynccontextmanager
async def stop_on_signals(grace: float) -> AsyncGenerator[trio.Event]:
    """An event that a signal sets; a second signal ends the process the hard way.

    Args:
        grace: seconds that calls in flight get. A process that hasn't ended `OVERTIME` later is ended by a thread,
            which works also when the event loop doesn't.
    """
    stopping = trio.Event()
    wanted = [signal.SIGTERM, signal.SIGINT]
    # Plain locks, and a thread that runs already: a signal may come while this very thread starts another one.
    asked, ended = threading.Lock(), threading.Lock()
    asked.acquire()
    ended.acquire()

    def watch() -> None:
        asked.acquire()
        if not ended.acquire(timeout=grace + FORCED_EXIT_DELAY):
            _exit_now(grace + FORCED_EXIT_DELAY)

    def arm() -> None:
        with contextlib.suppress(RuntimeError):  # it is released already
            asked.release()

    threading.Thread(target=watch, name="watchdog", daemon=True).start()

    def arm_first(handle: Callable[..., Any]) -> Callable[..., None]:
        def handler(number: int, frame: Any) -> None:
            arm()
            handle(number, frame)

        return handler

    async def arm_when_stopping() -> None:
        await stopping.wait()
        arm()

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*wanted) as signals:
            # A loop that is stuck never hears of the signal, but the interpreter does.
            for number in wanted:
                if callable(handle := signal.getsignal(number)):
                    signal.signal(number, arm_first(handle))
            task_status.started()
            is_second = False  # the end of stdin may have come before the first
            async for number in signals:
                if is_second:
                    raise KeyboardInterrupt
                is_second = True
                log.info("received %s", signal.Signals(number).name)
                stopping.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        nursery.start_soon(arm_when_stopping)
        try:
            yield stopping
        finally:
            ended.release()
            arm()
        nursery.cancel_scope.cancel()


def _exit_now(seconds: float) -> None:
    """End the process as a power cut would, which costs nothing that was acknowledged."""
    log.error("not stopped after %g s; ending at once", seconds)
    os._exit(1)


async def end_with_parent(
    stopping: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """A service: notices that whoever started us is gone, although somebody still holds the other end of stdin.

    Only for a process that somebody's client started: one that is meant to outlive its parent doesn't run it. Whoever
    has no parent any more when it begins, or lies directly beneath the first process, has nobody to end with.
    """
    parent = 1 if sys.platform == "win32" else os.getppid()
    task_status.started()  # who starts this knows from now on that its parent was seen
    if parent == 1:
        return
    while os.getppid() == parent:  # noqa: ASYNC110 (nobody tells, one can only look)
        await trio.sleep(PARENT_INTERVAL)
    log.info("the process that started us has ended")
    stopping.set()
