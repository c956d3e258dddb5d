"""Tools that list generators, configs, contents and artifacts, and trace dependencies."""

from __future__ import annotations

import fnmatch
import time
from typing import Annotated, Literal

import trio
from msgspec import Meta, Struct

from chora.catalog import ConfigListing
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
    configs = [
        ContentConfigInfo(
            id=found.parsed.config.id,
            file_path=found.path,
            generator_type=generator_name(found.parsed.config),
            description=found.parsed.config.metadata.description,
            title=found.parsed.config.metadata.description[:50],
        )
        for found in listing.found
        if _matches_pattern(found.parsed.config.id, arguments.filter_pattern)
    ]
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
    configs = [
        ArtifactConfigInfo(
            id=found.parsed.config.id,
            file_path=found.path,
            description=found.parsed.config.metadata.description or found.parsed.config.metadata.purpose,
            title=found.parsed.config.metadata.title,
            component_count=len(found.parsed.config.content.children),
        )
        for found in listing.found
        if _matches_pattern(found.parsed.config.id, arguments.filter_pattern)
    ]
    return ArtifactConfigs(
        total=len(configs), configs=configs, invalid=_invalid_configs(listing), duration_ms=milliseconds_since(started)
    )


def _matches_pattern(config_id: str, pattern: str | None) -> bool:
    return not pattern or fnmatch.fnmatchcase(config_id, pattern)


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
    wanted = arguments.filter or ContentFilter()
    listing = engine.catalog.list_configs("content")
    rows: list[tuple[ContentInfo, str]] = []
    for found in listing.found:
        config = found.parsed.config
        generator = generator_name(config)
        if wanted.generator_type not in (None, generator) or wanted.stage not in (None, config.evolution.stage):
            continue
        infos = [info for info in engine.store.version_infos(config.id) if not info.deleted]
        if wanted.generated not in (None, bool(infos)):
            continue
        description = config.metadata.description
        info = ContentInfo(
            id=config.id,
            title=description[:50],
            purpose=description[:100],
            generator_type=generator,
            generated=bool(infos),
            stage=config.evolution.stage,
            output_format=config.metadata.output_format,
            last_generated=infos[-1].generated_at if infos else None,
            versions_available=len(infos),
        )
        rows.append((info, found.path))
    match arguments.sort:
        case "title":
            rows.sort(key=lambda row: row[0].title.casefold())
        case "generator":
            rows.sort(key=lambda row: row[0].generator_type or "")
        case "modified":
            rows.sort(key=lambda row: -engine.folder.modified_time(row[1]))
        case _:
            pass
    return ContentList(
        total=len(rows),
        returned=min(len(rows), limit),
        content=[info for info, _ in rows[:limit]],
        invalid=_invalid_configs(listing),
        duration_ms=milliseconds_since(started),
    )


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
    wanted = arguments.filter or ArtifactFilter()
    listing = engine.catalog.list_configs("artifact")
    rows: list[tuple[ArtifactInfo, str]] = []
    for found in listing.found:
        config = found.parsed.config
        metadata = config.metadata
        output = metadata.outputs[0].file
        assembled = engine.folder.is_file(output)
        if (
            wanted.type not in (None, metadata.type)
            or wanted.stage not in (None, config.evolution.stage)
            or wanted.assembled not in (None, assembled)
        ):
            continue
        known = engine.store.output(output) if assembled else None
        info = ArtifactInfo(
            id=config.id,
            title=metadata.title,
            description=metadata.description,
            purpose=metadata.purpose,
            type=metadata.type,
            stage=config.evolution.stage,
            assembled=assembled,
            last_assembled=known.written_at if known else None,
            component_count=len(config.content.children),
            composition_strategy=metadata.composition_strategy,
            output_path=output,
        )
        rows.append((info, found.path))
    match arguments.sort:
        case "title":
            rows.sort(key=lambda row: row[0].title.casefold())
        case "assembled":
            rows.sort(key=lambda row: row[0].last_assembled or "", reverse=True)
        case "modified":
            rows.sort(key=lambda row: -engine.folder.modified_time(row[1]))
        case _:
            pass
    return Artifacts(
        total=len(rows),
        returned=min(len(rows), limit),
        artifacts=[info for info, _ in rows[:limit]],
        invalid=_invalid_configs(listing),
        duration_ms=milliseconds_since(started),
    )


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
    infos = [info for info in engine.store.version_infos(content_id) if not info.deleted] if check or metadata else []
    ready = error is None and bool(infos)
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
            last_generated=infos[-1].generated_at if infos else None,
            versions_available=len(infos),
            inputs=sorted(known.inputs) if known else [],
        )
        if metadata
        else None,
    )
