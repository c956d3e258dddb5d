"""Reading and writing inside a folder that no path escapes."""

import contextlib
import errno
import itertools
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import msgspec
import pytest
import trio

from chora import files, nofollow
from chora.errors import LimitExceeded, PermissionDenied, without_folders
from chora.files import Folder
from tests.open_files import open_files_in
from tests.patience import PATIENCE


def names(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions and no such files")


class Place(NamedTuple):
    """A folder, and another one next to it that must stay unreachable."""

    folder: Folder
    root: Path
    outside: Path

    def put(self, path: str, text: str = "") -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def everything(self) -> dict[str, bytes | None]:
        """Every file and folder, inside and outside, hidden ones too."""
        return {
            str(path.relative_to(self.root.parent)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.parent.rglob("*"))
        }


@pytest.fixture(params=["by kernel", "by descriptor", "by path"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Place]:
    """The folder: opened with openat2, with descriptors, and, as on Windows, without.

    What a test opens is closed when it ends, however it ends.
    """
    if request.param == "by kernel":
        if nofollow.find_openat2() is None:
            pytest.skip("this kernel can't open beneath a folder")
    else:
        monkeypatch.setattr(nofollow, "find_openat2", lambda: None)
    if request.param == "by path":
        monkeypatch.setattr(nofollow, "BY_DESCRIPTOR", False)
    elif not nofollow.BY_DESCRIPTOR:
        pytest.skip("this platform can't open relative to a descriptor")
    root, outside = tmp_path / "project", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("hunter2")
    before = open_files_in(tmp_path)
    yield Place(Folder(root), root, outside)
    assert open_files_in(tmp_path) == before == []


# -- reading ----------------------------------------------------------------------------------------------------


def test_a_file_is_read_by_any_name_it_has(place: Place):
    """Relative, absolute, with `..`, as str or Path; a link within the folder is followed."""
    target = place.put("a/b.txt", "hello")
    (place.root / "link.txt").symlink_to("a/b.txt")
    (place.root / "folder").symlink_to(place.root / "a")
    for path in ("a/b.txt", "./a/../a/b.txt", target, str(target), "link.txt", "folder/b.txt"):
        assert place.folder.read_bytes(path) == b"hello"
        assert place.folder.relative(path) == "a/b.txt"
        assert place.folder.resolve(path) == target
        assert place.folder.is_file(path)


def test_text_is_utf_8(place: Place):
    """A byte order mark is dropped; other encodings are an error."""
    (place.root / "a.txt").write_bytes(b"\xef\xbb\xbfN\xc3\xb8rvik\r\n")
    assert place.folder.read_text("a.txt") == "Nørvik\r\n"
    (place.root / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        place.folder.read_text("a.txt")


@pytest.mark.parametrize("path", ["nothing.txt", "no/folder/at/all", "a.txt/below"])
def test_a_missing_file_is_not_found(place: Place, path: str):
    """Also if a folder on the way is missing, or isn't a folder."""
    place.put("a.txt")
    with pytest.raises(FileNotFoundError) as caught:
        place.folder.read_bytes(path)
    assert caught.value.filename == path
    assert not place.folder.is_file(path)


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_a_file_within_the_limit_is_read_whole(place: Place, size: int):
    """The limit is the most bytes that are accepted."""
    place.put("a.txt", "x" * size)
    assert place.folder.read_bytes("a.txt", limit=10) == b"x" * size


def test_a_file_beyond_the_limit_is_refused(place: Place):
    """One byte more is too much, in bytes and in text."""
    place.put("a.txt", "x" * 11)
    with pytest.raises(LimitExceeded) as caught:
        place.folder.read_bytes("a.txt", limit=10)
    assert caught.value.details == {"limit": "source", "path": "a.txt", "bytes": 10}
    with pytest.raises(LimitExceeded, match="larger than 10 bytes"):
        place.folder.read_text("a.txt", limit=10)


def test_a_file_that_is_too_large_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Its size says enough, so that it takes no memory."""
    with place.put("a.txt", "").open("wb") as file:
        file.truncate(1 << 40)

    def read(descriptor: int, count: int) -> bytes:
        raise AssertionError

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(LimitExceeded, match="larger than"):
        place.folder.read_bytes("a.txt")


def test_a_file_that_grows_is_bounded_too(place: Place, monkeypatch: pytest.MonkeyPatch):
    """A file that gets longer while it is read is cut off at the limit."""
    target = place.put("log.txt", "x")
    real, reads = os.read, list[int]()

    def growing(descriptor: int, size: int) -> bytes:
        reads.append(size)
        with target.open("a") as log:
            log.write("x" * 1000)
        return real(descriptor, min(size, 1000))

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(LimitExceeded, match="larger than 5,000 bytes"):
        place.folder.read_bytes("log.txt", limit=5000)
    assert len(reads) < 10


def test_a_read_error_is_reported_as_such(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Neither as the end of the file nor as a permission error."""
    place.put("a.txt", "x")

    def fail(descriptor: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        place.folder.read_bytes("a.txt")


@pytest.mark.parametrize("path", [".", "", "a"])
def test_a_folder_is_no_file(place: Place, path: str):
    """Neither the root nor a folder below can be read."""
    place.put("a/b.txt")
    with pytest.raises(PermissionDenied):
        place.folder.read_bytes(path)
    assert not place.folder.is_file(path)


# -- paths out of the folder ------------------------------------------------------------------------------------

ESCAPES: list[Callable[[Place], str]] = [
    lambda place: "../outside/secret.txt",
    lambda place: "a/../../outside/secret.txt",
    lambda place: "nowhere/../../outside/secret.txt",
    lambda place: str(place.outside / "secret.txt"),
    lambda place: str(place.root) + "/../outside/secret.txt",
    lambda place: str(place.root) + "-twin/secret.txt",
    lambda place: "/etc/passwd",
    lambda place: "link.txt",
    lambda place: "chain.txt",
    lambda place: "folder/secret.txt",
    lambda place: "folder/../secret.txt",
    lambda place: "folder/new/deep.txt",
    lambda place: "dangling.txt",
    lambda place: "\0",
    lambda place: "a.txt\0.md",
]


@pytest.fixture
def links(place: Place) -> Place:
    """The folder with links that lead outside: to a file, over two steps, to a folder, to nothing yet."""
    place.put("a/b.txt")
    twin = place.root.with_name(place.root.name + "-twin")
    twin.mkdir()
    (twin / "secret.txt").write_text("hunter2")
    (place.root / "link.txt").symlink_to(place.outside / "secret.txt")
    (place.root / "chain.txt").symlink_to("link.txt")
    (place.root / "folder").symlink_to("../outside")
    (place.root / "dangling.txt").symlink_to(place.outside / "not-yet.txt")
    return place


@pytest.mark.parametrize("escape", ESCAPES)
async def test_no_path_escapes(links: Place, escape: Callable[[Place], str]):
    """Neither by `..`, nor an absolute path, nor a link: for reading, writing and listing (CWE-22, CWE-59)."""
    path, before = escape(links), links.everything()
    for act in (links.folder.read_bytes, links.folder.resolve, links.folder.relative, links.folder.check_writable):
        with pytest.raises(PermissionDenied) as caught:
            act(path)
        assert caught.value.details["path"] == without_folders(path)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(PermissionDenied):
        await links.folder.write_file(path, b"mine")
    assert not links.folder.is_file(path)
    assert links.folder.list_files(path, (".txt",)) == []
    assert links.everything() == before


@posix
async def test_a_cycle_of_links_is_no_file(place: Place):
    """And doesn't hang."""
    (place.root / "a").symlink_to("b")
    (place.root / "b").symlink_to("a")
    with pytest.raises((PermissionDenied, FileNotFoundError)):
        place.folder.read_bytes("a")
    with pytest.raises((PermissionDenied, OSError)):
        await place.folder.write_file("a/c.txt", b"x")
    assert not place.folder.is_file("a")


@posix
def test_undecodable_paths_are_reported_in_valid_json(place: Place):
    """A path of bytes that aren't text is refused or missing, with an escaped message."""
    with pytest.raises(FileNotFoundError) as missing:
        place.folder.read_bytes("a\udcff.txt")
    msgspec.json.encode(missing.value.filename)
    for path in ("../\udcff", "\udcff\0", "\ud800"):  # the last one isn't a valid file name
        with pytest.raises(PermissionDenied) as caught:
            place.folder.read_bytes(path)
        msgspec.json.encode(caught.value.as_dict())


@posix
async def test_a_link_swapped_in_after_the_check_fails(links: Place, monkeypatch: pytest.MonkeyPatch):
    """Replacing a file or folder by a link between check and opening gains nothing (CWE-367)."""
    if not nofollow.BY_DESCRIPTOR:
        pytest.skip("without descriptors a folder can be swapped: what Windows can't prevent")
    links.put("inner/secret.txt", "inner")
    links.put("plain.txt", "plain")
    (links.outside / "inner").mkdir()
    (links.outside / "inner" / "secret.txt").write_text("hunter2")
    real, kernel = Folder.resolve, nofollow.find_openat2()

    def swap() -> None:
        if not (links.root / "inner").is_symlink():
            (links.root / "inner").rename(links.root / "inner-before")
            (links.root / "inner").symlink_to(links.outside / "inner")
            (links.root / "plain.txt").unlink()
            (links.root / "plain.txt").symlink_to(links.outside / "secret.txt")

    def swapping(self: Folder, path: str | Path) -> Path:
        found = real(self, path)
        swap()
        return found

    def swapping_first(folder: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        swap()
        assert kernel is not None
        return kernel(folder, path, flags, mode, resolve)

    def restore() -> None:
        (links.root / "inner").unlink()
        (links.root / "inner-before").rename(links.root / "inner")
        (links.root / "plain.txt").unlink()
        links.put("plain.txt", "plain")

    monkeypatch.setattr(Folder, "resolve", swapping)
    if kernel is not None:
        monkeypatch.setattr(nofollow, "find_openat2", lambda: swapping_first)
    outside = {path: text for path, text in links.everything().items() if path.startswith("outside")}
    for path in ("inner/secret.txt", "plain.txt"):
        with pytest.raises((PermissionDenied, FileNotFoundError)):
            links.folder.read_bytes(path)
        restore()
    for path in ("inner/secret.txt", "inner/deep/down/new.txt", "plain.txt"):
        with pytest.raises((PermissionDenied, OSError)):
            await links.folder.write_file(path, b"mine")
        restore()
    assert {path: text for path, text in links.everything().items() if path.startswith("outside")} == outside


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has openat2")
@pytest.mark.parametrize("lack", ["machine", "kernel"])
def test_without_openat2_paths_are_checked_step_by_step(monkeypatch: pytest.MonkeyPatch, lack: str):
    """A machine with unknown call numbers, or a kernel that refuses, isn't tried twice."""
    probe = cast(Any, nofollow.find_openat2).__wrapped__
    assert probe() is not None or nofollow.find_openat2() is None
    if lack == "machine":
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="pdp11"))
    else:
        monkeypatch.setattr(nofollow, "_OPENAT2", 9999)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert probe() is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_paths_too_long_or_deep_for_others(place: Place):
    """chora refuses to create folders that other programs couldn't enter."""
    for path in ("x" * 4097, "x/" * 3000 + "x"):
        with pytest.raises(PermissionDenied, match="4,096 are allowed"):
            place.folder.read_bytes(path)
        with pytest.raises(PermissionDenied, match="4,096 are allowed"):
            await place.folder.write_file(path, b"")
    await place.folder.write_file("x/" * 99 + "y", b"deep")
    with pytest.raises(PermissionDenied, match="100 folders deep"):
        await place.folder.write_file("x/" * 100 + "y", b"")
    assert place.folder.read_bytes("x/" * 99 + "y") == b"deep"


# -- special files ----------------------------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:
        pytest.skip("only root makes device files")


@posix
@pytest.mark.parametrize("make", [_pipe, _socket, _device])
async def test_special_files_are_refused(place: Place, make: Callable[[Path], None]):
    """A pipe, a socket or a device is neither read, which could block or never end, nor replaced."""
    make(place.root / "odd.txt")
    kind = stat.S_IFMT((place.root / "odd.txt").lstat().st_mode)
    with trio.fail_after(PATIENCE), pytest.raises(PermissionDenied):
        await trio.to_thread.run_sync(place.folder.read_bytes, "odd.txt", abandon_on_cancel=True)
    with trio.fail_after(PATIENCE), pytest.raises(PermissionDenied, match="not a regular file"):
        await place.folder.write_file("odd.txt", b"x")
    assert stat.S_IFMT((place.root / "odd.txt").lstat().st_mode) == kind
    assert not place.folder.is_file("odd.txt")
    assert place.folder.list_files(".", (".txt",)) == []
    assert names(place.root) == ["odd.txt"]


@posix
async def test_names_too_long_for_the_disk_are_an_error(place: Place):
    """A name of more than 255 bytes can't be read, written or found, and leaves nothing behind."""
    for path in ("x" * 300, "x" * 300 + "/a.txt", "/".join(["folder"] * 1000)):
        with pytest.raises((PermissionDenied, FileNotFoundError)):
            place.folder.read_bytes(path)
        assert not place.folder.is_file(path)
        assert place.folder.list_files(path, (".txt",)) == []
    before = place.everything()
    for path in ("x" * 300, "x" * 300 + "/a.txt"):
        with pytest.raises(OSError, match="too long"):
            await place.folder.write_file(path, b"x")
    assert place.everything() == before


@posix
@pytest.mark.parametrize("name", ["x" * 255, "ø" * 127, "漢" * 85, "🌊" * 63])
async def test_the_longest_names_can_be_written(place: Place, name: str):
    """A name of maximal length can be written with a temporary file, whatever its characters."""
    await place.folder.write_file(name, b"text")
    assert place.folder.read_bytes(name) == b"text"
    assert names(place.root) == [name]


# -- listing ----------------------------------------------------------------------------------------------------


def test_files_are_listed_by_suffix(place: Place):
    """Project-relative, sorted, at any depth; hidden folders aren't entered."""
    for path in ("c/z.json", "c/a.yaml", "c/b/x.json", "c/.git/no.json", "c/.json", "c/no.txt", "d/no.json"):
        place.put(path)
    (place.root / "c" / "folder.json").mkdir()
    assert place.folder.list_files("c", (".json", ".yaml")) == ["c/.json", "c/a.yaml", "c/b/x.json", "c/z.json"]
    assert place.folder.list_files("c/b/", (".json",)) == ["c/b/x.json"]
    assert place.folder.list_files("nowhere", (".json",)) == []
    assert place.folder.list_files("c/no.txt", (".json",)) == []


def test_links_are_listed_if_they_stay_inside(place: Place):
    """A link to a file inside is a file; links to folders, to nothing and to the outside are left out."""
    place.put("c/a.txt")
    place.put("d/b.txt")
    (place.root / "c" / "inside.txt").symlink_to("../d/b.txt")
    (place.root / "c" / "outside.txt").symlink_to(place.outside / "secret.txt")
    (place.root / "c" / "dangling.txt").symlink_to("nothing.txt")
    (place.root / "c" / "folder").symlink_to("../d")
    (place.root / "c" / "folder.txt").symlink_to("../d")
    assert place.folder.list_files("c", (".txt",)) == ["c/a.txt", "c/inside.txt"]


def test_a_junction_isn_t_entered(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The links to folders that only Windows has look like folders there, but for one field of their status."""
    place.put("a.txt")
    place.put("junction/b.txt")
    real = os.scandir

    class Junction:
        name, path = "junction", str(place.root / "junction")

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            return True

        def stat(self, *, follow_symlinks: bool) -> Any:
            return SimpleNamespace(st_reparse_tag=0xA0000003)

    def scandir(path: str) -> Any:
        with real(path) as found:
            return contextlib.nullcontext([Junction() if entry.name == "junction" else entry for entry in found])

    monkeypatch.setattr(os, "scandir", scandir)
    assert place.folder.list_files(".", (".txt",)) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="there every name is text")
def test_undecodable_names_are_left_out(place: Place):
    """The list still has the others."""
    place.put("a.txt")
    (place.root / os.fsdecode(b"\xff.txt")).write_text("")
    (place.root / os.fsdecode(b"\xfe")).mkdir()
    (place.root / os.fsdecode(b"\xfe") / "b.txt").write_text("")
    assert place.folder.list_files(".", (".txt",)) == ["a.txt"]


def test_a_list_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch):
    """A folder with too many entries is refused, whatever their suffixes."""
    monkeypatch.setattr(files, "FILES_LIMIT", 3)
    for path in ("a.txt", "b.md", "c/d.txt"):
        place.put(path)
    with pytest.raises(LimitExceeded) as caught:
        place.folder.list_files(".", (".txt",))
    assert caught.value.details["limit"] == "files"
    assert place.folder.list_files("c", (".txt",)) == ["c/d.txt"]
    monkeypatch.setattr(files, "FILES_LIMIT", 4)  # a folder counts as well
    assert place.folder.list_files(".", (".txt",)) == ["a.txt", "c/d.txt"]


def test_a_path_may_be_as_long_as_the_limit(place: Place):
    """One character more is refused."""
    target = place.put("a.txt", "hello")
    path = "./" * ((files.PATH_LIMIT - len("a.txt")) // 2)
    path += "/" * (files.PATH_LIMIT - len(path) - len("a.txt")) + "a.txt"
    assert len(path) == files.PATH_LIMIT
    assert place.folder.resolve(path) == target
    with pytest.raises(PermissionDenied, match="4,096 are allowed"):
        place.folder.resolve("/" + path)


@posix
@pytest.mark.slow("makes folders as deep as the system allows")
def test_very_deep_folders_are_listed(place: Place):
    """Neither recursion nor the system's longest path ends a listing."""
    place.put("a.txt")
    current = os.open(place.root, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    try:
        assert place.folder.list_files(".", (".txt",)) == ["a.txt"]
    finally:
        _remove_deep(place.root / "d")


def _remove_deep(folder: Path) -> None:
    """`shutil.rmtree`, which pytest uses, is not up to such a depth: take it apart from the top."""
    top = folder.parent
    while (inner := folder / "d").exists():
        inner.rename(top / "rest")
        folder.rmdir()
        (top / "rest").rename(folder)
    folder.rmdir()


def test_a_folder_without_permission_is_skipped(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The others are listed."""
    place.put("a/one.txt")
    place.put("b/two.txt")
    real = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("a"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert place.folder.list_files(".", (".txt",)) == ["b/two.txt"]


# -- writing ----------------------------------------------------------------------------------------------------


async def test_what_is_written_can_be_read(place: Place):
    """A new file, a file in new folders, over an old file, and an empty one."""
    for path, data in (("a.txt", b"one"), ("x/y/z.txt", b"deep"), ("a.txt", b"two\0\r\n"), ("empty", b"")):
        await place.folder.write_file(path, data)
        assert place.folder.read_bytes(path) == data
    big = os.urandom(3_000_000)
    await place.folder.write_file("big", big)
    assert place.folder.read_bytes("big") == big
    assert names(place.root) == ["a.txt", "big", "empty", "x"]


async def test_a_link_inside_is_written_through(place: Place):
    """The link's target is replaced, and the link stays."""
    place.put("real/a.txt", "old")
    (place.root / "link.txt").symlink_to("real/a.txt")
    await place.folder.write_file("link.txt", b"new")
    assert (place.root / "real/a.txt").read_bytes() == b"new"
    assert (place.root / "link.txt").is_symlink()


async def test_a_file_in_the_place_of_a_folder_stays(place: Place):
    """It isn't removed, and the write fails."""
    place.put("a", "a file")
    before = place.everything()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        await place.folder.write_file("a/b.txt", b"x")
    (place.root / "folder").mkdir()
    with pytest.raises(PermissionDenied, match="not a regular file"):
        await place.folder.write_file("folder", b"x")
    (place.root / "folder").rmdir()
    assert place.everything() == before


async def test_partial_writes_are_continued(place: Place, monkeypatch: pytest.MonkeyPatch):
    """A write that takes fewer bytes than given isn't the end."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    await place.folder.write_file("a.txt", b"a text of several pieces")
    assert (place.root / "a.txt").read_bytes() == b"a text of several pieces"


def failing(number: int, on_call: int = 1) -> Callable[..., Any]:
    left = on_call

    def fail(*arguments: Any, **more: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("old", [None, "the old text"])
@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("open", errno.EDQUOT),
        ("write", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("replace", errno.EROFS),
    ],
)
async def test_a_failed_write_leaves_the_old_file(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str, number: int, old: str | None
):
    """At every step: the old file is intact, or there is none, and no temporary file is left."""
    if old is not None:
        place.put("a.txt", old)
    before = place.everything()
    fail, real = failing(number), os.open

    def opening(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            fail()
        return real(path, flags, *rest, **more)

    with monkeypatch.context() as broken:
        broken.setattr(os, step, opening if step == "open" else fail)
        with pytest.raises(OSError, match=r".") as caught:
            place.folder._write(place.root / "a.txt", b"the new text")
    assert caught.value.errno == number
    assert place.everything() == before
    await place.folder.write_file("a.txt", b"the new text")
    assert (place.root / "a.txt").read_bytes() == b"the new text"


async def test_a_failed_clean_up_reports_the_first_error(place: Place, monkeypatch: pytest.MonkeyPatch):
    """When even the temporary file can't be removed."""
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", failing(errno.EIO))
        broken.setattr(os, "unlink", failing(errno.EROFS))
        with pytest.raises(OSError, match=r".") as caught:
            place.folder._write(place.root / "a.txt", b"x")
    assert caught.value.errno == errno.EIO


def test_the_kernel_opens_beneath_a_folder_where_it_can(tmp_path: Path):
    """One system call instead of a walk; it refuses what leads out."""
    if (openat2 := nofollow.find_openat2()) is None:
        pytest.skip("this kernel has no openat2")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("y")
    folder = os.open(tmp_path / "inside", os.O_RDONLY)
    try:
        descriptor = openat2(folder, b"a.txt", os.O_RDONLY | os.O_CLOEXEC, 0, nofollow.BENEATH)
        assert os.read(descriptor, 10) == b"x"
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
        with pytest.raises(OSError, match="cross-device"):
            openat2(folder, b"../b.txt", os.O_RDONLY, 0, nofollow.BENEATH)
    finally:
        os.close(folder)


@posix
async def test_folders_are_synced_where_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file, its folder and each new folder's parent, in that order."""
    if not nofollow.BY_DESCRIPTOR:
        pytest.skip("this platform can't sync folders")
    synced: list[str] = []

    def record(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", record)
    await Folder(tmp_path).write_file("new/newer/a.txt", b"x")
    assert synced == ["folder", "folder", "file", "folder"]
    synced.clear()
    await Folder(tmp_path).write_file("new/newer/a.txt", b"y")
    assert synced == ["file", "folder"]


@posix
@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
async def test_a_folder_that_can_t_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fails: bool):
    """Network file systems that can't sync folders work all the same; a disk error is reported."""
    if not nofollow.BY_DESCRIPTOR:
        pytest.skip("this platform can't sync folders")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing(number, on_call=2))
        if fails:
            with pytest.raises(OSError, match="Input/output error"):
                Folder(tmp_path)._write(tmp_path / "a.txt", b"x")
        else:
            Folder(tmp_path)._write(tmp_path / "a.txt", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"x"


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755, 0o444])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_an_old_file_keeps_its_permissions(place: Place, monkeypatch: pytest.MonkeyPatch, mode: int, umask: int):
    """Neither looser, not even while it is written, nor stricter, whatever the umask."""
    target = place.put("a.txt", "old")
    target.chmod(mode)
    real, looser = os.write, list[int]()

    def write(descriptor: int, data: bytes) -> int:
        if stat.S_ISREG(status := os.fstat(descriptor).st_mode):
            looser.append(stat.S_IMODE(status) & ~mode)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    before = os.umask(umask)
    try:
        await place.folder.write_file("a.txt", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == b"new"
    assert looser == [0]


@posix
async def test_permissions_that_can_t_be_restored_stay_stricter(place: Place, monkeypatch: pytest.MonkeyPatch):
    """A disk without permissions can still be written."""
    place.put("a.txt", "old").chmod(0o666)
    with monkeypatch.context() as broken:
        broken.setattr(files.os, "chmod", refuse := failing(errno.EPERM))
        broken.setattr(os, "supports_fd", {refuse})
        before = os.umask(0o077)
        try:
            place.folder._write(place.root / "a.txt", b"new")
        finally:
            os.umask(before)
    assert (place.root / "a.txt").read_bytes() == b"new"
    assert stat.S_IMODE((place.root / "a.txt").stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
async def test_a_new_file_follows_the_umask(place: Place, umask: int, mode: int):
    """It decides who may read new files."""
    before = os.umask(umask)
    try:
        await place.folder.write_file("a.txt", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((place.root / "a.txt").stat().st_mode) == mode


async def test_two_writers_don_t_mix(place: Place):
    """The last rename wins; readers see one complete text or the other."""
    texts = {letter.encode() * 200_000 for letter in "abcdef"}
    await place.folder.write_file("a.txt", min(texts))
    seen: set[bytes] = set()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for text in texts:
                nursery.start_soon(place.folder.write_file, "a.txt", text)
            for _ in range(20):
                seen.add(await trio.to_thread.run_sync(place.folder.read_bytes, "a.txt"))
    assert seen <= texts
    assert names(place.root) == ["a.txt"]


async def test_a_cancelled_write_is_complete_or_not_made(place: Place, monkeypatch: pytest.MonkeyPatch):
    """A waiting one isn't begun, a running one is completed."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await place.folder.write_file("a.txt", b"never")
    assert scope.cancelled_caught
    assert names(place.root) == []

    begun, go_on = trio.Event(), threading.Event()
    token, real = trio.lowlevel.current_trio_token(), os.replace

    def slow(*arguments: Any, **more: Any) -> None:
        token.run_sync_soon(begun.set)
        assert go_on.wait(PATIENCE)
        real(*arguments, **more)

    monkeypatch.setattr(os, "replace", slow)
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.folder.write_file, "a.txt", b"all of it")
            await begun.wait()
            scope.cancel()
            go_on.set()
    assert (place.root / "a.txt").read_bytes() == b"all of it"
    assert names(place.root) == ["a.txt"]


# -- where outputs may go ---------------------------------------------------------------------------------------


async def test_only_writable_folders_are_written_to(place: Place):
    """Everything inside them and nothing elsewhere; reading isn't bounded by them."""
    folder = Folder(place.root, ("outputs", "docs/reference"))
    place.put("configs/a.json", "{}")
    for path in ("outputs/a.md", "outputs/deep/er/a.md", "docs/reference/a.md", place.root / "outputs" / "b.md"):
        assert folder.check_writable(path) == place.root / path
        await folder.write_file(path, b"x")
    before = place.everything()
    for path in ("a.md", "outputs", "docs/a.md", "outputs-not/a.md", "outputs/../a.md", "configs/a.json", "."):
        with pytest.raises(PermissionDenied) as caught:
            folder.check_writable(path)
        assert "paths.outputs" in str(caught.value.hint)
        with pytest.raises(PermissionDenied, match="outside the folders that outputs may be written to"):
            await folder.write_file(path, b"x")
    assert place.everything() == before
    assert folder.read_bytes("configs/a.json") == b"{}"


async def test_a_writable_folder_may_be_a_link(place: Place):
    """Outputs may be in another folder of the project that a link leads to, but not outside."""
    (place.root / "build").mkdir()
    (place.root / "outputs").symlink_to("build")
    folder = Folder(place.root, ("outputs", "away"))
    await folder.write_file("outputs/a.md", b"x")
    assert (place.root / "build" / "a.md").read_bytes() == b"x"
    (place.root / "away").symlink_to(place.outside)
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        await folder.write_file("away/a.md", b"x")
    assert names(place.outside) == ["secret.txt"]


def test_a_root_may_be_a_link(place: Place):
    """The project is the folder behind it, and paths by either name are inside."""
    link = place.root.with_name("link")
    link.symlink_to(place.root)
    place.put("a.txt", "x")
    folder = Folder(link)
    assert folder.root == place.root
    for path in (link / "a.txt", place.root / "a.txt", "a.txt"):
        assert folder.relative(path) == "a.txt"


def test_a_root_must_exist(tmp_path: Path):
    """A folder that isn't there can't be the root."""
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path / "nothing")


@posix
def test_walking_a_path_equals_resolving_it(tmp_path: Path):
    """For any combination of links and `..`."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for link, target in (("in", "a"), ("out", "/etc"), ("a/up", "../file"), ("loop", "loop")):
        (tmp_path / link).symlink_to(target)

    class Long(Folder):
        def _plain(self, text: str) -> Path | None:
            return None

    def resolved(folder: Folder, path: str) -> Path | str:
        try:
            return folder.resolve(path)
        except PermissionDenied as denied:
            return denied.message

    short, long = Folder(tmp_path), Long(tmp_path)
    parts = ["a", "b", "file", "in", "up", "out", "loop", "..", ".", "", "passwd", "new", "odd \udcff"]
    for length in (1, 2, 3):
        for chosen in itertools.product(parts, repeat=length):
            for path in ("/".join(chosen), "/" + "/".join(chosen), f"{tmp_path}/" + "/".join(chosen)):
                assert resolved(short, path) == resolved(long, path), path


@posix
async def test_leftover_temporary_files_are_removed(tmp_path: Path):
    """Those whose writer was killed, by the next write to their folder, and no other file."""
    old, name = time.time() - 7200, ".note.md.0123456789ab.tmp"
    kept = [
        "note.md.0123456789ab.tmp",
        ".note.md.0123456789AB.tmp",
        ".note.md.0123456789a.tmp",
        ".note.md.0123456789ab.tmp.md",
        ".0123456789ab.tmp",
        f".{'x' * 41}.0123456789ab.tmp",
        "other.md",
    ]
    for each in (*kept, name):
        (tmp_path / each).write_text("half")
        os.utime(tmp_path / each, (old, old))
    (tmp_path / ".fresh.0123456789ab.tmp").write_text("being written")
    (tmp_path / ".folder.0123456789ab.tmp").mkdir()
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / ".link.0123456789ab.tmp").symlink_to("elsewhere")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / name).write_text("half")
    for each in (
        tmp_path / "deeper" / name,
        tmp_path / ".folder.0123456789ab.tmp",
        tmp_path / ".link.0123456789ab.tmp",
    ):
        os.utime(each, (old, old), follow_symlinks=False)
    if os.geteuid() == 0:
        kept.append(".foreign.0123456789ab.tmp")
        (tmp_path / kept[-1]).write_text("half")
        os.utime(tmp_path / kept[-1], (old, old))
        os.chown(tmp_path / kept[-1], 12345, 12345)
    kept += [".fresh.0123456789ab.tmp", ".folder.0123456789ab.tmp", ".link.0123456789ab.tmp", "elsewhere", "deeper"]
    folder = Folder(tmp_path)
    await folder.write_file("note.md", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "note.md"])
    await folder.write_file("deeper/other.md", b"whole")
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["other.md"]


@posix
async def test_a_folder_is_cleaned_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Later writes don't list it again."""
    folder, looked = Folder(tmp_path), 0
    look = os.scandir

    def count(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return look(*arguments)

    monkeypatch.setattr(os, "scandir", count)
    for number in range(5):
        await folder.write_file(f"a/{number}.md", b"x")
    assert looked == 1
