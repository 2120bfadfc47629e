"""Which diagnoses and medications a simulated patient has and gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import exp
from random import Random

from connectors.simulator.profiles import Code, Illness, Profile
from connectors.simulator.records import Diagnosis, Person, Prescription

_TREATED_SHARE = 0.8
_MOST_FIRST_ILLNESSES = 10
_DAY = timedelta(days=1)

Findings = tuple[tuple[Diagnosis, ...], tuple[Prescription, ...]]


@dataclass(slots=True)
class MedicalRecord:
    """The lasting illnesses and medications of one patient so far, and the numbers given to all of them."""

    illnesses: list[Illness] = field(default_factory=list)
    medications: set[str] = field(default_factory=set)
    diagnoses: int = 0
    prescriptions: int = 0

    def first_findings(self, person: Person, profile: Profile, age: float, at: datetime, rng: Random) -> Findings:
        """Record what the patient brings along to the first visit; the frail and the old bring more."""
        mean = exp(0.9 + 0.38 * person.frailty + 0.012 * (age - 60))
        wanted = min(1 + _poisson(mean, rng), _MOST_FIRST_ILLNESSES)
        found = [self.lasting(profile, at, rng, known_for_days=4000) for _ in range(wanted)]
        return _joined(found)

    def lasting(self, profile: Profile, at: datetime, rng: Random, known_for_days: float = 30) -> Findings:
        """Record one more lasting illness with its medications; nothing where the patient has them all."""
        left = [one for one in profile.illnesses if one not in self.illnesses]
        if not left:
            return (), ()
        illness = _choose(left, rng)
        self.illnesses.append(illness)
        onset = at - _whole_seconds(known_for_days * _DAY * rng.random())
        return (self._diagnosis(illness, onset, at, None),), self._lasting_treatment(illness, at, rng)

    def acute(self, profile: Profile, since: datetime, until: datetime, rng: Random) -> Findings:
        """Record an acute illness that is over at `until`, with a short course of medication."""
        illness = _choose(profile.acute, rng)
        courses = tuple(
            self._prescription(one, until, until + timedelta(days=rng.randint(3, 10))) for one in illness.medications
        )
        return (self._diagnosis(illness, since, until, until),), courses

    def _diagnosis(self, illness: Illness, onset: datetime, at: datetime, resolved: datetime | None) -> Diagnosis:
        self.diagnoses += 1
        return Diagnosis(self.diagnoses, illness.diagnosis, onset, at, resolved)

    def _lasting_treatment(self, illness: Illness, at: datetime, rng: Random) -> tuple[Prescription, ...]:
        chosen = [
            one for one in illness.medications if rng.random() < _TREATED_SHARE and one.code not in self.medications
        ]
        self.medications.update(one.code for one in chosen)
        return tuple(self._prescription(one, at, None) for one in chosen)

    def _prescription(self, code: Code, at: datetime, until: datetime | None) -> Prescription:
        self.prescriptions += 1
        return Prescription(self.prescriptions, code, at, until)


def _joined(found: Sequence[Findings]) -> Findings:
    return tuple(one for diagnoses, _ in found for one in diagnoses), tuple(one for _, given in found for one in given)


def _choose(illnesses: Sequence[Illness], rng: Random) -> Illness:
    return rng.choices(illnesses, [one.weight for one in illnesses])[0]


def _poisson(mean: float, rng: Random) -> int:
    count, left = 0, exp(-mean)
    product = rng.random()
    while product > left:
        product *= rng.random()
        count += 1
    return count


def _whole_seconds(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
