"""The command line: one module per command, each imported only when it is used."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from chora import __version__
from chora.cli.examples import EXAMPLES
from chora.cli.terminal import Interrupted, echo, exit_codes, open_missing_streams
from chora.this_process import default_transport, wants_no_color
from chora.wording import escape_unprintable, find_nearest, printable

COMMANDS = (
    "demo",
    "init",
    "serve",
    "stdio",
    "connect",
    "call",
    "tools",
    "generate",
    "assemble",
    "collect",
    "preview",
    "validate",
    "edits",
    "freshness",
    "trace",
    "jobs",
    "ls",
    "gc",
    "schema",
    "manual",
    "token",
    "secrets",
    "config",
    "migrate",
    "import",
    "backup",
    "restore",
    "doctor",
    "completion",
    "version",
)
"""Every command, in the order of `--help`; each is the module of its name."""


class LazyCommands(click.Group):
    """A group that imports a command on first use, so that `chora stdio` doesn't import all others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"chora.cli.{cmd_name}").command
        lines = "\n".join(f"  {example}" for example in EXAMPLES[cmd_name])
        command.epilog = f"\b\nExamples:\n{lines}"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = str(args[0])
        if name not in COMMANDS and not name.startswith("-"):
            near = find_nearest(name, COMMANDS, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {escape_unprintable(name[:80])}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with the whole first sentence of its help."""
        summaries = [(name, self.get_command(ctx, name)) for name in COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in summaries if command])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # before click prints an empty line for it
            raise Interrupted from None
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is None:
                raise
            raise Interrupted from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; see `chora.cli.terminal` for how it ends."""
        given = _project_first(list(sys.argv[1:] if args is None else args))
        if wants_no_color():
            extra.setdefault("color", False)
        if not standalone_mode:
            return super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        options = given[: given.index("--")] if "--" in given else given
        with exit_codes(as_json="--json" in options):
            code = super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        sys.exit(code if isinstance(code, int) else 0)


def _project_first(arguments: list[str]) -> list[str]:
    """The arguments with `--project` before the command, where it may also be given after it."""
    found: list[str] = []
    rest: list[str] = []
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            rest += [argument, *reversed(waiting)]
            break
        if argument == "--project" and waiting:
            found = [argument, waiting.pop()]
        elif argument.startswith("--project="):
            found = [argument]
        else:
            rest.append(argument)
    return [*found, *rest]


@click.group(
    "chora", cls=LazyCommands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--project", metavar="DIR", help="The project folder; else CHORA_PROJECT, else the nearest one upward.")
@click.version_option(__version__, prog_name="chora")
@click.pass_context
def program(context: click.Context, project: str | None) -> None:
    """Compose documents and code from configuration, over the Model Context Protocol."""
    context.obj = project
    if context.invoked_subcommand is None:
        match default_transport():
            case "stdio":
                context.invoke(importlib.import_module("chora.cli.stdio").command)
            case "sse" | "http" | "streamable-http":
                context.invoke(importlib.import_module("chora.cli.serve").command)
            case _:
                echo(context.get_help())


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code."""
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Windows console may not use UTF-8 by default
            stream.reconfigure(encoding="utf-8", errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    if odd := [argument for argument in given if printable(argument) != argument]:
        # JSON and the store hold Unicode; undecodable bytes (surrogate escapes, PEP 383) would fail somewhere later.
        echo(f"error: the argument {printable(odd[0])} is not UTF-8 text", fg="red", err=True)
        sys.exit(2)
    return program.main(given, prog_name="chora")
