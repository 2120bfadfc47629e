from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.ensemble import RandomForestClassifier

from connectors.models import OnnxModel, from_bytes
from model_training.dataset import Dataset
from model_training.forest_onnx import build, raw_baseline, require_agreement, round_down
from model_training.search import SHAPES, fit_forest, raw_probability
from schemas.errors import ModelRefusedError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import ModelCard, Sigmoid, Thresholds, explain
from tests.unit.model_training.datasets import dataset as simulated

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def card_of(forest: RandomForestClassifier) -> ModelCard:
    return ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=raw_baseline(forest),
        calibration=Sigmoid(4.0, -3.0),
        thresholds=Thresholds(0.1, 0.2),
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return simulated(1, 6000)


@pytest.fixture(scope="module")
def forest(dataset: Dataset) -> RandomForestClassifier:
    return fit_forest(dataset, SHAPES[0], 1)


@pytest.fixture(scope="module")
def model(forest: RandomForestClassifier) -> OnnxModel:
    return from_bytes(build(forest, card_of(forest)), name="m", version="1")


def test_baseline_and_contributions_add_up_to_the_forests_probability(
    model: OnnxModel, forest: RandomForestClassifier, dataset: Dataset
) -> None:
    raw = model.card.raw_baseline + model.contributions(dataset.rows).sum(axis=1)
    assert np.abs(raw - raw_probability(forest, dataset.rows)).max() < 1e-6
    assert require_agreement(model, forest, dataset.rows) < 1e-6


def test_onnx_and_sklearn_agree_on_the_thresholds_themselves_and_their_neighbours(
    model: OnnxModel, forest: RandomForestClassifier
) -> None:
    splits = [
        (feature, threshold)
        for tree in forest.estimators_
        for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True)
        if feature >= 0
    ]
    rows = np.full((len(splits), len(FEATURE_NAMES)), 3.0, dtype=np.float32)
    for row, (feature, threshold) in zip(rows, splits, strict=True):
        row[feature] = np.float32(threshold)
    for neighbour in (rows, np.nextafter(rows, np.float32(np.inf)), np.nextafter(rows, np.float32(-np.inf))):
        require_agreement(model, forest, neighbour)


@given(rows=hnp.arrays(np.float32, (3, len(FEATURE_NAMES)), elements=FLOATS))
def test_contributions_add_up_for_any_row_even_an_absurd_one(
    model: OnnxModel, forest: RandomForestClassifier, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    require_agreement(model, forest, rows)
    explained = explain(model, rows)
    assert explained.baseline + explained.contributions.sum(axis=1) == pytest.approx(explained.probability, abs=1e-9)


def test_a_row_scores_the_same_alone_and_in_a_full_batch(model: OnnxModel, dataset: Dataset) -> None:
    rows = dataset.rows[:500]
    together = model.contributions(rows)
    alone = np.concatenate([model.contributions(row[None]) for row in rows])
    assert np.array_equal(together, alone)
    assert model.contributions(rows[:0]).shape == (0, len(FEATURE_NAMES))


def test_a_feature_that_no_split_looks_at_contributes_nothing(dataset: Dataset) -> None:
    rows = dataset.rows.copy()
    rows[:, 4] = 1.0
    forest = RandomForestClassifier(n_estimators=5, max_depth=3, random_state=1).fit(rows, dataset.readmitted)
    contributions = from_bytes(build(forest, card_of(forest)), name="m", version="1").contributions(rows)
    assert not contributions[:, 4].any()
    assert contributions.any()


def test_a_forest_that_could_not_split_says_its_baseline() -> None:
    rows = np.zeros((40, len(FEATURE_NAMES)), dtype=np.float32)
    forest = RandomForestClassifier(n_estimators=3, random_state=1).fit(rows, np.arange(40) < 10)
    model = from_bytes(build(forest, card_of(forest)), name="m", version="1")
    assert not model.contributions(rows).any()
    require_agreement(model, forest, rows)


def test_trees_stay_small_and_the_file_is_reproducible(forest: RandomForestClassifier) -> None:
    assert max(tree.get_n_leaves() for tree in forest.estimators_) <= 150
    assert build(forest, card_of(forest)) == build(forest, card_of(forest))


def test_a_file_that_differs_from_its_forest_is_refused(
    model: OnnxModel, forest: RandomForestClassifier, dataset: Dataset
) -> None:
    proto = onnx.load_from_string(build(forest, card_of(forest)))
    weights = next(one for one in proto.graph.node[0].attribute if one.name == "target_weights")
    weights.floats[:] = [weight + 0.001 for weight in weights.floats]
    other = from_bytes(proto.SerializeToString(), name="m", version="1")
    with pytest.raises(ModelRefusedError, match="differs from the forest"):
        require_agreement(other, forest, dataset.rows)


@given(st.floats(-1e30, 1e30), FLOATS)
def test_a_rounded_threshold_splits_as_the_exact_one(threshold: float, x: float) -> None:
    assert (x <= threshold) == (x <= round_down(threshold))


@given(FLOATS)
def test_a_threshold_that_is_a_float32_stays(threshold: float) -> None:
    assert round_down(threshold) == threshold
