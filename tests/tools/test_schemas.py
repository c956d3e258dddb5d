"""What is published of the arguments of tools, by the rules of the hosts that read it."""

from collections.abc import Iterator
from typing import Any

import pytest

from chora.tools import TOOLS
from chora.tools.schemas import INPUT_KEYWORDS
from tests.conftest import requirement

Schema = dict[str, Any]

GEMINI = {
    *("type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "properties", "required"),
    *("minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example", "anyOf", "propertyOrdering"),
    *("default", "items", "minimum", "maximum"),
}
"""The keywords of a `Schema` of the Gemini API; an unknown one is refused."""
OPENAI_STRICT = {
    *("type", "description", "title", "enum", "const", "properties", "required", "additionalProperties", "items"),
    *("anyOf", "$ref", "$defs", "pattern", "format", "multipleOf", "maximum", "exclusiveMaximum", "minimum"),
    *("exclusiveMinimum", "minItems", "maxItems"),
}
"""The keywords of OpenAI's strict mode, "Structured model outputs"; `default` and lengths of strings are refused."""
OPENAI_DEPTH, OPENAI_PROPERTIES = 10, 5000
BEDROCK_ROOT = {"type", "properties", "required"}
"""The keywords that Amazon Nova takes at the root of a tool's schema."""
TYPES = {"string", "number", "integer", "boolean", "array", "object"}


def parts(schema: Schema, path: str = "$", depth: int = 1) -> Iterator[tuple[str, Schema, int]]:
    """Every schema within one, with its path and depth."""
    yield path, schema, depth
    for name, each in schema.get("properties", {}).items():
        yield from parts(each, f"{path}.{name}", depth + 1)
    if "items" in schema:
        yield from parts(schema["items"], f"{path}[]", depth + 1)


PARTS = [
    (f"{name}{path[1:]}", dict(part), depth) for name in TOOLS for path, part, depth in parts(TOOLS[name].input_schema)
]
each_part = pytest.mark.parametrize(("path", "part", "depth"), PARTS, ids=[row[0] for row in PARTS])


@requirement("tools.strict-schemas")
@each_part
def test_every_argument_has_one_type_and_a_description_beside_it(path: str, part: Schema, depth: int):
    """Form builders read both at the level of the property; what is in a union there becomes a text box."""
    assert part.get("type") in TYPES, "one type, and no list of them"
    assert not {"anyOf", "oneOf", "allOf", "$ref", "$defs", "const", "not", "nullable"} & set(part)
    if depth > 1 and not path.endswith("[]"):
        assert len(part["description"]) > 8
    if "enum" in part:
        assert part["type"] == "string", "Gemini takes no others"
        assert all(isinstance(each, str) and each for each in part["enum"])
    assert (part["type"] == "array") == ("items" in part)


@requirement("tools.strict-schemas")
@each_part
def test_schemas_keep_to_what_every_host_knows(path: str, part: Schema, depth: int):
    """The keywords that Gemini, OpenAI's strict mode and Bedrock have in common."""
    if part["type"] == "object" and "properties" not in part:
        assert part.pop("additionalProperties") == {}, (
            "what takes any object says so; OpenAI's strict mode closes others"
        )
    assert set(part) <= set(INPUT_KEYWORDS)
    assert set(part) <= GEMINI
    assert set(part) <= OPENAI_STRICT
    if depth == 1:
        assert set(part) <= BEDROCK_ROOT
        assert part["properties"], "Gemini refuses an object without properties"
    assert depth <= OPENAI_DEPTH
    assert set(part.get("required", [])) <= set(part.get("properties", {}))


@requirement("tools.strict-schemas")
def test_there_are_no_more_properties_than_strict_hosts_take():
    """OpenAI counts those of all tools of a request."""
    assert sum(len(part.get("properties", {})) for _, part, _ in PARTS) <= OPENAI_PROPERTIES


@requirement("tools.strict-schemas")
@pytest.mark.parametrize("name", TOOLS)
def test_output_schemas_say_the_type_of_every_value(name: str):
    """`type` beside every enum and const, no list of types, no reference."""

    def check(schema: Any) -> None:
        if isinstance(schema, list):
            for each in schema:  # pyright: ignore[reportUnknownVariableType]
                check(each)
        if not isinstance(schema, dict):
            return
        given: Schema = schema
        assert "$ref" not in given
        if "enum" in given or "const" in given:
            assert isinstance(given["type"], str)
        if "type" in given and "properties" not in given.get("type", ""):
            assert isinstance(given["type"], str | dict)
        for key, each in given.items():
            if key not in ("enum", "const", "default"):
                check(each)

    check(TOOLS[name].output_schema)


def test_a_default_is_said_in_the_description():
    """As a keyword it is refused by OpenAI's strict mode."""
    limit = TOOLS["list_content"].input_schema["properties"]["limit"]
    assert "default" not in limit
    assert limit["description"].endswith("(default 50)")
