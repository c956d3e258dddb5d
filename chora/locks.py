"""Locks: of one file among processes, and of several names at once among tasks or processes."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from zlib import crc32

import trio

from chora.disk import make_folder
from chora.errors import Busy, PermissionDenied
from chora.nofollow import UnsafePath, open_file

log = logging.getLogger("chora.locks")

FILE_LOCK_TIMEOUT = 5.0
"""Seconds that `file_lock` waits for the lock."""
LOCK_FILES = 64
"""Files that the names of `FileLocks` are spread over."""
FILE_LOCKS_TIMEOUT = 30.0
"""Seconds that `FileLocks` waits while another process writes."""


@contextmanager
def file_lock(path: Path, timeout: float | None = None) -> Generator[None]:
    """Hold the advisory lock of a file, exclusive among all processes and all openings of the file; blocks.

    Raises:
        TimeoutError: the lock was held elsewhere for longer than `timeout`, `FILE_LOCK_TIMEOUT` by default, in seconds.
        UnsafePath: a link leads there, or it is no file.
    """
    descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        deadline = time.monotonic() + (FILE_LOCK_TIMEOUT if timeout is None else timeout)
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock for long", str(path))
            time.sleep(0.005)
        try:
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Lock a file that is open, unless it is locked already; other processes still read what follows a byte."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock a file that is open, unless it is locked already."""
        # flock(2) belongs to the open file description, so that two stores in one process exclude each other as well.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class NamedLocks:
    """Locks by name among the tasks of this process; a lock exists while it is held or waited for."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[trio.Lock, int]] = {}

    @asynccontextmanager
    async def __call__(self, *names: str) -> AsyncGenerator[None]:
        """Hold several at once; they are always acquired in the same order, so that two callers can't deadlock."""
        async with AsyncExitStack() as stack:
            for name in sorted({name.casefold() for name in names}):
                await stack.enter_async_context(self._hold(name))
            yield

    @asynccontextmanager
    async def _hold(self, name: str) -> AsyncGenerator[None]:
        lock, count = self._held.get(name, (trio.Lock(), 0))
        self._held[name] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._held.pop(name)
            if count > 1:
                self._held[name] = lock, count - 1


class FileLocks:
    """Locks by name among processes; each name maps to one of a fixed number of lock files.

    Args:
        folder: the folder of the lock files; None where no other process shares the project.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @asynccontextmanager
    async def __call__(self, *names: str) -> AsyncGenerator[None]:
        """Hold several at once.

        Raises:
            Busy: another process held one of them for longer than `FILE_LOCKS_TIMEOUT`.
            PermissionDenied: a link, or something else than a file or folder, is where the locks are.
        """
        numbers = {crc32(name.casefold().encode("utf-8", "replace")) % LOCK_FILES for name in names}
        with ExitStack() as stack:
            if self._folder is not None:
                try:
                    make_folder(self._folder)
                    for number in sorted(numbers):
                        await _acquire(stack, self._folder / f"{number:02}")
                except UnsafePath as error:
                    raise PermissionDenied(f"{error.strerror}.", error.hint, path=str(error.path)) from None
                except NotADirectoryError:
                    where = str(self._folder)
                    raise PermissionDenied(
                        f"{where} is no folder, so files can't be locked.", "Move the file away.", path=where
                    ) from None
                except OSError as error:  # a file system without locks: only this process's own locks hold there
                    log.debug("files can't be locked; continuing without a lock: %s", error)
            yield


async def _acquire(stack: ExitStack, file: Path) -> None:
    deadline = trio.current_time() + FILE_LOCKS_TIMEOUT
    while True:
        try:
            return stack.enter_context(file_lock(file, timeout=0))
        except TimeoutError:
            if trio.current_time() > deadline:
                raise Busy(
                    "Another process has been writing files of this project for a long time.", "Try again in a moment."
                ) from None
        await trio.sleep(0.01)
