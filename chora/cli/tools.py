"""`chora tools`: list the tools."""

from __future__ import annotations

import click

from chora.cli.run import json_option, print_json, print_table


@click.command("tools")
@json_option
def command(as_json: bool) -> None:
    """List the tools; --json prints their full schemas."""
    from chora.tools import TOOLS

    if as_json:
        print_json({"success": True, "tools": [tool.describe() for tool in TOOLS.values()]})
    else:
        rows = [(tool.name, tool.signature(), tool.description.partition("\n")[0]) for tool in TOOLS.values()]
        print_table(("Tool", "Arguments", "Does"), rows)
