"""Work that may outlive its call.

Desktop clients give up on a call after a minute. So the work of a long call runs in a nursery of its own; the call
waits for it up to a budget and then answers that it is running. The same call again joins it, or gets its result.
From the moment a call stopped waiting, the job is in the store: it can be listed, looked at and cancelled from any
process of the project, and one whose process died is known to be interrupted.
"""

from __future__ import annotations

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
from chora.store.store import Store
from chora.timestamps import days_before_now, format_timestamp, now

log = logging.getLogger("chora.jobs")

HEARTBEAT = 2.0
"""Seconds between two signs of life of a running job; also how long another process's wish to cancel may take."""
SILENCE = 30.0
"""Seconds without a sign of life after which a job's process counts as dead."""
POLL = 0.5
"""Seconds between two looks at a job of another process."""
AWAITED = 900.0
"""Seconds for which a result waits for its call; a later one is meant for what is there by then."""


class Pending(NamedTuple):
    """A job that is still running when its call has to be answered."""

    job: Job


class _Running:
    """A job of this process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.moved = trio.Event()
        self.answer: ToolAnswer | None = None
        self.waiting = 0
        self.is_kept = False
        """In the store, because a call stopped waiting for it."""
        self.is_unwanted = False

    async def report(self, done: float, total: float, message: str) -> None:
        """What the work is given to tell how far it is; never waits for whoever listens."""
        progress = {"done": done, "total": total, "message": message}
        self.job = msgspec.structs.replace(self.job, progress=progress)
        self.moved.set()
        self.moved = trio.Event()


class Jobs:
    """The jobs of one project.

    Args:
        store: where they are kept.
        settings: how long a call waits, how many may run, and how long results are kept.
    """

    def __init__(self, store: Store, settings: settings.JobSettings) -> None:
        self._store = store
        self._settings = settings
        self._nursery: trio.Nursery | None = None
        self._running: dict[str, _Running] = {}
        self._awaited: dict[str, Job] = {}
        """Jobs of this process whose results nobody was given yet, by key."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: runs the jobs. When it is cancelled, the running ones are interrupted, and the store says so."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._beat)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def run(
        self,
        key: str,
        tool: str,
        arguments: dict[str, Any],
        principal: str,
        work: Callable[[Progress], Awaitable[ToolAnswer]],
        progress: Progress | None = None,
    ) -> ToolAnswer | Pending:
        """Do work, or join the same work under way, and wait for it as long as a call may.

        Args:
            key: tells the same call from another.
            tool, arguments, principal: what is called by whom, for the record.
            work: does it; given a function that it tells how far it is.
            progress: told the same, as long as this call waits.

        Being cancelled stops the work, unless somebody else waits for it or it is a job already.

        Raises:
            Busy: too many jobs are running, or the process is starting or stopping.
        """
        while (running := self._running.get(key)) is not None and running.scope.cancel_called:
            await running.done.wait()  # it was given up, but has something to put in order yet
        if running is None:
            kept = self._find_same(key)
            if kept is not None:
                return await self._follow(kept, progress)
            running = self._start(key, tool, arguments, principal, work)
        running.waiting += 1
        try:
            with trio.move_on_after(self._settings.call_budget):
                if progress is None:
                    await running.done.wait()
                else:
                    await self._wait_telling(running, progress)
        except trio.Cancelled:
            if running.waiting == 1 and not running.is_kept:
                running.scope.cancel()
            raise
        finally:
            running.waiting -= 1
        if not running.done.is_set():
            await self._keep(running)  # it may well end meanwhile
        if running.answer is not None:
            if running.is_kept:
                await self._mark_delivered(running.job)
            return running.answer
        if running.done.is_set():
            raise JobCancelled(f"{tool} was cancelled.", "Call it again to start anew.", job=running.job.job_id)
        return Pending(running.job)

    async def _wait_telling(self, running: _Running, progress: Progress) -> None:
        """Wait for the end, and tell of every step up to the last one."""
        told: dict[str, Any] = {}
        while True:
            moved, said = running.moved, running.job.progress
            if said is not told and said:
                told = said
                await progress(said["done"], said["total"], said["message"])
            elif running.done.is_set():
                return
            else:
                await moved.wait()

    def _start(
        self,
        key: str,
        tool: str,
        arguments: dict[str, Any],
        principal: str,
        work: Callable[[Progress], Awaitable[ToolAnswer]],
    ) -> _Running:
        if self._nursery is None:
            raise Busy("chora is starting or stopping.", "Try again in a moment.")
        if sum(running.is_kept for running in self._running.values()) >= self._settings.running:
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
        running = self._running[key] = _Running(job)
        self._nursery.start_soon(self._do, running, work)
        return running

    async def _do(self, running: _Running, work: Callable[[Progress], Awaitable[ToolAnswer]]) -> None:
        try:
            with running.scope:
                running.answer = await work(running.report)
        finally:
            del self._running[running.job.key]
            running.done.set()
            running.moved.set()
            if running.is_kept:
                with trio.CancelScope(shield=True):
                    await self._settle(running)

    async def _settle(self, running: _Running) -> None:
        """Store how a job ended."""
        if running.answer is not None:
            status = "failed" if running.answer.is_error else "done"
        else:
            status = "cancelled" if running.is_unwanted else "interrupted"
        result, progress = None, running.job.progress
        if running.answer is not None:
            result = running.answer.body.decode()
            progress = {**progress, "links": running.answer.links} if running.answer.links else progress
        running.job = msgspec.structs.replace(
            running.job, status=status, updated_at=now(), result=result, progress=progress
        )
        if result is not None:
            self._awaited[running.job.key] = running.job
        try:
            await self._store.save_job(running.job)
        except ChoraError as error:
            log.warning("the end of %s couldn't be stored: %s", running.job.job_id, error.message)

    async def _keep(self, running: _Running) -> None:
        if not running.is_kept:
            running.is_kept = True
            running.job = msgspec.structs.replace(running.job, updated_at=now())
            await self._store.save_job(running.job)
            if running.done.is_set():  # it ended while its beginning was being stored
                await self._settle(running)

    # -- jobs of other calls and other processes --

    def _find_same(self, key: str) -> Job | None:
        """The same work in another process, or its result that nobody was given yet."""
        job = self._store.latest_job(key)
        if job is None or job.progress.get("delivered"):
            return None
        job = _judged(job)
        if job.status in ("done", "failed"):
            return job if _is_awaited(job) else None
        return job if job.status == "running" else None

    async def _follow(self, job: Job, progress: Progress | None) -> ToolAnswer | Pending:
        """Wait for a job of another process."""
        told: dict[str, Any] = {}
        with trio.move_on_after(self._settings.call_budget):
            while job.status == "running":
                said = job.progress
                if progress is not None and said != told and "done" in said:
                    told = said
                    await progress(said["done"], said["total"], said["message"])
                await trio.sleep(POLL)
                job = self.find(job.job_id)
        if job.status == "running":
            return Pending(job)
        if job.result is None:
            raise JobCancelled(f"{job.tool} was {job.status}.", "Call it again to start anew.", job=job.job_id)
        await self._mark_delivered(job)
        return _stored_answer(job, job.result)

    @property
    def has_results(self) -> bool:
        """Whether there are any that nobody was given yet."""
        return bool(self._awaited)

    async def give_up_result(self, key: str) -> None:
        """The same call was answered without its job's result, which is of no use to anybody any more."""
        if (job := self._awaited.get(key)) is not None:
            await self._mark_delivered(job)

    async def _mark_delivered(self, job: Job) -> None:
        self._awaited.pop(job.key, None)
        delivered = msgspec.structs.replace(job, progress={**job.progress, "delivered": True})
        try:
            await self._store.save_job(delivered)
        except ChoraError as error:
            log.warning("%s will be handed out once more: %s", job.job_id, error.message)

    def find(self, job_id: str) -> Job:
        """A job by its id, with its state now.

        Raises:
            JobNotFound: there is none.
        """
        for running in self._running.values():
            if running.job.job_id == job_id:
                return running.job
        kept = self._store.job(job_id)
        if kept is None:
            raise JobNotFound(f"There is no job {job_id[:80]!r}.", "`chora jobs` lists them.", job=job_id[:80])
        return _judged(kept)

    def list(self) -> list[Job]:
        """Every job that outlived its call, newest first."""
        here = {running.job.job_id: running.job for running in self._running.values()}
        return [here.get(job.job_id) or _judged(job) for job in self._store.jobs()]

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and wait for its end, if another process runs it for a few seconds at most. One that has ended
        stays as it is.

        Raises:
            JobNotFound: there is none.
        """
        for running in self._running.values():
            if running.job.job_id == job_id:
                running.is_unwanted = True
                running.scope.cancel()
                await running.done.wait()
                return running.job
        job = self.find(job_id)
        with trio.move_on_after(2 * HEARTBEAT):
            while job.status == "running":
                if not job.progress.get("cancel"):  # never said, or overwritten by a sign of life at the same moment
                    wish = msgspec.structs.replace(job, progress={**job.progress, "cancel": True})
                    await self._store.save_job(wish)
                await trio.sleep(POLL)
                job = self.find(job_id)
        return job

    async def _beat(self) -> None:
        """Say that the kept jobs are alive, and hear whether somebody wants one of them to end."""
        while True:
            await trio.sleep(HEARTBEAT)
            for running in [each for each in self._running.values() if each.is_kept]:
                if running.done.is_set():  # while the one before was seen to
                    continue
                try:
                    kept = self._store.job(running.job.job_id)
                    if kept is not None and kept.progress.get("cancel"):
                        running.is_unwanted = True
                        running.scope.cancel()
                    else:
                        running.job = msgspec.structs.replace(running.job, updated_at=now())
                        await self._store.save_job(running.job)
                except ChoraError as error:
                    log.warning("%s couldn't say that it is running: %s", running.job.job_id, error.message)

    async def forget_old(self) -> int:
        """Delete jobs that ended longer ago than results are kept; returns how many."""
        self._awaited = {key: job for key, job in self._awaited.items() if _is_awaited(job)}
        before = days_before_now(self._settings.keep_days)
        old = [job.job_id for job in self.list() if job.status != "running" and job.updated_at < before]
        if old:
            await self._store.delete_jobs(old)
        return len(old)


def _stored_answer(job: Job, result: str) -> ToolAnswer:
    """A job's answer, as it was when it was made."""
    links = tuple(job.progress.get("links", ()))
    if job.status == "done":
        return ToolAnswer(result.encode(), False, links=links)
    code = msgspec.json.decode(result)["error"]["code"]
    kind = next((each for each in subclasses() if each.code == code), ChoraError)
    return ToolAnswer(result.encode(), True, code, CATEGORIES[kind.category].exit_code, links)


def _is_awaited(job: Job) -> bool:
    return job.updated_at >= format_timestamp(datetime.now(UTC) - timedelta(seconds=AWAITED))


def _judged(job: Job) -> Job:
    """A stored job as it is: one that gave no sign of life for long is interrupted."""
    if job.status == "running" and job.updated_at < format_timestamp(datetime.now(UTC) - timedelta(seconds=SILENCE)):
        return msgspec.structs.replace(job, status="interrupted")
    return job
