"""MCP over HTTP: request security, and each era and transport."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio

from chora.access import SCOPES, Principal, Tokens
from chora.peer_memory import MIB
from chora.project import tokens_folder
from chora.protocol import wire
from chora.protocol.subscriptions import OPEN_SUBSCRIPTIONS_LIMIT
from chora.protocol.types import Call
from chora.tools import tool
from chora.transport.http import event_streams, sessions
from chora.transport.http.asgi import send_busy
from chora.transport.http.security import FORWARDED, SINGLE_HEADERS
from chora.transport.http.sessions import HttpSession
from tests.conftest import OpenHttpClient, Project, content, requirement, text
from tests.http_client import BOTH, HELLO, MODERN, HttpTestClient, message
from tests.patience import PATIENCE

SLOW = "{% for i in range(1500) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done"
ENDLESS = SLOW.replace("1500", "90000")


# -- request security -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:99", 200),
        ("[::1]:8000", 200),
        ("docs.example", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("evil.example:80:80", 403),
        ("evil.example[::1]", 403),
        ("[::1]evil.example", 403),
        ("127.0.0.1.", 403),
        ("127.0.0.1/", 403),
        ("[::1", 403),
        ("[::1]", 200),
        ("LOCALHOST:9", 200),
        ("", 403),
    ],
)
@requirement("server.hosts")
async def test_only_allowed_hosts_are_answered(http_client: OpenHttpClient, host: str, status: int):
    """A page that points its own name at our address (DNS rebinding) sends that name as Host."""
    async with http_client(http__allowed_hosts=("docs.example",)) as client:
        response = await client.http.get("/health", headers={"host": host})
        assert response.status_code == status
        if status == 403:
            assert "allowed_hosts" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("https://n8n.example", 200),
        ("https://evil.example", 403),
        ("https://localhost.evil.example", 403),
        ("null", 403),
        ("https://[", 403),
        ("https://evil.example[::1]", 403),
        ("https://localhost@evil.example", 403),
        ("localhost", 403),
        ("tauri://localhost", 200),
    ],
)
async def test_only_allowed_origins_are_answered(http_client: OpenHttpClient, origin: str, status: int):
    """A foreign web page in a browser on this machine gets 403, before its body is read."""
    async with http_client(http__allowed_origins=("https://n8n.example",)) as client:
        assert (await client.ask("initialize", HELLO, origin=origin)).status_code == status
        assert (await client.http.get("/status.json", headers={"origin": origin})).status_code == status
        assert (await client.http.get("/health", headers={"origin": origin})).status_code == 200


async def test_a_configured_token_is_required(
    http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """401 with a challenge without it; /health needs none."""
    secret = tmp_path / "token"
    secret.write_text("open-sesame-12345\n")
    monkeypatch.setenv("CHORA_TOKEN_FILE", str(secret))
    async with http_client() as client:
        for given in ("", "Bearer wrong", "Basic open-sesame-12345", "Bearer"):
            response = await client.ask("initialize", HELLO, authorization=given)
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "open-sesame-12345" not in response.text
        assert (await client.ask("initialize", HELLO, authorization="Bearer open-sesame-12345")).status_code == 200
        assert (await client.http.get("/health")).status_code == 200
        twice = [("authorization", "Bearer open-sesame-12345"), ("authorization", "Bearer open-sesame-12345")]
        assert (await client.http.post("/mcp", headers=twice)).status_code == 400


@requirement("server.public-pages")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_where_a_token_is_needed_the_status_needs_it_too(
    http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch, host: str
):
    """On every address: only /health and readiness need no token."""
    monkeypatch.setenv("CHORA_TOKEN", "open-sesame-12345")
    async with http_client(http__host=host) as client:
        url = client.running.url.replace("0.0.0.0", "127.0.0.1")
        async with httpx2.AsyncClient(base_url=url) as http:
            for path in ("/health", "/ready"):
                assert (await http.get(path)).status_code == 200, path
            for path in ("/status.json", "/metrics", "/"):
                assert (await http.get(path)).status_code == 401, path
            bearer = {"authorization": "Bearer open-sesame-12345"}
            assert (await http.get("/status.json", headers=bearer)).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_form_could_post_is_refused(http_client: OpenHttpClient, kind: str):
    """Only `application/json` is read; a page may send other types without a CORS preflight."""
    async with http_client() as client:
        response = await client.post(message("initialize", HELLO, 1), content_type=kind)
        assert response.status_code == 415


async def test_a_client_must_accept_json(http_client: OpenHttpClient):
    """406 for an Accept header that excludes it."""
    async with http_client() as client:
        assert (await client.ask("initialize", HELLO, accept="text/html")).status_code == 406
        assert (await client.ask("initialize", HELLO, accept="*/*")).status_code == 200


async def test_other_methods_and_paths_are_refused(http_client: OpenHttpClient):
    """405 with the allowed methods, 404 for an unknown path."""
    async with http_client() as client:
        put = await client.http.put("/mcp")
        assert put.status_code == 405
        assert set(put.headers["allow"].split(", ")) == {"POST", "GET", "DELETE"}
        assert (await client.http.get("/nowhere")).status_code == 404


@pytest.mark.parametrize(("path", "status"), [("/", 404), ("/nowhere", 404), ("/mcp/mcp", 404), ("/sse", 405)])
async def test_a_client_with_the_wrong_address_is_told_the_right_one(
    http_client: OpenHttpClient, path: str, status: int
):
    """Instead of a page for people."""
    async with http_client() as client:
        answer = await client.http.post(path, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert answer.status_code == status
        assert "Streamable HTTP is served at /mcp" in answer.json()["error"]["message"]
        page = await client.http.post("/nowhere", data={"token": "x"})
        assert page.headers["content-type"].startswith("text/html")


# -- the modern era ---------------------------------------------------------------------------------------------


async def test_a_modern_request_needs_no_session(http_client: OpenHttpClient):
    """One POST, one JSON response, and no session id."""
    async with http_client() as client:
        response = await client.ask_modern("tools/call", {"name": "hello_world", "arguments": {}})
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert "mcp-session-id" not in response.headers
        assert response.json()["result"]["structuredContent"]["transport"] == "http"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"mcp_protocol_version": "2031-01-01"}, 400, wire.HEADER_MISMATCH),
        ({"mcp_method": "tools/list"}, 400, wire.HEADER_MISMATCH),
        ({"mcp_method": ""}, 400, wire.HEADER_MISMATCH),
        ({"mcp_method": "TOOLS/CALL"}, 400, wire.HEADER_MISMATCH),
        ({"mcp_name": "other"}, 400, wire.HEADER_MISMATCH),
        ({"mcp_name": ""}, 400, wire.HEADER_MISMATCH),
        ({"mcp_name": "=?base64?aGVsbG9fd29ybGQ=?="}, 200, None),
        ({"mcp_name": "=?base64?aGVsbG9fd29ybGR=?="}, 400, wire.HEADER_MISMATCH),
        ({"mcp_name": "=?base64?!!?="}, 400, wire.HEADER_MISMATCH),
        ({"mcp_name": "=?base64?/w==?="}, 400, wire.HEADER_MISMATCH),
        ({"mcp_protocol_version": ""}, 400, wire.HEADER_MISMATCH),
        ({"mcp_protocol_version": "2025-06-18"}, 400, wire.HEADER_MISMATCH),
    ],
)
async def test_routing_headers_must_match_the_body(
    http_client: OpenHttpClient, headers: dict[str, str], status: int, code: int | None
):
    """A proxy that routes by the headers must not see another method or name than the server does."""
    async with http_client() as client:
        response = await client.ask_modern("tools/call", {"name": "hello_world", "arguments": {}}, **headers)
        assert response.status_code == status, response.text
        assert response.json().get("error", {}).get("code") == code


async def test_a_repeated_routing_header_is_refused(http_client: OpenHttpClient):
    """Two readers could take different ones of them."""
    async with http_client() as client:
        body = msgspec.json.encode(message("tools/list", {"_meta": MODERN}, 1))
        headers = [
            ("content-type", "application/json"),
            ("accept", BOTH),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/list"),
            ("mcp-method", "tools/list"),
        ]
        response = await client.http.post("/mcp", content=body, headers=headers)
        assert response.json()["error"]["code"] == wire.HEADER_MISMATCH


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, wire.PARSE_ERROR),
        (b"[]", 400, wire.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', 400, wire.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', 400, wire.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{}}}', 400, wire.INVALID_PARAMS),
    ],
)
async def test_invalid_modern_bodies_are_refused_and_the_server_goes_on(
    http_client: OpenHttpClient, body: bytes, status: int, code: int
):
    """Each gets its code and status, and the next valid request is answered."""
    async with http_client() as client:
        response = await client.post(body, mcp_protocol_version="2026-07-28", mcp_method="tools/list")
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
        assert (await client.ask_modern("tools/list")).status_code == 200


async def test_an_argument_that_a_header_repeats_must_equal_it(http_client: OpenHttpClient):
    """Where a tool wants the header; a proxy may have routed the request by it."""
    async with http_client() as client:
        client.running.server.parameter_headers["hello_world"] = {"name": "mcp-param-name"}
        call = {"name": "hello_world", "arguments": {"name": "Ada"}}
        for value, status in (("Ada", 200), ("Grace", 400), ("", 400)):
            response = await client.ask_modern("tools/call", call, mcp_param_name=value)
            assert response.status_code == status
            assert ("error" not in response.json()) or response.json()["error"]["code"] == wire.HEADER_MISMATCH


async def test_what_a_tool_did_becomes_an_event_in_the_store(http_client: OpenHttpClient):
    """A server stores its events while it runs."""
    async with http_client() as client:
        await client.initialize()
        await client.call("generate_content", content_config_id="greeting")
        with trio.fail_after(PATIENCE):
            while "chora.content_generated" not in [event.kind for event in client.running.engine.store.events()]:
                await trio.sleep(0.01)


async def test_an_error_of_the_server_is_a_response_with_status_200(http_client: OpenHttpClient):
    """Only errors that the revision gives a status of their own have another one."""
    async with http_client() as client:
        store: Any = client.running.engine.store
        store._reader.close()
        response = await client.ask_modern(
            "resources/read", {"uri": "content://greeting"}, mcp_name="content://greeting"
        )
        assert (response.status_code, response.json()["error"]["code"]) == (200, wire.INTERNAL_ERROR)


async def test_modern_errors_carry_their_status(http_client: OpenHttpClient):
    """404 for an unknown method, 400 with the known ones for an unknown revision, 202 for a notification."""
    async with http_client() as client:
        assert (await client.ask_modern("no/such")).status_code == 404
        unknown = await client.post(
            message("tools/list", {"_meta": {**MODERN, wire.VERSION_KEY: "2031-01-01"}}, 1),
            mcp_protocol_version="2031-01-01",
            mcp_method="tools/list",
        )
        assert unknown.status_code == 400
        assert unknown.json()["error"]["data"]["supported"] == ["2026-07-28"]
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        accepted = await client.post(note, mcp_protocol_version="2026-07-28")
        assert (accepted.status_code, accepted.content) == (202, b"")
        assert (await client.post(note, mcp_protocol_version="2031-01-01")).status_code == 400


async def test_a_response_becomes_a_stream_when_there_is_progress(http_client: OpenHttpClient):
    """If the client accepts events: progress, then the response; otherwise JSON."""
    async with http_client() as client:
        arguments = {"artifact_config_id": "hello"}
        call = {"name": "assemble_artifact", "arguments": arguments, "_meta": {"progressToken": 5}}
        response = await client.ask_modern("tools/call", call)
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-accel-buffering"] == "no"
        first, last = _events(response.text)
        assert first["params"]["progressToken"] == 5
        assert last["result"]["structuredContent"]["status"] == "assembled"
        plain = await client.ask_modern("tools/call", call, accept="application/json")
        assert plain.json()["result"]["structuredContent"]["status"] == "skipped"


async def test_closing_the_connection_cancels_a_modern_request(http_client: OpenHttpClient, hello: Project):
    """The work stops when the client disconnects."""
    hello.save(content("endless", pattern={"type": "jinja2", "template": ENDLESS}))
    async with http_client() as client:
        call = {"name": "generate_content", "arguments": {"content_config_id": "endless"}}
        with trio.move_on_after(0.5):
            await client.ask_modern("tools/call", call)
        await _until_counted(client, "cancelled")


# -- the handshake era ------------------------------------------------------------------------------------------


async def test_a_session_is_opened_used_and_ended(http_client: OpenHttpClient):
    """`initialize` returns an id; with it calls are answered; after DELETE it is unknown."""
    async with http_client() as client:
        await client.initialize()
        response = await client.call("hello_world", name="Ada")
        assert response.json()["result"]["structuredContent"]["message"].startswith("Hello, Ada!")
        status = (await client.http.get("/status.json")).json()
        assert status["sessions"]["http"] == 1
        ended = await client.http.delete("/mcp", headers={"mcp-session-id": client.session})
        assert ended.status_code == 204
        assert (await client.call("hello_world")).status_code == 404
        assert (await client.http.delete("/mcp")).status_code == 400
        modern = await client.http.delete("/mcp", headers={"mcp-protocol-version": "2026-07-28"})
        assert (modern.status_code, modern.headers["allow"]) == (405, "POST")


async def test_without_a_session_only_initialize_is_answered(http_client: OpenHttpClient):
    """400 without the id, 404 for an unknown one."""
    async with http_client() as client:
        assert (await client.ask("tools/list")).status_code == 400
        assert (await client.ask("tools/list", mcp_session_id="made-up")).status_code == 404
        assert (await client.ask("initialize", {"protocolVersion": 1})).status_code == 400


@pytest.mark.parametrize("body", [b"{", b'{"jsonrpc":"2.0","id":null,"method":"ping"}', b"\xff", b'"text"'])
async def test_malformed_json_is_answered_and_the_session_goes_on(http_client: OpenHttpClient, body: bytes):
    """400 with a JSON-RPC error; the session stays as it was."""
    async with http_client() as client:
        await client.initialize()
        response = await client.post(body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] in (wire.PARSE_ERROR, wire.INVALID_REQUEST)
        assert (await client.call("hello_world")).status_code == 200


async def test_batches_work_in_2025_03_26(http_client: OpenHttpClient):
    """They get one array of responses, or 202 when they hold no request."""
    async with http_client() as client:
        response = await client.ask("initialize", {**HELLO, "protocolVersion": "2025-03-26"})
        client.session = response.headers["mcp-session-id"]
        answers = await client.post([message("ping", None, 1), message("ping", None, 2)])
        assert [each["id"] for each in answers.json()] == [1, 2]
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await client.post([note])).status_code == 202
        failing = await client.post([message("nope", None, 3)])
        assert (failing.status_code, failing.json()[0]["error"]["code"]) == (200, wire.METHOD_NOT_FOUND)
        alone = await client.post(message("nope", None, 4))
        assert (alone.status_code, alone.json()["error"]["code"]) == (200, wire.METHOD_NOT_FOUND)
        refused = await client.post([])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, wire.INVALID_REQUEST)


async def test_a_cancelled_call_ends_without_an_answer(http_client: OpenHttpClient, hello: Project):
    """`notifications/cancelled` names a request of the session; its POST ends with an empty response."""
    hello.save(content("endless", pattern={"type": "jinja2", "template": ENDLESS}))
    async with http_client() as client:
        await client.initialize()
        ended: list[int] = []

        async def call() -> None:
            ended.append((await client.call("generate_content", content_config_id="endless")).status_code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(0.3)
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            assert (await client.post(note)).status_code == 202
        assert ended == [202]
        await _until_counted(client, "cancelled")


async def test_ending_a_session_stops_its_calls(http_client: OpenHttpClient, hello: Project):
    """The work stops, as its result can't be delivered any more."""
    hello.save(content("endless", pattern={"type": "jinja2", "template": ENDLESS}))
    async with http_client() as client:
        await client.initialize()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.call, "generate_content", content_config_id="endless"))
            busy = 'chora_calls_in_flight{tool="generate_content"} 1.0'
            await _until(client, "/metrics", lambda text: busy in text)
            await client.http.delete("/mcp", headers={"mcp-session-id": client.session})
            await _until_counted(client, "cancelled")
        metrics = (await client.http.get("/metrics")).text
        assert 'chora_calls_in_flight{tool="generate_content"} 0.0' in metrics


