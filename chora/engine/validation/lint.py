"""Running a linter over a text: a foreign program, with as few options and permissions as it needs.

The text goes in on stdin and findings come out on stdout. No option names a file or runs code, the environment is
empty but for PATH, and time and output are bounded.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import trio

from chora import this_process
from chora.decoding import decode_text
from chora.errors import ChoraError

OUTPUT_LIMIT = 256 * 1024
"""Bytes of its output that are read."""
END_TIME = 2.0
"""Seconds to wait for a linter to end after it was killed."""

_FINDING = re.compile(r"[^:\n]*:(\d{1,9}):(?:(\d{1,9}):)?[ \t]*(\S[^\n]*)")
"""`file:line:column: message`, as nearly every linter writes it."""
_FILENAME = re.compile(r"\w[\w.-]{0,100}", re.ASCII)
_RULES = re.compile(r"[A-Za-z0-9,]{1,500}")
_NUMBER = re.compile(r"\d{1,4}")


class OptionsRefused(Exception):
    """Options that a linter isn't given; the message says which and why."""


class LinterFailed(Exception):
    """A linter that failed or took too long."""


class Linter(NamedTuple):
    """How a linter is called, and which options it may be given: by name, what their values must be."""

    arguments: tuple[str, ...]
    options: Mapping[str, Callable[[str], bool]]
    defaults: tuple[str, ...] = ()
    """Given unless the rule has options of its own."""
    naming: str = ""
    """The option that says how the text's file is called."""


class LintFinding(NamedTuple):
    """What a linter found."""

    line: int
    column: int | None
    message: str


def _is_harmless(configuration: str) -> bool:
    """Whether an inline configuration of yamllint reads no file."""
    if configuration in ("default", "relaxed"):
        return True
    try:
        document = decode_text(configuration, "yaml", "-d")
    except ChoraError:
        return False
    if not isinstance(document, dict):
        return False
    record = cast("dict[str, Any]", document)
    known = set(record) <= {"extends", "rules"} and record.get("extends", "default") in ("default", "relaxed")
    return known and not _mentions(record, "ignore-from-file")


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        record = cast("dict[Any, Any]", value)
        return key in record or any(_mentions(each, key) for each in record.values())
    return isinstance(value, list) and any(_mentions(each, key) for each in cast("list[Any]", value))


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: pattern.fullmatch(value) is not None


LINTERS: dict[str, Linter] = {
    "ruff": Linter(
        ("check", "--isolated", "--no-cache", "--quiet", "--no-fix", "--output-format=concise"),
        {"--select": _matches(_RULES), "--ignore": _matches(_RULES), "--line-length": _matches(_NUMBER)},
        naming="--stdin-filename",
    ),
    "yamllint": Linter(("--format", "parsable"), {"-d": _is_harmless}, ("-d", "default")),
}
"""The linters whose options are known; any other that the settings name is run without."""

_PLAIN = Linter((), {})


def find_linter(name: str) -> str | None:
    """Where a linter's program is; None if it isn't on PATH."""
    return shutil.which(name, path=this_process.child_environment().get("PATH", ""))


def read_options(name: str, options: object) -> list[str]:
    """The options of a rule, checked one by one.

    Raises:
        OptionsRefused: there is one that the linter isn't given.
    """
    linter = LINTERS.get(name, _PLAIN)
    if options is None or options == "":
        return list(linter.defaults)
    if isinstance(options, list) and all(isinstance(each, str) for each in cast("list[object]", options)):
        words = cast("list[str]", options)
    elif isinstance(options, str):
        try:
            words = shlex.split(options)
        except ValueError as error:
            raise OptionsRefused(f"the options can't be split into words: {error}") from None
    else:
        raise OptionsRefused("options is neither text nor a list of texts")
    checked: list[str] = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        option, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if not equals and waiting:
            value = waiting.pop()
        is_right = linter.options.get(option)
        if is_right is None:
            known = ", ".join(linter.options) or "no option at all"
            raise OptionsRefused(f"{name} isn't given {word[:80]!r}; it may be given {known}")
        if not is_right(value):
            raise OptionsRefused(f"{name} isn't given {option} with the value {value[:80]!r}")
        checked += [f"{option}={value}"] if option.startswith("--") else [option, value]
    return checked


async def run_linter(
    name: str, program: str, options: list[str], text: str, seconds: float, filename: str = "text"
) -> list[LintFinding]:
    """What a linter finds in a text.

    Args:
        name: the linter.
        program: its path, from `find_linter`.
        options: as accepted by `read_options`.
        text: goes to it on stdin.
        seconds: how long it may take.
        filename: the file name for the text, if the linter takes one.

    Raises:
        OptionsRefused: the file name isn't a plain one.
        LinterFailed: it took too long, or ended without doing its work.
    """
    linter = LINTERS.get(name, _PLAIN)
    if not _FILENAME.fullmatch(filename):
        raise OptionsRefused(f"{filename[:80]!r} is not a plain file name")
    naming = [f"{linter.naming}={filename}"] if linter.naming else []
    command = [program, *linter.arguments, *options, *naming, "-"]
    try:
        with trio.fail_after(seconds), tempfile.TemporaryDirectory(prefix="chora-lint-") as folder:
            ran = await _run_process(command, text.encode(), folder)
    except trio.TooSlowError:
        raise LinterFailed(f"{name} took longer than {seconds:g} s") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise LinterFailed(f"{name} can't be run: {error}") from None
    stdout_text = ran.output.decode(errors="replace")
    findings = [
        LintFinding(int(found[1]), int(found[2]) if found[2] else None, found[3][:500])
        for found in map(_FINDING.fullmatch, stdout_text.splitlines())
        if found
    ]
    if not findings and ran.status not in (0, None):
        reason = next(iter(ran.errors.decode(errors="replace").strip().splitlines()), f"exit status {ran.status}")
        raise LinterFailed(f"{name} failed: {reason[:200]}")
    return findings


class _CompletedLinter(NamedTuple):
    output: bytes
    errors: bytes
    status: int | None
    """None if it was killed for too much output."""


async def _run_process(command: list[str], given: bytes, folder: str) -> _CompletedLinter:
    keep = ("PATH", "SYSTEMROOT") if sys.platform == "win32" else ("PATH",)
    environment = {name: value for name, value in this_process.child_environment().items() if name in keep}
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    output, complaint = bytearray(), bytearray()

    async def feed() -> None:
        try:
            await stdin.send_all(given)
            await stdin.aclose()
        except trio.BrokenResourceError:
            pass  # the output is complete or too long

    async def read_stream(stream: trio.abc.ReceiveStream, received: bytearray) -> None:
        while len(received) < OUTPUT_LIMIT:
            piece = await stream.receive_some(65536)
            if not piece:
                return
            received += piece
        nursery.cancel_scope.cancel()

    status = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            nursery.start_soon(read_stream, stdout, output)
            nursery.start_soon(read_stream, stderr, complaint)
        if not nursery.cancel_scope.cancelled_caught:
            status = await process.wait()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            for stream in (stdin, stdout, stderr):
                await stream.aclose()
            with trio.move_on_after(END_TIME):
                await process.wait()
    # A line that was cut off doesn't count.
    whole = output if status is not None else output[: output.rfind(b"\n") + 1]
    return _CompletedLinter(bytes(whole), bytes(complaint), status)
