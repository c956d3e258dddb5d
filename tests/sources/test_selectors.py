"""Selectors, which take a part of a source's value: every form, and invalid ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from chora import settings
from chora.engine.engine import Engine, open_engine
from chora.errors import Busy
from chora.nesting import DEPTH_LIMIT
from chora.render.pool import RenderPool
from chora.settings import load
from chora.sources.selectors import INLINE_LENGTH, select
from chora.sources.source import SourceFailed
from tests.conftest import Project, requirement
from tests.patience import PATIENCE

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
    "$.week.days[:1].n": 1,
    "$.week.days[::-1].n": [2, 1],
    "$..n": [1, 2],
    "$.week.days[0]['n','on']": [1, "Monday"],
    "$.week.days[?@.n > 1].n": 2,
    "$.week.days[?@.n > 1 || @.n == 1].n": [1, 2],
    "$.week.days[?!(@.on == 'Monday') && @.n].n": 2,
    "$.week.days[?length(@.on) == 6].on": ["Monday", "Friday"],
    "$.week[?count(@.*) == 2][0].n": 1,
    "$.week.days[?match(@.on, 'F.*')].n": 2,
    "$.week.days[?search(@.on, 'day')].n": [1, 2],
    "$[?value(@..n) == 1]": SourceFailed,
}


@requirement("sources.selectors.jsonpath")
async def test_a_json_path_takes_one_value_or_a_list(engine: Engine):
    """Every query of RFC 9535: one match is the value itself, several are a list, none is an error."""
    for selector, taken in TAKEN.items():
        if taken is SourceFailed:
            with pytest.raises(SourceFailed, match="matches nothing"):
                await select(DATA, selector, engine.templates.pool)
        else:
            assert await select(DATA, selector, engine.templates.pool) == taken, selector


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
