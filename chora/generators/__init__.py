"""The shelf of generators: how a text is made, one file each.

A generator is a module with

    NAME = "word_count"                  lower-case letters, digits, - and _; configs name it in patterns[0].type
    VERSION = "1.0.0"                    part of every fingerprint: raise it, and what it made is made anew
    DESCRIPTION = "Counts words."        one sentence
    CAPABILITIES = ("text",)             what it is good for, in keywords
    ALIASES = ()                         other names, if any

    async def generate(job: GenerationJob) -> GeneratedText

It takes values and returns text; it opens neither the store nor the network. What it needs is in the job: the config,
its first pattern and its options, the merged context, the templates. It must make the same text of the same job.
For what can't be made it raises `job.failed(NAME, what, what_to_do)`.

One that reads more than the config and the context also has `async def ingredients(job) -> dict[str, str]`, which
returns those texts by name, so that a change in any of them is noticed; `generate` finds them in `job.sources`.

A project brings its own with the setting `plugins.generators`. Nothing is loaded that isn't named there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from chora.errors import ChoraError, GenerationFailed, UsageError
from chora.files import Folder
from chora.generators import bdd_scenario, code_generation, demonstration, jinja2, template_fill
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.plugins import digest_of, load_composers, load_generator

__all__ = [
    "BY_NAME",
    "GENERATORS",
    "GeneratorRegistry",
    "digest_of",
    "gather_ingredients",
    "load_composers",
    "run_generator",
]

GENERATORS: tuple[ModuleType, ...] = (demonstration, jinja2, template_fill, bdd_scenario, code_generation)

BY_NAME: dict[str, ModuleType] = {
    name: generator for generator in GENERATORS for name in (generator.NAME, *getattr(generator, "ALIASES", ()))
}

log = logging.getLogger("chora.generators")


class GeneratorRegistry:
    """The generators of one project: ours and its own.

    Args:
        plugins: modules that can be imported, or `.py` files of the project, one generator each.
        folder: the project.

    Raises:
        UsageError: one of them can't be loaded, lacks a part, or has a name that is taken.
    """

    def __init__(self, plugins: Sequence[str], folder: Folder) -> None:
        self._all = list(GENERATORS)
        found = dict(BY_NAME)
        for spec in plugins:
            generator = load_generator(spec, folder)
            for name in (generator.NAME, *getattr(generator, "ALIASES", ())):
                if name in found:
                    raise UsageError(
                        f"The generator {spec} can't be used: the name {name} is taken by another one.",
                        "Give it another NAME, or take it out of the setting plugins.generators.",
                        setting="plugins.generators",
                        plugin=spec,
                    )
                found[name] = generator
            self._all.append(generator)
        self.by_name: Mapping[str, ModuleType] = found
        """Every generator by its name and its aliases."""

    def list_generators(self) -> list[ModuleType]:
        """Every generator once: ours, then the project's in the order of the settings."""
        return list(self._all)

    @staticmethod
    def kind_of(generator: ModuleType) -> Literal["builtin", "plugin"]:
        """Whether it is ours or the project's."""
        return "builtin" if generator in GENERATORS else "plugin"

    @staticmethod
    def digest_of(generator: ModuleType) -> str:
        """SHA-256 of a plugin's source; empty for ours, whose version says as much."""
        return digest_of(generator)


async def gather_ingredients(generator: ModuleType, job: GenerationJob) -> dict[str, str]:
    """The texts that a generator reads besides config and context, by name.

    Raises:
        ChoraError: what the generator raises.
        GenerationFailed: a plugin failed in a way of its own.
    """
    if not hasattr(generator, "ingredients"):
        return {}
    try:
        found = await generator.ingredients(job)
    except ChoraError:
        raise
    except Exception as error:
        if GeneratorRegistry.kind_of(generator) == "builtin":
            raise  # a bug of ours stays one
        raise _unexpected(generator, job, error) from error
    if GeneratorRegistry.kind_of(generator) == "plugin" and not _is_texts(found):
        raise job.failed(generator.NAME, "the plugin's ingredients are no texts by name", "Return a dict of str.")
    return found


async def run_generator(generator: ModuleType, job: GenerationJob) -> GeneratedText:
    """The text that a generator makes; a plugin may return it bare.

    Raises:
        ChoraError: what the generator raises.
        GenerationFailed: a plugin failed in a way of its own; the log has its traceback.
    """
    try:
        made = await generator.generate(job)
    except ChoraError:
        raise
    except Exception as error:
        if GeneratorRegistry.kind_of(generator) == "builtin":
            raise  # a bug of ours stays one
        raise _unexpected(generator, job, error) from error
    if isinstance(made, str):
        made = GeneratedText(made)
    if not isinstance(made, GeneratedText):
        raise job.failed(generator.NAME, "the plugin returned no text", "Return a GeneratedText, or a str.")
    return made


def _unexpected(generator: ModuleType, job: GenerationJob, error: Exception) -> GenerationFailed:
    """What to raise when a plugin fails in a way that nobody foresaw."""
    kind = type(error).__name__
    log.error("the generator %s failed while making %s", generator.NAME, job.config.id, exc_info=error)
    return job.failed(
        generator.NAME,
        f"the plugin {generator.NAME} failed with {kind}",
        "The log has the traceback; the plugin's author knows more.",
        error_type=kind,
    )


def _is_texts(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(text, str)
        for name, text in found.items()  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    )
