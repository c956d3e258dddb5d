"""Orphans: outputs that nothing writes any more, because a member, the name of an output or a whole config is gone.

Each output is noted with what wrote it. It is an orphan once that surely wouldn't write it again: a file whose writer
can't be opened, or whose place was given by a caller or depends on a context, is none. Orphans are only reported;
`remove_orphans` deletes those that are still as written, and that no other config claims.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import msgspec
import trio
from msgspec import Struct

from chora.catalog import FoundConfig
from chora.engine.engine import Engine
from chora.engine.outputs import OUTPUT_LIMIT, is_as_written, is_template, same_file
from chora.engine.traces import TraceKey
from chora.errors import ChoraError, ConfigNotFound, LimitExceeded, WriteFailed, io_details
from chora.model import CollectionConfig, Member
from chora.nofollow import open_folder
from chora.store import Output

State = Literal["written", "edited"]

NESTING_LIMIT = 10
SHOWN = 20
"""Orphans that a result lists; it counts all."""


class OutputWriter(Struct, frozen=True):
    """What wrote an output: an artifact by itself, or a member of a collection."""

    kind: Literal["artifact", "collection"]
    id: str
    base: str = ""
    """Where the collection went."""
    members: tuple[str, ...] = ()
    """The member, below those of the collections that it is in."""
    is_given: bool = False
    """Whether a caller or a context decided where it goes."""


class Inventory(Struct, frozen=True):
    """The outputs of one writer in one place."""

    files: list[str]


class Orphan(Struct, frozen=True, kw_only=True):
    """An output that nothing writes any more."""

    path: str
    artifact_id: str
    reason: str
    state: State
    """`edited` ones are never deleted."""


class RemovedOrphans(NamedTuple):
    """What a clean-up deleted, or would, and what it left because it was edited."""

    deleted: list[Orphan]
    kept: list[Orphan]


# -- what wrote which file --------------------------------------------------------------------------------------


def note_writer(engine: Engine, path: str, writer: OutputWriter) -> None:
    """Remember what wrote a file."""
    if find_writer(engine, path) != writer:
        engine.traces.add_trace(_writer_key(path), {}, writer)


def find_writer(engine: Engine, path: str) -> OutputWriter | None:
    """What wrote a file; None if that isn't known."""
    known = engine.traces.find_trace(_writer_key(path), OutputWriter)
    return known.result if known else None


async def take_inventory(
    engine: Engine, writer: OutputWriter, claimed: Iterable[str], unknown: Container[str] = (), *, dry: bool
) -> list[Orphan]:
    """Compare what a writer has written in a place with what it writes now, and remember the latter.

    Args:
        engine: the project.
        writer: the artifact or the collection.
        claimed: the files that it writes now.
        unknown: members of which that isn't known: what they wrote before is still theirs.
        dry: remember nothing.
    """
    key = TraceKey(f"outputs:{writer.kind}:{writer.id}", writer.base)
    known = engine.traces.find_trace(key, Inventory)
    now = set(claimed)
    before = known.result.files if known else []
    if unknown:
        now.update(path for path in before if _outermost_member(engine, path) in unknown)
    gone = [path for path in before if path not in now]
    if not gone and len(before) == len(now):
        return []
    orphans: list[Orphan] = []
    for path in gone:
        await trio.lowlevel.checkpoint()
        if (orphan := _judge(engine, path)) is not None:
            orphans.append(orphan)
    if orphans:
        claims = await _collect_claims(engine)
        orphans = [orphan for orphan in orphans if not claims.has(orphan.path)]
    if not dry:
        left = [path for path in gone if engine.folder.is_file(path)]
        engine.traces.add_trace(key, {}, Inventory(sorted({*now, *left})))
        await forget_outputs(engine, [path for path in gone if path not in left])
    return orphans


def _outermost_member(engine: Engine, path: str) -> str:
    writer = find_writer(engine, path)
    return writer.members[0] if writer is not None and writer.members else ""


def _writer_key(path: str) -> TraceKey:
    return TraceKey(f"output:{path}", "writer")


