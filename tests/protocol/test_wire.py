"""Envelopes and bounds of the wire."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.protocol import wire

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


@given(json_values, st.integers(0, 80))
def test_depth_is_counted_as_json_counts_it(value: object, wrapped: int):
    """Brackets inside strings don't nest; everything else does."""
    for _ in range(wrapped):
        value = [value]
    assert wire.too_deep(msgspec.json.encode(value)) == (depth(value) > wire.DEPTH_LIMIT)


def test_brackets_in_strings_do_not_nest():
    """A text full of brackets and quotes is one level deep."""
    assert not wire.too_deep(msgspec.json.encode({"text": '[{"\\' * 1000}))


def test_an_error_without_a_known_id_has_a_null_one():
    """JSON-RPC wants the member there."""
    body = msgspec.json.decode(wire.error_response(None, wire.RpcError(-1, "no", {"a": 1})))
    assert body == {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "no", "data": {"a": 1}}}


@pytest.mark.parametrize(("raw", "fits"), [(b'"a"', True), (b"-1", True), (b"null", False), (b"{}", False)])
def test_ids_are_strings_or_numbers(raw: bytes, fits: bool):
    """Null is no id."""
    assert wire.is_id(raw) is fits


def test_revisions_stand_in_order_and_every_one_has_an_era():
    """The table is what is served."""
    assert list(wire.REVISIONS) == sorted(wire.REVISIONS)
    assert [*wire.HANDSHAKE, *wire.MODERN] == list(wire.REVISIONS)
