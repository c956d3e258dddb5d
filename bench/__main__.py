"""`just bench`: chora next to the Python SDK, every pair interleaved in one run, reported as ratios.

Calls: p50 of one sequential `tools/call`, and the CPU time the server spent per call. Start: from exec to the
answered `tools/list`. Cache: `generate_content` with nothing changed against `force`. Render: what the template workers
cost, and what bombs cost the others. Collection: next to ninja. Connect: what a bridge adds to a call.
Names of scenarios on the command line choose among them. Linux only: CPU time is read from /proc.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

from bench.collection import collection
from bench.connect import connect
from bench.measure import ROUNDS, Row, chora, compare, free_port, peer, piped, served
from bench.render import render, respawn, storm
from chora.cli.run import print_table
from chora.cli.samples import INIT, write_sample


def main() -> None:
    calls = int(next((argument for argument in sys.argv[1:] if argument.isdigit()), "300"))
    named = [scenario for scenario in SCENARIOS if scenario.__name__ in sys.argv[1:]]
    scenarios = named or SCENARIOS
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        write_sample(project, INIT)
        rows = [row for scenario in scenarios for row in trio.run(scenario, project, calls)]
    if "--json" in sys.argv:
        print(json.dumps({"success": True, "calls": calls, "rows": rows}, indent=2))
    else:
        print_table(
            ("What", "Unit", "chora", "peer", "peer ÷ chora"),
            [(row["what"], row["unit"], row["chora"], row["peer"], row["ratio"]) for row in rows],
        )


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


SCENARIOS = (stdio, http, connect, start, cache, render, respawn, storm, collection)


if __name__ == "__main__":
    if not Path("/proc/self/stat").exists():
        sys.exit("bench reads CPU times from /proc, so it runs on Linux only")
    main()
