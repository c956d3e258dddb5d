"""The same requests to the Python SDK's server and to ours: the same status, or there is a reason."""

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx2
import pytest
import trio

from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.server import McpServer
from tests.contract import fixture_server
from tests.contract.oracle import OFFERED, oracle_over_http
from tests.http_client import BOTH, HELLO, MODERN, message
from tests.patience import PATIENCE

SESSION, MODERN_HEADER = "2025-11-25", "2026-07-28"


class RawRequest(NamedTuple):
    """One request; `{session}` in a header is the session's id, and an empty header is left out."""

    method: str = "POST"
    body: Any = None
    headers: Mapping[str, str] = MappingProxyType({})
    opened: bool = True
    """Whether there is a session."""
    before: tuple[tuple[str, Any], ...] = ()
    """What is sent in the session before: method and body."""


PING = message("ping", None, 1)
IN_SESSION = {"mcp-session-id": "{session}", "mcp-protocol-version": SESSION}


def inside(body: Any = PING, method: str = "POST", **headers: str) -> RawRequest:
    """A request in a session."""
    return RawRequest(method, body, IN_SESSION | {key.replace("_", "-"): value for key, value in headers.items()})


def outside(body: Any = None, method: str = "POST", **headers: str) -> RawRequest:
    """A request without one."""
    return RawRequest(method, body, {key.replace("_", "-"): value for key, value in headers.items()}, opened=False)


def modern(
    method: str, params: dict[str, Any] | None = None, meta: dict[str, Any] | None = None, **headers: str
) -> RawRequest:
    """A request of the modern era, with its envelope and its routing headers."""
    params = {**(params or {}), "_meta": {**MODERN, **(meta or {})}}
    routing = {"mcp_protocol_version": MODERN_HEADER, "mcp_method": method}
    named = params.get(wire.NAME_PARAMETERS.get(method, ""))
    if named is not None:
        routing["mcp_name"] = named
    return outside(message(method, params, 1), **{**routing, **headers})


SIMPLE = {"name": "test_simple_text"}
REGION = {"name": "test_x_mcp_header", "arguments": {"region": "eu"}}


def wrapped(value: str) -> str:
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


