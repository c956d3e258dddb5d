"""The core by itself: messages in, answers out."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from chora import __version__
from chora.access import LOCAL, Principal
from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.server import Server, Session
from chora.tools import TOOLS
from chora.tools.tool import Tool
from tests.conftest import Project, content

MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}


@pytest.fixture
def server(engine: Engine) -> Server:
    return Server(engine, TOOLS, Metrics())


def request(method: str, params: Any = None, id: Any = 1) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": id, "method": method}
    return msgspec.json.encode(message if params is None else {**message, "params": params})


async def ask(server: Server, session: Session, message: bytes, notify: Any = None) -> Any:
    reply = await server.answer(session, message, notify)
    return None if reply is None else msgspec.json.decode(reply.body)


def shaken(revision: str = "2025-11-25", principal: Principal = LOCAL) -> Session:
    """A session after its handshake."""
    session = Session("memory", principal)
    session.revision = wire.REVISIONS[revision]
    return session


@pytest.mark.parametrize("revision", wire.HANDSHAKE)
async def test_initialize_settles_on_the_revision_that_was_asked_for(server: Server, revision: str):
    """Each revision with a handshake is spoken when it is asked for."""
    session = Session("memory", LOCAL)
    answer = await ask(server, session, request("initialize", {"protocolVersion": revision}))
    assert answer["result"]["protocolVersion"] == revision
    assert answer["result"]["serverInfo"]["version"] == __version__
    assert session.revision is wire.REVISIONS[revision]


@pytest.mark.parametrize("wanted", ["2026-07-28", "1999-01-01", "zzz"])
async def test_initialize_offers_the_newest_handshake_for_any_other(server: Server, wanted: str):
    """A revision unknown, or without a handshake, gets a counter-offer."""
    answer = await ask(server, Session("memory", LOCAL), request("initialize", {"protocolVersion": wanted}))
    assert answer["result"]["protocolVersion"] == "2025-11-25"


async def test_discover_says_who_we_are(server: Server):
    """The modern opening: versions, capabilities, instructions, and how long that stays true."""
    answer = await ask(server, Session("memory", LOCAL), request("server/discover", {"_meta": MODERN}))
    result = answer["result"]
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["resultType"] == "complete"
    assert result["_meta"][wire.SERVER_KEY]["name"] == "chora"
    assert result["ttlMs"] > 0
    assert "draft_config" in result["instructions"]


@pytest.mark.parametrize(
    ("revision", "absent", "present"),
    [
        ("2024-11-05", ["annotations", "outputSchema", "title"], ["inputSchema"]),
        ("2025-03-26", ["outputSchema", "title"], ["annotations"]),
        ("2025-06-18", [], ["annotations", "outputSchema", "title"]),
        ("2025-11-25", [], ["annotations", "outputSchema", "title"]),
    ],
)
async def test_a_list_holds_what_its_revision_knows(
    server: Server, revision: str, absent: list[str], present: list[str]
):
    """Older clients aren't shown fields that came later."""
    listed = await ask(server, shaken(revision), request("tools/list"))
    for tool in listed["result"]["tools"]:
        assert not set(absent) & set(tool)
        assert set(present) <= set(tool)


async def test_structured_content_is_for_revisions_that_know_it(server: Server):
    """Text alone before 2025-06-18."""
    call = request("tools/call", {"name": "hello_world"})
    assert "structuredContent" not in (await ask(server, shaken("2025-03-26"), call))["result"]
    assert "structuredContent" in (await ask(server, shaken("2025-06-18"), call))["result"]


