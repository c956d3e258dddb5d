"""The client's side: reads its lines, keeps its calls in flight, and is the one way out to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import trio
from msgspec import UNSET, Raw, Struct

from chora.bridge.messages import (
    ACKNOWLEDGED,
    CANCELLED,
    INITIALIZED,
    LISTEN,
    Backoff,
    Call,
    Failed,
    Key,
    Memory,
    Message,
    NotHere,
    NotJson,
    key_of,
    one_line,
    split,
)
from chora.bridge.sse import Sse
from chora.bridge.streamable import Streamable
from chora.bridge.upstream import FindToken, Upstream
from chora.fetch import Address
from chora.protocol import wire
from chora.protocol.wire import RpcError
from chora.settings import LimitSettings
from chora.shutdown import end_with_parent, stop_on_signals
from chora.transport.pipes import Lines, LineTooLong, Pipes, PolledPipe, open_pipe

log = logging.getLogger("chora.bridge")

NOTICES = 64  # messages without an answer that may wait to be passed on
LINGER = 5.0  # seconds that a cancelled call's answer is waited for, in case the server isn't done with it
FAREWELL = 2.0  # seconds to end the session with the server
OPENERS = ("initialize", "server/discover")


class Options(Struct, frozen=True):
    """How to reach the server, and what either side may take.

    Args:
        address: where the server is.
        token: finds the access token; see `FindToken`.
        headers: sent with every request.
        trust: a PEM file that is believed besides the system's certificates.
        transport: `auto` finds out which one the server speaks.
        wait: seconds that a first message waits for a server that isn't there yet.
        patience: seconds that any other one does.
        line_limit, answer_limit: the longest message of the client and of the server, bytes.
        calls: how many may be in flight at once.
        grace: seconds that calls in flight get once the client has closed its end.
    """

    address: Address
    token: FindToken
    headers: tuple[tuple[str, str], ...] = ()
    trust: str = ""
    transport: Literal["auto", "http", "sse"] = "auto"
    wait: float = 50.0
    patience: float = 5.0
    line_limit: int = LimitSettings().body
    answer_limit: int = 64 * 1024 * 1024
    calls: int = 256
    grace: float = LimitSettings().grace


async def run(options: Options, pipes: Pipes) -> None:
    """Pass messages between the pipes and the server until the client, or a signal, ends it."""
    link = Upstream(options.address, options.token, options.headers, options.trust)
    async with (
        stop_on_signals(options.grace + FAREWELL) as stopping,
        open_pipe(pipes.outgoing) as sink,
        open_pipe(pipes.incoming) as source,
    ):
        bridge: Bridge | None = None
        try:
            async with trio.open_nursery() as services:
                bridge = Bridge(options, link, sink, services)
                await services.start(end_with_parent, stopping)
                await bridge.serve(source, stopping)
                stopping.set()
                services.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.info("the client closed its end")
        if bridge is not None:
            await bridge.leave()
    link.close()


class Bridge:
    """What both sides share: the calls in flight and the way to the client.

    Args:
        options: how to behave.
        link: the way to the server.
        sink: where the client reads.
        services: where what runs beside the calls is started.
    """

    def __init__(self, options: Options, link: Upstream, sink: trio.abc.SendStream, services: trio.Nursery) -> None:
        self.options = options
        self.services = services
        self.memory = Memory()
        self.calls: dict[Key, Call] = {}
        """The client's calls that wait for their answer."""
        self._link = link
        self._sink = sink
        self._sending = trio.Lock()
        self._writing = trio.CancelScope()
        self._deadline = float("inf")
        self._gate = trio.Event()
        self._gate.set()
        self._streamable, self._sse = Streamable(self, link), Sse(self, link)
        self._finding_out = trio.Lock()
        self._transport: Streamable | Sse | None = {"http": self._streamable, "sse": self._sse}.get(options.transport)

    # -- what the server's side needs -------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether it is known which transport the server speaks."""
        return self._transport is not None

    def settle(self, transport: Streamable) -> None:
        """The server has answered over this transport."""
        self._transport = self._transport or transport

    def patience(self, call: Call) -> float:
        """Seconds that a call waits for a server that isn't there: at the start it may be on its way."""
        starting = call.method in OPENERS or not self._link.reached
        return self.options.wait if starting and not call.quiet else self.options.patience

    async def deliver(
        self, line: bytes, message: Message, calls: Mapping[Key, Call], owner: Call | None = None
    ) -> None:
        """Pass on what the server says.

        Args:
            line, message: what it says.
            calls: those that it may answer here.
            owner: the call that it belongs to, if that is sure.
        """
        if message.method is not UNSET:
            if message.method == ACKNOWLEDGED and owner is not None:
                if owner.resumed:
                    owner.resumed = False
                    for news in _news(owner, message):
                        await self.send(news)
                    return
                owner.acknowledged = True
            await self.send(line)
            return
        key = key_of(message.id)
        call = owner if owner is not None and key == owner.key else None if key is None else calls.get(key)
        if key is None and owner is not None and message.error is not UNSET:
            call = owner  # it was refused before its id was read
            line = b'{"jsonrpc":"2.0","id":' + owner.id + b',"error":' + bytes(message.error) + b"}"
        if call is None or call.answer is not None:
            log.warning("%s answers what nobody asked", self._link.address)
            return
        try:
            if call.noticing is not None:
                call.noticing(message)
            self.memory.notice(call, message)
        except Failed as failed:
            call.fail(failed)
            return
        call.answer = message
        self._forget(call)
        if not call.quiet and not call.cancelled:
            await self.send(line)
        call.ended.set()

    async def send(self, message: bytes) -> None:
        """Write a message to the client, one at a time and whole, however slowly it reads."""
        data = one_line(message) + b"\n"
        written = 0
        if isinstance(self._sink, PolledPipe) and not self._sending.locked():
            written = self._sink.send_now(data)
        if written == len(data):
            return
        # Half a line would garble all that follows: once begun, only the end of the process cuts it off.
        with trio.CancelScope(shield=written > 0, deadline=self._deadline) as scope:
            async with self._sending:
                scope.shield = True
                self._writing = scope
                await self._sink.send_all(memoryview(data)[written:])

    # -- the client's messages --------------------------------------------------------------------------------

    async def serve(self, source: trio.abc.ReceiveStream, stopping: trio.Event) -> None:
        """Read the client's messages until it closes its end or `stopping` is set; then finish the calls in flight."""
        put, take = trio.open_memory_channel[_Notice](NOTICES)
        async with trio.open_nursery() as calls:
            calls.start_soon(self._tell, take)
            async with trio.open_nursery() as reading:

                async def stop() -> None:
                    await stopping.wait()
                    reading.cancel_scope.cancel()

                reading.start_soon(stop)
                lines = Lines(source, self.options.line_limit)
                while True:
                    try:
                        line = await lines.receive()
                    except LineTooLong:
                        limit = f"A message is longer than {self.options.line_limit:,} bytes"
                        await self.send(wire.error_response(None, RpcError(wire.INVALID_REQUEST, limit)))
                        continue
                    if line is None:
                        break
                    if line.strip():
                        await self._accept(line, calls, put)
                reading.cancel_scope.cancel()
            await put.aclose()
            self._deadline = trio.current_time() + self.options.grace
            self._writing.deadline = calls.cancel_scope.deadline = self._deadline
            for call in list(self.calls.values()):
                if call.method == LISTEN:
                    call.scope.cancel()

    async def leave(self) -> None:
        """End the session with the server."""
        with trio.move_on_after(FAREWELL):
            await (self._transport or self._streamable).leave()

    async def _accept(self, data: bytes, calls: trio.Nursery, notices: trio.MemorySendChannel[_Notice]) -> None:
        try:
            messages = split(data)
        except NotJson as error:
            await self.send(wire.error_response(None, RpcError(wire.PARSE_ERROR, f"Not a message: {error}")))
            return
        # The messages of a batch go their own ways: a server of a later revision wouldn't know what it is.
        for line, message in messages:
            if message.method is UNSET or message.id is UNSET:
                if message.method != CANCELLED or self._cancel(message):
                    await notices.send(_Notice(line, message, *self._pass_gate(message.method == INITIALIZED)))
                continue
            call = Call(line, message)
            if (refusal := self._refusal(call)) is not None:
                await self.send(wire.error_response(call.id, refusal))
                continue
            assert call.key is not None
            self.calls[call.key] = call
            if call.version is None:
                before, opened = self._pass_gate(call.method == "initialize")
                calls.start_soon(self._answer, call, before, opened)
            else:
                calls.start_soon(self._answer, call, None, None)

    def _refusal(self, call: Call) -> RpcError | None:
        if call.key is None:
            return RpcError(wire.INVALID_REQUEST, "The id of a request is a string or a number")
        if call.key in self.calls:
            return RpcError(wire.INVALID_REQUEST, "A request with this id waits for its answer already")
        if len(self.calls) >= self.options.calls:
            text = f"{len(self.calls)} calls wait for their answers. Make this one again when some of them have theirs."
            return RpcError(wire.INTERNAL_ERROR, text)
        return None

    def _pass_gate(self, closing: bool) -> tuple[trio.Event, trio.Event | None]:
        """What a message has to wait for: an opening before it. An opening closes the gate behind itself."""
        before = self._gate
        if not closing:
            return before, None
        self._gate = trio.Event()
        return before, self._gate

    def _cancel(self, message: Message) -> bool:
        """Cancel a call; true if the server is to be told in so many words."""
        try:
            cancelled = wire.decode_cancelled(b"{}" if message.params is UNSET else message.params)
        except wire.DecodeFailures:
            return False
        key = key_of(cancelled.request_id)
        call = None if key is None else self.calls.get(key)
        if call is None:  # its answer was faster
            return False
        transport = self._transport or self._streamable
        if not call.under_way or transport.cancels_by_closing(call):
            call.scope.cancel()
            return False
        call.cancelled = True
        call.scope.deadline = trio.current_time() + LINGER
        return True

    async def _answer(self, call: Call, before: trio.Event | None, opened: trio.Event | None) -> None:
        """Have one call answered, by the server or in its place."""
        pause = Backoff()
        try:
            with call.scope:
                if before is not None and not before.is_set():
                    await before.wait()
                while True:
                    try:
                        await self._carry(call)
                        return
                    except Failed as failed:
                        if not (call.method == LISTEN and call.acknowledged and failed.again):
                            # The answer may have come on a stream while the request's own response was cut off.
                            if not call.cancelled and call.answer is None:
                                await self._fail(call, failed)
                            return
                    # A subscription outlives the server: the client only sees that things may have changed.
                    call.resumed = True
                    await trio.sleep(pause.next())
        finally:
            self._forget(call)
            if opened is not None:
                opened.set()

    async def _fail(self, call: Call, failed: Failed) -> None:
        log.warning("%s failed: %s", call.method, failed)
        self._forget(call)
        await self.send(failed.answer(call.id))

    async def _carry(self, call: Call) -> None:
        if self._transport is not None:
            await self._transport.carry(call)
        elif self.options.address.target.partition("?")[0].rstrip("/").endswith("/sse"):
            await self._find_out(call, None)
        else:
            try:
                await self._streamable.carry(call)
            except NotHere as refused:
                await self._find_out(call, refused)

    async def _find_out(self, call: Call, refused: NotHere | None) -> None:
        """Look for the older transport; a call that the newer one has refused is carried by whichever it is."""
        async with self._finding_out:
            if self._transport is None:
                try:
                    await self._sse.open(self.patience(call))
                    self._transport = self._sse
                except NotHere:
                    if refused is not None and refused.said is not None:
                        await self.deliver(*refused.said, {}, call)
                        return
                    if refused is not None:
                        raise refused from None
                    self._transport = self._streamable
        assert self._transport is not None
        await self._transport.carry(call)

    async def _tell(self, notices: trio.MemoryReceiveChannel[_Notice]) -> None:
        """Pass on what has no answer, in order."""
        async for notice in notices:
            await notice.before.wait()
            transport = self._transport or self._streamable
            await transport.tell(notice.line)
            if notice.message.method == INITIALIZED and self.memory.hello is not None:
                self.memory.initialized = notice.line
                transport.listen()
            if notice.opened is not None:
                notice.opened.set()

    def _forget(self, call: Call) -> None:
        if call.key is not None and self.calls.get(call.key) is call:
            del self.calls[call.key]


class _Notice(Struct, frozen=True):
    """A message that has no answer, what it waits for and what waits for it."""

    line: bytes
    message: Message
    before: trio.Event
    opened: trio.Event | None


def _news(call: Call, acknowledgement: Message) -> list[bytes]:
    """What may have changed while a subscription was interrupted."""
    try:
        wishes = wire.decode_listen(b"{}" if acknowledgement.params is UNSET else acknowledgement.params).notifications
    except wire.DecodeFailures:
        return []
    meta = {wire.SUBSCRIPTION_KEY: Raw(call.id)}
    lists = {
        "tools": wishes.tools_list_changed,
        "prompts": wishes.prompts_list_changed,
        "resources": wishes.resources_list_changed,
    }
    found: list[tuple[str, dict[str, Any]]] = [
        (f"notifications/{name}/list_changed", {}) for name, asked in lists.items() if asked
    ]
    found += [("notifications/resources/updated", {"uri": uri}) for uri in wishes.resource_subscriptions or ()]
    return [wire.notification(method, {**params, "_meta": meta}) for method, params in found]
