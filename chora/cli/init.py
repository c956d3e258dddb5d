"""`chora init`: a project with one working example."""

from __future__ import annotations

from pathlib import Path

import click

from chora.cli.run import json_option, print_json, report_errors
from chora.cli.samples import INIT, write_sample
from chora.cli.terminal import echo
from chora.errors import SaveFailed


@click.command("init")
@click.argument("folder", default=".", metavar="[DIR]")
@json_option
@report_errors
def command(folder: str, as_json: bool) -> None:
    """Create a project with one working example. Existing files are kept."""
    root = Path(folder).resolve()
    try:
        written = write_sample(root, INIT)
    except OSError as error:
        raise SaveFailed(f"The project can't be written: {error.strerror}.", "Name another folder.") from error
    if as_json:
        print_json({"success": True, "project": str(root), "written": written})
        return
    for path in written:
        echo(f"wrote {path}")
    if not written:
        echo("every file exists already")
    echo(f"\nTry it:\n  chora --project {folder} assemble hello")
    echo("\nEvery field of a config is in the manual:\n  chora manual")
