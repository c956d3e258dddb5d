"""The two generators that fill placeholders: demonstration and template_fill."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import chora.generators
from chora import settings
from chora.config_parsing import parse_config
from chora.errors import ChoraError, GenerationFailed, LimitExceeded, PermissionDenied
from chora.files import CONFIG_LIMIT, SOURCE_LIMIT, Folder
from chora.generators import GENERATORS, demonstration, template_fill
from chora.generators.generator import GeneratedText, GenerationJob, as_text, lookup
from chora.generators.registry import GeneratorRegistry
from chora.generators.templates import Templates
from chora.render.pool import RenderPool
from tests.conftest import Project, content, requirement

PARTS = {"generator", "plugins", "registry", "templates"}


@requirement("generators.five")
def test_every_generator_is_registered(tmp_path: Path):
    """Every module of the package that isn't one of PARTS is a generator, and has the required attributes."""
    found = {module.name for module in pkgutil.iter_modules(chora.generators.__path__)} - PARTS
    assert found == {generator.__name__.rpartition(".")[2] for generator in GENERATORS}
    by_name = GeneratorRegistry(GENERATORS, (), Folder(tmp_path)).by_name
    assert {generator.module for generator in by_name.values()} == set(GENERATORS)
    for generator in GENERATORS:
        assert by_name[generator.NAME].module is generator
        assert re.fullmatch(r"\d+\.\d+\.\d+", generator.VERSION)
        assert generator.DESCRIPTION.endswith(".")
        assert generator.CAPABILITIES


class Bench:
    """Runs a generator directly, as the engine does."""

    def __init__(self, project: Project) -> None:
        folder = Folder(project.root)
        paths = settings.PathSettings().templates
        self.templates = Templates(folder, paths, RenderPool(settings.RenderSettings()))

    def job(
        self, pattern: dict[str, Any] | None, context: dict[str, Any], undefined: Any = "strict", **rest: Any
    ) -> GenerationJob:
        document = content("note", **({"pattern": pattern} if pattern is not None else {}), **rest)
        parsed = parse_config("content", document, where="note").config
        chosen = parsed.generation.patterns[0] if pattern is not None else None
        return GenerationJob(parsed, chosen, context, self.templates, undefined, {})

    async def make(self, generator: ModuleType, job: GenerationJob) -> GeneratedText:
        return await generator.generate(job._replace(sources=await generator.ingredients(job)))


@pytest.fixture
def bench(project: Project) -> Bench:
    return Bench(project)


def elements(*examples: str | None) -> list[dict[str, Any]]:
    """Elements e0, e1, … with these examples."""
    return [
        {"name": f"e{number}", "format": "text", **({} if example is None else {"example_output": example})}
        for number, example in enumerate(examples)
    ]


def show(template: str | None = None, *variables: dict[str, Any]) -> dict[str, Any]:
    """A demonstration pattern."""
    return {
        "type": "demonstration",
        "variables": list(variables),
        **({} if template is None else {"template": template}),
    }


# -- demonstration ----------------------------------------------------------------------------------------------


@requirement("generators.demonstration")
@pytest.mark.parametrize("pattern", [None, show(), show("")])
async def test_a_demonstration_without_a_template_joins_its_examples(bench: Bench, pattern: dict[str, Any] | None):
    """With a blank line between them."""
    made = await bench.make(demonstration, bench.job(pattern, {}, elements=elements("one", "", "two\n")))
    assert made == GeneratedText("one\n\n\n\ntwo\n")


@requirement("generators.demonstration")
@pytest.mark.parametrize(
    ("template", "variables", "text"),
    [
        ("{{ e0 }}-{{e1}}", [], "one-two"),
        ("{{ first }}", [{"name": "first", "source": "elements.e1.example_output"}], "two"),
        ("{{ first }}", [{"name": "first", "source": "elements.1.example_output"}], "two"),
        ("{{ first }}", [{"name": "first", "source": "elements.e7.example_output", "default": "unknown"}], "unknown"),
        ("{{ first }}", [{"name": "first", "source": "somewhere.else", "default": 5}], "5"),
        ("{{ first }}", [{"name": "first", "default": {"a": [1]}}], '{"a":[1]}'),
        ("{{ e0 }}", [{"name": "e0", "default": "unused"}], "one"),
        ("{{ e0 }}", [{"name": "e0", "source": "elements.e1.example_output"}], "two"),
        ("a\\nb\\tc {{ e0 }}\\n", [], "a\nb\tc one\n"),
        ("just words", [], "just words"),
        ("{{ e0 }} {% if x %} {{ 1 + 1 }} {{ }}", [], "one {% if x %} {{ 1 + 1 }} {{ }}"),
    ],
)
async def test_a_demonstration_fills_its_template(
    bench: Bench, template: str, variables: list[dict[str, Any]], text: str
):
    """Variables come from elements by name or position, else from their default; escapes are decoded."""
    made = await bench.make(demonstration, bench.job(show(template, *variables), {}, elements=elements("one", "two")))
    assert made == GeneratedText(text)


