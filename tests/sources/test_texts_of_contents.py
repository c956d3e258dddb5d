"""Texts of contents as sources: each is what its config gives now, and a change of it makes its readers stale."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from chora import settings
from chora.engine.building.artifact import build_artifact, explain_stale_artifact, plan_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import BuiltContent, build_content
from chora.engine.engine import Engine, open_engine
from chora.errors import GenerationFailed
from tests.conftest import Asking, Project, artifact, child, content, requirement


def reads(locator: str, type: str = "ephemeral_output", **rest: Any) -> dict[str, Any]:
    selector = {"data_selector": "output"} if type == "content_config" else {}
    return {"id": "said", "source_type": type, "source_locator": locator, **selector, **rest}


def inner(template: str = "{{ word }}", **rest: Any) -> dict[str, Any]:
    """The content `inner`, made from a file."""
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    return content("inner", pattern={"type": "jinja2", "template": template}, sources=[word], **rest)


def outer(source: dict[str, Any], template: str = "<{{ said }}>") -> dict[str, Any]:
    """The content `outer`, which quotes another one."""
    return content("outer", pattern={"type": "jinja2", "template": template}, sources=[source])


async def make(engine: Engine, content_id: str, context: dict[str, Any] | None = None, **rest: Any) -> BuiltContent:
    parsed = engine.catalog.find_config("content", content_id).parsed
    return await build_content(Build(engine, **rest), parsed, CallerContext(context or {}))


async def body(engine: Engine, content_id: str = "outer", context: dict[str, Any] | None = None, **rest: Any) -> str:
    return (await make(engine, content_id, context, **rest)).version.body


def stored(engine: Engine, content_id: str = "inner") -> list[str]:
    return [version.body for version in engine.store.versions(content_id)]


KINDS = [("ephemeral_output", "inner"), ("ephemeral_output", "inner:latest"), ("content_config", "inner")]


@requirement("sources.fresh")
@pytest.mark.parametrize(("type", "locator"), KINDS)
async def test_a_text_of_a_content_is_the_one_that_it_has_now(
    project: Project, engine: Engine, type: str, locator: str
):
    """It is made if nothing is stored, and again when what it is made from has changed; then its reader is, too."""
    project.write("word.txt", "one")
    project.save(inner(), outer(reads(locator, type)))
    assert ((await make(engine, "outer")).status, stored(engine)) == ("generated", ["one"])
    assert (await make(engine, "outer")).status == "skipped"
    project.write("word.txt", "two")
    built = await make(engine, "outer")
    assert (built.status, built.version.body, stored(engine)) == ("regenerated", "<two>", ["one", "two"])
    project.save(inner("{{ word }}!"))
    assert await body(engine) == "<two!>"
    project.save(inner())
    assert await body(engine) == "<two>"
    assert stored(engine) == ["one", "two", "two!"]


@requirement("sources.fresh")
@pytest.mark.parametrize(("type", "locator"), KINDS)
async def test_a_plan_says_which_source_changes_and_why(project: Project, engine: Engine, type: str, locator: str):
    """Through any number of texts, and nothing is written; what the reader reads itself is named as its own."""
    project.write("word.txt", "one")
    middle = content("middle", pattern={"type": "jinja2", "template": "({{ said }})"}, sources=[reads(locator, type)])
    project.save(inner(), middle, outer(reads("middle", type)), artifact("page", [child("outer")]))
    parsed = engine.catalog.find_config("artifact", "page").parsed
    await build_artifact(Build(engine), parsed, CallerContext({}))
    assert await explain_stale_artifact(Build(engine, dry=True), parsed, CallerContext({})) == []
    project.write("word.txt", "two")
    [plan] = await plan_artifact(Build(engine, dry=True), parsed, CallerContext({}))
    assert plan.reasons == ["its source middle changes, because its source inner changes, because word.txt has changed"]
    assert (plan.action, "+<(two)>" in plan.diff, stored(engine)) == ("update", True, ["one"])
    assert project.read("outputs/page.md") == "<(one)>"
    built = await build_artifact(Build(engine), parsed, CallerContext({}))
    assert (built.status, project.read("outputs/page.md")) == ("reassembled", "<(two)>")
    assert (await build_artifact(Build(engine), parsed, CallerContext({}))).status == "skipped"


async def test_an_input_of_both_is_named_as_ones_own(project: Project, engine: Engine):
    """Whoever reads it first."""
    project.write("word.txt", "one")
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    pattern = {"type": "jinja2", "template": "{{ said }} {{ word }}"}
    project.save(inner(), artifact("page", [child("outer")]))
    for sources in ([reads("inner"), word], [word, reads("inner")]):
        project.save(content("outer", pattern=pattern, sources=sources))
        parsed = engine.catalog.find_config("artifact", "page").parsed
        await build_artifact(Build(engine), parsed, CallerContext({}))
        project.write("word.txt", project.read("word.txt") + "!")
        reasons = await explain_stale_artifact(Build(engine, dry=True), parsed, CallerContext({}))
        assert reasons == ["word.txt has changed"]


@requirement("sources.record")
async def test_a_text_with_a_context_of_its_own_is_a_record(project: Project, engine: Engine):
    """Somebody asked for it with a context: it is read as it is until the content is made without one."""
    project.write("word.txt", "one")
    project.save(inner("{{ word }} {{ mood | default('plain') }}"), outer(reads("inner")))
    await make(engine, "inner", {"mood": "bold"})
    assert await body(engine) == "<one bold>"
    project.write("word.txt", "two")
    assert (await make(engine, "outer")).status == "skipped"
    assert stored(engine) == ["one bold"]
    await make(engine, "inner", {"mood": "calm"})
    assert await body(engine) == "<two calm>"
    await make(engine, "inner")
    assert await body(engine) == "<two plain>"
    project.write("word.txt", "three")
    assert await body(engine) == "<three plain>"


async def test_a_text_of_which_nobody_knows_how_it_was_made_is_a_record(project: Project, engine: Engine):
    """Such as one that was imported, or stored before that was noted."""
    project.write("word.txt", "one")
    project.save(inner(), outer(reads("inner")))
    version = (await make(engine, "inner")).version
    await engine.store.add_version(msgspec.structs.replace(version, version_id="", body="old", metadata={}))
    project.write("word.txt", "two")
    assert await body(engine) == "<old>"


@requirement("sources.record")
async def test_what_a_build_makes_along_the_way_is_no_record(project: Project, engine: Engine):
    """An artifact with a context makes its children for that; what others read doesn't depend on when it does."""
    project.write("word.txt", "one")
    shown = inner("{{ word }} {{ mood | default('plain') }}")
    project.save(shown, outer(reads("inner")), artifact("page", [child("outer"), child("inner")]))
    parsed = engine.catalog.find_config("artifact", "page").parsed
    statuses: list[str] = []
    for _ in range(2):
        statuses.append((await build_artifact(Build(engine), parsed, CallerContext({"mood": "bold"}))).status)
        assert project.read("outputs/page.md") == "<one plain>\n\none bold"
    assert statuses == ["assembled", "skipped"]
    await make(engine, "inner", {"mood": "calm"})
    await build_artifact(Build(engine), parsed, CallerContext({"mood": "loud"}))
    assert project.read("outputs/page.md") == "<one calm>\n\none loud"


