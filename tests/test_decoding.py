"""JSON and YAML text into plain data: what is read, what is refused, and where the message points."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from chora import decoding
from chora.config_parsing import parse_config
from chora.decoding import ALIASED_VALUES, YAML_VALUES, decode, decode_text, encode_yaml
from chora.errors import (
    LimitExceeded,
    ValidationFailed,
)
from tests.conftest import requirement


@pytest.mark.parametrize(
    ("text", "place", "problem", "hint"),
    [
        ("", None, "it is empty", "Write a config"),
        (" \n ", None, "it is empty", "Write a config"),
        ('{"a": 1', (1, 8), "it ends too soon", "Close the brackets"),
        ('{"a": 1,}', (1, 9), "'}' doesn't belong there", "Remove the comma"),
        ("[1,\n 2,\n]", (3, 1), "']' doesn't belong there", "Remove the comma"),
        ('{\n  "a": 1 // one\n}', (2, 10), "'/' doesn't belong there", "JSON has no comments"),
        ("{\n  # one\n}", (2, 3), "'#' doesn't belong there", "JSON has no comments"),
        ('{"a": ...}', (1, 7), "'.' doesn't belong there", "Write out"),
        ("{'a': 1}", (1, 2), "\"'\" doesn't belong there", "straight double quotes"),
        ("{“a”: 1}", (1, 2), "'“' doesn't belong there", "straight double quotes"),
        ('{"a": "b\nc"}', (1, 9), "doesn't belong there", "line break as \\n"),
        ('{"a": True}', (1, 7), "'T' doesn't belong there", "Write true"),
        ('{"a": NaN}', (1, 7), "'N' doesn't belong there", "no NaN"),
        ('{"ü": 1 "b": 2}', (1, 9), "expected ',' or '}'", "Put a comma before it"),
        ('{"a" 1}', (1, 6), "expected ':'", "Check the commas"),
        ('{"a": 1} x', (1, 10), "'x' stands after its end", "Check the commas"),
        ('{"a": 1e999}', None, "number out of range", "a value that JSON has"),
        ("[" * 100_000, None, "nested too deeply", "fewer levels"),
    ],
)
def test_broken_json_is_explained_with_its_place(
    text: str, place: tuple[int, int] | None, problem: str, hint: str
) -> None:
    """The error names the file, what is wrong, the line and column, and what to do."""
    with pytest.raises(ValidationFailed) as caught:
        decode(text.encode(), "configs/content/x.json")
    error = caught.value
    assert error.message.startswith("configs/content/x.json is not JSON: ")
    assert problem in error.message
    assert hint in str(error.hint)
    line, column = place or (None, None)
    assert (error.details["line"], error.details["column"]) == (line, column)
    assert ("in line" in error.message) is (place is not None)
    assert error.details["file"] == "configs/content/x.json"
    (fault,) = error.details["schema_errors"]
    assert all(fault.values())


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", None, "it is empty"),
        ("# nothing but a comment\n", None, "it is empty"),
        ("a: [1,\n b: }", (2, 5), "did not find expected node content"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", (4, 3), "the key 'c' stands twice"),
        ("a: &x [*x]", None, "an alias stands inside what it names"),
        ("a: *missing", (1, 4), "undefined alias"),
        ("a: !!python/object:os.system ls", (1, 4), "the tag tag:yaml.org,2002:python/object:os.system isn't read"),
        ("a: !secret x", (1, 4), "the tag !secret isn't read"),
        ("? [a]\n: b", (1, 3), "unhashable key"),
        ("a\n--- b\n", (2, 1), "another document"),
        ("a: \x07", None, "control characters are not allowed"),
        ("[" * 65 + "]" * 65, (1, 65), "nested more than 64 levels deep"),
        ("- " * 65 + "a", (1, 129), "nested more than 64 levels deep"),
    ],
)
def test_broken_yaml_is_explained_with_its_place(text: str, place: tuple[int, int] | None, problem: str) -> None:
    """The error names the file, what is wrong, and the line and column where they are known."""
    with pytest.raises(ValidationFailed) as caught:
        decode(text.encode(), "x.yaml")
    error = caught.value
    assert problem in error.message
    assert "x.yaml" in error.message
    assert error.hint
    line, column = place or (None, None)
    assert (error.details["line"], error.details["column"]) == (line, column)


def test_what_is_not_utf_8_is_refused() -> None:
    """A file in another encoding is named as such."""
    for path in ("x.json", "x.yaml"):
        with pytest.raises(ValidationFailed, match=r"is not UTF-8 text: byte 1 is 0xff"):
            decode(b"a\xff", path)


def test_a_byte_order_mark_is_skipped() -> None:
    """Editors on Windows put one before the text."""
    assert decode(b"\xef\xbb\xbf{}", "x.json") == {}
    assert decode(b"\xef\xbb\xbfa: 1", "x.yml") == {"a": 1}


CORE: list[tuple[str, Any, Any]] = [
    # as written, by YAML 1.2, by YAML 1.1
    ("10:30", "10:30", 630),
    ("NO", "NO", False),
    ("no", "no", False),
    ("Yes", "Yes", True),
    ("on", "on", True),
    ("off", "off", False),
    ("y", "y", "y"),
    ("true", True, True),
    ("FALSE", False, False),
    ("tRue", "tRue", "tRue"),
    ("01234", 1234, 668),
    ("0o17", 15, "0o17"),
    ("0x1F", 31, 31),
    ("0b11", "0b11", 3),
    ("1_000", "1_000", 1000),
    ("+7", 7, 7),
    ("-3", -3, -3),
    ("1.5", 1.5, 1.5),
    (".5", 0.5, 0.5),
    ("1.", 1.0, 1.0),
    ("1e3", 1000.0, "1e3"),
    ("-1.5E+2", -150.0, -150.0),
    ("1.2.3", "1.2.3", "1.2.3"),
    ("1:30.5", "1:30.5", 90.5),
    ("089", 89, "089"),
    ("~", None, None),
    ("NULL", None, None),
    ("", None, None),
    ("2026-03-01", "2026-03-01", "2026-03-01"),
    ("2026-03-01 10:00:00", "2026-03-01 10:00:00", "2026-03-01T10:00:00"),
    ("2026-02-30", "2026-02-30", "2026-02-30"),
    ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z", "2026-03-01T10:00:00+00:00"),
    ("=", "=", "="),
    ("'no'", "no", "no"),
]


@requirement("sources.yaml-1.2")
@pytest.mark.parametrize(("written", "core", "old"), CORE)
def test_yaml_is_read_by_the_core_schema_of_1_2(written: str, core: Any, old: Any) -> None:
    """In configs and sources; chora-compose's rules keep YAML 1.1. What is written again reads the same by both."""
    text = f"a: {written}\n"
    if written != "=":  # which PyYAML can't construct in 1.1
        assert decode(text.encode(), "x.yaml", old_yaml=True) == {"a": old}
    value = decode(text.encode(), "x.yaml")
    assert value == {"a": core}
    assert type(cast("dict[str, Any]", value)["a"]) is type(core)
    again = encode_yaml(value)
    assert decode(again.encode(), "x.yaml") == decode(again.encode(), "x.yaml", old_yaml=True) == value


