"""The filesystem store: its layout, damaged files, several processes, and killed ones."""

import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chora import disk, locks
from chora.disk import file_name
from chora.errors import StorageError
from chora.file_stamps import is_at_rest
from chora.nofollow import OpenFolder
from chora.store import Output, Version, journal
from chora.store.filesystem import FilesystemStore
from chora.store.version_files import CachedFolder, version_file_name, version_id_of
from tests.conftest import requirement
from tests.hostile.measures import calls_in
from tests.patience import PATIENCE
from tests.store.test_contract import AT, completion, cost, draft, event, job, output, sample, trace, version


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The path of a folder that doesn't exist yet."""
    return tmp_path / "project" / "ephemeral"


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- the layout -------------------------------------------------------------------------------------------------


@requirement("storage.readable-files")
async def test_a_version_is_a_readable_file(root: Path):
    """Sorted by content, number of the config version and time, with the metadata next to it."""
    store = FilesystemStore(root, retention_days=30)
    given = version(
        "tides", body="Ebbe\n", config_version="1.0.0", approved=True, metadata={"warnings": []}, generated_at=AT(9)
    )
    saved = await store.add_version(given)
    later = await store.add_version(version("tides", config_version="1.0.0", generated_at=AT(10)))
    file = root / "content" / "tides" / "v1" / version_file_name(saved.version_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}Z-[0-9a-f]{4}\.json", file.name)
    assert version_id_of(file.name) == saved.version_id
    assert json.loads(file.read_text("utf-8")) == {
        "content_id": "tides",
        "version": "1.0.0",
        "version_id": saved.version_id,
        "generated_at": AT(9),
        "generator_type": "jinja2",
        "generator_version": "1",
        "context_hash": "sha256:11",
        "sha256": "sha256:00",
        "stage": "draft",
        "approved": True,
        "deleted": False,
        "content": "Ebbe\n",
        "metadata": {"warnings": []},
    }
    assert json.loads((file.parent / "metadata.json").read_text()) == {
        "content_id": "tides",
        "version": "1.0.0",
        "total_generations": 2,
        "latest_generation": AT(10),
        "oldest_generation": AT(9),
        "retention_policy": {"keep_versions": None, "keep_days": 30},
    }
    assert (root / "last-version-id").read_text() == later.version_id + "\n"
    assert file.read_text("utf-8").count("\n") > 10


@requirement("storage.readable-files")
async def test_a_new_config_version_begins_a_new_folder(root: Path):
    """N starts at 1 and counts up; going back to an earlier version is a new one too."""
    store = FilesystemStore(root)
    for config_version in ("1.0.0", "1.0.0", "1.1.0", None, "1.0.0"):
        await store.add_version(version("tides", config_version=config_version))
    folders = [path.split("/")[2] for path in files(root / "content") if "metadata" not in path]
    assert [path.split("/")[1] for path in files(root / "content") if "metadata" not in path] == [
        "v1",
        "v1",
        "v2",
        "v3",
        "v4",
    ]
    assert len(folders) == 5


async def test_an_old_version_that_is_stored_late_is_put_in_its_place(root: Path):
    """In the folder of its config version, between its neighbours in time."""
    store = FilesystemStore(root)

    def at(day: int, config_version: str) -> Version:
        return version("tides", version_id=f"202601{day:02}T000000000Z-0000", config_version=config_version)

    await store.add_records([at(10, "1.0.0"), at(20, "2.0.0")])
    await store.add_records([at(11, "1.0.0"), at(19, "2.0.0"), at(5, "1.0.0"), at(15, "3.0.0")])
    found = [path.removeprefix("tides/")[:13] for path in files(root / "content") if "metadata" not in path]
    assert found == [
        "v1/2026-01-05",
        "v1/2026-01-10",
        "v1/2026-01-11",
        "v2/2026-01-19",
        "v2/2026-01-20",
        "v3/2026-01-15",
    ]


