"""Peers that have the server hold memory for them: how much at most, and how much of it stays."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora.transport.pipes import LineReader
from tests.conftest import Project, requirement, text
from tests.hostile.measures import process
from tests.patience import PATIENCE
from tests.stress.conftest import HELLO, MIB, MODERN, RawConnection, ServerProcess, StartServer, linux, post

ACCOUNT = 96 * MIB
"""`limits.memory` of these servers. One peer may hold half of it."""
OVERHEAD = 48 * MIB
"""What copies and fragments may take besides, at the highest point."""
STAYS = 64 * MIB
"""What may stay after a storm."""

Storm = Callable[[ServerProcess, AsyncExitStack], Awaitable[None]]


def modern(method: str, **params: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A message of the modern era, and its headers."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": MODERN}}
    headers = {"mcp_protocol_version": "2026-07-28", "mcp_method": method}
    return body, {**headers, "mcp_name": params["name"]} if "name" in params else headers


def call(tool: str, **arguments: Any) -> bytes:
    body, headers = modern("tools/call", name=tool, arguments=arguments)
    return post("/mcp", body, **headers)


async def send_slowly(connection: RawConnection, data: bytes) -> None:
    """Send as much as the server takes."""
    with trio.move_on_after(2), suppress(trio.BrokenResourceError):
        await connection.send(data)


async def half_sent_bodies(server: ServerProcess, stack: AsyncExitStack) -> None:
    """150 bodies of 4 MiB that lack their last byte."""
    connections = [await stack.enter_async_context(server.connect()) for _ in range(150)]
    data = post("/mcp", b" " * (4 * MIB - 1) + b"x")[:-1]
    async with trio.open_nursery() as sending:
        for connection in connections:
            sending.start_soon(send_slowly, connection, data)


async def half_sent_heads(server: ServerProcess, stack: AsyncExitStack) -> None:
    """2,000 heads of 60 KB that don't end."""
    data = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60_000
    for _ in range(2000):
        connection = await stack.enter_async_context(server.connect())
        await send_slowly(connection, data)


async def large_capabilities(server: ServerProcess, stack: AsyncExitStack) -> None:
    """40 sessions with 4 MiB of capabilities each."""
    many = {f"x-{number}": {"y": "z" * 60} for number in range(20_000)}
    hello = {**HELLO, "capabilities": {"elicitation": many, "experimental": many}}
    data = post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    async with server.connect() as connection:
        for _ in range(40):
            await connection.send(data)
            assert (await connection.answer())[0] == 200


async def large_subscriptions(server: ServerProcess, stack: AsyncExitStack) -> None:
    """Streams that were opened with 4 MiB each, and as many as there may be of 128 KB."""
    for size in [4 * MIB - 2000] * 40 + [120_000] * 40:
        body, headers = modern("subscriptions/listen", notifications={"toolsListChanged": True}, more="x" * size)
        connection = await stack.enter_async_context(server.connect())
        await connection.send(post("/mcp", body, **headers))


async def unread_answers(server: ServerProcess, stack: AsyncExitStack) -> None:
    """300 answers of more than a megabyte that nobody reads."""
    async with server.connect() as connection:
        await connection.send(call("preview_generation", content_config_id="quotes"))
        assert len((await connection.answer())[2]) > MIB
    for _ in range(300):
        connection = await stack.enter_async_context(server.connect())
        await connection.send(call("preview_generation", content_config_id="quotes"))


async def large_paths(server: ServerProcess, stack: AsyncExitStack) -> None:
    """40 unread answers to paths of 3.9 MB."""
    for _ in range(40):
        connection = await stack.enter_async_context(server.connect())
        await send_slowly(connection, call("validate_collection_config", collection_config_path="é" * 1_950_000))


async def many_values(server: ServerProcess, stack: AsyncExitStack) -> None:
    """60 calls with as many values as there may be, sent at once and not read."""
    data = call("preview_generation", content_config_id="greeting", context={"x": [["y"] * 2] * 30_000})
    connections = [await stack.enter_async_context(server.connect()) for _ in range(60)]
    for connection in connections:
        await send_slowly(connection, data)


