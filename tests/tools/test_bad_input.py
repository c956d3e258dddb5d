"""Invalid input is an error with a code and a hint; nothing on disk changes, and the server goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from chora import settings
from chora.engine.engine import open_engine
from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged


class Wrong(NamedTuple):
    """A call that fails: the setup, the arguments, and what the error says."""

    prepare: Callable[[Project], object]
    tool: str
    arguments: dict[str, Any]
    code: str
    says: str


def saves(*documents: dict[str, Any]) -> Callable[[Project], object]:
    return lambda project: project.save(*documents)


def jinja(template: str, **parts: Any) -> dict[str, Any]:
    return content("note", pattern={"type": "jinja2", "template": template, **parts})


NOTE = {"content_config_id": "note"}
WRONG = {
    "broken JSON": Wrong(
        lambda project: project.write("configs/content/note.json", '{"type": "content",\n "id": }'),
        "generate_content",
        NOTE,
        "validation_failed",
        "configs/content/note.json is not JSON: '}' doesn't belong there in line 2, column 8.",
    ),
    "broken YAML": Wrong(
        lambda project: project.write("configs/content/note.yaml", "type: content\nid: [note"),
        "generate_content",
        NOTE,
        "validation_failed",
        "configs/content/note.yaml is not YAML",
    ),
    "config that does not fit": Wrong(
        lambda project: project.write("configs/content/note.json", '{"type": "content", "id": "note"}'),
        "preview_generation",
        NOTE,
        "validation_failed",
        "$.metadata is missing",
    ),
    "missing config": Wrong(
        saves(text("notes", "x")), "generate_content", NOTE, "config_not_found", "There is no content config 'note'."
    ),
    "unknown generator": Wrong(
        saves(content("note", pattern={"type": "oracle"})),
        "generate_content",
        NOTE,
        "generator_not_found",
        "there is no generator 'oracle'",
    ),
    "missing template": Wrong(
        saves(jinja("gone.j2")), "generate_content", NOTE, "generation_failed", "there is no template gone.j2"
    ),
    "missing included template": Wrong(
        saves(jinja("{% include 'gone.j2' %}")), "generate_content", NOTE, "generation_failed", "gone.j2"
    ),
    "undefined variable": Wrong(
        saves(jinja("{{ name }}")),
        "generate_content",
        NOTE,
        "generation_failed",
        "'name' is undefined at <inline>, line 1",
    ),
    "undefined name in a fill": Wrong(
        saves(content("note", pattern={"type": "template_fill", "template": "{{ a.b }}"})),
        "preview_generation",
        NOTE,
        "generation_failed",
        "no value for a.b",
    ),
    "endless template": Wrong(
        saves(jinja("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")),
        "generate_content",
        NOTE,
        "limit_exceeded",
        "",
    ),
    "context that isn't an object": Wrong(
        saves(text("note", "x")),
        "generate_content",
        {**NOTE, "context": [1]},
        "invalid_context",
        "context is of type array",
    ),
    "context that isn't JSON": Wrong(
        saves(text("note", "x")), "generate_content", {**NOTE, "context": "{name: x}"}, "invalid_context", "is not JSON"
    ),
    "missing source": Wrong(
        saves(
            content(
                "note",
                pattern={"type": "template_fill", "template": "x\n"},
                sources=[{"id": "a", "source_type": "external_file", "source_locator": "data/gone.json"}],
            )
        ),
        "generate_content",
        NOTE,
        "generation_failed",
        "the source a has no value: there is no file data/gone.json",
    ),
    "source outside the project": Wrong(
        saves(
            content(
                "note",
                pattern={"type": "template_fill", "template": "x\n"},
                sources=[{"id": "a", "source_type": "external_file", "source_locator": "../../etc/passwd"}],
            )
        ),
        "generate_content",
        NOTE,
        "generation_failed",
        "leads outside the project",
    ),
    "template outside the project": Wrong(
        saves(jinja("../gone.j2")), "generate_content", NOTE, "permission_denied", "leads outside the project"
    ),
    "output outside the project": Wrong(
        saves(text("note", "x"), artifact("sheet", [child("note")])),
        "assemble_artifact",
        {"artifact_config_id": "sheet", "output_path": "../sheet.md"},
        "permission_denied",
        "The path '../sheet.md' leads outside the project.",
    ),
    "configured output outside the project": Wrong(
        saves(text("note", "x"), artifact("sheet", [child("note")], {"file": "/tmp/sheet.md", "format": "text"})),
        "assemble_artifact",
        {"artifact_config_id": "sheet"},
        "permission_denied",
        "The path '/tmp/sheet.md' leads outside the project.",
    ),
    "a foreign file": Wrong(
        lambda project: (
            project.write("outputs/sheet.md", "mine"),
            project.save(text("note", "x"), artifact("sheet", [child("note")])),
        ),
        "assemble_artifact",
        {"artifact_config_id": "sheet", "force": True},
        "output_edited",
        "outputs/sheet.md exists and was not written by chora",
    ),
    "broken child": Wrong(
        lambda project: (
            project.write("configs/content/note.json", "{"),
            project.save(artifact("sheet", [child("note")])),
        ),
        "assemble_artifact",
        {"artifact_config_id": "sheet"},
        "validation_failed",
        "configs/content/note.json is not JSON",
    ),
    "argument that is not there": Wrong(
        saves(text("note", "x")),
        "generate_content",
        {**NOTE, "contxt": {}},
        "invalid_input",
        "Object contains unknown field `contxt`",
    ),
    "id that is a path": Wrong(
        saves(text("note", "x")), "generate_content", {"content_config_id": "../note"}, "invalid_config_id", "`..`"
    ),
    "draft that does not fit": Wrong(
        saves(),
        "draft_config",
        {"config_type": "content", "config_data": {"type": "content"}},
        "validation_error",
        "$.id is missing",
    ),
    "draft of another kind": Wrong(
        saves(),
        "draft_config",
        {"config_type": "artifact", "config_data": text("note", "x")},
        "validation_error",
        "This is a content config",
    ),
    "draft that is not there": Wrong(
        saves(),
        "save_config",
        {"draft_id": "draft-x", "config_id": "note"},
        "draft_not_found",
        "There is no draft 'draft-x'.",
    ),
}


@requirement("tools.error.validation-failed", "tools.error.permission-denied", "tools.error.output-edited")
@pytest.mark.parametrize("what", WRONG)
async def test_invalid_input_is_named(project: Project, ask: Asking, what: str):
    """The documented code, the fault in the message, a next step in the hint; the next call works."""
    wrong = WRONG[what]
    ask.engine.templates.pool._settings = settings.RenderSettings(wall=1.5)
    wrong.prepare(project)
    project.save(text("fine", "still here"))
    with unchanged(project):
        error = await ask.refused(wrong.tool, wrong.code, **wrong.arguments)
        assert wrong.says in error["message"]
    assert ask.engine.store.counts()["outputs"] == 0
    assert (await ask("generate_content", content_config_id="fine"))["content"] == "still here"


@requirement("rulings.c32")
async def test_a_project_without_settings_is_lenient(project: Project):
    """As chora-compose: an undefined name is empty, with a warning in the metadata."""
    (project.root / "chora.toml").unlink()
    project.save(jinja("<{{ name }}>"))
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        result = await Asking(engine)("generate_content", **NOTE)
    assert result["content"] == "<>"
    assert result["metadata"]["warnings"] == ["name is undefined and was rendered empty"]
