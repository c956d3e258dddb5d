"""Building an artifact: its children's texts in order, composed, and written to its files."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from chora.config_parsing import ParsedConfig
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.compose import compose
from chora.engine.building.encode import encode_text
from chora.engine.building.fingerprint import artifact_fingerprint
from chora.engine.building.key_parts import key_parts, name_changes
from chora.engine.building.output_names import render_output_names
from chora.engine.building.pieces import GatheredPieces, Piece, gather_pieces
from chora.engine.building.recall import confirm_inputs, explain_stale, keep_trace, recall_trace
from chora.engine.engine import Engine
from chora.engine.file_digests import ABSENT
from chora.engine.inputs import WRITTEN, InputRecorder
from chora.engine.orphans import Orphan, OutputWriter, note_writer, take_inventory
from chora.engine.outputs import (
    Action,
    OutputState,
    check_output_path,
    diff_output,
    examine_output,
    is_template,
    same_file,
    write_outputs,
)
from chora.engine.traces import TraceKey
from chora.errors import ChoraError, CompositionFailed, LimitExceeded
from chora.hashing import digest_of, sha256
from chora.llm import ModelNotAsked
from chora.model import ArtifactConfig, ArtifactOutput
from chora.render import CheckJob, RenderFailed
from chora.wording import quantity

Status = Literal["assembled", "reassembled", "skipped"]
CURRENT: frozenset[Action] = frozenset({"unchanged", "adopt", "deleted"})
"""Actions that leave a file as it is."""
Locate = Callable[[str], str]
"""Maps the file that a config names for an output to where it goes instead."""


class ArtifactTrace(Struct, frozen=True):
    """What a trace keeps of a built artifact."""

    outputs: list[str]
    size: int
    pieces: list[tuple[str, int, str | None]]
    """Content, bytes and version of each piece."""
    missing: list[str]
    excluded: list[str]
    warnings: list[str]
    generated_at: str
    fingerprint: str
    key_parts: dict[str, str] = {}
    """What the key was made of, to name what differs in another one."""
    through: dict[str, str] = {}
    """The contents through which inputs came that sources of its children read."""


class BuiltArtifact(NamedTuple):
    """An artifact on disk."""

    artifact_id: str
    outputs: list[str]
    size: int
    """Bytes of the first output."""
    status: Status
    pieces: GatheredPieces
    strategy: str
    generated_at: str
    """When its files got the text they have."""
    fingerprint: str
    inputs: dict[str, str]
    reproducible: bool = True
    """Whether the files would come out the same as long as the inputs do."""
    conflicts: list[str] = []  # noqa: RUF012 (never changed)
    """Files in which conflicts between an edit and the new text are marked."""
    orphans: list[Orphan] = []  # noqa: RUF012
    """Files that it wrote before under other names."""

    @property
    def output_path(self) -> str:
        """The first output."""
        return self.outputs[0]


class PlannedOutput(NamedTuple):
    """What a build would do to one file."""

    path: str
    action: Action
    reasons: list[str]
    diff: str
    size: int = 0
    """Bytes it will have."""
    conflicts: int = 0
    """Conflicts between an edit and the new text that will be marked in it."""

    @property
    def is_current(self) -> bool:
        """Whether the file holds already what it should, no matter which process wrote it."""
        return self.action in CURRENT


async def build_artifact(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    locate: Locate | None = None,
) -> BuiltArtifact:
    """Generate what is missing, compose the pieces and write every output; nothing of that if nothing has changed.

    Args:
        build: the build it is part of; `force` generates the children again, and leaves edited files alone.
        parsed: the artifact config.
        caller: the context for every child.
        output_path: replaces the first output's file.
        locate: maps every output's file to where it goes instead.

    Raises:
        MissingContent, GenerationFailed: a required child has no text.
        CompositionFailed: the pieces can't be composed.
        PermissionDenied: an output lies outside the folders that outputs may be written to.
        LimitExceeded: there is more text than an output may have.
        Busy, StorageError, StorageFailed: the server, not a child, is at fault.
        OutputEdited: an output holds text that chora didn't write.
        WriteFailed: the disk refused; every file holds its old or its new text.
    """
    config: ArtifactConfig = parsed.config
    key = _trace_key(build, parsed, caller, output_path, locate)
    started = time.monotonic()
    if not build.force and (known := await recall_trace(build, key, ArtifactTrace)):
        recalled = _from_trace(config, known.result, known.inputs)
        recalled = await _find_gone(build, parsed, recalled, output_path)
        _emit_event(build.engine, config, started, recalled, None)
        return recalled
    try:
        recorder = build.new_recorder()
        recorder.record(parsed.origin)
        outputs = await _locate_outputs(build.engine, config, caller, output_path, locate)
        pieces, texts = await _compose_texts(build, config, caller, outputs, recorder)
        parts = _key_parts(build, parsed, caller, output_path, locate)
        built = await _write_texts(build, key, parts, config, outputs, pieces, texts, recorder)
        for number, path in enumerate(built.outputs):  # a caller gives a place for the first one only
            note_writer(build.engine, path, _writer(build, config, None if number else output_path))
        built = await _find_gone(build, parsed, built, output_path)
    except ChoraError as error:
        _emit_event(build.engine, config, started, None, error)
        raise
    _emit_event(build.engine, config, started, built, None)
    return built


async def plan_artifact(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    locate: Locate | None = None,
) -> list[PlannedOutput]:
    """What `build_artifact` would do to each file and why, without doing it.

    Args:
        build: a dry build; everything else as for `build_artifact`.

    Raises:
        as `build_artifact`, except OutputEdited and WriteFailed.
    """
    engine = build.engine
    config: ArtifactConfig = parsed.config
    outputs = await _locate_outputs(engine, config, caller, output_path, locate)
    reasons = await explain_stale_artifact(build, parsed, caller, output_path=output_path, locate=locate)
    if not reasons and not build.force:
        return [_unchanged_output(engine, output) for output in outputs]
    try:
        _, texts = await _compose_texts(build, config, caller, outputs, build.new_recorder())
    except ModelNotAsked as error:
        cost = error.details["outlook"]["estimated_usd"]
        price = "an unknown amount" if cost is None else f"up to ${cost:.4f}"
        reasons = [*reasons, f"a language model would be called, for {price}"]
        actions: list[Action] = ["update" if engine.folder.is_file(output.file) else "create" for output in outputs]
        return [
            PlannedOutput(output.file, action, reasons, "") for output, action in zip(outputs, actions, strict=True)
        ]
    states = [examine_output(engine, output, text) for output, text in zip(outputs, texts, strict=True)]
    return [_plan_output(state, reasons) for state in states]


def _writer(build: Build, config: ArtifactConfig, output_path: str | None) -> OutputWriter:
    """What writes the outputs: the artifact by itself, or as the member of a collection that is being built."""
    is_given = output_path is not None or any(is_template(output.file) for output in config.metadata.outputs)
    return build.writer or OutputWriter("artifact", config.id, is_given=is_given)


async def _find_gone(
    build: Build, parsed: ParsedConfig, built: BuiltArtifact, output_path: str | None
) -> BuiltArtifact:
    """The result with the files of earlier builds that are orphans now; for a collection that is done at its end."""
    writer = _writer(build, parsed.config, output_path)
    if build.writer is not None or writer.is_given:
        return built
    return built._replace(orphans=await take_inventory(build.engine, writer, built.outputs, dry=False))


async def find_orphans_of(build: Build, parsed: ParsedConfig, outputs: list[str]) -> list[Orphan]:
    """The orphans that `build_artifact` would report, by the files that it would write."""
    writer = _writer(build, parsed.config, None)
    return [] if writer.is_given else await take_inventory(build.engine, writer, outputs, dry=True)


def _plan_output(state: OutputState, reasons: list[str]) -> PlannedOutput:
    if state.conflicts and state.final == state.current:
        verb = "is" if state.conflicts == 1 else "are"
        reasons = [f"{quantity(state.conflicts, 'conflict')} with an edit {verb} not settled"]
    return PlannedOutput(
        state.path, state.action, reasons, diff_output(state), len(state.final or b""), conflicts=state.conflicts
    )


async def compose_artifact(build: Build, parsed: ParsedConfig, caller: CallerContext) -> bytes:
    """What the first output would hold, composed in memory.

    Args:
        build: a dry build.
        parsed, caller: as for `build_artifact`.

    Raises:
        as `build_artifact`, except OutputEdited and WriteFailed.
    """
    config: ArtifactConfig = parsed.config
    outputs = list(config.metadata.outputs[:1])
    _, (text,) = await _compose_texts(build, config, caller, outputs, build.new_recorder())
    return text


async def explain_stale_artifact(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    locate: Locate | None = None,
) -> list[str]:
    """Why the artifact's files may differ from what a build would write now; empty if they surely don't."""
    config: ArtifactConfig = parsed.config
    parts = _key_parts(build, parsed, caller, output_path, locate)
    reasons = await explain_stale(
        build,
        _trace_key(build, parsed, caller, output_path, locate),
        ArtifactTrace,
        lambda latest: name_changes(latest.key_parts, parts, caller.shared),
    )
    if reasons is not None:
        return reasons
    if any(each.pending is None for each in build.engine.store.outputs_of(config.id)):
        return ["no trace of its inputs is left"]
    return ["it was never assembled"]


def _trace_key(
    build: Build, parsed: ParsedConfig, caller: CallerContext, output_path: str | None, locate: Locate | None
) -> TraceKey:
    paths = _paths(parsed, output_path, locate)
    return TraceKey(f"artifact:{parsed.origin}", digest_of([build.settings_digest, caller.digest, paths]))


def _key_parts(
    build: Build, parsed: ParsedConfig, caller: CallerContext, output_path: str | None, locate: Locate | None
) -> dict[str, str]:
    return key_parts(build, caller, _paths(parsed, output_path, locate))


def _paths(parsed: ParsedConfig, output_path: str | None, locate: Locate | None) -> list[str]:
    """Where the outputs go instead of where the config says."""
    files = [output.file for output in parsed.config.metadata.outputs]
    return [locate(file) for file in files] if locate else [output_path] if output_path else []


def _from_trace(config: ArtifactConfig, result: ArtifactTrace, inputs: dict[str, str]) -> BuiltArtifact:
    pieces = [Piece(content_id, "", False, version_id, size) for content_id, size, version_id in result.pieces]
    return BuiltArtifact(
        config.id,
        result.outputs,
        result.size,
        "skipped",
        GatheredPieces(pieces, list(result.missing), list(result.excluded), list(result.warnings)),
        config.metadata.composition_strategy,
        result.generated_at,
        result.fingerprint,
        inputs,
    )


async def _locate_outputs(
    engine: Engine, config: ArtifactConfig, caller: CallerContext, output_path: str | None, locate: Locate | None
) -> list[ArtifactOutput]:
    """The outputs with the checked, project-relative paths they go to.

    Raises:
        PermissionDenied: one lies outside the folders that outputs may be written to, or among chora's own data.
        CompositionFailed: two are the same file, also if only where case or Unicode's forms don't count, or a name
            can't be rendered.
    """
    names = await render_output_names(engine, config, caller, given_first=output_path is not None)
    wanted = [locate(name) if locate else name for name in names]
    if output_path is not None:
        wanted[0] = output_path
    paths = [check_output_path(engine, path) for path in wanted]
    files = [same_file(path) for path in paths]
    if duplicates := sorted({path for path, file in zip(paths, files, strict=True) if files.count(file) > 1}):
        what = "as output twice" if len(duplicates) == 1 else "as outputs, which are one file on some disks"
        raise CompositionFailed(
            f"{config.id} names {', '.join(duplicates)} {what}.",
            "Name each file once.",
            composition_strategy=config.metadata.composition_strategy,
            error_type="DuplicateOutput",
            output_path=duplicates[0],
        )
    return [
        msgspec.structs.replace(output, file=path) for output, path in zip(config.metadata.outputs, paths, strict=True)
    ]


async def _compose_texts(
    build: Build,
    config: ArtifactConfig,
    caller: CallerContext,
    outputs: list[ArtifactOutput],
    recorder: InputRecorder,
) -> tuple[GatheredPieces, list[bytes]]:
    """The pieces, and what each output should hold."""
    caller = caller.with_reserved(artifact_id=config.id)
    pieces = await gather_pieces(build, config, caller, recorder)
    text = await compose(build.engine, config, pieces, caller.all_names, recorder.record)
    if not pieces.pieces:
        pieces.warnings.append("every child was left out, so there is nothing to compose")
    rules = build.engine.settings.configs.rules
    if pages := [output.file for output in outputs if output.format == "html"]:
        pieces.warnings.extend(await _find_html_faults(build, text, pages))
    return pieces, [await encode_text(config, output, text, rules) for output in outputs]


async def _find_html_faults(build: Build, text: str, files: list[str]) -> list[str]:
    """A warning for each file that is declared as HTML if the text isn't: Markdown is shown as it stands."""
    try:
        checked = await build.engine.templates.pool.check_text(CheckJob("html", text))
    except (RenderFailed, LimitExceeded) as error:
        problem = error.message if isinstance(error, LimitExceeded) else error.reason.message
        return [f"whether {file} is HTML can't be checked: {problem.removesuffix('.')}" for file in files]
    if not checked.findings:
        return []
    first = checked.findings[0]
    place = f"line {first.line}: " if first.line else ""
    return [f"{file} is declared as HTML and isn't: {place}{first.message}" for file in files]


