"""Parts of texts: sections, definitions and lines, of any text, and selectors that take none."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.render import text_parts
from chora.render.text_parts import PartNotFound
from tests.conftest import requirement


def select_part(text: str, selector: str) -> str:
    return text_parts.select_part(text, selector).text


def select_first(text: str, selectors: tuple[str, ...]) -> str:
    return text_parts.select_first(text, selectors).text


MARKDOWN = """\
# Manual
Intro.

## Small craft  ##
Stay close.

### Kayaks
Even closer.

```sh
# not a heading
## Small craft
```

## Large craft
Stay away.
##
Nothing.
"""

PYTHON = '''\
import os


@cached
def tide(hour):
    """Height."""
    if hour:

        return 1
    return 2


async def wind(
    hour: int,
) -> float:
    return 3.0


class Harbour(
    Base,
):
    def tide(self):
        return 4

    name = "x"


def last(): return 5
'''

JAVASCRIPT = """\
export default async function load(url) {
  if (url) {
    return 1;
  }
}

function* walk(
  tree
) {
  yield 2;
}

export class Boat
{
  row() {}
}
function $price() { return 3; }
"""


@requirement("sources.selectors.heading")
@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        ("# Manual", MARKDOWN),
        ("## Small craft", MARKDOWN[MARKDOWN.index("## Small") : MARKDOWN.index("\n## Large")]),
        ("## SMALL CRAFT ##", MARKDOWN[MARKDOWN.index("## Small") : MARKDOWN.index("\n## Large")]),
        ("### Kayaks", MARKDOWN[MARKDOWN.index("### Kay") : MARKDOWN.index("\n## Large")]),
        ("## Large craft", "## Large craft\nStay away.\n"),
    ],
)
def test_a_heading_takes_its_section(selector: str, taken: str):
    """From the heading to the next of the same or a higher level; a `#` in code is no heading."""
    assert select_part(MARKDOWN, selector) == taken


@pytest.mark.parametrize(
    "selector", ["# Small craft", "### Small craft", "## not a heading", "# not a heading", "## Small"]
)
def test_a_heading_must_match_in_level_and_whole_title(selector: str):
    """A title of another level, a part of one, or a comment in code doesn't match."""
    with pytest.raises(PartNotFound, match="there is no heading"):
        select_part(MARKDOWN, selector)


@requirement("sources.selectors.heading")
@pytest.mark.parametrize(
    "text",
    [
        "````\n```\n# A\n```\n````\n# A\nyes\n",
        "~~~ python\n```\n# A\n~~~\n# A\nyes\n",
        "```\n# A\n``` python\n# A\n```\n# A\nyes\n",
        "   ```\n# A\n   ```\n# A\nyes\n",
        "```inline``` code\n# A\nyes\n",
        "    ```\n# A\nyes\n",
        "#A\n####### A\n    # A\n# A\nyes\n",
        "<!--\n# A\n\n# A\n-->\n# A\nyes\n",
        "Text\n<!-- # A\n# A\n--> # A\n# A\nyes\n",
        "<!-- a line -->\n# A\nyes\n",
        "```\n<!--\n```\n# A\nyes\n",
        "    <!--\n\n# A\nyes\n",
        "Text\n   # A   \nyes\n",
    ],
)
def test_fences_and_headings_follow_commonmark(text: str):
    """A fence is closed by the same characters, alone and at least as many; a heading has at most six signs and a
    blank.
    """
    assert select_part(text, "# A").splitlines()[-1] == "yes"
    assert select_part(text, "# A").count("\n") == 2


CHANGELOG = """\
---
# title: no heading
title: Changes
---
Changelog
=========

All of it.

1.1
---

### Added
- one

### Fixed
- two

## 1.0

### Added

- three

#### Details
deep

### Added
- four

- item
---
> quote
---

A title over
two lines
---------
end"""


