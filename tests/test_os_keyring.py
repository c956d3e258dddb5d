"""The OS keyring: real Secret Services that are there, absent, locked and slow, and backends that lie."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keyring
import keyring.backend
import keyring.errors
import pytest
from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import open_dbus_connection

from chora import os_keyring
from chora.os_keyring import KeyringFailed, delete_entry, read_entry, write_entry
from tests.conftest import Project, requirement
from tests.patience import PATIENCE
from tests.programs import need_programs
from tests.test_app import read_until, serving

TOKEN = "a-long-enough-token"
linux = pytest.mark.skipif(sys.platform != "linux", reason="there are Secret Services on Linux only")
UNLOCK = "printf %s password | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1"
START_LOCKED = "gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1"


class Session(NamedTuple):
    """A D-Bus session with a Secret Service."""

    environment: dict[str, Any]

    def chora(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run a command; its stdout and stderr."""
        command = [sys.executable, "-m", "chora", *arguments]
        done = subprocess.run(
            command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def service_pid(self) -> int:
        """The process of the Secret Service."""
        bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        question = new_method_call(bus, "GetConnectionUnixProcessID", "s", ("org.freedesktop.secrets",))
        with open_dbus_connection(self.environment["DBUS_SESSION_BUS_ADDRESS"]) as connection:
            until = time.monotonic() + PATIENCE
            while not isinstance(owner := connection.send_and_get_reply(question).body[0], int):
                assert time.monotonic() < until, owner
                time.sleep(0.05)  # a new keyring takes a moment to get its name on the bus
            return owner


@pytest.fixture
def start_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Session]]:
    """Starts sessions one after the other; they share the user's home, and so the keyring's file."""
    need_programs("dbus-run-session", "gnome-keyring-daemon")
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True, mode=0o700)
    plain = {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        **{name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "COV_"))},
    }
    running: list[subprocess.Popen[str]] = []

    def end() -> None:
        while running:
            process = running.pop()
            process.communicate(timeout=PATIENCE)

    def start(prepare: str) -> Session:
        end()
        script = f"{prepare}; echo $DBUS_SESSION_BUS_ADDRESS; read line"
        process = subprocess.Popen(
            ["dbus-run-session", "--", "sh", "-c", script],
            env=plain,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        return Session({**plain, "DBUS_SESSION_BUS_ADDRESS": process.stdout.readline().strip()})

    yield start
    end()


@requirement("secrets.keyring", "secrets.said-at-start")
@pytest.mark.slow("starts sessions and servers")
@linux
def test_a_secret_in_a_real_secret_service_is_found_by_a_server(
    hello: Project, start_session: Callable[[str], Session]
):
    """Once it was set, and no more once it was removed; a locked service stops the start within seconds."""
    session = start_session(UNLOCK)
    project = ("--project", str(hello.root))
    assert "is kept in the OS keyring (chora, chora_token)" in session.chora(
        "secrets", "set", "CHORA_TOKEN", stdin=TOKEN
    )
    assert "CHORA_TOKEN\tkeyring\t" in session.chora(*project, "secrets", "list")
    with serving(hello, **session.environment) as (_, process):
        logged = read_until(process, "secret ANTHROPIC_API_KEY")
        assert "tokens: keyring" in logged
        assert "secret CHORA_TOKEN: found (keyring); access over HTTP with this token: on" in logged
        assert "secret ANTHROPIC_API_KEY: not found; texts by a language model (code_generation): off" in logged
        assert TOKEN not in logged
    session = start_session(START_LOCKED)
    checked = session.chora(*project, "secrets", "check", "chora_token", code=1)
    assert (
        "CHORA_TOKEN: The OS keyring can't be read for the secret chora_token: it fails with KeyringLocked" in checked
    )
    assert "KeyringLocked" in session.chora("secrets", "set", "CHORA_TOKEN", stdin=TOKEN, code=2)
    refused = session.chora(*project, "serve", "--port", "0", code=2)
    assert "The OS keyring can't be read for the secret chora_token" in refused
    session = start_session(UNLOCK)
    assert "is deleted" in session.chora("secrets", "rm", "CHORA_TOKEN")
    assert "isn't in the OS keyring" in session.chora("secrets", "rm", "CHORA_TOKEN", code=3)
    session.chora(*project, "secrets", "check", "chora_token", code=1)


@requirement("secrets.keyring", "secrets.said-at-start")
@pytest.mark.slow("starts a session and a server")
@linux
def test_a_real_secret_service_that_does_not_answer_is_given_up(
    hello: Project, start_session: Callable[[str], Session]
):
    """After two seconds, with a line that says so; a secret in a file is found as ever."""
    session = start_session(UNLOCK)
    process_id = session.service_pid()
    os.kill(process_id, signal.SIGSTOP)
    try:
        (token := hello.root / "token").write_text(TOKEN)
        token.chmod(0o600)
        with serving(hello, **session.environment, CHORA_TOKEN_FILE=str(token)) as (_, process):
            logged = read_until(process, "secret ANTHROPIC_API_KEY")
        line = next(line for line in logged.splitlines() if "secret ANTHROPIC_API_KEY" in line)
        assert "not found; The OS keyring can't be read" in line
        assert "it doesn't answer within 2 s, and may be locked; texts by a language model" in line
        assert f"secret CHORA_TOKEN: found (file {token})" in logged
        assert "doesn't answer within 2 s" in session.chora("--project", str(hello.root), "secrets", "check", code=1)
    finally:
        os.kill(process_id, signal.SIGCONT)


@requirement("secrets.keyring")
def test_without_a_keyring_nothing_is_found_and_nothing_can_be_kept(tmp_path: Path):
    """The error names the file as a way out."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }
    session = Session(environment | {name: os.environ[name] for name in os.environ if name.startswith("COV")})
    refused = json.loads(session.chora("secrets", "set", "docs", "--json", stdin=TOKEN, code=2))
    assert refused["error"]["message"] == "The OS keyring can't be used: there is none on this machine."
    assert refused["error"]["hint"] == "Keep the secret in a file: --file PATH."


class Backend(keyring.backend.KeyringBackend):
    """A keyring in memory; `act` is called first with what is done."""

    priority = 1  # type: ignore[assignment]

    def __init__(self, act: Callable[[str], None] = lambda what: None, *, keeps: bool = True) -> None:
        super().__init__()
        self.act = act
        self.keeps = keeps
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        self.act("get")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.act("set")
        if self.keeps:
            self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self.act("delete")
        del self.entries[service, username]


@pytest.fixture
def use_backend() -> Iterator[Callable[[Backend], Backend]]:
    """Puts a keyring in the place of the machine's."""
    before = keyring.get_keyring()

    def use(backend: Backend) -> Backend:
        keyring.set_keyring(backend)
        return backend

    yield use
    keyring.set_keyring(before)


@requirement("secrets.keyring")
def test_entries_are_those_of_the_service_chora(use_backend: Callable[[Backend], Backend]):
    """Written, read and deleted, each once."""
    backend = use_backend(Backend())
    assert read_entry("docs") == ""
    write_entry("docs", "hush")
    assert backend.entries == {("chora", "docs"): "hush"}
    assert read_entry("docs") == "hush"
    assert (delete_entry("docs"), delete_entry("docs")) == (True, False)
    assert backend.entries == {}


@requirement("secrets.keyring")
def test_a_keyring_that_keeps_nothing_is_found_out(use_backend: Callable[[Backend], Backend]):
    """The null backend accepts every secret."""
    use_backend(Backend(keeps=False))
    with pytest.raises(KeyringFailed, match="doesn't keep them"):
        write_entry("docs", "hush")


@requirement("secrets.keyring")
@pytest.mark.parametrize(("what", "action"), [("get", read_entry), ("set", lambda name: write_entry(name, "hush"))])
def test_the_failure_of_a_keyring_has_its_reason(
    use_backend: Callable[[Backend], Backend], what: str, action: Callable[[str], object]
):
    """Whatever the backend raises; only a missing keyring is absent."""

    def fail(doing: str) -> None:
        if doing == what:
            raise keyring.errors.KeyringLocked("the user said no")

    use_backend(Backend(fail))
    with pytest.raises(KeyringFailed, match="it fails with KeyringLocked: the user said no") as caught:
        action("docs")
    assert not caught.value.is_absent

    def miss(doing: str) -> None:
        raise keyring.errors.NoKeyringError("no backend")

    use_backend(Backend(miss))
    with pytest.raises(KeyringFailed, match="there is none on this machine") as caught:
        action("docs")
    assert caught.value.is_absent


@requirement("secrets.keyring")
def test_changing_a_keyring_waits_longer_than_looking_into_it(use_backend: Callable[[Backend], Backend]):
    """The user may have to type a password; in the end it is given up as well."""
    answered = threading.Event()

    def wait(doing: str) -> None:
        answered.wait(PATIENCE)

    use_backend(Backend(wait))
    assert os_keyring.UNLOCK_TIME >= 10 * os_keyring.TIMEOUT
    for action in (
        lambda: read_entry("docs", 0.05),
        lambda: write_entry("docs", "x", 0.05),
        lambda: delete_entry("docs", 0.05),
    ):
        with pytest.raises(KeyringFailed, match=r"doesn't answer within 0\.05 s"):
            action()
    answered.set()
