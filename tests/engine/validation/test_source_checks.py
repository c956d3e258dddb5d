"""Validation reads the sources of contents: what a build would fail for isn't valid."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content
from chora.engine.engine import Engine
from chora.engine.validation.findings import validate
from chora.errors import ChoraError
from tests.conftest import Project, artifact, child, content, requirement, text
from tests.patience import PATIENCE


def source(kind: str, locator: str, **rest: Any) -> dict[str, Any]:
    return {"id": "x", "source_type": kind, "source_locator": locator, **rest}


def output_of(locator: str, **rest: Any) -> dict[str, Any]:
    return source("content_config", locator, data_selector="output", **rest)


FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "a file that isn't there": (source("external_file", "data/gone.yaml"), "there is no file data/gone.yaml"),
    "a folder": (source("external_file", "data"), "data is not a regular file"),
    "a path outside": (source("external_file", "../a.yaml"), "leads outside the project"),
    "a name that nobody fills": (source("external_file", "data/{{ x }}.yaml"), "there is no file"),
    "a file that can't be parsed": (source("external_file", "data/broken.json"), "is not JSON"),
    "no selector": (source("external_file", "data/a.yaml", data_selector="title"), "is not a selector"),
    "no JSONPath": (source("external_file", "data/a.yaml", data_selector="$.v["), "is not a JSONPath"),
    "a JSONPath without a match": (source("external_file", "data/a.yaml", data_selector="$.w"), "matches nothing"),
    "a heading that isn't there": (source("external_file", "data/a.md", data_selector="## B"), "there is no heading"),
    "a project without git": (source("git_reference", "HEAD:a.yaml"), "is in no git repository"),
    "no content": (output_of("gone"), "There is no content config 'gone'; there are"),
    "no content to store": (source("ephemeral_output", "gone"), "there is no content 'gone', and no text is stored"),
    "no strategy": (source("ephemeral_output", "good:newest"), "write one of latest, all"),
    "no artifact": (source("artifact_config", "gone"), "There is no artifact config 'gone'"),
    "a selector of contents on an artifact": (
        source("artifact_config", "page", data_selector="output"),
        "is not a selector",
    ),
    "itself": (output_of("part"), "in a circle: part → part"),
    "a circle": (output_of("round"), "in a circle"),
    "a content whose source is gone": (output_of("hollow"), "there is no file data/gone.yaml"),
    "the same, as a stored text": (source("ephemeral_output", "hollow"), "there is no file data/gone.yaml"),
    "a content whose template is broken": (source("ephemeral_output", "bent"), "the source bent: "),
    "a part of a text that isn't in it": (source("ephemeral_output", "good", data_selector="## B"), "no heading"),
    "data that isn't data": (output_of("no-data"), "is not JSON"),
}
FINE: dict[str, dict[str, Any]] = {
    "a file": source("external_file", "data/a.yaml", data_selector="$.v"),
    "a section": source("external_file", "data/a.md", data_selector="## A"),
    "a text": output_of("good"),
    "a part of a text": source("ephemeral_output", "good", data_selector="## A"),
    "a text that needs no context of its own": output_of("asks"),
    "a value": source("inline_data", "{not JSON"),
    "a config": source("artifact_config", "page", data_selector="$.id"),
}


@pytest.fixture
def world(project: Project) -> Project:
    """What the sources of the tables read."""
    project.write("data/a.yaml", "v: 1\n")
    project.write("data/a.md", "## A\n\nText.\n")
    project.write("data/broken.json", "{")
    project.save(
        text("good", "## A\n\nGood."),
        content("hollow", pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[FAILING_FILE]),
        content("bent", pattern={"type": "jinja2", "template": "{% for %}"}),
        content("round", pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[output_of("part")]),
        content(
            "asks",
            pattern={
                "type": "jinja2",
                "template": "{{ name }}",
                "generation_config": {"context": {"name": {"source": "runtime", "default": "Ines"}}},
            },
        ),
        {**text("no-data", "{"), "metadata": {"description": "d", "version": "1.0.0", "output_format": "json"}},
        artifact("page", [child("good")]),
    )
    return project


FAILING_FILE = source("external_file", "data/gone.yaml")


def reader(*sources: dict[str, Any], **rest: Any) -> dict[str, Any]:
    pattern = {"type": "jinja2", "template": "It reads {{ x | tojson }}.", **rest}
    return content("part", pattern=pattern, sources=list(sources))


async def look(engine: Engine, name: str) -> list[tuple[str, str, str, str | None]]:
    with trio.fail_after(PATIENCE):
        found = await validate(Build(engine, dry=True), name)
    return [(each.severity, each.code, each.message, each.location) for each in found.findings]


async def build(engine: Engine) -> None:
    await build_content(Build(engine), engine.catalog.find_config("content", "part").parsed, CallerContext({}))


def collection(member: str) -> dict[str, Any]:
    members = [{"id": "one", "type": "artifact", "path": f"{member}.json"}]
    return {"type": "collection", "id": "all", "name": "All", "members": members, "output": {"base_path": "outputs"}}


@requirement("tools.validate-content.sources")
@pytest.mark.parametrize("row", FAILING)
async def test_a_source_without_a_value_is_found_wherever_it_is_used(world: Project, engine: Engine, row: str):
    """As an error with the words of the build, by the content, its artifact and its collection; as a warning if the
    source is optional, which also ends a circle; and nothing is stored."""
    written, words = FAILING[row]
    world.save(reader(written), artifact("sheet", [child("part")]), collection("sheet"))
    for name in ("part", "sheet", "all"):
        ((severity, _, message, _),) = await look(engine, name)
        assert (severity, words.lower() in message.lower()) == ("error", True), message
    assert engine.store.content_ids() == []
    with pytest.raises(ChoraError):
        await build(engine)
    world.save(reader({**written, "required": False}))
    assert {severity for severity, *_ in await look(engine, "part")} <= {"warning"}


@requirement("tools.validate-content.sources")
@pytest.mark.parametrize("row", FINE)
async def test_a_source_with_a_value_is_valid(world: Project, engine: Engine, row: str):
    """As it is for a build."""
    world.save(reader(FINE[row]), artifact("sheet", [child("part")]), collection("sheet"))
    for name in ("part", "sheet", "all"):
        assert await look(engine, name) == []
    assert engine.store.content_ids() == []
    await build(engine)


async def test_the_place_of_a_source_is_told(world: Project, engine: Engine):
    """Also that of a file which a pattern's context declares."""
    declared = {"context": {"y": {"source": "file", "path": "data/gone.json"}}}
    world.save(reader(FINE["a file"], FAILING_FILE, generation_config=declared))
    assert [place for *_, place in await look(engine, "part")] == [
        "generation.patterns[0].generation_config.context.y",
        "inputs.sources[1]",
    ]


