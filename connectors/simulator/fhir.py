"""Simulated visits written as FHIR R4, the way German hospitals write it (MII Kerndatensatz, ISiK)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from connectors.simulator.records import STAYS, Diagnosis, Disposition, Moment, Prescription, Step, Visit

Resource = dict[str, Any]

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_ICD_10_GM = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"
_ATC = "http://fhir.de/CodeSystem/bfarm/atc"
_KONTAKTEBENE = "http://fhir.de/CodeSystem/Kontaktebene"
_STATUS = {Step.DISCHARGE: "finished", Step.VISIT: "finished", Step.CANCEL: "entered-in-error"}
_CLASS_DISPLAY = {
    "IMP": "inpatient encounter",
    "SS": "short stay",
    "EMER": "emergency",
    "AMB": "ambulatory",
}


def message(visit: Visit, moment: Moment) -> Resource:
    """Write an event as a message Bundle: header, Patient, Encounter, then what else comes up."""
    base = f"https://{visit.person.institution}.example/fhir"
    parts = [_department(visit, moment)] if visit.has_department and moment.step is not Step.UPDATE else []
    resources = [
        _header(visit, moment, base),
        patient_at(visit, moment),
        encounter_at(visit, moment),
        *parts,
        *clinical(visit, moment),
    ]
    return {
        "resourceType": "Bundle",
        "id": f"{visit.id}-v{moment.version}",
        "type": "message",
        "timestamp": _instant(moment.at),
        "entry": [{"fullUrl": f"{base}/{one['resourceType']}/{one['id']}", "resource": one} for one in resources],
    }


def _header(visit: Visit, moment: Moment, base: str) -> Resource:
    return {
        "resourceType": "MessageHeader",
        "id": f"{visit.id}-h{moment.version}",
        "eventCoding": {"system": f"{_TERMINOLOGY}/v2-0003", "code": str(moment.step)},
        "source": {"name": f"simulated hospital {visit.person.institution}", "endpoint": base},
        "focus": [{"reference": f"Encounter/{visit.id}"}],
    }


def clinical(visit: Visit, moment: Moment) -> list[Resource]:
    """Write the diagnoses and prescriptions that come up in an event."""
    return [
        *(_condition(visit, one) for one in moment.diagnoses),
        *(_medication_request(visit, one) for one in moment.prescriptions),
    ]


def patient_at(visit: Visit, moment: Moment) -> Resource:
    """Write the patient; the same in all events until death, which is version 2."""
    person = visit.person
    died = visit.disposition is Disposition.DIED and moment.step is Step.DISCHARGE
    patient: Resource = {
        "resourceType": "Patient",
        "id": person.id,
        "meta": _meta(2 if died else 1, visit.discharged if died else person.registered),
        "identifier": [{"system": f"https://{person.institution}.example/sid/patient", "value": person.id}],
        "active": True,
        "name": [{"use": "official", "family": "Simulated", "given": [f"Patient {person.number:06d}"]}],
        "gender": person.gender,
        "birthDate": person.birth_date.isoformat(),
        "address": [{"city": person.city, "country": "DE"}],
    }
    if died:
        patient["deceasedDateTime"] = _instant(visit.discharged)
    return patient


def encounter_at(visit: Visit, moment: Moment) -> Resource:
    """Write the Encounter as it stands at an event."""
    has_left = moment.step in (Step.DISCHARGE, Step.VISIT)
    encounter: Resource = {
        "resourceType": "Encounter",
        "id": visit.id,
        "meta": _meta(moment.version, moment.at),
        "identifier": [{"system": f"https://{visit.person.institution}.example/sid/fall", "value": visit.id}],
        "status": _STATUS.get(moment.step, "in-progress"),
        "class": _class(visit),
        "subject": {"reference": f"Patient/{visit.person.id}"},
        "period": _period(visit, has_left),
    }
    if visit.class_ in STAYS:
        encounter["type"] = [{"coding": [{"system": _KONTAKTEBENE, "code": "einrichtungskontakt"}]}]
        encounter["hospitalization"] = _hospitalization(visit, has_left)
    if visit.is_emergency:
        encounter["priority"] = {"coding": [{"system": f"{_TERMINOLOGY}/v3-ActPriority", "code": "EM"}]}
    return encounter


def _department(visit: Visit, moment: Moment) -> Resource:
    """Write the stay's contact with a department: a part of the stay, never one of its own."""
    has_left = moment.step is Step.DISCHARGE
    return {
        "resourceType": "Encounter",
        "id": f"{visit.id}-d1",
        "meta": _meta(2 if has_left else 1, moment.at),
        "status": "finished" if has_left else "in-progress",
        "class": _class(visit),
        "type": [{"coding": [{"system": _KONTAKTEBENE, "code": "abteilungskontakt"}]}],
        "subject": {"reference": f"Patient/{visit.person.id}"},
        "period": _period(visit, has_left),
        "partOf": {"reference": f"Encounter/{visit.id}"},
    }


