"""Generating one text: when it is generated again, what it depends on, and what is stored and reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio

from chora import llm, settings
from chora.config_parsing import parse_config
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import BuiltContent, build_content, gather_content
from chora.engine.building.gather import generator_name
from chora.engine.engine import Engine, open_engine
from chora.errors import (
    Busy,
    GenerationFailed,
    GeneratorNotFound,
    LimitExceeded,
    StorageError,
    StorageFailed,
)
from chora.generators import demonstration, jinja2, template_fill
from chora.render.pool import RenderPool
from chora.store import SqliteStore, Version
from tests.conftest import Project, content, requirement, text, unchanged
from tests.patience import PATIENCE, may_have_taken

INCLUDING = {"type": "jinja2", "template": "page.j2", "generation_config": {"context": {"name": "part.j2"}}}


async def run(
    engine: Engine, content_id: str = "note", context: dict[str, Any] | None = None, **rest: Any
) -> BuiltContent:
    parsed = engine.catalog.find_config("content", content_id).parsed
    return await build_content(Build(engine, **rest), parsed, CallerContext(context or {}))


def events(project: Project) -> list[dict[str, Any]]:
    file = project.root / "var/telemetry/events.jsonl"
    return [msgspec.json.decode(line) for line in file.read_bytes().splitlines()] if file.exists() else []


# -- the fingerprint --------------------------------------------------------------------------------------------


@pytest.fixture
def page(project: Project) -> Project:
    """A content that uses every kind of input."""
    project.write("data/day.json", '{"name": "Friday"}')
    project.write("templates/page.j2", "{% include 'head.j2' %} {{ day.name }} {{ who }} {% include name %}\n")
    project.write("templates/head.j2", "Head")
    project.write("templates/part.j2", "Part")
    project.write("templates/candidate.j2", "Candidate")
    sources = [{"id": "day", "source_type": "external_file", "source_locator": "data/day.json"}]
    project.save(content("note", pattern=INCLUDING, sources=sources))
    return project


def change_config(project: Project) -> None:
    document = msgspec.json.decode(project.read("configs/content/note.json"))
    document["metadata"]["description"] = "Another description"
    project.save(document)


CHANGES: dict[str, Callable[[Project], object]] = {
    "config": change_config,
    "template": lambda project: project.write("templates/page.j2", project.read("templates/page.j2") + " "),
    "included template": lambda project: project.write("templates/head.j2", "Another head"),
    "candidate of a computed include": lambda project: project.write("templates/candidate.j2", "Another"),
    "new candidate": lambda project: project.write("templates/new.j2", "New"),
    "source file": lambda project: project.write("data/day.json", '{"name": "Saturday"}'),
    "template that hides another": lambda project: project.write("page.j2", "hiding"),
}


@requirement("cache.fingerprint")
@pytest.mark.parametrize("what", CHANGES)
async def test_any_changed_input_generates_a_text_again(page: Project, engine: Engine, what: str):
    """Equal inputs return the stored text; one changed byte in any of them generates a new one."""
    first = await run(engine, context={"who": "Ada"})
    assert (first.status, first.version.body) == ("generated", "Head Friday Ada Part")
    again = await run(engine, context={"who": "Ada"})
    assert again == first._replace(status="skipped")
    CHANGES[what](page)
    changed = await run(engine, context={"who": "Ada"})
    assert changed.status == "regenerated"
    assert changed.version.fingerprint != first.version.fingerprint
    assert changed.version.version_id > first.version.version_id
    assert (await run(engine, context={"who": "Ada"})).status == "skipped"


async def test_a_change_of_the_context_generates_it_again(page: Project, engine: Engine):
    """Another value gives another text; the earlier one is found again; the order of keys doesn't matter."""
    ada = await run(engine, context={"who": "Ada", "more": 1})
    bob = await run(engine, context={"who": "Bob", "more": 1})
    assert (ada.status, bob.status) == ("generated", "regenerated")
    once_more = await run(engine, context={"more": 1, "who": "Ada"})
    assert (once_more.status, once_more.version) == ("skipped", ada.version)
    assert (await run(engine, context={"who": "Ada", "more": 1.5})).status == "regenerated"


