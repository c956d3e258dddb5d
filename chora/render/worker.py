"""A template worker, and the fork server that makes workers: everything that runs beyond the server's own process.

`main` is the entry. Where there is `fork`, it stays a small process that has imported everything once and forks a
worker for each connection it is handed; elsewhere it becomes a single worker on its own stdin and stdout. A worker
gives up what it can before its first job, then answers jobs until its connection closes.

Nothing lives from one job to the next but compiled code, which is immutable: environment, templates and modules are
made anew each time, because a module that an `import` made can hold a counter that a template moves.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import CodeType
from typing import Any, Final, NoReturn, cast

import msgspec
from jinja2 import (
    BaseLoader,
    ChainableUndefined,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    meta,
    nodes,
)
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from chora import settings
from chora.nesting import NestedTooDeeply
from chora.render import (
    COMMAND,
    DIRECT,
    KILL,
    REPORT,
    Answer,
    Check,
    Compare,
    Evaluate,
    Evaluated,
    Failed,
    Job,
    Kind,
    Match,
    Options,
    Outcome,
    Render,
    Rendered,
    Scan,
    Scanned,
    Select,
    Selected,
    Unframer,
    check_depth,
    frame,
    job_limit,
    validation,
)

JOBS_PER_WORKER: Final = 1000
"""After so many jobs a worker makes room for a fresh one, whatever has piled up in it."""

NAMES: Final = 100
"""The most undefined names that are reported, each cut to `NAME_LENGTH` characters."""

NAME_LENGTH: Final = 200
MESSAGE_LENGTH: Final = 500

_JOBS: Final[msgspec.msgpack.Decoder[Job]] = msgspec.msgpack.Decoder(Job)


# -- templates --------------------------------------------------------------------------------------------------


class OutputExceeded(Exception):
    """The text grew beyond the limit."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The jinja2 environment of one job, without what is unsafe."""

    def __init__(self, options: Options, undefined: type[Undefined], loader: BaseLoader | None = None) -> None:
        super().__init__(undefined=undefined, loader=loader, **msgspec.structs.asdict(options))
        del self.globals["lipsum"]

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once; jinja2 itself hands out an undefined, which a lenient template would print as nothing.

        A key of the data that is called like a dangerous method (`update`, `pop`) is only data.
        """
        if isinstance(obj, dict) and attribute in obj:
            return cast("dict[str, Any]", obj)[attribute]
        raise SecurityError(
            f"access to attribute {attribute!r} of {type(cast(object, obj)).__name__!r} object is unsafe."
        )

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Leave the traceback as it is: `_locate` reads from it what jinja2 would rewrite it for."""
        raise


class Undecided(StrictUndefined):
    """What the compiler gets for an undefined name in a constant expression: nothing that it can calculate with.

    So the expression is left for when it is rendered. The job's own kind of undefined would decide it here, once, and
    only the job that came first would hear of the name.
    """

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = missing, name: str | None = None, *_: object) -> None:
        super().__init__(hint, obj, name, cast(Any, nodes.Impossible))


class CompiledTemplates:
    """The compiled code of the templates used last, by their source and options."""

    def __init__(self, bound: int = 128) -> None:
        self._bound = bound
        self._codes: dict[tuple[Options, str, bytes], CodeType] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def find(self, options: Options, name: str, source: str) -> CodeType:
        key = (options, name, hashlib.sha256(source.encode()).digest())
        code = self._codes.pop(key, None)
        if code is None:
            code = Sandbox(options, Undecided).compile(source, name)
            if len(self._codes) == self._bound:
                del self._codes[next(iter(self._codes))]
        self._codes[key] = code
        return code


class Sources(BaseLoader):
    """Finds templates among the sources of one job.

    It overrides `load` rather than `get_source` to get at the compiled code.
    """

    def __init__(self, sources: Mapping[str, str], options: Options, compiled: CompiledTemplates) -> None:
        self._sources = sources
        self._options = options
        self._compiled = compiled

    def load(self, environment: Environment, name: str, globals: MutableMapping[str, Any] | None = None) -> Template:
        source = self._sources.get(name)
        if source is None:
            raise TemplateNotFound(name)
        code = self._compiled.find(self._options, name, source)
        return environment.template_class.from_code(environment, code, {} if globals is None else globals)


