"""The tools of collections, and check_freshness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from chora import settings
from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.timestamps import format_timestamp
from chora.tools import TOOLS, collection
from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged
from tests.patience import may_have_taken
from tests.tools.answers import CONTEXTS, FINGERPRINT, NO_CONTEXTS, STAMP, taken

PACK: dict[str, Any] = {"collection_config_path": "pack"}


def pack(id: str, members: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
    """A collection config, written to `outputs/ID` by default."""
    document: dict[str, Any] = {"type": "collection", "id": id, "name": f"The {id}", "members": members}
    return {**document, "output": {"base_path": f"outputs/{id}"}, **rest}


def member(id: str, kind: str = "artifact", **rest: Any) -> dict[str, Any]:
    return {"id": id, "type": kind, "path": f"{id}.json", **rest}


def inline(data: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """One inline source, as collections spell it."""
    return {"sources": [{"type": "inline_data", "data": data, **rest}]}


@pytest.fixture
def harbour(project: Project) -> Project:
    """Collection `pack` of the artifact `notice` and the collection `desk`, which holds the artifact `sheet`."""
    pattern = {"type": "template_fill", "template": "{{ port }}: {{ word }}"}
    project.save(
        content("word", pattern=pattern),
        text("fixed", "fixed"),
        artifact("notice", [child("word")]),
        artifact("sheet", [child("fixed")], description="All of it"),
        pack("desk", [member("sheet")]),
        pack(
            "pack",
            [member("notice"), member("desk", "collection")],
            context={"shared": inline({"port": "Norrvik", "word": "open"})},
        ),
    )
    return project


def manifest_of(project: Project, base: str = "outputs/pack") -> dict[str, Any]:
    return msgspec.json.decode(project.read(f"{base}/manifest.json"))


# -- generate_collection ----------------------------------------------------------------------------------------

COLLECTED = (
    *("collection_id", "collection_name", "members", "manifest_path", "generation_time_seconds", "total_members"),
    *("successful_members", "failed_members", "metadata", "truncated", "resource"),
)
NULLS = dict.fromkeys(["force", "force_members", "output_path", "context", "dry_run", "show_diff"])


@requirement("tools.generate-collection.result", "collection.nested", "collection.structure.nested")
@pytest.mark.parametrize("arguments", [{}, NULLS, {"force": False, "force_members": [], "context": ""}])
async def test_generate_collection(ask: Asking, harbour: Project, arguments: dict[str, Any]):
    """Each member's files in a folder of its own, nested ones below, and a manifest."""
    result = taken(await ask("generate_collection", **PACK, **arguments), *COLLECTED)
    assert may_have_taken(result.pop("generation_time_seconds"))
    common = {"status": "success", "cache_used": False, "error": None, "reasons": [], "files": [], "conflicts": []}
    assert result == {
        "collection_id": "pack",
        "collection_name": "The pack",
        "members": [
            {"id": "notice", "type": "artifact", "output_path": "outputs/pack/notice/notice.md", **common},
            {"id": "desk", "type": "collection", "output_path": "outputs/pack/desk/manifest.json", **common},
        ],
        "manifest_path": "outputs/pack/manifest.json",
        "total_members": 2,
        "successful_members": 2,
        "failed_members": 0,
        "metadata": {
            "cached_members": 0,
            "regenerated_members": 2,
            "propagation_mode": "merge",
            "strategy": "parallel",
            "dry_run": False,
            "warnings": [],
            "conflicts": [],
            "orphans": {"count": 0, "files": []},
        },
        "truncated": False,
        "resource": None,
    }
    assert harbour.read("outputs/pack/notice/notice.md") == "Norrvik: open"
    assert harbour.read("outputs/pack/desk/sheet/sheet.md") == "fixed"


@requirement("tools.generate-collection.cache", "collection.cache.hit", "collection.cache.keeps-generated-at")
async def test_generate_collection_again(ask: Asking, harbour: Project):
    """An unchanged member is a success from the cache, with its old time."""
    await ask("generate_collection", **PACK)
    first = manifest_of(harbour)
    again = await ask("generate_collection", **PACK)
    assert [(each["status"], each["cache_used"]) for each in again["members"]] == [("success", True)] * 2
    assert (again["metadata"]["cached_members"], again["metadata"]["regenerated_members"]) == (2, 0)
    harbour.save(text("fixed", "mended"))
    changed = await ask("generate_collection", **PACK)
    assert [each["cache_used"] for each in changed["members"]] == [True, False]
    assert harbour.read("outputs/pack/desk/sheet/sheet.md") == "mended"
    now = manifest_of(harbour)
    assert now["members"][0]["generated_at"] == first["members"][0]["generated_at"]
    assert now["members"][1]["generated_at"] > first["members"][1]["generated_at"]


@requirement("tools.generate-collection.force", "rulings.c13")
@pytest.mark.parametrize(
    ("arguments", "cached"),
    [
        ({"force": True}, [False, False]),
        ({"force_members": ["desk"]}, [True, False]),
        ({"force_members": ["notice", "notice"]}, [False, True]),
    ],
)
async def test_members_can_be_forced(ask: Asking, harbour: Project, arguments: dict[str, Any], cached: list[bool]):
    """All of them, or the named ones."""
    await ask("generate_collection", **PACK)
    planned = await ask("generate_collection", **PACK, **arguments, dry_run=True)
    assert [each["cache_used"] for each in planned["members"]] == cached
    forced = await ask("generate_collection", **PACK, **arguments)
    assert [each["cache_used"] for each in forced["members"]] == cached
    assert forced["metadata"]["warnings"] == planned["metadata"]["warnings"] == []


@requirement("collection.force-members.known")
@pytest.mark.parametrize("dry_run", [True, False])
async def test_names_that_are_no_members_are_refused(ask: Asking, harbour: Project, dry_run: bool):
    """All of them are named, and what is like them; nothing is built."""
    names = ["notise", *"hgfedcba"]
    with unchanged(harbour):
        error = await ask.refused(
            "generate_collection", "config_not_found", **PACK, force_members=names, dry_run=dry_run
        )
    assert error["details"]["unknown_members"] == sorted(names)
    assert error["hint"] == "Did you mean notice? It has notice, desk."


