"""The HTTP server against raw bytes on real sockets: what it answers, what it bounds, and how it ends."""

from __future__ import annotations

import gc
import logging
import random
import socket
import ssl
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
import trustme
from hypercorn.config import Config, Sockets

from chora.peer_memory import Holding, PeerMemory
from chora.settings import LimitSettings
from chora.transport import connection as connection_module
from chora.transport import http_server
from chora.transport.connection import ConnectionLimits, Disconnected
from chora.transport.http_server import HttpServer
from chora.transport.lifespan import LifespanFailed
from tests.conftest import requirement
from tests.patience import PATIENCE

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


# -- helpers ----------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One response as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """A client that sends exactly the bytes it is given."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, data: bytes = GET, *, bare: bool = False) -> Answer:
        await self.send(data)
        return await self.answer(bare=bare)

    async def answer(self, *, bare: bool = False) -> Answer:
        """The next response; `bare` when it answers a HEAD request."""
        head = await self.until(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        code = int(status.split()[1])
        if bare or code in (100, 204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int((await self.until(b"\r\n")).strip(), 16):
                body += (await self.exactly(size + 2))[:-2]
            await self.until(b"\r\n")
        elif "content-length" in headers:
            body = await self.exactly(int(headers["content-length"]))
        else:
            body = await self.rest()
        return Answer(code, headers, body)

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            await self._more()
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            await self._more()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        with suppress(EOFError):
            while True:
                await self._more()
        found, self.buffer = self.buffer, b""
        return found

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise EOFError(f"closed after {self.buffer[:200]!r}")
        self.buffer += bytes(data)


class Running(NamedTuple):
    """A server while it serves."""

    server: HttpServer
    urls: list[str]
    ended: trio.Event

    @property
    def port(self) -> int:
        return int(self.urls[0].rsplit(":", 1)[1])

    @asynccontextmanager
    async def client(self, tls: ssl.SSLContext | None = None) -> AsyncGenerator[RawClient]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if tls is None:
            async with stream:
                yield RawClient(stream)
        else:
            secure = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
            async with secure:
                yield RawClient(secure)

    async def killed(self, reason: str) -> None:
        """Wait until a connection was ended for this reason, and its slot is free again."""
        await eventually(lambda: self.server.statistics().aborted.get(reason, 0) > 0)


@asynccontextmanager
async def serving(
    app: App, *, config: Config | None = None, grace: float = 0.2, memory: PeerMemory | None = None, **bounds: Any
) -> AsyncGenerator[Running]:
    """A server on a free loopback port, stopped at the end; everything within ten seconds, and then nothing is held."""
    server = HttpServer(app, config or make_config(), ConnectionLimits(grace=grace, **bounds), memory)
    ended = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await server.serve(task_status=task_status)
        ended.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(serve)
            yield Running(server, urls, ended)
            server.stop()
    assert server.memory.held == {}


def make_config(**settings: Any) -> Config:
    return Config.from_mapping({"bind": ["127.0.0.1:0"], **settings})


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.005)


async def respond(send: Send, body: bytes = b"fine", status: int = 200, headers: Any = None) -> None:
    if headers is None:
        headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def begin_stream(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})


async def read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    return body


def http_only(app: App) -> App:
    """An app that knows no lifespan, and says so as the ASGI specification wants it."""

    async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await app(scope, receive, send)

    return wrapped


@http_only
async def fine(scope: Any, receive: Receive, send: Send) -> None:
    await respond(send)


@http_only
async def echo(scope: Any, receive: Receive, send: Send) -> None:
    await respond(send, await read_body(receive))


@http_only
async def unreachable(scope: Any, receive: Receive, send: Send) -> None:
    raise AssertionError("this request should have been refused")


class Recorder:
    """An app made of steps that a test waits for."""

    def __init__(self, run: Callable[[Recorder, Message, Receive, Send], Awaitable[None]]) -> None:
        self.run = run
        self.entered = trio.Event()
        self.go = trio.Event()
        self.done = trio.Event()
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        self.entered.set()
        try:
            await self.run(self, scope, receive, send)
        except BaseException as error:
            self.seen.append(type(error))
            raise
        finally:
            self.done.set()


async def never_answer(app: Recorder, scope: Message, receive: Receive, send: Send) -> None:
    await trio.sleep_forever()


async def read_and_say_nothing(app: Recorder, scope: Message, receive: Receive, send: Send) -> None:
    await read_body(receive)


# -- requests and responses -------------------------------------------------------------------------------------


async def test_scope_says_all_that_asgi_wants() -> None:
    """An app finds the request, both ends of the connection and the draining event in its scope."""
    scopes: list[Message] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    async with serving(app) as running, running.client() as client:
        await client.ask(b"PUT /a%20b/%C3%A9?q=%20&r HTTP/1.1\r\nHost: x\r\nX-Mixed-Case: Value\r\n\r\n")
        (scope,) = scopes
        assert isinstance(client.stream, trio.SocketStream)
        mine = client.stream.socket.getsockname()
        extensions = scope.pop("extensions")
        assert extensions.pop("chora.draining") is running.server.draining
        assert isinstance(extensions.pop("chora.holding"), Holding)
        assert list(extensions) == ["chora.on_disconnect"]
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
            "path": "/a b/é",
            "raw_path": b"/a%20b/%C3%A9",
            "query_string": b"q=%20&r",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"x-mixed-case", b"Value")],
            "client": mine,
            "server": ("127.0.0.1", running.port),
            "state": {},
        }


async def test_a_response_with_content_length_keeps_the_connection() -> None:
    """Sequential requests share a connection, and each response is dated once."""
    async with serving(echo) as running, running.client() as client:
        for body in (b"one", b"two", b""):
            answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert (answer.status, answer.body) == (200, body)
            assert parsedate_to_datetime(answer.headers["date"])
            assert "connection" not in answer.headers
        assert running.server.statistics().accepted == 1


async def test_an_apps_own_date_is_kept() -> None:
    """A `Date` that the app sets is not doubled."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, b"", 200, [(b"content-length", b"0"), (b"date", b"yesterday")])

    async with serving(app) as running, running.client() as client:
        await client.send(GET)
        head = await client.until(b"\r\n\r\n")
        assert head.lower().count(b"date:") == 1
        assert b"date: yesterday\r\n" in head


async def test_head_and_first_body_travel_together() -> None:
    """The response head waits for the first body message, and both leave in one segment."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.seen.append(len(running.server._connections))
        await self.go.wait()
        await send({"type": "http.response.body", "body": b"together"})

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        await client.send(GET)
        await eventually(lambda: bool(app.seen))
        with trio.move_on_after(0.05) as nothing:
            await client.stream.receive_some()
        assert nothing.cancelled_caught
        app.go.set()
        assert b"together" in await client.stream.receive_some()


