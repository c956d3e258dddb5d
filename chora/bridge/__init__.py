"""MCP on stdin and stdout in front of a remote server.

    client        the client's side: its lines, its calls in flight, the one way out
    streamable    the server's side: Streamable HTTP in both eras, sessions that outlive a restart
    sse           the server's side: the 2024-11-05 transport
    link          requests that find their way: token, redirects, patience
    mirrors       what of a message is repeated in headers
    messages      messages, calls and failures

What either side says is passed on as it was said. The bridge itself speaks when there is no answer to be had, and when
a restarted server has to be told what the old one knew.
"""

from chora.bridge.client import BridgeOptions, run_bridge

__all__ = ["BridgeOptions", "run_bridge"]
