"""An analyst's report as one HTML page: tables beside pictures, nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from connectors.overview import Day, Drift, Overview, Performance, Rejections
from healthalliance import risk_charts
from model_training.drawing import Picture
from model_training.pages import render


@dataclass(frozen=True, slots=True)
class Volume:
    """An institution's days since the report's first, and their pictures; encounters: of the days that are told."""

    institution: str
    days: Sequence[Day]
    encounters: int
    mean_probability: float | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """A feature's index at each institution, None where there is no reading."""

    feature: str
    by_institution: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for rejections: how many, of the days that are told, and the days with fewer than ten."""

    institution: str
    reason: str
    rejected: int
    days_untold: int


def as_html(overview: Overview, first_day: date, made_at: datetime, institutions: Sequence[str]) -> str:
    """Write the report of the named institutions since a day."""
    return render(
        "healthalliance/risk_report.html.jinja",
        first_day=first_day,
        made_at=made_at,
        institutions=institutions,
        volumes=[volume(one, overview.days) for one in institutions],
        performance=told_performance(overview.performance),
        untold=[one for one in overview.performance if one.outcomes is None],
        risk_groups=overview.risk_groups,
        calibration=risk_charts.calibration(overview.risk_groups) if overview.risk_groups else None,
        drift=by_feature(overview.drift),
        drifting=risk_charts.drift(overview.drift) if overview.drift else None,
        events=overview.events,
        reasons=reasons(overview.rejections),
    )


def volume(institution: str, days: Iterable[Day]) -> Volume:
    """Gather an institution's days; the mean weighs each day by its encounters."""
    own = [one for one in days if one.institution == institution]
    told = [(one.encounters, one.mean_probability) for one in own if one.encounters is not None]
    encounters = sum(number for number, _ in told)
    mean = sum(number * (share or 0.0) for number, share in told) / encounters if encounters else None
    pictures = (risk_charts.volume(own), risk_charts.mean_risk(own)) if told else ()
    return Volume(institution, own, encounters, mean, pictures)


def told_performance(rows: Iterable[Performance]) -> list[Performance]:
    """Leave out the models that too few outcomes are known of."""
    return [one for one in rows if one.outcomes is not None]


def by_feature(readings: Sequence[Drift]) -> list[Moved]:
    """Lay the readings out by feature, what has moved most anywhere first."""
    institutions = sorted({one.institution for one in readings})
    found: dict[str, dict[str, float | None]] = {}
    for one in sorted(readings, key=lambda one: -one.psi):
        found.setdefault(one.feature, dict.fromkeys(institutions))[one.institution] = one.psi
    return [Moved(feature, values) for feature, values in found.items()]


def reasons(rows: Iterable[Rejections]) -> list[Reason]:
    """Add the days up by institution and reason, the most frequent first."""
    numbers: dict[tuple[str, str], int] = {}
    untold: dict[tuple[str, str], int] = {}
    for one in rows:
        key = one.institution, one.reason
        numbers[key] = numbers.get(key, 0) + (one.rejected or 0)
        untold[key] = untold.get(key, 0) + (one.rejected is None)
    found = [Reason(*key, number, untold[key]) for key, number in numbers.items()]
    return sorted(found, key=lambda one: (one.institution, -one.rejected, one.reason))
