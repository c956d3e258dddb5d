"""What a bridge adds to a call: `chora connect` and supergateway in front of the same server, next to no bridge."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import ROUNDS, Row, chora, cpu_seconds, free_port, piped, served
from chora import this_process

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chora-bench"
VERSION = "4.0.0"


async def connect(project: Path, calls: int) -> list[Row]:
    """One call after the other through each bridge, and without one; interleaved, all to one chora server."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    quiet = {"CHORA_PROBE_INTERVAL": "3600", "CHORA_PROBE_LATENCY_INTERVAL": "3600"}
    peer = supergateway(url)
    async with (
        served(chora(project, "serve", "--port", str(port)), port, quiet) as (direct, _),
        piped(this_process.own_command("connect", url)) as (ours, our_process),
        piped(peer) as (theirs, their_process),
    ):
        sides = (direct, None), (ours, our_process), (theirs, their_process)
        times: list[list[float]] = [[], [], []]
        spent = [0.0, 0.0, 0.0]
        for round in range(ROUNDS + 1):
            for side, (caller, process) in enumerate(sides):
                before = cpu_seconds(process) if process else 0.0
                for _ in range(calls // ROUNDS):
                    began = time.perf_counter()
                    await caller.call("hello_world", {"name": "bench"})
                    if round:  # the first round warms up
                        times[side].append((time.perf_counter() - began) * 1e6)
                if round and process:
                    spent[side] += cpu_seconds(process) - before
    nothing, ours_all, theirs_all = (statistics.median(each) for each in times)
    count = len(times[0])
    return [
        Row("a call without a bridge, p50", "µs", nothing, nothing),
        Row("a call through the bridge, p50", "µs", ours_all, theirs_all),
        Row("added by the bridge, p50", "µs", max(ours_all - nothing, 1.0), theirs_all - nothing),
        Row("the bridge's CPU per call", "µs", max(spent[1] / count * 1e6, 1.0), spent[2] / count * 1e6),
    ]


def supergateway(url: str) -> list[str]:
    """The peer's command line: the `index.js` that `SUPERGATEWAY` names, else a copy that npm installs once."""
    node, npm = shutil.which("node"), shutil.which("npm")
    script = Path(os.environ.get("SUPERGATEWAY") or CACHE / "node_modules/supergateway/dist/index.js")
    if not script.exists() and npm:
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), f"supergateway@{VERSION}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    if node is None or not script.exists():
        sys.exit("connect is measured next to supergateway, which needs node and npm")
    return [node, str(script), "--streamableHttp", url, "--logLevel", "none"]
