"""Envelopes and bounds of the wire."""

import msgspec
import pytest

from chora.protocol import wire


def test_an_error_without_a_known_id_has_a_null_one():
    """JSON-RPC requires the member there."""
    body = msgspec.json.decode(wire.error_response(None, wire.RpcError(-1, "no", {"a": 1})))
    assert body == {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "no", "data": {"a": 1}}}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (None, None),
        ("plain", "plain"),
        ("=?base64?Tm9ydmlr?=", "Norvik"),
        ("=?base64?TsO4cnZpaw==?=", "Nørvik"),
        ("=?base64??=", ""),
        ("=?base64?Tm9ydmlr", "=?base64?Tm9ydmlr"),
        ("=?base64?TsO4cnZpax==?=", None),
        ("=?base64?Tm9y dmlr?=", None),
        ("=?base64?/w==?=", None),
    ],
)
def test_a_header_may_be_encoded_in_one_way(written: str | None, value: str | None):
    """Another spelling of the same bytes, and what isn't UTF-8, are no value."""
    assert wire.decode_header(written) == value
    if value is not None:
        assert wire.decode_header(wire.encode_header(value)) == value


@pytest.mark.parametrize(("raw", "fits"), [(b'"a"', True), (b"-1", True), (b"null", False), (b"{}", False)])
def test_ids_are_strings_or_numbers(raw: bytes, fits: bool):
    """Null isn't a valid id."""
    assert wire.is_id(raw) is fits


def test_revisions_are_sorted_and_every_one_has_an_era():
    """The table lists exactly the supported ones."""
    assert list(wire.REVISIONS) == sorted(wire.REVISIONS)
    assert [*wire.HANDSHAKE_REVISIONS, *wire.MODERN_REVISIONS] == list(wire.REVISIONS)
