"""The transports next to those of the SDKs: calls over stdio and HTTP, starting, and idle SSE sessions.

The client does as little as possible, so that the servers are measured: blocking reads and writes of bytes
that were prepared before.
"""

import functools
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure import ROUNDS, TICK, Row, chora, cpu_seconds, free_port
from chora import this_process
from chora.protocol import wire
from tests.contract import installation

OURS, PYTHON, TYPESCRIPT = "chora", "the Python SDK", "the TypeScript SDK"
SESSIONS = 1000
PATIENCE = 30.0
"""Seconds that a server may take to listen, or to answer."""
SETTINGS = {"CHORA_PROBE_INTERVAL": "3600", "CHORA_PROBE_LATENCY_INTERVAL": "3600", "CHORA_LOG_LEVEL": "WARNING"}
CALL: dict[str, Any] = {"name": "hello_world", "arguments": {"name": "bench"}}
CLIENT = {"name": "bench", "version": "1"}


class Side(NamedTuple):
    """A server, and a function that makes one call."""

    process: subprocess.Popen[bytes]
    call: Callable[[], bytes]


def commands(project: Path, transport: str, port: int = 0) -> dict[str, list[str]]:
    """The command line of every server; one that isn't installed is told to be missing."""
    place = [transport] if transport == "stdio" else [transport, str(port)]
    found = {OURS: chora(project, *(["stdio"] if transport == "stdio" else ["serve", "--port", str(port)]))}
    if find_spec("mcp"):
        found[PYTHON] = [sys.executable, "-m", "bench.sdk_server", *place]
    else:
        tell_missing(PYTHON, "It is a development dependency.")
    try:
        found[TYPESCRIPT] = [installation.find_node(), str(Path(__file__).with_name("typescript_server.mjs")), *place]
    except installation.ToolsNotInstalled as error:
        tell_missing(TYPESCRIPT, str(error))
    return found


@functools.cache
def tell_missing(peer: str, why: str) -> None:
    """Say once that there is nothing to measure us next to."""
    print(f"MISSING: {peer} isn't installed, so nothing is measured next to it. {why}", file=sys.stderr)


@contextmanager
def running(command: list[str]) -> Generator[subprocess.Popen[bytes]]:
    """A server, for as long as it is needed."""
    environment = {**this_process.child_environment(), **SETTINGS}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


def ask(process: subprocess.Popen[bytes], message: bytes) -> bytes:
    """One message over pipes, and what is answered."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(message)
    process.stdin.flush()
    return process.stdout.readline()


def request(method: str, params: dict[str, Any]) -> bytes:
    """A request as a line."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def initialize(process: subprocess.Popen[bytes]) -> None:
    """Open the conversation over pipes."""
    hello = {"protocolVersion": wire.HANDSHAKE_REVISIONS[-1], "capabilities": {}, "clientInfo": CLIENT}
    ask(process, request("initialize", hello))
    assert process.stdin is not None
    process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')


def connected(port: int) -> socket.socket:
    """A connection to a server, once it listens."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def post(connection: socket.socket, message: bytes) -> bytes:
    """One request over HTTP, and the body that answers it."""
    connection.sendall(message)
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
        body += connection.recv(65536)
    return body


def modern_call(port: int) -> bytes:
    """A `tools/call` of the modern era as it is posted."""
    envelope = {
        wire.VERSION_KEY: wire.MODERN_REVISIONS[-1],
        wire.CAPABILITIES_KEY: {},
        "io.modelcontextprotocol/clientInfo": CLIENT,
    }
    body = request("tools/call", {**CALL, "_meta": envelope})
    return (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        "Accept: application/json, text/event-stream\r\n"
        f"MCP-Protocol-Version: {wire.MODERN_REVISIONS[-1]}\r\nMcp-Method: tools/call\r\nMcp-Name: {CALL['name']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def stdio(project: Path, calls: int) -> list[Row]:
    """One call after the other over pipes."""
    message = request("tools/call", CALL)
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, command in commands(project, "stdio").items():
            process = stack.enter_context(running(command))
            initialize(process)
            sides[name] = Side(process, lambda process=process: ask(process, message))
        return compare("stdio tools/call", sides, calls)


async def http(project: Path, calls: int) -> list[Row]:
    """One call after the other over one HTTP connection, in the modern era."""
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name in commands(project, "http"):
            port = free_port()
            process = stack.enter_context(running(commands(project, "http", port)[name]))
            connection, message = stack.enter_context(connected(port)), modern_call(port)
            sides[name] = Side(process, lambda connection=connection, message=message: post(connection, message))
        return compare("/mcp tools/call", sides, calls)


def compare(what: str, sides: dict[str, Side], calls: int) -> list[Row]:
    """Take turns, so that a noisy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    spent = dict.fromkeys(sides, 0.0)
    for round in range(ROUNDS + 1):
        for name, side in sides.items():
            before = cpu_seconds(side.process)
            for _ in range(calls // ROUNDS):
                began = time.perf_counter()
                answer = side.call()
                if round:  # the first round warms up
                    times[name].append((time.perf_counter() - began) * 1e6)
                assert b"Hello, bench!" in answer, f"{name} answered {answer!r}"
            if round:
                spent[name] += cpu_seconds(side.process) - before
    middle = {name: statistics.median(each) for name, each in times.items()}
    cost = {name: max(each, 1 / TICK) / len(times[OURS]) * 1e6 for name, each in spent.items()}
    return rows(f"{what}, p50", "µs", middle) + rows(f"{what}, CPU per call", "µs", cost)


async def start(project: Path, calls: int) -> list[Row]:
    """From exec to the answered tools/list over stdio."""
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, command in commands(project, "stdio").items():
            began = time.perf_counter()
            with running(command) as process:
                initialize(process)
                answer = ask(process, request("tools/list", {}))
                times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
                assert b"hello_world" in answer, f"{name} answered {answer!r}"
    return rows("exec to tools/list, stdio", "ms", {name: statistics.median(each) for name, each in times.items()})


async def sse(project: Path, calls: int) -> list[Row]:
    """The memory that an idle session of the 2024-11-05 transport costs."""
    costs: dict[str, float] = {}
    for name in commands(project, "sse"):
        port = free_port()
        with running(commands(project, "sse", port)[name]) as process, ExitStack() as stack:
            question = f"GET /sse HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
            before = 0.0
            for number in range(-SESSIONS // 10, SESSIONS):
                if number == 0:  # those so far only warmed up
                    before = resident(process)
                stream = stack.enter_context(connected(port))
                stream.sendall(question)
                received = b""
                while b"session" not in received:
                    received += stream.recv(4096)
            costs[name] = (resident(process) - before) / SESSIONS
    return rows(f"{SESSIONS:,} open SSE sessions, memory of each", "KB", costs)


def resident(process: subprocess.Popen[bytes]) -> float:
    """The memory that a process has, KB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return float(status.partition("VmRSS:")[2].split()[0])


def rows(what: str, unit: str, values: dict[str, float]) -> list[Row]:
    """A row for every peer that was there."""
    return [
        Row(f"{what}, next to {name}", unit, values[OURS], theirs) for name, theirs in values.items() if name != OURS
    ]
