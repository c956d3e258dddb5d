"""list_edits and settle_edit, as an agent calls them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Asking, Project, artifact, child, content, requirement

WRITTEN = "one\ntwo\nthree\nfour\n"
EDITED = "one\ntwo\nthree, edited\nfour\n"


def save(project: Project, text: str) -> None:
    project.save(content("note", pattern={"type": "template_fill", "template": text}))
    project.save(*(artifact(f"sheet-{number:02}", [child("note")]) for number in range(60)))


@requirement("edits.tools")
async def test_edits_are_listed_page_by_page(ask: Asking, project: Project):
    """With a path, also what was changed; one file of which is nothing to say is an error."""
    save(project, WRITTEN)
    for number in range(55):
        await ask("assemble_artifact", artifact_config_id=f"sheet-{number:02}")
        project.write(f"outputs/sheet-{number:02}.md", EDITED)
    await ask("assemble_artifact", artifact_config_id="sheet-59")
    first = await ask("list_edits")
    assert (first["total"], len(first["edits"]), first["next_offset"], first["diff"]) == (55, 50, 50, None)
    rest = await ask("list_edits", offset=50)
    assert (len(rest["edits"]), rest["next_offset"]) == (5, None)
    one = await ask("list_edits", path="outputs/sheet-03.md")
    assert (one["total"], one["edits"][0]["artifact_id"], one["edits"][0]["changes"]) == (1, "sheet-03", "+0 -0 ~1")
    assert "-three\n+three, edited" in one["diff"]
    await ask.refused("list_edits", "content_not_found", path="outputs/sheet-59.md")
    await ask.refused("list_edits", "permission_denied", path="../x")


@requirement("edits.tools")
@pytest.mark.parametrize(
    ("action", "left", "after"),
    [
        ("accept", EDITED, "zero\n" + EDITED),
        ("merge", "zero\n" + EDITED, "zero\n" + EDITED),
        ("discard", WRITTEN, "zero\n" + WRITTEN),
    ],
)
async def test_an_edit_is_settled(ask: Asking, project: Project, action: str, left: str, after: str):
    """The file as it is then, and after the next build of the changed text."""
    save(project, WRITTEN)
    sheet: dict[str, Any] = {"artifact_config_id": "sheet-00"}
    await ask("assemble_artifact", **sheet)
    project.write("outputs/sheet-00.md", EDITED)
    save(project, "zero\n" + WRITTEN)
    settled = await ask("settle_edit", path="outputs/sheet-00.md", action=action)
    assert (settled["path"], settled["action"], settled["conflicts"]) == ("outputs/sheet-00.md", action, [])
    assert project.read("outputs/sheet-00.md") == left
    assert (settled["kept"] is not None) is (action == "discard")
    if settled["kept"]:
        assert project.read(settled["kept"]) == EDITED
    await ask("assemble_artifact", **sheet)
    assert project.read("outputs/sheet-00.md") == after
    if action == "discard":
        await ask.refused("settle_edit", "content_not_found", path="outputs/sheet-00.md", action=action)


@requirement("edits.tools")
async def test_an_edit_of_what_only_a_collection_writes_is_merged_by_its_build(ask: Asking, project: Project):
    """Merging says so."""
    save(project, WRITTEN)
    members = [{"id": "a", "type": "artifact", "path": "sheet-00"}]
    project.save({"type": "collection", "id": "all", "name": "All", "members": members, "output": {"base_path": "out"}})
    built = await ask("generate_collection", collection_config_path="all")
    path = built["members"][0]["output_path"]
    project.write(path, EDITED)
    settled = await ask("settle_edit", path=path, action="merge")
    assert "build its collection" in settled["message"]
    save(project, "zero\n" + WRITTEN)
    await ask("generate_collection", collection_config_path="all")
    assert project.read(path) == "zero\n" + EDITED
