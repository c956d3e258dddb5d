"""`chora backup` and `chora restore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chora.cli import program
from chora.store.salvage import SalvageResult
from tests.cli.test_doctor import fill
from tests.conftest import Project


def run(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(program, ["--project", str(project.root), *arguments])


def json_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_says_whether_the_backup_was_restored(hello: Project):
    """Not when it was only verified; then nothing is replaced either."""
    backup = latest(hello)
    verified = json_of(run(hello, "restore", "--verify", "--json", str(backup)))
    assert (verified["success"], verified["restored"], verified["replaced"]) == (True, False, None)
    restored = json_of(run(hello, "restore", "--json", str(backup)))
    assert (restored["success"], restored["restored"]) == (True, True)
    assert Path(restored["replaced"]).exists()


def versions(project: Project) -> int:
    return json_of(run(project, "restore", "--verify", "--json", str(latest(project))))["counts"]["versions"]


def latest(project: Project) -> Path:
    return Path(json_of(run(project, "backup", "--json"))["path"])


def test_a_backup_is_restored(hello: Project):
    """With JSON and with text output; the replaced database is kept and named."""
    assert run(hello, "generate", "greeting").exit_code == 0
    first = latest(hello)
    assert run(hello, "generate", "greeting", "-c", "name=Ada").exit_code == 0
    assert versions(hello) == 2
    assert "holds 1 version," in run(hello, "restore", "--verify", str(first)).output
    done = run(hello, "restore", str(first))
    assert (done.exit_code, "restored 1 version," in done.output, "is kept in" in done.output) == (0, True, True)
    assert versions(hello) == 1
    result = run(hello, "backup", "--keep", "1")
    assert (result.exit_code, "verified" in result.output) == (0, True)
    assert len(list((hello.root / ".chora/backups").glob("storage-*.db"))) == 1


def test_the_hint_about_a_damaged_backup_works(hello: Project, tmp_path: Path):
    """It names an existing command, and what that saves can be restored."""
    fill(hello, 60)
    backup = latest(hello)
    data = bytearray(backup.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 2 * 4096] = b"\xff" * (2 * 4096)
    backup.write_bytes(data)
    refused = run(hello, "restore", "--json", str(backup))
    assert refused.exit_code == 1
    assert "`chora restore --salvage`" in json.loads(refused.stdout)["error"]["hint"]
    saved = tmp_path / "saved.db"
    done = json_of(run(hello, "restore", "--salvage", str(saved), "--json", str(backup)))
    assert 30 < done["saved"]["versions"] <= 60
    again = run(hello, "restore", "--salvage", str(saved), str(backup))
    assert (again.exit_code, "exists already" in again.output) == (4, True)
    result = run(hello, "restore", "--salvage", str(tmp_path / "other.db"), str(backup))
    assert (result.exit_code, "rows are missing" in result.output) == (0, bool(done["lost"]))
    assert run(hello, "restore", str(saved)).exit_code == 0


@pytest.mark.parametrize("option", [[], ["--verify"], ["--salvage", "new.db"]])
def test_a_missing_backup_is_reported(hello: Project, option: list[str]):
    """And no file is created in its place."""
    done = run(hello, "restore", *option, str(hello.root / "none.db"))
    assert (done.exit_code, "There is no file" in done.output) == (3, True)
    assert not (hello.root / "none.db").exists()
    done = run(hello, "restore", *option, str(hello.root))
    is_salvage = option == ["--salvage", "new.db"]
    assert (done.exit_code, "There is no file" in done.output) == (3 if is_salvage else 1, is_salvage)


def test_a_salvage_names_what_is_missing_in_order(hello: Project, monkeypatch: pytest.MonkeyPatch):
    """The kinds of records that are incomplete, as JSON and in a sentence; nothing is said when nothing is missing."""
    damaged = latest(hello)

    def salvage(lost: dict[str, int]) -> None:
        done = SalvageResult(hello.root / "new.db", {"versions": 2, "drafts": 1}, lost)
        monkeypatch.setattr("chora.store.salvage.salvage_database", lambda damaged, target: done)

    salvage({"versions": 1, "drafts": 3, "outputs": 2})
    done = json_of(run(hello, "restore", "--salvage", "new.db", "--json", str(damaged)))
    assert done == {
        "success": True,
        "path": str(hello.root / "new.db"),
        "saved": {"versions": 2, "drafts": 1},
        "lost": ["drafts", "outputs", "versions"],
    }
    result = run(hello, "restore", "--salvage", "new.db", str(damaged))
    assert result.stdout == f"{hello.root / 'new.db'}\n"
    assert result.stderr == (
        f"saved 2 versions, 1 draft; `chora restore {hello.root / 'new.db'}` puts it in place\n"
        "rows are missing from drafts, outputs, versions\n"
    )
    salvage({})
    result = run(hello, "restore", "--salvage", "new.db", str(damaged))
    assert "missing" not in result.output
