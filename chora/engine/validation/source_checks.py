"""Checks that a content can be generated: its generator and its template, and that its sources have values.

Each source is read as a build reads it, and what it gives is thrown away. The text of another content is only generated
where a source takes a part of it or reads it as data; else its own inputs are checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from chora.catalog import FoundConfig
from chora.config_parsing import ParsedConfig
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import gather_content
from chora.engine.building.context import NOTHING_STORED, declared_files, gather_shared_context
from chora.engine.building.members import shared_source_access
from chora.engine.validation.generator_checks import check_generator
from chora.engine.validation.rules import RuleFinding
from chora.errors import ChoraError
from chora.llm import ModelNotAsked
from chora.model import ContentConfig, Source, Sources
from chora.sources import content_config, ephemeral_output
from chora.sources.data_files import WHOLE
from chora.sources.source import SERVER_ERRORS


class ContentChecks:
    """The checks of contents in one validation. A content that is needed in several places is checked once."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._known: dict[str, list[RuleFinding]] = {}
        """By where their configs are; an empty list while one is being checked."""

    async def check_content(self, parsed: ParsedConfig) -> list[RuleFinding]:
        """Find why a content can't be generated, as far as that is known without a caller's context.

        Raises:
            Busy, StorageError: the server is at fault.
        """
        if (known := self._known.get(parsed.origin)) is not None:
            return known
        self._known[parsed.origin] = []
        config: ContentConfig = parsed.config
        findings = await check_generator(self._build.engine, config)
        for place, source in _list_sources(config):
            findings += await self.check_source(config.id, source, place)
        self._known[parsed.origin] = findings
        return findings

    async def check_source(self, name: str, source: Source, place: str | None = None) -> list[RuleFinding]:
        """Find why a source has no value, and what its author should know; raises as `check_content`.

        Args:
            name: whose it is, as errors of sources begin with it.
            source: the source.
            place: where it stands in the config.
        """
        findings = await self._check_text_behind(source, place)
        if any(finding.severity is None for finding in findings):
            return findings  # reading it would fail for the same reason
        access = shared_source_access(self._build, self._build.new_recorder())
        if source.selector in WHOLE:
            access = access._replace(generate=self._gather_text)
        try:
            _, warnings = await gather_shared_context(name, Sources(sources=(source,)), access)
        except SERVER_ERRORS:
            raise
        except ModelNotAsked:
            return findings  # what a language model will say is known to nobody
        except ChoraError as error:
            message = error.message.removeprefix(f"{name}: ").removesuffix(".")
            severity = "warning" if error.details.get("error_type") == NOTHING_STORED else None
            return [*findings, RuleFinding("source_failed", message, place, severity=severity)]
        return [*findings, *(RuleFinding("source_failed", each, place, severity="warning") for each in warnings)]

    async def _check_text_behind(self, source: Source, place: str | None) -> list[RuleFinding]:
        """Check the content whose text a source takes; whether there is one is found when the source is read."""
        locator = source.locator
        if source.type == ephemeral_output.TYPE and self._build.engine.settings.configs.rules == "chora":
            locator, _, strategy = locator.partition(":")
            if strategy not in ("", ephemeral_output.LATEST):
                return []
        elif source.type != content_config.TYPE or source.selector != content_config.OUTPUT:
            return []
        try:
            found = self._build.engine.catalog.locate_config("content", locator)
        except SERVER_ERRORS:
            raise
        except ChoraError:
            return []
        return [
            finding._replace(
                message=f"the source {locator}: {finding.message}",
                location=place,
                severity="warning" if not source.required or finding.severity == "warning" else None,
            )
            for finding in await self.check_content(found.parsed)
            if finding.code != "invalid_generator"  # reading it says so
        ]

    async def _gather_text(self, other: FoundConfig) -> str:
        """Gather what a text is made from, and generate it if it is data."""
        inputs = await gather_content(self._build, other.parsed, CallerContext({}))
        is_data = other.parsed.config.metadata.output_format in ("json", "yaml")
        return (await inputs.generate_text()).text if is_data else ""


def _list_sources(config: ContentConfig) -> Iterator[tuple[str, Source]]:
    """The sources of a content, and where they stand."""
    for source in declared_files(config):
        yield f"generation.patterns[0].generation_config.context.{source.id}", source
    for index, source in enumerate(config.inputs.sources):
        yield f"inputs.sources[{index}]", source
