"""Fixtures for the digests of files: a folder that counts reads, and a clock that can be set ahead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chora.engine import file_digests
from chora.engine.file_digests import FileDigests
from chora.file_stamps import COARSE
from chora.files import Folder


class Counting(Folder):
    """A folder that counts how often a file is read, and lets something happen in the middle."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads = 0
        self.meanwhile: Callable[[], object] = bool

    def read_bytes(self, path: str | Path, *, limit: int = 10_000_000) -> bytes:
        self.reads += 1
        data = super().read_bytes(path, limit=limit)
        self.meanwhile()
        return data


@pytest.fixture
def folder(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


@pytest.fixture
def digests(folder: Counting) -> FileDigests:
    return FileDigests(folder)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Clock:
    """The clock that is compared with files' times; the disk has its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0
        really = file_digests.time.time_ns
        monkeypatch.setattr(file_digests.time, "time_ns", lambda: really() + self.ahead)


def at_rest(file: Path, clock: Clock, whole: bool = False) -> None:
    """Set a file's times as if it had been written long ago."""
    clock.ahead = 10 * COARSE
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns // 10**9 * 10**9 + (0 if whole else 1)))