def test_infinite_numbers_of_yaml() -> None:
    """They are numbers in both; sources refuse them, as JSON has none."""
    assert decode(b"[.inf, -.INF]", "x.yaml") == [float("inf"), float("-inf")]
    assert decode(b"[inf, nan]", "x.yaml") == ["inf", "nan"]
    assert all(map(math.isnan, cast("list[float]", decode(b"[.nan, .NaN]", "x.yaml"))))


def test_yaml_keeps_the_order_and_the_letters_of_what_is_written() -> None:
    """Keys as they come, and no escapes for what isn't English."""
    assert encode_yaml({"b": "Nørvik", "a": [1, None]}) == "b: Nørvik\na:\n- 1\n- null\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\n", {"a": 1}),
        ("---\na: 1\n---\n", {"a": 1}),
        ("a: 1\n...\n", {"a": 1}),
        ("a: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("--- 1\n--- 2\n--- 3\n---\n", [1, 2, 3]),
        ("--- 1\n---\n--- 3\n", [1, None, 3]),
    ],
)
def test_several_yaml_documents_are_a_list(text: str, value: Any) -> None:
    """Where they may be several; a config is one document."""
    assert decode_text(text, "yaml", "x.yaml", several=True) == value
    if isinstance(value, list):
        with pytest.raises(ValidationFailed, match="another document"):
            decode(text.encode(), "x.yaml")


