"""Servers of others behind `chora connect`: part of `just clients`.

Each is started on loopback, and spoken to through `chora connect`: raw, and by clients that try the modern era first.
What it refuses must reach the request that it refuses, also when the refusal names another id: servers on the Python
SDK 1.x answer the first request of such a client with 400 and `"id": "server-error"`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import trio
from mcp.shared.exceptions import MCPError

from chora import client
from tests.contract import raw
from tests.contract.installation import HERE, PACKAGES, RunningChora, find_node, find_python
from tests.patience import PATIENCE

RUN_LIMIT = 90
"""Seconds that a server may take, from its start to its end; it usually takes five."""
EXIT_TIMEOUT = 10.0
"""Seconds that a server gets to end after SIGTERM."""
GREETER = str(HERE / "servers" / "greeter.py")
EVERYTHING = PACKAGES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
SUPERGATEWAY = PACKAGES / "supergateway" / "dist" / "index.js"


def greeter(sdk: int, library: str, transport: str, port: int) -> list[str]:
    return [str(find_python(sdk)), GREETER, library, transport, str(port)]


def node(*words: str) -> list[str]:
    return [find_node(), "--import", str(HERE / "servers" / "loopback.mjs"), *words]


def everything(transport: str, port: int) -> list[str]:
    return node(str(EVERYTHING), {"http": "streamableHttp"}.get(transport, transport))


def supergateway(transport: str, port: int) -> list[str]:
    inner = " ".join(greeter(1, "sdk", "stdio", 0))
    output = {"http": "streamableHttp"}.get(transport, transport)
    stateful = ["--stateful"] if transport == "http" else []
    return node(str(SUPERGATEWAY), "--stdio", inner, "--outputTransport", output, "--port", str(port), *stateful)


def mcp_proxy(transport: str, port: int) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(find_python(1).with_name("mcp-proxy")), *options, "--", *greeter(1, "sdk", "stdio", 0)]


class ForeignServer(NamedTuple):
    """A server of others: how it is started, and what it answers to."""

    name: str
    command: Callable[[str, int], list[str]]
    """Of the transport and the port."""
    revision: str
    """The newest it speaks."""
    tool: str = "greet"
    arguments: Mapping[str, Any] = MappingProxyType({"name": "Ada"})
    said: str = "Hello, Ada!"
    transports: tuple[str, ...] = ("http", "sse")


HANDSHAKE = "2025-11-25"
SERVERS = (
    ForeignServer("Python SDK 1", partial(greeter, 1, "sdk"), HANDSHAKE),
    ForeignServer("Python SDK 2", partial(greeter, 2, "sdk"), raw.MODERN),
    ForeignServer("FastMCP 3", partial(greeter, 1, "fastmcp"), HANDSHAKE),
    ForeignServer("FastMCP 4", partial(greeter, 2, "fastmcp"), raw.MODERN),
    ForeignServer("server-everything", everything, HANDSHAKE, "echo", {"message": "Ada"}, "Echo: Ada"),
    ForeignServer("supergateway", supergateway, HANDSHAKE),
    ForeignServer("mcp-proxy", mcp_proxy, HANDSHAKE),
)


class ForeignRun(NamedTuple):
    """A server over one transport: what it negotiated, how long it took, and what was wrong."""

    server: str
    transport: str
    revision: str
    seconds: float
    faults: dict[str, str]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end_group(group: int, by: signal.Signals) -> None:
    """Signal a server and what it started; they may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, by)


@asynccontextmanager
async def running(server: ForeignServer, transport: str, environment: dict[str, str]) -> AsyncGenerator[str]:
    """A server that listens, by its URL; it and what it starts are ended afterwards."""
    port = free_port()
    process = await trio.lowlevel.open_process(
        server.command(transport, port),
        env={**environment, "PORT": str(port)},
        stdin=-3,
        stdout=-3,
        stderr=-3,
        start_new_session=True,
    )
    try:
        with trio.fail_after(PATIENCE):
            while process.poll() is None:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.1)
            else:
                raise RuntimeError(f"it ended with {process.returncode} before it listened")
        yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"
    finally:
        with trio.CancelScope(shield=True):
            end_group(process.pid, signal.SIGTERM)
            with trio.move_on_after(EXIT_TIMEOUT):
                await process.wait()
            end_group(process.pid, signal.SIGKILL)  # what it started may still be there
            await process.wait()


