"""`chora freshness`: the age of a collection's members."""

from __future__ import annotations

import click

from chora.cli.run import call_tool, json_option, print_json, print_table, report_errors
from chora.cli.terminal import echo

COLORS = {"fresh": "green", "stale": "yellow", "expired": "red"}


@click.command("freshness")
@click.argument("collection")
@click.option("--output", "-o", metavar="DIR", help="Folder to use instead of the config's base path.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, collection: str, output: str | None, as_json: bool) -> None:
    """Show the age of a collection's members against their maximum age."""
    result = call_tool(project, "check_freshness", {"collection_config_path": collection, "output_path": output})
    if as_json:
        print_json(result)
        return
    rows = [
        (
            member["member_id"],
            member["freshness_status"],
            "never built" if member["age_days"] is None else f"{member['age_days']:.1f} of {member['max_age_days']:g}",
            _bar(member["threshold_percentage"]),
        )
        for member in result["members"]
    ]
    print_table(("Member", "Status", "Days", ""), rows)
    echo(result["recommendation"], fg=COLORS[result["overall_status"]], err=True)


def _bar(per_cent: float | None) -> str:
    """A bar of the share of the maximum age."""
    filled = 20 if per_cent is None else min(20, round(per_cent / 5))
    return "█" * filled + "░" * (20 - filled)
