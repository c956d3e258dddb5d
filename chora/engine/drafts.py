"""Drafts of configs: draft → test → save, each step checked, nothing overwritten by accident."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import msgspec

from chora.catalog import FoundConfig
from chora.config_parsing import Issue, ParsedConfig, parse_config
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.compose import compose
from chora.engine.building.content import gather_content
from chora.engine.building.encode import encode_text
from chora.engine.building.pieces import gather_pieces
from chora.engine.draft_tests import check_last_test, remember_test
from chora.engine.engine import Engine
from chora.engine.saved_configs import backup_name, encode_config, find_saved_config, read_current, write_config
from chora.engine.validation.generator_checks import check_composition, check_generator, generator_issue
from chora.errors import (
    ChoraError,
    DraftCreationFailed,
    DraftNotFound,
    InvalidContext,
    LimitExceeded,
    ModificationExecutionFailed,
    ModificationFailed,
    SaveExecutionFailed,
    SaveFailed,
    StorageError,
    TestExecutionFailed,
    TestFailed,
    ValidationError,
    ValidationFailed,
    io_details,
)
from chora.files import CONFIG_LIMIT
from chora.hashing import sha256
from chora.model import KINDS, ArtifactConfig, ContentConfig, Kind
from chora.nesting import DEPTH_LIMIT, is_too_deep
from chora.skeletons import GENERATORS, skeleton
from chora.sources.source import SERVER_ERRORS
from chora.store import Draft, Version
from chora.timestamps import now

PREVIEW_LIMIT = 10_000  # characters
DRAFT_ID = re.compile(r"draft-\d{8}T\d{6}-[0-9a-f]{6}")
"""The form of a draft's id; the capital letter keeps it apart from config ids."""
CONFIG_ID = re.compile(r"[a-z][a-z0-9-]{0,254}")
COLLECTION_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,254}")
DRAFTS_LIMIT = 100
OLDEST_SHOWN = 10
"""How many drafts there may be, and how many of the oldest the error for one more names."""
NAME_LIMIT = 255
"""Bytes that a file name may have on nearly every file system."""


class DraftPreview(NamedTuple):
    """A draft's text, generated without storing it."""

    text: str
    generator: str
    issues: list[Issue]
    warnings: list[str]
    estimated_cost: float | None
    """The most that the language model may cost, in US dollars; None if none is used, or its price isn't known."""


class SavedDraft(NamedTuple):
    """Where a config was written, and where its predecessor was backed up."""

    path: str
    kind: str
    backup: str | None


async def create_draft(
    engine: Engine, kind: Kind, document: dict[str, Any], description: str | None
) -> tuple[Draft, ParsedConfig]:
    """Check a config and keep it as a draft.

    Raises:
        ValidationError: it doesn't fit its format, or names no generator that there is; details list every fault.
        LimitExceeded: it is too large to be a config's file, or there are too many drafts.
        DraftCreationFailed: the store failed.
    """
    parsed = await _parse_draft(engine, kind, document, "config_data")
    _check_size(document)
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
        _check_draft_count(engine)
        await engine.store.save_draft(made)
    except StorageError as error:
        raise DraftCreationFailed(
            f"The draft couldn't be stored: {error.message}", error.hint, **error.details
        ) from error
    return made, parsed


def _check_size(document: dict[str, Any]) -> None:
    if (size := len(encode_config("", document))) > CONFIG_LIMIT:
        raise LimitExceeded(
            f"The config has {size:,} bytes as a file; {CONFIG_LIMIT:,} are allowed.",
            "Put long texts into files of their own, and name them as sources.",
            limit="config",
            bytes=size,
        )


def _check_draft_count(engine: Engine) -> None:
    """Refuse one draft too many: only their authors know which others may be deleted."""
    if engine.store.counts()["drafts"] < DRAFTS_LIMIT:
        return
    oldest = [
        {
            "draft_id": draft.draft_id,
            "config_id": str(draft.config_data.get("id", ""))[:80],
            "updated_at": draft.updated_at,
        }
        for draft in engine.store.drafts(OLDEST_SHOWN)
    ]
    raise LimitExceeded(
        f"There are {DRAFTS_LIMIT} drafts, and no more are kept.",
        "save_config deletes the draft it saves, and delete_content one by its id; the details list the oldest. "
        "cleanup_ephemeral and `chora gc` remove those older than storage.retention_days.",
        limit="drafts",
        drafts=oldest,
    )


