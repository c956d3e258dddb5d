"""What work reads, by digest: never an old one for a new file, and never a look too many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chora import app, settings
from chora.config_parsing import parse_config
from chora.engine import inputs as module
from chora.engine.build.collection import CollectionPlan, _CollectionRun, shared_digest  # pyright: ignore[reportPrivateUsage]
from chora.engine.build.content import build_content
from chora.engine.engine import Build, CallerContext, Engine
from chora.engine.inputs import ABSENT, UNREADABLE, FileDigests, InputChange, InputRecorder, Traces
from chora.errors import StorageError
from chora.file_stamps import COARSE, RACY
from chora.files import Folder
from chora.hashing import digest_of, sha256
from chora.model import Member
from chora.store import SqliteStore, Trace
from tests.conftest import Project, artifact, child, content, text
from tests.patience import PATIENCE

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and links")
needs_user = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may read anything")


class Counting(Folder):
    """A folder that counts how often a file is read, and lets something happen in the middle."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads = 0
        self.meanwhile: Callable[[], object] = bool

    def read_bytes(self, path: str | Path, *, limit: int = 10_000_000) -> bytes:
        self.reads += 1
        data = super().read_bytes(path, limit=limit)
        self.meanwhile()
        return data


@pytest.fixture
def folder(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


@pytest.fixture
def digests(folder: Counting) -> FileDigests:
    return FileDigests(folder)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Clock:
    """The clock that is looked at before a file is; the disk has its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0
        really = module.time.time_ns
        monkeypatch.setattr(module.time, "time_ns", lambda: really() + self.ahead)


def at_rest(file: Path, clock: Clock, whole: bool = False) -> None:
    """As if the file had been written long ago."""
    clock.ahead = 10 * COARSE
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns // 10**9 * 10**9 + (0 if whole else 1)))


# -- digests ----------------------------------------------------------------------------------------------------


def test_a_file_at_rest_is_read_once(digests: FileDigests, folder: Counting, clock: Clock):
    """Its times tell that it is the same; a change of it is noticed by them."""
    file = folder.root / "a.txt"
    file.write_text("one")
    at_rest(file, clock)
    assert {digests.digest_file("a.txt") for _ in range(5)} == {sha256(b"one")}
    assert folder.reads == 1
    file.write_text("two")
    assert digests.digest_file("a.txt") == sha256(b"two")
    assert folder.reads == 2


def test_a_file_written_just_now_is_read_again(digests: FileDigests, folder: Counting):
    """A second write within the clock's tick would leave its times as they are."""
    file = folder.root / "a.txt"
    for number in range(50):
        body = f"{number:02}".encode()
        file.write_bytes(body)
        assert digests.digest_file("a.txt") == sha256(body)
        before = file.stat()
        other = f"{number:02}"[::-1].encode()
        file.write_bytes(other)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert digests.digest_file("a.txt") == sha256(other), "same size and time, other content"
    assert folder.reads == 100


@pytest.mark.parametrize(("whole", "rest", "reads"), [(False, RACY, 1), (True, RACY, 2), (True, COARSE, 1)])
def test_coarse_clocks_need_a_longer_rest(
    digests: FileDigests, folder: Counting, clock: Clock, whole: bool, rest: int, reads: int
):
    """Times that end in zeros come from a disk that may count whole or even seconds."""
    file = folder.root / "a.txt"
    file.write_text("x")
    at_rest(file, clock, whole)
    clock.ahead = rest + 20_000_000
    digests.digest_file("a.txt")
    digests.digest_file("a.txt")
    assert folder.reads == reads


def test_a_file_of_the_future_is_read_every_time(digests: FileDigests, folder: Counting, clock: Clock):
    """Nobody knows when it was written."""
    (folder.root / "a.txt").write_text("x")
    clock.ahead = -60 * 10**9
    digests.digest_file("a.txt")
    digests.digest_file("a.txt")
    assert folder.reads == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(digests: FileDigests, folder: Counting, clock: Clock):
    """What was read may be half of each."""
    file = folder.root / "a.txt"
    file.write_text("one")
    at_rest(file, clock)
    folder.meanwhile = lambda: file.write_text("three")
    assert digests.digest_file("a.txt") == sha256(b"one")
    folder.meanwhile = bool
    assert digests.digest_file("a.txt") == sha256(b"three")


def test_a_file_that_vanishes_is_absent(digests: FileDigests, folder: Counting, monkeypatch: pytest.MonkeyPatch):
    """Between two looks, or between the look at it and its being read; it may come back."""
    file = folder.root / "a.txt"
    assert digests.digest_file("a.txt") == ABSENT
    file.write_text("x")
    assert digests.digest_file("a.txt") == sha256(b"x")
    really = Folder.read_bytes

    def vanish(self: Folder, path: str | Path, *, limit: int = 0) -> bytes:
        file.unlink()
        return really(self, path, limit=limit)

    with monkeypatch.context() as patch:
        patch.setattr(Counting, "read_bytes", vanish)
        assert digests.digest_file("a.txt") == ABSENT
    assert digests.digest_file("a.txt") == digests.digest_file("a.txt/b.txt") == ABSENT
    file.write_text("y")
    assert digests.digest_file("a.txt") == sha256(b"y")
    assert digests.digest_file("a.txt/b.txt") == ABSENT, "what is below a file isn't there"


@pytest.mark.parametrize("path", ["folder", ".", "a\0b", "x" * 5000])
def test_what_is_no_file_is_unreadable(digests: FileDigests, folder: Counting, path: str):
    """A folder, or a name that none can have."""
    (folder.root / "folder").mkdir()
    assert digests.digest_file(path) == UNREADABLE
    assert folder.reads == 0


@needs_posix
def test_a_pipe_is_unreadable(digests: FileDigests, folder: Counting):
    """And nobody waits for what comes out of it."""
    os.mkfifo(folder.root / "pipe")
    assert digests.digest_file("pipe") == UNREADABLE


@needs_posix
@needs_user
def test_a_closed_file_is_unreadable(digests: FileDigests, folder: Counting, clock: Clock):
    """Until it is opened again; a closed folder on the way is the same."""
    file = folder.root / "closed/a.txt"
    file.parent.mkdir()
    file.write_text("x")
    file.chmod(0)
    assert digests.digest_file("closed/a.txt") == UNREADABLE
    file.chmod(0o600)
    assert digests.digest_file("closed/a.txt") == sha256(b"x")
    file.parent.chmod(0)
    assert digests.digest_file("closed/a.txt") == UNREADABLE
    file.parent.chmod(0o700)


@needs_posix
def test_links_are_followed_within_the_project(digests: FileDigests, folder: Counting, clock: Clock, tmp_path: Path):
    """A link that leads elsewhere has another digest; one that leads out, or in a circle, has none."""
    for name in ("one", "two"):
        (folder.root / name).write_text(name)
        at_rest(folder.root / name, clock)
    link = folder.root / "link"
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("secret")
    for target, digest in [
        ("one", sha256(b"one")),
        ("two", sha256(b"two")),
        ("one", sha256(b"one")),
        ("none", ABSENT),
        (outside, UNREADABLE),
        ("link", UNREADABLE),
    ]:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert digests.digest_file("link") == digest, target


def test_a_file_too_large_to_matter_is_not_read(
    digests: FileDigests, folder: Counting, monkeypatch: pytest.MonkeyPatch
):
    """Nothing here takes so much, and memory isn't without bounds; nor if it grows while it is read."""
    monkeypatch.setattr(module, "DIGEST_LIMIT", 10)
    file = folder.root / "a.txt"
    file.write_bytes(b"x" * 11)
    assert digests.digest_file("a.txt") == UNREADABLE
    assert folder.reads == 0
    file.write_bytes(b"x" * 10)
    assert digests.digest_file("a.txt") == sha256(b"x" * 10)
    monkeypatch.setattr(FileDigests, "_stamp", lambda *_: module.FileStamp(5, 0, 0, 0))
    file.write_bytes(b"x" * 11)
    assert digests.digest_file("a.txt") == UNREADABLE


def test_what_an_earlier_process_found_out_is_believed_as_long_as_the_times_agree(
    digests: FileDigests, folder: Counting, clock: Clock
):
    """A file is then not even read once; what this process saw itself counts more."""
    file = folder.root / "a.txt"
    file.write_text("x")
    at_rest(file, clock)
    digest = digests.digest_file("a.txt")
    stamp = digests.stamp_of("a.txt", digest)
    assert stamp is not None
    assert digests.stamp_of("a.txt", sha256(b"other")) is digests.stamp_of("b.txt", digest) is None
    later = FileDigests(folder)
    later.remember("a.txt", stamp, digest)
    later.remember("a.txt", stamp, "sha256:other")
    assert later.digest_file("a.txt") == digest
    assert folder.reads == 1
    file.write_text("y")
    assert later.digest_file("a.txt") == sha256(b"y")
    other = FileDigests(folder)
    other.remember("a.txt", stamp, digest)
    assert other.digest_file("a.txt") == sha256(b"y")


writes = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "1", "2", "33"]), st.booleans()), max_size=12)


