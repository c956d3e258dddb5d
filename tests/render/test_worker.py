"""A worker's jobs, run in this process; and its entry point, confinement and fork server, run directly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pytest

from chora import settings, this_process
from chora.render import (
    COMMAND,
    FORK,
    KILL,
    REPORT,
    SINGLE_WORKER,
    FrameReader,
    JobFailure,
    RenderedText,
    RenderJob,
    ScanJob,
    SelectedValues,
    SelectJob,
    TemplateOptions,
    TemplateReferences,
    WorkerAnswer,
    WorkerJob,
    encode_frame,
    sandbox,
    worker,
)
from tests.conftest import requirement
from tests.patience import PATIENCE

MIB = 1024 * 1024

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="forks, limits and socket pairs")


def render(
    template: str, context: dict[str, Any] | None = None, *, output: int = MIB, **job: Any
) -> RenderedText | JobFailure:
    return sandbox.render_template(
        RenderJob(template, job.pop("name", "page"), context=context or {}, **job), sandbox.CompiledTemplates(), output
    )


def text_of(template: str, context: dict[str, Any] | None = None, **job: Any) -> str:
    outcome = render(template, context, **job)
    assert isinstance(outcome, RenderedText), outcome
    return outcome.text


def failure_of(template: str, context: dict[str, Any] | None = None, **job: Any) -> JobFailure:
    outcome = render(template, context, **job)
    assert isinstance(outcome, JobFailure), outcome
    return outcome


# -- rendering --------------------------------------------------------------------------------------------------


def test_renders_a_template_with_its_context():
    """Names, loops and filters work; nothing is escaped by default."""
    assert text_of("{% for x in xs %}{{ x | upper }}<{% endfor %}", {"xs": ["a", "b"]}) == "A<B<"


def test_includes_imports_and_extends_sources():
    """What a template refers to comes from the sources of its job."""
    sources = {
        "base": "<{% block body %}{% endblock %}>",
        "part": "{{ name }}",
        "lib": "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}",
    }
    template = (
        "{% extends 'base' %}{% from 'lib' import twice %}"
        "{% block body %}{% include 'part' %}{{ twice(name) }}{% endblock %}"
    )
    assert text_of(template, {"name": "n"}, sources=sources) == "<nnn>"


def test_takes_the_text_from_the_sources_when_there_is_none():
    """A job without text renders the source with its name."""
    job = RenderJob(None, "page", {"page": "from the sources"})
    assert sandbox.render_template(job, sandbox.CompiledTemplates(), MIB) == RenderedText("from the sources", [])


@pytest.mark.parametrize(
    ("options", "template", "text"),
    [
        (TemplateOptions(), "{% if 1 %}\na\n{% endif %}\n", "\na\n"),
        (TemplateOptions(trim_blocks=True), "{% if 1 %}\na\n{% endif %}\n", "a\n"),
        (TemplateOptions(trim_blocks=True, lstrip_blocks=True), "  {% if 1 %}\na\n  {% endif %}\n", "a\n"),
        (TemplateOptions(keep_trailing_newline=True), "a\n", "a\n"),
        (TemplateOptions(autoescape=True), "{{ '<' }}", "&lt;"),
        (
            TemplateOptions(extensions=("jinja2.ext.loopcontrols",)),
            "{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}",
            "1",
        ),
    ],
)
def test_options_have_jinja2s_meaning(options: TemplateOptions, template: str, text: str):
    """Each option reaches the environment."""
    assert text_of(template, options=options) == text


def test_there_is_no_lipsum():
    """The one global that is random and unbounded is removed."""
    assert failure_of("{{ lipsum() }}").variable == "lipsum"


def test_stops_while_rendering_once_the_text_is_too_large():
    """The limit counts bytes, and endless output isn't collected first."""
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}ä{% endfor %}{% endfor %}"
    assert failure_of(endless, output=2000).kind == "output"
    assert text_of("ä" * 1000, output=2000) == "ä" * 1000
    assert failure_of("ä" * 1000 + "x", output=2000).kind == "output"


