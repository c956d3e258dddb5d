"""Selectors: taking a part of what a source gave.

| selector | takes |
|---|---|
| none, `whole_content` | everything |
| `$…` | an RFC 9535 JSONPath: one match is the value, several are a list |
| `## Heading` | a Markdown section with its heading, up to the next heading of the same or a higher level |
| `function:name`, `class:name` | a definition in Python or JavaScript, with the lines indented below it |
| `10-20`, `10:20`, `:50`, `100:` | lines, counted from 1, both ends included |
"""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from chora.sources.source import SourceFailed

_LINES = re.compile(r"(\d*)(?::|(?<=\d)-(?=\d))(\d*)")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")


def select(value: Any, selector: str | None) -> Any:
    """Apply a selector.

    Raises:
        SourceFailed: nothing matches, or the selector has none of the forms above.
    """
    if not selector or selector in ("whole_content", "output"):
        return value
    if selector.startswith("$"):
        return _json_path(value, selector)
    text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value)).decode()
    if heading := _HEADING.fullmatch(selector):
        return _section(text, len(heading[1]), heading[2], selector)
    kind, colon, name = selector.partition(":")
    if colon and kind in ("function", "class"):
        return _definition(text, kind, name.strip())
    if (lines := _LINES.fullmatch(selector)) and selector != ":":
        return _line_range(text, int(lines[1] or 1), int(lines[2]) if lines[2] else None, selector)
    raise SourceFailed(
        f"{selector!r} is not a selector; write a JSONPath ($.a.b), a heading (## Title), function:name, "
        "class:name, a line range (10-20) or whole_content"
    )


def _json_path(value: Any, selector: str) -> Any:
    import jsonpath  # on first use: only projects with such selectors pay for it

    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            raise SourceFailed(f"{selector} needs data, but the source is text that is not JSON") from None
    try:
        found = cast("list[Any]", jsonpath.JSONPathEnvironment(strict=True).findall(selector, value))
    except (jsonpath.JSONPathError, RecursionError) as error:
        raise SourceFailed(f"{selector} is not a JSONPath: {error}") from None
    if not found:
        raise SourceFailed(f"{selector} matches nothing")
    return found[0] if len(found) == 1 else found


def _section(text: str, level: int, title: str, selector: str) -> str:
    taken: list[str] = []
    fence = ""
    for line in text.splitlines():
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else (fence or mark[1][:3])
        heading = None if fence else _HEADING.fullmatch(line)
        if taken:
            if heading and len(heading[1]) <= level:
                break
            taken.append(line)
        elif heading and len(heading[1]) == level and heading[2].casefold() == title.casefold():
            taken.append(line)
    if not taken:
        raise SourceFailed(f"there is no heading {selector!r}")
    return "\n".join(taken).rstrip() + "\n"


def _definition(text: str, kind: str, name: str) -> str:
    word = re.escape(name)
    first = re.compile(
        rf"(\s*)(?:export\s+)?(?:default\s+)?(?:async\s+)?(?:def|function\*?)\s+{word}\b.*"
        if kind == "function"
        else rf"(\s*)(?:export\s+)?(?:default\s+)?class\s+{word}\b.*"
    )
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if start := first.fullmatch(line):
            indent, end = len(start[1]), number + 1
            while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > indent):
                end += 1
            # JavaScript ends with a brace at the level of the first line.
            if end < len(lines) and _indent(lines[end]) == indent and lines[end].strip().startswith("}"):
                end += 1
            return "\n".join(lines[number:end]).rstrip() + "\n"
    raise SourceFailed(f"there is no {kind} {name}")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _line_range(text: str, first: int, last: int | None, selector: str) -> str:
    lines = text.splitlines(keepends=True)[max(first, 1) - 1 : last]
    if not lines or (last is not None and last < first):
        raise SourceFailed(f"the lines {selector} hold nothing")
    return "".join(lines)
