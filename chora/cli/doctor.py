"""`chora doctor`: what is wrong with a project, and how to fix it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec import Struct

from chora.cli.run import json_option, load_settings, print_json, report_errors, run_async
from chora.cli.terminal import echo
from chora.errors import ChoraError, StorageError
from chora.project import locate

if TYPE_CHECKING:
    from chora.settings import Settings
    from chora.store.repair import DatabaseCondition, RepairResult


ORPHANS_SHOWN = 5


class DoctorStep(Struct, frozen=True):
    """The result of one check, and how to fix what is wrong."""

    name: str
    ok: bool
    reason: str
    remedy: str | None = None
    warning: bool = False
    """Whether the remedy should be considered although nothing is wrong."""


@dataclass
class Diagnosis:
    """The project that the steps check; what several of them need is read once."""

    root: Path
    settings: Settings

    @property
    def place(self) -> Path | None:
        """The database or folder of the store; None in memory."""
        storage = self.settings.storage
        places = {"sqlite": storage.path, "filesystem": storage.folder}
        return locate(self.root, places[storage.backend]) if storage.backend in places else None

    @cached_property
    def database(self) -> DatabaseCondition | None:
        """The condition of the database; None for other backends."""
        from chora.store import store_presence
        from chora.store.repair import DatabaseCondition, examine_database

        storage = self.settings.storage
        if storage.backend != "sqlite":
            return None
        condition = examine_database(locate(self.root, storage.path))
        if condition.kind == "missing" and (presence := store_presence(self.root, storage)) is not None:
            try:
                presence.check()
            except StorageError as error:
                return DatabaseCondition("gone", error.message, error.hint)
        return condition


def check_store_access(diagnosis: Diagnosis) -> DoctorStep:
    """Whether the store may be read and written."""
    name = "store access"
    if diagnosis.place is None:
        return DoctorStep(name, True, "Nothing is stored beyond a process: storage.backend is memory.")
    place = diagnosis.place
    while not os.path.lexists(place):
        place = place.parent
    for each in dict.fromkeys((place, place if place.is_dir() else place.parent)):
        wanted = os.R_OK | os.W_OK | (os.X_OK if each.is_dir() else 0)
        if not os.access(each, wanted):
            remedy = "Check its owner and permissions, and whether its disk is read-only."
            return DoctorStep(name, False, f"{each} may not be read and written.", remedy)
    return DoctorStep(name, True, f"{diagnosis.place} may be read and written.")


def check_store_space(diagnosis: Diagnosis) -> DoctorStep:
    """Whether the disk has room."""
    from chora.disk import check_free_space

    try:
        check_free_space(
            diagnosis.place.parent if diagnosis.place and diagnosis.place.parent.is_dir() else diagnosis.root
        )
    except StorageError as error:
        return DoctorStep("store space", False, error.message, error.hint)
    return DoctorStep("store space", True, "The disk has free space.")


def check_store_content(diagnosis: Diagnosis) -> DoctorStep:
    """Whether every record in the store can be read."""
    name = "store content"
    if (condition := diagnosis.database) is not None:
        return DoctorStep(name, condition.kind in ("whole", "missing"), condition.reason, condition.remedy)
    from chora.store import open_existing_store

    try:
        store = open_existing_store(diagnosis.root, diagnosis.settings.storage)
        counts = store.counts()
        store.close()
    except StorageError as error:
        return DoctorStep(name, False, error.message, error.hint)
    return DoctorStep(name, True, f"{sum(counts.values()):,} records can be read.")


def check_store_leftovers(diagnosis: Diagnosis) -> DoctorStep:
    """Whether the WAL holds changes: a process has the database open, or was killed; neither is wrong."""
    from chora.store import store_users
    from chora.store.database import has_wal
    from chora.store.wal import count_lost_pages

    name = "store leftovers"
    if diagnosis.database is None or diagnosis.place is None or not has_wal(diagnosis.place):
        return DoctorStep(name, True, "Nothing was left unfinished.")
    if lost := count_lost_pages(diagnosis.place):
        reason = f"{lost:,} pages in {diagnosis.place}-wal follow a damaged one and are ignored."
        return DoctorStep(name, False, reason, "Their changes are lost; restore a backup if anything is missing.")
    users = store_users(diagnosis.root, diagnosis.settings.storage)
    named = ", ".join(map(str, users.find())) if users else ""
    why = f"{named} has the database open" if named else "a process was killed"
    return DoctorStep(name, True, f"{diagnosis.place}-wal holds changes: {why}; never delete it.")


def check_outputs(diagnosis: Diagnosis) -> DoctorStep:
    """Whether there are outputs that nothing writes any more."""
    from chora.engine.engine import open_engine
    from chora.engine.orphans import Orphan, find_orphans

    async def find() -> list[Orphan]:
        async with open_engine(diagnosis.root, diagnosis.settings, reading=True) as engine:
            return await find_orphans(engine)

    name = "outputs"
    condition, place = diagnosis.database, diagnosis.place
    if (condition is not None and condition.kind != "whole") or place is None or not os.path.lexists(place):
        return DoctorStep(name, True, "Which files chora wrote isn't known.")
    try:
        orphans = run_async(find)
    except ChoraError as error:
        return DoctorStep(name, True, f"Which files chora wrote isn't known: {error.message}")
    if not orphans:
        return DoctorStep(name, True, "Every file that chora wrote is still written by something.")
    paths = ", ".join(orphan.path for orphan in orphans[:ORPHANS_SHOWN])
    more = f" and {len(orphans) - ORPHANS_SHOWN:,} more" if len(orphans) > ORPHANS_SHOWN else ""
    reason = f"Nothing writes {paths}{more} any more."
    remedy = "`chora gc --outputs --plan` says why, and without --plan deletes those that weren't edited."
    return DoctorStep(name, True, reason, remedy, warning=True)


def check_http_access(diagnosis: Diagnosis) -> DoctorStep:
    """Who could use a server of this project over HTTP, by the rules that it starts with."""
    from chora.access import Authenticator, Tokens
    from chora.errors import UsageError
    from chora.project import tokens_folder
    from chora.secrets import find_token
    from chora.transport.listener import check_tls

    name, http = "http access", diagnosis.settings.http
    tokens = Tokens(tokens_folder(diagnosis.root))
    try:
        check_tls(http)
        found = find_token(reference=http.token, fail_closed=True)
        authenticator = Authenticator(
            http.host,
            found.secret if found else None,
            tokens,
            trusted_proxies=http.trusted_proxies,
            has_issuer=bool(diagnosis.settings.oauth.issuer),
        )
    except UsageError as error:
        remedy = error.hint or "Change [http] in chora.toml, or put right what it names."
        return DoctorStep(name, False, error.message, remedy)
    if authenticator.requires_token:
        return DoctorStep(name, True, "Every request to `chora serve` needs a token, but for /health and /ready.")
    reason = "`chora serve` needs no token: every program and user of this machine may do everything over HTTP"
    if http.trusted_proxies:
        return DoctorStep(name, True, f"{reason}; clients of trusted proxies need one.")
    return DoctorStep(
        name,
        True,
        f"{reason}, and so may all clients of a reverse proxy that adds no header of its own.",
        "With a proxy in front, make a token with `chora token new NAME`, or name the proxy in http.trusted_proxies.",
        warning=True,
    )


STEPS: tuple[Callable[[Diagnosis], DoctorStep], ...] = (
    check_store_access,
    check_store_space,
    check_store_content,
    check_store_leftovers,
    check_outputs,
    check_http_access,
)
"""The checks, in this order."""


@click.command("doctor")
@click.option("--repair", "repairing", is_flag=True, help="Replace a damaged or altered database by what can be read.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, repairing: bool, as_json: bool) -> None:
    """Check the project, and print what to do about each problem.

    Without --repair nothing is changed. With it, a database that is damaged, or whose schema isn't chora's, is replaced
    by a new one with everything that can be read of it, and kept under a dated name; a newer one, and one of another
    program, is never changed.
    """
    from chora.store import store_users
    from chora.store.repair import REPAIRABLE, describe_salvage, repair_database

    root, loaded = load_settings(project)
    diagnosis = Diagnosis(root, loaded.settings)
    repaired: RepairResult | None = None
    if repairing and diagnosis.database is not None and diagnosis.database.kind in REPAIRABLE:
        storage = loaded.settings.storage
        repaired = repair_database(locate(root, storage.path), store_users(root, storage))
        diagnosis = Diagnosis(root, loaded.settings)
    steps = [check(diagnosis) for check in STEPS]
    if as_json:
        answer: dict[str, Any] = {"success": all(step.ok for step in steps), "steps": msgspec.to_builtins(steps)}
        if repaired is not None:
            facts = {"saved": repaired.saved.saved, "lost": repaired.saved.lost, "replaced": str(repaired.replaced)}
            answer["repaired"] = facts
        print_json(answer)
    else:
        if repaired is not None:
            echo(f"repaired: saved {describe_salvage(repaired.saved)}; the damaged one is {repaired.replaced}")
        for step in steps:
            result = "warn" if step.ok and step.warning else "ok" if step.ok else "FAILED"
            echo(f"{result:6} {step.name}: {step.reason}", fg={"FAILED": "red", "warn": "yellow"}.get(result))
            if step.remedy and (step.warning or not step.ok):
                echo(f"       {step.remedy}")
    if not all(step.ok for step in steps):
        sys.exit(1)
