"""The metrics, read back by the client library's own parser."""

import subprocess
import sys

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from chora.metrics import Gauge, Histogram, Metrics
from tests.patience import PATIENCE


def parsed(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}


def rows(family: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}


def test_every_metric_is_on_the_page_before_anything_happened():
    """Each has its type and meaning from the start, so that a dashboard knows it."""
    metrics = Metrics()
    families = parsed(metrics)
    assert set(families) == {metric.name for metric in metrics.list_metrics()}
    for metric in metrics.list_metrics():
        kind = "histogram" if isinstance(metric, Histogram) else "gauge" if isinstance(metric, Gauge) else "counter"
        assert families[metric.name].type == kind
        assert families[metric.name].documentation == metric.meaning
        assert metric.meaning


def test_names_are_ours_and_stand_once():
    """Every name begins with chora_, and none is given twice."""
    names = [metric.name for metric in Metrics().list_metrics()]
    assert all(name.startswith("chora_") for name in names)
    assert len(names) == len(set(names))


def test_counters_add_up_by_label():
    """One series for each set of labels, of everything counted."""
    metrics = Metrics()
    metrics.calls.count("generate_content", "ok")
    metrics.calls.count("generate_content", "ok", by=2)
    metrics.calls.count("generate_content", "not_found")
    assert rows(parsed(metrics)["chora_calls"]) == {
        ("chora_calls_total", (("outcome", "ok"), ("tool", "generate_content"))): 3,
        ("chora_calls_total", (("outcome", "not_found"), ("tool", "generate_content"))): 1,
    }


def test_gauges_go_up_and_down():
    """The page shows the last value, with labels or without."""
    metrics = Metrics()
    metrics.sessions.count("http")
    metrics.sessions.count("http")
    metrics.sessions.count("http", by=-1)
    metrics.probe_up.set(1)
    metrics.probe_up.set(0)
    families = parsed(metrics)
    assert rows(families["chora_sessions"]) == {("chora_sessions", (("transport", "http"),)): 1}
    assert rows(families["chora_probe_up"]) == {("chora_probe_up", ()): 0}


def test_buckets_are_cumulative():
    """Each bucket counts what took at most as long as its bound, the last everything; sum and count agree."""
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.0011, 0.5, 60.0, 1000.0):
        metrics.call_seconds.observe(seconds, "preview_generation")
    family = rows(parsed(metrics)["chora_call_seconds"])
    tool = ("tool", "preview_generation")
    buckets = {dict(labels)["le"]: value for (name, labels), value in family.items() if name.endswith("_bucket")}
    assert list(map(float, buckets)) == [*Histogram.BUCKETS, float("inf")]
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.25"], buckets["0.5"]) == (2, 3, 3, 4)
    assert (buckets["60.0"], buckets["+Inf"]) == (5, 6)
    assert family[("chora_call_seconds_count", (tool,))] == 6
    assert family[("chora_call_seconds_sum", (tool,))] == pytest.approx(1060.5026)


@pytest.mark.parametrize("label", ['quo"te', "back\\slash", "line\nbreak", "Nørvik", ""])
def test_any_text_is_a_label(label: str):
    """A label with letters that mean something to the format arrives as it was."""
    metrics = Metrics()
    metrics.sessions_ended.count(label)
    (sample,) = parsed(metrics)["chora_sessions_ended"].samples
    assert sample.labels == {"reason": label}


def test_counting_doesn_t_import_the_client_library():
    """The library is only loaded for the page: it costs more at start than all of the counting."""
    program = (
        "import sys; from chora.metrics import Metrics\n"
        "metrics = Metrics(); metrics.calls.count('a', 'ok'); metrics.call_seconds.observe(1.0, 'a')\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "assert b'chora_calls_total' in metrics.exposition(); assert 'prometheus_client' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
