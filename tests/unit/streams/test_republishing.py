"""Sending results again: stored scores with the hospital's own references, features as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.history import PatientHistory
from schemas.messages import RiskScore
from schemas.rejection import Reason
from streams.decision import Event, FeaturesChange, PatientKey, patients_of
from streams.republishing import current_features, stored_rejections, stored_scores
from streams.scoring import score
from tests.unit.schemas.fhir_events import ARRIVAL, bundle, condition, encounter, patient
from tests.unit.streams.batches import TOPIC_ID, LinearModel, Stored, event, events, sender, taken

BATCH = events(patient(), encounter(), encounter("e2", "2024-05-01", "2024-05-03"), condition(), b"Encounter/e2")


def row(one: RiskScore) -> dict[str, Any]:
    """Write a score as the store gives it back."""
    values = {name: value for name, value in vars(one).items() if not name.endswith("_reference")}
    return {**values, "features": vars(one.features) if one.features else None}


def histories(stored: Stored, *patients: str) -> dict[PatientKey, PatientHistory]:
    return {("dkfz", sender().keys.patient_pseudonym(id_)): stored.history(id_) for id_ in patients or ("p1",)}


def scores(stored: Stored) -> list[RiskScore]:
    return score([one for decision in stored.decisions for one in decision.to_score], LinearModel(), ARRIVAL)


def test_stored_scores_are_sent_again_as_they_were() -> None:
    stored = taken(BATCH)
    before = scores(stored)
    assert len(before) > 3
    assert stored_scores(BATCH, [row(one) for one in before], histories(stored)) == before


def test_no_score_of_an_erased_or_unknown_patient_is_sent_again() -> None:
    stored = taken(BATCH)
    rows = [row(one) for one in scores(stored)]
    assert stored_scores(BATCH, rows, {}) == []
    stored.take([event(None, 9, b"Patient/p1")])
    assert stored_scores(BATCH, rows, histories(stored)) == []


def now(batch: Sequence[Event], stored: Stored, *patients: str) -> dict[str, Any]:
    changes = current_features(batch, histories(stored, *patients), sorted(patients_of(batch)))
    return {one.encounter_pseudonym: one.message for one in changes}


def test_features_are_sent_as_the_history_has_them_now() -> None:
    stored = taken(BATCH)
    found = now(BATCH, stored)
    assert {name: message for name, message in found.items() if message is not None} == stored.features()
    assert {name for name, message in found.items() if message is None} == {sender().keys.encounter_pseudonym("e2")}


def test_features_that_changed_since_are_sent_as_they_are_since() -> None:
    stored = taken(BATCH)
    stored.take([event(encounter(end="2024-03-07", version=2), 9)])
    assert now(BATCH, stored) == {sender().keys.encounter_pseudonym("e2"): None, **stored.features()}


def test_of_an_erased_patient_only_tombstones_are_sent() -> None:
    stored = taken(BATCH, [event(None, 9, b"Patient/p1")])
    keys = sender().keys
    assert now(BATCH, stored) == {keys.encounter_pseudonym(id_): None for id_ in ("e1", "e2")}


def test_nothing_is_said_of_a_patient_nobody_knows() -> None:
    nothing: list[FeaturesChange] = []
    assert current_features(BATCH, {}, patients_of(BATCH)) == nothing


def test_rejections_are_sent_again_with_all_that_can_be_found_out_anew() -> None:
    bad = event(encounter(status="gone"), 7)
    rows = {(TOPIC_ID, 0, 7): [{"reason": "invalid-code", "path": "Encounter.status"}]}
    [again] = stored_rejections([*BATCH, bad], rows)
    assert (again.event, again.issues) == (bad, bad.parsed.issues)


def test_a_conflict_that_only_the_first_delivery_could_see_is_sent_from_what_is_stored() -> None:
    twice = event(bundle(encounter()), 7)
    rows = {(TOPIC_ID, 0, 7): [{"reason": "version-conflict", "path": "Bundle.entry[0].resource"}]}
    [again] = stored_rejections([twice], rows)
    [issue] = again.issues
    assert (issue.reason, issue.path) == (Reason.VERSION_CONFLICT, "Bundle.entry[0].resource")
    assert issue.text


def test_an_event_that_was_not_rejected_is_not_rejected_now() -> None:
    assert stored_rejections([event(encounter(status="gone"), 7)], {}) == []
