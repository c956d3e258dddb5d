"""Importing a chora-compose project: its configs and templates as files, its history into the store.

Nothing is overwritten, nothing in the old project changes, and repeating the import changes nothing. What isn't
understood is listed with the reason.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from chora.catalog import ROOTS, SUFFIXES
from chora.config_parsing import parse_config
from chora.decoding import decode
from chora.engine.legacy.conversion import Conversion, convert, kind_of
from chora.errors import ChoraError, InvalidInput, ValidationFailed, WriteFailed, io_details
from chora.files import CONFIG_LIMIT, Folder
from chora.hashing import sha256
from chora.model import Kind
from chora.store import Draft, Record, Store, Version
from chora.store.ids import id_at, time_of_id
from chora.timestamps import format_timestamp, printable

SETTINGS = """\
# Settings of this project; `chora config` lists all of them with their values and origins.

[templates]
# Templates of chora-compose may use names that nothing gives a value. "strict" makes them errors.
undefined = "lenient"
"""
HISTORY = "ephemeral"
BATCH = 200
"""Records that are stored in one step."""

_FOLDERS: dict[str, Kind] = {
    "content": "content",
    "contents": "content",
    "artifact": "artifact",
    "artifacts": "artifact",
    "collection": "collection",
    "collections": "collection",
}
_TEMPLATES = ("templates/", *(f"{root}/templates/" for root in ROOTS))
_REFERENCES = ("source_locator", "path", "file", "template", "template_file")
"""Keys whose value may be the path of a file that a config reads."""
_OWN = re.compile(r"(\.lock|last-version-id|deleting\.json|[a-z]+\.jsonl)")
_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[T_ -]?(\d\d)[:-]?(\d\d)[:-]?(\d\d)(?:[.,_-]?(\d{1,6}))?(?:\d*)(?:Z|[+-]00[:-]?00)?",
    re.ASCII,
)


class Skipped(Struct, frozen=True):
    """A file of the old project that isn't imported, and why."""

    path: str
    reason: str


class Converted(Struct, frozen=True):
    """A config that was converted to the dialect that chora reads."""

    path: str
    source: str
    changes: list[str]
    left: list[str]
    """What has no place in that dialect and so has no effect any more."""


class Brought(Struct, frozen=True):
    """How many records were imported, and how many were stored already."""

    imported: int = 0
    already_there: int = 0


class Imported(Struct, frozen=True, kw_only=True):
    """What an import did, or would do."""

    source: str
    project: str
    dry_run: bool
    settings_written: bool
    copied: list[str]
    converted: list[Converted]
    unchanged: int
    """Files that were there already, byte for byte."""
    versions: Brought
    drafts: Brought
    skipped: list[Skipped]
    warnings: list[str]


async def import_project(
    source: Path,
    folder: Folder,
    store: Store,
    *,
    configs: str = "",
    is_strict: bool = False,
    to_convert: bool = False,
    dry_run: bool = False,
) -> Imported:
    """Import a chora-compose project into a chora project.

    Args:
        source: the old project; it may be the new one itself, which then only gets its history and settings.
        folder: the new project.
        store: the new project's store.
        configs: the new project's config folder, if its settings name one.
        is_strict: whether undefined names in templates are errors there.
        to_convert: convert configs of other dialects.
        dry_run: only report what would be done.

    Raises:
        InvalidInput: there is no chora-compose project at `source`.
        WriteFailed, StorageError, OSError: something can't be written; the import can be repeated.
    """
    try:
        old = Folder(source)
    except OSError as error:
        raise InvalidInput(f"{source} can't be reached: {error.strerror}.", None, field="DIR") from None
    there = [root for root in (*ROOTS, "templates", "drafts", HISTORY) if (old.root / root).is_dir()]
    if not there:
        raise InvalidInput(
            f"{old.root} holds no chora-compose project.",
            f"It would have a folder {', '.join(ROOTS)} or {HISTORY}.",
            field="DIR",
        )
    work = _Import(old, folder, store, configs, dry_run)
    if old.root != folder.root:
        await work.bring_files(to_convert)
    await work.bring_history()
    return await work.finish(is_strict)


