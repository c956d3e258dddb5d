"""Reading files that the settings name, wherever they are: never a pipe, a device or more than a few bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from chora.nofollow import READ, open_without_links


def read_regular_file(
    path: str | Path, limit: int, check: Callable[[os.stat_result], None] | None = None, *, links: bool = True
) -> bytes:
    """Read a whole file.

    Opened without blocking, because a pipe without a writer would wait forever.

    Args:
        path: the file.
        limit: the most bytes that it may have.
        check: may refuse the file for its owner or permissions, by raising OSError.
        links: whether links to it are followed, as Kubernetes makes for secrets; never to a file of the project.

    Raises:
        OSError: there is no such file, it can't be read, isn't a regular file, or is larger than `limit` (EFBIG).
    """
    descriptor = open_without_links(os.path.realpath(path) if links else str(path), READ)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if check is not None:
            check(status)
        parts: list[bytes] = []
        left = limit + 1
        while left > 0 and (part := os.read(descriptor, left)):  # the size may change, and isn't true for /proc
            parts.append(part)
            left -= len(part)
        if left <= 0:
            raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
        return b"".join(parts)
    finally:
        os.close(descriptor)
