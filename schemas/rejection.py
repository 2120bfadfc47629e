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


# https://hl7.org/fhir/R4/valueset-issue-type.html
_ISSUE_TYPE = {
    Reason.TOO_LARGE: "too-long",
    Reason.TOO_DEEP: "too-costly",
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
    Reason.STRUCTURE: "structure",
    Reason.NOT_JSON: "structure",
    Reason.NOT_UTF8: "structure",
    Reason.DUPLICATE_KEY: "structure",
}

# What an event is told of at most: some hundred thousand issues fit into one event, but into no row or header.
MOST_ISSUES = 100

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
