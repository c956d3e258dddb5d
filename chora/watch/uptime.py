"""The uptime percentage: which share of the probe's calls succeeded."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from chora.store import Sample, Store
from chora.timestamps import format_timestamp

WINDOW = timedelta(days=7)
"""How far back the probe's samples count."""


class Uptime(NamedTuple):
    """What the probe found within the window."""

    samples: int
    up: int
    last: Sample | None

    @property
    def percent(self) -> float | None:
        return uptime_percentage(self.up, self.samples)


def uptime_percentage(up: int, samples: int) -> float | None:
    """The percentage of samples that were up, to three decimals; None without samples.

    It is rounded down: 100 means that no probe failed.
    """
    return None if not samples else math.floor(100_000 * up / samples) / 1000


def measure_uptime(store: Store, moment: datetime | None = None) -> Uptime:
    """The uptime over the window before now, or before a moment.

    Raises:
        StorageError: the store can't be read.
    """
    since = format_timestamp((moment or datetime.now(UTC)) - WINDOW)
    counts = store.sample_counts("probe", since)
    return Uptime(counts.total, counts.ok, store.last_sample("probe"))
