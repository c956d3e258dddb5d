"""Drafts from the first word to the saved file: checked at each step, nothing overwritten by accident."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml

from chora import app, config
from chora.engine.drafts import NAME_LIMIT, find_draft, make_draft, save_draft, try_draft
from chora.engine.engine import Engine
from chora.errors import (
    Busy,
    DraftCreationFailed,
    DraftNotFound,
    InvalidContext,
    SaveExecutionFailed,
    SaveFailed,
    StorageError,
    TestExecutionFailed,
    TestFailed,
    ValidationError,
)
from chora.render.pool import RenderPool
from chora.store import Draft, SqliteStore
from tests.conftest import Project, artifact, child, content, text, unchanged

COLLECTION: dict[str, Any] = {
    "type": "collection",
    "id": "pack",
    "name": "Pack",
    "members": [{"id": "sheet", "type": "artifact", "path": "sheet.json"}],
    "output": {"base_path": "outputs/pack"},
}


async def draft(engine: Engine, document: dict[str, Any], **rest: Any) -> str:
    """Draft a config and return the draft's id."""
    return (await make_draft(engine, document["type"], document, rest.get("description")))[0].draft_id


# -- drafting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [text("note", "x"), artifact("sheet", [child("note")]), COLLECTION])
async def test_a_draft_is_kept_as_it_was_given(project: Project, engine: Engine, document: dict[str, Any]):
    """With everything the format doesn't know; no file is written."""
    document = {**document, "unknown": {"kept": [1, None, 10**30]}}
    with unchanged(project):
        made, parsed = await make_draft(engine, document["type"], document, "for later")
    assert re.fullmatch(r"draft-\d{8}T\d{6}-[0-9a-f]{6}", made.draft_id)
    assert find_draft(engine, made.draft_id) == made
    assert (made.config_type, made.config_data, made.description) == (document["type"], document, "for later")
    assert made.created_at == made.updated_at
    assert parsed.config.id == document["id"]
    assert [issue.code for issue in parsed.warnings] == ["unknown_key"]


async def test_every_draft_has_an_id_of_its_own(engine: Engine):
    """Also within one second."""
    assert len({await draft(engine, text("note", "x")) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"type": "content", "id": "note"}, "$.metadata"),
        ({**text("note", "x"), "id": "Not An Id"}, "$.id"),
        ({**text("note", "x"), "elements": [{"name": "a"}]}, "$.elements[0].format"),
        ({**text("note", "x"), "type": "artifact"}, "$.type"),
        ({**text("note", "x"), "more": 10**400}, "$.more"),
    ],
)
async def test_what_does_not_fit_the_format_is_no_draft(engine: Engine, document: dict[str, Any], field: str):
    """The error names the first fault, and the details all of them."""
    with pytest.raises(ValidationError) as failed:
        await make_draft(engine, "content", document, None)
    error = failed.value
    assert error.details["config_type"] == "content"
    assert error.details["field"] == field
    assert error.details["issue"] in error.message
    assert error.details["schema_errors"][0]["path"] == field
    assert error.hint
    assert engine.store.counts()["drafts"] == 0


class FullStore(SqliteStore):
    """A store on a full disk."""

    async def save_draft(self, draft: Draft) -> None:
        raise StorageError("The database failed: full.", "Free some disk space.", storage_path="x", errno=28)


async def test_a_draft_that_cannot_be_stored_is_a_failure(engine: Engine, tmp_path: Path):
    """With the store's reason and details."""
    engine.store = FullStore(tmp_path / "full.db")
    with pytest.raises(DraftCreationFailed) as failed:
        await draft(engine, text("note", "x"))
    engine.store.close()
    assert failed.value.details == {"reason": "The database failed: full.", "storage_path": "x", "errno": 28}
    assert failed.value.hint == "Free some disk space."


# -- testing ----------------------------------------------------------------------------------------------------


async def test_a_content_draft_is_made_in_memory(project: Project, engine: Engine):
    """With the caller's context; nothing is stored or written."""
    document = content("note", pattern={"type": "template_fill", "template": "For {{ who }}{{ x }}"})
    document["generation"]["patterns"][0]["generation_config"] = {"undefined_behavior": "empty"}
    draft_id = await draft(engine, {**document, "extra": 1})
    with unchanged(project):
        tested = await try_draft(engine, draft_id, {"who": "Ada"})
    assert (tested.text, tested.generator) == ("For Ada", "template_fill")
    assert tested.warnings == ["x has no value and was left empty"]
    assert [issue.code for issue in tested.issues] == ["unknown_key"]
    assert engine.store.counts()["versions"] == 0


