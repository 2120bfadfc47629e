"""Whom several Patients stand for, which admissions were planned, which visits are known in summary only."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.history import EncounterFacts, PatientFacts
from tests.unit.schemas.fhir_events import concept, encounter, parse, patient


def facts_of(resource: dict[str, Any]) -> Any:
    [entry] = parse(resource).entries
    return entry.facts


def link(type_: str, reference: str) -> dict[str, Any]:
    return {"type": type_, "other": {"reference": reference}}


@pytest.mark.parametrize(
    ("links", "person"),
    [
        ([], None),
        ([link("refer", "Patient/main")], "main"),
        ([link("replaced-by", "Patient/new")], "new"),
        ([link("replaces", "Patient/old")], None),
        ([link("replaces", "Patient/old"), link("refer", "Patient/main")], "main"),
        ([link("seealso", "Patient/a")], "a"),
        ([link("seealso", "Patient/z")], None),
        ([link("refer", "Patient/p1")], None),
        ([link("refer", "RelatedPerson/r")], None),
        ([link("refer", f"Patient/{'x' * 65}")], None),
    ],
)
def test_a_link_names_the_person(links: list[dict[str, Any]], person: str | None) -> None:
    facts = facts_of({**patient("p1"), "link": links} if links else patient("p1"))
    assert isinstance(facts, PatientFacts)
    assert facts.person == person


@pytest.mark.parametrize(("code", "planned"), [("EL", True), ("EM", False), ("R", False), (None, False)])
def test_an_elective_admission_is_planned(code: str | None, planned: bool) -> None:
    priority = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActPriority", "code": code}]}
    facts = facts_of({**encounter(), "priority": priority} if code else encounter())
    assert isinstance(facts, EncounterFacts)
    assert facts.planned is planned


@pytest.mark.parametrize(
    ("meta", "summary_only"), [({"tag": [concept("SUBSETTED")["coding"][0]]}, True), ({"tag": [{"code": "x"}]}, False)]
)
def test_a_subsetted_encounter_is_known_in_summary_only(meta: dict[str, Any], summary_only: bool) -> None:
    facts = facts_of({**encounter(), "meta": meta})
    assert isinstance(facts, EncounterFacts)
    assert facts.summary_only is summary_only
