"""How times are written."""

import re
from datetime import UTC, datetime, timedelta, timezone

from chora.timestamps import format_timestamp, now


def test_a_moment_is_utc_with_milliseconds():
    """Times of any zone become UTC, cut to milliseconds, so that texts sort as times do."""
    moment = datetime(2026, 11, 22, 12, 15, 30, 123999, timezone(timedelta(hours=2)))
    assert format_timestamp(moment) == "2026-11-22T10:15:30.123Z"
    assert format_timestamp(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000Z"


def test_now_is_now():
    """The current time in the same spelling, between a moment before and one after."""
    before, between, after = format_timestamp(datetime.now(UTC)), now(), format_timestamp(datetime.now(UTC))
    assert before <= between <= after
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", between)
