"""Selectors: a part of a source's value.

| selector | takes |
|---|---|
| none, `whole_content` | everything |
| `$…` | an RFC 9535 JSONPath: one match is the value, several are a list |
| `## Heading` | a Markdown section with its heading, up to the next heading of the same or a higher level |
| `function:name`, `class:name` | a definition in Python or JavaScript, with the lines indented below it |
| `10-20`, `10:20`, `:50`, `100:` | lines, counted from 1, both ends included |
"""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple

import msgspec
import trio

from chora.errors import InvalidContext, LimitExceeded
from chora.nesting import DEPTH_LIMIT, decode_json, is_too_deep
from chora.render import RenderFailed, SelectJob
from chora.render.pool import RenderPool
from chora.sources.source import SourceFailed

INLINE_LENGTH = 64 * 1024
"""Texts up to this length are searched at once; larger ones in a thread."""

_LINES = re.compile(r"([0-9]{0,15})(?::|(?<=[0-9])-(?=[0-9]))([0-9]{0,15})")


async def select(value: Any, selector: str | None, pool: RenderPool) -> Any:
    """Apply a selector; a JSONPath runs in a worker of the pool.

    Raises:
        SourceFailed: nothing matches, or the selector has none of the forms above.
        Busy: too much is waiting for the workers.
    """
    if not selector or selector == "whole_content":
        return value
    if selector.startswith("$"):
        return await _select_json_path(value, selector, pool)
    if isinstance(value, str) and len(value) <= INLINE_LENGTH:
        return select_part(value, selector)
    return await trio.to_thread.run_sync(select_part, value, selector)


def select_part(value: Any, selector: str) -> str:
    """The part of a text that a selector other than a JSONPath takes; of data, of its JSON.

    Raises:
        SourceFailed: nothing matches, or the selector has none of the forms above.
    """
    shown = _shown(selector)
    text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value)).decode()
    if (heading := _parse_heading(selector)) and heading.title:
        return _select_section(text, heading, shown)
    kind, colon, name = selector.partition(":")
    if colon and kind in ("function", "class"):
        return _select_definition(text, kind, name.strip(), shown)
    if (lines := _LINES.fullmatch(selector)) and selector != ":":
        return _select_lines(text, int(lines[1] or 1), int(lines[2]) if lines[2] else None, shown)
    raise SourceFailed(
        f"{shown!r} is not a selector; write a JSONPath ($.a.b), a heading (## Title), function:name, "
        "class:name, a line range (10-20) or whole_content"
    )


def _shown(selector: str) -> str:
    return selector if len(selector) <= 80 else f"{selector[:79]}…"


# -- data -------------------------------------------------------------------------------------------------------


async def _select_json_path(value: Any, selector: str, pool: RenderPool) -> Any:
    shown = _shown(selector)
    if isinstance(value, str):
        try:
            value = decode_json(value)
        except msgspec.DecodeError:
            raise SourceFailed(f"{shown} needs data, but the source is text that is not JSON") from None
        if is_too_deep(value):
            raise SourceFailed(f"{shown} needs data that is nested no more than {DEPTH_LIMIT} levels deep")
    try:
        found = (await pool.select_values(SelectJob(query=selector, data=value, name=shown))).values
    except RenderFailed as failure:
        raise SourceFailed(f"{shown} is not a JSONPath: {failure.reason.message.removesuffix('.')}") from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    if not found:
        raise SourceFailed(f"{shown} matches nothing")
    return found[0] if len(found) == 1 else found


# -- Markdown ---------------------------------------------------------------------------------------------------


class _Heading(NamedTuple):
    level: int
    title: str


def _parse_heading(line: str) -> _Heading | None:
    """What a line heads, if it is a heading with number signs.

    Plain string methods, because a pattern would take cubic time for a line of spaces.
    """
    text = line.strip()
    title = text.lstrip("#")
    level = len(text) - len(title)
    if not 1 <= level <= 6 or _indent(line) > 3 or (title and not title[0].isspace()):
        return None
    bare = title.rstrip("#")
    return _Heading(level, bare.strip() if not bare or bare[-1].isspace() else title.strip())


def _select_section(text: str, wanted: _Heading, shown: str) -> str:
    taken: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = _fence(line)
        heading = None if fence or mark else _parse_heading(line)
        if fence:
            if mark.startswith(fence) and line.strip() == mark:
                fence = ""
        else:
            fence = mark
        if taken:
            if heading and heading.level <= wanted.level:
                break
            taken.append(line)
        elif heading and heading.level == wanted.level and heading.title.casefold() == wanted.title.casefold():
            taken.append(line)
    if not taken:
        raise SourceFailed(f"there is no heading {shown!r}")
    return "\n".join(taken).rstrip() + "\n"


def _fence(line: str) -> str:
    """The backticks or tildes with which a line may open or close a block of code; empty if it can do neither."""
    text = line.strip()
    for character in "`~":
        rest = text.lstrip(character)
        if (length := len(text) - len(rest)) >= 3 and _indent(line) <= 3 and not (character == "`" and "`" in rest):
            return character * length
    return ""


# -- code -------------------------------------------------------------------------------------------------------


def _select_definition(text: str, kind: str, name: str, shown: str) -> str:
    keyword = r"(?:async\s+)?(?:def\s|function\s*\*|function\s)" if kind == "function" else r"class\s"
    first = re.compile(rf"\s*(?:export\s+)?(?:default\s+)?{keyword}\s*{re.escape(name)}(?![\w$]).*")
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if name and first.fullmatch(line):
            return "\n".join(lines[number : _find_definition_end(lines, number)]).rstrip() + "\n"
    raise SourceFailed(f"there is no {shown!r}")


def _find_definition_end(lines: list[str], first: int) -> int:
    """The index after the last line of a definition that begins at `first`."""
    indent = _indent(lines[first])
    end = first + 1
    while end < len(lines):
        line = lines[end].strip()
        if line and _indent(lines[end]) <= indent:
            if _indent(lines[end]) < indent or line[0] not in ")]{}":
                break
            if line[0] == "}":  # JavaScript ends with a brace at the level of the first line
                return end + 1
            # Otherwise the closing of the parameters follows, or a brace on a line of its own.
        end += 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# -- lines ------------------------------------------------------------------------------------------------------


def _select_lines(text: str, first: int, last: int | None, shown: str) -> str:
    # Lines as editors count them: unlike splitlines, this doesn't break at form feeds and the like.
    lines = list(io.StringIO(text, newline=""))[max(first, 1) - 1 : last]
    if not lines or (last is not None and last < first):
        raise SourceFailed(f"the lines {shown} hold nothing")
    return "".join(lines)
