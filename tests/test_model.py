"""The config formats: what a context declares, and the schemas derived from the Structs."""

from __future__ import annotations

import json

import msgspec
import pytest
from jsonschema import Draft202012Validator

from chora.config_parsing import parse_config
from chora.model import KINDS, Declaration, Kind, schema, split_context
from tests.conftest import requirement
from tests.documents import LONG, WHOLE, collection, content, objects_in

# -- declarations -----------------------------------------------------------------------------------------------


def test_declarations_part_from_data() -> None:
    """Values shaped {source: runtime} are declarations; file references and plain values are data."""
    data, declarations = split_context(
        {
            "title": "Tides",
            "readings": {"source": "file", "path": "a.json"},
            "date": {"source": "runtime", "required": True, "type": "string", "description": "the day"},
            "hours": {"source": "runtime", "default": 24, "type": "int"},
            "note": {"source": "runtime", "default": None, "type": "tide", "description": 5},
        }
    )
    assert data == {"title": "Tides", "readings": {"source": "file", "path": "a.json"}}
    date, hours, note = declarations
    assert date == Declaration(name="date", required=True, type="string", description="the day")
    assert not date.has_default
    assert (hours.default, hours.type, hours.required, hours.has_default) == (24, "integer", False, True)
    assert (note.default, note.has_default, note.type, note.description) == (None, True, None, None)


# -- the schema -------------------------------------------------------------------------------------------------


@requirement("config.schemas")
@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_one_and_describes_every_key(kind: Kind) -> None:
    """The derived schema is a valid 2020-12 one with an object at its root, and its keys have descriptions."""
    published = schema(kind)
    Draft202012Validator.check_schema(published)
    assert published["type"] == "object"
    assert published["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert published["title"].startswith(f"chora {kind} config v")
    assert published["description"]
    (example,) = published["examples"]
    assert parse_config(kind, example, where="the example").warnings == []
    assert msgspec.json.decode(msgspec.json.encode(published)) == json.loads(json.dumps(published))
    for node in objects_in(published):
        assert node.get("additionalProperties") is not False
        assert {"type": "null"} not in node.get("anyOf", [])
        for name, rule in node.get("properties", {}).items():
            assert rule.get("description"), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_silently_fits_the_schema(kind: Kind) -> None:
    """The schema people check against accepts what the reader accepts without a remark."""
    assert list(Draft202012Validator(schema(kind)).iter_errors(WHOLE[kind]())) == []


def test_the_schema_takes_both_spellings_of_a_source() -> None:
    """Sources may be written long or short in every kind that has them."""
    short = {"type": "inline_data", "data": {}}
    for document in (
        content(inputs={"sources": [LONG, short]}),
        collection(context={"shared": {"sources": [LONG, short]}}),
    ):
        assert list(Draft202012Validator(schema(document["type"])).iter_errors(document)) == []
    broken = content(inputs={"sources": [{"id": "s"}]})
    assert len(list(Draft202012Validator(schema("content")).iter_errors(broken))) == 1


def test_a_schema_may_be_changed_by_its_caller() -> None:
    """Every call makes a schema of its own."""
    schema("content")["properties"].clear()
    assert schema("content")["properties"]
