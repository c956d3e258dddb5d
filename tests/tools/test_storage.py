"""cleanup_ephemeral and delete_content."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora.engine.engine import Engine
from chora.hashing import sha256
from chora.store import SqliteStore, Version
from chora.timestamps import format_timestamp
from tests.conftest import Asking, Project, artifact, child, requirement, text
from tests.tools.answers import FULL, NO_IDS, STAMP, FailingStore, taken

CLEANED = (
    *("status", "total_content_checked", "total_versions_deleted", "bytes_freed", "content_cleaned"),
    *("drafts_deleted", "dry_run", "duration_ms"),
)


async def store(engine: Engine, content_id: str, *ages: float, **facts: Any) -> None:
    """Store texts of ten bytes of a content, generated so many days ago, oldest first."""
    for age in ages:
        moment = format_timestamp(datetime.now(UTC) - timedelta(days=age))
        await engine.store.add_version(
            Version(
                content_id=content_id,
                body="0123456789",
                sha256=sha256(b"0123456789"),
                fingerprint=f"sha256:{content_id}{age}",
                generator="demonstration",
                generator_version="1.0.0",
                generated_at=moment,
                **facts,
            )
        )


def kept(engine: Engine, content_id: str) -> int:
    return len([info for info in engine.store.version_infos(content_id) if not info.deleted])


# -- cleanup_ephemeral ------------------------------------------------------------------------------------------


@requirement("tools.cleanup-ephemeral.result", "tools.cleanup-ephemeral.defaults", "tools.cleanup-ephemeral.touched")
@pytest.mark.parametrize("arguments", [{}, {"retention": None, "filter": None, "dry_run": None}, {"retention": {}}])
async def test_cleanup_ephemeral(ask: Asking, engine: Engine, arguments: dict[str, Any]):
    """By default the newest three stay, and all of the last seven days; only contents with deletions are listed."""
    await store(engine, "old", 50, 40, 30, 20, 10)
    await store(engine, "young", 6, 5, 4, 3, 2)
    result = taken(await ask("cleanup_ephemeral", **arguments), *CLEANED)
    (item,) = result.pop("content_cleaned")
    assert STAMP.fullmatch(item.pop("oldest_kept"))
    assert STAMP.fullmatch(item.pop("latest_kept"))
    assert item == {
        "content_id": "old",
        "versions_before": 5,
        "versions_after": 3,
        "versions_deleted": 2,
        "bytes_freed": 20,
    }
    assert result == {
        "status": "cleaned",
        "total_content_checked": 2,
        "total_versions_deleted": 2,
        "bytes_freed": 20,
        "drafts_deleted": 0,
        "dry_run": False,
    }
    assert (kept(engine, "old"), kept(engine, "young")) == (3, 5)


@requirement("tools.cleanup-ephemeral.retention", "tools.cleanup-ephemeral.keep-latest")
@pytest.mark.parametrize(
    ("retention", "left"),
    [
        ({"keep_versions": 2, "keep_days": 0}, 2),
        ({"keep_versions": 0, "keep_days": 0}, 1),
        ({"keep_versions": 0, "keep_days": 0, "keep_latest": False}, 0),
        ({"keep_versions": 0, "keep_days": 25, "keep_latest": False}, 2),
        ({"keep_versions": 4, "keep_days": 25}, 4),
        ('{"keep_versions": 2, "keep_days": 0}', 2),
        ("", 3),
    ],
)
async def test_a_version_stays_if_any_rule_keeps_it(ask: Asking, engine: Engine, retention: Any, left: int):
    """The newest, the young, the latest; 0 days disables the rule of age."""
    await store(engine, "note", 50, 40, 30, 20, 10)
    cleaned = await ask("cleanup_ephemeral", retention=retention)
    assert kept(engine, "note") == left
    assert cleaned["total_versions_deleted"] == 5 - left
    if left == 0:
        assert (cleaned["content_cleaned"][0]["oldest_kept"], cleaned["content_cleaned"][0]["latest_kept"]) == (
            None,
            None,
        )


@requirement("tools.cleanup-ephemeral.filter")
async def test_the_first_unknown_rule_is_named(ask: Asking):
    """By name, not by its place."""
    unknown = dict.fromkeys("hgfedcba", 1)
    error = await ask.refused("cleanup_ephemeral", "invalid_retention", retention=unknown)
    assert error["message"] == "retention has no rule 'a'."
    assert error["hint"] == "There are keep_versions, keep_days, keep_latest."


async def test_a_filter_narrows_what_is_deleted(ask: Asking, engine: Engine):
    """To some contents, and to versions older than a number of days."""
    nothing = {"keep_versions": 0, "keep_days": 0, "keep_latest": False}
    await store(engine, "a", 50, 20)
    await store(engine, "b", 50, 20)
    narrowed = await ask("cleanup_ephemeral", retention=nothing, filter={"content_ids": ["a"], "older_than_days": 30})
    assert (kept(engine, "a"), kept(engine, "b")) == (1, 2)
    assert narrowed["total_content_checked"] == 1
    await ask("cleanup_ephemeral", retention=nothing, filter={"content_ids": None, "older_than_days": None})
    assert (kept(engine, "a"), kept(engine, "b")) == (0, 0)


@requirement("tools.cleanup-ephemeral.dry-run")
async def test_a_dry_run_reports_and_deletes_nothing(ask: Asking, engine: Engine):
    """With the same numbers."""
    await store(engine, "note", 50, 40, 30, 20, 10)
    planned = await ask("cleanup_ephemeral", dry_run=True)
    assert (planned["status"], planned["dry_run"], planned["total_versions_deleted"]) == ("dry_run", True, 2)
    assert kept(engine, "note") == 5
    done = await ask("cleanup_ephemeral")
    assert done["content_cleaned"] == planned["content_cleaned"]


@requirement("tools.cleanup-ephemeral.drafts", "storage.drafts-expire")
async def test_old_drafts_are_deleted_too(ask: Asking, engine: Engine, drafted: Any):
    """Drafts unchanged for thirty days, with their test outputs; a filtered clean-up leaves them."""
    old, young = await drafted(text("old", "x")), await drafted(text("young", "x"))
    await ask("test_config", draft_id=old, dry_run=False)
    draft = engine.store.draft(old)
    assert draft is not None
    before = format_timestamp(datetime.now(UTC) - timedelta(days=31))
    await engine.store.save_draft(msgspec.structs.replace(draft, created_at=before, updated_at=before))
    for ids in (["x"], list[str]()):
        assert (await ask("cleanup_ephemeral", filter={"content_ids": ids}))["drafts_deleted"] == 0
    assert (await ask("cleanup_ephemeral", dry_run=True))["drafts_deleted"] == 1
    assert engine.store.draft(old) is not None
    assert (await ask("cleanup_ephemeral"))["drafts_deleted"] == 1
    assert engine.store.draft(old) is None
    assert engine.store.draft(young) is not None
    assert engine.store.version_infos(old) == []


@requirement("storage.approved-stays")
async def test_the_newest_approved_text_stays(ask: Asking, engine: Engine):
    """Artifacts may select it, and it can't be generated again."""
    await store(engine, "note", 60, approved=True)
    await store(engine, "note", 50, 40, 30, 20)
    await ask("cleanup_ephemeral", retention={"keep_versions": 1, "keep_days": 0})
    assert [info.approved for info in engine.store.version_infos("note")] == [True, False]