@requirement("tools.generate-collection.context", "context.caller-wins", "tools.context.object-or-string")
@pytest.mark.parametrize("context", [{"word": "closed"}, '{"word": "closed"}'])
async def test_a_collection_takes_context(ask: Asking, harbour: Project, context: Any):
    """The caller's wins over the shared one."""
    await ask("generate_collection", **PACK, context=context)
    assert harbour.read("outputs/pack/notice/notice.md") == "Norrvik: closed"


@requirement("tools.generate-collection.output-path")
async def test_output_path_replaces_the_base_path(ask: Asking, harbour: Project):
    """Outside of the project it is denied."""
    made = await ask("generate_collection", **PACK, output_path="elsewhere/pack")
    assert made["manifest_path"] == "elsewhere/pack/manifest.json"
    assert harbour.read("elsewhere/pack/desk/sheet/sheet.md") == "fixed"
    assert not (harbour.root / "outputs").exists()
    await ask.refused("generate_collection", "permission_denied", **PACK, output_path="../pack")


@requirement("tools.generate-collection.dry-run")
async def test_a_dry_run_of_a_collection_reports_why(ask: Asking, harbour: Project, engine: Engine):
    """Member by member with reasons, and with `show_diff` file by file; nothing is written."""
    with unchanged(harbour):
        plan = taken(await ask("generate_collection", **PACK, dry_run=True), *COLLECTED)
    assert (plan["manifest_path"], plan["metadata"]["dry_run"]) == (None, True)
    assert plan["members"][0]["reasons"] == ["it was never assembled"]
    assert plan["members"][1]["reasons"] == ["sheet: it was never assembled"]
    assert plan["metadata"]["regenerated_members"] == 2
    assert plan["members"][0]["files"] == []
    assert engine.store.counts()["versions"] == 0

    await ask("generate_collection", **PACK)
    unmoved = await ask("generate_collection", **PACK, dry_run=True)
    assert [(each["cache_used"], each["reasons"]) for each in unmoved["members"]] == [(True, [])] * 2

    harbour.save(text("fixed", "mended"))
    with unchanged(harbour):
        shown = await ask("generate_collection", **PACK, dry_run=True, show_diff=True)
    (file,) = shown["members"][1]["files"]
    assert (file["path"], file["action"]) == ("outputs/pack/desk/sheet/sheet.md", "update")
    assert "-fixed" in file["diff"]
    assert "+mended" in file["diff"]
    assert shown["members"][0]["files"] == []


@requirement("tools.generate-collection.dry-run")
async def test_a_dry_run_reports_members_that_would_fail(ask: Asking, harbour: Project):
    """The call itself succeeds."""
    harbour.save(pack("pack", [member("gone"), member("notice"), member("broken")]))
    harbour.save(content("broken", pattern={"type": "jinja2", "template": "{{ 1 / 0 }}"}))
    harbour.save(artifact("broken", [child("broken")]))
    context = {"context": {"word": "open", "port": "Norrvik"}}
    plan = await ask("generate_collection", **PACK, **context, dry_run=True)
    assert plan["members"].pop()["error"]["code"] == "generation_failed", "found without showing files"
    assert [each["status"] for each in plan["members"]] == ["failed", "success"]
    assert (plan["failed_members"], plan["successful_members"]) == (2, 1)
    assert plan["members"][0]["error"]["code"] == "config_not_found"


@requirement(
    "manifest.shape", "manifest.context", "manifest.validation", "manifest.cache-stats", "manifest.generated-at"
)
async def test_the_manifest_describes_each_member(ask: Asking, harbour: Project):
    """Status, files, hashes and times, the redacted context, and the share of the cache."""
    secret = inline({"port": "Norrvik", "word": "open", "api_key": "sk-1", "deep": {"password": "x", "depth": 4}})
    harbour.save(
        pack(
            "pack",
            [member("notice"), member("desk", "collection")],
            context={"shared": secret},
            validation={"rules": [{"type": "all_members_present"}, {"type": "no_failures"}]},
        )
    )
    await ask("generate_collection", **PACK)
    said = manifest_of(harbour)
    assert STAMP.fullmatch(said.pop("generated_at"))
    assert may_have_taken(said.pop("generation_time_seconds"))
    for each in said["members"]:
        assert STAMP.fullmatch(each.pop("generated_at"))
        assert FINGERPRINT.fullmatch(each.pop("context_hash"))
        assert may_have_taken(each.pop("generation_time_seconds"))
    assert "sk-1" not in harbour.read("outputs/pack/manifest.json")
    shared = said["context"].pop("shared")
    assert (shared["port"], shared["deep"]["depth"]) == ("Norrvik", 4)
    assert shared["api_key"] == shared["deep"]["password"] != "x"
    assert said == {
        "collection_id": "pack",
        "collection_name": "The pack",
        "status": "complete",
        "total_members": 2,
        "successful_members": 2,
        "failed_members": 0,
        "members": [
            {
                "id": "notice",
                "type": "artifact",
                "status": "success",
                "output_path": "outputs/pack/notice/notice.md",
                "outputs": ["outputs/pack/notice/notice.md"],
                "cache_used": False,
                "error": None,
            },
            {
                "id": "desk",
                "type": "collection",
                "status": "success",
                "output_path": "outputs/pack/desk/manifest.json",
                "outputs": ["outputs/pack/desk/manifest.json"],
                "cache_used": False,
                "error": None,
            },
        ],
        "context": {"propagation_mode": "merge"},
        "validation": {"passed": True, "rules_evaluated": 2},
        "cache_stats": {"total_members": 2, "cache_hits": 0, "cache_misses": 2, "cache_hit_rate": 0.0},
    }
    harbour.save(text("fixed", "mended"))
    await ask("generate_collection", **PACK)
    stats = manifest_of(harbour)["cache_stats"]
    assert stats == {"total_members": 2, "cache_hits": 1, "cache_misses": 1, "cache_hit_rate": 0.5}


