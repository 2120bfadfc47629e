"""Which stays are followed, and whether the patient came back within 30 days: pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from schemas.features import FEATURE_SET
from schemas.intake.dispositions import DIED
from schemas.messages import EncounterFeatures

FOLLOW_UP = timedelta(days=30)


class Exclusion(StrEnum):
    """Why an encounter is no index stay."""

    NOT_INPATIENT = "not inpatient"
    SAME_EPISODE = "part of an episode that ended later"
    OPEN = "not discharged"
    DIED = "died before or at discharge"
    CENSORED = "followed for less than 30 days"
    OTHER_FEATURE_SET = "featurized by another version"


@dataclass(frozen=True, slots=True)
class LabelledStay:
    """An index stay and whether its patient was admitted again within 30 days of discharge."""

    stay: EncounterFeatures
    readmitted: bool


@dataclass(frozen=True, slots=True)
class Labels:
    """The index stays, by institution, patient and discharge, and how many encounters each rule left out."""

    stays: tuple[LabelledStay, ...]
    excluded: Mapping[Exclusion, int]


def label(records: Iterable[EncounterFeatures]) -> Labels:
    """Label every index stay among the records; their order does not matter.

    An index stay is inpatient, discharged alive, and followed for 30 days: what an institution knows ends with the
    latest `as_of` among its records, and a stay discharged later than 30 days before is left out, readmitted or not,
    since leaving out only those who have not come back yet would make readmissions look commoner than they are.
    A readmission is an inpatient stay of the same patient at the same institution that begins at the discharge or up
    to 30 days after it. Stays that overlap are one episode: only the one that ends last is an index stay, and what
    counts as a readmission is the next episode.
    """
    known_until: dict[str, datetime] = {}
    patients: dict[tuple[str, str], list[EncounterFeatures]] = defaultdict(list)
    excluded: Counter[Exclusion] = Counter()
    for record in records:
        known_until[record.institution] = max(record.as_of, known_until.get(record.institution, record.as_of))
        if record.inpatient:
            patients[record.institution, record.patient_pseudonym].append(record)
        else:
            excluded[Exclusion.NOT_INPATIENT] += 1
    labelled = []
    for (institution, _), stays in sorted(patients.items()):
        for stay, verdict in _judged(stays, known_until[institution]):
            if isinstance(verdict, Exclusion):
                excluded[verdict] += 1
            else:
                labelled.append(LabelledStay(stay, verdict))
    return Labels(tuple(labelled), dict(excluded))


def _judged(
    stays: Sequence[EncounterFeatures], known_until: datetime
) -> Iterator[tuple[EncounterFeatures, bool | Exclusion]]:
    """Judge one patient's inpatient stays at one institution, episode by episode."""
    for episode, following in pairwise([*_episodes(stays), None]):
        assert episode is not None
        last = max(episode, key=_end)
        for stay in episode:
            if stay is not last:
                yield stay, Exclusion.SAME_EPISODE
        next_admission = following[0].admitted_at if following else None
        yield last, _verdict(last, episode, next_admission, known_until)


def _episodes(stays: Sequence[EncounterFeatures]) -> list[list[EncounterFeatures]]:
    """Join overlapping stays, in order of admission; among those admitted at once the longest comes first."""
    episodes: list[list[EncounterFeatures]] = []
    end: datetime | None = None
    for stay in sorted(stays, key=lambda s: (s.admitted_at, s.admitted_at - _end(s), s.encounter_pseudonym)):
        if end is not None and stay.admitted_at < end:
            episodes[-1].append(stay)
        else:
            episodes.append([stay])
        end = max(end, _end(stay)) if end else _end(stay)
    return episodes


def _end(stay: EncounterFeatures) -> datetime:
    # An open stay overlaps nothing that began after it: nobody knows its end, and one that the hospital forgot to
    # close must not swallow the patient's later ones.
    return stay.discharged_at or stay.admitted_at


def _verdict(
    last: EncounterFeatures,
    episode: Sequence[EncounterFeatures],
    next_admission: datetime | None,
    known_until: datetime,
) -> bool | Exclusion:
    discharged = last.discharged_at
    if discharged is None:
        return Exclusion.OPEN
    if any(_died(stay, discharged) for stay in episode):
        return Exclusion.DIED
    if discharged + FOLLOW_UP > known_until:
        return Exclusion.CENSORED
    if last.feature_set != FEATURE_SET:
        return Exclusion.OTHER_FEATURE_SET
    return next_admission is not None and next_admission <= discharged + FOLLOW_UP


def _died(stay: EncounterFeatures, discharged: datetime) -> bool:
    return stay.disposition == DIED or (stay.deceased_at is not None and stay.deceased_at <= discharged)
