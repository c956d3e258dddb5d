"""The configs of a project, as they are written, and the schemas of their formats."""

from __future__ import annotations

from collections.abc import Iterator

from chora.catalog import FoundConfig
from chora.errors import ResourceNotFound
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
)
from chora.resources.uris import Arguments, config_uri


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