async def test_the_default_list_is_small_enough_for_a_model(server: Server):
    """Without output schemas, tools/list stays well below 24 KiB."""
    answer = await ask(server, shaken("2025-03-26"), request("tools/list"))
    assert len(msgspec.json.encode(answer)) < 24 * 1024 * len(TOOLS) / 24


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        (b"garbage", wire.PARSE_ERROR, "not JSON"),
        (b"\xff\xfe", wire.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc": "2.0", "id": 1', wire.PARSE_ERROR, "not JSON"),
        (b"[" * 100_000, wire.INVALID_REQUEST, "one JSON-RPC message"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, wire.PARSE_ERROR, "deeper"),
        (b"3", wire.INVALID_REQUEST, "JSON-RPC 2.0"),
        (b"{}", wire.INVALID_REQUEST, "JSON-RPC 2.0"),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', wire.INVALID_REQUEST, "JSON-RPC 2.0"),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', wire.INVALID_REQUEST, "string or a number"),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', wire.INVALID_REQUEST, "string or a number"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 7}', wire.INVALID_REQUEST, "JSON-RPC 2.0"),
        (request("tools/list", [1]), wire.INVALID_PARAMS, "parameters"),
        (request("nope"), wire.METHOD_NOT_FOUND, "no method nope"),
        (request("server/discover"), wire.METHOD_NOT_FOUND, "no method"),
        (request("tools/call", {}), wire.INVALID_PARAMS, "name of a tool"),
        (request("tools/call", {"name": "make_coffee"}), wire.INVALID_PARAMS, "make_coffee"),
        (request("initialize"), wire.INVALID_PARAMS, "protocolVersion"),
        (request("initialize", {"protocolVersion": 3}), wire.INVALID_PARAMS, "initialize"),
    ],
)
async def test_what_is_not_mcp_is_answered_with_its_error(server: Server, message: bytes, code: int, said: str):
    """Each kind of wrong message gets its JSON-RPC code and a sentence, and the next good one is answered."""
    session = shaken()
    answer = await ask(server, session, message)
    assert answer["error"]["code"] == code
    assert said in answer["error"]["message"]
    assert (await ask(server, session, request("ping")))["result"] == {}


async def test_the_id_comes_back_as_it_was_sent(server: Server):
    """Strings, large and negative numbers are echoed to the letter."""
    for id in (b'"a b"', b"0", b"-7", b"123456789012345678901234567890"):
        reply = await server.answer(shaken(), b'{"jsonrpc":"2.0","id":' + id + b',"method":"ping"}')
        assert reply is not None
        assert reply.body == b'{"jsonrpc":"2.0","id":' + id + b',"result":{}}'


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({}, wire.INVALID_PARAMS),
        ({wire.VERSION_KEY: "2026-07-28"}, wire.INVALID_PARAMS),
        ({wire.VERSION_KEY: 7, wire.CAPABILITIES_KEY: {}}, wire.INVALID_PARAMS),
        ({wire.VERSION_KEY: "2031-01-01", wire.CAPABILITIES_KEY: {}}, wire.UNSUPPORTED_VERSION),
        ({wire.VERSION_KEY: "2025-11-25", wire.CAPABILITIES_KEY: {}}, wire.UNSUPPORTED_VERSION),
    ],
)
async def test_a_request_needs_a_handshake_or_a_whole_envelope(server: Server, meta: dict[str, Any], code: int):
    """Without either, the error says what to carry; for an unknown revision it names what is supported."""
    answer = await ask(server, Session("memory", LOCAL), request("tools/list", {"_meta": meta}))
    assert answer["error"]["code"] == code
    if code == wire.UNSUPPORTED_VERSION:
        assert answer["error"]["data"] == {"supported": ["2026-07-28"], "requested": meta[wire.VERSION_KEY]}


async def test_modern_requests_have_no_ping_and_lists_that_may_be_kept(server: Server):
    """What the modern era dropped is unknown there; its lists say how long they hold."""
    session = Session("memory", LOCAL)
    assert (await ask(server, session, request("ping", {"_meta": MODERN})))["error"]["code"] == wire.METHOD_NOT_FOUND
    result = (await ask(server, session, request("tools/list", {"_meta": MODERN})))["result"]
    assert result["cacheScope"] == "public"
    assert result["resultType"] == "complete"


