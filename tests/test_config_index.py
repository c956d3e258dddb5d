"""The list of configs, kept up to date by what the system reports, is what a walk through the files gives."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from chora import config_index
from chora.catalog import Catalog
from chora.config_index import ConfigIndex, ConfigListing
from chora.files import Folder
from chora.folder_changes import FolderChanges, is_local
from tests.conftest import Project, requirement, text
from tests.hostile.measures import calls_in

linux = pytest.mark.skipif(
    sys.platform != "linux" or not is_local(os.path.realpath("/tmp")),
    reason="inotify is a part of Linux",
)


@pytest.fixture(autouse=True)
def watch_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch from the first file on."""
    monkeypatch.setattr(config_index, "WATCHED_FROM", 1)


def make_catalog(project: Project) -> Catalog:
    return Catalog(Folder(project.root))


def index_of(catalog: Catalog) -> ConfigIndex:
    return catalog._indexes["content"]  # pyright: ignore[reportPrivateUsage]


def is_watched(catalog: Catalog) -> bool:
    return index_of(catalog)._changes is not None  # pyright: ignore[reportPrivateUsage]


def watched(project: Project) -> Catalog:
    """A catalog whose second list watches."""
    catalog = make_catalog(project)
    catalog.list_configs("content")
    catalog.list_configs("content")
    return catalog


def check_same(project: Project, catalog: Catalog, what: str = "") -> None:
    """Compare with a catalog that walks."""
    kept, walked = catalog.list_configs("content"), make_catalog(project).list_configs("content")
    assert [(found.path, found.parsed.raw) for found in kept.found] == [
        (found.path, found.parsed.raw) for found in walked.found
    ], what
    assert [broken[:2] for broken in kept.invalid] == [broken[:2] for broken in walked.invalid], what
    assert kept.ids == sorted(walked.ids)
    assert kept.digest == walked.digest


def note(name: str, about: str = "x") -> bytes:
    config = text(name, "x")
    return msgspec.json.encode({**config, "metadata": {**config.get("metadata", {}), "description": about}})


Change = Callable[[Path, random.Random], None]


