"""The file watcher, on real files."""

import logging
import shutil
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora.access import LOCAL
from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol.broadcast import LIST_CHANGES, RESOURCE_UPDATED, ChangeNotification
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.provider import project_server
from chora.tools import TOOLS
from chora.watch import files
from tests.conftest import Project, text
from tests.documents import collection
from tests.patience import PATIENCE

LIST = "notifications/resources/list_changed"


@pytest.fixture
def short_delays(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Short delays before and between scans; the event is set after the first scan."""
    monkeypatch.setattr(files, "START_DELAY", 0.0)
    monkeypatch.setattr(files, "REPORT_MILLISECONDS", 50)
    monkeypatch.setattr(files, "SCAN_INTERVAL", 0.1)
    looking, wait = threading.Event(), files.FileWatcher.wait_for_change

    def begin(self: files.FileWatcher, places: files.WatchedPaths, known: files.Files) -> files.Files:
        looking.set()
        return wait(self, places, known)

    monkeypatch.setattr(files.FileWatcher, "wait_for_change", begin)
    return looking


class Watched:
    """A watched project, and a subscriber to all its resources."""

    def __init__(self, engine: Engine, server: McpServer) -> None:
        self.engine, self.server = engine, server
        self.session = Session("memory", LOCAL)
        self.session.notifications.subscribed[LIST_CHANGES["resources"]] = ""
        server.broadcaster.subscribe(self.session.notifications)

    def subscribe(self, *uris: str) -> None:
        for uri in uris:
            self.session.notifications.subscribed[ChangeNotification(RESOURCE_UPDATED, uri)] = uri

    async def wait_change(self) -> str:
        """The URI of the next resource that changed, or the method for a changed list."""
        with trio.fail_after(PATIENCE):
            message: dict[str, Any] = msgspec.json.decode(await self.session.notifications.wait_next())
        return message["params"].get("uri") or message["method"]

    async def wait_changes(self, wanted: set[str]) -> None:
        """Wait until all of these were notified; a change seen by two scans may be notified twice."""
        while wanted:
            wanted = wanted - {await self.wait_change()}


def replace(project: Project, path: str, body: str | bytes) -> None:
    """Replace a file in one step: writing into it would take two, and the watch may see both."""
    project.write("../new", body).rename(project.root / path)


def replace_config(project: Project, document: dict[str, Any]) -> None:
    replace(project, f"configs/{document['type']}/{document['id']}.json", msgspec.json.encode(document))


@asynccontextmanager
async def watching(engine: Engine, looking: threading.Event) -> AsyncGenerator[Watched]:
    server = project_server(engine, TOOLS, Metrics())
    watched = Watched(engine, server)
    async with trio.open_nursery() as nursery:
        await nursery.start(files.ProjectWatcher(engine, server).serve)
        server.first_request_answered.set()
        await _until(looking.is_set)
        yield watched
        nursery.cancel_scope.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


async def test_created_changed_and_deleted_configs_are_published(
    short_delays: threading.Event, project: Project, engine: Engine
):
    """Subscribers to the resource are notified, and on creation or deletion also those to the list."""
    project.save(text("note", "one"))
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note", "config://content/other")
        replace_config(project, text("note", "two"))
        assert await watched.wait_change() == "config://content/note"
        project.save(text("other", "x"))
        await watched.wait_changes({"config://content/other", LIST})
        (project.root / "configs/content/note.json").unlink()
        await watched.wait_changes({"config://content/note", LIST})


async def test_folders_may_appear_later(short_delays: threading.Event, project: Project, engine: Engine):
    """An empty project has none of the watched folders; each is watched once it exists, also when a whole tree is moved
    in.
    """
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/deep", "template://parts%2Fa.j2", "config://collection/pack")
        document = msgspec.json.encode(text("deep", "x")).decode()
        project.write("configs/content/deep/deep-content.json", document)
        await watched.wait_changes({"config://content/deep", LIST})
        project.write("templates/parts/a.j2", "a")
        await watched.wait_changes({"template://parts%2Fa.j2", LIST})
        project.save(collection(id="pack"))
        await watched.wait_changes({"config://collection/pack", LIST})


async def test_a_folder_may_be_removed_and_created_again(
    short_delays: threading.Event, project: Project, engine: Engine, tmp_path: Path
):
    """Moved away, moved back, removed: the watch goes on."""
    project.save(text("note", "one"))
    project.write("configs/templates/a.j2", "a")
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note", "template://a.j2")
        (project.root / "configs").rename(tmp_path / "away")
        await watched.wait_changes({"config://content/note", "template://a.j2", LIST})
        (tmp_path / "away").rename(project.root / "configs")
        await watched.wait_changes({"config://content/note", "template://a.j2", LIST})
        shutil.rmtree(project.root / "configs")
        await watched.wait_changes({"config://content/note", "template://a.j2", LIST})
        project.save(text("note", "two"))
        await watched.wait_changes({"config://content/note", LIST})


async def test_a_config_is_published_under_its_id(short_delays: threading.Event, project: Project, engine: Engine):
    """Not its file's name; a changed id is published under both ids, and as a change of the list."""
    project.write("configs/content/file.json", msgspec.json.encode(text("first", "x")).decode())
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/first", "config://content/second", "config://content/file")
        replace(project, "configs/content/file.json", msgspec.json.encode(text("first", "y")))
        assert await watched.wait_change() == "config://content/first"
        replace(project, "configs/content/file.json", msgspec.json.encode(text("second", "y")))
        await watched.wait_changes({"config://content/first", "config://content/second", LIST})
        replace(project, "configs/content/file.json", "{ broken")
        assert await watched.wait_change() == "config://content/second"
        (project.root / "configs/content/file.json").unlink()
        await watched.wait_changes({"config://content/second", LIST})


async def test_a_deleted_file_that_was_never_read_is_published_under_its_name(
    short_delays: threading.Event, project: Project, engine: Engine
):
    """Its id can't be read any more."""
    project.write("configs/content/note/note-content.json", msgspec.json.encode(text("note", "x")).decode())
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note")
        shutil.rmtree(project.root / "configs/content/note")
        await watched.wait_changes({"config://content/note", LIST})


async def test_templates_and_manifests_are_published_by_their_own_uris(
    short_delays: threading.Event, project: Project, engine: Engine
):
    """A template in either folder, and the manifest in its collection's output."""
    project.save(collection(id="pack", output={"base_path": "outputs/{{ collection_id }}"}))
    (project.root / "outputs/pack").mkdir(parents=True)
    project.write("configs/templates/a.j2", "a")
    async with watching(engine, short_delays) as watched:
        watched.subscribe("template://a.j2", "manifest://pack")
        replace(project, "configs/templates/a.j2", "b")
        assert await watched.wait_change() == "template://a.j2"
        replace(project, "outputs/pack/manifest.json", "{}")
        await watched.wait_changes({"manifest://pack", LIST})
        replace(project, "outputs/pack/manifest.json", "{ }")
        assert await watched.wait_change() == "manifest://pack"


async def test_a_file_that_is_no_resource_is_not_published(
    short_delays: threading.Event, project: Project, engine: Engine
):
    """Hidden files, other suffixes, and the files that builds write, however many."""
    project.save(text("note", "one"), collection(id="pack", output={"base_path": "outputs/pack"}))
    project.write("outputs/pack/manifest.json", "{}")
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note")
        for number in range(50):
            project.write(f"outputs/pack/{number}.md", "x")
        project.write("configs/content/.note.json.tmp", "x")
        project.write("configs/content/.git/note.json", "{}")
        project.write("configs/content/README.md", "x")
        project.write("notes.txt", "x")
        replace_config(project, text("note", "two"))
        assert await watched.wait_change() == "config://content/note"
        with trio.move_on_after(0.4) as nothing:
            await watched.wait_change()
        assert nothing.cancelled_caught


async def test_changes_seen_at_once_are_published_by_path(
    short_delays: threading.Event, project: Project, engine: Engine, tmp_path: Path
):
    """A folder that is moved in shows all its files to one scan."""
    names = [f"note-{letter}" for letter in "abcdefgh"]
    project.save(*[text(name, "x") for name in names])
    (project.root / "configs").rename(tmp_path / "away")
    async with watching(engine, short_delays) as watched:
        watched.subscribe(*[f"config://content/{name}" for name in names])
        (tmp_path / "away").rename(project.root / "configs")
        seen: dict[str, None] = {}
        while len(seen) <= len(names):
            seen[await watched.wait_change()] = None
        assert [uri for uri in seen if uri != LIST] == [f"config://content/{name}" for name in names]


async def test_many_changes_at_once_are_each_published(short_delays: threading.Event, project: Project, engine: Engine):
    """A checkout changes everything; each file is published, the list once or twice."""
    for number in range(200):
        project.save(text(f"note-{number}", "one"))
    async with watching(engine, short_delays) as watched:
        uris = {f"config://content/note-{number}" for number in range(200)}
        watched.subscribe(*uris)
        for number in range(200):
            project.save(text(f"note-{number}", "two!"))
        await watched.wait_changes(uris)


async def test_the_watch_starts_after_the_first_response(
    project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is scanned or imported before; and then only after a delay."""
    monkeypatch.setattr(files, "START_DELAY", 60.0)
    looked = list[Any]()
    look = files.FileWatcher.scan_files
    monkeypatch.setattr(files.FileWatcher, "scan_files", lambda self, places: looked.append(1) or look(self, places))
    server = project_server(engine, TOOLS, Metrics())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(files.ProjectWatcher(engine, server).serve)
            await trio.sleep(0.1)
            assert looked == []
            server.first_request_answered.set()
            await _until(lambda: looked == [1])
            nursery.cancel_scope.cancel()


async def test_a_failed_watcher_reports_what_changed_until_it_is_started_again(
    short_delays: threading.Event, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """It compares with its last scan."""
    project.save(text("note", "one"))
    server = project_server(engine, TOOLS, Metrics(), is_watched=True)
    watched = Watched(engine, server)
    watched.subscribe("config://content/note")
    watcher = files.ProjectWatcher(engine, server)
    wait = files.FileWatcher.wait_for_change

    def fail(self: files.FileWatcher, paths: files.WatchedPaths, known: files.Files) -> files.Files:
        raise OSError("no descriptor is left")

    server.first_request_answered.set()
    monkeypatch.setattr(files.FileWatcher, "wait_for_change", fail)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no descriptor")):
        await watcher.serve()
    assert server.changes_known.is_set()
    replace_config(project, text("note", "two"))
    monkeypatch.setattr(files.FileWatcher, "wait_for_change", wait)
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.serve)
        assert await watched.wait_change() == "config://content/note"
        nursery.cancel_scope.cancel()


async def test_without_file_notifications_the_files_are_polled(
    short_delays: threading.Event,
    project: Project,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """When the system has no inotify watches left, changes are found later, and the log has one line."""

    def refuse(*arguments: Any) -> Any:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(files.import_notifications(), "RustNotify", refuse)
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note")
        for body in ("one", "two!"):
            project.save(text("note", body))
            await watched.wait_changes({"config://content/note"})
    assert [record.levelno for record in caplog.records if record.name == "chora.watch"] == [logging.WARNING]
    assert "watch limit" in caplog.text


async def test_too_many_files_leave_the_configs_watched(
    short_delays: threading.Event,
    project: Project,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """When the collections can't be listed, their manifests aren't watched; everything else is."""
    from chora import files as disk

    monkeypatch.setattr(disk, "FILES_LIMIT", 0)
    project.write("configs/collection/a.txt", "x")
    async with watching(engine, short_delays) as watched:
        watched.subscribe("template://a.j2")
        project.write("templates/a.j2", "x")
        await watched.wait_changes({"template://a.j2"})
    assert "manifests aren't watched" in caplog.text


def test_only_so_many_files_are_watched(project: Project, monkeypatch: pytest.MonkeyPatch):
    """As many as the limit, whatever else is in the folders."""
    for number in range(4):
        project.write(f"templates/{number}.j2", "x")
    paths = files.WatchedPaths({}, ["templates"], {})
    watcher = files.FileWatcher(str(project.root))
    for limit in (5, 4, 3):
        monkeypatch.setattr(files, "FILES_LIMIT", limit)
        assert len(watcher.scan_files(paths)[0]) == min(limit, 4)


async def test_it_ends_promptly_and_leaves_no_thread(short_delays: threading.Event, project: Project, engine: Engine):
    """A stopping process isn't held up by a watch without changes."""
    server = project_server(engine, TOOLS, Metrics())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(files.ProjectWatcher(engine, server).serve)
            server.first_request_answered.set()
            await _until(short_delays.is_set)
            nursery.cancel_scope.cancel()


async def test_a_folder_that_vanishes_while_the_watch_is_set_up_does_no_harm(
    short_delays: threading.Event,
    project: Project,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """Also if it exists again before the files are compared: a watch without it would miss its changes."""
    project.save(text("note", "one"))
    folder, aside, outcomes = project.root / "configs", project.root.parent / "aside", list[str]()
    watch = files.import_notifications().RustNotify

    def watch_in_between(*arguments: Any) -> Any:
        if outcomes:
            return watch(*arguments)
        folder.rename(aside)
        outcome = "watched"
        try:
            return watch(*arguments)
        except FileNotFoundError:
            outcome = "refused"
            raise
        finally:
            aside.rename(folder)
            outcomes.append(outcome)

    monkeypatch.setattr(files.import_notifications(), "RustNotify", watch_in_between)
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note")
        await _until(lambda: bool(outcomes))
        project.save(text("note", "two!"))
        await watched.wait_changes({"config://content/note"})
    assert outcomes == ["refused"]
    assert caplog.text == "", "no reason to fall back on looking"


async def test_odd_entries_are_skipped(short_delays: threading.Event, project: Project, engine: Engine):
    """A dangling link, a link to a folder, and a template folder outside the project."""
    paths = msgspec.structs.replace(engine.settings.paths, templates=("../elsewhere", "templates"))
    engine.settings = msgspec.structs.replace(engine.settings, paths=paths)
    project.save(text("note", "one"))
    (project.root / "configs/content/dangling.json").symlink_to("nowhere.json")
    (project.root / "configs/content/round").symlink_to("..")
    async with watching(engine, short_delays) as watched:
        watched.subscribe("config://content/note", "template://a.j2")
        replace_config(project, text("note", "two"))
        assert await watched.wait_change() == "config://content/note"
        project.write("templates/a.j2", "x")
        await watched.wait_changes({"template://a.j2", LIST})


async def test_an_idle_watch_does_not_wake_itself(
    short_delays: threading.Event, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Reading files must not cause notifications."""
    project.save(text("note", "one"))
    look, looks = files.FileWatcher.scan_files, list[int]()
    monkeypatch.setattr(files.FileWatcher, "scan_files", lambda self, places: looks.append(1) or look(self, places))
    async with watching(engine, short_delays):
        before = -1
        while before != len(looks):
            before = len(looks)
            await trio.sleep(0.5)
        for path in project.files():
            project.read(path)
        await trio.sleep(0.5)
        assert len(looks) == before
