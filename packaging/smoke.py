"""Drives a built or installed chora as users do: version, demo, stdio, serve. Usage: smoke.py PATH-TO-CHORA.

It finds faults that a checkout doesn't have: modules without a static import, missing files and dependencies, child
processes that need to find the program again. Runs in a clean environment and an empty home.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chora.cli import COMMANDS

DEADLINE = 60


def main() -> None:
    smoke(Path(sys.argv[1]).absolute())


def smoke(program: Path, *, frozen: bool = True) -> None:
    """Try a program; `frozen` says whether it is a binary."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = {"HOME": folder, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        if "SYSTEMROOT" in os.environ:
            environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
        answer = json.loads(run(program, environment, home, "version", "--json"))
        assert answer["frozen"] is frozen, answer
        for check in (demo, undefined, collection, commands, surroundings, plugin, model, stdio, serve, connect):
            started = time.perf_counter()
            said = check(program, home, environment)
            print(f"ok {check.__name__:<10} {said} ({time.perf_counter() - started:.2f} s)", flush=True)


def demo(program: Path, home: Path, environment: dict[str, str]) -> str:
    """The whole main job, with template workers and a server of its own."""
    answer = json.loads(run(program, environment, home, "demo", "--json", str(home / "demo")))
    text = Path(answer["output"]).read_text("utf-8")
    assert "Evenings in Tidewater Library" in text, text
    return f"{len(answer['steps'])} steps, {len(text)} characters"


def undefined(program: Path, home: Path, environment: dict[str, str]) -> str:
    """An error has its code and its exit status."""
    done = subprocess.run(
        [program, "--project", home / "demo", "generate", "nothing", "--json"],
        env=environment,
        cwd=home,
        capture_output=True,
        timeout=DEADLINE,
    )
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (3, "config_not_found"), error
    return error["code"]


def collection(program: Path, home: Path, environment: dict[str, str]) -> str:
    """What was built is found up to date by another process, and is copied to the other backend."""
    project = ("--project", str(home / "demo"))
    again = json.loads(run(program, environment, home, *project, "collect", "week", "--json"))
    assert again["metadata"]["cached_members"] == again["total_members"] == 2, again
    moved = json.loads(run(program, environment, home, *project, "migrate", "--to", "filesystem", "--json"))
    assert moved["success"] is True, moved
    return "2 members recalled, moved to files"


def plugin(program: Path, home: Path, environment: dict[str, str]) -> str:
    """A generator of the project is loaded from its file."""
    root = home / "plugins"
    run(program, environment, home, "init", str(root))
    (root / "shout.py").write_text(
        "NAME, VERSION, DESCRIPTION, CAPABILITIES = 'shout', '1.0.0', 'Shouts.', ('text',)\n"
        "async def generate(job):\n    return job.context['name'].upper()\n"
    )
    (root / "chora.toml").write_text('[plugins]\ngenerators = ["shout.py"]\n')
    config = json.loads((root / "configs/content/greeting.json").read_text("utf-8"))
    config["generation"]["patterns"][0]["type"] = "shout"
    (root / "configs/content/greeting.json").write_text(json.dumps(config))
    said = run(program, environment, home, "--project", str(root), "generate", "greeting", "-c", "name=ada")
    assert said == "ADA\n", said
    return "loaded and run"


def model(program: Path, home: Path, environment: dict[str, str]) -> str:
    """The language model's library is in the binary: without a server, it reports that it can't connect."""
    root = home / "plugins"
    config = json.loads((root / "configs/content/greeting.json").read_text("utf-8"))
    options = {"prompt": "Write a function.", "model": "claude-3-haiku-20240307", "retry_count": 0}
    config["generation"]["patterns"][0] = {"id": "ask", "type": "code_generation", "generation_config": options}
    (root / "configs/content/greeting.json").write_text(json.dumps(config))
    done = subprocess.run(
        [program, "--project", root, "generate", "greeting", "--json"],
        env={**environment, "ANTHROPIC_API_KEY": "none", "CHORA_LLM_BASE_URL": "http://127.0.0.1:9"},
        cwd=home,
        capture_output=True,
        timeout=DEADLINE,
    )
    details = json.loads(done.stdout)["error"]["details"]
    assert details["error_type"] == "APIConnectionError", details
    return details["error_type"]


