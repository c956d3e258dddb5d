"""`chora migrate`."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chora.cli import program
from tests.conftest import Project

Run = Callable[..., Result]


@pytest.fixture
def run(hello: Project) -> Run:
    """Run a command in the sample project."""

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(program, ["--project", str(hello.root), *arguments])
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_everything_is_migrated_and_the_new_setting_is_reported(run: Run, hello: Project):
    """Afterwards the project goes on with the other backend."""
    run("assemble", "hello")
    result = run("migrate", "--to", "filesystem")
    assert "versions\t1\t0" in result.stdout
    assert '[storage]\nbackend = "filesystem"\n' in result.stderr
    assert "Everything is copied." in result.stderr
    assert "Everything is copied." not in result.stdout, "which other programs read"
    hello.write("chora.toml", '[storage]\nbackend = "filesystem"\n')
    assert json.loads(run("generate", "greeting", "--json").stdout)["status"] == "skipped"
    assert json.loads(run("assemble", "hello", "--json").stdout)["status"] == "skipped"
    assert len(list((hello.root / "ephemeral" / "content" / "greeting" / "v1").iterdir())) == 2
    assert "own data" in run("assemble", "hello", "-o", "ephemeral/hello.md", code=4).stderr
    back = json.loads(run("migrate", "--to", "sqlite", "--json").stdout)
    assert (back["success"], back["from"], back["to"]) == (True, "filesystem", "sqlite")
    assert back["kinds"]["versions"] == {"total": 1, "copied": 0, "already_there": 1}
    assert back["write"] == '[storage]\nbackend = "sqlite"\n'


def test_a_dry_run_makes_no_files(run: Run, hello: Project):
    """It reports the counts, and no setting to write."""
    run("generate", "greeting")
    result = run("migrate", "--to", "filesystem", "--dry-run")
    assert "versions\t1\t0" in result.stdout
    assert "chora.toml" not in result.stderr
    assert not (hello.root / "ephemeral").exists()
    run("migrate", "--to", "filesystem")
    again = json.loads(run("migrate", "--to", "filesystem", "--dry-run", "--json").stdout)
    assert again["dry_run"] is True
    assert {kind: moved["copied"] for kind, moved in again["kinds"].items() if moved["copied"]} == {}


def test_a_dry_run_says_would(run: Run, monkeypatch: pytest.MonkeyPatch):
    """The column header is "Would copy" instead of "Copied"."""
    headings: list[tuple[str, ...]] = []
    monkeypatch.setattr("chora.cli.migrate.print_table", lambda names, rows: headings.append(names))
    run("generate", "greeting")
    run("migrate", "--to", "filesystem", "--dry-run")
    run("migrate", "--to", "filesystem")
    assert [names[1] for names in headings] == ["Would copy", "Copied"]
    assert json.loads(run("migrate", "--to", "filesystem", "--json").stdout)["dry_run"] is False


def test_the_current_backend_is_refused_as_target(run: Run, hello: Project):
    """And so is memory, which keeps nothing."""
    assert "sqlite already" in run("migrate", "--to", "sqlite", code=2).stderr
    hello.write("chora.toml", '[storage]\nbackend = "memory"\n')
    error: dict[str, Any] = json.loads(run("migrate", "--to", "sqlite", "--json", code=2).stdout)["error"]
    assert error["code"] == "usage_error"
    assert error["details"] == {"backend": "memory"}
    assert run("migrate", "--to", "memory", code=2)
    assert run("migrate", code=2)


def test_a_different_text_under_the_same_id_is_an_error(run: Run, hello: Project):
    """It is named, and the exit code is that of a failure."""
    run("generate", "greeting")
    run("migrate", "--to", "filesystem")
    [file] = (hello.root / "ephemeral" / "content" / "greeting" / "v1").glob("20*.json")
    document = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**document, "content": "forged"}), "utf-8")
    error: dict[str, Any] = json.loads(run("migrate", "--to", "filesystem", "--json", code=1).stdout)["error"]
    assert error["code"] == "migration_failed"
    assert error["details"]["differences"][0]["problem"] == "another text"


def test_progress_is_shown_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch):
    """One line per kind, updated in place; none without a terminal."""
    run("generate", "greeting")
    assert "versions 1 of 1" not in run("migrate", "--to", "filesystem", "--dry-run").stderr
    real = CliRunner.invoke

    def on_a_terminal(*arguments: Any, **how: Any) -> Result:
        with monkeypatch.context() as patched:
            patched.setattr(
                "chora.cli.migrate.sys", type("Sys", (), {"stderr": type("E", (), {"isatty": lambda _: True})()})
            )
            return real(*arguments, **how)

    monkeypatch.setattr(CliRunner, "invoke", on_a_terminal)
    assert "versions 1 of 1\n" in run("migrate", "--to", "filesystem").stderr
    assert "versions 1 of 1" not in run("migrate", "--to", "filesystem", "--json").stderr
