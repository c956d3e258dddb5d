"""Tools that assemble files."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chora.engine.building.artifact import CURRENT, PlannedOutput, build_artifact, find_orphans_of, plan_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.engine import Engine
from chora.engine.orphans import SHOWN, Orphan
from chora.engine.outputs import Action
from chora.model import ArtifactConfig
from chora.protocol.types import Call
from chora.tools.tool import Context, ToolArguments, ToolResult, milliseconds_since, parse_context, tool


class AssembleArtifact(ToolArguments):
    artifact_config_id: Annotated[str, Meta(description="Id of an artifact config, as list_artifact_configs shows it")]
    output_path: Annotated[str, Meta(description="File to write instead of the config's first output")] | None = None
    force: Annotated[bool, Meta(description="Generate every child again")] | None = False
    context: Context = None
    dry_run: Annotated[bool, Meta(description="Only report what would be written, and why")] | None = False


class Component(Struct, frozen=True):
    content_id: str
    size_bytes: int


class PlannedFile(Struct, frozen=True, kw_only=True):
    path: str
    action: Action
    reasons: list[str]
    diff: str
    conflicts: int = 0
    """Conflicts between an edit and the new text that will be marked in it."""


class OrphanFile(Struct, frozen=True, kw_only=True):
    path: str
    reason: str
    edited: bool
    """Whether a person edited it; such a file is never deleted."""


class Orphans(Struct, frozen=True):
    """Files of earlier builds that nothing writes any more; `chora gc --outputs` deletes them."""

    count: int = 0
    files: list[OrphanFile] = []
    """The first of them."""


def describe_orphans(orphans: list[Orphan]) -> Orphans:
    """Orphans as in results: how many, and the first of them."""
    files = [OrphanFile(path=each.path, reason=each.reason, edited=each.state == "edited") for each in orphans[:SHOWN]]
    return Orphans(len(orphans), files)


class AssemblyMetadata(Struct, frozen=True, kw_only=True):
    missing_content: list[str]
    generated_content: list[str]
    composition_strategy: str
    components: list[Component]
    separator: str
    outputs: list[str]
    excluded_content: list[str]
    """Children whose condition is false."""
    generated_at: str | None
    warnings: list[str]
    plan: list[PlannedFile]
    """In a dry run, the planned action for each file."""
    conflicts: list[str] = []
    """Files in which conflicts between an edit and the new text are marked, until they are settled."""
    orphans: Orphans = Orphans()


class AssembledArtifact(ToolResult):
    artifact_id: str
    output_path: str
    content_count: int
    size_bytes: int
    status: Literal["assembled", "skipped", "reassembled"]
    duration_ms: int
    metadata: AssemblyMetadata


@tool(title="Assemble an artifact", category="Core generation", destructive=True, idempotent=True, long=True)
async def assemble_artifact(engine: Engine, arguments: AssembleArtifact, call: Call) -> AssembledArtifact:
    """Compose an artifact's contents in order and write its output files; missing contents are generated.

    Unchanged outputs are not written again (status `skipped`). A file edited by hand is never overwritten.
    """
    started = time.monotonic()
    context = parse_context(arguments.context)
    parsed = engine.catalog.find_config("artifact", arguments.artifact_config_id).parsed
    if arguments.dry_run:
        build = Build(engine, force=bool(arguments.force), dry=True)
        planned = await plan_artifact(build, parsed, CallerContext(context), output_path=arguments.output_path)
        given = arguments.output_path is not None
        orphans = [] if given else await find_orphans_of(build, parsed, [file.path for file in planned])
        return _planned_artifact(parsed.config, planned, orphans, milliseconds_since(started))
    build = Build(engine, force=bool(arguments.force), progress=call.progress)
    result = await build_artifact(build, parsed, CallerContext(context), output_path=arguments.output_path)
    pieces = result.pieces
    return AssembledArtifact(
        artifact_id=result.artifact_id,
        output_path=result.output_path,
        content_count=len(pieces.pieces),
        size_bytes=result.size,
        status=result.status,
        duration_ms=milliseconds_since(started),
        metadata=AssemblyMetadata(
            missing_content=pieces.missing,
            generated_content=[piece.content_id for piece in pieces.pieces if piece.generated],
            composition_strategy=result.strategy,
            components=[Component(piece.content_id, piece.size) for piece in pieces.pieces],
            separator=parsed.config.metadata.composition_config.separator,
            outputs=result.outputs,
            excluded_content=pieces.excluded,
            generated_at=result.generated_at,
            warnings=pieces.warnings,
            plan=[],
            conflicts=result.conflicts,
            orphans=describe_orphans(result.orphans),
        ),
    )


def _planned_artifact(
    config: ArtifactConfig, planned: list[PlannedOutput], orphans: list[Orphan], duration_ms: int
) -> AssembledArtifact:
    actions = {file.action for file in planned}
    return AssembledArtifact(
        artifact_id=config.id,
        output_path=planned[0].path,
        content_count=len(config.content.children),
        size_bytes=planned[0].size,
        status="skipped" if actions <= CURRENT else "assembled" if "create" in actions else "reassembled",
        duration_ms=duration_ms,
        metadata=AssemblyMetadata(
            missing_content=[],
            generated_content=[],
            composition_strategy=config.metadata.composition_strategy,
            components=[],
            separator=config.metadata.composition_config.separator,
            outputs=[file.path for file in planned],
            excluded_content=[],
            generated_at=None,
            warnings=[],
            plan=[describe_planned_file(file) for file in planned],
            conflicts=[file.path for file in planned if file.conflicts],
            orphans=describe_orphans(orphans),
        ),
    )


def describe_planned_file(file: PlannedOutput) -> PlannedFile:
    """The planned action for a file, as in results."""
    return PlannedFile(
        path=file.path, action=file.action, reasons=file.reasons, diff=file.diff, conflicts=file.conflicts
    )
