"""`just bench`: chora next to the Python SDK, every pair interleaved in one run, reported as ratios.

Calls: p50 of one sequential `tools/call`, and the CPU time the server spent per call. Start: from exec to the
answered `tools/list`. Cache: `generate_content` with nothing changed against `force`. Linux only: CPU time is read
from /proc.
"""

import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from chora import config
from chora.cli.run import print_table
from chora.cli.samples import INIT, write_sample
from chora.watch.caller import Caller, CallFailed, PipeCaller, connected

ROUNDS = 5
TICK = os.sysconf("SC_CLK_TCK")


class Row(dict[str, Any]):
    """What was compared, both numbers, and their ratio: how many times less ours is."""

    def __init__(self, what: str, unit: str, ours: float, theirs: float) -> None:
        super().__init__(
            what=what, unit=unit, chora=round(ours, 3), peer=round(theirs, 3), ratio=round(theirs / ours, 2)
        )


def main() -> None:
    calls = int(next((argument for argument in sys.argv[1:] if argument.isdigit()), "300"))
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        write_sample(project, INIT)
        rows = [row for scenario in (stdio, http, start, cache) for row in trio.run(scenario, project, calls)]
    if "--json" in sys.argv:
        print(json.dumps({"success": True, "calls": calls, "rows": rows}, indent=2))
    else:
        print_table(
            ("What", "Unit", "chora", "peer", "peer ÷ chora"),
            [(row["what"], row["unit"], row["chora"], row["peer"], row["ratio"]) for row in rows],
        )


def chora(project: Path, *arguments: str) -> list[str]:
    return config.own_command("--project", str(project), *arguments)


def peer(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.sdk_server", *arguments]


async def stdio(project: Path, calls: int) -> list[Row]:
    """One call after the other over pipes."""
    async with piped(chora(project, "stdio")) as ours, piped(peer("stdio")) as theirs:
        return await compare("stdio tools/call", ours, theirs, calls)


async def http(project: Path, calls: int) -> list[Row]:
    """One call after the other over one HTTP connection, in the modern era."""
    ports = [free_port(), free_port()]
    quiet = {"CHORA_PROBE_INTERVAL": "3600", "CHORA_PROBE_LATENCY_INTERVAL": "3600"}
    async with (
        served(chora(project, "serve", "--port", str(ports[0])), ports[0], quiet) as ours,
        served(peer("http", str(ports[1])), ports[1], {}) as theirs,
    ):
        return await compare("/mcp tools/call", ours, theirs, calls)


async def start(project: Path, calls: int) -> list[Row]:
    """From exec to the answered tools/list over stdio."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        for side, command in (("ours", chora(project, "stdio")), ("theirs", peer("stdio"))):
            began = time.perf_counter()
            async with piped(command) as (caller, _process):
                await caller.request("tools/list", {})
                times[side].append((time.perf_counter() - began) * 1000)
    return [
        Row("exec to tools/list, stdio", "ms", statistics.median(times["ours"]), statistics.median(times["theirs"]))
    ]


async def cache(project: Path, calls: int) -> list[Row]:
    """The same generate_content with nothing changed, and made again."""
    async with piped(chora(project, "stdio")) as (caller, _):
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(max(20, calls // 5)):
            for force in (False, True):
                began = time.perf_counter()
                await caller.call("generate_content", {"content_config_id": "greeting", "force": force})
                times[force].append((time.perf_counter() - began) * 1000)
    cached, made = statistics.median(times[False]), statistics.median(times[True])
    return [Row("generate_content, cached against made", "ms", cached, made)]


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
async def piped(command: list[str]) -> AsyncGenerator[tuple[PipeCaller, trio.Process]]:
    environment = {**config.child_environment(), "CHORA_LOG_LEVEL": "WARNING"}
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


if __name__ == "__main__":
    if not Path("/proc/self/stat").exists():
        sys.exit("bench reads CPU times from /proc, so it runs on Linux only")
    main()
