"""Jobs: calls that outlast their budget, joined by the same call, with progress, cancellation and interruption."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import trio
from trio.testing import MockClock

from chora import jobs as module
from chora import settings
from chora.errors import Busy, ContentNotFound, JobCancelled, JobNotFound, StorageError
from chora.jobs import Jobs, PendingJob
from chora.protocol.types import Progress, ToolAnswer
from chora.settings import JobSettings as JobSettings
from chora.store import Job, SqliteStore
from chora.timestamps import format_timestamp
from chora.tools import TOOLS
from tests.conftest import OpenHttpClient, Project, content, requirement
from tests.patience import PATIENCE

DONE = ToolAnswer(b'{"success":true}', False)
SHORT = 0.02


class Work:
    """Work that runs until `may_end` is set, and records whether it was begun or stopped."""

    def __init__(self, answer: ToolAnswer = DONE) -> None:
        self.answer = answer
        self.begun = 0
        self.may_end = trio.Event()
        self.was_stopped = trio.Event()
        self.report: Progress = ignore_progress

    async def __call__(self, report: Progress) -> ToolAnswer:
        self.begun += 1
        self.report = report
        try:
            await self.may_end.wait()
        except trio.Cancelled:
            self.was_stopped.set()
            raise
        return self.answer


async def ignore_progress(done: float, total: float, message: str) -> None:
    """A progress callback that does nothing."""


class Listener:
    """A progress callback that keeps the steps it gets."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, str]] = []

    async def __call__(self, done: float, total: float, message: str) -> None:
        self.steps.append((done, total, message))


