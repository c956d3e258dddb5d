"""`just clients`: clients that people use, each against the product itself over every transport.

    python -m tests.contract.clients [--only NAME] [--json]

Each client connects, lists the tools, calls `hello_world`, composes a text with a context, reads it as a resource, gets
a prompt, meets a failure, asks for an unknown tool, hears progress and hears of a change, as far as it can. What it
was told is held against what is true.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import trio

from chora.cli.run import print_table
from chora.protocol import wire
from chora.tools import TOOLS
from tests.contract.installation import (
    HERE,
    PACKAGES,
    RunningChora,
    ToolsNotInstalled,
    find_node,
    print_report,
    serve_chora,
)

INSPECTOR = PACKAGES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
TRANSPORTS = ("http", "sse", "stdio", "connect")
"""The last is `chora connect`: stdio in front of HTTP."""
VISIT_LIMIT = 60
"""Seconds that a visit may take; it usually takes two."""

NEWEST, MODERN = "2025-11-25", "2026-07-28"


class Client(NamedTuple):
    """A client, how it is started, and what it can't do."""

    name: str
    program: str
    mode: str = "legacy"
    revision: str = NEWEST
    """What it settles on."""
    revision_over_sse: str = ""
    """The same over SSE, if it's another one."""
    cannot: frozenset[str] = frozenset()


CLIENTS = (
    Client("Python SDK, auto", "python_sdk.py", "auto", MODERN),
    Client("Python SDK, legacy", "python_sdk.py"),
    Client("TypeScript SDK v1", "typescript_v1.mjs"),
    Client("TypeScript SDK v2, auto", "typescript_v2.mjs", "auto", MODERN),
    Client("TypeScript SDK v2, legacy", "typescript_v2.mjs"),
    # It asks for the modern era first, but not over SSE, and has no way to subscribe.
    Client("FastMCP", "fastmcp_client.py", "auto", MODERN, NEWEST, frozenset({"updated"})),
    # One call per process, so it can't hear; and it doesn't print what it settled on.
    Client("Inspector, auto", "inspector", "auto", cannot=frozenset({"revision", "progress", "updated"})),
    Client("Inspector, legacy", "inspector", "legacy", cannot=frozenset({"revision", "progress", "updated"})),
)


class Visit(NamedTuple):
    """What a client was told, how long it took, and what of it is wrong."""

    client: str
    transport: str
    revision: str
    seconds: float
    faults: dict[str, str]


def truth(client: Client, transport: str, name: str) -> dict[str, Any]:
    """What a client must be told."""
    text = f"# Hello, {name}!\n\nThis file was composed by chora."
    told = {
        "revision": (transport == "sse" and client.revision_over_sse) or client.revision,
        "tools": len(TOOLS),
        "hello": f"Hello, {name}! This is chora.",
        "generated": text,
        "same_as_text": True,
        "resource": text,
        "prompt": ["text", "resource", "text"],
        "failure": "config_not_found",
        "unknown": wire.INVALID_PARAMS,
        "progress": ["greeting"],
        "updated": "content://greeting",
    }
    return {key: value for key, value in told.items() if key not in client.cannot}


async def run(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    finished = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, env=environment)
    return finished.returncode, finished.stdout.decode(), finished.stderr.decode()


async def ask_program(client: Client, task: dict[str, Any], python: Path, served: RunningChora) -> dict[str, Any]:
    """What a client of `clients/` was told."""
    script = str(HERE / "clients" / client.program)
    starters = {"mjs": find_node(), "py": str(python) if client.program == "fastmcp_client.py" else sys.executable}
    code, out, err = await run(
        [starters[client.program.rpartition(".")[2]], script, json.dumps(task)], served.environment
    )
    if code:
        raise RuntimeError(f"ended with {code}: {err.strip()[-600:]}")
    return json.loads(out)


