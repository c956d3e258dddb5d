"""What is wrong with a text that should be Gherkin.

Follows the grammar of cucumber/gherkin, and is stricter where that takes a mistake for a description: steps of a
feature that has no scenario, an outline that never runs. The keywords are known of English only; of features in other
languages, doc strings, tables and tags are checked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from chora.render import TextFinding
from chora.render.text_parts import list_lines
from chora.wording import quantity

LANGUAGES: Final = frozenset(
    re.findall(
        r"\S+",
        """
        af am amh an ar ast az be bg bm bs ca cs cy-GB da de el em en en-Scouse en-au en-lol en-old en-pirate en-tx eo
        es et fa fi fr ga gj gl he hi hr ht hu id is it ja jv ka kn ko lt lu lv mk-Cyrl mk-Latn ml mn mr ne nl no pa pl
        pt ro ru sk sl sr-Cyrl sr-Latn sv ta te th tlh tr tt uk ur uz vi zh-CN zh-TW
        """,
    )
)
"""The spoken languages that Gherkin has keywords for."""

_LANGUAGE: Final = re.compile(r"#\s*language\s*:\s*([a-zA-Z\-_]+)\s*")
_KEYWORD: Final = re.compile(
    r"(Feature|Business Need|Ability|Background|Rule|Examples?|Scenarios?|Scenario Outline|Scenario Template):"
)
_KINDS: Final = {
    "Business Need": "Feature",
    "Ability": "Feature",
    "Example": "Scenario",
    "Scenario Template": "Scenario Outline",
    "Scenarios": "Examples",
}
_STEP: Final = re.compile(r"(?:Given|When|Then|And|But|\*) ")
_SURE_STEP: Final = re.compile(r"(?:Given|When|Then) ")
_SEPARATORS: Final = ('"""', "```")


class _Line(NamedTuple):
    number: int
    text: str
    """Without blanks at both ends."""