@given(writes)
def test_a_digest_is_always_the_one_of_the_file_that_is_there(steps: list[tuple[str, str, bool]]):
    """Whatever was written when, with whichever times."""
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        digests = FileDigests(folder)
        for name, body, keeps_times in steps:
            file = folder.root / name
            before = file.stat() if file.exists() else None
            if body:
                file.write_text(body)
                if keeps_times and before:
                    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            else:
                file.unlink(missing_ok=True)
            for each in "ab":
                there = folder.root / each
                assert digests.digest_file(each) == (sha256(there.read_bytes()) if there.exists() else ABSENT)


# -- seen -------------------------------------------------------------------------------------------------------


def test_an_input_is_noted_as_it_was_at_first(tmp_path: Path):
    """Its digest is taken before it is read, and once; an absolute path is the relative one."""
    counted: list[str] = []

    def digest(name: str) -> str:
        counted.append(name)
        return f"{name} {len(counted)}"

    seen = InputRecorder(digest, tmp_path)
    for name in ("a", "b", "a", str(tmp_path / "a"), str(tmp_path / "c/d")):
        seen.record(name)
    assert seen.inputs == {"a": "a 1", "b": "b 2", os.path.join("c", "d"): f"{os.path.join('c', 'd')} 3"}
    seen.record_digest("git:HEAD", "1")
    seen.record_all({"part": "2", "a": "a of a part"})
    assert seen.inputs["git:HEAD"] == "1"
    assert (seen.inputs["part"], seen.inputs["a"]) == ("2", "a of a part")
    assert seen.reproducible


