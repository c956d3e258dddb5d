"""Code by a language model: the request, the code taken from the response, and failures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chora import llm, settings
from chora.engine.budget import Budgets
from chora.engine.engine import Engine
from chora.errors import BudgetExceeded, GenerationFailed
from chora.files import Folder
from chora.generators import code_generation
from chora.generators.code_generation import extract_code
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.templates import Templates
from chora.render.pool import RenderPool
from chora.store import SqliteStore
from tests.anthropic_server import KEY, message, refusal, serving
from tests.conftest import requirement
from tests.generators.jobs import job_of, make
from tests.hostile.measures import steps_in
from tests.patience import PATIENCE


class Model:
    """Gives one answer, or fails in one way, and records the requests."""

    def __init__(self, answer: str | Exception = "```python\nx = 1\n```", cached: bool = False) -> None:
        self.answer = answer
        self.cached = cached
        self.asked: list[llm.ModelRequest] = []

    async def __call__(self, request: llm.ModelRequest) -> llm.ModelReply:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return llm.ModelReply(
            text=self.answer, input_tokens=1000, output_tokens=500, model=request.model, cached=self.cached
        )


def job(
    root: Path,
    options: dict[str, Any],
    context: dict[str, Any] | None = None,
    answer: str | Exception | Model | None = "```python\nx = 1\n```",
    default_model: str = "claude-sonnet-5",
    template: str | None = None,
    **rest: Any,
) -> GenerationJob:
    pattern: dict[str, Any] = {"type": "code_generation", "generation_config": options}
    if template is not None:
        pattern["template"] = template
    model = answer if isinstance(answer, Model) or answer is None else Model(answer)
    return job_of(root, pattern, context, **rest)._replace(llm=model, model=default_model)


def parsed_job(root: Path, engine: Engine, language: str, answer: str) -> GenerationJob:
    """A job whose text is checked in the workers of an engine."""
    return job(root, {"prompt": "p", "language": language}, answer=answer)._replace(templates=engine.templates)


async def request(root: Path, options: dict[str, Any], *rest: Any, **more: Any) -> llm.ModelRequest:
    """The request to the model; the preview shows the same."""
    model = Model()
    asked = job(root, options, *rest, answer=model, **more)
    asked = asked._replace(sources=await code_generation.ingredients(asked))
    await code_generation.generate(asked)
    assert model.asked == [code_generation.request_of(asked, asked.model)]
    return model.asked[0]


async def failure(asked: GenerationJob) -> GenerationFailed:
    with pytest.raises(GenerationFailed) as failed:
        await make(code_generation, asked)
    error = failed.value
    assert error.hint
    assert error.message.startswith("note: ")
    assert error.details["generator_type"] == "code_generation"
    assert error.details["content_config_id"] == "note"
    return error


# -- the request ------------------------------------------------------------------------------------------------


async def test_the_language_and_style_are_added_to_the_prompt(tmp_path: Path):
    """The language before it, the style after it, and the instruction to return only code."""
    options = {"prompt": "Sort {{ what }}", "language": "python", "style_hints": ["short", "typed"]}
    asked = await request(tmp_path, options, {"what": "a list"})
    assert asked.prompt == (
        "Write this in python.\n\nSort a list\n\nKeep to this style:\n- short\n- typed\n\n"
        "Answer with one fenced block that holds the code, and nothing before or after it."
    )
    assert asked.system == "You are a careful software developer. You write clear, complete code that runs as it is."
    bare = await request(tmp_path, {"prompt": "Sort"})
    assert bare.prompt.startswith("Sort\n\nAnswer with")


async def test_parameters_depend_on_the_model(tmp_path: Path):
    """A reasoning model gets no temperature, and more tokens and time."""
    old = await request(tmp_path, {"prompt": "p", "model": "claude-sonnet-4-5"})
    assert (old.model, old.temperature, old.max_tokens, old.timeout) == ("claude-sonnet-4-5", 0.0, 4096, 30.0)
    new = await request(tmp_path, {"prompt": "p"})
    assert (new.model, new.temperature, new.max_tokens, new.timeout) == ("claude-sonnet-5", None, 16_384, 300.0)
    assert (new.retries, new.retry_delay) == (3, 1.0)


async def test_every_option_is_passed_on(tmp_path: Path):
    """Null means absent."""
    options = {
        "prompt": "p",
        "model": "claude-3-haiku",
        "temperature": 0.5,
        "max_tokens": 9,
        "system_prompt": "Be odd",
        "style_hints": "one",
        "retry_count": 0,
        "retry_delay": 0,
        "timeout": 1,
        "language": None,
        "context": {"a": 1},
    }
    asked = await request(tmp_path, options)
    assert "- one" in asked.prompt
    assert "language" not in asked.prompt
    assert asked == llm.ModelRequest(
        model="claude-3-haiku",
        prompt=asked.prompt,
        system="Be odd",
        temperature=0.5,
        max_tokens=9,
        timeout=1.0,
        retries=0,
        retry_delay=0.0,
    )


async def test_a_temperature_that_a_model_refuses_is_left_out(tmp_path: Path):
    """With a warning, so that an existing config keeps working."""
    made = await make(code_generation, job(tmp_path, {"prompt": "p", "temperature": 0.0}))
    assert made.warnings == ["claude-sonnet-5 takes no temperature, so it was left out"]


async def test_instructions_of_the_config_are_defaults(tmp_path: Path):
    """The pattern's own values win; global instructions are added to the system prompt."""
    instructions = {"global": "British spelling.", "system_prompt": "You are terse.", "user_prompt": "Write {{ x }}"}
    asked = await request(tmp_path, {}, {"x": "one"}, instructions=instructions)
    assert asked.prompt.startswith("Write one\n\n")
    assert asked.system == "You are terse.\n\nBritish spelling."
    own = await request(
        tmp_path, {"prompt": "Mine", "system_prompt": "Me"}, {"x": 1}, instructions=instructions, template="Theirs too"
    )
    assert own.prompt.startswith("Mine\n\n")
    assert own.system == "Me\n\nBritish spelling."


