"""Assembling an artifact: children in order, composed, written to its files.

A file on disk is only replaced when chora wrote what is in it. Before a write, the hash it will leave is
remembered as pending; so after a crash between the two, the file is still known for ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import msgspec
import trio

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.decoding import decode_text
from chora.engine import merging
from chora.engine.build.compose import Piece, compose
from chora.engine.build.content import build_content, gather_inputs, generate_text, is_approved
from chora.engine.engine import Build, CallerContext, Engine
from chora.engine.inputs import STORED, InputChange, InputRecorder
from chora.engine.retrieval import find_versions
from chora.errors import (
    ChoraError,
    CompositionFailed,
    ConfigNotFound,
    GenerationFailed,
    LimitExceeded,
    MissingContent,
    OutputEdited,
    PermissionDenied,
    WriteFailed,
    io_details,
)
from chora.files import SOURCE_LIMIT
from chora.hashing import digest_of, sha256
from chora.model import ArtifactChild, ArtifactConfig, ArtifactOutput
from chora.nesting import DEPTH_LIMIT, is_too_deep
from chora.render import Evaluate, RenderFailed
from chora.sources.source import NOT_THE_SOURCES_FAULT
from chora.store import Output
from chora.timestamps import now

Status = Literal["assembled", "reassembled", "skipped"]
Action = Literal["create", "update", "unchanged", "adopt", "merge", "overwrite", "refuse"]
Place = Callable[[str], str]
"""Where an output goes that its config would put elsewhere."""

OUTPUT_LIMIT = 2 * SOURCE_LIMIT
"""Bytes an output may have; a larger file can't be one of ours."""
INLINE_LENGTH = 16 * 1024
"""Documents up to this length are written anew at once; the others in a thread."""
DATABASE_FILES = ("", "-wal", "-shm", "-journal")
"""How the names of a database's files end."""
COMPOSED = "the composed text"


class GatheredPieces(NamedTuple):
    """What the children of an artifact gave."""

    pieces: list[Piece]
    missing: list[str]
    """Optional children that failed."""
    excluded: list[str]
    """Children whose condition isn't true."""
    warnings: list[str]


class BuiltArtifact(NamedTuple):
    """An artifact on disk."""

    artifact_id: str
    output_path: str
    outputs: list[str]
    size: int
    status: Status
    pieces: GatheredPieces
    strategy: str
    generated_at: str
    """When its files got the text they have."""
    fingerprint: str
    """Hash of all that the files were made from."""
    inputs: dict[str, str]
    reproducible: bool = True
    """Whether it would be the same again as long as the inputs are."""


class PlannedOutput(NamedTuple):
    """What an assembly would do to one file."""

    path: str
    action: Action
    reasons: list[str]
    diff: str
    size: int = 0
    """Bytes it will have."""


class OutputState(NamedTuple):
    """One output file: what it holds, what it will hold, and what chora knows of it."""

    path: str
    data: bytes
    encoding: str
    current: bytes | None
    """None if there is no file, or one so large that it can't be ours."""
    known: Output | None
    action: Action
    final: bytes
    """What it will hold in the end: `data`, or that and a person's edit."""
    conflicts: int = 0

    @property
    def is_known(self) -> bool:
        """Whether the store has the file down for just what it will hold."""
        return self.known is not None and not self.known.pending and self.known.sha256 == sha256(self.data)


