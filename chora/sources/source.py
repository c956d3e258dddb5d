"""What a source may reach, and how it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from chora.catalog import Catalog
from chora.files import Folder


class SourceFailed(Exception):
    """A source has no value to give; the sentence says why. The engine decides whether that matters."""


class Reach(NamedTuple):
    """The parts of the house a source may use."""

    folder: Folder
    catalog: Catalog
    generate: Callable[[str], Awaitable[str]]
    """Generates a content by id and returns its text."""
