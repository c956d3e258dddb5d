"""`chora import`: import a chora-compose project with its history."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import click
import msgspec

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.cli.terminal import echo
from chora.engine.legacy.import_state import ImportResult
from chora.engine.legacy.project_import import import_project
from chora.files import open_project_folder
from chora.store import open_existing_store, open_store
from chora.wording import quantity


@click.command("import")
@click.argument("source", metavar="DIR")
@click.option("--convert", "to_convert", is_flag=True, help="Convert configs of other dialects, and print the changes.")
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, source: str, to_convert: bool, dry_run: bool, as_json: bool) -> None:
    """Import a chora-compose project: configs, templates and history. Nothing existing is overwritten.

    DIR may be this project itself: then only its history is imported into the store, and configs that chora can't read
    are named.
    """
    folder, loaded = load_settings(project)
    settings = loaded.settings
    with contextlib.closing((open_existing_store if dry_run else open_store)(folder, settings.storage)) as store:
        done = run_async(
            partial(
                import_project,
                Path(source),
                open_project_folder(folder, settings, for_configs=True),
                store,
                configs=settings.paths.configs,
                is_strict=settings.templates.undefined == "strict",
                to_convert=to_convert,
                dry_run=dry_run,
            )
        )
    if as_json:
        print_json({"success": True, **msgspec.to_builtins(done)})
    else:
        _print_result(done)


def _print_result(done: ImportResult) -> None:
    would = "would be " if done.dry_run else ""
    for path in done.copied:
        echo(f"{would}copied {path}")
    for config in done.converted:
        echo(f"{would}converted {config.source} to {config.path}")
        for change in config.changes:
            echo(f"  {change}")
        for left in config.left:
            echo(f"  can't be converted: {left}")
    for kind, counts in (("versions", done.versions), ("drafts", done.drafts)):
        if counts.imported or counts.already_there:
            echo(f"{kind}: {counts.imported} {would}imported, {counts.already_there} already there")
    if done.unchanged:
        echo(f"{quantity(done.unchanged, 'file')} already there")
    if done.settings_written:
        echo(f'{would}written chora.toml with undefined = "lenient": undefined names in templates are warnings')
    for skipped in done.skipped:
        echo(f"left out {skipped.path}: {skipped.reason}", err=True)
    for warning in done.warnings:
        echo(f"warning: {warning}", fg="yellow", err=True)
