"""Event-stream responses: a stream that can be resumed, and one with the notifications of a session."""

from __future__ import annotations

import contextlib

import trio

from chora.transport.http.asgi import Scope, Send
from chora.transport.http.sessions import HttpSession, HttpSessions
from chora.transport.replay import EventStream, encode_event

PING_INTERVAL = 15.0
"""Seconds between comment lines on a silent stream, so that proxies keep it open."""
PING = b": ping\r\n\r\n"

EVENT_STREAM = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
"""The headers of an event-stream response; the last one keeps nginx from buffering it."""


async def start_response(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})


async def send_stream(
    scope: Scope,
    send: Send,
    stream: EventStream,
    after: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send the events of a stream after a number, until the stream or the connection ends."""

    async def write(frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    task_status.started()
    with contextlib.suppress(OSError):  # the client disconnected; it may resume the stream
        await start_response(send)
        await stream.write_events(write, after, scope["extensions"]["chora.on_disconnect"])
        await send({"type": "http.response.body", "body": b""})


async def send_notifications(
    scope: Scope,
    send: Send,
    sessions: HttpSessions,
    session: HttpSession,
    stream: EventStream | None = None,
    after: int = 0,
) -> None:
    """Send a session's notifications, and a comment when there are none, until client, session or server end.

    Args:
        scope, send: the connection, whose response has started.
        sessions: the registry of the session.
        session: whose notifications are sent.
        stream: records what is sent, for a client that resumes.
        after: the number of the event after which the recorded ones are sent again.
    """
    attached = trio.CancelScope() if stream is None else stream.attach_connection()
    with attached as listening, sessions.closing_stream(session, listening.cancel):
        scope["extensions"]["chora.on_disconnect"](listening.cancel)
        recorded = b"" if stream is None else b"".join(each.frame for each in stream.events_after(after))
        await send({"type": "http.response.body", "body": b": chora\r\n\r\n" + recorded, "more_body": True})
        while True:
            frame = PING
            with trio.move_on_after(PING_INTERVAL):
                message = await session.notifications.wait_next()
                frame = encode_event(message) if stream is None else stream.add_event(message).frame
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