async def test_a_draft_renders_with_the_real_workers(engine: Engine):
    """As it will once it is saved."""
    draft_id = await draft(engine, content("note", pattern={"type": "jinja2", "template": "{{ 6 * n }}"}))
    assert (await try_draft(engine, draft_id, {"n": 7})).text == "42"


async def test_an_artifact_draft_is_composed_in_memory(project: Project, engine: Engine):
    """Of its children as they would be made now; nothing is stored or written."""
    project.save(text("one", "One\n"), content("two", pattern={"type": "template_fill", "template": "{{ n }}"}))
    children = [child("one"), child("two"), child("gone", required=False)]
    draft_id = await draft(engine, artifact("sheet", children))
    with unchanged(project):
        tested = await try_draft(engine, draft_id, {"n": "Two"})
    assert (tested.text, tested.generator) == ("One\n\nTwo", "concat")
    assert [warning.partition(":")[0] for warning in tested.warnings] == ["The optional child gone was left out"]
    assert engine.store.counts() == {**dict.fromkeys(engine.store.counts(), 0), "drafts": 1}


async def test_a_test_can_be_stored_as_one(engine: Engine):
    """Under the draft's id, flagged as test output."""
    draft_id = await draft(engine, text("note", "x"))
    await try_draft(engine, draft_id, {}, store_output=True)
    (version,) = engine.store.versions(draft_id)
    assert (version.body, version.generator, version.metadata) == ("x", "demonstration", {"test_output": True})


@pytest.mark.parametrize(
    ("document", "code", "generator"),
    [
        (
            content("note", pattern={"type": "template_fill", "template": "{{ x }}"}),
            "generation_failed",
            "template_fill",
        ),
        (content("note", pattern={"type": "nobody"}), "generator_not_found", "nobody"),
        (content("note"), "generation_failed", None),
        (
            content(
                "note",
                pattern={"type": "template_fill", "template": "x\n"},
                sources=[{"id": "s", "source_type": "external_file", "source_locator": "gone.json"}],
            ),
            "generation_failed",
            "template_fill",
        ),
        (content("note", pattern={"type": "jinja2", "template": "../x.j2"}), "permission_denied", None),
        (artifact("sheet", [child("gone")]), "missing_content", None),
        (artifact("sheet", [child("one")], compositionStrategy="custom"), "composition_failed", None),
        (artifact("sheet", [child("one")], {"file": "a.json", "format": "json"}), "composition_failed", None),
    ],
)
async def test_a_draft_whose_generator_fails_says_how(
    project: Project, engine: Engine, document: dict[str, Any], code: str, generator: str | None
):
    """The failure's code and details stand in the error, its hint too; the draft is still there."""
    project.save(text("one", "One"))
    draft_id = await draft(engine, document)
    with unchanged(project), pytest.raises(TestExecutionFailed) as failed:
        await try_draft(engine, draft_id, {})
    error = failed.value
    assert error.message.startswith(f"{draft_id}: ")
    assert error.details["error"] == code
    assert error.details["generator"] == generator
    assert error.hint
    assert find_draft(engine, draft_id)


async def test_a_fault_that_is_not_the_drafts_keeps_its_own_code(engine: Engine):
    """A context that no template can be handed, a house that is busy."""
    draft_id = await draft(engine, content("note", pattern={"type": "jinja2", "template": "{{ x }}"}))
    with pytest.raises(InvalidContext):
        await try_draft(engine, draft_id, {"x": 10**30})
    engine.templates.pool = RenderPool(config.Render())  # one that doesn't run, and says so
    with pytest.raises(Busy):
        await try_draft(engine, draft_id, {"x": 1})


async def test_a_collection_draft_has_no_text(engine: Engine):
    """It can be drafted and saved, and says that it can't be tested."""
    draft_id = await draft(engine, COLLECTION)
    with pytest.raises(TestFailed, match="A collection draft has no text of its own") as failed:
        await try_draft(engine, draft_id, {})
    assert failed.value.hint


