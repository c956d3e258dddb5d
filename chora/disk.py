"""What files need to keep a record: whole replacement, appending, one writer at a time, and safe names."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from chora.errors import StorageError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# -- writing ----------------------------------------------------------------------------------------------------


def replace(path: Path, parts: Iterable[bytes], *, durably: bool = True) -> None:
    """Put a file in its place, all of it or none: temporary file, sync, rename, sync of the folder.

    Args:
        path: where; its folder is made when missing.
        parts: what, piece by piece.
        durably: False leaves out the syncs, for what can be made again.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, _CREATE, 0o644)
    try:
        try:
            for part in parts:
                _write(descriptor, part)
            if durably:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durably:
        sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file that is there, durably; what can't be added in whole isn't."""
    descriptor = os.open(path, _APPEND)
    try:
        before = os.fstat(descriptor).st_size
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; each one that is new will be there after a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # and if it isn't a folder, using it says so
        folder.mkdir()
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to disk; Windows does so by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what network file systems say that can't sync folders
            raise
    finally:
        os.close(descriptor)


# -- looking ----------------------------------------------------------------------------------------------------

ROOM = 128 * 1024
"""Bytes that a disk must have left to be worth writing to."""


def check_room(folder: Path) -> None:
    """Raise StorageError if next to nothing can be written to the disk of a folder."""
    try:
        if sys.platform == "win32":
            import shutil

            free = shutil.disk_usage(folder).free
        else:
            disk = os.statvfs(folder)
            free = (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize
    except OSError:  # whoever writes there will say more about it
        return
    if free < ROOM:
        raise StorageError(
            f"The disk of {folder} is full: {free:,} bytes are left.",
            "Free some disk space; nothing that was acknowledged is lost.",
            storage_path=str(folder),
            errno=errno.ENOSPC,
        )


# A T between digits stays, because times have one; a t there doesn't, so that no two names differ in case alone.
_UNSAFE = re.compile(r"(?<=[0-9])t(?=[0-9])|(?<![0-9])T|T(?![0-9])|^\.|\.$|[^a-z0-9._T-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
_LONGEST = 150


def file_name(text: str) -> str:
    """A name for what may be any text: safe on every system, and different for every text, not only in case.

    Ids of configs and drafts stay as they are; other letters are written as in URLs, and a long name is cut short
    and told apart by a hash.
    """
    name = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), text)
    if not name or _RESERVED.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}" if name else "%"
    if len(name) > _LONGEST:
        name = f"{name[:80]}~{sha256(text.encode('utf-8', 'replace')).hexdigest()[:32]}"
    return name
