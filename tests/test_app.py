"""The processes of `chora serve` and stdio: start, services, signals and shutdown."""

import contextlib
import errno
import gc
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import keyring
import keyring.errors
import msgspec
import pytest
import trio

from chora import app, settings, supervision
from chora.engine import retention
from chora.engine.engine import open_engine
from chora.errors import StorageError, UsageError
from chora.store import backup
from chora.transport.pipes import Pipes
from chora.watch import files, latency, probe
from tests.conftest import Project, Serve, content, requirement, unmeasured_environment
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow("starts servers")

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
SLOW = "{% for i in range(1500) %}{% for j in range(1000) %}{% endfor %}{% endfor %}done"

PATIENT = "[limits]\ngrace = 600\n[render]\nwall = 600\n"
"""Settings with which a call in flight isn't given up."""


@contextmanager
def serving(
    project: Project, *flags: str, measured: bool = True, **environment: str
) -> Generator[tuple[str, "subprocess.Popen[str]"]]:
    """`chora serve` as a process; yields its address."""
    command = [sys.executable, "-m", "chora", "--project", str(project.root), "serve", "--port", "0", "--json", *flags]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**(os.environ if measured else unmeasured_environment()), **environment},
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, process.stderr.read() if process.stderr else ""
            yield msgspec.json.decode(first)["url"], process
        finally:
            process.kill()


