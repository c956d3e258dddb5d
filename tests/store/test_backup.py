"""Backups, restoring them, and saving what can be saved."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import apsw
import msgspec
import pytest
import trio

from chora.errors import BackupNotFound, StorageError, UsageError
from chora.hashing import sha256
from chora.nofollow import OpenFolder
from chora.settings import StorageSettings
from chora.store import SqliteStore, Store, Version, backup, open_store, store_users
from chora.store.backup import delete_old_backups, make_backup, restore_backup, verify_backup
from chora.store.salvage import salvage_database
from chora.timestamps import now
from tests.conftest import requirement
from tests.patience import PATIENCE

posix = pytest.mark.skipif(os.name == "nt", reason="permissions and folders")
BACKENDS = ("sqlite", "filesystem")


def version(body: str, content_id: str = "tides") -> Version:
    return Version(
        content_id=content_id,
        body=body,
        sha256=sha256(body.encode()),
        fingerprint=f"made from {body[:20]}",
        generator="demonstration",
        generator_version="1.0.0",
        generated_at=now(),
    )


def texts(store: Store) -> list[str]:
    return [each.body for each in store.versions("tides")]


def settings(backend: str) -> StorageSettings:
    return StorageSettings(backend=backend)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_backup_holds_everything_and_can_be_restored(tmp_path: Path, backend: str):
    """Of either backend; what it replaces is kept, and can be restored too."""
    folder = tmp_path / "backups"
    with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
        for body in ("one", "two"):
            await store.add_version(version(body))
        made = await make_backup(store, folder)
        await store.add_version(version("three"))
    assert made.counts["versions"] == 2
    assert made.size == made.path.stat().st_size
    done = await restore_backup(tmp_path, settings(backend), made.path, folder)
    assert done.replaced is not None
    with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
        assert texts(store) == ["one", "two"]
    if backend == "sqlite":
        await restore_backup(tmp_path, settings(backend), done.replaced, folder)
        with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
            assert texts(store) == ["one", "two", "three"]


@posix
async def test_a_backup_is_readable_by_its_owner_alone(tmp_path: Path):
    """Mode 0600, whatever the umask; no journal or temporary file is left next to it."""
    before = os.umask(0)
    try:
        with contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
            made = await make_backup(store, tmp_path / "backups")
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert list((tmp_path / "backups").iterdir()) == [made.path]


async def test_a_backup_is_consistent_while_others_write(tmp_path: Path):
    """Pairs are written in one transaction; a backup never has half of one."""
    with contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
        stop = trio.Event()

        async def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                pair = [version(f"{number}", name) for name in ("left", "right")]
                ids = [f"20260101T000000000Z-{number * 2 + side:04x}" for side in (0, 1)]
                await store.add_records(
                    [msgspec.structs.replace(each, version_id=id) for each, id in zip(pair, ids, strict=True)]
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            made = [await make_backup(store, tmp_path / "backups") for _ in range(10)]
            stop.set()
    sizes: list[int] = []
    for each in made:
        with contextlib.closing(SqliteStore(each.path)) as copy:
            left, right = ([one.body for one in copy.versions(name)] for name in ("left", "right"))
            assert left == right
            sizes.append(len(left))
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither under its name nor under a temporary one."""

    def fail(path: Path) -> dict[str, int]:
        raise StorageError("It is damaged.", "Again.")

    monkeypatch.setattr(backup, "verify_backup", fail)
    with contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
        with pytest.raises(StorageError):
            await make_backup(store, tmp_path / "backups")
        assert list((tmp_path / "backups").iterdir()) == []
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="couldn't be written"):
            await make_backup(store, tmp_path / "file" / "backups")


async def test_leftovers_of_killed_backups_are_deleted(tmp_path: Path):
    """A killed backup leaves a hidden file, which a later one deletes when it is old enough."""
    folder, old = tmp_path / "backups", time.time() - 7200
    folder.mkdir()
    left = ".storage-20260101T000000000Z.db.tmp"
    kept = [".storage-20260101T000000001Z.db.tmp", "storage-20260101T000000000Z.db", ".mine.db.tmp", f"{left}.txt"]
    for name in (left, f"{left}-wal", f"{left}-journal", *kept):
        (folder / name).write_text("half")
        if name != kept[0]:
            os.utime(folder / name, (old, old))
    with contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
        made = await make_backup(store, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*kept, made.path.name])


async def test_old_backups_are_removed_and_nothing_else(tmp_path: Path):
    """Other files, and what a restore replaced, stay."""
    folder = tmp_path / "backups"
    with contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
        made = [(await make_backup(store, folder)).path for _ in range(4)]
        kept = (await make_backup(store, folder, prefix="replaced")).path
    mine = folder / "storage-mine.db"
    mine.write_text("mine")
    assert delete_old_backups(folder, 2) == made[:2]
    assert sorted(folder.iterdir()) == sorted([*made[2:], kept, mine])
    for keep in (2, 3, 9):
        assert delete_old_backups(folder, keep) == []
    assert sorted(folder.iterdir()) == sorted([*made[2:], kept, mine])


