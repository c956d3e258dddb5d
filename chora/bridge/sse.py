"""The server's side over the 2024-11-05 transport: one stream with all its messages, a POST for each message to it."""

from __future__ import annotations

import logging

import trio

from chora.bridge.interfaces import ClientSide
from chora.bridge.messages import (
    ACKNOWLEDGED,
    LISTEN,
    Backoff,
    BridgedMessage,
    CallFailure,
    ConnectionLost,
    Key,
    PendingCall,
    TransportNotFound,
    UpstreamUnreachable,
    split_messages,
    subscription_of,
    too_large,
)
from chora.bridge.timeouts import NEW_SESSION_TIMEOUT, NOTIFICATION_TIMEOUT
from chora.bridge.upstream import Upstream
from chora.fetch import Address, EventReader, FetchFailed, HttpResponse, ResponseTooLarge

log = logging.getLogger("chora.bridge")

ENDPOINT_TIMEOUT = 5.0  # seconds for the stream to name the endpoint for messages
POST_HEADERS = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]


class SseConnection:
    """An open stream, and the calls whose answers will come on it."""

    def __init__(self, endpoint: Address) -> None:
        self.endpoint = endpoint
        self.calls: dict[Key, PendingCall] = {}
        self.scope = trio.CancelScope()
        self.ended = False

    def abandon(self) -> None:
        """Stop using the stream."""
        self.ended = True
        self.scope.cancel()


