"""Building a content: one text, stored as a version unless an earlier one still stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from msgspec import Struct

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.gather import GenerationInputs, StoredTextOutlook, gather_inputs, generator_name
from chora.engine.building.recall import confirm_inputs, keep_trace, recall_trace, recall_version
from chora.engine.building.source_texts import SourceText
from chora.engine.engine import Engine
from chora.engine.inputs import UNFINISHED, InputRecorder
from chora.engine.retrieval import describe_making, find_record
from chora.engine.traces import TraceKey
from chora.errors import ChoraError, StorageError, StorageFailed
from chora.generators.generator import GeneratedText
from chora.hashing import digest_of, sha256
from chora.model import ContentConfig
from chora.store import Version
from chora.timestamps import now

Status = Literal["generated", "regenerated", "skipped"]


class ContentTrace(Struct, frozen=True):
    """What a trace keeps of a built content."""

    version: str
    variables: list[str]
    warnings: list[str]
    depth: int
    through: dict[str, str] = {}
    """The contents through which inputs came that sources read."""


class BuiltContent(NamedTuple):
    """A stored text, how it came to be, and what it was made from."""

    version: Version
    status: Status
    variables: list[str]
    warnings: list[str]
    inputs: dict[str, str]
    reproducible: bool
    """Whether the text would come out the same as long as the inputs do."""
    depth: int
    """The length of the longest chain of contents behind it, itself included."""
    through: dict[str, str] = {}  # noqa: RUF012 (never changed)
    """The contents through which inputs came that sources read."""


async def build_content(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    reason: str | None = None,
    dependents: tuple[str, ...] = (),
    recorder: InputRecorder | None = None,
) -> BuiltContent:
    """The text of a content config for a context: from the store if nothing that it is made from has changed.

    Args:
        build: the build it is part of.
        parsed: the content config.
        caller: the caller's context.
        reason: why it is generated, kept with the version.
        dependents: the contents that need this one as a source, outermost first.
        recorder: records what is read, also if the text can't be generated.

    Raises:
        GenerationFailed, GeneratorNotFound, LimitExceeded, Busy: the text can't be generated.
        StorageFailed: it was generated but couldn't be stored.
    """
    config: ContentConfig = parsed.config
    started = time.monotonic()
    if not build.force and (recalled := await recall_content(build, parsed, caller)):
        build.source_texts.check_chain(config.id, recalled.version.generator, dependents, recalled.depth)
        _emit_event(build.engine, config.id, recalled.version.generator, started, None, cache_hit=True)
        return recalled
    phases: dict[str, int] = {}
    try:
        inputs = await gather_content(build, parsed, caller, dependents, recorder)
        phases["gather_ms"] = _milliseconds_since(started)
        async with build.engine.write_locks(f"text:{inputs.fingerprint}"):  # the same text is generated once at a time
            version, status = await _recall_or_generate(build, config, inputs, reason, phases)
    except ChoraError as error:
        _emit_event(build.engine, config.id, generator_name(config), started, error, phases)
        raise
    warnings = [*inputs.warnings, *version.metadata.get("warnings", [])]
    result = ContentTrace(version.version_id, inputs.variables, warnings, inputs.depth, inputs.recorder.through)
    confirm_inputs(build, inputs.recorder)
    keep_trace(build, _trace_key(build, parsed, caller), inputs.recorder, result)
    if status != "skipped":
        build.snapshot.forget_stored_texts(config.id)
        build.engine.changes.publish(f"content://{config.id}")
    cache_hit = status == "skipped"
    _emit_event(build.engine, config.id, version.generator, started, None, phases, cache_hit=cache_hit)
    recorder = inputs.recorder
    return BuiltContent(
        version,
        status,
        inputs.variables,
        warnings,
        recorder.inputs,
        recorder.reproducible,
        inputs.depth,
        recorder.through,
    )


async def recall_content(build: Build, parsed: ParsedConfig, caller: CallerContext) -> BuiltContent | None:
    """The version that was built for this context, if everything that it was made from is unchanged."""
    known = await recall_trace(build, _trace_key(build, parsed, caller), ContentTrace)
    if known is None:
        return None
    result = known.result
    version = build.engine.store.version(parsed.config.id, result.version)
    if version is None or version.deleted:
        return None
    return BuiltContent(
        version, "skipped", result.variables, result.warnings, known.inputs, True, result.depth, result.through
    )


async def gather_content(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    dependents: tuple[str, ...] = (),
    recorder: InputRecorder | None = None,
) -> GenerationInputs:
    """Everything that the text of a content config is made from, with its fingerprint.

    Contents whose texts it takes as sources are built first; a dry build generates those in memory too.

    Raises:
        as `build_content`.
    """
    recorder = recorder or build.new_recorder()
    recorder.record(parsed.origin)
    if not build.dry:  # read again, now that its digest is recorded: a change in between must show
        parsed = build.engine.catalog.open_config("content", parsed.origin).parsed
    config: ContentConfig = parsed.config
    build.source_texts.check_chain(config.id, generator_name(config), dependents)
    chain = (*dependents, config.id)

    async def generate_source(other: FoundConfig) -> SourceText:
        generate = partial(_generate_source_text, build, other, chain)
        return await build.source_texts.get_text(other, chain, generate, force=build.force)

    return await gather_inputs(build, config, caller, recorder, generate_source, partial(explain_content, build))


async def explain_content(build: Build, found: FoundConfig) -> StoredTextOutlook:
    """Whether the latest text of a content still is what its config gives; a record never is anything else."""
    store, config = build.engine.store, found.parsed.config
    known = build.engine.traces.find_trace(_trace_key(build, found.parsed, CallerContext({})), ContentTrace)
    newest = store.content_state(config.id).newest
    if known is None or newest is None or find_record(store, config.id) is not None:
        return StoredTextOutlook([], {}, {})
    # What was left out isn't known to be there now.
    inputs = {name: digest for name, digest in known.inputs.items() if name != UNFINISHED}
    changes = await build.snapshot.find_changes(inputs, known.result.through)
    reasons = [change.reason for change in changes]
    if not changes and newest.version_id != known.result.version:
        reasons.append("its config has changed back")
    now_read = {**inputs, **{change.name: change.now for change in changes}}
    return StoredTextOutlook(reasons, now_read, known.result.through)


def is_approved(config: ContentConfig) -> bool:
    """Whether the config, or every one of its elements, was approved."""
    reviewed = [element.review_status == "approved" for element in config.elements]
    return config.evolution.stage == "approved" or (bool(reviewed) and all(reviewed))


def trace_subject(origin: str) -> str:
    """Under which subject the traces of a content config are kept."""
    return f"content:{origin}"


def _trace_key(build: Build, parsed: ParsedConfig, caller: CallerContext) -> TraceKey:
    return TraceKey(trace_subject(parsed.origin), digest_of([build.settings_digest, caller.digest]))


async def _generate_source_text(build: Build, other: FoundConfig, chain: tuple[str, ...]) -> SourceText:
    """The text of a content for others that need it, outermost first."""
    recorder = build.new_recorder()
    try:
        if build.dry:
            inputs = await gather_content(build, other.parsed, CallerContext({}), chain, recorder)
            text = (await inputs.generate_text()).text
            return SourceText(text, recorder.inputs, recorder.reproducible, inputs.depth, recorder.through)
        built = await build_content(build, other.parsed, CallerContext({}), dependents=chain, recorder=recorder)
    except ChoraError as error:
        return SourceText("", recorder.inputs, recorder.reproducible, 1, recorder.through, error)
    return SourceText(built.version.body, built.inputs, built.reproducible, built.depth, built.through)


async def _recall_or_generate(
    build: Build, config: ContentConfig, inputs: GenerationInputs, reason: str | None, phases: dict[str, int]
) -> tuple[Version, Status]:
    """The stored version of this fingerprint, or a new one; `phases` is told how long what took."""
    store, fingerprint = build.engine.store, inputs.fingerprint
    if not build.force or fingerprint in build.made:
        version = recall_version(store, config.id, fingerprint)
        if version is not None:
            return version, "skipped"
    started = time.monotonic()
    text = await inputs.generate_text()
    phases["generate_ms"] = _milliseconds_since(started)
    started = time.monotonic()
    version = await _store_version(build.engine, config, inputs, text, reason, phases["generate_ms"])
    phases["store_ms"] = _milliseconds_since(started)
    build.made.add(fingerprint)
    return version, "generated" if version.metadata["previous"] is None else "regenerated"


async def _store_version(
    engine: Engine,
    config: ContentConfig,
    inputs: GenerationInputs,
    text: GeneratedText,
    reason: str | None,
    generation_time_ms: int,
) -> Version:
    previous = engine.store.latest_version(config.id)
    try:
        return await engine.store.add_version(
            Version(
                content_id=config.id,
                body=text.text,
                sha256=sha256(text.text.encode()),
                # A provisional text must never be taken for the one it replaces.
                fingerprint="" if text.provisional else inputs.fingerprint,
                generator=inputs.generator.name,
                generator_version=inputs.generator.version,
                generated_at=now(),
                config_version=config.metadata.version,
                stage=config.evolution.stage,
                approved=is_approved(config),
                metadata={
                    "context_variables": inputs.variables,
                    "generation_time_ms": generation_time_ms,
                    "template": text.template,
                    "warnings": list(text.warnings),
                    "previous": previous.version_id if previous else None,
                    **describe_making(inputs.made_with, previous),
                    **({"reason": reason} if reason else {}),
                    **({"usage": text.usage} if text.usage else {}),
                },
            )
        )
    except StorageError as error:
        raise StorageFailed(
            f"{config.id} was generated but couldn't be stored: {error.message}", error.hint, **error.details
        ) from error


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _emit_event(
    engine: Engine,
    content_id: str,
    generator: str | None,
    started: float,
    error: ChoraError | None,
    phases: Mapping[str, int] = MappingProxyType({}),
    *,
    cache_hit: bool = False,
) -> None:
    engine.events.emit_event(
        "content_generated",
        "error" if error else "success",
        content_config_id=content_id,
        generator_type=generator,
        duration_ms=_milliseconds_since(started),
        cache_hit=cache_hit,
        phases=dict(phases),
        error_code=error.code if error else None,
        error_message=error.message if error else None,
    )
