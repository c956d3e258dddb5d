"""The template worker and the fork server that forks workers: everything that runs outside the server process.

`main` is the entry point. With `fork`, the process imports everything once and forks a worker for each connection that
it receives; without, it becomes a single worker on its own stdin and stdout. A worker drops its privileges before its
first job, then answers jobs until its connection closes.

Only compiled code, which is immutable, outlives a job: environment, templates and modules are created for each job,
because a template can store state in an imported module.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NoReturn

import msgspec

from chora import settings
from chora.render import (
    COMMAND,
    KILL,
    REPORT,
    SINGLE_WORKER,
    CheckJob,
    CompareJob,
    EvaluateJob,
    FrameReader,
    JobFailure,
    JobOutcome,
    MatchJob,
    ParseJob,
    PartJob,
    RenderJob,
    ScanJob,
    SelectJob,
    WorkerAnswer,
    WorkerJob,
    check_depth,
    encode_frame,
    job_size_limit,
    parsing,
    text_parts,
    validation,
)
from chora.render.sandbox import (
    CompiledTemplates,
    describe_error,
    evaluate_condition,
    render_template,
    scan_template,
    select_values,
)

JOBS_PER_WORKER: Final = 1000
"""Jobs after which a worker is replaced by a fresh one, to bound leaks."""


_JOBS: Final[msgspec.msgpack.Decoder[WorkerJob]] = msgspec.msgpack.Decoder(WorkerJob)


# -- templates --------------------------------------------------------------------------------------------------


# -- one worker -------------------------------------------------------------------------------------------------


def serve_jobs(incoming: int, outgoing: int, render_settings: settings.RenderSettings) -> None:
    """Report that the worker is ready, then answer jobs until the connection closes or the worker is used up."""
    compiled = CompiledTemplates()
    # Encoded now, while there is memory for it.
    exhausted = encode_frame(
        WorkerAnswer(
            JobFailure("memory", f"Rendering needs more than {render_settings.memory} bytes of memory."), last=True
        )
    )
    # On Linux, ru_maxrss survives execve(2): the initial peak is that of the parent.
    memory_threshold = max(render_settings.memory // 2, peak_memory())
    _send(outgoing, encode_frame(None))
    for count in itertools.count(1):
        last = count >= JOBS_PER_WORKER
        try:
            request = _receive(incoming, job_size_limit(render_settings))
            if request is None:
                return
            set_cpu_limit(render_settings.wall)
            outcome = _perform_job(request, compiled, render_settings.output)
            last = last or peak_memory() > memory_threshold
            answer = encode_frame(WorkerAnswer(outcome, last))
        except UnicodeEncodeError:
            answer = encode_frame(
                WorkerAnswer(JobFailure("runtime", "The template creates a name that isn't valid Unicode."), last)
            )
        except OverflowError:  # JSON may have numbers that MessagePack hasn't
            answer = encode_frame(WorkerAnswer(JobFailure("runtime", "A number has more than 64 bits."), last))
        except MemoryError:
            answer, last = exhausted, True
        _send(outgoing, answer)
        if last:
            return


def _perform_job(request: memoryview, compiled: CompiledTemplates, output: int) -> JobOutcome:
    try:
        job = _JOBS.decode(request)
        check_depth(job)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return describe_error(error, "job")
    match job:
        case RenderJob():
            return render_template(job, compiled, output)
        case ScanJob():
            return scan_template(job)
        case SelectJob():
            return select_values(job)
        case PartJob():
            return text_parts.find_part(job)
        case EvaluateJob():
            return evaluate_condition(job)
        case MatchJob():
            return validation.match_pattern(job)
        case CheckJob():
            return validation.check_text(job)
        case CompareJob():
            return validation.compare_with_schema(job)
        case ParseJob():
            return parsing.parse_text(job)


def _receive(descriptor: int, limit: int) -> memoryview | None:
    frame_reader = FrameReader(limit)
    while piece := os.read(descriptor, 65536):
        if (message := frame_reader.feed(piece)) is not None:
            return message
    return None


def _send(descriptor: int, framed: bytearray) -> None:
    rest = memoryview(framed)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _redirect_standard_streams() -> None:
    """Redirect stdin, stdout and stderr to the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


# -- what differs between platforms -------------------------------------------------------------------------------

if sys.platform == "linux":
    import ctypes

    # Loaded before any fork: a worker with hardly any descriptors couldn't load a library.
    _prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    _PR_SET_PDEATHSIG = 1
    _PR_SET_NO_NEW_PRIVS = 38

    def drop_privileges() -> None:
        """Set no_new_privs, prctl(2), and be the OOM killer's first choice."""
        if _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError("the kernel refused PR_SET_NO_NEW_PRIVS")
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")

    def die_with_parent(parent: int) -> None:
        """Be killed when the process `parent` ends, even in the middle of a job (PR_SET_PDEATHSIG, prctl(2))."""
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)

else:  # pragma: no cover

    def drop_privileges() -> None:
        """Linux only; the sandbox and the limits hold without it."""

    def die_with_parent(parent: int) -> None:
        """Linux only; elsewhere the closed connection ends a worker after its job."""