@requirement("sources.selectors.heading")
@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        ("# Changelog > body", CHANGELOG[CHANGELOG.index("All of it") :]),
        ("## 1.1 > ### Added", "### Added\n- one\n"),
        ("## 1.0 > ### Added", "### Added\n\n- three\n\n#### Details\ndeep\n"),
        ("# Changelog > ## 1.0 > ### Added > #### Details", "#### Details\ndeep\n"),
        ("## 1.0 > ### Added > body", "- three\n\n#### Details\ndeep\n"),
        ("## 1.1", "1.1\n---\n\n### Added\n- one\n\n### Fixed\n- two\n"),
        ("## 1.1 > body", "### Added\n- one\n\n### Fixed\n- two\n"),
        ("## 1.1  >  ### fixed", "### Fixed\n- two\n"),
        ("## A title over two lines", "A title over\ntwo lines\n---------\nend"),
        ("## a title  over two LINES > body", "end"),
        ("body", CHANGELOG[CHANGELOG.index("Changelog\n") :]),
    ],
)
def test_headings_are_reached_by_a_path_and_by_underlines(selector: str, taken: str):
    """Also headings that stand several times; `body` leaves out the heading, or the front matter."""
    assert select_part(CHANGELOG, selector) == taken
    assert select_part(CHANGELOG.replace("\n", "\r\n"), selector).replace("\r\n", "\n") == taken


@requirement("sources.selectors.heading")
@pytest.mark.parametrize(
    ("selector", "near"),
    [
        ("## Added", "near it are '### Added'"),
        ("### Addde", "near it are '### Added'"),
        ("## 1.1 > ### Details", "there is no heading '## 1.1 > ### Details'"),
        ("## 1.1 > ### Adde", "near it are '### Added'"),
        ("## 1.0 > ### Changelog", "there is no heading"),
        ("# title: no heading", "there is no heading"),
        ("## - item", "there is no heading"),
        ("## item", "there is no heading"),
        ("## quote", "there is no heading"),
        ("## > quote", "there is no heading"),
    ],
)
def test_a_missing_heading_names_what_is_near(selector: str, near: str):
    """By title, whatever the level; front matter, lists and quotations have no headings."""
    with pytest.raises(PartNotFound) as missing:
        select_part(CHANGELOG, selector)
    assert near in str(missing.value)


@requirement("sources.selectors.heading")
@pytest.mark.parametrize(
    ("selector", "heading"),
    [
        ("## 1.2.0", "## [1.2.0](https://a.example/1) - 2026-01-02"),
        ("## [1.2.0]", "## [1.2.0](https://a.example/1) - 2026-01-02"),
        ("# 1.1.0", "## v1.1.0 (2025-12-24)"),
        ("## the run method", "## The `run` method, *quickly*"),
    ],
)
def test_a_heading_that_holds_what_is_asked_for_is_named(selector: str, heading: str):
    """Without the marks of links, code and emphasis; first of all."""
    titles = ["# Changelog", "## [1.2.0](https://a.example/1) - 2026-01-02", "## v1.1.0 (2025-12-24)"]
    text = "\n\n".join([*titles, "## The `run` method, *quickly*", "## 1.0", "## 2.2"])
    with pytest.raises(PartNotFound, match=re.escape(f"; near it are '{heading}'")):
        select_part(text, selector)


@requirement("sources.selectors.ambiguous")
@pytest.mark.parametrize(
    ("selector", "count"), [("### Added", 3), ("## 1.0 > ### Added", 2), ("## 1.1 > ### Added", 0), ("## 1.1", 0)]
)
def test_an_ambiguous_heading_is_a_warning(selector: str, count: int):
    """The first one is taken, and a path is named."""
    warning = text_parts.select_part(CHANGELOG, selector).warning
    if count:
        assert warning is not None
        assert warning.startswith(f"'### Added' stands {count} times, and the first is taken")
        assert "'## Part > ### Added'" in warning
    else:
        assert warning is None


