"""jinja2 through real workers: what a template may use, its inputs, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest

from chora import settings
from chora.config_parsing import parse_config
from chora.engine.engine import Engine
from chora.errors import Busy, GenerationFailed, InvalidContext, LimitExceeded, PermissionDenied
from chora.files import CONFIG_LIMIT, Folder
from chora.generators import jinja2, templates
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.templates import Templates
from chora.render import RenderFailed, TemplateOptions
from chora.render.pool import RenderPool
from tests.conftest import Project, content, requirement


class Bench:
    """Runs the generator directly, as the engine does."""

    def __init__(self, engine: Engine) -> None:
        self.templates = engine.templates

    def job(
        self, template: str | None, context: dict[str, Any], setting: Any = "strict", **options: Any
    ) -> GenerationJob:
        pattern: dict[str, Any] = {"type": "jinja2", "generation_config": options}
        if template is not None:
            pattern["template"] = template
        parsed = parse_config("content", content("note", pattern=pattern), where="note").config
        return GenerationJob(parsed, parsed.generation.patterns[0], context, self.templates, setting, {})

    async def ingredients(self, template: str | None, **options: Any) -> dict[str, str]:
        return await jinja2.ingredients(self.job(template, {}, **options))

    async def make(
        self, template: str | None, context: dict[str, Any], setting: Any = "strict", **options: Any
    ) -> GeneratedText:
        job = self.job(template, context, setting, **options)
        return await jinja2.generate(job._replace(sources=await jinja2.ingredients(job)))

    async def fail(
        self, template: str | None, context: dict[str, Any], setting: Any = "strict", **options: Any
    ) -> dict[str, Any]:
        """The details of the failure, with its message and hint."""
        with pytest.raises(GenerationFailed) as failed:
            await self.make(template, context, setting, **options)
        error = failed.value
        assert error.hint
        assert error.details["generator_type"] == "jinja2"
        assert error.details["content_config_id"] == "note"
        assert error.details["available_context"] == sorted(context)
        return {**error.details, "message": error.message, "hint": error.hint}


@pytest.fixture
def bench(engine: Engine) -> Bench:
    return Bench(engine)


@requirement("generators.jinja2")
async def test_a_template_is_rendered(bench: Bench, project: Project):
    """Inline or a file, with all of Jinja's syntax; a file is recorded in the version."""
    inline = "{% for n in names %}{{ loop.index }}. {{ n | upper }}\n{% endfor %}"
    assert await bench.make(inline, {"names": ["a", "b"]}) == GeneratedText("1. A\n2. B\n", [])
    project.write("configs/templates/deep/a.j2", "{{ x.y[0] }}{# no #}")
    assert await bench.make("deep/a.j2", {"x": {"y": [5]}}) == GeneratedText("5", [], "deep/a.j2")
    assert await bench.make("{# only a comment #}", {}) == GeneratedText("", [])
    assert (await bench.make("<b>{{ x }}</b>\n", {"x": "<&>"})).text == "<b><&></b>", "nothing is escaped unasked"


@requirement("generators.jinja2")
async def test_jinjas_options_are_passed_on(bench: Bench):
    """Whitespace control, autoescape and the two harmless extensions; the scan uses the same options as the render."""
    lines = "{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}\n"
    assert (await bench.make(lines, {}, trim_blocks=True, lstrip_blocks=True)).text == "x\n"
    assert (await bench.make("{{ x }}\n", {"x": "<"}, autoescape=True, keep_trailing_newline=True)).text == "&lt;\n"
    loop = "{% for n in [1, 2, 3] %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    assert (await bench.make(loop, {}, extensions=["jinja2.ext.loopcontrols"])).text == "1"
    assert (await bench.fail(loop, {}))["error_type"] == "TemplateSyntaxError"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"undefined": "ignore"}, "note: generation_config.undefined is 'ignore'"),
        (
            {"trim_blocks": "yes"},
            "note: generation_config doesn't fit: Expected `bool`, got `str` - at `$.trim_blocks`",
        ),
        (
            {"extensions": ["jinja2.ext.debug"]},
            "note: generation_config doesn't fit: Invalid enum value 'jinja2.ext.debug'",
        ),
    ],
)
async def test_invalid_options_are_refused(bench: Bench, options: dict[str, Any], message: str):
    """With the allowed values."""
    failed = await bench.fail("{{ 1 }}", {}, **options)
    assert failed["message"].startswith(message)
    assert failed["error_type"] == "InvalidConfig"


