"""Files as context: how each suffix is parsed, and every kind of invalid file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chora.config_parsing import parse_config
from chora.engine.engine import Engine
from chora.errors import ValidationFailed
from chora.files import SOURCE_LIMIT
from chora.model import Source
from chora.nesting import DEPTH_LIMIT, is_too_deep
from chora.render.parsing import CELLS_LIMIT, NotData, parse_data
from chora.sources import external_file
from chora.sources.data_files import INLINE_LENGTH, INLINE_VALUES
from chora.sources.source import SourceAccess, SourceFailed
from tests import documents
from tests.conftest import Project, requirement


async def generate_nothing(found: object) -> str:
    raise AssertionError


def find_nothing(content_id: str, strategy: str) -> list[str]:
    raise AssertionError


def ignore(*noted: str) -> None:
    pass


@pytest.fixture
def fetch(project: Project, engine: Engine) -> Callable[[str], Any]:
    """Fetch a file of the project."""
    reach = SourceAccess(
        engine.folder, engine.catalog, engine.templates.pool, generate_nothing, find_nothing, ignore, ignore
    )

    async def fetch(path: str) -> Any:
        return await external_file.fetch(Source(type="external_file", locator=path), reach)

    return fetch


@requirement("sources.external-file")
@pytest.mark.parametrize(
    ("path", "text", "data"),
    [
        ("a.json", '{"a": [1, 2.5, null, true, "ü"]}', {"a": [1, 2.5, None, True, "ü"]}),
        ("a.yaml", "a: [1, two]\nb: &x {c: 1}\nd: *x\n", {"a": [1, "two"], "b": {"c": 1}, "d": {"c": 1}}),
        (
            "a.yml",
            "3: one\ntrue: yes\nnull: none\n2.5: half\n",
            {"3": "one", "true": "yes", "null": "none", "2.5": "half"},
        ),
        ("a.yaml", "1: a\ntrue: b\n1.0: c\n", {"1": "a", "true": "b", "1.0": "c"}),
        ("a.yaml", "- &x {0: a, false: b}\n- *x\n", [{"0": "a", "false": "b"}, {"0": "a", "false": "b"}]),
        ("a.yaml", "day: 2026-11-22\nat: 2026-11-22 10:15:30\n", {"day": "2026-11-22", "at": "2026-11-22 10:15:30"}),
        ("a.toml", 'a = 1\n[b]\nc = "x"\n', {"a": 1, "b": {"c": "x"}}),
        (
            "a.toml",
            "day = 2026-11-22\nat = 2026-11-22T10:15:30Z\ntime = 10:15:00\n",
            {"day": "2026-11-22", "at": "2026-11-22T10:15:30+00:00", "time": "10:15:00"},
        ),
        ("a.csv", "name,age\nAda,36\n\nBob\n", [{"name": "Ada", "age": "36"}, {"name": "Bob", "age": None}]),
        ("a.csv", 'a,b\r\n"x\ny",2\r\n', [{"a": "x\ny", "b": "2"}]),
        ("a.csv", "", []),
        ("a.csv", "a,b,\n1,2,\n3,4\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ("a.csv", "a,b,,,\n1,2,,,\n3,, ,\n", [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]),
        ("a.csv", "a,b\n1,2,,\n", [{"a": "1", "b": "2"}]),
        ("a.csv", "a,,b\n1,2,3\n", [{"a": "1", "": "2", "b": "3"}]),
        ("a.csv", "\ufeffa,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("a.csv", "a,b\n1,2\n,\n3,4\n, \n,\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ("a.csv", 'a,b\n"x ""y""",2', [{"a": 'x "y"', "b": "2"}]),
        ("a.csv", "a,b\n", []),
        ("a.tsv", "a\tb\n1,5\t2\n", [{"a": "1,5", "b": "2"}]),
        ("a.tsv", "a\tb\t\n1\t2\t\t\n", [{"a": "1", "b": "2"}]),
        ("a.jsonl", '{"a": 1}\n\n[2]\r\n"x"\nnull', [{"a": 1}, [2], "x", None]),
        ("a.ndjson", '{"a": "\u2028"}\n', [{"a": "\u2028"}]),
        ("a.jsonl", "", []),
        ("a.yaml", "a: 1\n---\nb: no\n", [{"a": 1}, {"b": "no"}]),
        ("a.yaml", "- 10:30\n- NO\n- 01234\n", ["10:30", "NO", 1234]),
        ("a.json", '\ufeff{"a": 1}', {"a": 1}),
        ("a.md", "# Title\n", "# Title\n"),
        ("a.txt", "", ""),
        ("Makefile", "all:\n", "all:\n"),
        ("A.JSON", "[1]", [1]),
        ("A.YML", "[1]", [1]),
    ],
)
def test_the_suffix_decides_how_a_file_is_parsed(path: str, text: str, data: Any):
    """json, yaml, toml and csv become JSON values; everything else is text."""
    assert parse_data(path, text) == data


