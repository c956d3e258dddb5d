"""Configs in their files: finding one of any kind by its id, and writing one, with a backup of what it replaces."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio

from chora.catalog import FoundConfig
from chora.decoding import encode_yaml
from chora.engine.engine import Engine
from chora.errors import ConfigNotFound, InvalidInput
from chora.model import KINDS, Kind
from chora.nofollow import open_folder

BACKUPS_KEPT = 10
"""Backups of one config that are kept; older ones are deleted."""
_BACKUP_SUFFIX = re.compile(r"\.\d{8}T\d{12}Z\.backup", re.ASCII)


def find_saved_config(engine: Engine, config_id: str, kind: Kind | None = None) -> FoundConfig:
    """The config of an id; the kind is only needed where configs of several kinds have it.

    Raises:
        ConfigNotFound: there is none.
        InvalidInput: there are several, and no kind was given.
        InvalidConfigId, ValidationFailed: as `Catalog.find_config`.
    """
    found: list[FoundConfig] = []
    kinds = (kind,) if kind else KINDS
    for each in kinds:
        with contextlib.suppress(ConfigNotFound):
            found.append(engine.catalog.find_config(each, config_id))
    if not found:
        raise ConfigNotFound(
            f"There is no saved config {config_id!r}.",
            engine.catalog.hint_for_missing(config_id, *kinds)
            or "list_content_configs and list_artifact_configs list the configs.",
            config_id=config_id,
            **engine.catalog.describe_search(config_id, *kinds),
        )
    if len(found) > 1:
        raise InvalidInput(
            f"{config_id} is the id of {' and of '.join(f'a {each.parsed.kind} config' for each in found)}.",
            "Say which with config_type.",
            field="config_type",
            allowed=[each.parsed.kind for each in found],
        )
    return found[0]


def read_current(engine: Engine, path: str) -> bytes | None:
    """The bytes of a config file; None if there is none."""
    try:
        return engine.project_folder.read_bytes(path)
    except FileNotFoundError:
        return None


async def write_config(engine: Engine, path: str, document: dict[str, Any], replaced: bytes | None) -> str | None:
    """Write a config, and before that a backup of the bytes that it replaces; returns its path.

    Raises:
        OSError: the disk refused; the config is as it was.
    """
    backup = None
    if replaced is not None:
        backup = backup_name(path)
        await engine.project_folder.write_file(backup, replaced)
    await engine.project_folder.write_file(path, encode_config(path, document))
    if backup is not None:
        await trio.to_thread.run_sync(_delete_old_backups, engine.project_folder.root / path)
    return backup


def backup_name(path: str) -> str:
    """Where the file that a config replaces is kept: beside it, and not mistaken for a config."""
    return f"{path}.{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.backup"


def _delete_old_backups(path: Path) -> None:
    """Delete all but the newest backups of a config; what can't be deleted stays."""
    with contextlib.suppress(OSError), open_folder(path.parent) as folder:
        beside = [name for name in folder.names() if name.startswith(path.name)]
        backups = sorted(name for name in beside if _BACKUP_SUFFIX.fullmatch(name, len(path.name)))
        for name in backups[:-BACKUPS_KEPT]:
            folder.delete_file(name)


def encode_config(path: str, document: dict[str, Any]) -> bytes:
    """A config as its file has it: YAML or JSON, by the suffix of the path."""
    if path.endswith((".yaml", ".yml")):
        return encode_yaml(document).encode()
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