@requirement("cache.fingerprint")
async def test_a_new_generator_version_generates_it_again(
    page: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """An older version of the generator may have made another text."""
    await run(engine, context={"who": "Ada"})
    monkeypatch.setattr(engine.generators.by_name["jinja2"], "version", "9.9.9")
    changed = await run(engine, context={"who": "Ada"})
    assert (changed.status, changed.version.generator_version) == ("regenerated", "9.9.9")


async def test_the_setting_for_undefined_names_is_an_input(project: Project, engine: Engine):
    """Lenient and strict may give different texts."""
    project.save(
        content(
            "note", pattern={"type": "template_fill", "template": "{{ x }}", "generation_config": {"context": {"x": 1}}}
        )
    )
    await run(engine)
    templates = msgspec.structs.replace(engine.settings.templates, undefined="lenient")
    engine.settings = msgspec.structs.replace(engine.settings, templates=templates)
    assert (await run(engine)).status == "regenerated"


@requirement("cache.force")
async def test_force_generates_it_again_from_equal_inputs(page: Project, engine: Engine):
    """With the same fingerprint; the newest of equal ones is found."""
    first = await run(engine, context={"who": "Ada"})
    forced = await run(engine, context={"who": "Ada"}, force=True)
    assert forced.status == "regenerated"
    assert forced.version.fingerprint == first.version.fingerprint
    assert (await run(engine, context={"who": "Ada"})).version == forced.version


@pytest.mark.parametrize("generator", [demonstration, template_fill])
async def test_the_template_file_of_any_generator_is_an_input(project: Project, engine: Engine, generator: Any):
    """Not only Jinja's."""
    project.write("note.txt", "one")
    pattern = {"type": generator.NAME, "template": "note.txt"}
    project.save(content("note", pattern=pattern, elements=text("x", "y")["elements"]))
    assert (await run(engine)).version.body == "one"
    assert (await run(engine)).status == "skipped"
    project.write("note.txt", "two")
    assert (await run(engine)).version.body == "two"


async def test_the_text_of_another_content_is_an_input(project: Project, engine: Engine):
    """A content that uses it as a source is generated again."""
    source = {"id": "other", "source_type": "content_config", "source_locator": "other", "data_selector": "output"}
    project.save(
        text("other", "one"),
        content("note", pattern={"type": "template_fill", "template": "<{{ other }}>"}, sources=[source]),
    )
    assert (await run(engine)).version.body == "<one>"
    assert (await run(engine)).status == "skipped"
    project.save(text("other", "two"))
    changed = await run(engine)
    assert (changed.status, changed.version.body) == ("regenerated", "<two>")
    latest = engine.store.latest_version("other")
    assert latest is not None
    assert latest.body == "two"
    await run(engine, force=True)
    assert len(engine.store.versions("other")) == 3, "force reaches the sources"


# -- versions, warnings and events ------------------------------------------------------------------------------


async def test_a_version_stores_how_it_was_generated(page: Project, engine: Engine):
    """Generator, config, review status, variables, template and the previous version."""
    first = (await run(engine, context={"who": "Ada"})).version
    second = (await run(engine, context={"who": "Bob"})).version
    assert engine.store.versions("note") == [first, second]
    assert (second.generator, second.generator_version) == ("jinja2", jinja2.VERSION)
    assert (second.config_version, second.stage) == ("1.0.0", "draft")
    assert 0 <= second.metadata["generation_time_ms"] < 60_000
    assert second.metadata == {
        "context_variables": ["day", "name", "who"],
        "generation_time_ms": second.metadata["generation_time_ms"],
        "template": "page.j2",
        "warnings": [],
        "previous": first.version_id,
        "made_with": "call",
    }
    assert first.metadata["previous"] is None


async def test_warnings_are_the_same_from_the_store(project: Project, engine: Engine):
    """Those of sources and of rendering, whether the text is new or skipped."""
    source = {"id": "gone", "source_type": "external_file", "source_locator": "gone.json", "required": False}
    options = {"undefined": "lenient"}
    project.save(
        content(
            "note", pattern={"type": "jinja2", "template": "{{ x }}!", "generation_config": options}, sources=[source]
        )
    )
    fresh = await run(engine)
    assert fresh.warnings == [
        "The optional source gone has no value: there is no file gone.json",
        "x is undefined and was rendered empty",
    ]
    again = await run(engine)
    assert (again.status, again.warnings) == ("skipped", fresh.warnings)


@requirement("events.content-generated")
async def test_generating_a_text_emits_an_event(project: Project, engine: Engine):
    """On success, failure and when a stored text is returned, with the generator, how long what took, and the code."""
    project.save(
        text("note", "one"), content("bad", pattern={"type": "template_fill", "template": "{{ x }}"}), content("none")
    )
    await run(engine)
    await run(engine)
    for content_id in ("bad", "none"):
        with pytest.raises(GenerationFailed):
            await run(engine, content_id)
    reported = [
        (each["event_type"], each["status"], each["content_config_id"], each["generator_type"])
        for each in events(project)
    ]
    assert reported == [
        ("chora.content_generated", "success", "note", "demonstration"),
        ("chora.content_generated", "success", "note", "demonstration"),
        ("chora.content_generated", "error", "bad", "template_fill"),
        ("chora.content_generated", "error", "none", None),
    ]
    assert [each["cache_hit"] for each in events(project)] == [False, True, False, False]
    assert [list(each["phases"]) for each in events(project)] == [
        ["gather_ms", "generate_ms", "store_ms"],
        [],
        ["gather_ms"],
        [],
    ]
    assert [each["error_code"] for each in events(project)] == [None, None, *["generation_failed"] * 2]
    assert [each["error_message"] for each in events(project)] == [
        None,
        None,
        "bad: no value for x.",
        "none names no generator.",
    ]
    assert all(may_have_taken(each["duration_ms"] / 1000) for each in events(project))


class FailingStore(SqliteStore):
    """A store on a full disk: it can be read, but refuses every new version."""

    async def add_version(self, version: Version) -> Version:
        raise StorageError("The database failed: full.", "Free some disk space.", storage_path="x", errno=28)


async def test_a_text_that_cannot_be_stored_is_a_failure(project: Project, engine: Engine, tmp_path: Path):
    """Although it was generated; the details are the store's."""
    project.save(text("note", "one"))
    engine.store = FailingStore(tmp_path / "full.db")
    with pytest.raises(StorageFailed) as failed:
        await run(engine)
    engine.store.close()
    assert failed.value.message == "note was generated but couldn't be stored: The database failed: full."
    assert failed.value.hint == "Free some disk space."
    assert {**failed.value.details, "storage_path": "x", "errno": 28, "path": "x"} == failed.value.details
    assert events(project)[-1]["status"] == "error"


# -- the generator ----------------------------------------------------------------------------------------------


@requirement("generators.selection")
@pytest.mark.parametrize(
    ("parts", "generator"),
    [
        ({"pattern": {"type": "jinja2"}}, "jinja2"),
        ({"pattern": {"type": "unknown"}}, "unknown"),
        ({"elements": [{"name": "a", "format": "text", "example_output": ""}]}, "demonstration"),
        ({"elements": [{"name": "a", "format": "text", "example_output": "x"}, {"name": "b", "format": "text"}]}, None),
        ({}, None),
    ],
)
def test_a_generator_is_chosen_by_pattern_or_by_examples(parts: dict[str, Any], generator: str | None):
    """The pattern's type; without patterns, demonstration if every element has an example."""
    assert generator_name(parse_config("content", content("note", **parts), where="note").config) == generator


async def test_the_first_pattern_is_used(project: Project, engine: Engine):
    """The others are alternatives for a person to put first."""
    patterns = [
        {"id": name, "type": "template_fill", "template": name, "generation_config": {}} for name in ("first", "second")
    ]
    document = content("note")
    document["generation"] = {"patterns": patterns}
    project.save(document)
    assert (await run(engine)).version.body == "first"


async def test_the_error_of_an_unknown_generator_lists_the_available_ones(project: Project, engine: Engine):
    """With the unknown type, in the details."""
    project.save(content("note", pattern={"type": "unknown"}))
    with pytest.raises(GeneratorNotFound) as failed:
        await run(engine)
    assert failed.value.details == {
        "generator_type": "unknown",
        "available_generators": ["demonstration", "jinja2", "template_fill", "bdd_scenario", "code_generation"],
    }
    assert "Write one of demonstration, jinja2, template_fill, bdd_scenario, code_generation" in str(failed.value.hint)


@requirement("generators.selection")
async def test_a_config_without_a_generator_says_what_to_add(project: Project, engine: Engine):
    """The hint says: patterns, or examples."""
    project.save(content("note"))
    with pytest.raises(GenerationFailed) as failed:
        await run(engine)
    assert failed.value.details == {
        "content_config_id": "note",
        "generator_type": None,
        "error_type": "MissingGenerator",
    }
    assert "generation.patterns" in str(failed.value.hint)


async def test_a_dry_run_makes_everything_in_memory(project: Project, engine: Engine):
    """Texts of other contents too; nothing is stored, emitted or written."""
    source = {"id": "other", "source_type": "content_config", "source_locator": "other", "data_selector": "output"}
    project.save(
        text("other", "one"),
        content("note", pattern={"type": "template_fill", "template": "<{{ other }}>"}, sources=[source]),
    )
    with unchanged(project):
        prepared = await gather_content(
            Build(engine, dry=True), engine.catalog.find_config("content", "note").parsed, CallerContext({"x": 1})
        )
        assert (await prepared.generate_text()).text == "<one>"
    assert prepared.variables == ["other", "x"]
    assert engine.store.counts()["versions"] == 0
    assert events(project) == []


# -- contents with contents as sources --------------------------------------------------------------------------


def taking(content_id: str, *others: str, required: bool = True) -> dict[str, Any]:
    """A content with the texts of others as sources."""
    sources = [
        {
            "id": f"s{number}",
            "source_type": "content_config",
            "source_locator": other,
            "data_selector": "output",
            "required": required,
        }
        for number, other in enumerate(others)
    ]
    template = "".join(f"{{{{ s{number} }}}}" for number in range(len(others)))
    options = {"undefined_behavior": "empty"}
    return content(
        content_id,
        pattern={"type": "template_fill", "template": template, "generation_config": options},
        sources=sources,
    )


def failing(document: dict[str, Any]) -> dict[str, Any]:
    """The same, with an undefined name in its template."""
    document["generation"]["patterns"][0] |= {"template": "{{ nothing }}", "generation_config": {}}
    return document


async def test_contents_that_depend_on_each_other_fail(project: Project, engine: Engine):
    """The error spells the cycle out, also when a content depends on itself."""
    project.save(taking("a", "b"), taking("b", "c"), taking("c", "b"), taking("self", "self"))
    with pytest.raises(GenerationFailed, match="The contents are sources of one another in a circle: a → b → c → b"):
        await run(engine, "a")
    with pytest.raises(GenerationFailed, match="self → self"):
        await run(engine, "self")
    with pytest.raises(GenerationFailed) as failed:
        await gather_content(
            Build(engine), engine.catalog.find_config("content", "a").parsed, CallerContext({}), dependents=("a", "b")
        )
    assert failed.value.details["cycle"] == ["a", "b", "a"]
    assert failed.value.details["error_type"] == "CircularReference"
    assert failed.value.hint


async def test_an_optional_source_that_closes_a_cycle_is_null(project: Project, engine: Engine):
    """With a warning."""
    project.save(taking("a", "b", "c"), taking("b", "a", "c", required=False), text("c", "x"))
    made = await run(engine, "a")
    assert made.version.body == "xx"


async def test_a_chain_has_a_largest_length(project: Project, engine: Engine):
    """Ten contents may depend on one another in a row, not eleven."""
    project.save(text("t0", "x"), *(taking(f"t{number}", f"t{number - 1}") for number in range(1, 12)))
    assert (await run(engine, "t9")).version.body == "x"
    with pytest.raises(GenerationFailed, match="more than 10 deep"):
        await run(engine, "t10")
    with pytest.raises(LimitExceeded) as failed:
        await gather_content(
            Build(engine), engine.catalog.find_config("content", "t0").parsed, CallerContext({}), dependents=("x",) * 10
        )
    assert failed.value.details["limit"] == "content.chain"
    assert failed.value.hint


async def test_a_text_with_many_dependents_is_generated_once_per_call(project: Project, engine: Engine):
    """Contents that fan out would otherwise take exponential time, with force or when failing too."""
    many = 12
    project.save(
        text("t0", "x"),
        *(taking(f"t{number}", *[f"t{number - 1}"] * many) for number in range(1, 4)),
        content("u0"),
        *(failing(taking(f"u{number}", *[f"u{number - 1}"] * many, required=False)) for number in range(1, 9)),
    )
    with trio.fail_after(PATIENCE):
        for status in ("generated", "regenerated"):
            made = await run(engine, "t3", force=True)
            assert (made.status, made.version.body) == (status, "x" * many**3)
        assert [len(engine.store.versions(f"t{number}")) for number in range(4)] == [2, 2, 2, 2]
        with pytest.raises(GenerationFailed, match="u8: no value for nothing"):
            await run(engine, "u8")
        prepared = await gather_content(
            Build(engine, dry=True), engine.catalog.find_config("content", "t3").parsed, CallerContext({})
        )
        assert len((await prepared.generate_text()).text) == many**3


async def test_the_callers_context_is_for_the_requested_content(project: Project, engine: Engine):
    """It isn't passed on to the contents that it uses as sources."""
    inner = content("inner", pattern={"type": "jinja2", "template": "{{ who | default('unknown') }}"})
    project.save(inner, taking("outer", "inner"))
    assert (await run(engine, "outer", {"who": "me"})).version.body == "unknown"


async def test_a_busy_server_fails_the_whole_call(project: Project, engine: Engine):
    """It isn't reported as a source without a value."""
    project.save(
        content("inner", pattern={"type": "jinja2", "template": "{{ 1 }}"}), taking("outer", "inner", required=False)
    )
    engine.templates.pool = RenderPool(settings.RenderSettings())  # a generator that fails as busy
    with pytest.raises(Busy, match="workers aren't running"):
        await run(engine, "outer")
    assert engine.store.counts()["versions"] == 0


# -- projects of chora-compose ----------------------------------------------------------------------------------


@requirement("rulings.c32")
async def test_without_chora_toml_undefined_names_are_warnings(project: Project):
    """The templates of a chora-compose project were written for empty values; template_fill refused missing ones, null
    too."""
    (project.root / "chora.toml").unlink()
    project.save(
        content("jinja", pattern={"type": "jinja2", "template": "<{{ x }}>"}),
        content("fill", pattern={"type": "template_fill", "template": "<{{ x }}>"}),
        content(
            "empty",
            pattern={
                "type": "template_fill",
                "template": "<{{ x }}>",
                "generation_config": {"undefined_behavior": "empty"},
            },
        ),
    )
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        for content_id in ("jinja", "empty"):
            made = await run(engine, content_id)
            assert made.version.body == "<>"
            assert len(made.warnings) == 1
            assert made.warnings[0].startswith("x ")
        for context in ({}, {"x": None}):
            with pytest.raises(GenerationFailed, match="no value for x"):
                await run(engine, "fill", context=context)
    environment = {"CHORA_TEMPLATES_UNDEFINED": "lenient", "CHORA_CONFIGS_RULES": "chora"}
    lenient = settings.load(project.root, environment).settings
    async with open_engine(project.root, lenient) as engine:
        assert (await run(engine, "fill")).version.body == "<>"


async def test_two_calls_at_once_both_get_the_text(project: Project, engine: Engine):
    """In whatever order they run."""
    project.save(content("note", pattern={"type": "template_fill", "template": "{{ who }}"}))
    bodies: dict[str, str] = {}

    async def one(who: str) -> None:
        bodies[who] = (await run(engine, context={"who": who})).version.body

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, str(number % 4))
    assert bodies == {who: who for who in "0123"}