async def test_a_demonstration_ignores_the_context(bench: Bench):
    """It only shows what the config says."""
    job = bench.job(show("{{ e0 }}"), {"e0": "other"}, elements=elements("one"))
    assert (await bench.make(demonstration, job)).text == "one"
    with pytest.raises(GenerationFailed, match="no value for name"):
        await bench.make(demonstration, bench.job(show("{{ name }}"), {"name": "x"}, elements=elements("one")))


@pytest.mark.parametrize(
    ("pattern", "missing", "message"),
    [
        (show(), None, "note: no example_output for e1."),
        (show("{{ e0 }} {{ e1 }} {{ x }}"), "e1", "note: no value for e1, x."),
        (show("{{ v }}", {"name": "v", "source": "elements.9.example_output"}), "v", "note: no value for v."),
        (show("{{ v }}", {"name": "v", "source": "elements.e1.example_output"}), "v", "note: no value for v."),
    ],
)
async def test_a_demonstration_without_a_value_fails(
    bench: Bench, pattern: dict[str, Any], missing: str | None, message: str
):
    """The error names every missing value and what to write."""
    with pytest.raises(GenerationFailed) as failed:
        await bench.make(demonstration, bench.job(pattern, {"a": 1}, elements=elements("one", None)))
    assert failed.value.message == message
    assert failed.value.hint
    assert failed.value.details["generator_type"] == "demonstration"
    assert failed.value.details["error_type"] in ("InvalidConfig", "UndefinedError")
    assert failed.value.details["available_context"] == ["a"]
    assert failed.value.details.get("missing_variable") == missing


@given(examples=st.lists(st.text(max_size=20), min_size=1, max_size=3), between=st.text(alphabet="ab{}\n ", max_size=5))
@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_values_of_a_demonstration_are_literal(bench: Bench, examples: list[str], between: str):
    """Backslashes, braces and group references in an example are kept."""
    template = between.join(f"{{{{ e{number} }}}}" for number in range(len(examples)))
    made = await bench.make(demonstration, bench.job(show(template), {}, elements=elements(*examples)))
    assert made.text == between.join(examples)


# -- template_fill ----------------------------------------------------------------------------------------------


def filling(template: str | None, **options: Any) -> dict[str, Any]:
    """A template_fill pattern."""
    return {
        "type": "template_fill",
        "generation_config": options,
        **({} if template is None else {"template": template}),
    }


CONTEXT = {"a": {"b": [{"c": "deep"}, 5]}, "n": None, "t": True, "f": 1.5, "list": [1, "x"], "s": "text", "empty": ""}


@requirement("generators.template-fill")
@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ s }}", "text"),
        ("{{s}}{{\ts }}", "texttext"),
        ("{{ a.b.0.c }} {{ a.b.1 }}", "deep 5"),
        ("{{ t }} {{ f }} {{ list }} {{ a }}", 'true 1.5 [1,"x"] {"b":[{"c":"deep"},5]}'),
        ("<{{ empty }}>", "<>"),
        (
            "{{ s | upper }} {% if s %} {{ 1 }} {{ a-b }} { { s } }",
            "{{ s | upper }} {% if s %} {{ 1 }} {{ a-b }} { { s } }",
        ),
        (r"\n\t\r\'\"\\n", "\n\t\r'\"\\n"),
        (r"\x \{{ s }}\\", "\\x \\text\\"),
        ("words only", "words only"),
    ],
)
async def test_template_fill_fills_placeholders(bench: Bench, template: str, text: str):
    """Dotted names reach into objects and lists; values that aren't text become JSON; other braces stay."""
    made = await bench.make(template_fill, bench.job(filling(template), CONTEXT))
    assert (made.text, list(made.warnings), made.template) == (text, [], None)


