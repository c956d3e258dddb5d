"""`just conformance`: the official conformance suite of MCP, every leg that has one.

    python -m tests.contract.conformance [--leg 2026-07-28] [--json]

It is run twice per leg: against the server of fixtures, which is built on the product's own protocol core and
transports, and, for the scenarios that need no fixtures, against the product as people start it. `scenarios.toml`
says what each scenario must give. Only a run without failures and warnings, without fewer passes than that, and
in which every scenario really made its fixtures work, is a good one.
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

from chora.cli.run import print_table
from tests.contract import fixture_server
from tests.contract.judging import HERE, PACKAGES, NotInstalled, node, product, report

LEGS = ("2025-06-18", "2025-11-25", "2026-07-28")
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


def judge_fixtures(
    leg: str, scenarios: Mapping[str, Scenario], verdicts: Mapping[str, Verdict], calls: Mapping[str, int]
) -> list[str]:
    """What is wrong with a leg against the fixtures; nothing when it is as it must be."""
    column = LEGS.index(leg)
    wanted = {name: scenario for name, scenario in scenarios.items() if scenario.marks[column]}
    faults = [f"{leg} {name}: the suite didn't run it" for name in wanted if name not in verdicts]
    faults += [f"{leg} {name}: it isn't in scenarios.toml" for name in verdicts if name not in wanted]
    needed = Counter[str]()
    for name in (name for name in wanted if name in verdicts):
        faults += _findings(leg, name, verdicts[name])
        mark = wanted[name].marks[column]
        if (passed := verdicts[name].against(mark)) < mark:
            faults.append(f"{leg} {name}: {passed} passed, {mark} should")
        needed.update(wanted[name].calls)
    faults += [
        f"{leg}: hollow, {name} was used {calls.get(name, 0)} times, the scenarios must use it {count} times"
        for name, count in sorted(needed.items())
        if calls.get(name, 0) < count
    ]
    return faults


def judge_product(leg: str, scenarios: Mapping[str, Scenario], verdicts: Mapping[str, Verdict]) -> list[str]:
    """What is wrong with a leg against the product itself."""
    column = LEGS.index(leg)
    faults: list[str] = []
    for name, scenario in scenarios.items():
        if not (scenario.product and scenario.marks[column]):
            continue
        if (verdict := verdicts.get(name)) is None:
            faults.append(f"{leg} {name}: the suite didn't run it against the product")
            continue
        faults += _findings(f"{leg} (product)", name, verdict)
        mark = scenario.marks[column] - len(scenario.needing)
        if (passed := verdict.against(mark)) < mark:
            faults.append(f"{leg} (product) {name}: {passed} passed, {mark} should")
    return faults


def _findings(leg: str, name: str, verdict: Verdict) -> list[str]:
    return [f"{leg} {name}: {finding}" for finding in verdict.findings]


async def run_suite(url: str, leg: str, folder: Path) -> None:
    """Let the suite ask a server everything it asks in this leg."""
    command = [node(), str(SUITE), "server", "--url", url, "--suite", "all", "--spec-version", leg, "-o", str(folder)]
    with trio.fail_after(LEG_LIMIT):
        # Its exit code says whether a check failed, which its files say better; that it ran is seen by them too.
        await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)


@asynccontextmanager
async def fixtures() -> AsyncGenerator[fixture_server.Fixtures]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(fixture_server.serve)
        nursery.cancel_scope.cancel()


async def run_leg(leg: str, product_url: str, scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """Both runs of one leg, as one row per scenario and the faults."""
    with tempfile.TemporaryDirectory(prefix="chora-conformance-") as folder:
        # A server of fixtures per leg: what it counts is what this leg did.
        async with fixtures() as server:
            await run_suite(f"{server.url}/mcp", leg, Path(folder) / "fixtures")
        await run_suite(f"{product_url}/mcp", leg, Path(folder) / "product")
        ours = read_results(Path(folder) / "fixtures", scenarios, fixtures=True)
        theirs = read_results(Path(folder) / "product", scenarios, fixtures=False)
    faults = judge_fixtures(leg, scenarios, ours, server.calls) + judge_product(leg, scenarios, theirs)
    column = LEGS.index(leg)
    rows: list[dict[str, Any]] = [
        {
            "scenario": name,
            "passed": verdict.against(scenarios[name].marks[column] if name in scenarios else 0),
            "failed": verdict.failed,
            "warned": verdict.warned,
            "skipped": verdict.skipped,
            "product_passed": theirs[name].passed if name in scenarios and scenarios[name].product else None,
        }
        for name, verdict in sorted(ours.items())
    ]
    return {
        "leg": leg,
        "passed": sum(row["passed"] for row in rows),
        "mark": sum(scenario.marks[column] for scenario in scenarios.values()),
        "failed": sum(row["failed"] for row in rows),
        "scenarios": rows,
        "calls": dict(sorted(server.calls.items())),
        "faults": faults,
    }


async def run(legs: list[str], *, as_json: bool) -> int:
    scenarios = expected()
    outcomes: list[dict[str, Any]] = []
    async with product() as served:
        for leg in legs:
            outcome = await run_leg(leg, served.url, scenarios)
            outcomes.append(outcome)
            if not as_json:
                print_table(
                    (f"Scenario ({leg})", "passed", "failed", "warned", "skipped", "product passed"),
                    [tuple("" if cell is None else cell for cell in row.values()) for row in outcome["scenarios"]],
                )
                print(f"{leg}: {outcome['passed']} of {outcome['mark']} passed, {outcome['failed']} failed\n")
    faults = [fault for outcome in outcomes for fault in outcome.pop("faults")]
    return report({"legs": outcomes}, faults, as_json=as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--leg", action="append", choices=LEGS, help="only this one; may be given again")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    given = parser.parse_args()
    try:
        node()
    except NotInstalled as error:
        sys.exit(str(error))
    sys.exit(trio.run(lambda: run(given.leg or list(LEGS), as_json=given.json)))


if __name__ == "__main__":
    main()
