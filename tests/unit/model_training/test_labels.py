from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_training.labels import Exclusion, label
from schemas.features import FEATURE_SET
from schemas.messages import EncounterFeatures
from tests.unit.model_training.stays import simulated, stay, visit_at

YES, NO = True, False
LATE = visit_at(365)

CASES: dict[str, tuple[list[EncounterFeatures], dict[str, bool]]] = {
    "a patient who never comes back": ([stay("a", 0, 5), LATE], {"a": NO}),
    "back on day 20": ([stay("a", 0, 5), stay("b", 25, 27), LATE], {"a": YES, "b": NO}),
    "back on the 30th day to the minute": ([stay("a", 0, 5), stay("b", 35, 36), LATE], {"a": YES, "b": NO}),
    "back just after the 30th day": ([stay("a", 0, 5), stay("b", 35.001, 36), LATE], {"a": NO, "b": NO}),
    "admitted elsewhere in the house on the day of discharge": (
        [stay("a", 0, 5, disposition="other-hcf"), stay("b", 5.2, 9), LATE],
        {"a": YES, "b": NO},
    ),
    "admitted at the very moment of discharge": ([stay("a", 0, 5), stay("b", 5, 9), LATE], {"a": YES, "b": NO}),
    "overlapping stays are one episode, judged at its end": (
        [stay("a", 0, 5), stay("b", 3, 9), stay("c", 38, 40), LATE],
        {"b": YES, "c": NO},
    ),
    "a stay within a longer one": ([stay("a", 0, 60), stay("b", 3, 9), stay("c", 61, 62), LATE], {"a": YES, "c": NO}),
    "stays chained by overlaps": (
        [stay("a", 0, 5), stay("b", 4, 9), stay("c", 8, 20), stay("d", 45, 46), LATE],
        {"c": YES, "d": NO},
    ),
    "two stays admitted at once are one episode": ([stay("a", 0, 0), stay("b", 0, 9), LATE], {"b": NO}),
    "a readmission that is still open counts": ([stay("a", 0, 5), stay("b", 20, None), LATE], {"a": YES}),
    "a stay nobody closed does not swallow later ones": (
        [stay("a", 0, None), stay("b", 50, 55), stay("c", 60, 61), LATE],
        {"b": YES, "c": NO},
    ),
    "a readmission that ends in death counts": (
        [stay("a", 0, 5), stay("b", 20, 22, disposition="exp"), LATE],
        {"a": YES},
    ),
    "an outpatient visit is no readmission": ([stay("a", 0, 5), stay("b", 20, 21, inpatient=False), LATE], {"a": NO}),
    "another patient's stay is no readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, patient="q"), LATE],
        {"a": NO, "b": NO},
    ),
    "the same pseudonym at another institution is no readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, institution="embl"), LATE, visit_at(365, "embl")],
        {"a": NO, "b": NO},
    ),
    "a stay featurized by another version still is a readmission": (
        [stay("a", 0, 5), stay("b", 20, 21, feature_set=FEATURE_SET + 1), LATE],
        {"a": YES},
    ),
    "death after discharge leaves a stay that was followed": ([stay("a", 0, 5, deceased=6), LATE], {"a": NO}),
    "30 days of follow-up suffice": ([stay("a", 0, 5), visit_at(35)], {"a": NO}),
}


@pytest.mark.parametrize(("records", "expected"), CASES.values(), ids=CASES.keys())
def test_index_stays_and_their_labels(records: list[EncounterFeatures], expected: dict[str, bool]) -> None:
    assert {one.stay.encounter_pseudonym: one.readmitted for one in label(records).stays} == expected


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([stay("a", 0, 5), visit_at(34.9)], Exclusion.CENSORED),
        ([stay("a", 0, 5), stay("b", 6, None), visit_at(34.9)], Exclusion.CENSORED),
        ([stay("a", 0, 5), visit_at(34.9), visit_at(365, "embl")], Exclusion.CENSORED),
        ([stay("a", 0, 5, disposition="exp"), LATE], Exclusion.DIED),
        ([stay("a", 0, 5, deceased=5), LATE], Exclusion.DIED),
        ([stay("a", 0, 5, deceased=4), LATE], Exclusion.DIED),
        ([stay("a", 0, None), LATE], Exclusion.OPEN),
        ([stay("a", 0, 5), stay("c", 1, 9, disposition="exp"), LATE], Exclusion.SAME_EPISODE),
        ([stay("a", 0, 5, inpatient=False), LATE], Exclusion.NOT_INPATIENT),
        ([stay("a", 0, 5, feature_set=FEATURE_SET + 1), LATE], Exclusion.OTHER_FEATURE_SET),
    ],
)
def test_what_is_left_out_is_never_a_negative_and_says_why(records: list[EncounterFeatures], reason: Exclusion) -> None:
    labels = label(records)
    assert not labels.stays
    assert reason in labels.excluded


def test_a_readmission_known_before_follow_up_is_complete_is_left_out_as_well() -> None:
    labels = label([stay("a", 0, 5), stay("b", 10, 12), visit_at(20)])
    assert not labels.stays
    assert labels.excluded[Exclusion.CENSORED] == 2


@given(st.randoms(use_true_random=False), st.integers(0, 1000))
def test_the_order_of_records_does_not_matter_and_every_record_is_accounted_for(shuffler: object, seed: int) -> None:
    records = simulated(seed, 12)
    shuffled = list(records)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis hides Random behind a strategy
    labels = label(shuffled)
    assert labels == label(records)
    assert len(labels.stays) + sum(labels.excluded.values()) == len(records)
