"""What a generator is given, what it returns, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from chora.errors import GenerationFailed
from chora.generators.templates import Templates
from chora.model import ContentConfig, Pattern


class Job(NamedTuple):
    """One text to make."""

    config: ContentConfig
    pattern: Pattern | None
    context: dict[str, Any]
    templates: Templates
    undefined: Literal["strict", "lenient"]
    sources: dict[str, str]
    """What `ingredients` returned, by name."""

    def option(self, name: str, default: Any = None) -> Any:
        """A value of the pattern's `generation_config`."""
        return default if self.pattern is None else self.pattern.generation_config.get(name, default)

    def failed(self, generator: str, message: str, hint: str | None = None, **details: Any) -> GenerationFailed:
        """The error for this job, with the details every generator owes."""
        return GenerationFailed(
            f"{self.config.id}: {message}",
            hint,
            generator_type=generator,
            content_config_id=self.config.id,
            available_context=sorted(self.context),
            **details,
        )


class Made(NamedTuple):
    """A text, and what its reader should know about how it came to be."""

    text: str
    warnings: Sequence[str] = ()
    template: str | None = None


def lookup(context: dict[str, Any], dotted: str) -> Any:
    """The value at `a.b.0.c` in nested data, or None; a null counts as undefined."""
    value: Any = context
    for part in dotted.split("."):
        if isinstance(value, dict):
            value = value.get(part)  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):  # pyright: ignore[reportUnknownArgumentType]
            value = value[int(part)]  # pyright: ignore[reportUnknownVariableType]
        else:
            return None
    return value  # pyright: ignore[reportUnknownVariableType]


def as_text(value: Any) -> str:
    """How a value reads inside a text: strings as they are, everything else as JSON."""
    import msgspec

    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