# -- changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (InputChange("data/a.json", ABSENT, "sha256:1"), "data/a.json is new"),
        (InputChange("data/a.json", "sha256:1", ABSENT), "data/a.json is gone"),
        (InputChange("data/a.json", "sha256:1", "sha256:2"), "data/a.json has changed"),
        (InputChange("data/a.json", "sha256:1", UNREADABLE), "data/a.json has changed"),
        (InputChange("configs:content", "1", "2"), "the content configs are other ones"),
        (InputChange("templates:*", "1", "2"), "the templates are other ones"),
        (InputChange("git:.\0main:a.md", "1", "2"), "main:a.md has changed"),
        (InputChange("git:.\0main:a.md", ABSENT, "2"), "main:a.md is new"),
        (InputChange("stored:note:approved_only", "1", "2"), "the stored texts of note are other ones"),
        (InputChange("generator:jinja2", "1", "2"), "the generator jinja2 is another version"),
    ],
)
def test_a_change_is_told_in_words(change: InputChange, reason: str):
    """By what it is a change of."""
    assert change.reason == reason


async def reasons(engine: Engine, content_id: str = "note") -> list[str]:
    """Why the content isn't what it would be now, by its newest trace."""
    parsed = engine.catalog.find("content", content_id).parsed
    known = engine.traces.latest_trace(f"content:{parsed.origin}")
    assert known is not None
    snapshot = Build(engine).snapshot
    found = await snapshot.changes(known.inputs)
    assert await snapshot.changes(known.inputs, first=True) == found[:1]
    return [change.reason for change in found]


