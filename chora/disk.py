"""Durable writes for the stores: atomic replacement, appending, folders, free space, and safe file names."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from chora.errors import StorageError, io_details
from chora.nofollow import CREATE, PRIVATE_FOLDER, UnsafePath, open_file, open_folder

log = logging.getLogger("chora.store")

# -- writing ----------------------------------------------------------------------------------------------------


def replace_file(path: Path, parts: Iterable[bytes], *, durably: bool = True) -> None:
    """Write a file of chora's own atomically: temporary file, fsync, rename(2), fsync of the folder.

    Args:
        path: the file; its folder is created when missing. Both are the owner's alone.
        parts: its content, in pieces.
        durably: False skips the syncs, for what can be derived again.

    Raises:
        UnsafePath: a link leads there, or something else than a file is there.
    """
    with open_folder(path.parent, make=True) as folder:
        folder.check_file(path.name)
        temporary = f".{path.name[:40]}.{secrets.token_hex(6)}.tmp"
        descriptor = folder.open_file(temporary, CREATE)
        try:
            try:
                for part in parts:
                    _write(descriptor, part)
                if durably:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            folder.replace(temporary, path.name)
        except BaseException:
            with contextlib.suppress(OSError):
                folder.delete_file(temporary)
            raise
        if durably:
            folder.sync()


def append_to_file(path: Path, data: bytes) -> None:
    """Append to an existing file of chora's own, durably; a partial append is truncated again."""
    descriptor = open_file(path, os.O_WRONLY | os.O_APPEND)
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
    """Create a folder of chora's own and those above it; each new one survives a power cut."""
    with open_folder(folder, make=True):
        pass


def delete_file(path: Path, *, durably: bool = False) -> None:
    """Delete a file of chora's own, if there is one."""
    with open_folder(path.parent) as folder:
        folder.delete_file(path.name)
        if durably:
            folder.sync()


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to disk, fsync(2); Windows does so by itself."""
    with open_folder(folder) as opened:
        opened.sync()


def unsafe_path_error(error: UnsafePath) -> StorageError:
    """What a store says of a link, or of something else than a file, among its own."""
    return StorageError(f"{error.strerror}.", error.hint, **io_details(error, storage_path=str(error.path)))


def keep_private(path: Path) -> None:
    """Take permissions of others from a file or folder that an earlier chora, or a checkout, left open to them.

    Taken, not only warned about: what is stored is the owner's, and no second account could ever write here, because
    the lock files were writable by their owner alone. Where it can't be done, a warning says so.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(path.parent) as folder:
        done = folder.narrow(path.name, PRIVATE_FOLDER)
        if done:
            log.info("%s could be read by other users; it is the owner's alone now", path)
        elif done is False:
            log.warning("%s can be read by other users, and belongs to another one: chmod go= it", path)


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
            if disk.f_files and not disk.f_ffree:  # some file systems don't count files
                free = 0
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
