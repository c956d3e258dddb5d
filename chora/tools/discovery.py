"""Tools that list generators, configs, contents and artifacts."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from heapq import nsmallest
from typing import Annotated, Literal

import trio
from msgspec import Meta, Struct

from chora.catalog import ConfigListing, FoundConfig
from chora.engine.building.gather import generator_name
from chora.engine.engine import Engine
from chora.engine.outputs import is_template
from chora.generators.registry import Generator
from chora.model import ArtifactConfig
from chora.protocol.types import Call
from chora.tools.paging import ROWS, Limit, Offset, Page
from chora.tools.tool import ToolArguments, ToolResult, milliseconds_since, tool

Pattern = Annotated[str, Meta(max_length=255, description="Glob over ids, such as api-*")]


class ListGenerators(ToolArguments):
    generator_type: Annotated[Literal["builtin", "plugin"], Meta(description="Only these")] | None = None
    include_plugins: Annotated[bool, Meta(description="Also the plugins of the project")] | None = True


class GeneratorInfo(Struct, frozen=True, kw_only=True):
    name: str
    type: str
    version: str
    description: str
    capabilities: list[str]
    status: Literal["available", "unavailable"]
    reason: str | None
    """Why it is unavailable, and what to do about it."""


class Generators(ToolResult):
    generators: list[GeneratorInfo]
    total_count: int
    filtered: bool


@tool(title="List generators", category="Discovery", read_only=True, idempotent=True)
async def list_generators(engine: Engine, arguments: ListGenerators, call: Call) -> Generators:
    """List the generators that a content config can name in generation.patterns[0].type."""
    shown = [
        await _describe_generator(engine, generator)
        for generator in engine.generators.list_generators()
        if arguments.generator_type in (None, generator.kind)
        and (arguments.include_plugins is not False or generator.kind == "builtin")
    ]
    return Generators(
        generators=shown,
        total_count=len(shown),
        filtered=arguments.generator_type is not None or arguments.include_plugins is False,
    )


async def _describe_generator(engine: Engine, generator: Generator) -> GeneratorInfo:
    reason = await trio.to_thread.run_sync(generator.why_unavailable, engine.settings.llm)
    return GeneratorInfo(
        name=generator.name,
        type=generator.kind,
        version=generator.version,
        description=generator.description,
        capabilities=list(generator.capabilities),
        status="unavailable" if reason else "available",
        reason=reason,
    )


class ListConfigs(ToolArguments):
    filter_pattern: Pattern | None = None
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class InvalidConfigInfo(Struct, frozen=True, kw_only=True):
    file_path: str
    error: str


class ContentConfigInfo(Struct, frozen=True, kw_only=True):
    id: str
    file_path: str
    generator_type: str | None
    description: str
    title: str


class ContentConfigs(ToolResult):
    total: int
    returned: int
    next_offset: int | None
    configs: list[ContentConfigInfo]
    invalid: list[InvalidConfigInfo]
    invalid_total: int
    duration_ms: int


@tool(title="List content configs", category="Discovery", read_only=True, idempotent=True)
async def list_content_configs(engine: Engine, arguments: ListConfigs, call: Call) -> ContentConfigs:
    """List the content configs of the project; files that can't be read are listed under `invalid` with the reason."""
    started = time.monotonic()
    page = Page(arguments.limit, arguments.offset, call)
    listing = await engine.catalog.list_in_slices("content")
    matching = await _match_pattern(listing, arguments.filter_pattern)
    configs: list[ContentConfigInfo] = []
    for found in page.of(matching):
        await _let_others_run(len(configs))
        configs.append(
            ContentConfigInfo(
                id=found.parsed.config.id,
                file_path=found.path,
                generator_type=generator_name(found.parsed.config),
                description=found.parsed.config.metadata.description,
                title=found.parsed.config.metadata.description[:50],
            )
        )
    return ContentConfigs(
        total=len(matching),
        returned=len(configs),
        next_offset=page.next_offset(len(matching)),
        configs=configs,
        invalid=invalid_configs(listing, page),
        invalid_total=len(listing.invalid),
        duration_ms=milliseconds_since(started),
    )


