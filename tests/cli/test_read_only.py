"""A project whose folder can't be written, and what chora keeps in one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from chora.cli import program
from chora.errors import StorageError
from chora.events import FILES_KEPT, Events
from chora.settings import StorageSettings
from chora.store import open_store
from chora.store.reading import reading_store
from tests.conftest import Project, artifact, child, content, requirement, text
from tests.disks import Disk, small_disk
from tests.patience import PATIENCE

PACK = {
    "type": "collection",
    "id": "pack",
    "name": "Pack",
    "members": [{"id": "sheet", "type": "artifact", "path": "sheet.json"}],
    "output": {"base_path": "outputs/pack"},
}


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    with small_disk(tmp_path / "disk", "16m") as disk:
        yield disk


def run(root: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(program, ["--project", str(root), *arguments])
    assert result.exit_code == code, result.output
    return result


def fill(disk: Disk, settings: str = "") -> Project:
    project = Project(disk.root)
    project.write("chora.toml", settings)
    project.save(
        text("note", "x\n"),
        content("word", pattern={"type": "jinja2", "template": "{{ day }}\n"}),
        artifact("sheet", [child("note")]),
        PACK,
    )
    return project


@requirement("cli.read-only-folder")
@pytest.mark.slow("mounts disks, and runs twelve commands on each")
@pytest.mark.parametrize("state", ["built", "new", "files"])
def test_what_reads_works_in_a_folder_that_cannot_be_written(disk: Disk, tmp_path: Path, state: str):
    """Of a project that was built, in either backend, and of one that never was."""
    project = fill(disk, '[storage]\nbackend = "filesystem"\n' if state == "files" else "")
    if state != "new":
        run(project.root, "assemble", "sheet")
        run(project.root, "collect", "pack")
    disk.remount("ro")
    try:
        stale = 1 if state == "new" else 0
        for arguments in (("ls",), ("ls", "content"), ("ls", "collections"), ("tools",), ("trace", "sheet")):
            assert run(project.root, *arguments).stdout
        assert run(project.root, "preview", "word", "-c", "day=Friday").stdout == "Friday\n"
        assert run(project.root, "assemble", "sheet", "-o", "-").stdout == "x\n"
        run(project.root, "validate", "sheet")
        run(project.root, "validate", "pack", "--collection")
        run(project.root, "collect", "pack", "--plan")
        run(project.root, "collect", "pack", "--check", code=stale)
        run(project.root, "assemble", "sheet", "--check", code=stale)
        run(project.root, "freshness", "pack", code=3 if state == "new" else 0)
        if state != "new":
            assert "sheet" in run(project.root, "ls").stdout
        if state == "built":
            assert run(project.root, "backup", "--to", str(tmp_path / "backups")).stdout.endswith(".db\n")
        assert run(project.root, "generate", "note", code=1).stderr
    finally:
        disk.remount("rw")


@requirement("cli.read-only-folder")
def test_a_server_that_only_reads_starts_in_a_folder_that_cannot_be_written(disk: Disk):
    """With what is stored there."""
    project = fill(disk)
    run(project.root, "generate", "note")
    disk.remount("ro")
    messages = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "list_content", "arguments": {}}},
    ]
    command = [sys.executable, "-m", "chora", "--project", str(project.root), "stdio", "--read-only"]
    given = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
    ended = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE)
    disk.remount("rw")
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    listed = next(answer for answer in answers if answer.get("id") == 2)["result"]["structuredContent"]
    assert [each["id"] for each in listed["content"] if each["generated"]] == ["note"]


@requirement("cli.check.cannot-look")
@pytest.mark.parametrize("arguments", [("assemble", "sheet"), ("collect", "pack")])
def test_a_check_that_cannot_look_exits_2(
    project: Project, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    """Without --check it is a failure as any other."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]), PACK)
    project.write(".chora/storage.db", b"no database at all" * 100)
    assert run(project.root, *arguments, code=1).stderr
    assert json.loads(run(project.root, *arguments, "--check", "--json", code=2).stdout)["success"] is False


def test_what_was_copied_for_reading_is_gone_afterwards(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
):
    """And a store that changes while it is copied is an error in the end."""
    settings = StorageSettings()
    open_store(project.root, settings).close()
    monkeypatch.setattr("chora.store.reading.is_writable", lambda _: False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with reading_store(project.root, settings) as store:
        assert store.counts()["versions"] == 0
        assert list(tmp_path.glob("chora-reading-*"))
    assert not list(tmp_path.glob("chora-reading-*"))
    stamps = iter(range(100))
    monkeypatch.setattr("chora.store.reading._stamps", lambda _: next(stamps))
    with pytest.raises(StorageError, match="while it is being written"), reading_store(project.root, settings):
        pass


@requirement("cli.init.ignored")
def test_init_writes_what_git_should_ignore(tmp_path: Path):
    """Nothing that chora keeps for itself is shown by git; an existing file is kept."""
    run(tmp_path, "init", str(tmp_path / "new"))
    run(tmp_path / "new", "assemble", "hello")
    subprocess.run(["git", "init", "-q", tmp_path / "new"], check=True)
    (tmp_path / "new/configs/content/greeting.json.20260101T000000Z.backup").touch()
    command = ["git", "-C", tmp_path / "new", "status", "--porcelain", "-uall"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    assert sorted(line[3:] for line in shown if line) == [
        ".gitignore",
        "chora.toml",
        "configs/artifact/hello.json",
        "configs/content/greeting.json",
        "configs/templates/greeting.md.j2",
        "outputs/hello.md",
    ]


@requirement("events.rotated")
def test_the_event_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No line is lost or torn, and only the newest are kept."""
    monkeypatch.setattr("chora.events.FILE_LIMIT", 500)
    events = Events(tmp_path / "events.jsonl")
    for number in range(60):
        events.emit_event("tried", "success", number=number)
    files = sorted(tmp_path.iterdir(), key=lambda file: file.name)
    assert [file.name for file in files] == ["events.jsonl", *(f"events.jsonl.{n}" for n in range(1, FILES_KEPT + 1))]
    lines = [json.loads(line) for file in [*reversed(files[1:]), files[0]] for line in file.read_text().splitlines()]
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], 60))
    assert all(file.stat().st_size < 800 for file in files)
