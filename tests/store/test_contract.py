"""The promises of every storage backend, tested with each of them."""

import inspect
import math
import string
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from chora.errors import InvalidInput, StorageError
from chora.hashing import sha256
from chora.settings import StorageSettings
from chora.store import (
    BACKENDS,
    TRACES_KEPT,
    Completion,
    Cost,
    Draft,
    Event,
    Job,
    Output,
    Sample,
    Store,
    Trace,
    Version,
    open_store,
)
from tests.conftest import requirement
from tests.open_files import open_files_in
from tests.patience import PATIENCE

AT = "2026-11-22T10:{:02}:00.000Z".format
ODD = [
    "",
    "line\r\n\0 Nørvik 🌊 \x7f\u2028",
    "null",
    '{"a": "b"}',
    "..",
    "../../etc/passwd",
    "a/b\\c",
    "CON",
    "nul.txt",
    ".hidden",
    "trailing.",
    " ",
    "Upper",
    "upper",
    "%41",
    "~",
    "x" * 300,
    "ä" * 200,
    string.punctuation,
]
"""Names from outside that can't be the names of files."""


def version(content_id: str = "tides", **rest: Any) -> Version:
    """A text; fields that aren't given are the same each time."""
    values: dict[str, Any] = {
        "body": "low water at noon",
        "sha256": "sha256:00",
        "fingerprint": "sha256:11",
        "generator": "jinja2",
        "generator_version": "1",
        "generated_at": AT(15),
    }
    return Version(content_id=content_id, **(values | rest))


def draft(draft_id: str, **rest: Any) -> Draft:
    values: dict[str, Any] = {"config_type": "content", "config_data": {}, "description": None}
    values |= {"created_at": AT(1), "updated_at": AT(1)}
    return Draft(draft_id=draft_id, **(values | rest))


def output(path: str, **rest: Any) -> Output:
    values: dict[str, Any] = {"artifact_id": "note", "sha256": "a", "pending": None, "fingerprint": "f", "size": 3}
    values["written_at"] = AT(1)
    return Output(path=path, **(values | rest))


def trace(subject: str, key: str, at: str = AT(1), **result: Any) -> Trace:
    return Trace(subject=subject, key=key, seen={"a.json": ["sha256:1", 3, None]}, result=result, at=at)


def job(job_id: str, at: str = AT(1), **rest: Any) -> Job:
    values: dict[str, Any] = {"key": "k", "tool": "batch_generate", "arguments": {"ids": ["a"]}, "principal": "me"}
    values |= {"status": "running", "created_at": at, "updated_at": at}
    return Job(job_id=job_id, **(values | rest))


def cost(at: str, usd: float | None, **rest: Any) -> Cost:
    values: dict[str, Any] = {"content_id": "tides", "model": "m", "input_tokens": 3, "output_tokens": 4}
    return Cost(at=at, usd=usd, **(values | rest))


def completion(key: str, text: str = "high") -> Completion:
    return Completion(key=key, model="m", text=text, input_tokens=3, output_tokens=4, at=AT(1))


def sample(at: str, ok: bool = True, kind: Any = "probe", **facts: Any) -> Sample:
    return Sample(kind=kind, at=at, ok=ok, milliseconds=1.5, facts=facts)


def event(at: str, **rest: Any) -> Event:
    values: dict[str, Any] = {"kind": "chora.content_generated", "status": "success", "trace_id": None}
    return Event(at=at, **(values | rest))


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    """An open, empty store of each backend."""
    store = open_store(tmp_path, StorageSettings(backend=request.param))
    yield store
    store.close()
    assert open_files_in(tmp_path) == []


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_has_every_method_of_the_protocol(name: str, tmp_path: Path):
    """With the same parameters, and async where the Protocol is."""
    store = open_store(tmp_path, StorageSettings(backend=name))  # pyright: ignore[reportArgumentType]
    promised = {name: each for name, each in vars(Store).items() if inspect.isfunction(each) and name[0] != "_"}
    assert len(promised) > 30
    for method, promise in promised.items():
        kept = getattr(type(store), method, None)
        assert kept is not None, f"{name} lacks {method}"
        assert list(inspect.signature(kept).parameters) == list(inspect.signature(promise).parameters), method
        assert inspect.iscoroutinefunction(kept) == inspect.iscoroutinefunction(promise), method
    assert hasattr(store, "path")
    store.close()


