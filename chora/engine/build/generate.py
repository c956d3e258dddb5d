"""Generating one text: what it is made from decides whether it has to be made again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Literal, NamedTuple

import msgspec

from chora.catalog import FoundConfig
from chora.config_parsing import Parsed
from chora.engine.build.gather import gather
from chora.engine.engine import CallerContext, Engine, SourceText, Work
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


class Prepared(NamedTuple):
    """Everything a text will be made from, before it is made."""

    generator: ModuleType
    job: GenerationJob
    fingerprint: str
    warnings: list[str]
    seen: InputRecorder
    depth: int
    """How many texts deep its sources go, itself included."""

    @property
    def variables(self) -> list[str]:
        """The names the context offers, without the reserved ones."""
        return sorted(set(self.job.context) - RESERVED)


class Generated(NamedTuple):
    """A stored text, how it came to be, and what it was made from."""

    version: Version
    status: Status
    variables: list[str]
    warnings: list[str]
    inputs: dict[str, str]
    settled: bool = True
    """Whether it would be the same text again as long as the inputs are."""
    depth: int = 1
    """How many texts deep its sources go, itself included."""


async def generate(
    work: Work, parsed: Parsed, given: CallerContext, *, reason: str | None = None, waiting: tuple[str, ...] = ()
) -> Generated:
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
    engine = work.engine
    config: ContentConfig = parsed.config
    if not work.force and (known := await recall(work, parsed, given)):
        if len(waiting) + known.depth > CHAIN_LIMIT:
            raise _too_long(work, config.id, waiting)
        return known
    started = time.monotonic()
    try:
        prepared = await prepare(work, parsed, given, waiting=waiting)
        mark = prepared.fingerprint
        status: Status = "skipped"
        async with engine.writing(f"text:{mark}"):  # who else wants it now waits for this one
            is_wanted = work.force and mark not in work.made
            version = None if is_wanted else engine.store.version_made_from(config.id, mark)
            if version is None:
                made = await make(prepared)
                version = await _store(engine, config, prepared, made, reason)
                work.made.add(mark)
                status = "generated" if version.metadata["previous"] is None else "regenerated"
    except ChoraError as error:
        engine.events.emit(
            "content_generated",
            "error",
            content_config_id=config.id,
            generator_type=generator_of(config),
            duration_ms=_milliseconds(started),
            error_message=error.message,
        )
        raise
    warnings = [*prepared.warnings, *version.metadata.get("warnings", [])]
    if prepared.seen.settled and work.snapshot.still_holds(prepared.seen.inputs):
        result = {
            "version": version.version_id,
            "variables": prepared.variables,
            "warnings": warnings,
            "depth": prepared.depth,
        }
        engine.traces.add(*_trace_of(work, parsed, given), prepared.seen.inputs, result)
    if status != "skipped":
        work.snapshot.forget_stored(config.id)
        engine.tell_changed(f"content://{config.id}")
        engine.events.emit(
            "content_generated",
            "success",
            content_config_id=config.id,
            generator_type=version.generator,
            duration_ms=_milliseconds(started),
            error_message=None,
        )
    seen = prepared.seen
    return Generated(version, status, prepared.variables, warnings, seen.inputs, seen.settled, prepared.depth)


def _trace_of(work: Work, parsed: Parsed, given: CallerContext) -> tuple[str, str]:
    """Under which subject and key the text's trace is kept."""
    return f"content:{parsed.where}", digest_of([work.salt, given.digest])


async def recall(work: Work, parsed: Parsed, given: CallerContext) -> Generated | None:
    """The text that was made for this context before, if all it was made from is as it was."""
    known = work.engine.traces.find(*_trace_of(work, parsed, given))
    if known is None or await work.snapshot.changes(known.inputs, first=True):
        return None
    version = work.engine.store.version(parsed.config.id, known.result["version"])
    if version is None or version.deleted:
        return None
    result = known.result
    return Generated(
        version, "skipped", result["variables"], result["warnings"], known.inputs, True, result.get("depth", 1)
    )


def _too_long(work: Work, content_id: str, waiting: tuple[str, ...]) -> LimitExceeded:
    work.cuts.append(content_id)
    return LimitExceeded(
        f"{waiting[0]} needs a text that needs a text, and so on, more than {CHAIN_LIMIT} deep.",
        "Take the texts of fewer contents as sources of one another.",
        limit="content.chain",
        chain=[*waiting, content_id],
    )


