"""Migrating between backends: nothing is lost or doubled, and differences are named."""

from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chora.errors import MigrationFailed
from chora.hashing import sha256
from chora.store import TRACES_KEPT, Completion, SqliteStore, Store, Trace, Version, migrate
from chora.store.filesystem import FilesystemStore
from chora.store.migrate import RECORD_KINDS
from tests.conftest import requirement
from tests.store.test_contract import AT, completion, cost, draft, event, job, output, sample, trace, version


def everything(store: Store) -> dict[str, Any]:
    """All that a store holds, as its methods return it."""
    contents = store.content_ids()
    subjects = sorted({each.subject for each in store.records(Trace)})
    return {
        "counts": store.counts(),
        "versions": [store.versions(each) for each in contents],
        "infos": [store.version_infos(each) for each in contents],
        "latest": [store.latest_version(each) for each in contents],
        "drafts": store.drafts(),
        "outputs": store.outputs(),
        "traces": [store.traces(each) for each in subjects],
        "jobs": store.jobs(),
        "completions": sorted(map(repr, store.records(Completion))),
        "costs": store.costs(),
        "samples": [store.samples(kind) for kind in ("probe", "latency")],
        "events": store.events(limit=10_000),
    }


async def fill(store: Store) -> None:
    """Store some records of every kind."""
    for number in range(5):
        body = f"Ebbe {number}\r\n" * 100
        await store.add_version(
            version(f"c{number % 2}", body=body, sha256=sha256(body.encode()), config_version=f"{number // 3}.0.0")
        )
    [gone, kept, *_] = store.version_infos("c0")
    await store.delete_versions([gone.version_id])
    await store.delete_versions([kept.version_id], keep_metadata=True)
    await store.save_draft(draft("draft-20260101T000000-abc123", config_data={"ä": [1.5, None]}))
    await store.save_outputs([output("a.md", base="x"), output("b/c.md", sha256=None, pending="p")])
    await store.save_traces(trace("s", str(number)) for number in range(TRACES_KEPT + 3))
    await store.save_job(job("j", status="done", result="{}"))
    await store.add_completion(completion("k", "tief"), cost(AT(3), 0.25))
    await store.add_completion(completion("l"), cost(AT(2), None))
    await store.add_completion(completion("l"), cost(AT(2), None))
    for number in range(3):
        await store.add_sample(sample(AT(1), n=number))
    await store.add_sample(sample(AT(1), n=2))
    await store.add_events([event(AT(1)), event(AT(1)), event(AT(0), trace_id="t")])


@pytest.fixture(params=["sqlite to filesystem", "filesystem to sqlite"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Store, Store]]:
    """A store with some records of every kind, and an empty one of the other backend."""
    stores: list[Store] = [SqliteStore(tmp_path / "storage.db"), FilesystemStore(tmp_path / "ephemeral")]
    if request.param.startswith("filesystem"):
        stores.reverse()
    await fill(stores[0])
    yield stores[0], stores[1]
    for store in stores:
        store.close()


@requirement("storage.migration")
async def test_everything_is_migrated_unchanged(pair: tuple[Store, Store]):
    """Ids, times, texts, deleted ones, and the order of records without ids; the source stays unchanged."""
    source, target = pair
    before = everything(source)
    steps: list[tuple[str, int, int]] = []
    done = await migrate.migrate_store(source, target, progress=lambda *said: steps.append(said))
    assert everything(target) == everything(source) == before
    assert {kind: (moved.copied, moved.already_there) for kind, moved in done.kinds.items()} == {
        kind: (count, 0) for kind, count in source.counts().items()
    }
    assert done.copied == sum(source.counts().values())
    assert {said[0] for said in steps} == set(RECORD_KINDS)
    assert all(finished == total for _, finished, total in steps)


@requirement("storage.migration")
async def test_progress_counts_what_is_in_the_target(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch):
    """After each batch, with what was there before."""
    monkeypatch.setattr(migrate, "BATCH_RECORDS", 1)
    source, target = pair
    await migrate.migrate_store(source, target)
    await source.add_events([event(AT(4)), event(AT(5))])
    steps: list[tuple[str, int, int]] = []
    await migrate.migrate_store(source, target, progress=lambda *said: steps.append(said))
    assert [said for said in steps if said[0] == "events"] == [("events", 4, 5), ("events", 5, 5), ("events", 5, 5)]


