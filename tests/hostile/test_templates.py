"""Templates that try to escape or to exhaust resources: only they fail, and the next one is rendered."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.conftest import Asking, Project, artifact, child, content, text, unchanged
from tests.hostile.measures import MIB, bounded, is_well, linux, prepare, serving, settled, workers_memory

pytestmark = linux


@pytest.fixture
def project(project: Project) -> Project:
    return prepare(project)


def jinja(template: Any, **rest: Any) -> dict[str, Any]:
    return content("note", pattern={"type": "jinja2", "template": template}, **rest)


NOTE = {"content_config_id": "note", "force": True}

# -- escapes ----------------------------------------------------------------------------------------------------

ESCAPES = {
    "private attributes": [
        "{{ ''.__class__ }}",
        "{{ [].__class__.__base__ }}",
        "{{ ().__class__.__mro__[1] }}",
        "{{ {}.__class__.__bases__ }}",
        "{{ data.__init__ }}",
        "{{ data.__dict__ }}",
        "{{ (1).__add__(1) }}",
        "{{ data._secret.x }}{{ ''._x }}",
        "{{ ''['__class__'] }}",
        "{{ ''['__cla' ~ 'ss__'] }}",
        "{{ ''[data.word] }}",
        "{{ ''|attr('__class__') }}",
        "{{ ''|attr('__cla' ~ 'ss__') }}",
        "{{ ''|attr(data.word) }}",
        "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    ],
    "subclasses and their ancestors": [
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ ''.__class__.mro() }}",
        "{{ (''|attr('__class__')|attr('__mro__'))[1]|attr('__subclasses__') }}",
        "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ [''.__class__]|map(attribute='__mro__')|list }}",
    ],
    "functions and what they close over": [
        "{{ range.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
        "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}",
        "{{ ''.upper.__self__ }}",
        "{{ cycler.next.__func__ }}",
        "{{ url_for.__globals__ }}",
        "{{ get_flashed_messages.__globals__ }}",
        "{{ undefined_name.__class__ }}",
        "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{% for i in [1] %}{{ loop._iterator }}{% endfor %}",
        "{% set n = namespace() %}{{ n.__class__ }}",
    ],
    "filters that take attributes": [
        "{{ ['']|map(attribute='__class__')|list }}",
        "{{ ['']|map('attr', '__class__')|list }}",
        "{{ ['']|selectattr('__class__')|list }}",
        "{{ ['']|rejectattr('__class__')|list }}",
        "{{ ['', 'a']|groupby('__class__')|list }}",
        "{{ ['', 'a']|sort(attribute='__class__') }}",
        "{{ ['', 'a']|unique(attribute='__class__')|list }}",
        "{{ ['', 'a']|sum(attribute='__class__') }}",
        "{{ ['', 'a']|min(attribute='__class__') }}",
        "{{ ['', 'a']|join(attribute='__class__') }}",
        "{{ ['']|map(attribute='upper.__self__.__class__')|list }}",
        "{{ [data]|map(attribute='a.__class__')|list }}",
    ],
    "formatting": [
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0[__class__]}'.format(data) }}",
        "{{ '{x.__class__}'.format_map({'x': ''}) }}",
        "{{ '{0.__class__}'|attr('format')('') }}",
        "{% set f = '{0.__class__}'.format %}{{ f('') }}",
        "{{ ['']|map('{0.__class__}'.format)|list }}",
        "{{ '{0.__class__.__mro__}'['format']('') }}",
        "{{ ('{0.__class__}'|safe).format('') }}",
        "{{ ('{x.__class__}'|safe).format_map({'x': ''}) }}",
    ],
    "changing what is shared": [
        "{{ data.update({'a': 1}) }}",
        "{{ items.append(1) }}",
        "{{ items.clear() }}",
        "{{ items|attr('append')(1) }}",
        "{{ data.setdefault('b', 2) }}",
        "{% do items.append(1) %}",
        "{% set data.a = 5 %}",
    ],
    "other files and languages": [
        "{% include '../chora.toml' %}",
        "{% include '/etc/passwd' %}",
        "{% include 'configs/../../outside.txt' %}",
        "{% import '/proc/self/environ' as e %}{{ e }}",
        "{% extends '/etc/hostname' %}",
        "{% from '../../x' import y %}",
        "{% include ['/etc/passwd', '../x'] %}",
        "{% include data.path %}",
        "{% include 'file:///etc/passwd' %}",
        "{% include 'http://127.0.0.1:9/x' %}",
        "{% include ('..' ~ '/chora.toml') %}",
        "{{ import('os') }}",
        "{{ __import__('os') }}",
        "{{ open('/etc/passwd') }}",
        "{{ eval('1') }}",
        "{% debug %}",
        "{% python %}1{% endpython %}",
    ],
}


@pytest.mark.parametrize("kind", ESCAPES)
async def test_no_template_escapes_the_sandbox(project: Project, ask: Asking, kind: str):
    """Everything but plain data is refused by name, in every mode, and shows nothing of the machine (CWE-1336)."""
    project.root.parent.joinpath("outside.txt").write_text("hunter2")
    context = {"data": {"a": "x", "word": "__class__", "path": "/etc/passwd"}, "items": [1]}
    await is_well(ask)
    for mode in ("strict", "lenient"):
        for template in ESCAPES[kind]:
            document = jinja(template)
            document["generation"]["patterns"][0]["generation_config"] = {"undefined": mode}
            project.save(document)
            async with bounded(project, memory=24 * 2**20):
                answer = await ask.answer("generate_content", {**NOTE, "context": context})
                if answer["success"]:  # lenient: undefined names are empty
                    assert mode == "lenient", template
                    shown = answer["content"]
                    assert not [word for word in ("<", "hunter2", "root:") if word in shown], (template, shown)
                else:
                    assert answer["error"]["code"] in ("generation_failed", "permission_denied"), (template, answer)
                    assert "root:x" not in str(answer), template
                    assert "Traceback" not in str(answer), template
                await is_well(ask)


# -- bombs ------------------------------------------------------------------------------------------------------

SIZE = {
    "times": "{{ 'x' * 10**12 }}",
    "times a list": "{{ [1] * 10**11 }}",
    "power": "{{ 9**(9**9) }}",
    "huge number": "{{ 10**100000 }}",
    "tilde": "{% set ns = namespace(x='x' * 1024) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}x",
    "join": "{{ range(99999)|join('x' * 100000) }}",
    "replace": "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}",
    "center": "{{ 'x'|center(10**11) }}",
    "indent": "{{ ('\\n' * 1000000)|indent(10**6, blank=true) }}",
    "slice": "{{ range(9)|slice(10**10)|list|length }}",
    "batch": "{{ range(9)|batch(10**11, 'x')|list|length }}",
    "format": "{{ '%099999999999d' % 1 }}",
    "format width": "{{ '{:>99999999999}'.format('x') }}",
    "ljust": "{{ 'x'.ljust(10**11) }}",
    "zfill": "{{ 'x'.zfill(10**11) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**10) }}",
    "wordwrap": "{{ ('x' * 3000000)|wordwrap(1, wrapstring='y' * 100) }}",
    "ranges": "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "macros": "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% else %}x{% endif %}{% endmacro %}{{ a(60) }}",
    "urlize": "{{ ('www.a.b ' * 400000)|urlize }}",
    "tojson": "{{ ([range(9999)|list] * 9999)|tojson }}",
    "dictsort": "{{ dict(a='x' * 10**9)|dictsort }}",
    "pprint": "{{ ([range(9999)|list] * 999)|pprint }}",
    "set block": "{% set x %}{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}{{ x|length }}",
}
TIME = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "sums": "{% for a in range(99999) %}{% set _ = range(99999)|sum %}{% endfor %}",
    "sorting": "{% for a in range(99999) %}{% set _ = range(99999)|sort(reverse=true) %}{% endfor %}",
    "unique": "{% for a in range(999) %}{% set _ = range(99999)|unique|list %}{% endfor %}",
    "search": "{% for a in range(99999) %}{% if ('a' * 9999 ~ a) in ('a' * 9999999) %}{% endif %}{% endfor %}",
    "comparing": "{% set x = range(99999)|list %}{% for a in x %}{% if x == x|list %}{% endif %}{% endfor %}",
    "trim": "{% for a in range(99999) %}{% set _ = (' ' * 3000000 ~ a)|trim %}{% endfor %}",
    "striptags": "{% for a in range(99999) %}{% set _ = ('<' * 900000 ~ a)|striptags %}{% endfor %}",
    "random": "{% for a in range(99999) %}{% set _ = range(99999)|list|random %}{% endfor %}",
}
DEEP = {
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "macro calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "not": "{{ " + "not " * 20000 + "1 }}",
    "minus": "{{ " + "-" * 20000 + "1 }}",
    "sums": "{{ " + "+".join(["1"] * 20000) + " }}",
    "tildes": "{{ " + "~".join(["a"] * 20000) + " }}",
    "attributes": "{{ data" + ".a" * 20000 + " }}",
    "filters": "{{ ''" + "|upper" * 20000 + " }}",
    "ifs": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "loops": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
    "blocks": "{% block a %}" * 3000,
    "elifs": "{% if 0 %}" + "{% elif 0 %}" * 20000 + "{% endif %}",
    "unclosed": "{{ '" + "x" * 100000,
    "comments": "{#" * 100000,
    "raw": "{% raw %}" * 20000,
    "spaces": "{{" + " " * 900000 + "x",
    "quotes": "{{ " + "'\\" * 200000,
    "numbers": "{{ 1" + "0" * 400000 + " }}",
    "digits and underscores": "{{ 1" + "_1" * 200000 + "_ }}",
    "regex words": "{{ " + "a" * 900000 + "! }}",
    "dashes": "{%" + "-" * 300000,
    "newlines": "\n" * 900000 + "{% endif %}",
}
BOMBS = [(sort, name) for sort, cases in (("SIZE", SIZE), ("TIME", TIME), ("DEEP", DEEP)) for name in cases]
CODES = {
    "SIZE": {"limit_exceeded", "generation_failed"},
    "TIME": {"limit_exceeded"},
    "DEEP": {"limit_exceeded", "generation_failed"},
}


@pytest.mark.parametrize("sort", CODES)
async def test_bombs_are_errors(project: Project, ask: Asking, sort: str):
    """Too large, too long or too deep; only the worker is affected."""
    cases = {"SIZE": SIZE, "TIME": TIME, "DEEP": DEEP}[sort]
    await is_well(ask)
    for name, template in cases.items():
        project.save(jinja(template))
        async with bounded(project):
            answer = await ask.answer("generate_content", {**NOTE, "context": {"data": {}}})
            assert not answer["success"], name
            assert answer["error"]["code"] in CODES[sort], (name, answer["error"])
            await is_well(ask)


@pytest.mark.parametrize("name", ["huge number", "times", "power"])
@pytest.mark.parametrize("tool", ["preview_generation", "test_config", "regenerate_content", "batch_generate"])
async def test_every_tool_that_renders_has_the_same_limits(project: Project, ask: Asking, tool: str, name: str):
    """With the same error."""
    document = jinja(SIZE[name])
    project.save(document)
    match tool:
        case "test_config":
            draft = await ask("draft_config", config_type="content", config_data={**document, "id": "draft"})
            arguments: dict[str, Any] = {"draft_id": draft["draft_id"]}
        case "batch_generate":
            arguments = {"content_ids": ["note", "good"]}
        case _:
            arguments = {"content_config_id": "note"}
    await is_well(ask)  # a draft's template is compiled, which may have ended a worker
    async with bounded(project):
        answer = await ask.answer(tool, arguments)
        if tool == "batch_generate":
            outcome = {row["content_id"]: row["success"] for row in answer["results"]}
            assert outcome == {"note": False, "good": True}
        else:
            assert answer["error"]["code"] in ("limit_exceeded", "generation_failed", "test_execution_failed"), answer
        await is_well(ask)


async def test_many_bombs_on_a_server(project: Project):
    """A real server's memory doesn't grow, its workers keep their limit, and the next call works."""
    kinds = [*SIZE.values()][:8] + [*TIME.values()][:2]
    project.save(*(content(f"bomb{n}", pattern={"type": "jinja2", "template": each}) for n, each in enumerate(kinds)))
    async with serving(project) as (server, client):
        codes: list[str] = []
        memory: list[int] = []

        async def throw(number: int) -> None:
            asked = {"name": "preview_generation", "arguments": {"content_config_id": f"bomb{number}"}}
            answer = (await client.ask("tools/call", asked, id=number + 2)).json()
            codes.append(answer["result"]["structuredContent"]["error"]["code"])

        async def watch() -> None:
            while True:
                memory.append(workers_memory(server.pid))
                await trio.sleep(0.02)

        async def is_fine() -> None:
            answer = (await client.call("generate_content", content_config_id="good", force=True)).json()
            assert answer["result"]["structuredContent"]["content"].startswith("Hello you"), answer

        await is_fine()
        await settled(server)
        async with bounded(project, server.pid, memory=32 * MIB):
            async with trio.open_nursery() as watching:
                watching.start_soon(watch)
                async with trio.open_nursery() as storm:
                    for number in range(len(kinds)):
                        storm.start_soon(throw, number)
                await is_fine()
                watching.cancel_scope.cancel()
            await client.http.aclose()
        assert len(codes) == len(kinds)
        assert set(codes) <= {"limit_exceeded", "generation_failed"}, codes
        # The fork server, and one worker with 128 MiB of address space; a killed one may overlap with the next.
        assert max(memory) < 300 * MIB


# -- includes, contexts, data -----------------------------------------------------------------------------------


async def test_templates_that_include_one_another(project: Project, ask: Asking):
    """Cycles, long chains and exponential includes end with an error."""
    project.write("configs/templates/a.j2", "{% include 'b.j2' %}")
    project.write("configs/templates/b.j2", "{% include 'a.j2' %}")
    project.write("configs/templates/base.j2", "{% extends 'base.j2' %}")
    project.write("configs/templates/m.j2", "{% from 'm.j2' import x %}{% macro x() %}{% endmacro %}")
    for number in range(40):
        project.write(f"configs/templates/t{number}.j2", f"{{% include 't{number + 1}.j2' %}}" * 2)
    project.write("configs/templates/t40.j2", "x")
    project.write("configs/templates/any.j2", "{% include name %}")
    await is_well(ask)
    for template in ("a.j2", "base.j2", "m.j2", "t0.j2", "any.j2"):
        project.save(jinja(template))
        async with bounded(project):
            answer = await ask.answer("generate_content", {**NOTE, "context": {"name": "any.j2"}})
            assert answer["error"]["code"] in ("generation_failed", "limit_exceeded"), (template, answer)
            await is_well(ask)


async def test_more_templates_than_a_computed_include_may_read(project: Project, ask: Asking):
    """A computed name could be any of them, and they aren't all read."""
    for number in range(1001):
        project.write(f"configs/templates/t{number}.j2", "x")
    project.save(jinja("{% include name %}"))
    await is_well(ask)
    async with bounded(project):
        error = await ask.refused("generate_content", "limit_exceeded", **NOTE, context={"name": "t1.j2"})
        assert error["details"]["limit"] == "templates"
        await is_well(ask)


