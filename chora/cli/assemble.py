"""`chora assemble`: write an artifact's files."""

from __future__ import annotations

import sys
from typing import Any

import click

from chora.cli.collect import is_stale, print_conflicts, print_orphans
from chora.cli.run import (
    call_tool,
    check_outcome,
    context_option,
    json_option,
    load_settings,
    parse_context,
    print_json,
    print_planned_files,
    report_errors,
    run_async,
)
from chora.cli.terminal import echo, echo_bytes, echo_text
from chora.wording import quantity


@click.command("assemble")
@click.argument("artifact_id")
@context_option
@click.option("--output", "-o", metavar="PATH", help="File to write instead of the config's first output; - prints it.")
@click.option("--force", is_flag=True, help="Generate every child again; an edited file is kept anyway.")
@click.option("--plan", is_flag=True, help="Only print what would be written, and why.")
@click.option("--diff", is_flag=True, help="Only show how the files would differ.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if anything isn't up to date, 2 if it can't look.")
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
    if output == "-":
        if plan or diff or check or as_json:
            raise click.UsageError("-o - prints the text and nothing else.")
        _print_text(project, artifact_id, parse_context(context))
        return
    dry_run = plan or diff or check
    with check_outcome(check=check):
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
            echo(f"{outcome} artifact: {path}")
        for warning in metadata["warnings"]:
            echo(f"warning: {warning}", err=True)
        pieces = f"{quantity(result['content_count'], 'piece')}, {quantity(result['size_bytes'], 'byte')}"
        print_conflicts(metadata["conflicts"])
        echo(f"{result['status']}: {pieces} in {result['duration_ms']} ms", fg="green", err=True)
    if not as_json:
        print_orphans(metadata["orphans"])
    stale = metadata["orphans"]["count"] > 0 or any(is_stale(file) for file in metadata["plan"])
    refused = any(file["action"] == "refuse" for file in metadata["plan"])
    if metadata["conflicts"] or refused or (check and stale):
        sys.exit(1)


def _print_text(project: str | None, artifact_id: str, context: dict[str, Any]) -> None:
    """Print what the first output would hold, without writing a file or storing a text."""
    from chora.engine.building.artifact import compose_artifact
    from chora.engine.building.build import Build, CallerContext
    from chora.engine.engine import open_engine

    folder, loaded = load_settings(project)

    async def compose() -> tuple[bytes, str]:
        async with open_engine(folder, loaded.settings, reading=True) as engine:
            parsed = engine.catalog.find_config("artifact", artifact_id).parsed
            text = await compose_artifact(Build(engine, dry=True), parsed, CallerContext(context))
            return text, parsed.config.metadata.outputs[0].encoding

    data, encoding = run_async(compose)
    if sys.stdout.isatty():
        echo_text(data.decode(encoding, "replace"))
    else:
        echo_bytes(data)
