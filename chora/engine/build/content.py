"""Generating one text: what it is made from decides whether it has to be made again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Literal, NamedTuple

import msgspec

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.build.context import gather_context
from chora.engine.engine import Build, CallerContext, Engine, SourceText
from chora.engine.inputs import GENERATOR, STORED, InputRecorder
from chora.errors import (
    ChoraError,
    GenerationFailed,
    GeneratorNotFound,
    LimitExceeded,
    StorageError,
    StorageFailed,
)
from chora.generators import GeneratorRegistry, demonstration, gather_ingredients, run_generator
from chora.generators.generator import GeneratedText, GenerationJob
from chora.hashing import digest_of, sha256
from chora.model import ContentConfig
from chora.sources.source import SourceAccess
from chora.store import Version
from chora.timestamps import now

Status = Literal["generated", "regenerated", "skipped"]

CHAIN_LIMIT = 10
RESERVED = {"content_id", "artifact_id", "collection_id", "collection_name", "member_id"}

_canonical = msgspec.json.Encoder(order="deterministic")


class GenerationInputs(NamedTuple):
    """Everything a text will be made from, before it is made."""

    generator: ModuleType
    job: GenerationJob
    fingerprint: str
    warnings: list[str]
    recorder: InputRecorder
    depth: int
    """How many texts deep its sources go, itself included."""

    @property
    def variables(self) -> list[str]:
        """The names the context offers, without the reserved ones."""
        return sorted(set(self.job.context) - RESERVED)


class BuiltContent(NamedTuple):
    """A stored text, how it came to be, and what it was made from."""

    version: Version
    status: Status
    variables: list[str]
    warnings: list[str]
    inputs: dict[str, str]
    reproducible: bool = True
    """Whether it would be the same text again as long as the inputs are."""
    depth: int = 1
    """How many texts deep its sources go, itself included."""


async def build_content(
    build: Build,
    parsed: ParsedConfig,
    caller: CallerContext,
    *,
    reason: str | None = None,
    waiting: tuple[str, ...] = (),
) -> BuiltContent:
    """The text of a content config for a context: from the store when nothing it is made from has changed.

    Args:
        work: the call it is part of.
        parsed: the content config.
        given: context from whoever asks.
        reason: why it is made, kept with it.
        waiting: the contents that are waiting for this one, first to last.

    Raises:
        GenerationFailed, GeneratorNotFound, LimitExceeded, Busy: it can't be made.
        StorageFailed: it was made but couldn't be stored.
    """
    engine = build.engine
    config: ContentConfig = parsed.config
    if not build.force and (known := await recall_content(build, parsed, caller)):
        if len(waiting) + known.depth > CHAIN_LIMIT:
            raise _too_long(build, config.id, waiting)
        return known
    started = time.monotonic()
    try:
        prepared = await gather_inputs(build, parsed, caller, waiting=waiting)
        mark = prepared.fingerprint
        status: Status = "skipped"
        async with engine.write_locks(f"text:{mark}"):  # who else wants it now waits for this one
            is_wanted = build.force and mark not in build.made
            version = None if is_wanted else engine.store.version_with_fingerprint(config.id, mark)
            if version is None:
                made = await generate_text(prepared)
                version = await _store(engine, config, prepared, made, reason)
                build.made.add(mark)
                status = "generated" if version.metadata["previous"] is None else "regenerated"
    except ChoraError as error:
        engine.events.emit(
            "content_generated",
            "error",
            content_config_id=config.id,
            generator_type=generator_name(config),
            duration_ms=_milliseconds(started),
            error_message=error.message,
        )
        raise
    warnings = [*prepared.warnings, *version.metadata.get("warnings", [])]
    if prepared.recorder.reproducible and build.snapshot.still_holds(prepared.recorder.inputs):
        result = {
            "version": version.version_id,
            "variables": prepared.variables,
            "warnings": warnings,
            "depth": prepared.depth,
        }
        engine.traces.add_trace(*_trace_of(build, parsed, caller), prepared.recorder.inputs, result)
    if status != "skipped":
        build.snapshot.forget_stored(config.id)
        engine.tell_changed(f"content://{config.id}")
        engine.events.emit(
            "content_generated",
            "success",
            content_config_id=config.id,
            generator_type=version.generator,
            duration_ms=_milliseconds(started),
            error_message=None,
        )
    recorder = prepared.recorder
    return BuiltContent(
        version, status, prepared.variables, warnings, recorder.inputs, recorder.reproducible, prepared.depth
    )


def _trace_of(build: Build, parsed: ParsedConfig, caller: CallerContext) -> tuple[str, str]:
    """Under which subject and key the text's trace is kept."""
    return f"content:{parsed.origin}", digest_of([build.salt, caller.digest])


