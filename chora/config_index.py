"""The config files of one kind: which there are, and by which ids they are found.

The files are walked, and each is looked at, for every list: 20 microseconds a file. Where there are many, the second
list has the system report changes, so that later ones look at what changed alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from chora.config_parsing import ParsedConfig
from chora.decoding import schema_error
from chora.errors import ChoraError, PermissionDenied, StorageError, ValidationFailed
from chora.files import Folder
from chora.folder_changes import FolderChanges, is_local
from chora.hashing import sha256
from chora.wording import printable

log = logging.getLogger("chora.catalog")

WATCHED_FROM = 50
"""Files of a kind from which on changes are reported instead of looked for."""
WATCHED_BYTES = 32 * 1024 * 1024
"""The total size of files up to which they are all kept; parsed, they take up to ten times as much memory."""
SLICE = 0.005
"""Seconds of a walk after which other tasks run."""
LOOKED_AT = 50
"""Files that are looked at for every list all the same, such as links, whose targets aren't watched."""


class FoundConfig(NamedTuple):
    """A config and the project-relative path of its file."""

    path: str
    parsed: ParsedConfig


class InvalidConfigFile(NamedTuple):
    """A file that isn't a valid config, with the error as a sentence and as an exception."""

    path: str
    error: str
    cause: ChoraError


class _Listing(NamedTuple):
    found: list[FoundConfig]
    invalid: list[InvalidConfigFile]


