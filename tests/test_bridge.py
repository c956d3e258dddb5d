"""The bridge: messages pass through unchanged in both directions, and it survives a server that fails."""

import contextlib
import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
import trustme

from chora import bridge, settings
from chora.bridge import messages, parameter_headers, sse, streamable
from chora.bridge.messages import Backoff, CallFailure, ConnectionLost, UpstreamUnreachable
from chora.bridge.parameter_headers import find_parameter_headers
from chora.bridge.upstream import Upstream
from chora.fetch import ConnectFailed, ConnectionBroken, parse_address
from chora.protocol import wire
from chora.secrets import FoundSecret, Secret
from chora.transport.pipes import LineReader, Pipes, PolledPipe
from tests.conftest import Project, Serve, requirement
from tests.patience import PATIENCE
from tests.upstream import END, STREAM, Answer, FakeUpstream, ReceivedRequest, chunk, event, http, playing

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
OFFER: dict[str, Any] = {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}}
MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}
UPDATED = "notifications/resources/updated"


class BridgeClient:
    """A stdio client of the bridge."""

    process: trio.Process
    """The bridge, when it runs in a process of its own."""

    def __init__(self, sink: trio.abc.SendStream, source: trio.abc.ReceiveStream) -> None:
        self.sink = sink
        self._lines = LineReader(source, 100_000_000)

    async def write(self, *lines: bytes) -> None:
        await self.sink.send_all(b"".join(line + b"\n" for line in lines))

    async def send(self, method: str, params: Any = None, id: Any = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if id is not None:
            message["id"] = id
        await self.write(msgspec.json.encode(message if params is None else {**message, "params": params}))

    async def read_line(self) -> bytes | None:
        return await self._lines.receive_line()

    async def read(self) -> Any:
        line = await self.read_line()
        return None if line is None else msgspec.json.decode(line)

    async def ask(self, method: str, params: Any = None, id: Any = 1) -> Any:
        """Send a request and return the next message."""
        await self.send(method, params, id)
        return await self.read()

    async def ask_modern(self, method: str, params: Any = None, id: Any = 1) -> Any:
        return await self.ask(method, {**(params or {}), "_meta": MODERN}, id)

    async def initialize(self) -> Any:
        answer = await self.ask("initialize", HELLO, "hello")
        assert "result" in answer, answer
        await self.send("notifications/initialized")
        return answer

    async def read_rest(self) -> list[Any]:
        """Close our end and return the messages that still come."""
        await self.sink.aclose()
        found: list[Any] = []
        while (message := await self.read()) is not None:
            found.append(message)
        return found


@asynccontextmanager
async def bridged(url: str, **options: Any) -> AsyncGenerator[BridgeClient]:
    """A client of a bridge that runs in this process."""
    incoming, to_bridge = os.pipe()
    from_bridge, outgoing = os.pipe()
    settings: dict[str, Any] = {
        "token": lambda _: None,
        "startup_time": 5.0,
        "retry_time": 1.0,
        "grace": 1.0,
        **options,
    }
    given, failure = bridge.BridgeOptions(parse_address(url), **settings), None
    async with PolledPipe(to_bridge) as sink, PolledPipe(from_bridge) as source:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bridge.run_bridge, given, Pipes(incoming, outgoing))
                try:
                    yield BridgeClient(sink, source)
                except Exception as error:
                    failure = error
                await sink.aclose()
                await source.aclose()
    if failure is not None:
        raise failure


class Server:
    """A fake server of the handshake era with sessions."""

    def __init__(self, version: str = "2025-11-25", capabilities: Any = None, *, streams: bool = False) -> None:
        self.sessions: set[str] = set()
        self.count = 0
        self.version = version
        self.capabilities = OFFER if capabilities is None else capabilities
        self.streams = streams
        self.gone = http(b"gone", "404 Not Found", "text/plain")
        self.answers: dict[str, Any] = {}
        """Method → the answer to it, instead of the usual one."""
        self.streaming: list[trio.abc.Stream] = []

    def __call__(self, request: ReceivedRequest) -> Answer:
        if request.method == "DELETE":
            self.sessions.discard(request.headers.get("mcp-session-id", ""))
            return http(status="204 No Content", kind="")
        message = request.message
        method = message.get("method", "")
        known = request.headers.get("mcp-session-id") in self.sessions
        if method in self.answers:
            answer = self.answers[method]
            return answer if isinstance(answer, bytes) else answer(request)
        if method == "initialize":
            self.count += 1
            session = f"session-{self.count}"
            self.sessions.add(session)
            result = {"protocolVersion": self.version, "capabilities": self.capabilities, "serverInfo": {"name": "x"}}
            return http(request.answers(result), mcp_session_id=session)
        if not known:
            return self.gone
        if request.method == "GET":
            return self.stream if self.streams else http(status="405 Method Not Allowed", kind="")
        if "id" not in message or "method" not in message:
            return http(status="202 Accepted", kind="")
        return http(request.answers({"method": method, "session": request.headers["mcp-session-id"]}))

    async def stream(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(STREAM)
        self.streaming.append(stream)
        await trio.sleep_forever()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, so that tests don't wait long."""
    monkeypatch.setattr(Backoff, "LONGEST_PAUSE", 0.2)


# -- passing messages through -----------------------------------------------------------------------------------


ODD = (
    b'{ "jsonrpc" :"2.0",  "id":1.0,"method":"tools/call", '
    b'"params":{"n":1e2,"u":"\\u00e9\xc3\xa9\\/","big":12345678901234567890.50},"x":null }'
)
ODD_ANSWER = (
    b'{"id" : 1.0 , "jsonrpc":"2.0", "result":{"e":"\\u0041\xe2\x80\xa8", "n":-0.0, "deep":[[{"a" : 1E400}]]}, "z":[ ]}'
)


@requirement("connect.untouched")
async def test_bytes_pass_through_untouched():
    """Spaces, spellings of numbers and ids, escapes and unknown fields are the same at the other end."""
    server = Server()
    server.answers["tools/call"] = http(ODD_ANSWER)
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await client.write(ODD)
        assert await client.read_line() == ODD_ANSWER
        assert upstream.requests[-1].body == ODD
        server.answers["tools/call"] = http(b'{"jsonrpc":"2.0",\r\n "id": 2,\n "result": {}\n}\n')
        await client.send("tools/call", id=2)
        assert await client.read_line() == b'{"jsonrpc":"2.0",   "id": 2,  "result": {} }', "in one line"


async def test_messages_on_streams_pass_through_in_order():
    """Progress, a request of the server and its response; data in several lines; the client's response is posted."""
    progress = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1.50}}'
    wanted = b'{"jsonrpc":"2.0","id":"s-1","method":"sampling/createMessage","params":{}}'

    async def stream(client: trio.abc.Stream) -> None:
        await client.send_all(STREAM + chunk(b": hi\n\n") + event(progress, event="message") + event(wanted))
        await upstream.wait_for("POST", 4)
        await client.send_all(chunk(b'data: {"jsonrpc":"2.0","id":7,\r\ndata: "result":{}}\r\n\r\n') + END)

    server = Server()
    server.answers["tools/call"] = lambda _: stream
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await client.send("tools/call", {"name": "x"}, 7)
        assert await client.read_line() == progress
        assert await client.read_line() == wanted
        response = b'{"jsonrpc":"2.0","id":"s-1","result":{"model":"m"}}'
        await client.write(response)
        assert await client.read_line() == b'{"jsonrpc":"2.0","id":7, "result":{}}'
        assert upstream.requests[-1].body == response
        connections = upstream.connections
        assert (await client.ask("tools/list", id=8))["result"]["session"] == "session-1"
        assert upstream.connections == connections, "they are kept"


async def test_a_session_is_opened_used_and_ended():
    """Every message after initialize carries its id and revision; DELETE ends it when the client leaves."""
    server = Server(version="2025-06-18")
    async with playing(server) as upstream:
        async with bridged(upstream.url) as client:
            await client.send("initialize", HELLO, 0)
            await client.send("notifications/initialized")
            await client.send("tools/list", id=1)
            assert [(await client.read())["id"] for _ in range(2)] == [0, 1], "sent at once, yet answered in order"
            assert await client.read_rest() == []
        first, *others = upstream.requests
        assert "mcp-session-id" not in first.headers
        assert "mcp-protocol-version" not in first.headers
        for request in others:
            assert request.headers["mcp-session-id"] == "session-1"
            assert request.headers["mcp-protocol-version"] == "2025-06-18"
        assert upstream.methods()[:2] == ["POST initialize", "POST notifications/initialized"]
        assert set(upstream.methods()[2:-1]) == {"POST tools/list", "GET"}
        assert upstream.methods()[-1] == "DELETE"
        assert server.sessions == set()


async def test_a_second_handshake_begins_a_second_session():
    """The first session is ended."""
    server = Server()
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await client.initialize()
        assert server.sessions == {"session-2"}
        assert (await client.ask("ping"))["result"]["session"] == "session-2"


