"""draft_config, test_config, modify_config and save_config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora.engine.drafts import PREVIEW_LIMIT
from chora.engine.engine import Engine
from chora.generators import GENERATORS as BUILT_IN
from chora.skeletons import GENERATORS, skeleton
from chora.store import SqliteStore
from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged
from tests.tools.answers import CONTEXTS, NO_CONTEXTS, NO_IDS, STAMP, FailingStore, taken

PACK: dict[str, Any] = {
    "type": "collection",
    "id": "pack",
    "name": "Pack",
    "members": [{"id": "sheet", "type": "artifact", "path": "sheet.json"}],
    "output": {"base_path": "outputs/pack"},
}

# -- draft_config -----------------------------------------------------------------------------------------------


@requirement(
    "tools.draft-config.result", "tools.draft-config.config-data", "tools.draft-config.description", "rulings.c34"
)
@pytest.mark.parametrize("as_string", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"description": None}, {"description": "for later"}])
async def test_draft_config(ask: Asking, project: Project, engine: Engine, as_string: bool, arguments: dict[str, Any]):
    """A valid config is stored without a file; the result has its future path and improvements."""
    document = {**text("note", "x"), "tags": ["a"]}
    data: Any = msgspec.json.encode(document).decode() if as_string else document
    with unchanged(project):
        result = await ask("draft_config", config_type="content", config_data=data, **arguments)
    result = taken(
        result,
        *("draft_id", "config_type", "validation_status", "validation_issues"),
        *("preview_path", "created_at", "duration_ms"),
    )
    (issue,) = result.pop("validation_issues")
    assert (issue["code"], issue["severity"], issue["path"]) == ("unknown_key", "info", "$.tags")
    draft = engine.store.draft(result["draft_id"])
    assert draft is not None
    assert (draft.config_data, draft.description) == (document, arguments.get("description"))
    assert draft.config_type == "content"
    assert draft.created_at == draft.updated_at == result["created_at"]
    assert STAMP.fullmatch(result.pop("created_at"))
    assert re.fullmatch(r"draft-\d{8}T\d{6}-[0-9a-f]{6}", result.pop("draft_id"))
    assert result == {
        "config_type": "content",
        "validation_status": "valid",
        "preview_path": "configs/content/note/note-content.json",
    }


@requirement("tools.draft-config.config-type")
@pytest.mark.parametrize(
    ("document", "path"),
    [
        (text("note", "x"), "configs/content/note/note-content.json"),
        (artifact("sheet", [child("note")]), "configs/artifact/sheet/sheet-artifact.json"),
        (PACK, "configs/collection/pack.json"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
async def test_every_kind_of_config_can_be_drafted(ask: Asking, document: dict[str, Any], path: str):
    """Collections too, unlike in chora-compose."""
    made = await ask("draft_config", config_type=document["type"], config_data=document)
    assert (made["config_type"], made["preview_path"]) == (document["type"], path)


@requirement("tools.draft-config.errors", "tools.error.validation-error")
async def test_drafting_fails_with_the_codes_of_the_reference(ask: Asking, engine: Engine, tmp_path: Path):
    """Each with the documented details."""
    for data in ({}, None, "", {"type": "content"}, text("Bad Id", "x"), artifact("a", [])):
        wrong = await ask.refused("draft_config", "validation_error", config_type="content", config_data=data)
        assert wrong["details"]["config_type"] == "content"
        assert wrong["details"]["field"].startswith("$")
        assert wrong["details"]["issue"] == wrong["details"]["schema_errors"][0]["message"]
        assert all({"path", "message", "expected"} <= set(each) for each in wrong["details"]["schema_errors"])
    for data in ("{", [1], 5, "text"):
        refused = await ask.refused("draft_config", "invalid_context", config_type="content", config_data=data)
        assert refused["details"]["parameter"] == "config_data"
    good = text("note", "x")
    for arguments in (
        {"config_type": "template", "config_data": good},
        {"config_type": None, "config_data": good},
        {"config_data": good},
        {"config_type": "content"},
        {"config_type": "content", "config_data": good, "description": "x" * 1001},
    ):
        await ask.refused("draft_config", "invalid_input", **arguments)
    engine.store = FailingStore(tmp_path / "full.db")
    full = await ask.refused("draft_config", "draft_creation_failed", config_type="content", config_data=good)
    assert full["details"]["reason"] == "The database failed: full."
    engine.store.close()


def test_a_skeleton_of_a_content_has_the_usual_generator_and_is_one_s_own():
    """A template that is written in the config; what one caller changes, another doesn't get."""
    first = skeleton("content")
    assert first == skeleton("content", "jinja2")
    first["metadata"]["description"] = first["generation"]["patterns"][0]["type"] = "changed"
    assert "changed" not in str(skeleton("content"))


