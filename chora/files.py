"""Reading and writing beneath a root folder that no path can leave (CWE-22, path traversal).

Where the kernel supports it, it opens beneath the folder: openat2(2) with RESOLVE_BENEATH on Linux. Otherwise, and to
explain errors, a path is resolved (so that links inside the folder work), checked to lie beneath the root, and then
walked again component by component without following links: a link swapped in between (CWE-59, CWE-367) fails instead
of leading out.
Writes go to a temporary file beside the target, which is synced and renamed over it, and the folder is synced: readers
see the old file or the new one, and what `write_file` acknowledged survives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import stat
import struct
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath

import trio

from chora.errors import LimitExceeded, PermissionDenied
from chora.wording import printable

CONFIG_LIMIT = 1024 * 1024
SOURCE_LIMIT = 10_000_000
FILES_LIMIT = 100_000
PATH_LIMIT = 4096
"""Maximum length of a path, PATH_MAX of Linux; walking component by component would allow longer ones."""
DEPTH_LIMIT = 100
"""Maximum depth of folders below the root that a write may create or pass."""

# Windows opens neither folders nor files relative to a descriptor; there the checked path is used as it is.
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class Folder:
    """A folder that no path can leave: neither by `..`, nor as an absolute path, nor through a link.

    Args:
        root: the folder; it must exist.
        writable: sub-folders that `write` may write beneath, relative to `root`; `.` is all of it.
    """

    def __init__(self, root: Path, writable: tuple[str, ...] = (".",)) -> None:
        self.root = root.resolve(strict=True)
        self._prefix = f"{str(self.root).rstrip('/')}/"
        self._writable = writable
        self._cleaned: set[Path] = set()
        """The folders in which temporary files of killed processes were already deleted."""

    def resolve(self, path: str | Path) -> Path:
        """Resolve a path to a real, absolute one.

        Raises:
            PermissionDenied: it lies outside the folder, or isn't a valid path.
        """
        text = str(path)
        if not text or "\0" in text:
            raise PermissionDenied("A path is empty or holds a NUL character.", path=printable(text))
        if len(text) > PATH_LIMIT:
            raise PermissionDenied(
                f"A path has {len(text):,} characters; {PATH_LIMIT:,} are allowed.", path=f"{printable(text[:80])}…"
            )
        if (plain := self._resolve_plain(text)) is not None:
            return plain
        try:
            real = Path(os.path.realpath(self.root / text))
        except (OSError, ValueError) as error:
            raise PermissionDenied(f"The path {text!r} can't be resolved: {error}.", path=printable(text)) from None
        if real != self.root and self.root not in real.parents:
            raise PermissionDenied(
                f"The path {text!r} leads outside the project.",
                "Use a path inside the project folder, relative to it.",
                path=printable(text),
            )
        return real

    def _resolve_plain(self, text: str) -> Path | None:
        """Resolve a relative path without `..` and links; None for any other.

        Most paths are such, and checking only components below the root takes a third of the time.
        """
        if os.sep != "/" or text[0] == "/":
            return None
        place = self._prefix
        for part in text.split("/"):
            if part in ("", ".", ".."):
                return None
            place += part
            try:
                if stat.S_ISLNK(os.lstat(place).st_mode):
                    return None
            except (FileNotFoundError, NotADirectoryError):
                pass  # neither it nor anything below it exists, so there is no link
            except (OSError, ValueError):
                return None
            place += "/"
        return Path(place[:-1])

    def relative(self, path: str | Path) -> str:
        """`path` as a project-relative path with forward slashes, its links resolved."""
        return self.resolve(path).relative_to(self.root).as_posix()

    def is_file(self, path: str | Path) -> bool:
        """Whether a regular file exists at a path; False outside the folder."""
        try:
            return stat.S_ISREG(self.resolve(path).stat().st_mode)
        except (OSError, PermissionDenied):
            return False

    def modified_time(self, path: str | Path) -> float:
        """The modification time of a file, in seconds since 1970; 0 for one that doesn't exist."""
        try:
            return self.resolve(path).stat().st_mtime
        except (OSError, PermissionDenied):
            return 0.0

    def read_bytes(self, path: str | Path, *, limit: int = SOURCE_LIMIT) -> bytes:
        """Read a regular file.

        Args:
            path: relative to the folder, or absolute inside it.
            limit: the most bytes to read (CWE-770).

        Raises:
            FileNotFoundError: no file exists.
            PermissionDenied: outside the folder, unreadable, or not a regular file.
            LimitExceeded: larger than `limit`.
            OSError: the disk failed.
        """
        shown = printable(str(path))
        if (descriptor := self._open_beneath(str(path), _READ)) is None:
            descriptor = self._open_checked(path, shown)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PermissionDenied(f"{shown} is not a regular file.", path=shown)
            parts: list[bytes] = []
            # A file may grow while it is read, so the bytes read are counted, not the size in its status.
            left = limit + 1
            while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
            if left <= 0:
                raise LimitExceeded(f"{shown} is larger than {limit:,} bytes.", limit="source", path=shown, bytes=limit)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def _open_checked(self, path: str | Path, shown: str) -> int:
        real = self.resolve(path)
        try:
            with self._open_parent(real) as (parent, name):
                return os.open(name, _READ | _NOFOLLOW, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, "No such file", shown) from None
        except OSError as error:
            raise PermissionDenied(f"{shown} can't be read: {error.strerror}.", path=shown) from None

    def _open_beneath(self, text: str, flags: int) -> int | None:
        """Open a path with openat2(2), which refuses to leave the folder.

        None if that fails: `_open_checked` then tries again, or raises a specific error.

        Raises:
            FileNotFoundError: there is certainly no such file.
        """
        if (open_beneath := _find_openat2()) is None or "\0" in text or len(text) > PATH_LIMIT:
            return None
        try:
            root = os.open(self.root, _DIRECTORY)
            try:
                return open_beneath(root, os.fsencode(text.removeprefix(self._prefix)), flags)
            finally:
                os.close(root)
        except FileNotFoundError:
            # Without `..` this is certain, and trying again would take twice as long.
            if text and ".." not in text and flags == _READ:
                raise FileNotFoundError(errno.ENOENT, "No such file", printable(text)) from None
            return None
        except (OSError, UnicodeEncodeError):
            return None

    def read_text(self, path: str | Path, *, limit: int = SOURCE_LIMIT) -> str:
        """Read a UTF-8 file; raises UnicodeDecodeError besides what `read_bytes` raises."""
        return self.read_bytes(path, limit=limit).decode("utf-8-sig")

    def list_files(self, path: str | Path, suffixes: tuple[str, ...]) -> list[str]:
        """The regular files beneath a sub-folder with one of the suffixes, project-relative and sorted.

        A missing sub-folder has none. Links to folders are not followed, hidden folders not entered, and names that
        aren't valid Unicode left out, because no caller could name them.
        """
        try:
            start = self.resolve(path)
        except PermissionDenied:
            return []
        return sorted(self._walk(start, suffixes))

    def _walk(self, start: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
        seen = 0
        waiting = [str(start)]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as found:
                    entries = list(found)
            except OSError:  # gone, not a folder, or not accessible
                continue
            for entry in entries:
                if (seen := seen + 1) > FILES_LIMIT:
                    raise LimitExceeded(f"{start} holds more than {FILES_LIMIT:,} files.", limit="files")
                if printable(entry.name) != entry.name:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and _is_real_folder(entry):
                        waiting.append(entry.path)
                # No link led here, so only an entry that is a link itself can lead outside.
                elif entry.name.endswith(suffixes) and (
                    self.is_file(entry.path) if entry.is_symlink() else entry.is_file()
                ):
                    # It lies below the root; Path.relative_to would take longer than all the rest.
                    yield entry.path[len(self._prefix) :].replace(os.sep, "/")

    def check_writable(self, path: str | Path) -> Path:
        """Resolve the path of a write.

        Raises:
            PermissionDenied: outside the folder or outside its writable parts, or too deep in it.
        """
        real = self.resolve(path)
        if not any(Path(os.path.realpath(self.root / part)) in real.parents for part in self._writable):
            shown = printable(str(path))
            raise PermissionDenied(
                f"{shown} is outside the folders that outputs may be written to.",
                "The setting paths.outputs lists them.",
                path=shown,
            )
        if len(real.relative_to(self.root).parts) > DEPTH_LIMIT:
            shown = printable(str(path)[:80])
            raise PermissionDenied(f"{shown}… lies more than {DEPTH_LIMIT} folders deep.", path=f"{shown}…")
        return real

    async def write_file(self, path: str | Path, data: bytes) -> None:
        """Write a file atomically: temporary file, fsync, rename, fsync of the folder.

        Missing folders are created. An existing file keeps its permissions. Once begun, the write isn't cancelled.

        Raises:
            PermissionDenied: outside the folder or its writable parts, or the target is not a regular file.
            OSError: the disk is full, read-only or broken; the old file is unchanged, unless only the last sync failed.
        """
        real = self.check_writable(path)
        # Not abandoned on cancellation: a cancelled caller waits the few milliseconds it takes.
        await trio.to_thread.run_sync(self._write, real, data)

    def _write(self, real: Path, data: bytes) -> None:
        with self._open_parent(real, make=True) as (parent, name):
            if real.parent not in self._cleaned:
                self._cleaned.add(real.parent)
                delete_leftovers(real.parent if parent is None else parent)
            old_mode: int | None = None
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise PermissionDenied(f"{real} exists and is not a regular file.", path=str(real))
                old_mode = stat.S_IMODE(status.st_mode)
            temporary = _temporary_name(name)
            mode = 0o666 if old_mode is None else old_mode
            descriptor = os.open(temporary, _CREATE | _NOFOLLOW, mode, dir_fd=parent)
            try:
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(descriptor, view) :]
                    if old_mode is not None:
                        _restore_mode(descriptor, old_mode)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            if parent is not None:
                _sync_folder(parent)

    @contextlib.contextmanager
    def _open_parent(self, real: Path, *, make: bool = False) -> Generator[tuple[int | None, str]]:
        """Open the parent folder of `real`, component by component from the root, following no link (CWE-59).

        With `make`, missing folders are created. Yields the descriptor and the last name; without descriptor support,
        None and the whole path.
        """
        if not _BY_DESCRIPTOR:
            if make:
                os.makedirs(real.parent, exist_ok=True)
            yield None, str(real)
            return
        *folders, name = real.relative_to(self.root).parts or (".",)
        # The path was resolved, so a link on the way was swapped in since (CWE-367).
        opened = self._open_beneath("/".join(folders), _DIRECTORY | _NOFOLLOW) if make and folders else None
        if opened is not None:
            folders = []
        current = os.open(self.root, _DIRECTORY) if opened is None else opened
        try:
            for part in folders:
                if make:
                    _make_folder(part, current)
                following = os.open(part, _DIRECTORY | _NOFOLLOW, dir_fd=current)
                os.close(current)
                current = following
            yield current, name
        finally:
            os.close(current)


