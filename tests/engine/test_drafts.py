"""Drafts from drafting to the saved file: validated at each step, with no accidental overwrite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chora import settings
from chora.decoding import encode_yaml
from chora.engine import drafts
from chora.engine.drafts import (
    NAME_LIMIT,
    create_draft,
    find_draft,
    merge_patch,
    modify_config,
    preview_draft,
    save_draft,
)
from chora.engine.engine import Engine, open_engine
from chora.engine.saved_configs import encode_config
from chora.errors import (
    Busy,
    ConfigNotFound,
    DraftCreationFailed,
    DraftNotFound,
    InvalidContext,
    InvalidInput,
    LimitExceeded,
    ModificationExecutionFailed,
    ModificationFailed,
    SaveExecutionFailed,
    SaveFailed,
    StorageError,
    TestExecutionFailed,
    TestFailed,
    ValidationError,
)
from chora.files import CONFIG_LIMIT
from chora.render.pool import RenderPool
from chora.store import Draft, SqliteStore
from chora.timestamps import now
from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged

COLLECTION: dict[str, Any] = {
    "type": "collection",
    "id": "pack",
    "name": "Pack",
    "members": [{"id": "sheet", "type": "artifact", "path": "sheet.json"}],
    "output": {"base_path": "outputs/pack"},
}


async def draft(engine: Engine, document: dict[str, Any], **rest: Any) -> str:
    """Draft a config and return the draft's id."""
    return (await create_draft(engine, document["type"], document, rest.get("description")))[0].draft_id


async def old_draft(engine: Engine, document: dict[str, Any]) -> str:
    """The same for a draft of before, when other generators were there."""
    await engine.store.save_draft(
        Draft(
            draft_id="draft-20260101T000000-abcdef",
            config_type=document["type"],
            config_data=document,
            description=None,
            created_at=now(),
            updated_at=now(),
        )
    )
    return "draft-20260101T000000-abcdef"


# -- drafting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [text("note", "x"), artifact("sheet", [child("note")]), COLLECTION])
async def test_a_draft_is_kept_as_it_was_given(project: Project, engine: Engine, document: dict[str, Any]):
    """With keys that the format doesn't know; no file is written."""
    document = {**document, "unknown": {"kept": [1, None, 10**30]}}
    with unchanged(project):
        made, parsed = await create_draft(engine, document["type"], document, "for later")
    assert re.fullmatch(r"draft-\d{8}T\d{6}-[0-9a-f]{6}", made.draft_id)
    assert find_draft(engine, made.draft_id) == made
    assert (made.config_type, made.config_data, made.description) == (document["type"], document, "for later")
    assert made.created_at == made.updated_at
    assert parsed.config.id == document["id"]
    assert [issue.code for issue in parsed.warnings] == ["unknown_key"]


async def test_every_draft_has_an_id_of_its_own(engine: Engine):
    """Also drafts of the same second."""
    assert len({await draft(engine, text("note", "x")) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"type": "content", "id": "note"}, "$.metadata"),
        ({**text("note", "x"), "id": "Not An Id"}, "$.id"),
        ({**text("note", "x"), "elements": [{"name": "a"}]}, "$.elements[0].format"),
        ({**text("note", "x"), "type": "artifact"}, "$.type"),
        ({**text("note", "x"), "more": 10**400}, "$.more"),
        (content("note", pattern={"type": "unknown"}), "$.generation.patterns[0].type"),
        (content("note", pattern={"type": "jinja"}), "$.generation.patterns[0].type"),
        (content("note"), "$.generation.patterns[0].type"),
        (content("note", elements=[{"name": "a", "format": "text"}]), "$.generation.patterns[0].type"),
    ],
)
async def test_an_invalid_config_is_refused_as_a_draft(engine: Engine, document: dict[str, Any], field: str):
    """The error names the first fault, the details all of them."""
    with pytest.raises(ValidationError) as failed:
        await create_draft(engine, "content", document, None)
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
    reason = "The database failed: full."
    assert failed.value.details == {
        **{"reason": reason, "path": "x", "storage_path": "x", "errno": 28},
        "error_type": None,
    }
    assert failed.value.hint == "Free some disk space."


