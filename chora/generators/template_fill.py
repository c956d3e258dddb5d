"""Fills `{{ dotted.name }}` places with values from the context; no logic."""

from __future__ import annotations

import re

from chora.generators.generator import (
    FillOptions,
    GeneratedText,
    GenerationJob,
    fill_names,
    template_file,
    undefined_behavior,
)

NAME = "template_fill"
VERSION = "1.0.0"
DESCRIPTION = "Replaces {{ dotted.name }} by values of the context; no loops or conditions."
CAPABILITIES = ("template", "simple_substitution")
NOTES = (
    "template is as for jinja2. A dotted name reaches into objects and lists, such as guests.0.name; null is no value. "
    "Text is written as it is, everything else as JSON. Escapes in the template (\\n, \\t, \\r, \\', \\\", \\\\) are "
    "resolved, never those in values."
)

Options = FillOptions

_ESCAPE = re.compile(r"\\([ntr'\"\\])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "'": "'", '"': '"', "\\": "\\"}


async def ingredients(job: GenerationJob) -> dict[str, str]:
    """The template file, if the template is one.

    Raises:
        GenerationFailed: it is missing or not text.
    """
    return template_file(job, NAME)


async def generate(job: GenerationJob) -> GeneratedText:
    """The filled template.

    `generation_config.undefined_behavior` says what a name without a value does: `error`, `keep` the place, or `empty`.
    By default it is an error, also in chora-compose's projects, whose jinja2 templates are lenient. Escapes such as a
    written-out \\n are resolved in the template, never in the values.

    Raises:
        GenerationFailed: no template, or an undefined name under `error`.
        LimitExceeded: the text would be too large.
    """
    template, behavior = _read_config(job)
    filled, warnings = fill_names(job, NAME, job.sources.get(template, template), behavior, unescape=_unescape)
    return GeneratedText(filled, warnings, template if template in job.sources else None)


async def check(job: GenerationJob) -> None:
    """Check that there is a template, and the option."""
    _read_config(job)


def _read_config(job: GenerationJob) -> tuple[str, str]:
    """The template, and what a name without a value does."""
    if job.template is None:
        raise job.failed(NAME, "there is no template", "Write generation.patterns[0].template.")
    lenient = "error" if job.rules == "chora-compose" else "empty"
    return job.template, undefined_behavior(job, NAME, lenient=lenient, allowed=("error", "keep", "empty"))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], text)
