"""Measures of probabilities [n] against outcomes [n], with intervals that know which stays are one person's: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from schemas.model import Floats

Outcomes = NDArray[np.bool_]
Persons = NDArray[Any]

# Ten million weighted rows take less than a second; fewer than 200 resamples make a rough interval.
_WEIGHTED_ROWS = 10_000_000
_RESAMPLES = (200, 500)

_CURVE_BINS = 10
_STAYS_A_BIN = 50
_SWEEP = np.round(np.arange(0.01, 0.505, 0.01), 2)
_Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure and its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A bin of stays with like probabilities: their mean, the share readmitted with its Wilson interval."""

    stays: int
    predicted: float
    observed: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Operating:
    """What comes of alerting from a threshold on.

    share_alerted, sensitivity, ppv: shares of the stays, of the readmissions, of the alerts (None without alerts).
    alerts_per_day, caught_per_day: of all stays, not of the held-out ones alone. net_benefit: true alerts less false
    ones at the threshold's odds, a stay; net_benefit_all: the same where everybody is treated
    (doi:10.1177/0272989X06295361). Treating nobody is 0.
    """

    threshold: float
    share_alerted: float
    sensitivity: float
    ppv: float | None
    alerts_per_day: float
    caught_per_day: float
    net_benefit: float
    net_benefit_all: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How much two models' measures differ on the same stays: the second's less the first's."""

    auroc: Estimate
    brier: Estimate


class Ranking:
    """Stays by rising probability, sorted once, so that many weightings of them cost a pass each."""

    def __init__(self, probability: Floats, readmitted: Outcomes) -> None:
        self._order = np.argsort(probability, kind="stable")
        ordered = probability[self._order]
        self._ties = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._readmitted = readmitted[self._order]

    def auroc(self, weights: Floats) -> float:
        """Return the weighted AUROC, ties counting half; NaN where either outcome has no weight."""
        weights = weights[self._order]
        positive = np.add.reduceat(np.where(self._readmitted, weights, 0.0), self._ties)
        negative = np.add.reduceat(np.where(self._readmitted, 0.0, weights), self._ties)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs) if pairs else float("nan")


def auroc(probability: Floats, readmitted: Outcomes, persons: Persons, seed: int) -> Estimate:
    """Return the area under the ROC curve with a bootstrap interval: whole persons are drawn, by percentiles."""
    ranking = Ranking(probability, readmitted)
    drawn = [ranking.auroc(weights) for weights in resampled(persons, seed)]
    return Estimate(ranking.auroc(np.ones(len(readmitted))), _percentiles(drawn))


def difference(first: Floats, second: Floats, readmitted: Outcomes, persons: Persons, seed: int) -> Difference:
    """Compare two models' probabilities; each resample weighs the same stays for both, so that what they share cancels.

    AUROC: more is better; Brier score: less is.
    """
    rankings = Ranking(first, readmitted), Ranking(second, readmitted)
    excess = (second - readmitted) ** 2 - (first - readmitted) ** 2

    def measured(weights: Floats) -> tuple[float, float]:
        return rankings[1].auroc(weights) - rankings[0].auroc(weights), float(np.average(excess, weights=weights))

    drawn = [measured(weights) for weights in resampled(persons, seed)]
    whole = measured(np.ones(len(readmitted)))
    by_auroc, by_brier = ([one[which] for one in drawn] for which in (0, 1))
    return Difference(Estimate(whole[0], _percentiles(by_auroc)), Estimate(whole[1], _percentiles(by_brier)))


