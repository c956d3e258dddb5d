"""Gathering the context of one text: `LEVELS` says which value of a name wins. Objects merge deeply, everything else
replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec

from chora.errors import GenerationFailed, LimitExceeded
from chora.model import (
    ContentConfig,
    ContentMetadata,
    ContentSchemaRef,
    Declaration,
    Source,
    Sources,
    split_context,
)
from chora.sources import BY_TYPE
from chora.sources.selectors import select
from chora.sources.source import NothingStored, SourceAccess, SourceFailed

LEVELS = {
    "reserved names": "nothing: content_id, artifact_id, collection_id, collection_name and member_id",
    "the pattern": "generation.patterns[0].generation_config.context of the content, by name",
    "sources": "inputs.sources of the content, each over those before it; one without an id gives its keys",
    "the collection": "its shared context and that of the member, as the propagation says",
    "the caller": "context of the call, or -c on the command line",
}
"""Where a context comes from, low to high, and where that is written. Artifacts give none of their own."""

NOTHING_STORED = "NothingStored"
"""The `error_type` of a source that has no value only because no text is stored yet."""
SOURCES_LIMIT = 20_000_000
"""Bytes that the values of one content's sources may have together, as JSON."""


class GatheredContext(NamedTuple):
    """A merged context, and what was missing on the way."""

    context: dict[str, Any]
    warnings: list[str]
    reserved_names: list[str]
    """The reserved names in it, which nothing else defines."""
    complete: bool
    """Whether every source had a value."""


def deep_merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Lay `high` over `low`: objects merge deeply, arrays and scalars replace. Neither is changed."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = deep_merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


def json_type(value: Any) -> str:
    """The JSON name of a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


async def gather_context(
    config: ContentConfig,
    generator: str,
    caller: dict[str, Any],
    access: SourceAccess,
    reserved: Mapping[str, str] | None = None,
) -> GatheredContext:
    """Resolve every source of a content config and merge it with what the caller gave.

    Args:
        config: the content config.
        generator: the name of the generator that will use the context.
        caller: the caller's context.
        access: what sources may use.
        reserved: values for names that nothing else defines.

    Raises:
        GenerationFailed: a required source has no value, or a declared variable is missing.
        LimitExceeded: the sources have too much data.
        Busy, StorageError, StorageFailed: the server, not a source, is at fault.
    """
    return await _ContextBuilder(config, generator, access).build_context(caller, reserved or {})


async def gather_shared_context(name: str, sources: Sources, access: SourceAccess) -> tuple[dict[str, Any], list[str]]:
    """Resolve sources that belong to no content; returns the context, and warnings.

    Raises:
        as `gather_context`; `name` is whose they are, for the error.
    """
    if not sources.sources:
        return {}, []
    gathered = await gather_context(unstored_content(name, name, sources), "", {}, access)
    return {key: value for key, value in gathered.context.items() if key != "content_id"}, gathered.warnings


def unstored_content(id: str, description: str, sources: Sources | None = None) -> ContentConfig:
    """A content config without a file, for what is gathered or rendered as a content is, but belongs to none."""
    return ContentConfig(
        type="content",
        id=id,
        schema_ref=ContentSchemaRef(id="content-schema", version="3.1"),
        metadata=ContentMetadata(description=description, version="1.0.0"),
        inputs=sources or Sources(),
    )


def declared_files(config: ContentConfig) -> list[Source]:
    """The files whose values a pattern's context declares, as sources."""
    patterns = config.generation.patterns
    data, _ = split_context(patterns[0].generation_config.get("context", {}) if patterns else {})
    return [source for name, value in data.items() if (source := _declared_file(name, value)) is not None]


def _declared_file(name: str, value: Any) -> Source | None:
    if isinstance(value, dict) and cast("dict[str, Any]", value).get("source") == "file":
        return Source(id=name, type="external_file", locator=str(cast("dict[str, Any]", value).get("path", "")))
    return None


