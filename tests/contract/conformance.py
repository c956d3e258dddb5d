"""`just conformance`: the official conformance suite of MCP, every leg that has one.

    python -m tests.contract.conformance [--leg 2026-07-28] [--way http] [--json]

Each leg is run against a server of fixtures, which is built on the product's own protocol core and transports: over
HTTP, over stdio, and through `chora connect` by Streamable HTTP and by the SSE of 2024-11-05 (the suite itself only
speaks HTTP; `front.py` stands before the others). The scenarios that need no fixtures are also run against the product
as people start it. `scenarios.toml` says what each scenario must give. Only a run without failures and warnings,
without fewer passes than that, and in which every scenario really made its fixtures work, is a good one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from chora import this_process
from chora.cli.run import print_table
from tests.contract import fixture_server
from tests.contract.installation import HERE, PACKAGES, ToolsNotInstalled, find_node, print_report, serve_chora
from tests.contract.stdio_gateway import serve_stdio_programs

LEGS = ("2025-06-18", "2025-11-25", "2026-07-28")
WAYS = ("http", "stdio", "connect", "connect-sse")
SUITE = PACKAGES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
LEG_LIMIT = 180
"""Seconds that a leg may take; it usually takes ten."""

AS_GOOD = frozenset({"server-sse-streams-functional"})
"""Checks that may also just be noted: to the suite, answers in plain JSON are as valid as streams, but no pass."""

FOLDER = re.compile(r"server-(?P<name>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass
class Scenario:
    """What a scenario must give: the columns of `scenarios.toml`."""

    marks: list[int]
    calls: dict[str, int] = field(default_factory=dict[str, int])
    product: bool = False
    http: bool = False
    needing: list[str] = field(default_factory=list[str])


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

    def against(self, mark: int) -> int:
        """The passes, counting what was noted up to the mark."""
        return max(self.passed, min(self.passed + self.noted, mark))


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
            verdict.noted += check["id"] in AS_GOOD
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
        if mark and way == "product" and each.product:
            marks[name] = mark - len(each.needing)
        elif mark and (way == "http" or (way != "product" and not each.http)):
            marks[name] = mark
    return marks


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
    leg = f"{leg} {way}"
    faults = [f"{leg} {name}: the suite didn't run it" for name in marks if name not in verdicts]
    faults += [f"{leg} {name}: it isn't in scenarios.toml" for name in verdicts if name not in scenarios]
    needed = Counter[str]()
    for name in (name for name in marks if name in verdicts):
        faults += [f"{leg} {name}: {finding}" for finding in verdicts[name].findings]
        if (passed := verdicts[name].against(marks[name])) < marks[name]:
            faults.append(f"{leg} {name}: {passed} passed, {marks[name]} should")
        if way != "product":
            needed.update(scenarios[name].calls)
    faults += [
        f"{leg}: hollow, {name} was used {calls.get(name, 0)} times, the scenarios must use it {count} times"
        for name, count in sorted(needed.items())
        if calls.get(name, 0) < count
    ]
    return faults


async def run_suite(url: str, leg: str, folder: Path) -> None:
    """Let the suite ask a server everything it asks in this leg."""
    command = [
        find_node(),
        str(SUITE),
        "server",
        "--url",
        url,
        "--suite",
        "all",
        "--spec-version",
        leg,
        "-o",
        str(folder),
    ]
    with trio.fail_after(LEG_LIMIT):
        # Its exit code says whether a check failed, which its files say better; that it ran is seen by them too.
        await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)


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
    with tempfile.TemporaryDirectory(prefix="chora-conformance-") as folder:
        # A server of fixtures for each: what it counts is what this leg did.
        async with fixtures(way, Path(folder)) as server:
            await run_suite(f"{server.url}/mcp", leg, Path(folder) / "results")
        verdicts = read_results(Path(folder) / "results", scenarios, fixtures=True)
    return {
        "leg": leg,
        "way": way,
        **tabulate(verdicts, marks_of(leg, way, scenarios)),
        "calls": dict(sorted(server.calls.items())),
        "faults": find_faults(leg, way, scenarios, verdicts, server.calls),
    }


async def run_product(leg: str, url: str, scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """The scenarios of one leg that need no fixtures against the product, likewise."""
    with tempfile.TemporaryDirectory(prefix="chora-conformance-") as folder:
        await run_suite(f"{url}/mcp", leg, Path(folder))
        verdicts = read_results(Path(folder), scenarios, fixtures=False)
    faults = find_faults(leg, "product", scenarios, verdicts, {})
    return {"leg": leg, "way": "product", **tabulate(verdicts, marks_of(leg, "product", scenarios)), "faults": faults}


def tabulate(verdicts: Mapping[str, Verdict], marks: Mapping[str, int]) -> dict[str, Any]:
    """The scenarios that have a mark, as rows, and their sums."""
    rows: list[dict[str, Any]] = [
        {
            "scenario": name,
            "passed": verdict.passed,
            "noted": verdict.noted,
            "failed": verdict.failed,
            "warned": verdict.warned,
            "skipped": verdict.skipped,
        }
        for name, verdict in sorted(verdicts.items())
        if name in marks
    ]
    return {
        "passed": sum(row["passed"] for row in rows),
        "noted": sum(row["noted"] for row in rows),
        "mark": sum(marks.values()),
        "failed": sum(row["failed"] for row in rows),
        "scenarios": rows,
    }


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
            noted = f" and {outcome['noted']} noted" if outcome["noted"] else ""
            print(f"{heading}: {outcome['passed']} passed{noted} of {outcome['mark']}, {outcome['failed']} failed\n")

    for way in ways:
        for leg in legs:
            tell(await run_leg(leg, way, scenarios))
    if "http" in ways:
        async with serve_chora() as served:
            for leg in legs:
                tell(await run_product(leg, served.url, scenarios))
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
