"""How deeply data may be nested: the same on every Python, at every place where data comes in."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.cli.run import parse_pairs
from chora.decoding import decode_text
from chora.errors import InvalidContext, InvalidInput, ValidationFailed
from chora.nesting import (
    DECODING_LIMIT,
    DEPTH_LIMIT,
    NestedTooDeeply,
    check_json_structure,
    decode_json,
    has_too_many_values,
    is_json_too_deep,
    is_too_deep,
)
from chora.render import CheckJob, CheckResult, EvaluateJob, RenderJob, SelectJob, check_depth
from chora.render.validation import check_text
from chora.tools.tool import parse_object
from chora.tools.validation import parse_rules

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=200,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(each) for each in value), default=0)
    return 0


def nested(levels: int) -> Any:
    """A list in a list in a list…"""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(json_values, st.integers(0, 80))
def test_depth_is_counted_as_json_counts_it(value: object, wrapped: int):
    """Brackets inside strings don't nest; everything else does. Text and data have the same depth."""
    for _ in range(wrapped):
        value = [value]
    expected = depth(value) > DEPTH_LIMIT
    assert is_json_too_deep(msgspec.json.encode(value)) == expected
    assert is_json_too_deep(json.dumps(value)) == expected
    assert is_too_deep(value) == expected


@pytest.mark.parametrize(
    ("text", "too_deep"),
    [
        ("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT, False),
        ("[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), True),
        ("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT + "[]", False),
        ("[" * (DEPTH_LIMIT + 1), True),
        ('{"a":' * DEPTH_LIMIT + "1", False),
        ('{"a":' * (DEPTH_LIMIT + 1) + "1", True),
        ("[]{}" * 1000, False),
        ("]" * 100 + "[" * (DEPTH_LIMIT + 1), False),
        (json.dumps({"text": '[{"\\' * 1000}), False),
        ('"' + "[" * 1000, False),
        ('"\\" ' + "[" * 1000, False),
        ('"\\\\" ' + "[" * 1000, True),
        ('"[' + "[" * 1000 + "\\", False),
        ("", False),
    ],
)
def test_brackets_count_outside_strings(text: str, too_deep: bool):
    """At the limit, beyond it, in texts that never end, and behind escaped quotes and backslashes."""
    assert is_json_too_deep(text) is too_deep
    assert is_json_too_deep(text.encode()) is too_deep


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("[1,2,3]", 3),
        ('{"a":1,"b":[2]}', 3),
        ("[[],[],[]]", 6),
        ('[",,,","[[",{"{":",\\","}]', 4),
        ('["a\\\\",1,"b\\"",2]', 4),
        ('["' + "," * 1000, 1),
        (json.dumps(["a"] * 1000), 1000),
        (json.dumps({str(number): "a" for number in range(1000)}), 1000),
        ('"\\"\\"\\"\\"\\"\\"\\",,,,"', 0),
        ("", 0),
    ],
)
def test_values_are_counted_by_what_stands_between_them(text: str, most: int):
    """Exactly the limit fits, and one more doesn't; what stands in strings is no value."""
    assert not has_too_many_values(text.encode(), most)
    assert not most or has_too_many_values(text.encode(), most - 1)


def test_very_many_strings_are_too_many_values():
    """With commas or without; four quotes are a key and its value."""
    assert has_too_many_values(b'""' * 23 + b"," * 11, 10)
    assert not has_too_many_values(b'""' * 22 + b"," * 11 + b'","' * 0, 11)


def test_counting_takes_linear_time():
    """Also for quotes that are never closed, and data that refers to itself or to the same again and again."""
    assert not is_json_too_deep('"' + '\\"' * 2_000_000 + "[" * 100)
    assert is_json_too_deep("[" * 2_000_000)
    itself: list[Any] = []
    itself.append(itself)
    assert is_too_deep(itself)
    for width in (10, 3000):
        shared: Any = []
        for _ in range(DEPTH_LIMIT - 1):
            shared = [shared] * width
        assert not is_too_deep(shared)
        assert is_too_deep([shared])


@pytest.mark.parametrize(("levels", "fits"), [(DECODING_LIMIT, True), (DECODING_LIMIT + 1, False), (5000, False)])
def test_every_place_refuses_the_same(levels: int, fits: bool):
    """What one Python's decoders could still read, another's couldn't."""
    text = "[" * levels + "]" * levels
    refusals: dict[str, tuple[Any, type[Exception]]] = {
        "text": (lambda: check_json_structure(text), NestedTooDeeply),
        "decode": (lambda: decode_json(text), NestedTooDeeply),
        "source": (lambda: decode_text(text, "json", "a.json"), ValidationFailed),
        "argument": (lambda: parse_object(f'{{"a": {text[1:-1]}}}', "context"), InvalidContext),
        "rules": (lambda: parse_rules(text), InvalidInput),
        "render": (lambda: check_depth(RenderJob("", "page", context={"a": nested(levels - 1)})), NestedTooDeeply),
        "condition": (lambda: check_depth(EvaluateJob("", context={"a": nested(levels - 1)})), NestedTooDeeply),
        "selector": (lambda: check_depth(SelectJob("$", nested(levels))), NestedTooDeeply),
    }
    for act, error in refusals.values():
        with contextlib.nullcontext() if fits else pytest.raises(error, match="nested too deeply"):
            act()
    assert parse_pairs([f"a={text}"]) == {"a": json.loads(text) if fits else text}
    checked = check_text(CheckJob("json", text))
    assert isinstance(checked, CheckResult)
    assert [problem.message for problem in checked.findings] == ([] if fits else ["it is nested too deeply"])