CONTEXTS: dict[str, Any] = {
    "large": {"x": "y" * 20_000_000},
    "many": {f"k{number}": number for number in range(300_000)},
    "wide": {"x": list(range(2_000_000))},
    "many empty": {"x": [[]] * 1_000_000},
}


@pytest.mark.parametrize("kind", CONTEXTS)
async def test_huge_contexts(project: Project, ask: Asking, kind: str):
    """A context is limited by a worker's memory, before it is sent."""
    project.save(jinja("{{ x|length if x else 'none' }}", metadata={"description": "x", "version": "1"}))
    await is_well(ask)
    async with bounded(project, memory=500 * 2**20):
        answer = await ask.answer("generate_content", {**NOTE, "context": CONTEXTS[kind]})
        assert answer["success"] or answer["error"]["code"] in (
            "limit_exceeded",
            "generation_failed",
            "invalid_context",
        ), answer
        await is_well(ask)


@pytest.mark.parametrize("levels", [63, 64, 200, 5_000, 400_000])
async def test_deep_contexts(project: Project, ask: Asking, levels: int):
    """Data nested too deep is refused, as an object and as JSON text."""
    project.save(jinja("{{ x }}"))
    body = '{"x": ' + "[" * levels + "]" * levels + "}"
    await is_well(ask)
    async with bounded(project):
        answer = await ask.answer("generate_content", {**NOTE, "context": body})
        assert answer["success"] is (levels < 64) or answer["error"]["code"] == "invalid_context", answer
        await is_well(ask)


