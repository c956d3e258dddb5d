"""What is accepted although it isn't what the schemas and the protocol say: one table, with the reason for each row.

Real clients, gateways and form builders send it, and each row can mean only one thing. What is published stays strict.
Each row is read where `where` says; tests cite its id.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple


class Leniency(NamedTuple):
    """One thing that is accepted."""

    where: Literal["connection", "message", "arguments", "responses"]
    """Requests over HTTP, messages on any transport, the arguments of tools, or what chora's own client receives."""
    accepted: str
    meaning: str
    why: str


LENIENCIES: dict[str, Leniency] = {
    "path-slash": Leniency(
        "connection",
        "`/mcp/`, `/sse/`, `/messages`",
        "the same path without, or with, the slash at its end",
        "Servers on Starlette redirect from one to the other, so both are in people's configurations.",
    ),
    "accept-case": Leniency(
        "connection",
        "`Accept` and `Content-Type` in any case",
        "the same in lower case",
        "Media types are case-insensitive, RFC 9110 §8.3.1.",
    ),
    "prefix": Leniency(
        "connection",
        "`/sse` behind a path prefix of a proxy",
        "the endpoint for messages is beside it, as it is announced relative to it",
        "An absolute path leads past the prefix.",
    ),
    "bom": Leniency(
        "message",
        "a byte-order mark before JSON",
        "nothing",
        "Windows tools write one; RFC 8259 §8.1 lets a parser ignore it.",
    ),
    "null-envelope": Leniency(
        "message",
        "null for `params`, `_meta`, `progressToken`, `arguments`, `capabilities` and other optional fields",
        "left out",
        "Serializers of languages without optional fields write every field.",
    ),
    "id-as-text": Leniency(
        "message",
        'an id in a notification or a response as text, `"5"` for 5, or the other way round',
        "the request with this id",
        "Gateways keep ids as text.",
    ),
    "surrogate": Leniency(
        "message",
        "half of a surrogate pair in a text",
        "an error with the id of its request",
        "Programs on UTF-16 cut texts within a character; an error without an id never reaches the call.",
    ),
    "tool-prefix": Leniency(
        "message",
        "`choracompose:` or `choracompose__` before the name of a tool",
        "the tool",
        "Configurations of chora-compose have it.",
    ),
    "json-as-text": Leniency(
        "arguments",
        "the JSON of an object or a list as text",
        "the object or list",
        "Claude Desktop and form builders send objects as text.",
    ),
    "whole-float": Leniency(
        "arguments",
        "`10.0` for a whole number",
        "10",
        "JSON of JavaScript, Lua and protocol buffers has one kind of number.",
    ),
    "value-as-text": Leniency(
        "arguments",
        '`"true"`, `"5"` for a truth value or a number; 0 and 1 for a truth value',
        "true, 5",
        "Form builders have text boxes for what they don't know; n8n turned unions with null into them.",
    ),
    "unset": Leniency(
        "arguments",
        '`null`, `""`, `"null"`, `[]`, `{}` and 0 for an optional argument that can\'t mean that',
        "left out",
        "A form sends its empty fields.",
    ),
    "foreign-arguments": Leniency(
        "arguments",
        "the arguments `tool`, `toolCallId`, `sessionId`, `action` and `chatInput`",
        "left out",
        "Some versions of n8n add what they know of the call.",
    ),
    "response-id": Leniency(
        "responses",
        "a refusal with an id that isn't that of the request, in the response to its POST",
        "the answer to that request",
        'Servers on the Python SDK 1.x refuse with `"id": "server-error"`; others with null, or the id as text.',
    ),
}

FOREIGN_ARGUMENTS = frozenset({"tool", "toolCallId", "sessionId", "action", "chatInput"})
"""Arguments that clients add by themselves, and that no tool has."""

BOM = b"\xef\xbb\xbf"


def without_bom(message: bytes) -> bytes:
    """A message without the byte-order mark before it."""
    return message.removeprefix(BOM)


def is_unset(value: Any) -> bool:
    """Whether a value is what a form sends for an empty field; where it can mean something, it isn't asked."""
    return value is None or (not isinstance(value, bool) and value in ("", "null", [], {}, 0))


def alike_ids(id_bytes: bytes) -> tuple[bytes, bytes]:
    """The spellings of a JSON-RPC id that gateways mix up: a number, and the same as text."""
    if id_bytes[:1] == b'"':
        return id_bytes, id_bytes[1:-1]
    return id_bytes, b'"' + id_bytes + b'"'
