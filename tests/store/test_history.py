"""A long history costs nothing: statements take as many steps with a hundred thousand records as with a thousand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chora.store import Completion, SqliteStore, Store
from chora.store.records import VersionAge
from chora.store.store import LAST
from tests.conftest import requirement
from tests.histories import Statement, fill_history, statements_of
from tests.store.test_contract import cost, draft, event, job, output, sample, trace, version

AT = "2026-12-24T10:15:00.000Z"
LATER = "2026-12-24T10:15:01.000Z"

CALLS: dict[str, Callable[[Any], Any]] = {
    "counts": lambda store: store.counts(),
    "add_version": lambda store: store.add_version(version("c0", fingerprint="new")),
    "version": lambda store: store.version("c0", "20260101T000000000Z-0000"),
    "latest_version": lambda store: store.latest_version("c0"),
    "version_with_fingerprint": lambda store: store.version_with_fingerprint("c0", "f0"),
    "content_state": lambda store: store.content_state("c0"),
    "version_infos": lambda store: store.version_infos("c0", after="20260101T000000100Z-0000", limit=50),
    "newest_infos": lambda store: store.newest_infos("c0", 50, skip=3),
    "find_info": lambda store: [
        store.find_info("c0", config_version="1.0.0"),
        store.find_info("c0", config_version="9"),
        store.find_info("c0", prefix="2026"),
        store.find_info("c0", prefix="2027"),
        store.find_info("c0", approved=True),
    ],
    "versions_by_time": lambda store: store.versions_by_time("c0", VersionAge("2026-01-01T", "", 0), limit=50),
    "content_ids": lambda store: store.content_ids("c0", 50),
    "delete_versions": lambda store: store.delete_versions(["20260101T000000007Z-0000", "20260101T000000008Z-0000"]),
    "save_draft": lambda store: store.save_draft(draft("new")),
    "draft": lambda store: store.draft("d7"),
    "drafts": lambda store: store.drafts(10),
    "drafts_before": lambda store: store.drafts_before(LAST, 10),
    "delete_draft": lambda store: store.delete_draft("d9"),
    "output": lambda store: store.output("a.md"),
    "outputs_of": lambda store: store.outputs_of("note"),
    "save_outputs": lambda store: store.save_outputs([output("a.md")]),
    "trace": lambda store: store.trace("content:a", "k"),
    "traces": lambda store: store.traces("content:a"),
    "save_traces": lambda store: store.save_traces([trace("content:a", "k")]),
    "save_job": lambda store: store.save_job(job("new")),
    "job": lambda store: store.job("job-7"),
    "latest_job": lambda store: store.latest_job("k3"),
    "jobs": lambda store: store.jobs(10),
    "jobs_before": lambda store: store.jobs_before(LAST, 10),
    "delete_jobs": lambda store: store.delete_jobs(["job-1", "job-2"]),
    "add_completion": lambda store: store.add_completion(
        Completion(key="k", model="m", text="t", input_tokens=1, output_tokens=1, at=AT), cost(AT, 0.5)
    ),
    "completion": lambda store: store.completion("k"),
    "total_cost": lambda store: [store.total_cost(), store.total_cost(AT)],
    "add_sample": lambda store: store.add_sample(sample(LATER)),
    "last_sample": lambda store: store.last_sample("probe"),
    "sample_counts": lambda store: store.sample_counts("probe", AT),
    "add_events": lambda store: store.add_events([event(LATER)]),
    "events": lambda store: store.events(limit=10),
    "delete_before": lambda store: store.delete_before("2026-01-01T00:00:10.000Z"),
    "add_records": lambda store: store.add_records([version("c0", version_id="20260101T000000500Z-0001")]),
    "check": lambda store: store.check(),
}
"""A call of each method, which finds as much in a long history as in a short one."""

UNBOUNDED = {"close", "records", "versions", "outputs", "samples", "costs"}
"""Those that give everything, for commands, migrations and tests."""

GROWING = "versions|drafts|outputs|traces|jobs|costs|completions|samples|events|contents|hourly_totals"


async def statements(path: Path, number: int) -> dict[str, list[Statement]]:
    """What each call executes in a store with this many records of each kind."""
    store = SqliteStore(path / f"{number}.db")
    fill_history(store, number, others=number)
    found: dict[str, list[Statement]] = {}
    for name, call in CALLS.items():
        with statements_of(store) as executed:
            answer = call(store)
            if inspect.isawaitable(answer):
                await answer
        found[name] = executed
    store.close()
    return found


@requirement("storage.history")
@pytest.mark.slow("stores a hundred thousand records of each kind")
async def test_no_call_takes_longer_because_more_is_stored(tmp_path: Path):
    """By SQLite's own count of steps; pages of an index may be deeper, by a step or two."""
    assert CALLS.keys() | UNBOUNDED == {
        name for name, each in vars(Store).items() if inspect.isfunction(each) and name[0] != "_"
    }
    few, many = await statements(tmp_path, 1_000), await statements(tmp_path, 100_000)
    for name in CALLS:
        steps = [sum(each.steps for each in found[name]) for found in (few, many)]
        # What is added up of an hour, and the hours of a window, are bounded by how often is measured.
        room = 20_000 if name in ("sample_counts", "total_cost") else 50
        assert steps[1] <= steps[0] * 1.2 + room, (name, steps, many[name])
        assert not any(each.sorts for each in many[name]), (name, many[name])


