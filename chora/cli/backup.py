"""`chora backup`: everything in the store, in one file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.cli.terminal import echo
from chora.project import locate
from chora.wording import quantity


@click.command("backup")
@click.option("--to", "folder", metavar="DIR", help="Folder to write into; else the setting backup.folder.")
@click.option("--keep", type=click.IntRange(1), help="Afterwards delete all but this many of the newest backups.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, folder: str | None, keep: int | None, as_json: bool) -> None:
    """Make a backup while other processes read and write. It appears only when it is complete and verified."""
    from chora.store.backup import delete_old_backups, make_backup
    from chora.store.reading import reading_store

    root, loaded = load_settings(project)
    target = locate(Path.cwd() if folder else root, folder or loaded.settings.backup.folder)
    with reading_store(root, loaded.settings.storage) as store:
        made = run_async(partial(make_backup, store, target))
    removed = delete_old_backups(target, keep) if keep else []
    if as_json:
        facts = {"path": str(made.path), "size_bytes": made.size, "counts": made.counts}
        print_json({"success": True, **facts, "removed": [str(path) for path in removed]})
        return
    echo(made.path)
    echo(f"{quantity(made.size, 'byte')}, {quantity(made.counts['versions'], 'text')}; verified", fg="green", err=True)
