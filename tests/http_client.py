"""An HTTP client for tests of a running server."""

from typing import Any

import httpx2
import msgspec

from chora.app import RunningServer
from chora.protocol import wire

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}
BOTH = "application/json, text/event-stream"


class HttpTestClient:
    """An HTTP client of a running server."""

    def __init__(self, http: httpx2.AsyncClient, running: RunningServer) -> None:
        self.http = http
        self.running = running
        self.session = ""

    async def post(self, body: Any, **headers: str) -> httpx2.Response:
        sent = {"content-type": "application/json", "accept": BOTH, **_dashed(headers)}
        if self.session and "mcp-session-id" not in sent:
            sent["mcp-session-id"] = self.session
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.http.post("/mcp", content=content, headers={k: v for k, v in sent.items() if v})

    async def ask(self, method: str, params: Any = None, id: Any = 1, **headers: str) -> httpx2.Response:
        """A request within the session."""
        return await self.post(message(method, params, id), **headers)

    async def initialize(self) -> None:
        response = await self.ask("initialize", HELLO)
        assert response.status_code == 200, response.text
        self.session = response.headers["mcp-session-id"]
        done = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (done.status_code, done.content) == (202, b"")

    async def ask_modern(self, method: str, params: Any = None, **headers: str) -> httpx2.Response:
        """A request of the modern era, with its envelope and its routing headers; an empty header is left out."""
        params = {**(params or {}), "_meta": {**MODERN, **((params or {}).get("_meta", {}))}}
        routing = {"mcp_protocol_version": "2026-07-28", "mcp_method": method}
        if "name" in params:
            routing["mcp_name"] = params["name"]
        return await self.post(message(method, params, 1), **{**routing, **headers})

    async def call(self, tool: str, _meta: Any = None, **arguments: Any) -> httpx2.Response:
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        return await self.ask("tools/call", {**params, "_meta": _meta} if _meta else params)


def message(method: str, params: Any, id: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": id, "method": method}
    return message if params is None else {**message, "params": params}


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