async def test_a_prompt_may_be_a_file(tmp_path: Path):
    """Or the template itself; the file is an input, so that a change of it is noticed."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/ask.md").write_text("From a file: {{ x }}")
    by_file = job(tmp_path, {}, {"x": 1}, template="ask.md")
    assert (await code_generation.ingredients(by_file))[code_generation.PROMPT] == "From a file: {{ x }}"
    assert (await request(tmp_path, {}, {"x": 1}, template="ask.md")).prompt.startswith("From a file: 1\n\n")
    assert (await request(tmp_path, {}, {"x": 1}, template="Just words")).prompt.startswith("Just words\n\n")
    error = await failure(job(tmp_path, {}, template="gone.md"))
    assert error.details["error_type"] == "TemplateNotFound"


async def test_the_default_model_is_an_input(tmp_path: Path):
    """Another one may write another text, unless the config names its own."""
    assert (await code_generation.ingredients(job(tmp_path, {"prompt": "p"})))["<model>"] == "claude-sonnet-5"
    assert "<model>" not in await code_generation.ingredients(job(tmp_path, {"prompt": "p", "model": "m"}))


async def test_values_are_not_rendered_again(tmp_path: Path):
    """The language is a variable of the prompt, and the context's value wins."""
    options = {"prompt": "{{ a }} {{ language }}", "language": "go"}
    assert (await request(tmp_path, options, {"a": "{{ b }}"})).prompt.startswith("Write this in go.\n\n{{ b }} go\n")
    mine = await request(tmp_path, options, {"a": "x", "language": "Latin"})
    assert "x Latin" in mine.prompt


