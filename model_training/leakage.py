"""Signs that a feature knows what only the future can tell: pure.

No check can prove that there is none. Those here find what a mistake in featurizing leaves most often: a feature that
alone says more than whole models do, and features that hold for a later time than the discharge.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from model_training.columns import microseconds
from model_training.dataset import Dataset
from model_training.labels import Labels
from model_training.splitting import Split
from schemas.errors import LeakageError
from schemas.features import FEATURE_NAMES

# Whole models of readmission reach 0.55 to 0.83 (doi:10.1001/jama.2011.1515).
HIGHEST_OF_ONE_FEATURE = 0.85

# Of the normal distribution: chance alone exceeds the limit on one feature of a thousand at most.
_DEVIATIONS = 3.0
_LEAVES = 16
_FEWEST_IN_A_LEAF = 20


def require_judged_at_discharge(table: pa.Table, labels: Labels) -> None:
    """Raise LeakageError if an index stay's features hold for a time after its discharge."""
    stays = table.select(["as_of", "discharged_at"]).take(pa.array(labels.rows))
    late = int((microseconds(stays, "as_of", 0) > microseconds(stays, "discharged_at", 0)).sum())
    if late:
        raise LeakageError(f"The features of {late} stays hold for a time after their discharge.")


def require_no_leak(split: Split) -> None:
    """Raise LeakageError if a feature alone tells held-out readmissions better than is plausible.

    Each part must hold stays of both classes.
    """
    for name, (auroc, error) in single_feature_aurocs(split).items():
        if auroc - _DEVIATIONS * error > HIGHEST_OF_ONE_FEATURE:
            raise LeakageError(
                f"{name} alone tells held-out readmissions with an AUROC of {auroc:.3f}, above "
                f"{HIGHEST_OF_ONE_FEATURE}: it seems to know what comes after the discharge."
            )


def single_feature_aurocs(split: Split) -> Mapping[str, tuple[float, float]]:
    """Return each feature's AUROC alone and its standard error, on the stays that are not fitted on.

    A small tree of the one feature ranks them, so that a rise and fall counts like a slope.
    """
    parts = (split.calibrate, split.test)
    rows = np.concatenate([part.rows for part in parts])
    readmitted = np.concatenate([part.readmitted for part in parts])
    found = {}
    for number, name in enumerate(FEATURE_NAMES):
        ranked = _tree(split.fit, number).predict_proba(rows[:, [number]])[:, 1]
        auroc = float(roc_auc_score(readmitted, ranked))
        found[name] = auroc, standard_error(auroc, int(readmitted.sum()), int((~readmitted).sum()))
    return found


def standard_error(auroc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUROC of independent stays (Hanley and McNeil,
    doi:10.1148/radiology.143.1.7063747).
    """
    both_positive = auroc / (2 - auroc)
    both_negative = 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc)
    variance += (positives - 1) * (both_positive - auroc**2) + (negatives - 1) * (both_negative - auroc**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))


def _tree(part: Dataset, feature: int) -> DecisionTreeClassifier:
    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=_FEWEST_IN_A_LEAF, random_state=0)
    return tree.fit(part.rows[:, [feature]], part.readmitted)
