"""Bundles: what stands beside a bad entry is kept, references lead where they say, deletions delete."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.history import DELETED, ConditionFacts, EncounterFacts, MedicationFacts
from schemas.intake.structure import fhir_resources_issues, fhirkit_issues
from schemas.rejection import Reason
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


def ids(value: Any, **how: Any) -> list[str]:
    return [entry.id for entry in parse(value, **how).entries]


def at(number: int, element: str = "") -> str:
    return f"Bundle.entry[{number}].resource{element}"


def test_one_bad_entry_leaves_the_others() -> None:
    parsed = parse(bundle(patient(), encounter("bad", status="gone"), encounter("good"), condition()))
    assert [entry.id for entry in parsed.entries] == ["p1", "good", "c1"]
    assert findings(parsed) == [(Reason.INVALID_CODE, at(1, ".status"))]


def test_one_entry_of_bad_structure_leaves_the_others() -> None:
    parsed = parse(bundle(encounter("bad", colour="red"), encounter("good")))
    assert [entry.id for entry in parsed.entries] == ["good"]
    assert findings(parsed) == [(Reason.STRUCTURE, at(0, ".colour"))]


@pytest.mark.parametrize("bad", [patient(gender="f"), patient(colour="red")])
def test_what_belongs_to_a_bad_patient_is_refused_with_it(bad: dict[str, Any]) -> None:
    other = encounter("e2", patient="p2")
    parsed = parse(bundle(encounter(), bad, condition(), other))
    assert [entry.id for entry in parsed.entries] == ["e2"]
    assert [reason for reason, _ in findings(parsed)].count(Reason.DEPENDS_ON_REJECTED) == 2
    assert (Reason.DEPENDS_ON_REJECTED, at(0)) in findings(parsed)
    assert (Reason.DEPENDS_ON_REJECTED, at(2)) in findings(parsed)


def test_what_names_a_bad_encounter_is_refused_with_it() -> None:
    named: dict[str, Any] = {"encounter": {"reference": "Encounter/e1"}}
    parsed = parse(bundle(encounter(status="gone"), condition(**named), medication_request(**named), condition("c2")))
    assert [entry.id for entry in parsed.entries] == ["c2"]
    assert findings(parsed)[1:] == [(Reason.DEPENDS_ON_REJECTED, at(1)), (Reason.DEPENDS_ON_REJECTED, at(2))]


def test_other_resource_types_are_passed_over() -> None:
    observation = {"resourceType": "Observation", "id": "o", "status": "final", "code": concept("x")}
    parsed = parse(bundle(observation, encounter()))
    assert ([entry.id for entry in parsed.entries], parsed.issues) == (["e1"], ())


@pytest.mark.parametrize("type_", ["message", "transaction", "batch", "collection", "history"])
def test_each_accepted_type_of_bundle_is_read(type_: str) -> None:
    whole = bundle({"fullUrl": "https://x.test/Encounter/e1", "resource": encounter()}, type_=type_)
    whole["entry"][0]["request"] = {"method": "PUT", "url": "Encounter/e1"}
    assert ids(whole) == ["e1"]


def test_an_empty_bundle_says_nothing_and_is_fine() -> None:
    parsed = parse({"resourceType": "Bundle", "type": "collection"})
    assert (parsed.entries, parsed.issues) == ((), ())


def urn(number: int) -> str:
    return f"urn:uuid:00000000-0000-4000-8000-00000000000{number}"


def test_urns_lead_to_the_resources_under_them() -> None:
    told: dict[str, Any] = {"subject": {"reference": urn(1)}, "encounter": {"reference": urn(2)}}
    medication = {"resourceType": "Medication", "id": "asa", "code": concept("N02BA01")}
    whole = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": urn(number),
                "resource": resource,
                "request": {"method": "POST", "url": resource["resourceType"]},
            }
            for number, resource in enumerate(
                [
                    patient("pat"),
                    encounter("enc", subject={"reference": urn(1)}),
                    condition(**told),
                    medication_request(
                        **told, medicationCodeableConcept=None, medicationReference={"reference": urn(5)}
                    ),
                    medication,
                ],
                1,
            )
        ],
    }
    parsed = parse(whole)
    assert parsed.issues == ()
    assert {entry.patient_id for entry in parsed.entries} == {"pat"}
    facts = {type(entry.facts): entry.facts for entry in parsed.entries}
    diagnosis, drug = facts[ConditionFacts], facts[MedicationFacts]
    assert isinstance(diagnosis, ConditionFacts)
    assert isinstance(drug, MedicationFacts)
    assert (diagnosis.encounter, drug.encounter) == ("enc", "enc")
    assert drug.code.endswith("|N02BA01")


def test_a_resource_without_id_goes_by_its_urn() -> None:
    bare = encounter()
    del bare["id"]
    whole = bundle({"fullUrl": urn(7), "resource": bare})
    assert ids(whole) == [urn(7).removeprefix("urn:uuid:")]


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/p1",
        "https://x.test/fhir/Patient/p1",
        "https://x.test/fhir/Patient/p1/_history/3",
        "Patient/p1/_history/1",
    ],
)
def test_literal_references_lead_to_the_patient(reference: str) -> None:
    [entry] = parse(encounter(subject={"reference": reference})).entries
    assert entry.patient_id == "p1"


@pytest.mark.parametrize(
    "reference", ["p1", "patient/p1", "Patient/", "Patient", "Patient?identifier=1", "#p1", "Encounter/p1"]
)
def test_references_of_another_form_do_not(reference: str) -> None:
    assert (Reason.SUBJECT_UNRESOLVABLE, "Encounter.subject") in findings(
        parse(encounter(subject={"reference": reference}))
    )


# --- deletions


def delete(url: str) -> dict[str, Any]:
    return {"request": {"method": "DELETE", "url": url}}


def test_a_tombstone_deletes_the_encounter_in_its_key() -> None:
    [entry] = parse(None, key=b"Encounter/e1").entries
    assert (entry.id, entry.patient_id, entry.version, entry.facts) == ("e1", None, DELETED, None)


def test_a_tombstone_erases_the_patient_in_its_key() -> None:
    parsed = parse(None, key=b"Patient/p1")
    assert (parsed.erase, parsed.entries, parsed.issues) == (("p1",), (), ())


@pytest.mark.parametrize("key", [None, b"", b"p1", b"Patient/", b"Encounter", b"Condition/c1", b"\xff/\xff", b"/"])
def test_a_tombstone_of_anything_else_is_refused(key: bytes | None) -> None:
    assert findings(parse(None, key=key)) == [(Reason.UNKNOWN_TOMBSTONE, "")]


def test_delete_entries_retract_what_they_name() -> None:
    parsed = parse(
        bundle(delete("Encounter/e1"), delete("Condition/c1"), delete("MedicationRequest/m1"), type_="transaction")
    )
    assert [(entry.id, entry.patient_id, entry.facts) for entry in parsed.entries] == [
        ("e1", "p1", None),
        ("c1", "p1", None),
        ("MedicationRequest/m1", "p1", None),
    ]


def test_deleting_a_patient_erases_and_deleting_other_types_says_nothing() -> None:
    assert parse(bundle(delete("Patient/p9"), type_="transaction")).erase == ("p9",)
    parsed = parse(bundle(delete("Observation/o1"), type_="transaction"))
    assert (parsed.entries, parsed.issues, parsed.erase) == ((), (), ())


def test_patients_are_erased_first_and_their_own_deletions_go_with_them() -> None:
    parsed = parse(
        bundle(
            encounter("e2", patient="p2"),
            delete("Encounter/e1"),
            delete("Patient/p1"),
            delete("https://example.org/fhir/Patient/p3"),
            type_="transaction",
        )
    )
    assert parsed.erase == ("p1", "p3")
    assert [(entry.id, entry.patient_id) for entry in parsed.entries] == [("e2", "p2")]


@pytest.mark.parametrize(
    "url",
    ["Patient?identifier=7", "Encounter/?status=planned", "Encounter/e1/_history/2", "https://h/fhir/Condition?code=x"],
)
def test_a_deletion_that_names_no_resource_is_valid_but_cannot_be_done(url: str) -> None:
    parsed = parse(bundle(encounter(), delete(url), type_="transaction"))
    assert [(issue.reason, issue.path) for issue in parsed.unsupported] == [
        (Reason.UNSUPPORTED_DELETE, "Bundle.entry[1].request.url")
    ]
    assert ([entry.id for entry in parsed.entries], parsed.issues, parsed.erase) == (["e1"], (), ())


@pytest.mark.parametrize(
    ("url", "id_"),
    [("https://example.org/fhir/Encounter/e1", "e1"), ("Condition/c.1", "c.1")],
)
def test_a_deletion_names_a_resource_alone_or_at_an_address(url: str, id_: str) -> None:
    [entry] = parse(bundle(delete(url), type_="transaction")).entries
    assert (entry.id, entry.version) == (id_, DELETED)


def test_deleting_a_condition_of_nobody_is_refused() -> None:
    parsed = parse(bundle(delete("Condition/c1"), type_="transaction"), key=None)
    assert findings(parsed) == [(Reason.SUBJECT_UNRESOLVABLE, "Bundle.entry[0]")]


@pytest.mark.parametrize(
    "resource",
    [
        encounter(status="entered-in-error"),
        encounter(status="cancelled"),
        condition(verificationStatus=concept("entered-in-error")),
        condition(verificationStatus=concept("refuted")),
        medication_request(status="entered-in-error"),
        medication_request(status="draft"),
    ],
)
def test_what_was_entered_in_error_or_never_happened_is_retracted(resource: dict[str, Any]) -> None:
    [entry] = parse(resource).entries
    assert entry.facts is None
    assert entry.version != DELETED


def test_times_without_offset_are_the_hospitals() -> None:
    [entry] = parse(encounter(start="2024-07-01", end="2024-07-02")).entries
    assert isinstance(entry.facts, EncounterFacts)
    assert str(entry.facts.started) == "2024-06-30 22:00:00+00:00"


@pytest.mark.parametrize(
    "shapeless",
    [
        1,
        [],
        {"request": "DELETE"},
        {"resource": {"resourceType": []}},
        {"resource": {"resourceType": {}}},
        {"resource": []},
        {"resource": {"resourceType": "Encounter", "id": []}},
        {"fullUrl": [], "resource": {}},
    ],
)
def test_an_entry_of_any_shape_leaves_the_others(shapeless: Any) -> None:
    whole = bundle(patient(), encounter())
    whole["entry"].insert(1, shapeless)
    parsed = parse(whole)
    assert [entry.id for entry in parsed.entries] == ["p1", "e1"]
    assert {path.startswith("Bundle.entry[1]") for _, path in findings(parsed)} == {True}


# --- duplicate keys

WHOLE = to_bytes(bundle(patient(), encounter(), condition(), medication_request()))
COUNT = WHOLE.count(b"{")


def doubled(nth: int) -> bytes:
    """Repeat the first member of the nth object of a valid Bundle."""
    place = -1
    for _ in range(nth + 1):
        place = WHOLE.index(b"{", place + 1)
    key, colon = json.JSONDecoder().raw_decode(WHOLE[place + 1 :].decode())
    value = json.JSONDecoder().raw_decode(WHOLE[place + 1 + colon + 2 :].decode())[0]
    return WHOLE[: place + 1] + to_bytes({key: value})[1:-1] + b", " + WHOLE[place + 1 :]


def has_duplicate_keys(value: bytes) -> bool:
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(value, object_pairs_hook=look)
    return any(found)


@pytest.mark.parametrize("validate", [fhirkit_issues, fhir_resources_issues])
@pytest.mark.parametrize("nth", range(COUNT))
def test_a_key_that_repeats_in_any_object_rejects_the_bundle(nth: int, validate: Any) -> None:
    value = doubled(nth)
    assert has_duplicate_keys(value)
    parsed = parse(value, validate=validate)
    assert parsed.entries == ()
    assert Reason.DUPLICATE_KEY in {reason for reason, _ in findings(parsed)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_duplicate_keys_are_found_in_made_up_json_too(data: st.DataObject) -> None:
    keys = st.sampled_from(["id", "status", "extension", "_id", "url", "text", "\\u0069d"])
    objects = st.recursive(
        st.sampled_from(["1", '"x"', "null"]),
        lambda inner: st.lists(st.tuples(keys, inner), min_size=1, max_size=3).map(
            lambda pairs: "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"
        ),
        max_leaves=6,
    )
    text = to_bytes(encounter())[:-1] + f', "contained": [{data.draw(objects)}]}}'.encode()
    reasons = {reason for reason, _ in findings(parse(text))}
    if has_duplicate_keys(text):
        assert reasons  # inside an element that is unknown altogether, only that is reported
    else:
        assert Reason.DUPLICATE_KEY not in reasons
