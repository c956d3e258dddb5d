"""An HTTP gateway in front of programs that speak MCP on stdin and stdout, for suites that test over HTTP only.

The HTTP application is chora's own. Every session of the handshake era gets a program of its own; the requests of the
modern era, which know no session, share one. Ids are ours on the way in, so that none is there twice, and the
client's again on the way out.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from chora import this_process
from chora.metrics import Metrics
from chora.peer_memory import Holding
from chora.protocol import wire
from chora.protocol.broadcast import QueueFull
from chora.protocol.request import DropConnection
from chora.protocol.requesting_client import Notify
from chora.protocol.server import EncodedReply, McpServer
from chora.protocol.session import Session
from chora.transport.pipes import LineReader
from tests.contract.fixture_server import FixtureProvider, serve_http

LINE_LIMIT = 4 * 1024 * 1024
EXIT_TIMEOUT = 10.0
"""Seconds that a program gets to end once its stdin did."""


class ForwardedRequest:
    """A request that a program is answering."""

    def __init__(self, id: Any, token: Any, notify: Notify | None) -> None:
        self.id = id
        self.token = token
        self.notify = notify
        self.answer: dict[str, Any] | None = None
        self.answered = trio.Event()


class StdioProgram:
    """One program, and the requests that it hasn't answered."""

    def __init__(self, process: trio.Process, session: Session | None) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._session = session
        self._stdin = process.stdin
        self._lines = LineReader(process.stdout, LINE_LIMIT)
        self._sending = trio.Lock()
        self._count = 0
        self._pending: dict[int, ForwardedRequest] = {}

    async def send(self, message: dict[str, Any]) -> None:
        """Send it a message.

        Raises:
            trio.ClosedResourceError, trio.BrokenResourceError: it is being ended, or ended by itself.
        """
        async with self._sending:
            await self._stdin.send_all(msgspec.json.encode(message) + b"\n")

    async def request(self, message: dict[str, Any], notify: Notify | None) -> dict[str, Any]:
        """A request's answer, under the client's id."""
        self._count += 1
        number = self._count
        token = message.get("params", {}).get("_meta", {}).get("progressToken")
        pending = self._pending[number] = ForwardedRequest(message["id"], token, notify)
        try:
            await self.send({**message, "id": number})
            await pending.answered.wait()
        finally:
            del self._pending[number]
            if not pending.answered.is_set():  # the client disconnected, which over pipes takes a notification
                with trio.move_on_after(1, shield=True), contextlib.suppress(trio.ClosedResourceError):
                    await self.cancel(number)
        assert pending.answer is not None
        return {**pending.answer, "id": pending.id}

    async def cancel(self, number: int) -> None:
        await self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})

    async def cancel_by_id(self, id: Any) -> None:
        """Cancel what the client knows by this id."""
        for number, pending in self._pending.items():
            if pending.id == id:
                await self.cancel(number)

    async def close(self) -> None:
        """Close its stdin."""
        await self._stdin.aclose()

    async def read_messages(self) -> None:
        """Pass on the program's messages, until it ends."""
        while (line := await self._lines.receive_line()) is not None:
            message = msgspec.json.decode(line)
            if "method" not in message:
                pending = self._pending.get(message["id"])
                if pending is not None:
                    pending.answer = message
                    pending.answered.set()
                continue
            body, pending = self._find_request(message)
            if pending is not None and pending.notify is not None:
                await pending.notify(msgspec.json.encode(body))
            elif self._session is not None:
                with contextlib.suppress(QueueFull):  # no stream is open for it
                    self._session.notifications.put(line)
        for pending in self._pending.values():
            pending.answer = {"jsonrpc": "2.0", "error": {"code": -32603, "message": "The program ended"}}
            pending.answered.set()

    def _find_request(self, message: dict[str, Any]) -> tuple[dict[str, Any], ForwardedRequest | None]:
        """The request that a message of the program belongs to, and the message as its client has to get it."""
        params = message.get("params", {})
        meta = params.get("_meta", {})
        if (pending := self._pending.get(meta.get(wire.SUBSCRIPTION_KEY))) is not None:
            return {**message, "params": {**params, "_meta": {**meta, wire.SUBSCRIPTION_KEY: pending.id}}}, pending
        if message["method"] == "notifications/progress":
            found = [each for each in self._pending.values() if each.token == params["progressToken"]]
            return message, found[0] if found else None
        if "id" in message or message["method"] == "notifications/message":
            # The program doesn't name the request that its own request or log message belongs to; the newest is used.
            return message, next(reversed(self._pending.values()), None)
        return message, None


class StdioGateway(McpServer):
    """Answers with the answers of the programs.

    Args:
        offer: what they serve, which the HTTP application has to know.
        command: starts one.
        nursery: where they run.
    """

    def __init__(
        self, offer: FixtureProvider, command: Sequence[str], environment: dict[str, str], nursery: trio.Nursery
    ) -> None:
        super().__init__(offer, Metrics())
        self._command = command
        self._environment = environment
        self._nursery = nursery
        self._programs: dict[Session | None, StdioProgram] = {}
        self._starting = trio.Lock()

    async def answer(
        self,
        session: Session,
        message: bytes,
        notify: Notify | None = None,
        drop_connection: DropConnection | None = None,
        *,
        holding: Holding | None = None,
    ) -> EncodedReply | None:
        said: dict[str, Any] = msgspec.json.decode(message)
        is_modern = wire.VERSION_KEY in said.get("params", {}).get("_meta", {})
        program = await self._program(None if is_modern else session)
        if "method" not in said:
            await program.send(said)
            return None
        if "id" not in said:
            if said["method"] == "notifications/cancelled":
                await program.cancel_by_id(said["params"].get("requestId"))
            else:
                await program.send(said)
            return None
        answer = await program.request(said, notify)
        if said["method"] == "initialize" and "result" in answer:
            session.revision = wire.REVISIONS[answer["result"]["protocolVersion"]]
        return EncodedReply(msgspec.json.encode(answer), answer.get("error", {}).get("code"))

    async def _program(self, session: Session | None) -> StdioProgram:
        async with self._starting:
            if (program := self._programs.get(session)) is None:
                process = await trio.lowlevel.open_process(
                    list(self._command), stdin=-1, stdout=-1, env=self._environment
                )
                program = self._programs[session] = StdioProgram(process, session)
                self._nursery.start_soon(program.read_messages)
            return program

    async def stop(self) -> None:
        """End every program as a client does: by closing its stdin."""
        for program in self._programs.values():
            await program.close()
        for program in self._programs.values():
            with trio.move_on_after(EXIT_TIMEOUT) as waited:
                await program.process.wait()
            if waited.cancelled_caught:
                program.process.kill()
                await program.process.wait()


@asynccontextmanager
async def serve_stdio_programs(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> AsyncGenerator[str]:
    """The URL of a gateway on loopback whose programs are started with this command."""
    async with trio.open_nursery() as nursery:
        offer = FixtureProvider(lambda name: None)
        front = StdioGateway(offer, command, environment or this_process.child_environment(), nursery)
        url: str = await nursery.start(serve_http, front)
        try:
            yield url
        finally:
            with trio.CancelScope(shield=True):
                await front.stop()
            nursery.cancel_scope.cancel()