@asynccontextmanager
async def running_jobs(store: SqliteStore, **settings: Any) -> AsyncGenerator[Jobs]:
    """The jobs of one process, for as long as the block lasts."""
    jobs = Jobs(store, msgspec.structs.replace(JobSettings(call_budget=SHORT), **settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(jobs.serve)
        yield jobs
        nursery.cancel_scope.cancel()


async def call(jobs: Jobs, work: Callable[[Progress], Any], key: str = "key", **rest: Any) -> ToolAnswer | PendingJob:
    return await jobs.run_job(key, "some_tool", {"a": 1}, "ada", work, **rest)


async def pending_job(jobs: Jobs, work: Callable[[Progress], Any], **rest: Any) -> Job:
    """The job of a call whose work takes longer than it waits."""
    outcome = await call(jobs, work, **rest)
    assert isinstance(outcome, PendingJob)
    return outcome.job


async def wait_until(holds: Callable[[], Any], every: float = 0.005) -> None:
    """Wait until a condition holds that another task or thread brings about."""
    with trio.fail_after(1000 * every):
        while not holds():
            await trio.sleep(every)


@pytest.fixture
async def store() -> AsyncGenerator[SqliteStore]:
    opened = SqliteStore(None)
    yield opened
    opened.close()


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps ahead whenever all tasks and threads have been idle for a moment."""
    return MockClock(autojump_threshold=0.2)


def ago(seconds: float) -> str:
    return format_timestamp(datetime.now(UTC) - timedelta(seconds=seconds))


def stored_job(job_id: str = "job-1", **rest: Any) -> Job:
    """A job as the store keeps it."""
    job = Job(
        job_id=job_id,
        key="key",
        tool="some_tool",
        arguments={},
        principal="ada",
        status="running",
        created_at=ago(60),
        updated_at=ago(1),
    )
    return msgspec.structs.replace(job, **rest)


# -- within the budget and beyond it ----------------------------------------------------------------------------


async def test_work_within_the_budget_is_never_stored(store: SqliteStore):
    """The call gets the result directly."""
    async with running_jobs(store, call_budget=30) as jobs:
        work = Work()
        work.may_end.set()
        assert await call(jobs, work) == DONE
        assert await call(jobs, work) == DONE
        assert work.begun == 2
    assert store.jobs() == []


@requirement("jobs.outlive-calls")
async def test_a_call_beyond_its_budget_becomes_a_job_whose_result_is_given_once(store: SqliteStore):
    """The same call joins the job and gets the result; the call after that starts anew; other calls have their own
    jobs.
    """
    async with running_jobs(store) as jobs:
        work, other = Work(), Work()
        job = await pending_job(jobs, work)
        assert (job.tool, job.arguments, job.principal, job.status) == ("some_tool", {"a": 1}, "ada", "running")
        assert store.job(job.job_id) == job
        assert (await pending_job(jobs, work)).job_id == job.job_id
        assert (await pending_job(jobs, other, key="other")).job_id != job.job_id
        assert (work.begun, other.begun) == (1, 1)
        work.may_end.set()
        assert await call(jobs, work) == DONE
        await wait_until(lambda: jobs.find_job(job.job_id).status == "done")
        assert await call(jobs, work) == DONE
        assert work.begun == 2
        settled = store.job(job.job_id)
        assert settled is not None
        assert (settled.status, settled.result) == ("done", '{"success":true}')
        other.may_end.set()


async def test_a_result_is_kept_until_the_same_call_collects_it(store: SqliteStore):
    """When the work ended while no call waited, the same call gets the stored result at once, and only once."""
    async with running_jobs(store) as jobs:
        work = Work(DONE._replace(links=(("content://a", "a", "text/plain"),)))
        job = await pending_job(jobs, work)
        work.may_end.set()
        await wait_until(lambda: jobs.find_job(job.job_id).status == "done")
        answer = await call(jobs, work)
        assert isinstance(answer, ToolAnswer)
        assert (answer.body, answer.is_error, answer.code) == (DONE.body, False, "ok")
        assert [tuple(link) for link in answer.links] == [("content://a", "a", "text/plain")]
        assert work.begun == 1
        assert await call(jobs, work) == work.answer
        assert work.begun == 2


async def test_a_stored_failure_is_returned_as_an_error(store: SqliteStore):
    """With its error code, so that logs and metrics count it correctly; the call after that tries again."""
    async with running_jobs(store) as jobs:
        error = ContentNotFound("There is none.", "Make one.")
        work = Work(ToolAnswer(msgspec.json.encode(error.as_dict()), True, error.code, error.exit_code))
        job = await pending_job(jobs, work)
        work.may_end.set()
        await wait_until(lambda: jobs.find_job(job.job_id).status == "failed")
        assert await call(jobs, work) == work.answer
        assert work.begun == 1
        await call(jobs, work)
        assert work.begun == 2


async def test_an_expired_result_is_not_returned(store: SqliteStore):
    """The call expects the current state; the old result can still be looked up by the job's id."""
    old = stored_job(status="done", result='{"success":true}', updated_at=ago(module.RESULT_LIFETIME + 5))
    await store.save_job(old)
    async with running_jobs(store, call_budget=30) as jobs:
        work = Work(DONE._replace(body=b"{}"))
        work.may_end.set()
        assert await call(jobs, work) == work.answer
        assert jobs.find_job(old.job_id) == old


async def test_work_that_ends_while_its_job_is_being_stored_returns_its_result(store: SqliteStore):
    """The call doesn't report a running job when the result is there."""

    class Slow(SqliteStore):
        """Lets the work end in the middle of the first write."""

        async def save_job(self, job: Job) -> None:
            if not work.may_end.is_set():
                work.may_end.set()
                await wait_until(lambda: work.report.__self__.done.is_set())  # pyright: ignore[reportFunctionMemberAccess]
            await super().save_job(job)

    slow, work = Slow(None), Work()
    async with running_jobs(slow) as jobs:
        assert await call(jobs, work) == DONE
        await wait_until(lambda: [job.status for job in slow.jobs()] == ["done"])
    slow.close()


async def test_collecting_a_result_does_not_overwrite_the_final_state(store: SqliteStore):
    """A waiting call gets the result before it is stored; both writes happen, and the result stays readable."""
    async with running_jobs(store) as jobs:
        for turn in range(5):
            work = Work()
            job = await pending_job(jobs, work, key=str(turn))
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call, jobs, work, str(turn))
                await trio.testing.wait_all_tasks_blocked()
                work.may_end.set()
            await wait_until(lambda job=job: jobs.find_job(job.job_id).status == "done")
            await trio.sleep(0.05)
            settled = store.job(job.job_id)
            assert settled is not None
            assert (settled.status, settled.result) == ("done", '{"success":true}')


# -- progress ---------------------------------------------------------------------------------------------------


async def test_progress_reaches_every_waiter(store: SqliteStore):
    """Also those who joined later, up to the last step; the stored job holds the newest step."""
    async with running_jobs(store, call_budget=30) as jobs:
        work, listeners = Work(), [Listener(), Listener()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call(jobs, work, progress=listeners[0]))
            await trio.testing.wait_all_tasks_blocked()
            await work.report(1, 3, "one")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: call(jobs, work, progress=listeners[1]))
            nursery.start_soon(lambda: call(jobs, work))
            await trio.testing.wait_all_tasks_blocked()
            await work.report(2, 3, "two")
            await trio.testing.wait_all_tasks_blocked()
            await work.report(3, 3, "three")
            work.may_end.set()
        steps = [(1, 3, "one"), (2, 3, "two"), (3, 3, "three")]
        assert [listener.steps for listener in listeners] == [steps, steps]
    async with running_jobs(store) as jobs:
        work = Work()
        await pending_job(jobs, work)
        await work.report(5, 9, "five")
        assert (await pending_job(jobs, work)).progress == {"done": 5, "total": 9, "message": "five"}


