"""The Diabetes 130 file's rows beside what the pipeline made of them: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.datasets.diabetes130 import Stay
from model_training.labels import Labels
from schemas.features import FEATURE_NAMES
from schemas.intake.dispositions import AGAINST_ADVICE, DIED, TRANSFERRED
from schemas.pseudonyms import InstitutionKeys

_GENDER = {"female": 0.0, "male": 1.0}
# Discharges after which a stay is no index stay.
_NOT_ELIGIBLE = {DIED: "died", TRANSFERRED: "transferred to acute care", AGAINST_ADVICE: "left against advice"}


@dataclass(frozen=True, slots=True)
class Compared:
    """How the snapshot differs from the file.

    missing: rows that are not in the snapshot. features: rows that differ in a feature, by its name. not_eligible:
    rows by why they are no index stays, as the file says it. eligible: the others; of them, how many labels equal
    the column's `<30`, how many do not, and how many rows got none. others_labelled: index stays that are no
    eligible rows.
    """

    missing: int
    features: Mapping[str, int]
    not_eligible: Mapping[str, int]
    eligible: int
    labels_equal: int
    labels_different: int
    labels_lacking: int
    others_labelled: int


def columns_of(stay: Stay) -> tuple[float, ...]:
    """Return a row's own columns in the order of the features, counted by the file and not by the pipeline."""
    return (
        stay.age_years,
        _GENDER.get(stay.gender, 2.0),
        stay.number_diagnoses,
        stay.num_medications,
        stay.number_inpatient + stay.number_emergency + stay.number_outpatient,
        stay.number_inpatient,
        stay.number_emergency,
        stay.time_in_hospital,
        float(stay.priority == "EM" or stay.admit_source == "emd"),
    )


def places_in(table: pa.Table, stays: Sequence[Stay], keys: InstitutionKeys) -> NDArray[np.int64]:
    """Return which of the stays each row of a snapshot is, -1 for none, [rows]."""
    places = {UUID(keys.encounter_pseudonym(stay.encounter_id)).bytes: place for place, stay in enumerate(stays)}
    return np.array([places.get(one, -1) for one in table.column("encounter_pseudonym").to_pylist()], dtype=np.int64)


def compared(table: pa.Table, labels: Labels, stays: Sequence[Stay], places: NDArray[np.int64]) -> Compared:
    """Compare a snapshot and its labels with the stays of the file; `places` as `places_in` gives them."""
    rows = np.flatnonzero(places >= 0)
    of_file = np.array([columns_of(stays[place]) for place in places[rows]]).reshape(-1, len(FEATURE_NAMES))
    differing = {
        name: int((np.asarray(table.column(name).to_numpy())[rows] != of_file[:, number]).sum())
        for number, name in enumerate(FEATURE_NAMES)
    }
    eligible = {place for place, stay in enumerate(stays) if stay.disposition not in _NOT_ELIGIBLE}
    labelled = dict(zip(places[labels.rows].tolist(), labels.readmitted.tolist(), strict=True))
    equal = [labelled[place] == (stays[place].readmitted == "<30") for place in eligible if place in labelled]
    return Compared(
        missing=len(stays) - len(rows),
        features=differing,
        not_eligible=dict(Counter(why for one in stays if (why := _NOT_ELIGIBLE.get(one.disposition or "")))),
        eligible=len(eligible),
        labels_equal=sum(equal),
        labels_different=len(equal) - sum(equal),
        labels_lacking=len(eligible) - len(equal),
        others_labelled=len(labels.rows) - len(equal),
    )
