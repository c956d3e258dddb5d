"""Arguments as clients send them: what is read leniently, and what isn't."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from chora.engine.engine import Engine
from chora.errors import InvalidInput
from chora.leniency import FOREIGN_ARGUMENTS, LENIENCIES
from chora.protocol.types import Call
from chora.tools import TOOLS
from chora.tools.tool import Context, ToolArguments, ToolResult, tool
from tests.conftest import Asking, Project, requirement, text

D = "about this"


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    kind: Annotated[Literal["a", "b"], Meta(description=D)] | None = None
    done: Annotated[bool, Meta(description=D)] | None = None
    names: Annotated[list[str], Meta(description=D)] | None = None
    age: Annotated[int, Meta(ge=0, description=D)] | None = None


class Form(ToolArguments):
    id: Annotated[str, Meta(description=D)]
    word: Annotated[str, Meta(description=D)] | None = "World"
    sort: Annotated[Literal["id", "size"], Meta(description=D)] | None = "id"
    flag: Annotated[bool, Meta(description=D)] | None = True
    count: Annotated[int, Meta(description=D)] | None = 4
    share: Annotated[float, Meta(description=D)] | None = 0.5
    names: Annotated[list[str], Meta(description=D)] | None = None
    inner: Annotated[Inner | None, Meta(description=D)] = None
    context: Context = None


@tool(title="Fill a form", category="Utility")
async def fill(engine: Engine, arguments: Form, call: Call) -> ToolResult:
    """Do nothing with many kinds of arguments."""
    return ToolResult()


def read(**given: Any) -> dict[str, Any]:
    """The arguments that differ from what the tool gets when it is called with its id alone."""
    bare = msgspec.structs.asdict(fill.decode_arguments(b'{"id": "x"}'))
    found = msgspec.structs.asdict(fill.decode_arguments(msgspec.json.encode({"id": "x", **given})))
    return {name: value for name, value in found.items() if value != bare[name]}


UNSET: list[Any] = [None, "", "null", [], {}, 0]

ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(("unset", {"sort": value}, {}) for value in UNSET if value is not None),
    *(("unset", {"flag": value}, {}) for value in UNSET if value not in (0, None)),
    *(("unset", {"count": value}, {}) for value in UNSET if value not in (0, None)),
    *(("unset", {"share": value}, {}) for value in UNSET if value not in (0, None)),
    *(("unset", {"inner": value}, {} if value != {} else {"inner": Inner()}) for value in UNSET),
    *(("unset", {"names": value}, {} if value != [] else {"names": []}) for value in UNSET),
    *(("unset", {"word": value}, {}) for value in ("", [], {}, 0)),
    ("unset", {"word": "null"}, {"word": "null"}),  # it can be a word
    ("unset", {"count": 0}, {"count": 0}),  # it can be a number
    *(
        ("unset", {"inner": dict.fromkeys(["kind", "done", "names"], each)}, {"inner": Inner()})
        for each in ("", "null")
    ),
    ("unset", {"inner": {"age": 0}}, {"inner": Inner(age=0)}),
    ("whole-float", {"count": 10.0}, {"count": 10}),
    ("whole-float", {"count": -1.0}, {"count": -1}),
    ("whole-float", {"inner": {"age": 3.0}}, {"inner": Inner(age=3)}),
    ("value-as-text", {"flag": "true"}, {}),
    ("value-as-text", {"flag": "false"}, {"flag": False}),
    ("value-as-text", {"flag": " False "}, {"flag": False}),
    ("value-as-text", {"flag": 0}, {"flag": False}),
    ("value-as-text", {"flag": 1}, {}),
    ("value-as-text", {"count": "5"}, {"count": 5}),
    ("value-as-text", {"count": "5.0"}, {"count": 5}),
    ("value-as-text", {"share": "0.25"}, {"share": 0.25}),
    ("value-as-text", {"inner": {"done": "true", "age": "7"}}, {"inner": Inner(done=True, age=7)}),
    ("json-as-text", {"inner": '{"kind": "a"}'}, {"inner": Inner(kind="a")}),
    ("json-as-text", {"inner": '{"kind": "", "age": "7"}'}, {"inner": Inner(age=7)}),
    ("json-as-text", {"names": '["a", "b"]'}, {"names": ["a", "b"]}),
    *(("foreign-arguments", {name: "x"}, {}) for name in sorted(FOREIGN_ARGUMENTS)),
    ("foreign-arguments", {"tool": {"name": "fill"}, "toolCallId": "call_1", "flag": "false"}, {"flag": False}),
]


@requirement("tools.lenient-arguments")
@pytest.mark.parametrize(("rule", "given", "meant"), ROWS)
def test_arguments_are_read_as_they_were_meant(rule: str, given: dict[str, Any], meant: dict[str, Any]):
    """Each row can mean only one thing."""
    assert LENIENCIES[rule].where == "arguments"
    assert read(**given) == meant


@requirement("tools.lenient-arguments")
@pytest.mark.parametrize(
    "given",
    [
        {"id": ""},
        {"id": None},
        {"id": []},
        {"id": 5},
        {"count": 10.5},
        {"count": "many"},
        {"count": "1e3"},
        {"count": True},
        {"flag": "yes"},
        {"flag": 2},
        {"sort": "name"},
        {"sort": "ID"},
        {"names": "a"},
        {"names": ["a", 1]},
        {"inner": "kind"},
        {"inner": {"kind": "c"}},
        {"inner": {"tool": "x"}},
        {"word": 5},
        {"word": ["a"]},
        {"wrong": 1},
    ],
)
def test_what_could_mean_several_things_is_refused(given: dict[str, Any]):
    """A required argument isn't empty, and nothing is guessed."""
    if given == {"id": ""}:  # the tool decides
        assert fill.decode_arguments(b'{"id": ""}').id == ""  # pyright: ignore[reportAttributeAccessIssue]
        return
    with pytest.raises(InvalidInput):
        read(**given)


