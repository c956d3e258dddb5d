"""What the work needs at hand: one project, opened, and what one call of it carries along."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from chora import llm, settings
from chora.catalog import Catalog
from chora.engine import retrieval
from chora.engine.budget import Budgets
from chora.engine.inputs import DigestSnapshot, FileDigests, InputRecorder, Traces
from chora.errors import ChoraError
from chora.events import Events
from chora.files import Folder
from chora.generators import GeneratorRegistry, load_composers
from chora.generators import digest_of as source_digest
from chora.generators.templates import Templates
from chora.hashing import digest_of
from chora.jobs import Jobs
from chora.locks import FileLocks, NamedLocks
from chora.protocol.types import Progress
from chora.store.store import Store

log = logging.getLogger("chora.engine")


class Engine:
    """One project, opened.

    Args:
        folder: the project folder.
        catalog: its config files.
        templates: its templates, and the workers that render them.
        store: what it remembers.
        events: where happenings are told.
        settings: how it is to behave.
    """

    def __init__(
        self,
        *,
        folder: Folder,
        catalog: Catalog,
        templates: Templates,
        store: Store,
        events: Events,
        settings: settings.Settings,
    ) -> None:
        self.folder = folder
        self.catalog = catalog
        self.templates = templates
        self.store = store
        self.events = events
        self.settings = settings
        self.digests = FileDigests(folder)
        self.traces = Traces(store, self.digests)
        self.jobs = Jobs(store, settings.jobs)
        self.project_folder = Folder(folder.root)
        """The project folder without bounds on where outputs go: configs are saved where configs are."""
        self.generators = GeneratorRegistry(settings.plugins.generators, folder)
        self.composers: Mapping[str, ModuleType] = load_composers(settings.plugins.composers, folder)
        self._salt: tuple[settings.Settings, str, str] | None = None
        self.spending = Budgets(store, llm.Anthropic(settings.llm), settings.llm)
        self.write_locks = NamedLocks()
        """Held by path from looking at a file to having written it, so that two calls can't pass each other's check."""
        self.process_locks = FileLocks(folder.root / ".chora" / "locks" if store.path else None)
        """The same among processes."""
        self.changed: Callable[[str], None] | None = None
        """Told the URI of a resource that changed."""

    @property
    def salt(self) -> str:
        """What besides its inputs decides what a piece of work comes to."""
        settings, root = self.settings, self.catalog.root
        if self._salt is None or self._salt[0] is not settings or self._salt[1] != root:
            templates, outputs = settings.templates.undefined, settings.output.on_edit
            composers = [source_digest(composer) for composer in self.composers.values()]
            parts = (templates, settings.paths.templates, root, settings.llm.model, composers, outputs)
            self._salt = settings, root, digest_of(parts)
        return self._salt[2]

    def tell_changed(self, uri: str) -> None:
        """Say that a resource isn't what it was."""
        if self.changed is not None:
            self.changed(uri)

    def generator_digest(self, name: str) -> str:
        """What tells one version of a generator from another."""
        generator = self.generators.by_name.get(name)
        return (
            f"{generator.NAME} {generator.VERSION} {GeneratorRegistry.digest_of(generator)}" if generator else "unknown"
        )

    def stored_texts(self, content_id: str, strategy: str) -> list[str]:
        """The stored texts of a content that a retrieval strategy names, oldest first."""
        return [version.body for version in retrieval.find_versions(self.store, content_id, strategy)]

    def stored_digest(self, content_id: str, strategy: str) -> str:
        """A hash of which versions a retrieval strategy names."""
        try:
            return digest_of(retrieval.find_version_ids(self.store, content_id, strategy))
        except ChoraError as error:
            return error.code


class SourceText(NamedTuple):
    """A text that another one takes as source, and what it was made from."""

    body: str
    inputs: dict[str, str]
    settled: bool
    depth: int


class Build:
    """One call's work: what all of its parts share.

    Args:
        engine: the project.
        force: make every text again, changed or not.
        dry: make everything in memory and keep nothing.
        spend: ask language models, within the budgets; otherwise only what they answered before is used.
        progress: told how far it is.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        force: bool = False,
        dry: bool = False,
        spend: bool | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.engine = engine
        self.force = force
        self.dry = dry
        self.spend = not dry if spend is None else spend
        self.progress = progress
        self.salt = engine.salt
        self.snapshot = DigestSnapshot(engine)
        self.budget = engine.spending.budget()
        self.texts: dict[tuple[str, bool, str], SourceText | ChoraError] = {}
        """Texts that other texts took as sources, and what they were made from, by the config's path and `force`: many
        may want the same one, and each would otherwise go all the way down for it. Where a circle or the greatest
        depth cut the way down short, it depends on where it began, which is the third part of the key."""
        self.cuts: list[str] = []
        """The contents at which the way down was cut short."""
        self.made: set[str] = set()
        """Fingerprints of the texts that were made; force makes each of them again, but not twice."""

    def derive(self, *, force: bool) -> Build:
        """A part of this work that tells nobody how far it is; what was looked at and made is shared."""
        inner = copy.copy(self)
        inner.force, inner.progress = self.force or force, None
        return inner

    def model_for(self, content_id: str) -> Callable[[llm.Request], Awaitable[llm.Reply]]:
        """What a content asks a language model through."""
        if self.spend:
            return partial(self.budget.complete, content_id, fresh=self.force)
        return self.budget.recall

    def new_recorder(self) -> InputRecorder:
        """A recorder for one piece of this work."""
        return InputRecorder(self.snapshot.digest, self.engine.folder.root)


class CallerContext:
    """Context from whoever asks.

    Args:
        context: it wins over everything in a config.
        reserved: names that a text may use if nothing else goes by them: what it is made for.
        digest: a hash of both, if one is known already.
    """

    __slots__ = ("_digest", "context", "reserved")

    def __init__(
        self, context: dict[str, Any], reserved: dict[str, str] | None = None, digest: str | None = None
    ) -> None:
        self.context = context
        self.reserved = reserved or {}
        self._digest = digest

    @property
    def digest(self) -> str:
        if self._digest is None:
            self._digest = digest_of([self.context, self.reserved])
        return self._digest

    def with_reserved(self, **reserved: str) -> CallerContext:
        """The same for something inside; outer names stay."""
        return CallerContext(self.context, {**self.reserved, **reserved}, digest_of([self.digest, reserved]))

    @property
    def all_names(self) -> dict[str, Any]:
        """Names and context together, for expressions."""
        return {**self.reserved, **self.context}
