"""Durable writes of what isn't in the project: complete or absent, even after a power failure."""

import os
import stat
import sys
from pathlib import Path

import pytest

from chora.disk import replace_file


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
@pytest.mark.parametrize(("durably", "expected"), [(True, ["file", "folder"]), (False, [])])
def test_a_durable_write_syncs_the_file_and_then_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durably: bool, expected: list[str]
):
    """Without the second sync a power failure may undo the rename."""
    synced: list[str] = []

    def record(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", record)
    replace_file(tmp_path / "a", [b"one ", b"two"], durably=durably)
    assert synced == expected
    assert (tmp_path / "a").read_bytes() == b"one two"
