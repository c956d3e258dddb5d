"""People's edits of outputs: which there are, what they changed, and how each is settled.

An accepted edit stays as it is, whatever `output.on_edit` says, and a later change of the text is merged with it. What
is accepted is the file as it is: a further edit is a new one. A deletion is an edit, too: builds write the file again,
as those of every build system do, unless the deletion was accepted.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
import trio
from msgspec import Struct

from chora.disk import replace_file
from chora.engine import merging
from chora.engine.building.artifact import build_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.engine import Engine
from chora.engine.orphans import find_reason
from chora.engine.outputs import OUTPUT_LIMIT, accept_edit, is_accepted, is_as_written, is_deleted
from chora.errors import ChoraError, ContentNotFound, LimitExceeded, OutputEdited, WriteFailed, io_details
from chora.hashing import sha256
from chora.nofollow import open_folder
from chora.store import Output
from chora.timestamps import now

State = Literal["edited", "conflicts", "deleted", "accepted"]

DISCARDED = ".chora/discarded"
"""Where edits that were discarded are kept."""
KEPT = 50
"""Discarded edits that are kept; the oldest are deleted."""

_UNSAFE = re.compile(r"[^\w.-]+")


class Edit(Struct, frozen=True, kw_only=True):
    """A file that a person edited or deleted after chora wrote it."""

    path: str
    artifact_id: str
    state: State
    changes: str
    """Lines added, removed and changed, such as `+1 -0 ~2`; empty if what chora wrote isn't known any more."""
    written_at: str
    """When chora wrote it."""
    deleted: bool = False
    """Whether the file isn't there."""


class _Found(NamedTuple):
    known: Output
    current: bytes | None
    """None if it was deleted."""
    edit: Edit


async def list_edits(engine: Engine) -> list[Edit]:
    """Every edit, by path."""
    edits: list[Edit] = []
    for known in engine.store.outputs():
        await trio.lowlevel.checkpoint()
        if (found := _find(engine, known)) is not None:
            edits.append(found.edit)
    return edits


async def show(engine: Engine, path: str) -> tuple[Edit, str]:
    """An edit, and what a person changed as a unified diff; raises as `accept`."""
    found = _open(engine, path)
    if found.known.base is None:
        return found.edit, "(what chora wrote isn't known any more)"
    sides = (found.known.base.encode(), found.current or b"", ("written", "on disk"))
    return found.edit, await trio.to_thread.run_sync(merging.diff, found.known.path, *sides)


def accept(engine: Engine, path: str) -> Edit:
    """Keep an edit as it is; a later change of the text is merged with it. A deleted file isn't written any more.

    Raises:
        ContentNotFound: the file has no edit.
        OutputEdited: it can't be accepted: conflicts are marked in it, or what chora wrote isn't known any more.
    """
    found = _open(engine, path)
    if found.edit.state == "conflicts":
        raise OutputEdited(
            f"{found.known.path} holds conflicts.",
            "Settle them in the file: keep one side of each and remove the marks, then accept it.",
            output_path=found.known.path,
        )
    if found.known.base is None and found.current is not None:
        raise OutputEdited(
            f"What chora wrote to {found.known.path} isn't known any more, so later changes couldn't be merged.",
            "Copy the change into the config, then discard the edit.",
            output_path=found.known.path,
        )
    accept_edit(engine, found.known, found.current)
    return msgspec.structs.replace(found.edit, state="accepted")


async def merge(engine: Engine, path: str) -> tuple[Edit, list[str] | None]:
    """Accept an edit, and merge the text as it is now with it.

    Returns:
        The edit, and the files in which conflicts are marked; None for a file that only a collection writes: its next
        build merges it.

    Raises:
        ChoraError: as `accept`, or as the artifact's build.
        OutputEdited: the file was deleted.
    """
    if (found := _open(engine, path)).current is None:
        raise OutputEdited(
            f"{found.known.path} was deleted: there is nothing to merge.",
            "Accept the deletion, or discard it to have the file again.",
            output_path=found.known.path,
        )
    edit = accept(engine, path)
    parsed = engine.catalog.find_config("artifact", edit.artifact_id).parsed
    if edit.path not in [engine.folder.relative(each.file) for each in parsed.config.metadata.outputs]:
        return edit, None
    built = await build_artifact(Build(engine), parsed, CallerContext({}))
    return edit, built.conflicts


