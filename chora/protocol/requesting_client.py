"""The client that made a request, as tools and prompts see it: they can report progress to it and ask it questions.

In handshake revisions a question is a request to the client, and the work waits for its answer. In modern revisions
the work ends with the question as its result, and the client makes the call again with the answers; so a question must
come before anything was done.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import trio
from msgspec import UNSET

from chora.hashing import digest_of
from chora.protocol import wire
from chora.protocol.session import PendingRequest, Session
from chora.protocol.types import InputRequired
from chora.protocol.wire import RequestParams, Revision, RpcError

Notify = Callable[[bytes], Awaitable[None]]

ANSWER_TIMEOUT = 300.0
"""Seconds in which a question has to be answered, in handshake revisions."""
STATE_LIFETIME = 600
"""Seconds after which the state of a question is no longer accepted."""
LOG_QUEUE_LIMIT = 100
"""Log messages of a request that may wait to be sent; when there are more, the oldest are dropped."""

CAPABILITY_OF_METHOD = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""The methods by which a client can be asked, and the capability each needs."""


class Question(NamedTuple):
    """Something to ask a client: a method of `CAPABILITY_OF_METHOD` and its parameters."""

    method: str
    params: dict[str, Any]


class NoAnswer(Exception):
    """The client refused to answer, or didn't answer in time; the message says which."""


