"""A file of the project, parsed by its extension: json, yaml, toml and csv become data, the rest is text."""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError, InvalidContext, LimitExceeded
from chora.model import Source
from chora.nesting import has_too_many_values
from chora.render import ParseJob, RenderFailed
from chora.render.parsing import NotData, language_of, parse_data
from chora.sources.source import SourceAccess, SourceFailed

TYPE = "external_file"

INLINE_LENGTH = 8 * 1024
INLINE_VALUES = 10_000
"""Files up to this length, and JSON with up to so many values, are parsed in this process; others in a worker."""


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The file's content.

    Raises:
        SourceFailed: it is missing, outside the project, too large, not UTF-8 or not what its extension says.
    """
    path = source.locator
    try:
        text = access.read_text(path)
    except FileNotFoundError:
        raise SourceFailed(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise SourceFailed(f"{path} is not UTF-8 text") from None
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    return await _parse(path, text, access)


async def _parse(path: str, text: str, access: SourceAccess) -> Any:
    language = language_of(path)
    if language is None:
        return text
    is_quick = len(text) <= INLINE_LENGTH or (
        language == "json" and not has_too_many_values(text.encode(), INLINE_VALUES)
    )
    try:
        if is_quick:
            return parse_data(path, text)
        return (await access.pool.parse_text(ParseJob(text, path))).value
    except NotData as error:
        raise SourceFailed(str(error)) from None
    except RenderFailed as failure:
        raise SourceFailed(failure.reason.message.removesuffix(".")) from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
