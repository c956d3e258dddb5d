"""`chora secrets`."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chora import os_keyring
from chora.cli import program
from chora.os_keyring import KeyringFailed
from chora.secrets import SECRET_LIMIT
from tests.conftest import Project, requirement

TOKEN = "a-long-enough-token"
Run = Callable[..., Result]


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A keyring in memory."""
    entries: dict[str, str] = {}
    monkeypatch.setattr(os_keyring, "read_entry", lambda name, timeout=0.0: entries.get(name, ""))
    monkeypatch.setattr(os_keyring, "write_entry", entries.__setitem__)
    monkeypatch.setattr(os_keyring, "delete_entry", lambda name: entries.pop(name, None) is not None)
    return entries


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `chora secrets` in the project."""
    for name in ("CHORA_TOKEN", "CHORA_TOKEN_FILE", "ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str, stdin: str | bytes = "", code: int = 0, **environment: str) -> Result:
        result = CliRunner().invoke(
            program, ["--project", str(project.root), "secrets", *arguments], input=stdin, env=environment
        )
        assert result.exit_code == code, result.output
        return result

    return invoke


@requirement("secrets.commands")
def test_secrets_are_listed_and_checked_without_being_shown(run: Run, ring: dict[str, str]):
    """For people and as JSON; a secret that is asked for by name and isn't there is a failure."""
    assert run("list").stdout == (
        "CHORA_TOKEN\t-\taccess over HTTP with this token\n"
        "ANTHROPIC_API_KEY\t-\ttexts by a language model (code_generation)\n"
    )
    ring["chora_token"] = TOKEN
    assert run("list").stdout.startswith("CHORA_TOKEN\tkeyring\t")
    (token, key) = json.loads(run("list", "--json").stdout)["secrets"]
    assert (token["name"], token["found"], token["setting"], "places" in token) == (
        "CHORA_TOKEN",
        "keyring",
        "http.token",
        False,
    )
    assert (key["found"], key["error"]) == (None, None)
    checked = run("check")
    assert "CHORA_TOKEN: found in keyring\n" in checked.stdout
    assert "used\tkeyring\t-\t-\t-\n" in checked.stdout
    assert "ANTHROPIC_API_KEY: not found\n" in checked.stdout
    assert TOKEN not in checked.output
    missing = json.loads(run("check", "anthropic_api_key", "--json", code=1).stdout)
    assert (missing["success"], [each["state"] for each in missing["secrets"][0]["places"]]) == (False, ["absent"] * 3)
    assert "Did you mean ANTHROPIC_API_KEY?" in run("check", "antropic_api_key", code=2).stderr


@requirement("secrets.commands", "secrets.fail-closed")
def test_a_check_fails_where_a_server_would_not_start(
    run: Run, ring: dict[str, str], project: Project, tmp_path_factory: pytest.TempPathFactory
):
    """A file that is named and can't be read, and a reference that leads nowhere."""
    nowhere = str(tmp_path_factory.mktemp("elsewhere") / "nowhere")
    failed = run("check", code=1, CHORA_TOKEN_FILE=nowhere)
    assert f"CHORA_TOKEN: CHORA_TOKEN_FILE names {nowhere}, which can't be read" in failed.stdout
    assert f"failed\tfile {nowhere}\t" in failed.stdout
    assert "CHORA_TOKEN\tunreadable\t" in run("list", CHORA_TOKEN_FILE=nowhere).stdout
    project.write("chora.toml", '[llm]\napi_key = "keyring:nothing"\n')
    assert "The secret keyring:nothing is empty" in run("check", code=1).stdout


