from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_training.dataset import Dataset
from model_training.evaluation import evaluate
from model_training.splitting import split_by_patient_and_time
from model_training.training import (
    calibrate,
    choose_thresholds,
    fit,
    raw_probability,
)
from schemas.messages import Band
from schemas.model import Sigmoid
from tests.unit.model_training.stays import dataset_of, simulated


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return dataset_of(simulated(1, 5000))


def test_held_out_patients_are_ranked_and_calibrated(dataset: Dataset) -> None:
    split = split_by_patient_and_time(dataset, 3)
    fitted = fit(split, 3)
    probability = fitted.calibration(raw_probability(fitted.forest, split.test.rows))
    evaluation = evaluate(probability, split.test.readmitted)
    assert evaluation.auroc > 0.68
    assert probability.mean() == pytest.approx(split.test.prevalence, abs=0.03)
    assert evaluation.brier < split.test.prevalence * (1 - split.test.prevalence)


def test_the_same_seed_gives_the_same_model(dataset: Dataset) -> None:
    part = dataset.where(np.arange(len(dataset)) < 2000)
    one, again, other = (fit(split_by_patient_and_time(part, 1), seed) for seed in (7, 7, 8))
    rows = dataset.rows[:200]
    assert np.array_equal(raw_probability(one.forest, rows), raw_probability(again.forest, rows))
    assert one.calibration == again.calibration
    assert not np.array_equal(raw_probability(one.forest, rows), raw_probability(other.forest, rows))


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
