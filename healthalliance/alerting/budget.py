"""Whose turn it is: marks on the worklist, and at most so many alerts a day, the highest first. Pure.

A day has N alerts. It is cut into N equal slots, and in the middle of each a right to send one alert arises: it goes to
the highest risk that waits then. A right that nobody takes is kept until the day ends, so that a quiet night serves a
busy morning. What was not sent today waits on, and competes tomorrow. The rule sees no future; `healthalliance alerts
simulate` compares it with a choice made at the day's end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from math import floor
from zoneinfo import ZoneInfo

from schemas.alert import Waiting
from schemas.messages import rank

DAYS_OF = ZoneInfo("Europe/Berlin")
WAITS_AT_MOST = timedelta(days=7)  # for its turn; a readmission's 30 days run on meanwhile


class Held(StrEnum):
    """Why an alert that waits is not sent now."""

    SNOOZED = "snoozed"
    ACKNOWLEDGED = "acknowledged"
    RETRIED = "retried"  # it is being sent, or was and failed
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Turn:
    """Which alerts are to be sent now, the highest first, which have waited too long, how many are held and why."""

    give: tuple[Waiting, ...]
    expired: tuple[Waiting, ...]
    held: Counter[Held]


def day_begin(now: datetime) -> datetime:
    """Return when the day that `now` lies in began in Berlin.

    >>> from datetime import UTC
    >>> day_begin(datetime(2025, 7, 1, 23, 30, tzinfo=UTC)).isoformat()
    '2025-07-02T00:00:00+02:00'
    """
    return datetime.combine(now.astimezone(DAYS_OF).date(), time(), DAYS_OF)


def rights(budget: int, now: datetime) -> int:
    """Count the alerts that may have been sent by `now` since its day began: 0 at first, the budget at the end.

    >>> at = day_begin(datetime(2025, 7, 1, 12, tzinfo=DAYS_OF))
    >>> [rights(2, at + timedelta(hours=hours)) for hours in (0, 5, 6, 17, 18, 23)]
    [0, 0, 1, 1, 2, 2]
    """
    begin = day_begin(now)
    end = datetime.combine(begin.date() + timedelta(days=1), time(), DAYS_OF)
    # By the timestamps, since a day on which clocks change is no 24 hours long.
    gone = (now.timestamp() - begin.timestamp()) / (end.timestamp() - begin.timestamp())
    return floor(budget * gone + 0.5)


def right_at(budget: int, number: int, day: datetime) -> datetime:
    """Return when a day's right arises, `number` from 0; the day by any time in it.

    >>> right_at(2, 1, datetime(2025, 7, 1, 12, tzinfo=DAYS_OF)).isoformat()
    '2025-07-01T18:00:00+02:00'
    """
    begin = day_begin(day)
    end = datetime.combine(begin.date() + timedelta(days=1), time(), DAYS_OF)
    seconds = (end.timestamp() - begin.timestamp()) * (number + 0.5) / budget
    return datetime.fromtimestamp(begin.timestamp() + seconds, DAYS_OF)


def turn(waiting: Iterable[Waiting], now: datetime, free: int | None) -> Turn:
    """Choose what is sent now, of alerts that have no right yet at most `free`; None: there is no budget."""
    held, due, expired = Counter[Held](), [], []
    for one in waiting:
        why = _held(one, now)
        if why is not None:
            held[why] += 1
        elif free is not None and one.given_at is None and now - _waits_since(one) > WAITS_AT_MOST:
            expired.append(one)
        else:
            due.append(one)
    due.sort(key=_highest_first)
    entitled = [one for one in due if one.given_at is None][:free]
    given = {one.alert_id for one in entitled}
    give = tuple(one for one in due if one.given_at is not None or one.alert_id in given)
    held[Held.BUDGET] += len(due) - len(give)
    return Turn(give, tuple(expired), held)


def _held(one: Waiting, now: datetime) -> Held | None:
    if one.snoozed_until is not None and one.snoozed_until > now:
        return Held.SNOOZED
    if one.acknowledged is not None and rank(one.band) <= rank(one.acknowledged):
        return Held.ACKNOWLEDGED
    if one.due_at > now or (one.claimed_until is not None and one.claimed_until > now):
        return Held.RETRIED
    return None


def _waits_since(one: Waiting) -> datetime:
    return max(one.decided_at, one.snoozed_until or one.decided_at)


def _highest_first(one: Waiting) -> tuple[float, datetime, str]:
    return -one.probability, one.decided_at, one.alert_id
