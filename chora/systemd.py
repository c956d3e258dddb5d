"""What systemd is told of the service (sd_notify(3)): ready, its status in a line, reloading, alive, stopping.

Outside of systemd, where no socket is named, nothing is sent.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Generator

import trio

from chora import this_process

STATUS_INTERVAL = 10.0
"""Seconds between two lines of status, where no watchdog wants to hear more often."""
STATUS_LENGTH = 200
"""Characters of the line of status."""


def notify_systemd(*states: str) -> None:
    """Send states such as `READY=1`, in one message."""
    path = this_process.notify_socket()
    if sys.platform == "win32" or not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(states).encode(), "\0" + path[1:] if path.startswith("@") else path)


def status_state(line: str) -> str:
    """The state that is shown by `systemctl status`."""
    return "STATUS=" + " ".join(line.split())[:STATUS_LENGTH]


@contextlib.contextmanager
def notify_reloading() -> Generator[None]:
    """Tell that the process reloads its settings, and when it has done so."""
    # With the clock of the kernel, by which systemd tells this reload from an earlier one (sd_notify(3)).
    notify_systemd("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        yield
    finally:
        notify_systemd("READY=1")


async def serve(
    describe: Callable[[], Awaitable[str]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """A service: sends the status now and then, and that the process is alive to systemd's watchdog.

    Alive means that the event loop turns and the store answers: `describe` asks it. What it answers doesn't matter; a
    disk that is full isn't emptied by a restart, and readiness tells of it.

    Args:
        describe: returns the status in a line.
    """
    task_status.started()
    limit = this_process.watchdog_seconds()
    alive = [] if limit is None else ["WATCHDOG=1"]
    while True:
        notify_systemd(*alive, status_state(await describe()))
        await trio.sleep(STATUS_INTERVAL if limit is None else min(STATUS_INTERVAL, limit / 3))
