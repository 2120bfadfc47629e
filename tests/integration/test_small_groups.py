"""What analysts' views tell of small groups: nothing, nor what would let one be reckoned out; and of others all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.migrate import migrate
from connectors.settings import Settings
from healthalliance.progress import fetch
from tests.integration.running import database

pytestmark = pytest.mark.stack

_INSTITUTION = "ukhd"
_NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)
# day → how many encounters there are of each band, and how many of all are no inpatient stays
_DAYS = {
    1: ({"high": 10, "medium": 20, "low": 20}, 10),
    2: ({"high": 9, "medium": 20, "low": 20}, 10),
    3: ({"high": 10, "medium": 20, "low": 20}, 9),
    4: ({"high": 3, "medium": 3, "low": 3}, 0),
    5: ({"high": 10, "medium": 0, "low": 20}, 0),
}
# model version → discharged stays, and how many of them were readmitted
_MODELS = {"1": (300, 100), "2": (300, 9), "3": (109, 100)}
_REJECTED = {"invalid-code": 10, "invalid-json": 9}


@pytest.fixture(scope="module")
def filled(stack: Settings) -> Iterator[Settings]:
    """Fill a database of its own with made-up rows."""
    with database(stack, "small_groups") as own:
        migrate(own.database_url)
        for day, (bands, outpatients) in _DAYS.items():
            inpatient = iter(range(sum(bands.values())))
            for band, number in bands.items():
                for _ in range(number):
                    score(
                        own,
                        datetime(2025, 5, day, tzinfo=UTC),
                        "9",
                        band=band,
                        inpatient=next(inpatient) >= outpatients,
                    )
        fetch(
            own,
            "INSERT INTO stream_progress (topic_id, source_partition, topic, institution, next_offset, updated_at, "
            "known_until) VALUES (gen_random_uuid(), 0, 'made up', $1, 0, $2, $2)",
            _INSTITUTION,
            _NOW,
        )
        for version, (stays, readmitted) in _MODELS.items():
            discharged = _NOW - timedelta(days=40)
            for number in range(stays):
                record = score(own, discharged, version, probability=number / stays)
                # Readmissions everywhere between the lowest and the highest risks.
                back = number * readmitted // stays != (number + 1) * readmitted // stays
                fetch(own, _OUTCOME, _INSTITUTION, discharged, "readmitted" if back else "pending", record, _NOW)
        for reason, number in _REJECTED.items():
            for _ in range(number):
                fetch(own, _REJECTION, _INSTITUTION, _NOW, reason)
        yield own


def score(
    settings: Settings,
    at: datetime,
    version: str,
    *,
    band: str = "low",
    inpatient: bool = True,
    probability: float = 0.1,
) -> Any:
    [row] = fetch(settings, _SCORE, _INSTITUTION, at, version, band, inpatient, probability)
    return row["record_id"]


_SCORE = """
INSERT INTO risk_scores (record_id, institution, patient_pseudonym, encounter_pseudonym, encounter_version, status,
    inpatient, as_of, received_at, scored_at, probability, band, baseline, contributions, features, feature_set,
    model_name, model_version, model_digest, topic_id, source_partition, source_offset)
VALUES (gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), 'offset:1', 'final', $5, $2, $2, $2, $6, $4, 0.1,
    '{}', '{}', 1, 'made-up', $3, 'none', gen_random_uuid(), 0, 1) RETURNING record_id
"""
_OUTCOME = """
INSERT INTO score_outcomes (institution, encounter_pseudonym, patient_pseudonym, discharged_at, outcome, readmitted_at,
    record_id, received_at, updated_at)
VALUES ($1, gen_random_uuid(), gen_random_uuid(), $2, $3,
    CASE $3 WHEN 'readmitted' THEN $2::timestamptz + interval '5 days' END, $4, $2, $5)
"""
_REJECTION = """
INSERT INTO rejected_events (topic_id, source_partition, source_offset, institution, received_at, rejected_at, reason,
    issues)
VALUES (gen_random_uuid(), 0, 0, $1, $2, $2, $3, '[]')
"""


@pytest.mark.parametrize(
    ("day", "told"),
    [
        (1, {"encounters": 50, "inpatient_stays": 40, "high": 10, "medium": 20, "low": 20}),
        # One band alone would follow from the others and the whole.
        (2, {"encounters": 49, "inpatient_stays": 39, "high": None, "medium": None, "low": None}),
        # And so would the nine that are no inpatient stays.
        (3, {"encounters": 50, "inpatient_stays": None, "high": 10, "medium": 20, "low": 20}),
        (4, {"encounters": None, "inpatient_stays": None, "high": None, "medium": None, "low": None}),
        # That there is nobody tells of nobody.
        (5, {"encounters": 30, "inpatient_stays": 30, "high": 10, "medium": 0, "low": 20}),
    ],
)
def test_a_days_small_groups_are_left_out(filled: Settings, day: int, told: dict[str, int | None]) -> None:
    query = "SELECT * FROM institution_daily_risk WHERE institution = $1 AND day = $2"
    [row] = fetch(filled, query, _INSTITUTION, datetime(2025, 5, day, tzinfo=UTC).date())
    assert {name: row[name] for name in told} == told
    assert (row["mean_probability"] is None) is (told["encounters"] is None)


def performance(settings: Settings, version: str) -> dict[str, Any]:
    [row] = fetch(settings, "SELECT * FROM model_performance WHERE model_version = $1", version)
    return dict(row)


def test_a_models_performance_is_told_where_both_outcomes_are_many(filled: Settings) -> None:
    row = performance(filled, "1")
    assert (row["outcomes"], row["readmitted"], row["observed_share"]) == (300, 100, pytest.approx(1 / 3))
    assert row["auroc"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("version", ["2", "3"])
def test_of_few_readmitted_or_few_others_nothing_is_told(filled: Settings, version: str) -> None:
    row = performance(filled, version)
    assert row["outcomes"] == _MODELS[version][0]
    assert {
        name for name in ("readmitted", "observed_share", "calibration_ratio", "brier", "auroc") if row[name]
    } == set()


def test_calibration_has_as_many_groups_as_are_not_small(filled: Settings) -> None:
    query = "SELECT * FROM model_calibration WHERE model_version = $1 ORDER BY risk_group"
    groups = fetch(filled, query, "1")
    assert [row["risk_group"] for row in groups] == list(range(1, 11))  # 30 stays each, 10 of them readmitted
    assert all(row["readmitted"] >= 10 and row["outcomes"] - row["readmitted"] >= 10 for row in groups)
    assert [row["mean_probability"] for row in groups] == sorted(row["mean_probability"] for row in groups)
    assert sum(row["outcomes"] for row in groups) == 300
    assert fetch(filled, query, "2") == []


def test_few_rejected_events_of_a_day_are_left_out(filled: Settings) -> None:
    rows = fetch(filled, "SELECT reason, rejected FROM institution_daily_rejections")
    assert {row["reason"]: row["rejected"] for row in rows} == {"invalid-code": 10, "invalid-json": None}
