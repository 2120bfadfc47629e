"""The views of outcomes and of how models do, and the counting of features, against scikit-learn and numpy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from connectors.migrate import migrate
from connectors.settings import Settings
from connectors.store import connect
from healthalliance.progress import fetch
from schemas.drift import bins, counts
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.institutions import institutions
from tests.integration.running import database

pytestmark = pytest.mark.stack

_END = datetime(2025, 6, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class MadeUp:
    """A stay as the tables hold it; `discharged`: days before the institution's end."""

    institution: str
    discharged: float
    outcome: str
    probability: float | None
    challenged: float | None
    age: float | None = 60.0
    record: UUID = field(default_factory=uuid4)

    @property
    def counts(self) -> bool:
        """Tell whether its 30 days were over within the 90 days before the end."""
        return 30 <= self.discharged < 120 and self.outcome != "censored"


def made_up() -> list[MadeUp]:
    rng = np.random.default_rng(3)
    stays = []
    for number in range(700):
        probability = round(float(rng.beta(2, 8)), 2)  # two digits: many are tied
        outcome = "censored" if number % 9 == 0 else "readmitted" if rng.random() < probability else "pending"
        challenged = round(float(rng.beta(2, 6)), 2) if number % 2 else None
        age = None if number % 10 == 0 else float(rng.integers(20, 95))
        stays.append(
            MadeUp(("dkfz", "ukhd")[number % 3 == 0], float(rng.uniform(0, 150)), outcome, probability, challenged, age)
        )
    unscored = MadeUp("dkfz", 60, "readmitted", None, None)
    # To the second: the first is judged, the last two are not.
    edges = [MadeUp("embl", days, "readmitted", 0.5, None) for days in (30, 119.9999, 29.9999, 120)]
    return [*stays, unscored, *edges]


@pytest.fixture(scope="module")
def judged(stack: Settings) -> Iterator[tuple[Settings, list[MadeUp]]]:
    stays = made_up()
    with database(stack, "judged") as settings:
        migrate(settings.database_url)
        asyncio.run(put_in(settings, stays))
        yield settings, stays


async def put_in(settings: Settings, stays: list[MadeUp]) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        for id_ in institutions():
            await connection.execute(
                "INSERT INTO stream_progress (topic_id, source_partition, topic, institution, next_offset, updated_at, "
                "known_until) VALUES ($1, 0, 'x', $2, 1, $3, $3), ($1, 1, 'x', $2, 1, $3, $4)",
                uuid4(), id_, _END, _END - _DAY,
            )  # fmt: skip
        for one in stays:
            scored = None if one.probability is None else one.record
            at = _END - one.discharged * _DAY
            because = "died" if one.outcome == "censored" else None
            if scored is not None:
                await connection.execute(_SCORE, scored, one.institution, at, one.probability, _features(one.age))
            if one.challenged is not None:
                await connection.execute(_CHALLENGED, one.record, one.institution, at, one.challenged)
            await connection.execute(
                "INSERT INTO score_outcomes VALUES ($1, $2, $3, $4, $5, $6, NULL, $7, $4, $4)",
                one.institution, uuid4(), uuid4(), at, one.outcome, because, scored,
            )  # fmt: skip
    finally:
        await connection.close()


def _features(age: float | None) -> str:
    values = {name: float(number) for number, name in enumerate(FEATURE_NAMES)} | {"age_years": age}
    return json.dumps(values)


_SCORE = """
INSERT INTO risk_scores VALUES ($1, $2, gen_random_uuid(), gen_random_uuid(), 'version_id:1', 'final', true, $3, $3, $3,
    $4, 'low', 0.1, '{}', $5, 1, 'risk', '1', 'd', NULL, NULL, gen_random_uuid(), 0, 0, NULL, NULL)
"""
_CHALLENGED = """
INSERT INTO challenger_scores VALUES ($1, $2, gen_random_uuid(), gen_random_uuid(), $3, $3, $4, 'low', 'risk', '2', 'd')
"""


def test_the_view_gives_what_scikit_learn_gives(judged: tuple[Settings, list[MadeUp]]) -> None:
    settings, stays = judged
    found = {
        (row["institution"], row["role"]): row
        for row in fetch(settings, "SELECT * FROM model_performance_exact WHERE institution <> 'embl'")
    }
    assert found.keys() == {(id_, role) for id_ in ("dkfz", "ukhd") for role in ("champion", "challenger")}
    for (id_, role), row in found.items():
        own = [one for one in stays if one.institution == id_ and one.counts]
        both = [(one.probability if role == "champion" else one.challenged, one.outcome == "readmitted") for one in own]
        told = [(probability, came) for probability, came in both if probability is not None]
        probability, came = np.array([one for one, _ in told]), np.array([one for _, one in told])
        assert (row["outcomes"], row["readmitted"]) == (len(told), came.sum())
        assert row["model_version"] == ("1" if role == "champion" else "2")
        assert row["auroc"] == pytest.approx(roc_auc_score(came, probability), abs=1e-12)
        assert row["brier"] == pytest.approx(brier_score_loss(came, probability), abs=1e-12)
        assert row["observed_share"] == pytest.approx(came.mean())
        assert row["mean_probability"] == pytest.approx(probability.mean())
        assert row["calibration_ratio"] == pytest.approx(came.mean() / probability.mean())


def test_a_stay_is_judged_from_its_thirtieth_day_on_for_ninety_days(judged: tuple[Settings, list[MadeUp]]) -> None:
    [row] = fetch(judged[0], "SELECT * FROM model_performance_exact WHERE institution = 'embl'")
    assert (row["outcomes"], row["readmitted"], row["auroc"]) == (2, 2, None)


def test_thirty_days_are_as_long_in_every_session(judged: tuple[Settings, list[MadeUp]]) -> None:
    async def rows(zone: str) -> list[Any]:
        connection = await asyncpg.connect(judged[0].database_url, server_settings={"timezone": zone})
        try:
            return [
                tuple(one)
                for one in await connection.fetch("SELECT * FROM model_performance_exact ORDER BY 1, 2, 3, 4")
            ]
        finally:
            await connection.close()

    assert asyncio.run(rows("Europe/Berlin")) == asyncio.run(rows("UTC"))


def test_the_database_counts_features_into_bins_as_numpy_does(judged: tuple[Settings, list[MadeUp]]) -> None:
    settings, stays = judged
    own = sorted((one for one in stays if one.institution == "dkfz" and one.outcome != "censored"
                  and one.probability is not None), key=lambda one: one.discharged)[:250]  # fmt: skip
    ages = np.array([UNKNOWN if one.age is None else one.age for one in own], dtype=np.float32)
    edges = {"age_years": bins(ages[50:]).edges, "num_conditions": (0.5, 2.0, 2.5)}

    async def counted() -> dict[str, list[int]]:
        store = await connect(settings.database_url)
        try:
            return await store.count_features("dkfz", edges, 250)
        finally:
            await store.close()

    assert asyncio.run(counted()) == {
        "age_years": counts(ages, edges["age_years"]).tolist(), "num_conditions": [0, 0, 250, 0],
    }  # fmt: skip