ODD = {
    "NUL": "a\x00{{ 1 }}\x00",
    "control characters": "\x01\x02\x1b[31m{{ 1 }}",
    "right to left": "\u202e{{ 1 }}\u202c",
    "no characters": "\ufffe\uffff{{ 1 }}",
    "combining": "{{ 1 }}" + "\u0301" * 10_000,
    "line separators": "\u2028{{ 1 }}\u2029\x85",
    "byte order marks": "\ufeff{{ 1 }}\ufeff",
}


@pytest.mark.parametrize("kind", ODD)
async def test_unicode_in_templates(project: Project, ask: Asking, kind: str):
    """Any Unicode text is rendered unchanged."""
    project.save(jinja(ODD[kind] + "\n"))
    await is_well(ask)
    async with bounded(project):
        answer = await ask("generate_content", **NOTE)
        whole = ODD[kind].replace("{{ 1 }}", "1")
        assert answer["content_length"] in (len(whole), len(whole) + 1)
        assert whole.startswith(answer["content"].rstrip("\n"))
        assert answer["truncated"] or answer["content"].rstrip("\n") == whole
        await is_well(ask)


@pytest.mark.parametrize("template", ["{{ '\\ud800' }}", "{{ '\\ud800\\udc00'[0] }}", "{% set x = '\\udfff' %}{{ x }}"])
async def test_a_rendered_lone_surrogate_is_an_error(project: Project, ask: Asking, template: str):
    """It can't be encoded, so it isn't stored."""
    project.save(jinja(template))
    await is_well(ask)
    async with bounded(project):
        await ask.refused("generate_content", "generation_failed", **NOTE)
        await is_well(ask)


