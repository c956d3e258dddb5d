"""The tool that traces what an artifact is assembled from."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chora.engine.building.artifact import explain_stale_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import ContentTrace, trace_subject
from chora.engine.building.gather import generator_name
from chora.engine.building.pieces import find_child
from chora.engine.engine import Engine
from chora.engine.inputs import UNFINISHED
from chora.errors import ChoraError
from chora.model import ArtifactChild
from chora.protocol.types import Call
from chora.store.records import ContentState
from chora.tools.tool import ToolArguments, ToolResult, milliseconds_since, tool


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
            inputs=sorted(name for name in known.inputs if name != UNFINISHED) if known else [],
        )
        if metadata
        else None,
    )