@requirement("secrets.commands")
@pytest.mark.parametrize(
    "stdin", [TOKEN, f"{TOKEN}\n", f"\ufeff {TOKEN} \r\n"], ids=["plain", "a line", "a Windows editor's"]
)
def test_a_secret_is_kept_and_deleted(run: Run, ring: dict[str, str], stdin: str):
    """In the keyring, without the white space around it; from stdin, and never from the command line."""
    done = run("set", "chora_token", stdin=stdin)
    assert done.stdout == "chora_token is kept in the OS keyring (chora, chora_token).\n"
    assert done.stderr == "Servers that run use it after SIGHUP (systemctl reload).\n"
    assert ring == {"chora_token": TOKEN}
    assert run("rm", "CHORA_TOKEN").stdout == "CHORA_TOKEN is deleted from the OS keyring (chora, chora_token).\n"
    assert ring == {}
    assert "CHORA_TOKEN isn't in the OS keyring" in run("rm", "CHORA_TOKEN", code=3).stderr
    run("set", "chora_token", TOKEN, code=2)


@requirement("secrets.commands")
def test_a_secret_is_kept_in_a_file(run: Run, ring: dict[str, str], tmp_path: Path):
    """That its owner alone may read, in a folder that is made; what has to be set for it to be found is said."""
    file = tmp_path / "new" / "token"
    done = json.loads(run("set", "CHORA_TOKEN", "--file", str(file), "--json", stdin=TOKEN).stdout)
    assert (done["stored"], file.read_text()) == (str(file), f"{TOKEN}\n")
    assert done["notes"] == [
        f'To have it found there, write `token = "file:{file}"` below [http] in chora.toml, or set '
        f"CHORA_TOKEN_FILE={file}."
    ]
    if sys.platform != "win32":
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    ring["chora_token"] = TOKEN
    again = run("set", "CHORA_TOKEN", "--file", str(file), stdin=TOKEN + "2")
    assert again.stderr.endswith("Now it is found in keyring.\n")
    assert file.read_text() == f"{TOKEN}2\n"
    run("rm", "CHORA_TOKEN", "--file", str(file))
    assert not file.exists()
    run("rm", "CHORA_TOKEN", "--file", str(file), code=3)
    assert ring == {"chora_token": TOKEN}


@requirement("secrets.commands")
def test_a_secret_goes_where_the_settings_say(run: Run, ring: dict[str, str], project: Project, tmp_path: Path):
    """Into their file or entry; not into the environment, which ends with its process."""
    file = tmp_path / "token"
    project.write("chora.toml", f'[http]\ntoken = "file:{file}"\n[llm]\napi_key = "keyring:mine"\n')
    assert run("set", "CHORA_TOKEN", stdin=TOKEN).stderr == "Servers that run use it after SIGHUP (systemctl reload).\n"
    assert file.read_text() == f"{TOKEN}\n"
    assert run("set", "ANTHROPIC_API_KEY", stdin="key").stderr == ""
    assert ring == {"mine": "key"}
    run("rm", "ANTHROPIC_API_KEY")
    run("rm", "CHORA_TOKEN")
    assert (ring, file.exists()) == ({}, False)
    project.write("chora.toml", '[http]\ntoken = "env:MINE"\n')
    refused = run("set", "CHORA_TOKEN", stdin=TOKEN, code=2).stderr
    assert "http.token says that CHORA_TOKEN is in the environment variable MINE" in refused


@requirement("secrets.commands")
def test_a_secret_that_is_kept_and_not_used_is_told(run: Run, ring: dict[str, str], tmp_path: Path):
    """Because another place comes first, can't be read, or nothing looks for it."""
    (file := tmp_path / "token").write_text(TOKEN)
    file.chmod(0o600)
    kept = run("set", "CHORA_TOKEN", stdin=TOKEN, CHORA_TOKEN_FILE=str(file))
    assert kept.stderr == f"It isn't used: file {file} comes before the keyring.\n"
    file.write_text("")
    kept = run("set", "CHORA_TOKEN", stdin=TOKEN, CHORA_TOKEN_FILE=str(file))
    assert kept.stderr.startswith("It can't be used: CHORA_TOKEN_FILE names ")
    kept = run("set", "docs.example.org", stdin=TOKEN)
    assert kept.stderr == (
        "chora doesn't look for docs.example.org by itself: refer to it as keyring:docs.example.org.\n"
    )
    assert kept.stderr.count("Did you mean") == 0
    assert run("set", "CHORA_TOKN", stdin=TOKEN).stderr.endswith("Did you mean CHORA_TOKEN?\n")
    assert set(ring) == {"chora_token", "docs.example.org", "CHORA_TOKN"}
    assert "refer to it as file:" in run("set", "docs", "--file", str(tmp_path / "docs"), stdin="x").stderr


