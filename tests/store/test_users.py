"""Who has a store open: what is said of it, and what is left of processes that were killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chora import this_process
from chora.errors import StorageError
from chora.settings import StorageSettings
from chora.store import StoreUsers, open_store, store_users
from chora.store.repair import repair_database
from chora.store.users import StoreUser
from tests.conftest import requirement

posix = pytest.mark.skipif(os.name == "nt", reason="Windows itself keeps what is open")


def users_of(project: Path, backend: str = "sqlite") -> StoreUsers:
    users = store_users(project, StorageSettings(backend=backend))  # pyright: ignore[reportArgumentType]
    assert users is not None
    return users


@contextmanager
def held(project: Path, backend: str = "sqlite") -> Generator[subprocess.Popen[str]]:
    """Another process that has the store open."""
    script = (
        "import sys; from pathlib import Path; from chora.store import open_store\n"
        "from chora.settings import StorageSettings\n"
        "store = open_store(Path(sys.argv[3]), StorageSettings(backend=sys.argv[4]))\n"
        "print('open', flush=True); sys.stdin.read(); store.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", script, "--project", "x", str(project), backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "open\n"
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@requirement("storage.restore-alone")
@pytest.mark.slow("starts processes")
@pytest.mark.parametrize("backend", ["sqlite", "filesystem"])
def test_a_process_is_named_as_long_as_it_runs(tmp_path: Path, backend: str):
    """With its command; when it has closed the store, or was killed, nothing is left of it."""
    users = users_of(tmp_path, backend)
    with held(tmp_path, backend) as first, held(tmp_path, backend) as second:
        assert {user.pid for user in users.find()} == {first.pid, second.pid}
        second.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        second.wait()
        assert [user.pid for user in users.find()] == [first.pid]
        with pytest.raises(StorageError, match=rf"while a process has it open: {first.pid} \(chora") as refused:
            users.exclusive("restored").__enter__()
        assert refused.value.details["error_type"] == "InUse"
    assert users.find() == []
    with users.exclusive("restored"):
        pass


@posix
@pytest.mark.slow("starts a process")
def test_an_open_database_is_not_repaired(tmp_path: Path):
    """Whether it is damaged or not: the process that has it open is named, and nothing changes."""
    path = tmp_path / ".chora/storage.db"
    open_store(tmp_path, StorageSettings()).close()
    with held(tmp_path) as process:
        before = path.read_bytes()
        with pytest.raises(StorageError, match=f"can't be repaired while a process has it open: {process.pid} "):
            repair_database(path, users_of(tmp_path))
        assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.slow("starts a process")
def test_another_program_is_named_too(tmp_path: Path):
    """One that doesn't say that it has the database open, such as an older chora, by SQLite's own locks."""
    path = tmp_path / ".chora/storage.db"
    open_store(tmp_path, StorageSettings()).close()
    script = (
        "import sys, apsw; db = apsw.Connection(sys.argv[1]); db.execute('SELECT count(*) FROM drafts').fetchall(); "
        "print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "open\n"
    assert users_of(tmp_path).find() == [StoreUser(process.pid, Path(sys.executable).name)]
    process.stdin.close()
    process.wait()
    process.stdout.close()
    assert users_of(tmp_path).find() == []


@posix
def test_a_store_whose_folder_is_read_only_is_opened_without_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the filesystem backend, whose texts may lie elsewhere; a database on such a disk can't be used anyway."""
    monkeypatch.setattr("chora.store.users.make_folder", _refuse)
    with contextlib.closing(open_store(tmp_path, StorageSettings(backend="filesystem"))) as store:
        assert store.content_ids() == []
    assert users_of(tmp_path, "filesystem").find() == []


def _refuse(_: Path) -> None:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "chora"),
        (["serve"], "chora serve"),
        (["--project", "secret", "stdio", "--x"], "chora stdio"),
        (["--project"], "chora"),
        (["--version"], "chora"),
        (["pass word"], "chora"),
    ],
)
def test_the_command_is_named_without_its_arguments(monkeypatch: pytest.MonkeyPatch, arguments: list[str], name: str):
    """They may hold what is private, and others may read the message."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/chora", *arguments])
    assert this_process.command_name() == name
