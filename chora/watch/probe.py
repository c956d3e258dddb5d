"""The uptime probe: one real tool call through the public door, every so often, and the result kept.

A failed probe is a result, not an error: it is stored like any other, with its reason.
"""

from __future__ import annotations

import logging
import time

import trio

from chora.errors import StorageError
from chora.metrics import Metrics
from chora.secrets import Secret
from chora.store import Sample, Store
from chora.timestamps import now
from chora.watch.mcp_client import CallFailed, connect_http

log = logging.getLogger("chora.probe")

TIMEOUT = 10.0
"""Seconds after which a door that hasn't answered counts as closed."""


class ProbeTarget:
    """Where and as whom to knock.

    Args:
        url: the MCP endpoint.
        token: a read token.
        trust: our own certificate, when the door speaks TLS.
    """

    def __init__(self, url: str, token: Secret, trust: str = "") -> None:
        self.url = url
        self.token = token
        self.trust = trust


async def serve(
    target: ProbeTarget,
    store: Store,
    metrics: Metrics,
    *,
    interval: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Probe until cancelled, the first time at once."""
    task_status.started()
    due = trio.current_time()
    while True:
        sample = await probe(target)
        metrics.probe_up.set(1 if sample.ok else 0)
        if not sample.ok:
            log.warning("the probe found the door closed: %s", sample.facts["reason"])
        await store_sample(store, sample)
        due = max(due + interval, trio.current_time())
        await trio.sleep_until(due)


async def probe(target: ProbeTarget) -> Sample:
    """Knock once."""
    started = time.perf_counter()
    reason = await _check_endpoint(target)
    return Sample(
        kind="probe",
        at=now(),
        ok=reason is None,
        milliseconds=round((time.perf_counter() - started) * 1000, 3),
        facts={} if reason is None else {"reason": reason},
    )


async def _check_endpoint(target: ProbeTarget) -> str | None:
    """Why the door is not open, or None."""
    with trio.move_on_after(TIMEOUT):
        try:
            async with connect_http(target.url, target.token, trust=target.trust) as caller:
                answer = await caller.call("hello_world", {"name": "probe"})
        except CallFailed as failed:
            return str(failed)
        return str(answer.result.get("error", "the call failed")) if answer.is_error else None
    return f"no answer within {TIMEOUT:g} s"


async def store_sample(store: Store, sample: Sample) -> None:
    """Store a sample; when the store itself is what's broken, say so and go on watching."""
    try:
        await store.add_sample(sample)
    except StorageError as error:
        log.warning("a %s sample could not be stored: %s", sample.kind, error.message)
