"""I-Regexp (RFC 9485), the regular expressions of JSONPath filters, as patterns of Python's `re`.

`re` reads most of them as they are meant. It has no Unicode categories (`\\p{Lu}`), and its dot also matches a carriage
return. What isn't I-Regexp, such as `\\d` and anchors, keeps Python's meaning.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

_TOKEN = re.compile(r"\\[pP]\{([A-Z][a-z]?)\}|\\.|[.\[\]]|[^\\.\[\]]+", re.DOTALL)
"""A category, another escape, a dot, a bracket, or what stands between those."""


def to_python(pattern: str) -> str:
    """The same pattern for `re`."""
    parts: list[str] = []
    in_class = False
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if token[1]:
            ranges = _category(token[1], negated=text[1] == "P")
            text = ranges if in_class else f"[{ranges}]"
        elif text == "." and not in_class:
            text = "[^\\n\\r]"  # RFC 9485 section 5.3
        elif text == "[" and in_class:
            text = "\\["
        elif text in "[]":
            in_class = text == "["
        parts.append(text)
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The compiled pattern; raises `re.error` for one that is none."""
    return re.compile(to_python(pattern))


@functools.cache
def _category(name: str, *, negated: bool) -> str:
    """The ranges of a general category of Unicode, such as `Lu` or `L`, for use between square brackets."""
    ranges: list[str] = []
    first: int | None = None
    for code in range(sys.maxunicode + 2):
        belongs = code <= sys.maxunicode and unicodedata.category(chr(code)).startswith(name) != negated
        if belongs and first is None:
            first = code
        elif not belongs and first is not None:
            ranges.append(f"\\U{first:08x}-\\U{code - 1:08x}")
            first = None
    if not ranges:  # no such category
        raise re.error(f"there is no category {name}")
    return "".join(ranges)
