"""The pool of template workers: starts them when needed, gives each one job at a time, and kills them in time.

A template can loop for ever or ask for all the memory there is, and no thread can be stopped. So templates are
rendered in processes of their own, without environment, files or privileges, and a job that takes too long ends by
SIGKILL. A worker that did well is used again, which makes a render cost little more than it would here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio
from msgspec import Struct

import chora
from chora import settings, this_process
from chora.errors import Busy, ChoraError, InvalidContext, LimitExceeded
from chora.nesting import NestedTooDeeply
from chora.render import (
    COMMAND,
    DIRECT,
    FORK,
    KILL,
    REPORT,
    Answer,
    Check,
    Checked,
    Compare,
    Evaluate,
    Evaluated,
    Failed,
    Job,
    Match,
    Matched,
    Outcome,
    Render,
    Rendered,
    RenderFailed,
    Scan,
    Scanned,
    Select,
    Selected,
    Unframer,
    check_depth,
    frame,
    job_limit,
)
from chora.request_context import caller

log = logging.getLogger("chora.render")

START_TIME: Final = 30.0
"""Seconds until a new worker must be ready; the first one waits for Python and jinja2 to be loaded."""

END_TIME: Final = 2.0
"""Seconds within which a process must be seen to end once its connection has closed."""

ANSWER_MARGIN: Final = 65536
"""Bytes an answer may have beyond the rendered text and twice the job, for names and messages."""

KILLED: Final = -9
"""Exit status after SIGKILL; Windows has neither."""

BOOT: Final = (
    "import sys; folder = sys.argv.pop(1); folder in sys.path or sys.path.insert(0, folder); "
    "from chora.render.worker import main; main()"
)
"""Finds the same chora without an environment and from any folder."""

NEUTRAL_FOLDER: Final = Path(os.sep).absolute()

_NONSENSE: Final = "A template worker gave an answer that makes no sense."

_ANSWERS: Final = msgspec.msgpack.Decoder(Answer)

Expected = TypeVar("Expected", Rendered, Scanned, Selected, Evaluated, Matched, Checked)


def worker_command() -> list[str]:
    """The command line that enters `chora.render.worker.main`, but for its two arguments."""
    if this_process.is_frozen():
        return [sys.executable, "--render-worker"]
    return [sys.executable, "-P", "-c", BOOT, str(Path(chora.__file__).parents[1])]


def worker_environment() -> dict[str, str]:
    """Nothing; only Windows can't start a process without the folder it lives in."""
    return {"SYSTEMROOT": this_process.child_environment()["SYSTEMROOT"]} if sys.platform == "win32" else {}


class RenderStatistics(Struct, frozen=True):
    """A snapshot: worker processes, those without a job, and jobs waiting; jobs answered and workers killed so far."""

    workers: int
    idle: int
    waiting: int
    rendered: int
    killed: int


# -- workers ----------------------------------------------------------------------------------------------------


class WorkerEnded(Exception):
    """A worker closed its connection before its answer was complete."""


