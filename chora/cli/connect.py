"""`chora connect`: MCP on stdin and stdout, in front of a remote server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import click
import trio

from chora.cli.access_token import AccessToken, is_reference, token_option
from chora.cli.run import json_errors_option, report_errors, trust_option
from chora.errors import UsageError
from chora.project import find_project
from chora.secrets import find_secret
from chora.transport.pipes import take_stdio

CONNECTION_HEADERS = {
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "accept",
    "accept-encoding",
}
"""Headers that the bridge itself sets, like all that begin with `mcp-`."""


@click.command("connect")
@click.argument("url")
@token_option
@click.option(
    "--transport",
    type=click.Choice(["auto", "http", "sse"]),
    default="auto",
    help="Streamable HTTP, the older SSE transport, or whichever the server supports.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'K: V'",
    help="Sent with every request; V may be a secret as in --token.",
)
@trust_option
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=50.0,
    show_default=True,
    help="Seconds to wait for a server that starts.",
)
@click.option(
    "--limit", type=click.IntRange(1, 4096), default=64, show_default=True, help="Largest answer passed on, MiB."
)
@json_errors_option
@click.pass_obj
@report_errors
def command(
    project: str | None,
    url: str,
    reference: str,
    transport: Literal["auto", "http", "sse"],
    headers: tuple[str, ...],
    trust: str | None,
    wait: float,
    limit: int,
    as_json: bool,
) -> None:
    """Speak MCP on stdin and stdout in front of the server at URL.

    For clients that only start programs. Messages pass through unchanged. A server that isn't running yet is waited
    for; after a restart of the server, its session is initialized again without the client noticing.
    """
    from chora import settings
    from chora.bridge import BridgeOptions, run_bridge
    from chora.logs import start_logging

    token = AccessToken(url, reference)
    # No project is needed; a named one may have settings for the log and the limits.
    loaded = settings.load(find_project(project) if project else Path("/nonexistent"))
    start_logging(loaded.settings.log)
    token.warn()
    options = BridgeOptions(
        token.address,
        token.find,
        headers=tuple(_parse_header(each) for each in headers),
        trust=trust or "",
        transport=transport,
        startup_time=wait,
        line_limit=loaded.settings.limits.body,
        answer_limit=limit * settings.MIB,
        grace=loaded.settings.limits.grace,
    )
    trio.run(run_bridge, options, take_stdio())


def _parse_header(text: str) -> tuple[str, str]:
    """Parse a header of the command line; a reference as value is replaced by the secret."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
        raise UsageError(f"{name[:40]!r} is not a header.", "Write --header 'Name: value'.")
    if name.lower() in CONNECTION_HEADERS or name.lower().startswith("mcp-"):
        raise UsageError(f"The header {name} is set by chora itself.", "Leave it out.")
    if is_reference(value):
        found = find_secret(name, reference=value)
        value = "" if found is None else found.secret.reveal()
    elif name.lower() == "authorization":
        hint = "Use --token REF, or write --header 'Authorization: file:PATH' with all of the value in the file."
        raise UsageError("A secret on the command line can be read by every user of this machine.", hint)
    if not re.fullmatch(r"[ -~]*", value):
        raise UsageError(f"The value of {name} holds characters that no header may have.", "Use printable ASCII.")
    return name, value
