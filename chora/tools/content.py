"""Tools that make one text."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chora.engine.engine import Engine
from chora.engine.generate import generate, make, prepare
from chora.stamps import sha256
from chora.tools.tool import Ask, Call, Context, Result, context_of, milliseconds_since, tool

ContentConfigId = Annotated[str, Meta(description="Id of a content config, as list_content_configs shows it")]


class GenerateContent(Ask):
    content_config_id: ContentConfigId
    context: Context = None
    force: Annotated[bool, Meta(description="Make it again even if nothing changed")] | None = False


class GenerationMetadata(Struct, frozen=True, kw_only=True):
    context_variables: list[str]
    ephemeral_stored: bool
    storage_path: str
    generator_version: str
    version_id: str
    generated_at: str
    fingerprint: str
    from_cache: bool
    warnings: list[str]


class GeneratedContent(Result):
    content_id: str
    status: Literal["generated", "skipped", "regenerated"]
    content: str
    generator: str
    duration_ms: int
    metadata: GenerationMetadata


@tool(title="Generate content", category="content", idempotent=True)
async def generate_content(engine: Engine, ask: GenerateContent, call: Call) -> GeneratedContent:
    """Generate the text of a content config and store it as a version.

    If config, context, templates and sources are unchanged, the stored text is returned (status `skipped`).
    """
    started = time.monotonic()
    context = context_of(ask.context)
    parsed = engine.catalog.find("content", ask.content_config_id).parsed
    result = await generate(engine, parsed, context, force=bool(ask.force))
    version = result.version
    return GeneratedContent(
        content_id=version.content_id,
        status=result.status,
        content=version.body,
        generator=version.generator,
        duration_ms=milliseconds_since(started),
        metadata=GenerationMetadata(
            context_variables=result.variables,
            ephemeral_stored=True,
            storage_path=str(engine.store.path or ":memory:"),
            generator_version=version.generator_version,
            version_id=version.version_id,
            generated_at=version.generated_at,
            fingerprint=version.fingerprint,
            from_cache=result.status == "skipped",
            warnings=result.warnings,
        ),
    )


class PreviewGeneration(Ask):
    content_config_id: ContentConfigId
    context: Context = None
    show_metadata: Annotated[bool, Meta(description="Also tell which variables and template were used")] | None = False


class PreviewMetadata(Struct, frozen=True, kw_only=True):
    context_variables: list[str]
    template_path: str | None
    generator_type: str
    warnings: list[str]


class Preview(Result):
    content_id: str
    preview_content: str
    content_length: int
    content_hash: str
    generator: str
    metadata: PreviewMetadata | None
    duration_ms: int


@tool(title="Preview a generation", category="content", read_only=True, idempotent=True)
async def preview_generation(engine: Engine, ask: PreviewGeneration, call: Call) -> Preview:
    """Generate the text of a content config without storing anything."""
    started = time.monotonic()
    context = context_of(ask.context)
    parsed = engine.catalog.find("content", ask.content_config_id).parsed
    prepared = await prepare(engine, parsed, context, dry=True)
    made = await make(prepared)
    return Preview(
        content_id=prepared.job.config.id,
        preview_content=made.text,
        content_length=len(made.text),
        content_hash=sha256(made.text.encode()),
        generator=prepared.generator.NAME,
        metadata=PreviewMetadata(
            context_variables=prepared.variables,
            template_path=made.template,
            generator_type=prepared.generator.NAME,
            warnings=[*prepared.warnings, *made.warnings],
        )
        if ask.show_metadata
        else None,
        duration_ms=milliseconds_since(started),
    )
