"""Selectors, which take a part of a source's value: every form, and invalid ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import pytest

from chora import settings
from chora.config_parsing import parse_config
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content
from chora.engine.engine import Engine, open_engine
from chora.errors import Busy, ValidationFailed
from chora.model import Source
from chora.nesting import DEPTH_LIMIT
from chora.render.pool import RenderPool
from chora.settings import load
from chora.sources import selectors
from chora.sources.selectors import INLINE_LENGTH
from chora.sources.source import SourceAccess, SourceFailed
from tests.conftest import Asking, Project, requirement
from tests.documents import content
from tests.patience import PATIENCE


async def select(
    value: Any,
    selector: str | None,
    pool: RenderPool,
    *,
    matches: Literal["list", "one"] | None = None,
    rules: Any = "chora",
    warnings: list[str] | None = None,
) -> Any:
    """What a selector takes of a value."""
    source = Source(type="inline_data", selector=selector or "", matches=matches)
    nothing: Any = None
    warn = ([] if warnings is None else warnings).append
    access = SourceAccess(nothing, nothing, pool, nothing, nothing, nothing, nothing, rules, warn)
    return await selectors.select(value, source, access)


# -- any source, any selector -----------------------------------------------------------------------------------


@requirement("sources.selectors.whole")
@pytest.mark.parametrize("value", ["text", 5, None, [1], {"a": 1}])
@pytest.mark.parametrize("selector", [None, "", "whole_content"])
async def test_no_selector_takes_everything(engine: Engine, value: Any, selector: str | None):
    """Absent, empty and whole_content leave the value unchanged."""
    assert await select(value, selector, engine.templates.pool) is value


async def test_a_long_text_is_searched_in_a_worker(engine: Engine):
    """With the same result or error."""
    pool = engine.templates.pool
    before = pool.statistics().rendered
    for text in ("# A\nyes\n", "x" * INLINE_LENGTH + "\n# A\nyes\n"):
        assert await select(text, "# A", pool) == "# A\nyes\n"
        with pytest.raises(SourceFailed, match=r"^there is no heading '# B'$"):
            await select(text, "# B", pool)
    assert pool.statistics().rendered == before + 2


async def test_a_text_that_takes_more_than_a_worker_may_is_a_missing_value(project: Project):
    """The limit is named; the section isn't called missing."""
    loaded = load(project.root, {}, {"render.memory": 64 * 1024 * 1024})
    async with open_engine(project.root, loaded.settings) as engine:
        with pytest.raises(SourceFailed, match=r"more than .* bytes of memory"):
            await select("ab\n" * 2_500_000, "# A", engine.templates.pool)


async def test_selectors_of_text_see_data_as_indented_json(engine: Engine):
    """A line range of an object is a range of its JSON."""
    assert await select({"a": 1, "b": [2]}, "2-2", engine.templates.pool) == '  "a": 1,\n'


@requirement("sources.selectors.front-matter")
@pytest.mark.parametrize("length", [0, INLINE_LENGTH])
async def test_front_matter_is_data(engine: Engine, length: int):
    """Parsed as a file of its language is, also of a long text; the rest is its body."""
    pool = engine.templates.pool
    text = "---\ntitle: Tides\nat: 10:30\ntags: [a]\n---\n# T\n" + "x" * length
    assert await select(text, "front_matter", pool) == {"title": "Tides", "at": "10:30", "tags": ["a"]}
    assert await select(text, "body", pool) == "# T\n" + "x" * length
    assert await select("+++\na = 1\n+++\n" + "x" * length, "front_matter", pool) == {"a": 1}
    assert await select("---\n---\n", "front_matter", pool) == {}
    for text, problem in (("# T\n", "no front matter"), ("---\na: [\n---\n", "is not YAML")):
        with pytest.raises(SourceFailed, match=problem):
            await select(text, "front_matter", pool)
    with pytest.raises(SourceFailed, match="front_matter gives the data"):
        await select("---\na: 1\n---\n", "$.a", pool)


@requirement("sources.selectors.ambiguous")
@pytest.mark.parametrize("length", [0, INLINE_LENGTH])
async def test_an_ambiguous_heading_warns_through_a_worker_too(engine: Engine, length: int):
    """The warning comes back with the text."""
    warnings: list[str] = []
    text = "# A\none\n# A\ntwo\n" + "x" * length
    assert await select(text, "# A", engine.templates.pool, warnings=warnings) == "# A\none\n"
    assert len(warnings) == 1
    assert "stands 2 times" in warnings[0]


