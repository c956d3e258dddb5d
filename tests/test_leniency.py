"""What is accepted of clients although no schema says so: every row of the table, on the wire."""

from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio

from chora.bridge.messages import split_messages
from chora.engine.engine import Engine
from chora.leniency import BOM, LENIENCIES
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.envelope import find_id
from chora.protocol.server import McpServer
from chora.provider import project_server
from chora.tools import TOOLS
from chora.watch.mcp_client import CallFailed, connect_http
from tests.conftest import OpenHttpClient, Project, Serve, requirement
from tests.http_client import BOTH, HELLO, MODERN, message
from tests.patience import PATIENCE
from tests.protocol.test_server import ask, initialized_session, request
from tests.tools.test_lenient_arguments import ROWS
from tests.upstream import ReceivedRequest, http, playing


@pytest.fixture
def server(engine: Engine) -> McpServer:
    return project_server(engine, TOOLS, Metrics())


@requirement("server.leniency")
def test_every_row_of_the_table_is_tested():
    """The rows about arguments beside the tools, all others here."""
    here = Path(__file__).read_text("utf-8")
    tested = {rule for rule, _, _ in ROWS} | {rule for rule in LENIENCIES if f'"{rule}"' in here}
    assert tested == set(LENIENCIES)
    for each in LENIENCIES.values():
        assert each.why.endswith("."), each


# -- requests over HTTP: "path-slash", "accept-case", "prefix" --------------------------------------------------


@pytest.mark.parametrize(
    ("path", "same"),
    [("/mcp/", "/mcp"), ("/mcp", "/mcp"), ("/sse/", "/sse"), ("/messages", "/messages/"), ("/mcp//", None)],
)
async def test_a_path_with_another_slash_is_the_same(http_client: OpenHttpClient, path: str, same: str | None):
    """A client that is configured with it isn't turned away, and is checked as for the other one."""
    async with http_client() as client:
        response = await client.http.post(path, json=message("initialize", HELLO, 1), headers={"accept": BOTH})
        expected = {"/mcp": 200, "/sse": 405, "/messages/": 404, None: 404}[same]
        assert response.status_code == expected
        foreign = await client.http.post(path, json={}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == (405 if same == "/sse" else 403)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("Application/JSON, Text/Event-Stream", "application/json"),
        ("APPLICATION/JSON", "Application/Json; charset=UTF-8"),
        ("*/*;q=0.8", "application/json"),
    ],
)
async def test_media_types_are_read_in_any_case(http_client: OpenHttpClient, accept: str, kind: str):
    """RFC 9110 §8.3.1."""
    async with http_client() as client:
        response = await client.ask("initialize", HELLO, accept=accept, content_type=kind)
        assert response.status_code == 200
        stream = {"accept": "TEXT/Event-Stream", "mcp-session-id": response.headers["mcp-session-id"]}
        async with client.http.stream("GET", "/mcp", headers=stream) as opened:
            assert opened.status_code == 200


@pytest.mark.parametrize("path", ["/sse", "/sse/"])
async def test_the_old_transport_works_behind_a_path_prefix(http_client: OpenHttpClient, path: str):
    """Its endpoint is relative to the address that the client has."""
    async with http_client() as client, client.http.stream("GET", path, headers={"accept": BOTH}) as response:
        lines = response.aiter_lines()
        while not (line := await anext(lines)).startswith("data: "):
            pass
        place = line.removeprefix("data: ")
        assert not place.startswith("/")
        behind = httpx2.URL(f"https://host.example/tools/chora{path}").join(place)
        assert behind.path == "/tools/chora/messages/"
        assert (await client.http.post(httpx2.URL(path).join(place), json=message("ping", None, 1))).status_code == 202


# -- messages: "bom", "null-envelope", "id-as-text", "surrogate", "tool-prefix" ---------------------------------

PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'


async def test_a_byte_order_mark_before_a_message_is_ignored(server: McpServer, http_client: OpenHttpClient):
    """On every transport, and by the bridge in both directions."""
    assert (await ask(server, initialized_session(), BOM + PING))["result"] == {}
    assert (await ask(server, initialized_session("2025-03-26"), BOM + b"[" + PING + b"]"))[0]["result"] == {}
    assert split_messages(BOM + PING) == split_messages(PING)
    async with http_client() as client:
        await client.initialize()
        assert (await client.post(BOM + PING)).json()["result"] == {}
        assert (await client.post(BOM + msgspec.json.encode(message("initialize", HELLO, 1)))).status_code == 200


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ping", None),
        ("ping", {"_meta": None}),
        ("tools/list", {"_meta": None, "cursor": None}),
        ("tools/list", {"_meta": {"progressToken": None}}),
        ("tools/call", {"name": "hello_world", "arguments": None, "_meta": None}),
        ("tools/call", {"name": "hello_world", "_meta": {"progressToken": None, "traceparent": None}}),
        ("tools/call", {"name": "hello_world", "inputResponses": None, "requestState": None}),
        ("initialize", {**HELLO, "capabilities": None, "clientInfo": None, "_meta": None}),
    ],
)
@requirement("server.leniency")
async def test_null_is_the_same_as_nothing(server: McpServer, method: str, params: Any):
    """In the parameters and in their `_meta`."""
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert "result" in await ask(server, initialized_session(), body)
    if method == "tools/call":
        modern = {**params, "_meta": {**(params.get("_meta") or {}), **MODERN, "progressToken": None}}
        assert "result" in await ask(server, initialized_session(), request(method, modern))