def access_to(engine: Engine, **rest: Any) -> SourceAccess:
    """What a source reads from, which has no other texts."""
    return SourceAccess(
        engine.folder, engine.catalog, engine.templates.pool, generate_nothing, find_nothing, ignore, ignore, **rest
    )


@requirement("sources.csv-delimiter")
@pytest.mark.parametrize(
    ("text", "delimiter", "rows", "warned"),
    [
        ("a,b\n1,2\n", "", [{"a": "1", "b": "2"}], None),
        ("a;b\n1,5;2\n", "", [{"a": "1,5", "b": "2"}], ";"),
        ("a\tb\n1\t2\n", "", [{"a": "1", "b": "2"}], "tab"),
        ("a|b\n1|2\n", "", [{"a": "1", "b": "2"}], "|"),
        ("name, first;age\nx;1\ny;2\n", "", [{"name, first": "x", "age": "1"}, {"name, first": "y", "age": "2"}], ";"),
        ('"a;x",b\n"1;2",3\n', "", [{"a;x": "1;2", "b": "3"}], None),
        ("a;b\n1\n", "", [{"a": "1", "b": None}], ";"),
        ("a\n1\n", "", [{"a": "1"}], None),
        ("a\n1;2\n", "", [{"a": "1;2"}], None),
        ("a;b\n1,5;2\n", ";", [{"a": "1,5", "b": "2"}], None),
        ("a;b\n1;2\n", ",", [{"a;b": "1;2"}], None),
        ("a\tb\n1\t2\n", "\t", [{"a": "1", "b": "2"}], None),
    ],
)
async def test_the_delimiter_of_csv_is_named_or_found_out(
    text: str, delimiter: str, rows: Any, warned: str | None, project: Project, engine: Engine
):
    """A source names it; without that it is what the first rows have in common, with a warning unless a comma."""
    project.write("a.csv", text)
    warnings: list[str] = []
    access = access_to(engine, warn=warnings.append)
    source = Source(type="external_file", locator="a.csv", delimiter=delimiter)
    assert await external_file.fetch(source, access) == rows
    assert [repr(warned) in warning and "delimiter" in warning for warning in warnings] == ([True] if warned else [])


async def test_a_long_file_is_read_with_the_same_options(project: Project, engine: Engine):
    """In a worker: with the delimiter, its warning, and the rules of the project."""
    project.write("a.csv", "a;b\n" + "1,5;2\n" * INLINE_LENGTH)
    project.write("a.yaml", "a: no\n" + "#" * INLINE_LENGTH)
    warnings: list[str] = []
    access = access_to(engine, rules="chora-compose", warn=warnings.append)
    rows = await external_file.fetch(Source(type="external_file", locator="a.csv"), access)
    assert rows[0] == {"a": "1,5", "b": "2"}
    assert len(warnings) == 1
    yaml = Source(type="external_file", locator="a.yaml")
    assert await external_file.fetch(yaml, access) == {"a": False}
    assert await external_file.fetch(yaml, access._replace(rules="chora")) == {"a": "no"}


@pytest.mark.parametrize(("file", "delimiter"), [("a.txt", ";"), ("a.json", ","), ("a.csv", ";;"), ("a.csv", "x")])
def test_a_delimiter_belongs_to_csv(file: str, delimiter: str):
    """One that could do nothing, or is none, is refused; a tab is written as such."""
    source = {"id": "s", "source_type": "external_file", "source_locator": file, "delimiter": delimiter}
    with pytest.raises(ValidationFailed, match="delimiter"):
        parse_config("content", documents.content(inputs={"sources": [source]}), where="a.json")
    good = {**source, "source_locator": "a.csv", "delimiter": "tab"}
    parsed = parse_config("content", documents.content(inputs={"sources": [good]}), where="a.json")
    assert parsed.config.inputs.sources[0].delimiter == "\t"