def test_memory_errors_are_left_to_the_caller():
    """A worker that ran out of memory must end, so the error isn't returned as data."""
    with pytest.raises(MemoryError):
        render("{{ 'x' * n }}", {"n": sys.maxsize // 2})
    with pytest.raises(MemoryError):
        render("{{ 'x' * n }}", {"n": sys.maxsize // 2}, undefined="lenient")


# -- plain data -------------------------------------------------------------------------------------------------

DATA: dict[str, Any] = {
    "x": {"items": [1, 2], "values": 3, "copy": "c", "count": 4, "update": "u", "keys": {"get": 5}, "__class__": "k"},
    "empty": {},
    "name": "Ines",
    "rows": [{"items": 1, "n": 2}, {"items": 3, "n": 1}],
    "log": "<function f at 0x7f00deadbeef> and <Macro 'log'>",
}


@requirement("generators.jinja2.plain-data")
@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ x.items }} {{ x.values }} {{ x.copy }} {{ x.count }} {{ x.update }}", "[1, 2] 3 c 4 u"),
        ("{{ x['items'] }} {{ x['values'] }} {{ x | attr('copy') }}", "[1, 2] 3 c"),
        ("{{ x.keys.get }} {{ x.__class__ }}", "5 k"),
        ("{% for i in x.items %}{{ i }};{% endfor %}", "1;2;"),
        ("{% if x.values > 2 %}more{% endif %}", "more"),
        # what is called is a method, also where a key has its name
        ("{% for k, v in x.items() %}{% if loop.first %}{{ k }}={{ v }}{% endif %}{% endfor %}", "items=[1, 2]"),
        ("{{ x.get('count') }} {{ x.values() | list | length }} {{ empty.items() | list }}", "4 7 []"),
        ("{{ empty.get('a', 'none') }} {{ name.upper() }} {{ [1, 1].count(1) }}", "none INES 2"),
        ("{% set f = name.upper %}{{ f() }}", "INES"),
        ("{{ rows | map(attribute='items') | join(',') }} {{ rows | sum(attribute='items') }}", "1,3 4"),
        ("{{ rows | sort(attribute='n') | map(attribute='items') | list }}", "[3, 1]"),
        ("{{ rows | selectattr('items', 'gt', 1) | list | length }}", "1"),
        ("{{ '{0.items} {0[count]}'.format(x) }}", "[1, 2] 4"),
        ("{% set d = {'f': joiner('-')} %}{{ d.f() }}{{ d.f() }}", "-"),
        ("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}{{ {'m': m}.m(2) }}", "<1><2>"),
        ("{% set n = namespace(items=1) %}{{ n.items }}", "1"),
        # what is plain data, or was in the data already, is printed
        (
            "{{ empty.keys() }} {{ range(3) }} {{ (1, 'a') }} {{ none }} {{ true }}",
            '[] [0, 1, 2] [1, "a"] None True',
        ),
        # a mapping or a list is printed as JSON, not as Python writes it
        ("{{ rows }}", '[{"items": 1, "n": 2}, {"items": 3, "n": 1}]'),
        ("{{ {'a': [none, true, 1.5, 'ü']} }}", '{"a": [null, true, 1.5, "ü"]}'),
        ("{{ {'a': 1}.items() }} {{ {'a': 1}.values() }}", '[["a", 1]] [1]'),
        ("{{ [range(2), {'a': 1}.items()] }} {{ {'k': {'a': 1}.keys()} }}", '[[0, 1], [["a", 1]]] {"k": ["a"]}'),
        ("{{ rows | tojson == rows | string }}{{ {(1, 2): 3} }}", "False{(1, 2): 3}"),
        ("{% autoescape true %}{{ ['<'] }}{% endautoescape %}", "[&#34;&lt;&#34;]"),
        ("{{ log }}", "<function f at 0x7f00deadbeef> and <Macro 'log'>"),
        ("{{ log ~ '' }}<class 'int'>", "<function f at 0x7f00deadbeef> and <Macro 'log'><class 'int'>"),
        ("a jump at 0x7f00deadbeef, {{ 'at 0x%08x' | format(1) }}", "a jump at 0x7f00deadbeef, at 0x00000001"),
    ],
)
def test_templates_see_plain_data(template: str, text: str):
    """On mappings the key wins over the method, unless the method is called."""
    assert text_of(template, DATA) == text


@requirement("generators.jinja2.plain-data")
@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{ name.upper }}", "upper, a method of str"),
        ("{{ rows.count }}", "count, a method of list"),
        ("{{ [name.upper] }}", "upper, a method of str"),
        ("{{ {'f': name.upper} }}", "upper, a method of str"),
        (
            "{{ rows | map(attribute='n') }}",
            "the result of a filter (map), which isn't data, is printed; write | list or | join(', ') behind it",
        ),
        ("{{ rows | select }}", "the result of a filter"),
        ("{{ (rows | map(attribute='n'),) }}", "the result of a filter"),
        ("{{ range }}", "range, a function"),
        ("{{ dict }}", "dict, a function"),
        ("{{ cycler('a') }}", "Cycler, an object"),
        ("{{ joiner() }}", "Joiner, a function"),
        ("{% macro m() %}{% endmacro %}{{ m }}", "the macro m"),
        ("{% for i in [1] %}{{ loop.cycle }}{% endfor %}", "cycle, a method of LoopContext"),
        ("{% for i in [1] %}{{ loop }}{% endfor %}", "loop, which isn't data, is printed; print what is in it"),
        ("{{ namespace(a=1) }}", "a namespace, which isn't data"),
        ("{{ [namespace(a=1)] }}", "a namespace, which isn't data"),
        ("{% block a %}{{ self }}{% endblock %}", "self, which isn't data"),
        # by way of a filter or an operator it is text already
        ("{{ 'a' ~ name.upper }}", "another object of Python"),
        ("{{ name.upper | string }}", "another object of Python"),
        ("{{ '%s' | format(name.upper) }}", "another object of Python"),
        ("{{ '{}'.format(name.upper) }}", "another object of Python"),
        ("{{ [name.upper] | join }}", "another object of Python"),
        ("{{ name.upper | upper }}", "another object of Python"),
        ("{{ rows | select | escape }}", "another object of Python"),
        ("{% macro m() %}{% endmacro %}{{ m ~ '' }}", "another object of Python"),
        ("{{ log }}{{ name.upper ~ '' }}", "another object of Python"),
        ("{{ range ~ '' }}", "another object of Python"),
    ],
)
@pytest.mark.parametrize("undefined", ["strict", "lenient"])
def test_what_is_no_data_is_never_printed(template: str, named: str, undefined: Any):
    """Something to call, or something with an address in its text, which differs in each run: an error names it."""
    failed = failure_of(template, DATA, undefined=undefined)
    assert (failed.kind, failed.template) == ("runtime", "page")
    assert named in failed.message


@requirement("generators.jinja2.plain-data")
@pytest.mark.parametrize("name", ["items", "values", "keys", "copy", "get", "fromkeys"])
def test_a_missing_key_named_like_a_method_is_undefined(name: str):
    """As any missing key is, by either way of writing it."""
    for template in (
        f"{{{{ empty.{name} }}}}",
        f"{{{{ empty['{name}'] }}}}",
        f"{{% for a in empty.{name} %}}{{% endfor %}}",
    ):
        failed = failure_of(template, DATA)
        assert (failed.kind, failed.variable) == ("undefined", name)
    assert text_of(f"{{{{ empty.{name} | default('none') }}}}{{{{ empty.{name} is defined }}}}", DATA) == "noneFalse"


