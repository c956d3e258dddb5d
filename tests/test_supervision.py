"""Services that fail are started again, later each time, and what fails is said."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from chora.supervision import FIRST_DELAY, LONGEST_DELAY, PROBATION, Supervisor
from tests.conftest import requirement


class Fails:
    """A service that fails, or ends, some seconds after each of its first starts, and runs on then."""

    def __init__(self, times: int, how: Callable[[], None], *, after: float = 0.0) -> None:
        self.started_at: list[float] = []
        self._times, self._how, self._after = times, how, after

    async def __call__(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.started_at.append(trio.current_time())
        task_status.started()
        if len(self.started_at) > self._times:
            await trio.sleep_forever()
        await trio.sleep(self._after)
        self._how()


def fail() -> None:
    raise RuntimeError("/srv/elsewhere/secret")


def fail_in_group() -> None:
    raise ExceptionGroup("several", [OSError(24, "too many open files")])


def leave() -> None:
    sys.exit(3)


def end() -> None:
    """Return, as if there were nothing left to do."""


@pytest.mark.parametrize("how", [fail, fail_in_group, leave, end])
@requirement("server.supervision")
async def test_a_service_that_fails_is_started_again_later_each_time(
    how: Callable[[], None], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    """The delay doubles up to a limit; the log has the traceback, the reasons name the service and no more."""
    supervisor, service = Supervisor(), Fails(12, how)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep_running, "file watcher", service)
        await trio.sleep(0.1)
        (reason,) = supervisor.reasons
        assert reason.startswith("The file watcher ")
        assert "elsewhere" not in reason
        await trio.sleep(5000)
        assert len(service.started_at) == 13
        waits = [round(b - a) for a, b in zip(service.started_at, service.started_at[1:], strict=False)]
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]
        assert supervisor.reasons == []
        nursery.cancel_scope.cancel()
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 12
    assert "it is started again in 1 s" in failures[0].message
    assert bool(failures[0].exc_info) is (how is not end)


@requirement("server.supervision")
async def test_a_service_that_ran_well_for_long_starts_again_soon(autojump_clock: MockClock):
    """Its earlier failures don't count then; and it counts as recovered a while after its last one."""
    supervisor, service = Supervisor(), Fails(3, fail, after=PROBATION)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep_running, "probe", service)
        await trio.sleep(PROBATION + 0.5 * FIRST_DELAY)
        assert supervisor.reasons
        await trio.sleep(1000)
        waits = [b - a for a, b in zip(service.started_at, service.started_at[1:], strict=False)]
        assert waits == pytest.approx([PROBATION + FIRST_DELAY] * 3)
        assert not supervisor.reasons
        nursery.cancel_scope.cancel()


async def test_other_services_and_cancellation_are_left_alone(autojump_clock: MockClock):
    """One that fails takes no other with it, and a cancelled supervisor ends."""
    supervisor, bad, good = Supervisor(), Fails(1000, fail), Fails(0, fail)
    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.keep_running, "bad one", bad)
            await nursery.start(supervisor.keep_running, "good one", good)
    assert scope.cancelled_caught
    assert len(good.started_at) == 1
    assert len(bad.started_at) > 2


async def test_a_service_that_fails_before_it_has_started_keeps_nobody_waiting(autojump_clock: MockClock):
    """The process starts without it."""

    async def broken(*, task_status: trio.TaskStatus[None]) -> None:
        raise ImportError("no descriptors left")

    async with trio.open_nursery() as nursery:
        with trio.fail_after(1):
            await nursery.start(Supervisor().keep_running, "backups", broken)
        nursery.cancel_scope.cancel()
