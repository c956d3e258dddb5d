"""Messages that pass through the bridge, calls that wait for their answer, and failures."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import trio
from msgspec import UNSET, Raw, Struct, UnsetType

from chora.fetch import ResponseTooLarge
from chora.leniency import without_bom
from chora.protocol import wire
from chora.protocol.wire import RpcError
from chora.secrets import redact

log = logging.getLogger("chora.bridge")

BRIDGE_ERROR = -32000
"""The JSON-RPC code of the bridge's own errors: the server gave no answer."""
LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
CANCELLED = "notifications/cancelled"
INITIALIZED = "notifications/initialized"

REPEATABLE_PREFIXES = ("initialize", "ping", "server", "resources", "prompts", "completion", "logging", "subscriptions")
"""The beginnings of methods that may be carried out twice without harm, as may `tools/list`."""

Key = tuple[bool, Any]
"""An id by its value: `1` and `1.0` are equal, `"1"` is another id."""


class BridgedMessage(Struct, frozen=True):
    """The parts of a message that the bridge reads; it passes on the original bytes."""

    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class InitializeResult(Struct, frozen=True, rename="camel"):
    """The parts of the answer to `initialize` that the bridge reads."""

    protocol_version: str
    capabilities: dict[str, Any] = {}


_decode_message = msgspec.json.Decoder(BridgedMessage).decode
_decode_opening = msgspec.json.Decoder(InitializeResult).decode


class NotJson(ValueError):
    """It isn't a JSON-RPC message."""


def split_messages(data: bytes) -> list[tuple[bytes, BridgedMessage]]:
    """The messages in a JSON text, each with its own bytes: one, or those of a batch.

    Raises:
        NotJson: it is something else.
    """
    data = without_bom(data)
    try:
        if not data.isascii():
            data.decode()
        pieces = [bytes(piece) for piece in wire.decode_batch(data)] if data.lstrip()[:1] == b"[" else [data]
        found = [(piece.strip(), _decode_message(piece)) for piece in pieces]
    except wire.DECODE_ERRORS as error:
        raise NotJson(str(error)) from None
    if any(message.method is UNSET and message.result is UNSET and message.error is UNSET for _, message in found):
        raise NotJson("It is neither a request nor a notification nor a response")
    return found


def one_line(message: bytes) -> bytes:
    """A message without line ends; in JSON they can only stand between the tokens."""
    return message.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in message or b"\r" in message else message


def key_of(id: Raw | UnsetType) -> Key | None:
    """The id by its value; None when it is missing or can't be one."""
    if id is UNSET or not wire.is_id(bytes(id).strip()):
        return None
    try:
        value = msgspec.json.decode(id)
    except wire.DECODE_ERRORS:  # a number that is out of range
        return None
    return isinstance(value, str), value


def alike_key(key: Key | None) -> Key | None:
    """The id that a gateway may have made of another one: a number as text, or the number of a text."""
    match key:
        case (False, int(number)):
            return True, str(number)
        case (True, str(text)) if re.fullmatch(r"-?(0|[1-9][0-9]{0,15})", text):
            return False, int(text)
        case _:
            return None


def subscription_of(message: BridgedMessage) -> Key | None:
    """The subscription that a notification belongs to."""
    try:
        found = msgspec.json.decode(b"{}" if message.params is UNSET else message.params, type=_SubscriptionParams)
    except wire.DECODE_ERRORS:
        return None
    return key_of(found.meta.subscription)


class _SubscriptionMeta(Struct, frozen=True):
    subscription: Raw | UnsetType = msgspec.field(default=UNSET, name=wire.SUBSCRIPTION_KEY)


class _SubscriptionParams(Struct, frozen=True):
    meta: _SubscriptionMeta = msgspec.field(default_factory=_SubscriptionMeta, name="_meta")


def read_initialize_result(message: BridgedMessage) -> InitializeResult:
    """The answer to `initialize`.

    Raises:
        Failed: it isn't one.
    """
    try:
        return _decode_opening(b"" if message.result is UNSET else message.result)
    except wire.DECODE_ERRORS:
        raise CallFailure("The server's answer to initialize names no revision of the protocol.") from None


