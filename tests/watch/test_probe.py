"""The uptime probe: a real call, as any client makes it."""

import logging
from functools import partial
from typing import Any, get_args

import pytest
import trio
import trio.testing

from chora.metrics import Metrics
from chora.secrets import Secret
from chora.settings import Toolset
from chora.store import Sample, SqliteStore
from chora.timestamps import now
from chora.watch import probe
from chora.watch.mcp_client import connect_http
from chora.watch.probe import ProbeTarget
from tests.conftest import Project, Serve, requirement
from tests.patience import PATIENCE, may_have_taken


async def test_a_successful_probe_is_a_sample_that_is_up(hello: Project, serve: Serve):
    """With the duration of one real call."""
    async with serve(hello.root) as opened:
        sample = await probe.probe(opened.target)
    assert sample.ok
    assert sample.milliseconds > 0
    assert may_have_taken(sample.milliseconds / 1000)
    assert sample.facts == {}


@requirement("server.probe.toolsets")
@pytest.mark.parametrize(
    "settings",
    [
        *({"mcp.toolsets": (name,)} for name in get_args(Toolset)),
        {"mcp.toolsets": ("storage",), "mcp.read_only": True},
        {"mcp.read_only": True},
    ],
    ids=str,
)
async def test_the_probe_does_not_depend_on_toolsets(hello: Project, serve: Serve, settings: dict[str, Any]):
    """A server that offers some tools only isn't down for that; nor does its benchmark fail."""
    async with serve(hello.root, settings) as opened:
        sample = await probe.probe(opened.target)
        assert sample.ok, sample.facts
        async with connect_http(opened.target.url, opened.target.token) as client:
            assert not (await client.call("hello_world", {})).is_error
            listed = await client.request("tools/list", {})
    assert "hello_world" in {each["name"] for each in listed["tools"]}


async def test_probes_are_logged_only_when_debugging(hello: Project, serve: Serve, caplog: pytest.LogCaptureFixture):
    """One a minute, for years, would hide what clients do."""
    async with serve(hello.root) as opened:
        for level, logged in ((logging.INFO, False), (logging.DEBUG, True)):
            caplog.clear()
            caplog.set_level(level, logger="chora")
            assert (await probe.probe(opened.target)).ok
            assert ("hello_world" in caplog.text) is logged


async def test_a_closed_listener_makes_the_probe_report_down(hello: Project, serve: Serve):
    """The process runs, but can't be reached."""
    async with serve(hello.root) as opened:
        assert (await probe.probe(opened.target)).ok
        opened.http.stop()
        with trio.fail_after(PATIENCE):
            while (sample := await probe.probe(opened.target)).ok:
                await trio.sleep(0.02)
        assert "doesn't answer" in sample.facts["reason"] or "connection" in sample.facts["reason"]


async def test_a_server_that_refuses_the_probes_token_is_down(
    hello: Project, serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    """401 is a response, but the service isn't usable."""
    monkeypatch.setenv("CHORA_TOKEN", "sesame-0123456789")
    async with serve(hello.root) as opened:
        sample = await probe.probe(ProbeTarget(opened.target.url, Secret("wrong")))
    assert not sample.ok
    assert "401" in sample.facts["reason"]


async def test_a_server_that_never_answers_is_down(monkeypatch: pytest.MonkeyPatch):
    """At the deadline."""
    monkeypatch.setattr(probe, "TIMEOUT", 0.1)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    sample = await probe.probe(ProbeTarget(f"http://127.0.0.1:{port}/mcp", Secret("x")))
    await listener.aclose()
    assert not sample.ok
    assert sample.facts["reason"] == "no answer within 0.1 s"


async def test_a_tool_that_fails_is_down(hello: Project, serve: Serve):
    """`hello_world` reads the store, so a broken store is noticed."""
    async with serve(hello.root) as opened:
        store = opened.engine.store
        assert isinstance(store, SqliteStore)
        store._reader.close()
        sample = await probe.probe(opened.target)
    assert not sample.ok


async def test_the_service_stores_its_samples(hello: Project, serve: Serve):
    """At once and then at every interval, each in the store and the last one in the metrics."""
    store, metrics = SqliteStore(None), Metrics()
    async with serve(hello.root) as opened, trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: probe.serve(opened.target, store, metrics, interval=0.05, task_status=task_status)
        )
        with trio.fail_after(PATIENCE):
            while len(store.samples("probe")) < 3:
                await trio.sleep(0.01)
        assert metrics.probe_up.values[()] == 1
        opened.http.stop()
        with trio.fail_after(PATIENCE):
            while store.last_sample("probe").ok:  # pyright: ignore[reportOptionalMemberAccess]
                await trio.sleep(0.01)
        assert metrics.probe_up.values[()] == 0
        nursery.cancel_scope.cancel()
    store.close()


@pytest.mark.slow("five minutes of the fake clock pass while real connections are made")
async def test_five_minutes_are_six_probes(monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock):
    """The interval is kept by the (fake) clock, however long a probe takes."""

    async def fake_probe(target: ProbeTarget) -> Sample:
        await trio.sleep(0.5)
        return Sample(kind="probe", at=now(), ok=True, milliseconds=500.0)

    monkeypatch.setattr(probe, "probe", fake_probe)
    mock_clock.autojump_threshold = 0.2  # the store writes in a thread, which the clock can't see
    store = SqliteStore(None)
    with trio.move_on_after(301):
        await probe.serve(ProbeTarget("http://127.0.0.1:1/mcp", Secret("x")), store, Metrics(), interval=60)
    assert len(store.samples("probe")) == 6
    store.close()


async def test_a_failed_probe_is_logged(caplog: pytest.LogCaptureFixture):
    """With the reason, each time."""
    store = SqliteStore(None)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            target = ProbeTarget("http://127.0.0.1:1/mcp", Secret("x"))
            nursery.start_soon(partial(probe.serve, target, store, Metrics(), interval=60))
            while not store.samples("probe"):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert "the uptime probe failed: " in caplog.text
    store.close()


async def test_a_store_that_refuses_does_not_stop_the_service(caplog: pytest.LogCaptureFixture):
    """The sample is lost, and the log says so."""
    store = SqliteStore(None)
    store.close()
    sample = await probe.probe(ProbeTarget("http://127.0.0.1:1/mcp", Secret("x")))
    await probe.store_sample(store, sample)
    assert "could not be stored" in caplog.text
