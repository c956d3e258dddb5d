"""Output files: where they may be, the rule about edited ones, and writing them.

The edit rule: a file is replaced only if chora wrote what is in it. A file that holds other text is adopted if it is
the text that would be written, overwritten if its config declares it `generated`, and otherwise refused, merged or
overwritten as the setting `output.on_edit` says. `force` doesn't override an edit. A file that a person deleted is
written again, unless they accepted the deletion.

Before a write, the hash that the file will have is stored as pending; so after a crash between the two, the file is
still known as written by chora.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from contextlib import suppress
from typing import Literal, NamedTuple

from msgspec import Struct

from chora.engine import merging
from chora.engine.engine import Engine
from chora.engine.traces import TraceKey
from chora.errors import LimitExceeded, OutputEdited, PermissionDenied, WriteFailed, io_details
from chora.files import SOURCE_LIMIT
from chora.hashing import sha256
from chora.model import ArtifactOutput
from chora.store import Output
from chora.timestamps import now

Action = Literal["create", "update", "unchanged", "adopt", "merge", "overwrite", "refuse", "deleted"]

OUTPUT_LIMIT = 2 * SOURCE_LIMIT
"""Bytes that an output may have; chora can't have written a larger file."""


class OutputState(NamedTuple):
    """One output file: what it holds, what it should hold, and what to do about it."""

    path: str
    data: bytes
    encoding: str
    current: bytes | None
    """None if there is no file, or one so large that chora can't have written it."""
    known: Output | None
    action: Action
    final: bytes | None
    """What it will hold: `data`, the merge of that with a person's edit, or the edit, if it is left as it is; None if
    it stays deleted."""
    conflicts: int = 0
    generated: bool = False
    """Declared not to be edited."""

    @property
    def is_recorded(self) -> bool:
        """Whether the store has exactly what the file will hold."""
        return self.known is not None and not self.known.pending and self.known.sha256 == sha256(self.data)

    @property
    def is_written_again(self) -> bool:
        """Whether a person deleted it, and it is written nevertheless."""
        return self.action == "create" and self.known is not None and is_deleted(self.known)


class WrittenOutputs(NamedTuple):
    """The outputs of one artifact after writing them."""

    artifact_id: str
    outputs: list[OutputState]
    unchanged: bool
    """Whether every file held its text before."""
    written_at: str
    """When the first file got its text."""

    @property
    def warnings(self) -> list[str]:
        """What a person should know about the files that were there."""
        warnings: list[str] = []
        for output in self.outputs:
            if output.known and output.known.artifact_id != self.artifact_id:
                warnings.append(f"{output.path} was written by the artifact {output.known.artifact_id} before")
            if output.is_written_again:
                warnings.append(
                    f"{output.path} had been deleted and was written again; delete it once more and accept that with "
                    "`chora edits accept` to keep it deleted"
                )
            if output.action == "overwrite" and output.known:
                warnings.append(f"{output.path} was edited by hand; it was overwritten")
            if output.action == "merge":
                count = output.conflicts
                conflicts = f", with {count} conflict{'s' * (count > 1)} marked in it" if count else ""
                warnings.append(f"{output.path} was edited by hand; the edit was merged{conflicts}")
        return warnings

    @property
    def lasting_warnings(self) -> list[str]:
        """What holds for later builds too, as long as nothing changes."""
        return [
            f"{output.path} isn't written: its deletion was accepted; `chora edits discard` brings it back"
            for output in self.outputs
            if output.action == "deleted"
        ]


def check_output_path(engine: Engine, path: str) -> str:
    """The project-relative path of an output.

    Raises:
        PermissionDenied: it lies outside the output folders, among chora's own data, or would become a program.
    """
    return engine.folder.check_writable(path).relative_to(engine.folder.root).as_posix()


def is_template(name: str) -> bool:
    """Whether the name of an output has to be rendered."""
    return any(mark in name for mark in ("{{", "{%", "{#"))