# -- testing ----------------------------------------------------------------------------------------------------


async def test_a_content_draft_is_tested_in_memory(project: Project, engine: Engine):
    """With the caller's context; nothing is stored or written."""
    document = content("note", pattern={"type": "template_fill", "template": "For {{ who }}{{ x }}"})
    document["generation"]["patterns"][0]["generation_config"] = {"undefined_behavior": "empty"}
    draft_id = await draft(engine, {**document, "extra": 1})
    with unchanged(project):
        tested = await preview_draft(engine, draft_id, {"who": "Ada"})
    assert (tested.text, tested.generator) == ("For Ada", "template_fill")
    assert tested.warnings == ["x has no value and was left empty"]
    assert [issue.code for issue in tested.issues] == ["unknown_key"]
    assert engine.store.counts()["versions"] == 0


async def test_a_draft_renders_with_the_real_workers(engine: Engine):
    """As it will when it is saved."""
    draft_id = await draft(engine, content("note", pattern={"type": "jinja2", "template": "{{ 6 * n }}"}))
    assert (await preview_draft(engine, draft_id, {"n": 7})).text == "42"


async def test_an_artifact_draft_is_composed_in_memory(project: Project, engine: Engine):
    """From its children as they would be generated now; nothing is stored or written."""
    project.save(text("one", "One\n"), content("two", pattern={"type": "template_fill", "template": "{{ n }}"}))
    children = [child("one"), child("two"), child("gone", required=False)]
    draft_id = await draft(engine, artifact("sheet", children))
    with unchanged(project):
        tested = await preview_draft(engine, draft_id, {"n": "Two"})
    assert (tested.text, tested.generator) == ("One\n\nTwo", "concat")
    assert [warning.partition(":")[0] for warning in tested.warnings] == ["The optional child gone was left out"]
    assert engine.store.counts() == {**dict.fromkeys(engine.store.counts(), 0), "drafts": 1}


async def test_the_output_of_a_test_can_be_stored(engine: Engine):
    """Under the draft's id, flagged as test output."""
    draft_id = await draft(engine, text("note", "x"))
    await preview_draft(engine, draft_id, {}, store_output=True)
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
        (content("note", pattern={"type": "unknown"}), "generator_not_found", "unknown"),
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
    """The error has the failure's code, details and hint; the draft stays."""
    project.save(text("one", "One"))
    draft_id = await old_draft(engine, document)
    with unchanged(project), pytest.raises(TestExecutionFailed) as failed:
        await preview_draft(engine, draft_id, {})
    error = failed.value
    assert error.message.startswith(f"{draft_id}: ")
    assert error.details["error"] == code
    assert error.details["generator"] == generator
    assert error.hint
    assert find_draft(engine, draft_id)


GREETING = content("note", pattern={"type": "jinja2", "template": "Hello {{ who }}"})


@requirement("tools.save-config.tested")
@pytest.mark.parametrize("force", [False, True])
async def test_what_failed_its_last_test_is_not_saved(project: Project, engine: Engine, force: bool):
    """Unless that is asked for; the error says what failed, and the draft stays."""
    draft_id = await draft(engine, GREETING)
    with pytest.raises(TestExecutionFailed):
        await preview_draft(engine, draft_id, {})
    if force:
        await save_draft(engine, draft_id, "note", force=True)
        assert (project.root / "configs/content/note/note-content.json").exists()
        return
    with unchanged(project), pytest.raises(SaveFailed, match=r"its last test failed.*who") as failed:
        await save_draft(engine, draft_id, "note")
    assert "who" in failed.value.details["test_failure"]
    assert "test_config" in (failed.value.hint or "")
    assert find_draft(engine, draft_id)


