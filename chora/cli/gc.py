"""`chora gc`: delete old drafts, texts, jobs and events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.cli.terminal import echo
from chora.wording import quantity

if TYPE_CHECKING:
    from chora.settings import Settings


@click.command("gc")
@click.option("--dry-run", "--plan", "dry_run", is_flag=True, help="Only print what would be deleted.")
@click.option("--outputs", is_flag=True, help="Instead: delete outputs that nothing writes any more.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, dry_run: bool, outputs: bool, as_json: bool) -> None:
    """Delete drafts, stored texts, jobs and events older than storage.retention_days.

    The newest three texts of a content stay, and the newest approved one. The server does the same regularly.

    With --outputs it deletes orphans instead: files whose member, output name or config is gone. Those that were edited
    stay, and so do those that another config claims.
    """
    from chora.engine.engine import open_engine
    from chora.engine.retention import RetentionResult, apply_retention

    folder, loaded = load_settings(project)
    if outputs:
        _delete_orphans(folder, loaded.settings, dry_run=dry_run, as_json=as_json)
        return

    async def run() -> RetentionResult:
        async with open_engine(folder, loaded.settings) as engine:
            return await apply_retention(engine, dry_run=dry_run)

    removed = run_async(run)
    if as_json:
        print_json({"success": True, "dry_run": dry_run, **removed._asdict()})
        return
    verb = "would be deleted" if dry_run else "deleted"
    echo(
        f"{quantity(removed.versions, 'text')} ({quantity(removed.bytes_freed, 'byte')}), "
        f"{quantity(removed.drafts, 'draft')}, {quantity(removed.jobs, 'job')} and "
        f"{quantity(removed.rows, 'row')} of events and measurements {verb}"
    )


def _delete_orphans(folder: Path, settings: Settings, *, dry_run: bool, as_json: bool) -> None:
    from chora.engine.engine import open_engine
    from chora.engine.orphans import SHOWN, RemovedOrphans, remove_orphans

    async def run() -> RemovedOrphans:
        async with open_engine(folder, settings, reading=dry_run) as engine:
            return await remove_orphans(engine, dry_run=dry_run)

    removed = run_async(run)
    if as_json:
        counts = {"deleted_count": len(removed.deleted), "kept_count": len(removed.kept)}
        shown = {name: msgspec.to_builtins(each[:SHOWN]) for name, each in removed._asdict().items()}
        print_json({"success": True, "dry_run": dry_run, **counts, **shown})
        return
    verb = "would be deleted" if dry_run else "deleted"
    for orphan in removed.deleted:
        echo(f"{verb}: {orphan.path}: {orphan.reason}")
    for orphan in removed.kept:
        echo(f"kept: {orphan.path} was edited: {orphan.reason}", fg="yellow")
    echo(f"{quantity(len(removed.deleted), 'orphan')} {verb}, {len(removed.kept)} kept")
