from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from connectors.models import from_bytes
from model_training.forest_onnx import build, require_agreement
from model_training.forests import Forest, as_forest
from model_training.search import SHAPES, fit_forest, raw_probability
from schemas.errors import ModelRefusedError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import ModelCard, Sigmoid, Thresholds
from tests.unit.model_training.datasets import dataset

WHOLE = dataset(1, 3000)


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    return fit_forest(WHOLE, SHAPES[0], 1)


def test_arrays_say_what_scikit_learn_says(forest: RandomForestClassifier) -> None:
    arrays = as_forest(forest)
    assert np.abs(arrays.probability(WHOLE.rows) - raw_probability(forest, WHOLE.rows)).max() < 1e-12
    assert arrays.probability(WHOLE.rows[:0]).shape == (0,)


def test_weighed_trees_are_written_as_they_weigh(forest: RandomForestClassifier) -> None:
    trees = as_forest(forest).trees[:3]
    weighed = Forest(trees, np.array([0.7, 0.2, 0.1]), len(FEATURE_NAMES))
    card = ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=weighed.baseline,
        calibration=Sigmoid(4.0, -3.0),
        thresholds=Thresholds(0.1, 0.2),
    )
    model = from_bytes(build(weighed, card), name="m", version="1")
    assert require_agreement(model, weighed, WHOLE.rows) < 1e-6
    assert weighed.probability(WHOLE.rows) == pytest.approx(
        sum(w * tree.leaf_probability(WHOLE.rows) for w, tree in zip([0.7, 0.2, 0.1], trees, strict=True))
    )
    with pytest.raises(ModelRefusedError, match="differs from the forest"):
        require_agreement(model, Forest(trees, np.full(3, 1 / 3), len(FEATURE_NAMES)), WHOLE.rows)
