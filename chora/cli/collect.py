"""`chora collect`: build a collection."""

from __future__ import annotations

import sys
from typing import Any

import click

from chora.cli.run import (
    ToolFailed,
    call_tool,
    check_outcome,
    context_option,
    json_option,
    parse_context,
    print_json,
    print_planned_files,
    report_errors,
)
from chora.cli.terminal import echo
from chora.wording import quantity


@click.command("collect")
@click.argument("collection")
@context_option
@click.option("--output", "-o", metavar="DIR", help="Folder to use instead of the config's base path.")
@click.option("--force", is_flag=True, help="Build every member again; an edited file is kept anyway.")
@click.option("--member", "members", multiple=True, metavar="ID", help="Build this member again; may be repeated.")
@click.option("--plan", is_flag=True, help="Only print what would be built, and why.")
@click.option("--diff", is_flag=True, help="Only show how the files would differ.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if anything isn't up to date, 2 if it can't look.")
@json_option
@click.pass_obj
@report_errors
def command(
    project: str | None,
    collection: str,
    context: tuple[str, ...],
    output: str | None,
    force: bool,
    members: tuple[str, ...],
    plan: bool,
    diff: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Build a collection: every member that is out of date, and manifest.json."""
    dry_run = plan or diff or check
    arguments = {
        "collection_config_path": collection,
        "context": parse_context(context),
        "output_path": output,
        "force": force,
        "force_members": list(members),
        "dry_run": dry_run,
        "show_diff": dry_run,
    }
    try:
        with check_outcome(check=check):
            result = call_tool(project, "generate_collection", arguments, progress=True)
    except ToolFailed as failure:  # the members that were built are reported in the same form
        if not as_json and "cached_members" in failure.details:
            _print_totals(failure.details, failure.details["cached_members"])
        raise
    if as_json:
        print_json(result)
    elif check and not plan:
        _print_check(result, diff=diff)
    elif dry_run:
        _print_planned_members(result, diff=diff)
    else:
        _print_built(result)
    failed = [member for member in result["members"] if member["status"] == "failed"]
    stale = [file for member in result["members"] for file in member["files"] if is_stale(file)]
    orphans = result["metadata"]["orphans"]
    if not as_json:
        print_orphans(orphans)
    if result["metadata"]["conflicts"] or (dry_run and (failed or (check and (stale or orphans["count"])))):
        sys.exit(1)


def is_stale(file: dict[str, Any]) -> bool:
    """Whether a file differs from what chora would write, or conflicts are marked in it."""
    return file["action"] not in ("unchanged", "adopt", "deleted") or file["conflicts"] > 0


def print_orphans(orphans: dict[str, Any]) -> None:
    """Say which files of earlier builds nothing writes any more."""
    for file in orphans["files"]:
        edited = ", and it was edited" if file["edited"] else ""
        echo(f"orphan: {file['path']}: {file['reason']}{edited}", fg="yellow", err=True)
    if orphans["count"]:
        more = orphans["count"] - len(orphans["files"])
        also = f"and {more:,} more; " if more else ""
        echo(f"{also}`chora gc --outputs` deletes orphans that are as chora wrote them", err=True)


def print_conflicts(paths: list[str]) -> None:
    """Say which files hold conflicts; the command fails until a person has settled them."""
    for path in paths:
        message = f"{path} holds conflicts with an edit: settle them in the file, or with `chora edits`"
        echo(message, fg="red", err=True)


def _print_planned_members(result: dict[str, Any], *, diff: bool) -> None:
    for member in result["members"]:
        if member["error"]:
            echo(f"{member['id']}: {member['error']['message']}", fg="red")
        if member["reasons"]:
            echo(f"{member['id']}: {'; '.join(member['reasons'])}")
        said = "\n".join(member["reasons"])
        files = [
            {**file, "reasons": [reason for reason in file["reasons"] if reason not in said]}
            for file in member["files"]
        ]
        print_planned_files(files, diff=diff)
    metadata = result["metadata"]
    echo(f"{metadata['regenerated_members']} of {result['total_members']} members would be built")


def _print_check(result: dict[str, Any], *, diff: bool) -> None:
    """Print only what isn't up to date."""
    failed = [member for member in result["members"] if member["error"]]
    stale = [file for member in result["members"] for file in member["files"] if is_stale(file)]
    for member in failed:
        echo(f"{member['id']}: {member['error']['message']}", fg="red")
    print_planned_files(stale, diff=diff)
    if not failed and not stale and not result["metadata"]["orphans"]["count"]:
        echo(f"{result['collection_id']} is up to date ({quantity(result['total_members'], 'member')})")
    elif stale:
        echo(f"stale or edited: {quantity(len(stale), 'file')}")


def _print_built(result: dict[str, Any]) -> None:
    """Print the lines that workflows of chora-compose parse on stdout, everything else on stderr."""
    for member in result["members"]:
        if member["error"]:
            echo(f"{member['id']} {member['status']}: {member['error']['message']}", fg="red", err=True)
            if member["error"]["diff"]:
                echo(member["error"]["diff"], err=True)
        elif not member["cache_used"] and member["output_path"]:
            echo(f"Generated artifact: {member['output_path']}")
    for warning in result["metadata"]["warnings"]:
        echo(f"warning: {warning}", err=True)
    print_conflicts(result["metadata"]["conflicts"])
    _print_totals(result, result["metadata"]["cached_members"])


def _print_totals(result: dict[str, Any], hits: int) -> None:
    total, built = result["total_members"], result["successful_members"]
    echo(f"Generated {built}/{total} items ({built / total:.0%} success)")
    echo(f"Total time: {result['generation_time_seconds']:.1f}s")
    echo(f"Cache hits: {hits}, misses: {total - hits} ({hits / total:.0%} hit rate)")
