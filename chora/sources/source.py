"""What a source may use, and how it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from chora.catalog import Catalog, FoundConfig
from chora.errors import Busy, ChoraError, ConfigNotFound, InvalidInput, StorageError, StorageFailed
from chora.files import Folder
from chora.llm import ModelNotAsked
from chora.model import Kind
from chora.render.pool import RenderPool
from chora.settings import Rules

SERVER_ERRORS = (Busy, StorageError, StorageFailed)
"""Failures of the server, not of a source: they end the call and never count as a missing value."""
PASSED_ON = (*SERVER_ERRORS, ModelNotAsked)
"""What a source passes on: those, and that a text behind it can't be known without asking a language model."""

NAMED = 10
"""Ids that a failure names where the one that is meant isn't there, the most similar first."""


class SourceFailed(Exception):
    """A source has no value; the message says why. The engine decides whether that matters."""


class NothingStored(SourceFailed):
    """It takes a stored text of a content of which none is stored yet."""


def name_some(ids: list[str]) -> str:
    """The end of a sentence that says that something isn't there: what there is instead."""
    shown = ", ".join([*ids[:NAMED], *(["…"] if ids[NAMED:] else [])])
    return f"; there {'is' if len(ids) == 1 else 'are'} {shown}" if ids else ""


def as_source_failure(error: ChoraError) -> SourceFailed:
    """The failure of something that a source needs, with the next step where what it names isn't there."""
    message = error.message.removesuffix(".")
    if isinstance(error, ConfigNotFound):
        message += name_some(error.details.get("existing", []))
    elif isinstance(error, InvalidInput) and error.hint:
        message += f"; {error.hint[0].lower()}{error.hint[1:].removesuffix('.')}"
    return SourceFailed(message)


async def _explain_nothing(found: FoundConfig) -> list[str]:
    return []


class SourceAccess(NamedTuple):
    """What a source may use. Everything it reads is recorded, so that a change is noticed."""

    folder: Folder
    catalog: Catalog
    pool: RenderPool
    """Runs work of unknown length in processes that can be killed."""
    generate: Callable[[FoundConfig], Awaitable[str]]
    """Generates a content and returns its text."""
    stored: Callable[[str, str], list[str]]
    """The stored texts of a content that a strategy selects, oldest first."""
    on_read: Callable[[str], None]
    """Called with every path before it is read."""
    on_other_input: Callable[[str, str], None]
    """Called with every input that isn't a file of the project, and its digest."""
    rules: Rules = "chora"
    """What a config means where the two differ."""
    warn: Callable[[str], None] = lambda warning: None
    """Called with what the author of a source should know."""
    unrepeatable: Callable[[str, Literal["record", "build"]], str | None] = lambda content_id, kind: None
    """The latest text of a content, if its config alone can't make it again: a caller gave a context for it, or a build
    made it for its own context."""
    explain: Callable[[FoundConfig], Awaitable[list[str]]] = _explain_nothing
    """Why the latest stored text of a content would change; empty if it wouldn't, or nobody knows."""

    def read_text(self, path: str) -> str:
        """A file of the project; raises what `Folder.read_text` raises."""
        self.on_read(path)
        return self.folder.read_text(path)

    def config(self, kind: Kind, name: str) -> FoundConfig:
        """The config of an id or at a path; raises what the catalog raises."""
        return self.catalog.locate_config(kind, name, self.on_read)
