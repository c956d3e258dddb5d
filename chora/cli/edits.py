"""`chora edits`: people's edits of outputs, and how each is settled."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from chora.cli.run import json_option, load_settings, print_json, print_table, report_errors, run_async
from chora.cli.terminal import echo

ACTIONS = ("list", "show", "accept", "discard", "merge")


@click.command("edits")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("path", required=False)
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, action: str, path: str | None, as_json: bool) -> None:
    """List the files that people edited after chora wrote them, or show or settle one edit.

    show prints what was changed. accept keeps the edit: later changes of the text are merged with it. merge also
    assembles the artifact again, so that they are merged now. discard puts back what chora wrote, and keeps the edit in
    .chora/discarded.
    """
    if (path is None) != (action == "list"):
        raise click.UsageError("Name the PATH of an edited file." if path is None else "list takes no PATH.")
    result = _act(project, action, path or "")
    if as_json:
        print_json({"success": True, **result})
        return
    match action:
        case "list":
            rows = [(each["path"], each["state"], each["changes"], each["artifact_id"]) for each in result["edits"]]
            print_table(("Path", "State", "Changes", "Artifact"), rows)
        case "show":
            echo(result["diff"])
        case _:
            echo(result["message"])


def _act(project: str | None, action: str, path: str) -> dict[str, Any]:
    from chora.engine import edits
    from chora.engine.building.artifact import build_artifact
    from chora.engine.building.build import Build, CallerContext
    from chora.engine.engine import open_engine

    folder, loaded = load_settings(project)

    async def act() -> dict[str, Any]:
        async with open_engine(folder, loaded.settings, reading=action in ("list", "show")) as engine:
            match action:
                case "list":
                    return {"edits": msgspec.to_builtins(edits.list_edits(engine))}
                case "show":
                    return {"path": path, "diff": edits.diff_edit(engine, path)}
                case "discard":
                    edit, kept = await edits.discard(engine, path)
                    return {"path": edit.path, "kept": kept, "message": f"{edit.path}: the edit is kept in {kept}"}
                case _:
                    edit = edits.accept(engine, path)
                    message = f"{edit.path}: accepted; later changes are merged with it"
                    conflicts: list[str] = []
                    if action == "merge":
                        parsed = engine.catalog.find_config("artifact", edit.artifact_id).parsed
                        if edit.path in [engine.folder.relative(each.file) for each in parsed.config.metadata.outputs]:
                            built = await build_artifact(Build(engine), parsed, CallerContext({}))
                            conflicts = built.conflicts
                            message = (
                                f"{edit.path}: merged" if not conflicts else f"{edit.path}: merged, with conflicts"
                            )
                        else:
                            message += "; build its collection to merge now"
                    return {"path": edit.path, "conflicts": conflicts, "message": message}

    return run_async(act)