async def test_a_session_has_a_stream_until_it_ends(http_client: OpenHttpClient):
    """GET opens it, DELETE closes it; it needs a session and the right Accept header."""
    async with http_client() as client:
        assert (await client.http.get("/mcp", headers={"accept": "text/event-stream"})).status_code == 405
        assert (await client.http.get("/mcp", headers={"accept": "application/json"})).status_code == 406
        await client.initialize()
        headers = {"accept": "text/event-stream", "mcp-session-id": client.session}
        async with client.http.stream("GET", "/mcp", headers=headers) as stream:
            assert stream.status_code == 200
            chunks = stream.aiter_text()
            assert (await anext(chunks)).startswith(":")
            await client.http.delete("/mcp", headers={"mcp-session-id": client.session})
            assert [chunk async for chunk in chunks] == []
        headers["mcp-session-id"] = "made-up"
        assert (await client.http.get("/mcp", headers=headers)).status_code == 404


async def test_the_longest_idle_session_is_evicted(http_client: OpenHttpClient):
    """At the limit, a new session evicts it."""
    async with http_client(limits__sessions=2) as client:
        ids: list[str] = []
        for _ in range(3):
            await client.initialize()
            ids.append(client.session)
            client.session = ""
        for id, status in zip(ids, (404, 200, 200), strict=True):
            assert (await client.ask("ping", mcp_session_id=id)).status_code == status
        metrics = (await client.http.get("/metrics")).text
        assert 'chora_sessions_ended_total{reason="evicted"} 1.0' in metrics


