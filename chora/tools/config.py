"""Tools for the lifecycle of a config: draft, test, save, modify."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from msgspec import Meta

from chora.config_parsing import Issue
from chora.engine import drafts
from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.tools.tool import Context, ToolArguments, ToolResult, milliseconds_since, parse_context, parse_object, tool

ConfigData = Annotated[
    Any,
    Meta(
        description="The config, as manual://CONFIG_TYPE and schema://CONFIG_TYPE say; {} is answered with a skeleton",
        extra_json_schema={"type": "object"},
    ),
]
DraftId = Annotated[str, Meta(description="The draft_id that draft_config returned")]


class DraftConfig(ToolArguments):
    config_type: Annotated[Literal["content", "artifact", "collection"], Meta(description="The kind of config")]
    config_data: ConfigData
    description: Annotated[str, Meta(max_length=1000, description="A note about the draft")] | None = None


class DraftedConfig(ToolResult):
    draft_id: str
    config_type: str
    validation_status: Literal["valid"]
    validation_issues: list[Issue]
    preview_path: str
    created_at: str
    duration_ms: int


@tool(title="Draft a config", category="Config lifecycle")
async def draft_config(engine: Engine, arguments: DraftConfig, call: Call) -> DraftedConfig:
    """Check a config and store it as a draft, without writing a file. Next: test_config, then save_config."""
    started = time.monotonic()
    document = parse_object(arguments.config_data, "config_data")
    draft, parsed = await drafts.create_draft(engine, arguments.config_type, document, arguments.description)
    return DraftedConfig(
        draft_id=draft.draft_id,
        config_type=draft.config_type,
        validation_status="valid",
        validation_issues=parsed.warnings,
        preview_path=engine.catalog.path_to_save(arguments.config_type, parsed.config.id),
        created_at=draft.created_at,
        duration_ms=milliseconds_since(started),
    )


class TestConfig(ToolArguments):
    __test__ = False  # keeps pytest from collecting it

    draft_id: DraftId
    context: Context = None
    dry_run: Annotated[bool, Meta(description="False also stores the text, under the draft's id")] | None = True


class TestedConfig(ToolResult):
    __test__ = False

    draft_id: str
    preview_content: str
    content_length: int
    generator_used: str
    validation_issues: list[Issue]
    warnings: list[str]
    estimated_cost: float | None
    duration_ms: int


@tool(title="Test a draft", category="Config lifecycle")
async def test_config(engine: Engine, arguments: TestConfig, call: Call) -> TestedConfig:
    """Generate a draft's text for inspection (the first 10,000 characters); an artifact draft is composed in memory."""
    started = time.monotonic()
    tested = await drafts.preview_draft(
        engine, arguments.draft_id, parse_context(arguments.context), store_output=arguments.dry_run is False
    )
    shown = tested.text
    if len(shown) > drafts.PREVIEW_LIMIT:
        shown = f"{shown[: drafts.PREVIEW_LIMIT]}\n… ({len(tested.text):,} characters in all)"
    return TestedConfig(
        draft_id=arguments.draft_id,
        preview_content=shown,
        content_length=len(tested.text),
        generator_used=tested.generator,
        validation_issues=tested.issues,
        warnings=tested.warnings,
        estimated_cost=tested.estimated_cost,
        duration_ms=milliseconds_since(started),
    )


class SaveConfig(ToolArguments):
    draft_id: DraftId
    config_id: Annotated[str, Meta(description="Id to save it under: lower-case letters, digits, hyphens")]
    overwrite: Annotated[bool, Meta(description="Replace an existing config, keeping a backup")] | None = False
    force: Annotated[bool, Meta(description="Save it although its last test failed")] | None = False


class SavedConfig(ToolResult):
    config_path: str
    config_id: str
    config_type: str
    backup_path: str | None
    duration_ms: int


@tool(title="Save a draft", category="Config lifecycle", destructive=True)
async def save_config(engine: Engine, arguments: SaveConfig, call: Call) -> SavedConfig:
    """Write a draft into the project's configs under an id, unless its last test_config failed. An existing config is
    kept unless overwrite is true.
    """
    started = time.monotonic()
    force = bool(arguments.force)
    try:
        saved = await drafts.save_draft(
            engine, arguments.draft_id, arguments.config_id, overwrite=bool(arguments.overwrite), force=force
        )
    except drafts.ConfigExists as error:
        about = ["save_config", arguments.draft_id, arguments.config_id, error.replaced]
        message = f"There is a config {arguments.config_id} already. Replace it? A backup of it is kept."
        agreed = None if call.client is None else await call.client.confirm(message, about)
        if agreed is None:
            raise
        if not agreed:
            raise drafts.ConfigExists(
                f"There is a config {arguments.config_id} already, and the user chose to keep it.",
                "Save the draft under another id.",
                **error.details,
            ) from None
        saved = await drafts.save_draft(
            engine, arguments.draft_id, arguments.config_id, overwrite=error.replaced, force=force
        )
    return SavedConfig(
        config_path=saved.path,
        config_id=arguments.config_id,
        config_type=saved.kind,
        backup_path=saved.backup,
        duration_ms=milliseconds_since(started),
    )


class ModifyConfig(ToolArguments):
    config_id: Annotated[str, Meta(description="A draft_id, or the id of a saved config")]
    updates: Annotated[
        Any,
        Meta(
            description="JSON Merge Patch: objects merge, arrays replace, null removes",
            extra_json_schema={"type": "object"},
        ),
    ]
    create_backup: (
        Annotated[bool, Meta(description="Keep a copy of a saved config beside it; the newest ten stay")] | None
    ) = True
    config_type: (
        Annotated[
            Literal["content", "artifact", "collection"], Meta(description="Needed if several kinds share the id")
        ]
        | None
    ) = None


class ModifiedConfigResult(ToolResult):
    config_id: str
    config_type: str
    validation_status: Literal["valid"]
    validation_issues: list[Issue]
    config_path: str | None
    backup_path: str | None
    draft_id: str | None
    duration_ms: int


@tool(title="Modify a config", category="Config lifecycle", destructive=True, idempotent=True)
async def modify_config(engine: Engine, arguments: ModifyConfig, call: Call) -> ModifiedConfigResult:
    """Patch a draft or a saved config. A patch that leaves it invalid is refused, and nothing changes."""
    started = time.monotonic()
    updates = parse_object(arguments.updates, "updates")
    modified = await drafts.modify_config(
        engine,
        arguments.config_id,
        updates,
        kind=arguments.config_type,
        create_backup=arguments.create_backup is not False,
    )
    return ModifiedConfigResult(
        config_id=arguments.config_id,
        config_type=modified.kind,
        validation_status="valid",
        validation_issues=modified.issues,
        config_path=modified.path,
        backup_path=modified.backup,
        draft_id=modified.draft_id,
        duration_ms=milliseconds_since(started),
    )
