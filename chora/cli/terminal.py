"""What commands print, and how the process ends when nobody can read it, is interrupted, or was called wrongly.

Commands print with `echo` alone: what a config, a file or a server says may hold control sequences, which a terminal
would carry out (CWE-150).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import click
import msgspec

from chora.wording import escape_controls

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""
LOST_STDOUT = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EINVAL, errno.EFBIG, errno.EDQUOT)


class StdoutFailed(Exception):
    """Stdout can't be written: its disk is full, or its reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Interrupted(Exception):
    """The user pressed Ctrl-C."""


def echo(message: object = "", *, err: bool = False, nl: bool = True, fg: str | None = None) -> None:
    """Print a message; control characters in it are shown as escapes."""
    _write(escape_controls(str(message)), err=err, nl=nl, fg=fg)


def echo_text(text: str) -> None:
    """Print a text on stdout that was generated: exactly, unless a terminal would carry out what is in it."""
    if sys.stdout.isatty():
        _write(escape_controls(text), nl=not text.endswith("\n"))
        return
    try:  # not with click, which strips escape sequences
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        raise StdoutFailed(error) from None


def echo_bytes(data: bytes) -> None:
    """Write the bytes of a file on stdout."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise StdoutFailed(error) from None


def _write(text: str, *, err: bool = False, nl: bool = True, fg: str | None = None) -> None:
    try:
        click.secho(text, err=err, nl=nl, fg=fg)
    except OSError as error:
        if err:
            return  # nobody to tell
        if error.errno in LOST_STDOUT:
            raise StdoutFailed(error) from None
        raise


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, indented."""
    echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def open_missing_streams() -> None:
    """Give a process that was started with closed descriptors empty ones: the next file that it opened would be taken
    for stdout (CERT FIO47-C), and a print would fail."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        with suppress(OSError, ValueError):
            if getattr(sys, name) is None:
                while (opened := os.open(os.devnull, os.O_RDWR)) < number:
                    pass
                if opened != number:
                    os.close(opened)
                setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


@contextmanager
def exit_codes(*, as_json: bool) -> Generator[None]:
    """End the process with the right code, and one line, for what a command didn't handle itself.

    Args:
        as_json: print a wrong call as one JSON object, too.
    """
    try:
        yield
        sys.stdout.flush()
    except click.UsageError as error:
        _print_usage_error(error, as_json)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        echo(f"error: {error.format_message()}", err=True, fg="red")
        sys.exit(error.exit_code)
    except (Interrupted, click.Abort, KeyboardInterrupt):
        echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except StdoutFailed as failed:
        _give_up_stdout(failed.error)
    except OSError as error:
        if error.errno not in LOST_STDOUT or error.filename is not None:
            raise
        _give_up_stdout(error)


def _print_usage_error(error: click.UsageError, as_json: bool) -> None:
    message = error.format_message()
    hint = f"`{error.ctx.command_path} --help` says how it is called." if error.ctx else None
    if as_json:
        details = {"command": error.ctx.command_path} if error.ctx else {}
        failure = {"code": "usage_error", "message": message, "hint": hint, "details": details}
        print_json({"success": False, "error": failure})
        return
    if error.ctx:
        echo(error.ctx.get_usage(), err=True)
    echo(f"error: {message}", err=True, fg="red")
    if hint:
        echo(f"  {hint}", err=True)


def _give_up_stdout(error: OSError) -> None:
    """Exit with 1: quietly if the reader has enough, such as `head`, else with the reason."""
    with suppress(OSError, ValueError):  # what is left in the buffer would fail once more at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno != errno.EPIPE:
        echo(f"error: stdout can't be written: {error.strerror}", err=True, fg="red")
    sys.exit(1)
