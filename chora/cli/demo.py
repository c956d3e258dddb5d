"""`chora demo`: a sample project, driven over MCP as by an agent."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import click

from chora import this_process
from chora.cli.run import json_option, print_json, report_errors, run_async
from chora.cli.samples import DEMO, replace_text, write_sample
from chora.cli.terminal import echo
from chora.errors import SaveFailed, Unreachable
from chora.nofollow import open_folder, read_file

WELCOME = {
    "type": "content",
    "id": "welcome",
    "schemaRef": {"id": "content-schema", "version": "3.1"},
    "metadata": {"description": "Title and welcome of the weekly notice", "version": "1.0.0"},
    "elements": [
        {"name": "title", "format": "markdown", "example_output": "# This week at the library"},
        {"name": "welcome", "format": "text", "example_output": "Come in; the kettle is on."},
    ],
    "generation": {"patterns": [{"id": "show", "type": "demonstration"}]},
}
HOURS = {
    "type": "content",
    "id": "opening-hours",
    "schemaRef": {"id": "content-schema", "version": "3.1"},
    "metadata": {"description": "Where and when the library is open", "version": "1.0.0"},
    "inputs": {"sources": [{"id": "library", "source_type": "external_file", "source_locator": "data/library.yaml"}]},
    "generation": {
        "patterns": [
            {
                "id": "fill",
                "type": "template_fill",
                "template": "## Opening hours\n\n{{ library.name }}, {{ library.street }}: "
                "Tuesday {{ library.hours.Tuesday }}, Saturday {{ library.hours.Saturday }}.\n",
            }
        ]
    },
}
EVENINGS = {
    "type": "content",
    "id": "evenings",
    "schemaRef": {"id": "content-schema", "version": "3.1"},
    "metadata": {"description": "The evening program with its seats", "version": "1.0.0"},
    "inputs": {
        "sources": [
            {"id": "library", "source_type": "external_file", "source_locator": "data/library.yaml"},
            {"id": "program", "source_type": "external_file", "source_locator": "data/evenings.json"},
        ]
    },
    "generation": {"patterns": [{"id": "render", "type": "jinja2", "template": "evenings.md.j2"}]},
}
NOTICE = {
    "type": "artifact",
    "id": "weekly-notice",
    "schemaRef": {"id": "artifact-schema", "version": "3.1"},
    "metadata": {
        "title": "Weekly notice",
        "purpose": "Hangs at the entrance",
        "outputs": [{"file": "outputs/weekly-notice.md", "format": "markdown"}],
    },
    "content": {
        "children": [
            {"id": document["id"], "path": f"{document['id']}/{document['id']}-content.json", "order": order}
            for order, document in enumerate((WELCOME, HOURS, EVENINGS), 1)
        ]
    },
}
SIGN = {
    "type": "artifact",
    "id": "hours-sign",
    "schemaRef": {"id": "artifact-schema", "version": "3.1"},
    "metadata": {
        "title": "Hours sign",
        "purpose": "Says when the library is open",
        "outputs": [{"file": "outputs/hours-sign.md", "format": "markdown"}],
    },
    "content": {"children": [{"id": "opening-hours", "path": "opening-hours/opening-hours-content.json"}]},
}
SIGNS = {
    "type": "collection",
    "id": "signs",
    "name": "Signs of the house",
    "members": [{"id": "hours-sign", "type": "artifact", "path": "hours-sign/hours-sign-artifact.json"}],
    "output": {"base_path": "outputs/signs"},
}
WEEK = {
    "type": "collection",
    "id": "week",
    "name": "Everything for the week",
    "members": [
        {
            "id": "weekly-notice",
            "type": "artifact",
            "path": "weekly-notice/weekly-notice-artifact.json",
            "freshness_threshold_days": 7,
        },
        {"id": "signs", "type": "collection", "path": "signs.json", "freshness_threshold_days": 90},
    ],
    "context": {"shared": {"sources": [{"type": "external_file", "path": "data/library.yaml", "output_as": "house"}]}},
    "output": {"base_path": "outputs/{{ collection_id }}"},
}


@click.command("demo")
@click.argument("folder", required=False, metavar="[DIR]")
@json_option
@report_errors
def command(folder: str | None, as_json: bool) -> None:
    """Create a sample project and drive it over MCP: draft, test, save, assemble, and build a collection.

    DIR must be new or empty; without it, chora-demo is created here.
    """
    root = _new_folder(folder)
    steps = run_async(_run_demo, root, as_json)
    output = root / "outputs" / "week" / "weekly-notice" / "weekly-notice.md"
    server = this_process.own_command("--project", str(root), "stdio")
    if as_json:
        print_json({"success": True, "project": str(root), "output": str(output), "steps": steps, "server": server})
        return
    echo(f"\n{click.style(str(output), bold=True)}\n")
    echo("".join(f"  │ {line}\n" for line in read_file(output).decode().splitlines()))
    echo("Connect Claude Code to this project:")
    echo(f"  claude mcp add chora-demo -- {shlex.join(server)}")
    echo("Or Claude Desktop, in claude_desktop_config.json:")
    entry = {"mcpServers": {"chora-demo": {"command": server[0], "args": server[1:]}}}
    echo("  " + _compact(entry))


def _new_folder(folder: str | None) -> Path:
    if folder is not None:
        root = Path(folder)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise SaveFailed(f"{root} is not empty.", "Name a folder that is new or empty.", config_path=str(root))
    else:
        names = ("chora-demo", *(f"chora-demo-{number}" for number in range(2, 1000)))
        root = next(Path(name) for name in names if not Path(name).exists())
    root = root.resolve()
    with open_folder(root, make=True, mode=0o777):
        return root


async def _run_demo(root: Path, quiet: bool) -> list[dict[str, Any]]:
    """Drive a `chora stdio` of the new project; returns every step with its outcome."""
    from chora.watch.mcp_client import CallFailed, start_process

    steps: list[dict[str, Any]] = []

    def report(step: str, outcome: str, began: float) -> None:
        steps.append({"step": step, "outcome": outcome, "milliseconds": round((time.perf_counter() - began) * 1000, 1)})
        if not quiet:
            echo(f"{click.style('✓', fg='green')} {step:<44} {outcome} ({steps[-1]['milliseconds']} ms)")

    began = time.perf_counter()
    report("sample project", f"{len(write_sample(root, DEMO))} files in {root}", began)
    server_command = this_process.own_command("--project", str(root), "stdio")
    environment = {**this_process.child_environment(), "CHORA_LOG_LEVEL": "WARNING"}
    began = time.perf_counter()
    try:
        async with start_process(server_command, environment) as server:
            report("chora stdio", "answered initialize", began)

            async def call(tool: str, arguments: dict[str, Any], said: str, step: str) -> dict[str, Any]:
                before = time.perf_counter()
                answer = await server.call(tool, arguments)
                if answer.is_error:
                    raise CallFailed(f"{tool} answered: {answer.result['error']['message']}")
                if answer.result.get("status") == "running":  # on a very slow machine; the same call waits for it
                    return await call(tool, arguments, said, step)
                report(step, said.format(**answer.result), before)
                return answer.result

            for document in (WELCOME, HOURS, EVENINGS, NOTICE, SIGN, SIGNS, WEEK):
                kind, name = document["type"], document["id"]
                draft = await call(
                    "draft_config",
                    {"config_type": kind, "config_data": document},
                    "{draft_id}",
                    f"draft_config {name}",
                )
                test = {"draft_id": draft["draft_id"]}
                if kind != "collection":  # it has no text of its own
                    await call("test_config", test, "{content_length} characters", f"test_config {name}")
                await call("save_config", {**test, "config_id": name}, "{config_path}", f"save_config {name}")
            artifact = {"artifact_config_id": "weekly-notice"}
            pieces = "{status}, {content_count} pieces"
            await call("assemble_artifact", artifact, pieces, "assemble_artifact weekly-notice")
            await call("assemble_artifact", artifact, "{status}: nothing had changed", "assemble_artifact, once more")

            week = {"collection_config_path": "week"}
            built = "{metadata[regenerated_members]} of {total_members} members built"
            await call("generate_collection", week, built, "generate_collection week (one is nested)")
            cached = "{metadata[cached_members]} of {total_members} members from the cache"
            await call("generate_collection", week, cached, "generate_collection, once more")
            await call("check_freshness", week, "{recommendation}", "check_freshness week")
            with open_folder(root / "data") as data:
                before_text = read_file(data.path / "evenings.json").decode()
                after_text = before_text.replace("Maps of the old harbour", "Charts by candlelight")
                replace_text(data, "evenings.json", after_text)
            stale = "{stale_members[0]} is stale: {metadata[reasons][weekly-notice][0]}"
            await call("check_collection_cache", week, stale, "check_collection_cache, an evening renamed")
            await call("generate_collection", week, f"{built}, the other from the cache", "generate_collection week")
    except CallFailed as failed:
        raise Unreachable(f"The demo's own server failed: {failed}", "Its log is above.") from None
    return steps


def _compact(value: Any) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()