def test_every_backend_of_the_settings_exists():
    """And the settings offer every backend."""
    field = next(field for field in msgspec.structs.fields(StorageSettings) if field.name == "backend")
    assert set(BACKENDS) == set(field.type.__origin__.__args__)


async def test_an_empty_store_has_no_records(store: Store):
    """Looking something up is no error, and neither is deleting an unknown record."""
    assert store.version("tides", "20261122T101530123Z-7f3a") is None
    assert store.latest_version("tides") is None
    assert store.version_with_fingerprint("tides", "f") is None
    assert store.versions("tides") == []
    assert store.version_infos("tides") == []
    assert store.content_ids() == []
    assert store.draft("d") is None
    assert store.drafts() == []
    assert store.output("a.md") is None
    assert store.outputs() == store.outputs_of("note") == []
    assert store.trace("s", "k") is None
    assert store.traces("s") == []
    assert store.job("j") is None
    assert store.jobs() == []
    assert store.completion("k") is None
    assert store.total_cost() == 0.0
    assert store.costs() == []
    assert store.samples("probe") == []
    assert store.last_sample("probe") is None
    assert (store.sample_counts("probe").total, store.sample_counts("probe").ok) == (0, 0)
    assert store.events() == []
    assert set(store.counts().values()) == {0}
    assert [record for kind in KINDS for record in store.records(kind)] == []
    await store.delete_versions(["20261122T101530123Z-7f3a", "none"])
    await store.delete_versions([])
    await store.delete_versions(["none"], keep_metadata=True)
    await store.delete_draft("d")
    await store.delete_jobs(["j"])
    await store.delete_jobs([])
    await store.save_outputs([])
    await store.save_traces([])
    await store.add_events([])
    await store.add_records([])
    assert await store.delete_before("9999") == 0
    assert set(store.counts().values()) == {0}
    await store.check()


KINDS = (Version, Draft, Output, Trace, Job, Cost, Completion, Sample, Event)


async def test_counts_have_the_same_names_in_every_backend(store: Store):
    """The status page shows them."""
    names = ["versions", "drafts", "outputs", "traces", "jobs", "costs", "completions", "samples", "events"]
    assert sorted(store.counts()) == sorted(names)
    await store.add_version(version())
    await store.add_version(version())
    await store.add_version(version("harbour"))
    await store.save_draft(draft("d"))
    await store.add_completion(completion("k"), cost(AT(1), 0.5))
    await store.add_events([event(AT(1)), event(AT(1))])
    counts = {name: count for name, count in store.counts().items() if count}
    assert counts == {"versions": 3, "drafts": 1, "costs": 1, "completions": 1, "events": 2}


# -- versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        version(),
        version(
            config_version="1.0.0", stage="approved", approved=True, metadata={"w": ["ä", {"a": [1.5]}], "n": None}
        ),
        version(body="", metadata={}, fingerprint="", generator_version="", sha256=sha256(b"")),
        version(body="line\r\n\0 Nørvik 🌊 \x7f\u2028", config_version="null", stage="true"),
        version(body="x" * 3_000_000),
        version(body='{"not": "parsed"}', metadata={"big": 2**63, "deep": [[[[]]]]}),
    ],
)
async def test_a_version_is_read_back_unchanged(store: Store, given: Version):
    """Every field, whatever its characters and its length; only the id is new."""
    saved = await store.add_version(given)
    assert saved == msgspec.structs.replace(given, version_id=saved.version_id)
    assert store.latest_version("tides") == saved
    assert store.version_with_fingerprint("tides", given.fingerprint) == saved
    assert store.version("tides", saved.version_id) == saved
    assert store.version("harbour", saved.version_id) is None
    assert store.versions("tides") == [saved]
    [info] = store.version_infos("tides")
    assert info.size == len(given.body.encode())
    for field in ("version_id", "content_id", "generated_at", "generator", "config_version", "stage", "approved"):
        assert getattr(info, field) == getattr(saved, field)


