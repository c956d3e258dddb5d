"""Tools about the server itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from chora import __version__
from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.tools.tool import ToolArguments, ToolResult, tool


class HelloWorld(ToolArguments):
    name: Annotated[str, Meta(max_length=1000, description="The name in the greeting")] | None = "World"


class Hello(ToolResult):
    message: str
    version: str
    tools_available: int
    status: str
    transport: str


@tool(title="Say hello", category="Utility", read_only=True, idempotent=True)
async def hello_world(engine: Engine, arguments: HelloWorld, call: Call) -> Hello:
    """Check that the server answers. Returns its version, the number of tools and the transport in use."""
    await engine.store.check()
    return Hello(
        message=f"Hello, {arguments.name or 'World'}! This is chora.",
        version=__version__,
        tools_available=call.tools_available,
        status="operational",
        transport=call.transport,
    )
