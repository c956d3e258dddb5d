"""Retention: which stored texts may be deleted, and the housekeeping that runs periodically."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import NamedTuple

import trio

from chora.engine.building.pieces import find_child
from chora.engine.engine import Engine
from chora.errors import ChoraError
from chora.model import ArtifactChild
from chora.store.records import VersionInfo
from chora.timestamps import days_before_now

log = logging.getLogger("chora.engine")

FIRST_ROUND = 60.0
INTERVAL = 6 * 3600.0
"""Seconds after the start until the first round of housekeeping, and between two of them."""


class RetentionRules(NamedTuple):
    """What is kept: a version stays if any of these rules keeps it."""

    keep_versions: int = 3
    """How many of the newest versions are kept."""
    keep_days: int = 7
    """How many days versions are kept; 0 keeps none for its age."""
    keep_latest: bool = True
    older_than_days: int | None = None
    """If given, younger versions are kept in any case."""


class CleanedContent(NamedTuple):
    """A content of which versions were deleted."""

    content_id: str
    before: int
    gone: list[VersionInfo]
    kept: list[VersionInfo]

    @property
    def bytes_freed(self) -> int:
        return sum(info.size for info in self.gone)


def choose_versions(infos: list[VersionInfo], rules: RetentionRules, moment: datetime) -> list[VersionInfo]:
    """The versions of one content that may go; `infos` are oldest first.

    The newest approved one stays whatever the rules say: artifacts may need it, and it can't be generated again.
    """
    kept = [info for info in infos if not info.deleted]
    approved = next((info for info in reversed(kept) if info.approved), None)
    protected = set(kept[-rules.keep_versions :] if rules.keep_versions else ())
    protected.update(kept[-1:] if rules.keep_latest else ())
    if approved is not None:
        protected.add(approved)
    limits = [days_before_now(rules.keep_days, moment)] if rules.keep_days else []
    if rules.older_than_days is not None:
        limits.append(days_before_now(rules.older_than_days, moment))
    return [info for info in kept if info not in protected and all(info.generated_at < limit for limit in limits)]


async def clean_content(
    engine: Engine, rules: RetentionRules, *, content_ids: list[str] | None = None, dry_run: bool = False
) -> tuple[int, list[CleanedContent]]:
    """Delete the versions that no rule keeps.

    Returns:
        How many contents were examined, and those of which versions were (or, in a dry run, would be) deleted.
    """
    store, moment = engine.store, datetime.now(UTC)
    ids = store.content_ids() if content_ids is None else list(dict.fromkeys(content_ids))
    cleaned: list[CleanedContent] = []
    checked = 0
    for content_id in ids:
        infos = [info for info in store.version_infos(content_id) if not info.deleted]
        checked += bool(infos)
        gone = choose_versions(infos, rules, moment)
        if gone:
            kept = [info for info in infos if info not in gone]
            cleaned.append(CleanedContent(content_id, len(infos), gone, kept))
        await trio.lowlevel.checkpoint()
    if cleaned and not dry_run:
        await store.delete_versions([info.version_id for each in cleaned for info in each.gone])
        for each in cleaned:
            engine.changes.publish(f"content://{each.content_id}")
    return checked, cleaned


async def drop_old_drafts(engine: Engine, *, dry_run: bool = False) -> int:
    """Delete drafts that are older than drafts are kept, with their test outputs; returns how many."""
    days = engine.settings.storage.retention_days
    if not days:
        return 0
    before = days_before_now(days)
    old = [draft for draft in engine.store.drafts() if draft.updated_at < before]
    if not dry_run:
        for draft in old:
            infos = engine.store.version_infos(draft.draft_id)
            await engine.store.delete_versions([info.version_id for info in infos])
            await engine.store.delete_draft(draft.draft_id)
    return len(old)


def referring_artifacts(engine: Engine, content_id: str) -> list[str]:
    """The artifacts that are assembled from a content, under whatever id."""
    return [
        found.parsed.config.id
        for found in engine.catalog.list_configs("artifact").found
        if any(content_id in _ids_of(engine, child) for child in found.parsed.config.content.children)
    ]


def _ids_of(engine: Engine, child: ArtifactChild) -> set[str]:
    """The id by which an artifact calls a child, and the one of the config that its path leads to."""
    try:
        return {child.id, find_child(engine, child).parsed.config.id}
    except ChoraError:
        return {child.id}


class RetentionResult(NamedTuple):
    """What a round of housekeeping removed."""

    drafts: int
    versions: int
    bytes_freed: int
    jobs: int
    rows: int
    """Events and measurements."""


async def apply_retention(engine: Engine, *, dry_run: bool = False) -> RetentionResult:
    """One round of housekeeping: old drafts, texts, jobs, events and measurements."""
    days = engine.settings.storage.retention_days
    drafts = await drop_old_drafts(engine, dry_run=dry_run)
    if not days:
        return RetentionResult(drafts, 0, 0, 0, 0)
    _, cleaned = await clean_content(engine, RetentionRules(keep_days=days), dry_run=dry_run)
    versions, freed = sum(len(each.gone) for each in cleaned), sum(each.bytes_freed for each in cleaned)
    if dry_run:
        return RetentionResult(drafts, versions, freed, 0, 0)
    jobs = await engine.jobs.delete_old_jobs()
    rows = await engine.store.delete_before(days_before_now(days))
    return RetentionResult(drafts, versions, freed, jobs, rows)


async def serve(engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """A service: does a round of housekeeping periodically."""
    task_status.started()
    await trio.sleep(FIRST_ROUND)
    while True:
        try:
            removed = await apply_retention(engine)
        except ChoraError as error:
            log.warning("housekeeping failed; it is tried again in %g hours: %s", INTERVAL / 3600, error.message)
        else:
            if any(removed):
                log.info(
                    "housekeeping removed drafts=%d versions=%d (%d bytes) jobs=%d events and measurements=%d", *removed
                )
        await trio.sleep(INTERVAL)
