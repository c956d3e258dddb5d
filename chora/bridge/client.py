"""The client's side: reads its messages, keeps its calls in flight, and writes everything that it gets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import trio
from msgspec import UNSET, Raw, Struct

from chora import reload
from chora.bridge.interfaces import UpstreamTransport
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
    alike_key,
    key_of,
    one_line,
    split_messages,
)
from chora.bridge.options import BridgeOptions
from chora.bridge.sse import SseUpstream
from chora.bridge.streamable import StreamableUpstream
from chora.bridge.upstream import Upstream
from chora.peer_memory import PeerMemory
from chora.protocol import wire
from chora.protocol.envelope import find_id
from chora.protocol.wire import RpcError
from chora.shutdown import end_with_parent, stop_on_signals
from chora.transport.pipes import LineReader, LineTooLong, Pipes, PolledPipe, open_pipe

log = logging.getLogger("chora.bridge")

NOTIFICATION_QUEUE_LIMIT = 64  # notifications that may wait to be passed on
ANSWERS_HELD = 4  # of the longest messages of the server may be arriving at once
CANCELLED_CALL_TIMEOUT = 5.0  # seconds for which the answer to a cancelled call is awaited
SESSION_END_TIMEOUT = 2.0  # seconds to end the session with the server
OPENING_METHODS = ("initialize", "server/discover")


async def run_bridge(options: BridgeOptions, pipes: Pipes) -> None:
    """Pass messages between the pipes and the server until the client, or a signal, ends it."""
    upstream = Upstream(options.address, options.token, options.headers, options.trust)
    async with (
        stop_on_signals(options.grace + SESSION_END_TIMEOUT) as stopping,
        open_pipe(pipes.outgoing) as sink,
        open_pipe(pipes.incoming) as source,
    ):
        bridge: Bridge | None = None
        try:
            async with trio.open_nursery() as services:
                bridge = Bridge(options, upstream, sink, services)
                await services.start(end_with_parent, stopping)
                await services.start(reload.serve, _reload_nothing)
                await bridge.serve(source, stopping)
                stopping.set()
                services.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.info("the client closed the connection")
        if bridge is not None:
            await bridge.end_session()
    upstream.close()


async def _reload_nothing() -> list[str]:
    return ["nothing: the access token is looked up again when the server refuses it"]


class Bridge:
    """The client's side of the bridge, which the transports use as a `ClientSide`.

    Args:
        options: how to reach the server, and the limits.
        upstream: sends requests to the server.
        sink: the stream that the client reads.
        services: the nursery for what runs beside the calls.
    """

    def __init__(
        self, options: BridgeOptions, upstream: Upstream, sink: trio.abc.SendStream, services: trio.Nursery
    ) -> None:
        self.options = options
        self.services = services
        self.memory = SessionMemory()
        self.answers_held = PeerMemory(ANSWERS_HELD * options.answer_limit)
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
        self._transport: UpstreamTransport | None = {"http": self._streamable, "sse": self._sse}.get(options.transport)

    # -- for the transports -------------------------------------------------------------------------

    @property
    def transport_known(self) -> bool:
        """Whether it is known which transport the server speaks."""
        return self._transport is not None

    def use_transport(self, transport: UpstreamTransport) -> None:
        """Use the transport from now on: the server has answered over it."""
        self._transport = self._transport or transport

    def wait_time(self, call: PendingCall) -> float:
        """Seconds for which a call waits for an unreachable server: longer at first, when it may still be starting."""
        starting = call.method in OPENING_METHODS or not self._upstream.reached
        return self.options.startup_time if starting and not call.internal else self.options.retry_time

    async def deliver(
        self, line: bytes, message: BridgedMessage, calls: Mapping[Key, PendingCall], owner: PendingCall | None = None
    ) -> None:
        """Pass on a message of the server.

        Args:
            line, message: the message.
            calls: those that it may answer.
            owner: the call that it belongs to, if that is certain.
        """
        if message.method is not UNSET:
            if message.method == ACKNOWLEDGED and owner is not None:
                if owner.resumed:
                    owner.resumed = False
                    for missed in _missed_notifications(owner, message):
                        await self.send(missed)
                    return
                owner.acknowledged = True
            await self.send(line)
            return
        key = key_of(message.id)
        call = owner if owner is not None and key == owner.key else None if key is None else calls.get(key)
        if call is None and (call := _meant_call(message, key, calls, owner)) is not None:
            kind, content = (b"result", message.result) if message.error is UNSET else (b"error", message.error)
            line = b'{"jsonrpc":"2.0","id":%s,"%s":%s}' % (call.id, kind, bytes(content or b"null"))
        if call is None or call.answer is not None:
            log.warning("a response of %s was dropped: no open request has its id", self._upstream.address)
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
        # Half a line would corrupt all that follows: a line that was begun is finished, unless the process ends.
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
            await self.send(wire.error_response(find_id(data), RpcError(wire.PARSE_ERROR, f"Not a message: {error}")))
            return
        # The messages of a batch are sent one by one: servers of later revisions don't know batches.
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
            return RpcError(
                wire.INVALID_REQUEST, f"The id of a request is a string or a number, of at most {wire.ID_BYTES} bytes"
            )
        if call.key in self.calls:
            return RpcError(wire.INVALID_REQUEST, "A request with this id waits for its answer already")
        if len(self.calls) >= self.options.calls:
            text = f"{len(self.calls)} calls wait for their answers. Make this one again when some of them have theirs."
            return RpcError(wire.INTERNAL_ERROR, text)
        return None

    def _handshake_events(self, closing: bool) -> tuple[trio.Event, trio.Event | None]:
        """The event that a message waits for, the end of the handshake before it; a handshake gets its own to set."""
        before = self._handshake_done
        if not closing:
            return before, None
        self._handshake_done = trio.Event()
        return before, self._handshake_done

    def _cancel(self, message: BridgedMessage) -> bool:
        """Cancel a call; returns whether the server needs the notification for it."""
        try:
            cancelled = wire.decode_cancelled(b"{}" if message.params is UNSET else message.params)
        except wire.DECODE_ERRORS:
            return False
        key = key_of(cancelled.request_id)
        call = None if key is None else self.calls.get(key)
        if call is None:  # it was answered already
            return False
        transport = self._transport or self._streamable
        if not call.sent or transport.cancels_by_closing(call):
            call.scope.cancel()
            return False
        call.cancelled = True
        call.scope.deadline = trio.current_time() + CANCELLED_CALL_TIMEOUT
        return True

    async def _run_call(self, call: PendingCall, before: trio.Event | None, opened: trio.Event | None) -> None:
        """Have one call answered, by the server or with a failure."""
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
                    # A subscription outlives the server: it is opened again, and missed changes are announced.
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
        """Try the older transport; then forward a call that the newer one has refused over the one that works."""
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
        """A task: pass on notifications and responses, in order."""
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


def _meant_call(
    message: BridgedMessage, key: Key | None, calls: Mapping[Key, PendingCall], owner: PendingCall | None
) -> PendingCall | None:
    """The call that a response is for whose id is that of no call; see `chora.leniency`.

    A refusal in the response to a POST is for that call, whatever id it has; gateways turn numbers into text.
    """
    same = alike_key(key)
    if owner is not None and (message.error is not UNSET or same == owner.key):
        return owner
    return None if same is None else calls.get(same)


class _QueuedNotification(Struct, frozen=True):
    """A message without an answer, the event it waits for, and the one it sets."""

    line: bytes
    message: BridgedMessage
    before: trio.Event
    opened: trio.Event | None


def _missed_notifications(call: PendingCall, acknowledgement: BridgedMessage) -> list[bytes]:
    """Notifications of everything that may have changed while a subscription was interrupted."""
    try:
        accepted = wire.decode_listen(
            b"{}" if acknowledgement.params is UNSET else acknowledgement.params
        ).notifications
    except wire.DECODE_ERRORS:
        return []
    meta = {wire.SUBSCRIPTION_KEY: Raw(call.id)}
    lists = {
        "tools": accepted.tools_list_changed,
        "prompts": accepted.prompts_list_changed,
        "resources": accepted.resources_list_changed,
    }
    found: list[tuple[str, dict[str, Any]]] = [
        (f"notifications/{name}/list_changed", {}) for name, asked in lists.items() if asked
    ]
    found += [("notifications/resources/updated", {"uri": uri}) for uri in accepted.resource_subscriptions or ()]
    return [wire.notification(method, {**params, "_meta": meta}) for method, params in found]
