"""The calls of a client that has all of its messages on one stream: how many run, and what gets through meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from chora.access import LOCAL
from chora.engine.engine import Engine
from chora.errors import Busy
from chora.metrics import Metrics
from chora.peer_memory import PeerMemory
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.protocol.types import Call, ToolAnswer
from chora.provider import project_server
from chora.tools import TOOLS
from chora.transport import call_queue
from chora.transport.call_queue import LINE_BYTES, STUCK_AFTER, CallQueue, refusal
from tests.conftest import requirement
from tests.http_client import HELLO, message

ROOM = 3 * (LINE_BYTES + 200)


def call(id: Any, tool: str = "hello_world") -> bytes:
    return msgspec.json.encode(message("tools/call", {"name": tool, "arguments": {"id": id}}, id))


def cancel(id: Any) -> bytes:
    return msgspec.json.encode(message("notifications/cancelled", {"requestId": id}, None)).replace(b'"id":null,', b"")


class Client:
    """A session with a queue for two calls at a time; its calls wait until they are let go, or for an answer."""

    def __init__(self, server: McpServer, nursery: trio.Nursery, memory: PeerMemory, holding: Any) -> None:
        self.server = server
        self.memory = memory
        self.session = Session("stdio", LOCAL)
        self.began: list[Any] = []
        self.ended: list[Any] = []
        self.sent: list[Any] = []
        self.let_go: dict[Any, trio.Event] = {}
        self.queue = CallQueue(self.session, self.answer, nursery, holding, ROOM)

    async def answer(self, line: bytes) -> None:
        reply = await self.server.answer(self.session, line, self.notify)
        if reply is not None:
            self.ended.append(msgspec.json.decode(reply.body)["id"])

    async def notify(self, body: bytes) -> None:
        self.sent.append(msgspec.json.decode(body))

    async def work(self, name: str, arguments: Any, call: Call) -> ToolAnswer:
        number = msgspec.json.decode(arguments)["id"]
        self.began.append(number)
        if name == "hello_world":
            await self.let_go.setdefault(number, trio.Event()).wait()
        else:
            assert call.client is not None
            assert await call.client.confirm("Really?", number) is True
        return ToolAnswer(b"{}", False)

    async def add(self, *ids: Any, tool: str = "hello_world") -> None:
        for id in ids:
            await self.queue.add_call(call(id, tool))
            await trio.testing.wait_all_tasks_blocked()

    async def release(self, id: Any) -> None:
        self.let_go.setdefault(id, trio.Event()).set()
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def client(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Client]:
    async with opened(engine, monkeypatch) as client:
        yield client


@asynccontextmanager
async def opened(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Client]:
    monkeypatch.setattr(call_queue, "CALLS_LIMIT", 2)
    memory = PeerMemory(100 * ROOM)
    server = project_server(engine, TOOLS, Metrics())
    with memory.hold("stdio") as holding:
        async with trio.open_nursery() as nursery:
            client = Client(server, nursery, memory, holding)
            monkeypatch.setattr(server._provider, "call_tool", client.work)
            hello = {**HELLO, "capabilities": {"elicitation": {}}}
            await client.answer(msgspec.json.encode(message("initialize", hello, "hello")))
            client.ended.clear()
            yield client
            nursery.cancel_scope.cancel()
    assert memory.held == {}


@requirement("server.calls-in-flight")
async def test_so_many_calls_run_and_the_others_wait_in_order(client: Client):
    """Each gets its answer; what waits is held as a line and charged."""
    await client.add(1, 2, 3, 4)
    assert client.began == [1, 2]
    assert client.memory.total > 2 * LINE_BYTES
    await client.release(2)
    assert (client.began, client.ended) == ([1, 2, 3], [2])
    for id in (1, 3, 4):
        await client.release(id)
    assert (client.began, client.ended) == ([1, 2, 3, 4], [2, 1, 3, 4])
    assert (client.memory.total, client.session.in_flight) == (0, {})


@requirement("server.calls-in-flight")
async def test_a_cancellation_gets_through_to_running_and_to_waiting_calls(client: Client):
    """Neither gets an answer; the slot of a running one is free for the next that wasn't cancelled."""
    await client.add(1, 2, 3, 4)
    await client.answer(cancel(3))
    await client.answer(cancel(1))
    await trio.testing.wait_all_tasks_blocked()
    assert client.began == [1, 2, 4]
    for id in (2, 4):
        await client.release(id)
    assert client.ended == [2, 4]


@requirement("server.calls-in-flight")
async def test_an_answer_to_a_question_gets_through(client: Client):
    """Also one that has the look of a call in it, while calls that wait for answers take all slots."""
    await client.add(1, 2, tool="delete_content")
    await client.add(3)
    assert client.began == [1, 2]
    questions = [each["id"] for each in client.sent]
    assert len(questions) == 2
    for id in questions:
        result = {"action": "accept", "content": {"confirm": True}, "_meta": {"about": "tools/call"}}
        await client.queue.add_call(msgspec.json.encode({"jsonrpc": "2.0", "id": id, "result": result}))
        await trio.testing.wait_all_tasks_blocked()
    assert client.ended == [1, 2]
    assert client.began == [1, 2, 3]


async def test_what_cannot_be_a_call_is_answered_at_once(client: Client):
    """What isn't a message, and a call whose id is in flight or waits already."""
    await client.add(1, 2, 3)
    await client.queue.add_call(b'{"/call')
    await client.queue.add_call(call(1))
    await client.queue.add_call(call(3))
    assert client.ended == [None, 1, 3]
    assert client.began == [1, 2]


@requirement("server.calls-in-flight")
async def test_reading_stops_while_the_queue_is_full(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
):
    """For some seconds, in which a call may end. When none does, calls are refused at once until one does: those that
    run may be waiting for what the client has sent behind its calls.
    """
    async with opened(engine, monkeypatch) as client, trio.open_nursery() as nursery:
        await client.add(1, 2, 3, 4, 5)
        nursery.start_soon(client.add, 6)
        await trio.sleep(STUCK_AFTER / 2)
        assert 6 not in [msgspec.json.decode(each) for each in client.session.in_flight]
        await client.release(1)
        assert client.began == [1, 2, 3]
        began = trio.current_time()
        with pytest.raises(Busy):
            await client.queue.add_call(call(7))
        assert trio.current_time() - began == STUCK_AFTER
        with pytest.raises(Busy) as refused:
            await client.queue.add_call(call(8))
        assert trio.current_time() - began == STUCK_AFTER
        error = msgspec.json.decode(refusal(call(8), refused.value))
        assert (error["id"], error["error"]["data"]["code"]) == (8, "busy")
        await client.answer(cancel(2))
        await trio.testing.wait_all_tasks_blocked()
        await client.add(9)
        assert client.began == [1, 2, 3, 4]
        for id in (3, 4, 5, 6, 9):
            await client.release(id)
        assert client.ended == [1, 3, 4, 5, 6, 9]


async def test_a_line_longer_than_the_queue_waits_alone(client: Client):
    """Or it could never be read."""
    await client.add(1, 2)
    large = call(3)[:-1] + b',"more":"' + b"x" * ROOM + b'"}'
    await client.queue.add_call(large)
    await client.release(1)
    assert client.began == [1, 2, 3]


async def test_without_room_in_the_account_nothing_waits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
):
    """The queue counts as full."""
    async with opened(engine, monkeypatch) as client:
        client.memory.limit = 1000
        await client.add(1, 2)
        with pytest.raises(Busy):
            await client.queue.add_call(call(3))
        await client.release(1)
        await client.add(4)
        assert client.began == [1, 2, 4]
