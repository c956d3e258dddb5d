"""Diagnosing a database, and repairing a damaged one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import msgspec
import pytest
import trio

from chora.errors import StorageError
from chora.hashing import sha256
from chora.store import Draft, Output, SqliteStore, Version, database
from chora.store.database import migrations
from chora.store.repair import examine_database, repair_database
from chora.store.salvage import salvage_database
from chora.store.wal import count_lost_pages
from chora.timestamps import now
from tests.disks import small_disk

PAGE = 4096
COUNT = 300


def texts(path: Path) -> dict[str, str]:
    """Every stored text by its id, after checking each against its hash."""
    with contextlib.closing(SqliteStore(path)) as store:
        found = store.versions("tides")
    assert all(sha256(each.body.encode()) == each.sha256 for each in found)
    return {each.version_id: each.body for each in found}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with three hundred texts, some of several pages, a draft and an output."""
    path = tmp_path / ".chora" / "storage.db"
    store = SqliteStore(path)

    bodies = [f"{number} {'x' * (number % 7) * 1500}" for number in range(COUNT)]
    trio.run(store.add_records, [text(body, f"20260101T{number:09}Z-0000") for number, body in enumerate(bodies)])
    trio.run(store.save_draft, draft())
    trio.run(store.save_outputs, [output()])
    store.close()
    return path


def text(body: str, version_id: str = "") -> Version:
    return Version(
        content_id="tides",
        body=body,
        sha256=sha256(body.encode()),
        fingerprint=f"made from {body[:20]}",
        generator="demonstration",
        generator_version="1.0.0",
        generated_at=now(),
        version_id=version_id,
    )


def draft() -> Draft:
    return Draft(
        draft_id="d", config_type="content", config_data={"a": 1}, description=None, created_at=now(), updated_at=now()
    )


def output() -> Output:
    return Output(
        path="outputs/a.md", artifact_id="a", sha256="x", pending=None, fingerprint="f", size=1, written_at=now()
    )


def pages_of(path: Path, name: str) -> list[int]:
    """The numbers, from 0, of the pages of a table or an index, without its root."""
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE VIRTUAL TABLE temp.stat USING dbstat(main)")
        sql = "SELECT pageno - 1 FROM temp.stat WHERE name = ? AND path != '/' ORDER BY 1"
        return [number for (number,) in db.execute(sql, (name,))]


def flip(path: Path, pages: list[int]) -> None:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[page * PAGE : page * PAGE + PAGE] = bytes(255 - byte for byte in data[page * PAGE : page * PAGE + PAGE])
    path.write_bytes(data)


def _scattered(path: Path) -> None:
    flip(path, random.Random(1).sample(pages_of(path, "versions"), 12))


def _one_end(path: Path) -> None:
    flip(path, pages_of(path, "versions")[-5:])


