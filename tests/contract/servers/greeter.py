"""A server of others that greets, on whichever library this environment has: `greeter.py LIBRARY TRANSPORT PORT`.

LIBRARY is `sdk` (the official Python SDK, 1.x or 2.x) or `fastmcp` (3 or 4); TRANSPORT is http, sse or stdio.
"""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

import sys

library, transport, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ADDRESS = {"host": "127.0.0.1", "port": port}


def make_server():
    if library == "fastmcp":
        from fastmcp import FastMCP

        options = {} if transport == "stdio" else ADDRESS
        return FastMCP("greeter"), {"transport": transport, "show_banner": False, **options}
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError:
        from mcp.server.fastmcp import FastMCP as MCPServer  # 1.x, which takes the address at once

        server, options = MCPServer("greeter", **ADDRESS), {}
    else:
        server, options = MCPServer("greeter"), {} if transport == "stdio" else ADDRESS
    return server, {"transport": {"http": "streamable-http"}.get(transport, transport), **options}


server, options = make_server()


@server.tool()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


@server.tool()
def fail() -> str:
    """Fail on purpose."""
    raise ValueError("on purpose")


server.run(**options)
