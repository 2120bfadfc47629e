"""What an analyst's report shows, read from the analysts' views: small groups are left out there already."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, TypeVar

import asyncpg

from connectors.view_reading import reading


@dataclass(frozen=True, slots=True)
class Day:
    """An institution's day (UTC); None: too few to tell. The three bands are there or not together."""

    institution: str
    day: date
    encounters: int | None
    inpatient_stays: int | None
    high: int | None
    medium: int | None
    low: int | None
    mean_probability: float | None


@dataclass(frozen=True, slots=True)
class Performance:
    """How an institution's model did over the last 90 days of outcomes; None: too few to tell."""

    institution: str
    model_version: str
    role: str
    outcomes: int | None
    observed_share: float | None
    mean_probability: float | None
    calibration_ratio: float | None
    brier: float | None
    auroc: float | None


@dataclass(frozen=True, slots=True)
class RiskGroup:
    """A group of like probabilities among the same stays."""

    institution: str
    model_version: str
    role: str
    risk_group: int
    outcomes: int
    mean_probability: float
    observed_share: float


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a feature has moved since training, measured last."""

    institution: str
    feature: str
    model_version: str
    stays: int
    psi: float
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class Rejections:
    """How many of a day's events were rejected for a reason; None: fewer than ten."""

    institution: str
    day: date
    reason: str
    rejected: int | None


@dataclass(frozen=True, slots=True)
class Events:
    """How all of an institution's events ended, to the nearest ten."""

    institution: str
    scored: int
    updated: int
    unchanged: int
    retracted: int
    rejected: int
    rejected_share: float | None
    known_until: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, of one moment and in order; days and rejections since a day, the rest as it stands."""

    days: tuple[Day, ...]
    performance: tuple[Performance, ...]
    risk_groups: tuple[RiskGroup, ...]
    drift: tuple[Drift, ...]
    rejections: tuple[Rejections, ...]
    events: tuple[Events, ...]

    @property
    def institutions(self) -> tuple[str, ...]:
        """The institutions that anything is known of."""
        return tuple(sorted({one.institution for one in self.days} | {one.institution for one in self.events}))


_Record = TypeVar("_Record")

_OWN = "($1::text IS NULL OR institution = $1)"
_SINCE = f"{_OWN} AND day >= $2"


def read_overview(database_url: str, first_day: date, institution: str | None = None) -> Overview:
    """Read the views, of one institution or all; raise what `reading` raises."""
    return asyncio.run(_read(database_url, first_day, institution))


async def _read(database_url: str, first_day: date, institution: str | None) -> Overview:
    async with reading(database_url, institution) as connection:
        since = (institution, first_day)
        return Overview(
            days=await _rows(connection, Day, "institution_daily_risk", _SINCE, *since),
            performance=await _rows(connection, Performance, "model_performance", _OWN, institution),
            risk_groups=await _rows(connection, RiskGroup, "model_calibration", _OWN, institution),
            drift=await _rows(connection, Drift, "feature_drift", _OWN, institution),
            rejections=await _rows(connection, Rejections, "institution_daily_rejections", _SINCE, *since),
            events=await _rows(connection, Events, "institution_events", _OWN, institution),
        )


async def _rows(
    connection: asyncpg.Connection[Any], record: type[_Record], view: str, condition: str, *values: object
) -> tuple[_Record, ...]:
    names = ", ".join(one.name for one in fields(record))  # type: ignore[arg-type]  # they are all dataclasses
    rows = await connection.fetch(f"SELECT {names} FROM {view} WHERE {condition} ORDER BY 1, 2, 3, 4", *values)
    return tuple(record(*row) for row in rows)