@requirement("tools.cleanup-ephemeral.errors", "tools.error.invalid-retention")
async def test_a_wrong_retention_is_named(ask: Asking, engine: Engine):
    """By field, value and constraint."""
    await store(engine, "note", 50, 40, 30, 20, 10)
    for field, value in (
        ("keep_versions", -1),
        ("keep_versions", 1.5),
        ("keep_versions", True),
        ("keep_versions", "3"),
        ("keep_days", -1),
        ("keep_days", None),
        ("keep_latest", 1),
        ("keep_latest", "yes"),
        ("keep_forever", True),
    ):
        wrong = await ask.refused("cleanup_ephemeral", "invalid_retention", retention={field: value})
        assert (wrong["details"]["field"], wrong["details"]["value"]) == (field, value)
        constraint = {"keep_latest": "true or false", "keep_forever": "a known rule"}
        assert wrong["details"]["constraint"] == constraint.get(field, "a whole number, 0 or more")
        assert wrong["details"]["constraint"]
    for retention in ("x", [1], 5):
        wrong = await ask.refused("cleanup_ephemeral", "invalid_context", retention=retention)
        assert wrong["details"]["parameter"] == "retention"
    for filter in ({"older_than_days": -1}, {"content_ids": "a"}, {"other": 1}, [1]):
        await ask.refused("cleanup_ephemeral", "invalid_input", filter=filter)
    assert kept(engine, "note") == 5


@requirement("tools.cleanup-ephemeral.errors", "tools.error.storage-error")
async def test_a_store_that_refuses_is_a_storage_error(ask: Asking, engine: Engine, tmp_path: Path):
    """With its reason and path."""
    engine.store.close()
    engine.store = FailingStore(tmp_path / "full.db")
    await SqliteStore.add_version(engine.store, _version("note"))
    retention = {"keep_versions": 0, "keep_days": 0, "keep_latest": False}
    failed = await ask.refused("cleanup_ephemeral", "storage_error", retention=retention)
    assert failed["details"] == FULL
    engine.store.close()