async def test_an_empty_body_message_sends_the_head() -> None:
    """An event stream shows its head before its first event by sending an empty body message."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await self.go.wait()
        await send({"type": "http.response.body"})

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        await client.send(GET)
        assert b"200 OK" in await client.until(b"\r\n\r\n")
        app.go.set()
        assert await client.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_a_response_without_length_is_chunked() -> None:
    """A body of unknown length goes out in chunks and leaves the connection usable."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await begin_stream(send)
        await send({"type": "http.response.body", "body": b"second", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app) as running, running.client() as client:
        for _ in range(2):
            answer = await client.ask()
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.body == b"firstsecond"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_body_has_none(status: int) -> None:
    """204 and 304 carry no body and no chunks, whatever the app sends, and the connection goes on."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, b"too much", status, [])

    async with serving(app) as running, running.client() as client:
        for _ in range(2):
            answer = await client.ask()
            assert answer.status == status
            assert "transfer-encoding" not in answer.headers


async def test_head_gets_the_head_alone() -> None:
    """HEAD is answered with the length of the body but not the body."""
    async with serving(fine) as running, running.client() as client:
        for _ in range(2):
            answer = await client.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", bare=True)
            assert answer.headers["content-length"] == "4"
        assert (await client.ask()).body == b"fine"


async def test_connection_close_is_honoured() -> None:
    """After a request with `Connection: close` the server says so too, and closes."""
    async with serving(fine) as running, running.client() as client:
        answer = await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    """A client of HTTP/1.0 sees no chunks, and the end of the connection as the end of the body."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["http_version"] == "1.0"
        await begin_stream(send)
        await send({"type": "http.response.body", "body": b" last"})

    async with serving(app) as running, running.client() as client:
        answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert "transfer-encoding" not in answer.headers
        assert answer.body == b"first last"


async def test_a_large_response_arrives_whole() -> None:
    """A body of many slices reaches a client that reads."""
    body = random.Random(1).randbytes(3_000_000)

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, body, headers=[])

    async with serving(app) as running, running.client() as client:
        assert (await client.ask()).body == body


async def test_small_packets_are_not_held_back() -> None:
    """Nagle's algorithm is off on accepted connections, or it would delay small events."""
    async with serving(fine) as running, running.client() as client:
        await client.ask()
        (accepted,) = running.server._connections
        assert isinstance(accepted._stream, trio.SocketStream)
        assert accepted._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests sent in one packet get their responses one after the other, each with its own body."""
    async with serving(echo) as running, running.client() as client:
        await client.send(
            b"".join(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % digit for digit in range(9))
        )
        assert [(await client.answer()).body for _ in range(9)] == [b"%d" % digit for digit in range(9)]


async def test_a_request_may_dribble_in() -> None:
    """Head and body arrive byte by byte, a pipelined one included, and are understood."""
    async with serving(echo) as running, running.client() as client:
        for byte in b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /":
            await client.send(bytes([byte]))
        assert (await client.answer()).body == b"abc"
        assert (await client.ask(b" HTTP/1.1\r\nHost: x\r\n\r\n")).body == b""


@requirement("server.line-ends")
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\n b\r\n\r\n",
    ],
)
@pytest.mark.parametrize("how", ["whole", "by byte", "after another", "while another is answered"])
async def test_a_line_feed_alone_ends_no_line_of_a_head(head: bytes, how: str) -> None:
    """A proxy may read such a head in another way than we do; wherever the packets are cut, it is refused."""
    reached = 0

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal reached
        reached += 1
        body = b"fine" if scope["path"] == "/" else (await receive())["body"]
        await respond(send, body)

    before = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\na\n\nb"
    async with serving(app) as running, running.client() as client:
        if how == "by byte":
            with suppress(trio.BrokenResourceError):
                for byte in head:
                    await client.send(bytes([byte]))
        elif how == "whole":
            await client.send(head)
        elif how == "after another":
            assert (await client.ask(before)).body == b"a\n\nb", "a body may have any bytes"
            await client.send(head)
        else:
            await client.send(before + head)
            assert (await client.answer()).body == b"a\n\nb"
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await client.rest() == b""
    assert reached == (how in ("after another", "while another is answered"))


async def test_a_whole_body_comes_in_one_message() -> None:
    """What has arrived together is received together, chunks joined, and the last message says it is the last."""
    messages: list[Message] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        await respond(send)

    async with serving(app) as running, running.client() as client:
        await client.ask(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
        )
        assert messages == [{"type": "http.request", "body": b"abc", "more_body": False}]


async def test_tiny_chunks_leave_others_their_turn() -> None:
    """Between some of a body's chunks other tasks run, however many have arrived together."""
    sizes: list[int] = []
    turns: list[int] = []
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        more = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            while more:
                message = await receive()
                sizes.append(len(message["body"]))
                turns.append(turn)
                more = message["more_body"]
            nursery.cancel_scope.cancel()
        await respond(send)

    count = 3 * connection_module.CHUNKS_AT_ONCE + 1
    async with serving(app) as running, running.client() as client:
        chunks = b"1\r\na\r\n" * count + b"0\r\n\r\n"
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        assert answer.status == 200
        assert (await client.ask()).status == 200
    assert sum(sizes) == count  # the second request has no body
    assert max(sizes) <= connection_module.CHUNKS_AT_ONCE
    assert turns[-1] > turns[0]


async def test_100_continue_is_sent_when_the_app_wants_the_body() -> None:
    """`Expect: 100-continue` is answered by the app's `receive`, once."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await self.go.wait()
        await respond(send, await read_body(receive))

    app = Recorder(run)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with serving(app) as running, running.client() as client:
        await client.send(head)
        await app.entered.wait()
        with trio.move_on_after(0.05) as nothing:
            await client.stream.receive_some()
        assert nothing.cancelled_caught
        app.go.set()
        assert (await client.answer()).status == 100
        await client.send(b"bo")
        await client.send(b"dy")
        assert (await client.answer()).body == b"body"
        assert (await client.ask()).status == 200


async def test_100_continue_is_not_sent_before_a_final_answer() -> None:
    """An app that answers without reading spares the client its body; the connection closes, as it may come anyway."""
    async with serving(fine) as running, running.client() as client:
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.rest() == b""


async def test_100_continue_and_the_response_take_turns() -> None:
    """A task that asks for the body and one that answers don't garble each other's bytes."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.lowlevel.checkpoint()
            await respond(send)

    async with serving(app) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        first = await client.answer()
        answer = await client.answer() if first.status == 100 else first
        assert (answer.status, answer.body) == (200, b"fine")
        await client.send(b"body")


async def test_tasks_that_send_take_turns() -> None:
    """A message sent while another is still being written follows it."""
    large = bytes(10_000_000)

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        (accepted,) = running.server._connections
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, {"type": "http.response.body", "body": large, "more_body": True})
            await eventually(lambda: accepted.writing)
            nursery.start_soon(send, {"type": "http.response.body", "body": b"last"})
            await trio.testing.wait_all_tasks_blocked()
            self.go.set()

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        await client.send(GET)
        await app.go.wait()
        head = await client.until(b"\r\n\r\n")
        assert b"chunked" in head
        body = b"%x\r\n%s\r\n4\r\nlast\r\n0\r\n\r\n" % (len(large), large)
        assert await client.exactly(len(body)) == body


async def test_an_early_answer_need_not_cost_the_connection() -> None:
    """The rest of a body that the app didn't want is read and dropped, and the next request is served."""
    async with serving(fine) as running, running.client() as client:
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
        assert answer.body == b"fine"
        await client.send(bytes(200_000))
        assert (await client.ask()).body == b"fine"


