"""`chora ls`: list contents, artifacts, configs or generators."""

from __future__ import annotations

from typing import Any

import click

from chora.catalog import Catalog
from chora.cli.run import call_tool, json_option, load_settings, print_json, print_table, report_errors
from chora.cli.terminal import echo
from chora.files import open_project_folder

TABLES: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "content": ("list_content", {}, "content", ("id", "generator_type", "generated", "last_generated")),
    "artifacts": ("list_artifacts", {}, "artifacts", ("id", "title", "assembled", "output_path")),
    "configs": ("list_content_configs", {}, "configs", ("id", "generator_type", "file_path", "title")),
    "generators": ("list_generators", {}, "generators", ("name", "type", "status", "version", "description")),
}
"""What can be listed with a tool: that, its arguments, the field with the rows, and the columns."""
COLLECTIONS = "collections"


@click.command("ls")
@click.argument("what", type=click.Choice([*TABLES, COLLECTIONS]), default="artifacts")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, what: str, as_json: bool) -> None:
    """List contents, artifacts, content configs, generators or collections."""
    if what == COLLECTIONS:
        result, rows, columns = _list_collections(project), COLLECTIONS, ("id", "name", "members", "file_path")
    else:
        tool, arguments, rows, columns = TABLES[what]
        result = call_tool(project, tool, arguments)
    if as_json:
        print_json(result)
        return
    shown = [["" if row[name] is None else row[name] for name in columns] for row in result[rows]]
    print_table([name.replace("_", " ").capitalize() for name in columns], shown)
    for broken in result.get("invalid", []):
        echo(f"{broken['file_path']}: {broken['error']}", fg="red", err=True)


def _list_collections(project: str | None) -> dict[str, Any]:
    folder, loaded = load_settings(project)
    listing = Catalog(
        open_project_folder(folder, loaded.settings),
        loaded.settings.paths.configs,
        old_yaml=loaded.settings.configs.rules == "chora-compose",
    ).list_configs("collection")
    found = [
        {
            "id": each.parsed.config.id,
            "name": each.parsed.config.name,
            "members": len(each.parsed.config.members),
            "file_path": each.path,
        }
        for each in listing.found
    ]
    invalid = [{"file_path": each.path, "error": each.error} for each in listing.invalid]
    return {"success": True, COLLECTIONS: found, "invalid": invalid}