class _Config(NamedTuple):
    """A config of the old project while it is imported."""

    path: str
    target: str
    data: bytes
    document: dict[str, Any]


class _Import:
    def __init__(self, old: Folder, new: Folder, store: Store, configs: str, dry_run: bool) -> None:
        self._old = old
        self._new = new
        self._store = store
        self._dry_run = dry_run
        present = (root for root in ROOTS if (new.root / root).is_dir())
        self._root = configs or next(present, "")
        """The project's config folder; empty if there is none yet."""
        self._copied: list[str] = []
        self._converted: list[Converted] = []
        self._unchanged = 0
        self._skipped: list[Skipped] = []
        self._moved: dict[str, tuple[str, str]] = {}
        """Configs that got another path or id: the new ones, by the old path."""
        self._brought: dict[str, Brought] = {"versions": Brought(), "drafts": Brought()}

    def _skip(self, path: str, reason: str) -> None:
        self._skipped.append(Skipped(printable(path), reason))

    def _read(self, path: str, limit: int) -> bytes | None:
        try:
            return self._old.read_bytes(path, limit=limit)
        except ChoraError as error:
            self._skip(path, error.message)
        except OSError as error:
            self._skip(path, f"It can't be read: {error.strerror}.")
        return None

    async def finish(self, is_strict: bool) -> Imported:
        warnings: list[str] = []
        is_another = self._old.root != self._new.root
        if is_another and self._old.is_file("chora.toml"):
            self._skip("chora.toml", "Settings aren't taken over; compare the two with `chora config`.")
        has_settings = (self._new.root / "chora.toml").exists()
        if not has_settings and not self._dry_run:
            await self._new.write_file("chora.toml", SETTINGS.encode())
        if has_settings and is_strict and is_another:
            warnings.append(
                "The settings of this project make undefined names in templates errors, which they weren't: "
                'undefined = "lenient" under [templates] in chora.toml makes them warnings.'
            )
        return Imported(
            source=str(self._old.root),
            project=str(self._new.root),
            dry_run=self._dry_run,
            settings_written=not has_settings,
            copied=self._copied,
            converted=self._converted,
            unchanged=self._unchanged,
            versions=self._brought["versions"],
            drafts=self._brought["drafts"],
            skipped=self._skipped,
            warnings=warnings,
        )

    # -- files ----------------------------------------------------------------------------------------------

    async def bring_files(self, to_convert: bool) -> None:
        """Copy configs and what they read, contents first, because artifacts name the paths of contents."""
        configs: dict[Kind, list[_Config]] = {"content": [], "artifact": [], "collection": []}
        others: list[str] = []
        for root in ROOTS:
            for path in self._files(root):
                if not path.startswith(_TEMPLATES):
                    self._sort(path, configs, others)
        read_by: dict[str, str] = {}
        for kind, found in configs.items():
            for config in found:
                if (document := await self._bring_config(kind, config, to_convert)) is not None:
                    for name in _references(document):
                        read_by.setdefault(name, config.path)
        for templates in _TEMPLATES:
            for path in self._files(templates):
                await self._copy(path, path)
        elsewhere = (*(f"{root}/" for root in ROOTS), "templates/", f"{HISTORY}/")
        for path in read_by:
            if not path.startswith(elsewhere) and self._old.is_file(path):
                await self._copy(path, path)
        for path in others:
            if path in read_by:
                await self._copy(path, path)
            else:
                self._skip(path, "It is neither a config nor a template, and no config names it.")

    def _files(self, folder: str) -> list[str]:
        """The files beneath a folder, but for those that are hidden."""
        return [path for path in self._old.list_files(folder, ("",)) if not PurePosixPath(path).name.startswith(".")]

    def _sort(self, path: str, configs: dict[Kind, list[_Config]], others: list[str]) -> None:
        """Classify a file of the config folder."""
        if not path.endswith(SUFFIXES):
            others.append(path)
            return
        if (data := self._read(path, CONFIG_LIMIT)) is None:
            return
        try:
            document = decode(data, path)
        except ChoraError as error:
            self._skip(path, error.message)
            return
        parts = path.split("/")
        folder = _FOLDERS.get(parts[1]) if len(parts) > 2 else None
        record = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if kind := kind_of(record) or (folder if "id" in record else None):
            inside = "/".join(parts[1:]) if folder == kind else f"{kind}/{parts[-1]}"
            configs[kind].append(_Config(path, f"{self._root or parts[0]}/{inside}", data, record))
        else:
            others.append(path)

    async def _bring_config(self, kind: Kind, config: _Config, to_convert: bool) -> dict[str, Any] | None:
        """Copy or convert a config; returns what it is now, or None if it isn't imported."""
        try:
            parsed = parse_config(kind, config.document, where="It")
        except ValidationFailed as error:
            if not to_convert:
                self._skip(config.path, f"{error.message} --convert may help.")
                return None
            return await self._convert(kind, config, convert(kind, config.document, config.path))
        if any(self._moved_to(child) for child in _children(config.document)):
            return await self._convert(kind, config, Conversion(kind, deepcopy(config.document), [], []))
        if config.path != config.target:
            self._moved[config.path] = config.target, parsed.config.id
        await self._copy(config.path, config.target)
        return config.document

    async def _convert(self, kind: Kind, config: _Config, conversion: Conversion) -> dict[str, Any] | None:
        """Write a config as it is now; returns it, or None if it still is none."""
        document, changes = conversion.document, conversion.changes
        for child in _children(document):
            if (moved := self._moved_to(child)) is not None:
                child["path"], child["id"] = moved
                changes.append(f"{child['id']}: its path is {child['path']}")
        try:
            parse_config(kind, document, where="It")
        except ValidationFailed as error:
            faults: list[dict[str, str]] = error.details["schema_errors"]
            self._skip(config.path, "It can't be converted: " + " ".join(fault["message"] for fault in faults[:10]))
            return None
        target = config.target
        is_named_so = PurePosixPath(target).name in (f"{document['id']}.json", f"{document['id']}-{kind}.json")
        if not is_named_so and (document["id"] != config.document.get("id") or not target.endswith(".json")):
            shape = "{id}.json" if kind == "collection" else "{id}/{id}-{kind}.json"
            target = f"{target.split('/')[0]}/{kind}/{shape.format(id=document['id'], kind=kind)}"
        self._moved[config.path] = target, document["id"]
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        if await self._write(config.path, target, data):
            self._converted.append(Converted(target, config.path, changes, conversion.left))
        return document

    def _moved_to(self, child: dict[str, Any]) -> tuple[str, str] | None:
        named = str(child.get("path", ""))
        folders = (*ROOTS, *(f"{root}/{folder}" for root in ROOTS for folder in _FOLDERS))
        for path in (named, *(f"{folder}/{named}" for folder in folders)):
            if (moved := self._moved.get(path)) is not None and moved != (named, child.get("id")):
                return moved
        return None

    async def _copy(self, path: str, target: str) -> None:
        if (data := self._read(path, 10 * CONFIG_LIMIT)) is not None and await self._write(path, target, data):
            self._copied.append(target)

    async def _write(self, path: str, target: str, data: bytes) -> bool:
        """Write a file that isn't there; returns whether it was written, or would be."""
        try:
            there = self._new.read_bytes(target, limit=10 * CONFIG_LIMIT)
        except FileNotFoundError:
            pass
        except ChoraError as error:
            self._skip(path, error.message)
            return False
        else:
            if there == data:
                self._unchanged += 1
            else:
                self._skip(path, f"{target} is there already and holds something else; it is left as it is.")
            return False
        try:
            if not self._dry_run:
                await self._new.write_file(target, data)
        except OSError as error:
            raise WriteFailed(
                f"{target} can't be written: {error.strerror}.",
                "Nothing that was written is lost; fix the disk and import again.",
                **io_details(error, path=target),
            ) from error
        return True

    # -- history --------------------------------------------------------------------------------------------

    async def bring_history(self) -> None:
        """Import generated texts and drafts into the store."""
        versions: list[_Old] = []
        drafts: list[Draft] = []
        about = {path for path in self._files(HISTORY) if path.endswith(".meta.json") and path.count("/") == 2}
        unread = set(about)
        for path in self._files(HISTORY):
            parts = path.split("/")
            if path in about:
                continue
            if parts[1] == "drafts":
                drafts += self._old_draft(path)
            elif len(parts) == 5 and parts[1] == "content" and re.fullmatch(r"v\d+", parts[3]):
                if parts[4] != "metadata.json":
                    versions += self._old_version(path, parts[2])
            elif len(parts) == 3 and parts[1] != "content":
                beside = next((each for each in _names_beside(path) if each in about), None)
                unread.discard(beside or "")
                versions += self._old_text(path, parts[1], beside)
            elif not (len(parts) == 2 and _OWN.fullmatch(parts[1])):
                self._skip(path, "It is where chora-compose kept no texts.")
        for path in sorted(unread):
            self._skip(path, "There is no text beside it.")
        for path in self._files("drafts"):
            drafts += self._old_draft(path)
        await self._store_versions(versions)
        await self._store_drafts(drafts)

    def _document(self, path: str) -> dict[str, Any] | None:
        if (data := self._read(path, 10 * CONFIG_LIMIT)) is None:
            return None
        try:
            document = decode(data, path)
        except ChoraError as error:
            self._skip(path, error.message)
            return None
        if not isinstance(document, dict):
            self._skip(path, "It isn't an object.")
            return None
        return cast("dict[str, Any]", document)

    def _old_version(self, path: str, content_id: str) -> Iterator[_Old]:
        """A text of the layout `content/{id}/v{N}/{time}.json`."""
        if not path.endswith(".json"):
            self._skip(path, "Texts of this layout are JSON files.")
            return
        if (document := self._document(path)) is None:
            return
        content = document.get("content")
        moment = _moment(document.get("generated_at"), path)
        if content is None or moment is None:
            self._skip(path, "It names neither content nor the time of its making." if content is None else _NO_TIME)
            return
        body = content if isinstance(content, str) else msgspec.json.encode(content).decode()
        yield _Old(moment, path, _version(path, str(document.get("content_id") or content_id), body, document, moment))

    def _old_text(self, path: str, content_id: str, beside: str | None) -> Iterator[_Old]:
        """A text of the layout `{id}/{time}.{ext}`, with its metadata beside it."""
        if PurePosixPath(path).name.partition(".")[0] == "latest":  # links to the newest one
            return
        about = (self._document(beside) if beside else None) or {}
        times = (about.get(key) for key in ("generated_at", "timestamp", "created_at"))
        moment = _moment(next((each for each in times if each), None), path)
        if moment is None:
            self._skip(path, _NO_TIME)
            return
        if (data := self._read(path, 10 * CONFIG_LIMIT)) is None:
            return
        try:
            body = data.decode("utf-8")
        except UnicodeDecodeError:
            self._skip(path, "It isn't UTF-8 text.")
            return
        yield _Old(moment, path, _version(path, str(about.get("content_id") or content_id), body, about, moment))

    def _old_draft(self, path: str) -> Iterator[Draft]:
        if not path.endswith(".json"):
            self._skip(path, "Drafts are JSON files.")
            return
        if (document := self._document(path)) is None:
            return
        name = PurePosixPath(path).stem
        keys = ("config_data", "config", "config_json", "data")
        data = next((document[key] for key in keys if isinstance(document.get(key), dict)), document)
        folder = _FOLDERS.get(path.split("/")[-2])
        kind = str(document.get("config_type") or kind_of(data) or folder or "")
        if kind not in _FOLDERS.values() or (data is document and "id" not in data):
            self._skip(path, "It holds no draft of a config.")
            return
        draft_id = str(document.get("draft_id") or name)
        moment = _moment(document.get("created_at"), draft_id)
        if moment is None:
            moment = datetime.fromtimestamp((self._old.root / path).stat().st_mtime, UTC)
        updated = _moment(document.get("updated_at"), "") or moment
        description = document.get("description") if data is not document else None
        yield Draft(
            draft_id=draft_id,
            config_type=kind,
            config_data=data,
            description=str(description) if description is not None else None,
            created_at=format_timestamp(moment),
            updated_at=format_timestamp(updated),
        )

    async def _store_versions(self, found: list[_Old]) -> None:
        known = _Known(self._store)
        new: list[Record] = []
        for each in sorted(found, key=lambda old: (old.moment, old.version.content_id, old.path)):
            if (version := known.name(each)) is not None:
                new.append(version)
        await self._add(new)
        self._brought["versions"] = Brought(len(new), len(found) - len(new))

    async def _store_drafts(self, found: list[Draft]) -> None:
        new: list[Record] = []
        already_there = 0
        for draft in found:
            there = self._store.draft(draft.draft_id)
            if there is None:
                new.append(draft)
            elif there.config_data == draft.config_data:
                already_there += 1
            else:
                self._skip(draft.draft_id, "The store has another draft of this name; it is left as it is.")
        await self._add(new)
        self._brought["drafts"] = Brought(len(new), already_there)

    async def _add(self, records: list[Record]) -> None:
        if self._dry_run:
            return
        for first in range(0, len(records), BATCH):
            await self._store.add_records(records[first : first + BATCH])