# -- reserved names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ({"type": "template_fill", "template": "plain"}, 1),
        ({"type": "template_fill", "template": "{{ member_id }}"}, 2),
        ({"type": "jinja2", "template": "{{ member_id | default('unknown') }}"}, 2),
        ({"type": "jinja2", "template": "{% include 'part.j2' %}"}, 2),
        ({"type": "jinja2", "template": "{% include 'plain.j2' %}"}, 1),
        ({"type": "template_fill", "template": "{{ x }}", "generation_config": {"context": {"x": "member_id"}}}, 2),
        ({"type": "gauge"}, 2),
    ],
)
async def test_reserved_names_are_inputs_where_they_are_mentioned(
    project: Project, pattern: dict[str, Any], texts: int
):
    """A text that doesn't mention them is one text for all members; a plugin's code can't be inspected, so it always
    gets them.
    """
    project.write("chora.toml", '[plugins]\ngenerators = ["gauge.py"]\n')
    project.write("gauge.py", PLUGIN)
    project.write("templates/part.j2", "{{ member_id | default('unknown') }}")
    project.write("templates/plain.j2", "plain")
    pattern["generation_config"] = {"undefined_behavior": "empty", **pattern.get("generation_config", {})}
    project.save(content("note", pattern=pattern))
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        parsed = engine.catalog.find_config("content", "note").parsed
        for member in ("one", "two"):
            made = await build_content(
                Build(engine), parsed, CallerContext({}).with_reserved(member_id=member, collection_id="pack")
            )
            assert made.variables == (["x"] if "context" in pattern["generation_config"] else [])
        assert len(engine.store.versions("note")) == texts
        own = await build_content(Build(engine), parsed, CallerContext({"member_id": "mine"}, {"member_id": "theirs"}))
        assert texts == 1 or "x" in own.variables or "mine" in own.version.body


