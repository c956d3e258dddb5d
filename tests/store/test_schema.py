"""The schema of a database is chora's own: what another program puts into it is found before it acts."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import apsw
import pytest
import trio
from click.testing import CliRunner

from chora.cli import program
from chora.errors import StorageError
from chora.settings import StorageSettings
from chora.store import SqliteStore, database, open_store
from chora.store.backup import make_backup, restore_backup, verify_backup
from chora.store.database import SCHEMA_DIGESTS, make_schema, schema_digest
from chora.store.repair import examine_database, repair_database
from tests.conftest import Project, requirement
from tests.store.test_contract import version

CHANGES = {
    "a trigger that deletes": (
        "CREATE TRIGGER t AFTER INSERT ON versions BEGIN DELETE FROM versions WHERE content_id = 'tides'; END",
        "the trigger 't' is not one of chora's",
    ),
    "a trigger that ignores": (
        "CREATE TRIGGER t BEFORE INSERT ON versions BEGIN SELECT raise(IGNORE); END",
        "the trigger 't' is not one of chora's",
    ),
    "a missing trigger": ("DROP TRIGGER version_added", "the trigger version_added is missing"),
    "another trigger": (
        "DROP TRIGGER version_added; CREATE TRIGGER version_added AFTER INSERT ON versions BEGIN SELECT 1; END",
        "the trigger version_added is another",
    ),
    "a view": ("CREATE VIEW v AS SELECT 1", "the view 'v' is not one of chora's"),
    "an index": ("CREATE INDEX i ON versions (body)", "the index 'i' is not one of chora's"),
    "a missing index": ("DROP INDEX versions_by_time", "the index versions_by_time is missing"),
    "a table": ("CREATE TABLE x (a)", "the table 'x' is not one of chora's"),
    "a column": ("ALTER TABLE versions ADD COLUMN more TEXT DEFAULT 'x'", "the table versions is another"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".chora" / "storage.db"


async def alter(path: Path, what: str) -> list[str]:
    """Store some texts, and change the schema as another program would; returns the texts."""
    with contextlib.closing(SqliteStore(path)) as store:
        for number in range(3):
            await store.add_version(version(body=f"text {number}"))
        bodies = [each.body for each in store.versions("tides")]
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute(CHANGES[what][0])
    return bodies


@requirement("storage.own-schema")
@pytest.mark.parametrize("what", CHANGES)
async def test_a_database_with_another_schema_is_not_opened(path: Path, what: str):
    """It is refused with what is different, and left unchanged: what such a trigger does is never acknowledged."""
    await alter(path, what)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="doesn't have the schema that chora makes") as refused:
        SqliteStore(path)
    assert CHANGES[what][1] in refused.value.message
    assert refused.value.details["error_type"] == "SchemaError"
    assert "`chora doctor --repair`" in (refused.value.hint or "")
    assert path.read_bytes() == before


@requirement("storage.own-schema")
@pytest.mark.parametrize("what", CHANGES)
async def test_the_doctor_finds_another_schema_and_repairs_it(project: Project, what: str):
    """The new database has every record, and the changed one is kept."""
    path = project.root / ".chora/storage.db"
    bodies = await alter(path, what)
    before = path.read_bytes()
    condition = examine_database(path)
    assert (condition.kind, CHANGES[what][1] in condition.reason) == ("altered", True)
    doctor = ["--project", str(project.root), "doctor", "--json"]
    done = await trio.to_thread.run_sync(CliRunner().invoke, program, doctor)
    assert (done.exit_code, path.read_bytes()) == (1, before)
    assert CHANGES[what][1] in done.stdout
    done = await trio.to_thread.run_sync(CliRunner().invoke, program, [*doctor, "--repair"])
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["repaired"]["saved"]["versions"], answer["repaired"]["lost"]) == (0, 3, {})
    assert Path(answer["repaired"]["replaced"]).read_bytes() == before
    with contextlib.closing(open_store(project.root, StorageSettings())) as store:
        assert [each.body for each in store.versions("tides")] == bodies


@requirement("storage.own-schema")
async def test_a_backup_with_another_schema_is_not_restored(tmp_path: Path, path: Path):
    """A user who can write a backup could otherwise have the server delete what it stores."""
    with contextlib.closing(SqliteStore(path)) as store:
        await store.add_version(version(body="kept"))
        made = await make_backup(store, tmp_path / "backups")
    with contextlib.closing(apsw.Connection(str(made.path))) as db:
        db.execute(CHANGES["a trigger that deletes"][0])
    with pytest.raises(StorageError, match="the trigger 't' is not one of chora's") as refused:
        verify_backup(made.path)
    assert "`chora restore --salvage`" in (refused.value.hint or "")
    with pytest.raises(StorageError):
        await restore_backup(tmp_path, StorageSettings(), made.path, tmp_path / "backups")
    with contextlib.closing(SqliteStore(path)) as store:
        assert [each.body for each in store.versions("tides")] == ["kept"]


async def test_an_older_schema_is_compared_before_it_is_migrated(path: Path):
    """With that of its own number."""
    path.parent.mkdir()
    for changed in (False, True):
        path.unlink(missing_ok=True)
        with contextlib.closing(apsw.Connection(str(path))) as db:
            for number, script in database.migrations()[:2]:
                db.execute(script)
                db.pragma("user_version", number)
            db.pragma("application_id", database.APPLICATION_ID)
            if changed:
                db.execute(CHANGES["a trigger that deletes"][0])
        if changed:
            with pytest.raises(StorageError, match="the trigger 't' is not one of chora's"):
                SqliteStore(path)
        else:
            SqliteStore(path).close()


async def test_what_sqlite_adds_by_itself_is_no_change(path: Path):
    """The statistics of ANALYZE."""
    SqliteStore(path).close()
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("ANALYZE")
    SqliteStore(path).close()


def test_every_schema_has_its_digest():
    """A new migration adds one, and no migration is ever changed: databases that it made would be refused."""
    assert {number: schema_digest(make_schema(number)) for number, _ in database.migrations()} == SCHEMA_DIGESTS


def test_an_intact_database_is_not_repaired(path: Path):
    """Nothing is wrong with it."""
    SqliteStore(path).close()
    with pytest.raises(StorageError, match="is intact"):
        repair_database(path)


def test_a_schema_can_t_call_functions(path: Path):
    """A connection trusts no schema, and can't be made to write one (sqlite.org/security.html)."""
    with contextlib.closing(SqliteStore(path)) as store:
        for db in (store._reader, store._writer):  # pyright: ignore[reportPrivateUsage]
            assert db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, -1) == 0
            assert db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1
