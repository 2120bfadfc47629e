"""Labelled stays as arrays: pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_training.columns import microseconds
from model_training.labels import Labels
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.snapshot import uuid_numbers, word_numbers


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Index stays, one a row.

    rows: float32 [n, features], in the order of `schemas.features`, UNKNOWN for what is missing: what a worker scores.
    readmitted: bool [n]. persons: S16 [n], the person behind the patient, of one institution (`persons_of`).
    institutions: str [n]. discharged_at: datetime64[us] [n], UTC.
    """

    rows: NDArray[np.float32]
    readmitted: NDArray[np.bool_]
    persons: NDArray[np.bytes_]
    institutions: NDArray[np.str_]
    discharged_at: NDArray[np.datetime64]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, chosen: NDArray[np.bool_]) -> Dataset:
        """Return the chosen rows; `chosen` is bool [n]."""
        return Dataset(
            self.rows[chosen],
            self.readmitted[chosen],
            self.persons[chosen],
            self.institutions[chosen],
            self.discharged_at[chosen],
        )

    @property
    def prevalence(self) -> float:
        """The share of stays with a readmission; 0 for no stays."""
        return float(self.readmitted.mean()) if len(self) else 0.0


def assemble(table: pa.Table, labels: Labels) -> Dataset:
    """Lay the labelled stays of a snapshot out as arrays, in their order."""
    columns = ("institution", "patient_pseudonym", "person_pseudonym", "discharged_at", *FEATURE_NAMES)
    stays = table.select(columns).take(pa.array(labels.rows))
    rows = np.empty((len(stays), len(FEATURE_NAMES)), dtype=np.float32)
    for number, name in enumerate(FEATURE_NAMES):
        rows[:, number] = pc.fill_null(stays.column(name), UNKNOWN).to_numpy()
    institution, names = word_numbers(stays.column("institution"))
    return Dataset(
        rows=rows,
        readmitted=labels.readmitted,
        persons=persons_of(stays),
        institutions=np.array(names, dtype=np.str_)[institution] if names else np.empty(0, dtype=np.str_),
        discharged_at=microseconds(stays, "discharged_at", 0).view("datetime64[us]"),
    )


def persons_of(table: pa.Table) -> NDArray[np.bytes_]:
    """Name the person of each row, S16 [n]: the one its patient is linked to, else the patient.

    The pseudonym is mixed with the institution's name, so that nobody is the same person at two institutions.
    """
    person = uuid_numbers(pc.coalesce(table.column("person_pseudonym"), table.column("patient_pseudonym")))
    institution, names = word_numbers(table.column("institution"))
    masks = np.array([_mask(name) for name in names], dtype=np.uint64).reshape(-1, 2)
    mixed = np.ascontiguousarray(person ^ masks[institution], dtype=np.uint64)
    return mixed.view("S16").reshape(len(table))


def _mask(institution: str) -> tuple[int, int]:
    digest = hashlib.sha256(institution.encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
