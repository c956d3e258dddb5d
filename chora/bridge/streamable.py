"""The server's side over Streamable HTTP: one POST a message, in both eras.

In the handshake era there is a session, which the bridge keeps alive: it opens the GET stream, resumes streams that
break, and when the server no longer knows the session it opens another one and repeats the requests that made its
state.
"""

from __future__ import annotations

import logging
import re

import msgspec
import trio
from msgspec import Raw

from chora.bridge.interfaces import ClientSide
from chora.bridge.messages import (
    Backoff,
    BridgedMessage,
    CallFailure,
    ConnectionLost,
    PendingCall,
    TransportNotFound,
    UpstreamUnreachable,
    not_mcp,
    read_initialize_result,
    split_messages,
    too_large,
    too_much,
)
from chora.bridge.parameter_headers import ParameterHeaders
from chora.bridge.timeouts import NEW_SESSION_TIMEOUT, NOTIFICATION_TIMEOUT
from chora.bridge.upstream import Upstream, code_of
from chora.errors import Busy, LimitExceeded
from chora.fetch import EventReader, FetchFailed, HttpResponse, ResponseTooLarge
from chora.peer_memory import Holding
from chora.protocol import wire

log = logging.getLogger("chora.bridge")

POST_HEADERS = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
STREAM_HEADERS = [("accept", "text/event-stream")]
SESSION_END_TIMEOUT = 2.0  # seconds for a server to end a session
STREAM_END_TIMEOUT = 1.0  # seconds in which a stream has to end after the answer
SHORTEST_RETRY, LONGEST_RETRY = 0.1, 30.0  # bounds of the seconds that a server's `retry` field may ask for
TOOL_PAGES_LIMIT = 20  # of a list of tools
MODERN_ERRORS = {wire.HEADER_MISMATCH, -32021, wire.UNSUPPORTED_VERSION, wire.METHOD_NOT_FOUND, wire.INVALID_PARAMS}
"""Codes of refusals in the modern era; a server that sends one speaks Streamable HTTP."""

_VISIBLE_ASCII = re.compile(r"[!-~]{1,1024}")
_UNKNOWN_SESSION = re.compile(r"session|not initialized", re.IGNORECASE)


