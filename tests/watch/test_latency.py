"""The latency measurements: percentiles over real calls, and event loop lag."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from chora.metrics import Metrics
from chora.secrets import Secret
from chora.store import SqliteStore
from chora.watch import latency
from chora.watch.probe import ProbeTarget
from tests.conftest import Project, Serve
from tests.patience import PATIENCE, may_have_taken


async def test_a_round_gives_percentiles_and_lag(hello: Project, serve: Serve):
    """p50 ≤ p95 ≤ p99, in milliseconds, over the given number of calls."""
    async with serve(hello.root) as opened:
        sample = await latency.measure_latency(opened.target, 5)
    assert sample.ok
    assert 0 < sample.facts["p50"] <= sample.facts["p95"] <= sample.facts["p99"]
    assert may_have_taken(sample.facts["p50"] * 3 / 1000)
    assert may_have_taken(sample.facts["p99"] / 1000)
    assert may_have_taken(sample.facts["loop_lag"] / 1000)
    assert sample.facts["calls"] == 5


async def test_a_round_that_fails_says_why():
    """An unreachable server is a result, not an exception."""
    sample = await latency.measure_latency(ProbeTarget("http://127.0.0.1:1/mcp", Secret("x")), 5)
    assert not sample.ok
    assert "doesn't answer" in sample.facts["reason"]


async def test_the_service_measures_at_once_and_at_intervals(hello: Project, serve: Serve):
    """Each round is stored."""
    store, metrics = SqliteStore(None), Metrics()
    async with serve(hello.root) as opened, trio.open_nursery() as nursery:
        await nursery.start(partial(latency.serve, opened.target, store, metrics, interval=0.01, calls=1))
        with trio.fail_after(PATIENCE):
            while len(store.samples("latency")) < 2:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    store.close()


async def test_the_lag_of_the_last_round_is_a_metric(hello: Project, serve: Serve):
    """In seconds; its sample has it in milliseconds."""
    store, metrics = SqliteStore(None), Metrics()
    async with serve(hello.root) as opened, trio.open_nursery() as nursery:
        await nursery.start(partial(latency.serve, opened.target, store, metrics, interval=3600.0, calls=1))
        with trio.fail_after(PATIENCE):
            while (sample := store.last_sample("latency")) is None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert metrics.loop_lag.values == {(): sample.facts["loop_lag"] / 1000}
    store.close()


async def test_the_lag_is_how_late_the_loop_wakes(monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock):
    """The largest of the round, in milliseconds."""
    late = iter([0.0, 0.002, 0.25, 0.001])

    class Client:
        async def call(self, tool: str, arguments: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def connect(*given: Any, **named: Any) -> AsyncGenerator[Client]:
        yield Client()

    async def sleep(seconds: float) -> None:
        mock_clock.jump(seconds + next(late))
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(latency, "connect_http", connect)
    monkeypatch.setattr(trio, "sleep", sleep)
    sample = await latency.measure_latency(ProbeTarget("http://127.0.0.1:1/mcp", Secret("x")), 2)
    assert sample.facts["loop_lag"] == 250


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([1.0], 99, 1.0), ([1, 2, 3, 4], 50, 2), ([1, 2, 3, 4], 75, 3), (list(range(1, 101)), 95, 95), ([3, 1, 2], 0, 1)],
)
def test_nearest_rank(values: list[float], percent: float, expected: float):
    """The smallest value that at least that share of the values doesn't exceed; always a measured one."""
    assert latency.percentile(values, percent) == expected


@given(st.lists(st.integers(0, 1000), min_size=1), st.integers(1, 100))
def test_a_percentile_has_its_share_of_values_below_it(values: list[int], percent: int):
    """At least that share is at or below it, and less than that share below it."""
    found = latency.percentile([float(value) for value in values], percent)
    assert sum(value <= found for value in values) / len(values) >= percent / 100
    assert sum(value < found for value in values) / len(values) < percent / 100
