"""Writes a Gherkin feature file: steps with tables and texts, outlines, rules, in several languages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct, structs

from chora.errors import GenerationFailed, LimitExceeded
from chora.files import SOURCE_LIMIT
from chora.generators.generator import (
    GeneratedText,
    GenerationJob,
    GeneratorOptions,
    as_text,
    fill_names,
    list_names,
    read_options,
    undefined_behavior,
)
from chora.wording import quantity

NAME = "bdd_scenario"
ALIASES = ("bdd_scenario_assembly",)
VERSION = "1.0.0"
DESCRIPTION = "Writes Gherkin features from structured scenarios, with values of the context in them."
CAPABILITIES = ("testing", "gherkin")
NOTES = "It takes no template. {{ dotted.name }} in any of its texts is filled, and keywords are those of the language."


class Language(NamedTuple):
    """The keywords of a language in Gherkin; of several with the same meaning, the first one is written."""

    feature: tuple[str, ...]
    background: tuple[str, ...]
    rule: tuple[str, ...]
    scenario: tuple[str, ...]
    outline: tuple[str, ...]
    examples: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def titles(self) -> tuple[str, ...]:
        """Every word that begins a block when a colon follows."""
        return (*self.feature, *self.background, *self.rule, *self.scenario, *self.outline, *self.examples)

    def step_keyword(self, step: str) -> str | None:
        """The keyword a step begins with; of several the longest, as parsers take it."""
        return max((keyword for keyword in self.steps if step.startswith(keyword)), key=len, default=None)


LANGUAGES = {
    "en": Language(
        feature=("Feature", "Business Need", "Ability"),
        background=("Background",),
        rule=("Rule",),
        scenario=("Scenario", "Example"),
        outline=("Scenario Outline", "Scenario Template"),
        examples=("Examples", "Scenarios"),
        steps=("* ", "Given ", "When ", "Then ", "And ", "But "),
    ),
    "de": Language(
        feature=("Funktionalität", "Funktion"),
        background=("Grundlage", "Hintergrund", "Voraussetzungen", "Vorbedingungen"),
        rule=("Regel", "Rule"),
        scenario=("Szenario", "Beispiel"),
        outline=("Szenariogrundriss", "Szenarien"),
        examples=("Beispiele",),
        steps=("* ", "Angenommen ", "Gegeben sei ", "Gegeben seien ", "Wenn ", "Dann ", "Und ", "Aber "),
    ),
    "fr": Language(
        feature=("Fonctionnalité",),
        background=("Contexte",),
        rule=("Règle",),
        scenario=("Scénario", "Exemple"),
        outline=("Plan du scénario", "Plan du Scénario"),
        examples=("Exemples",),
        steps=(
            *("* ", "Soit ", "Sachant ", "Sachant que ", "Sachant qu'"),
            *(
                "Etant donné ",
                "Etant donné que ",
                "Etant donné qu'",
                "Etant donnée ",
                "Etant donnés ",
                "Etant données ",
            ),
            *(
                "Étant donné ",
                "Étant donné que ",
                "Étant donné qu'",
                "Étant donnée ",
                "Étant donnés ",
                "Étant données ",
            ),
            *("Quand ", "Lorsque ", "Lorsqu'", "Alors ", "Donc "),
            *("Et ", "Et que ", "Et qu'", "Mais ", "Mais que ", "Mais qu'"),
        ),
    ),
    "es": Language(
        feature=("Característica", "Necesidad del negocio", "Requisito"),
        background=("Antecedentes",),
        rule=("Regla", "Regla de negocio"),
        scenario=("Escenario", "Ejemplo"),
        outline=("Esquema del escenario",),
        examples=("Ejemplos",),
        steps=("* ", "Dado ", "Dada ", "Dados ", "Dadas ", "Cuando ", "Entonces ", "Y ", "E ", "Pero "),
    ),
    "nl": Language(
        feature=("Functionaliteit",),
        background=("Achtergrond",),
        rule=("Regel",),
        scenario=("Scenario", "Voorbeeld"),
        outline=("Abstract Scenario",),
        examples=("Voorbeelden",),
        steps=("* ", "Gegeven ", "Stel ", "Als ", "Wanneer ", "Dan ", "En ", "Maar "),
    ),
    "it": Language(
        feature=("Funzionalità", "Esigenza di Business", "Abilità"),
        background=("Contesto",),
        rule=("Regola",),
        scenario=("Scenario", "Esempio"),
        outline=("Schema dello scenario",),
        examples=("Esempi",),
        steps=("* ", "Dato ", "Data ", "Dati ", "Date ", "Quando ", "Allora ", "E ", "Ed ", "Ma "),
    ),
    "pt": Language(
        feature=("Funcionalidade", "Característica", "Caracteristica"),
        background=("Contexto", "Cenário de Fundo", "Cenario de Fundo", "Fundo"),
        rule=("Regra",),
        scenario=("Cenário", "Cenario", "Exemplo"),
        outline=("Esquema do Cenário", "Esquema do Cenario", "Delineação do Cenário", "Delineacao do Cenario"),
        examples=("Exemplos", "Cenários", "Cenarios"),
        steps=("* ", "Dado ", "Dada ", "Dados ", "Dadas ", "Quando ", "Então ", "Entao ", "E ", "Mas "),
    ),
}


# -- what the config says ---------------------------------------------------------------------------------------

Cell = str | int | float | bool
Row = tuple[Cell, ...]


class DescribedElement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What has a title, a description and tags."""

    title: Annotated[str, Meta(description="On the line of the keyword; required but for examples")] = ""
    description: Annotated[str, Meta(description="Lines below the title; none may begin with a keyword, # or @")] = ""
    tags: Annotated[
        tuple[str, ...], Meta(description="With or without @; a letter, then letters, digits, - and _")
    ] = ()


