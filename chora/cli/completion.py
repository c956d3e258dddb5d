"""`chora completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import click

from chora.cli.run import json_option
from chora.cli.terminal import echo_text, print_json


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def command(context: click.Context, shell: str, as_json: bool) -> None:
    """Print a script that completes commands and options; put it where your shell reads such scripts."""
    from click.shell_completion import get_completion_class

    program = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(program.command, {}, "chora", "_CHORA_COMPLETE").source()
    if as_json:
        print_json({"success": True, "shell": shell, "script": script})
    else:
        echo_text(script)
