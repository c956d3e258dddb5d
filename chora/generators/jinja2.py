"""Renders a Jinja2 template, sandboxed, in a worker process that can be killed."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from chora.generators.generator import ContextOption, GeneratedText, GenerationJob, list_names, read_options
from chora.render import JobFailure, RenderedText, RenderFailed, RenderJob, TemplateOptions, UndefinedMode

NAME = "jinja2"
VERSION = "1.0.0"
DESCRIPTION = "Renders a Jinja2 template (file or inline) with loops, conditions, filters, includes and inheritance."
CAPABILITIES = ("template", "conditionals", "loops", "filters")
NOTES = (
    "template is a file, or the template itself. The page templates says where it is looked for, what it sees and "
    "which filters there are."
)


class Options(TemplateOptions, frozen=True, forbid_unknown_fields=False, kw_only=True):
    """The options in `generation_config`."""

    undefined: Annotated[
        Literal["strict", "lenient"] | None,
        Meta(
            description="strict: an undefined name is an error; lenient: it is empty, with a warning. Without it, as "
            "templates.undefined says"
        ),
    ] = None
    context: ContextOption = {}  # noqa: RUF012 (never changed)


INLINE = "<inline>"
"""The name of an inline template in errors and among the ingredients."""

FOUND_LIMIT = 5000
"""Names of templates that one may refer to; every file has up to three."""

_ADVICE = {
    "undefined": "Pass it in context, add a source for it, or set generation_config.undefined to lenient.",
    "syntax": "Fix the template at the named line; test_config and preview_generation render without storing.",
    "security": "Templates see plain data only: no private attributes, no changing of values.",
}
_OTHERWISE = "Try the template in smaller parts with preview_generation."


async def ingredients(job: GenerationJob) -> dict[str, str]:
    """The template and every template it includes, imports or extends, by name.

    An include whose name is computed could be any template, so all of them are ingredients then.

    Raises:
        GenerationFailed: no template, a missing one, or one that doesn't parse.
        LimitExceeded: too many templates could be meant.
    """
    name = job.template
    if name is None:
        raise job.failed(NAME, "there is no template", "Write generation.patterns[0].template.")
    if job.templates.is_inline(name):
        top, text = INLINE, name
    elif (read := job.read(NAME, name)) is not None:
        top, text = name, read
    else:
        raise job.template_not_found(NAME, name)
    options = _options(job)
    found = {top: text}
    waiting = [top]
    while waiting:
        if len(found) - 1 > FOUND_LIMIT:
            raise job.failed(
                NAME, f"the template uses more than {FOUND_LIMIT:,} others", "Split it into several contents."
            )
        current = waiting.pop()
        try:
            scanned = await job.templates.find_references(current, found[current], options)
        except RenderFailed as failure:
            if current == top:
                raise _translated(job, failure, current) from None
            continue  # it may be behind an `if` or unused; the render decides
        wanted = {name: job.read(NAME, name) for name in scanned.references if name not in found}
        if scanned.dynamic:
            wanted.update(
                {
                    name: text
                    for name, text in job.templates.read_all_templates(job.on_read).items()
                    if name not in found
                }
            )
        # A missing one may be behind `ignore missing` or an `if`; the render decides.
        fresh = {name: text for name, text in wanted.items() if text is not None}
        found.update(fresh)
        waiting += fresh
    return found


async def check(job: GenerationJob) -> None:
    """Check the options, and the templates that are included by name."""
    _undefined_mode(job)
    await check_includes(job, job.sources)


async def check_includes(job: GenerationJob, texts: dict[str, str]) -> None:
    """Check that the templates, and those that are included by name, are there and can be parsed, and that they name no
    filter or test that there is none of.

    While a text is made, the render decides: a broken one may be behind an `if`. Who asks whether a config is valid
    wants to know in any case.

    Raises:
        GenerationFailed: one isn't there, or can't be parsed.
    """
    options = _options(job)
    waiting = list(texts)[:1]
    seen = set(waiting)
    while waiting:
        current = waiting.pop()
        try:
            scanned = await job.templates.find_references(current, texts[current], options)
        except RenderFailed as failure:
            raise _translated(job, failure, current) from None
        if scanned.fault is not None:
            raise _translated(job, RenderFailed(scanned.fault), current)
        for name, line in scanned.required.items():
            if name not in texts:
                message = f"The template {name}, which {current} refers to in line {line}, doesn't exist."
                raise _translated(job, RenderFailed(JobFailure("template_not_found", message, name)), current)
        fresh = [name for name in scanned.references if name in texts and name not in seen]
        seen.update(fresh)
        waiting += fresh


async def generate(job: GenerationJob) -> GeneratedText:
    """The rendered text.

    Raises:
        GenerationFailed: the template is wrong or a variable is undefined; details name line and variable.
        LimitExceeded: it took too long or too much memory, or wrote too much; the worker was killed.
        InvalidContext: the context holds data that can't be passed to a template.
        Busy: too many renders are waiting.
    """
    name = next(iter(job.sources))
    undefined = _undefined_mode(job)
    try:
        rendered = await job.templates.pool.render_template(
            RenderJob(
                template=None,
                name=name,
                sources=job.sources,
                context=job.context,
                undefined=undefined,
                options=_options(job),
            )
        )
    except RenderFailed as failure:
        raise _translated(job, failure, name) from None
    warnings = undefined_warnings(rendered)
    return GeneratedText(rendered.text, warnings, None if name == INLINE else name)


def _undefined_mode(job: GenerationJob) -> UndefinedMode:
    undefined = job.option("undefined", job.undefined)
    if undefined not in ("strict", "lenient"):
        raise job.failed(NAME, f"generation_config.undefined is {undefined!r}", "Write strict or lenient.")
    return undefined


def undefined_warnings(rendered: RenderedText) -> list[str]:
    """What happened to undefined names: a sentence for those that left a gap, one for those that didn't."""
    warnings: list[str] = []
    for names, consequence in (
        (rendered.undefined_names, "rendered empty"),
        (rendered.undefined_tested, "taken as empty or false in a condition or loop"),
    ):
        if names:
            verb, was = ("is", "was") if len(names) == 1 else ("are", "were")
            warnings.append(f"{list_names(names)} {verb} undefined and {was} {consequence}")
    return warnings


def _options(job: GenerationJob) -> TemplateOptions:
    return read_options(
        job,
        NAME,
        TemplateOptions,
        "trim_blocks, lstrip_blocks, keep_trailing_newline and autoescape are true or false; extensions may list "
        "jinja2.ext.do and jinja2.ext.loopcontrols.",
    )


_ERROR_TYPES = {
    "undefined": "UndefinedError",
    "syntax": "TemplateSyntaxError",
    "template_not_found": "TemplateNotFound",
    "security": "SecurityError",
}


def _translated(job: GenerationJob, failure: RenderFailed, name: str) -> Exception:
    failed = failure.reason
    where = failed.template or name
    line = f" at {where}, line {failed.line}" if failed.line else f" in {where}"
    if failed.kind == "template_not_found":  # the message says who asks for it, and where
        line = ""
    advice = (
        job.templates.search_hint() if failed.kind == "template_not_found" else _ADVICE.get(failed.kind, _OTHERWISE)
    )
    return job.failed(
        NAME,
        f"{failed.message.removesuffix('.')}{line}",
        advice,
        error_type=_ERROR_TYPES.get(failed.kind, "RenderError"),
        template_path=where,
        template_line=failed.line,
        missing_variable=failed.variable,
    )
