"""How far features have moved since training: reference bins that travel with a model, and PSI against them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.features import FEATURE_NAMES, UNKNOWN

_DECILES = np.arange(0.1, 1.0, 0.1)
_KNOWN_FROM = UNKNOWN / 2  # unknown values have a bin of their own
_LEAST_SHARE = 1e-4  # an empty bin has no logarithm
_LEAST_TOLD = 10  # a model goes to other institutions: it tells of no smaller group

# Of fewer stays chance alone makes an index that looks like a drift: of n it is some 10/n.
MIN_STAYS = 200


class Bins(msgspec.Struct, frozen=True):
    """One feature's distribution: bin k holds values from edges[k - 1] on and below edges[k].

    edges: rising, float32 values; shares: one longer, 0 where there were fewer than ten.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]


class Reading(msgspec.Struct, frozen=True):
    """A feature's PSI at an institution, over so many stays."""

    institution: str
    feature: str
    stays: int
    psi: float


Reference = dict[str, dict[str, Bins]]  # institution → feature → bins


def reference(rows: NDArray[np.float32], institutions: NDArray[np.str_]) -> Reference:
    """Take the reference of each institution from training rows [n, features] and whose they are [n].

    Institutions differ from each other; against all of them together each would seem to have drifted. One with fewer
    than `MIN_STAYS` rows has no reference.
    """
    found = {}
    for institution in np.unique(institutions):
        own = rows[institutions == institution]
        if len(own) >= MIN_STAYS:
            found[str(institution)] = {name: bins(own[:, number]) for number, name in enumerate(FEATURE_NAMES)}
    return found


def bins(values: NDArray[np.float32]) -> Bins:
    """Cut values [n], n > 0, at their deciles; what fills more than one decile gets a bin of its own.

    >>> bins(np.repeat(np.array([0, 1, 2], dtype=np.float32), [30, 10, 10])).shares
    (0.0, 0.0, 0.6, 0.0, 0.2, 0.0, 0.2)
    """
    known = values[values > _KNOWN_FROM]
    edges = {float(np.float32(_KNOWN_FROM))}
    if len(known):
        cuts, times = np.unique(np.quantile(known, _DECILES, method="inverted_cdf"), return_counts=True)
        edges |= {float(cut) for cut in cuts}
        edges |= {float(np.nextafter(cut, np.float32(np.inf))) for cut in cuts[times > 1]}
    rising = np.array(sorted(edges))
    counted = counts(values, rising)
    counted[counted < _LEAST_TOLD] = 0
    return Bins(tuple(rising.tolist()), tuple((counted / len(values)).tolist()))


def counts(values: NDArray[np.float32], edges: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the values in each bin, [edges + 1], as PostgreSQL's width_bucket does."""
    return np.bincount(np.searchsorted(np.asarray(edges), values, side="right"), minlength=len(edges) + 1)


def psi(expected: Sequence[float], counted: Sequence[int]) -> float | None:
    """Return the population stability index of counts against shares; None of fewer than `MIN_STAYS`.

    The sum over bins of (p - q) ln(p / q); below 0.1 usually taken for stable, above 0.25 for shifted (Siddiqi 2006,
    Credit Risk Scorecards).
    """
    total = sum(counted)
    if total < MIN_STAYS:
        return None
    now = np.maximum(np.asarray(counted) / total, _LEAST_SHARE)
    then = np.maximum(np.asarray(expected), _LEAST_SHARE)
    return float(((now - then) * np.log(now / then)).sum())


def drift(expected: Mapping[str, Bins], counted: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return each feature's PSI, as far as enough was counted."""
    found = {name: psi(one.shares, counted[name]) for name, one in expected.items() if name in counted}
    return {name: value for name, value in found.items() if value is not None}