# -- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "failed"),
    [
        ("a\n{{ nmae }}", JobFailure("undefined", "'nmae' is undefined", "page", 2, "nmae")),
        (
            "{{ user.nmae }}",
            JobFailure("undefined", "'dict object' has no attribute 'nmae'", "page", 1, "nmae"),
        ),
        ("{% if missing %}{% endif %}", JobFailure("undefined", "'missing' is undefined", "page", 1, "missing")),
        ("{{ items[7] }}", JobFailure("undefined", "list object has no element 7", "page", 1, "7")),
        ("{% include 'part' %}", JobFailure("undefined", "'gone' is undefined", "part", 3, "gone")),
        ("\n{% if %}", JobFailure("syntax", "Expected an expression, got 'end of statement block'", "page", 2)),
        ("{% include 'broken' %}", JobFailure("syntax", "unexpected 'end of template'", "broken", 2)),
        ("{{ 1 | nofilter }}", JobFailure("syntax", "No filter named 'nofilter'.", "page", 1)),
        (
            "\n{% include 'nowhere' %}",
            JobFailure(
                "template_not_found",
                "The template nowhere, which page refers to in line 2, doesn't exist.",
                "nowhere",
            ),
        ),
        ("{{ 1 // 0 }}", JobFailure("runtime", "ZeroDivisionError: integer division or modulo by zero", "page", 1)),
        ("{{ user | join(1, 2, 3, 4) }}", "runtime"),
        ("{{ [1] | map('nofilter') | list }}", JobFailure("runtime", "No filter named 'nofilter'.", "page", 1)),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ '\\ud800' }}", "runtime"),
        ("{{ range(1000000) }}", "runtime"),
    ],
)
def test_failures_say_what_and_where(template: str, failed: JobFailure | str):
    """Kind, message, template, line and variable are returned as data."""
    sources = {"part": "\n\n{{ gone }}", "broken": "\n{{ 1 +"}
    outcome = failure_of(template, {"user": {}, "items": []}, sources=sources)
    if isinstance(failed, str):
        assert (outcome.kind, outcome.template) == (failed, "page")
    else:
        assert outcome == failed


@requirement("generators.jinja2.error-places")
@pytest.mark.parametrize(
    ("template", "kind", "place", "message"),
    [
        ("{% extends 5 %}", "runtime", ("page", 1), "the name of a template is a text, not 5"),
        ("\n{% include 5 %}", "runtime", ("page", 2), "the name of a template is a text, not 5"),
        ("{% import 5 as a %}", "runtime", ("page", 1), "the name of a template is a text, not 5"),
        ("{% from none import a %}", "runtime", ("page", 1), "the name of a template is a text, not None"),
        ("{% extends user %}", "runtime", ("page", 1), "the name of a template is a text, not {}"),
        ("{% extends [1, 2] %}", "runtime", ("page", 1), "the name of a template is a text, not [1, 2]"),
        ("{% include [5] %}", "runtime", ("page", 1), "the name of a template is a text, not 5"),
        ("{% include user %}", "runtime", ("page", 1), "the name of a template is a text, not {}"),
        ("{% include items %}", "template_not_found", (None, None), ""),
        (
            "{% include ['x', 'y'] %}",
            "template_not_found",
            ("y", None),
            "None of the templates x, y, which page refers to in line 1, exists.",
        ),
        ("{% extends gone %}", "undefined", ("page", 1), "'gone' is undefined"),
        ("{% extends 'nowhere' %}", "template_not_found", ("nowhere", None), "which page refers to in line 1,"),
        ("{% import 'nowhere' as n %}", "template_not_found", ("nowhere", None), "which page refers to in line 1,"),
        ("{% include 'asks' %}", "template_not_found", ("nowhere", None), "which asks refers to in line 3,"),
        (
            "{% if true %}\n{% include 'asks' %}{% endif %}",
            "template_not_found",
            ("nowhere", None),
            "which asks refers to in line 3,",
        ),
        ("{% include 'filter' %}", "syntax", ("filter", 2), "No filter named 'nofilter'"),
        (
            "{% include 'filter in a condition' %}",
            "runtime",
            ("filter in a condition", 3),
            "No filter named 'nofilter'",
        ),
        ("{% if true %}\n\n{{ 1 | nofilter }}{% endif %}", "runtime", ("page", 3), "No filter named 'nofilter'"),
        ("{% if true %}\n{{ 1 is notest }}{% endif %}", "runtime", ("page", 2), "No test named 'notest'"),
        ("{{ 1 if true else 2 | nofilter }}", None, ("", 0), ""),
        ("{% include 'part' %}", "undefined", ("part", 3), "'gone' is undefined"),
        ("{% from 'macros' import m %}\n{{ m() }}", "undefined", ("macros", 2), "'gone' is undefined"),
        (
            "{% extends 'base' %}{% block b %}\n{{ gone }}{% endblock %}",
            "undefined",
            ("page", 2),
            "'gone' is undefined",
        ),
        ("{% extends 'base' %}{% extends 'base' %}", "runtime", ("page", 1), "extended multiple times"),
        ("{% include 'method' %}", "runtime", ("method", 2), "upper, a method of str"),
    ],
)
def test_errors_name_the_template_and_the_line(
    template: str, kind: str | None, place: tuple[str | None, int | None], message: str
):
    """Where the mistake stands, inside includes, conditions and macros too; a missing template says who asked."""
    sources = {
        "part": "\n\n{{ gone }}",
        "asks": "\n\n{% include 'nowhere' %}",
        "filter": "\n{{ 1 | nofilter }}",
        "filter in a condition": "{% if true %}\n\n{{ 1 | nofilter }}{% endif %}",
        "macros": "{% macro m() %}\n{{ gone }}{% endmacro %}",
        "base": "{% block b %}{% endblock %}",
        "method": "\n{{ 'a'.upper }}",
    }
    if kind is None:
        assert text_of(template, sources=sources) == "1"
        return
    failed = failure_of(template, {"user": {}, "items": []}, sources=sources)
    assert failed.kind == kind
    assert message in failed.message
    if place[0] is not None:
        assert (failed.template, failed.line) == place


