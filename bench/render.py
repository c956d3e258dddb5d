"""Template workers: what they cost next to rendering inline, after a kill, and while bombs go off beside."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio

from bench.connect import CACHE
from bench.measure import ROUNDS, Row
from chora import settings
from chora.errors import Busy, LimitExceeded
from chora.render import RenderJob
from chora.render.pool import RenderPool
from chora.render.sandbox import CompiledTemplates
from chora.render.sandbox import render_template as render_inline
from chora.request_context import Caller, caller

PAGE = RenderJob(
    template="# {{ title }}\n{% for row in rows %}- {{ row.name }}: {{ row.number * 2 }}\n{% endfor %}",
    name="page",
    context={"title": "Moorings", "rows": [{"name": f"berth {number}", "number": number} for number in range(50)]},
)
ENDLESS = RenderJob("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "endless")
LARGE = RenderJob("{{ 'x' * 10**12 }}", "large")

WALL = 0.2
"""Seconds a bomb may take: the storm is about how it is shared out, not about how patient the settings are."""
BOMBERS = 16
PARALLEL = "1.3.0"
"""The release of trio-parallel that we are measured next to."""


@asynccontextmanager
async def pooled(*, fork: bool = True, workers: int = 2) -> AsyncGenerator[RenderPool]:
    """A pool, with two workers as the settings have it by default."""
    pool = RenderPool(settings.RenderSettings(workers=workers, wall=WALL), fork=fork)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        await pool.warm_up()
        yield pool
        nursery.cancel_scope.cancel()


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    """Milliseconds that it takes."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def render(project: Path, calls: int) -> list[Row]:
    """The same template in a worker and in our own process, in turns."""
    compiled = CompiledTemplates()
    times: tuple[list[float], list[float]] = ([], [])
    async with pooled() as pool:
        for _ in range(ROUNDS):
            for _ in range(max(20, calls // ROUNDS)):
                times[0].append(await timed(lambda: pool.render_template(PAGE)))
                began = time.perf_counter()
                render_inline(PAGE, compiled, 4 * settings.MIB)
                times[1].append((time.perf_counter() - began) * 1000)
    return [Row("render in a worker, next to inline, p50", "ms", *map(statistics.median, times))]


async def parallel(project: Path, calls: int) -> list[Row]:
    """The same template in a worker of ours and in one of trio-parallel, in turns; each process times itself."""
    count = max(20, calls // ROUNDS)
    page = json.dumps({"template": PAGE.template, "context": PAGE.context, "calls": count}).encode()
    command, ours, theirs = _parallel_peer(), list[float](), list[float]()
    async with pooled() as pool:
        for _ in range(ROUNDS):
            ours += [await timed(lambda: pool.render_template(PAGE)) for _ in range(count)]
            done = await trio.run_process(command, stdin=page, capture_stdout=True)
            theirs += json.loads(done.stdout)
    return [
        Row("render in a worker, next to trio-parallel, p50", "ms", statistics.median(ours), statistics.median(theirs))
    ]


def _parallel_peer() -> list[str]:
    """The peer's command line, in an environment that is made once; never one of ours, which doesn't need it."""
    python = CACHE / "trio-parallel" / "bin" / "python"
    if not python.exists():
        print(f"installing trio-parallel {PARALLEL} into {CACHE}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        wanted = [f"trio-parallel=={PARALLEL}", *(f"{name}=={version(name)}" for name in ("trio", "jinja2"))]
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
    return [str(python), str(Path(__file__).with_name("parallel_peer.py"))]


async def respawn(project: Path, calls: int) -> list[Row]:
    """The first render after a worker was killed: by a fork, and next to it by a process started from scratch."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for fork in (True, False):
        async with pooled(fork=fork, workers=1) as pool:
            for _ in range(ROUNDS):
                with suppress(LimitExceeded):
                    await pool.render_template(ENDLESS)
                times[fork].append(await timed(lambda: pool.render_template(PAGE)))
    return [
        Row(
            "render after a kill, forked next to started",
            "ms",
            statistics.median(times[True]),
            statistics.median(times[False]),
        )
    ]


async def storm(project: Path, calls: int) -> list[Row]:
    """Good renders of one caller, while another sends bombs without a pause, and without any."""
    rows: list[Row] = []
    for name, bomb in (("endless", ENDLESS), ("huge", LARGE)):
        async with pooled() as pool:

            async def throw(bomb: RenderJob = bomb, pool: RenderPool = pool) -> None:
                caller.set(Caller("bomber", "bomber"))
                while True:
                    with suppress(LimitExceeded, Busy):
                        await pool.render_template(bomb)

            async def good(pool: RenderPool = pool) -> float:
                return await timed(lambda: pool.render_template(PAGE))

            count = max(20, calls // 10)
            quiet = [await good() for _ in range(count)]
            async with trio.open_nursery() as bombers:
                for _ in range(BOMBERS):
                    bombers.start_soon(throw)
                await trio.sleep(2 * WALL)
                stormy = [await good() for _ in range(count)]
                bombers.cancel_scope.cancel()
        waited = f"render while {BOMBERS} {name} ones wait, next to none, p50"
        rows.append(Row(waited, "ms", statistics.median(stormy), statistics.median(quiet)))
    return rows
