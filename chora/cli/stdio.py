"""`chora stdio`: MCP on stdin and stdout."""

from __future__ import annotations

import gc

import click
import trio

from chora.cli.run import json_errors_option, load_settings, report_errors, toolset_flags, toolset_options


@click.command("stdio")
@toolset_options
@json_errors_option
@click.pass_obj
@report_errors
def command(project: str | None, read_only: bool | None, toolset: tuple[str, ...], as_json: bool) -> None:
    """Speak MCP on stdin and stdout, for Claude Desktop and Claude Code."""
    gc.disable()  # imported modules aren't garbage, and looking for some takes a tenth of the start
    from chora import app
    from chora.transport.pipes import take_stdio

    gc.freeze()
    gc.enable()
    folder, loaded = load_settings(project, toolset_flags(read_only, toolset), quiet=False)
    trio.run(app.run_stdio, folder, loaded, take_stdio())
