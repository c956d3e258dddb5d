"""`just bench`: chora next to comparable programs, always in one run, reported as ratios.

stdio, http: p50 of one sequential `tools/call`, and the CPU time the server spent per call, next to the SDKs. start:
from exec to the answered `tools/list`. sse: the memory of idle sessions. connect: what a bridge adds to a call. cache:
`generate_content` with nothing changed against `force`. render, parallel, respawn, storm: what the template workers
cost, and what hostile templates cost other calls. collection: next to ninja.
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
from bench.measure import Row, chora, piped
from bench.render import parallel, render, respawn, storm
from bench.servers import http, sse, start, stdio
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


SCENARIOS = (stdio, http, start, sse, connect, cache, render, parallel, respawn, storm, collection)


if __name__ == "__main__":
    if not Path("/proc/self/stat").exists():
        sys.exit("bench reads CPU times from /proc, so it runs on Linux only")
    main()