class _ContextBuilder:
    """Gathers one context."""

    def __init__(self, config: ContentConfig, generator: str, access: SourceAccess) -> None:
        self._config = config
        self._generator = generator
        self._access = access._replace(warn=self._warn)
        self._context: dict[str, Any] = {"content_id": config.id}
        self._warnings: list[str] = []
        self._complete = True
        self._source = ""
        self._bytes_left = SOURCES_LIMIT

    def _warn(self, warning: str) -> None:
        self._warnings.append(f"The source {self._source}: {warning}")

    async def build_context(self, caller: dict[str, Any], reserved: Mapping[str, str]) -> GatheredContext:
        patterns = self._config.generation.patterns
        data, declarations = split_context(patterns[0].generation_config.get("context", {}) if patterns else {})
        for name, value in data.items():
            if (source := _declared_file(name, value)) is not None:
                await self._add_source(source)
            else:
                self._context = deep_merge(self._context, {name: value})
        for source in self._config.inputs.sources:
            await self._add_source(source)
        self._context = deep_merge(self._context, caller)
        reserved_names = [name for name in reserved if name not in self._context]
        self._context.update({name: reserved[name] for name in reserved_names})
        for declaration in declarations:
            self._check_variable(declaration)
        return GatheredContext(self._context, self._warnings, reserved_names, self._complete)

    async def _add_source(self, source: Source) -> None:
        """Merge the value of one source under its id; without an id, merge the object itself."""
        self._source = name = source.id or source.locator
        try:
            added = await self._value_of(source)
        except SourceFailed as failed:
            if source.required:
                raise self._failed(
                    f"the source {name} has no value: {failed}.",
                    "Fix the source, or mark it `required: false`; manual://sources describes every type.",
                    error_type=NOTHING_STORED if isinstance(failed, NothingStored) else "SourceFailed",
                    source_id=name,
                    source_type=source.type,
                    error=str(failed),
                ) from None
            self._complete = False
            self._warnings.append(f"The optional source {name} has no value: {failed}")
            added: dict[str, Any] = {source.id: None} if source.id else {}
        self._bytes_left -= len(msgspec.json.encode(added))
        if self._bytes_left < 0:
            raise LimitExceeded(
                f"{self._config.id}: its sources have more than {SOURCES_LIMIT:,} bytes together.",
                "Take the parts that are needed with selectors.",
                limit="content.sources",
                content_config_id=self._config.id,
            )
        self._context = deep_merge(self._context, added)

    async def _value_of(self, source: Source) -> dict[str, Any]:
        source_module = BY_TYPE[source.type]
        value = await source_module.fetch(source, self._access)
        if source.selector not in getattr(source_module, "SELECTORS", ()):
            value = await select(value, source, self._access)
        if source.id:
            return {source.id: value}
        if not isinstance(value, dict):
            raise SourceFailed("its value is not an object, so it needs an `output_as` or `id`")
        return cast("dict[str, Any]", value)

    def _check_variable(self, declaration: Declaration) -> None:
        """Check a declared variable: it has a value of its type, else the default, else it is an error if required."""
        name = declaration.name
        if name not in self._context:
            if declaration.has_default:
                self._context[name] = declaration.default
            elif declaration.required:
                about = f" ({declaration.description})" if declaration.description else ""
                raise self._failed(
                    f"the context lacks {name}{about}.",
                    f"Pass it in context, for example {msgspec.json.encode({name: '…'}).decode()}.",
                    error_type="MissingVariable",
                    missing_variable=name,
                )
            return
        wanted, received = declaration.type, json_type(self._context[name])
        if wanted == "integer" and isinstance(self._context[name], int) and received == "number":
            received = "integer"
        if wanted not in (None, received):
            raise self._failed(
                f"{name} is of type {received}, not {wanted}.",
                f"Pass {name} as {wanted} in context.",
                error_type="WrongType",
                variable=name,
                expected_type=wanted,
                received_type=received,
            )

    def _failed(self, message: str, hint: str, **details: Any) -> GenerationFailed:
        return GenerationFailed(
            f"{self._config.id}: {message}",
            hint,
            generator_type=self._generator,
            content_config_id=self._config.id,
            available_context=sorted(self._context),
            **details,
        )