async def ask_inspector(client: Client, task: dict[str, Any], served: RunningChora) -> dict[str, Any]:
    """What the Inspector's command line was told; each answer is a process of its own."""
    url = task["url"]
    target = ["--", *task["command"]] if url is None else ["--transport", task["transport"], "--server-url", url]

    async def ask(method: str, *words: str) -> tuple[int, dict[str, Any]]:
        options = ["--protocol-era", client.mode, "--format", "json", "--quiet", "--method", method, *words]
        code, out, err = await run([find_node(), str(INSPECTOR), "--cli", *options, *target], served.environment)
        if code not in (0, 5):
            raise RuntimeError(f"{method} ended with {code}: {err.strip()[-600:]}")
        return code, json.loads(out)["result"] if out.strip() else {}

    async def call(tool: str, arguments: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return await ask("tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))

    _, listed = await ask("tools/list")
    _, hello = await call("hello_world", {"name": task["name"]})
    _, generated = await call("generate_content", {"content_config_id": "greeting", "context": {"name": task["name"]}})
    _, resource = await ask("resources/read", "--uri", "content://greeting")
    _, prompt = await ask("prompts/get", "--prompt-name", "review-content", "--prompt-args", "content_id=greeting")
    _, failure = await call("generate_content", {"content_config_id": "nobody"})
    unknown, _ = await call("make_coffee", {})
    return {
        "tools": len(listed["tools"]),
        "hello": hello["structuredContent"]["message"],
        "generated": generated["structuredContent"]["content"],
        "same_as_text": json.loads(generated["content"][0]["text"]) == generated["structuredContent"],
        "resource": resource["contents"][0]["text"],
        "prompt": [message["content"]["type"] for message in prompt["messages"]],
        "failure": failure["structuredContent"]["error"]["code"] if failure["isError"] else None,
        # It ends with 5 when a tool isn't there, and keeps the error's code to itself.
        "unknown": wire.INVALID_PARAMS if unknown == 5 else unknown,
    }


async def visit(client: Client, transport: str, python: Path, served: RunningChora) -> Visit:
    """One client over one transport."""
    name = f"{client.name} over {transport}"
    urls = {"http": f"{served.url}/mcp", "sse": f"{served.url}/sse"}
    task: dict[str, Any] = {
        "transport": transport if transport in urls else "stdio",
        "mode": client.mode,
        "name": name,
        "url": urls.get(transport),
        "command": served.command("connect", urls["http"]) if transport == "connect" else served.command("stdio"),
        "environment": served.environment,
    }
    began = time.monotonic()
    told: dict[str, Any] = {}
    faults: dict[str, str] = {}
    try:
        with trio.fail_after(VISIT_LIMIT):
            if client.program == "inspector":
                told = await ask_inspector(client, task, served)
            else:
                told = await ask_program(client, task, python, served)
    except (RuntimeError, ValueError, KeyError, trio.TooSlowError) as error:
        faults["visit"] = str(error) or f"took longer than {VISIT_LIMIT} s"
    else:
        faults = {
            key: f"{told.get(key)!r}, not {value!r}"
            for key, value in truth(client, transport, name).items()
            if told.get(key) != value
        }
    return Visit(client.name, transport, str(told.get("revision", "")), round(time.monotonic() - began, 1), faults)


async def visit_all(clients: list[Client], python: Path, *, as_json: bool) -> int:
    async with serve_chora() as served:
        visits = [await visit(client, transport, python, served) for client in clients for transport in TRANSPORTS]
    if not as_json:
        print_table(
            ("Client", "Transport", "Revision", "Seconds", "Outcome"),
            [(*each[:4], "ok" if not each.faults else ", ".join(each.faults)) for each in visits],
        )
    faults = [
        f"{each.client} over {each.transport}: {key}: {said}" for each in visits for key, said in each.faults.items()
    ]
    return print_report({"visits": [each._asdict() for each in visits]}, faults, as_json=as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fastmcp", type=Path, required=True, help="the Python of an environment that has FastMCP")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only clients whose name holds this")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    chosen = [each for each in CLIENTS if not given.only or any(part in each.name for part in given.only)]
    try:
        find_node()
    except ToolsNotInstalled as error:
        sys.exit(str(error))
    sys.exit(trio.run(lambda: visit_all(chosen, given.fastmcp, as_json=given.json)))


if __name__ == "__main__":
    main()
