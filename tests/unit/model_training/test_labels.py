from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.labels import Exclusion, Labels, label
from schemas.features import FEATURE_SET
from schemas.messages import EncounterFeatures
from schemas.snapshot import snapshot_table
from tests.unit.model_training.literal_labels import counts, literal_labels
from tests.unit.model_training.stays import START, features, pseudonym, stay, visit_at

YES, NO = True, False
LATE = visit_at(365)
AWAY, AGAINST = "other-hcf", "aadvice"


def labelled(records: list[EncounterFeatures]) -> tuple[dict[str, bool], Labels]:
    """Label records; return each index stay's label by its pseudonym, and all that came out."""
    table = snapshot_table(records)
    labels = label(table)
    pseudonyms = table.column("encounter_pseudonym").to_pylist()
    names = [str(UUID(bytes=pseudonyms[row])) for row in labels.rows.tolist()]
    return dict(zip(names, labels.readmitted.tolist(), strict=True)), labels


INDEX_STAYS: dict[str, tuple[list[EncounterFeatures], dict[str, bool]]] = {
    "a patient who never comes back": ([stay("a", 0, 5)], {"a": NO}),
    "back on day 20": ([stay("a", 0, 5), stay("b", 25, 27)], {"a": YES, "b": NO}),
    "back on the 30th day to the minute": ([stay("a", 0, 5), stay("b", 35, 36)], {"a": YES, "b": NO}),
    "back just after the 30th day": ([stay("a", 0, 5), stay("b", 35.001, 36)], {"a": NO, "b": NO}),
    "back in the evening of the day of discharge": ([stay("a", 0, 5), stay("b", 5.2, 9)], {"a": YES, "b": NO}),
    "only the next stay counts": (
        [stay("a", 0, 5), stay("b", 20, 21), stay("c", 30, 31)],
        {"a": YES, "b": YES, "c": NO},
    ),
    # planned
    "a planned stay is no readmission": ([stay("a", 0, 5), stay("b", 20, 21, planned=True)], {"a": NO, "b": NO}),
    "an unplanned stay after a planned one is the planned one's readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, planned=True), stay("c", 25, 26)],
        {"a": NO, "b": YES, "c": NO},
    ),
    "a planned stay is an index stay": ([stay("a", 0, 5, planned=True), stay("b", 20, 21)], {"a": YES, "b": NO}),
    "an episode is planned as its first stay is": (
        [stay("a", 0, 5), stay("b", 20, 25, planned=True), stay("c", 24, 30)],
        {"a": NO, "c": NO},
    ),
    "of stays admitted at once the longest tells whether the episode is planned": (
        [stay("a", 0, 5), stay("b", 20, 21), stay("c", 20, 25, planned=True), stay("d", 20, 22), stay("e", 20, 21.5)],
        {"a": NO, "c": NO},
    ),
    # episodes
    "overlapping stays are one episode, judged at its end": (
        [stay("a", 0, 5), stay("b", 3, 9), stay("c", 38, 40)],
        {"b": YES, "c": NO},
    ),
    "a stay within a longer one": ([stay("a", 0, 60), stay("b", 3, 9), stay("c", 61, 62)], {"a": YES, "c": NO}),
    "stays chained by overlaps": (
        [stay("a", 0, 5), stay("b", 4, 9), stay("c", 8, 20), stay("d", 45, 46)],
        {"c": YES, "d": NO},
    ),
    "two stays admitted at once are one episode": ([stay("a", 0, 0), stay("b", 0, 9)], {"b": NO}),
    "a stay that begins at the moment of another's end adjoins it": ([stay("a", 0, 5), stay("b", 5, 9)], {"b": NO}),
    "a stay of no length at the end of another adjoins it": ([stay("a", 0, 5), stay("b", 5, 5)], {"b": NO}),
    # transfers
    "a transfer that arrives within a day is one episode": (
        [stay("a", 0, 5, disposition=AWAY), stay("b", 5.5, 9), stay("c", 20, 21)],
        {"b": YES, "c": NO},
    ),
    "a transfer that arrives on the 24th hour is one episode": (
        [stay("a", 0, 5, disposition=AWAY), stay("b", 6, 9)],
        {"b": NO},
    ),
    "a transfer back after a stay elsewhere is an episode of its own": (
        [stay("a", 0, 5, disposition=AWAY), stay("b", 6.01, 9)],
        {"b": NO},
    ),
    "what ended before the transfer decides nothing": (
        [stay("a", 0, 9), stay("b", 3, 5, disposition=AWAY), stay("c", 9.5, 12)],
        {"a": YES, "c": NO},
    ),
    "a readmission that is transferred away later counts": (
        [stay("a", 0, 5), stay("b", 20, 22, disposition=AWAY)],
        {"a": YES},
    ),
    # open stays
    "a readmission that is still open counts": ([stay("a", 0, 5), stay("b", 20, None)], {"a": YES}),
    "a stay nobody closed does not swallow later ones": (
        [stay("a", 0, None), stay("b", 50, 55), stay("c", 60, 61)],
        {"b": YES, "c": NO},
    ),
    # who and where
    "a readmission that ends in death counts": ([stay("a", 0, 5), stay("b", 20, 22, disposition="exp")], {"a": YES}),
    "a readmission that is left against advice counts": (
        [stay("a", 0, 5), stay("b", 20, 22, disposition=AGAINST)],
        {"a": YES},
    ),
    "a readmission known in summary only counts": ([stay("a", 0, 5), stay("b", 20, 21, summary_only=True)], {"a": YES}),
    "an outpatient visit is no readmission": ([stay("a", 0, 5), stay("b", 20, 21, inpatient=False)], {"a": NO}),
    "another patient's stay is no readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, patient="q")],
        {"a": NO, "b": NO},
    ),
    "another patient of the same person has a history of its own": (
        [stay("a", 0, 5), stay("b", 20, 21, patient="q", person="p")],
        {"a": NO, "b": NO},
    ),
    "the same pseudonym at another institution is no readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, institution="embl"), visit_at(365, "embl")],
        {"a": NO, "b": NO},
    ),
    "a stay featurized by another version still is a readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, feature_set=FEATURE_SET + 1)],
        {"a": YES},
    ),
    "death after discharge leaves a stay that was followed": ([stay("a", 0, 5, deceased=6)], {"a": NO}),
    "discharge to rehabilitation is no transfer to acute care": ([stay("a", 0, 5, disposition="rehab")], {"a": NO}),
    "a discharge nobody gave a disposition for": ([stay("a", 0, 5, disposition=None)], {"a": NO}),
}


