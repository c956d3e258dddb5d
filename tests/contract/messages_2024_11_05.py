"""What the messages of a server of MCP 2024-11-05 hold, as JSON Schemas; the conformance suite begins with 2025-03-26.

Written from the specification of that revision. Other members are allowed everywhere, as it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
ID = {"type": ["string", "integer"]}
OBJECT = {"type": "object"}


def holds(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The schema of an object with these members."""
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def list_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def any_of(*choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*choices]}


AUDIENCE = {
    "annotations": holds(
        {}, {"audience": list_of({"enum": ["user", "assistant"]}), "priority": {**NUMBER, "minimum": 0, "maximum": 1}}
    )
}
RESOURCE_TEXT = any_of(
    holds({"uri": TEXT, "text": TEXT}, {"mimeType": TEXT}), holds({"uri": TEXT, "blob": TEXT}, {"mimeType": TEXT})
)
CONTENT = any_of(
    holds({"type": {"const": "text"}, "text": TEXT}, AUDIENCE),
    holds({"type": {"const": "image"}, "data": TEXT, "mimeType": TEXT}, AUDIENCE),
    holds({"type": {"const": "resource"}, "resource": RESOURCE_TEXT}, AUDIENCE),
)
PAGE = {"nextCursor": TEXT}
TOOL = holds(
    {"name": TEXT, "inputSchema": holds({"type": {"const": "object"}}, {"properties": OBJECT})}, {"description": TEXT}
)
RESOURCE = holds({"uri": TEXT, "name": TEXT}, {"description": TEXT, "mimeType": TEXT, "size": NUMBER, **AUDIENCE})
TEMPLATE = holds({"uriTemplate": TEXT, "name": TEXT}, {"description": TEXT, "mimeType": TEXT, **AUDIENCE})
ARGUMENT = holds({"name": TEXT}, {"description": TEXT, "required": {"type": "boolean"}})
PROMPT = holds({"name": TEXT}, {"description": TEXT, "arguments": list_of(ARGUMENT)})
MESSAGE = holds({"role": {"enum": ["user", "assistant"]}, "content": CONTENT})
CAPABILITY = holds({}, {"listChanged": {"type": "boolean"}})
CAPABILITIES = holds(
    {},
    {
        "experimental": OBJECT,
        "logging": OBJECT,
        "prompts": CAPABILITY,
        "tools": CAPABILITY,
        "resources": holds({}, {"listChanged": {"type": "boolean"}, "subscribe": {"type": "boolean"}}),
    },
)
LEVEL = {"enum": ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]}

RESULTS: dict[str, dict[str, Any]] = {
    "initialize": holds(
        {"protocolVersion": TEXT, "capabilities": CAPABILITIES, "serverInfo": holds({"name": TEXT, "version": TEXT})},
        {"instructions": TEXT},
    ),
    "ping": OBJECT,
    "tools/list": holds({"tools": list_of(TOOL)}, PAGE),
    "tools/call": holds({"content": list_of(CONTENT)}, {"isError": {"type": "boolean"}}),
    "resources/list": holds({"resources": list_of(RESOURCE)}, PAGE),
    "resources/templates/list": holds({"resourceTemplates": list_of(TEMPLATE)}, PAGE),
    "resources/read": holds({"contents": list_of(RESOURCE_TEXT)}),
    "resources/subscribe": OBJECT,
    "resources/unsubscribe": OBJECT,
    "prompts/list": holds({"prompts": list_of(PROMPT)}, PAGE),
    "prompts/get": holds({"messages": list_of(MESSAGE)}, {"description": TEXT}),
    "logging/setLevel": OBJECT,
    "completion/complete": holds(
        {
            "completion": holds(
                {"values": {**list_of(TEXT), "maxItems": 100}},
                {"total": {"type": "integer"}, "hasMore": {"type": "boolean"}},
            )
        }
    ),
}
"""The result of each request of a client."""

PARAMS: dict[str, dict[str, Any]] = {
    "notifications/progress": holds({"progressToken": ID, "progress": NUMBER}, {"total": NUMBER}),
    "notifications/message": holds({"level": LEVEL, "data": {}}, {"logger": TEXT}),
    "notifications/cancelled": holds({"requestId": ID}, {"reason": TEXT}),
    "notifications/resources/updated": holds({"uri": TEXT}),
    "notifications/resources/list_changed": OBJECT,
    "notifications/tools/list_changed": OBJECT,
    "notifications/prompts/list_changed": OBJECT,
    "sampling/createMessage": holds({"messages": list_of(MESSAGE), "maxTokens": {"type": "integer"}}),
    "roots/list": OBJECT,
    "ping": OBJECT,
}
"""The parameters of each notification and request of a server."""
OPTIONAL_PARAMS = {name for name, schema in PARAMS.items() if schema is OBJECT}

VERSION = {"jsonrpc": {"const": "2.0"}}
ERROR = holds(
    {**VERSION, "id": any_of(ID, {"type": "null"}), "error": holds({"code": {"type": "integer"}, "message": TEXT})}
)
RESPONSE = holds({**VERSION, "id": ID, "result": OBJECT})
CALL = holds({**VERSION, "method": TEXT}, {"id": ID, "params": OBJECT})


def check_message(message: dict[str, Any], methods: Mapping[int, str]) -> str:
    """What is wrong with a message of the server; nothing when it is as it must be.

    Args:
        message: the message.
        methods: the methods of the client's requests, by their ids.
    """
    if "error" in message:
        return "; ".join(_faults(ERROR, message))
    if "method" in message:
        method = message["method"]
        if method not in PARAMS:
            return f"there is no {method}"
        is_left_out = "params" not in message and method in OPTIONAL_PARAMS
        return "; ".join(
            [*_faults(CALL, message), *(() if is_left_out else _faults(PARAMS[method], message.get("params")))]
        )
    faults = _faults(RESPONSE, message)
    result = RESULTS.get(methods.get(message.get("id", 0), ""))
    return "; ".join([*faults, *(_faults(result, message.get("result")) if result else ())])


def _faults(schema: dict[str, Any], instance: Any) -> list[str]:
    return [error.message[:200] for error in jsonschema.Draft202012Validator(schema).iter_errors(instance)]