async def test_the_latest_version_may_have_another_fingerprint(store: Store):
    """A text of another input may be newer, but isn't found by this fingerprint."""
    first = await store.add_version(version(fingerprint="a"))
    second = await store.add_version(version(fingerprint="b", config_version="2.0.0"))
    third = await store.add_version(version(fingerprint="a", config_version="2.0.0"))
    fourth = await store.add_version(version(fingerprint="d"))
    await store.add_version(version("harbour", fingerprint="c"))
    assert store.latest_version("tides") == fourth
    assert store.version_with_fingerprint("tides", "a") == third
    assert store.version_with_fingerprint("tides", "b") == second
    assert store.version_with_fingerprint("tides", "c") is None
    assert store.versions("tides") == [first, second, third, fourth]
    assert [info.version_id for info in store.version_infos("tides")] == [
        each.version_id for each in (first, second, third, fourth)
    ]
    assert store.content_ids() == ["harbour", "tides"]


@requirement("identity.version-ids")
async def test_ids_rise_and_are_never_reused(store: Store):
    """Neither those of deleted versions nor that of the newest one."""
    given = [(await store.add_version(version(f"c{number % 3}"))).version_id for number in range(20)]
    assert given == sorted(set(given))
    await store.delete_versions(given[10:])
    more = [(await store.add_version(version())).version_id for _ in range(5)]
    assert min(more) > max(given)
    await store.delete_versions([*given, *more])
    assert store.content_ids() == []
    assert (await store.add_version(version())).version_id > max(more)


async def test_ids_of_many_writers_differ(store: Store):
    """With concurrent writes."""
    given: list[str] = []

    async def add() -> None:
        for _ in range(5):
            given.append((await store.add_version(version())).version_id)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(add)
    assert len(set(given)) == 40
    assert [each.version_id for each in store.versions("tides")] == sorted(given)


async def test_a_version_that_has_an_id_keeps_it(store: Store):
    """It is sorted by its id; storing it again replaces it; later ids are above it."""
    newer = await store.add_version(version(version_id="20260301T000000000Z-0001", body="newer"))
    older = await store.add_version(
        version(version_id="20250301T000000000Z-ffff", body="older", config_version="1.0.0")
    )
    assert store.versions("tides") == [older, newer]
    assert store.latest_version("tides") == newer
    again = await store.add_version(msgspec.structs.replace(older, body="again", metadata={"a": 1}))
    assert store.versions("tides") == [again, newer]
    moved = await store.add_version(msgspec.structs.replace(newer, content_id="harbour"))
    assert store.versions("tides") == [again]
    assert store.versions("harbour") == [moved]
    assert store.counts()["versions"] == 2
    future = await store.add_version(version(version_id="29990301T000000000Z-ffff"))
    assert (await store.add_version(version())).version_id == "29990301T000000001Z-0000"
    await store.delete_versions([future.version_id])
    assert (await store.add_version(version())).version_id == "29990301T000000001Z-0001"


@pytest.mark.parametrize(
    "odd", ["v1", "20261122T101530123Z-7F3A", "20261322T101530123Z-7f3a", "99991231T235959999Z-ffff", "../x", "١" * 8]
)
async def test_an_invalid_id_is_refused(store: Store, odd: str):
    """An id contains a time, or later ids couldn't be above it."""
    with pytest.raises(InvalidInput, match="not the id of a version"):
        await store.add_version(version(version_id=odd))
    with pytest.raises(InvalidInput, match="not the id of a version"):
        await store.add_records([version(version_id=odd)])
    assert store.counts()["versions"] == 0


async def test_versions_are_ordered_by_their_ids(store: Store):
    """Not by when they were stored, nor by what they say of when they were generated."""
    ids = [f"20260101T00000000{number}Z-0000" for number in range(4)]
    await store.add_records(
        version(version_id=ids[number], generated_at=AT(9 - number), body=str(number)) for number in (2, 0, 3, 1)
    )
    assert [each.version_id for each in store.versions("tides")] == ids
    assert [each.version_id for each in store.version_infos("tides")] == ids
    for latest in (store.latest_version("tides"), store.version_with_fingerprint("tides", "sha256:11")):
        assert latest is not None
        assert latest.version_id == ids[3]


async def test_a_deleted_version_is_removed_or_keeps_its_metadata(store: Store):
    """With its metadata kept it is still listed, but never found as a text."""
    first = await store.add_version(version(body="one", fingerprint="a"))
    second = await store.add_version(version(body="two", fingerprint="b", config_version="2.0.0", metadata={"k": 1}))
    third = await store.add_version(version(body="three", fingerprint="c"))
    await store.delete_versions([second.version_id, third.version_id], keep_metadata=True)
    kept = msgspec.structs.replace(second, body="", deleted=True)
    assert store.versions("tides") == [first, kept, msgspec.structs.replace(third, body="", deleted=True)]
    assert store.version("tides", second.version_id) == kept
    assert [(info.deleted, info.size) for info in store.version_infos("tides")] == [(False, 3), (True, 0), (True, 0)]
    assert store.latest_version("tides") == first
    assert store.version_with_fingerprint("tides", "b") is None
    await store.delete_versions([first.version_id, third.version_id])
    assert store.versions("tides") == [kept]
    assert store.latest_version("tides") is None
    assert store.content_ids() == ["tides"]
    await store.delete_versions([kept.version_id])
    assert store.versions("tides") == store.version_infos("tides") == store.content_ids() == []