async def test_a_draft_that_no_longer_fits_cannot_be_tested(engine: Engine):
    """Written by another version, say; the faults stand in the details."""
    draft_id = await draft(engine, text("note", "x"))
    kept = find_draft(engine, draft_id)
    await engine.store.save_draft(msgspec.structs.replace(kept, config_data={"type": "content"}))
    with pytest.raises(TestFailed) as failed:
        await try_draft(engine, draft_id, {})
    assert failed.value.message.startswith(f"{draft_id} can't be tested: ")
    assert failed.value.details["schema_errors"]


@pytest.mark.parametrize("draft_id", ["draft-20260101T000000-abcdef", "", "../x", "x" * 9999])
async def test_a_draft_that_is_not_there_is_said(engine: Engine, draft_id: str):
    """By testing and by saving."""
    for step in (try_draft(engine, draft_id, {}), save_draft(engine, draft_id, "note")):
        with pytest.raises(DraftNotFound) as failed:
            await step
        assert failed.value.details == {"draft_id": draft_id[:80]}
        assert failed.value.hint
        assert len(failed.value.message) < 120


# -- saving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (text("note", "x"), "configs/content/saved/saved-content.json"),
        (artifact("sheet", [child("note")]), "configs/artifact/saved/saved-artifact.json"),
        (COLLECTION, "configs/collection/saved.json"),
    ],
)
async def test_a_new_config_goes_to_the_nested_layout(
    project: Project, engine: Engine, document: dict[str, Any], path: str
):
    """Under the id it is saved by, with everything else as it was drafted; it is found at once, the draft is gone."""
    draft_id = await draft(engine, {**document, "unknown": [1.0, "ü"]})
    saved = await save_draft(engine, draft_id, "saved")
    assert saved == (path, document["type"], None)
    assert project.read(path).endswith("}\n")
    assert '\n  "id": "saved",\n' in project.read(path)
    assert list(msgspec.json.decode(project.read(path)).items()) == list(
        {**document, "unknown": [1.0, "ü"], "id": "saved"}.items()
    )
    found = engine.catalog.find(document["type"], "saved")
    assert (found.path, found.parsed.config.id) == (path, "saved")
    with pytest.raises(DraftNotFound):
        find_draft(engine, draft_id)


@pytest.mark.parametrize(
    "path",
    [
        "configs/content/note.json",
        "configs/content/note-content.json",
        "configs/content/note/note-content.json",
        "configs/content/note/note.json",
        "configs/contents/note.json",
        "configs/content/another/name.json",
        "configs/content/note.yaml",
        "configs/content/deep/er/note.yml",
    ],
)
async def test_a_config_is_replaced_where_it_is(project: Project, engine: Engine, path: str):
    """In its own language and layout, with a backup of what it was, to the byte."""
    old = text("note", "old")
    before = (yaml.safe_dump(old) if path.endswith("l") else msgspec.json.encode(old).decode() + "  \n").encode()
    project.write(path, before)
    saved = await save_draft(engine, await draft(engine, text("note", "new: ü")), "note", overwrite=True)
    assert saved.path == path
    assert engine.catalog.find("content", "note").parsed.raw == text("note", "new: ü")
    assert saved.backup is not None
    assert re.fullmatch(re.escape(path) + r"\.\d{8}T\d{12}Z\.backup", saved.backup)
    assert (project.root / saved.backup).read_bytes() == before
    assert engine.catalog.all("content").invalid == []
    again = await save_draft(engine, await draft(engine, text("note", "newer")), "note", overwrite=True)
    assert again.backup != saved.backup
    assert len(project.files()) == 4, "settings, config, and a backup each time"


async def test_an_existing_config_is_kept_unless_told_otherwise(project: Project, engine: Engine):
    """The draft too, so that it can be saved in another way."""
    project.save(text("note", "old"))
    draft_id = await draft(engine, text("other", "new"))
    with unchanged(project), pytest.raises(SaveFailed) as failed:
        await save_draft(engine, draft_id, "note")
    assert failed.value.details == {"config_path": "configs/content/note.json", "config_id": "note"}
    assert "overwrite: true" in str(failed.value.hint)
    assert (await save_draft(engine, draft_id, "note-2")).path == "configs/content/note-2/note-2-content.json"


