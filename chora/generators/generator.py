"""What a generator is given, what it returns, and how it fails."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from chora import settings
from chora.catalog import OnRead
from chora.errors import GenerationFailed, LimitExceeded
from chora.files import SOURCE_LIMIT
from chora.generators.templates import Templates
from chora.llm import ModelReply, ModelRequest
from chora.model import ContentConfig, Pattern

ContextOption = Annotated[
    dict[str, Any],
    Meta(
        description="Values that the text may use, the lowest of all; {source: runtime, …} declares a variable, "
        "{source: file, path: …} reads a value"
    ),
]


class GeneratorOptions(Struct, frozen=True, kw_only=True):
    """The options that every generator takes in `generation_config`."""

    context: ContextOption = {}


class FillOptions(GeneratorOptions, frozen=True, kw_only=True):
    """The options in `generation_config` of what fills `{{ dotted.name }}` places."""

    undefined_behavior: Annotated[
        Literal["error", "keep", "empty"] | None,
        Meta(
            description="What a name without a value does: error, keep its place as it stands, or leave it empty. "
            "Without it: error, or where templates are lenient empty; template_fill has error by the rules of "
            "chora-compose"
        ),
    ] = None


class InvalidGeneratorConfig(GenerationFailed):
    """A text that can't be generated because of its config or context, which no fallback may hide."""


class GenerationJob(NamedTuple):
    """One text to generate."""

    config: ContentConfig
    pattern: Pattern | None
    context: dict[str, Any]
    templates: Templates
    undefined: Literal["strict", "lenient"]
    sources: dict[str, str]
    """What `ingredients` returned, by name."""
    on_read: OnRead | None = None
    """Called with every file that is looked up; read files with `read`."""
    llm: Callable[[ModelRequest], Awaitable[ModelReply]] | None = None
    """Asks a language model, within the budgets; None where nothing may be spent."""
    model: str = ""
    """The language model for configs that name none."""
    rules: settings.Rules = "chora"
    """Whose rules configs follow, where the two differ."""

    @property
    def template(self) -> str | None:
        """The template as the config has it: a text or the name of a file."""
        return self.pattern.template or None if self.pattern else None

    def option(self, name: str, default: Any = None) -> Any:
        """A value of the pattern's `generation_config`; null counts as absent."""
        value = None if self.pattern is None else self.pattern.generation_config.get(name)
        return default if value is None else value

    def failed(
        self,
        generator: str,
        message: str,
        hint: str,
        *,
        error_class: type[GenerationFailed] = InvalidGeneratorConfig,
        error_type: str = "InvalidConfig",
        **details: Any,
    ) -> GenerationFailed:
        """The error for this job, with the details that every failed generation has."""
        return error_class(
            f"{self.config.id}: {message}.",
            hint,
            generator_type=generator,
            error_type=error_type,
            content_config_id=self.config.id,
            available_context=sorted(self.context),
            **details,
        )

    def read(self, generator: str, name: str) -> str | None:
        """The text of a template file, or None if there is none of this name.

        Raises:
            GenerationFailed: it is not text.
            PermissionDenied, LimitExceeded: it can't be read.
        """
        try:
            return self.templates.read_template_text(name, self.on_read)
        except UnicodeDecodeError:
            raise self.failed(
                generator,
                f"the template {name} is not UTF-8 text",
                "Save the file as UTF-8.",
                error_type="UnicodeDecodeError",
                template_path=name,
            ) from None

    def template_not_found(self, generator: str, name: str) -> GenerationFailed:
        """The error for a template file that isn't there."""
        return self.failed(
            generator,
            f"there is no template {name}",
            self.templates.search_hint(),
            error_type="TemplateNotFound",
            template_path=name,
            searched_paths=self.templates.candidate_paths(name),
        )


OptionsStruct = TypeVar("OptionsStruct", bound=Struct)


def read_options(job: GenerationJob, generator: str, options: type[OptionsStruct], hint: str) -> OptionsStruct:
    """The options in the pattern's `generation_config`; null counts as absent.

    Names that aren't options are warned about elsewhere, for every generator alike, and `undefined_behavior` is read by
    the function of its name.

    Raises:
        GenerationFailed: one isn't what it may be.
    """
    given = {
        name: value
        for name in options.__struct_encode_fields__
        if name != "undefined_behavior" and (value := job.option(name)) is not None
    }
    try:
        return msgspec.convert(given, options)
    except msgspec.ValidationError as error:
        described = f"{hint} generator://{generator} describes them all."
        raise job.failed(generator, f"generation_config doesn't fit: {error}", described) from None


class GeneratedText(NamedTuple):
    """A text, and what its reader should know about its generation."""

    text: str
    warnings: Sequence[str] = ()
    template: str | None = None
    usage: dict[str, Any] | None = None
    """What a language model used for it: model, tokens and US dollars."""
    provisional: bool = False
    """It replaces a text that couldn't be generated, so the next build tries again."""


