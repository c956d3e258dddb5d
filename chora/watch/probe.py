"""The uptime probe: calls a tool through the server's own HTTP endpoint at an interval, and stores the result.

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
"""Seconds after which a server that hasn't answered counts as down."""


class ProbeTarget:
    """The endpoint to call, and the token for it.

    Args:
        url: the MCP endpoint.
        token: a read token.
        trust: the server's own certificate, when it speaks TLS.
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
            log.warning("the uptime probe failed: %s", sample.facts["reason"])
        await store_sample(store, sample)
        due = max(due + interval, trio.current_time())
        await trio.sleep_until(due)


async def probe(target: ProbeTarget) -> Sample:
    """Call the endpoint once."""
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
    """Why the endpoint doesn't serve calls, or None if it does."""
    with trio.move_on_after(TIMEOUT):
        try:
            async with connect_http(target.url, target.token, trust=target.trust) as client:
                answer = await client.call("hello_world", {"name": "probe"})
        except CallFailed as failed:
            return str(failed)
        return str(answer.result.get("error", "the call failed")) if answer.is_error else None
    return f"no answer within {TIMEOUT:g} s"


async def store_sample(store: Store, sample: Sample) -> None:
    """Store a sample; when the store fails, log it and go on probing."""
    try:
        await store.add_sample(sample)
    except StorageError as error:
        log.warning("a %s sample could not be stored: %s", sample.kind, error.message)
