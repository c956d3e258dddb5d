"""`chora tools`: list the tools."""

from __future__ import annotations

import click

from chora.cli.run import json_option, print_json, print_table, toolset_option


@click.command("tools")
@toolset_option
@json_option
def command(toolset: tuple[str, ...], as_json: bool) -> None:
    """List the tools that a server offers; --json prints their full schemas."""
    from chora.tools import ALL_TOOLS

    wanted = set(toolset) or {"default"}
    tools = [tool for tool in ALL_TOOLS.values() if tool.toolsets & wanted]
    if as_json:
        print_json({"success": True, "tools": [tool.describe() for tool in tools]})
    else:
        rows = [(tool.name, tool.signature(), tool.description.partition("\n")[0]) for tool in tools]
        print_table(("Tool", "Arguments", "Does"), rows)
