"""Where secrets are looked up, and that they are never printed."""

import copy
import errno
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import msgspec
import pytest

from chora.errors import UsageError
from chora.secrets import (
    SECRET_LIMIT,
    FoundSecret,
    Secret,
    _read_keyring,
    check_token,
    find_secret,
    redact,
)
from tests.conftest import requirement
from tests.odd_files import put_odd_file
from tests.patience import PATIENCE

Environment = dict[str, str]


class Ring(keyring.backend.KeyringBackend):
    """A keyring with these entries, or one that calls a function."""

    priority = 1  # type: ignore[assignment]

    def __init__(self, act: Callable[[], str | None] | None = None, **kept: str) -> None:
        super().__init__()
        self.act = act
        self.kept = kept

    def get_password(self, service: str, username: str) -> str | None:
        if self.act is not None:
            return self.act()
        return self.kept.get(f"{service}_{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


@pytest.fixture
def ring() -> Iterator[Callable[[Ring], None]]:
    """Puts a keyring in the place of the machine's."""
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


@pytest.fixture
def places(tmp_path: Path, ring: Callable[[Ring], None]) -> Environment:
    """An environment in which the secret API_KEY is in every place at once."""
    for folder in ("run", "credentials"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "api_key").write_text(f"of {folder}\n")
    (tmp_path / "file").write_text("  of the file \n")
    ring(Ring(chora_api_key="of the keyring"))
    return {
        "API_KEY_FILE": str(tmp_path / "file"),
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        "API_KEY": " of the environment ",
    }


def find(env: Environment, folder: Path, **more: Any) -> tuple[str, str] | None:
    found = find_secret("API_KEY", env, run_secrets=folder / "run", **more)
    return found and (found.secret.reveal(), found.origin)


@requirement("settings.secrets", "generators.code-generation.key")
def test_the_first_place_wins(tmp_path: Path, places: Environment, ring: Callable[[Ring], None]):
    """NAME_FILE, /run/secrets, the credentials of systemd, the keyring, NAME: each shows when those before are gone."""
    assert find(places, tmp_path) == ("of the file", f"file {tmp_path / 'file'}")
    del places["API_KEY_FILE"]
    assert find(places, tmp_path) == ("of run", f"file {tmp_path / 'run' / 'api_key'}")
    (tmp_path / "run" / "api_key").unlink()
    assert find(places, tmp_path) == ("of credentials", f"file {tmp_path / 'credentials' / 'api_key'}")
    del places["CREDENTIALS_DIRECTORY"]
    assert find(places, tmp_path) == ("of the keyring", "keyring")
    assert find(places, tmp_path, keyring=False) == ("of the environment", "environment API_KEY")
    ring(Ring())
    assert find(places, tmp_path) == ("of the environment", "environment API_KEY")
    del places["API_KEY"]
    assert find(places, tmp_path) is None


def test_the_own_environment_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without an environment, that of the process is used."""
    monkeypatch.setenv("API_KEY", "mine")
    found = find_secret("API_KEY", run_secrets=tmp_path)
    assert found is not None
    assert found.secret.reveal() == "mine"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00secret", b"", b" \n"])
def test_a_file_that_was_named_must_hold_the_secret(tmp_path: Path, places: Environment, content: bytes | None):
    """NAME_FILE that is missing, no text or empty is an error, not a reason to look elsewhere; it shows no byte."""
    file = tmp_path / "file"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        find(places, tmp_path)
    assert caught.value.message.startswith(f"API_KEY_FILE names {file}, which ")
    assert "0xff" not in caught.value.message
    assert caught.value.details == {"file": str(file)}
    with pytest.raises(UsageError, match="can't be read"):
        find({"API_KEY_FILE": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_secret_is_none(tmp_path: Path, places: Environment, ring: Callable[[Ring], None], content: str):
    """It would be a password that everyone knows: in the keyring and the environment it is skipped."""
    del places["API_KEY_FILE"]
    for folder in ("run", "credentials"):
        (tmp_path / folder / "api_key").unlink()
    ring(Ring(chora_api_key=content))
    assert find(places, tmp_path) == ("of the environment", "environment API_KEY")
    assert find({**places, "API_KEY": content}, tmp_path) is None


@pytest.mark.parametrize("folder", ["run", "credentials"])
@pytest.mark.parametrize("fault", ["empty", "a folder", "a pipe", "too large", "not UTF-8", "a link to nothing"])
@requirement("secrets.fail-closed")
def test_a_file_that_holds_no_secret_ends_the_search(tmp_path: Path, places: Environment, folder: str, fault: str):
    """It was meant to guard something: no later place is used instead, and a pipe doesn't block."""
    del places["API_KEY_FILE"]
    if folder == "credentials":
        (tmp_path / "run" / "api_key").unlink()
    file = tmp_path / folder / "api_key"
    put_odd_file(file, fault, limit=SECRET_LIMIT)
    with pytest.raises(UsageError, match=re.escape(str(file))):
        find(places, tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@requirement("secrets.fail-closed")
def test_a_folder_of_secrets_that_cannot_be_looked_into_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    """The secret may be in it."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "lstat", fail)
    with pytest.raises(UsageError, match="can't be read"):
        find({}, tmp_path)


@pytest.mark.parametrize("fault", ["empty", "a folder", "a pipe", "too large", "not UTF-8", "a link to nothing"])
@pytest.mark.parametrize("way", ["API_KEY_FILE", "reference"])
@requirement("secrets.fail-closed")
def test_a_named_file_that_holds_no_secret_is_refused(tmp_path: Path, fault: str, way: str):
    """With its path."""
    file = tmp_path / "file"
    put_odd_file(file, fault, limit=SECRET_LIMIT)
    reference, environment = (f"file:{file}", {}) if way == "reference" else ("", {"API_KEY_FILE": str(file)})
    with pytest.raises(UsageError, match=re.escape(str(file))):
        find_secret("API_KEY", environment, reference=reference)


def test_the_largest_secret_is_read(tmp_path: Path):
    """A key and its certificates fit."""
    (tmp_path / "file").write_bytes(b"x" * SECRET_LIMIT)
    assert find({"API_KEY_FILE": str(tmp_path / "file")}, tmp_path) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o610, True)]
)
@requirement("secrets.owner")
def test_a_secret_that_others_may_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
):
    """With the file's path, and never with its content; not where the system put it with its own permissions."""
    file = tmp_path / "run" / "api_key"
    file.parent.mkdir()
    file.write_text("hush-hush")
    file.chmod(mode)
    assert find({}, tmp_path) is not None
    assert caplog.text == ""
    assert find({"API_KEY_FILE": str(file)}, tmp_path) is not None
    assert (f"other users may read the secret in {file}: run chmod 600 on it" in caplog.text) is warned
    assert "hush-hush" not in caplog.text


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give a file away")
@requirement("secrets.owner")
def test_a_secret_of_another_user_is_refused(tmp_path: Path):
    """They could change it, and know it."""
    file = tmp_path / "file"
    file.write_text("theirs")
    os.chown(file, 12345, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        find({"API_KEY_FILE": str(file)}, tmp_path)


def test_the_mark_of_a_windows_editor_isn_t_part_of_a_secret(tmp_path: Path):
    """A byte order mark is dropped like the white space around it."""
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfkey\r\n")
    assert find({"API_KEY_FILE": str(tmp_path / "file")}, tmp_path) == ("key", f"file {tmp_path / 'file'}")


def test_a_keyring_that_fails_is_passed_over(tmp_path: Path, places: Environment, ring: Callable[[Ring], None]):
    """Without a keyring service, or with a locked one, the search goes on."""

    def fail() -> str:
        raise RuntimeError("locked, or absent, or anything else")

    ring(Ring(fail))
    assert find({"API_KEY": places["API_KEY"]}, tmp_path / "nowhere") == ("of the environment", "environment API_KEY")


@requirement("secrets.fail-closed")
def test_a_server_whose_keyring_cannot_be_read_does_not_start(ring: Callable[[Ring], None], tmp_path: Path):
    """Its token may be in it: without it the server would be open to every client on the machine."""

    def fail() -> str:
        raise keyring.errors.KeyringLocked("the user said no")

    ring(Ring(fail))
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UsageError, match="KeyringLocked") as caught:
        find_secret("CHORA_TOKEN", {}, run_secrets=nowhere, fail_closed=True)
    assert "PYTHON_KEYRING_BACKEND" in str(caught.value.hint)
    with pytest.raises(UsageError, match="KeyringLocked"):
        find_secret("CHORA_TOKEN", {}, reference="keyring:mine")
    ring(Ring())
    assert find_secret("CHORA_TOKEN", {}, run_secrets=nowhere, fail_closed=True) is None
    keyring.set_keyring(keyring.backends.fail.Keyring())
    assert find_secret("CHORA_TOKEN", {}, run_secrets=nowhere, fail_closed=True) is None, "there is no keyring"


def test_a_keyring_that_prompts_times_out(ring: Callable[[Ring], None]):
    """A locked keyring with a display opens a window."""
    answered = threading.Event()

    def ask() -> str:
        answered.wait(PATIENCE)
        return "too late"

    ring(Ring(ask))
    assert _read_keyring("api_key", timeout=0.05) == ""
    with pytest.raises(UsageError, match=r"doesn't answer within 0\.05 s"):
        _read_keyring("api_key", timeout=0.05, fail_closed=True)
    answered.set()


def test_a_hanging_keyring_delays_the_exit_of_no_process(tmp_path: Path):
    """A real backend that never answers only delays the search."""
    (tmp_path / "hanging.py").write_text(
        "import threading, keyring.backend\n"
        "class Hanging(keyring.backend.KeyringBackend):\n"
        "    priority = 1\n"
        "    def get_password(self, service, username):\n"
        "        print('lookup of', service, username, flush=True)\n"
        "        threading.Event().wait()\n"
        "    def set_password(self, service, username, password):\n"
        "        raise NotImplementedError\n"
    )
    program = (
        "import keyring; keyring.get_keyring()  # importing takes long on a busy machine\n"
        "from chora import secrets\n"
        "secrets._read_keyring.__defaults__ = (1.0,)\n"
        "found = secrets.find_secret('CHORA_TOKEN', {'CHORA_TOKEN': 'x'})\n"
        "print(found.secret.reveal(), found.origin)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHON_KEYRING_BACKEND": "hanging.Hanging"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("lookup of chora chora_token\nx environment CHORA_TOKEN\n", "")


@requirement("settings.secrets")
def test_a_secret_is_never_printed():
    """In messages, logs, containers and formats it is three asterisks; only `reveal` returns it."""
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    shown = [repr(secret), str(secret), f"{secret}", "%s %r" % (secret, secret), str([secret]), str({"a": secret})]  # noqa: UP031
    assert not any("hunter2" in each for each in shown)
    assert repr(FoundSecret(secret, "keyring")) == "FoundSecret(secret=***, origin='keyring')"


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode, vars])
def test_a_secret_cannot_be_serialized(act: Callable[[Any], Any]):
    """Neither pickled, copied, encoded as JSON nor converted."""
    with pytest.raises(TypeError) as caught:
        act(Secret("hunter2"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the token tide42 is mine", "the token *** is mine"),
        ("tide42tide42", "******"),
        ("the word tide4 is ordinary", "the word tide4 is ordinary"),
        ("Authorization: Bearer abc.DEF-123", "Authorization: Bearer ***"),
        ("Bearer abcde", "Bearer abcde"),
        ("key sk-ant-api03-xyz, then", "key sk-ant-***, then"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_and_what_looks_like_one_are_redacted(text: str, shown: str):
    """From six characters on, wherever they stand; shorter ones occur in ordinary words."""
    held = [Secret("tide42"), Secret("tide4")]
    assert redact(text) == shown
    del held


@pytest.mark.parametrize(
    ("token", "fits"),
    [("a-long-enough-token", True), ("with blanks ~ and !", True), ("Nørvik-tides", False), ("two\nlines", False)],
)
def test_a_token_has_the_characters_of_a_header(token: str, fits: bool):
    """RFC 9110 §5.5; anything else could never arrive."""
    if fits:
        check_token(token, "The token")
    else:
        with pytest.raises(UsageError, match="The token holds characters that no HTTP header may have"):
            check_token(token, "The token")
