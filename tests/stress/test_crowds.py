"""Many at the door at once: who waits, who forgets to leave, who never listens."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from tests.conftest import requirement
from tests.patience import PATIENCE
from tests.stress.conftest import HELLO, MIB, House, Knocker, Open, linux, post


def request(method: str, params: Any, id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


async def eventually(house: House, metric: str, value: float) -> None:
    with trio.fail_after(PATIENCE):
        while await house.metric(metric) != value:
            await trio.sleep(0.1)


@linux
@requirement("door.streams")
async def test_two_thousand_idle_streams_are_cheap(open_house: Open):
    """They cost little, hinder nobody, and leave nothing behind."""
    count = 2000
    async with open_house("sessions = 3000\nsessions_each = 3000") as house:
        before, opened = house.memory, house.descriptors
        async with AsyncExitStack() as stack:
            for _ in range(count):
                visitor = await stack.enter_async_context(house.knock())
                await visitor.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"endpoint" in await visitor.until(b"event: endpoint\r\n")
            assert await house.metric('chora_sessions{transport="sse"}') == count
            assert (house.memory - before) / count < 60 * 1024
            await house.is_well()
        await eventually(house, 'chora_sessions{transport="sse"}', 0)
        with trio.fail_after(PATIENCE):
            while house.descriptors > opened + 5:
                await trio.sleep(0.1)
        await house.is_well()


@linux
async def test_ten_thousand_abandoned_sessions_make_room(open_house: Open):
    """Whoever never ends a session loses the oldest; the newest works, and memory stays where it was."""
    async with open_house() as house, house.knock() as visitor:
        ids: list[str] = []
        highest = 0
        hello = post("/mcp", request("initialize", HELLO))
        for number in range(10_000):
            await visitor.send(hello)
            status, headers, _ = await visitor.answer()
            assert status == 200
            ids.append(headers["mcp-session-id"])
            if number == 1500:
                highest = house.memory
        assert len(set(ids)) == len(ids)
        assert await house.metric('chora_sessions{transport="http"}') == 1024
        assert house.memory - highest < 20 * MIB
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert [
            (await visitor.post("/mcp", ping, mcp_session_id=each))[0] for each in (ids[0], ids[-1024], ids[-1])
        ] == [
            404,
            200,
            200,
        ]


@linux
@requirement("door.descriptors")
async def test_more_connections_than_descriptors_end_nothing(open_house: Open):
    """It takes no more than it can afford, tells the others so, and can still do its work."""
    async with open_house(files=256) as house:
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(house.knock()) for _ in range(600)]
            assert house.descriptors < 250
            assert "limits.connections is lowered to 96" in house.log.read_text()
            turned_away = 0
            for visitor in crowd:
                with trio.move_on_after(0.01):
                    turned_away += (await visitor.rest()).startswith(b"HTTP/1.1 503") or not visitor.buffer
            assert turned_away >= 600 - 96 - 10
        with trio.fail_after(PATIENCE):
            while await house.metric("chora_connections") > 1:
                await trio.sleep(0.1)
        await house.is_well()


@asynccontextmanager
async def over_http(house: House) -> AsyncGenerator[Any]:
    """A client with a session, and how it makes a call."""
    async with house.knock() as visitor:
        _, headers, _ = await visitor.post("/mcp", request("initialize", HELLO))
        session = headers["mcp-session-id"]

        async def ask(id: Any, name: str) -> str:
            params = {"name": "hello_world", "arguments": {"name": name}}
            _, _, body = await visitor.post("/mcp", request("tools/call", params, id), mcp_session_id=session)
            assert body["id"] == id
            return body["result"]["structuredContent"]["message"]

        yield ask


@asynccontextmanager
async def over_sse(house: House) -> AsyncGenerator[Any]:
    async with house.knock() as listener, house.knock() as speaker:
        await listener.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await listener.until(b"event: endpoint\r\ndata: ")
        place = (await listener.until(b"\r\n")).strip().decode()

        async def exchange(message: Any) -> Any:
            status, _, _ = await speaker.post(place, message)
            assert status == 202
            await listener.until(b"event: message\r\ndata: ")
            return msgspec.json.decode(await listener.until(b"\r\n"))

        await exchange(request("initialize", HELLO))

        async def ask(id: Any, name: str) -> str:
            params = {"name": "hello_world", "arguments": {"name": name}}
            body = await exchange(request("tools/call", params, id))
            assert body["id"] == id
            return body["result"]["structuredContent"]["message"]

        yield ask


@pytest.mark.parametrize("client", [over_http, over_sse])
async def test_fifty_clients_with_the_same_ids_get_their_own_answers(open_house: Open, client: Any):
    """An id means something within one session only."""
    async with open_house() as house:

        async def talk(number: int) -> None:
            async with client(house) as ask:
                for id in range(20):
                    name = f"client-{number}-{id}"
                    assert f"Hello, {name}!" in await ask(id, name)

        async with trio.open_nursery() as crowd:
            for number in range(50):
                crowd.start_soon(talk, number)


@linux
async def test_a_listener_who_never_reads_loses_the_stream(open_house: Open):
    """What waits for it is bounded, it is counted, and nobody else notices."""
    async with open_house("write_stall = 600") as house:
        before = house.memory
        async with house.knock() as listener, house.knock() as speaker:
            await listener.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await listener.until(b"event: endpoint\r\ndata: ")
            place = (await listener.until(b"\r\n")).strip().decode()
            await speaker.post(place, request("initialize", HELLO))
            statuses: list[int] = []
            listing = request("tools/list", {})
            while (not statuses or statuses[-1] == 202) and len(statuses) < 2000:
                statuses.append((await speaker.post(place, listing))[0])
            assert statuses[-1] == 404, "the session is gone"
            assert await house.metric('chora_sessions_ended_total{reason="not reading"}') == 1
            assert house.memory - before < 60 * MIB
        await house.is_well()


BOUNDS = ("write_stall", "read_ahead")


@linux
async def test_who_takes_no_answer_is_cut(open_house: Open):
    """Requests without end whose answers nobody reads: it doesn't read, or asks for too much ahead."""
    async with open_house("write_stall = 0.5") as house:
        before = house.memory
        async with house.knock() as visitor:
            listing = post("/mcp", request("tools/list", {"_meta": {}}))
            with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await visitor.send(listing * 20)
        reasons = [await house.metric(f'chora_connections_killed{{reason="{each}"}}') for each in BOUNDS]
        assert sum(reasons) == 1
        assert house.memory - before < 40 * MIB
        await house.is_well()


