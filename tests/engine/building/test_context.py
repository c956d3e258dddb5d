"""The context of one text: precedence, required sources and variables, and optional ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.catalog import FoundConfig
from chora.config_parsing import parse_config
from chora.engine.building import context as module
from chora.engine.building.context import GatheredContext, deep_merge, gather_context, json_type
from chora.engine.engine import Engine
from chora.errors import Busy, ChoraError, GenerationFailed, LimitExceeded
from chora.sources.source import SourceAccess
from tests.conftest import Project, content, requirement

# -- merge ------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@requirement("context.deep-merge")
def test_objects_merge_deeply_and_everything_else_replaces():
    """Arrays and scalars are replaced whole by the higher value, also of another type."""
    low = {"a": {"x": 1, "y": [1, 2]}, "b": [1, 2, 3], "c": {"d": 1}, "e": 5}
    high = {"a": {"y": [3], "z": None}, "b": [9], "c": "text", "e": {"f": 1}}
    assert deep_merge(low, high) == {"a": {"x": 1, "y": [3], "z": None}, "b": [9], "c": "text", "e": {"f": 1}}


@given(objects)
def test_merging_with_an_empty_object_changes_nothing(data: dict[str, Any]):
    """On either side."""
    assert deep_merge(data, {}) == data == deep_merge({}, data)
    assert deep_merge(data, data) == data


@given(objects, objects, objects)
def test_the_higher_value_wins(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]):
    """A value that is no object replaces the lower one; keys that only the lower one has stay."""
    merged = deep_merge(deep_merge(one, two), three)
    assert set(merged) == {*one, *two, *three}
    for key, value in three.items():
        if not isinstance(value, dict):
            assert merged[key] == value
    for key in set(one) - set(two) - set(three):
        assert merged[key] == one[key]


@given(objects, objects)
def test_merging_changes_neither_side(low: dict[str, Any], high: dict[str, Any]):
    """Both can be used again."""
    before = repr((low, high))
    deep_merge(low, high)
    assert repr((low, high)) == before


@given(objects, objects)
def test_every_leaf_comes_from_one_of_both(low: dict[str, Any], high: dict[str, Any]):
    """A path into the result leads to what `high` has there, else to what `low` has."""

    def check(merged: Any, below: Any, above: Any) -> None:
        for key, value in merged.items():
            if key not in above:
                assert value == below[key]
            elif isinstance(value, dict) and isinstance(above[key], dict) and isinstance(below.get(key), dict):
                check(value, below[key], above[key])
            else:
                assert value == above[key]

    check(deep_merge(low, high), low, high)


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, "null"), (True, "boolean"), (1, "number"), (1.5, "number"), ("", "string"), ([], "array"), ({}, "object")],
)
def test_types_go_by_their_json_names(value: Any, name: str):
    """As in JSON Schema."""
    assert json_type(value) == name


# -- gather -----------------------------------------------------------------------------------------------------


def no_texts(content_id: str, strategy: str) -> list[str]:
    return []


def ignore(path: str) -> None:
    pass


def ignore_other(name: str, digest: str) -> None:
    pass


class Bench:
    """Gathers the context for a config with the given parts."""

    def __init__(self, engine: Engine) -> None:
        self.error: ChoraError | None = None
        self.reach = SourceAccess(
            engine.folder, engine.catalog, engine.templates.pool, self.generate, no_texts, ignore, ignore_other
        )

    async def generate(self, found: FoundConfig) -> str:
        if self.error:
            raise self.error
        return f"the text of {found.path}"

    async def gather(
        self, sources: list[dict[str, Any]] | None = None, context: Any = None, caller: dict[str, Any] | None = None
    ) -> GatheredContext:
        options = {} if context is None else {"context": context}
        pattern = {"type": "jinja2", "template": "x\n", "generation_config": options}
        config = parse_config("content", content("note", pattern=pattern, sources=sources or []), where="note").config
        return await gather_context(config, "jinja2", caller or {}, self.reach)

    async def fail(self, *args: Any, **more: Any) -> GenerationFailed:
        with pytest.raises(GenerationFailed) as failed:
            await self.gather(*args, **more)
        error = failed.value
        assert error.hint
        assert error.details["generator_type"] == "jinja2"
        assert error.details["content_config_id"] == "note"
        assert "content_id" in error.details["available_context"]
        return error


@pytest.fixture
def bench(engine: Engine) -> Bench:
    return Bench(engine)


def inline(name: str, data: Any, **rest: Any) -> dict[str, Any]:
    return {"id": name, "type": "inline_data", "data": data, **rest}


async def test_the_context_begins_with_the_reserved_names(bench: Bench):
    """Also for a config without anything else."""
    assert await bench.gather() == GatheredContext({"content_id": "note"}, [], [], True)


@requirement("context.precedence")
async def test_the_caller_takes_precedence_over_sources_and_the_config(bench: Bench):
    """From low to high: reserved names, pattern, sources in order, caller; objects merge deeply."""
    gathered = await bench.gather(
        [inline("a", {"two": 2, "x": "source"}), inline("a", {"three": 3}), inline("b", [2])],
        {"a": {"one": 1, "x": "pattern"}, "b": [1], "c": "pattern", "content_id": "mine"},
        {"a": {"four": 4, "x": "caller"}, "b": [3]},
    )
    assert gathered.context == {
        "content_id": "mine",
        "a": {"one": 1, "two": 2, "three": 3, "four": 4, "x": "caller"},
        "b": [3],
        "c": "pattern",
    }


async def test_an_error_lists_the_names_of_the_context_in_order(bench: Bench):
    """Whatever defines them, in whatever order."""
    error = await bench.fail(
        [inline("wind", 1), inline("area", 2)],
        {"zone": 1, "berth": 2, "day": {"source": "runtime", "required": True}},
        {"tide": 1},
    )
    assert error.details["missing_variable"] == "day"
    assert error.details["available_context"] == ["area", "berth", "content_id", "tide", "wind", "zone"]


@requirement("sources.landing")
async def test_a_source_without_an_id_adds_its_own_names(bench: Bench):
    """In the short form an object is merged into the context; any other value needs an id."""
    bench.reach.folder.root.joinpath("data.json").write_text('{"a": 1, "list": [1]}')
    gathered = await bench.gather(
        [{"type": "external_file", "path": "data.json"}, {"type": "inline_data", "data": {"b": 2}}]
    )
    assert gathered.context == {"content_id": "note", "a": 1, "list": [1], "b": 2}
    named = await bench.gather(
        [{"type": "external_file", "path": "data.json", "selector": "$.list", "output_as": "rows"}]
    )
    assert named.context["rows"] == [1]
    error = await bench.fail([{"type": "external_file", "path": "data.json", "selector": "$.list"}])
    assert "needs an `output_as` or `id`" in error.message


async def test_a_selector_selects_part_of_a_value(bench: Bench, project: Project):
    """It applies to the source's value; `output` is for content sources only."""
    project.write("a.md", "# A\nx\n# B\ny\n")
    project.save(content("other"))
    file = {"id": "part", "source_type": "external_file", "source_locator": "a.md"}
    assert (await bench.gather([{**file, "data_selector": "# B"}])).context["part"] == "# B\ny\n"
    assert (await bench.gather([{**file, "data_selector": "whole_content"}])).context["part"] == "# A\nx\n# B\ny\n"
    other = {"id": "part", "source_type": "content_config", "source_locator": "other"}
    assert (await bench.gather([{**other, "data_selector": "$.id"}])).context["part"] == "other"
    text = (await bench.gather([{**other, "data_selector": "output"}])).context["part"]
    assert text == "the text of configs/content/other.json"
    assert "is not a selector" in (await bench.fail([{**file, "data_selector": "output"}])).message


