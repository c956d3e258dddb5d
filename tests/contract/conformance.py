"""`just conformance`: the official conformance suite of MCP, every leg that has one.

    python -m tests.contract.conformance [--leg 2026-07-28] [--way http] [--json]

A leg is a revision that is really spoken: `suite_hook.mjs` has the suite's client offer it. Each leg is run against a
server of fixtures, which is built on the product's own protocol core and transports: over HTTP, over stdio, and through
`chora connect` by Streamable HTTP and by the SSE of 2024-11-05 (the suite itself only speaks HTTP; `stdio_gateway.py`
stands before the others). The scenarios that need no fixtures, or for which the product has a tool, resource or prompt
of its own, are also run against the product as people start it; and it is judged raw, in what no scenario looks at.
`scenarios.toml` says what each scenario must give. Only a run without failures and warnings, without fewer passes or
notes than that, and in which every scenario really made its fixtures work, is a good one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import trio

from chora import this_process
from chora.cli.run import print_table
from chora.cli.samples import GREETING, HELLO
from chora.protocol import wire
from tests.contract import fixture_server, raw
from tests.contract.installation import (
    HERE,
    PACKAGES,
    RunningChora,
    ToolsNotInstalled,
    find_node,
    print_report,
    serve_chora,
)
from tests.contract.stdio_gateway import serve_stdio_programs

LEGS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
FORCED = LEGS[:2]
"""Legs of which the suite has no scenarios: those of 2025-06-18 are forced on them, as far as they mean something."""
OLDEST_SCHEMA = "2025-03-26"
"""The oldest revision whose schema the suite has. `messages_2024_11_05.py` has those of 2024-11-05."""
WAYS = ("http", "stdio", "connect", "connect-sse")
SUITE = PACKAGES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
LEG_LIMIT = 180
"""Seconds that a leg may take; it usually takes ten."""

NOTED = frozenset({"server-sse-streams-functional"})
"""Checks that may be noted instead of passed: to the suite, answers in plain JSON are as valid as streams."""

FOLDER = re.compile(r"server-(?P<name>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass
class Scenario:
    """What a scenario must give: the columns of `scenarios.toml`."""

    marks: list[int]
    noted: list[int] = field(default_factory=lambda: [0] * len(LEGS))
    calls: dict[str, int] = field(default_factory=dict[str, int])
    product: bool = False
    http: bool = False
    needing: list[str] = field(default_factory=list[str])
    instead: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @property
    def is_of_product(self) -> bool:
        """Whether the product itself is held against it."""
        return self.product or bool(self.instead)


@dataclass
class Verdict:
    """What a scenario gave."""

    passed: int = 0
    noted: int = 0
    failed: int = 0
    warned: int = 0
    skipped: int = 0
    findings: list[str] = field(default_factory=list[str])
    """What the checks that failed or warned say."""


def expected() -> dict[str, Scenario]:
    rows = tomllib.loads((HERE / "scenarios.toml").read_text("utf-8"))
    return {name: Scenario(**row) for name, row in rows.items()}


def read_verdict(checks: list[dict[str, Any]], *, needing: frozenset[str] = frozenset()) -> Verdict:
    """Count a scenario's checks, leaving out those that need fixtures where there are none."""
    verdict = Verdict()
    for check in checks:
        status = check["status"]
        if check["id"] in needing:
            verdict.skipped += 1
        elif status == "SUCCESS":
            verdict.passed += 1
        elif status == "INFO":
            verdict.noted += check["id"] in NOTED
        elif status == "SKIPPED":
            verdict.skipped += 1
        elif status in ("FAILURE", "WARNING"):
            verdict.failed += status == "FAILURE"
            verdict.warned += status == "WARNING"
            verdict.findings.append(f"{check['id']}: {check.get('errorMessage') or check.get('description', '')}")
    return verdict


def read_results(folder: Path, scenarios: Mapping[str, Scenario], *, fixtures: bool) -> dict[str, Verdict]:
    """What a run of the suite left behind, by scenario."""
    verdicts: dict[str, Verdict] = {}
    for file in sorted(folder.glob("*/checks.json")):
        found = FOLDER.fullmatch(file.parent.name)
        assert found is not None, file.parent.name
        name = found["name"]
        needing = scenarios[name].needing if name in scenarios and not fixtures else []
        verdicts[name] = read_verdict(json.loads(file.read_bytes()), needing=frozenset(needing))
    return verdicts


def marks_of(leg: str, way: str, scenarios: Mapping[str, Scenario]) -> dict[str, int]:
    """What the scenarios that mean something in this leg, come this way, have to give."""
    marks: dict[str, int] = {}
    for name, each in scenarios.items():
        mark = each.marks[LEGS.index(leg)]
        if mark and way == "product" and each.is_of_product:
            marks[name] = mark - len(each.needing)
        elif mark and (way == "http" or (way != "product" and not each.http)):
            marks[name] = mark
    return marks


