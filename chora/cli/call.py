"""`chora call`: one tool call, here or on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from chora.cli.access_token import AccessToken, token_option
from chora.cli.run import (
    ToolFailed,
    call_tool,
    json_option,
    parse_context,
    print_json,
    report_errors,
    run_async,
    trust_option,
)
from chora.cli.terminal import echo
from chora.errors import (
    ChoraError,
    Forbidden,
    InvalidInput,
    Unauthorized,
    Unreachable,
    UsageError,
    exit_code_of,
)

if TYPE_CHECKING:
    from chora.watch.mcp_client import CallFailed


@click.command("call")
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[K=V… | K:=JSON… | JSON]")
@click.option("--url", metavar="URL", help="Call the server at this MCP address instead of running the tool here.")
@token_option
@trust_option
@json_option
@click.pass_obj
@report_errors
def command(
    project: str | None,
    tool: str,
    arguments: tuple[str, ...],
    url: str | None,
    reference: str,
    trust: str | None,
    as_json: bool,
) -> None:
    """Call a tool and print its result. Work that a server goes on with is waited for.

    Arguments are k=v pairs, where a value that is JSON is parsed, k:=v pairs, which must be JSON, or one JSON object.
    """
    given = parse_context(arguments)
    if url is None:
        if reference or trust:
            raise UsageError("--token and --trust are for a server.", "Name it with --url.")
        print_json(call_tool(project, tool, given))
    else:
        print_json(run_async(_call_server, url, reference, trust or "", tool, given))


async def _call_server(url: str, reference: str, trust: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from chora.watch.mcp_client import CallFailed, connect_http

    token = AccessToken(url, reference)
    token.warn()
    found = token.find()
    said = ""
    try:
        async with connect_http(url, found.secret if found else None, trust=trust) as caller:
            answer = await caller.call(tool, arguments)
            # The same call again waits for the job and gets its result.
            while not answer.is_error and answer.result.get("status") == "running" and answer.result.get("job"):
                progress = cast("dict[str, Any]", answer.result.get("progress") or {})
                state = f"{tool} is running there: {progress.get('done', 0):g} of {progress.get('total') or '?'}"
                if state != said:
                    echo(state, err=True)
                said = state
                answer = await caller.call(tool, arguments)
    except CallFailed as failed:
        raise _as_error(url, failed) from None
    if answer.is_error:
        failure = answer.result.get("error")
        code = cast("dict[str, Any]", failure).get("code") if isinstance(failure, dict) else None
        raise ToolFailed(answer.result, exit_code_of(str(code)))
    return answer.result


def _as_error(url: str, failed: CallFailed) -> ChoraError:
    """A failed call as the error whose exit code fits."""
    from chora.protocol import wire

    message = f"{url}: {str(failed).rstrip('.')}."
    token = "The token is taken from --token, CHORA_TOKEN_FILE, CHORA_TOKEN or the keyring."  # noqa: S105
    match failed.status:
        case 401:
            return Unauthorized(message, token)
        case 403:
            return Forbidden(message, "Use a token, an address and a Host that the server takes.")
        case _ if failed.code == wire.INVALID_PARAMS:  # also for a tool that there is none of
            return InvalidInput(message, "Correct the name of the tool or its arguments.")
        case _:
            return Unreachable(message, f"Check the address and the server. {token}")
