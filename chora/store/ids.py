"""Version ids: a time, and a number that distinguishes those of one millisecond."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta

from chora.errors import InvalidInput

_FORM = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{4}", re.ASCII)


def id_after(newest: str | None) -> str:
    """Return an id above `newest`, also when the clock stands still or goes back."""
    fresh = f"{_format_time(datetime.now(UTC))}-{secrets.randbelow(0x8000):04x}"
    if newest is None or fresh > newest:
        return fresh
    instant, _, count = newest.partition("-")
    if count == "ffff":  # the next millisecond: ids must sort; generated_at holds the true time
        return f"{_format_time(_parse_time(instant) + timedelta(milliseconds=1))}-0000"
    return f"{instant}-{int(count, 16) + 1:04x}"


def id_at(moment: datetime, count: int) -> str:
    """The id of a version made at a moment; `count`, up to 65535, distinguishes those of one millisecond."""
    return f"{_format_time(moment.astimezone(UTC))}-{count:04x}"


def time_of_id(version_id: str) -> datetime:
    """The moment in a version id.

    Raises:
        InvalidInput: it isn't a version id.
    """
    try:
        if (
            _FORM.fullmatch(version_id) and (moment := _parse_time(version_id[:19])).year < 9999
        ):  # leaves room for the next id
            return moment
    except ValueError:  # a thirteenth month
        pass
    raise InvalidInput(
        f"{version_id[:80]!r} is not the id of a version.",
        "Ids look like 20261122T101530123Z-7f3a.",
        field="version_id",
    )


def _format_time(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z"


def _parse_time(instant: str) -> datetime:
    return datetime.strptime(instant + "+0000", "%Y%m%dT%H%M%S%fZ%z")
