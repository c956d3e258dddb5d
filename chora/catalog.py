"""Finding and reading the config files of a project, in the folder layouts of chora-compose.

A config is found by the name of its file, in any of the layouts, and otherwise by the id inside. Files are read again
only when they changed; a file that can't be read is listed with the reason.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from chora.config_index import ConfigIndex, ConfigListing, FoundConfig, InvalidConfigFile
from chora.config_parsing import ISSUES_LIMIT, Issue, ParsedConfig, check_expected_id, parse_config
from chora.decoding import decode, duplicate_keys
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    InvalidConfigId,
    PermissionDenied,
    StorageError,
    io_details,
)
from chora.file_stamps import FileStamp
from chora.files import CONFIG_LIMIT, CONFIG_ROOTS, PATH_LIMIT, Folder
from chora.model import KINDS, Kind
from chora.path_rules import find_invisible
from chora.wording import find_nearest

SUFFIXES = (".json", ".yaml", ".yml")
ROOTS = CONFIG_ROOTS
CACHE_LIMIT = 16 * 1024 * 1024
"""The total size of files that are cached; parsed, they take up to ten times as much memory."""
CONFIG_SEARCH = "configs:"
"""The prefix under which a search through all files of a kind is recorded."""

OnRead = Callable[[str], None]
__all__ = ["CONFIG_SEARCH", "ROOTS", "SUFFIXES", "Catalog", "ConfigListing", "FoundConfig", "InvalidConfigFile"]

_SHAPES = ("{id}", "{id}-{kind}", "{id}/{id}-{kind}", "{id}/{id}")
_PARAMETERS: dict[Kind, str] = {
    "content": "content_config_id",
    "artifact": "artifact_config_id",
    "collection": "collection_config_path",
}
EXISTING_BYTES = 250
"""Bytes of the ids that an error about a missing one names; the whole of it is within 1 KiB."""
SEARCHED_BYTES = 300
"""Bytes of the paths that an error about a missing path names."""
_MAKERS: dict[Kind, str] = {
    "content": "is a content: generate_content makes its text",
    "artifact": "is an artifact: assemble_artifact composes it",
    "collection": "is a collection: generate_collection builds it",
}
_DRAFT_ID = re.compile(r"draft-[0-9]{8}T[0-9]{6}-[0-9a-f]+")
_LIST_HINTS: dict[Kind, str] = {
    "content": "list_content_configs lists the content configs.",
    "artifact": "list_artifact_configs lists the artifact configs.",
    "collection": "Collection configs are in the folder collection/ of the config folder.",
}


class _CacheEntry(NamedTuple):
    stamp: FileStamp
    result: ParsedConfig | ChoraError


class Catalog:
    """The config files of a project.

    Args:
        folder: the project folder.
        configs: the config folder in it; if empty, `configs` or else `chora-configs`, whichever exists.
    """

    def __init__(self, folder: Folder, configs: str = "", *, old_yaml: bool = False) -> None:
        self._folder = folder
        self._old_yaml = old_yaml
        self._prefix = f"{folder.root}{os.sep}"
        self._configs = folder.relative(configs) if configs else ""
        self._cached: dict[tuple[Kind, str], _CacheEntry] = {}
        self._indexes: dict[Kind, ConfigIndex] = {}
        self._cached_bytes = 0

    @property
    def root(self) -> str:
        """The config folder, relative to the project."""
        # Used by every lookup; a third of the cost of Path.is_dir.
        present = (root for root in ROOTS if os.path.isdir(self._prefix + root))  # noqa: PTH112
        return self._configs or next(present, ROOTS[0])

    @staticmethod
    def check_id(config_id: str) -> None:
        """Refuse an id that is empty, too long, or could be a path (CWE-22).

        Raises:
            InvalidConfigId: the id is invalid.
        """
        if not config_id.strip():
            problem = "is empty"
        elif len(config_id) > 255:
            problem = f"has {len(config_id)} characters; 255 are allowed"
        elif re.search(r"\.\.|[/\\\x00-\x1f\x7f]", config_id):
            problem = "holds `..`, a slash, a backslash or a control character"
        elif unseen := find_invisible(config_id):
            problem = f"holds {unseen}, which can't be seen"
        else:
            return
        raise _invalid_id("config id", config_id, problem)

    @staticmethod
    def _check_path(path: str) -> None:
        """Refuse a path that no file can have.

        Raises:
            InvalidConfigId: it is empty, too long, or holds control characters.
        """
        if not path.strip():
            problem = "is empty"
        elif len(path) > PATH_LIMIT:
            problem = f"has {len(path):,} characters; {PATH_LIMIT:,} are allowed"
        elif re.search(r"[\x00-\x1f\x7f]", path):
            problem = "holds control characters"
        else:
            return
        raise _invalid_id("path", path, problem)

    def find_config(self, kind: Kind, config_id: str, on_read: OnRead | None = None) -> FoundConfig:
        """Find a config by id: by the name of its file, in the order of the layouts, else by the id inside.

        `on_read` is called with every path that was tried, whether a file exists or not; and, when no name led to the
        config, with `CONFIG_SEARCH` and the kind whose folder was searched.

        Raises:
            InvalidConfigId: the id is invalid.
            ConfigNotFound: there is none; the hint names similar ids.
            ValidationFailed: its file doesn't fit the format.
            LimitExceeded, PermissionDenied, StorageError: its file can't be read.
        """
        self.check_id(config_id)
        for path in self._candidate_paths(kind, config_id):
            if on_read:
                on_read(path)
            if parsed := self._read_config(kind, path):
                return FoundConfig(path, check_expected_id(parsed, config_id))
        if on_read:
            on_read(CONFIG_SEARCH + kind)
        listing = self.list_configs(kind)
        if (found := listing.find(config_id)) is not None:
            if on_read:
                on_read(found.path)
            return found
        if (broken := listing.find_invalid(config_id)) is not None:
            raise _copy_error(broken.cause)
        raise ConfigNotFound(
            f"There is no {kind} config {config_id!r}.",
            self.hint_for_missing(config_id, kind) or _LIST_HINTS[kind],
            **{_PARAMETERS[kind]: config_id, **self.describe_search(config_id, kind)},
        )

    def describe_search(self, config_id: str, *kinds: Kind) -> dict[str, list[str]]:
        """What an error about a missing id says of the search: where a config of this id is expected, and similar ids.

        Every layout with every suffix is tried, and every file's id is looked at: `**` stands for all of those.
        """
        searched: list[str] = []
        for kind in kinds:
            first, second = self._kind_folders(kind)
            if len(config_id) <= 40:
                searched += [f"{first}/{config_id}.json", f"{first}/{config_id}/{config_id}-{kind}.json"]
            searched += [f"{first}/**", f"{second}/**"]
        return {"searched_paths": searched, "existing": self.list_alike(config_id, *kinds)}

    def hint_for_missing(self, config_id: str, *kinds: Kind) -> str | None:
        """The next step for an id of which there is no config of these kinds: the right tool for what it is the id of,
        else similar ids; None if there are none."""
        if _DRAFT_ID.fullmatch(config_id):
            return f"{config_id} is the id of a draft: test_config tries it, and save_config makes it a config."
        for kind in KINDS:
            if kind not in kinds and self.list_configs(kind).find(config_id) is not None:
                return f"{config_id} {_MAKERS[kind]}."
        near = find_nearest(config_id, [each for kind in kinds for each in self.list_configs(kind).ids])
        return f"Did you mean {' or '.join(near)}?" if near else None

    def list_alike(self, config_id: str, *kinds: Kind) -> list[str]:
        """Ids that there are, the most similar ones first, within `EXISTING_BYTES`."""
        ids = [each for kind in kinds for each in self.list_configs(kind).ids]
        near = find_nearest(config_id, ids)
        return _within_bytes((*near, *(other for other in ids[:100] if other not in near)), EXISTING_BYTES)

    def locate_config(self, kind: Kind, name: str, on_read: OnRead | None = None) -> FoundConfig:
        """The config of an id or at a path; raises as `find_config` and `open_config`."""
        if "/" in name or name.endswith((".json", ".yaml", ".yml")):
            return self.open_config(kind, name, on_read)
        return self.find_config(kind, name, on_read)

    def open_config(self, kind: Kind, path: str, on_read: OnRead | None = None) -> FoundConfig:
        """Open the config at a path: relative to project, config folder or folder of its kind.

        A path without a suffix is tried with each of them. Where no file is, the name of the file tells the id, with or
        without the kind at its end: the config may have been saved in another layout. An absolute path must lie inside
        the project.

        Raises:
            InvalidConfigId: the path is empty, too long, or holds control characters.
            PermissionDenied: the path leads outside the project.
            ConfigNotFound: no file exists.
            ValidationFailed: its file doesn't fit the format.
            LimitExceeded, StorageError: its file can't be read.
        """
        self._check_path(path)
        if (kind, path) in self._cached:
            if on_read:
                on_read(path)
            if parsed := self._read_config(kind, path):
                return FoundConfig(path, parsed)
        outside: PermissionDenied | None = None
        searched: list[str] = []
        for base in ("", self.root, *self._kind_folders(kind)):
            for suffix in ("",) if path.endswith(SUFFIXES) else SUFFIXES:
                try:
                    searched.append(where := self._normalize_path(base, path + suffix))
                    if on_read:
                        on_read(where)
                    if parsed := self._read_config(kind, where):
                        return FoundConfig(where, parsed)
                except PermissionDenied as error:
                    outside = outside or error
            if Path(path).is_absolute():
                break
        if outside:
            raise outside
        missing: list[ChoraError] = []
        for config_id in self._ids_of_path(kind, path):
            try:
                return self.find_config(kind, config_id, on_read)
            except (ConfigNotFound, InvalidConfigId) as error:
                missing.append(error)
        if missing and "/" not in path and not path.endswith(SUFFIXES):
            raise missing[0]
        raise ConfigNotFound(
            f"There is no {kind} config at {path!r}.",
            _LIST_HINTS[kind],
            **{
                _PARAMETERS[kind]: path,
                "searched_paths": _within_bytes(dict.fromkeys(searched), SEARCHED_BYTES),
                "existing": self.list_alike(PurePosixPath(path).stem, kind),
            },
        )

    def list_configs(self, kind: Kind) -> ConfigListing:
        """List the files of a kind. Of two with the same id, the one that `find_config` returns counts; the other is
        invalid."""
        return self._index(kind).listing()

    async def list_in_slices(self, kind: Kind) -> ConfigListing:
        """The same, for a task that can wait: reading thousands of files for the first time takes seconds."""
        return await self._index(kind).listing_in_slices()

    def _index(self, kind: Kind) -> ConfigIndex:
        if (index := self._indexes.get(kind)) is None:
            index = self._indexes[kind] = ConfigIndex(
                self._folder,
                partial(self._kind_folders, kind),
                SUFFIXES,
                partial(self._read_config, kind),
                partial(self._candidate_paths, kind),
            )
        return index

    def digest(self, kind: Kind) -> str:
        """A hash that changes when a file of a kind is added, removed or changes its id."""
        return self.list_configs(kind).digest

    def path_to_save(self, kind: Kind, config_id: str) -> str:
        """The path of an existing config, else that of a new one, project-relative.

        Raises:
            InvalidConfigId: the id is invalid.
        """
        self.check_id(config_id)
        listing = self.list_configs(kind)
        if (there := listing.find(config_id) or listing.find_invalid(config_id)) is not None:
            return there.path
        shape = "{id}" if kind == "collection" else "{id}/{id}-{kind}"
        usual = f"{self._kind_folders(kind)[0]}/{shape.format(id=config_id, kind=kind)}.json"
        # A file of this name with another id isn't this config, and must not be replaced by it.
        free = (path for path in (usual, *self._candidate_paths(kind, config_id)) if self._stamp_of(path) is None)
        return next(free, usual)

    # -- paths --

    def _kind_folders(self, kind: Kind) -> tuple[str, str]:
        at = "" if (root := self.root) == "." else f"{root}/"
        return f"{at}{kind}", f"{at}{kind}s"

    def _candidate_paths(self, kind: Kind, config_id: str) -> Iterator[str]:
        """The possible paths of a config of this id, in search order."""
        for at in self._kind_folders(kind):
            for shape in _SHAPES:
                name = f"{at}/{shape.format(id=config_id, kind=kind)}"
                yield from (name + suffix for suffix in SUFFIXES)

    def _ids_of_path(self, kind: Kind, path: str) -> list[str]:
        """The ids of the configs that may have been saved at a path, in any layout; none outside the config folders."""
        place = PurePosixPath(path)
        folders = {".", self.root, *self._kind_folders(kind), kind, f"{kind}s"}
        if not folders & {str(place.parent), str(place.parent.parent)} or place.parent.name == "..":
            return []
        stem = place.stem if path.endswith(SUFFIXES) else place.name
        return list(dict.fromkeys((stem, stem.removesuffix(f"-{kind}"))))

    def _normalize_path(self, base: str, path: str) -> str:
        """A path in the form of the cache's keys: project-relative, forward slashes, without `.` and `..`."""
        joined = PurePosixPath(base, path)
        if joined.is_absolute() or ".." in joined.parts or Path(path).is_absolute():
            return self._folder.relative(str(joined))
        return str(joined)

    # -- reading --

    def _stamp_of(self, path: str) -> FileStamp | None:
        """The file's stamp, None if no regular file exists. Reading goes through `Folder`, which checks more."""
        try:
            # A third of the cost of Path.stat, and nearly the whole cost of finding an unchanged config.
            status = os.stat(self._prefix + path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return FileStamp.of(status)

    def _read_config(self, kind: Kind, path: str) -> ParsedConfig | None:
        """The config in a file, None if there is no file. Raises as `find_config` for a file that isn't a config."""
        if (stamp := self._stamp_of(path)) is None:
            self._uncache((kind, path))
            return None
        key = (kind, path)
        if (kept := self._cached.get(key)) and kept.stamp == stamp:
            self._cached[key] = self._cached.pop(key)  # keeps the least recently used one first
            result = kept.result
        else:
            started = time.time_ns()
            try:
                result = self._parse_file(kind, path)
            except FileNotFoundError:
                return None
            self._uncache(key)
            if stamp.is_at_rest(started) and self._stamp_of(path) == stamp:
                self._cache(key, _CacheEntry(stamp, result))
        if isinstance(result, ChoraError):
            raise _copy_error(result)
        return result

    def _parse_file(self, kind: Kind, path: str) -> ParsedConfig | ChoraError:
        try:
            data = self._folder.read_bytes(path, limit=CONFIG_LIMIT)
            parsed = parse_config(kind, decode(data, path, old_yaml=self._old_yaml), where=path)
            duplicates = duplicate_keys(data) if path.endswith(".json") else []
            return parsed._replace(warnings=[*map(_duplicate_key, duplicates[:ISSUES_LIMIT]), *parsed.warnings])
        except FileNotFoundError:
            raise
        except OSError as error:
            details = io_details(error, path=path)
            return StorageError(f"{path} can't be read: {error.strerror}.", "Check the disk.", **details)
        except ChoraError as error:
            return _copy_error(error)

    def _cache(self, key: tuple[Kind, str], kept: _CacheEntry) -> None:
        self._cached[key] = kept
        self._cached_bytes += kept.stamp.size
        while self._cached_bytes > CACHE_LIMIT:
            self._uncache(next(iter(self._cached)))

    def _uncache(self, key: tuple[Kind, str]) -> None:
        if kept := self._cached.pop(key, None):
            self._cached_bytes -= kept.stamp.size


def _within_bytes(texts: Iterable[str], limit: int) -> list[str]:
    """The first texts that take no more bytes than this in a JSON list."""
    shown: list[str] = []
    for text in texts:
        limit -= len(text.encode(errors="surrogateescape")) + 3
        if limit < 0:
            break
        shown.append(text)
    return shown


def _invalid_id(what: str, given: str, problem: str) -> InvalidConfigId:
    shown = given if len(given) <= 80 else f"{given[:79]}…"
    quoted = ascii(shown) if find_invisible(shown) else repr(shown)
    return InvalidConfigId(
        f"The {what} {quoted} {problem}.",
        "An id is lower-case letters, digits and hyphens, such as weekly-report.",
        id=shown,
    )


def _copy_error(error: ChoraError) -> ChoraError:
    """A copy of an error without its traceback, which would keep the file's content in memory."""
    return type(error)(error.message, error.hint, **error.details)


def _duplicate_key(key: str) -> Issue:
    shown = repr(key if len(key) <= 80 else f"{key[:79]}…")
    return Issue(
        severity="warning",
        code="duplicate_key",
        message=f"The key {shown} stands twice in one object; the last one counts.",
        path="$",
        found=shown,
        expected="every key once",
        write="one of them",
    )
