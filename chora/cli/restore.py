"""`chora restore`: what a backup holds, in the place of what is there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from chora.cli.run import json_option, opened_settings, print_json, reporting, run_async


@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path))
@click.option("--verify", "only_verify", is_flag=True, help="Only make sure that the backup is whole.")
@json_option
@click.pass_obj
@reporting
def command(project: str | None, backup: Path, only_verify: bool, as_json: bool) -> None:
    """Verify BACKUP and put it in the place of what is remembered now, which is kept as a backup too.

    Outputs and configs are files of the project and stay as they are.
    """
    from chora.store.backup import Restored, restore, verify

    root, loaded = opened_settings(project)
    if only_verify:
        done = Restored(verify(backup), None)
    else:
        folder = root / loaded.settings.backup.folder
        done = run_async(partial(restore, root, loaded.settings.storage, backup.absolute(), folder))
    if as_json:
        replaced = str(done.replaced) if done.replaced else None
        print_json({"success": True, "restored": not only_verify, "counts": done.counts, "replaced": replaced})
        return
    verb = "holds" if only_verify else "restored"
    click.echo(f"{verb} {', '.join(f'{count:,} {kind}' for kind, count in done.counts.items() if count) or 'nothing'}")
    if done.replaced:
        click.echo(f"what was there is kept in {done.replaced}", err=True)
