"""Feature set 1: the numbers a patient is scored on, their names, order and meaning. This is their one home."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import NamedTuple

from schemas.history import ConditionFacts, EncounterFacts, Held, MedicationFacts, PatientHistory
from schemas.institutions import StayRules
from schemas.stays import is_inpatient, is_part, took_place

FEATURE_SET = 1

# What a model sees for an unknown value: below every real one, so that a tree can tell it apart.
UNKNOWN = -1.0

_GENDER_CODE = {"female": 0.0, "male": 1.0}
_GENDER_OTHER = 2.0
_RECENT = timedelta(days=365)
_EMERGENCY_WINDOW = timedelta(days=180)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Features:
    """Feature set 1, in the order of the model's input.

    The first five are the original model's; the rest follow LACE (doi:10.1503/cmaj.091117) and HOSPITAL
    (doi:10.1001/jamainternmed.2013.3023).

    age_years: full years at `as_of`; None where the birth date is unknown.
    gender_encoded: female 0, male 1, other or unknown 2.
    num_conditions: distinct codes of conditions active at `as_of`.
    num_medications: distinct codes of medications active at `as_of`.
    recent_encounters: encounters that started in the 365 days before admission.
    prior_inpatient_stays_365d: inpatient stays that ended in the 365 days before admission.
    prior_emergency_visits_180d: emergency visits that started in the 180 days before admission.
    length_of_stay_days: days from admission to `as_of`.
    emergency_admission: 1 if admitted as an emergency, else 0.
    """

    age_years: float | None
    gender_encoded: float
    num_conditions: float
    num_medications: float
    recent_encounters: float
    prior_inpatient_stays_365d: float
    prior_emergency_visits_180d: float
    length_of_stay_days: float
    emergency_admission: float

    def vector(self) -> tuple[float, ...]:
        """Return the model's input row, `UNKNOWN` for a value that is None."""
        return tuple(UNKNOWN if value is None else value for value in vars(self).values())


FEATURE_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Features))


def as_of(history: PatientHistory, encounter_id: str, facts: EncounterFacts) -> datetime | None:
    """Return the time an encounter is judged at, in UTC; never the clock.

    Its discharge; while it is open, the latest of admission, `meta.lastUpdated` and the times of the
    conditions and medications that name it. None where nobody said when it began.
    """
    if facts.started is None:
        return None
    if facts.ended is not None:
        return facts.ended
    named = [
        *_known_from(history.conditions.values(), encounter_id),
        *_known_from(history.medications.values(), encounter_id),
    ]
    return max(facts.started, facts.updated or facts.started, *named)


def featurize(
    history: PatientHistory, encounter_id: str, facts: EncounterFacts, at: datetime, rules: StayRules
) -> Features:
    """Compute the features of an encounter that has begun, as of `at` (see `as_of`).

    What is not known at `at`, or happens later, does not count, so serving, replay and training agree.
    """
    admitted = facts.started
    assert admitted is not None, "as_of() gives no time for an encounter without a beginning"
    patient = history.patient.facts if history.patient else None
    before = _visits_before(history, encounter_id, admitted, rules)
    return Features(
        age_years=_age(patient.birth_date, at) if patient and patient.birth_date else None,
        gender_encoded=_GENDER_CODE.get(patient.gender or "", _GENDER_OTHER) if patient else _GENDER_OTHER,
        num_conditions=_active_codes(history.conditions.values(), at),
        num_medications=_active_codes(history.medications.values(), at),
        recent_encounters=float(before.recent),
        prior_inpatient_stays_365d=float(before.inpatient),
        prior_emergency_visits_180d=float(before.emergency),
        length_of_stay_days=max(at - admitted, timedelta()) / _DAY,
        emergency_admission=float(facts.emergency or facts.class_code in rules.emergency_classes),
    )


class _VisitsBefore(NamedTuple):
    recent: int
    inpatient: int
    emergency: int


def _visits_before(history: PatientHistory, encounter_id: str, admitted: datetime, rules: StayRules) -> _VisitsBefore:
    """Count the visits that began before `admitted`, each kind in its own window.

    A stay that overlaps the admission is the same stay, not a prior one (HOSPITAL).
    """
    year, half_year = admitted - _RECENT, admitted - _EMERGENCY_WINDOW
    recent = inpatient = emergency = 0
    for id_, held in history.encounters.items():
        facts = held.facts
        if facts is None or facts.started is None or facts.started >= admitted or id_ == encounter_id:
            continue
        ended = facts.ended
        if facts.started < year and (ended is None or ended < year):
            continue
        if not took_place(facts) or is_part(id_, facts, rules):
            continue
        recent += facts.started >= year
        emergency += facts.started >= half_year and facts.class_code in rules.emergency_classes
        inpatient += ended is not None and ended <= admitted and is_inpatient(id_, facts, rules)
    return _VisitsBefore(recent, inpatient, emergency)


def _known_from(
    held: Iterable[Held[ConditionFacts]] | Iterable[Held[MedicationFacts]], encounter_id: str
) -> Iterable[datetime]:
    for one in held:
        if one.facts and one.facts.encounter == encounter_id and one.facts.known_from:
            yield one.facts.known_from


def _age(birth_date: date, at: datetime) -> float | None:
    on = at.date()
    years = on.year - birth_date.year - ((on.month, on.day) < (birth_date.month, birth_date.day))
    return float(years) if years >= 0 else None


def _active_codes(held: Iterable[Held[ConditionFacts]] | Iterable[Held[MedicationFacts]], at: datetime) -> float:
    codes = {
        one.facts.code
        for one in held
        if one.facts
        and (one.facts.known_from is None or one.facts.known_from <= at)
        and (one.facts.until is None or one.facts.until > at)
    }
    return float(len(codes))