def _write(root: Path, choose: random.Random) -> None:
    path = root / choose.choice(["content", "contents"]) / choose.choice(["a.json", "b.json", "d/c.json", "d/e/f.json"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(choose.choice([note(choose.choice("abc"), str(choose.random())), b"{"]))


def _move(root: Path, choose: random.Random) -> None:
    there = sorted(path for path in root.rglob("*") if path.name not in ("content", "contents"))
    if there:
        path = choose.choice(there)
        target = root / choose.choice(["content", "contents"]) / choose.choice(["m", "m.json", "n.json", ".hidden"])
        if (
            target not in (path, *path.parents)
            and path not in target.parents
            and (not target.exists() or target.is_file() == path.is_file())
        ):
            if target.is_dir():
                shutil.rmtree(target)
            target.parent.mkdir(exist_ok=True)
            path.rename(target)


def _remove(root: Path, choose: random.Random) -> None:
    there = sorted(root.rglob("*"))
    if there:
        path = choose.choice(there)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _link(root: Path, choose: random.Random) -> None:
    target = root.parent / "outside.json"
    target.write_bytes(note("linked", str(choose.random())))
    place = root / "content" / f"{choose.choice('xy')}.json"
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target) if choose.random() < 0.5 else place.hardlink_to(target)


def _change_target(root: Path, choose: random.Random) -> None:
    if (target := root.parent / "outside.json").exists():
        target.write_bytes(note("linked", str(choose.random())))


def _replace_all(root: Path, choose: random.Random) -> None:
    shutil.copytree(root, other := root.parent / "other", symlinks=True)
    root.rename(root.parent / f"old-{choose.random()}")
    other.rename(root)


CHANGES: list[Change] = [_write, _write, _write, _write, _move, _move, _remove, _link, _change_target, _replace_all]


@linux
@requirement("storage.history")
@pytest.mark.parametrize("seed", range(25))
def test_the_list_is_what_a_walk_gives(project: Project, seed: int):
    """Whatever is written, moved, linked, removed or replaced, and in whatever order."""
    choose = random.Random(seed)
    root = project.root / "configs"
    project.save(text("a", "x"), text("b", "x"))
    catalog = watched(project)
    done: list[str] = []
    for _ in range(60):
        change = choose.choice(CHANGES)
        change(root, choose)
        done.append(change.__name__)
        if choose.random() < 0.6:
            check_same(project, catalog, " ".join(done))


@linux
def test_a_link_in_the_place_of_a_folder_is_not_followed(project: Project):
    """A folder that is moved away and linked to isn't listed any more, and what is changed there isn't, either."""
    project.save(text("a", "x"))
    folder, elsewhere = project.root / "configs/content/more", project.root / "elsewhere"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/b.json").write_bytes(note("b"))
    catalog = watched(project)
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert catalog.list_configs("content").ids == ["a"]
    check_same(project, catalog)
    (elsewhere / "deep/b.json").write_bytes(note("b", "changed"))
    (elsewhere / "deep/c.json").write_bytes(note("c"))
    check_same(project, catalog, "changed where the link leads")
    assert is_watched(catalog)
    folder.unlink()
    elsewhere.rename(folder)
    assert catalog.list_configs("content").ids == ["a", "b", "c"]
    check_same(project, catalog, "moved back")


@linux
def test_a_list_looks_at_what_has_changed_alone(project: Project):
    """After one of a hundred configs was changed, it is read; the others aren't looked at."""
    project.save(*(text(f"c{number:03}", "x") for number in range(100)))
    catalog = watched(project)
    assert is_watched(catalog)
    assert calls_in(lambda: catalog.list_configs("content")) < 40
    first = catalog.list_configs("content")
    assert catalog.list_configs("content") is first
    project.write("configs/content/c050.json", note("c050", "changed"))
    assert catalog.list_configs("content").find("c050") != first.find("c050")
    assert catalog.list_configs("content").find("c051") is first.find("c051")
    check_same(project, catalog)


@linux
def test_files_that_could_be_changed_elsewhere_are_looked_at(project: Project):
    """Links and files with several names; where there are many, all files are walked."""
    project.save(text("a", "x"))
    places = [project.root / "configs/content" / f"l{number}.json" for number in range(3)]
    for number, place in enumerate(places):
        (project.root / f"t{number}").write_bytes(note(f"l{number}"))
        place.symlink_to(project.root / f"t{number}")
    catalog = watched(project)
    (project.root / "t1").write_bytes(note("other"))
    assert catalog.list_configs("content").ids == ["a", "l0", "l2", "other"]
    assert is_watched(catalog)
    for number in range(config_index.LOOKED_AT + 1):
        (project.root / "configs/content" / f"m{number}.json").symlink_to(project.root / "t0")
    check_same(project, catalog)
    assert not is_watched(catalog)


@pytest.mark.parametrize("error", ["no instance", "no more folders"])
def test_where_changes_are_not_reported_files_are_walked(project: Project, monkeypatch: pytest.MonkeyPatch, error: str):
    """The limits of the kernel are reached: lists are right all the same, and it isn't tried again."""
    tried: list[str] = []

    def refuse(*_: object) -> None:
        tried.append(error)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderChanges, "__init__" if error == "no instance" else "watch", refuse)
    project.save(text("a", "x"))
    catalog = watched(project)
    for about in ("one", "two"):
        project.write("configs/content/a.json", note("a", about))
        check_same(project, catalog)
    assert not is_watched(catalog)
    assert len(tried) == 1


