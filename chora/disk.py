"""Durable writes for the stores: atomic replacement, appending, folders, free space, and safe file names."""

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


def replace_file(path: Path, parts: Iterable[bytes], *, durably: bool = True) -> None:
    """Write a file atomically: temporary file, fsync, rename(2), fsync of the folder.

    Args:
        path: the file; its folder is created when missing.
        parts: its content, in pieces.
        durably: False skips the syncs, for what can be derived again.
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


def append_to_file(path: Path, data: bytes) -> None:
    """Append to an existing file, durably; a partial append is truncated again."""
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
    """Create a folder and its parents; each new one survives a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # and if it isn't a folder, using it says so
        folder.mkdir()
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to disk, fsync(2); Windows does so by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems that can't sync folders
            raise
    finally:
        os.close(descriptor)


# -- space and names --------------------------------------------------------------------------------------------------

FREE_SPACE_MINIMUM = 128 * 1024
"""Bytes of free space below which a disk counts as full."""


def check_free_space(folder: Path) -> None:
    """Raise StorageError if the disk of a folder is full, or nearly."""
    try:
        if sys.platform == "win32":
            import shutil

            free = shutil.disk_usage(folder).free
        else:
            disk = os.statvfs(folder)
            free = (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize
    except OSError:  # a write there reports the cause
        return
    if free < FREE_SPACE_MINIMUM:
        raise StorageError(
            f"The disk of {folder} is full: {free:,} bytes are left.",
            "Free some disk space; nothing that was acknowledged is lost.",
            storage_path=str(folder),
            errno=errno.ENOSPC,
        )


# A T between digits stays, as in timestamps; a t there doesn't, so that no two names differ in case alone.
_UNSAFE = re.compile(r"(?<=[0-9])t(?=[0-9])|(?<![0-9])T|T(?![0-9])|^\.|\.$|[^a-z0-9._T-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
_LONGEST_NAME = 150


def file_name(text: str) -> str:
    """A file name for any text: valid on every system, and distinct for distinct texts, not only in case.

    Ids of configs and drafts stay as they are; other characters are percent-encoded as in URLs (RFC 3986), and a long
    name is shortened and made distinct by a hash. So no text becomes `..` or a path (CWE-22).
    """
    name = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), text)
    if not name or _RESERVED.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}" if name else "%"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:80]}~{sha256(text.encode('utf-8', 'replace')).hexdigest()[:32]}"
    return name