def notes_of(leg: str, marks: Mapping[str, int], scenarios: Mapping[str, Scenario]) -> dict[str, int]:
    """What of these scenarios is noted rather than passed."""
    return {name: noted for name in marks if (noted := scenarios[name].noted[LEGS.index(leg)])}


def find_faults(
    leg: str, way: str, scenarios: Mapping[str, Scenario], verdicts: Mapping[str, Verdict], calls: Mapping[str, int]
) -> list[str]:
    """What is wrong with a leg; nothing when it is as it must be.

    Args:
        leg: which one.
        way: come which way, or `product` when it was the product itself.
        scenarios: what each must give.
        verdicts: what each gave.
        calls: how often each fixture was used; of no interest where there are none.
    """
    marks = marks_of(leg, way, scenarios)
    notes = notes_of(leg, marks, scenarios)
    leg = f"{leg} {way}"
    faults = [f"{leg} {name}: the suite didn't run it" for name in marks if name not in verdicts]
    faults += [f"{leg} {name}: it isn't in scenarios.toml" for name in verdicts if name not in scenarios]
    needed = Counter[str]()
    for name in (name for name in marks if name in verdicts):
        faults += [f"{leg} {name}: {finding}" for finding in verdicts[name].findings]
        passed, noted = verdicts[name].passed, verdicts[name].noted
        if passed < marks[name]:
            faults.append(f"{leg} {name}: {passed} passed, {marks[name]} should")
        elif passed + noted < marks[name] + notes.get(name, 0):  # what was noted may pass one day
            faults.append(f"{leg} {name}: {noted} noted, {notes[name]} should")
        if way != "product":
            needed.update(scenarios[name].calls)
    faults += [
        f"{leg}: hollow, {name} was used {calls.get(name, 0)} times, the scenarios must use it {count} times"
        for name, count in sorted(needed.items())
        if calls.get(name, 0) < count
    ]
    return faults


async def run_suite(url: str, leg: str, folder: Path, names: Sequence[str], instead: Mapping[str, Any]) -> None:
    """Let the suite ask a server everything it asks in this leg.

    Args:
        url: the server.
        leg: the revision to speak.
        folder: for the results.
        names: the scenarios to force on a leg of which the suite has none.
        instead: what to ask for instead of a fixture, by its name or URI.
    """
    revision = leg if leg in wire.HANDSHAKE_REVISIONS else None
    environment = {**os.environ, "CHORA_SUITE": json.dumps({"revision": revision, "instead": instead})}
    if leg in FORCED:
        words = [str(HERE / "suite_forced.mjs"), str(SUITE), url, str(folder), OLDEST_SCHEMA, *names]
    else:
        words = [str(SUITE), "server", "--url", url, "-o", str(folder), "--suite", "all", "--spec-version", leg]
    command = [find_node(), "--import", str(HERE / "suite_hook.mjs"), *words]
    with trio.fail_after(LEG_LIMIT):
        # Its exit code says whether a check failed, which its files say better; that it ran is seen by them too.
        await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, env=environment)


@asynccontextmanager
async def fixtures(way: str, folder: Path) -> AsyncGenerator[fixture_server.Fixtures]:
    """A server of fixtures, come this way; what it counted is known for certain once this is left."""
    if way == "stdio":
        counts = folder / "calls.jsonl"
        calls = Counter[str]()
        command = [sys.executable, "-m", "tests.contract.fixture_server", "--stdio", "--calls", str(counts)]
        async with serve_stdio_programs(command) as url:
            yield fixture_server.Fixtures(url, calls)
        for line in counts.read_bytes().splitlines():
            calls.update(json.loads(line))
        return
    async with trio.open_nursery() as nursery:
        server: fixture_server.Fixtures = await nursery.start(fixture_server.serve)
        if way == "http":
            yield server
        else:
            path = "/sse" if way == "connect-sse" else "/mcp"
            async with serve_stdio_programs(this_process.own_command("connect", server.url + path)) as url:
                yield fixture_server.Fixtures(url, server.calls)
        nursery.cancel_scope.cancel()


