"""Gathering everything that one text is made from: its generator, its context and the texts the generator reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from chora.catalog import FoundConfig
from chora.engine import retrieval
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.context import gather_context
from chora.engine.building.fingerprint import content_fingerprint
from chora.engine.building.source_texts import SourceText
from chora.engine.engine import Engine
from chora.engine.inputs import GENERATOR, STORED, InputRecorder
from chora.engine.retrieval import MadeWith
from chora.errors import GenerationFailed, GeneratorNotFound
from chora.generators import demonstration
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.registry import Generator
from chora.model import ContentConfig
from chora.sources.source import SourceAccess

RESERVED = {"content_id", "artifact_id", "collection_id", "collection_name", "member_id"}
"""Names that every context has, or may have, of itself."""

_canonical = msgspec.json.Encoder(order="deterministic")


class GenerationInputs(NamedTuple):
    """Everything that a text is made from."""

    generator: Generator
    job: GenerationJob
    fingerprint: str
    warnings: list[str]
    recorder: InputRecorder
    depth: int
    """The length of the longest chain of contents behind it, itself included."""
    made_with: MadeWith
    """What the text is made with."""

    @property
    def variables(self) -> list[str]:
        """The names that the context has, without the reserved ones."""
        return sorted(set(self.job.context) - RESERVED)

    async def generate_text(self) -> GeneratedText:
        """Run the generator; raises what it raises."""
        text = await self.generator.generate_text(self.job)
        if text.provisional:
            self.recorder.reproducible = False
        return text


class StoredTextOutlook(NamedTuple):
    """What would become of the latest stored text of a content."""

    reasons: list[str]
    """Why it would change."""
    inputs: Mapping[str, str]
    """What it is made from, as it is now."""
    through: Mapping[str, str]
    """The contents through which some of that comes."""


async def gather_inputs(
    build: Build,
    config: ContentConfig,
    caller: CallerContext,
    recorder: InputRecorder,
    generate_source: Callable[[FoundConfig], Awaitable[SourceText]],
    explain_source: Callable[[FoundConfig], Awaitable[StoredTextOutlook]],
) -> GenerationInputs:
    """Gather what the text of a content is made from, and take its fingerprint.

    Args:
        build: the build it is part of.
        config: the content.
        caller: the caller's context.
        recorder: records what is read.
        generate_source: gives the text of a content that this one takes as a source.
        explain_source: says what would become of its latest stored text.

    Raises:
        GenerationFailed: it names no generator, a required source has no value, or the generator lacks something.
        GeneratorNotFound: there is no generator of that name.
        LimitExceeded, Busy, StorageError, StorageFailed: as from the sources.
    """
    engine = build.engine
    depth = 1

    async def generate_and_record(other: FoundConfig) -> str:
        nonlocal depth
        text = await generate_source(other)
        recorder.record_all(text.inputs, text.through, other.parsed.config.id)
        recorder.reproducible = recorder.reproducible and text.reproducible
        if text.error is not None:
            raise text.error
        depth = max(depth, 1 + text.depth)
        return text.body

    generator = find_generator(engine, config)
    access = source_access(engine, recorder, generate_and_record, explain_source)
    gathered = await gather_context(config, generator.name, caller.context, access, caller.reserved)
    recorder.reproducible = recorder.reproducible and gathered.complete
    job = GenerationJob(
        config,
        config.generation.patterns[0] if config.generation.patterns else None,
        gathered.context,
        engine.templates,
        engine.settings.templates.undefined,
        {},
        recorder.record,
        build.model_for(config.id),
        engine.settings.llm.model,
        engine.settings.configs.rules,
    )
    job = job._replace(sources=await generator.gather_ingredients(job))
    if not generator.is_plugin:  # which names a plugin's code uses can't be seen
        _drop_unused_names(job, gathered.reserved_names)
    recorder.record(GENERATOR + generator.name)
    fingerprint = content_fingerprint(generator, job)
    made_with = _made_with(caller, [name for name in gathered.reserved_names if name in job.context])
    warnings = [*gathered.warnings, *generator.unknown_options(job)]
    return GenerationInputs(generator, job, fingerprint, warnings, recorder, depth, made_with)


def _made_with(caller: CallerContext, used_names: list[str]) -> MadeWith:
    if not caller.context and not any(name in caller.reserved for name in used_names):
        return "config"
    return "build" if "artifact_id" in caller.reserved else "call"


def generator_name(config: ContentConfig) -> str | None:
    """The generator a config names; without one, demonstration if every element has an example, else None."""
    if config.generation.patterns:
        return config.generation.patterns[0].type
    has_examples = bool(config.elements) and all(element.example_output is not None for element in config.elements)
    return demonstration.NAME if has_examples else None


def find_generator(engine: Engine, config: ContentConfig) -> Generator:
    """The generator of a content; raises as `gather_inputs`."""
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
        available = [each.name for each in engine.generators.list_generators()]
        raise GeneratorNotFound(
            f"{config.id}: there is no generator {name!r}.",
            f"Write one of {', '.join(available)} in generation.patterns[0].type.",
            generator_type=name,
            available_generators=available,
        )
    return generator


def source_access(
    engine: Engine,
    recorder: InputRecorder,
    generate: Callable[[FoundConfig], Awaitable[str]],
    explain: Callable[[FoundConfig], Awaitable[StoredTextOutlook]],
) -> SourceAccess:
    """What sources may use; everything they read is recorded.

    Args:
        engine: the project.
        recorder: records it.
        generate: gives the text of a content.
        explain: says what would become of the latest stored text of one.
    """

    def find_stored_texts(content_id: str, strategy: str) -> list[str]:
        recorder.record_digest(f"{STORED}{content_id}:{strategy}", engine.digest_stored_texts(content_id, strategy))
        return [version.body for version in retrieval.find_versions(engine.store, content_id, strategy)]

    def find_unrepeatable_text(content_id: str, kind: str) -> str | None:
        recorder.record_digest(f"{STORED}{content_id}:{kind}", engine.digest_stored_texts(content_id, kind))
        version = retrieval.UNREPEATABLE[kind](engine.store, content_id)
        return version.body if version else None

    async def explain_and_record(other: FoundConfig) -> list[str]:
        outlook = await explain(other)
        recorder.record_all(outlook.inputs, outlook.through, other.parsed.config.id)
        return outlook.reasons

    return SourceAccess(
        engine.folder,
        engine.catalog,
        engine.templates.pool,
        generate,
        find_stored_texts,
        recorder.record,
        recorder.record_digest,
        engine.settings.configs.rules,
        unrepeatable=find_unrepeatable_text,
        explain=explain_and_record,
    )


def _drop_unused_names(job: GenerationJob, reserved_names: list[str]) -> None:
    """Remove the reserved names that the text doesn't mention: with them, the same text would have another fingerprint
    for every artifact and collection that it is part of."""
    if reserved_names:
        texts = [_canonical.encode(job.pattern).decode(), *job.sources.values()]
        for name in reserved_names:
            if not any(name in text for text in texts):
                del job.context[name]