# -- orphans ----------------------------------------------------------------------------------------------------


async def find_orphans(engine: Engine) -> list[Orphan]:
    """Every output of the project that nothing writes any more and that is still there, by path."""
    found: list[Orphan] = []
    claims: _Claims | None = None
    for known in engine.store.outputs():
        await trio.lowlevel.checkpoint()
        if (orphan := _judge(engine, known.path)) is not None:
            claims = claims or await _collect_claims(engine)
            if not claims.has(known.path):
                found.append(orphan)
    return found


async def remove_orphans(engine: Engine, *, dry_run: bool = False) -> RemovedOrphans:
    """Delete the orphans that are as chora wrote them, and the folders that this leaves empty.

    Raises:
        Busy: another process has been writing for too long.
        PermissionDenied: one lies where no output may be.
        WriteFailed: the disk refused; the rest stays.
    """
    orphans = await find_orphans(engine)
    deleted: list[Orphan] = []
    for orphan in orphans:
        if orphan.state == "edited":
            continue
        if not dry_run and not await _delete(engine, orphan.path):
            continue
        deleted.append(orphan)
    gone = {orphan.path for orphan in deleted}
    return RemovedOrphans(deleted, [orphan for orphan in orphans if orphan.path not in gone])


async def _delete(engine: Engine, path: str) -> bool:
    """Delete one file, unless it was edited by now."""
    async with engine.write_locks(path), engine.process_locks(path):
        known = engine.store.output(path)
        if known is None or _state(engine, known) != "written":
            return False
        real = engine.folder.check_writable(path)
        try:
            with open_folder(real.parent) as folder:
                folder.delete_file(real.name)
                folder.sync()
        except OSError as error:
            raise WriteFailed(
                f"{path} couldn't be deleted: {error.strerror}.",
                "Check the permissions of its folder, then call again.",
                **io_details(error, output_path=path),
            ) from error
        await forget_outputs(engine, [path])
        with suppress(OSError):  # it holds something else
            for _ in range(len(PurePosixPath(path).parts) - 2):
                real = real.parent
                with open_folder(real.parent) as above:
                    above.delete_folder(real.name)
        return True


async def forget_outputs(engine: Engine, paths: list[str]) -> None:
    """Forget that chora wrote files that are gone, so that they don't count as deleted by a person if they return."""
    known = [each for path in paths if (each := engine.store.output(path)) is not None and each.sha256 is not None]
    if known:
        await engine.store.save_outputs(
            [msgspec.structs.replace(each, sha256=None, pending=None, size=0, base=None) for each in known]
        )


def _judge(engine: Engine, path: str) -> Orphan | None:
    """The orphan that a file is, if it is one."""
    if (known := engine.store.output(path)) is None or (known.sha256 is None and known.pending is None):
        return None
    try:
        reason = find_reason(engine, known)
    except ChoraError:  # a config that can't be read may still write it
        return None
    if reason is None or (state := _state(engine, known)) is None:
        return None
    return Orphan(path=known.path, artifact_id=known.artifact_id, reason=reason, state=state)


def _state(engine: Engine, known: Output) -> State | None:
    """Whether a file is as it was written; None if it isn't there."""
    try:
        current = engine.folder.read_bytes(known.path, limit=OUTPUT_LIMIT)
    except FileNotFoundError:
        return None
    except (OSError, LimitExceeded):
        return "edited"
    return "written" if is_as_written(known, current) else "edited"


def find_reason(engine: Engine, known: Output) -> str | None:
    """Why nothing writes a file any more; None if something does, or nobody knows.

    Raises:
        ChoraError: a config can't be read.
    """
    writer = find_writer(engine, known.path)
    if writer is None or writer.kind == "artifact":
        try:
            artifact = engine.catalog.find_config("artifact", known.artifact_id).parsed.config
        except ConfigNotFound:
            return f"there is no artifact {known.artifact_id} any more"
        names = [output.file for output in artifact.metadata.outputs]
        if writer is None or writer.is_given or any(map(is_template, names)):
            return None
        is_named = same_file(known.path) in {same_file(engine.folder.relative(name)) for name in names}
        return None if is_named else f"{known.artifact_id} has no such output any more"
    try:
        collection = engine.catalog.find_config("collection", writer.id)
    except ConfigNotFound:
        return f"there is no collection {writer.id} any more"
    base = _fixed_base(engine, collection)
    if not writer.is_given and base is not None and base != writer.base:
        return f"{writer.id} goes to another folder now"
    return _find_reason_in(engine, collection, writer.base, writer.members, known.path)


