"""`chora gc`: delete old drafts, texts, jobs and events."""

from __future__ import annotations

import click

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.cli.terminal import echo
from chora.wording import quantity


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete drafts, stored texts, jobs and events older than storage.retention_days.

    The newest three texts of a content stay, and the newest approved one. The server does the same regularly.
    """
    from chora.engine.engine import open_engine
    from chora.engine.retention import RetentionResult, apply_retention

    folder, loaded = load_settings(project)

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
