"""Every read of a store gives what its description says of what is stored, with each backend."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from chora.store import TRACES_KEPT, Cost, Draft, Event, Job, Output, Sample, Store, Trace, Version
from chora.store.records import ContentState, SampleCounts, VersionAge, VersionInfo
from chora.store.store import LAST
from tests.store import test_contract
from tests.store.test_contract import AT, completion, cost, draft, event, job, output, sample, trace, version

store = test_contract.store

CONTENTS = ("tides", "harbour", "wind")
TIMES = [AT(minute) for minute in range(6)]
CONFIG_VERSIONS = (None, "1.0.0", "2.0.0")


class Records:
    """What is stored, as lists, and each read as a search of them."""

    def __init__(self) -> None:
        self.all_versions: dict[str, Version] = {}
        self.all_drafts: dict[str, Draft] = {}
        self.all_outputs: dict[str, Output] = {}
        self.all_jobs: dict[str, Job] = {}
        self.all_traces: list[Trace] = []
        self.all_costs: list[Cost] = []
        self.all_samples: list[Sample] = []
        self.all_events: list[Event] = []

    def versions(self, content_id: str) -> list[Version]:
        return sorted((each for each in self.all_versions.values() if each.content_id == content_id), key=id_of)

    def kept(self, content_id: str) -> list[Version]:
        return [each for each in self.versions(content_id) if not each.deleted]

    def version(self, content_id: str, version_id: str) -> Version | None:
        return next((each for each in self.versions(content_id) if each.version_id == version_id), None)

    def latest_version(self, content_id: str) -> Version | None:
        return last(self.kept(content_id))

    def version_with_fingerprint(self, content_id: str, fingerprint: str) -> Version | None:
        return last([each for each in self.kept(content_id) if each.fingerprint == fingerprint])

    def content_state(self, content_id: str) -> ContentState:
        kept = self.kept(content_id)
        return ContentState(len(self.versions(content_id)), len(kept), info_of(kept[-1]) if kept else None)

    def version_infos(
        self, content_id: str, *, kept: bool = False, after: str = "", limit: int | None = None
    ) -> list[VersionInfo]:
        among = self.kept(content_id) if kept else self.versions(content_id)
        return [info_of(each) for each in among if each.version_id > after][:limit]

    def newest_infos(self, content_id: str, limit: int, *, kept: bool = False, skip: int = 0) -> list[VersionInfo]:
        return self.version_infos(content_id, kept=kept)[::-1][skip : skip + limit]

    def find_info(
        self, content_id: str, *, config_version: str | None = None, prefix: str = "", approved: bool = False
    ) -> VersionInfo | None:
        among = self.kept(content_id)
        if approved:
            found = last([each for each in among if each.approved])
        elif config_version is not None:
            found = last([each for each in among if each.config_version == config_version])
        else:
            by_time = [each for each in sorted(among, key=age_of) if each.generated_at.startswith(prefix)]
            by_id = [each for each in among if each.version_id.startswith(prefix)]
            found = last(sorted(by_time[-1:] + by_id[-1:], key=id_of))
        return found and info_of(found)

    def versions_by_time(
        self, content_id: str, after: VersionAge, *, before: str = LAST, limit: int
    ) -> list[VersionAge]:
        ages = sorted(age_of(each) for each in self.kept(content_id))
        return [age for age in ages if age[:2] > after[:2] and age.generated_at < before][:limit]

    def content_ids(self, after: str | None = None, limit: int | None = None) -> list[str]:
        found = sorted({each.content_id for each in self.all_versions.values()})
        return [each for each in found if after is None or each > after][:limit]

    def draft(self, draft_id: str) -> Draft | None:
        return self.all_drafts.get(draft_id)

    def drafts(self, limit: int | None = None) -> list[Draft]:
        return sorted(self.all_drafts.values(), key=lambda each: (each.created_at, each.draft_id))[:limit]

    def drafts_before(self, before: str, limit: int) -> list[str]:
        found = sorted((each.updated_at, each.draft_id) for each in self.all_drafts.values())
        return [draft_id for updated_at, draft_id in found if updated_at < before][:limit]

    def output(self, path: str) -> Output | None:
        return self.all_outputs.get(path)

    def outputs(self) -> list[Output]:
        return [each for _, each in sorted(self.all_outputs.items())]

    def outputs_of(self, artifact_id: str) -> list[Output]:
        return [each for each in self.outputs() if each.artifact_id == artifact_id]

    def trace(self, subject: str, key: str) -> Trace | None:
        return next((each for each in self.traces(subject) if each.key == key), None)

    def traces(self, subject: str) -> list[Trace]:
        among = sorted((each for each in self.all_traces if each.subject == subject), key=lambda each: each.at)
        return among[::-1][:TRACES_KEPT]

    def job(self, job_id: str) -> Job | None:
        return self.all_jobs.get(job_id)

    def jobs(self, limit: int | None = None) -> list[Job]:
        return sorted(self.all_jobs.values(), key=lambda each: (each.created_at, each.job_id))[::-1][:limit]

    def latest_job(self, key: str) -> Job | None:
        return next((each for each in self.jobs() if each.key == key), None)

    def jobs_before(self, before: str, limit: int) -> list[str]:
        found = sorted((each.updated_at, each.job_id) for each in self.all_jobs.values())
        return [job_id for updated_at, job_id in found if updated_at < before][:limit]

    def costs(self, since: str = "") -> list[Cost]:
        return sorted((each for each in self.all_costs if each.at >= since), key=lambda each: each.at)

    def total_cost(self, since: str = "") -> float:
        return sum(each.usd or 0.0 for each in self.costs(since))

    def samples(self, kind: str, since: str = "") -> list[Sample]:
        among = [each for each in self.all_samples if each.kind == kind and each.at >= since]
        return sorted(among, key=lambda each: each.at)

    def last_sample(self, kind: str) -> Sample | None:
        return last(self.samples(kind))

    def sample_counts(self, kind: str, since: str = "") -> SampleCounts:
        found = self.samples(kind, since)
        return SampleCounts(len(found), sum(each.ok for each in found))

    def events(self, since: str = "", limit: int = 100) -> list[Event]:
        return sorted((each for each in self.all_events if each.at >= since), key=lambda each: each.at)[::-1][:limit]

    def counts(self) -> dict[str, int]:
        traces = sum(len(self.traces(subject)) for subject in {each.subject for each in self.all_traces})
        return {
            "versions": len(self.all_versions),
            "drafts": len(self.all_drafts),
            "outputs": len(self.all_outputs),
            "traces": traces,
            "jobs": len(self.all_jobs),
            "costs": len(self.all_costs),
            "samples": len(self.all_samples),
            "events": len(self.all_events),
        }


def id_of(each: Version) -> str:
    return each.version_id


def age_of(each: Version) -> VersionAge:
    return VersionAge(each.generated_at, each.version_id, len(each.body.encode()))


def last(found: list[Any]) -> Any:
    return found[-1] if found else None


def info_of(each: Version) -> VersionInfo:
    values = {name: getattr(each, name) for name in VersionInfo.__struct_fields__ if name != "size"}
    return VersionInfo(**values, size=len(each.body.encode()))


async def change(store: Store, records: Records, chance: random.Random, number: int) -> None:
    """One change of each kind of record, some of which replace or delete an earlier one."""
    when, other = chance.choice(TIMES), chance.choice(TIMES)
    given = version(
        chance.choice(CONTENTS),
        version_id=f"2026010{chance.randint(1, 3)}T1015{chance.randrange(60_000):05}Z-{number:04x}",
        body="ü" * chance.randrange(4),
        fingerprint=chance.choice("ab"),
        generated_at=when,
        config_version=chance.choice(CONFIG_VERSIONS),
        approved=chance.random() < 0.3,
    )
    await store.add_version(given)
    records.all_versions[given.version_id] = given
    for keep in (True, False):
        if chance.random() < 0.2:
            chosen = chance.sample(sorted(records.all_versions), chance.randint(1, min(3, len(records.all_versions))))
            await store.delete_versions(chosen, keep_metadata=keep)
            for version_id in chosen:
                known = records.all_versions.pop(version_id)
                if keep:
                    records.all_versions[version_id] = msgspec.structs.replace(known, body="", deleted=True)
    kept_draft = draft(
        chance.choice("abcde"), created_at=when, updated_at=other, description=chance.choice([None, "d"])
    )
    await store.save_draft(kept_draft)
    records.all_drafts[kept_draft.draft_id] = kept_draft
    kept_job = job(chance.choice("abcde"), when, key=chance.choice("kl"), updated_at=other)
    await store.save_job(kept_job)
    records.all_jobs[kept_job.job_id] = kept_job
    if chance.random() < 0.2:
        gone = chance.choice("abcde")
        await store.delete_draft(gone)
        await store.delete_jobs([gone, "none"])
        records.all_drafts.pop(gone, None)
        records.all_jobs.pop(gone, None)
    written = output(chance.choice("abcd"), artifact_id=chance.choice("xy"), size=number)
    await store.save_outputs([written])
    records.all_outputs[written.path] = written
    made = trace(chance.choice("st"), chance.choice("klm"), when, n=number)
    await store.save_traces([made])
    records.all_traces = [each for each in records.all_traces if (each.subject, each.key) != (made.subject, made.key)]
    records.all_traces.append(made)
    paid = cost(when, chance.choice([None, 0.25, 0.5]))
    await store.add_completion(completion("k"), paid)
    records.all_costs.append(paid)
    measured = sample(when, chance.random() < 0.5, chance.choice(["probe", "latency"]), n=number)
    await store.add_sample(measured)
    records.all_samples.append(measured)
    happened = event(when, facts={"n": number})
    await store.add_events([happened])
    records.all_events.append(happened)


def questions(records: Records, chance: random.Random) -> list[tuple[str, Callable[[Any], Any]]]:
    """Every read, with each combination of what may be asked for."""
    ids = sorted(records.all_versions)
    some, limits = ["", *chance.sample(ids, min(3, len(ids)))], (0, 1, 2, 50)
    found: list[tuple[str, Callable[[Any], Any]]] = []

    def ask(name: str, *arguments: Any, **options: Any) -> None:
        shown = f"{name}{arguments}{options}"
        found.append((shown, lambda store: getattr(store, name)(*arguments, **options)))

    for content_id in (*CONTENTS, "none"):
        for name in ("versions", "latest_version", "content_state", "version_infos"):
            ask(name, content_id)
        for version_id in some:
            ask("version", content_id, version_id)
        for fingerprint in "abc":
            ask("version_with_fingerprint", content_id, fingerprint)
        for kept in (False, True):
            for limit in limits:
                for after in some:
                    ask("version_infos", content_id, kept=kept, after=after, limit=limit)
                for skip in (0, 1, 3):
                    ask("newest_infos", content_id, limit, kept=kept, skip=skip)
        for prefix in ("", "2026", "20260102", "2026-11-22T10:03", *TIMES, *some):
            ask("find_info", content_id, prefix=prefix)
        for config_version in ("1.0.0", "3.0.0"):
            ask("find_info", content_id, config_version=config_version)
        ask("find_info", content_id, approved=True)
        for age in (VersionAge("", "", 0), *(age_of(each) for each in records.kept(content_id)[:2])):
            for before in (LAST, TIMES[3]):
                for limit in (1, 50):
                    ask("versions_by_time", content_id, age, before=before, limit=limit)
    for after in (None, "", *CONTENTS):
        for limit in (None, *limits):
            ask("content_ids", after, limit)
    for limit in (None, *limits):
        ask("drafts", limit)
        ask("jobs", limit)
    for since in ("", *TIMES):
        for limit in limits:
            ask("drafts_before", since, limit)
            ask("jobs_before", since, limit)
            ask("events", since, limit)
        ask("costs", since)
        ask("total_cost", since)
        for kind in ("probe", "latency"):
            ask("samples", kind, since)
            ask("sample_counts", kind, since)
    for key in "abcdeklm":
        for name in ("draft", "job", "output", "latest_job"):
            ask(name, key)
        for subject in "st":
            ask("trace", subject, key)
    for artifact_id in "xyz":
        ask("outputs_of", artifact_id)
    for name, arguments in {"traces": "stu", "last_sample": ("probe", "latency")}.items():
        for argument in arguments:
            ask(name, argument)
    ask("outputs")
    return found


@pytest.mark.slow("asks thousands of questions")
@pytest.mark.parametrize("seed", range(3))
async def test_reads_find_what_is_stored_in_the_order_that_is_promised(store: Store, seed: int):
    """However records were added, replaced and deleted, and whatever the bounds of a page are."""
    chance, records = random.Random(seed), Records()
    for number in range(30):
        await change(store, records, chance, number)
        if number in (0, 5, 29):
            for shown, ask in questions(records, chance):
                assert ask(store) == ask(records), shown
            counts = store.counts()
            assert {name: counts[name] for name in records.counts()} == records.counts()