async def test_an_early_answer_with_close_is_read_not_reset() -> None:
    """A client that sends its whole body before it reads still finds the early answer of a closing connection."""
    async with serving(fine) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n")
        await client.send(bytes(3_000_000))
        assert (await client.answer()).body == b"fine"


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n", 400, "malformed"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "coding"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 501, "upgrade"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 501, "upgrade"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"),
        (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505, "version"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 65_536 + b"\r\n\r\n", 431, "head"),
        (b"GET /" + b"a" * 65_531 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: abcdefg\r\n" * 20_000, 431, "head"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", 413, "body"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\nExpect: 100-continue\r\n\r\n", 413, "body"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 413, "body"),
    ],
)
async def test_refused_before_any_app(request_bytes: bytes, status: int, reason: str) -> None:
    """What is no proper request for us gets its answer at once, closes the connection and never reaches the app."""
    async with serving(unreachable, body=100) as running:
        async with running.client() as client:
            answer = await client.ask(request_bytes)
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert answer.body.endswith(b".\n")
            assert parsedate_to_datetime(answer.headers["date"])
            assert await client.rest() == b""
        await running.killed(reason)
        assert running.server.statistics().aborted == {reason: 1}


@requirement("server.memory")
async def test_heads_that_do_not_end_are_charged() -> None:
    """To all that nothing is known of, together; a head that arrives in one piece is not, and another is told to come
    again.
    """
    memory = PeerMemory(100_000)
    async with serving(fine, memory=memory) as running:
        async with running.client() as first, running.client() as second, running.client() as third:
            await first.send(GET[:-2] + b"X: " + b"x" * 30_000)
            await eventually(lambda: memory.total > 30_000)
            await second.send(GET[:-2] + b"X: " + b"x" * 30_000)
            answer = await second.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert b"as much for its clients as it may" in answer.body
            assert (await third.ask(GET[:-2] + b"X: " + b"x" * 20_000 + b"\r\n\r\n")).status == 200
            await eventually(lambda: memory.total < 31_000)
            assert (await first.ask(b"\r\n\r\n")).status == 200
            await eventually(lambda: memory.held == {})
            assert (await first.ask()).status == 200
        await running.killed("memory")


@requirement("server.memory")
async def test_what_is_sent_ahead_is_charged() -> None:
    """While a response is made, other requests may be sent; without room for them the connection ends."""
    memory = PeerMemory(20_000)
    app = Recorder(never_answer)
    async with serving(app, memory=memory) as running, running.client() as client:
        await client.send(GET)
        await app.entered.wait()
        await client.send(b"x" * 5_000)
        await eventually(lambda: memory.total == 5_000)
        await client.send(b"x" * 8_000)
        assert (await client.answer()).status == 503
        await client.stream.aclose()
        await running.killed("memory")


@requirement("server.memory.given-back")
@pytest.mark.parametrize("how", ["answered", "failed", "left", "cancelled"])
async def test_what_an_app_charges_ends_with_the_exchange(how: str) -> None:
    """However that ends."""
    memory = PeerMemory(20_000)
    kept: list[Holding] = []

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        holding: Holding = scope["extensions"]["chora.holding"]
        kept.append(holding)
        holding.assign("someone")
        holding.charge(1000)
        await receive()
        if how == "answered":
            await respond(send)
        elif how == "failed":
            raise ValueError
        await receive()
        if how == "cancelled":
            await trio.sleep_forever()
        assert memory.held == {"someone": 1000}

    app = Recorder(run)
    async with serving(app, memory=memory) as running, running.client() as client:
        await client.send(GET)
        await app.entered.wait()
        if how in ("answered", "failed"):
            await client.answer()
            await eventually(lambda: memory.held == {})
        elif how == "left":
            await eventually(lambda: memory.held == {"someone": 1000})
    assert (memory.held, [each.bytes for each in kept]) == ({}, [0])
    with pytest.raises(RuntimeError):
        kept[0].charge(1)


@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 431)])
async def test_a_request_head_may_be_as_large_as_the_limit(extra: int, status: int) -> None:
    """64 KiB of target, names and values, without what stands between them; one byte more is refused."""
    counted = len("/") + len("Host") + len("x") + len("X")
    value = b"a" * (65_536 - counted + extra)
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + value + b"\r\n\r\n"
    async with serving(fine) as running, running.client() as client:
        # In two pieces, so that less than the limit is incomplete at any time.
        await client.send(head[:65_000])
        assert (await client.ask(head[65_000:])).status == status


async def test_a_refused_head_request_gets_no_body() -> None:
    """Even a refusal leaves out the body when the method is HEAD, and only then."""
    async with serving(fine) as running:
        async with running.client() as client:
            await client.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n", bare=True)
            assert await client.rest() == b""
        async with running.client() as client:
            await client.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", bare=True)
            assert (await client.ask(b"nonsense\r\n\r\n")).body != b""


async def test_a_head_of_64_kib_is_served() -> None:
    """The head limit lets everything below it through."""
    async with serving(fine) as running, running.client() as client:
        assert (await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 65_000 + b"\r\n\r\n")).status == 200


async def test_a_chunked_body_is_counted_while_it_streams() -> None:
    """A chunked body over the limit is refused in its middle, and a client that reads last still reads the 413."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        while True:
            self.seen.append(len((await receive())["body"]))

    app = Recorder(run)
    async with serving(app, body=200_000) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            await client.send(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        answer = await client.answer()
        assert answer.status == 413
        *sizes, cancelled = app.seen
        assert sum(sizes) <= 200_000
        assert cancelled is trio.Cancelled


@pytest.mark.parametrize(("spare", "status"), [(0, 200), (-1, 413)])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_may_be_as_large_as_the_limit(is_chunked: bool, spare: int, status: int) -> None:
    """One byte more is refused; a chunk counts for 64 of them."""
    size = 2 * (64 + 10) if is_chunked else 200
    async with serving(echo, body=size + spare) as running, running.client() as client:
        if is_chunked:
            await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            answer = await client.ask(b"a\r\n0123456789\r\n" * 2 + b"0\r\n\r\n")
        else:
            answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n" + bytes(200))
        assert answer.status == status
        if status == 200:
            assert len(answer.body) == (20 if is_chunked else 200)


async def test_tiny_chunks_count_for_more_than_their_bytes() -> None:
    """A body of many tiny chunks is refused long before its bytes reach the limit, for it costs that much to read."""
    async with serving(echo, body=10_000) as running:
        async with running.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert (await client.ask(b"1\r\na\r\n" * 1000)).status == 413
        async with running.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            answer = await client.ask((b"3e8\r\n" + bytes(1000) + b"\r\n") * 9 + b"0\r\n\r\n")
            assert (answer.status, len(answer.body)) == (200, 9000)


async def test_a_large_content_length_is_refused_not_reset() -> None:
    """A client that sends a body of declared, excessive length before it reads still reads the 413."""
    async with serving(unreachable, body=1000) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
        await client.send(bytes(3_000_000))
        assert (await client.answer()).status == 413


async def test_a_body_that_turns_malformed_is_refused() -> None:
    """A broken chunk after the app has begun to read cancels the app and is answered with 400."""
    app = Recorder(read_and_say_nothing)
    async with serving(app) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await app.entered.wait()
        await client.send(b"nonsense\r\n")
        assert (await client.answer()).status == 400
        assert app.seen == [trio.Cancelled]


async def test_an_unwanted_body_is_bounded_too() -> None:
    """The rest of a body that is only read to be dropped may not exceed the limit either."""
    async with serving(fine, body=1000) as running:
        async with running.client() as client:
            answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert answer.status == 200
            await client.send(b"800\r\n" + bytes(0x800) + b"\r\n")
            assert await client.rest() == b""
        await running.killed("body")


async def test_an_app_that_shields_itself_sees_the_disconnect() -> None:
    """Where cancellation can't reach the app, `receive` of a refused body raises instead of going on."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        with trio.CancelScope(shield=True):
            await read_body(receive)

    app = Recorder(run)
    async with serving(app, body=100) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await app.entered.wait()
        await client.send(b"50\r\n")
        await client.send(bytes(80))
        assert (await client.answer()).status == 413
        assert app.seen == [Disconnected]


