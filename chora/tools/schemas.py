"""The JSON Schemas of tools, for hosts that read only a part of JSON Schema.

Each host has its own subset, and what lies outside it is dropped, refused or turned into a text box: Gemini knows no
`$ref` and no list of types, OpenAI's strict mode no `default` and no lengths, Bedrock only `type`, `properties` and
`required` at the root, and n8n's forms only a `type` that stands beside the description. So input schemas use the
keywords that all of them know: `INPUT_KEYWORDS`. They are stricter than what is accepted, see `chora.leniency`.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import Struct

INPUT_KEYWORDS = ("type", "description", "properties", "required", "items", "enum")
"""What an input schema is made of. `additionalProperties` stands at free-form objects alone, as `{}`: Google's client
fails on true and false, and OpenAI's closes objects that don't say that they are open. Unknown arguments are refused
all the same."""

JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}

Schema = dict[str, Any]


def object_schema(struct: type[Struct]) -> Schema:
    """The JSON Schema of a Struct with `type: object` at its root, as MCP requires, and without references.

    msgspec puts a `$ref` there, and docstrings as descriptions, which are no help to a model.
    """
    (root,), components = msgspec.json.schema_components([struct], ref_template="{name}")
    parts = {
        name: {key: each for key, each in part.items() if key != "description"} for name, part in components.items()
    }
    return _inline(root, parts)


def input_schema(struct: type[Struct]) -> Schema:
    """The schema of arguments as it is published: each property has a type and a description at its own level.

    Null is accepted where an argument is optional, and not published.
    """
    return _publish(object_schema(struct))


def _inline(schema: Any, parts: dict[str, Schema]) -> Any:
    """A schema with its references replaced by what they refer to, and a type beside each value."""
    if isinstance(schema, list):
        return [_inline(each, parts) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    given = cast("Schema", schema)
    if (reference := given.get("$ref")) is not None:
        return _inline({**parts[reference], **{key: each for key, each in given.items() if key != "$ref"}}, parts)
    inlined = {key: each if key in ("enum", "default") else _inline(each, parts) for key, each in given.items()}
    values: list[Any] = [inlined["const"]] if "const" in inlined else inlined.get("enum", [])
    if values and "type" not in inlined:
        inlined = {"type": JSON_TYPES[type(values[0])], **inlined}
    return inlined


def _publish(schema: Schema) -> Schema:
    """The part of a schema that all hosts understand."""
    outer = schema
    if "anyOf" in schema:
        (schema,) = [each for each in schema["anyOf"] if each.get("type") != "null"]
    found = {**schema, **{key: each for key, each in outer.items() if key != "anyOf"}}
    default = found.get("default")
    if default not in (None, False, ""):
        found["description"] = f"{found.get('description', '')} (default {msgspec.json.encode(default).decode()})"
    published = {key: found[key] for key in INPUT_KEYWORDS if key in found and found[key] != []}
    if "properties" in published:
        published["properties"] = {name: _publish(each) for name, each in published["properties"].items()}
    elif published.get("type") == "object":
        published["additionalProperties"] = {}
    if "items" in published:
        published["items"] = _publish(published["items"])
    return published


def schema_at(schema: Schema, path: str) -> Schema:
    """The part of an input schema at a path of msgspec's errors, such as `$.filter.stage`; empty if there is none."""
    for step in path.replace("[", ".[").split(".")[1:]:
        schema = schema.get("items", {}) if step.startswith("[") else schema.get("properties", {}).get(step, {})
    return schema