class ArtifactConfigInfo(Struct, frozen=True, kw_only=True):
    id: str
    file_path: str
    description: str
    title: str
    component_count: int


class ArtifactConfigs(ToolResult):
    total: int
    returned: int
    next_offset: int | None
    configs: list[ArtifactConfigInfo]
    invalid: list[InvalidConfigInfo]
    invalid_total: int
    duration_ms: int


@tool(title="List artifact configs", category="Discovery", read_only=True, idempotent=True)
async def list_artifact_configs(engine: Engine, arguments: ListConfigs, call: Call) -> ArtifactConfigs:
    """List the artifact configs of the project; files that can't be read are listed under `invalid` with the reason."""
    started = time.monotonic()
    page = Page(arguments.limit, arguments.offset, call)
    listing = await engine.catalog.list_in_slices("artifact")
    matching = await _match_pattern(listing, arguments.filter_pattern)
    configs: list[ArtifactConfigInfo] = []
    for found in page.of(matching):
        await _let_others_run(len(configs))
        configs.append(
            ArtifactConfigInfo(
                id=found.parsed.config.id,
                file_path=found.path,
                description=found.parsed.config.metadata.description or found.parsed.config.metadata.purpose,
                title=found.parsed.config.metadata.title,
                component_count=len(found.parsed.config.content.children),
            )
        )
    return ArtifactConfigs(
        total=len(matching),
        returned=len(configs),
        next_offset=page.next_offset(len(matching)),
        configs=configs,
        invalid=invalid_configs(listing, page),
        invalid_total=len(listing.invalid),
        duration_ms=milliseconds_since(started),
    )


async def _match_pattern(listing: ConfigListing, pattern: str | None) -> list[FoundConfig]:
    """The configs whose ids match a glob."""
    if not pattern:
        return listing.found
    return await _select(listing.found, lambda found: fnmatch.fnmatchcase(found.parsed.config.id, pattern))


async def _select(configs: list[FoundConfig], fits: Callable[[FoundConfig], bool]) -> list[FoundConfig]:
    """The configs that fit; others run after every few of them."""
    found: list[FoundConfig] = []
    for number, each in enumerate(configs):
        await _let_others_run(number)
        if fits(each):
            found.append(each)
    return found


def invalid_configs(listing: ConfigListing, page: Page) -> list[InvalidConfigInfo]:
    """The files that can't be read, a page of them beside a page of the others."""
    return [InvalidConfigInfo(file_path=broken.path, error=broken.error) for broken in page.of(listing.invalid)]


# -- contents ---------------------------------------------------------------------------------------------------


Stage = Annotated[
    Literal["draft", "review", "approved", "deprecated"], Meta(description="Only those at this stage of their life")
]


class ContentFilter(Struct, frozen=True, forbid_unknown_fields=True):
    generator_type: Annotated[str, Meta(description="Only those of this generator")] | None = None
    generated: Annotated[bool, Meta(description="Only those with a stored text, or only those without")] | None = None
    stage: Stage | None = None


class ListContent(ToolArguments):
    filter: Annotated[ContentFilter | None, Meta(description="Only contents that fit all of these")] = None
    sort: Annotated[Literal["id", "title", "generator", "modified"], Meta(description="The order")] | None = "id"
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class ContentInfo(Struct, frozen=True, kw_only=True):
    id: str
    title: str
    purpose: str
    generator_type: str | None
    generated: bool
    stage: str
    output_format: str | None
    last_generated: str | None
    versions_available: int


class ContentList(ToolResult):
    total: int
    returned: int
    next_offset: int | None
    content: list[ContentInfo]
    invalid: list[InvalidConfigInfo]
    invalid_total: int
    duration_ms: int


