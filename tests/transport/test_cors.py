"""CORS: which web pages may call the server and read its answers."""

from typing import Any

import httpx2
import pytest

from tests.conftest import OpenHttpClient, requirement
from tests.http_client import BOTH, HELLO, message

ALLOWED = "https://n8n.example"
ORIGINS: list[tuple[str, bool]] = [
    (ALLOWED, True),
    ("http://localhost:6274", True),  # MCP Inspector
    ("http://127.0.0.1:5173", True),
    ("http://[::1]:3000", True),
    ("https://evil.example", False),
    ("https://n8n.example.evil.example", False),
    ("http://n8n.example", False),
    ("null", False),
    ("*", False),
]
ENDPOINTS = [
    ("/mcp", {"POST", "GET", "DELETE"}),
    ("/sse", {"GET"}),
    ("/messages/", {"POST"}),
    ("/status.json", {"GET"}),
    ("/.well-known/oauth-protected-resource", {"GET"}),
]
TOKEN = "open-sesame-12345"


async def ask_preflight(client: httpx2.AsyncClient, path: str, origin: str, headers: str = "") -> httpx2.Response:
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
    return await client.request("OPTIONS", path, headers={name: value for name, value in asked.items() if value})


def shown_to(response: httpx2.Response) -> str | None:
    """The origin whose pages may read a response; it has to vary by it."""
    origin = response.headers.get("access-control-allow-origin")
    if origin is not None:
        assert "origin" in response.headers["vary"].lower()
        assert "access-control-allow-credentials" not in response.headers
    return origin


@requirement("server.cors")
@pytest.mark.parametrize(("path", "methods"), ENDPOINTS)
@pytest.mark.parametrize(("origin", "is_allowed"), ORIGINS)
async def test_a_preflight_is_answered_before_the_token(
    http_client: OpenHttpClient,
    monkeypatch: pytest.MonkeyPatch,
    origin: str,
    is_allowed: bool,
    path: str,
    methods: set[str],
):
    """Browsers send no token with it. Pages of other origins learn nothing."""
    monkeypatch.setenv("CHORA_TOKEN", TOKEN)
    async with http_client(http__allowed_origins=(ALLOWED,)) as client:
        response = await ask_preflight(client.http, path, origin, "authorization,content-type,mcp-param-x")
        if is_allowed:
            assert (response.status_code, response.content) == (204, b"")
            assert shown_to(response) == origin
            assert set(response.headers["access-control-allow-methods"].split(", ")) == methods
            allowed = response.headers["access-control-allow-headers"]
            assert allowed == "authorization, content-type, mcp-param-x"
        else:
            assert response.status_code == 403
            assert not [name for name in response.headers if name.startswith("access-control-")]


@requirement("server.cors")
@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("Mcp-Session-Id, MCP-Protocol-Version,Last-Event-ID", "Mcp-Session-Id, MCP-Protocol-Version, Last-Event-ID"),
        ("traceparent", "traceparent"),
        ("x-forwarded-for, content-type", "content-type"),
        ("Forwarded", None),
        ("", None),
        ("*, bad name, content-type", "*, content-type"),
        (",".join(["a" * 50] * 1000), ", ".join(["a" * 50] * 80 + ["a" * 16])),
    ],
)
async def test_a_page_may_send_any_header_but_those_of_proxies(
    http_client: OpenHttpClient, requested: str, allowed: str | None
):
    """A page can't claim to have come through a proxy, and a long list is cut."""
    async with http_client() as client:
        response = await ask_preflight(client.http, "/mcp", "http://localhost", requested)
        assert response.status_code == 204
        assert response.headers.get("access-control-allow-headers") == allowed