async def test_a_text_that_needs_the_context_of_a_build_is_the_one_that_a_build_made(project: Project, engine: Engine):
    """With a warning. Without such a text it is an error that says what the context lacks."""
    project.write("word.txt", "one")
    project.save(inner("{{ word }} {{ mood }}"), outer(reads("inner")), artifact("page", [child("inner")]))
    with pytest.raises(GenerationFailed, match="inner: 'mood' is undefined"):
        await make(engine, "outer")
    parsed = engine.catalog.find_config("artifact", "page").parsed
    await build_artifact(Build(engine), parsed, CallerContext({"mood": "bold"}))
    built = await make(engine, "outer")
    assert (built.version.body, (await make(engine, "outer")).status) == ("<one bold>", "skipped")
    [warning] = built.warnings
    assert "inner can't be made without the context of an artifact or a collection" in warning
    project.save(inner("{{ word }} {{ mood | default('plain') }}"))
    assert await body(engine) == "<one plain>"


async def test_a_content_without_a_config_has_what_is_stored(project: Project, engine: Engine):
    """A config that comes later is noticed."""
    project.write("word.txt", "one")
    project.save(inner(), outer(reads("inner")))
    await make(engine, "inner")
    (project.root / "configs/content/inner.json").unlink()
    assert await body(engine) == "<one>"
    project.write("word.txt", "two")
    assert (await make(engine, "outer")).status == "skipped"
    project.save(inner())
    assert await body(engine) == "<two>"


@requirement("sources.fresh")
async def test_a_content_whose_config_is_broken_gives_no_old_text(project: Project, engine: Engine):
    """What is stored may be what nobody wants any more; by the old rules it is taken."""
    project.write("word.txt", "one")
    project.save(inner(), outer(reads("inner")))
    await make(engine, "inner")
    project.write("configs/content/inner.json", "{")
    with pytest.raises(GenerationFailed, match=r"configs/content/inner\.json is not JSON"):
        await make(engine, "outer")
    project.write("chora.toml", '[configs]\nrules = "chora-compose"\n')
    async with open_engine(project.root, settings.load(project.root, {}).settings) as old:
        assert await body(old) == "<one>"


