"""Traces: found by subject and key, kept in the background, and compared before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora import settings
from chora.engine import traces as traces_module
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content
from chora.engine.engine import Engine, open_engine
from chora.engine.file_digests import ABSENT, FileDigests
from chora.engine.traces import TraceKey, Traces
from chora.errors import StorageError
from chora.hashing import sha256
from chora.store import SqliteStore, Trace
from tests.conftest import Project, content, text
from tests.engine.conftest import Clock, Counting, at_rest
from tests.patience import PATIENCE


class Result(msgspec.Struct, frozen=True):
    """A result to store in a trace."""

    value: str


async def make(engine: Engine, content_id: str = "note", context: dict[str, Any] | None = None, **rest: Any) -> str:
    parsed = engine.catalog.find_config("content", content_id).parsed
    return (await build_content(Build(engine, **rest), parsed, CallerContext(context or {}))).status


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "s.db")
    yield opened
    opened.close()


async def test_a_trace_is_found_at_once_and_in_the_store_later(
    store: SqliteStore, digests: FileDigests, folder: Counting, clock: Clock
):
    """By its subject and key, with inputs, result and time; the next process needn't read a file at rest."""
    file = folder.root / "a.txt"
    file.write_text("x")
    at_rest(file, clock)
    inputs = {"a.txt": digests.digest_file("a.txt"), "b.txt": ABSENT, "git:HEAD": "123"}
    traces = Traces(store, digests)
    traces.add_trace(TraceKey("content:a", "key"), inputs, Result("1"))
    known = traces.find_trace(TraceKey("content:a", "key"), Result)
    assert known is not None
    assert (known.inputs, known.result) == (inputs, Result("1"))
    assert (
        traces.find_trace(TraceKey("content:a", "other"), Result)
        is traces.find_trace(TraceKey("content:b", "key"), Result)
        is None
    )
    assert store.trace("content:a", "key") is None
    await traces.save_traces()
    later_digests = FileDigests(folder)
    later = Traces(store, later_digests)
    assert later.find_trace(TraceKey("content:a", "key"), Result) == known
    assert later.find_trace(TraceKey("content:a", "key"), Result) is later.find_trace(
        TraceKey("content:a", "key"), Result
    ), "from memory the second time"
    reads = folder.reads
    assert later_digests.digest_file("a.txt") == inputs["a.txt"]
    assert folder.reads == reads


async def test_a_file_that_was_not_at_rest_is_read_by_the_next_process(
    store: SqliteStore, digests: FileDigests, folder: Counting
):
    """Its times prove nothing, so they aren't stored."""
    (folder.root / "a.txt").write_text("x")
    traces = Traces(store, digests)
    traces.add_trace(TraceKey("content:a", "key"), {"a.txt": digests.digest_file("a.txt")}, Result(""))
    await traces.save_traces()
    kept = store.trace("content:a", "key")
    assert kept is not None
    assert kept.seen == {"a.txt": [sha256(b"x")]}


async def test_the_latest_trace_of_a_subject_is_known(store: SqliteStore, digests: FileDigests):
    """Under any key, stored or not yet."""
    traces = Traces(store, digests)
    assert traces.latest_trace("content:a", Result) is None
    for key in ("one", "two"):
        traces.add_trace(TraceKey("content:a", key), {}, Result(key))
        latest = traces.latest_trace("content:a", Result)
        assert latest is not None
        assert latest.result == Result(key)
    await traces.save_traces()
    traces.add_trace(TraceKey("content:b", "three"), {}, Result(""))
    latest = Traces(store, digests).latest_trace("content:a", Result)
    assert latest is not None
    assert latest.result == Result("two")


async def test_fresh_traces_are_stored_soon_and_at_the_end(store: SqliteStore, digests: FileDigests):
    """Batched for a moment; the last ones are stored when the service ends."""
    traces = Traces(store, digests)
    async with trio.open_nursery() as nursery:
        await nursery.start(traces.serve)
        traces.add_trace(TraceKey("content:a", "key"), {}, Result(""))
        with trio.fail_after(PATIENCE):
            while store.trace("content:a", "key") is None:
                await trio.sleep(0.01)
        traces.add_trace(TraceKey("content:b", "key"), {}, Result(""))
        nursery.cancel_scope.cancel()
    assert store.trace("content:b", "key") is not None


class Full(SqliteStore):
    """A store that refuses traces."""

    async def save_traces(self, traces: Any) -> None:
        raise StorageError("The database failed: full.")


async def test_a_store_that_refuses_traces_only_costs_time(
    tmp_path: Path, digests: FileDigests, caplog: pytest.LogCaptureFixture
):
    """This process still has them, the failure is logged, and the service goes on; the next process checks again."""
    full = Full(tmp_path / "full.db")
    traces = Traces(full, digests)
    async with trio.open_nursery() as nursery:
        await nursery.start(traces.serve)
        for name in "ab":
            traces.add_trace(TraceKey(f"content:{name}", "key"), {}, Result(""))
            with trio.fail_after(PATIENCE):
                while "couldn't be stored: The database failed" not in caplog.text:
                    await trio.sleep(0.01)
            caplog.clear()
        nursery.cancel_scope.cancel()
    assert traces.find_trace(TraceKey("content:a", "key"), Result) is not None
    assert Traces(full, digests).find_trace(TraceKey("content:a", "key"), Result) is None
    full.close()


