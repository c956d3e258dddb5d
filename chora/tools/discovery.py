"""Tools that list generators, configs, contents and artifacts, and trace dependencies."""

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
from chora.engine.building.artifact import explain_stale_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import ContentTrace, trace_subject
from chora.engine.building.gather import generator_name
from chora.engine.building.pieces import find_child
from chora.engine.engine import Engine
from chora.errors import ChoraError, InvalidInput
from chora.generators.registry import Generator
from chora.model import ArtifactChild
from chora.protocol.types import Call
from chora.store.records import ContentState
from chora.tools.tool import ToolArguments, ToolResult, milliseconds_since, tool

Pattern = Annotated[str, Meta(max_length=255, description="Glob over ids, such as api-*")]


class ListGenerators(ToolArguments):
    generator_type: Annotated[Literal["builtin", "plugin"], Meta(description="Only these")] | None = None
    include_plugins: bool | None = True


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
    configs: list[ContentConfigInfo]
    invalid: list[InvalidConfigInfo]
    duration_ms: int


@tool(title="List content configs", category="Discovery", read_only=True, idempotent=True)
async def list_content_configs(engine: Engine, arguments: ListConfigs, call: Call) -> ContentConfigs:
    """List the content configs of the project; files that can't be read are listed under `invalid` with the reason."""
    started = time.monotonic()
    listing = engine.catalog.list_configs("content")
    configs: list[ContentConfigInfo] = []
    for found in await _match_pattern(listing, arguments.filter_pattern):
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
        total=len(configs), configs=configs, invalid=_invalid_configs(listing), duration_ms=milliseconds_since(started)
    )


class ArtifactConfigInfo(Struct, frozen=True, kw_only=True):
    id: str
    file_path: str
    description: str
    title: str
    component_count: int


class ArtifactConfigs(ToolResult):
    total: int
    configs: list[ArtifactConfigInfo]
    invalid: list[InvalidConfigInfo]
    duration_ms: int


@tool(title="List artifact configs", category="Discovery", read_only=True, idempotent=True)
async def list_artifact_configs(engine: Engine, arguments: ListConfigs, call: Call) -> ArtifactConfigs:
    """List the artifact configs of the project; files that can't be read are listed under `invalid` with the reason."""
    started = time.monotonic()
    listing = engine.catalog.list_configs("artifact")
    configs: list[ArtifactConfigInfo] = []
    for found in await _match_pattern(listing, arguments.filter_pattern):
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
        total=len(configs), configs=configs, invalid=_invalid_configs(listing), duration_ms=milliseconds_since(started)
    )


async def _match_pattern(listing: ConfigListing, pattern: str | None) -> list[FoundConfig]:
    """The configs whose ids match a glob."""
    if not pattern:
        return listing.found
    fit: list[FoundConfig] = []
    for number, found in enumerate(listing.found):
        await _let_others_run(number)
        if fnmatch.fnmatchcase(found.parsed.config.id, pattern):
            fit.append(found)
    return fit


def _invalid_configs(listing: ConfigListing) -> list[InvalidConfigInfo]:
    return [InvalidConfigInfo(file_path=broken.path, error=broken.error) for broken in listing.invalid]


# -- contents ---------------------------------------------------------------------------------------------------

Limit = Annotated[int, Meta(description="Most rows, 1 to 500")]


class ContentFilter(Struct, frozen=True, forbid_unknown_fields=True):
    generator_type: str | None = None
    generated: bool | None = None
    stage: Literal["draft", "review", "approved", "deprecated"] | None = None


class ListContent(ToolArguments):
    filter: ContentFilter | None = None
    sort: Literal["id", "title", "generator", "modified"] | None = "id"
    limit: Limit | None = 100


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
    content: list[ContentInfo]
    invalid: list[InvalidConfigInfo]
    duration_ms: int


