"""Tools that list what there is."""

from __future__ import annotations

import fnmatch
import time
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chora.catalog import Listing
from chora.engine.engine import Engine
from chora.engine.generate import generator_of
from chora.generators import GENERATORS
from chora.tools.tool import Ask, Call, Result, milliseconds_since, tool

Pattern = Annotated[str, Meta(max_length=255, description="Glob over ids, such as api-*")]


class ListGenerators(Ask):
    generator_type: Annotated[Literal["builtin", "plugin"], Meta(description="Only these")] | None = None
    include_plugins: bool | None = True


class GeneratorInfo(Struct, frozen=True, kw_only=True):
    name: str
    type: str
    version: str
    description: str
    capabilities: list[str]


class Generators(Result):
    generators: list[GeneratorInfo]
    total_count: int
    filtered: bool


@tool(title="List generators", category="query", read_only=True, idempotent=True)
async def list_generators(engine: Engine, ask: ListGenerators, call: Call) -> Generators:
    """List the generators that a content config can name in generation.patterns[0].type."""
    shown = [
        GeneratorInfo(
            name=generator.NAME,
            type="builtin",
            version=generator.VERSION,
            description=generator.DESCRIPTION,
            capabilities=list(generator.CAPABILITIES),
        )
        for generator in GENERATORS
        if ask.generator_type != "plugin"
    ]
    return Generators(
        generators=shown,
        total_count=len(shown),
        filtered=ask.generator_type is not None or ask.include_plugins is False,
    )


class ListConfigs(Ask):
    filter_pattern: Pattern | None = None


class InvalidConfig(Struct, frozen=True, kw_only=True):
    file_path: str
    error: str


class ContentConfigInfo(Struct, frozen=True, kw_only=True):
    id: str
    file_path: str
    generator_type: str | None
    description: str
    title: str


class ContentConfigs(Result):
    total: int
    configs: list[ContentConfigInfo]
    invalid: list[InvalidConfig]
    duration_ms: int


@tool(title="List content configs", category="query", read_only=True, idempotent=True)
async def list_content_configs(engine: Engine, ask: ListConfigs, call: Call) -> ContentConfigs:
    """List the content configs of the project; files that can't be read stand under `invalid` with the reason."""
    started = time.monotonic()
    listing = engine.catalog.all("content")
    configs = [
        ContentConfigInfo(
            id=found.parsed.config.id,
            file_path=found.path,
            generator_type=generator_of(found.parsed.config),
            description=found.parsed.config.metadata.description,
            title=found.parsed.config.metadata.description[:50],
        )
        for found in listing.found
        if _fits(found.parsed.config.id, ask.filter_pattern)
    ]
    return ContentConfigs(
        total=len(configs), configs=configs, invalid=_invalid(listing), duration_ms=milliseconds_since(started)
    )


class ArtifactConfigInfo(Struct, frozen=True, kw_only=True):
    id: str
    file_path: str
    description: str
    title: str
    component_count: int


class ArtifactConfigs(Result):
    total: int
    configs: list[ArtifactConfigInfo]
    invalid: list[InvalidConfig]
    duration_ms: int


@tool(title="List artifact configs", category="query", read_only=True, idempotent=True)
async def list_artifact_configs(engine: Engine, ask: ListConfigs, call: Call) -> ArtifactConfigs:
    """List the artifact configs of the project; files that can't be read stand under `invalid` with the reason."""
    started = time.monotonic()
    listing = engine.catalog.all("artifact")
    configs = [
        ArtifactConfigInfo(
            id=found.parsed.config.id,
            file_path=found.path,
            description=found.parsed.config.metadata.description or found.parsed.config.metadata.purpose,
            title=found.parsed.config.metadata.title,
            component_count=len(found.parsed.config.content.children),
        )
        for found in listing.found
        if _fits(found.parsed.config.id, ask.filter_pattern)
    ]
    return ArtifactConfigs(
        total=len(configs), configs=configs, invalid=_invalid(listing), duration_ms=milliseconds_since(started)
    )


def _fits(config_id: str, pattern: str | None) -> bool:
    return not pattern or fnmatch.fnmatchcase(config_id, pattern)


def _invalid(listing: Listing) -> list[InvalidConfig]:
    return [InvalidConfig(file_path=broken.path, error=broken.error) for broken in listing.invalid]
