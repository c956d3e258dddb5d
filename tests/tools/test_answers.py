"""Results of calls follow the published schemas, also when they fail; and the forms of a context."""

from __future__ import annotations

import json
import logging
import pkgutil
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chora.tools
from chora.engine.engine import Engine
from chora.errors import CATEGORIES, ChoraError, GenerationFailed, Internal, InvalidContext, InvalidInput, subclasses
from chora.nesting import DECODING_VALUES, DEPTH_LIMIT
from chora.protocol.types import Call
from chora.tools import ALL_TOOLS, MODULES, TOOLS
from chora.tools.tool import Tool, ToolArguments, ToolResult, parse_context, parse_object, tool
from tests.conftest import answer_schema, requirement

CALL = Call("test")

READS = {"readOnlyHint": True, "idempotentHint": True}
REPEATS = {"idempotentHint": True}
WRITES = {"destructiveHint": True, "idempotentHint": True}
CHANGES = {"destructiveHint": True}

CATALOGUE: dict[str, tuple[str, dict[str, bool], list[str], list[str]]] = {
    "generate_content": ("Core generation", REPEATS, ["content_config_id"], ["context", "force"]),
    "assemble_artifact": (
        "Core generation",
        WRITES,
        ["artifact_config_id"],
        ["output_path", "force", "context", "dry_run"],
    ),
    "regenerate_content": ("Core generation", {}, ["content_config_id"], ["context", "reason", "compare"]),
    "preview_generation": ("Core generation", READS, ["content_config_id"], ["context", "show_metadata", "spend"]),
    "batch_generate": (
        "Core generation",
        REPEATS,
        ["content_ids"],
        ["shared_context", "individual_contexts", "force", "continue_on_error", "max_parallel"],
    ),
    "draft_config": ("Config lifecycle", {}, ["config_type", "config_data"], ["description"]),
    "test_config": ("Config lifecycle", {}, ["draft_id"], ["context", "dry_run"]),
    "modify_config": ("Config lifecycle", WRITES, ["config_id", "updates"], ["create_backup", "config_type"]),
    "save_config": ("Config lifecycle", CHANGES, ["draft_id", "config_id"], ["overwrite", "force"]),
    "cleanup_ephemeral": ("Storage", WRITES, [], ["retention", "filter", "dry_run"]),
    "delete_content": ("Storage", CHANGES, ["content_id"], ["preserve_metadata", "force"]),
    "list_generators": ("Discovery", READS, [], ["generator_type", "include_plugins"]),
    "list_content": ("Discovery", READS, [], ["filter", "sort", "limit", "offset"]),
    "list_artifacts": ("Discovery", READS, [], ["filter", "sort", "limit", "offset"]),
    "trace_dependencies": ("Discovery", READS, ["artifact_config_id"], ["check_status", "show_metadata"]),
    "list_content_configs": ("Discovery", READS, [], ["filter_pattern", "limit", "offset"]),
    "list_artifact_configs": ("Discovery", READS, [], ["filter_pattern", "limit", "offset"]),
    "validate_content": ("Validation", READS, ["content_or_config_id"], ["validation_rules"]),
    "check_freshness": ("Validation", READS, ["collection_config_path"], ["output_path", "limit", "offset"]),
    "generate_collection": (
        "Collections",
        WRITES,
        ["collection_config_path"],
        ["force", "force_members", "output_path", "context", "dry_run", "show_diff"],
    ),
    "validate_collection_config": ("Collections", READS, ["collection_config_path"], ["check_member_configs"]),
    "list_collection_members": (
        "Collections",
        READS,
        ["collection_config_path"],
        ["check_status", "recursive", "limit", "offset"],
    ),
    "check_collection_cache": (
        "Collections",
        READS,
        ["collection_config_path"],
        ["check_member_cache", "output_path", "context", "limit", "offset"],
    ),
    "hello_world": ("Utility", READS, [], ["name"]),
    "get_config": ("Reading", READS, ["config_id"], ["config_type"]),
    "get_text": ("Reading", READS, ["content_id"], ["version_id", "offset"]),
    "list_collections": ("Reading", READS, [], ["limit", "offset"]),
    "list_edits": ("Edits", READS, [], ["path", "limit", "offset"]),
    "settle_edit": ("Edits", CHANGES, ["path", "action"], []),
}
"""Every tool's category, hints, required and optional arguments."""