@tool(title="List contents", category="Discovery", read_only=True, idempotent=True)
async def list_content(engine: Engine, arguments: ListContent, call: Call) -> ContentList:
    """List contents with the state of their stored versions."""
    started = time.monotonic()
    limit = _check_limit(arguments.limit)
    listing = engine.catalog.list_configs("content")
    found = await _filter_contents(engine, listing.found, arguments.filter or ContentFilter())
    shown = await _first_sorted(engine, found, arguments.sort, limit, CONTENT_ORDERS)
    return ContentList(
        total=len(found),
        returned=len(shown),
        content=[await _describe_content(engine, each) for each in shown],
        invalid=_invalid_configs(listing),
        duration_ms=milliseconds_since(started),
    )


async def _filter_contents(engine: Engine, found: list[FoundConfig], wanted: ContentFilter) -> list[FoundConfig]:
    if wanted == ContentFilter():
        return found
    generated = await _generated_ids(engine) if wanted.generated is not None else set[str]()
    fit: list[FoundConfig] = []
    for number, each in enumerate(found):
        await _let_others_run(number)
        config = each.parsed.config
        if (
            wanted.generator_type in (None, generator_name(config))
            and wanted.stage in (None, config.evolution.stage)
            and wanted.generated in (None, config.id in generated)
        ):
            fit.append(each)
    return fit


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
    engine: Engine, found: list[FoundConfig], order: str | None, limit: int, orders: Mapping[str, Order]
) -> list[FoundConfig]:
    """The first configs in an order; they come by id."""
    if order is None or order not in orders:
        return found[:limit]
    keys: list[tuple[str | float, int]] = []
    for number, each in enumerate(found):
        await _let_others_run(number)
        keys.append((orders[order](engine, each), number))
    return [found[number] for _, number in nsmallest(limit, keys)]


def _check_limit(limit: int | None) -> int:
    """The requested number of rows.

    Raises:
        InvalidInput: it is out of bounds.
    """
    limit = 100 if limit is None else limit
    if not 1 <= limit <= 500:
        raise InvalidInput(
            f"limit is {limit}; 1 to 500 are allowed.",
            "Leave it out for 100.",
            field="limit",
            value=limit,
            constraint="1 to 500",
        )
    return limit


# -- artifacts --------------------------------------------------------------------------------------------------