PLUGIN = """
from chora.generators.generator import GeneratedText
NAME, VERSION, DESCRIPTION, CAPABILITIES = "gauge", "1", "Shows its member.", ()
async def generate(job):
    return GeneratedText(job.context["member_id"])
"""


# -- chains, cycles and traces ----------------------------------------------------------------------------------


async def test_a_stored_text_counts_with_its_depth(project: Project, engine: Engine):
    """A chain can't exceed the greatest length because a part of it is already generated."""
    project.save(text("t0", "x"), *(taking(f"t{number}", f"t{number - 1}") for number in range(1, 12)))
    for number in range(10):
        made = await run(engine, f"t{number}")
        assert made.depth == number + 1
        assert (await run(engine, f"t{number}")) == made._replace(status="skipped")
    for _ in range(2):
        with pytest.raises(GenerationFailed, match="more than 10 deep"):
            await run(engine, "t10")
    assert (await run(engine, "t9")).status == "skipped"


async def test_where_a_cycle_is_cut_does_not_affect_other_contents(project: Project, engine: Engine):
    """Within one call, a text cut short on the way from one content is complete on the way from another."""
    project.save(taking("a", "b"), taking("b", "a", required=False), taking("c", "a"))
    for first in ("a", "b"):
        build = Build(engine)
        for content_id in (first, "c", "a", "b"):
            parsed = engine.catalog.find_config("content", content_id).parsed
            assert (await build_content(build, parsed, CallerContext({}))).version.body == ""
    project.save(text("t0", "x"), *(taking(f"t{number}", f"t{number - 1}") for number in range(1, 12)))
    build = Build(engine)
    with pytest.raises(GenerationFailed, match="more than 10 deep"):
        await build_content(build, engine.catalog.find_config("content", "t11").parsed, CallerContext({}))
    assert (
        await build_content(build, engine.catalog.find_config("content", "t5").parsed, CallerContext({}))
    ).version.body == "x"


