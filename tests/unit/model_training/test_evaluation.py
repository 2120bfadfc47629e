from __future__ import annotations

import numpy as np
import pytest

from model_training.evaluation import evaluate


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
