"""The SQLite store: records and their order, and failures of the disk, the clock and processes."""

import contextlib
import errno
import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import trio
import trio.testing

from chora.errors import StorageError
from chora.store import Draft, Output, Record, Sample, SqliteStore, Version, database, ids, sqlite
from chora.store.records import VersionAge
from chora.store.write_check import FAILURE_REUSE_TIME
from tests.conftest import requirement
from tests.disks import Disk, small_disk
from tests.histories import statements_of
from tests.open_files import open_files_in
from tests.patience import PATIENCE

ID = r"\d{8}T\d{9}Z-[0-9a-f]{4}"


def version(content_id: str = "tides", **rest: Any) -> Version:
    """A text; fields that aren't given are the same each time."""
    values: dict[str, Any] = {
        "body": "low water at noon",
        "sha256": "sha256:00",
        "fingerprint": "sha256:11",
        "generator": "jinja2",
        "generator_version": "1",
        "generated_at": "2026-11-22T10:15:30.123Z",
    }
    return Version(content_id=content_id, **(values | rest))


def sample(at: str, ok: bool = True, kind: Any = "probe", **facts: Any) -> Sample:
    return Sample(kind=kind, at=at, ok=ok, milliseconds=1.5, facts=facts)


def output(path: str, **rest: Any) -> Output:
    values: dict[str, Any] = {"artifact_id": "note", "sha256": "a", "pending": None, "fingerprint": "f"}
    more: dict[str, Any] = {"size": 3, "written_at": "t"}
    return Output(path=path, **{**values, **more, **rest})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a database and a folder that don't exist yet."""
    return tmp_path / ".chora" / "storage.db"


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, path: Path) -> AsyncGenerator[SqliteStore]:
    """An open store, on disk and in memory."""
    store = SqliteStore(path if request.param == "file" else None)
    yield store
    store.close()
    assert open_files_in(path.parent) == []


# -- records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        version(),
        version(config_version="1.0.0", stage="approved", metadata={"previous": None, "warnings": ["ä", {"a": [1.5]}]}),
        version(body="", metadata={}),
        version(body="line\r\n\0 Nørvik 🌊 \x7f", config_version="null", stage="true"),
        version(body="x" * 3_000_000),
    ],
)
async def test_a_version_is_read_back_unchanged(store: SqliteStore, given: Version):
    """Every field, whatever its characters and its length; only the id is new."""
    saved = await store.add_version(given)
    assert re.fullmatch(ID, saved.version_id)
    assert saved == msgspec.structs.replace(given, version_id=saved.version_id)
    assert store.latest_version("tides") == saved
    assert store.version_with_fingerprint("tides", given.fingerprint) == saved
    assert store.versions("tides") == [saved]


async def test_unknown_records_are_none(store: SqliteStore):
    """Looking something up in an empty store is no error."""
    assert store.latest_version("tides") is None
    assert store.version_with_fingerprint("tides", "f") is None
    assert store.versions("tides") == []
    assert store.draft("d") is None
    assert store.output("a.md") is None
    assert store.outputs_of("note") == []
    assert store.samples("probe") == []
    assert store.last_sample("probe") is None
    assert (store.sample_counts("probe").total, store.sample_counts("probe").ok) == (0, 0)
    assert set(store.counts().values()) == {0}


async def test_the_latest_version_may_have_another_fingerprint(store: SqliteStore):
    """A text of another input may be newer, but isn't found by this fingerprint."""
    first = await store.add_version(version(fingerprint="a"))
    second = await store.add_version(version(fingerprint="b"))
    third = await store.add_version(version(fingerprint="a"))
    await store.add_version(version("harbour", fingerprint="c"))
    assert store.latest_version("tides") == third
    assert store.version_with_fingerprint("tides", "a") == third
    assert store.version_with_fingerprint("tides", "b") == second
    assert store.version_with_fingerprint("tides", "c") is None
    assert store.versions("tides") == [first, second, third]


async def test_a_draft_is_replaced_and_deleted(store: SqliteStore):
    """Its last state counts; deleting an unknown one is no error."""
    data = {"id": "tides", "list": [1, None, {"ä": True}], "big": 2**63, "number": 1.5}
    first = Draft(
        draft_id="d", config_type="content", config_data=data, description=None, created_at="t", updated_at="t"
    )
    await store.save_draft(first)
    assert store.draft("d") == first
    second = msgspec.structs.replace(first, config_data={}, description="null", updated_at="u")
    await store.save_draft(second)
    assert store.draft("d") == second
    assert store.counts()["drafts"] == 1
    await store.delete_draft("d")
    await store.delete_draft("d")
    assert store.draft("d") is None


