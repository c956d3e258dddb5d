"""The pages for monitors and people: health, readiness, status, metrics."""

from chora import __version__, settings
from chora.engine.engine import open_engine
from chora.metrics import Metrics
from chora.store import Sample, SqliteStore
from chora.web.health import HealthStatus
from tests.conftest import OpenHttpClient, Project


async def test_health_says_only_that_it_is_alive(http_client: OpenHttpClient):
    """200, version and uptime; nothing about the project."""
    async with http_client() as client:
        body = (await client.http.get("/health")).json()
    assert set(body) == {"status", "version", "uptime_seconds"}
    assert body["status"] == "alive"
    assert body["version"] == __version__


async def test_ready_turns_to_failing_with_the_reason(http_client: OpenHttpClient):
    """A store that stops working gives 503, while /health stays 200."""
    async with http_client() as client:
        assert (await client.http.get("/ready")).json() == {"status": "ready", "reasons": []}
        store = client.running.engine.store
        assert isinstance(store, SqliteStore)
        store._reader.close()
        response = await client.http.get("/ready")
        assert response.status_code == 503
        assert response.json()["status"] == "failing"
        assert "storage.db" in response.json()["reasons"][0]
        assert (await client.http.get("/health")).status_code == 200
        status = (await client.http.get("/status.json")).json()
        assert status["store"] | {"path": ""} == {"path": "", "versions": 0, "drafts": 0, "outputs": 0}
        assert status["uptime"] == {"samples": 0, "up": 0, "percent": None, "last": None}
        assert status["latency"] == {}


async def test_status_counts_what_happened(http_client: OpenHttpClient):
    """Calls by outcome, the probe's samples, the benchmark, sessions, the store."""
    async with http_client() as client:
        await client.initialize()
        await client.call("generate_content", content_config_id="greeting")
        await client.call("generate_content", content_config_id="missing")
        status = (await client.http.get("/status.json")).json()
    assert set(status) == {
        *("version", "state", "reasons", "uptime_seconds", "uptime", "latency", "calls", "sessions", "store", "build"),
    }
    assert status["state"] == "ready"
    assert status["calls"]["config_not_found"] == 1
    assert status["store"]["versions"] == 1
    assert status["sessions"]["http"] == 1
    assert status["build"]["frozen"] is False


async def test_the_page_shows_the_state_and_the_measurements(http_client: OpenHttpClient):
    """For people."""
    async with http_client() as client:
        page = await client.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'class="ready"' in page.text
    assert __version__ in page.text


async def test_metrics_are_what_prometheus_scrapes(http_client: OpenHttpClient):
    """Calls with their tool and outcome, in the text format."""
    async with http_client() as client:
        await client.initialize()
        await client.call("list_generators")
        response = await client.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'chora_calls_total{outcome="ok",tool="list_generators"} 1.0' in response.text
    assert 'chora_call_seconds_bucket{le="+Inf",tool="list_generators"} 1.0' in response.text


async def test_a_draining_server_is_not_ready(hello: Project):
    """503 on connections that are still open, so that clients go elsewhere."""
    async with open_engine(hello.root, settings.load(hello.root, {}).settings) as engine:
        life = HealthStatus(engine.store, Metrics())
        assert (await life.status()).state == "starting"
        life.state = "draining"
        assert (await life.status()).reasons == ["The server is stopping."]


async def test_a_failed_benchmark_is_shown_with_its_reason(http_client: OpenHttpClient):
    """Instead of percentiles."""
    async with http_client() as client:
        failed = Sample(kind="latency", at="9999", ok=False, milliseconds=0.0, facts={"reason": "no answer"})
        await client.running.engine.store.add_sample(failed)
        page = (await client.http.get("/")).text
    assert "no answer" in page
    assert "p50" not in page
