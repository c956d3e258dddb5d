"""Assembling an artifact: children in order, composed, written to its files.

A file on disk is only replaced when chora wrote what is in it. Before a write, the hash it will leave is
remembered as pending; so after a crash between the two, the file is still known for ours.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import msgspec
import trio

from chora.catalog import decode_text
from chora.engine.engine import Engine
from chora.engine.generate import Generated, generate, make, prepare
from chora.errors import (
    ChoraError,
    CompositionFailed,
    ConfigNotFound,
    LimitExceeded,
    MissingContent,
    OutputEdited,
    PermissionDenied,
    WriteFailed,
    io_details,
)
from chora.files import SOURCE_LIMIT
from chora.model import ArtifactChild, ArtifactConfig, ArtifactOutput
from chora.reading import DEEPEST, Parsed
from chora.sources.source import NOT_ITS_FAULT, is_too_deep
from chora.stamps import now, sha256
from chora.store import Output

Status = Literal["assembled", "reassembled", "skipped"]
Progress = Callable[[float, float, str], Awaitable[None]]

OUTPUT_LIMIT = 2 * SOURCE_LIMIT
"""Bytes an output may have; a larger file can't be one of ours."""
INLINE_LENGTH = 16 * 1024
"""Documents up to this length are written anew at once; the others in a thread."""
DATABASE_FILES = ("", "-wal", "-shm", "-journal")
"""How the names of a database's files end."""
SEPARATOR = "\n\n"
COMPOSED = "the composed text"
DIFF_LINES = 60
DIFF_WINDOW = 500
"""Lines from the first difference on that are compared; difflib takes cubic time for what has nothing in common."""


class Piece(NamedTuple):
    """A child's text."""

    content_id: str
    text: str
    generated: bool
    version_id: str | None


class Pieces(NamedTuple):
    """What the children of an artifact gave."""

    pieces: list[Piece]
    missing: list[str]
    warnings: list[str]


class Assembled(NamedTuple):
    """An artifact on disk."""

    artifact_id: str
    output_path: str
    outputs: list[str]
    size: int
    status: Status
    pieces: Pieces
    strategy: str


class Plan(NamedTuple):
    """One output file: what it holds, what it will hold, and what chora knows of it."""

    path: str
    data: bytes
    current: bytes | None
    """None if there is no file, or one so large that it can't be ours."""
    known: Output | None

    @property
    def unchanged(self) -> bool:
        return self.current == self.data

    @property
    def is_known(self) -> bool:
        """Whether the store had the file down for just what it will hold."""
        return self.known is not None and not self.known.pending and self.known.sha256 == sha256(self.data)


async def assemble(
    engine: Engine,
    parsed: Parsed,
    caller: dict[str, Any],
    *,
    output_path: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Assembled:
    """Generate what is missing, compose the pieces and write every output.

    Args:
        engine: the project.
        parsed: the artifact config.
        caller: context given to every child.
        output_path: replaces the first output's file.
        force: generate the children again; an edited output is left alone all the same.
        progress: told after every child: how many are done, of how many, and which.

    Raises:
        MissingContent, GenerationFailed: a required child can't be had.
        CompositionFailed: the pieces don't go together.
        PermissionDenied: an output lies outside the folders outputs may be written to.
        LimitExceeded: there is more text than an output may have.
        Busy, StorageError, StorageFailed: a child couldn't be made for a reason that isn't its own.
        OutputEdited: an output holds text that chora didn't write.
        WriteFailed: the disk refused; every file holds its old or its new text.
    """
    config: ArtifactConfig = parsed.config
    started = time.monotonic()
    try:
        assembled = await _assemble(engine, config, caller, output_path, force, progress)
    except ChoraError as error:
        _tell(engine, config, started, "error", None, error.message)
        raise
    _tell(engine, config, started, "success", assembled.output_path, None)
    return assembled


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
    engine: Engine,
    config: ArtifactConfig,
    caller: dict[str, Any],
    output_path: str | None,
    force: bool,
    progress: Progress | None,
) -> Assembled:
    outputs = list(config.metadata.outputs)
    if output_path is not None:
        outputs[0] = msgspec.structs.replace(outputs[0], file=output_path)
    paths = [_check_target(engine, output.file) for output in outputs]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise CompositionFailed(
            f"{config.id} names {', '.join(sorted(twice))} as output twice.",
            "Name each file once.",
            composition_strategy=config.metadata.composition_strategy,
            error_type="DuplicateOutput",
            output_path=min(twice),
        )

    pieces = await gather_pieces(engine, config, caller, force=force, progress=progress)
    text = compose(config, pieces.pieces)
    texts = [await encode_beside(config, output, text) for output in outputs]
    fingerprint = sha256(msgspec.json.encode([piece.version_id for piece in pieces.pieces]))

    async with engine.writing:
        plans = [_plan(engine, output, path, data) for output, path, data in zip(outputs, paths, texts, strict=True)]
        first_time = not any(plan.known for plan in plans)
        await _write(engine, config, plans, fingerprint)
    for plan in plans:
        if plan.known and plan.known.artifact_id != config.id:
            pieces.warnings.append(f"{plan.path} was written by the artifact {plan.known.artifact_id} before")
    if all(plan.unchanged for plan in plans) and not force:
        status: Status = "skipped"
    else:
        status = "assembled" if first_time else "reassembled"
    return Assembled(config.id, paths[0], paths, len(texts[0]), status, pieces, config.metadata.composition_strategy)