SKELETONS = [*(skeleton("content", generator) for generator in GENERATORS), *map(skeleton, ("artifact", "collection"))]


@requirement("tools.draft-config.skeleton")
@pytest.mark.parametrize("document", SKELETONS, ids=lambda document: f"{document['type']}-{document['id']}")
async def test_every_skeleton_is_drafted_saved_and_valid_as_it_is(ask: Asking, document: dict[str, Any]):
    """Without any remark, once what it is composed of is there."""
    below = [] if document["type"] == "content" else [skeleton("content"), skeleton("artifact")]
    for each in [*(each for each in below if each["type"] != document["type"]), document]:
        drafted = await ask("draft_config", config_type=each["type"], config_data=each)
        assert drafted["validation_issues"] == []
        await ask("save_config", draft_id=drafted["draft_id"], config_id=each["id"])
    found = await ask("validate_content", content_or_config_id=document["id"])
    assert [issue for issue in found["issues"] if issue["code"] != "not_generated"] == []


def test_there_is_a_skeleton_for_each_built_in_generator():
    """And each is small enough to stand in an error."""
    assert sorted(GENERATORS) == sorted(generator.NAME for generator in BUILT_IN)
    for document in SKELETONS:
        assert len(msgspec.json.encode(document)) <= 1024


@requirement("tools.draft-config.skeleton")
@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("content", {}, skeleton("content")),
        ("content", {"generation": {"patterns": [{"type": "bdd_scenario"}]}}, skeleton("content", "bdd_scenario")),
        ("content", {"generation": {"patterns": [{"type": "magic"}]}}, skeleton("content")),
        ("content", {"generation": {"patterns": [{"type": []}]}}, skeleton("content")),
        ("content", {"generation": []}, skeleton("content")),
        ("artifact", {}, skeleton("artifact")),
        ("collection", {"generation": {"patterns": [{"type": "jinja2"}]}}, skeleton("collection")),
    ],
)
async def test_a_refused_draft_comes_with_a_skeleton(ask: Asking, kind: str, data: Any, expected: dict[str, Any]):
    """Of its kind, and of the generator that it names; the hint says so and where every field is described."""
    refused = await ask.refused("draft_config", "validation_error", config_type=kind, config_data=data)
    assert refused["details"]["skeleton"] == expected
    assert f"Every field is described in manual://{kind}." in refused["hint"]
    assert "details.skeleton is the smallest config that fits." in refused["hint"]


# -- test_config ------------------------------------------------------------------------------------------------

TESTED = (
    *("draft_id", "preview_content", "content_length", "generator_used", "validation_issues", "warnings"),
    *("estimated_cost", "duration_ms"),
)


@requirement("tools.test-config.result", "tools.test-config.dry-run", "tools.context.object-or-string")
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"dry_run": None}, {"dry_run": True}])
async def test_test_config(
    ask: Asking, project: Project, engine: Engine, drafted: Any, context: Any, arguments: dict[str, Any]
):
    """The text that a draft would generate; nothing is stored."""
    pattern = {
        "type": "template_fill",
        "template": "Hello {{ name }}{{ x }}!",
        "generation_config": {"undefined_behavior": "empty"},
    }
    draft_id = await drafted({**content("note", pattern=pattern), "tags": []})
    with unchanged(project):
        result = taken(await ask("test_config", draft_id=draft_id, context=context, **arguments), *TESTED)
    assert [issue["code"] for issue in result.pop("validation_issues")] == ["unknown_key"]
    assert result == {
        "draft_id": draft_id,
        "preview_content": "Hello Ada!",
        "content_length": 10,
        "generator_used": "template_fill",
        "warnings": ["x has no value and was left empty"],
        "estimated_cost": None,
    }
    assert engine.store.counts()["versions"] == 0


@requirement("tools.test-config.preview-limit")
@pytest.mark.parametrize(("length", "cut"), [(PREVIEW_LIMIT, False), (PREVIEW_LIMIT + 1, True), (25_000, True)])
async def test_test_config_shows_the_head_of_a_long_text(ask: Asking, drafted: Any, length: int, cut: bool):
    """With its full length."""
    assert PREVIEW_LIMIT == 10_000
    result = await ask("test_config", draft_id=await drafted(text("note", "x" * length)))
    assert result["content_length"] == length
    trailer = f"\n… ({length:,} characters in all)" if cut else ""
    assert result["preview_content"] == "x" * PREVIEW_LIMIT + trailer


