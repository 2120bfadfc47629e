"""Public examples: all official R4 resources of our types are read; German stays are told from their parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.history import EncounterFacts
from schemas.intake.dispositions import discharge_disposition
from schemas.intake.resources import READERS
from schemas.rejection import Reason
from schemas.stays import is_inpatient, is_part
from tests.unit.schemas.examples import GERMAN, OFFICIAL, examples, needs
from tests.unit.schemas.fhir_events import bundle, dkfz, findings, parse

RULES = dkfz().rules
BUNDLE_TYPES = {"message", "transaction", "batch", "collection", "history"}


def of_types(archive: str, *types: str) -> list[str]:
    return [name for name in examples(archive) if name.partition("-")[0] in types]


def facts_of(archive: str, name: str) -> tuple[str, EncounterFacts]:
    [entry] = parse(examples(archive)[name]).entries
    assert isinstance(entry.facts, EncounterFacts)
    return entry.id, entry.facts


@needs(OFFICIAL)
@pytest.mark.parametrize("name", of_types(OFFICIAL, *READERS))
def test_each_official_example_is_read_without_an_issue(name: str) -> None:
    parsed = parse(examples(OFFICIAL)[name])
    assert findings(parsed) == []
    assert len(parsed.entries) == 1


@needs(OFFICIAL)
def test_there_are_official_examples_of_each_type() -> None:
    assert {name.partition("-")[0] for name in examples(OFFICIAL)} >= set(READERS)


@needs(OFFICIAL)
@pytest.mark.parametrize("name", of_types(OFFICIAL, "Medication"))
def test_an_official_medication_rides_along_in_a_bundle(name: str) -> None:
    parsed = parse(bundle(json.loads(examples(OFFICIAL)[name])))
    assert (parsed.entries, parsed.issues) == ((), ())


@needs(OFFICIAL)
@pytest.mark.parametrize("name", of_types(OFFICIAL, "Bundle"))
def test_official_bundles_are_read_if_their_type_is_accepted(name: str) -> None:
    value = examples(OFFICIAL)[name]
    accepted = json.loads(value)["type"] in BUNDLE_TYPES
    assert findings(parse(value)) == ([] if accepted else [(Reason.UNSUPPORTED_BUNDLE, "Bundle.type")])


@needs(OFFICIAL)
def test_the_official_encounter_that_is_part_of_itself_is_no_part() -> None:
    id_, facts = facts_of(OFFICIAL, "Encounter-f203.json")
    assert facts.part_of == id_
    assert not is_part(id_, facts, RULES)
    assert is_inpatient(id_, facts, RULES)


STAY, PART, NEITHER = (True, False), (False, True), (False, False)
GERMAN_CONTACTS = {
    "Encounter-Fachabteilungskontakt.json": PART,
    "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-1.json": STAY,
    "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-2.json": PART,
    "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-3.json": NEITHER,  # planned
    "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-4.json": PART,
    "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-5.json": STAY,  # on leave, of no contact level
    "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-6.json": STAY,  # of unknown status and no contact level
}


@needs(GERMAN)
@pytest.mark.parametrize("name", GERMAN_CONTACTS)
def test_german_contacts_are_stays_or_parts_of_one(name: str) -> None:
    id_, facts = facts_of(GERMAN, name)
    assert (is_inpatient(id_, facts, RULES), is_part(id_, facts, RULES)) == GERMAN_CONTACTS[name]


@needs(GERMAN)
def test_a_german_contact_whose_urn_leads_nowhere_is_refused_and_all_else_is_read() -> None:
    refused = {name: findings(parse(value)) for name, value in examples(GERMAN).items() if parse(value).issues}
    assert refused == {
        "Encounter-FachabteilungskontaktMinimal.json": [(Reason.SUBJECT_UNRESOLVABLE, "Encounter.subject")]
    }
    encounters = {name for name in examples(GERMAN) if name.startswith("Encounter-")}
    assert encounters == GERMAN_CONTACTS.keys() | refused.keys()


@needs(GERMAN)
def test_a_german_emergency_and_its_regular_discharge_are_understood() -> None:
    _, facts = facts_of(GERMAN, "Encounter-mii-exa-fall-kontakt-gesundheitseinrichtung-1.json")
    assert (facts.emergency, facts.disposition, facts.level) == (True, "home", "einrichtungskontakt")


def entlassungsgrund(code: str) -> dict[str, Any]:
    """Write a discharge reason as the German core data set does."""
    part = {"url": "ErsteUndZweiteStelle", "valueCoding": {"code": code}}
    return {"url": "http://fhir.de/StructureDefinition/Entlassungsgrund", "extension": [part]}


@pytest.mark.parametrize(
    ("code", "disposition"),
    [("01", "home"), ("04", "aadvice"), ("06", "other-hcf"), ("07", "exp"), ("09", "rehab"), ("10", "long"),
     ("11", "hosp"), ("99", "oth")],
)  # fmt: skip
def test_the_german_discharge_reason_becomes_a_disposition(code: str, disposition: str) -> None:
    told = entlassungsgrund(code)
    assert discharge_disposition({"dischargeDisposition": {"extension": [told]}}) == disposition
    assert discharge_disposition({"extension": [told]}) == disposition


def test_a_disposition_is_read_from_its_coding_and_none_from_nothing() -> None:
    assert discharge_disposition({"dischargeDisposition": {"coding": [{"display": "?"}, {"code": "snf"}]}}) == "snf"
    assert discharge_disposition({"dischargeDisposition": {"text": "home"}}) is None
    assert discharge_disposition({}) is None
