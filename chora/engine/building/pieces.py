"""Gathering the pieces of an artifact: the text of each child, by its condition and its retrieval strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content, gather_content, is_approved
from chora.engine.building.encode import too_large
from chora.engine.engine import Engine
from chora.engine.inputs import STORED, InputRecorder
from chora.engine.outputs import OUTPUT_LIMIT
from chora.engine.retrieval import find_versions
from chora.errors import ChoraError, CompositionFailed, ConfigNotFound, MissingContent
from chora.llm import ModelNotAsked
from chora.model import ArtifactChild, ArtifactConfig, ContentConfig
from chora.render import EvaluateJob, RenderFailed
from chora.sources.source import SERVER_ERRORS

IDS_SHOWN = 100
"""Ids that an error lists of those there are."""


class Piece(NamedTuple):
    """A child's text."""

    content_id: str
    text: str
    generated: bool
    version_id: str | None
    known_size: int | None = None
    """Bytes of a text that wasn't read, because nothing has changed."""

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return len(self.text.encode()) if self.known_size is None else self.known_size


CONDITION_HINT = 'Write a Jinja2 expression over the context, such as audience == "crew".'


class GatheredPieces(NamedTuple):
    """The texts of an artifact's children."""

    pieces: list[Piece]
    missing: list[str]
    """Optional children that failed."""
    excluded: list[str]
    """Children whose condition isn't true."""
    warnings: list[str]


async def gather_pieces(
    build: Build, config: ArtifactConfig, caller: CallerContext, recorder: InputRecorder
) -> GatheredPieces:
    """The children's texts, in order; equal orders keep their place in the config.

    Raises:
        MissingContent, GenerationFailed: a required child has no text.
        CompositionFailed: a condition can't be evaluated, or a child names no version.
        LimitExceeded: there is more text than an output may have.
        Busy, StorageError, StorageFailed: the server, not the child, is at fault.
    """
    children = sorted(config.content.children, key=lambda child: child.order)
    remaining = OUTPUT_LIMIT
    gathered = GatheredPieces([], [], [], [])
    for done, child in enumerate(children, 1):
        try:
            if await _is_included(build, config, child, caller, gathered.warnings):
                pieces = await _gather_child(build, config, child, caller, recorder, gathered.warnings)
                gathered.pieces.extend(pieces)
                remaining -= sum(len(piece.text) for piece in pieces)
            else:
                gathered.excluded.append(child.id)
        except SERVER_ERRORS:
            raise
        except ChoraError as error:
            if child.required or isinstance(error, ModelNotAsked):
                raise _child_failed(build.engine, config, child, error) from error
            recorder.reproducible = False
            gathered.missing.append(child.id)
            gathered.warnings.append(f"The optional child {child.id} was left out: {error.message}")
        if remaining < 0:
            raise too_large(config)
        if build.progress:
            await build.progress(done, len(children), child.id)
    return gathered


def find_child(engine: Engine, child: ArtifactChild, on_read: Callable[[str], None] | None = None) -> FoundConfig:
    """A child's config: at its path, else by its id; raises what the catalog raises."""
    try:
        return engine.catalog.open_config("content", child.path, on_read)
    except ConfigNotFound:
        return engine.catalog.find_config("content", child.id, on_read)


async def _is_included(
    build: Build, config: ArtifactConfig, child: ArtifactChild, caller: CallerContext, warnings: list[str]
) -> bool:
    """Whether a child's condition is true of the caller's context.

    One that can't be evaluated leaves nothing out in silence: it is an error, or, as chora-compose took no notice of
    conditions, in its projects a warning.
    """
    if not (child.conditions or "").strip():
        return True
    names = {**caller.all_names, "content_id": child.id}
    name = f"the condition of {child.id}"
    settings, pool = build.engine.settings, build.engine.templates.pool
    try:
        return (await pool.evaluate_condition(EvaluateJob(child.conditions or "", names, name))).truth
    except RenderFailed as failure:
        reason = failure.reason
        is_undefined = reason.kind == "undefined"
        if settings.templates.undefined == "lenient" if is_undefined else settings.configs.rules == "chora-compose":
            warnings.append(f"The child {child.id} was included, because its condition failed: {reason.message}")
            return True
        raise CompositionFailed(
            f"{config.id}: {name} can't be evaluated: {reason.message.removesuffix('.')}.",
            'Pass it in the context, or ask whether it is there first: audience is defined and audience == "crew".'
            if is_undefined
            else CONDITION_HINT,
            composition_strategy=config.metadata.composition_strategy,
            error_type="InvalidCondition",
            content_id=child.id,
        ) from None


