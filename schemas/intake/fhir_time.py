"""FHIR's dates and times, which may be partial, as instants in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo


class Moment(NamedTuple):
    """The first and the last instant that a FHIR dateTime of its precision can mean."""

    earliest: datetime
    latest: datetime


def parse_date_time(text: str, zone: ZoneInfo) -> Moment | None:
    """Read a FHIR dateTime or instant; None where it is no calendar date. Without an offset it is `zone`'s.

    Source: https://hl7.org/fhir/R4/datatypes.html#dateTime
    """
    try:
        if "T" in text:
            moment = _full(text, zone)
            return Moment(moment, moment)
        first, last = _days(text)
        return Moment(_midnight(first, zone), _midnight(last + timedelta(days=1), zone) - timedelta(microseconds=1))
    except (ValueError, OverflowError):
        return None


def parse_date(text: str) -> date | None:
    """Read a FHIR date, the first day it can mean; None where it is no calendar date.

    >>> parse_date("1980-02")
    datetime.date(1980, 2, 1)
    >>> parse_date("1980-02-30")
    """
    try:
        return _days(text)[0]
    except (ValueError, OverflowError):
        return None


def _full(text: str, zone: ZoneInfo) -> datetime:
    # FHIR allows the leap second :60, datetime does not; its own second is the nearest one there is.
    if text[16:19] == ":60":
        text = f"{text[:16]}:59{text[19:]}"
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def _days(text: str) -> tuple[date, date]:
    match len(text):
        case 4:
            year = int(text)
            return date(year, 1, 1), date(year, 12, 31)
        case 7:
            first = date(int(text[:4]), int(text[5:]), 1)
            return first, (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
        case 10:
            day = date.fromisoformat(text)
            return day, day
    raise ValueError(text)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
