"""A server process that is asked to end before it can serve, or after it has."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chora import starting
from tests.conftest import Project, requirement, unmeasured_environment
from tests.patience import PATIENCE

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see when a handler is installed")


@pytest.mark.parametrize(
    ("arguments", "is_server"),
    [
        (["serve", "--port", "0"], True),
        (["stdio"], True),
        (["connect", "https://there"], True),
        (["--project", "serve", "generate", "stdio"], False),
        (["--project", "x", "stdio"], True),
        (["--project=x", "stdio"], True),
        (["generate", "serve"], False),
        (["--help"], False),
        ([], False),
    ],
)
def test_servers_are_known_by_their_command(arguments: list[str], is_server: bool):
    """Before anything of the command line is parsed; other commands that are ended haven't done what they should."""
    assert starting._names_server(arguments) is is_server


def test_without_a_command_the_old_variable_names_a_server(monkeypatch: pytest.MonkeyPatch):
    """`MCP_TRANSPORT` makes a bare `chora` one."""
    monkeypatch.setenv("MCP_TRANSPORT", "stdio")
    assert starting._names_server([])


def handles_signals(process: int) -> bool:
    """Whether a process has our handlers, the one of SIGTERM last: `SigCgt` in proc(5)."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


@linux
@pytest.mark.slow("starts a server many times")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["stdio"], ["connect", "http://127.0.0.1:9/mcp"]])
@requirement("server.early-signal")
def test_a_server_that_is_ended_while_it_starts_exits_with_0(
    hello: Project, command: list[str], number: signal.Signals
):
    """At whatever moment: while it imports, reads its settings, opens the store or starts its workers; without a
    traceback, and without having run for long before it listened to signals."""
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8):
        with subprocess.Popen(
            [sys.executable, "-m", "chora", "--project", str(hello.root), *command],
            env=unmeasured_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + PATIENCE
            while not handles_signals(process.pid):
                assert time.monotonic() < deadline
            time.sleep(delay)
            process.send_signal(number)
            try:
                _, logged = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        assert (process.returncode, "Traceback" in logged) == (0, False), (delay, logged)


@requirement("server.early-signal")
def test_the_handlers_are_there_before_anything_is_imported():
    """Of chora or of a library: what comes first is the module that installs them, and what that needs."""
    program = (
        "import os, signal, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('chora', 'click', 'msgspec', 'trio', 'apsw'):\n"
        "            print(name, signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, flush=True)\n"
        "        if name == 'chora.cli':\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Spy())\n"
        "sys.argv = ['chora', 'serve']\n"
        "from chora.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    imported = [line.split() for line in done.stdout.splitlines()]
    assert imported[-1] == ["chora.cli", "True"], done.stderr
    assert {name for name, _ in imported} <= {
        *("chora", "chora.__main__", "chora.starting", "chora.this_process", "chora.cli"),
    }


@linux
def test_a_hangup_while_a_server_starts_is_remembered():
    """It doesn't end the process; what it asks for is done once the server can."""
    program = (
        "import os, signal, sys\n"
        "from chora import starting\n"
        "starting.end_on_signals(['serve'])\n"
        "assert 'trio' not in sys.modules\n"
        "print(starting.take_hangup())\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print(starting.take_hangup(), starting.take_hangup())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "False\nTrue False\n", done.stderr


@linux
def test_a_signal_that_is_ignored_stays_ignored():
    """As in a shell's background."""
    program = (
        "import os, signal\n"
        "from chora import starting\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "starting.end_on_signals(['serve'])\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "still here\n", done.stderr
