"""Whether a store can be written to, where its disk or another process keeps it from answering."""

import threading
from collections.abc import Generator
from pathlib import Path

import pytest
import trio

from chora import locks
from chora.errors import StorageError
from chora.store import SqliteStore, filesystem, write_check
from chora.store.filesystem import FilesystemStore
from chora.store.write_check import FAILURE_REUSE_TIME
from tests.conftest import requirement
from tests.patience import PATIENCE
from tests.store.test_contract import version

Disk = FilesystemStore | SqliteStore


@pytest.fixture(params=[SqliteStore, FilesystemStore])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Disk]:
    opened: Disk = request.param(tmp_path / "store")
    yield opened
    opened.close()


async def test_a_disk_that_does_not_answer_fails_the_check(store: Disk, monkeypatch: pytest.MonkeyPatch):
    """It isn't waited for, and no second attempt is made before the first has ended."""
    monkeypatch.setattr(write_check, "TEST_TIMEOUT", 0.05)
    attempts, may_end = 0, threading.Event()

    def hang() -> bool:
        nonlocal attempts
        attempts += 1
        return may_end.wait(PATIENCE)

    checked = store._write_check
    with monkeypatch.context() as patched:
        patched.setattr(checked, "_write", hang)
        for _ in range(3):
            with pytest.raises(StorageError, match="doesn't answer"):
                await store.check(within=0.0)
            await trio.sleep(FAILURE_REUSE_TIME)
        assert attempts == 1
        may_end.set()
        with trio.fail_after(PATIENCE):
            while checked.is_writing:
                await trio.sleep(0.01)
    await store.check(within=0.0)


async def test_a_failed_write_is_reported_until_one_succeeds(store: Disk, monkeypatch: pytest.MonkeyPatch):
    """Soon after it without another attempt; later by another attempt, although an earlier write had succeeded."""
    await store.add_version(version())
    await store.check(within=60.0)
    attempts: list[bool] = []

    def write() -> bool:
        attempts.append(True)
        raise StorageError("The disk is broken.", None)

    checked = store._write_check
    with monkeypatch.context() as patched:
        patched.setattr(checked, "_write", write)
        await store.check(within=60.0)
        assert not attempts, "the last write tells"
        checked.note_failure(StorageError("A write failed.", None))
        with pytest.raises(StorageError, match="A write failed"):
            await store.check(within=60.0)
        assert not attempts
        await trio.sleep(FAILURE_REUSE_TIME)
        with pytest.raises(StorageError, match="The disk is broken"):
            await store.check(within=60.0)
        assert attempts == [True]
    await trio.sleep(FAILURE_REUSE_TIME)
    await store.check(within=60.0)


@pytest.mark.slow("waits for locks that last some seconds")
@requirement("server.ready-locked")
async def test_a_folder_that_another_process_locks_fails_its_check_soon(tmp_path: Path):
    """Within five seconds, also while writes wait for the lock; then it works again."""
    store = FilesystemStore(tmp_path)
    refused: list[StorageError] = []

    async def write() -> None:
        try:
            await store.add_version(version())
        except StorageError as error:
            refused.append(error)

    with locks.file_lock(tmp_path / ".lock"):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(write)
            began = trio.current_time()
            with pytest.raises(StorageError, match=r"holds the lock|doesn't answer"):
                await store.check(within=0.0)
            assert trio.current_time() - began < locks.FILE_LOCK_TIMEOUT
            assert not refused, "it didn't wait behind a write"
            nursery.cancel_scope.cancel()
    await trio.sleep(FAILURE_REUSE_TIME)
    await store.check(within=0.0)
    store.close()


async def test_a_large_change_of_its_own_is_no_reason_to_fail(store: Disk, monkeypatch: pytest.MonkeyPatch):
    """The lock is held by ourselves, so it can be written; but that isn't known for later."""
    if isinstance(store, SqliteStore):
        store._checker.set_busy_timeout(10)
    monkeypatch.setattr(filesystem, "LOCK_TIMEOUT", 0.01)
    begun, may_end = threading.Event(), threading.Event()

    def change(*_: object) -> None:
        begun.set()
        may_end.wait(PATIENCE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._write, change)
        await trio.to_thread.run_sync(begun.wait)
        await store.check(within=0.0)
        assert store._make_test_write() is False
        may_end.set()
    assert store._make_test_write() is True
