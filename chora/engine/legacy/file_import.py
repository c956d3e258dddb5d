"""Importing the files of a project: configs, templates, and the files they read."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import msgspec
import trio

from chora.catalog import ROOTS, SUFFIXES
from chora.config_parsing import parse_config
from chora.decoding import decode
from chora.engine.legacy.conversion import Conversion, convert, kind_of
from chora.engine.legacy.import_state import HISTORY_FOLDER, KIND_BY_FOLDER, ConvertedConfig, ImportState
from chora.errors import ChoraError, LimitExceeded, ValidationFailed, WriteFailed, io_details
from chora.files import CONFIG_LIMIT
from chora.model import Kind

_TEMPLATES = ("templates/", *(f"{root}/templates/" for root in ROOTS))
_REFERENCES = ("source_locator", "path", "file", "template", "template_file")
"""Keys whose value may be the path of a file that a config reads."""


class _OldConfig(NamedTuple):
    """A config of the old project while it is imported."""

    path: str
    target: str
    data: bytes
    document: dict[str, Any]


class FileImport:
    """Copies or converts the configs of an old project, and copies what they read."""

    def __init__(self, state: ImportState) -> None:
        self._state = state
        self.copied: list[str] = []
        self.converted: list[ConvertedConfig] = []
        self.unchanged = 0
        self._moved: dict[str, tuple[str, str]] = {}
        """Configs that got another path or id: the new ones, by the old path."""

    async def import_files(self, to_convert: bool) -> None:
        """Copy configs and what they read, contents first, because artifacts name the paths of contents."""
        configs, others = await self._classify_files()
        read_by: dict[str, str] = {}
        for kind, found in configs.items():
            for config in found:
                await trio.lowlevel.checkpoint()
                if (document := await self._import_config(kind, config, to_convert)) is not None:
                    for name in _references(document):
                        read_by.setdefault(name, config.path)
        for templates in _TEMPLATES:
            for path in self._state.list_old_files(templates):
                await self._copy(path, path)
        elsewhere = (*(f"{root}/" for root in ROOTS), "templates/", f"{HISTORY_FOLDER}/")
        for path in read_by:
            if not path.startswith(elsewhere) and self._state.old_project.is_file(path):
                await self._copy(path, path)
        for path in others:
            if path in read_by:
                await self._copy(path, path)
            else:
                self._state.skip_file(path, "It is neither a config nor a template, and no config names it.")

    async def check_files(self) -> None:
        """Report what chora can't read in a project that is imported into itself, where nothing is copied."""
        configs, others = await self._classify_files()
        read_by: set[str] = set()
        for kind, found in configs.items():
            for config in found:
                await trio.lowlevel.checkpoint()
                try:
                    parse_config(kind, config.document, where="It")
                except ValidationFailed as error:
                    advice = "--convert may help, into another folder: `chora --project NEW import OLD --convert`."
                    self._state.skip_file(config.path, f"{error.message} {advice}")
                except LimitExceeded as error:
                    self._state.skip_file(config.path, error.message)
                read_by.update(_references(config.document))
        for path in others:
            if path.endswith(SUFFIXES) and path not in read_by:
                self._state.skip_file(path, "It is neither a config nor a template, and no config names it.")

    async def _classify_files(self) -> tuple[dict[Kind, list[_OldConfig]], list[str]]:
        """The configs by kind, contents first, and the other files of the config folders."""
        configs: dict[Kind, list[_OldConfig]] = {"content": [], "artifact": [], "collection": []}
        others: list[str] = []
        for root in ROOTS:
            for path in self._state.list_old_files(root):
                await trio.lowlevel.checkpoint()
                if not path.startswith(_TEMPLATES):
                    self._classify_file(path, configs, others)
        return configs, others

    def _classify_file(self, path: str, configs: dict[Kind, list[_OldConfig]], others: list[str]) -> None:
        """Classify a file of the config folder."""
        if not path.endswith(SUFFIXES):
            others.append(path)
            return
        if (data := self._state.read_old_file(path, CONFIG_LIMIT)) is None:
            return
        try:
            document = decode(data, path, old_yaml=True)
        except ChoraError as error:
            self._state.skip_file(path, error.message)
            return
        parts = path.split("/")
        folder = KIND_BY_FOLDER.get(parts[1]) if len(parts) > 2 else None
        record = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if kind := kind_of(record) or (folder if "id" in record else None):
            inside = "/".join(parts[1:]) if folder == kind else f"{kind}/{parts[-1]}"
            configs[kind].append(_OldConfig(path, f"{self._state.config_root or parts[0]}/{inside}", data, record))
        else:
            others.append(path)

    async def _import_config(self, kind: Kind, config: _OldConfig, to_convert: bool) -> dict[str, Any] | None:
        """Copy or convert a config; returns the new document, or None if it isn't imported."""
        try:
            parsed = parse_config(kind, config.document, where="It")
        except ValidationFailed as error:
            if not to_convert:
                self._state.skip_file(config.path, f"{error.message} --convert may help.")
                return None
            await trio.lowlevel.checkpoint()  # a large config takes tens of milliseconds in each of these steps
            conversion = convert(kind, config.document, config.path)
            await trio.lowlevel.checkpoint()
            return await self._write_converted(kind, config, conversion)
        except LimitExceeded as error:
            self._state.skip_file(config.path, error.message)
            return None
        await trio.lowlevel.checkpoint()
        if any(self._new_location(child) for child in _children(config.document)):
            return await self._write_converted(kind, config, Conversion(kind, deepcopy(config.document), [], []))
        if config.path != config.target:
            self._moved[config.path] = config.target, parsed.config.id
        await self._copy(config.path, config.target)
        return config.document

    async def _write_converted(self, kind: Kind, config: _OldConfig, conversion: Conversion) -> dict[str, Any] | None:
        """Write a converted config; returns the document, or None if it still isn't valid."""
        document, changes = conversion.document, conversion.changes
        for child in _children(document):
            if (moved := self._new_location(child)) is not None:
                child["path"], child["id"] = moved
                changes.append(f"{child['id']}: its path is {child['path']}")
        try:
            parse_config(kind, document, where="It")
        except ValidationFailed as error:
            faults: list[dict[str, str]] = error.details["schema_errors"]
            self._state.skip_file(
                config.path, "It can't be converted: " + " ".join(fault["message"] for fault in faults[:10])
            )
            return None
        except LimitExceeded as error:
            self._state.skip_file(config.path, f"It can't be converted: {error.message}")
            return None
        await trio.lowlevel.checkpoint()
        target = config.target
        is_named_so = PurePosixPath(target).name in (f"{document['id']}.json", f"{document['id']}-{kind}.json")
        if not is_named_so and (document["id"] != config.document.get("id") or not target.endswith(".json")):
            shape = "{id}.json" if kind == "collection" else "{id}/{id}-{kind}.json"
            target = f"{target.split('/')[0]}/{kind}/{shape.format(id=document['id'], kind=kind)}"
        self._moved[config.path] = target, document["id"]
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        if await self._write_if_absent(config.path, target, data):
            self.converted.append(ConvertedConfig(target, config.path, changes, conversion.left))
        return document

    def _new_location(self, child: dict[str, Any]) -> tuple[str, str] | None:
        named = str(child.get("path", ""))
        folders = (*ROOTS, *(f"{root}/{folder}" for root in ROOTS for folder in KIND_BY_FOLDER))
        for path in (named, *(f"{folder}/{named}" for folder in folders)):
            if (moved := self._moved.get(path)) is not None and moved != (named, child.get("id")):
                return moved
        return None

    async def _copy(self, path: str, target: str) -> None:
        if (data := self._state.read_old_file(path, 10 * CONFIG_LIMIT)) is not None and await self._write_if_absent(
            path, target, data
        ):
            self.copied.append(target)

    async def _write_if_absent(self, path: str, target: str, data: bytes) -> bool:
        """Write a file that isn't there; returns whether it was written, or would be."""
        try:
            self._state.new_project.check_writable(target)
            existing = self._state.new_project.read_bytes(target, limit=10 * CONFIG_LIMIT)
        except FileNotFoundError:
            pass
        except ChoraError as error:
            self._state.skip_file(path, error.message)
            return False
        else:
            if existing == data:
                self.unchanged += 1
            else:
                self._state.skip_file(path, f"{target} is there already and holds something else; it is left as it is.")
            return False
        try:
            if not self._state.dry_run:
                await self._state.new_project.write_file(target, data)
        except OSError as error:
            raise WriteFailed(
                f"{target} can't be written: {error.strerror}.",
                "Nothing that was written is lost; fix the disk and import again.",
                **io_details(error, path=target),
            ) from error
        return True


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
