"""The pool with real worker processes: jobs, limits, crashes and confinement; no process is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from chora import settings
from chora.concurrency import FairSemaphore
from chora.errors import Busy, InvalidContext, LimitExceeded
from chora.render import (
    JobFailure,
    RenderedText,
    RenderFailed,
    RenderJob,
    ScanJob,
    SelectJob,
    TemplateReferences,
    WorkerAnswer,
    encode_frame,
    pool,
    processes,
)
from chora.render.pool import RenderPool, RenderStatistics
from chora.request_context import Caller, caller
from chora.settings import RenderSettings as RenderSettings
from tests.conftest import requirement
from tests.patience import PATIENCE

MIB = 1024 * 1024
HELLO = RenderJob("Hello {{ name }}", "hello", context={"name": "you"})
GREETING = RenderedText("Hello you", [])
ENDLESS = RenderJob("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "endless")

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")
both_kinds = pytest.mark.parametrize(
    "fork", [pytest.param(True, marks=needs_posix, id="forked"), pytest.param(False, id="spawned")]
)


def processes_below(parent: int) -> list[int]:
    """Children and their descendants, zombies included, in the order of their start."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below: list[int] = []
    level = {parent}
    while level := {process for process, above in parents.items() if above in level}:
        below += level
    return sorted(below)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors(process: int) -> dict[int, str]:
    opened: dict[int, str] = {}
    for entry in list(Path(f"/proc/{process}/fd").iterdir()):
        with suppress(FileNotFoundError):  # the one that listed the folder
            opened[int(entry.name)] = str(entry.readlink())
    return opened


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.005)


@asynccontextmanager
async def running(*, fork: bool = hasattr(os, "fork"), **settings: Any) -> AsyncGenerator[RenderPool]:
    """A running pool; afterwards no process and no descriptor of it may be left."""
    at_rest = sys.platform == "linux" and len(descriptors(os.getpid()))
    workers = RenderPool(RenderSettings(**{"workers": 1, **settings}), fork=fork)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(workers.serve)
            yield workers
            nursery.cancel_scope.cancel()
    if sys.platform == "linux":
        assert processes_below(os.getpid()) == []
        assert len(descriptors(os.getpid())) == at_rest
    assert (workers.statistics().workers, workers.statistics().idle) == (0, 0)


def only_worker() -> int:
    """The process id of the only worker: the descendant that was started last."""
    return processes_below(os.getpid())[-1]


def fork_server() -> int:
    return processes_below(os.getpid())[0]


@pytest.fixture(scope="module", autouse=True)
def warmed_up() -> None:
    """What trio opens once and keeps (its thread cache, a pidfd probe), so that it isn't counted as the pool's."""

    async def start_something() -> None:
        await trio.run_process([sys.executable, "-c", ""])

    trio.run(start_something)


# -- jobs -------------------------------------------------------------------------------------------------------


@both_kinds
async def test_renders_and_scans(fork: bool):
    """One worker handles several jobs of both kinds, and the parent never imports jinja2 for it."""
    async with running(fork=fork) as workers:
        assert workers.statistics() == RenderStatistics(workers=0, idle=0, waiting=0, rendered=0, killed=0)
        assert await workers.render_template(HELLO) == GREETING
        job = RenderJob(None, "page", {"page": "{% extends 'base' %}", "base": "[{% include 'part' %}]", "part": "x"})
        assert await workers.render_template(job) == RenderedText("[x]", [])
        assert await workers.scan_template(ScanJob("{% include 'a' %}{{ b }}")) == TemplateReferences(
            ["a"], False, ["b"], required={"a": 1}
        )
        assert workers.statistics() == RenderStatistics(workers=1, idle=1, waiting=0, rendered=3, killed=0)


def test_the_parent_does_not_import_jinja2():
    """So that start-up stays fast."""
    script = "import sys, chora.render.pool; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)


async def test_undefined_names_are_reported():
    """Lenient names are returned with the text; the error of strict ones names the variable."""
    async with running() as workers:
        job = RenderJob("[{{ event.data.tool_name }}]", "page", undefined="lenient")
        assert await workers.render_template(job) == RenderedText("[]", ["event"])
        with pytest.raises(RenderFailed, match="'event' is undefined") as caught:
            await workers.render_template(RenderJob("\n{{ event.data }}", "page"))
        assert caught.value.reason == JobFailure("undefined", "'event' is undefined", "page", 2, "event")


