"""Finding and reading the config files of a project, in the folder layouts that chora-compose had.

A config is found by its file's name, in any of the layouts, and as a last resort by the id inside. Files are
read anew only when they changed; a file that can't be read stands in its listing with the reason.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from chora.config_parsing import ISSUES_LIMIT, Issue, ParsedConfig, check_expected_id, parse_config
from chora.decoding import decode, duplicate_keys, schema_error
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    InvalidConfigId,
    PermissionDenied,
    StorageError,
    ValidationFailed,
    io_details,
)
from chora.file_stamps import FileStamp
from chora.files import CONFIG_LIMIT, Folder
from chora.hashing import sha256
from chora.model import Kind

if TYPE_CHECKING:
    pass

SUFFIXES = (".json", ".yaml", ".yml")
ROOTS = ("configs", "chora-configs")
CACHE_LIMIT = 16 * 1024 * 1024
"""Bytes of files whose parsed form is kept; in memory it takes up to ten times as much."""
CONFIGS = "configs:"
"""How a search through all files of a kind is noted."""

OnRead = Callable[[str], None]

_SHAPES = ("{id}", "{id}-{kind}", "{id}/{id}-{kind}", "{id}/{id}")
_PARAMETERS: dict[Kind, str] = {
    "content": "content_config_id",
    "artifact": "artifact_config_id",
    "collection": "collection_config_path",
}
_LISTS: dict[Kind, str] = {
    "content": "list_content_configs shows every content config.",
    "artifact": "list_artifact_configs shows every artifact config.",
    "collection": "Collection configs stand in the collection folder of the configs.",
}


class FoundConfig(NamedTuple):
    """A config and the project-relative path of its file."""

    path: str
    parsed: ParsedConfig


class InvalidConfigFile(NamedTuple):
    """A file that is no config, why in a sentence, and the error itself."""

    path: str
    error: str
    fault: ChoraError


class Listing(NamedTuple):
    """All files of a kind: configs by id, and what isn't one by path."""

    found: list[FoundConfig]
    invalid: list[InvalidConfigFile]


class _CacheEntry(NamedTuple):
    stamp: FileStamp
    result: ParsedConfig | ChoraError