async def prepare(work: Work, parsed: Parsed, given: CallerContext, *, waiting: tuple[str, ...] = ()) -> Prepared:
    """Gather what a text is made from and take its fingerprint.

    Sources that are other contents' texts are generated on the way; dry work makes those in memory too.
    """
    engine = work.engine
    seen = work.seen()
    seen.note(parsed.where)
    if not work.dry:  # read once more, now that its digest was taken: a change in between must show
        parsed = engine.catalog.open("content", parsed.where).parsed
    config: ContentConfig = parsed.config
    chain = (*waiting, config.id)
    if config.id in waiting:
        work.cuts.append(config.id)
        raise GenerationFailed(
            f"The contents wait for one another: {' → '.join(chain)}.",
            "Break the circle in inputs.sources.",
            content_config_id=config.id,
            generator_type=generator_of(config),
            error_type="CircularReference",
            cycle=list(chain),
        )
    if len(waiting) >= CHAIN_LIMIT:
        raise _too_long(work, config.id, waiting)
    depth = 1

    async def generate_other(other: FoundConfig) -> str:
        nonlocal depth
        anywhere, from_here = (other.path, work.force, ""), (other.path, work.force, chain[0])
        known = work.texts.get(anywhere)
        if known is None and (known := work.texts.get(from_here)):
            work.cuts.append(config.id)
        if known is None:
            cuts = len(work.cuts)
            try:
                known = await _text_of(work, other, chain)
            except ChoraError as error:
                known = error
            work.texts[anywhere if len(work.cuts) == cuts else from_here] = known
        if isinstance(known, ChoraError):
            raise known
        seen.absorb(known.inputs)
        seen.settled = seen.settled and known.settled
        depth = max(depth, 1 + known.depth)
        return known.body

    name = generator_of(config)
    if name is None:
        raise GenerationFailed(
            f"{config.id} names no generator.",
            "Add generation.patterns with a type, or an example_output to every element.",
            content_config_id=config.id,
            generator_type=None,
            error_type="MissingGenerator",
        )
    generator = engine.shelf.by_name.get(name)
    if generator is None:
        available = [each.NAME for each in engine.shelf.all()]
        raise GeneratorNotFound(
            f"{config.id}: there is no generator {name!r}.",
            f"Write one of {', '.join(available)} in generation.patterns[0].type.",
            generator_type=name,
            available_generators=available,
        )
    reach = _reach(engine, seen, generate_other)
    gathered = await gather(config, name, given.context, reach, given.reserved)
    seen.settled = seen.settled and gathered.complete
    pattern = config.generation.patterns[0] if config.generation.patterns else None
    undefined = engine.settings.templates.undefined
    model = engine.settings.llm.model
    job = GenerationJob(
        config, pattern, gathered.context, engine.templates, undefined, {}, seen.note, work.model_for(config.id), model
    )
    job = job._replace(sources=await gather_ingredients(generator, job))
    if engine.shelf.kind_of(generator) == "builtin":  # what a plugin's code uses can't be seen
        _take_back(job, gathered.lent)
    seen.note(GENERATOR + name)
    return Prepared(generator, job, fingerprint(generator, job), gathered.warnings, seen, depth)


async def _text_of(work: Work, other: FoundConfig, chain: tuple[str, ...]) -> SourceText:
    """The text of a content that others are waiting for, first to last."""
    if work.dry:
        prepared = await prepare(work, other.parsed, CallerContext({}), waiting=chain)
        made = await make(prepared)
        return SourceText(made.text, prepared.seen.inputs, prepared.seen.settled, prepared.depth)
    generated = await generate(work, other.parsed, CallerContext({}), waiting=chain)
    return SourceText(generated.version.body, generated.inputs, generated.settled, generated.depth)


def reach_of(work: Work, seen: InputRecorder) -> SourceAccess:
    """What sources may use that belong to no content."""

    async def generate_other(other: FoundConfig) -> str:
        if work.dry:
            return (await make(await prepare(work, other.parsed, CallerContext({})))).text
        made = await generate(work, other.parsed, CallerContext({}))
        seen.absorb(made.inputs)
        return made.version.body

    return _reach(work.engine, seen, generate_other)


def _reach(
    engine: Engine, seen: InputRecorder, generate_other: Callable[[FoundConfig], Awaitable[str]]
) -> SourceAccess:
    def stored(content_id: str, strategy: str) -> list[str]:
        seen.note_other(f"{STORED}{content_id}:{strategy}", engine.stored_digest(content_id, strategy))
        return engine.stored_texts(content_id, strategy)

    return SourceAccess(
        engine.folder, engine.catalog, engine.templates.pool, generate_other, stored, seen.note, seen.note_other
    )


def _take_back(job: GenerationJob, lent: list[str]) -> None:
    """Remove the reserved names that the text doesn't mention: they tell for whom it is made, and one that says the
    same to everybody is one text."""
    if lent:
        texts = [_canonical.encode(job.pattern).decode(), *job.sources.values()]
        for name in lent:
            if not any(name in text for text in texts):
                del job.context[name]


async def make(prepared: Prepared) -> GeneratedText:
    """Run the generator; whatever it needs is in the job."""
    made = await run_generator(prepared.generator, prepared.job)
    if made.provisional:
        prepared.seen.settled = False
    return made


def estimated_cost(engine: Engine, prepared: Prepared) -> float | None:
    """US dollars that making it may cost at most; None if it costs nothing, or the price isn't known."""
    estimate = getattr(prepared.generator, "estimate", None)
    return None if estimate is None else estimate(prepared.job, engine.settings.llm)


def generator_of(config: ContentConfig) -> str | None:
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
    engine: Engine, config: ContentConfig, prepared: Prepared, made: GeneratedText, reason: str | None
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