async def make(engine: Engine, content_id: str = "note", context: dict[str, Any] | None = None, **rest: Any) -> str:
    parsed = engine.catalog.find("content", content_id).parsed
    return (await build_content(Build(engine, **rest), parsed, CallerContext(context or {}))).status


def git(project: Project, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=project.root, check=True, capture_output=True)


async def test_every_kind_of_input_tells_of_its_change(project: Project, engine: Engine):
    """Files, templates and those that may be included, configs by name and by id, git, stored texts, generators."""
    project.write("data/day.json", '{"name": "Friday"}')
    project.write("data/gone.json", "1")
    project.write("templates/page.j2", "{{ day.name }} {{ old }} {{ other }} {% include what %}\n")
    project.write("templates/part.j2", "part")
    project.write("doc.md", "committed\n")
    git(project, "init", "-q")
    git(project, "add", "doc.md")
    git(project, "commit", "-q", "-m", "one")
    project.write("configs/content/deep/other.json", msgspec.json.encode(text("other", "other")))
    sources = [
        {"id": "day", "source_type": "external_file", "source_locator": "data/day.json"},
        {"id": "gone", "source_type": "external_file", "source_locator": "data/gone.json"},
        {"id": "doc", "source_type": "git_reference", "source_locator": "HEAD:doc.md"},
        {"id": "old", "source_type": "ephemeral_output", "source_locator": "other:latest"},
        {"id": "other", "source_type": "content_config", "source_locator": "other", "data_selector": "output"},
    ]
    pattern = {"type": "jinja2", "template": "page.j2", "generation_config": {"context": {"what": "part.j2"}}}
    project.save(content("note", pattern=pattern, sources=sources))
    await make(engine, "other")
    assert await make(engine) == "generated"
    assert await reasons(engine) == []
    assert await make(engine) == "skipped"

    project.write("data/day.json", '{"name": "Saturday"}')
    (project.root / "data/gone.json").unlink()
    project.write("templates/new.j2", "")
    project.write("doc.md", "again\n")
    git(project, "commit", "-q", "-a", "-m", "two")
    project.write("configs/content/note.json", project.read("configs/content/note.json") + " ")
    project.write("configs/content/another.json", msgspec.json.encode(text("another", "x")))
    await make(engine, "other", force=True)
    told = await reasons(engine)
    assert sorted(told) == sorted(
        [
            "configs/content/note.json has changed",
            "data/day.json has changed",
            "data/gone.json is gone",
            "the stored texts of other are other ones",
            "the content configs are other ones",
            "the templates are other ones",
            "HEAD:doc.md has changed",
        ]
    )
    project.write("data/gone.json", "2")
    assert await make(engine) == "regenerated"
    assert await reasons(engine) == []


async def test_a_snapshot_looks_at_everything_once(project: Project, engine: Engine):
    """All of a call agrees about a file, whatever happens meanwhile, but for what the call itself wrote."""
    project.write("a.txt", "one")
    project.save(text("note", "x"))
    snapshot = Build(engine).snapshot
    assert snapshot.digest("a.txt") == sha256(b"one")
    stored = "stored:note:latest"
    before = {"a.txt": sha256(b"one"), stored: engine.stored_digest("note", "latest")}
    assert await snapshot.changes(before) == []
    project.write("a.txt", "two")
    await make(engine)
    assert await snapshot.changes(before) == []
    assert not snapshot.still_holds(before), "but it is known that the file isn't what was noted"
    snapshot.forget("a.txt")
    snapshot.forget_stored("note")
    snapshot.forget_stored("nobody")
    assert [change.name for change in await snapshot.changes(before)] == ["a.txt", stored]


async def test_an_unknown_strategy_is_a_digest_too(project: Project, engine: Engine):
    """The source fails; mending it changes the config."""
    assert engine.stored_digest("note", "newest") == "invalid_input"


