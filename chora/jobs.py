"""Jobs: work that may outlive the call that started it.

Desktop clients time out after a minute. So the work of a long call runs in a nursery of its own; the call waits for it
up to a budget and then returns that it is running. The same call again joins the job, or gets its result. When a call
stops waiting, the job is stored: it can be listed, shown and cancelled from any process of the project, and a job whose
process died counts as interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import trio

from chora import settings
from chora.errors import CATEGORIES, Busy, ChoraError, JobCancelled, JobNotFound, subclasses
from chora.protocol.types import Progress, ToolAnswer
from chora.store.records import Job
from chora.store.store import DELETED_AT_ONCE, Store
from chora.supervision import Supervisor
from chora.timestamps import days_before_now, format_timestamp, now

log = logging.getLogger("chora.jobs")

HEARTBEAT_INTERVAL = 2.0
"""Seconds between two heartbeats of a running job, at which it also notices that another process cancelled it."""
HEARTBEAT_TIMEOUT = 30.0
"""Seconds without a heartbeat after which the process of a job counts as dead."""
POLL_INTERVAL = 0.5
"""Seconds between two checks of a job of another process."""
RESULT_LIFETIME = 900.0
"""Seconds for which the same call gets a stored result; a later call starts the work again."""


class _Ended(NamedTuple):
    """A job that has ended; its arguments and result, which may be large, are in the store only."""

    job_id: str
    updated_at: str


class PendingJob(NamedTuple):
    """A job that is still running when its call has to return."""

    job: Job


class RunningJob:
    """A job of this process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.progressed = trio.Event()
        self.answer: ToolAnswer | None = None
        self.failure: Exception | None = None
        """What the work raised; the calls that wait for it get it."""
        self.waiting_calls = 0
        self.is_stored = False
        """Whether it is in the store, because a call stopped waiting for it."""
        self.is_cancel_requested = False

    async def report_progress(self, done: float, total: float, message: str) -> None:
        """The progress callback for the work; never waits."""
        progress = {"done": done, "total": total, "message": message}
        self.job = msgspec.structs.replace(self.job, progress=progress)
        self.progressed.set()
        self.progressed = trio.Event()