@pytest.mark.slow("writes thousands of files")
async def test_thousands_of_versions_are_deleted_at_once(store: Store):
    """More than SQLite allows parameters; others stay."""
    ids = [f"20260101T000000000Z-{number:04x}" for number in range(1500)]
    await store.add_records(version(f"c{number % 7}", version_id=each) for number, each in enumerate(ids))
    await store.delete_versions(["none", *ids[500:], *(f"20250101T000000000Z-{n:04x}" for n in range(40_000))])
    assert store.counts()["versions"] == 500
    assert sorted(info.version_id for each in store.content_ids() for info in store.version_infos(each)) == ids[:500]


@pytest.mark.parametrize("name", ODD)
async def test_names_may_be_any_text(store: Store, name: str, tmp_path: Path):
    """Ids and paths from outside neither lead out of the store (CWE-22) nor get mixed up."""
    around = set(tmp_path.rglob("*"))
    for other in {"upper", "%", "x" * 301, name + "x"} - {name}:
        await store.add_version(version(other, body="other"))
        await store.save_draft(draft(other))
    saved = await store.add_version(version(name))
    await store.save_draft(draft(name, description="mine"))
    await store.save_outputs([output(name, artifact_id=name)])
    await store.save_traces([trace(name, name, x=1)])
    await store.save_job(job(name))
    await store.add_completion(completion(name), cost(AT(1), 0.1))
    assert store.versions(name) == [saved]
    assert name in store.content_ids()
    assert len(store.content_ids()) == len(set(store.content_ids())) == store.counts()["versions"]
    assert store.draft(name) == draft(name, description="mine")
    assert store.outputs_of(name) == [store.output(name)] == [output(name, artifact_id=name)]
    assert store.traces(name) == [store.trace(name, name)] == [trace(name, name, x=1)]
    assert store.jobs() == [store.job(name)] == [job(name)]
    assert store.completion(name) == completion(name)
    await store.delete_draft(name)
    assert store.draft(name) is None
    await store.delete_jobs([name])
    assert store.jobs() == []
    await store.delete_versions([saved.version_id])
    assert store.versions(name) == []
    assert name not in store.content_ids()
    for path in set(tmp_path.rglob("*")) - around:
        assert path.relative_to(tmp_path).parts[0] in (".chora", "ephemeral")


# -- drafts, outputs, traces, jobs ------------------------------------------------------------------------------


async def test_a_draft_is_replaced_and_deleted(store: Store):
    """Its last state counts; drafts are listed oldest first."""
    data = {"id": "tides", "list": [1, None, {"ä": True}], "big": 2**63, "number": 1.5}
    first = draft("draft-20260101T000000-abc123", config_data=data, created_at=AT(3))
    await store.save_draft(first)
    await store.save_draft(draft("draft-b", created_at=AT(2)))
    await store.save_draft(draft("draft-a", created_at=AT(3)))
    assert store.draft(first.draft_id) == first
    assert [each.draft_id for each in store.drafts()] == ["draft-b", first.draft_id, "draft-a"]
    second = msgspec.structs.replace(first, config_data={}, description="null", updated_at=AT(4))
    await store.save_draft(second)
    assert store.draft(first.draft_id) == second
    await store.delete_draft(first.draft_id)
    await store.delete_draft(first.draft_id)
    assert [each.draft_id for each in store.drafts()] == ["draft-b", "draft-a"]


async def test_drafts_of_the_same_moment_go_by_their_ids(store: Store):
    """In whatever order they were stored."""
    for name in "cab":
        await store.save_draft(draft(f"draft-{name}"))
    assert [each.draft_id for each in store.drafts()] == ["draft-a", "draft-b", "draft-c"]