@requirement("generators.jinja2.undefined")
async def test_an_undefined_variable_is_an_error_or_a_warning(bench: Bench):
    """Strict names variable and line; lenient renders it empty, with a warning."""
    failed = await bench.fail("one\n{{ missing }}", {"a": 1})
    assert failed["message"] == "note: 'missing' is undefined at <inline>, line 2."
    assert failed["error_type"] == "UndefinedError"
    assert failed["missing_variable"] == "missing"
    assert failed["template_line"] == 2
    warned = GeneratedText("<>", ["missing is undefined and was rendered empty"])
    assert await bench.make("<{{ missing }}>", {}, "lenient") == warned


@requirement("generators.jinja2.undefined")
@pytest.mark.parametrize(
    ("template", "text", "warnings"),
    [
        (
            "{% if x.nope %}yes{% endif %}",
            "",
            ["nope is undefined and was taken as empty or false in a condition or loop"],
        ),
        ("{{ a }}{{ b }}{{ x.c }}", "", ["a, b, c are undefined and were rendered empty"]),
        (
            "{% for r in rows %}{% endfor %}{{ a }}",
            "",
            [
                "a is undefined and was rendered empty",
                "rows is undefined and was taken as empty or false in a condition or loop",
            ],
        ),
        (
            "{% for i in range(50) %}{{ x['k' ~ i] }}{% endfor %}",
            "",
            ["k0, k1, k2, k3, k4, k5, k6, k7, k8, k9 and 40 more are undefined and were rendered empty"],
        ),
        ("{{ a | default('-') }}{% if a is defined %}{% endif %}", "-", []),
    ],
)
async def test_lenient_warnings_are_true_and_few(bench: Bench, template: str, text: str, warnings: list[str]):
    """What left a gap is told from what was only tested, each in one sentence."""
    assert await bench.make(template, {"x": {}}, "lenient") == GeneratedText(text, warnings)


@requirement("generators.jinja2.error-places")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top.j2": "{{ 1 | nofilter }}"}, "No filter named 'nofilter' at top.j2, line 1."),
        (
            {"top.j2": "{% include 'in.j2' %}", "in.j2": "\n{{ 1 | nofilter }}"},
            "No filter named 'nofilter' at in.j2, line 2.",
        ),
        ({"top.j2": "{% include 'in.j2' %}", "in.j2": "\n{% if %}"}, "at in.j2, line 2."),
        (
            {"top.j2": "{% if true %}\n{{ 1 | nofilter }}{% endif %}"},
            "No filter named 'nofilter' found at top.j2, line 2.",
        ),
        (
            {"top.j2": "{% include 'in.j2' %}", "in.j2": "\n{% include 'gone.j2' %}"},
            "The template gone.j2, which in.j2 refers to in line 2, doesn't exist",
        ),
        ({"top.j2": "{% extends 5 %}"}, "the name of a template is a text, not 5 at top.j2, line 1."),
        ({"top.j2": "{% include 'in.j2' %}", "in.j2": "{{ 'a'.upper }}"}, "at in.j2, line 1."),
    ],
)
async def test_errors_name_template_and_line(bench: Bench, project: Project, files: dict[str, str], message: str):
    """Through the generator: never a name of jinja2's own, and who asked for what is missing."""
    for name, text in files.items():
        project.write(f"configs/templates/{name}", text)
    failed = await bench.fail("top.j2", {})
    assert message in failed["message"]
    assert "introspection" not in failed["message"]


