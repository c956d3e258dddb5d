"""`chora migrate`: copy the store to another backend."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import click
import msgspec

from chora.cli.run import json_option, load_settings, print_json, print_table, report_errors, run_async
from chora.cli.terminal import echo
from chora.errors import UsageError
from chora.store import open_existing_store, open_store
from chora.store.migrate import MigrationResult, migrate_store


@click.command("migrate")
@click.option("--to", "backend", required=True, type=click.Choice(["sqlite", "filesystem"]), help="The target.")
@click.option("--dry-run", is_flag=True, help="Only print what would be copied.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, backend: str, dry_run: bool, as_json: bool) -> None:
    """Copy versions, drafts and all other records to another backend, and compare both. The source stays unchanged."""
    folder, loaded = load_settings(project)
    current = loaded.settings.storage
    if current.backend in (backend, "memory"):
        raise UsageError(
            f"The project stores its data in the backend {current.backend} already."
            if current.backend == backend
            else "The backend memory stores nothing that could be copied.",
            "The setting storage.backend says where the data is now.",
            backend=current.backend,
        )
    target_storage = msgspec.structs.replace(current, backend=backend)
    with (
        contextlib.closing(open_store(folder, current)) as source,
        contextlib.closing((open_existing_store if dry_run else open_store)(folder, target_storage)) as target,
    ):
        progress = None if as_json or not sys.stderr.isatty() else _show_progress
        done = run_async(partial(migrate_store, source, target, dry_run=dry_run, progress=progress))
    lines = f'[storage]\nbackend = "{backend}"\n'
    if as_json:
        print_json(
            {"success": True, "from": current.backend, "to": backend, "write": lines, **msgspec.to_builtins(done)}
        )
    else:
        _print_result(done)
        if not dry_run:
            echo("\nEverything is copied. Write this into chora.toml, and restart running processes:\n", err=True)
            echo(lines, err=True, nl=False)


def _show_progress(kind: str, done: int, total: int) -> None:
    echo(f"\r\x1b[K{kind} {done:,} of {total:,}", nl=done >= total, err=True)


def _print_result(done: MigrationResult) -> None:
    verb = "would copy" if done.dry_run else "copied"
    rows = [(kind, moved.copied, moved.already_there) for kind, moved in done.kinds.items() if moved.total]
    print_table(("Kind", verb.capitalize(), "Already there"), rows)