@requirement("manifest.order", "collection.strategy", "collection.order")
@pytest.mark.parametrize("strategy", ["parallel", "sequential", "mixed"])
async def test_members_are_listed_as_the_config_lists_them(ask: Asking, project: Project, strategy: str):
    """In whichever order they are built."""
    ids = ["c", "a", "b", "d"]
    project.save(
        text("note", "x"),
        *(artifact(id, [child("note")]) for id in ids),
        pack(
            "pack", [member(id, order=number % 2) for number, id in enumerate(ids)], generation={"strategy": strategy}
        ),
    )
    made = await ask("generate_collection", **PACK)
    assert [each["id"] for each in made["members"]] == ids
    assert [each["id"] for each in manifest_of(project)["members"]] == ids
    assert made["metadata"]["strategy"] == strategy


@requirement("manifest.optional")
async def test_a_manifest_need_not_be_written(ask: Asking, project: Project):
    """With `output.manifest: false` there is none, and no result names one."""
    project.save(
        text("note", "x"),
        artifact("sheet", [child("note")]),
        pack("pack", [member("sheet")], output={"base_path": "outputs/pack", "manifest": False}),
    )
    assert (await ask("generate_collection", **PACK))["manifest_path"] is None
    assert sorted(project.files())[-1] == "outputs/pack/sheet/sheet.md"


@requirement("collection.structure.flat", "collection.structure.custom")
@pytest.mark.parametrize(("structure", "path"), [("flat", "outputs/pack/sheet.md"), ("custom", "outputs/sheet.md")])
async def test_the_structure_says_where_files_go(ask: Asking, project: Project, structure: str, path: str):
    """Flat: all in the base path; custom: the artifacts' own paths."""
    project.save(
        text("note", "x"),
        artifact("sheet", [child("note")]),
        pack("pack", [member("sheet")], output={"base_path": "outputs/pack", "structure": structure}),
    )
    assert (await ask("generate_collection", **PACK))["members"][0]["output_path"] == path
    assert project.read(path) == "x"
    assert manifest_of(project)["members"][0]["output_path"] == path


@requirement("collection.duplicate-outputs")
async def test_two_members_cannot_write_one_file(ask: Asking, project: Project):
    """The second one fails, and names the first."""
    file = {"file": "same.md", "format": "markdown"}
    project.save(
        text("note", "x"),
        artifact("a", [child("note")], file),
        artifact("b", [child("note")], file),
        pack(
            "pack",
            [member("a"), member("b")],
            output={"base_path": "outputs/pack", "structure": "flat"},
            generation={"strategy": "sequential"},
        ),
    )
    failed = await ask.refused("generate_collection", "composition_failed", **PACK)
    assert failed["details"]["failed_members"] == ["b"]
    assert "outputs/pack/same.md" in failed["message"]


@requirement("collection.base-path-template")
async def test_the_base_path_is_a_template(ask: Asking, project: Project):
    """Of the collection's names, the shared context and the caller's; an undefined name fails the call."""
    project.save(
        text("note", "x"),
        artifact("sheet", [child("note")]),
        pack(
            "pack",
            [member("sheet")],
            output={"base_path": "outputs/{{ collection_id }}/{{ year }}/{{ season }}"},
            context={"shared": inline({"year": 2026})},
        ),
    )
    made = await ask("generate_collection", **PACK, context={"season": "autumn"})
    assert made["manifest_path"] == "outputs/pack/2026/autumn/manifest.json"
    failed = await ask.refused("generate_collection", "composition_failed", **PACK)
    assert "season" in failed["message"]


@requirement(
    "collection.propagation.merge", "collection.propagation.override", "collection.propagation.isolate", "rulings.c4"
)
@pytest.mark.parametrize(
    ("mode", "texts"),
    [
        ("merge", ["Norrvik/open", "Norrvik/closed", "Norrvik/shut"]),
        ("override", ["Norrvik/open", "-/closed", "-/shut"]),
        ("isolate", ["-/-", "-/closed", "-/shut"]),
        ("ISOLATE", ["-/-", "-/closed", "-/shut"]),
    ],
)
async def test_shared_context_propagates_as_configured(ask: Asking, project: Project, mode: str, texts: list[str]):
    """merge: shared below the member's own; override: the own instead, if there is any; isolate: the own only."""
    template = "{{ port | default('-') }}/{{ word | default('-') }}"
    project.save(
        content("note", pattern={"type": "jinja2", "template": template}),
        *(artifact(id, [child("note")]) for id in "abc"),
        pack(
            "pack",
            [
                member("a"),
                member("b", context_override=inline({"word": "closed"})),
                member("c", context_override=inline({"word": "closed"})),
            ],
            context={
                "shared": inline({"port": "Norrvik", "word": "open"}),
                "propagation": mode,
                "overrides": {"c": {"word": "shut"}},
            },
        ),
    )
    made = await ask("generate_collection", **PACK)
    assert [project.read(f"outputs/pack/{id}/{id}.md") for id in "abc"] == texts
    assert made["metadata"]["propagation_mode"] == manifest_of(project)["context"]["propagation_mode"] == mode.lower()


@requirement("context.reserved-names")
async def test_texts_may_use_the_reserved_names(ask: Asking, project: Project):
    """Of collection, member, artifact and content."""
    template = "{{ collection_id }} {{ collection_name }} {{ member_id }} {{ artifact_id }} {{ content_id }}"
    project.save(
        content("note", pattern={"type": "jinja2", "template": template}),
        artifact("sheet", [child("note")]),
        pack("pack", [{"id": "first", "type": "artifact", "path": "sheet.json"}]),
    )
    await ask("generate_collection", **PACK)
    assert project.read("outputs/pack/first/sheet.md") == "pack The pack first sheet note"