async def test_ping_is_answered_before_the_handshake(server: Server):
    """A client may see whether anybody is there before it introduces itself."""
    assert (await ask(server, Session("memory", LOCAL), request("ping")))["result"] == {}


async def test_batches_are_answered_where_the_revision_knows_them(server: Server):
    """Requests are answered together and in order; notifications are owed nothing."""
    note = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    batch = b"[" + b",".join([request("ping", id=1), note, b"7", request("ping", id=2)]) + b"]"
    answers = await ask(server, shaken("2025-03-26"), batch)
    assert [answer["id"] for answer in answers] == [1, None, 2]
    assert await ask(server, shaken("2025-03-26"), b"[" + note + b"]") is None
    assert (await ask(server, shaken("2025-06-18"), batch))["error"]["code"] == wire.INVALID_REQUEST


@pytest.mark.parametrize("body", [b"[]", b"[" + b",".join([b"1"] * 51) + b"]", b"[1"])
async def test_a_batch_is_neither_empty_nor_endless(server: Server, body: bytes):
    """Nothing, too much and half an array are refused."""
    assert "error" in await ask(server, shaken("2025-03-26"), body)


async def test_responses_and_unknown_notifications_are_owed_nothing(server: Server):
    """We ask clients nothing, so whatever they answer goes nowhere; likewise what we don't know."""
    for message in (
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","method":"notifications/strange","params":{"a":1}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}',
    ):
        assert await server.answer(shaken(), message) is None


async def test_null_arguments_are_no_arguments(server: Server):
    """Clients that send `arguments: null` mean none."""
    answer = await ask(server, shaken(), request("tools/call", {"name": "hello_world", "arguments": None}))
    assert "isError" not in answer["result"]


SLOW = "{% for i in range(40000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done"


@pytest.fixture
def slow(project: Project) -> Project:
    """A content whose text takes longer to render than any test waits."""
    project.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    return project


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.005)


async def test_a_cancelled_call_stops_and_is_not_answered(server: Server, slow: Project):
    """Its worker is killed, the metrics count it, and the same id may be used again."""
    session = shaken()
    call = request("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "slow"}}, id=7)
    answers: list[Any] = []

    async def run() -> None:
        answers.append(await ask(server, session, call))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: bool(session.in_flight))
            twice = await ask(server, session, call)
            assert twice["error"]["code"] == wire.INVALID_REQUEST
            cancel = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'
            assert await server.answer(session, cancel) is None
    assert answers == [None]
    assert not session.in_flight


async def test_a_reader_may_not_write(server: Server):
    """A principal with the scope read calls what only reads; anything else is refused as a result."""
    reader = shaken(principal=Principal("reader", frozenset({"read"})))
    assert "isError" not in (await ask(server, reader, request("tools/call", {"name": "hello_world"})))["result"]
    for tool in TOOLS.values():
        if not tool.read_only:
            answer = await ask(server, reader, request("tools/call", {"name": tool.name, "arguments": {}}))
            assert answer["result"]["isError"] is True
            assert answer["result"]["structuredContent"]["error"]["code"] == "forbidden"


async def test_a_tool_that_is_gone_is_gone_everywhere(engine: Engine):
    """The list, the count and the call all follow the shelf."""
    fewer: dict[str, Tool] = {name: tool for name, tool in TOOLS.items() if name != "list_generators"}
    server = Server(engine, fewer, Metrics())
    listed = await ask(server, shaken(), request("tools/list"))
    assert [tool["name"] for tool in listed["result"]["tools"]] == list(fewer)
    hello = await ask(server, shaken(), request("tools/call", {"name": "hello_world"}))
    assert hello["result"]["structuredContent"]["tools_available"] == len(fewer)
    gone = await ask(server, shaken(), request("tools/call", {"name": "list_generators"}))
    assert gone["error"]["code"] == wire.INVALID_PARAMS