class ArtifactFilter(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["documentation", "test", "code", "configuration", "report", "mixed"] | None = None
    stage: Literal["draft", "review", "approved", "deprecated"] | None = None
    assembled: bool | None = None


class ListArtifacts(ToolArguments):
    filter: ArtifactFilter | None = None
    sort: Literal["id", "title", "assembled", "modified"] | None = "id"
    limit: Limit | None = 100


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
    artifacts: list[ArtifactInfo]
    invalid: list[InvalidConfigInfo]
    duration_ms: int


@tool(title="List artifacts", category="Discovery", read_only=True, idempotent=True)
async def list_artifacts(engine: Engine, arguments: ListArtifacts, call: Call) -> Artifacts:
    """List artifacts with their files; one is assembled when its first output exists."""
    started = time.monotonic()
    limit = _check_limit(arguments.limit)
    listing = engine.catalog.list_configs("artifact")
    found = await _filter_artifacts(engine, listing.found, arguments.filter or ArtifactFilter())
    shown = await _first_sorted(engine, found, arguments.sort, limit, ARTIFACT_ORDERS)
    return Artifacts(
        total=len(found),
        returned=len(shown),
        artifacts=[await _describe_artifact(engine, each) for each in shown],
        invalid=_invalid_configs(listing),
        duration_ms=milliseconds_since(started),
    )


async def _filter_artifacts(engine: Engine, found: list[FoundConfig], wanted: ArtifactFilter) -> list[FoundConfig]:
    if wanted == ArtifactFilter():
        return found
    fit: list[FoundConfig] = []
    for number, each in enumerate(found):
        await _let_others_run(number)
        config = each.parsed.config
        if (
            wanted.type in (None, config.metadata.type)
            and wanted.stage in (None, config.evolution.stage)
            and wanted.assembled in (None, engine.folder.is_file(config.metadata.outputs[0].file))
        ):
            fit.append(each)
    return fit


def _last_assembled(engine: Engine, found: FoundConfig) -> str | None:
    output = found.parsed.config.metadata.outputs[0].file
    known = engine.store.output(output) if engine.folder.is_file(output) else None
    return known.written_at if known else None


async def _describe_artifact(engine: Engine, found: FoundConfig) -> ArtifactInfo:
    await trio.lowlevel.checkpoint()
    config = found.parsed.config
    metadata = config.metadata
    output = metadata.outputs[0].file
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


# -- dependencies -----------------------------------------------------------------------------------------------


class TraceDependencies(ToolArguments):
    artifact_config_id: Annotated[str, Meta(description="Id of an artifact config")]
    check_status: Annotated[bool, Meta(description="Also report what is stored, and what has changed since")] | None = (
        True
    )
    show_metadata: Annotated[bool, Meta(description="Also report generator, versions and inputs of each")] | None = (
        False
    )


class DependencyMetadata(Struct, frozen=True, kw_only=True):
    generator_type: str | None
    last_generated: str | None
    versions_available: int
    inputs: list[str]
    """The inputs of the newest version."""


class DependencyInfo(Struct, frozen=True, kw_only=True):
    content_id: str
    path: str
    required: bool
    status: Literal["ready", "missing", "unknown"]
    order: float
    retrieval_strategy: str
    stale_because: list[str]
    error: str | None
    metadata: DependencyMetadata | None


class Dependencies(ToolResult):
    artifact_id: str
    status: Literal["ready", "incomplete", "missing_config", "unknown"]
    total_dependencies: int
    ready: int
    missing: int
    dependencies: list[DependencyInfo]
    assembly_order: list[str]
    missing_content_ids: list[str] | None
    stale_because: list[str]
    duration_ms: int


@tool(title="Trace an artifact's dependencies", category="Discovery", read_only=True, idempotent=True)
async def trace_dependencies(engine: Engine, arguments: TraceDependencies, call: Call) -> Dependencies:
    """Report what an artifact is assembled from, what of it is stored, and why its files are stale, if they are."""
    started = time.monotonic()
    parsed = engine.catalog.find_config("artifact", arguments.artifact_config_id).parsed
    check = arguments.check_status is not False
    build = Build(engine, dry=True)
    children = sorted(parsed.config.content.children, key=lambda child: child.order)
    dependencies = [await _trace_dependency(build, child, check, bool(arguments.show_metadata)) for child in children]
    missing = [each for each in dependencies if each.status == "missing"]
    if not check:
        status = "unknown"
    elif any(each.error for each in missing if each.required):
        status = "missing_config"
    else:
        status = "incomplete" if any(each.required for each in missing) else "ready"
    return Dependencies(
        artifact_id=parsed.config.id,
        status=status,
        total_dependencies=len(dependencies),
        ready=sum(each.status == "ready" for each in dependencies),
        missing=len(missing),
        dependencies=dependencies,
        assembly_order=[each.content_id for each in dependencies],
        missing_content_ids=[each.content_id for each in missing] or None,
        stale_because=await explain_stale_artifact(build, parsed, CallerContext({})) if check else [],
        duration_ms=milliseconds_since(started),
    )


async def _trace_dependency(build: Build, child: ArtifactChild, check: bool, metadata: bool) -> DependencyInfo:
    engine = build.engine
    content_id, path, generator, error = child.id, child.path, None, None
    stale: list[str] = []
    known = None
    try:
        found = find_child(engine, child)
        # The path decides: the config there may have another id, and that content is generated.
        content_id, path, generator = found.parsed.config.id, found.path, generator_name(found.parsed.config)
        known = engine.traces.latest_trace(trace_subject(found.path), ContentTrace)
        if check and known:
            stale = [change.reason for change in await build.snapshot.find_changes(known.inputs)]
    except ChoraError as problem:
        error = problem.message
    state = engine.store.content_state(content_id) if check or metadata else ContentState(0, 0, None)
    ready = error is None and state.newest is not None
    return DependencyInfo(
        content_id=content_id,
        path=path,
        required=child.required,
        status="unknown" if not check else "ready" if ready else "missing",
        order=child.order,
        retrieval_strategy=child.retrieval_strategy,
        stale_because=stale,
        error=error,
        metadata=DependencyMetadata(
            generator_type=generator,
            last_generated=state.newest.generated_at if state.newest else None,
            versions_available=state.kept,
            inputs=sorted(known.inputs) if known else [],
        )
        if metadata
        else None,
    )
