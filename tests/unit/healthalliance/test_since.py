"""From when on: how far back, or a day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from healthalliance.since import month_of, since
from schemas.errors import ConfigurationError

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", datetime(2025, 5, 16, 12, tzinfo=UTC)),
        ("12h", datetime(2025, 6, 15, tzinfo=UTC)),
        ("2025-03", datetime(2025, 3, 1, tzinfo=UTC)),
        ("2025-03-02", datetime(2025, 3, 2, tzinfo=UTC)),
        ("2025-03-01T00:30:00+01:00", datetime(2025, 2, 28, 23, 30, tzinfo=UTC)),
    ],
)
def test_it_is_how_far_back_or_a_moment_in_utc(text: str, moment: datetime) -> None:
    assert since(text, NOW) == moment
    assert since(text, NOW).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "30", "-3d", "2025-13", "99999d9", "2025-02-30"])
def test_anything_else_is_told_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="such as 30d"):
        since(text, NOW)


def test_further_back_than_the_calendar_is_told_too() -> None:
    with pytest.raises(ConfigurationError):
        since("99999d", datetime(100, 1, 1, tzinfo=UTC))


def test_a_month_begins_in_utc() -> None:
    assert month_of(datetime.fromisoformat("2025-03-01T00:30:00+01:00")) == datetime(2025, 2, 1, tzinfo=UTC)
