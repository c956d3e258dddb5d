"""Orphans: outputs that nothing writes any more are reported, and removed on request if they are as written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from chora.engine import orphans
from chora.engine.engine import Engine
from chora.engine.orphans import find_orphans, remove_orphans
from tests.conftest import Asking, Project, artifact, child, requirement, text


def sheet(id: str, *names: str) -> dict[str, Any]:
    outputs = [{"file": name, "format": "markdown"} for name in names or (f"outputs/{id}.md",)]
    return artifact(id, [child("note")], *outputs)


def collection(id: str, *members: str, **rest: Any) -> dict[str, Any]:
    kinds = {"inner": "collection"}
    return {
        "type": "collection",
        "id": id,
        "name": id,
        "members": [{"id": each, "type": kinds.get(each, "artifact"), "path": each} for each in members],
        "output": {
            "base_path": f"outputs/{id}",
            "structure": rest.pop("structure", "nested"),
            **rest.pop("output", {}),
        },
        **rest,
    }


@pytest.fixture
def built(project: Project) -> Project:
    """A collection of two artifacts and a collection of one."""
    project.save(text("note", "A note."), sheet("a"), sheet("b"), sheet("c"))
    project.save(collection("pack", "a", "b", "inner"), collection("inner", "c"))
    return project


A, B, C = "outputs/pack/a/a.md", "outputs/pack/b/b.md", "outputs/pack/inner/c/c.md"


def remove(project: Project, *paths: str) -> None:
    for path in paths:
        (project.root / path).unlink()


CHANGES: dict[str, tuple[Callable[[Project], None], dict[str, str]]] = {
    "nothing": (lambda project: None, {}),
    "a member is gone": (
        lambda project: project.save(collection("pack", "a", "inner")),
        {B: "pack has no member b any more"},
    ),
    "a collection is gone": (
        lambda project: project.save(collection("pack", "a", "b")),
        {C: "pack has no member inner any more"},
    ),
    "a member of a member is gone": (
        lambda project: project.save(collection("inner", "a")),
        {C: "inner has no member c any more"},
    ),
    "an output has another name": (
        lambda project: project.save(sheet("b", "outputs/new.md")),
        {B: "the member b of pack has no such output any more"},
    ),
    "an output less": (lambda project: project.save(sheet("b", "outputs/b.md")), {}),
    "a member has another id": (
        lambda project: project.save(
            collection(
                "pack",
                "a",
                "inner",
                members=[
                    {"id": "a", "type": "artifact", "path": "a"},
                    {"id": "bee", "type": "artifact", "path": "b"},
                    {"id": "inner", "type": "collection", "path": "inner"},
                ],
            )
        ),
        {B: "pack has no member b any more"},
    ),
    "another structure": (
        lambda project: project.save(collection("pack", "a", "b", "inner", structure="flat")),
        {
            A: "the member a of pack has no such output any more",
            B: "the member b of pack has no such output any more",
        },
    ),
    "another folder": (
        lambda project: project.save(collection("pack", "a", "b", "inner", output={"base_path": "outputs/new"})),
        dict.fromkeys((A, B, C), "pack goes to another folder now"),
    ),
    "the config of the collection is gone": (
        lambda project: remove(project, "configs/collection/pack.json"),
        dict.fromkeys((A, B, C), "there is no collection pack any more"),
    ),
    "the config of a member is gone": (
        lambda project: remove(project, "configs/artifact/b.json"),
        {B: "there is no config of the member b of pack any more"},
    ),
    "a config that can't be read may still write it": (
        lambda project: project.write("configs/artifact/b.json", "{") and None,
        {},
    ),
    "the name depends on a context now": (lambda project: project.save(sheet("b", "outputs/{{ tag }}.md")), {}),
}


@requirement("outputs.orphans")
@pytest.mark.parametrize("change", CHANGES)
async def test_an_output_that_nothing_writes_any_more_is_an_orphan(built: Project, ask: Asking, change: str):
    """With the reason; a writer that can't be asked may still write it."""
    act, wanted = CHANGES[change]
    await ask("generate_collection", collection_config_path="pack")
    act(built)
    found = await find_orphans(ask.engine)
    assert {orphan.path: orphan.reason for orphan in found} == wanted
    assert {orphan.state for orphan in found} <= {"written"}