async def test_twenty_calls_at_once_get_their_own_answers(monkeypatch: pytest.MonkeyPatch):
    """The server answers in reverse order."""
    monkeypatch.setattr(streamable, "SESSION_END_TIMEOUT", 0.3)  # the connections stay occupied
    waiting: list[tuple[trio.abc.Stream, ReceivedRequest]] = []
    all_arrived = trio.Event()

    def hold(request: ReceivedRequest) -> Answer:
        async def answer(stream: trio.abc.Stream) -> None:
            waiting.append((stream, request))
            if len(waiting) == 20:
                all_arrived.set()
            await trio.sleep_forever()

        return answer

    server = Server()
    server.answers["tools/call"] = hold
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        for number in range(20):
            await client.send("tools/call", {"name": f"tool-{number}"}, f"id-{number}")
        await all_arrived.wait()
        for stream, request in reversed(waiting):
            await stream.send_all(http(request.answers({"name": request.message["params"]["name"]})))
        for _ in range(20):
            answer = await client.read()
            assert answer["result"]["name"] == answer["id"].replace("id", "tool")


async def test_batches_are_split():
    """Each message of a batch is forwarded on its own, in either direction."""
    pair = b'[{"jsonrpc":"2.0","method":"notifications/message"},{"jsonrpc":"2.0","id":1,"result":{}}]'
    server = Server()
    server.answers["ping"] = http(pair)
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await client.write(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]')
        assert (await client.read())["method"] == "notifications/message"
        assert (await client.read())["id"] == 1
        await upstream.wait_for("ping")


async def test_what_the_client_sends_is_bounded_and_checked():
    """Long lines, malformed JSON, empty lines, invalid ids, ids in use and too many calls give one error each."""
    server = Server()
    server.answers["tools/call"] = lambda _: _forever
    async with playing(server) as upstream, bridged(upstream.url, line_limit=1000, calls=3) as client:
        await client.initialize()
        for line, code in (
            (b"x" * 5000, wire.INVALID_REQUEST),
            (b"garbage", wire.PARSE_ERROR),
            (b'{"jsonrpc":"2.0","id":1}', wire.PARSE_ERROR),
            (b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}', wire.PARSE_ERROR),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', wire.INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', wire.INVALID_REQUEST),
        ):
            await client.write(b"", b"  ", line)
            assert (await client.read())["error"]["code"] == code
        for number in range(3):
            await client.send("tools/call", id=number)
        assert "waits for its answer already" in (await client.ask("ping", id=1))["error"]["message"]
        assert "Make this one again" in (await client.ask("ping", id=9))["error"]["message"]
        assert upstream.methods().count("POST tools/call") <= 3


