"""Shows a content's own examples: the elements' `example_output`, joined or placed into a template."""

from __future__ import annotations

import re
from typing import Any

from chora.generators.generator import (
    GeneratedText,
    GenerationJob,
    GeneratorOptions,
    as_text,
    fill_places,
    list_names,
    template_file,
)

NAME = "demonstration"
VERSION = "1.0.0"
DESCRIPTION = "Joins the `example_output` of the config's elements; needs no context."
CAPABILITIES = ("basic_generation", "variables")
NOTES = (
    "template is a text or a template file. Its names are those of elements, or declared in variables of the pattern: "
    "the value of one is its source, else its default."
)

Options = GeneratorOptions

_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*\}\}")
_ELEMENT = re.compile(r"elements\.([^.]+)\.example_output")


async def ingredients(job: GenerationJob) -> dict[str, str]:
    """The template file, if the template is one.

    Raises:
        GenerationFailed: it is missing or not text.
    """
    return template_file(job, NAME)


async def generate(job: GenerationJob) -> GeneratedText:
    """The template with its variables replaced, or all examples with a blank line between them.

    Raises:
        GenerationFailed: an element has no example, or a variable has no value.
        LimitExceeded: the text would be too large.
    """
    template = job.template
    if template is None:
        await check(job)
        return GeneratedText("\n\n".join(element.example_output or "" for element in job.config.elements))

    text = job.sources.get(template, template)
    values = {name: _value(job, name) for name in dict.fromkeys(_PLACE.findall(text))}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise job.failed(
            NAME,
            f"no value for {list_names(missing)}",
            "Declare it under generation.patterns[].variables with a source such as "
            f"elements.{missing[0]}.example_output, or give it a default.",
            error_type="UndefinedError",
            missing_variable=missing[0],
        )

    filled = fill_places(job, text, _PLACE, lambda place: as_text(values[place[1]]), _unescape)
    return GeneratedText(filled, (), template if template in job.sources else None)


async def check(job: GenerationJob) -> None:
    """Check that there is a template, or an example of each element."""
    missing = [element.name for element in job.config.elements if element.example_output is None]
    if missing and job.template is None:
        raise job.failed(
            NAME,
            f"no example_output for {list_names(missing)}",
            "Write elements[].example_output, or choose another generator.",
        )


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _value(job: GenerationJob, name: str) -> Any:
    """A variable's value: its declared source, else its default, else the element of its own name."""
    declared = (
        next((variable for variable in job.pattern.variables if variable.name == name), None) if job.pattern else None
    )
    source = declared.source if declared and declared.source else f"elements.{name}.example_output"
    if element := _ELEMENT.fullmatch(source):
        for index, candidate in enumerate(job.config.elements):
            if element[1] in (candidate.name, str(index)) and candidate.example_output is not None:
                return candidate.example_output
    return declared.default if declared else None
