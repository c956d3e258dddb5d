"""MCP on stdin and stdout in front of a remote server.

    client             the client's side: its messages, its calls in flight, and all output to it
    interfaces         what the client's side and the transports know of each other
    streamable         the server's side: Streamable HTTP in both eras, sessions that outlive a restart
    sse                the server's side: the 2024-11-05 transport
    upstream           HTTP requests to the server: token, redirects, retries
    parameter_headers  the parts of a message that are repeated in headers
    messages           messages, pending calls and failures

Messages are passed on as they came. The bridge answers itself only when the server doesn't, and sends requests of its
own only to bring a restarted server into the state that the old one had.
"""

from chora.bridge.client import run_bridge
from chora.bridge.options import BridgeOptions

__all__ = ["BridgeOptions", "run_bridge"]