class DocString(Struct, frozen=True, forbid_unknown_fields=True):
    """A text of several lines, and what kind it is, such as json."""

    content: Annotated[str, Meta(description="The text")]
    media_type: Annotated[str, Meta(description="What kind it is, such as json or text/html")] = ""


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """A step, and the table or the text it is given."""

    text: Annotated[str, Meta(description="The step, beginning with a keyword of the language, such as Given")]
    table: Annotated[tuple[Row, ...] | None, Meta(description="Rows of the same length; instead of a docstring")] = None
    docstring: Annotated[
        str | DocString | None, Meta(description="A text of several lines, or {content, media_type}")
    ] = None


Steps = tuple[str | Step, ...]


class Scenario(DescribedElement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A scenario: at least one step."""

    steps: Annotated[Steps, Meta(description="Each a text such as Given a book, or {text, table, docstring}")] = ()


class Examples(DescribedElement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The values that an outline is run with."""

    headers: Annotated[Row, Meta(description="The names that stand as <name> in the steps")] = ()
    rows: Annotated[tuple[Row, ...], Meta(description="The values, a row for each run")] = ()


class Outline(Scenario, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A scenario that is run with several values."""

    examples: Annotated[
        Examples | tuple[Examples, ...], Meta(description="{headers, rows}, or a list of them; at least one")
    ] = ()


class Rule(DescribedElement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Scenarios that belong together."""

    background: Annotated[Steps, Meta(description="Steps before each scenario of the rule")] = ()
    scenarios: Annotated[tuple[Scenario, ...], Meta(description="Its scenarios")] = ()
    scenario_outlines: Annotated[
        tuple[Outline, ...], Meta(description="Its outlines, written behind its scenarios")
    ] = ()


class Feature(DescribedElement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The head of the file."""

    language: Annotated[str, Meta(description="Of the keywords: en, de, fr, es, nl, it or pt")] = "en"
    rules: Annotated[tuple[Rule, ...], Meta(description="Rules; they may also stand beside the feature")] = ()


class Options(GeneratorOptions, frozen=True, kw_only=True):
    """The options in `generation_config`."""

    feature: Annotated[Feature | None, Meta(description="Title, description, tags and language; required")] = None
    background: Annotated[Steps, Meta(description="Steps before each scenario")] = ()
    scenarios: Annotated[
        tuple[Scenario, ...], Meta(description="{title, steps}; there must be a scenario or an outline")
    ] = ()
    scenario_outlines: Annotated[
        tuple[Outline, ...], Meta(description="{title, steps, examples}, written behind the scenarios")
    ] = ()
    rules: Annotated[tuple[Rule, ...], Meta(description="Groups of scenarios, behind the outlines")] = ()
    undefined_behavior: Annotated[
        Literal["error", "keep"] | None,
        Meta(
            description="What {{ name }} without a value does: error, or keep its place as it stands. Without it: "
            "error, or where templates are lenient keep"
        ),
    ] = None


# -- writing ----------------------------------------------------------------------------------------------------


async def generate(job: GenerationJob) -> GeneratedText:
    """The feature. Values are escaped: none can begin a step, end a text or widen a table.

    `generation_config.undefined_behavior` says whether a name without a value is an `error`, or its place is kept.

    Raises:
        GenerationFailed: something is missing, misspelt, without a value, or can't be written in Gherkin.
        LimitExceeded: the text would be too large.
    """
    writer = _write_feature(job, undefined_behavior(job, NAME, lenient="keep", allowed=("error", "keep")))
    return GeneratedText("\n".join(writer.lines) + "\n", list(dict.fromkeys(writer.warnings)))


async def check(job: GenerationJob) -> None:
    """Check everything but the values: the places of names are kept."""
    undefined_behavior(job, NAME, lenient="keep", allowed=("error", "keep"))
    _write_feature(job._replace(context={}), "keep")


def _write_feature(job: GenerationJob, behavior: str) -> _Writer:
    options = read_options(
        job,
        NAME,
        Options,
        "A scenario is {title, steps}; an outline has examples {headers, rows} besides; a step is a text or "
        "{text, table, docstring}; all but steps may have a description and tags.",
    )
    if (feature := options.feature) is None:
        raise job.failed(NAME, "there is no feature", "Write generation_config.feature with a title.")
    if (language := LANGUAGES.get(feature.language)) is None:
        raise job.failed(
            NAME,
            f"there are no words for the language {feature.language!r}",
            f"Write the feature in one of {', '.join(LANGUAGES)}.",
        )
    options = structs.replace(options, rules=(*feature.rules, *options.rules))
    writer = _Writer(job, language, behavior)
    writer.write_feature(options, feature)
    return writer


_TAG = re.compile(r"@[a-zA-Z][a-zA-Z0-9_-]*")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+/_-]*")


class _Writer:
    """Puts a feature on lines, one indentation for each level."""

    def __init__(self, job: GenerationJob, language: Language, behavior: str) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self._job = job
        self._language = language
        self._behavior = behavior
        self._characters_left = SOURCE_LIMIT
        self._value_characters_left = SOURCE_LIMIT

    def write_feature(self, options: Options, feature: Feature) -> None:
        if feature.language != "en":
            self._write_line(0, f"# language: {feature.language}")
        self._write_head("feature", 0, self._language.feature, feature)
        if not (options.scenarios or options.scenario_outlines or any(map(_scenarios_of, options.rules))):
            raise self._failed("there is no scenario", "Write generation_config.scenarios or scenario_outlines.")
        self._write_background("background", 1, options.background)
        self._write_scenarios("", 1, options.scenarios, options.scenario_outlines)
        for index, rule in enumerate(options.rules):
            where = f"rules[{index}]"
            self._write_line(0, "")
            self._write_head(where, 1, self._language.rule, rule)
            self._write_background(f"{where}.background", 2, rule.background)
            self._write_scenarios(f"{where}.", 2, rule.scenarios, rule.scenario_outlines)

    def _write_background(self, where: str, level: int, steps: Steps) -> None:
        if steps:
            self._write_line(0, "")
            self._write_line(level, f"{self._language.background[0]}:")
            self._write_steps(where, level + 1, steps)

    def _write_scenarios(
        self, where: str, level: int, scenarios: Sequence[Scenario], outlines: Sequence[Outline]
    ) -> None:
        for index, scenario in enumerate(scenarios):
            self._write_scenario(f"{where}scenarios[{index}]", level, self._language.scenario, scenario)
        for index, outline in enumerate(outlines):
            here = f"{where}scenario_outlines[{index}]"
            self._write_scenario(here, level, self._language.outline, outline)
            several = (outline.examples,) if isinstance(outline.examples, Examples) else outline.examples
            if not several:
                raise self._failed(f"{here} has no examples", "Write examples with headers and rows.")
            for number, examples in enumerate(several):
                self._write_examples(f"{here}.examples[{number}]", level + 1, examples)

    def _write_scenario(self, where: str, level: int, words: tuple[str, ...], scenario: Scenario) -> None:
        self._write_line(0, "")
        self._write_head(where, level, words, scenario, self._language.steps)
        if not scenario.steps:
            raise self._failed(f"{where} has no steps", "Write at least one step.")
        self._write_steps(f"{where}.steps", level + 1, scenario.steps)

    def _write_examples(self, where: str, level: int, examples: Examples) -> None:
        if not examples.headers or not examples.rows:
            raise self._failed(f"{where} has no headers or no rows", "Write examples with headers and rows.")
        self._write_line(0, "")
        self._write_head(where, level, self._language.examples, examples, ("|",), titled=False)
        self._write_table(f"{where}.rows", level + 1, (examples.headers, *examples.rows))

    def _write_head(
        self,
        where: str,
        level: int,
        words: tuple[str, ...],
        described: DescribedElement,
        steps: tuple[str, ...] = (),
        *,
        titled: bool = True,
    ) -> None:
        """Tags, the keyword with the title, and the description; `steps` may not begin a line of it."""
        if tags := [self._tag(where, tag) for tag in described.tags]:
            self._write_line(level, " ".join(tags))
        title = self._line(f"{where}.title", described.title)
        if titled and not title:
            raise self._failed(f"{where} has no title", "Write a title; a value in it may be empty.")
        self._write_line(level, f"{words[0]}: {title}".rstrip())
        self._write_description(f"{where}.description", level + 1, described.description, steps)

    def _write_description(self, where: str, level: int, text: str, steps: tuple[str, ...]) -> None:
        lines = _lines_of(self._fill_names(text))
        while lines and not lines[-1].strip():
            lines.pop()
        while lines and not lines[0].strip():
            lines.pop(0)
        for number, line in enumerate(lines, 1):
            start = line.strip()
            if start.startswith(("#", "@", *steps)) or any(
                start.startswith(f"{word}:") for word in self._language.titles
            ):
                raise self._failed(
                    f"line {number} of {where} would be read as Gherkin: {_shown(start)}",
                    "Word it differently; a description can't begin a line with a keyword, # or @.",
                )
            self._write_line(level, line.rstrip())

    def _write_steps(self, where: str, level: int, steps: Steps) -> None:
        for index, step in enumerate(steps):
            here = f"{where}[{index}]"
            step = Step(step) if isinstance(step, str) else step
            self._write_line(level, self._step(here, step.text))
            if step.table is not None and step.docstring is not None:
                raise self._failed(f"{here} has a table and a docstring", "A step takes one of them.")
            if step.table is not None:
                self._write_table(f"{here}.table", level + 1, step.table)
            if step.docstring is not None:
                self._write_docstring(f"{here}.docstring", level + 1, step.docstring)

    def _step(self, where: str, text: str) -> str:
        text = text.lstrip()
        keyword = self._language.step_keyword(text)
        if keyword is None:
            words = list_names([f"“{word.strip()}”" for word in self._language.steps])
            raise self._failed(f"{where} doesn't begin with a keyword: {_shown(text)}", f"Begin it with {words}.")
        line = self._line(where, text)
        if len(line) <= len(keyword.rstrip()) or self._language.step_keyword(line) != keyword:
            raise self._failed(
                f"{where} says nothing behind its keyword, or a value changes it: {_shown(line)}",
                "Write the step's words in the config, so that no value is part of its keyword.",
            )
        return line

    def _write_table(self, where: str, level: int, rows: Sequence[Row]) -> None:
        """A table with its columns aligned."""
        if not rows or not rows[0]:
            raise self._failed(f"{where} is empty", "Write rows of the same length.")
        cells = [[self._cell(cell) for cell in row] for row in rows]
        for number, row in enumerate(cells):
            if len(row) != len(cells[0]):
                raise self._failed(
                    f"row {number} of {where} has {quantity(len(row), 'cell')} and the first one {len(cells[0])}",
                    "Write rows of the same length.",
                )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        if sum(widths) * len(cells) > self._characters_left:  # one wide cell widens every row
            widths = [0] * len(widths)
        for row in cells:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._write_line(level, f"| {' | '.join(padded)} |")

    def _cell(self, value: Cell) -> str:
        text = "\n".join(_lines_of(self._fill_names(as_text(value))))
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "\\n").strip()

    def _write_docstring(self, where: str, level: int, docstring: str | DocString) -> None:
        content, media_type = (
            (docstring, "") if isinstance(docstring, str) else (docstring.content, docstring.media_type)
        )
        if media_type and not _MEDIA_TYPE.fullmatch(media_type):
            raise self._failed(f"{where}.media_type is {_shown(media_type)}", "Write something like json or text/html.")
        text = "\n".join(_lines_of(self._fill_names(content)))
        for delimiter, escaped in ('"""', '\\"\\"\\"'), ("```", "\\`\\`\\`"):
            inside = text.replace(delimiter, escaped)
            # A text that contains the escaped form would be changed.
            if inside.replace(escaped, delimiter) == text:
                break
        else:
            raise self._failed(
                f"{where} has both escaped quotes and escaped backticks in it, which Gherkin can't say",
                "Leave the backslashes out of the text, or put it into a table.",
            )
        self._write_line(level, delimiter + media_type)
        for line in inside.split("\n"):
            self._write_line(level if line else 0, line)
        self._write_line(level, delimiter)

    def _tag(self, where: str, tag: str) -> str:
        tag = tag if tag.startswith("@") else f"@{tag}"
        if not _TAG.fullmatch(tag):
            raise self._failed(
                f"{where} has the tag {_shown(tag)}",
                "A tag is a letter, then letters, digits, hyphens and underscores.",
            )
        return tag

    def _line(self, where: str, text: str) -> str:
        """A filled text that fits on one line."""
        line = self._fill_names(text).strip()
        if len(line.splitlines()) > 1:
            raise self._failed(
                f"{where} has a line break in it: {_shown(line)}",
                "Put a text of several lines into a description, a docstring or a table.",
            )
        return line

    def _fill_names(self, text: str) -> str:
        filled, warnings = fill_names(self._job, NAME, text, self._behavior)
        self.warnings += warnings
        self._value_characters_left -= len(filled)
        if self._value_characters_left < 0:
            raise self._too_large()
        return filled

    def _write_line(self, level: int, text: str) -> None:
        line = "  " * level + text if text else ""
        self._characters_left -= len(line) + 1
        if self._characters_left < 0:
            raise self._too_large()
        self.lines.append(line)

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"{self._job.config.id}: the text would be larger than {SOURCE_LIMIT:,} characters.",
            "Use fewer or shorter values.",
            limit="content.size",
            content_config_id=self._job.config.id,
        )

    def _failed(self, message: str, hint: str) -> GenerationFailed:
        return self._job.failed(NAME, message, hint)


def _scenarios_of(rule: Rule) -> bool:
    return bool(rule.scenarios or rule.scenario_outlines)


def _lines_of(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _shown(text: str) -> str:
    """The beginning of a text, on one line."""
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
