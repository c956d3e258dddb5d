"""MCP on stdin and stdout: a real process, and `stdio.serve` on pipes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.server import McpServer
from chora.provider import project_server
from chora.tools import TOOLS
from chora.transport import stdio
from chora.transport.pipes import Pipes
from tests.conftest import Project, content
from tests.patience import PATIENCE

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}
SPY = (
    "import atexit, sys; from chora.__main__ import main;"
    "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr)); main()"
)
SLOW = "{% for i in range(1500) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done"


def line(method: str, params: Any = None, id: Any = None) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if id is not None:
        message["id"] = id
    return msgspec.json.encode(message if params is None else {**message, "params": params}) + b"\n"


def call(tool: str, id: int, **arguments: Any) -> bytes:
    return line("tools/call", {"name": tool, "arguments": arguments}, id)


def chora(project: Project, *before: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, *(before or ("-m", "chora")), "--project", str(project.root), "stdio"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def answers(output: bytes) -> list[Any]:
    return [msgspec.json.decode(each) for each in output.splitlines()]


@pytest.fixture
def slow(hello: Project) -> Project:
    """The sample project with a content that takes a while to render."""
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    return hello


# -- a real process ---------------------------------------------------------------------------------------------


def test_each_line_is_one_message(hello: Project):
    """Handshake and call written at once, errors in between, and exit 0 at the end of the input."""
    with chora(hello) as process:
        output, log = process.communicate(
            line("initialize", HELLO, 1)
            + line("notifications/initialized")
            + b"garbage\n"
            + b"\n"
            + line("nope", id=2)
            + call("generate_content", 3, content_config_id="greeting")
            + call("generate_content", 4, content_config_id="missing"),
            timeout=PATIENCE,
        )
    assert process.returncode == 0, log
    by_id = {answer["id"]: answer for answer in answers(output)}
    assert set(by_id) == {1, None, 2, 3, 4}
    assert by_id[1]["result"]["protocolVersion"] == "2025-11-25"
    assert by_id[None]["error"]["code"] == wire.PARSE_ERROR
    assert by_id[2]["error"]["code"] == wire.METHOD_NOT_FOUND
    assert by_id[3]["result"]["structuredContent"]["content"].startswith("# Hello, World!")
    assert by_id[4]["result"]["structuredContent"]["error"]["code"] == "config_not_found"


def test_initialize_is_answered_before_anything_heavy_is_imported(hello: Project):
    """quart, hypercorn, rich, keyring, anthropic, mcp, jinja2, asyncio and others are imported when needed."""
    heavy = {"quart", "hypercorn", "rich", "keyring", "anthropic", "mcp", "jinja2", "yaml", "jsonschema", "asyncio"}
    heavy |= {"watchfiles", "anyio"}
    with chora(hello, "-c", SPY) as process:
        output, log = process.communicate(line("initialize", HELLO, 1) + call("hello_world", 2), timeout=PATIENCE)
    assert len(answers(output)) == 2
    imported = set(log.decode().splitlines())
    assert "chora.transport.stdio" in imported
    assert not heavy & imported


def test_nothing_but_protocol_reaches_stdout(hello: Project):
    """What any code prints goes to stderr, whether through Python or straight to the descriptor."""
    program = (
        "import os, chora.tools.utility as u; from chora.__main__ import main; f = u.hello_world.function\n"
        "async def shout(*a):\n print('stray'); os.write(1, b'stray\\n'); os.system('echo stray'); return await f(*a)\n"
        "u.hello_world.function = shout; main()"
    )
    with chora(hello, "-c", program) as process:
        output, log = process.communicate(line("initialize", HELLO, 1) + call("hello_world", 2), timeout=PATIENCE)
    assert [answer["id"] for answer in answers(output)] == [1, 2]
    assert log.count(b"stray") == 3


@pytest.mark.parametrize("how", ["end of input", "SIGTERM"])
def test_calls_in_flight_are_finished_before_the_end(slow: Project, how: str):
    """Whether the client closes its pipe or sends SIGTERM: first the response, then exit 0."""
    with chora(slow) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line("initialize", HELLO, 1))
        process.stdin.flush()
        assert msgspec.json.decode(process.stdout.readline())["id"] == 1
        process.stdin.write(call("generate_content", 2, content_config_id="slow") + line("ping", id=3))
        process.stdin.flush()
        assert msgspec.json.decode(process.stdout.readline())["id"] == 3, "the call is in flight"
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            process.wait(PATIENCE)
        else:
            rest, _ = process.communicate(timeout=PATIENCE)
    (answer,) = answers(rest)
    assert answer["result"]["structuredContent"]["content"] == "done"
    assert process.returncode == 0


def test_the_process_ends_when_its_client_vanishes(hello: Project):
    """Both pipes are closed without a signal."""
    process = chora(hello)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(line("initialize", HELLO, 1))
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(line("ping", id=2) * 10)
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    process.stderr.close()


def test_a_file_as_input_works_too(hello: Project, tmp_path: Any):
    """Descriptors that the event loop can't wait for are read and written in threads."""
    script, result = tmp_path / "in", tmp_path / "out"
    script.write_bytes(line("initialize", HELLO, 1) + call("hello_world", 2))
    with script.open("rb") as source, result.open("wb") as sink:
        command = [sys.executable, "-m", "chora", "--project", str(hello.root), "stdio"]
        assert subprocess.run(command, stdin=source, stdout=sink, timeout=PATIENCE).returncode == 0
    assert [answer["id"] for answer in answers(result.read_bytes())] == [1, 2]