async def run_leg(leg: str, way: str, scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """One leg against the fixtures, as one row per scenario and the faults."""
    marks = marks_of(leg, way, scenarios)
    with tempfile.TemporaryDirectory(prefix="chora-conformance-") as folder:
        # A server of fixtures for each: what it counts is what this leg did.
        async with fixtures(way, Path(folder)) as server:
            await run_suite(f"{server.url}/mcp", leg, Path(folder) / "results", list(marks), {})
        verdicts = read_results(Path(folder) / "results", scenarios, fixtures=True)
    faults = find_faults(leg, way, scenarios, verdicts, server.calls)
    return tabulate(leg, way, scenarios, verdicts) | {"calls": dict(sorted(server.calls.items())), "faults": faults}


async def prepare(served: RunningChora) -> str:
    """Give the product what the scenarios ask for instead of fixtures, and return the id of a draft."""
    contents = ("first", "second", "third")
    for name in contents:
        config = {**GREETING, "id": name}
        (served.project / "configs" / "content" / f"{name}.json").write_text(json.dumps(config), "utf-8")
    children = [{"id": name, "path": f"configs/content/{name}.json"} for name in contents]
    config = {**HELLO, "id": "three", "content": {"children": children}}
    (served.project / "configs" / "artifact" / "three.json").write_text(json.dumps(config), "utf-8")
    async with raw.converse(served, raw.MODERN, "http") as talk:
        await talk.call("generate_content", content_config_id="greeting", context={"name": "123"})
        drafted = await talk.call("draft_config", config_type="content", config_data=GREETING)
        return json.loads(drafted["content"][0]["text"])["draft_id"]


async def run_product(leg: str, served: RunningChora, draft: str, scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """The scenarios of one leg that the product can be held against, likewise."""
    marks = marks_of(leg, "product", scenarios)
    asked = {name: params for scenario in marks for name, params in scenarios[scenario].instead.items()}
    instead = json.loads(json.dumps(asked).replace("DRAFT", draft))
    with tempfile.TemporaryDirectory(prefix="chora-conformance-") as folder:
        await run_suite(f"{served.url}/mcp", leg, Path(folder), list(marks), instead)
        verdicts = read_results(Path(folder), scenarios, fixtures=False)
    faults = find_faults(leg, "product", scenarios, verdicts, {})
    return tabulate(leg, "product", scenarios, verdicts) | {"faults": faults}


async def run_raw(leg: str, served: RunningChora) -> dict[str, Any]:
    """The checks of `raw.py` in one leg, over every transport that it has."""
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    for transport in raw.transports_of(leg):
        checks = await raw.judge(served, leg, transport)
        wrong = [each for each in checks if each.fault]
        passed = len(checks) - len(wrong)
        rows.append({"scenario": transport, **asdict(Verdict(passed, failed=len(wrong)))})
        faults += [f"{leg} raw {transport}: {each.statement}: {each.fault}" for each in wrong]
    return sum_up(leg, "raw", rows, sum(row["passed"] + row["failed"] for row in rows)) | {"faults": faults}


def tabulate(leg: str, way: str, scenarios: Mapping[str, Scenario], verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """The scenarios that have a mark, as rows, and their sums."""
    marks = marks_of(leg, way, scenarios)
    rows = [{"scenario": name, **asdict(each)} for name, each in sorted(verdicts.items()) if name in marks]
    return sum_up(leg, way, rows, sum(marks.values()))


def sum_up(leg: str, way: str, rows: list[dict[str, Any]], mark: int) -> dict[str, Any]:
    """A leg as it is reported."""
    for row in rows:
        del row["findings"]
    sums = {name: sum(row[name] for row in rows) for name in ("passed", "noted", "failed")}
    return {"leg": leg, "way": way, "mark": mark, **sums, "scenarios": rows}


async def run(legs: list[str], ways: list[str], *, as_json: bool) -> int:
    scenarios = expected()
    outcomes: list[dict[str, Any]] = []

    def tell(outcome: dict[str, Any]) -> None:
        outcomes.append(outcome)
        if not as_json:
            heading = f"{outcome['leg']} {outcome['way']}"
            print_table(
                (heading, "passed", "noted", "failed", "warned", "skipped"),
                [tuple(row.values()) for row in outcome["scenarios"]],
            )
            noted = f", {outcome['noted']} noted" if outcome["noted"] else ""
            print(f"{heading}: {outcome['passed']} of {outcome['mark']} passed, {outcome['failed']} failed{noted}\n")

    for way in ways:
        for leg in legs:
            tell(await run_leg(leg, way, scenarios))
    if "http" in ways:
        async with serve_chora() as served:
            draft = await prepare(served)
            for leg in legs:
                tell(await run_product(leg, served, draft, scenarios))
            for leg in legs:
                tell(await run_raw(leg, served))
    faults = [fault for outcome in outcomes for fault in outcome.pop("faults")]
    return print_report({"legs": outcomes}, faults, as_json=as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--leg", action="append", choices=LEGS, help="only this one; may be given again")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this one; may be given again")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    given = parser.parse_args()
    try:
        find_node()
    except ToolsNotInstalled as error:
        sys.exit(str(error))
    sys.exit(trio.run(lambda: run(given.leg or list(LEGS), given.way or list(WAYS), as_json=given.json)))


if __name__ == "__main__":
    main()
