"""What has changed in folders since the last look, told by Linux: inotify(7).

An event is queued before the call that made the change returns, so a look is exact, and costs a system call where
nothing changed. Elsewhere, on network file systems, and where the limits of the kernel are reached, folders have to be
walked instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_EVENT = struct.Struct("iIII")
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = (
    *(0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800),
)
_UNMOUNT, _OVERFLOW, _IGNORED, _IS_FOLDER = 0x2000, 0x4000, 0x8000, 0x40000000
_WATCHED = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_ONLY_FOLDERS, _NO_LINKS = 0x01000000, 0x02000000
_NONBLOCK, _CLOEXEC = 0x800, 0x80000
_READ_SIZE = 256 * 1024
IS_LINUX = sys.platform == "linux"
LOCAL_FILE_SYSTEMS = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs")
)
"""Those on which only this machine changes files; what others change on a network is not reported."""


class Change(NamedTuple):
    """A file or folder that was made, changed or removed."""

    path: str
    is_folder: bool
    is_new: bool
    """Whether it was made there, or moved there."""


class FolderChanges:
    """Watches folders, each without those below it.

    Raises:
        OSError: it isn't Linux, or the limits of the kernel are reached.
    """

    _descriptor = -1

    def __init__(self) -> None:
        import ctypes  # imported on first use, to start faster

        if not IS_LINUX:
            raise OSError(errno.ENOSYS, "inotify is a part of Linux")
        library: Any = ctypes.CDLL(None, use_errno=True)
        self._errno: Callable[[], int] = ctypes.get_errno
        self._add: Callable[[int, bytes, int], int] = library.inotify_add_watch
        self._remove: Callable[[int, int], int] = library.inotify_rm_watch
        self._folders: dict[int, str] = {}
        self._descriptor: int = library.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self._descriptor < 0:
            raise OSError(self._errno(), "no inotify instance")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def watch(self, folder: str) -> None:
        """Watch a folder, by its absolute path, from now on.

        Raises:
            OSError: it is gone, or the limits of the kernel are reached.
        """
        number = self._add(self._descriptor, os.fsencode(folder), _WATCHED | _ONLY_FOLDERS | _NO_LINKS)
        if number < 0:
            raise OSError(self._errno(), "can't be watched", folder)
        self._folders[number] = folder

    def forget(self, folder: str) -> None:
        """Stop watching a folder that was moved away or removed, and those below it."""
        for number, path in list(self._folders.items()):
            if path == folder or path.startswith(f"{folder}{os.sep}"):
                del self._folders[number]
                self._remove(self._descriptor, number)

    def read(self) -> list[Change] | None:
        """What has changed since the last call; None if that isn't known, so that everything has to be looked at."""
        found: dict[Change, None] = {}
        while True:
            try:
                data = os.read(self._descriptor, _READ_SIZE)
            except BlockingIOError:
                return list(found)
            except OSError:
                return None
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                if mask & (_OVERFLOW | _UNMOUNT) or (mask & _IS_FOLDER and mask & _ATTRIB):
                    return None
                if mask & _IGNORED:
                    self._folders.pop(number, None)
                elif (folder := self._folders.get(number)) is not None:
                    path = os.path.join(folder, os.fsdecode(name)) if name else folder
                    is_folder = not name or bool(mask & _IS_FOLDER)
                    found[Change(path, is_folder, bool(mask & (_CREATE | _MOVED_TO)))] = None


def is_local(path: str) -> bool:
    """Whether a path lies on a file system that only this machine changes."""
    mounted, kind = "", ""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").split("\n"):
            left, _, right = line.partition(" - ")
            if not right:
                continue
            place = left.split(" ")[4].replace("\\040", " ")
            if len(place) >= len(mounted) and f"{path}/".startswith(f"{place.rstrip('/')}/"):
                mounted, kind = place, right.split(" ")[0]
    return kind in LOCAL_FILE_SYSTEMS
