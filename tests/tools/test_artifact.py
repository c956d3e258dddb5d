"""assemble_artifact."""

from __future__ import annotations

import errno
import os
from typing import Any

import msgspec
import pytest

from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged
from tests.tools.answers import CONTEXTS, NO_CONTEXTS, NO_IDS, STAMP, taken

ASSEMBLED = ("artifact_id", "output_path", "content_count", "size_bytes", "status", "duration_ms", "metadata")
SHEET: dict[str, Any] = {"artifact_config_id": "sheet", "context": {"name": "Ada"}}


@requirement(
    "tools.assemble-artifact.result",
    "tools.assemble-artifact.optional-child",
    "tools.assemble-artifact.generates-missing",
    "tools.context.object-or-string",
)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"output_path": None, "force": None, "dry_run": None}])
async def test_assemble_artifact(ask: Asking, greeting: Project, context: Any, arguments: dict[str, Any]):
    """The file and all fields of the result."""
    greeting.save(
        artifact(
            "sheet",
            [
                child("gone", required=False),
                child("greeting"),
                child("end"),
                child("night", conditions="is_night is defined"),
            ],
        ),
        text("end", "ü\n"),
        text("night", "dark"),
    )
    result = taken(await ask("assemble_artifact", artifact_config_id="sheet", context=context, **arguments), *ASSEMBLED)
    warnings, generated_at = result["metadata"].pop("warnings"), result["metadata"].pop("generated_at")
    assert STAMP.fullmatch(generated_at)
    assert result == {
        "artifact_id": "sheet",
        "output_path": "outputs/sheet.md",
        "content_count": 2,
        "size_bytes": len("Hello Ada!\n\nü\n".encode()),
        "status": "assembled",
        "metadata": {
            "missing_content": ["gone"],
            "generated_content": ["greeting", "end"],
            "composition_strategy": "concat",
            "components": [{"content_id": "greeting", "size_bytes": 10}, {"content_id": "end", "size_bytes": 3}],
            "separator": "\n\n",
            "outputs": ["outputs/sheet.md"],
            "excluded_content": ["night"],
            "plan": [],
            "conflicts": [],
            "orphans": {"count": 0, "files": []},
        },
    }
    assert len(warnings) == 1
    assert warnings[0].startswith("The optional child gone was left out: ")
    assert greeting.read("outputs/sheet.md") == "Hello Ada!\n\nü\n"


@requirement("tools.assemble-artifact.status", "tools.assemble-artifact.force", "tools.assemble-artifact.output-path")
async def test_assemble_artifact_again(ask: Asking, greeting: Project):
    """Skipped, reassembled, forced, elsewhere."""
    first = await ask("assemble_artifact", **SHEET)
    again = await ask("assemble_artifact", **SHEET)
    assert (again["status"], again["metadata"]["generated_content"]) == ("skipped", [])
    assert again["metadata"]["generated_at"] == first["metadata"]["generated_at"]
    assert again["metadata"]["components"] == first["metadata"]["components"]
    forced = await ask("assemble_artifact", **SHEET, force=True)
    assert (forced["status"], forced["metadata"]["generated_content"]) == ("reassembled", ["greeting"])
    elsewhere = await ask("assemble_artifact", **SHEET, output_path="deep/er/x.md")
    assert (elsewhere["status"], elsewhere["output_path"]) == ("assembled", "deep/er/x.md")
    assert greeting.read("deep/er/x.md") == "Hello Ada!"


@requirement("outputs.first-is-primary")
async def test_output_path_replaces_the_first_output_only(ask: Asking, greeting: Project):
    """Every output is written, and the result names the first one."""
    outputs = [{"file": "outputs/a.md", "format": "markdown"}, {"file": "outputs/a.txt", "format": "text"}]
    greeting.save(artifact("two", [child("greeting")], *outputs))
    made = await ask("assemble_artifact", artifact_config_id="two", context={"name": "x"}, output_path="outputs/b.md")
    assert (made["output_path"], made["metadata"]["outputs"]) == ("outputs/b.md", ["outputs/b.md", "outputs/a.txt"])
    assert greeting.read("outputs/a.txt") == greeting.read("outputs/b.md")
    assert not (greeting.root / "outputs/a.md").exists()


@requirement("tools.assemble-artifact.dry-run")
async def test_a_dry_run_reports_what_would_be_written(ask: Asking, greeting: Project, engine: Engine):
    """File by file with action, reasons and difference; nothing is written or stored."""
    with unchanged(greeting):
        planned = taken(await ask("assemble_artifact", **SHEET, dry_run=True), *ASSEMBLED)
    assert planned["status"] == "assembled"
    assert (planned["content_count"], planned["size_bytes"]) == (1, 10)
    (file,) = planned["metadata"]["plan"]
    assert (file["path"], file["action"], file["reasons"]) == (
        "outputs/sheet.md",
        "create",
        ["it was never assembled"],
    )
    assert "+Hello Ada!" in file["diff"]
    assert engine.store.counts()["versions"] == 0

    await ask("assemble_artifact", **SHEET)
    unmoved = await ask("assemble_artifact", **SHEET, dry_run=True)
    assert (unmoved["status"], unmoved["metadata"]["plan"][0]["action"]) == ("skipped", "unchanged")

    greeting.save(content("greeting", pattern={"type": "template_fill", "template": "Goodbye {{ name }}!"}))
    with unchanged(greeting):
        changed = await ask("assemble_artifact", **SHEET, dry_run=True)
    (file,) = changed["metadata"]["plan"]
    assert (changed["status"], file["action"]) == ("reassembled", "update")
    assert "configs/content/greeting.json" in file["reasons"][0]
    assert "-Hello Ada!" in file["diff"]
    assert "+Goodbye Ada!" in file["diff"]

    greeting.write("outputs/sheet.md", "mine")
    edited = await ask("assemble_artifact", **SHEET, dry_run=True)
    assert edited["metadata"]["plan"][0]["action"] == "refuse"


