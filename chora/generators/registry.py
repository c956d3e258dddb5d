"""The registry of generators: the built-in ones and those that the settings name, each behind one class."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, Literal

from msgspec import Struct

from chora.errors import ChoraError, GenerationFailed, UsageError
from chora.files import Folder
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.plugins import load_generator, plugin_code, source_digest
from chora.settings import LlmSettings
from chora.wording import find_nearest

UNKNOWN_SHOWN = 10
"""Unknown options of one config that are warned about."""

log = logging.getLogger("chora.generators")


class Generator:
    """One generator, whatever module or class it comes from.

    Args:
        module: what `chora/generators/__init__.py` describes.
        is_plugin: whether the project brings it. What a plugin raises unexpectedly is a failed generation; what a
            built-in generator raises unexpectedly is a bug.
    """

    def __init__(self, module: ModuleType, *, is_plugin: bool = False) -> None:
        self.module = module
        self.is_plugin = is_plugin
        self.name: str = module.NAME
        self.version: str = module.VERSION
        self.description: str = module.DESCRIPTION
        self.notes: str = str(getattr(module, "NOTES", ""))
        """What an author should know besides."""
        self.capabilities: tuple[str, ...] = tuple(module.CAPABILITIES)
        self.names: tuple[str, ...] = (module.NAME, *getattr(module, "ALIASES", ()))
        """The name and the aliases."""
        self.required_context_keys: tuple[str, ...] = tuple(getattr(module, "REQUIRED_CONTEXT_KEYS", ()))
        """What the context must have."""
        self.requirements: dict[str, list[str]] = getattr(module, "REQUIREMENTS", {})
        """Fields of the config, packages and environment variables (or secrets) without which it makes nothing."""
        self.upstream_dependencies: dict[str, Any] = getattr(module, "UPSTREAM_DEPENDENCIES", {})
        """The services that it calls, as it describes them."""
        self.options: type[Struct] | None = _options_of(module)
        """Its options in `generation_config`; None for a plugin that doesn't declare them."""
        self.source_digest = source_digest(module)
        """SHA-256 of a plugin's source; empty for built-in generators, whose version says as much."""

    @property
    def kind(self) -> Literal["builtin", "plugin"]:
        return "plugin" if self.is_plugin else "builtin"

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells two generators, or two versions of one, apart; part of every fingerprint."""
        return self.name, self.version, self.source_digest

    def unknown_options(self, job: GenerationJob) -> list[str]:
        """A warning for each option in `generation_config` that it doesn't know: a misspelt one would do nothing."""
        if self.options is None or job.pattern is None:
            return []
        known = [*self.options.__struct_encode_fields__, "context"]
        unknown = sorted(job.pattern.generation_config.keys() - set(known))
        return [
            f"generation_config.{name[:80]} means nothing to {self.name}"
            + (f"; did you mean {near[0]}?" if (near := find_nearest(name, known, 1)) else "")
            for name in unknown[:UNKNOWN_SHOWN]
        ]

    async def gather_ingredients(self, job: GenerationJob) -> dict[str, str]:
        """The texts that it reads besides config and context, by name.

        Raises:
            ChoraError: what the generator raises.
            GenerationFailed: a plugin failed in a way of its own.
        """
        if not hasattr(self.module, "ingredients"):
            return {}
        with self._code(job):
            ingredients = await self.module.ingredients(job)
        if self.is_plugin and not _is_texts(ingredients):
            raise job.failed(self.name, "the plugin's ingredients are no texts by name", "Return a dict of str.")
        return ingredients

    async def check_job(self, job: GenerationJob) -> None:
        """Find what is wrong with a job whatever its context is; `job.sources` holds its ingredients.

        Raises:
            ChoraError: what the generator raises.
            GenerationFailed: a plugin failed in a way of its own.
        """
        if hasattr(self.module, "check"):
            with self._code(job):
                await self.module.check(job)

    async def generate_text(self, job: GenerationJob) -> GeneratedText:
        """The text it makes of a job; a plugin may return it bare.

        Raises:
            ChoraError: what the generator raises.
            GenerationFailed: a plugin failed in a way of its own; the log has its traceback.
        """
        with self._code(job):
            text = await self.module.generate(job)
        if isinstance(text, str):
            text = GeneratedText(text)
        if not isinstance(text, GeneratedText):
            raise job.failed(self.name, "the plugin returned no text", "Return a GeneratedText, or a str.")
        return text

    def estimate_cost(self, job: GenerationJob, settings: LlmSettings) -> float | None:
        """US dollars that the job may cost at most; None if it costs nothing or the price isn't known."""
        estimate = getattr(self.module, "estimate", None)
        if estimate is None:
            return None
        with self._code(job):
            return estimate(job, settings)

    def why_unavailable(self, settings: LlmSettings) -> str | None:
        """Why it can't be used here, None if it can. May ask the operating system's keyring, and so take time."""
        unavailable = getattr(self.module, "unavailable", None)
        if unavailable is None:
            return None
        if not self.is_plugin:
            return unavailable(settings)
        try:
            with plugin_code(_PluginFailed):
                return unavailable(settings)
        except _PluginFailed as failed:
            return f"The plugin {self.name} failed with {type(failed.__cause__).__name__}."

    def _code(self, job: GenerationJob) -> AbstractContextManager[None]:
        """Run the generator's code; a bug of a built-in generator stays one."""
        return plugin_code(partial(self._unexpected, job), (ChoraError,)) if self.is_plugin else nullcontext()

    def _unexpected(self, job: GenerationJob, error: BaseException) -> Exception:
        """What to raise for an error of a plugin that the contract doesn't know."""
        kind = type(error).__name__
        log.error("the generator %s failed while generating %s", self.name, job.config.id, exc_info=error)
        return job.failed(
            self.name,
            f"the plugin {self.name} failed with {kind}",
            "The log has the traceback; the plugin's author knows more.",
            error_class=GenerationFailed,
            error_type=kind,
        )


