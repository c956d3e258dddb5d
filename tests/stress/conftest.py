"""A real `chora serve` process, and raw connections to it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora import this_process
from chora.protocol import wire
from tests.conftest import Project
from tests.hostile.measures import free_port
from tests.patience import PATIENCE

MIB = 1024 * 1024
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "stress", "version": "1"}}
MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and sets limits of processes")


class ConnectionClosed(Exception):
    """The server closed the connection."""


class RawConnection:
    """One connection, whose bytes a test writes itself."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """What arrives up to some bytes."""
        while end not in self.buffer:
            piece = await self.stream.receive_some(65536)
            if not piece:
                raise ConnectionClosed
            self.buffer += piece
        found, _, self.buffer = self.buffer.partition(end)
        return found + end

    async def rest(self) -> bytes:
        """All that arrives until the server closes, in whatever way."""
        with contextlib.suppress(trio.BrokenResourceError):
            while piece := await self.stream.receive_some(65536):
                self.buffer += piece
        return self.buffer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """A response with a length."""
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            piece = await self.stream.receive_some(65536)
            if not piece:
                raise ConnectionClosed
            self.buffer += piece
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(first.split(" ")[1]), headers, body

    async def post(self, path: str, message: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Post a message and take its answer apart."""
        await self.send(post(path, message, **headers))
        status, given, body = await self.answer()
        return status, given, msgspec.json.decode(body) if body else None

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool in the modern era."""
        params = {"name": tool, "arguments": arguments, "_meta": MODERN}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        routing = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": tool}
        status, _, body = await self.post("/mcp", message, **routing)
        assert status == 200, body
        return body["result"]["structuredContent"]


def post(path: str, message: Any, **headers: str) -> bytes:
    """The bytes of a POST."""
    body = message if isinstance(message, bytes) else msgspec.json.encode(message)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json", "Accept: application/json, text/event-stream"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class ServerProcess:
    """A running server."""

    def __init__(self, process: trio.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[RawConnection]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            yield RawConnection(stream)

    async def check_serves(self) -> None:
        """A new client is served: a text is generated and stored."""
        async with self.connect() as connection:
            made = await connection.call("generate_content", content_config_id="greeting", force=True)
            assert made["success"] is True
            assert (await connection.call("hello_world"))["status"] == "operational"

    async def metric(self, name: str) -> float:
        """A line of /metrics."""
        async with self.connect() as connection:
            await connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            page = (await connection.rest()).decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def memory(self) -> int:
        """What the server itself occupies now, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


StartServer = Callable[..., AbstractAsyncContextManager[ServerProcess]]


@pytest.fixture
def start_server(hello: Project, tmp_path: Path) -> StartServer:
    """Start a server with these limits; at the end it must still run, end with 0 and have logged no failure."""

    @asynccontextmanager
    async def start(limits: str = "", *, files: int = 0) -> AsyncGenerator[ServerProcess]:
        hello.write("chora.toml", f"[limits]\n{limits}\n[render]\nworkers = 1\n")
        port, log = free_port(), tmp_path / "log"
        command = this_process.own_command("--project", str(hello.root), "serve", "--port", str(port))
        if files:
            command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        quiet = {"CHORA_PROBE_INTERVAL": "3600", "CHORA_PROBE_LATENCY_INTERVAL": "3600"}
        with log.open("wb") as errors:
            process = await trio.lowlevel.open_process(
                command, env={**os.environ, **quiet}, stderr=errors, stdout=errors
            )
        server = ServerProcess(process, port, log)
        try:
            with trio.fail_after(PATIENCE):
                while True:
                    try:
                        await server.check_serves()
                        break
                    except OSError:
                        await trio.sleep(0.05)
            with trio.fail_after(300):
                yield server
            assert process.poll() is None, log.read_text()[-2000:]
            process.terminate()
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0, log.read_text()[-2000:]
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        text = log.read_text()
        assert "Traceback" not in text, text[-3000:]
        assert "incident" not in text, text[-3000:]

    return start
