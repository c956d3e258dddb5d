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

    `generation_config.undefined_behavior` says what an undefined name does: `error`, `keep` the place, or
    `empty`. Escapes such as a written-out \\n are resolved in the template, never in the values.

    Raises:
        GenerationFailed: no template, or an undefined name under `error`.
        LimitExceeded: the text would be too large.
    """
    template = job.template
    if template is None:
        raise job.failed(NAME, "there is no template", "Write generation.patterns[0].template.")
    behavior = undefined_behavior(job, NAME, lenient="empty", allowed=("error", "keep", "empty"))
    filled, warnings = fill_names(job, NAME, job.sources.get(template, template), behavior, unescape=_unescape)
    return GeneratedText(filled, warnings, template if template in job.sources else None)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], text)
