"""Has a language model write code from a prompt."""

from __future__ import annotations

from typing import Annotated, Any

import trio
from msgspec import Meta

from chora import llm, settings
from chora.errors import BudgetExceeded, Busy, GenerationFailed, InvalidContext, LimitExceeded
from chora.generators.generator import (
    FillOptions,
    GeneratedText,
    GenerationJob,
    InvalidGeneratorConfig,
    fill_names,
    read_if_file,
    read_options,
    undefined_behavior,
)
from chora.render import NESTED_TOO_DEEPLY, CheckJob, RenderFailed

NAME = "code_generation"
VERSION = "1.0.0"
DESCRIPTION = "Has a language model write code; it costs money and needs an API key."
CAPABILITIES = ("ai_powered", "code")
NOTES = (
    "It costs money: the settings llm.budget_run, llm.budget_day and llm.budget_project limit it, and the key is the "
    "secret anthropic_api_key. The text is the first fenced block of the language in the answer, else the first one, "
    "else all of it. A preview asks nothing."
)
REQUIREMENTS = {
    "fields": ["generation.patterns[0].generation_config.prompt"],
    "dependencies": ["anthropic"],
    "env_vars": ["ANTHROPIC_API_KEY"],
}
UPSTREAM_DEPENDENCIES = {
    "services": ["Anthropic Messages API"],
    "credentials_required": ["anthropic_api_key"],
    "optional_services": [],
    "expected_latency_ms": {"p50": 1500, "p95": 5000},
    "stability": "stable",
    "concurrency_safe": True,
}

PROMPT = "<prompt>"
FALLBACK = "<fallback>"
MODEL = "<model>"
"""Names of the ingredients."""

PARSED_LIMIT = 500_000
"""Characters of Python that are checked; parsing takes several times as long as most renders."""

_SYSTEM = "You are a careful software developer. You write clear, complete code that runs as it is."


class Options(FillOptions, frozen=True, kw_only=True):
    """The options in `generation_config`; defaults depend on the model."""

    prompt: Annotated[
        str,
        Meta(
            description="What to ask for; {{ name }} places are filled with the context. Without it the pattern's "
            "template, a text or a file, else instructions.user_prompt"
        ),
    ] = ""
    model: Annotated[str, Meta(description="The model; without it the setting llm.model")] = ""
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="0 to 1; without it 0. A model that reasons takes none, and it is left out with a warning"),
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=128_000)] | None,
        Meta(description="The longest answer; without it 4,096, or 16,384 for a model that reasons"),
    ] = None
    language: Annotated[
        str,
        Meta(
            description="The programming language: it is asked for, its fenced block is taken from the answer, and "
            "Python is refused if it can't be parsed"
        ),
    ] = ""
    style_hints: Annotated[
        tuple[str, ...] | str, Meta(description="Rules of style that the prompt ends with: a text, or a list of them")
    ] = ()
    system_prompt: Annotated[
        str, Meta(description="Without it instructions.system_prompt, else one of chora; instructions.global follows")
    ] = ""
    retry_count: Annotated[
        Annotated[int, Meta(ge=0, le=10)], Meta(description="How often a failed request is made again, 0 to 10")
    ] = 3
    retry_delay: Annotated[
        Annotated[float, Meta(ge=0, le=60)], Meta(description="Seconds before the first repetition, 0 to 60")
    ] = 1.0
    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=600)] | None,
        Meta(description="Seconds for one request, up to 600; without it 30, or 300 for a model that reasons"),
    ] = None
    fallback_template: Annotated[
        str,
        Meta(
            description="A text or a file, whose {{ name }} places are filled: the text if the model can't be asked or "
            "gives nothing usable. The next build tries again"
        ),
    ] = ""


async def ingredients(job: GenerationJob) -> dict[str, str]:
    """The prompt and the fallback, from files or the config, and the settings' model if the config names none.

    Raises:
        GenerationFailed: there is no prompt, or a file that is missing or not text.
    """
    options = _options(job)
    found: dict[str, str] = {}
    if options.prompt:
        found[PROMPT] = options.prompt
    elif job.template:
        found[PROMPT] = _read_text(job, job.template)
    elif job.config.instructions.user_prompt:
        found[PROMPT] = job.config.instructions.user_prompt
    else:
        raise job.failed(
            NAME, "there is no prompt", "Write generation_config.prompt, or name a prompt file in patterns[0].template."
        )
    if options.fallback_template:
        found[FALLBACK] = _read_text(job, options.fallback_template)
    if not options.model:
        found[MODEL] = job.model
    return found


def request_of(job: GenerationJob, default_model: str) -> llm.ModelRequest:
    """What the model will be asked, so that a preview can show it and its cost.

    Args:
        job: the job, with its ingredients.
        default_model: the model, unless the config names one.

    Raises:
        GenerationFailed: the options don't fit, or the prompt wants a value that isn't there.
    """
    return _make_request(job, default_model)[0]


