"""Generating one text: what it is made from decides whether it has to be made again."""

from __future__ import annotations

import hashlib
import time
from types import ModuleType
from typing import Any, Literal, NamedTuple

import msgspec

from chora.catalog import Found
from chora.engine.engine import Engine
from chora.engine.gather import gather
from chora.errors import (
    ChoraError,
    GenerationFailed,
    GeneratorNotFound,
    LimitExceeded,
    StorageError,
    StorageFailed,
)
from chora.generators import BY_NAME, GENERATORS, demonstration
from chora.generators.generator import Job, Made
from chora.model import ContentConfig
from chora.reading import Parsed
from chora.sources.source import Reach
from chora.stamps import now, sha256
from chora.store import Version

Status = Literal["generated", "regenerated", "skipped"]

CHAIN_LIMIT = 10
RESERVED = {"content_id"}

_canonical = msgspec.json.Encoder(order="deterministic")


class Chain(NamedTuple):
    """The contents that wait for one another in a call, first to last, and the texts it has made so far."""

    waiting: tuple[str, ...]
    texts: dict[str, str | ChoraError]
    """By the config's path: many may want the same text, and each would otherwise go all the way down for it."""


class Prepared(NamedTuple):
    """Everything a text will be made from, before it is made."""

    generator: ModuleType
    job: Job
    fingerprint: str
    warnings: list[str]

    @property
    def variables(self) -> list[str]:
        """The names the context offers, without the reserved ones."""
        return sorted(set(self.job.context) - RESERVED)


class Generated(NamedTuple):
    """A stored text and how it came to be."""

    version: Version
    status: Status
    variables: list[str]
    warnings: list[str]


async def generate(
    engine: Engine, parsed: Parsed, caller: dict[str, Any], *, force: bool = False, chain: Chain | None = None
) -> Generated:
    """The text of a content config for a context: from the store when nothing it is made from has changed.

    Args:
        engine: the project.
        parsed: the content config.
        caller: context from whoever asks; it wins over everything in the config.
        force: make it again in any case.
        chain: the contents that are waiting for this one, if any.

    Raises:
        GenerationFailed, GeneratorNotFound, LimitExceeded, Busy: it can't be made.
        StorageFailed: it was made but couldn't be stored.
    """
    config: ContentConfig = parsed.config
    started = time.monotonic()
    try:
        prepared = await prepare(engine, parsed, caller, force=force, chain=chain)
        known = engine.store.version_made_from(config.id, prepared.fingerprint)
        if known is not None and not force:
            warnings = [*prepared.warnings, *known.metadata.get("warnings", [])]
            return Generated(known, "skipped", prepared.variables, warnings)
        made = await make(prepared)
        version = await _store(engine, config, prepared, made)
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
    had_any = version.metadata["previous"] is not None
    engine.events.emit(
        "content_generated",
        "success",
        content_config_id=config.id,
        generator_type=version.generator,
        duration_ms=_milliseconds(started),
        error_message=None,
    )
    return Generated(
        version, "regenerated" if had_any else "generated", prepared.variables, [*prepared.warnings, *made.warnings]
    )


async def prepare(
    engine: Engine,
    parsed: Parsed,
    caller: dict[str, Any],
    *,
    force: bool = False,
    dry: bool = False,
    chain: Chain | None = None,
) -> Prepared:
    """Gather what a text is made from and take its fingerprint.

    Sources that are other contents' texts are generated on the way; `dry` makes those in memory too.
    """
    config: ContentConfig = parsed.config
    waiting, texts = chain or Chain((), {})
    if config.id in waiting:
        raise GenerationFailed(
            f"The contents wait for one another: {' → '.join([*waiting, config.id])}.",
            "Break the circle in inputs.sources.",
            content_config_id=config.id,
            generator_type=generator_of(config),
            error_type="CircularReference",
            cycle=[*waiting, config.id],
        )
    if len(waiting) >= CHAIN_LIMIT:
        raise LimitExceeded(
            f"{waiting[0]} needs a text that needs a text, and so on, more than {CHAIN_LIMIT} deep.",
            "Take the texts of fewer contents as sources of one another.",
            limit="content.chain",
            chain=[*waiting, config.id],
        )
    inner = Chain((*waiting, config.id), texts)

    async def generate_other(other: Found) -> str:
        if other.path not in texts:
            try:
                if dry:
                    text = (await make(await prepare(engine, other.parsed, {}, dry=True, chain=inner))).text
                else:
                    text = (await generate(engine, other.parsed, {}, force=force, chain=inner)).version.body
                texts[other.path] = text
            except ChoraError as error:
                texts[other.path] = error
        if isinstance(known := texts[other.path], ChoraError):
            raise known
        return known

    name = generator_of(config)
    if name is None:
        raise GenerationFailed(
            f"{config.id} names no generator.",
            "Add generation.patterns with a type, or an example_output to every element.",
            content_config_id=config.id,
            generator_type=None,
            error_type="MissingGenerator",
        )
    generator = BY_NAME.get(name)
    if generator is None:
        raise GeneratorNotFound(
            f"{config.id}: there is no generator {name!r}.",
            f"Write one of {', '.join(each.NAME for each in GENERATORS)} in generation.patterns[0].type.",
            generator_type=name,
            available_generators=[each.NAME for each in GENERATORS],
        )
    gathered = await gather(
        config, name, caller, Reach(engine.folder, engine.catalog, engine.templates.pool, generate_other)
    )
    pattern = config.generation.patterns[0] if config.generation.patterns else None
    job = Job(config, pattern, gathered.context, engine.templates, engine.undefined, {})
    if hasattr(generator, "ingredients"):
        job = job._replace(sources=await generator.ingredients(job))
    return Prepared(generator, job, fingerprint(generator, job), gathered.warnings)


async def make(prepared: Prepared) -> Made:
    """Run the generator; whatever it needs is in the job."""
    return await prepared.generator.generate(prepared.job)


def generator_of(config: ContentConfig) -> str | None:
    """The generator a config asks for; without one, demonstration if every element shows an example, else None."""
    if config.generation.patterns:
        return config.generation.patterns[0].type
    shown = bool(config.elements) and all(element.example_output is not None for element in config.elements)
    return demonstration.NAME if shown else None


def fingerprint(generator: ModuleType, job: Job) -> str:
    """SHA-256 over all that a text is made from: config, merged context, templates, generator and its version."""
    parts = (job.config, job.context, job.sources, generator.NAME, generator.VERSION, job.undefined)
    return "sha256:" + hashlib.sha256(_canonical.encode(parts)).hexdigest()


async def _store(engine: Engine, config: ContentConfig, prepared: Prepared, made: Made) -> Version:
    previous = engine.store.latest_version(config.id)
    try:
        return await engine.store.add_version(
            Version(
                content_id=config.id,
                body=made.text,
                sha256=sha256(made.text.encode()),
                fingerprint=prepared.fingerprint,
                generator=prepared.generator.NAME,
                generator_version=prepared.generator.VERSION,
                generated_at=now(),
                config_version=config.metadata.version,
                stage=config.evolution.stage,
                metadata={
                    "context_variables": prepared.variables,
                    "template": made.template,
                    "warnings": made.warnings,
                    "previous": previous.version_id if previous else None,
                },
            )
        )
    except StorageError as error:
        raise StorageFailed(
            f"{config.id} was generated but couldn't be stored: {error.message}", error.hint, **error.details
        ) from error


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
