"""Labelled stays as arrays: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_training.labels import LabelledStay
from schemas.features import FEATURE_NAMES


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Index stays, one a row.

    rows: float32 [n, features], in the order of `schemas.features`, UNKNOWN for what is missing: what a worker scores.
    readmitted: bool [n]. patients: str [n], pseudonyms.
    """

    rows: NDArray[np.float32]
    readmitted: NDArray[np.bool_]
    patients: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, chosen: NDArray[np.bool_]) -> Dataset:
        """Return the chosen rows; `chosen` is bool [n]."""
        return Dataset(self.rows[chosen], self.readmitted[chosen], self.patients[chosen])

    @property
    def prevalence(self) -> float:
        """The share of stays with a readmission; 0 for no stays."""
        return float(self.readmitted.mean()) if len(self) else 0.0


def assemble(stays: Sequence[LabelledStay]) -> Dataset:
    """Lay labelled stays out as arrays, in their order."""
    vectors = [one.stay.features.vector() for one in stays]
    return Dataset(
        rows=np.array(vectors, dtype=np.float32).reshape(-1, len(FEATURE_NAMES)),
        readmitted=np.array([one.readmitted for one in stays], dtype=np.bool_),
        patients=np.array([one.stay.patient_pseudonym for one in stays], dtype=np.str_),
    )