async def test_a_slow_listener_misses_steps_and_does_not_delay_the_work(store: SqliteStore):
    """It still gets the last step."""
    async with running_jobs(store, call_budget=30) as jobs:
        work, steps = Work(), list[float]()
        awake = trio.Event()

        async def slow(done: float, total: float, message: str) -> None:
            steps.append(done)
            await awake.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call(jobs, work, progress=slow))
            await trio.testing.wait_all_tasks_blocked()
            for step in range(1, 100):
                await work.report(step, 99, "")
                await trio.testing.wait_all_tasks_blocked()
            work.may_end.set()
            await wait_until(lambda: not jobs._running)  # pyright: ignore[reportPrivateUsage]
            awake.set()
        assert steps == [1, 99]


# -- cancellation -----------------------------------------------------------------------------------------------


async def test_cancelling_the_only_waiter_stops_the_work(store: SqliteStore):
    """No call could get its result any more."""
    async with running_jobs(store, call_budget=30) as jobs:
        work = Work()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, jobs, work)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            await work.was_stopped.wait()
    assert store.jobs() == []


async def test_cancelling_one_of_two_waiters_does_not_stop_the_work(store: SqliteStore):
    """The other call still waits for the result."""
    async with running_jobs(store, call_budget=30) as jobs:
        work, answers = Work(), list[Any]()

        async def stay() -> None:
            answers.append(await call(jobs, work))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as leaving:
                await call(jobs, work)
            assert leaving.cancelled_caught
            await trio.testing.wait_all_tasks_blocked()
            assert not work.was_stopped.is_set()
            work.may_end.set()
        assert answers == [DONE]
        assert work.begun == 1


async def test_cancelling_the_call_of_a_job_does_not_stop_it(store: SqliteStore):
    """Once a call has returned a job, the job runs on its own."""
    async with running_jobs(store) as jobs:
        work = Work()
        job = await pending_job(jobs, work)
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(jobs, work)
        await trio.testing.wait_all_tasks_blocked()
        assert not work.was_stopped.is_set()
        assert jobs.find_job(job.job_id).status == "running"


