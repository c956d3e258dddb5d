"""The text of another content: `content-id` for the one it has now, or `content-id:strategy` for stored ones.

Without a strategy, or with `latest`, it is the text that the content's config makes now: it is made first if nothing is
stored or the stored text would change. Two texts can't be made so, and are read as they are stored: a record, that is
one for which a caller gave a context, and the latest one of a content that can't be made without an artifact's or a
collection's context. By the rules of chora-compose it is always the latest stored text, with a warning if that would
change. A content without a config has only what is stored.

The other strategies are about history: `all` (a list, oldest first), `version:X.Y.Z` of the config, `timestamp:PREFIX`
and `approved_only`.
"""

from __future__ import annotations

from typing import Any

from chora.catalog import FoundConfig
from chora.errors import ChoraError, ConfigNotFound, GenerationFailed, InvalidConfigId
from chora.model import Source
from chora.sources.data_files import parse_content_text
from chora.sources.source import (
    PASSED_ON,
    SERVER_ERRORS,
    NothingStored,
    SourceAccess,
    SourceFailed,
    as_source_failure,
    name_some,
)

TYPE = "ephemeral_output"
DESCRIPTION = (
    "The text that another content has now, or texts that were stored earlier; data, if the content's output format is "
    "json or yaml."
)
LOCATOR = (
    "The id of a content for the text it has now, or id:strategy with a retrieval strategy for stored ones, such as "
    "notes:all or notes:version:1.2.0."
)
LIMITS = "10,000 texts with all"

LATEST = "latest"
LACKS_CONTEXT = ("MissingVariable", "UndefinedError", "WrongType")
"""Failures of a content that is made for the context of others."""


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The text, or for `all` a list of texts; as data if the content's output format is JSON or YAML.

    Raises:
        SourceFailed: nothing of the kind is stored, it names no content or no strategy, the text can't be made, or it
            isn't of its format.
    """
    content_id, _, strategy = source.locator.partition(":")
    strategy = strategy or LATEST
    if not content_id:
        raise SourceFailed("it names no content; write content-id or content-id:strategy")
    try:
        found = _find_config(content_id, access)
        if strategy == LATEST and found is not None:
            if access.rules == "chora-compose":
                texts = await _take_stored(found, access)
            else:
                texts = [await _make_current(found, access)]
        else:
            texts = access.stored(content_id, strategy)
    except PASSED_ON:
        raise
    except ChoraError as error:
        raise as_source_failure(error) from None
    if not texts:
        if found is None and not access.stored(content_id, LATEST):
            raise SourceFailed(_describe_unknown(content_id, access))
        raise NothingStored(f"nothing is stored of {content_id} that is {strategy}")
    values = [await parse_content_text(text, found, source, access) for text in texts]
    return values if strategy == "all" else values[-1]


def _find_config(content_id: str, access: SourceAccess) -> FoundConfig | None:
    """The content's config, if there is one."""
    try:
        return access.catalog.find_config("content", content_id, access.on_read)
    except (ConfigNotFound, InvalidConfigId):
        return None
    except SERVER_ERRORS:
        raise
    except ChoraError:
        if access.rules == "chora-compose":  # it took no notice of the config
            return None
        raise


def _describe_unknown(content_id: str, access: SourceAccess) -> str:
    """That there is neither a config nor a text of a content, and what there is."""
    known = name_some(access.catalog.list_alike(content_id, "content"))
    return f"there is no content {content_id!r}, and no text is stored of it{known}"


async def _make_current(found: FoundConfig, access: SourceAccess) -> str:
    """The text that a content has now."""
    content_id = found.parsed.config.id
    if (record := access.unrepeatable(content_id, "record")) is not None:
        return record
    try:
        return await access.generate(found)
    except GenerationFailed as error:
        if error.details.get("error_type") not in LACKS_CONTEXT or error.details.get("content_config_id") != content_id:
            raise
        if (stored := access.unrepeatable(content_id, "build")) is None:
            raise
        needs = "the context of an artifact or a collection"
        access.warn(f"{content_id} can't be made without {needs}, so its latest stored text was taken")
        return stored


async def _take_stored(found: FoundConfig, access: SourceAccess) -> list[str]:
    """The latest stored text, with a warning if the content would change."""
    content_id = found.parsed.config.id
    texts = access.stored(content_id, LATEST)
    if texts and (reasons := await access.explain(found)):
        remedy = 'generate it first, or write rules = "chora" under [configs] of chora.toml to have that done'
        access.warn(f"the stored text of {content_id} is out of date, because {reasons[0]}; {remedy}")
    return texts
