"""The ASGI app in front: whose request it is, and which endpoint answers it."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from chora.access import Authenticator
from chora.errors import ChoraError, Unauthorized
from chora.metrics import Metrics
from chora.oauth import Issuer
from chora.protocol import wire
from chora.protocol.server import McpServer
from chora.settings import HttpSettings, LimitSettings
from chora.transport.connection import RETRY_AFTER
from chora.transport.http.asgi import (
    PRINCIPAL,
    App,
    Receive,
    Scope,
    Send,
    error_body,
    header_value,
    holding_of,
    send_empty,
    send_json,
    without_body,
)
from chora.transport.http.cors import VARY, Headers, answer_headers, is_preflight, preflight_headers, with_headers
from chora.transport.http.legacy_sse import LegacySse
from chora.transport.http.security import RequestSecurity
from chora.transport.http.sessions import HttpSessions
from chora.transport.http.streamable import StreamableHttp

METADATA_PATHS = ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp")
"""Where clients find out which issuer's tokens are accepted, RFC 9728 §3.1."""
REFUSALS = (400, 401, 403)
"""HTTP statuses of requests that are refused before anything of them is done."""
SAME_PATHS: dict[str, str] = {
    "/mcp/": "/mcp",
    "/sse/": "/sse",
    "/messages": "/messages/",
    f"{METADATA_PATHS[1]}/": METADATA_PATHS[1],
}
"""Paths that mean another one; see `chora.leniency`."""
ENDPOINTS = ("/mcp", "/sse", "/messages/")


class HttpApplication:
    """Routes requests to the endpoints of MCP, and all others to the web pages.

    Host, Origin and token are checked before a byte of the body is read.

    Args:
        server: answers the messages.
        authenticator: checks the tokens.
        http, limits: their sections of the settings.
        pages: the app for everything that isn't MCP.
        metrics: where sessions are counted.
        issuer: an external issuer of tokens.
    """

    def __init__(
        self,
        server: McpServer,
        authenticator: Authenticator,
        http: HttpSettings,
        limits: LimitSettings,
        pages: App,
        metrics: Metrics,
        issuer: Issuer | None = None,
    ) -> None:
        self.sessions = HttpSessions(server.broadcaster, authenticator, limits, metrics, server.memory)
        self._security = RequestSecurity(authenticator, http, issuer)
        self._pages = pages
        self._audit = server.audit
        streamable = StreamableHttp(server, self.sessions)
        self._routes: dict[tuple[str, str], App] = {
            ("POST", "/mcp"): streamable.post,
            ("GET", "/mcp"): streamable.get,
            ("DELETE", "/mcp"): streamable.delete,
        }
        if http.sse:
            legacy = LegacySse(server, self.sessions)
            self._routes |= {("GET", "/sse"): legacy.get, ("POST", "/messages/"): legacy.post}

    async def serve(
        self, draining: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """A service: ends idle sessions, and all streams once `draining` is set."""
        await self.sessions.serve(draining, task_status=task_status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        security, path = self._security, str(scope["path"])
        path = SAME_PATHS.get(path, path)
        route = self._routes.get((scope["method"], path))
        if (origin := security.allowed_origin(scope)) is not None:
            send = with_headers(send, answer_headers(origin))
        elif route is None:
            send = with_headers(send, [VARY])
        try:
            is_local = security.resolve_proxy(scope)
            security.check_host(scope)
            security.check_single_headers(scope)
            methods = [method for method, endpoint in self._routes if endpoint == path]
            if is_preflight(scope) and (methods or path not in ENDPOINTS):
                security.check_origin(scope)
                await send_empty(send, 204, preflight_headers(scope, methods or ["GET"]))
            elif route is not None:
                security.check_origin(scope)
                scope[PRINCIPAL] = await security.authenticate(scope, is_local=is_local)
                holding_of(scope).assign(scope[PRINCIPAL].name)
                await route(scope, receive, send)
            elif security.issuer is not None and path in METADATA_PATHS:
                await send_json(send, 200, wire.encode(security.issuer.metadata))
            elif path in ENDPOINTS:
                allow = (b"allow", ", ".join(methods).encode())
                await send_json(send, 405 if methods else 404, self._explain_endpoint(path, methods), [allow])
            else:
                if path not in ("/health", "/ready"):
                    security.check_origin(scope)
                    if security.authenticator.requires_token or not is_local:
                        await security.authenticate(scope, is_local=is_local)
                if _posts_json(scope):  # forms of web pages are posted otherwise
                    await send_json(send, 404, error_body(f"MCP isn't served at {path[:100]}.", self._endpoints()))
                    return
                await self._pages(scope, without_body(receive), send)
        except ChoraError as error:
            if error.http_status in REFUSALS:
                principal = scope.get(PRINCIPAL)
                who = security.client_of(scope) if principal is None else principal.name
                self._audit.record_refusal(who, f"{scope['method']} {path}", error.code)
            await send_json(send, error.http_status, error_body(error.message, error.hint), self._error_headers(error))

    def _explain_endpoint(self, path: str, methods: list[str]) -> bytes:
        """What an endpoint of MCP is for, for a client that means another one."""
        used = f"{path} takes {' and '.join(methods)}." if methods else f"{path} is switched off by http.sse."
        return error_body(used, self._endpoints())

    def _endpoints(self) -> str:
        older = ", and the older SSE transport at /sse" if ("GET", "/sse") in self._routes else ""
        return f"Streamable HTTP is served at /mcp{older}."

    def error_headers(self, request_headers: Sequence[tuple[bytes, bytes]]) -> Headers:
        """What a refusal that the connection sends by itself carries, so that a page can read that one, too."""
        origin = self._security.allowed_origin({"headers": request_headers})
        return [] if origin is None else answer_headers(origin)

    def _error_headers(self, error: ChoraError) -> list[tuple[bytes, bytes]]:
        """What a client needs to know besides the sentence: how to authenticate, or when to come again."""
        if isinstance(error, Unauthorized):
            return [(b"www-authenticate", self._security.challenge)]
        if error.http_status == 503:
            return [(b"retry-after", str(error.details.get("retry_after", RETRY_AFTER)).encode())]
        return []


def _posts_json(scope: Scope) -> bool:
    """Whether a request looks like a message of a client of MCP that has the wrong address."""
    content_type = (header_value(scope, b"content-type") or "").partition(";")[0].strip().lower()
    return scope["method"] == "POST" and content_type == "application/json"
