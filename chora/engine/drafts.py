"""Drafts: configs on their way. Draft → test → save, each step checked, nothing overwritten by accident."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, cast

import msgspec

from chora.engine.assemble import encode_beside, gather_pieces
from chora.engine.compose import compose
from chora.engine.engine import Engine, Given, Work
from chora.engine.generate import make, prepare
from chora.errors import (
    ChoraError,
    DraftCreationFailed,
    DraftNotFound,
    InvalidContext,
    SaveExecutionFailed,
    SaveFailed,
    StorageError,
    TestExecutionFailed,
    TestFailed,
    ValidationError,
    ValidationFailed,
    io_details,
)
from chora.model import ArtifactConfig, ContentConfig
from chora.reading import Issue, Parsed, read
from chora.sources.source import NOT_ITS_FAULT
from chora.stamps import now, sha256
from chora.store import Draft, Version

Kind = Literal["content", "artifact", "collection"]

PREVIEW_LIMIT = 10_000  # characters
CONFIG_ID = re.compile(r"[a-z][a-z0-9-]{0,254}")
COLLECTION_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,254}")
NAME_LIMIT = 255
"""Bytes that a file's name may have nearly everywhere."""


class Tested(NamedTuple):
    """A draft's text, made without storing it."""

    text: str
    generator: str
    issues: list[Issue]
    warnings: list[str]


class Saved(NamedTuple):
    """Where a config was written, and where the one before it went."""

    path: str
    kind: str
    backup: str | None


async def make_draft(
    engine: Engine, kind: Kind, document: dict[str, Any], description: str | None
) -> tuple[Draft, Parsed]:
    """Check a config and keep it as a draft.

    Raises:
        ValidationError: it doesn't fit its format; details list every fault.
        DraftCreationFailed: the store refused.
    """
    parsed = _read(kind, document, "config_data")
    moment = datetime.now(UTC)
    created = now()
    made = Draft(
        draft_id=f"draft-{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        config_type=kind,
        config_data=document,
        description=description,
        created_at=created,
        updated_at=created,
    )
    try:
        await engine.store.save_draft(made)
    except StorageError as error:
        raise DraftCreationFailed(
            f"The draft couldn't be stored: {error.message}", error.hint, reason=error.message, **error.details
        ) from error
    return made, parsed


async def try_draft(engine: Engine, draft_id: str, caller: dict[str, Any], *, store_output: bool = False) -> Tested:
    """Make a draft's text without saving the draft; an artifact's is composed in memory.

    Raises:
        DraftNotFound: there is no such draft.
        TestFailed: the draft can't be tested.
        TestExecutionFailed: its generator failed; `details.error` is the code of the failure.
        InvalidContext, Busy, StorageError: it is not the draft's fault.
    """
    kept = find_draft(engine, draft_id)
    try:
        parsed = read(cast(Kind, kept.config_type), kept.config_data, where=draft_id)
    except ValidationFailed as error:
        raise TestFailed(f"{draft_id} can't be tested: {error.message}", error.hint, **error.details) from error
    try:
        text, generator, warnings = await _text_of(engine, parsed, caller)
    except (TestFailed, InvalidContext, *NOT_ITS_FAULT):
        raise
    except ChoraError as error:
        details = {**error.details, "generator": error.details.get("generator_type"), "error": error.code}
        raise TestExecutionFailed(f"{draft_id}: {error.message}", error.hint, **details) from error
    if store_output:
        await engine.store.add_version(
            Version(
                content_id=draft_id,
                body=text,
                sha256=sha256(text.encode()),
                fingerprint=sha256(msgspec.json.encode([kept.config_data, caller])),
                generator=generator,
                generator_version="",
                generated_at=now(),
                metadata={"test_output": True},
            )
        )
    return Tested(text, generator, parsed.warnings, warnings)


