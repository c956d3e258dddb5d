"""`chora preview`: one text on stdout, without storing it."""

from __future__ import annotations

import click

from chora.cli.run import call_tool, context_option, json_option, parse_context, print_json, report_errors
from chora.cli.terminal import echo, echo_text


@click.command("preview")
@click.argument("content_id")
@context_option
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, content_id: str, context: tuple[str, ...], as_json: bool) -> None:
    """Generate a content and print its text, without storing it."""
    arguments = {"content_config_id": content_id, "context": parse_context(context), "show_metadata": True}
    result = call_tool(project, "preview_generation", arguments)
    if as_json:
        print_json(result)
        return
    echo_text(result["preview_content"])
    for warning in result["metadata"]["warnings"]:
        echo(f"warning: {warning}", err=True)
