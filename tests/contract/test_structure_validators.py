"""fhirkit against fhir.resources over changed examples: where they differ is listed, and nothing is misread for it.

Every top-level element of the example resources is changed in every way below. What the libraries think of the
examples as they are, and of single elements, is in `tests/unit/schemas/test_structure.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from schemas.intake.resources import READERS
from schemas.intake.structure import StructureValidator, fhir_resources_issues, fhirkit_issues
from tests.unit.schemas.examples import OFFICIAL, examples, needs
from tests.unit.schemas.fhir_events import Resource, condition, encounter, medication_request, parse, patient, to_bytes

Element = tuple[str, str]  # resource type, element
Change = Callable[[Any], Any]

_SAME: Any = object()  # a change that does not apply
_GONE: Any = object()

CHANGES: dict[str, Change] = {
    "left out": lambda value: _GONE,
    "null": lambda value: None,
    "a list of it": lambda value: _SAME if isinstance(value, list) else [value],
    "its first item alone": lambda value: value[0] if isinstance(value, list) else _SAME,
    "an empty list": lambda value: [] if isinstance(value, list) else _SAME,
    "text for an object": lambda value: "x" if isinstance(value, dict) else _SAME,
    "an element nobody knows": lambda value: {**value, "colour": "red"} if isinstance(value, dict) else _SAME,
    "an empty object": lambda value: {} if isinstance(value, dict) else _SAME,
    "a number for text": lambda value: 1 if isinstance(value, str) else _SAME,
    "text for a number or boolean": lambda value: str(value).lower() if isinstance(value, int | float) else _SAME,
    "empty text": lambda value: "" if isinstance(value, str) else _SAME,
    "a blank": lambda value: " " if isinstance(value, str) else _SAME,
}

BUILT_IN = [
    encounter(type=[{"text": "visit"}]),
    patient(deceasedBoolean=False),
    condition(category=[{"text": "problem"}]),
    medication_request(note=[{"text": "x"}]),
]


def verdicts(resources: list[Resource], change: Change) -> dict[Element, set[str]]:
    """Change each element once; return who objects to it."""
    found: dict[Element, set[str]] = {}
    for resource in resources:
        for name, value in resource.items():
            key = (resource["resourceType"], name)
            new = change(value)
            if name != "resourceType" and new is not _SAME and key not in found:
                found[key] = objectors({k: v for k, v in {**resource, name: new}.items() if v is not _GONE})
    return found


def objectors(document: Resource) -> set[str]:
    value = to_bytes(document)
    both = {"fhirkit": fhirkit_issues, "fhir.resources": fhir_resources_issues}
    return {name for name, validate in both.items() if validate([(value, document)])[0]}


@cache
def official() -> list[Resource]:
    return [json.loads(text) for name, text in examples(OFFICIAL).items() if name.partition("-")[0] in READERS]


# --- the differences, all of them

OPTIONAL: Element = ("any", "element that may be absent")
REQUIRED_OBJECTS = {
    ("Encounter", "class"),
    ("Condition", "subject"),
    ("MedicationRequest", "subject"),
    ("MedicationStatement", "subject"),
    ("MedicationAdministration", "subject"),
}
IDS = {(type_, "id") for type_ in READERS}
URI_LISTS = {("MedicationAdministration", "instantiates"), ("MedicationRequest", "instantiatesUri")}
MOMENTS = {
    ("Condition", "onsetDateTime"),
    ("Condition", "abatementDateTime"),
    ("Condition", "recordedDate"),
    ("MedicationRequest", "authoredOn"),
    ("MedicationStatement", "effectiveDateTime"),
    ("MedicationStatement", "dateAsserted"),
    ("Patient", "deceasedDateTime"),
}
PLAIN = {("Patient", name) for name in ("active", "deceasedBoolean", "multipleBirthBoolean", "multipleBirthInteger")}
SHADOWS = {("Patient", "_birthDate"), ("Patient", "_gender")}

# Change → the elements only that library objects to. Of all other elements and changes both think the same.
FHIRKIT_ONLY = {
    "null": {OPTIONAL} | REQUIRED_OBJECTS,  # fhir.resources takes null for absent, and does not miss these then
    "an empty list": {OPTIONAL},  # and an empty list as well
    "a number for text": MOMENTS,  # a number for seconds since 1970
    "text for a number or boolean": PLAIN,  # and "false" for false
}
FHIR_RESOURCES_ONLY = {
    "a blank": IDS,  # fhirkit leaves an id's form to the rules
    "an empty object": SHADOWS,  # and does not ask what `_element` is for
}
NEITHER = {"an empty list": URI_LISTS}  # optional too


def differ_as_listed(resources: list[Resource], change: str) -> None:
    found = verdicts(resources, CHANGES[change])
    alone = {
        who: {element for element, objecting in found.items() if objecting == {who}}
        for who in ("fhirkit", "fhir.resources")
    }
    listed = FHIRKIT_ONLY.get(change, set())
    if OPTIONAL in listed:
        absent = verdicts(resources, CHANGES["left out"])
        listed = listed | {element for element, objecting in absent.items() if not objecting}
    listed = listed - NEITHER.get(change, set())
    assert alone["fhirkit"] == listed & found.keys()
    assert alone["fhir.resources"] == FHIR_RESOURCES_ONLY.get(change, set()) & found.keys()


@pytest.mark.parametrize("change", CHANGES)
def test_on_small_resources_they_differ_only_as_listed(change: str) -> None:
    differ_as_listed(BUILT_IN, change)


@needs(OFFICIAL)
@pytest.mark.parametrize("change", CHANGES)
def test_on_the_official_examples_they_differ_only_as_listed(change: str) -> None:
    differ_as_listed(official(), change)


@needs(OFFICIAL)
def test_every_listed_element_is_in_the_official_examples() -> None:
    there = {(one["resourceType"], name) for one in official() for name in one}
    assert there >= REQUIRED_OBJECTS | IDS | URI_LISTS | MOMENTS | PLAIN | SHADOWS


# --- whichever library judges, nothing is misread

MISTYPED = {
    "text for a death that did not happen": patient(deceasedBoolean="false"),
    "text for a death": patient(deceasedBoolean="true"),
    "a number for a death's time": patient(deceasedDateTime=1),
    "a number for a start": encounter(period={"start": 1, "end": "2024-03-05"}),
    "a number for an end": encounter(period={"start": "2024-03-05", "end": 1}, class_="AMB"),
    "a number for an onset": condition(onsetDateTime=1),
    "a number for an order's time": medication_request(authoredOn=1),
    "a number for a change's time": encounter(version=None, meta={"lastUpdated": 1}),
    "a number for a version": encounter(version=None, meta={"versionId": 1}),
    "null for whose it is": encounter(subject=None) | {"subject": None},
    "null for a class": encounter() | {"class": None},
}


@pytest.mark.parametrize("validate", [fhirkit_issues, fhir_resources_issues])
@pytest.mark.parametrize("case", MISTYPED)
def test_a_value_of_another_type_is_refused_and_never_passed_over(case: str, validate: StructureValidator) -> None:
    parsed = parse(MISTYPED[case], validate=validate)
    assert (parsed.entries, bool(parsed.issues)) == ((), True)