@pytest.mark.parametrize(
    ("text", "selector", "taken"),
    [
        ("# A\nx", "# A", "# A\nx"),
        ("# A\nx\n", "# A", "# A\nx\n"),
        ("# A\nx\n\n\n# B\n", "# A", "# A\nx\n"),
        ("# A", "# A > body", ""),
        ("def f():\n    pass", "function:f", "def f():\n    pass"),
        ("a\nb", "2-2", "b"),
    ],
)
def test_a_part_gains_no_newline(text: str, selector: str, taken: str):
    """It ends with one if its last line does."""
    assert select_part(text, selector) == taken


@pytest.mark.parametrize(
    ("text", "data", "body"),
    [
        ("---\na: 1\n---\n\n# T\n", "a: 1\n", "# T\n"),
        ("---\na: 1\n---", "a: 1\n", ""),
        ("---  \na: ---\n--- \nx", "a: ---\n", "x"),
        ("+++\na = 1\n+++\nx", "a = 1\n", "x"),
        ("---\n---\nx", "", "x"),
        ("---\na: 1\n", None, "---\na: 1\n"),
        ("# T\n---\na: 1\n---\n", None, "# T\n---\na: 1\n---\n"),
        ("---\n\nA rule above.\n\n---\nx", None, "---\n\nA rule above.\n\n---\nx"),
        ("---\n# only a comment\n---\nx", "# only a comment\n", "x"),
        ("---\n- a\n---\nx", "- a\n", "x"),
        ("----\na: 1\n----\n", None, "----\na: 1\n----\n"),
        ("", None, ""),
    ],
)
def test_front_matter_and_body_are_apart(text: str, data: str | None, body: str):
    """Data between two lines of hyphens or plus signs at the very beginning; without it, all is body."""
    found = text_parts.split_front_matter(text)
    assert (found and found.data) == data
    assert select_part(text, "body") == body


def test_a_hash_inside_a_title_is_part_of_it():
    """Only number signs after a blank close a heading."""
    assert select_part("## C#\nsharp\n## C\nplain\n", "## C#") == "## C#\nsharp\n"
    assert select_part("## C#\nsharp\n## C\nplain\n", "## C") == "## C\nplain\n"


@requirement("sources.selectors.definition")
@pytest.mark.parametrize(
    ("text", "selector", "first", "last"),
    [
        (PYTHON, "function:tide", "def tide(hour):", "    return 2"),
        (PYTHON, "function: wind", "async def wind(", "    return 3.0"),
        (PYTHON, "function:last", "def last(): return 5", "def last(): return 5"),
        (PYTHON, "class:Harbour", "class Harbour(", '    name = "x"'),
        (JAVASCRIPT, "function:load", "export default async function load(url) {", "}"),
        (JAVASCRIPT, "function:walk", "function* walk(", "}"),
        (JAVASCRIPT, "function:$price", "function $price() { return 3; }", "function $price() { return 3; }"),
        (JAVASCRIPT, "class:Boat", "export class Boat", "}"),
        ("class A {\n  x\n}\nclass B {}\n", "class:A", "class A {", "}"),
        ("if x:\n    def f():\n        y\nz\n", "function:f", "    def f():", "        y"),
        ("function *walk() {\n}\n", "function:walk", "function *walk() {", "}"),
    ],
)
def test_a_definition_is_taken_with_its_body(text: str, selector: str, first: str, last: str):
    """Python and JavaScript, with parameters over several lines and braces on their own lines."""
    lines = select_part(text, selector).splitlines()
    assert (lines[0], lines[-1]) == (first, last)
    assert "\n".join(lines) in text


@pytest.mark.parametrize(
    "selector", ["function:harbour", "function:tid", "class:tide", "function:", "function:tide.*", "class:Harbou"]
)
def test_a_missing_definition_is_an_error(selector: str):
    """Names match whole and literally, and a class isn't a function."""
    with pytest.raises(PartNotFound, match="there is no"):
        select_part(PYTHON, selector)


LINES = "1\n2\r\n3\x0cstill 3\n4"