@requirement("generators.template-fill.undefined")
@pytest.mark.parametrize(
    "name",
    ["missing", "a.x", "a.b.2", "a.b.c", "a.b.", "s.x", "s.0", "n", "n.x", "a..b", "a.b." + "9" * 5000, "t.x"],
)
async def test_an_undefined_name_is_an_error(bench: Bench, name: str):
    """Missing at any step, or null; the error lists the available names."""
    with pytest.raises(GenerationFailed) as failed:
        await bench.make(template_fill, bench.job(filling(f"{{{{ s }}}} {{{{ {name} }}}}"), CONTEXT))
    assert failed.value.message == f"note: no value for {name if len(name) < 80 else name[:79] + '…'}."
    missing = failed.value.details["missing_variable"]
    assert missing == name or (len(name) > len(missing) > 1000 and name.startswith(missing[:1000]))
    assert failed.value.details["error_type"] == "UndefinedError"
    assert failed.value.details["available_context"] == sorted(CONTEXT)
    assert failed.value.hint


async def test_many_undefined_names_are_not_all_reported(bench: Bench):
    """Ten are enough."""
    template = "".join(f"{{{{ n{number} }}}}" for number in range(12))
    with pytest.raises(GenerationFailed, match=r"no value for n0, n1, .*, n9 and 2 more\."):
        await bench.make(template_fill, bench.job(filling(template), {}))


@requirement("generators.template-fill.undefined")
@pytest.mark.parametrize(
    ("undefined", "behaviour", "outcome"),
    [
        ("strict", None, None),
        ("strict", "error", None),
        ("lenient", "error", None),
        ("lenient", "strict", None),
        ("strict", "keep", "text {{ x }} {{x}}"),
        ("strict", "empty", "text  "),
        ("lenient", None, "text  "),
    ],
)
async def test_undefined_names_can_be_kept_or_left_empty(
    bench: Bench, undefined: str, behaviour: str | None, outcome: str | None
):
    """The config's setting counts, else the project's; each name is warned of once."""
    job = bench.job(filling("{{ s }} {{ x }} {{x}}", undefined_behavior=behaviour), CONTEXT, undefined)
    if outcome is None:
        with pytest.raises(GenerationFailed, match="no value for x"):
            await bench.make(template_fill, job)
    else:
        made = await bench.make(template_fill, job)
        assert made.text == outcome
        assert made.warnings == [f"x has no value and was left {'as it stands' if behaviour == 'keep' else 'empty'}"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (filling(None), "note: there is no template."),
        (filling(""), "note: there is no template."),
        (filling("x {{ s }}", undefined_behavior="ignore"), "note: undefined_behavior is 'ignore'."),
    ],
)
async def test_an_incomplete_template_fill_fails(bench: Bench, pattern: dict[str, Any], message: str):
    """The error says what to write."""
    with pytest.raises(GenerationFailed) as failed:
        await bench.make(template_fill, bench.job(pattern, CONTEXT))
    assert failed.value.message == message
    assert failed.value.hint


names = st.from_regex(r"[a-z][a-z0-9_]{0,4}", fullmatch=True)
plain = st.text(alphabet="ab \n", max_size=6)


@requirement("sources.never-rendered")
@given(st.lists(st.tuples(plain, names), max_size=4), plain, st.dictionaries(names, st.text(max_size=20)))
@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_filled_values_are_literal(
    bench: Bench, places: list[tuple[str, str]], tail: str, values: dict[str, str]
):
    """The result is the template with each value unchanged: escapes and placeholders in values aren't interpreted."""
    context = {name: "\\n{{ s }}" for _, name in places} | values
    template = "".join(f"{before}{{{{ {name} }}}}" for before, name in places) + tail
    job = bench.job(filling(template or " "), context)
    wanted = "".join(before + context[name] for before, name in places) + tail
    assert (await bench.make(template_fill, job)).text == (wanted or " ")


@given(st.text(alphabet="ab\\ntr'\" ", max_size=12), st.text(alphabet="\\nt", max_size=6))
@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_escapes_are_the_templates_own(bench: Bench, template: str, value: str):
    """A placeholder within an escape doesn't change it, and a value adds none."""

    async def filled(text: str) -> str:
        return (await bench.make(template_fill, bench.job(filling("\n" + text), {"v": value}))).text

    assert (
        await filled(f"{template}{{{{ v }}}}{template}")
        == (await filled(template)) + value + (await filled(template))[1:]
    )


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@requirement("generators.template-fill")
@given(
    st.dictionaries(names, json, max_size=4),
    st.lists(st.sampled_from(["a", "0", "1", "b"]) | names, min_size=1, max_size=4),
)
def test_a_dotted_name_looks_up_a_value(context: dict[str, Any], parts: list[str]):
    """In any data it gives a value of it or None, never an error."""
    found = lookup(context, ".".join(parts))
    steps: list[Any] = [context]
    for part in parts:
        here = steps[-1]
        known: dict[Any, Any] = (
            dict(enumerate(here)) if isinstance(here, list) else here if isinstance(here, dict) else {}
        )
        steps.append(known.get(int(part) if isinstance(here, list) and part.isdecimal() else part))
    assert found is steps[-1]
    assert isinstance(as_text(found), str)


