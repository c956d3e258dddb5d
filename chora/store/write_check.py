"""Whether a store can be written to: as its last writes tell, or else as a test write does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import trio

from chora.errors import StorageError

FAILURE_REUSE_TIME = 0.5
"""Seconds for which the last failure is reported without trying another write."""
LOCK_TIMEOUT = 2.0
"""Seconds for which a test write waits for a lock: less than a write would, to say soon that it is held."""
TEST_TIMEOUT = 2.5
"""Seconds for which a test write is waited for; a disk that doesn't answer may take for ever."""


class WriteCheck:
    """What is known of the writes to one store.

    Args:
        path: of the store.
        look: raises StorageError for what needs no write to be seen; quick.
        write: a test write, run in a thread of its own; as one more write of the store it would wait behind all others,
            for longer than the caller may wait. Raises StorageError; returns False if the store itself was writing.
    """

    def __init__(self, path: Path | None, look: Callable[[], None], write: Callable[[], bool]) -> None:
        self._path = path
        self._look = look
        self._write = write
        self._failure: StorageError | None = None
        self._failure_time = self._success_time = -math.inf
        self._lock = trio.Lock()
        self.is_writing = False
        """Whether a test write is on its way."""

    def note_failure(self, error: StorageError) -> None:
        """A write failed because of the disk, the files, or a lock of another process."""
        self._failure, self._failure_time = error, time.monotonic()

    def note_success(self) -> None:
        """A write succeeded."""
        self._failure, self._success_time = None, time.monotonic()

    async def run(self, within: float) -> None:
        """Raise StorageError unless the store can be written to now.

        Args:
            within: seconds for which the last write answers that.
        """
        if not self._is_known(within):
            async with self._lock:
                if not self._is_known(within):  # it may have been written to meanwhile
                    await self._try_write()

    def _is_known(self, within: float) -> bool:
        self._look()
        moment = time.monotonic()
        if self._failure is not None and moment - self._failure_time < FAILURE_REUSE_TIME:
            raise self._failure.with_traceback(None)
        return self._failure is None and moment - self._success_time <= within

    async def _try_write(self) -> None:
        if not self.is_writing:
            self.is_writing = True
            with trio.move_on_after(TEST_TIMEOUT):
                await trio.to_thread.run_sync(self._make_test_write, abandon_on_cancel=True)
                return
        error = StorageError(
            f"The store {self._path or 'in memory'} doesn't answer.",
            "Check the disk; on a network, whether it can be reached.",
            storage_path=str(self._path),
        )
        self.note_failure(error)
        raise error

    def _make_test_write(self) -> None:
        try:
            if self._write():
                self.note_success()
        except StorageError as error:
            self.note_failure(error)
            raise
        finally:
            self.is_writing = False