class Catalog:
    """The config files of a project.

    Args:
        folder: the project folder.
        configs: the config folder in it; empty takes `configs`, else `chora-configs`, whichever is there.
    """

    def __init__(self, folder: Folder, configs: str = "") -> None:
        self._folder = folder
        self._prefix = f"{folder.root}{os.sep}"
        self._configs = folder.relative(configs) if configs else ""
        self._kept: dict[tuple[Kind, str], _CacheEntry] = {}
        self._kept_bytes = 0

    @property
    def root(self) -> str:
        """The config folder, relative to the project."""
        # Asked for with every lookup, and a third of the cost of a Path's.
        present = (root for root in ROOTS if os.path.isdir(self._prefix + root))  # noqa: PTH112
        return self._configs or next(present, ROOTS[0])

    @staticmethod
    def check_id(config_id: str) -> None:
        """Refuse what can't be an id because it is empty, too long, or a path in disguise.

        Raises:
            InvalidConfigId: it is one of these.
        """
        if not config_id.strip():
            problem = "is empty"
        elif len(config_id) > 255:
            problem = f"has {len(config_id)} characters; 255 are allowed"
        elif re.search(r"\.\.|[/\\\x00-\x1f\x7f]", config_id):
            problem = "holds `..`, a slash, a backslash or a control character"
        else:
            return
        shown = config_id if len(config_id) <= 80 else f"{config_id[:79]}…"
        raise InvalidConfigId(
            f"The config id {shown!r} {problem}.",
            "An id is lower-case letters, digits and hyphens, such as weekly-report.",
            id=shown,
        )

    def find(self, kind: Kind, config_id: str, noting: OnRead | None = None) -> FoundConfig:
        """The config of this id: by its file's name, in the order of the layouts, else by the id inside.

        `noting` hears of every path that was looked at, whether something was there or not; and, when no name
        led to the config, of the folder that had to be searched, by its kind behind `CONFIGS`.

        Raises:
            InvalidConfigId: it can't be an id.
            ConfigNotFound: there is none; the hint names ids that are near.
            ValidationFailed: its file doesn't fit the format.
            LimitExceeded, PermissionDenied, StorageError: its file can't be read.
        """
        self.check_id(config_id)
        for path in self._named(kind, config_id):
            if noting:
                noting(path)
            if parsed := self._read(kind, path):
                return FoundConfig(path, check_expected_id(parsed, config_id))
        if noting:
            noting(CONFIGS + kind)
        listing = self.all(kind)
        for found in listing.found:
            if found.parsed.config.id == config_id:
                if noting:
                    noting(found.path)
                return found
        for broken in listing.invalid:
            if broken.fault.details.get("config_id") == config_id:
                raise _again(broken.fault)
        near = difflib.get_close_matches(config_id, [found.parsed.config.id for found in listing.found])
        searched = [*self._named(kind, config_id), *(f"{at}/**" for at in self._folders(kind))]
        raise ConfigNotFound(
            f"There is no {kind} config {config_id!r}.",
            f"Did you mean {' or '.join(near)}?" if near else _LISTS[kind],
            **{_PARAMETERS[kind]: config_id, "searched_paths": searched},
        )

    def open(self, kind: Kind, path: str, noting: OnRead | None = None) -> FoundConfig:
        """The config at a path: as it is given, else under the config folder, else under the folder of its kind.

        A path without a suffix is tried with each of them, and a mere name is an id in the end. An absolute path
        must lie inside the project.

        Raises:
            InvalidConfigId: the path is empty or holds control characters.
            PermissionDenied: the path leads outside the project.
            ConfigNotFound: nothing is there.
            ValidationFailed: its file doesn't fit the format.
            LimitExceeded, StorageError: its file can't be read.
        """
        if not path.strip() or re.search(r"[\x00-\x1f\x7f]", path):
            raise InvalidConfigId(f"The path {path!r} is empty or holds control characters.", id=path)
        if (kind, path) in self._kept:
            if noting:
                noting(path)
            if parsed := self._read(kind, path):
                return FoundConfig(path, parsed)
        outside: PermissionDenied | None = None
        searched: list[str] = []
        for base in ("", self.root, *self._folders(kind)):
            for suffix in ("",) if path.endswith(SUFFIXES) else SUFFIXES:
                try:
                    searched.append(where := self._clean(base, path + suffix))
                    if noting:
                        noting(where)
                    if parsed := self._read(kind, where):
                        return FoundConfig(where, parsed)
                except PermissionDenied as error:
                    outside = outside or error
            if Path(path).is_absolute():
                break
        if outside:
            raise outside
        if "/" not in path and not path.endswith(SUFFIXES):
            return self.find(kind, path, noting)
        raise ConfigNotFound(
            f"There is no {kind} config at {path!r}.",
            _LISTS[kind],
            **{_PARAMETERS[kind]: path, "searched_paths": list(dict.fromkeys(searched))},
        )

    def all(self, kind: Kind) -> Listing:
        """Every file of a kind. Of two with one id the one that `find` takes counts; the other is invalid."""
        found: dict[str, list[FoundConfig]] = {}
        invalid: list[InvalidConfigFile] = []
        for path in self._files(kind):
            try:
                parsed = self._read(kind, path)
            except ChoraError as error:
                invalid.append(InvalidConfigFile(path, error.message, error))
            else:
                if parsed:  # it may have been removed since the folder was read
                    found.setdefault(parsed.config.id, []).append(FoundConfig(path, parsed))
        chosen: list[FoundConfig] = []
        for config_id, rivals in sorted(found.items()):
            if len(rivals) > 1:
                ranks = {path: rank for rank, path in enumerate(self._named(kind, config_id))}
                rivals.sort(key=lambda rival: (ranks.get(rival.path, len(ranks)), rival.path))
            chosen.append(rivals[0])
            invalid += [_shadowed(rival, rivals[0]) for rival in rivals[1:]]
        return Listing(chosen, sorted(invalid, key=lambda broken: broken.path))

    def digest(self, kind: Kind) -> str:
        """A hash that changes when a file of a kind appears, vanishes or goes by another id."""
        listing = self.all(kind)
        names = [(found.path, found.parsed.config.id) for found in listing.found]
        return sha256(msgspec.json.encode([names, [broken.path for broken in listing.invalid]]))

    def where_to_save(self, kind: Kind, config_id: str) -> str:
        """Where the config already is, else where a new one belongs, project-relative.

        Raises:
            InvalidConfigId: it can't be an id.
        """
        self.check_id(config_id)
        listing = self.all(kind)
        for found in listing.found:
            if found.parsed.config.id == config_id:
                return found.path
        for broken in listing.invalid:
            if broken.fault.details.get("config_id") == config_id:
                return broken.path
        shape = "{id}" if kind == "collection" else "{id}/{id}-{kind}"
        usual = f"{self._folders(kind)[0]}/{shape.format(id=config_id, kind=kind)}.json"
        # A file of this name that holds another id isn't this config, and isn't to be replaced by it.
        free = (path for path in (usual, *self._named(kind, config_id)) if self._stamp(path) is None)
        return next(free, usual)

    # -- places --

    def _folders(self, kind: Kind) -> tuple[str, str]:
        at = "" if (root := self.root) == "." else f"{root}/"
        return f"{at}{kind}", f"{at}{kind}s"

    def _named(self, kind: Kind, config_id: str) -> Iterator[str]:
        """Where a config of this id may be by its name, in the order of search."""
        for at in self._folders(kind):
            for shape in _SHAPES:
                name = f"{at}/{shape.format(id=config_id, kind=kind)}"
                yield from (name + suffix for suffix in SUFFIXES)

    def _files(self, kind: Kind) -> Iterator[str]:
        """The files of a kind; one that stands in both folders under the same name only once."""
        seen: set[str] = set()
        for at in self._folders(kind):
            for path in self._folder.files(at, SUFFIXES):
                if (name := path.removeprefix(f"{at}/")) not in seen:
                    seen.add(name)
                    yield path

    def _clean(self, base: str, path: str) -> str:
        """A path as the cache knows it: project-relative, forward slashes, without `.` and `..`."""
        joined = PurePosixPath(base, path)
        if joined.is_absolute() or ".." in joined.parts or Path(path).is_absolute():
            return self._folder.relative(str(joined))
        return str(joined)

    # -- reading --

    def _stamp(self, path: str) -> FileStamp | None:
        """The file's stamp, None if no regular file is there. Reading goes through the folder, which checks more."""
        try:
            # A third of the cost of a Path's, and it is nearly all that finding an unchanged config costs.
            status = os.stat(self._prefix + path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return FileStamp.of(status)

    def _read(self, kind: Kind, path: str) -> ParsedConfig | None:
        """What the file holds, None if there is none. Raises what `find` raises for a file that is no config."""
        if (stamp := self._stamp(path)) is None:
            self._forget((kind, path))
            return None
        key = (kind, path)
        if (kept := self._kept.get(key)) and kept.stamp == stamp:
            self._kept[key] = self._kept.pop(key)  # the least recently used one stays first
            result = kept.result
        else:
            started = time.time_ns()
            try:
                result = self._parse(kind, path)
            except FileNotFoundError:
                return None
            self._forget(key)
            if stamp.is_at_rest(started) and self._stamp(path) == stamp:
                self._keep(key, _CacheEntry(stamp, result))
        if isinstance(result, ChoraError):
            raise _again(result)
        return result

    def _parse(self, kind: Kind, path: str) -> ParsedConfig | ChoraError:
        try:
            data = self._folder.read_bytes(path, limit=CONFIG_LIMIT)
            parsed = parse_config(kind, decode(data, path), where=path)
            twice = duplicate_keys(data) if path.endswith(".json") else []
            return parsed._replace(warnings=[*map(_duplicate_key, twice[:ISSUES_LIMIT]), *parsed.warnings])
        except FileNotFoundError:
            raise
        except OSError as error:
            details = io_details(error, path=path)
            return StorageError(f"{path} can't be read: {error.strerror}.", "Check the disk.", **details)
        except ChoraError as error:
            return _again(error)

    def _keep(self, key: tuple[Kind, str], kept: _CacheEntry) -> None:
        self._kept[key] = kept
        self._kept_bytes += kept.stamp.size
        while self._kept_bytes > CACHE_LIMIT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: tuple[Kind, str]) -> None:
        if kept := self._kept.pop(key, None):
            self._kept_bytes -= kept.stamp.size


def _again(error: ChoraError) -> ChoraError:
    """The same error without where it was raised, which would keep the file's content in memory."""
    return type(error)(error.message, error.hint, **error.details)


def _shadowed(rival: FoundConfig, chosen: FoundConfig) -> InvalidConfigFile:
    config_id = rival.parsed.config.id
    fault = ValidationFailed(
        f"{rival.path} has the id {config_id}, and so has {chosen.path}, which is the one that counts.",
        "Give one of them another id, or remove it.",
        file=rival.path,
        schema_errors=[
            schema_error("two configs with one id", f'"id": "{config_id}"', "an id of its own", "another id")
        ],
    )
    return InvalidConfigFile(rival.path, fault.message, fault)


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