@requirement("tools.test-config.dry-run")
async def test_test_config_can_store_the_text(ask: Asking, engine: Engine, drafted: Any):
    """Under the draft's id, flagged as test output."""
    draft_id = await drafted(text("note", "x"))
    await ask("test_config", draft_id=draft_id, dry_run=False)
    (version,) = engine.store.versions(draft_id)
    assert (version.body, version.metadata["test_output"]) == ("x", True)


@requirement("tools.test-config.artifacts", "rulings.c23")
async def test_an_artifact_draft_is_composed_in_memory(ask: Asking, project: Project, engine: Engine, drafted: Any):
    """From its children; no file, no stored text."""
    project.save(text("a", "one"), text("b", "two"))
    draft_id = await drafted(artifact("sheet", [child("a"), child("b")]))
    with unchanged(project):
        result = await ask("test_config", draft_id=draft_id)
    assert (result["preview_content"], result["generator_used"]) == ("one\n\ntwo", "concat")
    assert engine.store.counts()["versions"] == 0


@requirement("tools.test-config.errors")
async def test_testing_fails_with_the_codes_of_the_reference(ask: Asking, engine: Engine, drafted: Any):
    """Each with the documented details."""
    gone = await ask.refused("test_config", "draft_not_found", draft_id="draft-20260101T000000-000000")
    assert gone["details"] == {"draft_id": "draft-20260101T000000-000000"}
    failing = await drafted(content("note", pattern={"type": "jinja2", "template": "{{ x }}"}))
    failed = await ask.refused("test_config", "test_execution_failed", draft_id=failing)
    assert (failed["details"]["generator"], failed["details"]["error"]) == ("jinja2", "generation_failed")
    assert failed["details"]["missing_variable"] == "x"
    for context, received in NO_CONTEXTS:
        wrong = await ask.refused("test_config", "invalid_context", draft_id=failing, context=context)
        assert wrong["details"]["received_type"] == received
    await ask.refused("test_config", "test_failed", draft_id=await drafted(PACK))
    for arguments in ({}, {"draft_id": None}, {"draft_id": failing, "dry_run": "no"}):
        await ask.refused("test_config", "invalid_input", **arguments)
    engine.store.close()
    engine.store = SqliteStore(None)
    await ask.refused("test_config", "draft_not_found", draft_id=failing)


# -- modify_config ----------------------------------------------------------------------------------------------

MODIFIED = (
    *("config_id", "config_type", "validation_status", "validation_issues", "config_path"),
    *("backup_path", "draft_id", "duration_ms"),
)


@requirement("tools.modify-config.result", "tools.modify-config.draft", "tools.modify-config.updates")
@pytest.mark.parametrize("as_string", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"create_backup": None, "config_type": None}])
async def test_modify_config_of_a_draft(
    ask: Asking, project: Project, engine: Engine, drafted: Any, as_string: bool, arguments: dict[str, Any]
):
    """A merge patch: siblings stay, arrays are replaced, null removes."""
    draft_id = await drafted({**text("note", "x"), "tags": ["a", "b"], "old": 1})
    updates: Any = {"metadata": {"description": "New"}, "tags": ["c"], "old": None}
    if as_string:
        updates = msgspec.json.encode(updates).decode()
    with unchanged(project):
        result = taken(await ask("modify_config", config_id=draft_id, updates=updates, **arguments), *MODIFIED)
    assert [issue["path"] for issue in result.pop("validation_issues")] == ["$.tags"]
    assert result == {
        "config_id": draft_id,
        "config_type": "content",
        "validation_status": "valid",
        "config_path": None,
        "backup_path": None,
        "draft_id": draft_id,
    }
    draft = engine.store.draft(draft_id)
    assert draft is not None
    assert draft.config_data["metadata"] == {"description": "New", "version": "1.0.0"}
    assert draft.config_data["tags"] == ["c"]
    assert "old" not in draft.config_data
    assert draft.updated_at >= draft.created_at