async def test_a_call_after_a_cancelled_one_starts_new_work(store: SqliteStore):
    """It doesn't join the cancelled work, which may still have a manifest to write, but waits for it to end."""
    begun: list[str] = []
    may_stop = trio.Event()

    async def slow_to_stop(report: Progress) -> ToolAnswer:
        begun.append("slow_to_stop")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await may_stop.wait()
        raise AssertionError

    async def again(report: Progress) -> ToolAnswer:
        begun.append("again")
        return DONE

    async with running_jobs(store, call_budget=30) as jobs:
        with trio.move_on_after(0.01):
            await call(jobs, slow_to_stop)
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await call(jobs, again))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert begun == ["slow_to_stop"]
            may_stop.set()
        assert (begun, answers) == (["slow_to_stop", "again"], [DONE])


@requirement("jobs.cancel")
async def test_a_job_is_cancelled_on_request(store: SqliteStore):
    """The store has it as cancelled, a waiting call gets an error, and the same call starts over."""
    async with running_jobs(store) as jobs:
        work = Work()
        job = await pending_job(jobs, work)
        hints: list[str] = []

        async def wait() -> None:
            with pytest.raises(JobCancelled, match="some_tool was cancelled") as cancelled:
                await call(jobs, work)
            hints.append(str(cancelled.value.hint))

        jobs._settings = settings.JobSettings()  # pyright: ignore[reportPrivateUsage]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            ended = await jobs.cancel_job(job.job_id)
        assert (ended.job_id, ended.status, ended.result) == (job.job_id, "cancelled", None)
        assert hints == ["Call it again to start over."]
        await wait_until(lambda: jobs.find_job(job.job_id).status == "cancelled")
        assert (await jobs.cancel_job(job.job_id)).status == "cancelled", "it stays as it is"
        work.may_end.set()
        assert await call(jobs, work) == DONE
        assert work.begun == 2


async def test_cancelling_a_finished_or_unknown_job_changes_nothing(store: SqliteStore):
    """A finished job is returned as it is; an unknown id is an error."""
    done = stored_job(status="done", result="{}")
    await store.save_job(done)
    async with running_jobs(store) as jobs:
        assert await jobs.cancel_job(done.job_id) == done
        for what in (jobs.cancel_job("job-0"), jobs.cancel_job("x" * 999)):
            with pytest.raises(JobNotFound) as missing:
                await what
            assert missing.value.hint
            assert len(missing.value.message) < 120


# -- two processes ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_processes(tmp_path: Path, **settings: Any) -> AsyncGenerator[tuple[Jobs, Jobs]]:
    """The jobs of two processes that share one database."""
    one, other = SqliteStore(tmp_path / "s.db"), SqliteStore(tmp_path / "s.db")
    async with running_jobs(one, **settings) as here, running_jobs(other, **settings) as there:
        yield here, there
    one.close()
    other.close()


@requirement("jobs.same-call-joins")
@pytest.mark.slow("time passes in steps of a poll, each when the threads have been idle")
async def test_a_job_of_another_process_is_joined(tmp_path: Path, autojump_clock: MockClock):
    """Its progress and its result are read from the store; the work isn't begun twice."""
    async with two_processes(tmp_path, call_budget=20) as (here, there):
        work, listener = Work(), Listener()
        job = await pending_job(here, work)
        async with trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def join() -> None:
                answers.append(await call(there, Work(), progress=listener))

            nursery.start_soon(join)
            await trio.sleep(1)
            await work.report(4, 7, "four")
            await trio.sleep(2 * module.HEARTBEAT_INTERVAL)
            assert there.list_jobs()[0].progress["message"] == "four"
            work.may_end.set()
        assert answers == [DONE]
        assert listener.steps == [(4, 7, "four")]
        assert work.begun == 1
        assert there.find_job(job.job_id).status == "done"


async def test_a_call_that_joins_another_process_keeps_to_its_own_budget(tmp_path: Path):
    """After the budget it answers that the job is running, as the first call did."""
    async with two_processes(tmp_path) as (here, there):
        job = await pending_job(here, Work())
        assert (await pending_job(there, Work())).job_id == job.job_id


