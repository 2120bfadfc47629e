"""Deciding: one outcome an event, repeats say nothing, changes supersede, and where a batch is cut does not matter."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.intake.event import FUTURE, parse_event
from schemas.intake.structure import fhirkit_issues
from schemas.messages import Cause
from schemas.rejection import MOST_ISSUES, Reason
from streams.decision import Event, Known, Outcome, decide, encounters_of, patients_of
from tests.unit.schemas.fhir_events import (
    LIMITS,
    bundle,
    condition,
    dkfz,
    encounter,
    medication_request,
    patient,
    raw,
)
from tests.unit.streams.batches import TOPIC_ID, Stored, event, events, sender, taken

ENDED_BEFORE: dict[str, Any] = {"start": "2023-12-01T10:00:00Z", "end": "2023-12-09T10:00:00Z"}


def test_an_encounter_is_scored_once_and_its_features_are_published() -> None:
    decision = Stored().take(events(bundle(patient(), encounter())))
    [one] = decision.to_score
    [change] = decision.features
    assert [outcome for _, outcome in decision.outcomes] == [Outcome.SCORED]
    assert (one.patient_id, one.encounter_id, one.supersedes, one.cause) == ("p1", "e1", None, None)
    assert change.message is one.message is not None


@pytest.mark.parametrize(
    "value",
    [
        encounter(),
        patient(),
        condition(),
        medication_request(),
        bundle(patient(), encounter(), condition()),
        b"Encounter/e1",
    ],
)
def test_a_repeat_is_unchanged_and_emits_nothing(value: Any) -> None:
    stored = taken(events(patient(), encounter(), condition(), value))
    before = dict(stored.histories)
    again = stored.take([event(None, 9, value) if isinstance(value, bytes) else event(value, 9)])
    assert [outcome for _, outcome in again.outcomes] == [Outcome.UNCHANGED]
    assert (again.to_score, again.features, again.rejected, again.erased) == ([], [], [], [])
    assert stored.histories == before


def test_no_more_issues_are_kept_than_anybody_reads() -> None:
    broken = bundle(*(encounter(f"e{number}", status="gone") for number in range(2 * MOST_ISSUES)))
    [rejected] = taken(events(broken)).decisions[0].rejected
    assert len(rejected.issues) == MOST_ISSUES


def test_a_late_condition_scores_an_older_encounter_anew() -> None:
    stored = taken(events(encounter()))
    [first] = stored.decisions[0].to_score
    [second] = stored.take([event(condition(), 1)]).to_score
    assert stored.outcomes() == [Outcome.SCORED, Outcome.SCORED]
    assert second.supersedes is not None
    assert (second.supersedes.record_id, second.cause) == (first.record_id, Cause.HISTORY_CHANGED)
    assert second.record_id != first.record_id
    assert second.message is not None
    assert second.message.features.num_conditions == 1.0


def test_a_condition_after_the_discharge_updates_the_history_only() -> None:
    stored = taken(events(encounter()))
    decision = stored.take([event(condition(onset="2024-06-01"), 1)])
    assert (stored.outcomes()[-1], decision.to_score, decision.features) == (Outcome.UPDATED, [], [])
    assert set(stored.history().conditions) == {"c1"}


def test_an_earlier_stay_that_arrives_late_scores_the_later_one_anew() -> None:
    stored = taken(events(encounter(), encounter("e0", **ENDED_BEFORE)))
    causes = {(one.encounter_id, one.cause) for one in stored.decisions[0].to_score}
    assert causes == {("e1", None), ("e0", None), ("e1", Cause.HISTORY_CHANGED)}


def test_an_update_of_the_encounter_supersedes_its_score() -> None:
    stored = taken(events(encounter()))
    [second] = stored.take([event(encounter(end="2024-03-06T10:00:00Z", version=2), 1)]).to_score
    assert (second.cause, second.encounter_version) == (Cause.ENCOUNTER_UPDATED, "version_id:2")
    assert second.supersedes is not None


def test_an_older_version_that_comes_late_is_unchanged() -> None:
    stored = taken(events(encounter(version=2), encounter(end="2024-03-09T10:00:00Z", version=1)))
    assert stored.outcomes() == [Outcome.SCORED, Outcome.UNCHANGED]


RETRACTIONS = {
    "entered in error": encounter(status="entered-in-error", version=2),
    "cancelled": encounter(status="cancelled", version=2),
    "deleted in a Bundle": bundle({"request": {"method": "DELETE", "url": "Encounter/e1"}}, type_="transaction"),
    "a tombstone": b"Encounter/e1",
    "planned after all": encounter(status="planned", version=2),
}


@pytest.mark.parametrize("how", RETRACTIONS)
def test_a_retraction_retracts_score_and_features(how: str) -> None:
    value = RETRACTIONS[how]
    stored = taken(events(encounter()))
    decision = stored.take([event(None, 1, value) if isinstance(value, bytes) else event(value, 1)])
    [one] = decision.to_score
    assert stored.outcomes() == [Outcome.SCORED, Outcome.RETRACTED]
    assert (one.message, one.cause) == (None, Cause.RETRACTED)
    assert one.supersedes is not None
    assert [change.message for change in decision.features] == [None]
    assert (stored.features(), stored.standing_scores(), stored.history().scores) == ({}, set(), {})


def test_retracting_a_stay_scores_the_one_after_it_anew() -> None:
    stored = taken(events(encounter("e0", **ENDED_BEFORE), encounter()))
    decision = stored.take([event(None, 2, b"Encounter/e0")])
    assert {(one.encounter_id, one.cause) for one in decision.to_score} == {
        ("e0", Cause.RETRACTED),
        ("e1", Cause.HISTORY_CHANGED),
    }


def test_planned_parts_and_beginningless_encounters_are_not_scored() -> None:
    values = (
        encounter("a", status="planned"),
        encounter("b", partOf={"reference": "Encounter/e1"}),
        encounter("c", None, None),
    )
    stored = taken(events(*values))
    assert stored.outcomes() == [Outcome.UPDATED] * 3
    assert stored.features() == {}


def test_a_summary_is_featurized_and_counts_but_is_not_scored_until_all_is_known() -> None:
    summary = encounter("e0", **ENDED_BEFORE) | {"meta": {"versionId": "1", "tag": [{"code": "SUBSETTED"}]}}
    stored = taken(events(summary, encounter()))
    [first] = stored.decisions[0].to_score
    assert stored.outcomes() == [Outcome.UPDATED, Outcome.SCORED]
    assert first.message is not None
    assert (first.encounter_id, first.message.features.prior_inpatient_stays_365d) == ("e1", 1.0)
    assert sorted(message.summary_only for message in stored.features().values()) == [False, True]
    [second] = stored.take([event(encounter("e0", **ENDED_BEFORE, version=2), 2)]).to_score
    assert (second.encounter_id, second.supersedes) == ("e0", None)
    assert not any(message.summary_only for message in stored.features().values())


# --- deletions before their encounter, erasure


@pytest.mark.parametrize("cut", [True, False])
def test_a_tombstone_before_its_encounter_deletes_it_all_the_same(cut: bool) -> None:
    tombstone, late = event(None, 0, b"Encounter/e1"), event(encounter(), 1)
    stored = taken([tombstone], [late]) if cut else taken([tombstone, late])
    key = ("dkfz", sender().keys.encounter_pseudonym("e1"))
    assert stored.outcomes()[0] is Outcome.RETRACTED
    assert stored.history().encounters["e1"].facts is None
    assert stored.patient_of[key] == sender().keys.patient_pseudonym("p1")
    assert (stored.features(), stored.standing_scores()) == ({}, set())


def test_a_deleted_encounter_that_comes_again_is_refused() -> None:
    stored = taken(events(encounter(), b"Encounter/e1", encounter(version=7)))
    assert stored.outcomes() == [Outcome.SCORED, Outcome.RETRACTED, Outcome.REJECTED]
    [rejected] = stored.decisions[0].rejected
    assert [(issue.reason, issue.path) for issue in rejected.issues] == [(Reason.DELETED_BEFORE, "Encounter")]


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (encounter(), encounter(end="2024-03-09T10:00:00Z"), "Encounter"),
        (patient(), patient(gender="male"), "Patient"),
        (condition(), bundle(condition(code="E11")), "Bundle.entry[0].resource"),
    ],
)
def test_other_content_under_the_same_version_is_a_conflict_and_the_first_stays(
    first: Any, second: Any, path: str
) -> None:
    stored = taken(events(first))
    before = dict(stored.histories)
    [rejected] = stored.take([event(second, 1)]).rejected
    assert [(issue.reason, issue.path) for issue in rejected.issues] == [(Reason.VERSION_CONFLICT, path)]
    assert stored.histories == before


def test_an_erased_patient_leaves_tombstones_only() -> None:
    stored = taken(events(patient(), encounter(), encounter("e0", **ENDED_BEFORE), condition()))
    decision = stored.take([event(None, 4, b"Patient/p1")])
    gone = {sender().keys.encounter_pseudonym(id_) for id_ in ("e0", "e1")}
    [(_, key, patient_id)] = decision.erased
    assert (patient_id, key) == ("p1", ("dkfz", sender().keys.patient_pseudonym("p1")))
    assert stored.outcomes()[-1] is Outcome.RETRACTED
    assert stored.features() == {}
    history = stored.history()
    assert (set(history.erased), history.patient_id, history.encounters, history.patient) == (gone, "", {}, None)


def test_erasing_within_the_batch_takes_back_what_the_batch_had_decided() -> None:
    decision = Stored().take(events(encounter(), encounter("e9", patient="p2"), b"Patient/p1"))
    assert [one.patient_id for one in decision.to_score] == ["p2"]
    assert [change.message is None for change in decision.features] == [False, True]


def test_an_erased_patient_whose_events_go_on_begins_anew() -> None:
    stored = taken(events(condition(), encounter(), b"Patient/p1", encounter(version=2)))
    assert stored.outcomes()[-1] is Outcome.SCORED
    history = stored.history()
    gone = (sender().keys.encounter_pseudonym("e1"),)
    assert (history.erased, history.conditions, set(history.encounters)) == (gone, {}, {"e1"})


def erasure(offset: int, future: bytes | None = None) -> Event:
    headers = ((FUTURE, future),) if future else ()
    message = msgspec.structs.replace(raw(None, key=b"Patient/p1", offset=offset), headers=headers)
    return Event(message, parse_event(message, dkfz(), LIMITS, fhirkit_issues), sender(), TOPIC_ID)


def test_events_of_a_patient_who_is_to_be_refused_are_rejected_and_nothing_is_kept() -> None:
    stored = taken(events(patient(), encounter()), [erasure(2, b"refuse")])
    left = stored.history()
    decision = stored.take([event(bundle(patient(), encounter("e2"), encounter("e9", patient="p2")), 3)])
    assert [(issue.reason, issue.path) for one in decision.rejected for issue in one.issues] == [
        (Reason.PATIENT_ERASED, "Bundle.entry[0].resource"),
        (Reason.PATIENT_ERASED, "Bundle.entry[1].resource"),
    ]
    assert [one.patient_id for one in decision.to_score] == ["p2"]
    assert (stored.history(), left.refused, left.patient_id) == (left, True, "")


def test_refusing_holds_for_whom_nothing_is_known_of_and_until_it_is_taken_back() -> None:
    stored = taken([erasure(0, b"refuse")], events(encounter())[:1])
    assert stored.outcomes() == [Outcome.RETRACTED, Outcome.REJECTED]
    stored.take([erasure(2)])  # says nothing of the future
    stored.take([event(encounter(), 3)])
    stored.take([erasure(4, b"accept")])
    stored.take([event(encounter(), 5)])
    assert stored.outcomes()[3::2] == [Outcome.REJECTED, Outcome.SCORED]


def test_deleting_what_a_refused_patient_had_changes_nothing() -> None:
    stored = taken(events(patient(), encounter()), [erasure(2, b"refuse")])
    decision = stored.take([event(None, 3, b"Encounter/e1")])
    assert (decision.rejected, decision.histories, stored.outcomes()[-1]) == ([], {}, Outcome.UNCHANGED)


# --- without a model, and what a batch asks the store for


def test_without_a_model_features_are_kept_and_nothing_is_scored() -> None:
    stored = Stored()
    decision = stored.take(events(encounter()), model_version=None)
    assert (stored.outcomes(), decision.to_score, len(decision.features)) == ([Outcome.UPDATED], [], 1)
    scored = stored.take([event(encounter(version=2, end="2024-03-06T10:00:00Z"), 1)])
    assert [one.supersedes for one in scored.to_score] == [None]


def test_a_batch_names_the_patients_and_encounters_it_needs() -> None:
    batch = events(bundle(patient(), encounter()), condition(patient="p2"), b"Encounter/e7", b"Patient/p3")
    keys = sender().keys
    assert patients_of(batch) == {("dkfz", keys.patient_pseudonym(id_)) for id_ in ("p1", "p2", "p3")}
    assert encounters_of(batch) == {("dkfz", keys.encounter_pseudonym(id_)) for id_ in ("e1", "e7")}


def test_deciding_changes_nothing_it_is_given() -> None:
    stored = taken(events(patient(), encounter()))
    known = Known({key: stored.history() for key in stored.histories}, dict(stored.patient_of))
    before = repr(known)
    decide(events(condition(), b"Encounter/e1"), known, "1")
    assert repr(known) == before


# --- properties

DAY = st.integers(0, 700).map(lambda day: f"{2023 + day // 365}-{day % 365 // 31 + 1:02}-{day % 28 + 1:02}")
PATIENTS, VERSIONS = st.sampled_from(["p1", "p2"]), st.integers(1, 3)


def owned(id_: str, patient_id: str) -> str:
    """Name a resource so that it never changes its patient."""
    return f"{id_}-{patient_id}"


@st.composite
def resources(draw: st.DrawFn) -> dict[str, Any]:
    """Make a resource whose content is bound to its id and version."""
    who, version = draw(PATIENTS), draw(VERSIONS)
    id_ = owned(draw(st.sampled_from("ab")), who)
    kind = draw(st.sampled_from(["patient", "encounter", "encounter", "condition", "medication"]))
    at = random.Random(f"{kind}{id_}{version}").randint(0, 600)
    start, end = (f"{2023 + day // 360}-{day % 360 // 30 + 1:02}-{day % 28 + 1:02}" for day in (at, at))
    match kind:
        case "patient":
            return patient(who, f"19{50 + version}-01-01", version=version)
        case "encounter":
            status = "entered-in-error" if at % 5 == 0 else "finished"
            class_ = ["IMP", "EMER", "AMB"][at % 3]
            return encounter(id_, start, end, patient=who, version=version, class_=class_, status=status)
        case "condition":
            return condition(id_, start, code=f"x{at % 4}", patient=who, version=version)
        case _:
            return medication_request(id_, start, code=f"x{at % 4}", patient=who, version=version)


STREAMS = st.lists(
    resources() | st.lists(resources(), min_size=1, max_size=3).map(lambda some: bundle(*some)), max_size=14
)


def standing(stored: Stored) -> dict[str, dict[str, str]]:
    return {
        patient_id: {id_: state.record_id for id_, state in stored.history(patient_id).scores.items()}
        for patient_id in ("p1", "p2")
        if ("dkfz", sender().keys.patient_pseudonym(patient_id)) in stored.histories
    }


@settings(max_examples=60, deadline=None)
@given(STREAMS, st.data())
def test_where_a_batch_is_cut_does_not_matter(values: list[Any], data: st.DataObject) -> None:
    stream = events(*values)
    if data.draw(st.booleans()) and stream:
        stream.append(event(None, len(stream), data.draw(st.sampled_from([b"Encounter/a-p1", b"Patient/p1"]))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, cut = taken(stream), taken(*pieces)
    assert cut.histories == whole.histories
    assert cut.patient_of == whole.patient_of
    assert cut.outcomes() == whole.outcomes()
    assert cut.features() == whole.features()
    assert standing(cut) == standing(whole)


@settings(max_examples=60, deadline=None)
@given(STREAMS, st.randoms(use_true_random=False))
def test_the_order_of_versioned_events_does_not_matter_to_the_final_features(values: list[Any], rng: Any) -> None:
    shuffled = list(values)
    rng.shuffle(shuffled)
    assert taken(events(*shuffled)).features() == taken(events(*values)).features()


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_each_event_has_one_outcome_and_a_second_delivery_of_all_says_nothing(values: list[Any]) -> None:
    stored = taken(events(*values))
    assert [one for decision in stored.decisions for one, _ in decision.outcomes] == events(*values)
    before = dict(stored.histories)
    again = stored.take([event(value, 100 + n) for n, value in enumerate(values)])
    assert {outcome for _, outcome in again.outcomes} <= {Outcome.UNCHANGED}
    assert (again.to_score, again.features, stored.histories) == ([], [], before)


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_the_scores_that_stand_are_those_the_histories_hold(values: list[Any]) -> None:
    stored = taken(events(*values))
    held = {record for scores in standing(stored).values() for record in scores.values()}
    assert stored.standing_scores() == held
    current = {sender().keys.encounter_pseudonym(id_) for scores in standing(stored).values() for id_ in scores}
    assert set(stored.features()) == current


def rejected_reasons(batch: list[Event]) -> set[Reason]:
    return {issue.reason for one in Stored().take(batch).rejected for issue in one.issues}


def test_an_event_rejected_in_part_is_rejected_and_its_good_part_is_applied() -> None:
    batch = events(bundle(encounter("bad", status="gone"), encounter()))
    stored = taken(batch)
    assert stored.outcomes() == [Outcome.REJECTED]
    assert rejected_reasons(batch) == {Reason.INVALID_CODE}
    assert set(stored.history().scores) == {"e1"}
