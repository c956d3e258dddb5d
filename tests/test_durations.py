"""How long something took: what is reported is the time it took, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora.access import LOCAL
from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.session import Session
from chora.provider import project_server
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, content
from tests.patience import PATIENCE

SLOW = """
import time

NAME = "slow"
VERSION = "1.0.0"
DESCRIPTION = "Takes fifty milliseconds"
CAPABILITIES = ()

async def generate(job):
    time.sleep(0.05)
    return "text"
"""
TOOK = 0.05


@pytest.fixture
def project(project: Project) -> Project:
    """A text that takes a known time, an artifact of it, and a collection of that."""
    project.write("plugins/slow.py", SLOW)
    project.write("chora.toml", '[plugins]\ngenerators = ["plugins/slow.py"]\n')
    project.save(
        content("note", pattern={"type": "slow"}),
        artifact("sheet", [child("note")]),
        {
            "type": "collection",
            "id": "pack",
            "name": "Pack",
            "members": [{"id": "sheet", "type": "artifact", "path": "configs/artifact/sheet.json"}],
            "output": {"base_path": "outputs/pack", "structure": "flat", "manifest": True},
        },
    )
    return project


def seconds_in(value: Any, path: str = "$") -> Iterator[tuple[str, float]]:
    """Every duration in an answer, in seconds."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name.endswith("duration_ms"):
                yield f"{path}.{name}", each / 1000
            elif name.endswith("_time_seconds"):
                yield f"{path}.{name}", each
            else:
                yield from seconds_in(each, f"{path}.{name}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from seconds_in(each, f"{path}[{number}]")


@pytest.mark.parametrize(
    ("tool", "arguments", "count"),
    [
        ("generate_content", {"content_config_id": "note"}, 1),
        ("regenerate_content", {"content_config_id": "note"}, 1),
        ("assemble_artifact", {"artifact_config_id": "sheet"}, 1),
        ("batch_generate", {"content_ids": ["note"]}, 2),
        ("generate_collection", {"collection_config_path": "pack"}, 1),
    ],
)
async def test_an_answer_says_how_long_it_took(ask: Asking, tool: str, arguments: dict[str, Any], count: int):
    """At least as long as the generator, and no longer than the call; in all events too."""
    found = dict(seconds_in(await ask(tool, **arguments)))
    assert len(found) >= count, found
    for path, seconds in found.items():
        assert TOOK <= seconds < PATIENCE, (path, seconds)
    emitted = events(ask.engine.folder.root)
    assert emitted
    assert all(0 <= event["duration_ms"] < PATIENCE * 1000 for event in emitted if "duration_ms" in event)
    assert max(event.get("duration_ms", 0) for event in emitted) >= TOOK * 1000


def events(root: Path) -> list[dict[str, Any]]:
    lines = (root / "var/telemetry/events.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


async def test_the_metric_counts_the_seconds_of_calls(engine: Engine):
    """By tool, as the histogram that the latency is read from."""
    metrics = Metrics()
    server = project_server(engine, TOOLS, metrics)
    session = Session("memory", LOCAL)
    session.revision = wire.REVISIONS["2025-11-25"]
    params = {"name": "generate_content", "arguments": {"content_config_id": "note"}}
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    assert await server.answer(session, body) is not None
    assert sum(metrics.call_seconds.counts[("generate_content",)]) == 1
    assert TOOK <= metrics.call_seconds.sums[("generate_content",)] < PATIENCE
