"""`chora validate`: check a config or a text."""

from __future__ import annotations

import sys

import click

from chora.cli.run import call_tool, json_option, print_json, report_errors
from chora.cli.terminal import echo
from chora.wording import quantity

COLORS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.command("validate")
@click.argument("name")
@click.option("--collection", is_flag=True, help="NAME is a collection config.")
@click.option("--rules", metavar="JSON", help="Rules to check besides those of the config.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, name: str, collection: bool, rules: str | None, as_json: bool) -> None:
    """Check a content or artifact config, its stored text, or a collection config. Exits 1 if there are errors."""
    if collection:
        result = call_tool(project, "validate_collection_config", {"collection_config_path": name})
    else:
        result = call_tool(project, "validate_content", {"content_or_config_id": name, "validation_rules": rules})
    if as_json:
        print_json(result)
    else:
        for issue in result["issues"]:
            place = issue.get("location") or issue.get("member_id") or name
            echo(f"{issue['severity']}", fg=COLORS[issue["severity"]], nl=False)
            echo(f" {place}: {issue['message']} [{issue['code']}]")
        echo(f"{quantity(result['error_count'], 'error')}, {quantity(result['warning_count'], 'warning')}", err=True)
    if not result["valid"]:
        sys.exit(1)