@requirement("rulings.c32.config-wins")
async def test_a_config_may_differ_from_its_project(bench: Bench):
    """`generation_config.undefined` wins in both directions; null means the project's setting."""
    assert (await bench.fail("{{ missing }}", {}, "lenient", undefined="strict"))["missing_variable"] == "missing"
    assert (await bench.make("{{ missing }}", {}, "strict", undefined="lenient")).text == ""
    assert (await bench.make("{{ missing }}", {}, "lenient", undefined=None)).text == ""


@requirement("generators.jinja2.errors")
async def test_a_missing_template_says_where_it_was_looked_for(bench: Bench):
    """The config's own, and an included one."""
    failed = await bench.fail("missing.j2", {})
    assert failed["message"] == "note: there is no template missing.j2."
    assert failed["error_type"] == "TemplateNotFound"
    assert failed["template_path"] == "missing.j2"
    assert failed["searched_paths"] == [
        "missing.j2",
        "templates/missing.j2",
        "configs/templates/missing.j2",
        "chora-configs/templates/missing.j2",
    ]
    assert "configs/templates/" in failed["hint"]
    asked = await bench.fail("x\n{% include 'part.j2' %}", {})
    assert asked["error_type"] == "TemplateNotFound"
    assert asked["template_path"] == "part.j2"
    assert "configs/templates/" in asked["hint"]
    for nothing in (None, ""):
        assert (await bench.fail(nothing, {}))["message"] == "note: there is no template."


@requirement("generators.jinja2.errors")
async def test_a_syntax_error_names_file_and_line(bench: Bench, project: Project):
    """In a template file, inline, and in an included one."""
    project.write("templates/bad.j2", "fine\n{% if %}\n")
    failed = await bench.fail("bad.j2", {})
    assert failed["error_type"] == "TemplateSyntaxError"
    assert (failed["template_path"], failed["template_line"]) == ("bad.j2", 2)
    assert failed["message"].endswith("at bad.j2, line 2.")
    inline = await bench.fail("{{ 1 +", {})
    assert (inline["template_path"], inline["template_line"]) == ("<inline>", 1)
    included = await bench.fail("{% include 'bad.j2' %}", {})
    assert (included["template_path"], included["template_line"]) == ("bad.j2", 2)
    assert (await bench.make("{% if false %}{% include 'bad.j2' %}{% endif %}ok", {})).text == "ok"


@requirement("generators.jinja2.sandbox")
@pytest.mark.parametrize(
    ("template", "error_type"),
    [
        ("{{ ''.__class__ }}", "SecurityError"),
        ("{{ x.append(1) }}", "SecurityError"),
        ("{{ 1 / 0 }}", "RenderError"),
        ("{% include '<inline>' %}", "RenderError"),
        ("{{ '\\ud800' }}", "RenderError"),
    ],
)
async def test_a_template_that_misbehaves_fails_alone(bench: Bench, template: str, error_type: str):
    """The failure is the content's, and the next render works."""
    assert (await bench.fail(template, {"x": []}))["error_type"] == error_type
    assert (await bench.make("{{ 1 }}", {})).text == "1"


async def test_failures_beyond_the_template_keep_their_codes(bench: Bench, engine: Engine):
    """Too much output, values that can't be encoded, and a pool that doesn't run."""
    with pytest.raises(LimitExceeded) as failed:
        await bench.make("{% for n in range(99999) %}{{ x }}{% endfor %}", {"x": "x" * 1000})
    assert failed.value.details["limit"] == "render.output"
    with pytest.raises(InvalidContext, match="can't serialize ints"):
        await bench.make("{{ x }}", {"x": 10**30})
    idle = Templates(engine.folder, ("templates",), RenderPool(settings.RenderSettings()))
    with pytest.raises(Busy, match="workers aren't running"):
        await jinja2.ingredients(bench.job("{{ x }}", {})._replace(templates=idle))