async def test_contents_that_all_depend_on_each_other_take_bounded_time(project: Project, engine: Engine):
    """With optional cycles everywhere, each content is visited once for each requested one."""
    names = [f"k{number}" for number in range(9)]
    project.save(*(taking(name, *(other for other in names if other != name), required=False) for name in names))
    build = Build(engine)
    with trio.fail_after(PATIENCE):
        for name in names:
            await build_content(build, engine.catalog.find_config("content", name).parsed, CallerContext({}))
    assert sum(len(engine.store.versions(name)) for name in names) <= 9 * 9


async def test_a_text_without_an_optional_source_is_checked_every_time(project: Project, engine: Engine):
    """It isn't generated again for that, nor is its dependent; once the source exists, both are."""
    source = {"id": "late", "source_type": "external_file", "source_locator": "late.txt", "required": False}
    pattern = {"type": "jinja2", "template": "<{{ late or 'nothing' }}>"}
    project.save(content("note", pattern=pattern, sources=[source]), taking("outer", "note"))
    first = await run(engine, "outer")
    assert (first.version.body, first.reproducible) == ("<nothing>", False)
    again = await run(engine, "outer")
    assert (again.status, again.version, again.reproducible) == ("skipped", first.version, False)
    assert (await run(engine)).status == "skipped"
    project.write("late.txt", "here")
    there = await run(engine, "outer")
    assert (there.version.body, there.reproducible) == ("<here>", True)
    await engine.traces.save_traces()
    assert engine.store.counts()["traces"] == 2