def _find_reason_in(engine: Engine, found: FoundConfig, base: str, members: tuple[str, ...], path: str) -> str | None:
    from chora.engine.building.members import open_member, output_location  # it imports what writes outputs

    config: CollectionConfig = found.parsed.config
    member = next((each for each in config.members if each.id == members[0]), None)
    if member is None:
        return f"{config.id} has no member {members[0]} any more"
    if (member.type == "collection") is (len(members) == 1):
        return f"the member {member.id} of {config.id} is another one now"
    try:
        opened = open_member(engine, member)
    except ConfigNotFound:
        return f"there is no config of the member {member.id} of {config.id} any more"
    if len(members) > 1:
        inner = _nested_base(engine, config, base, member, opened)
        return None if inner is None else _find_reason_in(engine, opened, inner, members[1:], path)
    names = [output.file for output in opened.parsed.config.metadata.outputs]
    if any(map(is_template, names)):
        return None
    locate = output_location(config, base, member)
    is_named = same_file(path) in {same_file(engine.folder.relative(locate(name))) for name in names}
    return None if is_named else f"the member {member.id} of {config.id} has no such output any more"


def _nested_base(
    engine: Engine, config: CollectionConfig, base: str, member: Member, nested: FoundConfig
) -> str | None:
    """Where a nested collection goes; None if that depends on a context."""
    if config.output.structure != "custom":
        return str(PurePosixPath(base) / member.id)
    return _fixed_base(engine, nested)


def _fixed_base(engine: Engine, found: FoundConfig) -> str | None:
    """Where a collection goes by its config; None if that depends on a context."""
    from chora.engine.manifest import fixed_manifest_path

    path = fixed_manifest_path(engine, found.parsed.config)
    return None if path is None else str(PurePosixPath(path).parent)


# -- claims -----------------------------------------------------------------------------------------------------


class _Claims:
    """The files that the configs of a project write now, as far as their places are known without a context."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.forms: set[tuple[str, str]] = set()
        """How names begin and end that depend on a context."""

    def add(self, path: str) -> None:
        path = same_file(path)
        if "{" in path:
            self.forms.add((path[: path.index("{")], path[path.rfind("}") + 1 :]))
        else:
            self.files.add(path)

    def has(self, path: str) -> bool:
        path = same_file(path)
        return path in self.files or any(path.startswith(start) and path.endswith(end) for start, end in self.forms)


async def _collect_claims(engine: Engine) -> _Claims:
    from chora.engine.building.members import open_member, output_location

    claims = _Claims()
    for each in engine.catalog.list_configs("artifact").found:
        await trio.lowlevel.checkpoint()
        for output in each.parsed.config.metadata.outputs:
            with suppress(ChoraError):
                claims.add(output.file if is_template(output.file) else engine.folder.relative(output.file))

    async def claim_members(found: FoundConfig, base: str, depth: int) -> None:
        config: CollectionConfig = found.parsed.config
        for member in config.members:
            await trio.lowlevel.checkpoint()
            with suppress(ChoraError):
                opened = open_member(engine, member)
                if member.type == "collection":
                    inner = _nested_base(engine, config, base, member, opened)
                    if inner is not None and depth < NESTING_LIMIT:
                        await claim_members(opened, inner, depth + 1)
                    continue
                locate = output_location(config, base, member)
                for output in opened.parsed.config.metadata.outputs:
                    claims.add(locate(output.file))

    for each in engine.catalog.list_configs("collection").found:
        with suppress(ChoraError):
            await claim_members(each, _fixed_base(engine, each) or each.parsed.config.output.base_path, 1)
    return claims
