"""Full, read-only and vanished disks under real processes: acknowledged data stays, failures are reported."""

from __future__ import annotations

import contextlib
import json
import resource
import secrets
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from chora import this_process
from chora.hashing import sha256
from chora.settings import StorageSettings
from chora.store import open_store
from chora.store.write_check import FAILURE_REUSE_TIME
from tests.conftest import Asking, Project, artifact, child, content, requirement, text
from tests.disks import Disk, small_disk
from tests.hostile.measures import linux, prepare, serving
from tests.http_client import HttpTestClient
from tests.patience import PATIENCE

pytestmark = linux

ROUNDS = 3
LOCKED = 14.0
"""Seconds for which a lock is held: longer than two writes wait for it."""
FULL = {"storage_failed", "storage_error", "write_failed", "draft_creation_failed", "save_execution_failed"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 8 MiB that holds a whole project."""
    with small_disk(tmp_path / "project", "8m") as disk:
        yield disk


async def call(client: HttpTestClient, tool: str, **arguments: Any) -> dict[str, Any]:
    with trio.fail_after(PATIENCE):
        answer = (await client.call(tool, **arguments)).json()
    return answer["result"]["structuredContent"]


async def readiness(client: HttpTestClient) -> tuple[int, str]:
    answer = await client.http.get("/ready")
    return answer.status_code, " ".join(answer.json()["reasons"])


async def wait_ready(client: HttpTestClient) -> None:
    with trio.fail_after(PATIENCE):
        while (await readiness(client))[0] != 200:
            await trio.sleep(0.1)


def chora(project: Project, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        this_process.own_command("--project", str(project.root), *command),
        env=this_process.child_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("backend", ["sqlite", "filesystem"])
async def test_a_server_on_a_disk_that_fills_up(disk: Disk, backend: Any):
    """Saving fails with tool errors, `/ready` has the reason, and with free space everything works again without a
    restart.
    """
    project = Project(disk.root)
    pattern = {"type": "jinja2", "template": "{{ body }}"}
    project.save(content("large", pattern=pattern), artifact("note", [child("large")]), text("good", "Hello you\n"))
    if backend != "sqlite":  # the other one is a project without settings
        project.write("chora.toml", f'[storage]\nbackend = "{backend}"\n')
    acknowledged: dict[str, str] = {}
    written = ""
    async with serving(project) as (_, client):

        async def save(size: int) -> str:
            """Save a text and return the outcome."""
            body = secrets.token_hex(size // 2)
            made = await call(client, "generate_content", content_config_id="large", context={"body": body})
            if not made["success"]:
                return made["error"]["code"]
            acknowledged[made["metadata"]["version_id"]] = sha256(body.encode())
            return "ok"

        async def assemble() -> dict[str, Any]:
            context = {"body": secrets.token_hex(5_000)}
            return await call(client, "assemble_artifact", artifact_config_id="note", context=context, force=True)

        for _ in range(ROUNDS):
            await wait_ready(client)
            assert await save(100_000) == "ok"
            assert (await assemble())["success"]
            written = project.read("outputs/note.md")
            filler = disk.fill()
            status, reason = await readiness(client)
            assert (status, "full" in reason, str(disk.root / "x")[:-1] in reason) == (503, True, False), reason
            codes = [await save(size) for size in (200_000, 100, 400_000, 3_000)]
            assert set(codes) <= {*FULL, "ok"}, codes
            assert codes[2] in FULL, codes
            made = await assemble()
            if not made["success"]:
                assert made["error"]["code"] in FULL, made
                assert project.read("outputs/note.md") == written
            drafted = await call(client, "draft_config", config_type="content", config_data=text("new", "x" * 200_000))
            assert drafted["error"]["code"] in FULL, drafted
            assert (await client.http.get("/health")).status_code == 200
            assert (await readiness(client))[0] == 503
            assert not list(disk.root.rglob("*.tmp"))
            filler.unlink()
            await wait_ready(client)
        assert await save(100_000) == "ok"
        assert (await assemble())["success"]
    store = open_store(disk.root, StorageSettings(backend=backend))
    found = {each.version_id: each for each in store.versions("large")}
    assert {name: found[name].sha256 for name in acknowledged} == acknowledged
    assert all(sha256(each.body.encode()) == each.sha256 for each in found.values())
    store.close()


async def test_outputs_on_a_full_disk(project: Project, ask: Asking):
    """The old file stays complete, no temporary file is left, and the text is stored, so that only the write is
    repeated.
    """
    pattern = {"type": "jinja2", "template": "{{ body }}"}
    project.save(content("large", pattern=pattern), artifact("note", [child("large")]))
    note = {"artifact_config_id": "note"}
    with small_disk(project.root / "outputs", "1m") as disk:
        await ask("assemble_artifact", **note, context={"body": "first"})
        filler = disk.fill()
        for size in (1, 100_000, 2_000_000):
            body = {"body": secrets.token_hex(size)}
            await ask.refused("assemble_artifact", "write_failed", **note, context=body)
            assert project.read("outputs/note.md") == "first"
            assert sorted(path.name for path in disk.root.iterdir()) == ["filler", "note.md"]
        filler.unlink()
        await ask("assemble_artifact", **note, context={"body": "second"})
        assert project.read("outputs/note.md") == "second"


@pytest.mark.parametrize("where", ["outputs", "outputs/site/deep"])
@requirement("server.ready-outputs")
async def test_a_full_disk_of_outputs_is_a_reason(project: Project, where: str):
    """Before a write fails, or as soon as one did where the disk is mounted deeper; 503 until there is space again."""
    pattern = {"type": "jinja2", "template": "{{ body }}"}
    output = {"file": f"{where}/note.md", "format": "markdown"}
    project.save(content("large", pattern=pattern), artifact("note", [child("large")], output))
    (project.root / where).mkdir(parents=True)
    note = {"artifact_config_id": "note", "context": {"body": "x" * 200_000}}
    with small_disk(project.root / where, "1m") as disk:
        async with serving(project) as (_, client):
            assert (await call(client, "assemble_artifact", **note, force=True))["success"]
            assert await readiness(client) == (200, "")
            filler = disk.fill()
            if where != "outputs":
                changed = {**note, "context": {"body": "y" * 300_000}}
                assert (await call(client, "assemble_artifact", **changed))["error"]["code"] == "write_failed"
            for _ in range(3):
                status, reason = await readiness(client)
                assert (status, f"The disk of {where} is full" in reason) == (503, True), reason
                assert str(project.root) not in reason
                await trio.sleep(0.2)
            filler.unlink()
            await wait_ready(client)


@requirement("server.ready-locked")
async def test_a_database_that_is_locked_from_outside_is_a_reason_soon_and_as_long(project: Project):
    """503 within five seconds, at every request until it is unlocked, whatever calls meet the lock meanwhile."""
    prepare(project)
    async with serving(project) as (_, client):
        assert (await call(client, "generate_content", content_config_id="good"))["success"]
        locking = apsw.Connection(str(project.root / ".chora/storage.db"))
        locking.execute("BEGIN IMMEDIATE")
        locked_at = trio.current_time()
        failing_since = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(call, client, "generate_content", content_config_id="good", force=True))
            while trio.current_time() - locked_at < LOCKED:
                status, reason = await readiness(client)
                moment = trio.current_time() - locked_at
                if status == 503:
                    assert "database is locked" in reason
                    failing_since = failing_since or moment
                else:
                    assert failing_since is None, f"ready again after {moment:.1f} s, still locked"
                    assert moment < 5, "not noticed within 5 s"
                await trio.sleep(0.1)
            locking.execute("ROLLBACK")
        locking.close()
        assert failing_since is not None
        await wait_ready(client)
        assert (await call(client, "generate_content", content_config_id="good", force=True))["success"]


async def test_backups_on_a_full_disk(project: Project):
    """No partial backup is left; with free space it works."""
    prepare(project)
    assert chora(project, "generate", "good").returncode == 0
    with small_disk(project.root / "backups", "1m") as disk:
        filler = disk.fill()
        for _ in range(2):
            failed = chora(project, "backup", "--to", str(disk.root))
            assert failed.returncode == 1, failed
            assert "Traceback" not in failed.stderr
            assert "full" in failed.stderr or "disk space" in failed.stderr, failed.stderr
            assert [path.name for path in disk.root.iterdir()] == ["filler"]
        filler.unlink()
        assert chora(project, "backup", "--to", str(disk.root)).returncode == 0
        assert len(list(disk.root.glob("storage-*.db"))) == 1


async def test_events_on_a_full_disk(project: Project, ask: Asking, caplog: pytest.LogCaptureFixture):
    """Events never fail the work, and are written again once there is space."""
    prepare(project)
    with small_disk(project.root / "var", "1m") as disk:
        filler = disk.fill()
        for number in range(3):
            await ask("generate_content", content_config_id="good", context={"name": f"you {number}"})
        assert sum("events are not being written" in record.message for record in caplog.records) == 1
        filler.unlink()
        await ask("generate_content", content_config_id="good", context={"name": "you again"})
        lines = (disk.root / "telemetry/events.jsonl").read_text().splitlines()
        assert lines
        assert all(json.loads(line)["event_type"] for line in lines if line)


async def test_files_that_may_not_grow(project: Project):
    """As with a quota: there is free space, and still nothing can be written."""
    prepare(project)
    project.save(content("large", pattern={"type": "jinja2", "template": "{{ body }}"}))
    async with serving(project) as (server, client):
        context = {"body": "x" * 10_000}
        assert (await call(client, "generate_content", content_config_id="large", context=context))["success"]
        await wait_ready(client)
        # Only the size of files is limited: existing parts stay writable, as under a quota.
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        context = {"body": "y" * 900_000}
        failed = await call(client, "generate_content", content_config_id="large", context=context)
        assert failed["error"]["code"] in FULL, failed
        assert (await readiness(client))[0] == 503
        await trio.sleep(FAILURE_REUSE_TIME + 0.1)  # from now on the failure isn't cached: the write is tried again
        assert (await readiness(client))[0] == 503
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await wait_ready(client)
        assert (await call(client, "generate_content", content_config_id="large", context=context))["success"]


async def test_a_disk_that_is_read_only(disk: Disk):
    """Commands that need to store refuse to start with one line, and nothing is changed."""
    project = prepare(Project(disk.root))
    assert chora(project, "generate", "good").returncode == 0
    before = {path: path.read_bytes() for path in disk.root.rglob("*") if path.is_file()}
    disk.remount("ro")
    for command in (["generate", "good", "--force"], ["serve", "--port", "0"], ["stdio"]):
        done = chora(project, *command)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert "may be written" in done.stderr or "permissions" in done.stderr, done.stderr
    disk.remount("rw")
    assert {path: path.read_bytes() for path in disk.root.rglob("*") if path.is_file()} == before
    assert chora(project, "generate", "good", "--force").returncode == 0


async def test_a_database_that_is_taken_away(project: Project):
    """A server whose database was moved reports it, refuses to write into the unlinked file, and uses it again once it
    is back.
    """
    prepare(project)
    database = project.root / ".chora/storage.db"
    async with serving(project) as (_, client):
        generate = {"content_config_id": "good", "force": True}
        assert (await call(client, "generate_content", **generate))["success"]
        database.rename(aside := database.with_name("aside"))
        status, reason = await readiness(client)
        assert (status, "moved, removed or replaced" in reason) == (503, True), reason
        assert (await call(client, "generate_content", **generate))["error"]["code"] in FULL
        aside.rename(database)
        await wait_ready(client)
        assert (await call(client, "generate_content", **generate))["success"]
    with contextlib.closing(open_store(project.root, StorageSettings())) as store:
        assert store.counts()["versions"] == 2
