"""The digests of files: never an outdated one, and no more reads than needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.engine import file_digests
from chora.engine.file_digests import ABSENT, UNREADABLE, FileDigests
from chora.file_stamps import COARSE, RACY, FileStamp
from chora.files import Folder
from chora.hashing import sha256
from tests.engine.conftest import Clock, Counting, at_rest

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and links")
needs_user = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may read anything")


def test_a_file_at_rest_is_read_once(digests: FileDigests, folder: Counting, clock: Clock):
    """Its times show that it is unchanged, and a change of it changes them."""
    file = folder.root / "a.txt"
    file.write_text("one")
    at_rest(file, clock)
    assert {digests.digest_file("a.txt") for _ in range(5)} == {sha256(b"one")}
    assert folder.reads == 1
    file.write_text("two")
    assert digests.digest_file("a.txt") == sha256(b"two")
    assert folder.reads == 2


def test_a_file_written_just_now_is_read_again(digests: FileDigests, folder: Counting):
    """A second write within the clock's resolution would leave its times unchanged."""
    file = folder.root / "a.txt"
    for number in range(50):
        body = f"{number:02}".encode()
        file.write_bytes(body)
        assert digests.digest_file("a.txt") == sha256(body)
        before = file.stat()
        other = f"{number:02}"[::-1].encode()
        file.write_bytes(other)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert digests.digest_file("a.txt") == sha256(other), "same size and time, other content"
    assert folder.reads == 100


@pytest.mark.parametrize(("whole", "rest", "reads"), [(False, RACY, 1), (True, RACY, 2), (True, COARSE, 1)])
def test_coarse_clocks_need_a_longer_rest(
    digests: FileDigests, folder: Counting, clock: Clock, whole: bool, rest: int, reads: int
):
    """Times that end in zeros come from a disk that may count whole or even seconds."""
    file = folder.root / "a.txt"
    file.write_text("x")
    at_rest(file, clock, whole)
    clock.ahead = rest + 20_000_000
    digests.digest_file("a.txt")
    digests.digest_file("a.txt")
    assert folder.reads == reads


def test_a_file_of_the_future_is_read_every_time(digests: FileDigests, folder: Counting, clock: Clock):
    """Its times don't show when it was written."""
    (folder.root / "a.txt").write_text("x")
    clock.ahead = -60 * 10**9
    digests.digest_file("a.txt")
    digests.digest_file("a.txt")
    assert folder.reads == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(digests: FileDigests, folder: Counting, clock: Clock):
    """The bytes read may be part of either version."""
    file = folder.root / "a.txt"
    file.write_text("one")
    at_rest(file, clock)
    folder.meanwhile = lambda: file.write_text("three")
    assert digests.digest_file("a.txt") == sha256(b"one")
    folder.meanwhile = bool
    assert digests.digest_file("a.txt") == sha256(b"three")


def test_a_file_that_vanishes_is_absent(digests: FileDigests, folder: Counting, monkeypatch: pytest.MonkeyPatch):
    """Between two checks, or between the check and the read; it may be created again."""
    file = folder.root / "a.txt"
    assert digests.digest_file("a.txt") == ABSENT
    file.write_text("x")
    assert digests.digest_file("a.txt") == sha256(b"x")
    really = Folder.read_bytes

    def vanish(self: Folder, path: str | Path, *, limit: int = 0) -> bytes:
        file.unlink()
        return really(self, path, limit=limit)

    with monkeypatch.context() as patch:
        patch.setattr(Counting, "read_bytes", vanish)
        assert digests.digest_file("a.txt") == ABSENT
    assert digests.digest_file("a.txt") == digests.digest_file("a.txt/b.txt") == ABSENT
    file.write_text("y")
    assert digests.digest_file("a.txt") == sha256(b"y")
    assert digests.digest_file("a.txt/b.txt") == ABSENT, "what is below a file isn't there"


@pytest.mark.parametrize("path", ["folder", ".", "a\0b", "x" * 5000])
def test_a_folder_or_invalid_name_is_unreadable(digests: FileDigests, folder: Counting, path: str):
    """Its digest is UNREADABLE, without an attempt to read it."""
    (folder.root / "folder").mkdir()
    assert digests.digest_file(path) == UNREADABLE
    assert folder.reads == 0


