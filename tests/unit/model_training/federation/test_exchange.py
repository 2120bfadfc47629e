from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_training.federation.exchange import (
    FEWEST,
    Cell,
    ForestRecord,
    HeldOut,
    Scores,
    SiteForest,
    SiteScores,
    TreeRecord,
    from_json,
    scores_of,
    to_forest,
    to_json,
)
from schemas.errors import ConfigurationError, ModelRefusedError
from schemas.features import FEATURE_NAMES, FEATURE_SET

TREE = TreeRecord((3, 0, 7, 0, 0), (2.5, 0.0, 9.0, 0.0, 0.0), (1, -1, 3, -1, -1), (2, -1, 4, -1, -1), (0.5,) * 5)
SITE = SiteForest(
    institution="dkfz",
    feature_set=FEATURE_SET,
    feature_names=FEATURE_NAMES,
    snapshot="0" * 64,
    fit_stays=120,
    trees=(TREE,),
)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=40, max_size=600))
def test_every_cell_stands_for_ten_stays_or_more_and_none_is_lost(stays: list[tuple[float, bool]]) -> None:
    raw = np.array([score for score, _ in stays])
    readmitted = np.arange(len(raw)) % 3 == 0
    scores = scores_of(raw, readmitted)
    for cells, part in ((scores.readmitted, raw[readmitted]), (scores.others, raw[~readmitted])):
        assert all(cell.stays >= FEWEST for cell in cells)
        assert sum(cell.stays for cell in cells) == len(part)
        assert sum(cell.stays * cell.score for cell in cells) == pytest.approx(part.sum(), abs=1e-6 * len(part))


def test_a_file_comes_back_as_it_was_and_as_nothing_else() -> None:
    assert from_json(to_json(SITE), SiteForest, "f") == SITE
    for wrong in (b"", b"{", to_json(SITE).replace(b'"trees"', b'"rows"'), to_json(SITE)[:-1] + b',"rows":[[1]]}'):
        with pytest.raises(ConfigurationError, match=r"^f is not a site-forest file"):
            from_json(wrong, SiteForest, "f")
    with pytest.raises(ConfigurationError, match="f is not a site-scores file"):
        from_json(to_json(SITE), SiteScores, "f")


def test_trees_for_other_features_are_refused() -> None:
    other = msgspec.structs.replace(SITE, feature_names=FEATURE_NAMES[::-1])
    with pytest.raises(ConfigurationError, match="other features"):
        from_json(to_json(other), SiteForest, "f")


def test_scores_that_tell_of_few_stays_are_refused() -> None:
    few = Scores((Cell(9, 0.5),), (Cell(10, 0.5),))
    record = SiteScores(institution="dkfz", merged="", scores={"federated": HeldOut(few, few)})
    with pytest.raises(ConfigurationError, match="fewer than 10 stays"):
        from_json(to_json(record), SiteScores, "f")


@pytest.mark.parametrize(
    "change",
    [
        {"left": (0, -1, 3, -1, -1)},  # its own child
        {"left": (1, -1, 1, -1, -1)},  # one child of two
        {"left": (1, -1, 9, -1, -1)},  # a child that is not there
        {"right": (-1, -1, 4, -1, -1)},  # half a split
        {"feature": (3, 0, 9, 0, 0)},
        {"feature": (-1, 0, 7, 0, 0)},
        {"probability": (0.5, 0.5, 0.5, 0.5, 1.5)},
        {"probability": (0.5,) * 4},
        {"threshold": (float("inf"), 0.0, 9.0, 0.0, 0.0)},
        {"feature": (), "threshold": (), "left": (), "right": (), "probability": ()},
    ],
)
def test_what_is_no_tree_is_refused_before_anything_walks_it(change: dict[str, tuple[float, ...]]) -> None:
    assert to_forest(ForestRecord((TREE,), (1.0,))).trees[0].left.tolist() == list(TREE.left)
    with pytest.raises(ModelRefusedError, match="tree that was handed over"):
        to_forest(ForestRecord((msgspec.structs.replace(TREE, **change),), (1.0,)))


@pytest.mark.parametrize("weights", [(), (0.0,), (-1.0,), (1.0, 1.0)])
def test_trees_without_a_weight_each_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ModelRefusedError, match="no weight for each tree"):
        to_forest(ForestRecord((TREE,), weights))