@requirement("tools.save-config.tested")
async def test_a_test_counts_until_the_next_one_or_a_change(engine: Engine):
    """A test that succeeds lifts the failure, and a changed draft was never tested."""
    for attempt in ("another test", "a change"):
        draft_id = await draft(engine, GREETING)
        with pytest.raises(TestExecutionFailed):
            await preview_draft(engine, draft_id, {})
        if attempt == "a change":
            await modify_config(engine, draft_id, {"metadata": {"description": "Changed"}})
        else:
            await preview_draft(engine, draft_id, {"who": "Ada"})
        await save_draft(engine, draft_id, "note", overwrite=True)
    draft_id = await draft(engine, GREETING)
    await preview_draft(engine, draft_id, {"who": "Ada"})
    with pytest.raises(TestExecutionFailed):
        await preview_draft(engine, draft_id, {})
    with pytest.raises(SaveFailed):
        await save_draft(engine, draft_id, "other")


@requirement("tools.save-config.tested")
async def test_a_fault_of_the_server_is_no_failed_test(engine: Engine):
    """It says nothing about the draft."""
    draft_id = await draft(engine, GREETING)
    pool, engine.templates.pool = engine.templates.pool, RenderPool(settings.RenderSettings())  # doesn't run
    with pytest.raises(Busy):
        await preview_draft(engine, draft_id, {"who": "Ada"})
    engine.templates.pool = pool
    await save_draft(engine, draft_id, "note")


@requirement("tools.draft-config.generator")
@pytest.mark.parametrize(
    ("document", "code"),
    [
        (content("note", pattern={"type": "jinja2", "template": "gone.j2"}), "invalid_template"),
        (content("note", pattern={"type": "jinja2", "template": "{% if %}"}), "invalid_template"),
        (artifact("sheet", [child("one")], compositionStrategy="custom"), "invalid_composition"),
        (artifact("sheet", [child("one")], compositionStrategy="template"), "invalid_composition"),
    ],
)
async def test_what_may_follow_later_is_a_remark_on_a_draft(engine: Engine, document: dict[str, Any], code: str):
    """A template, a composer."""
    _, parsed = await create_draft(engine, document["type"], document, None)
    assert [(issue.severity, issue.code) for issue in parsed.warnings] == [("warning", code)]


@requirement("tools.draft-config.generator")
async def test_a_patch_names_a_generator_that_there_is(project: Project, engine: Engine):
    """Of a draft and of a saved config; what isn't patched may be wrong elsewhere."""
    draft_id = await draft(engine, text("note", "x"))
    project.save(text("saved", "x"), content("odd", pattern={"type": "unknown"}))
    for config_id in (draft_id, "saved"):
        with pytest.raises(ModificationFailed, match="no generator 'unknown'"):
            await modify_config(engine, config_id, {"generation": {"patterns": [{"id": "a", "type": "unknown"}]}})
    await modify_config(engine, "odd", {"metadata": {"description": "Changed"}})


async def test_a_fault_that_is_not_the_drafts_keeps_its_own_code(engine: Engine):
    """An invalid context, a busy server."""
    draft_id = await draft(engine, content("note", pattern={"type": "jinja2", "template": "{{ x }}"}))
    with pytest.raises(InvalidContext, match="can't serialize ints"):
        await preview_draft(engine, draft_id, {"x": 10**30})
    engine.templates.pool = RenderPool(settings.RenderSettings())  # one that doesn't run, and says so
    with pytest.raises(Busy, match="workers aren't running"):
        await preview_draft(engine, draft_id, {"x": 1})


async def test_a_collection_draft_has_no_text(engine: Engine):
    """It can be drafted and saved; testing it is refused."""
    draft_id = await draft(engine, COLLECTION)
    with pytest.raises(TestFailed, match="A collection draft has no text of its own") as failed:
        await preview_draft(engine, draft_id, {})
    assert failed.value.hint


async def test_a_draft_that_is_no_longer_valid_cannot_be_tested(engine: Engine):
    """It may come from another version; the faults are in the details."""
    draft_id = await draft(engine, text("note", "x"))
    kept = find_draft(engine, draft_id)
    await engine.store.save_draft(msgspec.structs.replace(kept, config_data={"type": "content"}))
    with pytest.raises(TestFailed) as failed:
        await preview_draft(engine, draft_id, {})
    assert failed.value.message.startswith(f"{draft_id} can't be tested: ")
    assert failed.value.details["schema_errors"]


