"""Kills four writers of one project again and again, and reports after each round what was acknowledged and stored.

A process of its own, so that it can fork: `crash_rounds.py FOLDER ROUNDS` prints one JSON line per round.
"""

import json
import os
import random
import select
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from chora import settings
from chora.engine.building.artifact import build_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.engine import Engine, open_engine
from chora.hashing import sha256
from chora.store import SqliteStore, Version

WRITERS = 4


def acknowledge(channel: int, **fact: Any) -> None:
    """Report a finished change in one write, so that a killed writer leaves no partial line."""
    os.write(channel, json.dumps(fact).encode() + b"\n")


async def store_texts(engine: Engine, name: str, channel: int) -> None:
    """Store one text after the other."""
    for number in range(100_000):
        body = f"{name} {number} " + "x" * random.randrange(5000)
        saved = await engine.store.add_version(
            Version(
                content_id=name,
                body=body,
                sha256=sha256(body.encode()),
                fingerprint=body[:20],
                generator="demonstration",
                generator_version="1.0.0",
                generated_at="2026-01-01T00:00:00.000Z",
            )
        )
        acknowledge(channel, content_id=name, version_id=saved.version_id, sha256=saved.sha256)


async def write_files(engine: Engine, name: str, channel: int) -> None:
    """Assemble one artifact again and again, each time from another text."""
    config_file = engine.folder.root / f"configs/content/{name}.json"
    for number in range(100_000):
        document = json.loads(config_file.read_text())
        body = f"{name} {number} begins\n" + "line\n" * random.randrange(2000) + f"{name} {number} ends\n"
        document["elements"][0]["example_output"] = body
        await engine.project_folder.write_file(f"configs/content/{name}.json", json.dumps(document).encode())
        await build_artifact(Build(engine), engine.catalog.find_config("artifact", name).parsed, CallerContext({}))
        acknowledge(channel, output=f"outputs/{name}.md", number=number)


def writer(root: Path, number: int, channel: int) -> None:
    async def run() -> None:
        async with open_engine(root, settings.load(root, {}).settings) as engine:
            acknowledge(channel, ready=number)
            build = store_texts if number % 2 else write_files
            await build(engine, f"writer-{number}", channel)

    trio.run(run)


def in_child(act: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(9)
    return child


def one_round(root: Path) -> list[dict[str, Any]]:
    """Start the writers, kill them at once after a while, and return what they acknowledged."""
    reader, channel = os.pipe()
    children = [in_child(partial(writer, root, number, channel)) for number in range(WRITERS)]
    os.close(channel)
    received = b""
    deadline = time.monotonic() + 120
    while received.count(b'"ready"') < WRITERS and time.monotonic() < deadline:
        if select.select([reader], [], [], 1)[0]:
            received += os.read(reader, 65536)
    until = time.monotonic() + random.uniform(0.0, 0.08)
    while (left := until - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            received += os.read(reader, 65536)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    while part := os.read(reader, 65536):
        received += part
    os.close(reader)
    return [json.loads(line) for line in received.splitlines()]


def check_state(root: Path, said: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare what was acknowledged with what is stored."""
    began = time.monotonic()
    store = SqliteStore(root / ".chora/storage.db")
    took = time.monotonic() - began
    texts = [fact for fact in said if "version_id" in fact]
    found = [store.version(fact["content_id"], fact["version_id"]) for fact in texts]
    kept = [(fact, version) for fact, version in zip(texts, found, strict=True) if version is not None]
    store.close()
    torn: list[str] = []
    for file in (root / "outputs").glob("*.md"):
        lines = file.read_text().splitlines()
        if lines and lines[0].removesuffix(" begins") != lines[-1].removesuffix(" ends"):
            torn.append(file.name)
    newest = {fact["output"]: fact["number"] for fact in said if "output" in fact}
    behind = [
        output
        for output, number in newest.items()
        if int((root / output).read_text().splitlines()[0].split()[1]) < number
    ]
    return {
        "acknowledged": len(said) - WRITERS,
        "ready": sum("ready" in fact for fact in said),
        "lost": len(texts) - len(kept),
        "changed": sum(sha256(version.body.encode()) != fact["sha256"] for fact, version in kept),
        "torn": torn,
        "behind": behind,
        "start": took,
    }


def main() -> None:
    root, rounds = Path(sys.argv[1]), int(sys.argv[2])
    random.seed(17)
    for _ in range(rounds):
        print(json.dumps(check_state(root, one_round(root))), flush=True)


if __name__ == "__main__":
    main()