async def test_outputs_are_kept_by_path(store: SqliteStore):
    """The record of a file is replaced; an artifact's outputs are sorted by path."""
    await store.save_outputs(
        [output("b.md"), output("a.md", sha256=None, pending="p"), output("c.md", artifact_id="x")]
    )
    await store.save_outputs([output("b.md", size=2**40)])
    await store.save_outputs([])
    assert store.output("b.md") == output("b.md", size=2**40)
    assert store.outputs_of("note") == [output("a.md", sha256=None, pending="p"), output("b.md", size=2**40)]


async def test_outputs_are_stored_all_or_none(store: SqliteStore):
    """One that can't be stored fails the others of its transaction."""
    broken: Any = output("b.md", size="three")
    with pytest.raises(StorageError):
        await store.save_outputs([output("a.md"), broken])
    assert store.counts()["outputs"] == 0
    await store.save_outputs([output("a.md")])
    assert store.counts()["outputs"] == 1


async def test_samples_are_counted_since_a_time(store: SqliteStore):
    """Including that moment; by kind; the newest is the one with the latest time."""
    for minute, ok in ((3, True), (4, True), (1, True), (2, False)):
        await store.add_sample(sample(f"2026-11-22T10:0{minute}:00.000Z", ok, error=None if ok else "timeout"))
    await store.add_sample(sample("2026-11-22T11:00:00.000Z", kind="latency", p95=0.01))
    since = "2026-11-22T10:02:00.000Z"
    assert [found.at[14:16] for found in store.samples("probe", since)] == ["02", "03", "04"]
    assert store.samples("probe", since)[0] == sample(since, False, error="timeout")
    assert (store.sample_counts("probe").total, store.sample_counts("probe").ok) == (4, 3)
    assert (store.sample_counts("probe", since).total, store.sample_counts("probe", since).ok) == (3, 2)
    last = store.last_sample("probe")
    assert last is not None
    assert last.at == "2026-11-22T10:04:00.000Z"
    assert store.last_sample("latency") == sample("2026-11-22T11:00:00.000Z", kind="latency", p95=0.01)


async def test_counts_are_rows_per_table(store: SqliteStore):
    """The status page shows them."""
    await store.add_version(version())
    await store.add_version(version())
    await store.add_sample(sample("t"))
    assert {table: count for table, count in store.counts().items() if count} == {"versions": 2, "samples": 1}
    assert list(store.counts()) == list(database.TABLES.values())


async def test_a_reopened_store_has_everything(path: Path):
    """And closing the last connection checkpoints the WAL."""
    store = SqliteStore(path)
    saved = await store.add_version(version())
    await store.add_sample(sample("t"))
    store.close()
    store.close()  # closing twice is no error
    assert [file.name for file in path.parent.iterdir()] == ["storage.db"]
    store = SqliteStore(path)
    assert store.latest_version("tides") == saved
    assert store.counts()["samples"] == 1
    store.close()


async def test_stores_in_memory_are_independent():
    """They share nothing, and no file is created."""
    one, other = SqliteStore(None), SqliteStore(None)
    await one.add_version(version())
    assert other.counts()["versions"] == 0
    await one.check()
    one.close()
    await other.check()
    other.close()


async def test_reading_and_writing_at_once(store: SqliteStore):
    """While the writer thread writes, the event loop reads what was acknowledged before."""
    acknowledged = 0

    async def add() -> None:
        nonlocal acknowledged
        for _ in range(30):
            await store.add_version(version())
            acknowledged += 1

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(add)
            while acknowledged < 120:
                before = acknowledged
                assert store.counts()["versions"] >= before
                await trio.lowlevel.checkpoint()


# -- version ids ------------------------------------------------------------------------------------------------


async def test_ids_are_unique_and_sorted_by_storing_order(store: SqliteStore):
    """Five hundred texts added at once get five hundred ids."""
    given: list[str] = []

    async def add(number: int) -> None:
        given.append((await store.add_version(version(body=str(number)))).version_id)

    before = datetime.now(UTC)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(add, number)
    assert len(set(given)) == 500
    assert all(re.fullmatch(ID, each) for each in given)
    assert [each.version_id for each in store.versions("tides")] == sorted(given)
    assert given[0] >= f"{before:%Y%m%dT%H%M%S}"
    assert f"{datetime.now(UTC):%Y%m%dT%H%M%S}" + "~" >= max(given)


class Clock(datetime):
    """Returns the given times, one after the other."""

    shows: Iterator[datetime]

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return next(cls.shows)


NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the times that the clock returns, the last one for ever."""
    monkeypatch.setattr(ids, "datetime", Clock)

    def wind(*times: datetime) -> None:
        Clock.shows = itertools.chain(times, itertools.repeat(times[-1]))

    return wind


async def test_an_id_shows_its_time(store: SqliteStore, clock: Callable[..., None]):
    """UTC in milliseconds, and four digits for versions of the same millisecond."""
    clock(NOON)
    assert (await store.add_version(version())).version_id.startswith("20261122T120000123Z-")


async def test_ids_rise_when_the_clock_goes_back(store: SqliteStore, clock: Callable[..., None]):
    """Neither a stopped clock nor one set back an hour makes an id that sorts before an earlier one."""
    clock(NOON, NOON, NOON - timedelta(hours=1), NOON - timedelta(days=400), NOON, NOON + timedelta(milliseconds=1))
    given = [(await store.add_version(version())).version_id for _ in range(6)]
    assert given == sorted(set(given))
    assert [each[:19] for each in given] == ["20261122T120000123Z"] * 5 + ["20261122T120000124Z"]
    assert int(given[4][-4:], 16) - int(given[0][-4:], 16) >= 4


@pytest.mark.parametrize(
    ("newest", "following"),
    [
        ("20261122T120000123Z-00ff", "20261122T120000123Z-0100"),
        ("20261122T120000123Z-fffe", "20261122T120000123Z-ffff"),
        ("20261122T120000123Z-ffff", "20261122T120000124Z-0000"),
        ("20261122T120000999Z-ffff", "20261122T120001000Z-0000"),
        ("20261231T235959999Z-ffff", "20270101T000000000Z-0000"),
    ],
)
async def test_a_full_millisecond_runs_over_into_the_next(
    store: SqliteStore, clock: Callable[..., None], newest: str, following: str
):
    """After the last of its numbers the next millisecond's is used: sortable, if slightly early."""
    clock(NOON - timedelta(days=1))
    await store.add_version(version(version_id=newest))
    assert (await store.add_version(version())).version_id == following
    assert following > newest


# -- several processes ------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import trio
import trio.testing
from chora.store import SqliteStore, Version

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        saved = await store.add_version(Version(
            content_id=sys.argv[2], body=str(number) * 1000, sha256="s", fingerprint=str(number), generator="g",
            generator_version="1", generated_at="t",
        ))
        print(saved.version_id, flush=True)
    store.close()

trio.run(main)
"""


def start_writer(path: Path, content_id: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), content_id, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


@requirement("storage.shared")
@pytest.mark.slow("starts processes")
async def test_two_processes_share_a_database(path: Path):
    """Both write as fast as they can while a third reads: no error, nothing lost, no id twice."""
    writers = {name: start_writer(path, name, 150) for name in ("ebb", "flood")}
    store = SqliteStore(path)
    try:
        for writer in writers.values():
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers.values():
            go(writer)
        mine = [(await store.add_version(version())).version_id for _ in range(20)]
        said = {name: writer.communicate(timeout=PATIENCE) for name, writer in writers.items()}
        assert {name: err for name, (_, err) in said.items()} == {"ebb": "", "flood": ""}
        for name, (out, _) in said.items():
            assert [each.version_id for each in store.versions(name)] == out.split()
            assert [each.fingerprint for each in store.versions(name)] == [str(number) for number in range(150)]
        assert [each.version_id for each in store.versions("tides")] == mine
        assert store.counts()["versions"] == 320
    finally:
        store.close()
        for writer in writers.values():
            writer.kill()
            writer.wait()


@pytest.mark.slow("starts four processes")
def test_processes_create_a_database_at_once(path: Path):
    """None takes an incomplete database for a foreign one, or gives up on a lock."""
    program = (
        "import sys; from pathlib import Path; from chora.store import SqliteStore\n"
        "base = Path(sys.argv[1])\n"
        "for number in range(15):\n"
        "    sys.stdin.readline()\n"
        "    SqliteStore(base / str(number) / 'storage.db').close()\n"
        "    print('made', flush=True)\n"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for _ in range(15):
        for maker in makers:
            if maker.poll() is None:
                go(maker)
        for maker in makers:
            assert maker.stdout is not None
            maker.stdout.readline()
    assert [maker.communicate(timeout=PATIENCE)[1] for maker in makers] == [""] * 4


@requirement("storage.survives-kill")
@pytest.mark.slow("starts processes")
def test_acknowledged_writes_survive_a_kill(path: Path):
    """SIGKILL at any moment of writing: every printed id is stored, and at most one more."""
    acknowledged: list[str] = []
    for round_ in range(3):
        writer = start_writer(path, "tides", 100_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        go(writer)
        for _ in range(20 + 7 * round_):
            acknowledged.append(writer.stdout.readline().strip())
        writer.kill()
        # Not `communicate`, which doesn't return what `readline` has read ahead.
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.communicate()
        if os.name != "nt":
            assert writer.returncode == -signal.SIGKILL
        store = SqliteStore(path)
        found = [each.version_id for each in store.versions("tides")]
        trio.run(store.check)
        store.close()
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 1
        acknowledged = found


# -- foreign and damaged databases ------------------------------------------------------------------------------


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()


def _foreign_in_wal(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA application_id = 7")
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE versions (name TEXT)")
    db.close()


def _newer(path: Path) -> None:
    SqliteStore(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 9999")
    db.close()


def _text(path: Path) -> None:
    path.write_bytes(b"This isn't a database, whatever it is called.\n" * 100)


def _damaged(path: Path) -> None:
    SqliteStore(path).close()
    data = bytearray(path.read_bytes())
    data[100:4000] = b"\xff" * 3900  # the page of the schema
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "says", "hint"),
    [
        (_foreign, "is a database of another program", "storage.path"),
        (_foreign_in_wal, "is a database of another program", "storage.path"),
        (_newer, r"was written by a newer chora \(schema 9999, this one knows \d+\)", "Install the newer chora"),
        (_text, "file is not a database", "Move it away or restore a backup"),
        (_damaged, "malformed", "restore a backup"),
        (_folder, "is a folder, which is never opened", "storage.path"),
    ],
)
def test_foreign_databases_are_refused(path: Path, make: Callable[[Path], None], says: str, hint: str):
    """Another program's, a newer or damaged one, or no database at all: not a byte changes."""
    path.parent.mkdir()
    make(path)
    before = {file: file.is_file() and file.read_bytes() for file in path.parent.rglob("*")}
    with pytest.raises(StorageError, match=says) as caught:
        SqliteStore(path)
    assert hint in str(caught.value.hint)
    assert caught.value.details["storage_path"] == str(path)
    assert {file: file.is_file() and file.read_bytes() for file in path.parent.rglob("*")} == before