@pytest.mark.parametrize("draft_id", ["draft-20260101T000000-abcdef", "", "../x", "x" * 9999])
async def test_a_missing_draft_is_an_error(engine: Engine, draft_id: str):
    """When testing and when saving."""
    for step in (preview_draft(engine, draft_id, {}), save_draft(engine, draft_id, "note")):
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
async def test_a_new_config_is_saved_in_the_nested_layout(
    project: Project, engine: Engine, document: dict[str, Any], path: str
):
    """Under the id it is saved by, otherwise as drafted; it is found at once, and the draft is deleted."""
    draft_id = await draft(engine, {**document, "unknown": [1.0, "ü"]})
    saved = await save_draft(engine, draft_id, "saved")
    assert saved == (path, document["type"], None)
    assert project.read(path).endswith("}\n")
    assert '\n  "id": "saved",\n' in project.read(path)
    assert list(msgspec.json.decode(project.read(path)).items()) == list(
        {**document, "unknown": [1.0, "ü"], "id": "saved"}.items()
    )
    found = engine.catalog.find_config(document["type"], "saved")
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
    """In its format and layout, with an exact backup of the old file."""
    old = text("note", "old")
    before = (yaml.safe_dump(old) if path.endswith("l") else msgspec.json.encode(old).decode() + "  \n").encode()
    project.write(path, before)
    saved = await save_draft(engine, await draft(engine, text("note", "new: ü")), "note", overwrite=True)
    assert saved.path == path
    assert engine.catalog.find_config("content", "note").parsed.raw == text("note", "new: ü")
    assert saved.backup is not None
    assert re.fullmatch(re.escape(path) + r"\.\d{8}T\d{12}Z\.backup", saved.backup)
    assert (project.root / saved.backup).read_bytes() == before
    assert engine.catalog.list_configs("content").invalid == []
    again = await save_draft(engine, await draft(engine, text("note", "newer")), "note", overwrite=True)
    assert again.backup != saved.backup
    assert len(project.files()) == 4, "settings, config, and a backup each time"


async def test_an_existing_config_is_kept_without_overwrite(project: Project, engine: Engine):
    """The draft is kept too, so that it can be saved under another id."""
    project.save(text("note", "old"))
    draft_id = await draft(engine, text("other", "new"))
    with unchanged(project), pytest.raises(SaveFailed) as failed:
        await save_draft(engine, draft_id, "note")
    assert failed.value.details == {"config_path": "configs/content/note.json", "config_id": "note"}
    assert "overwrite: true" in str(failed.value.hint)
    assert (await save_draft(engine, draft_id, "note-2")).path == "configs/content/note-2/note-2-content.json"


async def test_a_broken_config_is_not_overwritten_by_accident(project: Project, engine: Engine):
    """It needs overwrite like any other, and has a backup then."""
    project.write("configs/content/note.json", '{"type": "content", "id": "note"}')
    draft_id = await draft(engine, text("note", "new"))
    with unchanged(project), pytest.raises(SaveFailed, match="exists already"):
        await save_draft(engine, draft_id, "note")
    saved = await save_draft(engine, draft_id, "note", overwrite=True)
    assert saved.path == "configs/content/note.json"
    assert saved.backup is not None
    assert project.read(saved.backup) == '{"type": "content", "id": "note"}'


@pytest.mark.parametrize(
    "config_id", ["", "Note", "no_te", "../note", "a/b", "a b", "-a", "1a", "note\n", "ä", "a" * 256, "a.json", "a\0"]
)
async def test_an_invalid_id_is_refused(project: Project, engine: Engine, config_id: str):
    """Whatever id the draft has; nothing is written, and the draft stays."""
    draft_id = await draft(engine, text("note", "x"))
    with unchanged(project), pytest.raises(SaveFailed, match="can't be a config id") as failed:
        await save_draft(engine, draft_id, config_id)
    assert failed.value.hint
    assert find_draft(engine, draft_id)


async def test_a_collections_id_may_begin_with_a_digit(project: Project, engine: Engine):
    """As its format allows."""
    draft_id = await draft(engine, COLLECTION)
    assert (await save_draft(engine, draft_id, "2026-pack")).path == "configs/collection/2026-pack.json"


