"""`chora call`: one tool call, here or on a server."""

from __future__ import annotations

from typing import Any

import click

from chora.cli.run import ToolFailed, call_tool, json_option, parse_context, print_json, report_errors, run_async
from chora.errors import Unreachable


@click.command("call")
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[K=V… | JSON]")
@click.option("--url", metavar="URL", help="Call the server at this MCP address instead of running the tool here.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, tool: str, arguments: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Call a tool and print its result.

    Arguments are k=v pairs, where a value that is JSON is parsed, or one JSON object.
    """
    given = parse_context(arguments)
    print_json(run_async(_call_server, url, tool, given) if url else call_tool(project, tool, given))


async def _call_server(url: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from chora.secrets import find_token
    from chora.watch.mcp_client import CallFailed, connect_http

    found = find_token()
    try:
        async with connect_http(url, found.secret if found else None) as caller:
            answer = await caller.call(tool, arguments)
    except CallFailed as failed:
        raise Unreachable(
            f"{url}: {str(failed).rstrip('.')}.",
            "Check the address and the server; the token is taken from CHORA_TOKEN_FILE, CHORA_TOKEN or the keyring.",
        ) from None
    if answer.is_error:
        raise ToolFailed(answer.result, 1)
    return answer.result
