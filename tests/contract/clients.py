"""`just clients`: clients that people use, each against the product itself over every transport; and `chora connect`
in front of the servers of others (`foreign.py`).

    python -m tests.contract.clients [--only NAME] [--json]

Each client connects, lists the tools, calls `hello_world`, composes a text with a context, reads it as a resource, gets
a prompt, gets a failure, calls an unknown tool, and gets progress and the notification of a change, as far as it can.
Its results are compared with what is expected, value by value; its list of tools, with schemas and all, with the one
that a raw conversation gets (`raw.py`), which is judged by itself. What libraries for agents, Gemini and n8n make of
the schemas must have lost nothing (`converters.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import trio

from chora import __version__
from chora.cli.run import print_table
from chora.protocol import wire
from chora.tools import TOOLS
from tests.contract import raw
from tests.contract.converters import find_form_losses, find_losses, find_n8n, make_n8n_forms
from tests.contract.foreign import SERVERS, ForeignServer, run_server
from tests.contract.installation import (
    HERE,
    PACKAGES,
    RunningChora,
    ToolsNotInstalled,
    find_node,
    find_python,
    print_report,
    serve_chora,
)

MCP_REMOTE = PACKAGES / "mcp-remote" / "dist" / "proxy.js"
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
    sdk: int | None = None
    """The environment of its libraries (`installation.find_python`); None is chora's own."""
    converts: tuple[str, ...] = ()
    """The results that are our tools as it hands them to a model."""
    bridge: str = ""
    """A program of others that it starts in front of HTTP and SSE, instead of chora."""

    @property
    def transports(self) -> tuple[str, ...]:
        return TRANSPORTS[:2] if self.bridge else TRANSPORTS


CONVERTED, FOR_GEMINI = "converted", "converted for Gemini"
AGENT = frozenset({"revision", "tools", "progress", "updated"})
CALLS = AGENT | {"hello", "generated", "same_as_text", "resource", "prompt", "failure", "unknown"}