def _check_target(engine: Engine, path: str) -> str:
    """The project-relative path of an output.

    Raises:
        PermissionDenied: it lies outside the folders outputs may be written to, or among chora's own data.
    """
    real = engine.folder.check_writable(path)
    relative = real.relative_to(engine.folder.root).as_posix()
    database = os.path.realpath(engine.store.path) if engine.store.path else ""
    if relative.casefold().startswith(".chora/") or str(real) in {database + end for end in DATABASE_FILES}:
        raise PermissionDenied(
            f"{relative} is where chora keeps its own data.", "Write the output to another folder.", path=relative
        )
    return relative


# -- pieces -----------------------------------------------------------------------------------------------------


async def gather_pieces(
    engine: Engine,
    config: ArtifactConfig,
    caller: dict[str, Any],
    *,
    force: bool = False,
    dry: bool = False,
    progress: Progress | None = None,
) -> Pieces:
    """The children's texts, in order; equal orders keep their place in the config.

    Args:
        dry: make every text in memory and store nothing.
    """
    children = sorted(config.content.children, key=lambda child: child.order)
    room = OUTPUT_LIMIT
    pieces: list[Piece] = []
    missing: list[str] = []
    warnings: list[str] = []
    for done, child in enumerate(children, 1):
        try:
            pieces.append(await _piece(engine, config, child, caller, force, dry, warnings))
            room -= len(pieces[-1].text)
        except NOT_ITS_FAULT:
            raise
        except ChoraError as error:
            if child.required:
                raise _child_failed(engine, config, child, error) from error
            missing.append(child.id)
            warnings.append(f"The optional child {child.id} was left out: {error.message}")
        if room < 0:
            raise _too_large(config)
        if progress:
            await progress(done, len(children), child.id)
    return Pieces(pieces, missing, warnings)


async def _piece(
    engine: Engine,
    config: ArtifactConfig,
    child: ArtifactChild,
    caller: dict[str, Any],
    force: bool,
    dry: bool,
    warnings: list[str],
) -> Piece:
    if child.conditions is not None or child.retrieval_strategy != "latest":
        what = "conditions" if child.conditions is not None else f"retrievalStrategy {child.retrieval_strategy}"
        raise CompositionFailed(
            f"{config.id}: the child {child.id} asks for {what}, which this version of chora does not know.",
            "Remove it from the child; the child is then always taken as it is made now.",
            content_id=child.id,
        )
    parsed = _find(engine, child)
    if parsed.config.id != child.id:
        warnings.append(f"{child.path} holds {parsed.config.id}, not {child.id}; it was taken all the same")
    if dry:
        made = await make(await prepare(engine, parsed, caller, dry=True))
        return Piece(child.id, made.text, True, None)
    generated: Generated = await generate(engine, parsed, caller, force=force)
    warnings += [f"{child.id}: {warning}" for warning in generated.warnings]
    return Piece(child.id, generated.version.body, generated.status != "skipped", generated.version.version_id)


def _find(engine: Engine, child: ArtifactChild) -> Parsed:
    """A child's config: at its path, else by its id."""
    try:
        return engine.catalog.open("content", child.path).parsed
    except ConfigNotFound:
        return engine.catalog.find("content", child.id).parsed


def _is_missing(engine: Engine, child: ArtifactChild) -> bool:
    try:
        _find(engine, child)
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


def compose(config: ArtifactConfig, pieces: list[Piece]) -> str:
    """One text of the pieces.

    Raises:
        CompositionFailed: the strategy isn't available.
    """
    strategy = config.metadata.composition_strategy
    if strategy != "concat":
        raise CompositionFailed(
            f"{config.id}: the composition strategy {strategy} is not available.",
            "Write concat in metadata.compositionStrategy.",
            composition_strategy=strategy,
            error_type="UnknownStrategy",
            content_pieces=[piece.content_id for piece in pieces],
        )
    # Each piece's own last newline goes, or the joint would be three lines high; the text's last one stays.
    text = SEPARATOR.join(piece.text.removesuffix("\n") for piece in pieces)
    return text + "\n" if pieces and pieces[-1].text.endswith("\n") else text


