"""Assembling an artifact: children in order, composed, written to its files.

A file on disk is only replaced when chora wrote what is in it. Before a write, the hash it will leave is
remembered as pending; so after a crash between the two, the file is still known for ours.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import msgspec

from chora.engine.engine import Engine
from chora.engine.generate import Generated, generate, make, prepare
from chora.errors import (
    ChoraError,
    CompositionFailed,
    ConfigNotFound,
    LimitExceeded,
    MissingContent,
    OutputEdited,
    WriteFailed,
    io_details,
)
from chora.files import SOURCE_LIMIT
from chora.model import ArtifactChild, ArtifactConfig, ArtifactOutput
from chora.reading import Parsed
from chora.stamps import now, sha256
from chora.store import Output

Status = Literal["assembled", "reassembled", "skipped"]
Progress = Callable[[float, float, str], Awaitable[None]]

CHILDREN_LIMIT = 100
SEPARATOR = "\n\n"
DIFF_LINES = 60


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
    """One output file: what it holds, what it will hold, and whether chora may replace it."""

    path: str
    data: bytes
    current: bytes | None
    known: Output | None

    @property
    def unchanged(self) -> bool:
        return self.current == self.data


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
    paths = [engine.folder.check_writable(output.file).relative_to(engine.folder.root).as_posix() for output in outputs]
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise CompositionFailed(
            f"{config.id} names {', '.join(sorted(twice))} as output twice.", "Name each file once."
        )

    pieces = await gather_pieces(engine, config, caller, force=force, progress=progress)
    text = compose(config, pieces.pieces)
    texts = [encode(config, output, text) for output in outputs]
    fingerprint = sha256(msgspec.json.encode([piece.version_id for piece in pieces.pieces]))

    async with engine.writing:
        plans = [_plan(engine, output, path, data) for output, path, data in zip(outputs, paths, texts, strict=True)]
        first_time = not any(plan.known for plan in plans)
        await _write(engine, config, plans, fingerprint)
    if all(plan.unchanged for plan in plans) and not force:
        status: Status = "skipped"
    else:
        status = "assembled" if first_time else "reassembled"
    return Assembled(config.id, paths[0], paths, len(texts[0]), status, pieces, config.metadata.composition_strategy)


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
    children = sorted(config.content.children, key=lambda child: child.order or 0)
    if len(children) > CHILDREN_LIMIT:
        raise LimitExceeded(
            f"{config.id} has {len(children)} children; {CHILDREN_LIMIT} are allowed.",
            "Split it into several artifacts.",
            limit="artifact.children",
        )
    pieces: list[Piece] = []
    missing: list[str] = []
    warnings: list[str] = []
    for done, child in enumerate(children, 1):
        try:
            pieces.append(await _piece(engine, config, child, caller, force, dry, warnings))
        except ChoraError as error:
            if child.required:
                raise _child_failed(engine, config, child, error) from error
            missing.append(child.id)
            warnings.append(f"The optional child {child.id} was left out: {error.message}")
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
    try:
        parsed = engine.catalog.open("content", child.path).parsed
    except ConfigNotFound:
        parsed = engine.catalog.find("content", child.id).parsed
    if parsed.config.id != child.id:
        warnings.append(f"{child.path} holds {parsed.config.id}, not {child.id}; it was taken all the same")
    if dry:
        made = await make(await prepare(engine, parsed, caller, dry=True))
        return Piece(child.id, made.text, True, None)
    generated: Generated = await generate(engine, parsed, caller, force=force)
    warnings += [f"{child.id}: {warning}" for warning in generated.warnings]
    return Piece(child.id, generated.version.body, generated.status != "skipped", generated.version.version_id)


def _child_failed(engine: Engine, config: ArtifactConfig, child: ArtifactChild, error: ChoraError) -> ChoraError:
    """A required child's failure, as the artifact's."""
    if isinstance(error, ConfigNotFound):
        return MissingContent(
            f"{config.id} needs {child.id}, and there is no such content config.",
            "Write it with draft_config and save_config, correct the child's path, or mark it `required: false`.",
            missing_content_ids=[child.id],
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
            content_pieces=[piece.content_id for piece in pieces],
        )
    # Each piece's own last newline goes, or the joint would be three lines high; the text's last one stays.
    text = SEPARATOR.join(piece.text.removesuffix("\n") for piece in pieces)
    return text + "\n" if pieces and pieces[-1].text.endswith("\n") else text


def encode(config: ArtifactConfig, output: ArtifactOutput, text: str) -> bytes:
    """The bytes of one output file; json and yaml are parsed and written anew.

    Raises:
        CompositionFailed: the text isn't of the output's format or doesn't fit its encoding.
    """
    facts = {"composition_strategy": config.metadata.composition_strategy, "output_path": output.file}
    try:
        if output.format == "json":
            text = msgspec.json.format(msgspec.json.encode(msgspec.json.decode(text)), indent=2).decode() + "\n"
        elif output.format == "yaml":
            import yaml

            text = yaml.safe_dump(yaml.safe_load(text), sort_keys=False, allow_unicode=True)
    except Exception as error:  # two parsers with exceptions of their own; any of them means the same
        raise CompositionFailed(
            f"{config.id}: the pieces together are not {output.format.upper()}: {error}",
            "Let one child hold the whole document, or write the output as text.",
            error_type=type(error).__name__,
            **facts,
        ) from None
    if output.format in ("binary", "test_results"):
        raise CompositionFailed(
            f"{config.id}: outputs of format {output.format} can't be composed of text.", None, **facts
        )
    try:
        return text.encode(output.encoding)
    except (LookupError, UnicodeEncodeError) as error:
        raise CompositionFailed(
            f"{config.id}: the text doesn't fit the encoding {output.encoding}: {error}.", "Write utf-8.", **facts
        ) from None


# -- files ------------------------------------------------------------------------------------------------------


def _plan(engine: Engine, output: ArtifactOutput, path: str, data: bytes) -> Plan:
    """Look at the file a text is meant for.

    Raises:
        OutputEdited: it holds something that chora didn't write, and isn't declared `generated`.
    """
    try:
        current = engine.folder.read_bytes(path, limit=2 * SOURCE_LIMIT)
    except FileNotFoundError:
        current = None
    known = engine.store.output(path)
    plan = Plan(path, data, current, known)
    if current is None or plan.unchanged or output.generated:
        return plan
    if known and sha256(current) in (known.sha256, known.pending):
        return plan
    reason = "was edited after chora wrote it" if known else "exists and was not written by chora"
    raise OutputEdited(
        f"{path} {reason}; it is left as it is.",
        "Move the file away, give another output_path, take the change over into its config, or declare the output "
        "`generated: true` if nobody is meant to edit it. `force` does not override an edit.",
        output_path=path,
        diff=_diff(path, current, data),
    )


def _diff(path: str, current: bytes, data: bytes) -> str:
    lines = list(
        difflib.unified_diff(
            current.decode(errors="replace").splitlines(),
            data.decode(errors="replace").splitlines(),
            f"{path} (on disk)",
            f"{path} (chora)",
            lineterm="",
            n=1,
        )
        if max(len(current), len(data)) < 1_000_000  # difflib is quadratic; beyond this a diff is no help anyway
        else ["(too large to compare line by line)"]
    )
    shown = [line[:200] for line in lines[:DIFF_LINES]]
    return "\n".join([*shown, f"… {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else shown)


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
    unsettled = [plan for plan in plans if not plan.unchanged or plan.known is None or plan.known.pending]
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