@requirement("context.file-values")
async def test_a_value_of_the_context_may_be_a_file(bench: Bench, project: Project):
    """`{source: file, path}` is read; a value of any other shape is data."""
    project.write("data/a.yaml", "x: [1]\n")
    context = {"data": {"source": "file", "path": "data/a.yaml"}, "other": {"source": "config", "path": "p"}, "n": 1}
    gathered = await bench.gather([], context)
    assert gathered.context == {
        "content_id": "note",
        "data": {"x": [1]},
        "other": {"source": "config", "path": "p"},
        "n": 1,
    }
    for broken in ({"source": "file", "path": "none"}, {"source": "file"}):
        error = await bench.fail([], {"data": broken})
        assert error.details["source_id"] == "data"
        assert error.details["source_type"] == "external_file"


MISSING = {"id": "data", "source_type": "external_file", "source_locator": "none.json"}


@requirement("sources.required")
async def test_a_required_source_without_a_value_fails_the_text(bench: Bench):
    """The details have the source, its type and the reason."""
    error = await bench.fail([MISSING])
    assert error.message == "note: the source data has no value: there is no file none.json."
    assert error.details["source_id"] == "data"
    assert error.details["source_type"] == "external_file"
    assert error.details["error"] == "there is no file none.json"
    assert error.details["error_type"] == "SourceFailed"