def _version(content_id: str) -> Version:
    return Version(
        content_id=content_id,
        body="x",
        sha256=sha256(b"x"),
        fingerprint="sha256:x",
        generator="demonstration",
        generator_version="1",
        generated_at="2026-01-01T00:00:00.000Z",
    )


# -- delete_content ---------------------------------------------------------------------------------------------

DELETED = (
    *("status", "content_id", "versions_deleted", "bytes_freed", "metadata_preserved", "references"),
    *("warnings", "duration_ms"),
)


@requirement("tools.delete-content.result")
@pytest.mark.parametrize("arguments", [{}, {"preserve_metadata": None, "force": None}, {"force": False}])
async def test_delete_content(ask: Asking, project: Project, engine: Engine, arguments: dict[str, Any]):
    """Every stored text is deleted; the config stays and can be generated again."""
    project.save(text("note", "hello"))
    await store(engine, "note", 3)
    await ask("generate_content", content_config_id="note", force=True)
    assert taken(await ask("delete_content", content_id="note", **arguments), *DELETED) == {
        "status": "deleted",
        "content_id": "note",
        "versions_deleted": 2,
        "bytes_freed": 15,
        "metadata_preserved": False,
        "references": {"artifact_ids": [], "count": 0},
        "warnings": [],
    }
    assert engine.store.version_infos("note") == []
    assert (await ask("generate_content", content_config_id="note"))["status"] == "generated"


@requirement("tools.delete-content.preserve-metadata")
async def test_delete_content_may_keep_metadata(ask: Asking, engine: Engine):
    """The bodies are deleted; a second time there is no text left to delete."""
    await store(engine, "note", 3, 2)
    gone = await ask("delete_content", content_id="note", preserve_metadata=True)
    assert (gone["versions_deleted"], gone["bytes_freed"], gone["metadata_preserved"]) == (2, 20, True)
    infos = engine.store.version_infos("note")
    assert [(info.deleted, info.size) for info in infos] == [(True, 0), (True, 0)]
    assert infos[0].generator == "demonstration"
    error = await ask.refused("delete_content", "content_not_found", content_id="note", preserve_metadata=True)
    assert error["message"] == "No text of 'note' is stored."
    assert (await ask("delete_content", content_id="note"))["versions_deleted"] == 0
    await ask.refused("delete_content", "content_not_found", content_id="note")


@requirement("tools.delete-content.references", "tools.error.referenced-by-artifacts")
async def test_what_artifacts_use_is_not_deleted_unless_forced(ask: Asking, project: Project, engine: Engine):
    """Artifacts of both layouts count; with force they become warnings."""
    project.save(artifact("flat", [child("note")]))
    nested = artifact("nested", [child("other"), child("note")])
    project.write("configs/artifact/nested/nested-artifact.json", msgspec.json.encode(nested))
    project.write("configs/artifacts/old-artifact.json", msgspec.json.encode(artifact("old", [child("note")])))
    project.save(text("note", "x"), artifact("path", [{"id": "by-another-name", "path": "configs/content/note.json"}]))
    project.save(artifact("broken", [child("gone")]))
    await store(engine, "note", 3)
    refused = await ask.refused("delete_content", "referenced_by_artifacts", content_id="note")
    assert refused["details"] == {"content_id": "note", "artifact_ids": ["flat", "nested", "old", "path"]}
    assert kept(engine, "note") == 1
    forced = await ask("delete_content", content_id="note", force=True)
    assert forced["references"] == {"artifact_ids": ["flat", "nested", "old", "path"], "count": 4}
    assert len(forced["warnings"]) == 4
    assert "flat" in forced["warnings"][0]
    assert kept(engine, "note") == 0


@requirement("tools.delete-content.errors")
async def test_deleting_fails_with_the_codes_of_the_reference(ask: Asking, engine: Engine, tmp_path: Path):
    """Each with the documented details."""
    gone = await ask.refused("delete_content", "content_not_found", content_id="gone")
    assert gone["details"] == {"content_id": "gone"}
    for content_id in NO_IDS:
        await ask.refused("delete_content", "invalid_config_id", content_id=content_id)
    for arguments in ({}, {"content_id": None}, {"content_id": "a", "force": "yes"}):
        await ask.refused("delete_content", "invalid_input", **arguments)
    full = FailingStore(tmp_path / "full.db")
    engine.store.close()
    engine.store = full
    await SqliteStore.add_version(full, _version("note"))
    failed = await ask.refused("delete_content", "deletion_failed", content_id="note")
    assert failed["details"] == {"content_id": "note", **FULL}
    full.close()
