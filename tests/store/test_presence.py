"""Where a store has been: it isn't begun anew over a missing disk, an empty file or a missing folder."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from chora.cli import program
from chora.errors import StorageError
from chora.hashing import sha256
from chora.settings import StorageSettings
from chora.store import Version, open_existing_store, open_store
from chora.store.backup import make_backup, restore_backup
from tests.conftest import Project, requirement

BACKENDS = ("sqlite", "filesystem")


def settings(backend: str = "sqlite", **rest: str) -> StorageSettings:
    return StorageSettings(backend=backend, **rest)  # pyright: ignore[reportArgumentType]


async def fill(project: Path, storage: StorageSettings) -> None:
    with contextlib.closing(open_store(project, storage)) as store:
        await store.add_version(
            Version(
                content_id="note",
                body="one",
                sha256=sha256(b"one"),
                fingerprint="f",
                generator="g",
                generator_version="1",
                generated_at="2026-01-01T00:00:00.000Z",
            )
        )


def place_of(project: Path, backend: str) -> Path:
    return project / (".chora/storage.db" if backend == "sqlite" else "ephemeral")


def remove(place: Path) -> None:
    """As if the disk weren't mounted."""
    shutil.rmtree(place.parent if place.name == "storage.db" else place)


def empty(place: Path) -> None:
    """An empty file; or the empty folder that a disk is mounted on."""
    if place.name == "storage.db":
        place.write_bytes(b"")
    else:
        shutil.rmtree(place)
        place.mkdir()


def remove_file(place: Path) -> None:
    if place.name == "storage.db":
        place.unlink()
    else:
        shutil.rmtree(place)


@requirement("storage.no-silent-start")
@pytest.mark.parametrize("lose", [remove, empty, remove_file])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_store_that_is_gone_is_not_begun_anew(tmp_path: Path, backend: str, lose: Callable[[Path], None]):
    """For reading neither: the error says since when it was there, and what to do; nothing is written."""
    await fill(tmp_path, settings(backend))
    place = place_of(tmp_path, backend)
    lose(place)
    before = sorted(tmp_path.rglob("*"))
    for opening in (open_store, open_existing_store):
        with pytest.raises(StorageError, match=r"it has been there since 20") as refused:
            opening(tmp_path, settings(backend))
        assert str(place) in refused.value.message
        assert "`chora restore BACKUP`" in (refused.value.hint or "")
        assert "`chora restore --empty`" in (refused.value.hint or "")
    assert sorted(tmp_path.rglob("*")) == before


@requirement("storage.no-silent-start")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_backup_is_restored_where_a_store_has_been(tmp_path: Path, backend: str):
    """Which is one of the ways on."""
    await fill(tmp_path, settings(backend))
    with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
        made = await make_backup(store, tmp_path / "backups")
    remove(place_of(tmp_path, backend))
    await restore_backup(tmp_path, settings(backend), made.path, tmp_path / "backups")
    with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
        assert [version.body for version in store.versions("note")] == ["one"]


@requirement("storage.no-silent-start")
@pytest.mark.parametrize("lose", [remove, empty, remove_file])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_empty_store_is_begun_on_request(project: Project, backend: str, lose: Callable[[Path], None]):
    """By the command that the error names; never over a store that is there."""
    project.write("chora.toml", f'[storage]\nbackend = "{backend}"\n')
    await fill(project.root, settings(backend))
    command = ["--project", str(project.root), "restore", "--empty", "--json"]
    refused = CliRunner().invoke(program, command)
    assert (refused.exit_code, "There is a store" in json.loads(refused.stdout)["error"]["message"]) == (2, True)
    lose(place_of(project.root, backend))
    done = CliRunner().invoke(program, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"]["versions"] == 0
    with contextlib.closing(open_store(project.root, settings(backend))) as store:
        assert store.content_ids() == []


async def test_a_wal_without_its_database_is_not_lost(tmp_path: Path):
    """SQLite would delete it; also where it isn't known that a store has been there."""
    await fill(tmp_path, settings())
    path = place_of(tmp_path, "sqlite")
    wal = path.with_name("storage.db-wal")
    wal.write_bytes(b"changes" * 1000)
    shutil.rmtree(tmp_path / ".chora-store")
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"storage\.db-wal holds changes of it"):
        open_store(tmp_path, settings())
    assert wal.read_bytes() == b"changes" * 1000
    command = ["--project", str(tmp_path), "restore", "--empty", "--json"]
    done = json.loads(CliRunner().invoke(program, command).stdout)
    assert Path(f"{done['replaced']}-wal").read_bytes() == b"changes" * 1000


