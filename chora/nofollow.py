"""Opening files without following a link: the only module that opens, lists, renames or deletes files of a project.

A checkout or an archive can bring a link under any name, also under one that chora itself writes to; followed, it would
append an event to the start-up file of a shell (CWE-59, CWE-61). So no component of a path that is opened here may be a
link, and what is opened must be a regular file: a pipe or a device would block or swallow what is written (CWE-67).

Paths are absolute, and the project's own was resolved when the process started. The kernel refuses links in one step
where it can: openat2(2) with RESOLVE_NO_SYMLINKS on Linux, O_NOFOLLOW_ANY on macOS. Elsewhere a path is walked
component by component with O_NOFOLLOW. Windows has no such descriptors; there each component is looked at first.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import stat
import struct
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
"""Whether files can be opened relative to the descriptor of a folder; not on Windows."""
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
"""The permissions of what chora keeps for itself: stored texts and drafts are for the owner's eyes (CWE-732)."""

_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _COMMON
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _COMMON
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _COMMON
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NOFOLLOW_ANY = getattr(os, "O_NOFOLLOW_ANY", 0)
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _NOFOLLOW | _COMMON

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a regular file",
}


class UnsafePath(OSError):
    """A link on the way to a file, or something in its place that is no regular file.

    Attributes:
        path: what was found, absolute.
        kind: what it is, such as "a symbolic link".
    """

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(errno.ELOOP, f"{path} is {kind}, which is never opened in this place", str(path))
        self.path = path
        self.kind = kind

    @property
    def hint(self) -> str:
        """The next step."""
        return (
            f"See what {self.path} is and who made it (a checkout may have brought it), and remove it. "
            "To keep files elsewhere, name the place in the settings: storage.path, storage.folder, backup.folder or "
            "paths.events."
        )


# -- opening ----------------------------------------------------------------------------------------------------------


def open_file(path: Path | str, flags: int = READ, mode: int = PRIVATE_FILE) -> int:
    """Open a regular file, and return its descriptor.

    Raises:
        UnsafePath: a component of the path is a link, or it is no regular file.
        OSError: as open(2).
    """
    descriptor = open_without_links(str(path), flags | getattr(os, "O_NONBLOCK", 0), mode)
    return _check_regular(descriptor, Path(path))


def _check_regular(descriptor: int, path: Path) -> int:
    found = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if found != stat.S_IFREG:
        os.close(descriptor)
        raise UnsafePath(path, _KINDS.get(found, "no regular file"))
    return descriptor


def read_file(path: Path | str, limit: int | None = None) -> bytes:
    """Read a regular file, at most `limit` bytes of it.

    Raises:
        UnsafePath: a component of the path is a link, or it is no regular file.
        OSError: as open(2) and read(2).
    """
    with open(open_file(path), "rb") as file:
        return file.read() if limit is None else file.read(limit)


@contextmanager
def temporary_folder(above: Path, prefix: str) -> Generator[Path]:
    """A new folder for files only, deleted with them at the end.

    Raises:
        UnsafePath: a component of the path above is a link.
        OSError: it can't be created.
    """
    name = f"{prefix}{secrets.token_hex(6)}"
    try:
        with open_folder(above / name, make=True):
            pass
        yield above / name
    finally:
        with contextlib.suppress(OSError), open_folder(above) as folder:
            with open_folder(above / name) as inner:
                for each in inner.names():
                    inner.delete_file(each)
            folder.delete_folder(name)


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file to a new one; raises what `open_file` raises."""
    with open(open_file(source), "rb") as old, open(open_file(target, CREATE), "wb") as new:
        while data := old.read(1 << 20):
            new.write(data)


def move_file(old: Path, new: Path) -> None:
    """Rename a file, over another one if need be, also from one folder to another of the same disk.

    Raises:
        UnsafePath: a component of either path is a link.
        OSError: as rename(2).
    """
    with open_folder(old.parent) as here, open_folder(new.parent) as there:
        os.replace(here.place(old.name), there.place(new.name), src_dir_fd=here.descriptor, dst_dir_fd=there.descriptor)


def check_file(path: Path) -> os.stat_result | None:
    """Check a path that another library is about to open; the status of the file, None if there is none.

    Nothing is opened: closing any descriptor of a database drops the locks that this process holds on it
    (sqlite.org/howtocorrupt.html, 2.2).

    Raises:
        UnsafePath: a component of the path is a link, or it is no regular file.
        OSError: the path can't be followed.
    """
    status = find_status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise UnsafePath(path, _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
    return status


def find_status(path: Path) -> os.stat_result | None:
    """The status of what is at a path; None if there is nothing.

    Raises:
        UnsafePath: a component of the path is a link, or one before the last a special file.
        OSError: the path can't be followed.
    """
    path = path.absolute()
    place = Path(path.anchor)
    status: os.stat_result | None = None
    for part in path.parts[1:]:
        place /= part
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return None
        if _is_link(status):
            raise UnsafePath(place, _KINDS[stat.S_IFLNK])
        if place != path:
            _refuse_special(place, status)
    return status


def _refuse_special(path: Path, status: os.stat_result) -> None:
    """Raise UnsafePath for what is neither a file nor a folder."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UnsafePath(path, _KINDS.get(stat.S_IFMT(status.st_mode), "a special file"))