async def build_artifact(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    place: Place | None = None,
) -> BuiltArtifact:
    """Generate what is missing, compose the pieces and write every output; nothing of it if nothing changed.

    Args:
        work: the call it is part of; forced work generates the children again, and leaves edited files alone.
        parsed: the artifact config.
        given: context for every child.
        output_path: replaces the first output's file.
        place: maps every output's file to where it goes instead.

    Raises:
        MissingContent, GenerationFailed: a required child can't be had.
        CompositionFailed: the pieces don't go together.
        PermissionDenied: an output lies outside the folders outputs may be written to.
        LimitExceeded: there is more text than an output may have.
        Busy, StorageError, StorageFailed: a child couldn't be made for a reason that isn't its own.
        OutputEdited: an output holds text that chora didn't write.
        WriteFailed: the disk refused; every file holds its old or its new text.
    """
    engine = build.engine
    config: ArtifactConfig = parsed.config
    subject, key = _trace_of(build, parsed, caller, output_path, place)
    if not build.force:
        known = engine.traces.find_trace(subject, key)
        if known is not None and not await build.snapshot.changes(known.inputs, first=True):
            return _recalled(config, known.result, known.inputs)
    started = time.monotonic()
    try:
        assembled, lasting = await _assemble(build, parsed, caller, output_path, place)
    except ChoraError as error:
        _tell(engine, config, started, "error", None, error.message)
        raise
    if assembled.reproducible:
        engine.traces.add_trace(subject, key, assembled.inputs, _result(assembled, lasting))
    _tell(engine, config, started, "success", assembled.output_path, None)
    return assembled


def _trace_of(
    build: Build, parsed: ParsedConfig, caller: CallerContext, output_path: str | None, place: Place | None
) -> tuple[str, str]:
    config: ArtifactConfig = parsed.config
    files = [output.file for output in config.metadata.outputs]
    placed = [place(file) for file in files] if place else [output_path] if output_path else []
    return f"artifact:{parsed.origin}", digest_of([build.salt, caller.digest, placed])


def _result(assembled: BuiltArtifact, warnings: list[str]) -> dict[str, Any]:
    pieces = assembled.pieces
    return {
        "outputs": assembled.outputs,
        "size": assembled.size,
        "pieces": [(piece.content_id, piece.size, piece.version_id) for piece in pieces.pieces],
        "missing": pieces.missing,
        "excluded": pieces.excluded,
        "warnings": warnings,
        "generated_at": assembled.generated_at,
        "fingerprint": assembled.fingerprint,
    }


def _recalled(config: ArtifactConfig, result: dict[str, Any], inputs: dict[str, str]) -> BuiltArtifact:
    """An artifact of which nothing has changed; the texts themselves aren't looked up."""
    pieces = [Piece(name, "", False, version, size) for name, size, version in result["pieces"]]
    return BuiltArtifact(
        config.id,
        result["outputs"][0],
        result["outputs"],
        result["size"],
        "skipped",
        GatheredPieces(pieces, result["missing"], result["excluded"], result["warnings"]),
        config.metadata.composition_strategy,
        result["generated_at"],
        result["fingerprint"],
        inputs,
    )


def _tell(
    engine: Engine, config: ArtifactConfig, started: float, status: str, path: str | None, error: str | None
) -> None:
    engine.events.emit(
        "artifact_assembled",
        status,
        artifact_config_id=config.id,
        section_count=len(config.content.children),
        duration_ms=round((time.monotonic() - started) * 1000),
        output_path=path,
        error_message=error,
    )