_NO_TIME = "Neither its name nor its content says when it was generated."


class _Old(NamedTuple):
    """A text of the old project, without its id."""

    moment: datetime
    path: str
    version: Version


class _Known:
    """The versions that are stored already, and the ids that are taken."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: set[str] = set()
        self._made: dict[tuple[str, str], list[str]] = defaultdict(list)
        for content_id in store.content_ids():
            for info in store.version_infos(content_id):
                self._ids.add(info.version_id)
                self._made[content_id, info.generated_at].append(info.version_id)

    def name(self, old: _Old) -> Version | None:
        """The version with an id of its own; None if it is there already."""
        version = old.version
        if version.version_id in self._ids:
            return None
        for version_id in self._made[version.content_id, version.generated_at]:
            there = self._store.version(version.content_id, version_id)
            if there is not None and (there.deleted or there.body == version.body):
                return None
        version_id = version.version_id
        # The same text gets the same id again; those of one content and millisecond keep their order.
        count = zlib.crc32(version.content_id.encode()) & 0x7FFF
        while not version_id or version_id in self._ids:
            version_id = id_at(old.moment, count)
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
        version_id=_own_id(about.get("version_id")),
    )


def _own_id(found: object) -> str:
    """The id that a file of chora's own names."""
    try:
        time_of_id(str(found))
    except InvalidInput:
        return ""
    return str(found)


def _moment(given: object, name: str) -> datetime | None:
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


def _names_beside(path: str) -> tuple[str, str]:
    """Where the metadata of a text may be."""
    return f"{path.rpartition('.')[0]}.meta.json", f"{path}.meta.json"


def _children(document: dict[str, Any]) -> list[dict[str, Any]]:
    content = document.get("content")
    children = cast("dict[str, Any]", content).get("children") if isinstance(content, dict) else document.get("members")
    if not isinstance(children, list):
        return []
    return [cast("dict[str, Any]", each) for each in cast("list[object]", children) if isinstance(each, dict)]


def _references(value: object, key: str = "") -> Iterator[str]:
    """Texts in a document that may be paths of files it reads."""
    if isinstance(value, dict):
        for name, each in cast("dict[str, object]", value).items():
            if name not in ("outputs", "output", "children", "members"):
                yield from _references(each, name)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            yield from _references(each, key)
    elif isinstance(value, str) and key in _REFERENCES and 0 < len(value) < 1000 and "\n" not in value:
        yield str(PurePosixPath(value))
