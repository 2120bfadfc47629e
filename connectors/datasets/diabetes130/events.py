"""Stays of the Diabetes 130 file as the events that a hospital would have published.

A stay is one event at its discharge: the patient, the visits of the year before, the stay, its diagnoses and
medications. The next stay, where the file tells of one, is another event when it ends. The file counts the visits
and tells nothing else of them, so they are marked as summaries (meta.tag SUBSETTED): they count for the stay, and
never stand for stays whose own features are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from connectors.datasets.diabetes130.rows import Readmitted, Stay
from connectors.source_event import SourceEvent

Resource = dict[str, Any]

# When the institution is last heard of, so that every stay is followed for more than 30 days.
END_OF_OBSERVATION = datetime(2010, 1, 1, 8, tzinfo=UTC)

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_SUMMARY = [{"system": f"{_TERMINOLOGY}/v3-ObservationValue", "code": "SUBSETTED"}]
_ICD_9_CM = "http://hl7.org/fhir/sid/icd-9-cm"

_DAY = timedelta(days=1)
# Days before the admission that visits begin at, spread evenly between them: all inside their features' windows. The
# file counts a year's emergency visits; they lie within 180 days, for there the feature counts every one of them.
# Stays end more than 30 days before the admission, so that none of them is readmitted by it.
_INPATIENT, _EMERGENCY, _OUTPATIENT = (33, 364), (1, 179), (1, 364)
_SUMMARY_STAY = _DAY
_VISIT = timedelta(hours=2)
# Days from the discharge to the next stay: 2 to 29, or 31 to 300, spread by encounter_id.
_SOON, _LATER = (2, 28), (31, 270)


def stay_events(stays: Sequence[Stay]) -> Iterator[SourceEvent]:
    """Write stays as events in time order, the end of the observation last; the same stays give the same bytes."""
    due = [(stay.discharged, place, False) for place, stay in enumerate(stays)]
    due += [(_next_end(stay), place, True) for place, stay in enumerate(stays) if _comes_back(stay)]
    for at, place, is_next in sorted(due):
        stay = stays[place]
        yield _event(stay.patient_id, next_stay(stay) if is_next else collection(resources_of(stay)), at)
    if stays:
        yield _end_of_observation()


def event_count(stays: Iterable[Stay]) -> int:
    """Count the events that `stay_events` makes of stays."""
    numbers = [1 + _comes_back(stay) for stay in stays]
    return sum(numbers) + bool(numbers)


def resources_of(stay: Stay) -> list[Resource]:
    """Write all that is known at a stay's discharge."""
    return [_patient(stay), *_visits_before(stay), _index_stay(stay), *_conditions(stay), *_medications(stay)]


def next_stay(stay: Stay) -> Resource:
    """Write the stay that the patient came back for: an emergency, for only unplanned stays are readmissions."""
    end = _next_end(stay)
    return _summary(stay, "next", "IMP", end - _SUMMARY_STAY, end, end) | {"priority": _concept("v3-ActPriority", "EM")}


def collection(resources: Iterable[Resource]) -> Resource:
    """Write resources as one Bundle."""
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}


def _event(patient_id: str, resource: Resource, at: datetime) -> SourceEvent:
    return SourceEvent(f"Patient/{patient_id}".encode(), orjson.dumps(resource), at)


def _comes_back(stay: Stay) -> bool:
    return stay.readmitted is not Readmitted.NO


def _next_end(stay: Stay) -> datetime:
    first, days = _SOON if stay.readmitted is Readmitted.WITHIN_30_DAYS else _LATER
    return stay.discharged + (first + int(stay.encounter_id) % days) * _DAY + _SUMMARY_STAY


def _end_of_observation() -> SourceEvent:
    name, at = "end-of-observation", END_OF_OBSERVATION
    visit = _encounter(name, name, "AMB", at - _VISIT, at) | {"meta": _meta(at) | {"tag": _SUMMARY}}
    return _event(name, visit, at)


def _patient(stay: Stay) -> Resource:
    # Half a year more than the bracket's middle: the age stays the same until the discharge.
    born = stay.admitted - timedelta(days=round(365.25 * (stay.age_years + 0.5)))
    return {
        "resourceType": "Patient",
        "id": stay.patient_id,
        "meta": _meta(stay.discharged),
        "gender": stay.gender,
        "birthDate": born.date().isoformat(),
        "link": [{"other": {"reference": f"Patient/{stay.patient_nbr}"}, "type": "refer"}],
    }


