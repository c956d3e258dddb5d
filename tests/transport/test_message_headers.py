"""Headers that repeat a message's arguments: equal, or the request is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from chora.protocol import wire
from chora.protocol.wire import RpcError
from chora.transport.http.message_headers import check_parameter_headers

HEADERS = {"region": "mcp-param-region"}


def check(arguments: Any, *values: str) -> None:
    """Check a request with these arguments, whose header has these values."""
    scope: Any = {"headers": [(b"mcp-param-region", value.encode()) for value in values]}
    params = wire.decode_params(msgspec.Raw(msgspec.json.encode({"name": "x", "arguments": arguments})))
    check_parameter_headers(scope, params, HEADERS)


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("north", "north"),
        ("", ""),
        ("Bod\u00f8", wire.encode_header("Bod\u00f8")),
        (" edges ", wire.encode_header(" edges ")),
        (7, "7"),
        (-1.5, "-1.5"),
        (True, "true"),
        (False, "false"),
    ],
)
def test_an_argument_is_repeated_as_its_text(value: Any, header: str):
    """Texts as they are, encoded where a header can't hold them; numbers and truth values as JSON."""
    check({"region": value}, header)
    with pytest.raises(RpcError) as failed:
        check({"region": value}, header + "x")
    assert failed.value.code == wire.HEADER_MISMATCH


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ({"region": "north"}, []),
        ({"region": "north"}, ["north", "north"]),
        ({"region": "north"}, ["North"]),
        ({"region": 7}, ["7.0"]),
        ({}, ["north"]),
        ({"region": None}, ["null"]),
        ({"region": ["north"]}, ["north"]),
        ({"region": {"a": 1}}, ['{"a":1}']),
    ],
)
def test_a_header_without_its_argument_is_refused(arguments: Any, values: list[str]):
    """Missing, doubled, spelt otherwise, or repeating what no header can."""
    with pytest.raises(RpcError) as failed:
        check(arguments, *values)
    assert failed.value.code == wire.HEADER_MISMATCH
    assert "mcp-param-region" in str(failed.value)


@pytest.mark.parametrize("arguments", [{}, {"region": None}, {"region": []}, {"other": "north"}])
def test_an_argument_that_is_not_given_needs_no_header(arguments: Any):
    """Nor one that no header can repeat."""
    check(arguments)


@pytest.mark.parametrize("arguments", [[], "north", 7, None])
def test_arguments_that_are_no_object_are_invalid(arguments: Any):
    """That is an error of the parameters, not of the headers."""
    with pytest.raises(RpcError) as failed:
        check(arguments, "north")
    assert failed.value.code == wire.INVALID_PARAMS
