"""How good a calibrated model is on patients it has not seen: pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from schemas.model import Floats


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's measures on held-out stays.

    auroc, auprc: ranking; 0.5 and the prevalence are chance. brier: mean squared error of the probability.
    calibration_slope, calibration_intercept: of the outcome on the probability's logit; 1 and 0 are perfect, a slope
    of 0 stands for a model that tells no stay from another (doi:10.1186/s12916-019-1466-7).
    """

    stays: int
    readmissions: int
    prevalence: float
    auroc: float
    auprc: float
    brier: float
    calibration_slope: float
    calibration_intercept: float


def evaluate(probability: Floats, readmitted: NDArray[np.bool_]) -> Evaluation:
    """Measure calibrated probabilities [n] against outcomes [n]; both outcomes must occur."""
    slope, intercept = _calibration_line(probability, readmitted)
    return Evaluation(
        stays=len(readmitted),
        readmissions=int(readmitted.sum()),
        prevalence=float(readmitted.mean()),
        auroc=float(roc_auc_score(readmitted, probability)),
        auprc=float(average_precision_score(readmitted, probability)),
        brier=float(brier_score_loss(readmitted, probability)),
        calibration_slope=slope,
        calibration_intercept=intercept,
    )


def _calibration_line(probability: Floats, readmitted: NDArray[np.bool_]) -> tuple[float, float]:
    if np.ptp(probability) < 1e-9:
        prevalence = readmitted.mean()
        return 0.0, float(np.log(prevalence / (1 - prevalence)))
    certain = np.clip(probability, 1e-12, 1 - 1e-12)
    logit = np.log(certain / (1 - certain))
    line = LogisticRegression(C=np.inf).fit(logit[:, None], readmitted)
    return float(line.coef_[0, 0]), float(line.intercept_[0])