# -- limits -----------------------------------------------------------------------------------------------------


def test_bounds_default_to_the_settings() -> None:
    """The defaults are those of `[limits]`."""
    bounds, limits = ConnectionLimits(), LimitSettings()
    assert all(getattr(bounds, field) == getattr(limits, field) for field in ConnectionLimits.__struct_fields__)


async def dribble(client: RawClient, drop: bytes) -> None:
    while True:
        await client.send(drop)
        await trio.sleep(0.02)


async def test_header_time_is_counted_in_all() -> None:
    """A head that dribbles in doesn't gain time with every byte: 408."""
    async with serving(unreachable, header_time=0.2) as running, running.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble, client, b"X: y\r\n")
            assert (await client.answer()).status == 408
            nursery.cancel_scope.cancel()


async def test_a_late_head_is_answered_with_408() -> None:
    """A client that began a request and stopped gets 408; one that said nothing is closed without a word."""
    async with serving(unreachable, header_time=0.1) as running:
        async with running.client() as client, running.client() as silent:
            assert (await client.ask(b"GET / HT")).status == 408
            assert await silent.rest() == b""
        await eventually(lambda: running.server.statistics().aborted == {"header_time": 2})


async def test_an_idle_connection_is_closed() -> None:
    """A connection between requests is closed in silence after `keep_alive`."""
    async with serving(fine, keep_alive=0.1) as running, running.client() as client:
        await client.ask()
        assert await client.rest() == b""
        await running.killed("keep_alive")


async def test_a_second_head_has_its_own_time() -> None:
    """On a kept connection the head's clock starts with its first byte, and ends in 408."""
    async with serving(fine, keep_alive=PATIENCE, header_time=0.5) as running, running.client() as client:
        await client.ask()
        assert (await client.ask(b"GET ")).status == 408


async def test_body_time_is_counted_in_all() -> None:
    """A body that dribbles in is cut after `body_time`, answered with 408, and the app is cancelled."""
    app = Recorder(read_and_say_nothing)
    async with serving(app, body_time=0.2) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble, client, b"x")
            assert (await client.answer()).status == 408
            nursery.cancel_scope.cancel()
        assert app.seen == [trio.Cancelled]


async def test_body_time_is_not_the_apps_time(autojump_clock: trio.testing.MockClock) -> None:
    """An app that takes long before it reads doesn't use up the client's time."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await trio.sleep(20)
        await respond(send, await read_body(receive))

    async with serving(Recorder(run), body_time=10) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        assert (await client.ask(b"ok")).body == b"ok"


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    """A write that stalls ends the connection and cancels the app, though the app shields nothing and no task reads."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await begin_stream(send)
        while True:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})

    app = Recorder(run)
    async with serving(app, write_stall=0.2) as running, running.client() as client:
        await client.send(GET)
        await running.killed("write_stall")
        assert app.seen == [trio.Cancelled]
        assert running.server.statistics().open == 0


async def test_an_idle_server_sleeps(autojump_clock: trio.testing.MockClock) -> None:
    """Without connections nothing wakes it, as there are no deadlines to check; after the last one it sleeps again."""

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async def idle_steps() -> int:
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(30)  # three hundred sweeps
        trio.lowlevel.remove_instrument(steps)
        return steps.count

    async with serving(fine) as running:
        assert await idle_steps() < 10
        async with running.client() as client:
            await client.ask()
        await eventually(lambda: running.server.statistics().open == 0)
        await trio.sleep(1)
        assert await idle_steps() < 10


async def test_the_write_bound_holds_per_slice(autojump_clock: trio.testing.MockClock) -> None:
    """A slow reader of a large body isn't cut as long as it goes on reading."""
    body = bytes(6_000_000)

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, body)

    async with serving(app, write_stall=10) as running, running.client() as client:
        await client.send(GET)
        received, began = 0, trio.current_time()
        while received < len(body):
            received += len(await client.stream.receive_some(400_000))
            await trio.sleep(2)
        assert trio.current_time() - began > 10


async def test_pipelining_without_end_is_cut() -> None:
    """What a client sends ahead while a response is made is bounded; beyond, the connection is cut."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        with suppress(trio.BrokenResourceError):
            await client.send(GET + GET * 20_000)
        await running.killed("read_ahead")
        assert app.seen == [trio.Cancelled]


@pytest.mark.parametrize("app_dawdles", [False, True])
async def test_the_next_request_may_be_large(app_dawdles: bool) -> None:
    """A client that has the whole response may send a large request before the app has said that it was all."""
    requests = 0

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal requests
        requests += 1
        if scope["method"] == "POST":
            await respond(send, str(len(await read_body(receive))).encode())
            return
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)  # so that the connection is watched
            await trio.testing.wait_all_tasks_blocked()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await send({"type": "http.response.body", "body": b"fine", "more_body": True})
            if app_dawdles:
                await trio.sleep(0.3)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(app) as running, running.client() as client:
        for _ in range(3):
            assert (await client.ask()).body == b"fine"
            large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
            assert (await client.ask(large)).body == b"300000"
        assert running.server.statistics().aborted == {}
    assert requests == 6


async def test_connections_beyond_the_cap_are_refused() -> None:
    """One connection too many gets 503 and is counted; when another one closes, a new one is accepted."""
    async with serving(fine, connections=1) as running:
        async with running.client() as first:
            await first.ask()
            async with running.client() as second:
                answer = await second.ask()
                assert (answer.status, answer.headers["connection"]) == (503, "close")
                assert answer.headers["retry-after"] == "1"
            assert (await first.ask()).status == 200
            assert running.server.statistics().refused == 1
        await eventually(lambda: running.server.statistics().open == 0)
        async with running.client() as third:
            assert (await third.ask()).status == 200


async def test_refusing_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers beyond the cap that don't go away after their 503 can't pile up either."""
    monkeypatch.setattr(http_server, "CONCURRENT_REFUSALS", 1)
    async with serving(fine, connections=1) as running, running.client() as first:
        await first.ask()
        async with running.client() as second, running.client() as third:
            assert (await second.answer()).status == 503
            assert await third.rest() == b""
        assert running.server.statistics().refused == 2