REQUESTS = {
    "initialize": outside(message("initialize", HELLO, 1)),
    "initialize, unknown revision": outside(message("initialize", {**HELLO, "protocolVersion": "1999-01-01"}, 1)),
    "initialize, no params": outside(message("initialize", None, 1)),
    "initialize, with the header of its revision": outside(
        message("initialize", HELLO, 1), mcp_protocol_version=SESSION
    ),
    "initialize in a session": inside(message("initialize", HELLO, 1)),
    "ping": inside(),
    "ping, no header of the revision": inside(mcp_protocol_version=""),
    "ping, header of an unknown revision": inside(mcp_protocol_version="1999-01-01"),
    "ping, header of another revision": inside(mcp_protocol_version="2025-06-18"),
    "ping, modern header without envelope": inside(mcp_protocol_version=MODERN_HEADER),
    "ping, no session": outside(PING),
    "ping, unknown session": outside(PING, mcp_session_id="unknown"),
    "ping, session with odd characters": outside(PING, mcp_session_id="a b"),
    "unknown method": inside(message("make/coffee", None, 1)),
    "unknown tool": inside(message("tools/call", {"name": "make_coffee"}, 1)),
    "tools/list": inside(message("tools/list", None, 1)),
    "notification": inside({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    "unknown notification": inside({"jsonrpc": "2.0", "method": "notifications/unheard"}),
    "notification, no session": outside({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    "answer to nothing": inside({"jsonrpc": "2.0", "id": 9, "result": {}}),
    "bad JSON": inside(b"nonsense"),
    "no body": inside(b""),
    "not JSON-RPC": inside({"id": 1}),
    "bad JSON, no session": outside(b"nonsense"),
    "a batch": inside([PING, PING]),
    "plain text": inside(content_type="text/plain"),
    "a form": inside(content_type="application/x-www-form-urlencoded"),
    "no content type": inside(content_type=""),
    "content type with a charset": inside(content_type="application/json; charset=utf-8"),
    "content type in capitals": inside(content_type="Application/JSON"),
    "accepts anything": inside(accept="*/*"),
    "accepts JSON": inside(accept="application/json"),
    "accepts events": inside(accept="text/event-stream"),
    "accepts web pages": inside(accept="text/html"),
    "accepts nothing in particular": inside(accept=""),
    "accepts with weights": inside(accept="application/json;q=0.9, text/event-stream;q=0.1"),
    "PUT": inside(method="PUT"),
    "PATCH": inside(method="PATCH"),
    "GET, no session": outside(method="GET", accept="text/event-stream"),
    "GET, unknown session": outside(method="GET", accept="text/event-stream", mcp_session_id="unknown"),
    "GET, accepts JSON": inside(None, method="GET", accept="application/json"),
    "DELETE": inside(None, method="DELETE"),
    "DELETE, no session": outside(method="DELETE"),
    "DELETE, unknown session": outside(method="DELETE", mcp_session_id="unknown"),
    "ping after DELETE": inside()._replace(before=(("DELETE", None),)),
    "DELETE after DELETE": inside(None, method="DELETE")._replace(before=(("DELETE", None),)),
    "foreign host": inside(host="evil.example"),
    "foreign origin": inside(origin="http://evil.example"),
    "own origin": inside(origin="http://127.0.0.1:8000"),
    "discover": modern("server/discover"),
    "modern tools/list": modern("tools/list"),
    "modern tools/call": modern("tools/call", SIMPLE),
    "modern unknown tool": modern("tools/call", {"name": "make_coffee"}),
    "modern unknown method": modern("make/coffee"),
    "modern ping": modern("ping"),
    "modern initialize": modern("initialize", HELLO),
    "modern unknown resource": modern("resources/read", {"uri": "test://nothing"}),
    "modern, unsupported version": modern(
        "tools/list", None, {wire.VERSION_KEY: "2099-01-01"}, mcp_protocol_version="2099-01-01"
    ),
    "modern, header of another version": modern("tools/list", mcp_protocol_version="2099-01-01"),
    "modern, header of a handshake": modern("tools/list", mcp_protocol_version=SESSION),
    "modern, no header of the version": modern("tools/list", mcp_protocol_version=""),
    "modern, no method header": modern("tools/list", mcp_method=""),
    "modern, other method header": modern("tools/list", mcp_method="tools/call"),
    "modern, method header in capitals": modern("tools/list", mcp_method="TOOLS/LIST"),
    "modern, no name header": modern("tools/call", SIMPLE, mcp_name=""),
    "modern, other name header": modern("tools/call", SIMPLE, mcp_name="make_coffee"),
    "modern, wrapped name header": modern("tools/call", SIMPLE, mcp_name=wrapped(SIMPLE["name"])),
    "modern, badly wrapped name header": modern("tools/call", SIMPLE, mcp_name="=?base64?!!!?="),
    "modern, mirrored argument": modern("tools/call", REGION, mcp_param_region="eu"),
    "modern, wrapped mirrored argument": modern("tools/call", REGION, mcp_param_region=wrapped("eu")),
    "modern, mirrored argument differs": modern("tools/call", REGION, mcp_param_region="us"),
    "modern, mirrored argument is missing": modern("tools/call", REGION),
    "modern, no capabilities": outside(
        message("tools/list", {"_meta": {wire.VERSION_KEY: MODERN_HEADER}}, 1),
        mcp_protocol_version=MODERN_HEADER,
        mcp_method="tools/list",
    ),
    "modern, no envelope": outside(
        message("tools/list", None, 1), mcp_protocol_version=MODERN_HEADER, mcp_method="tools/list"
    ),
    "modern, bad JSON": outside(b"nonsense", mcp_protocol_version=MODERN_HEADER, mcp_method="tools/list"),
    "modern, a batch": outside([PING], mcp_protocol_version=MODERN_HEADER, mcp_method="ping"),
    "modern notification": outside(
        {"jsonrpc": "2.0", "method": "notifications/unheard", "params": {"_meta": MODERN}},
        mcp_protocol_version=MODERN_HEADER,
        mcp_method="notifications/unheard",
    ),
    "modern answer": outside(
        {"jsonrpc": "2.0", "id": 1, "result": {}}, mcp_protocol_version=MODERN_HEADER, mcp_method="x"
    ),
    "modern, with another session's id": modern("tools/list", mcp_session_id="unknown"),
    "modern GET": outside(method="GET", accept="text/event-stream", mcp_protocol_version=MODERN_HEADER),
    "modern DELETE": outside(method="DELETE", mcp_protocol_version=MODERN_HEADER),
    "modern, accepts JSON": modern("tools/list", accept="application/json"),
    "modern, plain text": modern("tools/list", content_type="text/plain"),
}


@asynccontextmanager
async def ours() -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of our server, which serves the same as the oracle."""
    offer = fixture_server.FixtureProvider(lambda name: None)
    offer.tools = {name: fixture_server.TOOLS[name] for name in OFFERED}
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(fixture_server.serve_http, McpServer(offer, Metrics(), name="oracle"))
        async with httpx2.AsyncClient(base_url=url) as client:
            yield client
        nursery.cancel_scope.cancel()


async def send_request(connect: Any, request: RawRequest) -> tuple[int, int | None]:
    """The status of the answer, and the code of the error in it, if there is one."""
    async with connect() as client:
        session = ""

        async def send(method: str, body: Any, headers: Mapping[str, str]) -> httpx2.Response:
            sent = {"content-type": "application/json", "accept": BOTH, **headers}
            sent = {key: value.replace("{session}", session) for key, value in sent.items() if value}
            if "accept" not in sent:
                del client.headers["accept"]
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            return await client.request(method, "/mcp", content=content, headers=sent)

        if request.opened:
            session = (await send("POST", message("initialize", HELLO, 0), {})).headers["mcp-session-id"]
            await send("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, IN_SESSION)
            for method, body in request.before:
                await send(method, body, IN_SESSION)
        answer = await send(request.method, request.body, request.headers)
    body: Any = json.loads(answer.text) if answer.text.startswith("{") else {}
    return int(answer.status_code), body.get("error", {}).get("code")


MEDIA = "What isn't JSON is 415 to HTTP."

ON_PURPOSE = {
    "initialize, no params": "A handshake that failed opened no session, which a status of 400 says to all.",
    "not JSON-RPC": "JSON that isn't a message is -32600; the SDK calls its envelope parameters.",
    "a batch": "Answered as any other message that can't be read: with the code for it; the SDK talks of parameters.",
    "plain text": MEDIA,
    "a form": MEDIA,
    "no content type": MEDIA,
    "content type in capitals": "Media types are the same in capitals.",
    "accepts nothing in particular": "In HTTP, a request without Accept takes anything.",
    "GET, no session": "405 shows clients that there is no stream without a session; they go on without one.",
    "DELETE": "There is nothing to say when a session has ended: 204.",
    "foreign host": "403, as for a foreign origin.",
    "modern, header of a handshake": "Header and envelope differ, and the code for that is -32020.",
    "modern, no header of the version": "Header and envelope differ, and the code for that is -32020.",
    "modern, plain text": MEDIA,
}
"""Where our server differs, and why."""


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_servers_answer_the_same_or_there_is_a_reason(name: str):
    """The same status, and the same error code if the SDK gives one."""
    with trio.fail_after(PATIENCE):
        theirs, mine = await send_request(oracle_over_http, REQUESTS[name]), await send_request(ours, REQUESTS[name])
    if theirs[1] is None:
        theirs = theirs[0], mine[1]
    if name in ON_PURPOSE:
        assert mine != theirs, f"we don't differ any more: {ON_PURPOSE[name]}"
    else:
        assert mine == theirs


def test_every_reason_belongs_to_a_request():
    """Reasons of removed requests are removed too."""
    assert set(ON_PURPOSE) <= set(REQUESTS)