async def unread_streams(server: ServerProcess, stack: AsyncExitStack) -> None:
    """40 streams of the older transport, each with megabytes of answers that nobody reads."""
    async with server.connect() as poster:
        for _ in range(40):
            listener = await stack.enter_async_context(server.connect())
            await listener.send(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await listener.until(b"event: endpoint\r\ndata: ")
            place = "/" + (await listener.until(b"\r\n")).strip().decode()  # relative, so that it leads past a prefix
            await poster.post(place, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})
            for _ in range(150):
                if (await poster.post(place, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}))[0] == 404:
                    break


STORMS: list[Storm] = [
    half_sent_bodies,
    half_sent_heads,
    large_capabilities,
    large_subscriptions,
    unread_answers,
    large_paths,
    many_values,
    unread_streams,
]


@asynccontextmanager
async def peak_of(server: ServerProcess) -> AsyncGenerator[list[int]]:
    """The highest point of the server's memory within the block, in the list at its end."""
    peak = [server.memory]

    async def watch() -> None:
        while True:
            peak[0] = max(peak[0], server.memory)
            await trio.sleep(0.02)

    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        yield peak
        watching.cancel_scope.cancel()


@linux
@requirement("server.memory")
@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.__name__)
async def test_peers_can_pin_no_more_than_the_account(start_server: StartServer, hello: Project, storm: Storm):
    """At any time; when a storm is over, the memory is back and nothing is held."""
    hello.save(text("quotes", '"' * 250_000))
    async with start_server(f"memory = {ACCOUNT}\nbody_time = 20\nheader_time = 60\nwrite_stall = 20") as server:
        before = server.memory
        async with peak_of(server) as peak, AsyncExitStack() as stack:
            await storm(server, stack)
        assert peak[0] - before < ACCOUNT + OVERHEAD, f"{(peak[0] - before) / MIB:.0f} MiB at the highest point"
        await server.check_serves()
        with trio.move_on_after(PATIENCE):
            while server.memory - before > STAYS or await server.metric('chora_held_bytes{what="requests"}') > 0:
                await trio.sleep(0.1)
        assert server.memory - before <= STAYS, f"{(server.memory - before) / MIB:.0f} MiB stay"


@linux
@requirement("server.memory")
@pytest.mark.parametrize("storm", [half_sent_bodies, many_values], ids=lambda storm: storm.__name__)
async def test_the_memory_goes_back_however_much_may_be_held(start_server: StartServer, hello: Project, storm: Storm):
    """With the limit that is derived from the memory of the machine, too."""
    async with start_server() as server:
        before = server.memory
        async with AsyncExitStack() as stack:
            await storm(server, stack)
        with trio.move_on_after(PATIENCE):
            while server.memory - before > STAYS:
                await trio.sleep(0.1)
        assert server.memory - before <= STAYS, f"{(server.memory - before) / MIB:.0f} MiB stay"


@linux
@requirement("server.calls-in-flight")
async def test_ten_thousand_calls_on_stdio_take_little_memory(hello: Project):
    """Sent at once by a client that reads no answer; it gets every one as soon as it reads."""
    count = 10_000
    line = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"hello_world","arguments":{}}}\n'
    hello_line = {"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": HELLO}
    async with process(hello, "stdio", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        await server.stdin.send_all(msgspec.json.encode(hello_line) + b"\n")
        answers = LineReader(server.stdout, MIB)
        assert await answers.receive_line()
        await server.stdin.send_all(line % count)
        assert await answers.receive_line()
        before = highest = memory_of(server)
        ids: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stdin.send_all, b"".join(line % id for id in range(count)))
            for _ in range(30):
                await trio.sleep(0.1)
                highest = max(highest, memory_of(server))
            with trio.fail_after(PATIENCE):
                while len(ids) < count:
                    received = await answers.receive_line()
                    assert received is not None
                    answer = msgspec.json.decode(received)
                    assert answer["result"]["structuredContent"]["status"] == "operational"
                    ids.append(answer["id"])
        assert sorted(ids) == list(range(count))
        highest = max(highest, memory_of(server))
    assert highest - before < 24 * MIB, f"{(highest - before) / MIB:.0f} MiB"


def memory_of(process: trio.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
