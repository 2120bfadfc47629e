"""A forest as arrays: what an ONNX file is written from, what institutions hand over, and how it is evaluated: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from schemas.model import Floats

_LEAF = -1


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A tree as arrays over its nodes, [nodes], the root first.

    feature, threshold: a row goes left where its feature is not above the threshold. left, right: the children, -1 at
    a leaf. probability: a node's share of readmissions as the forest weighs it.
    """

    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    probability: Floats

    def leaf_probability(self, rows: NDArray[np.float32]) -> Floats:
        """Return the probability of each row's leaf, [n], for rows [n, features]."""
        node = np.zeros(len(rows), dtype=np.int64)
        going = np.arange(len(rows)) if self.left[0] != _LEAF else np.arange(0)
        while len(going):
            at = node[going]
            is_left = rows[going, self.feature[at]] <= self.threshold[at]
            node[going] = np.where(is_left, self.left[at], self.right[at])
            going = going[self.left[node[going]] != _LEAF]
        return self.probability[node]


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trees over the same `n_features`, and how much each counts; the weights, [trees], add up to 1."""

    trees: Sequence[Tree]
    weights: Floats
    n_features: int

    @property
    def baseline(self) -> float:
        """The probability before any feature is looked at: the mean of the trees' roots."""
        return float(sum(weight * tree.probability[0] for tree, weight in zip(self.trees, self.weights, strict=True)))

    def probability(self, rows: NDArray[np.float32]) -> Floats:
        """Return the uncalibrated probability of a readmission, [n], for rows [n, features]."""
        total = np.zeros(len(rows))
        for tree, weight in zip(self.trees, self.weights, strict=True):
            total += weight * tree.leaf_probability(rows)
        return total


def as_forest(forest: RandomForestClassifier | Forest) -> Forest:
    """Return a forest of a yes-or-no question as arrays."""
    if isinstance(forest, Forest):
        return forest
    trees = [_tree(estimator.tree_) for estimator in forest.estimators_]
    return Forest(trees, np.full(len(trees), 1 / len(trees)), int(forest.n_features_in_))


# `tree` is scikit-learn's sklearn.tree._tree.Tree, which has no types.
def _tree(tree) -> Tree:  # type: ignore[no-untyped-def]
    shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
    return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, shares[:, 1])