async def _assemble(
    build: Build, parsed: ParsedConfig, caller: CallerContext, output_path: str | None, place: Place | None
) -> tuple[BuiltArtifact, list[str]]:
    """Also the warnings that still hold when nothing has changed."""
    engine = build.engine
    config: ArtifactConfig = parsed.config
    recorder = build.new_recorder()
    recorder.record(parsed.origin)
    outputs = _targets(engine, config, output_path, place)
    paths = [output.file for output in outputs]
    pieces, texts = await _texts(build, config, caller, outputs, recorder)
    lasting = list(pieces.warnings)
    fingerprint = digest_of([[sha256(text) for text in texts], [piece.version_id for piece in pieces.pieces]])

    settled = recorder.reproducible and build.snapshot.still_holds(recorder.inputs)
    async with engine.write_locks(*paths), engine.process_locks(*paths):
        targets = [_look_at(engine, output, text) for output, text in zip(outputs, texts, strict=True)]
        if refused := next((target for target in targets if target.action == "refuse"), None):
            raise _refusal(engine, refused)
        unchanged = all(target.final == target.current for target in targets)
        known = targets[0].known
        is_old = unchanged and not build.force and known is not None and targets[0].is_known
        written_at = known.written_at if is_old and known else now()
        await _write(build, config, targets, fingerprint, written_at)
    for target in targets:
        build.snapshot.forget(target.path)
        written = sha256(target.final)
        settled = settled and recorder.inputs.get(target.path, written) == written  # it may read what it writes
        recorder.record_digest(target.path, written)
        if target.known and target.known.artifact_id != config.id:
            pieces.warnings.append(f"{target.path} was written by the artifact {target.known.artifact_id} before")
        if target.action == "overwrite" and target.known:
            pieces.warnings.append(f"{target.path} was edited by hand; it was written over")
        if target.action == "merge":
            count = target.conflicts
            conflicts = f", with {count} conflict{'s' * (count > 1)} marked in it" if count else ""
            pieces.warnings.append(f"{target.path} was edited by hand; the edit was merged{conflicts}")
    if unchanged and not build.force:
        status: Status = "skipped"
    else:
        status = "reassembled" if any(target.known for target in targets) else "assembled"
    assembled = BuiltArtifact(
        config.id,
        paths[0],
        paths,
        len(targets[0].final),
        status,
        pieces,
        config.metadata.composition_strategy,
        written_at,
        fingerprint,
        recorder.inputs,
        settled,
    )
    return assembled, lasting


async def plan_artifact(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    place: Place | None = None,
) -> list[PlannedOutput]:
    """What `assemble` would do to each file and why, without doing it.

    Args:
        work: dry work; everything else as for `assemble`.

    Raises:
        as `assemble`, but for OutputEdited and WriteFailed.
    """
    engine = build.engine
    config: ArtifactConfig = parsed.config
    outputs = _targets(engine, config, output_path, place)
    reasons = await why_stale(build, parsed, caller, output_path=output_path, place=place)
    if not reasons and not build.force:
        return [PlannedOutput(output.file, "unchanged", [], "", _size(engine, output.file)) for output in outputs]
    try:
        _, texts = await _texts(build, config, caller, outputs, build.new_recorder())
    except GenerationFailed as error:
        if not _is_unasked(error):
            raise
        cost = error.details["outlook"]["estimated_usd"]
        price = "an unknown amount" if cost is None else f"up to ${cost:.4f}"
        reasons = [*reasons, f"a language model would be asked, for {price}"]
        actions: list[Action] = ["update" if engine.folder.is_file(output.file) else "create" for output in outputs]
        return [
            PlannedOutput(output.file, action, reasons, "") for output, action in zip(outputs, actions, strict=True)
        ]
    planned: list[PlannedOutput] = []
    for output, text in zip(outputs, texts, strict=True):
        target = _look_at(engine, output, text)
        shown = (
            "" if target.action in ("unchanged", "adopt") else merging.diff(output.file, target.current or b"", text)
        )
        planned.append(PlannedOutput(output.file, target.action, reasons, shown, len(target.final)))
    return planned


def _size(engine: Engine, path: str) -> int:
    known = engine.store.output(path)
    return known.size if known else 0


async def why_stale(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    output_path: str | None = None,
    place: Place | None = None,
) -> list[str]:
    """Why the artifact's files may not be what an assembly would write now; nothing if they surely are."""
    config: ArtifactConfig = parsed.config
    traces = build.engine.traces
    subject, key = _trace_of(build, parsed, caller, output_path, place)
    known = traces.find_trace(subject, key)
    if known is not None:
        return [change.reason for change in await build.snapshot.changes(known.inputs)]
    other = traces.latest_trace(subject)
    if other is None:
        if any(each.pending is None for each in build.engine.store.outputs_of(config.id)):
            return ["a part of it was missing or provisional the last time, or nobody remembers what it was made from"]
        return ["it was never assembled"]
    changes: list[InputChange] = await build.snapshot.changes(other.inputs)
    return ["the context, the place or a setting is another one", *(change.reason for change in changes)]


