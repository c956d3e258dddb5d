"""What Linux tells of changes in folders; how the lists of configs use it is in `test_config_index.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from chora.folder_changes import IS_LINUX, Change, FolderChanges

pytestmark = pytest.mark.skipif(not IS_LINUX, reason="inotify is a part of Linux")


def test_a_change_is_told_once_and_at_once(tmp_path: Path):
    """By the call that comes after it."""
    changes = FolderChanges()
    changes.watch(str(tmp_path))
    assert changes.read() == []
    file = tmp_path / "a.json"
    file.write_text("{}")
    reported = changes.read()
    assert reported is not None
    assert {change.path for change in reported} == {str(file)}
    assert Change(str(file), False, True) in reported
    assert changes.read() == []
    changes.close()


def test_more_changes_than_the_kernel_keeps_are_not_known(tmp_path: Path):
    """Then everything has to be looked at; later changes are told again."""
    changes = FolderChanges()
    changes.watch(str(tmp_path))
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [tmp_path / "a", tmp_path / "b"]
    names[0].touch()
    for number in range(most // 2 + 100):  # two events each, none of which equals the one before
        names[number % 2].rename(names[1 - number % 2])
    assert changes.read() is None
    while changes.read() != []:
        pass
    (tmp_path / "c").touch()
    assert changes.read()
    changes.close()
