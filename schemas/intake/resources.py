"""Stage 3 of validation, and what each resource type says: the rules that structural validators miss."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import orjson

from schemas.history import (
    ConditionFacts,
    EncounterFacts,
    Entry,
    Facts,
    Kind,
    MedicationFacts,
    PatientFacts,
    Scheme,
    Version,
)
from schemas.institutions import Institution
from schemas.intake.dispositions import discharge_disposition
from schemas.intake.fhir_time import Moment, parse_date, parse_date_time
from schemas.intake.references import resolve
from schemas.rejection import Issue, Reason
from schemas.stays import is_inpatient

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")  # https://hl7.org/fhir/R4/datatypes.html#id
_ID_LENGTH = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What an order or statement that ended without saying when is taken to have lasted: a usual supply.
ASSUMED_SUPPLY = timedelta(days=30)

# https://hl7.org/fhir/R4/valueset-encounter-status.html and its fellows: required bindings
_ENCOUNTER_STATUS = frozenset(
    ["planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error", "unknown"]
)
_GENDER = frozenset(["male", "female", "other", "unknown"])
_CLINICAL_STATUS = frozenset(["active", "recurrence", "relapse", "inactive", "remission", "resolved"])
_VERIFICATION = frozenset(["unconfirmed", "provisional", "differential", "confirmed", "refuted", "entered-in-error"])
_MEDICATION_STATUS = {
    "MedicationRequest": frozenset(
        ["active", "on-hold", "cancelled", "completed", "entered-in-error", "stopped", "draft", "unknown"]
    ),
    "MedicationStatement": frozenset(
        ["active", "completed", "entered-in-error", "intended", "stopped", "on-hold", "unknown", "not-taken"]
    ),
    "MedicationAdministration": frozenset(
        ["in-progress", "not-done", "on-hold", "completed", "entered-in-error", "stopped", "unknown"]
    ),
}
_MEDICATION_VOID = frozenset(["entered-in-error", "cancelled", "draft", "not-taken", "not-done", "intended"])
_MEDICATION_ENDED = frozenset(["completed", "stopped"])


@dataclass(frozen=True, slots=True)
class Setting:
    """What surrounds a resource: sender, arrival, Kafka offset, the Bundle's fullUrls and Medications."""

    institution: Institution
    received_at: datetime
    offset: int
    full_urls: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    medications: Mapping[str, dict[str, Any]] = field(default_factory=dict)


class _Reading:
    """Collects what the rules find wrong while a resource is read, so that all of it is reported at once."""

    def __init__(self, path: str, setting: Setting) -> None:
        self.path, self.setting, self.issues = path, setting, list[Issue]()

    def refuse(self, reason: Reason, element: str, text: str) -> None:
        path = f"{self.path}.{element}"
        self.issues.append(Issue(reason, path, f"{path}: {text}"))

    def moment(self, text: object, element: str) -> Moment | None:
        if text is None:
            return None
        moment = parse_date_time(text, self.setting.institution.time_zone) if isinstance(text, str) else None
        if moment is None:
            self.refuse(Reason.INVALID_DATE, element, "not a date of the calendar.")
        return moment

    def instant(self, text: object, element: str) -> datetime | None:
        moment = self.moment(text, element)
        return moment.earliest if moment else None

    def code(self, value: object, allowed: frozenset[str], element: str) -> str | None:
        if value is not None and value not in allowed:
            self.refuse(Reason.INVALID_CODE, element, f"not one of {', '.join(sorted(allowed))}.")
        return value if isinstance(value, str) else None

    def patient(self, element: str, reference: object) -> str | None:
        if reference is None:
            self.refuse(Reason.SUBJECT_MISSING, element, "needed to know whose it is.")
            return None
        id_ = resolve(reference, "Patient", self.setting.full_urls)
        if id_ is None or len(id_) > _ID_LENGTH:
            self.refuse(Reason.SUBJECT_UNRESOLVABLE, element, "does not lead to a Patient.")
            return None
        return id_


def read_resource(resource: dict[str, Any], path: str, setting: Setting, id_: str | None) -> Entry | list[Issue]:
    """Read a resource of a supported type as an entry, or list all that its type's rules object to.

    `id_` is the resource's id, or what stands for it in its Bundle.
    """
    reading = _Reading(path, setting)
    if id_ is None or not _ID.fullmatch(id_):
        reading.refuse(Reason.INVALID_ID, "id", "an id of 1 to 64 letters, digits, '-' and '.' is needed.")
    kind, read, subject = READERS[resource["resourceType"]]
    patient_id = id_ if kind is Kind.PATIENT else reading.patient(subject, resource.get(subject))
    facts = read(resource, id_ or "", reading)
    version = _version(resource.get("meta") or {}, reading)
    if reading.issues:
        return reading.issues
    assert id_ is not None
    return Entry(kind, _held_id(resource, kind, id_), patient_id, path, version, _digest(resource), facts)


def _held_id(resource: dict[str, Any], kind: Kind, id_: str) -> str:
    # Three resource types share one kind; ids are unique only within a type.
    return f"{resource['resourceType']}/{id_}" if kind is Kind.MEDICATION else id_