async def test_an_id_that_makes_no_file_name_is_refused(project: Project, engine: Engine):
    """The longest valid one leaves space for the suffix of its backups."""
    draft_id = await draft(engine, text("note", "x"))
    longest = NAME_LIMIT - len("-content.json.20261122T101530123456Z.backup")
    with unchanged(project), pytest.raises(SaveFailed, match="makes the name of its file too long") as failed:
        await save_draft(engine, draft_id, "a" * (longest + 1))
    assert failed.value.hint
    await save_draft(engine, draft_id, "a" * longest)
    again = await save_draft(engine, await draft(engine, text("note", "y")), "a" * longest, overwrite=True)
    assert again.backup


async def test_a_draft_that_is_no_longer_valid_is_not_saved(project: Project, engine: Engine):
    """The faults are in the details."""
    draft_id = await draft(engine, text("note", "x"))
    await engine.store.save_draft(
        msgspec.structs.replace(find_draft(engine, draft_id), config_data={"type": "content"})
    )
    with unchanged(project), pytest.raises(ValidationError, match=r"\$\.metadata is missing") as failed:
        await save_draft(engine, draft_id, "note")
    details = failed.value.details
    assert (details["config_type"], details["field"]) == ("content", "$.metadata")
    assert [fault["path"] for fault in details["schema_errors"]] == ["$.metadata"]


async def test_a_draft_beyond_the_limit_is_refused(engine: Engine, ask: Asking, monkeypatch: pytest.MonkeyPatch):
    """No other is deleted for it; the error names the oldest and the ways to make space, which work."""
    monkeypatch.setattr(drafts, "DRAFTS_LIMIT", 12)
    made = [await draft(engine, text(f"note-{number}", "x")) for number in range(12)]
    with pytest.raises(LimitExceeded, match="12 drafts") as caught:
        await draft(engine, text("one-more", "x"))
    assert caught.value.details["limit"] == "drafts"
    kept = engine.store.drafts()
    assert sorted(each.draft_id for each in kept) == sorted(made)
    named = [(each["draft_id"], each["config_id"]) for each in caught.value.details["drafts"]]
    assert named == [(each.draft_id, each.config_data["id"]) for each in kept[:10]]
    assert caught.value.hint is not None
    for way in ("save_config", "delete_content", "cleanup_ephemeral", "chora gc"):
        assert way in caught.value.hint
    await save_draft(engine, made[0], "note-0")
    made.append(await draft(engine, text("one-more", "x")))
    gone = await ask("delete_content", content_id=made[1])
    assert (gone["status"], gone["versions_deleted"]) == ("deleted", 0)
    await draft(engine, text("another", "x"))
    with pytest.raises(LimitExceeded, match="There are 12 drafts, and no more are kept"):
        await draft(engine, text("one-more", "x"))


async def test_a_config_too_large_for_a_file_is_refused_as_a_draft(project: Project, engine: Engine):
    """Once saved it couldn't be read; patches can't make one either."""
    with pytest.raises(LimitExceeded, match="bytes as a file") as caught:
        await draft(engine, text("note", "x" * CONFIG_LIMIT))
    assert caught.value.details["limit"] == "config"
    assert engine.store.drafts() == []
    kept = await draft(engine, text("note", "x" * (CONFIG_LIMIT - 2_000)))
    with pytest.raises(LimitExceeded, match="1,048,576 are allowed"):
        await modify_config(engine, kept, {"more": "x" * 3_000})
    saved = await save_draft(engine, kept, "note")
    assert engine.catalog.find_config("content", "note").path == saved.path
    with unchanged(project), pytest.raises(LimitExceeded, match="1,048,576 are allowed"):
        await modify_config(engine, "note", {"more": "x" * 3_000})


