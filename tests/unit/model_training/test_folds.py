from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model_training.dataset import Dataset
from model_training.folds import deal_persons, every_fold_tells, sample_persons
from tests.unit.model_training.datasets import dataset


@given(st.integers(0, 200), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_all_stays_of_a_person_are_in_one_fold(stays: int, folds: int, seed: int) -> None:
    whole = dataset(1, stays)
    fold = deal_persons(whole, folds, seed)
    of_person: dict[bytes, set[int]] = {}
    for person, number in zip(whole.persons.tolist(), fold.tolist(), strict=True):
        of_person.setdefault(person, set()).add(number)
    assert all(len(numbers) == 1 for numbers in of_person.values())
    assert set(fold.tolist()) <= set(range(folds))


@given(st.permutations(range(40)), st.integers(0, 1000))
def test_who_is_dealt_where_does_not_depend_on_the_order_of_stays(order: list[int], seed: int) -> None:
    whole = dataset(2, 40)
    shuffled = _reordered(whole, np.array(order))
    assert np.array_equal(deal_persons(whole, 3, seed)[order], deal_persons(shuffled, 3, seed))


def test_folds_hold_about_as_many_readmissions_each() -> None:
    whole = dataset(3, 3000)
    fold = deal_persons(whole, 3, 1)
    shares = [whole.where(fold == number).prevalence for number in range(3)]
    assert max(shares) - min(shares) < 0.02
    assert every_fold_tells(whole, fold, 3)
    assert not every_fold_tells(whole.where(whole.readmitted), fold[whole.readmitted], 3)
    assert not every_fold_tells(whole, np.where(whole.readmitted, 0, fold), 3)


def test_a_sample_holds_whole_persons_and_nearly_as_many_stays_as_it_may() -> None:
    whole = dataset(4, 5000)
    sample = sample_persons(whole, 2000, 1)
    assert 1980 <= len(sample) <= 2000
    assert int(np.isin(whole.persons, sample.persons).sum()) == len(sample)
    assert sample_persons(whole, 5000, 1) is whole
    assert set(sample_persons(whole, 2000, 2).persons.tolist()) != set(sample.persons.tolist())


def _reordered(whole: Dataset, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Dataset:
    return Dataset(
        whole.rows[order],
        whole.readmitted[order],
        whole.persons[order],
        whole.institutions[order],
        whole.discharged_at[order],
    )