def said_by(answer: dict[str, Any]) -> str:
    """What the result of a call says; of a refusal, that it is one."""
    if "error" in answer or answer["result"].get("isError") is True:
        return "refused"
    return "".join(block["text"] for block in answer["result"]["content"])


async def judge_raw(server: ForeignServer, command: list[str], environment: dict[str, str]) -> dict[str, str]:
    """What is wrong with a raw conversation: modern requests first, then the handshake that their refusal leads to."""
    modern = server.revision == raw.MODERN
    seen: dict[str, Any] = {}

    async def call(tool: str, **arguments: Any) -> str:
        return said_by(await talk.ask("tools/call", {"name": tool, "arguments": arguments}))

    async with (
        trio.open_nursery() as nursery,
        raw.open_program(command, environment, raw.MODERN, nursery) as talk,
    ):
        seen["server/discover"] = is_modern = "result" in await talk.ask("server/discover")
        seen["a modern call"] = await call(server.tool, **server.arguments)
        seen["a modern call of an unknown tool"] = await call("make_coffee")
        if not is_modern:  # as a client goes on that was refused
            talk.revision = HANDSHAKE
            await raw.greet(talk)
        seen["tools"] = server.tool in [each["name"] for each in (await talk.ask("tools/list"))["result"]["tools"]]
        seen["a call"] = await call(server.tool, **server.arguments)
        seen["a call of an unknown tool"] = await call("make_coffee")
        seen["an unknown method"] = "error" in await talk.ask("chora/nothing")
    wanted = {
        "server/discover": modern,
        "a modern call": server.said,
        "a modern call of an unknown tool": "refused",
        "tools": True,
        "a call": server.said,
        "a call of an unknown tool": "refused",
        "an unknown method": True,
    }
    if seen["a modern call"] == "refused" and not modern:  # not all of them refuse it
        del wanted["a modern call"]
    return find_differences(seen, wanted)


def find_differences(seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{seen[name]!r}, not {value!r}" for name, value in wanted.items() if seen[name] != value}


async def ask_python(server: ForeignServer, command: list[str]) -> dict[str, Any]:
    """What the Python SDK's client gets, which tries the modern era first."""
    async with client.connect(command, mode="auto") as connected:
        tools = {each.name: each for each in (await connected.list_tools()).tools}
        answer = await connected.call_tool(server.tool, dict(server.arguments))
        try:
            unknown = (await connected.call_tool("make_coffee", {})).is_error
        except MCPError:
            unknown = True
        return {
            "revision": connected.protocol_version,
            "schema": sorted(tools[server.tool].input_schema["properties"]),
            "said": "".join(getattr(block, "text", "") for block in answer.content),
            "unknown": unknown,
        }


async def ask_typescript(server: ForeignServer, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What the TypeScript SDK's client gets, likewise."""
    task = {"command": command, "environment": environment, "tool": server.tool, "arguments": dict(server.arguments)}
    script = str(HERE / "clients" / "typescript_v2_foreign.mjs")
    finished = await trio.run_process(
        [find_node(), script, json.dumps(task)], capture_stdout=True, capture_stderr=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(finished.stderr.decode()[-300:])
    return json.loads(finished.stdout)


async def run_server(server: ForeignServer, transport: str, served: RunningChora) -> ForeignRun:
    """One server over one transport."""
    began = time.monotonic()
    revision, faults = "", dict[str, str]()
    try:
        with trio.fail_after(RUN_LIMIT):
            async with running(server, transport, served.environment) as url:
                command = served.command("connect", url)
                faults = await judge_raw(server, command, served.environment)
                results = {
                    "Python": await ask_python(server, command),
                    "TypeScript": await ask_typescript(server, command, served.environment),
                }
                revision = results["Python"]["revision"]
                wanted = {
                    "revision": server.revision,
                    "schema": sorted(server.arguments),
                    "said": server.said,
                    "unknown": True,
                }
                for name, seen in results.items():
                    faults |= {f"{name}: {key}": fault for key, fault in find_differences(seen, wanted).items()}
    except* (RuntimeError, ValueError, LookupError, OSError, AssertionError, trio.TooSlowError) as group:
        faults["run"] = repr(group.exceptions[0])[:300]
    return ForeignRun(server.name, transport, revision, round(time.monotonic() - began, 1), faults)