@tool(title="List contents", category="Discovery", read_only=True, idempotent=True)
async def list_content(engine: Engine, arguments: ListContent, call: Call) -> ContentList:
    """List contents with the state of their stored versions."""
    started = time.monotonic()
    page = Page(arguments.limit, arguments.offset, call)
    listing = await engine.catalog.list_in_slices("content")
    found = await _filter_contents(engine, listing.found, arguments.filter or ContentFilter())
    shown = await _first_sorted(engine, found, arguments.sort, page, CONTENT_ORDERS)
    return ContentList(
        total=len(found),
        returned=len(shown),
        next_offset=page.next_offset(len(found)),
        content=[await _describe_content(engine, each) for each in shown],
        invalid=invalid_configs(listing, page),
        invalid_total=len(listing.invalid),
        duration_ms=milliseconds_since(started),
    )


async def _filter_contents(engine: Engine, found: list[FoundConfig], wanted: ContentFilter) -> list[FoundConfig]:
    if wanted == ContentFilter():
        return found
    generated = await _generated_ids(engine) if wanted.generated is not None else set[str]()

    def fits(each: FoundConfig) -> bool:
        config = each.parsed.config
        return (
            wanted.generator_type in (None, generator_name(config))
            and wanted.stage in (None, config.evolution.stage)
            and wanted.generated in (None, config.id in generated)
        )

    return await _select(found, fits)


async def _generated_ids(engine: Engine) -> set[str]:
    """The contents of which a text is stored."""
    ids: set[str] = set()
    page = engine.store.content_ids(limit=PAGE)
    while page:
        ids.update(each for each in page if engine.store.content_state(each).kept)
        await trio.lowlevel.checkpoint()
        page = engine.store.content_ids(page[-1], limit=PAGE)
    return ids


async def _describe_content(engine: Engine, found: FoundConfig) -> ContentInfo:
    await trio.lowlevel.checkpoint()
    config = found.parsed.config
    description = config.metadata.description
    state = engine.store.content_state(config.id)
    return ContentInfo(
        id=config.id,
        title=description[:50],
        purpose=description[:100],
        generator_type=generator_name(config),
        generated=state.newest is not None,
        stage=config.evolution.stage,
        output_format=config.metadata.output_format,
        last_generated=state.newest.generated_at if state.newest else None,
        versions_available=state.kept,
    )


PAGE = 50
"""Configs after which others run: a page takes a fraction of a millisecond."""

Order = Callable[[Engine, FoundConfig], str | float]
CONTENT_ORDERS: dict[str, Order] = {
    "title": lambda _, found: found.parsed.config.metadata.description[:50].casefold(),
    "generator": lambda _, found: generator_name(found.parsed.config) or "",
    "modified": lambda engine, found: -engine.folder.modified_time(found.path),
}
"""What contents are sorted by, unless by id."""


async def _let_others_run(number: int) -> None:
    """Let others run after every few configs."""
    if number % PAGE == 0:
        await trio.lowlevel.checkpoint()


async def _first_sorted(
    engine: Engine, found: list[FoundConfig], order: str | None, page: Page, orders: Mapping[str, Order]
) -> list[FoundConfig]:
    """The configs of a page in an order; they come by id."""
    if order is None or order not in orders:
        return list(page.of(found))
    keys: list[tuple[str | float, int]] = []
    for number, each in enumerate(found):
        await _let_others_run(number)
        keys.append((orders[order](engine, each), number))
    return [found[number] for _, number in page.of(nsmallest(min(page.end, len(keys)), keys))]


# -- artifacts --------------------------------------------------------------------------------------------------


class ArtifactFilter(Struct, frozen=True, forbid_unknown_fields=True):
    type: (
        Annotated[
            Literal["documentation", "test", "code", "configuration", "report", "mixed"],
            Meta(description="Only those of this type"),
        ]
        | None
    ) = None
    stage: Stage | None = None
    assembled: Annotated[bool, Meta(description="Only those with outputs, or only those without")] | None = None


