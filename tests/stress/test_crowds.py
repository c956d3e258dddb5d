"""Many clients at once: idle ones, ones that abandon their sessions, ones that never read."""

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
from tests.stress.conftest import HELLO, MIB, RawConnection, ServerProcess, StartServer, linux, post


def request(method: str, params: Any, id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


async def eventually(server: ServerProcess, metric: str, value: float) -> None:
    with trio.fail_after(PATIENCE):
        while await server.metric(metric) != value:
            await trio.sleep(0.1)


@linux
@requirement("server.streams")
async def test_two_thousand_idle_streams_are_cheap(start_server: StartServer):
    """They cost little, disturb no other client, and leave nothing behind."""
    count = 2000
    async with start_server("sessions = 3000\nsessions_each = 3000") as server:
        before, opened = server.memory, server.descriptors
        async with AsyncExitStack() as stack:
            for _ in range(count):
                connection = await stack.enter_async_context(server.connect())
                await connection.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"endpoint" in await connection.until(b"event: endpoint\r\n")
            assert await server.metric('chora_sessions{transport="sse"}') == count
            assert (server.memory - before) / count < 60 * 1024
            await server.check_serves()
        await eventually(server, 'chora_sessions{transport="sse"}', 0)
        with trio.fail_after(PATIENCE):
            while server.descriptors > opened + 5:
                await trio.sleep(0.1)
        await server.check_serves()


@linux
async def test_ten_thousand_abandoned_sessions_make_room(start_server: StartServer):
    """A client that never ends its sessions loses the oldest; the newest works, and memory stays where it was."""
    async with start_server() as server, server.connect() as connection:
        ids: list[str] = []
        highest = 0
        hello = post("/mcp", request("initialize", HELLO))
        for number in range(10_000):
            await connection.send(hello)
            status, headers, _ = await connection.answer()
            assert status == 200
            ids.append(headers["mcp-session-id"])
            if number == 1500:
                highest = server.memory
        assert len(set(ids)) == len(ids)
        assert await server.metric('chora_sessions{transport="http"}') == 1024
        assert server.memory - highest < 20 * MIB
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert [
            (await connection.post("/mcp", ping, mcp_session_id=each))[0] for each in (ids[0], ids[-1024], ids[-1])
        ] == [
            404,
            200,
            200,
        ]


@linux
@requirement("server.descriptors")
async def test_more_connections_than_descriptors_end_nothing(start_server: StartServer):
    """It takes no more than it can afford, tells the others so, and can still do its work."""
    async with start_server(files=256) as server:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(server.connect()) for _ in range(600)]
            assert server.descriptors < 250
            assert "limits.connections is lowered to 96" in server.log.read_text()
            turned_away = 0
            for connection in connections:
                with trio.move_on_after(0.01):
                    turned_away += (await connection.rest()).startswith(b"HTTP/1.1 503") or not connection.buffer
            assert turned_away >= 600 - 96 - 10
        with trio.fail_after(PATIENCE):
            while await server.metric("chora_connections") > 1:
                await trio.sleep(0.1)
        await server.check_serves()


@asynccontextmanager
async def over_http(server: ServerProcess) -> AsyncGenerator[Any]:
    """A client with a session, and how it makes a call."""
    async with server.connect() as connection:
        _, headers, _ = await connection.post("/mcp", request("initialize", HELLO))
        session = headers["mcp-session-id"]

        async def ask(id: Any, name: str) -> str:
            params = {"name": "hello_world", "arguments": {"name": name}}
            _, _, body = await connection.post("/mcp", request("tools/call", params, id), mcp_session_id=session)
            assert body["id"] == id
            return body["result"]["structuredContent"]["message"]

        yield ask