def resampled(persons: Persons, seed: int) -> Iterator[Floats]:
    """Draw as many persons as there are, with replacement, and yield how often each stay's person was drawn, [n].

    200 to 500 times, by how many stays there are; the same seed draws the same.
    """
    known, codes = np.unique(persons, return_inverse=True)
    random = np.random.default_rng(seed)
    for _ in range(int(np.clip(_WEIGHTED_ROWS // max(1, len(persons)), *_RESAMPLES))):
        drawn = random.integers(0, len(known), len(known))
        yield np.bincount(drawn, minlength=len(known)).astype(np.float64)[codes]


def calibration_line(probability: Floats, readmitted: Outcomes, persons: Persons) -> tuple[Estimate, float]:
    """Return slope, with its interval, and intercept of the outcome on the probability's logit.

    1 and 0 are perfect; a slope of 0 stands for a model that tells no stay from another
    (doi:10.1186/s12916-019-1466-7). The interval's standard error is robust to persons with several stays.
    """
    if np.ptp(probability) < 1e-9:
        prevalence = readmitted.mean()
        return Estimate(0.0, Interval(0.0, 0.0)), float(np.log(prevalence / (1 - prevalence)))
    certain = np.clip(probability, 1e-12, 1 - 1e-12)
    logit = np.log(certain / (1 - certain))
    line = LogisticRegression(C=np.inf).fit(logit[:, None], readmitted)
    slope, intercept = float(line.coef_[0, 0]), float(line.intercept_[0])
    fitted = line.predict_proba(logit[:, None])[:, 1]
    error = _slope_error(logit, fitted, readmitted, persons)
    return Estimate(slope, _normal(slope, error)), intercept


def observed_to_expected(probability: Floats, readmitted: Outcomes, persons: Persons) -> Estimate:
    """Return calibration in the large: the readmissions there were for each that was predicted; 1 is perfect."""
    expected = float(probability.sum())
    surplus = _by_person(readmitted - probability, persons)
    ratio = float(readmitted.sum()) / expected
    return Estimate(ratio, _normal(ratio, float(np.sqrt((surplus**2).sum())) / expected))


def calibration_curve(probability: Floats, readmitted: Outcomes) -> tuple[CurvePoint, ...]:
    """Bin stays by quantiles of their probability: ten bins, fewer where one would hold under 50 stays."""
    bins = int(np.clip(len(probability) // _STAYS_A_BIN, 1, _CURVE_BINS))
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins))
    which = np.searchsorted(edges, probability, side="right")
    chosen = (which == one for one in np.unique(which))
    return tuple(_curve_point(probability[some], readmitted[some]) for some in chosen)


def operating_at(threshold: float, probability: Floats, readmitted: Outcomes, stays_per_day: float) -> Operating:
    """Say what comes of alerting from a threshold on, where `stays_per_day` are discharged in all."""
    threshold, n, alerted = float(threshold), len(probability), probability >= threshold
    alerts, caught = int(alerted.sum()), int((alerted & readmitted).sum())
    odds = threshold / (1 - threshold)
    prevalence = float(readmitted.mean())
    return Operating(
        threshold=threshold,
        share_alerted=alerts / n,
        sensitivity=caught / int(readmitted.sum()),
        ppv=caught / alerts if alerts else None,
        alerts_per_day=alerts / n * stays_per_day,
        caught_per_day=caught / n * stays_per_day,
        net_benefit=(caught - (alerts - caught) * odds) / n,
        net_benefit_all=prevalence - (1 - prevalence) * odds,
    )


def sweep(probability: Floats, readmitted: Outcomes, stays_per_day: float) -> tuple[Operating, ...]:
    """Say what comes of each threshold from 1 % to 50 %, by whole per cent."""
    return tuple(operating_at(one, probability, readmitted, stays_per_day) for one in _SWEEP)


def _curve_point(probability: Floats, readmitted: Outcomes) -> CurvePoint:
    n, share = len(readmitted), float(readmitted.mean())
    return CurvePoint(n, float(probability.mean()), share, wilson(share, n))


def wilson(share: float, n: int) -> Interval:
    """Return the Wilson score interval of a share of n (doi:10.1080/01621459.1927.10502953).

    >>> print(wilson(0.5, 100))
    0.404 to 0.596
    """
    squared = _Z95**2
    middle = (share + squared / (2 * n)) / (1 + squared / n)
    half = _Z95 * np.sqrt(share * (1 - share) / n + squared / (4 * n**2)) / (1 + squared / n)
    return Interval(float(middle - half), float(middle + half))


def _slope_error(logit: Floats, fitted: Floats, readmitted: Outcomes, persons: Persons) -> float:
    """Return the slope's standard error by the sandwich formula, scores summed by person."""
    design = np.stack([np.ones_like(logit), logit], axis=1)
    bread = np.linalg.pinv(design.T @ (design * (fitted * (1 - fitted))[:, None]))
    scores = np.stack([_by_person(column * (readmitted - fitted), persons) for column in design.T])
    return float(np.sqrt((bread @ (scores @ scores.T) @ bread)[1, 1]))


def _by_person(values: Floats, persons: Persons) -> Floats:
    codes = np.unique(persons, return_inverse=True)[1]
    return np.bincount(codes, weights=values).astype(np.float64)


def _normal(value: float, error: float) -> Interval:
    return Interval(value - _Z95 * error, value + _Z95 * error)


def _percentiles(drawn: list[float]) -> Interval:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Interval(float(low), float(high))