@pytest.mark.parametrize("strategy", ["all", "approved_only", "version:1.0.0", "timestamp:2026"])
async def test_a_text_that_is_not_stored_yet_is_a_warning(world: Project, engine: Engine, strategy: str):
    """It may be generated before; without its config it never will."""
    world.save(reader(source("ephemeral_output", f"good:{strategy}")))
    ((severity, code, message, _),) = await look(engine, "part")
    assert (severity, code) == ("warning", "source_failed")
    assert f"nothing is stored of good that is {strategy}" in message


async def test_a_content_that_many_need_is_read_once(world: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """However many artifacts and contents there are."""
    world.save(reader(FINE["a file"]), *(artifact(f"a{n}", [child("part")]) for n in range(20)))
    members = [{"id": f"m{n}", "type": "artifact", "path": f"a{n}.json"} for n in range(20)]
    output = {"base_path": "outputs/{{ collection_id }}"}
    world.save({"type": "collection", "id": "all", "name": "All", "members": members, "output": output})
    reads: list[object] = []
    select = engine.templates.pool.select_values

    async def count(job: Any) -> Any:
        reads.append(job)
        return await select(job)

    monkeypatch.setattr(engine.templates.pool, "select_values", count)
    assert await look(engine, "all") == []
    assert len(reads) == 1