async def test_contents_are_listed_by_name(store: Store):
    """In whatever order they were stored."""
    names = [f"{letter}-note" for letter in "hbgdaecf"]
    for name in names:
        await store.add_version(version(name))
    assert store.content_ids() == sorted(names)


async def test_a_draft_and_a_content_may_have_the_same_id(store: Store):
    """Test outputs are stored under the id of their draft."""
    name = "draft-20260101T000000-abc123"
    await store.save_draft(draft(name))
    saved = await store.add_version(version(name, metadata={"test_output": True}))
    assert store.latest_version(name) == saved
    await store.delete_draft(name)
    assert store.latest_version(name) == saved


async def test_outputs_are_kept_by_path(store: Store):
    """The record of a file is replaced, also by that of another artifact; outputs are sorted by path."""
    await store.save_outputs(
        iter(
            [output("b.md"), output("a.md", sha256=None, pending="p", base="höher\n"), output("c.md", artifact_id="x")]
        )
    )
    await store.save_outputs([output("b.md", size=2**40), output("c.md", artifact_id="y")])
    assert store.output("b.md") == output("b.md", size=2**40)
    assert store.outputs_of("note") == [
        output("a.md", sha256=None, pending="p", base="höher\n"),
        output("b.md", size=2**40),
    ]
    assert store.outputs_of("x") == []
    assert [each.path for each in store.outputs()] == ["a.md", "b.md", "c.md"]


async def test_only_the_newest_traces_of_a_subject_stay(store: Store):
    """In whatever order they are stored; a trace that is stored again counts as new."""
    await store.save_traces(trace("s", f"{number:02}", AT(number)) for number in reversed(range(TRACES_KEPT)))
    await store.save_traces([trace("other", "k", AT(0))])
    assert len(store.traces("s")) == TRACES_KEPT
    await store.save_traces([trace("s", "00", AT(50), again=True), trace("s", "new", AT(51))])
    keys = [each.key for each in store.traces("s")]
    assert keys == ["new", "00", *(f"{number:02}" for number in range(TRACES_KEPT - 1, 1, -1))]
    assert store.trace("s", "00") == trace("s", "00", AT(50), again=True)
    assert store.trace("s", "01") is None
    assert store.traces("other") == [trace("other", "k", AT(0))]
    assert store.counts()["traces"] == TRACES_KEPT + 1


async def test_traces_of_the_same_moment_go_by_their_order(store: Store):
    """The one stored last is the newest."""
    for number in range(TRACES_KEPT + 2):
        await store.save_traces([trace("s", str(number))])
    assert [each.key for each in store.traces("s")] == [str(number) for number in range(TRACES_KEPT + 1, 1, -1)]


async def test_jobs_come_newest_first(store: Store):
    """By creation time, whatever happened to them since."""
    for name, minute in (("b", 2), ("c", 1), ("a", 2), ("d", 3)):
        await store.save_job(job(name, AT(minute)))
    done = job(
        "c", AT(1), status="done", updated_at=AT(9), progress={"done": 1, "total": 2}, result='{"success": true}'
    )
    await store.save_job(done)
    assert store.job("c") == done
    assert [each.job_id for each in store.jobs()] == ["d", "b", "a", "c"]
    await store.delete_jobs(["d", "none", "a"])
    assert [each.job_id for each in store.jobs()] == ["b", "c"]
    assert store.job("d") is None


async def test_the_latest_job_of_a_key_is_the_newest(store: Store):
    """By time, then by id; neither the last one stored nor the highest id, and no other key's."""
    for name, minute in (("b", 2), ("c", 2), ("a", 2), ("d", 1)):
        await store.save_job(job(name, AT(minute)))
    await store.save_job(job("e", AT(3), key="other"))
    latest = store.latest_job("k")
    assert latest is not None
    assert latest.job_id == "c"
    assert store.latest_job("none") is None


async def test_the_outputs_of_an_artifact_are_ordered_by_path(store: Store):
    """In whatever order they were stored."""
    await store.save_outputs([output("c.md"), output("a.md"), output("b.md")])
    assert [each.path for each in store.outputs_of("note")] == ["a.md", "b.md", "c.md"]


async def test_records_saved_together_are_saved_all_or_none(store: Store):
    """A record that can't be stored fails the others of its transaction."""
    unwritable: Any = object()
    with pytest.raises(TypeError):
        await store.save_traces([trace("s", "a"), trace("s", "b", x=unwritable)])
    with pytest.raises(TypeError):
        await store.add_events([event(AT(1)), event(AT(1), facts={"x": unwritable})])
    assert set(store.counts().values()) == {0}
    await store.save_traces([trace("s", "a"), trace("s", "b")])
    assert store.counts()["traces"] == 2