def _targets(
    engine: Engine, config: ArtifactConfig, output_path: str | None, place: Place | None
) -> list[ArtifactOutput]:
    """The outputs with the checked, project-relative paths they go to.

    Raises:
        PermissionDenied: one lies outside the folders outputs may be written to, or among chora's own data.
        CompositionFailed: two are the same file.
    """
    wanted = [place(output.file) if place else output.file for output in config.metadata.outputs]
    if output_path is not None:
        wanted[0] = output_path
    paths = [check_output_path(engine, path) for path in wanted]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise CompositionFailed(
            f"{config.id} names {', '.join(sorted(twice))} as output twice.",
            "Name each file once.",
            composition_strategy=config.metadata.composition_strategy,
            error_type="DuplicateOutput",
            output_path=min(twice),
        )
    return [
        msgspec.structs.replace(output, file=path) for output, path in zip(config.metadata.outputs, paths, strict=True)
    ]


def check_output_path(engine: Engine, path: str) -> str:
    """The project-relative path of an output.

    Raises:
        PermissionDenied: it lies outside the folders outputs may be written to, among chora's own data, or is settings.
    """
    real = engine.folder.check_writable(path)
    relative = real.relative_to(engine.folder.root).as_posix()
    database = os.path.realpath(engine.store.path) if engine.store.path else ""
    is_inside = bool(database) and str(real).startswith(database + os.sep)
    if (
        relative.casefold().startswith(".chora/")
        or is_inside
        or str(real) in {database + end for end in DATABASE_FILES}
    ):
        raise PermissionDenied(
            f"{relative} is where chora keeps its own data.", "Write the output to another folder.", path=relative
        )
    # Whoever could write these could have programs run: git's hooks and filters, our generators.
    if relative.casefold() == "chora.toml" or ".git" in relative.casefold().split("/"):
        raise PermissionDenied(
            f"{relative} holds settings, which no output may change.",
            "Write the output to another file.",
            path=relative,
        )
    return relative


# -- texts ------------------------------------------------------------------------------------------------------


async def _texts(
    build: Build, config: ArtifactConfig, caller: CallerContext, outputs: list[ArtifactOutput], recorder: InputRecorder
) -> tuple[GatheredPieces, list[bytes]]:
    """The pieces, and what each output is to hold."""
    caller = caller.with_reserved(artifact_id=config.id)
    pieces = await gather_pieces(build, config, caller, recorder)
    text = await compose(build, config, pieces.pieces, caller, recorder)
    return pieces, [await encode_output_in_thread(config, output, text) for output in outputs]


async def gather_pieces(
    build: Build, config: ArtifactConfig, caller: CallerContext, recorder: InputRecorder
) -> GatheredPieces:
    """The children's texts, in order; equal orders keep their place in the config."""
    children = sorted(config.content.children, key=lambda child: child.order)
    room = OUTPUT_LIMIT
    found = GatheredPieces([], [], [], [])
    for done, child in enumerate(children, 1):
        try:
            if await _is_wanted(build, config, child, caller):
                taken = await _take(build, config, child, caller, recorder, found.warnings)
                found.pieces.extend(taken)
                room -= sum(len(piece.text) for piece in taken)
            else:
                found.excluded.append(child.id)
        except NOT_THE_SOURCES_FAULT:
            raise
        except ChoraError as error:
            if child.required or _is_unasked(error):
                raise _child_failed(build.engine, config, child, error) from error
            recorder.reproducible = False
            found.missing.append(child.id)
            found.warnings.append(f"The optional child {child.id} was left out: {error.message}")
        if room < 0:
            raise _too_large(config)
        if build.progress:
            await build.progress(done, len(children), child.id)
    return found


async def _is_wanted(build: Build, config: ArtifactConfig, child: ArtifactChild, caller: CallerContext) -> bool:
    """Whether a child's condition is true of the context that was given; undefined names count as false."""
    if not child.conditions:
        return True
    names = {**caller.all_names, "content_id": child.id}
    name = f"the condition of {child.id}"
    try:
        return (await build.engine.templates.pool.evaluate(Evaluate(child.conditions, names, name))).truth
    except RenderFailed as failure:
        raise CompositionFailed(
            f"{config.id}: {name} can't be evaluated: {failure.failed.message}.",
            'Write a Jinja2 expression over the context, such as audience == "crew".',
            composition_strategy=config.metadata.composition_strategy,
            error_type="InvalidCondition",
            content_id=child.id,
        ) from None


