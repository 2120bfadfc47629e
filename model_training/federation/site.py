"""A site's part: it fits on its own rows and scores its own rows; they stay with it: pure, given a seed."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

from sklearn.ensemble import RandomForestClassifier

from model_training.federation.exchange import (
    ALONE,
    FEWEST,
    ForestRecord,
    HeldOut,
    MergedForest,
    SiteForest,
    SiteScores,
    scores_of,
    to_forest,
    tree_record,
)
from model_training.forests import Forest, as_forest
from model_training.search import best, fit_forest, search
from model_training.splitting import Split
from schemas.errors import NotEnoughStaysError
from schemas.features import FEATURE_NAMES, FEATURE_SET


def fit_site(split: Split, institution: str, snapshot: str, seed: int, budget_s: float) -> SiteForest:
    """Fit a forest on the site's fit part, and write its trees down.

    Sites draw differently from the same seed, so that their trees differ by more than their rows. Raises
    NotEnoughStaysError where a node would stand for fewer than `FEWEST` stays.
    """
    own_seed = (seed + crc32(institution.encode())) % 2**32
    forest = fit_forest(split.fit, best(search(split.fit, own_seed, budget_s)), own_seed)
    require_no_small_node(forest)
    return SiteForest(
        institution=institution,
        feature_set=FEATURE_SET,
        feature_names=FEATURE_NAMES,
        snapshot=snapshot,
        fit_stays=round(len(split.fit), -1),
        trees=tuple(tree_record(tree) for tree in as_forest(forest).trees),
    )


def score_site(split: Split, own: SiteForest, merged: MergedForest, merged_digest: str) -> SiteScores:
    """Score the site's held-out stays with the forests that came and with its own; both outcomes in either part."""
    alone = ForestRecord(own.trees, (1.0,) * len(own.trees))
    forests: Mapping[str, ForestRecord] = {**merged.forests, ALONE: alone}
    scores = {name: _held_out(to_forest(forest), split) for name, forest in forests.items()}
    return SiteScores(institution=own.institution, merged=merged_digest, scores=scores)


def require_no_small_node(forest: RandomForestClassifier) -> None:
    """Raise NotEnoughStaysError where any node, leaf or not, was made of fewer than `FEWEST` stays."""
    if min(int(tree.tree_.n_node_samples.min()) for tree in forest.estimators_) < FEWEST:
        raise NotEnoughStaysError(f"There are not enough stays to hand trees over: a node has fewer than {FEWEST}.")


def _held_out(forest: Forest, split: Split) -> HeldOut:
    calibrate, test = (
        scores_of(forest.probability(part.rows), part.readmitted) for part in (split.calibrate, split.test)
    )
    return HeldOut(calibrate, test)
