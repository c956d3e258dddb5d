"""Tools that generate one content."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Annotated, Any, Literal

import trio
from msgspec import Meta, Struct

from chora.access import Principal, authorize
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import BuiltContent, build_content, gather_content, recall_content
from chora.engine.building.gather import GenerationInputs
from chora.engine.engine import Engine
from chora.engine.merging import count_changes
from chora.errors import Forbidden, GenerationFailed, without_folders
from chora.generators.generator import GeneratedText
from chora.hashing import sha256
from chora.llm import ModelNotAsked
from chora.protocol.types import Call
from chora.tools.tool import Context, TextResult, ToolArguments, milliseconds_since, parse_context, tool, truncate_text

ContentConfigId = Annotated[str, Meta(description="Id of a content config, as list_content_configs shows it")]


class GenerateContent(ToolArguments):
    content_config_id: ContentConfigId
    context: Context = None
    force: Annotated[bool, Meta(description="Generate it again even if nothing changed")] | None = False


Usage = Annotated[dict[str, Any] | None, Meta(description="Model, tokens and US dollars that the text took")]


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
    usage: Usage


class GeneratedContent(TextResult):
    content_id: str
    status: Literal["generated", "skipped", "regenerated"]
    content: str
    generator: str
    duration_ms: int
    metadata: GenerationMetadata


async def _recall_content(engine: Engine, arguments: GenerateContent, call: Call) -> GeneratedContent | None:
    if arguments.force:
        return None
    started = time.monotonic()
    parsed = engine.catalog.find_config("content", arguments.content_config_id).parsed
    known = await recall_content(Build(engine), parsed, CallerContext(parse_context(arguments.context)))
    return None if known is None else _generated_content(engine, known, call, started)


@tool(title="Generate content", category="Core generation", idempotent=True, long=True, quick=_recall_content)
async def generate_content(engine: Engine, arguments: GenerateContent, call: Call) -> GeneratedContent:
    """Generate the text of a content config and store it as a version.

    If config, context, templates and sources are unchanged, the stored text is returned (status `skipped`).
    """
    started = time.monotonic()
    context = parse_context(arguments.context)
    parsed = engine.catalog.find_config("content", arguments.content_config_id).parsed
    result = await build_content(Build(engine, force=bool(arguments.force)), parsed, CallerContext(context))
    return _generated_content(engine, result, call, started)


def _generated_content(engine: Engine, result: BuiltContent, call: Call, started: float) -> GeneratedContent:
    version = result.version
    head = truncate_text(version.body, call, f"content://{version.content_id}/{version.version_id}")
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
            storage_path=without_folders(str(engine.store.path or ":memory:")),
            generator_version=version.generator_version,
            version_id=version.version_id,
            generated_at=version.generated_at,
            fingerprint=version.fingerprint,
            from_cache=result.status == "skipped",
            warnings=result.warnings,
            usage=version.metadata.get("usage"),
        ),
    )


ODD_NAMES = 100
"""Variables with a name that isn't a word whose uses are counted."""


class PreviewGeneration(ToolArguments):
    content_config_id: ContentConfigId
    context: Context = None
    show_metadata: Annotated[bool, Meta(description="Also report which variables and template were used")] | None = (
        False
    )
    spend: (
        Annotated[bool, Meta(description="Allow a call of a paid model; otherwise its prompt and price are shown")]
        | None
    ) = False


def check_may_spend(engine: Engine, principal: Principal) -> None:
    """Let a principal spend money through a tool that otherwise only reads.

    Raises:
        Forbidden: the principal may only read, or everyone here may.
    """
    if engine.settings.mcp.read_only:
        raise Forbidden(
            "Nothing is spent here: this server only reads, as the setting mcp.read_only is on.",
            "Call preview_generation without spend: it shows the prompt and its price.",
            tool="preview_generation",
        )
    authorize(principal, "preview_generation with spend: true", "write")


class PreviewMetadata(Struct, frozen=True, kw_only=True):
    context_variables: list[str]
    template_path: str | None
    template_hash: str | None
    generator_type: str
    variable_usage: dict[str, int]
    """How often each variable occurs in the template and its includes."""
    cost: dict[str, Any] | None
    """What the call of the language model would cost, and what is left of the budget, in US dollars."""
    usage: Usage
    warnings: list[str]


class Preview(TextResult):
    content_id: str
    preview_content: str
    content_hash: str
    generator: str
    metadata: PreviewMetadata | None
    duration_ms: int