async def preview_draft(
    engine: Engine, draft_id: str, caller: dict[str, Any], *, store_output: bool = False
) -> DraftPreview:
    """Generate a draft's text without saving the draft; an artifact is composed in memory.

    Raises:
        DraftNotFound: there is no such draft.
        TestFailed: the draft can't be tested.
        TestExecutionFailed: its generator failed; `details.error` is the code of the failure.
        InvalidContext, Busy, StorageError: the draft is not at fault.
    """
    kept = find_draft(engine, draft_id)
    try:
        parsed = parse_config(cast(Kind, kept.config_type), kept.config_data, where=draft_id)
    except ValidationFailed as error:
        raise TestFailed(f"{draft_id} can't be tested: {error.message}", error.hint, **error.details) from error
    try:
        text, generator, warnings, cost = await _generate_preview(engine, parsed, caller)
    except (TestFailed, InvalidContext, *SERVER_ERRORS):
        raise
    except ChoraError as error:
        if error.category not in ("busy", "internal"):  # those say nothing about the draft
            remember_test(engine, kept, error.message)
        details = {**error.details, "generator": error.details.get("generator_type"), "error": error.code}
        raise TestExecutionFailed(f"{draft_id}: {error.message}", error.hint, **details) from error
    remember_test(engine, kept, "")
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
    return DraftPreview(text, generator, parsed.warnings, warnings, cost)


async def _generate_preview(
    engine: Engine, parsed: ParsedConfig, caller: dict[str, Any]
) -> tuple[str, str, list[str], float | None]:
    config = parsed.config
    # A test should show what the model answers, so it is asked; the same text later costs nothing.
    build = Build(engine, dry=True, spend=True)
    if isinstance(config, ContentConfig):
        inputs = await gather_content(build, parsed, CallerContext(caller))
        text = await inputs.generate_text()
        cost = inputs.generator.estimate_cost(inputs.job, engine.settings.llm)
        return text.text, inputs.generator.name, [*inputs.warnings, *text.warnings], cost
    if isinstance(config, ArtifactConfig):
        context = CallerContext(caller).with_reserved(artifact_id=config.id)
        recorder = build.new_recorder()
        pieces = await gather_pieces(build, config, context, recorder)
        text = await compose(engine, config, pieces, context.all_names, recorder.record)
        for output in config.metadata.outputs:
            await encode_text(config, output, text, engine.settings.configs.rules)
        return text, config.metadata.composition_strategy, pieces.warnings, None
    raise TestFailed(
        f"A {parsed.kind} draft has no text of its own to test.",
        "Save it with save_config; validate_collection_config then checks it, and generate_collection builds it.",
    )


class ConfigExists(SaveFailed):
    """A save under the id of an existing config."""

    replaced: bytes = b""
    """What would be overwritten."""


