"""Which files of a project may be read as text, and which may be written as outputs or configs.

A text comes from configs, models and data of strangers. As the file of a program it would be run, by git, an editor,
an agent, Python or chora itself (CWE-94, CWE-829): such names are refused. Files that hold secrets or the data of chora
and git are never read as text (CWE-538): what is read ends up in outputs and answers.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from chora.errors import PermissionDenied

PYTHON_FILES = re.compile(r"(conftest|sitecustomize|usercustomize)\.py[cw]?|.*\.pth")
"""Files that Python and pytest load by their names alone."""
CI_FILES = re.compile(
    r"jenkinsfile|(azure-pipelines|bitbucket-pipelines|appveyor|cloudbuild|buildspec)([-_.].*)?\.ya?ml"
)
"""Files without a dot that a continuous integration service runs; those of the others begin with one."""
REPOSITORY_HEADS = ("head", "commondir")
"""git takes no folder for a repository that has no HEAD (setup.c, is_git_directory); its objects and refs may lie in
another one, which `commondir` names. So these two names are refused everywhere, and folders may still be called
`objects` or `refs`, as documentation does."""
REPOSITORY_PARTS = ("config", "config.worktree", "hooks", "objects", "refs", "info", "packed-refs", "index")
"""What belongs to a repository, and is refused beside a HEAD that came from elsewhere."""
SECRET_FILES = re.compile(r"\.env(\..+)?|\.envrc|[._]netrc|\.git-credentials|\.pgpass|\.pypirc|\.npmrc")
EXAMPLE_FILES = re.compile(r"\.env\.(example|sample|template|dist)")

_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def find_invisible(text: str) -> str | None:
    """The name of the first character in a text that isn't seen, or that changes how others are shown (CVE-2021-42574):
    controls, formats such as bidirectional ones, separators of lines, fillers."""
    if text.isascii() and text.isprintable():
        return None
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") or _UNSEEN.match(letter):
            return f"U+{ord(letter):04X} {unicodedata.name(letter, '')}".rstrip()
    return None


def plain_parts(path: str) -> list[str]:
    """The parts of a relative path, as a system compares them that folds case and drops what isn't seen (HFS+), and
    blanks and dots at the end of a name (Windows)."""
    return [_plain(part) for part in path.replace(os.sep, "/").split("/") if part not in ("", ".")]


def _plain(part: str) -> str:
    if not part.isascii():
        part = "".join(each for each in part if unicodedata.category(each) != "Cf")
    return part.split(":", 1)[0].rstrip(" .").casefold() if part.strip(" .") else part


def check_readable(path: str, secret_files: Iterable[str] = ()) -> None:
    """Refuse to read a file as text.

    Args:
        path: relative to the project, without links.
        secret_files: files that the settings name as secrets, relative to the project.

    Raises:
        PermissionDenied: it is data of git or chora, or holds a secret.
    """
    parts = plain_parts(path)
    if ".git" in parts:
        reason, hint = "belongs to git", "A source of the type git_reference reads what git has committed."
    elif ".chora" in parts:
        reason, hint = "is where chora keeps its own data", "Sources of stored texts are of the type ephemeral_output."
    elif (parts and SECRET_FILES.fullmatch(parts[-1]) and not EXAMPLE_FILES.fullmatch(parts[-1])) or (
        secret_files and parts in [plain_parts(secret) for secret in secret_files]
    ):
        reason, hint = "holds secrets", "Put what may be read into a file of another name."
    else:
        return
    raise PermissionDenied(f"{path} {reason}, and is never read as text.", hint, path=path)


class WriteRules(NamedTuple):
    """What a project's texts may be written to, beyond `paths.outputs`.

    Args:
        kept: files and folders in which chora keeps its data, as `relative_names` gives them; they can't be allowed.
        loaded: files and folders from which chora loads what it runs: plugins, configs, templates.
        allowed: what the project allows all the same: paths, patterns of them, or folders with a slash at the end.
    """

    kept: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    allowed: tuple[str, ...] = ()

    def check(self, path: str, exists: Callable[[str], bool]) -> None:
        """Refuse to write a file.

        Args:
            path: relative to the project, without links.
            exists: whether there is something at a path.

        Raises:
            PermissionDenied: it would become a program, or replace what chora loads or keeps.
        """
        shown = path.encode("unicode_escape").decode() if (unseen := find_invisible(path)) else path
        if unseen:
            raise PermissionDenied(
                f"The name {shown} holds {unseen}, which can't be seen.", "Use a name without it.", path=shown
            )
        parts = plain_parts(path)
        is_kept = ".chora" in parts or _is_among(parts, self.kept)
        if ".git" in parts or is_kept or parts == ["chora.toml"]:
            what = (
                "holds settings, which no output may change"
                if parts[-1:] == ["chora.toml"]
                else ("is where git keeps its own data" if ".git" in parts else "is where chora keeps its own data")
            )
            raise PermissionDenied(f"{shown} {what}.", "Write the output to another folder.", path=shown)
        if (reason := self._find_reason(path, parts, exists)) and not self._is_allowed(path):
            raise PermissionDenied(
                f"{shown} {reason}.",
                "Write to a file of another name; if the project is meant to write this one, name it in paths.allow.",
                path=shown,
            )

    def _find_reason(self, path: str, parts: list[str], exists: Callable[[str], bool]) -> str | None:
        name = parts[-1] if parts else ""
        if hidden := next((part for part in parts if part.startswith(".")), None):
            return (
                f"is in {hidden}, which programs take their settings from"
                if hidden != name
                else ("begins with a dot: programs take their settings from such files")
            )
        if name in REPOSITORY_HEADS:
            return "would make git take its folder for a repository, and run what its config says"
        above = path.split("/")
        for depth, part in enumerate(parts):
            if part in REPOSITORY_PARTS and exists("/".join([*above[:depth], "HEAD"])):
                return "would become part of the git repository that its folder looks like"
        if PYTHON_FILES.fullmatch(name):
            return "would be run by Python by its name alone"
        if CI_FILES.fullmatch(name):
            return "would be run by a continuous integration service"
        if _is_among(parts, self.loaded):
            return "is among what chora itself loads: configs, templates, plugins"
        return None

    def _is_allowed(self, path: str) -> bool:
        parts = path.split("/")
        for pattern in self.allowed:
            wanted = pattern.removesuffix("/").split("/")
            fits = len(parts) > len(wanted) if pattern.endswith("/") else len(parts) == len(wanted)
            if fits and all(fnmatchcase(part, form) for part, form in zip(parts, wanted, strict=False)):
                return True
        return False


def check_named_file(root: str, file: str) -> str:
    """The absolute path of a file that a project's own settings name for chora to write to.

    Raises:
        PermissionDenied: it lies outside of the project, or would become a program.
    """
    path = Path(os.path.normpath(file))
    if path.is_absolute() or path.parts[:1] == ("..",):
        raise PermissionDenied(f"{file[:80]!r} isn't in the project.", None)
    WriteRules().check(path.as_posix(), lambda there: os.path.lexists(os.path.join(root, there)))
    return os.path.join(root, path)


def _is_among(parts: list[str], names: frozenset[str]) -> bool:
    """Whether a path is one of these, or lies in one."""
    return any("/".join(parts[:length]) in names for length in range(1, len(parts) + 1))


def relative_names(root: Path, places: Iterable[Path]) -> frozenset[str]:
    """The places that lie in a folder, relative to it, in the form in which `WriteRules` compares them."""
    return frozenset(
        "/".join(plain_parts(place.relative_to(root).as_posix())) for place in places if root in place.parents
    )