@tool(title="Preview a generation", category="Core generation", read_only=True, idempotent=True)
async def preview_generation(engine: Engine, arguments: PreviewGeneration, call: Call) -> Preview:
    """Generate the text of a content config without storing it. A paid model is only called if spend is true; otherwise
    its prompt replaces the text, and metadata.cost says what it would cost.
    """
    started = time.monotonic()
    if arguments.spend:
        check_may_spend(engine, call.principal)
    context = parse_context(arguments.context)
    parsed = engine.catalog.find_config("content", arguments.content_config_id).parsed
    build = Build(engine, dry=True, spend=bool(arguments.spend))
    try:
        inputs = await gather_content(build, parsed, CallerContext(context))
    except ModelNotAsked as error:  # of a source: there is no prompt of this content yet
        raise GenerationFailed(
            f"{parsed.config.id} takes a text that isn't there yet: {error.message}",
            error.hint,
            content_config_id=parsed.config.id,
            error_type="ModelNotAsked",
        ) from None
    cost = None
    try:
        made = await inputs.generate_text()
    except ModelNotAsked as error:
        cost = error.details["outlook"]
        made = GeneratedText(error.details["request"].prompt, ["this is the prompt; the model wasn't called"])
    head = truncate_text(made.text, call)
    return Preview(
        content_id=inputs.job.config.id,
        preview_content=head.text,
        truncated=head.truncated,
        content_length=head.length,
        content_hash=sha256(made.text.encode()),
        generator=inputs.generator.name,
        metadata=_preview_metadata(inputs, made, cost) if arguments.show_metadata or cost or made.usage else None,
        duration_ms=milliseconds_since(started),
    )


def _preview_metadata(inputs: GenerationInputs, made: GeneratedText, cost: dict[str, Any] | None) -> PreviewMetadata:
    texts = list(inputs.job.sources.values())
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    usage = {name: words[name] for name in inputs.variables if re.fullmatch(r"\w+", name)}
    # A template can use another name only in quotes. Each of these takes a pass over the texts.
    others = [name for name in inputs.variables if name not in usage][:ODD_NAMES]
    usage |= {name: sum(text.count(name) for text in texts) for name in others}
    unused = [f"{name} isn't used by the template" for name, count in usage.items() if texts and not count]
    template = None if made.template is None else inputs.job.sources.get(made.template)
    return PreviewMetadata(
        context_variables=inputs.variables,
        template_path=made.template,
        template_hash=None if template is None else sha256(template.encode()),
        generator_type=inputs.generator.name,
        variable_usage=usage if texts else {},
        cost=cost,
        usage=made.usage,
        warnings=[*inputs.warnings, *made.warnings, *unused],
    )


class RegenerateContent(ToolArguments):
    content_config_id: ContentConfigId
    context: Context = None
    reason: Annotated[str, Meta(max_length=2000, description="Why; stored with the version")] | None = None
    compare: Annotated[bool, Meta(description="Report what changed since the last version")] | None = True


class PreviousVersion(Struct, frozen=True, kw_only=True):
    content: str
    hash: str
    generated_at: str
    version_id: str


class TextChanges(Struct, frozen=True, kw_only=True):
    lines_added: int
    lines_removed: int
    lines_changed: int
    diff_summary: str


class RegenerationMetadata(Struct, frozen=True, kw_only=True):
    hash_new: str
    hash_old: str | None
    version_id: str
    generator_type: str
    warnings: list[str]
    usage: Usage


class RegeneratedContent(TextResult):
    content_id: str
    status: Literal["regenerated"]
    content: str
    previous_version: PreviousVersion | None
    changes: TextChanges | None
    reason: str | None
    metadata: RegenerationMetadata
    duration_ms: int


@tool(title="Regenerate content", category="Core generation", long=True)
async def regenerate_content(engine: Engine, arguments: RegenerateContent, call: Call) -> RegeneratedContent:
    """Generate the text of a content config again, changed or not, store it, and report the changes."""
    started = time.monotonic()
    context = parse_context(arguments.context)
    parsed = engine.catalog.find_config("content", arguments.content_config_id).parsed
    previous = engine.store.latest_version(parsed.config.id)
    result = await build_content(Build(engine, force=True), parsed, CallerContext(context), reason=arguments.reason)
    version = result.version
    changes = None
    if previous is not None and arguments.compare is not False:
        counted = await trio.to_thread.run_sync(count_changes, previous.body, version.body)
        changes = TextChanges(
            lines_added=counted.added,
            lines_removed=counted.removed,
            lines_changed=counted.changed,
            diff_summary=counted.summary,
        )
    head = truncate_text(version.body, call, f"content://{version.content_id}/{version.version_id}")
    return RegeneratedContent(
        content_id=version.content_id,
        status="regenerated",
        content=head.text,
        truncated=head.truncated,
        content_length=head.length,
        resource=head.resource,
        previous_version=PreviousVersion(
            content=truncate_text(previous.body, call, f"content://{previous.content_id}/{previous.version_id}").text,
            hash=previous.sha256,
            generated_at=previous.generated_at,
            version_id=previous.version_id,
        )
        if previous
        else None,
        changes=changes,
        reason=arguments.reason,
        metadata=RegenerationMetadata(
            hash_new=version.sha256,
            hash_old=previous.sha256 if previous else None,
            version_id=version.version_id,
            generator_type=version.generator,
            warnings=result.warnings,
            usage=version.metadata.get("usage"),
        ),
        duration_ms=milliseconds_since(started),
    )
