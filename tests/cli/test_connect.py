"""`chora connect` in front of `chora serve`, both as processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from chora import client
from chora.cli import program
from chora.tools import TOOLS
from tests.conftest import Project, content
from tests.patience import PATIENCE
from tests.test_bridge import HELLO, MODERN, BridgeClient, free_port
from tests.upstream import http, playing

pytestmark = pytest.mark.slow("starts servers and bridges")

CONNECT = (sys.executable, "-m", "chora", "connect")
SLOW = "{% for i in range(3000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done"
SPY = (
    "import atexit, sys; from chora.__main__ import main;"
    "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr)); main()"
)


class Served:
    """`chora serve` on its own port, which can be killed and restarted."""

    def __init__(self, project: Project, port: int) -> None:
        self._project = project
        self._process: trio.Process | None = None
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def start(self) -> None:
        command = [sys.executable, "-m", "chora", "--project", str(self._project.root), "serve", "--json"]
        self._process = await trio.lowlevel.open_process(
            [*command, "--port", str(self.port)],
            stdout=subprocess.PIPE,
            env={**os.environ, "CHORA_PROBE_INTERVAL": "3600", "CHORA_PROBE_LATENCY_INTERVAL": "3600"},
        )
        assert self._process.stdout is not None
        with trio.fail_after(PATIENCE):
            line = b""
            while b"\n" not in line:
                received = await self._process.stdout.receive_some()
                assert received, "it listens"
                line += received

    async def kill(self) -> None:
        """Kill the process, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdout is not None
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()

    async def restart(self) -> None:
        await self.kill()
        await self.start()


@pytest.fixture
async def served(hello: Project) -> AsyncGenerator[Served]:
    """A server of the sample project with a slow content."""
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    hello.write("chora.toml", "[render]\nwall = 60.0\n")
    server = Served(hello, await free_port())
    await server.start()
    yield server
    await server.kill()


