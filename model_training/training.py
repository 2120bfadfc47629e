"""Fit the forest, calibrate it, choose the bands: pure, given a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from model_training.splitting import Split, require_enough
from schemas.model import Calibration, Floats, Sigmoid, Thresholds

# Small trees keep the explanation by leaf look-up quick; deeper ones gain nothing on so few features.
FOREST: dict[str, str | int] = {
    "n_estimators": 100,
    "class_weight": "balanced",
    "max_depth": 10,
    "max_leaf_nodes": 128,
    "min_samples_leaf": 20,
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A forest and what turns its raw probability into a score."""

    forest: RandomForestClassifier
    calibration: Calibration
    thresholds: Thresholds


def fit(split: Split, seed: int) -> Fitted:
    """Fit the forest on one part and calibrate it on another; the same split and seed give the same model.

    Raises NotEnoughStaysError where any part lacks stays of either class.
    """
    require_enough(split)
    forest = RandomForestClassifier(**FOREST, random_state=seed, n_jobs=2)
    forest.fit(split.fit.rows, split.fit.readmitted)
    forest.set_params(n_jobs=1)  # several threads would sum the trees' answers in an order that varies
    raw = raw_probability(forest, split.calibrate.rows)
    return Fitted(forest, calibrate(raw, split.calibrate.readmitted), choose_thresholds(split.calibrate.prevalence))


def raw_probability(forest: RandomForestClassifier, rows: NDArray[np.float32]) -> Floats:
    """Return the forest's uncalibrated probability of a readmission, [n], for rows [n, features]."""
    return np.asarray(forest.predict_proba(rows)[:, 1], dtype=np.float64)


def calibrate(raw: Floats, readmitted: NDArray[np.bool_]) -> Calibration:
    """Fit Platt's sigmoid to raw probabilities [n] of patients the forest has not seen and their outcomes [n].

    A forest that ranks them no better than chance gets a flat sigmoid: everybody the prevalence, nobody's order
    turned round.
    """
    regression = LogisticRegression(C=np.inf).fit(raw[:, None], readmitted)
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope > 0:
        return Sigmoid(slope, intercept)
    prevalence = float(readmitted.mean())
    return Sigmoid(0.0, float(np.log(prevalence / (1 - prevalence))))


def choose_thresholds(prevalence: float) -> Thresholds:
    """Set the bands against the usual risk: medium from the prevalence on, high from twice the prevalence on.

    Fixed multiples, not quantiles: a band then means the same risk in a calm week as in a bad one, and a clinician
    can say what it means. Where readmission is so common that twice as often is impossible, high begins half-way
    between the prevalence and certainty.
    """
    return Thresholds(medium=prevalence, high=min(2 * prevalence, (1 + prevalence) / 2))
