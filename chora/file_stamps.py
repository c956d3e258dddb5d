"""What tells a changed file from an unchanged one without reading it."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

RACY = 50_000_000
"""Nanoseconds within which a second write may leave a file's times as they are: the clock of a file system ticks with
the kernel's timer. Git calls such an index entry racily clean."""
COARSE = 2_500_000_000
"""The same for times that are whole seconds: FAT counts every other second, and some network file systems seconds."""


class FileStamp(NamedTuple):
    """Size, times (nanoseconds since 1970) and inode of a file."""

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def is_at_rest(self, now: int | None = None) -> bool:
        """Whether any write after `now`, in nanoseconds, is sure to show in the file's times.

        Args:
            now: the time just before the file was read; this moment when None.
        """
        return is_at_rest(self.modified, max(self.modified, self.changed), now)


def is_at_rest(modified: int, latest: int | None = None, now: int | None = None) -> bool:
    """Whether any change after `now` is sure to show in a time of modification, all in nanoseconds.

    Args:
        modified: the time of modification; whether it is whole seconds tells how finely the file system counts.
        latest: the latest of the times; `modified` when None.
        now: the time just before the file or folder was read; this moment when None.
    """
    now = time.time_ns() if now is None else now
    latest = modified if latest is None else latest
    return now - latest > (RACY if modified % 1_000_000_000 else COARSE)
