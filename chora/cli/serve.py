"""`chora serve`: the HTTP server with its probe and benchmarker."""

from __future__ import annotations

from functools import partial

import click
import trio

from chora.cli.run import json_option, load_settings, report_errors, toolset_flags, toolset_options
from chora.cli.terminal import echo


@click.command("serve")
@click.option("--host", metavar="ADDRESS", help="Address to bind; beyond loopback a token is needed.")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0 picks a free one.")
@toolset_options
@click.option("--backup-every", type=click.FloatRange(0), metavar="HOURS", help="Hours between two backups.")
@click.option("--stdio", "with_stdio", is_flag=True, help="Also speak MCP on stdin and stdout; ends when stdin does.")
@json_option
@click.pass_obj
@report_errors
def command(
    project: str | None,
    host: str | None,
    port: int | None,
    read_only: bool | None,
    toolset: tuple[str, ...],
    backup_every: float | None,
    with_stdio: bool,
    as_json: bool,
) -> None:
    """Serve MCP over HTTP, with health checks and a status page.

    With --json, one line on stdout says where the server listens.
    """
    from chora import app
    from chora.transport.pipes import take_stdio

    flags = {"http.host": host, "http.port": port, "backup.every": backup_every, **toolset_flags(read_only, toolset)}
    folder, loaded = load_settings(project, flags, quiet=False)
    pipes = take_stdio() if with_stdio else None

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            opened = await nursery.start(partial(app.run_server, folder, loaded, pipes=pipes))
            if pipes is None:
                echo(_announcement(opened.url, as_json))

    trio.run(run)


def _announcement(url: str, as_json: bool) -> str:
    if as_json:
        import msgspec

        return msgspec.json.encode({"success": True, "url": url, "mcp": f"{url}/mcp", "sse": f"{url}/sse"}).decode()
    return f"chora serves MCP at {url}/mcp (status page: {url}/). Ctrl-C ends it."
