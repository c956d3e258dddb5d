"""The latency benchmarker: a few calls over one connection, their percentiles, and how late the event loop wakes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import trio

from chora.metrics import Metrics
from chora.store import Sample, Store
from chora.timestamps import now
from chora.watch.mcp_client import CallFailed, connect_http
from chora.watch.probe import TIMEOUT, ProbeTarget, store_sample

WARM_UP_CALLS = 2
"""Calls before the first one that counts."""
LAG_SLEEP = 0.01
"""Seconds of the sleeps whose delay is the loop's lag."""


async def serve(
    target: ProbeTarget,
    store: Store,
    metrics: Metrics,
    *,
    interval: float,
    calls: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Measure until cancelled, the first time at once."""
    task_status.started()
    while True:
        sample = await measure_latency(target, calls)
        if sample.ok:
            metrics.loop_lag.set(sample.facts["loop_lag"] / 1000)
        await store_sample(store, sample)
        await trio.sleep(interval)


async def measure_latency(target: ProbeTarget, calls: int) -> Sample:
    """One round: p50, p95 and p99 in milliseconds over `calls` calls, and the largest loop lag seen beside them."""
    times: list[float] = []
    lag = 0.0
    reason = f"no answer within {TIMEOUT:g} s"
    with trio.move_on_after(TIMEOUT):
        try:
            async with connect_http(target.url, target.token, trust=target.trust) as client:
                for number in range(WARM_UP_CALLS + calls):
                    started = time.perf_counter()
                    await client.call("hello_world", {"name": "benchmark"})
                    if number >= WARM_UP_CALLS:
                        times.append((time.perf_counter() - started) * 1000)
                    before = trio.current_time()
                    await trio.sleep(LAG_SLEEP)
                    lag = max(lag, trio.current_time() - before - LAG_SLEEP)
        except CallFailed as failed:
            reason = str(failed)
    if len(times) < calls:
        return Sample(kind="latency", at=now(), ok=False, milliseconds=0.0, facts={"reason": reason})
    facts = {f"p{percent}": percentile(times, percent) for percent in (50, 95, 99)}
    return Sample(
        kind="latency",
        at=now(),
        ok=True,
        milliseconds=facts["p50"],
        facts={**facts, "loop_lag": round(lag * 1000, 3), "calls": calls},
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile, to three decimals: the least value that `percent` % of all don't exceed."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], 3)