class StateSigner:
    """Signs states that a client has to send back, with a key that lives as long as this process."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, state: Any) -> str:
        """The state as an opaque text that `verify` accepts for the same purpose only."""
        body = msgspec.json.encode([int(time.time()) + STATE_LIFETIME, state])
        return base64.urlsafe_b64encode(self._sign(purpose, body) + body).decode()

    def verify(self, purpose: str, text: str) -> Any:
        """The state.

        Raises:
            RpcError: -32602, the text isn't ours, was changed, was signed for another purpose, or is too old.
        """
        try:
            raw = base64.b64decode(text.encode(), b"-_", validate=True)
            # In constant time: the time of a comparison must not say how much of a signature was right (CWE-208).
            is_ours = hmac.compare_digest(raw[:32], self._sign(purpose, raw[32:]))
            if is_ours and base64.urlsafe_b64encode(raw).decode() == text:
                until, state = msgspec.json.decode(raw[32:])
                if time.time() < until:
                    return state
        except (ValueError, UnicodeEncodeError):
            pass
        raise RpcError(wire.INVALID_PARAMS, "The requestState is not one given for this request, or is too old")

    def _sign(self, purpose: str, body: bytes) -> bytes:
        return hmac.digest(self._key, digest_of(purpose).encode() + body, hashlib.sha256)


class RequestingClient:
    """The client that made one request.

    Args:
        session: whose request it is.
        revision: of the request.
        params: of the request.
        purpose: what the request is for; a state signed for another purpose is refused.
        notify: sends a message that belongs to this request; None when the transport can't.
        drop_connection: drops the connection of this request, whose client resumes the stream; None where there is
            none.
        state_signer: signs states.

    Raises:
        RpcError: -32602, the answers or the state that came with the request don't fit.
    """

    def __init__(
        self,
        session: Session,
        revision: Revision,
        params: RequestParams,
        purpose: str,
        notify: Notify | None,
        drop_connection: Callable[[float], Awaitable[None]] | None,
        state_signer: StateSigner,
    ) -> None:
        self._session = session
        self._revision = revision
        self._purpose = purpose
        self._notify = notify
        self._drop_connection = drop_connection
        self._state_signer = state_signer
        self._logs: deque[bytes] = deque(maxlen=LOG_QUEUE_LIMIT)
        self._answers: dict[str, Any] = {}
        self.state: Any = None
        """The signed state of the question that this request answers; None if it answers none."""
        self.progress: Callable[[float, float, str], Awaitable[None]] | None = None
        """Reports progress: done, total, and what was done; None when the client didn't ask for it."""
        meta = params.meta
        if revision.era == "modern":
            assert meta is not UNSET
            self.capabilities = _decode_capabilities(meta.capabilities)
            self.log_level: str | None = None if meta.log_level is UNSET else wire.parse_log_level(meta.log_level)
            if params.input_responses is not UNSET:
                self._answers = _decode_answers(params.input_responses)
            if params.request_state is not UNSET:
                self.state = state_signer.verify(self._state_purpose(), params.request_state)
        else:
            self.capabilities = session.capabilities
            self.log_level = session.log_level
        if notify is not None and meta is not UNSET and meta.progress_token is not UNSET:
            self.progress = _progress_reporter(notify, meta.progress_token)

    def _state_purpose(self) -> str:
        return f"{self._session.principal.name} {self._purpose}"

    # -- asking ---------------------------------------------------------------------------------------------

    def supports(self, method: str) -> bool:
        """Whether the client announced the capability for a method."""
        if method == "elicitation/create":
            given = self.capabilities.get("elicitation")
            # Since 2025-11-25 there are two modes; a client that names neither supports forms.
            forms = isinstance(given, dict) and (not given or "form" in given)
            return forms and self._revision.elicitation and (self._is_modern or self._notify is not None)
        return isinstance(self.capabilities.get(CAPABILITY_OF_METHOD[method]), dict) and (
            self._is_modern or self._notify is not None
        )

    @property
    def _is_modern(self) -> bool:
        return self._revision.era == "modern"

    async def ask_client(self, questions: Mapping[str, Question], state: Any = None) -> dict[str, dict[str, Any]]:
        """Ask the client, and wait for all answers.

        Args:
            questions: by names that the answers come back under.
            state: becomes `state` of the request that brings the answers.

        Raises:
            RpcError: -32021, the client lacks a capability.
            InputRequired: the answers come with another request.
            NoAnswer: the client refused, or didn't answer in time.
        """
        if self._is_modern:
            return self.require_answers(questions, state)
        self._check_capabilities(questions)
        return {name: await self._send_question(question) for name, question in questions.items()}

    def require_answers(self, questions: Mapping[str, Question], state: Any = None) -> dict[str, dict[str, Any]]:
        """The answers that came with this request, in modern revisions.

        Raises:
            RpcError: -32021, the client lacks a capability.
            InputRequired: an answer is missing.
        """
        missing = {name: question for name, question in questions.items() if name not in self._answers}
        if not missing:
            return {name: self._answers[name] for name in questions}
        self._check_capabilities(missing)
        wanted = {name: {"method": question.method, "params": question.params} for name, question in missing.items()}
        result: dict[str, Any] = {"resultType": "input_required", "inputRequests": wanted}
        if state is not None:
            result["requestState"] = self._state_signer.sign(self._state_purpose(), state)
        raise InputRequired(result)

    def _check_capabilities(self, questions: Mapping[str, Question]) -> None:
        lacking: dict[str, Any] = {
            CAPABILITY_OF_METHOD[each.method]: {} for each in questions.values() if not self.supports(each.method)
        }
        if lacking:
            raise RpcError(
                wire.MISSING_CAPABILITY,
                f"This needs a client with the capabilities {', '.join(lacking)}",
                {"requiredCapabilities": lacking},
            )

    async def _send_question(self, question: Question) -> dict[str, Any]:
        assert self._notify is not None
        session = self._session
        session.requests_sent += 1
        number = f"chora-{session.requests_sent}"
        pending = PendingRequest()
        session.pending_requests[number] = pending
        try:
            await self._notify(
                wire.encode({"jsonrpc": "2.0", "id": number, "method": question.method, "params": question.params})
            )
            with trio.move_on_after(ANSWER_TIMEOUT):
                await pending.resolved.wait()
        finally:
            del session.pending_requests[number]
            if not pending.resolved.is_set():
                with trio.move_on_after(1, shield=True):
                    await self._notify(wire.notification("notifications/cancelled", {"requestId": number}))
        if pending.result is None:
            raise NoAnswer(pending.failure or f"there was no answer within {ANSWER_TIMEOUT:g} s")
        return pending.result

    async def confirm(self, message: str, about: Any) -> bool | None:
        """Ask the person at the client for a yes or no; None when they can't be asked, or don't answer.

        Args:
            message: the question.
            about: what the question depends on; if that changes before the answer comes, the question is asked again.
        """
        if not self.supports("elicitation/create"):
            return None
        subject = digest_of(about)
        if self._is_modern and self.state != subject:
            self._answers = {}
        schema = {
            "type": "object",
            "properties": {"confirm": {"type": "boolean", "title": "Yes, do it", "default": False}},
            "required": ["confirm"],
        }
        question = Question("elicitation/create", {"message": message, "requestedSchema": schema})
        try:
            answer = (await self.ask_client({"confirm": question}, subject))["confirm"]
        except NoAnswer:
            return None
        return answer.get("action") == "accept" and answer.get("content") == {"confirm": True}

    # -- log messages -------------------------------------------------------------------------------------

    def queue_log_message(self, level: str, data: Any, logger: str = "chora") -> None:
        """Queue a log message, if the client gets messages of this level. Never waits."""
        if (
            self.log_level is not None
            and self._notify is not None
            and wire.LOG_LEVELS[level] >= wire.LOG_LEVELS[self.log_level]
        ):
            message = {"level": level, "logger": logger, "data": data}
            self._logs.append(wire.notification("notifications/message", message))

    async def flush_log_messages(self) -> None:
        """Send the queued log messages."""
        while self._logs:
            assert self._notify is not None
            await self._notify(self._logs.popleft())

    async def drop_connection(self, retry: float) -> None:
        """Drop the connection, where the request has one of its own and the client can resume its stream.

        Args:
            retry: seconds after which the client is to reconnect.
        """
        if self._drop_connection is not None:
            await self._drop_connection(retry)


def _progress_reporter(notify: Notify, token: int | str) -> Callable[[float, float, str], Awaitable[None]]:
    async def report(done: float, total: float, what: str) -> None:
        await notify(
            wire.notification(
                "notifications/progress", {"progressToken": token, "progress": done, "total": total, "message": what}
            )
        )

    return report


def _decode_capabilities(raw: msgspec.Raw | msgspec.UnsetType) -> dict[str, dict[str, Any]]:
    try:
        return {} if raw is UNSET else wire.decode_capabilities(raw)
    except wire.DECODE_ERRORS:
        raise RpcError(wire.INVALID_PARAMS, f"{wire.CAPABILITIES_KEY} must be an object") from None


def _decode_answers(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        return wire.decode_answers(raw)
    except wire.DECODE_ERRORS:
        raise RpcError(wire.INVALID_PARAMS, "inputResponses must be an object of objects, one per question") from None
