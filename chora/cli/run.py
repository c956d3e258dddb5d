"""What commands share: running tools in a project, printing results, and exiting with the right code."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click
import msgspec
import trio

from chora import settings
from chora.cli.terminal import echo, print_json
from chora.errors import ChoraError, InvalidInput, why_unreadable
from chora.logs import start_logging
from chora.nesting import decode_json
from chora.nofollow import read_file
from chora.project import find_project
from chora.wording import escape_controls, find_nearest

T = TypeVar("T")
Function = Callable[..., Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
json_errors_option = click.option("--json", "as_json", is_flag=True, help="Print an error as one JSON object.")
trust_option = click.option(
    "--trust", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="A CA to trust, as PEM."
)
context_option = click.option(
    "--context",
    "-c",
    "context",
    multiple=True,
    metavar="K=V|K:=JSON|JSON|@FILE",
    help="Context for the templates; may be given several times.",
)


toolset_option = click.option(
    "--toolset",
    multiple=True,
    type=click.Choice(get_args(settings.Toolset)),
    help="Only these tools; may be given several times.",
)


def toolset_options(function: Function) -> Function:
    """The options that decide which tools a server offers."""
    read_only = click.option("--read-only", is_flag=True, default=None, help="Offer only tools that change nothing.")
    return read_only(toolset_option(function))


def toolset_flags(read_only: bool | None, toolset: tuple[str, ...]) -> dict[str, Any]:
    """The settings of those options."""
    return {"mcp.read_only": read_only, "mcp.toolsets": toolset or None}


@contextmanager
def first_of_group() -> Generator[None]:
    """Raise the first error of a group from a nursery, if the group has no others than ours."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, other = group.split(ChoraError)
        if other is not None or known is None:
            raise
        raise _first_error(known) from None


def report_errors(function: Function) -> Function:
    """Turn a ChoraError into its message (or, with --json, its JSON) and its exit code."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            with first_of_group():
                return function(*args, **kwargs)
        except ChoraError as error:
            exit_with_error(error, bool(kwargs.get("as_json")))

    return wrapper


CANNOT_LOOK = ("storage_error", "storage_failed", "busy", "internal_error", "limit_exceeded", "budget_exceeded")
"""Failures that say nothing about whether a file is up to date."""


@contextmanager
def check_outcome(*, check: bool) -> Generator[None]:
    """Let a `--check` that can't look exit with 2: 1 means that it looked, and found something."""
    try:
        yield
    except ChoraError as error:
        code = error.as_dict().get("error", {}).get("code")
        if check and error.exit_code == 1 and code in CANNOT_LOOK:
            raise ToolFailed(error.as_dict(), 2) from None
        raise


def _first_error(group: BaseExceptionGroup[ChoraError]) -> ChoraError:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    assert isinstance(inner, ChoraError)
    return inner


def exit_with_error(error: ChoraError, as_json: bool) -> NoReturn:
    """Print an error and exit with its code."""
    if as_json:
        print_json(error.as_dict())
    else:
        print_error(error.message, error.hint, error.details)
    sys.exit(error.exit_code)


COMMAND_OF_TOOL = {
    "generate_content": "chora generate",
    "regenerate_content": "chora generate --force",
    "preview_generation": "chora preview",
    "assemble_artifact": "chora assemble",
    "generate_collection": "chora collect",
    "validate_content": "chora validate",
    "validate_collection_config": "chora validate --collection",
    "check_freshness": "chora freshness",
    "trace_dependencies": "chora trace",
    "list_content_configs": "chora ls configs",
    "list_artifact_configs": "chora ls artifacts",
    "list_content": "chora ls content",
    "list_artifacts": "chora ls artifacts",
    "cleanup_ephemeral": "chora gc",
}
"""The commands that do what tools do; any other tool is called with `chora call`."""
_GENERATOR_URI = re.compile(r"\bgenerator://[a-z0-9_-]+")
_MANUAL_URI = re.compile(r"\b(manual|schema)://([a-z]+)")
_TOOL_NAME = re.compile(r"(?<!chora call )\b[a-z]+(?:_[a-z]+)+\b")


def hint_for_people(hint: str) -> str:
    """A hint that names tools, with the commands that people have instead of them."""
    from chora.tools import ALL_TOOLS

    def name_command(found: re.Match[str]) -> str:
        name = found[0]
        return f"`{COMMAND_OF_TOOL.get(name, f'chora call {name}')}`" if name in ALL_TOOLS else name

    return _TOOL_NAME.sub(
        name_command, _MANUAL_URI.sub(r"`chora \1 \2`", _GENERATOR_URI.sub("`chora manual generators`", hint))
    )


def print_error(message: str, hint: str | None, details: dict[str, Any]) -> None:
    """Print an error for people, on stderr."""
    hint = hint and hint_for_people(hint)
    echo(f"error: {message}", fg="red", err=True)
    for fault in details.get("schema_errors", []):
        echo(f"  {fault['path']}: {fault['message']}", err=True)
        if fault.get("write"):
            echo(f"    write: {fault['write']}", err=True)
    if details.get("diff"):
        echo(details["diff"], err=True)
    if hint:
        echo(f"  {hint}", err=True)


def load_settings(
    project: str | None, flags: dict[str, Any] | None = None, *, quiet: bool = True
) -> tuple[Path, settings.LoadedSettings]:
    """The project folder and its settings; warnings about them go to the log.

    Args:
        quiet: for commands that print a result: log warnings and errors only.
    """
    folder = find_project(project)
    loaded = settings.load(folder, flags=flags)
    log = loaded.settings.log
    start_logging(msgspec.structs.replace(log, level="WARNING") if quiet and log.level == "INFO" else log)
    for warning in loaded.warnings:
        echo(f"warning: {warning}", err=True)
    return folder, loaded


