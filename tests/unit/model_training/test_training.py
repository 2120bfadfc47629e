from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_training.dataset import Dataset, assemble
from model_training.evaluation import evaluate
from model_training.labels import LabelledStay, label
from model_training.training import (
    calibrate,
    choose_thresholds,
    fit,
    raw_probability,
    require_enough,
    split_by_patient,
)
from schemas.errors import NotEnoughStaysError
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.messages import Band
from schemas.model import Sigmoid
from tests.unit.model_training.stays import features, simulated, stay


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return assemble(label(simulated(1, 5000)).stays)


def test_rows_are_the_features_in_order_with_unknown_below_every_real_value() -> None:
    facts = features(age_years=None, length_of_stay_days=2.5)
    dataset = assemble([LabelledStay(stay("a", 0, 5, facts=facts), True)])
    assert dataset.rows.dtype == np.float32
    assert dict(zip(FEATURE_NAMES, dataset.rows[0], strict=True)) == {**vars(facts), "age_years": UNKNOWN}
    assert dataset.readmitted.tolist() == [True]


def test_no_stays_make_an_empty_dataset_with_all_its_columns() -> None:
    assert assemble([]).rows.shape == (0, len(FEATURE_NAMES))


@given(st.lists(st.text("abcdef", min_size=1, max_size=2), max_size=60), st.integers(0, 2**32 - 1))
def test_no_patient_is_on_two_sides_and_no_stay_is_lost(patients: list[str], seed: int) -> None:
    n = len(patients)
    rows = np.arange(n, dtype=np.float32)[:, None].repeat(len(FEATURE_NAMES), axis=1)
    dataset = Dataset(rows, np.zeros(n, dtype=np.bool_), np.array(patients, dtype=np.str_))
    split = split_by_patient(dataset, seed)
    parts = (split.fit, split.calibrate, split.test)
    sides = [set(part.patients.tolist()) for part in parts]
    assert sides[0].isdisjoint(sides[1] | sides[2])
    assert sides[1].isdisjoint(sides[2])
    assert sorted(np.concatenate([part.rows[:, 0] for part in parts]).tolist()) == list(range(n))


@given(st.permutations(range(20)), st.integers(0, 1000))
def test_who_goes_where_does_not_depend_on_the_order_of_stays(order: list[int], seed: int) -> None:
    patients = np.array([f"p{number % 7}" for number in range(20)], dtype=np.str_)
    rows = np.zeros((20, len(FEATURE_NAMES)), dtype=np.float32)
    readmitted = np.zeros(20, dtype=np.bool_)
    split = split_by_patient(Dataset(rows, readmitted, patients), seed)
    shuffled = split_by_patient(Dataset(rows, readmitted, patients[order]), seed)
    assert set(split.test.patients.tolist()) == set(shuffled.test.patients.tolist())


def test_the_split_is_about_as_large_as_meant(dataset: Dataset) -> None:
    split = split_by_patient(dataset, 1)
    shares = [len(part) / len(dataset) for part in (split.fit, split.calibrate, split.test)]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_held_out_patients_are_ranked_and_calibrated(dataset: Dataset) -> None:
    split = split_by_patient(dataset, 3)
    fitted = fit(split, 3)
    probability = fitted.calibration(raw_probability(fitted.forest, split.test.rows))
    evaluation = evaluate(probability, split.test.readmitted)
    assert evaluation.auroc > 0.68
    assert probability.mean() == pytest.approx(split.test.prevalence, abs=0.03)
    assert evaluation.brier < split.test.prevalence * (1 - split.test.prevalence)


def test_shuffled_labels_teach_nothing() -> None:
    dataset = assemble(label(simulated(2, 15000)).stays)
    shuffled = np.random.default_rng(4).permutation(dataset.readmitted)
    split = split_by_patient(Dataset(dataset.rows, shuffled, dataset.patients), 4)
    raw = raw_probability(fit(split, 4).forest, split.test.rows)
    assert evaluate(raw, split.test.readmitted).auroc == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_gives_the_same_model(dataset: Dataset) -> None:
    part = dataset.where(np.arange(len(dataset)) < 2000)
    one, again, other = (fit(split_by_patient(part, 1), seed) for seed in (7, 7, 8))
    rows = dataset.rows[:200]
    assert np.array_equal(raw_probability(one.forest, rows), raw_probability(again.forest, rows))
    assert one.calibration == again.calibration
    assert not np.array_equal(raw_probability(one.forest, rows), raw_probability(other.forest, rows))


@pytest.mark.parametrize("readmitted", [True, False])
def test_one_class_alone_is_refused(dataset: Dataset, readmitted: bool) -> None:
    with pytest.raises(NotEnoughStaysError, match="not enough stays"):
        fit(split_by_patient(dataset.where(dataset.readmitted == readmitted), 1), 1)


def test_too_few_stays_are_refused(dataset: Dataset) -> None:
    few = dataset.where(np.arange(len(dataset)) < 60)
    for stays in (few, assemble([])):
        with pytest.raises(NotEnoughStaysError, match="each of three parts needs 10 of both"):
            require_enough(split_by_patient(stays, 1))


def test_calibration_recovers_the_sigmoid_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(5)
    raw = rng.uniform(0, 1, 40_000)
    readmitted = rng.random(40_000) < 1 / (1 + np.exp(-(4 * raw - 3)))
    calibration = calibrate(raw, readmitted)
    assert isinstance(calibration, Sigmoid)
    assert (calibration.slope, calibration.intercept) == pytest.approx((4, -3), abs=0.15)


def test_a_forest_that_ranks_the_wrong_way_round_is_flattened_to_the_prevalence() -> None:
    raw = np.linspace(0, 1, 100)
    calibration = calibrate(raw, raw < 0.3)
    assert isinstance(calibration, Sigmoid)
    assert calibration.slope == 0
    assert calibration(raw) == pytest.approx(np.full(100, 0.3))


@given(st.floats(0.01, 0.99))
def test_bands_rise_with_the_risk_and_the_highest_can_be_reached(prevalence: float) -> None:
    thresholds = choose_thresholds(prevalence)
    assert 0 < thresholds.medium < thresholds.high < 1
    assert thresholds.band(prevalence / 2) is Band.LOW
    assert thresholds.band(prevalence) is Band.MEDIUM
    assert thresholds.band(1.0) is Band.HIGH