async def test_a_config_as_large_as_a_file_may_be_is_saved_and_read(project: Project, engine: Engine):
    """One byte more is refused, of a new draft and of a patch."""
    frame = len(encode_config("", text("note", "")))
    kept = await draft(engine, text("note", "x" * (CONFIG_LIMIT - frame)))
    saved = await save_draft(engine, kept, "note")
    assert len(project.read(saved.path)) == CONFIG_LIMIT
    assert engine.catalog.find_config("content", "note").path == saved.path
    with pytest.raises(LimitExceeded) as caught:
        await draft(engine, text("note", "x" * (CONFIG_LIMIT - frame + 1)))
    assert caught.value.details["bytes"] == CONFIG_LIMIT + 1
    with unchanged(project), pytest.raises(LimitExceeded, match="1,048,576 are allowed"):
        await modify_config(engine, "note", {"version": "1.0.10"})


async def test_a_failed_save_changes_nothing(project: Project, engine: Engine):
    """The error names path and errno, and the draft can be saved once the disk is writable."""
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
    """The setting paths.outputs doesn't apply to configs."""
    (project.root / "chora.toml").write_text('[paths]\noutputs = ["outputs"]\nconfigs = "recipes"\n')
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        saved = await save_draft(engine, await draft(engine, text("note", "x")), "note")
        assert saved.path == "recipes/content/note/note-content.json"
        assert (await save_draft(engine, await draft(engine, text("note", "y")), "note", overwrite=True)).backup


async def test_of_two_saves_at_once_one_is_refused(project: Project, engine: Engine):
    """A lock covers the check and the write."""
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


# -- merge patches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_merge_as_in_rfc_7396(original: Any, patch: Any, result: Any):
    """Every example of its appendix A."""
    before = msgspec.json.encode([original, patch])
    assert merge_patch(original, patch) == result
    assert msgspec.json.encode([original, patch]) == before, "neither is changed"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


def without_nulls(value: Any) -> Any:
    """Without the null members of objects, which a patch can't express."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return value


def difference(one: Any, other: Any) -> Any:
    """The patch from one document to the other, both without nulls in objects."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    gone = {key: None for key in one if key not in other}
    return gone | {key: difference(one.get(key), other[key]) for key in other if one.get(key, ...) != other[key]}


@given(values, values)
def test_patching_is_idempotent(target: Any, patch: Any):
    """The patch puts no null into the result, and an empty patch changes no object."""
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    if isinstance(target, dict):
        assert merge_patch(target, {}) == target
    if isinstance(patch, dict):
        assert all(once[key] is not None for key in patch if key in once)
        kept = target if isinstance(target, dict) else {}
        assert all(once[key] == each for key, each in kept.items() if key not in patch)


@given(values.map(without_nulls), values.map(without_nulls))
def test_every_change_can_be_expressed_as_a_patch(one: Any, other: Any):
    """Between any two documents without nulls."""
    assert merge_patch(one, difference(one, other)) == other


# -- changing existing configs ----------------------------------------------------------------------------------


async def test_patching_a_draft_keeps_everything_else(project: Project, engine: Engine):
    """Siblings and unknown keys stay; its id may change; it can be tested and saved at once."""
    document = {**text("note", "old"), "unknown": {"deep": [1.0, {"kept": None}]}}
    draft_id = await draft(engine, document)
    before = find_draft(engine, draft_id)
    await trio.sleep(0.005)
    updates = {"id": "other", "metadata": {"description": "New"}, "elements": text("x", "new")["elements"]}
    with unchanged(project):
        modified = await modify_config(engine, draft_id, updates)
    assert (modified.kind, modified.draft_id, modified.path, modified.backup) == ("content", draft_id, None, None)
    assert [issue.code for issue in modified.issues] == ["unknown_key"]
    after = find_draft(engine, draft_id)
    assert after.config_data == {
        **document,
        "id": "other",
        "metadata": {"description": "New", "version": "1.0.0"},
        "elements": updates["elements"],
    }
    assert (after.created_at, after.description) == (before.created_at, before.description)
    assert after.updated_at > before.updated_at
    assert (await preview_draft(engine, draft_id, {})).text == "new"


