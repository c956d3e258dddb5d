"""The peer as the work for it sees it: who can be told how far it is, and who can be asked.

In revisions with a handshake a question is a request of ours, and the work waits for its answer. In later ones the
work is given up with the question as its result, and the client makes the call again, with the answers; whatever
asks must therefore not have done anything yet.
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
from chora.protocol.session import Session, Waiting
from chora.protocol.types import InputRequired
from chora.protocol.wire import Params, Revision, RpcError

Notify = Callable[[bytes], Awaitable[None]]

ANSWER_TIME = 300.0
"""Seconds that a person gets to answer a question, in revisions with a handshake."""
STATE_TIME = 600
"""Seconds after which a question's state is worth nothing any more."""
WAITING_LOGS = 100
"""Log messages of a request that may wait to be sent; of more, the oldest are dropped."""

CAPABILITIES = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""What a client can be asked for, and the capability that says it can."""


class Question(NamedTuple):
    """Something to ask a client: a method of `CAPABILITIES` and its parameters."""

    method: str
    params: dict[str, Any]


class NoAnswer(Exception):
    """The client refused to answer, or didn't in time; the sentence says which."""


class StateSigner:
    """Signs what a client has to bring back, for as long as this process lives."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, state: Any) -> str:
        """A state as an opaque text that only this purpose can open again."""
        body = msgspec.json.encode([int(time.time()) + STATE_TIME, state])
        return base64.urlsafe_b64encode(self._sign(purpose, body) + body).decode()

    def verify(self, purpose: str, text: str) -> Any:
        """The state.

        Raises:
            RpcError: -32602, it isn't ours, was changed, was given for something else, or is too old.
        """
        try:
            raw = base64.b64decode(text.encode(), b"-_", validate=True)
            if base64.urlsafe_b64encode(raw).decode() == text and hmac.compare_digest(
                raw[:32], self._sign(purpose, raw[32:])
            ):
                until, state = msgspec.json.decode(raw[32:])
                if time.time() < until:
                    return state
        except (ValueError, UnicodeEncodeError):
            pass
        raise RpcError(wire.INVALID_PARAMS, "The requestState is not one given for this request, or is too old")

    def _sign(self, purpose: str, body: bytes) -> bytes:
        return hmac.digest(self._key, digest_of(purpose).encode() + body, hashlib.sha256)


class RequestingClient:
    """Whoever made one request.

    Args:
        session: whose request it is.
        revision: that it is spoken in.
        params: of the request.
        purpose: what the request is about; a state given for another purpose is refused.
        notify: sends a message that belongs to this request; None when the transport can't.
        hang_up: drops the connection of this request, whose client comes back for the rest; None where that has no
            meaning.
        seal: signs states.

    Raises:
        RpcError: -32602, the answers or the state that came with the request don't fit.
    """

    def __init__(
        self,
        session: Session,
        revision: Revision,
        params: Params,
        purpose: str,
        notify: Notify | None,
        hang_up: Callable[[float], Awaitable[None]] | None,
        seal: StateSigner,
    ) -> None:
        self._session = session
        self._revision = revision
        self._purpose = purpose
        self._notify = notify
        self._hang_up = hang_up
        self._seal = seal
        self._logs: deque[bytes] = deque(maxlen=WAITING_LOGS)
        self._answers: dict[str, Any] = {}
        self.state: Any = None
        """What was sealed with the question that this request answers; None if it answers none."""
        self.progress: Callable[[float, float, str], Awaitable[None]] | None = None
        """Tells how far the work is: done, of how many, and what was done; None when nobody asked."""
        meta = params.meta
        if revision.era == "modern":
            assert meta is not UNSET
            self.capabilities = _object(meta.capabilities, wire.CAPABILITIES_KEY)
            self.level: str | None = None if meta.log_level is UNSET else wire.level(meta.log_level)
            if params.input_responses is not UNSET:
                self._answers = _answers(params.input_responses)
            if params.request_state is not UNSET:
                self.state = seal.verify(self._about(), params.request_state)
        else:
            self.capabilities = session.capabilities
            self.level = session.level
        if notify is not None and meta is not UNSET and meta.progress_token is not UNSET:
            self.progress = _progress(notify, meta.progress_token)

    def _about(self) -> str:
        return f"{self._session.principal.name} {self._purpose}"

    # -- asking ---------------------------------------------------------------------------------------------

    def can(self, method: str) -> bool:
        """Whether the client said that it can be asked for this."""
        if method == "elicitation/create":
            given = self.capabilities.get("elicitation")
            # Since 2025-11-25 there are two ways, of which naming none means forms.
            forms = isinstance(given, dict) and (not given or "form" in given)
            return forms and self._revision.elicitation and (self._is_modern or self._notify is not None)
        return isinstance(self.capabilities.get(CAPABILITIES[method]), dict) and (
            self._is_modern or self._notify is not None
        )

    @property
    def _is_modern(self) -> bool:
        return self._revision.era == "modern"

    async def ask(self, questions: Mapping[str, Question], state: Any = None) -> dict[str, dict[str, Any]]:
        """Ask the client, and wait for all answers.

        Args:
            questions: by names of our own.
            state: what `state` is to be when the answers come with another request.

        Raises:
            RpcError: -32021, the client can't be asked for one of these.
            InputRequired: the answers come with another request.
            NoAnswer: they don't come.
        """
        if self._is_modern:
            return self.need(questions, state)
        self._check(questions)
        return {name: await self._ask_one(question) for name, question in questions.items()}

    def need(self, questions: Mapping[str, Question], state: Any = None) -> dict[str, dict[str, Any]]:
        """The answers that came with this request, in revisions without a handshake.

        Raises:
            RpcError: -32021, the client can't be asked for one of these, or it is spoken in another revision.
            InputRequired: an answer is missing.
        """
        missing = {name: question for name, question in questions.items() if name not in self._answers}
        if not missing:
            return {name: self._answers[name] for name in questions}
        self._check(missing)
        wanted = {name: {"method": question.method, "params": question.params} for name, question in missing.items()}
        result: dict[str, Any] = {"resultType": "input_required", "inputRequests": wanted}
        if state is not None:
            result["requestState"] = self._seal.sign(self._about(), state)
        raise InputRequired(result)

    def _check(self, questions: Mapping[str, Question]) -> None:
        lacking: dict[str, Any] = {
            CAPABILITIES[each.method]: {} for each in questions.values() if not self.can(each.method)
        }
        if lacking:
            raise RpcError(
                wire.MISSING_CAPABILITY,
                f"This needs a client with the capabilities {', '.join(lacking)}",
                {"requiredCapabilities": lacking},
            )

    async def _ask_one(self, question: Question) -> dict[str, Any]:
        assert self._notify is not None
        session = self._session
        session.asked += 1
        number = f"chora-{session.asked}"
        waiting = Waiting()
        session.waiting[number] = waiting
        try:
            await self._notify(
                wire.encode({"jsonrpc": "2.0", "id": number, "method": question.method, "params": question.params})
            )
            with trio.move_on_after(ANSWER_TIME):
                await waiting.arrived.wait()
        finally:
            del session.waiting[number]
            if not waiting.arrived.is_set():
                with trio.move_on_after(1, shield=True):
                    await self._notify(wire.notification("notifications/cancelled", {"requestId": number}))
        if waiting.result is None:
            raise NoAnswer(waiting.refusal or f"there was no answer within {ANSWER_TIME:g} s")
        return waiting.result

    async def confirm(self, message: str, about: Any) -> bool | None:
        """Have the person at the client say yes or no; None when they can't be asked, or don't answer.

        Args:
            message: what they are asked.
            about: what the question depends on; when that changed before the answer came, it is asked again.
        """
        if not self.can("elicitation/create"):
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
            answer = (await self.ask({"confirm": question}, subject))["confirm"]
        except NoAnswer:
            return None
        return answer.get("action") == "accept" and answer.get("content") == {"confirm": True}

    # -- telling --------------------------------------------------------------------------------------------

    def log(self, level: str, data: Any, logger: str = "chora") -> None:
        """Have a log message sent, if the client wants ones of this level. Never waits."""
        if self.level is not None and self._notify is not None and wire.LEVELS[level] >= wire.LEVELS[self.level]:
            message = {"level": level, "logger": logger, "data": data}
            self._logs.append(wire.notification("notifications/message", message))

    async def flush(self) -> None:
        """Send the log messages that wait."""
        while self._logs:
            assert self._notify is not None
            await self._notify(self._logs.popleft())

    async def hang_up(self, retry: float) -> None:
        """Drop the connection, where there is one of this request's own and its client can come back for the rest.

        Args:
            retry: seconds after which the client is to come back.
        """
        if self._hang_up is not None:
            await self._hang_up(retry)


def _progress(notify: Notify, token: int | str) -> Callable[[float, float, str], Awaitable[None]]:
    async def tell(done: float, total: float, what: str) -> None:
        await notify(
            wire.notification(
                "notifications/progress", {"progressToken": token, "progress": done, "total": total, "message": what}
            )
        )

    return tell


def _object(raw: msgspec.Raw | msgspec.UnsetType, name: str) -> dict[str, Any]:
    try:
        return {} if raw is UNSET else wire.decode_object(raw)
    except wire.DecodeFailures:
        raise RpcError(wire.INVALID_PARAMS, f"{name} must be an object") from None


def _answers(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        return wire.decode_answers(raw)
    except wire.DecodeFailures:
        raise RpcError(wire.INVALID_PARAMS, "inputResponses must be an object of objects, one per question") from None