async def recall_content(build: Build, parsed: ParsedConfig, caller: CallerContext) -> BuiltContent | None:
    """The text that was made for this context before, if all it was made from is as it was."""
    known = build.engine.traces.find_trace(*_trace_of(build, parsed, caller))
    if known is None or await build.snapshot.changes(known.inputs, first=True):
        return None
    version = build.engine.store.version(parsed.config.id, known.result["version"])
    if version is None or version.deleted:
        return None
    result = known.result
    return BuiltContent(
        version, "skipped", result["variables"], result["warnings"], known.inputs, True, result.get("depth", 1)
    )


def _too_long(build: Build, content_id: str, waiting: tuple[str, ...]) -> LimitExceeded:
    build.cuts.append(content_id)
    return LimitExceeded(
        f"{waiting[0]} needs a text that needs a text, and so on, more than {CHAIN_LIMIT} deep.",
        "Take the texts of fewer contents as sources of one another.",
        limit="content.chain",
        chain=[*waiting, content_id],
    )


async def gather_inputs(
    build: Build, parsed: ParsedConfig, caller: CallerContext, *, waiting: tuple[str, ...] = ()
) -> GenerationInputs:
    """Gather what a text is made from and take its fingerprint.

    Sources that are other contents' texts are generated on the way; dry work makes those in memory too.
    """
    engine = build.engine
    recorder = build.new_recorder()
    recorder.record(parsed.origin)
    if not build.dry:  # read once more, now that its digest was taken: a change in between must show
        parsed = engine.catalog.open("content", parsed.origin).parsed
    config: ContentConfig = parsed.config
    chain = (*waiting, config.id)
    if config.id in waiting:
        build.cuts.append(config.id)
        raise GenerationFailed(
            f"The contents wait for one another: {' → '.join(chain)}.",
            "Break the circle in inputs.sources.",
            content_config_id=config.id,
            generator_type=generator_name(config),
            error_type="CircularReference",
            cycle=list(chain),
        )
    if len(waiting) >= CHAIN_LIMIT:
        raise _too_long(build, config.id, waiting)
    depth = 1

    async def generate_other(other: FoundConfig) -> str:
        nonlocal depth
        anywhere, from_here = (other.path, build.force, ""), (other.path, build.force, chain[0])
        known = build.texts.get(anywhere)
        if known is None and (known := build.texts.get(from_here)):
            build.cuts.append(config.id)
        if known is None:
            cuts = len(build.cuts)
            try:
                known = await _text_of(build, other, chain)
            except ChoraError as error:
                known = error
            build.texts[anywhere if len(build.cuts) == cuts else from_here] = known
        if isinstance(known, ChoraError):
            raise known
        recorder.record_all(known.inputs)
        recorder.reproducible = recorder.reproducible and known.settled
        depth = max(depth, 1 + known.depth)
        return known.body

    name = generator_name(config)
    if name is None:
        raise GenerationFailed(
            f"{config.id} names no generator.",
            "Add generation.patterns with a type, or an example_output to every element.",
            content_config_id=config.id,
            generator_type=None,
            error_type="MissingGenerator",
        )
    generator = engine.generators.by_name.get(name)
    if generator is None:
        available = [each.NAME for each in engine.generators.list_generators()]
        raise GeneratorNotFound(
            f"{config.id}: there is no generator {name!r}.",
            f"Write one of {', '.join(available)} in generation.patterns[0].type.",
            generator_type=name,
            available_generators=available,
        )
    reach = _reach(engine, recorder, generate_other)
    gathered = await gather_context(config, name, caller.context, reach, caller.reserved)
    recorder.reproducible = recorder.reproducible and gathered.complete
    pattern = config.generation.patterns[0] if config.generation.patterns else None
    undefined = engine.settings.templates.undefined
    model = engine.settings.llm.model
    job = GenerationJob(
        config,
        pattern,
        gathered.context,
        engine.templates,
        undefined,
        {},
        recorder.record,
        build.model_for(config.id),
        model,
    )
    job = job._replace(sources=await gather_ingredients(generator, job))
    if engine.generators.kind_of(generator) == "builtin":  # what a plugin's code uses can't be seen
        _take_back(job, gathered.lent)
    recorder.record(GENERATOR + name)
    return GenerationInputs(generator, job, fingerprint(generator, job), gathered.warnings, recorder, depth)