@requirement("tools.lenient-arguments")
@pytest.mark.parametrize("value", UNSET, ids=repr)
@pytest.mark.parametrize("name", TOOLS)
def test_a_form_with_empty_fields_is_a_call_without_them(name: str, value: Any):
    """Every optional argument of every tool takes what a form sends for an empty field."""
    tool = TOOLS[name]
    required = dict.fromkeys(tool.input_schema.get("required", []), "x")
    required |= {each: ["x"] for each in required if tool.input_schema["properties"][each]["type"] == "array"}
    required |= {each: {} for each in required if tool.input_schema["properties"][each]["type"] == "object"}
    if "config_type" in required:
        required["config_type"] = "content"
    optional = set(tool.input_schema["properties"]) - set(required)
    for argument in optional:
        tool.decode_arguments(msgspec.json.encode({**required, argument: value}))
    tool.decode_arguments(msgspec.json.encode({**required, **dict.fromkeys(optional, value)}))


@requirement("tools.lenient-arguments")
async def test_a_form_filling_client_can_call_every_tool(ask: Asking, project: Project):
    """With every optional field empty, and with what n8n adds."""
    project.save(text("note", "x"))
    for value in ("", "null", [], 0):
        empty = dict.fromkeys(("context", "force", "toolCallId", "sessionId"), value)
        assert (await ask("generate_content", content_config_id="note", **empty))["content"] == "x"
        for name in ("list_content", "list_artifacts", "list_content_configs", "list_generators", "hello_world"):
            assert await ask(name, **dict.fromkeys(TOOLS[name].input_schema["properties"], value))
        for name in ("validate_content", "cleanup_ephemeral"):
            required = {"content_or_config_id": "note"} if name == "validate_content" else {}
            others = set(TOOLS[name].input_schema["properties"]) - set(required)
            assert await ask(name, **required, **dict.fromkeys(others, value))
        batch = set(TOOLS["batch_generate"].input_schema["properties"]) - {"content_ids"}
        assert (await ask("batch_generate", content_ids=["note"], **dict.fromkeys(batch, value)))["total"] == 1


WRONG: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("list_content", {"sort": "size"}, ["generator", "id", "modified", "title"], "sort is one of"),
    (
        "list_content",
        {"filter": {"stage": "done"}},
        ["draft"],
        "filter.stage is one",
    ),
    ("list_content", {"filter": {"stag": "draft"}}, ["generator_type", "generated", "stage"], "Did you mean stage?"),
    ("list_content", {"filter": {"colour": 1}}, ["generator_type", "generated", "stage"], "filter has: generator_type"),
    ("list_content", {"fliter": {}}, ["filter", "sort", "limit"], "Did you mean filter?"),
    (
        "draft_config",
        {"config_type": "kind", "config_data": {}},
        ["content"],
        "config_type is one",
    ),
    ("list_generators", {"generator_type": "own"}, ["builtin", "plugin"], "generator_type is one of builtin, plugin."),
    ("cleanup_ephemeral", {"filter": {"ids": []}}, ["content_ids", "older_than_days"], "filter has: content_ids"),
]


@requirement("tools.error.invalid-input")
@pytest.mark.parametrize(("name", "given", "allowed", "hint"), WRONG)
async def test_a_wrong_value_or_name_comes_with_the_right_ones(
    ask: Asking, name: str, given: dict[str, Any], allowed: list[str], hint: str
):
    """Values of an enumeration, and the names at the depth of the wrong one."""
    refused = await ask.refused(name, "invalid_input", **given)
    assert [each for each in refused["details"]["allowed"] if each in allowed] == allowed
    assert hint in refused["hint"]
