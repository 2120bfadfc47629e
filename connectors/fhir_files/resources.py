"""What is read off a FHIR resource to publish it: whose it is and when it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from connectors.source_event import SourceEvent
from schemas.intake.fhir_time import parse_date_time
from schemas.intake.references import resolve
from schemas.intake.resources import READERS

# The time of a resource that gives none: as far as anybody knows, it always was.
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)

_DATES = {
    "Encounter": ("period.start", "period.end", "meta.lastUpdated"),
    "Condition": ("recordedDate", "onsetDateTime", "onsetPeriod.start", "meta.lastUpdated"),
    "MedicationRequest": ("authoredOn", "meta.lastUpdated"),
    "MedicationStatement": ("effectiveDateTime", "effectivePeriod.start", "dateAsserted", "meta.lastUpdated"),
    "MedicationAdministration": ("effectiveDateTime", "effectivePeriod.start", "meta.lastUpdated"),
    "Patient": ("meta.lastUpdated",),
    "Bundle": ("timestamp", "meta.lastUpdated"),
}
_UTC = ZoneInfo("UTC")


def bare_event(value: bytes, content: Mapping[str, Any], skipped: Counter[str]) -> SourceEvent | None:
    """Make a bare resource an event with its bytes as they are; None, and counted, where it is none of ours."""
    kind = content.get("resourceType")
    if not isinstance(kind, str):
        return SourceEvent(b"", value, UNDATED)
    if kind not in READERS:
        skipped[kind] += 1
        return None
    return SourceEvent(patient_key(content, {}), value, resource_time(content))


def patient_key(resource: Mapping[str, Any], full_urls: Mapping[str, tuple[str, str]]) -> bytes:
    """Return `Patient/<id>` of the patient a resource is or names, else the reference as written, else nothing."""
    kind = str(resource.get("resourceType"))
    if kind == "Patient":
        id_ = resource.get("id")
        return _bytes(f"Patient/{id_}") if isinstance(id_, str) else b""
    reference = resource.get(READERS[kind][2]) if kind in READERS else None
    patient_id = resolve(reference, "Patient", full_urls)
    if patient_id is not None:
        return _bytes(f"Patient/{patient_id}")
    text = reference.get("reference") if isinstance(reference, dict) else None
    return _bytes(text) if isinstance(text, str) else b""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def resource_time(resource: Mapping[str, Any]) -> datetime:
    """Return the first readable of a resource's times that tells when it came up, in UTC; `UNDATED` without any."""
    paths = _DATES.get(str(resource.get("resourceType")), ())
    return next((at for path in paths if (at := _time_at(resource, path))), UNDATED)


def encounter_end(resource: Mapping[str, Any]) -> datetime | None:
    """Return when an Encounter was over, in UTC; None where it does not say, and for other resources."""
    return _time_at(resource, "period.end") if resource.get("resourceType") == "Encounter" else None


def _time_at(resource: Mapping[str, Any], path: str) -> datetime | None:
    element: object = resource
    for name in path.split("."):
        element = element.get(name) if isinstance(element, dict) else None
    moment = parse_date_time(element, _UTC) if isinstance(element, str) else None
    return moment.earliest if moment else None
