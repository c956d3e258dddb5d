"""The command line of chora itself, and what of the environment is not a setting."""

import os
import sys
from collections.abc import Callable

import pytest

from chora import this_process
from tests.conftest import requirement


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (this_process.trace_id, "CHORA_TRACE_ID"),
        (this_process.default_transport, "MCP_TRANSPORT"),
        (this_process.notify_socket, "NOTIFY_SOCKET"),
    ],
)
def test_some_names_are_read_when_asked(monkeypatch: pytest.MonkeyPatch, read: Callable[[], str | None], name: str):
    """They may change while we live; an empty one is none."""
    assert read() is None
    monkeypatch.setenv(name, "something")
    assert read() == "something"
    monkeypatch.setenv(name, "")
    assert read() is None


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("30000000", "", 30.0),
        ("1500000", "own", 1.5),
        ("30000000", "1", None),
    ],
)
@requirement("server.systemd-watchdog")
def test_the_watchdog_of_systemd_may_want_to_hear_of_this_process(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, process: str, seconds: float | None
):
    """Only of the one that it names, so that a child isn't taken for its parent."""
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "own" else process)
    assert this_process.watchdog_seconds() == seconds


def test_a_child_knows_how_to_run_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    """A child process gets the few names it needs to find programs and speak, and those only."""
    secrets = {
        *("CHORA_TOKEN", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "CREDENTIALS_DIRECTORY", "GITHUB_TOKEN"),
        *("CHORA_LIMITS_BODY", "PYTHONPATH", "LD_PRELOAD", "SSH_AUTH_SOCK"),
    }
    for name in secrets:
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("LANG", "nb_NO.UTF-8")
    monkeypatch.delenv("TMPDIR", raising=False)
    child = this_process.child_environment()
    assert (child["PATH"], child["LANG"]) == ("/bin", "nb_NO.UTF-8")
    assert "TMPDIR" not in child
    assert not secrets & set(child)
    assert "hunter2" not in child.values()


def test_chora_can_be_run_again(monkeypatch: pytest.MonkeyPatch):
    """The command that runs this very chora: a module of this Python, or the binary itself."""
    assert not this_process.is_frozen()
    assert this_process.own_command("version", "--json") == [sys.executable, "-P", "-m", "chora", "version", "--json"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert this_process.is_frozen()
    assert this_process.own_command("stdio") == [sys.executable, "stdio"]