async def test_a_file_that_changes_while_a_text_is_made_leaves_no_trace(project: Project):
    """Else the text of the one state would be taken for that of the other once the file is changed back."""
    project.write("chora.toml", '[plugins]\ngenerators = ["slow.py"]\n')
    project.write("slow.py", SLOW)
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.save(content("note", pattern={"type": "slow"}, sources=[word]), artifact("note", [child("note")]))
    project.write("word.txt", "one")
    async with app.opened(project.root, settings.load(project.root, {})) as engine:
        build = Build(engine)
        build.snapshot.digest("word.txt")  # as another member of the same run had done
        project.write("word.txt", "two")
        parsed = engine.catalog.find("content", "note").parsed
        made = await build_content(build, parsed, CallerContext({}))
        assert made.version.body == "two"
        project.write("word.txt", "one")
        again = await build_content(Build(engine), parsed, CallerContext({}))
        assert again.version.body == "one"


SLOW = """
from chora.generators.generator import GeneratedText
NAME, VERSION, DESCRIPTION, CAPABILITIES = "slow", "1", "Repeats.", ()
async def generate(job):
    return GeneratedText(job.context["word"])
"""


# -- traces -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "s.db")
    yield opened
    opened.close()


async def test_a_trace_is_found_at_once_and_in_the_store_later(
    store: SqliteStore, digests: FileDigests, folder: Counting, clock: Clock
):
    """By its subject and key, with inputs, result and time; a file at rest needn't be read by the next process."""
    file = folder.root / "a.txt"
    file.write_text("x")
    at_rest(file, clock)
    inputs = {"a.txt": digests.digest_file("a.txt"), "b.txt": ABSENT, "git:HEAD": "123"}
    traces = Traces(store, digests)
    traces.add_trace("content:a", "key", inputs, {"version": "1"})
    known = traces.find_trace("content:a", "key")
    assert known is not None
    assert (known.inputs, known.result) == (inputs, {"version": "1"})
    assert traces.find_trace("content:a", "other") is traces.find_trace("content:b", "key") is None
    assert store.trace("content:a", "key") is None
    await traces.save()
    later_digests = FileDigests(folder)
    later = Traces(store, later_digests)
    assert later.find_trace("content:a", "key") == known
    assert later.find_trace("content:a", "key") is later.find_trace("content:a", "key"), "from memory the second time"
    reads = folder.reads
    assert later_digests.digest_file("a.txt") == inputs["a.txt"]
    assert folder.reads == reads


async def test_a_file_that_was_not_at_rest_is_read_by_the_next_process(
    store: SqliteStore, digests: FileDigests, folder: Counting
):
    """Its times are no proof, so they aren't kept."""
    (folder.root / "a.txt").write_text("x")
    traces = Traces(store, digests)
    traces.add_trace("content:a", "key", {"a.txt": digests.digest_file("a.txt")}, {})
    await traces.save()
    kept = store.trace("content:a", "key")
    assert kept is not None
    assert kept.seen == {"a.txt": [sha256(b"x")]}


async def test_the_latest_trace_of_a_subject_is_known(store: SqliteStore, digests: FileDigests):
    """Under whatever key, stored or not yet."""
    traces = Traces(store, digests)
    assert traces.latest_trace("content:a") is None
    for key in ("one", "two"):
        traces.add_trace("content:a", key, {}, {"key": key})
        latest = traces.latest_trace("content:a")
        assert latest is not None
        assert latest.result == {"key": key}
    await traces.save()
    traces.add_trace("content:b", "three", {}, {})
    latest = Traces(store, digests).latest_trace("content:a")
    assert latest is not None
    assert latest.result == {"key": "two"}


async def test_fresh_traces_are_stored_soon_and_at_the_end(store: SqliteStore, digests: FileDigests):
    """Gathered for a moment; what came last is stored when the service ends."""
    traces = Traces(store, digests)
    async with trio.open_nursery() as nursery:
        await nursery.start(traces.serve)
        traces.add_trace("content:a", "key", {}, {})
        with trio.fail_after(PATIENCE):
            while store.trace("content:a", "key") is None:
                await trio.sleep(0.01)
        traces.add_trace("content:b", "key", {}, {})
        nursery.cancel_scope.cancel()
    assert store.trace("content:b", "key") is not None


