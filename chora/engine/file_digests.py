"""Digests of a project's files.

The hash of the content decides. Size, times and inode only save reading a file again, and only if it had been at rest
before it was hashed: a second write within the clock's tick leaves the times as they were.
"""

from __future__ import annotations

import os
import stat
import time

from chora.errors import ChoraError
from chora.file_stamps import FileStamp
from chora.files import Folder
from chora.hashing import sha256

ABSENT = "absent"
UNREADABLE = "unreadable"

DIGEST_LIMIT = 64_000_000
"""Bytes of the largest file that anything here reads; the content of a larger one can't matter."""


class FileDigests:
    """The hashes of a project's files."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._prefix = f"{folder.root}{os.sep}"
        self._known: dict[str, tuple[FileStamp, str]] = {}

    def digest_file(self, path: str) -> str:
        """The file's `sha256:…`, or why there is none: `absent`, or `unreadable` (too large counts as that)."""
        known = self._known.get(path)
        if known is not None:
            # Nearly always the file is unchanged, so this path allocates nothing.
            try:
                status = os.stat(self._prefix + path)  # noqa: PTH116
            except (OSError, ValueError):
                pass
            else:
                size, modified, changed, inode = known[0]
                if (
                    status.st_mtime_ns == modified
                    and status.st_size == size
                    and status.st_ctime_ns == changed
                    and status.st_ino == inode
                ):
                    return known[1]
        stamp = self._stamp(path)
        if isinstance(stamp, str):
            return stamp
        if stamp.size > DIGEST_LIMIT:
            return UNREADABLE
        checked_at = time.time_ns()
        try:
            digest = sha256(self._folder.read_bytes(path, limit=DIGEST_LIMIT))
        except FileNotFoundError:
            return ABSENT
        except (OSError, ChoraError):
            return UNREADABLE
        if stamp.is_at_rest(checked_at) and self._stamp(path) == stamp:
            self._known[path] = (stamp, digest)
        return digest

    def stamp_of(self, path: str, digest: str) -> FileStamp | None:
        """The stamp by which a digest can be trusted later, if the file was at rest when it was hashed."""
        known = self._known.get(path)
        return known[0] if known is not None and known[1] == digest else None

    def remember(self, path: str, stamp: FileStamp, digest: str) -> None:
        """Take over what an earlier process found."""
        self._known.setdefault(path, (stamp, digest))

    def _stamp(self, path: str) -> FileStamp | str:
        try:
            status = os.stat(self._prefix + path)  # noqa: PTH116 (a third of the cost of a Path's)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except (OSError, ValueError):
            return UNREADABLE
        if not stat.S_ISREG(status.st_mode):
            return UNREADABLE
        return FileStamp.of(status)
