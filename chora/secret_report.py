"""What is known about the secrets without showing them: where each was looked for, and what that switches on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from msgspec import Struct

from chora.errors import UsageError
from chora.secrets import KnownSecret, Place, is_open_to_others, list_places
from chora.settings import Settings

PlaceState = Literal["used", "not used", "absent", "failed"]


class PlaceReport(Struct, frozen=True, kw_only=True):
    """One place where a secret was looked for."""

    place: str
    state: PlaceState
    """`not used` for one that has the secret too, behind the one that is used; `failed` if that can't be told."""
    problem: str | None
    permissions: str | None
    """Of a file, in octal digits."""
    modified: str | None
    """When the file was written."""


class SecretReport(Struct, frozen=True, kw_only=True):
    """One secret."""

    name: str
    setting: str
    purpose: str
    found: str | None
    """Where; None if it isn't anywhere, or if a place before the others can't be read."""
    error: str | None
    """Why it can't be used: a place can't be read that might have it."""
    places: list[PlaceReport]


def reference_of(known: KnownSecret, settings: Settings) -> str:
    """What the settings say about where a secret is; empty if nothing."""
    section, _, key = known.setting.partition(".")
    return getattr(getattr(settings, section), key)


def examine_secret(
    known: KnownSecret,
    settings: Settings,
    env: Mapping[str, str] | None = None,
    *,
    run_secrets: Path = Path("/run/secrets"),
) -> SecretReport:
    """Look into every place of a secret, as `find_secret` does, and beyond the first hit.

    It takes up to two seconds if the keyring doesn't answer.
    """
    found: str | None = None
    error: str | None = None
    reports: list[PlaceReport] = []
    reference = reference_of(known, settings)
    places = list_places(known.name, env, reference=reference, run_secrets=run_secrets, fail_closed=True, warn=False)
    for place in places:
        state, problem = _examine_place(place)
        is_passed_over = place.origin == "keyring" and not known.fail_closed
        if state == "failed" and found is None and error is None and not is_passed_over:
            error = problem
        if state == "used":
            if found is None and error is None:
                found = place.origin
            else:
                state = "not used"
        status = _status_of(place)
        if status is not None and problem is None and not place.is_managed and is_open_to_others(status):
            problem = "Other users may read it: run chmod 600 on it."
        reports.append(
            PlaceReport(
                place=place.origin,
                state=state,
                problem=problem,
                permissions=None if status is None else f"{status.st_mode & 0o7777:04o}",
                modified=None
                if status is None
                else datetime.fromtimestamp(int(status.st_mtime), UTC).isoformat().replace("+00:00", "Z"),
            )
        )
    return SecretReport(
        name=known.name, setting=known.setting, purpose=known.purpose, found=found, error=error, places=reports
    )


def describe_secret(known: KnownSecret, report: SecretReport) -> str:
    """A line for the log: where a secret was found, and what that switches on."""
    line = f"secret {known.name}: "
    if report.error is not None:
        return f"{line}can't be read: {report.error} {_capitalized(known.purpose)}: off"
    if report.found is None:
        failed = [each.problem for each in report.places if each.state == "failed"]
        return "; ".join([f"{line}not found", *(each.rstrip(".") for each in failed if each), f"{known.purpose}: off"])
    problems = [each.problem.rstrip(".") for each in report.places if each.state == "used" and each.problem]
    found = "; ".join([f"{line}found ({report.found})", *problems])
    if known.package and importlib.util.find_spec(known.package) is None:
        return f"{found}; {known.purpose}: off, the package {known.package} isn't installed"
    return f"{found}; {known.purpose}: on"


def _examine_place(place: Place) -> tuple[PlaceState, str | None]:
    try:
        value = place.read()
    except UsageError as error:
        return "failed", error.message
    return ("used" if value else "absent"), None


def _status_of(place: Place) -> os.stat_result | None:
    if place.path is None:
        return None
    try:
        return os.stat(place.path)  # noqa: PTH116 (as `find_secret` opens it)
    except OSError:
        return None


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
