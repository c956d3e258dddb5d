"""MCP on the wire: revisions, envelopes, error codes and names.

Everything that differs between revisions is a column of `REVISIONS`; the next revision is one more row.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from chora.wording import cut_texts


class Revision(NamedTuple):
    """One released revision of the protocol, and its features."""

    name: str
    era: Literal["handshake", "modern"]
    annotations: bool = True
    structured: bool = True
    """Output schemas, titles, structured content, resource links and their modification times."""
    batches: bool = False
    completions: bool = True
    """Whether completion is a capability to announce; the method is older than that."""
    primes_streams: bool = False
    """Whether an event stream begins with an empty event, by whose id a client can resume it from the start."""
    elicitation: bool = True
    """Whether a client can be asked to show its user a form."""


REVISIONS: dict[str, Revision] = {
    revision.name: revision
    for revision in (
        Revision(
            "2024-11-05",
            "handshake",
            annotations=False,
            structured=False,
            batches=True,
            completions=False,
            elicitation=False,
        ),
        Revision("2025-03-26", "handshake", structured=False, batches=True, elicitation=False),
        Revision("2025-06-18", "handshake"),
        Revision("2025-11-25", "handshake", primes_streams=True),
        Revision("2026-07-28", "modern"),
    )
}

HANDSHAKE_REVISIONS = [name for name, revision in REVISIONS.items() if revision.era == "handshake"]
MODERN_REVISIONS = [name for name, revision in REVISIONS.items() if revision.era == "modern"]

# JSON-RPC, then MCP's own.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
RESOURCE_NOT_FOUND = -32002
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

HTTP_STATUS: dict[int, int] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""The status a modern-era error goes out with over HTTP; any other code goes out with 200."""

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"
LEVEL_KEY = "io.modelcontextprotocol/logLevel"

SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"

LOG_LEVELS = {
    name: rank
    for rank, name in enumerate(("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"))
}
"""Log levels and their severity, the least severe first."""

METHOD_ERAS: dict[str, Literal["handshake", "modern"]] = {
    "ping": "handshake",
    "logging/setLevel": "handshake",
    "resources/subscribe": "handshake",
    "resources/unsubscribe": "handshake",
    "server/discover": "modern",
    "subscriptions/listen": "modern",
}
"""Methods of only one era; all others belong to both."""

LONG_RUNNING = (b"/call", b"/listen")
"""Part of every message that may take long to answer; such a message doesn't hold up those behind it.

Only the end of the method, because some encoders write the slash as `\\/`.
"""

NAME_PARAMETERS: dict[str, str] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose target is repeated in the `Mcp-Name` header, and the parameter with the target."""


class IncomingMessage(Struct, frozen=True):
    """Any JSON-RPC message: with method and id a request, with method alone a notification, else a response."""

    jsonrpc: Literal["2.0"]
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET

    @property
    def parameters(self) -> Raw | None:
        """The parameters; some clients send null for none."""
        return None if self.params is UNSET or bytes(self.params) == b"null" else self.params

    @property
    def id_bytes(self) -> bytes | None:
        """The id exactly as it was sent; None on a notification."""
        return None if self.id is UNSET else bytes(self.id).strip()


ID_BYTES = 256
"""Bytes of a request id or a progress token: every message about the request repeats them."""
ShortText = Annotated[str, Meta(max_length=ID_BYTES)]


class RequestMeta(Struct, frozen=True):
    """The part of a request's `_meta` that the server reads."""

    version: Raw | UnsetType = msgspec.field(default=UNSET, name=VERSION_KEY)
    capabilities: Raw | UnsetType = msgspec.field(default=UNSET, name=CAPABILITIES_KEY)
    progress_token: int | ShortText | UnsetType = msgspec.field(default=UNSET, name="progressToken")
    log_level: Any = msgspec.field(default=UNSET, name=LEVEL_KEY)
    traceparent: Raw | UnsetType = UNSET
    trace_id: Raw | UnsetType = UNSET


class RequestParams(Struct, frozen=True):
    """The parameters that any request may carry."""

    meta: RequestMeta | UnsetType = msgspec.field(default=UNSET, name="_meta")
    name: str | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    cursor: str | None = None
    input_responses: Raw | UnsetType = msgspec.field(default=UNSET, name="inputResponses")
    request_state: str | UnsetType = msgspec.field(default=UNSET, name="requestState")


class CompletionReference(Struct, frozen=True):
    """What is completed: an argument of a prompt, or of a resource template."""

    type: Literal["ref/prompt", "ref/resource"]
    name: str = ""
    uri: str = ""


class CompletionArgument(Struct, frozen=True):
    """The argument that is completed, and what the user typed so far."""

    name: str
    value: str


class CompletionContext(Struct, frozen=True):
    """The other arguments, as far as the user filled them in."""

    arguments: dict[str, str] | None = None


class CompleteParams(Struct, frozen=True):
    ref: CompletionReference
    argument: CompletionArgument
    context: CompletionContext | None = None


class SubscriptionFilter(Struct, frozen=True, rename="camel"):
    """The notifications that a subscription asks for."""

    tools_list_changed: bool | None = None
    prompts_list_changed: bool | None = None
    resources_list_changed: bool | None = None
    resource_subscriptions: list[str] | None = None