def test_a_folder_that_can_t_be_made_is_reported(path: Path):
    """A file is in its place: the error says which folder, and what to do."""
    path.parent.write_text("a file")
    with pytest.raises(StorageError, match="can't be created") as caught:
        SqliteStore(path)
    assert "storage.path" in str(caught.value.hint)
    assert caught.value.details["error_type"] == "NotADirectoryError"
    assert path.parent.read_text() == "a file"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 2 MiB."""
    with small_disk(tmp_path / "disk", "2m") as disk:
        yield disk


async def test_a_full_disk_loses_nothing(disk: Disk):
    """The write that doesn't fit is an error with a hint; reading goes on, and with free space writing does too."""
    store = SqliteStore(disk.root / "storage.db")
    saved = [await store.add_version(version(body="x" * 10_000)) for _ in range(5)]
    filler = disk.fill()

    async def go_on() -> None:
        for _ in range(100):
            saved.append(await store.add_version(version(body="y" * 50_000)))

    with pytest.raises(StorageError, match="full") as caught:
        await go_on()
    reported = {"reason": caught.value.message, "path": caught.value.details["storage_path"], "errno": errno.ENOSPC}
    assert {**caught.value.details, **reported, "error_type": "FullError"} == caught.value.details
    assert caught.value.hint == "Free some disk space; nothing that was acknowledged is lost."
    assert store.versions("tides") == saved
    with pytest.raises(StorageError, match="full"):
        await store.check()
    filler.unlink()
    saved.append(await store.add_version(version(body="z" * 50_000)))
    await store.check()
    assert store.versions("tides") == saved
    store.close()
    store = SqliteStore(disk.root / "storage.db")
    assert store.versions("tides") == saved
    store.close()


def test_a_database_is_not_created_on_a_full_disk(disk: Disk):
    """Opening fails with a hint, and works once there is space."""
    filler = disk.fill()
    with pytest.raises(StorageError) as caught:
        SqliteStore(disk.root / "storage.db")
    assert "disk" in str(caught.value.hint)
    filler.unlink()
    SqliteStore(disk.root / "storage.db").close()


async def test_a_disk_that_turns_read_only_is_reported(disk: Disk):
    """Creating a database and writing into an existing one fail with a hint."""
    store = SqliteStore(disk.root / "storage.db")
    saved = await store.add_version(version())
    store.close()
    disk.remount("ro")
    with pytest.raises(StorageError) as caught:
        SqliteStore(disk.root / "other" / "storage.db")
    assert "may be written" in str(caught.value.hint)
    for name in ("new.db", "storage.db"):
        with pytest.raises(StorageError) as caught:
            SqliteStore(disk.root / name)
        assert "may be written" in str(caught.value.hint)
    disk.remount("rw")
    store = SqliteStore(disk.root / "storage.db")
    assert store.latest_version("tides") == saved
    store.close()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere, Windows has other rights")
def test_a_folder_that_may_not_be_written_is_reported(path: Path):
    """Without permission to create the file, the error says what to check."""
    path.parent.mkdir()
    path.parent.chmod(0o500)
    try:
        with pytest.raises(StorageError) as caught:
            SqliteStore(path)
    finally:
        path.parent.chmod(0o700)
    assert "may be written" in str(caught.value.hint)


async def test_a_locked_database_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A lock that isn't released in time is an error, and the store works afterwards."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 50)
    store = SqliteStore(path)
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    with trio.fail_after(PATIENCE), pytest.raises(StorageError, match="locked") as caught:
        await store.add_version(version())
    assert "Another process" in str(caught.value.hint)
    assert store.counts()["versions"] == 0
    holder.execute("ROLLBACK")
    await store.add_version(version())
    assert store.counts()["versions"] == 1
    holder.close()
    store.close()


