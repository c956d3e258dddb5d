"""Another content: its config as data, or, with the selector `output`, the text it generates."""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.source import Reach, SourceFailed

TYPE = "content_config"


async def fetch(source: Source, reach: Reach) -> Any:
    """The config named by id or path.

    Raises:
        SourceFailed: there is no such config, it doesn't fit, or its text can't be generated.
    """
    name = source.locator
    try:
        if "/" in name or name.endswith((".json", ".yaml", ".yml")):
            found = reach.catalog.open("content", name)
        else:
            found = reach.catalog.find("content", name)
        if source.selector == "output":
            return await reach.generate(found.parsed.config.id)
        return found.parsed.raw
    except ChoraError as error:
        raise SourceFailed(error.message) from None
