"""The same messages to the Python SDK's low-level server and to ours: they answer the same, or there is a reason."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chora.access import LOCAL
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from tests.contract import fixture_server
from tests.contract.oracle import OFFERED, oracle
from tests.patience import PATIENCE

MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}
CLIENT_INFO = {"name": "client", "version": "1"}


class Case(NamedTuple):
    """The messages, after a handshake with this revision (without one if it is empty)."""

    name: str
    revision: str
    lines: tuple[bytes, ...]


def call(method: Any, params: Any = ..., id: Any = 1, **rest: Any) -> bytes:
    """A request; without params it has none."""
    body = {"jsonrpc": "2.0", "id": id, "method": method, **rest}
    return json.dumps(body if params is ... else {**body, "params": params}).encode()


def note(method: str, params: Any = ...) -> bytes:
    """A notification."""
    body = {"jsonrpc": "2.0", "method": method}
    return json.dumps(body if params is ... else {**body, "params": params}).encode()


def hello(version: Any, **rest: Any) -> bytes:
    return call("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT_INFO} | rest, id=0)


def modern(method: str, params: Any = None, meta: dict[str, Any] | None = None) -> bytes:
    """A request of the modern era; None leaves a field out of its envelope."""
    envelope = {key: value for key, value in (MODERN | (meta or {})).items() if value is not None}
    return call(method, {**(params or {}), "_meta": envelope})


OPENINGS = {
    **{f"initialize {version}": hello(version) for version in wire.HANDSHAKE_REVISIONS},
    "initialize, unknown revision": hello("1999-01-01"),
    "initialize, modern revision": hello("2026-07-28"),
    "initialize, no date": hello("zzz"),
    "initialize, empty revision": hello(""),
    "initialize, revision is a number": hello(5),
    "initialize, revision is null": hello(None),
    "initialize, no revision": call("initialize", {"capabilities": {}, "clientInfo": CLIENT_INFO}),
    "initialize, no capabilities": call("initialize", {"protocolVersion": "2025-11-25", "clientInfo": CLIENT_INFO}),
    "initialize, no clientInfo": call("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}}),
    "initialize, capabilities are a list": hello("2025-11-25", capabilities=[]),
    "initialize, clientInfo without version": hello("2025-11-25", clientInfo={"name": "x"}),
    "initialize, unknown members": hello("2025-11-25", capabilities={"unheard": {"of": 1}}, more=1),
    "initialize, no params": call("initialize"),
    "ping before initialize": call("ping"),
    "tools/list before initialize": call("tools/list"),
    "unknown method before initialize": call("make/coffee"),
    "notification before initialize": note("notifications/initialized"),
}

SPOKEN = {
    "ping": call("ping"),
    "ping, empty params": call("ping", {}),
    "ping, params are null": call("ping", None),
    "ping, with a progress token": call("ping", {"_meta": {"progressToken": "p"}}),
    "ping, with a progress token that is an object": call("ping", {"_meta": {"progressToken": {}}}),
    "ping, _meta is a list": call("ping", {"_meta": []}),
    "ping, unknown members": call("ping", {"unheard": 1}, of=2),
    "initialize again": hello("2025-11-25"),
    "unknown method": call("make/coffee"),
    "empty method": call(""),
    "method of the modern era": call("server/discover"),
    "subscription of the modern era": call("subscriptions/listen", {"notifications": {}}),
    "unknown notification": note("notifications/unheard"),
    "notifications/initialized again": note("notifications/initialized"),
    "request under a notification's name": call("notifications/initialized"),
    "notification under a request's name": note("tools/list"),
    "cancellation of an unknown request": note("notifications/cancelled", {"requestId": 99}),
    "cancellation of nothing": note("notifications/cancelled", {}),
    "cancellation without params": note("notifications/cancelled"),
    "progress of an unknown request": note("notifications/progress", {"progressToken": 9, "progress": 1}),
    "roots changed": note("notifications/roots/list_changed"),
    "tools/list": call("tools/list"),
    "tools/list, empty params": call("tools/list", {}),
    "tools/list, params are null": call("tools/list", None),
    "tools/list, cursor is null": call("tools/list", {"cursor": None}),
    "tools/list, cursor is garbage": call("tools/list", {"cursor": "garbage"}),
    "tools/list, cursor is a number": call("tools/list", {"cursor": 5}),
    "tools/call": call("tools/call", {"name": "test_simple_text"}),
    "tools/call, empty arguments": call("tools/call", {"name": "test_simple_text", "arguments": {}}),
    "tools/call, arguments are null": call("tools/call", {"name": "test_simple_text", "arguments": None}),
    "tools/call, arguments are a list": call("tools/call", {"name": "test_simple_text", "arguments": []}),
    "tools/call, arguments are a text": call("tools/call", {"name": "test_simple_text", "arguments": "{}"}),
    "tools/call, with arguments": call("tools/call", {"name": "test_x_mcp_header", "arguments": {"region": "eu"}}),
    "tools/call that fails": call("tools/call", {"name": "test_error_handling"}),
    "tools/call, unknown tool": call("tools/call", {"name": "make_coffee"}),
    "tools/call, no name": call("tools/call", {}),
    "tools/call, name is a number": call("tools/call", {"name": 5}),
    "tools/call, no params": call("tools/call"),
    "resources/list": call("resources/list"),
    "resources/templates/list": call("resources/templates/list"),
    "resources/read": call("resources/read", {"uri": "test://static-text"}),
    "resources/read, unknown": call("resources/read", {"uri": "test://nothing"}),
    "resources/read, no uri": call("resources/read", {}),
    "resources/read, uri is a number": call("resources/read", {"uri": 5}),
    "resources/subscribe": call("resources/subscribe", {"uri": "test://static-text"}),
    "resources/subscribe, no uri": call("resources/subscribe", {}),
    "resources/unsubscribe": call("resources/unsubscribe", {"uri": "test://static-text"}),
    "prompts/list": call("prompts/list"),
    "prompts/get": call("prompts/get", {"name": "test_simple_prompt"}),
    "prompts/get, unknown": call("prompts/get", {"name": "make_coffee"}),
    "prompts/get, no name": call("prompts/get", {}),
    "prompts/get, argument is a number": call("prompts/get", {"name": "test_simple_prompt", "arguments": {"a": 5}}),
    "completion/complete": call(
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "test_simple_prompt"}, "argument": {"name": "a", "value": "par"}},
    ),
    "completion/complete, unknown kind": call(
        "completion/complete", {"ref": {"type": "ref/x"}, "argument": {"name": "a", "value": ""}}
    ),
    "completion/complete, no argument": call(
        "completion/complete", {"ref": {"type": "ref/prompt", "name": "test_simple_prompt"}}
    ),
    "logging/setLevel": call("logging/setLevel", {"level": "debug"}),
    "logging/setLevel, unknown level": call("logging/setLevel", {"level": "verbose"}),
    "logging/setLevel, no level": call("logging/setLevel", {}),
}

FRAMED = {
    "not JSON": b"nonsense",
    "half a message": b'{"jsonrpc":"2.0","id":1,"meth',
    "an empty object": b"{}",
    "a text": b'"ping"',
    "a number": b"5",
    "null": b"null",
    "bad UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"p\xffng"}',
    "no jsonrpc": b'{"id":1,"method":"ping"}',
    "jsonrpc 1.0": b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    "jsonrpc is a number": b'{"jsonrpc":2.0,"id":1,"method":"ping"}',
    "no method": b'{"jsonrpc":"2.0","id":1}',
    "method is a number": call(5),
    "method is null": call(None),
    "id is null": call("ping", id=None),
    "id is a text": call("ping", id="one"),
    "id is an empty text": call("ping", id=""),
    "id is negative": call("ping", id=-1),
    "id is large": call("ping", id=2**53),
    "id is larger than 64 bits": call("ping", id=2**70),
    "id is a whole float": b'{"jsonrpc":"2.0","id":1.0,"method":"ping"}',
    "id is a fraction": call("ping", id=1.5),
    "id is true": call("ping", id=True),
    "id is a list": call("ping", id=[1]),
    "id is an object": call("ping", id={}),
    "params are a list": call("ping", []),
    "params are a text": call("ping", "params"),
    "params are a number": call("ping", 5),
    "space around": b'  {"jsonrpc":"2.0","id":1,"method":"ping"}  ',
    "member twice": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
    "answer to nothing": b'{"jsonrpc":"2.0","id":99,"result":{}}',
    "error for nothing": b'{"jsonrpc":"2.0","id":99,"error":{"code":-1,"message":"x"}}',
    "answer without an id": b'{"jsonrpc":"2.0","result":{}}',
    "request and answer at once": b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}',
    "empty batch": b"[]",
    "batch of two": b"[" + call("ping", id=1) + b"," + call("ping", id=2) + b"]",
    "batch of notifications": b"[" + note("notifications/unheard") + b"]",
    "batch with something else in it": b"[1," + call("ping", id=2) + b"]",
}

ENVELOPED = {
    "server/discover": modern("server/discover"),
    "server/discover, with clientInfo": modern(
        "server/discover", meta={"io.modelcontextprotocol/clientInfo": CLIENT_INFO}
    ),
    "server/discover, clientInfo is a text": modern(
        "server/discover", meta={"io.modelcontextprotocol/clientInfo": "client"}
    ),
    "no version": modern("tools/list", meta={wire.VERSION_KEY: None}),
    "no capabilities": modern("tools/list", meta={wire.CAPABILITIES_KEY: None}),
    "version is a number": modern("tools/list", meta={wire.VERSION_KEY: 5}),
    "unknown version": modern("tools/list", meta={wire.VERSION_KEY: "2099-01-01"}),
    "version with a handshake": modern("tools/list", meta={wire.VERSION_KEY: "2025-11-25"}),
    "capabilities are a list": modern("tools/list", meta={wire.CAPABILITIES_KEY: []}),
    "ping in the modern era": modern("ping"),
    "initialize in the modern era": modern("initialize", {"protocolVersion": "2025-11-25"}),
    "logging/setLevel in the modern era": modern("logging/setLevel", {"level": "info"}),
    "resources/subscribe in the modern era": modern("resources/subscribe", {"uri": "test://static-text"}),
    "unknown method in the modern era": modern("make/coffee"),
    "tools/list in the modern era": modern("tools/list"),
    "tools/call in the modern era": modern("tools/call", {"name": "test_simple_text"}),
    "tools/call in the modern era, unknown tool": modern("tools/call", {"name": "make_coffee"}),
    "tools/call in the modern era, no name": modern("tools/call"),
    "tools/call in the modern era, answers are null": modern(
        "tools/call", {"name": "test_simple_text", "inputResponses": None}
    ),
    "tools/call in the modern era, unasked answers": modern(
        "tools/call", {"name": "test_simple_text", "inputResponses": {"x": {"action": "decline"}}}
    ),
    "tools/call in the modern era, unknown level": modern(
        "tools/call", {"name": "test_simple_text"}, meta={"io.modelcontextprotocol/logLevel": "verbose"}
    ),
    "tools/call in the modern era, a state that was never issued": modern(
        "tools/call", {"name": "test_simple_text", "requestState": "made-up"}
    ),
    "resources/list in the modern era": modern("resources/list"),
    "resources/read in the modern era": modern("resources/read", {"uri": "test://static-text"}),
    "resources/read in the modern era, unknown": modern("resources/read", {"uri": "test://nothing"}),
    "resources/read in the modern era, no uri": modern("resources/read"),
    "prompts/list in the modern era": modern("prompts/list"),
    "prompts/get in the modern era": modern("prompts/get", {"name": "test_simple_prompt"}),
    "prompts/get in the modern era, unknown": modern("prompts/get", {"name": "make_coffee"}),
    "completion/complete in the modern era": modern(
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "test_simple_prompt"}, "argument": {"name": "a", "value": "par"}},
    ),
}

CASES = [
    *(Case(name, "", (line,)) for name, line in OPENINGS.items()),
    *(Case(name, revision, (line,)) for revision in wire.HANDSHAKE_REVISIONS for name, line in SPOKEN.items()),
    *(Case(name, "2025-11-25", (line,)) for name, line in FRAMED.items()),
    *(
        Case(f"{name}, where there are batches", "2025-03-26", (line,))
        for name, line in FRAMED.items()
        if "batch" in name
    ),
    *(Case(name, "", (line,)) for name, line in ENVELOPED.items()),
    Case("handshake after an envelope", "", (modern("tools/list"), hello("2025-11-25"))),
    Case("envelope after a handshake", "2025-11-25", (modern("tools/list"),)),
    Case("two requests of one id, one after the other", "2025-11-25", (call("ping"), call("ping"))),
]

Say = Callable[[bytes], Awaitable[None]]


@asynccontextmanager
async def ours() -> AsyncGenerator[tuple[Say, list[Any]]]:
    """A conversation with our core, as the oracle has one."""
    offer = fixture_server.FixtureProvider(lambda name: None)
    offer.tools = {name: fixture_server.TOOLS[name] for name in OFFERED}
    server, session = McpServer(offer, Metrics(), name="oracle"), Session("memory", LOCAL)
    answers: list[Any] = []

    async def ignore_notification(message: bytes) -> None:
        answers.append(json.loads(message))

    async def say(line: bytes) -> None:
        reply = await server.answer(session, line, ignore_notification)
        if reply is not None:
            answers.append(json.loads(reply.body))

    yield say, answers


async def converse(peer: Any, case: Case) -> list[Any]:
    """What a server answers to the lines of a case; what it says of the handshake before is left out."""
    async with peer() as (say, answers):
        if case.revision:
            await say(hello(case.revision))
            await wait_all_tasks_blocked()
            await say(note("notifications/initialized"))
            await wait_all_tasks_blocked()
            answers.clear()
        for line in case.lines:
            await say(line)
            await wait_all_tasks_blocked()
        return [normalise(answer) for answer in answers]


def normalise(answer: Any) -> Any:
    """An answer without what each server says in words of its own: names, versions, sentences, and hints."""
    if isinstance(answer, list):
        return [normalise(each) for each in answer]
    if "error" in answer:
        error = answer["error"]
        kept = ("code", "data") if error["code"] in (wire.UNSUPPORTED_VERSION, wire.MISSING_CAPABILITY) else ("code",)
        return {**answer, "error": {key: error[key] for key in kept}}
    result = {key: value for key, value in answer["result"].items() if key not in ("serverInfo", "instructions")}
    if "content" in result:
        result.setdefault("isError", False)
    if "_meta" in result:
        result["_meta"] = sorted(result["_meta"])
    return {**answer, "result": result}


UNANSWERED = "JSON-RPC demands an error for an invalid message; the SDK drops it, and its client waits."
TOLERANT = "It isn't needed to answer, so a client that leaves it out or gets it wrong is answered all the same."

ON_PURPOSE = {
    "initialize 2024-11-05": "That revision has no capability of completion yet; the SDK announces it anyway.",
    "initialize, no capabilities": TOLERANT,
    "initialize, no clientInfo": TOLERANT,
    "initialize, clientInfo without version": TOLERANT,
    "server/discover, clientInfo is a text": TOLERANT,
    "unknown method before initialize": "Without a handshake the error says so, whatever the method.",
    "tools/call, arguments are a list": "Bad arguments are a result that the model can act on.",
    "tools/call, arguments are a text": "Bad arguments are a result that the model can act on.",
    **dict.fromkeys(
        (
            "not JSON",
            "half a message",
            "an empty object",
            "a text",
            "a number",
            "null",
            "bad UTF-8",
            "no jsonrpc",
            "jsonrpc 1.0",
            "jsonrpc is a number",
            "method is a number",
            "method is null",
            "id is null",
            "id is true",
            "id is a list",
            "id is an object",
            "params are a list",
            "params are a text",
            "params are a number",
            "empty batch",
            "batch of two",
            "batch of notifications",
            "batch with something else in it",
        ),
        UNANSWERED,
    ),
    "id is a whole float": "Any number is an id to JSON-RPC, and comes back as it was sent.",
    "id is a fraction": "Any number is an id to JSON-RPC, and comes back as it was sent.",
    "empty batch, where there are batches": UNANSWERED,
    "batch of two, where there are batches": "Revisions up to 2025-03-26 have batches; the SDK drops them.",
    "batch with something else in it, where there are batches": "Of a batch, each message is answered by itself.",
    "server/discover": "Ours may be cached, as changes of its lists are notified; the SDK's server knows none.",
    "server/discover, with clientInfo": "As without.",
    "initialize in the modern era": "Gone is gone: the same answer as to any method that there isn't.",
    "tools/call in the modern era, answers are null": "The conformance suite doesn't accept null as answers.",
    "tools/call in the modern era, a state that was never issued": "A state must be one that the server issued.",
    "handshake after an envelope": "Each request says what it is spoken in, so both eras may share a pipe.",
    "envelope after a handshake": "Each request says what it is spoken in, so both eras may share a pipe.",
}
"""Where we differ, and why."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.revision}".strip())
async def test_both_servers_answer_the_same_or_there_is_a_reason(case: Case):
    """Results are equal, errors have the same code; every difference is in the table, and the table has no others."""
    with trio.fail_after(PATIENCE):
        theirs, mine = await converse(oracle, case), await converse(ours, case)
    if case.name in ON_PURPOSE:
        assert mine != theirs, f"we don't differ any more: {ON_PURPOSE[case.name]}"
    else:
        assert mine == theirs


def test_every_reason_belongs_to_a_case():
    """Reasons of removed cases are removed too."""
    assert set(ON_PURPOSE) <= {case.name for case in CASES}