CLIENTS = (
    Client("Python SDK, auto", "python_sdk.py", "auto", MODERN),
    Client("Python SDK, legacy", "python_sdk.py"),
    Client("TypeScript SDK v1", "typescript_v1.mjs"),
    Client("TypeScript SDK v2, auto", "typescript_v2.mjs", "auto", MODERN),
    Client("TypeScript SDK v2, legacy", "typescript_v2.mjs"),
    # It tries the modern era first, but not over SSE, and has no way to subscribe.
    Client("FastMCP 4", "fastmcp_client.py", "auto", MODERN, NEWEST, frozenset({"updated"}), sdk=2),
    Client("FastMCP 3", "fastmcp_client.py", cannot=frozenset({"updated"}), sdk=1),
    # Those that hand the tools to a model: they have what they need of MCP, and their own form of tools and failures.
    Client("LangChain", "langchain_client.py", cannot=AGENT | {"prompt", "unknown"}, sdk=1, converts=(CONVERTED,)),
    Client("OpenAI Agents", "openai_agents_client.py", cannot=AGENT, sdk=2, converts=(CONVERTED,)),
    Client(
        "Pydantic AI",
        "pydantic_ai_client.py",
        cannot=AGENT | {"prompt", "unknown", "same_as_text"},
        sdk=2,
        converts=(CONVERTED, FOR_GEMINI),
    ),
    Client("google-genai", "google_genai_client.py", cannot=CALLS, sdk=2, converts=(CONVERTED,)),
    # Each in front of HTTP and SSE, where it is what a client starts.
    Client("mcp-remote", "typescript_v1.mjs", bridge=str(MCP_REMOTE)),
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


SHOWN = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
"""What a client is given of a tool."""


class Listing(NamedTuple):
    """What the product lists, read raw and judged, and what it says of a failure: clients must get the same."""

    tools: list[dict[str, Any]]
    failure: dict[str, Any]
    faults: list[str]


async def read_listings(served: RunningChora) -> dict[str, Listing]:
    """The listing of each revision that a client of ours negotiates."""
    listings: dict[str, Listing] = {}
    for revision in (NEWEST, MODERN):
        async with raw.converse(served, revision, "http") as talk:
            tools = (await talk.ask("tools/list"))["result"]["tools"]
            # The first text of a content has another status than those of the clients.
            await talk.call("generate_content", content_config_id="greeting", context={"name": talk.name})
            failed = await talk.call("generate_content", content_config_id="nobody")
        checks = raw.check_tools(tools, revision)
        faults = [f"raw {revision}: {each.statement}: {each.fault}" for each in checks if each.fault]
        listings[revision] = Listing(tools, json.loads(failed["content"][0]["text"])["error"], faults)
    return listings


def expected_results(client: Client, transport: str, name: str, listings: Mapping[str, Listing]) -> dict[str, Any]:
    """The results that a client must get."""
    text = raw.greeting(name)
    revision = (transport == "sse" and client.revision_over_sse) or client.revision
    results: dict[str, Any] = {
        "revision": revision,
        "tools": listings[revision].tools,
        "hello": {
            "message": f"Hello, {name}! This is chora.",
            "version": __version__,
            "tools_available": len(TOOLS),
            "status": "operational",
            "transport": "http" if transport == "connect" else transport,
            "success": True,
        },
        "generated": {
            "content_id": "greeting",
            "status": "regenerated",
            "content": text,
            "generator": "jinja2",
            "success": True,
            "truncated": False,
            "content_length": len(text),
            "resource": None,
        },
        "same_as_text": True,
        "resource": [{"uri": "content://greeting", "mimeType": "text/plain", "text": text}],
        "prompt": [["text", None], ["resource", text], ["text", None]],
        "failure": listings[revision].failure,
        **dict.fromkeys(client.converts, listings[revision].tools),
        "unknown": wire.INVALID_PARAMS,
        "progress": ["greeting"],
        "updated": "content://greeting",
    }
    return {key: value for key, value in results.items() if key not in client.cannot}


def find_differences(results: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, str]:
    """What of a client's results isn't as expected, value by value."""
    faults: dict[str, str] = {}
    for key, wanted in expected.items():
        if key in (CONVERTED, FOR_GEMINI):
            if losses := find_losses(wanted, results.get(key, [])):
                faults[key] = "; ".join(losses)[:600]
            continue
        seen: Any = results.get(key)
        if key == "tools":
            seen, wanted = _by_name(seen or []), _by_name(wanted)
        elif key == "failure" and type(seen) is str:  # as a model is told of it
            seen = json.loads(seen)["error"]
        elif key == "resource" and type(seen) is str:  # the contents alone
            wanted = wanted[0]["text"]
        elif key == "generated" and seen is not None:  # the rest is the run's own: times, ids
            seen = _without(seen, "duration_ms", "metadata")
        if seen != wanted:
            faults[key] = _first_difference(seen, wanted)[:600]
    return faults


def _without(result: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in names}


def _by_name(tools: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: {key: each[key] for key in SHOWN if key in each} for each in tools}


def _first_difference(seen: Any, wanted: Any, path: str = "") -> str:
    """Where two values differ first, and how."""
    if isinstance(seen, dict) and isinstance(wanted, dict):
        for key in (*wanted, *(key for key in seen if key not in wanted)):  # pyright: ignore[reportUnknownVariableType]
            one, other = seen.get(key, "nothing"), wanted.get(key, "nothing")  # pyright: ignore
            if one != other:
                return _first_difference(one, other, f"{path}.{key}")
    return f"{path[1:]}{': ' if path else ''}{seen!r}, not {wanted!r}"


async def run_command(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    finished = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, env=environment)
    return finished.returncode, finished.stdout.decode(), finished.stderr.decode()


async def run_program(client: Client, task: dict[str, Any], served: RunningChora) -> dict[str, Any]:
    """The results of a client of `clients/`."""
    script = str(HERE / "clients" / client.program)
    if script.endswith(".mjs"):
        starter = find_node()
    else:
        starter = sys.executable if client.sdk is None else str(find_python(client.sdk))
    code, out, err = await run_command([starter, script, json.dumps(task)], served.environment)
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
        "tools": listed["tools"],
        "hello": hello["structuredContent"],
        "generated": generated["structuredContent"],
        "same_as_text": json.loads(generated["content"][0]["text"]) == generated["structuredContent"],
        "resource": resource["contents"],
        "prompt": [
            [each["content"]["type"], each["content"].get("resource", {}).get("text")] for each in prompt["messages"]
        ],
        "failure": failure["structuredContent"]["error"] if failure["isError"] else None,
        # It ends with 5 when a tool isn't there, and keeps the error's code to itself.
        "unknown": wire.INVALID_PARAMS if unknown == 5 else unknown,
    }


