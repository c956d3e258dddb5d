"""`chora trace`: what an artifact is made from, and why it is stale."""

from __future__ import annotations

import click

from chora.cli.run import call_tool, json_option, print_json, print_table, report_errors
from chora.cli.terminal import echo


@click.command("trace")
@click.argument("artifact_id")
@click.option("--inputs", is_flag=True, help="Also list the inputs of each text.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, artifact_id: str, inputs: bool, as_json: bool) -> None:
    """Show an artifact's dependencies, what is stored of each, and what has changed since."""
    result = call_tool(
        project, "trace_dependencies", {"artifact_config_id": artifact_id, "show_metadata": inputs or as_json}
    )
    if as_json:
        print_json(result)
        return
    rows = [
        (
            each["content_id"],
            each["status"],
            "required" if each["required"] else "optional",
            each["error"] or "; ".join(each["stale_because"]) or "up to date",
        )
        for each in result["dependencies"]
    ]
    print_table(("Content", "Status", "Required", "Changes"), rows)
    if inputs:
        for each in result["dependencies"]:
            for name in each["metadata"]["inputs"]:
                echo(f"{each['content_id']} ← {name.replace(chr(0), ' ')}")
    reasons = "; ".join(result["stale_because"]) or "its files are up to date"
    echo(f"{result['artifact_id']} is {result['status']}: {reasons}", err=True)
