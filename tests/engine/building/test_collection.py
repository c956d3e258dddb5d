"""Collections: the order and context of members, the manifest, failures, plans, cancellation and crashes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from chora import locks, settings
from chora.disk import make_folder
from chora.engine.building import collection as module
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.collection import build_collection, check_nesting, plan_collection
from chora.engine.building.members import BuiltCollection
from chora.engine.engine import Engine, open_engine
from chora.engine.manifest import read_manifest
from chora.errors import (
    Busy,
    ChoraError,
    CircularReference,
    CompositionFailed,
    ConfigNotFound,
    ManifestNotFound,
    MaxDepthExceeded,
    OutputEdited,
    PermissionDenied,
    StorageError,
    StorageFailed,
    ValidationFailed,
    WriteFailed,
)
from chora.locks import LOCK_FILES, file_lock
from chora.store import SqliteStore, Version
from chora.tools import collection as tools
from tests.conftest import Asking, Project, artifact, child, content, file_identity, requirement, text, unchanged
from tests.patience import PATIENCE, may_have_taken

GAUGE = '''
"""A generator that waits for its member's release, and counts how many run."""
import trio
from chora.errors import Busy
from chora.generators.generator import GeneratedText

NAME, VERSION, DESCRIPTION, CAPABILITIES = "gauge", "1", "Counts.", ()
running, most, begun, ended = 0, 0, [], []
releases, busy, broken = {}, set(), set()

async def generate(job):
    global running, most
    member = job.context.get("member_id", "?")
    begun.append(member)
    running += 1
    most = max(most, running)
    try:
        await releases.get(member, released()).wait()
        if member in busy:
            raise Busy("Too much to do.", "Try again.")
        if member in broken:
            raise job.failed(NAME, "it is broken", "Fix it.")
    finally:
        running -= 1
    ended.append(member)
    return GeneratedText(f"{member} of {job.context.get('collection_id')}: {job.context.get('word', '')}\\n")

def released():
    event = trio.Event()
    event.set()
    return event
