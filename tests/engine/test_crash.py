"""`kill -9` at every write, sync and rename of an assembly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chora.engine.building.artifact import build_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.engine import Engine
from tests.conftest import Project, artifact, child, requirement, text

OLD, NEW = "the old text\n" * 300, "the new text\n" * 400


@pytest.mark.stress
@requirement("outputs.atomic")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="strikes a fork of itself")
async def test_a_kill_at_any_point_leaves_the_old_file_or_the_new_one(project: Project, engine: Engine):
    """Never a part of either; the next assembly succeeds and recognizes the file as chora's."""
    project.save(text("body", OLD), artifact("note", [child("body")]))
    assert (
        await build_artifact(Build(engine), engine.catalog.find_config("artifact", "note").parsed, CallerContext({}))
    ).status == "assembled"
    project.save(text("body", NEW))

    driver = Path(__file__).with_name("crash_driver.py")
    done = subprocess.run(
        [sys.executable, driver, project.root], capture_output=True, text=True, timeout=120, check=True
    )
    struck = [json.loads(line) for line in done.stdout.splitlines()]

    *killed, finished = struck
    assert finished["ended"] == 0, "the last round passes every point"
    assert finished["output"] == NEW
    assert {each["what"] for each in killed} == {
        "halfway through write",
        "before fsync",
        "after fsync",
        "before rename",
        "after rename",
        "halfway through database write",
        "before database sync",
        "after database sync",
    }
    for each in killed:
        assert each["ended"] == -9, each
        assert each["output"] in (OLD, NEW), each
        assert each["again"] == 0, each
        assert each["after"] == NEW, each
    assert {each["output"] for each in killed} == {OLD, NEW}, "both sides of the rename were struck"
