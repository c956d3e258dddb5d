"""Fills `{{ dotted.name }}` places with values from the context; no logic."""

from __future__ import annotations

import re

from chora.generators.generator import Job, Made, as_text, fill, listed, lookup, template_file

NAME = "template_fill"
VERSION = "1.0.0"
DESCRIPTION = "Replaces {{ dotted.name }} by values of the context; no loops or conditions."
CAPABILITIES = ("template", "simple_substitution")

_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*\}\}")
_ESCAPE = re.compile(r"\\([ntr'\"\\])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "'": "'", '"': '"', "\\": "\\"}


async def ingredients(job: Job) -> dict[str, str]:
    """The template file, if the template is one.

    Raises:
        GenerationFailed: it is missing or not text.
    """
    return template_file(job, NAME)


async def generate(job: Job) -> Made:
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
    text = job.sources.get(template, template)
    behaviour = job.option("undefined_behavior", "error" if job.undefined == "strict" else "empty")
    if behaviour not in ("error", "strict", "keep", "empty"):
        raise job.failed(NAME, f"undefined_behavior is {behaviour!r}", "Write error, keep or empty.")

    missing = [name for name in dict.fromkeys(_PLACE.findall(text)) if lookup(job.context, name) is None]
    if missing and behaviour in ("error", "strict"):
        raise job.failed(
            NAME,
            f"no value for {listed(missing)}",
            "Pass it in context, add a source for it, or set generation_config.undefined_behavior.",
            error_type="UndefinedError",
            missing_variable=missing[0],
        )

    def value_at(place: re.Match[str]) -> str:
        value = lookup(job.context, place[1])
        if value is None:
            return place[0] if behaviour == "keep" else ""
        return as_text(value)

    filled = fill(job, text, _PLACE, value_at, _unescape)
    left = "as it stands" if behaviour == "keep" else "empty"
    warnings = [f"{name} has no value and was left {left}" for name in missing]
    return Made(filled, warnings, template if template in job.sources else None)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], text)