@requirement("sources.fresh")
@pytest.mark.parametrize("locator", ["inner:all", "inner:version:1.0.0", "inner:timestamp:20", "inner:approved_only"])
async def test_history_stays_what_is_stored(project: Project, engine: Engine, locator: str):
    """The other strategies generate nothing."""
    project.write("word.txt", "one")
    project.save(inner(evolution={"stage": "approved"}), outer(reads(locator)))
    with pytest.raises(GenerationFailed, match="nothing is stored of inner"):
        await make(engine, "outer")
    await make(engine, "inner")
    project.write("word.txt", "two")
    assert await body(engine) == ('<["one"]>' if locator == "inner:all" else "<one>")
    assert stored(engine) == ["one"]


@requirement("sources.fresh")
@pytest.mark.parametrize(
    ("first", "second", "cycle"),
    [
        (reads("outer"), None, ["outer", "outer"]),
        (reads("inner"), reads("outer"), ["outer", "inner", "outer"]),
        (reads("inner", "content_config"), reads("outer"), ["outer", "inner", "outer"]),
        (reads("inner"), reads("outer", "content_config"), ["outer", "inner", "outer"]),
    ],
)
async def test_a_circle_of_texts_is_named(
    project: Project, engine: Engine, first: dict[str, Any], second: dict[str, Any] | None, cycle: list[str]
):
    """Whatever sources it goes through."""
    project.save(outer(first))
    if second:
        project.save(content("inner", pattern={"type": "jinja2", "template": "{{ said }}"}, sources=[second]))
    with pytest.raises(GenerationFailed, match=" → ".join(cycle)):
        await make(engine, "outer")


# -- data -------------------------------------------------------------------------------------------------------

LIST = "- a\n- b: 1\n"
DATA = '{"x": {"y": [1, 2]}, "items": "own"}'


async def read_text_of(
    engine: Engine, project: Project, format: str, said: str, source: dict[str, Any], template: str
) -> str:
    """What a template makes of a source that is the text of a content of this format."""
    metadata = {"description": "Data", "version": "1.0.0", "output_format": format}
    shown = [{"name": "body", "format": "text", "example_output": said}]
    project.save(content("inner", elements=shown, metadata=metadata), outer({**reads("inner"), **source}, template))
    await make(engine, "inner")
    return (await body(engine)).rstrip("\n")


@requirement("sources.content-data")
@pytest.mark.parametrize(
    ("format", "said", "source", "template", "value"),
    [
        ("json", DATA, {}, "{{ said.x.y[1] }} {{ said.items }}", "2 own"),
        ("json", DATA, {"data_selector": "$.x.y"}, "{{ said[0] }}", "1"),
        ("json", DATA, {"data_selector": "1-1"}, "{{ said }}", DATA),
        ("json", DATA, {"source_locator": "inner:all"}, "{{ said[0].x.y[0] }}", "1"),
        ("json", DATA, {"source_type": "content_config", "data_selector": "output"}, "{{ said.x.y[0] }}", "1"),
        ("yaml", LIST, {}, "{{ said[1].b }}", "1"),
        ("yaml", LIST, {"data_selector": "$[1].b"}, "{{ said }}", "1"),
        ("yaml", LIST, {"source_type": "content_config", "data_selector": "output"}, "{{ said[0] }}", "a"),
        ("text", DATA, {}, "{{ said }}", DATA),
        ("markdown", DATA, {"data_selector": "$.x.y[0]"}, "{{ said }}", "1"),
    ],
)
async def test_a_text_whose_format_is_data_arrives_as_data(
    project: Project, engine: Engine, format: str, said: str, source: dict[str, Any], template: str, value: str
):
    """For templates and for selectors; a part of a text is one of the text."""
    assert await read_text_of(engine, project, format, said, source, template) == value


@requirement("sources.content-data")
@pytest.mark.parametrize("type", ["ephemeral_output", "content_config"])
@pytest.mark.parametrize(("format", "said"), [("json", "{broken"), ("yaml", "a: [1"), ("json", "")])
async def test_a_text_that_is_not_of_its_format_is_an_error_that_names_it(
    project: Project, engine: Engine, type: str, format: str, said: str
):
    """The content that gave it, and the format."""
    metadata = {"description": "Data", "version": "1.0.0", "output_format": format}
    project.save(
        content("inner", pattern={"type": "jinja2", "template": said + "{# #}"}, metadata=metadata),
        outer(reads("inner", type)),
    )
    with pytest.raises(GenerationFailed, match=f"the text of inner can't be read as {format.upper()}: it is"):
        await make(engine, "outer")