def call_tool(project: str | None, name: str, arguments: dict[str, Any], *, progress: bool = False) -> dict[str, Any]:
    """Run a tool in the project, without a server in between.

    Args:
        project, name, arguments: the project, the tool and its arguments.
        progress: show a progress bar on a terminal.

    Raises:
        InvalidInput: there is no such tool.
        ToolFailed: the tool's own failure.
    """
    from chora.engine.engine import open_engine
    from chora.protocol.types import Call, ToolAnswer
    from chora.tools import ALL_TOOLS, TOOLS

    tool = ALL_TOOLS.get(name)
    if tool is None:
        near = find_nearest(name, ALL_TOOLS, 1)
        hint = f"Did you mean `chora call {near[0]}`?" if near else "`chora tools` lists them."
        raise InvalidInput(f"There is no tool {name}.", hint, tool=name, allowed=list(ALL_TOOLS))
    folder, loaded = load_settings(project)

    async def run() -> ToolAnswer:
        reading = tool.read_only or arguments.get("dry_run") is True
        async with open_engine(folder, loaded.settings, reading=reading) as engine:
            with _progress_bar(name) if progress and sys.stderr.isatty() else nullcontext() as report_progress:
                return await tool.run_tool(
                    engine, msgspec.json.encode(arguments), Call("cli", len(TOOLS), report_progress)
                )

    answer = trio.run(run)
    result = msgspec.json.decode(answer.body)
    if answer.is_error:
        raise ToolFailed(result, answer.exit_code)
    return result


@contextmanager
def _progress_bar(what: str) -> Generator[Callable[[float, float, str], Awaitable[None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        async def report_progress(done: float, total: float, message: str) -> None:
            bar.update(task, completed=done, total=total, description=escape_controls(message[:60]))

        yield report_progress


class ToolFailed(ChoraError):
    """A failure that a tool has already encoded."""

    def __init__(self, result: dict[str, Any], exit_code: int) -> None:
        error = result.get("error", {})
        super().__init__(error.get("message", "The call failed."), error.get("hint"), **error.get("details", {}))
        self._result = result
        self._exit_code = exit_code

    @property
    def exit_code(self) -> int:
        return self._exit_code

    def as_dict(self) -> dict[str, Any]:
        return self._result


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table: formatted on a terminal, tab-separated elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headings, box=None, header_style="bold", pad_edge=False)
        for row in rows:  # as Text: in a str, [brackets] would be markup
            table.add_row(*(Text(escape_controls(str(cell))) for cell in row))
        Console().print(table)
    else:
        for row in rows:
            echo("\t".join(str(cell).replace("\t", " ").replace("\n", " ") for cell in row))


def print_planned_files(files: Iterable[dict[str, Any]], *, diff: bool) -> None:
    """Print the planned action for each file, and optionally the diff."""
    for file in files:
        because = f" ({'; '.join(file['reasons'])})" if file["reasons"] else ""
        echo(f"{file['action']}: {file['path']}{because}")
        if diff and file["diff"]:
            echo(file["diff"])


def parse_context(given: Sequence[str]) -> dict[str, Any]:
    """Merge `k=v` pairs, JSON objects and `@file` references; a later one wins.

    Raises:
        InvalidInput: one of them is none of these.
    """
    context: dict[str, Any] = {}
    for part in given:
        if part.startswith("@"):
            try:
                part = read_file(os.path.realpath(part[1:])).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidInput(
                    f"{part[1:]} can't be read: {why_unreadable(error)}.",
                    "Name a file of UTF-8 text after the @.",
                    field="context",
                ) from None
        if part.lstrip().startswith("{"):
            context |= _parse_object(part)
        else:
            context |= parse_pairs([part])
    return context


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `k=v` pairs into an object.

    A value that is JSON is parsed, any other is text. So is a number that isn't written as JSON writes it, such as the
    version 1.10 or the code 007: as a number it would be printed otherwise than it was given. `k:=v` must be JSON.

    Raises:
        InvalidInput: it is no pair, or what follows `:=` isn't JSON.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if equals and name.endswith(":") and len(name) > 1:
            name = name[:-1]
            try:
                found[name] = decode_json(text)
            except msgspec.DecodeError as error:
                raise InvalidInput(
                    f"The value of {name} is not JSON: {error}.", f"Write {name}=… for text.", received=text[:100]
                ) from None
            continue
        if not equals or not name:
            shown = pair if len(pair) <= 60 else f"{pair[:59]}…"
            raise InvalidInput(f"{shown!r} is neither k=v nor a JSON object.", "Write name=value.", received=shown)
        found[name] = _parse_value(text)
    return found


def _parse_value(text: str) -> Any:
    try:
        value = decode_json(text)
    except msgspec.DecodeError:
        return text
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return text if is_number and msgspec.json.encode(value).decode() != text else value


def _parse_object(text: str) -> dict[str, Any]:
    try:
        return decode_json(text, dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidInput(f"The JSON doesn't fit: {error}.", "Write an object.", received=text[:100]) from None


def run_async(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """trio.run, so that commands need no import of their own. Of a group of errors the first is raised.

    Raises:
        ChoraError: as the function does.
    """
    with first_of_group():
        return trio.run(function, *arguments)
