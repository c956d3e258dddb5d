"""The generators that content configs can name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chora.errors import GeneratorNotFound
from chora.generators.registry import Generator
from chora.manual.examples import GENERATOR_EXAMPLES
from chora.manual.tables import option_tables
from chora.protocol.types import Resource
from chora.resources.family import JSON, Listed, ResourceContext, format_json
from chora.resources.uris import Arguments
from chora.skeletons import skeleton


def read_generator(context: ResourceContext, arguments: Arguments) -> str:
    name, registry = arguments["generator_type"], context.engine.generators
    if (generator := registry.by_name.get(name)) is not None:
        return format_json({**describe_generator(context, generator), **_describe_use(generator)})
    # How chora-compose listed them.
    wanted = {"list": ("builtin", "plugin"), "builtin": ("builtin",), "plugins": ("plugin",)}.get(name)
    if wanted is not None:
        shown = [describe_generator(context, each) for each in registry.list_generators() if each.kind in wanted]
        return format_json({"generators": shown, "total_count": len(shown)})
    names = [each.name for each in registry.list_generators()]
    raise GeneratorNotFound(
        f"There is no generator {name!r}.",
        f"There are {', '.join(names)}.",
        generator_type=name,
        available_generators=names,
    )


def describe_generator(context: ResourceContext, generator: Generator) -> dict[str, Any]:
    return {
        "type": generator.name,
        "name": generator.name,
        "version": generator.version,
        "source": generator.kind,
        "description": generator.description,
        "capabilities": list(generator.capabilities),
        "module": generator.module.__name__,
        "required_context_keys": list(generator.required_context_keys),
    }


def _describe_use(generator: Generator) -> dict[str, Any]:
    """How a config uses it: its options, as the manual has them, the smallest config, and examples."""
    examples = GENERATOR_EXAMPLES.get(generator.name, ()) if not generator.is_plugin else ()
    return {
        "notes": generator.notes,
        "options": [table.as_dict() for table in option_tables(generator.options)] if generator.options else [],
        "skeleton": skeleton("content", generator.name),
        "examples": [{"about": each.about, "config": each.config, "text": each.text} for each in examples],
        "manual": ["manual://generators", "manual://content", "manual://context"],
    }


def generator_names(context: ResourceContext, arguments: Arguments) -> list[str]:
    return sorted(context.engine.generators.by_name)


def list_generators(context: ResourceContext, after: str) -> Iterator[Listed]:
    found = (each for each in context.engine.generators.list_generators() if each.name > after)
    for generator in sorted(found, key=lambda each: each.name):
        yield generator.name, Resource(f"generator://{generator.name}", generator.name, generator.description, JSON)
