"""`chora gc`: forget what is old."""

from __future__ import annotations

import click

from chora.cli.run import json_option, opened_settings, print_json, reporting, run_async


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
@reporting
def command(project: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove drafts, stored texts, jobs and events older than storage.retention_days.

    The newest three texts of a content stay, and the newest approved one. The server does the same by itself.
    """
    from chora.engine.engine import open_engine
    from chora.engine.retention import Swept, sweep

    folder, loaded = opened_settings(project)

    async def run() -> Swept:
        async with open_engine(folder, loaded.settings) as engine:
            return await sweep(engine, dry_run=dry_run)

    swept = run_async(run)
    if as_json:
        print_json({"success": True, "dry_run": dry_run, **swept._asdict()})
        return
    verb = "would go" if dry_run else "went"
    click.echo(
        f"{swept.versions} texts ({swept.bytes_freed:,} bytes), {swept.drafts} drafts, {swept.jobs} jobs and "
        f"{swept.rows} rows of events and measurements {verb}"
    )