LONG = {
    "generate_content",
    "assemble_artifact",
    "regenerate_content",
    "batch_generate",
    "validate_content",
    "validate_collection_config",
    "generate_collection",
}
"""The tools whose calls may become jobs."""


@requirement("tools.default-set")
def test_the_catalogue_is_complete():
    """Every tool has a row in the table above, and every module of the package with tools is registered."""
    found = {module.name for module in pkgutil.iter_modules(chora.tools.__path__)}
    found -= {"tool", "schemas", "lenient_arguments", "paging"}
    assert found == {module.__name__.rpartition(".")[2] for module in MODULES}
    assert set(ALL_TOOLS) == set(CATALOGUE)
    assert set(ALL_TOOLS) - set(TOOLS) == {"get_config", "get_text", "list_collections", "list_edits", "settle_edit"}
    assert len(TOOLS) == 24, (
        "a new tool changes this number, the promise tools.default-set, the README and the changelog"
    )


@requirement("tools.small-list")
def test_the_list_is_small_enough_for_a_model():
    """Without output schemas within 24 KiB; a client pays for it in every conversation."""
    listed = [
        {key: value for key, value in tool.describe().items() if key != "outputSchema"} for tool in TOOLS.values()
    ]
    assert len(msgspec.json.encode({"tools": listed})) <= 24 * 1024


@requirement("tools.category", "tools.hints", "tools.input-schema")
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_tool_has_its_published_description(name: str):
    """Category, hints, arguments and their defaults; a title and full sentences."""
    category, hints, required, optional = CATALOGUE[name]
    shown = ALL_TOOLS[name].describe()
    assert shown["name"] == name
    assert shown["_meta"] == {"chora/category": category}
    assert shown["annotations"] == {
        "title": shown["title"],
        "readOnlyHint": False,
        "destructiveHint": False,
        "idempotentHint": False,
        "openWorldHint": False,
        **hints,
    }
    assert shown["description"].endswith((".", ")"))
    assert len(shown["description"]) < 600
    schema = shown["inputSchema"]
    assert schema["type"] == "object"
    assert schema.get("required", []) == required
    assert [name for name in schema["properties"] if name not in required] == optional
    assert ALL_TOOLS[name].read_only is hints.get("readOnlyHint", False)


@requirement("tools.output-schema", "tools.running-schema")
@pytest.mark.parametrize("name", ALL_TOOLS)
def test_schemas_are_self_contained(name: str):
    """Valid JSON Schema with an object at the root, every reference internal, no docstring as a description."""
    shown = ALL_TOOLS[name].describe()
    for schema in (shown["inputSchema"], shown["outputSchema"]):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert "$ref" not in json.dumps(schema)
        for each in [schema, *schema.get("anyOf", [])]:
            assert "description" not in each
    success, *running, failure = shown["outputSchema"]["anyOf"]
    statuses = [schema["properties"]["status"] for schema in running]
    assert statuses == ([{"type": "string", "const": "running"}] if name in LONG else [])
    assert "success" in success["required"]
    assert success["properties"]["success"] == {"type": "boolean", "enum": [True], "default": True}
    assert failure["properties"]["success"] == {"type": "boolean", "const": False}


OWN = [each for each in subclasses() if each.__module__ == ChoraError.__module__]


@requirement("tools.envelope.failure")
@pytest.mark.parametrize("error", OWN, ids=lambda error: error.__name__)
def test_every_failure_fits_the_schema_of_every_tool(error: type[ChoraError]):
    """Some clients validate failures against it too."""
    made = Internal(ValueError("x"), where="x") if error is Internal else error("It failed.", "Do this.", a=[1])
    for name in TOOLS:
        answer_schema(name).validate(made.as_dict())


# -- a test tool ------------------------------------------------------------------------------------------------


class Work(ToolArguments):
    what: str
    number: int | None = 3
    data: Any = None


class Done(ToolResult):
    what: str
    number: int | None
    data: Any


