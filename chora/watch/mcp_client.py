"""A small MCP client: one connection, one call at a time; over HTTP in the modern era, over pipes with a handshake.

Its own, because the SDK's client takes longer to import than a whole probe may take.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import trio

from chora import __version__
from chora.fetch import ConnectionPool, FetchFailed, ResponseTooLarge, parse_address
from chora.protocol import wire
from chora.secrets import Secret

ANSWER_LIMIT = 8 * 1024 * 1024
"""Bytes of the largest answer accepted."""


EXIT_TIMEOUT = 10.0
"""Seconds in which a server process has to end after its stdin was closed."""


class CallFailed(Exception):
    """The server couldn't be reached or gave no proper answer; the message says which.

    Args:
        message: what went wrong.
        code: that of the JSON-RPC error, if the answer is one.
        status: that of the HTTP response, if there was one.
    """

    def __init__(self, message: str, code: object = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class CallResult(NamedTuple):
    """A tool's answer."""

    result: dict[str, Any]
    """The `structuredContent`, or the text when there is none."""
    is_error: bool


class McpClient(ABC):
    """A connection to one MCP server."""

    @abstractmethod
    async def request(self, method: str, params: dict[str, Any], *, name: str | None = None) -> dict[str, Any]:
        """Send a request and return its result.

        Args:
            name: the tool, prompt or resource it is about.

        Raises:
            CallFailed: no answer, one that is not MCP, or a JSON-RPC error.
        """

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallResult:
        """Call a tool.

        Raises:
            CallFailed: no answer, or one that is not MCP.
        """
        answer = await self.request("tools/call", {"name": tool, "arguments": arguments}, name=tool)
        content: Any = answer.get("structuredContent")
        if content is None:
            texts = [part.get("text", "") for part in answer.get("content", [])]
            content = {"text": "\n".join(texts)}
        return CallResult(content, bool(answer.get("isError")))


class HttpMcpClient(McpClient):
    """A connection to the Streamable HTTP endpoint of a server that speaks the modern era."""

    def __init__(self, pool: ConnectionPool, target: str, token: Secret | None) -> None:
        self._pool = pool
        self._target = target
        self._token = token
        self._count = 0

    async def request(self, method: str, params: dict[str, Any], *, name: str | None = None) -> dict[str, Any]:
        self._count += 1
        envelope = {
            wire.VERSION_KEY: wire.MODERN_REVISIONS[-1],
            wire.CAPABILITIES_KEY: {},
            "io.modelcontextprotocol/clientInfo": {"name": "chora", "version": __version__},
        }
        body = msgspec.json.encode(
            {"jsonrpc": "2.0", "id": self._count, "method": method, "params": {**params, "_meta": envelope}}
        )
        headers = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", wire.MODERN_REVISIONS[-1]),
            ("mcp-method", method),
        ]
        if name is not None:
            headers.append(("mcp-name", wire.encode_header(name)))
        if self._token is not None:
            headers.append(("authorization", f"Bearer {self._token.reveal()}"))
        try:
            async with await self._pool.request("POST", self._target, headers, body) as response:
                answer = await response.read(ANSWER_LIMIT)
        except ResponseTooLarge as error:
            raise CallFailed(str(error)) from error
        except (FetchFailed, ValueError) as error:
            raise CallFailed(f"the connection failed: {error}") from error
        try:
            return _result(_last_event_data(answer) if response.media_type == "text/event-stream" else answer)
        except CallFailed as failed:
            raise CallFailed(f"HTTP {response.status}, {failed}", failed.code, response.status) from None


class PipeMcpClient(McpClient):
    """A connection to a server process over its stdin and stdout."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._sink, self._source = process.stdin, process.stdout
        self._buffer = bytearray()
        self._count = 0

    async def open(self) -> dict[str, Any]:
        """Do the handshake; returns the result of `initialize`."""
        client = {"name": "chora", "version": __version__}
        params = {"protocolVersion": wire.HANDSHAKE_REVISIONS[-1], "capabilities": {}, "clientInfo": client}
        answer = await self.request("initialize", params)
        await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    async def request(self, method: str, params: dict[str, Any], *, name: str | None = None) -> dict[str, Any]:
        self._count += 1
        await self._send({"jsonrpc": "2.0", "id": self._count, "method": method, "params": params})
        while True:
            line = await self._read_line()
            if b'"id"' in line:  # notifications, such as progress, have none
                return _result(line)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._sink.send_all(msgspec.json.encode(message) + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise CallFailed("the server process has ended") from error

    async def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            chunk = await self._source.receive_some(64 * 1024)
            if not chunk:
                raise CallFailed("the server process ended without an answer")
            self._buffer += chunk
            if len(self._buffer) > ANSWER_LIMIT:
                raise CallFailed(f"the answer is larger than {ANSWER_LIMIT:,} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


@asynccontextmanager
async def connect_http(url: str, token: Secret | None = None, *, trust: str = "") -> AsyncGenerator[HttpMcpClient]:
    """Connect to the MCP endpoint at `url`.

    Args:
        token: sent as a bearer token.
        trust: a PEM file whose certificate is trusted besides the system's, whatever name it has.

    Raises:
        CallFailed: the server can't be reached.
    """
    try:
        address = parse_address(url)
    except ValueError:
        raise CallFailed(f"{url} is not an http or https address") from None
    pool = ConnectionPool(address.origin, trust=trust, any_name=bool(trust))
    try:
        pool.return_connection(await pool.connect())
    except FetchFailed as error:
        raise CallFailed(str(error)) from error
    try:
        yield HttpMcpClient(pool, "/mcp" if address.target == "/" else address.target, token)
    finally:
        pool.close()


@asynccontextmanager
async def start_process(command: list[str], environment: dict[str, str]) -> AsyncGenerator[PipeMcpClient]:
    """Start a server process and do the handshake; at the end its stdin is closed.

    Raises:
        CallFailed: it can't be started, or doesn't speak MCP.
    """
    try:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
    except OSError as error:
        raise CallFailed(f"{command[0]} can't be started: {error.strerror}") from error
    try:
        client = PipeMcpClient(process)
        await client.open()
        yield client
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(EXIT_TIMEOUT):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()


def _result(body: bytes) -> dict[str, Any]:
    """The result in an encoded JSON-RPC response.

    Raises:
        CallFailed: it is an error, or no response at all.
    """
    try:
        message = msgspec.json.decode(body, type=_Response)
    except wire.DECODE_ERRORS:
        raise CallFailed("an answer that is not JSON-RPC") from None
    if message.result is None:
        error = message.error or {}
        raise CallFailed(error.get("message", "an answer without a result"), error.get("code"))
    return message.result


class _Response(msgspec.Struct, frozen=True):
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


def _last_event_data(stream: bytes) -> bytes:
    """The data of a finished event stream's last event, which is the answer."""
    data = [line[5:].strip() for line in stream.split(b"\n") if line.startswith(b"data:")]
    return data[-1] if data else b""