def test_opening_waits_for_a_locked_database(path: Path, monkeypatch: pytest.MonkeyPatch):
    """As long as writing would, while another process has an exclusive lock."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 200)
    path.parent.mkdir()
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="locked"):
        SqliteStore(path)
    holder.execute("ROLLBACK")
    # A reader doesn't block reading, but the journal mode can't be changed while it reads.
    holder.execute("BEGIN; SELECT * FROM sqlite_schema").fetchall()
    with pytest.raises(StorageError, match="locked"):
        SqliteStore(path)
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 5000)
    release = threading.Timer(0.1, lambda: holder.execute("ROLLBACK"))
    release.start()
    SqliteStore(path).close()
    release.join()
    holder.close()


async def test_the_health_check_writes(disk: Disk):
    """A file that can't be written any more looks fine until it is written to."""
    path = disk.root / "storage.db"
    SqliteStore(path).close()
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        store = SqliteStore(path)
        await store.check()
        with pytest.raises(StorageError, match="readonly"):
            await store.check(within=0)
        with pytest.raises(StorageError, match="readonly"):
            await store.check()
        store.close()
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
    store = SqliteStore(path)
    await store.check(within=0)
    store.close()


async def test_a_full_disk_is_reported_before_a_write_fails(disk: Disk):
    """Small writes could still succeed in the space that the WAL already has."""
    store = SqliteStore(disk.root / "storage.db")
    await store.add_version(version(body="x" * 50_000))
    filler = disk.fill()
    with pytest.raises(StorageError, match="is full") as caught:
        await store.check()
    assert caught.value.hint == "Free some disk space; nothing that was acknowledged is lost."
    filler.unlink()
    await store.check(within=0)
    store.close()


async def test_a_write_that_failed_by_itself_is_reported_by_the_next_check(store: SqliteStore):
    """Also when its transaction goes on: the error of one change on a disk that fails is no fault of its caller."""

    def fail(db: apsw.Connection) -> None:
        raise apsw.IOError("disk I/O error")

    await store.add_version(version())
    await store.check(within=60)
    with pytest.raises(StorageError, match="I/O"):
        await store._write(fail)
    with pytest.raises(StorageError, match="I/O"):
        await store.check(within=60)


@pytest.mark.slow("waits for locks that last ten seconds")
@requirement("server.ready-locked")
async def test_a_database_that_another_process_locks_fails_its_check_soon_and_as_long(path: Path):
    """Within five seconds, also while writes wait for the lock or have failed because of it; then it works again."""
    store = SqliteStore(path)
    await store.check()
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")

    async def write() -> None:
        with contextlib.suppress(StorageError):
            await store.add_version(version())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(write)
        await trio.sleep(0.1)
        for _ in range(8):
            with trio.fail_after(PATIENCE), pytest.raises(StorageError, match="locked") as caught:
                await store.check(within=2.0 if nursery.child_tasks else 0.0)
            assert "Another process" in str(caught.value.hint)
            await trio.sleep(FAILURE_REUSE_TIME)
    with pytest.raises(StorageError, match="locked"):  # the last thing that happened is a write that failed
        await store.check(within=60.0)
    other.execute("ROLLBACK")
    await trio.sleep(FAILURE_REUSE_TIME)
    await store.check(within=0.0)
    await store.check()
    other.close()
    store.close()


async def test_health_checks_share_a_write(store: SqliteStore):
    """Concurrent checks, and those soon after."""
    writes = 0

    def count(_: object) -> bool:
        nonlocal writes
        writes += 1
        return False

    store._checker.set_commit_hook(lambda: count(None))
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(store.check, 60.0)
    assert writes == 1
    await store.check()
    await store.check(within=60)
    assert writes == 1
    await store.check(within=0)
    assert writes == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't let go of a file that is open")
@pytest.mark.parametrize("how", ["moved", "replaced"])
async def test_a_deleted_database_takes_no_writes(path: Path, how: str):
    """SQLite would go on writing to the unlinked file; once it is put back, it is used as before."""
    store = SqliteStore(path)
    saved = await store.add_version(version())
    aside = path.with_name("aside")
    path.rename(aside)
    if how == "replaced":
        path.write_bytes(b"")
    for attempt in (store.check, lambda: store.add_version(version())):
        with pytest.raises(StorageError, match="moved, removed or replaced") as caught:
            await attempt()
        assert "Put it back" in str(caught.value.hint)
    aside.replace(path)
    await store.check(within=0)
    assert store.latest_version("tides") == saved
    store.close()