class SseUpstream:
    """A server reached over the 2024-11-05 transport.

    Args:
        bridge: the client's side, which gets the server's messages.
        upstream: sends requests to the server.
    """

    def __init__(self, bridge: ClientSide, upstream: Upstream) -> None:
        self._bridge = bridge
        self._upstream = upstream
        self._stream: SseConnection | None = None
        self._opening = trio.Lock()

    def cancels_by_closing(self, call: PendingCall) -> bool:
        """Never: all calls share the stream."""
        return False

    async def open_stream(self, retry_time: float) -> None:
        """Try to open the stream.

        Raises:
            TransportNotFound: there is none.
            CallFailure: the server can't be reached, or refuses.
        """
        await self._open_or_renew(retry_time, fresh=False)

    async def forward_call(self, call: PendingCall) -> None:
        """Have a call answered.

        Raises:
            CallFailure: it wasn't.
        """
        assert call.key is not None
        fresh = call.method == "initialize"
        for _ in range(2):
            stream = await self._open_or_renew(self._bridge.wait_time(call), fresh=fresh)
            if await self._post_call(stream, call):
                return
        raise CallFailure(f"{self._upstream.address} drops every new session.", "Its log may say why.", retryable=True)

    async def forward_notification(self, line: bytes) -> None:
        """Pass on a message that has no answer; a failure is logged."""
        with trio.move_on_after(NOTIFICATION_TIMEOUT) as limit:
            try:
                await self._post_notification(
                    await self._open_or_renew(self._bridge.options.retry_time, fresh=False), line
                )
            except CallFailure as failed:
                log.warning("a message was not delivered: %s", failed)
        if limit.cancelled_caught:
            log.warning(
                "a message was not delivered: %s didn't accept it within %g s",
                self._upstream.address,
                NOTIFICATION_TIMEOUT,
            )

    def start_listening(self) -> None:
        """Nothing to do: the stream is open already."""

    async def end_session(self) -> None:
        """End the session, by closing its stream."""
        if self._stream is not None:
            self._stream.scope.cancel()

    # -- messages -------------------------------------------------------------------------------------------

    async def _post_call(self, stream: SseConnection, call: PendingCall) -> bool:
        """Post a call and wait for its answer on the stream; returns False if the stream ended and nothing was done."""
        assert call.key is not None
        call.sent = True
        stream.calls[call.key] = call
        try:
            try:
                response = await self._upstream.send_request(
                    "POST", POST_HEADERS, call.line, address=stream.endpoint, repeatable=call.repeatable
                )
            except UpstreamUnreachable:  # the stream is about to end
                stream.abandon()
                return call.answer is not None
            async with response:
                if response.status in (404, 410):
                    stream.abandon()
                    return False
                if response.status >= 300:
                    body, error = await self._upstream.read_refusal(response)
                    if error is None:
                        raise self._upstream.describe_refusal(response)
                    await self._bridge.deliver(body, error, stream.calls, call)
                    return True
            await call.ended.wait()
            if call.failure is not None:
                failure, call.failure = call.failure, None
                call.ended = trio.Event()  # a subscription is opened again
                raise failure
            return True
        finally:
            if stream.calls.get(call.key) is call:
                del stream.calls[call.key]

    async def _post_notification(self, stream: SseConnection, line: bytes) -> None:
        response = await self._upstream.send_request("POST", POST_HEADERS, line, address=stream.endpoint)
        async with response:
            if response.status >= 300:
                log.warning("a message was refused: %s", self._upstream.describe_refusal(response))

    # -- the stream -----------------------------------------------------------------------------------------

    async def _open_or_renew(self, retry_time: float, *, fresh: bool) -> SseConnection:
        """The open stream, or a new one with the session of the old one.

        Args:
            retry_time: seconds to go on trying while the server can't be reached.
            fresh: for a new handshake.
        """
        memory = self._bridge.memory
        async with self._opening:
            stream = self._stream
            if stream is not None and not stream.ended and not (fresh and memory.initialize_line is not None):
                return stream
            if stream is not None:
                stream.abandon()
            renewing = memory.initialize_line is not None and not fresh
            if renewing:
                log.warning("the stream of %s ended; opening a new one", self._upstream.address)
            stream = await self._bridge.services.start(self._read_stream, retry_time)
            if renewing:
                await self._replay_session(stream)
            self._stream = stream
        if renewing:
            for line in memory.change_notifications():
                await self._bridge.send(line)
        return stream

    async def _replay_session(self, stream: SseConnection) -> None:
        """Repeat in a new session the requests that made the state of the old one."""
        memory = self._bridge.memory
        with trio.move_on_after(NEW_SESSION_TIMEOUT) as limit:
            if await self._post_call(stream, memory.replayed_initialize()):
                if memory.initialized_line is not None:
                    await self._post_notification(stream, memory.initialized_line)
                for call in memory.replayed_requests():
                    await self._post_call(stream, call)
        if limit.cancelled_caught or stream.ended:
            stream.abandon()
            raise UpstreamUnreachable(
                f"{self._upstream.address} doesn't open a new session.", "Make the call again.", retryable=True
            )

    async def _read_stream(self, retry_time: float, *, task_status: trio.TaskStatus[SseConnection]) -> None:
        """A service: read a stream to its end, then open another one."""
        accept = [("accept", "text/event-stream")]
        try:
            with trio.fail_after(retry_time + NEW_SESSION_TIMEOUT):
                response = await self._upstream.send_request("GET", accept, retry_time=retry_time)
        except trio.TooSlowError:
            raise UpstreamUnreachable(
                f"{self._upstream.address} doesn't open a stream.", "Make the call again.", retryable=True
            ) from None
        async with response:
            if response.status != 200 or response.media_type != "text/event-stream":
                refused = self._upstream.describe_refusal(response)
                if response.status in (401, 403, 429) or response.status >= 500:
                    raise refused
                raise TransportNotFound(refused.message, refused.hint)
            # One stream, so one message at a time: it isn't held beside others.
            events = EventReader(response, self._bridge.options.answer_limit)
            stream = SseConnection(await self._read_endpoint(events, response))
            why: object = "the server ended the stream"
            try:
                with stream.scope:
                    task_status.started(stream)
                    while (event := await events.receive()) is not None:
                        if event.data and event.type == "message":
                            await self._deliver(event.data, stream)
            except ResponseTooLarge as failed:
                why = too_large(failed)
                log.warning("the stream of %s was closed: %s", self._upstream.address, why)
            except FetchFailed as failed:
                why = failed
            finally:
                stream.ended = True
                for call in stream.calls.values():
                    call.fail(ConnectionLost(self._upstream.address, why))
        if not stream.scope.cancelled_caught and self._stream is stream:
            await self._reconnect()

    async def _read_endpoint(self, events: EventReader, response: HttpResponse) -> Address:
        """The endpoint for messages, which the stream's first event names.

        Raises:
            TransportNotFound: it doesn't.
            CallFailure: it is at another server.
        """
        event = None
        with trio.move_on_after(ENDPOINT_TIMEOUT):
            try:
                event = await events.receive()
            except FetchFailed as failed:
                raise UpstreamUnreachable(
                    f"{self._upstream.address}: {failed}.", "Make the call again.", retryable=True
                ) from failed
        if event is None or event.type != "endpoint":
            raise TransportNotFound(
                f"The stream of {self._upstream.address} doesn't say where messages are posted.",
                "Check the address: it should be the server's MCP endpoint, often /mcp or /sse.",
            )
        try:
            endpoint = self._upstream.address.join(event.data.decode())
        except ValueError:
            raise CallFailure(f"{self._upstream.address} says to post messages to what is no address.") from None
        # The access token must not go to another origin (CWE-522).
        if endpoint.origin != self._upstream.address.origin:
            raise CallFailure(
                f"{self._upstream.address} says to post messages to {endpoint}.",
                "That is another server, which must not see the access token. If it is right, connect to it.",
            )
        return endpoint

    async def _deliver(self, data: bytes, stream: SseConnection) -> None:
        try:
            messages = split_messages(data)
        except ValueError:
            log.warning("%s sent data that isn't an MCP message; it was dropped", self._upstream.address)
            return
        for line, message in messages:
            owner = _acknowledged_call(message, stream) if message.method == ACKNOWLEDGED else None
            await self._bridge.deliver(line, message, stream.calls, owner)

    async def _reconnect(self) -> None:
        """Open a new stream as soon as the server allows."""
        if self._bridge.memory.initialize_line is None:
            return
        pause = Backoff()
        while True:
            await trio.sleep(pause.next_pause())
            try:
                await self._open_or_renew(0.0, fresh=False)
            except (UpstreamUnreachable, ConnectionLost):
                continue
            except CallFailure as failed:
                log.warning("the stream was given up: %s", failed)
            return


def _acknowledged_call(message: BridgedMessage, stream: SseConnection) -> PendingCall | None:
    """The call whose subscription an acknowledgement belongs to."""
    key = subscription_of(message)
    call = None if key is None else stream.calls.get(key)
    return call if call is not None and call.method == LISTEN else None
