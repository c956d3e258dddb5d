"""Validation rules: what a rule requires, what it is applied to, and the texts that it checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

import msgspec
import trio

from chora.config_parsing import ParsedConfig
from chora.engine.building.build import Build
from chora.engine.engine import Engine
from chora.errors import ChoraError, ValidationExecutionFailed
from chora.model import ArtifactConfig, ContentConfig, Severity
from chora.render.text_parts import PartNotFound
from chora.sources.selectors import select_text
from chora.store import Version

T = TypeVar("T")

INLINE_LENGTH = 64 * 1024
"""Texts up to this length are searched on the event loop; longer ones in a thread."""

GENERATED_TARGETS = ("", "generated_output", "output", "content", "outputs", "content.children")
"""Targets that mean the text itself, for checks of text; of an artifact, its files."""
CONFIG_TARGET = "config"
"""The target that means the config."""
TARGETS = {
    "generated_output": "the newest stored text of a content, or the files of an artifact; so do output, outputs and "
    "content",
    "element.NAME": "the Markdown section of this name in the text, whatever its level; else the element's "
    "example_output",
    CONFIG_TARGET: "the config, as JSON",
    "file:PATH": "a file of the project; so does a path alone",
}
"""What a rule may look at, by the form of its target."""


class ValidationRule(NamedTuple):
    """One thing to check."""

    type: str
    target: str = ""
    config: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    severity: Severity = "error"


class RuleFinding(NamedTuple):
    """Something that a rule finds wrong."""

    code: str
    message: str
    location: str | None = None
    details: dict[str, Any] = {}  # noqa: RUF012
    severity: Severity | None = None
    """None for the severity of the rule."""


class MalformedRule(Exception):
    """A rule that can't be understood; the message says why."""


class TargetMissing(Exception):
    """A rule whose target doesn't exist; the message says why."""


class ContentNotGenerated(Exception):
    """A rule about a text of which no version is stored yet."""


class CheckedText(NamedTuple):
    """A text that is checked."""

    text: str
    name: str
    """How findings name it; empty for the text that is validated."""
    format: str | None
    folder: str = "."
    """The folder that relative links in it start from."""

    def location(self, line: int | None = None, path: str | None = None) -> str | None:
        """A place in it, in words; None for the whole of the text that is validated."""
        return ", ".join(filter(None, [self.name, path, f"line {line}" if line else None])) or None


class ValidationSubject(NamedTuple):
    """What is validated: a text, its config, or both."""

    build: Build
    name: str
    version: Version | None
    parsed: ParsedConfig | None

    @property
    def engine(self) -> Engine:
        return self.build.engine

    @property
    def config(self) -> Any:
        return self.parsed.config if self.parsed else None


class RuleContext(NamedTuple):
    """One rule, applied to one subject."""

    subject: ValidationSubject
    rule: ValidationRule

    async def find_texts(self) -> list[CheckedText]:
        """The texts that the rule is about.

        Raises:
            ContentNotGenerated, TargetMissing: there is none.
        """
        target = self.rule.target
        if target in GENERATED_TARGETS:
            return self._generated_texts()
        if target == CONFIG_TARGET:
            return [self.config_text()]
        if target.startswith("element."):
            return [await self._element_text(target)]
        return [read_checked_file(self.subject.engine, target.removeprefix("file:"))]

    def config_text(self) -> CheckedText:
        """The config as data.

        Raises:
            TargetMissing: there is none.
        """
        if self.subject.parsed is None:
            raise TargetMissing(f"{self.subject.name} has no config")
        return CheckedText(msgspec.json.encode(self.subject.parsed.raw).decode(), CONFIG_TARGET, "json")

    def _generated_texts(self) -> list[CheckedText]:
        subject = self.subject
        if subject.version is not None:
            declared = subject.config.metadata.output_format if isinstance(subject.config, ContentConfig) else None
            return [CheckedText(subject.version.body, "", declared)]
        found: list[CheckedText] = []
        if isinstance(subject.config, ArtifactConfig):
            for output in subject.config.metadata.outputs:
                is_exact = output.format == "code" and output.language_dialect
                try:
                    piece = read_checked_file(subject.engine, output.file)
                except TargetMissing:
                    continue
                found.append(piece._replace(format=output.language_dialect if is_exact else output.format))
        if not found:
            raise ContentNotGenerated(f"{self.rule.type} is about the text, and {subject.name} wasn't generated yet")
        return found

    async def _element_text(self, target: str) -> CheckedText:
        subject, name = self.subject, target.removeprefix("element.")
        elements = subject.config.elements if isinstance(subject.config, ContentConfig) else ()
        element = next((element for element in elements if element.name == name), None)
        form = (element.output_format or element.format) if element else None
        if subject.version is not None:
            section = await _find_section(subject.engine, subject.version.body, name)
            if section is not None:
                return CheckedText(section, target, form)
        if element is not None and element.example_output is not None:
            return CheckedText(element.example_output, target, form)
        if element is not None and subject.version is None:
            raise ContentNotGenerated(f"{self.rule.type} is about {target}, and {subject.name} wasn't generated yet")
        raise TargetMissing(f"there is no {target}: no section of this name in the text, and no example of the element")

    def option(self, *names: str) -> Any:
        """The value of an option under the first of its names that is given."""
        return next((value for name in names if (value := self.rule.config.get(name)) is not None), None)


def read_checked_file(engine: Engine, path: str) -> CheckedText:
    try:
        text = engine.folder.read_text(path)
        folder = str(PurePosixPath(engine.folder.relative(path)).parent)
    except FileNotFoundError:
        raise TargetMissing(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise TargetMissing(f"{path} is not UTF-8 text") from None
    except ChoraError as error:
        raise TargetMissing(error.message.removesuffix(".")) from None
    return CheckedText(text, path, PurePosixPath(path).suffix.removeprefix(".").lower() or None, folder)


async def _find_section(engine: Engine, text: str, name: str) -> str | None:
    """The Markdown section under a heading of this name, whatever its level; hyphens may be blanks."""
    titles = dict.fromkeys((name, re.sub("[-_]", " ", name)))
    headings = tuple(f"{'#' * level} {title} > body" for title in titles for level in range(1, 7))
    try:
        return (await select_text(text, headings, engine.templates.pool)).text
    except PartNotFound:
        return None


async def run_in_thread_if_long(length: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, in a thread if the text is long."""
    if length <= INLINE_LENGTH:
        return function(*arguments)
    return await trio.to_thread.run_sync(function, *arguments)


def cannot_run(rule: ValidationRule, problem: str) -> ValidationExecutionFailed:
    """The error for a rule that couldn't be checked at all."""
    return ValidationExecutionFailed(
        f"The rule {rule.type} couldn't be checked: {problem.removesuffix('.')}.",
        "Make the rule simpler, or leave it out.",
        rule_type=rule.type,
        error=problem,
    )
