"""`kill -9`, again and again, under four processes that write into one project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project, artifact, child, text

ROUNDS = 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks its writers")
def test_nothing_that_was_acknowledged_is_lost(project: Project):
    """Every stored text is intact; every output is complete, and no older than the last acknowledged one; the store
    opens at once.
    """
    for number in range(0, 4, 2):
        name = f"writer-{number}"
        project.save(text(name, f"{name} 0 begins\n{name} 0 ends\n"), artifact(name, [child(name)]))
    driver = Path(__file__).with_name("crash_rounds.py")
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, driver, project.root, str(ROUNDS)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) == ROUNDS
    for number, seen in enumerate(rounds):
        assert seen["ready"] == 4, (number, seen)
        assert (seen["lost"], seen["changed"], seen["torn"], seen["behind"]) == (0, 0, [], []), (number, seen)
        assert seen["start"] < 60, (number, seen)
    assert sum(seen["acknowledged"] for seen in rounds) > 5 * ROUNDS, "the writers hardly wrote"