async def save_draft(
    engine: Engine, draft_id: str, config_id: str, *, overwrite: bool | bytes = False, force: bool = False
) -> SavedDraft:
    """Write a draft to the config folder under an id, and delete the draft.

    Args:
        overwrite: whether an existing config is replaced, or only if it is exactly this; a copy is kept.
        force: save it although its last test failed.

    Raises:
        DraftNotFound: there is no such draft.
        SaveFailed: the id is not one, or the draft's last test failed.
        ConfigExists: a config of this id exists and isn't to be replaced.
        ValidationError: the config doesn't fit its format.
        SaveExecutionFailed: the disk refused; the previous file is unchanged.
    """
    kept = find_draft(engine, draft_id)
    kind = cast(Kind, kept.config_type)
    if not (COLLECTION_ID if kind == "collection" else CONFIG_ID).fullmatch(config_id):
        raise SaveFailed(
            f"{config_id[:80]!r} can't be a config id.",
            "Use lower-case letters, digits and hyphens, beginning with a letter, at most 255 of them.",
            config_id=config_id[:80],
        )
    # The file has the id that it is saved under, whatever the draft says.
    document = {**kept.config_data, "id": config_id}
    await _parse_draft(engine, kind, document, draft_id)
    if not force:
        check_last_test(engine, kept)
    async with engine.write_locks(f"{kind}:{config_id}"):
        path = engine.catalog.path_to_save(kind, config_id)
        if len(PurePosixPath(backup_name(path)).name) > NAME_LIMIT:
            raise SaveFailed(
                f"An id of {len(config_id)} characters makes the name of its file too long.",
                "Save under a shorter id.",
                config_path=path,
                config_id=config_id,
            )
        try:
            before = read_current(engine, path)
            may_replace = before == overwrite if isinstance(overwrite, bytes) else overwrite
            if before is not None and not may_replace:
                exists = ConfigExists(
                    f"{config_id} can't be saved: {path} exists already.",
                    "Save under another id, or pass overwrite: true, which keeps a backup of the old one.",
                    config_path=path,
                    config_id=config_id,
                )
                exists.replaced = before
                raise exists
            backup = await write_config(engine, path, document, before)
        except OSError as error:
            raise SaveExecutionFailed(
                f"{path} couldn't be written: {error.strerror}.",
                "Check disk space and permissions; the draft is still there.",
                **io_details(error, config_path=path),
            ) from error
    await engine.store.delete_draft(draft_id)
    engine.changes.publish(f"config://{kind}/{config_id}")
    return SavedDraft(path, kind, backup)


# -- changing drafts and configs -------------------------------------------------------------------------------------


class ModifiedConfig(NamedTuple):
    """A draft or a saved config after a patch."""

    kind: str
    backup: str | None
    draft_id: str | None
    issues: list[Issue]
    path: str | None


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: objects merge deeply, null removes a key, everything else replaces. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(cast("dict[str, Any]", target)) if isinstance(target, dict) else {}
    for key, value in cast("dict[str, Any]", patch).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


async def modify_config(
    engine: Engine, config_id: str, updates: dict[str, Any], *, kind: Kind | None = None, create_backup: bool = True
) -> ModifiedConfig:
    """Patch a draft or a saved config; nothing is changed if the result would be invalid.

    Raises:
        DraftNotFound, ConfigNotFound: there is no such draft or config.
        InvalidInput: configs of several kinds have this id, and no kind was given.
        ModificationFailed: the patched config doesn't fit its format, or would have another id.
        ModificationExecutionFailed: the disk or the store refused; the previous one is unchanged.
    """
    if is_too_deep(updates):
        raise ModificationFailed(
            f"The updates are nested more than {DEPTH_LIMIT} levels deep; nothing was changed.",
            "Patch with fewer levels.",
            reason="too deep",
            field="$",
        )
    if DRAFT_ID.fullmatch(config_id) or engine.store.draft(config_id):
        async with engine.write_locks(config_id):
            return await _modify_draft(engine, find_draft(engine, config_id), updates)
    found = find_saved_config(engine, config_id, kind)
    kind = found.parsed.kind
    async with engine.write_locks(f"{kind}:{found.parsed.config.id}"):
        found = engine.catalog.open_config(kind, found.path)
        return await _modify_saved_config(engine, kind, found, updates, create_backup)


async def _modify_draft(engine: Engine, draft: Draft, updates: dict[str, Any]) -> ModifiedConfig:
    kind = cast(Kind, draft.config_type)
    document = cast("dict[str, Any]", merge_patch(draft.config_data, updates))
    parsed = _parse_patched(engine, kind, document, draft.draft_id, updates)
    try:
        await engine.store.save_draft(msgspec.structs.replace(draft, config_data=document, updated_at=now()))
    except StorageError as error:
        raise ModificationExecutionFailed(
            f"{draft.draft_id} couldn't be stored: {error.message}", error.hint, **error.details
        ) from error
    return ModifiedConfig(kind, None, draft.draft_id, parsed.warnings, None)