@requirement("collection.required-member", "collection.optional-member", "tools.generate-collection.failure")
async def test_a_failed_member_leaves_the_others_alone(ask: Asking, project: Project):
    """A required one fails the call at the end; an optional one is reported; one without a config is skipped."""
    project.save(
        text("note", "x"),
        content("broken", pattern={"type": "oracle"}),
        artifact("good", [child("note")]),
        artifact("bad", [child("broken")]),
    )
    optional = [member("bad", required=False), member("gone", required=False), member("good")]
    project.save(pack("pack", optional))
    made = await ask("generate_collection", **PACK)
    assert [each["status"] for each in made["members"]] == ["failed", "skipped", "success"]
    assert made["members"][0]["error"]["code"] == "generator_not_found"
    assert made["members"][1]["error"]["code"] == "config_not_found"
    assert (made["successful_members"], made["failed_members"]) == (1, 1)
    said = manifest_of(project)
    assert (said["status"], said["members"][0]["generated_at"]) == ("failed", None)

    project.save(pack("pack", [member("bad"), member("gone"), member("good")]))
    failed = await ask.refused("generate_collection", "composition_failed", **PACK)
    assert failed["details"]["failed_members"] == ["bad", "gone"]
    assert failed["details"]["manifest_path"] == "outputs/pack/manifest.json"
    assert (failed["details"]["total_members"], failed["details"]["successful_members"]) == (3, 1)
    assert "oracle" in failed["message"]
    assert [each["status"] for each in manifest_of(project)["members"]] == ["failed", "failed", "success"]
    assert project.read("outputs/pack/good/good.md") == "x"


@requirement("collection.rules", "tools.generate-collection.failure")
@pytest.mark.parametrize(
    ("rule", "required", "fails"),
    [("no_failures", True, True), ("no_failures", False, False), ("all_members_present", True, True)],
)
async def test_a_failed_rule_fails_the_collection(
    ask: Asking, project: Project, rule: str, required: bool, fails: bool
):
    """If it is required; the manifest is written all the same."""
    project.save(
        text("note", "x"),
        artifact("good", [child("note")]),
        artifact("bad", [child("gone")]),
        pack(
            "pack",
            [member("bad", required=False), member("good")],
            validation={"rules": [{"type": rule, "required": required}]},
        ),
    )
    if fails:
        failed = await ask.refused("generate_collection", "validation_failed", **PACK)
        assert failed["details"]["rules"] == [rule]
        assert failed["details"]["manifest_path"] == "outputs/pack/manifest.json"
    else:
        await ask("generate_collection", **PACK)
    assert manifest_of(project)["validation"] == {"passed": not fails, "rules_evaluated": 1}


@requirement("collection.fail-fast")
async def test_fail_fast_starts_no_further_member(ask: Asking, project: Project):
    """Members that weren't started are skipped, with the reason."""
    project.save(
        text("note", "x"),
        artifact("good", [child("note")]),
        artifact("bad", [child("gone")]),
        pack(
            "pack",
            [member("bad"), member("good")],
            generation={"strategy": "sequential"},
            validation={"fail_fast": True},
        ),
    )
    await ask.refused("generate_collection", "composition_failed", **PACK)
    members = manifest_of(project)["members"]
    assert [each["status"] for each in members] == ["failed", "skipped"]
    assert members[1]["error"]["code"]
    assert not (project.root / "outputs/pack/good").exists()


@requirement("collection.circular", "collection.max-depth", "tools.error.circular-reference")
async def test_cyclic_and_too_deep_collections_are_refused(ask: Asking, project: Project):
    """The error names the cycle; at most ten levels are allowed; nothing is built."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]))
    project.save(pack("pack", [member("inner", "collection")]), pack("inner", [member("pack", "collection")]))
    circle = await ask.refused("generate_collection", "circular_reference", **PACK)
    assert circle["details"]["cycle"] == circle["details"]["chain"] == ["pack", "inner", "pack"]
    for level in range(11):
        inner = member(f"l{level + 1}", "collection") if level < 10 else member("sheet")
        project.save(pack(f"l{level}", [inner]))
    deep = await ask.refused("generate_collection", "max_depth_exceeded", collection_config_path="l0")
    assert deep["details"]["max_depth"] == 10
    assert deep["details"]["chain"] == [f"l{level}" for level in range(11)]
    assert not (project.root / "outputs").exists()
    assert await ask("generate_collection", collection_config_path="l1")


@requirement(
    "tools.generate-collection.errors", "tools.list-collection-members.errors", "tools.check-collection-cache.errors"
)
@pytest.mark.parametrize("name", ["generate_collection", "list_collection_members", "check_collection_cache"])
async def test_collections_fail_with_the_codes_of_the_reference(ask: Asking, harbour: Project, name: str):
    """Each with the documented details."""
    gone = await ask.refused(name, "config_not_found", collection_config_path="gone")
    assert gone["details"]["config_path"] == "gone"
    assert "configs/collection/gone.json" in gone["details"]["searched_paths"]
    for path in ("../pack", "/etc/passwd", "../../x.json"):
        outside = await ask.refused(name, "invalid_config_id", collection_config_path=path)
        assert outside["details"]["config_path"] == path
    await ask.refused(name, "invalid_config_id", collection_config_path="")
    harbour.write("configs/collection/bad.json", '{"type": "collection", "id": "bad"}')
    bad = await ask.refused(name, "validation_failed", collection_config_path="bad")
    assert {each["path"] for each in bad["details"]["schema_errors"]} >= {"$.members", "$.name", "$.output"}
    for arguments in ({}, {"collection_config_path": None}, {"collection_config_path": "pack", "colour": "red"}):
        await ask.refused(name, "invalid_input", **arguments)
    if name != "list_collection_members":
        for context, received in NO_CONTEXTS:
            wrong = await ask.refused(name, "invalid_context", **PACK, context=context)
            assert wrong["details"]["received_type"] == received
        await ask.refused(name, "permission_denied", **PACK, output_path="../out")


@requirement("tools.collections.path")
@pytest.mark.parametrize(
    "path", ["pack", "pack.json", "configs/collection/pack.json", "collection/pack.json", "absolute"]
)
async def test_a_collection_is_found_by_id_or_path(ask: Asking, harbour: Project, path: str):
    """A path may be relative to its kind's folder, the config folder or the project, or absolute."""
    if path == "absolute":
        path = str(harbour.root / "configs/collection/pack.json")
    assert (await ask("check_collection_cache", collection_config_path=path))["collection_id"] == "pack"