class ListenParams(Struct, frozen=True):
    notifications: SubscriptionFilter


class InitializeParams(Struct, frozen=True, rename="camel"):
    protocol_version: str
    capabilities: Raw = Raw(b"{}")


class ClientCapabilities(Struct, frozen=True):
    """The capabilities of a client that the server reads."""

    elicitation: Raw | UnsetType = UNSET
    sampling: Raw | UnsetType = UNSET
    roots: Raw | UnsetType = UNSET


class LevelParams(Struct, frozen=True):
    level: str


class CancelledParams(Struct, frozen=True, rename="camel"):
    request_id: Raw | UnsetType = UNSET


class RpcError(Exception):
    """A failure of the protocol itself, answered as a JSON-RPC error; texts in it are cut as in a `ChoraError`."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code = code
        self.message: str = cut_texts(message)
        self.data = cut_texts(data)
        super().__init__(self.message)


encode = msgspec.json.Encoder().encode
decode_incoming = msgspec.json.Decoder(IncomingMessage).decode
decode_batch = msgspec.json.Decoder(list[Raw]).decode
decode_params = msgspec.json.Decoder(RequestParams).decode
decode_initialize = msgspec.json.Decoder(InitializeParams).decode
decode_cancelled = msgspec.json.Decoder(CancelledParams).decode
decode_complete = msgspec.json.Decoder(CompleteParams).decode
decode_listen = msgspec.json.Decoder(ListenParams).decode
decode_level = msgspec.json.Decoder(LevelParams).decode
decode_texts = msgspec.json.Decoder(dict[str, str]).decode
decode_text = msgspec.json.Decoder(str).decode
decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_capabilities = msgspec.json.Decoder(ClientCapabilities).decode
decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
decode_answers = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode
decode_any = msgspec.json.Decoder().decode

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding untrusted JSON may raise: bad UTF-8 and deep nesting don't raise msgspec's own errors."""


def is_long_running(message: bytes) -> bool:
    """Whether a message may take long to answer."""
    return any(word in message for word in LONG_RUNNING)


def decode_capabilities(raw: Raw) -> dict[str, dict[str, Any]]:
    """The capabilities of a client, with nothing in them but what the server reads: a session keeps them.

    Raises:
        msgspec.MsgspecError: they aren't an object. Other `DECODE_ERRORS` as well.
    """
    declared = _decode_capabilities(raw)
    kept: dict[str, dict[str, Any]] = {}
    for name in declared.__struct_fields__:
        value = getattr(declared, name)
        if value is not UNSET and bytes(value).lstrip()[:1] == b"{":
            kept[name] = {}
    if declared.elicitation is not UNSET and "elicitation" in kept:
        modes = decode_members(declared.elicitation)
        kept["elicitation"] = {name: {} for name in ("form", "url") if name in modes} or (
            {"other": {}} if modes else {}
        )
    return kept


def is_id(raw: bytes) -> bool:
    """Whether raw JSON can be a request id: a string or a number, not null, and not too long."""
    return len(raw) <= ID_BYTES and (raw[:1] == b'"' or raw[:1] in b"-0123456789")


def parse_log_level(name: Any) -> str:
    """Check the name of a log level.

    Raises:
        RpcError: -32602, there is no such level.
    """
    if not isinstance(name, str) or name not in LOG_LEVELS:
        raise RpcError(INVALID_PARAMS, f"A log level is one of {', '.join(LOG_LEVELS)}")
    return name


def response(id_bytes: bytes, result: bytes) -> bytes:
    """A JSON-RPC response of an already encoded result."""
    return b'{"jsonrpc":"2.0","id":' + id_bytes + b',"result":' + result + b"}"


def error_response(id_bytes: bytes | None, error: RpcError) -> bytes:
    """A JSON-RPC error; without a known id it is null."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return b'{"jsonrpc":"2.0","id":' + (id_bytes or b"null") + b',"error":' + encode(body) + b"}"


def notification(method: str, params: dict[str, Any]) -> bytes:
    """A JSON-RPC notification."""
    return encode({"jsonrpc": "2.0", "method": method, "params": params})


PLAIN_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
"""A header value that needs no encoding. It has no line breaks, which would start another header (CWE-113)."""
_ENCODED_HEADER_VALUE = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)


def encode_header(value: str) -> str:
    """A value for a header: as it is, or encoded as `=?base64?…?=`."""
    if PLAIN_HEADER_VALUE.fullmatch(value) and not _ENCODED_HEADER_VALUE.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8', 'replace')).decode()}?="


def decode_header(value: str | None) -> str | None:
    """The value of a header that may be encoded; None when the encoding is broken."""
    if value is None or (encoded := _ENCODED_HEADER_VALUE.fullmatch(value)) is None:
        return value
    try:
        decoded = base64.b64decode(encoded[1], validate=True)
        # Only the canonical spelling: a proxy that compares texts must see one name as one text.
        return decoded.decode() if base64.b64encode(decoded).decode() == encoded[1] else None
    except ValueError:  # invalid UTF-8 too
        return None