async def _modify_saved_config(
    engine: Engine, kind: Kind, found: FoundConfig, updates: dict[str, Any], create_backup: bool
) -> ModifiedConfig:
    document = cast("dict[str, Any]", merge_patch(found.parsed.raw, updates))
    parsed = _parse_patched(engine, kind, document, found.path, updates)
    if parsed.config.id != found.parsed.config.id:
        raise ModificationFailed(
            f"The updates would change the id of {found.path} to {parsed.config.id} and break all references to it.",
            "Draft it again and save it under the other id.",
            reason="the id would change",
            field="$.id",
        )
    try:
        before = read_current(engine, found.path)
        backup = await write_config(engine, found.path, document, before if create_backup else None)
    except OSError as error:
        raise ModificationExecutionFailed(
            f"{found.path} couldn't be written: {error.strerror}.",
            "Check disk space and permissions; the config is unchanged.",
            **io_details(error, config_path=found.path),
        ) from error
    engine.changes.publish(f"config://{kind}/{parsed.config.id}")
    return ModifiedConfig(kind, backup, None, parsed.warnings, found.path)


def _parse_patched(
    engine: Engine, kind: Kind, document: dict[str, Any], where: str, updates: dict[str, Any]
) -> ParsedConfig:
    _check_size(document)
    try:
        # A config that names no generator, or one that isn't loaded here, may be patched elsewhere.
        return _parse_with_generator(engine, kind, document, where, check="generation" in updates)
    except ValidationFailed as error:
        first: dict[str, Any] = error.details["schema_errors"][0]
        raise ModificationFailed(
            f"With these updates {where} would be invalid; nothing was changed. {first.get('message')}",
            error.hint,
            reason=first.get("message"),
            field=first.get("path"),
            updated_keys=sorted(updates),
            **error.details,
        ) from error


def find_draft(engine: Engine, draft_id: str) -> Draft:
    """The draft of this id.

    Raises:
        DraftNotFound: there is none.
    """
    kept = engine.store.draft(draft_id)
    if kept is None:
        kinds = [each for each in KINDS if engine.catalog.list_configs(each).find(draft_id) is not None]
        raise DraftNotFound(
            f"There is no draft {draft_id[:80]!r}.",
            f"{draft_id} is the id of {'an' if kinds[0] == 'artifact' else 'a'} {kinds[0]} config: "
            "modify_config changes it."
            if kinds
            else "draft_config creates one; save_config deletes the draft that it saves.",
            draft_id=draft_id[:80],
        )
    return kept


async def _parse_draft(engine: Engine, kind: Kind, document: dict[str, Any], where: str) -> ParsedConfig:
    """A document to be kept as a draft or a config, with warnings also about its templates, which may follow later."""
    try:
        parsed = _parse_with_generator(engine, kind, document, where)
    except ValidationFailed as error:
        first: dict[str, Any] = error.details["schema_errors"][0]
        begin = "details.skeleton is the smallest config that fits."
        raise ValidationError(
            error.message,
            f"{error.hint} {begin}" if error.hint else begin,
            config_type=kind,
            field=first.get("path"),
            issue=first.get("message"),
            **error.details,
            skeleton=_skeleton_for(kind, document),
        ) from error
    match parsed.config:
        case ContentConfig() as config:
            findings = await check_generator(engine, config)
        case ArtifactConfig() as config:
            findings = await check_composition(engine, config)
        case _:
            findings = []
    remarks = [
        Issue(severity="warning", code=finding.code, message=f"{finding.message}.", path=f"$.{finding.location}")
        for finding in findings
    ]
    return parsed._replace(warnings=[*parsed.warnings, *remarks])


def _skeleton_for(kind: Kind, document: dict[str, Any]) -> dict[str, Any]:
    """The skeleton of a kind, with the generator that a document names, if there is one for it."""
    try:
        named: object = document["generation"]["patterns"][0]["type"]
    except (LookupError, TypeError):
        named = None
    return skeleton(kind, named) if isinstance(named, str) and named in GENERATORS else skeleton(kind)


def _parse_with_generator(
    engine: Engine, kind: Kind, document: dict[str, Any], where: str, *, check: bool = True
) -> ParsedConfig:
    """A document whose content, if it is one, names a generator that there is.

    Raises:
        ValidationFailed: it doesn't fit its format, or names none.
    """
    parsed = parse_config(kind, document, where=where)
    issue = generator_issue(engine, parsed.config) if check else None
    if issue is not None:
        raise ValidationFailed(
            f"{where}: {issue.message}",
            "list_generators lists them; a text that needs none can be given as the example_output of every element.",
            schema_errors=[msgspec.to_builtins(issue)],
        )
    return parsed