@requirement("collection.sources", "sources.short-spelling")
async def test_shared_context_comes_from_sources(ask: Asking, project: Project):
    """The keys of objects, other values under their id; a value without an id fails the call."""
    project.write("data/port.json", '{"contact": {"phone": "17"}}')
    project.write("notes.txt", "calm")
    sources = [
        {"type": "external_file", "path": "data/port.json", "selector": "$.contact"},
        {"type": "external_file", "path": "notes.txt", "output_as": "weather"},
    ]
    project.save(
        content("note", pattern={"type": "template_fill", "template": "{{ phone }} {{ weather }}"}),
        artifact("sheet", [child("note")]),
        pack("pack", [member("sheet")], context={"shared": {"sources": sources}}),
    )
    await ask("generate_collection", **PACK)
    assert project.read("outputs/pack/sheet/sheet.md") == "17 calm"
    del sources[1]["output_as"]
    project.save(pack("pack", [member("sheet")], context={"shared": {"sources": sources}}))
    failed = await ask.refused("generate_collection", "composition_failed", **PACK)
    assert failed["details"]["source_type"] == "external_file"
    assert "output_as" in failed["message"]


@requirement("tools.progress")
async def test_a_collection_reports_its_progress(harbour: Project, engine: Engine):
    """Member by member; the last step says that all are done."""
    steps: list[tuple[float, float]] = []

    async def progress(done: float, total: float, what: str) -> None:
        steps.append((done, total))

    await TOOLS["generate_collection"].run_tool(engine, msgspec.json.encode(PACK), Call("cli", progress=progress))
    assert steps[-1] == (2, 2)


@requirement("events.collection-generated")
async def test_a_collection_emits_an_event(ask: Asking, harbour: Project):
    """One for each, nested ones too; on failure with the error."""
    await ask("generate_collection", **PACK)
    harbour.save(pack("pack", [member("gone")]))
    await ask.refused("generate_collection", "composition_failed", **PACK)
    events = [msgspec.json.decode(line) for line in harbour.read("var/telemetry/events.jsonl").splitlines()]
    desk, whole, failed = [each for each in events if each["event_type"] == "chora.collection_generated"]
    assert (desk["collection_id"], whole["collection_id"]) == ("desk", "pack")
    assert (whole["status"], whole["member_count"], whole["cached_count"], whole["failed_count"]) == (
        "success",
        2,
        0,
        0,
    )
    assert (failed["status"], failed["member_count"]) == ("error", 1)
    assert "gone" in failed["error_message"]


