"""Freshness: how old the members of a collection are against their greatest age, whatever their inputs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from chora.engine.manifest import Manifest
from chora.model import CollectionConfig
from chora.timestamps import format_timestamp

Band = Literal["fresh", "stale", "expired"]

STALE_FROM = 0.8
"""Share of its greatest age from which a member counts as stale."""
DAY = 86_400


class Age(NamedTuple):
    """One member's age in days; unknown if it was never generated."""

    member_id: str
    generated_at: str | None
    age_days: float | None
    max_age_days: float
    band: Band
    expires_at: str | None


def member_ages(config: CollectionConfig, manifest: Manifest, moment: datetime) -> list[Age]:
    """The age of every member of a config, by its manifest; one that failed is as old as the files it still has."""
    made = {member.id: member.generated_at for member in manifest.members}
    return [
        _age(
            member.id,
            made.get(member.id),
            config.freshness.default_max_age_days
            if member.freshness_threshold_days is None
            else member.freshness_threshold_days,
            moment,
        )
        for member in config.members
    ]


def _age(member_id: str, generated_at: str | None, limit: float, moment: datetime) -> Age:
    made = _parse_time(generated_at)
    if made is None:
        return Age(member_id, None, None, limit, "expired", None)
    age = max(0.0, (moment - made).total_seconds() / DAY)
    share = age / limit
    band: Band = "fresh" if share < STALE_FROM else "stale" if share < 1 else "expired"
    try:
        expires = format_timestamp(made + timedelta(days=limit))
    except OverflowError:
        expires = None
    return Age(member_id, format_timestamp(made), age, limit, band, expires)


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
