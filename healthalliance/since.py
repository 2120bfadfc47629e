"""From when on: how far back, or a day."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from healthalliance.scheduling import interval
from schemas.errors import ConfigurationError

_MONTH = re.compile(r"\d{4}-\d{2}")


def since(text: str, now: datetime) -> datetime:
    """Read how far before `now` (30d, 12h), a month, a day or a time (UTC unless it says); ConfigurationError else.

    >>> since("2025-03", datetime(2025, 6, 1, tzinfo=UTC))
    datetime.datetime(2025, 3, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        return now - interval(text)
    except (ConfigurationError, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
    except ValueError:
        raise ConfigurationError(
            f"--since {text}: give how far back, such as 30d, or a day, such as 2025-03-01."
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def month_of(moment: datetime) -> datetime:
    """Return the beginning of a moment's month, UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
