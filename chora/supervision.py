"""Supervision: services that a process can do without are started again when they fail, later each time.

Only the listener, the store and the protocol end the process when they fail; everything else runs in here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

log = logging.getLogger("chora")

FIRST_DELAY = 1.0
LONGEST_DELAY = 300.0
"""Seconds until a service that failed is started again: at first, doubled at each failure, and at most."""
PROBATION = 60.0
"""Seconds that a service must have run since its last failure to count as recovered."""

Service = Callable[..., Awaitable[None]]
"""Runs until it is cancelled; takes the `task_status` that tells when it has started."""


class _Failure(NamedTuple):
    sentence: str
    recovers_at: float


class Supervisor:
    """Keeps services running, and knows which of them fail."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    @property
    def reasons(self) -> list[str]:
        """A sentence for each service that failed lately. None of them keeps calls from being served."""
        now = trio.current_time()
        return [failure.sentence for failure in self._failures.values() if failure.recovers_at > now]

    async def keep_running(
        self, name: str, service: Service, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a service until cancelled, again and again if it fails or ends.

        Args:
            name: what it is, for the log and for people.
            service: may be started several times.
            task_status: told when the service has started for the first time, or failed to.
        """
        starting = _OnceStarted(task_status)
        delay = FIRST_DELAY
        while True:
            began = trio.current_time()
            error: BaseException | None = None
            try:
                await service(task_status=starting)
            except (Exception, SystemExit) as raised:  # whatever it is, the others go on
                error = raised
            starting.started()
            if trio.current_time() - began >= PROBATION:
                delay = FIRST_DELAY
            what = "ended" if error is None else f"failed ({type(error).__name__})"
            log.error("the %s %s; it is started again in %g s", name, what, delay, exc_info=error)
            sentence = f"The {name} {what} and is started again; the log says more."
            self._failures[name] = _Failure(sentence, trio.current_time() + delay + PROBATION)
            await trio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)


class _OnceStarted(trio.TaskStatus[None]):
    """Passes on the first start of a service; later ones wait for nothing."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self._is_started = False

    def started(self, value: None = None) -> None:
        if not self._is_started:
            self._is_started = True
            self._task_status.started()
