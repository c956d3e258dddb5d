"""Importing the history of a project: generated texts and drafts."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import msgspec

from chora.decoding import decode
from chora.engine.legacy.conversion import kind_of
from chora.engine.legacy.import_state import HISTORY_FOLDER, KIND_BY_FOLDER, ImportCounts, ImportState
from chora.errors import ChoraError, InvalidInput
from chora.files import CONFIG_LIMIT
from chora.hashing import sha256
from chora.store import Draft, Record, Store, Version
from chora.store.ids import id_at, time_of_id
from chora.timestamps import format_timestamp
from chora.wording import printable

BATCH = 200
"""Records that are stored in one step."""

_OWN_FILES = re.compile(r"(\.lock|last-version-id|deleting\.json|[a-z]+\.jsonl)")
_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[T_ -]?(\d\d)[:-]?(\d\d)[:-]?(\d\d)(?:[.,_-]?(\d{1,6}))?(?:\d*)(?:Z|[+-]00[:-]?00)?",
    re.ASCII,
)
_NO_TIME = "Neither its name nor its content says when it was generated."


class HistoryImport:
    """Adds the generated texts and drafts of an old project to the store."""

    def __init__(self, state: ImportState) -> None:
        self._state = state
        self.versions = ImportCounts()
        self.drafts = ImportCounts()

    async def import_history(self) -> None:
        """Import generated texts and drafts into the store."""
        versions: list[_OldVersion] = []
        drafts: list[Draft] = []
        about = {
            path
            for path in self._state.list_old_files(HISTORY_FOLDER)
            if path.endswith(".meta.json") and path.count("/") == 2
        }
        unread = set(about)
        for path in self._state.list_old_files(HISTORY_FOLDER):
            parts = path.split("/")
            if path in about:
                continue
            if parts[1] == "drafts":
                drafts += self._read_draft(path)
            elif len(parts) == 5 and parts[1] == "content" and re.fullmatch(r"v\d+", parts[3]):
                if parts[4] != "metadata.json":
                    versions += self._read_version(path, parts[2])
            elif len(parts) == 3 and parts[1] != "content":
                beside = next((each for each in _companion_files(path) if each in about), None)
                unread.discard(beside or "")
                versions += self._read_text(path, parts[1], beside)
            elif not (len(parts) == 2 and _OWN_FILES.fullmatch(parts[1])):
                self._state.skip_file(path, "chora-compose kept no texts in this place.")
        for path in sorted(unread):
            self._state.skip_file(path, "There is no text that it belongs to.")
        for path in self._state.list_old_files("drafts"):
            drafts += self._read_draft(path)
        await self._store_versions(versions)
        await self._store_drafts(drafts)

    def _read_document(self, path: str) -> dict[str, Any] | None:
        if (data := self._state.read_old_file(path, 10 * CONFIG_LIMIT)) is None:
            return None
        try:
            document = decode(data, path, old_yaml=True)
        except ChoraError as error:
            self._state.skip_file(path, error.message)
            return None
        if not isinstance(document, dict):
            self._state.skip_file(path, "It isn't an object.")
            return None
        return cast("dict[str, Any]", document)

    def _read_version(self, path: str, content_id: str) -> Iterator[_OldVersion]:
        """A text of the layout `content/{id}/v{N}/{time}.json`."""
        if not path.endswith(".json"):
            self._state.skip_file(path, "Texts of this layout are JSON files.")
            return
        if (document := self._read_document(path)) is None:
            return
        content = document.get("content")
        moment = _parse_time(document.get("generated_at"), path)
        if content is None or moment is None:
            self._state.skip_file(path, "It has no content." if content is None else _NO_TIME)
            return
        body = content if isinstance(content, str) else msgspec.json.encode(content).decode()
        yield _OldVersion(
            moment, path, _version(path, str(document.get("content_id") or content_id), body, document, moment)
        )

    def _read_text(self, path: str, content_id: str, beside: str | None) -> Iterator[_OldVersion]:
        """A text of the layout `{id}/{time}.{ext}`, with its metadata beside it."""
        if PurePosixPath(path).name.partition(".")[0] == "latest":  # links to the newest one
            return
        about = (self._read_document(beside) if beside else None) or {}
        times = (about.get(key) for key in ("generated_at", "timestamp", "created_at"))
        moment = _parse_time(next((each for each in times if each), None), path)
        if moment is None:
            self._state.skip_file(path, _NO_TIME)
            return
        if (data := self._state.read_old_file(path, 10 * CONFIG_LIMIT)) is None:
            return
        try:
            body = data.decode("utf-8")
        except UnicodeDecodeError:
            self._state.skip_file(path, "It isn't UTF-8 text.")
            return
        yield _OldVersion(moment, path, _version(path, str(about.get("content_id") or content_id), body, about, moment))

    def _read_draft(self, path: str) -> Iterator[Draft]:
        if not path.endswith(".json"):
            self._state.skip_file(path, "Drafts are JSON files.")
            return
        if (document := self._read_document(path)) is None:
            return
        name = PurePosixPath(path).stem
        keys = ("config_data", "config", "config_json", "data")
        data = next((document[key] for key in keys if isinstance(document.get(key), dict)), document)
        folder = KIND_BY_FOLDER.get(path.split("/")[-2])
        kind = str(document.get("config_type") or kind_of(data) or folder or "")
        if kind not in KIND_BY_FOLDER.values() or (data is document and "id" not in data):
            self._state.skip_file(path, "It holds no draft of a config.")
            return
        draft_id = str(document.get("draft_id") or name)
        moment = _parse_time(document.get("created_at"), draft_id)
        if moment is None:
            moment = datetime.fromtimestamp((self._state.old_project.root / path).stat().st_mtime, UTC)
        updated = _parse_time(document.get("updated_at"), "") or moment
        description = document.get("description") if data is not document else None
        yield Draft(
            draft_id=draft_id,
            config_type=kind,
            config_data=data,
            description=str(description) if description is not None else None,
            created_at=format_timestamp(moment),
            updated_at=format_timestamp(updated),
        )

    async def _store_versions(self, found: list[_OldVersion]) -> None:
        known = _StoredRecords(self._state.store)
        new: list[Record] = []
        for each in sorted(found, key=lambda old: (old.time, old.version.content_id, old.path)):
            if (version := known.assign_id(each)) is not None:
                new.append(version)
        await self._add_in_batches(new)
        self.versions = ImportCounts(len(new), len(found) - len(new))

    async def _store_drafts(self, found: list[Draft]) -> None:
        new: list[Record] = []
        already_there = 0
        for draft in found:
            stored = self._state.store.draft(draft.draft_id)
            if stored is None:
                new.append(draft)
            elif stored.config_data == draft.config_data:
                already_there += 1
            else:
                self._state.skip_file(draft.draft_id, "The store has another draft of this name; it is left as it is.")
        await self._add_in_batches(new)
        self.drafts = ImportCounts(len(new), already_there)

    async def _add_in_batches(self, records: list[Record]) -> None:
        if self._state.dry_run:
            return
        for first in range(0, len(records), BATCH):
            await self._state.store.add_records(records[first : first + BATCH])


class _OldVersion(NamedTuple):
    """A text of the old project, without its id."""

    time: datetime
    path: str
    version: Version


class _StoredRecords:
    """The versions that are stored already, and the ids that are taken."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: set[str] = set()
        self._ids_by_time: dict[tuple[str, str], list[str]] = defaultdict(list)
        for content_id in store.content_ids():
            for info in store.version_infos(content_id):
                self._ids.add(info.version_id)
                self._ids_by_time[content_id, info.generated_at].append(info.version_id)

    def assign_id(self, old: _OldVersion) -> Version | None:
        """The version with an id of its own; None if it is there already."""
        version = old.version
        if version.version_id in self._ids:
            return None
        for version_id in self._ids_by_time[version.content_id, version.generated_at]:
            stored = self._store.version(version.content_id, version_id)
            if stored is not None and (stored.deleted or stored.body == version.body):
                return None
        version_id = version.version_id
        # The same text gets the same id again; those of one content and millisecond keep their order.
        count = zlib.crc32(version.content_id.encode()) & 0x7FFF
        while not version_id or version_id in self._ids:
            version_id = id_at(old.time, count)
            count = (count + 1) & 0xFFFF
        self._ids.add(version_id)
        return msgspec.structs.replace(version, version_id=version_id)


