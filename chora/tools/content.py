"""Tools that make one text."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chora.engine.engine import Engine, Given, Work
from chora.engine.generate import generate, make, prepare
from chora.stamps import sha256
from chora.tools.tool import Ask, Call, Context, LongText, context_of, head_of, milliseconds_since, tool

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


class GeneratedContent(LongText):
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
    result = await generate(Work(engine, force=bool(ask.force)), parsed, Given(context))
    version = result.version
    head = head_of(version.body, call, f"content://{version.content_id}/{version.version_id}")
    return GeneratedContent(
        content_id=version.content_id,
        status=result.status,
        content=head.text,
        truncated=head.truncated,
        content_length=head.length,
        resource=head.resource,
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


class Preview(LongText):
    content_id: str
    preview_content: str
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
    prepared = await prepare(Work(engine, dry=True), parsed, Given(context))
    made = await make(prepared)
    head = head_of(made.text, call)
    return Preview(
        content_id=prepared.job.config.id,
        preview_content=head.text,
        truncated=head.truncated,
        content_length=head.length,
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