@requirement("sources.selectors.lines")
@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        ("2-3", "2\r\n3\x0cstill 3\n"),
        ("2:3", "2\r\n3\x0cstill 3\n"),
        (":1", "1\n"),
        ("0-1", "1\n"),
        ("4:", "4"),
        ("4-4", "4"),
        ("3-99999", "3\x0cstill 3\n4"),
        ("1:", LINES),
    ],
)
def test_a_line_range_counts_from_one_and_includes_both_ends(selector: str, taken: str):
    """A range past the end is clipped; line ends are kept; a form feed doesn't end a line."""
    assert select_part(LINES, selector) == taken


@pytest.mark.parametrize("selector", ["5-6", "3-2", ":0", "99:"])
def test_an_empty_line_range_is_an_error(selector: str):
    """An empty text is never returned silently."""
    with pytest.raises(PartNotFound, match="hold nothing"):
        select_part(LINES, selector)


@requirement("sources.selectors.otherwise")
@pytest.mark.parametrize(
    "selector",
    [
        ":",
        "-5",
        "5-",
        "a-b",
        "1-2-3",
        "output",
        "Title",
        "#",
        "##",
        "####### Seven",
        "#Title",
        "method:x",
        ".a",
        "9" * 5000 + ":",
        "x" * 500,
    ],
)
def test_an_unknown_selector_is_refused_with_the_known_forms(selector: str):
    """The error shows only the beginning of a long selector."""
    with pytest.raises(PartNotFound) as failed:
        select_part("text", selector)
    assert "is not a selector; write a JSONPath" in str(failed.value)
    assert len(str(failed.value)) < 300


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("# " + " " * 200_000 + "x\n", "# Title"),
        ("## " + "#" * 200_000 + " x\n", "## Title"),
        (" " * 200_000 + "x\n", "function:f"),
        ("export " + " " * 200_000 + "x\n", "function:f"),
        ("`" * 200_000 + "x`\n", "# Title"),
        ("x\n" * 200_000, "# Title"),
    ],
)
def test_selectors_take_linear_time(text: str, selector: str):
    """For any text; cubic time would be hours (CWE-1333)."""
    began = time.process_time()
    with pytest.raises(PartNotFound):
        select_part(text, selector)
    assert time.process_time() - began < 5


@given(st.text(alphabet="#a \t`~\n-1", max_size=60), st.text(alphabet="#a $.:-1[]*'function", max_size=12))
def test_any_text_and_selector_gives_a_part_or_an_error(text: str, selector: str):
    """Of one class; a part is never longer than the text, except for a final newline."""
    with suppress(PartNotFound):
        taken = select_part(text, selector)
        assert len(taken) <= len(text) + 1


@given(st.lists(st.text(alphabet="ab c", max_size=5), min_size=1, max_size=9), st.data())
def test_a_line_range_takes_exactly_those_lines(lines: list[str], data: st.DataObject):
    """Neighbouring ranges joined are the text again."""
    text = "".join(f"{line}\n" for line in lines)
    middle = data.draw(st.integers(1, len(lines)))
    head = select_part(text, f":{middle}")
    assert head.count("\n") == middle
    if middle < len(lines):
        assert head + select_part(text, f"{middle + 1}:") == text


def test_of_several_selectors_the_first_that_takes_something_counts():
    """The error is about the last."""
    assert select_first("# A\nyes\n## B\nno\n", ("# C", "## B", "# A")) == "## B\nno\n"
    with pytest.raises(PartNotFound, match="there is no heading '# D'"):
        select_first("# A\nyes\n", ("# C", "# D"))


@pytest.mark.parametrize("char", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_lines_end_where_those_of_markdown_do(char: str):
    """Form feeds and line separators are characters within a line: they begin no heading, and stay as they are."""
    text = f"a{char}## A\nwrong\n## A\nright{char}still\r\nnext\r## B\n"
    assert select_part(text, "## A") == f"## A\nright{char}still\nnext\n"
    assert select_part(f"def f():\n    'x{char}y'\n", "function:f") == f"def f():\n    'x{char}y'\n"