async def test_a_deleted_text_is_made_again(project: Project, engine: Engine):
    """Whether its metadata was kept or not, although its inputs are unchanged."""
    project.save(text("note", "x"), taking("outer", "note"))
    for keep in (True, False, True):
        first = await run(engine, "outer")
        for content_id in ("note", "outer"):
            infos = engine.store.version_infos(content_id)
            await engine.store.delete_versions([info.version_id for info in infos], keep_metadata=keep)
        again = await run(engine, "outer")
        assert again.status == "generated", "as far as one can see, nothing was there before"
        assert again.version.body == first.version.body == "x"
        assert again.version.version_id > first.version.version_id
        assert (await run(engine, "outer")).version == again.version


async def test_force_makes_each_text_again_once_a_call(project: Project, engine: Engine):
    """However many contents use it, and whether it is requested or a source."""
    project.save(text("part", "x"), taking("one", "part"), taking("two", "part"), taking("three", "one", "two"))
    await run(engine, "three")
    build = Build(engine)
    await build_content(build, engine.catalog.find_config("content", "one").parsed, CallerContext({}))
    for content_id in ("three", "one", "part"):
        parsed = engine.catalog.find_config("content", content_id).parsed
        await build_content(build.derive(force=True, member="x"), parsed, CallerContext({}))
    assert [len(engine.store.versions(each)) for each in ("part", "one", "two", "three")] == [2, 2, 2, 2]


