"""trace_dependencies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged
from tests.tools.answers import NO_IDS, STAMP, taken

TRACED = (
    *("artifact_id", "status", "total_dependencies", "ready", "missing", "dependencies", "assembly_order"),
    *("missing_content_ids", "stale_because", "duration_ms"),
)


@pytest.fixture
def sheet(project: Project) -> Project:
    """An artifact with an existing child, an optional one, and one without a config."""
    project.save(
        text("intro", "x"),
        text("more", "y"),
        artifact(
            "sheet",
            [
                child("more", order=2, required=False, retrievalStrategy="approved_only"),
                child("intro", order=1),
                child("gone", order=3, required=False),
            ],
        ),
    )
    return project


@requirement("tools.trace-dependencies.result", "tools.trace-dependencies.status")
@pytest.mark.parametrize("arguments", [{}, {"check_status": None, "show_metadata": None}, {"check_status": True}])
async def test_trace_dependencies(ask: Asking, sheet: Project, arguments: dict[str, Any]):
    """In the order of assembly, with the stored versions of each and what is missing."""
    with unchanged(sheet):
        result = taken(await ask("trace_dependencies", artifact_config_id="sheet", **arguments), *TRACED)
    errors = [each.pop("error") for each in result["dependencies"]]
    assert (errors[0], errors[1]) == (None, None)
    assert "gone" in errors[2]
    common = {"stale_because": [], "metadata": None}
    assert result == {
        "artifact_id": "sheet",
        "status": "incomplete",
        "total_dependencies": 3,
        "ready": 0,
        "missing": 3,
        "dependencies": [
            {
                "content_id": "intro",
                "path": "configs/content/intro.json",
                "required": True,
                "status": "missing",
                "order": 1,
                "retrieval_strategy": "latest",
                **common,
            },
            {
                "content_id": "more",
                "path": "configs/content/more.json",
                "required": False,
                "status": "missing",
                "order": 2,
                "retrieval_strategy": "approved_only",
                **common,
            },
            {
                "content_id": "gone",
                "path": "configs/content/gone.json",
                "required": False,
                "status": "missing",
                "order": 3,
                "retrieval_strategy": "latest",
                **common,
            },
        ],
        "assembly_order": ["intro", "more", "gone"],
        "missing_content_ids": ["intro", "more", "gone"],
        "stale_because": ["it was never assembled"],
    }


@requirement("tools.trace-dependencies.status", "tools.trace-dependencies.missing-ids")
async def test_missing_contents_can_be_passed_to_batch_generate(ask: Asking, sheet: Project):
    """Then the artifact is ready; optional ones without a config don't matter."""
    traced = await ask("trace_dependencies", artifact_config_id="sheet")
    await ask("batch_generate", content_ids=traced["missing_content_ids"])
    again = await ask("trace_dependencies", artifact_config_id="sheet")
    assert (again["status"], again["ready"], again["missing"]) == ("ready", 2, 1)
    assert again["missing_content_ids"] == ["gone"]
    sheet.save(artifact("sheet", [child("intro"), child("gone")]))
    assert (await ask("trace_dependencies", artifact_config_id="sheet"))["status"] == "missing_config"
    sheet.save(artifact("sheet", [child("intro")]))
    whole = await ask("trace_dependencies", artifact_config_id="sheet")
    assert (whole["status"], whole["missing_content_ids"]) == ("ready", None)


@requirement("tools.trace-dependencies.missing-ids")
async def test_a_child_with_another_id_is_traced_by_the_id_inside(ask: Asking, project: Project):
    """The path decides which config is meant, and the listed id can be generated."""
    project.save(text("note", "x"), artifact("sheet", [{"id": "intro", "path": "configs/content/note.json"}]))
    traced = await ask("trace_dependencies", artifact_config_id="sheet")
    assert traced["missing_content_ids"] == traced["assembly_order"] == ["note"]
    await ask("batch_generate", content_ids=traced["missing_content_ids"])
    assert (await ask("trace_dependencies", artifact_config_id="sheet"))["status"] == "ready"


@requirement("tools.trace-dependencies.check-status")
async def test_without_a_check_the_status_is_unknown(ask: Asking, sheet: Project):
    """Nothing is looked up."""
    result = await ask("trace_dependencies", artifact_config_id="sheet", check_status=False)
    assert result["status"] == "unknown"
    assert {each["status"] for each in result["dependencies"]} == {"unknown"}
    assert (result["ready"], result["missing"], result["stale_because"]) == (0, 0, [])


@requirement("tools.trace-dependencies.metadata", "tools.trace-dependencies.stale-because")
async def test_trace_dependencies_says_what_has_changed(ask: Asking, project: Project):
    """An edited template is named, for the text and for the file."""
    project.write("configs/templates/a.j2", "one")
    project.save(content("note", pattern={"type": "jinja2", "template": "a.j2"}), artifact("sheet", [child("note")]))
    await ask("assemble_artifact", artifact_config_id="sheet")
    fresh = await ask("trace_dependencies", artifact_config_id="sheet", show_metadata=True)
    (note,) = fresh["dependencies"]
    assert (note["stale_because"], fresh["stale_because"]) == ([], [])
    metadata = note["metadata"]
    assert STAMP.fullmatch(metadata["last_generated"])
    assert (metadata["generator_type"], metadata["versions_available"]) == ("jinja2", 1)
    assert "configs/content/note.json" in metadata["inputs"]
    assert metadata["inputs"] == sorted(metadata["inputs"])
    assert len(metadata["inputs"]) > 1
    assert "configs/templates/a.j2" in metadata["inputs"]
    project.write("configs/templates/a.j2", "two")
    stale = await ask("trace_dependencies", artifact_config_id="sheet")
    assert any("configs/templates/a.j2" in reason for reason in stale["dependencies"][0]["stale_because"])
    assert any("configs/templates/a.j2" in reason for reason in stale["stale_because"])


@requirement("tools.trace-dependencies.errors")
async def test_tracing_fails_with_the_codes_of_the_reference(ask: Asking, project: Project):
    """Each with the documented details."""
    gone = await ask.refused("trace_dependencies", "config_not_found", artifact_config_id="gone")
    assert gone["details"]["artifact_config_id"] == "gone"
    assert "configs/artifact/gone.json" in gone["details"]["searched_paths"]
    for config_id in NO_IDS:
        await ask.refused("trace_dependencies", "invalid_config_id", artifact_config_id=config_id)
    project.write("configs/artifact/bad.json", '{"type": "artifact", "id": "bad"}')
    bad = await ask.refused("trace_dependencies", "validation_failed", artifact_config_id="bad")
    assert {each["path"] for each in bad["details"]["schema_errors"]} >= {"$.metadata", "$.content"}
    for arguments in ({}, {"artifact_config_id": None}, {"artifact_config_id": "a", "check_status": "yes"}):
        await ask.refused("trace_dependencies", "invalid_input", **arguments)
