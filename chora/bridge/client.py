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
    BridgedMessage,
    CallFailure,
    Key,
    NotJson,
    PendingCall,
    SessionMemory,
    TransportNotFound,
    key_of,
    one_line,
    split_messages,
)
from chora.bridge.sse import SseUpstream
from chora.bridge.streamable import StreamableUpstream
from chora.bridge.upstream import FindToken, Upstream
from chora.fetch import Address
from chora.protocol import wire
from chora.protocol.wire import RpcError
from chora.settings import LimitSettings
from chora.shutdown import end_with_parent, stop_on_signals
from chora.transport.pipes import LineReader, LineTooLong, Pipes, PolledPipe, open_pipe

log = logging.getLogger("chora.bridge")

NOTIFICATION_QUEUE_LIMIT = 64  # messages without an answer that may wait to be passed on
CANCELLED_CALL_TIMEOUT = (
    5.0  # seconds that a cancelled call's answer is waited for, in case the server isn't done with it
)
SESSION_END_TIMEOUT = 2.0  # seconds to end the session with the server
OPENING_METHODS = ("initialize", "server/discover")


class BridgeOptions(Struct, frozen=True):
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
    startup_time: float = 50.0
    retry_time: float = 5.0
    line_limit: int = LimitSettings().body
    answer_limit: int = 64 * 1024 * 1024
    calls: int = 256
    grace: float = LimitSettings().grace