_OPENAT2 = 437
_OPEN_HOW = struct.Struct("QQQ")
_RESOLVE_FLAGS = 0x08 | 0x02
"""RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, openat2(2): no `..`, absolute link or /proc link leads outside."""


@functools.cache
def _find_openat2() -> Callable[[int, bytes, int], int] | None:
    """A function that opens a path beneath a folder, by descriptor, path and flags; None without kernel support."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        return None
    import ctypes  # imported on first use, to start faster

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    call.restype = ctypes.c_long

    def open_beneath(folder: int, path: bytes, flags: int) -> int:
        descriptor = call(_OPENAT2, folder, path, _OPEN_HOW.pack(flags, 0, _RESOLVE_FLAGS), _OPEN_HOW.size)
        if descriptor < 0:
            raise OSError(number := ctypes.get_errno(), os.strerror(number))
        return descriptor

    root = os.open("/", _DIRECTORY)
    try:
        os.close(open_beneath(root, b".", _DIRECTORY))
    except OSError:  # kernels before 5.6 lack it, and some seccomp profiles forbid it
        return None
    finally:
        os.close(root)
    return open_beneath


def _is_real_folder(folder: os.DirEntry[str]) -> bool:
    """Whether a folder still exists and isn't a junction, which on Windows isn't reported as a link."""
    try:
        return not getattr(folder.stat(follow_symlinks=False), "st_reparse_tag", 0)
    except OSError:
        return False


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:  # and if it isn't a folder, opening it says so
        return
    _sync_folder(parent)


def _sync_folder(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems that can't sync folders
            raise


def _restore_mode(descriptor: int, mode: int) -> None:
    """Restore the permissions that the umask removed; where that fails, the file stays stricter."""
    if os.chmod in os.supports_fd and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        with contextlib.suppress(PermissionError):
            os.chmod(descriptor, mode)


_LEFTOVER = re.compile(r"\..{1,40}\.[0-9a-f]{12}\.tmp", re.DOTALL)
_LEFTOVER_AGE = 3600.0
"""Seconds after which a temporary file is no longer being written."""


def delete_leftovers(folder: int | Path, form: re.Pattern[str] = _LEFTOVER) -> None:
    """Delete temporary files of processes that were killed before they renamed them.

    Only certain ones are deleted: by name, regular files of our own user, unchanged for an hour.
    """
    at = {"dir_fd": folder} if isinstance(folder, int) else {}
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if not form.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                is_ours = sys.platform == "win32" or status.st_uid == os.geteuid()
                if is_ours and stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _LEFTOVER_AGE:
                    os.unlink(entry.name if at else entry.path, **at)


def _temporary_name(name: str) -> str:
    """A name for a temporary file: beside the target, hidden, unguessable (CWE-377), and short enough for any disk."""
    path = PurePosixPath(name.replace("\\", "/"))
    return str(path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp"))  # NAME_MAX is 255 bytes
