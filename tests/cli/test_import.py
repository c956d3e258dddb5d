"""`chora import`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chora.cli import program
from chora.engine.legacy.conversion import convert
from tests.conftest import requirement

Run = Callable[..., Result]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A small chora-compose project, with a config in an old form and an unknown file."""
    root = tmp_path / "old"
    for path, body in {
        "configs/content/note.json": {
            "type": "content",
            "id": "note",
            "metadata": {"description": "A note", "version": "1.0.0"},
            "generation": {"patterns": [{"id": "make", "type": "jinja2", "template": "note.j2"}]},
        },
        "configs/content/other_one.json": {
            "content_id": "other_one",
            "generator_type": "jinja2",
            "template_path": "a.j2",
        },
        "ephemeral/content/note/v1/2025-10-15T10-15-00Z.json": {"content": "low water\n", "version": "1.0.0"},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(body))
    (root / "configs/templates").mkdir()
    (root / "configs/templates/note.j2").write_text("Hello {{ missing }}!")
    (root / "configs/content/stray.txt").write_text("stray")
    return root


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in an empty folder."""
    (tmp_path / "new").mkdir()

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(program, ["--project", str(tmp_path / "new"), *arguments])
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_an_imported_project_works(run: Run, old: Path):
    """Its configs generate texts, undefined names are empty as before, and its history is stored."""
    result = run("import", str(old))
    assert "copied configs/content/note.json" in result.stdout
    assert "versions: 1 imported, 0 already there" in result.stdout
    assert "lenient" in result.stdout
    assert "left out configs/content/stray.txt" in result.stderr
    assert "--convert" in result.stderr
    made = json.loads(run("generate", "note", "--json").stdout)
    assert made["content"] == "Hello !"
    assert made["status"] == "regenerated"
    again = run("import", str(old)).stdout
    assert "versions: 0 imported, 1 already there" in again
    assert "2 files already there" in again


def test_a_dry_run_writes_nothing(run: Run, old: Path, tmp_path: Path):
    """Not even an empty database."""
    result = run("import", str(old), "--dry-run", "--convert")
    assert "would be copied configs/content/note.json" in result.stdout
    assert "would be converted configs/content/other_one.json to" in result.stdout
    assert "versions: 1 would be imported" in result.stdout
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_conversion_changes_is_reported(run: Run, old: Path):
    """Every change, and every key that has no counterpart."""
    (old / "configs/artifact").mkdir()
    (old / "configs/artifact/a.json").write_text(
        json.dumps({"artifact_id": "a", "composition": {"members": ["note"], "glue": "-"}, "output_path": "a.md"})
    )
    result = run("import", str(old), "--convert")
    assert "  id: \"other-one\" instead of 'other_one'" in result.stdout
    assert "  can't be converted: composition.glue" in result.stdout
    assert json.loads(run("generate", "note", "--json").stdout)["success"] is True


def test_json_is_one_object(run: Run, old: Path, tmp_path: Path):
    """With everything that was done; a failure is one too."""
    said = json.loads(run("import", str(old), "--json", "--convert").stdout)
    assert said["success"] is True
    assert said["project"] == str(tmp_path / "new")
    assert sorted(said["copied"]) == ["configs/content/note.json", "configs/templates/note.j2"]
    assert [each["source"] for each in said["converted"]] == ["configs/content/other_one.json"]
    assert said["versions"] == {"imported": 1, "already_there": 0}
    assert [each["path"] for each in said["skipped"]] == ["configs/content/stray.txt"]
    error = json.loads(run("import", str(tmp_path / "none"), "--json", code=3).stdout)["error"]
    assert error["code"] == "project_not_found"


def test_strict_settings_are_warned_of(run: Run, old: Path, tmp_path: Path):
    """Templates that worked may fail under them; the warning says which setting decides that."""
    (tmp_path / "new" / "chora.toml").write_text("")
    assert "warning: The settings of this project" in run("import", str(old)).stderr
    (tmp_path / "new" / "chora.toml").write_text('[templates]\nundefined = "lenient"\n')
    assert "warning" not in run("import", str(old)).stderr


def test_a_project_imports_its_own_history(run: Run, old: Path):
    """DIR may be the project itself."""
    result = CliRunner().invoke(program, ["--project", str(old), "import", str(old)])
    assert result.exit_code == 0, result.output
    assert "versions: 1 imported" in result.stdout
    assert "copied" not in result.stdout
    assert (old / "chora.toml").is_file()


@requirement("import.in-place")
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_cannot_be_read_in_place_is_named(old: Path, dry_run: bool):
    """Configs in another dialect, files that are no configs, and files that are no JSON; what is read isn't."""
    contents = old / "configs/content"
    contents.mkdir(parents=True, exist_ok=True)
    (contents / "dialect.json").write_text('{"type": "content", "id": "dialect", "elements": {"a": "b"}}')
    (contents / "broken.json").write_text("{")
    (contents / "settings.yaml").write_text("nobody: knows\n")
    (contents / "README.txt").write_text("for people")
    arguments = ["--project", str(old), "import", str(old), *(["--dry-run"] if dry_run else [])]
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, result.output
    named = [line.split(":")[0].removeprefix("left out ") for line in result.stderr.splitlines() if "left out" in line]
    assert {f"configs/content/{name}" for name in ("dialect.json", "broken.json", "settings.yaml")} <= set(named)
    assert "README.txt" not in result.stderr
    assert "--convert may help" in result.stderr


@requirement("import.example-output")
@pytest.mark.parametrize(
    ("example", "written"),
    [
        ({"a": [1, "ü"]}, '{\n  "a": [\n    1,\n    "ü"\n  ]\n}'),
        ([1], "[\n  1\n]"),
        (3, "3"),
        (True, "true"),
        ("x", "x"),
    ],
)
def test_an_example_that_is_data_becomes_text(example: Any, written: str):
    """Which is what the config is written with by hand; the change is reported."""
    element = {"name": "part", "format": "json", "example_output": example}
    document = {"type": "content", "id": "note", "elements": [element]}
    conversion = convert("content", document, "configs/content/note.json")
    assert conversion.document["elements"][0]["example_output"] == written
    assert any("example_output" in change for change in conversion.changes) is not isinstance(example, str)
