"""FHIR resources and Kafka messages for tests, made small: what a test is about is what it passes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from schemas.institutions import Institution, institution
from schemas.intake.event import ParsedEvent, RawEvent, parse_event
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import StructureValidator, fhirkit_issues
from schemas.topics import TopicFamily, topic_name

Resource = dict[str, Any]
LIMITS = Limits()
ARRIVAL = datetime(2025, 6, 1, 12, tzinfo=UTC)
TOPIC = topic_name(TopicFamily.ENCOUNTERS, "dkfz")


def dkfz() -> Institution:
    return institution("dkfz")


def system(name: str) -> str:
    return f"http://terminology.hl7.org/CodeSystem/{name}"


def concept(code: str, name: str = "test") -> Resource:
    return {"coding": [{"system": system(name), "code": code}]}


def without_nones(**elements: Any) -> Resource:
    return {name: value for name, value in elements.items() if value is not None}


def encounter(
    id_: str = "e1",
    start: str | None = "2024-03-01T10:00:00Z",
    end: str | None = "2024-03-05T10:00:00Z",
    *,
    patient: str = "p1",
    version: int | None = 1,
    class_: Any = "IMP",
    **more: Any,
) -> Resource:
    """Make an Encounter; `class_` is a code, or the element as it is to be."""
    return without_nones(
        resourceType="Encounter",
        id=id_,
        **{
            "meta": None if version is None else {"versionId": str(version)},
            "status": "finished" if end else "in-progress",
            "class": {"system": system("v3-ActCode"), "code": class_} if isinstance(class_, str) else class_,
            "subject": {"reference": f"Patient/{patient}"},
            "period": without_nones(start=start, end=end) or None,
            **more,
        },
    )


def patient(
    id_: str = "p1", birth_date: str | None = "1950-04-01", *, version: int | None = 1, **more: Any
) -> Resource:
    return without_nones(
        resourceType="Patient",
        id=id_,
        **{
            "meta": None if version is None else {"versionId": str(version)},
            "gender": "female",
            "birthDate": birth_date,
            **more,
        },
    )


def condition(
    id_: str = "c1",
    onset: str | None = "2024-01-01",
    *,
    code: str = "I50",
    patient: str = "p1",
    version: int | None = 1,
    **more: Any,
) -> Resource:
    return without_nones(
        resourceType="Condition",
        id=id_,
        **{
            "meta": None if version is None else {"versionId": str(version)},
            "clinicalStatus": concept("active", "condition-clinical"),
            "code": concept(code),
            "subject": {"reference": f"Patient/{patient}"},
            "onsetDateTime": onset,
            **more,
        },
    )


def medication_request(
    id_: str = "m1",
    authored: str | None = "2024-01-01",
    *,
    code: str = "C03CA01",
    patient: str = "p1",
    version: int | None = 1,
    **more: Any,
) -> Resource:
    return without_nones(
        resourceType="MedicationRequest",
        id=id_,
        **{
            "meta": None if version is None else {"versionId": str(version)},
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": concept(code),
            "subject": {"reference": f"Patient/{patient}"},
            "authoredOn": authored,
            **more,
        },
    )


def bundle(*resources: Resource, type_: str = "collection") -> Resource:
    """Wrap resources in a Bundle, each under a fullUrl; an entry that is given whole stays as it is."""
    entries = [
        {"fullUrl": f"https://x.test/{one['resourceType']}/{one['id']}", "resource": one}
        if "resourceType" in one
        else one
        for one in resources
    ]
    return {"resourceType": "Bundle", "type": type_, "entry": entries}


def to_bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


def raw(value: Any, *, key: bytes | None = b"Patient/p1", offset: int = 0, received_at: datetime = ARRIVAL) -> RawEvent:
    """Make a message; a value that is neither bytes nor None is written as JSON."""
    if value is not None and not isinstance(value, bytes):
        value = to_bytes(value)
    return RawEvent(TOPIC, 0, offset, key, value, received_at)


def parse(
    value: Any,
    *,
    key: bytes | None = b"Patient/p1",
    limits: Limits = LIMITS,
    validate: StructureValidator = fhirkit_issues,
) -> ParsedEvent:
    return parse_event(raw(value, key=key), dkfz(), limits, validate)


def findings(parsed: ParsedEvent) -> list[tuple[str, str]]:
    """List what was found as (reason code, path)."""
    return [(str(issue.reason), issue.path) for issue in parsed.issues]
