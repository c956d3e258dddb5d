"""How a process ends: on a signal, with its parent, or by a watchdog thread when the event loop is stuck.

Signals and the parent set an event; the servers wait for it, finish what is in flight and return.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

from chora import this_process

log = logging.getLogger("chora")

_receiving = 0

FORCED_EXIT_DELAY = 2.0
"""Seconds after the grace until the process is ended by force."""
LOG_TIMEOUT = 0.5
"""Seconds that the log gets for its last line."""
STOPPING = 0
"""What the watchdog reads for a stop without a signal; no signal has this number."""
PARENT_INTERVAL = 2.0
"""Seconds between two checks whether the parent process still runs."""


def receives_signals() -> bool:
    """Whether SIGINT only stops this process in order, so that no `KeyboardInterrupt` comes from the user."""
    return _receiving > 0


@asynccontextmanager
async def stop_on_signals(grace: float) -> AsyncGenerator[trio.Event]:
    """An event that a signal sets; a second signal ends the process at once.

    Args:
        grace: seconds that calls in flight get. A process that hasn't ended `FORCED_EXIT_DELAY` later is ended by a
            thread, which works even when the event loop is stuck.
    """
    global _receiving  # signals are the process's, too
    stopping = trio.Event()
    wanted = [signal.SIGTERM, signal.SIGINT]
    token = trio.lowlevel.current_trio_token()
    # The C handler writes each signal's number here. Handlers in Python aren't enough: they wait until the main thread
    # runs bytecode, so one that is inside a long call misses a signal that came just before it, or to another thread.
    received, numbers = socket.socketpair()
    numbers.setblocking(False)
    delay = grace + FORCED_EXIT_DELAY

    def run_watchdog() -> None:
        deadline = None
        is_second = False  # the end of stdin may have come before the first
        with received:
            while number := _receive(received, deadline):
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(_do_nothing, idempotent=True)  # the wakeup file descriptor is ours, not trio's
                if number[0] in wanted:
                    if is_second:
                        _exit_now("received %s again; the process ends at once", signal.Signals(number[0]).name)
                    is_second = True
                if deadline is None and number[0] in (STOPPING, *wanted):
                    deadline = time.monotonic() + delay
        if number is None:
            _exit_now("the process hasn't stopped %g s after the signal; it is ended by force", delay)

    async def start_watchdog_when_stopping() -> None:
        await stopping.wait()
        with contextlib.suppress(OSError):  # full of signals, which are reason enough, or at its end
            numbers.send(bytes([STOPPING]))

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            async for number in signals:
                if not stopping.is_set():
                    log.info("received %s; stopping", signal.Signals(number).name)
                stopping.set()

    with numbers:
        threading.Thread(target=run_watchdog, name="watchdog", daemon=True).start()
        previous = signal.set_wakeup_fd(numbers.fileno(), warn_on_full_buffer=False)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(listen)
                nursery.start_soon(start_watchdog_when_stopping)
                _receiving += 1
                try:
                    yield stopping
                finally:
                    _receiving -= 1
                nursery.cancel_scope.cancel()
        finally:
            signal.set_wakeup_fd(previous)
            numbers.shutdown(socket.SHUT_RDWR)  # ends the thread


def _receive(received: socket.socket, deadline: float | None) -> bytes | None:
    """The next byte, empty at the end; None if the deadline passes first."""
    received.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
    try:
        return received.recv(1)
    except TimeoutError:
        return None


def _do_nothing() -> None:
    """Wakes the event loop, so that the interpreter runs its signal handlers."""


def _exit_now(message: str, *arguments: object) -> NoReturn:
    """End the process at once, without any cleanup; nothing that was acknowledged is lost."""
    # Whatever is stuck may hold the lock of the log, such as when stderr is not read.
    logger = threading.Thread(target=log.error, args=(message, *arguments), daemon=True)
    logger.start()
    logger.join(LOG_TIMEOUT)
    this_process.kill_child_groups()
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