DATA: dict[str, Any] = {
    "week": {"days": [{"n": 1, "on": "Monday"}, {"n": 2, "on": "Friday"}]},
    "one": "x",
    "none": None,
    "odd key": True,
}
TAKEN: dict[str, Any] = {
    "$": DATA,
    "$.one": "x",
    "$['odd key']": True,
    "$.none": None,
    "$.week.days": DATA["week"]["days"],
    "$.week.days[0]": {"n": 1, "on": "Monday"},
    "$.week.days[-1].n": 2,
    "$.week.days[*].n": [1, 2],
    "$.week.days[:1].n": [1],
    "$.week.days[::-1].n": [2, 1],
    "$..n": [1, 2],
    "$.week.days[0]['n','on']": [1, "Monday"],
    "$.week.days[?@.n > 1].n": [2],
    "$.week.days[?@.n > 1 || @.n == 1].n": [1, 2],
    "$.week.days[?!(@.on == 'Monday') && @.n].n": [2],
    "$.week.days[?length(@.on) == 6].on": ["Monday", "Friday"],
    "$.week[?count(@.*) == 2][0].n": [1],
    "$.week.days[?match(@.on, 'F.*')].n": [2],
    "$.week.days[?search(@.on, 'day')].n": [1, 2],
    "$[?value(@..n) == 1]": [],
    "$.none.x": SourceFailed,
    "$.week.days[2]": SourceFailed,
}


@requirement("sources.selectors.jsonpath")
async def test_a_json_path_takes_one_value_or_a_list(engine: Engine):
    """Every query of RFC 9535: a singular one gives the value, any other a list, which may be empty."""
    for selector, taken in TAKEN.items():
        if taken is SourceFailed:
            with pytest.raises(SourceFailed, match="matches nothing"):
                await select(DATA, selector, engine.templates.pool)
        else:
            assert await select(DATA, selector, engine.templates.pool) == taken, selector


SHAPES: list[tuple[str, Any, Any, Any]] = [
    # query, data, value by chora's rules, value by chora-compose's
    ("$.tags[*]", {"tags": []}, [], SourceFailed),
    ("$.tags[*]", {"tags": ["solo"]}, ["solo"], "solo"),
    ("$.tags[*]", {"tags": ["a", "b"]}, ["a", "b"], ["a", "b"]),
    ("$..n", {"n": 1}, [1], 1),
    ("$.list[0:1]", {"list": [1, 2]}, [1], 1),
    ("$.list[?@ > 1]", {"list": [1, 2]}, [2], 2),
    ("$['a','b']", {"a": 1}, [1], 1),
    ("$.*", {"a": [5]}, [[5]], [5]),
    ("$.a.b", {"a": {"b": [5]}}, [5], [5]),
    ("$['a'][0]", {"a": [5]}, 5, 5),
    ("$[-1]", [4, 5], 5, 5),
    ("$", 5, 5, 5),
    ("$.a", {}, SourceFailed, SourceFailed),
    ("$[3]", [], SourceFailed, SourceFailed),
]


@requirement("sources.selectors.shape")
@pytest.mark.parametrize(("query", "data", "value", "old"), SHAPES)
async def test_the_shape_of_a_selection_does_not_depend_on_the_data(
    query: str, data: Any, value: Any, old: Any, engine: Engine
):
    """Only a singular query gives a value; by chora-compose's rules one match is bare, and a warning says so."""
    pool = engine.templates.pool
    warnings: list[str] = []
    for rules, wanted in (("chora", value), ("chora-compose", old)):
        if wanted is SourceFailed:
            with pytest.raises(SourceFailed, match="matches nothing"):
                await select(data, query, pool, rules=rules, warnings=warnings)
        else:
            assert await select(data, query, pool, rules=rules, warnings=warnings) == wanted
        assert bool(warnings) == (rules == "chora-compose" and old is not SourceFailed and value == [old])
    assert all("write `matches: list`" in warning for warning in warnings)


@requirement("sources.selectors.shape")
@pytest.mark.parametrize("rules", ["chora", "chora-compose"])
async def test_a_source_decides_what_its_selector_gives(rules: Literal["chora", "chora-compose"], engine: Engine):
    """`matches: list` gives a list of however many, `matches: one` the only match or an error, under any rules."""
    rows: list[tuple[str, Any, Any, Any]] = [
        ("$.a[*]", {"a": [1]}, [1], 1),
        ("$.a[*]", {"a": []}, [], "matches nothing"),
        ("$.a[*]", {"a": [1, 2]}, [1, 2], "matches 2 values, and `matches: one` takes exactly one"),
        ("$.a", {"a": 1}, [1], 1),
        ("$.a", {}, [], "matches nothing"),
    ]
    pool = engine.templates.pool
    warnings: list[str] = []
    for query, data, as_list, as_one in rows:
        assert await select(data, query, pool, matches="list", rules=rules, warnings=warnings) == as_list
        if isinstance(as_one, str):
            with pytest.raises(SourceFailed, match=as_one):
                await select(data, query, pool, matches="one", rules=rules, warnings=warnings)
        else:
            assert await select(data, query, pool, matches="one", rules=rules, warnings=warnings) == as_one
    assert not warnings


