"""A simulated patient's course: which visits, when, and what depends on what.

All of a patient's randomness comes from (seed, institution, patient number, visit number), so a course does not
depend on how many other patients there are, nor on the window it is watched through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from math import exp, log
from random import Random

from connectors.simulator.illness import MedicalRecord
from connectors.simulator.profiles import Profile
from connectors.simulator.records import (
    STAYS,
    Diagnosis,
    Disposition,
    Moment,
    Person,
    Prescription,
    Step,
    Visit,
    VisitClass,
)

_PLANNED_KINDS = (VisitClass.INPATIENT, VisitClass.EMERGENCY, VisitClass.AMBULATORY)
_DAY = timedelta(days=1)
_YEAR = timedelta(days=365)
_HALF_YEAR = timedelta(days=180)
_BETWEEN_VISITS = timedelta(hours=2)
_READMISSION_WINDOW = timedelta(days=30)
_LONGEST_STAY_DAYS = 45.0
_NEW_ILLNESS_SHARE = 0.22
_CLINICAL_SHARE = 0.15
_DEPARTMENT_SHARE = 0.2
_NOT_FHIR_ID = re.compile(r"[^A-Za-z0-9.-]")


def _person(institution: str, profile: Profile, number: int, epoch: datetime, rng: Random) -> Person:
    age = min(max(rng.gauss(profile.age_mean, profile.age_spread), 18.0), 96.0)
    return Person(
        institution=institution,
        number=number,
        id=f"sim-{_NOT_FHIR_ID.sub('-', institution)}-{number:06d}",
        gender="female" if rng.random() < profile.female_share else "male",
        city=rng.choice(profile.cities),
        birth_date=(epoch - age * _YEAR).date(),
        registered=epoch - timedelta(minutes=rng.randint(1, 1_000_000)),
        frailty=rng.gauss(0, 1),
    )


class Course:
    """A patient's visits from `epoch` on, one after the other, until death.

    Between two visits it holds no more than what decides the next one, and not yet that visit itself.
    """

    __slots__ = ("_emergencies", "_left", "_number", "_plans", "_record", "_stays_ended", "_stem", "person", "profile")

    def __init__(self, institution: str, profile: Profile, seed: int, number: int, epoch: datetime) -> None:
        self._stem = f"{seed}/{institution}/{number}"
        rng = Random(self._stem)
        self.person, self.profile = _person(institution, profile, number, epoch, rng), profile
        self._record = MedicalRecord()
        self._stays_ended: tuple[datetime, ...] = ()
        self._emergencies: tuple[datetime, ...] = ()
        self._number, self._left = 0, epoch
        self._plans = {kind: epoch + self._wait(kind, epoch, rng) for kind in _PLANNED_KINDS}

    def planned(self) -> datetime | None:
        """Return the time before which no further visit begins; None after death."""
        return max(min(self._plans.values()), self._left + _BETWEEN_VISITS) if self._plans else None

    def next_visit(self) -> Visit:
        """Live through the visit that is planned next, and plan the one of its kind after it."""
        self._number += 1
        rng = Random(f"{self._stem}/{self._number}")
        kind = min(self._plans, key=lambda one: self._plans[one])
        visit = self._visit(kind, max(self._plans[kind], self._left + _BETWEEN_VISITS), rng)
        self._left = visit.discharged
        self._remember(visit)
        if visit.disposition is Disposition.DIED:
            self._plans = {}
        elif visit.class_ in STAYS:
            self._plans[kind] = self._after_stay(visit, rng)
        else:
            self._plans[kind] = visit.discharged + self._wait(kind, visit.discharged, rng)
        return visit

    def _wait(self, kind: VisitClass, at: datetime, rng: Random) -> timedelta:
        frailty, years_over_65 = self.person.frailty, self._age(at) - 65
        a_year = {
            VisitClass.INPATIENT: self.profile.inpatient_rate * exp(0.35 * frailty + 0.012 * years_over_65),
            VisitClass.EMERGENCY: self.profile.emergency_rate * exp(0.55 * frailty),
        }.get(kind, self.profile.ambulatory_rate)
        return timedelta(minutes=round(rng.expovariate(a_year) * 365 * 24 * 60))

    def _age(self, at: datetime) -> float:
        return (at.date() - self.person.birth_date) / _YEAR

    def _remember(self, visit: Visit) -> None:
        if visit.class_ in STAYS:
            since = visit.discharged - 2 * _YEAR
            self._stays_ended = (*(one for one in self._stays_ended if one >= since), visit.discharged)
        elif visit.class_ is VisitClass.EMERGENCY:
            since = visit.discharged - _YEAR
            self._emergencies = (*(one for one in self._emergencies if one >= since), visit.admitted)

    def _after_stay(self, visit: Visit, rng: Random) -> datetime:
        """Plan the next stay: back within 30 days by the risk that the visible features carry, else much later."""
        if rng.random() < self._readmission_risk(visit, rng):
            return visit.discharged + _minutes(1 + 27 * rng.betavariate(1.2, 1.8))
        later = visit.discharged + _READMISSION_WINDOW + _DAY
        return later + self._wait(VisitClass.INPATIENT, visit.discharged, rng)

    def _readmission_risk(self, visit: Visit, rng: Random) -> float:
        """Return the chance of a stay within 30 days of this one's end.

        It grows with what LACE and HOSPITAL grow with, and with frailty and chance that no record shows.
        """
        stays = sum(visit.admitted - _YEAR <= one <= visit.admitted for one in self._stays_ended)
        emergencies = sum(visit.admitted - _HALF_YEAR <= one < visit.admitted for one in self._emergencies)
        score = (
            -3.45
            + self.profile.readmission_offset
            + 0.28 * min(stays, 4)
            + 0.28 * min(emergencies, 4)
            + 0.10 * (len(self._record.illnesses) - 4)
            + 0.03 * (len(self._record.medications) - 4)
            + 0.40 * visit.is_emergency
            + 0.05 * min((visit.discharged - visit.admitted) / _DAY, 14)
            + 0.008 * (self._age(visit.discharged) - 60)
            + 0.15 * self.person.frailty
            + rng.gauss(0, 0.5)
        )
        return 1 / (1 + exp(-score))

    def _visit(self, kind: VisitClass, planned: datetime, rng: Random) -> Visit:
        is_stay = kind is VisitClass.INPATIENT
        is_emergency = kind is VisitClass.EMERGENCY or (is_stay and rng.random() < self._emergency_share())
        admitted = planned if is_emergency else _next_morning(planned, rng)
        if is_stay and rng.random() < self.profile.short_stay_share:
            kind = VisitClass.SHORT_STAY
        discharged = admitted + _minutes(self._length_days(kind, is_emergency, rng))
        return Visit(
            person=self.person,
            id=f"{self.person.id}-e{self._number:04d}",
            class_=kind,
            admitted=admitted,
            discharged=discharged,
            is_emergency=is_emergency,
            has_department=kind is VisitClass.INPATIENT and rng.random() < _DEPARTMENT_SHARE,
            disposition=self._disposition(discharged, rng) if is_stay else Disposition.REGULAR,
            moments=tuple(self._moments(kind, admitted, discharged, rng)),
        )

    def _emergency_share(self) -> float:
        recent = bool(self._stays_ended) and self._left - self._stays_ended[-1] < _READMISSION_WINDOW
        return min(self.profile.emergency_share + 0.06 * self.person.frailty + 0.15 * recent, 0.95)

    def _length_days(self, kind: VisitClass, is_emergency: bool, rng: Random) -> float:
        match kind:
            case VisitClass.INPATIENT:
                median = self.profile.stay_days * (1.2 if is_emergency else 1.0) * exp(0.1 * self.person.frailty)
                return min(max(rng.lognormvariate(log(median), 0.65), 1.05), _LONGEST_STAY_DAYS)
            case VisitClass.SHORT_STAY:
                return rng.uniform(4, 20) / 24
            case VisitClass.EMERGENCY:
                return rng.uniform(1, 9) / 24
        return rng.uniform(0.3, 2) / 24

    def _disposition(self, at: datetime, rng: Random) -> Disposition:
        dies = 0.008 * exp(0.5 * self.person.frailty + 0.03 * (self._age(at) - 65))
        others = (Disposition.TRANSFERRED, Disposition.REHABILITATION, Disposition.AGAINST_ADVICE)
        if rng.random() < dies:
            return Disposition.DIED
        return rng.choice(others) if rng.random() < 0.1 else Disposition.REGULAR

    def _moments(self, kind: VisitClass, admitted: datetime, discharged: datetime, rng: Random) -> Iterator[Moment]:
        """Tell a visit as events: one for an ambulatory visit, else arrival, updates in a stay, leaving."""
        first = self._record.first_findings if not self._record.diagnoses else None
        found = first(self.person, self.profile, self._age(admitted), admitted, rng) if first else ((), ())
        if kind is VisitClass.AMBULATORY:
            yield Moment(discharged, Step.VISIT, 1, *found)
            return
        yield Moment(admitted, Step.ADMISSION, 1, *found)
        version = 1
        for at in _update_times(admitted, discharged):
            new = self._record.lasting(self.profile, at, rng) if rng.random() < _NEW_ILLNESS_SHARE else ((), ())
            if new[0] and rng.random() < _CLINICAL_SHARE:
                yield from _bare(at, *new, version=version)
                continue
            version += 1
            yield Moment(at, Step.UPDATE, version, *new)
        acute = self._record.acute(self.profile, admitted, discharged, rng) if rng.random() < 0.5 else ((), ())
        yield Moment(discharged, Step.DISCHARGE, version + 1, *acute)


def _bare(
    at: datetime, diagnoses: tuple[Diagnosis, ...], prescriptions: tuple[Prescription, ...], version: int
) -> Iterator[Moment]:
    for diagnosis in diagnoses:
        yield Moment(at, Step.CLINICAL, version, (diagnosis,))
    for prescription in prescriptions:
        yield Moment(at, Step.CLINICAL, version, (), (prescription,))


def _update_times(admitted: datetime, discharged: datetime) -> list[datetime]:
    days = (discharged - admitted) / _DAY
    count = 0 if days < 1 else 1 if days < 6 else 2
    return [admitted + _minutes(days * (number + 1) / (count + 1)) for number in range(count)]


def _next_morning(at: datetime, rng: Random) -> datetime:
    day = (at + _DAY).replace(hour=7, minute=0, second=0, microsecond=0)
    return day + timedelta(minutes=rng.randint(0, 240))


def _minutes(days: float) -> timedelta:
    return timedelta(minutes=round(days * 24 * 60))