@requirement("storage.migration")
async def test_repeating_a_migration_changes_nothing(pair: tuple[Store, Store]):
    """Also for records without an id that exist twice."""
    source, target = pair
    await migrate.migrate_store(source, target)
    before = everything(target)
    again = await migrate.migrate_store(source, target)
    assert again.copied == 0
    assert everything(target) == before
    await source.add_sample(sample(AT(1), n=2))
    await source.add_version(version("new"))
    assert (await migrate.migrate_store(source, target)).copied == 2
    assert everything(target) == everything(source)


@requirement("storage.migration")
async def test_a_dry_run_only_counts(pair: tuple[Store, Store]):
    """It finds the same numbers, and writes nothing."""
    source, target = pair
    steps: list[Any] = []
    planned = await migrate.migrate_store(source, target, dry_run=True, progress=lambda *said: steps.append(said))
    assert planned.dry_run
    assert set(target.counts().values()) == {0}
    done = await migrate.migrate_store(source, target)
    assert done.kinds == planned.kinds
    assert (await migrate.migrate_store(source, target, dry_run=True)).copied == 0


async def test_newer_states_of_the_target_stay(pair: tuple[Store, Store]):
    """After the migration the target is in use; repeating it doesn't bring old states back."""
    source, target = pair
    await migrate.migrate_store(source, target)
    newer = draft("draft-20260101T000000-abc123", description="newer", updated_at=AT(50))
    await target.save_draft(newer)
    await target.save_outputs([output("a.md", written_at=AT(50))])
    await target.save_job(job("j", updated_at=AT(50)))
    await target.save_traces(trace("s", f"new{number}", AT(50)) for number in range(TRACES_KEPT - 1))
    await target.add_completion(msgspec.structs.replace(completion("k", "newer"), at=AT(50)), cost(AT(50), 1.0))
    [info] = [info for info in target.version_infos("c0") if not info.deleted]
    await target.delete_versions([info.version_id], keep_metadata=True)
    before = everything(target)
    await migrate.migrate_store(source, target)
    assert everything(target) == before


async def test_newer_states_of_the_source_are_copied(pair: tuple[Store, Store]):
    """The source may have been used since the last time."""
    source, target = pair
    await migrate.migrate_store(source, target)
    await source.save_draft(draft("draft-20260101T000000-abc123", description="newer", updated_at=AT(50)))
    await source.save_outputs([output("a.md", written_at=AT(50))])
    await source.save_job(job("j", status="failed", updated_at=AT(50)))
    await source.save_traces([trace("s", "4", AT(50), newer=True)])
    [info] = [info for info in source.version_infos("c0") if not info.deleted]
    await source.delete_versions([info.version_id], keep_metadata=True)
    await migrate.migrate_store(source, target)
    assert everything(target) == everything(source)


async def test_another_text_of_the_same_id_is_refused(pair: tuple[Store, Store]):
    """Neither may be lost, so a person has to decide."""
    source, target = pair
    await migrate.migrate_store(source, target)
    [info] = [info for info in target.version_infos("c0") if not info.deleted]
    found = target.version("c0", info.version_id)
    assert found is not None
    await target.add_records([msgspec.structs.replace(found, body="forged")])
    before = everything(target), everything(source)
    with pytest.raises(MigrationFailed, match=f"another text for version c0 {info.version_id}") as caught:
        await migrate.migrate_store(source, target)
    assert (everything(target), everything(source)) == before
    [difference] = caught.value.details["differences"]
    assert difference["sha256"] == {"source": found.sha256, "target": sha256(b"forged")}
    assert "Decide" in str(caught.value.hint)
    await target.add_records([msgspec.structs.replace(found, stage="approved")])
    with pytest.raises(MigrationFailed, match="other values for version") as caught:
        await migrate.migrate_store(source, target)
    assert caught.value.details["differences"][0]["fields"] == ["stage"]


class Losing(SqliteStore):
    """A store that drops or changes records on writing."""

    def __init__(self, lose: Any) -> None:
        super().__init__(None)
        self.lose = lose

    async def add_records(self, records: Any) -> None:
        await super().add_records([kept for each in records if (kept := self.lose(each)) is not None])