async def test_lingering_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused client that neither reads nor leaves is closed after a while."""
    monkeypatch.setattr(connection_module, "LINGER_TIME", 0.1)
    async with serving(fine) as running, running.client() as client:
        await client.send(b"nonsense\r\n\r\n")
        await running.killed("malformed")
        assert running.server.statistics().open == 0


# -- apps that fail ---------------------------------------------------------------------------------------------


async def crash_at_once(scope: Any, receive: Receive, send: Send) -> None:
    raise ValueError("a bug")


async def crash_after_start(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ValueError("a bug")


async def crash_in_two_tasks(scope: Any, receive: Receive, send: Send) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crash_at_once, scope, receive, send)
        nursery.start_soon(crash_at_once, scope, receive, send)


async def say_nothing(scope: Any, receive: Receive, send: Send) -> None:
    pass


async def send_a_bad_header(scope: Any, receive: Receive, send: Send) -> None:
    await respond(send, b"", 200, [(b"x", b"a\r\nb: c")])


async def send_more_than_promised(scope: Any, receive: Receive, send: Send) -> None:
    await respond(send, b"fine", 200, [(b"content-length", b"2")])


async def send_a_body_first(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"x"})


async def start_twice(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    "app",
    [
        crash_at_once,
        crash_after_start,
        crash_in_two_tasks,
        say_nothing,
        send_a_bad_header,
        send_more_than_promised,
        send_a_body_first,
        start_twice,
    ],
)
async def test_a_failing_app_is_answered_with_500(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong before the head is sent gives 500 and a traceback in the log, and the server goes on."""
    async with serving(http_only(app)) as running:
        for _ in range(2):
            async with running.client() as client:
                answer = await client.ask(b"GET /path?token=secret HTTP/1.1\r\nHost: x\r\n\r\n")
                assert answer.status == 500
                assert b"bug" not in answer.body
                assert await client.rest() == b""
        await eventually(lambda: running.server.statistics().aborted == {"crash": 2})
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in records] == ["the app failed on GET /path"] * 2
    assert all(record.name == "chora.transport" and record.exc_info for record in records)


async def crash_later(scope: Any, receive: Receive, send: Send) -> None:
    await begin_stream(send)
    raise ValueError("a bug")


async def stop_midway(scope: Any, receive: Receive, send: Send) -> None:
    await begin_stream(send)


async def promise_too_much(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("app", [crash_later, stop_midway, promise_too_much])
async def test_an_app_that_fails_midway_is_cut(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """After the head there is nothing better than to cut: no last chunk pretends that the body was whole."""
    async with serving(http_only(app)) as running, running.client() as client:
        await client.send(GET)
        said = await client.rest()
        assert b"first" in said
        assert not said.endswith(b"0\r\n\r\n")
    assert any(record.exc_info for record in caplog.records)


async def test_sending_after_the_end_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """A message after the last one is a bug of the app, not bytes in the next response."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(send)
        await send({"type": "http.response.body", "body": b"more"})

    async with serving(app) as running, running.client() as client:
        assert (await client.ask()).body == b"fine"
        assert await client.rest() == b""
    assert "can't send http.response.body now" in caplog.text


async def test_errors_while_being_cancelled_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    """An app that answers its cancellation with an error, even when the server itself is cancelled, ends nothing."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while leaving")

    app = Recorder(run)
    server = HttpServer(app, make_config(), ConnectionLimits())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(lambda task_status: server.serve(task_status=task_status))
            async with await trio.open_tcp_stream("127.0.0.1", int(url.rsplit(":", 1)[1])) as stream:
                await stream.send_all(GET)
                await app.entered.wait()
                nursery.cancel_scope.cancel()
    assert "while leaving" in caplog.text


async def test_a_bug_in_one_connection_spares_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An error in the server's own code costs the connection it happened in, and is logged."""
    async with serving(fine) as running, running.client() as good:
        await good.ask()
        state, running.server.state = running.server.state, None  # type: ignore[assignment]
        async with running.client() as client:
            await client.send(GET)
            assert await client.rest() == b""
        running.server.state = state
        assert (await good.ask()).status == 200
    assert "a connection failed" in caplog.text


async def test_the_configs_logger_is_used() -> None:
    """Where the config brings a logger, errors go there."""
    records: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.Logger("mine")
    logger.addHandler(Keeping())
    async with (
        serving(http_only(crash_at_once), config=make_config(errorlog=logger)) as running,
        running.client() as client,
    ):
        await client.ask()
    assert [record.exc_info is not None for record in records] == [True]


def reset_when_closed(client: RawClient) -> None:
    """Have the client's end vanish with a reset instead of a proper goodbye."""
    assert isinstance(client.stream, trio.SocketStream)
    linger = "hh" if sys.platform == "win32" else "ii"
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(linger, 1, 0))


# -- departures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [b"", GET])
async def test_receive_reports_the_departure(ahead: bytes) -> None:
    """`receive` after the body returns `http.disconnect` when the client leaves, though a request is pipelined."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await begin_stream(send)
        self.seen.append(await receive())
        with pytest.raises(Disconnected):
            await send({"type": "http.response.body", "body": b"x"})

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            await client.send(GET + ahead)
            await client.until(b"first")
        await app.done.wait()
        assert app.seen == [{"type": "http.disconnect"}]
        await eventually(lambda: running.server.statistics().open == 0)


@pytest.mark.parametrize("ahead", [b"", GET])
async def test_an_app_may_have_itself_called_at_the_departure(ahead: bytes) -> None:
    """A callback given to `chora.on_disconnect` is called once the client has left a long request, pipelined or not."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await begin_stream(send)
        with trio.CancelScope() as departed:
            scope["extensions"]["chora.on_disconnect"](departed.cancel)
            await trio.sleep_forever()
        self.seen.append("departed")
        scope["extensions"]["chora.on_disconnect"](lambda: self.seen.append("long ago"))

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            await client.send(GET + ahead)
            await client.until(b"first")
        await app.done.wait()
        assert app.seen == ["departed", "long ago"]


async def test_no_departure_is_reported_after_the_response() -> None:
    """A client that leaves after its response, as they all do, triggers no callback, even while the app still works."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        scope["extensions"]["chora.on_disconnect"](lambda: self.seen.append("departed"))
        (accepted,) = running.server._connections
        await eventually(lambda: accepted._reading_ahead and accepted._reading)
        await respond(send)
        await eventually(lambda: accepted.disconnected)

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            await client.ask()
        await eventually(lambda: running.server.statistics().open == 0)
    assert app.seen == []


async def test_a_departure_is_reported_once() -> None:
    """A reset that both the watching and the writing task run into calls the app back once."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        scope["extensions"]["chora.on_disconnect"](lambda: self.seen.append("departed"))
        await begin_stream(send)
        await send({"type": "http.response.body", "body": bytes(50_000_000), "more_body": True})

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            await client.send(GET)
            await app.entered.wait()
            (accepted,) = running.server._connections
            await eventually(lambda: accepted._reading_ahead and accepted._reading)
            reset_when_closed(client)
        await app.done.wait()
        await eventually(lambda: running.server.statistics().open == 0)
    assert app.seen == ["departed", Disconnected]


