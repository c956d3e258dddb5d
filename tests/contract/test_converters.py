"""Losses of converted schemas and forms are found, whichever they are; and our schemas fit the rules of the forms."""

import copy
from typing import Any

import pytest

from chora.tools import TOOLS
from tests.conftest import requirement
from tests.contract.converters import find_form_losses, find_losses

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "A name"},
        "kind": {"type": "string", "description": "A kind", "enum": ["a", "b"]},
        "names": {"type": "array", "description": "Names", "items": {"type": "integer", "description": "A number"}},
        "context": {"type": "object", "description": "Anything", "additionalProperties": {}},
    },
    "required": ["name"],
}
TOOL = {"name": "it", "description": "Does it", "inputSchema": SCHEMA}


def converted(**changes: Any) -> dict[str, Any]:
    """The tool, converted with changes to its arguments; None removes one."""
    schema = copy.deepcopy(SCHEMA)
    for name, change in changes.items():
        if change is None:
            del schema["properties"][name]
        else:
            schema["properties"][name] = schema["properties"].get(name, {}) | change
    return {"name": "it", "description": "Does it", "schema": schema}


@pytest.mark.parametrize(
    ("conversion", "loss"),
    [
        (converted(), ""),
        (converted(name={"type": "STRING"}), ""),
        ({**converted(), "strict": False}, ""),
        ({**converted(), "strict": True}, "strict is True"),
        ({**converted(), "name": "that"}, "tools: ['that']"),
        ({**converted(), "description": ""}, "it: its description"),
        ({**converted(), "schema": {**SCHEMA, "required": []}}, "['name'] became optional"),
        (converted(name={"type": ["string", "null"]}), "it.name: type"),
        (converted(name={"type": "object"}), "it.name: type"),
        (converted(name={"description": None}), "it.name: description"),
        (converted(kind={"enum": ["a"]}), "it.kind: enum"),
        (converted(names={"items": {"type": "string"}}), "it.names[]: type"),
        (converted(names={"items": None}), "it.names[]: type"),
        (converted(context={"additionalProperties": False}), "it.context: an object of any shape was closed"),
        (converted(context=None), "it: properties"),
        (converted(extra={"type": "string"}), "it: properties"),
    ],
)
@requirement("tools.strict-schemas")
def test_a_loss_of_a_conversion_is_found(conversion: dict[str, Any], loss: str):
    """Types, descriptions, choices, arguments, what is needed, and objects of any shape."""
    losses = find_losses([TOOL], [conversion])
    assert len(losses) == bool(loss), losses
    assert not loss or loss in losses[0]


FIELDS: list[dict[str, Any]] = [
    {"id": "name", "type": "string", "required": True},
    {"id": "kind", "type": "options", "required": False, "options": [{"value": "a"}, {"value": "b"}]},
    {"id": "names", "type": "array", "required": False},
    {"id": "context", "type": "object", "required": False},
]


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        (FIELDS, 0),
        (FIELDS[1:], 1),
        ([{**FIELDS[0], "type": "object"}, *FIELDS[1:]], 1),
        ([{**FIELDS[0], "required": False}, *FIELDS[1:]], 1),
        ([FIELDS[0], {"id": "kind", "type": "string", "required": False}, *FIELDS[2:]], 1),
        ([*FIELDS, {"id": "extra", "type": "string", "required": False}], 1),
    ],
)
@requirement("tools.strict-schemas")
def test_a_loss_of_a_form_is_found(fields: list[dict[str, Any]], lost: int):
    """A field that is missing, of another type, without its choices, or needed or not by mistake."""
    assert len(find_form_losses([TOOL], {"it": fields})) == lost


def field_type(schema: dict[str, Any]) -> str:
    """n8n's rule: the type at the level of the property itself decides; whatever has none is a text box."""
    if "enum" in schema:
        return "options"
    types = {"number": "number", "integer": "number", "boolean": "boolean", "array": "array", "object": "object"}
    kind = schema.get("type")
    return types.get(kind, "string") if isinstance(kind, str) else "string"


@requirement("tools.strict-schemas")
def test_every_argument_has_a_field_of_its_type_in_forms():
    """By the rule that n8n has, read from its module; `just clients` runs the module itself."""
    tools = [tool.describe() for tool in TOOLS.values()]
    forms = {
        tool["name"]: [
            {
                "id": name,
                "type": field_type(each),
                "required": name in tool["inputSchema"].get("required", ()),
                **({"options": [{"value": value} for value in each["enum"]]} if "enum" in each else {}),
            }
            for name, each in tool["inputSchema"]["properties"].items()
        ]
        for tool in tools
    }
    assert find_form_losses(tools, forms) == []
