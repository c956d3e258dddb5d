"""MCP over HTTP: Streamable HTTP at `/mcp` in both eras, and the 2024-11-05 SSE transport at `/sse`.

The door is an ASGI app. Whose request it is (Host, Origin, token) is settled before a byte of the body is read;
everything that isn't MCP goes on to the pages.

    modern era     one POST, one answer, no state
    handshake era  `initialize` opens a session; its id comes with every later request
    SSE            GET /sse stays open and carries the answers to what is posted to /messages/
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec
import trio
from msgspec import UNSET

from chora import settings
from chora.access import Authenticator, Principal, bearer, is_loopback
from chora.errors import ChoraError, Forbidden, Unauthorized
from chora.metrics import Metrics
from chora.oauth import Issuer
from chora.protocol import wire
from chora.protocol.broadcast import NotificationQueue, QueueFull
from chora.protocol.server import Server
from chora.protocol.session import Session
from chora.protocol.wire import RpcError
from chora.transport.replay import RUNNING_CALLS, EventStream, EventStreams, ReplayBuffer, event

log = logging.getLogger("chora.http")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Scope = dict[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PING_INTERVAL = 15.0
"""Seconds between comment lines on a silent stream, so that proxies keep it open."""
QUEUE_LIMIT = 100
"""Messages that may wait on a stream; a peer that lets more pile up loses the stream."""
RETRY = 1.0
"""Seconds after which a client whose stream broke is to come back for the rest."""
SWEEP_INTERVAL = 5.0
"""Seconds between two looks for sessions that have to end."""
METADATA = "/.well-known/oauth-protected-resource"
FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
"""What proxies add to a request."""
PING = b": ping\r\n\r\n"

JSON = (b"content-type", b"application/json")
STREAM = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
ROUTING_HEADERS = (b"mcp-protocol-version", b"mcp-method", b"mcp-name")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
"""A name or an address and perhaps a port, as they stand in a Host header and at the end of an Origin."""


class HttpSession(Session):
    """A session that requests find by its id, and the streams that hang on it."""

    def __init__(self, transport: str, principal: Principal, now: float, shelf: ReplayBuffer | None = None) -> None:
        super().__init__(transport, principal)
        self.id = secrets.token_urlsafe(24)
        self.used = now
        self.until: float | None = None
        """When the token of its last request expires; what is open then is closed."""
        self.streams = EventStreams(shelf)
        self.closers: set[Callable[[], None]] = set()
        """End what is open of this session."""

    @property
    def rank(self) -> tuple[bool, float]:
        """Where it stands among those that have to make room: first whoever waits for nothing, the longest idle."""
        return bool(self.in_flight), self.used

    def close(self) -> None:
        """End what is open."""
        for close in list(self.closers):
            close()


class SseSession(HttpSession):
    """A 2024-11-05 conversation: calls run beside its stream, and end with it."""

    def __init__(self, principal: Principal, now: float) -> None:
        super().__init__("sse", principal, now)
        self.mailbox = NotificationQueue(QUEUE_LIMIT)


class HttpApplication:
    """The ASGI app at the front.

    Args:
        server: who answers.
        gate: who may come in.
        http, limits: their sections of the settings.
        pages: the app for everything that isn't MCP.
        metrics: where sessions are counted.
        issuer: somebody else who issues tokens.
    """

    def __init__(
        self,
        server: Server,
        gate: Authenticator,
        http: settings.HttpSettings,
        limits: settings.LimitSettings,
        pages: App,
        metrics: Metrics,
        issuer: Issuer | None = None,
    ) -> None:
        self._issuer = issuer
        self._server = server
        self._gate = gate
        self._limits = limits
        self._pages = pages
        self._metrics = metrics
        self._hosts = {http.host.lower(), *(host.lower() for host in http.allowed_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in http.allowed_origins}
        self._sessions: dict[str, HttpSession] = {}
        self._shelf = ReplayBuffer()
        self._calls: trio.Nursery | None = None
        """Where calls run that are posted on one connection and answered on another; they end with their session."""
        self._closers: set[Callable[[], None]] = set()
        """End what is open and would stay so."""
        self._subscriptions: dict[Session, float | None] = {}
        """Subscriptions without a session, and when the tokens expire that opened them."""
        self._routes: dict[tuple[str, str], App] = {
            ("POST", "/mcp"): self._post,
            ("GET", "/mcp"): self._listen,
            ("DELETE", "/mcp"): self._delete,
        }
        if http.sse:
            self._routes |= {("GET", "/sse"): self._sse, ("POST", "/messages/"): self._message}

    async def serve(
        self, draining: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """A service: ends sessions that nobody has used for `limits.idle`, and all streams once `draining` is set."""
        async with trio.open_nursery() as self._calls:
            task_status.started()
            await self._sweep(draining)
            await trio.sleep_forever()

    async def _sweep(self, draining: trio.Event) -> None:
        while not draining.is_set():
            with trio.move_on_after(min(SWEEP_INTERVAL, self._limits.idle / 2)):
                await draining.wait()
            oldest = trio.current_time() - self._limits.idle
            for session in [each for each in self._sessions.values() if each.rank < (False, oldest)]:
                self._end(session, "idle")
            principals = {each.principal for each in (*self._sessions.values(), *self._subscriptions)}
            gone = {each for each in principals if not self._gate.still_knows(each)}
            for session in [each for each in self._sessions.values() if each.principal in gone]:
                self._end(session, "revoked")
            for subscription, until in self._subscriptions.items():
                if subscription.principal in gone or (until is not None and until < time.time()):
                    subscription.stop_listening()
            for session in self._sessions.values():
                session.streams.forget()
                if session.until is not None and session.until < time.time():
                    session.close()
        for close in list(self._closers):
            close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        route = self._routes.get((scope["method"], scope["path"]))
        try:
            is_local = self._look_behind_proxy(scope)
            self._check_host(scope)
            if route is not None:
                self._check_origin(scope)
                scope["chora.principal"] = await self._identify(scope, is_local=is_local)
                await route(scope, receive, send)
            elif self._issuer is not None and scope["path"] in (METADATA, METADATA + "/mcp"):
                await _send_json(send, 200, wire.encode(self._issuer.metadata))
            elif scope["path"] in ("/mcp", "/sse", "/messages/"):
                methods = [method for method, path in self._routes if path == scope["path"]]
                allow = (b"allow", ", ".join(methods).encode())
                await _send_json(send, 405 if methods else 404, _fault("This method has no meaning here."), [allow])
            else:
                if scope["path"] not in ("/health", "/ready"):
                    self._check_origin(scope)
                    if self._gate.public or not is_local:
                        await self._identify(scope, is_local=is_local)
                await self._pages(scope, receive, send)
        except Unauthorized as error:
            challenge = b'Bearer realm="chora"' if self._issuer is None else self._issuer.challenge
            await _send_json(
                send, error.http_status, _fault(error.message, error.hint), [(b"www-authenticate", challenge)]
            )
        except ChoraError as error:
            await _send_json(send, error.http_status, _fault(error.message, error.hint))

    # -- who is knocking ------------------------------------------------------------------------------------

    def _look_behind_proxy(self, scope: Scope) -> bool:
        """Whether the request comes from this machine; of a trusted proxy's, the Host is what its client asked for.

        A proxy that isn't trusted could stand before anybody, so what came through one is never near.
        """
        forwarded = [name for name in FORWARDED if _headers(scope, name)]
        if not forwarded:
            return True
        peer = scope["client"][0] if scope["client"] else ""
        if not self._gate.trusts(peer):
            return False
        hosts = _headers(scope, b"x-forwarded-host")
        if hosts:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            # Every proxy adds at the end; the last name is the one that ours was asked for.
            scope["headers"] = [*others, (b"host", hosts[-1].rpartition(",")[2].strip().encode("latin-1"))]
        return is_loopback(self._gate.speaks_for(_headers(scope, b"x-forwarded-for")))

    def _check_host(self, scope: Scope) -> None:
        """Refuse names that aren't ours: a page that rebinds its name to our address sends its own."""
        hosts = _headers(scope, b"host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._hosts or is_loopback(name)):
            raise Forbidden(
                f"The Host {hosts[0][:100] if hosts else '(none)'} is not one this server goes by.",
                "Use its address, or add the name to the setting http.allowed_hosts.",
            )

    def _check_origin(self, scope: Scope) -> None:
        origins = _headers(scope, b"origin")
        for origin in origins:
            name = _origin_host(origin)
            if not (origin.lower().rstrip("/") in self._origins or (name is not None and is_loopback(name))):
                raise Forbidden(
                    f"Pages of the origin {origin[:100]} may not talk to this server.",
                    "Add it to the setting http.allowed_origins if they should.",
                )

    async def _identify(self, scope: Scope, *, is_local: bool) -> Principal:
        headers = _headers(scope, b"authorization")
        if len(headers) > 1:
            raise Unauthorized("There is more than one Authorization header.", "Send one.")
        given = headers[0] if headers else None
        if self._issuer is not None and (token := bearer(given) or "").count(".") == 2:
            principal, scope["chora.until"] = await self._issuer.identify(token)
            return principal
        return self._gate.authenticate(given, is_local=is_local)

    # -- Streamable HTTP ------------------------------------------------------------------------------------

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := _check_types(scope)) is not None:
            await _send_json(send, *refusal)
            return
        body = await _read_body(receive)
        if body is None:
            return
        version = _header(scope, b"mcp-protocol-version")
        if version is None or version in wire.HANDSHAKE:
            await self._post_handshake(scope, receive, send, body)
        else:
            await self._post_modern(scope, receive, send, body, version)

    async def _post_modern(self, scope: Scope, receive: Receive, send: Send, body: bytes, version: str) -> None:
        id_bytes: bytes | None = None
        try:
            incoming = self._server.parse(body)
            if incoming.method is UNSET:
                raise RpcError(wire.INVALID_REQUEST, "Post a request or a notification, not a response")
            if incoming.id is UNSET:
                self._server.modern_revision(version)
                await _send_empty(send, 202)
                return
            id_bytes = incoming.id_bytes
            params = self._server.params_of(incoming)
            _check_routing(scope, incoming, params, version)
            if incoming.method == "tools/call" and params.name is not UNSET:
                _check_mirrored(scope, params, self._server.mirrored.get(self._server.tool_name(params.name), {}))
        except RpcError as error:
            await _send_json(send, wire.HTTP_STATUS.get(error.code, 200), wire.error_response(id_bytes, error))
            return
        session = Session("http", scope["chora.principal"])
        if incoming.method == "subscriptions/listen":
            await self._answer_subscription(scope, send, session, body)
        else:
            await self._answer(scope, send, session, body)

    async def _post_handshake(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        session = await self._find(scope, send) if (given := _header(scope, b"mcp-session-id")) else None
        if given and session is None:
            return
        try:
            incoming = None if body.lstrip()[:1] == b"[" else self._server.parse(body)
            if incoming is not None and incoming.params is not UNSET:
                meta = self._server.params_of(incoming).meta if incoming.method is not UNSET else UNSET
                if meta is not UNSET and meta.version is not UNSET:
                    raise RpcError(
                        wire.HEADER_MISMATCH, "The MCP-Protocol-Version header must name the body's revision"
                    )
        except RpcError as error:
            await _send_json(send, 400, wire.error_response(None, error))
            return
        if incoming is not None and incoming.method == "initialize":
            session = HttpSession("http", scope["chora.principal"], trio.current_time(), self._shelf)
            session.until = scope.get("chora.until")
            reply = await self._server.answer(session, body)
            if reply is None:  # it has no id
                await _send_empty(send, 202)
            elif reply.error_code is None:
                self._admit(session)
                await _send_json(send, 200, reply.body, [(b"mcp-session-id", session.id.encode())])
            else:
                await _send_json(send, 400, reply.body)
            return
        if session is None:
            await _send_json(send, 400, _fault("The Mcp-Session-Id header is missing.", "Send initialize first."))
            return
        if incoming is not None and (incoming.method is UNSET or incoming.id is UNSET):
            await self._server.answer(session, body)
            await _send_empty(send, 202)
            return
        await self._answer_session(scope, send, session, body)

    async def _answer_session(self, scope: Scope, send: Send, session: HttpSession, body: bytes) -> None:
        """Answer with JSON, or with a stream that can be resumed as soon as there is something to say before that."""
        stream: EventStream | None = None

        async def notify(message: bytes) -> None:
            nonlocal stream
            if stream is None:
                stream = session.streams.open()
                if session.revision is not None and session.revision.primes:
                    stream.add(b"", retry=RETRY)
                await writing.start(_write_stream, scope, send, stream, 0)
            await stream.put(message)

        async def hang_up(retry: float) -> None:
            await notify(b"")
            assert stream is not None
            await stream.put(b"", retry=retry)
            stream.drop()

        streams = "text/event-stream" in (_header(scope, b"accept") or "") and len(session.in_flight) < RUNNING_CALLS
        async with trio.open_nursery() as writing:
            reply = await self._server.answer(session, body, notify if streams else None, hang_up if streams else None)
            if stream is not None:
                if reply is not None:
                    stream.add(reply.body)
                stream.end()
            elif reply is None:  # a batch of notifications, or a request that was cancelled
                await _send_empty(send, 202)
            else:
                refused = reply.error_code is not None and body.lstrip()[:1] == b"["
                await _send_json(send, 400 if refused else 200, reply.body)

    async def _answer(self, scope: Scope, send: Send, session: Session, body: bytes) -> None:
        """Answer with JSON, or with a stream as soon as there is something to say before the answer.

        In the modern era closing the response is how a request is cancelled.
        """
        streaming = False

        async def notify(message: bytes) -> None:
            nonlocal streaming
            if not streaming:
                streaming = True
                await send({"type": "http.response.start", "status": 200, "headers": STREAM})
            await send({"type": "http.response.body", "body": event(message), "more_body": True})

        streams = "text/event-stream" in (_header(scope, b"accept") or "")
        with trio.CancelScope() as departed:
            scope["extensions"]["chora.on_disconnect"](departed.cancel)
            reply = await self._server.answer(session, body, notify if streams else None)
            if streaming:
                last = b"" if reply is None else event(reply.body)
                await send({"type": "http.response.body", "body": last})
            elif reply is None:  # it was cancelled
                await _send_empty(send, 202)
            else:
                code = reply.error_code
                await _send_json(send, 200 if code is None else wire.HTTP_STATUS.get(code, 200), reply.body)

    async def _answer_subscription(self, scope: Scope, send: Send, session: Session, body: bytes) -> None:
        """An answer that stays open until peer or server end it, with a comment when there is nothing to say."""
        sending = trio.Lock()
        is_open = False

        async def send_in_turn(message: dict[str, Any]) -> None:
            nonlocal is_open
            async with sending:
                await send(message)
                is_open = message.get("more_body", False)

        async def ping() -> None:
            while True:
                await trio.sleep(PING_INTERVAL)
                async with sending:
                    if is_open:
                        await send({"type": "http.response.body", "body": PING, "more_body": True})

        self._closers.add(session.stop_listening)
        self._subscriptions[session] = scope.get("chora.until")
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(ping)
                await self._answer(scope, send_in_turn, session, body)
                beside.cancel_scope.cancel()
        finally:
            self._closers.discard(session.stop_listening)
            del self._subscriptions[session]

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /mcp: what the server has to say of itself, or the rest of a stream whose connection broke."""
        if "text/event-stream" not in (_header(scope, b"accept") or ""):
            await _send_json(send, 406, _fault("This is an event stream.", "Accept text/event-stream."))
        elif _header(scope, b"mcp-session-id") is None:
            allow = (b"allow", b"POST")
            await _send_json(send, 405, _fault("There is a stream only within a session."), [allow])
        elif (session := await self._find(scope, send)) is not None:
            last_event = _header(scope, b"last-event-id")
            if last_event is None:
                found = session.streams.open(is_unasked=True), 0
            else:
                found = session.streams.find(last_event)
            if found is None:
                fault = _fault("The stream of this Last-Event-ID is not known any more.", "Make the request again.")
                await _send_json(send, 400, fault)
            elif found[0].is_unasked:
                await send({"type": "http.response.start", "status": 200, "headers": STREAM})
                await self._stream(scope, send, session, *found)
            else:
                await self._resume(scope, send, session, *found)

    async def _resume(self, scope: Scope, send: Send, session: HttpSession, stream: EventStream, after: int) -> None:
        """Write the rest of a stream, until it, the peer or the session ends; a stopping server finishes the call."""
        close = partial(stream.drop)
        session.closers.add(close)
        try:
            await _write_stream(scope, send, stream, after)
        finally:
            session.closers.discard(close)

    async def _delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _header(scope, b"mcp-protocol-version") in wire.MODERN:
            allow = (b"allow", b"POST")
            await _send_json(send, 405, _fault("This revision knows no sessions."), [allow])
        elif _header(scope, b"mcp-session-id") is None:
            await _send_json(send, 400, _fault("The Mcp-Session-Id header is missing."))
        elif (session := await self._find(scope, send)) is not None:
            self._end(session, "deleted")
            await _send_empty(send, 204)

    async def _stream(
        self, scope: Scope, send: Send, session: HttpSession, kept: EventStream | None = None, after: int = 0
    ) -> None:
        """Send what comes, and a comment when nothing does, until peer, session or server end.

        Args:
            scope, send: the connection.
            session: whose mailbox is emptied.
            kept: keeps what is sent.
            after: the event after which those that were sent are sent again.
        """
        reading = trio.CancelScope() if kept is None else kept.reading()
        with reading as listening, self._closable(session, listening.cancel):
            scope["extensions"]["chora.on_disconnect"](listening.cancel)
            again = b"" if kept is None else b"".join(each.frame for each in kept.after(after))
            await send({"type": "http.response.body", "body": b": chora\r\n\r\n" + again, "more_body": True})
            while True:
                frame = PING
                with trio.move_on_after(PING_INTERVAL):
                    message = await session.mailbox.wait_next()
                    frame = event(message) if kept is None else kept.add(message).frame
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    @contextlib.contextmanager
    def _closable(self, session: HttpSession, close: Callable[[], None]) -> Generator[None]:
        """Have something closed when the session or the server ends."""
        session.closers.add(close)
        self._closers.add(close)
        try:
            yield
        finally:
            session.closers.discard(close)
            self._closers.discard(close)

    # -- SSE, 2024-11-05 ------------------------------------------------------------------------------------

    async def _sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = SseSession(scope["chora.principal"], trio.current_time())
        session.until = scope.get("chora.until")
        self._admit(session)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM})
            place = f"/messages/?session_id={session.id}".encode()
            await send({"type": "http.response.body", "body": event(place, kind=b"endpoint"), "more_body": True})
            await self._stream(scope, send, session)
        finally:
            self._end(session, "closed")

    async def _message(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = parse_qs(scope["query_string"].decode("ascii", "replace")).get("session_id", [""])[0]
        session = self._sessions.get(wanted)
        if not isinstance(session, SseSession) or session.principal != scope["chora.principal"]:
            await _send_json(send, 404, _fault("There is no such session.", "Open GET /sse again."))
            return
        body = await _read_body(receive)
        if body is None:
            return
        session.used, session.until = trio.current_time(), scope.get("chora.until")
        # Everything but what may take long is answered in order, as on stdio.
        is_lasting = any(word in body for word in wire.LASTING)
        if is_lasting and len(session.in_flight) >= RUNNING_CALLS:
            fault = _fault(f"{RUNNING_CALLS} calls of this session wait for their answers.", "Wait for some of them.")
            await _send_json(send, 503, fault)
            return

        async def push(message: bytes) -> None:
            try:
                session.mailbox.put(message)
            except QueueFull:
                self._end(session, "not reading")

        async def answer() -> None:
            if session.id not in self._sessions:
                return  # it ended before this began
            reply = await self._server.answer(session, body, push)
            if reply is not None:
                await push(reply.body)

        await _send_empty(send, 202)
        if is_lasting and self._calls is not None:
            self._calls.start_soon(answer)
        else:
            await answer()

    # -- sessions -------------------------------------------------------------------------------------------

    def _admit(self, session: HttpSession) -> None:
        own = [each for each in self._sessions.values() if each.principal == session.principal]
        if len(own) >= self._limits.sessions_each:
            self._end(min(own, key=_rank), "evicted")
        elif len(self._sessions) >= self._limits.sessions:
            # Whoever would have the most makes room, so that nobody can drive out the others.
            counts = Counter(each.principal for each in (session, *self._sessions.values()))
            greedy = counts.most_common(1)[0][0]
            self._end(min((each for each in self._sessions.values() if each.principal == greedy), key=_rank), "evicted")
        self._sessions[session.id] = session
        self._server.hub.subscribe(session.mailbox)
        self._count()

    def _end(self, session: HttpSession, reason: str) -> None:
        if self._sessions.pop(session.id, None) is not None:
            self._server.hub.unsubscribe(session.mailbox)
            self._metrics.sessions_ended.count(reason)
            self._count()
        session.close()
        for call in list(session.in_flight.values()):
            call.cancel()
        session.streams.clear()

    def _count(self) -> None:
        for transport in ("http", "sse"):
            open_now = sum(each.transport == transport for each in self._sessions.values())
            self._metrics.sessions.set(open_now, transport)

    async def _find(self, scope: Scope, send: Send) -> HttpSession | None:
        """The session a request names; an unknown one, or somebody else's, is answered with 404."""
        session = self._sessions.get(_header(scope, b"mcp-session-id") or "")
        if session is None or session.transport != "http" or session.principal != scope["chora.principal"]:
            await _send_json(send, 404, _fault("There is no such session.", "Send initialize to open one."))
            return None
        session.used, session.until = trio.current_time(), scope.get("chora.until")
        return session


def _rank(session: HttpSession) -> tuple[bool, float]:
    return session.rank


# -- reading a request ------------------------------------------------------------------------------------------


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _header(scope: Scope, name: bytes) -> str | None:
    return next(iter(_headers(scope, name)), None)


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None if it isn't one."""
    found = _HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower()


def _origin_host(origin: str) -> str | None:
    return _host_name(origin.partition("://")[2])


def _check_types(scope: Scope) -> tuple[int, bytes] | None:
    """What to refuse a POST with, going by what it sends and what it can take back."""
    content_type = (_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # A form or text/plain post is what a foreign web page can send without asking first.
        return 415, _fault("Post JSON, with Content-Type: application/json.")
    accept = _header(scope, b"accept") or "*/*"
    if not any(kind in accept for kind in ("*/*", "application/*", "application/json")):
        return 406, _fault("The answer is JSON or an event stream.", "Accept application/json, text/event-stream.")
    return None


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, whose size and pace the connection bounds; None if the peer left."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_routing(scope: Scope, incoming: wire.Incoming, params: wire.Params, version: str) -> None:
    """Hold the routing headers to the body, so that nobody on the way is told another story than we are.

    Raises:
        RpcError: -32602 for a body without its envelope, -32020 for a header that says something else.
    """
    meta = params.meta
    if meta is UNSET or meta.version is UNSET or meta.capabilities is UNSET:
        raise RpcError(wire.INVALID_PARAMS, f"params._meta must carry {wire.VERSION_KEY} and {wire.CAPABILITIES_KEY}")
    for name in ROUTING_HEADERS:
        if len(_headers(scope, name)) > 1:
            raise RpcError(wire.HEADER_MISMATCH, f"The header {name.decode()} stands more than once")
    if bytes(meta.version).strip() != msgspec.json.encode(version):
        raise RpcError(wire.HEADER_MISMATCH, "The MCP-Protocol-Version header differs from the body's revision")
    if _header(scope, b"mcp-method") != incoming.method:
        raise RpcError(wire.HEADER_MISMATCH, "The Mcp-Method header differs from the body's method")
    field = wire.NAMED.get(str(incoming.method))
    value = {"name": params.name, "uri": params.uri}.get(field or "", UNSET)
    if value is not UNSET and wire.decode_header(_header(scope, b"mcp-name")) != value:
        raise RpcError(wire.HEADER_MISMATCH, f"The Mcp-Name header differs from the body's {field}")


def _check_mirrored(scope: Scope, params: wire.Params, mirrored: dict[str, str]) -> None:
    """Hold the headers that repeat arguments to the arguments.

    Raises:
        RpcError: -32020 for a header that says something else, is missing, or has nothing to repeat.
    """
    if not mirrored:
        return
    try:
        arguments = {} if params.arguments is UNSET else wire.decode_object(params.arguments)
    except wire.DecodeFailures:
        raise RpcError(wire.INVALID_PARAMS, "The arguments of a tool are an object") from None
    for name, header in mirrored.items():
        value = arguments.get(name)
        said = _headers(scope, header.encode())
        if isinstance(value, str | int | float):
            wanted = [value if isinstance(value, str) else wire.encode(value).decode()]
        else:
            wanted = []
        if [wire.decode_header(each) for each in said] != wanted:
            raise RpcError(wire.HEADER_MISMATCH, f"The {header} header differs from the argument {name}")


# -- writing a response -----------------------------------------------------------------------------------------


async def _write_stream(
    scope: Scope,
    send: Send,
    stream: EventStream,
    after: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Write a stream from some event on to a connection, until one of them ends."""

    async def write(frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    task_status.started()
    with contextlib.suppress(OSError):  # the peer left; it may come back
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        await stream.write(write, after, scope["extensions"]["chora.on_disconnect"])
        await send({"type": "http.response.body", "body": b""})


def _fault(message: str, hint: str | None = None) -> bytes:
    """A refusal of the door itself, in the shape of a JSON-RPC error."""
    return wire.error_response(None, RpcError(wire.INVALID_REQUEST, f"{message} {hint}" if hint else message))


async def _send_json(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})


async def _send_empty(send: Send, status: int) -> None:
    headers = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
