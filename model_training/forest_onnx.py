"""A fitted forest as an ONNX file that explains itself: one tree ensemble whose outputs are path attributions.

Going down a tree, each split moves the expected probability from its node's value to its child's; the move is
credited to the feature that was split on (Saabas, https://github.com/andosa/treeinterpreter). A leaf holds the sums
of its path for every feature, so that explaining costs no more than scoring, and root + sums = the leaf's value.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier

from model_training.forests import Forest, Tree, as_forest
from schemas.errors import ModelRefusedError
from schemas.model import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, Floats, Model, ModelCard

# Old enough for every ONNX runtime this project allows.
_IR_VERSION = 10
_OPSETS = {"ai.onnx.ml": 3, "": 17}

_TOLERANCE = 1e-5
_BATCH = 500  # a worker's micro-batch


@dataclass(slots=True)
class _Attributes:
    """The attributes of a TreeEnsembleRegressor, filled node by node."""

    lists: dict[str, list[int | float | str]] = field(default_factory=lambda: defaultdict(list))

    def node(self, **values: int | float | str) -> None:
        for name, value in values.items():
            self.lists[f"nodes_{name}"].append(value)

    def target(self, **values: int | float) -> None:
        for name, value in values.items():
            self.lists[f"target_{name}"].append(value)


def raw_baseline(forest: RandomForestClassifier | Forest) -> float:
    """Return the forest's probability before it looks at any feature: the mean of its trees' roots."""
    return as_forest(forest).baseline


def build(forest: RandomForestClassifier | Forest, card: ModelCard) -> bytes:
    """Write a forest of a yes-or-no question and its card as an ONNX file (`schemas.model`).

    The same forest and card give the same bytes.
    """
    arrays = as_forest(forest)
    n_features = arrays.n_features
    attributes = _Attributes()
    for tree_id, (tree, weight) in enumerate(zip(arrays.trees, arrays.weights, strict=True)):
        _add_tree(attributes, tree_id, tree, float(weight), n_features)
    node = helper.make_node("TreeEnsembleRegressor", [INPUT_NAME], [OUTPUT_NAME], domain="ai.onnx.ml")
    whole = {"n_targets": n_features, "aggregate_function": "SUM", "post_transform": "NONE"}
    node.attribute.extend(helper.make_attribute(name, value) for name, value in (whole | attributes.lists).items())
    arguments = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n_features]) for name in (INPUT_NAME, OUTPUT_NAME)
    ]
    graph = helper.make_graph([node], "readmission_risk", arguments[:1], arguments[1:])
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="healthalliance")
    helper.set_model_props(model, {METADATA_KEY: msgspec.json.encode(card).decode()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def require_agreement(model: Model, forest: RandomForestClassifier | Forest, rows: NDArray[np.float32]) -> float:
    """Return the largest difference between model and forest over rows [n, features], at least one.

    Compared is what scikit-learn says of its own forest, and numpy of one that was put together.
    Raises ModelRefusedError where they differ by more than 1e-5 in any row, or where one of the first 500 scored
    alone is not, bit by bit, what it is among the others.
    """
    together = [model.contributions(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    contributions = np.concatenate(together)
    raw = model.card.raw_baseline + contributions.sum(axis=1)
    difference = float(np.abs(raw - _expected(forest, rows)).max())
    if not difference <= _TOLERANCE:
        raise ModelRefusedError(f"The ONNX file differs from the forest by {difference:.1e}; it is not registered.")
    for index, row in enumerate(rows[:_BATCH]):
        if not np.array_equal(model.contributions(row[None]), contributions[index : index + 1]):
            raise ModelRefusedError("The ONNX file scores a stay alone otherwise than among others; not registered.")
    return difference


def _expected(forest: RandomForestClassifier | Forest, rows: NDArray[np.float32]) -> Floats:
    if isinstance(forest, Forest):
        return forest.probability(rows)
    return np.asarray(forest.predict_proba(rows)[:, 1], dtype=np.float64)


def round_down(threshold: float) -> float:
    """Return the largest float32 that is not above a threshold.

    For every float32 x, `x <= threshold` and `x <= round_down(threshold)` agree, so that ONNX's float32 thresholds
    split as sklearn's float64 ones do; the nearest float32 may lie above and would not.

    >>> round_down(0.1) <= 0.1
    True
    """
    nearest = np.float32(threshold)
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


def _add_tree(attributes: _Attributes, tree_id: int, tree: Tree, weight: float, n_features: int) -> None:
    stack = [(0, np.zeros(n_features))]
    while stack:
        node, moves = stack.pop()
        left, right = int(tree.left[node]), int(tree.right[node])
        if left < 0:
            _add_leaf(attributes, tree_id, node, moves * weight)
            continue
        _add_split(attributes, tree_id, tree, node)
        for child in (right, left):
            moved = moves.copy()
            moved[tree.feature[node]] += tree.probability[child] - tree.probability[node]
            stack.append((child, moved))


def _add_split(attributes: _Attributes, tree_id: int, tree: Tree, node: int) -> None:
    attributes.node(
        treeids=tree_id,
        nodeids=node,
        modes="BRANCH_LEQ",
        featureids=int(tree.feature[node]),
        values=round_down(float(tree.threshold[node])),
        truenodeids=int(tree.left[node]),
        falsenodeids=int(tree.right[node]),
    )


def _add_leaf(attributes: _Attributes, tree_id: int, node: int, moves: Floats) -> None:
    attributes.node(
        treeids=tree_id, nodeids=node, modes="LEAF", featureids=0, values=0.0, truenodeids=0, falsenodeids=0
    )
    # Every leaf needs a weight, even one whose path moved nothing.
    for feature in np.flatnonzero(moves) if moves.any() else (0,):
        attributes.target(treeids=tree_id, nodeids=node, ids=int(feature), weights=float(moves[feature]))