@requirement("outputs.orphans")
@pytest.mark.parametrize(
    "change",
    [
        "a member is gone",
        "a collection is gone",
        "a member of a member is gone",
        "an output has another name",
        "another structure",
    ],
)
async def test_a_collection_reports_its_orphans(built: Project, ask: Asking, change: str):
    """In a plan, in the build and in each later one, until they are gone."""
    act, wanted = CHANGES[change]
    first = await ask("generate_collection", collection_config_path="pack")
    assert first["metadata"]["orphans"] == {"count": 0, "files": []}
    act(built)
    shown = {
        "count": len(wanted),
        "files": [{"path": path, "reason": wanted[path], "edited": False} for path in wanted],
    }
    for dry in (True, False, False, True):
        result = await ask("generate_collection", collection_config_path="pack", dry_run=dry)
        assert result["metadata"]["orphans"] == shown
    removed = await remove_orphans(ask.engine)
    assert ({orphan.path for orphan in removed.deleted}, removed.kept) == (set(wanted), [])
    result = await ask("generate_collection", collection_config_path="pack")
    assert result["metadata"]["orphans"]["count"] == 0
    assert not any((built.root / path).exists() for path in wanted)


@requirement("outputs.orphans")
async def test_an_artifact_reports_its_orphans(project: Project, ask: Asking):
    """Files that it wrote under other names; not those whose place a caller gave."""
    project.save(text("note", "A note."), sheet("a", "outputs/one.md", "outputs/two.md"))
    await ask("assemble_artifact", artifact_config_id="a")
    await ask("assemble_artifact", artifact_config_id="a", output_path="outputs/given.md")
    project.save(sheet("a", "outputs/one.md", "outputs/three.md"))
    for dry in (True, False, False, True):
        result = await ask("assemble_artifact", artifact_config_id="a", dry_run=dry)
        [orphan] = result["metadata"]["orphans"]["files"]
        assert (orphan["path"], orphan["reason"]) == ("outputs/two.md", "a has no such output any more")
    result = await ask("assemble_artifact", artifact_config_id="a", output_path="outputs/given.md")
    assert result["metadata"]["orphans"] == {"count": 0, "files": []}, "it isn't known what else a caller gave"
    remove(project, "configs/artifact/a.json")
    assert {orphan.path for orphan in await find_orphans(ask.engine)} == {
        f"outputs/{name}.md" for name in ("one", "two", "three", "given")
    }


@requirement("outputs.orphans-kept")
async def test_only_what_is_as_written_and_claimed_by_nobody_is_removed(built: Project, ask: Asking):
    """An edited file is kept and reported, one that another config claims isn't even an orphan; a dry run deletes
    nothing, and folders that become empty go too."""
    await ask("generate_collection", collection_config_path="pack")
    built.save(collection("pack", "a"), sheet("other", C))
    built.write(B, "Mine.\n")
    before = built.files()
    planned = await remove_orphans(ask.engine, dry_run=True)
    assert (planned.deleted, [orphan.path for orphan in planned.kept]) == ([], [B])
    built.save(sheet("other"))
    planned = await remove_orphans(ask.engine, dry_run=True)
    assert ([orphan.path for orphan in planned.deleted], [orphan.path for orphan in planned.kept]) == ([C], [B])
    assert {path: data for path, data in built.files().items() if "outputs" in path} == {
        path: data for path, data in before.items() if "outputs" in path
    }
    done = await remove_orphans(ask.engine)
    assert done == planned
    assert built.read(B) == "Mine.\n"
    assert not (built.root / "outputs/pack/inner/c").exists()
    assert (built.root / A).exists()