def _is_link(status: os.stat_result) -> bool:
    """Whether a status is that of a link, or of a junction of Windows, which isn't reported as one."""
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_reparse_tag", 0))


def open_without_links(path: str, flags: int, mode: int = PRIVATE_FILE) -> int:
    """open(2) of whatever is at a path without links; `open_file` also refuses what is no regular file."""
    flags |= _COMMON
    try:
        if (openat2 := find_openat2()) is not None:
            return openat2(-100, os.fsencode(path), flags, mode if flags & os.O_CREAT else 0, _NO_SYMLINKS)
        if _NOFOLLOW_ANY:
            return os.open(path, flags | _NOFOLLOW_ANY, mode)
        if BY_DESCRIPTOR:
            return _walk(path, flags, mode)
        find_status(Path(path))
        return os.open(path, flags, mode)
    except OSError as error:
        # A name that is no folder, in the middle or at the end, may be a link: which one is said by name.
        if isinstance(error, UnsafePath):
            raise
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST, errno.EMLINK):
            status = find_status(Path(path))
            if status is not None and error.errno == errno.ENOTDIR:
                _refuse_special(Path(path), status)
        elif error.errno in (errno.ENXIO, errno.EISDIR):  # a pipe without a reader, a socket; a folder
            check_file(Path(path))
        raise


def _walk(path: str, flags: int, mode: int) -> int:
    *folders, name = Path(path).absolute().parts[1:] or (".",)
    current = os.open("/", _SEARCH)
    try:
        for part in folders:
            following = os.open(part, _SEARCH, dir_fd=current)
            os.close(current)
            current = following
        return os.open(name, flags | _NOFOLLOW, mode, dir_fd=current)
    finally:
        os.close(current)


_OPENAT2 = 437
_OPEN_HOW = struct.Struct("QQQ")
_NO_SYMLINKS = 0x04 | 0x02
"""RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS, openat2(2)."""
BENEATH = 0x08 | _NO_SYMLINKS
"""RESOLVE_BENEATH too: no `..` and no absolute path leads out of the folder."""

OpenAt2 = Callable[[int, bytes, int, int, int], int]