async def test_drafts_and_records_are_files_too(root: Path):
    """One per draft; a line for every other record."""
    store = FilesystemStore(root)
    await store.save_draft(draft("draft-20260101T000000-abc123", config_data={"id": "ä"}))
    await store.save_outputs([output("outputs/a.md"), output("outputs/b.md")])
    await store.save_job(job("j"))
    await store.save_traces([trace("s", "k")])
    await store.add_completion(completion("k"), cost(AT(1), 0.5))
    await store.add_sample(sample(AT(1)))
    await store.add_events([event(AT(1))])
    assert files(root) == [
        ".lock",
        "drafts/draft-20260101T000000-abc123.json",
        *("events.jsonl", "jobs.jsonl", "models.jsonl", "outputs.jsonl", "samples.jsonl", "traces.jsonl"),
    ]
    assert json.loads((root / "drafts" / "draft-20260101T000000-abc123.json").read_text("utf-8"))["config_data"] == {
        "id": "ä"
    }
    lines = [json.loads(line) for line in (root / "outputs.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["journal"], ["output", "more"], ["output"]]
    assert lines[2]["output"] == msgspec.to_builtins(output("outputs/b.md"))


async def test_empty_folders_are_deleted(root: Path):
    """With the last version, unless there is a foreign file in it."""
    store = FilesystemStore(root)
    saved = [await store.add_version(version(name, config_version=v)) for name in "ab" for v in ("1", "2")]
    (root / "content" / "b" / "v1" / "notes.txt").write_text("mine")
    await store.delete_versions([each.version_id for each in saved])
    assert files(root / "content") == ["b/v1/notes.txt"]
    assert store.content_ids() == []
    again = await store.add_version(version("b"))
    assert (root / "content" / "b" / "v2" / version_file_name(again.version_id)).is_file()


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_different_ids_have_different_file_names(texts: list[str]):
    """Also on a case-insensitive file system, and none is a name reserved by Windows."""
    names = [file_name(text) for text in texts]
    assert names[0].casefold() != names[1].casefold()
    for name in names:
        assert re.fullmatch(r"[a-zA-Z0-9._%~-]{1,150}", name)
        assert name not in (".", "..")
        assert not name.endswith(".")
        assert not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name)


def test_a_long_id_has_a_shortened_file_name_with_its_digest():
    """From 151 characters on, escapes included; it can't be told from the name of another one else."""
    assert file_name("a" * 150) == "a" * 150
    assert file_name("ü" * 25) == "%C3%BC" * 25
    for text, begin in (("a" * 151, "a" * 80), ("ü" * 26, ("%C3%BC" * 26)[:80])):
        assert file_name(text) == f"{begin}~{hashlib.sha256(text.encode()).hexdigest()[:32]}"


@pytest.mark.parametrize("name", ["intro", "draft-20260101T000000-abc123", "api-v2.1", "snake_case", "1-2-3"])
def test_ordinary_ids_are_their_own_file_names(name: str):
    """So that people find them."""
    assert file_name(name) == name


# -- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"content_id": "tides", "vers',
        b"\xff\xfe\x00",
        b"[]",
        b'{"content_id": "tides"}',
        b"[" * 100_000,
    ],
)
async def test_a_damaged_version_is_left_out_with_one_warning(
    root: Path, damage: bytes, caplog: pytest.LogCaptureFixture
):
    """A truncated file, no text, another shape: the others are read, and the file stays unchanged."""
    store = FilesystemStore(root)
    saved = [await store.add_version(version(body=str(number), fingerprint=str(number))) for number in range(3)]
    file = root / "content" / "tides" / "v1" / version_file_name(saved[2].version_id)
    file.write_bytes(damage)
    store = FilesystemStore(root)
    for _ in range(3):
        assert store.latest_version("tides") == saved[1]
        assert store.versions("tides") == saved[:2]
        assert len(store.version_infos("tides")) == 2
        assert store.version("tides", saved[2].version_id) is None
        assert store.version_with_fingerprint("tides", "2") is None
    assert len(warnings(caplog)) == 1
    assert str(file) in warnings(caplog)[0]
    assert (await store.add_version(version())).version_id > saved[2].version_id
    await store.delete_versions([each.version_id for each in saved])
    assert file.read_bytes() == damage
    with pytest.raises(StorageError, match="didn't write"):
        await store.add_records([saved[2]])
    assert file.read_bytes() == damage