async def test_an_unused_session_expires(http_client: OpenHttpClient):
    """After `limits.idle` its id is unknown, and the metrics count it as idle."""
    async with http_client(limits__idle=0.3) as client:
        client.session = (await client.ask("initialize", HELLO)).headers["mcp-session-id"]
        await _until(client, "/metrics", lambda text: 'reason="idle"} 1.0' in text)
        assert (await client.ask("ping")).status_code == 404


async def test_a_session_belongs_to_its_principal(http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch):
    """Another principal that knows the id gets the same 404 as for an unknown one."""
    monkeypatch.setenv("CHORA_TOKEN", "open-sesame-12345")
    async with http_client() as client:
        response = await client.ask("initialize", HELLO, authorization="Bearer open-sesame-12345")
        id = response.headers["mcp-session-id"]
        probe = f"Bearer {client.running.target.token.reveal()}"
        assert (await client.ask("ping", mcp_session_id=id, authorization=probe)).status_code == 404
        assert (
            await client.ask("ping", mcp_session_id=id, authorization="Bearer open-sesame-12345")
        ).status_code == 200


async def test_a_session_of_the_old_transport_belongs_to_its_principal(
    http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch
):
    """Another principal can't post into it, and its id isn't valid for Streamable HTTP."""
    monkeypatch.setenv("CHORA_TOKEN", "open-sesame-12345")
    async with http_client() as client:
        probe = {"authorization": f"Bearer {client.running.target.token.reveal()}"}
        client.http.headers["authorization"] = "Bearer open-sesame-12345"
        async with sse(client) as (_, place):
            body = message("ping", None, 1)
            assert (await client.http.post(place, json=body, headers=probe)).status_code == 404
            assert (await client.http.post(place, json=body)).status_code == 202
            id = place.partition("session_id=")[2]
            assert (await client.ask("ping", mcp_session_id=id)).status_code == 404
            assert (await client.http.delete("/mcp", headers={"mcp-session-id": id})).status_code == 404
            sent = {"accept": BOTH, "mcp-session-id": id}
            assert (await client.http.get("/mcp", headers=sent)).status_code == 404


# -- SSE, 2024-11-05 --------------------------------------------------------------------------------------------


class Stream:
    """An open GET /sse."""

    def __init__(self, client: HttpTestClient, chunks: Any) -> None:
        self._client = client
        self.chunks = chunks
        self._rest = ""

    async def event(self) -> tuple[str, str]:
        """The type and data of the next event; comments are skipped."""
        while True:
            while "\r\n\r\n" not in self._rest:
                self._rest += await anext(self.chunks)
            block, _, self._rest = self._rest.partition("\r\n\r\n")
            if not block.startswith(":"):
                kind, _, data = block.partition("\r\ndata: ")
                return kind.removeprefix("event: "), data