@requirement("jobs.cancel")
async def test_a_job_is_cancelled_from_another_process(tmp_path: Path, autojump_clock: MockClock):
    """The process that runs it notices within seconds, and the canceller gets the final state."""
    async with two_processes(tmp_path, call_budget=1) as (here, there):
        work = Work()
        job = await pending_job(here, work)
        assert (await there.cancel_job(job.job_id)).status == "cancelled"
        assert work.was_stopped.is_set()
        assert here.find_job(job.job_id).status == there.find_job(job.job_id).status == "cancelled"
        with pytest.raises(JobNotFound):
            await there.cancel_job("job-0")


async def test_a_cancel_request_survives_a_heartbeat_at_the_same_moment(tmp_path: Path, autojump_clock: MockClock):
    """A heartbeat of the job's own process may overwrite the request, so the request is repeated."""
    async with two_processes(tmp_path, call_budget=1) as (here, there):
        work = Work()
        job = await pending_job(here, work)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.cancel_job, job.job_id)
            await trio.sleep(module.POLL_INTERVAL / 2)
            await here._store.save_job(job)  # pyright: ignore[reportPrivateUsage]
            with trio.fail_after(3 * module.HEARTBEAT_INTERVAL):
                await work.was_stopped.wait()


@pytest.mark.slow("time passes in steps of a poll, each when the threads have been idle")
async def test_a_call_waiting_for_a_job_of_another_process_learns_that_it_was_cancelled(
    tmp_path: Path, autojump_clock: MockClock
):
    """It gets the same error as for a job of its own process."""
    async with two_processes(tmp_path, call_budget=20) as (here, there):
        work = Work()
        job = await pending_job(here, work)

        async def wait() -> None:
            with pytest.raises(JobCancelled, match="some_tool was cancelled"):
                await call(there, Work())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            await here.cancel_job(job.job_id)


@pytest.mark.slow("time passes in steps of a poll, each when the threads have been idle")
async def test_a_cancel_request_without_a_process_times_out(store: SqliteStore, autojump_clock: MockClock):
    """The process may be gone; the job counts as running until its heartbeat times out."""
    await store.save_job(stored_job(updated_at=ago(0)))
    async with running_jobs(store) as jobs:
        assert (await jobs.cancel_job("job-1")).status == "running"


# -- processes that end -----------------------------------------------------------------------------------------


@requirement("jobs.interrupted")
async def test_a_job_whose_process_died_is_interrupted(store: SqliteStore):
    """Its heartbeat has timed out; the same call starts it again, and the job can still be looked up."""
    await store.save_job(stored_job(updated_at=ago(module.HEARTBEAT_TIMEOUT + 5)))
    await store.save_job(stored_job("job-2", key="other", updated_at=ago(module.HEARTBEAT_TIMEOUT - 5)))
    async with running_jobs(store) as jobs:
        assert {job.job_id: job.status for job in jobs.list_jobs()} == {"job-1": "interrupted", "job-2": "running"}
        assert jobs.find_job("job-1").status == "interrupted"
        assert (await jobs.cancel_job("job-1")).status == "interrupted"
        work = Work()
        work.may_end.set()
        assert await call(jobs, work) == DONE
        assert isinstance(await call(jobs, work, key="other"), PendingJob)
        assert work.begun == 1


async def test_jobs_are_interrupted_at_shutdown(store: SqliteStore):
    """The work is stopped, the store has the job as interrupted, and a waiting call gets an error."""
    work, errors = Work(), list[JobCancelled]()

    async with trio.open_nursery() as calls:
        async with running_jobs(store) as jobs:
            job = await pending_job(jobs, work)
            jobs._settings = settings.JobSettings()  # pyright: ignore[reportPrivateUsage]

            async def wait() -> None:
                with pytest.raises(JobCancelled) as cancelled:
                    await call(jobs, work)
                errors.append(cancelled.value)

            calls.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Busy, match="starting or stopping"):
            await call(jobs, work, key="other")
    assert len(errors) == 1
    assert work.was_stopped.is_set()
    settled = store.job(job.job_id)
    assert settled is not None
    assert settled.status == "interrupted"