async def test_a_member_that_fails_keeps_what_it_wrote(built: Project, ask: Asking):
    """Its files aren't orphans: it would write them if it could."""
    await ask("generate_collection", collection_config_path="pack")
    built.save(artifact("b", [child("gone")]))
    await ask.refused("generate_collection", "composition_failed", collection_config_path="pack")
    assert await find_orphans(ask.engine) == []
    built.save(sheet("b"), collection("pack", "a", "inner"))
    result = await ask("generate_collection", collection_config_path="pack")
    assert [file["path"] for file in result["metadata"]["orphans"]["files"]] == [B]


async def test_builds_in_other_places_have_orphans_of_their_own(built: Project, ask: Asking):
    """What was built for a place that a caller gave is compared with what goes there."""
    await ask("generate_collection", collection_config_path="pack")
    await ask("generate_collection", collection_config_path="pack", output_path="outputs/there")
    built.save(collection("pack", "a", "inner"))
    for place in ("outputs/pack", "outputs/there"):
        result = await ask("generate_collection", collection_config_path="pack", output_path=place)
        assert [file["path"] for file in result["metadata"]["orphans"]["files"]] == [f"{place}/b/b.md"]


async def test_a_result_lists_the_first_orphans_and_counts_all(project: Project, ask: Asking):
    """Results stay small."""
    names = [f"outputs/{number:03}.md" for number in range(30)]
    project.save(text("note", "A note."), sheet("a", *names))
    await ask("assemble_artifact", artifact_config_id="a")
    project.save(sheet("a"))
    result = await ask("assemble_artifact", artifact_config_id="a")
    orphans = result["metadata"]["orphans"]
    assert (orphans["count"], [file["path"] for file in orphans["files"]]) == (30, names[:20])


async def test_of_an_output_without_a_note_only_a_missing_artifact_makes_an_orphan(project: Project, ask: Asking):
    """Such as one that was written before writers were noted: who knows where it was meant to go."""
    project.save(text("note", "A note."), sheet("a", "outputs/one.md", "outputs/two.md"))
    await ask("assemble_artifact", artifact_config_id="a")
    engine = ask.engine
    [first, second] = engine.store.outputs()
    for known in (first, second):
        project.write(f"outputs/old/{known.path[8:]}", project.read(known.path))
        old = msgspec.structs.replace(known, path=f"outputs/old/{known.path[8:]}", artifact_id=f"a{known.path[8:-3]}")
        await engine.store.save_outputs([old])
    project.save(sheet("aone", "outputs/else.md"))
    found = await find_orphans(engine)
    assert [(orphan.path, orphan.reason) for orphan in found] == [
        ("outputs/old/two.md", "there is no artifact atwo any more"),
    ]


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        ({"output_path": "outputs/else.md"}, None),
        ({}, sheet("a", "outputs/{{ tag }}.md")),
        ({}, sheet("a", "outputs/{{ tag }}.txt")),
    ],
)
async def test_a_file_whose_place_is_decided_elsewhere_is_no_orphan(
    project: Project, ask: Asking, arguments: dict[str, Any], change: dict[str, Any] | None
):
    """By a caller, or by a context that nobody knows now."""
    project.save(text("note", "A note."), sheet("a"))
    await ask("assemble_artifact", artifact_config_id="a", **arguments)
    if change:
        project.save(change)
    assert await find_orphans(ask.engine) == []


async def test_an_orphan_that_is_edited_before_it_is_deleted_is_kept(
    built: Project, ask: Asking, monkeypatch: pytest.MonkeyPatch
):
    """What was found a moment ago may have changed since."""
    await ask("generate_collection", collection_config_path="pack")
    built.save(collection("pack", "a", "inner"))
    found = await find_orphans(ask.engine)

    async def find_earlier(engine: Engine) -> list[orphans.Orphan]:
        built.write(B, "Mine.")
        return found

    monkeypatch.setattr(orphans, "find_orphans", find_earlier)
    removed = await remove_orphans(ask.engine)
    assert ([each.path for each in removed.deleted], [each.path for each in removed.kept]) == ([], [B])
    assert built.read(B) == "Mine."