async def test_syntax_errors_say_where():
    """With template and line, for rendering and for scanning; the worker is kept."""
    async with running() as workers:
        for attempt in (
            workers.render_template(RenderJob("\n{% if %}", "page")),
            workers.scan_template(ScanJob("\n{% if %}", "page")),
        ):
            with pytest.raises(RenderFailed) as caught:
                await attempt
            failed = caught.value.reason
            assert (failed.kind, failed.template, failed.line) == ("syntax", "page", 2)
        assert workers.statistics() == RenderStatistics(workers=1, idle=1, waiting=0, rendered=2, killed=0)


async def test_large_jobs_and_texts_are_transferred():
    """Frames far larger than a socket's buffer arrive complete in both directions."""
    async with running() as workers:
        text = "ä" * (3 * MIB // 2)
        assert (await workers.render_template(RenderJob("{{ text }}", "page", context={"text": text}))).text == text


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", pytest.param([[]], id="deep")])
async def test_a_context_must_be_plain_data(value: Any):
    """Live objects, values without a plain form and bottomless nesting are an error of the caller."""
    if value == [[]]:
        for _ in range(5000):
            value = [value]
    async with running() as workers:
        with pytest.raises(InvalidContext, match="context of page"):
            await workers.render_template(RenderJob("", "page", context={"value": value}))
        assert workers.statistics().workers == 0


# -- limits -----------------------------------------------------------------------------------------------------


@both_kinds
async def test_an_endless_template_is_killed(fork: bool):
    """At its time limit; the next job gets a new worker."""
    async with running(fork=fork, wall=0.3) as workers:
        await workers.warm_up()
        with pytest.raises(LimitExceeded, match=r"endless took longer than 0\.3 s") as caught:
            await workers.render_template(ENDLESS)
        assert caught.value.details == {"limit": "render.wall", "template": "endless"}
        assert workers.statistics() == RenderStatistics(workers=0, idle=0, waiting=0, rendered=0, killed=1)
    async with running(fork=fork) as workers:
        assert await workers.render_template(HELLO) == GREETING


@pytest.mark.slow("waits for two time limits")
async def test_the_next_render_after_a_kill_works():
    """In the same pool."""
    async with running(wall=0.9) as workers:
        for _ in range(2):
            with pytest.raises(LimitExceeded):
                await workers.render_template(ENDLESS)
            assert await workers.render_template(HELLO) == GREETING
        assert workers.statistics().killed == 2


@needs_posix
@pytest.mark.parametrize(
    "template",
    ["{{ 'x' * 10**12 }}", "{% set x = 'x' * 2**20 %}{% for i in range(30) %}{% set x = x ~ x %}{{ x }}{% endfor %}"],
)
async def test_a_memory_bomb_meets_its_limit(template: str):
    """The error says that the memory was exceeded, and the worker isn't used again."""
    async with running(memory=96 * MIB, output=1024 * MIB) as workers:
        for _ in range(2):
            with pytest.raises(LimitExceeded) as caught:
                await workers.render_template(RenderJob(template, "bomb"))
            assert caught.value.details == {"limit": "render.memory", "template": "bomb"}
            assert workers.statistics().idle == 0
        assert await workers.render_template(HELLO) == GREETING


@needs_posix
async def test_the_smallest_memory_suffices():
    """The smallest value that the settings allow is enough for an ordinary template."""
    async with running(memory=64 * MIB) as workers:
        assert await workers.render_template(HELLO) == GREETING


async def test_an_output_bomb_meets_its_limit():
    """The text is refused while it is rendered; the worker can go on."""
    async with running(output=100_000) as workers:
        with pytest.raises(LimitExceeded, match="100000 bytes") as caught:
            await workers.render_template(RenderJob("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "bomb"))
        assert caught.value.details == {"limit": "render.output", "template": "bomb"}
        assert workers.statistics().idle == 1


async def test_a_job_may_be_an_eighth_of_the_memory():
    """Exactly that is sent; one byte more is refused."""

    def job(length: int) -> RenderJob:
        return RenderJob("{{ text | length }}", "page", context={"text": "x" * length})

    most = 8 * MIB
    room = most - len(encode_frame(job(MIB))) + MIB
    assert (len(encode_frame(job(room))), len(encode_frame(job(room + 1)))) == (most, most + 1)
    async with running(memory=64 * MIB) as workers:
        assert (await workers.render_template(job(room))).text == str(room)
        with pytest.raises(LimitExceeded, match=f"has {most + 1} bytes; {most} is the most"):
            await workers.render_template(job(room + 1))


async def test_a_job_beyond_the_memory_is_not_even_sent():
    """It is refused by its size."""
    async with running(memory=64 * MIB) as workers:
        with pytest.raises(LimitExceeded) as caught:
            await workers.render_template(RenderJob("", "page", context={"text": "x" * 9 * MIB}))
        assert caught.value.details["limit"] == "render.memory"
        assert workers.statistics().workers == 0


@pytest.mark.slow("waits for a time limit")
async def test_too_many_waiting_jobs_are_busy():
    """Beyond the queue limit, or one caller's half of it, the error is immediate; waiting jobs are done."""
    async with running(queue=4, wall=1.8) as workers:
        await workers.warm_up()
        texts: list[str] = []

        async def wait_in_line(who: str) -> None:
            caller.set(Caller(who, who))
            texts.append((await workers.render_template(HELLO)).text)

        async def take_long(who: str) -> None:
            caller.set(Caller(who, who))
            with pytest.raises(LimitExceeded):
                await workers.render_template(ENDLESS)

        async def is_refused(who: str, message: str) -> None:
            caller.set(Caller(who, who))
            with pytest.raises(Busy, match=message):
                await workers.render_template(HELLO)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_long, "a")
            await trio.testing.wait_all_tasks_blocked()
            for who in ("a", "a", "b", "b"):
                nursery.start_soon(wait_in_line, who)
                await trio.testing.wait_all_tasks_blocked()
                if workers.statistics().waiting == 2:
                    nursery.start_soon(is_refused, "a", "2 of your templates are waiting")
                    await trio.testing.wait_all_tasks_blocked()
            assert workers.statistics().waiting == 4
            nursery.start_soon(is_refused, "c", "4 templates are waiting")
        assert texts == ["Hello you"] * 4


@pytest.mark.slow("waits for a time limit")
@requirement("render.fair")
async def test_a_caller_waits_for_one_job_of_a_caller_with_many():
    """Not for all of them."""
    async with running(wall=1.8) as workers:
        await workers.warm_up()
        done: list[str] = []

        async def render(who: str, job: RenderJob) -> None:
            caller.set(Caller(who, who))
            with suppress(LimitExceeded):
                await workers.render_template(job)
            done.append(who)

        async with trio.open_nursery() as nursery:
            for who, job in [("greedy", ENDLESS), *[("greedy", HELLO)] * 30, ("modest", HELLO), ("third", HELLO)]:
                nursery.start_soon(render, who, job)
                await trio.testing.wait_all_tasks_blocked()
            assert workers.statistics().waiting == 32
        assert done[:3] == ["greedy", "modest", "third"]
        assert done[3:] == ["greedy"] * 30


@pytest.mark.slow("waits for time limits")
@requirement("render.fair")
async def test_under_load_what_is_unknown_gets_a_short_trial_and_then_its_time(monkeypatch: pytest.MonkeyPatch):
    """A template that takes longer waits its turn again, and is rendered: nothing is lost but the trial."""
    monkeypatch.setattr(FairSemaphore, "QUICK", 0.2)
    async with running(workers=1, wall=PATIENCE) as workers:
        await workers.warm_up()
        done: list[str] = []

        async def render(who: str, job: RenderJob) -> None:
            caller.set(Caller("all", who))
            done.append(f"{who} {(await workers.render_template(job)).text[-4:]}")

        long = RenderJob("{% for i in range(30000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done", "long")
        holder = (("principal", "other"), ("session", "other"), "what runs now")
        await workers._semaphore.acquire(holder)
        async with trio.open_nursery() as nursery:
            for who, job in [("greedy", long), ("modest", HELLO)]:
                nursery.start_soon(render, who, job)
                await trio.testing.wait_all_tasks_blocked()
            workers._semaphore.release(holder, 0.0)
        assert done == ["modest  you", "greedy done"]
        assert workers.statistics().killed == 1


async def test_what_is_alone_gets_its_time_at_once(monkeypatch: pytest.MonkeyPatch):
    """When no other waits, nothing is ended early."""
    monkeypatch.setattr(FairSemaphore, "QUICK", 0.001)
    async with running(workers=1, wall=PATIENCE) as workers:
        await workers.render_template(RenderJob("{% for i in range(90000) %}{% endfor %}", "long"))
        assert workers.statistics().killed == 0


async def test_jobs_run_at_once_on_several_workers():
    """One endless template doesn't delay the others."""
    async with running(workers=2) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(workers.render_template, ENDLESS)
        await until(lambda: workers.statistics().workers == 1)
        assert await workers.render_template(HELLO) == GREETING
        assert workers.statistics().workers == 2
        nursery.cancel_scope.cancel()


@both_kinds
async def test_a_cancelled_caller_frees_its_worker(fork: bool):
    """The worker is killed, as its result isn't needed, and the cancellation is propagated."""
    async with running(fork=fork) as workers:
        await workers.warm_up()
        with trio.move_on_after(0.1) as scope:
            await workers.render_template(ENDLESS)
        assert scope.cancelled_caught
        assert workers.statistics() == RenderStatistics(workers=0, idle=0, waiting=0, rendered=0, killed=1)
        assert await workers.render_template(HELLO) == GREETING


@both_kinds
async def test_a_caller_cancelled_while_a_worker_starts_leaves_nothing(fork: bool):
    """Not even the starting process."""
    async with running(fork=fork) as workers:
        with trio.move_on_after(0.01) as scope:
            await workers.render_template(HELLO)
        assert scope.cancelled_caught
        assert workers.statistics().workers == 0
        assert await workers.render_template(HELLO) == GREETING


# -- crashes ----------------------------------------------------------------------------------------------------


@needs_proc
@both_kinds
async def test_an_idle_worker_that_was_killed_is_replaced(fork: bool):
    """The next job doesn't notice."""
    assert sys.platform != "win32"
    async with running(fork=fork) as workers:
        await workers.render_template(HELLO)
        victim = only_worker()
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not is_running(victim))
        assert await workers.render_template(HELLO) == GREETING
        await until(lambda: victim not in processes_below(os.getpid()))
        assert workers.statistics() == RenderStatistics(workers=1, idle=1, waiting=0, rendered=2, killed=0)


@needs_proc
@both_kinds
async def test_a_busy_worker_that_was_killed_ran_out_of_memory(fork: bool):
    """SIGKILL from outside is most likely the kernel's OOM killer; the job isn't tried again."""
    assert sys.platform != "win32"
    async with running(fork=fork) as workers, trio.open_nursery() as nursery:
        await workers.warm_up()

        async def expect_failure() -> None:
            with pytest.raises(LimitExceeded, match="was killed") as caught:
                await workers.render_template(ENDLESS)
            assert caught.value.details == {"limit": "render.memory", "template": "endless"}

        nursery.start_soon(expect_failure)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(only_worker(), signal.SIGKILL)
    assert workers.statistics().killed == 0


@needs_proc
@both_kinds
async def test_a_worker_killed_before_it_read_its_job_is_no_different(fork: bool):
    """Its connection is then reset rather than closed, with the same error."""
    assert sys.platform != "win32"
    async with running(fork=fork) as workers, trio.open_nursery() as nursery:
        await workers.warm_up()
        os.kill(only_worker(), signal.SIGSTOP)

        async def expect_failure() -> None:
            with pytest.raises(LimitExceeded, match="was killed"):
                await workers.render_template(RenderJob("", "page", context={"text": "x" * MIB}))

        nursery.start_soon(expect_failure)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(only_worker(), signal.SIGKILL)


@needs_proc
@both_kinds
async def test_a_busy_worker_that_crashed_is_a_failure(fork: bool):
    """Any other signal is reported as such."""
    async with running(fork=fork) as workers, trio.open_nursery() as nursery:
        await workers.warm_up()

        async def expect_failure() -> None:
            with pytest.raises(RenderFailed, match="with status -11") as caught:
                await workers.render_template(ENDLESS)
            assert (caught.value.reason.kind, caught.value.reason.template) == ("runtime", "endless")

        nursery.start_soon(expect_failure)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(only_worker(), signal.SIGSEGV)


@needs_proc
async def test_a_killed_fork_server_is_started_again():
    """Its workers, idle and busy, are dropped with it, and the next job works."""
    assert sys.platform != "win32"
    async with running(workers=2) as workers, trio.open_nursery() as nursery:
        await workers.render_template(HELLO)

        async def expect_failure() -> None:
            with pytest.raises((RenderFailed, LimitExceeded)):
                await workers.render_template(ENDLESS)

        nursery.start_soon(expect_failure)
        await trio.testing.wait_all_tasks_blocked()
        await workers.warm_up()
        old = processes_below(os.getpid())
        assert len(old) == 3
        os.kill(fork_server(), signal.SIGKILL)
        await until(lambda: not any(is_running(process) for process in old))
        assert await workers.render_template(HELLO) == GREETING
        assert not set(old) & set(processes_below(os.getpid()))


@needs_proc
async def test_a_fork_server_that_does_not_listen_is_killed_at_the_end(monkeypatch: pytest.MonkeyPatch):
    """Stopping waits for it only for a limited time."""
    assert sys.platform != "win32"
    monkeypatch.setattr(pool, "END_TIMEOUT", 0.2)
    monkeypatch.setattr(processes, "END_TIMEOUT", 0.2)
    async with running() as workers:
        await workers.render_template(HELLO)
        os.kill(fork_server(), signal.SIGSTOP)


@needs_proc
async def test_a_killed_parent_leaves_nothing_behind():
    """When chora is killed, its fork server and workers end, even within an endless template."""
    script = f"""
import os
import trio
from chora import settings
from chora.render import RenderJob
from chora.render.pool import RenderPool

async def main():
    workers = RenderPool(settings.RenderSettings(workers=2, wall=600))
    async with trio.open_nursery() as nursery:
        await nursery.start(workers.serve)
        await workers.warm_up()
        nursery.start_soon(workers.render_template, RenderJob({ENDLESS.template!r}, "endless"))
        await trio.testing.wait_all_tasks_blocked()
        await workers.warm_up()
        os.write(1, b"ready")

import trio.testing
trio.run(main)
"""
    with trio.fail_after(PATIENCE):
        parent = await trio.lowlevel.open_process([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        try:
            assert await parent.stdout.receive_some() == b"ready"
            left_over = processes_below(parent.pid)
        finally:
            parent.kill()
            await parent.wait()
            await parent.stdout.aclose()
        assert len(left_over) == 3
        await until(lambda: not any(is_running(process) for process in left_over))


@both_kinds
async def test_stopping_ends_jobs_in_flight(fork: bool):
    """With an error that says to try again."""
    workers = RenderPool(settings.RenderSettings(), fork=fork)

    async def expect_busy() -> None:
        with pytest.raises(Busy, match="aren't running"):
            await workers.render_template(ENDLESS)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as jobs, trio.open_nursery() as services:
            await services.start(workers.serve)
            await workers.warm_up()
            jobs.start_soon(expect_busy)
            await trio.testing.wait_all_tasks_blocked()
            services.cancel_scope.cancel()
        await expect_busy()


@needs_posix
async def test_an_answer_that_arrives_after_the_end_releases_its_worker():
    """The worker isn't put back into the stopped pool."""
    assert sys.platform != "win32"
    workers = RenderPool(settings.RenderSettings())
    async with trio.open_nursery() as services:
        await services.start(workers.serve)
        await workers.warm_up()
        worker = workers._idle.pop()
        services.cancel_scope.cancel()
    assert isinstance(worker, processes.ForkedWorker)
    assert worker._connection.fileno() != -1
    workers._return_worker(worker)
    assert worker._connection.fileno() == -1
    assert workers.statistics().idle == 0


async def test_stopping_ends_workers_that_are_about_to_start(monkeypatch: pytest.MonkeyPatch):
    """A waiting caller gets busy."""
    monkeypatch.setattr(processes, "worker_command", lambda: [sys.executable, "-c", "import sys; sys.stdin.read()"])
    workers = RenderPool(settings.RenderSettings(), fork=False)

    async def expect_busy() -> None:
        with pytest.raises(Busy, match="aren't running"):
            await workers.warm_up()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as jobs, trio.open_nursery() as services:
            await services.start(workers.serve)
            jobs.start_soon(expect_busy)
            await until(lambda: workers.statistics().workers == 1)
            services.cancel_scope.cancel()


async def test_a_worker_is_retired_after_enough_jobs():
    """The pool replaces it, unnoticed by jobs."""
    async with running() as workers:
        await workers.render_template(HELLO)
        first = workers._idle[0]
        for _ in range(1000):
            assert await workers.render_template(HELLO) == GREETING
        assert workers._idle[0] is not first


@needs_posix
async def test_a_worker_that_grew_is_retired():
    """One that has used more than half of its memory limit is replaced."""
    async with running(memory=128 * MIB) as workers:
        big = RenderJob("{{ ('x' * n) | length }}", "big", context={"n": 70 * MIB})
        assert (await workers.render_template(big)).text == str(70 * MIB)
        assert workers.statistics().idle == 0
        assert await workers.render_template(HELLO) == GREETING


# -- misbehaving workers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["/nowhere/python"], [sys.executable, "-c", "pass"]])
@both_kinds
async def test_a_worker_that_cannot_start_is_a_failure(command: list[str], fork: bool, monkeypatch: pytest.MonkeyPatch):
    """Whether the program doesn't exist or ends at once, the job fails and the pool goes on."""
    monkeypatch.setattr(processes, "worker_command", lambda: command)
    async with running(fork=fork) as workers:
        with pytest.raises(RenderFailed, match="No template worker can be started"):
            await workers.render_template(HELLO)
        monkeypatch.undo()
        assert await workers.render_template(HELLO) == GREETING


async def test_a_worker_that_never_gets_ready_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """It is killed after the start timeout."""
    monkeypatch.setattr(processes, "worker_command", lambda: [sys.executable, "-c", "import sys; sys.stdin.read()"])
    monkeypatch.setattr(processes.Worker, "start_timeout", 0.1)
    async with running(fork=False) as workers:
        with pytest.raises(RenderFailed, match="No template worker can be started"):
            await workers.render_template(HELLO)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\0\0\0\1\xc1", id="no MessagePack"),
        pytest.param(b"\xff\xff\xff\xff", id="endless"),
        pytest.param(b"\0\0\0\0\0", id="too much"),
        pytest.param(bytes(encode_frame(WorkerAnswer(RenderedText("", [])))), id="to another question"),
    ],
)
async def test_an_invalid_answer_is_a_failure(answer: bytes, monkeypatch: pytest.MonkeyPatch):
    """A compromised worker can't confuse the server, and isn't used again."""
    script = f"import os; os.write(1, bytes(4)); os.read(0, 65536); os.write(1, {answer!r}); os.read(0, 65536)"
    monkeypatch.setattr(processes, "worker_command", lambda: [sys.executable, "-c", script])
    async with running(fork=False) as workers:
        with pytest.raises(RenderFailed, match="invalid answer"):
            await workers.scan_template(ScanJob(""))


@needs_posix
async def test_a_worker_that_sends_without_a_job_is_not_used():
    """Its message could be taken for the result of the next job."""
    assert sys.platform != "win32"
    async with running() as workers:
        await workers.render_template(HELLO)
        assert workers._server is not None
        ours, theirs = socket.socketpair()
        with theirs:
            worker = processes.ForkedWorker(workers._server, 0, ours)
            assert worker.is_usable()
            theirs.send(b"x")
            assert not worker.is_usable()
            worker.discard()


def test_the_frozen_binary_runs_itself(monkeypatch: pytest.MonkeyPatch):
    """It has no interpreter to start; its own flag makes it a worker."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert processes.worker_command() == [sys.executable, "--render-worker"]


# -- a fork server that is stopped ------------------------------------------------------------------------------


@needs_proc
@pytest.mark.slow("waits for a time limit, and does a long job twice")
@pytest.mark.parametrize("how", ["it is to fork", "it is to kill"])
@requirement("render.spawner")
async def test_a_fork_server_that_is_stopped_is_replaced(monkeypatch: pytest.MonkeyPatch, how: str):
    """When it doesn't fork, or doesn't kill, within some seconds; the job that met it, and one that runs on a worker of
    its, are done by workers of the new one.
    """
    assert sys.platform != "win32"
    monkeypatch.setattr(processes, "FORK_TIMEOUT", 0.5)
    async with running(workers=2, wall=PATIENCE) as workers:
        await workers.warm_up()
        server = workers._server
        assert server is not None
        texts: list[str] = []

        async def render(job: RenderJob) -> None:
            texts.append((await workers.render_template(job)).text)

        endless = trio.CancelScope()

        async def render_endlessly() -> None:
            with endless:
                await workers.render_template(ENDLESS)

        long = RenderJob("{% for i in range(20000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done", "long")
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(render, long)
                await trio.sleep(0.1)
                if how == "it is to kill":
                    nursery.start_soon(render_endlessly)
                    await until(lambda: workers.statistics().workers == 2)
                    await trio.sleep(0.1)
                os.kill(server.process.pid, signal.SIGSTOP)
                if how == "it is to kill":
                    endless.cancel()
                    await until(lambda: server.is_given_up)
                await render(HELLO)
        assert sorted(texts) == ["Hello you", "done"]
        assert server.is_given_up
        assert workers._server is not server
        await until(lambda: not is_running(server.process.pid))


# -- confinement ------------------------------------------------------------------------------------------------


@needs_proc
async def test_a_worker_is_confined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """No environment, no descriptor but its socket, no privileges, little memory, an empty folder."""
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "x")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "open").open("w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        async with running(memory=256 * MIB) as workers:
            await workers.render_template(HELLO)
            server, worker = fork_server(), only_worker()
            assert server != worker
            for process in (server, worker):
                assert Path(f"/proc/{process}/environ").read_bytes() == b""
                assert str(Path(f"/proc/{process}/cwd").readlink()) == "/"
            opened = descriptors(worker)
            assert [opened.pop(standard) for standard in (0, 1, 2)] == ["/dev/null"] * 3
            assert [target.partition(":")[0] for target in opened.values()] == ["socket"]
            status = Path(f"/proc/{worker}/status").read_text()
            assert "NoNewPrivs:\t1\n" in status
            assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "1000\n"
            limits = {
                line[:26].strip(): line[26:].split()[:2]
                for line in Path(f"/proc/{worker}/limits").read_text().splitlines()
            }
            assert limits["Max address space"] == [str(256 * MIB)] * 2
            assert limits["Max open files"] == ["16", "16"]
            assert limits["Max file size"] == ["0", "0"]
            assert limits["Max core file size"] == ["0", "0"]
            assert 5 <= int(limits["Max cpu time"][0]) <= 20


@pytest.mark.parametrize(
    "template",
    [
        "{{ data.__class__ }}",
        "{{ '{0.__class__}'.format(data) }}",
        "{{ data['items'].append(1) }}",
        "{{ data.clear() }}",
    ],
)
async def test_the_sandbox_refuses(template: str):
    """Private attributes, format strings and changes of the context fail as data."""
    async with running() as workers:
        with pytest.raises(RenderFailed) as caught:
            await workers.render_template(RenderJob(template, "page", context={"data": {"items": []}}))
        assert caught.value.reason.kind == "security"


async def test_jobs_leave_no_state():
    """The second job on the same worker sees nothing of the first."""
    lib = "{% set n = namespace(i=0) %}{% macro up() %}{% set n.i = n.i + 1 %}{{ n.i }}{% endmacro %}"
    async with running() as workers:
        for _ in range(2):
            job = RenderJob("{% import 'lib' as lib %}{% set name = 'x' %}{{ lib.up() }}", "page", {"lib": lib})
            assert (await workers.render_template(job)).text == "1"
            assert (
                await workers.render_template(RenderJob("{{ name is defined }}{{ lib is defined }}", "page"))
            ).text == "FalseFalse"
        assert workers.statistics().workers == 1


async def test_a_query_runs_in_a_worker_too():
    """JSONPath has the limits of a template; an invalid query is an error."""
    async with running() as pool:
        assert (await pool.select_values(SelectJob(query="$.a[*]", data={"a": [1, 2]}))).values == [1, 2]
        with pytest.raises(RenderFailed):
            await pool.select_values(SelectJob(query="$[", data={}))
