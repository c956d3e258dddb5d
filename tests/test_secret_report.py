"""What is told of the secrets: where each was looked for, and what that switches on."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from chora import os_keyring
from chora.os_keyring import KeyringFailed
from chora.secret_report import SecretReport, describe_secret, examine_secret, reference_of
from chora.secrets import API_KEY, KNOWN_SECRETS, TOKEN, KnownSecret
from chora.settings import HttpSettings, LlmSettings, Settings
from tests.conftest import requirement

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | KeyringFailed]:
    """The entries of the keyring; one may be a failure."""
    entries: dict[str, str | KeyringFailed] = {}

    def read(name: str, timeout: float) -> str:
        entry = entries.get(name, "")
        if isinstance(entry, KeyringFailed):
            raise entry
        return entry

    monkeypatch.setattr(os_keyring, "read_entry", read)
    return entries


def examine(known: KnownSecret, folder: Path, settings: Settings | None = None, /, **environment: str) -> SecretReport:
    return examine_secret(known, settings or Settings(), environment, run_secrets=folder / "run")


def states(report: SecretReport) -> list[str]:
    return [each.state for each in report.places]


@requirement("secrets.commands")
def test_every_place_is_looked_into(tmp_path: Path, ring: dict[str, Any]):
    """The first one that has the secret is used; others that have it are named, as are those that haven't."""
    (tmp_path / "file").write_text("of the file")
    (tmp_path / "file").chmod(0o600)
    os.utime(tmp_path / "file", (86400, 86400))
    ring["chora_token"] = "of the keyring"
    environment = {"CHORA_TOKEN_FILE": str(tmp_path / "file"), "CHORA_TOKEN": "of the environment"}
    report = examine(TOKEN, tmp_path, None, **environment)
    assert report.found == f"file {tmp_path / 'file'}"
    assert states(report) == ["used", "absent", "not used", "not used"]
    first = report.places[0]
    assert (first.permissions, first.modified, first.problem) == ("0600", "1970-01-02T00:00:00Z", None)
    assert [each.permissions for each in report.places[1:]] == [None, None, None]
    report = examine(TOKEN, tmp_path)
    assert (report.found, states(report)) == ("keyring", ["absent", "used", "absent"])
    ring.clear()
    report = examine(TOKEN, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert (report.found, report.error, states(report)) == (None, None, ["absent"] * 4)


@requirement("secrets.commands")
@pytest.mark.parametrize(
    ("reference", "found", "state"),
    [("env:MINE", "env:MINE", "used"), ("keyring:mine", "keyring:mine", "used"), ("env:OTHER", None, "failed")],
)
def test_a_reference_replaces_the_places(
    tmp_path: Path, ring: dict[str, Any], reference: str, found: str | None, state: str
):
    """If it leads nowhere, that is an error, as when a server starts."""
    ring["mine"] = ring["chora_token"] = "of the keyring"
    settings = Settings(http=HttpSettings(token=reference))
    assert reference_of(TOKEN, settings) == reference
    report = examine(TOKEN, tmp_path, settings, MINE="mine", CHORA_TOKEN="other")
    assert (report.found, states(report)) == (found, [state])
    assert (report.error is None) is (found is not None)


@requirement("secrets.commands", "secrets.fail-closed")
def test_a_file_that_can_not_be_read_ends_the_search(tmp_path: Path, ring: dict[str, Any]):
    """What comes after it isn't used, as a server wouldn't."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "chora_token").write_text(" ")
    ring["chora_token"] = "of the keyring"
    report = examine(TOKEN, tmp_path)
    assert report.found is None
    assert report.error == f"The secret in {tmp_path / 'run' / 'chora_token'} is empty."
    assert states(report) == ["failed", "not used", "absent"]


@requirement("secrets.commands", "secrets.fail-closed")
@pytest.mark.parametrize("known", KNOWN_SECRETS, ids=lambda known: known.name)
def test_a_keyring_that_fails_is_passed_over_unless_the_secret_guards_something(
    tmp_path: Path, ring: dict[str, Any], known: KnownSecret
):
    """It is told either way; one that is absent has no secrets."""
    environment = {known.name: "of the environment"}
    ring[known.name.lower()] = KeyringFailed("it is locked")
    report = examine(known, tmp_path, None, **environment)
    assert report.found == (None if known.fail_closed else f"environment {known.name}")
    assert (report.error is not None) is known.fail_closed
    assert report.places[1].state == "failed"
    assert "it is locked" in str(report.places[1].problem)
    ring[known.name.lower()] = KeyringFailed("there is none", is_absent=True)
    report = examine(known, tmp_path, None, **environment)
    assert (report.found, states(report)) == (f"environment {known.name}", ["absent", "absent", "used"])


@posix
@requirement("secrets.commands", "secrets.owner")
def test_a_file_that_others_may_read_is_a_problem_of_its_own(
    tmp_path: Path, ring: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    """Told once, in the report; not of a file that the system made."""
    (tmp_path / "run").mkdir()
    for file in (tmp_path / "file", tmp_path / "run" / "chora_token"):
        file.write_text("a secret")
        file.chmod(0o644)
    report = examine(TOKEN, tmp_path, CHORA_TOKEN_FILE=str(tmp_path / "file"))
    problems = [(each.permissions, each.problem) for each in report.places[:2]]
    assert problems == [("0644", "Other users may read it: run chmod 600 on it."), ("0644", None)]
    assert caplog.text == ""
    assert describe_secret(TOKEN, report) == (
        f"secret CHORA_TOKEN: found (file {tmp_path / 'file'}); Other users may read it: run chmod 600 on it; "
        "access over HTTP with this token: on"
    )


@requirement("secrets.said-at-start")
def test_the_line_of_a_secret_says_what_it_switches_on(
    tmp_path: Path, ring: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """On only if all that is needed is there; a failed look-up is said."""
    token, key = TOKEN.purpose, API_KEY.purpose
    assert describe_secret(TOKEN, examine(TOKEN, tmp_path)) == f"secret CHORA_TOKEN: not found; {token}: off"
    found = examine(API_KEY, tmp_path, Settings(llm=LlmSettings(api_key="env:MINE")), MINE="mine")
    assert describe_secret(API_KEY, found) == f"secret ANTHROPIC_API_KEY: found (env:MINE); {key}: on"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert describe_secret(API_KEY, found) == (
        f"secret ANTHROPIC_API_KEY: found (env:MINE); {key}: off, the package anthropic isn't installed"
    )
    for known in KNOWN_SECRETS:
        ring[known.name.lower()] = KeyringFailed("it is locked")
    failed = "The OS keyring can't be read for the secret {}: it is locked"
    assert describe_secret(API_KEY, examine(API_KEY, tmp_path)) == (
        f"secret ANTHROPIC_API_KEY: not found; {failed.format('anthropic_api_key')}; {key}: off"
    )
    assert describe_secret(TOKEN, examine(TOKEN, tmp_path)) == (
        f"secret CHORA_TOKEN: can't be read: {failed.format('chora_token')}. Access over HTTP with this token: off"
    )


@requirement("secrets.commands")
def test_every_known_secret_has_its_setting_and_no_value_is_in_a_report(tmp_path: Path, ring: dict[str, Any]):
    """A new one is added in one place."""
    for known in KNOWN_SECRETS:
        assert reference_of(known, Settings()) == ""
        ring[known.name.lower()] = "hush-hush-hush"
        report = examine(known, tmp_path, None, **{known.name: "hush-hush-hush"})
        assert report.found == "keyring"
        assert "hush" not in repr(report)
