"""What the server, its tools, resources and generators can do."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from chora import __version__
from chora.errors import ChoraError, ConfigNotFound, ContentNotFound, InvalidContext, InvalidInput, ResourceNotFound
from chora.files import SOURCE_LIMIT
from chora.metrics import Metrics
from chora.model import STRUCTS, CollectionGeneration
from chora.protocol.types import Resource
from chora.resources.family import JSON, Family, Listed, ResourceContext, format_json
from chora.resources.generators import describe_generator
from chora.resources.tool_examples import TOOL_EXAMPLES
from chora.resources.uris import NAMESPACE, Arguments

EXAMPLES = 2
TOPICS = ("server", "tools", "resources", "generators")


def read_capabilities(context: ResourceContext, arguments: Arguments) -> str:
    match arguments["topic"]:
        case "server":
            return format_json(_describe_server(context))
        case "tools":
            # Not indented, as it is the longest: an agent that reads it pays for every blank.
            return msgspec.json.encode(_describe_tools(context)).decode()
        case "resources":
            return format_json(_describe_families(context))
        case "generators":
            return format_json(_describe_generators(context))
        case other:
            raise ResourceNotFound(f"There are no capabilities called {other!r}.", f"There are {', '.join(TOPICS)}.")


def topics(context: ResourceContext, arguments: Arguments) -> tuple[str, ...]:
    return TOPICS


def list_capabilities(context: ResourceContext, after: str) -> Iterator[Listed]:
    for topic in sorted(each for each in TOPICS if each > after):
        about = "What the server can do" if topic == "server" else f"What the {topic} can do"
        yield topic, Resource(f"capabilities://{topic}", f"{topic} capabilities", about, JSON)


def _describe_server(context: ResourceContext) -> dict[str, Any]:
    tools, settings = context.tools, context.engine.settings
    components = msgspec.json.schema(STRUCTS["artifact"])["$defs"]["ArtifactContent"]["properties"]["children"]
    batch = tools["batch_generate"].limits if "batch_generate" in tools else {}
    return {
        "name": "chora",
        "version": __version__,
        "mcp_version": context.revisions[-1] if context.revisions else None,
        "mcp_versions": list(context.revisions),
        "features": {
            "content_generation": "generate_content" in tools,
            "artifact_assembly": "assemble_artifact" in tools,
            "collection_generation": "generate_collection" in tools,
            "config_lifecycle": {"draft_config", "test_config", "modify_config", "save_config"} <= tools.keys(),
            "batch_operations": "batch_generate" in tools,
            "ephemeral_storage": {"cleanup_ephemeral", "delete_content"} <= tools.keys(),
            "resource_providers": bool(context.families),
            "generator_plugins": bool(settings.plugins.generators),
            "capability_discovery": True,
            "validation_suggestions": False,
        },
        "limits": {
            "max_content_size_bytes": settings.render.output,
            "max_source_size_bytes": SOURCE_LIMIT,
            "max_artifact_components": components["maxItems"],
            "ephemeral_retention_days": settings.storage.retention_days,
            "max_batch_size": batch.get("contents"),
        },
        "concurrency_limits": {
            "max_concurrent_generations": settings.render.workers,
            "max_concurrent_assemblies": settings.jobs.running,
            "queue_size": settings.render.queue,
            "timeout_seconds": settings.jobs.call_budget,
            "max_parallel_generations": batch.get("at_once"),
            "max_collection_concurrency": CollectionGeneration().concurrency_limit,
        },
        "runtime": {"python": platform.python_version(), "fastmcp": None, "platform": sys.platform},
        "upstream_dependencies": [
            {"generator": each.name, **each.upstream_dependencies}
            for each in context.engine.generators.list_generators()
            if each.upstream_dependencies
        ],
        "tool_count": len(tools),
        "resource_count": sum(_count(context, family) for family in context.families),
        "generator_count": len(context.engine.generators.list_generators()),
    }


def _count(context: ResourceContext, family: Family) -> int:
    if family.count_resources is not None:
        return family.count_resources(context)
    return sum(resource is not None for _, resource in family.list_resources(context, ""))


_FAILURES: dict[str, type[ChoraError]] = {
    "context": InvalidContext,
    "content_config_id": ConfigNotFound,
    "artifact_config_id": ConfigNotFound,
    "collection_config_path": ConfigNotFound,
    "content_id": ContentNotFound,
}
"""The errors that an argument of a call may cause."""


def _describe_tools(context: ResourceContext) -> dict[str, Any]:
    by_category: dict[str, list[dict[str, Any]]] = {}
    for tool in context.tools.values():
        arguments: Iterable[str] = tool.input_schema.get("properties", {})
        failures = dict.fromkeys([InvalidInput, *(_FAILURES[name] for name in arguments if name in _FAILURES)])
        by_category.setdefault(tool.category, []).append(
            {
                "name": tool.name,
                "category": tool.category,
                "description": tool.description,
                "input_schema": tool.input_schema,
                "output_fields": _output_fields(tool.output_schema),
                "examples": [TOOL_EXAMPLES[tool.name]] if tool.name in TOOL_EXAMPLES else [],
                "common_errors": [{"code": each.code} for each in failures],
                "performance": {"typical_ms": _mean_milliseconds(context.metrics, tool.name)},
            }
        )
    return {
        "tools_by_category": by_category,
        "metadata": {
            "total_count": len(context.tools),
            "version": __version__,
            # Once for all tools: beside each they would be a tenth of it all.
            "timeout_ms": round(context.engine.settings.jobs.call_budget * 1000),
            "errors": {each.code: _error_summary(each) for each in (InvalidInput, *_FAILURES.values())},
        },
    }


def _output_fields(schema: dict[str, Any]) -> list[str]:
    """The fields of a success. The whole schemas are in `tools/list`; here they would be 40 KB."""
    return [name for name in schema["anyOf"][0]["properties"] if name != "success"]


def _error_summary(error: type[ChoraError]) -> str:
    return (error.__doc__ or error.code.replace("_", " ").capitalize()).partition("\n")[0]


def _mean_milliseconds(metrics: Metrics, tool: str) -> float | None:
    """The mean time of a tool's calls so far, in milliseconds; None before the first."""
    counts = metrics.call_seconds.counts.get((tool,))
    return round(metrics.call_seconds.sums[tool,] / sum(counts) * 1000, 3) if counts else None


