"""Synthetic index stays as arrays: quick to make, with a risk that some of the features tell."""

from __future__ import annotations

import numpy as np

from model_training.dataset import Dataset
from model_training.splitting import Split
from schemas.features import UNKNOWN

START = np.datetime64("2024-01-01", "us")


def dataset(seed: int, stays: int, institution: str = "dkfz", base: float = -3.5) -> Dataset:
    """Simulate stays of some two thirds as many persons; `base` is the logit of the least risk."""
    rng = np.random.default_rng(seed)
    persons = np.sort(rng.integers(0, max(stays * 2 // 3, 1), stays))
    conditions, age = rng.poisson(4, stays), rng.integers(18, 95, stays).astype(np.float64)
    prior, emergency = np.minimum(rng.geometric(0.6, stays) - 1, 8), rng.random(stays) < 0.4
    length = rng.gamma(2, 2.5, stays)
    visits = rng.poisson(0.5 + emergency)
    logit = base + 0.25 * conditions + 0.5 * prior + 0.7 * emergency + 0.01 * (age - 60)
    columns = [
        np.where(rng.random(stays) < 0.02, UNKNOWN, age),
        rng.integers(0, 2, stays),
        conditions,
        rng.poisson(conditions + 1),
        prior + rng.poisson(1, stays),
        prior,
        visits,
        length,
        emergency,
    ]
    return Dataset(
        rows=np.column_stack(columns).astype(np.float32),
        readmitted=rng.random(stays) < 1 / (1 + np.exp(-logit)),
        persons=np.array([f"{institution}-{number}".encode() for number in persons], dtype="S16"),
        institutions=np.full(stays, institution),
        discharged_at=START + rng.integers(0, 700 * 24 * 3600, stays).astype("timedelta64[s]"),
    )


def dealt(whole: Dataset, seed: int) -> Split:
    """Deal the persons of a dataset out: three of five to fit, one to calibrate, one to test."""
    persons, person = np.unique(whole.persons, return_inverse=True)
    part = np.random.default_rng(seed).integers(0, 5, len(persons))[person]
    return Split(whole.where(part < 3), whole.where(part == 3), whole.where(part == 4))
