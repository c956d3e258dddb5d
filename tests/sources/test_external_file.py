"""Files as context: how each suffix is parsed, and every kind of invalid file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chora import settings
from chora.catalog import Catalog
from chora.files import SOURCE_LIMIT, Folder
from chora.model import Source
from chora.nesting import DEPTH_LIMIT, is_too_deep
from chora.render.pool import RenderPool
from chora.sources import external_file
from chora.sources.external_file import CELLS_LIMIT, INLINE_BYTES, parse
from chora.sources.source import SourceAccess, SourceFailed
from tests.conftest import Project, requirement


async def generate_nothing(found: object) -> str:
    raise AssertionError


def find_nothing(content_id: str, strategy: str) -> list[str]:
    raise AssertionError


def ignore(*noted: str) -> None:
    pass


@pytest.fixture
def fetch(project: Project) -> Callable[[str], Any]:
    """Fetch a file of the project."""
    folder = Folder(project.root)
    reach = SourceAccess(
        folder, Catalog(folder), RenderPool(settings.RenderSettings()), generate_nothing, find_nothing, ignore, ignore
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
            {"3": "one", "true": True, "null": "none", "2.5": "half"},
        ),
        ("a.yaml", "day: 2026-11-22\nat: 2026-11-22 10:15:30\n", {"day": "2026-11-22", "at": "2026-11-22T10:15:30"}),
        ("a.toml", 'a = 1\n[b]\nc = "x"\n', {"a": 1, "b": {"c": "x"}}),
        (
            "a.toml",
            "day = 2026-11-22\nat = 2026-11-22T10:15:30Z\ntime = 10:15:00\n",
            {"day": "2026-11-22", "at": "2026-11-22T10:15:30+00:00", "time": "10:15:00"},
        ),
        ("a.csv", "name,age\nAda,36\n\nBob\n", [{"name": "Ada", "age": "36"}, {"name": "Bob", "age": None}]),
        ("a.csv", 'a,b\r\n"x\ny",2\r\n', [{"a": "x\ny", "b": "2"}]),
        ("a.csv", "", []),
        ("a.md", "# Title\n", "# Title\n"),
        ("a.txt", "", ""),
        ("Makefile", "all:\n", "all:\n"),
        ("A.JSON", "[1]", [1]),
        ("A.YML", "[1]", [1]),
    ],
)
def test_the_suffix_decides_how_a_file_is_parsed(path: str, text: str, data: Any):
    """json, yaml, toml and csv become JSON values; everything else is text."""
    assert parse(path, text) == data


BILLION = "\n".join(
    [
        "a: &a [x,x,x,x,x,x,x,x,x]",
        *(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdef", "bcdefg", strict=True)),
    ]
)


def test_a_csv_file_may_have_as_many_cells_as_the_limit():
    """In one column or in several; the names don't count."""
    assert len(parse("a.csv", "a\n" + "1\n" * CELLS_LIMIT)) == CELLS_LIMIT
    assert len(parse("a.csv", "a,b\n" + "1,2\n" * (CELLS_LIMIT // 2))) == CELLS_LIMIT // 2


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("a.json", "{", "a.json is not JSON: it ends too soon in line 1, column 2"),
        ("a.json", "", "a.json is not JSON: it is empty"),
        ("a.json", '{"a": NaN}', "a.json is not JSON: 'N' doesn't belong there"),
        ("a.json", "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested more than 64 levels deep"),
        ("a.json", "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a.yaml", "a: [", "a.yaml is not YAML: did not find expected node content in line"),
        ("a.yaml", "", "a.yaml is not YAML: it is empty"),
        ("a.yaml", BILLION, "more than 10,000 values with its aliases expanded"),
        (
            "a.yaml",
            "a: !!python/object/apply:os.system [id]",
            "the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "the key 'a' stands twice in line 3, column 1"),
        ("a.yaml", "yes: a\n'true': b\n", "two keys read 'true'"),
        ("a.yaml", "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested more than 64 levels deep"),
        ("a.yml", "a: .inf", "a.yml is not YAML: inf is not a number that JSON has"),
        ("a.yml", "a: 1\n---\nb: 2", "a.yml is not YAML"),
        ("a.toml", "a = ", "a.toml is not TOML: Invalid value"),
        ("a.toml", "a = nan", "a.toml is not TOML: nan is not a number that JSON has"),
        ("a.toml", "a = " + "[" * 5000, "a.toml is not TOML: it is nested too deeply"),
        ("a.toml", "a = " + "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested more than 64 levels deep"),
        ("a.toml", "a." * DEPTH_LIMIT + "b = 1", "a key has more than 64 parts"),
        ("a.toml", '"a b" . ' * DEPTH_LIMIT + "'b' = 1", "a key has more than 64 parts"),
        ("a.toml", '"\\"".' * DEPTH_LIMIT + "b = 1", "a key has more than 64 parts"),
        ("a.toml", "x = {" + "a." * 50_000 + "b = 1}", "a key has more than 64 parts"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, the first line 2"),
        ("a.csv", "a,b,a\n", "two columns are named 'a'"),
        ("a.csv", "a\n" + "1" * 200_000, "field larger than field limit"),
        ("a.csv", "a\n" + "1\n" * (CELLS_LIMIT + 1), "it has more than 500,000 cells"),
    ],
)
def test_a_file_that_does_not_match_its_suffix_is_an_error(path: str, text: str, problem: str):
    """It names the file, the format and the fault, within little time and memory."""
    with pytest.raises(SourceFailed) as failed:
        parse(path, text)
    assert problem in str(failed.value)
    assert len(str(failed.value)) < 300
    assert not str(failed.value).endswith(".")


def test_data_may_be_nested_as_deep_as_a_config():
    """64 levels are allowed in every format."""
    assert is_too_deep(parse("a.json", "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT)) is False
    parse("a.yaml", "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT)
    parse("a.toml", "a = " + "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1))
    parse("a.toml", "a." * (DEPTH_LIMIT - 1) + "b = 1")


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": 1, "b": value}], ids=["list", "object"])
def test_depth_counts_every_level_of_lists_and_objects(wrap: Callable[[Any], Any]):
    """The 65th level is one too many."""
    value: Any = "leaf"
    for _ in range(DEPTH_LIMIT):
        value = wrap(value)
    assert not is_too_deep(value)
    assert is_too_deep(wrap(value))
    assert not is_too_deep("text")


async def test_a_large_file_is_parsed_in_a_thread(fetch: Callable[[str], Any], project: Project):
    """Above 64 KiB; the result is the same, and so is an error."""
    project.write("big.json", "[" + "1," * INLINE_BYTES + "1]")
    assert len(await fetch("big.json")) == INLINE_BYTES + 1
    project.write("big.json", "[" + "1," * INLINE_BYTES)
    with pytest.raises(SourceFailed, match="it ends too soon"):
        await fetch("big.json")


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
