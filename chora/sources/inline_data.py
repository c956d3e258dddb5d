"""Data written in the config itself: an object, or a string that was parsed as JSON when it is JSON."""

from __future__ import annotations

from typing import Any

from chora.model import Source
from chora.sources.source import SourceAccess

TYPE = "inline_data"
DESCRIPTION = "A value that stands in the config itself."
LOCATOR = "The value as JSON; what isn't JSON is text. The short spelling has it as data, of any type."


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The data, as the config was parsed."""
    return source.data