async def _write_texts(
    build: Build,
    key: TraceKey,
    parts: dict[str, str],
    config: ArtifactConfig,
    outputs: list[ArtifactOutput],
    pieces: GatheredPieces,
    texts: list[bytes],
    recorder: InputRecorder,
) -> BuiltArtifact:
    """Write the outputs, and keep a trace if an unchanged project would give the same."""
    confirm_inputs(build, recorder)
    fingerprint = artifact_fingerprint(texts, [piece.version_id for piece in pieces.pieces])
    written = await write_outputs(build.engine, config.id, outputs, texts, fingerprint, force=build.force)
    pieces.warnings.extend(written.lasting_warnings)
    trace_warnings = list(pieces.warnings)
    pieces.warnings.extend(written.warnings)
    for state in written.outputs:
        build.snapshot.forget_file(state.path)
        if state.final is None:
            recorder.record(WRITTEN + state.path)
            digest = ABSENT
        else:
            digest = sha256(state.final)
        # An artifact may read what it writes: then the next build reads something else.
        recorder.reproducible = recorder.reproducible and recorder.inputs.get(state.path, digest) == digest
        recorder.record_digest(state.path, digest)
    conflicts = [state.path for state in written.outputs if state.conflicts]
    if conflicts:  # looked at again by each build, until a person has settled them
        recorder.reproducible = False
    if written.unchanged and not build.force:
        status: Status = "skipped"
    else:
        status = "reassembled" if any(state.known for state in written.outputs) else "assembled"
    built = BuiltArtifact(
        config.id,
        [state.path for state in written.outputs],
        len(written.outputs[0].final or b""),
        status,
        pieces,
        config.metadata.composition_strategy,
        written.written_at,
        fingerprint,
        recorder.inputs,
        recorder.reproducible,
        conflicts,
    )
    result = ArtifactTrace(
        built.outputs,
        built.size,
        [(piece.content_id, piece.size, piece.version_id) for piece in pieces.pieces],
        pieces.missing,
        pieces.excluded,
        trace_warnings,
        built.generated_at,
        fingerprint,
        parts,
        recorder.through,
    )
    keep_trace(build, key, recorder, result)
    return built


def _unchanged_output(engine: Engine, output: ArtifactOutput) -> PlannedOutput:
    if not engine.folder.is_file(output.file):  # an earlier build left it deleted
        return PlannedOutput(output.file, "deleted", [], "")
    known = engine.store.output(output.file)
    return PlannedOutput(output.file, "unchanged", [], "", known.size if known else 0)


def _emit_event(
    engine: Engine, config: ArtifactConfig, started: float, built: BuiltArtifact | None, error: ChoraError | None
) -> None:
    engine.events.emit_event(
        "artifact_assembled",
        "error" if error else "success",
        artifact_config_id=config.id,
        section_count=len(config.content.children),
        duration_ms=round((time.monotonic() - started) * 1000),
        output_path=built.output_path if built else None,
        cache_hit=built is not None and built.status == "skipped",
        error_code=error.code if error else None,
        error_message=error.message if error else None,
    )
