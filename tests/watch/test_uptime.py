"""The uptime percentage, and which samples it counts."""

from datetime import UTC, datetime, timedelta

import pytest

from chora.engine.engine import Engine
from chora.store import Sample
from chora.timestamps import format_timestamp
from chora.watch.uptime import measure_uptime, uptime_percentage


@pytest.mark.parametrize(
    ("up", "samples", "percent"),
    [
        (0, 0, None),
        (0, 3, 0.0),
        (3, 3, 100.0),
        (2, 3, 66.666),
        (999_999, 1_000_000, 99.999),
        (1_999_999, 2_000_000, 99.999),
    ],
)
def test_the_percentage_is_rounded_down(up: int, samples: int, percent: float | None):
    """One failure among millions is less than 100 %; without samples there isn't a percentage."""
    assert uptime_percentage(up, samples) == percent


async def test_the_last_seven_days_count(engine: Engine):
    """Older samples don't; the newest one is given in full."""
    now = datetime.now(UTC)
    for age, ok in ((timedelta(days=8), False), (timedelta(days=6), False), (timedelta(hours=1), True)):
        at = format_timestamp(now - age)
        await engine.store.add_sample(Sample(kind="probe", at=at, ok=ok, milliseconds=1.0, facts={}))
    uptime = measure_uptime(engine.store, now)
    assert (uptime.samples, uptime.up, uptime.percent) == (2, 1, 50.0)
    assert uptime.last is not None
    assert uptime.last.ok