async def run_client(
    client: Client, transport: str, served: RunningChora, listings: Mapping[str, Listing]
) -> ClientRun:
    """One client over one transport."""
    name = f"{client.name} over {transport}"
    urls = {"http": f"{served.url}/mcp", "sse": f"{served.url}/sse"}
    if client.bridge:
        kind = {"http": "http-only", "sse": "sse-only"}[transport]
        command = [find_node(), client.bridge, urls[transport], "--allow-http", "--transport", kind]
    else:
        command = served.command("connect", urls["http"]) if transport == "connect" else served.command("stdio")
    task: dict[str, Any] = {
        "transport": transport if transport in urls and not client.bridge else "stdio",
        "mode": client.mode,
        "name": name,
        "url": urls.get(transport),
        "command": command,
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
                results = await run_program(client, task, served)
    except (RuntimeError, ValueError, KeyError, trio.TooSlowError) as error:
        faults["run"] = str(error) or f"took longer than {RUN_LIMIT} s"
    else:
        faults = find_differences(results, expected_results(client, transport, name, listings))
    return ClientRun(
        client.name, transport, str(results.get("revision", "")), round(time.monotonic() - began, 1), faults
    )


async def run_clients(clients: list[Client], servers: list[ForeignServer], *, as_json: bool) -> int:
    async with serve_chora() as served:
        listings = await read_listings(served)
        runs = [
            await run_client(client, transport, served, listings)
            for client in clients
            for transport in client.transports
        ]
        forms = await make_n8n_forms(listings[NEWEST].tools)
        behind = [await run_server(server, each, served) for server in servers for each in server.transports]
    if not as_json:
        for heading, rows in (("Client", runs), ("Server behind `chora connect`", behind)):
            print_table(
                (heading, "Transport", "Revision", "Seconds", "Outcome"),
                [(*each[:4], "ok" if not each.faults else ", ".join(each.faults)) for each in rows],
            )
    faults = [fault for listing in listings.values() for fault in listing.faults]
    faults += [f"n8n's forms: {loss}" for loss in find_form_losses(listings[NEWEST].tools, forms)]
    faults += [
        f"{each[0]} over {each.transport}: {key}: {fault}"
        for each in (*runs, *behind)
        for key, fault in each.faults.items()
    ]
    body = {"runs": [each._asdict() for each in runs], "servers": [each._asdict() for each in behind]}
    return print_report(body, faults, as_json=as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only clients and servers whose name holds this"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()

    def is_chosen(each: Client | ForeignServer) -> bool:
        return not given.only or any(part in each.name for part in given.only)

    clients, servers = list(filter(is_chosen, CLIENTS)), list(filter(is_chosen, SERVERS))
    try:
        find_node()
        for sdk in (1, 2):
            find_python(sdk)
        find_n8n()
    except ToolsNotInstalled as error:
        sys.exit(str(error))
    sys.exit(trio.run(lambda: run_clients(clients, servers, as_json=given.json)))


if __name__ == "__main__":
    main()
