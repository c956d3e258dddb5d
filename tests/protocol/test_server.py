"""The MCP server without a transport: messages in, responses out."""

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from chora import __version__
from chora.access import LOCAL, Principal, Scope
from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.nesting import MESSAGE_VALUES
from chora.peer_memory import MIB
from chora.protocol import wire
from chora.protocol.broadcast import SUBSCRIPTION_LIMIT, NotificationQueue
from chora.protocol.envelope import LISTEN_BYTES
from chora.protocol.server import McpServer
from chora.protocol.session import STATE_LIMIT, Session
from chora.protocol.subscriptions import OPEN_SUBSCRIPTIONS_LIMIT, URI_LIMIT
from chora.provider import project_server
from chora.resources import ProjectResources
from chora.tools import TOOLS
from chora.tools.tool import HEAD_LIMIT, Tool
from tests.conftest import Project, content, requirement, text
from tests.patience import PATIENCE

MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}


@pytest.fixture
def server(engine: Engine) -> McpServer:
    return project_server(engine, TOOLS, Metrics())


def request(method: str, params: Any = None, id: Any = 1) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": id, "method": method}
    return msgspec.json.encode(message if params is None else {**message, "params": params})


async def ask(server: McpServer, session: Session, message: bytes, notify: Any = None) -> Any:
    reply = await server.answer(session, message, notify)
    return None if reply is None else msgspec.json.decode(reply.body)


def initialized_session(revision: str = "2025-11-25", principal: Principal = LOCAL) -> Session:
    """A session after its handshake."""
    session = Session("memory", principal)
    session.revision = wire.REVISIONS[revision]
    return session


@pytest.mark.parametrize("revision", wire.HANDSHAKE_REVISIONS)
async def test_initialize_agrees_to_every_handshake_revision(server: McpServer, revision: str):
    """The requested one is used."""
    session = Session("memory", LOCAL)
    answer = await ask(server, session, request("initialize", {"protocolVersion": revision}))
    assert answer["result"]["protocolVersion"] == revision
    assert answer["result"]["serverInfo"]["version"] == __version__
    assert session.revision is wire.REVISIONS[revision]


@pytest.mark.parametrize("wanted", ["2026-07-28", "1999-01-01", "zzz"])
async def test_initialize_offers_the_newest_handshake_for_any_other(server: McpServer, wanted: str):
    """An unknown revision, or one without a handshake, gets the newest handshake revision as counter-offer."""
    answer = await ask(server, Session("memory", LOCAL), request("initialize", {"protocolVersion": wanted}))
    assert answer["result"]["protocolVersion"] == "2025-11-25"


async def test_discover_names_the_server(server: McpServer):
    """Versions, capabilities, instructions, and how long the result may be cached."""
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
async def test_a_list_has_only_the_fields_of_its_revision(
    server: McpServer, revision: str, absent: list[str], present: list[str]
):
    """Older clients don't get fields that came later."""
    listed = await ask(server, initialized_session(revision), request("tools/list"))
    for tool in listed["result"]["tools"]:
        assert not set(absent) & set(tool)
        assert set(present) <= set(tool)


async def test_structured_content_is_sent_from_2025_06_18_on(server: McpServer):
    """Older clients get text content alone."""
    call = request("tools/call", {"name": "hello_world"})
    assert "structuredContent" not in (await ask(server, initialized_session("2025-03-26"), call))["result"]
    assert "structuredContent" in (await ask(server, initialized_session("2025-06-18"), call))["result"]


