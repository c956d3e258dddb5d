"""Bounds of every hostile case: memory, descriptors, processes, files and time."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2
import pytest
import trio

from chora import this_process
from tests.conftest import Asking, Project, content
from tests.http_client import HttpTestClient
from tests.patience import PATIENCE

MIB = 1024 * 1024

linux = pytest.mark.skipif(sys.platform != "linux", reason="measures itself in /proc, and needs links and pipes")

SETTINGS = f"[render]\nworkers = 1\nwall = 1.5\nmemory = {128 * MIB}\noutput = {MIB}\n"
"""One worker, so that a leaked descriptor shows, and short limits, so that bombs end soon."""

PROCESSOR_TIME = 30.0
"""Seconds of processors that nothing may take: ten times what the slowest of all usually does. What isn't stopped goes
on for ever, so that this and `PATIENCE` find it; how fast what is stopped was belongs into benchmarks."""

GOOD = content("good", pattern={"type": "jinja2", "template": "Hello {{ name | default('you') }}\n"})


def prepare(project: Project) -> Project:
    """Write these settings and a working content into a project."""
    project.write("chora.toml", SETTINGS)
    project.save(GOOD)
    return project


async def is_well(ask: Asking) -> None:
    """Check that the next valid call works, and generates anew."""
    made = await ask("generate_content", content_config_id="good", force=True)
    assert made["content"].startswith("Hello you"), made


@asynccontextmanager
async def bounded(
    project: Project, process: int = 0, *, memory: int = 48 * MIB, written: int = MIB
) -> AsyncGenerator[None]:
    """What happens inside ends, and takes no more than this, in a process (our own when 0) and on disk.

    Memory is the highest point above where it began, of the process itself; its children are workers, each bounded by
    the kernel, of which none may be left beyond those that were there.
    """
    process = process or os.getpid()
    _forget_peak(process)
    peak, opened, children, disk = _peak(process), _descriptors(process), _children(process), _disk(project.root)
    before = _processor_time(process)
    with trio.fail_after(PATIENCE):
        yield
    took = _processor_time(process) - before
    assert took < PROCESSOR_TIME, f"took {took:.1f} s of processors"
    assert _peak(process) - peak < memory, f"took {(_peak(process) - peak) // MIB} MiB"
    with trio.move_on_after(PATIENCE):
        # A refused connection lingers until both sides have closed it, a killed process until it is reaped.
        while _descriptors(process) > opened or _children(process) > children:
            await trio.sleep(0.01)
    assert _descriptors(process) <= opened, f"descriptors were left open: {links(process)}"
    assert _children(process) <= children, "processes were left"
    assert _disk(project.root) - disk < written, f"wrote {_disk(project.root) - disk} bytes"
    assert not list(project.root.rglob("*.tmp")), "temporary files were left"


def calls_in(act: Callable[[], object]) -> int:
    """The number of function calls: the same on every machine, however slow and busy it is."""
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def steps_in(act: Callable[[], object], module: str) -> int:
    """The number of lines of a module that are run: the same on every machine, however slow and busy it is."""
    count = 0

    def note(frame: FrameType, event: str, __: object) -> Any:
        nonlocal count
        if frame.f_globals.get("__name__") != module:
            return None
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def _processor_time(process: int) -> float:
    """Seconds that a process and all below it have used so far, in user and in system mode."""
    total = 0.0
    with contextlib.suppress(OSError):
        # The name in brackets may hold anything; counted from behind it, these are utime, stime, cutime and cstime.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(_processor_time(int(child)) for child in (task / "children").read_text().split())
    return total


def _forget_peak(process: int) -> None:
    """Have the kernel count the peak from now on; where it refuses, the old peak only makes this less strict."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def _peak(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _descriptors(process: int) -> int:
    """Open descriptors, without those by which changes of files are reported: one for each kind of config."""
    return sum("inotify" not in link for link in links(process))


def links(process: int) -> list[str]:
    """What the descriptors of a process are of; one that is closed while this reads is left out."""
    found: list[str] = []
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return sorted(found)


def _children(process: int) -> int:
    """How many processes stand below this one, by every thread that started one."""
    count = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):
            below = (task / "children").read_text().split()
            count += len(below) + sum(_children(int(child)) for child in below)
    return count


def _disk(root: Path) -> int:
    """Bytes that the files of a project really occupy."""
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))


# -- a server of its own ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def settled(server: trio.Process) -> None:
    """Wait until the server has opened everything that it opens after its first use, the file watch last."""
    with trio.fail_after(PATIENCE):
        while not any("inotify" in link for link in links(server.pid)):
            await trio.sleep(0.05)
    await trio.sleep(0.2)


@asynccontextmanager
async def process(project: Project, *command: str, **pipes: Any) -> AsyncGenerator[trio.Process]:
    """Another chora process, which must run until the end and then exit with 0."""
    with (project.root.parent / "log").open("wb") as log:
        started = await trio.lowlevel.open_process(
            this_process.own_command("--project", str(project.root), *command),
            env={
                **this_process.child_environment(),
                "CHORA_PROBE_INTERVAL": "3600",
                "CHORA_PROBE_LATENCY_INTERVAL": "3600",
            },
            stderr=log,
            **pipes,
        )
    try:
        yield started
        assert started.poll() is None, "the server ended"
    finally:
        for pipe in (started.stdin, started.stdout):
            if pipe is not None:
                await pipe.aclose()
        started.terminate()
        with trio.CancelScope(shield=True), trio.move_on_after(PATIENCE):
            await started.wait()
        started.kill()
    assert started.returncode in (0, -15), started.returncode
    logged = (project.root.parent / "log").read_text()
    assert "Traceback" not in logged, logged
    assert "incident" not in logged, logged


@asynccontextmanager
async def serving(project: Project) -> AsyncGenerator[tuple[trio.Process, HttpTestClient]]:
    """A server on a free port, and a client with a session."""
    port = free_port()
    async with (
        process(project, "serve", "--port", str(port)) as server,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as http,
    ):
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    if (await http.get("/ready")).status_code == 200:
                        break
                except httpx2.TransportError:
                    await trio.sleep(0.05)
        client = HttpTestClient(http, None)  # pyright: ignore[reportArgumentType] (only its requests are used)
        await client.initialize()
        yield server, client


def workers_memory(server: int) -> int:
    """What all processes below a server occupy now, together."""
    total = 0
    for task in Path(f"/proc/{server}/task").iterdir():
        with contextlib.suppress(OSError, IndexError):
            for below in (task / "children").read_text().split():
                status = Path(f"/proc/{below}/status").read_text()
                total += int(status.partition("VmRSS:")[2].split()[0]) * 1024 + workers_memory(int(below))
    return total
