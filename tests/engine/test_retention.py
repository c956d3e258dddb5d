"""Retention: what any rule keeps stays, and a dry run reports exactly what is deleted."""

from __future__ import annotations

import string
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chora import jobs
from chora.engine import retention
from chora.engine.engine import Engine
from chora.engine.retention import (
    RetentionRules,
    apply_retention,
    clean_content,
    delete_content,
    drop_old_drafts,
    find_old_versions,
    referring_artifacts,
)
from chora.errors import StorageError
from chora.hashing import sha256
from chora.store import Draft, Event, Job, SqliteStore, Version, VersionInfo
from chora.store.database import put_record
from chora.timestamps import format_timestamp, now
from tests.conftest import Project, artifact, child, requirement, text
from tests.histories import fill_history

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def info(age: float, name: str = "x", **rest: Any) -> VersionInfo:
    """A version of `days` days ago."""
    made = VersionInfo(
        version_id=name,
        content_id="note",
        generated_at=format_timestamp(NOW - timedelta(days=age)),
        generator="g",
        config_version=None,
        stage="draft",
        approved=False,
        deleted=False,
        size=10,
    )
    return msgspec.structs.replace(made, **rest)


def gone(
    ages: list[float], rules: RetentionRules, approved: Collection[int] = (), deleted: Collection[int] = ()
) -> str:
    """The names of the deleted ones, of versions a, b, c … of these ages, oldest first."""
    infos = [
        info(age, string.ascii_lowercase[number], approved=number in approved, deleted=number in deleted)
        for number, age in enumerate(ages)
    ]
    return "".join(choose(infos, rules))


def choose(infos: list[VersionInfo], rules: RetentionRules) -> list[str]:
    """The names of the versions that may go, out of a store that holds these."""
    store = SqliteStore(None)
    for each in infos:
        values = {field: getattr(each, field) for field in VersionInfo.__struct_fields__ if field != "size"}
        put_record(store._writer, Version(body="", sha256="", fingerprint="", generator_version="1", **values))
    found = [each.version_id for page in find_old_versions(store, "note", rules, NOW) for each in page]
    store.close()
    return sorted(found)


@pytest.mark.parametrize(
    ("ages", "rules", "names"),
    [
        ([], RetentionRules(), ""),
        ([100], RetentionRules(), ""),
        ([100, 99], RetentionRules(), ""),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(), "abc"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_versions=5), "a"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_versions=100), ""),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_versions=0), "abc"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_versions=0, keep_days=0), "abcde"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_versions=0, keep_days=0, keep_latest=False), "abcdef"),
        ([9, 8], RetentionRules(keep_versions=0, keep_latest=False), "ab"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_versions=1, keep_days=0, keep_latest=False), "abcde"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_days=0, older_than_days=8), "a"),
        ([9, 8.1, 7.5, 3, 2, 1], RetentionRules(keep_days=0, older_than_days=8), "ab"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_days=0, older_than_days=0), "abc"),
        ([9, 8, 7.5, 3, 2, 1], RetentionRules(keep_days=0, older_than_days=100), ""),
        ([7.0], RetentionRules(keep_versions=0, keep_latest=False, keep_days=7), ""),
        ([7.001], RetentionRules(keep_versions=0, keep_latest=False, keep_days=7), "a"),
        ([9e5, 1], RetentionRules(keep_versions=0, keep_latest=False, keep_days=10**9), ""),
        ([9e4, 1], RetentionRules(keep_versions=0, keep_latest=False, keep_days=0, older_than_days=10**12), ""),
        ([-1, -2], RetentionRules(keep_versions=0, keep_latest=False), ""),
    ],
)
def test_a_version_that_no_rule_keeps_is_deleted(ages: list[float], rules: RetentionRules, names: str):
    """The latest, the newest few and the young ones stay; with `older_than`, also all younger ones."""
    if any(age > 700_000 for age in ages):
        ages = [700_000, 1]
    assert gone(ages, rules) == names


