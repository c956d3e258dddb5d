"""For other programs: a connected MCP client of the official SDK, over any transport.

    async with connect("http://127.0.0.1:8000/mcp") as chora:
        answer = await chora.call_tool("hello_world", {"name": "Ada"})

The only module that imports the SDK; it runs on trio and on asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

Mode = Literal["auto", "legacy"] | str


@asynccontextmanager
async def connect(
    target: str | Sequence[str], *, token: str | None = None, mode: Mode = "auto", **options: Any
) -> AsyncGenerator[Client]:
    """Connect to an MCP server.

    Args:
        target: the address of a `/mcp` or `/sse` endpoint, or the command line of a stdio server.
        token: a bearer token, for an HTTP server that needs one.
        mode: `auto` tries the modern era first, `legacy` does the handshake, a revision's name insists on it.
        options: other arguments of the SDK's client, such as `elicitation_callback`.

    Raises:
        OSError: the server can't be started or reached.
    """
    if not isinstance(target, str):
        command, *arguments = target
        server: Any = StdioServerParameters(command=command, args=arguments)
        async with Client(server, mode=mode, **options) as client:
            yield client
        return
    headers = {"Authorization": f"Bearer {token}"} if token else None
    if target.rstrip("/").endswith("/sse"):
        async with Client(sse_client(target, headers=headers), mode=mode, **options) as client:
            yield client
        return
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(target, http_client=http), mode=mode, **options) as client,
    ):
        yield client