@requirement("secrets.commands")
@pytest.mark.parametrize(
    ("name", "stdin", "said"),
    [
        ("CHORA_TOKEN", "", "The secret is empty."),
        ("CHORA_TOKEN", " \n", "The secret is empty."),
        ("CHORA_TOKEN", "x" * 15, "The access token is shorter than 16 characters"),
        ("CHORA_TOKEN", "a-long-enough-token-of-ä", "The access token holds characters that no HTTP header may have."),
        ("CHORA_TOKEN", b"\xff" * 20, "The secret is no UTF-8 text."),
        ("docs", "x" * (SECRET_LIMIT + 1), "The secret is larger than 65,536 bytes."),
        ("../docs", TOKEN, "'../docs' is no name of a secret."),
        ("d" * 101, TOKEN, "is no name of a secret."),
    ],
)
def test_what_can_be_no_secret_is_refused(run: Run, ring: dict[str, str], name: str, stdin: str | bytes, said: str):
    """Before anything is kept."""
    assert said in run("set", name, stdin=stdin, code=2).stderr
    assert ring == {}


@requirement("secrets.commands")
def test_the_shortest_token_and_the_largest_secret_are_kept(run: Run, ring: dict[str, str]):
    """As servers take them."""
    run("set", "CHORA_TOKEN", stdin="x" * 16)
    run("set", "docs", stdin="y" * SECRET_LIMIT)
    run("set", "d" * 100, stdin="z")
    assert ring == {"chora_token": "x" * 16, "docs": "y" * SECRET_LIMIT, "d" * 100: "z"}


@requirement("secrets.commands")
def test_a_secret_is_typed_twice_and_not_shown(run: Run, ring: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """On a terminal."""
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    done = run("set", "CHORA_TOKEN", stdin=f"{TOKEN}\n{TOKEN}\n")
    assert ring == {"chora_token": TOKEN}
    assert TOKEN not in done.output
    misspelled = "one-long-enough-token\nanother-long-enough-token\n"
    run("set", "CHORA_TOKEN", stdin=f"{misspelled}{TOKEN}2\n{TOKEN}2\n")
    assert ring == {"chora_token": f"{TOKEN}2"}


@requirement("secrets.commands", "secrets.keyring")
def test_failures_of_the_place_are_told(
    run: Run, ring: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Of a keyring and of a file, while a secret is kept and deleted."""

    def fail(*_: Any) -> Any:
        raise KeyringFailed("it is locked")

    monkeypatch.setattr(os_keyring, "write_entry", fail)
    monkeypatch.setattr(os_keyring, "delete_entry", fail)
    for arguments in (("set", "docs"), ("rm", "docs")):
        said = run(*arguments, stdin=TOKEN, code=2).stderr
        assert "The OS keyring can't be used: it is locked." in said
        assert "Unlock it, or keep the secret in a file: --file PATH." in said
    folder = tmp_path / "folder"
    folder.mkdir()
    for arguments in (("set", "docs"), ("rm", "docs")):
        run(*arguments, "--file", str(folder), stdin=TOKEN, code=2)


@requirement("secrets.commands")
def test_secrets_can_be_kept_before_there_is_a_project(
    ring: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The keyring is the user's; a project that is named has to be there."""
    monkeypatch.chdir(tmp_path)
    for name in ("CHORA_PROJECT", "CHORA_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    runner = CliRunner()
    assert runner.invoke(program, ["secrets", "set", "chora_token"], input=TOKEN).exit_code == 0
    assert "CHORA_TOKEN\tkeyring" in runner.invoke(program, ["secrets", "list"]).stdout
    assert runner.invoke(program, ["--project", str(tmp_path / "no"), "secrets", "list"]).exit_code == 3
    assert os.listdir(tmp_path) == []  # noqa: PTH208