class UpstreamSession:
    """A session with the server."""

    def __init__(self, id: str | None, version: str) -> None:
        self.id = id
        self.version = version
        self.expired = False
        """Whether the server no longer knows it."""
        self.listen_scope: trio.CancelScope | None = None
        """The scope in which its own stream is read, once it is open."""

    def stop_listening(self) -> None:
        """Close its own stream."""
        if self.listen_scope is not None:
            self.listen_scope.cancel()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of every message within the session."""
        version = [("mcp-protocol-version", self.version)] if _VISIBLE_ASCII.fullmatch(self.version) else []
        return version + ([("mcp-session-id", self.id)] if self.id else [])


class StreamPosition:
    """How far a stream was read, and when to resume it."""

    def __init__(self) -> None:
        self.last_event_id: str | None = None
        self.retry: float | None = None


class StreamableUpstream:
    """A server reached over Streamable HTTP.

    Args:
        bridge: the client's side, which gets the server's messages.
        upstream: sends requests to the server.
    """

    def __init__(self, bridge: ClientSide, upstream: Upstream) -> None:
        self._bridge = bridge
        self._upstream = upstream
        self._parameter_headers = ParameterHeaders()
        self._session: UpstreamSession | None = None
        self._new_session: UpstreamSession | None = None
        self._renewing = trio.Lock()
        self._offers_streams = False
        """Whether the server ever opened a session's stream; a server without them may answer 404 for that alone."""

    def cancels_by_closing(self, call: PendingCall) -> bool:
        """Whether the server learns that a call is cancelled from the end of its connection."""
        return call.version is not None

    async def forward_call(self, call: PendingCall) -> None:
        """Have a call answered.

        Raises:
            CallFailure: it wasn't.
        """
        opening = call.method == "initialize"
        if opening:
            await self._close_session()
        for _ in range(2):
            session = None if call.version or opening else await self._current_session()
            if not await self._exchange(call, session):
                return
        raise CallFailure(f"{self._upstream.address} drops every new session.", "Its log may say why.", retryable=True)

    async def forward_notification(self, line: bytes) -> None:
        """Pass on a message that has no answer; a failure is logged."""
        with trio.move_on_after(NOTIFICATION_TIMEOUT) as limit:
            try:
                for _ in range(2):
                    session = await self._current_session()
                    if not await self._post_notification(line, session):
                        return
            except CallFailure as failed:
                log.warning("a message was not delivered: %s", failed)
        if limit.cancelled_caught:
            log.warning(
                "a message was not delivered: %s didn't accept it within %g s",
                self._upstream.address,
                NOTIFICATION_TIMEOUT,
            )

    async def end_session(self) -> None:
        """End the session."""
        await self._close_session()

    # -- one message ----------------------------------------------------------------------------------------

    async def _exchange(self, call: PendingCall, session: UpstreamSession | None) -> bool:
        """Post a request and pass on what comes back; true if it is to be sent again, in another session."""
        call.sent = True
        relisted = False
        while True:
            mirrored = self._parameter_headers.request_headers(call) if call.version else []
            headers = [*POST_HEADERS, *(session.headers if session else []), *mirrored]
            retry_time = self._bridge.wait_time(call)
            response = await self._upstream.send_request(
                "POST", headers, call.line, retry_time=retry_time, repeatable=call.repeatable
            )
            async with response:
                if 200 <= response.status < 300:
                    self._bridge.use_transport(self)
                    await self._read_answer(call, response, session)
                    return False
                body, error = await self._upstream.read_refusal(response)
                if session is not None and _is_session_unknown(response.status, session, error):
                    session.expired = True
                    return True
                code = 0 if error is None else code_of(error)
                if code == wire.HEADER_MISMATCH and call.version and call.method == "tools/call" and not relisted:
                    relisted = True  # perhaps parameters were missing in the headers: the list of tools names them
                else:
                    await self._pass_on_refusal(call, response, body, error, code)
                    return False
            await self._list_tools(call)

    async def _pass_on_refusal(
        self, call: PendingCall, response: HttpResponse, body: bytes, error: BridgedMessage | None, code: int
    ) -> None:
        refused = self._upstream.describe_refusal(response)
        if not self._bridge.transport_known and response.status in (400, 404, 405) and code not in MODERN_ERRORS:
            # A server of the older transport may send a JSON-RPC error too; the client then tries `initialize`.
            if error is None or call.method == "initialize":
                raise TransportNotFound(refused.message, refused.hint, error=(body, error) if error else None)
        elif error is not None:
            self._bridge.use_transport(self)
        if error is None:
            raise refused
        await self._deliver(body, call)

    async def _read_answer(self, call: PendingCall, response: HttpResponse, session: UpstreamSession | None) -> None:
        if call.method == "initialize":
            call.on_answer = lambda answer: self._begin_session(call, response, answer)
        if response.media_type == "text/event-stream":
            await self._read_until_answer(call, response, session)
            return
        with self._bridge.answers_held.hold(str(call.key)) as holding:
            try:
                body = await response.read(self._bridge.options.answer_limit, holding.resize)
            except ResponseTooLarge as failed:
                raise too_large(failed) from None
            except (Busy, LimitExceeded):
                raise too_much() from None
            except FetchFailed as failed:
                raise ConnectionLost(self._upstream.address, failed) from failed
            if body.strip():
                await self._deliver(body, call, response.media_type)
        if call.answer is None and not call.cancelled:
            raise CallFailure(
                f"{self._upstream.address} accepted the request without answering it (HTTP {response.status}).",
                "It may have been carried out; the server's log may say more.",
                carried_out=True,
            )

    async def _deliver(self, data: bytes, call: PendingCall, kind: str = "") -> None:
        """Pass on what came as the answer to a call."""
        try:
            messages = split_messages(data)
        except ValueError:
            raise not_mcp(self._upstream.address, kind, data) from None
        for line, message in messages:
            await self._bridge.deliver(self._without_invalid_tools(line, message, call), message, {}, call)
        if call.failure is not None:
            raise call.failure

    def _without_invalid_tools(self, line: bytes, message: BridgedMessage, call: PendingCall) -> bytes:
        is_list = call.version is not None and call.method == "tools/list" and message.method is msgspec.UNSET
        return self._parameter_headers.learn_tools(line, message) if is_list else line

    # -- streams --------------------------------------------------------------------------------------------

    async def _read_until_answer(
        self, call: PendingCall, response: HttpResponse, session: UpstreamSession | None
    ) -> None:
        """Pass on a stream until it has brought the answer, resuming it where it breaks if possible."""
        position = StreamPosition()
        why = await self._read_stream(response, position, call)
        pause = Backoff()
        while why is not None and not call.cancelled:
            if session is None or position.last_event_id is None:
                raise ConnectionLost(self._upstream.address, why)
            await trio.sleep(pause.next_pause() if position.retry is None else position.retry)
            headers = [*STREAM_HEADERS, *session.headers, ("last-event-id", position.last_event_id)]
            try:
                again = await self._upstream.send_request("GET", headers, retry_time=self._bridge.options.retry_time)
            except CallFailure:
                raise ConnectionLost(self._upstream.address, why) from None
            async with again:
                if again.status != 200 or again.media_type != "text/event-stream":
                    raise ConnectionLost(self._upstream.address, why)
                why = await self._read_stream(again, position, call)

    async def _read_stream(
        self, response: HttpResponse, position: StreamPosition, call: PendingCall | None
    ) -> str | None:
        """Pass on the messages of a stream; returns why it ended before the call's answer, or None."""
        with self._bridge.answers_held.hold(str(call and call.key)) as holding:
            return await self._read_events(response, position, call, holding)

    async def _read_events(
        self, response: HttpResponse, position: StreamPosition, call: PendingCall | None, holding: Holding
    ) -> str | None:
        events = EventReader(response, self._bridge.options.answer_limit, holding.resize)
        try:
            while (event := await events.receive()) is not None:
                if event.id is not None:
                    position.last_event_id = event.id if re.fullmatch(r"[ -~]{1,1024}", event.id) else None
                if event.data and event.type == "message":
                    if call is None:
                        await self._deliver_unsolicited(event.data)
                    else:
                        await self._deliver(event.data, call, response.media_type)
                        if call.answer is not None:
                            with trio.move_on_after(STREAM_END_TIMEOUT):
                                await response.drain()
                            return None
        except ResponseTooLarge as failed:
            raise too_large(failed) from None
        except (Busy, LimitExceeded):
            raise too_much() from None
        except FetchFailed as failed:
            return str(failed) if call is None or call.answer is None else None
        finally:
            if events.retry is not None:
                position.retry = max(SHORTEST_RETRY, min(events.retry, LONGEST_RETRY))
        return "the server ended the stream"

    async def _deliver_unsolicited(self, data: bytes) -> None:
        """Pass on messages that belong to no call; malformed ones are logged."""
        try:
            for line, message in split_messages(data):
                await self._bridge.deliver(line, message, self._bridge.calls)
        except ValueError:
            log.warning("%s sent data that isn't an MCP message; it was dropped", self._upstream.address)

    async def _listen(self, session: UpstreamSession, scope: trio.CancelScope) -> None:
        """A service: keep the GET stream of a session open, and notice when the server no longer knows the session."""
        position, pause = StreamPosition(), Backoff()
        with scope:
            while True:
                headers = [
                    *STREAM_HEADERS,
                    *session.headers,
                    *([("last-event-id", position.last_event_id)] if position.last_event_id else []),
                ]
                try:
                    if not session.expired:
                        response = await self._upstream.send_request("GET", headers)
                        async with response:
                            if response.status == 200 and response.media_type == "text/event-stream":
                                self._offers_streams = True
                                why = await self._read_stream(response, position, None)
                                log.debug("the stream of the session ended: %s", why)
                            elif self._offers_streams and _is_session_unknown(response.status, session, None):
                                session.expired = True
                            elif response.status < 500:
                                log.debug("the server offers no stream (HTTP %d)", response.status)
                                return
                    if session.expired:
                        await self._renew_session(session)
                        return
                except (UpstreamUnreachable, ConnectionLost) as failed:
                    log.debug("the stream of the session failed: %s", failed)
                except CallFailure as failed:
                    log.warning("the stream of the session was given up: %s", failed)
                    return
                await trio.sleep(max(pause.next_pause(), position.retry or 0.0))

    # -- sessions -------------------------------------------------------------------------------------------

    def _begin_session(self, call: PendingCall, response: HttpResponse, answer: BridgedMessage) -> None:
        if answer.result is msgspec.UNSET:
            return
        id = response.header("mcp-session-id")
        if id is not None and not _VISIBLE_ASCII.fullmatch(id):
            log.warning("the server's session id is invalid; continuing without one")
            id = None
        session = UpstreamSession(id, read_initialize_result(answer).protocol_version)
        if call.internal:  # calls use it only once its state is complete
            self._new_session = session
        else:
            self._session = session

    async def _current_session(self) -> UpstreamSession | None:
        session = self._session
        return await self._renew_session(session) if session is not None and session.expired else session

    async def _renew_session(self, old: UpstreamSession) -> UpstreamSession | None:
        """Open a new session in place of one that the server no longer knows."""
        memory = self._bridge.memory
        async with self._renewing:
            if self._session is not old:
                return self._session
            log.warning("the session has ended at %s; opening a new one", self._upstream.address)
            with trio.move_on_after(NEW_SESSION_TIMEOUT):
                self._session = await self._open_new_session()
            if self._session is old:
                raise UpstreamUnreachable(
                    f"{self._upstream.address} doesn't open a new session.", "Make the call again.", retryable=True
                )
            session = self._session
        if memory.initialized_line is not None:
            self.start_listening()
        for line in memory.change_notifications():
            await self._bridge.send(line)
        old.stop_listening()
        return session

    async def _open_new_session(self) -> UpstreamSession:
        """Open a new session with the state of the old one."""
        memory = self._bridge.memory
        initialize = memory.replayed_initialize()
        await self._exchange(initialize, None)
        session, self._new_session = self._new_session, None
        if session is None:
            raise CallFailure(
                f"{self._upstream.address} refuses a new session.", "Its log may say why.", retryable=True
            )
        if memory.initialized_line is not None:
            await self._post_notification(memory.initialized_line, session)
        for call in memory.replayed_requests():
            await self._exchange(call, session)
        return session

    async def _post_notification(self, line: bytes, session: UpstreamSession | None) -> bool:
        """Post a message without an answer; returns whether the server no longer knows the session."""
        headers = [*POST_HEADERS, *(session.headers if session else [])]
        response = await self._upstream.send_request("POST", headers, line, retry_time=self._bridge.options.retry_time)
        async with response:
            if response.status >= 400:
                _, error = await self._upstream.read_refusal(response)
                if session is not None and _is_session_unknown(response.status, session, error):
                    session.expired = True
                    return True
                log.warning("a message was refused: %s", self._upstream.describe_refusal(response))
            return False

    def start_listening(self) -> None:
        """Open the session's own stream."""
        session = self._session
        if session is not None and session.listen_scope is None:
            session.listen_scope = trio.CancelScope()
            self._bridge.services.start_soon(self._listen, session, session.listen_scope)

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.stop_listening()
        if session.id is not None and not session.expired:
            with trio.move_on_after(SESSION_END_TIMEOUT):
                try:
                    async with await self._upstream.send_request("DELETE", session.headers):
                        return
                except CallFailure as failed:
                    log.debug("the session wasn't ended: %s", failed)

    # -- tools that want parameters repeated in headers --------------------------------------------------------

    async def _list_tools(self, call: PendingCall) -> None:
        """List the tools with the envelope of a call, to learn which headers they need."""
        whole = msgspec.json.decode(call.line, type=dict[str, Raw])
        envelope = msgspec.json.decode(whole["params"], type=dict[str, Raw])["_meta"]
        cursor: str | None = None
        for page in range(TOOL_PAGES_LIMIT):
            params = {"_meta": envelope, **({"cursor": cursor} if cursor is not None else {})}
            line = wire.encode({"jsonrpc": "2.0", "id": f"chora-{page}", "method": "tools/list", "params": params})
            ((_, message),) = split_messages(line)
            listing = PendingCall(line, message, internal=True)
            await self._exchange(listing, None)
            if listing.answer is None or listing.answer.result is msgspec.UNSET:
                return
            try:
                cursor = msgspec.json.decode(listing.answer.result, type=_Page).next_cursor
            except wire.DECODE_ERRORS:
                return
            if cursor is None:
                return


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    next_cursor: str | None = None


def _is_session_unknown(status: int, session: UpstreamSession, error: BridgedMessage | None) -> bool:
    """Whether a response says that there is no such session; some servers do that with 400 and a sentence."""
    if session.id is None:
        return False
    words = b"" if error is None or error.error is msgspec.UNSET else bytes(error.error)
    return status == 404 or (status == 400 and _UNKNOWN_SESSION.search(words.decode("utf-8", "replace")) is not None)
