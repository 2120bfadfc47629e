"""Outcomes of earlier stays: filled in, turned back, taken away; the same however events come and batches are cut."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.history import PatientHistory
from schemas.readmission import NoIndex, Outcome, StayOutcome
from streams.decision import EncounterKey
from streams.outcomes import outcome_changes
from tests.unit.schemas.fhir_events import ARRIVAL, bundle, condition, encounter, patient
from tests.unit.streams.batches import TOPIC_ID, Stored, event, events, keep_outcomes, sender

KEYS = sender().keys
FIRST = encounter("e1", "2024-03-01", "2024-03-05")
BACK = encounter("e2", "2024-03-20", "2024-03-22")


def rows(stored: Stored) -> dict[str, StayOutcome]:
    """Return the table that the decisions leave, by encounter id of e1, e2, …."""
    table: dict[EncounterKey, StayOutcome] = {}
    for decision in stored.decisions:
        keep_outcomes(table, decision.stay_outcomes)
    ids = {KEYS.encounter_pseudonym(f"e{number}"): f"e{number}" for number in range(10)}
    return {ids[pseudonym]: row for (_, pseudonym), row in table.items()}


def taken_one_by_one(*values: Any) -> Stored:
    stored = Stored()
    for one in events(*values):
        stored.take([one])
    return stored


def outcomes(*values: Any) -> dict[str, Outcome | NoIndex]:
    return {id_: one.because or one.outcome for id_, one in rows(taken_one_by_one(*values)).items()}


def test_an_open_stay_has_no_outcome_and_a_visit_never_has() -> None:
    assert outcomes(encounter("e1", end=None), encounter("e2", class_="AMB", end="2024-03-01T12:00:00Z")) == {}


def test_a_discharged_stay_waits_with_the_score_that_stood_at_its_discharge() -> None:
    stored = taken_one_by_one(encounter("e1", end=None), encounter("e1", version=2), condition())
    [row] = rows(stored).values()
    _, at_discharge, later = (one for decision in stored.decisions for one in decision.to_score)
    assert row.outcome is Outcome.PENDING
    assert (row.record_id, row.received_at) == (at_discharge.record_id, at_discharge.event.raw.received_at)
    assert row.record_id != later.record_id


def test_a_readmission_is_known_at_once_and_says_when() -> None:
    found = rows(taken_one_by_one(FIRST, encounter("e2", "2024-03-20T10:00:00Z", None)))
    assert list(found) == ["e1"]
    assert (found["e1"].outcome, found["e1"].readmitted_at) == (
        Outcome.READMITTED, datetime.fromisoformat("2024-03-20T10:00:00Z"),
    )  # fmt: skip


TURNED: dict[str, list[Any]] = {
    "the return was entered in error": [encounter("e2", status="entered-in-error", version=2)],
    "the return was deleted": [b"Encounter/e2"],
    "the return was later than said": [encounter("e2", "2024-06-20", "2024-06-22", version=2)],
    "the return was no stay": [encounter("e2", "2024-03-20T10:00:00Z", "2024-03-20T12:00:00Z", class_="AMB",
                                         version=2)],
}  # fmt: skip


@pytest.mark.parametrize("case", TURNED)
def test_a_correction_turns_an_outcome_back(case: str) -> None:
    assert outcomes(FIRST, BACK)["e1"] is Outcome.READMITTED
    assert outcomes(FIRST, BACK, *TURNED[case])["e1"] is Outcome.PENDING


def test_a_late_stay_between_two_is_the_readmission() -> None:
    assert outcomes(FIRST, encounter("e3", "2024-05-01", "2024-05-02"))["e1"] is Outcome.PENDING
    assert outcomes(FIRST, encounter("e3", "2024-05-01", "2024-05-02"), BACK)["e1"] is Outcome.READMITTED


def test_a_death_that_is_told_later_censors_the_stay_it_ended() -> None:
    died = patient(deceasedDateTime="2024-03-05T09:00:00Z")
    assert outcomes(encounter("e1", "2024-03-01", "2024-03-05T10:00:00Z"), died) == {"e1": NoIndex.DIED}
    assert outcomes(encounter("e1", "2024-03-01", "2024-03-05T08:00:00Z"), died) == {"e1": Outcome.PENDING}


def test_a_stay_that_is_retracted_has_no_outcome_any_more_nor_has_an_erased_patient() -> None:
    assert outcomes(FIRST, b"Encounter/e1") == {}
    assert outcomes(FIRST, BACK, b"Patient/p1") == {}
    assert outcomes(FIRST, b"Patient/p1", BACK) == {"e2": Outcome.PENDING}


def test_a_discharge_that_moved_has_the_score_of_its_new_time() -> None:
    stored = taken_one_by_one(FIRST, encounter("e1", "2024-03-01", "2024-03-09", version=2))
    [row] = rows(stored).values()
    assert row.record_id == stored.decisions[1].to_score[0].record_id


def test_what_was_discharged_without_a_model_has_no_score() -> None:
    stored = Stored()
    stored.take(events(FIRST), model_version=None)
    stored.take([event(BACK, 1)])
    assert {id_: one.record_id is None for id_, one in rows(stored).items()} == {"e1": True, "e2": False}


def test_a_stay_from_before_there_were_outcomes_gets_none_not_even_by_a_readmission() -> None:
    stored = taken_one_by_one(FIRST, BACK)
    stored.decisions.pop(0)
    assert list(rows(stored)) == ["e2"]


def test_a_stay_that_is_known_in_summary_only_is_a_readmission_and_has_no_outcome_until_more_is_known() -> None:
    summary = encounter("e2", "2024-03-20", "2024-03-22", meta={"versionId": "1", "tag": [{"code": "SUBSETTED"}]})
    found = rows(taken_one_by_one(FIRST, summary))
    assert {id_: row.outcome for id_, row in found.items()} == {"e1": Outcome.READMITTED}
    later = rows(taken_one_by_one(FIRST, summary, encounter("e2", "2024-03-20", "2024-03-22", version=2)))
    assert later["e2"].outcome is Outcome.PENDING
    assert later["e2"].record_id is not None


VALUES = [
    patient(), patient(version=2, deceasedDateTime="2024-03-22"), FIRST, BACK, condition(),
    encounter("e1", "2024-03-01", None, version=0), encounter("e1", "2024-03-01", "2024-03-07", version=2),
    encounter("e2", "2024-03-21", "2024-03-25", version=2), encounter("e2", status="entered-in-error", version=3),
    encounter("e3", "2024-03-06", "2024-03-21", hospitalization={"dischargeDisposition": {"coding": [
        {"code": "other-hcf"}]}}),
    bundle(encounter("e4", "2024-04-10", "2024-04-12"), condition("c2")), b"Encounter/e3",
    encounter("e5", "2023-12-01", "2024-03-03"), encounter("e6", "2023-12-20", "2024-01-15", hospitalization={
        "dischargeDisposition": {"coding": [{"code": "exp"}]}}),
    encounter("e7", "2023-12-10", "2024-01-01"), encounter("e8", "2024-04-20", "2024-04-30"),
    encounter("e4", "2024-04-10", "2024-04-12", meta={"versionId": "0", "tag": [{"code": "SUBSETTED"}]}),
    bundle(patient(version=3, deceasedDateTime="2023-12-25"), encounter("e8", "2024-04-20", "2024-04-29", version=0)),
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(VALUES), max_size=8), st.integers(1, 8))
def test_where_a_batch_is_cut_does_not_matter(values: list[Any], size: int) -> None:
    whole, pieces, stream = Stored(), Stored(), events(*values)
    whole.take(stream)
    for start in range(0, len(stream), size):
        pieces.take(stream[start : start + size])
    assert rows(pieces) == rows(whole)
    assert reach(pieces) == reach(whole)


@settings(max_examples=100, deadline=None)
@given(st.permutations(VALUES), st.permutations(VALUES))
def test_the_order_of_events_does_not_matter_to_what_became_of_stays(one: list[Any], other: list[Any]) -> None:
    first, second = taken_one_by_one(*one), taken_one_by_one(*other)
    assert told(rows(first).values()) == told(rows(second).values())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*VALUES, b"Patient/p1"]), min_size=1, max_size=10))
def test_the_rows_are_what_the_history_says_however_it_came_about(values: list[Any]) -> None:
    stored = taken_one_by_one(*values)
    if not stored.histories:
        return
    history, pseudonym = stored.history(), KEYS.patient_pseudonym("p1")
    anew = outcome_changes(PatientHistory(), history, history.encounters, pseudonym, sender().institution, KEYS)
    assert told(rows(stored).values()) == told(change.row for _, change in anew if change.row)


def told(found: Any) -> set[tuple[Any, ...]]:
    return {(one.encounter_pseudonym, one.discharged_at, one.outcome, one.because, one.readmitted_at) for one in found}


def reach(stored: Stored) -> datetime | None:
    times: Sequence[datetime] = [
        at for decision in stored.decisions for place, at in decision.known_until.items() if place == (TOPIC_ID, 0)
    ]
    return max(times, default=None)


def test_a_partitions_events_reach_as_far_as_they_tell_but_never_beyond_their_arrival() -> None:
    assert reach(taken_one_by_one(BACK, FIRST)) == datetime.fromisoformat("2024-03-21T23:00:00+00:00")
    assert reach(taken_one_by_one(FIRST, encounter("e2", "2024-03-20", "2204-03-22"))) == ARRIVAL.replace(second=1)
    assert reach(taken_one_by_one(condition())) is None