def template_file(job: GenerationJob, generator: str) -> dict[str, str]:
    """The text of the template by its name, if the template is a file; empty if it is the text itself.

    Raises:
        GenerationFailed: there is no such file.
    """
    name = job.template
    text = None if name is None else read_if_file(job, generator, name)
    return {} if name is None or text is None else {name: text}


def read_if_file(job: GenerationJob, generator: str, name: str) -> str | None:
    """The text of the file that a config names; None if what it says is the text itself.

    What looks like a file name must be a file; anything else is text.

    Raises:
        GenerationFailed: there is no such file.
    """
    if job.templates.is_inline(name):
        return None
    if (text := job.read(generator, name)) is not None:
        return text
    if not any(letter.isspace() for letter in name) and ("." in name or "/" in name):
        raise job.template_not_found(generator, name)
    return None


def fill_places(
    job: GenerationJob,
    template: str,
    places: re.Pattern[str],
    value_at: Callable[[re.Match[str]], str],
    unescape: Callable[[str], str],
) -> str:
    """The template with a value at every place.

    Args:
        job: the text to make.
        template: the template's text.
        places: what a place looks like.
        value_at: the value of a place; it is literal.
        unescape: resolves the escapes between the places.

    Raises:
        LimitExceeded: the text would be too large; a short template can ask for a long text.
    """
    parts: list[str] = []
    end, remaining = 0, SOURCE_LIMIT
    for place in places.finditer(template):
        parts += [unescape(template[end : place.start()]), value_at(place)]
        end = place.end()
        remaining -= len(parts[-2]) + len(parts[-1])
        if remaining < 0:
            raise LimitExceeded(
                f"{job.config.id}: the text would be larger than {SOURCE_LIMIT:,} characters.",
                "Use fewer or shorter values.",
                limit="content.size",
                content_config_id=job.config.id,
            )
    return "".join([*parts, unescape(template[end:])])


PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*\}\}")
"""A place for a value of the context: `{{ dotted.name }}`."""


def undefined_behavior(job: GenerationJob, generator: str, *, lenient: str, allowed: Sequence[str]) -> str:
    """What a name without a value does: as the config says, else an error, or `lenient` in a lenient project.

    Raises:
        GenerationFailed: the config says something that isn't allowed.
    """
    behavior = job.option("undefined_behavior", "error" if job.undefined == "strict" else lenient)
    if behavior == "strict":
        return "error"
    if behavior not in allowed:
        words = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise job.failed(generator, f"undefined_behavior is {behavior!r}", f"Write {words}.")
    return behavior


def fill_names(
    job: GenerationJob,
    generator: str,
    template: str,
    behavior: str,
    *,
    context: dict[str, Any] | None = None,
    unescape: Callable[[str], str] = str,
) -> tuple[str, list[str]]:
    """The template with values of the context at its `{{ dotted.name }}` places, and a warning for each missing one.

    Args:
        job: the text to make.
        generator: the generator's name.
        template: the template's text.
        behavior: what a name without a value does: `error`, `keep` its place, or `empty`.
        context: where the values are; the job's when None.
        unescape: resolves the escapes between the places.

    Raises:
        GenerationFailed: a name has no value, under `error`.
        LimitExceeded: the text would be too large.
    """
    values = job.context if context is None else context
    missing = [name for name in dict.fromkeys(PLACE.findall(template)) if lookup(values, name) is None]
    if missing and behavior == "error":
        raise job.failed(
            generator,
            f"no value for {list_names(missing)}",
            "Pass it in context, add a source for it, or set generation_config.undefined_behavior.",
            error_type="UndefinedError",
            missing_variable=missing[0],
        )

    def value_at(place: re.Match[str]) -> str:
        value = lookup(values, place[1])
        if value is None:
            return place[0] if behavior == "keep" else ""
        return as_text(value)

    left = "as it stands" if behavior == "keep" else "empty"
    warnings = [f"{name} has no value and was left {left}" for name in missing]
    return fill_places(job, template, PLACE, value_at, unescape), warnings


def lookup(context: dict[str, Any], dotted: str) -> Any:
    """The value at `a.b.0.c` in nested data, or None; a null counts as undefined."""
    value: Any = context
    for part in dotted.split("."):
        if isinstance(value, dict):
            value = value.get(part)  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
        elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):  # pyright: ignore[reportUnknownArgumentType]
            value = value[int(part)]  # pyright: ignore[reportUnknownVariableType]
        else:
            return None
    return value  # pyright: ignore[reportUnknownVariableType]


def list_names(names: Sequence[str]) -> str:
    """Names for a sentence, limited in number and length."""
    shown = ", ".join(name if len(name) <= 80 else f"{name[:79]}…" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def as_text(value: Any) -> str:
    """A value inside a text: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