# -- language models, measurements, events ----------------------------------------------------------------------


async def test_an_answer_is_kept_with_its_cost(store: Store):
    """Costs add up from a time on; one without a known price counts as zero, and none replaces another."""
    await store.add_completion(completion("a", "tief\n"), cost(AT(2), 0.25))
    await store.add_completion(completion("b"), cost(AT(1), 0.5, content_id="harbour"))
    await store.add_completion(completion("a", "neu"), cost(AT(3), None))
    await store.add_completion(completion("c", ""), cost(AT(3), 0.125))
    assert store.completion("a") == completion("a", "neu")
    assert store.completion("c") == completion("c", "")
    assert store.total_cost() == 0.875
    assert store.total_cost(AT(2)) == 0.375
    assert store.total_cost(AT(4)) == 0.0
    assert store.costs() == [
        cost(AT(1), 0.5, content_id="harbour"),
        cost(AT(2), 0.25),
        cost(AT(3), None),
        cost(AT(3), 0.125),
    ]
    assert store.costs(AT(3)) == [cost(AT(3), None), cost(AT(3), 0.125)]


async def test_samples_are_counted_since_a_time(store: Store):
    """Including that moment; by kind; the newest is the one with the latest time."""
    for minute, ok in ((3, True), (4, True), (1, True), (2, False)):
        await store.add_sample(sample(AT(minute), ok, error=None if ok else "timeout"))
    await store.add_sample(sample(AT(50), kind="latency", p95=0.01))
    assert [found.at for found in store.samples("probe", AT(2))] == [AT(2), AT(3), AT(4)]
    assert store.samples("probe", AT(2))[0] == sample(AT(2), False, error="timeout")
    assert (store.sample_counts("probe").total, store.sample_counts("probe").ok) == (4, 3)
    assert (store.sample_counts("probe", AT(2)).total, store.sample_counts("probe", AT(2)).ok) == (3, 2)
    assert store.last_sample("probe") == sample(AT(4), error=None)
    assert store.last_sample("latency") == sample(AT(50), kind="latency", p95=0.01)


async def test_samples_of_the_same_moment_go_by_their_order(store: Store):
    """The one stored last is the last."""
    for number in (3, 1, 2):
        await store.add_sample(sample(AT(2), number=number))
    await store.add_sample(sample(AT(1), number=4))
    assert [each.facts["number"] for each in store.samples("probe")] == [4, 3, 1, 2]
    last = store.last_sample("probe")
    assert last is not None
    assert last.facts["number"] == 2


async def test_events_come_newest_first(store: Store):
    """By time, those of the same moment by their order; limited in number and to those since a time."""
    await store.add_events([event(AT(2), facts={"n": 1}), event(AT(1), trace_id="t"), event(AT(2), facts={"n": 2})])
    await store.add_events([event(AT(2), facts={"n": 3})])
    assert store.events() == [
        event(AT(2), facts={"n": 3}),
        event(AT(2), facts={"n": 2}),
        event(AT(2), facts={"n": 1}),
        event(AT(1), trace_id="t"),
    ]
    assert [each.facts["n"] for each in store.events(limit=2)] == [3, 2]
    assert len(store.events(since=AT(2))) == 3
    assert store.events(limit=0) == []
    await store.add_events([event(AT(3))] * 150)
    assert len(store.events()) == 100


async def test_old_events_and_samples_are_deleted(store: Store):
    """Those before a time, and nothing else."""
    await store.add_events([event(AT(minute)) for minute in range(4)])
    for minute in range(5):
        await store.add_sample(sample(AT(minute)))
        await store.add_sample(sample(AT(minute), kind="latency"))
    await store.add_completion(completion("a"), cost(AT(0), 1.0))
    assert await store.delete_before(AT(2)) == 6
    assert [each.at for each in store.events()] == [AT(3), AT(2)]
    assert [each.at for each in store.samples("probe")] == [AT(2), AT(3), AT(4)]
    assert store.total_cost() == 1.0
    assert await store.delete_before(AT(2)) == 0
    await store.add_sample(sample(AT(1)))  # one that is stored late is kept
    assert store.sample_counts("probe").total == 4


# -- everything -------------------------------------------------------------------------------------------------


