"""`just clients`: clients that people use, each against the product itself over every transport.

    python -m tests.contract.clients [--only NAME] [--json]

Each client connects, lists the tools, calls `hello_world`, composes a text with a context, reads it as a resource, gets
a prompt, gets a failure, calls an unknown tool, and gets progress and the notification of a change, as far as it can.
Its results are compared with what is expected.
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
RUN_LIMIT = 60
"""Seconds that a client may take; it usually takes two."""

NEWEST, MODERN = "2025-11-25", "2026-07-28"


class Client(NamedTuple):
    """A client, how it is started, and what it can't do."""

    name: str
    program: str
    mode: str = "legacy"
    revision: str = NEWEST
    """The revision it negotiates."""
    revision_over_sse: str = ""
    """The same over SSE, if it's another one."""
    cannot: frozenset[str] = frozenset()


CLIENTS = (
    Client("Python SDK, auto", "python_sdk.py", "auto", MODERN),
    Client("Python SDK, legacy", "python_sdk.py"),
    Client("TypeScript SDK v1", "typescript_v1.mjs"),
    Client("TypeScript SDK v2, auto", "typescript_v2.mjs", "auto", MODERN),
    Client("TypeScript SDK v2, legacy", "typescript_v2.mjs"),
    # It tries the modern era first, but not over SSE, and has no way to subscribe.
    Client("FastMCP", "fastmcp_client.py", "auto", MODERN, NEWEST, frozenset({"updated"})),
    # One call per process, so it gets no notifications; and it doesn't print the negotiated revision.
    Client("Inspector, auto", "inspector", "auto", cannot=frozenset({"revision", "progress", "updated"})),
    Client("Inspector, legacy", "inspector", "legacy", cannot=frozenset({"revision", "progress", "updated"})),
)


class ClientRun(NamedTuple):
    """A client over one transport: how long it took, and which results were wrong."""

    client: str
    transport: str
    revision: str
    seconds: float
    faults: dict[str, str]


def expected_results(client: Client, transport: str, name: str) -> dict[str, Any]:
    """The results that a client must get."""
    text = f"# Hello, {name}!\n\nThis file was composed by chora."
    results = {
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
    return {key: value for key, value in results.items() if key not in client.cannot}


async def run_command(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    finished = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, env=environment)
    return finished.returncode, finished.stdout.decode(), finished.stderr.decode()


async def run_program(client: Client, task: dict[str, Any], python: Path, served: RunningChora) -> dict[str, Any]:
    """The results of a client of `clients/`."""
    script = str(HERE / "clients" / client.program)
    starters = {"mjs": find_node(), "py": str(python) if client.program == "fastmcp_client.py" else sys.executable}
    code, out, err = await run_command(
        [starters[client.program.rpartition(".")[2]], script, json.dumps(task)], served.environment
    )
    if code:
        raise RuntimeError(f"ended with {code}: {err.strip()[-600:]}")
    return json.loads(out)


async def run_inspector(client: Client, task: dict[str, Any], served: RunningChora) -> dict[str, Any]:
    """The results of the Inspector's command line; each call is a process of its own."""
    url = task["url"]
    target = ["--", *task["command"]] if url is None else ["--transport", task["transport"], "--server-url", url]

    async def ask(method: str, *words: str) -> tuple[int, dict[str, Any]]:
        options = ["--protocol-era", client.mode, "--format", "json", "--quiet", "--method", method, *words]
        code, out, err = await run_command(
            [find_node(), str(INSPECTOR), "--cli", *options, *target], served.environment
        )
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


async def run_client(client: Client, transport: str, python: Path, served: RunningChora) -> ClientRun:
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
    results: dict[str, Any] = {}
    faults: dict[str, str] = {}
    try:
        with trio.fail_after(RUN_LIMIT):
            if client.program == "inspector":
                results = await run_inspector(client, task, served)
            else:
                results = await run_program(client, task, python, served)
    except (RuntimeError, ValueError, KeyError, trio.TooSlowError) as error:
        faults["run"] = str(error) or f"took longer than {RUN_LIMIT} s"
    else:
        faults = {
            key: f"{results.get(key)!r}, not {value!r}"
            for key, value in expected_results(client, transport, name).items()
            if results.get(key) != value
        }
    return ClientRun(
        client.name, transport, str(results.get("revision", "")), round(time.monotonic() - began, 1), faults
    )


async def run_clients(clients: list[Client], python: Path, *, as_json: bool) -> int:
    async with serve_chora() as served:
        runs = [await run_client(client, transport, python, served) for client in clients for transport in TRANSPORTS]
    if not as_json:
        print_table(
            ("Client", "Transport", "Revision", "Seconds", "Outcome"),
            [(*each[:4], "ok" if not each.faults else ", ".join(each.faults)) for each in runs],
        )
    faults = [
        f"{each.client} over {each.transport}: {key}: {fault}" for each in runs for key, fault in each.faults.items()
    ]
    return print_report({"runs": [each._asdict() for each in runs]}, faults, as_json=as_json)


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
    sys.exit(trio.run(lambda: run_clients(chosen, given.fastmcp, as_json=given.json)))


if __name__ == "__main__":
    main()
