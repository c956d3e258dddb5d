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
def quick(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No pause for the first conversation, and short ones between looks; set once it is known what is there."""
    monkeypatch.setattr(files, "START_DELAY", 0.0)
    monkeypatch.setattr(files, "REPORT_INTERVAL", 50)
    monkeypatch.setattr(files, "POLL", 0.1)
    looking, wait = threading.Event(), files.FileWatcher.wait_for_change

    def begin(self: files.FileWatcher, places: files.WatchedPaths, known: files.Files) -> files.Files:
        looking.set()
        return wait(self, places, known)

    monkeypatch.setattr(files.FileWatcher, "wait_for_change", begin)
    return looking


class Watched:
    """A project that is being watched, and a subscriber of everything."""

    def __init__(self, engine: Engine, server: McpServer) -> None:
        self.engine, self.server = engine, server
        self.session = Session("memory", LOCAL)
        self.session.notifications.subscribed[LIST_CHANGES["resources"]] = ""
        server.broadcaster.subscribe(self.session.notifications)

    def want(self, *uris: str) -> None:
        for uri in uris:
            self.session.notifications.subscribed[ChangeNotification(RESOURCE_UPDATED, uri)] = uri

    async def hear(self) -> str:
        """The URI of the next resource that changed, or the list's method."""
        with trio.fail_after(PATIENCE):
            message: dict[str, Any] = msgspec.json.decode(await self.session.notifications.wait_next())
        return message["params"].get("uri") or message["method"]

    async def hear_until(self, wanted: set[str]) -> None:
        """Reading on until all of these were heard; a change seen in two looks may be told twice."""
        while wanted:
            wanted = wanted - {await self.hear()}


def replace(project: Project, path: str, body: str | bytes) -> None:
    """Change a file in one step: writing into it would be two, and a watch may see both."""
    project.write("../new", body).rename(project.root / path)


def replace_config(project: Project, document: dict[str, Any]) -> None:
    replace(project, f"configs/{document['type']}/{document['id']}.json", msgspec.json.encode(document))


@asynccontextmanager
async def watching(engine: Engine, looking: threading.Event) -> AsyncGenerator[Watched]:
    server = project_server(engine, TOOLS, Metrics())
    watched = Watched(engine, server)
    async with trio.open_nursery() as nursery:
        await nursery.start(files.serve, engine, server)
        server.first_request_answered.set()
        await _until(looking.is_set)
        yield watched
        nursery.cancel_scope.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


async def test_created_changed_and_deleted_configs_are_published(
    quick: threading.Event, project: Project, engine: Engine
):
    """Subscribers are notified of changes, and of the list when configs are created or deleted."""
    project.save(text("note", "one"))
    async with watching(engine, quick) as watched:
        watched.want("config://content/note", "config://content/other")
        replace_config(project, text("note", "two"))
        assert await watched.hear() == "config://content/note"
        project.save(text("other", "x"))
        await watched.hear_until({"config://content/other", LIST})
        (project.root / "configs/content/note.json").unlink()
        await watched.hear_until({"config://content/note", LIST})


async def test_folders_may_appear_later(quick: threading.Event, project: Project, engine: Engine):
    """An empty project has none of the folders; each counts from when it is made, whole trees at once."""
    async with watching(engine, quick) as watched:
        watched.want("config://content/deep", "template://parts%2Fa.j2", "config://collection/pack")
        document = msgspec.json.encode(text("deep", "x")).decode()
        project.write("configs/content/deep/deep-content.json", document)
        await watched.hear_until({"config://content/deep", LIST})
        project.write("templates/parts/a.j2", "a")
        await watched.hear_until({"template://parts%2Fa.j2", LIST})
        project.save(collection(id="pack"))
        await watched.hear_until({"config://collection/pack", LIST})


async def test_a_whole_folder_may_go_and_come_back(
    quick: threading.Event, project: Project, engine: Engine, tmp_path: Path
):
    """Moved away, moved back, removed: the watch goes on."""
    project.save(text("note", "one"))
    project.write("configs/templates/a.j2", "a")
    async with watching(engine, quick) as watched:
        watched.want("config://content/note", "template://a.j2")
        (project.root / "configs").rename(tmp_path / "away")
        await watched.hear_until({"config://content/note", "template://a.j2", LIST})
        (tmp_path / "away").rename(project.root / "configs")
        await watched.hear_until({"config://content/note", "template://a.j2", LIST})
        shutil.rmtree(project.root / "configs")
        await watched.hear_until({"config://content/note", "template://a.j2", LIST})
        project.save(text("note", "two"))
        await watched.hear_until({"config://content/note", LIST})


async def test_a_config_goes_by_the_id_inside(quick: threading.Event, project: Project, engine: Engine):
    """Not by its file's name; one that takes another id is told under both, and as a change of the list."""
    project.write("configs/content/file.json", msgspec.json.encode(text("first", "x")).decode())
    async with watching(engine, quick) as watched:
        watched.want("config://content/first", "config://content/second", "config://content/file")
        replace(project, "configs/content/file.json", msgspec.json.encode(text("first", "y")))
        assert await watched.hear() == "config://content/first"
        replace(project, "configs/content/file.json", msgspec.json.encode(text("second", "y")))
        await watched.hear_until({"config://content/first", "config://content/second", LIST})
        replace(project, "configs/content/file.json", "{ broken")
        assert await watched.hear() == "config://content/second"
        (project.root / "configs/content/file.json").unlink()
        await watched.hear_until({"config://content/second", LIST})


async def test_a_file_that_was_never_read_goes_by_its_name(quick: threading.Event, project: Project, engine: Engine):
    """It can't be asked any more what it held."""
    project.write("configs/content/note/note-content.json", msgspec.json.encode(text("note", "x")).decode())
    async with watching(engine, quick) as watched:
        watched.want("config://content/note")
        shutil.rmtree(project.root / "configs/content/note")
        await watched.hear_until({"config://content/note", LIST})


async def test_templates_and_manifests_are_published_by_their_own_uris(
    quick: threading.Event, project: Project, engine: Engine
):
    """A template in either folder, and the manifest where its collection writes it."""
    project.save(collection(id="pack", output={"base_path": "outputs/{{ collection_id }}"}))
    (project.root / "outputs/pack").mkdir(parents=True)
    project.write("configs/templates/a.j2", "a")
    async with watching(engine, quick) as watched:
        watched.want("template://a.j2", "manifest://pack")
        replace(project, "configs/templates/a.j2", "b")
        assert await watched.hear() == "template://a.j2"
        replace(project, "outputs/pack/manifest.json", "{}")
        await watched.hear_until({"manifest://pack", LIST})
        replace(project, "outputs/pack/manifest.json", "{ }")
        assert await watched.hear() == "manifest://pack"


async def test_a_file_that_cannot_be_read_is_not_published(quick: threading.Event, project: Project, engine: Engine):
    """Hidden files, other endings, and the files that builds write, however many."""
    project.save(text("note", "one"), collection(id="pack", output={"base_path": "outputs/pack"}))
    project.write("outputs/pack/manifest.json", "{}")
    async with watching(engine, quick) as watched:
        watched.want("config://content/note")
        for number in range(50):
            project.write(f"outputs/pack/{number}.md", "x")
        project.write("configs/content/.note.json.tmp", "x")
        project.write("configs/content/.git/note.json", "{}")
        project.write("configs/content/README.md", "x")
        project.write("notes.txt", "x")
        replace_config(project, text("note", "two"))
        assert await watched.hear() == "config://content/note"
        with trio.move_on_after(0.4) as nothing:
            await watched.hear()
        assert nothing.cancelled_caught


async def test_many_changes_at_once_are_each_published(quick: threading.Event, project: Project, engine: Engine):
    """A checkout changes everything; each file is told, the list once or twice."""
    for number in range(200):
        project.save(text(f"note-{number}", "one"))
    async with watching(engine, quick) as watched:
        uris = {f"config://content/note-{number}" for number in range(200)}
        watched.want(*uris)
        for number in range(200):
            project.save(text(f"note-{number}", "two!"))
        await watched.hear_until(uris)


async def test_it_waits_for_the_first_answer(project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Nothing is looked at, and nothing imported, before; and from then on not at once."""
    monkeypatch.setattr(files, "START_DELAY", 60.0)
    looked = list[Any]()
    look = files.FileWatcher.scan_files
    monkeypatch.setattr(files.FileWatcher, "scan_files", lambda self, places: looked.append(1) or look(self, places))
    server = project_server(engine, TOOLS, Metrics())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(files.serve, engine, server)
            await trio.sleep(0.1)
            assert looked == []
            server.first_request_answered.set()
            await _until(lambda: looked == [1])
            nursery.cancel_scope.cancel()


async def test_without_reports_the_files_are_looked_at(
    quick: threading.Event,
    project: Project,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """A system that has no watches left gets slower news, and one line in the log."""
    from watchfiles import _rust_notify

    def refuse(*arguments: Any) -> Any:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(_rust_notify, "RustNotify", refuse)
    async with watching(engine, quick) as watched:
        watched.want("config://content/note")
        for body in ("one", "two!"):
            project.save(text("note", body))
            await watched.hear_until({"config://content/note"})
    assert [record.levelno for record in caplog.records if record.name == "chora.watch"] == [logging.WARNING]
    assert "watch limit" in caplog.text


async def test_too_many_files_leave_the_configs_watched(
    quick: threading.Event,
    project: Project,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """When the collections can't be listed, their manifests aren't watched; the rest is."""
    from chora import files as disk

    monkeypatch.setattr(disk, "FILES_LIMIT", 0)
    project.write("configs/collection/a.txt", "x")
    async with watching(engine, quick) as watched:
        watched.want("template://a.j2")
        project.write("templates/a.j2", "x")
        await watched.hear_until({"template://a.j2"})
    assert "manifests aren't watched" in caplog.text


async def test_it_ends_promptly_and_leaves_no_thread(quick: threading.Event, project: Project, engine: Engine):
    """A process that is told to stop isn't held by a watch that nothing wakes."""
    server = project_server(engine, TOOLS, Metrics())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(files.serve, engine, server)
            server.first_request_answered.set()
            await _until(quick.is_set)
            nursery.cancel_scope.cancel()


async def test_a_folder_that_vanishes_while_the_watch_is_set_up_does_no_harm(
    quick: threading.Event,
    project: Project,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """Also when it is there again before the files are compared: a watch without it would miss its changes."""
    from watchfiles import _rust_notify

    project.save(text("note", "one"))
    folder, aside, outcomes = project.root / "configs", project.root.parent / "aside", list[str]()
    watch = _rust_notify.RustNotify

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

    monkeypatch.setattr(_rust_notify, "RustNotify", watch_in_between)
    async with watching(engine, quick) as watched:
        watched.want("config://content/note")
        await _until(lambda: bool(outcomes))
        project.save(text("note", "two!"))
        await watched.hear_until({"config://content/note"})
    assert outcomes == ["refused"]
    assert caplog.text == "", "no reason to fall back on looking"


async def test_odd_entries_are_passed_over(quick: threading.Event, project: Project, engine: Engine):
    """A link to nowhere, a link to a folder, and a template folder outside the project."""
    paths = msgspec.structs.replace(engine.settings.paths, templates=("../elsewhere", "templates"))
    engine.settings = msgspec.structs.replace(engine.settings, paths=paths)
    project.save(text("note", "one"))
    (project.root / "configs/content/dangling.json").symlink_to("nowhere.json")
    (project.root / "configs/content/round").symlink_to("..")
    async with watching(engine, quick) as watched:
        watched.want("config://content/note", "template://a.j2")
        replace_config(project, text("note", "two"))
        assert await watched.hear() == "config://content/note"
        project.write("templates/a.j2", "x")
        await watched.hear_until({"template://a.j2", LIST})


async def test_an_idle_watch_looks_at_nothing(
    quick: threading.Event, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Looking at files must not be what wakes it."""
    project.save(text("note", "one"))
    look, looks = files.FileWatcher.scan_files, list[int]()
    monkeypatch.setattr(files.FileWatcher, "scan_files", lambda self, places: looks.append(1) or look(self, places))
    async with watching(engine, quick):
        before = -1
        while before != len(looks):
            before = len(looks)
            await trio.sleep(0.5)
        for path in project.files():
            project.read(path)
        await trio.sleep(0.5)
        assert len(looks) == before