class CallFailure(Exception):
    """There is no answer; the client gets an error that says why, and what to do.

    Args:
        message, hint: sentences.
        retryable: the same call may succeed later.
        carried_out: whether the server may have carried out the request.
    """

    def __init__(self, message: str, hint: str = "", *, retryable: bool = False, carried_out: bool = False) -> None:
        super().__init__(redact(message))
        self.message = redact(message)
        self.hint = hint
        self.retryable = retryable
        self.carried_out = carried_out

    def error_response(self, id: bytes) -> bytes:
        """The JSON-RPC error that the client gets instead of an answer."""
        text = f"{self.message} {self.hint}".strip()
        return wire.error_response(id, RpcError(BRIDGE_ERROR, text, {"mayHaveBeenCarriedOut": self.carried_out}))


class UpstreamUnreachable(CallFailure):
    """The server can't be reached; nothing was carried out."""


class ConnectionLost(CallFailure):
    """The connection broke before the answer was complete."""

    def __init__(self, where: object, why: object) -> None:
        super().__init__(
            f"The connection to {where} broke before the answer was complete: {why}.",
            "Make the call again; this one may have been carried out already.",
            retryable=True,
            carried_out=True,
        )


class TransportNotFound(CallFailure):
    """The server doesn't speak this transport at this address.

    Args:
        error: the server's own answer, if that is a JSON-RPC error.
    """

    def __init__(self, message: str, hint: str, error: tuple[bytes, BridgedMessage] | None = None) -> None:
        super().__init__(message, hint)
        self.error = error


def too_large(failed: ResponseTooLarge) -> CallFailure:
    """The failure of a call whose answer is too long."""
    hint = "Ask for less at once, or allow more with --limit. It was carried out."
    return CallFailure(f"The answer can't be passed on: {failed}.", hint, carried_out=True)


def too_much() -> CallFailure:
    """The failure of a call whose answer finds no room beside those of other calls."""
    hint = "Make fewer calls at once, or ask for less. It was carried out."
    return CallFailure("The answer can't be passed on: too much arrives at once.", hint, carried_out=True)


def not_mcp(where: object, kind: str, data: bytes) -> CallFailure:
    """The failure of a call whose answer is no message."""
    if kind in ("text/html", "application/xhtml+xml") or data.lstrip()[:1] == b"<":
        what = "a web page"
    else:
        what = f"something that is no message of MCP ({kind[:60] or 'of no type'})"
    hint = "Check the address: it should be the server's MCP endpoint, often /mcp or /sse."
    return CallFailure(f"{where} answers with {what}.", hint, carried_out=True)


class PendingCall:
    """A request, its state and its answer.

    Args:
        line: the message as it is sent.
        internal: sent by the bridge itself, so that the answer isn't for the client.
    """

    def __init__(self, line: bytes, message: BridgedMessage, *, internal: bool = False) -> None:
        assert message.id is not UNSET
        assert message.method is not UNSET
        self.line = line
        self.id = bytes(message.id).strip()
        self.key = key_of(message.id)
        self.method = message.method
        self.internal = internal
        self.scope = trio.CancelScope()
        self.sent = False
        """Whether the server may have received it."""
        self.cancelled = False
        """Whether the client cancelled it."""
        self.answer: BridgedMessage | None = None
        self.failure: CallFailure | None = None
        self.ended = trio.Event()
        """Set with the answer, and with the failure where the answer comes another way than the request went."""
        self.on_answer: Callable[[BridgedMessage], None] | None = None
        """Called with the answer before the client gets it."""
        self.acknowledged = False
        """Whether the server has acknowledged the subscription."""
        self.resumed = False
        """Whether the subscription was opened again and isn't acknowledged again yet."""
        try:
            self.params = wire.RequestParams() if message.params is UNSET else wire.decode_params(message.params)
        except wire.DECODE_ERRORS:  # the server's error will say what is wrong
            self.params = wire.RequestParams()
        self.repeatable = self.method == "tools/list" or self.method.partition("/")[0] in REPEATABLE_PREFIXES
        self.version = _version(self.params)
        """The revision that a request of the modern era names; None in the handshake era."""

    def succeed(self, answer: BridgedMessage) -> None:
        """Record the answer."""
        self.answer = answer
        self.ended.set()

    def fail(self, failure: CallFailure) -> None:
        """Record that there will be no answer."""
        self.failure = failure
        self.ended.set()