async def test_the_default_list_is_small_enough_for_a_model(server: McpServer):
    """Without output schemas, tools/list stays well below 24 KiB."""
    answer = await ask(server, initialized_session("2025-03-26"), request("tools/list"))
    assert len(msgspec.json.encode(answer)) < 24 * 1024


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        (b"garbage", wire.PARSE_ERROR, "not JSON"),
        (b"\xff\xfe", wire.PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc": "2.0", "id": 1', wire.PARSE_ERROR, "not JSON"),
        (b"[" * 100_000, wire.INVALID_REQUEST, "one JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":1,"params":[' + b"[]," * 50_001 + b"1]}", wire.INVALID_REQUEST, "100,000 values"),
        (b'{"jsonrpc":"2.0","id":1,"params":[' + b'"",' * 1_000_000 + b"1]}", wire.INVALID_REQUEST, "100,000 values"),
        (b"[" + b"0," * 100_001 + b"0]", wire.INVALID_REQUEST, "one JSON-RPC message"),
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
async def test_invalid_messages_get_their_error(server: McpServer, message: bytes, code: int, said: str):
    """Each kind gets its JSON-RPC code and a sentence, and the next valid one is answered."""
    session = initialized_session()
    answer = await ask(server, session, message)
    assert answer["error"]["code"] == code
    assert said in answer["error"]["message"]
    assert (await ask(server, session, request("ping")))["result"] == {}


@requirement("wire.values")
async def test_values_of_a_message_are_counted_before_it_is_decoded(server: McpServer):
    """Exactly as many as allowed are; brackets and commas in texts don't count, however many there are."""
    session = initialized_session()
    # Three commas and a bracket for the message, a bracket each for its parameters and the list.
    for value, separators in ((b"0,", 1), (b"[],", 2), (b'{"[,":1},', 2)):
        fits = value * ((MESSAGE_VALUES - 6) // separators)
        for values, is_refused in ((fits, False), (fits + value * 2, True)):
            body = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":[' + values + b"0]}}"
            assert ("error" in await ask(server, session, body)) is is_refused
    text = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": '["\\,{' * 500_000}})
    assert (await ask(server, session, text))["result"] == {}


async def test_a_response_that_is_not_awaited_is_not_decoded(server: McpServer, monkeypatch: pytest.MonkeyPatch):
    """Nor is a trace id that isn't a text."""
    monkeypatch.setattr(wire, "decode_any", lambda _: pytest.fail("it was decoded"))
    assert await server.answer(initialized_session(), b'{"jsonrpc":"2.0","id":"7","result":[[[1,2,3]]]}') is None
    meta = {"traceparent": [{"a": 1}] * 100, "trace_id": {}}
    assert (await ask(server, initialized_session(), request("ping", {"_meta": meta})))["result"] == {}


async def test_the_id_is_echoed_unchanged(server: McpServer):
    """Strings, large and negative numbers, byte for byte."""
    for id in (b'"a b"', b"0", b"-7", b"123456789012345678901234567890"):
        reply = await server.answer(initialized_session(), b'{"jsonrpc":"2.0","id":' + id + b',"method":"ping"}')
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
async def test_a_request_needs_a_handshake_or_a_complete_modern_envelope(
    server: McpServer, meta: dict[str, Any], code: int
):
    """Without either, the error says what is missing; for an unknown revision it lists the supported ones."""
    answer = await ask(server, Session("memory", LOCAL), request("tools/list", {"_meta": meta}))
    assert answer["error"]["code"] == code
    if code == wire.UNSUPPORTED_VERSION:
        assert answer["error"]["data"] == {"supported": ["2026-07-28"], "requested": meta[wire.VERSION_KEY]}


async def test_the_modern_era_has_no_ping_and_cacheable_lists(server: McpServer):
    """Removed methods are unknown there; lists say how long they may be cached."""
    session = Session("memory", LOCAL)
    assert (await ask(server, session, request("ping", {"_meta": MODERN})))["error"]["code"] == wire.METHOD_NOT_FOUND
    result = (await ask(server, session, request("tools/list", {"_meta": MODERN})))["result"]
    assert result["cacheScope"] == "private"
    assert result["resultType"] == "complete"


async def test_ping_is_answered_before_the_handshake(server: McpServer):
    """A client may check for a server before it."""
    assert (await ask(server, Session("memory", LOCAL), request("ping")))["result"] == {}


async def test_batches_are_answered_in_2025_03_26(server: McpServer):
    """Requests together and in order; notifications get no response."""
    note = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    batch = b"[" + b",".join([request("ping", id=1), note, b"7", request("ping", id=2)]) + b"]"
    answers = await ask(server, initialized_session("2025-03-26"), batch)
    assert [answer["id"] for answer in answers] == [1, None, 2]
    assert await ask(server, initialized_session("2025-03-26"), b"[" + note + b"]") is None
    assert (await ask(server, initialized_session("2025-06-18"), batch))["error"]["code"] == wire.INVALID_REQUEST


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", wire.INVALID_REQUEST),
        (b"[" + b",".join([b"1"] * 51) + b"]", wire.INVALID_REQUEST),
        (b"[1", wire.PARSE_ERROR),
    ],
)
async def test_a_batch_has_a_valid_size(server: McpServer, body: bytes, code: int):
    """An empty, a too large and an incomplete array are refused; 50 messages are not."""
    assert (await ask(server, initialized_session("2025-03-26"), body))["error"]["code"] == code
    answers = await ask(
        server, initialized_session("2025-03-26"), b"[" + b",".join([request("ping", id=1)] * 50) + b"]"
    )
    assert [each["result"] for each in answers] == [{}] * 50


async def test_the_answers_to_a_batch_are_bounded(server: McpServer, monkeypatch: pytest.MonkeyPatch):
    """Requests beyond the limit get an error and aren't executed; notifications still take effect."""
    monkeypatch.setattr("chora.protocol.server.BATCH_BYTES", 100)
    session = initialized_session("2025-03-26")
    level = request("logging/setLevel", {"level": "debug"}, 3)
    batch = b"[" + b",".join([request("tools/list", id=1), request("ping", id=2), level]) + b"]"
    answers = await ask(server, session, batch)
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert "result" in answers[0]
    assert all("by itself" in answer["error"]["message"] for answer in answers[1:])
    assert session.log_level is None
    pings = [request("ping", id=number) for number in range(3)]
    reply = await server.answer(session, pings[0])
    one = len(reply.body) if reply else 0
    for limit, answered in ((2 * one - 1, 2), (2 * one, 3)):  # carried out until the answers are larger than that
        monkeypatch.setattr("chora.protocol.server.BATCH_BYTES", limit)
        answers = await ask(server, session, b"[" + b",".join(pings) + b"]")
        assert ["result" in answer for answer in answers] == [number < answered for number in range(3)]


async def test_responses_and_unknown_notifications_get_no_response(server: McpServer):
    """Responses that match no request are dropped."""
    for message in (
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","method":"notifications/unknown","params":{"a":1}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}',
    ):
        assert await server.answer(initialized_session(), message) is None


