"""An HTTP door in front of programs that speak MCP on stdin and stdout, for judges that only come by HTTP.

The door is the product's own. Every session of the handshake era gets a program of its own; the requests of the
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
from chora.protocol import wire
from chora.protocol.broadcast import QueueFull
from chora.protocol.requesting_client import Notify
from chora.protocol.server import DropConnection, EncodedReply, McpServer
from chora.protocol.session import Session
from chora.transport.pipes import LineReader
from tests.contract.fixture_server import FixtureProvider, serve_http

LINE_LIMIT = 4 * 1024 * 1024
ENDING = 10.0
"""Seconds that a program gets to end once its stdin did."""


class Waiting:
    """A request that a program is answering."""

    def __init__(self, id: Any, token: Any, notify: Notify | None) -> None:
        self.id = id
        self.token = token
        self.notify = notify
        self.answer: dict[str, Any] | None = None
        self.arrived = trio.Event()


class Program:
    """One program, and what it is asked."""

    def __init__(self, process: trio.Process, session: Session | None) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._session = session
        self._stdin = process.stdin
        self._lines = LineReader(process.stdout, LINE_LIMIT)
        self._sending = trio.Lock()
        self._count = 0
        self._waiting: dict[int, Waiting] = {}

    async def say(self, message: dict[str, Any]) -> None:
        """Send it a message.

        Raises:
            trio.ClosedResourceError, trio.BrokenResourceError: it is being ended, or ended by itself.
        """
        async with self._sending:
            await self._stdin.send_all(msgspec.json.encode(message) + b"\n")

    async def ask(self, message: dict[str, Any], notify: Notify | None) -> dict[str, Any]:
        """A request's answer, under the client's id."""
        self._count += 1
        number = self._count
        token = message.get("params", {}).get("_meta", {}).get("progressToken")
        waiting = self._waiting[number] = Waiting(message["id"], token, notify)
        try:
            await self.say({**message, "id": number})
            await waiting.arrived.wait()
        finally:
            del self._waiting[number]
            if not waiting.arrived.is_set():  # the client left, which over pipes has to be said
                with trio.move_on_after(1, shield=True), contextlib.suppress(trio.ClosedResourceError):
                    await self.cancel(number)
        assert waiting.answer is not None
        return {**waiting.answer, "id": waiting.id}

    async def cancel(self, number: int) -> None:
        await self.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})

    async def cancel_by_id(self, id: Any) -> None:
        """Cancel what the client knows by this id."""
        for number, waiting in self._waiting.items():
            if waiting.id == id:
                await self.cancel(number)

    async def close(self) -> None:
        """Tell it by closing its stdin that nothing more comes."""
        await self._stdin.aclose()

    async def listen(self) -> None:
        """Pass on what the program says, until it ends."""
        while (line := await self._lines.receive_line()) is not None:
            message = msgspec.json.decode(line)
            if "method" not in message:
                waiting = self._waiting.get(message["id"])
                if waiting is not None:
                    waiting.answer = message
                    waiting.arrived.set()
                continue
            body, waiting = self._addressed(message)
            if waiting is not None and waiting.notify is not None:
                await waiting.notify(msgspec.json.encode(body))
            elif self._session is not None:
                with contextlib.suppress(QueueFull):  # nobody has opened a stream for it, and nobody misses it
                    self._session.notifications.put(line)
        for waiting in self._waiting.values():
            waiting.answer = {"jsonrpc": "2.0", "error": {"code": -32603, "message": "The program ended"}}
            waiting.arrived.set()

    def _addressed(self, message: dict[str, Any]) -> tuple[dict[str, Any], Waiting | None]:
        """The request that a message of the program belongs to, and the message as its client has to get it."""
        params = message.get("params", {})
        meta = params.get("_meta", {})
        if (waiting := self._waiting.get(meta.get(wire.SUBSCRIPTION_KEY))) is not None:
            return {**message, "params": {**params, "_meta": {**meta, wire.SUBSCRIPTION_KEY: waiting.id}}}, waiting
        if message["method"] == "notifications/progress":
            found = [each for each in self._waiting.values() if each.token == params["progressToken"]]
            return message, found[0] if found else None
        if "id" in message or message["method"] == "notifications/message":
            # The program doesn't say which request it asks or logs for; the newest is as good as any.
            return message, next(reversed(self._waiting.values()), None)
        return message, None


class Front(McpServer):
    """Answers as the programs behind it do.

    Args:
        offer: what they offer, which the door wants to know.
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
        self._programs: dict[Session | None, Program] = {}
        self._starting = trio.Lock()

    async def answer(
        self,
        session: Session,
        message: bytes,
        notify: Notify | None = None,
        drop_connection: DropConnection | None = None,
    ) -> EncodedReply | None:
        said: dict[str, Any] = msgspec.json.decode(message)
        is_modern = wire.VERSION_KEY in said.get("params", {}).get("_meta", {})
        program = await self._program(None if is_modern else session)
        if "method" not in said:
            await program.say(said)
            return None
        if "id" not in said:
            if said["method"] == "notifications/cancelled":
                await program.cancel_by_id(said["params"].get("requestId"))
            else:
                await program.say(said)
            return None
        answer = await program.ask(said, notify)
        if said["method"] == "initialize" and "result" in answer:
            session.revision = wire.REVISIONS[answer["result"]["protocolVersion"]]
        return EncodedReply(msgspec.json.encode(answer), answer.get("error", {}).get("code"))

    async def _program(self, session: Session | None) -> Program:
        async with self._starting:
            if (program := self._programs.get(session)) is None:
                process = await trio.lowlevel.open_process(
                    list(self._command), stdin=-1, stdout=-1, env=self._environment
                )
                program = self._programs[session] = Program(process, session)
                self._nursery.start_soon(program.listen)
            return program

    async def stop(self) -> None:
        """End every program as a client does: by closing its stdin."""
        for program in self._programs.values():
            await program.close()
        for program in self._programs.values():
            with trio.move_on_after(ENDING) as waited:
                await program.process.wait()
            if waited.cancelled_caught:
                program.process.kill()
                await program.process.wait()


@asynccontextmanager
async def fronted(command: Sequence[str], environment: dict[str, str] | None = None) -> AsyncGenerator[str]:
    """The address of a front on loopback whose programs are started with this command."""
    async with trio.open_nursery() as nursery:
        offer = FixtureProvider(lambda name: None)
        front = Front(offer, command, environment or this_process.child_environment(), nursery)
        url: str = await nursery.start(serve_http, front)
        try:
            yield url
        finally:
            with trio.CancelScope(shield=True):
                await front.stop()
            nursery.cancel_scope.cancel()
