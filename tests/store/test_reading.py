"""Copies of stores that can't be opened where they are; how commands use them is in `tests/cli/test_read_only.py`."""

import os
import sys
from pathlib import Path

import pytest

from chora.errors import StorageError
from chora.store import reading


def test_a_folder_is_copied_with_everything_in_it(tmp_path: Path):
    """At any depth, also empty folders."""
    place = tmp_path / "store"
    (place / "content/a/v1").mkdir(parents=True)
    (place / "drafts").mkdir()
    (place / "content/a/v1/one.json").write_text("1")
    (place / "samples.jsonl").write_text("2")
    reading._copy(place, tmp_path / "copy")
    assert sorted(str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*")) == [
        *("content", "content/a", "content/a/v1", "content/a/v1/one.json", "drafts", "samples.jsonl")
    ]
    assert (tmp_path / "copy/content/a/v1/one.json").read_text() == "1"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes among files, and links need a right")
@pytest.mark.parametrize("what", ["link to a file", "link to a folder", "pipe"])
def test_a_store_with_links_or_special_files_is_not_copied(tmp_path: Path, what: str):
    """A checkout may have brought them; what a link leads to would be read, and a pipe be waited for."""
    place, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    (place / "content").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("s")
    odd = place / "content" / "odd"
    if what == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(elsewhere / "secret" if what == "link to a file" else elsewhere)
    with pytest.raises(StorageError, match="can't be read"):
        reading._copy(place, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("secret"))
