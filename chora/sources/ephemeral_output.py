"""Texts that were stored earlier: `content-id` for the latest, or `content-id:strategy`.

The strategies are `latest`, `all` (a list, oldest first), `version:X.Y.Z` of the config, `timestamp:PREFIX` and
`approved_only`.
"""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.source import SERVER_ERRORS, SourceAccess, SourceFailed

TYPE = "ephemeral_output"


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The stored text, or for `all` a list of texts.

    Raises:
        SourceFailed: nothing of the kind is stored, or it names no content or no strategy.
    """
    content_id, _, strategy = source.locator.partition(":")
    strategy = strategy or "latest"
    if not content_id:
        raise SourceFailed("it names no content; write content-id or content-id:strategy")
    try:
        texts = access.stored(content_id, strategy)
    except SERVER_ERRORS:
        raise
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    if not texts:
        raise SourceFailed(f"nothing is stored of {content_id} that is {strategy}")
    return texts if strategy == "all" else texts[-1]
