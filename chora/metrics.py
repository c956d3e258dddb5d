"""Every metric, one line each; `/metrics`, the status page and the reference are derived from here.

The client library is only imported to write the page: it costs more at start than all of the counting.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import Any


class Counter:
    """A counter, one per combination of labels."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        self.values: dict[tuple[str, ...], float] = defaultdict(float)

    def count(self, *labels: str, by: float = 1) -> None:
        self.values[labels] += by


class Gauge(Counter):
    """A value that goes up and down."""

    def set(self, value: float, *labels: str) -> None:
        self.values[labels] = value


class Histogram:
    """Durations in seconds, in buckets, one histogram per combination of labels."""

    BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        self.counts: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * (len(self.BUCKETS) + 1))
        self.sums: dict[tuple[str, ...], float] = defaultdict(float)

    def observe(self, seconds: float, *labels: str) -> None:
        self.counts[labels][bisect.bisect_left(self.BUCKETS, seconds)] += 1
        self.sums[labels] += seconds


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.calls = Counter("chora_calls", "Tool calls by outcome: ok, or an error's code", "tool", "outcome")
        self.calls_in_flight = Gauge("chora_calls_in_flight", "Tool calls being worked on", "tool")
        self.call_seconds = Histogram("chora_call_seconds", "Time a tool call took", "tool")
        self.sessions = Gauge("chora_sessions", "Open MCP sessions", "transport")
        self.sessions_ended = Counter("chora_sessions_ended", "MCP sessions ended, by reason", "reason")
        self.connections = Gauge("chora_connections", "Open HTTP connections")
        self.connections_killed = Gauge(
            "chora_connections_killed", "HTTP connections ended by the server, by reason", "reason"
        )
        self.held_bytes = Gauge(
            "chora_held_bytes", "Memory held for clients: requests with their unread answers, and sessions", "what"
        )
        self.probe_up = Gauge("chora_probe_up", "Whether the last uptime probe succeeded")
        self.loop_lag = Gauge("chora_loop_lag_seconds", "How late the event loop woke in the last benchmark round")

    def list_metrics(self) -> list[Counter | Histogram]:
        """Every metric, in the order written above."""
        return list(vars(self).values())

    def exposition(self) -> bytes:
        """The page that Prometheus scrapes."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        families: list[Any] = []
        for metric in self.list_metrics():
            if isinstance(metric, Histogram):
                family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, counts in metric.counts.items():
                    family.add_metric(list(labels), _cumulative(metric, counts), metric.sums[labels])
            else:
                kind = GaugeMetricFamily if isinstance(metric, Gauge) else CounterMetricFamily
                family = kind(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in metric.values.items():
                    family.add_metric(list(labels), value)
            families.append(family)

        class Collected:
            def collect(self) -> list[Any]:
                return families

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collected())  # pyright: ignore[reportArgumentType]
        return generate_latest(registry)


def _cumulative(metric: Histogram, counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    rows: list[tuple[str, float]] = []
    for bound, count in zip((*(str(bucket) for bucket in metric.BUCKETS), "+Inf"), counts, strict=True):
        total += count
        rows.append((bound, total))
    return rows
