"""`chora doctor`: what is wrong with a project, and what can be done about it."""

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

from chora.cli.run import json_option, opened_settings, print_json, reporting
from chora.errors import StorageError

if TYPE_CHECKING:
    from chora.settings import Settings
    from chora.store.repair import DatabaseCondition, RepairResult


class DoctorStep(Struct, frozen=True):
    """One thing that was looked at: how it is, and what to do if it isn't as it should be."""

    name: str
    ok: bool
    reason: str
    remedy: str | None = None


@dataclass
class Case:
    """What the steps look at, each thing once."""

    root: Path
    settings: Settings

    @property
    def place(self) -> Path | None:
        """The database, or the folder, that things are remembered in; None for memory."""
        storage = self.settings.storage
        return {"sqlite": self.root / storage.path, "filesystem": self.root / storage.folder}.get(storage.backend)

    @cached_property
    def database(self) -> DatabaseCondition | None:
        """How the database is; None where there is none."""
        from chora.store.repair import examine_database

        return (
            examine_database(self.root / self.settings.storage.path)
            if self.settings.storage.backend == "sqlite"
            else None
        )


def look_at_access(case: Case) -> DoctorStep:
    """Whether the store may be read and written."""
    name = "store access"
    if case.place is None:
        return DoctorStep(name, True, "Nothing is remembered beyond a process: storage.backend is memory.")
    place = case.place
    while not os.path.lexists(place):
        place = place.parent
    for each in dict.fromkeys((place, place if place.is_dir() else place.parent)):
        wanted = os.R_OK | os.W_OK | (os.X_OK if each.is_dir() else 0)
        if not os.access(each, wanted):
            remedy = "Check its owner and permissions, and whether its disk is read-only."
            return DoctorStep(name, False, f"{each} may not be read and written.", remedy)
    return DoctorStep(name, True, f"{case.place} may be read and written.")


def look_at_room(case: Case) -> DoctorStep:
    """Whether the disk has room."""
    from chora.disk import check_free_space

    try:
        check_free_space(case.place.parent if case.place and case.place.parent.is_dir() else case.root)
    except StorageError as error:
        return DoctorStep("store room", False, error.message, error.hint)
    return DoctorStep("store room", True, "The disk has room.")


def look_at_content(case: Case) -> DoctorStep:
    """Whether everything that is remembered can be read."""
    name = "store content"
    if (condition := case.database) is not None:
        return DoctorStep(name, condition.kind in ("whole", "missing"), condition.reason, condition.remedy)
    from chora.store import open_existing_store

    try:
        store = open_existing_store(case.root, case.settings.storage)
        counts = store.counts()
        store.close()
    except StorageError as error:
        return DoctorStep(name, False, error.message, error.hint)
    return DoctorStep(name, True, f"{sum(counts.values()):,} records can be read.")


def look_at_leftovers(case: Case) -> DoctorStep:
    """Whether a process has it open, or was ended in the middle; neither is wrong."""
    from chora.store.database import has_wal
    from chora.store.repair import count_lost_pages

    name = "store leftovers"
    if case.database is None or case.place is None or not has_wal(case.place):
        return DoctorStep(name, True, "Nothing was left unfinished.")
    if lost := count_lost_pages(case.place):
        reason = f"{lost:,} pages in {case.place}-wal lie behind a damaged one, and aren't read any more."
        return DoctorStep(name, False, reason, "What they held is lost; restore a backup if anything is missing.")
    reason = f"Changes wait in {case.place}-wal: a process has it open, or was ended; they count, so never remove it."
    return DoctorStep(name, True, reason)


STEPS: tuple[Callable[[Case], DoctorStep], ...] = (look_at_access, look_at_room, look_at_content, look_at_leftovers)
"""What is looked at, in this order."""


@click.command("doctor")
@click.option("--repair", "repairing", is_flag=True, help="Put what can be read of a damaged database in its place.")
@json_option
@click.pass_obj
@reporting
def command(project: str | None, repairing: bool, as_json: bool) -> None:
    """Look whether everything is as it should be, and say what to do where it isn't.

    Without --repair nothing is changed. With it, a damaged database is replaced by a whole one with everything that
    can be read of it, and kept under a dated name; a newer one, and one of another program, is never touched.
    """
    from chora.store.repair import describe_salvage, repair_database

    root, loaded = opened_settings(project)
    case = Case(root, loaded.settings)
    repaired: RepairResult | None = None
    if repairing and case.database is not None and case.database.kind == "damaged":
        repaired = repair_database(root / loaded.settings.storage.path)
        case = Case(root, loaded.settings)
    steps = [look(case) for look in STEPS]
    if as_json:
        answer: dict[str, Any] = {"success": all(step.ok for step in steps), "steps": msgspec.to_builtins(steps)}
        if repaired is not None:
            facts = {"saved": repaired.saved.saved, "lost": repaired.saved.lost, "replaced": str(repaired.replaced)}
            answer["repaired"] = facts
        print_json(answer)
    else:
        if repaired is not None:
            click.echo(f"repaired: saved {describe_salvage(repaired.saved)}; the damaged one is {repaired.replaced}")
        for step in steps:
            click.secho(f"{'ok' if step.ok else 'FAILED':6} {step.name}: {step.reason}", fg=None if step.ok else "red")
            if step.remedy and not step.ok:
                click.echo(f"       {step.remedy}")
    if not all(step.ok for step in steps):
        sys.exit(1)