@tool(title="Work", category="Utility")
async def work(engine: Engine, arguments: Work, call: Call) -> Done:
    """Do what the argument says."""
    if arguments.what == "fail":
        raise GenerationFailed("It failed.", "Try again.", why=[1, "x"])
    if arguments.what == "bug":
        raise ZeroDivisionError("secret details")
    if arguments.what == "unspeakable failure":
        raise GenerationFailed("It failed.", "Try again.", why=object())
    if arguments.what == "unspeakable answer":
        return Done(what=arguments.what, number=1, data=object())
    return Done(what=arguments.what, number=arguments.number, data=arguments.data)


async def run(engine: Engine, arguments: Any) -> Any:
    raw = arguments if isinstance(arguments, bytes) else msgspec.json.encode(arguments)
    return await work.run_tool(engine, raw, CALL)


@requirement("tools.envelope.success")
async def test_a_success_is_the_results_json(engine: Engine):
    """With `success: true` and defaults for missing arguments; a null is accepted for optional ones."""
    answer = await run(engine, {"what": "x"})
    assert (answer.is_error, answer.code, answer.exit_code) == (False, "ok", 0)
    assert msgspec.json.decode(answer.body) == {"success": True, "what": "x", "number": 3, "data": None}
    assert msgspec.json.decode((await run(engine, {"what": "x", "number": None})).body)["number"] is None


@requirement("tools.envelope.failure")
async def test_a_failure_is_an_answer_with_code_and_hint(engine: Engine):
    """With its details and the exit code of its category."""
    answer = await run(engine, {"what": "fail"})
    assert (answer.is_error, answer.code, answer.exit_code) == (
        True,
        "generation_failed",
        CATEGORIES["failed"].exit_code,
    )
    assert msgspec.json.decode(answer.body) == {
        "success": False,
        "error": {
            "code": "generation_failed",
            "message": "It failed.",
            "hint": "Try again.",
            "details": {"why": [1, "x"]},
        },
    }


@requirement("tools.error.internal-error")
@pytest.mark.parametrize("what", ["bug", "unspeakable failure", "unspeakable answer"])
async def test_a_bug_is_an_incident(engine: Engine, caplog: pytest.LogCaptureFixture, what: str):
    """The log has the traceback under an id; the caller gets only the id and the type (CWE-209)."""
    answer = await run(engine, {"what": what})
    error = msgspec.json.decode(answer.body)["error"]
    assert (answer.is_error, answer.code, answer.exit_code) == (
        True,
        "internal_error",
        CATEGORIES["internal"].exit_code,
    )
    assert error["code"] == "internal_error"
    assert set(error["details"]) == {"incident", "error_type", "tool"}
    assert error["details"]["tool"] == "work"
    assert error["details"]["incident"] in error["hint"]
    assert b"secret" not in answer.body
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error["details"]["incident"] in record.getMessage()
    assert record.exc_info


@requirement("tools.error.invalid-input")
@pytest.mark.parametrize(
    ("arguments", "field", "issue"),
    [
        ({}, "$", "Object missing required field `what`"),
        ({"what": 5}, "$.what", "Expected `str`, got `int`"),
        ({"what": None}, "$.what", "Expected `str`, got `null`"),
        ({"what": "x", "number": "three"}, "$.number", "Expected `int | null`, got `str`"),
        ({"what": "x", "wath": 1}, "$", "Object contains unknown field `wath`"),
        ([], "$", "Expected `object`, got `array`"),
        (b"{", "$", "Input data was truncated"),
        (b'{"what": "\xff"}', "$", ""),
        (b'{"what": "x", "data": ' + b"[" * 5000 + b"]" * 5000 + b"}", "$", "it is nested too deeply"),
        (b'{"what": "x", "data": 1e999}', "$", ""),
    ],
)
async def test_invalid_arguments_are_named(engine: Engine, arguments: Any, field: str, issue: str):
    """Path and fault are in the details, the valid arguments in the hint."""
    answer = await run(engine, arguments)
    error = msgspec.json.decode(answer.body)["error"]
    assert (answer.is_error, answer.code, answer.exit_code) == (True, "invalid_input", 2)
    assert error["details"]["field"] == field or issue == ""
    assert error["details"]["tool"] == "work"
    assert issue in error["details"]["issue"]
    assert error["hint"].endswith("The arguments are: what, [number], [data].")
    if "wath" in issue:
        assert error["hint"].startswith("Did you mean what?")


