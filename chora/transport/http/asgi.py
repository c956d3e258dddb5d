"""Reading requests and sending responses of an ASGI app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chora.leniency import without_bom
from chora.peer_memory import Holding
from chora.protocol import wire
from chora.protocol.wire import RpcError
from chora.transport.connection import RETRY_AFTER

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Scope = dict[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PRINCIPAL = "chora.principal"
"""The key of a scope with the principal of the request."""
EXPIRES_AT = "chora.expires_at"
"""The key of a scope with the time at which the request's token expires, if it does."""

JSON = (b"content-type", b"application/json")


def header_values(scope: Scope, name: bytes) -> list[str]:
    """The values of all headers of this name, which is written in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def header_value(scope: Scope, name: bytes) -> str | None:
    """The value of the first header of this name."""
    return next(iter(header_values(scope, name)), None)


def holding_of(scope: Scope) -> Holding:
    """What is held for an exchange."""
    return scope["extensions"]["chora.holding"]


async def read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, whose size and pace the connection bounds; None if the client disconnected.

    Raises:
        Busy: the account of what is held for peers has no room for it.
    """
    holding = holding_of(scope)
    body = bytearray()  # a list of pieces of one byte each would take forty times as much
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        holding.charge(len(piece))
        if not message.get("more_body", False):
            return without_bom(bytes(body + piece) if body else piece)
        body += piece


def without_body(receive: Receive) -> Receive:
    """`receive` for an app that wants no body: frameworks read it all the same, and keep it uncounted."""
    is_first = True

    async def receive_end() -> dict[str, Any]:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return receive_end


async def send_json(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})


async def send_busy(send: Send, body: bytes) -> None:
    """A refusal for want of room, which says when to come again (RFC 9110 §15.6.4)."""
    await send_json(send, 503, body, [(b"retry-after", str(RETRY_AFTER).encode())])


async def send_empty(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    length = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": b""})


def error_body(message: str, hint: str | None = None) -> bytes:
    """A refusal of the transport itself, in the shape of a JSON-RPC error."""
    return wire.error_response(None, RpcError(wire.INVALID_REQUEST, f"{message} {hint}" if hint else message))