# -- templates that are files -----------------------------------------------------------------------------------

BOTH = [pytest.param(demonstration, id="demonstration"), pytest.param(template_fill, id="template_fill")]


def using(generator: ModuleType, template: str) -> dict[str, Any]:
    return {"type": generator.NAME, "template": template}


@pytest.mark.parametrize("generator", BOTH)
@pytest.mark.parametrize("place", ["", "templates/", "configs/templates/", "chora-configs/templates/"])
async def test_a_template_may_be_a_file(bench: Bench, project: Project, generator: ModuleType, place: str):
    """It is searched in the project root and every template folder, and recorded in the version."""
    project.write(f"{place}mail/note.txt", "Dear {{ e0 }}\\n!")
    job = bench.job(using(generator, "mail/note.txt"), {"e0": "one"}, elements=elements("one"))
    assert await generator.ingredients(job) == {"mail/note.txt": "Dear {{ e0 }}\\n!"}
    made = await bench.make(generator, job)
    assert (made.text, made.template) == ("Dear one\n!", "mail/note.txt")


@pytest.mark.parametrize("generator", BOTH)
@pytest.mark.parametrize("name", ["note.txt", "mail/note", "templates/note.j2"])
async def test_a_missing_template_file_is_not_taken_for_a_text(bench: Bench, generator: ModuleType, name: str):
    """Otherwise a typo in the name would become the document."""
    with pytest.raises(GenerationFailed) as failed:
        await bench.make(generator, bench.job(using(generator, name), {}, elements=elements("one")))
    assert failed.value.message == f"note: there is no template {name}."
    assert failed.value.details["error_type"] == "TemplateNotFound"
    assert failed.value.details["template_path"] == name
    assert f"configs/templates/{name}" in failed.value.details["searched_paths"]
    assert "configs/templates/" in str(failed.value.hint)


@pytest.mark.parametrize("generator", BOTH)
@pytest.mark.parametrize(
    ("name", "error"),
    [("latin.txt", GenerationFailed), ("large.txt", LimitExceeded), ("../out.txt", PermissionDenied)],
)
async def test_a_template_file_that_cannot_be_read_fails(
    bench: Bench, project: Project, generator: ModuleType, name: str, error: type[ChoraError]
):
    """Not text, too large, outside the project."""
    project.write("latin.txt", b"\xff")
    project.write("large.txt", " " * (CONFIG_LIMIT + 1))
    with pytest.raises(error):
        await bench.make(generator, bench.job(using(generator, name), {}, elements=elements("one")))


@pytest.mark.parametrize("generator", BOTH)
async def test_a_text_may_equal_the_name_of_a_folder(bench: Bench, project: Project, generator: ModuleType):
    """A folder hides neither a template file of its name nor an inline text."""
    (project.root / "notes").mkdir()
    job = bench.job(using(generator, "notes"), {}, elements=elements("one"))
    assert (await bench.make(generator, job)).text == "notes"
    project.write("templates/notes", "from the file")
    assert (await bench.make(generator, job)).text == "from the file"


@pytest.mark.parametrize("generator", BOTH)
async def test_the_size_of_a_text_is_limited(bench: Bench, generator: ModuleType):
    """A template of a few placeholders can't take more memory than a text may have."""
    value = "x" * 500_000
    places = SOURCE_LIMIT // len(value)
    fitting = bench.job(using(generator, "{{ e0 }}" * places), {"e0": value}, elements=elements(value))
    assert len((await bench.make(generator, fitting)).text) == SOURCE_LIMIT
    beyond = bench.job(using(generator, "{{ e0 }}" * (places + 1)), {"e0": value}, elements=elements(value))
    with pytest.raises(LimitExceeded) as failed:
        await bench.make(generator, beyond)
    assert failed.value.details["limit"] == "content.size"
    assert failed.value.hint


def test_options_that_are_null_are_absent(bench: Bench):
    """A null in generation_config means the default."""
    job = bench.job(filling("x {{ s }}", a=None, b=0), {})
    assert job.option("a", "default") == "default"
    assert job.option("b", "default") == 0
    assert job.option("c") is None
    assert job._replace(pattern=None).option("a", 1) == 1
    assert job._replace(pattern=None).template is None
