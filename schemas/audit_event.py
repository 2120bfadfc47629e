"""The audit log as FHIR R4 AuditEvent (https://hl7.org/fhir/R4/auditevent.html)."""

from __future__ import annotations

from typing import Any

from schemas.audit import Action, AuditRow, Outcome

_TYPES = "http://dicom.nema.org/resources/ontology/DCM"
_OWN = "urn:healthalliance:audit"

# FHIR's words for what was done: create, read, update, delete, execute.
_READS = {
    Action.READ_SCORE, Action.READ_EXPLANATION, Action.LIST_RISK, Action.LIST_WORKLIST, Action.READ_WORKLIST_ENTRY,
    Action.WATCH_WORKLIST, Action.EXPLAIN, Action.EXPORT_SCORES, Action.EXPORT_PATIENT,
    Action.SHOW_REJECTED, Action.REVEAL,
}  # fmt: skip
_DELETES = {Action.ERASE}
_UPDATES = {Action.ACKNOWLEDGE, Action.SNOOZE, Action.TAKE_BACK, Action.DISCARD, Action.SIGN_MODEL}
_EXPORTS = {Action.EXPORT_SCORES, Action.EXPORT_PATIENT}


def audit_event(row: AuditRow) -> dict[str, Any]:
    """Render a row as an AuditEvent; its place in the chain and its hash are details of the entity."""
    entry = row.entry
    chain = [
        {"type": "sequence", "valueString": str(row.sequence)},
        {"type": "login", "valueString": row.login},
        {"type": "hash", "valueString": row.hash.hex()},
    ]
    about = [{"what": {"identifier": _identifier(subject)}} for subject in entry.subjects]
    return {
        "resourceType": "AuditEvent",
        "id": f"{entry.institution}-{row.sequence}",
        "type": _type(entry.action),
        "subtype": [{"system": f"{_OWN}:action", "code": str(entry.action)}],
        "action": _action(entry.action),
        "recorded": entry.recorded_at.isoformat(),
        "outcome": "0" if entry.outcome is Outcome.GRANTED else "8",
        "agent": [{"who": {"identifier": _identifier(entry.agent)}, "requestor": True}],
        "source": {
            "observer": {"identifier": {"system": "urn:healthalliance:institution", "value": entry.institution}}
        },
        "entity": [
            {"what": {"identifier": {"system": f"{_OWN}:chain", "value": entry.institution}}, "detail": chain},
            *about,
        ],
    }


def _identifier(text: str) -> dict[str, str]:
    kind, _, value = text.partition(":")
    return {"system": f"urn:healthalliance:{kind}", "value": value}


def _type(action: Action) -> dict[str, str]:
    if action in _EXPORTS:
        return {"system": _TYPES, "code": "110106", "display": "Export"}
    if action in _READS or action in _UPDATES or action in _DELETES or action is Action.PREDICT:
        return {"system": _TYPES, "code": "110110", "display": "Patient Record"}
    return {"system": _TYPES, "code": "110100", "display": "Application Activity"}


def _action(action: Action) -> str:
    if action in _READS:
        return "R"
    if action in _DELETES:
        return "D"
    return "U" if action in _UPDATES else "E"
