"""`chora ls`: list contents, artifacts, configs or generators."""

from __future__ import annotations

from typing import Any

import click

from chora.cli.run import call_tool, json_option, print_json, print_table, report_errors
from chora.cli.terminal import echo

TABLES: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "content": ("list_content", {}, "content", ("id", "generator_type", "generated", "last_generated")),
    "artifacts": ("list_artifacts", {}, "artifacts", ("id", "title", "assembled", "output_path")),
    "configs": ("list_content_configs", {}, "configs", ("id", "generator_type", "file_path", "title")),
    "collections": ("list_collections", {}, "collections", ("id", "name", "member_count", "file_path")),
    "generators": ("list_generators", {}, "generators", ("name", "type", "status", "version", "description")),
}
"""What can be listed with a tool: that, its arguments, the field with the rows, and the columns."""


@click.command("ls")
@click.argument("what", type=click.Choice([*TABLES]), default="artifacts")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, what: str, as_json: bool) -> None:
    """List contents, artifacts, content configs, generators or collections."""
    tool, arguments, rows, columns = TABLES[what]
    result = call_tool(project, tool, arguments)
    if as_json:
        print_json(result)
        return
    shown = [["" if row[name] is None else row[name] for name in columns] for row in result[rows]]
    print_table([name.replace("_", " ").capitalize() for name in columns], shown)
    for broken in result.get("invalid", []):
        echo(f"{broken['file_path']}: {broken['error']}", fg="red", err=True)