def _lenient(used: dict[str, None]) -> type[Undefined]:
    """An undefined that is empty all the way down and adds its name to `used` once something depends on it.

    What only asks (`is defined`, `default`) or passes on (`a.b.c`) doesn't depend on it.
    """

    class Lenient(ChainableUndefined):
        __slots__ = ()

        def _note(self) -> None:
            if self._undefined_name is not None and len(used) < NAMES:
                used[str(self._undefined_name)[:NAME_LENGTH]] = None

        def __str__(self) -> str:
            self._note()
            return ""

        def __bool__(self) -> bool:
            self._note()
            return False

        def __len__(self) -> int:
            self._note()
            return 0

        def __iter__(self) -> Iterator[Any]:
            self._note()
            return iter(())

        def __eq__(self, other: object) -> bool:
            self._note()
            return super().__eq__(other)

        def __hash__(self) -> int:
            self._note()
            return super().__hash__()

    return Lenient


def render(job: Render, compiled: CompiledTemplates, output: int) -> Rendered | Failed:
    """Render a template to at most `output` bytes.

    Raises:
        MemoryError: there isn't enough; the caller had better end.
    """
    used: dict[str, None] = {}
    try:
        sources = job.sources if job.template is None else {**job.sources, job.name: job.template}
        loader = Sources(sources, job.options, compiled)
        undefined = StrictUndefined if job.undefined == "strict" else _lenient(used)
        template = Sandbox(job.options, undefined, loader).get_template(job.name)
        pieces: list[str] = []
        size = 0
        for piece in template.generate(job.context):
            size += len(piece) if piece.isascii() else len(piece.encode())
            if size > output:
                raise OutputExceeded(f"The text is larger than {output} bytes.")
            pieces.append(piece)
        return Rendered("".join(pieces), list(used))
    except MemoryError:
        raise
    except Exception as error:  # a template can raise anything its expressions can
        return describe(error, job.name)


def scan(job: Scan) -> Scanned | Failed:
    """Read a template's references and variables off its syntax tree."""
    try:
        tree = Sandbox(job.options, StrictUndefined).parse(job.source, job.name)
        references = dict.fromkeys(meta.find_referenced_templates(tree))
        return Scanned(
            references=[reference for reference in references if reference is not None],
            dynamic=None in references,
            variables=sorted(meta.find_undeclared_variables(tree)),
        )
    except MemoryError:
        raise
    except Exception as error:  # see render
        return describe(error, job.name)


def query(job: Select) -> Selected | Failed:
    """Run a JSONPath query."""
    import jsonpath  # 0.1 s that only projects with such selectors pay

    try:
        # A bare text would be taken for JSON to parse; of a scalar only the query `$` selects anything.
        is_scalar = not isinstance(job.data, dict | list)
        if is_scalar:
            return Selected([job.data] if job.query.strip() == "$" else [])
        return Selected(jsonpath.JSONPathEnvironment(strict=True).findall(job.query, job.data))
    except jsonpath.JSONPathError as error:
        return Failed("syntax", str(error)[:MESSAGE_LENGTH], job.name[:NAME_LENGTH])
    except MemoryError:
        raise
    except Exception as error:  # filters call functions, which can raise anything
        return describe(error, job.name)


def evaluate(job: Evaluate) -> Evaluated | Failed:
    """Evaluate an expression in the sandbox that templates run in."""
    try:
        sandbox = Sandbox(Options(), _lenient({}))
        return Evaluated(bool(sandbox.compile_expression(job.expression, undefined_to_none=False)(job.context)))
    except UndefinedError:  # compared or calculated with; what depends on it isn't true
        return Evaluated(False)
    except MemoryError:
        raise
    except Exception as error:  # see render
        return describe(error, job.name)


def describe(error: Exception, name: str) -> Failed:
    """An error as data; `name` is the template that was asked for."""
    template, line, variable = _locate(error)
    message = str(error)
    kind: Kind = "runtime"
    match error:
        case TemplateSyntaxError():
            kind, message, template, line = "syntax", error.message or "", error.name, error.lineno
        case TemplateNotFound():
            asked_by = f", which {template} asks for in line {line}," if template else ""
            message = f"The template {message}{asked_by} doesn't exist."
            kind, template, line = "template_not_found", error.name, None
        case UndefinedError():
            kind = "undefined"
        case SecurityError():
            kind = "security"
        case OutputExceeded():
            kind = "output"
        case RecursionError() | NestedTooDeeply():
            kind = "recursion"
        case TemplateError():
            pass
        case _:
            message = f"{type(error).__name__}: {message}"
    return Failed(kind, message[:MESSAGE_LENGTH], (template or name)[:NAME_LENGTH], line, variable)


