"""What the scenarios share: rows, processes, and how they are compared."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from chora import this_process
from chora.watch.mcp_client import CallFailed, McpClient, PipeMcpClient, connect_http

ROUNDS = 5
TICK = os.sysconf("SC_CLK_TCK")


class Row(dict[str, Any]):
    """What was compared, both numbers, and their ratio: how many times less ours is."""

    def __init__(self, what: str, unit: str, ours: float, theirs: float) -> None:
        super().__init__(
            what=what, unit=unit, chora=round(ours, 3), peer=round(theirs, 3), ratio=round(theirs / ours, 2)
        )


def chora(project: Path, *arguments: str) -> list[str]:
    return this_process.own_command("--project", str(project), *arguments)


@asynccontextmanager
async def piped(
    command: list[str], variables: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[PipeMcpClient, trio.Process]]:
    environment = {**this_process.child_environment(), "CHORA_LOG_LEVEL": "WARNING", **(variables or {})}
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, env=environment)
    try:
        caller = PipeMcpClient(process)
        await caller.open()
        yield caller, process
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def served(
    command: list[str], port: int, variables: dict[str, str]
) -> AsyncGenerator[tuple[McpClient, trio.Process]]:
    environment = {**this_process.child_environment(), "CHORA_LOG_LEVEL": "WARNING", **variables}
    process = await trio.lowlevel.open_process(command, env=environment, stdout=sys.stderr.fileno())
    try:
        with trio.fail_after(30):
            while True:
                try:
                    async with connect_http(f"http://127.0.0.1:{port}/mcp") as caller:
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


def cpu_seconds(process: trio.Process | subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