async def test_null_arguments_are_no_arguments(server: McpServer):
    """Clients that send `arguments: null` mean none."""
    answer = await ask(server, initialized_session(), request("tools/call", {"name": "hello_world", "arguments": None}))
    assert "isError" not in answer["result"]


SLOW = "{% for i in range(40000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done"


@pytest.fixture
def slow(project: Project) -> Project:
    """A content that takes longer to render than any test waits."""
    project.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    return project


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.005)


async def test_a_cancelled_call_stops_and_is_not_answered(server: McpServer, slow: Project):
    """Its worker is killed, the metrics count it, and its id may be used again."""
    session = initialized_session()
    call = request("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "slow"}}, id=7)
    answers: list[Any] = []

    async def run() -> None:
        answers.append(await ask(server, session, call))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: bool(session.in_flight))
            twice = await ask(server, session, call)
            assert twice["error"]["code"] == wire.INVALID_REQUEST
            cancel = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'
            assert await server.answer(session, cancel) is None
    assert answers == [None]
    assert not session.in_flight


async def test_a_reader_may_not_write(server: McpServer):
    """A principal with the scope read may only call read-only tools; other calls are refused in the result."""
    reader = initialized_session(principal=Principal("reader", "read"))
    assert "isError" not in (await ask(server, reader, request("tools/call", {"name": "hello_world"})))["result"]
    for tool in TOOLS.values():
        if not tool.read_only:
            answer = await ask(server, reader, request("tools/call", {"name": tool.name, "arguments": {}}))
            assert answer["result"]["isError"] is True
            assert answer["result"]["structuredContent"]["error"]["code"] == "forbidden"


@requirement("server.listed-tools")
@pytest.mark.parametrize(
    ("scope", "extra"),
    [
        ("read", set[str]()),
        ("write", {"write"}),
        ("admin", {"write", "admin"}),
    ],
)
@pytest.mark.parametrize("modern", [False, True])
async def test_the_list_has_the_tools_that_the_scope_allows(
    server: McpServer, scope: Scope, extra: set[str], modern: bool
):
    """A model doesn't plan with what it will be refused."""
    session = initialized_session(principal=Principal("ada", scope))
    params = {"_meta": MODERN} if modern else None
    result = (await ask(server, session, request("tools/list", params)))["result"]
    expected = [tool.name for tool in TOOLS.values() if tool.scope in {"read", *extra}]
    assert [tool["name"] for tool in result["tools"]] == expected
    assert result.get("cacheScope") == ("private" if modern else None)


async def test_a_removed_tool_is_removed_everywhere(engine: Engine):
    """List, count and calls follow the registry."""
    fewer: dict[str, Tool] = {name: tool for name, tool in TOOLS.items() if name != "list_generators"}
    server = project_server(engine, fewer, Metrics())
    listed = await ask(server, initialized_session(), request("tools/list"))
    assert [tool["name"] for tool in listed["result"]["tools"]] == list(fewer)
    hello = await ask(server, initialized_session(), request("tools/call", {"name": "hello_world"}))
    assert hello["result"]["structuredContent"]["tools_available"] == len(fewer)
    gone = await ask(server, initialized_session(), request("tools/call", {"name": "list_generators"}))
    assert gone["error"]["code"] == wire.INVALID_PARAMS


# -- resources, prompts, completion -----------------------------------------------------------------------------


def modern(method: str, **params: Any) -> bytes:
    return request(method, {**params, "_meta": MODERN})


async def test_capabilities_follow_the_revision(server: McpServer):
    """Completion is announced from 2025-03-26 on; everything else always."""
    for revision in wire.REVISIONS.values():
        if revision.era == "modern":
            answer = await ask(server, Session("memory", LOCAL), modern("server/discover"))
        else:
            hello = request("initialize", {"protocolVersion": revision.name})
            answer = await ask(server, Session("memory", LOCAL), hello)
        capabilities = answer["result"]["capabilities"]
        assert capabilities["resources"] == {"subscribe": True, "listChanged": True}
        assert capabilities["prompts"] == capabilities["tools"] == {"listChanged": True}
        assert ("completions" in capabilities) is (revision.name != "2024-11-05")


@pytest.mark.parametrize("revision", wire.HANDSHAKE_REVISIONS)
async def test_resources_are_listed_and_read_in_every_revision(server: McpServer, hello: Project, revision: str):
    """Modification times only where the revision has a field for them; the URI is echoed as requested."""
    session = initialized_session(revision)
    listed = (await ask(server, session, request("resources/list")))["result"]
    assert "ttlMs" not in listed
    (config,) = [each for each in listed["resources"] if each["uri"] == "config://content/greeting"]
    assert ("annotations" in config) is (revision >= "2025-06-18")
    uri = "choracompose://config/content/greeting"
    read = (await ask(server, session, request("resources/read", {"uri": uri})))["result"]
    (contents,) = read["contents"]
    assert contents["uri"] == uri
    assert contents["mimeType"] == "application/json"
    assert msgspec.json.decode(contents["text"])["id"] == "greeting"
    templates = (await ask(server, session, request("resources/templates/list")))["result"]["resourceTemplates"]
    assert "content://{content_id}/{version_id}" in [each["uriTemplate"] for each in templates]