@requirement("generators.jinja2.error-places")
@pytest.mark.parametrize(
    ("source", "line"),
    [("{{ 1 +", 1), ("\n{{ 1 | nofilter }}", 2), ("\n\n{% nope %}", 3)],
)
def test_a_scan_names_the_template_too(source: str, line: int):
    """Never a name of jinja2's own."""
    failed = sandbox.scan_template(ScanJob(source, "page"))
    assert isinstance(failed, JobFailure)
    assert (failed.kind, failed.template, failed.line) == ("syntax", "page", line)


def test_a_missing_main_template_is_named():
    """Also when it is the requested template itself."""
    outcome = sandbox.render_template(RenderJob(None, "page"), sandbox.CompiledTemplates(), MIB)
    assert outcome == JobFailure("template_not_found", "The template page doesn't exist.", "page")


def test_messages_are_short():
    """However long a name or a message is, it is truncated."""
    long = "x" * 5000
    outcome = failure_of("{{ " + long + " }}")
    assert len(outcome.message) == sandbox.MESSAGE_LENGTH
    assert outcome.variable == long[: sandbox.NAME_LENGTH]


# -- lenient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "text", "printed", "tested"),
    [
        ("[{{ event.data.tool_name }}]", "[]", ["event"], []),
        ("{% if event.data.tool_name %}yes{% else %}no{% endif %}", "no", [], ["event"]),
        ("[{{ user.nick }}{{ user.nick }}{{ gone }}]", "[]", ["nick", "gone"], []),
        ("{% for x in gone %}{{ x }}{% endfor %}", "", [], ["gone"]),
        ("{{ gone | length }}", "0", [], ["gone"]),
        ("{{ gone == 1 }}", "False", [], ["gone"]),
        ("{{ {gone: 1} | length }}", "1", [], ["gone"]),
        ("{{ gone ~ 'a' }}", "a", ["gone"], []),
        ("{{ 'a' if user.nick }}", "", [], ["nick"]),
        ("{{ user.list[0] }}", "", ["0"], []),
        ("{{ gone | default('x') }}{{ gone is defined }}{{ gone.a is defined }}", "xFalseFalse", [], []),
        ("{{ 1 if {}.x else 2 }}", "2", [], ["x"]),
        ("{% if gone %}{% endif %}{{ gone }}", "", ["gone"], []),
        ("{{ [gone] }}", '[""]', ["gone"], []),
        ("{{ user.items }}", "", ["items"], []),
    ],
)
def test_lenient_templates_render_undefined_names_empty(
    template: str, text: str, printed: list[str], tested: list[str]
):
    """Also attributes and items of undefined names; what left a gap is told from what was only looked at."""
    compiled = sandbox.CompiledTemplates()
    job = RenderJob(template, "page", context={"user": {"list": []}}, undefined="lenient")
    for _cold_then_warm in range(2):
        assert sandbox.render_template(job, compiled, MIB) == RenderedText(text, printed, tested)


def test_lenient_templates_fail_where_emptiness_makes_no_sense():
    """Calling an undefined name, or calculating with it, is an error that names it."""
    assert failure_of("{{ gone() }}", undefined="lenient").variable == "gone"
    assert failure_of("{{ gone + 1 }}", undefined="lenient").variable == "gone"


def test_lenient_reports_are_bounded():
    """A template can't flood the report with made-up names."""
    outcome = render("{% for i in range(1000) %}{{ d['k' ~ i] }}{% endfor %}", {"d": {}}, undefined="lenient")
    assert isinstance(outcome, RenderedText)
    assert len(outcome.undefined_names) == sandbox.UNDEFINED_NAMES_LIMIT


# -- the sandbox ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("undefined", ["strict", "lenient"])
@pytest.mark.parametrize(
    "template",
    [
        "{{ text.__class__ }}",
        "{{ text['__class__'] }}",
        "{{ text | attr('__class__') }}",
        "{{ [text] | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ '{x.__class__}'.format_map({'x': text}) }}",
        "{% macro f() %}{% endmacro %}{{ f._func }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__ }}",
        "{{ joiner.mro }}",
    ],
)
def test_private_attributes_are_refused(template: str, undefined: Any):
    """Names with an underscore or of Python's internals, in any spelling, in either mode (CWE-1336)."""
    outcome = render(template, {"text": "x"}, undefined=undefined)
    assert isinstance(outcome, JobFailure), outcome
    assert outcome.kind == "security"


@pytest.mark.parametrize(
    "template",
    ["{{ xs.append(1) }}", "{{ xs.clear() }}", "{{ d.update({'a': 2}) }}", "{{ d.pop('a') }}", "{{ xs['sort']() }}"],
)
def test_the_context_cannot_be_changed(template: str):
    """Methods that change a list or an object are refused."""
    context: dict[str, Any] = {"xs": [2, 1], "d": {"a": 1}}
    assert failure_of(template, context).kind == "security"
    assert context == {"xs": [2, 1], "d": {"a": 1}}


def test_keys_of_data_may_have_the_names_of_unsafe_methods():
    """A key `update` or `pop` is data."""
    assert text_of("{{ d.update }} {{ d.pop }}", {"d": {"update": "u", "pop": "p"}}) == "u p"


def test_nothing_of_one_job_is_left_for_the_next():
    """Not even a variable of an imported template, which jinja2 would keep with the compiled module."""
    compiled = sandbox.CompiledTemplates()
    lib = "{% set count = namespace(n=0) %}{% macro bump() %}{% set count.n = count.n + 1 %}{{ count.n }}{% endmacro %}"
    first = RenderJob(
        "{% set range = 5 %}{% import 'lib' as lib %}{{ lib.bump() }}{{ lib.bump() }}", "page", {"lib": lib}
    )
    second = RenderJob("{{ range(2) | list }}{{ lib is defined }}", "other")
    for _ in range(2):
        assert sandbox.render_template(first, compiled, MIB) == RenderedText("12", [])
        assert sandbox.render_template(second, compiled, MIB) == RenderedText("[0, 1]False", [])


# -- compiled templates -----------------------------------------------------------------------------------------


