"""Another content: its config as data, or, with the selector `output`, the text it generates."""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.source import SERVER_ERRORS, SourceAccess, SourceFailed

TYPE = "content_config"

OUTPUT = "output"
SELECTORS = (OUTPUT,)


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The config named by id or path.

    Raises:
        SourceFailed: there is no such config, it doesn't fit, or its text can't be generated.
    """
    try:
        found = access.config("content", source.locator)
        if source.selector == OUTPUT:
            return await access.generate(found)
        return found.parsed.raw
    except SERVER_ERRORS:
        raise
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