@pytest.mark.parametrize("raw", ['"\\ud800"', '"{{ 1 }}\\udfff\\n"'])
async def test_lone_surrogates_in_a_config_are_refused(project: Project, ask: Asking, raw: str):
    """JSON's escapes allow them, Unicode doesn't."""
    document = '{"type": "content", "id": "note", "metadata": {"description": "x", "version": "1"}, "generation": '
    project.write(
        "configs/content/note.json",
        document + '{"patterns": [{"id": "m", "type": "jinja2", "template": ' + raw + "}]}}",
    )
    await is_well(ask)
    async with bounded(project):
        answer = await ask.answer("generate_content", NOTE)
        assert answer["error"]["code"] in ("validation_failed", "generation_failed"), answer
        await is_well(ask)


# -- other uses of the sandbox ----------------------------------------------------------------------------------

EXPRESSIONS = {
    "endless": "range(99999)|map('string')|map('list')|sum(start=[])|length > 0",
    "large": "'x' * 10**12",
    "number": "9**(9**9) > 1",
    "way out": "''.__class__.__mro__",
    "format": "'{0.__class__}'.format('') == ''",
    "deep": "(" * 3000 + "1" + ")" * 3000,
    "statement": "1 }}{% include '/etc/passwd' %}{{ 1",
    "nothing": "{{ }}",
}


