"""A part of a text, by a selector: a Markdown section, a definition, lines.

In a worker for long texts: taken apart into lines, a text takes up to fifty times its size in memory.
"""

from __future__ import annotations

import io
import re
from typing import Literal, NamedTuple

from chora.render import JobFailure, PartJob, TextPart
from chora.wording import find_nearest

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
        return select_first(job.text, job.selectors)
    except PartNotFound as error:
        return JobFailure("syntax", str(error), job.name)


def select_first(text: str, selectors: tuple[str, ...]) -> TextPart:
    """The part that the first selector takes for which there is one.

    Raises:
        PartNotFound: there is one for none of them; the message is about the last.
    """
    outline: list[_Heading] | None = None
    for selector in selectors:
        try:
            if (path := _parse_path(selector)) is None:
                return TextPart(_select_other(text, selector))
            if outline is None:
                outline = _list_headings(text)
            return _select_section(text, outline, path, shorten_selector(selector))
        except PartNotFound:
            if selector is selectors[-1]:
                raise
    raise PartNotFound("there is no selector")


def select_part(text: str, selector: str) -> TextPart:
    """The part that a selector takes.

    Raises:
        PartNotFound: nothing matches, or the selector is none of a heading, a definition and a range of lines.
    """
    return select_first(text, (selector,))


def _select_other(text: str, selector: str) -> str:
    shown = shorten_selector(selector)
    if selector == BODY:
        return text[_front_matter_end(text) :].lstrip("\r\n")
    kind, colon, name = selector.partition(":")
    if colon and kind in ("function", "class"):
        return _select_definition(text, kind, name.strip(), shown)
    if (lines := _LINES.fullmatch(selector)) and selector != ":":
        return _select_lines(text, int(lines[1] or 1), int(lines[2]) if lines[2] else None, shown)
    raise PartNotFound(
        f"{shown!r} is not a selector; write a JSONPath ($.a.b), a heading (## Title, or ## Part > ### Title), "
        "function:name, class:name, a line range (10-20), body, front_matter or whole_content"
    )


def shorten_selector(selector: str) -> str:
    """The beginning of a selector, for messages."""
    return selector if len(selector) <= 80 else f"{selector[:79]}…"


# -- Markdown ---------------------------------------------------------------------------------------------------


BODY = "body"
FRONT_MATTER = "front_matter"
_STEP = re.compile(r" +> +(?=#{1,6} )")


class _Heading(NamedTuple):
    """A heading, the number of its first line, and that of the first line below it."""

    level: int
    title: str
    first: int = 0
    below: int = 0

    @property
    def key(self) -> tuple[int, str]:
        """What headings have in common that a selector doesn't tell apart."""
        return self.level, " ".join(self.title.split()).casefold()

    def __str__(self) -> str:
        return f"{'#' * self.level} {self.title}"


class _Path(NamedTuple):
    """Headings, each in the section of the one before, and whether only what is below the last is meant."""

    steps: list[_Heading]
    body_only: bool


def _parse_path(selector: str) -> _Path | None:
    """The headings that a selector names, outermost first."""
    if len(selector) > 2000 or not selector.lstrip().startswith("#"):
        return None
    bare = selector.rstrip()
    head, mark, last = bare.rpartition(" > ")
    body_only = bool(mark) and last.strip() == BODY
    steps = [_parse_heading(step) for step in _STEP.split(head if body_only else bare)]
    found = [step for step in steps if step is not None and step.title]
    return _Path(found, body_only) if found and len(found) == len(steps) else None


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


_NO_PARAGRAPH = re.compile(r"[-+*>](?:\s|$)|[0-9]{1,9}[.)](?:\s|$)|>")
"""How a line begins that is a list item or a quotation: a row of hyphens below it is no underline."""


def _list_headings(text: str) -> list[_Heading]:
    """The headings of a Markdown text, with number signs or underlined (CommonMark 4.2 and 4.3)."""
    found: list[_Heading] = []
    fence = ""
    paragraph: list[str] = []
    """The lines of the paragraph so far, which an underline makes a heading; empty where it can't."""
    in_paragraph = False
    in_comment = False
    skipped = text.count("\n", 0, _front_matter_end(text))
    for number, line in enumerate(list_lines(text)):
        if number < skipped:
            continue
        bare = line.strip()
        mark = _fence(line)
        if fence:
            if mark.startswith(fence) and bare == mark:
                fence = ""
            continue
        if in_comment or (bare.startswith("<!--") and _indent(line) <= 3):  # a block of its own, CommonMark 4.6
            in_comment = "-->" not in bare
            paragraph, in_paragraph = [], False
            continue
        heading = None if mark else _parse_heading(line)
        if paragraph and bare and _indent(line) <= 3 and (set(bare) == {"="} or set(bare) == {"-"}):
            level = 1 if bare[0] == "=" else 2
            found.append(_Heading(level, " ".join(paragraph), number - len(paragraph), number + 1))
            paragraph, in_paragraph = [], False
        elif heading or mark or not bare:
            if heading:
                found.append(heading._replace(first=number, below=number + 1))
            fence, paragraph, in_paragraph = mark, [], False
        elif in_paragraph:
            if paragraph and len(paragraph) < 10:
                paragraph.append(bare)
            elif paragraph:  # too long to head anything
                paragraph = []
        else:
            in_paragraph = True
            paragraph = [] if _NO_PARAGRAPH.match(bare) or _indent(line) > 3 else [bare]
    return found


