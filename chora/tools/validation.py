"""Tools that judge: what a config or a text is worth, and how old a collection is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chora.engine import collect, freshness
from chora.engine.engine import Engine, Work
from chora.model import CollectionConfig
from chora.stamps import stamp
from chora.tools.collection import BasePath, CollectionPath, find_collection
from chora.tools.tool import Ask, Call, Result, tool


class CheckFreshness(Ask):
    collection_config_path: CollectionPath
    output_path: BasePath | None = None


class MemberAge(Struct, frozen=True, kw_only=True):
    member_id: str
    generated_at: str | None
    age_days: float | None
    max_age_days: float
    freshness_status: Literal["fresh", "stale", "expired"]
    expires_at: str | None
    threshold_percentage: Annotated[float, Meta(description="Age in per cent of the greatest age")] | None
    expires_in_days: float | None
    expired_by_days: float | None


class AgeMetadata(Struct, frozen=True, kw_only=True):
    oldest_age_days: float | None
    newest_age_days: float | None
    average_age_days: float | None
    manifest_path: str | None


class CollectionFreshness(Result):
    collection_id: str
    freshness_enabled: bool
    overall_status: Literal["fresh", "stale", "expired"]
    members: list[MemberAge]
    fresh_count: int
    stale_count: int
    expired_count: int
    recommendation: Literal["all_fresh", "regenerate_stale", "regenerate_expired"]
    action: Literal["no_action", "schedule_regeneration", "regenerate_immediately"]
    checked_at: str
    metadata: AgeMetadata


@tool(title="Check a collection's freshness", category="validation", read_only=True, idempotent=True)
async def check_freshness(engine: Engine, ask: CheckFreshness, call: Call) -> CollectionFreshness:
    """Tell how old a collection's members are against how old they may get. Whether inputs changed is
    check_collection_cache's matter.
    """
    parsed = find_collection(engine, ask.collection_config_path).parsed
    config: CollectionConfig = parsed.config
    moment = datetime.now(UTC)
    ages: list[freshness.Age] = []
    manifest_path = None
    if config.freshness.enabled:
        manifest_path, manifest = await collect.read_manifest(Work(engine, dry=True), parsed, ask.output_path)
        ages = freshness.ages(config, manifest, moment)
    counts = {band: sum(age.band == band for age in ages) for band in ("fresh", "stale", "expired")}
    worst: Literal["fresh", "stale", "expired"] = (
        "expired" if counts["expired"] else "stale" if counts["stale"] else "fresh"
    )
    known = [age.age_days for age in ages if age.age_days is not None]
    return CollectionFreshness(
        collection_id=config.id,
        freshness_enabled=config.freshness.enabled,
        overall_status=worst,
        members=[_shown(age) for age in ages],
        fresh_count=counts["fresh"],
        stale_count=counts["stale"],
        expired_count=counts["expired"],
        recommendation={"fresh": "all_fresh", "stale": "regenerate_stale", "expired": "regenerate_expired"}[worst],  # pyright: ignore[reportArgumentType]
        action={"fresh": "no_action", "stale": "schedule_regeneration", "expired": "regenerate_immediately"}[worst],  # pyright: ignore[reportArgumentType]
        checked_at=stamp(moment),
        metadata=AgeMetadata(
            oldest_age_days=_rounded(max(known, default=None)),
            newest_age_days=_rounded(min(known, default=None)),
            average_age_days=_rounded(sum(known) / len(known) if known else None),
            manifest_path=manifest_path,
        ),
    )


def _shown(age: freshness.Age) -> MemberAge:
    left = None if age.age_days is None else age.max_age_days - age.age_days
    return MemberAge(
        member_id=age.member_id,
        generated_at=age.generated_at,
        age_days=_rounded(age.age_days),
        max_age_days=age.max_age_days,
        freshness_status=age.band,
        expires_at=age.expires_at,
        threshold_percentage=None if age.age_days is None else round(100 * age.age_days / age.max_age_days, 1),
        expires_in_days=_rounded(left) if left is not None and left > 0 else None,
        expired_by_days=_rounded(-left) if left is not None and left <= 0 else None,
    )


def _rounded(days: float | None) -> float | None:
    return None if days is None else round(days, 4)
