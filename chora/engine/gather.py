"""Gathering the context of one text.

Low to high: reserved names < the pattern's own context < sources < the caller. Objects merge deeply, everything
else replaces.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from chora.engine.engine import Engine
from chora.errors import GenerationFailed
from chora.model import ContentConfig, Declaration, Pattern, Source, split_context
from chora.sources import BY_TYPE
from chora.sources.selectors import select
from chora.sources.source import Reach, SourceFailed

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


class Gathered(NamedTuple):
    """A merged context, and what was missing on the way."""

    context: dict[str, Any]
    warnings: list[str]


def merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Lay `high` over `low`: objects merge deeply, arrays and scalars replace. Neither is changed."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


async def gather(
    engine: Engine, config: ContentConfig, pattern: Pattern | None, caller: dict[str, Any], reach: Reach
) -> Gathered:
    """Resolve every source of a content config and merge it with what the caller gave.

    Raises:
        GenerationFailed: a required source has no value, or the caller owes a declared variable.
    """
    own: dict[str, Any] = pattern.generation_config.get("context") or {} if pattern else {}
    data, declarations = split_context(own)
    warnings: list[str] = []
    context: dict[str, Any] = {"content_id": config.id}
    for name, value in data.items():
        if isinstance(value, dict) and cast("dict[str, Any]", value).get("source") == "file":
            path = str(cast("dict[str, Any]", value).get("path", ""))
            source = Source(id=name, type="external_file", locator=path)
            context = merge(context, await _value_of(engine, config, source, reach, warnings))
        else:
            context = merge(context, {name: value})
    for source in config.inputs.sources:
        context = merge(context, await _value_of(engine, config, source, reach, warnings))
    context = merge(context, caller)
    for declaration in declarations:
        _settle(config, declaration, context)
    return Gathered(context, warnings)


async def _value_of(
    engine: Engine, config: ContentConfig, source: Source, reach: Reach, warnings: list[str]
) -> dict[str, Any]:
    """What one source adds to the context: itself under its id, or, without an id, an object's own names."""
    try:
        maker = BY_TYPE.get(source.type)
        if maker is None:
            raise SourceFailed(f"sources of type {source.type} are not available; there are {', '.join(BY_TYPE)}")
        value = select(await maker.fetch(source, reach), source.selector)
        if source.id:
            return {source.id: value}
        if not isinstance(value, dict):
            raise SourceFailed("its value is not an object, so it needs an `output_as` or `id` to go by")
        return cast("dict[str, Any]", value)
    except SourceFailed as failed:
        name = source.id or source.locator
        if source.required:
            raise GenerationFailed(
                f"{config.id}: the source {name} has no value: {failed}.",
                "Mend the source, or mark it `required: false`.",
                content_config_id=config.id,
                source_id=name,
                source_type=source.type,
                error=str(failed),
            ) from None
        warnings.append(f"The optional source {name} has no value: {failed}")
        return {source.id: None} if source.id else {}


def _settle(config: ContentConfig, declaration: Declaration, context: dict[str, Any]) -> None:
    """Hold the caller to a declared variable: its value, else the default, else an error if it is required."""
    name = declaration.name
    if name not in context:
        if declaration.has_default:
            context[name] = declaration.default
        elif declaration.required:
            raise GenerationFailed(
                f"{config.id}: the context lacks {name}{_about(declaration)}.",
                f"Pass it in context, for example {{{name!r}: …}}.",
                content_config_id=config.id,
                missing_variable=name,
                available_context=sorted(context),
            )
        return
    wanted = TYPES.get(declaration.type or "")
    value = context[name]
    if wanted and not (isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))):
        raise GenerationFailed(
            f"{config.id}: {name} must be {declaration.type}, not {type(value).__name__}.",
            None,
            content_config_id=config.id,
            variable=name,
            expected_type=declaration.type,
            received_type=type(value).__name__,
        )


def _about(declaration: Declaration) -> str:
    return f" ({declaration.description})" if declaration.description else ""
