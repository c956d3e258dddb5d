"""The project: finding its folder, and the places in it that the settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from chora.errors import ProjectNotFound, hide_folder
from chora.secrets import KNOWN_SECRETS
from chora.settings import Settings


def find_project(folder: str | Path | None = None, env: Mapping[str, str] | None = None) -> Path:
    """The project folder: `folder`, else `CHORA_PROJECT`, else `CHORA_BASE_PATH`, else the nearest one upward.

    Raises:
        ProjectNotFound: nothing that looks like a project, or the named folder doesn't exist.
    """
    env = os.environ if env is None else env
    for named, origin in (
        (folder, "--project"),
        (env.get("CHORA_PROJECT"), "CHORA_PROJECT"),
        (env.get("CHORA_BASE_PATH"), "CHORA_BASE_PATH"),
    ):
        if named:
            try:
                path = Path(named).expanduser().resolve()
                is_folder = path.is_dir()
            except (OSError, RuntimeError) as error:  # an inaccessible folder, an unknown ~user, a loop of links
                raise ProjectNotFound(
                    f"{origin} names {named}, which can't be reached: {str(error).rstrip('.')}."
                ) from None
            if not is_folder:
                raise ProjectNotFound(
                    f"{origin} names {path}, which is not a folder.", "Create it with: chora init " + str(path)
                )
            return path
    try:
        here = Path.cwd()
    except OSError:
        raise ProjectNotFound("The current folder is gone.", "Go to one that exists.") from None
    for marks in (("chora.toml",), ("configs", "chora-configs", ".chora")):
        for candidate in (here, *here.parents):
            if any(_exists(candidate / mark) for mark in marks):
                return candidate
    raise ProjectNotFound(
        f"There is no chora project in {here} or above it.",
        "Make one with `chora init`, or name one with --project or CHORA_PROJECT.",
        searched=str(here),
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder above that we may not access
        return False


def locate(project: Path, place: str) -> Path:
    """The absolute path of a file or folder of chora's own that a setting names, for `chora.nofollow` to open.

    Inside the project no link is followed. To a place elsewhere, which a setting must name, links may lead.
    """
    root = Path(os.path.realpath(project))
    path = Path(os.path.normpath(root / place))
    if root in path.parents:
        return path
    path = Path(os.path.realpath(path.parent)) / path.name
    hide_folder(path.parent)
    return path


def secret_files(project: Path, settings: Settings, env: Mapping[str, str] | None = None) -> list[Path]:
    """The files that hold secrets by the settings and the environment: `file:` references, TLS keys, `NAME_FILE`."""
    env = os.environ if env is None else env
    values = msgspec.to_builtins(settings)
    named = [settings.http.key, *(env.get(f"{known.name}_FILE", "") for known in KNOWN_SECRETS)]
    named += [
        value.removeprefix("file:")
        for section in values.values()
        for value in section.values()
        if isinstance(value, str) and value.startswith("file:")
    ]
    # They are opened relative to the current folder; a path that is meant relative to the project counts as well.
    return [Path(os.path.realpath(base / name)) for name in named if name for base in (project, Path())]


def tokens_folder(project: Path) -> Path:
    """The folder of the named access tokens of a project."""
    return locate(project, ".chora/tokens")