class _Reader:
    """Reads a feature line by line."""

    def __init__(self, *, is_english: bool) -> None:
        self.faults: list[TextFinding] = []
        self._is_english = is_english
        self._docstring: tuple[str, int] | None = None
        self._tags = 0
        """Line of tags that nothing follows yet."""
        self._place = "start"
        """start, Feature, Rule, Background, Scenario, Scenario Outline or Examples: what the last keyword opened."""
        self._in_steps = False
        self._has_text = False
        """Whether the last step has a doc string."""
        self._cells = 0
        """How many cells the rows of this table have; 0 before the first."""
        self._scenarios = 0
        self._lone_step = 0
        """Line of a step that stands in a description."""
        self._outline = 0
        """Line of an outline that has no examples yet."""
        self._examples = 0
        """Line of examples that have no table yet."""
        self._later = False
        """Whether a scenario of this feature or rule was read."""

    def fault(self, line: int, message: str) -> None:
        self.faults.append(TextFinding(message, line))

    def read_line(self, line: _Line) -> None:
        if self._docstring is not None:
            if line.text.startswith(self._docstring[0]):
                self._docstring = None
            return
        if not line.text or line.text.startswith("#"):
            return
        if line.text.startswith("@"):
            self._read_tags(line)
        elif self._is_english and (keyword := _KEYWORD.match(line.text)):
            self._open(_KINDS.get(keyword[1], keyword[1]), line)
        elif self._tags and self._is_english:
            self.fault(line.number, "tags are followed by neither a feature, a rule, a scenario nor examples")
            self._tags = 0
        else:
            self._read_other(line)

    def _read_tags(self, line: _Line) -> None:
        text = re.split(r"\s#", line.text, maxsplit=1)[0].rstrip()
        if any(re.search(r"\s", tag.strip()) or not tag.strip() for tag in text.split("@")[1:]):
            self.fault(line.number, "a tag is empty, or has a blank in it")
        self._end_table()
        self._tags = line.number

    def _open(self, kind: str, line: _Line) -> None:
        self._end_table()
        match kind:
            case "Feature" if self._place != "start":
                self.fault(line.number, "a file has one feature, and this is a second one")
            case "Feature":
                pass
            case _ if self._place == "start":
                self.fault(line.number, f"{kind}: stands before Feature:")
            case "Background" if self._later or self._place == "Background":
                self.fault(line.number, "a background stands once, before the scenarios of its feature or rule")
            case "Background" if self._tags:
                self.fault(line.number, "a background has no tags")
            case "Examples" if self._place not in ("Scenario", "Scenario Outline", "Examples"):
                self.fault(line.number, "examples belong to a scenario outline")
            case _:
                pass
        if kind != "Examples":
            self._end_outline()
            self._outline = line.number if kind == "Scenario Outline" else 0
        else:
            self._outline, self._examples = 0, line.number
        if kind in ("Feature", "Rule"):
            self._later = False
        elif kind.startswith("Scenario"):
            self._scenarios += 1
            self._later = True
        self._place, self._in_steps, self._tags = kind, False, 0

    def _read_other(self, line: _Line) -> None:
        is_step = bool(_STEP.match(line.text)) and self._is_english
        has_steps = self._place.startswith("Scenario") or self._place == "Background"
        if line.text.startswith("|") and (self._in_steps or self._place == "Examples" or not self._is_english):
            self._read_row(line)
        elif line.text[:3] in _SEPARATORS and (self._in_steps or not self._is_english):
            if self._has_text and self._in_steps:
                self.fault(line.number, "the step has a doc string already")
            self._end_table()
            self._docstring, self._has_text = (line.text[:3], line.number), True
        elif is_step and has_steps:
            self._end_table()
            self._in_steps, self._has_text = True, False
        elif not self._is_english:
            self._end_table()
        elif self._place == "start":
            self.fault(line.number, "there is no line that begins with Feature: before this one")
            self._place = "Feature"  # said once
        elif self._in_steps:
            self.fault(line.number, "this is no step: steps begin with Given, When, Then, And, But or *")
        elif self._place == "Examples" and self._cells:
            self.fault(line.number, "this is neither a row of the examples nor a keyword")
        elif _SURE_STEP.match(line.text) and not self._lone_step:
            self._lone_step = line.number

    def _read_row(self, line: _Line) -> None:
        row = line.text.replace("\\\\", "").replace("\\|", "")  # a backslash escapes itself and a |
        cells = row.count("|") - 1
        if not row.endswith("|"):
            self.fault(line.number, "the row doesn't end with |")
        elif self._cells and cells != self._cells:
            self.fault(line.number, f"this row has {quantity(cells, 'cell')}, the first one {self._cells}")
        self._cells = self._cells or cells
        self._examples = 0

    def _end_table(self) -> None:
        self._cells = 0
        if self._examples:
            self.fault(self._examples, "these examples have no table")
            self._examples = 0

    def _end_outline(self) -> None:
        if self._outline:
            self.fault(self._outline, "this scenario outline has no examples, so it never runs")

    def finish(self) -> None:
        if self._docstring is not None:
            self.fault(self._docstring[1], f"the doc string that {self._docstring[0]} opens is never closed")
        if self._tags:
            self.fault(self._tags, "nothing follows these tags")
        self._end_table()
        self._end_outline()
        if self._place == "start" and self._is_english and not self.faults:
            self.fault(1, "there is no line that begins with Feature:")
        if self._lone_step and not self._scenarios:
            self.fault(self._lone_step, "these steps belong to no scenario")


def find_faults(text: str) -> Iterator[TextFinding]:
    """What is wrong, by line."""
    lines = [_Line(number, line.strip()) for number, line in enumerate(list_lines(text.removeprefix("\ufeff")), 1)]
    language = "en"
    for line in itertools.takewhile(lambda line: not line.text or line.text.startswith("#"), lines):
        if declared := _LANGUAGE.fullmatch(line.text):
            language = declared[1]
            if language not in LANGUAGES:
                message = f"there is no language {language[:20]!r} in Gherkin; write its code, such as en"
                yield TextFinding(message, line.number)
                return
            break
    reader = _Reader(is_english=language == "en")
    for line in lines:
        reader.read_line(line)
    reader.finish()
    if language != "en" and not any(re.match(r"[^\s|@#\"`:][^:]{0,40}:", line.text) for line in lines):
        yield TextFinding("there is no line that begins with a keyword and a colon", 1)
    yield from sorted(reader.faults, key=lambda fault: fault.line or 0)
