"""Split by patient, fit the forest, calibrate it, choose the bands: pure, given a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from model_training.dataset import Dataset
from schemas.errors import NotEnoughStaysError
from schemas.model import Calibration, Floats, Sigmoid, Thresholds

# Fit, calibrate, test.
SHARES = (0.6, 0.2, 0.2)

# Two numbers are calibrated and a rate is estimated in each part; fewer readmissions than these say nothing.
MIN_OF_EACH_CLASS = 10

# Small trees keep the explanation by leaf look-up quick; deeper ones gain nothing on so few features.
FOREST: dict[str, str | int] = {
    "n_estimators": 100,
    "class_weight": "balanced",
    "max_depth": 10,
    "max_leaf_nodes": 128,
    "min_samples_leaf": 20,
}


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts of a dataset that share no patient."""

    fit: Dataset
    calibrate: Dataset
    test: Dataset


@dataclass(frozen=True, slots=True)
class Fitted:
    """A forest and what turns its raw probability into a score."""

    forest: RandomForestClassifier
    calibration: Calibration
    thresholds: Thresholds


def split_by_patient(dataset: Dataset, seed: int) -> Split:
    """Deal the patients out by `SHARES`, shuffled by `seed`; the order of the rows does not matter to who goes where.

    A pseudonym that occurs at two institutions counts as one patient.
    """
    patients = np.unique(dataset.patients)
    np.random.default_rng(seed).shuffle(patients)
    ends = np.cumsum([round(share * len(patients)) for share in SHARES[:-1]])
    fit, calibrate, test = (dataset.where(np.isin(dataset.patients, part)) for part in np.split(patients, ends))
    return Split(fit, calibrate, test)


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


def require_enough(split: Split) -> None:
    """Raise NotEnoughStaysError unless each part holds `MIN_OF_EACH_CLASS` stays of either class."""
    parts = (split.fit, split.calibrate, split.test)
    readmitted = [int(part.readmitted.sum()) for part in parts]
    others = [len(part) - count for part, count in zip(parts, readmitted, strict=True)]
    if min(*readmitted, *others) < MIN_OF_EACH_CLASS:
        raise NotEnoughStaysError(
            f"There are not enough stays to train on: {sum(readmitted)} with a readmission within 30 days and "
            f"{sum(others)} without; each of three parts needs {MIN_OF_EACH_CLASS} of both."
        )


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
