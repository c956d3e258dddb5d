"""What a source may reach, how it fails, and what counts as plain data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from chora.catalog import Catalog, FoundConfig
from chora.errors import Busy, StorageError, StorageFailed
from chora.files import Folder
from chora.model import Kind
from chora.render.pool import RenderPool

NOT_THE_SOURCES_FAULT = (Busy, StorageError, StorageFailed)
"""Failures of the house while a source is read; they end the call and never count as a missing value."""


class SourceFailed(Exception):
    """A source has no value to give; the sentence says why. The engine decides whether that matters."""


class SourceAccess(NamedTuple):
    """The parts of the house a source may use. Whatever it reads is noted, so that a change of it is noticed."""

    folder: Folder
    catalog: Catalog
    pool: RenderPool
    """Runs what could take long in processes that can be killed."""
    generate: Callable[[FoundConfig], Awaitable[str]]
    """Generates a content and returns its text."""
    stored: Callable[[str, str], list[str]]
    """The stored texts of a content that a strategy names, oldest first."""
    on_read: Callable[[str], None]
    """Hears of every path before it is read."""
    on_other_input: Callable[[str, str], None]
    """Hears of every input that isn't a file of the project, and its digest."""

    def read_text(self, path: str) -> str:
        """A file of the project; raises what `Folder.read_text` raises."""
        self.on_read(path)
        return self.folder.read_text(path)

    def config(self, kind: Kind, name: str) -> FoundConfig:
        """The config that an id or a path names; raises what the catalog raises."""
        if "/" in name or name.endswith((".json", ".yaml", ".yml")):
            return self.catalog.open(kind, name, self.on_read)
        return self.catalog.find(kind, name, self.on_read)