def commands(program: Path, home: Path, environment: dict[str, str]) -> str:
    """Every command works, with what it imports only then."""
    (home / "old" / "configs").mkdir(parents=True)
    project = ("--project", str(home / "demo"))
    used = {"demo", "init", "generate", "collect", "migrate", "stdio", "serve", "connect", "call", "token", "version"}
    for command in (
        ("tools", "--json"),
        ("assemble", "weekly-notice", "--plan"),
        ("preview", "evenings"),
        ("validate", "weekly-notice"),
        ("edits", "list"),
        ("freshness", "week"),
        ("trace", "weekly-notice"),
        ("jobs", "--json"),
        ("ls", "--json"),
        ("gc", "--dry-run"),
        ("schema", "content"),
        ("manual", "sources"),
        ("secrets", "check"),
        ("config", "--json"),
        ("import", str(home / "old"), "--dry-run"),
        ("backup", "--to", str(home / "backups")),
        ("doctor", "--json"),
        ("completion", "fish"),
    ):
        run(program, environment, home, *project, *command)
        used.add(command[0])
    (backup,) = (home / "backups").glob("*.db")
    run(program, environment, home, *project, "restore", "--verify", str(backup))
    assert used | {"restore"} == set(COMMANDS), used ^ set(COMMANDS)
    return f"{len(COMMANDS)} commands"


def surroundings(program: Path, home: Path, environment: dict[str, str]) -> str:
    """Without a home, in locales that it isn't in, and in a folder that can't be written."""
    project = ("--project", str(home / "demo"))
    wanted = run(program, environment, home, *project, "preview", "evenings")
    for changes in (
        {"HOME": ""},
        {"LANG": "C"},
        {"LANG": "tr_TR.UTF-8"},
        {"LC_ALL": "ja_JP.eucJP"},
        {"TMPDIR": "/proc"},
    ):
        assert run(program, {**environment, **changes}, Path("/"), *project, "preview", "evenings") == wanted, changes
    without_home = {name: value for name, value in environment.items() if name != "HOME"}
    assert run(program, without_home, Path("/"), *project, "preview", "evenings") == wanted
    return "the same text"


def stdio(program: Path, home: Path, environment: dict[str, str]) -> str:
    """It initializes over its pipes, answers a call, and ends with its input."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "smoke", "version": "1"}}
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "hello_world", "arguments": {}}},
    ]
    done = subprocess.run(
        [program, "--project", home / "demo", "stdio"],
        input="".join(json.dumps(message) + "\n" for message in messages),
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [1, 2], done.stdout
    assert answers[1]["result"]["structuredContent"]["transport"] == "stdio"
    return "2 answers"


def serve(program: Path, home: Path, environment: dict[str, str]) -> str:
    """It listens, is ready, renders its page, answers a call from another chora, and stops on SIGTERM."""
    with serving(program, home, environment) as (url, process):
        assert get(url, "/ready")["status"] == "ready"
        assert b"chora is" in urllib.request.urlopen(url + "/", timeout=DEADLINE).read()
        called = run(program, environment, home, "call", "hello_world", "name=smoke", "--url", url + "/mcp")
        assert json.loads(called)["transport"] == "http", called
        deadline = time.monotonic() + DEADLINE
        while not get(url, "/status.json")["uptime"]["up"]:
            assert time.monotonic() < deadline, "the probe never succeeded"
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, process.returncode
    return "ready, called, probed, stopped"


def connect(program: Path, home: Path, environment: dict[str, str]) -> str:
    """A token is accepted, others are refused, and stdio in front of the server answers as the server does."""
    # An issuer that can't be reached: whether a token is its own isn't known, and that needs its libraries.
    oauth = {"CHORA_OAUTH_ISSUER": "http://127.0.0.1:9", "CHORA_OAUTH_RESOURCE": "https://docs.example/mcp"}
    made = run(program, environment, home, "--project", str(home / "demo"), "token", "new", "smoke", "--json")
    token = json.loads(made)["token"]
    with serving(program, home, {**environment, **oauth}) as (url, _):
        for given, status in ((None, 401), ("no-token", 401), ("eyJhbGciOiJSUzI1NiJ9.e30.AAAA", 503)):
            assert refusal(url + "/sse", given) == status, given
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "smoke", "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        done = subprocess.run(
            [program, "connect", url + "/mcp"],
            input=json.dumps(message) + "\n",
            env={**environment, "CHORA_TOKEN": token},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stderr
        name = json.loads(done.stdout)["result"]["serverInfo"]["name"]
        assert name == "chora", done.stdout
    return "3 refused, 1 accepted"


def refusal(url: str, token: str | None) -> int:
    """The HTTP status with which a token is refused; 0 if it is accepted."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=DEADLINE).close()
    except urllib.error.HTTPError as refused:
        return refused.code
    return 0


@contextmanager
def serving(program: Path, home: Path, environment: dict[str, str]) -> Generator[tuple[str, "subprocess.Popen[str]"]]:
    command = [program, "--project", home / "demo", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], process
        finally:
            process.kill()


def run(program: Path, environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def get(url: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + path, timeout=DEADLINE) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
