"""`chora config`: the settings in force and where each came from."""

from __future__ import annotations

import click

from chora import settings
from chora.cli.run import json_option, load_settings, print_json, print_table, report_errors
from chora.cli.terminal import echo


@click.command("config")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, as_json: bool) -> None:
    """Show every setting with its value and its origin."""
    folder, loaded = load_settings(project)
    table = settings.settings_table(loaded)
    if as_json:
        print_json({"success": True, "project": str(folder), "settings": table, "warnings": loaded.warnings})
    else:
        echo(f"project {folder}", err=True)
        print_table(("Setting", "Value", "From"), [(row["key"], row["value"], row["origin"]) for row in table])
