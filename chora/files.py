"""Reading and writing beneath a root folder that no path can leave (CWE-22, path traversal).

Where the kernel supports it, it opens beneath the folder: openat2(2) with RESOLVE_BENEATH on Linux. Otherwise, for a
path through a link, and to explain errors, a path is resolved (so that links inside the folder work), checked to lie
beneath the root, and then opened without following links (`chora.nofollow`): a link swapped in between (CWE-59,
CWE-367) fails instead of leading out.
Writes go to a temporary file beside the target, which is synced and renamed over it, and the folder is synced: readers
see the old file or the new one, and what `write_file` acknowledged survives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import trio

from chora import nofollow
from chora.disk import check_free_space
from chora.errors import LimitExceeded, PermissionDenied, hide_folder
from chora.nofollow import CREATE, READ, OpenFolder, UnsafePath, list_entries, open_folder
from chora.path_rules import WriteRules, check_readable, relative_names
from chora.project import locate, secret_files
from chora.settings import Settings
from chora.wording import printable

CONFIG_LIMIT = 1024 * 1024
SOURCE_LIMIT = 10_000_000
FILES_LIMIT = 100_000
PATH_LIMIT = 4096
"""Maximum length of a path, PATH_MAX of Linux; walking component by component would allow longer ones."""
DEPTH_LIMIT = 100
"""Maximum depth of folders below the root that a write may create or pass."""
ENTRIES_LIMIT = 1000
"""Maximum number of entries of a folder that are looked at for other disks."""

CONFIG_ROOTS = ("configs", "chora-configs")
"""Where configs are unless the setting `paths.configs` names a folder."""
NEW_FOLDER = 0o777
"""The permissions of new folders for outputs and configs, before the umask."""


class Folder:
    """A folder that no path can leave: neither by `..`, nor as an absolute path, nor through a link.

    Args:
        root: the folder; it must exist.
        writable: sub-folders that `write` may write beneath, relative to `root`; `.` is all of it.
        rules: what may not be written even there; None where the caller's own code names every file.
        secret_files: files that hold secrets, absolute, besides those that are known by their names.
    """

    def __init__(
        self,
        root: Path,
        writable: tuple[str, ...] = (".",),
        *,
        rules: WriteRules | None = None,
        secret_files: Iterable[Path] = (),
    ) -> None:
        self.root = root.resolve(strict=True)
        hide_folder(self.root)
        self._prefix = f"{str(self.root).rstrip('/')}/"
        self._writable = writable
        self._rules = rules
        self._secret_files = relative_names(self.root, secret_files)
        self._cleaned: set[Path] = set()
        """The folders in which temporary files of killed processes were already deleted."""
        self._full: set[Path] = set()
        """The folders in which something couldn't be written because the disk was full."""

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
            PermissionDenied: outside the folder, unreadable, not a regular file, or not to be read as text.
            LimitExceeded: larger than `limit`.
            OSError: the disk failed.
        """
        shown = printable(str(path))
        if (descriptor := self._open_beneath(str(path))) is None:
            descriptor = self._open_checked(path, shown)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PermissionDenied(f"{shown} is not a regular file.", path=shown)
            parts: list[bytes] = []
            # A file may grow while it is read, so the bytes read are counted too; one that is too large isn't read.
            left = 0 if status.st_size > limit else limit + 1
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
        check_readable(self._shown(real), self._secret_files)
        try:
            return nofollow.open_file(real)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, "No such file", shown) from None
        except UnsafePath as error:
            raise PermissionDenied(f"{shown} is not a regular file: it is {error.kind}.", path=shown) from None
        except OSError as error:
            raise PermissionDenied(f"{shown} can't be read: {error.strerror}.", path=shown) from None

    def _open_beneath(self, text: str) -> int | None:
        """Open a path for reading with openat2(2), which refuses to leave the folder and to follow links.

        None if that fails: `_open_checked` then tries again, or raises a specific error.

        Raises:
            FileNotFoundError: there is certainly no such file.
        """
        if (openat2 := nofollow.find_openat2()) is None or "\0" in text or len(text) > PATH_LIMIT:
            return None
        inside = text.removeprefix(self._prefix)
        if ".." in inside:
            return None
        check_readable(inside, self._secret_files)  # with neither `..` nor links, it is the real path
        try:
            with open_folder(self.root) as root:
                assert root.descriptor is not None
                path = os.fsencode(inside)
                return openat2(root.descriptor, path, READ, 0, nofollow.BENEATH)
        except FileNotFoundError:
            # Without `..` this is certain, and trying again would take twice as long.
            if text:
                raise FileNotFoundError(errno.ENOENT, "No such file", printable(text)) from None
            return None
        except (OSError, UnicodeEncodeError):
            return None

    def read_text(self, path: str | Path, *, limit: int = SOURCE_LIMIT) -> str:
        """Read a UTF-8 file; raises UnicodeDecodeError besides what `read_bytes` raises."""
        return self.read_bytes(path, limit=limit).decode("utf-8-sig")

    def list_files(
        self, path: str | Path, suffixes: tuple[str, ...], on_folder: Callable[[str], None] | None = None
    ) -> list[str]:
        """The regular files beneath a sub-folder with one of the suffixes, project-relative and sorted.

        A missing sub-folder has none. Links to folders are not followed, hidden folders not entered, and names that
        aren't valid Unicode left out, because no caller could name them. `on_folder` is called with every folder before
        it is listed.
        """
        try:
            start = self.resolve(path)
        except PermissionDenied:
            return []
        return sorted(self._walk(start, suffixes, on_folder))

    def _walk(self, start: Path, suffixes: tuple[str, ...], on_folder: Callable[[str], None] | None) -> Iterator[str]:
        seen = 0
        waiting = [str(start)]
        while waiting:
            current = waiting.pop()
            if on_folder is not None:
                on_folder(current)
            try:
                entries = nofollow.list_entries(current, is_checked=True)
            except OSError:  # gone, not a folder, or not accessible
                continue
            for entry in entries:
                if (seen := seen + 1) > FILES_LIMIT:
                    raise LimitExceeded(f"{self._shown(start)} holds more than {FILES_LIMIT:,} files.", limit="files")
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
            PermissionDenied: outside the folder or outside its writable parts, too deep in it, or against the rules.
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
        if self._rules is not None:
            self._rules.check(self._shown(real), lambda name: os.path.lexists(self.root / name))
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
        try:
            await trio.to_thread.run_sync(self._write, real, data)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._full.add(real.parent)
            raise

    def check_space(self) -> None:
        """Look for full disks among those that may be written; it may take long if one of them doesn't answer.

        Those are the disks of the writable folders, of the folders directly in them, and those where a write failed.

        Raises:
            StorageError: one is full.
        """
        places: dict[int, Path] = {}
        for writable in self._writable:
            folder = Path(os.path.realpath(self.root / writable))
            with contextlib.suppress(OSError):
                places.setdefault(folder.stat().st_dev, folder)
                for entry in list_entries(folder)[:ENTRIES_LIMIT]:
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        places.setdefault(entry.stat(follow_symlinks=False).st_dev, Path(entry.path))
        for folder in places.values():
            check_free_space(folder)
        for folder in list(self._full):
            if folder.exists():
                check_free_space(folder)
            self._full.discard(folder)

    def _write(self, real: Path, data: bytes) -> None:
        with open_folder(real.parent, make=True, mode=NEW_FOLDER) as folder:
            if real.parent not in self._cleaned:
                self._cleaned.add(real.parent)
                delete_leftovers(folder)
            name, old_mode = real.name, None
            if (status := folder.find_status(name)) is not None:
                if not stat.S_ISREG(status.st_mode):
                    raise PermissionDenied(
                        f"{self._shown(real)} exists and is not a regular file.", path=self._shown(real)
                    )
                old_mode = stat.S_IMODE(status.st_mode)
            temporary = _temporary_name(name)
            mode = 0o666 if old_mode is None else old_mode
            descriptor = folder.open_file(temporary, CREATE, mode)
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
                folder.replace(temporary, name)
            except BaseException:
                with contextlib.suppress(OSError):
                    folder.delete_file(temporary)
                raise
            folder.sync()

    def _shown(self, real: Path) -> str:
        """A path in a message: relative to the project, so that clients don't learn where that is (CWE-209)."""
        return printable(real.relative_to(self.root).as_posix())