@pytest.mark.parametrize("ahead", [b"", GET])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_long_request_is_watched(ahead: bytes, reset: bool) -> None:
    """An app that doesn't receive learns of the departure from its next `send`, which raises an OSError at once."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await self.go.wait()
        await respond(send)

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            await client.send(GET)
            await app.entered.wait()
            (accepted,) = running.server._connections
            await eventually(lambda: accepted._reading_ahead)
            await client.send(ahead)
            if reset:
                reset_when_closed(client)
        await eventually(lambda: accepted.disconnected)
        app.go.set()
        await app.done.wait()
        assert app.seen == [Disconnected]
        assert issubclass(Disconnected, OSError)
        assert issubclass(Disconnected, trio.BrokenResourceError)


async def test_a_watched_request_may_be_followed_by_others() -> None:
    """The task that watched a long request hands what it read to the next one, pipelined or not."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        (accepted,) = running.server._connections
        await eventually(lambda: accepted._reading_ahead)
        await respond(send, await read_body(receive))

    async with serving(Recorder(run)) as running, running.client() as client:
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
        assert (await client.ask(post % 1)).body == b"1"
        await client.send(post % 2 + post % 3)
        assert (await client.answer()).body == b"2"
        assert (await client.answer()).body == b"3"
        assert (await client.ask(post % 4)).body == b"4"


async def test_every_long_request_is_watched() -> None:
    """A departure is noticed during a later request of a connection as well as during the first."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        (accepted,) = running.server._connections
        if scope["path"] == "/":
            await eventually(lambda: accepted._reading_ahead)
            await respond(send)
        else:
            await begin_stream(send)
            await eventually(lambda: accepted.disconnected)
            self.seen.append("noticed")

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            for _ in range(2):
                await client.ask()
            await client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.until(b"first")
        await eventually(lambda: app.seen == ["noticed"])


async def test_receive_is_woken_by_the_last_send() -> None:
    """A task that waits in `receive` for the client's disconnect is woken when the response is complete."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)

        async def listen() -> None:
            self.seen.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await respond(send)

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        for count in (1, 2):
            assert (await client.ask()).body == b"fine"
            await eventually(lambda count=count: app.seen == [{"type": "http.disconnect"}] * count)


async def test_departure_within_the_body_is_a_disconnect() -> None:
    """A client that leaves before its body is complete gives `http.disconnect`, not a short body."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            self.seen.append(message["body"])
        self.seen.append(message["type"])

    app = Recorder(run)
    async with serving(app) as running:
        async with running.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            await eventually(lambda: app.seen == [b"abc"])
        await app.done.wait()
        assert app.seen == [b"abc", "http.disconnect"]


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
async def test_two_tasks_may_receive(expect: bytes) -> None:
    """Where two tasks want the body it is asked for once, and the one that comes too late waits for the end."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            self.seen.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(listen)
            await self.go.wait()
            await trio.testing.wait_all_tasks_blocked()
            await eventually(lambda: len(self.seen) == 1)
            await respond(send)

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n" + expect + b"\r\n")
        if expect:
            assert (await client.answer()).status == 100
        await app.entered.wait()
        await client.send(b"ab")
        app.go.set()
        assert (await client.answer()).body == b"fine"
        await app.done.wait()
        assert app.seen == [
            {"type": "http.request", "body": b"ab", "more_body": False},
            {"type": "http.disconnect"},
        ]


async def test_a_send_that_the_app_cancels_ends_the_connection() -> None:
    """A response cut in the middle of a write can't be continued: later sends raise and the connection closes."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.1):
            await respond(send, bytes(50_000_000))
        await send({"type": "http.response.body", "body": b"x"})

    app = Recorder(run)
    async with serving(app) as running, running.client() as client:
        await client.send(GET)
        await app.done.wait()
        assert app.seen == [Disconnected]
        await eventually(lambda: running.server.statistics().open == 0)


async def test_what_an_app_left_behind_cannot_disturb_the_next_request() -> None:
    """`receive` and `send` of an answered request are over for good."""
    kept: list[tuple[Receive, Send]] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        kept.append((receive, send))
        if len(kept) > 1:
            receive, send = kept[0]
            assert await receive() == {"type": "http.disconnect"}
            with pytest.raises(RuntimeError):
                await send({"type": "http.response.body", "body": b"ghost"})
        await respond(kept[-1][1])

    async with serving(app) as running, running.client() as client:
        assert (await client.ask()).body == b"fine"
        assert (await client.ask()).body == b"fine"


# -- the end ----------------------------------------------------------------------------------------------------


async def test_idle_connections_end_at_once() -> None:
    """Stopping doesn't wait for idle connections, new or kept, and listeners close first."""
    async with serving(fine, grace=30.0) as running, running.client() as kept, running.client() as new:
        await kept.ask()
        await eventually(lambda: running.server.statistics().open == 2)
        await eventually(lambda: {each.exchange for each in running.server._connections} == {None})
        running.server.stop()
        running.server.stop()
        with trio.fail_after(PATIENCE):
            assert await kept.rest() == b""
            assert await new.rest() == b""
            await running.ended.wait()
        assert running.server.statistics().aborted == {"draining": 2}
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", running.port)


async def test_a_request_in_flight_is_answered() -> None:
    """A request that runs when the server stops gets its answer, which says that the connection closes."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await self.go.wait()
        await respond(send)

    app = Recorder(run)
    async with serving(app, grace=5.0) as running, running.client() as client:
        await client.send(GET + GET)
        await app.entered.wait()
        running.server.stop()
        app.go.set()
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"fine", "close")
        assert await client.rest() == b""
        await running.ended.wait()
        assert running.server.statistics().aborted == {}


async def test_a_stopping_server_takes_no_further_request() -> None:
    """A request pipelined behind a response whose head was sent before the stop isn't begun any more."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        self.seen.append("request")
        await begin_stream(send)
        await self.go.wait()
        await send({"type": "http.response.body", "body": b""})

    app = Recorder(run)
    async with serving(app, grace=5.0) as running, running.client() as client:
        await client.send(GET + GET)
        await client.until(b"first")
        running.server.stop()
        app.go.set()
        assert (await client.rest()).endswith(b"0\r\n\r\n")
        assert app.seen == ["request"]


async def test_a_half_sent_request_is_still_served() -> None:
    """A head that has begun to arrive when the server stops is a request in flight."""
    async with serving(fine, grace=5.0) as running, running.client() as client:
        await client.send(GET[:10])
        await eventually(lambda: [each.head_started for each in running.server._connections] == [True])
        running.server.stop()
        answer = await client.ask(GET[10:])
        assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_event_streams_end_themselves() -> None:
    """The draining event in the scope lets a stream end properly, well within the grace."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await begin_stream(send)
        await scope["extensions"]["chora.draining"].wait()
        await send({"type": "http.response.body", "body": b" bye"})

    async with serving(app, grace=30.0) as running, running.client() as client:
        await client.send(GET)
        await client.until(b"first")
        running.server.stop()
        with trio.fail_after(PATIENCE):
            assert (await client.rest()).endswith(b" bye\r\n0\r\n\r\n")
            await running.ended.wait()


@pytest.mark.parametrize(
    ("headers", "ending"),
    [([], b"first\r\n0\r\n\r\n"), ([(b"content-length", b"100")], b"first")],
)
async def test_what_outlives_the_grace_is_cut(
    headers: list[Any], ending: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace a chunked stream gets its last chunk, a body of promised length is cut, the app is cancelled."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await trio.sleep_forever()

    monkeypatch.setattr(http_server, "FINAL_WRITE_TIME", 60.0)
    app = Recorder(run)
    async with serving(app, grace=0.1) as running, running.client() as client:
        await client.send(GET)
        await client.until(b"\r\n\r\n")
        running.server.stop()
        assert (await client.rest()).endswith(ending)
        with trio.fail_after(20):  # less than the time for last words: there is nothing to wait for
            await running.ended.wait()
        assert app.seen == [trio.Cancelled]
        assert running.server.statistics().aborted == {"grace": 1}


async def test_a_request_without_an_answer_gets_503_after_the_grace() -> None:
    """A request cut before its response began gets 503, so that the client can try another server."""
    app = Recorder(never_answer)
    async with serving(app, grace=0.1) as running, running.client() as client:
        await client.send(GET)
        await app.entered.wait()
        running.server.stop()
        assert (await client.answer()).status == 503


async def test_a_finished_response_is_left_alone_at_the_grace() -> None:
    """An app that works on after its response is cancelled at the grace, and nothing is added to the response."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await respond(send)
        await trio.sleep_forever()

    app = Recorder(run)
    async with serving(app, grace=0.1) as running, running.client() as client:
        assert (await client.ask()).body == b"fine"
        running.server.stop()
        assert await client.rest() == b""
        assert app.seen == [trio.Cancelled]