def notice(**metadata: Any) -> dict[str, Any]:
    return artifact("notice", [child("note")], **metadata)


@pytest.mark.parametrize("kind", EXPRESSIONS)
async def test_conditions_run_in_the_sandbox(project: Project, ask: Asking, kind: str):
    """Those of children."""
    project.save(text("note", "x"), artifact("notice", [child("note", conditions=EXPRESSIONS[kind])]))
    await is_well(ask)
    async with bounded(project):
        error = (await ask.answer("assemble_artifact", {"artifact_config_id": "notice"}))["error"]
        assert error["code"] in ("composition_failed", "limit_exceeded"), error
        assert not (project.root / "outputs").exists()
        await is_well(ask)


@pytest.mark.parametrize("name", ["times", "ranges", "macros"])
async def test_composition_templates_run_in_the_sandbox(project: Project, ask: Asking, name: str):
    """With the pieces."""
    config = {"compositionStrategy": "template", "compositionConfig": {"template": SIZE[name]}}
    project.save(text("note", "x"), notice(**config))
    await is_well(ask)
    async with bounded(project):
        await ask.refused("assemble_artifact", "limit_exceeded", artifact_config_id="notice")
        assert not (project.root / "outputs").exists()
        await is_well(ask)


BASE_PATHS = {
    "large": ("{{ 'x' * 10**12 }}", "limit_exceeded"),
    "endless": (TIME["nested loops"], "limit_exceeded"),
    "way out": ("{{ ''.__class__ }}", "composition_failed"),
    "upward": ("{{ up }}/{{ up }}/elsewhere", "permission_denied"),
    "absolute": ("{{ root }}", "permission_denied"),
    "long": ("outputs/{{ 'x' * 300 }}", "write_failed"),
    "NUL": ("outputs/{{ nul }}", "permission_denied"),
    "store": (".chora/{{ collection_id }}", "permission_denied"),
    "repository": ("{{ '.git' }}/hooks", "permission_denied"),
}