def call(url: str, tool: str, **arguments: Any) -> Any:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": arguments,
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }
    request = urllib.request.Request(url + "/mcp", msgspec.json.encode(body), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return msgspec.json.decode(response.read())["result"]["structuredContent"]


def get(url: str, path: str) -> str:
    with urllib.request.urlopen(url + path, timeout=PATIENCE) as response:
        return response.read().decode()


def test_sigterm_finishes_the_call_in_flight_and_exits_with_0(hello: Project):
    """The listener closes first, the call is answered, then the process ends."""
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    answers: list[Any] = []
    with serving(hello) as (url, process):
        caller = threading.Thread(
            target=lambda: answers.append(call(url, "generate_content", content_config_id="slow"))
        )
        caller.start()
        while 'chora_calls_in_flight{tool="generate_content"} 1.0' not in get(url, "/metrics"):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        caller.join(PATIENCE)
        assert process.wait(PATIENCE) == 0
    assert answers[0]["content"] == "done"


@requirement("server.jobs-drain")
def test_sigterm_finishes_a_job_that_outlived_its_call(hello: Project):
    """It gets the grace, as a call does, and its result is there for the same call to the next server."""
    hello.write("chora.toml", PATIENT + "[jobs]\ncall_budget = 0.05\n")
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    with serving(hello) as (url, process):
        assert call(url, "generate_content", content_config_id="slow")["status"] == "running"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    with serving(hello) as (url, _):
        assert call(url, "generate_content", content_config_id="slow")["content"] == "done"
        assert [job["status"] for job in json.loads(cli(hello, "jobs", "--json"))["jobs"]] == ["done"]


@requirement("server.jobs-drain")
def test_a_stdio_client_that_goes_leaves_a_job_its_grace(hello: Project):
    """The end of input is no reason to drop the work that the client will ask for again."""
    hello.write("chora.toml", PATIENT + "[jobs]\ncall_budget = 0.05\n")
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    params = {"name": "generate_content", "arguments": {"content_config_id": "slow"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params},
    ]
    command = [sys.executable, "-m", "chora", "--project", str(hello.root), "stdio"]
    done = subprocess.run(
        command,
        input=b"".join(msgspec.json.encode(line) + b"\n" for line in lines),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    answers = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert answers[-1]["result"]["structuredContent"]["status"] == "running"
    assert [job["status"] for job in json.loads(cli(hello, "jobs", "--json"))["jobs"]] == ["done"]


def cli(project: Project, *command: str) -> str:
    """What a command prints."""
    done = [sys.executable, "-m", "chora", "--project", str(project.root), *command]
    return subprocess.run(done, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


QUITS = """
import sys

NAME = "quits"
VERSION = "1.0.0"
DESCRIPTION = "Ends the process, if it may"
CAPABILITIES = ()

async def generate(job):
    if job.config.id == "exits":
        sys.exit(3)
    raise KeyboardInterrupt
"""


@requirement("generators.plugins.exit")
def test_a_plugin_that_quits_does_not_end_the_server(hello: Project):
    """Its generation fails, and the next call is served."""
    hello.write("plugins/quits.py", QUITS)
    hello.write("chora.toml", '[plugins]\ngenerators = ["plugins/quits.py"]\n')
    hello.save(*(content(id, pattern={"type": "quits"}) for id in ("exits", "interrupts")))
    with serving(hello) as (url, process):
        for id, kind in (("exits", "SystemExit"), ("interrupts", "KeyboardInterrupt")):
            answer = call(url, "generate_content", content_config_id=id)
            assert f"failed with {kind}" in answer["error"]["message"]
        assert call(url, "generate_content", content_config_id="greeting")["success"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (files.ProjectWatcher, "file watcher"),
        (retention, "housekeeping"),
        (backup, "backups"),
        (latency, "latency benchmarker"),
        (probe, "uptime probe"),
    ],
)
@requirement("server.supervision")
async def test_a_service_that_fails_is_a_reason_and_no_end(
    hello: Project, serve: Serve, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
):
    """The server goes on, is ready, and says which service fails; it is started again."""
    starts: list[float] = []

    async def fail(*arguments: Any, task_status: Any = None, **options: Any) -> None:
        starts.append(trio.current_time())
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(module, "serve", fail)
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.05)
    async with serve(hello.root, {"backup.every": 1.0}) as opened, httpx2.AsyncClient(base_url=opened.url) as client:
        with trio.fail_after(PATIENCE):
            while len(starts) < 3:
                await trio.sleep(0.01)
            answer = await client.get("/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["reasons"] == [f"The {name} failed (OSError) and is started again; the log says more."]


@requirement("server.supervision")
def test_a_server_imports_what_it_needs_before_it_listens(hello: Project):
    """Later its clients may have used up the descriptors that an import takes."""
    program = (
        "import os, sys\n"
        "from chora.cli import main\n"
        "from chora.transport import listener\n"
        "async def report(*arguments):\n"
        "    os.write(1, str('watchfiles._rust_notify' in sys.modules).encode())\n"
        "    os._exit(0)\n"
        "listener.start_listening = report\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, "--project", str(hello.root), "serve", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "True", done.stderr


@requirement("server.supervision")
async def test_a_watcher_that_fails_does_not_end_stdio(
    hello: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Nor does housekeeping: the client's calls are answered, also those that wait until changes are known, and the log
    says what failed.
    """

    async def fail(*arguments: Any, task_status: Any = None) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(files.ProjectWatcher, "serve", fail)
    monkeypatch.setattr(retention, "serve", fail)
    loaded = settings.load(hello.root, {})
    (ours, theirs), (their_sink, our_source) = os.pipe(), os.pipe()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.run_stdio, hello.root, loaded, Pipes(ours, our_source))
            for number, method in enumerate(("initialize", "resources/list", "ping")):
                request = {"jsonrpc": "2.0", "id": number, "method": method, "params": HELLO if number == 0 else {}}
                os.write(theirs, msgspec.json.encode(request) + b"\n")
                await trio.lowlevel.wait_readable(their_sink)
                assert msgspec.json.decode(os.read(their_sink, 65536))["id"] == number
                while number == 0 and caplog.text.count("it is started again") < 2:
                    await trio.sleep(0.01)
            os.close(theirs)
    os.close(their_sink)


STUCK = """
import time

NAME = "stuck"
VERSION = "1.0.0"
DESCRIPTION = "Never comes back"
CAPABILITIES = ()

async def generate(job):
    open("PLACE", "w").close()
    time.sleep(600)
"""


@requirement("server.watchdog")
def test_a_stuck_process_is_ended_by_a_watchdog(hello: Project):
    """A thread ends it shortly after the grace, with an exit code of its own."""
    hello.write("plugins/stuck.py", STUCK.replace("PLACE", str(hello.root / "is-stuck")))
    hello.write("chora.toml", '[limits]\ngrace = 0.2\n[plugins]\ngenerators = ["plugins/stuck.py"]\n')
    hello.save(content("stuck", pattern={"type": "stuck"}))
    with serving(hello, measured=False) as (url, process):
        caller = threading.Thread(target=_call_and_forget, args=(url,))
        caller.start()
        deadline = time.monotonic() + PATIENCE
        while not (hello.root / "is-stuck").exists():
            assert time.monotonic() < deadline, "the call never reached the generator"
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 1
        caller.join(PATIENCE)
        assert process.stderr is not None
        assert "the process hasn't stopped 2.2 s after the signal" in process.stderr.read()


def _call_and_forget(url: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        call(url, "generate_content", content_config_id="stuck")


@pytest.mark.skipif(sys.platform == "win32", reason="who started a process is not asked there")
@requirement("server.parent")
def test_stdio_ends_with_the_process_that_started_it(hello: Project):
    """Also when another process still holds its stdin open."""
    command = [sys.executable, "-m", "chora", "--project", str(hello.root), "stdio"]
    starter = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    source, sink = os.pipe()
    log = hello.root.parent / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", starter, *command], stdin=source, stdout=subprocess.PIPE, stderr=errors
        ) as started,
    ):
        assert started.stdout is not None
        server = int(started.stdout.readline())
        # If it doesn't end, this does it, and the log lacks the expected line.
        guard = threading.Timer(60, os.kill, [server, signal.SIGKILL])
        guard.start()
        try:
            hello_ = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
            os.write(sink, msgspec.json.encode(hello_) + b"\n")
            assert msgspec.json.decode(started.stdout.readline())["id"] == 1
            started.kill()
            assert started.stdout.read() == b"", "the server holds the pipe until it ends"
        finally:
            guard.cancel()
            os.close(source)
            os.close(sink)
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)
    assert "the parent process has ended" in log.read_text()


def test_a_server_backs_up_its_store(hello: Project):
    """At the interval of the flag; the backup is valid."""
    with serving(hello, "--backup-every", "0.00005") as (_, process):
        folder = hello.root / ".chora" / "backups"
        deadline = time.monotonic() + PATIENCE
        while not (made := sorted(folder.glob("*.db"))):
            assert process.poll() is None
            assert time.monotonic() < deadline, "no backup was made"
            time.sleep(0.05)
    assert backup.verify_backup(made[0])["versions"] == 0


def test_open_streams_do_not_delay_the_shutdown(hello: Project):
    """SSE streams are ended, well within the grace."""
    hello.write("chora.toml", "[limits]\ngrace = 600\n")
    with serving(hello) as (url, process):
        stream = urllib.request.urlopen(url + "/sse", timeout=PATIENCE)
        assert b"endpoint" in stream.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        stream.close()


def test_serve_with_stdio_speaks_on_both_and_ends_with_its_input(hello: Project):
    """One process, one store: stdio for the parent, HTTP for all other clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "chora", "--project", str(hello.root), "serve", "--port", str(port), "--stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(
            msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}) + b"\n"
        )
        process.stdin.flush()
        assert msgspec.json.decode(process.stdout.readline())["id"] == 1
        assert call(f"http://127.0.0.1:{port}", "hello_world")["transport"] == "http"
        output, log = process.communicate(timeout=PATIENCE)
        assert output == b""
    assert process.returncode == 0, log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_shuts_the_server_down(hello: Project, number: signal.Signals):
    """In this process: the run returns, and the store is closed."""
    loaded = settings.load(hello.root, {}, {"http.port": 0})
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[app.RunningServer]) -> None:
                await app.run_server(hello.root, loaded, task_status=task_status)

            await nursery.start(run)
            os.kill(os.getpid(), number)
    assert not (hello.root / ".chora/storage.db-wal").exists(), "the last one out folds the log into the database"