def same_file(path: str) -> str:
    """What is equal for paths that are one file on some disks, where case or Unicode's composed forms don't count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def examine_output(engine: Engine, output: ArtifactOutput, data: bytes) -> OutputState:
    """Read the file that a text is meant for, and decide what to do with it: the edit rule."""
    path = output.file
    current, exists = None, True
    try:
        current = engine.folder.read_bytes(path, limit=OUTPUT_LIMIT)
    except FileNotFoundError:
        exists = False
    except LimitExceeded:
        pass
    except PermissionDenied:
        if not os.path.isdir(engine.folder.root / path):  # noqa: PTH112
            raise
        raise _write_failed(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))) from None
    known = engine.store.output(path)
    state = OutputState(path, data, output.encoding, current, known, "refuse", data, generated=output.generated)
    if not exists:
        if known is not None and is_deleted(known) and is_accepted(engine, known, None):
            return state._replace(action="deleted", final=None)
        return state._replace(action="create")
    if current == data:
        return state._replace(action="unchanged" if state.is_recorded else "adopt")
    if known and current is not None and sha256(current) in (known.sha256, known.pending):
        return state._replace(action="update")
    if current is not None and (text := _plain_text(current, output.encoding)) is not None:
        # What a person's tools change of themselves is no edit; the file stays as they left it while the text does.
        if text == _plain_text(data, output.encoding):
            return state._replace(action="unchanged" if state.is_recorded else "adopt", final=current)
        if known and is_as_written(known, current, output.encoding):
            return state._replace(action="update")
    if output.generated:
        return state._replace(action="overwrite")
    # A person edited the file, or chora never wrote it.
    if known is not None and current is not None and is_accepted(engine, known, current):
        return _merge_edit(state, known, current)
    if known is None or current is None or engine.settings.output.on_edit == "refuse":
        return state
    if engine.settings.output.on_edit == "overwrite":
        return state._replace(action="overwrite")
    return _merge_edit(state, known, current)


def _write_failed(path: str, error: OSError) -> WriteFailed:
    details = io_details(error, output_path=path)
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        hint = "Move the file or folder away that is where the output or its folder should be, or rename the output."
        return WriteFailed(f"{path} couldn't be written: {error.strerror}.", hint, **details)
    return WriteFailed(
        f"{path} couldn't be written: {error.strerror}; it still holds its old text.",
        "Check disk space and permissions, then call again.",
        **details,
    )


class AcceptedEdit(Struct, frozen=True):
    """That a person accepted what a file holds, or that it is deleted."""

    at: str = ""


def _edit_key(known: Output, current: bytes | None) -> TraceKey:
    # The deletion of what was written at a time: once the file is written again, deleting it is another deletion.
    return TraceKey(f"edit:{known.path}", f"deleted:{known.written_at}" if current is None else sha256(current))


def accept_edit(engine: Engine, known: Output, current: bytes | None) -> None:
    """From now on leave what a file holds as it is, and merge changes of the text with it; None: leave it deleted."""
    engine.traces.add_trace(_edit_key(known, current), {}, AcceptedEdit(now()))


def is_accepted(engine: Engine, known: Output, current: bytes | None) -> bool:
    """Whether a person accepted what a file holds, or with None its deletion.

    One that is lost, as traces may be, is an edit or a deletion again.
    """
    return engine.traces.find_trace(_edit_key(known, current), AcceptedEdit) is not None


def is_deleted(known: Output) -> bool:
    """Whether a file that isn't there was deleted by a person: chora wrote it once, and didn't delete it itself."""
    return known.sha256 is not None


def is_as_written(known: Output, current: bytes, encoding: str = "utf-8") -> bool:
    """Whether a file holds what chora wrote, but for what a person's tools change of themselves."""
    written = {known.sha256, known.pending}
    if sha256(current) in written:
        return True
    with suppress(LookupError, ValueError):
        whole = current.decode(encoding).removeprefix("\ufeff")
        bare = whole.replace("\r\n", "\n")
        for text in dict.fromkeys((whole, bare)):
            end = "\r\n" if text is whole and "\r\n" in whole else "\n"
            for form in (text, text.rstrip() + end, text.rstrip()):
                if sha256(form.encode(encoding)) in written:
                    return True
    return False


def _plain_text(data: bytes, encoding: str) -> str | None:
    """A text without what editors and git change of themselves: a byte-order mark, CRLF, and whitespace at its end.

    None if it isn't of that encoding.
    """
    with suppress(LookupError, ValueError):
        return data.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n").rstrip()
    return None


def diff_output(state: OutputState) -> str:
    """What would be written over what is there, as a unified diff; empty if nothing would be.

    Of a file that is left alone because a person edited it: what chora would write instead.
    """
    new = state.data if state.action == "refuse" else state.final
    if new is None or state.action in ("unchanged", "adopt") or new == state.current:
        return ""
    return merging.diff(state.path, state.current or b"", new)


