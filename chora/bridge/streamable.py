"""The server's side over Streamable HTTP: one POST a message, in both eras.

In the handshake era there is a session, which the bridge keeps: it opens the GET stream, resumes streams that break,
and when the server has forgotten the session it opens another one and tells it what the old one knew.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import msgspec
import trio
from msgspec import Raw

from chora.bridge.messages import (
    Backoff,
    Call,
    Failed,
    Lost,
    Message,
    NotHere,
    Unreachable,
    read_opening,
    split,
)
from chora.bridge.parameter_headers import ParameterHeaders
from chora.bridge.upstream import Upstream, code_of
from chora.fetch import EventReader, FetchFailed, Response, ResponseTooLarge
from chora.protocol import wire

if TYPE_CHECKING:
    from chora.bridge.client import Bridge

log = logging.getLogger("chora.bridge")

BOTH = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
STREAM = [("accept", "text/event-stream")]
GREETING_TIME = 30.0  # seconds for a server to open a new session in the place of one that it has forgotten
LEAVE_TIME = 2.0  # seconds for a server to end a session
NOTICE_TIME = 30.0  # seconds for the server to accept a notification
REST_TIME = 1.0  # seconds that a stream may take to end after the answer
SHORTEST_RETRY, LONGEST_RETRY = 0.1, 30.0  # seconds that a server may have us wait before we resume a stream
PAGES = 20  # of a list of tools
MODERN_ERRORS = {wire.HEADER_MISMATCH, -32021, wire.UNSUPPORTED_VERSION, wire.METHOD_NOT_FOUND, wire.INVALID_PARAMS}
"""What a refusal in the modern era can say; whoever says so speaks Streamable HTTP."""

_VISIBLE = re.compile(r"[!-~]{1,1024}")
_FORGOTTEN = re.compile(r"session|not initialized", re.IGNORECASE)


class Session:
    """What the handshake led to."""

    def __init__(self, id: str | None, version: str) -> None:
        self.id = id
        self.version = version
        self.forgotten = False
        """Whether the server knows it no more."""
        self.listening: trio.CancelScope | None = None
        """What its own stream is read in, once it is."""

    def stop_listening(self) -> None:
        """Close its own stream."""
        if self.listening is not None:
            self.listening.cancel()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What every message within the session bears."""
        version = [("mcp-protocol-version", self.version)] if _VISIBLE.fullmatch(self.version) else []
        return version + ([("mcp-session-id", self.id)] if self.id else [])


class Trail:
    """How far a stream was read, and when to come back to it."""

    def __init__(self) -> None:
        self.last: str | None = None
        self.retry: float | None = None