async def _text_of(build: Build, other: FoundConfig, chain: tuple[str, ...]) -> SourceText:
    """The text of a content that others are waiting for, first to last."""
    if build.dry:
        prepared = await gather_inputs(build, other.parsed, CallerContext({}), waiting=chain)
        made = await generate_text(prepared)
        return SourceText(made.text, prepared.recorder.inputs, prepared.recorder.reproducible, prepared.depth)
    generated = await build_content(build, other.parsed, CallerContext({}), waiting=chain)
    return SourceText(generated.version.body, generated.inputs, generated.reproducible, generated.depth)


def reach_of(build: Build, recorder: InputRecorder) -> SourceAccess:
    """What sources may use that belong to no content."""

    async def generate_other(other: FoundConfig) -> str:
        if build.dry:
            return (await generate_text(await gather_inputs(build, other.parsed, CallerContext({})))).text
        made = await build_content(build, other.parsed, CallerContext({}))
        recorder.record_all(made.inputs)
        return made.version.body

    return _reach(build.engine, recorder, generate_other)


def _reach(
    engine: Engine, recorder: InputRecorder, generate_other: Callable[[FoundConfig], Awaitable[str]]
) -> SourceAccess:
    def stored(content_id: str, strategy: str) -> list[str]:
        recorder.record_digest(f"{STORED}{content_id}:{strategy}", engine.stored_digest(content_id, strategy))
        return engine.stored_texts(content_id, strategy)

    return SourceAccess(
        engine.folder,
        engine.catalog,
        engine.templates.pool,
        generate_other,
        stored,
        recorder.record,
        recorder.record_digest,
    )


def _take_back(job: GenerationJob, lent: list[str]) -> None:
    """Remove the reserved names that the text doesn't mention: they tell for whom it is made, and one that says the
    same to everybody is one text."""
    if lent:
        texts = [_canonical.encode(job.pattern).decode(), *job.sources.values()]
        for name in lent:
            if not any(name in text for text in texts):
                del job.context[name]


async def generate_text(prepared: GenerationInputs) -> GeneratedText:
    """Run the generator; whatever it needs is in the job."""
    made = await run_generator(prepared.generator, prepared.job)
    if made.provisional:
        prepared.recorder.reproducible = False
    return made


def estimated_cost(engine: Engine, prepared: GenerationInputs) -> float | None:
    """US dollars that making it may cost at most; None if it costs nothing, or the price isn't known."""
    estimate = getattr(prepared.generator, "estimate", None)
    return None if estimate is None else estimate(prepared.job, engine.settings.llm)


def generator_name(config: ContentConfig) -> str | None:
    """The generator a config asks for; without one, demonstration if every element shows an example, else None."""
    if config.generation.patterns:
        return config.generation.patterns[0].type
    shown = bool(config.elements) and all(element.example_output is not None for element in config.elements)
    return demonstration.NAME if shown else None


def is_approved(config: ContentConfig) -> bool:
    """Whether people approved the config, or every one of its elements."""
    reviewed = [element.review_status == "approved" for element in config.elements]
    return config.evolution.stage == "approved" or (bool(reviewed) and all(reviewed))


def fingerprint(generator: ModuleType, job: GenerationJob) -> str:
    """SHA-256 over all that a text is made from: config, merged context, templates, generator and its version."""
    version = generator.NAME, generator.VERSION, GeneratorRegistry.digest_of(generator)
    parts = (job.config, job.context, job.sources, version, job.undefined)
    return "sha256:" + hashlib.sha256(_canonical.encode(parts)).hexdigest()


async def _store(
    engine: Engine, config: ContentConfig, prepared: GenerationInputs, made: GeneratedText, reason: str | None
) -> Version:
    previous = engine.store.latest_version(config.id)
    try:
        return await engine.store.add_version(
            Version(
                content_id=config.id,
                body=made.text,
                sha256=sha256(made.text.encode()),
                # What only stands in for the real thing is never taken for it.
                fingerprint="" if made.provisional else prepared.fingerprint,
                generator=prepared.generator.NAME,
                generator_version=prepared.generator.VERSION,
                generated_at=now(),
                config_version=config.metadata.version,
                stage=config.evolution.stage,
                approved=is_approved(config),
                metadata={
                    "context_variables": prepared.variables,
                    "template": made.template,
                    "warnings": list(made.warnings),
                    "previous": previous.version_id if previous else None,
                    **({"reason": reason} if reason else {}),
                    **({"usage": made.usage} if made.usage else {}),
                },
            )
        )
    except StorageError as error:
        raise StorageFailed(
            f"{config.id} was generated but couldn't be stored: {error.message}", error.hint, **error.details
        ) from error


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
