"""A file as a git commit has it: `ref:path`, such as `main:docs/safety.md`.

A repository comes from strangers as often as not. Only plumbing is run, what a config names goes to git on stdin
and never among its arguments, no configuration but the repository's own is read and none of it runs a program,
nothing is fetched, and a deadline ends it.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import trio

from chora import config
from chora.errors import ChoraError
from chora.files import SOURCE_LIMIT, Folder
from chora.model import Source
from chora.sources.source import Reach, SourceFailed

TYPE = "git_reference"

DEADLINE = 10.0
"""Seconds that one run of git may take."""

_REF = re.compile(r"(?!-)(?!.*(?:\^\{/|@\{\D))[\w./@{}^~+=-]{1,250}", re.ASCII)
"""What names a commit: no options, no searches through history, nothing that asks for the reflog by date."""


class Repository(NamedTuple):
    """A repository, and where the folder that a config meant stands in it."""

    git_folder: Path
    prefix: str
    """The folder's path from the top of the repository, with a slash at its end, or empty."""


class Blob(NamedTuple):
    """What a commit holds at a path."""

    id: str
    size: int


async def fetch(source: Source, reach: Reach) -> Any:
    """The file's text at that commit.

    Raises:
        SourceFailed: no repository, commit or file, or it is too large, not text, or git took too long.
    """
    key = f"git:{source.repository}\0{source.locator}"
    try:
        repository = find_repository(reach.folder, source.repository)
        blob = await find_blob(repository, source.locator)
    except SourceFailed:
        reach.noting_other(key, MISSING)
        raise
    reach.noting_other(key, blob.id)
    if blob.size > SOURCE_LIMIT:
        raise SourceFailed(f"{source.locator} is larger than {SOURCE_LIMIT:,} bytes")
    data = await _git(repository, ["cat-file", "blob", blob.id], b"")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceFailed(f"{source.locator} is not UTF-8 text") from None


MISSING = "missing"


async def identify(folder: Folder, key: str) -> str:
    """What `fetch` noted for a source, as it is now: the blob's id, or `MISSING`."""
    repository, _, locator = key.partition(":")[2].partition("\0")
    try:
        return (await find_blob(find_repository(folder, repository), locator)).id
    except SourceFailed:
        return MISSING


def find_repository(folder: Folder, path: str) -> Repository:
    """The repository that a folder of the project belongs to, looked for upward as git does.

    Raises:
        SourceFailed: there is none, or it keeps its objects where the project has no business.
    """
    try:
        start = folder.resolve(path)
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    if not start.is_dir():
        raise SourceFailed(f"there is no folder {path}")
    if (start / "HEAD").is_file() and (start / "objects").is_dir():
        return _trusted(start, "", path)
    for top in (start, *start.parents):
        link = top / ".git"
        if link.is_dir() and not link.is_symlink():
            prefix = start.relative_to(top).as_posix()
            return _trusted(link, "" if prefix == "." else f"{prefix}/", path)
        if link.is_file():
            prefix = start.relative_to(top).as_posix()
            return _trusted(_linked(link, path), "" if prefix == "." else f"{prefix}/", path)
    raise SourceFailed(f"{path} is in no git repository")


def _linked(link: Path, path: str) -> Path:
    """The git folder of a worktree: only one that names the worktree itself, or any project could read any other."""
    try:
        words = link.read_text("utf-8")[:4096]
        target = Path(os.path.realpath(link.parent / words.removeprefix("gitdir:").strip()))
        back = Path((target / "gitdir").read_text("utf-8")[:4096].strip())
    except (OSError, ValueError):
        raise SourceFailed(f"the repository of {path} is kept elsewhere, and doesn't know of this folder") from None
    if os.path.realpath(target / back) != os.path.realpath(link):
        raise SourceFailed(f"the repository of {path} is kept elsewhere, and doesn't know of this folder")
    return target


def _trusted(git_folder: Path, prefix: str, path: str) -> Repository:
    alternates = git_folder / "objects" / "info" / "alternates"
    if alternates.exists():
        raise SourceFailed(f"the repository of {path} borrows objects from another one, which isn't followed")
    return Repository(git_folder, prefix)


async def find_blob(repository: Repository, locator: str) -> Blob:
    """The blob that `ref:path` names; only paths inside the folder that was meant count.

    Raises:
        SourceFailed: there is none.
    """
    ref, colon, path = locator.partition(":")
    if not colon or not path or not _REF.fullmatch(ref):
        raise SourceFailed(f"{locator!r} is not of the form ref:path, such as HEAD:README.md")
    if any(letter < " " or letter == "\x7f" for letter in path) or ".." in PurePosixPath(path).parts:
        raise SourceFailed(f"{path!r} is not a path inside the repository")
    inside = path.removeprefix("./")
    wanted = inside if inside.startswith(repository.prefix) else repository.prefix + inside
    answer = await _git(repository, ["cat-file", "--batch-check"], f"{ref}:{wanted}\n".encode())
    match answer.decode(errors="replace").split():
        case [identity, "blob", size]:
            return Blob(identity, int(size))
        case [_, "tree", _]:
            raise SourceFailed(f"{locator} is a folder")
        case _:
            raise SourceFailed(f"there is no {locator} in the repository")


async def _git(repository: Repository, arguments: list[str], given: bytes) -> bytes:
    environment = {
        **{name: value for name, value in config.child_environment().items() if name in ("PATH", "SYSTEMROOT")},
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
            done = await trio.run_process(
                ["git", *arguments], stdin=given, capture_stdout=True, capture_stderr=True, check=False, env=environment
            )
    except trio.TooSlowError:
        raise SourceFailed(f"git took longer than {DEADLINE:g} s") from None
    except FileNotFoundError:
        raise SourceFailed("git is not installed") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceFailed(f"git can't be run: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0][:200]
        raise SourceFailed(f"git failed: {said or f'exit status {done.returncode}'}")
    return done.stdout