class SlowStore(SqliteStore):
    """A store whose first write of traces never ends."""

    blocked: trio.Event | None = None

    async def save_traces(self, traces: Any) -> None:
        if self.blocked is None:
            self.blocked = trio.Event()
            await self.blocked.wait()
        await super().save_traces(traces)


async def test_traces_that_are_being_stored_when_the_process_ends_are_not_lost(tmp_path: Path, digests: FileDigests):
    """Otherwise a command that ends at that moment would build everything again the next time."""
    slow = SlowStore(tmp_path / "slow.db")
    traces = Traces(slow, digests)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(traces.serve)
            traces.add_trace(TraceKey("content:a", "key"), {}, Result("1"))
            while slow.blocked is None:
                await trio.sleep(0.01)
            traces.add_trace(TraceKey("content:b", "key"), {}, Result("2"))
            nursery.cancel_scope.cancel()
    assert slow.trace("content:a", "key") is not None
    assert slow.trace("content:b", "key") is not None
    slow.close()


async def test_the_latest_trace_is_known_while_it_is_being_stored(
    store: SqliteStore, digests: FileDigests, monkeypatch: pytest.MonkeyPatch
):
    """Neither with the new ones nor in the store yet; a build at that moment isn't called the first."""
    traces, key = Traces(store, digests), TraceKey("content:a", "key")
    write = store.save_traces
    seen: list[Any] = []

    async def save(records: Any) -> None:
        seen.append(traces.latest_trace("content:a", Result))
        await write(records)

    monkeypatch.setattr(store, "save_traces", save)
    traces.add_trace(key, {}, Result("1"))
    await traces.save_traces()
    assert [known.result for known in seen] == [Result("1")]
    assert traces.latest_trace("content:a", Result) == seen[0]


async def test_traces_in_memory_are_limited(store: SqliteStore, digests: FileDigests, monkeypatch: pytest.MonkeyPatch):
    """The oldest are dropped; the store still has them."""
    monkeypatch.setattr(traces_module, "TRACES_IN_MEMORY", 3)
    traces = Traces(store, digests)
    for number in range(10):
        traces.add_trace(TraceKey(f"content:{number}", "key"), {}, Result(str(number)))
    assert len(traces._known) == 3  # pyright: ignore[reportPrivateUsage]
    await traces.save_traces()
    for number in range(10):
        known = traces.find_trace(TraceKey(f"content:{number}", "key"), Result)
        assert known is not None
        assert known.result == Result(str(number))
        assert len(traces._known) <= 3  # pyright: ignore[reportPrivateUsage]


async def test_a_crash_loses_traces_and_no_text(project: Project):
    """Without traces a stored text is found by its fingerprint; nothing is generated twice."""
    project.save(text("note", "x"))
    loaded = settings.load(project.root, {})
    async with open_engine(project.root, loaded.settings) as engine:
        assert await make(engine) == "generated"
        engine.traces._unsaved.clear()  # pyright: ignore[reportPrivateUsage]
    async with open_engine(project.root, loaded.settings) as engine:
        assert engine.store.counts()["traces"] == 0
        assert await make(engine) == "skipped"
    async with open_engine(project.root, loaded.settings) as engine:
        assert engine.store.counts()["traces"] == 1
        assert await make(engine) == "skipped"
        assert engine.store.counts()["versions"] == 1


async def test_another_engine_knows_what_this_one_stored(project: Project, engine: Engine):
    """And changes made by one are noticed by the other."""
    project.write("word.txt", "one")
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.save(content("note", pattern={"type": "template_fill", "template": "{{ word }}"}, sources=[word]))
    assert await make(engine) == "generated"
    await engine.traces.save_traces()
    async with open_engine(project.root, settings.load(project.root, {}).settings) as other:
        assert await make(other) == "skipped"
        project.write("word.txt", "two")
        assert await make(other) == "regenerated"
    assert await make(engine) == "skipped"
    latest = engine.store.latest_version("note")
    assert latest is not None
    assert latest.body == "two"


async def test_an_invalid_stamp_is_ignored(store: SqliteStore, digests: FileDigests):
    """A trace's data about a file beyond the digest is validated before use."""
    seen: Any = {"a": ["sha256:1", 1, 2, 3, 4], "b": ["x"]}
    await store.save_traces([Trace(subject="s", key="k", seen=seen, result={"value": "1"}, at="2026")])
    known = Traces(store, digests).find_trace(TraceKey("s", "k"), Result)
    assert known is not None
    assert known.inputs == {"a": "sha256:1", "b": "x"}


@pytest.mark.parametrize("result", [{}, {"value": 1}, {"other": "1"}, {"value": None}])
async def test_a_trace_in_another_format_is_ignored(store: SqliteStore, digests: FileDigests, result: dict[str, Any]):
    """Another version of chora may have stored other fields; that is never a KeyError."""
    await store.save_traces([Trace(subject="s", key="k", seen={}, result=result, at="2026")])
    traces = Traces(store, digests)
    assert traces.find_trace(TraceKey("s", "k"), Result) is None
    assert traces.latest_trace("s", Result) is None
    traces.add_trace(TraceKey("s", "k"), {}, Result("new"))
    await traces.save_traces()
    known = Traces(store, digests).find_trace(TraceKey("s", "k"), Result)
    assert known is not None
    assert known.result == Result("new")