def _select_section(text: str, outline: list[_Heading], path: _Path, shown: str) -> TextPart:
    """The section that a path of headings leads to; the first of several, with a warning."""
    warning: str | None = None
    start, end = 0, len(outline)
    index = 0
    for step in path.steps:
        matching = [index for index in range(start, end) if outline[index].key == step.key]
        if not matching:
            raise PartNotFound(f"there is no heading {shown!r}{_name_near(step, outline[start:end])}")
        if len(matching) > 1 and warning is None:
            times = f"{shorten_selector(str(step))!r} stands {len(matching)} times"
            warning = (
                f"{times}, and the first is taken; a path such as '## Part > {shorten_selector(str(step))}' is exact"
            )
        index = matching[0]
        start = index + 1
        end = next((at for at in range(start, end) if outline[at].level <= step.level), end)
    lines = list(io.StringIO(text, newline=""))
    last = outline[end].first if end < len(outline) else len(lines)
    first = outline[index].below if path.body_only else outline[index].first
    return TextPart(_trimmed(lines[first:last], blank_before=not path.body_only), warning)


def _trimmed(lines: list[str], *, blank_before: bool = True) -> str:
    """Lines as one text without blank ones at its end; it ends with a newline if its last line does."""
    whole = "".join(f"{line.rstrip(chr(10) + chr(13))}\n" if line[-1:] in "\r\n" else line for line in lines)
    bare = whole.rstrip()
    if not blank_before:
        bare = bare.lstrip("\n")
    return bare + ("\n" if bare and len(whole) > len(whole.rstrip()) else "")


def _name_near(wanted: _Heading, outline: list[_Heading]) -> str:
    """The headings that may be meant, for an error."""
    same = [each for each in outline if each.key[1] == wanted.key[1]]
    bare = _without_marks(wanted.title)
    holding = [each for each in outline[:5000] if bare and bare in _without_marks(each.title)]
    titles = {each.title: each for each in outline[:5000] if len(each.title) <= 200}
    alike = [titles[title] for title in find_nearest(wanted.title, titles, 3)]
    near = list(dict.fromkeys(f"'{shorten_selector(str(each))}'" for each in (*same[:3], *holding[:3], *alike)))[:3]
    return f"; near it are {', '.join(near)}" if near else ""


def _without_marks(title: str) -> str:
    """A title without what Markdown makes links, code and emphasis of."""
    return " ".join(_MARKS.sub("", title[:200]).split()).casefold()


_MARKS = re.compile(r"\]\([^()\s]*\)|[\[\]`*]")


def _front_matter_end(text: str) -> int:
    """Where the text begins that stands below its front matter; 0 if it has none."""
    found = split_front_matter(text)
    return 0 if found is None else found.end


class FrontMatter(NamedTuple):
    """Data that a text begins with, and where it ends."""

    language: Literal["yaml", "toml"]
    data: str
    end: int


def split_front_matter(text: str) -> FrontMatter | None:
    """The front matter of a text: YAML between lines of three hyphens, or TOML between lines of three plus signs."""
    mark = text[:3]
    first = text.find("\n") + 1
    if mark not in ("---", "+++") or text[3:first].strip() or not first:
        return None
    at = first - 1
    while (at := text.find(f"\n{mark}", at)) >= 0:
        end = text.find("\n", at + 1)
        end = len(text) if end < 0 else end + 1
        if not text[at + 4 : end].strip():
            data = text[first : at + 1]
            if mark == "---" and not _may_be_data(data):
                return None
            return FrontMatter("yaml" if mark == "---" else "toml", data, end)
        at += 1
    return None


def _may_be_data(text: str) -> bool:
    """Whether what stands between lines of hyphens may be a mapping or a list, and isn't prose between two rules."""
    lines = (line.strip() for line in io.StringIO(text))
    first = next((line for line in lines if line and line[0] != "#"), "")
    return not first or ":" in first or first[0] in "-[{?!&"


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
            taken = list(io.StringIO(text, newline=""))[number : _find_definition_end(lines, number)]
            return _trimmed(taken)
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
