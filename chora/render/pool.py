"""The pool of template workers: starts them when needed, gives each one job at a time, and kills them at the timeout.

A template can loop forever or allocate all memory (CWE-400), and a thread can't be killed. So templates are rendered
in processes of their own, without environment, files or privileges, and a job that takes too long is ended by SIGKILL.
A worker that answered is used again, so that a render costs little more than in this process.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
import trio
from msgspec import Struct

from chora import settings
from chora.concurrency import Displaced, FairSemaphore, Share
from chora.errors import Busy, ChoraError, InvalidContext, LimitExceeded
from chora.nesting import NestedTooDeeply
from chora.render import (
    CheckJob,
    CheckResult,
    CompareJob,
    EvaluatedCondition,
    EvaluateJob,
    JobFailure,
    JobOutcome,
    MatchJob,
    MatchPosition,
    ParsedData,
    ParseJob,
    PartJob,
    RenderedText,
    RenderFailed,
    RenderJob,
    ScanJob,
    SelectedValues,
    SelectJob,
    TemplateReferences,
    TextPart,
    WorkerAnswer,
    WorkerJob,
    check_depth,
    encode_frame,
    job_size_limit,
)
from chora.render.processes import (
    END_TIMEOUT,
    KILLED,
    SpawnedWorker,
    Worker,
    WorkerEnded,
)
from chora.request_context import caller

if sys.platform != "win32":
    from chora.render.processes import ForkServer

log = logging.getLogger("chora.render")

ANSWER_MARGIN: Final = 65536
"""Bytes of an answer beyond the rendered text and twice the job, for names and messages."""


_INVALID_ANSWER: Final = "A template worker gave an invalid answer."


Expected = TypeVar(
    "Expected",
    RenderedText,
    TemplateReferences,
    SelectedValues,
    EvaluatedCondition,
    MatchPosition,
    CheckResult,
    ParsedData,
    TextPart,
)


class _TookTooLong(Exception):
    """A job that was ended because its time was over."""


class RenderStatistics(Struct, frozen=True):
    """A snapshot: worker processes, idle ones, and waiting jobs; jobs answered and workers killed so far."""

    workers: int
    idle: int
    waiting: int
    rendered: int
    killed: int


# -- the pool ---------------------------------------------------------------------------------------------------


class RenderPool:
    """Renders and scans templates in worker processes, at most `settings.workers` at once.

    Args:
        settings: the limits of one template.
        fork: fork workers from a prepared process; otherwise each is started from scratch, which is slow.
    """

    def __init__(self, settings: settings.RenderSettings, *, fork: bool = hasattr(os, "fork")) -> None:
        self._settings = settings
        self._fork = fork
        self._nursery: trio.Nursery | None = None
        self._semaphore = FairSemaphore(settings.workers)
        self._server_lock = trio.Lock()
        if sys.platform != "win32":
            self._server: ForkServer | None = None
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._rendered = 0
        self._killed = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; then every process has ended. Workers start with the first job."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None
                while self._idle:
                    self._discard_worker(self._idle.pop())

    async def warm_up(self) -> None:
        """Start a worker before the first job.

        Raises:
            Busy, RenderFailed: as `render_template`.
        """
        share = ("warm-up", "warm-up")
        await self._acquire_slot(share)
        try:
            self._return_worker(await self._take_worker())
        finally:
            self._semaphore.release(share, 0.0)

    async def render_template(self, job: RenderJob) -> RenderedText:
        """Render a template.

        Raises:
            RenderFailed: the template can't be rendered.
            LimitExceeded: it exceeds the limit of time, memory or output; `details.limit` names the setting.
            InvalidContext: the context holds other than plain data.
            Busy: too many jobs are waiting, or the pool isn't running.
        """
        return await self._run_job(job, RenderedText)

    async def scan_template(self, job: ScanJob) -> TemplateReferences:
        """Find the references of a template.

        Raises:
            RenderFailed, LimitExceeded, Busy: as `render_template`.
        """
        return await self._run_job(job, TemplateReferences)

    async def select_values(self, job: SelectJob) -> SelectedValues:
        """Run a query over data, in a worker because a small query can cause much work.

        Raises:
            RenderFailed: the query is not a JSONPath.
            LimitExceeded, InvalidContext, Busy: as `render_template`.
        """
        return await self._run_job(job, SelectedValues)

    async def select_part(self, job: PartJob) -> TextPart:
        """Take a part of a long text.

        Raises:
            RenderFailed: the text has no such part, or the selector no known form.
            LimitExceeded, Busy: as `render_template`.
        """
        return await self._run_job(job, TextPart)

    async def evaluate_condition(self, job: EvaluateJob) -> EvaluatedCondition:
        """Evaluate an expression as a condition.

        Raises:
            RenderFailed: it isn't an expression, or fails.
            LimitExceeded, InvalidContext, Busy: as `render_template`.
        """
        return await self._run_job(job, EvaluatedCondition)

    async def match_pattern(self, job: MatchJob) -> MatchPosition:
        """Find where a regular expression matches, in a worker because backtracking can take forever (CWE-1333).

        Raises:
            RenderFailed: it isn't a regular expression.
            LimitExceeded, InvalidContext, Busy: as `render_template`.
        """
        return await self._run_job(job, MatchPosition)

    async def check_text(self, job: CheckJob | CompareJob) -> CheckResult:
        """Check a text in its language, or data against a schema.

        Raises:
            RenderFailed: the language is unknown, or the schema invalid.
            LimitExceeded, InvalidContext, Busy: as `render_template`.
        """
        return await self._run_job(job, CheckResult)

    async def parse_text(self, job: ParseJob) -> ParsedData:
        """Parse the text of a data file.

        Raises:
            RenderFailed: it isn't of its language, or holds too many values.
            LimitExceeded, Busy: as `render_template`.
        """
        return await self._run_job(job, ParsedData)

    def statistics(self) -> RenderStatistics:
        return RenderStatistics(
            workers=sum(not worker.ended.is_set() for worker in self._workers),
            idle=sum(not worker.ended.is_set() for worker in self._idle),
            waiting=self._semaphore.waiting_count(),
            rendered=self._rendered,
            killed=self._killed,
        )

    async def _run_job(self, job: WorkerJob, expected: type[Expected]) -> Expected:
        share = _share_of(job)
        outcome = await self._run_in_slot(job, share, is_final=False)
        if outcome is None:
            outcome = await self._run_in_slot(job, share, is_final=True)
            assert outcome is not None
        self._rendered += 1
        match outcome:
            case JobFailure(kind="memory"):
                raise LimitExceeded(outcome.message, _hint("memory"), limit="render.memory", template=job.name)
            case JobFailure(kind="output"):
                raise LimitExceeded(outcome.message, _hint("output"), limit="render.output", template=job.name)
            case JobFailure():
                raise RenderFailed(outcome)
            case _ if isinstance(outcome, expected):
                return outcome
            case _:
                raise _worker_failure(_INVALID_ANSWER, job)

    async def _run_in_slot(self, job: WorkerJob, share: Share, *, is_final: bool) -> JobOutcome | None:
        """Do a job when it is its turn.

        Under load, what isn't known to take long is ended early: None. It is then known, and gets all its time when it
        is its turn again, so that the others needn't wait for what isn't known yet.
        """
        await self._acquire_slot(share)
        began = trio.current_time()
        wall = self._settings.wall
        is_trial = not is_final and wall > FairSemaphore.QUICK and self._semaphore.is_unproven(share)
        try:
            return await self._perform_job(job, FairSemaphore.QUICK if is_trial else wall)
        except _TookTooLong:
            if is_trial:
                return None
            raise LimitExceeded(
                f"Rendering {job.name} took longer than {wall:g} s.",
                _hint("wall"),
                limit="render.wall",
                template=job.name,
            ) from None
        finally:
            self._semaphore.release(share, trio.current_time() - began)

    async def _acquire_slot(self, share: Share) -> None:
        queue = self._settings.queue
        if not self._semaphore.has_slot_for(share):
            # Half of the queue is reserved for other callers.
            if (own := self._semaphore.waiting_count_of(share[1])) >= (queue + 1) // 2:
                raise Busy(
                    f"{own} of your templates are waiting to be rendered already.", "Try again when some are done."
                )
            if self._semaphore.waiting_count() >= queue and not self._semaphore.displace(share):
                raise _full_queue(queue)
        try:
            await self._semaphore.acquire(share)
        except Displaced:
            raise _full_queue(queue) from None

    async def _perform_job(self, job: WorkerJob, wall: float) -> JobOutcome:
        """Do one job on one worker, or on another one if the first ended through no fault of the job.

        Raises:
            _TookTooLong: it took longer than `wall` seconds.
        """
        message = _encode_job(job, self._settings)
        for attempt in itertools.count(1):
            worker = await self._take_worker()
            try:
                return await self._perform_job_on(worker, job, message, wall)
            except WorkerEnded:
                if attempt > 1 or not worker.is_given_up:
                    raise self._explain_end(worker, job) from None
        raise AssertionError  # pragma: no cover

    async def _perform_job_on(self, worker: Worker, job: WorkerJob, message: bytearray, wall: float) -> JobOutcome:
        """Do one job on a worker, which is used again only if it answered."""
        render_settings = self._settings
        answer: WorkerAnswer | None = None
        try:
            with trio.move_on_after(wall):
                answer = await worker.perform_job(message, render_settings.output + 2 * len(message) + ANSWER_MARGIN)
        except WorkerEnded:
            with trio.move_on_after(END_TIMEOUT):
                await worker.ended.wait()
            raise
        except (ValueError, msgspec.MsgspecError):
            raise _worker_failure(_INVALID_ANSWER, job) from None
        finally:
            if answer is None:
                self._killed += not worker.ended.is_set()
                self._discard_worker(worker)
            elif answer.last:
                self._discard_worker(worker)
            else:
                self._return_worker(worker)
        if answer is None:
            raise _TookTooLong
        return answer.outcome

    def _explain_end(self, worker: Worker, job: WorkerJob) -> ChoraError | RenderFailed:
        if self._nursery is None:
            return _not_running()
        if worker.status == KILLED:
            # Not by us: the kernel kills it when the machine is out of memory.
            return LimitExceeded(
                f"The worker that rendered {job.name} was killed, probably because the machine is out of memory.",
                _hint("memory"),
                limit="render.memory",
                template=job.name,
            )
        return _worker_failure(f"The template worker ended unexpectedly, with status {worker.status}.", job)

    async def _take_worker(self) -> Worker:
        """The most recently used idle worker, whose caches are warmest, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_usable():
                return worker
            self._discard_worker(worker)
        for _attempt in range(2):  # the fork server may turn out to be dead, or stopped, only when it is used
            try:
                worker = await self._start_worker()
            except OSError as error:
                raise RenderFailed(JobFailure("runtime", f"No template worker can be started: {error}")) from None
            ready = ended = False
            try:
                with trio.move_on_after(worker.start_timeout):
                    await worker.wait_ready()
                    ready = True
            except (WorkerEnded, ValueError):
                ended = True
            finally:
                if not ready:
                    self._discard_worker(worker)
            if ready:
                return worker
            if not ended:
                worker.give_up()
        raise RenderFailed(JobFailure("runtime", "No template worker can be started; see the log."))

    async def _start_worker(self) -> Worker:
        if self._nursery is None:
            raise _not_running()
        worker: Worker
        if sys.platform == "win32" or not self._fork:
            worker = await self._start(SpawnedWorker.run_process)
        else:
            async with self._server_lock:
                server = self._server
                if server is None or not server.is_alive():
                    server = self._server = await self._start(ForkServer.run_server)
            worker = server.fork()
        self._workers.add(worker)
        return worker

    async def _start(self, run: Callable[..., Awaitable[None]]) -> Any:
        """Start the task of a process in the nursery; returns the value of its `task_status.started`.

        Raises:
            OSError: the process can't be started.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # the end of the pool may have cancelled this task as well
        assert self._nursery is not None
        started = None
        # Shielded: a caller cancelled in between would leave a process that the pool doesn't know.
        with trio.CancelScope(shield=True):
            started = await self._nursery.start(run, self._settings)
        return started

    def _return_worker(self, worker: Worker) -> None:
        if self._nursery is None:
            self._discard_worker(worker)
        else:
            self._idle.append(worker)

    def _discard_worker(self, worker: Worker) -> None:
        worker.discard()
        self._workers.discard(worker)


def _encode_job(job: WorkerJob, render_settings: settings.RenderSettings) -> bytearray:
    try:
        check_depth(job)
        message = encode_frame(job)
    except (TypeError, ValueError, OverflowError, NestedTooDeeply) as error:
        raise InvalidContext(
            f"The context of {job.name} holds a value that can't be passed to a template: {error}.",
            "Use JSON values: objects, arrays, strings, numbers, booleans and null.",
        ) from None
    if len(message) > job_size_limit(render_settings):
        raise LimitExceeded(
            f"{job.name}, with its context, has {len(message)} bytes; {job_size_limit(render_settings)} is the most.",
            _hint("memory"),
            limit="render.memory",
            template=job.name,
        )
    return message


def _share_of(job: WorkerJob) -> Share:
    """Whose use of the workers a job is: the caller's, and that of what it runs, whichever session asks for it.

    The text that is run tells works apart, because names are the same for many.
    """
    match job:
        case RenderJob():
            work = job.sources.get(job.name, "") if job.template is None else job.template
        case ScanJob():
            work = job.source
        case SelectJob():
            work = job.query
        case EvaluateJob():
            work = job.expression
        case MatchJob():
            work = job.pattern
        case CheckJob() | CompareJob() | ParseJob() | PartJob():
            work = job.name
    who = caller.get()
    return ("principal", who.principal), ("session", who.session), (who.principal, type(job).__name__, hash(work))


def _full_queue(queue: int) -> Busy:
    return Busy(f"{queue} templates are waiting to be rendered already.", "Try again in a moment.")


def _hint(setting: str) -> str:
    return f"Make the template do less, or raise `{setting}` in the [render] section of chora.toml."


def _not_running() -> Busy:
    return Busy("The template workers aren't running; chora is starting or stopping.", "Try again in a moment.")


def _worker_failure(message: str, job: WorkerJob) -> RenderFailed:
    return RenderFailed(JobFailure("runtime", message, job.name))