@requirement("config.backups")
async def test_the_newest_backups_of_a_config_are_kept(project: Project, engine: Engine):
    """Ten of them; those of others, and what a person copied, stay."""
    project.write("configs/content/note.json", msgspec.json.encode(text("note", "0")))
    for other in ("note.json.backup", "note.json.mine.backup", "other.json.20200101T000000000000Z.backup"):
        project.write(f"configs/content/{other}", "{}")
    backups: list[str] = []
    for number in range(12):
        updates = {"metadata": {"description": f"d{number}"}}
        backups.append(str((await modify_config(engine, "note", updates)).backup))
    found = {name for name in project.files() if name.endswith(".backup")}
    assert len(backups) == len(set(backups)) == 12
    assert found >= set(backups[2:])
    assert not found & set(backups[:2])
    assert len(found) == 10 + 3


@pytest.mark.parametrize("path", ["configs/content/note.json", "configs/content/note/note-content.json"])
async def test_a_saved_config_is_patched_where_it_is(project: Project, engine: Engine, path: str):
    """With its order and unknown keys, and an exact backup of the old file."""
    old = b'{"unknown": {"b": 1.50, "a": [null]},   "type": "content"' + msgspec.json.encode(text("note", "x"))[17:]
    project.write(path, old)
    modified = await modify_config(engine, "note", {"unknown": {"b": None, "c": 2}, "evolution": {"stage": "approved"}})
    assert modified.path == path
    assert modified.backup is not None
    assert (project.root / modified.backup).read_bytes() == old
    written = msgspec.json.decode(project.read(path))
    assert list(written) == [*msgspec.json.decode(old), "evolution"]
    assert written["unknown"] == {"a": [None], "c": 2}
    assert engine.catalog.find_config("content", "note").parsed.config.evolution.stage == "approved"
    assert [broken.path for broken in engine.catalog.list_configs("content").invalid] == []
    again = await modify_config(engine, "note", {"evolution": None}, create_backup=False)
    assert again.backup is None
    assert len(project.files()) == 3, "settings, config, and one backup"


async def test_a_saved_yaml_config_stays_yaml(project: Project, engine: Engine):
    """Text that YAML would read as a date or a number stays text; the backup keeps the comments."""
    old = encode_yaml({**text("note", "x"), "tags": ["2026-11-22", "1e3", "no", "ü"]})
    project.write("configs/content/note.yaml", f"# mine\n{old}")
    modified = await modify_config(engine, "note", {"metadata": {"description": "New"}})
    assert modified.path == "configs/content/note.yaml"
    assert project.read(str(modified.backup)).startswith("# mine\n")
    written = yaml.safe_load(project.read("configs/content/note.yaml"))
    assert written["tags"] == ["2026-11-22", "1e3", "no", "ü"]
    assert written["metadata"] == {"description": "New", "version": "1.0.0"}
    assert "ü" in project.read("configs/content/note.yaml")


@pytest.mark.parametrize("document", [text("note", "x"), artifact("note", [child("a")]), {**COLLECTION, "id": "note"}])
async def test_every_kind_of_config_can_be_patched(project: Project, engine: Engine, document: dict[str, Any]):
    """Subscribers to its resource are notified."""
    reported: list[str] = []
    engine.changes.subscribe(reported.append)
    project.save(document)
    modified = await modify_config(engine, "note", {"more": 1})
    assert modified.kind == document["type"]
    assert reported == [f"config://{document['type']}/note"]
    assert msgspec.json.decode(project.read(str(modified.path))) == {**document, "more": 1}


async def test_an_id_of_several_kinds_needs_a_kind(project: Project, engine: Engine):
    """The error names the kinds; only the named one is patched."""
    project.save(text("note", "x"), artifact("note", [child("note")]), {**COLLECTION, "id": "note"})
    with unchanged(project), pytest.raises(InvalidInput) as failed:
        await modify_config(engine, "note", {"more": 1})
    assert failed.value.details["allowed"] == ["content", "artifact", "collection"]
    before = project.files()
    modified = await modify_config(engine, "note", {"more": 1}, kind="collection", create_backup=False)
    after = project.files()
    assert [path for path in after if after[path] != before[path]] == [modified.path]
    with pytest.raises(ConfigNotFound) as missing:
        await modify_config(engine, "gone", {}, kind="artifact")
    assert missing.value.hint
    assert missing.value.details["searched_paths"]


