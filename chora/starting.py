"""Signals before a server process can finish work, and after it has: it ends at once, as it was asked to.

Installed as the first thing in a process, so this imports next to nothing: until Python has a handler, a signal ends
the process with a status that supervisors count as a failure.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable

from chora.this_process import default_transport

SERVERS = ("serve", "stdio", "connect")
"""The commands that run until they are asked to end."""

_hangups: list[int] = []


def end_on_signals(arguments: Iterable[str]) -> None:
    """End a server process with status 0 at SIGTERM and SIGINT, until `shutdown.stop_on_signals` takes over.

    Nothing was acknowledged yet, and everything that was begun bears `kill -9`. So the process ends without unwinding:
    an exception could come at any place, such as within an import that takes it for a failure of its own.

    Other commands keep the system's behaviour: to be ended isn't to be done.

    Args:
        arguments: the command line, without the program.
    """
    if not _names_server(arguments):
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, _note_hangup)


def take_hangup() -> bool:
    """Whether a SIGHUP came before the server could reload anything; True once."""
    found = bool(_hangups)
    _hangups.clear()
    return found


def _names_server(arguments: Iterable[str]) -> bool:
    """Whether a command line, not parsed yet, is that of a server."""
    words = iter(arguments)
    for word in words:
        if word == "--project":
            next(words, None)
        elif not word.startswith("-"):
            return word in SERVERS
    return default_transport() is not None


def _end(number: int, frame: object) -> None:
    os._exit(0)


def _note_hangup(number: int, frame: object) -> None:
    _hangups.append(number)