async def write_outputs(
    engine: Engine,
    artifact_id: str,
    outputs: list[ArtifactOutput],
    texts: list[bytes],
    fingerprint: str,
    *,
    force: bool,
) -> WrittenOutputs:
    """Write the outputs of an artifact: all of them or, if one may not be replaced, none.

    Args:
        engine: the project.
        artifact_id: the artifact.
        outputs: where the texts go, as checked by `check_output_path`.
        texts: what each output should hold.
        fingerprint: the hash of what the texts were made from, kept with them.
        force: whether unchanged files count as written now.

    Raises:
        OutputEdited: an output holds text that chora didn't write.
        WriteFailed: the disk refused; every file holds its old or its new text.
        Busy: another process has been writing for too long.
    """
    paths = [output.file for output in outputs]
    async with engine.write_locks(*paths), engine.process_locks(*paths):
        states = [examine_output(engine, output, text) for output, text in zip(outputs, texts, strict=True)]
        if refused := next((state for state in states if state.action == "refuse"), None):
            raise _refusal(engine, refused)
        unchanged = all(state.final == state.current for state in states)
        known = states[0].known
        is_old = unchanged and not force and known is not None and states[0].is_recorded
        written_at = known.written_at if is_old and known else now()
        await _write_changed(engine, artifact_id, states, fingerprint, written_at, force=force)
    return WrittenOutputs(artifact_id, states, unchanged, written_at)


def _merge_edit(state: OutputState, known: Output, current: bytes) -> OutputState:
    if known.base is None:
        return state
    with suppress(LookupError, ValueError):
        theirs = current.decode(state.encoding).removeprefix("\ufeff")
        if "\r\n" not in known.base:  # what tools change of themselves must not count as changed lines
            theirs = theirs.replace("\r\n", "\n")
        theirs = theirs.rstrip() + known.base[len(known.base.rstrip()) :]
        texts = (known.base, theirs, state.data.decode(state.encoding))
        if (merged := merging.merge_texts(*texts)) is not None:
            final = merged.text.encode(state.encoding)
            is_settled = final == current and not merged.conflicts and state.is_recorded
            action: Action = "unchanged" if is_settled else "merge"
            return state._replace(action=action, final=final, conflicts=merged.conflicts)
    return state


def _refusal(engine: Engine, state: OutputState) -> OutputEdited:
    reason = "was edited after chora wrote it" if state.known else "exists and was not written by chora"
    if state.known and engine.settings.output.on_edit == "merge":
        reason += ", and the edit can't be told apart from what was written"
    can_merge = state.known is not None and state.known.base is not None
    merge = "set [output] on_edit to merge, " if can_merge and engine.settings.output.on_edit == "refuse" else ""
    return OutputEdited(
        f"{state.path} {reason}; it is left as it is.",
        f"Move the file away, give another output_path, copy the change into its config, {merge}"
        "or declare the output `generated: true` if it isn't meant to be edited. `chora edits` accepts or discards an "
        "edit; `force` does not override one.",
        output_path=state.path,
        diff="(too large to compare)" if state.current is None else merging.diff(state.path, state.current, state.data),
    )


async def _write_changed(
    engine: Engine, artifact_id: str, states: list[OutputState], fingerprint: str, written_at: str, *, force: bool
) -> None:
    """Write the files that change, with a record in the store before and after."""

    def record(state: OutputState, *, written: bool) -> Output:
        # Before the write, what the file holds counts as written by chora: after a crash it holds either that or the
        # new text. A person's edit never counts as that; merging it again gives the same.
        current = None if state.current is None else sha256(state.current)
        before = state.known.sha256 if state.action == "merge" and state.known else current
        new = sha256(state.data)
        base = state.known.base if state.known and not written else _base_of(state)
        return Output(
            path=state.path,
            artifact_id=artifact_id,
            sha256=new if written else before,
            pending=None if written else new,
            fingerprint=fingerprint,
            size=len(state.data),
            written_at=written_at,
            base=base,
        )

    changed = [state for state in states if state.final != state.current]
    if changed:
        await engine.store.save_outputs([record(state, written=False) for state in changed])
    for state in changed:
        assert state.final is not None, "what stays deleted doesn't change"
        try:
            await engine.folder.write_file(state.path, state.final)
        except OSError as error:
            raise _write_failed(state.path, error) from error
    for state in states:  # what a merge makes of an accepted edit is accepted, too
        if state.action == "merge" and state.known is not None and is_accepted(engine, state.known, state.current):
            accept_edit(engine, state.known, state.final)
    # A file that held the text already, chora's or not, is chora's from now on, and a forced one counts as new.
    unrecorded = [
        state
        for state in states
        if state.final is not None and (force or state in changed or not (state.is_recorded and _has_base(state)))
    ]
    if unrecorded:
        await engine.store.save_outputs([record(state, written=True) for state in unrecorded])


def _base_of(state: OutputState) -> str | None:
    """The text that a later edit is merged with; None for what is never merged.

    It is kept whatever `on_edit` says: who sets it to merge does so because a file was edited already.
    """
    if state.generated or len(state.data) > merging.MERGE_LENGTH:
        return None
    return state.data.decode(state.encoding, "replace")


def _has_base(state: OutputState) -> bool:
    return state.known is not None and (state.known.base is not None or _base_of(state) is None)
