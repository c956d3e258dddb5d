"""`chora restore`: replace the store with a backup."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.project import locate
from chora.wording import list_quantities


@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path))
@click.option("--verify", "only_verify", is_flag=True, help="Only verify that the backup is intact.")
@click.option("--salvage", metavar="FILE", help="Only save what can be read of a damaged database into a new FILE.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, backup: Path, only_verify: bool, salvage: str | None, as_json: bool) -> None:
    """Verify BACKUP and replace the store with it; the replaced store is kept as a backup, too.

    Outputs and configs are files of the project and stay unchanged.
    """
    from chora.store.backup import RestoreResult, restore_backup, verify_backup

    root, loaded = load_settings(project)
    if not backup.exists() and (in_project := root / backup).exists():
        backup = in_project  # as errors and `chora doctor` name it
    if salvage is not None:
        _salvage(backup, Path(salvage), as_json)
        return
    if only_verify:
        done = RestoreResult(verify_backup(backup), None)
    else:
        folder = locate(root, loaded.settings.backup.folder)
        done = run_async(partial(restore_backup, root, loaded.settings.storage, backup.absolute(), folder))
    if as_json:
        replaced = str(done.replaced) if done.replaced else None
        print_json({"success": True, "restored": not only_verify, "counts": done.counts, "replaced": replaced})
        return
    click.echo(f"{'holds' if only_verify else 'restored'} {list_quantities(done.counts)}")
    if done.replaced:
        click.echo(f"the replaced store is kept in {done.replaced}", err=True)


def _salvage(damaged: Path, target: Path, as_json: bool) -> None:
    from chora.errors import SaveFailed, StorageError
    from chora.store.salvage import salvage_database

    if not damaged.is_file():
        raise StorageError(f"There is no file {damaged}.", "Name the damaged database.", path=str(damaged))
    if target.exists():
        raise SaveFailed(f"{target} exists already.", "Name a new file.", path=str(target))
    done = salvage_database(damaged, target)
    if as_json:
        print_json({"success": True, "path": str(done.path), "saved": done.saved, "lost": sorted(done.lost)})
        return
    click.echo(done.path)
    click.echo(f"saved {list_quantities(done.saved)}; `chora restore {done.path}` puts it in place", err=True)
    if done.lost:
        click.secho(f"rows are missing from {', '.join(sorted(done.lost))}", fg="yellow", err=True)