async def test_an_undefined_name_is_an_error_or_a_warning(tmp_path: Path):
    """As in every template; a prompt with missing values is sent only if the project is lenient."""
    model = Model()
    error = await failure(job(tmp_path, {"prompt": "{{ x }}"}, answer=model, undefined="strict"))
    assert (error.details["error_type"], error.details["missing_variable"]) == ("UndefinedError", "x")
    assert model.asked == []
    lenient = await make(code_generation, job(tmp_path, {"prompt": "a {{ x }}"}, undefined="lenient"))
    assert lenient.warnings == ["x has no value and was left empty"]
    kept = await request(tmp_path, {"prompt": "a {{ x }}", "undefined_behavior": "keep"})
    assert kept.prompt.startswith("a {{ x }}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "there is no prompt"),
        ({"prompt": ""}, "there is no prompt"),
        ({"prompt": 7}, "generation_config doesn't fit"),
        ({"prompt": "p", "temperature": 2}, "generation_config doesn't fit"),
        ({"prompt": "p", "max_tokens": 0}, "generation_config doesn't fit"),
        ({"prompt": "p", "retry_count": 99}, "generation_config doesn't fit"),
        ({"prompt": "p", "timeout": -1}, "generation_config doesn't fit"),
        ({"prompt": "p", "style_hints": [1]}, "generation_config doesn't fit"),
        ({"prompt": "p", "undefined_behavior": "odd"}, "undefined_behavior is 'odd'"),
    ],
)
async def test_an_invalid_prompt_is_refused(tmp_path: Path, options: dict[str, Any], said: str):
    """Before any request; a fallback doesn't hide it."""
    (tmp_path / "f.txt").write_text("never")
    for more in ({}, {"fallback_template": "f.txt"}):
        model = Model()
        assert said in (await failure(job(tmp_path, {**options, **more}, answer=model))).message
        assert model.asked == []


# -- the response -----------------------------------------------------------------------------------------------


@requirement("generators.code-generation")
@pytest.mark.parametrize(
    ("answer", "language", "code"),
    [
        ("x = 1", "python", "x = 1"),
        ("\n  x = 1 \n", "", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "python", "x = 1"),
        ("```\na\n```\n```python\nb\n```", "python", "b"),
        ("```\na\n```\n```python\nb\n```", "", "a"),
        ("```text\na\n```\n```rust\nb\n```", "python", "a"),
        ("```py\nb\n```", "python", "b"),
        ("```a\n1\n```\n```Python\nb\n```", "PYTHON", "b"),
        ("```a\n1\n```\n```javascript\nb\n```", "js", "b"),
        ('```a\n1\n```\n```python title="x"\nb\n```', "python", "b"),
        ("~~~python\nb\n~~~", "python", "b"),
        ("````python\n```\nb\n```\n````", "python", "```\nb\n```"),
        ("```python\n    b\n\n    c\n\n```", "python", "    b\n\n    c"),
        ("```python\nb", "python", "b"),
        ("```python\r\nb\r\nc\r\n```\r\n", "python", "b\nc"),
        ("```md\n# T\n```python\nx\n```\nend\n```\n```md\nmore\n```", "markdown", "# T\n```python\nx\n```\nend"),
        ("``` python\nb\n```", "python", "b"),
        ("```python\n```", "python", ""),
    ],
)
def test_the_code_is_taken_from_the_response(answer: str, language: str, code: str):
    """The first block of the language, else the first block, else all of it."""
    assert extract_code(answer, language) == code


