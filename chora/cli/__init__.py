"""The command line: one module per command, each imported only when it is used."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from chora import __version__
from chora.this_process import default_transport
from chora.wording import printable

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
    "freshness",
    "trace",
    "jobs",
    "ls",
    "gc",
    "schema",
    "token",
    "config",
    "migrate",
    "import",
    "backup",
    "restore",
    "doctor",
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
        return importlib.import_module(f"chora.cli.{cmd_name}").command


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
                click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Windows console may not use UTF-8 by default
            stream.reconfigure(encoding="utf-8", errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    if odd := [argument for argument in given if printable(argument) != argument]:
        # JSON and the store hold Unicode; undecodable bytes (surrogate escapes, PEP 383) would fail somewhere later.
        click.secho(f"error: the argument {printable(odd[0])} is not UTF-8 text", fg="red", err=True)
        sys.exit(2)
    return program.main(given, prog_name="chora")
