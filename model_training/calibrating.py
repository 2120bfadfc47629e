"""From a score to a probability, on persons the model has not seen: pure.

Two families are fitted, Platt's sigmoid and centered isotonic regression, and the one with the better Brier score on
persons it was not fitted on is taken (Niculescu-Mizil and Caruana 2005, doi:10.1145/1102351.1102430).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from model_training.dataset import Dataset
from model_training.folds import deal_persons, every_fold_tells
from schemas.model import Calibration, Floats, Isotonic, Sigmoid

# A knot stands for at least so many stays, and for a hundredth of all.
_MIN_BLOCK = 50
_MAX_BLOCKS = 100

# The steepest line between two knots: a contribution is at most so many times the forest's own.
MAX_STEEPNESS = 5.0

_FOLDS = 2


def calibrate(raw: Floats, dataset: Dataset, seed: int) -> Calibration:
    """Fit the better family to the raw scores [n] of a dataset's stays; a tie goes to the sigmoid.

    The families are compared by Brier score, each half of the persons measured with what the other half gave; the
    winner is fitted to all. A score that ranks no better than chance gets a flat sigmoid, whatever a curve makes of it.
    """
    readmitted = dataset.readmitted
    sigmoid = fit_sigmoid(raw, readmitted)
    fold = deal_persons(dataset, _FOLDS, seed)
    if sigmoid.is_flat or not every_fold_tells(dataset, fold, _FOLDS):
        return sigmoid
    if _held_out_brier(fit_isotonic, raw, readmitted, fold) < _held_out_brier(fit_sigmoid, raw, readmitted, fold):
        return fit_isotonic(raw, readmitted)
    return sigmoid


def fit_sigmoid(raw: Floats, readmitted: NDArray[np.bool_], stays: Floats | None = None) -> Sigmoid:
    """Fit Platt's sigmoid to raw scores [n] of persons the model has not seen and their outcomes [n].

    stays: how many each score stands for, [n]; by default one. A score that ranks no better than chance gets a flat
    sigmoid: everybody the prevalence, nobody's order turned round.
    """
    regression = LogisticRegression(C=np.inf).fit(raw[:, None], readmitted, sample_weight=stays)
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope > 0:
        return Sigmoid(slope, intercept)
    prevalence = float(np.average(readmitted, weights=stays))
    return Sigmoid(0.0, float(np.log(prevalence / (1 - prevalence))))


def fit_isotonic(raw: Floats, readmitted: NDArray[np.bool_]) -> Isotonic:
    """Fit centered isotonic regression to raw scores [n] and outcomes [n] (doi:10.1080/19466315.2017.1286256).

    Neighbouring stays are pooled until the shares of readmissions rise (pool adjacent violators), and each pool is
    shrunk to its mean. Pools are large enough, and far enough from one another, that no line between two is steeper
    than `MAX_STEEPNESS`. One stay of the usual risk is added to each, so that nothing is impossible or certain.
    """
    value, of = np.unique(raw, return_inverse=True)
    return isotonic_of_counts(value, _sums(of, np.ones(len(raw))), _sums(of, readmitted.astype(np.float64)))


def isotonic_of_counts(value: Floats, stays: Floats, readmissions: Floats) -> Isotonic:
    """Do as `fit_isotonic` for rising scores [m], how many stays had each, and how many of them a readmission."""
    pools = _blocks(value, stays, readmissions)
    shares = isotonic_regression(pools.y, sample_weight=pools.weight)
    pools = pools.joined(np.cumsum(np.diff(shares, prepend=-1.0) > 0) - 1)
    while len(pools.x) > 1:
        steepness = np.diff(pools.y) / np.diff(pools.x)
        if steepness.max() <= MAX_STEEPNESS:
            break
        pools = pools.with_next(int(steepness.argmax()))
    return Isotonic(tuple(pools.x.tolist()), tuple(pools.y.tolist()))


class _Pools(NamedTuple):
    """Neighbouring stays put together, by rising score: their weight, mean score x and share of readmissions y."""

    weight: Floats
    x: Floats
    y: Floats

    def joined(self, pool: NDArray[np.int64]) -> _Pools:
        """Put those together that have the same number in `pool`, which rises from 0 without a gap."""
        total = _sums(pool, self.weight)
        x, y = (_sums(pool, self.weight * each) / total for each in (self.x, self.y))
        return _Pools(total, x, y)

    def with_next(self, index: int) -> _Pools:
        """Put one and the next together."""
        number = np.arange(len(self.x))
        return self.joined(number - (number > index))


def _blocks(value: Floats, stays: Floats, readmissions: Floats) -> _Pools:
    """Cut stays by rising score into blocks that part no equal scores, as small as they may be."""
    total = stays.sum()
    size = max(_MIN_BLOCK, np.ceil(total / _MAX_BLOCKS))
    block = np.unique((np.cumsum(stays) - stays) // size, return_inverse=True)[1]
    usual = readmissions.sum() / total
    blocks = _Pools(stays, value, readmissions / np.maximum(stays, 1)).joined(block)
    while len(blocks.x) > 1 and blocks.weight.min() < size:
        smallest = int(blocks.weight.argmin())
        blocks = blocks.with_next(smallest - (smallest == len(blocks.x) - 1))
    return blocks._replace(weight=blocks.weight + 1, y=(blocks.y * blocks.weight + usual) / (blocks.weight + 1))


def _sums(group: NDArray[np.int64], amounts: Floats) -> Floats:
    return np.asarray(np.bincount(group, weights=amounts), dtype=np.float64)


def _held_out_brier(
    family: Callable[[Floats, NDArray[np.bool_]], Calibration],
    raw: Floats,
    readmitted: NDArray[np.bool_],
    fold: NDArray[np.int64],
) -> float:
    probability = np.empty(len(raw))
    for number in range(_FOLDS):
        held_out = fold == number
        probability[held_out] = family(raw[~held_out], readmitted[~held_out])(raw[held_out])
    return float(brier_score_loss(readmitted, probability))
