"""The text of a file as data, by its extension; what several sources do with what they read."""

from __future__ import annotations

from typing import Any

from chora.errors import InvalidContext, LimitExceeded
from chora.nesting import has_too_many_values
from chora.render import ParseJob, RenderFailed
from chora.render.parsing import NotData, language_of, parse_file
from chora.sources.source import SourceAccess, SourceFailed

INLINE_LENGTH = 8 * 1024
INLINE_VALUES = 10_000
"""Files up to this length, and JSON with up to so many values, are parsed in this process; others in a worker."""


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
