"""A server on loopback that speaks the Messages API: it answers by a script and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
import trio

KEY = "sk-ant-very-secret-0123456789"


class Answer(NamedTuple):
    """What one request gets."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    closes_early: bool = False
    """The connection ends in the middle of the answer."""
    never: bool = False
    """No answer comes; the request waits until its client goes away."""


class Asked(NamedTuple):
    """A request as it arrived."""

    line: str
    headers: dict[str, str]
    body: dict[str, Any]


def message(text: str, stop: str = "end_turn", tokens: tuple[int, int] = (1000, 500), **rest: Any) -> Answer:
    """An answer of the model."""
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
        **rest,
    }
    return Answer(body=msgspec.json.encode(body))


def refusal(status: int, reason: str = "no", **headers: str) -> Answer:
    """An answer of the API that isn't the model's."""
    body = {"type": "error", "error": {"type": "some_error", "message": reason}}
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, msgspec.json.encode(body), named)


class AnthropicServer:
    """Gives the answers of its script one after the other, the last one for ever."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.asked: list[Asked] = []
        self.left = trio.Event()
        """A client went away before it had its answer."""
        self.url = ""

    @property
    def prompts(self) -> list[str]:
        return [asked.body["messages"][0]["content"] for asked in self.asked]

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                part = await stream.receive_some()
                if not part:
                    return
                received += part
            head, _, body = received.partition(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            while len(body) < int(headers["content-length"]):
                body += await stream.receive_some()
            self.asked.append(Asked(line, headers, msgspec.json.decode(body)))
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if answer.never:
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some()
                self.left.set()
                return
            fields = [f"{name}: {value}" for name, value in answer.headers]
            length = len(answer.body) + (100 if answer.closes_early else 0)
            reply = [
                f"HTTP/1.1 {answer.status} X",
                "content-type: application/json",
                f"content-length: {length}",
                "connection: close",
                *fields,
                "\r\n",
            ]
            try:
                await stream.send_all("\r\n".join(reply).encode() + answer.body)
            except trio.BrokenResourceError:
                self.left.set()


@asynccontextmanager
async def serving(*script: Answer) -> AsyncGenerator[AnthropicServer]:
    """A server on a free port of loopback, for as long as the block lasts."""
    server = AnthropicServer(*script)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server._serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        server.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()