@asynccontextmanager
async def sse(client: HttpTestClient) -> AsyncGenerator[tuple[Stream, str]]:
    async with client.http.stream("GET", "/sse", headers={"accept": "text/event-stream"}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        stream = Stream(client, response.aiter_text())
        kind, place = await stream.event()
        assert kind == "endpoint"
        yield stream, place


async def test_the_old_transport_answers_on_its_stream(http_client: OpenHttpClient):
    """The endpoint is the first event; a POST gets 202, and its response is an event, in order."""
    async with http_client() as client, sse(client) as (stream, place):
        for body, id in (
            (message("initialize", {**HELLO, "protocolVersion": "2024-11-05"}, 1), 1),
            (message("tools/call", {"name": "hello_world"}, 2), 2),
        ):
            posted = await client.http.post(place, json=body)
            assert (posted.status_code, posted.content) == (202, b"")
            kind, data = await stream.event()
            assert (kind, msgspec.json.decode(data)["id"]) == ("message", id)
        assert msgspec.json.decode(data)["result"]["content"][0]["type"] == "text"
        assert (await client.http.post(place, content=b"garbage")).status_code == 202
        assert msgspec.json.decode((await stream.event())[1])["error"]["code"] == wire.PARSE_ERROR


async def test_a_message_needs_an_open_stream(http_client: OpenHttpClient):
    """404 for an unknown session and for one whose stream is closed."""
    async with http_client() as client:
        assert (await client.http.post("/messages/?session_id=x", content=b"{}")).status_code == 404
        assert (await client.http.post("/messages/", content=b"{}")).status_code == 404
        async with sse(client) as (_, place):
            assert (await client.http.post(place, json=message("ping", None, 1))).status_code == 202
        await _until(client, "/metrics", lambda text: 'reason="closed"} 1.0' in text)
        assert (await client.http.post(place, json=message("ping", None, 1))).status_code == 404


async def test_a_session_whose_stream_is_not_read_is_ended(http_client: OpenHttpClient):
    """When its queue is full it ends instead of growing."""
    async with http_client() as client:
        address = client.running.url.removeprefix("http://").split(":")
        deaf = await trio.open_tcp_stream(address[0], int(address[1]))
        async with deaf:
            await deaf.send_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = b""
            while b"endpoint" not in head or not head.endswith(b"\r\n"):
                head += bytes(await deaf.receive_some())
            place = head.partition(b"data: ")[2].split(b"\r\n")[0].decode()
            await client.http.post(place, json=message("initialize", HELLO, 1))
            for _ in range(2000):  # long answers, which fill the send buffers first
                response = await client.http.post(place, json=message("tools/list", None, 2))
                if response.status_code == 404:
                    break
            await _until(client, "/metrics", lambda text: 'reason="not reading"} 1.0' in text)


async def test_calls_over_the_old_transport_are_bounded(http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch):
    """They hold no connection, so the limit on connections doesn't bound them; other messages aren't limited."""
    monkeypatch.setattr("chora.protocol.session.CALLS_LIMIT", 0)
    async with http_client() as client, sse(client) as (stream, place):
        refused = await client.http.post(place, json=message("tools/call", {"name": "hello_world"}, 1))
        assert refused.status_code == 503
        assert (await client.http.post(place, json=message("initialize", HELLO, 2))).status_code == 202
        assert msgspec.json.decode((await stream.event())[1])["id"] == 2


async def test_the_old_transport_can_be_turned_off(http_client: OpenHttpClient):
    """Without `http.sse`, /sse is 404."""
    async with http_client(http__sse=False) as client:
        assert (await client.http.get("/sse")).status_code == 404


async def test_streams_end_properly_when_the_server_stops(http_client: OpenHttpClient):
    """Draining ends an open stream with its last chunk, well within the grace."""
    async with http_client(limits__grace=60.0) as client, sse(client) as (stream, _):
        client.running.http.stop()
        with trio.fail_after(PATIENCE), pytest.raises(StopAsyncIteration):
            await stream.event()


def _events(text: str) -> list[Any]:
    return [msgspec.json.decode(block.partition("data: ")[2]) for block in text.split("\r\n\r\n") if block]


async def _until(client: HttpTestClient, path: str, condition: Callable[[str], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition((await client.http.get(path)).text):
            await trio.sleep(0.02)


async def _until_counted(client: HttpTestClient, outcome: str) -> None:
    await _until(client, "/status.json", lambda text: msgspec.json.decode(text)["calls"].get(outcome) == 1)


# -- notifications and subscriptions ----------------------------------------------------------------------------


async def test_a_session_gets_notifications_on_its_stream(http_client: OpenHttpClient):
    """GET /mcp carries what the session subscribed to, also what happened while no stream was open."""
    async with http_client() as client:
        await client.initialize()
        subscribed = await client.ask("resources/subscribe", {"uri": "config://content/greeting"})
        assert subscribed.json()["result"] == {}
        server = client.running.server
        server.notify_resource_changed("config://content/greeting")
        headers = {"accept": "text/event-stream", "mcp-session-id": client.session}
        async with client.http.stream("GET", "/mcp", headers=headers) as response:
            stream = Stream(client, response.aiter_text())
            update = msgspec.json.decode((await stream.event())[1])
            assert update["method"] == "notifications/resources/updated"
            assert update["params"] == {"uri": "config://content/greeting"}
            server.notify_resource_changed("config://artifact/hello")
            server.notify_list_changed("resources")
            assert msgspec.json.decode((await stream.event())[1])["method"] == "notifications/resources/list_changed"


async def test_the_old_transport_gets_notifications_on_its_stream(http_client: OpenHttpClient):
    """They are sent between the responses."""
    async with http_client() as client, sse(client) as (stream, place):
        for body in (
            message("initialize", {**HELLO, "protocolVersion": "2024-11-05"}, 1),
            message("resources/subscribe", {"uri": "config://content/greeting"}, 2),
        ):
            await client.http.post(place, json=body)
            assert "result" in msgspec.json.decode((await stream.event())[1])
        client.running.server.notify_resource_changed("config://content/greeting")
        assert msgspec.json.decode((await stream.event())[1])["params"] == {"uri": "config://content/greeting"}


async def test_a_session_that_ended_gets_no_notifications(http_client: OpenHttpClient):
    """However it ends, the broadcaster drops its queue."""
    async with http_client() as client:
        server = client.running.server
        await client.initialize()
        async with sse(client):
            await _until(client, "/metrics", lambda text: 'chora_sessions{transport="sse"} 1.0' in text)
            assert not server.broadcaster.is_empty
        await client.http.delete("/mcp", headers={"mcp-session-id": client.session})
        with trio.fail_after(PATIENCE):
            while not server.broadcaster.is_empty:
                await trio.sleep(0.02)


async def test_a_stream_that_is_not_read_is_ended(http_client: OpenHttpClient):
    """The write times out and the connection is closed, instead of queueing without bound; the metrics count it."""
    async with http_client(limits__write_stall=0.3) as client:
        await client.initialize()
        uris = [f"config://content/{'x' * 200}-{number}" for number in range(900)]
        for uri in uris:
            await client.ask("resources/subscribe", {"uri": uri})
        address = client.running.url.removeprefix("http://").split(":")
        deaf = await trio.open_tcp_stream(address[0], int(address[1]))
        deaf.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        async with deaf:
            head = f"GET /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {client.session}\r\n"
            await deaf.send_all(head.encode() + b"Accept: text/event-stream\r\n\r\n")
            with trio.fail_after(PATIENCE):
                while True:
                    for uri in uris:
                        client.running.server.notify_resource_changed(uri)
                    await trio.sleep(0.01)
                    if client.running.http.statistics().aborted.get("write_stall"):
                        break
        assert (await client.ask("ping")).status_code == 200, "the session itself goes on"


@asynccontextmanager
async def listening(client: HttpTestClient, **filters: Any) -> AsyncGenerator[Stream]:
    """An open `subscriptions/listen`, acknowledged."""
    body = message("subscriptions/listen", {"notifications": filters, "_meta": MODERN}, "sub-1")
    headers = {"accept": BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"}
    async with client.http.stream("POST", "/mcp", json=body, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        stream = Stream(client, response.aiter_text())
        acknowledged = msgspec.json.decode((await stream.event())[1])
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        yield stream


async def test_a_modern_client_gets_what_it_subscribed_to(http_client: OpenHttpClient):
    """The response is the stream; closing it ends the subscription."""
    async with http_client() as client:
        server = client.running.server
        async with listening(client, resourceSubscriptions=["config://content/greeting"]) as stream:
            server.notify_list_changed("resources")
            server.notify_resource_changed("config://content/greeting")
            update = msgspec.json.decode((await stream.event())[1])
            assert update["params"]["uri"] == "config://content/greeting"
            assert update["params"]["_meta"] == {wire.SUBSCRIPTION_KEY: "sub-1"}
        with trio.fail_after(PATIENCE):
            while not server.broadcaster.is_empty:
                await trio.sleep(0.02)


async def test_the_open_subscriptions_of_a_principal_are_limited(http_client: OpenHttpClient):
    """They have no session, so they count for the principal that opened them; closing one makes room."""
    async with http_client() as client:
        async with AsyncExitStack() as stack:
            for _ in range(OPEN_SUBSCRIPTIONS_LIMIT):
                await stack.enter_async_context(listening(client, toolsListChanged=True))
            refused = await client.ask_modern("subscriptions/listen", {"notifications": {}})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, wire.INVALID_REQUEST)
            assert refused.json()["id"] == 1
        with trio.fail_after(PATIENCE):
            while not client.running.server.broadcaster.is_empty:
                await trio.sleep(0.02)
        async with listening(client, toolsListChanged=True):
            pass


async def test_a_subscription_is_answered_when_the_server_stops(http_client: OpenHttpClient):
    """The last event is its result, so the client knows that the stream didn't break."""
    async with http_client(limits__grace=60.0) as client, listening(client, resourcesListChanged=True) as stream:
        client.running.http.stop()
        with trio.fail_after(PATIENCE):
            last = msgspec.json.decode((await stream.event())[1])
            assert last["id"] == "sub-1"
            assert last["result"]["resultType"] == "complete"
            with pytest.raises(StopAsyncIteration):
                await stream.event()


async def test_a_silent_subscription_is_kept_open(http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch):
    """Comments between the events, so that no proxy times it out."""
    monkeypatch.setattr(event_streams, "PING_INTERVAL", 0.05)
    async with http_client() as client, listening(client, resourcesListChanged=True) as stream:
        assert ": ping" in await anext(stream.chunks)
        client.running.server.notify_list_changed("resources")
        assert "list_changed" in (await stream.event())[1]


async def test_a_subscription_needs_a_stream(http_client: OpenHttpClient):
    """A client that accepts only JSON gets an error that says what to accept."""
    async with http_client() as client:
        answer = await client.ask_modern("subscriptions/listen", {"notifications": {}}, accept="application/json")
        assert answer.status_code == 400
        assert "text/event-stream" in answer.json()["error"]["message"]


async def test_subscribers_are_notified_of_files_that_change_on_disk(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch
):
    """From the saved file to the client's stream."""
    monkeypatch.setattr("chora.watch.files.START_DELAY", 0.0)
    async with (
        http_client() as client,
        listening(client, resourceSubscriptions=["template://greeting.md.j2"]) as stream,
    ):
        with trio.fail_after(PATIENCE):
            updates = list[str]()

            async def receive_update() -> None:
                updates.append((await stream.event())[1])
                writing.cancel_scope.cancel()

            async with trio.open_nursery() as writing:
                writing.start_soon(receive_update)
                number = 0
                while True:  # changes before the watch is set up aren't seen
                    hello.write("configs/templates/greeting.md.j2", f"# {(number := number + 1)}")
                    await trio.sleep(0.2)
        assert msgspec.json.decode(updates[0])["params"]["uri"] == "template://greeting.md.j2"


# -- streams that break -----------------------------------------------------------------------------------------


def events(body: str) -> list[dict[str, str]]:
    """The events of a stream, each by its fields."""
    blocks = [block for block in body.split("\r\n\r\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\r\n")) for block in blocks]


@requirement("server.resume")
async def test_a_stream_is_resumed_after_its_connection_broke(http_client: OpenHttpClient, hello: Project):
    """The call goes on without its client, which gets the rest with `Last-Event-ID`, more than once if need be."""
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    async with http_client() as client:
        await client.initialize()
        params = {
            "name": "batch_generate",
            "arguments": {"content_ids": ["greeting", "slow"]},
            "_meta": {"progressToken": "t"},
        }
        sent = {"content-type": "application/json", "accept": BOTH, "mcp-session-id": client.session}
        body = msgspec.json.encode(message("tools/call", params, 7))
        with trio.fail_after(PATIENCE):
            async with client.http.stream("POST", "/mcp", content=body, headers=sent) as response:
                assert response.headers["content-type"] == "text/event-stream"
                seen = ""
                async for piece in response.aiter_text():
                    seen += piece
                    if "progress" in seen:
                        break
            first, *_ = events(seen.rpartition("\r\n\r\n")[0] + "\r\n\r\n")
            assert first["data"] == ""
            assert first["retry"] == "1000"
            assert "event" not in first
            back = {"accept": BOTH, "mcp-session-id": client.session, "last-event-id": first["id"]}
            rest = await client.http.get("/mcp", headers=back)
            again = await client.http.get("/mcp", headers=back)
        assert rest.status_code == 200
        last = msgspec.json.decode(events(rest.text)[-1]["data"])
        assert last["id"] == 7
        assert last["result"]["structuredContent"]["success"] is True
        assert again.text == rest.text, "an answer can be fetched again for a while"
        numbers = [int(each["id"].partition(".")[2]) for each in events(rest.text)]
        assert numbers == list(range(2, 2 + len(numbers)))


@pytest.mark.parametrize("end", ["stop", "expire"])
async def test_a_resumed_stream_ends_as_the_original_would(http_client: OpenHttpClient, hello: Project, end: str):
    """A stopping server finishes the call within the grace; an expired token closes the stream."""
    template = SLOW if end == "stop" else ENDLESS
    hello.save(content("slow", pattern={"type": "jinja2", "template": template}))
    async with http_client() as client, trio.open_nursery() as nursery:
        await client.initialize()
        application: Any = client.running.http.app
        session = application.sessions._sessions[client.session]
        params = {"name": "batch_generate", "arguments": {"content_ids": ["greeting", "slow"]}}
        nursery.start_soon(client.ask, "tools/call", {**params, "_meta": {"progressToken": "t"}}, 7)
        while session.streams.find_event("1.1") is None:
            await trio.sleep(0.01)
        back = {"accept": BOTH, "mcp-session-id": client.session, "last-event-id": "1.1"}
        async with client.http.stream("GET", "/mcp", headers=back) as response:
            assert response.status_code == 200
            if end == "stop":
                client.running.http.stop()
            else:
                session.close_streams()
            seen = "".join([piece async for piece in response.aiter_text()])
        assert ('"id":7' in seen) is (end == "stop")
        nursery.cancel_scope.cancel()


async def test_older_revisions_get_no_empty_event(http_client: OpenHttpClient, hello: Project):
    """Clients before 2025-11-25 don't expect an event without data."""
    async with http_client() as client:
        hello_ = {**HELLO, "protocolVersion": "2025-06-18"}
        client.session = (await client.ask("initialize", hello_)).headers["mcp-session-id"]
        answer = await client.call("batch_generate", {"progressToken": 1}, content_ids=["greeting"])
        assert all(each["data"] for each in events(answer.text))


async def test_an_initialize_without_an_id_opens_no_session(http_client: OpenHttpClient):
    """Without an id it is a notification."""
    async with http_client() as client:
        response = await client.post({"jsonrpc": "2.0", "method": "initialize", "params": HELLO})
        assert (response.status_code, response.content) == (202, b"")
        assert "mcp-session-id" not in response.headers
        assert (await client.ask("initialize", HELLO)).status_code == 200


async def test_the_end_of_a_session_clears_its_replay_buffer(http_client: OpenHttpClient):
    """Its streams can't be resumed any more."""
    async with http_client() as client:
        await client.initialize()
        application: Any = client.running.http.app
        await client.call("batch_generate", {"progressToken": 1}, content_ids=["greeting"])
        assert application.sessions.replay_buffer.size > 0
        await client.http.delete("/mcp", headers={"mcp-session-id": client.session})
        assert application.sessions.replay_buffer.size == 0


async def test_a_refusal_for_want_of_room_says_when_to_come_again():
    """RFC 9110 §15.6.4."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await send_busy(send, b"{}")
    start, body = sent
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert body["body"] == b"{}"


@requirement("server.calls-in-flight")
async def test_a_session_has_a_limited_number_of_calls_in_flight(
    http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch
):
    """Another one is told to come again; whatever takes no time is answered all the same."""
    monkeypatch.setattr("chora.protocol.session.CALLS_LIMIT", 0)
    async with http_client() as client:
        await client.initialize()
        answer = await client.call("batch_generate", {"progressToken": 1}, content_ids=["greeting"])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "calls of this session" in answer.json()["error"]["message"]
        assert (await client.ask("ping")).status_code == 200


async def test_a_session_with_a_call_in_flight_is_evicted_last(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch
):
    """It isn't idle, however long ago its last request came."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    hello.save(content("endless", pattern={"type": "jinja2", "template": ENDLESS}))
    async with http_client(limits__sessions=2) as client, trio.open_nursery() as nursery:
        await client.initialize()
        application: Any = client.running.http.app
        nursery.start_soon(partial(client.call, "generate_content", content_config_id="endless"))
        while not application.sessions._sessions[client.session].in_flight:
            await trio.sleep(0.01)
        for _ in range(3):
            assert (await client.ask("initialize", HELLO, mcp_session_id="")).status_code == 200
        assert client.session in application.sessions._sessions
        limits = application.sessions._limits
        application.sessions._limits = msgspec.structs.replace(limits, idle=0.1)
        await _until(client, "/metrics", lambda text: 'reason="idle"} 1.0' in text)
        assert client.session in application.sessions._sessions
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        assert (await client.post(note)).status_code == 202


@pytest.mark.parametrize("last", ["9.1", "nonsense", "1", "-1.0", "", "1.999"])
async def test_an_unknown_last_event_id_is_refused(http_client: OpenHttpClient, last: str):
    """With an error at once; otherwise the client would wait for events that never come."""
    async with http_client() as client:
        await client.initialize()
        sent = {"accept": BOTH, "mcp-session-id": client.session, "last-event-id": last}
        response = await client.http.get("/mcp", headers=sent)
        assert response.status_code == 400
        assert "Make the request again" in response.text


async def test_streams_belong_to_their_session(http_client: OpenHttpClient):
    """A session can't resume another session's stream."""
    async with http_client() as client:
        await client.initialize()
        answer = await client.call("batch_generate", {"progressToken": 1}, content_ids=["greeting"])
        last = events(answer.text)[0]["id"]
        client.session = ""
        await client.initialize()
        sent = {"accept": BOTH, "mcp-session-id": client.session, "last-event-id": last}
        assert (await client.http.get("/mcp", headers=sent)).status_code == 400


async def test_the_stream_of_a_session_is_resumed(http_client: OpenHttpClient, hello: Project):
    """Notifications that were lost with the connection are sent again, and new ones follow."""
    async with http_client() as client:
        await client.initialize()
        server = client.running.server
        sent = {"accept": BOTH, "mcp-session-id": client.session}
        with trio.fail_after(PATIENCE):
            async with client.http.stream("GET", "/mcp", headers=sent) as stream:
                pieces = stream.aiter_text()
                assert (await anext(pieces)).startswith(": chora")
                server.notify_list_changed("tools")
                (first,) = events(await anext(pieces))
                server.notify_list_changed("prompts")
                (second,) = events(await anext(pieces))
            sent["last-event-id"] = first["id"]
            async with client.http.stream("GET", "/mcp", headers=sent) as stream:
                pieces = stream.aiter_text()
                assert events(await anext(pieces)) == [second]
                server.notify_list_changed("resources")
                (third,) = events(await anext(pieces))
        assert "resources" in third["data"]
        assert int(third["id"].partition(".")[2]) == 3


async def test_the_end_of_a_session_ends_its_streams(http_client: OpenHttpClient):
    """DELETE closes them."""
    async with http_client() as client:
        await client.initialize()
        sent = {"accept": BOTH, "mcp-session-id": client.session}
        with trio.fail_after(PATIENCE):
            async with client.http.stream("GET", "/mcp", headers=sent) as stream:
                pieces = stream.aiter_text()
                await anext(pieces)
                assert (await client.http.delete("/mcp", headers=sent)).status_code == 204
                assert [piece async for piece in pieces] == []


async def test_a_request_to_the_client_is_sent_on_the_stream_of_its_call(http_client: OpenHttpClient, hello: Project):
    """The client posts its response."""
    hello.save(content("note", pattern={"type": "jinja2", "template": "old"}))
    async with http_client() as client:
        able = {**HELLO, "capabilities": {"elicitation": {}}}
        client.session = (await client.ask("initialize", able)).headers["mcp-session-id"]
        document = content("note", pattern={"type": "jinja2", "template": "new"})
        drafted = await client.call("draft_config", config_type="content", config_data=document)
        draft_id = drafted.json()["result"]["structuredContent"]["draft_id"]
        params = {"name": "save_config", "arguments": {"draft_id": draft_id, "config_id": "note"}}
        sent = {"content-type": "application/json", "accept": BOTH, "mcp-session-id": client.session}
        body = msgspec.json.encode(message("tools/call", params, 7))
        seen = ""
        with trio.fail_after(PATIENCE):
            async with client.http.stream("POST", "/mcp", content=body, headers=sent) as response:
                async for piece in response.aiter_text():
                    seen += piece
                    if "elicitation/create" in piece:
                        question = msgspec.json.decode(events(seen)[-1]["data"])
                        yes = {"action": "accept", "content": {"confirm": True}}
                        accepted = await client.post({"jsonrpc": "2.0", "id": question["id"], "result": yes})
                        assert accepted.status_code == 202
        answer = msgspec.json.decode(events(seen)[-1]["data"])
        assert answer["result"]["structuredContent"]["success"] is True
        assert "new" in hello.read("configs/content/note.json")


@requirement("server.sessions")
async def test_the_principal_with_the_most_sessions_loses_one(http_client: OpenHttpClient):
    """So that no principal can evict all sessions of others or hold more than its share."""
    async with http_client(limits__sessions=6, limits__sessions_each=4) as client:
        application: Any = client.running.http.app
        names = ["ann"] + ["bob"] * 4 + ["cy"]
        opened = [HttpSession("http", Principal(name), float(number)) for number, name in enumerate(names)]
        for session in opened:
            application.sessions.add_session(session)
        application.sessions.add_session(HttpSession("http", Principal("ann"), 9.0))
        known = application.sessions._sessions
        assert [each.id in known for each in opened] == [True, False, True, True, True, True]
        for number in range(4):
            application.sessions.add_session(HttpSession("http", Principal("cy"), 10.0 + number))
        counts = [sum(each.principal.name == name for each in known.values()) for name in ("ann", "bob", "cy")]
        assert counts[2] <= 4
        assert sum(counts) <= 6
        assert counts[0] == 2


@requirement("server.sessions")
async def test_one_more_session_than_a_principal_may_have_ends_the_oldest(http_client: OpenHttpClient):
    """As many as the limit stay open; those of others, and room for more, make no difference."""
    async with http_client(limits__sessions=10, limits__sessions_each=2) as client:
        sessions = client.running.http.app.sessions  # pyright: ignore
        other, *own = [
            HttpSession("http", Principal(name), float(age)) for age, name in enumerate(("ann", *["bob"] * 3))
        ]
        still_open: list[list[bool]] = []
        for session in (other, *own):
            sessions.add_session(session)
            still_open.append([sessions.is_open(each) for each in (other, *own)])
        assert still_open[2] == [True, True, True, False]
        assert still_open[3] == [True, False, True, True]


# -- tokens and proxies -----------------------------------------------------------------------------------------


@requirement("server.scopes")
async def test_a_token_is_limited_to_its_scope(http_client: OpenHttpClient, hello: Project):
    """read, write and admin; a call beyond the scope is a tool error that a model understands."""
    tokens = Tokens(tokens_folder(hello.root))
    headers = {
        scope: {"authorization": f"Bearer {tokens.create_token(f'app-{scope}', scope)[0].reveal()}"} for scope in SCOPES
    }
    asked = {"hello_world": {}, "draft_config": {"config_type": "content"}, "delete_content": {"content_id": "x"}}
    async with http_client() as client:
        assert (await client.ask_modern("tools/list")).status_code == 401
        allowed: dict[str, list[str]] = {scope: [] for scope in SCOPES}
        for scope, sent in headers.items():
            for tool, arguments in asked.items():
                answer = await client.ask_modern("tools/call", {"name": tool, "arguments": arguments}, **sent)
                error = answer.json()["result"]["structuredContent"].get("error", {})
                if error.get("code") != "forbidden":
                    allowed[scope].append(tool)
                else:
                    assert "Use a token with the scope" in error["hint"]
        assert allowed == {scope: list(asked)[: number + 1] for number, scope in enumerate(SCOPES)}


@requirement("server.revoked")
async def test_a_revoked_token_loses_its_sessions(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch
):
    """Its open streams are closed soon too."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    tokens = Tokens(tokens_folder(hello.root))
    secret, _ = tokens.create_token("app", "read")
    async with http_client() as client:
        client.http.headers["authorization"] = f"Bearer {secret.reveal()}"
        await client.initialize()
        sent = {"accept": BOTH, "mcp-session-id": client.session}
        with trio.fail_after(PATIENCE):
            async with client.http.stream("GET", "/mcp", headers=sent) as stream:
                pieces = stream.aiter_text()
                await anext(pieces)
                tokens.revoke_token("app")
                assert [piece async for piece in pieces if not piece.startswith(":")] == []
        assert (await client.ask("ping")).status_code == 401


@requirement("server.revoked")
@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_a_revoked_token_loses_its_calls(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch, era: str
):
    """The work stops, and the request is refused."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    tokens = Tokens(tokens_folder(hello.root))
    secret, _ = tokens.create_token("app", "write")
    tokens.create_token("other", "read")
    statuses: list[int] = []
    began, stopped = trio.Event(), trio.Event()

    async def work_forever(name: str, arguments: Any, call: Call) -> Any:
        if call.principal.name != "app":  # the probe calls too
            return await call_tool(name, arguments, call)
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()

    async def wait(client: HttpTestClient) -> None:
        ask = client.ask_modern if era == "modern" else client.ask
        statuses.append((await ask("tools/call", {"name": "hello_world", "arguments": {}})).status_code)

    async with http_client() as client:
        client.http.headers["authorization"] = f"Bearer {secret.reveal()}"
        if era == "handshake":
            await client.initialize()
        provider: Any = client.running.server._provider
        call_tool = provider.call_tool
        provider.call_tool = work_forever
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, client)
                await began.wait()
                tokens.revoke_token("app")
            await stopped.wait()
        assert statuses == [401]


@requirement("server.revoked")
async def test_an_answer_is_not_delivered_to_a_token_that_was_revoked_meanwhile(
    http_client: OpenHttpClient, hello: Project
):
    """Also when the work is done before the revocation is noticed."""
    tokens = Tokens(tokens_folder(hello.root))
    secret, _ = tokens.create_token("app", "write")
    async with http_client() as client:
        client.http.headers["authorization"] = f"Bearer {secret.reveal()}"
        provider: Any = client.running.server._provider
        call_tool = provider.call_tool

        async def revoke_and_call(name: str, arguments: Any, call: Call) -> Any:
            if call.principal.name == "app":
                tokens.revoke_token("app")
            return await call_tool(name, arguments, call)

        provider.call_tool = revoke_and_call
        response = await client.ask_modern("tools/call", {"name": "hello_world", "arguments": {"name": "Ada"}})
        assert (response.status_code, "Ada" in response.text) == (401, False)


@requirement("server.revoked")
async def test_the_old_transport_delivers_no_answer_to_a_revoked_token_either(
    http_client: OpenHttpClient, hello: Project
):
    """Its stream is closed by the next sweep; until then nothing comes on it."""
    tokens = Tokens(tokens_folder(hello.root))
    secret, _ = tokens.create_token("app", "write")
    async with http_client() as client:
        client.http.headers["authorization"] = f"Bearer {secret.reveal()}"
        async with sse(client) as (stream, place):
            opening = message("initialize", {**HELLO, "protocolVersion": "2024-11-05"}, 1)
            assert (await client.http.post(place, json=opening)).status_code == 202
            assert "protocolVersion" in (await stream.event())[1]
            provider: Any = client.running.server._provider
            called = trio.Event()
            call_tool = provider.call_tool

            async def revoke_and_call(name: str, arguments: Any, call: Call) -> Any:
                answer = await call_tool(name, arguments, call)
                if call.principal.name == "app":
                    tokens.revoke_token("app")
                    called.set()
                return answer

            provider.call_tool = revoke_and_call
            call = message("tools/call", {"name": "hello_world", "arguments": {"name": "Ada"}}, 2)
            assert (await client.http.post(place, json=call)).status_code == 202
            application: Any = client.running.http.app
            (session,) = application.sessions._sessions.values()
            with trio.fail_after(PATIENCE):
                await called.wait()
                while session.in_flight:
                    await trio.sleep(0.01)
                application.sessions._sweep()
                with pytest.raises(StopAsyncIteration):
                    await stream.event()


@pytest.mark.parametrize("name", [header.decode() for header in SINGLE_HEADERS])
@requirement("server.single-headers")
async def test_a_header_that_may_stand_once_is_refused_twice(http_client: OpenHttpClient, name: str):
    """A proxy might check the one, and the server take the other."""
    async with http_client() as client:
        await client.initialize()
        value = {"mcp-session-id": client.session, "origin": "http://localhost", "mcp-protocol-version": "2025-11-25"}
        twice = [("content-type", "application/json"), *[(name, value.get(name, "Bearer x"))] * 2]
        body = msgspec.json.encode(message("ping", None, 1))
        for path in ("/mcp", "/sse", "/status.json"):
            response = await client.http.request("POST" if path == "/mcp" else "GET", path, headers=twice, content=body)
            assert response.status_code == 400
            assert f"The header {name} stands more than once." in response.text


@pytest.mark.parametrize("given", ["made-up", "an ended one"])
async def test_initialize_opens_a_session_whatever_session_id_it_bears(http_client: OpenHttpClient, given: str):
    """Some clients keep the header of a session that has ended; everything else gets 404."""
    async with http_client() as client:
        await client.initialize()
        stale = client.session if given == "an ended one" else given
        if given == "an ended one":
            await client.http.delete("/mcp", headers={"mcp-session-id": stale})
        assert (await client.ask("ping", mcp_session_id=stale)).status_code == 404
        response = await client.ask("initialize", HELLO, mcp_session_id=stale)
        assert response.status_code == 200
        assert response.headers["mcp-session-id"] not in ("", stale)


async def test_a_session_with_an_open_stream_is_in_use(http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch):
    """It doesn't expire, and isn't evicted before one that is idle; both once its stream has ended."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    async with http_client(limits__sessions=2) as client:
        application: Any = client.running.http.app
        known = application.sessions._sessions
        await client.initialize()
        first = client.session
        session = known[first]
        sent = {"accept": BOTH, "mcp-session-id": first}
        with trio.fail_after(PATIENCE):
            async with client.http.stream("GET", "/mcp", headers=sent) as stream:
                received = stream.aiter_text()  # when it is collected as garbage, it closes the stream
                await anext(received)
                for _ in range(3):
                    assert (await client.ask("initialize", HELLO, mcp_session_id="")).status_code == 200
                assert first in known
                limits = application.sessions._limits
                application.sessions._limits = msgspec.structs.replace(limits, idle=0.1)
                while len(known) > 1:
                    await trio.sleep(0.01)
                assert list(known) == [first]
                closing = trio.current_time()
            while known:
                await trio.sleep(0.01)
            assert session.last_used >= closing, "it is idle only since then"


async def test_a_revoked_token_loses_its_subscriptions(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch
):
    """Those of the modern era belong to no session, and end all the same; those of other tokens go on."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    tokens = Tokens(tokens_folder(hello.root))
    secret, _ = tokens.create_token("app", "read")
    other, _ = tokens.create_token("other", "read")
    async with http_client() as client:
        client.http.headers["authorization"] = f"Bearer {other.reveal()}"
        async with listening(client, toolsListChanged=True) as stays:
            client.http.headers["authorization"] = f"Bearer {secret.reveal()}"
            async with listening(client, toolsListChanged=True) as goes:
                tokens.revoke_token("app")
                with trio.fail_after(PATIENCE):
                    assert msgspec.json.decode((await goes.event())[1])["result"]["resultType"] == "complete"
            client.running.server.notify_list_changed("tools")
            assert "tools/list_changed" in (await stays.event())[1]


PROXIED = {"x-forwarded-for": "203.0.113.9"}


@pytest.mark.parametrize(
    ("proxies", "headers", "status"),
    [
        ((), {}, 200),
        ((), PROXIED, 401),
        ((), {"forwarded": "for=127.0.0.1"}, 401),
        ((), {"x-forwarded-for": "127.0.0.1"}, 401),
        ((), {"x-real-ip": "127.0.0.1"}, 401),
        (("10.0.0.0/8",), {"x-forwarded-for": "127.0.0.1"}, 401),
        (("127.0.0.1",), PROXIED, 401),
        (("127.0.0.1",), {"x-forwarded-for": "127.0.0.2"}, 200),
        (("127.0.0.1",), {"x-forwarded-for": "127.0.0.2, 203.0.113.9"}, 401),
        (("127.0.0.1",), {"forwarded": "for=127.0.0.1"}, 401),
        (("127.0.0.1",), {"x-forwarded-host": "docs.example", "x-forwarded-for": "127.0.0.2"}, 200),
        (("127.0.0.1",), {"x-forwarded-host": "evil.example", "x-forwarded-for": "127.0.0.2"}, 403),
        (("127.0.0.1",), {"x-forwarded-host": "docs.example, evil.example", "x-forwarded-for": "127.0.0.2"}, 403),
        ((), {"x-forwarded-host": "docs.example"}, 401),
    ],
)
@requirement("server.proxies")
async def test_a_server_without_tokens_refuses_requests_through_a_proxy(
    http_client: OpenHttpClient, proxies: tuple[str, ...], headers: dict[str, str], status: int
):
    """A client behind a proxy isn't on this machine, unless a trusted proxy says so."""
    async with http_client(http__trusted_proxies=proxies, http__allowed_hosts=("docs.example",)) as client:
        assert (await client.ask_modern("server/discover", **headers)).status_code == status
        pages = await client.http.get("/status.json", headers=headers)
        assert pages.status_code == status
        alive = await client.http.get("/health", headers=headers)
        assert alive.status_code == (403 if status == 403 else 200)


PROXY_HEADERS = (
    *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"),
    *("x-forwarded-server", "x-original-forwarded-for", "x-real-ip", "x-client-ip", "x-cluster-client-ip"),
    *("true-client-ip", "cf-connecting-ip", "fastly-client-ip", "fly-client-ip", "x-envoy-external-address"),
)


@requirement("server.proxies")
async def test_a_request_with_any_header_of_a_proxy_is_not_local(http_client: OpenHttpClient):
    """Proxies and networks name the client, or themselves, in many ways."""
    async with http_client() as client:
        for name in PROXY_HEADERS:
            headers = {name: "127.0.0.1"}
            assert (await client.ask_modern("server/discover", **headers)).status_code == 401, name
            assert (await client.http.get("/status.json", headers=headers)).status_code == 401, name
    assert set(PROXY_HEADERS) == {name.decode() for name in FORWARDED}


@requirement("server.proxies")
@pytest.mark.parametrize(("version", "status"), [("1.0", 401), ("1.1", 200)])
async def test_a_request_of_http_1_0_is_not_local(http_client: OpenHttpClient, version: str, status: int):
    """nginx passes requests on as HTTP/1.0, and by default with no header that says so."""
    async with http_client() as client:
        port = int(client.running.url.rpartition(":")[2])
        head = f"GET /status.json HTTP/{version}\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(head.encode())
                answer = b"".join([part async for part in stream])
        assert int(answer.split()[1]) == status


async def test_a_token_is_valid_through_any_proxy(http_client: OpenHttpClient, hello: Project):
    """It identifies its principal without the address."""
    secret, _ = Tokens(tokens_folder(hello.root)).create_token("app", "read")
    async with http_client() as client:
        sent = {**PROXIED, "authorization": f"Bearer {secret.reveal()}"}
        assert (await client.ask_modern("server/discover", **sent)).status_code == 200


# -- disabled tools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "listed", "withheld"),
    [
        ({"mcp__read_only": True}, "hello_world", "draft_config"),
        ({"mcp__toolsets": ("discovery", "core-generation")}, "list_generators", "delete_content"),
        ({"mcp__toolsets": ("storage",), "mcp__read_only": True}, "hello_world", "delete_content"),
        ({}, "list_content_configs", "get_config"),
        ({"mcp__toolsets": ("reading",)}, "get_text", "list_content"),
        ({"mcp__toolsets": ("default", "discovery")}, "generate_content", "list_collections"),
    ],
)
@requirement("server.toolsets")
async def test_disabled_tools_are_neither_listed_nor_called(
    http_client: OpenHttpClient, settings: dict[str, Any], listed: str, withheld: str
):
    """A call to one fails with the reason, instead of as an unknown tool."""
    async with http_client(**settings) as client:
        tools = [each["name"] for each in (await client.ask_modern("tools/list")).json()["result"]["tools"]]
        assert listed in tools
        assert withheld not in tools
        for name in (withheld, f"choracompose:{withheld}"):
            answer = await client.ask_modern("tools/call", {"name": name, "arguments": {}})
            error = answer.json()["result"]["structuredContent"]["error"]
            assert error["code"] == "forbidden"
            assert "mcp." in error["message"]
        unknown = await client.ask_modern("tools/call", {"name": "nothing", "arguments": {}})
        assert unknown.json()["error"]["code"] == wire.INVALID_PARAMS


# -- what is held for clients ----------------------------------------------------------------------------------------


def hold_back(client: HttpTestClient, bytes_each: int, count: int, nursery: trio.Nursery, **headers: str) -> None:
    """Send bodies that lack their end."""

    async def send() -> None:
        address = client.running.url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(address[0], int(address[1]))
        lines = ["POST /mcp HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        lines += [f"Content-Length: {bytes_each + 1}", *(f"{name}: {value}" for name, value in headers.items())]
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + b" " * bytes_each)
            await trio.sleep_forever()

    for _ in range(count):
        nursery.start_soon(send)


@requirement("server.memory")
async def test_one_principal_cannot_take_the_room_of_another(http_client: OpenHttpClient, hello: Project):
    """A client that has its share is told to come again later, in words and in seconds; the others notice nothing."""
    tokens = Tokens(tokens_folder(hello.root))
    greedy, modest = (
        {"authorization": f"Bearer {tokens.create_token(name, 'write')[0].reveal()}"} for name in ("greedy", "modest")
    )
    async with http_client(limits__memory=8 * MIB, limits__body=MIB, limits__body_time=600.0) as client:
        memory = client.running.server.memory
        async with trio.open_nursery() as nursery:
            hold_back(client, 900_000, 4, nursery, **greedy)
            await _eventually(lambda: memory.held.get("greedy") == 4 * 900_000)
            body = b" " * MIB
            refused = await client.post(body, **greedy)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "as much for its clients as it may" in refused.json()["error"]["message"]
            large = {"name": "hello_world", "arguments": {"name": "x" * 500_000}}
            assert (await client.ask_modern("tools/call", large, **modest)).status_code == 200
            made = {"name": "generate_content", "arguments": {"content_config_id": "greeting"}}
            answer = await client.ask_modern("tools/call", made, **modest)
            assert answer.json()["result"]["structuredContent"]["success"] is True
            nursery.cancel_scope.cancel()
        await _eventually(lambda: "greedy" not in memory.held)
        assert (await client.ask_modern("tools/call", made, **greedy)).status_code == 200


@requirement("server.memory.given-back")
async def test_nothing_is_held_once_the_clients_are_gone(http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch):
    """However their requests ended: answered, refused, cut, cancelled, resumed, or never sent in whole."""
    async with http_client(limits__body=MIB, limits__memory=16 * MIB) as client:
        memory = client.running.server.memory
        sent = {"accept": BOTH, "content-type": "application/json"}
        batch = message("tools/call", {"name": "batch_generate", "arguments": {"content_ids": ["greeting"]}}, 1)
        batch["params"]["_meta"] = {"progressToken": 1}
        await client.initialize()
        sent["mcp-session-id"] = client.session
        async with trio.open_nursery() as nursery:
            hold_back(client, 500_000, 40, nursery)
            for _ in range(20):
                await client.ask("ping")
                await client.post(b"{" * 500_000)
                await client.call("hello_world", name="x" * 100_000)
                await client.call("batch_generate", {"progressToken": 1}, content_ids=["greeting"])
                await client.ask_modern("tools/call", {"name": "hello_world", "arguments": {}})
                with trio.move_on_after(0.01):
                    await client.call("generate_content", content_config_id="greeting", force=True)
                with trio.move_on_after(0.02):
                    async with client.http.stream("POST", "/mcp", json=batch, headers=sent) as response:
                        await anext(response.aiter_bytes())
            async with listening(client, toolsListChanged=True), sse(client) as (_, place):
                for id in range(20):
                    await client.http.post(place, json=message("tools/call", {"name": "hello_world"}, id))
            nursery.cancel_scope.cancel()
        await _eventually(lambda: memory.held == {})


@requirement("server.memory")
async def test_the_pages_keep_no_body(http_client: OpenHttpClient):
    """They want none, so what is sent with a request for one is dropped as it arrives."""
    async with http_client() as client:
        pages: list[Any] = []
        application: Any = client.running.http.app
        answer = application._pages

        async def note(scope: Any, receive: Any, send: Any) -> None:
            pages.append(await receive())
            await answer(scope, receive, send)

        application._pages = note
        for path in ("/health", "/", "/nowhere"):
            response = await client.http.request("GET", path, content=b"x" * 1_000_000)
            assert response.status_code == (404 if path == "/nowhere" else 200)
        assert [page["body"] for page in pages] == [b""] * 3
        assert (await client.http.get("/health")).status_code == 200


@requirement("server.answers")
async def test_an_answer_that_is_too_large_is_an_error(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch
):
    """Of a tool or a resource; where the call changed something, the error says that it was carried out."""
    monkeypatch.setattr(tool, "HEAD_LIMIT", 1024 * 1024)
    many = [text(f"note-{number}", "x" * 200_000) for number in range(3)]
    hello.save(*many)
    async with http_client(limits__answer=256 * 1024) as client:
        await client.initialize()
        ids = [each["id"] for each in many]
        made = (await client.call("batch_generate", content_ids=ids)).json()["result"]["structuredContent"]
        assert made["success"] is True
        for name, carried_out in (("preview_generation", False), ("generate_content", True)):
            hello.save(text("long", "y" * 262_100))
            result = (await client.call(name, content_config_id="long")).json()["result"]
            error = result["structuredContent"]["error"]
            assert result["isError"] is True
            assert (error["code"], error["details"]) == ("limit_exceeded", {"limit": "limits.answer"})
            assert error["message"].startswith(f"The answer of {name} has 262,")
            assert error["message"].endswith("The call was carried out.") == carried_out
        error = (await client.ask("resources/read", {"uri": "content://long"})).json()["error"]
        assert (error["data"]["code"], error["data"]["limit"]) == ("limit_exceeded", "limits.answer")


@requirement("server.memory")
async def test_an_answer_that_there_is_no_room_for_is_lost_in_words(
    http_client: OpenHttpClient, hello: Project, monkeypatch: pytest.MonkeyPatch
):
    """The call was carried out, and the error says so."""
    monkeypatch.setattr(tool, "HEAD_LIMIT", 1024 * 1024)
    hello.save(text("long", "y" * 200_000))
    async with http_client(limits__body=1024, limits__memory=8 * 1024 * 64) as client:
        answer = await client.ask_modern(
            "tools/call", {"name": "generate_content", "arguments": {"content_config_id": "long"}}
        )
        assert (answer.status_code, answer.json()["id"]) == (200, 1)
        assert answer.json()["error"]["data"]["code"] == "limit_exceeded"
        assert answer.json()["error"]["message"].endswith("The call was carried out, but its answer is lost.")
        assert client.running.engine.store.latest_version("long") is not None


async def _eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.02)
