"""The headers of a POST to /mcp: its media types, and the headers that repeat parts of its body."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from chora.protocol import wire
from chora.protocol.wire import RpcError
from chora.transport.http.asgi import Scope, error_body, header_value, header_values

ROUTING_HEADERS = (b"mcp-protocol-version", b"mcp-method", b"mcp-name")


def check_media_types(scope: Scope) -> tuple[int, bytes] | None:
    """The status and body to refuse a POST with whose Content-Type or Accept doesn't fit; None if both do."""
    content_type = (header_value(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # A page of another origin may post forms and text/plain without a CORS preflight, but not JSON (CWE-352).
        return 415, error_body("Post JSON, with Content-Type: application/json.")
    accept = (header_value(scope, b"accept") or "*/*").lower()
    if not any(kind in accept for kind in ("*/*", "application/*", "application/json")):
        return 406, error_body("The answer is JSON or an event stream.", "Accept application/json, text/event-stream.")
    return None


def accepts_event_stream(scope: Scope) -> bool:
    return "text/event-stream" in (header_value(scope, b"accept") or "").lower()


def check_routing_headers(
    scope: Scope, incoming: wire.IncomingMessage, params: wire.RequestParams, version: str
) -> None:
    """Compare the routing headers with the body, so that a proxy can't be told something else than we are.

    Raises:
        RpcError: -32602 for a body without its envelope, -32020 for a header that differs from the body.
    """
    meta = params.meta
    if meta is UNSET or meta.version is UNSET or meta.capabilities is UNSET:
        raise RpcError(wire.INVALID_PARAMS, f"params._meta must carry {wire.VERSION_KEY} and {wire.CAPABILITIES_KEY}")
    for name in ROUTING_HEADERS:
        if len(header_values(scope, name)) > 1:
            raise RpcError(wire.HEADER_MISMATCH, f"The header {name.decode()} stands more than once")
    if bytes(meta.version).strip() != msgspec.json.encode(version):
        raise RpcError(wire.HEADER_MISMATCH, "The MCP-Protocol-Version header differs from the body's revision")
    if header_value(scope, b"mcp-method") != incoming.method:
        raise RpcError(wire.HEADER_MISMATCH, "The Mcp-Method header differs from the body's method")
    field = wire.NAME_PARAMETERS.get(str(incoming.method))
    value = {"name": params.name, "uri": params.uri}.get(field or "", UNSET)
    if value is not UNSET and wire.decode_header(header_value(scope, b"mcp-name")) != value:
        raise RpcError(wire.HEADER_MISMATCH, f"The Mcp-Name header differs from the body's {field}")


def check_parameter_headers(scope: Scope, params: wire.RequestParams, headers: dict[str, str]) -> None:
    """Compare the headers that repeat arguments with the arguments.

    Args:
        scope, params: the request.
        headers: the header of each argument that is repeated.

    Raises:
        RpcError: -32020 for a header that differs from its argument, is missing, or has no argument.
    """
    if not headers:
        return
    try:
        arguments = {} if params.arguments is UNSET else wire.decode_object(params.arguments)
    except wire.DECODE_ERRORS:
        raise RpcError(wire.INVALID_PARAMS, "The arguments of a tool are an object") from None
    for name, header in headers.items():
        value = arguments.get(name)
        if isinstance(value, str | int | float):
            expected = [value if isinstance(value, str) else wire.encode(value).decode()]
        else:
            expected = []
        if [wire.decode_header(each) for each in header_values(scope, header.encode())] != expected:
            raise RpcError(wire.HEADER_MISMATCH, f"The {header} header differs from the argument {name}")
