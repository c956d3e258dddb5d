"""`chora schema`: the JSON Schema of a config format."""

from __future__ import annotations

import click

from chora.cli.run import json_option, print_json


@click.command("schema")
@click.argument("kind", type=click.Choice(["content", "artifact", "collection"]))
@json_option
def command(kind: str, as_json: bool) -> None:
    """Print the JSON Schema of a config format, for editors and validators."""
    from chora.model import schema

    print_json(schema(kind))  # pyright: ignore[reportArgumentType]