@pytest.mark.parametrize("kind", BASE_PATHS)
async def test_base_paths_run_in_the_sandbox(project: Project, ask: Asking, kind: str):
    """And the resulting path is checked like any other."""
    base_path, code = BASE_PATHS[kind]
    collection = {
        "type": "collection",
        "id": "all",
        "name": "All",
        "members": [{"id": "notice", "type": "artifact", "path": "configs/artifact/notice.json"}],
        "output": {"base_path": base_path},
    }
    project.save(text("note", "x"), notice(), collection)
    context = {"up": "..", "root": "/tmp/chora-hostile", "nul": "a\x00b"}
    await is_well(ask)
    async with bounded(project):
        with unchanged(project):
            arguments = {"collection_config_path": "all", "context": context}
            error = (await ask.answer("generate_collection", arguments))["error"]
            assert error["code"] == code, error
            await is_well(ask)


PATTERNS = {
    "nested repeats": ("(a+)+$", "a" * 5000 + "b"),
    "alternatives": ("(a|aa)+$", "a" * 5000 + "b"),
    "back references": (r"(.*)(.*)(.*)(.*)\1\2\3\4x$", "a" * 5000 + "b"),
    "spaces": (r"(\s*\w*)*!", "a" * 5000),
    "many repeats": ("(?:a?){3000}a{3000}", "a" * 3000),
}


