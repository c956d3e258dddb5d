"""How deeply data may be nested, and how many values it may hold: counted before anything is built (CWE-674, CWE-770).

Each Python's decoders stop at another depth, and a value takes up to a hundred times its bytes in memory.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, cast

import msgspec

DEPTH_LIMIT = 64
"""Levels of arrays and objects that a message, a config, a context and the data of a source may have."""
DECODING_LIMIT = 256
"""Levels that are decoded at all, so that what has a few too many gets an answer that fits the place. Python 3.11 stops
at 1000 levels of C and Python code together, and newer ones at many thousands."""

MESSAGE_VALUES = 100_000
"""Values that a message may hold. Decoding them takes some hundredths of a second."""
CONFIG_VALUES = 20_000
"""Values that a config may hold: parsing takes microseconds for each, and nothing else runs meanwhile (CWE-770)."""
DECODING_VALUES = 200_000
"""Values of JSON, and of a data file, that are decoded at all: each costs up to half a microsecond on the event loop
when it comes back from a worker, and as much again when it is given to one."""

_CONTAINERS = (dict, list)
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class NestedTooDeeply(msgspec.DecodeError):
    """JSON text or data with more levels than are decoded."""

    def __init__(self) -> None:
        super().__init__("it is nested too deeply")


class TooManyValues(msgspec.DecodeError):
    """JSON text with more values than are decoded."""

    def __init__(self) -> None:
        super().__init__(f"it holds more than {DECODING_VALUES:,} values")


def has_too_many_values(data: bytes, limit: int) -> bool:
    """Whether JSON has more values than that; counted without building anything, with brackets and commas."""
    if _count_separators(data) <= limit:
        return False
    unescaped = _without_escapes(data)
    # With two quotes for each string, and no more keys than values.
    if unescaped.count(b'"') > 4 * (limit + 1):
        return True
    return _count_separators(_outside_strings(unescaped)) > limit


def _count_separators(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _without_escapes(data: bytes) -> bytes:
    """JSON without its backslashes and escaped quotes, so that each quote begins or ends a string."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")


def _outside_strings(unescaped: bytes) -> bytes:
    return b"".join(unescaped.split(b'"')[::2])


def is_json_too_deep(text: str | bytes | msgspec.Raw, limit: int = DEPTH_LIMIT) -> bool:
    """Whether JSON has more levels than that; counted without building anything."""
    data = text.encode(errors="replace") if isinstance(text, str) else bytes(text)
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    brackets = _outside_strings(_without_escapes(data)).translate(None, _OTHERS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > limit


def is_too_deep(value: Any, limit: int = DEPTH_LIMIT) -> bool:
    """Whether data has more levels of lists and dicts than that, or contains itself."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(limit):
        if not level:
            return False
        below: list[Any] = []
        for each in {id(each): each for each in level}.values():  # what occurs many times is visited once (CWE-776)
            below.extend(cast("dict[Any, Any]", each).values() if isinstance(each, dict) else each)
        level = [child for child in below if isinstance(child, _CONTAINERS)]
    return bool(level)


def decode_json(text: str | bytes | msgspec.Raw, type: Any = Any) -> Any:
    """As `msgspec.json.decode`, with the same limit on every Python.

    Raises:
        NestedTooDeeply: it has more than `DECODING_LIMIT` levels.
        TooManyValues: it has more than `DECODING_VALUES` values.
        msgspec.DecodeError: as usual.
    """
    check_json_structure(text)
    return msgspec.json.decode(text, type=type)


def check_json_structure(text: str | bytes | msgspec.Raw) -> None:
    """Raises `TooManyValues` or `NestedTooDeeply` for JSON with too many values or levels to be decoded."""
    data = text.encode(errors="replace") if isinstance(text, str) else bytes(text)
    if has_too_many_values(data, DECODING_VALUES):
        raise TooManyValues
    if is_json_too_deep(data, DECODING_LIMIT):
        raise NestedTooDeeply
