from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model_training.dataset import Dataset
from model_training.search import SHAPES, TreeShape, Tried, best, fit_forest, raw_probability, search
from tests.unit.model_training.datasets import dataset

STUMP, TREE = TreeShape(1, 500, 2), TreeShape(7, 20)


def clock_that_jumps(seconds: float) -> Callable[[], float]:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds
        return now - seconds

    return clock


def test_the_shape_that_ranks_unseen_persons_best_wins_and_what_was_tried_is_kept() -> None:
    tried = search(dataset(1, 3000), 1, shapes=(STUMP, TREE))
    assert [one.shape for one in tried] == [STUMP, TREE]
    assert best(tried) == TREE
    assert 0.5 < tried[0].auroc < tried[1].auroc < 0.8


def test_with_time_for_all_the_same_seed_measures_the_same() -> None:
    whole = dataset(2, 600)
    once, again, other = (search(whole, seed, shapes=(TREE,)) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_the_budget_ends_the_search_but_never_before_the_first_shape() -> None:
    whole = dataset(2, 600)
    shapes = (STUMP,) * 6
    assert len(search(whole, 1, 0.0, shapes, clock_that_jumps(1))) == 1
    # Each shape takes a second; a fourth would end after 4 s.
    assert len(search(whole, 1, 3.5, shapes, clock_that_jumps(1))) == 3


def test_nothing_is_tried_where_a_fold_would_tell_nothing_and_the_first_shape_stands() -> None:
    whole = dataset(2, 600)
    one_readmitted = Dataset(whole.rows, np.arange(600) == 7, whole.persons, whole.institutions, whole.discharged_at)
    assert search(one_readmitted, 1) == ()
    assert best(()) == SHAPES[0]


def test_of_equals_the_earliest_wins() -> None:
    assert best((Tried(STUMP, 0.6), Tried(TREE, 0.7), Tried(SHAPES[0], 0.7))) == TREE


def test_no_leaf_of_any_shape_stands_for_fewer_than_ten_stays_and_leaves_stay_few() -> None:
    assert all(shape.min_samples_leaf >= 10 and shape.max_leaf_nodes <= 128 for shape in SHAPES)


def test_the_same_stays_and_seed_give_the_same_trees() -> None:
    whole = dataset(3, 600)
    one, again, other = (raw_probability(fit_forest(whole, TREE, seed), whole.rows) for seed in (7, 7, 8))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