def _is_real_folder(folder: os.DirEntry[str]) -> bool:
    """Whether a folder still exists and isn't a junction, which on Windows isn't reported as a link."""
    try:
        return not getattr(folder.stat(follow_symlinks=False), "st_reparse_tag", 0)
    except OSError:
        return False


def _restore_mode(descriptor: int, mode: int) -> None:
    """Restore the permissions that the umask removed; where that fails, the file stays stricter."""
    if os.chmod in os.supports_fd and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        with contextlib.suppress(PermissionError):
            os.chmod(descriptor, mode)


_LEFTOVER = re.compile(r"\..{1,40}\.[0-9a-f]{12}\.tmp", re.DOTALL)
_LEFTOVER_AGE = 3600.0
"""Seconds after which a temporary file is no longer being written."""


def delete_leftovers(folder: OpenFolder, form: re.Pattern[str] = _LEFTOVER) -> None:
    """Delete temporary files of processes that were killed before they renamed them.

    Only certain ones are deleted: by name, regular files of our own user, unchanged for an hour.
    """
    with contextlib.suppress(OSError):
        for name in folder.names():
            if not form.fullmatch(name):
                continue
            with contextlib.suppress(OSError):
                status = folder.find_status(name)
                if status is None or not stat.S_ISREG(status.st_mode):
                    continue
                is_ours = sys.platform == "win32" or status.st_uid == os.geteuid()
                if is_ours and time.time() - status.st_mtime > _LEFTOVER_AGE:
                    folder.delete_file(name)


def _temporary_name(name: str) -> str:
    """A name for a temporary file: beside the target, hidden, unguessable (CWE-377), and short enough for any disk."""
    path = PurePosixPath(name.replace("\\", "/"))
    return str(path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp"))  # NAME_MAX is 255 bytes


def open_project_folder(project: Path, settings: Settings, *, for_configs: bool = False) -> Folder:
    """The folder of a project with the rules of its settings, for its outputs or for its configs and templates."""
    plugins = (*settings.plugins.generators, *settings.plugins.composers)
    modules = [each.replace(".", "/") for each in plugins if not each.endswith(".py")]
    root = project.resolve()
    loaded = [root / each for each in plugins if each.endswith(".py")]
    loaded += [root / f"{module}{ending}" for module in modules for ending in (".py", "/__init__.py")]
    if not for_configs:
        roots = (settings.paths.configs,) if settings.paths.configs else CONFIG_ROOTS
        loaded += [root / each for each in (*roots, *settings.paths.templates)]
    database = locate(project, settings.storage.path)
    kept = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
    kept += [locate(project, each) for each in (settings.storage.folder, settings.backup.folder, settings.paths.events)]
    rules = WriteRules(
        relative_names(root, kept),
        relative_names(root, (Path(os.path.normpath(each)) for each in loaded)),
        settings.paths.allow,
    )
    writable = (".",) if for_configs else settings.paths.outputs
    return Folder(project, writable, rules=rules, secret_files=secret_files(project, settings))