def _locate(error: Exception) -> tuple[str | None, int | None, str | None]:
    """The innermost template and line that were running, and the variable whose absence ended it."""
    name: str | None = None
    line: int | None = None
    variable: str | None = None
    traceback = error.__traceback__
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template):
            name, line = template.name, template.get_corresponding_lineno(traceback.tb_lineno)
        elif isinstance(undefined := traceback.tb_frame.f_locals.get("self"), Undefined):
            absent: Any = undefined._undefined_name
            variable = None if absent is None else str(absent)[:NAME_LENGTH]
        traceback = traceback.tb_next
    return name, line, variable


# -- one worker -------------------------------------------------------------------------------------------------


def serve_jobs(incoming: int, outgoing: int, rules: settings.RenderSettings) -> None:
    """Say that we are ready, then answer one job after another until the connection closes or enough is enough."""
    compiled = CompiledTemplates()
    # Made while there is memory to make it.
    exhausted = frame(Answer(Failed("memory", f"Rendering needs more than {rules.memory} bytes of memory."), last=True))
    # On Linux a program starts with the peak of the one that started it, which says nothing of our own.
    enough = max(rules.memory // 2, peak_memory())
    _send(outgoing, frame(None))
    for count in itertools.count(1):
        last = count >= JOBS_PER_WORKER
        try:
            request = _receive(incoming, job_limit(rules))
            if request is None:
                return
            grant_time(rules.wall)
            outcome = _perform(request, compiled, rules.output)
            last = last or peak_memory() > enough
            answer = frame(Answer(outcome, last))
        except UnicodeEncodeError:
            answer = frame(Answer(Failed("runtime", "The template makes up a name that isn't Unicode."), last))
        except MemoryError:
            answer, last = exhausted, True
        _send(outgoing, answer)
        if last:
            return


def _perform(request: memoryview, compiled: CompiledTemplates, output: int) -> Outcome:
    try:
        job = _JOBS.decode(request)
        check_depth(job)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return describe(error, "job")
    match job:
        case Render():
            return render(job, compiled, output)
        case Scan():
            return scan(job)
        case Select():
            return query(job)
        case Evaluate():
            return evaluate(job)
        case Match():
            return validation.match(job)
        case Check():
            return validation.check(job)
        case Compare():
            return validation.compare(job)


def _receive(descriptor: int, limit: int) -> memoryview | None:
    unframer = Unframer(limit)
    while piece := os.read(descriptor, 65536):
        if (message := unframer.feed(piece)) is not None:
            return message
    return None


def _send(descriptor: int, framed: bytearray) -> None:
    rest = memoryview(framed)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _silence() -> None:
    """Point stdin, stdout and stderr to nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


# -- what differs between platforms -------------------------------------------------------------------------------

if sys.platform == "linux":
    import ctypes

    # Looked up before any fork: a worker without descriptors couldn't load a library.
    _prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    _PR_SET_PDEATHSIG = 1
    _PR_SET_NO_NEW_PRIVS = 38

    def give_up_privileges() -> None:
        """Never gain a privilege again, and be the first to go when the machine runs out of memory."""
        if _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError("the kernel refused PR_SET_NO_NEW_PRIVS")
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")

    def die_with_parent(parent: int) -> None:
        """Be killed when the process `parent` ends, even in the middle of a job."""
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)

else:  # pragma: no cover

    def give_up_privileges() -> None:
        """Linux alone has this; the sandbox and the limits stand without it."""

    def die_with_parent(parent: int) -> None:
        """Linux alone has this; elsewhere the closed connection ends a worker after its job."""


if sys.platform == "win32":  # pragma: no cover

    def confine(limits: Mapping[int, int]) -> None:
        """Windows has no such limits: time and output are bounded by the pool and the renderer, memory isn't."""

    def limits_of(rules: settings.RenderSettings) -> dict[int, int]:
        return {}

    def grant_time(wall: float) -> None:
        """No processor limit either; the pool kills in time."""

    def peak_memory() -> int:
        return 0

    def ignore_signals() -> None:
        """Ctrl-C reaches every process of a console, but the pool decides when a worker ends."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

else:
    import resource

    def limits_of(rules: settings.RenderSettings) -> dict[int, int]:
        """What a worker may use: memory, hardly a descriptor, no file to write, no core dump."""
        return {
            resource.RLIMIT_AS: rules.memory,
            resource.RLIMIT_NOFILE: 16,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
        }

    def confine(limits: Mapping[int, int]) -> None:
        """Give up privileges, and everything beyond `limits`, for good."""
        give_up_privileges()
        # macOS refuses to bound the address space of a process that already has more reserved.
        tolerated = (ValueError,) if sys.platform == "darwin" else ()
        for which, wanted in limits.items():
            hard = resource.getrlimit(which)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            with contextlib.suppress(*tolerated):
                resource.setrlimit(which, (value, value))

    def grant_time(wall: float) -> None:
        """Processor time for one more job, well beyond what the pool allows: it counts only if the pool is gone."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + wall) + 5
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(
            resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard)
        )

    def peak_memory() -> int:
        """The most memory this process ever occupied, in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def ignore_signals() -> None:
        """The pool decides when we end: systemd, say, signals every process of a service at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


