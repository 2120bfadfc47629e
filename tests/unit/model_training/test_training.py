from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_training.evaluation import evaluate
from model_training.search import SHAPES, raw_probability
from model_training.splitting import Split
from model_training.training import choose_thresholds, fit
from schemas.errors import NotEnoughStaysError
from schemas.messages import Band
from tests.unit.model_training.datasets import dataset, dealt


@pytest.fixture(scope="module")
def split() -> Split:
    return dealt(dataset(1, 8000), 3)


def test_held_out_persons_are_ranked_and_calibrated(split: Split) -> None:
    fitted = fit(split, 3, budget_s=0)
    probability = fitted.calibration(raw_probability(fitted.forest, split.test.rows))
    evaluation = evaluate(probability, split.test.readmitted)
    assert evaluation.auroc > 0.66
    assert probability.mean() == pytest.approx(split.test.prevalence, abs=0.03)
    assert evaluation.brier < split.test.prevalence * (1 - split.test.prevalence)
    assert [one.shape for one in fitted.search] == [SHAPES[0]]
    assert fitted.parameters["min_samples_leaf"] == SHAPES[0].min_samples_leaf
    assert fitted.parameters["n_estimators"] == 100


def test_the_same_seed_gives_the_same_model() -> None:
    split = dealt(dataset(5, 1500), 1)
    one, again, other = (fit(split, seed, budget_s=0) for seed in (7, 7, 8))
    rows = split.test.rows
    assert np.array_equal(raw_probability(one.forest, rows), raw_probability(again.forest, rows))
    assert (one.calibration, one.search) == (again.calibration, again.search)
    assert not np.array_equal(raw_probability(one.forest, rows), raw_probability(other.forest, rows))


@pytest.mark.parametrize("readmitted", [True, False])
def test_one_class_alone_is_refused(split: Split, readmitted: bool) -> None:
    parts = [part.where(part.readmitted == readmitted) for part in (split.fit, split.calibrate, split.test)]
    with pytest.raises(NotEnoughStaysError, match="not enough stays"):
        fit(Split(parts[0], parts[1], parts[2]), 1)


@given(st.floats(0.01, 0.99))
def test_bands_rise_with_the_risk_and_the_highest_can_be_reached(prevalence: float) -> None:
    thresholds = choose_thresholds(prevalence)
    assert 0 < thresholds.medium < thresholds.high < 1
    assert thresholds.band(prevalence / 2) is Band.LOW
    assert thresholds.band(prevalence) is Band.MEDIUM
    assert thresholds.band(1.0) is Band.HIGH
