"""Where a store has been: so that a disk that isn't mounted doesn't look like a new project.

It is written down in the project, in a folder of its own that git ignores: a clone has no store, and begins with a new
one. It is not in `.chora`, because that is where the store is by default.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from chora.disk import replace_file
from chora.errors import StorageError, UsageError
from chora.nofollow import UnsafePath, check_file, open_folder, read_file
from chora.project import locate
from chora.settings import StorageSettings
from chora.store.database import DATABASE_SUFFIXES, has_wal
from chora.timestamps import now

log = logging.getLogger("chora.store")

FOLDER = ".chora-store"
FILE = f"{FOLDER}/stores.json"
"""The stores of the project, by backend and place, each with the time when it was first seen."""
MARK_LIMIT = 64 * 1024  # bytes


class StorePresence:
    """Whether the store of a project is where it has been.

    Args:
        project: the project folder.
        settings: where its store is.
        place: the database or folder of the store.
    """

    def __init__(self, project: Path, settings: StorageSettings, place: Path) -> None:
        self._file = locate(project, FILE)
        self._backend = settings.backend
        self._place = place
        root = self._file.parent.parent
        where = place.relative_to(root).as_posix() if root in place.parents else str(place)
        self._key = f"{settings.backend} {where}"

    def is_there(self) -> bool:
        """Whether there is a store: a database that isn't empty, or a folder that chora has written into."""
        if self._backend == "filesystem":
            return check_file(self._place / ".lock") is not None
        status = check_file(self._place)
        return status is not None and status.st_size > 0

    def check(self) -> None:
        """Refuse to begin a new store where one has been.

        Raises:
            StorageError: it is gone or empty.
        """
        try:
            if self.is_there():
                return
        except UnsafePath:
            raise
        except OSError:  # opening it says why
            return
        what = "is empty" if self._place.exists() else "is gone"
        if self._backend == "sqlite" and has_wal(self._place):
            what += f", and {self._place}-wal holds changes of it"
        elif (since := self._since()) is None:
            return
        else:
            what += f"; it has been there since {since}"
        raise StorageError(
            f"The store {self._place} {what}.",
            "If its disk isn't mounted, mount it. `chora restore BACKUP` puts a backup in its place, and "
            "`chora restore --empty` begins with an empty store.",
            storage_path=str(self._place),
            error_type="Missing",
        )

    def note(self) -> None:
        """Write down that there is a store now."""
        try:
            stores = self._read()
            if self._key not in stores:
                self._write(stores | {self._key: now()})
        except (OSError, msgspec.DecodeError) as error:  # a read-only project whose store is elsewhere
            log.debug("it can't be written down in %s where the store is: %s", self._file, error)

    def make_way(self) -> Path | None:
        """Let a new store begin where one has been, and move aside what is left of it; returns where that is.

        Raises:
            UsageError: there is a store.
        """
        if self.is_there():
            raise UsageError(
                f"There is a store in {self._place}.",
                f"Move it away first, with the files beside it: mv {self._place} {self._place}.old",
            )
        aside = self._place.with_name(f"{self._place.name}.left-{datetime.now(UTC):%Y%m%dT%H%M%S}Z")
        moved = False
        if self._backend == "sqlite" and self._place.parent.exists():
            with open_folder(self._place.parent) as folder:
                for suffix in DATABASE_SUFFIXES:
                    with contextlib.suppress(FileNotFoundError):
                        folder.replace(self._place.name + suffix, aside.name + suffix)
                        moved = True
        return aside if moved else None

    def _since(self) -> str | None:
        """When a store was first seen here; None if it never was."""
        try:
            return self._read().get(self._key)
        except msgspec.DecodeError:  # what it said isn't known any more
            return f"some time: {self._file} can't be decoded"

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(read_file(self._file, MARK_LIMIT), type=dict[str, str])
        except FileNotFoundError:
            return {}

    def _write(self, stores: dict[str, str]) -> None:
        ignored = self._file.with_name(".gitignore")
        if not self._file.parent.exists() or check_file(ignored) is None:
            replace_file(ignored, [b"# Where the store of this project is on this machine.\n*\n"])
        replace_file(self._file, [msgspec.json.format(msgspec.json.encode(stores)), b"\n"])
