"""Split a dataset by person and in time: pure, given a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_training.dataset import Dataset
from schemas.errors import NotEnoughStaysError

# Fit, calibrate, test.
SHARES = (0.6, 0.2, 0.2)

# Of the persons with stays on both sides. An even draw keeps the proportions of `SHARES` among the stays that are left.
_TO_FIT = 0.5

# Two numbers are calibrated and a rate is estimated in each part; fewer readmissions than these say nothing.
MIN_OF_EACH_CLASS = 10

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts of a dataset that share no person.

    fit: stays discharged before `at`. calibrate, test: stays discharged at `at` or later. dropped: how many stays are
    in no part, because their persons went to the other side of `at`.
    """

    fit: Dataset
    calibrate: Dataset
    test: Dataset
    at: np.datetime64 | None = None
    dropped: int = 0


def split_by_patient_and_time(dataset: Dataset, seed: int) -> Split:
    """Fit on earlier discharges, calibrate and test on the later ones of other persons.

    The time between is that before which `SHARES[0]` of the stays end. Who has stays on both sides goes to one of
    them by an even draw, and what they have on the other is dropped. A draw depends on the
    person and the seed alone: not on the order of stays, and not on who else is there.
    The outcome of the last stays to fit on lies up to 30 days after that time; it is not known of any person that is
    calibrated or tested on.
    """
    at = _boundary(dataset.discharged_at)
    is_early = dataset.discharged_at < at
    persons, person = np.unique(dataset.persons, return_inverse=True)
    has_early, has_late = (np.bincount(person[side], minlength=len(persons)) > 0 for side in (is_early, ~is_early))
    to_fit = has_early & (~has_late | (_draws(persons, seed, "side") < _TO_FIT))
    to_calibrate = _draws(persons, seed, "half") < SHARES[1] / (SHARES[1] + SHARES[2])
    in_fit = is_early & to_fit[person]
    held_out = ~is_early & ~to_fit[person]
    return Split(
        fit=dataset.where(in_fit),
        calibrate=dataset.where(held_out & to_calibrate[person]),
        test=dataset.where(held_out & ~to_calibrate[person]),
        at=at,
        dropped=int((~in_fit & ~held_out).sum()),
    )


def require_enough(split: Split) -> None:
    """Raise NotEnoughStaysError unless each part holds `MIN_OF_EACH_CLASS` stays of either class."""
    parts = (split.fit, split.calibrate, split.test)
    readmitted = [int(part.readmitted.sum()) for part in parts]
    others = [len(part) - count for part, count in zip(parts, readmitted, strict=True)]
    if min(*readmitted, *others) < MIN_OF_EACH_CLASS:
        raise NotEnoughStaysError(
            f"There are not enough stays to train on: {sum(readmitted)} with a readmission within 30 days and "
            f"{sum(others)} without; each of three parts needs {MIN_OF_EACH_CLASS} of both."
        )


def _boundary(discharged_at: NDArray[np.datetime64]) -> np.datetime64:
    if not len(discharged_at):
        return np.datetime64(0, "us")
    place = int(SHARES[0] * len(discharged_at))
    boundary: np.datetime64 = np.partition(discharged_at, place)[place]
    return boundary


def _draws(persons: NDArray[np.bytes_], seed: int, purpose: str) -> NDArray[np.float64]:
    """Draw a number from 0 to 1 for each person, [n]: a hash of the person, the seed and the purpose."""
    key = np.frombuffer(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16], dtype="<u8")
    words = np.frombuffer(persons.tobytes(), dtype="<u8").reshape(-1, 2)
    mixed = _mixed(_mixed(words[:, 0] ^ key[0]) ^ words[:, 1] ^ key[1])
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of numbers so that each depends on all (splitmix64's finalizer, doi:10.1145/2660193.2660195)."""
    first = (numbers ^ (numbers >> np.uint64(30))) * _MIX[0]
    second = (first ^ (first >> np.uint64(27))) * _MIX[1]
    mixed: NDArray[np.uint64] = second ^ (second >> np.uint64(31))
    return mixed