@requirement("server.cors")
@pytest.mark.parametrize(("origin", "is_allowed"), ORIGINS)
async def test_the_answers_of_every_endpoint_are_shown_to_allowed_origins_only(
    http_client: OpenHttpClient, origin: str, is_allowed: bool
):
    """The origin is echoed, never `*`; a session's id can be read."""
    async with http_client(http__allowed_origins=(ALLOWED,)) as client:
        expected = origin if is_allowed else None
        opened = await client.ask("initialize", HELLO, origin=origin)
        assert shown_to(opened) == expected
        if is_allowed:
            exposed = opened.headers["access-control-expose-headers"].lower().split(", ")
            assert {"mcp-session-id", "www-authenticate", "retry-after"} <= set(exposed)
            assert opened.headers["mcp-session-id"]
        for path in ("/health", "/ready", "/status.json", "/metrics", "/", "/nothing"):
            assert shown_to(await client.http.get(path, headers={"origin": origin})) == expected, path
        without = await client.http.get("/health")
        assert shown_to(without) is None
        assert "origin" in without.headers["vary"].lower(), "a cache must not give this to a page"
        if is_allowed:
            for path in ("/mcp", "/sse"):
                headers = {"origin": origin, "accept": BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
                async with client.http.stream("GET", path, headers=headers) as stream:
                    assert (stream.status_code, shown_to(stream)) == (200, origin), path


REFUSALS: list[tuple[str, int, dict[str, Any]]] = [
    ("no token", 401, {"headers": {"authorization": ""}}),
    ("a wrong token", 401, {"headers": {"authorization": "Bearer wrong"}}),
    ("a foreign host", 403, {"headers": {"host": "evil.example"}}),
    ("an unknown session", 404, {"headers": {"mcp-session-id": "gone"}}),
    ("no such method", 405, {"method": "PUT"}),
    ("not JSON", 415, {"headers": {"content-type": "text/plain"}}),
    ("not acceptable", 406, {"headers": {"accept": "text/html"}}),
    ("a declared body over the limit", 413, {"content": b"x" * 2000}),
    ("a streamed body over the limit", 413, {"stream": True}),
    ("two tokens", 400, {"twice": True}),
]


@requirement("server.cors")
@pytest.mark.parametrize(("status", "sent"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
async def test_a_page_can_read_why_it_was_refused(
    http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch, status: int, sent: dict[str, Any]
):
    """Also where the connection refuses before the app sees the request, and where there is no token yet."""
    monkeypatch.setenv("CHORA_TOKEN", TOKEN)
    async with http_client(limits__body=1024) as client:
        headers = {"origin": "http://localhost", "authorization": f"Bearer {TOKEN}", "accept": BOTH}
        headers |= {"content-type": "application/json", **sent.get("headers", {})}
        given: Any = [*headers.items(), *([("authorization", "Bearer other")] if "twice" in sent else [])]

        async def pieces():
            for _ in range(20):
                yield b"x" * 100

        body: Any = pieces() if "stream" in sent else sent.get("content", b"") or b'{"jsonrpc": "2.0", "method": "x"}'
        response = await client.http.request(sent.get("method", "POST"), "/mcp", content=body, headers=given)
        assert response.status_code == status
        assert shown_to(response) == "http://localhost"
        if status == 401:
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_page_of_a_public_address_may_ask_a_private_one(http_client: OpenHttpClient):
    """Chromium asks for it beside the preflight; only allowed origins get an answer."""
    async with http_client(http__allowed_origins=(ALLOWED,)) as client:
        headers = {
            "origin": ALLOWED,
            "access-control-request-method": "POST",
            "access-control-request-private-network": "true",
        }
        response = await client.http.request("OPTIONS", "/mcp", headers=headers)
        assert response.headers["access-control-allow-private-network"] == "true"


async def test_what_is_no_preflight_is_no_method(http_client: OpenHttpClient):
    """OPTIONS without an origin means nothing here, and no call is made by one."""
    async with http_client() as client:
        assert (await client.http.request("OPTIONS", "/mcp")).status_code == 405
        body = message("initialize", HELLO, 1)
        answer = await client.http.request("OPTIONS", "/mcp", json=body, headers={"origin": "http://localhost"})
        assert answer.status_code == 405
