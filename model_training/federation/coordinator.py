"""The coordinator's part: one forest from the sites' trees, calibrated and measured by the sites' cells: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score

from model_training.calibrating import fit_sigmoid, isotonic_of_counts
from model_training.federation.exchange import ALONE, ForestRecord, HeldOut, Scores, SiteForest, SiteScores
from model_training.forests import Forest
from model_training.search import TREES
from model_training.training import choose_thresholds
from schemas.errors import ConfigurationError
from schemas.model import Calibration, Floats, Isotonic, Sigmoid, Thresholds

ALL = "all"


@dataclass(frozen=True, slots=True)
class Measured:
    """How well a forest does on the held-out stays of an institution, or of `all`; exact up to the cells."""

    forest: str
    institution: str
    stays: int
    readmissions: int
    auroc: float
    brier: float


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Cells as arrays, [cells]: raw score, outcome, how many stays."""

    score: Floats
    readmitted: NDArray[np.bool_]
    stays: Floats

    @property
    def prevalence(self) -> float:
        """The share of stays with a readmission."""
        return float(self.stays[self.readmitted].sum() / self.stays.sum())


def merge(sites: Sequence[SiteForest], trees: int = TREES) -> ForestRecord:
    """Take from each site so many trees as its stays are of all, at least one, and weigh them so that it is exact.

    A site's first trees are taken: which they are says nothing, since trees do not know of each other.
    Raises ConfigurationError where two files are of one institution.
    """
    ordered = sorted(sites, key=lambda site: site.institution)
    if len({site.institution for site in ordered}) < len(ordered):
        raise ConfigurationError("Two of the files are of the same institution.")
    stays = np.array([site.fit_stays for site in ordered], dtype=np.float64)
    share = stays / stays.sum()
    count = allotted(share, trees)
    chosen = [site.trees[:number] for site, number in zip(ordered, count, strict=True)]
    weights = [float(part) / len(few) for part, few in zip(share, chosen, strict=True) for _ in few]
    return ForestRecord(tuple(tree for few in chosen for tree in few), tuple(weights))


def allotted(share: Floats, total: int) -> list[int]:
    """Deal `total` out in proportion to shares that add up to 1, by largest remainder, at least one to each.

    >>> allotted(np.array([0.615, 0.38, 0.005]), 100)
    [62, 38, 1]
    """
    exact = share * total
    count = np.floor(exact).astype(int)
    count[np.argsort(count - exact, kind="stable")[: total - count.sum()]] += 1
    return [int(number) for number in np.maximum(count, 1)]


def points_of(scores: Iterable[Scores]) -> Points:
    """Lay cells out as arrays."""
    parts = list(scores)
    readmitted = [cell for one in parts for cell in one.readmitted]
    cells = readmitted + [cell for one in parts for cell in one.others]
    return Points(
        score=np.array([cell.score for cell in cells], dtype=np.float64),
        readmitted=np.arange(len(cells)) < len(readmitted),
        stays=np.array([cell.stays for cell in cells], dtype=np.float64),
    )


def calibrate(sites: Sequence[Scores]) -> Calibration:
    """Fit a sigmoid and a centered isotonic curve to the sites' cells, and return the better one.

    They are compared by Brier score, each site measured with what the others gave; a tie, or one site alone, goes to
    the sigmoid. A forest that ranks no better than chance gets a flat one.
    """
    everything = points_of(sites)
    sigmoid = _sigmoid(everything)
    if sigmoid.is_flat or len(sites) < 2:
        return sigmoid
    if _brier_elsewhere(_isotonic, sites) < _brier_elsewhere(_sigmoid, sites):
        return _isotonic(everything)
    return sigmoid


def thresholds(sites: Sequence[Scores]) -> Thresholds:
    """Set the bands against the usual risk of all sites' calibration parts (`choose_thresholds`)."""
    return choose_thresholds(points_of(sites).prevalence)


def measured(sites: Sequence[SiteScores]) -> tuple[Measured, ...]:
    """Measure each forest at each site and in all, calibrated on all sites' calibration parts.

    The sites' own forests are each calibrated and measured at home; `all` is then a world in which each uses its own.
    """
    rows: list[Measured] = []
    for name in sorted({name for site in sites for name in site.scores}):
        held_out = {site.institution: site.scores[name] for site in sites if name in site.scores}
        tested = _tested_at_home(held_out) if name == ALONE else _tested(held_out)
        rows += [_measured(name, institution, [points]) for institution, points in tested.items()]
        rows.append(_measured(name, ALL, list(tested.values())))
    return tuple(rows)


def probe_rows(forest: Forest, n: int, seed: int) -> NDArray[np.float32]:
    """Make rows [n, features] of the forest's thresholds and their float32 neighbours, where a mistake would show."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, forest.n_features), dtype=np.float32)
    for feature in range(forest.n_features):
        of_feature = [tree.threshold[(tree.feature == feature) & (tree.left >= 0)] for tree in forest.trees]
        values = np.unique(np.concatenate([*of_feature, [0.0]]).astype(np.float32))
        rows[:, feature] = rng.choice(values, n)
    towards = rng.choice(np.array([-np.inf, 0.0, np.inf], dtype=np.float32), rows.shape)
    return np.where(towards == 0, rows, np.nextafter(rows, towards)).astype(np.float32)


def _sigmoid(points: Points) -> Sigmoid:
    return fit_sigmoid(points.score, points.readmitted, points.stays)


def _isotonic(points: Points) -> Isotonic:
    value, of = np.unique(points.score, return_inverse=True)
    stays = np.bincount(of, weights=points.stays)
    readmissions = np.bincount(of, weights=points.stays * points.readmitted)
    return isotonic_of_counts(value, np.asarray(stays, np.float64), np.asarray(readmissions, np.float64))


def _brier_elsewhere(family: Callable[[Points], Calibration], sites: Sequence[Scores]) -> float:
    """Return the Brier score over all sites, each calibrated by what the other sites' cells give."""
    total = stays = 0.0
    for number, site in enumerate(sites):
        here = points_of([site])
        calibration = family(points_of([*sites[:number], *sites[number + 1 :]]))
        total += float((here.stays * (calibration(here.score) - here.readmitted) ** 2).sum())
        stays += float(here.stays.sum())
    return total / stays


def _tested(held_out: Mapping[str, HeldOut]) -> dict[str, Points]:
    """Return the test parts' cells with calibrated probabilities for scores, by institution."""
    calibration = calibrate([one.calibrate for one in held_out.values()])
    tested = {institution: points_of([one.test]) for institution, one in held_out.items()}
    return {institution: replace(points, score=calibration(points.score)) for institution, points in tested.items()}


def _tested_at_home(held_out: Mapping[str, HeldOut]) -> dict[str, Points]:
    return {institution: _tested({institution: one})[institution] for institution, one in held_out.items()}


def _measured(forest: str, institution: str, parts: Sequence[Points]) -> Measured:
    probability = np.concatenate([part.score for part in parts])
    readmitted = np.concatenate([part.readmitted for part in parts])
    stays = np.concatenate([part.stays for part in parts])
    return Measured(
        forest=forest,
        institution=institution,
        stays=int(stays.sum()),
        readmissions=int(stays[readmitted].sum()),
        auroc=float(roc_auc_score(readmitted, probability, sample_weight=stays)),
        brier=float(brier_score_loss(readmitted, probability, sample_weight=stays)),
    )