def _version(path: str, content_id: str, body: str, about: dict[str, Any], moment: datetime) -> Version:
    version = about.get("version") or about.get("config_version")
    known = about.get("metadata")
    metadata: dict[str, Any] = {**cast("dict[str, Any]", known)} if isinstance(known, dict) else {}
    hashed = about.get("context_hash") or sha256(body.encode())
    return Version(
        content_id=content_id,
        body=body,
        sha256=sha256(body.encode()),
        # A fingerprint that no text of chora has: its inputs aren't known well enough to skip generating it.
        fingerprint=f"imported {hashed}",
        generator=str(about.get("generator_type") or about.get("generator") or "unknown"),
        generator_version=str(metadata.get("generator_version") or about.get("generator_version") or ""),
        generated_at=format_timestamp(moment),
        stage=str(about.get("stage") or "draft"),
        approved=about.get("approved") is True,
        deleted=about.get("deleted") is True,
        config_version=version if isinstance(version, str) and re.fullmatch(r"\d+(\.\d+)+", version) else None,
        metadata={**metadata, "imported_from": printable(path)},
        version_id=_valid_id(about.get("version_id")),
    )


def _valid_id(found: object) -> str:
    """The id that a file of chora's own names."""
    try:
        time_of_id(str(found))
    except InvalidInput:
        return ""
    return str(found)


def _parse_time(given: object, name: str) -> datetime | None:
    """The time that a record names, else the one in its name; times without a zone are UTC."""
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            pass
        else:
            return _usable(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    stem = PurePosixPath(name).name
    if (form := _TIME.search(stem)) is not None:
        *whole, part = form.groups()
        try:
            year, month, day, hour, minute, second = map(int, whole)
            return _usable(datetime(year, month, day, hour, minute, second, int((part or "").ljust(6, "0")), UTC))
        except ValueError:
            return None
    return None


def _usable(moment: datetime) -> datetime | None:
    return moment if 1970 <= moment.year < 9999 else None


def _companion_files(path: str) -> tuple[str, str]:
    """Where the metadata of a text may be."""
    return f"{path.rpartition('.')[0]}.meta.json", f"{path}.meta.json"