async def _take(
    build: Build,
    config: ArtifactConfig,
    child: ArtifactChild,
    caller: CallerContext,
    recorder: InputRecorder,
    warnings: list[str],
) -> list[Piece]:
    """A child's text by its retrieval strategy; only `all` may give several."""
    strategy = child.retrieval_strategy
    engine = build.engine
    parsed: ParsedConfig | None = None
    try:
        parsed = find_child(engine, child, recorder.record).parsed
    except ConfigNotFound:
        if strategy == "latest":
            raise
    content_id = parsed.config.id if parsed else child.id
    if content_id != child.id:
        warnings.append(f"{child.path} holds {content_id}, not {child.id}; it was taken all the same")
    if parsed is not None and child.review_required and not is_approved(parsed.config):
        warnings.append(f"{child.id} asks for a review, and neither it nor all of its elements are approved")
    fresh: list[Piece] = []
    if parsed is not None and _may_be_made(child, parsed):
        fresh = [await _make(build, child, parsed, caller, recorder, warnings)]
    if strategy == "latest" or (fresh and strategy != "all"):
        return fresh
    if strategy == "version" and not child.version:
        raise CompositionFailed(
            f"{config.id}: the child {child.id} wants a version and doesn't say which.",
            'Write "version": "1.0.0" beside retrievalStrategy.',
            composition_strategy=config.metadata.composition_strategy,
            error_type="MissingVersion",
            content_id=child.id,
        )
    named = f"version:{child.version}" if strategy == "version" else strategy
    recorder.record_digest(f"{STORED}{content_id}:{named}", engine.stored_digest(content_id, named))
    kept = find_versions(engine.store, content_id, named)
    if not kept and not fresh:
        raise MissingContent(
            f"Nothing is stored of {child.id} that is {named.replace(':', ' ')}.",
            "Generate it with generate_content while its config is so, or choose another retrievalStrategy.",
            missing_content_ids=[child.id],
            available_content_ids=engine.store.content_ids(),
        )
    if strategy == "all":
        stored = [Piece(child.id, version.body, False, version.version_id) for version in kept]
        made = {piece.version_id: piece for piece in fresh}
        return [made.pop(piece.version_id, piece) for piece in stored] + list(made.values())
    return [Piece(child.id, kept[-1].body, False, kept[-1].version_id)]


def _is_unasked(error: ChoraError) -> bool:
    """Whether nothing failed but that a language model may not be asked now."""
    return error.details.get("error_type") == "NotAsked"


def _may_be_made(child: ArtifactChild, parsed: ParsedConfig) -> bool:
    """Whether the text that the config gives now is one that the child wants."""
    match child.retrieval_strategy:
        case "version":
            return parsed.config.metadata.version == child.version
        case "approved_only":
            return is_approved(parsed.config)
        case _:
            return True


async def _make(
    build: Build,
    child: ArtifactChild,
    parsed: ParsedConfig,
    caller: CallerContext,
    recorder: InputRecorder,
    warnings: list[str],
) -> Piece:
    if build.dry:
        prepared = await gather_inputs(build, parsed, caller)
        recorder.record_all(prepared.recorder.inputs)
        return Piece(child.id, (await generate_text(prepared)).text, True, None)
    generated = await build_content(build, parsed, caller)
    recorder.record_all(generated.inputs)
    recorder.reproducible = recorder.reproducible and generated.reproducible
    warnings += [f"{child.id}: {warning}" for warning in generated.warnings]
    return Piece(child.id, generated.version.body, generated.status != "skipped", generated.version.version_id)


def find_child(engine: Engine, child: ArtifactChild, noting: Callable[[str], None] | None = None) -> FoundConfig:
    """A child's config: at its path, else by its id; raises what the catalog raises."""
    try:
        return engine.catalog.open("content", child.path, noting)
    except ConfigNotFound:
        return engine.catalog.find("content", child.id, noting)