async def test_a_file_in_the_wrong_place_is_left_out(root: Path, caplog: pytest.LogCaptureFixture):
    """A copy under another name, or in another content's folder, isn't taken for the version it contains."""
    store = FilesystemStore(root)
    saved = await store.add_version(version("tides"))
    file = root / "content" / "tides" / "v1" / version_file_name(saved.version_id)
    (file.parent / "2026-01-01T00-00-00.000Z-0000.json").write_bytes(file.read_bytes())
    (root / "content" / "harbour" / "v1").mkdir(parents=True)
    (root / "content" / "harbour" / "v1" / file.name).write_bytes(file.read_bytes())
    (root / "content" / "note.txt").write_text("a file among the folders")
    (root / "content" / "odd").mkdir()
    (root / "content" / "odd" / "v1").write_text("a file in a folder's place")
    store = FilesystemStore(root)
    assert store.versions("tides") == [saved]
    assert store.versions("harbour") == store.versions("odd") == []
    assert store.content_ids() == ["tides"]
    assert len(warnings(caplog)) == 1


async def test_the_history_of_chora_compose_is_skipped(root: Path, caplog: pytest.LogCaptureFixture):
    """Its files are in the same folder by default; they are for `chora import`, and nothing is written among them."""
    old = root / "content" / "tides" / "v1" / "2025-10-01T10-00-00Z.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"content_id": "tides"}')
    (old.parent / "metadata.json").write_text('{"total_generations": 1}')
    store = FilesystemStore(root)
    assert store.content_ids() == []
    saved = await store.add_version(version("tides"))
    assert (root / "content" / "tides" / "v2" / version_file_name(saved.version_id)).is_file()
    assert (old.parent / "metadata.json").read_text() == '{"total_generations": 1}'
    assert warnings(caplog) == []


async def test_a_damaged_draft_is_left_out(root: Path, caplog: pytest.LogCaptureFixture):
    """It is neither listed, overwritten nor deleted."""
    store = FilesystemStore(root)
    await store.save_draft(draft("good"))
    bad = root / "drafts" / "bad.json"
    bad.write_text("{")
    for _ in range(2):
        assert [each.draft_id for each in store.drafts()] == ["good"]
        assert store.draft("bad") is None
    assert len(warnings(caplog)) == 1
    with pytest.raises(StorageError, match="didn't write") as caught:
        await store.save_draft(draft("bad"))
    assert caught.value.hint == "Move the file away."
    await store.delete_draft("bad")
    assert bad.read_text() == "{"
    (root / "drafts" / "copy.json").write_bytes((root / "drafts" / "good.json").read_bytes())
    assert [each.draft_id for each in store.drafts()] == ["good"]