@pytest.mark.parametrize("kind", PATTERNS)
async def test_endless_patterns_are_killed(project: Project, ask: Asking, kind: str):
    """In validation rules (CWE-1333)."""
    pattern, body = PATTERNS[kind]
    project.save(text("note", body))
    await ask("generate_content", content_config_id="note")
    await is_well(ask)
    async with bounded(project):
        rules = [{"id": "bomb", "type": "regex", "config": {"pattern": pattern}}]
        answer = await ask.answer("validate_content", {"content_or_config_id": "note", "validation_rules": rules})
        assert kind == "many repeats" or answer["error"]["code"] in ("limit_exceeded", "validation_execution_failed")
        await is_well(ask)


SCHEMAS: dict[str, Any] = {
    "itself": {"$ref": "#"},
    "circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "pattern": {"patternProperties": {"(a+)+$": True}, "propertyNames": {"pattern": "(a+)+$"}},
    "elsewhere": {"$ref": "http://127.0.0.1:9/x"},
    "file": {"$ref": "file:///etc/passwd"},
    "doubling": {
        "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": True},
        "$ref": "#/$defs/d0",
    },
    "no schema": {"type": "nonsense"},
}


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_hostile_schemas_are_reported(project: Project, ask: Asking, kind: str):
    """A schema that is cyclic, outside the project or missing is an issue or an error, and nothing is fetched."""
    project.save(text("note", '{"' + "a" * 5000 + 'b": 1}'))
    await ask("generate_content", content_config_id="note")
    await is_well(ask)
    async with bounded(project):
        rules = [{"id": "bomb", "type": "schema", "config": {"schema": SCHEMAS[kind]}}]
        answer = await ask.answer("validate_content", {"content_or_config_id": "note", "validation_rules": rules})
        if answer["success"]:
            assert answer["valid"] is False, answer
        else:
            assert answer["error"]["code"] in ("limit_exceeded", "validation_execution_failed", "invalid_input"), answer
        await is_well(ask)


# -- text that looks like a template ----------------------------------------------------------------------------

INJECTED = "{{ 7 * 7 }}{% include '../chora.toml' %}{# gone #}{{ x }}{{ ''.__class__ }}"


@pytest.mark.parametrize("pattern", ["jinja2", "template_fill"])
async def test_texts_of_sources_are_never_rendered(project: Project, ask: Asking, pattern: str):
    """A source's text is data, also in texts made from it."""
    project.write("data/note.txt", INJECTED)
    source = {"id": "x", "source_type": "external_file", "source_locator": "data/note.txt"}
    through = {"id": "x", "source_type": "content_config", "source_locator": "note", "data_selector": "output"}
    fill = {"type": pattern, "template": "[{{ x }}]\n"}
    project.save(
        content("note", pattern=fill, sources=[source]),
        content("again", pattern=fill, sources=[through]),
        artifact("notice", [child("note"), child("again")]),
    )
    made = await ask("generate_content", content_config_id="again")
    assert made["content"].count(INJECTED) == 1
    assert made["content"].startswith("[[{{ 7 * 7 }}")
    await ask("assemble_artifact", artifact_config_id="notice")
    assert project.read("outputs/notice.md").count(INJECTED) == 2


async def test_texts_are_not_used_as_paths_or_options(project: Project, ask: Asking):
    """A text that looks like a file name, an option of git or a template stays text."""
    before = [tool["description"] for tool in (await ask("list_generators"))["generators"]]
    for word in ("/etc/passwd", "../../etc/passwd", "--upload-pack=touch x", "good.j2", "file:///etc/passwd", "$(id)"):
        project.write("data/note.txt", word)
        source = {"id": "x", "source_type": "external_file", "source_locator": "data/note.txt"}
        project.save(content("note", pattern={"type": "jinja2", "template": "{{ x }}\n"}, sources=[source]))
        assert (await ask("generate_content", **NOTE))["content"].rstrip("\n") == word
    assert [tool["description"] for tool in (await ask("list_generators"))["generators"]] == before