async def test_a_broken_config_is_not_overwritten_by_accident(project: Project, engine: Engine):
    """It stands in the way like any other, and its backup keeps it."""
    project.write("configs/content/note.json", '{"type": "content", "id": "note"}')
    draft_id = await draft(engine, text("note", "new"))
    with unchanged(project), pytest.raises(SaveFailed):
        await save_draft(engine, draft_id, "note")
    saved = await save_draft(engine, draft_id, "note", overwrite=True)
    assert saved.path == "configs/content/note.json"
    assert saved.backup is not None
    assert project.read(saved.backup) == '{"type": "content", "id": "note"}'


@pytest.mark.parametrize(
    "config_id", ["", "Note", "no_te", "../note", "a/b", "a b", "-a", "1a", "note\n", "ä", "a" * 256, "a.json", "a\0"]
)
async def test_an_id_that_is_none_is_refused(project: Project, engine: Engine, config_id: str):
    """Whatever the draft said; nothing is written, the draft stays."""
    draft_id = await draft(engine, text("note", "x"))
    with unchanged(project), pytest.raises(SaveFailed, match="can't be a config id") as failed:
        await save_draft(engine, draft_id, config_id)
    assert failed.value.hint
    assert find_draft(engine, draft_id)


async def test_a_collections_id_may_begin_with_a_digit(project: Project, engine: Engine):
    """As its format has it."""
    draft_id = await draft(engine, COLLECTION)
    assert (await save_draft(engine, draft_id, "2026-pack")).path == "configs/collection/2026-pack.json"


async def test_an_id_that_makes_no_file_name_is_refused(project: Project, engine: Engine):
    """The longest that fits leaves room for its backups."""
    draft_id = await draft(engine, text("note", "x"))
    longest = NAME_LIMIT - len("-content.json.20261122T101530123456Z.backup")
    with unchanged(project), pytest.raises(SaveFailed, match="makes the name of its file too long") as failed:
        await save_draft(engine, draft_id, "a" * (longest + 1))
    assert failed.value.hint
    await save_draft(engine, draft_id, "a" * longest)
    again = await save_draft(engine, await draft(engine, text("note", "y")), "a" * longest, overwrite=True)
    assert again.backup


async def test_a_draft_that_no_longer_fits_is_not_saved(project: Project, engine: Engine):
    """The faults stand in the details."""
    draft_id = await draft(engine, text("note", "x"))
    await engine.store.save_draft(
        msgspec.structs.replace(find_draft(engine, draft_id), config_data={"type": "content"})
    )
    with unchanged(project), pytest.raises(ValidationError):
        await save_draft(engine, draft_id, "note")


async def test_a_disk_that_refuses_leaves_everything(project: Project, engine: Engine):
    """The error names path and errno, and the draft can be saved once the disk lets it."""
    draft_id = await draft(engine, text("note", "x"))
    project.write("configs/content/note", "a file where the folder should be")
    with unchanged(project), pytest.raises(SaveExecutionFailed) as failed:
        await save_draft(engine, draft_id, "note")
    assert failed.value.details["config_path"] == "configs/content/note/note-content.json"
    assert isinstance(failed.value.details["errno"], int)
    assert failed.value.details["error_type"]
    (project.root / "configs/content/note").unlink()
    assert await save_draft(engine, draft_id, "note")


async def test_configs_are_saved_whatever_bounds_outputs_have(project: Project):
    """The setting paths.outputs is about outputs; configs go where configs are."""
    (project.root / "chora.toml").write_text('[paths]\noutputs = ["outputs"]\nconfigs = "recipes"\n')
    async with app.opened(project.root, config.load(project.root, {})) as engine:
        saved = await save_draft(engine, await draft(engine, text("note", "x")), "note")
        assert saved.path == "recipes/content/note/note-content.json"
        assert (await save_draft(engine, await draft(engine, text("note", "y")), "note", overwrite=True)).backup


async def test_of_two_saves_at_once_one_is_refused(project: Project, engine: Engine):
    """They don't pass each other between looking and writing."""
    drafts = [await draft(engine, text("note", str(number))) for number in range(4)]
    refused: list[SaveFailed] = []

    async def save(draft_id: str) -> None:
        try:
            await save_draft(engine, draft_id, "note")
        except SaveFailed as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for draft_id in drafts:
            nursery.start_soon(save, draft_id)
    assert len(refused) == 3
    assert engine.store.counts()["drafts"] == 3