class Full(SqliteStore):
    """A store that refuses traces."""

    async def save_traces(self, traces: Any) -> None:
        raise StorageError("The database failed: full.")


async def test_a_store_that_refuses_traces_costs_a_look_and_no_more(
    tmp_path: Path, digests: FileDigests, caplog: pytest.LogCaptureFixture
):
    """This process still knows them, the log says so, and the service goes on."""
    full = Full(tmp_path / "full.db")
    traces = Traces(full, digests)
    async with trio.open_nursery() as nursery:
        await nursery.start(traces.serve)
        for name in "ab":
            traces.add_trace(f"content:{name}", "key", {}, {})
            with trio.fail_after(PATIENCE):
                while "couldn't be stored: The database failed" not in caplog.text:
                    await trio.sleep(0.01)
            caplog.clear()
        nursery.cancel_scope.cancel()
    assert traces.find_trace("content:a", "key") is not None
    assert Traces(full, digests).find_trace("content:a", "key") is None
    full.close()


async def test_memory_holds_so_many_traces(store: SqliteStore, digests: FileDigests, monkeypatch: pytest.MonkeyPatch):
    """The first ones go; the store still has them."""
    monkeypatch.setattr(module, "TRACES_IN_MEMORY", 3)
    traces = Traces(store, digests)
    for number in range(10):
        traces.add_trace(f"content:{number}", "key", {}, {"number": number})
    assert len(traces._known) == 3  # pyright: ignore[reportPrivateUsage]
    await traces.save()
    for number in range(10):
        known = traces.find_trace(f"content:{number}", "key")
        assert known is not None
        assert known.result == {"number": number}
        assert len(traces._known) <= 3  # pyright: ignore[reportPrivateUsage]


async def test_a_crash_loses_traces_and_no_text(project: Project):
    """Without them the stored text is found by what it is made of; nothing is made twice."""
    project.save(text("note", "x"))
    loaded = settings.load(project.root, {})
    async with app.opened(project.root, loaded) as engine:
        assert await make(engine) == "generated"
        engine.traces._unsaved.clear()  # pyright: ignore[reportPrivateUsage]
    async with app.opened(project.root, loaded) as engine:
        assert engine.store.counts()["traces"] == 0
        assert await make(engine) == "skipped"
    async with app.opened(project.root, loaded) as engine:
        assert engine.store.counts()["traces"] == 1
        assert await make(engine) == "skipped"
        assert engine.store.counts()["versions"] == 1


async def test_another_engine_knows_what_this_one_stored(project: Project, engine: Engine):
    """And what one of them changes, the other notices."""
    project.write("word.txt", "one")
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.save(content("note", pattern={"type": "template_fill", "template": "{{ word }}"}, sources=[word]))
    assert await make(engine) == "generated"
    await engine.traces.save()
    async with app.opened(project.root, settings.load(project.root, {})) as other:
        assert await make(other) == "skipped"
        project.write("word.txt", "two")
        assert await make(other) == "regenerated"
    assert await make(engine) == "skipped"
    latest = engine.store.latest_version("note")
    assert latest is not None
    assert latest.body == "two"


async def test_a_trace_of_another_version_of_chora_is_no_obstacle(store: SqliteStore, digests: FileDigests):
    """What it says of a file beyond the digest is believed only if it fits."""
    trace = Trace(subject="s", key="k", seen={"a": ["sha256:1", 1, 2, 3, 4], "b": ["x"]}, result={}, at="2026")
    await store.save_traces([trace])
    known = Traces(store, digests).find_trace("s", "k")
    assert known is not None
    assert known.inputs == {"a": "sha256:1", "b": "x"}


# -- keys -------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=3), plain, max_size=3)
names = st.dictionaries(st.sampled_from(["artifact_id", "member_id", "collection_id"]), st.text(max_size=4), max_size=3)


def same(one: Any, other: Any) -> bool:
    """Whether JSON writes both the same, but for the order of keys; unlike Python it tells 1 from true and from 1.0."""

    def sort(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sort(value[key]) for key in sorted(value)}
        return [sort(each) for each in value] if isinstance(value, list | tuple) else value

    return msgspec.json.encode(sort(one)) == msgspec.json.encode(sort(other))


