"""Which stays are followed, and whether the patient came back unplanned within 30 days: pure.

The rules are those of the Tuva project's readmissions mart (https://thetuvaproject.com/data-marts/readmissions; its
models are named below) and of the measure it follows, CMS's Hospital-Wide All-Cause Unplanned Readmission (HWR,
CBE 3656; doi:10.7326/M13-3000). Theirs compare dates of claims; these compare times, which hospitals send. Left out
are their rules on diagnoses (cancer, psychiatry, rehabilitation), which need grouped diagnoses, and on age and
insurance, which choose Medicare's patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_training.columns import equals, flags, microseconds
from schemas.features import FEATURE_SET
from schemas.intake.dispositions import AGAINST_ADVICE, DIED, TRANSFERRED
from schemas.snapshot import uuid_numbers, word_numbers

FOLLOW_UP = timedelta(days=30)

# HWR takes an admission on the day of a transfer or on the next for its second part. Times in UTC would cut days at
# different hours from place to place.
TRANSFER_WINDOW = timedelta(days=1)

_US = timedelta(microseconds=1)
_KEYS = ["patient_pseudonym", "encounter_pseudonym", "admitted_at", "discharged_at"]
_COLUMNS = [*_KEYS, "planned", "summary_only", "disposition", "deceased_at", "feature_set"]
_NEVER = np.iinfo(np.int64).max


class Exclusion(StrEnum):
    """Why an encounter is no index stay; the first that holds counts, in this order."""

    # readmissions__stg_core__encounter: acute inpatient encounters only.
    NOT_INPATIENT = "not inpatient"
    # readmissions__encounter_overlap; HWR: who discharges the patient in the end answers for the readmission.
    SAME_EPISODE = "part of an episode that ended later"
    # Ours: a model learns from stays whose own features are known.
    SUMMARY_ONLY = "known in summary only"
    # readmissions__encounter_data_quality: missing_discharge_date_flag.
    OPEN = "not discharged"
    # readmissions__index_discharge_requirement: disposition 20.
    DIED = "died before or at discharge"
    # readmissions__index_discharge_requirement: disposition 02.
    TRANSFERRED = "transferred to another hospital"
    # readmissions__index_discharge_requirement: disposition 07.
    AGAINST_ADVICE = "left against advice"
    # readmissions__index_time_requirement.
    CENSORED = "followed for less than 30 days"
    # Ours: a model learns from one feature set.
    OTHER_FEATURE_SET = "featurized by another version"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The index stays and whether their patients came back.

    rows: int64 [n], which rows of the table they are, rising. readmitted: bool [n]. excluded: how many encounters
    each rule left out; they and the index stays are all encounters.
    """

    rows: NDArray[np.int64]
    readmitted: NDArray[np.bool_]
    excluded: Mapping[Exclusion, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Stays:
    """Inpatient stays as arrays [n], by patient, then admission, the longest first; times in µs since 1970.

    index: a stay's row in the table. first: whether it is its patient's first. end: an open stay's admission.
    deceased: `_NEVER` where not known. known_until: the end of what its institution knows.
    """

    index: NDArray[np.int64]
    first: NDArray[np.bool_]
    admitted: NDArray[np.int64]
    end: NDArray[np.int64]
    is_open: NDArray[np.bool_]
    planned: NDArray[np.bool_]
    summary_only: NDArray[np.bool_]
    died: NDArray[np.bool_]
    transferred: NDArray[np.bool_]
    against_advice: NDArray[np.bool_]
    deceased: NDArray[np.int64]
    known_until: NDArray[np.int64]
    other_features: NDArray[np.bool_]


def label(table: pa.Table) -> Labels:
    """Label every index stay of a snapshot (`schemas.snapshot`); the order of its rows does not matter.

    An index stay is the last of its episode (`_begins_episode`) and meets no `Exclusion`. Its patient came back if
    the next episode begins unplanned and up to 30 days after the discharge (`_came_back`). Stays are those of one
    patient pseudonym, as features are: another Patient of the same person has a history of its own.
    What an institution knows ends with the latest `as_of` among its encounters. A stay discharged later than 30 days
    before is left out, readmitted or not, since leaving out only those who have not come back yet would make
    readmissions look commoner than they are.
    """
    stays = _stays(table)
    begins = _begins_episode(stays)
    last = _last_of_each(stays, begins)
    verdict = _verdicts(stays, begins, last)
    is_index = verdict < 0
    rows, readmitted = stays.index[last[is_index]], _came_back(stays, begins, last)[is_index]
    order = np.argsort(rows)
    counts = dict(zip(Exclusion, np.bincount(verdict[~is_index], minlength=len(Exclusion)).tolist(), strict=True))
    counts[Exclusion.NOT_INPATIENT] = len(table) - len(stays.index)
    counts[Exclusion.SAME_EPISODE] = len(stays.index) - len(last)
    return Labels(rows[order], readmitted[order], {rule: count for rule, count in counts.items() if count})


def _begins_episode(stays: _Stays) -> NDArray[np.bool_]:
    """Tell which stays begin an episode, [n]: those that neither adjoin an earlier one nor follow a transfer.

    Adjoining: it begins before or at the end of an earlier stay (readmissions__encounter_overlap, which takes dates,
    so that it joins stays of one day; here somebody who is back in the evening came back).
    Following a transfer: the stay that ended last was a transfer to another hospital, and this one begins within
    `TRANSFER_WINDOW` (HWR: transfers are one acute episode). The hospital's own wards then are the other hospital.
    """
    before = _ending_last(stays)  # of stay k - 1 and all before it
    gap = stays.admitted[1:] - stays.end[before[:-1]]
    adjoins = gap <= 0
    follows_transfer = stays.transferred[before[:-1]] & (gap <= TRANSFER_WINDOW // _US)
    begins = np.ones(len(stays.index), dtype=np.bool_)
    begins[1:] = stays.first[1:] | ~(adjoins | follows_transfer)
    return begins


def _ending_last(stays: _Stays) -> NDArray[np.int64]:
    """Return for each stay which of its patient's stays up to it ends last, the later one of equals, [n]."""
    n = len(stays.index)
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(stays.end, kind="stable")] = np.arange(n)
    patient = np.cumsum(stays.first) - 1
    highest = np.maximum.accumulate(patient * n + rank)
    by_rank = np.argsort(rank)
    return by_rank[highest - patient * n] if n else rank


def _last_of_each(stays: _Stays, begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the stay that ends last of each episode, [episodes]; an episode begins after all before it ended."""
    is_final = np.append(begins[1:], True) if len(begins) else begins
    return _ending_last(stays)[is_final]


def _verdicts(stays: _Stays, begins: NDArray[np.bool_], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the first `Exclusion` that holds for each episode's last stay, -1 for an index stay."""
    discharged = stays.end[last]
    episode = np.cumsum(begins) - 1
    died = stays.died | (stays.deceased <= discharged[episode])
    holds = {
        Exclusion.SUMMARY_ONLY: stays.summary_only[last],
        Exclusion.OPEN: stays.is_open[last],
        Exclusion.DIED: np.bincount(episode[died], minlength=len(last)) > 0,
        Exclusion.TRANSFERRED: stays.transferred[last],
        Exclusion.AGAINST_ADVICE: stays.against_advice[last],
        Exclusion.CENSORED: discharged + FOLLOW_UP // _US > stays.known_until[last],
        Exclusion.OTHER_FEATURE_SET: stays.other_features[last],
    }
    number = {rule: place for place, rule in enumerate(Exclusion)}
    return np.select(list(holds.values()), [number[rule] for rule in holds], default=-1)


def _came_back(stays: _Stays, begins: NDArray[np.bool_], last: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell of each episode whether its patient's next one begins unplanned within `FOLLOW_UP`, [episodes].

    Only the next one counts (readmissions__readmission_summary: encounter_seq + 1, planned_flag = 0). After a planned
    one nobody can say which of the two discharges an unplanned one belongs to (HWR).
    """
    opening = np.flatnonzero(begins)
    came_back = np.zeros(len(last), dtype=np.bool_)
    following = opening[1:]
    in_time = stays.admitted[following] - stays.end[last[:-1]] <= FOLLOW_UP // _US
    came_back[:-1] = ~stays.first[following] & ~stays.planned[following] & in_time
    return came_back


def _stays(table: pa.Table) -> _Stays:
    institution, names = word_numbers(table.column("institution"))
    known_until = np.full(len(names), -_NEVER)
    np.maximum.at(known_until, institution, microseconds(table, "as_of", 0))
    index = _by_patient_and_admission(table, institution)
    stays = table.select(_COLUMNS).take(pa.array(index))
    end, is_open = _ends(stays)
    patient = uuid_numbers(stays.column("patient_pseudonym"))
    first = np.ones(len(index), dtype=np.bool_)
    first[1:] = (patient[1:] != patient[:-1]).any(axis=1) | (np.diff(institution[index]) != 0)
    return _Stays(
        index=index,
        first=first,
        admitted=microseconds(stays, "admitted_at", 0),
        end=end,
        is_open=is_open,
        planned=flags(stays, "planned"),
        summary_only=flags(stays, "summary_only"),
        died=equals(stays, "disposition", DIED),
        transferred=equals(stays, "disposition", TRANSFERRED),
        against_advice=equals(stays, "disposition", AGAINST_ADVICE),
        deceased=microseconds(stays, "deceased_at", _NEVER),
        known_until=known_until[institution[index]],
        other_features=np.asarray(stays.column("feature_set").to_numpy()) != FEATURE_SET,
    )


def _by_patient_and_admission(table: pa.Table, institution: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the rows of inpatient stays in the order of `_Stays`; pseudonyms settle the order of equals."""
    rows = np.flatnonzero(flags(table, "inpatient"))
    stays = table.select(_KEYS).take(pa.array(rows))
    names = ("patient_pseudonym", "encounter_pseudonym")
    patient, encounter = (uuid_numbers(stays.column(name)) for name in names)
    end, _ = _ends(stays)
    by_time = (encounter[:, 1], encounter[:, 0], -end, microseconds(stays, "admitted_at", 0))
    return rows[np.lexsort((*by_time, patient[:, 1], patient[:, 0], institution[rows]))]


def _ends(stays: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return when stays end, and which are open.

    An open stay overlaps nothing that began after it: nobody knows its end, and one that the hospital forgot to close
    must not swallow the patient's later ones.
    """
    discharged = microseconds(stays, "discharged_at", _NEVER)
    is_open = discharged == _NEVER
    return np.where(is_open, microseconds(stays, "admitted_at", 0), discharged), is_open