@requirement("tools.progress")
async def test_assemble_artifact_reports_its_progress(greeting: Project, engine: Engine):
    """To the caller."""
    steps: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        steps.append((done, total, what))

    arguments = msgspec.json.encode({"artifact_config_id": "sheet", "context": {"name": "x"}})
    await TOOLS["assemble_artifact"].run_tool(engine, arguments, Call("cli", progress=progress))
    assert steps == [(1, 1, "greeting")]


@requirement(
    "tools.assemble-artifact.errors",
    "tools.error.config-not-found",
    "tools.error.missing-content",
    "tools.error.composition-failed",
    "tools.error.write-failed",
    "tools.error.output-edited",
    "tools.error.permission-denied",
)
async def test_assembling_fails_with_the_codes_of_the_reference(ask: Asking, greeting: Project):
    """Each with the documented details."""
    missing = await ask.refused("assemble_artifact", "config_not_found", artifact_config_id="gone")
    assert missing["details"]["artifact_config_id"] == "gone"
    assert "configs/artifact/gone.json" in missing["details"]["searched_paths"]
    assert "configs/artifact/gone/gone-artifact.json" in missing["details"]["searched_paths"]

    greeting.save(artifact("a", [child("no"), child("greeting"), child("nor")]))
    needed = await ask.refused("assemble_artifact", "missing_content", artifact_config_id="a", context={"name": "x"})
    assert needed["details"]["missing_content_ids"] == ["no", "nor"]
    assert needed["details"]["available_content_ids"] == ["greeting"]

    greeting.save(artifact("b", [child("greeting")], compositionStrategy="custom"))
    composed = await ask.refused(
        "assemble_artifact", "composition_failed", artifact_config_id="b", context={"name": "x"}
    )
    assert composed["details"]["composition_strategy"] == "custom"
    assert composed["details"]["content_pieces"] == ["greeting"]
    assert composed["details"]["error_type"]

    greeting.write("file", "")
    greeting.write("folder/file", "")
    for path, number, kind in (("file/x.md", errno.ENOTDIR, "NotADirectory"), ("folder", errno.EISDIR, "IsADirectory")):
        for arguments in ({}, {"dry_run": True}) if path == "folder" else ({},):
            written = await ask.refused("assemble_artifact", "write_failed", **SHEET, output_path=path, **arguments)
            assert written["details"] == {"output_path": path, "errno": number, "error_type": f"{kind}Error"}
            assert written["hint"].startswith("Move the file or folder away")

    if hasattr(os, "mkfifo"):
        os.mkfifo(greeting.root / "pipe.md")
        await ask.refused("assemble_artifact", "permission_denied", **SHEET, output_path="pipe.md")

    greeting.write("mine.md", "mine")
    edited = await ask.refused("assemble_artifact", "output_edited", **SHEET, output_path="mine.md", force=True)
    assert edited["details"]["output_path"] == "mine.md"
    assert "-mine" in edited["details"]["diff"]

    await ask.refused("assemble_artifact", "permission_denied", **SHEET, output_path="../x.md")
    await ask.refused("assemble_artifact", "generation_failed", artifact_config_id="sheet")
    for context, received in NO_CONTEXTS:
        wrong = await ask.refused("assemble_artifact", "invalid_context", artifact_config_id="sheet", context=context)
        assert wrong["details"]["received_type"] == received
    for config_id in NO_IDS:
        await ask.refused("assemble_artifact", "invalid_config_id", artifact_config_id=config_id)
    for arguments in ({}, {"artifact_config_id": None}, {**SHEET, "force": 2}, {**SHEET, "output_path": 1}):
        await ask.refused("assemble_artifact", "invalid_input", **arguments)


@requirement("composition.merge.conflict", "tools.error.composition-failed")
async def test_a_clash_of_types_is_named_by_its_path(ask: Asking, project: Project):
    """As a JSONPath."""
    project.save(
        text("a", '{"port": {"depth": 4}}'),
        text("b", '{"port": {"depth": "four"}}'),
        artifact("sheet", [child("a"), child("b")], {"file": "o.json", "format": "json"}, compositionStrategy="merge"),
    )
    clash = await ask.refused("assemble_artifact", "composition_failed", artifact_config_id="sheet")
    assert clash["details"]["conflict_path"] == "$.port.depth"
    assert clash["details"]["composition_strategy"] == "merge"