def _is_missing(engine: Engine, child: ArtifactChild) -> bool:
    try:
        find_child(engine, child)
    except ConfigNotFound:
        return True
    except ChoraError:
        return False
    return False


def _child_failed(engine: Engine, config: ArtifactConfig, child: ArtifactChild, error: ChoraError) -> ChoraError:
    """A required child's failure, as the artifact's."""
    if isinstance(error, ConfigNotFound):
        missing = [each.id for each in config.content.children if each.required and _is_missing(engine, each)]
        return MissingContent(
            f"{config.id} needs {', '.join(missing)}, and there is no such content config.",
            "Write it with draft_config and save_config, correct the child's path, or mark it `required: false`.",
            artifact_config_id=config.id,
            missing_content_ids=missing,
            available_content_ids=[found.parsed.config.id for found in engine.catalog.all("content").found],
        )
    error.details.setdefault("artifact_config_id", config.id)
    error.details.setdefault("content_id", child.id)
    return error


def encode_output(config: ArtifactConfig, output: ArtifactOutput, text: str) -> bytes:
    """The bytes of one output file; json and yaml are parsed and written anew.

    Raises:
        CompositionFailed: the text isn't of the output's format or doesn't fit its encoding.
        LimitExceeded: the file would be too large.
    """

    def failed(message: str, hint: str, error: Exception | None = None) -> CompositionFailed:
        return CompositionFailed(
            f"{config.id}: {message}",
            hint,
            composition_strategy=config.metadata.composition_strategy,
            error_type=type(error).__name__ if error else "UnknownFormat",
            output_path=output.file,
        )

    match output.format:
        case "json" | "yaml" as language:
            try:
                text = _written_anew(text, language)
            except (ChoraError, ValueError) as error:
                problem = (
                    error.message if isinstance(error, ChoraError) else f"{COMPOSED} can't be written anew: {error}."
                )
                hint = "Let one child hold the whole document, merge objects, or write the output as text."
                raise failed(problem, hint, error) from None
        case "binary" | "test_results" as unknown:
            raise failed(f"outputs of format {unknown} can't be composed of text.", "Write text or code as its format.")
        case _:
            pass
    try:
        data = text.encode(output.encoding)
    except (LookupError, ValueError) as error:  # codecs differ in what they raise
        raise failed(f"the text doesn't fit the encoding {output.encoding}: {error}.", "Write utf-8.", error) from None
    if len(data) > OUTPUT_LIMIT:
        raise _too_large(config)
    return data


async def encode_output_in_thread(config: ArtifactConfig, output: ArtifactOutput, text: str) -> bytes:
    """`encode`, in a thread if there is so much to be written anew that others would wait for it."""
    if output.format in ("json", "yaml") and len(text) > INLINE_LENGTH:
        return await trio.to_thread.run_sync(encode_output, config, output, text)
    return encode_output(config, output, text)


def _written_anew(text: str, language: Literal["json", "yaml"]) -> str:
    """A document as chora spells it."""
    document = decode_text(text, language, COMPOSED)
    if is_too_deep(document):
        raise ValueError(f"it has more than {DEPTH_LIMIT} levels")
    if language == "json":
        return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    import yaml

    # Read once more, now that it is known to be harmless: in a config its dates would be text.
    again = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (safe, both of them)
    return yaml.safe_dump(again, sort_keys=False, allow_unicode=True)


def _too_large(config: ArtifactConfig) -> LimitExceeded:
    return LimitExceeded(
        f"{config.id} comes to more than {OUTPUT_LIMIT:,} bytes.",
        "Split it into several artifacts.",
        limit="artifact.size",
        artifact_config_id=config.id,
    )


# -- files ------------------------------------------------------------------------------------------------------