def encode(config: ArtifactConfig, output: ArtifactOutput, text: str) -> bytes:
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
                hint = "Let one child hold the whole document, or write the output as text."
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


async def encode_beside(config: ArtifactConfig, output: ArtifactOutput, text: str) -> bytes:
    """`encode`, in a thread if there is so much to be written anew that others would wait for it."""
    if output.format in ("json", "yaml") and len(text) > INLINE_LENGTH:
        return await trio.to_thread.run_sync(encode, config, output, text)
    return encode(config, output, text)


def _written_anew(text: str, language: Literal["json", "yaml"]) -> str:
    """A document as chora spells it."""
    document = decode_text(text, language, COMPOSED)
    if is_too_deep(document):
        raise ValueError(f"it has more than {DEEPEST} levels")
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


def _plan(engine: Engine, output: ArtifactOutput, path: str, data: bytes) -> Plan:
    """Look at the file a text is meant for.

    Raises:
        OutputEdited: it holds something that chora didn't write, and isn't declared `generated`.
    """
    current, is_there = None, True
    try:
        current = engine.folder.read_bytes(path, limit=OUTPUT_LIMIT)
    except FileNotFoundError:
        is_there = False
    except LimitExceeded:
        pass
    known = engine.store.output(path)
    plan = Plan(path, data, current, known)
    if not is_there or plan.unchanged or output.generated:
        return plan
    if known and current is not None and sha256(current) in (known.sha256, known.pending):
        return plan
    reason = "was edited after chora wrote it" if known else "exists and was not written by chora"
    raise OutputEdited(
        f"{path} {reason}; it is left as it is.",
        "Move the file away, give another output_path, take the change over into its config, or declare the output "
        "`generated: true` if nobody is meant to edit it. `force` does not override an edit.",
        output_path=path,
        diff="(too large to compare)" if current is None else _diff(path, current, data),
    )


def _diff(path: str, current: bytes, data: bytes) -> str:
    """The first lines in which a file differs from what it should hold."""
    old = current.decode(errors="replace").splitlines()
    new = data.decode(errors="replace").splitlines()
    if old == new:
        return "(only line ends differ)"
    pairs = enumerate(zip(old, new, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))
    start = max(same, 1) - 1
    end = start + DIFF_WINDOW
    names = f"{path} (on disk)", f"{path} (chora)"
    lines = list(difflib.unified_diff(old[start:end], new[start:end], *names, lineterm="", n=1))

    def moved(number: re.Match[str]) -> str:
        return str(int(number[0]) + start)

    shown = [re.sub(r"(?<=[-+])\d+", moved, line) if line.startswith("@@") else line[:200] for line in lines]
    if len(shown) > DIFF_LINES or max(len(old), len(new)) > end:
        shown[DIFF_LINES:] = ["… and more"]
    return "\n".join(shown)


async def _write(engine: Engine, config: ArtifactConfig, plans: list[Plan], fingerprint: str) -> None:
    """Write the files that change, remembering each hash before and after."""
    changed = [plan for plan in plans if not plan.unchanged]
    if changed:
        await engine.store.save_outputs(_record(config, plan, fingerprint, written=False) for plan in changed)
    for plan in changed:
        try:
            await engine.folder.write(plan.path, plan.data)
        except OSError as error:
            raise WriteFailed(
                f"{plan.path} couldn't be written: {error.strerror}; it still holds its old text.",
                "Check disk space and permissions, then call again.",
                **io_details(error, output_path=plan.path),
            ) from error
    # A file that already held the text, whoever wrote it, is ours from now on.
    unsettled = [plan for plan in plans if not (plan.unchanged and plan.is_known)]
    if unsettled:
        await engine.store.save_outputs(_record(config, plan, fingerprint, written=True) for plan in unsettled)


def _record(config: ArtifactConfig, plan: Plan, fingerprint: str, *, written: bool) -> Output:
    new = sha256(plan.data)
    # Before the write, what lies there counts as ours: after a crash the file holds the one or the other.
    old = None if plan.current is None else sha256(plan.current)
    return Output(
        path=plan.path,
        artifact_id=config.id,
        sha256=new if written else old,
        pending=None if written else new,
        fingerprint=fingerprint,
        size=len(plan.data),
        written_at=now(),
    )