async def _forever(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


# -- the modern era ---------------------------------------------------------------------------------------------


async def test_a_modern_request_gets_its_routing_headers():
    """Revision, method and name; values that a header can't hold are encoded. No session, no GET, no DELETE."""
    async with playing(lambda request: http(request.answers())) as upstream, bridged(upstream.url) as client:
        for name in ("plain", " padded ", "Größe", "=?base64?x?="):
            await client.ask_modern("tools/call", {"name": name})
            headers = upstream.requests[-1].headers
            assert headers["mcp-protocol-version"] == "2026-07-28"
            assert headers["mcp-method"] == "tools/call"
            assert headers["mcp-name"] == wire.encode_header(name)
            assert headers["accept"] == "application/json, text/event-stream"
        await client.ask_modern("resources/read", {"uri": "chora://x"})
        assert upstream.requests[-1].headers["mcp-name"] == "chora://x"
        await client.ask_modern("odd\nmethod")
        assert "mcp-method" not in upstream.requests[-1].headers
        assert await client.read_rest() == []
        assert {request.method for request in upstream.requests} == {"POST"}
        assert not any("mcp-session-id" in request.headers for request in upstream.requests)


def test_header_values_are_encoded_as_in_the_specification():
    """Its own examples."""
    assert wire.encode_header("us-west1") == "us-west1"
    assert wire.encode_header("Hello, 世界") == "=?base64?SGVsbG8sIOS4lueVjA==?="
    assert wire.encode_header(" padded ") == "=?base64?IHBhZGRlZCA=?="
    assert wire.encode_header("line1\nline2") == "=?base64?bGluZTEKbGluZTI=?="
    assert wire.encode_header("=?base64?literal?=") == "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="
    assert wire.encode_header("") == "=?base64??="


async def test_cancelling_a_modern_call_closes_its_connection():
    """That cancels it on the server; the notification isn't forwarded, and no response is sent."""
    closed = trio.Event()

    async def wait(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        closed.set()

    def play(request: ReceivedRequest) -> Answer:
        return wait if request.message["method"] == "tools/call" else http(request.answers())

    async with playing(play) as upstream, bridged(upstream.url) as client:
        await client.send("tools/call", {"name": "x", "_meta": MODERN}, 5)
        await upstream.wait_for("tools/call")
        await client.send("notifications/cancelled", {"requestId": 5})
        await closed.wait()
        await client.send("notifications/cancelled", {"requestId": 5})
        await client.send("notifications/cancelled", {})
        await client.send("notifications/cancelled", [])
        assert (await client.ask_modern("tools/list", id=6))["id"] == 6
        assert "POST notifications/cancelled" not in upstream.methods()


async def test_errors_of_a_refusal_reach_the_client_under_its_id():
    """400 and 404 with a JSON-RPC error are responses; an id that the server couldn't read is filled in."""
    bodies = [
        http(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no","data":{"supported":["a"]}}}', "400 Bad"),
        http(b'{"jsonrpc":"2.0","id":null,"error":{"code": -32601,"message":"what?"}}', "404 Not Found"),
        http(b'{"jsonrpc":"2.0","error":{"code":-32600,"message":"own"}}', "400 Bad"),
    ]
    async with playing(lambda _: bodies.pop(0)) as upstream, bridged(upstream.url) as client:
        assert (await client.ask_modern("server/discover"))["error"]["data"] == {"supported": ["a"]}
        answer = await client.ask_modern("nope", id="x")
        assert (answer["id"], answer["error"]["code"]) == ("x", -32601)
        assert (await client.ask_modern("nope", id=3))["error"]["message"] == "own"


REFUSED_BY = [
    (b'"server-error"', "400 Bad Request"),
    (b"null", "400 Bad Request"),
    (b'"1"', "400 Bad Request"),
    (b"99", "409 Conflict"),
    (b'"server-error"', "200 OK"),
    (b'"server-error"', "500 Internal Server Error"),
    (b'"server-error"', "406 Not Acceptable"),
]


@requirement("connect.refusals")
@pytest.mark.parametrize(("id", "status"), REFUSED_BY)
@pytest.mark.parametrize("method", ["server/discover", "initialize", "tools/call"])
async def test_a_refusal_reaches_the_call_that_it_refuses(id: bytes, status: str, method: str):
    """The Python SDK 1.x refuses what it doesn't know with `"id": "server-error"`; the call waited for good."""
    body = b'{"jsonrpc":"2.0","id":%s,"error":{"code":-32600,"message":"Bad Request: not understood"}}' % id
    server = Server()

    def refuse(request: ReceivedRequest) -> Answer:
        if request.method == "POST" and request.message.get("method") == method:
            return http(body, status)
        return server(request)

    async with playing(refuse) as upstream, bridged(upstream.url) as client:
        if method == "tools/call":
            await client.initialize()
        ask = client.ask_modern if method == "server/discover" else client.ask
        answer = await ask(method, {"protocolVersion": "2025-11-25", "capabilities": {}, "name": "x"}, id=5)
        assert answer["id"] == 5
        assert "not understood" in answer["error"]["message"]


@requirement("connect.refusals")
@pytest.mark.parametrize(("asked", "answered"), [(5, "5"), ("5", 5), (5, 5)])
async def test_an_answer_with_its_id_as_text_reaches_its_call(asked: Any, answered: Any):
    """The client gets it under the id that it used."""
    server = Server()
    result = {"content": []}
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": answered, "result": result})
    server.answers["tools/call"] = http(body)
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        answer = await client.ask("tools/call", {"name": "x"}, id=asked)
        assert (answer["id"], answer["result"]) == (asked, result)


SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "options": {"type": "object", "properties": {"deep": {"type": "integer", "x-mcp-header": "Deep"}}},
        "dry": {"type": "boolean", "x-mcp-header": "Dry", "default": {"x-mcp-header": 1}},
        "x-mcp-header": {"type": "string"},
    },
}


def test_parameter_header_annotations_are_found_or_refused():
    """They must be on a property that is always reachable, have a valid name and type, and be unique."""
    assert find_parameter_headers(SCHEMA) == {("region",): "Region", ("options", "deep"): "Deep", ("dry",): "Dry"}
    assert find_parameter_headers(None) == {}

    def within(part: Any, **rest: Any) -> dict[str, Any]:
        return {"properties": {"a": part, **rest}}

    good = {"type": "string", "x-mcp-header": "A"}
    for schema, reason in (
        (good, "stands where"),
        (within({"items": good}), "stands where"),
        ({"anyOf": [within(good)]}, "stands where"),
        ({"$defs": {"a": good}}, "stands where"),
        (within({**good, "x-mcp-header": "a b"}), "name of a header"),
        (within({**good, "x-mcp-header": 7}), "name of a header"),
        (within({**good, "type": "number"}), "neither"),
        (within(good, b={**good, "x-mcp-header": "a"}), "another parameter"),
    ):
        with pytest.raises(ValueError, match=reason):
            find_parameter_headers(schema)


async def test_annotated_parameters_are_repeated_in_headers(caplog: pytest.LogCaptureFixture):
    """The annotations are taken from tools/list as it passes; a tool with invalid ones is removed and logged."""
    tools = [{"name": "sql", "inputSchema": SCHEMA}, {"name": "bad", "inputSchema": {"x-mcp-header": "A"}}]

    def play(request: ReceivedRequest) -> Answer:
        return http(request.answers({"tools": tools} if request.message["method"] == "tools/list" else {}))

    async with playing(play) as upstream, bridged(upstream.url) as client:
        listed = await client.ask_modern("tools/list")
        assert [tool["name"] for tool in listed["result"]["tools"]] == ["sql"]
        assert "the tool 'bad' is left out of the list: " in caplog.text
        arguments = {"region": "Zürich", "options": {"deep": 42.0}, "dry": False, "other": 1}
        await client.ask_modern("tools/call", {"name": "sql", "arguments": arguments})
        found = {k: v for k, v in upstream.requests[-1].headers.items() if k.startswith("mcp-param-")}
        assert found == {
            "mcp-param-region": wire.encode_header("Zürich"),
            "mcp-param-deep": "42",
            "mcp-param-dry": "false",
        }
        for odd in ({"region": None, "options": []}, {"dry": 1.5, "options": {"deep": -7}}, []):
            await client.ask_modern("tools/call", {"name": "sql", "arguments": odd})
            found = {k: v for k, v in upstream.requests[-1].headers.items() if k.startswith("mcp-param-")}
            assert found == ({"mcp-param-deep": "-7"} if "dry" in odd else {})
        tools.pop(0)
        await client.ask_modern("tools/list")
        await client.ask_modern("tools/call", {"name": "sql", "arguments": arguments})
        assert "mcp-param-region" in upstream.requests[-1].headers, "what isn't listed any more is still known"


async def test_headers_are_remembered_of_so_many_tools_only(monkeypatch: pytest.MonkeyPatch):
    """The tools beyond the limit stay in the list and are called without headers."""
    assert parameter_headers.TOOLS_LIMIT == 10_000
    monkeypatch.setattr(parameter_headers, "TOOLS_LIMIT", 2)
    tools = [{"name": name, "inputSchema": SCHEMA} for name in ("first", "second", "third")]

    def play(request: ReceivedRequest) -> Answer:
        return http(request.answers({"tools": tools} if request.message["method"] == "tools/list" else {}))

    async with playing(play) as upstream, bridged(upstream.url) as client:
        assert (await client.ask_modern("tools/list"))["result"]["tools"] == tools
        repeated: list[str] = []
        for tool in tools:
            await client.ask_modern("tools/call", {"name": tool["name"], "arguments": {"region": "x"}})
            if "mcp-param-region" in upstream.requests[-1].headers:
                repeated.append(str(tool["name"]))
        assert repeated == ["first", "second"]


async def test_the_bridge_lists_the_tools_when_a_header_is_missing():
    """The server refuses a call for a missing header: the bridge lists the tools, all pages, and repeats the call."""

    def play(request: ReceivedRequest) -> Answer:
        message = request.message
        if message["method"] == "tools/list":
            assert message["params"]["_meta"] == MODERN
            second = message["params"].get("cursor") == "more"
            tools = [{"name": "sql", "inputSchema": SCHEMA}] if second else [{"name": "x"}]
            return http(request.answers({"tools": tools} if second else {"tools": tools, "nextCursor": "more"}))
        if "mcp-param-region" in request.headers or message["params"]["name"] != "sql":
            return http(request.answers({"done": True}))
        mismatch = {"code": wire.HEADER_MISMATCH, "message": "no Region"}
        return http(msgspec.json.encode({"jsonrpc": "2.0", "id": message["id"], "error": mismatch}), "400 Bad")

    async with playing(play) as upstream, bridged(upstream.url) as client:
        answer = await client.ask_modern("tools/call", {"name": "sql", "arguments": {"region": "x"}})
        assert answer["result"] == {"done": True}
        assert upstream.methods() == ["POST tools/call", "POST tools/list", "POST tools/list", "POST tools/call"]
        answer = await client.ask_modern("tools/call", {"name": "sql", "arguments": {}})
        assert answer["error"]["code"] == wire.HEADER_MISMATCH, "once is enough"


async def test_a_subscription_outlives_its_server():
    """When its stream breaks it is opened again; the client sees possible changes, but no second acknowledgement."""
    filters = {"toolsListChanged": True, "resourceSubscriptions": ["chora://a"]}
    mark = {wire.SUBSCRIPTION_KEY: "sub"}
    begun = wire.notification("notifications/subscriptions/acknowledged", {"notifications": filters, "_meta": mark})
    changed = wire.notification("notifications/tools/list_changed", {"_meta": mark})
    streams: list[trio.abc.Stream] = []

    async def listen(stream: trio.abc.Stream) -> None:
        await stream.send_all(STREAM + event(begun))
        streams.append(stream)
        await trio.sleep_forever()

    answers: list[Answer] = [listen, http(b"", "503 Service Unavailable"), listen]
    async with playing(lambda _: answers.pop(0)) as upstream, bridged(upstream.url) as client:
        assert await client.ask_modern("subscriptions/listen", {"notifications": filters}, "sub") == (
            msgspec.json.decode(begun)
        )
        await _until(lambda: len(streams) == 1)
        await streams[0].send_all(event(changed))
        assert await client.read_line() == changed
        await streams[0].aclose()
        assert await client.read_line() == changed
        assert (await client.read())["params"] == {"uri": "chora://a", "_meta": mark}
        end = b'{"jsonrpc":"2.0","id":"sub","result":{}}'
        await _until(lambda: len(streams) == 2)
        await streams[1].send_all(event(end) + END)
        assert await client.read_line() == end, "the server's own end is one"
        assert len(upstream.requests) == 3


async def test_a_subscription_that_never_began_fails():
    """Only an acknowledged subscription is opened again."""
    async with playing(lambda _: None) as upstream, bridged(upstream.url, startup_time=0.2) as client:
        answer = await client.ask_modern("subscriptions/listen", {"notifications": {}})
        assert "broke before" in answer["error"]["message"]


# -- servers that fail ------------------------------------------------------------------------------------------


@requirement("connect.restart")
async def test_a_lost_session_is_replaced_without_an_error():
    """The client's handshake, log level and subscriptions are repeated; it is only notified of possible changes."""
    server = Server()
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await client.ask("logging/setLevel", {"level": "info"}, 2)
        await client.ask("resources/subscribe", {"uri": "chora://a"}, 3)
        await client.ask("resources/subscribe", {"uri": "chora://b"}, 4)
        await client.ask("resources/unsubscribe", {"uri": "chora://a"}, 5)
        before = len(upstream.requests)
        server.sessions.clear()
        await client.send("tools/call", {"name": "x"}, 6)
        assert (await client.read())["method"] == "notifications/tools/list_changed"
        news = await client.read()
        assert (news["method"], news["params"]) == (UPDATED, {"uri": "chora://b"})
        answer = await client.read()
        assert (answer["id"], answer["result"]["session"]) == (6, "session-2")
        again = [each.split()[1] for each in upstream.methods()[before:] if each.startswith("POST")]
        assert again == [
            "tools/call",
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "resources/subscribe",
            "tools/call",
        ]
        repeated = next(each for each in upstream.requests[before:] if each.message.get("method") == "initialize")
        assert repeated.body == upstream.requests[0].body
        assert "mcp-session-id" not in repeated.headers


async def test_many_calls_share_one_new_session():
    """The first call that misses the session opens a new one, and the others wait for it."""
    server = Server()
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        server.sessions.clear()
        for number in range(10):
            await client.send("tools/call", {"name": "x"}, number)
        answers = [answer for answer in [await client.read() for _ in range(11)] if "id" in answer]
        assert {answer["result"]["session"] for answer in answers} == {"session-2"}
        assert sorted(answer["id"] for answer in answers) == list(range(10))
        assert upstream.methods().count("POST initialize") == 2


async def test_a_lost_session_is_replaced_for_a_notification_too():
    """It is sent again on the new session; some servers answer an unknown session with 400."""
    server = Server()
    server.gone = http(b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"No valid session ID"}}', "400 Bad")
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await upstream.wait_for("initialized")
        server.sessions.clear()
        await client.send("notifications/roots/list_changed")
        assert (await client.read())["method"] == "notifications/tools/list_changed"
        await upstream.wait_for("roots", 2)
        assert upstream.requests[-1].headers["mcp-session-id"] == "session-2"


async def test_a_changed_server_is_logged(caplog: pytest.LogCaptureFixture):
    """A new session with another revision or other capabilities is logged, and the new revision is used."""
    server = Server()
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        server.sessions.clear()
        server.version, server.capabilities = "2025-06-18", {}
        assert (await client.ask("ping"))["result"]["session"] == "session-2"
        assert upstream.requests[-1].headers["mcp-protocol-version"] == "2025-06-18"
    assert "to 2025-06-18" in caplog.text
    assert "capabilities have changed" in caplog.text


