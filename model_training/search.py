"""Which shape of tree ranks persons best that the forest has not seen: cross-validated, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from model_training.dataset import Dataset
from model_training.folds import deal_persons, every_fold_tells, sample_persons
from schemas.model import Floats

TREES = 100
SEARCH_BUDGET_S = 120.0

_FOLDS = 3
# Shapes differ by less than this many stays' noise, and more would cost minutes a shape.
_MAX_STAYS = 50_000


@dataclass(frozen=True, slots=True)
class TreeShape:
    """How far trees grow; leaves are bounded throughout, since a worker explains by looking leaves up."""

    max_depth: int
    min_samples_leaf: int
    max_leaf_nodes: int = 128


@dataclass(frozen=True, slots=True)
class Tried:
    """A shape and the mean AUROC over the folds of the forests that had it."""

    shape: TreeShape
    auroc: float


# The best guess first, since the budget may end the search after it. No leaf stands for fewer than ten stays
# (`model_training.federation` hands trees over).
SHAPES = (
    TreeShape(10, 20),
    TreeShape(10, 100),
    TreeShape(7, 50),
    TreeShape(5, 20),
    TreeShape(10, 50),
    TreeShape(10, 300),
    TreeShape(7, 200),
)


def unfitted_forest(shape: TreeShape, seed: int, trees: int = TREES) -> RandomForestClassifier:
    """Make the forest to be fitted; it uses the processors, or the cluster, of joblib's current backend."""
    return RandomForestClassifier(
        n_estimators=trees, class_weight="balanced", **asdict(shape), random_state=seed, n_jobs=-1
    )


def raw_probability(forest: RandomForestClassifier, rows: NDArray[np.float32]) -> Floats:
    """Return the forest's uncalibrated probability of a readmission, [n], for rows [n, features]."""
    return np.asarray(forest.predict_proba(rows)[:, 1], dtype=np.float64)


def fit_forest(dataset: Dataset, shape: TreeShape, seed: int) -> RandomForestClassifier:
    """Fit a forest; the same stays, shape and seed give the same trees, wherever they are fitted."""
    forest = unfitted_forest(shape, seed).fit(dataset.rows, dataset.readmitted)
    return forest.set_params(n_jobs=1)  # several threads would sum the trees' answers in an order that varies


def search(
    dataset: Dataset,
    seed: int,
    budget_s: float = SEARCH_BUDGET_S,
    shapes: Sequence[TreeShape] = SHAPES,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Tried, ...]:
    """Try the shapes in order until all are tried or the next one would not end within `budget_s` seconds.

    The first is tried in any case. Folds hold whole persons; of large data, those of a sample are tried. Nothing is
    tried where a fold would hold stays of one class only.
    """
    sample = sample_persons(dataset, _MAX_STAYS, seed)
    fold = deal_persons(sample, _FOLDS, seed)
    if not every_fold_tells(sample, fold, _FOLDS):
        return ()
    began = clock()
    tried: list[Tried] = []
    for shape in shapes:
        if tried and (clock() - began) * (1 + 1 / len(tried)) > budget_s:
            break
        tried.append(Tried(shape, _auroc(sample, fold, shape, seed)))
    return tuple(tried)


def best(tried: Sequence[Tried]) -> TreeShape:
    """Return the shape of the highest AUROC, of equals the earliest; the first of all where none was tried."""
    return max(tried, key=lambda one: one.auroc).shape if tried else SHAPES[0]


def _auroc(dataset: Dataset, fold: NDArray[np.int64], shape: TreeShape, seed: int) -> float:
    measured = []
    for number in range(_FOLDS):
        forest = fit_forest(dataset.where(fold != number), shape, seed)
        held_out = dataset.where(fold == number)
        measured.append(roc_auc_score(held_out.readmitted, raw_probability(forest, held_out.rows)))
    return float(np.mean(measured))