async def test_a_running_job_sends_heartbeats(store: SqliteStore, autojump_clock: MockClock):
    """So that no other process takes it for interrupted, however long it runs."""
    async with running_jobs(store, call_budget=1) as jobs:
        job = await pending_job(jobs, Work())
        before = job.updated_at
        await wait_until(lambda: jobs.find_job(job.job_id).updated_at > before, 1)
        await wait_until(lambda: (store.job(job.job_id) or job).updated_at > before, 1)


# -- bounds and failures ----------------------------------------------------------------------------------------


async def test_running_jobs_are_limited(store: SqliteStore):
    """One more is refused with a hint; joining a running job isn't counted; a finished one makes room."""
    async with running_jobs(store, running=2) as jobs:
        first, second = Work(), Work()
        await pending_job(jobs, first, key="1")
        await pending_job(jobs, second, key="2")
        with pytest.raises(Busy, match="2 jobs are running already") as busy:
            await call(jobs, Work(), key="3")
        assert busy.value.details == {"limit": "jobs.running"}
        assert busy.value.hint
        await pending_job(jobs, first, key="1")
        first.may_end.set()
        assert await call(jobs, first, key="1") == DONE
        await pending_job(jobs, Work(), key="3")


class Refusing(SqliteStore):
    """A store that can be set to refuse jobs."""

    refuses = False

    async def save_job(self, job: Job) -> None:
        if self.refuses:
            raise StorageError("The database failed: full.", "Free some disk space.")
        await super().save_job(job)


@pytest.fixture
async def refusing() -> AsyncGenerator[Refusing]:
    opened = Refusing(None)
    yield opened
    opened.close()


async def test_a_store_that_fails_while_a_job_ends_loses_no_result(
    refusing: Refusing, caplog: pytest.LogCaptureFixture
):
    """A waiting call gets the result; the log names what couldn't be stored, and the process goes on."""
    async with running_jobs(refusing) as jobs:
        work = Work()
        await pending_job(jobs, work)
        refusing.refuses = True
        jobs._settings = settings.JobSettings()  # pyright: ignore[reportPrivateUsage]
        work.may_end.set()
        assert await call(jobs, work) == DONE
        await trio.testing.wait_all_tasks_blocked(0.01)
        said = [record.getMessage() for record in caplog.records]
        assert any("the result of job-" in line and "The database failed" in line for line in said)
        assert any("may be returned again" in line for line in said)
        refusing.refuses = False
        assert await call(jobs, work, key="other") == DONE


async def test_a_store_that_fails_when_a_call_gives_up_waiting_fails_the_call(refusing: Refusing):
    """The work goes on, and the same call joins it."""
    async with running_jobs(refusing) as jobs:
        refusing.refuses = True
        work = Work()
        with pytest.raises(StorageError, match="failed: full"):
            await call(jobs, work)
        refusing.refuses = False
        assert not work.was_stopped.is_set()
        await pending_job(jobs, work)
        work.may_end.set()
        assert await call(jobs, work) == DONE
        assert work.begun == 1


async def test_a_heartbeat_that_cannot_be_stored_does_not_end_the_job(
    refusing: Refusing, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
):
    """The failure is logged, and the next heartbeat is stored."""
    async with running_jobs(refusing, call_budget=1) as jobs:
        work = Work()
        job = await pending_job(jobs, work)
        refusing.refuses = True
        silence = "couldn't be stored"
        await wait_until(lambda: any(silence in record.getMessage() for record in caplog.records), 1)
        refusing.refuses = False
        await wait_until(lambda: (refusing.job(job.job_id) or job).updated_at > job.updated_at, 1)
        assert not work.was_stopped.is_set()


