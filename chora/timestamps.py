"""How times are written everywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def now() -> str:
    """The current time in the form of all records, ISO 8601: `2026-11-22T10:15:30.123Z`."""
    return format_timestamp(datetime.now(UTC))


def format_timestamp(moment: datetime) -> str:
    """A moment in the form of all records."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def days_before_now(days: float, moment: datetime | None = None) -> str:
    """The time `days` days before now, or before a moment; the earliest possible time, if that is out of range."""
    try:
        return format_timestamp((moment or datetime.now(UTC)) - timedelta(days=days))
    except OverflowError:
        return format_timestamp(datetime.min.replace(tzinfo=UTC))
