"""`chora generate`: one text on stdout."""

from __future__ import annotations

import click

from chora.cli.run import call_tool, context_option, json_option, parse_context, print_json, report_errors
from chora.cli.terminal import echo, echo_text


@click.command("generate")
@click.argument("content_id")
@context_option
@click.option("--force", is_flag=True, help="Generate it again even if nothing changed.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, content_id: str, context: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Generate a content and print its text; the status goes to stderr."""
    result = call_tool(
        project,
        "generate_content",
        {"content_config_id": content_id, "context": parse_context(context), "force": force},
    )
    if as_json:
        print_json(result)
        return
    echo_text(result["content"])
    for warning in result["metadata"]["warnings"]:
        echo(f"warning: {warning}", err=True)
    echo(f"{result['status']} by {result['generator']} in {result['duration_ms']} ms", fg="green", err=True)
