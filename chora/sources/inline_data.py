"""Data written in the config itself: an object, or a string that is parsed as JSON when it is JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from chora.model import Source
from chora.sources.source import Reach

TYPE = "inline_data"


async def fetch(source: Source, reach: Reach) -> Any:
    """The data; a long-form locator that isn't JSON is the text it is."""
    if source.data is not None:
        return source.data
    try:
        return msgspec.json.decode(source.locator)
    except (msgspec.DecodeError, RecursionError):
        return source.locator