async def test_a_statement_that_takes_too_long_is_interrupted(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    """Reading or writing; the other changes of an interrupted transaction are stored all the same."""
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS c FROM n"
    monkeypatch.setattr(sqlite, "READ_TIMEOUT", 0.05)
    monkeypatch.setattr(sqlite, "WRITE_TIMEOUT", 0.5)
    failed: list[StorageError] = []

    async def write_for_ever() -> None:
        with pytest.raises(StorageError, match="interrupted") as caught:
            # Interrupting a write rolls its whole transaction back.
            await store._write(lambda db: db.execute(f"INSERT INTO costs SELECT c, 'a', 'b', 1, 1, c FROM ({endless})"))
        failed.append(caught.value)

    with trio.fail_after(PATIENCE):
        with pytest.raises(StorageError, match="interrupted") as caught:
            store._query(f"SELECT count(*) FROM ({endless})")
        assert "took too long" in str(caught.value.hint)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(store.add_version, version())
            nursery.start_soon(write_for_ever)
            for _ in range(3):
                nursery.start_soon(store.add_version, version())
    assert len(failed) == 1
    assert store.counts()["versions"] == 6
    await store.check()


def many(count: int) -> list[Version]:
    """Texts of one page each."""
    bodies = (f"{number} {'x' * 3000}" for number in range(count))
    return [version(body=body, version_id=f"20260101T000000{n:03}Z-0000") for n, body in enumerate(bodies)]


def test_a_damaged_database_is_refused_unchanged(path: Path):
    """Also with a WAL that closing would checkpoint: not a byte changes, except for the index of the WAL."""
    store = SqliteStore(path)
    trio.run(store.add_records, many(300))
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    trio.run(store.add_version, version())
    wal = path.with_name(f"{path.name}-wal")
    kept = {file: file.read_bytes() for file in (path, wal)}
    store.close()
    whole = bytearray(kept[path])
    for page in range(40, len(whole) // 4096, 7):
        whole[page * 4096 : page * 4096 + 64] = os.urandom(64)
    kept[path] = bytes(whole)
    for file, body in kept.items():
        file.write_bytes(body)
    with pytest.raises(StorageError, match=r"is damaged|malformed") as caught:
        SqliteStore(path)
    assert "doctor" in str(caught.value.hint)
    assert {file: file.read_bytes() for file in kept} == kept


def test_the_check_for_damage_has_a_time_limit(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A database that is too large to be checked in time is opened all the same."""
    store = SqliteStore(path)
    trio.run(store.add_records, many(300))
    store.close()
    monkeypatch.setattr(database, "QUICK_CHECK_TIMEOUT", -1.0)
    monkeypatch.setattr(database, "PROGRESS_STEPS", 1)
    store = SqliteStore(path)
    assert store.counts()["versions"] == 300
    store.close()


async def test_a_closed_store_raises(store: SqliteStore):
    """Every later call is a StorageError, not a crash."""
    store.close()
    with pytest.raises(StorageError, match="connection has been closed"):
        await store.check()
    with pytest.raises(StorageError, match="connection has been closed"):
        await store.add_version(version())


async def test_a_file_that_is_damaged_while_open_is_reported(path: Path):
    """By the health check, whose hint is a backup."""
    store = SqliteStore(path)
    await store.add_version(version())
    await store.check()
    store.close()
    store = SqliteStore(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(StorageError) as caught:
        await store.check()
    assert "backup" in str(caught.value.hint)
    store.close()


# -- the schema -------------------------------------------------------------------------------------------------


def test_the_writer_has_durable_settings(path: Path):
    """WAL, synchronous FULL, our application id, and all migrations."""
    store = SqliteStore(path)
    writer = store._writer
    assert writer.pragma("journal_mode") == "wal"
    assert writer.pragma("synchronous") == 2
    assert writer.pragma("application_id") == 0x63686F72
    assert writer.pragma("user_version") == len(database.migrations())
    store.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_migrations_are_numbered_without_a_gap():
    """The number is the version of the schema after it."""
    assert [number for number, _ in database.migrations()] == list(range(1, len(database.migrations()) + 1))


@requirement("storage.schema-migrations")
def test_each_migration_is_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that fails leaves the database as before; once fixed, it continues from there."""
    first = database.migrations()
    broken = [*first, (len(first) + 1, "CREATE TABLE more (x TEXT) STRICT; INSERT INTO nowhere VALUES (1)")]
    monkeypatch.setattr(database, "migrations", lambda: broken)
    with pytest.raises(StorageError, match="nowhere"):
        SqliteStore(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(first),)
    assert db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'more'").fetchall() == []
    db.close()
    repaired = [*first, (len(first) + 1, "CREATE TABLE more (x TEXT) STRICT")]
    monkeypatch.setattr(database, "migrations", lambda: repaired)
    store = SqliteStore(path)
    assert store._query("PRAGMA user_version") == [(len(first) + 1,)]
    assert store._query("SELECT count(*) FROM more") == [(0,)]
    store.close()


async def test_another_process_may_migrate_first(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process that finds the schema migrated after waiting for the lock doesn't migrate it again."""
    real, others = database._enable_wal, list[SqliteStore]()

    def overtaken(db: apsw.Connection) -> None:
        monkeypatch.setattr(database, "_enable_wal", real)
        others.append(SqliteStore(path))
        real(db)

    monkeypatch.setattr(database, "_enable_wal", overtaken)
    store = SqliteStore(path)
    saved = await store.add_version(version())
    assert others[0].latest_version("tides") == saved
    others[0].close()
    store.close()


def schema_of(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Every table and index with its definition, without comments and whitespace."""
    found = db.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    plain = {(kind, name): re.sub(r"--[^\n]*", "", sql) for kind, name, sql in found}
    return {key: re.sub(r"\s*([(),])\s*", r"\1", re.sub(r"\s+", " ", sql)).strip() for key, sql in plain.items()}


def test_schema_sql_is_the_result_of_the_migrations(path: Path):
    """Tables, indexes, application id and version."""
    SqliteStore(path).close()
    migrated, written = sqlite3.connect(path), sqlite3.connect(":memory:")
    written.executescript((resources.files("chora.store") / "schema.sql").read_text("utf-8"))
    assert schema_of(written) == schema_of(migrated)
    assert len(schema_of(written)) >= len(database.TABLES)
    for pragma in ("application_id", "user_version"):
        assert written.execute(f"PRAGMA {pragma}").fetchone() == migrated.execute(f"PRAGMA {pragma}").fetchone()
    migrated.close()
    written.close()


@pytest.mark.parametrize("record", database.TABLES, ids=lambda record: record.__name__)
async def test_every_field_has_its_column(store: SqliteStore, record: type[Record]):
    """So that no field of a record is dropped on storing."""
    columns = store._query(f"SELECT name FROM pragma_table_info('{database.TABLES[record]}')")
    assert {name for (name,) in columns} - {"size"} == set(record.__struct_fields__) - {"size"}


async def test_a_database_of_the_first_schema_is_migrated(path: Path):
    """Its records get the fields of today, such as approval and size."""
    path.parent.mkdir()
    db = apsw.Connection(str(path))
    db.execute(database.migrations()[0][1])
    insert = "INSERT INTO versions VALUES (?, 'tides', ?, 's', 'f', 'jinja2', '1', 't', NULL, ?, '{\"a\": 1}')"
    db.execute(insert, ("20261122T120000123Z-0001", "höher", "approved"))
    db.execute(insert, ("20261122T120000123Z-0002", "", "draft"))
    db.execute("INSERT INTO outputs VALUES ('a.md', 'note', 's', NULL, 'f', 3, 't')")
    db.pragma("application_id", database.APPLICATION_ID)
    db.pragma("user_version", 1)
    db.close()
    store = SqliteStore(path)
    first, second = store.versions("tides")
    assert (first.body, first.approved, first.deleted, first.metadata) == ("höher", True, False, {"a": 1})
    assert (second.body, second.approved, second.deleted) == ("", False, False)
    assert [info.size for info in store.version_infos("tides")] == [6, 0]
    assert store.output("a.md") == output("a.md", sha256="s")
    store.close()


async def test_lists_of_versions_do_not_read_bodies(path: Path):
    """They are read from an index, without the megabytes of a body."""
    store = SqliteStore(path)
    await store.add_version(version())
    with statements_of(store) as executed:
        store.version_infos("tides", limit=10)
        store.newest_infos("tides", 10)
        store.find_info("tides", approved=True)
        store.find_info("tides", config_version="1")
        store.find_info("tides", prefix="2")
        store.versions_by_time("tides", VersionAge("", "", 0), limit=10)
    assert len(executed) >= 8
    for each in executed:
        rows = store._query(f"EXPLAIN QUERY PLAN {each.sql}", *(None for _ in range(each.sql.count("?"))))
        assert all("COVERING INDEX" in str(row[3]) for row in rows), (each.sql, rows)
    store.close()


# -- batched writes ---------------------------------------------------------------------------------------------


class Held:
    """Holds the first transaction until it is released, and counts the transactions."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = trio.Event()
        self.go_on = threading.Event()
        self.batches: list[int] = []
        token, real = trio.lowlevel.current_trio_token(), store._commit

        def commit(batch: list[Any]) -> None:
            self.batches.append(len(batch))
            token.run_sync_soon(self.begun.set)
            assert self.go_on.wait(PATIENCE)
            real(batch)

        monkeypatch.setattr(store, "_commit", commit)


@pytest.fixture
async def held(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Hold the store's first transaction."""
    return Held(store, monkeypatch)


async def test_writes_that_wait_are_committed_together(store: SqliteStore, held: Held):
    """While one is being committed, seven more arrive and share one transaction, in order."""
    ids: list[str] = []

    async def add(number: int) -> None:
        ids.append((await store.add_version(version(body=str(number)))).version_id)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, 0)
            await held.begun.wait()
            for number in range(1, 8):
                nursery.start_soon(add, number)
                await trio.testing.wait_all_tasks_blocked()
            held.go_on.set()
    assert held.batches == [1, 7]
    assert [each.body for each in store.versions("tides")] == [str(number) for number in range(8)]
    assert [each.version_id for each in store.versions("tides")] == ids


async def test_a_failing_change_does_not_fail_the_others(store: SqliteStore, held: Held):
    """They share a transaction, but only the failing change raises."""
    failed: list[int] = []

    async def save(number: int) -> None:
        size: Any = "three" if number in (2, 4) else number
        try:
            await store.save_outputs([output(f"{number}-a.md"), output(f"{number}-b.md", size=size)])
        except StorageError:
            failed.append(number)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(save, number)
                await trio.testing.wait_all_tasks_blocked()
            held.go_on.set()
    assert held.batches == [1, 5]
    assert failed == [2, 4]
    assert [each.path for each in store.outputs()] == [f"{number}-{end}.md" for number in (0, 1, 3, 5) for end in "ab"]


async def test_a_bug_in_one_change_does_not_fail_the_others(store: SqliteStore, held: Held):
    """Also for exceptions that don't come from the database."""
    unwritable: Any = object()
    failed: list[str] = []

    async def add(at: str, **facts: Any) -> None:
        try:
            await store.add_sample(sample(at, **facts))
        except TypeError:
            failed.append(at)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, "a")
            await held.begun.wait()
            for whole in (partial(add, "b"), partial(add, "c", x=unwritable), partial(add, "d")):
                nursery.start_soon(whole)
                await trio.testing.wait_all_tasks_blocked()
            held.go_on.set()
    assert failed == ["c"]
    assert [each.at for each in store.samples("probe")] == ["a", "b", "d"]


async def test_what_fits_on_a_full_disk_is_written(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    """A text too large for the disk doesn't fail the small ones of its transaction."""
    store = SqliteStore(disk.root / "storage.db")
    held = Held(store, monkeypatch)
    refused: list[str] = []

    async def add(body: str) -> None:
        try:
            await store.add_version(version(body=body))
        except StorageError as error:
            refused.append(f"{error.details['error_type']} {len(body)}")

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for body in ("a", "b", "x" * 5_000_000, "c"):
                nursery.start_soon(add, body)
                await trio.testing.wait_all_tasks_blocked()
            held.go_on.set()
    assert refused == ["FullError 5000000"]
    assert [each.body for each in store.versions("tides")] == ["a", "b", "c"]
    store.close()


async def test_a_lock_fails_all_that_waited_for_it(path: Path, monkeypatch: pytest.MonkeyPatch):
    """At once, not each after a timeout of its own."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 300)
    store = SqliteStore(path)
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    refused: list[StorageError] = []

    async def add() -> None:
        try:
            await store.add_version(version())
        except StorageError as error:
            refused.append(error)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(add)
    assert len(refused) == 12
    assert len({id(error) for error in refused}) == 12
    holder.close()
    await store.add_version(version())
    assert store.counts()["versions"] == 1
    store.close()


# -- cancellation -----------------------------------------------------------------------------------------------


async def test_a_cancelled_write_is_stored_or_not(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    """A waiting one isn't begun, a running one is completed, and the connection works afterwards."""
    begun, go_on = trio.Event(), threading.Event()
    token, real = trio.lowlevel.current_trio_token(), sqlite._next_version_id

    def slow(db: apsw.Connection) -> str:
        token.run_sync_soon(begun.set)
        assert go_on.wait(PATIENCE)
        return real(db)

    ended: list[str] = []
    ended_early: list[str] = []

    async def add(body: str) -> None:
        try:
            await store.add_version(version(body=body))
        finally:
            ended.append(body)

    monkeypatch.setattr(sqlite, "_next_version_id", slow)
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, "under way")
            await begun.wait()
            nursery.start_soon(add, "waiting")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                ended_early = [*ended]
            go_on.set()
    assert scope.cancelled_caught
    assert ended_early == ["waiting"], "the one under way is waited for"
    assert [each.body for each in store.versions("tides")] == ["under way"]
    await store.add_version(version(body="afterwards"))
    assert [each.body for each in store.versions("tides")] == ["under way", "afterwards"]


async def test_cancelling_at_any_moment_breaks_nothing(store: SqliteStore):
    """Writers that are cancelled all the time leave complete records, and a working store."""
    finished = 0
    with trio.fail_after(PATIENCE):
        for number in range(60):
            with trio.move_on_after(0.0002 * (number % 10)):
                await store.add_version(version(body=str(number)))
                finished += 1
    stored = {each.body for each in store.versions("tides")}
    assert finished <= len(stored) <= 60
    assert not store._writer.in_transaction
    await store.add_version(version(body="afterwards"))
    assert store.counts()["versions"] == len(stored) + 1