class Worker(ABC):
    """One worker process. `status` is its exit status, negative for a signal, known once it has `ended`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.ended = trio.Event()
        self.status: int | None = None

    @abstractmethod
    def is_usable(self) -> bool:
        """Whether an idle worker can be given a job."""

    @abstractmethod
    def release(self) -> None:
        """Kill the process, if it still runs, and close the connection."""

    async def wait_ready(self) -> None:
        """Wait for the empty frame that a worker begins with.

        Raises:
            WorkerEnded, ValueError: it couldn't start.
        """
        await self._receive(0)

    async def ask(self, message: bytearray, limit: int) -> Answer:
        """Give it a framed job and wait for an answer of at most `limit` bytes.

        Raises:
            WorkerEnded: its connection closed.
            ValueError, msgspec.MsgspecError: what came isn't an answer.
        """
        try:
            await self._stream.send_all(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise WorkerEnded from None
        return _ANSWERS.decode(await self._receive(limit))

    async def _receive(self, limit: int) -> memoryview:
        unframer = Unframer(limit)
        try:
            while piece := await self._stream.receive_some(65536):
                if (message := unframer.feed(piece)) is not None:
                    return message
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # reset by a worker that died before it had read all, or closed by the end of the pool
        raise WorkerEnded


class SpawnedWorker(Worker):
    """A worker that was started from scratch and speaks over its stdin and stdout."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__(trio.StapledStream(process.stdin, process.stdout))
        self._process = process
        self._released = trio.Event()

    def is_usable(self) -> bool:
        return self._process.poll() is None

    def release(self) -> None:
        self._process.kill()
        self._released.set()

    @classmethod
    async def run(cls, rules: settings.RenderSettings, *, task_status: trio.TaskStatus[SpawnedWorker]) -> None:
        """Live as long as the process; being cancelled kills it.

        Raises:
            OSError: no process can be started.
        """
        process = await trio.lowlevel.open_process(
            [*worker_command(), DIRECT, msgspec.json.encode(rules).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            cwd=NEUTRAL_FOLDER,
        )
        worker = cls(process)
        try:
            task_status.started(worker)
            worker.status = await worker._process.wait()
            worker.ended.set()
            await worker._released.wait()  # its last answer may still have to be read
        finally:
            worker._process.kill()
            with trio.CancelScope(shield=True):
                worker.status = await worker._process.wait()
                await worker._stream.aclose()
            worker.ended.set()


if sys.platform != "win32":

    class ForkedWorker(Worker):
        """A worker that the fork server made; it has a socket to us, and a number by which the server knows it."""

        def __init__(self, server: ForkServer, number: int, connection: socket.socket) -> None:
            self._server = server
            self._number = number
            self._connection = connection
            self._socket = trio.socket.from_stdlib_socket(connection)
            super().__init__(trio.SocketStream(self._socket))

        def is_usable(self) -> bool:
            # A worker without its server is on the way to its end, and one that speaks out of turn isn't trusted.
            return self._server.is_alive() and _peek(self._connection) is None

        def release(self) -> None:
            self._server.kill(self._number)
            self._socket.close()

    class ForkServer:
        """The process that forks workers, and our connection to it."""

        def __init__(self, process: trio.Process, control: socket.socket) -> None:
            self.process = process
            self._control = control
            self._reports = trio.socket.from_stdlib_socket(control)
            self._workers: dict[int, ForkedWorker] = {}
            self._numbers = itertools.count(1)
            self._unread = b""

        def is_alive(self) -> bool:
            return _peek(self._control) != b""

        def fork(self) -> ForkedWorker:
            """Ask for a worker; if it can't be had, its connection closes before it is ready.

            Raises:
                OSError: no socket pair can be had.
            """
            ours, theirs = socket.socketpair()
            number = next(self._numbers)
            with theirs, contextlib.suppress(OSError):
                socket.send_fds(self._control, [COMMAND.pack(FORK, number)], [theirs.fileno()])
            worker = self._workers[number] = ForkedWorker(self, number, ours)
            return worker

        def kill(self, number: int) -> None:
            """Have a worker killed. Only the server does it, because it knows which process ids are still its own."""
            if number in self._workers:
                with contextlib.suppress(OSError):  # the server is gone, and its workers with it
                    self._control.send(COMMAND.pack(KILL, number))

        @classmethod
        async def run(cls, rules: settings.RenderSettings, *, task_status: trio.TaskStatus[ForkServer]) -> None:
            """Live as long as the process; being cancelled ends it and every worker it made.

            Raises:
                OSError: no process can be started.
            """
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    process = await trio.lowlevel.open_process(
                        [*worker_command(), str(theirs.fileno()), msgspec.json.encode(rules).decode()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        env=worker_environment(),
                        cwd=NEUTRAL_FOLDER,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
                server = cls(process, ours)
                try:
                    task_status.started(server)
                    await server._listen()
                finally:
                    with trio.CancelScope(shield=True):
                        await server._end()

        async def _listen(self) -> None:
            """Take in reports until the server is gone."""
            with contextlib.suppress(OSError):  # a reset, if it was killed before it had read all
                while piece := await self._reports.recv(4096):
                    self._unread += piece
                    while len(self._unread) >= REPORT.size:
                        number, status = REPORT.unpack_from(self._unread)
                        self._unread = self._unread[REPORT.size :]
                        self._note_end(number, status)

        def _note_end(self, number: int, status: int | None) -> None:
            worker = self._workers.pop(number)
            worker.status = status
            worker.ended.set()

        async def _end(self) -> None:
            """Let the server kill and reap its workers; then make sure that nothing of it is left."""
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            with trio.move_on_after(END_TIME):
                await self._listen()
            # Before the process is reaped, so that the group's id can't have passed to somebody else.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            status = await self.process.wait()
            # It may have been on its way out, with everything reaped, when our own kill overtook it.
            if status not in (0, KILLED):
                log.warning("The fork server of the template workers ended with status %d.", status)
            for number in list(self._workers):
                self._note_end(number, None)

    def _peek(connection: socket.socket) -> bytes | None:
        """What is there to read: None for nothing, empty once the other side is gone."""
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""


# -- whose turn it is -------------------------------------------------------------------------------------------


class FairSemaphore:
    """Lets so many tasks work at a time. Who waits gets a turn caller after caller, and each caller's in their order.

    So one caller with a hundred jobs makes another one wait for a single job, not for all of them.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: dict[str, trio.lowlevel.ParkingLot] = {}

    def waiting(self) -> int:
        """How many wait."""
        return sum(len(lot) for lot in self._waiting.values())

    def waiting_of(self, who: str) -> int:
        """How many of one caller's wait."""
        return len(self._waiting.get(who, ()))

    def is_free(self) -> bool:
        return self._free > 0

    async def acquire(self, who: str) -> None:
        """Wait for a turn; `release` ends it."""
        if self._free:
            self._free -= 1
            return
        lot = self._waiting.setdefault(who, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        except trio.Cancelled:
            if not lot and self._waiting.get(who) is lot:
                del self._waiting[who]
            raise

    def release(self) -> None:
        """Pass the turn on to whoever is next, if anybody is."""
        while self._waiting:
            who = next(iter(self._waiting))
            lot = self._waiting.pop(who)
            if lot:  # else all of them were cancelled, and haven't noticed yet
                lot.unpark()
                if lot:
                    self._waiting[who] = lot
                return
        self._free += 1


# -- the pool ---------------------------------------------------------------------------------------------------


class RenderPool:
    """Renders and scans templates in worker processes, at most `settings.workers` at once.

    Args:
        settings: what one template may take.
        fork: fork workers from a prepared process; without, each is started from scratch and takes a while.
    """

    def __init__(self, settings: settings.RenderSettings, *, fork: bool = hasattr(os, "fork")) -> None:
        self._settings = settings
        self._fork = fork
        self._nursery: trio.Nursery | None = None
        self._turns = FairSemaphore(settings.workers)
        self._server_lock = trio.Lock()
        if sys.platform != "win32":
            self._server: ForkServer | None = None
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._rendered = 0
        self._killed = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; then every process is gone. Workers start when the first job needs them."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None
                while self._idle:
                    self._release(self._idle.pop())

    async def warm(self) -> None:
        """Have a worker ready before the first job.

        Raises:
            Busy, RenderFailed: as `render`.
        """
        await self._wait_for_turn()
        try:
            self._give_back(await self._take_worker())
        finally:
            self._turns.release()

    async def render(self, job: Render) -> Rendered:
        """Render a template.

        Raises:
            RenderFailed: the template can't be rendered.
            LimitExceeded: it takes more time, memory or output than it may; `details.limit` names the setting.
            InvalidContext: the context holds what isn't plain data.
            Busy: too many jobs wait already, or the pool doesn't run.
        """
        return await self._run(job, Rendered)

    async def scan(self, job: Scan) -> Scanned:
        """Find out what a template refers to.

        Raises:
            RenderFailed, LimitExceeded, Busy: as `render`.
        """
        return await self._run(job, Scanned)

    async def select(self, job: Select) -> Selected:
        """Run a query over data; a small one can ask for more work than a server should do itself.

        Raises:
            RenderFailed: the query is not a JSONPath.
            LimitExceeded, InvalidContext, Busy: as `render`.
        """
        return await self._run(job, Selected)

    async def evaluate(self, job: Evaluate) -> Evaluated:
        """Find out whether an expression is true.

        Raises:
            RenderFailed: it is no expression, or fails.
            LimitExceeded, InvalidContext, Busy: as `render`.
        """
        return await self._run(job, Evaluated)

    async def match(self, job: Match) -> Matched:
        """Find out where a regular expression matches; a short one can take for ever.

        Raises:
            RenderFailed: it is no regular expression.
            LimitExceeded, InvalidContext, Busy: as `render`.
        """
        return await self._run(job, Matched)

    async def check(self, job: Check | Compare) -> Checked:
        """Find out what is wrong with a text, or with data by its schema.

        Raises:
            RenderFailed: the language isn't known, or the schema is none.
            LimitExceeded, InvalidContext, Busy: as `render`.
        """
        return await self._run(job, Checked)

    def statistics(self) -> RenderStatistics:
        return RenderStatistics(
            workers=sum(not worker.ended.is_set() for worker in self._workers),
            idle=sum(not worker.ended.is_set() for worker in self._idle),
            waiting=self._turns.waiting(),
            rendered=self._rendered,
            killed=self._killed,
        )

    async def _run(self, job: Job, expected: type[Expected]) -> Expected:
        await self._wait_for_turn()
        try:
            outcome = await self._perform(job)
        finally:
            self._turns.release()
        self._rendered += 1
        match outcome:
            case Failed(kind="memory"):
                raise LimitExceeded(outcome.message, _hint("memory"), limit="render.memory", template=job.name)
            case Failed(kind="output"):
                raise LimitExceeded(outcome.message, _hint("output"), limit="render.output", template=job.name)
            case Failed():
                raise RenderFailed(outcome)
            case _ if isinstance(outcome, expected):
                return outcome
            case _:
                raise _broken(_NONSENSE, job)

    async def _wait_for_turn(self) -> None:
        who, queue = caller.get(), self._settings.queue
        if not self._turns.is_free():
            if self._turns.waiting() >= queue:
                raise Busy(f"{queue} templates are waiting to be rendered already.", "Try again in a moment.")
            # The other half is for the others, so that they find a place in the line at all.
            if (own := self._turns.waiting_of(who)) >= (queue + 1) // 2:
                raise Busy(
                    f"{own} of your templates are waiting to be rendered already.", "Try again when some are done."
                )
        await self._turns.acquire(who)

    async def _perform(self, job: Job) -> Outcome:
        """One job on one worker, which is used again only if it answered."""
        rules = self._settings
        message = _framed(job, rules)
        worker = await self._take_worker()
        answer: Answer | None = None
        try:
            with trio.move_on_after(rules.wall):
                answer = await worker.ask(message, rules.output + 2 * len(message) + ANSWER_MARGIN)
        except WorkerEnded:
            raise await self._explain_end(worker, job) from None
        except (ValueError, msgspec.MsgspecError):
            raise _broken(_NONSENSE, job) from None
        finally:
            if answer is None:
                self._killed += not worker.ended.is_set()
                self._release(worker)
            elif answer.last:
                self._release(worker)
            else:
                self._give_back(worker)
        if answer is None:
            raise LimitExceeded(
                f"Rendering {job.name} took longer than {rules.wall:g} s.",
                _hint("wall"),
                limit="render.wall",
                template=job.name,
            )
        return answer.outcome

    async def _explain_end(self, worker: Worker, job: Job) -> ChoraError | RenderFailed:
        with trio.move_on_after(END_TIME):
            await worker.ended.wait()
        if self._nursery is None:
            return _not_running()
        if worker.status == KILLED:
            # Not by us: it is what the kernel does when the machine is out of memory.
            return LimitExceeded(
                f"The worker that rendered {job.name} was killed, probably for want of memory.",
                _hint("memory"),
                limit="render.memory",
                template=job.name,
            )
        return _broken(f"The template worker ended unexpectedly, with status {worker.status}.", job)

    async def _take_worker(self) -> Worker:
        """The idle worker used last, whose caches are warmest, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_usable():
                return worker
            self._release(worker)
        for _attempt in range(2):  # the fork server may turn out to be dead only as it is asked
            try:
                worker = await self._start_worker()
            except OSError as error:
                raise RenderFailed(Failed("runtime", f"No template worker can be started: {error}")) from None
            ready = False
            try:
                with trio.move_on_after(START_TIME):
                    await worker.wait_ready()
                    ready = True
            except (WorkerEnded, ValueError):
                continue
            finally:
                if not ready:
                    self._release(worker)
            if ready:
                return worker
            break
        raise RenderFailed(Failed("runtime", "No template worker can be started; the log may say why."))

    async def _start_worker(self) -> Worker:
        if self._nursery is None:
            raise _not_running()
        worker: Worker
        if sys.platform == "win32" or not self._fork:
            worker = await self._start(SpawnedWorker.run)
        else:
            async with self._server_lock:
                server = self._server
                if server is None or not server.is_alive():
                    server = self._server = await self._start(ForkServer.run)
            worker = server.fork()
        self._workers.add(worker)
        return worker

    async def _start(self, run: Callable[..., Awaitable[None]]) -> Any:
        """Start a process in the nursery, and have what its task hands out.

        Raises:
            OSError: it can't be started.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # whoever ended the pool may have ended this as well
        assert self._nursery is not None
        started = None
        # A caller that went away in between would leave a process that nobody knows of.
        with trio.CancelScope(shield=True):
            started = await self._nursery.start(run, self._settings)
        return started

    def _give_back(self, worker: Worker) -> None:
        if self._nursery is None:
            self._release(worker)
        else:
            self._idle.append(worker)

    def _release(self, worker: Worker) -> None:
        worker.release()
        self._workers.discard(worker)


def _framed(job: Job, rules: settings.RenderSettings) -> bytearray:
    try:
        check_depth(job)
        message = frame(job)
    except (TypeError, ValueError, OverflowError, NestedTooDeeply) as error:
        raise InvalidContext(
            f"The context of {job.name} holds something that can't be handed to a template: {error}.",
            "Use what JSON can say: objects, arrays, strings, numbers, booleans and null.",
        ) from None
    if len(message) > job_limit(rules):
        raise LimitExceeded(
            f"{job.name}, with its context, has {len(message)} bytes; {job_limit(rules)} is the most.",
            _hint("memory"),
            limit="render.memory",
            template=job.name,
        )
    return message


def _hint(setting: str) -> str:
    return f"Make the template do less, or raise `{setting}` in the [render] section of chora.toml."


def _not_running() -> Busy:
    return Busy("The template workers aren't running; chora is starting or stopping.", "Try again in a moment.")


def _broken(message: str, job: Job) -> RenderFailed:
    return RenderFailed(Failed("runtime", message, job.name))
