"""The allocator: memory that was given back by a storm of requests goes back to the system.

The C library keeps what is freed for later, in heaps that shrink from their end only: after 150 bodies of 4 MiB that
never arrived in whole, 563 of 604 MB stayed with the process. Elsewhere than with glibc nothing is done here.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable

import trio

from chora.peer_memory import PeerMemory

log = logging.getLogger("chora")

TRIM_DELAY = 1.0
"""Seconds from the moment at which trimming is due until it is done: a storm may go on, and a trim takes time."""
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of mallopt(3)."""
LARGE = 128 * 1024
"""Bytes from which a block is mapped by itself, so that it goes back at once. glibc starts with this and raises it to
32 MiB with the blocks that it sees, unless it is set."""


async def serve(memory: PeerMemory) -> None:
    """A service: trims the allocator after peers have given much memory back."""
    trim = _find_trim()
    while trim is not None:
        await memory.trim_due.wait()
        await trio.sleep(TRIM_DELAY)
        memory.trimmed()
        await trio.to_thread.run_sync(trim)
    await trio.sleep_forever()


def _find_trim() -> Callable[[], object] | None:
    """What trims the heap, with glibc; large blocks never go onto it from now on."""
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # imported here, to start faster

        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGE)
        trim = library.malloc_trim
        return lambda: trim(ctypes.c_size_t(0))
    return None