@pytest.mark.parametrize("blanks", [" ", "\t", " \t", "\xa0"])
def test_code_is_taken_in_linear_time(blanks: str):
    """A fence followed by very many blanks, and then by what no fence has (CWE-1333)."""
    answer = "```" + blanks * (2_000_000 // len(blanks)) + "`\n```py\nx\n```"
    assert steps_in(lambda: extract_code(answer, "python"), code_generation.__name__) < 200
    assert extract_code(answer, "python") == "x"


@given(st.text(alphabet="`~ab\n ", max_size=60), st.sampled_from(["", "a", "python"]))
def test_code_is_taken_from_any_response(answer: str, language: str):
    """It is always a substring of the response."""
    assert extract_code(answer, language) in answer


async def test_python_is_parsed(tmp_path: Path, engine: Engine):
    """In a worker. Code with a syntax error isn't stored; the error names the line. Other languages aren't checked."""
    broken = "```python\nx = 1\ndef f(:\n```"
    error = await failure(parsed_job(tmp_path, engine, "py", broken))
    assert (error.details["error_type"], error.details["line"]) == ("SyntaxError", 2)
    assert "in line 2" in error.message
    assert (await make(code_generation, job(tmp_path, {"prompt": "p", "language": "go"}, answer=broken))).text
    nul = await failure(parsed_job(tmp_path, engine, "python", "x = '\0'"))
    assert nul.details["error_type"] == "SyntaxError"


async def test_code_that_cannot_be_checked_is_taken_with_a_warning(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """It is too deep or too long, takes longer than a worker may, or no worker is there: it has been paid for."""
    deep = await make(code_generation, parsed_job(tmp_path, engine, "python", "-" * 50_000 + "1"))
    assert deep.warnings == ["The code was not checked: it is nested too deeply"]
    slow = RenderPool(settings.RenderSettings(wall=0.1))
    large = parsed_job(tmp_path, engine, "python", "x = [" + "0," * 240_000 + "0]")
    async with trio.open_nursery() as nursery:
        await nursery.start(slow.serve)
        templates = Templates(Folder(tmp_path), settings.PathSettings().templates, slow)
        late = await make(code_generation, large._replace(templates=templates))
        nursery.cancel_scope.cancel()
    assert late.warnings == ["The code was not checked: Rendering code_generation took longer than 0.1 s"]
    alone = await make(code_generation, job(tmp_path, {"prompt": "p", "language": "python"}, answer="x = 1"))
    assert alone.text == "x = 1"
    assert alone.warnings[0].startswith("The code was not checked: The template workers aren't running")
    monkeypatch.setattr(code_generation, "PARSED_LIMIT", 3)
    long = await make(code_generation, job(tmp_path, {"prompt": "p", "language": "python"}, answer="x=1("))
    assert long.warnings == ["The code was not checked: it has more than 3 characters"]
    full = await failure(parsed_job(tmp_path, engine, "python", "x=("))
    assert full.details["error_type"] == "SyntaxError"


@requirement("generators.code-generation.cost")
async def test_usage_is_reported(tmp_path: Path):
    """Tokens and US dollars, rounded; nothing for a cached answer."""
    made = await make(code_generation, job(tmp_path, {"prompt": "p"}))
    assert made == GeneratedText(
        "x = 1",
        [],
        None,
        {
            "model": "claude-sonnet-5",
            "input_tokens": 1000,
            "output_tokens": 500,
            "input_cost_usd": 0.002,
            "output_cost_usd": 0.005,
            "total_cost_usd": 0.007,
            "cached": False,
        },
    )
    known = await make(code_generation, job(tmp_path, {"prompt": "p"}, answer=Model(cached=True)))
    assert known.usage
    assert (known.usage["total_cost_usd"], known.usage["cached"]) == (0.0, True)
    unpriced = await make(code_generation, job(tmp_path, {"prompt": "p", "model": "theirs"}))
    assert unpriced.usage
    assert unpriced.usage["total_cost_usd"] is None
    assert unpriced.warnings == ["What theirs costs isn't known, so the budgets don't count it"]


# -- failures and fallbacks -------------------------------------------------------------------------------------

OVERLOADED = GenerationFailed("The API answered 529.", "Later.", error_type="APIStatusError", status=529, attempts=4)
TOO_DEAR = BudgetExceeded("It could cost too much.", "Raise it.", budget="run", setting="llm.budget_run")


async def test_a_failure_of_the_model_is_one_of_the_content(tmp_path: Path):
    """With its own details and those of every generator."""
    error = await failure(job(tmp_path, {"prompt": "p"}, {"a": 1}, answer=OVERLOADED))
    assert error.message == "note: the API answered 529."
    assert error.hint == "Later."
    assert error.details["available_context"] == ["a"]
    assert (error.details["error_type"], error.details["status"], error.details["attempts"]) == (
        "APIStatusError",
        529,
        4,
    )
    with pytest.raises(BudgetExceeded, match="It could cost too much"):
        await make(code_generation, job(tmp_path, {"prompt": "p"}, answer=TOO_DEAR))


@requirement("generators.code-generation.fallback")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (OVERLOADED, "note: the API answered 529."),
        (TOO_DEAR, "It could cost too much."),
        ("```python\n)\n```", "note: the model wrote Python that doesn't parse: unmatched ')' in line 1."),
        (None, "note: no language model may be asked here."),
    ],
)
async def test_a_fallback_replaces_a_failed_response(
    tmp_path: Path, engine: Engine, answer: str | Exception | None, why: str
):
    """With a warning that says why; the text is marked as provisional."""
    options = {"prompt": "p", "language": "python", "fallback_template": "# {{ language }} for {{ who }}\npass"}
    asked = job(tmp_path, options, {"who": "Ann"}, answer=answer)._replace(templates=engine.templates)
    made = await make(code_generation, asked)
    assert made.text == "# python for Ann\npass"
    assert made.warnings == [f"The fallback template was used: {why}"]
    assert (made.provisional, made.usage) == (True, None)


