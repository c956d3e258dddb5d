"""The server's side over the 2024-11-05 transport: one stream for all that it says, POSTs for what it is told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from chora.bridge.messages import (
    ACKNOWLEDGED,
    LISTEN,
    Backoff,
    Call,
    Failed,
    Key,
    Lost,
    Message,
    NotHere,
    Unreachable,
    split,
    subscription_of,
)
from chora.bridge.streamable import GREETING_TIME, NOTICE_TIME, too_large
from chora.bridge.upstream import Upstream
from chora.fetch import Address, EventReader, FetchFailed, Response, ResponseTooLarge

if TYPE_CHECKING:
    from chora.bridge.client import Bridge

log = logging.getLogger("chora.bridge")

ENDPOINT_TIME = 5.0  # seconds for the stream to say where messages are posted
POST = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]


class Stream:
    """An open stream, and the calls whose answers will come on it."""

    def __init__(self, endpoint: Address) -> None:
        self.endpoint = endpoint
        self.calls: dict[Key, Call] = {}
        self.scope = trio.CancelScope()
        self.ended = False

    def abandon(self) -> None:
        """Make no more use of it."""
        self.ended = True
        self.scope.cancel()


class Sse:
    """A server reached over the 2024-11-05 transport.

    Args:
        bridge: who gets what the server says.
        link: the way to it.
    """

    def __init__(self, bridge: Bridge, link: Upstream) -> None:
        self._bridge = bridge
        self._link = link
        self._stream: Stream | None = None
        self._opening = trio.Lock()

    def cancels_by_closing(self, call: Call) -> bool:
        """Never: the stream is everybody's."""
        return False

    async def open(self, patience: float) -> None:
        """See whether there is such a stream.

        Raises:
            NotHere: there is none.
            Failed: nobody can tell.
        """
        await self._ready(patience, fresh=False)

    async def carry(self, call: Call) -> None:
        """Have a call answered.

        Raises:
            Failed: it won't be.
        """
        assert call.key is not None
        fresh = call.method == "initialize"
        for _ in range(2):
            stream = await self._ready(self._bridge.patience(call), fresh=fresh)
            if await self._carry_on(stream, call):
                return
        raise Failed(f"{self._link.address} forgets every session at once.", "Its log may say why.", again=True)

    async def tell(self, line: bytes) -> None:
        """Pass on a message that has no answer; what becomes of it only the log says."""
        with trio.move_on_after(NOTICE_TIME) as limit:
            try:
                await self._tell(await self._ready(self._bridge.options.patience, fresh=False), line)
            except Failed as failed:
                log.warning("a message was not delivered: %s", failed)
        if limit.cancelled_caught:
            log.warning("a message was not delivered: %s doesn't accept it", self._link.address)

    def listen(self) -> None:
        """There is a stream already."""

    async def leave(self) -> None:
        """End the session, which the stream is."""
        if self._stream is not None:
            self._stream.scope.cancel()

    # -- messages -------------------------------------------------------------------------------------------

    async def _carry_on(self, stream: Stream, call: Call) -> bool:
        """Post a call and wait for its answer on the stream; false if the stream is no more and nothing was done."""
        assert call.key is not None
        call.under_way = True
        stream.calls[call.key] = call
        try:
            try:
                response = await self._link.ask(
                    "POST", POST, call.line, address=stream.endpoint, repeatable=call.repeatable
                )
            except Unreachable:  # the stream's end is on its way to us
                stream.abandon()
                return call.answer is not None
            async with response:
                if response.status in (404, 410):
                    stream.abandon()
                    return False
                if response.status >= 300:
                    body, error = await self._link.read_refusal(response)
                    if error is None:
                        raise self._link.refused(response)
                    await self._bridge.deliver(body, error, stream.calls, call)
                    return True
            await call.ended.wait()
            if call.failure is not None:
                failure, call.failure = call.failure, None
                call.ended = trio.Event()  # a subscription is asked for again
                raise failure
            return True
        finally:
            if stream.calls.get(call.key) is call:
                del stream.calls[call.key]

    async def _tell(self, stream: Stream, line: bytes) -> None:
        response = await self._link.ask("POST", POST, line, address=stream.endpoint)
        async with response:
            if response.status >= 300:
                log.warning("a message was not accepted: %s", self._link.refused(response))

    # -- the stream -----------------------------------------------------------------------------------------

    async def _ready(self, patience: float, *, fresh: bool) -> Stream:
        """The open stream, or else a new one that has been told what the old one knew.

        Args:
            patience: seconds to go on trying while nobody is there.
            fresh: for a new handshake.
        """
        memory = self._bridge.memory
        async with self._opening:
            stream = self._stream
            if stream is not None and not stream.ended and not (fresh and memory.hello is not None):
                return stream
            if stream is not None:
                stream.abandon()
            renewing = memory.hello is not None and not fresh
            if renewing:
                log.warning("the stream of %s ended; opening a new one", self._link.address)
            stream = await self._bridge.services.start(self._read, patience)
            if renewing:
                await self._greet(stream)
            self._stream = stream
        if renewing:
            for line in memory.news():
                await self._bridge.send(line)
        return stream

    async def _greet(self, stream: Stream) -> None:
        """Tell a new session what the old one knew."""
        memory = self._bridge.memory
        with trio.move_on_after(GREETING_TIME) as limit:
            if await self._carry_on(stream, memory.greeting()):
                if memory.initialized is not None:
                    await self._tell(stream, memory.initialized)
                for call in memory.requests():
                    await self._carry_on(stream, call)
        if limit.cancelled_caught or stream.ended:
            stream.abandon()
            raise Unreachable(f"{self._link.address} doesn't open a new session.", "Make the call again.", again=True)

    async def _read(self, patience: float, *, task_status: trio.TaskStatus[Stream]) -> None:
        """A service: read a stream to its end, then see to it that there is another one."""
        accept = [("accept", "text/event-stream")]
        try:
            with trio.fail_after(patience + GREETING_TIME):
                response = await self._link.ask("GET", accept, patience=patience)
        except trio.TooSlowError:
            raise Unreachable(
                f"{self._link.address} doesn't open a stream.", "Make the call again.", again=True
            ) from None
        async with response:
            if response.status != 200 or response.kind != "text/event-stream":
                refused = self._link.refused(response)
                if response.status in (401, 403, 429) or response.status >= 500:
                    raise refused
                raise NotHere(refused.message, refused.hint)
            events = EventReader(response, self._bridge.options.answer_limit)
            stream = Stream(await self._endpoint(events, response))
            why: object = "the server ended the stream"
            try:
                with stream.scope:
                    task_status.started(stream)
                    while (event := await events.receive()) is not None:
                        if event.data and event.kind == "message":
                            await self._deliver(event.data, stream)
            except ResponseTooLarge as failed:
                why = too_large(failed)
                log.warning("%s", why)
            except FetchFailed as failed:
                why = failed
            finally:
                stream.ended = True
                for call in stream.calls.values():
                    call.fail(Lost(self._link.address, why))
        if not stream.scope.cancelled_caught and self._stream is stream:
            await self._come_back()

    async def _endpoint(self, events: EventReader, response: Response) -> Address:
        """Where messages are posted; the stream's first event says so.

        Raises:
            NotHere: it doesn't.
            Failed: it leads to another server.
        """
        event = None
        with trio.move_on_after(ENDPOINT_TIME):
            try:
                event = await events.receive()
            except FetchFailed as failed:
                raise Unreachable(f"{self._link.address}: {failed}.", "Make the call again.", again=True) from failed
        if event is None or event.kind != "endpoint":
            raise NotHere(
                f"The stream of {self._link.address} doesn't say where messages are posted.",
                "Check the address: it should be the server's MCP endpoint, often /mcp or /sse.",
            )
        try:
            endpoint = self._link.address.join(event.data.decode())
        except ValueError:
            raise Failed(f"{self._link.address} says to post messages to what is no address.") from None
        if endpoint.origin != self._link.address.origin:
            raise Failed(
                f"{self._link.address} says to post messages to {endpoint}.",
                "That is another server, which must not see the access token. If it is right, connect to it.",
            )
        return endpoint

    async def _deliver(self, data: bytes, stream: Stream) -> None:
        try:
            messages = split(data)
        except ValueError:
            log.warning("%s sends what is no message of MCP", self._link.address)
            return
        for line, message in messages:
            owner = _listener(message, stream) if message.method == ACKNOWLEDGED else None
            await self._bridge.deliver(line, message, stream.calls, owner)

    async def _come_back(self) -> None:
        """Open a new stream as soon as there is one to be had."""
        if self._bridge.memory.hello is None:
            return
        pause = Backoff()
        while True:
            await trio.sleep(pause.next())
            try:
                await self._ready(0.0, fresh=False)
            except (Unreachable, Lost):
                continue
            except Failed as failed:
                log.warning("the stream was given up: %s", failed)
            return


def _listener(message: Message, stream: Stream) -> Call | None:
    """Whose subscription an acknowledgement is about."""
    key = subscription_of(message)
    call = None if key is None else stream.calls.get(key)
    return call if call is not None and call.method == LISTEN else None
