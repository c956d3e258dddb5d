"""Retention: which stored texts may be deleted, and the housekeeping that runs periodically."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

import trio

from chora.engine.building.pieces import find_child
from chora.engine.engine import Engine
from chora.errors import ChoraError
from chora.model import ArtifactChild
from chora.store.records import VersionAge, VersionInfo
from chora.store.store import LAST, Store
from chora.timestamps import days_before_now

log = logging.getLogger("chora.engine")

PAGE = 200
"""Records that are looked at, or deleted, at once."""
DRAFTS_AT_ONCE = 1000
"""Drafts that one clean-up deletes; far more than there may be."""
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
    """How many versions it had."""
    deleted: int
    bytes_freed: int
    oldest_kept: str | None
    newest_kept: str | None
    """The times of these."""


class _ContentRules:
    """What the rules mean for one content; looked up only as far as it matters."""

    def __init__(self, store: Store, content_id: str, rules: RetentionRules, moment: datetime) -> None:
        self.store = store
        self.content_id = content_id
        self.kept = store.content_state(content_id).kept
        """How many versions it has whose text isn't deleted."""
        self._number = max(rules.keep_versions, int(rules.keep_latest))
        limits = [days_before_now(rules.keep_days, moment)] if rules.keep_days else []
        if rules.older_than_days is not None:
            limits.append(days_before_now(rules.older_than_days, moment))
        self.before = min(limits, default=LAST) if self._number < self.kept else ""
        """The time before which versions may go; empty if none may."""

    @cached_property
    def first(self) -> VersionInfo | None:
        """The oldest of the newest ones, which stay; None if none stays for being new."""
        if not self._number:
            return None
        return self.store.newest_infos(self.content_id, 1, kept=True, skip=self._number - 1)[0]

    @cached_property
    def approved(self) -> VersionInfo | None:
        """The newest approved one, which stays: artifacts may need it, and it can't be generated again."""
        return self.store.find_info(self.content_id, approved=True)

    def stays(self, version: VersionAge | VersionInfo) -> bool:
        """Whether a version from before the time stays all the same."""
        return (self.first is not None and version.version_id >= self.first.version_id) or (
            self.approved is not None and version.version_id == self.approved.version_id
        )

    def pages(self) -> Iterator[list[VersionAge]]:
        """The versions that no rule keeps, oldest first, a page at a time; a page may be empty."""
        page = [VersionAge("", "", 0)]
        while page and self.before:
            page = self.store.versions_by_time(self.content_id, page[-1], before=self.before, limit=PAGE)
            yield [version for version in page if not self.stays(version)]

    def oldest_kept(self) -> str | None:
        """When the oldest of those that stay was made."""
        young = self.store.versions_by_time(self.content_id, VersionAge(self.before, "", 0), limit=1)
        ages = [(info.version_id, info.generated_at) for info in (self.first, self.approved, *young) if info]
        return min(ages)[1] if ages else None

    def newest_kept(self) -> str | None:
        """When the newest of those that stay was made."""
        newest = self.store.newest_infos(self.content_id, PAGE, kept=True)
        found = (info for info in newest if info.generated_at >= self.before or self.stays(info))
        info = next(found, self.approved)
        return info.generated_at if info else None


def find_old_versions(
    store: Store, content_id: str, rules: RetentionRules, moment: datetime
) -> Iterator[list[VersionAge]]:
    """The versions of one content that no rule keeps, oldest first, a page at a time; a page may be empty."""
    return _ContentRules(store, content_id, rules, moment).pages()


async def clean_content(
    engine: Engine, rules: RetentionRules, *, content_ids: list[str] | None = None, dry_run: bool = False
) -> tuple[int, list[CleanedContent]]:
    """Delete the versions that no rule keeps, a page at a time, oldest first; others wait for no more than one.

    Returns:
        How many contents were examined, and those of which versions were (or, in a dry run, would be) deleted.

    Raises:
        StorageError: one of the deletions failed; the earlier ones stay, and repeating it does the rest.
    """
    moment = datetime.now(UTC)
    cleaned: list[CleanedContent] = []
    checked = 0
    store = engine.store
    page = list(dict.fromkeys(content_ids)) if content_ids is not None else store.content_ids(limit=PAGE)
    while page:
        for content_id in page:
            await trio.lowlevel.checkpoint()
            applied = _ContentRules(store, content_id, rules, moment)
            checked += bool(applied.kept)
            if applied.before and (done := await _clean_one(engine, applied, dry_run)):
                cleaned.append(done)
        page = store.content_ids(page[-1], PAGE) if content_ids is None else []
    return checked, cleaned


async def _clean_one(engine: Engine, applied: _ContentRules, dry_run: bool) -> CleanedContent | None:
    deleted = freed = 0
    kept: tuple[str | None, str | None] = None, None
    try:
        for page in applied.pages():
            if page and not deleted:
                kept = applied.oldest_kept(), applied.newest_kept()
            if page and not dry_run:
                await engine.store.delete_versions([version.version_id for version in page])
            deleted += len(page)
            freed += sum(version.size for version in page)
            await trio.lowlevel.checkpoint()
    finally:
        if deleted and not dry_run:
            engine.changes.publish(f"content://{applied.content_id}")
    return CleanedContent(applied.content_id, applied.kept, deleted, freed, *kept) if deleted else None


class DeletedTexts(NamedTuple):
    """How many texts were deleted, and the bytes that they took."""

    number: int
    bytes: int


async def delete_content(store: Store, content_id: str, *, keep_metadata: bool = False) -> DeletedTexts:
    """Delete every version that a content has now, a page at a time, oldest first.

    Args:
        store: where it is stored.
        content_id: the content.
        keep_metadata: delete the texts only.

    Raises:
        StorageError: one of the deletions failed; the earlier ones stay, and repeating it does the rest.
    """
    number = freed = 0
    newest = store.newest_infos(content_id, 1)
    last = newest[0].version_id if newest else ""
    after = ""
    while after < last:
        page = store.version_infos(content_id, kept=keep_metadata, after=after, limit=PAGE)
        if not (chosen := [info for info in page if info.version_id <= last]):
            break
        await store.delete_versions([info.version_id for info in chosen], keep_metadata=keep_metadata)
        number += sum(not info.deleted for info in chosen)
        freed += sum(info.size for info in chosen)
        after = chosen[-1].version_id
    return DeletedTexts(number, freed)


async def drop_old_drafts(engine: Engine, *, dry_run: bool = False) -> int:
    """Delete drafts that are older than drafts are kept, with their test outputs; returns how many."""
    days = engine.settings.storage.retention_days
    old = engine.store.drafts_before(days_before_now(days), DRAFTS_AT_ONCE) if days else []
    if not dry_run:
        for draft_id in old:
            await delete_content(engine.store, draft_id)
            await engine.store.delete_draft(draft_id)
    return len(old)


async def referring_artifacts(engine: Engine, content_id: str) -> list[str]:
    """The artifacts that are assembled from a content, under whatever id; others run between two of them."""
    found: list[str] = []
    for each in engine.catalog.list_configs("artifact").found:
        await trio.lowlevel.checkpoint()
        if any(content_id in _ids_of(engine, child) for child in each.parsed.config.content.children):
            found.append(each.parsed.config.id)
    return found


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
    versions, freed = sum(each.deleted for each in cleaned), sum(each.bytes_freed for each in cleaned)
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
