"""Calls of the tools and resources in a project with a long history: as quick as in a new one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pytest
import trio

from chora.engine.engine import open_engine
from chora.metrics import Metrics
from chora.project import find_project
from chora.protocol.types import Call
from chora.provider import project_server
from chora.resources import ProjectResources
from chora.settings import load
from chora.store import SqliteStore
from chora.tools import TOOLS
from tests.conftest import Project, artifact, child, requirement, text
from tests.histories import fill_history, statements_of
from tests.stress.conftest import linux
from tests.stress.heartbeat import long_pauses

ROUNDS = 7
PAGE_STEPS = 10_000
"""Steps for the largest page, which a short history doesn't fill."""
N = 1_000_000
"""Versions, events and samples of a long history."""


class Taken(NamedTuple):
    """What the calls of one kind take: the least of some rounds."""

    steps: int
    """Of SQLite's virtual machine."""
    seconds: float
    """Processor time of the main thread."""


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "list_content": lambda ask, _: ask("list_content"),
    "list_content, filtered": lambda ask, _: ask("list_content", filter={"stage": "approved"}, limit=5),
    "list_artifacts": lambda ask, _: ask("list_artifacts"),
    "trace_dependencies": lambda ask, _: ask("trace_dependencies", artifact_config_id="sheet", show_metadata=True),
    "cleanup_ephemeral": lambda ask, _: ask("cleanup_ephemeral", retention={"keep_versions": 1, "keep_days": 10**6}),
    "generate_content": lambda ask, _: ask("generate_content", content_config_id="c0", force=True),
    "a missing id": lambda ask, _: ask("generate_content", content_config_id="c0000x"),
    "resources/list": lambda _, resources: resources.list_resources(),
    "a page of contents": lambda _, resources: resources.list_resources(b"content://c".hex()),
    "versions": lambda _, resources: resources.read_resource("content://c0/versions"),
    "capabilities": lambda _, resources: resources.read_resource("capabilities://server"),
    "completion": lambda _, resources: resources.complete("content://{content_id}", "content_id", {}, "c0"),
    "completion of versions": lambda _, resources: resources.complete(
        "content://{content_id}/{version_id}", "version_id", {"content_id": "c0"}, ""
    ),
}


async def measure(root: Path, versions: int, others: int, measured: int) -> dict[str, Taken]:
    """What each call takes in a project with this history."""
    found: dict[str, Taken] = {}
    async with open_engine(root, load(root, env={}).settings) as engine:
        store = cast(SqliteStore, engine.store)
        fill_history(store, versions, contents=min(versions, 1000), others=others, measured=measured)
        resources = ProjectResources(engine, TOOLS, Metrics())
        engine.changes.subscribe(project_server(engine, TOOLS, Metrics()).notify_resource_changed)

        async def ask(tool: str, **arguments: Any) -> Any:
            return await TOOLS[tool].run_tool(engine, msgspec.json.encode(arguments), Call("stdio"))

        for name, call in CALLS.items():
            rounds: list[Taken] = []
            for _ in range(ROUNDS):
                with statements_of(store, reads_only=True) as executed:
                    started = time.thread_time()
                    answer = call(ask, resources)
                    if not isinstance(answer, tuple | list):
                        await answer
                    seconds = time.thread_time() - started
                    await trio.sleep(0.001)
                rounds.append(Taken(sum(each.steps for each in executed), seconds))
            found[name] = Taken(min(each.steps for each in rounds), min(each.seconds for each in rounds))
    return found


def write_project(project: Project, configs: int) -> None:
    """A project with this many content configs, and an artifact of one of them."""
    project.save(*(text(f"c{number}", "x") for number in range(configs)), artifact("sheet", [child("c0")]))


@linux
@requirement("storage.history")
@pytest.mark.slow("stores a million versions, events and samples")
async def test_a_million_versions_make_no_call_slower(tmp_path: Path):
    """Tools, resources and a forced generation: as many steps as with a thousand, and little processor time."""
    small, large = Project(tmp_path / "small"), Project(tmp_path / "large")
    for project in (small, large):
        write_project(project, 20)
    few = await measure(find_project(small.root, {}), 3_000, 50, 1_000)
    many = await measure(find_project(large.root, {}), N, 50, N)
    for name, taken in many.items():
        print(f"{name:25} {few[name].seconds * 1000:8.2f} ms -> {taken.seconds * 1000:8.2f} ms, {taken.steps} steps")
        assert taken.steps <= few[name].steps * 1.2 + PAGE_STEPS, (name, few[name], taken)
        assert taken.seconds <= few[name].seconds * 5 + 0.005, (name, few[name], taken)


@requirement("hostile.event-loop")
@pytest.mark.slow("writes ten thousand configs")
@pytest.mark.parametrize("tool", ["list_content_configs", "list_artifact_configs", "list_content", "list_artifacts"])
async def test_the_first_list_of_ten_thousand_configs_does_not_block_the_loop(tmp_path: Path, tool: str):
    """They are read in slices."""
    project = Project(tmp_path)
    ids = [f"c{number}" for number in range(10_000)]
    if "artifact" in tool:
        project.save(*(artifact(each, [child("c0")]) for each in ids))
    else:
        project.save(*(text(each, "x") for each in ids))
    root = find_project(project.root, {})

    async def list_first() -> None:
        async with open_engine(root, load(root, env={}).settings) as engine:
            await TOOLS[tool].run_tool(engine, b"{}", Call("stdio"))

    assert await long_pauses({tool: list_first}) == {}


@linux
@requirement("storage.history")
@pytest.mark.slow("writes ten thousand configs")
async def test_ten_thousand_configs_make_no_call_slow(tmp_path: Path):
    """Once changes are watched, a call looks at what has changed alone."""
    small, large = Project(tmp_path / "small"), Project(tmp_path / "large")
    write_project(small, 100)
    write_project(large, 10_000)
    few = await measure(find_project(small.root, {}), 1_000, 10, 10)
    many = await measure(find_project(large.root, {}), 10_000, 10, 10)
    for name, taken in many.items():
        print(f"{name:25} {few[name].seconds * 1000:8.2f} ms -> {taken.seconds * 1000:8.2f} ms, {taken.steps} steps")
        if name != "cleanup_ephemeral":  # looks at each content, others run in between
            assert taken.seconds <= few[name].seconds * 5 + 0.01, (name, few[name], taken)
