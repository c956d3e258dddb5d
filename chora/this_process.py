"""Facts of this process: its own command line, and what of its environment is not a setting."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

child_groups: set[int] = set()
"""Process groups that this process started. They end with it by themselves, unless they are stopped or stuck."""


def kill_child_groups() -> None:
    """Kill them, before the process ends without cleaning up."""
    if sys.platform != "win32":
        for group in tuple(child_groups):
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)


def is_frozen() -> bool:
    """Whether this is the built binary, where `sys.executable` is chora itself."""
    return bool(getattr(sys, "frozen", False))


def own_command(*arguments: str) -> list[str]:
    """The command line that runs this same chora again, frozen or not."""
    if is_frozen():
        return [sys.executable, *arguments]
    # -P: modules in the current folder must not be imported instead of our libraries (CWE-427).
    return [sys.executable, "-P", "-m", "chora", *arguments]


def command_name() -> str:
    """What this process was started as, such as `chora serve`: without arguments, which may hold what is private."""
    words = iter(sys.argv[1:])
    for word in words:
        if word == "--project":
            next(words, None)
        elif not word.startswith("-"):
            return f"chora {word[:40]}" if word.replace("-", "").isalnum() else "chora"
    return "chora"


def trace_id() -> str | None:
    """`CHORA_TRACE_ID`, read on each call, so that a wrapper script can set it per run."""
    return os.environ.get("CHORA_TRACE_ID") or None


def default_transport() -> str | None:
    """`MCP_TRANSPORT`, which chose between stdio and HTTP in chora-compose."""
    return os.environ.get("MCP_TRANSPORT") or None


def notify_socket() -> str | None:
    """The socket for sd_notify(3), if systemd started the process with `Type=notify`."""
    return os.environ.get("NOTIFY_SOCKET") or None


def watchdog_seconds() -> float | None:
    """Seconds within which systemd's watchdog has to hear from this process (`WatchdogSec=`); None without one."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def child_environment() -> dict[str, str]:
    """The environment of a child process: how to find programs, and locales; no secret and no setting."""
    keep = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "SYSTEMROOT",
        "TEMP",
        "TMP",
        "COVERAGE_PROCESS_CONFIG",
    )
    return {name: os.environ[name] for name in keep if name in os.environ}


def wants_no_color() -> bool:
    """Whether the user asks for no colours, as https://no-color.org has it."""
    return bool(os.environ.get("NO_COLOR"))
