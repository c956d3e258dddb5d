"""`chora schema`: the JSON Schema of a config format, or the smallest config of it."""

from __future__ import annotations

import click

from chora.cli.run import json_option, print_json, report_errors
from chora.errors import UsageError
from chora.skeletons import GENERATORS, skeleton


@click.command("schema")
@click.argument("kind", type=click.Choice(["content", "artifact", "collection"]))
@click.option(
    "--skeleton",
    "generator",
    is_flag=False,
    flag_value=GENERATORS[0],
    metavar="[GENERATOR]",
    help="Print the smallest valid config instead; of a content, one for this generator (jinja2).",
)
@json_option
@report_errors
def command(kind: str, generator: str | None, as_json: bool) -> None:
    """Print the JSON Schema of a config format, for editors and validators."""
    from chora.model import schema

    if generator is None:
        print_json(schema(kind))  # pyright: ignore[reportArgumentType]
        return
    if generator not in GENERATORS:
        raise UsageError(
            f"There is no skeleton for the generator {generator}.", f"Name one of {', '.join(GENERATORS)}."
        )
    print_json(skeleton(kind, generator))