class Streamable:
    """A server reached over Streamable HTTP.

    Args:
        bridge: who gets what the server says.
        link: the way to it.
    """

    def __init__(self, bridge: Bridge, link: Upstream) -> None:
        self._bridge = bridge
        self._link = link
        self._mirrors = ParameterHeaders()
        self._session: Session | None = None
        self._renewed: Session | None = None
        self._renewing = trio.Lock()
        self._streams = False
        """Whether it ever offered a session a stream; one that never did may say 404 for that alone."""

    def cancels_by_closing(self, call: Call) -> bool:
        """Whether the server learns that a call is cancelled from the end of its connection."""
        return call.version is not None

    async def carry(self, call: Call) -> None:
        """Have a call answered.

        Raises:
            Failed: it won't be.
        """
        opening = call.method == "initialize"
        if opening:
            await self._leave_session()
        for _ in range(2):
            session = None if call.version or opening else await self._current()
            if not await self._exchange(call, session):
                return
        raise Failed(f"{self._link.address} forgets every session at once.", "Its log may say why.", again=True)

    async def tell(self, line: bytes) -> None:
        """Pass on a message that has no answer; what becomes of it only the log says."""
        with trio.move_on_after(NOTICE_TIME) as limit:
            try:
                for _ in range(2):
                    session = await self._current()
                    if not await self._tell(line, session):
                        return
            except Failed as failed:
                log.warning("a message was not delivered: %s", failed)
        if limit.cancelled_caught:
            log.warning("a message was not delivered: %s doesn't accept it", self._link.address)

    async def leave(self) -> None:
        """End the session."""
        await self._leave_session()

    # -- one message ----------------------------------------------------------------------------------------

    async def _exchange(self, call: Call, session: Session | None) -> bool:
        """Post a request and pass on what comes back; true if it is to be sent again, in another session."""
        call.under_way = True
        relisted = False
        while True:
            mirrored = self._mirrors.headers(call) if call.version else []
            headers = [*BOTH, *(session.headers if session else []), *mirrored]
            patience = self._bridge.patience(call)
            response = await self._link.ask("POST", headers, call.line, patience=patience, repeatable=call.repeatable)
            async with response:
                if 200 <= response.status < 300:
                    self._bridge.settle(self)
                    await self._take_answer(call, response, session)
                    return False
                body, error = await self._link.read_refusal(response)
                if session is not None and _is_forgotten(response.status, session, error):
                    session.forgotten = True
                    return True
                code = 0 if error is None else code_of(error)
                if code == wire.HEADER_MISMATCH and call.version and call.method == "tools/call" and not relisted:
                    relisted = True  # perhaps for want of parameters in the headers: that stands in the list of tools
                else:
                    await self._pass_on_refusal(call, response, body, error, code)
                    return False
            await self._list_tools(call)

    async def _pass_on_refusal(
        self, call: Call, response: Response, body: bytes, error: Message | None, code: int
    ) -> None:
        refused = self._link.refused(response)
        if not self._bridge.settled and response.status in (400, 404, 405) and code not in MODERN_ERRORS:
            # An error of JSON-RPC comes from a server of another era as well; its client will try `initialize` next.
            if error is None or call.method == "initialize":
                raise NotHere(refused.message, refused.hint, said=(body, error) if error else None)
        elif error is not None:
            self._bridge.settle(self)
        if error is None:
            raise refused
        await self._deliver(body, call)

    async def _take_answer(self, call: Call, response: Response, session: Session | None) -> None:
        if call.method == "initialize":
            call.noticing = lambda answer: self._begin_session(call, response, answer)
        if response.kind == "text/event-stream":
            await self._follow(call, response, session)
            return
        try:
            body = await response.read(self._bridge.options.answer_limit)
        except ResponseTooLarge as failed:
            raise too_large(failed) from None
        except FetchFailed as failed:
            raise Lost(self._link.address, failed) from failed
        if body.strip():
            await self._deliver(body, call, response.kind)
        if call.answer is None and not call.cancelled:
            raise Failed(
                f"{self._link.address} accepted the request without answering it (HTTP {response.status}).",
                "It may have been carried out; the server's log may say more.",
                carried_out=True,
            )

    async def _deliver(self, data: bytes, call: Call, kind: str = "") -> None:
        """Pass on what came as the answer to a call."""
        try:
            messages = split(data)
        except ValueError:
            raise not_mcp(self._link.address, kind, data) from None
        for line, message in messages:
            await self._bridge.deliver(self._filtered(line, message, call), message, {}, call)
        if call.failure is not None:
            raise call.failure

    def _filtered(self, line: bytes, message: Message, call: Call) -> bytes:
        is_list = call.version is not None and call.method == "tools/list" and message.method is msgspec.UNSET
        return self._mirrors.learn(line, message) if is_list else line

    # -- streams --------------------------------------------------------------------------------------------

    async def _follow(self, call: Call, response: Response, session: Session | None) -> None:
        """Pass on a stream until it has brought the answer, resuming it where it breaks if that can be done."""
        trail = Trail()
        why = await self._read_stream(response, trail, call)
        pause = Backoff()
        while why is not None and not call.cancelled:
            if session is None or trail.last is None:
                raise Lost(self._link.address, why)
            await trio.sleep(pause.next() if trail.retry is None else trail.retry)
            headers = [*STREAM, *session.headers, ("last-event-id", trail.last)]
            try:
                again = await self._link.ask("GET", headers, patience=self._bridge.options.patience)
            except Failed:
                raise Lost(self._link.address, why) from None
            async with again:
                if again.status != 200 or again.kind != "text/event-stream":
                    raise Lost(self._link.address, why)
                why = await self._read_stream(again, trail, call)

    async def _read_stream(self, response: Response, trail: Trail, call: Call | None) -> str | None:
        """Pass on what a stream brings; why it ended before it brought the call's answer, or None."""
        events = EventReader(response, self._bridge.options.answer_limit)
        try:
            while (event := await events.receive()) is not None:
                if event.id is not None:
                    trail.last = event.id if re.fullmatch(r"[ -~]{1,1024}", event.id) else None
                if event.data and event.kind == "message":
                    if call is None:
                        await self._deliver_news(event.data)
                    else:
                        await self._deliver(event.data, call, response.kind)
                        if call.answer is not None:
                            with trio.move_on_after(REST_TIME):
                                await response.drain()
                            return None
        except ResponseTooLarge as failed:
            raise too_large(failed) from None
        except FetchFailed as failed:
            return str(failed) if call is None or call.answer is None else None
        finally:
            if events.retry is not None:
                trail.retry = max(SHORTEST_RETRY, min(events.retry, LONGEST_RETRY))
        return "the server ended the stream"

    async def _deliver_news(self, data: bytes) -> None:
        """Pass on what the server says of itself; what can't be understood there costs nobody an answer."""
        try:
            for line, message in split(data):
                await self._bridge.deliver(line, message, self._bridge.calls)
        except ValueError:
            log.warning("%s sends what is no message of MCP", self._link.address)

    async def _listen(self, session: Session, scope: trio.CancelScope) -> None:
        """A service: keep the GET stream of a session open, and notice when the server has forgotten it."""
        trail, pause = Trail(), Backoff()
        with scope:
            while True:
                headers = [*STREAM, *session.headers, *([("last-event-id", trail.last)] if trail.last else [])]
                try:
                    if not session.forgotten:
                        response = await self._link.ask("GET", headers)
                        async with response:
                            if response.status == 200 and response.kind == "text/event-stream":
                                self._streams = True
                                why = await self._read_stream(response, trail, None)
                                log.debug("the stream of the session ended: %s", why)
                            elif self._streams and _is_forgotten(response.status, session, None):
                                session.forgotten = True
                            elif response.status < 500:
                                log.debug("the server offers no stream (HTTP %d)", response.status)
                                return
                    if session.forgotten:
                        await self._renew(session)
                        return
                except (Unreachable, Lost) as failed:
                    log.debug("%s", failed)
                except Failed as failed:
                    log.warning("the stream of the session was given up: %s", failed)
                    return
                await trio.sleep(max(pause.next(), trail.retry or 0.0))

    # -- sessions -------------------------------------------------------------------------------------------

    def _begin_session(self, call: Call, response: Response, answer: Message) -> None:
        if answer.result is msgspec.UNSET:
            return
        id = response.header("mcp-session-id")
        if id is not None and not _VISIBLE.fullmatch(id):
            log.warning("the server's session id is none; going on without")
            id = None
        session = Session(id, read_opening(answer).protocol_version)
        if call.quiet:  # it isn't everybody's before it knows everything
            self._renewed = session
        else:
            self._session = session

    async def _current(self) -> Session | None:
        session = self._session
        return await self._renew(session) if session is not None and session.forgotten else session

    async def _renew(self, old: Session) -> Session | None:
        """Open a new session in the place of one that the server has forgotten."""
        memory = self._bridge.memory
        async with self._renewing:
            if self._session is not old:
                return self._session
            log.warning("%s has forgotten our session; opening a new one", self._link.address)
            with trio.move_on_after(GREETING_TIME):
                self._session = await self._greet()
            if self._session is old:
                raise Unreachable(
                    f"{self._link.address} doesn't open a new session.", "Make the call again.", again=True
                )
            session = self._session
        if memory.initialized is not None:
            self.listen()
        for line in memory.news():
            await self._bridge.send(line)
        old.stop_listening()
        return session

    async def _greet(self) -> Session:
        """A new session that has been told what the old one knew."""
        memory = self._bridge.memory
        greeting = memory.greeting()
        await self._exchange(greeting, None)
        session, self._renewed = self._renewed, None
        if session is None:
            raise Failed(f"{self._link.address} refuses a new session.", "Its log may say why.", again=True)
        if memory.initialized is not None:
            await self._tell(memory.initialized, session)
        for call in memory.requests():
            await self._exchange(call, session)
        return session

    async def _tell(self, line: bytes, session: Session | None) -> bool:
        """Post a message without an answer; true if the server has forgotten the session."""
        headers = [*BOTH, *(session.headers if session else [])]
        response = await self._link.ask("POST", headers, line, patience=self._bridge.options.patience)
        async with response:
            if response.status >= 400:
                _, error = await self._link.read_refusal(response)
                if session is not None and _is_forgotten(response.status, session, error):
                    session.forgotten = True
                    return True
                log.warning("a message was not accepted: %s", self._link.refused(response))
            return False

    def listen(self) -> None:
        """Open the session's own stream."""
        session = self._session
        if session is not None and session.listening is None:
            session.listening = trio.CancelScope()
            self._bridge.services.start_soon(self._listen, session, session.listening)

    async def _leave_session(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.stop_listening()
        if session.id is not None and not session.forgotten:
            with trio.move_on_after(LEAVE_TIME):
                try:
                    async with await self._link.ask("DELETE", session.headers):
                        return
                except Failed as failed:
                    log.debug("the session wasn't ended: %s", failed)

    # -- tools that want parameters repeated in headers --------------------------------------------------------

    async def _list_tools(self, call: Call) -> None:
        """Ask for the tools in the name of a call, to learn what headers they want."""
        whole = msgspec.json.decode(call.line, type=dict[str, Raw])
        envelope = msgspec.json.decode(whole["params"], type=dict[str, Raw])["_meta"]
        cursor: str | None = None
        for page in range(PAGES):
            params = {"_meta": envelope, **({"cursor": cursor} if cursor is not None else {})}
            line = wire.encode({"jsonrpc": "2.0", "id": f"chora-{page}", "method": "tools/list", "params": params})
            ((_, message),) = split(line)
            asked = Call(line, message, quiet=True)
            await self._exchange(asked, None)
            if asked.answer is None or asked.answer.result is msgspec.UNSET:
                return
            try:
                cursor = msgspec.json.decode(asked.answer.result, type=_Page).next_cursor
            except wire.DecodeFailures:
                return
            if cursor is None:
                return


class _Page(msgspec.Struct, rename="camel"):
    next_cursor: str | None = None


def _is_forgotten(status: int, session: Session, error: Message | None) -> bool:
    """Whether an answer says that there is no such session; some servers say so with 400 and words."""
    if session.id is None:
        return False
    words = b"" if error is None or error.error is msgspec.UNSET else bytes(error.error)
    return status == 404 or (status == 400 and _FORGOTTEN.search(words.decode("utf-8", "replace")) is not None)


def too_large(failed: ResponseTooLarge) -> Failed:
    """What a client is told of an answer that is too long."""
    hint = "Ask for less at once, or allow more with --limit. It was carried out."
    return Failed(f"The answer can't be passed on: {failed}.", hint, carried_out=True)


def not_mcp(where: object, kind: str, data: bytes) -> Failed:
    """What a client is told of an answer that is no message."""
    if kind in ("text/html", "application/xhtml+xml") or data.lstrip()[:1] == b"<":
        what = "a web page"
    else:
        what = f"something that is no message of MCP ({kind[:60] or 'of no type'})"
    hint = "Check the address: it should be the server's MCP endpoint, often /mcp or /sse."
    return Failed(f"{where} answers with {what}.", hint, carried_out=True)
