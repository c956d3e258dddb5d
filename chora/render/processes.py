"""Worker processes: started from scratch, or forked by a fork server that has everything imported."""

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
from pathlib import Path
from typing import Final

import msgspec
import trio

import chora
from chora import settings, this_process
from chora.render import (
    COMMAND,
    FORK,
    KILL,
    REPORT,
    SINGLE_WORKER,
    FrameReader,
    WorkerAnswer,
)

log = logging.getLogger("chora.render")

START_TIMEOUT: Final = 30.0
"""Seconds until a new worker must be ready; the first one has to load Python and jinja2."""
FORK_TIMEOUT: Final = 5.0
"""The same where everything is loaded: a fork takes milliseconds, so by then the fork server is stopped or stuck."""
END_TIMEOUT: Final = 2.0
"""Seconds within which a process must end once its connection has closed."""
KILLED: Final = -9
"""The exit status after SIGKILL; Windows has neither."""
WORKER_PROGRAM: Final = (
    "import sys; folder = sys.argv.pop(1); folder in sys.path or sys.path.insert(0, folder); "
    "from chora.render.worker import main; main()"
)
"""Imports the same chora without an environment and from any folder."""
LARGE_ANSWER: Final = 256 * 1024
"""Bytes of an answer after which other tasks run before it is used."""
NEUTRAL_FOLDER: Final = Path(os.sep).absolute()
_ANSWERS: Final = msgspec.msgpack.Decoder(WorkerAnswer)


def worker_command() -> list[str]:
    """The command line of `chora.render.worker.main`, without its two arguments."""
    if this_process.is_frozen():
        return [sys.executable, "--render-worker"]
    return [sys.executable, "-P", "-c", WORKER_PROGRAM, str(Path(chora.__file__).parents[1])]