@asynccontextmanager
async def connected(url: str, *options: str, env: dict[str, str] | None = None) -> AsyncGenerator[BridgeClient]:
    """A client of `chora connect`; at the end it disconnects, and the process has to exit with 0."""
    process = await trio.lowlevel.open_process(
        [*CONNECT, url, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    client = BridgeClient(process.stdin, process.stdout)
    client.process = process
    try:
        with trio.fail_after(PATIENCE):
            yield client
            await process.stdin.aclose()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        await process.stdin.aclose()
        await process.stdout.aclose()


async def call(client: BridgeClient, tool: str, id: Any, **arguments: Any) -> Any:
    """The response to a tool call; notifications before it are skipped."""
    await client.send("tools/call", {"name": tool, "arguments": arguments}, id)
    while (message := await client.read()).get("id") != id:
        assert "method" in message, message
    return message


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_whole_session_passes_through(served: Served, hello: Project, path: str):
    """Handshake, tools, progress, subscription, notification of a changed file, cancellation; in the handshake era."""
    async with connected(served.url + path) as client:
        assert (await client.initialize())["result"]["serverInfo"]["name"] == "chora"
        assert len((await client.ask("tools/list", {}, 1))["result"]["tools"]) == len(TOOLS)
        assert (await call(client, "hello_world", 2, name="Ada"))["result"]["structuredContent"]["success"] is True
        params = {"name": "assemble_artifact", "arguments": {"artifact_config_id": "hello"}}
        await client.send("tools/call", {**params, "_meta": {"progressToken": "p"}}, 3)
        messages = [await client.read()]
        while messages[-1].get("id") != 3:
            messages.append(await client.read())
        progress = [each["params"] for each in messages if each.get("method") == "notifications/progress"]
        assert [each["progressToken"] for each in progress] == ["p"]
        uri = await first_resource(client)
        assert "result" in await client.ask("resources/subscribe", {"uri": uri}, 5)
        hello.save(content("greeting", pattern={"type": "jinja2", "template": "Changed"}))
        while (news := await client.read()).get("method") != "notifications/resources/updated":
            assert "method" in news
        assert news["params"]["uri"] == uri
        await client.send("tools/call", {"name": "generate_content", "arguments": {"content_config_id": "slow"}}, 6)
        await client.send("notifications/cancelled", {"requestId": 6})
        assert (await call(client, "hello_world", 7))["id"] == 7


async def first_resource(client: BridgeClient) -> str:
    """The resource of the sample's content."""
    listed = (await client.ask("resources/list", {}, 4))["result"]["resources"]
    return next(each["uri"] for each in listed if "greeting" in each["uri"])


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_works_through_the_bridge(served: Served, hello: Project, path: str, mode: str):
    """In both eras it gets what it gets over stdio."""
    command = [*CONNECT, served.url + path]
    with trio.fail_after(PATIENCE):
        async with client.connect(command, mode=mode) as one:
            assert one.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
            assert len((await one.list_tools()).tools) == len(TOOLS)
            seen: list[float] = []

            async def note(progress: float, total: float | None, message: str | None) -> None:
                seen.append(progress)

            answer = await one.call_tool("assemble_artifact", {"artifact_config_id": "hello"}, progress_callback=note)
            assert answer.is_error is not True
            assert seen == [1]
            resources = (await one.list_resources()).resources
            assert (await one.read_resource(resources[0].uri)).contents
            assert (await one.list_prompts()).prompts


async def test_a_modern_subscription_passes_and_outlives_the_server(served: Served, hello: Project):
    """Its notifications come through, also after the server was killed and restarted."""
    async with connected(served.url + "/mcp") as client:
        begun = await client.ask_modern(
            "subscriptions/listen", {"notifications": {"resourcesListChanged": True}}, "sub"
        )
        assert begun["method"] == "notifications/subscriptions/acknowledged"
        hello.save(content("second"))
        assert (await client.read())["method"] == "notifications/resources/list_changed"
        await served.restart()
        assert (await client.read())["method"] == "notifications/resources/list_changed", "something may have changed"
        hello.save(content("third"))
        assert (await client.read())["method"] == "notifications/resources/list_changed"
        await client.send("notifications/cancelled", {"requestId": "sub"})
        assert (await client.ask_modern("server/discover", {}, 2))["id"] == 2


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_the_official_client_is_notified_of_changes(served: Served, path: str):
    """On its own subscription through the bridge; also of changes while the server was away."""
    with trio.fail_after(PATIENCE):
        async with (
            client.connect([*CONNECT, served.url + path]) as one,
            one.listen(resource_subscriptions=["content://greeting"]) as subscription,
        ):
            await one.call_tool("generate_content", {"content_config_id": "greeting"})
            assert (await anext(subscription)).uri == "content://greeting"  # pyright: ignore[reportAttributeAccessIssue]
            await served.restart()
            assert (await anext(subscription)).uri == "content://greeting"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_killing_an_idle_server_fails_no_call(served: Served, path: str):
    """Five times; after each restart the next call is answered."""
    async with connected(served.url + path) as client:
        await client.initialize()
        for number in range(5):
            assert "result" in await call(client, "hello_world", f"before-{number}")
            await served.restart()
            assert "result" in await call(client, "hello_world", f"after-{number}")


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_calls_in_flight_fail_at_once_when_the_server_is_killed(served: Served, path: str):
    """The error says what may have happened and what to do; after the restart calls are answered again."""
    async with connected(served.url + path) as client:
        await client.initialize()
        arguments = {"name": "generate_content", "arguments": {"content_config_id": "slow"}}
        await client.send("tools/call", arguments, "slow")
        assert (await client.ask("ping", id="under-way"))["id"] == "under-way"
        await served.kill()
        error = await client.read()
        assert error["id"] == "slow"
        assert "may have been carried out" in error["error"]["message"]
        await served.start()
        assert "result" in await call(client, "hello_world", 3)


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_server_may_be_started_after_its_bridge(served: Served, path: str):
    """The client's initialize waits for it."""
    await served.kill()
    async with connected(served.url + path) as client:
        await client.send("initialize", HELLO, 0)
        await trio.sleep(0.5)
        await served.start()
        assert "result" in await client.read()
        await client.send("notifications/initialized")
        assert "result" in await call(client, "hello_world", 1)


async def test_a_signal_ends_the_bridge_after_the_calls_in_flight(served: Served):
    """Exit 0; responses within the grace still reach the client."""
    async with connected(served.url + "/mcp") as client:
        await client.initialize()
        await client.send("tools/call", {"name": "hello_world", "arguments": {}}, 1)
        assert (await client.read())["id"] == 1
        client.process.send_signal(signal.SIGTERM)
        assert await client.read() is None
        assert await client.process.wait() == 0


async def test_the_bridge_ends_with_its_parent():
    """Although another process still holds its stdin open."""
    incoming, outgoing = os.pipe()
    line = [*CONNECT, "http://127.0.0.1:1/mcp", "--wait", "0"]
    start = f"import subprocess; subprocess.Popen({line!r}, stdin={incoming}); input()"
    try:
        with trio.fail_after(PATIENCE):
            parent = await trio.lowlevel.open_process(
                [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[incoming]
            )
            assert parent.stdin is not None
            assert parent.stdout is not None
            async with parent.stdin, parent.stdout:
                os.write(outgoing, b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
                assert b"can't be reached" in await parent.stdout.receive_some()
                await parent.stdin.send_all(b"\n")
                await parent.wait()
                assert await parent.stdout.receive_some() == b"", "its output ends when it does"
    finally:
        os.close(incoming)
        os.close(outgoing)


async def test_twenty_calls_at_once_through_processes(served: Served):
    """Each gets its own response."""
    async with connected(served.url + "/mcp") as client:
        await client.initialize()
        for number in range(20):
            await client.send(
                "tools/call", {"name": "hello_world", "arguments": {"name": f"N{number}"}}, f"id-{number}"
            )
        for _ in range(20):
            answer = await client.read()
            name = answer["id"].replace("id-", "N")
            assert answer["result"]["structuredContent"]["message"].startswith(f"Hello, {name}!")


def test_the_bridge_imports_little(tmp_path: Path):
    """Nothing of the server, and no optional dependency."""
    heavy = {"quart", "hypercorn", "rich", "keyring", "anthropic", "mcp", "jinja2", "yaml", "asyncio", "apsw", "h11"}
    done = subprocess.run(
        [sys.executable, "-c", SPY, "connect", "http://127.0.0.1:1/mcp", "--wait", "0"],
        input=b'{"jsonrpc":"2.0","id":1,"method":"initialize"}\n',
        capture_output=True,
        timeout=PATIENCE,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == -32000
    imported = set(done.stderr.decode().splitlines())
    assert "chora.bridge.client" in imported
    assert not heavy & imported
    assert not {each for each in imported if each.startswith(("chora.engine", "chora.store", "chora.tools"))}


# -- options and secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "is not the address of a server"),
        (("http://me:pa55word@host/mcp",), "user name"),
        (("https://host/mcp", "--token", "pa55word"), "doesn't name a source"),
        (("https://host/mcp", "--token", "env:NOT_THERE"), "doesn't exist"),
        (("https://host/mcp", "--header", "nothing"), "is not a header"),
        (("https://host/mcp", "--header", "a b: c"), "is not a header"),
        (("https://host/mcp", "--header", "Mcp-Session-Id: x"), "is set by chora itself"),
        (("https://host/mcp", "--header", "Host: x"), "is set by chora itself"),
        (("https://host/mcp", "--header", "Authorization: Bearer pa55word"), "can be read by every user"),
        (("https://host/mcp", "--header", "X: ü"), "no header may have"),
        (("https://host/mcp", "--trust", "/not/there"), "does not exist"),
        (("https://host/mcp", "--transport", "pigeon"), "pigeon"),
    ],
)
def test_wrong_use_is_reported_before_anything_starts(arguments: tuple[str, ...], said: str):
    """Exit 2 and a sentence, which doesn't repeat a secret."""
    result = CliRunner().invoke(program, ["connect", *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "pa55word" not in result.stderr


async def headers_of(*options: str, env: dict[str, str] | None = None) -> dict[str, str]:
    """The headers of a request that the server gets."""
    async with (
        playing(lambda request: http(request.answers())) as upstream,
        connected(upstream.url, *options, env=env) as client,
    ):
        assert "result" in await client.ask("ping", {"_meta": MODERN})
        return upstream.requests[-1].headers


async def test_the_token_comes_from_secrets(tmp_path: Path):
    """Named on the command line, or found where secrets are stored; headers can hold secrets too."""
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "whole").write_text("Basic abc\n")
    assert "authorization" not in await headers_of()
    assert (await headers_of(env={"CHORA_TOKEN": "found"}))["authorization"] == "Bearer found"
    named = await headers_of("--token", f"file:{tmp_path}/token", env={"CHORA_TOKEN": "found"})
    assert named["authorization"] == "Bearer from-file"
    headers = await headers_of("--header", "X-Team: a b", "--header", "X-Key: env:KEY", env={"KEY": "k"})
    assert (headers["x-team"], headers["x-key"]) == ("a b", "k")
    headers = await headers_of("--header", f"Authorization: file:{tmp_path}/whole")
    assert headers["authorization"] == "Basic abc"


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ((), {"CHORA_TOKEN": "tok-en"}, "gets no access token"),
        (("--token", "env:TOKEN"), {"TOKEN": "tok-en"}, "unencrypted"),
        ((), {}, ""),
    ],
)
def test_a_token_over_plain_http_is_withheld_or_warned_of(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], said: str
):
    """To another machine, a token that was merely found isn't sent; one that was named is, with a warning."""
    done = subprocess.run(
        [*CONNECT, "http://no.such.host.invalid/mcp", "--wait", "0", *arguments],
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env={**os.environ, **env},
    )
    assert done.returncode == 0
    assert said in done.stderr.decode() if said else not done.stderr
    assert b"tok-en" not in done.stderr


async def test_the_project_may_set_logging_and_limits(hello: Project, tmp_path: Path):
    """A project isn't needed; the settings of a given one apply."""
    hello.write("chora.toml", "[limits]\nbody = 1024\n")
    command = [sys.executable, "-m", "chora", "--project", str(hello.root), "connect", "http://127.0.0.1:1/mcp"]
    done = subprocess.run(command, input=b"x" * 3000, capture_output=True, timeout=PATIENCE, cwd=tmp_path)
    assert "longer than 1,024 bytes" in json.loads(done.stdout)["error"]["message"]
