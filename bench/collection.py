"""A collection of many members next to ninja on the same graph: build, nothing changed, one member changed.

Every member is an artifact of one content, made from its own config and a template that all share. For ninja every
member is one file made of the same three. chora is asked as a running server, over stdio; ninja is started each time,
as it always is.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from bench.measure import Row, chora, piped

MEMBERS = 10_000
ROUNDS = 5


def write_project(root: Path, members: int) -> None:
    """The configs of the collection, and the same graph for ninja."""
    for folder in ("configs/content", "configs/artifact", "configs/collection", "configs/templates", "built"):
        (root / folder).mkdir(parents=True)
    (root / "chora.toml").write_text("")
    (root / "configs/templates/page.j2").write_text("# {{ title }}\n\nNumber {{ number }} of {{ port }}.\n")
    rules = ["rule make\n  command = cat $in > $out\n"]
    listed: list[dict[str, Any]] = []
    for number in range(members):
        content, artifact = f"configs/content/c{number}.json", f"configs/artifact/a{number}.json"
        (root / content).write_text(json.dumps(_content(number)))
        (root / artifact).write_text(json.dumps(_artifact(number)))
        listed.append({"id": f"a{number}", "type": "artifact", "path": artifact})
        rules.append(f"build built/{number}: make {artifact} {content} configs/templates/page.j2\n")
    collection = {
        "type": "collection",
        "id": "all",
        "name": "All",
        "members": listed,
        "context": {"shared": {"sources": [{"type": "inline_data", "data": {"port": "Norrvik"}}]}},
        "generation": {"concurrency_limit": 8},
        "output": {"base_path": "outputs/all", "structure": "flat"},
    }
    (root / "configs/collection/all.json").write_text(json.dumps(collection, separators=(",", ":")))
    (root / "build.ninja").write_text("".join(rules))


def _content(number: int) -> dict[str, Any]:
    context = {"title": f"Title {number}", "number": number}
    pattern = {"id": "make", "type": "jinja2", "template": "page.j2", "generation_config": {"context": context}}
    return {
        "type": "content",
        "id": f"c{number}",
        "schemaRef": {"id": "content-schema", "version": "3.1"},
        "metadata": {"description": f"Content {number}", "version": "1.0.0"},
        "generation": {"patterns": [pattern]},
    }


def _artifact(number: int) -> dict[str, Any]:
    outputs = [{"file": f"outputs/a{number}.md", "format": "markdown"}]
    return {
        "type": "artifact",
        "id": f"a{number}",
        "schemaRef": {"id": "artifact-schema", "version": "3.1"},
        "metadata": {"title": f"Artifact {number}", "purpose": "Is measured", "outputs": outputs},
        "content": {"children": [{"id": f"c{number}", "path": f"configs/content/c{number}.json"}]},
    }


async def collection(project: Path, calls: int) -> list[Row]:
    """Build, nothing changed, and one changed, each in turn."""
    ninja = shutil.which("ninja", path=str(Path(sys.executable).parent))
    if ninja is None:
        sys.exit("ninja is a development dependency, and isn't installed")
    root = project / "collection"
    write_project(root, MEMBERS)
    environment = {"CHORA_JOBS_CALL_BUDGET": "3600", "CHORA_RENDER_QUEUE": "4096"}
    async with piped(chora(root, "stdio"), environment) as (caller, _):

        async def ours(expected: int) -> float:
            began = time.perf_counter()
            answer = await caller.call("generate_collection", {"collection_config_path": "all"})
            took = (time.perf_counter() - began) * 1000
            made = answer.result["metadata"]["regenerated_members"]
            assert made == expected, f"{made} members were built, not {expected}"
            return took

        def theirs() -> float:
            began = time.perf_counter()
            subprocess.run([ninja, "-C", root, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            return (time.perf_counter() - began) * 1000

        async def both(expected: int, change: Callable[[int], None]) -> tuple[float, float]:
            times: tuple[list[float], list[float]] = ([], [])
            for round in range(ROUNDS):
                change(round)
                await trio.sleep(0.1)  # so that the files are at rest
                times[0].append(await ours(expected))
                times[1].append(theirs())
            return statistics.median(times[0]), statistics.median(times[1])

        def touch(round: int) -> None:
            document = _content(round)
            document["generation"]["patterns"][0]["generation_config"]["context"]["title"] = "Another title"
            (root / f"configs/content/c{round}.json").write_text(json.dumps(document))

        built = await ours(MEMBERS), theirs()
        await trio.sleep(0.5)
        await ours(0)  # looks once at what was just written
        still = await both(0, lambda round: None)
        one = await both(1, touch)
    name = f"collection of {MEMBERS:,}"
    return [
        Row(f"{name}, full build, next to ninja", "ms", *built),
        Row(f"{name}, nothing changed, next to ninja", "ms", *still),
        Row(f"{name}, one changed, next to ninja", "ms", *one),
    ]