def deep(levels: int) -> Any:
    """An object nested so deep."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("updates", "field"),
    [
        ({"metadata": None}, "$.metadata"),
        ({"metadata": {"version": None}}, "$.metadata.version"),
        ({"type": "artifact"}, "$.type"),
        ({"id": "Not An Id"}, "$.id"),
        ({"elements": [{"name": "x"}]}, "$.elements[0].format"),
        ({"elements": {"0": {"name": "x"}}}, "$.elements"),
        ({"more": deep(5000)}, "$"),
    ],
)
async def test_a_patch_with_an_invalid_result_changes_nothing(
    project: Project, engine: Engine, updates: dict[str, Any], field: str
):
    """Neither draft nor file, and there is no backup; the error names the first fault."""
    project.save(text("note", "x"))
    draft_id = await draft(engine, text("note", "x"))
    before = find_draft(engine, draft_id)
    for config_id in ("note", draft_id):
        with unchanged(project), pytest.raises(ModificationFailed) as failed:
            await modify_config(engine, config_id, updates)
        assert failed.value.details["field"] == field
        assert failed.value.hint
    assert find_draft(engine, draft_id) == before


async def test_a_refused_patch_names_its_keys_in_order(project: Project, engine: Engine):
    """Whatever their order in the patch."""
    project.save(text("note", "x"))
    with pytest.raises(ModificationFailed) as failed:
        await modify_config(engine, "note", {"state": {}, "metadata": None, "children": []})
    assert failed.value.details["updated_keys"] == ["children", "metadata", "state"]


async def test_a_patch_cannot_change_the_id_of_a_saved_config(project: Project, engine: Engine):
    """References to it would break; setting the same id is no change."""
    project.save(text("note", "x"))
    with unchanged(project), pytest.raises(ModificationFailed, match="to other and break all references") as failed:
        await modify_config(engine, "note", {"id": "other"})
    assert failed.value.details["field"] == "$.id"
    assert failed.value.hint
    await modify_config(engine, "note", {"id": "note", "more": 1})


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_a_failed_patch_leaves_the_config(
    project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch, fails_at: int
):
    """Whether the backup or the config can't be written; at worst there is an extra backup."""
    project.save(text("note", "x"))
    before = project.read("configs/content/note.json")
    really, turns = engine.project_folder.write_file, 0

    async def refuse(path: str, data: bytes) -> None:
        nonlocal turns
        turns += 1
        if turns == fails_at:
            raise OSError(28, "No space left on device")
        await really(path, data)

    monkeypatch.setattr(engine.project_folder, "write_file", refuse)
    with pytest.raises(ModificationExecutionFailed) as failed:
        await modify_config(engine, "note", {"more": 1})
    assert failed.value.details["errno"] == 28
    assert failed.value.hint
    assert project.read("configs/content/note.json") == before
    assert len(project.files()) == 1 + fails_at
    assert engine.catalog.list_configs("content").invalid == []


async def test_a_store_that_refuses_a_patch_leaves_the_draft(engine: Engine, tmp_path: Path):
    """With the store's reason."""
    full = FullStore(tmp_path / "full.db")
    draft_id = await draft(engine, text("note", "x"))
    kept = find_draft(engine, draft_id)
    await SqliteStore.save_draft(full, kept)
    engine.store = full
    with pytest.raises(ModificationExecutionFailed, match="The database failed: full"):
        await modify_config(engine, draft_id, {"more": 1})
    assert find_draft(engine, draft_id) == kept
    full.close()


async def test_concurrent_patches_are_all_applied(project: Project, engine: Engine):
    """One after the other, to a draft and to a file."""
    project.save(text("note", "x"))
    draft_id = await draft(engine, text("note", "x"))
    async with trio.open_nursery() as nursery:
        for number in range(5):
            for config_id in ("note", draft_id):
                nursery.start_soon(modify_config, engine, config_id, {f"more-{number}": number})
    wanted = {f"more-{number}": number for number in range(5)}
    assert find_draft(engine, draft_id).config_data == {**text("note", "x"), **wanted}
    assert msgspec.json.decode(project.read("configs/content/note.json")) == {**text("note", "x"), **wanted}