# -- the rules of chora-compose ---------------------------------------------------------------------------------


@pytest.fixture
async def old(project: Project) -> AsyncGenerator[Engine]:
    """The project by the rules of chora-compose."""
    project.write("chora.toml", '[configs]\nrules = "chora-compose"\n')
    async with open_engine(project.root, settings.load(project.root, {}).settings) as opened:
        yield opened


@requirement("sources.fresh-old-rules")
async def test_by_the_old_rules_a_text_is_the_stored_one(project: Project, old: Engine):
    """With a warning that names a stale one and says why, whether its reader is made or skipped."""
    project.write("word.txt", "one")
    project.save(inner(), outer(reads("inner")))
    with pytest.raises(GenerationFailed, match="nothing is stored of inner that is latest"):
        await make(old, "outer")
    await make(old, "inner")
    built = await make(old, "outer")
    assert (built.version.body, built.warnings) == ("<one>", [])
    project.write("word.txt", "two")
    for _ in range(2):
        built = await make(old, "outer")
        assert (built.version.body, built.status, len(built.warnings)) == ("<one>", "skipped", 1)
        assert "the stored text of inner is out of date, because word.txt has changed" in built.warnings[0]
    assert stored(old) == ["one"]
    await make(old, "inner")
    built = await make(old, "outer")
    assert (built.version.body, built.warnings) == ("<two>", [])
    project.write("word.txt", "one")
    await make(old, "inner")
    assert "its config has changed back" in (await make(old, "outer")).warnings[0]


@requirement("sources.fresh-old-rules")
@pytest.mark.parametrize(
    ("format", "said", "source", "template", "value"),
    [
        ("json", DATA, {}, "{{ said }}", DATA),
        ("json", DATA, {"data_selector": "$.x.y[0]"}, "{{ said }}", "1"),
        ("json", DATA, {"source_type": "content_config", "data_selector": "output"}, "{{ said }}", DATA),
        ("yaml", LIST, {}, "{{ said }}", LIST.rstrip()),
        ("yaml", LIST, {"data_selector": "$[1].b"}, "{{ said }}", "1"),
    ],
)
async def test_by_the_old_rules_a_text_is_text_unless_a_selector_needs_data(
    project: Project, old: Engine, format: str, said: str, source: dict[str, Any], template: str, value: str
):
    """As it was."""
    assert await read_text_of(old, project, format, said, source, template) == value


# -- all the way up ---------------------------------------------------------------------------------------------


@requirement("sources.fresh")
@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
async def test_a_collection_plans_what_its_build_does(project: Project, ask: Asking, strategy: str):
    """Members, also nested ones, are stale when the source of a source changes, and their cache isn't valid."""
    project.write("word.txt", "one")
    members = [{"id": "page", "type": "artifact", "path": "page"}, {"id": "part", "type": "collection", "path": "part"}]
    document = {
        "type": "collection",
        "id": "pack",
        "name": "Pack",
        "members": members,
        "output": {"base_path": "outputs/pack"},
    }
    part = {**document, "id": "part", "members": [{"id": "sheet", "type": "artifact", "path": "sheet"}]}
    shared = {"sources": [{"type": "inline_data", "data": {"mood": "bold"}}]}
    project.save(
        inner("{{ word }} {{ mood | default('plain') }}"),
        outer(reads("inner")),
        artifact("page", [child("inner"), child("outer")]),
        artifact("sheet", [child("outer")]),
        {**document, "context": {"shared": shared}, "generation": {"strategy": strategy}},
        part,
    )
    await ask("generate_collection", collection_config_path="pack")
    again = await ask("generate_collection", collection_config_path="pack")
    assert again["metadata"]["cached_members"] == 2
    project.write("word.txt", "two")
    cache = await ask("check_collection_cache", collection_config_path="pack")
    assert cache["stale_members"] == ["page", "part"]
    assert cache["metadata"]["reasons"]["part"] == [
        "sheet: its source inner changes, because word.txt has changed",
    ]
    planned = await ask("generate_collection", collection_config_path="pack", dry_run=True)
    assert planned["metadata"]["regenerated_members"] == 2
    await ask("generate_collection", collection_config_path="pack")
    assert project.read("outputs/pack/part/sheet/sheet.md") == "<two plain>"
    assert (await ask("check_collection_cache", collection_config_path="pack"))["cache_valid"] is True