async def test_stopping_takes_a_limited_time_whatever_clients_do() -> None:
    """Peers that don't read, don't finish their requests or don't leave can't hold the server beyond grace + 2 s."""

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/body":
            await read_body(receive)
        await begin_stream(send)
        while True:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})

    async with serving(app, grace=0.3) as running, AsyncExitStack() as clients:
        for said in (
            GET,
            b"GET / HT",
            b"nonsense\r\n\r\n",
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        ):
            client = await clients.enter_async_context(running.client())
            await client.send(said)
        await eventually(lambda: running.server.statistics().open == 4)
        await eventually(lambda: any(each.writing for each in running.server._connections))
        running.server.stop()
        with trio.fail_after(PATIENCE):
            await running.ended.wait()


async def test_cancelling_ends_at_once() -> None:
    """A cancelled `serve` doesn't drain: requests are cancelled and the port is free again."""
    app = Recorder(never_answer)
    server = HttpServer(app, make_config(), ConnectionLimits(grace=30.0))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(lambda task_status: server.serve(task_status=task_status))
            port = int(url.rsplit(":", 1)[1])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(GET)
                await app.entered.wait()
                nursery.cancel_scope.cancel()
    assert app.seen == [trio.Cancelled]
    assert server.statistics().open == 0
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_a_server_that_was_stopped_before_it_began_ends_at_once() -> None:
    """`stop` may come before `serve` listens."""
    server = HttpServer(fine, make_config(), ConnectionLimits())
    server.stop()
    with trio.fail_after(PATIENCE):
        await server.serve()


async def test_a_connection_accepted_while_stopping_is_closed() -> None:
    """A client that was accepted in the very moment of the stop is closed, not served."""
    async with serving(unreachable) as running:
        here, there = socket.socketpair()
        with here:
            running.server.stop()
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(there))
            await running.server._handle(stream)
            assert running.server.statistics().accepted == 0
            await stream.aclose()


# -- lifespan and listening -------------------------------------------------------------------------------------


class Living:
    """An app with a lifespan; what happens in which order is kept."""

    def __init__(self, **fail: Exception | str) -> None:
        self.fail = fail
        self.order: list[str] = []
        self.broken = trio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["shared"] = self
            for stage in ("startup", "shutdown"):
                if stage == "shutdown" and "serving" in self.fail:
                    await self.broken.wait()
                    raise ValueError("broken")
                message = await receive()
                assert message == {"type": f"lifespan.{stage}"}
                self.order.append(stage)
                await self._finish(stage, send)
        else:
            assert scope["state"] == {"shared": self}
            scope["state"]["mine"] = True
            self.order.append("request")
            await respond(send)
            self.order.append("response")

    async def _finish(self, stage: str, send: Send) -> None:
        failure = self.fail.get(stage)
        if isinstance(failure, Exception):
            raise failure
        if failure == "hang":
            await trio.sleep_forever()
        if failure is not None:
            await send({"type": f"lifespan.{stage}.failed", "message": failure})
            raise RuntimeError("as some frameworks do after that")
        else:
            await send({"type": f"lifespan.{stage}.complete"})


async def test_lifespan_surrounds_everything() -> None:
    """The app starts up before the server listens, shares its state with requests, and shuts down after the last."""
    app = Living()
    async with serving(app) as running, running.client() as client:
        await client.ask()
        await client.ask()
    assert app.order == ["startup", *["request", "response"] * 2, "shutdown"]


@pytest.mark.parametrize("failure", [ValueError("no database"), "no database"])
async def test_a_failed_start_up_is_an_error(failure: Exception | str) -> None:
    """An app that fails in start-up isn't taken for one without lifespan: `serve` raises, and nothing listens."""
    server = HttpServer(Living(startup=failure), make_config(), ConnectionLimits())
    started: list[object] = []

    class Status:
        def started(self, value: object = None) -> None:
            started.append(value)

    with trio.fail_after(PATIENCE), pytest.raises(LifespanFailed, match="in start-up") as caught:
        await server.serve(task_status=Status())
    assert started == []
    if isinstance(failure, Exception):
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert caught.value.__cause__.exceptions == (failure,)
    else:
        assert "no database" in str(caught.value)


async def test_a_start_up_that_hangs_is_an_error() -> None:
    """An app has `startup_timeout` to start up."""
    server = HttpServer(Living(startup="hang"), make_config(startup_timeout=0.1), ConnectionLimits())
    with trio.fail_after(PATIENCE), pytest.raises(LifespanFailed, match=r"within 0.1 seconds"):
        await server.serve()


@pytest.mark.parametrize("failure", [ValueError("unsaved"), "unsaved"])
async def test_a_failed_shutdown_is_an_error(failure: Exception | str) -> None:
    """What goes wrong in the app's shutdown comes out of `serve`."""
    server = HttpServer(Living(shutdown=failure), make_config(), ConnectionLimits())
    server.stop()
    with trio.fail_after(PATIENCE), pytest.raises(LifespanFailed, match="in shutdown"):
        await server.serve()


async def test_a_shutdown_that_hangs_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """An app that doesn't come to an end is cut within two seconds after the grace, with a warning."""
    server = HttpServer(Living(shutdown="hang"), make_config(), ConnectionLimits(grace=0.0))
    server.stop()
    with trio.fail_after(PATIENCE):
        await server.serve()
    assert "still shutting down" in caplog.text


async def test_a_lifespan_that_breaks_ends_the_server() -> None:
    """When the app's lifespan task fails in between, all that it held up is gone: the server ends in its error."""
    app = Living(serving="breaks")
    server = HttpServer(app, make_config(), ConnectionLimits())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                with pytest.raises(LifespanFailed, match="while it served"):
                    await server.serve(task_status=task_status)

            await nursery.start(serve)
            app.broken.set()