async def test_a_server_that_refuses_a_new_session_fails_only_the_call():
    """The error has a hint, and the next call tries again."""
    server = Server()
    refused = http(b"full", "429 Too Many Requests", "text/plain", retry_after="3")
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        server.sessions.clear()
        server.answers["initialize"] = refused
        answer = await client.ask("ping")
        assert "in 3 s" in answer["error"]["message"]
        server.answers["initialize"] = lambda request: http(
            b'{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"no"}}' % msgspec.json.encode("hello")
        )
        assert "refuses a new session" in (await client.ask("ping"))["error"]["message"]
        server.answers["initialize"] = http(b'{"jsonrpc":"2.0","id":"hello","result":{}}')
        assert "names no revision" in (await client.ask("ping"))["error"]["message"]
        server.answers.clear()
        await client.send("ping", id=2)
        assert {(await client.read()).get("id") for _ in range(2)} == {None, 2}


async def test_new_sessions_that_are_lost_at_once_are_limited():
    """After two of them the call fails."""
    server = Server()
    server.answers["ping"] = http(b"", "404 Not Found")
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        answer = await client.ask("ping")
        while "id" not in answer:
            answer = await client.read()
        assert "drops every new session" in answer["error"]["message"]
        assert upstream.methods().count("POST initialize") <= 3


@requirement("connect.in-flight")
async def test_a_call_whose_connection_breaks_fails_at_once():
    """Before, within or instead of its response: it may have been carried out, and the error says so."""
    for break_off in (
        None,
        _cut(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"),
        _cut(STREAM + chunk(b'data: {"jsonrpc"')),
        _cut(STREAM + END),
    ):
        server = Server()
        server.answers["tools/call"] = lambda _, answer=break_off: answer
        async with playing(server) as upstream, bridged(upstream.url) as client:
            await client.initialize()
            error = (await client.ask("tools/call", {"name": "x"}, 4))["error"]
            assert error["code"] == -32000
            assert "may have been carried out" in error["message"]
            assert error["data"] == {"mayHaveBeenCarriedOut": True}
            assert upstream.methods().count("POST tools/call") == 1
            assert "result" in await client.ask("ping", id=5)


def _cut(answer: bytes) -> Answer:
    async def send(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer)
        await stream.aclose()

    return send


async def test_requests_other_than_tool_calls_are_repeated():
    """When the connection breaks; the client doesn't notice."""
    server = Server()
    answers: list[Answer] = [None, http(b"", "502 Bad Gateway"), http(b'{"jsonrpc":"2.0","id":1,"result":{}}')]
    server.answers["tools/list"] = lambda _: answers.pop(0)
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        assert "result" in await client.ask("tools/list")
        assert upstream.methods().count("POST tools/list") == 3


async def test_a_stream_with_event_ids_is_resumed():
    """After its last event, at the time that the server's `retry` asks for; the client misses nothing."""
    first, second = (wire.notification("notifications/progress", {"progress": each}) for each in (1, 2))

    async def begin(stream: trio.abc.Stream) -> None:
        await stream.send_all(STREAM + chunk(b"id: 1\nretry: 10\ndata:\n\n") + event(first, id="e-1"))
        await stream.aclose()

    async def go_on(stream: trio.abc.Stream) -> None:
        await stream.send_all(STREAM + event(second, id="e-2") + END)

    async def finish(stream: trio.abc.Stream) -> None:
        await stream.send_all(STREAM + event(b'{"jsonrpc":"2.0","id":1,"result":{}}') + END)

    again = [go_on, finish]

    class Resumable(Server):
        def __call__(self, request: ReceivedRequest) -> Answer:
            if request.method == "GET" and "last-event-id" in request.headers:
                return again.pop(0)
            return super().__call__(request)

    server = Resumable()
    server.answers["tools/call"] = lambda _: begin
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await client.send("tools/call", {"name": "x"}, 1)
        assert [await client.read_line() for _ in range(2)] == [first, second]
        assert (await client.read())["id"] == 1
        resumed = [each.headers.get("last-event-id") for each in upstream.requests if each.method == "GET"]
        assert [each for each in resumed if each] == ["e-1", "e-2"]
        assert upstream.methods().count("POST tools/call") == 1


@pytest.mark.parametrize("refusal", [http(b"", "404 Not Found"), http(b"", "400 Bad Request"), None])
async def test_a_stream_that_cannot_be_resumed_fails_the_call(refusal: Answer):
    """The server doesn't know the stream any more, or isn't reachable."""

    class Forgetful(Server):
        def __call__(self, request: ReceivedRequest) -> Answer:
            return refusal if "last-event-id" in request.headers else super().__call__(request)

    server = Forgetful()
    server.answers["tools/call"] = lambda _: _cut(STREAM + chunk(b"id: 1\nretry: 0\ndata:\n\n"))
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        answer = await client.ask("tools/call", {"name": "x"}, 1)
        assert "may have been carried out" in answer["error"]["message"]


async def test_the_stream_of_a_session_brings_notifications():
    """It is opened after the handshake and again when it breaks, and detects a lost session."""
    server = Server(streams=True)
    note = wire.notification(UPDATED, {"uri": "chora://x"})
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await upstream.wait_for("GET")
        await _until(lambda: len(server.streaming) == 1)
        await server.streaming[0].send_all(chunk(b"junk\n\ndata: junk\n\n") + event(note, id="n-1"))
        assert await client.read_line() == note
        await server.streaming[0].aclose()
        await upstream.wait_for("GET", 2)
        assert upstream.requests[-1].headers["last-event-id"] == "n-1"
        server.sessions.clear()
        await _until(lambda: len(server.streaming) == 2)
        await server.streaming[1].aclose()
        assert (await client.read())["method"] == "notifications/tools/list_changed", "before any call"
        await upstream.wait_for("GET", 4)
        assert upstream.requests[-1].headers["mcp-session-id"] == "session-2"
        assert "last-event-id" not in upstream.requests[-1].headers


async def _until(condition: Any) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


async def test_an_answer_may_come_on_the_stream_of_the_session():
    """Some servers answer there; the call's own stream is then no longer waited for."""
    server = Server(streams=True)
    server.answers["tools/call"] = lambda _: _forever
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await _until(lambda: len(server.streaming) == 1)
        await client.send("tools/call", {"name": "x"}, 3)
        await upstream.wait_for("tools/call")
        await server.streaming[0].send_all(event(b'{"jsonrpc":"2.0","id":3,"result":{}}'))
        assert (await client.read())["id"] == 3


async def test_a_cancelled_call_of_the_handshake_era_is_cancelled_by_notification(monkeypatch: pytest.MonkeyPatch):
    """A late response isn't forwarded, and a server that sends none isn't waited for."""
    monkeypatch.setattr("chora.bridge.client.CANCELLED_CALL_TIMEOUT", 0.2)
    server = Server()
    hold = trio.Event()

    def late(request: ReceivedRequest) -> Answer:
        async def answer(stream: trio.abc.Stream) -> None:
            if request.message["id"] == 1:
                await hold.wait()
                await stream.send_all(http(request.answers()))
            else:
                assert await stream.receive_some() == b"", "it is let go"

        return answer

    server.answers["tools/call"] = late
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        for id in (1, 2):
            await client.send("tools/call", {"name": "x"}, id)
            await upstream.wait_for("tools/call", id)
            await client.send("notifications/cancelled", {"requestId": id, "reason": "bored"})
            await upstream.wait_for("cancelled", id)
            hold.set()
        assert (await client.ask("ping", id=3))["id"] == 3
        server.answers["tools/call"] = lambda _: http(b"", "202 Accepted", "")
        answer = await client.ask("tools/call", {"name": "x"}, 4)
        assert "without answering" in answer["error"]["message"]


# -- unreachable servers ----------------------------------------------------------------------------------------


async def free_port() -> int:
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        return listener.socket.getsockname()[1]


@requirement("connect.absent")
async def test_a_server_may_start_after_its_client():
    """initialize waits for it; after `startup_time` it fails, and the client may try again."""
    port = await free_port()
    upstream = FakeUpstream(Server())
    async with (
        bridged(f"http://127.0.0.1:{port}/mcp", startup_time=0.5, retry_time=0.2) as client,
        trio.open_nursery() as nursery,
    ):
        answer = await client.ask("initialize", HELLO, 0)
        assert re.match(
            r"http://127\.0\.0\.1:\d+/mcp can't be reached: .*\. Nothing was carried out\. See that the server runs, ",
            answer["error"]["message"],
        )
        assert answer["error"]["data"] == {"mayHaveBeenCarriedOut": False}
        await client.send("initialize", HELLO, 1)
        await trio.sleep(0.1)
        await nursery.start(partial(trio.serve_tcp, upstream.serve, port, host="127.0.0.1"))
        assert "result" in await client.read()
        await client.send("notifications/initialized")
        assert "result" in await client.ask("ping")
        nursery.cancel_scope.cancel()


async def test_calls_fail_while_the_server_is_gone():
    """After a short while, each with a hint; only a server that never answered may still be starting."""
    port = await free_port()
    upstream = FakeUpstream(Server())
    async with bridged(f"http://127.0.0.1:{port}/mcp", startup_time=10 * PATIENCE, retry_time=0.2) as client:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_tcp, upstream.serve, port, host="127.0.0.1"))
            await client.initialize()
            await upstream.wait_for("initialized")
            nursery.cancel_scope.cancel()
        for id in (1, 2):
            answer = await client.ask("tools/call", {"name": "x"}, id)
            assert re.search("broke before|can't be reached", answer["error"]["message"]), answer
        await client.send("notifications/roots/list_changed")
        assert await client.read_rest() == []