async def test_old_jobs_are_deleted(store: SqliteStore):
    """Those that ended, or whose process did, before `keep_days`; running ones stay."""
    days = 86_400
    for number, (status, age) in enumerate(
        [("done", 8), ("failed", 8), ("cancelled", 8), ("interrupted", 8), ("running", 8), ("done", 6), ("running", 0)]
    ):
        await store.save_job(stored_job(f"job-{number}", status=status, updated_at=ago(age * days)))
    async with running_jobs(store) as jobs:
        assert await jobs.delete_old_jobs() == 5
        assert sorted(job.job_id for job in jobs.list_jobs()) == ["job-5", "job-6"]
        assert await jobs.delete_old_jobs() == 0
        jobs._settings = settings.JobSettings(keep_days=1e9)  # pyright: ignore[reportPrivateUsage]
        assert await jobs.delete_old_jobs() == 0, "for ever, more or less"


# -- over HTTP --------------------------------------------------------------------------------------------------

SLOW = """
import trio
from chora.generators.generator import GeneratedText
NAME, VERSION, DESCRIPTION, CAPABILITIES = "slow", "1", "Waits.", ()
may_end, made = trio.Event(), 0
async def generate(job):
    global made
    made += 1
    await may_end.wait()
    if job.context.get("fail"):
        raise job.failed(NAME, "the context says so", "Change the context.")
    return GeneratedText("tides " * 100_000)
"""


def structured(response: Any, tool: str = "generate_content") -> dict[str, Any]:
    """The structured content of a tool's result, validated against the tool's output schema."""
    result = response.json()["result"]
    jsonschema.validate(result["structuredContent"], TOOLS[tool].output_schema)
    assert result.get("isError", False) is not result["structuredContent"]["success"]
    return result["structuredContent"]


def allow_time(jobs: Jobs, seconds: float = PATIENCE) -> None:
    """Give the calls from now on another budget; a short one may be too short for a quick call on a busy machine."""
    jobs._settings = msgspec.structs.replace(jobs._settings, call_budget=seconds)  # pyright: ignore[reportPrivateUsage]


async def test_a_slow_call_over_http_returns_a_running_job(hello: Project, http_client: OpenHttpClient):
    """The same call later gets the result, be it a text or an error."""
    hello.write("slow.py", SLOW)
    hello.write("chora.toml", '[plugins]\ngenerators = ["slow.py"]\n')
    hello.save(content("tides", pattern={"type": "slow"}))
    async with http_client(jobs__call_budget=0.2) as client:
        await client.initialize()
        slow = client.running.engine.generators.by_name["slow"].module
        running = structured(await client.call("generate_content", content_config_id="tides"))
        assert (running["status"], running["success"]) == ("running", True)
        assert running["hint"]
        again = structured(await client.call("generate_content", content_config_id="tides", force=None))
        assert again["job"] == running["job"]
        engine = client.running.engine
        allow_time(engine.jobs)
        slow.may_end.set()
        await wait_until(lambda: engine.jobs.find_job(running["job"]).status == "done")
        response = await client.call("generate_content", content_config_id="tides")
        made = structured(response)
        assert (made["status"], made["content_length"], made["truncated"]) == ("skipped", 600_000, True)
        (link,) = [part for part in response.json()["result"]["content"] if part["type"] == "resource_link"]
        assert link["uri"] == made["resource"]
        assert slow.made == 1
        slow.__dict__["may_end"] = trio.Event()
        allow_time(engine.jobs, 0.2)
        failing = {"content_config_id": "tides", "context": {"fail": True}}
        running = structured(await client.call("generate_content", **failing))
        allow_time(engine.jobs)
        slow.may_end.set()
        await wait_until(lambda: engine.jobs.find_job(running["job"]).status == "failed")
        failed = structured(await client.call("generate_content", **failing))
        assert failed["error"]["code"] == "generation_failed"
        assert failed["error"]["details"]["generator_type"] == "slow"


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_cancelling_a_call_within_its_budget_stops_its_work(
    hello: Project, http_client: OpenHttpClient, era: str
):
    """By a notification, or in the modern era by closing the connection; no other call waits for the work."""
    hello.write("slow.py", SLOW)
    hello.write("chora.toml", '[plugins]\ngenerators = ["slow.py"]\n')
    hello.save(content("tides", pattern={"type": "slow"}))
    async with http_client() as client:
        await client.initialize()
        jobs = client.running.engine.jobs
        call = {"name": "generate_content", "arguments": {"content_config_id": "tides"}}

        async def wait() -> None:
            if era == "modern":
                await client.ask_modern("tools/call", call)
            else:
                await client.ask("tools/call", call, id=7)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_until(lambda: jobs._running)  # pyright: ignore[reportPrivateUsage]
            if era == "legacy":
                gone = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
                await client.post(gone)
            else:
                nursery.cancel_scope.cancel()
        await wait_until(lambda: not jobs._running)  # pyright: ignore[reportPrivateUsage]
        assert jobs.list_jobs() == []