@requirement("sources.selectors.shape")
async def test_an_array_of_one_is_rendered_like_one_of_many(project: Project, ask: Asking):
    """Through a config and a template, in both spellings, with and without chora.toml."""
    project.write("data.json", '{"tags": ["solo"]}')
    long = {"id": "tags", "source_type": "external_file", "source_locator": "data.json", "data_selector": "$.tags[*]"}
    template = "{% for tag in tags %}[{{ tag }}]{% endfor %}"
    generation = {"patterns": [{"id": "main", "type": "jinja2", "template": template}]}
    project.save(content(inputs={"sources": [long]}, generation=generation, validation=None))
    made = await ask("generate_content", content_config_id="tide-table")
    assert made["content"] == "[solo]"
    assert not made.get("warnings")
    (project.root / "chora.toml").unlink()
    async with open_engine(project.root, load(project.root, {}).settings) as engine:
        parsed = engine.catalog.find_config("content", "tide-table").parsed
        built = await build_content(Build(engine), parsed, CallerContext({}))
        assert built.version.body == "[s][o][l][o]"
        assert built.warnings == [
            "The source tags: $.tags[*] matched one value, which is given without a list; write `matches: list` "
            "beside it for a list in any case, or `matches: one`"
        ]


@pytest.mark.parametrize("selector", [{}, {"data_selector": "## Title"}, {"data_selector": "1-2"}])
def test_matches_belongs_to_a_json_path(selector: dict[str, str]):
    """Beside any other selector it could do nothing, and is refused."""
    source = {"id": "s", "source_type": "external_file", "source_locator": "a.md", "matches": "list", **selector}
    with pytest.raises(ValidationFailed, match="matches"):
        parse_config("content", content(inputs={"sources": [source]}), where="a.json")


async def test_a_json_path_on_text_parses_it_first(engine: Engine):
    """A JSONPath needs text that is JSON; other text, or JSON nested too deep, is an error."""
    pool = engine.templates.pool
    assert await select('{"a": [1, 2]}', "$.a[1]", pool) == 2
    assert await select('"just text"', "$", pool) == "just text"
    assert await select('"{}"', "$", pool) == "{}"
    for text in ("just text", "", "[" * 5000):
        with pytest.raises(SourceFailed, match=r"\$\.a needs data, but the source is text that is not JSON"):
            await select(text, "$.a", pool)
    with pytest.raises(SourceFailed, match="needs data that is nested no more than 64 levels deep"):
        await select("[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "$..a", pool)


@pytest.mark.parametrize(
    ("selector", "data", "problem"),
    [
        ("$.two", {}, "$.two matches nothing"),
        ("$.", {}, "$. is not a JSONPath: "),
        ("$[?nothing(@)]", {}, "$[?nothing(@)] is not a JSONPath: "),
        ("$[" + "9" * 5000 + "]", [1], "$[" + "9" * 77 + "… is not a JSONPath: "),
        ("$.a", {"a": 10**30}, "The context of $.a holds a value that can't be passed"),
        ("$" + "[*,*]" * 40, [[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]], "took longer than 1.5 s"),
        ("$[?search(@, '(a+)+$')]", ["a" * 40 + "b"], "took longer than 1.5 s"),
    ],
)
async def test_a_json_path_that_fails_is_a_missing_value(engine: Engine, selector: str, data: Any, problem: str):
    """Malformed, unencodable or endless: one sentence, and the next query works."""
    engine.templates.pool._settings = settings.RenderSettings(wall=1.5)
    with pytest.raises(SourceFailed) as failed:
        await select(data, selector, engine.templates.pool)
    assert problem in str(failed.value)
    assert not str(failed.value).endswith(".")
    assert await select([1], "$[0]", engine.templates.pool) == 1


async def test_a_busy_pool_is_not_a_source_error():
    """The same call may succeed in a moment."""
    with pytest.raises(Busy):
        await select([1], "$[0]", RenderPool(settings.RenderSettings()))


def test_the_jsonpath_library_is_only_imported_by_workers():
    """The server doesn't import it, nor YAML before it is needed."""
    code = "import sys, chora.app; assert 'jsonpath' not in sys.modules; assert 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