async def test_a_fallback_may_be_a_file(tmp_path: Path):
    """It is an input too, and a missing one is an error before anything is spent."""
    (tmp_path / "f.py.txt").write_text("pass # {{ x }}")
    options = {"prompt": "p", "fallback_template": "f.py.txt"}
    made = await make(code_generation, job(tmp_path, options, answer=OVERLOADED, undefined="lenient"))
    assert (made.text, made.warnings[1:]) == ("pass # ", ["x has no value and was left empty"])
    model = Model()
    gone = {"prompt": "p", "fallback_template": "gone.txt"}
    assert "no template gone.txt" in (await failure(job(tmp_path, gone, answer=model))).message
    assert model.asked == []
    strict = await failure(job(tmp_path, options, answer=OVERLOADED))
    assert strict.details["missing_variable"] == "x"


async def test_without_a_model_the_failure_says_so(tmp_path: Path):
    """Where no spending is allowed."""
    error = await failure(job(tmp_path, {"prompt": "p"}, answer=None))
    assert error.details["error_type"] == "NotAsked"


async def test_a_programming_error_is_not_hidden_by_a_fallback(tmp_path: Path):
    """A fallback is only for failures of the model."""
    options = {"prompt": "p", "fallback_template": "a b"}
    with pytest.raises(ZeroDivisionError):
        await make(code_generation, job(tmp_path, options, answer=ZeroDivisionError()))


# -- in the server ----------------------------------------------------------------------------------------------


@requirement("generators.code-generation")
async def test_code_is_generated_from_config_to_stored_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a request to the provider's API once; the second time the answer is cached."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    store = SqliteStore(None)
    try:
        async with serving(refusal(529), message("```python\ndef f():\n    return 1\n```")) as server:
            limits = settings.LlmSettings(base_url=server.url)
            budget = Budgets(store, llm.Anthropic(limits), limits).open_budget()
            options = {"prompt": "Write f", "language": "python", "retry_delay": 0}
            asked = job(tmp_path, options)._replace(llm=partial(budget.complete_request, "note"))
            with trio.fail_after(PATIENCE):
                first = await make(code_generation, asked)
                again = await make(code_generation, asked)
    finally:
        store.close()
    assert first.text == again.text == "def f():\n    return 1"
    assert len(server.asked) == 2
    assert again.usage
    assert again.usage["cached"] is True
    assert code_generation.unavailable(limits) is None
    ready = asked._replace(sources=await code_generation.ingredients(asked))
    assert code_generation.estimate(ready, limits) == llm.estimate_cost(code_generation.request_of(ready, limits.model))


def test_the_generator_says_why_it_cannot_be_used():
    """Without an API key it is listed all the same, with a hint."""
    assert "ANTHROPIC_API_KEY_FILE" in str(code_generation.unavailable(settings.LlmSettings()))