@requirement("tools.generate-collection.truncated")
async def test_a_large_collection_is_reported_in_part(
    ask: Asking, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """The noteworthy members, and a link to the manifest; the command line gets all."""
    monkeypatch.setattr(collection, "MEMBERS_SHOWN", 3)
    ids = [f"m{number}" for number in range(5)]
    project.save(
        text("note", "x"),
        text("other", "y"),
        *(artifact(id, [child("note")]) for id in ids),
        pack("pack", [member(id) for id in ids]),
    )
    first = await ask("generate_collection", **PACK)
    assert (first["truncated"], len(first["members"]), first["total_members"]) == (True, 3, 5)
    assert first["resource"] == "manifest://pack"
    project.save(artifact("m4", [child("other")]))
    plan = await ask("generate_collection", **PACK, dry_run=True)
    assert ([each["id"] for each in plan["members"]], plan["truncated"], plan["resource"]) == (["m4"], True, None)
    answer = await TOOLS["generate_collection"].run_tool(engine, msgspec.json.encode(PACK), Call("http"))
    assert [each["id"] for each in msgspec.json.decode(answer.body)["members"]] == ["m4"]
    (link,) = answer.links
    assert (link.uri, link.mime_type) == ("manifest://pack", "application/json")
    whole = await TOOLS["generate_collection"].run_tool(engine, msgspec.json.encode(PACK), Call("cli"))
    assert len(msgspec.json.decode(whole.body)["members"]) == 5
    assert whole.links == ()


@requirement("tools.collections-bounded")
async def test_a_cached_member_with_conflicts_is_listed(
    ask: Asking, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Until they are settled: it has changed nothing, and needs a person."""
    monkeypatch.setattr(collection, "MEMBERS_SHOWN", 1)
    engine.settings = msgspec.structs.replace(engine.settings, output=settings.OutputSettings(on_edit="merge"))
    project.save(*(text(id, "one\ntwo\nthree\n") for id in ("a", "b")))
    project.save(*(artifact(id, [child(id)]) for id in ("a", "b")), pack("pack", [member("a"), member("b")]))
    await ask("generate_collection", **PACK)
    project.write("outputs/pack/b/b.md", "one\ntwo, edited\nthree\n")
    project.save(text("b", "one\ntwo, changed\nthree\n"))
    for is_cached in (False, True):
        (shown,) = (await ask("generate_collection", **PACK))["members"]
        assert (shown["id"], shown["cache_used"], shown["conflicts"]) == ("b", is_cached, ["outputs/pack/b/b.md"])


@pytest.mark.slow("writes hundreds of configs")
@requirement("tools.collections-bounded")
async def test_an_answer_about_a_large_collection_stays_small(ask: Asking, project: Project):
    """Totals, and what changed or failed, the failed ones first: 24 KiB, however many members there are."""
    ids = [f"member-{number:03}" for number in range(400)]
    project.save(
        text("note", "x"),
        *(artifact(id, [child("note")]) for id in ids),
        pack("pack", [member(id) for id in ids]),
    )
    plan = await ask("generate_collection", **PACK, dry_run=True)
    first = await ask("generate_collection", **PACK)
    assert (plan["metadata"]["regenerated_members"], first["metadata"]["regenerated_members"]) == (400, 400)
    again = await ask("generate_collection", **PACK)
    assert (again["members"], again["metadata"]["cached_members"], again["truncated"]) == ([], 400, True)
    project.save(*(artifact(id, [child("gone")]) for id in ids[300:]))
    stale = await ask("check_collection_cache", **PACK)
    assert (stale["members_stale"], len(stale["stale_members"]), stale["next_offset"]) == (100, 50, 50)
    assert set(stale["metadata"]["reasons"]) == set(stale["stale_members"])
    rest = await ask("check_collection_cache", **PACK, offset=50)
    assert (rest["members_stale"], rest["next_offset"]) == (100, None)
    assert [*stale["stale_members"], *rest["stale_members"]] == ids[300:]
    failed = await ask.refused("generate_collection", "composition_failed", **PACK)
    details = failed["details"]
    assert (details["failed_total"], len(details["failed_members"]), len(details["members"])) == (100, 50, 50)
    project.save(text("note", "y"), pack("pack", [member(id, required=False) for id in ids]))
    mixed = await ask("generate_collection", **PACK)
    assert (mixed["failed_members"], mixed["successful_members"]) == (100, 300)
    assert {each["status"] for each in mixed["members"]} == {"failed"}
    ages = await ask("check_freshness", **PACK, offset=350)  # a failed one is as old as its file
    assert (ages["fresh_count"], len(ages["members"]), ages["next_offset"]) == (400, 50, None)
    found = await ask("validate_collection_config", **PACK)
    assert (found["error_count"], found["truncated"]) == (0, False)
    for answer in (plan, first, again, stale, rest, failed, mixed, ages, found):
        assert len(msgspec.json.encode(answer)) < 24 * 1024, answer


# -- list_collection_members ------------------------------------------------------------------------------------


@requirement("tools.list-collection-members.result", "tools.list-collection-members.check-status")
@pytest.mark.parametrize("arguments", [{}, {"check_status": None, "recursive": None}])
async def test_list_collection_members(ask: Asking, harbour: Project, arguments: dict[str, Any]):
    """All members and the state of their outputs."""
    fields = ("collection_id", "members", "next_offset", "total_members", "generated_members", "duration_ms")
    before = taken(await ask("list_collection_members", **PACK, **arguments), *fields)
    common = {"generated": False, "output_path": None, "parent": None, "error": None}
    assert before == {
        "next_offset": None,
        "collection_id": "pack",
        "members": [
            {
                "id": "notice",
                "type": "artifact",
                "title": "notice",
                "description": "For the tests",
                "member_count": None,
                **common,
            },
            {
                "id": "desk",
                "type": "collection",
                "title": "The desk",
                "description": None,
                "member_count": 1,
                **common,
            },
        ],
        "total_members": 2,
        "generated_members": 0,
    }
    await ask("generate_collection", **PACK)
    after = await ask("list_collection_members", **PACK, **arguments)
    assert after["generated_members"] == 2
    assert [each["output_path"] for each in after["members"]] == [
        "outputs/pack/notice/notice.md",
        "outputs/pack/desk/manifest.json",
    ]
    unlooked = await ask("list_collection_members", **PACK, check_status=False)
    assert [each["generated"] for each in unlooked["members"]] == [None, None]
    assert unlooked["generated_members"] == 0


@requirement("tools.list-collection-members.recursive")
@pytest.mark.parametrize("structure", ["nested", "flat", "custom"])
async def test_list_collection_members_within_members(ask: Asking, harbour: Project, structure: str):
    """Those of nested collections follow theirs, with the collections they are in, wherever they were written."""
    harbour.save(
        pack("pack", [member("desk", "collection")], output={"base_path": "outputs/pack", "structure": structure})
    )
    await ask("generate_collection", **PACK)
    listed = await ask("list_collection_members", **PACK, recursive=True)
    assert [(each["id"], each["parent"]) for each in listed["members"]] == [("desk", None), ("sheet", "pack")]
    assert (listed["total_members"], listed["generated_members"]) == (2, 2)
    assert harbour.read(listed["members"][1]["output_path"]) == "fixed"
    assert listed["members"][1]["description"] == "All of it"


async def test_a_list_of_members_is_limited(ask: Asking, harbour: Project, monkeypatch: pytest.MonkeyPatch):
    """Nested collections could add up to millions."""
    monkeypatch.setattr(collection, "MEMBERS_LISTED", 2)
    assert (await ask("list_collection_members", **PACK))["total_members"] == 2
    refused = await ask.refused("list_collection_members", "limit_exceeded", **PACK, recursive=True)
    assert refused["details"]["limit"] == "collection.members"
    assert refused["message"] == "The list would be longer than 2 members."


@requirement("tools.list-collection-members.broken", "collection.order")
async def test_a_member_that_cannot_be_opened_is_listed_with_the_reason(ask: Asking, harbour: Project):
    """In the order in which members are built."""
    harbour.save(pack("pack", [member("gone", order=2), member("notice", order=1)]))
    listed = await ask("list_collection_members", **PACK)
    assert [each["id"] for each in listed["members"]] == ["notice", "gone"]
    assert "gone" in listed["members"][1]["error"]
    assert listed["members"][1]["title"] is None


# -- check_collection_cache -------------------------------------------------------------------------------------

CHECKED = (
    *("collection_id", "cache_valid", "manifest_exists", "members_cached", "members_stale", "stale_members"),
    *("next_offset", "recommendation", "metadata"),
)


@requirement("tools.check-collection-cache.result", "tools.check-collection-cache.recommendation")
@pytest.mark.parametrize("arguments", [{}, {"check_member_cache": None, "output_path": None, "context": None}])
async def test_check_collection_cache(ask: Asking, harbour: Project, arguments: dict[str, Any]):
    """No manifest: all members are to be built; otherwise the stale ones. Nothing is built here."""
    with unchanged(harbour):
        before = taken(await ask("check_collection_cache", **PACK, **arguments), *CHECKED)
    assert before == {
        "collection_id": "pack",
        "cache_valid": False,
        "manifest_exists": False,
        "members_cached": 0,
        "members_stale": 2,
        "stale_members": ["notice", "desk"],
        "next_offset": None,
        "recommendation": "regenerate_all",
        "metadata": {
            "manifest_path": "outputs/pack/manifest.json",
            "last_generated": None,
            "reasons": {"notice": ["it was never assembled"], "desk": ["sheet: it was never assembled"]},
        },
    }
    await ask("generate_collection", **PACK)
    valid = await ask("check_collection_cache", **PACK, **arguments)
    assert (valid["cache_valid"], valid["members_cached"], valid["recommendation"]) == (True, 2, "use_cache")
    assert valid["metadata"]["last_generated"] == manifest_of(harbour)["generated_at"]
    harbour.save(text("fixed", "mended"))
    with unchanged(harbour):
        stale = await ask("check_collection_cache", **PACK, **arguments)
    assert (stale["cache_valid"], stale["stale_members"], stale["recommendation"]) == (
        False,
        ["desk"],
        "regenerate_stale",
    )


@requirement("tools.check-collection-cache.context", "cache.context")
@pytest.mark.parametrize("context", CONTEXTS)
async def test_check_collection_cache_for_a_context(ask: Asking, harbour: Project, context: Any):
    """A cache that is valid for one context isn't for another."""
    await ask("generate_collection", **PACK, context=context)
    assert (await ask("check_collection_cache", **PACK, context=context))["cache_valid"] is True
    assert (await ask("check_collection_cache", **PACK))["cache_valid"] is False


@requirement("tools.check-collection-cache.output-path")
async def test_check_collection_cache_elsewhere(ask: Asking, harbour: Project):
    """At an output path without outputs, everything is to be built."""
    await ask("generate_collection", **PACK, output_path="there")
    assert (await ask("check_collection_cache", **PACK, output_path="there"))["recommendation"] == "use_cache"
    assert (await ask("check_collection_cache", **PACK))["recommendation"] == "regenerate_all"


@requirement("tools.check-collection-cache.unchecked")
async def test_check_collection_cache_without_its_members(ask: Asking, harbour: Project):
    """Then only whether there is a manifest is known, which is no reason to use the cache."""
    before = await ask("check_collection_cache", **PACK, check_member_cache=False)
    assert (before["cache_valid"], before["recommendation"]) == (False, "regenerate_all")
    assert (before["members_cached"], before["members_stale"]) == (0, 2)
    await ask("generate_collection", **PACK)
    harbour.save(text("fixed", "mended"))
    after = await ask("check_collection_cache", **PACK, check_member_cache=False)
    assert (after["cache_valid"], after["members_cached"], after["members_stale"]) == (False, 0, 0)
    assert after["recommendation"] == "regenerate_stale"


# -- check_freshness --------------------------------------------------------------------------------------------

AGED = (
    *("collection_id", "freshness_enabled", "overall_status", "members", "next_offset", "fresh_count", "stale_count"),
    *("expired_count", "recommendation", "action", "checked_at", "metadata"),
)


def write_manifest(project: Project, ages: dict[str, float | None], base: str = "outputs/pack") -> None:
    """Write a manifest whose members have these ages in days; None is a failed one."""
    members = [
        {
            "id": id,
            "status": "failed" if age is None else "success",
            "generated_at": None if age is None else format_timestamp(datetime.now(UTC) - timedelta(days=age)),
        }
        for id, age in ages.items()
    ]
    document = {"collection_id": "pack", "members": members, "generated_at": format_timestamp(datetime.now(UTC))}
    project.write(f"{base}/manifest.json", msgspec.json.encode(document))


@requirement("tools.check-freshness.result", "freshness.bands", "freshness.extras")
@pytest.mark.parametrize("arguments", [{}, {"output_path": None}])
@pytest.mark.parametrize(
    ("age", "band"), [(0.0, "fresh"), (7.9, "fresh"), (8.1, "stale"), (9.9, "stale"), (10.1, "expired")]
)
async def test_check_freshness(ask: Asking, project: Project, arguments: dict[str, Any], age: float, band: str):
    """Below four fifths of its maximum age a member is fresh, below all of it stale, then expired."""
    project.save(pack("pack", [member("a")], freshness={"default_max_age_days": 10}))
    write_manifest(project, {"a": age})
    result = taken(await ask("check_freshness", **PACK, **arguments), *AGED)
    (aged,) = result.pop("members")
    assert STAMP.fullmatch(aged.pop("generated_at"))
    assert STAMP.fullmatch(aged.pop("expires_at"))
    assert aged.pop("age_days") == pytest.approx(age, abs=0.01)
    left, over = aged.pop("expires_in_days"), aged.pop("expired_by_days")
    assert (left is None, over is None) == (band == "expired", band != "expired")
    assert (left or -over) == pytest.approx(10 - age, abs=0.01)
    assert aged.pop("threshold_percentage") == pytest.approx(10 * age, abs=0.2)
    assert aged == {"member_id": "a", "max_age_days": 10.0, "freshness_status": band}
    metadata = result.pop("metadata")
    assert metadata.pop("manifest_path") == "outputs/pack/manifest.json"
    assert [*metadata] == ["oldest_age_days", "newest_age_days", "average_age_days"]
    assert all(each == pytest.approx(age, abs=0.01) for each in metadata.values())
    assert STAMP.fullmatch(result.pop("checked_at"))
    assert result == {
        "collection_id": "pack",
        "freshness_enabled": True,
        "overall_status": band,
        "next_offset": None,
        "fresh_count": int(band == "fresh"),
        "stale_count": int(band == "stale"),
        "expired_count": int(band == "expired"),
        "recommendation": {"fresh": "all_fresh", "stale": "regenerate_stale", "expired": "regenerate_expired"}[band],
        "action": {"fresh": "no_action", "stale": "schedule_regeneration", "expired": "regenerate_immediately"}[band],
    }


@requirement("freshness.recommendation", "freshness.max-age", "freshness.never-made", "rulings.c12")
async def test_the_worst_member_decides(ask: Asking, project: Project):
    """Each by its own maximum age; one that failed or was never built is expired, without dates."""
    project.save(
        pack(
            "pack",
            [member("a"), member("b", freshness_threshold_days=90), member("c"), member("d"), member("e")],
        )
    )
    write_manifest(project, {"a": 6, "b": 6, "c": None, "e": 1})
    result = await ask("check_freshness", **PACK)
    assert [each["freshness_status"] for each in result["members"]] == ["stale", "fresh", "expired", "expired", "fresh"]
    assert [each["max_age_days"] for each in result["members"]] == [7, 90, 7, 7, 7]
    for never in result["members"][2:4]:
        assert (never["generated_at"], never["age_days"], never["expires_at"]) == (None, None, None)
    assert (result["fresh_count"], result["stale_count"], result["expired_count"]) == (2, 1, 2)
    assert (result["overall_status"], result["recommendation"]) == ("expired", "regenerate_expired")
    assert result["metadata"]["oldest_age_days"] == pytest.approx(6, abs=0.01)
    assert result["metadata"]["newest_age_days"] == pytest.approx(1, abs=0.01)
    assert result["metadata"]["average_age_days"] == pytest.approx(13 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("own", "ages"),
    [
        ({}, [3, None, None]),  # chora-compose dates the manifest alone
        ({"a": 1.0}, [1, None, None]),
        ({"b": 1.0}, [None, 1, None]),
    ],
)
async def test_a_manifest_with_one_date_dates_what_it_made(
    ask: Asking, project: Project, own: dict[str, float], ages: list[float | None]
):
    """Its successful members, unless any has a date of its own."""
    project.save(pack("pack", [member("a"), member("b"), member("c")]))
    status = {"a": "success", "b": "success" if "b" in own else "failed", "c": "skipped"}
    members = [
        {"id": id, "status": each}
        | ({"generated_at": format_timestamp(datetime.now(UTC) - timedelta(days=own[id]))} if id in own else {})
        for id, each in status.items()
    ]
    made = format_timestamp(datetime.now(UTC) - timedelta(days=3))
    document = {"collection_id": "pack", "members": members, "generated_at": made}
    project.write("outputs/pack/manifest.json", msgspec.json.encode(document))
    result = await ask("check_freshness", **PACK)
    found = [each["age_days"] for each in result["members"]]
    assert found == [None if age is None else pytest.approx(age, abs=0.01) for age in ages]


@requirement("freshness.disabled")
async def test_without_a_maximum_age_everything_is_fresh(ask: Asking, project: Project):
    """Neither members nor a manifest are needed."""
    project.save(pack("pack", [member("a")], freshness={"enabled": False}))
    result = await ask("check_freshness", **PACK)
    assert (result["freshness_enabled"], result["members"], result["recommendation"]) == (False, [], "all_fresh")
    assert result["metadata"] == dict.fromkeys(
        ["oldest_age_days", "newest_age_days", "average_age_days", "manifest_path"]
    )


@requirement("freshness.age-only", "collection.cache.keeps-generated-at")
async def test_a_cache_hit_makes_no_member_younger(ask: Asking, harbour: Project):
    """Freshness is age; changed inputs are another matter."""
    await ask("generate_collection", **PACK)
    first = await ask("check_freshness", **PACK)
    assert first["recommendation"] == "all_fresh"
    await ask("generate_collection", **PACK)
    again = await ask("check_freshness", **PACK)
    assert [each["generated_at"] for each in again["members"]] == [each["generated_at"] for each in first["members"]]
    harbour.save(text("fixed", "mended"))
    assert (await ask("check_freshness", **PACK))["recommendation"] == "all_fresh"


@requirement("tools.check-freshness.output-path")
async def test_check_freshness_elsewhere(ask: Asking, project: Project):
    """At another output path."""
    project.save(pack("pack", [member("a")]))
    write_manifest(project, {"a": 1}, "there")
    found = await ask("check_freshness", **PACK, output_path="there")
    assert found["metadata"]["manifest_path"] == "there/manifest.json"
    await ask.refused("check_freshness", "manifest_not_found", **PACK)


@requirement("tools.check-freshness.errors", "tools.error.manifest-not-found")
async def test_checking_freshness_fails_with_the_codes_of_the_reference(ask: Asking, project: Project):
    """Each with the documented details."""
    gone = await ask.refused("check_freshness", "config_not_found", collection_config_path="gone")
    assert gone["details"]["config_path"] == "gone"
    for path in ("../pack", "/etc/passwd", ""):
        await ask.refused("check_freshness", "invalid_config_id", collection_config_path=path)
    project.save(pack("pack", [member("a")]))
    never = await ask.refused("check_freshness", "manifest_not_found", **PACK)
    assert never["details"] == {"collection_id": "pack", "manifest_path": "outputs/pack/manifest.json"}
    for body in ("{", '{"collection_id": "other", "members": []}', "[]"):
        project.write("outputs/pack/manifest.json", body)
        await ask.refused("check_freshness", "manifest_not_found", **PACK)
    await ask.refused("check_freshness", "permission_denied", **PACK, output_path="../out")
    for arguments in ({}, {"collection_config_path": None}, {**PACK, "output_path": 5}):
        await ask.refused("check_freshness", "invalid_input", **arguments)