@functools.cache
def find_openat2() -> OpenAt2 | None:
    """openat2(2): a function of folder, path, flags, mode and how to resolve; None without kernel support."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        return None
    import ctypes  # imported on first use, to start faster

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    call.restype = ctypes.c_long

    def openat2(folder: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        descriptor = call(_OPENAT2, folder, path, _OPEN_HOW.pack(flags, mode, resolve), _OPEN_HOW.size)
        if descriptor < 0:
            raise OSError(number := ctypes.get_errno(), os.strerror(number), os.fsdecode(path))
        return descriptor

    try:
        os.close(openat2(-100, b"/", _DIRECTORY, 0, _NO_SYMLINKS))
    except OSError:  # kernels before 5.6 lack it, and some seccomp profiles forbid it
        return None
    return openat2


# -- folders ----------------------------------------------------------------------------------------------------------


class OpenFolder:
    """A folder that is held open: what happens in it can't be redirected by a link that is swapped in above it.

    Args:
        path: its absolute path.
        descriptor: its descriptor; None where there are none.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self.descriptor = descriptor

    def place(self, name: str) -> str:
        """How an entry is named to the operating system, beside `descriptor`."""
        return name if self.descriptor is not None else str(self.path / name)

    def open_file(self, name: str, flags: int = READ, mode: int = PRIVATE_FILE) -> int:
        """Open a regular file of the folder, and return its descriptor; raises what the function of this name does."""
        try:
            descriptor = os.open(
                self.place(name),
                flags | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | _COMMON,
                mode,
                dir_fd=self.descriptor,
            )
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                self.check_file(name)
            raise
        return _check_regular(descriptor, self.path / name)

    def find_status(self, name: str) -> os.stat_result | None:
        """The status of an entry, of a link itself; None if there is none."""
        try:
            return os.stat(self.place(name), dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check_file(self, name: str) -> os.stat_result | None:
        """The status of a regular file; None if there is none.

        Raises:
            UnsafePath: it is something else.
        """
        status = self.find_status(name)
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise UnsafePath(self.path / name, _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
        return status

    def names(self) -> list[str]:
        """The names of its entries."""
        with os.scandir(self.path if self.descriptor is None else self.descriptor) as found:
            return [entry.name for entry in found]

    def make_folder(self, name: str, mode: int = PRIVATE_FOLDER) -> None:
        """Create a folder, durably, unless there is one."""
        try:
            os.mkdir(self.place(name), mode, dir_fd=self.descriptor)
        except FileExistsError:  # and if it isn't a folder, opening it says so
            return
        self.sync()

    def replace(self, old: str, new: str) -> None:
        """Rename an entry, over another one if need be."""
        os.replace(self.place(old), self.place(new), src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name, which must be free."""
        os.link(self.place(old), self.place(new), src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def delete_file(self, name: str) -> None:
        """Delete a file or a link, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.place(name), dir_fd=self.descriptor)

    def delete_folder(self, name: str) -> None:
        """Delete an empty folder."""
        os.rmdir(self.place(name), dir_fd=self.descriptor)

    def narrow(self, name: str, mode: int) -> bool | None:
        """Take permissions from an entry; whether that was possible, None if nothing had to be done."""
        status = self.find_status(name)
        if status is None or _is_link(status) or sys.platform == "win32" or not status.st_mode & 0o777 & ~mode:
            return None
        try:
            os.chmod(self.place(name), status.st_mode & mode, dir_fd=self.descriptor)
        except OSError:
            return False
        return True

    def sync(self) -> None:
        """Write the entries to disk, fsync(2); Windows does so by itself."""
        if self.descriptor is None:
            return
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # network file systems that can't sync folders
                raise


@contextmanager
def open_folder(path: Path | str, *, make: bool = False, mode: int = PRIVATE_FOLDER) -> Generator[OpenFolder]:
    """Hold a folder open.

    Args:
        path: its absolute path.
        make: create it, and those above it, where they are missing.
        mode: the permissions of folders that are created; the umask takes from them.

    Raises:
        UnsafePath: a component of the path is a link.
        OSError: there is no such folder, or it can't be opened or created.
    """
    folder = Path(path)
    if not BY_DESCRIPTOR:
        status = find_status(folder)
        if status is None and make:
            with open_folder(folder.parent, make=True, mode=mode) as above:
                above.make_folder(folder.name, mode)
        elif status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        elif not stat.S_ISDIR(status.st_mode):
            _refuse_special(folder, status)
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        yield OpenFolder(folder, None)
        return
    try:
        descriptor = open_without_links(str(folder), _DIRECTORY, 0)
    except FileNotFoundError:
        if not make:
            raise
        with open_folder(folder.parent, make=True, mode=mode) as above:
            above.make_folder(folder.name, mode)
        descriptor = open_without_links(str(folder), _DIRECTORY, 0)
    try:
        yield OpenFolder(folder, descriptor)
    finally:
        os.close(descriptor)


def list_entries(path: Path | str, *, is_checked: bool = False) -> list[os.DirEntry[str]]:
    """The entries of a folder, with their whole paths.

    Listed by path, because entries of a descriptor are useless once it is closed: a link above that is swapped in
    meanwhile shows other names, and opening one of them fails.

    Args:
        path: its absolute path.
        is_checked: whether the folder came from such a list, as no link; checking all above it again would take a time
            that grows with the square of the depth.

    Raises:
        UnsafePath: a component of the path is a link.
        OSError: there is no such folder, or it can't be listed.
    """
    with contextlib.nullcontext() if is_checked else open_folder(path), os.scandir(path) as found:
        return list(found)