# -- inputs -----------------------------------------------------------------------------------------------------


async def test_everything_a_template_refers_to_is_an_input(bench: Bench, project: Project):
    """Includes, imports and parents, recursively, each once, also in cycles."""
    project.write("templates/base.j2", "{% block b %}{% endblock %}{% from 'macros.j2' import m %}")
    project.write("templates/macros.j2", "{% macro m() %}{% endmacro %}{% import 'more/deep.j2' as d %}")
    project.write("configs/templates/more/deep.j2", "{% include ['no.j2', 'yes.j2'] %}{% include 'base.j2' %}")
    project.write("yes.j2", "yes")
    project.write("templates/page.j2", "{% extends 'base.j2' %}{% include 'gone.j2' ignore missing %}")
    project.write("templates/unrelated.j2", "{{ 1 }}")
    found = await bench.ingredients("page.j2")
    assert set(found) == {"page.j2", "base.j2", "macros.j2", "more/deep.j2", "yes.j2"}
    assert next(iter(found)) == "page.j2"
    assert found["yes.j2"] == "yes"
    assert set(await bench.ingredients("{% include 'yes.j2' %}")) == {"<inline>", "yes.j2"}


async def test_any_template_may_be_a_computed_include(bench: Bench, project: Project):
    """By each name that would find the file, whatever its suffix."""
    project.write("templates/en/part.md", "english")
    project.write("configs/templates/fr.j2", "french {% include 'en/part.md' %}")
    template = "{% include name %}"
    for name, text in {
        "en/part.md": "english",
        "templates/en/part.md": "english",
        "fr.j2": "french english",
        "configs/templates/fr.j2": "french english",
    }.items():
        assert (await bench.make(template, {"name": name})).text == text
    assert set(await bench.ingredients(template)) == {
        "<inline>",
        "en/part.md",
        "templates/en/part.md",
        "fr.j2",
        "configs/templates/fr.j2",
    }


async def test_unrelated_broken_templates_do_not_fail_a_computed_include(bench: Bench, project: Project):
    """Broken, binary, oversized and dangling files fail only templates that include them."""
    project.write("templates/good.j2", "good")
    project.write("templates/broken.j2", "{% if %}")
    project.write("templates/binary.png", b"\x89PNG\xff")
    project.write("templates/large.txt", " " * (CONFIG_LIMIT + 1))
    (project.root / "templates/dangling.j2").symlink_to("nowhere")
    template = "{% include name %}"
    assert (await bench.make(template, {"name": "good.j2"})).text == "good"
    assert (await bench.fail(template, {"name": "broken.j2"}))["template_path"] == "broken.j2"
    assert (await bench.fail(template, {"name": "binary.png"}))["error_type"] == "TemplateNotFound"


async def test_a_linked_template_folder_works(bench: Bench, project: Project):
    """A folder that is a link within the project can be used by its own name."""
    project.write("shared/parts/a.j2", "linked")
    (project.root / "templates").symlink_to("shared/parts")
    assert (await bench.make("a.j2", {})).text == "linked"
    for name in ("a.j2", "templates/a.j2"):
        assert (await bench.make("{% include name %}", {"name": name})).text == "linked"


@requirement("layouts.inside-project")
@pytest.mark.parametrize("template", ["../out.j2", "{% include '../out.j2' %}", "{% import '/etc/passwd' as x %}"])
async def test_a_template_outside_the_project_is_denied(bench: Bench, template: str):
    """Named by the config or by a template (CWE-22)."""
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        await bench.ingredients(template)


async def test_a_template_that_is_not_text_says_so(bench: Bench, project: Project):
    """As the config's own template and as an included one."""
    project.write("latin.j2", b"\xff")
    for template in ("latin.j2", "{% include 'latin.j2' %}"):
        failed = await bench.fail(template, {})
        assert failed["message"] == "note: the template latin.j2 is not UTF-8 text."
        assert failed["error_type"] == "UnicodeDecodeError"