@asynccontextmanager
async def over_sse(server: ServerProcess) -> AsyncGenerator[Any]:
    async with server.connect() as listener, server.connect() as poster:
        await listener.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await listener.until(b"event: endpoint\r\ndata: ")
        place = "/" + (await listener.until(b"\r\n")).strip().decode()  # relative, so that it leads past a prefix

        async def exchange(message: Any) -> Any:
            status, _, _ = await poster.post(place, message)
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
async def test_fifty_clients_with_the_same_ids_get_their_own_answers(start_server: StartServer, client: Any):
    """An id means something within one session only."""
    async with start_server() as server:

        async def talk(number: int) -> None:
            async with client(server) as ask:
                for id in range(20):
                    name = f"client-{number}-{id}"
                    assert f"Hello, {name}!" in await ask(id, name)

        async with trio.open_nursery() as connections:
            for number in range(50):
                connections.start_soon(talk, number)


@linux
async def test_a_client_that_never_reads_loses_its_stream(start_server: StartServer):
    """What waits for it is bounded, it is counted, and no other client notices."""
    async with start_server("write_stall = 600") as server:
        before = server.memory
        async with server.connect() as listener, server.connect() as poster:
            await listener.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await listener.until(b"event: endpoint\r\ndata: ")
            place = "/" + (await listener.until(b"\r\n")).strip().decode()  # relative, so that it leads past a prefix
            await poster.post(place, request("initialize", HELLO))
            statuses: list[int] = []
            listing = request("tools/list", {})
            while (not statuses or statuses[-1] == 202) and len(statuses) < 2000:
                statuses.append((await poster.post(place, listing))[0])
            assert statuses[-1] == 404, "the session is gone"
            assert await server.metric('chora_sessions_ended_total{reason="not reading"}') == 1
            assert server.memory - before < 60 * MIB
        await server.check_serves()


BOUNDS = ("write_stall", "read_ahead")


@linux
async def test_a_client_that_reads_no_answer_is_disconnected(start_server: StartServer):
    """Endless requests whose responses aren't read: the client doesn't read, or pipelines too much."""
    async with start_server("write_stall = 0.5") as server:
        before = server.memory
        async with server.connect() as connection:
            listing = post("/mcp", request("tools/list", {"_meta": {}}))
            with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await connection.send(listing * 20)
        reasons = [await server.metric(f'chora_connections_killed{{reason="{each}"}}') for each in BOUNDS]
        assert sum(reasons) == 1
        assert server.memory - before < 40 * MIB
        await server.check_serves()


FORGED = ["", "x", "0" * 32, "../../etc/passwd", "%00", "a" * 8000, "' OR 1=1 --", "é"]


async def test_a_session_id_cannot_be_guessed(start_server: StartServer):
    """Made-up ones, another transport's, one that ended, one with a letter changed: none opens anything."""
    async with start_server() as server, server.connect() as connection, server.connect() as listener:
        _, headers, _ = await connection.post("/mcp", request("initialize", HELLO))
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
                await connection.send(sent)
                status, _, _ = await connection.answer()
                assert status == (404 if odd else 400), odd
        for odd in (session, swapped, "x"):
            status, _, _ = await connection.post(f"/messages/?session_id={odd}", ping)
            assert status == 404
        assert (await connection.post("/mcp", ping, mcp_session_id=session))[0] == 200


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
@requirement("server.any-bytes")
async def test_no_bytes_harm_the_server(start_server: StartServer):
    """Three thousand mangled requests, from the same seed each time: after all of them everything works as before."""
    chance = random.Random(20261123)
    async with start_server("header_time = 2\nbody_time = 2\nkeep_alive = 2") as server:
        opened, before = server.descriptors, server.memory

        async def connect(data: bytes, *, hurried: bool) -> None:
            async with server.connect() as connection:
                with trio.move_on_after(10):
                    try:
                        await connection.send(data)
                        await connection.stream.send_eof()
                        if not hurried:
                            await read_some(connection)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass

        async def read_some(connection: RawConnection) -> None:
            with trio.move_on_after(0.5):
                await connection.rest()

        for _ in range(150):
            async with trio.open_nursery() as connections:
                for _ in range(20):
                    connections.start_soon(lambda: connect(mangled(chance), hurried=chance.random() < 0.3))
            await server.check_serves() if chance.random() < 0.1 else None
        with trio.fail_after(PATIENCE):
            while server.descriptors > opened + 5:
                await trio.sleep(0.1)
        assert server.memory - before < 40 * MIB
        await server.check_serves()