async def test_a_clone_begins_with_a_new_store(tmp_path: Path):
    """What is written down is of this folder on this machine: git ignores it, whatever the project ignores."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "chora.toml").write_text("")
    (here / ".gitignore").write_text("/.chora/\n")
    await fill(here, settings())
    for command in (
        ["git", "init", "-q", str(here)],
        ["git", "-C", str(here), "add", "-A"],
        ["git", "-C", str(here), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"],
        ["git", "clone", "-q", str(here), str(there)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    assert sorted(path.name for path in there.iterdir()) == [".git", ".gitignore", "chora.toml"]
    await fill(there, settings())


async def test_another_place_is_another_store(tmp_path: Path):
    """A setting that names another file, folder or backend begins there."""
    await fill(tmp_path, settings())
    for other in (settings(path="data/other.db"), settings("filesystem"), settings("filesystem", folder="texts")):
        await fill(tmp_path, other)
    (tmp_path / "data/other.db").unlink()
    with pytest.raises(StorageError, match=r"other\.db is gone"):
        open_store(tmp_path, settings(path="data/other.db"))
    await fill(tmp_path, settings())
    open_store(tmp_path, settings("memory")).close()


@pytest.mark.parametrize("written", [None, "# my own\n"])
async def test_what_is_written_down_is_ignored_again_unless_someone_said_otherwise(tmp_path: Path, written: str | None):
    """A .gitignore that was deleted comes back, and one that a person wrote stays."""
    await fill(tmp_path, settings())
    ignored = tmp_path / ".chora-store/.gitignore"
    first = ignored.read_text()
    assert first.endswith("\n*\n")
    ignored.unlink()
    if written is not None:
        ignored.write_text(written)
    await fill(tmp_path, settings("filesystem"))
    assert ignored.read_text() == (written or first)


async def test_a_note_that_can_t_be_read_counts_as_a_store(tmp_path: Path):
    """It isn't known any more where a store has been, so none is begun; a store that is there is opened."""
    await fill(tmp_path, settings())
    (tmp_path / ".chora-store/stores.json").write_text("{")
    await fill(tmp_path, settings())
    place_of(tmp_path, "sqlite").unlink()
    with pytest.raises(StorageError, match="can't be decoded"):
        open_store(tmp_path, settings())


async def test_a_read_only_project_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its store may lie elsewhere; then it isn't written down."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("chora.store.presence.replace_file", refuse)
    await fill(tmp_path, settings())
    assert not (tmp_path / ".chora-store/stores.json").exists()


@requirement("storage.no-silent-start")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_doctor_says_that_a_store_is_gone(project: Project, backend: str):
    """With the same remedy as the start."""
    project.write("chora.toml", f'[storage]\nbackend = "{backend}"\n')
    await fill(project.root, settings(backend))
    remove(place_of(project.root, backend))
    done = CliRunner().invoke(program, ["--project", str(project.root), "doctor", "--json"])
    (step,) = [step for step in json.loads(done.stdout)["steps"] if step["name"] == "store content"]
    assert (done.exit_code, step["ok"]) == (1, False)
    assert "it has been there since" in step["reason"]
    assert "restore --empty" in step["remedy"]