@requirement("sources.optional")
async def test_an_optional_source_without_a_value_is_null_and_a_warning(bench: Bench):
    """Under its id it is null; without an id it adds nothing."""
    nameless = {"type": "external_file", "path": "none.json", "required": False}
    gathered = await bench.gather([{**MISSING, "required": False}, nameless], {"data": "below"}, {"more": 1})
    assert gathered.context == {"content_id": "note", "data": None, "more": 1}
    assert gathered.warnings == [
        "The optional source data has no value: there is no file none.json",
        "The optional source none.json has no value: there is no file none.json",
    ]


@pytest.mark.parametrize("kind", ["git_reference", "artifact_config", "ephemeral_output"])
async def test_a_source_that_has_nothing_is_named(bench: Bench, kind: str):
    """With what it looked for; an optional one is a warning."""
    source = {"id": "x", "source_type": kind, "source_locator": "a:b"}
    error = await bench.fail([source])
    assert "the source x has no value" in error.message
    gathered = await bench.gather([{**source, "required": False}])
    assert gathered.context["x"] is None
    assert len(gathered.warnings) == 1


async def test_a_server_failure_fails_optional_sources_too(bench: Bench, project: Project):
    """A null would be wrong, and be stored."""
    project.save(content("other"))
    bench.error = Busy("Too many renders are waiting.")
    source = {"id": "x", "source_type": "content_config", "source_locator": "other", "data_selector": "output"}
    with pytest.raises(Busy):
        await bench.gather([{**source, "required": False}])


@requirement("sources.limits")
async def test_sources_have_a_largest_size_together(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """Many files of moderate size exceed it as well."""
    monkeypatch.setattr(module, "SOURCES_LIMIT", 1000)
    await bench.gather([inline("a", "x" * 450), inline("b", "x" * 450)])
    with pytest.raises(LimitExceeded) as failed:
        await bench.gather([inline("a", "x" * 450), inline("b", "x" * 450), inline("a", "x" * 450)])
    assert failed.value.details["limit"] == "content.sources"
    assert failed.value.hint


# -- declared variables -----------------------------------------------------------------------------------------


def declared(**rest: Any) -> dict[str, Any]:
    return {"source": "runtime", **rest}


@requirement("rulings.c36")
async def test_a_declared_variable_takes_the_callers_value_or_its_default(bench: Bench):
    """Without either it is undefined; the declaration itself is never data."""
    context = {
        "a": declared(default="A"),
        "b": declared(default={"x": 1}),
        "c": declared(),
        "d": declared(default=None),
    }
    assert (await bench.gather([], context)).context == {"content_id": "note", "a": "A", "b": {"x": 1}, "d": None}
    given = {"a": "mine", "b": {"y": 2}, "c": 5, "d": 0}
    assert (await bench.gather([], context, given)).context == {"content_id": "note", **given}


async def test_a_source_may_provide_a_declared_variable(bench: Bench):
    """Then the caller needn't pass it."""
    gathered = await bench.gather([inline("a", 5)], {"a": declared(required=True, type="number")})
    assert gathered.context["a"] == 5


async def test_a_required_variable_that_is_not_given_is_named(bench: Bench):
    """With its description, and how to pass it."""
    error = await bench.fail([], {"day": declared(required=True, description="ISO date"), "b": declared(default=1)})
    assert error.message == "note: the context lacks day (ISO date)."
    assert error.hint == 'Pass it in context, for example {"day":"…"}.'
    assert error.details["missing_variable"] == "day"
    assert error.details["error_type"] == "MissingVariable"
    assert (await bench.fail([], {"day": declared(required=True)})).message == "note: the context lacks day."


@pytest.mark.parametrize(
    ("kind", "fitting", "other"),
    [
        ("string", ["", "x"], [1, None, True, [], {}]),
        ("number", [1, 1.5, -3], ["1", True, None]),
        ("integer", [1, -3], [1.5, "1", True]),
        ("boolean", [True, False], [0, 1, "true", None]),
        ("array", [[], [1]], [{}, "[]"]),
        ("object", [{}, {"a": 1}], [[], "{}", None]),
        ("int", [5], ["5"]),
        ("whatever", [5, "x", None], []),
        (None, [5, "x", None], []),
    ],
)
async def test_a_declared_type_is_checked(bench: Bench, kind: str | None, fitting: list[Any], other: list[Any]):
    """By JSON's types; a boolean isn't a number; an unknown type accepts any value."""
    context = {"v": declared(type=kind)}
    for value in fitting:
        assert (await bench.gather([], context, {"v": value})).context["v"] == value
    for value in other:
        error = await bench.fail([], context, {"v": value})
        wanted = {"int": "integer"}.get(kind or "", kind)
        assert error.message == f"note: v is of type {json_type(value)}, not {wanted}."
        assert error.details["variable"] == "v"
        assert error.details["expected_type"] == wanted
        assert error.details["received_type"] == json_type(value)
        assert error.details["error_type"] == "WrongType"
