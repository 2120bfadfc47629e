"""Every reason code, the element it names, and what just escapes it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fhir.resources.R4B.operationoutcome import OperationOutcome

from schemas.history import Kind
from schemas.intake.event_bytes import Limits
from schemas.rejection import MOST_ISSUES, Issue, Reason, operation_outcome
from tests.unit.schemas.fhir_events import (
    bundle,
    concept,
    condition,
    encounter,
    findings,
    medication_request,
    parse,
    patient,
    to_bytes,
)

START, END = "2024-03-01T10:00:00Z", "2024-03-05T10:00:00Z"
FINE = to_bytes(encounter())
NARROW = Limits(max_bytes=len(FINE), max_depth=8)


def with_text(text: bytes) -> bytes:
    """Put raw JSON string content into a valid Encounter."""
    return (
        FINE[:-1]
        + b', "text": {"status": "generated", "div": "<div xmlns=\\"http://www.w3.org/1999/xhtml\\">'
        + (text + b'</div>"}}')
    )


REFUSED_BYTES: dict[str, tuple[bytes, Reason, str]] = {
    "one byte more than allowed": (FINE + b" ", Reason.TOO_LARGE, ""),
    "nested deeper than allowed": (b'{"a": [[[[[[[[1]]]]]]]]}', Reason.TOO_DEEP, ""),
    "a broken byte": (b'{"resourceType": "\xff"}', Reason.NOT_UTF8, ""),
    "an encoded surrogate": (b'{"resourceType": "\xed\xa0\x80"}', Reason.NOT_UTF8, ""),
    "a raw U+0000": (b'{"resourceType": "\x00"}', Reason.NUL_CHARACTER, ""),
    "an escaped U+0000": (rb'{"resourceType": "\u0000"}', Reason.NUL_CHARACTER, ""),
    "an escaped U+0000 behind an escaped backslash": (rb'{"a": "\\\u0000"}', Reason.NUL_CHARACTER, ""),
    "an escaped U+0000 in a key": (rb'{"\u0000": 1}', Reason.NUL_CHARACTER, ""),
    "no bytes": (b"", Reason.NOT_JSON, ""),
    "a list": (b"[]", Reason.NOT_JSON, ""),
    "a string": (b'"Encounter"', Reason.NOT_JSON, ""),
    "null": (b"null", Reason.NOT_JSON, ""),
    "NaN": (b'{"a": NaN}', Reason.NOT_JSON, ""),
    "Infinity": (b'{"a": -Infinity}', Reason.NOT_JSON, ""),
    "a number out of any range": (b'{"a": 1e400}', Reason.NOT_JSON, ""),
    "a lone surrogate": (rb'{"a": "\ud800"}', Reason.NOT_JSON, ""),
    "trailing data": (b"{} {}", Reason.NOT_JSON, ""),
    "a trailing comma": (b'{"a": 1,}', Reason.NOT_JSON, ""),
    "a comment": (b'{"a": 1} // no', Reason.NOT_JSON, ""),
    "a byte order mark": (b"\xef\xbb\xbf{}", Reason.NOT_JSON, ""),
    "closing brackets first": (b"]]]]{", Reason.NOT_JSON, ""),
}


@pytest.mark.parametrize("case", REFUSED_BYTES)
def test_bytes_that_are_no_strict_json_are_refused(case: str) -> None:
    value, reason, path = REFUSED_BYTES[case]
    assert findings(parse(value, limits=NARROW)) == [(reason, path)]


def test_bytes_at_the_limit_are_accepted() -> None:
    assert parse(FINE, limits=NARROW).issues == ()


@pytest.mark.parametrize(
    "text", [rb"\\u0000", rb"\\\\u0000", b"[[[[[[[[[[{{{{", rb"\"]]}}\"[[[[[[[[[[", b"\xc3\xa9", rb"\ud83d\ude00"]
)
def test_text_that_only_looks_forbidden_is_accepted(text: bytes) -> None:
    assert findings(parse(with_text(text), limits=Limits(max_depth=8))) == []


@pytest.mark.parametrize("depth", [1, 2, 63, 64])
def test_nesting_counts_every_level_up_to_the_cap(depth: int) -> None:
    nested = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}" if depth > 1 else b"{}"
    assert findings(parse(nested)) == [(Reason.UNSUPPORTED_TYPE, "")]
    assert findings(parse(nested, limits=Limits(max_depth=depth - 1))) == [(Reason.TOO_DEEP, "")]


def test_an_object_of_a_hundred_thousand_unknown_members_is_refused_at_once() -> None:
    wide = to_bytes({**encounter(), **{f"x{n}": 0 for n in range(100_000)}})
    started = time.monotonic()
    assert findings(parse(wide)) == [(Reason.TOO_WIDE, "")]
    assert time.monotonic() - started < 1  # judging its structure would take ten seconds


def test_many_members_in_many_objects_are_accepted() -> None:
    extensions = [{"url": "urn:x", "valueString": "y"} for _ in range(2000)]
    assert findings(parse(encounter(extension=extensions))) == []


def test_half_a_million_open_brackets_are_too_deep_at_once() -> None:
    assert findings(parse(b"[" * 500_000)) == [(Reason.TOO_DEEP, "")]
    assert findings(parse(b'{"a":' * 500_000)) == [(Reason.TOO_DEEP, "")]


@pytest.mark.timeout(20)  # looked at anew from each quote it would take hours
def test_a_string_of_quotes_that_never_ends_is_not_json_at_once() -> None:
    assert findings(parse(b'{"a": "' + b'\\"' * 2_000_000)) == [(Reason.NOT_JSON, "")]


def test_of_many_issues_that_reject_the_whole_event_the_first_are_told() -> None:
    issues = parse(to_bytes(encounter())[:-1] + b', "a": 1' * 1000 + b"}").issues
    assert MOST_ISSUES <= len(issues) <= MOST_ISSUES + 1
    assert {issue.reason for issue in issues} == {Reason.DUPLICATE_KEY}


def test_every_bad_entry_of_a_bundle_is_left_out_however_many_there_are() -> None:
    bad = [encounter(f"bad{number}", status="gone") for number in range(2 * MOST_ISSUES)]
    read = parse(bundle(patient(), *bad, encounter("good")))
    assert len(read.issues) == len(bad)
    assert [entry.id for entry in read.entries if entry.kind is Kind.ENCOUNTER] == ["good"]


LONG = "x" * 65
REFUSED: dict[str, tuple[Any, Reason, str]] = {
    "another resource type": ({"resourceType": "Observation"}, Reason.UNSUPPORTED_TYPE, ""),
    "no resource type": ({}, Reason.UNSUPPORTED_TYPE, ""),
    "an object of far too many members": (
        {**encounter(), **{f"x{number}": number for number in range(1001)}},
        Reason.TOO_WIDE,
        "",
    ),
    "a Bundle of far too many entries": (bundle(*[encounter()] * 5001), Reason.TOO_MANY_ENTRIES, ""),
    "a resource type that is a number": ({"resourceType": 1}, Reason.UNSUPPORTED_TYPE, ""),
    "a search result": (bundle(encounter(), type_="searchset"), Reason.UNSUPPORTED_BUNDLE, "Bundle.type"),
    "an element nobody knows": (encounter(colour="red"), Reason.STRUCTURE, "Encounter.colour"),
    "a status that is a number": (encounter(status=1), Reason.STRUCTURE, "Encounter.status"),
    "no status": (encounter(status=None), Reason.STRUCTURE, "Encounter.status"),
    "no id": (encounter(None), Reason.INVALID_ID, "Encounter.id"),  # type: ignore[arg-type]  # left out on purpose
    "a status of no value set": (encounter(status="gone"), Reason.INVALID_CODE, "Encounter.status"),
    "a gender of no value set": (patient(gender="f"), Reason.INVALID_CODE, "Patient.gender"),
    "a clinical status of no value set": (
        condition(clinicalStatus=concept("bad")),
        Reason.INVALID_CODE,
        "Condition.clinicalStatus.coding[0].code",
    ),
    "a verification status of no value set": (
        condition(verificationStatus=concept("bad")),
        Reason.INVALID_CODE,
        "Condition.verificationStatus.coding[0].code",
    ),
    "a medication status of another type": (
        medication_request(status="not-taken"),
        Reason.INVALID_CODE,
        "MedicationRequest.status",
    ),
    "the 30th of February": (encounter(end="2024-02-30"), Reason.INVALID_DATE, "Encounter.period.end"),
    "the 29th of February in a common year": (
        patient(birth_date="1950-02-29"),
        Reason.INVALID_DATE,
        "Patient.birthDate",
    ),
    "the year 0000": (patient(birth_date="0000"), Reason.INVALID_DATE, "Patient.birthDate"),
    "no class": (encounter(class_={"display": "stay"}), Reason.MISSING_CLASS, "Encounter.class"),
    "an end before the start": (encounter(start=END, end=START), Reason.PERIOD_REVERSED, "Encounter.period"),
    "a finished stay without end": (
        encounter(end=None, status="finished"),
        Reason.MISSING_PERIOD_END,
        "Encounter.period.end",
    ),
    "a birth in the future": (patient(birth_date="2025-06-03"), Reason.BIRTH_DATE_IN_FUTURE, "Patient.birthDate"),
    "an encounter before birth": (
        bundle(patient(birth_date="2024-03-03"), encounter()),
        Reason.BIRTH_DATE_AFTER_ENCOUNTER,
        "Bundle.entry[1].resource.period.start",
    ),
    "nobody's encounter": (encounter(subject=None), Reason.SUBJECT_MISSING, "Encounter.subject"),
    "a group's encounter": (
        encounter(subject={"reference": "Group/g"}),
        Reason.SUBJECT_UNRESOLVABLE,
        "Encounter.subject",
    ),
    "a patient known by name only": (
        encounter(subject={"display": "Jo"}),
        Reason.SUBJECT_UNRESOLVABLE,
        "Encounter.subject",
    ),
    "a patient whose id is too long": (
        encounter(patient=LONG),
        Reason.SUBJECT_UNRESOLVABLE,
        "Encounter.subject",
    ),
    "a urn that leads nowhere": (
        bundle(encounter(subject={"reference": "urn:uuid:5"})),
        Reason.SUBJECT_UNRESOLVABLE,
        "Bundle.entry[0].resource.subject",
    ),
    "a Bundle whose keys repeat": (
        to_bytes(bundle(encounter())).replace(b'"status":', b'"status": "planned", "status":'),
        Reason.DUPLICATE_KEY,
        "Bundle.entry[0].resource.status",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_rule_allows_is_refused_with_the_element_it_lies_in(case: str) -> None:
    value, reason, path = REFUSED[case]
    parsed = parse(value)
    assert (reason, path) in findings(parsed)
    assert not any(entry.path in path for entry in parsed.entries)


@pytest.mark.parametrize("resource", [patient("x" * 65), encounter("a b"), encounter("ä"), encounter("a/b")])
def test_an_id_of_another_form_is_refused_by_structure_or_rule(resource: dict[str, Any]) -> None:
    [(reason, path)] = findings(parse(resource))[:1]
    assert reason in (Reason.STRUCTURE, Reason.INVALID_ID)
    assert path.endswith(".id")


def test_an_id_of_64_characters_is_accepted() -> None:
    assert parse(patient("x" * 64)).issues == ()


ELSEWHERE = {
    Reason.UNKNOWN_TOMBSTONE,  # test_deletions
    Reason.DEPENDS_ON_REJECTED,  # test_bundles
    Reason.UNSUPPORTED_DELETE,  # test_bundles
    Reason.UNREADABLE,  # test_never_raises
    Reason.VERSION_CONFLICT,  # streams/test_decision
    Reason.DELETED_BEFORE,  # streams/test_decision
    Reason.PATIENT_ERASED,  # streams/test_decision
}


def test_the_tables_leave_no_reason_out() -> None:
    provoked = {reason for _, reason, _ in (*REFUSED_BYTES.values(), *REFUSED.values())}
    assert provoked == set(Reason) - ELSEWHERE


def test_all_that_is_wrong_with_a_resource_is_reported_at_once() -> None:
    wrong = encounter(start=END, end=START, status="gone", subject=None)
    assert set(findings(parse(wrong))) == {
        (Reason.INVALID_CODE, "Encounter.status"),
        (Reason.PERIOD_REVERSED, "Encounter.period"),
        (Reason.SUBJECT_MISSING, "Encounter.subject"),
    }


def test_issues_become_a_valid_operation_outcome() -> None:
    issues = tuple(Issue(reason, "Encounter.status", f"{reason}.") for reason in Reason)
    outcome = operation_outcome((*issues, Issue(Reason.NOT_JSON, "", "Not JSON.")))
    read: Any = OperationOutcome.model_validate(outcome)
    assert [issue.details.coding[0].code for issue in read.issue] == [*map(str, Reason), "not-json"]
    assert "expression" not in outcome["issue"][-1]


def test_a_shared_path_hides_element_names_that_the_sender_made_up() -> None:
    [issue] = parse(bundle(encounter(JaneDoe="x"))).issues
    assert issue.path == "Bundle.entry[0].resource.JaneDoe"
    assert issue.shared_path == "Bundle.entry[0].resource"