def _class(visit: Visit) -> Resource:
    return {"system": f"{_TERMINOLOGY}/v3-ActCode", "code": str(visit.class_), "display": _CLASS_DISPLAY[visit.class_]}


def _period(visit: Visit, has_left: bool) -> Resource:
    period = {"start": _instant(visit.admitted)}
    return period | {"end": _instant(visit.discharged)} if has_left else period


def _hospitalization(visit: Visit, has_left: bool) -> Resource:
    source = "emd" if visit.is_emergency else "gp"
    result: Resource = {"admitSource": {"coding": [{"system": f"{_TERMINOLOGY}/admit-source", "code": source}]}}
    if has_left:
        result["dischargeDisposition"] = {"extension": [_entlassungsgrund(visit.disposition)]}
    return result


def _entlassungsgrund(disposition: Disposition) -> Resource:
    return {
        "url": "http://fhir.de/StructureDefinition/Entlassungsgrund",
        "extension": [
            {
                "url": "ErsteUndZweiteStelle",
                "valueCoding": {
                    "system": "http://fhir.de/CodeSystem/dkgev/EntlassungsgrundErsteUndZweiteStelle",
                    "code": str(disposition),
                },
            }
        ],
    }


def _condition(visit: Visit, diagnosis: Diagnosis) -> Resource:
    status = "resolved" if diagnosis.resolved else "active"
    condition: Resource = {
        "resourceType": "Condition",
        "id": f"{visit.person.id}-c{diagnosis.number:04d}",
        "meta": _meta(1, diagnosis.recorded),
        "clinicalStatus": {"coding": [{"system": f"{_TERMINOLOGY}/condition-clinical", "code": status}]},
        "verificationStatus": {"coding": [{"system": f"{_TERMINOLOGY}/condition-ver-status", "code": "confirmed"}]},
        "code": {
            "coding": [
                {
                    "system": _ICD_10_GM,
                    "version": "2024",
                    "code": diagnosis.code.code,
                    "display": diagnosis.code.display,
                }
            ]
        },
        "subject": {"reference": f"Patient/{visit.person.id}"},
        "encounter": {"reference": f"Encounter/{visit.id}"},
        "onsetDateTime": _instant(diagnosis.onset),
        "recordedDate": _instant(diagnosis.recorded),
    }
    if diagnosis.resolved:
        condition["abatementDateTime"] = _instant(diagnosis.resolved)
    return condition


def _medication_request(visit: Visit, prescription: Prescription) -> Resource:
    code = prescription.code
    request: Resource = {
        "resourceType": "MedicationRequest",
        "id": f"{visit.person.id}-m{prescription.number:04d}",
        "meta": _meta(1, prescription.authored),
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {"coding": [{"system": _ATC, "code": code.code, "display": code.display}]},
        "subject": {"reference": f"Patient/{visit.person.id}"},
        "encounter": {"reference": f"Encounter/{visit.id}"},
        "authoredOn": _instant(prescription.authored),
    }
    if prescription.until:
        supply = {"start": _instant(prescription.authored), "end": _instant(prescription.until)}
        request["dispenseRequest"] = {"validityPeriod": supply}
    return request


def _meta(version: int, updated: datetime) -> Resource:
    return {"versionId": str(version), "lastUpdated": _instant(updated)}


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