ENDLESS = content("endless", pattern={"type": "jinja2", "template": SLOW.replace("1500", "99999")})


@contextmanager
def calling(url: str, tool: str, **arguments: Any) -> Generator[list[Any]]:
    """A call that is in flight while the body runs; its answer, if it gets one, is in the list afterwards."""
    answers: list[Any] = []

    def make_call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(call(url, tool, **arguments))

    caller = threading.Thread(target=make_call)
    caller.start()
    while f'chora_calls_in_flight{{tool="{tool}"}} 1.0' not in get(url, "/metrics"):
        time.sleep(0.01)
    yield answers
    caller.join(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@requirement("server.second-signal")
def test_a_second_signal_ends_the_server_at_once(hello: Project, number: signal.Signals):
    """Whatever it still waits for; the log has one line about it and no traceback."""
    hello.write("chora.toml", PATIENT)
    hello.save(ENDLESS)
    with (
        serving(hello, measured=False) as (url, process),
        calling(url, "generate_content", content_config_id="endless") as answers,
    ):
        process.send_signal(number)
        logged = read_until(process, "stopping")
        process.send_signal(number)
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        logged += process.stderr.read()
    assert f"received {number.name} again" in logged
    assert "Traceback" not in logged
    assert not answers


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_second_signal_leaves_no_process_behind(hello: Project):
    """Not even processes that are stopped, and so don't notice that the server has ended."""
    with serving(hello, measured=False) as (url, process):
        assert call(url, "generate_content", content_config_id="greeting")
        children = descendants(process.pid)
        assert len(children) >= 2, "the fork server and a worker"
        for child in children:
            os.kill(child, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        read_until(process, "stopping")
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while left := [child for child in children if is_running(child)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return [each for child in dict.fromkeys(found) for each in (child, *descendants(child))]


def is_running(pid: int) -> bool:
    """Whether a process exists and isn't only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def read_until(process: "subprocess.Popen[str]", word: str) -> str:
    """What a process has logged, up to the line with a word."""
    assert process.stderr is not None
    read = ""
    while line := process.stderr.readline():
        read += line
        if word in line:
            return read
    raise AssertionError(f"{word!r} isn't in: {read}")


async def test_beyond_loopback_a_token_is_needed(hello: Project):
    """Refused before anything is opened, with a hint."""
    loaded = settings.load(hello.root, {}, {"http.host": "0.0.0.0", "http.port": 0})
    with pytest.raises(UsageError, match="token"):
        await app.run_server(hello.root, loaded)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_address_in_use_is_named(hello: Project, serve: Serve):
    """By the second server's error."""
    async with serve(hello.root) as opened:
        loaded = settings.load(hello.root, {}, {"http.port": int(opened.url.rpartition(":")[2])})
        with pytest.raises(BaseExceptionGroup) as caught:
            await app.run_server(hello.root, loaded)
    assert caught.group_contains(UsageError, match="can't listen", depth=None)
    del caught
    gc.collect()  # hypercorn leaves the socket that it couldn't bind to the collector


async def test_an_invalid_database_is_refused_and_left_alone(hello: Project):
    """It isn't replaced by a new one."""
    broken = hello.write(".chora/storage.db", b"this isn't a database, but a few notes" * 30)
    before = broken.read_bytes()
    with pytest.raises(StorageError, match="file is not a database"):
        async with open_engine(hello.root, settings.load(hello.root, {}).settings):
            pass
    assert broken.read_bytes() == before


async def test_several_processes_share_a_project(hello: Project, serve: Serve):
    """A server and another chora process on the same database: both see each other's changes."""
    async with serve(hello.root), open_engine(hello.root, settings.load(hello.root, {}).settings) as engine:
        done = await trio.run_process(
            [sys.executable, "-m", "chora", "--project", str(hello.root), "generate", "greeting"], capture_stdout=True
        )
        assert done.stdout.startswith(b"# Hello")
        version = engine.store.latest_version("greeting")
        assert version is not None
        assert version.body.startswith("# Hello")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd is notified over a Unix socket")
@requirement("server.systemd")
def test_systemd_is_notified_of_all_that_it_wants_to_know(hello: Project, tmp_path: Path):
    """Ready once calls can be served, the status and that it is alive, each reload, and that it stops."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(PATIENCE)
        with serving(hello, NOTIFY_SOCKET=path, WATCHDOG_USEC="600000") as (url, process):
            assert systemd.recv(1000).decode() == f"READY=1\nSTATUS=ready at {url}"
            for _ in range(2):
                alive = systemd.recv(1000).decode()
                assert re.fullmatch(
                    r"WATCHDOG=1\nSTATUS=ready: \d+ sessions?, \d+ calls? since the start(, up 100\.00 %)?", alive
                ), alive
            process.send_signal(signal.SIGHUP)
            told = read_notices(systemd, "READY=1")
            assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", told[-2]), told
            process.send_signal(signal.SIGTERM)
            told = read_notices(systemd, "STOPPING=1\nSTATUS=stopping: finishing the calls in flight")
            assert "RELOADING" not in "".join(told)
            assert process.wait(PATIENCE) == 0


def read_notices(systemd: socket.socket, last: str) -> list[str]:
    """What is sent up to a notice, without those of being alive."""
    notices = [""]
    while notices[-1] != last:
        if not (notice := systemd.recv(1000).decode()).startswith("WATCHDOG=1"):
            notices.append(notice)
    return notices


@requirement("secrets.fail-closed")
async def test_a_server_does_not_start_without_looking_into_the_keyring(
    hello: Project, serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    """A locked one may hold its token."""

    def refuse(service: str, username: str) -> str:
        raise keyring.errors.KeyringLocked("the user said no")

    monkeypatch.setattr(keyring, "get_password", refuse)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with serve(hello.root):
            pass
    assert caught.value.subgroup(lambda error: isinstance(error, UsageError) and "KeyringLocked" in error.message)