async def _gather_child(
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
        warnings.append(f"{child.path} holds {content_id}, not {child.id}; it was used all the same")
    if parsed is not None and child.review_required and not is_approved(parsed.config):
        warnings.append(f"{child.id} asks for a review, and neither it nor all of its elements are approved")
    if parsed is not None and (mismatch := describe_other_source(child, parsed.config)):
        warnings.append(mismatch)
    fresh: list[Piece] = []
    if parsed is not None and _suits_strategy(child, parsed):
        fresh = [await _build_child(build, child, parsed, caller, recorder, warnings)]
    if strategy == "latest" or (fresh and strategy != "all"):
        return fresh
    if strategy == "version" and not child.version:
        raise CompositionFailed(
            f"{config.id}: the child {child.id} retrieves a version and doesn't name one.",
            'Write "version": "1.0.0" beside retrievalStrategy.',
            composition_strategy=config.metadata.composition_strategy,
            error_type="MissingVersion",
            content_id=child.id,
        )
    named = f"version:{child.version}" if strategy == "version" else strategy
    recorder.record_digest(f"{STORED}{content_id}:{named}", engine.digest_stored_texts(content_id, named))
    versions = find_versions(engine.store, content_id, named)
    if not versions and not fresh:
        raise MissingContent(
            f"No stored text of {child.id} is {named.replace(':', ' ')}.",
            "Generate it with generate_content while its config is in that state, or choose another retrievalStrategy.",
            missing_content_ids=[child.id],
            available_content_ids=engine.store.content_ids(limit=IDS_SHOWN),
        )
    if strategy == "all":
        stored = [Piece(child.id, version.body, False, version.version_id) for version in versions]
        built = {piece.version_id: piece for piece in fresh}
        return [built.pop(piece.version_id, piece) for piece in stored] + list(built.values())
    return [Piece(child.id, versions[-1].body, False, versions[-1].version_id)]


def describe_other_source(child: ArtifactChild, config: ContentConfig) -> str | None:
    """A sentence if a child is expected from someone else than its elements say (`generation_source`)."""
    said = {element.generation_source for element in config.elements if element.generation_source}
    kind = "mixed" if len(said) > 1 else next(iter(said), None)
    if kind is None or child.expected_source in ("any", kind):
        return None
    return f"{child.id} is expected to be {child.expected_source}, and its elements say {', '.join(sorted(said))}"


def _suits_strategy(child: ArtifactChild, parsed: ParsedConfig) -> bool:
    """Whether the text that the config gives now is one that the child wants."""
    match child.retrieval_strategy:
        case "version":
            return parsed.config.metadata.version == child.version
        case "approved_only":
            return is_approved(parsed.config)
        case _:
            return True


async def _build_child(
    build: Build,
    child: ArtifactChild,
    parsed: ParsedConfig,
    caller: CallerContext,
    recorder: InputRecorder,
    warnings: list[str],
) -> Piece:
    if build.dry:
        inputs = await gather_content(build, parsed, caller)
        recorder.record_all(inputs.recorder.inputs, inputs.recorder.through)
        return Piece(child.id, (await inputs.generate_text()).text, True, None)
    built = await build_content(build, parsed, caller)
    recorder.record_all(built.inputs, built.through)
    recorder.reproducible = recorder.reproducible and built.reproducible
    warnings += [f"{child.id}: {warning}" for warning in built.warnings]
    return Piece(child.id, built.version.body, built.status != "skipped", built.version.version_id)


def _child_failed(engine: Engine, config: ArtifactConfig, child: ArtifactChild, error: ChoraError) -> ChoraError:
    """A required child's failure, as the artifact's."""
    if isinstance(error, ConfigNotFound):
        missing = [each.id for each in config.content.children if each.required and _is_missing(engine, each)]
        return MissingContent(
            f"{config.id} needs {', '.join(missing)}, and there is no such content config.",
            "Write it with draft_config and save_config, correct the child's path, or mark it `required: false`.",
            artifact_config_id=config.id,
            missing_content_ids=missing,
            available_content_ids=engine.catalog.list_configs("content").ids[:IDS_SHOWN],
        )
    error.details.setdefault("artifact_config_id", config.id)
    error.details.setdefault("content_id", child.id)
    return error


def _is_missing(engine: Engine, child: ArtifactChild) -> bool:
    try:
        find_child(engine, child)
    except ConfigNotFound:
        return True
    except ChoraError:
        return False
    return False
