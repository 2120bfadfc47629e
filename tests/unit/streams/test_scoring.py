"""Scoring decided encounters: in order, explained to the last digit, retractions without numbers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.messages import Cause, RiskScore, ScoreStatus
from streams.decision import ToScore
from streams.scoring import score
from tests.unit.schemas.fhir_events import ARRIVAL, bundle, condition, encounter, patient
from tests.unit.streams.batches import CARD, TOPIC_ID, LinearModel, Stored, event, events, sender, taken

MODEL, NOW = LinearModel(), ARRIVAL + timedelta(hours=1)


def decided(*values: Any) -> list[ToScore]:
    return taken(events(*values)).decisions[0].to_score


def scored(*values: Any) -> list[RiskScore]:
    return score(decided(*values), MODEL, NOW)


def test_a_score_says_whose_it_is_what_it_came_from_and_who_made_it() -> None:
    [one] = scored(bundle(patient(), encounter(version=3)))
    keys = sender().keys
    assert (one.institution, one.patient_reference, one.encounter_reference) == ("dkfz", "Patient/p1", "Encounter/e1")
    assert one.patient_pseudonym == keys.patient_pseudonym("p1")
    assert one.encounter_pseudonym == keys.encounter_pseudonym("e1")
    assert (one.encounter_version, one.inpatient, one.feature_set) == ("version_id:3", True, FEATURE_SET)
    assert (one.model_name, one.model_version, one.model_digest) == (MODEL.name, MODEL.version, MODEL.digest)
    assert (one.topic_id, one.source_partition, one.source_offset) == (TOPIC_ID, 0, 0)
    assert (one.received_at, one.scored_at) == (ARRIVAL, NOW)


def test_a_first_score_is_final_and_supersedes_nothing() -> None:
    [one] = scored(encounter())
    assert (one.status, one.supersedes, one.reason) == (ScoreStatus.FINAL, None, None)


@pytest.mark.parametrize(
    ("second", "cause"),
    [(encounter(end="2024-03-06", version=2), Cause.ENCOUNTER_UPDATED), (condition(), Cause.HISTORY_CHANGED)],
)
def test_a_later_score_amends_the_first_and_says_why(second: Any, cause: Cause) -> None:
    first, amended = scored(encounter(), second)
    assert (amended.status, amended.supersedes, amended.reason) == (ScoreStatus.AMENDED, first.record_id, cause)


def test_a_retraction_carries_no_number() -> None:
    first, retraction = scored(encounter(), b"Encounter/e1")
    assert (retraction.status, retraction.supersedes, retraction.reason) == (
        ScoreStatus.ENTERED_IN_ERROR,
        first.record_id,
        Cause.RETRACTED,
    )
    assert (retraction.probability, retraction.band, retraction.baseline) == (None, None, None)
    assert (retraction.features, retraction.contributions, retraction.inpatient) == (None, {}, False)
    assert retraction.as_of == retraction.received_at == ARRIVAL + timedelta(seconds=1)


def test_only_retractions_need_no_row_of_the_model() -> None:
    stored = taken(events(encounter()))
    decision = stored.take([event(None, 1, b"Encounter/e1")])
    assert [one.status for one in score(decision.to_score, MODEL, NOW)] == [ScoreStatus.ENTERED_IN_ERROR]


def test_nothing_to_score_gives_nothing() -> None:
    assert score([], MODEL, NOW) == []


KINDS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 40), st.booleans()),
    min_size=1,
    max_size=8,
    unique_by=lambda one: one[0],
)


@settings(max_examples=40, deadline=None)
@given(KINDS)
def test_scores_come_in_the_order_decided_each_with_its_own_numbers(kinds: list[tuple[int, int, bool]]) -> None:
    values: list[Any] = []
    for id_, day, retract in kinds:
        values.append(encounter(f"e{id_}", "2024-01-01", f"2024-02-{day % 28 + 1:02}", patient=f"p{id_}"))
        values += [f"Encounter/e{id_}".encode()] * retract
    to_score = decided(*values)
    scores = score(to_score, MODEL, NOW)
    assert [one.record_id for one in scores] == [one.record_id for one in to_score]
    for one, given_one in zip(scores, to_score, strict=True):
        assert one.features == (given_one.message.features if given_one.message else None)
        if one.probability is None or one.baseline is None or one.features is None:
            continue
        row = np.array(one.features.vector(), dtype=np.float32).astype(np.float64)
        parts = row * np.array(MODEL.weights)
        assert one.probability == pytest.approx(float(CARD.calibration(np.array(CARD.raw_baseline + parts.sum()))))
        assert one.baseline + sum(one.contributions.values()) == pytest.approx(one.probability)
        shares = dict(zip(FEATURE_NAMES, parts * (one.probability - one.baseline) / parts.sum(), strict=True))
        assert one.contributions == pytest.approx(shares)
        assert one.band == CARD.thresholds.band(one.probability)


def test_scoring_one_by_one_gives_what_scoring_together_gives() -> None:
    decision = Stored().take(events(encounter(), encounter("e2", patient="p2"), condition(), b"Encounter/e2"))
    together = score(decision.to_score, MODEL, NOW)
    assert [score([one], MODEL, NOW) for one in decision.to_score] == [[one] for one in together]