# -- `stdio.serve` on pipes -------------------------------------------------------------------------------------


class Peer:
    """The client's ends of the pipes."""

    def __init__(self, incoming: int, outgoing: int, server: McpServer) -> None:
        self.server = server
        self.sink = trio.lowlevel.FdStream(incoming)
        self.source = trio.lowlevel.FdStream(outgoing)
        self._rest = b""

    async def send(self, data: bytes) -> None:
        await self.sink.send_all(data)

    async def receive(self) -> Any:
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._rest:
                chunk = await self.source.receive_some()
                assert chunk, "the server closed its end"
                self._rest += chunk
        first, _, self._rest = self._rest.partition(b"\n")
        return msgspec.json.decode(first)


@asynccontextmanager
async def connected(
    engine: Engine, *, limit: int = 100_000, grace: float = 5.0, stopping: trio.Event | None = None
) -> AsyncGenerator[Peer]:
    """`stdio.serve` on real pipes; at the end the client's ends are closed, and the loop has to end too."""
    there, incoming = os.pipe()
    outgoing, back = os.pipe()
    server = project_server(engine, TOOLS, Metrics())
    peer = Peer(incoming, outgoing, server)
    stop = trio.Event() if stopping is None else stopping
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                pipes = Pipes(there, back)
                await stdio.serve(server, pipes, limit=limit, grace=grace, stopping=stop)

            nursery.start_soon(run)
            yield peer
            await peer.sink.aclose()
            await peer.source.aclose()


async def test_a_line_beyond_the_limit_is_refused_and_skipped(engine: Engine):
    """In however many pieces it arrives, it gets one error, and the next line is read."""
    async with connected(engine, limit=1000) as peer:
        for size in (1001, 70_000, 400_000):
            await peer.send(b'"' + b"x" * size)
            await peer.send(b'"\n' + line("ping", id=size))
            refused, pong = await peer.receive(), await peer.receive()
            assert refused["id"] is None
            assert "longer than 1,000 bytes" in refused["error"]["message"]
            assert pong == {"jsonrpc": "2.0", "id": size, "result": {}}


async def test_a_message_may_come_in_single_bytes(engine: Engine):
    """Lines are put together however they arrive; the last one needs no newline."""
    async with connected(engine) as peer:
        for byte in line("ping", id="ä"):
            await peer.send(bytes([byte]))
        assert (await peer.receive())["id"] == "ä"
        await peer.send(line("ping", id=2).rstrip(b"\n"))
        await peer.sink.aclose()
        assert (await peer.receive())["id"] == 2


async def test_a_call_with_its_slash_escaped_does_not_hold_up_others(project: Project, engine: Engine):
    """Some encoders write `tools\\/call`; it can be cancelled all the same."""
    project.save(content("endless", pattern={"type": "jinja2", "template": SLOW.replace("1500", "90000")}))
    async with connected(engine) as peer:
        await peer.send(line("initialize", HELLO, 1))
        await peer.receive()
        await peer.send(call("generate_content", 2, content_config_id="endless").replace(b"/", b"\\/"))
        await peer.send(line("ping", id=3))
        assert (await peer.receive())["id"] == 3
        await peer.send(line("notifications/cancelled", {"requestId": 2}) + line("ping", id=4))
        assert (await peer.receive())["id"] == 4


