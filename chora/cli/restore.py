"""`chora restore`: replace the store with a backup."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.cli.terminal import echo
from chora.project import locate
from chora.wording import list_quantities

if TYPE_CHECKING:
    from chora.store.backup import RestoreResult


@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path), required=False)
@click.option("--verify", "only_verify", is_flag=True, help="Only verify that the backup is intact.")
@click.option("--salvage", metavar="FILE", help="Only save what can be read of a damaged database into a new FILE.")
@click.option("--empty", is_flag=True, help="Begin with an empty store where one has been that is gone.")
@json_option
@click.pass_obj
@report_errors
def command(
    project: str | None, backup: Path | None, only_verify: bool, salvage: str | None, empty: bool, as_json: bool
) -> None:
    """Verify BACKUP and replace the store with it; the replaced store is kept as a backup, too.

    Refused while others have the store open. Outputs and configs are files of the project and stay unchanged.
    """
    from chora.store.backup import RestoreResult, begin_empty_store, restore_backup, verify_backup

    if empty == (backup is not None):
        raise click.UsageError("Name a BACKUP, or --empty.")
    root, loaded = load_settings(project)
    if backup is None:
        _print_restored(begin_empty_store(root, loaded.settings.storage), "began with", as_json)
        return
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
    _print_restored(done, "holds" if only_verify else "restored", as_json)


def _print_restored(done: RestoreResult, verb: str, as_json: bool) -> None:
    if as_json:
        replaced = str(done.replaced) if done.replaced else None
        print_json({"success": True, "restored": verb == "restored", "counts": done.counts, "replaced": replaced})
        return
    echo(f"{verb} {list_quantities(done.counts)}")
    if done.replaced:
        echo(f"the replaced store is kept in {done.replaced}", err=True)


def _salvage(damaged: Path, target: Path, as_json: bool) -> None:
    from chora.errors import BackupNotFound, SaveFailed
    from chora.store.salvage import salvage_database

    if not damaged.is_file():
        raise BackupNotFound(f"There is no file {damaged}.", "Name the damaged database.", path=str(damaged))
    if target.exists():
        raise SaveFailed(f"{target} exists already.", "Name a new file.", path=str(target))
    done = salvage_database(damaged, target)
    if as_json:
        print_json({"success": True, "path": str(done.path), "saved": done.saved, "lost": sorted(done.lost)})
        return
    echo(done.path)
    echo(f"saved {list_quantities(done.saved)}; `chora restore {done.path}` puts it in place", err=True)
    if done.lost:
        echo(f"rows are missing from {', '.join(sorted(done.lost))}", fg="yellow", err=True)
