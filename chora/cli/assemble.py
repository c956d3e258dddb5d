"""`chora assemble`: write an artifact's files."""

from __future__ import annotations

import sys

import click

from chora.cli.collect import is_stale, print_conflicts
from chora.cli.run import (
    call_tool,
    context_option,
    json_option,
    parse_context,
    print_json,
    print_planned_files,
    report_errors,
)
from chora.wording import quantity


@click.command("assemble")
@click.argument("artifact_id")
@context_option
@click.option("--output", "-o", metavar="PATH", help="File to write instead of the config's first output.")
@click.option("--force", is_flag=True, help="Generate every child again; an edited file is kept anyway.")
@click.option("--plan", is_flag=True, help="Only print what would be written, and why.")
@click.option("--diff", is_flag=True, help="Only show how the files would differ.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file is stale or edited.")
@json_option
@click.pass_obj
@report_errors
def command(
    project: str | None,
    artifact_id: str,
    context: tuple[str, ...],
    output: str | None,
    force: bool,
    plan: bool,
    diff: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Assemble an artifact and write its output files."""
    dry_run = plan or diff or check
    result = call_tool(
        project,
        "assemble_artifact",
        {
            "artifact_config_id": artifact_id,
            "context": parse_context(context),
            "output_path": output,
            "force": force,
            "dry_run": dry_run,
        },
        progress=True,
    )
    metadata = result["metadata"]
    if as_json:
        print_json(result)
    elif dry_run:
        print_planned_files(metadata["plan"], diff=diff)
    else:
        outcome = "Unchanged" if result["status"] == "skipped" else "Generated"
        for path in metadata["outputs"]:
            click.echo(f"{outcome} artifact: {path}")
        for warning in metadata["warnings"]:
            click.echo(f"warning: {warning}", err=True)
        pieces = f"{quantity(result['content_count'], 'piece')}, {quantity(result['size_bytes'], 'byte')}"
        print_conflicts(metadata["conflicts"])
        click.secho(f"{result['status']}: {pieces} in {result['duration_ms']} ms", fg="green", err=True)
    refused = any(file["action"] == "refuse" for file in metadata["plan"])
    if metadata["conflicts"] or refused or (check and any(is_stale(file) for file in metadata["plan"])):
        sys.exit(1)