def worker_environment() -> dict[str, str]:
    """Empty, except on Windows, which needs SYSTEMROOT to start a process."""
    return {"SYSTEMROOT": this_process.child_environment()["SYSTEMROOT"]} if sys.platform == "win32" else {}


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
    def discard(self) -> None:
        """Kill the process, if it is running, and close the connection."""

    start_timeout: float = START_TIMEOUT
    """Seconds until it must be ready."""
    is_given_up: bool = False
    """Whether it was killed with the process that started it, which didn't answer any more."""

    def give_up(self) -> None:  # noqa: B027  (most have nothing to do)
        """Don't rely any more on the process that started it, if there is one: the worker never became ready."""

    async def wait_ready(self) -> None:
        """Wait for the empty frame that a worker sends first.

        Raises:
            WorkerEnded, ValueError: it couldn't start.
        """
        await self._receive(0)

    async def perform_job(self, message: bytearray, limit: int) -> WorkerAnswer:
        """Send a framed job and wait for an answer of at most `limit` bytes.

        Raises:
            WorkerEnded: its connection closed.
            ValueError, msgspec.MsgspecError: the answer is invalid.
        """
        try:
            await self._stream.send_all(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise WorkerEnded from None
        received = await self._receive(limit)
        answer = _ANSWERS.decode(received)
        if len(received) > LARGE_ANSWER:
            await trio.lowlevel.checkpoint()  # what is done with large data takes as long again as decoding it
        return answer

    async def _receive(self, limit: int) -> memoryview:
        frame_reader = FrameReader(limit)
        try:
            while piece := await self._stream.receive_some(65536):
                if (message := frame_reader.feed(piece)) is not None:
                    return message
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # reset by a worker that died before it had read everything, or closed by the end of the pool
        raise WorkerEnded


class SpawnedWorker(Worker):
    """A worker that was started from scratch, with its stdin and stdout as connection."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__(trio.StapledStream(process.stdin, process.stdout))
        self._process = process
        self._released = trio.Event()

    def is_usable(self) -> bool:
        return self._process.poll() is None

    def discard(self) -> None:
        self._process.kill()
        self._released.set()

    @classmethod
    async def run_process(
        cls, render_settings: settings.RenderSettings, *, task_status: trio.TaskStatus[SpawnedWorker]
    ) -> None:
        """Run as long as the process; cancellation kills it.

        Raises:
            OSError: no process can be started.
        """
        process = await trio.lowlevel.open_process(
            [*worker_command(), SINGLE_WORKER, msgspec.json.encode(render_settings).decode()],
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
            await worker._released.wait()  # its last answer may still be unread
        finally:
            worker._process.kill()
            with trio.CancelScope(shield=True):
                worker.status = await worker._process.wait()
                await worker._stream.aclose()
            worker.ended.set()


if sys.platform != "win32":

    class ForkedWorker(Worker):
        """A worker that the fork server forked, with a socket to us and a number by which the server knows it."""

        def __init__(self, server: ForkServer, number: int, connection: socket.socket) -> None:
            self._server = server
            self._number = number
            self._connection = connection
            self._socket = trio.socket.from_stdlib_socket(connection)
            super().__init__(trio.SocketStream(self._socket))

        @property
        def start_timeout(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
            return FORK_TIMEOUT if self._server.has_forked else START_TIMEOUT

        @property
        def is_given_up(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
            return self._server.is_given_up

        def give_up(self) -> None:
            self._server.give_up()

        async def wait_ready(self) -> None:
            await super().wait_ready()
            self._server.has_forked = True

        def is_usable(self) -> bool:
            # A worker whose server ended is about to end too; one that sends without a job isn't trusted.
            return self._server.is_alive() and _peek(self._connection) is None

        def discard(self) -> None:
            self._server.kill(self._number)
            self._socket.close()

    class ForkServer:
        """The process that forks workers, and our connection to it.

        One that was stopped (SIGSTOP), or is stuck, neither forks nor kills. It is noticed by the one or the other, and
        is then given up: it is killed with its workers, and the next worker comes from a new one.
        """

        def __init__(self, process: trio.Process, control: socket.socket) -> None:
            self.process = process
            self._control = control
            self._reports = trio.socket.from_stdlib_socket(control)
            self._workers: dict[int, ForkedWorker] = {}
            self._numbers = itertools.count(1)
            self._unread = b""
            self._killed: dict[int, float] = {}
            """When it was told to kill a worker, by the worker's number, until it reports the end."""
            self._kill_sent = trio.Event()
            self.has_forked = False
            """Whether a worker of it became ready, so that everything is loaded."""
            self.is_given_up = False

        def is_alive(self) -> bool:
            return not self.is_given_up and _peek(self._control) != b""

        def fork(self) -> ForkedWorker:
            """Have a worker forked; if that fails, its connection closes before it is ready.

            Raises:
                OSError: no socket pair can be created.
            """
            ours, theirs = socket.socketpair()
            number = next(self._numbers)
            with theirs, contextlib.suppress(OSError):
                socket.send_fds(self._control, [COMMAND.pack(FORK, number)], [theirs.fileno()])
            worker = self._workers[number] = ForkedWorker(self, number, ours)
            return worker

        def kill(self, number: int) -> None:
            """Have a worker killed by the server: only its parent knows whether a process id is still in use by it."""
            if number in self._workers:
                self._killed.setdefault(number, trio.current_time())
                self._kill_sent.set()
                with contextlib.suppress(OSError):  # the server has ended, and its workers with it
                    self._control.send(COMMAND.pack(KILL, number))

        def give_up(self) -> None:
            """Kill the server and all its workers, because it doesn't answer."""
            if self.is_given_up or not self.is_alive():
                return
            self.is_given_up = True
            log.warning("the process that forks template workers doesn't answer; it is replaced")
            self._kill_group()

        def _kill_group(self) -> None:
            # The process isn't reaped before `_stop`, so the group id can't have been reused.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

        @classmethod
        async def run_server(
            cls, render_settings: settings.RenderSettings, *, task_status: trio.TaskStatus[ForkServer]
        ) -> None:
            """Run as long as the process; cancellation ends it and every worker it forked.

            Raises:
                OSError: no process can be started.
            """
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    process = await trio.lowlevel.open_process(
                        [*worker_command(), str(theirs.fileno()), msgspec.json.encode(render_settings).decode()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        env=worker_environment(),
                        cwd=NEUTRAL_FOLDER,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
                server = cls(process, ours)
                this_process.child_groups.add(process.pid)
                try:
                    async with trio.open_nursery() as nursery:
                        task_status.started(server)
                        nursery.start_soon(server._check_kills)
                        await server._receive_reports()
                        nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        await server._stop()
                    this_process.child_groups.discard(process.pid)

        async def _check_kills(self) -> None:
            """Give the server up if it doesn't kill what it is told to."""
            while not self.is_given_up:
                self._kill_sent = trio.Event()
                if not self._killed:
                    await self._kill_sent.wait()
                    continue
                since = min(self._killed.values())
                await trio.sleep_until(since + FORK_TIMEOUT)
                if since in self._killed.values():
                    self.give_up()

        async def _receive_reports(self) -> None:
            """Receive reports until the server has ended."""
            with contextlib.suppress(OSError):  # a reset, if it was killed before it had read everything
                while piece := await self._reports.recv(4096):
                    self._unread += piece
                    while len(self._unread) >= REPORT.size:
                        number, status = REPORT.unpack_from(self._unread)
                        self._unread = self._unread[REPORT.size :]
                        self._record_end(number, status)

        def _record_end(self, number: int, status: int | None) -> None:
            self._killed.pop(number, None)
            if (worker := self._workers.pop(number, None)) is not None:
                worker.status = status
                worker.ended.set()

        async def _stop(self) -> None:
            """Let the server kill and reap its workers; then kill whatever is left of its process group."""
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            with trio.move_on_after(END_TIMEOUT):
                await self._receive_reports()
            self._kill_group()
            status = await self.process.wait()
            # The kill may have met a server that was just ending by itself.
            if status not in (0, KILLED):
                log.warning("the fork server of the template workers ended unexpectedly with status %d", status)
            for number in list(self._workers):
                self._record_end(number, None)

    def _peek(connection: socket.socket) -> bytes | None:
        """The next unread byte: None if there is none, empty once the peer has closed."""
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""
