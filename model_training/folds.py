"""Dealing persons out, so that what is measured is measured on persons that were not learnt from: pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_training.dataset import Dataset


def deal_persons(dataset: Dataset, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each stay, [n], 0 to `folds` - 1: all stays of a person in one.

    Persons with a readmission and persons without are dealt out each for themselves, so that the folds hold about as
    many of either. The order of the stays does not matter to who goes where.
    """
    persons, person = np.unique(dataset.persons, return_inverse=True)
    came_back = np.bincount(person, weights=dataset.readmitted, minlength=len(persons)) > 0
    shuffled = np.random.default_rng(seed).permutation(len(persons))
    dealt = np.empty(len(persons), dtype=np.int64)
    dealt[shuffled[np.argsort(~came_back[shuffled], kind="stable")]] = np.arange(len(persons)) % folds
    return np.asarray(dealt[person], dtype=np.int64)


def sample_persons(dataset: Dataset, max_stays: int, seed: int) -> Dataset:
    """Return all stays of randomly drawn persons, `max_stays` at most; a dataset that is smaller as it is."""
    if len(dataset) <= max_stays:
        return dataset
    persons, person, stays = np.unique(dataset.persons, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(persons))
    drawn = np.zeros(len(persons), dtype=np.bool_)
    drawn[shuffled[np.cumsum(stays[shuffled]) <= max_stays]] = True
    return dataset.where(drawn[person])


def every_fold_tells(dataset: Dataset, fold: NDArray[np.int64], folds: int) -> bool:
    """Tell whether each fold holds stays of both classes."""
    readmitted = np.bincount(fold[dataset.readmitted], minlength=folds)
    others = np.bincount(fold[~dataset.readmitted], minlength=folds)
    return bool(min(readmitted.min(), others.min()) > 0)