def _options_of(module: ModuleType) -> type[Struct] | None:
    found: object = getattr(module, "Options", None)
    return found if isinstance(found, type) and issubclass(found, Struct) else None


class _PluginFailed(Exception):
    """A plugin failed where no job says for what."""


class GeneratorRegistry:
    """The generators of one project.

    Args:
        builtin: the modules that chora brings.
        plugins: modules that can be imported, or `.py` files of the project, one generator each.
        folder: the project.

    Raises:
        UsageError: a plugin can't be loaded, lacks a part, or has a name that is taken.
    """

    def __init__(self, builtin: Sequence[ModuleType], plugins: Sequence[str], folder: Folder) -> None:
        self._generators = [Generator(module) for module in builtin]
        by_name = {name: generator for generator in self._generators for name in generator.names}
        for spec in plugins:
            generator = Generator(load_generator(spec, folder), is_plugin=True)
            for name in generator.names:
                if name in by_name:
                    raise UsageError(
                        f"The generator {spec} can't be used: the name {name} is taken by another one.",
                        "Give it another NAME, or remove it from the setting plugins.generators.",
                        setting="plugins.generators",
                        plugin=spec,
                    )
                by_name[name] = generator
            self._generators.append(generator)
        self.by_name: Mapping[str, Generator] = by_name
        """Every generator by its name and its aliases."""

    def list_generators(self) -> list[Generator]:
        """Every generator once: the built-in ones, then the project's in the order of the settings."""
        return list(self._generators)

    def digest(self, name: str) -> str:
        """What tells one version of the generator of this name from another."""
        generator = self.by_name.get(name)
        return " ".join(generator.identity) if generator else "unknown"


def _is_texts(ingredients: Any) -> bool:
    return isinstance(ingredients, dict) and all(
        isinstance(name, str) and isinstance(text, str)
        for name, text in ingredients.items()  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    )