async def test_modern_results_say_how_long_they_may_be_cached(server: McpServer, hello: Project):
    """Constant ones for long, those that may change at any time not at all."""
    session = Session("memory", LOCAL)
    for method, params, lasts in (
        ("resources/list", {}, False),
        ("resources/templates/list", {}, True),
        ("prompts/list", {}, True),
        ("resources/read", {"uri": "schema://content"}, True),
        ("resources/read", {"uri": "config://content/greeting"}, False),
    ):
        result = (await ask(server, session, modern(method, **params)))["result"]
        assert result["resultType"] == "complete"
        assert (result["ttlMs"] > 0, result["cacheScope"]) == ((True, "public") if lasts else (False, "private"))
        assert result["_meta"][wire.SERVER_KEY]["name"] == "chora"


async def test_a_missing_resource_has_the_error_code_of_its_era(server: McpServer, hello: Project):
    """-32002 with a handshake, -32602 without; the data has the URI and a hint."""
    for message, session, code in (
        (request("resources/read", {"uri": "content://missing"}), initialized_session(), wire.RESOURCE_NOT_FOUND),
        (modern("resources/read", uri="content://missing"), Session("memory", LOCAL), wire.INVALID_PARAMS),
    ):
        error = (await ask(server, session, message))["error"]
        assert error["code"] == code
        assert error["data"]["uri"] == "content://missing"
        assert error["data"]["code"] == "content_not_found"
        assert "resources/list" in error["data"]["hint"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/read", {}),
        ("resources/read", {"uri": 7}),
        ("resources/read", {"uri": "config://content/.."}),
        ("resources/list", {"cursor": "made up"}),
        ("resources/list", {"cursor": 7}),
        ("resources/subscribe", {}),
        ("resources/subscribe", {"uri": "config://content/" + "x" * 3000}),
        ("prompts/get", {}),
        ("prompts/get", {"name": "make-coffee"}),
        ("prompts/get", {"name": "author-config"}),
        ("prompts/get", {"name": "author-config", "arguments": {"kind": 1}}),
        ("prompts/get", {"name": "review-content", "arguments": {"content_id": "missing"}}),
        ("completion/complete", {}),
        ("completion/complete", {"ref": {"type": "ref/magic"}, "argument": {"name": "a", "value": ""}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": ""}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "x"}, "argument": {"name": "a", "value": ""}}),
    ],
)
async def test_wrong_parameters_are_refused(server: McpServer, method: str, params: Any):
    """-32602, and the next request is answered."""
    session = initialized_session()
    answer = await ask(server, session, request(method, params))
    assert answer["error"]["code"] == wire.INVALID_PARAMS, answer
    assert (await ask(server, session, request("ping")))["result"] == {}


async def test_an_invalid_config_is_distinguished_from_a_missing_one(server: McpServer, project: Project):
    """Its faults are in the error."""
    project.write("configs/content/broken.json", "{")
    error = (await ask(server, initialized_session(), request("resources/read", {"uri": "config://content/broken"})))[
        "error"
    ]
    assert error["code"] == wire.INVALID_PARAMS
    assert error["data"]["code"] == "validation_failed"


async def test_a_bug_in_a_resource_is_logged_under_an_id(
    server: McpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Only cancellation is raised by the server; the client gets nothing of the exception's text (CWE-209)."""

    def fail(resources: ProjectResources, uri: str) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(ProjectResources, "read_resource", fail)
    error = (await ask(server, initialized_session(), request("resources/read", {"uri": "schema://content"})))["error"]
    assert error["code"] == wire.INTERNAL_ERROR
    assert "secret" not in str(error)
    assert error["data"]["code"] == "internal_error"
    assert "secret" in caplog.text


async def test_prompts_are_listed_and_got(server: McpServer, hello: Project):
    """Titles and links only where the revision has them; an older client gets the link as a sentence."""
    for revision in wire.HANDSHAKE_REVISIONS:
        session = initialized_session(revision)
        knows = revision >= "2025-06-18"
        prompts = (await ask(server, session, request("prompts/list")))["result"]["prompts"]
        assert [prompt["name"] for prompt in prompts] == ["author-config", "refresh-stale", "review-content"]
        assert all(("title" in prompt) is knows for prompt in prompts)
        arguments = {"kind": "content", "purpose": "To greet"}
        got = await ask(server, session, request("prompts/get", {"name": "author-config", "arguments": arguments}))
        kinds = [message["content"]["type"] for message in got["result"]["messages"]]
        assert kinds == ["text", "text", *["resource_link" if knows else "text"] * 2, "text"]
        assert "schema://content" in str(got["result"]["messages"][2])


async def test_completion_lists_prefix_matches_first(server: McpServer, project: Project):
    """Then values that contain the text; a hundred at most, with the total."""
    for name in ("beta-alpha", "alpha-1", "Alpha", "gamma"):
        project.save({**content("x"), "id": name.lower()})
    reference = {"type": "ref/resource", "uri": "config://content/{content_id}"}
    session = initialized_session()

    async def complete(typed: str, ref: Any = reference, name: str = "content_id", **rest: Any) -> Any:
        params = {"ref": ref, "argument": {"name": name, "value": typed}, **rest}
        return (await ask(server, session, request("completion/complete", params)))["result"]["completion"]

    assert await complete("AL") == {"values": ["alpha", "alpha-1", "beta-alpha"], "total": 3, "hasMore": False}
    assert (await complete("x"))["values"] == []
    prompt = {"type": "ref/prompt", "name": "author-config"}
    assert (await complete("co", prompt, "kind"))["values"] == ["content", "collection"]
    assert (await complete("", prompt, "none", context=None))["values"] == []
    for number in range(150):
        project.save({**content("x"), "id": f"many-{number}"})
    many = await complete("many", context={"arguments": None})
    assert (len(many["values"]), many["total"], many["hasMore"]) == (100, 150, True)


async def test_versions_are_completed_for_the_chosen_content(server: McpServer, hello: Project):
    """The context of a completion has the other parameters' values."""
    session = initialized_session()
    call = request("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "greeting"}})
    version = (await ask(server, session, call))["result"]["structuredContent"]["metadata"]["version_id"]
    params = {
        "ref": {"type": "ref/resource", "uri": "content://{content_id}/{version_id}"},
        "argument": {"name": "version_id", "value": ""},
        "context": {"arguments": {"content_id": "greeting"}},
    }
    completion = (await ask(server, session, request("completion/complete", params)))["result"]["completion"]
    assert completion["values"] == [version]


# -- notifications and subscriptions ----------------------------------------------------------------------------


async def next_notification(queue: NotificationQueue) -> Any:
    with trio.fail_after(PATIENCE):
        return msgspec.json.decode(await queue.wait_next())


async def initialize(server: McpServer) -> Session:
    session = Session("memory", LOCAL)
    await ask(server, session, request("initialize", {"protocolVersion": "2025-11-25"}))
    server.broadcaster.subscribe(session.notifications)
    return session


@requirement("resources.notifications")
async def test_a_subscriber_is_notified_of_its_resources_only(server: McpServer, engine: Engine, hello: Project):
    """By the URI it used; after unsubscribing no more."""
    session = await initialize(server)
    uri = "choracompose://content/greeting"
    assert (await ask(server, session, request("resources/subscribe", {"uri": uri})))["result"] == {}
    missing = await ask(server, session, request("resources/subscribe", {"uri": "nope://x"}))
    assert missing["error"]["code"] == wire.RESOURCE_NOT_FOUND
    server.notify_resource_changed("config://content/greeting")
    engine.changes.subscribe(server.notify_resource_changed)
    call = request("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "greeting"}})
    await ask(server, session, call)
    first, second = await next_notification(session.notifications), await next_notification(session.notifications)
    assert (first["method"], first["params"]) == ("notifications/resources/updated", {"uri": uri})
    assert second["method"] == "notifications/resources/list_changed", "it is the first text of this content"
    assert (await ask(server, session, request("resources/unsubscribe", {"uri": uri})))["result"] == {}
    server.notify_resource_changed("content://greeting")
    server.notify_list_changed("tools")
    methods = [(await next_notification(session.notifications))["method"] for _ in range(2)]
    assert methods == ["notifications/resources/list_changed", "notifications/tools/list_changed"]


async def test_the_list_of_versions_changes_with_the_text(server: McpServer):
    """A new text changes `content://…/versions`."""
    session = await initialize(server)
    await ask(server, session, request("resources/subscribe", {"uri": "content://note/versions"}))
    server.notify_resource_changed("content://note")
    assert (await next_notification(session.notifications))["params"] == {"uri": "content://note/versions"}


@requirement("server.sessions.small")
@pytest.mark.parametrize("start", ["content://n-{}", "content://" + "n" * 180 + "-{}", "choracompose://content/n-{}"])
async def test_the_subscriptions_of_a_session_are_limited(server: McpServer, start: str):
    """By the bytes that they take; repeating one takes none, and unsubscribing makes room."""

    async def subscribe(uri: str) -> dict[str, Any]:
        return await ask(server, session, request("resources/subscribe", {"uri": uri}))

    session = await initialize(server)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        count = 0
        while "result" in (answer := await subscribe(start.format(count))):
            count += 1
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert answer["error"]["code"] == wire.INVALID_REQUEST
    assert answer["error"]["data"] == {"code": "limit_exceeded"}
    assert count >= 30
    assert taken < STATE_LIMIT + 4096
    assert "result" in await subscribe(start.format(1))
    await ask(server, session, request("resources/unsubscribe", {"uri": start.format(1)}))
    assert "result" in await subscribe(start.format(count))
    assert "error" in await subscribe(start.format(1))


@pytest.mark.parametrize(("length", "outcome"), [(URI_LIMIT, "result"), (URI_LIMIT + 1, "error")])
async def test_a_uri_to_subscribe_to_may_be_as_long_as_the_limit(server: McpServer, length: int, outcome: str):
    """One character more is refused."""
    session = await initialize(server)
    uri = "template://" + "x" * (length - len("template://"))
    assert outcome in await ask(server, session, request("resources/subscribe", {"uri": uri}))
    assert any(change.uri == uri for change in session.notifications.subscribed) == (outcome == "result")


async def test_each_era_has_its_own_way_to_subscribe(server: McpServer):
    """subscribe and unsubscribe with a handshake, listen without; the other era's method is unknown."""
    for method in ("resources/subscribe", "resources/unsubscribe", "ping", "initialize"):
        answer = await ask(server, Session("memory", LOCAL), modern(method, uri="content://note"))
        assert answer["error"]["code"] == wire.METHOD_NOT_FOUND
    answer = await ask(server, initialized_session(), request("subscriptions/listen", {"notifications": {}}))
    assert answer["error"]["code"] == wire.METHOD_NOT_FOUND


class Listening:
    """A `subscriptions/listen` in flight."""

    def __init__(self, server: McpServer, session: Session, nursery: trio.Nursery, id: Any = "sub-1") -> None:
        self.server, self.session, self.id = server, session, id
        self.reply: Any = None
        self.over = trio.Event()
        self._sending, self._heard = trio.open_memory_channel[Any](100)
        self._nursery = nursery

    async def start(self, **filters: Any) -> Any:
        """Start it, and return the acknowledgement."""
        message = request("subscriptions/listen", {"notifications": filters, "_meta": MODERN}, self.id)
        self._nursery.start_soon(self._run, message)
        acknowledged = await self.next()
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        return acknowledged["params"]["notifications"]

    async def next(self) -> Any:
        with trio.fail_after(PATIENCE):
            message = await self._heard.receive()
        assert message["params"]["_meta"] == {wire.SUBSCRIPTION_KEY: self.id}
        return message

    async def _run(self, message: bytes) -> None:
        async def notify(body: bytes) -> None:
            await self._sending.send(msgspec.json.decode(body))

        self.reply = await ask(self.server, self.session, message, notify)
        self.over.set()


@pytest.mark.parametrize("id", ["sub-1", 7])
async def test_listen_streams_the_requested_changes(server: McpServer, id: Any):
    """First an acknowledgement, then only requested kinds, each with the request's id; it gets its result when the
    server ends it.
    """
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            one = Listening(server, Session("memory", LOCAL), nursery, id)
            honored = await one.start(
                resourcesListChanged=True,
                toolsListChanged=False,
                resourceSubscriptions=["choracompose://config/content/note", "nope://x", "config://content/.."],
            )
            assert honored == {
                "resourcesListChanged": True,
                "resourceSubscriptions": ["choracompose://config/content/note"],
            }
            server.notify_list_changed("tools")
            server.notify_resource_changed("config://content/other")
            server.notify_resource_changed("config://content/note")
            server.notify_list_changed("resources")
            assert (await one.next())["params"]["uri"] == "choracompose://config/content/note"
            assert (await one.next())["method"] == "notifications/resources/list_changed"
            one.session.close_subscriptions()
            await one.over.wait()
    assert one.reply["id"] == id
    assert one.reply["result"]["resultType"] == "complete"
    assert one.reply["result"]["_meta"][wire.SUBSCRIPTION_KEY] == id
    assert server.broadcaster.is_empty
    assert not one.session.in_flight


async def test_a_cancelled_subscription_gets_no_response(server: McpServer):
    """notifications/cancelled ends it where streams share a connection."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            one = Listening(server, Session("memory", LOCAL), nursery)
            assert await one.start(promptsListChanged=True, toolsListChanged=True) == {
                "promptsListChanged": True,
                "toolsListChanged": True,
            }
            cancel = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"sub-1"}}'
            await server.answer(one.session, cancel)
            await one.over.wait()
    assert one.reply is None
    assert server.broadcaster.is_empty


async def test_one_subscription_may_name_as_many_resources_as_the_limit(server: McpServer):
    """All of them are acknowledged."""
    uris = [f"content://n-{number}" for number in range(SUBSCRIPTION_LIMIT)]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            session = Session("memory", LOCAL)
            acknowledged = await Listening(server, session, nursery).start(resourceSubscriptions=uris)
            assert acknowledged == {"resourceSubscriptions": uris}
            session.close_subscriptions()


async def test_invalid_subscriptions_are_refused(server: McpServer):
    """Without a stream, without filters, a repeated id, too many at a time, too many resources."""
    session = Session("memory", LOCAL)

    async def refused(message: bytes, notify: Any) -> int:
        return (await ask(server, session, message, notify))["error"]["code"]

    async def nowhere(body: bytes) -> None: ...

    listen = modern("subscriptions/listen", notifications={})
    assert await refused(listen, None) == wire.INVALID_REQUEST
    assert await refused(modern("subscriptions/listen"), nowhere) == wire.INVALID_PARAMS
    assert await refused(modern("subscriptions/listen", notifications=7), nowhere) == wire.INVALID_PARAMS
    many = [f"content://n-{number}" for number in range(SUBSCRIPTION_LIMIT + 1)]
    beyond = modern("subscriptions/listen", notifications={"resourceSubscriptions": many})
    assert await refused(beyond, nowhere) == wire.INVALID_PARAMS
    large = listen[:-1] + b',"more":"' + b"x" * LISTEN_BYTES + b'"}'
    assert await refused(large, nowhere) == wire.INVALID_REQUEST, "it would be kept as long as the subscription is open"
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(OPEN_SUBSCRIPTIONS_LIMIT):
                await Listening(server, session, nursery, number).start()
            assert await refused(modern("subscriptions/listen", notifications={}), nowhere) == wire.INVALID_REQUEST
            again = request("subscriptions/listen", {"notifications": {}, "_meta": MODERN}, OPEN_SUBSCRIPTIONS_LIMIT)
            assert await refused(again, nowhere) == wire.INVALID_REQUEST
            session.close_subscriptions()


@pytest.mark.parametrize("method", ["resources/list", "resources/subscribe", "subscriptions/listen"])
async def test_a_client_that_relies_on_notifications_waits_until_changes_are_known(engine: Engine, method: str):
    """What changed between its answer and the watcher's first scan would never be reported. The watcher, which waits
    for the first answer, is let go on.
    """
    server = project_server(engine, TOOLS, Metrics(), is_watched=True)
    answers = list[Any]()

    async def hear(body: bytes) -> None:
        answers.append(body)

    async def send() -> None:
        if method == "subscriptions/listen":
            reply = await ask(server, Session("memory", LOCAL), modern(method, notifications={}), hear)
        else:
            reply = await ask(server, initialized_session(), request(method, {"uri": "content://note"}))
        answers.append(reply)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await server.first_request_answered.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert not answers
            server.changes_known.set()
            await trio.testing.wait_all_tasks_blocked()
            assert len(answers) == 1
            nursery.cancel_scope.cancel()


async def test_a_broken_store_does_not_stop_notifications(server: McpServer, engine: Engine):
    """Then it is unknown whether a text is its content's first, but not that it changed."""
    session = await initialize(server)
    await ask(server, session, request("resources/subscribe", {"uri": "content://note"}))
    engine.store.close()
    server.notify_resource_changed("content://note")
    assert (await next_notification(session.notifications))["params"] == {"uri": "content://note"}


# -- traces, links ----------------------------------------------------------------------------------------------

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@requirement("events.trace-id")
@pytest.mark.parametrize(
    ("meta", "trace"),
    [
        ({"traceparent": PARENT}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": PARENT, "trace_id": "mine"}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"trace_id": "mine"}, "mine"),
        ({"trace_id": "x" * 1000}, "x" * 128),
        ({"traceparent": "garbage", "trace_id": "mine"}, "mine"),
        ({"traceparent": PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)}, None),
        ({"traceparent": 7, "trace_id": []}, None),
        ({"trace_id": ""}, None),
        ({}, None),
    ],
)
async def test_events_belong_to_the_trace_of_their_request(
    server: McpServer, hello: Project, meta: dict[str, Any], trace: str | None
):
    """A W3C traceparent wins over a plain id; an invalid one is ignored, and each request has its own."""
    for parameters, expected in ((meta, trace), ({}, None)):
        arguments = {"content_config_id": "greeting", "force": True}
        params = {"name": "generate_content", "arguments": arguments, "_meta": parameters}
        answer = await ask(server, initialized_session(), request("tools/call", params))
        assert "isError" not in answer["result"]
        last = hello.read("var/telemetry/events.jsonl").splitlines()[-1]
        assert msgspec.json.decode(last)["trace_id"] == expected


async def test_a_long_text_is_cut_and_linked(server: McpServer, project: Project):
    """In revisions without links, the URI is in the result."""
    long = "ü" * HEAD_LIMIT
    project.save(text("long", long))
    call = request("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "long"}})
    for revision in wire.HANDSHAKE_REVISIONS:
        session = initialized_session(revision)
        result = (await ask(server, session, call))["result"]
        said = msgspec.json.decode(result["content"][0]["text"])
        assert said["truncated"] is True
        assert said["content_length"] == len(long)
        assert said["content"] == "ü" * (HEAD_LIMIT // 2)
        links = [block for block in result["content"] if block["type"] == "resource_link"]
        assert [link["uri"] for link in links] == ([said["resource"]] if revision >= "2025-06-18" else [])
        read = await ask(server, session, request("resources/read", {"uri": said["resource"]}))
        assert read["result"]["contents"][0]["text"] == long


def test_the_protocol_does_not_import_what_is_served_over_it():
    """Importing the server in a new interpreter loads no tools, resources, engine or store."""
    code = "import sys, chora.protocol.server; print(*(name for name in sys.modules if name.startswith('chora')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split() if "." in name}
    assert "protocol" in loaded
    assert not loaded & {"tools", "resources", "prompts", "engine", "jobs", "catalog", "generators", "sources", "store"}


# -- what is kept and repeated of a request ------------------------------------------------------------------------


@requirement("server.sessions.small")
async def test_a_session_keeps_only_what_is_read_of_capabilities(server: McpServer):
    """However many a client declares, and whatever is in them."""
    session = Session("memory", LOCAL)
    long = {f"x-{number}": {"y": "z" * 1000} for number in range(1000)}
    declared = {"elicitation": {"form": long, **long}, "sampling": long, "roots": long, "experimental": long, **long}
    params = {"protocolVersion": "2025-11-25", "capabilities": declared}
    assert "result" in await ask(server, session, request("initialize", params))
    assert session.capabilities == {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
    for modes, kept in (({}, {}), ({"url": long}, {"url": {}}), (long, {"other": {}})):
        session = Session("memory", LOCAL)
        params = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": modes, "sampling": True}}
        assert "result" in await ask(server, session, request("initialize", params))
        assert session.capabilities == {"elicitation": kept}


@requirement("server.echo")
async def test_an_id_is_as_long_as_it_needs_to_be(server: McpServer):
    """Every message about a request repeats its id; a longer one is refused, and not repeated."""
    ping = b'{"jsonrpc":"2.0","method":"ping","id":%b}'
    for id in (b'"' + b"x" * 254 + b'"', b"1" * 256):
        reply = await server.answer(initialized_session(), ping % id)
        assert reply is not None
        assert reply.body == b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id
    for id in (b'"' + b"x" * 255 + b'"', b"1" * 257, b'"' + b"x" * 1_000_000 + b'"'):
        answer = await ask(server, initialized_session(), ping % id)
        assert (answer["id"], answer["error"]["code"]) == (None, wire.INVALID_REQUEST)
        assert answer["error"]["message"] == "A request's id is a string or a number, of at most 256 bytes"


LONG = "\x01é" * 500_000
"""A text that JSON needs more bytes for than it has characters."""


@requirement("server.echo")
@pytest.mark.parametrize(
    ("method", "params"),
    [
        (LONG, {}),
        ("tools/call", {"name": LONG}),
        ("tools/call", {"name": "hello_world", "arguments": {LONG: 1}}),
        ("tools/call", {"name": "hello_world", "_meta": {"progressToken": LONG}}),
        ("tools/call", {"name": "generate_content", "arguments": {"content_config_id": LONG}}),
        ("tools/call", {"name": "validate_collection_config", "arguments": {"collection_config_path": LONG}}),
        ("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "x", "context": LONG}}),
        ("resources/read", {"uri": LONG}),
        ("resources/read", {"uri": f"content://{LONG}"}),
        ("resources/subscribe", {"uri": f"content://{LONG}"}),
        ("resources/list", {"cursor": LONG}),
        ("prompts/get", {"name": LONG}),
        ("prompts/get", {"name": "author-config", "arguments": {"kind": LONG, "purpose": "x"}}),
        ("prompts/get", {"name": "author-config", "arguments": {"kind": "content", "purpose": LONG}}),
        ("prompts/get", {"name": "author-config", "arguments": {"kind": "content", "purpose": "x", LONG: "x"}}),
        ("prompts/get", {"name": "review-content", "arguments": {"content_id": LONG}}),
        ("prompts/get", {"name": "refresh-stale", "arguments": {"collection": LONG}}),
        ("completion/complete", {"ref": {"type": LONG}, "argument": {"name": "a", "value": "b"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": LONG}, "argument": {"name": "", "value": ""}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": LONG}, "argument": {"name": "", "value": ""}}),
        ("logging/setLevel", {"level": LONG}),
        ("initialize", {"protocolVersion": LONG, "capabilities": {}}),
        ("initialize", {"protocolVersion": LONG, "capabilities": LONG}),
        ("server/discover", {"_meta": {wire.VERSION_KEY: LONG, wire.CAPABILITIES_KEY: {}}}),
        ("server/discover", {"_meta": {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: LONG}}),
        ("tools/call", {"name": "hello_world", "_meta": {**MODERN, wire.LEVEL_KEY: LONG}}),
        ("tools/call", {"name": "hello_world", "_meta": MODERN, "requestState": LONG}),
        ("tools/call", {"name": "hello_world", "_meta": MODERN, "inputResponses": {LONG: 1}}),
        ("subscriptions/listen", {"_meta": MODERN, "notifications": {"toolsListChanged": LONG}}),
    ],
)
async def test_what_is_repeated_of_a_request_is_cut(server: McpServer, method: str, params: dict[str, Any]):
    """Names, keys, ids, addresses and values in errors; otherwise an answer would be a multiple of the request."""

    async def notify(_: bytes) -> None: ...

    reply = await server.answer(initialized_session(), request(method, params), notify)
    assert reply is not None
    assert len(reply.body) < 64 * 1024


@requirement("server.memory")
async def test_a_request_without_room_is_not_begun(server: McpServer, project: Project):
    """Nor is one decoded. One whose answer finds no room was carried out: it says so, and not to come again."""
    project.save(text("long", "y" * 200_000))
    memory = server.memory
    session = initialized_session(principal=Principal("modest", "write"))
    call = request("tools/call", {"name": "preview_generation", "arguments": {"content_config_id": "long"}})

    async def answer(*held: int) -> tuple[dict[str, Any], bool]:
        with ExitStack() as stack, memory.hold("modest") as holding:
            for number, count in enumerate(held):
                stack.enter_context(memory.hold(f"greedy-{number}")).charge(count)
            reply = await server.answer(session, call, holding=holding)
            assert reply is not None
            return msgspec.json.decode(reply.body), holding.refused

    memory.limit = MIB
    body, refused = await answer()
    assert (body["result"]["structuredContent"]["success"], refused) == (True, False)
    body, refused = await answer(MIB // 2)
    assert (body["error"]["data"]["code"], refused) == ("busy", False)
    assert body["error"]["message"].endswith("The call was carried out, but its answer is lost.")
    body, refused = await answer(MIB // 2, MIB // 4)
    assert (body["error"]["data"]["code"], refused) == ("busy", True)
    assert "carried out" not in body["error"]["message"]
    assert memory.held == {}