'''


def member(id: str, **rest: Any) -> dict[str, Any]:
    return {"id": id, "type": "artifact", "path": f"configs/artifact/{id}.json", **rest}


def nested(id: str, path: str | None = None, **rest: Any) -> dict[str, Any]:
    return {"id": id, "type": "collection", "path": path or id, **rest}


def pack(members: list[dict[str, Any]], id: str = "pack", **rest: Any) -> dict[str, Any]:
    """A collection config, written below `outputs/ID` by default."""
    output = {"base_path": f"outputs/{id}", **rest.pop("output", {})}
    return {"type": "collection", "id": id, "name": id.title(), "members": members, "output": output, **rest}


def inline(**data: Any) -> dict[str, Any]:
    return {"sources": [{"type": "inline_data", "data": data}]}


def sheet(id: str, template: str, **options: Any) -> list[dict[str, Any]]:
    """An artifact and the one content it is made of."""
    made = {"type": "template_fill", "template": template, "generation_config": {"undefined_behavior": "empty"}}
    return [content(id, pattern=made, **options), artifact(id, [child(id)])]


async def build(
    engine: Engine, id: str = "pack", context: dict[str, Any] | None = None, **rest: Any
) -> BuiltCollection:
    options = {name: rest.pop(name) for name in ("force", "progress") if name in rest}
    parsed = engine.catalog.open_config("collection", id).parsed
    with trio.fail_after(PATIENCE):
        return await build_collection(Build(engine, **options), parsed, CallerContext(context or {}), **rest)


async def planned(engine: Engine, id: str = "pack", context: dict[str, Any] | None = None, **rest: Any) -> Any:
    parsed = engine.catalog.open_config("collection", id).parsed
    build = Build(engine, dry=True, force=rest.pop("force", False))
    return (await plan_collection(build, parsed, CallerContext(context or {}), **rest)).members


def manifest(project: Project, path: str = "outputs/pack") -> dict[str, Any]:
    return msgspec.json.decode(project.read(f"{path}/manifest.json"))


def states(project: Project, path: str = "outputs/pack") -> dict[str, tuple[str, bool, str | None]]:
    """What the manifest says of each member: its status, whether it was cached, and the code of its error."""
    return {
        each["id"]: (each["status"], each["cache_used"], each["error"] and each["error"]["code"])
        for each in manifest(project, path)["members"]
    }


def cached(collected: BuiltCollection) -> list[str]:
    return [built.member.id for built in collected.members if built.cache_used]


@pytest.fixture
def gauge(project: Project) -> Project:
    """Five members whose generator counts how many run."""
    project.write("gauge.py", GAUGE)
    project.write("chora.toml", '[plugins]\ngenerators = ["gauge.py"]\n')
    for letter in "abcde":
        project.save(content(letter, pattern={"type": "gauge"}), artifact(letter, [child(letter)]))
    project.save(pack([member(letter) for letter in "abcde"]))
    return project


def holding_generator(engine: Engine, *members: str) -> ModuleType:
    """The generator, which holds these members until they are released."""
    found = engine.generators.by_name["gauge"].module
    found.releases.update({each: trio.Event() for each in members})
    return found


# -- nesting ----------------------------------------------------------------------------------------------------


def nest(project: Project, depth: int, width: int = 1) -> None:
    """Collections c1 to cDEPTH, each nested in the one before; the last one has an artifact."""
    project.save(*sheet("leaf", "leaf\n"))
    for level in range(1, depth):
        inner = [nested(f"m{number}", f"c{level + 1}") for number in range(width)]
        project.save(pack(inner, f"c{level}"))
    project.save(pack([member("leaf")], f"c{depth}"))


async def test_ten_collections_may_be_nested(project: Project, engine: Engine):
    """Each in a folder inside that of its parent."""
    nest(project, 10)
    made = await build(engine, "c1")
    assert check_nesting(engine, engine.catalog.open_config("collection", "c1").parsed) == 10
    path = "outputs/c1" + "/m0" * 9
    assert project.read(f"{path}/leaf/leaf.md") == "leaf\n"
    assert manifest(project, path)["collection_id"] == "c10"
    assert made.members[0].outputs == ["outputs/c1/m0/manifest.json"]
    assert (await build(engine, "c1")).cached == 1


async def test_eleven_collections_are_too_many(project: Project, engine: Engine):
    """Nothing is built, not even at the allowed levels; the error names the chain."""
    nest(project, 11)
    with unchanged(project), pytest.raises(MaxDepthExceeded) as failed:
        await build(engine, "c1")
    assert failed.value.details["chain"] == [f"c{level}" for level in range(1, 12)]
    assert failed.value.details["max_depth"] == 10
    assert failed.value.hint
    assert (await build(engine, "c2")).count("success") == 1


async def test_the_depth_is_checked_at_every_place_of_a_collection(project: Project, engine: Engine):
    """The same collection may be fine at one place and too deep at another."""
    nest(project, 10)
    project.save(pack([nested("direct", "c10"), nested("deep", "c1")], "outer"))
    with pytest.raises(MaxDepthExceeded) as failed:
        check_nesting(engine, engine.catalog.open_config("collection", "outer").parsed)
    assert failed.value.details["chain"] == ["outer", *(f"c{level}" for level in range(1, 11))]


async def test_nested_collections_are_loaded_once_each(
    project: Project, engine: Engine, ask: Asking, monkeypatch: pytest.MonkeyPatch
):
    """Ten levels of nine members would otherwise take hours; listing all members is refused."""
    nest(project, 10, width=9)
    opened = 0
    really = engine.catalog.open_config

    def count(*arguments: Any) -> Any:
        nonlocal opened
        opened += 1
        assert opened < 5000, "it would go on until tomorrow"
        return really(*arguments)

    monkeypatch.setattr(engine.catalog, "open_config", count)
    assert check_nesting(engine, really("collection", "c1").parsed) == 10
    assert opened == 9 * 9
    monkeypatch.setattr(tools, "MEMBERS_LISTED", 500)
    error = await ask.refused("list_collection_members", "limit_exceeded", collection_config_path="c1", recursive=True)
    assert error["details"]["limit"] == "collection.members"


@pytest.mark.parametrize(
    ("inside", "cycle"),
    [
        ({"pack": "pack"}, ["pack", "pack"]),
        ({"pack": "one", "one": "two", "two": "one"}, ["pack", "one", "two", "one"]),
        ({"pack": "one", "one": "two", "two": "pack"}, ["pack", "one", "two", "pack"]),
    ],
)
async def test_collections_that_contain_one_another_are_refused(
    project: Project, engine: Engine, inside: dict[str, str], cycle: list[str]
):
    """The error names the cycle, before anything is built."""
    project.save(*sheet("leaf", "x"))
    project.save(*(pack([member("leaf"), nested("in", inner)], id) for id, inner in inside.items()))
    with unchanged(project), pytest.raises(CircularReference) as failed:
        await build(engine)
    assert failed.value.message == f"The collections contain one another: {' → '.join(cycle)}."
    assert failed.value.details["cycle"] == failed.value.details["chain"] == cycle
    assert failed.value.hint
    with pytest.raises(CircularReference):
        await planned(engine)


async def test_a_collection_may_be_nested_at_two_places(project: Project, engine: Engine):
    """Each time with the context of its parent; neither overwrites the other's files."""
    project.save(*sheet("leaf", "{{ word }}\n"), pack([member("leaf")], "inner"))
    places = [nested("left", "inner"), nested("right", "inner")]
    project.save(pack(places, context={"overrides": {"left": {"word": "L"}, "right": {"word": "R"}}}))
    for caching in (0, 2):
        assert (await build(engine)).cached == caching
        assert project.read("outputs/pack/left/leaf/leaf.md") == "L\n"
        assert project.read("outputs/pack/right/leaf/leaf.md") == "R\n"


async def test_nested_collections_go_where_they_say_in_a_custom_structure(project: Project, engine: Engine):
    """There they use their own base path."""
    project.save(*sheet("leaf", "x\n"), pack([member("leaf")], "inner"))
    project.save(pack([nested("in", "inner"), member("leaf")], output={"structure": "custom"}))
    made = await build(engine)
    assert [built.outputs for built in made.members] == [["outputs/inner/manifest.json"], ["outputs/leaf.md"]]
    plans = await planned(engine)
    assert [each.reasons for each in plans] == [[], []]


async def test_a_member_that_cannot_be_loaded_fails_on_its_own(project: Project, engine: Engine):
    """Nested collections next to it are loaded all the same."""
    project.save(*sheet("leaf", "x\n"), pack([member("leaf")], "inner"))
    project.save(pack([nested("gone", required=False), nested("inner")]))
    assert check_nesting(engine, engine.catalog.open_config("collection", "pack").parsed) == 2
    made = await build(engine)
    assert [(built.status, built.error and built.error.code) for built in made.members] == [
        ("skipped", "config_not_found"),
        ("success", None),
    ]


async def test_a_member_is_found_by_its_id_if_its_path_does_not_exist(project: Project, engine: Engine):
    """As a child of an artifact is; if neither exists, the error names the path."""
    project.save(*sheet("leaf", "x\n"))
    project.save(pack([member("leaf", path="elsewhere/leaf.json")]))
    await build(engine)
    assert project.read("outputs/pack/leaf/leaf.md") == "x\n"
    project.save(pack([member("gone", path="elsewhere/gone.json")]))
    with pytest.raises(CompositionFailed, match=r"at 'elsewhere/gone\.json'") as failed:
        await build(engine)
    assert failed.value.details["error_type"] == "config_not_found"


# -- strategies: parallel, mixed, sequential --------------------------------------------------------------------


@requirement("collection.concurrency")
@pytest.mark.parametrize(
    ("generation", "most", "first"),
    [
        ({}, 3, {"a", "b", "c"}),
        ({"strategy": "parallel", "concurrency_limit": 2}, 2, {"a", "b"}),
        ({"strategy": "parallel", "concurrency_limit": 100}, 5, set("abcde")),
        ({"strategy": "sequential", "concurrency_limit": 5}, 1, {"a"}),
        ({"strategy": "mixed", "concurrency_limit": 5}, 5, set("abcde")),
    ],
)
async def test_parallel_members_are_limited(
    gauge: Project, engine: Engine, generation: dict[str, Any], most: int, first: set[str]
):
    """As many as the limit allows run at the same time, and never more."""
    gauge.save(pack([member(letter) for letter in "abcde"], generation=generation))
    generator = holding_generator(engine, *"abcde")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(build, engine)
        with trio.fail_after(PATIENCE):
            while generator.running < most:
                await trio.sleep(0.005)
        await trio.sleep(0.02)
        assert set(generator.begun) == first
        for event in generator.releases.values():
            event.set()
    assert generator.most == most
    assert sorted(generator.ended) == list("abcde")


async def test_members_of_one_order_are_built_in_parallel(gauge: Project, engine: Engine):
    """In the mixed strategy, one order after the other; the manifest keeps the order of the config."""
    orders = {"a": 2, "b": 1, "c": 2, "d": 0.5, "e": 1}
    members = [member(letter, order=order) for letter, order in orders.items()]
    gauge.save(pack(members, generation={"strategy": "mixed", "concurrency_limit": 4}))
    generator = holding_generator(engine, "b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(build, engine)
        with trio.fail_after(PATIENCE):
            while "e" not in generator.ended:
                await trio.sleep(0.005)
        await trio.sleep(0.02)
        assert generator.begun[0] == "d"
        assert set(generator.begun) == {"d", "b", "e"}
        generator.releases["b"].set()
    assert set(generator.begun[3:]) == {"a", "c"}
    assert list(states(gauge)) == list("abcde")


async def test_sequential_members_are_built_by_order_then_by_position(gauge: Project, engine: Engine):
    """No order counts as 0."""
    members = [member("a", order=2), member("b"), member("c", order=1.5), member("d", order=0), member("e", order=1)]
    gauge.save(pack(members, generation={"strategy": "sequential"}))
    await build(engine)
    assert engine.generators.by_name["gauge"].module.ended == list("bdeca")
    assert list(states(gauge)) == list("abcde")


async def test_the_order_of_completion_does_not_show(gauge: Project, engine: Engine):
    """Manifest and result keep the order of the config."""
    gauge.save(pack([member(letter) for letter in "abcde"], generation={"concurrency_limit": 5}))
    generator = holding_generator(engine, *"abcde")
    results: list[BuiltCollection] = []

    async def run() -> None:
        results.append(await build(engine))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for letter in "ecadb":
            generator.releases[letter].set()
            with trio.fail_after(PATIENCE):
                while letter not in generator.ended:
                    await trio.sleep(0.002)
    assert generator.ended == list("ecadb")
    assert list(states(gauge)) == list("abcde") == [built.member.id for built in results[0].members]


async def test_a_member_may_read_what_an_earlier_one_wrote(project: Project, engine: Engine):
    """In the sequential strategy, within one run and in the next: a change reaches all later members at once."""
    reads = {"id": "first", "source_type": "external_file", "source_locator": "outputs/pack/one/one.md"}
    project.write("word.txt", "old")
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.save(*sheet("one", "one {{ word }}", sources=[word]), *sheet("two", "<{{ first }}>", sources=[reads]))
    project.save(pack([member("two", order=2), member("one", order=1)], generation={"strategy": "sequential"}))
    for now in ("old", "new", "old", "newer"):
        project.write("word.txt", now)
        assert cached(await build(engine)) == []
        assert project.read("outputs/pack/two/two.md") == f"<one {now}>"
        assert cached(await build(engine)) == ["two", "one"]


async def test_a_member_may_read_the_stored_text_of_an_earlier_one(project: Project, engine: Engine):
    """It is the text of this run, also for a member that comes before it."""
    reads = {"id": "one", "source_type": "ephemeral_output", "source_locator": "one", "required": False}
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.write("word.txt", "first")
    project.save(*sheet("one", "{{ word }}", sources=[word]))
    project.save(*sheet("before", "<{{ one }}>", sources=[reads]), *sheet("after", "<{{ one }}>", sources=[reads]))
    order = [member("before", order=1), member("one", order=2), member("after", order=3)]
    project.save(pack(order, generation={"strategy": "sequential"}))
    for now in ("first", "second", "third"):
        project.write("word.txt", now)
        await build(engine)
        assert project.read("outputs/pack/before/before.md") == f"<{now}>"
        assert project.read("outputs/pack/after/after.md") == f"<{now}>"


# -- context ----------------------------------------------------------------------------------------------------

SHARED = {"a": "shared", "b": "shared", "deep": {"x": "shared", "y": "shared"}, "list": [1, 2]}
SEEN = "{{ a }} {{ b }} {{ deep.x }} {{ deep.y }} {{ list }} {{ own }}"


@pytest.mark.parametrize(
    ("mode", "sources", "overrides", "caller", "seen"),
    [
        ("merge", {}, {}, {}, "shared shared shared shared [1,2] "),
        ("merge", {"a": "source", "deep": {"y": "source"}}, {}, {}, "source shared shared source [1,2] "),
        ("merge", {"a": "source", "own": 1}, {"a": "override", "list": []}, {}, "override shared shared shared [] 1"),
        ("merge", {"a": "source"}, {"a": "override"}, {"a": "caller"}, "caller shared shared shared [1,2] "),
        ("override", {}, {}, {}, "shared shared shared shared [1,2] "),
        ("override", {"a": "source"}, {}, {}, "source     "),
        ("override", {}, {"deep": {"y": "override"}}, {}, "   override  "),
        ("override", {}, {}, {"own": "caller"}, "shared shared shared shared [1,2] caller"),
        ("override", {"a": "source"}, {}, {"deep": {"x": "caller"}}, "source  caller   "),
        ("isolate", {}, {}, {}, "     "),
        ("isolate", {"a": "source"}, {"b": "override"}, {}, "source override    "),
        ("isolate", {}, {}, {"a": "caller"}, "caller     "),
    ],
)
async def test_context_reaches_members_by_the_mode(
    project: Project,
    engine: Engine,
    mode: str,
    sources: dict[str, Any],
    overrides: dict[str, Any],
    caller: dict[str, Any],
    seen: str,
):
    """Shared context is below the member's sources, its overrides and the caller's context; objects merge deeply."""
    project.save(*sheet("one", SEEN), *sheet("other", "{{ own }}"))
    own = {"context_override": inline(**sources)} if sources else {}
    context = {"shared": inline(**SHARED), "propagation": mode, "overrides": {"one": overrides} if overrides else {}}
    project.save(pack([member("one", **own), member("other")], context=context))
    made = await build(engine, context=caller)
    assert project.read("outputs/pack/one/one.md") == seen
    assert project.read("outputs/pack/other/other.md") == str(caller.get("own", "")), "what is one's own stays so"
    assert cached(await build(engine, context=caller)) == ["one", "other"]
    assert manifest(project)["context"] == {"shared": SHARED, "propagation_mode": mode}
    assert made.warnings == []


async def test_the_caller_s_context_reaches_nested_collections(project: Project, engine: Engine):
    """With the highest precedence there too; the outer shared context is below the inner one."""
    project.save(*sheet("leaf", "{{ a }} {{ b }} {{ c }}"))
    project.save(pack([member("leaf")], "inner", context={"shared": inline(a="inner", b="inner")}))
    shared = inline(a="outer", c="outer")
    project.save(pack([nested("in", "inner")], context={"shared": shared, "overrides": {"in": {"b": "override"}}}))
    await build(engine)
    assert project.read("outputs/pack/in/leaf/leaf.md") == "outer override outer"
    await build(engine, context={"b": "caller"})
    assert project.read("outputs/pack/in/leaf/leaf.md") == "outer caller outer"


async def test_sources_of_shared_context_may_be_missing(project: Project, engine: Engine):
    """An optional one is a warning, a required one fails the collection before anything is built."""
    gone = {"type": "external_file", "path": "gone.json", "output_as": "gone"}
    project.save(*sheet("one", "x{{ gone }}"))
    project.save(pack([member("one")], context={"shared": {"sources": [{**gone, "required": False}]}}))
    made = await build(engine)
    assert made.warnings == ["The optional source gone has no value: there is no file gone.json"]
    project.write("gone.json", "7")
    assert cached(await build(engine)) == []
    assert project.read("outputs/pack/one/one.md") == "x7"
    project.save(pack([member("one")], "other", context={"shared": {"sources": [{**gone, "path": "no.json"}]}}))
    with unchanged(project), pytest.raises(CompositionFailed, match="the source gone has no value") as failed:
        await build(engine, "other")
    assert failed.value.details["error_type"] == "SourceFailed"
    assert failed.value.details["source_id"] == "gone"
    project.save(pack([member("one", context_override={"sources": [{**gone, "path": "no.json"}]})], "own"))
    with pytest.raises(CompositionFailed, match="one: the source gone has no value"):
        await build(engine, "own")


async def test_texts_and_stored_versions_may_be_shared(project: Project, engine: Engine):
    """The text of a content as shared context: a change of it reaches every member."""
    shared = {"type": "content_config", "config_id": "intro", "selector": "output", "output_as": "intro"}
    project.save(text("intro", "Hello"), *sheet("one", "{{ intro }}!"))
    project.save(pack([member("one")], context={"shared": {"sources": [shared]}}))
    await build(engine)
    assert project.read("outputs/pack/one/one.md") == "Hello!"
    project.save(text("intro", "Ahoy"))
    with unchanged(project):
        assert (await planned(engine))[0].reasons
    await build(engine)
    assert project.read("outputs/pack/one/one.md") == "Ahoy!"


async def test_reserved_names_describe_the_member_and_collection(project: Project, engine: Engine):
    """Unless a source has the same name; a text that doesn't mention them isn't generated per member."""
    names = "{{ content_id }} {{ artifact_id }} {{ member_id }} {{ collection_id }} {{ collection_name }}"
    project.save(content("named", pattern={"type": "template_fill", "template": names}))
    project.save(artifact("named", [child("named")]), *sheet("plain", "the same"))
    members = [member("m1", path="named"), member("m2", path="named"), member("p1", path="plain")]
    project.save(pack([*members, member("p2", path="plain")], context={"overrides": {"m2": {"member_id": "mine"}}}))
    await build(engine)
    assert project.read("outputs/pack/m1/named.md") == "named named m1 pack Pack"
    assert project.read("outputs/pack/m2/named.md") == "named named mine pack Pack"
    assert len(engine.store.versions("named")) == 2
    assert len(engine.store.versions("plain")) == 1, "it mentions no reserved name, so it is one text"


@pytest.mark.parametrize("force", [False, True])
async def test_a_text_that_many_members_use_is_generated_once(gauge: Project, engine: Engine, force: bool):
    """Also when they need it at the same time, and with force."""
    gauge.save(content("same", pattern={"type": "template_fill", "template": "{{ part }}"}, sources=[PART]))
    gauge.save(content("part", pattern={"type": "jinja2", "template": "{{ 'x' }}"}))
    gauge.save(artifact("many", [child("same"), child("same")]))
    gauge.save(pack([member(f"m{number}", path="many") for number in range(6)], generation={"concurrency_limit": 6}))
    await build(engine)
    await build(engine, force=force)
    assert len(engine.store.versions("same")) == len(engine.store.versions("part")) == 1 + force


PART = {"id": "part", "source_type": "content_config", "source_locator": "part", "data_selector": "output"}


# -- where files go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "paths"),
    [
        ("nested", ["outputs/pack/one/a.md", "outputs/pack/one/b.md"]),
        ("flat", ["outputs/pack/a.md", "outputs/pack/b.md"]),
        ("custom", ["deep/a.md", "b.md"]),
    ],
)
async def test_files_go_where_the_structure_puts_them(
    project: Project, engine: Engine, structure: str, paths: list[str]
):
    """A folder for each member, one for all, or the artifact's own path."""
    files = [{"file": "deep/a.md", "format": "markdown"}, {"file": "b.md", "format": "markdown"}]
    project.save(text("one", "x"), artifact("one", [child("one")], *files))
    project.save(pack([member("one")], output={"structure": structure}))
    made = await build(engine)
    assert made.members[0].outputs == paths
    assert all(project.read(path) == "x" for path in paths)
    assert manifest(project)["members"][0]["output_path"] == paths[0]


async def test_the_base_path_is_a_template(project: Project, engine: Engine):
    """Of the collection's names, the shared context and the caller's."""
    shared = {"shared": inline(port="Norrvik", year=2025)}
    project.save(*sheet("one", "x"))
    base = " outputs/{{ collection_id }}/{{ port | lower }}/{{ year }} "
    project.save(pack([member("one")], context=shared, output={"base_path": base}))
    made = await build(engine, context={"year": 2026})
    assert made.base_path == "outputs/pack/norrvik/2026"
    assert made.manifest_path == "outputs/pack/norrvik/2026/manifest.json"
    assert project.read("outputs/pack/norrvik/2026/one/one.md") == "x"
    parsed = engine.catalog.open_config("collection", "pack").parsed
    assert await module.find_manifest_path(Build(engine, dry=True), parsed) == "outputs/pack/norrvik/2025/manifest.json"
    for broken in ("outputs/{{ missing }}", "outputs/{{ 1 +", "outputs/{% if %}"):
        project.save(pack([member("one")], output={"base_path": broken}))
        with unchanged(project), pytest.raises(CompositionFailed, match="the base path of pack can't be") as failed:
            await build(engine)
        assert failed.value.details["error_type"] == "InvalidBasePath"
        assert failed.value.hint


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "outputs/../../out", ".chora/out", "a\0b"])
async def test_a_collection_stays_in_the_project(project: Project, engine: Engine, path: str):
    """A base path outside, from the config or the caller, is refused and nothing is built (CWE-22)."""
    project.save(*sheet("one", "x"), pack([member("one")]))
    with unchanged(project), pytest.raises(PermissionDenied):
        await build(engine, output_path=path)
    assert engine.store.counts()["versions"] == 0
    if "\0" not in path:
        project.save(pack([member("one")], output={"base_path": path}))
        with unchanged(project), pytest.raises(PermissionDenied):
            await build(engine)


async def test_output_path_replaces_the_base_path(project: Project, engine: Engine):
    """Each path has its own traces, so that switching back finds everything cached."""
    project.save(*sheet("one", "x"), pack([member("one")], output={"base_path": "{{ missing }}"}))
    for place in ("there", "else/where"):
        made = await build(engine, output_path=place)
        assert (made.base_path, made.cached) == (place, 0)
        assert project.read(f"{place}/one/one.md") == "x"
        assert (await build(engine, output_path=place)).cached == 1
    assert (await build(engine, output_path="there")).cached == 1


@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
async def test_two_members_cannot_write_one_file(project: Project, engine: Engine, strategy: str):
    """The second one fails, and the error names the first; also when the first one is cached."""
    project.save(text("one", "one"), text("two", "two"))
    shared = {"file": "same.md", "format": "markdown"}
    detour = {"file": "x/../SAME.md", "format": "markdown"}
    project.save(artifact("one", [child("one")], shared), artifact("two", [child("two")], detour))
    output, generation = {"structure": "flat"}, {"strategy": strategy, "concurrency_limit": 1}
    project.save(pack([member("one"), member("two", required=False)], output=output, generation=generation))
    for _ in range(2):
        made = await build(engine)
        assert project.read("outputs/pack/same.md") == "one"
        error = made.members[1].error
        assert error is not None
        assert "two writes outputs/pack/SAME.md, as one does already" in error.message
        assert error.hint
    assert [each.error and each.error.code for each in await planned(engine)] == [None, "composition_failed"]
    assert not (project.root / "outputs/pack/SAME.md").exists()


async def test_no_member_can_write_the_manifest(project: Project, engine: Engine):
    """They would replace each other in every run; without a manifest the name is free."""
    project.save(text("one", "{}"), artifact("one", [child("one")], {"file": "manifest.json", "format": "json"}))
    project.save(pack([member("one")], output={"structure": "flat"}))
    with pytest.raises(CompositionFailed, match=r"one writes outputs/pack/manifest\.json, as the manifest does"):
        await build(engine)
    assert manifest(project)["status"] == "failed"
    project.save(pack([member("one")], "bare", output={"structure": "flat", "manifest": False}))
    made = await build(engine, "bare")
    assert made.manifest_path is None
    assert project.read("outputs/bare/manifest.json") == "{}\n"


# -- the manifest -----------------------------------------------------------------------------------------------


async def test_a_manifest_describes_every_member(project: Project, engine: Engine):
    """Field by field."""
    project.save(*sheet("one", "x\n"), *sheet("two", "y\n"), artifact("broken", [child("nothing")]))
    project.save(pack([member("two")], "inner"))
    members = [
        member("one"),
        member("broken", required=False),
        nested("in", "inner"),
        member("gone", required=False),
    ]
    rules = [{"type": "all_members_present", "required": False}, {"type": "no_failures", "required": False}]
    shared = {"shared": inline(port="Norrvik")}
    project.save(pack(members, context=shared, validation={"rules": rules}))
    await build(engine)
    written = manifest(project)
    members = written.pop("members")
    assert may_have_taken(written.pop("generation_time_seconds"))
    at = written.pop("generated_at")
    assert written == {
        "collection_id": "pack",
        "collection_name": "Pack",
        "status": "failed",
        "total_members": 4,
        "successful_members": 2,
        "failed_members": 1,
        "context": {"shared": {"port": "Norrvik"}, "propagation_mode": "merge"},
        "validation": {"passed": True, "rules_evaluated": 2},
        "cache_stats": {"total_members": 4, "cache_hits": 0, "cache_misses": 4, "cache_hit_rate": 0.0},
    }
    for each in members:
        assert may_have_taken(each.pop("generation_time_seconds"))
    hashes = [each.pop("context_hash") for each in members]
    assert [bool(each) for each in hashes] == [True, False, True, False]
    assert all(each.startswith("sha256:") for each in hashes if each)
    times = [each.pop("generated_at") for each in members]
    assert [time is not None and time <= at for time in times] == [True, False, True, False]
    errors = [each.pop("error") for each in members]
    assert [error and error["code"] for error in errors] == [None, "missing_content", None, "config_not_found"]
    assert all(error["message"] and error["hint"] for error in errors if error)
    path = "outputs/pack/one/one.md"
    assert members == [
        {
            "id": "one",
            "type": "artifact",
            "status": "success",
            "output_path": path,
            "outputs": [path],
            "cache_used": False,
        },
        {
            "id": "broken",
            "type": "artifact",
            "status": "failed",
            "output_path": None,
            "outputs": [],
            "cache_used": False,
        },
        {
            "id": "in",
            "type": "collection",
            "status": "success",
            "output_path": "outputs/pack/in/manifest.json",
            "outputs": ["outputs/pack/in/manifest.json"],
            "cache_used": False,
        },
        {
            "id": "gone",
            "type": "artifact",
            "status": "skipped",
            "output_path": None,
            "outputs": [],
            "cache_used": False,
        },
    ]
    assert project.read("outputs/pack/manifest.json").endswith("}\n")


async def test_a_manifest_keeps_when_a_member_was_made(project: Project, engine: Engine):
    """A cached member keeps its time and its hash; a forced one gets new ones."""
    project.save(*sheet("one", "x"), *sheet("two", "y"), pack([member("one"), member("two")]))
    await build(engine)
    first = {each["id"]: (each["generated_at"], each["context_hash"]) for each in manifest(project)["members"]}
    await trio.sleep(0.005)
    project.save(*sheet("two", "changed"))
    await build(engine)
    second = {each["id"]: (each["generated_at"], each["context_hash"]) for each in manifest(project)["members"]}
    assert second["one"] == first["one"]
    assert second["two"][0] > first["two"][0]
    assert second["two"][1] != first["two"][1]
    assert states(project) == {"one": ("success", True, None), "two": ("success", False, None)}
    assert manifest(project)["cache_stats"]["cache_hit_rate"] == 0.5
    await trio.sleep(0.005)
    await build(engine, force_members=frozenset(["one"]))
    third = {each["id"]: each["generated_at"] for each in manifest(project)["members"]}
    assert third["one"] > second["one"][0], "its text is the same, and it was generated again"
    assert third["two"] == second["two"][0]
    await build(engine)
    assert {each["id"]: each["generated_at"] for each in manifest(project)["members"]} == third


async def test_times_are_kept_when_the_traces_are_lost(project: Project):
    """A member that is checked again and found unchanged keeps its time."""
    project.save(*sheet("one", "x"), pack([member("one"), nested("in", "inner")]), pack([member("one")], "inner"))
    loaded = settings.load(project.root, {})
    async with open_engine(project.root, loaded.settings) as engine:
        first = await build(engine)
    async with open_engine(project.root, loaded.settings) as engine:
        engine.store._writer.execute("DELETE FROM traces")  # pyright: ignore
        second = await build(engine)
        assert second.cached == 2
        assert [built.generated_at for built in second.members] == [built.generated_at for built in first.members]
        assert second.generated_at == first.generated_at


@requirement("manifest.this-run")
async def test_a_manifest_tells_of_this_run(project: Project, engine: Engine):
    """Also when everything came from the cache; then once, not each time."""
    project.save(*sheet("one", "x"), *sheet("two", "y"), pack([member("one"), member("two")]))
    await build(engine)
    assert manifest(project)["cache_stats"]["cache_hits"] == 0
    for _ in range(2):
        await build(engine)
        assert manifest(project)["cache_stats"] == {
            "total_members": 2,
            "cache_hits": 2,
            "cache_misses": 0,
            "cache_hit_rate": 1.0,
        }
        assert states(project) == {"one": ("success", True, None), "two": ("success", True, None)}
    await build(engine, force_members=frozenset(["two"]))
    assert states(project) == {"one": ("success", True, None), "two": ("success", False, None)}


@requirement("freshness.failed")
async def test_a_member_that_fails_keeps_the_age_of_its_files(project: Project, engine: Engine):
    """It was made, and what was made is still there; so does one that a later failure left out."""
    project.save(*sheet("one", "x"), *sheet("two", "y"), pack([member("one"), member("two", required=False)]))
    await build(engine)
    first = {each["id"]: each["generated_at"] for each in manifest(project)["members"]}
    project.write("outputs/pack/two/two.md", "edited")
    project.save(*sheet("two", "changed"))
    for _ in range(2):
        made = await build(engine)
        assert made.members[1].error is not None
        assert "-edited" in made.members[1].error.diff
        assert "+changed" in made.members[1].error.diff
        assert {each["id"]: each["generated_at"] for each in manifest(project)["members"]} == first
    assert set(manifest(project)["members"][1]["error"]) == {"code", "message", "hint"}


REASONS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("a shared name", {"season": "summer"}, {"season": "winter"}, ["shared context `season` has changed"]),
    ("a new shared name", {}, {"season": "winter"}, ["shared context `season` is new"]),
    ("a name that is gone", {"season": "summer"}, {}, ["context `season` is gone"]),
    (
        "two of three names",
        {"a": 1, "b": [1], "c": {"d": 1}},
        {"a": 1, "b": [2], "c": {"d": 2}},
        ["shared context `b` has changed", "shared context `c` has changed"],
    ),
    (
        "very many names",
        {f"n{number}": 1 for number in range(15)},
        {f"n{number}": 2 for number in range(15)},
        [*(f"shared context `n{number}` has changed" for number in range(10)), "and 5 more"],
    ),
]


@requirement("reasons.named")
@pytest.mark.parametrize(("before", "now", "reasons"), [row[1:] for row in REASONS], ids=[row[0] for row in REASONS])
async def test_a_reason_names_what_has_changed(
    project: Project, engine: Engine, before: dict[str, Any], now: dict[str, Any], reasons: list[str]
):
    """Of the shared context, also for members of nested collections."""

    def collections(values: dict[str, Any]) -> list[dict[str, Any]]:
        shared = {"shared": {"sources": [{"type": "inline_data", "data": values}]}}
        inner = pack([member("one")], "inner")
        return [
            inner,
            pack([member("two"), nested("in", "inner")], "mid"),
            pack([member("one"), nested("mid")], context=shared),
        ]

    project.save(*sheet("one", "{{ season }}"), *sheet("two", "y"), *collections(before))
    await build(engine)
    project.save(*collections(now))
    plans = {plan.member.id: plan.reasons for plan in await planned(engine)}
    said = "; ".join(reasons)
    assert plans == {"one": reasons, "mid": [f"two: {said}", f"in: one: {said}"]}


@requirement("reasons.named")
async def test_a_reason_names_whose_context_has_changed(project: Project, engine: Engine):
    """The member's own, the caller's, a setting, the place, and the version of chora."""
    own: dict[str, Any] = {
        "overrides": {"one": {"word": "a"}},
        "shared": {"sources": [{"type": "inline_data", "data": {"word": "s"}}]},
    }
    project.save(*sheet("one", "x"), pack([member("one")], context=own))
    await build(engine)
    own["overrides"]["one"]["word"] = "b"
    project.save(pack([member("one")], context=own))
    assert (await planned(engine))[0].reasons == ["context `word` has changed"]
    await build(engine)
    assert (await planned(engine, context={"word": "c"}))[0].reasons == ["context `word` has changed"]
    assert (await planned(engine, output_path="else"))[0].reasons == ["its files go to another place"]
    engine.settings = msgspec.structs.replace(engine.settings, llm=settings.LlmSettings(model="other"))
    assert (await planned(engine))[0].reasons == ["the setting llm.model has changed"]


@requirement("plan.as-built")
async def test_a_plan_counts_what_the_run_counts(project: Project, engine: Engine):
    """A member whose inputs have changed and whose files haven't is from the cache, in both."""
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.write("word.txt", "one")
    project.save(*sheet("one", "the same", sources=[word]), pack([member("one"), nested("in", "inner")]))
    project.save(pack([member("one")], "inner"))
    await build(engine)
    project.write("word.txt", "two")
    plans = await planned(engine)
    assert [(plan.reasons, plan.cached) for plan in plans] == [
        (["word.txt has changed"], True),
        (["one: word.txt has changed"], True),
    ]
    assert cached(await build(engine)) == ["one", "in"]
    assert [plan.cached for plan in await planned(engine, force=True)] == [False, False]


@requirement("cli.plan")
async def test_a_plan_finds_what_a_check_finds(project: Project, engine: Engine):
    """A file that would be left alone, a text that can't be generated."""
    project.save(*sheet("one", "x"), *sheet("two", "y"), pack([member("one"), member("two")]))
    await build(engine)
    project.write("outputs/pack/one/one.md", "edited")
    project.save(content("two", pattern={"type": "jinja2", "template": "{{ 1 / 0 }}"}))
    one, two = await planned(engine)
    assert (one.error.code, [file.action for file in one.files]) == ("output_edited", ["refuse"])
    assert two.error.code == "generation_failed"


@requirement("outputs.conflicts")
async def test_a_conflict_is_reported_until_it_is_settled(project: Project, engine: Engine):
    """By each run, in nested collections too, however much came from the cache."""
    engine.settings = msgspec.structs.replace(engine.settings, output=settings.OutputSettings(on_edit="merge"))
    project.save(*sheet("one", "x"), pack([member("one")], "inner"), pack([nested("in", "inner")]))
    await build(engine)
    path = "outputs/pack/in/one/one.md"
    project.write(path, "edited\n")
    project.save(*sheet("one", "changed"))
    for _ in range(3):
        assert (await build(engine)).conflicts == [path]
    project.write(path, "settled\n")
    assert (await build(engine)).conflicts == []


async def test_an_unchanged_manifest_is_not_written_again(project: Project, engine: Engine):
    """Unless the file or the collection has changed."""
    project.save(*sheet("one", "x"), pack([member("one"), nested("in", "inner")]), pack([member("one")], "inner"))
    await build(engine)
    await build(engine)  # its members are all cached now
    file = project.root / "outputs/pack/manifest.json"
    before = file_identity(file)
    await build(engine)
    assert file_identity(file) == before
    for spoil in (lambda: file.write_text("{}"), file.unlink, lambda: project.write(str(file), b"\xff torn")):
        spoil()
        assert (await build(engine)).cached == 2
        assert states(project)["one"] == ("success", True, None)
    project.save(pack([member("one"), nested("in", "inner")], description="Another one", name="Another"))
    await build(engine)
    assert manifest(project)["collection_name"] == "Another"


async def test_secrets_do_not_get_into_the_manifest(project: Project, engine: Engine):
    """Values of the shared context under secret names are redacted at any depth; members still get them."""
    project.save(*sheet("one", "{{ api_key }} {{ nested.password }}"))
    shared = inline(api_key="k-123", port="Norrvik", nested={"password": "hunter2", "list": [{"token": "t-1"}]})
    project.save(pack([member("one")], context={"shared": shared}))
    await build(engine)
    written = project.read("outputs/pack/manifest.json")
    assert not any(secret in written for secret in ("k-123", "hunter2", "t-1"))
    assert manifest(project)["context"]["shared"]["port"] == "Norrvik"
    assert project.read("outputs/pack/one/one.md") == "k-123 hunter2"


@pytest.mark.parametrize(
    "body", ['{"name": "My app", "icons": []}', "[]", "", "{torn", b"\xff\xfe", '{"collection_id": 7}']
)
async def test_a_foreign_manifest_json_is_not_overwritten(project: Project, engine: Engine, body: str | bytes):
    """A web app has a file of that name too: it is left alone, and nothing is built around it."""
    project.write("outputs/pack/manifest.json", body)
    project.save(*sheet("one", "x"), pack([member("one")]))
    for step in (build, planned):
        with unchanged(project), pytest.raises(OutputEdited) as failed:
            await step(engine)
        assert failed.value.details["output_path"] == "outputs/pack/manifest.json"
        assert "output.manifest" in str(failed.value.hint)
    assert engine.store.counts()["versions"] == 0
    project.save(pack([member("one")], output={"manifest": False}))
    assert (await build(engine)).count("success") == 1


async def test_a_folder_in_the_place_of_the_manifest_is_refused(project: Project, engine: Engine):
    """Before anything is built."""
    project.write("outputs/pack/manifest.json/x", "")
    project.save(*sheet("one", "x"), pack([member("one")]))
    with unchanged(project), pytest.raises(OutputEdited, match="was not written by chora"):
        await build(engine)


async def test_the_manifest_of_another_collection_is_replaced_with_a_warning(project: Project, engine: Engine):
    """Both have one base path, by mistake or because one was renamed."""
    project.save(*sheet("one", "x"), pack([member("one")], "old", output={"base_path": "outputs/pack"}))
    await build(engine, "old")
    project.save(pack([member("one")]))
    made = await build(engine)
    assert made.warnings == ["outputs/pack/manifest.json was the manifest of the collection old before"]
    assert manifest(project)["collection_id"] == "pack"
    assert (await build(engine)).warnings == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda project: None, "it was never generated there"),
        (lambda project: project.write("outputs/pack/manifest.json", "{"), "the file there can't be read"),
        (lambda project: project.write("outputs/pack/manifest.json", b"\xff"), "the file there can't be read"),
        (lambda project: project.write("outputs/pack/manifest.json", "[" * 5000), "the file there can't be read"),
        (lambda project: project.write("outputs/pack/manifest.json/x", ""), "the file there can't be read"),
        (
            lambda project: project.write("outputs/pack/manifest.json", '{"collection_id": "x", "members": []}'),
            "the file there is not its manifest",
        ),
    ],
)
async def test_an_unreadable_manifest_is_treated_as_missing(
    project: Project, engine: Engine, spoil: Callable[[Project], object], problem: str
):
    """The error says what is wrong with it, and what to do."""
    spoil(project)
    project.save(*sheet("one", "x"), pack([member("one")]))
    parsed = engine.catalog.open_config("collection", "pack").parsed
    path = await module.find_manifest_path(Build(engine, dry=True), parsed)
    with pytest.raises(ManifestNotFound, match=problem) as failed:
        read_manifest(engine, parsed.config, path)
    assert failed.value.details == {"collection_id": "pack", "manifest_path": "outputs/pack/manifest.json"}
    assert failed.value.hint


# -- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["parallel", "sequential", "mixed"])
async def test_fail_fast_starts_no_further_member(gauge: Project, engine: Engine, strategy: str):
    """Running members finish; the others have a status that says why they weren't started; the next run builds them."""
    members = [member(letter, order=order, required=letter != "b") for order, letter in enumerate("abcde")]
    generation = {"strategy": strategy, "concurrency_limit": 1}
    gauge.save(pack(members, generation=generation, validation={"fail_fast": True}))
    engine.generators.by_name["gauge"].module.broken.add("b")
    with pytest.raises(CompositionFailed, match="the required member c failed"):
        await build(engine)
    after = ("skipped", False, "not_run")
    failed = ("failed", False, "generation_failed")
    assert states(gauge) == {"a": ("success", False, None), "b": failed, "c": after, "d": after, "e": after}
    engine.generators.by_name["gauge"].module.broken.clear()
    assert cached(await build(engine)) == ["a"]


async def test_without_fail_fast_all_others_are_built(gauge: Project, engine: Engine):
    """The error names the first member that failed."""
    engine.generators.by_name["gauge"].module.broken.update("bd")
    with pytest.raises(CompositionFailed) as failed:
        await build(engine)
    error = failed.value
    assert error.message == "pack: the required member b failed (and 1 more): b: it is broken."
    assert error.hint == "Fix it."
    assert error.details["failed_members"] == ["b", "d"]
    assert [each["id"] for each in error.details["members"]] == ["b", "d"]
    assert (error.details["total_members"], error.details["successful_members"]) == (5, 3)
    assert error.details["manifest_path"] == "outputs/pack/manifest.json"
    assert error.details["error_type"] == "generation_failed"
    assert {id for id, state in states(gauge).items() if state[0] == "success"} == {"a", "c", "e"}


async def test_optional_members_may_fail(gauge: Project, engine: Engine):
    """The collection succeeds without them, with a warning."""
    gauge.save(pack([member("a"), member("b", required=False), member("gone", required=False)]))
    engine.generators.by_name["gauge"].module.broken.add("b")
    made = await build(engine)
    assert [built.status for built in made.members] == ["success", "failed", "skipped"]
    assert made.generated_at is None
    assert manifest(gauge)["status"] == "failed"


async def test_a_required_member_without_a_config_fails_the_collection(gauge: Project, engine: Engine):
    """With its own error code; the others are built."""
    gauge.save(pack([member("a"), member("gone")]))
    with pytest.raises(CompositionFailed, match="the required member gone failed: There is no artifact config"):
        await build(engine)
    assert states(gauge) == {"a": ("success", False, None), "gone": ("failed", False, "config_not_found")}


@pytest.mark.parametrize(
    ("rule", "required", "broken", "fails", "passed"),
    [
        ("all_members_present", True, "", False, True),
        ("all_members_present", True, "b", True, False),
        ("all_members_present", False, "b", False, True),
        ("no_failures", True, "", False, True),
        ("no_failures", True, "b", True, False),
        ("no_failures", False, "b", False, True),
        ("nobody_knows", True, "b", False, True),
    ],
)
async def test_validation_rules_are_applied_to_the_outputs(
    gauge: Project, engine: Engine, rule: str, required: bool, broken: str, fails: bool, passed: bool
):
    """A required rule that fails fails the collection; the manifest is written either way."""
    rules = {"rules": [{"type": rule, "required": required}]}
    gauge.save(pack([member("a"), member("b", required=False)], validation=rules))
    engine.generators.by_name["gauge"].module.broken.add(broken)
    if fails:
        with pytest.raises(ValidationFailed, match=f"the rule {rule} doesn't hold") as failed:
            await build(engine)
        assert failed.value.details["rules"] == [rule]
    else:
        await build(engine)
    evaluated = 0 if rule == "nobody_knows" else 1
    assert manifest(gauge)["validation"] == {"passed": passed, "rules_evaluated": evaluated}


async def test_the_failure_of_a_nested_collection_is_its_own(gauge: Project, engine: Engine):
    """It fails as a member, with its first failed member; its own manifest has the rest."""
    gauge.save(pack([member("a"), member("b")], "inner"), pack([nested("in", "inner", required=False), member("c")]))
    engine.generators.by_name["gauge"].module.broken.add("b")
    made = await build(engine)
    assert made.members[0].error is not None
    assert made.members[0].error.message.startswith("inner: the required member b failed")
    assert states(gauge, "outputs/pack/in")["b"] == ("failed", False, "generation_failed")
    engine.generators.by_name["gauge"].module.broken.clear()
    assert cached(await build(engine)) == ["c"]


class Full(SqliteStore):
    """A store that refuses the texts of one content."""

    refused = ""

    async def add_version(self, version: Version) -> Version:
        if version.content_id == self.refused:
            raise StorageError("The database failed: full.", "Free some disk space.")
        return await super().add_version(version)


@pytest.mark.parametrize(("error", "code"), [(Busy, "busy"), (StorageFailed, "storage_failed")])
async def test_a_fault_of_the_server_ends_the_run(
    gauge: Project, engine: Engine, tmp_path: Path, error: type[ChoraError], code: str
):
    """It isn't counted as the member's failure: waiting members aren't started, running ones are cancelled, and the
    manifest says so.
    """
    store = engine.store = Full(tmp_path / "other.db")
    generator = holding_generator(engine, "b", "c")
    if error is Busy:
        generator.busy.add("b")
    else:
        store.refused = "b"
    gauge.save(pack([member(letter) for letter in "abcde"], generation={"concurrency_limit": 2}))
    gauge.save(pack([nested("in", "pack"), member("e")], "outer", output={"structure": "custom"}))
    outcome: list[str] = []

    async def run() -> None:
        with pytest.raises(error) as failed:
            await build(engine, "outer" if error is Busy else "pack")
        outcome.append(failed.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(PATIENCE):
            while "c" not in generator.begun:
                await trio.sleep(0.005)
        generator.releases["b"].set()
    assert outcome == [code]
    assert manifest(gauge)["status"] == "failed"
    reported = states(gauge)
    assert reported.pop("a") == ("success", False, None)
    assert set(reported.values()) == {("skipped", False, code)}
    assert manifest(gauge)["members"][1]["error"]["message"].startswith(
        "It wasn't built, because the build ended early: "
    )
    assert manifest(gauge)["validation"]["rules_evaluated"] == 0
    assert generator.running == 0
    generator.busy.clear()
    generator.releases.clear()
    store.refused = ""
    assert cached(await build(engine)) == ["a"]
    store.close()


async def test_a_manifest_that_cannot_be_written_is_a_failure(
    gauge: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """The outputs exist, and aren't built a second time."""
    really = engine.folder.write_file

    async def refuse(path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):
            raise OSError(28, "No space left on device")
        await really(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(engine.folder, "write_file", refuse)
        with pytest.raises(WriteFailed) as failed:
            await build(engine)
        assert failed.value.details == {
            "output_path": "outputs/pack/manifest.json",
            "error_type": "OSError",
            "errno": 28,
        }
        assert failed.value.hint
    assert cached(await build(engine)) == list("abcde")


# -- force and plans --------------------------------------------------------------------------------------------


async def test_force_builds_every_member_again(gauge: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Or the members that the call or the config names; a large run yields to other tasks in between."""
    monkeypatch.setattr(module, "CHECKPOINT_INTERVAL", 2)
    generator = engine.generators.by_name["gauge"].module
    await build(engine)
    assert cached(await build(engine)) == list("abcde")
    assert cached(await build(engine, force=True)) == []
    assert cached(await build(engine, force_members=frozenset("b"))) == list("acde")
    with pytest.raises(ConfigNotFound, match=r"no member x; nothing was built"):
        await build(engine, force_members=frozenset("bx"))
    with pytest.raises(ConfigNotFound, match=r"no member x, y"):
        await planned(engine, force_members=frozenset("yx"))
    gauge.save(pack([member(letter) for letter in "abcde"], generation={"force_members": ["c"]}))
    assert cached(await build(engine, force_members=frozenset("b"))) == list("ade")
    gauge.save(pack([member(letter) for letter in "abcde"], generation={"force": True}))
    assert cached(await build(engine)) == []
    assert len(generator.begun) == 5 + 5 + 1 + 2 + 5
    plans = await planned(engine)
    assert {tuple(each.reasons) for each in plans} == {("force is set",)}


async def test_force_reaches_nested_collections(gauge: Project, engine: Engine):
    """All members, or one nested collection with all that is in it."""
    gauge.save(pack([member("a")], "inner"), pack([nested("in", "inner"), member("b")]))
    await build(engine)
    assert cached(await build(engine, force_members=frozenset(["in"]))) == ["b"]
    assert cached(await build(engine, force=True)) == []
    assert engine.generators.by_name["gauge"].module.begun.count("a") == 3


async def test_members_with_their_own_sources_are_checked(project: Project, engine: Engine):
    """Their sources must be read to know; nothing is built if they are unchanged."""
    own = {"sources": [{"type": "external_file", "path": "word.json"}]}
    project.write("word.json", '{"word": "one"}')
    project.save(*sheet("a", "{{ word }}"), pack([member("a", context_override=own)]))
    for word in ("one", "two"):
        project.write("word.json", msgspec.json.encode({"word": word}))
        assert cached(await build(engine)) == []
        assert project.read("outputs/pack/a/a.md") == word
        assert cached(await build(engine)) == ["a"]
        assert (await planned(engine))[0].reasons == []


async def test_an_edit_by_hand_is_left_alone(project: Project, engine: Engine):
    """Its member fails, the others are built; the plan says the same."""
    project.save(*sheet("a", "{{ w }}"), *sheet("b", "{{ w }}"), pack([member("a"), member("b", required=False)]))
    await build(engine, context={"w": "1"})
    project.write("outputs/pack/b/b.md", "edited")
    with unchanged(project):
        plans = await planned(engine, context={"w": "1"})
    assert [[(file.path, file.action) for file in each.files] for each in plans] == [
        [],
        [("outputs/pack/b/b.md", "refuse")],
    ]
    assert plans[1].reasons == ["outputs/pack/b/b.md has changed"]
    made = await build(engine, context={"w": "1"})
    assert states(project) == {"a": ("success", True, None), "b": ("failed", False, "output_edited")}
    assert made.members[1].error is not None
    assert project.read("outputs/pack/b/b.md") == "edited"
    project.write("outputs/pack/b/b.md", "1")
    assert cached(await build(engine, context={"w": "1"})) == ["a", "b"]


async def test_a_plan_changes_nothing_and_says_why(project: Project, engine: Engine):
    """Neither files nor the store, although it generates texts in memory; then the run does what the plan said."""
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt", "required": False}
    project.write("word.txt", "one")
    project.save(*sheet("a", "{{ word }}", sources=[word]), *sheet("b", "b"), *sheet("c", "c{{ x }}"))
    project.save(pack([member("c")], "inner"))
    project.save(pack([member("a"), member("b"), nested("in", "inner"), member("gone", required=False)]))

    async def reported(**rest: Any) -> dict[str, list[str]]:
        await engine.traces.save_traces()
        before = engine.store.counts() | {"events": 0}  # stored in the background
        with unchanged(project):
            plans = await planned(engine, **rest)
        await engine.traces.save_traces()
        assert engine.store.counts() | {"events": 0} == before
        return {each.member.id: each.reasons for each in plans}

    never = ["it was never assembled"]
    assert await reported() == {"a": never, "b": never, "in": ["c: it was never assembled"], "gone": ["it fails"]}
    await build(engine)
    assert await reported() == {"a": [], "b": [], "in": [], "gone": ["it fails"]}
    project.write("word.txt", "two")
    project.save(*sheet("b", "B"))
    (project.root / "outputs/pack/in/c/c.md").unlink()
    assert await reported() == {
        "a": ["word.txt has changed"],
        "b": ["configs/content/b.json has changed", "configs/artifact/b.json has changed"][:1],
        "in": ["c: outputs/pack/in/c/c.md is gone"],
        "gone": ["it fails"],
    }
    assert (await reported(context={"x": 1}))["b"] == ["context `x` is new", "configs/content/b.json has changed"]
    assert (await reported(force_members=frozenset("b")))["b"] == ["force is set"]
    assert (await reported(output_path="elsewhere"))["a"] == ["its files go to another place", "word.txt has changed"]
    plans = await planned(engine)
    assert [(file.path, file.action, file.diff) for file in plans[1].files] == [
        (
            "outputs/pack/b/b.md",
            "update",
            "--- outputs/pack/b/b.md (on disk)\n+++ outputs/pack/b/b.md (chora)\n@@ -1 +1 @@\n-b\n+B",
        )
    ]
    assert [file.action for each in plans[2].nested for file in each.files] == ["create"]
    assert plans[3].error is not None
    assert not any(each.files for each in await planned(engine, render=False))
    assert cached(await build(engine)) == []


async def test_a_busy_server_fails_a_plan(gauge: Project, engine: Engine):
    """It isn't reported as the member's failure."""
    engine.generators.by_name["gauge"].module.busy.add("b")
    with pytest.raises(Busy, match="Too much to do"):
        await planned(engine)


# -- progress and cancellation ----------------------------------------------------------------------------------


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps ahead whenever all tasks and threads have been idle for a moment."""
    return MockClock(autojump_threshold=0.2)


@pytest.mark.slow("waits for the interval of notifications")
async def test_progress_is_reported_at_intervals(
    gauge: Project, engine: Engine, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    """Not more often than the interval, never backwards, and complete at the end."""
    interval = module.PROGRESS_INTERVAL
    monkeypatch.setattr(module, "PROGRESS_INTERVAL", 1e9)  # whatever the clock does while the store writes
    reported: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        reported.append((done, total, what))

    await build(engine, progress=progress)
    assert [each[:2] for each in reported] == [(5, 5)], "five members in no time aren't worth five words"
    monkeypatch.setattr(module, "PROGRESS_INTERVAL", interval)
    reported.clear()
    await build(engine, progress=progress)
    assert reported == [(5, 5, "nothing has changed")]
    gauge.save(pack([member(letter, order=order) for order, letter in enumerate("abcde")]))
    generator = holding_generator(engine, *"abcde")
    reported.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: build(engine, progress=progress, force=True))
        for letter in "abcde":
            await trio.sleep(1)
            generator.releases[letter].set()
    assert [what for _, _, what in reported] == [f"{letter}: success" for letter in "abcde"]
    assert [done for done, _, _ in reported] == [1, 2, 3, 4, 5]


@requirement("collection.cancelled")
async def test_the_manifest_of_a_cancelled_run_is_correct(gauge: Project, engine: Engine):
    """Work stops, the manifest says what was built, and the next run builds the rest."""
    gauge.save(pack([member(letter) for letter in "abcde"], generation={"concurrency_limit": 2}))
    await build(engine)
    for letter in "abcd":
        gauge.save(content(letter, pattern={"type": "gauge", "generation_config": {"context": {"word": "new"}}}))
    generator = holding_generator(engine, "c", "b")
    generator.begun.clear()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(build, engine)
            with trio.fail_after(PATIENCE):
                while "c" not in generator.begun:
                    await trio.sleep(0.005)
            scope.cancel()
    assert scope.cancelled_caught
    assert generator.running == 0
    assert manifest(gauge)["status"] == "cancelled"
    left = ("skipped", False, "cancelled")
    assert states(gauge) == {
        "a": ("success", False, None),
        "b": left,
        "c": left,
        "d": left,
        "e": ("success", True, None),
    }
    generator.releases.clear()
    assert cached(await build(engine)) == ["a", "e"]
    assert manifest(gauge)["status"] == "complete"


async def test_a_cancelled_run_stays_cancelled_when_its_manifest_cannot_be_written(
    gauge: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A full disk is then only logged, as the caller has already gone."""
    generator = holding_generator(engine, "a")

    async def refuse(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.folder, "write_file", refuse)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(build, engine)
            with trio.fail_after(PATIENCE):
                while not generator.running:
                    await trio.sleep(0.005)
            scope.cancel()
    assert scope.cancelled_caught
    assert "the manifest of pack couldn't be written" in caplog.text


async def test_concurrent_runs_of_a_collection_take_turns(gauge: Project, engine: Engine):
    """The second finds everything built."""
    made: list[BuiltCollection] = []

    async def run() -> None:
        made.append(await build(engine))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(run)
    assert sorted(each.cached for each in made) == [0, 5, 5]
    assert sorted(engine.generators.by_name["gauge"].module.begun) == list("abcde")


# -- processes --------------------------------------------------------------------------------------------------

BUILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import trio
    from chora.engine.engine import open_engine
    from chora import settings
    from chora.engine.building.collection import build_collection
    from chora.engine.building.build import Build, CallerContext

    async def main(root, context):
        async with open_engine(root, settings.load(root, {}).settings) as engine:
            async def progress(done, total, what):
                print(done, flush=True)
            parsed = engine.catalog.open_config("collection", "pack").parsed
            await build_collection(Build(engine, progress=progress), parsed, CallerContext({"word": context}))

    trio.run(main, Path(sys.argv[1]), sys.argv[2])
    """
)


def start(project: Project, word: str) -> subprocess.Popen[str]:
    """Build the collection in another process, which reports its progress."""
    command = [sys.executable, "-c", BUILD, str(project.root), word]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def finish(process: subprocess.Popen[str]) -> int:
    """Its exit code."""
    await trio.to_thread.run_sync(process.communicate)
    return process.returncode


@pytest.fixture
def large(project: Project) -> Project:
    """A collection that takes a moment."""
    project.save(
        content("body", pattern={"type": "template_fill", "template": "{{ word }}\n" * 200 + "{{ member_id }}"})
    )
    project.save(artifact("body", [child("body")]))
    project.save(pack([member(f"m{number}", path="body") for number in range(80)]))
    return project


def texts(project: Project) -> dict[str, str]:
    return {file.parent.name: file.read_text("utf-8") for file in (project.root / "outputs/pack").rglob("*.md")}


def whole(word: str) -> dict[str, str]:
    return {f"m{number}": f"{word}\n" * 200 + f"m{number}" for number in range(80)}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.slow("starts two processes")
async def test_a_run_that_is_killed_leaves_whole_files_and_the_next_one_finishes(large: Project):
    """Every file is the old or the new one, none is taken for an edit, and the manifest is complete."""
    old, new, partly = whole("old"), whole("new"), 0
    assert await finish(start(large, "old")) == 0
    assert texts(large) == old
    for after in (1, 2):
        process = start(large, "new" if after == 1 else "old")
        before, wanted = (old, new) if after == 1 else (new, old)

        def strike(process: subprocess.Popen[str] = process, after: int = after) -> None:
            assert process.stdout is not None
            for _ in range(after):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()

        await trio.to_thread.run_sync(strike)
        found = texts(large)
        assert all(body in (before[id], wanted[id]) for id, body in found.items())
        assert len(found) == 80
        assert manifest(large)["collection_id"] == "pack"
        partly += found not in (before, wanted)
        assert await finish(start(large, "new" if after == 1 else "old")) == 0
        assert texts(large) == wanted
        assert {state[0] for state in states(large).values()} == {"success"}
    assert partly, "at least one of them was struck in the middle"


@pytest.mark.slow("starts two processes")
async def test_two_processes_may_build_one_collection_at_once(large: Project):
    """With equal or different contexts: both succeed, every text is whole, and none is taken for an edit afterwards."""
    for one, other in (("one", "one"), ("one", "other"), ("this", "that")):
        for process in [start(large, one), start(large, other)]:
            assert await finish(process) == 0
        either = whole(one), whole(other)
        assert all(body in (either[0][id], either[1][id]) for id, body in texts(large).items())
    assert await finish(start(large, "last")) == 0
    assert texts(large) == whole("last")


async def test_a_run_waits_for_the_locks_of_another_process(
    gauge: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """It waits for a limited time, then fails with busy. On a file system without locks it goes on without them."""
    monkeypatch.setattr(locks, "FILE_LOCKS_TIMEOUT", 0.05)
    folder = gauge.root / ".chora/locks"
    make_folder(folder)
    with contextlib.ExitStack() as held:
        for number in range(LOCK_FILES):
            held.enter_context(file_lock(folder / f"{number:02}"))
        with pytest.raises(Busy, match="Another process has been writing"):
            await build(engine)
    assert {state[2] for state in states(gauge).values()} == {"busy"}

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "file_lock", refuse)
    assert (await build(engine)).count("success") == 5
