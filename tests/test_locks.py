"""Advisory locks of files."""

import errno
import os
from pathlib import Path

import pytest

from chora import locks
from tests.open_files import open_files_in
from tests.patience import PATIENCE


def test_a_lock_that_becomes_free_in_time_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is tried until then; afterwards it is free for others, and nothing is open."""
    path, try_lock, attempts = tmp_path / "lock", locks.try_lock, 0
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    assert try_lock(held)

    def attempt(descriptor: int) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            os.close(held)
        return try_lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", attempt)
    with locks.file_lock(path, PATIENCE):
        assert attempts == 3
        with pytest.raises(TimeoutError) as caught, locks.file_lock(path, 0):
            pass
        assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, str(path))
    with locks.file_lock(path, 0):
        pass
    assert open_files_in(tmp_path) == []