def _version(meta: dict[str, Any], reading: _Reading) -> Version:
    number = meta.get("versionId")
    updated = reading.instant(meta.get("lastUpdated"), "meta.lastUpdated")
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) <= 18:
        return Version(Scheme.VERSION_ID, int(number))
    if updated is not None:
        return Version(Scheme.LAST_UPDATED, (updated - _EPOCH) // timedelta(microseconds=1))
    return Version(Scheme.OFFSET, reading.setting.offset)


def _digest(resource: dict[str, Any]) -> bytes:
    return blake2b(orjson.dumps(resource, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()


def _read_patient(resource: dict[str, Any], id_: str, reading: _Reading) -> Facts | None:
    birth_date = None
    if isinstance(resource.get("birthDate"), str):
        birth_date = parse_date(resource["birthDate"])
        if birth_date is None:
            reading.refuse(Reason.INVALID_DATE, "birthDate", "not a date of the calendar.")
        elif birth_date > reading.setting.received_at.date() + timedelta(days=1):  # a day's grace for time zones
            reading.refuse(Reason.BIRTH_DATE_IN_FUTURE, "birthDate", "lies in the future.")
    deceased_at = reading.instant(resource.get("deceasedDateTime"), "deceasedDateTime")
    deceased = resource.get("deceasedBoolean")
    if deceased is not None and not isinstance(deceased, bool):
        reading.refuse(Reason.INVALID_CODE, "deceasedBoolean", "neither true nor false.")
    return PatientFacts(
        birth_date=birth_date,
        gender=reading.code(resource.get("gender"), _GENDER, "gender"),
        deceased=deceased is True or deceased_at is not None,
        deceased_at=deceased_at,
        person=_person(resource, id_, reading),
    )


def _person(resource: dict[str, Any], id_: str, reading: _Reading) -> str | None:
    """Read which Patient stands for the same person (Patient.link), None where it is this one.

    `refer` and `replaced-by` name the main one; of two that see each other also, the first by id stands for both.
    """
    for link in resource.get("link") or ():
        other = resolve(link.get("other"), "Patient", reading.setting.full_urls)
        if other is None or len(other) > _ID_LENGTH or other == id_ or link.get("type") == "replaces":
            continue
        person = min(id_, other) if link.get("type") == "seealso" else other
        return None if person == id_ else person
    return None


def _read_encounter(resource: dict[str, Any], id_: str, reading: _Reading) -> Facts | None:
    status = reading.code(resource.get("status"), _ENCOUNTER_STATUS, "status") or ""
    class_ = resource.get("class") or {}
    if not class_.get("code") and not class_.get("extension"):
        reading.refuse(Reason.MISSING_CLASS, "class", "needs a code, or an extension that says why there is none.")
    period = resource.get("period") or {}
    start = reading.moment(period.get("start"), "period.start")
    end = reading.moment(period.get("end"), "period.end")
    if start and end and end.latest < start.earliest:
        reading.refuse(Reason.PERIOD_REVERSED, "period", "ends before it starts.")
    hospitalization = resource.get("hospitalization") or {}
    facts = EncounterFacts(
        status=status,
        class_code=class_.get("code"),
        level=_contact_level(resource),
        part_of=resolve(resource.get("partOf"), "Encounter", reading.setting.full_urls),
        started=start.earliest if start else None,
        ended=max(start.earliest, end.earliest) if start and end else end.earliest if end else None,
        updated=reading.instant((resource.get("meta") or {}).get("lastUpdated"), "meta.lastUpdated"),
        disposition=discharge_disposition(hospitalization),
        emergency=_is_emergency(resource, hospitalization),
        planned=_is_planned(resource),
        summary_only=_is_summary_only(resource),
    )
    if status == "finished" and not end and is_inpatient(id_, facts, reading.setting.institution.rules):
        reading.refuse(Reason.MISSING_PERIOD_END, "period.end", "a finished inpatient stay has an end.")
    return None if status in ("entered-in-error", "cancelled") else facts


def _contact_level(resource: dict[str, Any]) -> str | None:
    """Read the German contact level. Source: MII Kerndatensatz, module Fall, Encounter.type Kontaktebene."""
    for coding in _codings(*resource.get("type", ())):
        if str(coding.get("system", "")).endswith("/Kontaktebene"):
            return str(coding.get("code"))
    return None


def _is_emergency(resource: dict[str, Any], hospitalization: dict[str, Any]) -> bool:
    """Read an emergency admission: v3-ActPriority EM, admit-source emd, or the German Aufnahmeanlass N."""
    priority = {coding.get("code") for coding in _codings(resource.get("priority"))}
    source = {coding.get("code") for coding in _codings(hospitalization.get("admitSource"))}
    return "EM" in priority or not source.isdisjoint({"emd", "N"})


def _is_planned(resource: dict[str, Any]) -> bool:
    """Read an elective admission: v3-ActPriority EL."""
    return any(coding.get("code") == "EL" for coding in _codings(resource.get("priority")))


def _is_summary_only(resource: dict[str, Any]) -> bool:
    """Read that a resource is a summary of what happened: meta.tag SUBSETTED (v3-ObservationValue).

    Source: https://hl7.org/fhir/R4/search.html#summary.
    """
    tags = (resource.get("meta") or {}).get("tag", ())
    return any(tag.get("code") == "SUBSETTED" for tag in tags)


def _read_condition(resource: dict[str, Any], id_: str, reading: _Reading) -> Facts | None:
    clinical = reading.code(
        _first_code(resource.get("clinicalStatus")), _CLINICAL_STATUS, "clinicalStatus.coding[0].code"
    )
    verification = reading.code(
        _first_code(resource.get("verificationStatus")), _VERIFICATION, "verificationStatus.coding[0].code"
    )
    onset = reading.instant(resource.get("onsetDateTime"), "onsetDateTime") or reading.instant(
        (resource.get("onsetPeriod") or {}).get("start"), "onsetPeriod.start"
    )
    until = reading.instant(resource.get("abatementDateTime"), "abatementDateTime") or reading.instant(
        (resource.get("abatementPeriod") or {}).get("end"), "abatementPeriod.end"
    )
    updated = reading.instant((resource.get("meta") or {}).get("lastUpdated"), "meta.lastUpdated")
    known_from = reading.instant(resource.get("recordedDate"), "recordedDate") or onset or updated
    if verification in ("entered-in-error", "refuted"):
        return None
    if clinical in ("inactive", "remission", "resolved") and until is None:
        until = updated or known_from
    return ConditionFacts(
        code=_concept(resource.get("code")) or id_,
        known_from=known_from,
        until=until,
        encounter=resolve(resource.get("encounter"), "Encounter", reading.setting.full_urls),
    )


def _read_medication(resource: dict[str, Any], id_: str, reading: _Reading) -> Facts | None:
    kind = resource["resourceType"]
    status = reading.code(resource.get("status"), _MEDICATION_STATUS[kind], "status")
    known_from, until = _medication_period(resource, status, reading)
    if status in _MEDICATION_VOID:
        return None
    return MedicationFacts(
        code=_concept(resource.get("medicationCodeableConcept")) or _referenced_medication(resource, reading) or id_,
        known_from=known_from,
        until=until,
        encounter=resolve(resource.get("encounter") or resource.get("context"), "Encounter", reading.setting.full_urls),
    )


def _medication_period(
    resource: dict[str, Any], status: str | None, reading: _Reading
) -> tuple[datetime | None, datetime | None]:
    period = resource.get("effectivePeriod") or {}
    supply = (resource.get("dispenseRequest") or {}).get("validityPeriod") or {}
    at = reading.instant(resource.get("effectiveDateTime"), "effectiveDateTime")
    since = (
        reading.instant(resource.get("authoredOn"), "authoredOn")
        or reading.instant(period.get("start"), "effectivePeriod.start")
        or at
        or reading.instant(resource.get("dateAsserted"), "dateAsserted")
    )
    until = reading.instant(period.get("end"), "effectivePeriod.end") or reading.instant(
        supply.get("end"), "dispenseRequest.validityPeriod.end"
    )
    if until is None and at is not None and resource["resourceType"] == "MedicationAdministration":
        until = at + timedelta(days=1)
    if until is None and status in _MEDICATION_ENDED and since is not None:
        until = since + ASSUMED_SUPPLY
    return since, until


def _referenced_medication(resource: dict[str, Any], reading: _Reading) -> str | None:
    reference = (resource.get("medicationReference") or {}).get("reference")
    if not isinstance(reference, str):
        return None
    contained = {f"#{one.get('id')}": one for one in resource.get("contained", ())}
    medication = contained.get(reference) or reading.setting.medications.get(reference) or {}
    return _concept(medication.get("code")) or reference


def _codings(*concepts: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [coding for concept in concepts if concept for coding in concept.get("coding", ())]


def _first_code(concept: dict[str, Any] | None) -> str | None:
    return next((coding.get("code") for coding in _codings(concept)), None)


def _concept(concept: dict[str, Any] | None) -> str | None:
    """Name a CodeableConcept by its first coding, else its text."""
    for coding in _codings(concept):
        if coding.get("code"):
            return f"{coding.get('system', '')}|{coding['code']}"
    return (concept or {}).get("text")


_Reader = Callable[[dict[str, Any], str, _Reading], Facts | None]

# Resource type → the kind it is held as, its reader, the element that names the patient.
READERS: dict[str, tuple[Kind, _Reader, str]] = {
    "Patient": (Kind.PATIENT, _read_patient, ""),
    "Encounter": (Kind.ENCOUNTER, _read_encounter, "subject"),
    "Condition": (Kind.CONDITION, _read_condition, "subject"),
    "MedicationRequest": (Kind.MEDICATION, _read_medication, "subject"),
    "MedicationStatement": (Kind.MEDICATION, _read_medication, "subject"),
    "MedicationAdministration": (Kind.MEDICATION, _read_medication, "subject"),
}