async def run_bridge(options: BridgeOptions, pipes: Pipes) -> None:
    """Pass messages between the pipes and the server until the client, or a signal, ends it."""
    link = Upstream(options.address, options.token, options.headers, options.trust)
    async with (
        stop_on_signals(options.grace + SESSION_END_TIMEOUT) as stopping,
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
            await bridge.end_session()
    link.close()


class Bridge:
    """What both sides share: the calls in flight and the way to the client.

    Args:
        options: how to behave.
        link: the way to the server.
        sink: where the client reads.
        services: where what runs beside the calls is started.
    """

    def __init__(
        self, options: BridgeOptions, upstream: Upstream, sink: trio.abc.SendStream, services: trio.Nursery
    ) -> None:
        self.options = options
        self.services = services
        self.memory = SessionMemory()
        self.calls: dict[Key, PendingCall] = {}
        """The client's calls that wait for their answer."""
        self._upstream = upstream
        self._client_stream = sink
        self._sending = trio.Lock()
        self._writing = trio.CancelScope()
        self._deadline = float("inf")
        self._handshake_done = trio.Event()
        self._handshake_done.set()
        self._streamable, self._sse = StreamableUpstream(self, upstream), SseUpstream(self, upstream)
        self._detecting = trio.Lock()
        self._transport: StreamableUpstream | SseUpstream | None = {"http": self._streamable, "sse": self._sse}.get(
            options.transport
        )

    # -- what the server's side needs -------------------------------------------------------------------------

    @property
    def transport_known(self) -> bool:
        """Whether it is known which transport the server speaks."""
        return self._transport is not None

    def use_transport(self, transport: StreamableUpstream) -> None:
        """The server has answered over this transport."""
        self._transport = self._transport or transport

    def wait_time(self, call: PendingCall) -> float:
        """Seconds that a call waits for a server that isn't there: at the start it may be on its way."""
        starting = call.method in OPENING_METHODS or not self._upstream.reached
        return self.options.startup_time if starting and not call.internal else self.options.retry_time

    async def deliver(
        self, line: bytes, message: BridgedMessage, calls: Mapping[Key, PendingCall], owner: PendingCall | None = None
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
                    for news in _missed_notifications(owner, message):
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
            log.warning("%s answers what nobody asked", self._upstream.address)
            return
        try:
            if call.on_answer is not None:
                call.on_answer(message)
            self.memory.remember(call, message)
        except CallFailure as failed:
            call.fail(failed)
            return
        call.answer = message
        self._remove_call(call)
        if not call.internal and not call.cancelled:
            await self.send(line)
        call.ended.set()

    async def send(self, message: bytes) -> None:
        """Write a message to the client, one at a time and whole, however slowly it reads."""
        data = one_line(message) + b"\n"
        written = 0
        if isinstance(self._client_stream, PolledPipe) and not self._sending.locked():
            written = self._client_stream.send_now(data)
        if written == len(data):
            return
        # Half a line would garble all that follows: once begun, only the end of the process cuts it off.
        with trio.CancelScope(shield=written > 0, deadline=self._deadline) as scope:
            async with self._sending:
                scope.shield = True
                self._writing = scope
                await self._client_stream.send_all(memoryview(data)[written:])

    # -- the client's messages --------------------------------------------------------------------------------

    async def serve(self, source: trio.abc.ReceiveStream, stopping: trio.Event) -> None:
        """Read the client's messages until it closes its end or `stopping` is set; then finish the calls in flight."""
        put, take = trio.open_memory_channel[_QueuedNotification](NOTIFICATION_QUEUE_LIMIT)
        async with trio.open_nursery() as calls:
            calls.start_soon(self._forward_notifications, take)
            async with trio.open_nursery() as reading:

                async def stop() -> None:
                    await stopping.wait()
                    reading.cancel_scope.cancel()

                reading.start_soon(stop)
                lines = LineReader(source, self.options.line_limit)
                while True:
                    try:
                        line = await lines.receive_line()
                    except LineTooLong:
                        limit = f"A message is longer than {self.options.line_limit:,} bytes"
                        await self.send(wire.error_response(None, RpcError(wire.INVALID_REQUEST, limit)))
                        continue
                    if line is None:
                        break
                    if line.strip():
                        await self._handle_line(line, calls, put)
                reading.cancel_scope.cancel()
            await put.aclose()
            self._deadline = trio.current_time() + self.options.grace
            self._writing.deadline = calls.cancel_scope.deadline = self._deadline
            for call in list(self.calls.values()):
                if call.method == LISTEN:
                    call.scope.cancel()

    async def end_session(self) -> None:
        """End the session with the server."""
        with trio.move_on_after(SESSION_END_TIMEOUT):
            await (self._transport or self._streamable).end_session()

    async def _handle_line(
        self, data: bytes, calls: trio.Nursery, notices: trio.MemorySendChannel[_QueuedNotification]
    ) -> None:
        try:
            messages = split_messages(data)
        except NotJson as error:
            await self.send(wire.error_response(None, RpcError(wire.PARSE_ERROR, f"Not a message: {error}")))
            return
        # The messages of a batch go their own ways: a server of a later revision wouldn't know what it is.
        for line, message in messages:
            if message.method is UNSET or message.id is UNSET:
                if message.method != CANCELLED or self._cancel(message):
                    await notices.send(
                        _QueuedNotification(line, message, *self._handshake_events(message.method == INITIALIZED))
                    )
                continue
            call = PendingCall(line, message)
            if (refusal := self._check_call(call)) is not None:
                await self.send(wire.error_response(call.id, refusal))
                continue
            assert call.key is not None
            self.calls[call.key] = call
            if call.version is None:
                before, opened = self._handshake_events(call.method == "initialize")
                calls.start_soon(self._run_call, call, before, opened)
            else:
                calls.start_soon(self._run_call, call, None, None)

    def _check_call(self, call: PendingCall) -> RpcError | None:
        if call.key is None:
            return RpcError(wire.INVALID_REQUEST, "The id of a request is a string or a number")
        if call.key in self.calls:
            return RpcError(wire.INVALID_REQUEST, "A request with this id waits for its answer already")
        if len(self.calls) >= self.options.calls:
            text = f"{len(self.calls)} calls wait for their answers. Make this one again when some of them have theirs."
            return RpcError(wire.INTERNAL_ERROR, text)
        return None

    def _handshake_events(self, closing: bool) -> tuple[trio.Event, trio.Event | None]:
        """What a message has to wait for: an opening before it. An opening closes the gate behind itself."""
        before = self._handshake_done
        if not closing:
            return before, None
        self._handshake_done = trio.Event()
        return before, self._handshake_done

    def _cancel(self, message: BridgedMessage) -> bool:
        """Cancel a call; true if the server is to be told in so many words."""
        try:
            cancelled = wire.decode_cancelled(b"{}" if message.params is UNSET else message.params)
        except wire.DECODE_ERRORS:
            return False
        key = key_of(cancelled.request_id)
        call = None if key is None else self.calls.get(key)
        if call is None:  # its answer was faster
            return False
        transport = self._transport or self._streamable
        if not call.sent or transport.cancels_by_closing(call):
            call.scope.cancel()
            return False
        call.cancelled = True
        call.scope.deadline = trio.current_time() + CANCELLED_CALL_TIMEOUT
        return True

    async def _run_call(self, call: PendingCall, before: trio.Event | None, opened: trio.Event | None) -> None:
        """Have one call answered, by the server or in its place."""
        pause = Backoff()
        try:
            with call.scope:
                if before is not None and not before.is_set():
                    await before.wait()
                while True:
                    try:
                        await self._forward(call)
                        return
                    except CallFailure as failed:
                        if not (call.method == LISTEN and call.acknowledged and failed.retryable):
                            # The answer may have come on a stream while the response to its request was cut off.
                            if not call.cancelled and call.answer is None:
                                await self._send_failure(call, failed)
                            return
                    # A subscription outlives the server: the client only sees that things may have changed.
                    call.resumed = True
                    await trio.sleep(pause.next_pause())
        finally:
            self._remove_call(call)
            if opened is not None:
                opened.set()

    async def _send_failure(self, call: PendingCall, failed: CallFailure) -> None:
        log.warning("%s failed: %s", call.method, failed)
        self._remove_call(call)
        await self.send(failed.error_response(call.id))

    async def _forward(self, call: PendingCall) -> None:
        if self._transport is not None:
            await self._transport.forward_call(call)
        elif self.options.address.target.partition("?")[0].rstrip("/").endswith("/sse"):
            await self._detect_transport(call, None)
        else:
            try:
                await self._streamable.forward_call(call)
            except TransportNotFound as refused:
                await self._detect_transport(call, refused)

    async def _detect_transport(self, call: PendingCall, refused: TransportNotFound | None) -> None:
        """Look for the older transport; a call that the newer one has refused is carried by whichever it is."""
        async with self._detecting:
            if self._transport is None:
                try:
                    await self._sse.open_stream(self.wait_time(call))
                    self._transport = self._sse
                except TransportNotFound:
                    if refused is not None and refused.error is not None:
                        await self.deliver(*refused.error, {}, call)
                        return
                    if refused is not None:
                        raise refused from None
                    self._transport = self._streamable
        assert self._transport is not None
        await self._transport.forward_call(call)

    async def _forward_notifications(self, notices: trio.MemoryReceiveChannel[_QueuedNotification]) -> None:
        """Pass on what has no answer, in order."""
        async for notice in notices:
            await notice.before.wait()
            transport = self._transport or self._streamable
            await transport.forward_notification(notice.line)
            if notice.message.method == INITIALIZED and self.memory.initialize_line is not None:
                self.memory.initialized_line = notice.line
                transport.start_listening()
            if notice.opened is not None:
                notice.opened.set()

    def _remove_call(self, call: PendingCall) -> None:
        if call.key is not None and self.calls.get(call.key) is call:
            del self.calls[call.key]


class _QueuedNotification(Struct, frozen=True):
    """A message that has no answer, what it waits for and what waits for it."""

    line: bytes
    message: BridgedMessage
    before: trio.Event
    opened: trio.Event | None


def _missed_notifications(call: PendingCall, acknowledgement: BridgedMessage) -> list[bytes]:
    """What may have changed while a subscription was interrupted."""
    try:
        wishes = wire.decode_listen(b"{}" if acknowledgement.params is UNSET else acknowledgement.params).notifications
    except wire.DECODE_ERRORS:
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
