"""How deeply data may be nested; counted by chora, because each Python's decoders stop at another depth (CWE-674)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, cast

import msgspec

DEPTH_LIMIT = 64
"""Levels of arrays and objects that a message, a config, a context and the data of a source may have."""
DECODING_LIMIT = 256
"""Levels that are decoded at all, so that what has a few too many gets an answer that fits the place. Python 3.11 stops
at 1000 levels of C and Python code together, and newer ones at many thousands."""

SHARING_CHECK = 10_000
"""Values of one level after which values that occur more than once are merged."""

_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class NestedTooDeeply(msgspec.DecodeError):
    """JSON text or data with more levels than are decoded."""

    def __init__(self) -> None:
        super().__init__("it is nested too deeply")


def is_json_too_deep(text: str | bytes | msgspec.Raw, limit: int = DEPTH_LIMIT) -> bool:
    """Whether JSON has more levels than that; counted without building anything."""
    data = text.encode(errors="replace") if isinstance(text, str) else bytes(text)
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    brackets = _STRINGS.sub(b"", data).translate(None, _OTHERS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > limit


def is_too_deep(value: Any, limit: int = DEPTH_LIMIT) -> bool:
    """Whether data has more levels of lists and dicts than that, or contains itself."""
    exists = isinstance(value, dict | list)
    level: list[Any] = [value]
    for _ in range(limit):
        if not exists:
            return False
        exists, next_check = False, SHARING_CHECK
        below: list[Any] = []
        for each in level:
            for child in _children(each):
                if isinstance(child, dict | list):
                    exists = True
                    if child:  # a message may hold a million empty lists
                        below.append(cast(Any, child))
            if len(below) > next_check:  # what is referred to many times is visited once (CWE-776)
                below = list({id(child): child for child in below}.values())
                next_check = 2 * len(below) + SHARING_CHECK
        level = below
    return exists


def _children(value: Any) -> Iterable[Any]:
    return cast("dict[Any, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)


def decode_json(text: str | bytes | msgspec.Raw, type: Any = Any) -> Any:
    """As `msgspec.json.decode`, with the same limit on every Python.

    Raises:
        NestedTooDeeply: it has more than `DECODING_LIMIT` levels.
        msgspec.DecodeError: as usual.
    """
    check_json_depth(text)
    return msgspec.json.decode(text, type=type)


def check_json_depth(text: str | bytes | msgspec.Raw) -> None:
    """Raises `NestedTooDeeply` for JSON that has too many levels to be decoded."""
    if is_json_too_deep(text, DECODING_LIMIT):
        raise NestedTooDeeply
