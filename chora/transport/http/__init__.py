"""MCP over HTTP: Streamable HTTP at `/mcp` in both eras, and the 2024-11-05 SSE transport at `/sse`.

application      the ASGI app: routes, and the order of the checks
security         Host, Origin, proxies and tokens, before a byte of the body is read
sessions         the open sessions: limits, expiry, what ends with them
streamable       POST, GET and DELETE of /mcp
message_headers  the headers of a POST, compared with its body
legacy_sse       GET /sse and POST /messages/
event_streams    event-stream responses, which both transports send
asgi             reading requests and sending responses
"""

from chora.transport.http.application import HttpApplication

__all__ = ["HttpApplication"]
