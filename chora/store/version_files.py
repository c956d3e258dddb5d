"""The files of versions, drafts and deletions: their names, their content, and folders of them that are cached."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from chora.disk import file_name
from chora.errors import StorageError
from chora.file_stamps import FileStamp, is_at_rest
from chora.nesting import check_json_structure
from chora.nofollow import list_entries, read_file
from chora.store.records import (
    Draft,
    Version,
    VersionInfo,
)

log = logging.getLogger("chora.store")
T = TypeVar("T")
VERSION_FILE_NAME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d)-(\d\d)-(\d\d)\.(\d{3})Z-([0-9a-f]{4})\.json", re.ASCII)
DRAFT_FILE_NAME = re.compile(r"[^.].*\.json")
_NUMBERED_FOLDER = re.compile(r"v([1-9][0-9]{0,8})", re.ASCII)


class VersionFile(Struct, frozen=True, kw_only=True):
    """The JSON of a version's file; the field names are those of chora-compose."""

    content_id: str
    version: str | None
    version_id: str
    generated_at: str
    generator_type: str
    generator_version: str
    context_hash: str
    sha256: str
    stage: str
    approved: bool
    deleted: bool
    content: str
    metadata: dict[str, Any]


class VersionSummary(NamedTuple):
    """What is cached of a version."""

    info: VersionInfo
    fingerprint: str


class PendingDeletion(Struct, frozen=True):
    version_ids: list[str]
    keep_metadata: bool


class CachedFolder(Generic[T]):
    """The files in one folder with matching names, each parsed on demand and again when it changed.

    Args:
        path: the folder; a missing one counts as empty.
        form: the pattern of the file names.
        parse: parses the bytes of a file; raises msgspec.DecodeError if they are invalid.
    """

    def __init__(self, path: Path, pattern: re.Pattern[str], parse: Callable[[bytes, str], T]) -> None:
        self.path = path
        self._pattern = pattern
        self._parse = parse
        self._trusted = -1
        self._stamps: dict[str, FileStamp] = {}
        self._names: list[str] = []
        self._parsed: dict[str, tuple[FileStamp, T | None]] = {}

    def file_names(self) -> list[str]:
        """The names of the current files, sorted; the same list as long as nothing has changed. Don't change it."""
        try:
            modified = _modified(self.path)
            if modified != self._trusted:
                self._set_stamps(self._scan())
                self._trusted = modified if is_at_rest(modified) else -1
        except (FileNotFoundError, NotADirectoryError):
            self._trusted = -1
            self._set_stamps({})
        return self._names

    def _set_stamps(self, stamps: dict[str, FileStamp]) -> None:
        if stamps != self._stamps:
            self._stamps, self._names = stamps, sorted(stamps)

    def _scan(self) -> dict[str, FileStamp]:
        stamps: dict[str, FileStamp] = {}
        for entry in list_entries(self.path):
            if self._pattern.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
                    stamps[entry.name] = FileStamp.of(entry.stat(follow_symlinks=False))
        return stamps

    def read_file(self, name: str) -> T | None:
        """The parsed file; None if it is gone or invalid."""
        stamp = self._stamps.get(name)
        known = self._parsed.get(name)
        if known is None or known[0] != stamp:
            if stamp is None:
                return None
            known = self._parsed[name] = stamp, load_file(self.path / name, self._parse)
        return known[1]

    def read_all(self) -> Iterator[T]:
        """The parsed files, by name, without invalid ones."""
        for name in self.file_names():
            if (found := self.read_file(name)) is not None:
                yield found


def load_file(path: Path, parse: Callable[[bytes, str], T]) -> T | None:
    """Parse a file; None if it doesn't exist, and None with a warning if it is invalid."""
    try:
        data = read_file(path)
        check_json_structure(data)
        return parse(data, path.name)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        log.warning("%s can't be decoded; it is ignored and left unchanged: %s", path, error)
        return None


def _modified(folder: Path) -> int:
    """When a folder was last changed; not through a link, which could be changed without a trace."""
    return os.lstat(folder).st_mtime_ns


