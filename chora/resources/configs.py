"""The configs of a project, as they are written, and the schemas of their formats."""

from __future__ import annotations

from collections.abc import Iterator

from chora.catalog import FoundConfig
from chora.errors import InvalidInput, ResourceNotFound
from chora.model import KINDS, Kind, schema
from chora.protocol.types import VALUES_LIMIT, Resource
from chora.resources.family import (
    JSON,
    Family,
    Listed,
    Parameter,
    ResourceContext,
    file_stat,
    format_json,
    list_none,
)
from chora.resources.uris import Arguments, config_list_uri, config_uri, shorten

PAGE = 50
"""Configs in one list."""
INVALID_SHOWN = 10
"""Files in one list that can't be read as configs."""


def config_family(kind: Kind) -> Family:
    parameter = f"{kind}_id"

    def read(context: ResourceContext, arguments: Arguments) -> str:
        return format_json(context.engine.catalog.find_config(kind, arguments[parameter]).parsed.raw)

    def ids(context: ResourceContext, arguments: Arguments) -> list[str]:
        return context.engine.catalog.list_configs(kind).first_ids(arguments.get(parameter, ""), VALUES_LIMIT)

    def found(context: ResourceContext, after: str) -> Iterator[Listed]:
        for each in context.engine.catalog.list_configs(kind).after(after):
            config_id = each.parsed.config.id
            stat = file_stat(context, each.path, sized=False)
            yield config_id, Resource(config_uri(kind, config_id), config_id, _describe_config(each), JSON, stat)

    def count(context: ResourceContext) -> int:
        return len(context.engine.catalog.list_configs(kind).found)

    return Family(
        "config",
        f"config://{kind}/{{{parameter}}}",
        f"{kind.capitalize()} config",
        f"One of the {kind} configs, as it is written",
        JSON,
        {parameter: Parameter(f"Id of the {kind} config", ids)},
        read,
        found,
        count_resources=count,
    )


def config_list_family(kind: Kind) -> Family:
    """The list of the configs of a kind, a page at a time."""

    def read(context: ResourceContext, arguments: Arguments) -> str:
        offset = arguments["offset"] or "0"
        if not (offset.isascii() and offset.isdecimal() and len(offset) < 10):
            raise InvalidInput(
                f"The offset {shorten(offset)!r} is no number of configs.",
                f"Read {config_list_uri(kind)} for the first page; `next` in it names the following one.",
                field="offset",
                value=shorten(offset),
            )
        begin = int(offset)
        listing = context.engine.catalog.list_configs(kind)
        shown = listing.found[begin : begin + PAGE]
        end = begin + len(shown)
        broken = listing.invalid[:INVALID_SHOWN]
        return format_json(
            {
                "configs": [
                    {
                        "id": found.parsed.config.id,
                        "uri": config_uri(kind, found.parsed.config.id),
                        "file_path": found.path,
                        "description": shorten(_describe_config(found)),
                    }
                    for found in shown
                ],
                "total": len(listing.found),
                "next": config_list_uri(kind, end) if end < len(listing.found) and shown else None,
                "invalid": [{"file_path": each.path, "error": shorten(each.error)} for each in broken],
                "invalid_total": len(listing.invalid),
            }
        )

    def offsets(context: ResourceContext, arguments: Arguments) -> list[str]:
        total = len(context.engine.catalog.list_configs(kind).found)
        return [str(offset) for offset in range(0, total, PAGE)][:VALUES_LIMIT]

    return Family(
        "config",
        f"config://{kind}/{{?offset}}",
        f"{kind.capitalize()} configs",
        f"The list of the {kind} configs, {PAGE} at a time: the total, and the URI of the next page",
        JSON,
        {"offset": Parameter("Configs to leave out before; none at first", offsets, is_id=False)},
        read,
        list_none,
    )


def _describe_config(found: FoundConfig) -> str:
    match found.parsed.kind:
        case "content":
            return f"Content config: {found.parsed.config.metadata.description}"
        case "artifact":
            return f"Artifact config: {found.parsed.config.metadata.title}"
        case "collection":
            return f"Collection config: {found.parsed.config.name}"


def read_schema(context: ResourceContext, arguments: Arguments) -> str:
    for kind in KINDS:
        if kind == arguments["schema_name"]:
            return format_json(schema(kind))
    name = arguments["schema_name"]
    raise ResourceNotFound(f"There is no schema {name!r}.", f"There are {', '.join(KINDS)}.")


def schema_names(context: ResourceContext, arguments: Arguments) -> tuple[str, ...]:
    return KINDS


def list_schemas(context: ResourceContext, after: str) -> Iterator[Listed]:
    for kind in sorted(each for each in KINDS if each > after):
        yield kind, Resource(f"schema://{kind}", f"{kind} schema", f"The JSON Schema of {kind} configs", JSON)