async def test_records_are_exported_and_imported_unchanged(store: Store, tmp_path: Path):
    """All of a kind in the order in which they were stored, from any store into any other."""
    given: list[Any] = [
        *(version(f"c{n % 3}", version_id=f"20260101T00000000{n}Z-0000", generated_at=AT(n)) for n in range(9)),
        *(draft(f"d{n}", created_at=AT(n)) for n in range(3)),
        *(output(f"{n:03}.md") for n in range(250)),
        *(trace("s", str(n)) for n in range(3)),
        *(job(f"j{n}") for n in range(3)),
        *(cost(AT(5 - n), n / 4) for n in range(3)),
        *(completion(f"k{n}") for n in range(3)),
        *(sample(AT(1), n=n) for n in range(3)),
        *(event(AT(1), facts={"n": n}) for n in range(3)),
    ]
    await store.add_records(iter(given))
    for kind in KINDS:
        found, expected = list(store.records(kind)), [each for each in given if type(each) is kind]
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        if kind in (Cost, Sample, Event, Trace):
            assert found == expected
    for each in given:
        if not isinstance(each, Cost | Sample | Event):
            await store.add_records([each])
    assert sum(store.counts().values()) == len(given)
    with pytest.raises(InvalidInput):
        await store.add_records([output("x.md"), version()])
    assert store.output("x.md") is None


async def test_a_closed_store_raises(store: Store):
    """Every later call is a StorageError; closing twice is no error."""
    await store.add_version(version())
    store.close()
    store.close()
    for ask in (store.counts, lambda: store.versions("tides"), store.jobs, store.drafts):
        with pytest.raises(StorageError):
            ask()
    for attempt in (store.check, lambda: store.add_version(version()), lambda: store.add_sample(sample(AT(1)))):
        with pytest.raises(StorageError):
            await attempt()


async def test_a_check_leaves_everything_as_it_was(store: Store):
    """Also the one that writes to see whether it can."""
    await store.add_version(version())
    before = store.counts()
    async with trio.open_nursery() as nursery:
        for within in (0.0, 0.0, 60.0, math.inf):
            nursery.start_soon(store.check, within)
    assert store.counts() == before


@requirement("storage.backends")
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "memory"])
async def test_a_reopened_store_has_everything(name: Any, tmp_path: Path):
    """For the next process."""
    store = open_store(tmp_path, StorageSettings(backend=name))
    assert store.path is not None
    assert tmp_path in store.path.parents
    saved = await store.add_version(version())
    await store.save_draft(draft("d"))
    await store.save_traces([trace("s", "k")])
    await store.save_job(job("j"))
    await store.delete_jobs(["j"])
    await store.add_events([event(AT(1)), event(AT(2))])
    await store.delete_before(AT(2))
    store.close()
    store = open_store(tmp_path, StorageSettings(backend=name))
    assert store.versions("tides") == [saved]
    assert store.drafts() == [draft("d")]
    assert store.traces("s") == [trace("s", "k")]
    assert store.jobs() == []
    assert store.events() == [event(AT(2))]
    store.close()


@requirement("storage.shared")
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "memory"])
async def test_two_open_stores_see_each_others_changes(name: Any, tmp_path: Path):
    """At once: what one has acknowledged, the other can read."""
    one = open_store(tmp_path, StorageSettings(backend=name))
    other = open_store(tmp_path, StorageSettings(backend=name))
    for number in range(12):
        writer, reader = (one, other) if number % 2 else (other, one)
        saved = await writer.add_version(version(fingerprint=str(number), config_version=f"{number // 4}.0.0"))
        assert reader.latest_version("tides") == saved
        assert reader.version_with_fingerprint("tides", str(number)) == saved
        assert len(reader.version_infos("tides")) == number + 1
        await writer.save_draft(draft("d", description=str(number)))
        assert reader.drafts() == [draft("d", description=str(number))]
        await writer.save_traces([trace("s", str(number), AT(number))])
        assert reader.traces("s")[0].key == str(number)
        await writer.save_job(job("j", progress={"done": number}))
        found = reader.job("j")
        assert found is not None
        assert found.progress == {"done": number}
    ids = [info.version_id for info in one.version_infos("tides")]
    await one.delete_versions(ids[:6], keep_metadata=True)
    assert [info.deleted for info in other.version_infos("tides")] == [True] * 6 + [False] * 6
    await other.delete_versions(ids[3:])
    assert [info.version_id for info in one.version_infos("tides")] == ids[:3]
    assert one.latest_version("tides") is None
    one.close()
    other.close()


