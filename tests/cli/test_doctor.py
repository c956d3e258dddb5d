"""`chora doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from click.testing import CliRunner, Result

from chora import settings
from chora.cli import program
from chora.engine.engine import open_engine
from tests.conftest import Asking, Project, requirement
from tests.disks import small_disk


def run(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(program, ["--project", str(project.root), *arguments])


def steps(result: Result) -> dict[str, dict[str, Any]]:
    answer = json.loads(result.stdout)
    assert answer["success"] is (result.exit_code == 0)
    assert result.exit_code in (0, 1)
    return {step["name"]: step for step in answer["steps"]}


def database(project: Project) -> Path:
    return project.root / ".chora/storage.db"


def fill(project: Project, count: int) -> None:
    """Store `count` long texts."""

    async def generate() -> None:
        async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
            for number in range(count):
                await Asking(engine)(
                    "generate_content", content_config_id="greeting", context={"name": f"{'x' * 3000}{number}"}
                )

    trio.run(generate)


def damage(project: Project) -> bytes:
    """Damage a database with sixty texts, and return its path."""
    fill(project, 60)
    data = bytearray(database(project).read_bytes())
    middle = data.index(b"x" * 2000, len(data) // 2) // 4096 * 4096  # a page that holds texts
    data[middle : middle + 2 * 4096] = b"\xff" * (2 * 4096)
    database(project).write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("backend", ["sqlite", "filesystem", "memory"])
def test_a_healthy_project_passes_every_step(hello: Project, backend: str):
    """Before anything is stored and afterwards, with --json and without; doctor creates no files."""
    hello.write("chora.toml", f'[storage]\nbackend = "{backend}"\n')
    before = sorted(hello.root.rglob("*"))
    assert all(step["ok"] for step in steps(run(hello, "doctor", "--json")).values())
    assert sorted(hello.root.rglob("*")) == before
    assert run(hello, "generate", "greeting").exit_code == 0
    before = sorted(hello.root.rglob("*"))
    looked = steps(run(hello, "doctor", "--json"))
    assert list(looked) == ["store access", "store space", "store content", "store leftovers", "outputs", "http access"]
    assert all(set(step) == {"name", "ok", "reason", "remedy", "warning"} and step["ok"] for step in looked.values())
    if backend != "filesystem":  # its lock file is created by reading
        assert sorted(hello.root.rglob("*")) == before
    result = run(hello, "doctor")
    assert (result.exit_code, result.output.count("ok "), "FAILED" in result.output) == (0, 5, False)


def test_a_damaged_database_is_reported_and_repaired(hello: Project):
    """Every other command refuses it in one line; doctor says what can be saved, and saves it with --repair."""
    damaged = damage(hello)
    refused = run(hello, "generate", "greeting", "--json")
    assert refused.exit_code == 1
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "storage_error"
    assert "doctor" in error["hint"]
    looked = run(hello, "doctor", "--json")
    step = steps(looked)["store content"]
    assert (step["ok"], "is damaged" in step["reason"]) == (False, True)
    assert "`chora doctor --repair` saves 5" in step["remedy"]
    assert "are lost" in step["remedy"]
    result = run(hello, "doctor")
    assert (result.exit_code, "FAILED store content" in result.output) == (1, True)
    assert database(hello).read_bytes() == damaged
    done = run(hello, "doctor", "--repair", "--json")
    assert (done.exit_code, all(step["ok"] for step in steps(done).values())) == (0, True)
    facts = json.loads(done.stdout)["repaired"]
    assert 50 <= facts["saved"]["versions"] < 60
    assert facts["saved"]["versions"] + facts["lost"]["versions"] >= 60
    assert Path(facts["replaced"]).read_bytes() == damaged
    assert run(hello, "generate", "greeting").exit_code == 0
    again = run(hello, "doctor", "--repair", "--json")
    assert (again.exit_code, "repaired" in json.loads(again.stdout)) == (0, False)


def test_a_repair_says_what_it_saved(hello: Project):
    """In one line, with the new name of the damaged database; the hint names restoring a backup as the alternative."""
    assert run(hello, "backup").exit_code == 0
    damage(hello)
    assert "or restore a backup: `chora restore " in run(hello, "doctor").output
    result = run(hello, "doctor", "--repair")
    assert result.exit_code == 0, result.output
    assert "repaired: saved 5" in result.output
    assert "storage.db.damaged-" in result.output


@pytest.mark.parametrize("owner", ["another", "newer"])
def test_a_file_that_is_no_chora_database_is_never_repaired(hello: Project, owner: str):
    """It is reported and left unchanged."""
    assert run(hello, "generate", "greeting").exit_code == 0
    db = apsw.Connection(str(database(hello)))
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("PRAGMA application_id = 7" if owner == "another" else "PRAGMA user_version = 99")
    db.close()
    before = database(hello).read_bytes()
    done = run(hello, "doctor", "--repair", "--json")
    step = steps(done)["store content"]
    assert (done.exit_code, step["ok"]) == (1, False)
    assert ("another program" if owner == "another" else "newer chora") in step["reason"]
    assert database(hello).read_bytes() == before


def test_a_full_disk_is_reported(hello: Project):
    """Before any write fails."""
    with small_disk(hello.root / ".chora", "1m") as disk:
        assert steps(run(hello, "doctor", "--json"))["store space"]["ok"]
        disk.fill()
        step = steps(run(hello, "doctor", "--json"))["store space"]
        assert (step["ok"], "is full" in step["reason"]) == (False, True)
        assert step["remedy"]


def test_a_read_only_folder_is_reported(hello: Project):
    """As on a read-only disk."""
    with small_disk(hello.root / ".chora", "1m") as disk:
        assert run(hello, "generate", "greeting").exit_code == 0
        disk.remount("ro")
        step = steps(run(hello, "doctor", "--json"))["store access"]
        assert (step["ok"], "may not be read and written" in step["reason"]) == (False, True)


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't let a file be copied while it is written")
def test_a_write_ahead_log_is_no_fault(hello: Project):
    """A process has the database open, or was killed; what follows a damaged part of the log is lost, and reported."""
    assert run(hello, "generate", "greeting").exit_code == 0
    db = apsw.Connection(str(database(hello)))
    for number in range(5):
        db.execute("INSERT INTO costs VALUES (?, 'a', 'b', 1, 1, 1.0)", (str(number),))
    step = steps(run(hello, "doctor", "--json"))["store leftovers"]
    assert (step["ok"], "never delete it" in step["reason"]) == (True, True)
    log = database(hello).with_name("storage.db-wal")
    kept = {file: bytearray(file.read_bytes()) for file in (database(hello), log)}
    db.close()
    kept[log][100] ^= 255
    for file, body in kept.items():
        file.write_bytes(body)
    step = steps(run(hello, "doctor", "--json"))["store leftovers"]
    assert (step["ok"], "follow a damaged one" in step["reason"]) == (False, True)


def test_an_unreadable_filesystem_store_is_reported(hello: Project):
    """With the error that using it would give."""
    hello.write("chora.toml", '[storage]\nbackend = "filesystem"\n')
    hello.write("ephemeral", "a file")
    looked = steps(run(hello, "doctor", "--json"))
    assert not looked["store content"]["ok"]


@requirement("access.doctor-warns")
def test_a_server_without_a_token_is_a_warning(hello: Project):
    """A proxy that adds no header can't be told from a client of this machine, so doctor says what to do about it."""
    result = run(hello, "doctor")
    assert result.exit_code == 0
    assert "warn   http access: `chora serve` needs no token" in result.output
    assert "chora token new NAME" in result.output
    hello.write("chora.toml", '[http]\ntrusted_proxies = ["10.0.0.1"]\n')
    step = steps(run(hello, "doctor", "--json"))["http access"]
    assert (step["ok"], step["warning"], "clients of trusted proxies need one" in step["reason"]) == (True, False, True)
    hello.write("chora.toml", "")
    assert run(hello, "token", "new", "ci").exit_code == 0
    step = steps(run(hello, "doctor", "--json"))["http access"]
    assert (step["ok"], step["warning"], "Every request" in step["reason"]) == (True, False, True)


@pytest.mark.parametrize(
    ("http", "problem"),
    [
        ('host = "0.0.0.0"', "won't listen on 0.0.0.0 without a token"),
        ('token = "file:gone"', "gone"),
        ('cert = "cert.pem"', "key"),
        ('trusted_proxies = ["proxy"]', "proxy"),
    ],
)
def test_access_that_stops_the_start_of_a_server_is_wrong(hello: Project, http: str, problem: str):
    """With the same words as `chora serve`."""
    hello.write("chora.toml", f"[http]\n{http}\n")
    result = run(hello, "doctor", "--json")
    step = steps(result)["http access"]
    assert not step["ok"]
    assert problem in step["reason"]
    assert step["remedy"]