class Jobs:
    """The jobs of one project.

    Args:
        store: the store of jobs.
        settings: how long a call waits, how many jobs may run, and how long results are kept.
        supervisor: keeps the heartbeats going.
    """

    def __init__(self, store: Store, settings: settings.JobSettings, supervisor: Supervisor | None = None) -> None:
        self._store = store
        self._supervisor = supervisor or Supervisor()
        self._settings = settings
        self._nursery: trio.Nursery | None = None
        self._running: dict[str, RunningJob] = {}
        self._undelivered: dict[str, _Ended] = {}
        """Jobs of this process whose results weren't returned yet, by key."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: runs the jobs. When it is cancelled, running ones are stored as interrupted."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._supervisor.keep_running, "heartbeats of jobs", self._send_heartbeats)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def finish(self, stopping: trio.Event, grace: float) -> None:
        """Wait for the end of the running jobs, at most for `grace` seconds after `stopping` was set.

        What has outlived its call gets as long as a call would.
        """
        await stopping.wait()
        with trio.move_on_after(grace):
            while self._running:
                await next(iter(self._running.values())).done.wait()

    async def run_job(
        self,
        key: str,
        tool: str,
        arguments: dict[str, Any],
        principal: str,
        work: Callable[[Progress], Awaitable[ToolAnswer]],
        progress: Progress | None = None,
    ) -> ToolAnswer | PendingJob:
        """Do work, or join the same work in progress, and wait for it within the call budget.

        Args:
            key: the identity of the call.
            tool, arguments, principal: what is stored about the call.
            work: does the work; called with a progress callback.
            progress: called with the same progress while this call waits.

        Cancellation stops the work, unless another call waits for it or it is stored as a job.

        Raises:
            Busy: too many jobs are running, or the process is starting or stopping.
        """
        while (running := self._running.get(key)) is not None and running.scope.cancel_called:
            await running.done.wait()  # it was cancelled, but is still cleaning up
        if running is None:
            equal_job = self._find_equal_job(key)
            if equal_job is not None:
                return await self._wait_for_other_process(equal_job, progress)
            running = self._start_job(key, tool, arguments, principal, work)
        running.waiting_calls += 1
        try:
            with trio.move_on_after(self._settings.call_budget):
                if progress is None:
                    await running.done.wait()
                else:
                    await self._wait_reporting(running, progress)
        except trio.Cancelled:
            if running.waiting_calls == 1 and not running.is_stored:
                running.scope.cancel()
            raise
        finally:
            running.waiting_calls -= 1
        if not running.done.is_set():
            await self._store_job(running)  # it may end meanwhile
        if running.answer is not None:
            if running.is_stored:
                await self._mark_delivered(running.job)
            return running.answer
        if running.failure is not None:
            raise running.failure
        if running.done.is_set():
            raise JobCancelled(f"{tool} was cancelled.", "Call it again to start over.", job=running.job.job_id)
        return PendingJob(running.job)

    async def _wait_reporting(self, running: RunningJob, progress: Progress) -> None:
        """Wait for the end, and report progress until then."""
        reported: dict[str, Any] = {}
        while True:
            progressed, current = running.progressed, running.job.progress
            if current is not reported and current:
                reported = current
                await progress(current["done"], current["total"], current["message"])
            elif running.done.is_set():
                return
            else:
                await progressed.wait()

    def _start_job(
        self,
        key: str,
        tool: str,
        arguments: dict[str, Any],
        principal: str,
        work: Callable[[Progress], Awaitable[ToolAnswer]],
    ) -> RunningJob:
        if self._nursery is None:
            raise Busy("chora is starting or stopping.", "Try again in a moment.")
        if sum(running.is_stored for running in self._running.values()) >= self._settings.running:
            raise Busy(
                f"{self._settings.running} jobs are running already.",
                "Wait for one of them, or cancel one; `chora jobs` lists them.",
                limit="jobs.running",
            )
        moment = datetime.now(UTC)
        job = Job(
            job_id=f"job-{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z-{secrets.token_hex(3)}",
            key=key,
            tool=tool,
            arguments=arguments,
            principal=principal,
            status="running",
            created_at=format_timestamp(moment),
            updated_at=format_timestamp(moment),
        )
        running = self._running[key] = RunningJob(job)
        self._nursery.start_soon(self._perform_job, running, work)
        return running

    async def _perform_job(self, running: RunningJob, work: Callable[[Progress], Awaitable[ToolAnswer]]) -> None:
        try:
            with running.scope:
                running.answer = await work(running.report_progress)
        except Exception as error:  # one job's failure is nobody else's
            running.failure = error
            log.error("%s failed as a job", running.job.tool, exc_info=error)
        finally:
            del self._running[running.job.key]
            running.done.set()
            running.progressed.set()
            if running.is_stored:
                with trio.CancelScope(shield=True):
                    await self._store_result(running)

    async def _store_result(self, running: RunningJob) -> None:
        """Store the outcome of a job."""
        if running.answer is not None:
            status = "failed" if running.answer.is_error else "done"
        else:
            status = "cancelled" if running.is_cancel_requested else "interrupted"
        result, progress = None, running.job.progress
        if running.answer is not None:
            result = running.answer.body.decode()
            progress = {**progress, "links": running.answer.links} if running.answer.links else progress
        running.job = msgspec.structs.replace(
            running.job, status=status, updated_at=now(), result=result, progress=progress
        )
        if result is not None:
            self._undelivered[running.job.key] = _Ended(running.job.job_id, running.job.updated_at)
        try:
            await self._store.save_job(running.job)
        except ChoraError as error:
            log.warning("the result of %s couldn't be stored: %s", running.job.job_id, error.message)

    async def _store_job(self, running: RunningJob) -> None:
        if not running.is_stored:
            running.is_stored = True
            running.job = msgspec.structs.replace(running.job, updated_at=now())
            await self._store.save_job(running.job)
            if running.done.is_set():  # it ended while it was being stored
                await self._store_result(running)

    # -- jobs of other calls and other processes --

    def _find_equal_job(self, key: str) -> Job | None:
        """The same work in another process, or its result if that wasn't returned yet."""
        job = self._store.latest_job(key)
        if job is None or job.progress.get("delivered"):
            return None
        job = _with_current_status(job)
        if job.status in ("done", "failed"):
            return job if _is_result_current(job) else None
        return job if job.status == "running" else None

    async def _wait_for_other_process(self, job: Job, progress: Progress | None) -> ToolAnswer | PendingJob:
        """Wait for a job that another process runs."""
        reported: dict[str, Any] = {}
        with trio.move_on_after(self._settings.call_budget):
            while job.status == "running":
                current = job.progress
                if progress is not None and current != reported and "done" in current:
                    reported = current
                    await progress(current["done"], current["total"], current["message"])
                await trio.sleep(POLL_INTERVAL)
                job = self.find_job(job.job_id)
        if job.status == "running":
            return PendingJob(job)
        if job.result is None:
            raise JobCancelled(f"{job.tool} was {job.status}.", "Call it again to start over.", job=job.job_id)
        await self._mark_delivered(job)
        return _stored_answer(job, job.result)

    @property
    def has_undelivered_results(self) -> bool:
        """Whether there are results that weren't returned yet."""
        return bool(self._undelivered)

    async def discard_result(self, key: str) -> None:
        """Discard the result of a job, because the same call was answered without it."""
        if (ended := self._undelivered.pop(key, None)) is None:
            return
        with contextlib.suppress(ChoraError):  # then it may be returned again
            if (job := self._store.job(ended.job_id)) is not None:
                await self._mark_delivered(job)

    async def _mark_delivered(self, job: Job) -> None:
        self._undelivered.pop(job.key, None)
        delivered = msgspec.structs.replace(job, progress={**job.progress, "delivered": True})
        try:
            await self._store.save_job(delivered)
        except ChoraError as error:
            log.warning(
                "the delivery of %s couldn't be stored, so its result may be returned again: %s",
                job.job_id,
                error.message,
            )

    def find_job(self, job_id: str) -> Job:
        """Find a job by its id, with its current status.

        Raises:
            JobNotFound: there is none.
        """
        for running in self._running.values():
            if running.job.job_id == job_id:
                return running.job
        stored = self._store.job(job_id)
        if stored is None:
            raise JobNotFound(f"There is no job {job_id[:80]!r}.", "`chora jobs` lists them.", job=job_id[:80])
        return _with_current_status(stored)

    def list_jobs(self, limit: int | None = None) -> list[Job]:
        """The jobs that outlived their calls, newest first; at most `limit`."""
        running_here = {running.job.job_id: running.job for running in self._running.values()}
        return [running_here.get(job.job_id) or _with_current_status(job) for job in self._store.jobs(limit)]

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel a job and wait for its end, a few seconds at most if another process runs it. A job that has ended
        stays unchanged.

        Raises:
            JobNotFound: there is none.
        """
        for running in self._running.values():
            if running.job.job_id == job_id:
                running.is_cancel_requested = True
                running.scope.cancel()
                await running.done.wait()
                return running.job
        job = self.find_job(job_id)
        with trio.move_on_after(2 * HEARTBEAT_INTERVAL):
            while job.status == "running":
                if not job.progress.get(
                    "cancel"
                ):  # not requested yet, or overwritten by a heartbeat at the same moment
                    cancelled = msgspec.structs.replace(job, progress={**job.progress, "cancel": True})
                    await self._store.save_job(cancelled)
                await trio.sleep(POLL_INTERVAL)
                job = self.find_job(job_id)
        return job

    async def _send_heartbeats(self, *, task_status: trio.TaskStatus[None]) -> None:
        """A service: renews the heartbeats of stored jobs, and cancels those that another process wants cancelled."""
        while True:
            await trio.sleep(HEARTBEAT_INTERVAL)
            for running in [each for each in self._running.values() if each.is_stored]:
                if running.done.is_set():  # while the previous one was stored
                    continue
                try:
                    kept = self._store.job(running.job.job_id)
                    if kept is not None and kept.progress.get("cancel"):
                        running.is_cancel_requested = True
                        running.scope.cancel()
                    else:
                        running.job = msgspec.structs.replace(running.job, updated_at=now())
                        await self._store.save_job(running.job)
                except ChoraError as error:
                    log.warning("the heartbeat of %s couldn't be stored: %s", running.job.job_id, error.message)

    async def delete_old_jobs(self) -> int:
        """Delete jobs that ended longer ago than results are kept; returns their number."""
        self._undelivered = {key: ended for key, ended in self._undelivered.items() if _is_result_current(ended)}
        before, count = days_before_now(self._settings.keep_days), 0
        # One that runs isn't among them: its heartbeat changes its time.
        while old := self._store.jobs_before(before, DELETED_AT_ONCE):
            await self._store.delete_jobs(old)
            count += len(old)
        return count


def _stored_answer(job: Job, result: str) -> ToolAnswer:
    """The answer of a job, from its stored result."""
    links = tuple(job.progress.get("links", ()))
    if job.status == "done":
        return ToolAnswer(result.encode(), False, links=links)
    code = msgspec.json.decode(result)["error"]["code"]
    kind = next((each for each in subclasses() if each.code == code), ChoraError)
    return ToolAnswer(result.encode(), True, code, CATEGORIES[kind.category].exit_code, links)


def _is_result_current(job: Job | _Ended) -> bool:
    return job.updated_at >= format_timestamp(datetime.now(UTC) - timedelta(seconds=RESULT_LIFETIME))


def _with_current_status(job: Job) -> Job:
    """A stored job with its current status: interrupted if it has had no heartbeat for `HEARTBEAT_TIMEOUT`."""
    if job.status == "running" and job.updated_at < format_timestamp(
        datetime.now(UTC) - timedelta(seconds=HEARTBEAT_TIMEOUT)
    ):
        return msgspec.structs.replace(job, status="interrupted")
    return job