class Discarded(NamedTuple):
    """An edit that was discarded."""

    edit: Edit
    kept: str | None
    """Where the edited file is kept; None for a deletion."""
    is_restored: bool
    """Whether the file holds what chora wrote; otherwise the next build writes it."""


async def discard(engine: Engine, path: str) -> Discarded:
    """Put what chora wrote in place of an edit or a deleted file.

    Raises:
        ContentNotFound: the file has no edit.
        WriteFailed: the disk refused; nothing has changed.
    """
    async with engine.write_locks(path), engine.process_locks(path):
        found = _open(engine, path)
        known = found.known
        kept = None if found.current is None else _keep(engine, known.path, found.current)
        written = known.base.encode() if known.base is not None else b""
        is_restored = known.base is not None and sha256(written) in (known.sha256, known.pending)
        if is_restored:
            try:
                await engine.folder.write_file(known.path, written)
            except OSError as error:
                raise WriteFailed(
                    f"{known.path} couldn't be written: {error.strerror}; it is as you left it.",
                    "Check disk space and permissions, then call again.",
                    **io_details(error, output_path=known.path),
                ) from error
        if found.current is None:  # another time of writing: what was accepted doesn't hold any more
            record = msgspec.structs.replace(known, written_at=now())
            await engine.store.save_outputs([record])
        elif not is_restored:  # the next build replaces it
            record = msgspec.structs.replace(
                known, sha256=sha256(found.current), pending=None, size=len(found.current), written_at=now()
            )
            await engine.store.save_outputs([record])
    return Discarded(found.edit, kept, is_restored)


def _find(engine: Engine, known: Output) -> _Found | None:
    """The edit of a file, if there is one."""
    try:
        current = engine.folder.read_bytes(known.path, limit=OUTPUT_LIMIT)
    except FileNotFoundError:
        current = None
    except (OSError, LimitExceeded):
        return None
    text = "" if current is None else current.decode(errors="replace")
    if current is None:
        if not is_deleted(known) or not _is_still_written(engine, known):
            return None
        state: State = "deleted"
    elif merging.has_conflicts(text):
        state = "conflicts"
    elif is_as_written(known, current):
        return None
    else:
        state = "edited"
    if state != "conflicts" and is_accepted(engine, known, current):
        state = "accepted"
    changes = "" if known.base is None else merging.count_changes(known.base, text).summary
    edit = Edit(
        path=known.path,
        artifact_id=known.artifact_id,
        state=state,
        changes=changes,
        written_at=known.written_at,
        deleted=current is None,
    )
    return _Found(known, current, edit)


def _is_still_written(engine: Engine, known: Output) -> bool:
    """Whether a build would write a file: deleting an orphan is no edit."""
    try:
        return find_reason(engine, known) is None
    except ChoraError:  # a config that can't be read
        return True


def _open(engine: Engine, path: str) -> _Found:
    relative = engine.folder.relative(path)
    known = engine.store.output(relative)
    found = None if known is None else _find(engine, known)
    if found is None:
        reason = "chora didn't write it" if known is None else "it is as chora wrote it, or nothing writes it any more"
        raise ContentNotFound(
            f"{relative} has no edit: {reason}.",
            "`chora edits` lists the files that were edited or deleted.",
            output_path=relative,
        )
    return found


def _keep(engine: Engine, path: str, data: bytes) -> str:
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{_UNSAFE.sub('-', path)[-150:]}"
    folder = engine.folder.root / DISCARDED
    with open_folder(folder, make=True) as opened:
        for old in sorted(opened.names())[: -KEPT + 1]:
            opened.delete_file(old)
    replace_file(folder / name, [data])
    return f"{DISCARDED}/{name}"