def unavailable(settings: settings.LlmSettings) -> str | None:
    """Why no model can be asked, and what to do about it; None if one can. It may take a moment."""
    return llm.Anthropic(settings).why_unavailable()


def estimate(job: GenerationJob, settings: settings.LlmSettings) -> float | None:
    """The most that this job should cost, in US dollars; None for a model whose price isn't known."""
    return llm.estimate_cost(request_of(job, settings.model))


async def generate(job: GenerationJob) -> GeneratedText:
    """The code that the model wrote: the first fenced block of the language, else the first one, else all it said.

    With a `fallback_template` there is always a text: the failure is then a warning, and the text provisional.

    Raises:
        GenerationFailed: the model can't be asked, gave no usable answer, or wrote Python that doesn't parse.
        BudgetExceeded: it would cost more than the settings allow.
    """
    options = _options(job)
    try:
        return await _generate_with_model(job, options)
    except (GenerationFailed, BudgetExceeded) as error:
        if FALLBACK not in job.sources or isinstance(error, InvalidGeneratorConfig):
            raise
        behavior = _undefined_behavior(job)
        text, warnings = fill_names(job, NAME, job.sources[FALLBACK], behavior, context=_prompt_values(job, options))
        return GeneratedText(text, [f"The fallback template was used: {error.message}", *warnings], provisional=True)


async def _generate_with_model(job: GenerationJob, options: Options) -> GeneratedText:
    request, warnings = _make_request(job, job.model)
    if job.llm is None:
        raise job.failed(
            NAME,
            "no language model may be asked here",
            "Generate it instead of previewing it.",
            error_class=llm.ModelNotAsked,
            error_type="NotAsked",
        )
    try:
        reply = await job.llm(request)
    except GenerationFailed as error:
        raise _with_job_details(job, error) from error
    code = await trio.to_thread.run_sync(extract_code, reply.text, options.language)
    if options.language.lower() in _NAMES["python"]:
        warnings += await _check_python(job, code)
    usage = usage_of(reply)
    if usage["total_cost_usd"] is None:
        warnings.append(f"What {reply.model} costs isn't known, so the budgets don't count it")
    return GeneratedText(code, warnings, None, usage)


def _with_job_details(job: GenerationJob, error: GenerationFailed) -> GenerationFailed:
    """The model's failure, with the details that every failed generation has."""
    message = error.message.rstrip(".")
    return job.failed(
        NAME,
        f"{message[:1].lower()}{message[1:]}",
        error.hint or "",
        error_class=type(error),
        **error.details,
    )


def _read_text(job: GenerationJob, words: str) -> str:
    """A text that may be given as a file."""
    text = read_if_file(job, NAME, words)
    return words if text is None else text


# -- the question -----------------------------------------------------------------------------------------------


def _options(job: GenerationJob) -> Options:
    return read_options(
        job,
        NAME,
        Options,
        "prompt, model, language, system_prompt and fallback_template are texts, style_hints a list of them, "
        "temperature is 0 to 1, max_tokens 1 to 128000, retry_count 0 to 10, "
        "retry_delay 0 to 60, timeout above 0 and up to 600 seconds.",
    )


async def check(job: GenerationJob) -> None:
    """Check the option that `ingredients` doesn't read."""
    _undefined_behavior(job)


def _undefined_behavior(job: GenerationJob) -> str:
    return undefined_behavior(job, NAME, lenient="empty", allowed=("error", "keep", "empty"))


def _prompt_values(job: GenerationJob, options: Options) -> dict[str, Any]:
    """The names that a prompt may use: the context, and the language."""
    return {"language": options.language or None, **job.context}


def _make_request(job: GenerationJob, default_model: str) -> tuple[llm.ModelRequest, list[str]]:
    options = _options(job)
    model = options.model or default_model
    behavior = _undefined_behavior(job)
    prompt, warnings = fill_names(job, NAME, job.sources[PROMPT], behavior, context=_prompt_values(job, options))
    hints = (options.style_hints,) if isinstance(options.style_hints, str) else options.style_hints
    parts = [
        f"Write this in {options.language}." if options.language else "",
        prompt.strip(),
        "Keep to this style:\n" + "\n".join(f"- {hint}" for hint in hints) if hints else "",
        "Answer with one fenced block that holds the code, and nothing before or after it.",
    ]
    instructions = job.config.instructions
    system = [options.system_prompt or instructions.system_prompt or _SYSTEM, instructions.general or ""]
    reasons = llm.is_reasoning_model(model)
    temperature = options.temperature
    if reasons and temperature is not None:
        warnings.append(f"{model} takes no temperature, so it was left out")
        temperature = None
    elif not reasons and temperature is None:
        temperature = 0.0
    # A model that reasons needs tokens and time for that before the code begins.
    return llm.ModelRequest(
        model=model,
        prompt="\n\n".join(filter(None, parts)),
        system="\n\n".join(filter(None, system)),
        temperature=temperature,
        max_tokens=options.max_tokens or (16_384 if reasons else 4096),
        timeout=options.timeout or (300.0 if reasons else 30.0),
        retries=options.retry_count,
        retry_delay=options.retry_delay,
    ), warnings