async def test_the_templates_of_one_render_are_limited(bench: Bench, project: Project, monkeypatch: pytest.MonkeyPatch):
    """Files for a computed include, their bytes, and chains of references: exactly as many, and one more."""
    size = 0
    for number in range(4):
        text = f"{{% include '{number + 1}.j2' ignore missing %}}" + "ø" * 100
        project.write(f"templates/{number}.j2", text)
        size += len(text.encode())
    monkeypatch.setattr(templates, "TEMPLATES_LIMIT", 4)
    monkeypatch.setattr(templates, "TEMPLATES_BYTES", size)
    await bench.ingredients("{% include name %}")
    monkeypatch.setattr(templates, "TEMPLATES_BYTES", size - 1)
    with pytest.raises(LimitExceeded, match="An include with a computed name"):
        await bench.ingredients("{% include name %}")
    monkeypatch.setattr(templates, "TEMPLATES_BYTES", size)
    monkeypatch.setattr(templates, "TEMPLATES_LIMIT", 3)
    with pytest.raises(LimitExceeded) as failed:
        await bench.ingredients("{% include name %}")
    assert failed.value.hint
    assert failed.value.details["limit"] == "templates"
    assert len(await bench.ingredients("{% include '0.j2' %}")) == 5
    monkeypatch.setattr(jinja2, "FOUND_LIMIT", 4)
    assert len(await bench.ingredients("{% include '0.j2' %}")) == 5
    monkeypatch.setattr(jinja2, "FOUND_LIMIT", 3)
    with pytest.raises(GenerationFailed, match="uses more than 3 others"):
        await bench.ingredients("{% include '0.j2' %}")


async def test_scans_are_cached_by_text_and_options(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """The same text is scanned once; other options, or eviction, scan it again; failures aren't cached."""
    scan, rendered = engine.templates.find_references, lambda: engine.templates.pool.statistics().rendered
    first = await scan("a", "{% include 'x' %}", TemplateOptions())
    assert first.references == ["x"]
    count = rendered()
    assert await scan("b", "{% include 'x' %}", TemplateOptions()) is first
    assert rendered() == count
    await scan("a", "{% include 'x' %}", TemplateOptions(trim_blocks=True))
    assert rendered() == count + 1
    monkeypatch.setattr(templates, "SCANS_KEPT", 2)
    await scan("c", "{{ c }}", TemplateOptions())
    assert await scan("a", "{% include 'x' %}", TemplateOptions()) is not first
    for _ in range(2):
        with pytest.raises(RenderFailed, match="Expected an expression"):
            await scan("bad", "{% if %}", TemplateOptions())


def test_a_template_is_inline_if_it_has_markup_or_a_newline():
    """Otherwise it is the name of a file."""
    assert [Templates.is_inline(text) for text in ("a.j2", "a\nb", "{{ a }}", "{% a %}", "{# a #}", "words here")] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]


@requirement("layouts.templates")
async def test_template_folders_are_searched_in_order(project: Project, engine: Engine):
    """The root first, then each folder in the order of the settings; a trailing slash changes nothing."""
    found = Templates(Folder(project.root), ("one/", "two"), engine.templates.pool)
    assert found.candidate_paths("a.j2") == ["a.j2", "one/a.j2", "two/a.j2"]
    assert "one/, two/" in found.search_hint()
    project.write("two/a.j2", "two")
    assert found.read_template_text("a.j2") == "two"
    project.write("one/a.j2", "one")
    assert found.read_template_text("a.j2") == "one"
    assert found.read_all_templates() == {"one/a.j2": "one", "a.j2": "one", "two/a.j2": "two"}
    project.write("a.j2", "root")
    assert found.read_template_text("a.j2") == "root"
    assert found.read_template_text("b.j2") is None