@requirement("tools.modify-config.saved", "tools.modify-config.backup", "rulings.c24", "config.unknown-keys")
@pytest.mark.parametrize("create_backup", [None, True, False])
async def test_modify_config_of_a_saved_config(ask: Asking, project: Project, create_backup: bool | None):
    """Patched in place with a backup; the next generated text is another one."""
    before = {**text("note", "old"), "tags": ["a"]}
    project.save(before)
    updates = {"elements": [{"name": "body", "format": "text", "example_output": "new"}]}
    result = taken(
        await ask("modify_config", config_id="note", updates=updates, create_backup=create_backup), *MODIFIED
    )
    backup = result.pop("backup_path")
    assert [issue["code"] for issue in result.pop("validation_issues")] == ["unknown_key"]
    assert result == {
        "config_id": "note",
        "config_type": "content",
        "validation_status": "valid",
        "config_path": "configs/content/note.json",
        "draft_id": None,
    }
    assert (backup is None) is (create_backup is False)
    if backup:
        assert msgspec.json.decode(project.read(backup)) == before
    assert msgspec.json.decode(project.read("configs/content/note.json")) == {**before, **updates}
    assert (await ask("generate_content", content_config_id="note"))["content"] == "new"
    assert (await ask("list_content_configs"))["total"] == 1


@requirement("tools.modify-config.config-type")
async def test_modify_config_of_one_of_several_kinds(ask: Asking, project: Project):
    """When they share an id, the kind has to be given."""
    project.save(text("note", "x"), artifact("note", [child("note")]))
    updates = {"metadata": {"title": "New"}}
    unclear = await ask.refused("modify_config", "invalid_input", config_id="note", updates=updates)
    assert unclear["details"] == {"field": "config_type", "allowed": ["content", "artifact"]}
    made = await ask("modify_config", config_id="note", updates=updates, config_type="artifact")
    assert (made["config_type"], made["config_path"]) == ("artifact", "configs/artifact/note.json")


@requirement("tools.modify-config.saved")
async def test_a_config_may_have_an_id_that_looks_like_a_drafts(ask: Asking, project: Project):
    """It begins with the same prefix."""
    project.save(text("draft-horses", "x"))
    made = await ask("modify_config", config_id="draft-horses", updates={"metadata": {"description": "New"}})
    assert (made["config_path"], made["draft_id"]) == ("configs/content/draft-horses.json", None)


@requirement("tools.modify-config.errors", "tools.modify-config.atomic")
async def test_modifying_fails_with_the_codes_of_the_reference(
    ask: Asking, project: Project, engine: Engine, drafted: Any, tmp_path: Path
):
    """Each with the documented details; the config stays unchanged."""
    project.save(text("note", "x"))
    draft_id = await drafted(text("draft", "x"))
    kept = engine.store.draft(draft_id)
    with unchanged(project):
        for config_id in ("note", draft_id):
            broken = await ask.refused(
                "modify_config", "modification_failed", config_id=config_id, updates={"metadata": {"version": None}}
            )
            assert broken["details"]["field"] == "$.metadata.version"
            assert "version" in broken["details"]["reason"]
        moved = await ask.refused("modify_config", "modification_failed", config_id="note", updates={"id": "other"})
        assert (moved["details"]["field"], moved["details"]["reason"]) == ("$.id", "the id would change")
        gone = await ask.refused("modify_config", "config_not_found", config_id="gone", updates={})
        assert gone["details"]["config_id"] == "gone"
        assert "configs/collection/gone.json" in gone["details"]["searched_paths"]
        await ask.refused("modify_config", "draft_not_found", config_id="draft-20260101T000000-000000", updates={})
        for config_id in NO_IDS:
            await ask.refused("modify_config", "invalid_config_id", config_id=config_id, updates={})
        for updates in ([1], "x", 5):
            wrong = await ask.refused("modify_config", "invalid_context", config_id="note", updates=updates)
            assert wrong["details"]["parameter"] == "updates"
        for arguments in ({}, {"config_id": "note"}, {"config_id": "note", "updates": {}, "config_type": "template"}):
            await ask.refused("modify_config", "invalid_input", **arguments)
    assert engine.store.draft(draft_id) == kept
    full = FailingStore(tmp_path / "full.db")
    assert kept is not None
    await SqliteStore.save_draft(full, kept)
    engine.store = full
    refused = await ask.refused(
        "modify_config", "modification_execution_failed", config_id=draft_id, updates={"more": 1}
    )
    assert refused["details"]["error_type"] == "FullError"
    full.close()