def _version(params: wire.RequestParams) -> str | None:
    if params.meta is UNSET or params.meta.version is UNSET:
        return None
    try:
        return msgspec.json.decode(params.meta.version, type=str)
    except wire.DECODE_ERRORS:
        return None


class SessionMemory:
    """The requests that bring a restarted server into the state that the client expects."""

    def __init__(self) -> None:
        self.initialize_line: bytes | None = None
        """The client's `initialize`, once it was answered."""
        self.initialized_line: bytes | None = None
        self.log_level_line: bytes | None = None
        """The client's last `logging/setLevel`."""
        self.subscriptions: dict[str, bytes] = {}
        self.initialize_result: InitializeResult | None = None

    def remember(self, call: PendingCall, answer: BridgedMessage) -> None:
        """Remember a request that changed the server's state."""
        if answer.result is UNSET:
            return
        match call.method:
            case "initialize" if call.internal:
                self._compare_results(read_initialize_result(answer))
            case "initialize":
                self.initialize_line, self.initialized_line, self.log_level_line, self.subscriptions = (
                    call.line,
                    None,
                    None,
                    {},
                )
                self.initialize_result = read_initialize_result(answer)
            case "logging/setLevel":
                self.log_level_line = call.line
            case "resources/subscribe" if call.params.uri is not UNSET:
                self.subscriptions[call.params.uri] = call.line
            case "resources/unsubscribe" if call.params.uri is not UNSET:
                self.subscriptions.pop(call.params.uri, None)
            case _:
                pass

    def _compare_results(self, now: InitializeResult) -> None:
        before, self.initialize_result = self.initialize_result, now
        if before is not None and before.protocol_version != now.protocol_version:
            log.warning(
                "the server's protocol version has changed from %s to %s; reconnect the client if it behaves oddly",
                before.protocol_version,
                now.protocol_version,
            )
        if before is not None and before.capabilities != now.capabilities:
            log.warning("the server's capabilities have changed; reconnect the client to make it see them")

    def replayed_requests(self) -> list[PendingCall]:
        """The requests to repeat after the handshake."""
        lines = [*([self.log_level_line] if self.log_level_line else []), *self.subscriptions.values()]
        return [PendingCall(line, _decode_message(line), internal=True) for line in lines]

    def replayed_initialize(self) -> PendingCall:
        """The `initialize` request, to be sent again."""
        assert self.initialize_line is not None
        return PendingCall(self.initialize_line, _decode_message(self.initialize_line), internal=True)

    def change_notifications(self) -> list[bytes]:
        """Notifications of everything that may have changed while the server was away."""
        capabilities = self.initialize_result.capabilities if self.initialize_result else {}
        changed = [
            wire.notification(f"notifications/{name}/list_changed", {})
            for name in ("tools", "resources", "prompts")
            if isinstance(offer := capabilities.get(name), dict) and offer.get("listChanged")  # pyright: ignore[reportUnknownMemberType]
        ]
        return changed + [
            wire.notification("notifications/resources/updated", {"uri": uri}) for uri in self.subscriptions
        ]


class Backoff:
    """Growing pauses between attempts, 0.1 s to 5 s, with jitter; they start anew after 30 s without an attempt."""

    LONGEST_PAUSE = 5.0

    def __init__(self) -> None:
        self._pause = 0.1
        self._last = trio.current_time()

    def next_pause(self) -> float:
        """Seconds to wait before the next attempt."""
        now = trio.current_time()
        if now - self._last > 30:
            self._pause = 0.1
        pause, self._last = self._pause, now
        self._pause = min(pause * 2, self.LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - keeps many bridges from reconnecting at once
