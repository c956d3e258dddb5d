"""CORS, so that web pages of allowed origins can read answers: the Fetch standard, §3.2 "HTTP CORS protocol"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from chora.transport.http.asgi import Scope, Send, header_value
from chora.transport.http.security import FORWARDED

Headers = list[tuple[bytes, bytes]]

EXPOSED_HEADERS = (b"Mcp-Session-Id", b"WWW-Authenticate", b"Retry-After")
"""What a page needs besides the body: its session, how to authenticate, when to come again."""
MAX_AGE = b"600"
"""Seconds for which a browser may reuse the answer to a preflight; a reload may take an origin from the settings."""
REQUESTED_HEADERS_LIMIT = 4096
"""Bytes of the header names of a preflight that are looked at."""
VARY = (b"vary", b"Origin")
"""Caches must not give the answer for one origin to another."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def answer_headers(origin: str) -> Headers:
    """The headers with which a browser lets a page of this origin read an answer, also a refusal.

    The origin is echoed, never `*`, and credentials aren't allowed: tokens come as headers, and there are no cookies.
    """
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b", ".join(EXPOSED_HEADERS)),
        VARY,
    ]


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if a page may send a request; it never sends a token with that (Fetch §4.8)."""
    return (
        scope["method"] == "OPTIONS"
        and header_value(scope, b"origin") is not None
        and header_value(scope, b"access-control-request-method") is not None
    )


def preflight_headers(scope: Scope, methods: Iterable[str]) -> Headers:
    """The answer to a preflight: these methods, and the headers that it asks for.

    A page may send what it likes, the `Mcp-Param-…` of any tool too, but no header with which proxies say who asks.
    """
    requested = (header_value(scope, b"access-control-request-headers") or "")[:REQUESTED_HEADERS_LIMIT]
    names = [name.strip() for name in requested.split(",")]
    allowed = [name for name in names if _HEADER_NAME.fullmatch(name) and name.lower().encode() not in FORWARDED]
    headers = [
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-max-age", MAX_AGE),
    ]
    if allowed:
        headers.append((b"access-control-allow-headers", ", ".join(allowed).encode("latin-1")))
    if header_value(scope, b"access-control-request-private-network") == "true":
        # A page of a public address that asks a server of a private one (WICG Private Network Access).
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers


def with_headers(send: Send, headers: Headers) -> Send:
    """`send` that adds headers to the head of the response."""

    async def send_with_headers(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_with_headers
