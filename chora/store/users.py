"""Who has a store open: each process enters itself in a folder, so that no process replaces a store under another one.

An entry is a file that its process keeps locked. The lock ends with the process, however that ends, so an entry that
isn't locked is of a process that was killed. A database shows by SQLite's own locks who else has it open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from chora import this_process
from chora.disk import make_folder
from chora.errors import StorageError
from chora.locks import file_lock, try_lock
from chora.nofollow import CREATE, UnsafePath, check_file, open_file, open_folder

log = logging.getLogger("chora.store")

SHARED_LOCK_BYTES = (510, 0x40000002)
"""Length and offset of the shared lock bytes of SQLite's Unix VFS, which an open database holds; never stored to."""
_ENTRY_NAME = re.compile(r"\d+-[0-9a-f]{8}")
_ENTERING = "entering"
"""The lock file that is held for a moment to enter, and for as long as a store is being replaced."""
ENTRY_LIMIT = 1000  # bytes of an entry that are read


class StoreUser(NamedTuple):
    """A process that has a store open."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})" if self.command else str(self.pid)


class Entry:
    """That this process has a store open, until it is closed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def close(self) -> None:
        """Take the entry away."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(OSError), open_folder(self.path.parent) as folder:
                folder.delete_file(self.path.name)


class StoreUsers:
    """The processes that have one store open.

    Args:
        folder: the folder of their entries.
        place: the database or folder of the store.
    """

    def __init__(self, folder: Path, place: Path) -> None:
        self._folder = folder
        self._place = place

    def enter(self) -> Entry | None:
        """Say that this process has the store open; None where the folder can't be written.

        Raises:
            StorageError: it is being replaced right now.
        """
        try:
            make_folder(self._folder)
            with self._lock_entering():
                path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
                descriptor = open_file(path, CREATE)
                # Windows keeps others from reading the byte that is locked, the first one.
                os.write(descriptor, b" " + msgspec.json.encode(this_process.command_name()))
                os.lseek(descriptor, 0, os.SEEK_SET)
                try_lock(descriptor)
                return Entry(path, descriptor)
        except UnsafePath:
            raise
        except OSError as error:  # a read-only disk, or one without locks
            log.debug("it can't be said in %s who has the store open: %s", self._folder, error)
            return None

    def find(self) -> list[StoreUser]:
        """Who has the store open.

        Raises:
            StorageError: it is being replaced right now.
        """
        if check_file(self._folder / _ENTERING) is None:
            return find_database_users(self._place)
        with self._lock_entering():
            return self._find()

    @contextmanager
    def exclusive(self, doing: str) -> Generator[None]:
        """Keep others from opening the store while it is replaced.

        Args:
            doing: what can't be done while others have it open, such as `restored`.

        Raises:
            StorageError: others have it open; the message names them.
        """
        make_folder(self._folder)
        with self._lock_entering():
            if users := self._find():
                raise in_use_error(self._place, doing, users)
            yield

    @contextmanager
    def _lock_entering(self) -> Generator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self._folder / _ENTERING))
            except TimeoutError:
                raise StorageError(
                    f"{self._place} is being restored or repaired by another process.",
                    "Try again when it is done.",
                    storage_path=str(self._place),
                    error_type="InUse",
                ) from None
            yield

    def _find(self) -> list[StoreUser]:
        found: dict[int, StoreUser] = {}
        with open_folder(self._folder) as folder:
            for name in sorted(name for name in folder.names() if _ENTRY_NAME.fullmatch(name)):
                with contextlib.suppress(FileNotFoundError):
                    descriptor = folder.open_file(name, os.O_RDWR)
                    try:
                        is_left = try_lock(descriptor)
                        if not is_left:
                            os.lseek(descriptor, 1, os.SEEK_SET)
                            pid = int(name.partition("-")[0])
                            found[pid] = StoreUser(pid, _decode_command(os.read(descriptor, ENTRY_LIMIT)))
                    finally:
                        os.close(descriptor)
                    if is_left:
                        folder.delete_file(name)
        for user in find_database_users(self._place):
            found.setdefault(user.pid, user)
        return list(found.values())


def in_use_error(place: Path, doing: str, users: Sequence[StoreUser]) -> StorageError:
    """The error that names who has a store open."""
    named = ", ".join(map(str, users))
    several = len(users) != 1
    return StorageError(
        f"{place} can't be {doing} while {'processes have' if several else 'a process has'} it open: {named}.",
        f"End {'them' if several else 'it'} first, for a service with `systemctl stop chora`: what "
        f"{'they write' if several else 'it writes'} meanwhile would be lost. Nothing was changed.",
        storage_path=str(place),
        error_type="InUse",
        users=[user._asdict() for user in users],
    )


def _decode_command(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=str)
    except msgspec.DecodeError:
        return ""


def find_database_users(path: Path) -> list[StoreUser]:
    """Who has a database open, by SQLite's locks: an older chora, or another program; not this process.

    Must not be called while this process has it open: closing a descriptor drops the locks that it holds
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    if sys.platform == "win32":
        return []
    import fcntl

    try:
        descriptor = open_file(path, os.O_RDWR)
    except OSError:
        return []
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *SHARED_LOCK_BYTES)
    except (BlockingIOError, PermissionError):
        return _find_lock_holders(os.fstat(descriptor)) or [StoreUser(0, "another program")]
    except OSError:  # a file system without locks
        return []
    finally:
        os.close(descriptor)
    return []


def _find_lock_holders(status: os.stat_result) -> list[StoreUser]:
    """The processes that hold locks of a file, by what Linux says in /proc/locks."""
    if sys.platform == "win32":
        return []
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids: set[int] = set()
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            fields = line.replace("->", "").split()
            if fields[1] == "POSIX" and fields[5] == file:
                pids.add(int(fields[4]))
    found: list[StoreUser] = []
    for pid in sorted(pids - {os.getpid()}):
        command = b""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        found.append(StoreUser(pid, os.fsdecode(command).rpartition("/")[2]))
    return found