def _bytes_of_a_text(path: Path) -> None:
    data = path.read_bytes()
    place = data.index(b"xxxxxxxx", len(data) // 2)
    path.write_bytes(data[:place] + b"y" + data[place + 1 :])
    # SQLite doesn't notice that alone; this damage makes it check.
    flip(path, pages_of(path, "versions_by_fingerprint")[:1])


def _not_text(path: Path) -> None:
    data = path.read_bytes()
    place = data.index(b"xxxxxxxx", len(data) // 2)
    path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
    flip(path, pages_of(path, "versions_by_fingerprint")[:1])


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3 // PAGE * PAGE + 1000])


def _without_header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def _moved_without_header(path: Path) -> None:
    """Like a restored database: its tables begin on other pages than in a new one."""
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("DROP INDEX samples_by_time; VACUUM; CREATE INDEX samples_by_time ON samples (kind, at); VACUUM")
    _without_header(path)


def _without_first_page(path: Path) -> None:
    path.write_bytes(bytes(PAGE) + path.read_bytes()[PAGE:])


def _index(path: Path) -> None:
    flip(path, pages_of(path, "versions_of_content")[:2])


def _unlike_its_index(path: Path) -> None:
    """Every page is valid, but the index lacks rows of the table; only a full check finds that."""
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.execute("PRAGMA writable_schema = ON")
        sql = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'versions_by_fingerprint'").fetchall()[0][0]
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'versions_by_fingerprint'", (f"{sql} WHERE false",))
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("REINDEX versions_by_fingerprint")
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'versions_by_fingerprint'", (sql,))


DAMAGES: dict[str, tuple[Callable[[Path], None], int]] = {
    "scattered pages": (_scattered, COUNT // 2),
    "the end of a table": (_one_end, COUNT // 2),
    "a byte of a text": (_bytes_of_a_text, COUNT - 1),
    "no text": (_not_text, COUNT - 1),
    "cut off": (_cut, COUNT // 4),
    "no header": (_without_header, COUNT),
    "no header, moved": (_moved_without_header, COUNT),
    "no first page": (_without_first_page, COUNT),
    "index": (_index, COUNT),
    "unlike its index": (_unlike_its_index, COUNT),
}
"""Kinds of damage, and how many texts can be saved at least."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_replaced_by_what_can_be_read_of_it(path: Path, damage: str):
    """Diagnosing changes nothing and says what can be saved; repairing saves it, keeps the damaged file, and restores
    no incomplete text.
    """
    before = texts(path)
    hurt, least = DAMAGES[damage]
    hurt(path)
    as_it_was = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    condition = examine_database(path)
    assert condition.kind == "damaged", condition
    assert condition.remedy is not None
    assert "`chora doctor --repair` saves" in condition.remedy
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == as_it_was
    done = repair_database(path)
    assert done.replaced.read_bytes() == as_it_was[path.name]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, done.replaced.name]
    assert examine_database(path).kind == "whole"
    after = texts(path)
    assert after.items() <= before.items()
    assert least <= len(after) == done.saved.saved["versions"]
    assert len(after) + done.saved.lost.get("versions", 0) >= (COUNT if damage != "cut off" else 0)
    if least == COUNT:
        assert (done.saved.lost, done.saved.saved["drafts"], done.saved.saved["outputs"]) == ({}, 1, 1)


def test_changes_in_the_wal_of_a_damaged_database_are_saved_too(path: Path):
    """The WAL counts, and is moved aside with the damaged file instead of being applied to the new one."""
    store = SqliteStore(path)
    added = trio.run(store.add_version, text("late"))
    kept = {file: file.read_bytes() for file in (path, path.with_name("storage.db-wal"))}
    store.close()
    for file, body in kept.items():
        file.write_bytes(body)
    shutil.copy(path.with_name("storage.db-wal"), path.with_name("wal"))
    flip(path, pages_without_log(path))
    path.with_name("wal").replace(path.with_name("storage.db-wal"))
    assert examine_database(path).kind == "damaged"
    done = repair_database(path)
    assert added.version_id in texts(path)
    assert done.replaced.with_name(f"{done.replaced.name}-wal").exists()


def pages_without_log(path: Path) -> list[int]:
    path.with_name("storage.db-wal").unlink()
    path.with_name("storage.db-shm").unlink(missing_ok=True)
    return pages_of(path, "versions")[10:14]


@pytest.mark.parametrize("how", ["torn", "cut", "damaged in the middle", "none"])
def test_the_rest_of_the_wal_is_checked(path: Path, how: str):
    """An unfinished last change is ignored; changes behind a damaged one were acknowledged, and reported as lost."""
    store = SqliteStore(path)
    for number in range(5):
        trio.run(store.add_version, text(f"late {number}"))
    log = path.with_name("storage.db-wal")
    kept = {path: path.read_bytes(), log: log.read_bytes()}
    store.close()
    body = bytearray(kept[log])
    if how == "torn":
        body[-100:] = os.urandom(100)
    elif how == "cut":
        del body[-1000:]
    elif how == "damaged in the middle":
        body[len(body) // 3] ^= 255
    path.write_bytes(kept[path])
    log.write_bytes(body)
    assert (count_lost_pages(path) > 0) is (how == "damaged in the middle")
    assert examine_database(path).kind == "whole"
    assert len(texts(path)) == COUNT + {"torn": 4, "cut": 4, "none": 5}.get(how, len(texts(path)) - COUNT)


@pytest.mark.parametrize("data", [b"", b"x" * 20, b"not a log" * 1000])
def test_what_is_no_log_of_a_database_has_no_lost_pages(data: bytes, tmp_path: Path):
    """Nor has one that isn't there."""
    assert count_lost_pages(tmp_path / "storage.db") == 0
    (tmp_path / "storage.db-wal").write_bytes(data)
    assert count_lost_pages(tmp_path / "storage.db") == 0


def _foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute(
            "PRAGMA application_id = 7; CREATE TABLE versions (version_id, body); INSERT INTO versions VALUES (1, 2)"
        )


def _damaged_foreign(path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA application_id = 7; PRAGMA journal_mode = DELETE")
    _scattered(path)


def _newer(path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA user_version = 99; PRAGMA journal_mode = DELETE")


def _damaged_newer(path: Path) -> None:
    _newer(path)
    _scattered(path)


def _text(path: Path) -> None:
    path.write_text("no database at all\n" * 1000)


def _noise(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(50 * PAGE))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_foreign, "foreign"),
        (_damaged_foreign, "foreign"),
        (_newer, "newer"),
        (_damaged_newer, "newer"),
        (_text, "foreign"),
        (_noise, "foreign"),
        (_folder, "foreign"),
        (lambda path: None, "whole"),
        (lambda path: path.write_bytes(b""), "missing"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_other_databases_are_not_repaired(path: Path, make: Callable[[Path], object], kind: str):
    """Another program's, a newer chora's, an intact one, or none: it is reported, and not a byte changes."""
    make(path)
    before = {file: file.is_file() and file.read_bytes() for file in path.parent.rglob("*")}
    condition = examine_database(path)
    assert condition.kind == kind, condition
    with pytest.raises(StorageError) as caught:
        repair_database(path)
    assert caught.value.message == condition.reason
    assert {file: file.is_file() and file.read_bytes() for file in path.parent.rglob("*")} == before


@pytest.mark.skipif(os.name == "nt", reason="Windows itself keeps what is open")
def test_a_database_that_a_process_has_open_is_not_replaced(path: Path):
    """That process's later writes would be lost."""
    script = (
        "import sys, apsw; db = apsw.Connection(sys.argv[1]); db.execute('SELECT count(*) FROM drafts').fetchall(); "
        "print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    flip(path, [*range(40, 44)])
    before = path.read_bytes()
    with pytest.raises(StorageError, match=rf"repaired while a process has it open: {holder.pid} ") as caught:
        repair_database(path)
    assert "End it first" in str(caught.value.hint)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.damaged-*"))
    assert not list(path.parent.glob(".*"))
    holder.communicate("")
    assert repair_database(path).saved.saved["versions"] > COUNT // 2


def test_a_database_of_an_older_chora_is_saved(tmp_path: Path):
    """Missing columns and tables are filled in as by a migration."""
    path = tmp_path / "old.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute(migrations()[0][1])
        names = [row[1] for row in db.execute("PRAGMA table_info(versions)")]
        fields = {**msgspec.structs.asdict(text("old", "20260101T000000000Z-0000")), "metadata": "{}"}
        marks = ", ".join("?" * len(names))
        db.execute(f"INSERT INTO versions VALUES ({marks})", [fields.get(name) for name in names])
    done = salvage_database(path, tmp_path / "saved.db")
    assert (done.saved["versions"], done.lost) == (1, {})
    with contextlib.closing(SqliteStore(tmp_path / "saved.db")) as store:
        (only,) = store.versions("tides")
        assert (only.body, only.approved) == ("old", False)


def test_ids_of_deleted_texts_are_not_reused(path: Path):
    """The new database keeps the counter of the damaged one."""
    store = SqliteStore(path)
    high = msgspec.structs.replace(store.versions("tides")[0], version_id="99980101T000000000Z-0000")
    trio.run(store.add_records, [high])
    trio.run(store.delete_versions, [high.version_id])
    store.close()
    _index(path)
    repair_database(path)
    with contextlib.closing(SqliteStore(path)) as store:
        assert trio.run(store.add_version, text("new")).version_id > high.version_id


def test_a_repair_that_finds_no_space_leaves_everything(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The damaged file stays, and no other is left."""
    _index(path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match="couldn't be repaired: No space left"):
        repair_database(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_database_without_an_application_id_is_checked_by_its_tables(tmp_path: Path):
    """It is foreign if it holds anything, and may be used if it is empty."""
    path = tmp_path / "some.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE TABLE notes (a)")
    assert examine_database(path).kind == "foreign"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("DROP TABLE notes")
    assert examine_database(path).kind == "missing"


def test_a_database_that_is_locked_by_another_process_is_not_diagnosed(path: Path, monkeypatch: pytest.MonkeyPatch):
    """That process will release the lock."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 50)
    holder = apsw.Connection(str(path))
    holder.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; DELETE FROM drafts; COMMIT").fetchall()
    condition = examine_database(path)
    assert (condition.kind, condition.remedy) == ("held", "Try again when it is done.")
    holder.close()
    assert examine_database(path).kind == "whole"


def test_rows_that_are_no_records_are_not_saved(path: Path, tmp_path: Path):
    """A page may be valid although its rows are damaged."""
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("UPDATE versions SET metadata = '{\"a\":' WHERE rowid = 7")
        db.execute("UPDATE versions SET metadata = '[1]' WHERE rowid = 8")
        db.execute("UPDATE versions SET body = body || 'x' WHERE rowid = 9")
    done = salvage_database(path, tmp_path / "saved.db")
    assert (done.saved["versions"], done.lost) == (COUNT - 3, {"versions": 3})
    assert len(texts(tmp_path / "saved.db")) == COUNT - 3


def test_a_repair_needs_free_space(path: Path, tmp_path: Path):
    """On a full disk, nothing is left of the attempt."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(StorageError, match=r"full|No space left"):
            salvage_database(path, disk.root / "saved.db")
        assert list(disk.root.iterdir()) == []