@pytest.mark.parametrize(
    "damage", [b'{"output": {"path": "x"}}\n', b"what?\n", b'{"cat": 1}\n', b"\xff\n", b"[" * 9999 + b"\n"]
)
async def test_a_damaged_line_is_left_out_and_kept(
    root: Path, damage: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """One warning; the other lines count, and it is kept when the file is rewritten."""
    monkeypatch.setattr(journal, "COMPACTION_SLACK", 100)
    store = FilesystemStore(root)
    await store.save_outputs([output("a.md")])
    with (root / "outputs.jsonl").open("ab") as file:
        file.write(damage)
    await store.save_outputs([output("b.md")])
    for _ in range(2):
        assert [each.path for each in store.outputs()] == ["a.md", "b.md"]
    assert len(warnings(caplog)) == 1
    head = (root / "outputs.jsonl").read_bytes().splitlines()[0]
    for number in range(400):
        await store.save_outputs([output("b.md", size=number)])
    assert (root / "outputs.jsonl").read_bytes().splitlines()[0] != head
    assert damage in (root / "outputs.jsonl").read_bytes()
    assert len((root / "outputs.jsonl").read_bytes()) < 40_000
    assert store.outputs() == [output("a.md"), output("b.md", size=399)]


async def test_an_incomplete_line_does_not_spoil_the_next(root: Path):
    """A transaction that a killed process wrote in part is none, wherever it was cut."""
    store = FilesystemStore(root)
    await store.save_outputs([output("a.md")])
    path = root / "outputs.jsonl"
    whole = path.read_bytes()
    await store.save_outputs([output("b.md"), output("c.md")])
    step = path.read_bytes()[len(whole) :]
    first_line = step.index(b"\n") + 1
    for end in (1, 40, first_line - 1, first_line, first_line + 1, len(step) - 2, len(step) - 1):
        path.write_bytes(whole + step[:end])
        store = FilesystemStore(root)
        assert [each.path for each in store.outputs()] == ["a.md"]
        await store.save_outputs([output("d.md")])
        assert [each.path for each in store.outputs()] == ["a.md", "d.md"]
        assert [each.path for each in FilesystemStore(root).outputs()] == ["a.md", "d.md"]


async def test_a_journal_that_is_edited_meanwhile_is_read_again(root: Path):
    """An editor may replace the file, or change lines in place."""
    store = FilesystemStore(root)
    await store.save_outputs([output(f"{number}.md") for number in range(3)])
    path = root / "outputs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    other = path.with_suffix(".new")
    other.write_bytes(b"".join([lines[0], lines[3]]))
    other.replace(path)
    assert [each.path for each in store.outputs()] == ["2.md"]
    path.write_bytes(lines[3])  # the first line is gone
    assert [each.path for each in store.outputs()] == ["2.md"]
    path.write_bytes(lines[0] + lines[3])
    assert [each.path for each in store.outputs()] == ["2.md"]
    path.write_bytes(lines[0] + lines[3].replace(b'{"output', b'{"outpux'))
    with pytest.raises(StorageError, match="changed by another program"):
        store.outputs()
    assert store.outputs() == []
    path.unlink()
    assert store.outputs() == []
    await store.save_outputs([output("x.md")])
    assert [each.path for each in store.outputs()] == ["x.md"]


# -- concurrency and crashes ------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import trio
from chora.store import Event, Output, Version
from chora.store.filesystem import FilesystemStore

async def main():
    store = FilesystemStore(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        saved = await store.add_version(Version(
            content_id=sys.argv[2], body=str(number) * 1000, sha256="s", fingerprint=str(number), generator="g",
            generator_version="1", generated_at="t",
        ))
        await store.add_events([Event(at="t", kind=sys.argv[2], status=saved.version_id, trace_id=None)])
        print(saved.version_id, flush=True)
    store.close()

trio.run(main)
"""


def start_writer(root: Path, content_id: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), content_id, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    writer.stdin.write("\n")
    writer.stdin.flush()


async def test_processes_share_a_folder(root: Path):
    """Two write as fast as they can while a third writes and reads: nothing is lost, no id is given twice."""
    writers = {name: start_writer(root, name, 40) for name in ("ebb", "flood")}
    store = FilesystemStore(root)
    try:
        for writer in writers.values():
            go(writer)
        mine = [(await store.add_version(version())).version_id for _ in range(20)]
        said = {name: writer.communicate(timeout=PATIENCE) for name, writer in writers.items()}
        assert {name: err for name, (_, err) in said.items()} == {"ebb": "", "flood": ""}
        everyone = [*mine, *itertools.chain(*(out.split() for out, _ in said.values()))]
        assert len(set(everyone)) == 100
        for name, (out, _) in said.items():
            assert [each.version_id for each in store.versions(name)] == out.split()
            assert [each.status for each in store.events(limit=100)[::-1] if each.kind == name] == out.split()
        assert store.counts()["versions"] == 100
    finally:
        for writer in writers.values():
            writer.kill()
            writer.wait()


@requirement("storage.survives-kill")
def test_acknowledged_writes_survive_a_kill(root: Path):
    """SIGKILL at any moment of writing: every printed id is stored, and at most one more."""
    acknowledged: list[str] = []
    for round_ in range(4):
        writer = start_writer(root, "tides", 100_000)
        go(writer)
        assert writer.stdout is not None
        for _ in range(5 + 3 * round_):
            acknowledged.append(writer.stdout.readline().strip())
        writer.kill()
        # Not `communicate`, which doesn't return what `readline` has read ahead.
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.communicate()
        if os.name != "nt":
            assert writer.returncode == -signal.SIGKILL
        store = FilesystemStore(root)
        found = [each.version_id for each in store.versions("tides")]
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 1
        assert {each.status for each in store.events(limit=10_000)} <= set(found)
        acknowledged = found


async def test_a_crash_between_write_and_rename_leaves_the_old_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The temporary file is ignored."""
    store = FilesystemStore(root)
    saved = await store.add_version(version())
    await store.save_draft(draft("d", description="old"))

    def die(self: OpenFolder, old: str, new: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OpenFolder, "replace", die)
        patched.setattr(OpenFolder, "delete_file", lambda self, name: None)
        for write in (
            lambda: disk.replace_file(root / "drafts" / "d.json", [b"{}"]),
            lambda: disk.replace_file(
                root / "content" / "tides" / "v1" / version_file_name("20270101T000000000Z-0000"), [b"{}"]
            ),
            lambda: disk.replace_file(root / "events.jsonl", [b"{}"]),
        ):
            with pytest.raises(KeyboardInterrupt):
                write()
    assert len(list(root.rglob("*.tmp"))) == 3
    for each in (store, FilesystemStore(root)):
        assert each.versions("tides") == [saved]
        assert each.drafts() == [draft("d", description="old")]
        assert each.events() == []


async def test_an_interrupted_deletion_is_finished(root: Path, monkeypatch: pytest.MonkeyPatch):
    """By the next process that opens the store or writes."""
    store = FilesystemStore(root)
    other = FilesystemStore(root)
    ids = [(await store.add_version(version(config_version=str(number)))).version_id for number in range(6)]

    def die(folder: Path) -> None:
        raise OSError(5, "the power goes")

    with monkeypatch.context() as patched:
        patched.setattr("chora.store.filesystem.sync_folder", die)
        with pytest.raises(StorageError, match="the power goes"):
            await store.delete_versions(ids[:2])
    assert (root / "deleting.json").exists()
    await other.add_sample(sample(AT(1)))
    assert not (root / "deleting.json").exists()
    assert [info.version_id for info in store.version_infos("tides")] == ids[2:]
    (root / "deleting.json").write_bytes(msgspec.json.encode({"version_ids": ids[2:4], "keep_metadata": True}))
    store = FilesystemStore(root)
    assert [info.deleted for info in store.version_infos("tides")] == [True, True, False, False]
    (root / "deleting.json").write_bytes(b"not ours")
    await store.delete_draft("none")
    assert (root / "deleting.json").read_bytes() == b"not ours"


async def test_a_lock_that_is_held_too_long_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Reading goes on meanwhile, and writing works afterwards."""
    monkeypatch.setattr(locks, "FILE_LOCK_TIMEOUT", 0.05)
    store = FilesystemStore(root)
    with locks.file_lock(root / ".lock"), trio.fail_after(PATIENCE):
        with pytest.raises(StorageError, match="holds the lock") as caught:
            await store.add_version(version())
        assert "Another process" in str(caught.value.hint)
        assert store.versions("tides") == []
    await store.add_version(version())
    assert len(store.versions("tides")) == 1


async def test_a_cancelled_write_is_complete_or_not_made(root: Path):
    """Writers that are cancelled all the time leave complete records, and a working store."""
    store = FilesystemStore(root)
    finished = 0
    with trio.fail_after(PATIENCE):
        for number in range(40):
            with trio.move_on_after(0.0003 * (number % 10)):
                await store.add_version(version(body=str(number)))
                finished += 1
    stored = {each.body for each in store.versions("tides")}
    assert finished <= len(stored) <= 40
    await store.add_version(version(body="afterwards"))
    assert store.counts()["versions"] == len(stored) + 1


def test_a_folder_that_goes_and_comes_back_has_what_is_in_it(tmp_path: Path):
    """Nothing while it is gone; the list is sorted, and holds only names of the form."""
    place = tmp_path / "texts"
    folder = CachedFolder(place, re.compile(r"\w+\.txt"), lambda data, name: f"{name}: {data.decode()}")
    for body in ("one", "two"):
        assert folder.file_names() == []
        place.mkdir()
        for name in ("b.txt", "a.txt", "notes.md"):
            (place / name).write_text(body)
        assert folder.file_names() == ["a.txt", "b.txt"]
        assert folder.read_file("a.txt") == f"a.txt: {body}"
        shutil.rmtree(place)


# -- the disk ---------------------------------------------------------------------------------------------------


def test_a_folder_that_can_t_be_made_is_reported(tmp_path: Path):
    """A file is in its place: the error says which, and what to check."""
    (tmp_path / "ephemeral").write_text("a file")
    with pytest.raises(StorageError, match="ephemeral") as caught:
        FilesystemStore(tmp_path / "ephemeral" / "deeper")
    assert "folder" in str(caught.value.hint)


async def test_a_deleted_folder_is_noticed(root: Path):
    """By the health check."""
    store = FilesystemStore(root)
    await store.check()
    root.rename(root.with_name("gone"))
    with pytest.raises(StorageError, match="gone"):
        await store.check()
    with pytest.raises(StorageError, match="No such file or directory"):
        await store.add_version(version())


async def test_a_write_that_fails_leaves_the_journal_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A full disk in the middle of a line is an error, and the partial line is removed."""
    store = FilesystemStore(root)
    await store.add_sample(sample(AT(1)))
    before = (root / "samples.jsonl").read_bytes()
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 20:
            return real(descriptor, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            await store.add_sample(sample(AT(2)))
        with pytest.raises(StorageError, match="No space left"):
            await store.add_version(version())
    assert "free space" in str(caught.value.hint)
    assert (root / "samples.jsonl").read_bytes() == before
    assert store.versions("tides") == []
    assert not list(root.rglob("*.tmp"))
    await store.add_sample(sample(AT(3)))
    assert [each.at for each in store.samples("probe")] == [AT(1), AT(3)]


async def test_unchanged_files_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Reading again only checks the folders' times."""
    store = FilesystemStore(root)
    for number in range(5):
        await store.add_version(version(config_version=str(number // 3)))
    past = time.time() - 60
    for folder in (root / "content" / "tides", *(root / "content" / "tides").iterdir()):
        os.utime(folder, (past, past))
    store = FilesystemStore(root)
    infos = store.version_infos("tides")

    def refuse(*_: Any) -> Any:
        raise AssertionError("it looked again")

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert store.version_infos("tides") == infos


@pytest.mark.parametrize(("age", "at_rest"), [(0, False), (0.01, False), (1, True), (-5, False)])
def test_a_recent_modification_time_is_not_trusted(age: float, at_rest: bool):
    """A second change within the clock's resolution would leave it unchanged."""
    now = time.time_ns()
    modified = now - int(age * 1e9)
    assert is_at_rest(modified + (modified % 1_000_000_000 == 0)) is at_rest
    assert not is_at_rest(now // 1_000_000_000 * 1_000_000_000)


async def test_outdated_lines_are_removed(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The heartbeats of a job don't fill the disk; two processes read the same."""
    monkeypatch.setattr(journal, "COMPACTION_SLACK", 1000)
    store, other = FilesystemStore(root), FilesystemStore(root)
    await store.save_job(job("kept", AT(1)))
    for number in range(100):
        await store.save_job(job("j", AT(2), progress={"done": number}))
        assert [each.progress for each in other.jobs()] == [{"done": number}, {}]
    assert (root / "jobs.jsonl").stat().st_size < 4000
    await store.add_events([event(AT(number % 60)) for number in range(100)])
    await store.delete_before(AT(59))
    assert (root / "events.jsonl").stat().st_size < 4000
    assert other.events() == [event(AT(59))]


async def test_transactions_of_many_lines_stay_complete_when_rewritten(root: Path, monkeypatch: pytest.MonkeyPatch):
    """What is left of a transaction is one again."""
    monkeypatch.setattr(journal, "COMPACTION_SLACK", 0)
    store = FilesystemStore(root)
    expected: dict[str, Output] = {}
    for number in range(30):
        step = [output(f"{(number * 3 + each) % 10}.md", size=number) for each in range(4)]
        expected |= {each.path: each for each in step}
        await store.save_outputs(step)
        assert store.outputs() == FilesystemStore(root).outputs() == [expected[path] for path in sorted(expected)]


@requirement("storage.history")
async def test_reads_look_at_a_content_again_only_when_it_has_changed(tmp_path: Path):
    """As many function calls with three hundred versions as with thirty."""
    counts: list[int] = []
    for number in (30, 300):
        store = FilesystemStore(tmp_path / str(number))
        ids = [f"20260101T000000000Z-{each:04x}" for each in range(number)]
        await store.add_records([version("tides", version_id=each, fingerprint=each) for each in ids])
        past = time.time_ns() - 10_000_000_000
        for folder in (tmp_path / str(number)).rglob("*"):
            if folder.is_dir():
                os.utime(folder, ns=(past, past))

        def read(store: FilesystemStore = store, ids: list[str] = ids) -> None:
            assert store.content_state("tides").kept == len(ids)
            assert store.latest_version("tides") is not None
            assert store.version_with_fingerprint("tides", "other") is None
            assert store.version_with_fingerprint("tides", ids[0]) is not None
            assert len(store.newest_infos("tides", 10, kept=True)) == 10

        read()
        counts.append(calls_in(read))
        store.close()
    assert counts[1] <= counts[0] * 1.1 + 10, counts


@requirement("storage.history")
async def test_a_page_of_contents_looks_into_their_folders_alone(tmp_path: Path):
    """As many function calls with three hundred contents as with thirty; ids that aren't names of folders fit in."""
    counts: list[int] = []
    for number in (30, 300):
        store = FilesystemStore(tmp_path / str(number))
        ids = sorted([*(f"note-{each:03}" for each in range(number)), "note-011 B", "x" * 200])
        stored = [version(each, version_id=f"20260101T000000000Z-{at:04x}") for at, each in enumerate(ids)]
        await store.add_records(stored)
        (tmp_path / str(number) / "content" / "note-012a").mkdir()
        past = time.time_ns() - 10_000_000_000
        for folder in (tmp_path / str(number)).rglob("*"):
            if folder.is_dir():
                os.utime(folder, ns=(past, past))

        def read(store: FilesystemStore = store) -> None:
            assert store.content_ids("note-010", 3) == ["note-011", "note-011 B", "note-012"]
            assert store.content_ids("note-012", 1) == ["note-013"]

        assert store.content_ids() == ids
        read()
        counts.append(calls_in(read))
        await store.delete_versions([each.version_id for each in stored if each.content_id == "note-013"])
        assert store.content_ids("note-012", 1) == ["note-014"]
        store.close()
    assert counts[1] <= counts[0] * 1.1 + 10, counts