BILLION = "\n".join(
    [
        "a: &a [x,x,x,x,x,x,x,x,x]",
        *(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdef", "bcdefg", strict=True)),
    ]
)


def test_a_csv_file_may_have_as_many_cells_as_the_limit():
    """In one column or in several; the names don't count."""
    assert len(parse_data("a.csv", "a\n" + "1\n" * CELLS_LIMIT)) == CELLS_LIMIT
    assert len(parse_data("a.csv", "a,b\n" + "1,2\n" * (CELLS_LIMIT // 2))) == CELLS_LIMIT // 2


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("a.json", "{", "a.json is not JSON: it ends too soon in line 1, column 2"),
        ("a.json", "", "a.json is not JSON: it is empty"),
        ("a.json", '{"a": NaN}', "a.json is not JSON: 'N' doesn't belong there"),
        ("a.json", "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested more than 64 levels deep"),
        ("a.json", "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl is not JSONL: line 2 is not JSON: "),
        ("a.jsonl", "1\n" + "[" * 5000 + "]" * 5000, "line 2"),
        ("a.csv", "a,b,\n1,2,3\n", "line 2 has 3 cells, the first line 2"),
        ("a.tsv", "a\ta\n", "two columns are named 'a'"),
        ("a.yaml", "a: [", "a.yaml is not YAML: did not find expected node content in line"),
        ("a.yaml", "", "a.yaml is not YAML: it is empty"),
        ("a.yaml", BILLION, "more than 10,000 values with its aliases expanded"),
        (
            "a.yaml",
            "a: !!python/object/apply:os.system [id]",
            "the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "the key 'a' stands twice in line 3, column 1"),
        ("a.yaml", "True: a\n'true': b\n", "the key 'true' stands twice in line 2"),
        ("a.yaml", "0x10: a\n16: b\n", "the key '16' stands twice in line 2"),
        ("a.yaml", "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested more than 64 levels deep"),
        ("a.yml", "a: .inf", "a.yml is not YAML: inf is not a number that JSON has"),
        ("a.toml", "a = ", "a.toml is not TOML: Invalid value"),
        ("a.toml", "a = nan", "a.toml is not TOML: nan is not a number that JSON has"),
        ("a.toml", "a = " + "[" * 5000, "a.toml is not TOML: it is nested too deeply"),
        ("a.toml", "a = " + "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested more than 64 levels deep"),
        ("a.toml", "a." * DEPTH_LIMIT + "b = 1", "a key has more than 64 parts"),
        ("a.toml", '"a b" . ' * DEPTH_LIMIT + "'b' = 1", "a key has more than 64 parts"),
        ("a.toml", '"\\"".' * DEPTH_LIMIT + "b = 1", "a key has more than 64 parts"),
        ("a.toml", "x = {" + "a." * 50_000 + "b = 1}", "a key has more than 64 parts"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, the first line 2"),
        ("a.csv", 'a,b\n1,2\n"x,2\n3,4\n', "a quotation mark in line 3 is never closed"),
        ("a.csv", '"a,b\n1,2\n', "a quotation mark in line 1 is never closed"),
        ("a.csv", 'a,b\n1,"x', "a quotation mark in line 2 is never closed"),
        ("a.csv", "a,b,a\n", "two columns are named 'a'"),
        ("a.csv", "a\n" + "1" * 200_000, "field larger than field limit"),
        ("a.csv", "a\n" + "1\n" * (CELLS_LIMIT + 1), "it has more than 200,000 cells"),
    ],
)
def test_a_file_that_does_not_match_its_suffix_is_an_error(path: str, text: str, problem: str):
    """It names the file, the format and the fault, within little time and memory."""
    with pytest.raises(NotData) as failed:
        parse_data(path, text)
    assert problem in str(failed.value)
    assert len(str(failed.value)) < 300
    assert not str(failed.value).endswith(".")


def test_data_may_be_nested_as_deep_as_a_config():
    """64 levels are allowed in every format."""
    assert is_too_deep(parse_data("a.json", "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT)) is False
    parse_data("a.yaml", "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT)
    parse_data("a.toml", "a = " + "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1))
    parse_data("a.toml", "a." * (DEPTH_LIMIT - 1) + "b = 1")


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": 1, "b": value}], ids=["list", "object"])
def test_depth_counts_every_level_of_lists_and_objects(wrap: Callable[[Any], Any]):
    """The 65th level is one too many."""
    value: Any = "leaf"
    for _ in range(DEPTH_LIMIT):
        value = wrap(value)
    assert not is_too_deep(value)
    assert is_too_deep(wrap(value))
    assert not is_too_deep("text")


@requirement("sources.parsed-in-workers")
@pytest.mark.parametrize("before", [0, 1])
async def test_a_large_file_is_parsed_in_a_worker(
    fetch: Callable[[str], Any], project: Project, engine: Engine, before: int
):
    """One with more characters, or of JSON with more values, than are parsed at once; data and errors are the same."""
    for path, text in {
        "a.json": "[" + "1," * INLINE_VALUES + "1" * (1 - before) + "]",
        "a.yaml": "a: b # " + "c" * (INLINE_LENGTH - 6 - before),
        "a.toml": "a = 1 # " + "c" * (INLINE_LENGTH - 7 - before),
        "a.csv": "a,b\n" + "1,2\n" * (INLINE_LENGTH // 4 - before),
    }.items():
        if path == "a.json" and before:
            text = text.replace(",]", "]")
        project.write(path, text)
        done = engine.templates.pool.statistics().rendered
        assert await fetch(path) == parse_data(path, text)
        assert engine.templates.pool.statistics().rendered - done == 1 - before, path
    project.write("a.json", "[" + "1," * (INLINE_VALUES + 1))
    with pytest.raises(SourceFailed, match="it ends too soon"):
        await fetch("a.json")


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("a.json", "[" + "1," * 200_000 + "1]", "a.json holds more than 200,000 values"),
        ("a.toml", "a = [" + "1," * 200_000 + "1]", "it holds more than 200,000 values"),
        ("a.yaml", "- 1\n" * 100_001, "a.yaml holds more than 100,000 values"),
        ("a.json", f"[{'1,' * 10_000}{2**64}]", "A number has more than 64 bits"),
    ],
)
async def test_data_with_too_many_values_has_no_value(
    fetch: Callable[[str], Any], project: Project, path: str, text: str, problem: str
):
    """It is refused in the worker, so that this process builds none of it."""
    project.write(path, text)
    with pytest.raises(SourceFailed, match=problem):
        await fetch(path)


async def test_a_byte_order_mark_is_no_part_of_the_text(fetch: Callable[[str], Any], project: Project):
    """Files that Windows programs saved are read like all others."""
    project.write("a.json", b'\xef\xbb\xbf{"a": 1}')
    assert await fetch("a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("missing.json", "there is no file missing.json"),
        ("../outside.txt", "The path '../outside.txt' leads outside the project"),
        ("/etc/hostname", "The path '/etc/hostname' leads outside the project"),
        ("link.txt", "The path 'link.txt' leads outside the project"),
        ("", "A path is empty or holds a NUL character"),
        ("folder", "folder is not a regular file"),
        ("latin.txt", "latin.txt is not UTF-8 text"),
        ("huge.txt", "huge.txt is larger than 10,000,000 bytes"),
    ],
)
async def test_a_file_that_cannot_be_read_says_why(
    fetch: Callable[[str], Any], project: Project, tmp_path: Path, path: str, problem: str
):
    """Missing, outside the project by path or link, not a file, not text, too large."""
    (tmp_path / "outside.txt").write_text("secret")
    (project.root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (project.root / "folder").mkdir()
    project.write("latin.txt", b"\xff\xfe")
    with (project.root / "huge.txt").open("wb") as file:
        file.truncate(SOURCE_LIMIT + 1)
    with pytest.raises(SourceFailed) as failed:
        await fetch(path)
    assert str(failed.value) == problem
