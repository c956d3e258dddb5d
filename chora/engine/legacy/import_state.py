"""The result of an import, and the state that its steps share."""

from __future__ import annotations

from pathlib import PurePosixPath

from msgspec import Struct

from chora.catalog import ROOTS
from chora.errors import ChoraError
from chora.files import Folder
from chora.model import Kind
from chora.store import Store
from chora.wording import printable

HISTORY_FOLDER = "ephemeral"
"""Where chora-compose kept generated texts."""

KIND_BY_FOLDER: dict[str, Kind] = {
    "content": "content",
    "contents": "content",
    "artifact": "artifact",
    "artifacts": "artifact",
    "collection": "collection",
    "collections": "collection",
}


class SkippedFile(Struct, frozen=True):
    """A file of the old project that isn't imported, and why."""

    path: str
    reason: str


class ConvertedConfig(Struct, frozen=True):
    """A config that was converted to the dialect that chora reads."""

    path: str
    source: str
    changes: list[str]
    left: list[str]
    """What that dialect has no equivalent for; it has no effect any more."""


class ImportCounts(Struct, frozen=True):
    """How many records were imported, and how many were stored already."""

    imported: int = 0
    already_there: int = 0


class ImportResult(Struct, frozen=True, kw_only=True):
    """What an import did, or would do."""

    source: str
    project: str
    dry_run: bool
    settings_written: bool
    copied: list[str]
    converted: list[ConvertedConfig]
    unchanged: int
    """Files that were there already, byte for byte."""
    versions: ImportCounts
    drafts: ImportCounts
    skipped: list[SkippedFile]
    warnings: list[str]


class ImportState:
    """The two projects of an import, and the files that were skipped so far.

    Args:
        old: the old project.
        new: the new project.
        store: of the new project.
        configs: the new project's config folder, if its settings name one.
        dry_run: only report what would be done.
    """

    def __init__(self, old: Folder, new: Folder, store: Store, configs: str, dry_run: bool) -> None:
        self.old_project = old
        self.new_project = new
        self.store = store
        self.dry_run = dry_run
        present = (root for root in ROOTS if (new.root / root).is_dir())
        self.config_root = configs or next(present, "")
        """The project's config folder; empty if there is none yet."""
        self.skipped: list[SkippedFile] = []

    def skip_file(self, path: str, reason: str) -> None:
        """Report that a file isn't imported, and why."""
        self.skipped.append(SkippedFile(printable(path), reason))

    def read_old_file(self, path: str, limit: int) -> bytes | None:
        """The content of a file of the old project; None, with the reason reported, if it can't be read."""
        try:
            return self.old_project.read_bytes(path, limit=limit)
        except ChoraError as error:
            self.skip_file(path, error.message)
        except OSError as error:
            self.skip_file(path, f"It can't be read: {error.strerror}.")
        return None

    def list_old_files(self, folder: str) -> list[str]:
        """The files beneath a folder of the old project, except hidden ones."""
        return [
            path for path in self.old_project.list_files(folder, ("",)) if not PurePosixPath(path).name.startswith(".")
        ]