async def test_backups_are_made_at_intervals(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The newest ones are kept; a failure is logged and doesn't end the service."""
    folder = tmp_path / "backups"
    folder.write_text("in the way")
    with trio.fail_after(PATIENCE), contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await backup.serve(store, folder, every=0.02, keep=2, task_status=task_status)

            await nursery.start(run)
            while "the backup failed" not in caplog.text:
                await trio.sleep(0.01)
            folder.unlink()
            seen: set[str] = set()
            while len(seen) < 4:
                if folder.is_dir():
                    seen.update(path.name for path in folder.iterdir() if path.name.startswith("storage-"))
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert len(list(folder.iterdir())) <= 3


@pytest.mark.parametrize("what", ["missing", "text", "foreign", "newer", "cut short"])
async def test_an_invalid_backup_is_refused(tmp_path: Path, what: str):
    """With the reason, and the store unchanged."""
    file = tmp_path / "given.db"
    with contextlib.closing(SqliteStore(tmp_path / ".chora/storage.db")) as store:
        await store.add_version(version("kept"))
        if what != "missing":
            made = await make_backup(store, tmp_path / "backups")
            made.path.rename(file)
    if what == "text":
        file.write_text("not a database at all, but long enough to look like one" * 100)
    elif what == "cut short":
        file.write_bytes(file.read_bytes()[:-4096])
    elif what in ("foreign", "newer"):
        db = apsw.Connection(str(file))
        db.pragma("application_id" if what == "foreign" else "user_version", 999)
        db.close()
    with pytest.raises(BackupNotFound if what == "missing" else StorageError) as failed:
        await restore_backup(tmp_path, StorageSettings(), file, tmp_path / "backups")
    assert failed.value.hint
    with contextlib.closing(SqliteStore(tmp_path / ".chora/storage.db")) as store:
        assert texts(store) == ["kept"]


async def test_a_damaged_database_is_moved_aside(tmp_path: Path):
    """Unchanged, and the restored one takes its place."""
    path = tmp_path / ".chora/storage.db"
    with contextlib.closing(SqliteStore(path)) as store:
        await store.add_version(version("kept"))
        made = await make_backup(store, tmp_path / "backups")
    path.write_bytes(b"damaged" * 1000)
    done = await restore_backup(tmp_path, StorageSettings(), made.path, tmp_path / "backups")
    assert done.replaced is not None
    assert done.replaced.read_bytes() == b"damaged" * 1000
    with contextlib.closing(SqliteStore(path)) as store:
        assert texts(store) == ["kept"]


@requirement("storage.restore-alone")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_store_that_is_open_is_not_restored(tmp_path: Path, backend: str):
    """It is refused with who has it open, and nothing changes; once they have closed it, it is restored."""
    folder = tmp_path / "backups"
    with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
        await store.add_version(version("one"))
        made = await make_backup(store, folder)
        await store.add_version(version("two"))
        with pytest.raises(StorageError, match="can't be restored while a process has it open") as refused:
            await restore_backup(tmp_path, settings(backend), made.path, folder)
        assert refused.value.details["users"][0]["pid"] == os.getpid()
        assert "systemctl stop chora" in (refused.value.hint or "")
        assert texts(store) == ["one", "two"]
        await store.add_version(version("three"))
        assert [path.name for path in folder.iterdir()] == [made.path.name]
    await restore_backup(tmp_path, settings(backend), made.path, folder)
    with contextlib.closing(open_store(tmp_path, settings(backend))) as store:
        assert texts(store) == ["one"]


@requirement("storage.restore-alone")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_store_that_is_being_restored_is_not_opened(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
):
    """A process that comes meanwhile waits, and is refused after a while, with the reason."""
    monkeypatch.setattr("chora.locks.FILE_LOCK_TIMEOUT", 0.05)
    open_store(tmp_path, settings(backend)).close()
    users = store_users(tmp_path, settings(backend))
    assert users is not None
    with (
        users.exclusive("restored"),
        pytest.raises(StorageError, match="is being restored or repaired by another process"),
    ):
        open_store(tmp_path, settings(backend))
    open_store(tmp_path, settings(backend)).close()
    assert users.find() == []


@requirement("storage.restore-keeps")
async def test_what_a_restore_replaces_is_kept_with_its_wal(tmp_path: Path):
    """What a killed process left in the WAL, too, also what SQLite would ignore of it."""
    path, folder = tmp_path / ".chora/storage.db", tmp_path / "backups"
    with contextlib.closing(SqliteStore(path)) as store:
        await store.add_version(version("one"))
        made = await make_backup(store, folder)
    data = bytearray()
    for damaged in (False, True):
        left = left_open(path)
        if damaged:
            wal = path.with_name("storage.db-wal")
            data = bytearray(wal.read_bytes())
            data[-3 * 4096 : -3 * 4096 + 50] = b"\xff" * 50
            wal.write_bytes(data)
        done = await restore_backup(tmp_path, StorageSettings(), made.path, folder)
        assert done.replaced is not None
        assert re.fullmatch(r"replaced-\d{8}T\d{9}Z\.db", done.replaced.name)
        kept_wal = done.replaced.with_name(f"{done.replaced.name}-wal")
        assert kept_wal.exists() == damaged
        if damaged:
            assert kept_wal.read_bytes() == bytes(data)
        else:
            with contextlib.closing(SqliteStore(done.replaced)) as store:
                assert texts(store) == ["one", *left]
        with contextlib.closing(SqliteStore(path)) as store:
            assert texts(store) == ["one"]


def left_open(path: Path) -> list[str]:
    """What a process stored before it was killed; all of it is in the WAL."""
    script = (
        "import sys, os, trio; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from chora.store import SqliteStore; from tests.store.test_backup import version\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "async def write():\n    for n in range(5): await store.add_version(version(f'left {n}'))\n"
        "trio.run(write); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), str(Path(__file__).parents[2])], check=False)
    assert done.returncode == 9
    return [f"left {number}" for number in range(5)]


@pytest.mark.parametrize("step", ["load", "exchange"])
async def test_a_folder_of_texts_is_restored_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    """If loading the backup fails, or moving the new folder into place, the old one is where it was."""
    folder = tmp_path / "backups"
    with contextlib.closing(open_store(tmp_path, settings("filesystem"))) as store:
        await store.add_version(version("one"))
        made = await make_backup(store, folder)
        await store.add_version(version("two"))

    async def fail(*_: object) -> None:
        raise StorageError("The disk is full.")

    if step == "load":
        monkeypatch.setattr(backup, "migrate_store", fail)
    else:
        really = OpenFolder.replace

        def refuse(opened: OpenFolder, old: str, new: str) -> None:
            if "restoring" in old:
                raise OSError(28, "No space left on device")
            really(opened, old, new)

        monkeypatch.setattr(OpenFolder, "replace", refuse)
    with pytest.raises(StorageError):
        await restore_backup(tmp_path, settings("filesystem"), made.path, folder)
    monkeypatch.undo()
    with contextlib.closing(open_store(tmp_path, settings("filesystem"))) as store:
        assert texts(store) == ["one", "two"]


async def test_the_memory_backend_is_backed_up(tmp_path: Path):
    """As a server does regularly: the backup holds everything, and can be restored into a database."""
    with contextlib.closing(open_store(tmp_path, settings("memory"))) as store:
        await store.add_version(version("one"))
        made = await make_backup(store, tmp_path / "backups")
        await store.add_version(version("two"))
    assert made.counts["versions"] == 1
    await restore_backup(tmp_path, StorageSettings(), made.path, tmp_path / "backups")
    with contextlib.closing(open_store(tmp_path, StorageSettings())) as store:
        assert texts(store) == ["one"]
    assert [path.suffix for path in (tmp_path / "backups").iterdir()] == [".db"]


async def test_the_memory_backend_cannot_be_restored(tmp_path: Path):
    """It is refused."""
    with contextlib.closing(SqliteStore(tmp_path / "storage.db")) as store:
        made = await make_backup(store, tmp_path / "backups")
    with pytest.raises(UsageError):
        await restore_backup(tmp_path, settings("memory"), made.path, tmp_path / "backups")


async def test_the_readable_part_of_a_damaged_database_is_saved(tmp_path: Path):
    """From both ends around the damage; the damaged file is left unchanged."""
    path = tmp_path / "storage.db"
    with contextlib.closing(SqliteStore(path)) as store:
        for number in range(200):
            await store.add_version(version(f"{number} " + "x" * 3000))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 3 * 4096] = b"\xff" * (3 * 4096)
    path.write_bytes(data)
    with pytest.raises(StorageError):
        verify_backup(path)
    done = salvage_database(path, tmp_path / "saved.db")
    assert path.read_bytes() == bytes(data)
    assert verify_backup(tmp_path / "saved.db")["versions"] == done.saved["versions"]
    assert 150 < done.saved["versions"] < 200
    assert done.lost == {"versions": 200 - done.saved["versions"]}
    with contextlib.closing(SqliteStore(tmp_path / "saved.db")) as saved:
        bodies = texts(saved)
        assert bodies[0].startswith("0 ")
        assert bodies[-1].startswith("199 ")
