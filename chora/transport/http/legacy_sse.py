"""The 2024-11-05 transport: GET /sse stays open and carries the answers to what is posted to /messages/."""

from __future__ import annotations

from urllib.parse import parse_qs

import trio

from chora.peer_memory import Holding
from chora.protocol import wire
from chora.protocol.broadcast import QueueFull
from chora.protocol.server import McpServer
from chora.transport.http.asgi import (
    EXPIRES_AT,
    PRINCIPAL,
    Receive,
    Scope,
    Send,
    error_body,
    holding_of,
    read_body,
    send_empty,
    send_json,
)
from chora.transport.http.event_streams import send_notifications, start_response
from chora.transport.http.sessions import HttpSessions, SseSession
from chora.transport.replay import encode_event


class LegacySse:
    """The endpoints /sse and /messages/.

    Args:
        server: answers the messages.
        sessions: the open sessions.
    """

    def __init__(self, server: McpServer, sessions: HttpSessions) -> None:
        self._server = server
        self._sessions = sessions

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a session, which lasts as long as this response."""
        session = SseSession(scope[PRINCIPAL], trio.current_time(), holding_of(scope))
        session.expires_at = scope.get(EXPIRES_AT)
        self._sessions.add_session(session)
        try:
            await start_response(send)
            # Relative, so that it holds behind a path prefix, too (RFC 3986 §5.2).
            beside = "../" if scope["path"].endswith("/") else ""
            endpoint = f"{beside}messages/?session_id={session.id}".encode()
            await send(
                {"type": "http.response.body", "body": encode_event(endpoint, kind=b"endpoint"), "more_body": True}
            )
            await send_notifications(scope, send, self._sessions, session)
        finally:
            self._sessions.end_session(session, "closed")

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a message; its answer comes on the session's stream."""
        session_id = parse_qs(scope["query_string"].decode("ascii", "replace")).get("session_id", [""])[0]
        session = self._sessions.find_session(session_id, "sse", scope[PRINCIPAL])
        if session is None:
            await send_json(send, 404, error_body("There is no such session.", "Open GET /sse again."))
            return
        body = await read_body(scope, receive)
        if body is None:
            return
        session.last_used, session.expires_at = trio.current_time(), scope.get(EXPIRES_AT)

        async def push(message: bytes) -> None:
            try:
                session.notifications.put(message)
            except QueueFull:
                self._sessions.end_session(session, "not reading")

        async def answer(holding: Holding) -> None:
            if not self._sessions.is_open(session):
                return  # it ended before this began
            reply = await self._server.answer(session, body, push, holding=holding)
            if reply is not None and self._sessions.is_still_valid(session.principal):
                holding.resize(0)  # from now on it is held by the stream
                await push(reply.body)

        async def answer_beside(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with session.call_slot(), self._sessions.memory.hold(session.principal.name) as holding:
                holding.charge(len(body))
                task_status.started()
                await answer(holding)

        # Messages that can't take long are answered in order, as on stdio.
        if wire.is_long_running(body) and await self._sessions.start_call(answer_beside):
            await send_empty(send, 202)
        else:
            await send_empty(send, 202)
            await answer(holding_of(scope))