@requirement("tools.modify-config.errors")
async def test_a_saved_config_that_cannot_be_written_stays(
    ask: Asking, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """The error has path and errno."""
    project.save(text("note", "x"))

    async def full(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.project_folder, "write_file", full)
    with unchanged(project):
        failed = await ask.refused("modify_config", "modification_execution_failed", config_id="note", updates={"a": 1})
    assert failed["details"] == {"config_path": "configs/content/note.json", "error_type": "OSError", "errno": 28}


# -- save_config ------------------------------------------------------------------------------------------------

SAVED = ("config_path", "config_id", "config_type", "backup_path", "duration_ms")


@requirement(
    "tools.save-config.result", "tools.save-config.config-id", "tools.save-config.uses-up-draft", "layouts.save-nested"
)
@pytest.mark.parametrize("arguments", [{}, {"overwrite": None}, {"overwrite": False}])
async def test_save_config(ask: Asking, project: Project, drafted: Any, arguments: dict[str, Any]):
    """The file has the id it is saved as, and works at once; the draft is deleted."""
    draft_id = await drafted(text("other", "hello"))
    assert taken(await ask("save_config", draft_id=draft_id, config_id="note", **arguments), *SAVED) == {
        "config_path": "configs/content/note/note-content.json",
        "config_id": "note",
        "config_type": "content",
        "backup_path": None,
    }
    written = msgspec.json.decode(project.read("configs/content/note/note-content.json"))
    assert written == {**text("other", "hello"), "id": "note"}
    assert (await ask("generate_content", content_config_id="note"))["content"] == "hello"
    await ask.refused("test_config", "draft_not_found", draft_id=draft_id)


@requirement("tools.save-config.overwrite")
async def test_save_config_over_another(ask: Asking, project: Project, drafted: Any):
    """In place, with a backup."""
    project.save(text("note", "old"))
    result = await ask("save_config", draft_id=await drafted(text("note", "new")), config_id="note", overwrite=True)
    assert result["config_path"] == "configs/content/note.json"
    assert msgspec.json.decode(project.read(result["backup_path"])) == text("note", "old")
    assert (await ask("list_content_configs"))["total"] == 1


@requirement("tools.save-config.errors", "tools.save-config.overwrite", "tools.save-config.config-id")
async def test_saving_fails_with_the_codes_of_the_reference(ask: Asking, project: Project, drafted: Any):
    """Each with the documented details; the draft stays."""
    project.save(text("note", "old"))
    draft_id = await drafted(text("note", "new"))
    with unchanged(project):
        exists = await ask.refused("save_config", "save_failed", draft_id=draft_id, config_id="note")
        assert exists["details"]["config_path"] == "configs/content/note.json"
        for config_id in ("", "Note", "../note", "under_score", "a" * 300):
            await ask.refused("save_config", "save_failed", draft_id=draft_id, config_id=config_id)
        gone = await ask.refused("save_config", "draft_not_found", draft_id="gone", config_id="note")
        assert gone["details"] == {"draft_id": "gone"}
        for arguments in ({}, {"draft_id": draft_id}, {"draft_id": draft_id, "config_id": None}):
            await ask.refused("save_config", "invalid_input", **arguments)
    project.write("configs/content/blocked", "")
    blocked = await ask.refused("save_config", "save_execution_failed", draft_id=draft_id, config_id="blocked")
    assert isinstance(blocked["details"]["errno"], int)
    assert await ask("test_config", draft_id=draft_id)


@requirement("lifecycle.draft-test-modify-save")
@pytest.mark.parametrize("kind", ["content", "artifact", "collection"])
async def test_the_whole_life_of_a_config(ask: Asking, project: Project, drafted: Any, kind: str):
    """Draft, test, modify, save, use, modify the saved one, use again."""
    project.save(text("piece", "a piece"), artifact("sheet", [child("piece")]))
    documents = {"content": text("new", "one"), "artifact": artifact("new", [child("piece")]), "collection": PACK}
    draft_id = await drafted(documents[kind])
    if kind != "collection":
        assert (await ask("test_config", draft_id=draft_id))["content_length"]
    changed = {"name": "Renamed"} if kind == "collection" else {"metadata": {"description": "Renamed"}}
    await ask("modify_config", config_id=draft_id, updates=changed)
    saved = await ask("save_config", draft_id=draft_id, config_id="new")
    assert "Renamed" in project.read(saved["config_path"])
    tool, argument = {
        "content": ("generate_content", "content_config_id"),
        "artifact": ("assemble_artifact", "artifact_config_id"),
        "collection": ("generate_collection", "collection_config_path"),
    }[kind]
    assert await ask(tool, **{argument: "new"})
    await ask("modify_config", config_id="new", updates=changed, config_type=kind)
    assert await ask(tool, **{argument: "new"})