def _index_stay(stay: Stay) -> Resource:
    encounter = _encounter(stay.encounter_id, stay.patient_id, "IMP", stay.admitted, stay.discharged)
    encounter["meta"] = _meta(stay.discharged)
    if stay.priority:
        encounter["priority"] = _concept("v3-ActPriority", stay.priority)
    hospitalization = {}
    if stay.admit_source:
        hospitalization["admitSource"] = _concept("admit-source", stay.admit_source)
    if stay.disposition:
        hospitalization["dischargeDisposition"] = _concept("discharge-disposition", stay.disposition)
    return encounter | {"hospitalization": hospitalization} if hospitalization else encounter


def _visits_before(stay: Stay) -> Iterator[Resource]:
    kinds = (
        ("inpatient", "IMP", stay.number_inpatient, _INPATIENT, _SUMMARY_STAY),
        ("emergency", "EMER", stay.number_emergency, _EMERGENCY, _VISIT),
        ("outpatient", "AMB", stay.number_outpatient, _OUTPATIENT, _VISIT),
    )
    for kind, class_, count, (nearest, farthest), length in kinds:
        for number in range(1, count + 1):
            days = nearest + (farthest - nearest) * (number - 0.5) / count
            start = stay.admitted - timedelta(seconds=round(86_400 * days))
            yield _summary(stay, f"{kind}-{number}", class_, start, start + length, stay.discharged)


def _summary(stay: Stay, name: str, class_: str, start: datetime, end: datetime, told: datetime) -> Resource:
    visit = _encounter(f"{stay.encounter_id}-{name}", stay.patient_id, class_, start, end)
    return visit | {"meta": _meta(told) | {"tag": _SUMMARY}}


def _encounter(id_: str, patient_id: str, class_: str, start: datetime, end: datetime) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": "finished",
        "class": {"system": f"{_TERMINOLOGY}/v3-ActCode", "code": class_},
        "subject": {"reference": f"Patient/{patient_id}"},
        "period": {"start": _instant(start), "end": _instant(end)},
    }


def _conditions(stay: Stay) -> Iterator[Resource]:
    codes: list[Resource] = [{"coding": [{"system": _ICD_9_CM, "code": code}]} for code in stay.diagnoses]
    for number, code in enumerate(_filled(codes, stay.number_diagnoses, "unspecified diagnosis"), start=1):
        yield {
            "resourceType": "Condition",
            "id": f"{stay.encounter_id}-c{number}",
            "meta": _meta(stay.discharged),
            "clinicalStatus": _concept("condition-clinical", "active"),
            "verificationStatus": _concept("condition-ver-status", "confirmed"),
            "code": code,
            "subject": {"reference": f"Patient/{stay.patient_id}"},
            "encounter": {"reference": f"Encounter/{stay.encounter_id}"},
            "recordedDate": _instant(stay.admitted),
        }


def _medications(stay: Stay) -> Iterator[Resource]:
    drugs: list[Resource] = [{"text": name} for name in stay.drugs]
    for number, drug in enumerate(_filled(drugs, stay.num_medications, "unspecified medication"), start=1):
        yield {
            "resourceType": "MedicationRequest",
            "id": f"{stay.encounter_id}-m{number}",
            "meta": _meta(stay.discharged),
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": drug,
            "subject": {"reference": f"Patient/{stay.patient_id}"},
            "encounter": {"reference": f"Encounter/{stay.encounter_id}"},
            "authoredOn": _instant(stay.admitted),
        }


def _filled(known: list[Resource], count: int, name: str) -> list[Resource]:
    """Add what is counted and not named, each plainly called unspecified and distinct by its number."""
    return known + [{"text": f"{name} {number}"} for number in range(len(known) + 1, count + 1)]


def _concept(system: str, code: str) -> Resource:
    return {"coding": [{"system": f"{_TERMINOLOGY}/{system}", "code": code}]}


def _meta(updated: datetime) -> Resource:
    return {"versionId": "1", "lastUpdated": _instant(updated)}


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