# -- servers that aren't MCP ------------------------------------------------------------------------------------


ACCEPTED = (
    "a web page",
    "no message of MCP",
    "without answering",
    "not HTTP",
    "larger than",
    "can't be passed on",
    "HTTP 500",
)
"""The failures after which the server may have carried out the request."""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"<html>hi</html>", kind="text/html"), "a web page"),
        (http(b"<!doctype html>", kind="text/plain"), "a web page"),
        (http(b"\x00\xff binary", kind="application/octet-stream"), "no message of MCP"),
        (http(b"{}"), "no message of MCP"),
        (http(b'{"jsonrpc":"2.0","id":99,"result":{}}'), "without answering"),
        (http(b""), "without answering"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, "larger than"),
        (http(b'{"jsonrpc":"2.0","id":1,"result":"%s"}' % (b"x" * 9000)), "can't be passed on"),
        (STREAM + chunk(b"data: " + b"x" * 9000), "can't be passed on"),
        (STREAM + event(b"junk"), "no message of MCP"),
        (STREAM + event(b'{"jsonrpc":"2.0","id":1,"result":{},"x":"\xff"}'), "no message of MCP"),
        (http(b"", "401 Unauthorized"), "wants an access token"),
        (http(b"", "401 Unauthorized", www_authenticate='Bearer resource_metadata="x"'), "wants a sign-in"),
        (http(b"", "403 Forbidden"), "forbids"),
        (http(b"<html>", "404 Not Found", "text/html"), "no MCP endpoint"),
        (http(b"", "405 Method Not Allowed"), "no MCP endpoint"),
        (http(b"", "413 Content Too Large"), "too long"),
        (http(b"", "418 Teapot"), "HTTP 418"),
        (http(b"", "500 Oops"), "HTTP 500"),
        (http(b"", "302 Found", location="http://evil.example/mcp"), "another server"),
        (http(b"", "307 Temporary Redirect", location="http://127.0.0.1:1/mcp"), "another server"),
        (http(b"", "302 Found", location="/other"), "can't follow"),
        (http(b"", "307 Temporary Redirect", location="/mcp"), "in a circle"),
        (http(b"", "307 Temporary Redirect", location="http://[::"), "invalid address"),
        (http(b"", "300 Multiple Choices"), "HTTP 300"),
    ],
)
async def test_an_invalid_response_gives_one_clear_error(answer: bytes, said: str):
    """Whatever the server sends, the client gets one JSON-RPC error that says what is wrong, and nothing else."""
    async with playing(lambda _: answer) as upstream, bridged(upstream.url, answer_limit=5000) as client:
        error = (await client.ask("initialize", HELLO))["error"]
        assert said in error["message"], error
        assert error["code"] == -32000
        assert error["data"] == {"mayHaveBeenCarriedOut": said in ACCEPTED}
        assert await client.read_rest() == []


async def test_an_endless_answer_is_cut():
    """Endless headers, comments or events take a bounded amount of memory."""

    async def flood(stream: trio.abc.Stream) -> None:
        await stream.send_all(STREAM)
        while True:
            await stream.send_all(chunk(b"data: " + b"x" * 1000 + b"\n"))

    async with playing(lambda _: flood) as upstream, bridged(upstream.url, answer_limit=100_000) as client:
        assert "can't be passed on" in (await client.ask("initialize", HELLO))["error"]["message"]


@requirement("connect.memory")
@pytest.mark.parametrize("kind", ["event stream", "JSON"])
async def test_many_long_answers_at_once_take_a_bounded_amount_of_memory(kind: str):
    """Each may be as long as the limit, but not all at a time: the others fail, and then there is room again."""
    ended: list[int] = []
    finish = trio.Event()

    def answering(request: ReceivedRequest) -> Answer:
        id = request.message["id"]
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": id, "result": {"text": "x" * 90_000}})

        async def answer(stream: trio.abc.Stream) -> None:
            data = http(body) if kind == "JSON" else STREAM + chunk(b"data: " + body + b"\n\n") + END
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data[:-1000])
                await finish.wait()
                await stream.send_all(data[-1000:])

        return answer

    async with playing(answering) as upstream, bridged(upstream.url, answer_limit=100_000) as client:
        for id in range(20):
            await client.send("tools/call", {"name": "x", "_meta": MODERN}, id)
        for _ in range(10):
            failed = await client.read()
            assert "too much arrives at once" in failed["error"]["message"]
            assert failed["error"]["data"] == {"mayHaveBeenCarriedOut": True}
            ended.append(failed["id"])
        finish.set()
        ended += [(await client.read())["id"] for _ in range(10)]
        assert sorted(ended) == list(range(20))
        again = await client.ask("tools/call", {"name": "x", "_meta": MODERN}, 20)
        assert len(again["result"]["text"]) == 90_000


async def test_a_client_that_does_not_read_slows_the_server_down():
    """Backpressure: unread messages aren't queued in the bridge."""
    sent = 0
    line = wire.notification("notifications/message", {"data": "x" * 60_000})

    async def pour(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.send_all(STREAM)
        while True:
            await stream.send_all(event(line))
            sent += 1

    async with playing(lambda _: pour) as upstream, bridged(upstream.url, grace=0.2) as client:
        await client.send("tools/call", {"name": "x", "_meta": MODERN}, 1)
        before = -1
        while sent != before:
            before = sent
            await trio.sleep(0.3)
        assert sent < 500
        assert await client.read_line() == line


async def test_a_line_that_was_begun_is_written_to_its_end():
    """Also when its call is cancelled meanwhile and other messages wait."""
    long = http(b'{"jsonrpc":"2.0","id":1,"result":{"text":"%s"}}' % (b"x" * 1_000_000))

    def play(request: ReceivedRequest) -> Answer:
        return long if request.message["id"] == 1 else http(request.answers())

    async with playing(play) as upstream, bridged(upstream.url) as client:
        await client.send("tools/call", {"name": "x", "_meta": MODERN}, 1)
        await upstream.wait_for("tools/call")
        await trio.sleep(0.2)
        await client.send("notifications/cancelled", {"requestId": 1})
        await client.send("tools/call", {"name": "x", "_meta": MODERN}, 2)
        await upstream.wait_for("tools/call", 2)
        assert {(await client.read())["id"] for _ in range(2)} == {1, 2}


async def test_redirects_within_the_server_are_followed():
    """A missing slash costs one redirect; the next message goes to the new URL."""

    def play(request: ReceivedRequest) -> Answer:
        if request.target == "/mcp":
            return http(b"moved", "307 Temporary Redirect", "text/plain", location="/mcp/?x=1")
        return http(request.answers({"target": request.target}))

    async with playing(play) as upstream, bridged(upstream.url) as client:
        for id in (1, 2):
            assert (await client.ask_modern("tools/list", id=id))["result"]["target"] == "/mcp/?x=1"
        assert [request.target for request in upstream.requests] == ["/mcp", "/mcp/?x=1", "/mcp/?x=1"]


@pytest.mark.parametrize(("redirects", "outcome"), [(3, "result"), (4, "error")])
async def test_only_so_many_redirects_are_followed(redirects: int, outcome: str):
    """Three of one request; one more is a circle."""

    def play(request: ReceivedRequest) -> Answer:
        if len(request.target) <= redirects:
            return http(b"moved", "307 Temporary Redirect", "text/plain", location=request.target + "x")
        return http(request.answers({"target": request.target}))

    async with playing(play) as upstream, bridged(upstream.url.removesuffix("/mcp") + "/") as client:
        answer = await client.ask_modern("tools/list", id=1)
    assert outcome in answer
    assert [request.target for request in upstream.requests] == ["/" + "x" * number for number in range(4)]
    assert outcome == "result" or "redirects in a circle" in answer["error"]["message"]


async def test_a_redirect_to_https_is_permanent():
    """From http to https on the same host only; a redirect of the stream applies to the stream alone."""
    link = Upstream(parse_address("http://host.example/mcp"), lambda _: None)
    link._follow_redirect(link.address, "https://host.example/mcp/", "POST", 308, 1, chosen=False)
    assert str(link.address) == "https://host.example/mcp/"
    with pytest.raises(CallFailure, match=r"redirects to http://host\.example"):
        link._follow_redirect(link.address, "http://host.example/mcp", "POST", 308, 1, chosen=False)
    alone = link._follow_redirect(link.address, "/other", "POST", 308, 1, chosen=True)
    assert str(alone) == "https://host.example/other"
    assert str(link.address) == "https://host.example/mcp/"
    odd = Upstream(parse_address("https://host.example:80/mcp"), lambda _: None)
    with pytest.raises(CallFailure, match=r"redirects to https://host\.example/mcp"):
        odd._follow_redirect(odd.address, "https://host.example/mcp", "POST", 308, 1, chosen=False)


async def test_an_endpoint_that_moves_to_https_is_reached_there():
    """New connections are opened to it."""
    link = Upstream(parse_address("http://host.example/sse"), lambda _: None)
    endpoint = parse_address("http://host.example/messages")
    assert str(link._follow_redirect(endpoint, "https://host.example/messages", "POST", 308, 1, chosen=True)) == (
        "https://host.example/messages"
    )
    assert str(link._pool.origin) == "https://host.example"
    assert str(link.address) == "https://host.example/sse"


async def test_a_redirect_of_the_stream_does_not_move_calls():
    """The stream leads to a login page; calls still go to the server, which may accept us again by then."""
    server = Server()

    def play(request: ReceivedRequest) -> Answer:
        if request.target == "/login":
            return http(b"<html>", kind="text/html")
        if request.method == "GET":
            return http(b"", "302 Found", location="/login")
        return server(request)

    async with playing(play) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await _until(lambda: any(request.target == "/login" for request in upstream.requests))
        assert "result" in await client.ask("ping")
        assert upstream.requests[-1].target == "/mcp"


async def test_a_server_that_never_opens_its_stream_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """Calls that wait for that stream fail, and later ones are served."""
    monkeypatch.setattr("chora.bridge.sse.NEW_SESSION_TIMEOUT", 0.2)
    async with (
        playing(lambda _: _forever) as upstream,
        bridged(upstream.url.replace("/mcp", "/sse"), startup_time=0.1) as client,
    ):
        for id in (1, 2):
            assert "doesn't open a stream" in (await client.ask("initialize", HELLO, id))["error"]["message"]


async def test_a_stream_that_breaks_at_once_is_resumed_with_pauses():
    """However short the server's `retry` is."""
    server = Server()
    times: list[float] = []

    def resume(request: ReceivedRequest) -> Answer:
        times.append(trio.current_time())
        if len(times) > 3:
            done = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "result": {}})
            return STREAM + event(done) + END
        return STREAM + chunk(b"id: x\nretry: 0\ndata: \n\n") + END

    server.answers["slow"] = resume

    def play(request: ReceivedRequest) -> Answer:
        return resume(request) if request.method == "GET" and "last-event-id" in request.headers else server(request)

    async with playing(play) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        assert "result" in await client.ask("slow")
    assert all(later - earlier >= 0.09 for earlier, later in pairwise(times))


