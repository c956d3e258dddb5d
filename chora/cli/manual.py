"""`chora manual`: the manual of the config formats."""

from __future__ import annotations

import click

from chora.cli.run import json_option, print_json, report_errors
from chora.cli.terminal import echo
from chora.manual import PAGES, read_page


@click.command("manual")
@click.argument("page", type=click.Choice(list(PAGES)), default="overview", metavar="[PAGE]")
@json_option
@report_errors
def command(page: str, as_json: bool) -> None:
    """Print a page of the manual of the config formats, in Markdown; `overview` names the others."""
    text = read_page(page)
    if as_json:
        print_json({"success": True, "page": page, "text": text})
        return
    echo(text, nl=False)
