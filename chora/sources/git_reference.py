"""A file as a git commit has it: `ref:path`, such as `main:docs/safety.md`.

A repository may be hostile (CVE-2022-24765, CVE-2022-39253). Only plumbing commands run; what a config names goes to
git on stdin and never among its arguments (CWE-88); no configuration but the repository's own is read and none of it
runs a program; nothing is fetched, and a deadline ends it. A repository must hold its objects itself: one that borrows
them, by alternates or by links, could read every other repository on the disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import trio

from chora import this_process
from chora.errors import ChoraError
from chora.files import PATH_LIMIT, SOURCE_LIMIT, Folder
from chora.model import Source
from chora.nofollow import list_entries, read_file
from chora.sources.data_files import parse_text
from chora.sources.source import SourceAccess, SourceFailed

TYPE = "git_reference"
DESCRIPTION = "A file as a commit of a git repository in the project has it, parsed by its suffix."
LOCATOR = (
    "ref:path, such as HEAD:docs/safety.md or v1.2:CHANGELOG.md; the path is relative to the project, or to "
    "the folder that repo names. The short spelling has ref, file and repo."
)
LIMITS = "10 MB, 10 seconds; nothing is fetched, and the repository must hold its objects itself"

DEADLINE = 10.0
"""Seconds that one run of git may take."""
MEMORY_LIMIT = 1024 * 1024 * 1024
"""Bytes of memory that git may take: beside what it unpacks, up to a hundred million for what others refer to."""
STDERR_LIMIT = 4096
"""Bytes of git's error output that are read."""

_REF = re.compile(r"(?!-)(?!.*(?:\^\{/|@\{\D))[^\s\x00-\x20\x7f:?*\[\\]{1,250}")
"""What names a commit: no options, no searches through history, nothing that asks for the reflog by date."""
_BATCH_CHECK_LINE = re.compile(rb"([0-9a-f]{40,64}) (\w+) ([0-9]+)\n")
"""What `cat-file --batch-check` prints for a name that it can resolve; it repeats any other name."""


class Repository(NamedTuple):
    """A repository, and where in it the folder is that a config names."""

    git_folder: Path
    objects: Path
    """Where its objects are."""
    prefix: str
    """The folder's path from the top of the repository, with a slash at its end, or empty."""


class Blob(NamedTuple):
    """The blob of a commit at a path."""

    id: str
    size: int


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The file's content at that commit, parsed by its extension as an external file is.

    By the rules of chora-compose it is text, whatever its extension.

    Raises:
        SourceFailed: no repository, commit or file, or it is too large, not text, not what its extension says, or git
            took too long.
    """
    key = f"git:{source.repository}\0{source.locator}"
    try:
        repository = find_repository(access.folder, source.repository)
        blob = await find_blob(repository, source.locator)
    except SourceFailed:
        access.on_other_input(key, MISSING)
        raise
    access.on_other_input(key, blob.id)
    if blob.size > SOURCE_LIMIT:
        raise SourceFailed(f"{source.locator} is larger than {SOURCE_LIMIT:,} bytes")
    data = await _run_git(repository, ["cat-file", "blob", blob.id], b"")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceFailed(f"{source.locator} is not UTF-8 text") from None
    if access.rules == "chora-compose":
        return text
    return await parse_text(source.locator.partition(":")[2], text, access, source.delimiter)


MISSING = "missing"


async def identify(folder: Folder, key: str) -> str:
    """The current digest of what `fetch` recorded: the blob's id, or `MISSING`."""
    repository, _, locator = key.partition(":")[2].partition("\0")
    try:
        return (await find_blob(find_repository(folder, repository), locator)).id
    except SourceFailed:
        return MISSING