def test_a_tool_that_wants_endless_headers_is_refused():
    """Before they take much time or memory; a hundred are allowed."""
    wanted = {"type": "string"}
    allowed = {f"p{number}": {**wanted, "x-mcp-header": f"h{number}"} for number in range(100)}
    assert len(find_parameter_headers({"type": "object", "properties": allowed})) == 100
    with pytest.raises(ValueError, match="more than 100"):
        find_parameter_headers(
            {"type": "object", "properties": {**allowed, "p": {**wanted, "x-mcp-header": "one-more"}}}
        )
    properties = {f"p{number}": {**wanted, "x-mcp-header": f"h{number}"} for number in range(200_000)}
    with pytest.raises(ValueError, match="more than 100"):
        find_parameter_headers({"type": "object", "properties": properties})


async def test_tls_needs_a_trusted_certificate(hello: Project, serve: Serve, tmp_path: Path):
    """A private CA is passed with --trust, which the error without it mentions."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    key, cert, trust = (tmp_path / name for name in ("key.pem", "cert.pem", "ca.pem"))
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    authority.cert_pem.write_to_path(trust)
    async with serve(hello.root, {"http.cert": str(cert), "http.key": str(key)}) as opened:
        async with bridged(opened.url + "/mcp", trust=str(trust)) as client:
            assert "result" in await client.ask_modern("tools/call", {"name": "hello_world", "arguments": {}})
        async with bridged(opened.url + "/mcp") as client:
            error = (await client.ask("initialize", HELLO))["error"]["message"]
            assert "isn't trusted" in error
            assert "--trust" in error


async def test_a_stalled_response_times_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """In the body of an error or of a redirect, or as the answer to a notification."""
    monkeypatch.setattr("chora.bridge.upstream.REFUSAL_TIMEOUT", 0.2)
    monkeypatch.setattr(streamable, "NOTIFICATION_TIMEOUT", 0.2)

    async def stall(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 99\r\n\r\n{")
        await trio.sleep_forever()

    async def cut(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 307 Moved\r\nlocation: /x\r\ncontent-length: 99\r\n\r\n{")
        await stream.aclose()

    server = Server()
    server.answers |= {"ping": lambda _: stall, "pong": lambda request: cut if request.target == "/mcp" else http(b"{")}
    server.answers["notifications/roots/list_changed"] = lambda _: _forever
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        assert "HTTP 400" in (await client.ask("ping"))["error"]["message"]
        assert "no message of MCP" in (await client.ask("pong"))["error"]["message"]
        await client.send("notifications/roots/list_changed")
        await _until(lambda: "didn't accept it within" in caplog.text)


async def test_an_error_in_the_handshake_reaches_the_client():
    """Also after the bridge has tried the older transport in vain."""
    refusal = http(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Not you"}}', "400 Bad Request")
    server = Server()
    server.answers["initialize"] = refusal
    async with playing(server) as upstream, bridged(upstream.url) as client:
        assert (await client.ask("initialize", HELLO))["error"]["message"] == "Not you"
        assert (await client.ask("ping", id=2))["error"]
        del server.answers["initialize"]
        assert "result" in await client.initialize()


async def test_a_server_without_a_stream_may_say_so_with_404():
    """That doesn't mean that the session is lost."""

    class NoStream(Server):
        def __call__(self, request: ReceivedRequest) -> Answer:
            return http(b"", "404 Not Found") if request.method == "GET" else super().__call__(request)

    async with playing(NoStream()) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await upstream.wait_for("GET")
        for id in range(5):
            assert (await client.ask("ping", id=id))["result"]["session"] == "session-1"
        assert upstream.methods().count("GET") == 1


async def test_a_session_stream_that_redirects_to_another_server_is_given_up(caplog: pytest.LogCaptureFixture):
    """The redirect isn't followed; calls go on."""

    class Elsewhere(Server):
        def __call__(self, request: ReceivedRequest) -> Answer:
            if request.method == "GET":
                return http(b"", "302 Found", location="http://evil.example/")
            return super().__call__(request)

    async with playing(Elsewhere()) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        await _until(lambda: "was given up" in caplog.text)
        assert "result" in await client.ask("ping")


async def test_a_new_handshake_without_a_response_times_out(monkeypatch: pytest.MonkeyPatch):
    """Calls that wait for the new session get an error; the next one tries again."""
    monkeypatch.setattr(streamable, "NEW_SESSION_TIMEOUT", 0.3)
    monkeypatch.setattr(sse, "NEW_SESSION_TIMEOUT", 0.3)
    server = Server()
    async with playing(server) as upstream, bridged(upstream.url) as client:
        await client.initialize()
        server.sessions.clear()
        server.answers["initialize"] = lambda _: _forever
        assert "doesn't open a new session" in (await client.ask("ping"))["error"]["message"]
        monkeypatch.setattr(streamable, "NEW_SESSION_TIMEOUT", PATIENCE)
        del server.answers["initialize"]
        await client.send("ping", id=2)
        assert {(await client.read()).get("id") for _ in range(2)} == {None, 2}
    old = SseServer()
    async with playing(old) as upstream, bridged(sse_url(upstream)) as client:
        await client.initialize()
        await upstream.wait_for("initialized")
        old.silent.add("initialize")
        await old.end(1)
        answer = await client.ask("ping", id=3)
        assert "doesn't open a new session" in answer["error"]["message"]


