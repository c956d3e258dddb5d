"""A part of a text, by a selector: a Markdown section, a definition, lines.

In a worker for long texts: taken apart into lines, a text takes up to fifty times its size in memory.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

from chora.render import JobFailure, PartJob, TextPart

_LINES = re.compile(r"([0-9]{0,15})(?::|(?<=[0-9])-(?=[0-9]))([0-9]{0,15})")


def list_lines(text: str) -> list[str]:
    """The lines of a text without their ends, as Markdown and editors count them.

    `str.splitlines` also breaks at form feeds, U+0085, U+2028 and the like, which are characters within a line.
    """
    return [line.rstrip("\r\n") for line in io.StringIO(text, newline="")]


class PartNotFound(Exception):
    """A text without the part that a selector takes, or a selector that has no known form; the message says which."""


def find_part(job: PartJob) -> TextPart | JobFailure:
    """Take a part of a text in a worker."""
    try:
        return TextPart(select_first(job.text, job.selectors))
    except PartNotFound as error:
        return JobFailure("syntax", str(error), job.name)


def select_first(text: str, selectors: tuple[str, ...]) -> str:
    """The part that the first selector takes for which there is one.

    Raises:
        PartNotFound: there is one for none of them; the message is about the last.
    """
    for selector in selectors[:-1]:
        try:
            return select_part(text, selector)
        except PartNotFound:
            continue
    return select_part(text, selectors[-1])


def select_part(text: str, selector: str) -> str:
    """The part that a selector takes.

    Raises:
        PartNotFound: nothing matches, or the selector is none of a heading, a definition and a range of lines.
    """
    shown = shorten_selector(selector)
    if (heading := _parse_heading(selector)) and heading.title:
        return _select_section(text, heading, shown)
    kind, colon, name = selector.partition(":")
    if colon and kind in ("function", "class"):
        return _select_definition(text, kind, name.strip(), shown)
    if (lines := _LINES.fullmatch(selector)) and selector != ":":
        return _select_lines(text, int(lines[1] or 1), int(lines[2]) if lines[2] else None, shown)
    raise PartNotFound(
        f"{shown!r} is not a selector; write a JSONPath ($.a.b), a heading (## Title), function:name, "
        "class:name, a line range (10-20) or whole_content"
    )


def shorten_selector(selector: str) -> str:
    """The beginning of a selector, for messages."""
    return selector if len(selector) <= 80 else f"{selector[:79]}…"


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
    for line in list_lines(text):
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
        raise PartNotFound(f"there is no heading {shown!r}")
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
    lines = list_lines(text)
    for number, line in enumerate(lines):
        if name and first.fullmatch(line):
            return "\n".join(lines[number : _find_definition_end(lines, number)]).rstrip() + "\n"
    raise PartNotFound(f"there is no {shown!r}")


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
        raise PartNotFound(f"the lines {shown} hold nothing")
    return "".join(lines)
