"""The account of the memory that peers make this process hold: requests, unread answers, sessions.

One peer can't be told from an attacker by the size of one message, and limits per message, connection and session
multiply: 4,096 connections with a body of 4 MiB each are 16 GiB (CWE-400, CWE-770). So everything that is held for
peers is charged to one account, by peer. A charge that doesn't fit is refused with `Busy`, which HTTP answers with 503.

A charge can't be forgotten: it is made on a `Holding`, which exists within `with memory.hold(peer)` only and gives
everything back at the end of the block, however that ends. What has no block is counted by a function instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import trio

from chora.errors import Busy, LimitExceeded, UsageError
from chora.settings import MIB, LimitSettings

DERIVED_LEAST, DERIVED_MOST = 72 * MIB, 256 * MIB
"""The bounds of the limit where no setting sets it, bytes."""
_UNKNOWN_MEMORY = 4096 * MIB
UNKNOWN_PEER = ""
"""All peers that haven't sent a whole request head yet, which have one share together."""
TRIM_AFTER = 16 * MIB
"""Bytes that were given back since the allocator was last trimmed, after which it is due."""


class Holding:
    """What one piece of work holds for one peer, until the end of its `with` block."""

    def __init__(self, memory: PeerMemory, peer: str) -> None:
        self.bytes = 0
        self.refused = False
        """Whether a charge was refused, so that the work wasn't begun."""
        self._memory = memory
        self._peer = peer
        self._is_open = True

    def charge(self, count: int) -> None:
        """Hold so many bytes more; a negative number gives some back.

        Raises:
            Busy: the account has no room for them, or this peer has its share; nothing has changed.
            LimitExceeded: it never will have, because this alone is more than a share.
        """
        if not self._is_open:
            raise RuntimeError("what this holds was given back already")
        if count > 0 and self.bytes + count > self._memory.limit // 2:
            needed, most = ((self.bytes + count) / MIB, self._memory.limit / 2 / MIB)
            raise LimitExceeded(
                f"This takes {needed:,.1f} MiB of memory; {most:,.1f} MiB may be held for one client.",
                "Send or ask for less at once, or raise the setting limits.memory.",
                limit="limits.memory",
            )
        if count > 0 and not self._memory.has_room(self._peer, count):
            self.refused = True
            raise Busy(
                f"The server holds as much for its clients as it may, {self._memory.limit // MIB:,} MiB.",
                "Read the answers that are on their way, then try again.",
                limit="limits.memory",
                retry_after=1,
            )
        self._memory._add(self._peer, count)  # pyright: ignore[reportPrivateUsage]
        self.bytes += count

    def resize(self, total: int) -> None:
        """Hold so many bytes in all; as `charge`."""
        self.charge(total - self.bytes)

    def assign(self, peer: str) -> None:
        """Charge it to another peer from now on: it is known now whose request it is."""
        self._memory._add(self._peer, -self.bytes)  # pyright: ignore[reportPrivateUsage]
        self._peer = peer
        self._memory._add(peer, self.bytes)  # pyright: ignore[reportPrivateUsage]

    def _close(self) -> None:
        self._is_open = False
        self._memory._add(self._peer, -self.bytes)  # pyright: ignore[reportPrivateUsage]
        self.bytes = 0


class PeerMemory:
    """The account of one process.

    Args:
        limit: the bytes that may be held, for all peers together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.trim_due = trio.Event()
        """Set when so much was given back that the allocator should be trimmed."""
        self._held: dict[str, int] = {}
        self._total = 0
        self._given_back = 0
        self._counters: list[Callable[[], int]] = []

    @contextmanager
    def hold(self, peer: str) -> Generator[Holding]:
        """Hold memory for a peer within the block."""
        holding = Holding(self, peer)
        try:
            yield holding
        finally:
            holding._close()  # pyright: ignore[reportPrivateUsage]

    def count_also(self, counter: Callable[[], int]) -> None:
        """Count what belongs to no block, such as sessions; the function is quick and returns the bytes now."""
        self._counters.append(counter)

    @property
    def held(self) -> dict[str, int]:
        """The bytes held now, by peer; without what is only counted."""
        return dict(self._held)

    @property
    def total(self) -> int:
        """The bytes held now, and those that are counted."""
        return self._total + sum(counter() for counter in self._counters)

    def has_room(self, peer: str, count: int) -> bool:
        """Whether a peer may hold so many bytes more.

        A peer may hold half of what the others leave: one alone half of all, two greedy ones three quarters. So
        the next peer finds room (the dynamic threshold of shared packet buffers, Choudhury and Hahne, 1998).
        """
        own = self._held.get(peer, 0)
        return own + count <= (self.limit - self.total + own) // 2

    def trimmed(self) -> None:
        """Begin to count anew what is given back."""
        self._given_back = 0
        self.trim_due = trio.Event()

    def _add(self, peer: str, count: int) -> None:
        self._total += count
        if (left := self._held.get(peer, 0) + count) > 0:
            self._held[peer] = left
        else:
            self._held.pop(peer, None)
        if count < 0:
            self._given_back -= count
            if self._given_back >= TRIM_AFTER:
                self.trim_due.set()


def answer_too_large(what: str, size: int, limit: int) -> LimitExceeded:
    """The error of an answer that is larger than the setting allows."""
    return LimitExceeded(
        f"The answer of {what} has {size:,} bytes; {limit:,} are allowed.",
        "Ask for less at once, or raise the setting limits.answer.",
        limit="limits.answer",
    )


# -- how much there is -----------------------------------------------------------------------------------------------


def limit_by_settings(limits: LimitSettings) -> int:
    """The limit that the settings set, or a quarter of the memory of this machine or container, within bounds.

    Raises:
        UsageError: it is too small for a single request that `limits.body` allows.
    """
    least = 8 * limits.body  # a peer has half; a body is held along with what is decoded of it
    if 0 < limits.memory < least:
        raise UsageError(
            f"limits.memory is {limits.memory:,} bytes, and limits.body allows requests that need {least:,}.",
            f"Raise limits.memory to {least:,} at least, or lower limits.body.",
            setting="limits.memory",
        )
    return limits.memory or max(least, DERIVED_LEAST, min(DERIVED_MOST, _memory_of_container() // 4))


def _memory_of_container() -> int:
    """The memory that this process may use, bytes: the least of the machine's and what its control groups allow."""
    found = [_UNKNOWN_MEMORY]
    if sys.platform != "win32":
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for folder in (Path(group), *Path(group).parents):
                if not controllers:
                    found += _read_limit(Path(f"/sys/fs/cgroup{folder}/memory.max"))
                elif "memory" in controllers.split(","):
                    found += _read_limit(Path(f"/sys/fs/cgroup/memory{folder}/memory.limit_in_bytes"))
    return min(found)


def _read_limit(path: Path) -> list[int]:
    try:
        return [int(path.read_text())]
    except (OSError, ValueError):  # there is none, or it is `max`
        return []
