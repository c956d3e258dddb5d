"""How times, hashes and odd texts are written everywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def now() -> str:
    """This moment, as every record spells it: `2026-11-22T10:15:30.123Z`."""
    return format_timestamp(datetime.now(UTC))


def format_timestamp(moment: datetime) -> str:
    """A moment as every record spells it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def days_before_now(days: float, moment: datetime | None = None) -> str:
    """So many days before now, or before a moment; the beginning of time, if that is not so long ago."""
    try:
        return format_timestamp((moment or datetime.now(UTC)) - timedelta(days=days))
    except OverflowError:
        return format_timestamp(datetime.min.replace(tzinfo=UTC))


def printable(text: str) -> str:
    """The text with escapes for what UTF-8, and so JSON, can't hold: bytes of a file name that aren't text."""
    return text.encode("utf-8", "backslashreplace").decode()
