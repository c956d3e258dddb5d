"""The text of a file or of a content as data, by its extension or output format; what several sources do."""

from __future__ import annotations

from typing import Any

from chora.catalog import FoundConfig
from chora.errors import InvalidContext, LimitExceeded
from chora.model import Source
from chora.nesting import has_too_many_values
from chora.render import ParseJob, RenderFailed
from chora.render.parsing import NotData, language_of, parse_file
from chora.sources.source import SourceAccess, SourceFailed

INLINE_LENGTH = 8 * 1024
INLINE_VALUES = 10_000
"""Files up to this length, and JSON with up to so many values, are parsed in this process; others in a worker."""

WHOLE = ("", "whole_content", "output")
"""Selectors that take all of a text."""


async def parse_text(path: str, text: str, access: SourceAccess, delimiter: str = "") -> Any:
    """The data of a file, or its text if its extension is none of a data file.

    Raises:
        SourceFailed: it isn't what its extension says, or holds too much.
    """
    language = language_of(path)
    if language is None:
        return text
    is_quick = len(text) <= INLINE_LENGTH or (
        language == "json" and not has_too_many_values(text.encode(), INLINE_VALUES)
    )
    job = ParseJob(text, path, delimiter, old_yaml=access.rules == "chora-compose")
    try:
        parsed = parse_file(job) if is_quick else await access.pool.parse_text(job)
    except NotData as error:
        raise SourceFailed(str(error)) from None
    except RenderFailed as failure:
        raise SourceFailed(failure.reason.message.removesuffix(".")) from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    if parsed.warning:
        access.warn(parsed.warning)
    return parsed.value


async def parse_content_text(text: str, found: FoundConfig | None, source: Source, access: SourceAccess) -> Any:
    """The data of a content's text, if its config says that it is JSON or YAML; else, and for a part of it, the text.

    By the rules of chora-compose it is text, but for a JSONPath into YAML, which had failed.

    Raises:
        SourceFailed: it isn't of that format, or holds too much.
    """
    language = found.parsed.config.metadata.output_format if found else None
    is_path = source.selector.startswith("$")
    if language not in ("json", "yaml") or (source.selector not in WHOLE and not is_path):
        return text
    if access.rules == "chora-compose" and not (is_path and language == "yaml"):
        return text
    assert found is not None
    content_id = found.parsed.config.id
    name = f"{content_id}.{language}"
    try:
        return await parse_text(name, text, access)
    except SourceFailed as failed:
        problem = str(failed).replace(name, "it", 1)
        raise SourceFailed(f"the text of {content_id} can't be read as {language.upper()}: {problem}") from None
