"""Checks of the links in a Markdown text."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from chora.engine.engine import Engine
from chora.engine.validation.rules import CheckedText, MalformedRule, RuleContext, RuleFinding, run_in_thread_if_long
from chora.errors import PermissionDenied
from chora.render.validation import FINDINGS_LIMIT

_REFERENCE = re.compile(r" {0,3}\[(?!\^)[^\]\n]{1,200}\]:[ \t]*(\S{1,2000})")
_INLINE = re.compile(
    r"\]\([ \t]*+(?:<([^<>\n]{1,2000}+)>"
    r"|([^\s()<]{1,2000}+(?:\([^\s()]{0,200}+\)[^\s()]{0,200}+){0,5}+)(?=[\s)]))"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")
_NAMED = re.compile(r"""\b(?:id|name)=["']([^"'<>\s]{1,200})["']""")


class MarkdownLink(NamedTuple):
    """A link in a text, and its line."""

    target: str
    line: int


async def check_links(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """Relative Markdown links lead to files of the project, and anchors to headings of the text; `base` is where
    relative ones start from. Links to anywhere else aren't followed.
    """
    base = context.option("base")
    if base is not None and not isinstance(base, str):
        raise MalformedRule("base isn't the path of a folder")
    start = piece.folder if base is None else base
    return await run_in_thread_if_long(len(piece.text), _broken_links, context.subject.engine, piece, start)


def _broken_links(engine: Engine, piece: CheckedText, start: str) -> list[RuleFinding]:
    links, anchors = _find_links(piece.text)
    findings: list[RuleFinding] = []
    for link in links:
        if (reason := _why_broken(engine, link.target, start, anchors)) is not None:
            code = "broken_anchor" if link.target.startswith("#") else "broken_link"
            details: dict[str, Any] = {"link": link.target, "line": link.line}
            findings.append(RuleFinding(code, f"{link.target} {reason}", piece.location(link.line), details))
            if len(findings) == FINDINGS_LIMIT:
                break
    return findings


def _why_broken(engine: Engine, target: str, start: str, anchors: set[str]) -> str | None:
    from urllib.parse import unquote

    if _SCHEME.match(target):
        return None
    path, _, anchor = target.partition("#")
    if not path:
        is_known = not anchor or unquote(anchor).casefold() in anchors
        return None if is_known else "is no heading or anchor of the text"
    inside = unquote(path.partition("?")[0])
    wanted = inside.lstrip("/") if inside.startswith("/") else str(PurePosixPath(start, inside))
    try:
        return None if engine.folder.resolve(wanted or ".").exists() else "leads to no file of the project"
    except PermissionDenied:
        return "leads outside the project"
    except OSError as error:  # a name too long for any disk
        return f"can't be looked up: {error.strerror}"


def _find_links(text: str) -> tuple[list[MarkdownLink], set[str]]:
    """The links of a Markdown text, and the names of its anchors; code is skipped."""
    links: list[MarkdownLink] = []
    anchors: set[str] = set()
    headings: Counter[str] = Counter()
    fence = ""
    before = ""
    for number, line in enumerate(io.StringIO(text), 1):
        bare = line.strip()
        if bare[:3] in ("```", "~~~"):
            mark = bare[: len(bare) - len(bare.lstrip(bare[0]))]
            if not fence:
                fence = mark
            elif mark.startswith(fence) and bare == mark:
                fence = ""
            continue
        if fence:
            continue
        title = bare.lstrip("#").strip().rstrip("#").strip() if bare.startswith("#") else ""
        if bare and before and not bare.strip("=-"):
            title = before  # underlined
        if title:
            slug = _slug(title)
            anchors.add(slug if not headings[slug] else f"{slug}-{headings[slug]}")
            headings[slug] += 1
        before = bare
        prose = _without_code(line)
        anchors.update(found[1].casefold() for found in _NAMED.finditer(prose))
        links += [MarkdownLink(target, number) for target in _targets(prose)]
    return links, anchors


def _slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    words = re.sub(r"\]\([^)\]]*+\)", "", title).replace(" ", "-").casefold()
    return "".join(letter for letter in words if letter.isalnum() or letter in "-_")


def _without_code(line: str) -> str:
    """The line without the code between runs of equally many backticks."""
    parts = re.split("(`+)", line)
    ends: dict[int, int] = {}
    closing: dict[int, int] = {}
    for at in range(len(parts) - 2, 0, -2):
        length = len(parts[at])
        if length in ends:
            closing[at] = ends[length]
        ends[length] = at
    kept: list[str] = []
    at = 0
    while at < len(parts):
        if at in closing:
            at = closing[at]
        else:
            kept.append(parts[at])
        at += 1
    return "".join(kept)


def _targets(line: str) -> Iterator[str]:
    """Where the links of a line lead."""
    if reference := _REFERENCE.match(line):
        yield reference[1].strip("<>")
    else:
        for found in _INLINE.finditer(line):
            yield found[1] or found[2]