def test_the_newest_approved_version_stays_whatever_the_rules():
    """It can't be generated again; older approved ones may be deleted."""
    nothing = RetentionRules(keep_versions=0, keep_days=0, keep_latest=False)
    assert gone([9, 8, 7, 6], nothing, approved={0, 2}) == "abd"
    assert gone([9, 8, 7, 6], nothing, approved={3}) == "abc"


def test_deleted_versions_are_not_counted():
    """They are neither the newest nor the latest, and can't be deleted again."""
    assert gone([9, 8, 7.5, 7.4, 7.3], RetentionRules(keep_versions=2, keep_days=0), deleted={2, 4}) == "a"
    assert gone([9, 8], RetentionRules(keep_versions=0, keep_days=0), deleted={1}) == ""


ages = st.lists(st.floats(0, 60), max_size=12).map(lambda found: sorted(found, reverse=True))
all_rules = st.builds(
    RetentionRules,
    st.integers(0, 6),
    st.integers(0, 40),
    st.booleans(),
    st.none() | st.integers(0, 40),
)


@given(ages, all_rules, st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_exactly_the_versions_that_no_rule_keeps_are_deleted(
    days: list[float], rules: RetentionRules, approved: set[int], deleted: set[int]
):
    """Checked rule by rule."""
    infos = [
        info(age, string.ascii_lowercase[number], approved=number in approved, deleted=number in deleted)
        for number, age in enumerate(days)
    ]
    chosen = choose(infos, rules)
    there = [each for each in infos if not each.deleted]
    for place, each in enumerate(reversed(there)):
        age = NOW - datetime.fromisoformat(each.generated_at)
        speaks = (
            place < rules.keep_versions
            or (rules.keep_latest and place == 0)
            or (rules.keep_days and age <= timedelta(days=rules.keep_days))
            or (rules.older_than_days is not None and age <= timedelta(days=rules.older_than_days))
            or each == next((other for other in reversed(there) if other.approved), None)
        )
        assert (each.version_id in chosen) is not bool(speaks)
    assert not any(each.version_id in chosen for each in infos if each.deleted)


# -- with a store -----------------------------------------------------------------------------------------------


def version(content_id: str, age: float, body: str = "body", **rest: Any) -> Version:
    made = Version(
        content_id=content_id,
        body=body,
        sha256=sha256(body.encode()),
        fingerprint="",
        generator="g",
        generator_version="1",
        generated_at=format_timestamp(datetime.now(UTC) - timedelta(days=age)),
    )
    return msgspec.structs.replace(made, **rest)


async def fill(engine: Engine, **contents: list[float]) -> None:
    for content_id, days in contents.items():
        for age in days:
            await engine.store.add_version(version(content_id, age, "x" * round(age)))


async def test_a_dry_run_says_what_a_real_one_does(engine: Engine):
    """The same contents and versions; only the real one deletes, and notifies subscribers."""
    await fill(engine, a=[40, 30, 20, 10, 1], b=[40], c=[90, 80, 70, 60])
    reported: list[str] = []
    engine.changes.subscribe(reported.append)
    before = {each: engine.store.versions(each) for each in "abc"}
    dry = await clean_content(engine, RetentionRules(), dry_run=True)
    assert {each: engine.store.versions(each) for each in "abc"} == before
    assert reported == []
    assert dry == await clean_content(engine, RetentionRules())
    checked, cleaned = dry
    assert checked == 3
    assert [(each.content_id, each.before, each.deleted, each.bytes_freed) for each in cleaned] == [
        ("a", 5, 2, 70),
        ("c", 4, 1, 90),
    ]
    for each in cleaned:
        kept = engine.store.versions(each.content_id)
        assert (each.oldest_kept, each.newest_kept) == (kept[0].generated_at, kept[-1].generated_at)
    assert reported == ["content://a", "content://c"]
    assert [len(engine.store.versions(each)) for each in "abc"] == [3, 1, 3]
    assert await clean_content(engine, RetentionRules()) == (3, [])


async def test_only_the_named_contents_are_cleaned(engine: Engine):
    """Each once; an unknown one is ignored."""
    await fill(engine, a=[40, 30, 20, 10], b=[40, 30, 20, 10])
    checked, cleaned = await clean_content(engine, RetentionRules(keep_versions=1), content_ids=["b", "unknown", "b"])
    assert checked == 1
    assert [each.content_id for each in cleaned] == ["b"]
    assert (len(engine.store.versions("a")), len(engine.store.versions("b"))) == (4, 1)


async def test_a_clean_up_that_fails_can_be_repeated(engine: Engine):
    """What was deleted before stays so, and is published; repeating it does the rest."""
    await fill(engine, a=[40, 30, 20, 10], b=[40, 30, 20, 10])
    reported: list[str] = []
    engine.changes.subscribe(reported.append)
    engine.store._writer.execute(  # pyright: ignore
        "CREATE TEMP TRIGGER refuse BEFORE DELETE ON versions WHEN old.content_id = 'b' "
        "BEGIN SELECT raise(ABORT, 'no'); END"
    )
    with pytest.raises(StorageError, match="failed: no"):
        await clean_content(engine, RetentionRules(keep_versions=1))
    assert (len(engine.store.versions("a")), len(engine.store.versions("b"))) == (1, 4)
    assert reported == ["content://a"]
    engine.store._writer.execute("DROP TRIGGER refuse")  # pyright: ignore
    await clean_content(engine, RetentionRules(keep_versions=1))
    assert (len(engine.store.versions("a")), len(engine.store.versions("b"))) == (1, 1)


@requirement("storage.history")
async def test_a_large_clean_up_lets_others_work(engine: Engine):
    """It goes a page at a time: reads and writes of others come in between."""
    pages: list[int] = []
    really = engine.store.delete_versions

    async def count(version_ids: Any, **rest: Any) -> None:
        pages.append(len(version_ids))
        await really(version_ids, **rest)

    engine.store.delete_versions = count
    fill_history(cast(SqliteStore, engine.store), 1_000, contents=2)
    turns = 0
    async with trio.open_nursery() as nursery:

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(take_turns)
        await clean_content(engine, RetentionRules(keep_days=0))
        assert (max(pages), sum(pages)) == (retention.PAGE, 994)
        assert turns > len(pages)
        pages.clear()
        fill_history(cast(SqliteStore, engine.store), 900)
        newest = engine.store.newest_infos("c0", 1)[0]
        assert await delete_content(engine.store, "c0") == (903, 3612)
        assert max(pages) <= retention.PAGE
        assert engine.store.content_state("c0") == (0, 0, None)
        assert (await engine.store.add_version(version("c0", 1))).version_id > newest.version_id
        nursery.cancel_scope.cancel()


async def keep_draft(engine: Engine, name: str, age: float) -> None:
    at = format_timestamp(datetime.now(UTC) - timedelta(days=age))
    draft = Draft(
        draft_id=name,
        config_type="content",
        config_data={},
        description=None,
        created_at=format_timestamp(datetime.now(UTC) - timedelta(days=99)),
        updated_at=at,
    )
    await engine.store.save_draft(draft)
    await engine.store.add_version(version(name, age, metadata={"test_output": True}))


def keep_for(engine: Engine, days: int) -> None:
    """Set how long old things are kept."""
    storage = msgspec.structs.replace(engine.settings.storage, retention_days=days)
    engine.settings = msgspec.structs.replace(engine.settings, storage=storage)


@pytest.mark.parametrize(
    ("days", "left"), [(30, ["new"]), (0, ["new", "old"]), (10**9, ["new", "old"]), (45, ["new", "old"])]
)
async def test_old_drafts_are_deleted(engine: Engine, days: int, left: list[str]):
    """With their test outputs; by the time of their last change, not of their creation."""
    keep_for(engine, days)
    await keep_draft(engine, "old", 40)
    await keep_draft(engine, "new", 20)
    assert await drop_old_drafts(engine, dry_run=True) == 2 - len(left)
    assert len(engine.store.drafts()) == 2
    assert await drop_old_drafts(engine) == 2 - len(left)
    assert sorted(draft.draft_id for draft in engine.store.drafts()) == left
    assert engine.store.content_ids() == left


async def test_the_artifacts_that_refer_to_a_content_are_found(project: Project, engine: Engine):
    """By the ids of their children, in either layout; broken configs are skipped."""
    project.save(text("a", "x"), artifact("one", [child("a")]), artifact("two", [child("b")]))
    nested = artifact("three", [child("b"), child("a", required=False)])
    project.write("configs/artifact/three/three-artifact.json", msgspec.json.encode(nested))
    project.write("configs/artifact/broken.json", "{")
    assert await referring_artifacts(engine, "a") == ["one", "three"]
    assert await referring_artifacts(engine, "unknown") == []


async def litter(engine: Engine) -> None:
    """An old and a new record of every kind."""
    await fill(engine, a=[90, 80, 70, 60, 50, 1])
    await keep_draft(engine, "old", 40)
    long_ago, today = format_timestamp(datetime.now(UTC) - timedelta(days=40)), now()
    for number, at in enumerate((long_ago, today)):
        job = Job(
            job_id=f"job-{number}",
            key="",
            tool="t",
            arguments={},
            principal="p",
            status="done",
            created_at=at,
            updated_at=at,
        )
        await engine.store.save_job(job)
        await engine.store.add_events([Event(at=at, kind="k", status="success", trace_id=None)])


async def test_a_round_of_housekeeping_removes_what_is_old(engine: Engine):
    """Drafts, texts, jobs, events; a dry run counts the first two and deletes nothing; a second round finds nothing."""
    await litter(engine)
    before = engine.store.counts()
    assert await apply_retention(engine, dry_run=True) == (1, 3, 240, 0, 0)
    assert engine.store.counts() == before
    assert await apply_retention(engine) == (1, 3, 240, 1, 1)
    assert await apply_retention(engine) == (0, 0, 0, 0, 0)
    assert engine.store.counts()["versions"] == 3


async def test_retention_can_be_switched_off(engine: Engine):
    """With retention_days 0, or more days than have ever passed."""
    await litter(engine)
    before = engine.store.counts()
    keep_for(engine, 0)
    assert await apply_retention(engine) == (0, 0, 0, 0, 0)
    assert engine.store.counts() == before
    keep_for(engine, 10**9)
    assert (await apply_retention(engine))[:3] == (0, 0, 0)


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps ahead whenever all tasks and threads have been idle for a moment."""
    return MockClock(autojump_threshold=0.5)


@pytest.mark.slow("a day of the fake clock passes while real threads work")
async def test_housekeeping_runs_every_six_hours(
    engine: Engine, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """First a minute after the start; a failure is logged, and the next round tries again."""
    rounds: list[float] = []
    really = retention.apply_retention
    start = trio.current_time()

    async def count(engine: Engine) -> Any:
        rounds.append(trio.current_time() - start)
        if len(rounds) == 2:
            raise StorageError("The database failed: full.")
        return await really(engine)

    monkeypatch.setattr(retention, "apply_retention", count)
    monkeypatch.setattr(jobs, "HEARTBEAT_INTERVAL", 1e9)  # or time would pass in steps of two seconds
    caplog.set_level("INFO", "chora.engine")
    await litter(engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(retention.serve, engine))
        with trio.move_on_after(retention.FIRST_ROUND + 2.5 * retention.INTERVAL):
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    hours = [pytest.approx(60 + 6 * 3600 * turn, abs=10) for turn in range(3)]
    assert rounds == hours
    said = [record.getMessage() for record in caplog.records if record.name == "chora.engine"]
    assert said == [
        "housekeeping removed drafts=1 versions=3 (240 bytes) jobs=1 events and measurements=1",
        "housekeeping failed; it is tried again in 6 hours: The database failed: full.",
    ]
