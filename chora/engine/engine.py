"""The engine: one opened project, with everything that building its configs needs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import cast

import trio

from chora import llm
from chora.catalog import CONFIG_SEARCH, Catalog
from chora.engine import retrieval
from chora.engine.budget import Budgets
from chora.engine.file_digests import ABSENT, FileDigests
from chora.engine.inputs import GENERATOR, GIT, STORED, UNFINISHED, WRITTEN, DigestSnapshot
from chora.engine.traces import Traces
from chora.errors import ChoraError
from chora.events import Events
from chora.files import Folder, open_project_folder
from chora.generators import GENERATORS
from chora.generators.plugins import load_composers
from chora.generators.registry import GeneratorRegistry
from chora.generators.templates import ALL_TEMPLATES, Templates
from chora.hashing import digest_of
from chora.jobs import Jobs
from chora.locks import FileLocks, NamedLocks
from chora.model import Kind
from chora.project import locate
from chora.render.pool import RenderPool
from chora.settings import Settings, StorageSettings
from chora.sources import git_reference
from chora.store import open_store
from chora.store.reading import is_writable, reading_store
from chora.store.store import Store
from chora.supervision import Supervisor


class ResourceChanges:
    """Passes the URIs of resources that have changed to those who subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[str], None]] = []

    def subscribe(self, subscriber: Callable[[str], None]) -> None:
        """Call a function, which mustn't wait, with the URI of each resource that changes from now on."""
        self._subscribers.append(subscriber)

    def publish(self, uri: str) -> None:
        for subscriber in self._subscribers:
            subscriber(uri)


class Engine:
    """One project, opened.

    Args:
        folder: the project folder.
        catalog: its config files.
        templates: its templates, and the workers that render them.
        store: its versions, outputs, traces and jobs.
        events: the event log.
        settings: its settings.
        supervisor: keeps services running that the process can do without.

    Raises:
        UsageError: a plugin that the settings name can't be loaded.
    """

    def __init__(
        self,
        *,
        folder: Folder,
        catalog: Catalog,
        templates: Templates,
        store: Store,
        events: Events,
        settings: Settings,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.folder = folder
        self.catalog = catalog
        self.templates = templates
        self.store = store
        self.events = events
        self.settings = settings
        self.project_folder = open_project_folder(folder.root, settings, for_configs=True)
        """The project folder without the restriction to output folders: configs are saved where configs are."""
        self.generators = GeneratorRegistry(GENERATORS, settings.plugins.generators, folder)
        self.composers: Mapping[str, ModuleType] = load_composers(settings.plugins.composers, folder)
        self.file_digests = FileDigests(folder)
        self.traces = Traces(store, self.file_digests)
        self.supervisor = supervisor or Supervisor()
        self.jobs = Jobs(store, settings.jobs, self.supervisor)
        self.budgets = Budgets(store, llm.Anthropic(settings.llm), settings.llm)
        self._unrepeatable = retrieval.UnrepeatableTexts(store)
        self.changes = ResourceChanges()
        self.write_locks = NamedLocks()
        """Held by path from reading a file to having written it, so that two calls can't pass each other's check."""
        self.process_locks = FileLocks(folder.root / ".chora" / "locks" if store.path else None)
        """The same between processes."""

    def new_snapshot(self) -> DigestSnapshot:
        """The digests of one build's inputs."""
        return DigestSnapshot(
            self.file_digests.digest_file,
            {
                CONFIG_SEARCH: lambda kind: self.catalog.digest(cast(Kind, kind)),
                ALL_TEMPLATES: lambda _: self.templates.digest_all_templates(),
                GENERATOR: self.generators.digest,
                STORED: lambda name: self.digest_stored_texts(*name.split(":", 1)),
                UNFINISHED: lambda _: ABSENT,
                WRITTEN: lambda path: known.written_at if (known := self.store.output(path)) else ABSENT,
            },
            {GIT: lambda name: git_reference.identify(self.folder, name)},
        )

    def digest_stored_texts(self, content_id: str, strategy: str) -> str:
        """A hash of which versions a retrieval strategy selects, or which one can't be made again."""
        if strategy in retrieval.UNREPEATABLE:
            return self._unrepeatable.find_id(content_id, strategy)
        try:
            return digest_of(retrieval.find_version_ids(self.store, content_id, strategy))
        except ChoraError as error:
            return error.code


@asynccontextmanager
async def open_engine(project: Path, settings: Settings, *, reading: bool = False) -> AsyncGenerator[Engine]:
    """A project with its store open, its template workers ready to be started, and its background services running.

    Args:
        project: its folder.
        settings: its settings.
        reading: nothing will be generated or stored: then a project that can't be written is opened all the same.

    Raises:
        StorageError: the store can't be used.
        UsageError: a plugin that the settings name can't be loaded.
    """
    folder = open_project_folder(project, settings)
    opened = reading_store if reading else _open_to_write
    with opened(project, settings.storage) as store:
        events = locate(project, settings.paths.events)
        async with trio.open_nursery() as services:
            pool, supervisor = RenderPool(settings.render), Supervisor()
            await services.start(pool.serve)
            engine = Engine(
                folder=folder,
                catalog=Catalog(folder, settings.paths.configs, old_yaml=settings.configs.old_yaml),
                templates=Templates(folder, settings.paths.templates, pool),
                store=store,
                events=Events(None if reading and not is_writable(events) else events),
                settings=settings,
                supervisor=supervisor,
            )
            await services.start(supervisor.keep_running, "memory of builds", engine.traces.serve)
            await services.start(engine.jobs.serve)
            await services.start(supervisor.keep_running, "store of events", partial(engine.events.serve, store))
            yield engine
            services.cancel_scope.cancel()


def _open_to_write(project: Path, settings: StorageSettings) -> AbstractContextManager[Store]:
    return contextlib.closing(open_store(project, settings))
