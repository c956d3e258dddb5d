"""How clients on FastMCP's transports reach the server of a task; scripts find it beside them."""

# pyright: basic, reportMissingImports=false

from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport


def transport(task):
    """The transport of a task: `transport`, and `command` with `environment`, or `url`."""
    if task["transport"] == "stdio":
        command, *arguments = task["command"]
        return StdioTransport(command, arguments, env=task["environment"])
    return (SSETransport if task["transport"] == "sse" else StreamableHttpTransport)(task["url"])