# -- cancellation -----------------------------------------------------------------------------------------------


class SlowDisk:
    """Holds each write in its thread, before it does anything, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._held: list[threading.Event] = []
        self._begun = trio.Event()
        token, real = trio.lowlevel.current_trio_token(), trio.to_thread.run_sync

        def begin(go_on: threading.Event) -> None:
            self._held.append(go_on)
            self._begun.set()

        async def run_sync(write: Callable[..., Any], *given: Any, **options: Any) -> Any:
            def held() -> Any:
                go_on = threading.Event()
                token.run_sync_soon(begin, go_on)
                assert go_on.wait(PATIENCE)
                return write(*given)

            return await real(held, **options)

        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)

    async def wait_until_writing(self) -> None:
        """Wait until a write has begun that isn't let go."""
        while not self._held:
            self._begun = trio.Event()
            await self._begun.wait()

    def let_go(self) -> None:
        """Let the write that has begun go on."""
        self._held.pop(0).set()

    async def write_the_rest(self) -> None:
        """Let go of every write as it begins, for ever."""
        while True:
            await self.wait_until_writing()
            self.let_go()


class Writers:
    """Writers that can be cancelled one by one, and what was stored when each one's scope ended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scopes: dict[str, trio.CancelScope] = {}
        self.stored_at_end: dict[str, bool] = {}

    def stored(self) -> set[str]:
        return {each.body for each in self._store.versions("tides")}

    async def add(self, body: str, then_cancel: str | None = None) -> None:
        with trio.CancelScope() as self._scopes[body]:
            await self._store.add_version(version(body=body))
            if then_cancel:
                self.cancel(then_cancel)
        self.stored_at_end[body] = body in self.stored()

    def cancel(self, *bodies: str) -> None:
        for body in bodies:
            self._scopes[body].cancel()


@asynccontextmanager
async def writing_nursery(disk: SlowDisk) -> AsyncGenerator[trio.Nursery]:
    """A nursery for writers, whose writes are all let go at the end of its body."""
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            yield nursery
            outer.start_soon(disk.write_the_rest)
        outer.cancel_scope.cancel()


async def start_one_by_one(nursery: trio.Nursery, writers: Writers, *bodies: str) -> None:
    """Start writers that wait for the one before them."""
    for body in bodies:
        nursery.start_soon(writers.add, body)
        await trio.testing.wait_all_tasks_blocked()


async def test_a_cancelled_write_is_done_or_not_begun_when_its_scope_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """One under way is waited for; none is stored after the scope of its caller has ended."""
    disk, writers = SlowDisk(monkeypatch), Writers(store)
    with trio.fail_after(PATIENCE):
        async with writing_nursery(disk) as nursery:
            await start_one_by_one(nursery, writers, "first")
            await disk.wait_until_writing()
            await start_one_by_one(nursery, writers, "second", "third", "fourth")
            writers.cancel("first", "fourth")
            await trio.testing.wait_all_tasks_blocked()
            assert writers.stored_at_end == {"fourth": False}, "the one under way is waited for, the other not begun"
            disk.let_go()
            await disk.wait_until_writing()  # the second, and in some stores the third with it
            assert writers.stored_at_end == {"first": True, "fourth": False}
            writers.cancel("second", "third")
            await trio.testing.wait_all_tasks_blocked()
            assert "second" not in writers.stored_at_end
    assert writers.stored_at_end["second"]
    assert {body for body, stored in writers.stored_at_end.items() if stored} == writers.stored()
    monkeypatch.undo()
    await store.add_version(version(body="afterwards"))
    assert "afterwards" in writers.stored()


async def test_a_writer_cancelled_as_its_turn_comes_takes_nobody_with_it(store: Store, monkeypatch: pytest.MonkeyPatch):
    """What others wanted to write together with it is written."""
    disk, writers = SlowDisk(monkeypatch), Writers(store)
    with trio.fail_after(PATIENCE):
        async with writing_nursery(disk) as nursery:
            nursery.start_soon(writers.add, "first", "second")
            await disk.wait_until_writing()
            await start_one_by_one(nursery, writers, "second", "third")
    assert {"first", "third"} <= writers.stored()
    assert {body for body, stored in writers.stored_at_end.items() if stored} == writers.stored()
