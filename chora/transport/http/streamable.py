"""Streamable HTTP: POST, GET and DELETE of /mcp, in both eras.

modern era     one POST, one answer, no state
handshake era  `initialize` opens a session; its id comes with every later request
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import trio
from msgspec import UNSET

from chora.errors import Busy, LimitExceeded
from chora.protocol import wire
from chora.protocol.envelope import find_id, modern_revision, params_of, parse_message
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.protocol.tool_calls import canonical_tool_name
from chora.protocol.wire import RpcError
from chora.transport.http import event_streams
from chora.transport.http.asgi import (
    EXPIRES_AT,
    PRINCIPAL,
    Receive,
    Scope,
    Send,
    error_body,
    header_value,
    holding_of,
    read_body,
    send_busy,
    send_empty,
    send_json,
)
from chora.transport.http.event_streams import PING, send_notifications, send_stream, start_response
from chora.transport.http.message_headers import (
    accepts_event_stream,
    check_media_types,
    check_parameter_headers,
    check_routing_headers,
)
from chora.transport.http.sessions import HttpSession, HttpSessions
from chora.transport.replay import EventStream, encode_event

RETRY = 1.0
"""Seconds after which a client whose stream broke is to reconnect, the `retry` field of the event stream."""


class StreamableHttp:
    """The endpoint /mcp.

    Args:
        server: answers the messages.
        sessions: the open sessions.
    """

    def __init__(self, server: McpServer, sessions: HttpSessions) -> None:
        self._server = server
        self._sessions = sessions

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := check_media_types(scope)) is not None:
            await send_json(send, *refusal)
            return
        body = await read_body(scope, receive)
        if body is None:
            return
        version = header_value(scope, b"mcp-protocol-version")
        if version is None or version in wire.HANDSHAKE_REVISIONS:
            await self._post_handshake(scope, send, body)
        else:
            await self._post_modern(scope, send, body, version)

    # -- the modern era ---------------------------------------------------------------------------------------

    async def _post_modern(self, scope: Scope, send: Send, body: bytes, version: str) -> None:
        id_bytes: bytes | None = None
        try:
            incoming = parse_message(body)
            if incoming.method is UNSET:
                raise RpcError(wire.INVALID_REQUEST, "Post a request or a notification, not a response")
            if incoming.id is UNSET:
                modern_revision(version)
                await send_empty(send, 202)
                return
            id_bytes = incoming.id_bytes
            params = params_of(incoming)
            check_routing_headers(scope, incoming, params, version)
            if incoming.method == "tools/call" and params.name is not UNSET:
                name = canonical_tool_name(params.name)
                check_parameter_headers(scope, params, self._server.parameter_headers.get(name, {}))
            elif incoming.method == "subscriptions/listen":
                self._sessions.check_subscriptions(scope[PRINCIPAL])
        except RpcError as error:
            await send_json(
                send, wire.HTTP_STATUS.get(error.code, 200), wire.error_response(id_bytes or find_id(body), error)
            )
            return
        session = Session("http", scope[PRINCIPAL])
        if incoming.method == "subscriptions/listen":
            await self._answer_subscription(scope, send, session, body)
        else:
            await self._answer(scope, send, session, body)

    async def _answer(
        self, scope: Scope, send: Send, session: Session, body: bytes, *, is_subscription: bool = False
    ) -> None:
        """Answer with JSON, or with an event stream as soon as there is a notification to send before the answer.

        In the modern era a client cancels a request by closing the response. A token that was revoked meanwhile gets
        no answer, but for the end of its subscription.
        """
        streaming = False

        async def notify(message: bytes) -> None:
            nonlocal streaming
            if not streaming:
                streaming = True
                await start_response(send)
            await send({"type": "http.response.body", "body": encode_event(message), "more_body": True})

        with trio.CancelScope() as disconnected:
            scope["extensions"]["chora.on_disconnect"](disconnected.cancel)
            with nullcontext() if is_subscription else self._sessions.cancelling_call(session):
                reply = await self._server.answer(
                    session, body, notify if accepts_event_stream(scope) else None, holding=holding_of(scope)
                )
            if not (is_subscription or self._sessions.is_still_valid(session.principal)):
                reply = None
                if not streaming:
                    raise self._sessions.revoked_token()
            if streaming:
                last = b"" if reply is None else encode_event(reply.body)
                await send({"type": "http.response.body", "body": last})
            elif reply is None:  # it was cancelled
                await send_empty(send, 202)
            elif holding_of(scope).refused:
                await send_busy(send, reply.body)
            else:
                code = reply.error_code
                await send_json(send, 200 if code is None else wire.HTTP_STATUS.get(code, 200), reply.body)

    async def _answer_subscription(self, scope: Scope, send: Send, session: Session, body: bytes) -> None:
        """An answer that stays open until client or server end it, with a comment when there is nothing to send."""
        sending = trio.Lock()
        is_open = False

        async def send_exclusively(message: dict[str, Any]) -> None:
            nonlocal is_open
            async with sending:
                await send(message)
                is_open = message.get("more_body", False)

        async def ping() -> None:
            while True:
                await trio.sleep(event_streams.PING_INTERVAL)
                async with sending:
                    if is_open:
                        await send({"type": "http.response.body", "body": PING, "more_body": True})

        with self._sessions.closing_subscription(session, scope.get(EXPIRES_AT)):
            async with trio.open_nursery() as background:
                background.start_soon(ping)
                await self._answer(scope, send_exclusively, session, body, is_subscription=True)
                background.cancel_scope.cancel()

    # -- the handshake era ------------------------------------------------------------------------------------

    async def _post_handshake(self, scope: Scope, send: Send, body: bytes) -> None:
        try:
            incoming = None if body.lstrip()[:1] == b"[" else parse_message(body)
            if incoming is not None and incoming.params is not UNSET:
                meta = params_of(incoming).meta if incoming.method is not UNSET else UNSET
                if meta is not UNSET and meta.version is not UNSET:
                    raise RpcError(
                        wire.HEADER_MISMATCH, "The MCP-Protocol-Version header must name the body's revision"
                    )
        except RpcError as error:
            await send_json(send, 400, wire.error_response(find_id(body), error))
            return
        if incoming is not None and incoming.method == "initialize":
            # Some clients keep the id of a session that has ended, and would never get beyond a 404.
            await self._initialize(scope, send, body)
        elif not header_value(scope, b"mcp-session-id"):
            await send_json(send, 400, error_body("The Mcp-Session-Id header is missing.", "Send initialize first."))
        elif (session := await self._find_session(scope, send)) is None:
            return
        elif incoming is not None and (incoming.method is UNSET or incoming.id is UNSET):
            await self._server.answer(session, body, holding=holding_of(scope))
            await send_empty(send, 202)
        else:
            with session.call_slot() if wire.is_long_running(body) else nullcontext():
                await self._answer_session(scope, send, session, body)

    async def _initialize(self, scope: Scope, send: Send, body: bytes) -> None:
        """Open a session, whose id goes out with the answer."""
        session = HttpSession("http", scope[PRINCIPAL], trio.current_time(), self._sessions.replay_buffer)
        session.expires_at = scope.get(EXPIRES_AT)
        reply = await self._server.answer(session, body, holding=holding_of(scope))
        if reply is None:  # it has no id
            await send_empty(send, 202)
        elif holding_of(scope).refused:
            await send_busy(send, reply.body)
        elif reply.error_code is None:
            self._sessions.add_session(session)
            await send_json(send, 200, reply.body, [(b"mcp-session-id", session.id.encode())])
        else:
            await send_json(send, 400, reply.body)

    async def _answer_session(self, scope: Scope, send: Send, session: HttpSession, body: bytes) -> None:
        """Answer with JSON, or with a resumable stream as soon as there is a notification to send before the answer."""
        stream: EventStream | None = None
        holding = holding_of(scope)

        async def notify(message: bytes) -> None:
            nonlocal stream
            if stream is None:
                stream = session.streams.open_stream()
                if session.revision is not None and session.revision.primes_streams:
                    stream.add_event(b"", retry=RETRY)
                await writing.start(send_stream, scope, send, stream, 0)
            before = stream.size
            number = stream.add_event(message).number
            try:
                holding.charge(stream.size - before)
            except (Busy, LimitExceeded):
                stream.forget_events()
            await stream.wait_sent(number)

        async def drop_connection(retry: float) -> None:
            await notify(b"")
            assert stream is not None
            await stream.send_event(b"", retry=retry)
            stream.disconnect()

        streams = accepts_event_stream(scope)
        async with trio.open_nursery() as writing:
            reply = await self._server.answer(
                session,
                body,
                notify if streams else None,
                drop_connection if streams else None,
                holding=holding,
            )
            is_valid = self._sessions.is_still_valid(session.principal)
            if stream is not None:
                if reply is not None and is_valid:
                    stream.add_event(reply.body)
                stream.end_stream()
        if stream is not None:
            return
        if not is_valid:
            raise self._sessions.revoked_token()
        if reply is None:  # a batch of notifications, or a request that was cancelled
            await send_empty(send, 202)
        elif holding.refused and reply.error_code is not None:
            await send_busy(send, reply.body)
        else:
            refused = reply.error_code is not None and body.lstrip()[:1] == b"["
            await send_json(send, 400 if refused else 200, reply.body)

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The standalone stream of a session, or the rest of a stream whose connection broke."""
        if not accepts_event_stream(scope):
            await send_json(send, 406, error_body("This is an event stream.", "Accept text/event-stream."))
        elif header_value(scope, b"mcp-session-id") is None:
            allow = (b"allow", b"POST")
            await send_json(send, 405, error_body("There is a stream only within a session."), [allow])
        elif (session := await self._find_session(scope, send)) is not None:
            last_event = header_value(scope, b"last-event-id")
            if last_event is None:
                found = session.streams.open_stream(is_standalone=True), 0
            else:
                found = session.streams.find_event(last_event)
            if found is None:
                error = error_body("The stream of this Last-Event-ID is not known any more.", "Make the request again.")
                await send_json(send, 400, error)
            elif found[0].is_standalone:
                await start_response(send)
                await send_notifications(scope, send, self._sessions, session, *found)
            else:
                await self._resume(scope, send, session, *found)

    async def _resume(self, scope: Scope, send: Send, session: HttpSession, stream: EventStream, after: int) -> None:
        """Send the rest of a stream until it, the client or the session ends; a stopping server finishes the call."""
        close = partial(stream.disconnect)
        session.stream_closers.add(close)
        try:
            await send_stream(scope, send, stream, after)
        finally:
            session.stream_closers.discard(close)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End a session."""
        if header_value(scope, b"mcp-protocol-version") in wire.MODERN_REVISIONS:
            allow = (b"allow", b"POST")
            await send_json(send, 405, error_body("This revision knows no sessions."), [allow])
        elif header_value(scope, b"mcp-session-id") is None:
            await send_json(send, 400, error_body("The Mcp-Session-Id header is missing."))
        elif (session := await self._find_session(scope, send)) is not None:
            self._sessions.end_session(session, "deleted")
            await send_empty(send, 204)

    async def _find_session(self, scope: Scope, send: Send) -> HttpSession | None:
        """The session a request names; an unknown one, or one of another principal, is answered with 404."""
        session = self._sessions.find_session(header_value(scope, b"mcp-session-id") or "", "http", scope[PRINCIPAL])
        if session is None:
            await send_json(send, 404, error_body("There is no such session.", "Send initialize to open one."))
            return None
        session.last_used, session.expires_at = trio.current_time(), scope.get(EXPIRES_AT)
        return session
