"""`chora secrets`: where secrets are, and keeping them in the OS keyring or in files."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from chora import os_keyring
from chora.cli.run import json_option, load_settings, print_json, print_table, report_errors
from chora.cli.terminal import echo
from chora.disk import delete_file, replace_file
from chora.errors import ContentNotFound, InvalidInput, ProjectNotFound, UsageError, why_unreadable
from chora.secret_report import SecretReport, examine_secret, reference_of
from chora.secrets import KNOWN_SECRETS, SECRET_LIMIT, TOKEN, KnownSecret, check_token
from chora.settings import Settings
from chora.wording import find_nearest

_ENTRY = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


@click.group("secrets")
def command() -> None:
    """Tell where secrets are, and keep them in the OS keyring or in a file that only you can read."""


@command.command("list")
@json_option
@click.pass_obj
@report_errors
def list_secrets(project: str | None, as_json: bool) -> None:
    """List the secrets that chora looks for, where each was found, and what it is for."""
    settings = _settings(project)
    reports = [examine_secret(known, settings) for known in KNOWN_SECRETS]
    if as_json:
        facts = [{key: value for key, value in _facts(report).items() if key != "places"} for report in reports]
        print_json({"success": True, "secrets": facts})
        return
    rows = [(each.name, each.found or ("unreadable" if each.error else "-"), each.purpose) for each in reports]
    print_table(("Secret", "Found", "For"), rows)


@command.command("check")
@click.argument("name", required=False)
@json_option
@click.pass_obj
@report_errors
def check(project: str | None, name: str | None, as_json: bool) -> None:
    """Look into every place where secrets may be, and tell what is there; never the secret itself.

    It exits with 1 if a place can't be read that has to be, or if the secret NAME isn't found.
    """
    settings = _settings(project)
    wanted = [_known(name)] if name else list(KNOWN_SECRETS)
    reports = [examine_secret(known, settings) for known in wanted]
    ok = all(report.error is None and (report.found or not name) for report in reports)
    if as_json:
        print_json({"success": ok, "secrets": [_facts(report) for report in reports]})
    else:
        for report in reports:
            _print_report(report)
    sys.exit(0 if ok else 1)


@command.command("set")
@click.argument("name")
@click.option("--file", metavar="PATH", help="Keep it in this file, which only you can read.")
@json_option
@click.pass_obj
@report_errors
def set_secret(project: str | None, name: str, file: str | None, as_json: bool) -> None:
    """Keep a secret where the settings say, else in the OS keyring; it is typed, or read from stdin.

    NAME is one that `chora secrets list` shows, or any other one for the keyring, to which `keyring:NAME` refers.
    """
    settings = _settings(project)
    target = _target(name, file, settings)
    value = _read_value(name)
    if (known := _find_known(name)) is TOKEN:
        _check_new_token(value)
    target.write(value)
    notes = _notes(name, known, target, settings)
    if as_json:
        print_json({"success": True, "name": name, "stored": target.place, "notes": notes})
        return
    echo(f"{name} is kept in {target.place}.")
    for note in notes:
        echo(note, err=True)


@command.command("rm")
@click.argument("name")
@click.option("--file", metavar="PATH", help="Delete this file.")
@json_option
@click.pass_obj
@report_errors
def remove(project: str | None, name: str, file: str | None, as_json: bool) -> None:
    """Delete a secret from where the settings say, else from the OS keyring."""
    settings = _settings(project)
    target = _target(name, file, settings)
    if not target.delete():
        raise ContentNotFound(
            f"{name} isn't in {target.place}.", "`chora secrets check` tells where it is.", secret=name
        )
    if as_json:
        print_json({"success": True, "name": name, "deleted": target.place})
    else:
        echo(f"{name} is deleted from {target.place}.")


def _settings(project: str | None) -> Settings:
    """The settings of the project; without a project the defaults, because secrets may be kept before there is one."""
    try:
        return load_settings(project)[1].settings
    except ProjectNotFound:
        if project is not None:
            raise
        return Settings()


# -- where a secret is kept -------------------------------------------------------------------------------------


class _Target(NamedTuple):
    """Where a secret is kept: in the keyring under a name, or in a file."""

    entry: str
    file: Path | None

    @property
    def place(self) -> str:
        return f"the OS keyring ({os_keyring.SERVICE}, {self.entry})" if self.file is None else str(self.file)

    def write(self, value: str) -> None:
        try:
            if self.file is None:
                os_keyring.write_entry(self.entry, value)
            else:
                replace_file(self.file, [value.encode() + b"\n"])
        except os_keyring.KeyringFailed as error:
            raise _keyring_error(error) from None
        except OSError as error:
            raise _file_error(self.file, "written", error) from None

    def delete(self) -> bool:
        try:
            if self.file is None:
                return os_keyring.delete_entry(self.entry)
            if not os.path.lexists(self.file):
                return False
            delete_file(self.file, durably=True)
        except os_keyring.KeyringFailed as error:
            raise _keyring_error(error) from None
        except OSError as error:
            raise _file_error(self.file, "deleted", error) from None
        return True


def _target(name: str, file: str | None, settings: Settings) -> _Target:
    known = _find_known(name)
    entry = known.name.lower() if known else name
    if not _ENTRY.fullmatch(entry):
        raise InvalidInput(
            f"{name[:80]!r} is no name of a secret.",
            "Use letters, digits, dots, hyphens and underscores.",
            field="name",
        )
    if file is not None:
        return _Target(entry, Path(os.path.abspath(file)))  # noqa: PTH100 (links are refused, not followed)
    kind, _, rest = (reference_of(known, settings) if known else "").partition(":")
    match kind:
        case "file":
            return _Target(entry, Path(os.path.abspath(rest)))  # noqa: PTH100
        case "keyring":
            return _Target(rest, None)
        case "env":
            assert known is not None
            raise UsageError(
                f"{known.setting} says that {known.name} is in the environment variable {rest}, which lasts no longer "
                "than its process.",
                f"Take {known.setting} out of the settings, or name a file with --file.",
            )
        case _:
            return _Target(entry, None)


def _notes(name: str, known: KnownSecret | None, target: _Target, settings: Settings) -> list[str]:
    """What is still to be done, so that a secret which was kept is also found."""
    reference = f"file:{target.file}" if target.file else f"keyring:{target.entry}"
    if known is None:
        near = find_nearest(name.upper(), [each.name for each in KNOWN_SECRETS], 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        return [f"chora doesn't look for {name} by itself: refer to it as {reference}.{meant}"]
    report = examine_secret(known, settings)
    if report.error is not None:
        return [f"It can't be used: {report.error}"]
    used = report.found or "nowhere"
    is_found = used in ("keyring" if target.file is None else f"file {target.file}", reference_of(known, settings))
    if is_found:
        return ["Servers that run use it after SIGHUP (systemctl reload)."] if known is TOKEN else []
    if target.file is not None:
        section, _, key = known.setting.partition(".")
        now = f" Now it is found in {used}." if report.found else ""
        return [
            f'To have it found there, write `{key} = "{reference}"` below [{section}] in chora.toml, or set '
            f"{known.name}_FILE={target.file}.{now}"
        ]
    return [f"It isn't used: {used} comes before the keyring."]


def _keyring_error(error: os_keyring.KeyringFailed) -> UsageError:
    remedy = "Keep" if error.is_absent else "Unlock it, or keep"
    return UsageError(f"The OS keyring can't be used: {error.reason}.", f"{remedy} the secret in a file: --file PATH.")


def _file_error(path: Path | None, what: str, error: OSError) -> UsageError:
    return UsageError(f"{path} couldn't be {what}: {why_unreadable(error)}.", "Choose another file.", file=str(path))


# -- names and values -------------------------------------------------------------------------------------------


def _find_known(name: str) -> KnownSecret | None:
    return next((known for known in KNOWN_SECRETS if known.name == name.upper()), None)


def _known(name: str) -> KnownSecret:
    if (known := _find_known(name)) is not None:
        return known
    names = [each.name for each in KNOWN_SECRETS]
    near = find_nearest(name.upper(), names, 1)
    raise InvalidInput(
        f"chora looks for no secret {name[:80]!r}.",
        f"Did you mean {near[0]}?" if near else f"It looks for {', '.join(names)}.",
        field="name",
        allowed=names,
    )


def _read_value(name: str) -> str:
    """The secret, typed or from stdin, never from the command line, which other users can see."""
    if sys.stdin.isatty():
        value = click.prompt(name, hide_input=True, confirmation_prompt=True, err=True, default="", show_default=False)
    else:
        data = sys.stdin.buffer.read(SECRET_LIMIT + 1)
        if len(data) > SECRET_LIMIT:
            raise InvalidInput(f"The secret is larger than {SECRET_LIMIT:,} bytes.", field="stdin")
        try:
            value = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidInput(
                "The secret is no UTF-8 text.", "Encode what is binary, as base64.", field="stdin"
            ) from None
    value = value.strip()
    if not value:
        raise InvalidInput("The secret is empty.", "Type it, or write it to stdin.", field="stdin")
    return value


def _check_new_token(value: str) -> None:
    from chora.access import TOKEN_LENGTH_MINIMUM

    check_token(value, "The access token")
    if len(value) < TOKEN_LENGTH_MINIMUM:
        raise UsageError(
            f"The access token is shorter than {TOKEN_LENGTH_MINIMUM} characters and could be guessed.",
            "`chora token new` makes one that can't; or take one from a password manager.",
        )


# -- printing ---------------------------------------------------------------------------------------------------


def _facts(report: SecretReport) -> dict[str, object]:
    return msgspec.to_builtins(report)


def _print_report(report: SecretReport) -> None:
    found = report.error or (f"found in {report.found}" if report.found else "not found")
    echo(f"{report.name}: {found}", fg="red" if report.error else None)
    rows = [
        (each.state, each.place, each.permissions or "-", each.modified or "-", each.problem or "-")
        for each in report.places
    ]
    print_table(("State", "Place", "Permissions", "Modified", "Problem"), rows)