class ContentFolder:
    """The folders of one content: v1, v2, …"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trusted = -1
        self._folders: dict[int, CachedFolder[VersionSummary]] = {}
        self._names: list[list[str]] = []
        self._found: dict[str, CachedFolder[VersionSummary]] = {}

    def numbered_folders(self) -> dict[int, CachedFolder[VersionSummary]]:
        """The folders by number."""
        try:
            modified = _modified(self.path)
            if modified != self._trusted:
                numbers = [
                    int(form[1]) for each in list_entries(self.path) if (form := _NUMBERED_FOLDER.fullmatch(each.name))
                ]
                self._folders = {
                    number: self._folders.get(number)
                    or CachedFolder(self.path / f"v{number}", VERSION_FILE_NAME, parse_summary)
                    for number in sorted(numbers)
                }
                self._trusted = modified if is_at_rest(modified) else -1
        except (FileNotFoundError, NotADirectoryError):
            self._trusted, self._folders = -1, {}
        return self._folders

    def version_folders(self) -> dict[str, CachedFolder[VersionSummary]]:
        """Every version id and the folder of its file, oldest first; the same one as long as nothing has changed. Don't
        change it."""
        folders = self.numbered_folders().values()
        names = [folder.file_names() for folder in folders]
        if len(names) != len(self._names) or any(
            one is not other for one, other in zip(names, self._names, strict=True)
        ):
            found = {version_id_of(name): folder for folder, here in zip(folders, names, strict=True) for name in here}
            self._names, self._found = names, dict(sorted(found.items()))
        return self._found


class ContentFolders:
    """The folders of all contents, listed again when one appears or goes.

    Args:
        path: the folder that they are in; a missing one counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trusted = -1
        self._by_name: dict[str, ContentFolder] = {}
        self._names: frozenset[str] = frozenset()
        self._ids: list[str] = []
        """The ids that the names of folders tell, sorted; there may be no version of them."""
        self._unclear: set[str] = set()
        """The names that tell no id."""

    def folder_of(self, content_id: str) -> ContentFolder:
        """The folder of a content, which may not exist yet."""
        return self._folder_at(file_name(content_id))

    def all_folders(self) -> list[ContentFolder]:
        """The folders that exist."""
        self._refresh()
        return [self._folder_at(name) for name in self._names]

    def ids(self, after: str | None, limit: int | None) -> list[str]:
        """A page of the contents that have a version, sorted. Only the folders of these are looked into."""
        self._refresh()
        start = 0 if after is None else bisect_right(self._ids, after)
        clear = (each for each in islice(self._ids, start, None) if _content_id_of(self.folder_of(each)) == each)
        found = {_content_id_of(self._folder_at(name)) for name in self._unclear} - {None}
        others = sorted(each for each in found if each is not None and (after is None or each > after))
        return list(islice(merge(clear, others), limit))

    def _folder_at(self, name: str) -> ContentFolder:
        if (folder := self._by_name.get(name)) is None:
            folder = self._by_name[name] = ContentFolder(self.path / name)
        return folder

    def _refresh(self) -> None:
        try:
            modified = _modified(self.path)
            if modified == self._trusted:
                return
            names = frozenset(entry.name for entry in list_entries(self.path) if not entry.name.startswith("."))
            self._trusted = modified if is_at_rest(modified) else -1
        except (FileNotFoundError, NotADirectoryError):
            names, self._trusted = frozenset[str](), -1
        if names != self._names:
            for name in self._names - names:
                self._by_name.pop(name, None)
            self._names = names
            self._unclear = {name for name in names if "%" in name or "~" in name}
            self._ids = sorted(names - self._unclear)


def _content_id_of(content: ContentFolder) -> str | None:
    """The content id of a folder; None if it holds no version."""
    for version_id, folder in content.version_folders().items():
        summary = folder.read_file(version_file_name(version_id))
        if summary is not None and file_name(summary.info.content_id) == content.path.name:
            return summary.info.content_id
    return None


def version_file_name(version_id: str) -> str:
    """The name of a version's file: the time in its id, in ISO 8601."""
    d = version_id
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[9:11]}-{d[11:13]}-{d[13:15]}.{d[15:18]}Z{d[19:]}.json"


def version_id_of(name: str) -> str:
    """The version id in a file name."""
    matched = VERSION_FILE_NAME.fullmatch(name)
    assert matched is not None
    year, month, day, hour, minute, second, milliseconds, count = matched.groups()
    return f"{year}{month}{day}T{hour}{minute}{second}{milliseconds}Z-{count}"


_decode_version = msgspec.json.Decoder(VersionFile).decode
_decode_draft = msgspec.json.Decoder(Draft).decode


def parse_version(data: bytes, name: str) -> Version:
    file = _decode_version(data)
    if name != version_file_name(file.version_id):
        raise msgspec.ValidationError(f"it holds the version {file.version_id}, which would have another name")
    return Version(
        content_id=file.content_id,
        body=file.content,
        sha256=file.sha256,
        fingerprint=file.context_hash,
        generator=file.generator_type,
        generator_version=file.generator_version,
        generated_at=file.generated_at,
        config_version=file.version,
        stage=file.stage,
        approved=file.approved,
        metadata=file.metadata,
        version_id=file.version_id,
        deleted=file.deleted,
    )


def parse_summary(data: bytes, name: str) -> VersionSummary:
    version = parse_version(data, name)
    return VersionSummary(
        VersionInfo(
            version_id=version.version_id,
            content_id=version.content_id,
            generated_at=version.generated_at,
            generator=version.generator,
            config_version=version.config_version,
            stage=version.stage,
            approved=version.approved,
            deleted=version.deleted,
            size=len(version.body.encode()),
        ),
        version.fingerprint,
    )


def parse_draft(data: bytes, name: str) -> Draft:
    draft = _decode_draft(data)
    if name != f"{file_name(draft.draft_id)}.json":
        raise msgspec.ValidationError(f"it holds the draft {draft.draft_id}, which would have another name")
    return draft


def parse_deletion(data: bytes, _: str) -> PendingDeletion:
    return msgspec.json.decode(data, type=PendingDeletion)


def version_to_file(version: Version) -> VersionFile:
    return VersionFile(
        content_id=version.content_id,
        version=version.config_version,
        version_id=version.version_id,
        generated_at=version.generated_at,
        generator_type=version.generator,
        generator_version=version.generator_version,
        context_hash=version.fingerprint,
        sha256=version.sha256,
        stage=version.stage,
        approved=version.approved,
        deleted=version.deleted,
        content=version.body,
        metadata=version.metadata,
    )


def encode_pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def foreign_file_error(path: Path) -> StorageError:
    return StorageError(
        f"{path} holds something that chora didn't write; it is left unchanged.",
        "Move the file away.",
        storage_path=str(path),
    )
