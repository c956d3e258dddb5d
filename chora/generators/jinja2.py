"""Renders a Jinja2 template, sandboxed, in a worker process that can be killed."""

from __future__ import annotations

import msgspec

from chora.generators.generator import Job, Made
from chora.generators.templates import TEMPLATES_LIMIT
from chora.render import Options, Render, RenderFailed

NAME = "jinja2"
VERSION = "1.0.0"
DESCRIPTION = "Renders a Jinja2 template (file or inline) with loops, conditions, filters, includes and inheritance."
CAPABILITIES = ("template", "conditionals", "loops", "filters")

INLINE = "<inline>"
"""The name an inline template goes by in errors and among the ingredients."""

_ADVICE = {
    "undefined": "Pass it in context, add a source for it, or set generation_config.undefined to lenient.",
    "template_not_found": "Templates are looked up in the project root, templates/ and configs/templates/.",
    "syntax": "Mend the template at the named line; test_config and preview_generation render without storing.",
    "security": "Templates see plain data only: no private attributes, no changing of values.",
}


async def ingredients(job: Job) -> dict[str, str]:
    """The template and every template it includes, imports or extends, by name.

    An include whose name is computed could be any template, so then all of them are ingredients.

    Raises:
        GenerationFailed: no template, a missing one, or one that doesn't parse.
    """
    name = job.pattern.template if job.pattern else None
    if not name:
        raise job.failed(NAME, "there is no template", "Write generation.patterns[0].template.")
    if job.templates.is_inline(name):
        found = {INLINE: name}
    elif (text := job.templates.read(name)) is not None:
        found = {name: text}
    else:
        raise job.failed(
            NAME,
            f"there is no template {name}",
            _ADVICE["template_not_found"],
            error_type="TemplateNotFound",
            template_path=name,
            searched_paths=job.templates.places(name),
        )
    waiting = list(found)
    while waiting:
        if len(found) > TEMPLATES_LIMIT:
            raise job.failed(NAME, f"the template uses more than {TEMPLATES_LIMIT:,} others")
        current = waiting.pop()
        try:
            scanned = await job.templates.scan(found[current])
        except RenderFailed as failure:
            raise _translated(job, failure, current) from None
        wanted = {name: job.templates.read(name) for name in scanned.references if name not in found}
        if scanned.dynamic:
            wanted.update({name: text for name, text in job.templates.all().items() if name not in found})
        # One that is missing may stand behind `ignore missing` or an `if`; the render decides.
        fresh = {name: text for name, text in wanted.items() if text is not None}
        found.update(fresh)
        waiting += fresh
    return found


async def generate(job: Job) -> Made:
    """The rendered text.

    Raises:
        GenerationFailed: the template is wrong or a variable is undefined; details name line and variable.
        LimitExceeded: it took too long, too much memory or wrote too much; the worker is gone.
        Busy: too many renders are waiting.
    """
    name = next(iter(job.sources))
    undefined = job.option("undefined", job.undefined)
    if undefined not in ("strict", "lenient"):
        raise job.failed(NAME, f"generation_config.undefined is {undefined!r}", "Write strict or lenient.")
    wanted = {key: job.option(key) for key in Options.__struct_fields__ if job.option(key) is not None}
    try:
        options = msgspec.convert(wanted, Options)
    except msgspec.ValidationError as error:
        raise job.failed(NAME, f"generation_config doesn't fit: {error}", None) from None
    try:
        rendered = await job.templates.pool.render(
            Render(
                template=None,
                name=name,
                sources=job.sources,
                context=job.context,
                undefined=undefined,
                options=options,
            )
        )
    except RenderFailed as failure:
        raise _translated(job, failure, name) from None
    warnings = [f"{variable} is undefined and was rendered empty" for variable in rendered.undefined_names]
    return Made(rendered.text, warnings, None if name == INLINE else name)


_ERROR_TYPES = {
    "undefined": "UndefinedError",
    "syntax": "TemplateSyntaxError",
    "template_not_found": "TemplateNotFound",
    "security": "SecurityError",
}


def _translated(job: Job, failure: RenderFailed, name: str) -> Exception:
    failed = failure.failed
    where = failed.template or name
    line = f" at {where}, line {failed.line}" if failed.line else f" in {where}"
    return job.failed(
        NAME,
        f"{failed.message}{line}",
        _ADVICE.get(failed.kind),
        error_type=_ERROR_TYPES.get(failed.kind, "RenderError"),
        template_path=where,
        template_line=failed.line,
        missing_variable=failed.variable,
    )