if sys.platform == "win32":  # pragma: no cover

    def apply_limits(limits: Mapping[int, int]) -> None:
        """Windows has no such limits: the pool bounds time, the renderer output; memory isn't bounded."""

    def worker_limits(render_settings: settings.RenderSettings) -> dict[int, int]:
        return {}

    def set_cpu_limit(wall: float) -> None:
        """Windows has no CPU limit either; the pool kills at the timeout."""

    def peak_memory() -> int:
        return 0

    def ignore_signals() -> None:
        """Ctrl-C reaches every process of a console, but the pool decides when a worker ends."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

else:
    import resource

    def worker_limits(render_settings: settings.RenderSettings) -> dict[int, int]:
        """The setrlimit(2) limits of a worker: memory, few descriptors, no file writes, no core dumps."""
        return {
            resource.RLIMIT_AS: render_settings.memory,
            resource.RLIMIT_NOFILE: 16,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
        }

    def apply_limits(limits: Mapping[int, int]) -> None:
        """Drop privileges and apply `limits`, irrevocably."""
        drop_privileges()
        # macOS refuses to limit the address space of a process that has reserved more.
        tolerated = (ValueError,) if sys.platform == "darwin" else ()
        for which, wanted in limits.items():
            hard = resource.getrlimit(which)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            with contextlib.suppress(*tolerated):
                resource.setrlimit(which, (value, value))

    def set_cpu_limit(wall: float) -> None:
        """Allow CPU time for one more job, well beyond the pool's timeout: it matters only if the pool has died."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + wall) + 5
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(
            resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard)
        )

    def peak_memory() -> int:
        """The peak resident set size of this process, in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def ignore_signals() -> None:
        """The pool decides when a worker ends; systemd, for example, signals every process of a service."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


# -- the fork server ----------------------------------------------------------------------------------------------

if sys.platform != "win32":
    import select

    def serve_forks(control: socket.socket, render_settings: settings.RenderSettings) -> None:
        """Fork, kill and reap workers on commands of the pool, until it closes the control connection.

        Only this process kills workers, because only the parent knows that a process id isn't reused yet.
        """
        server = os.getpid()
        children: dict[int, int] = {}
        wakeup_reader, wakeup_writer = socket.socketpair()
        wakeup_writer.setblocking(False)
        signal.set_wakeup_fd(wakeup_writer.fileno())
        signal.signal(signal.SIGCHLD, _wake)
        gc.freeze()  # keeps the pages of imported modules shared between the workers

        with contextlib.suppress(ConnectionError):  # the pool ended, and left reports unread
            while True:
                ready = select.select([control, wakeup_reader], [], [])[0]
                if wakeup_reader in ready:
                    wakeup_reader.recv(4096)
                    _reap_children(children, control)
                if control in ready:
                    command, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
                    if not command:
                        break
                    verb, number = COMMAND.unpack(command)
                    if verb == KILL:
                        _kill_processes([process for process, known in children.items() if known == number])
                        continue
                    (connection,) = descriptors
                    try:
                        process = os.fork()
                    except OSError as error:
                        control.send(REPORT.pack(number, error.errno))
                    else:
                        if process == 0:
                            _become_worker(connection, render_settings, server, (control, wakeup_reader, wakeup_writer))
                        children[process] = number
                    os.close(connection)

        _kill_processes(children)
        for process in children:
            os.waitpid(process, 0)

    def _wake(number: int, frame: object) -> None:
        """Do nothing: a signal needs a handler to reach the wake-up descriptor."""

    def _kill_processes(processes: Iterable[int]) -> None:
        for process in processes:
            os.kill(process, signal.SIGKILL)

    def _reap_children(children: dict[int, int], control: socket.socket) -> None:
        """Reap every worker that ended, and report it to the pool."""
        while children:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            report = REPORT.pack(children.pop(process), os.waitstatus_to_exitcode(status))
            with contextlib.suppress(BrokenPipeError):  # the pool has ended; the main loop notices
                control.send(report)

    def _become_worker(
        connection: int, render_settings: settings.RenderSettings, server: int, others: tuple[socket.socket, ...]
    ) -> NoReturn:
        """Run as a worker and exit; never returns into the fork server's loop."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in others:
                other.close()
            die_with_parent(server)
            _redirect_standard_streams()
            apply_limits(worker_limits(render_settings))
            serve_jobs(connection, connection, render_settings)
            status = 0
        finally:
            os._exit(status)


# -- entry point --------------------------------------------------------------------------------------------------


def main() -> None:
    """Run by the last two arguments: a control descriptor or `SINGLE_WORKER`, and the settings as JSON."""
    descriptor, encoded = sys.argv[-2:]
    render_settings = msgspec.json.decode(encoded, type=settings.RenderSettings)
    ignore_signals()
    if sys.platform != "win32" and descriptor != SINGLE_WORKER:
        serve_forks(socket.socket(fileno=int(descriptor)), render_settings)
        os._exit(0)  # without cleanup, so that the connection closes when the process ends
    else:
        incoming, outgoing = os.dup(0), os.dup(1)
        _redirect_standard_streams()
        apply_limits(worker_limits(render_settings))
        serve_jobs(incoming, outgoing, render_settings)