def find_repository(folder: Folder, path: str) -> Repository:
    """The repository that a folder of the project belongs to, looked for upward as git does.

    Raises:
        SourceFailed: there is none, or its objects are outside of it.
    """
    try:
        start = folder.resolve(path)
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    if not os.path.isdir(start):  # noqa: PTH112 (Path.is_dir raises for a name too long for any disk)
        raise SourceFailed(f"there is no folder {path}")
    if (start / "HEAD").is_file() and (start / "objects").is_dir():
        return _open_repository(start, "", path)
    for top in (start, *start.parents):
        link = top / ".git"
        if os.path.lexists(link):
            prefix = "" if top == start else f"{start.relative_to(top).as_posix()}/"
            return (
                _open_repository(link, prefix, path)
                if link.is_dir()
                else _open_linked_repository(folder, link, prefix, path)
            )
    raise SourceFailed(f"{path} is in no git repository")


def _open_repository(git_folder: Path, prefix: str, path: str, common: Path | None = None) -> Repository:
    """A git folder that keeps its objects itself, or in the `common` one that it belongs to."""
    shared = _read_first_line(git_folder / "commondir")
    if git_folder.is_symlink() or (
        shared is not None and (common is None or not _is_same_path(git_folder / shared, common))
    ):
        raise _repository_elsewhere(path)
    objects = (common or git_folder) / "objects"
    if os.path.lexists(objects / "info" / "alternates") or _has_links(objects):
        raise SourceFailed(f"the repository of {path} borrows objects from another one, which isn't followed")
    return Repository(git_folder, objects, prefix)


def _open_linked_repository(folder: Folder, link: Path, prefix: str, path: str) -> Repository:
    """The repository of a worktree or a submodule, whose git folder a file names.

    That one is somewhere in the project, or knows of the worktree or submodule: else any project could read any
    repository.
    """
    words = None if link.is_symlink() else _read_first_line(link)
    if words is None or not words.startswith("gitdir:"):
        raise _repository_elsewhere(path)
    target = Path(os.path.realpath(link.parent / words.removeprefix("gitdir:").strip()))
    if folder.root not in target.parents:
        back = _read_first_line(target / "gitdir")
        is_known = back is not None and _is_same_path(target / back, link)
        if not is_known and not _is_submodule(target, link.parent):
            raise _repository_elsewhere(path)
    is_worktree = _read_first_line(target / "commondir") is not None
    return _open_repository(target, prefix, path, target.parent.parent if is_worktree else None)


_WORKTREE = re.compile(
    r"^\[core\]$(?:\n(?!\[).*)*?\n[ \t]*worktree[ \t]*=[ \t]*([^\n\"#;]+)$", re.MULTILINE | re.IGNORECASE
)
"""Where the configuration of a submodule's git folder says that its files are."""


def _is_submodule(git_folder: Path, folder: Path) -> bool:
    """Whether a git folder is that of a submodule whose files are in a folder, as git itself sets it up."""
    try:
        found = _WORKTREE.search(read_file(git_folder / "config", 65536).decode())
    except (OSError, ValueError):
        return False
    return found is not None and _is_same_path(git_folder / found[1].strip(), folder)


def _repository_elsewhere(path: str) -> SourceFailed:
    return SourceFailed(f"the repository of {path} is kept elsewhere, and doesn't know of this folder")