async def test_the_urls_name_what_was_bound() -> None:
    """Every bound address becomes a URL, IPv6 in brackets, and the caller's own sockets are listened on."""
    plain = socket.socket()
    plain.bind(("127.0.0.1", 0))
    plain.set_inheritable(True)
    bound = [plain]
    if socket.has_ipv6:
        with suppress(OSError):
            six = socket.socket(socket.AF_INET6)
            bound.append(six)
            six.bind(("::1", 0))
    expected = ["http://127.0.0.1:%d", "http://[::1]:%d"]
    urls = [url % each.getsockname()[1] for url, each in zip(expected, bound, strict=False)]
    server = HttpServer(fine, make_config(), ConnectionLimits())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            serve = partial(server.serve, sockets=Sockets([], bound, []))
            assert await nursery.start(lambda task_status: serve(task_status=task_status)) == urls
            assert not plain.get_inheritable()
            server.stop()
    assert [each.fileno() for each in bound] == [-1] * len(bound)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
async def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    """A Unix socket works like a port, for a proxy on the same machine; its clients have no address."""
    scopes: list[Message] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    path = str(tmp_path / "socket")
    async with serving(app, config=make_config(bind=[f"unix:{path}"])) as running:
        assert running.urls == [f"http://unix:{path}"]
        async with await trio.open_unix_socket(path) as stream:
            assert (await RawClient(stream).ask()).body == b"fine"
    assert scopes[0]["client"] is None
    assert scopes[0]["server"] == (path, None)


@pytest.mark.filterwarnings("ignore:unclosed")  # hypercorn forgets the socket that it couldn't bind
async def test_an_address_in_use_is_an_os_error() -> None:
    """A port that is taken raises before the app starts up."""
    app = Living()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = HttpServer(app, make_config(bind=[f"127.0.0.1:{taken.getsockname()[1]}"]), ConnectionLimits())
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
            await server.serve()
        gc.collect()
    assert app.order == []


# -- TLS --------------------------------------------------------------------------------------------------------


class Certificate(NamedTuple):
    config: Callable[[], Config]
    context: Callable[[], ssl.SSLContext]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost, trusted by the clients of these tests."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    folder = tmp_path_factory.mktemp("tls")
    key, chain, trusted = (str(folder / name) for name in ("key.pem", "cert.pem", "ca.pem"))
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    authority.cert_pem.write_to_path(trusted)

    def context() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=trusted)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    return Certificate(lambda: make_config(certfile=chain, keyfile=key), context)


async def test_tls_serves_http_1_1_alone(certificate: Certificate) -> None:
    """Over TLS requests are served as usual, HTTP/2 isn't offered, and the connection is closed with a notice."""
    scopes: list[Message] = []

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send, await read_body(receive) * 100_000)

    async with serving(app, config=certificate.config()) as running:
        assert running.urls == [f"https://127.0.0.1:{running.port}"]
        stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        secure = trio.SSLStream(stream, certificate.context(), server_hostname="localhost")
        async with secure:
            client = RawClient(secure)
            for _ in range(2):
                answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
                assert answer.body == b"abc" * 100_000
            assert secure.selected_alpn_protocol() == "http/1.1"
            await client.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert await secure.receive_some() == b""  # without the notice this would raise
    assert scopes[0]["scheme"] == "https"
    assert scopes[0]["server"] == ("127.0.0.1", running.port)


async def test_a_tls_handshake_counts_as_header_time(certificate: Certificate) -> None:
    """A client that connects and never shakes hands is closed after `header_time`."""
    async with (
        serving(unreachable, config=certificate.config(), header_time=0.1) as running,
        running.client() as client,
    ):
        assert await client.rest() == b""
        await running.killed("header_time")


async def test_plain_http_on_a_tls_port_is_closed(certificate: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    """A client that doesn't speak TLS is let go without a noise in the log."""
    async with serving(unreachable, config=certificate.config()) as running, running.client() as client:
        await client.send(GET)
        await client.rest()
        await eventually(lambda: running.server.statistics().open == 0)
    assert caplog.records == []


async def test_tls_refusals_are_read_not_reset(certificate: Certificate) -> None:
    """Over TLS too, a client that sends all of an excessive body before it reads finds the 413."""
    config, tls = certificate.config(), certificate.context()
    async with serving(unreachable, config=config, body=1000) as running, running.client(tls) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
        await client.send(bytes(3_000_000))
        assert (await client.answer()).status == 413


async def test_tls_departures_are_noticed(certificate: Certificate) -> None:
    """A long request over TLS is watched like any other, pipelined bytes or not."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await begin_stream(send)
        self.seen.append(await receive())

    app = Recorder(run)
    async with serving(app, config=certificate.config()) as running:
        async with running.client(certificate.context()) as client:
            await client.send(GET + GET)
            await client.until(b"first")
        await app.done.wait()
        assert app.seen == [{"type": "http.disconnect"}]


async def test_a_tls_client_that_does_not_read_is_disconnected(certificate: Certificate) -> None:
    """The write bound holds over TLS, where what was cut can't be followed by last words."""

    async def run(self: Recorder, scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, bytes(50_000_000))

    app = Recorder(run)
    config, tls = certificate.config(), certificate.context()
    async with serving(app, config=config, write_stall=0.2) as running, running.client(tls) as client:
        await client.send(GET)
        await running.killed("write_stall")
        assert app.seen == [trio.Cancelled]


async def test_tls_connections_beyond_the_cap_are_closed(certificate: Certificate) -> None:
    """Over TLS a connection too many isn't worth a handshake: it is closed and counted."""
    config, tls = certificate.config(), certificate.context()
    async with serving(fine, config=config, connections=1) as running, running.client(tls) as first:
        assert (await first.ask()).status == 200
        async with running.client() as second:
            with trio.fail_after(PATIENCE):
                assert await second.rest() == b""
        assert running.server.statistics().refused == 1


async def test_secure_sockets_are_never_served_in_the_clear() -> None:
    """Sockets handed over as secure ones need a certificate in the config."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = HttpServer(fine, make_config(), ConnectionLimits())
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(PATIENCE):
        await server.serve(sockets=Sockets([bound], [], []))
    assert caught.group_contains(AssertionError, match="certificate")


# -- anything at all --------------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


async def test_no_bytes_end_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of mangled requests leave no descriptor open and a server that answers the next good one."""
    chance = random.Random(20261122)
    seeds = [
        GET,
        b"POST /%C3%A9 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nHTTP2-Settings: AAAA\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ]

    def mangle(data: bytearray) -> bytes:
        for _ in range(chance.randrange(6)):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                data[at : at + 1] = chance.randbytes(1)
            elif kind == 1:
                del data[at : at + chance.randrange(1, 20)]
            elif kind == 2:
                data[at:at] = chance.choice([b"\r\n", b"\0", b" ", b":", b"\n\n", b"%", chance.randbytes(9)])
            else:
                data[at:at] = chance.choice(seeds)
        return bytes(data)

    @http_only
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        await respond(send)

    async with serving(app, body=1000) as running, running.client() as good:
        await good.ask()
        before = descriptors()
        for _ in range(300):
            async with running.client() as client:
                await client.send(mangle(bytearray(chance.choice(seeds))))
                assert isinstance(client.stream, trio.SocketStream)
                if chance.random() < 0.5:
                    with suppress(trio.BrokenResourceError):
                        await client.stream.send_eof()
                    await client.rest()
            assert (await good.ask()).status == 200
        await eventually(lambda: running.server.statistics().open == 1)
        assert descriptors() == before
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
