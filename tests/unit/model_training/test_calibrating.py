from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.models import from_bytes
from model_training.calibrating import MAX_STEEPNESS, calibrate, fit_isotonic, fit_sigmoid
from model_training.dataset import Dataset
from model_training.forest_onnx import build, raw_baseline
from model_training.search import SHAPES, fit_forest, raw_probability
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import Floats, Isotonic, ModelCard, Sigmoid, Thresholds, explain
from tests.unit.model_training.datasets import START, dataset, dealt


def stays(readmitted: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Dataset:
    n = len(readmitted)
    rows = np.zeros((n, len(FEATURE_NAMES)), dtype=np.float32)
    return Dataset(rows, readmitted, np.arange(n).astype("S16"), np.full(n, "dkfz"), np.full(n, START))


def outcomes(raw: Floats, risk: Floats) -> Dataset:
    return stays(np.random.default_rng(6).random(len(raw)) < risk)


RAW = np.random.default_rng(5).uniform(0, 1, 40_000)


def test_outcomes_along_a_sigmoid_give_that_sigmoid() -> None:
    calibration = calibrate(RAW, outcomes(RAW, 1 / (1 + np.exp(-(4 * RAW - 3)))), 1)
    assert isinstance(calibration, Sigmoid)
    assert (calibration.slope, calibration.intercept) == pytest.approx((4, -3), abs=0.15)


def test_outcomes_along_another_curve_give_that_curve() -> None:
    risk = np.where(RAW < 0.5, 0.1, np.where(RAW < 0.8, 0.1 + (RAW - 0.5), 0.4))
    calibration = calibrate(RAW, outcomes(RAW, risk), 1)
    assert isinstance(calibration, Isotonic)
    assert np.abs(calibration(RAW) - risk).max() < 0.06
    assert np.abs(calibration(RAW) - risk).mean() < 0.01


def test_a_score_that_ranks_the_wrong_way_round_is_flattened_to_the_prevalence() -> None:
    raw = np.linspace(0, 1, 100)
    for calibration in (fit_sigmoid(raw, raw < 0.3), calibrate(raw, stays(raw < 0.3), 1)):
        assert isinstance(calibration, Sigmoid)
        assert calibration.slope == 0
        assert calibration(raw) == pytest.approx(np.full(100, 0.3))


def test_halves_of_one_class_leave_it_at_the_sigmoid() -> None:
    raw = np.linspace(0, 1, 300)
    assert isinstance(calibrate(raw, stays(raw >= raw[-1]), 1), Sigmoid)


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.1 + 1e-12, 0.2, 0.5, 0.9]), st.booleans()), min_size=2, max_size=400),
    st.integers(1, 30),
)
def test_a_curve_never_falls_is_never_too_steep_and_promises_nothing_for_certain(
    observed: list[tuple[float, bool]], repeats: int
) -> None:
    raw = np.array([one for one, _ in observed] * repeats)
    readmitted = np.array([one for _, one in observed] * repeats)
    curve = fit_isotonic(raw, readmitted)
    knots, values = np.array(curve.raw), np.array(curve.calibrated)
    assert len(curve.raw) == len(curve.calibrated) <= 100
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) >= -1e-12).all()
    assert (np.diff(values) <= MAX_STEEPNESS * np.diff(knots) + 1e-12).all()
    if readmitted.any() and not readmitted.all():
        assert ((values > 0) & (values < 1)).all()


def test_every_knot_stands_for_many_stays_however_the_scores_are_tied() -> None:
    points = np.repeat([0.0, 1.0, 2.0, 3.0], [1000, 30, 30, 500])
    curve = fit_isotonic(points, np.random.default_rng(1).random(len(points)) < 0.1 + 0.1 * points)
    assert len(curve.raw) <= 3
    assert {0.0, 3.0} & set(curve.raw)


def test_contributions_of_a_fitted_forest_stay_bounded_and_add_up_under_an_isotonic_curve() -> None:
    split = dealt(dataset(1, 6000), 1)
    forest = fit_forest(split.fit, SHAPES[0], 1)
    curve = fit_isotonic(raw_probability(forest, split.calibrate.rows), split.calibrate.readmitted)
    assert len(curve.raw) > 5
    card = ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=raw_baseline(forest),
        calibration=curve,
        thresholds=Thresholds(0.1, 0.2),
    )
    model = from_bytes(build(forest, card), name="m", version="1")
    explained = explain(model, split.test.rows)
    assert explained.baseline + explained.contributions.sum(axis=1) == pytest.approx(explained.probability, abs=1e-12)
    own = np.abs(model.contributions(split.test.rows))
    assert (np.abs(explained.contributions) <= MAX_STEEPNESS * own + 1e-12).all()
    assert np.abs(explained.contributions).max() < 1
