"""The envelope of a message: its JSON-RPC fields, its parameters, its revision and trace id."""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET

from chora.nesting import DEPTH_LIMIT, MESSAGE_VALUES, has_too_many_values, is_json_too_deep
from chora.protocol import wire
from chora.protocol.session import Session
from chora.protocol.wire import IncomingMessage, RequestParams, Revision, RpcError

LISTEN_BYTES = 128 * 1024
"""Bytes of a message that opens a subscription: it is kept as long as that is open."""
TRACE_LIMIT = 128
"""Characters of a trace id that are kept."""

VALUE_BYTES = 256
"""Bytes that a value takes once it is decoded, besides its text, in the two or three forms that a call has it in."""

ID_SEARCHED = 1024
"""Bytes at the beginning and at the end of a message that isn't JSON-RPC in which its id is looked for."""

_ID = re.compile(rb'"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]+)\s*(?=[,}])')
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def parse_message(message: bytes) -> IncomingMessage:
    """Decode the envelope of a message.

    Raises:
        RpcError: -32700 for what isn't JSON, -32600 for what isn't a JSON-RPC message or holds too many values.
    """
    check_values(message)
    if is_json_too_deep(message):
        raise RpcError(wire.PARSE_ERROR, f"The message nests deeper than {DEPTH_LIMIT} levels")
    try:
        incoming = wire.decode_incoming(message)
    except msgspec.ValidationError as error:
        raise RpcError(wire.INVALID_REQUEST, f"The message is not JSON-RPC 2.0: {error}") from None
    except wire.DECODE_ERRORS as error:
        raise RpcError(wire.PARSE_ERROR, f"The message is not JSON: {error}") from None
    if incoming.method is UNSET:
        return incoming  # a response gets no answer, not even an error
    if incoming.method == "subscriptions/listen" and len(message) > LISTEN_BYTES:
        raise RpcError(wire.INVALID_REQUEST, f"A subscription is a message of at most {LISTEN_BYTES:,} bytes")
    if (id_bytes := incoming.id_bytes) is not None and not wire.is_id(id_bytes):
        raise RpcError(
            wire.INVALID_REQUEST, f"A request's id is a string or a number, of at most {wire.ID_BYTES} bytes"
        )
    return incoming


def decoded_bytes(message: bytes) -> int:
    """About the bytes that a message takes once it is decoded, besides its own."""
    separators = message.count(b",") + message.count(b"[") + message.count(b"{")
    return len(message) + VALUE_BYTES * min(separators, MESSAGE_VALUES)


def check_values(message: bytes) -> None:
    """Refuse a message or batch that would take long to decode, before any of it is decoded.

    Raises:
        RpcError: -32600, it holds too many values.
    """
    if has_too_many_values(message, MESSAGE_VALUES):
        raise RpcError(
            wire.INVALID_REQUEST,
            f"The message holds more than {MESSAGE_VALUES:,} values",
            {"code": "limit_exceeded", "hint": "Send fewer values, or write them as the text of one."},
        )


def params_of(incoming: IncomingMessage) -> RequestParams:
    """Decode the parameters of a message.

    Raises:
        RpcError: -32602 when they don't have the shape every request has.
    """
    if incoming.parameters is None:
        return RequestParams()
    try:
        try:
            return wire.decode_params(incoming.parameters)
        except msgspec.ValidationError:
            return wire.decode_params(_without_nulls(incoming.parameters))
    except wire.DECODE_ERRORS as error:
        raise RpcError(wire.INVALID_PARAMS, f"The parameters don't fit: {error}") from None


def _without_nulls(parameters: msgspec.Raw) -> bytes:
    """Parameters without what is null in them and in their `_meta`, which some clients send for nothing."""
    kept = {name: value for name, value in wire.decode_members(parameters).items() if bytes(value) != b"null"}
    if "_meta" in kept:
        meta = wire.decode_members(kept["_meta"])
        kept["_meta"] = msgspec.Raw(wire.encode({name: each for name, each in meta.items() if bytes(each) != b"null"}))
    return wire.encode(kept)


def find_id(message: bytes) -> bytes | None:
    """The id of a request that can't be decoded, so that the refusal reaches the call that waits for it.

    Looked for where clients write it, at the beginning and at the end; an id within the parameters isn't one.
    """
    found = (
        list(_ID.finditer(message[:ID_SEARCHED]))[:2]
        + list(_ID.finditer(message, max(0, len(message) - ID_SEARCHED)))[-2:]
    )
    return next((each[1] for each in found if _is_text_id(each[1]) and _depth(message[: each.start()]) == 1), None)


def _is_text_id(id_bytes: bytes) -> bool:
    try:
        wire.decode_any(id_bytes)
    except wire.DECODE_ERRORS:
        return False
    return wire.is_id(id_bytes)


def _depth(beginning: bytes) -> int:
    """How many objects and arrays are open at the end of the beginning of a message; -1 within a string."""
    pieces = beginning.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    if len(pieces) % 2 == 0:
        return -1
    outside = b"".join(pieces[::2])
    return sum(outside.count(each) for each in (b"{", b"[")) - sum(outside.count(each) for each in (b"}", b"]"))


def revision_of(session: Session, params: RequestParams, method: str) -> Revision:
    """The revision of a request: its own envelope's, else that of the handshake."""
    meta = params.meta
    if meta is UNSET or meta.version is UNSET:
        if session.revision is not None:
            return session.revision
        if method == "ping":
            return wire.REVISIONS[wire.HANDSHAKE_REVISIONS[-1]]
        raise RpcError(
            wire.INVALID_PARAMS,
            f"Send initialize first, or carry {wire.VERSION_KEY} and {wire.CAPABILITIES_KEY} in params._meta",
        )
    if meta.capabilities is UNSET:
        raise RpcError(wire.INVALID_PARAMS, f"params._meta lacks {wire.CAPABILITIES_KEY}")
    if bytes(meta.capabilities).lstrip()[:1] != b"{":
        raise RpcError(wire.INVALID_PARAMS, f"{wire.CAPABILITIES_KEY} must be an object")
    try:
        requested = msgspec.json.decode(meta.version, type=str)
    except msgspec.ValidationError:
        raise RpcError(wire.INVALID_PARAMS, f"{wire.VERSION_KEY} must be a string") from None
    return modern_revision(requested)


def modern_revision(requested: str) -> Revision:
    """The modern revision of this name.

    Raises:
        RpcError: -32022, naming what is supported.
    """
    if requested not in wire.MODERN_REVISIONS:
        raise RpcError(
            wire.UNSUPPORTED_VERSION,
            f"The revision {requested[:40]} is not supported here",
            {"supported": wire.MODERN_REVISIONS, "requested": requested},
        )
    return wire.REVISIONS[requested]


def trace_of(params: RequestParams) -> str | None:
    """The trace id of a request: that of a W3C `traceparent`, else `trace_id` as it is."""
    if params.meta is UNSET:
        return None
    parent, plain = _text_of(params.meta.traceparent), _text_of(params.meta.trace_id)
    if parent and (found := _PARENT.fullmatch(parent)) and found[1].strip("0"):
        return found[1]
    return plain[:TRACE_LIMIT] or None


def _text_of(raw: msgspec.Raw | msgspec.UnsetType) -> str:
    """A JSON string; empty for anything else, which isn't decoded."""
    try:
        return "" if raw is UNSET else wire.decode_text(raw)
    except wire.DECODE_ERRORS:
        return ""