async def test_null_for_what_is_needed_is_refused(server: McpServer):
    """The name of a tool."""
    answer = await ask(server, initialized_session(), request("tools/call", {"name": None}))
    assert answer["error"]["code"] == wire.INVALID_PARAMS


@pytest.mark.parametrize(("id", "cancelled"), [(5, "5"), ("5", 5), (5, 5), ("a", "a")])
async def test_a_cancellation_names_its_request_also_as_text(server: McpServer, id: Any, cancelled: Any):
    """ "id-as-text": gateways that keep ids as text answer with text."""
    session = initialized_session()
    session.in_flight[msgspec.json.encode(id)] = scope = trio.CancelScope()
    notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": cancelled}}
    assert await ask(server, session, msgspec.json.encode(notice)) is None
    assert scope.cancel_called


UNDECODABLE: list[tuple[bytes, Any]] = [
    (
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"hello_world","arguments":{"a":"\\ud83d"}}}',
        7,
    ),
    (
        b'{"jsonrpc":"2.0","id":"a-1","method":"tools/call","params":{"arguments":{"a":"x\\udc00y"},"name":"x"}}',
        "a-1",
    ),
    (b'{"method":"tools/call","params":{"name":"x","arguments":{"id":1,"a":"\\ud800"}},"jsonrpc":"2.0","id":9}', 9),
    (b'{"jsonrpc":"2.0","params":{"id":1},"method":"\\ud800"}', None),
    (b'{"jsonrpc":"2.0","params":"\\"id\\": 3, ","method":"\\ud800"}', None),
    (b'{"jsonrpc":"2.0","params":{"a":"}"},"id":4,"method":"\\ud800"}', 4),
    (b'{"jsonrpc":"2.0","id":1,"method":"x","params":[' + b"[]," * 50_001 + b"1]}", 1),
    (b'{"jsonrpc":"2.0","id":2,"method":"x","params":' + b"[" * 70 + b"]" * 70 + b"}", 2),
    (b'{"jsonrpc":"2.0","id":3,"method":5}', 3),
    (b'{"jsonrpc":"2.0","id":null,"method":5}', None),
    (b'{"jsonrpc":"2.0","id":"' + b"x" * 300 + b'","method":5}', None),
    (b'{"jsonrpc":"2.0","id":"\xff","method":5}', None),
    (b'[{"jsonrpc":"2.0","id":1,"method":"\\ud800"}]', None),
    (b'"id":1,', None),
    (b"", None),
]


@pytest.mark.parametrize(("body", "id"), UNDECODABLE)
async def test_a_message_that_cannot_be_decoded_is_refused_with_its_id(server: McpServer, body: bytes, id: Any):
    """ "surrogate", and all others: with null the call would wait for an answer that never comes."""
    assert find_id(body) == (None if id is None else msgspec.json.encode(id))
    answer = await ask(server, initialized_session(), body)
    assert answer["id"] == id
    assert "error" in answer


async def test_over_http_too_the_refusal_has_the_id(http_client: OpenHttpClient):
    """In both eras."""
    body = UNDECODABLE[0][0]
    async with http_client() as client:
        assert (await client.post(body)).json()["id"] == 7
        await client.initialize()
        assert (await client.post(body)).json()["id"] == 7
        client.session = ""
        modern = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": "hello_world"}
        assert (await client.post(body, **modern)).json()["id"] == 7


@pytest.mark.parametrize("prefix", ["", "choracompose:", "choracompose__"])
async def test_tools_have_the_prefix_of_chora_compose(server: McpServer, prefix: str):
    """ "tool-prefix"."""
    answer = await ask(server, initialized_session(), request("tools/call", {"name": f"{prefix}hello_world"}))
    assert "isError" not in answer["result"]


# -- responses: "response-id" -----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["server-error", None, "1", 99])
async def test_our_client_takes_a_refusal_whatever_id_it_has(id: Any):
    """In the response to its POST it can only be for that request."""

    def refuse(received: ReceivedRequest) -> bytes:
        error = {"code": -32600, "message": "Bad Request: no session"}
        return http(msgspec.json.encode({"jsonrpc": "2.0", "id": id, "error": error}), "400 Bad Request")

    with trio.fail_after(PATIENCE):
        async with playing(refuse) as upstream, connect_http(upstream.url) as client:
            with pytest.raises(CallFailed, match="no session"):
                await client.request("tools/list", {})


# -- addresses --------------------------------------------------------------------------------------------------


@requirement("server.localhost")
async def test_localhost_is_served_on_both_families(hello: Project, serve: Serve):
    """On one port, also where a free one is picked: some clients try only one address."""
    async with serve(hello.root, {"http.host": "localhost"}) as running:
        port = running.url.rpartition(":")[2].strip("/")
        for host in ("127.0.0.1", "[::1]", "localhost"):
            async with httpx2.AsyncClient() as http_:
                assert (await http_.get(f"http://{host}:{port}/health")).status_code == 200, host