# -- the answer -------------------------------------------------------------------------------------------------

_GROUPS = (
    "python py python3",
    "javascript js",
    "typescript ts",
    "shell sh bash zsh",
    "yaml yml",
    "go golang",
    "c++ cpp cxx",
    "c# cs csharp",
    "ruby rb",
    "rust rs",
    "markdown md",
    "kotlin kt",
    "gherkin feature",
)
_NAMES = {name: set(group.split()) for group in _GROUPS for name in group.split()}
"""Names of a language after a code fence."""


def extract_code(answer: str, language: str) -> str:
    """The code in an answer: the first fenced block of the language, else the first one, else the whole, stripped."""
    blocks = _fenced_blocks(answer)
    wanted = _NAMES.get(language.lower(), {language.lower()})
    matching = [code for kind, code in blocks if language and kind.lower() in wanted]
    code = (matching or [code for _, code in blocks] or [answer.strip()])[0]
    return code.strip("\n").rstrip()


def _fenced_blocks(answer: str) -> list[tuple[str, str]]:
    """The fenced blocks: the word after the fence, and the text. One that isn't closed reaches to the end.

    Models put fenced examples into fenced documents, so a fence with a word after it opens a nested block.
    """
    found: list[tuple[str, str]] = []
    lines: list[str] = []
    fence, kind, depth = "", "", 0
    for line in answer.replace("\r\n", "\n").split("\n"):
        mark, word = _parse_fence(line)
        if mark and not fence:
            fence, kind, lines, depth = mark, word, [], 1
            continue
        if mark and mark.startswith(fence):
            depth += 1 if word else -1
            if depth == 0:
                found.append((kind, "\n".join(lines)))
                fence = ""
                continue
        lines.append(line)
    if fence:
        found.append((kind, "\n".join(lines)))
    return found


def _parse_fence(line: str) -> tuple[str, str]:
    """The backticks or tildes that open or close a block, and the word after them; empty for any other line.

    Plain string methods, because a pattern would take quadratic time for a line of spaces (CWE-1333).
    """
    text = line.lstrip(" ")
    rest = text.lstrip(text[:1]) if text[:1] in ("`", "~") else text
    mark = text[: len(text) - len(rest)]
    if len(line) - len(text) > 3 or len(mark) < 3 or "`" in rest:
        return "", ""
    word = rest.lstrip(" \t")
    return mark, "" if not word or word[0].isspace() else word.split(None, 1)[0]


async def _check_python(job: GenerationJob, code: str) -> list[str]:
    """Refuse Python that doesn't parse; what can't be checked within the limits of a worker is a warning.

    The text has been paid for, so no limit and no crowd of other jobs may lose it.
    """
    if len(code) > PARSED_LIMIT:
        return [f"The code was not checked: it has more than {PARSED_LIMIT:,} characters"]
    try:
        found = (await job.templates.pool.check_text(CheckJob("python", code, NAME))).findings
    except (LimitExceeded, InvalidContext, Busy) as error:
        return [f"The code was not checked: {error.message.removesuffix('.')}"]
    except RenderFailed as failure:
        return [f"The code was not checked: {failure.reason.message.removesuffix('.')}"]
    if found and found[0].message == NESTED_TOO_DEEPLY:
        return [f"The code was not checked: {NESTED_TOO_DEEPLY}"]
    if found:
        line = found[0].line
        raise job.failed(
            NAME,
            f"the model wrote Python that doesn't parse: {found[0].message}" + (f" in line {line}" if line else ""),
            "Generate it again with force, or word the prompt differently.",
            error_class=GenerationFailed,
            error_type="SyntaxError",
            line=line,
        )
    return []


def usage_of(reply: llm.ModelReply) -> dict[str, Any]:
    """What a reply used, as results and metadata show it; costs are None where the price isn't known."""
    parts = (0.0, 0.0) if reply.cached else llm.cost_of(reply.model, reply.input_tokens, reply.output_tokens)
    into, out = (None, None) if parts is None else (round(parts[0], 6), round(parts[1], 6))
    return {
        "model": reply.model,
        "input_tokens": reply.input_tokens,
        "output_tokens": reply.output_tokens,
        "input_cost_usd": into,
        "output_cost_usd": out,
        "total_cost_usd": None if parts is None else round(sum(parts), 6),
        "cached": reply.cached,
    }
