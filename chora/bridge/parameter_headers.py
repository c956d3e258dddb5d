"""The parts of a message that are repeated in HTTP headers, so that proxies needn't read the body."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw

from chora.bridge.messages import BridgedMessage, PendingCall
from chora.protocol import wire

log = logging.getLogger("chora.bridge")

ANNOTATION = "x-mcp-header"
"""The key in a parameter's schema that asks for a header, and names it."""

TOOLS_LIMIT = 10_000  # tools whose headers are remembered
HEADERS_LIMIT = 100  # of one tool: they have to fit into the head of a request

Path = tuple[str, ...]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_DATA = ("default", "examples", "const", "enum")


class ParameterHeaders:
    """The headers of requests in the modern era; learns from `tools/list` which parameters tools repeat in headers."""

    def __init__(self) -> None:
        self._tools: dict[str, dict[Path, str]] = {}

    def request_headers(self, call: PendingCall) -> list[tuple[str, str]]:
        """The headers that repeat parts of a request."""
        found: list[tuple[str, str]] = []
        for name, value in (("mcp-protocol-version", call.version or ""), ("mcp-method", call.method)):
            if wire.PLAIN_HEADER_VALUE.fullmatch(value):  # the server's error for any other value is better than ours
                found.append((name, value))
        params = call.params
        target = {"name": params.name, "uri": params.uri}.get(wire.NAME_PARAMETERS.get(call.method, ""), UNSET)
        if target is not UNSET:
            found.append(("mcp-name", wire.encode_header(target)))
        wanted = self._tools.get(str(target)) if call.method == "tools/call" else None
        if wanted and params.arguments is not UNSET:
            try:
                arguments = msgspec.json.decode(params.arguments)
            except wire.DECODE_ERRORS:  # a number that is out of range
                return found
            for path, header in wanted.items():
                if (text := _header_text(_value_at(arguments, path))) is not None:
                    found.append((f"mcp-param-{header.lower()}", wire.encode_header(text)))
        return found

    def learn_tools(self, line: bytes, answer: BridgedMessage) -> bytes:
        """Learn the headers of listed tools; returns the answer without the tools whose headers are invalid."""
        if ANNOTATION.encode() not in line and not self._tools:
            return line
        try:
            result: dict[str, Any] = msgspec.json.decode(b"{}" if answer.result is UNSET else answer.result)
            listed = msgspec.convert(result.get("tools", []), list[dict[str, Any]])
        except (*wire.DECODE_ERRORS, AttributeError):
            return line
        kept: list[dict[str, Any]] = []
        for tool in listed:
            name = str(tool.get("name"))
            self._tools.pop(name, None)
            try:
                if (wanted := find_parameter_headers(tool.get("inputSchema"))) and len(self._tools) < TOOLS_LIMIT:
                    self._tools[name] = wanted
                kept.append(tool)
            except ValueError as error:
                log.warning("the tool %.100r is left out of the list: %s", name, error)
        if len(kept) == len(listed):
            return line
        whole = msgspec.json.decode(line, type=dict[str, Raw])
        return wire.encode({**whole, "result": {**result, "tools": kept}})


def find_parameter_headers(schema: Any) -> dict[Path, str]:
    """The parameters that a tool repeats in headers: their path in the arguments → the header's name.

    Raises:
        ValueError: an annotation is invalid; the message says which.
    """
    found: dict[Path, str] = {}
    taken: set[str] = set()
    for path, part in _schemas(schema):
        header = part.get(ANNOTATION)
        if ANNOTATION not in part:
            continue
        if not path:
            raise ValueError(f"{ANNOTATION} stands where there may be no argument")
        where = ".".join(path)
        if not isinstance(header, str) or not _TOKEN.fullmatch(header):
            raise ValueError(f"{ANNOTATION} of {where} can't be the name of a header")
        if part.get("type") not in ("string", "integer", "boolean"):
            raise ValueError(f"{where} has {ANNOTATION} and is neither string, integer nor boolean")
        if header.lower() in taken:
            raise ValueError(f"{where} wants the header {header}, which another parameter has")
        if len(taken) >= HEADERS_LIMIT:
            raise ValueError(f"more than {HEADERS_LIMIT} parameters have {ANNOTATION}")
        taken.add(header.lower())
        found[path] = header
    return found


def _schemas(root: Any) -> Iterator[tuple[Path | None, dict[str, Any]]]:
    """Every schema within one, with the path of its argument; None where that isn't certain."""
    waiting: list[tuple[Path | None, Any]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, list):
            waiting += [(None, each) for each in node]  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(node, dict):
            continue
        schema = cast("dict[str, Any]", node)
        yield path, schema
        for key, value in schema.items():
            if key in _MAPS and isinstance(value, dict):
                for name, each in cast("dict[str, Any]", value).items():
                    waiting.append(((*path, name) if key == "properties" and path is not None else None, each))
            elif key not in _DATA:
                waiting.append((None, value))


def _value_at(arguments: Any, path: Path) -> Any:
    for name in path:
        arguments = cast("dict[str, Any]", arguments).get(name) if isinstance(arguments, dict) else None
    return arguments


def _header_text(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return None