async def _text_of(engine: Engine, parsed: Parsed, caller: dict[str, Any]) -> tuple[str, str, list[str]]:
    config = parsed.config
    work = Work(engine, dry=True)
    if isinstance(config, ContentConfig):
        prepared = await prepare(work, parsed, Given(caller))
        made = await make(prepared)
        return made.text, prepared.generator.NAME, [*prepared.warnings, *made.warnings]
    if isinstance(config, ArtifactConfig):
        given, seen = Given(caller).within(artifact_id=config.id), work.seen()
        pieces = await gather_pieces(work, config, given, seen)
        text = await compose(work, config, pieces.pieces, given, seen)
        for output in config.metadata.outputs:
            await encode_beside(config, output, text)
        return text, config.metadata.composition_strategy, pieces.warnings
    raise TestFailed(f"A {parsed.kind} draft has no text of its own to test.", "Save it, then validate it.")


async def save_draft(engine: Engine, draft_id: str, config_id: str, *, overwrite: bool = False) -> Saved:
    """Write a draft to the config folder under an id, and forget the draft.

    An existing config is only replaced with `overwrite`, and then a copy of it is kept beside it.

    Raises:
        DraftNotFound: there is no such draft.
        SaveFailed: the id is not one, or a config of this id exists.
        ValidationError: the config doesn't fit its format.
        SaveExecutionFailed: the disk refused; whatever was there still is.
    """
    kept = find_draft(engine, draft_id)
    kind = cast(Kind, kept.config_type)
    if not (COLLECTION_ID if kind == "collection" else CONFIG_ID).fullmatch(config_id):
        raise SaveFailed(
            f"{config_id[:80]!r} can't be a config id.",
            "Use lower-case letters, digits and hyphens, beginning with a letter, at most 255 of them.",
            config_id=config_id[:80],
        )
    # The id inside the file is the one it is saved under, whatever the draft said.
    document = {**kept.config_data, "id": config_id}
    _read(kind, document, draft_id)
    async with engine.writing(f"{kind}:{config_id}"):
        path = engine.catalog.where_to_save(kind, config_id)
        backup = f"{path}.{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.backup"
        if len(PurePosixPath(backup).name) > NAME_LIMIT:
            raise SaveFailed(
                f"An id of {len(config_id)} characters makes the name of its file too long.",
                "Save under a shorter id.",
                config_path=path,
                config_id=config_id,
            )
        try:
            before = _current(engine, path)
            if before is not None:
                if not overwrite:
                    raise SaveFailed(
                        f"{config_id} can't be saved: {path} exists already.",
                        "Save under another id, or pass overwrite: true, which keeps a backup of the old one.",
                        config_path=path,
                        config_id=config_id,
                    )
                await engine.everywhere.write(backup, before)
            await engine.everywhere.write(path, _encoded(path, document))
        except OSError as error:
            raise SaveExecutionFailed(
                f"{path} couldn't be written: {error.strerror}.",
                "Check disk space and permissions; the draft is still there.",
                **io_details(error, config_path=path),
            ) from error
    await engine.store.delete_draft(draft_id)
    return Saved(path, kind, None if before is None else backup)


def _current(engine: Engine, path: str) -> bytes | None:
    try:
        return engine.everywhere.read_bytes(path)
    except FileNotFoundError:
        return None


def find_draft(engine: Engine, draft_id: str) -> Draft:
    """The draft of this id.

    Raises:
        DraftNotFound: there is none.
    """
    kept = engine.store.draft(draft_id)
    if kept is None:
        raise DraftNotFound(
            f"There is no draft {draft_id[:80]!r}.",
            "draft_config makes one; saving a draft uses it up.",
            draft_id=draft_id[:80],
        )
    return kept


def _read(kind: Kind, document: dict[str, Any], where: str) -> Parsed:
    try:
        return read(kind, document, where=where)
    except ValidationFailed as error:
        first: dict[str, Any] = error.details["schema_errors"][0]
        raise ValidationError(
            error.message,
            error.hint,
            config_type=kind,
            field=first.get("path"),
            issue=first.get("message"),
            **error.details,
        ) from error


def _encoded(path: str, document: dict[str, Any]) -> bytes:
    if path.endswith((".yaml", ".yml")):
        import yaml

        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
