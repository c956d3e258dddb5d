"""`chora version`: the version."""

from __future__ import annotations

import platform

import click

from chora import __version__, this_process
from chora.cli.run import json_option, print_json
from chora.cli.terminal import echo


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        print_json(
            {
                "success": True,
                "version": __version__,
                "python": platform.python_version(),
                "frozen": this_process.is_frozen(),
            }
        )
    else:
        echo(f"chora {__version__}")