def test_compiled_templates_are_cached_by_source_and_options():
    """The same source is compiled once; another source, name or option is another entry."""
    compiled = sandbox.CompiledTemplates()
    code = compiled.compile_template(TemplateOptions(), "a", "text")
    assert compiled.compile_template(TemplateOptions(), "a", "text") is code
    assert compiled.compile_template(TemplateOptions(), "a", "other") is not code
    assert compiled.compile_template(TemplateOptions(), "b", "text") is not code
    assert compiled.compile_template(TemplateOptions(trim_blocks=True), "a", "text") is not code


def test_the_cache_of_compiled_templates_is_bounded():
    """The least recently used one is evicted."""
    compiled = sandbox.CompiledTemplates(bound=2)
    first = compiled.compile_template(TemplateOptions(), "1", "")
    compiled.compile_template(TemplateOptions(), "2", "")
    assert compiled.compile_template(TemplateOptions(), "1", "") is first
    third = compiled.compile_template(TemplateOptions(), "3", "")
    assert len(compiled) == 2
    assert compiled.compile_template(TemplateOptions(), "1", "") is first
    assert compiled.compile_template(TemplateOptions(), "3", "") is third


# -- scanning ---------------------------------------------------------------------------------------------------


def test_scan_finds_references_and_variables():
    """Every kind of reference once, and only names from outside as variables."""
    source = (
        "{% extends 'base' %}{% include 'part' %}{% include 'part' %}{% import 'lib' as lib %}"
        "{% from 'forms' import field %}{% set mine = 1 %}{{ mine }}{{ title }}{{ range(author.age) }}"
    )
    assert sandbox.scan_template(ScanJob(source)) == TemplateReferences(
        ["base", "part", "lib", "forms"],
        False,
        ["author", "title"],
        required={"base": 1, "lib": 1, "forms": 1},
    )


@pytest.mark.parametrize(
    ("source", "required"),
    [
        ("\n{% include 'a' %}{% include 'a' %}", {"a": 2}),
        ("{% extends 'a' %}{% include 'b' %}{% block c %}{% include 'd' %}{% endblock %}", {"a": 1}),
        ("{% include 'a' ignore missing %}{% include ['a', 'b'] %}{% include which %}", {}),
        ("{% if x %}{% include 'a' %}{% endif %}{% for i in x %}{% include 'a' %}{% endfor %}", {}),
        ("{% macro m() %}{% include 'a' %}{% endmacro %}{% import 'b' as c %}", {"b": 1}),
    ],
)
def test_scan_finds_the_templates_that_are_needed_in_any_case(source: str, required: dict[str, int]):
    """Not those that a render may come by without."""
    found = sandbox.scan_template(ScanJob(source))
    assert isinstance(found, TemplateReferences)
    assert found.required == required


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if a %}\n{{ a | uper }}{% endif %}", "No filter named 'uper'; did you mean 'upper'?"),
        ("\n{% if a is defind %}{% endif %}", "No test named 'defind'; did you mean 'defined'?"),
        ("\n{{ 1 if a is qqq else 2 }}", "No test named 'qqq'"),
    ],
)
def test_scan_finds_filters_and_tests_that_there_are_none_of(source: str, message: str):
    """Also behind a condition, where jinja2 only notices while it renders."""
    found = sandbox.scan_template(ScanJob(source))
    assert isinstance(found, TemplateReferences)
    assert found.fault is not None
    assert (found.fault.message, found.fault.line) == (message, 2)


def test_scan_reports_that_a_reference_is_dynamic():
    """A name that is computed while rendering is marked as such, and the known ones are still listed."""
    assert sandbox.scan_template(ScanJob("{% include ['a', which] %}")) == TemplateReferences(["a"], True, ["which"])


def test_scan_understands_options():
    """A tag of an extension is no syntax error if the extension is on."""
    source = "{% for i in [1] %}{% break %}{% endfor %}"
    assert isinstance(
        sandbox.scan_template(ScanJob(source, options=TemplateOptions(extensions=("jinja2.ext.loopcontrols",)))),
        TemplateReferences,
    )
    assert sandbox.scan_template(ScanJob(source, "page")) == JobFailure(
        "syntax",
        "Encountered unknown tag 'break'. Jinja was looking for the following tags: 'endfor' or 'else'. "
        "The innermost block that needs to be closed is 'for'.",
        "page",
        1,
    )


def test_scan_leaves_memory_errors_to_the_caller(monkeypatch: pytest.MonkeyPatch):
    """As rendering does: the worker must end."""

    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sandbox.meta, "find_referenced_templates", exhaust)
    with pytest.raises(MemoryError):
        sandbox.scan_template(ScanJob(""))


# -- frames -----------------------------------------------------------------------------------------------------


def test_frames_are_assembled_from_any_pieces():
    """Even from single bytes."""
    unframer = FrameReader(1000)
    framed = encode_frame(ScanJob("x"))
    pieces = [unframer.feed(framed[i : i + 1]) for i in range(len(framed))]
    assert pieces[:-1] == [None] * (len(framed) - 1)
    assert pieces[-1] is not None
    assert msgspec.msgpack.decode(pieces[-1], type=WorkerJob) == ScanJob("x")


def test_frames_are_bounded():
    """A length beyond the limit, or bytes behind the frame, are refused before they are collected."""
    with pytest.raises(ValueError, match="1000 bytes"):
        FrameReader(999).feed((1000).to_bytes(4))
    with pytest.raises(ValueError, match="fit the protocol"):
        FrameReader(999).feed(encode_frame(None) + b"x")


# -- the connection to the pool ---------------------------------------------------------------------------------