async def test_concurrent_calls_generate_one_text(project: Project, engine: Engine):
    """A later call waits for the one that is being generated; forced calls generate their own."""
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ 6 * 7 }}"}))
    statuses: list[str] = []

    async def one(force: bool) -> None:
        statuses.append((await run(engine, force=force)).status)

    for force, count in ((False, 1), (True, 6)):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one, force)
        assert len(engine.store.versions("note")) == count
    assert sorted(statuses) == ["generated", *["regenerated"] * 5, *["skipped"] * 4]


async def test_a_reason_is_kept_with_the_text(project: Project, engine: Engine):
    """The reason that regenerate_content was given."""
    project.save(text("note", "x"))
    parsed = engine.catalog.find_config("content", "note").parsed
    made = await build_content(Build(engine, force=True), parsed, CallerContext({}), reason="The tide turned")
    assert made.version.metadata["reason"] == "The tide turned"
    kept = engine.store.latest_version("note")
    assert kept is not None
    assert kept.metadata["reason"] == "The tide turned"


# -- language models --------------------------------------------------------------------------------------------


class Model:
    """Answers or fails, as the test sets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False

    async def complete_request(self, request: llm.ModelRequest) -> llm.ModelReply:
        self.asked += 1
        if self.fails:
            raise GenerationFailed("The model is overloaded.", "Try again later.", error_type="Overloaded")
        return llm.ModelReply(
            text=f"answer {self.asked}", input_tokens=1000, output_tokens=500, model=request.model, usd=0.0105
        )


@pytest.fixture
def model(project: Project, engine: Engine) -> Model:
    """A content that a language model writes, and the model."""
    options = {"prompt": "Write about {{ topic }}.", "model": "claude-sonnet-5", "fallback_template": "No {{ topic }}"}
    project.save(content("code", pattern={"type": "code_generation", "generation_config": options}))
    model = Model()
    engine.budgets.anthropic = cast(Any, model)
    return model


TOPIC = {"topic": "tides"}


async def test_the_cost_of_a_model_is_stored_with_the_text(engine: Engine, model: Model):
    """Model, tokens and dollars; the same request is answered from the cache, unless it is forced."""
    made = await run(engine, "code", TOPIC)
    assert made.version.body == "answer 1"
    usage = made.version.metadata["usage"]
    assert (usage["model"], usage["input_tokens"], usage["output_tokens"]) == ("claude-sonnet-5", 1000, 500)
    assert usage["total_cost_usd"] > 0
    assert usage["cached"] is False
    assert (await run(engine, "code", TOPIC)).status == "skipped"
    infos = engine.store.version_infos("code")
    await engine.store.delete_versions([info.version_id for info in infos])
    again = await run(engine, "code", TOPIC)
    assert (again.version.body, again.version.metadata["usage"]["cached"]) == ("answer 1", True)
    assert model.asked == 1
    assert (await run(engine, "code", TOPIC, force=True)).version.body == "answer 2"
    assert (await run(engine, "code", {"topic": "winds"})).version.body == "answer 3"
    assert {cost.content_id for cost in engine.store.costs()} == {"code"}


async def test_a_fallback_text_is_generated_again(project: Project, engine: Engine, model: Model):
    """As soon as the model answers, also for its dependents; until then each call tries."""
    outer = taking("outer", "code")
    inner = msgspec.json.decode(project.read("configs/content/code.json"))
    inner["generation"]["patterns"][0]["generation_config"]["context"] = TOPIC
    project.save(outer, inner)
    model.fails = True
    for turn in (1, 2):
        made = await run(engine, "outer")
        assert (made.version.body, made.reproducible) == ("No tides", False)
        assert model.asked == turn
    latest = engine.store.latest_version("code")
    assert latest is not None
    assert latest.fingerprint == ""
    assert latest.metadata["warnings"] == ["The fallback template was used: code: the model is overloaded."]
    model.fails = False
    made = await run(engine, "outer")
    assert (made.version.body, made.reproducible) == ("answer 3", True)
    assert (await run(engine, "outer")).status == "skipped"
    assert model.asked == 3


async def test_a_dry_run_spends_and_stores_nothing(project: Project, engine: Engine, model: Model):
    """A cached answer is shown; otherwise the error has the request and its estimated cost."""
    document = msgspec.json.decode(project.read("configs/content/code.json"))
    del document["generation"]["patterns"][0]["generation_config"]["fallback_template"]
    project.save(document, taking("outer", "code"))
    parsed = engine.catalog.find_config("content", "code").parsed
    with unchanged(project), pytest.raises(GenerationFailed) as failed:
        await (await gather_content(Build(engine, dry=True), parsed, CallerContext(TOPIC))).generate_text()
    assert failed.value.details["error_type"] == "NotAsked"
    assert "Write about tides." in failed.value.details["request"].prompt
    assert failed.value.details["outlook"]["estimated_usd"] > 0
    assert model.asked == 0
    with unchanged(project):
        inputs = await gather_content(Build(engine, dry=True, spend=True), parsed, CallerContext(TOPIC))
        made = await inputs.generate_text()
        assert (made.text, model.asked) == ("answer 1", 1)
        assert (
            await (await gather_content(Build(engine, dry=True), parsed, CallerContext(TOPIC))).generate_text()
        ).text == "answer 1"
    assert engine.store.counts()["versions"] == 0
    assert len(engine.store.costs()) == 1
    made = await build_content(Build(engine), parsed, CallerContext(TOPIC))
    assert (made.version.body, model.asked) == ("answer 1", 1)
    with pytest.raises(GenerationFailed, match="was never asked"):
        await build_content(Build(engine, spend=False), parsed, CallerContext({"topic": "winds"}))
    assert model.asked == 1


async def test_a_failing_model_without_a_fallback_fails_the_text(project: Project, engine: Engine, model: Model):
    """With the model's error; nothing is stored, and the next call tries again."""
    document = msgspec.json.decode(project.read("configs/content/code.json"))
    del document["generation"]["patterns"][0]["generation_config"]["fallback_template"]
    project.save(document)
    model.fails = True
    with pytest.raises(GenerationFailed, match="the model is overloaded"):
        await run(engine, "code", TOPIC)
    assert engine.store.counts()["versions"] == 0
    model.fails = False
    assert (await run(engine, "code", TOPIC)).version.body == "answer 2"