def _describe_families(context: ResourceContext) -> dict[str, Any]:
    shown: dict[str, dict[str, Any]] = {}
    for family in context.families:
        one = shown.setdefault(
            family.scheme,
            {"patterns": [], "mime_type": family.mime_type, "description": "", "parameters": {}, "examples": []},
        )
        one["patterns"] += [family.template, *family.old_templates]
        one["description"] = "; ".join(part for part in (one["description"], family.description) if part)
        one["parameters"] |= {name: parameter.description for name, parameter in family.parameters.items()}
        one["examples"] += [each.uri for _, each in islice(family.list_resources(context, ""), EXAMPLES) if each]
    return {"resources": shown, "metadata": {"namespace": f"{NAMESPACE}://", "total_count": len(shown)}}


def _describe_generators(context: ResourceContext) -> dict[str, Any]:
    registry = context.engine.generators
    shown: dict[str, Any] = {}
    for generator in registry.list_generators():
        names = [name for name, each in registry.by_name.items() if each is generator]
        shown[generator.name] = {
            **describe_generator(context, generator),
            "plugin_path": generator.module.__name__ if generator.is_plugin else None,
            "status": "beta" if generator.version.startswith("0.") else "stable",
            "indicators": {"config_field": "generation.patterns[0].type", "config_values": names, "confidence": 1.0},
            "requirements": {"fields": [], "dependencies": [], "env_vars": [], **generator.requirements},
            "best_for": list(generator.capabilities),
            "docs_uri": f"generator://{generator.name}",
            "upstream_dependencies": generator.upstream_dependencies,
        }
    plugins = sum(each["source"] == "plugin" for each in shown.values())
    return {
        "generators": shown,
        "selection_strategy": {
            "type": "explicit",
            "explanation": "generation.patterns[0].type names the generator; without a pattern it is demonstration, "
            "if every element has an example_output.",
            "fallback": "demonstration",
        },
        "metadata": {
            "version": __version__,
            "generator_count": len(shown),
            "builtin_count": len(shown) - plugins,
            "plugin_count": plugins,
        },
    }