@linux
def test_a_lost_report_leads_to_a_walk(project: Project):
    """The kernel keeps a limited number of events."""
    project.save(text("a", "x"))
    catalog = watched(project)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    place = project.root / "configs/content/b.json"
    for number in range(limit // 3 + 2):
        place.write_bytes(b"{" if number % 2 else note("b"))
        place.unlink()
    place.write_bytes(note("b", "last"))
    check_same(project, catalog)
    check_same(project, catalog)


def test_the_file_system_decides_whether_reports_are_complete(tmp_path: Path):
    """Those of networks, and such that aren't known, are walked."""
    if sys.platform == "linux":
        assert not is_local("/proc/self")
        assert isinstance(is_local(str(tmp_path)), bool)
    else:
        assert not is_local(str(tmp_path))


@linux
def test_any_name_of_a_mount_can_be_read(monkeypatch: pytest.MonkeyPatch):
    """A mount whose path holds characters that Python counts as line ends hides no other, and is no error."""
    mounts = "1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / /a\x85b\u2028c rw - nfs d rw\n3 1 0:3 / /n rw - nfs d rw\n"
    monkeypatch.setattr(Path, "read_text", lambda *_: mounts)
    assert is_local("/home")
    assert not is_local("/n/x")
    assert not is_local("/a\x85b\u2028c/x")


# -- in slices ----------------------------------------------------------------------------------------------------


class Between:
    """Does something in the event loop each time that a walk lets others run, and counts that."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.times = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            self.times += 1
            self.act()


async def list_with(catalog: Catalog, act: Callable[[], object] = lambda: None) -> tuple[ConfigListing, int]:
    """A list that is made in slices while something else goes on, and how often that got its turn."""
    between = Between(act)
    async with trio.open_nursery() as nursery:
        await nursery.start(between.run)
        listing = await catalog.list_in_slices("content")
        nursery.cancel_scope.cancel()
    return listing, between.times


async def test_a_first_list_lets_others_run(project: Project, monkeypatch: pytest.MonkeyPatch):
    """After each slice; it is the list that a walk gives, and is kept up to date from then on."""
    monkeypatch.setattr(config_index, "SLICE", 0.0)
    project.save(*(text(f"c{number:03}", "x") for number in range(100)))
    catalog = make_catalog(project)
    listing, times = await list_with(catalog)
    assert times >= 100
    assert listing.ids == [f"c{number:03}" for number in range(100)]
    if sys.platform == "linux":
        assert is_watched(catalog)
        assert await catalog.list_in_slices("content") is listing
    project.save(text("d", "x"))
    assert (await catalog.list_in_slices("content")).ids[-1] == "d"
    check_same(project, catalog)


async def test_a_list_that_can_not_wait_takes_over(project: Project, monkeypatch: pytest.MonkeyPatch):
    """Both get the whole list."""
    monkeypatch.setattr(config_index, "SLICE", 0.0)
    project.save(*(text(f"c{number}", "x") for number in range(20)))
    catalog = make_catalog(project)
    lengths: list[int] = []
    listing, _ = await list_with(catalog, lambda: lengths.append(len(catalog.list_configs("content").ids)))
    assert set(lengths) == {20}
    assert len(listing.ids) == 20
    check_same(project, catalog)


async def test_lists_that_are_made_at_once_read_each_file_once(project: Project, monkeypatch: pytest.MonkeyPatch):
    """The second waits for the first; one that is cancelled leaves nothing half known."""
    monkeypatch.setattr(config_index, "SLICE", 0.0)
    project.save(*(text(f"c{number}", "x") for number in range(20)))
    catalog = make_catalog(project)
    with trio.CancelScope() as scope:
        await list_with(catalog, scope.cancel)
    assert scope.cancelled_caught
    found: list[ConfigListing] = []

    async def make_list() -> None:
        found.append(await catalog.list_in_slices("content"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(make_list)
    assert [len(each.ids) for each in found] == [20, 20, 20]
    if sys.platform == "linux":
        assert found[0] is found[1] is found[2]
    check_same(project, catalog)


@linux
@requirement("storage.history")
@pytest.mark.parametrize("seed", range(10))
async def test_what_changes_during_a_walk_is_known_afterwards(
    project: Project, monkeypatch: pytest.MonkeyPatch, seed: int
):
    """Whatever is written, moved, linked, removed or replaced between two slices."""
    monkeypatch.setattr(config_index, "SLICE", 0.0)
    choose = random.Random(seed)
    project.save(*(text(f"c{number}", "x") for number in range(10)))
    catalog = make_catalog(project)
    done: list[str] = []

    def change() -> None:
        if len(done) < 60:
            one = choose.choice(CHANGES)
            one(project.root / "configs", choose)
            done.append(one.__name__)

    await list_with(catalog, change)
    check_same(project, catalog, " ".join(done))
