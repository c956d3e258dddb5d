"""What the work needs at hand: one project with its configs, templates, store and events."""

from __future__ import annotations

from typing import Literal

import trio

from chora.catalog import Catalog
from chora.events import Events
from chora.files import Folder
from chora.generators.templates import Templates
from chora.store import SqliteStore


class Engine:
    """One project, opened.

    Args:
        folder: the project folder.
        catalog: its config files.
        templates: its templates, and the workers that render them.
        store: what it remembers.
        events: where happenings are told.
        undefined: what an undefined name in a template does, unless its config says otherwise.
    """

    def __init__(
        self,
        *,
        folder: Folder,
        catalog: Catalog,
        templates: Templates,
        store: SqliteStore,
        events: Events,
        undefined: Literal["strict", "lenient"] = "strict",
    ) -> None:
        self.folder = folder
        self.catalog = catalog
        self.templates = templates
        self.store = store
        self.events = events
        self.undefined: Literal["strict", "lenient"] = undefined
        self.everywhere = Folder(folder.root)
        """The project folder without bounds on where outputs go: configs are saved where configs are."""
        self.writing = trio.Lock()
        """Held from looking at a file to having written it, so that two calls can't pass each other's check."""