@pytest.mark.parametrize(("records", "expected"), INDEX_STAYS.values(), ids=INDEX_STAYS.keys())
def test_index_stays_and_their_labels(records: list[EncounterFeatures], expected: dict[str, bool]) -> None:
    found, _ = labelled([*records, LATE])
    assert found == {pseudonym(name): readmitted for name, readmitted in expected.items()}


def test_30_days_of_follow_up_suffice() -> None:
    assert labelled([stay("a", 0, 5), visit_at(35)])[0] == {pseudonym("a"): NO}


LEFT_OUT: dict[str, tuple[list[EncounterFeatures], dict[Exclusion, int]]] = {
    "followed for less than 30 days": ([stay("a", 0, 5), visit_at(34.9)], {Exclusion.CENSORED: 1}),
    "followed for less than 30 days, though back already": (
        [stay("a", 0, 5), stay("b", 10, 12), visit_at(20)],
        {Exclusion.CENSORED: 2},
    ),
    "what another institution knows later does not help": (
        [stay("a", 0, 5), visit_at(34.9), visit_at(365, "embl")],
        {Exclusion.CENSORED: 1},
    ),
    "died at discharge, by its disposition": ([stay("a", 0, 5, disposition="exp"), LATE], {Exclusion.DIED: 1}),
    "died at the moment of discharge": ([stay("a", 0, 5, deceased=5), LATE], {Exclusion.DIED: 1}),
    "died before discharge": ([stay("a", 0, 5, deceased=4), LATE], {Exclusion.DIED: 1}),
    "a death that another stay of the episode tells": (
        [stay("a", 0, 5), stay("b", 4, 5.5), stay("c", 4, 4.5, disposition="exp"), LATE],
        {Exclusion.DIED: 1, Exclusion.SAME_EPISODE: 2},
    ),
    "not discharged yet": ([stay("a", 0, None), LATE], {Exclusion.OPEN: 1}),
    "open and at the end of another": (
        [stay("a", 0, 5), stay("b", 5, None), LATE],
        {Exclusion.OPEN: 1, Exclusion.SAME_EPISODE: 1},
    ),
    "part of an episode that ended in death": (
        [stay("a", 0, 5), stay("c", 1, 9, disposition="exp"), LATE],
        {Exclusion.DIED: 1, Exclusion.SAME_EPISODE: 1},
    ),
    "transferred to another hospital": ([stay("a", 0, 5, disposition=AWAY), LATE], {Exclusion.TRANSFERRED: 1}),
    "left against advice": ([stay("a", 0, 5, disposition=AGAINST), LATE], {Exclusion.AGAINST_ADVICE: 1}),
    "known in summary only": ([stay("a", 0, 5, summary_only=True), LATE], {Exclusion.SUMMARY_ONLY: 1}),
    "outpatient": ([stay("a", 0, 5, inpatient=False), LATE], {}),
    "featurized by another version": (
        [stay("a", 0, 5, feature_set=FEATURE_SET + 1), LATE],
        {Exclusion.OTHER_FEATURE_SET: 1},
    ),
    "nothing at all": ([], {}),
}