def _look_at(engine: Engine, output: ArtifactOutput, data: bytes) -> OutputState:
    """Look at the file a text is meant for, and decide what is to become of it."""
    path = output.file
    current, is_there = None, True
    try:
        current = engine.folder.read_bytes(path, limit=OUTPUT_LIMIT)
    except FileNotFoundError:
        is_there = False
    except LimitExceeded:
        pass
    known = engine.store.output(path)
    target = OutputState(path, data, output.encoding, current, known, "refuse", data)
    if not is_there:
        return target._replace(action="create")
    if current == data:
        return target._replace(action="unchanged" if target.is_known else "adopt")
    if known and current is not None and sha256(current) in (known.sha256, known.pending):
        return target._replace(action="update")
    if output.generated:
        return target._replace(action="overwrite")
    # From here on somebody edited a file of ours, or the file never was ours.
    if known is None or current is None or engine.settings.output.on_edit == "refuse":
        return target
    if engine.settings.output.on_edit == "overwrite":
        return target._replace(action="overwrite")
    return _merged(target, known, current)


def _merged(target: OutputState, known: Output, current: bytes) -> OutputState:
    if known.base is None:
        return target
    with suppress(LookupError, ValueError):
        texts = (known.base, current.decode(target.encoding), target.data.decode(target.encoding))
        if (merged := merging.merge_texts(*texts)) is not None:
            final = merged.text.encode(target.encoding)
            return target._replace(action="merge", final=final, conflicts=merged.conflicts)
    return target


def _refusal(engine: Engine, target: OutputState) -> OutputEdited:
    reason = "was edited after chora wrote it" if target.known else "exists and was not written by chora"
    if target.known and engine.settings.output.on_edit == "merge":
        reason += ", and the edit can't be told apart from what was written"
    return OutputEdited(
        f"{target.path} {reason}; it is left as it is.",
        "Move the file away, give another output_path, take the change over into its config, set [output] on_edit to "
        "merge, or declare the output `generated: true` if nobody is meant to edit it. `force` does not override an "
        "edit.",
        output_path=target.path,
        diff="(too large to compare)"
        if target.current is None
        else merging.diff(target.path, target.current, target.data),
    )


async def _write(
    build: Build, config: ArtifactConfig, targets: list[OutputState], fingerprint: str, written_at: str
) -> None:
    """Write the files that change, remembering each hash before and after."""
    engine = build.engine
    changed = [target for target in targets if target.final != target.current]
    if changed:
        announced = [_record(engine, config, each, fingerprint, written_at, written=False) for each in changed]
        await engine.store.save_outputs(announced)
    for target in changed:
        try:
            await engine.folder.write(target.path, target.final)
        except OSError as error:
            raise WriteFailed(
                f"{target.path} couldn't be written: {error.strerror}; it still holds its old text.",
                "Check disk space and permissions, then call again.",
                **io_details(error, output_path=target.path),
            ) from error
    # A file that already held the text, whoever wrote it, is ours from now on; a forced one is as good as new; and what
    # later edits are told by is kept from the moment on that they are to be merged.
    keeps_base = engine.settings.output.on_edit == "merge"
    unsettled = [
        target
        for target in targets
        if build.force or target in changed or not target.is_known or (keeps_base and not _has_base(target))
    ]
    if unsettled:
        settled = [_record(engine, config, each, fingerprint, written_at, written=True) for each in unsettled]
        await engine.store.save_outputs(settled)


def _has_base(target: OutputState) -> bool:
    return target.known is not None and target.known.base is not None


def _record(
    engine: Engine, config: ArtifactConfig, target: OutputState, fingerprint: str, written_at: str, *, written: bool
) -> Output:
    new = sha256(target.data)
    # Before the write, what lies there counts as ours: after a crash the file holds the one or the other. What holds a
    # person's edit never does; merged once more, it comes to the same.
    old = None if target.current is None else sha256(target.current)
    before = target.known.sha256 if target.action == "merge" and target.known else old
    keeps_base = engine.settings.output.on_edit == "merge"
    base = target.known.base if target.known and not written else target.data.decode(target.encoding, "replace")
    return Output(
        path=target.path,
        artifact_id=config.id,
        sha256=new if written else before,
        pending=None if written else new,
        fingerprint=fingerprint,
        size=len(target.data),
        written_at=written_at,
        base=base if keeps_base else None,
    )