FORGED = ["", "x", "0" * 32, "../../etc/passwd", "%00", "a" * 8000, "' OR 1=1 --", "é"]


async def test_a_session_id_is_guessed_by_nobody(open_house: Open):
    """Made-up ones, another transport's, one that ended, one with a letter changed: none opens anything."""
    async with open_house() as house, house.knock() as visitor, house.knock() as listener:
        _, headers, _ = await visitor.post("/mcp", request("initialize", HELLO))
        session = headers["mcp-session-id"]
        assert len(session) >= 22
        await listener.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await listener.until(b"session_id=")
        other = (await listener.until(b"\r\n")).strip().decode()
        swapped = ("B" if session[0] == "A" else "A") + session[1:]
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        for odd in (*FORGED, other, swapped, session[:-1], session + "x", session.swapcase()):
            sent = post("/mcp", ping, mcp_session_id=odd) if odd.isascii() else None
            if sent is not None:
                await visitor.send(sent)
                status, _, _ = await visitor.answer()
                assert status == (404 if odd else 400), odd
        for odd in (session, swapped, "x"):
            status, _, _ = await visitor.post(f"/messages/?session_id={odd}", ping)
            assert status == 404
        assert (await visitor.post("/mcp", ping, mcp_session_id=session))[0] == 200


# -- any bytes at all ---------------------------------------------------------------------------------------------


SEEDS = [
    post("/mcp", request("initialize", HELLO)),
    post("/mcp", request("tools/call", {"name": "hello_world", "arguments": {"name": "ü"}})),
    post("/mcp", request("server/discover", {}), mcp_protocol_version="2026-07-28", mcp_method="server/discover"),
    post("/messages/?session_id=x", {"jsonrpc": "2.0", "method": "notifications/initialized"}),
    b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /mcp HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nMcp-Session-Id: x\r\nLast-Event-ID: 1.1\r\n\r\n",
    b"DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: x\r\n\r\n",
    b"GET /.well-known/oauth-protected-resource HTTP/1.1\r\nHost: localhost\r\nForwarded: for=1\r\n\r\n",
    b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
]
PIECES = [
    b"\r\n",
    b"\0",
    b" ",
    b":",
    b"\n\n",
    b"%",
    b'"',
    b"{",
    b"[" * 70,
    b"9" * 400,
    b"\xff",
    b"\xed\xa0\x80",
    b"Host: x\r\n",
]


def mangled(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                del data[at : at + chance.randrange(1, 30)]
            case 2:
                data[at:at] = chance.choice(PIECES)
            case 3:
                data[at:at] = chance.choice(SEEDS)
            case _:
                data = data[:at] + bytearray(chance.choice(SEEDS))[at:]
    return bytes(data)


@linux
@requirement("door.any-bytes")
async def test_no_bytes_harm_the_house(open_house: Open):
    """Three thousand mangled requests, from the same seed each time: after all of them everything works as before."""
    chance = random.Random(20261123)
    async with open_house("header_time = 2\nbody_time = 2\nkeep_alive = 2") as house:
        opened, before = house.descriptors, house.memory

        async def knock(data: bytes, *, hurried: bool) -> None:
            async with house.knock() as visitor:
                with trio.move_on_after(10):
                    try:
                        await visitor.send(data)
                        await visitor.stream.send_eof()
                        if not hurried:
                            await read_some(visitor)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass

        async def read_some(visitor: Knocker) -> None:
            with trio.move_on_after(0.5):
                await visitor.rest()

        for _ in range(150):
            async with trio.open_nursery() as crowd:
                for _ in range(20):
                    crowd.start_soon(lambda: knock(mangled(chance), hurried=chance.random() < 0.3))
            await house.is_well() if chance.random() < 0.1 else None
        with trio.fail_after(PATIENCE):
            while house.descriptors > opened + 5:
                await trio.sleep(0.1)
        assert house.memory - before < 40 * MIB
        await house.is_well()
