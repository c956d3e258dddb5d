"""`chora assemble`: an artifact's files."""

from __future__ import annotations

import click

from chora.cli.run import call_tool, context_option, json_option, parse_context, print_json, reporting


@click.command("assemble")
@click.argument("artifact_id")
@context_option
@click.option("--output", "-o", metavar="PATH", help="File to write instead of the config's first output.")
@click.option("--force", is_flag=True, help="Generate every child again; an edited file is left alone all the same.")
@json_option
@click.pass_obj
@reporting
def command(
    project: str | None, artifact_id: str, context: tuple[str, ...], output: str | None, force: bool, as_json: bool
) -> None:
    """Assemble an artifact and write its output files."""
    result = call_tool(
        project,
        "assemble_artifact",
        {
            "artifact_config_id": artifact_id,
            "context": parse_context(context),
            "output_path": output,
            "force": force,
        },
    )
    if as_json:
        print_json(result)
        return
    for path in result["metadata"]["outputs"]:
        click.echo(f"Generated artifact: {path}")
    for warning in result["metadata"]["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    pieces = f"{result['content_count']} pieces, {result['size_bytes']:,} bytes"
    click.secho(f"{result['status']}: {pieces} in {result['duration_ms']} ms", fg="green", err=True)