def _parameters(sql: str) -> list[str]:
    """The parameters of a statement; numbered ones may come twice."""
    return [f"{place}" if mark == "?" else mark for place, mark in enumerate(re.findall(r"\?\d*", sql))]


async def test_every_statement_finds_its_rows_by_an_index(tmp_path: Path):
    """No query plan walks through a table that grows, except along an index to a limit, and none sorts."""
    executed = await statements(tmp_path, 1_000)
    store = SqliteStore(tmp_path / "plans.db")
    seen: set[str] = set()
    for name, found in executed.items():
        for sql in {each.sql for each in found if re.match("SELECT|INSERT|UPDATE|DELETE", each.sql)} - seen:
            seen.add(sql)
            for row in store._query(f"EXPLAIN QUERY PLAN {sql}", *(None for _ in set(_parameters(sql)))):
                step = str(row[3])
                assert "TEMP B-TREE" not in step, (name, sql, step)
                if re.match(rf"SCAN ({GROWING})\b", step):
                    assert "USING" in step, (name, sql, step)
                    assert "ORDER BY" in sql, (name, sql, step)
                    assert "LIMIT" in sql, (name, sql, step)
    assert len(seen) > 40
    store.close()


async def test_the_kept_numbers_are_right_whatever_is_written(tmp_path: Path):
    """Added, replaced, marked as deleted, deleted: they are what counting the rows gives."""
    store = SqliteStore(tmp_path / "a.db")
    fill_history(store, 20, contents=3, others=20)
    saved = await store.add_version(version("c0"))
    await store.add_records([saved, version("c9", version_id="20250101T000000500Z-0001", deleted=True, body="")])
    await store.delete_versions(["20260101T000000001Z-0000"], keep_metadata=True)
    await store.delete_versions(["20260101T000000001Z-0000", "20260101T000000002Z-0000", "nothing"])
    await store.delete_versions(["20260101T000000004Z-0000"], keep_metadata=True)
    await store.save_outputs([output("a"), output("b")])
    await store.save_outputs([output("a", artifact_id="other")])
    await store.save_job(job("job-1"))
    await store.save_draft(draft("d1"))
    await store.add_sample(sample("2026-01-01T10:00:00.000Z", ok=False))
    await store.delete_before("2026-01-01T00:00:05.000Z")
    counted = {table: store._query(f"SELECT count(*) FROM {table}")[0][0] for table in store.counts()}
    assert store.counts() == counted
    contents = "SELECT content_id, count(*), sum(deleted = 0) FROM versions GROUP BY 1 ORDER BY 1"
    assert store._query("SELECT * FROM contents ORDER BY 1") == store._query(contents)
    for since in ("", "2026-01-01T00:00:10.000Z", "2026-01-01T00", "2026-01-01T10:00:00.000Z", "2027"):
        samples = store.samples("probe", since)
        assert store.sample_counts("probe", since) == type(store.sample_counts("probe"))(
            len(samples), sum(each.ok for each in samples)
        )
        assert store.total_cost(since) == pytest.approx(sum(each.usd or 0 for each in store.costs(since)))
    store.close()
