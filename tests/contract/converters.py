"""What becomes of our schemas in the libraries that hand them to models and forms: part of `just clients`.

A converted schema has lost nothing when each argument, at every depth, still has its type, description and choices, no
argument is gone or new, none that was needed is optional, and an object of any shape wasn't closed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from tests.contract.installation import HERE, ToolsNotInstalled, find_node

FORM_TYPES = {"integer": "number"}
"""The types of fields in n8n's forms where they have another name."""


def find_losses(tools: Sequence[Mapping[str, Any]], converted: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the conversion of tools lost.

    Args:
        tools: as `tools/list` has them.
        converted: `name`, `description` and `schema` of each, and `strict` where the library knows that.
    """
    names = [each["name"] for each in tools], [each["name"] for each in converted]
    if names[0] != names[1]:
        return [f"tools: {names[1]}, not {names[0]}"]
    losses: list[str] = []
    for tool, other in zip(tools, converted, strict=True):
        if other["description"] != tool["description"]:
            losses.append(f"{tool['name']}: its description")
        losses += [f"{tool['name']}{loss}" for loss in _schema_losses(tool["inputSchema"], other["schema"])]
        if "strict" in other and other["strict"] is has_free_object(tool["inputSchema"]):
            losses.append(f"{tool['name']}: strict is {other['strict']}")
    return losses


def _schema_losses(schema: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> Iterator[str]:
    if not isinstance(other.get("type"), str) or other["type"].casefold() != schema["type"]:
        yield f"{path}: type {other.get('type')!r}, not {schema['type']!r}"  # Gemini's are in capitals
        return
    for key in ("description", "enum"):
        if other.get(key) != schema.get(key):
            yield f"{path}: {key} {other.get(key)!r}, not {schema.get(key)!r}"
    properties: Mapping[str, Any] = schema.get("properties", {})
    if set(other.get("properties") or ()) != set(properties):
        yield f"{path}: properties {sorted(other.get('properties') or ())}, not {sorted(properties)}"
        return
    if missing := set(schema.get("required", ())) - set(other.get("required") or ()):
        yield f"{path}: {sorted(missing)} became optional"
    if _is_free(schema) and _is_closed(other):
        yield f"{path}: an object of any shape was closed"
    for name, each in properties.items():
        yield from _schema_losses(each, other["properties"][name], f"{path}.{name}")
    if "items" in schema:
        yield from _schema_losses(schema["items"], other.get("items") or {}, f"{path}[]")


def _is_free(schema: Mapping[str, Any]) -> bool:
    return schema["type"] == "object" and not schema.get("properties")


def _is_closed(schema: Mapping[str, Any]) -> bool:
    return schema.get("additionalProperties", schema.get("additional_properties")) is False


def has_free_object(schema: Mapping[str, Any]) -> bool:
    """Whether a schema holds an object of any shape, which OpenAI's strict mode can't have."""
    parts = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return _is_free(schema) or any(has_free_object(each) for each in parts)


def find_form_losses(tools: Sequence[Mapping[str, Any]], forms: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the forms of tools lost: a field for each argument, of its type or with its choices, needed if it is."""
    losses: list[str] = []
    for tool in tools:
        schema = tool["inputSchema"]
        wanted = {
            name: (
                "options" if "enum" in each else FORM_TYPES.get(each["type"], each["type"]),
                each.get("enum"),
                name in schema.get("required", ()),
            )
            for name, each in schema["properties"].items()
        }
        seen = {
            field["id"]: (
                field["type"],
                [option["value"] for option in field["options"]] if "options" in field else None,
                field["required"],
            )
            for field in forms.get(tool["name"], ())
        }
        for name in {*wanted, *seen}:
            if seen.get(name) != wanted.get(name):
                losses.append(f"{tool['name']}.{name}: {seen.get(name)}, not {wanted.get(name)}")
    return losses


def find_n8n() -> Path:
    """The module of n8n that makes form fields of a schema.

    Raises:
        ToolsNotInstalled: it isn't there.
    """
    folder = Path(os.environ.get("CONTRACT_LIBRARIES", "nowhere")) / "n8n"
    found = folder / "package" / "dist" / "nodes" / "mcp" / "McpClient" / "utils.js"
    if not found.exists():
        raise ToolsNotInstalled("n8n's forms aren't installed: run `just clients`.")
    return found


async def make_n8n_forms(tools: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The fields that n8n's MCP client node shows for each tool."""
    schemas = {each["name"]: each["inputSchema"] for each in tools}
    command = [find_node(), str(HERE / "clients" / "n8n_forms.mjs"), str(find_n8n())]
    finished = await trio.run_process(command, stdin=json.dumps(schemas).encode(), capture_stdout=True)
    return json.loads(finished.stdout)