@pytest.mark.parametrize(("records", "expected"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_what_is_left_out_is_never_a_negative_and_says_why(
    records: list[EncounterFeatures], expected: dict[Exclusion, int]
) -> None:
    found, labels = labelled(records)
    visits = sum(not record.inpatient for record in records)
    assert found == {}
    assert labels.excluded == expected | ({Exclusion.NOT_INPATIENT: visits} if visits else {})


# Times on a grid of six hours, so that stays often touch, and gaps often are just a day or 30.
GRID = timedelta(hours=6)
HOURS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 12, 119, 120, 121, 124])


@st.composite
def histories(draw: st.DrawFn) -> list[EncounterFeatures]:
    records = []
    for number in range(draw(st.integers(0, 14))):
        admitted = START + GRID * (draw(HOURS) + draw(HOURS))
        discharged = draw(st.none() | HOURS.map(lambda hours, admitted=admitted: admitted + GRID * hours))  # type: ignore[misc]
        base = stay(
            f"{number}",
            0,
            1,
            patient=draw(st.sampled_from("pq")),
            institution=draw(st.sampled_from(["dkfz", "embl"])),
            inpatient=draw(st.sampled_from([True, True, True, False])),
            feature_set=draw(st.sampled_from([FEATURE_SET] * 5 + [FEATURE_SET + 1])),
            planned=draw(st.booleans()),
            summary_only=draw(st.sampled_from([False, False, True])),
        )
        records.append(
            replace(
                base,
                admitted_at=admitted,
                discharged_at=discharged,
                as_of=discharged or admitted,
                disposition=draw(st.sampled_from([None, "home", "home", AWAY, AWAY, AGAINST, "exp"])),
                deceased_at=draw(st.none() | HOURS.map(lambda hours: START + 2 * GRID * hours)),
            )
        )
    return [*records, *draw(st.sampled_from([[], [LATE, visit_at(365, "embl")]]))]


@settings(max_examples=200, deadline=None)
@given(histories())
def test_the_labels_are_those_of_the_rules_told_one_stay_at_a_time(records: list[EncounterFeatures]) -> None:
    judged = literal_labels(records)
    found, labels = labelled(records)
    assert found == {name: verdict for name, verdict in judged.items() if not isinstance(verdict, Exclusion)}
    assert labels.excluded == counts(judged)


@settings(deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_every_row_is_accounted_for(
    records: list[EncounterFeatures], shuffler: random.Random
) -> None:
    order = list(range(len(records)))
    shuffler.shuffle(order)
    table = snapshot_table(records)
    labels, shuffled = label(table), label(table.take(pa.array(order, pa.int64())))
    assert shuffled.excluded == labels.excluded
    back = dict(zip([order[row] for row in shuffled.rows.tolist()], shuffled.readmitted.tolist(), strict=True))
    assert back == dict(zip(labels.rows.tolist(), labels.readmitted.tolist(), strict=True))
    assert len(labels.rows) + sum(labels.excluded.values()) == len(records)


def test_index_stays_are_rows_of_the_table_in_its_order() -> None:
    records = [stay(f"{number}", 40 * number, 40 * number + 1, facts=features()) for number in range(9)]
    _, labels = labelled([*records, LATE])
    assert labels.rows.tolist() == sorted(labels.rows.tolist())
    assert len(labels.rows) == 9