def test_a_tool_without_arguments_has_an_empty_schema():
    """And its error says so."""

    class Nothing(ToolArguments):
        pass

    async def idle(engine: Engine, arguments: Nothing, call: Call) -> ToolResult:
        """Do nothing."""
        return ToolResult()

    idle.__annotations__ = {"engine": Engine, "arguments": Nothing, "call": Call, "return": ToolResult}
    made = Tool(idle, title="Idle", category="Utility")
    assert made.signature() == "none"
    assert made.describe()["description"] == "Do nothing."
    with pytest.raises(InvalidInput, match=r"The arguments of idle don't fit at \$"):
        made.decode_arguments(b'{"a": 1}')


# -- contexts ---------------------------------------------------------------------------------------------------


@requirement("tools.context.object-or-string", "tools.context.empty")
@pytest.mark.parametrize(
    ("value", "context"),
    [
        ({"a": 1}, {"a": 1}),
        ({}, {}),
        (None, {}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ('{"a": {"b": [null, 1.5]}}', {"a": {"b": [None, 1.5]}}),
        (' {"a": 1} ', {"a": 1}),
    ],
)
def test_a_context_is_an_object_or_its_json(value: Any, context: dict[str, Any]):
    """Some clients can only send strings; an empty string means an empty object."""
    assert parse_context(value) == context
    assert parse_object(value, "config_data") == context


@requirement("tools.error.invalid-context")
@pytest.mark.parametrize(
    ("value", "received", "parse_error"),
    [
        ([1], "array", False),
        (5, "number", False),
        (1.5, "number", False),
        (True, "boolean", False),
        ("[1]", "array", False),
        ("5", "number", False),
        ('"text"', "string", False),
        ("false", "boolean", False),
        ("name=Ada", "string", True),
        ("{'a': 1}", "string", True),
        ('{"a": 1', "string", True),
        ("x" * 5000, "string", True),
        ("[" * 5000, "string", True),
    ],
)
def test_a_context_that_is_no_object_is_refused(value: Any, received: str, parse_error: bool):
    """The error says what it was and what was expected, with only the beginning of a long one."""
    with pytest.raises(InvalidContext) as failed:
        parse_context(value)
    error = failed.value
    assert error.details["parameter"] == "context"
    assert error.details["received_type"] == received
    assert error.details["expected_type"] == "object"
    assert ("parse_error" in error.details) is parse_error
    if parse_error:
        assert error.details["received"] == value[:100]
    assert error.hint
    assert len(error.message) < 200


def test_a_context_has_a_largest_depth():
    """That of a config; beyond it, hashing and rendering would fail."""
    deepest = {"a": json.loads("[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1))}
    assert parse_context(deepest) is deepest
    for deeper in ({"a": deepest}, json.dumps({"a": deepest})):
        with pytest.raises(InvalidContext, match="nested more than 64 levels deep") as failed:
            parse_context(deeper)
        assert failed.value.hint
    assert parse_object({"a": deepest}, "config_data") == {"a": deepest}


@requirement("tools.context.object-or-string")
@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=4))
def test_an_object_and_its_json_are_the_same_context(data: dict[str, Any]):
    """Whichever form the client sends."""
    assert parse_context(json.dumps(data)) == parse_context(data) == data


async def test_arguments_with_too_many_values_are_refused_before_they_are_built(engine: Engine):
    """As an object and as a string of JSON; the error says where so much data belongs."""
    many = b"[" + b"0," * DECODING_VALUES + b"0]"
    for context in (b'{"x": ' + many + b"}", msgspec.json.encode('{"x": ' + many.decode() + "}")):
        answer = await TOOLS["preview_generation"].run_tool(
            engine, b'{"content_config_id": "note", "context": ' + context + b"}", Call("test")
        )
        error = msgspec.json.decode(answer.body)["error"]
        assert (error["code"], error["details"]["limit"]) == ("limit_exceeded", "arguments.values")
        assert "source" in error["hint"]