@needs_posix
def test_a_pipe_is_unreadable(digests: FileDigests, folder: Counting):
    """It is never opened, as that would block."""
    os.mkfifo(folder.root / "pipe")
    assert digests.digest_file("pipe") == UNREADABLE


@needs_posix
@needs_user
def test_a_file_without_permission_is_unreadable(digests: FileDigests, folder: Counting, clock: Clock):
    """Until it may be read again; a folder on the way without permission has the same effect."""
    file = folder.root / "closed/a.txt"
    file.parent.mkdir()
    file.write_text("x")
    file.chmod(0)
    assert digests.digest_file("closed/a.txt") == UNREADABLE
    file.chmod(0o600)
    assert digests.digest_file("closed/a.txt") == sha256(b"x")
    file.parent.chmod(0)
    assert digests.digest_file("closed/a.txt") == UNREADABLE
    file.parent.chmod(0o700)


@needs_posix
def test_links_are_followed_within_the_project(digests: FileDigests, folder: Counting, clock: Clock, tmp_path: Path):
    """A changed target gives another digest; a link out of the project, or in a cycle, is unreadable."""
    for name in ("one", "two"):
        (folder.root / name).write_text(name)
        at_rest(folder.root / name, clock)
    link = folder.root / "link"
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("secret")
    for target, digest in [
        ("one", sha256(b"one")),
        ("two", sha256(b"two")),
        ("one", sha256(b"one")),
        ("none", ABSENT),
        (outside, UNREADABLE),
        ("link", UNREADABLE),
    ]:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert digests.digest_file("link") == digest, target


def test_a_file_beyond_the_limit_is_not_read(digests: FileDigests, folder: Counting, monkeypatch: pytest.MonkeyPatch):
    """No source takes so large a file; the same if it grows while it is read."""
    monkeypatch.setattr(file_digests, "DIGEST_LIMIT", 10)
    file = folder.root / "a.txt"
    file.write_bytes(b"x" * 11)
    assert digests.digest_file("a.txt") == UNREADABLE
    assert folder.reads == 0
    file.write_bytes(b"x" * 10)
    assert digests.digest_file("a.txt") == sha256(b"x" * 10)
    monkeypatch.setattr(FileDigests, "_stamp", lambda *_: FileStamp(5, 0, 0, 0))
    file.write_bytes(b"x" * 11)
    assert digests.digest_file("a.txt") == UNREADABLE


def test_digests_of_earlier_processes_are_used_while_the_times_agree(
    digests: FileDigests, folder: Counting, clock: Clock
):
    """Then the file isn't read at all; this process's own digests take precedence."""
    file = folder.root / "a.txt"
    file.write_text("x")
    at_rest(file, clock)
    digest = digests.digest_file("a.txt")
    stamp = digests.stamp_of("a.txt", digest)
    assert stamp is not None
    assert digests.stamp_of("a.txt", sha256(b"other")) is digests.stamp_of("b.txt", digest) is None
    later = FileDigests(folder)
    later.remember("a.txt", stamp, digest)
    later.remember("a.txt", stamp, "sha256:other")
    assert later.digest_file("a.txt") == digest
    assert folder.reads == 1
    file.write_text("y")
    assert later.digest_file("a.txt") == sha256(b"y")
    other = FileDigests(folder)
    other.remember("a.txt", stamp, digest)
    assert other.digest_file("a.txt") == sha256(b"y")


writes = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "1", "2", "33"]), st.booleans()), max_size=12)


@given(writes)
def test_a_digest_is_always_that_of_the_current_file(steps: list[tuple[str, str, bool]]):
    """Whatever was written when, with whichever times."""
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        digests = FileDigests(folder)
        for name, body, keeps_times in steps:
            file = folder.root / name
            before = file.stat() if file.exists() else None
            if body:
                file.write_text(body)
                if keeps_times and before:
                    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            else:
                file.unlink(missing_ok=True)
            for each in "ab":
                there = folder.root / each
                assert digests.digest_file(each) == (sha256(there.read_bytes()) if there.exists() else ABSENT)