# -- the fork server ----------------------------------------------------------------------------------------------

if sys.platform != "win32":
    import select

    def serve_forks(control: socket.socket, rules: settings.RenderSettings) -> None:
        """Fork, kill and reap workers as the pool asks, until it closes the control connection.

        Only this process kills workers, because only the one that reaps knows that a process id is still theirs.
        """
        server = os.getpid()
        children: dict[int, int] = {}
        alarm, ringer = socket.socketpair()
        ringer.setblocking(False)
        signal.set_wakeup_fd(ringer.fileno())
        signal.signal(signal.SIGCHLD, _ring)
        gc.freeze()  # what is imported by now stays shared between the workers

        while True:
            ready = select.select([control, alarm], [], [])[0]
            if alarm in ready:
                alarm.recv(4096)
                _reap(children, control)
            if control in ready:
                command, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
                if not command:
                    break
                verb, number = COMMAND.unpack(command)
                if verb == KILL:
                    _kill([process for process, known in children.items() if known == number])
                    continue
                (connection,) = descriptors
                try:
                    process = os.fork()
                except OSError as error:
                    control.send(REPORT.pack(number, error.errno))
                else:
                    if process == 0:
                        _become_worker(connection, rules, server, (control, alarm, ringer))
                    children[process] = number
                os.close(connection)

        _kill(children)
        for process in children:
            os.waitpid(process, 0)

    def _ring(number: int, interrupted: object) -> None:
        """Do nothing: only a signal with a handler reaches the wake-up descriptor."""

    def _kill(processes: Iterable[int]) -> None:
        for process in processes:
            os.kill(process, signal.SIGKILL)

    def _reap(children: dict[int, int], control: socket.socket) -> None:
        """Take note of every worker that ended, and tell the pool."""
        while children:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            report = REPORT.pack(children.pop(process), os.waitstatus_to_exitcode(status))
            with contextlib.suppress(BrokenPipeError):  # the pool is gone, as the main loop will see
                control.send(report)

    def _become_worker(
        connection: int, rules: settings.RenderSettings, server: int, others: tuple[socket.socket, ...]
    ) -> NoReturn:
        """Live and end as a worker; never return into the fork server's own loop."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in others:
                other.close()
            die_with_parent(server)
            _silence()
            confine(limits_of(rules))
            serve_jobs(connection, connection, rules)
            status = 0
        finally:
            os._exit(status)


# -- the entry ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run as the last two arguments say: a control descriptor or `DIRECT`, and the settings as JSON."""
    descriptor, encoded = sys.argv[-2:]
    rules = msgspec.json.decode(encoded, type=settings.RenderSettings)
    ignore_signals()
    if sys.platform != "win32" and descriptor != DIRECT:
        serve_forks(socket.socket(fileno=int(descriptor)), rules)
        os._exit(0)  # at once, so that the end of the connection is the end of the process
    else:
        incoming, outgoing = os.dup(0), os.dup(1)
        _silence()
        confine(limits_of(rules))
        serve_jobs(incoming, outgoing, rules)
