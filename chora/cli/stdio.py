"""`chora stdio`: MCP on stdin and stdout."""

from __future__ import annotations

import click
import trio

from chora.cli.run import json_option, opened_settings, reporting


@click.command("stdio")
@json_option
@click.pass_obj
@reporting
def command(project: str | None, as_json: bool) -> None:
    """Speak MCP on stdin and stdout, for Claude Desktop and Claude Code."""
    from chora import app
    from chora.transport.stdio import take_over

    folder, loaded = opened_settings(project, quiet=False)
    trio.run(app.run_stdio, folder, loaded, take_over())