def _is_same_path(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _read_first_line(file: Path) -> str | None:
    """The first line of a small file; None if there is no such file, or none that is text."""
    try:
        return read_file(file, 4096).decode().partition("\n")[0].strip()
    except (OSError, ValueError):
        return None


def _has_links(objects: Path) -> bool:
    """Whether anything that holds objects is a link; single objects are checked when they are read."""
    if objects.is_symlink():
        return True
    for folder in (objects, objects / "pack"):
        try:
            if any(entry.is_symlink() for entry in list_entries(folder)):
                return True
        except FileNotFoundError:
            continue
        except OSError:  # it can't be listed, and git could still go through it
            return True
    return False


async def find_blob(repository: Repository, locator: str) -> Blob:
    """The blob that `ref:path` names; only paths inside the named folder count.

    Raises:
        SourceFailed: there is none.
    """
    ref, colon, path = locator.partition(":")
    if not colon or not path or not _REF.fullmatch(ref):
        shown = locator if len(locator) <= 300 else f"{locator[:299]}…"
        raise SourceFailed(f"{shown!r} is not of the form ref:path, such as HEAD:README.md")
    if len(path) > PATH_LIMIT:
        raise SourceFailed(f"{path[:80]!r}… has more than {PATH_LIMIT:,} characters")
    if any(letter < " " or letter == "\x7f" for letter in path) or ".." in PurePosixPath(path).parts:
        raise SourceFailed(f"{path!r} is not a path inside the repository")
    inside = path.removeprefix("./")
    wanted = inside if inside.startswith(repository.prefix) else repository.prefix + inside
    answer = _BATCH_CHECK_LINE.fullmatch(
        await _run_git(repository, ["cat-file", "--batch-check"], f"{ref}:{wanted}\n".encode())
    )
    if answer is None:
        raise SourceFailed(f"there is no {locator} in the repository")
    identity, kind, size = (part.decode() for part in answer.groups())
    if kind != "blob":
        raise SourceFailed(f"{locator} is a folder")
    if (repository.objects / identity[:2] / identity[2:]).is_symlink():
        raise SourceFailed(f"{locator} is a link into another repository, which isn't followed")
    return Blob(identity, int(size))


async def _run_git(repository: Repository, arguments: list[str], given: bytes) -> bytes:
    environment = {
        **{name: value for name, value in this_process.child_environment().items() if name in ("PATH", "SYSTEMROOT")},
        "GIT_DIR": str(repository.git_folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "",
        "LC_ALL": "C",
    }
    try:
        with trio.fail_after(DEADLINE):
            done = await _run_process(["git", "-c", "core.multiPackIndex=false", *arguments], environment, given)
    except trio.TooSlowError:
        raise SourceFailed(f"git took longer than {DEADLINE:g} s") from None
    except FileNotFoundError:
        raise SourceFailed("git is not installed") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceFailed(f"git can't be run: {error}") from None
    if len(done.output) > SOURCE_LIMIT:
        raise SourceFailed(f"git gave more than {SOURCE_LIMIT:,} bytes; the repository may be damaged")
    if done.status:
        complaint = done.complaint.decode(errors="replace").strip().partition("\n")[0][:200]
        raise SourceFailed(f"git failed: {complaint or f'exit status {done.status}'}")
    return bytes(done.output)


class _CompletedGit(NamedTuple):
    """What a program wrote, no more than a source may have, and its exit status."""

    output: bytearray
    complaint: bytearray
    status: int


async def _run_process(command: list[str], environment: dict[str, str], given: bytes) -> _CompletedGit:
    """Run a program to its end, or until it exceeds the output limit: an object may be larger than its header says."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    _limit_resources(process.pid)
    output, complaint = bytearray(), bytearray()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed_stdin, process.stdin, given)
            nursery.start_soon(_read_limited, process.stdout, output, SOURCE_LIMIT)
            nursery.start_soon(_read_limited, process.stderr, complaint, STDERR_LIMIT)
        return _CompletedGit(output, complaint, await process.wait())
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            for pipe in (process.stdin, process.stdout, process.stderr):
                await pipe.aclose()
            await process.wait()


def _limit_resources(process: int) -> None:
    """Bound what a repository made to be large can cost, where the kernel lets a parent do so.

    Memory is what a process has to itself: packs are mapped, and those of a good repository may be larger than that.
    """
    if sys.platform != "linux":
        return
    import resource

    for which, most in ((resource.RLIMIT_DATA, MEMORY_LIMIT), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # it has ended already, or is bounded further
            resource.prlimit(process, which, (most, most))


async def _feed_stdin(pipe: trio.abc.SendStream, data: bytes) -> None:
    async with pipe:
        with contextlib.suppress(trio.BrokenResourceError):  # it ended without reading
            await pipe.send_all(data)


async def _read_limited(pipe: trio.abc.ReceiveStream, into: bytearray, limit: int) -> None:
    """Read to the end, or to one piece beyond the limit; closing the pipe then ends the writer."""
    async with pipe:
        while len(into) <= limit and (piece := await pipe.receive_some(65536)):
            into += piece