async def test_an_outdated_result_is_not_returned(hello: Project, http_client: OpenHttpClient):
    """A skipped call in between discards it: once the config has changed, the same call generates the new text."""
    hello.write("slow.py", SLOW)
    hello.write("chora.toml", '[plugins]\ngenerators = ["slow.py"]\n')
    hello.save(content("tides", pattern={"type": "slow"}))
    async with http_client(jobs__call_budget=0.2) as client:
        await client.initialize()
        engine = client.running.engine
        slow = engine.generators.by_name["slow"].module
        running = structured(await client.call("generate_content", content_config_id="tides"))
        allow_time(engine.jobs)
        slow.may_end.set()
        await wait_until(lambda: engine.jobs.find_job(running["job"]).status == "done")
        assert structured(await client.call("generate_content", content_config_id="tides"))["status"] == "skipped"
        hello.save({**content("tides", pattern={"type": "slow"}), "instructions": {"global": "Another one"}})
        made = structured(await client.call("generate_content", content_config_id="tides"))
        assert (made["status"], slow.made) == ("regenerated", 2)


async def test_the_stored_result_of_regenerate_content_is_complete(hello: Project, http_client: OpenHttpClient):
    """It comes from the store with its links, once; the call after that regenerates again."""
    hello.write("slow.py", SLOW)
    hello.write("chora.toml", '[plugins]\ngenerators = ["slow.py"]\n')
    hello.save(content("tides", pattern={"type": "slow"}))
    async with http_client(jobs__call_budget=0.2) as client:
        await client.initialize()
        engine, name = client.running.engine, "regenerate_content"
        slow = engine.generators.by_name["slow"].module
        running = structured(await client.call(name, content_config_id="tides"), name)
        allow_time(engine.jobs)
        slow.may_end.set()
        await wait_until(lambda: engine.jobs.find_job(running["job"]).status == "done")
        response = await client.call(name, content_config_id="tides")
        made = structured(response, name)
        assert (made["status"], made["content_length"], made["truncated"]) == ("regenerated", 600_000, True)
        (link,) = [part for part in response.json()["result"]["content"] if part["type"] == "resource_link"]
        assert link["uri"] == made["resource"]
        assert slow.made == 1
        assert structured(await client.call(name, content_config_id="tides"), name)["previous_version"]
        assert slow.made == 2


@requirement("server.jobs-drain")
async def test_running_jobs_get_the_grace_at_the_end(store: SqliteStore, autojump_clock: MockClock):
    """From when the process is asked to stop: one that ends within it is done, and no longer is waited for another."""
    async with running_jobs(store) as jobs, trio.open_nursery() as nursery:
        quick, slow, stopping = Work(), Work(), trio.Event()
        await pending_job(jobs, quick, key="quick")
        nursery.start_soon(jobs.finish, stopping, 0.5)
        await trio.sleep(1)
        assert nursery.child_tasks, "nobody has asked it to stop"
        stopping.set()
        quick.may_end.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        await pending_job(jobs, slow, key="slow")
        before = trio.current_time()
        await jobs.finish(stopping, 0.5)
        assert trio.current_time() - before == pytest.approx(0.5)
        assert not slow.was_stopped.is_set()