def test_the_aliases_of_all_documents_count() -> None:
    """Many small bombs are one large one (CWE-776)."""
    names = zip("bc", "ab", strict=True)
    tens = [f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]" for name, below in names]
    bomb = "\n".join(["a: &a [x,x,x,x,x,x,x,x,x,x]", *tens])
    assert decode_text(bomb, "yaml", "x.yaml")
    with pytest.raises(LimitExceeded, match="aliases"):
        decode_text("\n---\n".join([bomb] * 20), "yaml", "x.yaml", several=True)


def test_yaml_without_the_c_library_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's own loader takes over where libyaml isn't compiled in."""
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    decoding.yaml_loader.cache_clear()
    try:
        assert issubclass(decoding.yaml_loader(), yaml.SafeLoader)
        assert decode(b"a: 2026-03-01\nb: &x {c: 1}\nd: {<<: *x}\n", "x.yaml") == {
            "a": "2026-03-01",
            "b": {"c": 1},
            "d": {"c": 1},
        }
        with pytest.raises(ValidationFailed, match="64 levels"):
            decode(b"[" * 100_000, "x.yaml")
    finally:
        decoding.yaml_loader.cache_clear()


def test_aliases_are_read_within_bounds() -> None:
    """Anchors and merge keys work; a file that comes to too much when written out is refused in no time."""
    assert decode(b"a: &x {b: !!str 1}\nc: {<<: *x, <<: *x, d: *x}\n", "x.yaml") == {
        "a": {"b": "1"},
        "c": {"b": "1", "d": {"b": "1"}},
    }
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))
    with pytest.raises(LimitExceeded) as caught:
        decode(bomb.encode(), "x.yaml")
    assert caught.value.details["limit"] == "config.aliases"
    chain = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100))
    with pytest.raises(ValidationFailed, match="64 levels"):
        parse_config("content", decode(chain.encode(), "x.yaml"), where="x.yaml")
    plain = ("- x\n" * (ALIASED_VALUES + 1)).encode()
    assert decode(plain, "x.yaml") == ["x"] * (ALIASED_VALUES + 1)


def test_a_yaml_file_has_a_bounded_number_of_values() -> None:
    """Building values in Python is slow, so a file of very many is refused before that."""
    with pytest.raises(LimitExceeded) as caught:
        decode(b"[" + b"1," * YAML_VALUES + b"]", "x.yaml")
    assert caught.value.details["limit"] == "config.values"


@pytest.mark.parametrize(
    "number", ["1" * 101, "1" + ":59" * 100, "0x" + "f" * 100, "1." + "1" * 100, "1" + ":59" * 100 + ".5"]
)
def test_numbers_without_end_are_not_calculated(number: str):
    """A number with too many digits to convert quickly is refused (CWE-400); one in quotes is text."""
    with pytest.raises(ValidationFailed, match="a number has more than 100 characters"):
        decode_text(f"a: {number}", "yaml", "x.yaml", old_yaml=":" in number)
    assert decode_text(f"a: '{number}'", "yaml", "x.yaml") == {"a": number}