@requirement("storage.migration")
async def test_records_that_are_not_copied_are_named(pair: tuple[Store, Store]):
    """Missing records of every kind, up to twenty of them."""
    source, _ = pair
    for kind in RECORD_KINDS.values():
        with pytest.raises(MigrationFailed, match=f"missing for {kind.__name__.lower()}") as caught:
            await migrate.migrate_store(
                source, Losing(lambda each, kind=kind: None if isinstance(each, kind) else each)
            )
        missing = sum(1 for _ in source.records(kind))
        differences = caught.value.details["differences"]
        assert len([each for each in differences if each["problem"] == "missing"]) == min(
            missing, migrate.DIFFERENCES_NAMED
        )
        assert "repeat" in str(caught.value.hint)
    with pytest.raises(MigrationFailed) as caught:
        await migrate.migrate_store(source, Losing(lambda _: None))
    assert len(caught.value.details["differences"]) == migrate.DIFFERENCES_NAMED
    assert "19 or more others" in caught.value.message


async def test_a_text_that_arrives_changed_is_named(pair: tuple[Store, Store]):
    """However small the change."""
    source, _ = pair
    target = Losing(
        lambda each: msgspec.structs.replace(each, body=each.body + " ") if isinstance(each, Version) else each
    )
    with pytest.raises(MigrationFailed, match="another text for version"):
        await migrate.migrate_store(source, target)
    jobs = Losing(lambda each: msgspec.structs.replace(each, updated_at="") if hasattr(each, "job_id") else each)
    with pytest.raises(MigrationFailed, match="other values for job j"):
        await migrate.migrate_store(source, jobs)


async def test_many_and_large_records_are_copied_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bounded in number and size."""
    monkeypatch.setattr(migrate, "BATCH_RECORDS", 10)
    monkeypatch.setattr(migrate, "BATCH_CHARACTERS", 1000)
    source, steps = SqliteStore(None), list[int]()
    await source.add_records(output(f"{number}.md") for number in range(25))
    await source.add_records(
        version(version_id=f"20260101T000000000Z-000{number}", body="x" * 600) for number in range(5)
    )
    target = Losing(lambda each: each)
    add = target.add_records

    async def counting(records: Any) -> None:
        steps.append(len(records))
        await add(records)

    monkeypatch.setattr(target, "add_records", counting)
    await migrate.migrate_store(source, target)
    assert steps == [2, 2, 1, 10, 10, 5]


NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
TIMES = st.integers(0, 59).map(AT)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
FACTS = st.dictionaries(NAMES, DATA, max_size=3)
IDS = st.integers(0, 0xFFFF).map(lambda number: f"20260101T000000000Z-{number:04x}")

RECORDS = st.one_of(
    st.builds(
        lambda content_id, body, facts, at, config_version, version_id: version(
            content_id,
            body=body,
            sha256=sha256(body.encode()),
            metadata=facts,
            generated_at=at,
            config_version=config_version,
            version_id=version_id,
        ),
        *(NAMES, TEXTS, FACTS, TIMES, st.none() | st.sampled_from(["1.0.0", "2.0.0"]), IDS),
    ),
    st.builds(lambda name, facts, text: draft(name, config_data=facts, description=text), NAMES, FACTS, TEXTS),
    st.builds(lambda path, artifact, base: output(path, artifact_id=artifact, base=base), NAMES, NAMES, TEXTS),
    st.builds(trace, NAMES, NAMES, TIMES),
    st.builds(lambda name, at, facts: job(name, at, arguments=facts), NAMES, TIMES, FACTS),
    st.builds(cost, TIMES, st.none() | st.floats(0, 10)),
    st.builds(completion, NAMES, TEXTS),
    st.builds(lambda at, ok, n: sample(at, ok, n=n), TIMES, st.booleans(), st.integers(0, 2)),
    st.builds(lambda at, facts: event(at, facts=facts), TIMES, FACTS),
)


@given(records=st.lists(RECORDS, max_size=25))
@pytest.mark.slow("writes each example to three stores")
def test_a_round_trip_changes_nothing(records: list[Any]):
    """From the database into files and into a new database, for any records."""

    async def go(folder: Path) -> None:
        first, files, second = SqliteStore(None), FilesystemStore(folder), SqliteStore(None)
        for record in records:
            await first.add_records([record])
        await migrate.migrate_store(first, files)
        await migrate.migrate_store(FilesystemStore(folder), second)
        assert everything(first) == everything(files) == everything(second)
        for store in (first, files, second):
            store.close()

    with TemporaryDirectory() as folder:
        trio.run(go, Path(folder) / "ephemeral")
