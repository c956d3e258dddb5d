"""A fake HTTP server that sends the bytes a test gives it and records the requests it gets."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec
import trio

Headers = dict[str, str]


class ReceivedRequest(NamedTuple):
    """A request as it arrived."""

    method: str
    target: str
    headers: Headers
    body: bytes

    @property
    def message(self) -> Any:
        return msgspec.json.decode(self.body) if self.body else {}

    def answers(self, result: Any = None) -> bytes:
        """The JSON-RPC response to it."""
        return msgspec.json.encode({"jsonrpc": "2.0", "id": self.message["id"], "result": result or {}})


Answer = bytes | None | Callable[[trio.abc.Stream], Awaitable[None]]
"""Bytes to send; None, to close the connection; or a function that gets the connection."""


class FakeUpstream:
    """A server whose answers a test supplies.

    Args:
        play: what to answer a request with.
    """

    def __init__(self, play: Callable[[ReceivedRequest], Answer]) -> None:
        self.play = play
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.port = 0
        self._arrived = trio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def methods(self) -> list[str]:
        """The HTTP method of every request, and that of the message in it."""
        return [f"{each.method} {each.message.get('method', '')}".strip() for each in self.requests]

    async def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until `count` requests were made whose methods contain `text`."""
        async with self._arrived:
            while sum(text in each for each in self.methods()) < count:
                await self._arrived.wait()

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        buffer = b""
        try:
            async with stream:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        if not (received := await stream.receive_some()):
                            return
                        buffer += received
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    first, *lines = head.decode().split("\r\n")
                    headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines)
                    while len(buffer) < int(headers.get("content-length", 0)):
                        buffer += await stream.receive_some()
                    length = int(headers.get("content-length", 0))
                    body, buffer = buffer[:length], buffer[length:]
                    request = ReceivedRequest(first.split()[0], first.split()[1], headers, body)
                    async with self._arrived:
                        self.requests.append(request)
                        self._arrived.notify_all()
                    answer = self.play(request)
                    if answer is None:
                        return
                    if isinstance(answer, bytes):
                        await stream.send_all(answer)
                    else:
                        await answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def playing(play: Callable[[ReceivedRequest], Answer]) -> AsyncGenerator[FakeUpstream]:
    """A server on a free port of this machine."""
    upstream, failure = FakeUpstream(play), None
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, upstream.serve, 0, host="127.0.0.1"))
        upstream.port = listener.socket.getsockname()[1]
        try:
            yield upstream
        except Exception as error:  # as itself, not in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def http(body: bytes = b"", status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    """A response; header names with `_` for `-`."""
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    typed = f"content-type: {kind}\r\n" if kind else ""
    return f"HTTP/1.1 {status}\r\n{typed}content-length: {len(body)}\r\n{extra}\r\n".encode() + body


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data: bytes, **fields: str) -> bytes:
    """A chunk with one event."""
    named = "".join(f"{name}: {value}\n" for name, value in fields.items())
    return chunk(named.encode() + b"data: " + data + b"\n\n")