async def test_an_invalid_session_id_is_ignored(caplog: pytest.LogCaptureFixture):
    """It isn't sent back, as no header can hold it; a handshake result without a revision is invalid too."""
    opening = b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}'
    answers = [
        http(b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":7}}'),
        http(opening, mcp_session_id="a b"),
        http(b'{"jsonrpc":"2.0","id":1,"result":{}}'),
    ]
    async with playing(lambda _: answers.pop(0)) as upstream, bridged(upstream.url) as client:
        assert "names no revision" in (await client.ask("initialize", HELLO))["error"]["message"]
        assert "result" in await client.ask("initialize", HELLO)
        assert "result" in await client.ask("ping")
        assert "mcp-session-id" not in upstream.requests[-1].headers
    assert "continuing without one" in caplog.text


async def test_numbers_out_of_range_are_passed_on_or_refused():
    """As an id, a revision or an argument, without an internal error."""
    tools = [{"name": "sql", "inputSchema": SCHEMA}]

    def play(request: ReceivedRequest) -> Answer:
        if b"tools/list" in request.body:
            return http(request.answers({"tools": tools}))
        return STREAM + event(b'{"jsonrpc":"2.0","id":1e999,"result":{}}') + event(b'{"id":1,"result":{}}') + END

    async with playing(play) as upstream, bridged(upstream.url) as client:
        assert "result" in await client.ask_modern("tools/list")
        meta = msgspec.json.encode(MODERN)
        call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"sql","arguments":{"region":1e999}'
        await client.write(call + b',"_meta":' + meta + b"}}")
        assert (await client.read())["id"] == 1
        assert "mcp-param-region" not in upstream.requests[-1].headers
        await client.write(call + b',"_meta":{"io.modelcontextprotocol/protocolVersion":1e999}}}')
        assert (await client.read())["id"] == 1
        assert "mcp-protocol-version" not in upstream.requests[-1].headers
        await client.write(b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}')
        assert b'"id":1e999,"error":{"code":-32600' in (await client.read_line() or b"")
        await client.ask("ping", [1], 1)
        assert upstream.requests[-1].message["params"] == [1]


async def test_the_first_error_stays_when_the_tools_cannot_be_listed():
    """The bridge's own tools/list fails or has an invalid result: the client gets the server's first error."""
    lists = [b'{"jsonrpc":"2.0","id":"chora-0","error":{"code":1,"message":"no"}}']
    lists += [b'{"jsonrpc":"2.0","id":"chora-0","result":[]}', b'{"jsonrpc":"2.0","id":"chora-0","result":{"tools":7}}']

    def play(request: ReceivedRequest) -> Answer:
        if request.message["method"] == "tools/list":
            return http(lists.pop(0))
        return http(b'{"jsonrpc":"2.0","id":1,"error":{"code":%d,"message":"m"}}' % wire.HEADER_MISMATCH, "400 Bad")

    async with playing(play) as upstream, bridged(upstream.url) as client:
        for _ in range(3):
            assert (await client.ask_modern("tools/call", {"name": "x"}))["error"]["code"] == wire.HEADER_MISMATCH
        assert lists == []


# -- tokens -----------------------------------------------------------------------------------------------------


async def test_a_token_that_changes_is_read_again():
    """After 401 it is looked up again; the call is repeated with the new one, or the error names the wrong one."""
    current = "old-token"
    searched: list[bool] = []

    def find(wanted: bool) -> FoundSecret | None:
        searched.append(wanted)
        if current == "gone":
            raise settings.UsageError("gone", "x")
        return FoundSecret(Secret(current), "file /run/token")

    def play(request: ReceivedRequest) -> Answer:
        good = request.headers["authorization"] == "Bearer new-token"
        return http(request.answers()) if good else http(b"", "401 Unauthorized")

    async with playing(play) as upstream, bridged(upstream.url, token=find, headers=(("X-Key", "k"),)) as client:
        answer = await client.ask_modern("tools/call", {"name": "x"})
        assert "refuses the access token (file /run/token" in answer["error"]["message"]
        assert "old-token" not in msgspec.json.encode(answer).decode()
        current = "gone"
        assert "refuses" in (await client.ask_modern("tools/call", {"name": "x"}))["error"]["message"]
        current = "new-token"
        assert "result" in await client.ask_modern("tools/call", {"name": "x"})
        assert upstream.requests[-1].headers["x-key"] == "k"
    assert searched == [False, True, True, True]


async def test_a_token_refused_for_the_stream_is_read_again():
    """The call that waited for the stream fails with 401; the next one uses the new token."""
    server = SseServer()
    current = "old-token"

    def find(wanted: bool) -> FoundSecret | None:
        return FoundSecret(Secret(current), "file /run/token")

    def play(request: ReceivedRequest) -> Answer:
        good = request.headers["authorization"] == "Bearer new-token"
        return server(request) if good else http(b"", "401 Unauthorized")

    async with playing(play) as upstream, bridged(sse_url(upstream), token=find) as client:
        refused = await client.ask("initialize", HELLO, "hello")
        assert "refuses the access token (file /run/token" in refused["error"]["message"]
        current = "new-token"
        await client.initialize()
        assert (await client.ask("tools/call", {"name": "x"}, 2))["result"]["method"] == "tools/call"


# -- SSE, 2024-11-05 --------------------------------------------------------------------------------------------


class SseServer:
    """A server of the 2024-11-05 transport."""

    def __init__(self, endpoint: str = "/messages?session={}") -> None:
        self.endpoint = endpoint
        self.streams: dict[str, trio.abc.Stream] = {}
        self.count = 0
        self.accepted = http(b"Accepted", "202 Accepted", "text/plain")
        self.silent: set[str] = set()

    def __call__(self, request: ReceivedRequest) -> Answer:
        if request.method == "GET":
            return self.stream
        if request.target.startswith("/messages"):
            stream = self.streams.get(request.target.partition("=")[2])
            return http(b"", "404 Not Found") if stream is None else lambda client: self.reply(request, client, stream)
        return http(b"Cannot POST", "404 Not Found", "text/html")

    async def stream(self, stream: trio.abc.Stream) -> None:
        self.count += 1
        self.streams[str(self.count)] = stream
        place = self.endpoint.format(self.count).encode()
        await stream.send_all(STREAM + event(place, event="endpoint"))
        await trio.sleep_forever()

    async def reply(self, request: ReceivedRequest, client: trio.abc.Stream, stream: trio.abc.Stream) -> None:
        await client.send_all(self.accepted)
        message = request.message
        method = message.get("method")
        if "id" not in message or method in self.silent or not self.accepted.startswith(b"HTTP/1.1 202"):
            return
        result = {"method": method, "stream": request.target}
        if method == "initialize":
            result = {"protocolVersion": "2024-11-05", "capabilities": OFFER}
        await stream.send_all(event(request.answers(result), event="message"))

    async def end(self, number: int) -> None:
        await self.streams.pop(str(number)).aclose()


def sse_url(upstream: FakeUpstream) -> str:
    return upstream.url.replace("/mcp", "/sse")


@pytest.mark.parametrize("hangs_up", ["request", "stream"])
async def test_an_answer_on_the_stream_counts_when_its_request_breaks(hangs_up: str):
    """A server that ends before it has accepted the POST has given one response, and no error follows it."""
    server = SseServer()
    reply = server.reply

    async def answer_first(request: ReceivedRequest, client: trio.abc.Stream, stream: trio.abc.Stream) -> None:
        if request.message["method"] != "tools/call":
            return await reply(request, client, stream)
        await stream.send_all(event(request.answers({"answered": True}), event="message"))
        if hangs_up == "stream":
            await trio.testing.wait_all_tasks_blocked(0.05)
            await server.end(1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.aclose()

    async with playing(server) as upstream, bridged(sse_url(upstream)) as client:
        await client.initialize()
        server.reply = answer_first
        assert (await client.ask("tools/call", {"name": "x"}, 2))["result"] == {"answered": True}
        await trio.sleep(0.3)
        assert [message for message in await client.read_rest() if "id" in message] == []


@pytest.mark.parametrize("path", ["/sse", "/mcp"])
async def test_the_older_transport_is_detected(path: str):
    """By its path, or because POST is refused and GET names an endpoint; calls and cancellations are posted there."""
    server = SseServer()
    async with playing(server) as upstream, bridged(upstream.url.replace("/mcp", path)) as client:
        await client.initialize()
        answer = await client.ask("tools/call", {"name": "x"}, 2)
        assert answer["result"] == {"method": "tools/call", "stream": "/messages?session=1"}
        server.silent.add("slow")
        await client.send("slow", id=3)
        await upstream.wait_for("slow")
        await client.send("notifications/cancelled", {"requestId": 3})
        await upstream.wait_for("cancelled")
        await server.streams["1"].send_all(event(b'{"jsonrpc":"2.0","id":77,"result":{}}') + event(b"junk"))
        assert (await client.ask("ping", id=4))["id"] == 4
        assert server.count == 1


async def test_the_older_transport_survives_its_server():
    """The stream ends: calls in flight fail, a new session is initialized and subscribed, and notifications come."""
    server = SseServer()
    async with playing(server) as upstream, bridged(sse_url(upstream)) as client:
        await client.initialize()
        await client.ask("resources/subscribe", {"uri": "chora://a"}, 2)
        server.silent.add("tools/call")
        await client.send("tools/call", {"name": "x"}, 3)
        await upstream.wait_for("tools/call")
        await server.end(1)
        assert "may have been carried out" in (await client.read())["error"]["message"]
        assert (await client.read())["method"] == "notifications/tools/list_changed"
        assert (await client.read())["params"] == {"uri": "chora://a"}
        assert (await client.ask("ping", id=4))["result"]["stream"] == "/messages?session=2"
        assert upstream.methods().count("POST initialize") == 2
        assert upstream.methods().count("POST resources/subscribe") == 2


async def test_a_lost_session_of_the_older_transport_is_replaced():
    """POST is answered with 404 although the stream is open: the call is made on a new one."""
    server = SseServer()
    async with playing(server) as upstream, bridged(sse_url(upstream)) as client:
        await client.initialize()
        await upstream.wait_for("initialized")
        server.streams.clear()
        await client.send("tools/call", {"name": "x"}, 3)
        assert (await client.read())["method"] == "notifications/tools/list_changed"
        assert (await client.read())["result"]["stream"] == "/messages?session=2"
        await client.initialize()
        assert server.count == 3, "a new handshake has a new stream"


async def test_a_modern_subscription_works_over_the_older_transport():
    """All calls share its stream; when it ends the subscription is opened again."""
    server = SseServer()
    server.silent.add("subscriptions/listen")
    mark = {wire.SUBSCRIPTION_KEY: 5}
    filters = {"promptsListChanged": True}
    begun = wire.notification("notifications/subscriptions/acknowledged", {"notifications": filters, "_meta": mark})
    stray = wire.notification("notifications/subscriptions/acknowledged", {"notifications": filters})
    async with playing(server) as upstream, bridged(sse_url(upstream)) as client:
        await client.send("subscriptions/listen", {"notifications": filters, "_meta": MODERN}, 5)
        await upstream.wait_for("listen")
        await server.streams["1"].send_all(event(begun) + event(stray))
        assert [await client.read_line() for _ in range(2)] == [begun, stray]
        await server.end(1)
        await upstream.wait_for("listen", 2)
        await server.streams["2"].send_all(event(begun))
        assert await client.read() == msgspec.json.decode(
            wire.notification("notifications/prompts/list_changed", {"_meta": mark})
        )


async def test_the_older_transport_without_an_endpoint_to_post_to(monkeypatch: pytest.MonkeyPatch):
    """The stream is open but the server accepts no more connections: the call waits for another stream, in vain."""
    monkeypatch.setattr(sse, "NOTIFICATION_TIMEOUT", 0.5)
    server, port = SseServer(), await free_port()
    upstream = FakeUpstream(server)
    async with bridged(f"http://127.0.0.1:{port}/sse", retry_time=0.2) as client, trio.open_nursery() as handlers:
        async with trio.open_nursery() as listening:
            serve = partial(trio.serve_tcp, upstream.serve, port, host="127.0.0.1", handler_nursery=handlers)
            await listening.start(serve)
            server.accepted = http(b"Accepted", "202 Accepted", "text/plain", connection="close")
            await client.initialize()
            await upstream.wait_for("initialized")
            listening.cancel_scope.cancel()
        answer = await client.ask("tools/call", {"name": "x"}, 3)
        assert "can't be reached" in answer["error"]["message"]
        assert answer["error"]["data"] == {"mayHaveBeenCarriedOut": False}
        await client.send("notifications/roots/list_changed")
        handlers.cancel_scope.cancel()


async def test_an_event_too_long_ends_the_stream_of_the_older_transport():
    """Waiting calls get an error with the reason; the next call has a new stream."""
    server = SseServer()
    server.silent.add("tools/call")
    async with playing(server) as upstream, bridged(sse_url(upstream), answer_limit=2000) as client:
        await client.initialize()
        await client.send("tools/call", {"name": "x"}, 3)
        await upstream.wait_for("tools/call")
        await server.streams["1"].send_all(event(b"x" * 5000))
        assert "larger than" in (await client.read())["error"]["message"]
        await client.send("ping", id=4)
        assert {(await client.read()).get("id") for _ in range(2)} == {None, 4}


async def test_a_handshake_of_the_older_transport_without_a_revision_fails():
    """The result is invalid, so nothing of it is remembered."""
    server = SseServer()
    server.silent.add("initialize")
    async with playing(server) as upstream, bridged(sse_url(upstream)) as client:
        await client.send("initialize", HELLO, 0)
        await upstream.wait_for("initialize")
        await server.streams["1"].send_all(event(b'{"jsonrpc":"2.0","id":0,"result":{}}'))
        assert "names no revision" in (await client.read())["error"]["message"]


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://evil.example/messages", "another server"),
        ("//127.0.0.1:1/messages", "another server"),
        ("https://127.0.0.1/messages", "another server"),
        ("ftp://x", "no address"),
        ("/messages?session={}", ""),
    ],
)
@requirement("connect.origin")
async def test_messages_are_posted_to_the_same_server_only(endpoint: str, said: str):
    """An endpoint on another host would get the token."""
    async with playing(SseServer(endpoint)) as upstream, bridged(sse_url(upstream)) as client:
        answer = await client.ask("initialize", HELLO)
        assert said in answer["error"]["message"] if said else "result" in answer


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (STREAM + event(b"{}"), "doesn't say where"),
        (STREAM, "doesn't say where"),
        (STREAM + END, "doesn't say where"),
        (STREAM + b"junk\r\n", "no size"),
        (http(b"<html>", kind="text/html"), "HTTP 200"),
        (http(b"", "401 Unauthorized"), "wants an access token"),
        (http(b"", "500 Oops"), "HTTP 500"),
    ],
)
async def test_a_response_that_is_not_an_event_stream_is_refused(
    stream: bytes, said: str, monkeypatch: pytest.MonkeyPatch
):
    """When the older transport is configured, the error says what is wrong."""
    if stream == STREAM:
        monkeypatch.setattr(sse, "ENDPOINT_TIMEOUT", 0.3)
    async with playing(lambda _: stream) as upstream, bridged(sse_url(upstream), transport="sse") as client:
        answer = await client.ask("initialize", HELLO)
        assert said in answer["error"]["message"], answer


