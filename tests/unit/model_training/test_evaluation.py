from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model_training.evaluation import Group, HeldOut, Kind, assess, evaluate, importance, stays_per_day
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.model import Floats, Thresholds
from tests.unit.model_training.datasets import dataset

GENDER, AGE = FEATURE_NAMES.index("gender_encoded"), FEATURE_NAMES.index("age_years")


def test_a_perfectly_calibrated_model_has_slope_one_and_intercept_zero() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.05, 0.6, 50_000)
    readmitted = rng.random(50_000) < probability
    evaluation = evaluate(probability, readmitted)
    assert (evaluation.calibration_slope, evaluation.calibration_intercept) == pytest.approx((1, 0), abs=0.06)
    assert evaluation.stays == 50_000
    assert evaluation.readmissions == readmitted.sum()


def test_an_overconfident_model_has_a_slope_below_one() -> None:
    rng = np.random.default_rng(2)
    logit = rng.normal(-2, 1, 50_000)
    readmitted = rng.random(50_000) < 1 / (1 + np.exp(-logit))
    assert evaluate(1 / (1 + np.exp(-2 * logit)), readmitted).calibration_slope == pytest.approx(0.5, abs=0.05)


def test_measures_on_four_stays_are_those_worked_out_by_hand() -> None:
    evaluation = evaluate(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    assert evaluation.auroc == pytest.approx(0.75)  # of four pairs, one is the wrong way round
    assert evaluation.auprc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert evaluation.brier == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert evaluation.prevalence == 0.5


def test_a_model_that_says_the_same_of_everybody_is_measured_and_not_an_error() -> None:
    evaluation = evaluate(np.full(10, 0.2), np.arange(10) < 2)
    assert evaluation.auroc == 0.5
    assert evaluation.calibration_slope == 0


# --- groups


def held_out(stays: int, seed: int = 1) -> HeldOut:
    some = dataset(seed, stays)
    rng = np.random.default_rng(seed)
    rows = some.rows.copy()
    rows[:2, GENDER] = 2.0
    return HeldOut(
        rows, score(rows), some.readmitted, some.persons, rng.choice(["dkfz", "embl"], stays), stays_per_day=8.0
    )


def score(rows: NDArray[np.float32]) -> Floats:
    return np.asarray(1 / (1 + np.exp(3.5 - 0.3 * rows[:, 2] - 0.5 * rows[:, 5])), dtype=np.float64)


@pytest.fixture(scope="module")
def groups() -> dict[str, Group]:
    return {str(group): group for group in assess(held_out(4000), Thresholds(0.1, 0.2), 1)}


def test_everybody_and_each_institution_gender_and_age_group_is_assessed(groups: dict[str, Group]) -> None:
    assert list(groups) == [
        "everybody",
        "institution dkfz",
        "institution embl",
        "gender female",
        "gender male",
        "gender other or unknown",
        "age group 18–44",
        "age group 45–64",
        "age group 65–79",
        "age group 80 and over",
        "age group unknown",
    ]


def test_a_group_that_is_too_small_gives_no_number_not_even_its_size(groups: dict[str, Group]) -> None:
    assert groups["gender other or unknown"].assessment is None


@pytest.mark.parametrize("kind", [Kind.INSTITUTION, Kind.AGE])
def test_the_groups_of_a_kind_share_out_the_stays_and_the_alerts(groups: dict[str, Group], kind: Kind) -> None:
    some = [one.assessment for one in groups.values() if one.kind is kind and one.assessment]
    everybody = groups["everybody"].assessment
    assert everybody is not None
    assert sum(one.evaluation.stays for one in some) == everybody.evaluation.stays == 4000
    assert sum(one.high.alerts_per_day for one in some) == pytest.approx(everybody.high.alerts_per_day)


@pytest.mark.parametrize(
    ("age", "name"),
    [(0, "under 18"), (17, "under 18"), (18, "18–44"), (44, "18–44"), (45, "45–64"), (79, "65–79"), (80, "80 and over"),
     (110, "80 and over"), (UNKNOWN, "unknown")],
)  # fmt: skip
def test_an_age_belongs_to_one_group(age: float, name: str) -> None:
    whole = held_out(100)
    whole.rows[:, AGE] = age
    assert [one.name for one in assess(whole, Thresholds(0.1, 0.2), 1) if one.kind is Kind.AGE] == [name]


def test_nine_readmissions_are_too_few_and_ten_are_enough() -> None:
    whole = held_out(300)
    for readmissions, told in ((9, False), (10, True)):
        some = replace(whole, readmitted=np.arange(300) < readmissions)
        assert (assess(some, Thresholds(0.1, 0.2), 1)[0].assessment is not None) is told


# --- importance


def test_features_that_the_model_uses_are_the_important_ones() -> None:
    found = {one.feature: one for one in importance(held_out(4000), score, 1)}
    assert set(list(found)[:2]) == {"num_conditions", "prior_inpatient_stays_365d"}
    assert found["num_conditions"].auroc_drop > 0.02
    assert {one.auroc_drop for name, one in found.items() if name not in list(found)[:2]} == {0.0}
    assert list(found.values()) == list(importance(held_out(4000), score, 1))


def test_stays_a_day_are_those_of_everybody_in_the_time() -> None:
    days = np.arange("2024-01-01", "2024-03-01", dtype="datetime64[D]").astype("datetime64[us]")
    assert stays_per_day(np.repeat(days, 3), (days[10], days[30])) == pytest.approx(3 * 21 / 20)


def test_metrics_are_numbers_by_name() -> None:
    found = evaluate(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])).metrics()
    assert {"auroc", "auroc_low", "auroc_high", "calibration_slope_low", "observed_to_expected"} <= found.keys()
    assert all(isinstance(value, float | int) for value in found.values())
