"""An artifact's config as data."""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.source import SERVER_ERRORS, SourceAccess, as_source_failure

TYPE = "artifact_config"
DESCRIPTION = "The config of an artifact, as data."
LOCATOR = "The id of an artifact config, or its path."


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The config named by id or path.

    Raises:
        SourceFailed: there is no such config, or it doesn't fit.
    """
    try:
        return access.config("artifact", source.locator).parsed.raw
    except SERVER_ERRORS:
        raise
    except ChoraError as error:
        raise as_source_failure(error) from None