async def test_refusals_of_the_older_transport_reach_the_client():
    """As the server's JSON-RPC errors, or in the bridge's words; for a notification they are logged."""
    server = SseServer()
    async with playing(server) as upstream, bridged(sse_url(upstream)) as client:
        await client.initialize()
        await upstream.wait_for("initialized")
        server.accepted = http(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}', "400 Bad")
        assert (await client.ask("ping", id=2))["error"]["message"] == "no"
        server.accepted = http(b"", "403 Forbidden")
        assert "forbids" in (await client.ask("ping", id=3))["error"]["message"]
        await client.send("notifications/roots/list_changed")
        await upstream.wait_for("roots")
        server.accepted = http(b"", "202 Accepted")
        assert "result" in await client.ask("ping", id=4)


async def test_a_path_that_ends_in_sse_may_be_streamable_http():
    """The transport is detected by the answer, not by the path alone."""

    def play(request: ReceivedRequest) -> Answer:
        return http(b"", "405 Method Not Allowed") if request.method == "GET" else http(request.answers())

    async with playing(play) as upstream, bridged(sse_url(upstream)) as client:
        assert "result" in await client.ask_modern("tools/list")


# -- the end ----------------------------------------------------------------------------------------------------


async def test_the_end_of_the_input_leaves_calls_a_grace():
    """Calls have the grace to be answered; subscriptions end at once."""
    release = trio.Event()

    def play(request: ReceivedRequest) -> Answer:
        async def soon(stream: trio.abc.Stream) -> None:
            await release.wait()
            await stream.send_all(http(request.answers()))

        return soon if request.message["params"].get("name") == "soon" else _forever

    async with playing(play) as upstream, bridged(upstream.url, grace=0.5) as client:
        await client.send("subscriptions/listen", {"notifications": {}, "_meta": MODERN}, 1)
        await client.send("tools/call", {"name": "soon", "_meta": MODERN}, 2)
        await client.send("tools/call", {"name": "never", "_meta": MODERN}, 3)
        await upstream.wait_for("POST", 3)
        release.set()
        assert [answer["id"] for answer in await client.read_rest()] == [2]


async def test_a_client_that_is_gone_ends_the_bridge():
    """A broken pipe on stdout ends it."""
    note = wire.notification("notifications/message", {})
    server = Server(streams=True)
    async with playing(server) as upstream:
        incoming, to_bridge = os.pipe()
        from_bridge, outgoing = os.pipe()
        options = bridge.BridgeOptions(parse_address(upstream.url), lambda _: None)
        with trio.fail_after(PATIENCE):
            async with PolledPipe(to_bridge) as sink, trio.open_nursery() as nursery:
                nursery.start_soon(bridge.run_bridge, options, Pipes(incoming, outgoing))
                async with PolledPipe(from_bridge) as source:
                    await BridgeClient(sink, source).initialize()
                    await _until(lambda: len(server.streaming) == 1)
                await server.streaming[0].send_all(event(note) * 3)
        assert upstream.methods()[-1] == "DELETE"


class Unavailable:
    """A response of a proxy without its server."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def drain(self) -> None: ...


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (ConnectFailed("refused"), UpstreamUnreachable),
        (ConnectionBroken("reset"), ConnectionLost),
        (Unavailable(502), None),
        (Unavailable(503), None),
        (Unavailable(504), None),
    ],
)
async def test_retries_end_before_their_time_is_over(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, outcome: Any, failure: Any
):
    """No pause begins that would end too late; each other pause is followed by one attempt."""
    attempts: list[float] = []

    class AbsentServer:
        async def request(self, *arguments: Any) -> Any:
            attempts.append(trio.current_time())
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    upstream = Upstream(parse_address("http://host.example/mcp"), lambda _: None)
    upstream._pool = cast(Any, AbsentServer())
    monkeypatch.setattr(Backoff, "next_pause", lambda self: 0.4)
    started = trio.current_time()
    with pytest.raises(failure) if failure else contextlib.nullcontext():
        assert (await upstream.send_request("POST", (), retry_time=1.0)).status == outcome.status
    assert [round(each - started, 3) for each in attempts] == [0, 0.4, 0.8]
    assert round(trio.current_time() - started, 3) == 0.8


async def test_pauses_grow_and_start_again(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch):
    """From a tenth of a second to five, with jitter; after a while without failures they start short again."""
    monkeypatch.setattr(Backoff, "LONGEST_PAUSE", 5.0)
    pause = Backoff()
    pauses = [pause.next_pause() for _ in range(10)]
    for expected, found in zip((0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5), pauses, strict=True):
        assert expected / 2 <= found <= expected
    await trio.sleep(31)
    assert pause.next_pause() <= 0.1


def test_ids_are_compared_by_value():
    """1 and 1.0 are one id, "1" is another, and null is none."""
    key = messages.key_of
    assert key(msgspec.Raw(b"1")) == key(msgspec.Raw(b"1.0")) != key(msgspec.Raw(b'"1"'))
    assert key(msgspec.Raw(b'"\\u0041"')) == key(msgspec.Raw(b'"A"'))
    assert key(msgspec.Raw(b"null")) is key(msgspec.UNSET) is None