class ConfigListing(_Listing):
    """All files of a kind: configs by id, and invalid ones by path. It is shared, and so never changed."""

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the configs, sorted."""
        return [found.parsed.config.id for found in self.found]

    @cached_property
    def digest(self) -> str:
        """A hash that changes when a file is added, removed or changes its id."""
        names = [(found.path, found.parsed.config.id) for found in self.found]
        return sha256(msgspec.json.encode([names, [broken.path for broken in self.invalid]]))

    def find(self, config_id: str) -> FoundConfig | None:
        """The config of an id."""
        at = bisect_left(self.ids, config_id)
        return self.found[at] if at < len(self.ids) and self.ids[at] == config_id else None

    def find_invalid(self, config_id: str) -> InvalidConfigFile | None:
        """The file that isn't valid as a config of this id."""
        return next((broken for broken in self.invalid if broken.cause.details.get("config_id") == config_id), None)

    def after(self, config_id: str) -> Iterator[FoundConfig]:
        """The configs whose ids follow one."""
        return islice(self.found, bisect_right(self.ids, config_id), None)

    def first_ids(self, typed: str, limit: int) -> list[str]:
        """The first ids, and the first ones from what was typed on."""
        at = bisect_left(self.ids, typed)
        return list(dict.fromkeys([*self.ids[at : at + limit // 2], *self.ids[:limit]]))[:limit]


Entry = FoundConfig | InvalidConfigFile


class ConfigIndex:
    """The config files of one kind.

    Args:
        folder: the project folder.
        places: names the folders of the kind, project-relative; of two files with the same name in both, the first
            counts.
        suffixes: those of config files.
        read: reads a file; None if there is none, and an error for one that isn't valid.
        rank: the paths at which a config of an id is searched, in this order: of two with one id, the first counts.
    """

    def __init__(
        self,
        folder: Folder,
        places: Callable[[], tuple[str, ...]],
        suffixes: tuple[str, ...],
        read: Callable[[str], ParsedConfig | None],
        rank: Callable[[str], Iterable[str]],
    ) -> None:
        self._folder = folder
        self._prefix = f"{folder.root}{os.sep}"
        self._find_places = places
        self._suffixes = suffixes
        self._read = read
        self._rank = rank
        self._is_large = False
        self._is_watchable = True
        self._changes: FolderChanges | None = None
        self._walks = 0
        self._walking = trio.Lock()
        self._begin()

    def _begin(self) -> None:
        if self._changes is not None:
            self._changes.close()
        self._changes = None
        self._is_known = False
        self._places: tuple[str, ...] = self._find_places()
        self._identities: list[tuple[int, int] | None] = []
        self._files: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._same_id: dict[str, list[FoundConfig]] = {}
        self._ids: list[str] = []
        self._looked_at: set[str] = set()
        self._listing: ConfigListing | None = None

    def listing(self) -> ConfigListing:
        """The files as they are now."""
        return self._update_listing() or self._walk()

    async def listing_in_slices(self) -> ConfigListing:
        """The same, where reading all files for the first time must not keep the event loop from other work."""
        async with self._walking:
            if (listing := self._update_listing()) is not None:
                return listing
            self._is_large = True  # until it is counted: changes are reported from the first walk on
            steps = self._walk_in_steps()
            walks, began = self._walks + 1, time.perf_counter()
            with contextlib.closing(steps):
                while True:
                    try:
                        next(steps)
                    except StopIteration as ended:
                        return ended.value
                    if time.perf_counter() - began > SLICE:
                        await trio.lowlevel.checkpoint()
                        if self._walks != walks:  # another caller couldn't wait for the list, and so it is known
                            return self.listing()
                        began = time.perf_counter()

    def _update_listing(self) -> ConfigListing | None:
        """The list with what has changed; None if all files have to be looked at."""
        if self._is_known and self._changes is not None:
            if (changed := self._changed_files(self._changes)) is None:
                return None
            for path in changed:
                self._update(path)
            if len(self._looked_at) <= LOOKED_AT:
                self._listing = self._listing or self._list()
                return self._listing
        return None

    # -- all files --

    def _walk(self) -> ConfigListing:
        steps = self._walk_in_steps()
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                return ended.value

    def _walk_in_steps(self) -> Generator[None, None, ConfigListing]:
        """Look at all files; a step is one of them. A walk that begins meanwhile takes over."""
        self._walks += 1
        self._begin()
        if self._is_large and self._is_watchable:
            self._start_watching()
        count = size = 0
        for place in self._places:
            for path in self._folder.list_files(place, self._suffixes, self._on_folder):
                self._files.add(path)
                size += self._add(path)
                count += 1
                yield
        listing = self._listing = self._list()
        self._is_known = True
        self._is_large = count >= WATCHED_FROM and size <= WATCHED_BYTES
        if self._changes is None or not self._is_large or len(self._looked_at) > LOOKED_AT:
            self._begin()  # nothing is kept
        return listing

    def _start_watching(self) -> None:
        try:
            for place in self._places:
                absolute = self._prefix + place
                if os.path.realpath(absolute) != absolute or not is_local(absolute):
                    return
            self._identities = self._find_identities()
            self._changes = FolderChanges()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.debug("changes of configs can't be watched: %s", error)
        self._changes, self._is_watchable = None, False

    def _on_folder(self, folder: str) -> None:
        """Watch a folder before it is listed, so that no change in between is missed."""
        if self._changes is not None:
            try:
                self._changes.watch(folder)
            except FileNotFoundError:
                pass  # gone again, which the folder above reports
            except OSError as error:
                self._give_up(error)

    def _find_identities(self) -> list[tuple[int, int] | None]:
        """Device and inode of each folder of the kind: those above aren't watched, and may be moved."""
        found: list[tuple[int, int] | None] = []
        for place in self._places:
            try:
                status = os.lstat(self._prefix + place)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return found

    # -- changed files --

    def _changed_files(self, changes: FolderChanges) -> list[str] | None:
        """The files that may have changed; None if all of them have to be looked at."""
        if self._find_places() != self._places or self._find_identities() != self._identities:
            return None
        if (reported := changes.read()) is None:
            return None
        found = dict.fromkeys(self._looked_at)
        for change in reported:
            path = change.path.removeprefix(self._prefix)
            if not change.is_folder:
                if path.endswith(self._suffixes) and printable(path) == path:
                    found[path] = None
            elif path in self._places:
                return None  # removed or moved; one that takes its place may have the same inode
            else:
                below = f"{path}/"
                found.update(dict.fromkeys(each for each in self._files if each.startswith(below)))
                if change.is_new:
                    with contextlib.suppress(ChoraError):
                        if not path.rpartition("/")[2].startswith("."):
                            found.update(dict.fromkeys(self._folder.list_files(path, self._suffixes, self._on_folder)))
                elif not _is_unlinked(change.path) or not Path(change.path).is_dir():
                    changes.forget(change.path)
        return None if self._changes is None else list(found)

    def _update(self, path: str) -> None:
        """Look at a file again, and at the one of the same name that it hides."""
        for each in (path, *self._others_of(path)):
            self._remove(each)
        self._files.discard(path)
        if self._is_file(path):
            self._files.add(path)
        for each in (path, *self._others_of(path)):
            if each in self._files and not self._is_hidden(each):
                self._add(each)
        self._listing = None

    def _is_file(self, path: str) -> bool:
        absolute = self._prefix + path
        try:
            status = os.lstat(absolute)
        except OSError:
            return False
        if not _is_unlinked(os.path.dirname(absolute)):
            return False  # a link has taken the place of a folder that was moved away; a walk doesn't follow it
        return stat.S_ISREG(status.st_mode) or (stat.S_ISLNK(status.st_mode) and self._folder.is_file(path))

    def _others_of(self, path: str) -> list[str]:
        """The files of the same name in the other folders of the kind."""
        place = next((place for place in self._places if path.startswith(f"{place}/")), "")
        return [other + path.removeprefix(place) for other in self._places if other != place]

    def _is_hidden(self, path: str) -> bool:
        first = next(place for place in self._places if path.startswith(f"{place}/"))
        earlier = self._places[: self._places.index(first)]
        return any(place + path.removeprefix(first) in self._files for place in earlier)

    # -- entries --

    def _add(self, path: str) -> int:
        """Read a file and enter what it is, unless another of the same name hides it; returns its size."""
        if self._is_hidden(path):
            return 0
        self._looked_at.discard(path)
        try:
            status = os.lstat(self._prefix + path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                self._looked_at.add(path)  # it may be changed elsewhere
            parsed = self._read(path)
        except OSError:
            return 0  # it has been deleted meanwhile
        except ChoraError as error:
            if isinstance(error, StorageError | PermissionDenied):
                self._looked_at.add(path)  # the next time it may be readable
            self._entries[path] = InvalidConfigFile(path, error.message, error)
            return 0
        if parsed is not None:
            found = FoundConfig(path, parsed)
            self._entries[path] = found
            config_id = parsed.config.id
            if config_id not in self._same_id:
                insort(self._ids, config_id)
            self._same_id.setdefault(config_id, []).append(found)
        return status.st_size

    def _remove(self, path: str) -> None:
        self._looked_at.discard(path)
        entry = self._entries.pop(path, None)
        if isinstance(entry, FoundConfig):
            config_id = entry.parsed.config.id
            same_id = self._same_id[config_id]
            same_id.remove(entry)
            if not same_id:
                del self._same_id[config_id]
                del self._ids[bisect_left(self._ids, config_id)]

    def _list(self) -> ConfigListing:
        chosen: list[FoundConfig] = []
        invalid = [entry for entry in self._entries.values() if isinstance(entry, InvalidConfigFile)]
        for config_id in self._ids:
            same_id = self._same_id[config_id]
            if len(same_id) > 1:
                ranks = {path: rank for rank, path in enumerate(self._rank(config_id))}
                same_id = sorted(same_id, key=lambda each: (ranks.get(each.path, len(ranks)), each.path))
                invalid += [_shadowed_config(duplicate, same_id[0]) for duplicate in same_id[1:]]
            chosen.append(same_id[0])
        return ConfigListing(chosen, sorted(invalid, key=lambda broken: broken.path))


def _is_unlinked(folder: str) -> bool:
    """Whether no part of an absolute path is a link."""
    return os.path.realpath(folder) == folder


def _shadowed_config(duplicate: FoundConfig, chosen: FoundConfig) -> InvalidConfigFile:
    config_id = duplicate.parsed.config.id
    fault = ValidationFailed(
        f"{duplicate.path} has the id {config_id}, and so has {chosen.path}, which is used.",
        "Give one of them another id, or remove it.",
        file=duplicate.path,
        schema_errors=[
            schema_error("two configs with one id", f'"id": "{config_id}"', "an id of its own", "another id")
        ],
    )
    return InvalidConfigFile(duplicate.path, fault.message, fault)