async def test_a_call_that_outlasts_the_grace_is_cancelled(project: Project, engine: Engine):
    """So that a stopping process ends in limited time."""
    endless = SLOW.replace("1500", "90000")
    project.save(content("endless", pattern={"type": "jinja2", "template": endless}))
    stopping = trio.Event()
    async with connected(engine, grace=0.2, stopping=stopping) as peer:
        await peer.send(line("initialize", HELLO, 1))
        await peer.receive()
        await peer.send(call("generate_content", 2, content_config_id="endless") + line("ping", id=3))
        assert (await peer.receive())["id"] == 3
        stopping.set()
        assert await peer.source.receive_some() == b"", "the end, and no answer"


async def test_a_client_that_stops_reading_ends_the_session(engine: Engine):
    """A broken pipe is a normal end, not a crash."""
    async with connected(engine) as peer:
        await peer.source.aclose()
        await peer.send(line("ping", id=1))


# -- notifications and subscriptions ----------------------------------------------------------------------------


async def test_a_client_is_notified_of_what_it_subscribed_to(engine: Engine):
    """In lines of their own, between the responses."""
    async with connected(engine) as peer:
        await peer.send(line("initialize", HELLO, 1) + line("resources/subscribe", {"uri": "content://note"}, 2))
        assert [(await peer.receive())["id"] for _ in range(2)] == [1, 2]
        peer.server.notify_resource_changed("content://other")
        peer.server.notify_resource_changed("content://note")
        update = await peer.receive()
        assert update["method"] == "notifications/resources/list_changed"
        assert (await peer.receive())["params"] == {"uri": "content://note"}


async def test_modern_subscriptions_share_the_pipe(engine: Engine):
    """Each notification names its subscription; one is cancelled, the other gets its result at the end."""
    async with connected(engine) as peer:
        for id in ("a", "b"):
            params = {"notifications": {"resourcesListChanged": True}, "_meta": MODERN}
            await peer.send(line("subscriptions/listen", params, id))
            acknowledged = await peer.receive()
            assert acknowledged["params"]["_meta"] == {wire.SUBSCRIPTION_KEY: id}
        await peer.send(line("tools/list", {"_meta": MODERN}, 3))
        assert (await peer.receive())["id"] == 3, "a subscription blocks no other request"
        peer.server.notify_list_changed("resources")
        subscriptions = {(await peer.receive())["params"]["_meta"][wire.SUBSCRIPTION_KEY] for _ in range(2)}
        assert subscriptions == {"a", "b"}
        await peer.send(line("notifications/cancelled", {"requestId": "a"}) + line("tools/list", {"_meta": MODERN}, 4))
        assert (await peer.receive())["id"] == 4
        peer.server.notify_list_changed("resources")
        assert (await peer.receive())["params"]["_meta"][wire.SUBSCRIPTION_KEY] == "b"
        await peer.sink.aclose()
        assert (await peer.receive())["id"] == "b"
    assert peer.server.broadcaster.is_empty


async def test_a_client_that_does_not_read_loses_only_notifications(engine: Engine):
    """While the pipe is full, changes are merged, so the queue is bounded; the process still ends in time."""
    stopping = trio.Event()
    async with connected(engine, grace=0.2, stopping=stopping) as peer:
        await peer.send(line("initialize", HELLO, 1))
        await peer.receive()
        for number in range(900):
            await peer.send(line("resources/subscribe", {"uri": f"config://content/{'x' * 200}-{number}"}, number))
            await peer.receive()
        (queue,) = peer.server.broadcaster._queues
        for _ in range(50):
            for number in range(900):
                peer.server.notify_resource_changed(f"config://content/{'x' * 200}-{number}")
            await trio.lowlevel.checkpoint()
        assert len(queue._changes) <= 900
        stopping.set()
    assert peer.server.broadcaster.is_empty


def test_subscribers_are_notified_of_files_that_change_on_disk(hello: Project):
    """From the saved file to the client's pipe, in a real process; `watchfiles` is imported late."""
    with chora(hello, "-c", SPY) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        uri = "config://content/greeting"
        process.stdin.write(line("initialize", HELLO, 1) + line("resources/subscribe", {"uri": uri}, 2))
        process.stdin.flush()
        assert [msgspec.json.decode(process.stdout.readline())["id"] for _ in range(2)] == [1, 2]
        time.sleep(0.5)  # the first listing is done by now; the watch itself begins later
        path = hello.root / "configs/content/greeting.json"
        path.write_text(path.read_text().replace("Greets", "Welcomes"))
        update = msgspec.json.decode(process.stdout.readline())
        assert update["params"] == {"uri": uri}
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert {"watchfiles"} <= set(log.decode().splitlines())
