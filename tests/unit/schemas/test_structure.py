"""fhirkit against fhir.resources: where they differ is known, and both ways nothing bad gets through all stages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.intake.structure import entry_of, fhir_resources_issues, fhirkit_issues
from schemas.rejection import Reason
from tests.unit.schemas.examples import OFFICIAL, examples, needs
from tests.unit.schemas.fhir_events import (
    bundle,
    concept,
    condition,
    encounter,
    medication_request,
    parse,
    patient,
    to_bytes,
)

AGREED: dict[str, dict[str, Any]] = {
    "an unknown element": encounter(colour="red"),
    "an element of R5": encounter(admission={"origin": {}}),
    "a class list, as in R5": encounter(class_=[concept("IMP")]),
    "no status": encounter(status=None),
    "no class": encounter(class_=None),
    "a number for a code": encounter(status=1),
    "a code with blanks": encounter(class_={"code": " IMP "}),
    "a date of another form": patient(birth_date="01.04.1950"),
    "a time without offset": encounter(start="2024-03-01T10:00:00"),
    "two types of one choice": patient(deceasedBoolean=True, deceasedDateTime="2020"),
    "both kinds of medication": medication_request(medicationReference={"reference": "Medication/1"}),
    "no medication": medication_request(medicationCodeableConcept=None),
    "two onsets": condition(onsetString="x"),
    "an array for a value": encounter(subject=[{"reference": "Patient/p1"}]),
    "a value for an array": encounter(type=concept("x")),
    "text for an object": encounter(period="2024"),
    "an empty string": encounter(language=""),
    "a fraction for an integer": patient(multipleBirthInteger=1.5),
    "an extension without url": encounter(extension=[{"valueString": "a"}]),
    "an extension of two values": encounter(
        extension=[{"url": "http://x.test", "valueString": "a", "valueInteger": 1}]
    ),
    "a contained resource of no known type": encounter(contained=[{"resourceType": "Foo", "id": "a"}]),
    "an entry of no known type": bundle({"resource": {"resourceType": "Foo"}}),
    "a request without method": bundle({"request": {"url": "x"}}, type_="batch"),
}

VALID: dict[str, dict[str, Any]] = {
    "an encounter": encounter(),
    "a status given only as absent": encounter(
        status=None, _status={"extension": [{"url": "http://x.test", "valueCode": "unknown"}]}
    ),
    "a leap second": encounter(start="2016-12-31T23:59:60Z"),
    # Both leave these to the rules of stage 3:
    "a status of no value set": encounter(status="gone"),
    "an end before the start": encounter(start="2024-03-02", end="2024-03-01"),
    "an id of 65 characters": patient("x" * 65),
}

# What only one of them objects to: the case, and who objects.
DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "text for a boolean": (patient(active="true"), "fhirkit"),
    "text for an integer": (patient(multipleBirthInteger="2"), "fhirkit"),
    "an empty array": (encounter(type=[]), "fhirkit"),
    "null": ({**encounter(), "language": None}, "fhirkit"),
    "the 30th of February": (patient(birth_date="1950-02-30"), "fhir.resources"),
    "the year 0000": (patient(birth_date="0000"), "fhir.resources"),
    "an id with a blank": (patient("a b"), "fhir.resources"),
}


def objectors(document: dict[str, Any]) -> set[str]:
    value = to_bytes(document)
    both = {"fhirkit": fhirkit_issues, "fhir.resources": fhir_resources_issues}
    return {name for name, validate in both.items() if validate([(value, document)])[0]}


@pytest.mark.parametrize("case", AGREED)
def test_both_object_to_what_is_no_r4(case: str) -> None:
    assert objectors(AGREED[case]) == {"fhirkit", "fhir.resources"}


@pytest.mark.parametrize("case", VALID)
def test_neither_objects_to_valid_structure(case: str) -> None:
    assert objectors(VALID[case]) == set()


@pytest.mark.parametrize("case", DIFFERENCES)
def test_they_differ_only_as_listed(case: str) -> None:
    document, objector = DIFFERENCES[case]
    assert objectors(document) == {objector}


@pytest.mark.parametrize("case", [case for case, (_, who) in DIFFERENCES.items() if who == "fhir.resources"])
def test_the_rules_refuse_what_fhirkit_lets_pass(case: str) -> None:
    assert parse(DIFFERENCES[case][0], validate=fhirkit_issues).issues


@needs(OFFICIAL)
@pytest.mark.parametrize("name", examples(OFFICIAL))
def test_both_find_each_official_example_valid(name: str) -> None:
    assert objectors(json.loads(examples(OFFICIAL)[name])) == set()


def test_both_name_the_entry_an_issue_lies_in() -> None:
    document = bundle(encounter(), encounter("e2", colour="red"))
    for validate in (fhirkit_issues, fhir_resources_issues):
        assert [entry_of(issue.path) for issue in validate([(to_bytes(document), document)])[0]] == [1]


@pytest.mark.parametrize("validate", [fhirkit_issues, fhir_resources_issues])
def test_each_rejects_only_the_bad_entry_of_a_bundle(validate: Any) -> None:
    parsed = parse(bundle(encounter("bad", colour="red"), encounter("good")), validate=validate)
    assert [entry.id for entry in parsed.entries] == ["good"]
    assert {issue.reason for issue in parsed.issues} == {Reason.STRUCTURE}