class ListArtifacts(ToolArguments):
    filter: Annotated[ArtifactFilter | None, Meta(description="Only artifacts that fit all of these")] = None
    sort: Annotated[Literal["id", "title", "assembled", "modified"], Meta(description="The order")] | None = "id"
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class ArtifactInfo(Struct, frozen=True, kw_only=True):
    id: str
    title: str
    description: str | None
    purpose: str
    type: str | None
    stage: str
    assembled: bool
    last_assembled: str | None
    component_count: int
    composition_strategy: str
    output_path: str


class Artifacts(ToolResult):
    total: int
    returned: int
    next_offset: int | None
    artifacts: list[ArtifactInfo]
    invalid: list[InvalidConfigInfo]
    invalid_total: int
    duration_ms: int


@tool(title="List artifacts", category="Discovery", read_only=True, idempotent=True)
async def list_artifacts(engine: Engine, arguments: ListArtifacts, call: Call) -> Artifacts:
    """List artifacts with their files; one is assembled when its first output exists."""
    started = time.monotonic()
    page = Page(arguments.limit, arguments.offset, call)
    listing = await engine.catalog.list_in_slices("artifact")
    found = await _filter_artifacts(engine, listing.found, arguments.filter or ArtifactFilter())
    shown = await _first_sorted(engine, found, arguments.sort, page, ARTIFACT_ORDERS)
    return Artifacts(
        total=len(found),
        returned=len(shown),
        next_offset=page.next_offset(len(found)),
        artifacts=[await _describe_artifact(engine, each) for each in shown],
        invalid=invalid_configs(listing, page),
        invalid_total=len(listing.invalid),
        duration_ms=milliseconds_since(started),
    )


async def _filter_artifacts(engine: Engine, found: list[FoundConfig], wanted: ArtifactFilter) -> list[FoundConfig]:
    if wanted == ArtifactFilter():
        return found

    def fits(each: FoundConfig) -> bool:
        config = each.parsed.config
        return (
            wanted.type in (None, config.metadata.type)
            and wanted.stage in (None, config.evolution.stage)
            and wanted.assembled in (None, engine.folder.is_file(_first_output(engine, config)))
        )

    return await _select(found, fits)


def _first_output(engine: Engine, config: ArtifactConfig) -> str:
    """The file of the first output; of one whose name is a template, one that was written."""
    name = config.metadata.outputs[0].file
    written = engine.store.outputs_of(config.id) if is_template(name) else []
    return written[0].path if written else name


def _last_assembled(engine: Engine, found: FoundConfig) -> str | None:
    output = _first_output(engine, found.parsed.config)
    known = engine.store.output(output) if engine.folder.is_file(output) else None
    return known.written_at if known else None


async def _describe_artifact(engine: Engine, found: FoundConfig) -> ArtifactInfo:
    await trio.lowlevel.checkpoint()
    config = found.parsed.config
    metadata = config.metadata
    output = _first_output(engine, config)
    return ArtifactInfo(
        id=config.id,
        title=metadata.title,
        description=metadata.description,
        purpose=metadata.purpose,
        type=metadata.type,
        stage=config.evolution.stage,
        assembled=engine.folder.is_file(output),
        last_assembled=_last_assembled(engine, found),
        component_count=len(config.content.children),
        composition_strategy=metadata.composition_strategy,
        output_path=output,
    )


ARTIFACT_ORDERS: dict[str, Order] = {
    "title": lambda _, found: found.parsed.config.metadata.title.casefold(),
    "assembled": lambda engine, found: _time_number(_last_assembled(engine, found)),
    "modified": lambda engine, found: -engine.folder.modified_time(found.path),
}
"""What artifacts are sorted by, unless by id."""


def _time_number(time: str | None) -> float:
    """A number that is lower for a later time."""
    return -datetime.fromisoformat(time).timestamp() if time else 0.0