class Conversation:
    """The pool's end of a worker connection, blocking."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        self._connection = connection

    def send(self, job: WorkerJob | bytes) -> None:
        self._connection.sendall(job if isinstance(job, bytes) else encode_frame(job))

    def receive(self) -> memoryview | None:
        unframer = FrameReader(MIB)
        while piece := self._connection.recv(65536):
            if (message := unframer.feed(piece)) is not None:
                return message
        return None

    def ask(self, job: WorkerJob | bytes) -> WorkerAnswer:
        self.send(job)
        message = self.receive()
        assert message is not None
        return msgspec.msgpack.decode(message, type=WorkerAnswer)


@contextmanager
def conversation(render_settings: settings.RenderSettings) -> Generator[Conversation]:
    """Connect to `serve_jobs`, running in a thread, which has to end by itself afterwards."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=worker.serve_jobs, args=(theirs.fileno(), theirs.fileno(), render_settings))
        thread.start()
        try:
            yield Conversation(ours)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the CPU limit, which would apply to the test process."""
    monkeypatch.setattr(worker, "set_cpu_limit", lambda wall: None)
    monkeypatch.setattr(worker, "peak_memory", lambda: 0)


@pytest.mark.usefixtures("no_time_limit")
def test_a_worker_answers_until_its_connection_closes():
    """It reports that it is ready, renders, scans, and survives a job that it can't decode."""
    with conversation(settings.RenderSettings()) as talk:
        assert talk.receive() == b""
        assert talk.ask(RenderJob("{{ 1 + 1 }}", "page")) == WorkerAnswer(RenderedText("2", []))
        assert talk.ask(ScanJob("{{ x }}")) == WorkerAnswer(TemplateReferences([], False, ["x"]))
        answer = talk.ask((1).to_bytes(4) + b"\xc1")
        assert isinstance(answer.outcome, JobFailure)
        assert answer.outcome.kind == "runtime"
        for unsayable in (
            RenderJob("{{ d['\\ud800'] }}", "page", context={"d": {}}),
            ScanJob("{% include '\\ud800' %}"),
        ):
            answer = talk.ask(unsayable)
            assert isinstance(answer.outcome, JobFailure)
            assert "isn't valid Unicode" in answer.outcome.message
        large = "x" * (MIB // 2)
        assert talk.ask(RenderJob(large, "page")) == WorkerAnswer(RenderedText(large, []))


@pytest.mark.usefixtures("no_time_limit")
def test_a_worker_without_memory_says_so_and_ends():
    """With a result that was allocated in advance."""
    with conversation(settings.RenderSettings()) as talk:
        talk.receive()
        answer = talk.ask(RenderJob("{{ 'x' * n }}", "page", context={"n": sys.maxsize // 2}))
        assert answer.last
        assert isinstance(answer.outcome, JobFailure)
        assert answer.outcome.kind == "memory"


@pytest.mark.usefixtures("no_time_limit")
def test_a_worker_ends_after_enough_jobs(monkeypatch: pytest.MonkeyPatch):
    """The result of its last job says that it is the last."""
    monkeypatch.setattr(worker, "JOBS_PER_WORKER", 2)
    with conversation(settings.RenderSettings()) as talk:
        talk.receive()
        assert [talk.ask(RenderJob("x", "page")).last for _ in range(2)] == [False, True]


@pytest.mark.usefixtures("no_time_limit")
def test_a_worker_that_grew_ends(monkeypatch: pytest.MonkeyPatch):
    """When it uses more than half of its memory limit; a peak inherited from the fork server doesn't count."""
    render_settings = settings.RenderSettings()
    half = render_settings.memory // 2
    for inherited, threshold in ((0, half), (half - 1, half), (half + 7, half + 7)):
        peaks = [inherited, threshold, threshold + 1]
        monkeypatch.setattr(worker, "peak_memory", partial(peaks.pop, 0))
        with conversation(render_settings) as talk:
            talk.receive()
            assert [talk.ask(RenderJob("x", "page")).last for _ in range(2)] == [False, True]


def test_a_deep_job_is_a_failure_not_a_crash():
    """A job nested too deep to decode gets an error as data."""
    deep = b"\x81\xa1x" * 5000 + b"\xc0"
    job = b"\x84\xa4type\xa9RenderJob\xa8template\xa0\xa4name\xa4page\xa7context" + deep
    outcome = worker._perform_job(memoryview(job), sandbox.CompiledTemplates(), MIB)
    assert isinstance(outcome, JobFailure)
    assert outcome.kind == "recursion"


# -- whole processes, run directly: the real limits keep a worker from writing coverage data --------------------


def start(script: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen[bytes](
        [sys.executable, "-c", f"from chora.render import worker\n{script}", *arguments],
        env=this_process.child_environment(),
        **options,
    )


UNLIMITED = "worker.worker_limits = lambda render_settings: {}\nworker.main()"
RULES = msgspec.json.encode(settings.RenderSettings()).decode()


@needs_posix
def test_confinement_cannot_be_lifted():
    """Soft and hard limits are set, a lower hard limit stays, and time and memory are counted."""
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
worker.apply_limits({resource.RLIMIT_NOFILE: 64, resource.RLIMIT_CORE: 2**40})
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 64)
assert resource.getrlimit(resource.RLIMIT_CORE) == (4096, 4096)
resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))
worker.set_cpu_limit(30)
assert 30 <= resource.getrlimit(resource.RLIMIT_CPU)[0] <= 60
worker.set_cpu_limit(9999)
assert resource.getrlimit(resource.RLIMIT_CPU)[0] == 1000
assert 2**20 < worker.peak_memory() < 2**33
if sys.platform == "linux":
    assert "NoNewPrivs:\\t1" in open("/proc/self/status").read()
"""
    assert start(script).wait(PATIENCE) == 0


@needs_posix
def test_a_worker_has_the_documented_limits():
    """The configured memory, 16 descriptors, no file size and no core dumps."""
    assert sys.platform != "win32"
    import resource

    assert worker.worker_limits(settings.RenderSettings(memory=64 * MIB)) == {
        resource.RLIMIT_AS: 64 * MIB,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }


@needs_posix
def test_the_fork_server_forks_kills_reaps_and_ends():
    """One worker per connection; killed and ended ones are reported; it ends when the control connection closes."""
    assert sys.platform != "win32"
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours:
        with theirs:
            server = start(UNLIMITED, str(theirs.fileno()), RULES, pass_fds=(theirs.fileno(),))
        connections: list[socket.socket] = []
        for number in (1, 2, 3):
            connection, far = socket.socketpair()
            connections.append(connection)
            with far:
                socket.send_fds(ours, [COMMAND.pack(FORK, number)], [far.fileno()])
            talk = Conversation(connection)
            assert talk.receive() == b""
            assert talk.ask(RenderJob("hello", "page")) == WorkerAnswer(RenderedText("hello", []))
        ours.send(COMMAND.pack(KILL, 2))
        assert REPORT.unpack(ours.recv(REPORT.size)) == (2, -signal.SIGKILL)
        ours.send(COMMAND.pack(KILL, 2))  # has ended already: nothing happens
        connections[0].close()
        assert REPORT.unpack(ours.recv(REPORT.size)) == (1, 0)
        for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            server.send_signal(ignored)
        ours.shutdown(socket.SHUT_WR)
        assert server.wait(PATIENCE) == 0
        assert connections[2].recv(1) == b""
        for connection in connections:
            connection.close()


@needs_posix
def test_a_fork_server_whose_pool_ended_ends_without_a_traceback(capfd: pytest.CaptureFixture[str]):
    """Also when reports to the pool are still unread, which resets the connection; its workers end with it."""
    assert sys.platform != "win32"
    ours, theirs = socket.socketpair()
    with theirs:
        server = start(UNLIMITED, str(theirs.fileno()), RULES, pass_fds=(theirs.fileno(),))
    connections: list[socket.socket] = []
    for number in (1, 2):
        connection, far = socket.socketpair()
        connections.append(connection)
        with far:
            socket.send_fds(ours, [COMMAND.pack(FORK, number)], [far.fileno()])
        assert Conversation(connection).receive() == b""
    ours.send(COMMAND.pack(KILL, 1))
    assert ours.recv(1, socket.MSG_PEEK)
    ours.close()
    assert server.wait(PATIENCE) == 0
    assert connections[1].recv(1) == b""
    for connection in connections:
        connection.close()
    assert "Traceback" not in capfd.readouterr().err


@needs_posix
def test_a_fork_that_fails_is_reported():
    """The connection closes, and the error number is returned."""
    assert sys.platform != "win32"
    script = "import errno, os\ndef fork(): raise OSError(errno.EAGAIN, 'no more')\nos.fork = fork\nworker.main()"
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours:
        with theirs:
            server = start(script, str(theirs.fileno()), RULES, pass_fds=(theirs.fileno(),))
        connection, far = socket.socketpair()
        connection.settimeout(10)
        with connection:
            with far:
                socket.send_fds(ours, [COMMAND.pack(FORK, 1)], [far.fileno()])
            assert connection.recv(1) == b""
        number, status = REPORT.unpack(ours.recv(REPORT.size))
        assert number == 1
        assert status > 0
        ours.shutdown(socket.SHUT_WR)
        assert server.wait(PATIENCE) == 0


@needs_posix
def test_a_worker_does_not_outlive_a_server_that_ended_while_it_began():
    """The server may have ended between the fork and PR_SET_PDEATHSIG."""
    script = "import os\nworker.die_with_parent(os.getppid() + 1)\nos._exit(7)"
    assert start(script).wait(PATIENCE) == (0 if sys.platform == "linux" else 7)


def test_a_direct_worker_speaks_over_stdin_and_stdout():
    """Without a control descriptor it is a single worker, and nothing else is written to stdout."""
    process = start(UNLIMITED, SINGLE_WORKER, RULES, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    framed = bytes(encode_frame(RenderJob("{{ 6 * 7 }}", "page")))
    output, _ = process.communicate(framed, timeout=PATIENCE)
    assert process.returncode == 0
    assert output == encode_frame(None) + encode_frame(WorkerAnswer(RenderedText("42", [])))


def test_reaping_without_a_pool_is_quiet():
    """A report without a receiver is dropped without an error."""
    if sys.platform != "linux":
        pytest.skip("looks at a process that has ended without reaping it")
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        child = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        children = {child.pid: 1}
        worker._reap_children(children, theirs)
        assert children == {}
    child.wait()


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("$.people[*].name", ["Ines", "Per"]),
        ("$.people[?@.age > 40].name", ["Per"]),
        ("$['people'][0].age", [36]),
        ("$.nothing", []),
        ("$..age", [36, 41]),
        ("$", [{"people": [{"name": "Ines", "age": 36}, {"name": "Per", "age": 41}]}]),
    ],
)
def test_a_query_selects_values_in_its_order(query: str, values: list[Any]):
    """RFC 9535: names, filters, slices, descendants, and an empty result."""
    data = {"people": [{"name": "Ines", "age": 36}, {"name": "Per", "age": 41}]}
    selected = sandbox.select_values(SelectJob(query=query, data=data))
    assert isinstance(selected, SelectedValues)
    assert selected.values == values


SHELVES = {"a": [5, 1, {"k": None}, "x"], "b": {"j": 1, "k": [[2], []]}, "": True, "\u263a": False, "o'k": 0}


@requirement("sources.selectors.rfc-9535")
@pytest.mark.parametrize(
    ("query", "values"),
    [
        ('$["a"][-1]', ["x"]),
        ("$['']", [True]),
        ("$.\u263a", [False]),
        ("$['o\\'k']", [0]),
        ("$['\\u263A']", [False]),
        ("$.a[4]", []),
        ("$.a[-5]", []),
        ("$.b[0]", []),
        ("$.a.k", []),
        ("$.a[2].k", [None]),
        ("$.a[0, 0]", [5, 5]),
        ("$.a[1:3]", [1, {"k": None}]),
        ("$.a[::-1]", ["x", {"k": None}, 1, 5]),
        ("$.a[::2]", [5, {"k": None}]),
        ("$.a[3:0:-2]", ["x", 1]),
        ("$.a[::0]", []),
        ("$.a[-100:100:3]", [5, "x"]),
        ("$.b.*", [1, [[2], []]]),
        ("$.b['j', 'k']", [1, [[2], []]]),
        ("$..k", [None, [[2], []]]),
        ("$..[0]", [5, [2], 2]),
        ("$.a[?@ > 1]", [5]),
        ("$.a[?@ == 'x']", ["x"]),
        ("$.a[?@.k == null]", [{"k": None}]),
        ("$.a[?@.k]", [{"k": None}]),
        ("$.a[?!@.k]", [5, 1, "x"]),
        ("$.a[?@.nope == @.neither]", [5, 1, {"k": None}, "x"]),
        ("$.a[?@ == 5 || @ == 'x' && false == true]", [5]),
        ("$.a[?(@ == 5 || @ == 'x') && @ != 5]", ["x"]),
        ("$.a[?@ == $.b.j]", [1]),
        ("$.a[?@ < 'y']", ["x"]),
        ("$.a[?@ <= 1.0]", [1]),
        ("$.a[?@ == 5e0]", [5]),
        ("$.b[?length(@) == 2]", [[[2], []]]),
        ("$[?count(@.*) == 4]", [[5, 1, {"k": None}, "x"]]),
        ("$.b.k[?value(@[0]) == 2]", [[2]]),
        ("$.a[?match(@, '[w-y]')]", ["x"]),
        ("$.a[?search(@, '')]", ["x"]),
    ],
)
def test_a_query_means_what_the_standard_says(query: str, values: list[Any]):
    """RFC 9535: names in both quotes, indexes and slices from both ends, filters that compare, and its functions."""
    found = sandbox.select_values(SelectJob(query=query, data=SHELVES))
    assert isinstance(found, SelectedValues)
    assert found.values == values


@requirement("sources.selectors.rfc-9535")
@pytest.mark.parametrize(
    "query",
    [
        *("a", " $", "$ ", "$.", "$..", "$.1", "$.a b", "$[", "$[]", "$[a]", "$['a]", "$[01]", "$[-0]", "$[1.0]"),
        *("$[9007199254740992]", "$[1:2:3:4]", "$['\\q']", "$['\\ud800']", "$['\n']", "$[?]", "$[?@ = 1]", "$[?1]"),
        *(
            "$[?@.* == 1]",
            "$[?'a']",
            "$[?length(@)]",
            "$[?count(1) == 1]",
            "$[?nope(@)]",
            "$[?match(@)]",
            "$[?TRUE == @]",
        ),
        *("$[?@ == 01]", "$[?@ == .5]", "$[?(@.a]", "$[?length(@.*) == 1]", "$[?@ == length (@)]", "$[?TRUE == @]"),
    ],
)
def test_what_is_no_query_is_an_error(query: str):
    """Of RFC 9535: its grammar, the range of its integers, and the types of its functions."""
    assert isinstance(sandbox.select_values(SelectJob(query=query, data=SHELVES)), JobFailure)


@requirement("sources.selectors.rfc-9535")
@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"\\p{Lu}", "AЖ", "aж1\n"),
        (r"\\P{Lu}", "aж1", "AЖ"),
        (r"\\p{L}", "aЖ", "1 "),
        (r"[\\p{Lu}1]", "AЖ1", "a2"),
        (r"[^\\p{Lu}]", "a1", "AЖ"),
        (r"[\\P{L}a]", "1a", "bЖ"),
        (r"\\p{Sc}", "€$", "a"),
        (r".", "a\u2028\u2029\x85\f", "\r\n"),
        (r"[.]", ".", "a"),
        (r"\\.", ".", "a\\"),
        (r"[[]", "[", "]"),
        (r"[\\]]", "]", "["),
        (r"\\\\", "\\", "p"),
        (r"\\p{Xy}", "", "aA1"),
        (r"\\p{", "", "aA1"),
        (r"(", "", "("),
    ],
)
def test_filters_take_i_regexp(pattern: str, matching: str, other: str):
    """RFC 9485: Unicode categories, and a dot that no line end matches; what is no pattern matches nothing."""
    found = sandbox.select_values(SelectJob(query=f"$[?match(@, '{pattern}')]", data=[*matching, *other]))
    assert isinstance(found, SelectedValues)
    assert found.values == list(matching)


@pytest.mark.parametrize(
    ("query", "singular"),
    [
        ("$", True),
        ("$.a.b", True),
        ("$['a'][0]", True),
        ("$[-1]", True),
        ("$.*", False),
        ("$..a", False),
        ("$[0,1]", False),
        ("$[0:1]", False),
        ("$[?@.a == 1]", False),
        ("$.a[*].b", False),
    ],
)
@pytest.mark.parametrize("data", [{}, 5])
def test_a_query_that_can_select_only_one_value_is_singular(query: str, singular: bool, data: Any):
    """RFC 9535, 2.3.5.1: names and indexes only, whatever the data."""
    found = sandbox.select_values(SelectJob(query=query, data=data))
    assert isinstance(found, SelectedValues)
    assert found.singular is singular


@pytest.mark.parametrize("query", ["people", "$.[", "$[?", "$[?@.a ==]", "$" + "[" * 5000])
def test_an_invalid_query_is_reported(query: str):
    """Any fault is returned as data."""
    failed = sandbox.select_values(SelectJob(query=query, data={}))
    assert isinstance(failed, JobFailure)
    assert failed.message


@pytest.mark.parametrize(("query", "values"), [("$", ["[1]"]), ("$[0]", []), (" $ ", ["[1]"])])
def test_a_text_is_a_scalar_to_a_query(query: str, values: list[Any]):
    """Text that looks like JSON isn't parsed."""
    found = sandbox.select_values(SelectJob(query=query, data="[1]"))
    assert isinstance(found, JobFailure) or (isinstance(found, SelectedValues) and found.values == values)


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no such limit there")
def test_a_worker_whose_pool_has_died_ends_by_itself():
    """A template without end uses no more processor time than a job may, and five seconds."""
    program = "from chora.render.worker import set_cpu_limit\nset_cpu_limit(-4.5)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGXCPU
