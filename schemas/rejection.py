"""Why an event, or one entry of it, is not accepted: a value, never an exception."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """The reason codes, in the order in which they are tested."""

    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    NOT_UTF8 = "not-utf8"
    NUL_CHARACTER = "nul-character"
    NOT_JSON = "not-json"
    TOO_MANY_ENTRIES = "too-many-entries"
    TOO_WIDE = "too-wide"
    DUPLICATE_KEY = "duplicate-key"
    UNKNOWN_TOMBSTONE = "unknown-tombstone"

    UNREADABLE = "unreadable"
    UNSUPPORTED_TYPE = "unsupported-type"
    UNSUPPORTED_BUNDLE = "unsupported-bundle"
    UNSUPPORTED_DELETE = "unsupported-delete"
    STRUCTURE = "structure"

    INVALID_ID = "invalid-id"
    INVALID_CODE = "invalid-code"
    INVALID_DATE = "invalid-date"
    MISSING_CLASS = "missing-class"
    PERIOD_REVERSED = "period-reversed"
    MISSING_PERIOD_END = "missing-period-end"
    BIRTH_DATE_IN_FUTURE = "birth-date-in-future"
    BIRTH_DATE_AFTER_ENCOUNTER = "birth-date-after-encounter"
    SUBJECT_MISSING = "subject-missing"
    SUBJECT_UNRESOLVABLE = "subject-unresolvable"
    DEPENDS_ON_REJECTED = "depends-on-rejected"

    VERSION_CONFLICT = "version-conflict"
    DELETED_BEFORE = "deleted-before"
    PATIENT_ERASED = "patient-erased"


# https://hl7.org/fhir/R4/valueset-issue-type.html
_ISSUE_TYPE = {
    Reason.TOO_LARGE: "too-long",
    Reason.TOO_DEEP: "too-costly",
    Reason.TOO_MANY_ENTRIES: "too-costly",
    Reason.TOO_WIDE: "too-costly",
    Reason.UNSUPPORTED_TYPE: "not-supported",
    Reason.UNSUPPORTED_BUNDLE: "not-supported",
    Reason.UNSUPPORTED_DELETE: "not-supported",
    Reason.INVALID_CODE: "code-invalid",
    Reason.MISSING_CLASS: "required",
    Reason.MISSING_PERIOD_END: "required",
    Reason.SUBJECT_MISSING: "required",
    Reason.SUBJECT_UNRESOLVABLE: "not-found",
    Reason.VERSION_CONFLICT: "conflict",
    Reason.DELETED_BEFORE: "deleted",
    Reason.PATIENT_ERASED: "business-rule",
    Reason.STRUCTURE: "structure",
    Reason.NOT_JSON: "structure",
    Reason.NOT_UTF8: "structure",
    Reason.DUPLICATE_KEY: "structure",
}

# What an event is told of at most: some hundred thousand issues fit into one event, but into no row or header.
MOST_ISSUES = 100

# What the sender, or whoever runs the workers, can do.
HINTS = {
    Reason.TOO_LARGE: "Send it in smaller parts, or raise EVENT_MAX_BYTES and redrive it.",
    Reason.TOO_DEEP: "Flatten it, or raise EVENT_MAX_DEPTH and redrive it.",
    Reason.TOO_MANY_ENTRIES: "Send them in several Bundles, or raise EVENT_MAX_ENTRIES and redrive it.",
    Reason.TOO_WIDE: "Leave out what FHIR does not know.",
    Reason.NOT_UTF8: "Encode it as UTF-8.",
    Reason.NUL_CHARACTER: "Take U+0000 out of the text.",
    Reason.NOT_JSON: "Send one JSON object and nothing else; look for text that was cut off.",
    Reason.DUPLICATE_KEY: "Give each key once; where FHIR repeats an element it is a list.",
    Reason.UNKNOWN_TOMBSTONE: "Key it Encounter/<id> to delete a stay, Patient/<id> to erase a patient.",
    Reason.UNREADABLE: "Report it: no rule foresaw its shape. It can be redriven once one does.",
    Reason.UNSUPPORTED_TYPE: "Send it elsewhere, or in a Bundle with what belongs here; others are left alone there.",
    Reason.UNSUPPORTED_BUNDLE: "Send a message, transaction, batch, collection or history.",
    Reason.UNSUPPORTED_DELETE: "Delete by id, one request for each resource.",
    Reason.STRUCTURE: "Hold it against the FHIR R4 (4.0.1) definition of the element at the path.",
    Reason.INVALID_ID: "Give an id of at most 64 letters, digits, dashes and dots.",
    Reason.INVALID_CODE: "Use a code of the value set that FHIR requires at the path.",
    Reason.INVALID_DATE: "Send a date that the calendar has, with a time zone where there is a time.",
    Reason.MISSING_CLASS: "Give the Encounter a class, or a data-absent-reason.",
    Reason.PERIOD_REVERSED: "Correct the period: it ends before it starts.",
    Reason.MISSING_PERIOD_END: "Give a finished stay the end of its period.",
    Reason.BIRTH_DATE_IN_FUTURE: "Correct the birth date.",
    Reason.BIRTH_DATE_AFTER_ENCOUNTER: "Correct the birth date or the start of the encounter.",
    Reason.SUBJECT_MISSING: "Say whose it is.",
    Reason.SUBJECT_UNRESOLVABLE: "Refer to Patient/<id>, or by urn:uuid to a Patient of the same Bundle.",
    Reason.DEPENDS_ON_REJECTED: "Mend the other entry that is reported with it.",
    Reason.VERSION_CONFLICT: "Send the correction with a higher meta.versionId.",
    Reason.DELETED_BEFORE: "Send it with another id: a deleted one stays deleted.",
    Reason.PATIENT_ERASED: "Send no more of this patient, or have it accepted: `healthalliance erase --future accept`.",
}

_KNOWN_ROOT = re.compile(r"(Bundle\.entry\[\d+\]\.resource|[A-Z][A-Za-z]{1,40})")


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding: reason code, FHIRPath of the element, a sentence for the sender.

    The text may quote the sender's own data: it goes back to the sender's topic and nowhere else.
    """

    reason: Reason
    path: str
    text: str

    @property
    def shared_path(self) -> str:
        """Return the path as it may be shared: where the sender made up an element's name, only its resource."""
        if self.reason not in (Reason.STRUCTURE, Reason.DUPLICATE_KEY):
            return self.path
        root = _KNOWN_ROOT.match(self.path)
        return root.group(1) if root else ""


def operation_outcome(issues: tuple[Issue, ...]) -> dict[str, Any]:
    """Render issues as a FHIR R4 OperationOutcome.

    Source: https://hl7.org/fhir/R4/operationoutcome.html
    """
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "error",
                "code": _ISSUE_TYPE.get(issue.reason, "invalid"),
                "details": {"coding": [{"system": "urn:healthalliance:reason", "code": str(issue.reason)}]},
                "diagnostics": issue.text,
                **({"expression": [issue.path]} if issue.path else {}),
            }
            for issue in issues
        ],
    }
