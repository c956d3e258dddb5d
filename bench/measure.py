"""What the scenarios share: rows, processes, and how they are compared."""

import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from chora import config
from chora.watch.caller import Caller, CallFailed, PipeCaller, connected

ROUNDS = 5
TICK = os.sysconf("SC_CLK_TCK")


class Row(dict[str, Any]):
    """What was compared, both numbers, and their ratio: how many times less ours is."""

    def __init__(self, what: str, unit: str, ours: float, theirs: float) -> None:
        super().__init__(
            what=what, unit=unit, chora=round(ours, 3), peer=round(theirs, 3), ratio=round(theirs / ours, 2)
        )


def chora(project: Path, *arguments: str) -> list[str]:
    return config.own_command("--project", str(project), *arguments)


def peer(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.sdk_server", *arguments]


Side = tuple[Caller, trio.Process]


async def compare(what: str, ours: Side, theirs: Side, calls: int) -> list[Row]:
    """Alternate between the two, so that a noisy moment hits both."""
    times: dict[int, list[float]] = {0: [], 1: []}
    spent = [0.0, 0.0]
    for round in range(ROUNDS + 1):
        for side, (caller, process) in enumerate((ours, theirs)):
            before = cpu_seconds(process)
            for _ in range(calls // ROUNDS):
                began = time.perf_counter()
                await caller.call("hello_world", {"name": "bench"})
                if round:  # the first round warms up
                    times[side].append((time.perf_counter() - began) * 1e6)
            if round:
                spent[side] += cpu_seconds(process) - before
    count = len(times[0])
    return [
        Row(f"{what}, p50", "µs", statistics.median(times[0]), statistics.median(times[1])),
        Row(f"{what}, CPU per call", "µs", max(spent[0], 1 / TICK) / count * 1e6, spent[1] / count * 1e6),
    ]


@asynccontextmanager
async def piped(
    command: list[str], settings: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[PipeCaller, trio.Process]]:
    environment = {**config.child_environment(), "CHORA_LOG_LEVEL": "WARNING", **(settings or {})}
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, env=environment)
    try:
        caller = PipeCaller(process)
        await caller.open()
        yield caller, process
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def served(
    command: list[str], port: int, settings: dict[str, str]
) -> AsyncGenerator[tuple[Caller, trio.Process]]:
    environment = {**config.child_environment(), "CHORA_LOG_LEVEL": "WARNING", **settings}
    process = await trio.lowlevel.open_process(command, env=environment, stdout=sys.stderr.fileno())
    try:
        with trio.fail_after(30):
            while True:
                try:
                    async with connected(f"http://127.0.0.1:{port}/mcp") as caller:
                        await caller.call("hello_world", {})
                        yield caller, process
                        return
                except CallFailed:
                    await trio.sleep(0.1)
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(process: trio.Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
