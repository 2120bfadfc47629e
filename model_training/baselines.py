"""What the forest must be better than, on the same split: other learners, and rules a ward can reckon by hand: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from model_training.calibrating import calibrate
from model_training.splitting import Split
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.model import Floats

Rows = NDArray[np.float32]
Score = Callable[[Rows], Floats]

# LACE's points for the length of stay: from so many whole days on.
_LENGTH_FROM_DAYS = np.array([0, 1, 2, 3, 4, 7, 14])
_LENGTH_POINTS = np.array([0, 1, 2, 3, 4, 5, 7])
_EMERGENCY_POINTS = 3
_MAX_VISIT_POINTS = 4


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another way to score, measured on the test part.

    auroc, auprc: of its score; brier: of its score calibrated on the calibration part, as the forest's is.
    """

    name: str
    auroc: float
    auprc: float
    brier: float


def baselines(split: Split, seed: int) -> tuple[Baseline, ...]:
    """Fit, calibrate and measure each baseline on the forest's own split; both classes must occur in each part."""
    # On a machine that others use too, OpenMP's threads wait for one another longer than they save.
    with threadpool_limits(1, user_api="openmp"):
        return tuple(_measured(name, score, split, seed) for name, score in _scores(split, seed))


def lace_points(rows: Rows) -> Floats:
    """Return the LACE index, [n], without its C, for rows [n, features] (van Walraven 2010, doi:10.1503/cmaj.091117).

    L: whole days of stay, 0 to 7 points; A: 3 for an emergency admission; E: emergency visits in the half year before,
    4 at most. C, the Charlson comorbidity index, is not among the features: up to 5 of 19 points are missing.
    """
    days = np.floor(_column(rows, "length_of_stay_days"))
    length = _LENGTH_POINTS[np.searchsorted(_LENGTH_FROM_DAYS, days, side="right") - 1]
    acute = _EMERGENCY_POINTS * (_column(rows, "emergency_admission") == 1)
    visits = np.minimum(_column(rows, "prior_emergency_visits_180d"), _MAX_VISIT_POINTS)
    return np.asarray(length + acute + visits, dtype=np.float64)


def _scores(split: Split, seed: int) -> Iterator[tuple[str, Score]]:
    rows, readmitted = split.fit.rows, split.fit.readmitted
    known = SimpleImputer(missing_values=UNKNOWN, strategy="median", keep_empty_features=True)
    logistic = make_pipeline(known, StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows, readmitted)
    yield "logistic regression", lambda other: logistic.predict_proba(other)[:, 1]
    boosting = HistGradientBoostingClassifier(early_stopping=False, random_state=seed).fit(rows, readmitted)
    yield "gradient boosting", lambda other: boosting.predict_proba(other)[:, 1]
    yield "prior stays only", lambda other: _column(other, "prior_inpatient_stays_365d")
    yield "LACE without comorbidity", lace_points


def _measured(name: str, score: Score, split: Split, seed: int) -> Baseline:
    calibration = calibrate(score(split.calibrate.rows), split.calibrate, seed)
    tested, readmitted = score(split.test.rows), split.test.readmitted
    return Baseline(
        name=name,
        auroc=float(roc_auc_score(readmitted, tested)),
        auprc=float(average_precision_score(readmitted, tested)),
        brier=float(brier_score_loss(readmitted, calibration(tested))),
    )


def _column(rows: Rows, name: str) -> Floats:
    return rows[:, FEATURE_NAMES.index(name)].astype(np.float64)
