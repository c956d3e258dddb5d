"""`chora edits`: people's edits of outputs, and how each is settled."""

from __future__ import annotations

import click

from chora.cli.run import call_tool, json_option, print_json, print_table, report_errors
from chora.cli.terminal import echo

ACTIONS = ("list", "show", "accept", "discard", "merge")


@click.command("edits")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("path", required=False)
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, action: str, path: str | None, as_json: bool) -> None:
    """List the files that people edited or deleted after chora wrote them, or show or settle one edit.

    show prints what was changed. accept keeps the edit: later changes of the text are merged with it; a file that was
    deleted isn't written any more. merge also assembles the artifact again, so that changes are merged now. discard
    puts back what chora wrote, and keeps the edit in .chora/discarded.
    """
    if (path is None) != (action == "list"):
        raise click.UsageError("Name the PATH of an edited file." if path is None else "list takes no PATH.")
    if action in ("list", "show"):
        result = call_tool(project, "list_edits", {"path": path})
    else:
        result = call_tool(project, "settle_edit", {"path": path, "action": action})
    if as_json:
        print_json(result)
        return
    match action:
        case "list":
            rows = [(each["path"], each["state"], each["changes"], each["artifact_id"]) for each in result["edits"]]
            print_table(("Path", "State", "Changes", "Artifact"), rows)
        case "show":
            echo(result["diff"])
        case _:
            echo(result["message"])
