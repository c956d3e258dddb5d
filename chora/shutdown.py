"""How a process ends: on a signal, with its parent, or by a watchdog thread when the event loop is stuck.

Signals and the parent set an event; the servers wait for it, finish what is in flight and return.
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
"""Seconds after the grace until the process is ended by force."""
PARENT_INTERVAL = 2.0
"""Seconds between two checks whether the parent process still runs."""


@asynccontextmanager
async def stop_on_signals(grace: float) -> AsyncGenerator[trio.Event]:
    """An event that a signal sets; a second signal raises KeyboardInterrupt.

    Args:
        grace: seconds that calls in flight get. A process that hasn't ended `FORCED_EXIT_DELAY` later is ended by a
            thread, which works even when the event loop is stuck.
    """
    stopping = trio.Event()
    wanted = [signal.SIGTERM, signal.SIGINT]
    # Plain locks, and a thread started in advance: a signal handler may interrupt the start of a thread.
    watchdog_started, ended = threading.Lock(), threading.Lock()
    watchdog_started.acquire()
    ended.acquire()

    def run_watchdog() -> None:
        watchdog_started.acquire()
        if not ended.acquire(timeout=grace + FORCED_EXIT_DELAY):
            _exit_now(grace + FORCED_EXIT_DELAY)

    def start_watchdog() -> None:
        with contextlib.suppress(RuntimeError):  # it is released already
            watchdog_started.release()

    threading.Thread(target=run_watchdog, name="watchdog", daemon=True).start()

    def start_watchdog_before(handle: Callable[..., Any]) -> Callable[..., None]:
        def handler(number: int, frame: Any) -> None:
            start_watchdog()
            handle(number, frame)

        return handler

    async def start_watchdog_when_stopping() -> None:
        await stopping.wait()
        start_watchdog()

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*wanted) as signals:
            # A stuck event loop never gets the signal, but the interpreter's handlers run.
            for number in wanted:
                if callable(handle := signal.getsignal(number)):
                    signal.signal(number, start_watchdog_before(handle))
            task_status.started()
            is_second = False  # the end of stdin may have come before the first
            async for number in signals:
                if is_second:
                    raise KeyboardInterrupt
                is_second = True
                log.info("received %s; stopping", signal.Signals(number).name)
                stopping.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        nursery.start_soon(start_watchdog_when_stopping)
        try:
            yield stopping
        finally:
            ended.release()
            start_watchdog()
        nursery.cancel_scope.cancel()


def _exit_now(seconds: float) -> None:
    """End the process at once, without any cleanup; nothing that was acknowledged is lost."""
    log.error("the process hasn't stopped %g s after the signal; it is ended by force", seconds)
    os._exit(1)


async def end_with_parent(
    stopping: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """A service: sets `stopping` when the parent process has ended, although stdin may still be open.

    Only for a process that a client started; one that is meant to outlive its parent doesn't run it. A process without
    a parent at its start, or directly below the init process, is left alone.
    """
    parent = 1 if sys.platform == "win32" else os.getppid()
    task_status.started()  # from now on the parent is known
    if parent == 1:
        return
    while os.getppid() == parent:  # noqa: ASYNC110 (there is no notification of it)
        await trio.sleep(PARENT_INTERVAL)
    log.info("the parent process has ended; stopping")
    stopping.set()