def shuffled(value: Any) -> Any:
    """The same data with its keys in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(each) for each in value] if isinstance(value, list) else value


@given(plain, plain)
def test_equal_data_and_no_other_has_the_same_digest(one: Any, other: Any):
    """The order of keys is nothing; every other difference is one."""
    assert digest_of(one) == digest_of(shuffled(one))
    assert (digest_of(one) == digest_of(other)) == same(one, other)


@given(objects, names, objects, names)
def test_equal_contexts_and_no_others_have_the_same_key(
    context: dict[str, Any], reserved: dict[str, str], other: dict[str, Any], others: dict[str, str]
):
    """Of what is asked for and for whom; a name is no context."""
    one, two = CallerContext(context, reserved), CallerContext(other, others)
    assert one.digest == one.digest == CallerContext(shuffled(context), shuffled(reserved)).digest
    assert (one.digest == two.digest) == same([context, reserved], [other, others])
    assert one.all_names == {**reserved, **context}


@given(objects, st.lists(names.filter(bool), max_size=3), objects, st.lists(names.filter(bool), max_size=3))
def test_what_lies_within_has_a_key_of_its_own(
    context: dict[str, Any], inside: list[dict[str, str]], other: dict[str, Any], insides: list[dict[str, str]]
):
    """By all that is around it; the inner name wins over the outer one."""

    def within(context: dict[str, Any], inside: list[dict[str, str]]) -> CallerContext:
        given = CallerContext(context)
        for reserved in inside:
            given = given.with_reserved(**reserved)
        return given

    one, two = within(context, inside), within(other, insides)
    if one.digest == two.digest:
        assert same([context, inside], [other, insides])
        assert one.reserved == two.reserved
    if same([context, inside], [other, insides]):
        assert one.digest == two.digest
    assert one.reserved == {name: value for each in inside for name, value in each.items()}


member_ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,3}", fullmatch=True)
paths = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=5)
collections = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["pack", "pack-2"]),
        "name": st.sampled_from(["Pack", "pack"]),
        "member": member_ids,
        "path": paths,
        "type": st.sampled_from(["artifact", "collection"]),
        "propagation": st.sampled_from(["merge", "override", "isolate"]),
        "structure": st.sampled_from(["nested", "flat", "custom"]),
        "base": st.sampled_from(["outputs", "outputs/pack"]),
        "own": objects,
        "shared": objects,
        "given": objects,
    }
)


def member_key(parts: dict[str, Any]) -> tuple[str, str]:
    """Under which a member's trace is kept."""
    own = {parts["member"]: parts["own"]} if parts["own"] else {}
    document = {
        "type": "collection",
        "id": parts["id"],
        "name": parts["name"],
        "members": [{"id": parts["member"], "type": parts["type"], "path": parts["path"]}],
        "context": {"propagation": parts["propagation"], "overrides": own},
        "output": {"base_path": parts["base"], "structure": parts["structure"]},
    }
    parsed = parse_config("collection", document, where="configs/collection/pack.json")
    config_ = parsed.config
    digest = shared_digest("salt", config_, parts["base"], parts["shared"], parts["given"])
    setting = CollectionPlan(parsed, parts["base"], parts["shared"], digest, parts["given"], [])
    (member,) = config_.members
    assert isinstance(member, Member)
    build: Any = Stub()
    return _CollectionRun(build, setting, frozenset()).trace_of(member)


class Stub:
    """As much of a call's work as a key is made of: nothing."""

    engine = None
    force = False


@given(collections, st.data())
def test_members_that_differ_in_anything_have_different_keys(parts: dict[str, Any], data: st.DataObject):
    """In the collection, the place, or the context of any origin; equal ones have the same."""
    assert member_key(parts) == member_key(shuffled(parts))
    changed = data.draw(st.sampled_from(sorted(parts)))
    other = {**parts, changed: data.draw(collections)[changed]}
    assert (member_key(parts) == member_key(other)) == same(parts, other)
