"""The rules of labels told one stay at a time, as slow as they read: what the fast ones are compared with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from model_training.labels import Exclusion
from schemas.features import FEATURE_SET
from schemas.messages import EncounterFeatures

DAYS_30 = timedelta(days=30)
Judged = dict[str, bool | Exclusion]


def literal_labels(records: Sequence[EncounterFeatures]) -> Judged:
    """Judge every encounter by its pseudonym: whether the patient came back, or why it is no index stay."""
    judged: Judged = {}
    patients: dict[tuple[str, str], list[EncounterFeatures]] = defaultdict(list)
    for record in records:
        if record.inpatient:
            patients[record.institution, record.patient_pseudonym].append(record)
        else:
            judged[record.encounter_pseudonym] = Exclusion.NOT_INPATIENT
    for (institution, _), stays in patients.items():
        known_until = max(record.as_of for record in records if record.institution == institution)
        judged |= _of_patient(stays, known_until)
    return judged


def counts(judged: Judged) -> dict[Exclusion, int]:
    return dict(Counter(verdict for verdict in judged.values() if isinstance(verdict, Exclusion)))


def _of_patient(stays: Sequence[EncounterFeatures], known_until: datetime) -> Judged:
    judged: Judged = {}
    episodes = _episodes(stays)
    for number, episode in enumerate(episodes):
        for stay in episode:
            judged[stay.encounter_pseudonym] = Exclusion.SAME_EPISODE
        following = episodes[number + 1][0] if number + 1 < len(episodes) else None
        judged[_last(episode).encounter_pseudonym] = _verdict(episode, following, known_until)
    return judged


def _episodes(stays: Sequence[EncounterFeatures]) -> list[list[EncounterFeatures]]:
    episodes: list[list[EncounterFeatures]] = []
    for stay in sorted(stays, key=lambda s: (s.admitted_at, s.admitted_at - _end(s), s.encounter_pseudonym)):
        if episodes and _is_same_episode(_last(episodes[-1]), stay):
            episodes[-1].append(stay)
        else:
            episodes.append([stay])
    return episodes


def _is_same_episode(last: EncounterFeatures, stay: EncounterFeatures) -> bool:
    if stay.admitted_at <= _end(last):
        return True
    return last.disposition == "other-hcf" and stay.admitted_at <= _end(last) + timedelta(days=1)


def _last(episode: Sequence[EncounterFeatures]) -> EncounterFeatures:
    latest = max(_end(stay) for stay in episode)
    return [stay for stay in episode if _end(stay) == latest][-1]


def _end(stay: EncounterFeatures) -> datetime:
    return stay.discharged_at or stay.admitted_at


def _verdict(
    episode: Sequence[EncounterFeatures], following: EncounterFeatures | None, known_until: datetime
) -> bool | Exclusion:
    last = _last(episode)
    discharged = last.discharged_at
    if last.summary_only:
        return Exclusion.SUMMARY_ONLY
    if discharged is None:
        return Exclusion.OPEN
    for stay in episode:
        if stay.disposition == "exp" or (stay.deceased_at is not None and stay.deceased_at <= discharged):
            return Exclusion.DIED
    if last.disposition == "other-hcf":
        return Exclusion.TRANSFERRED
    if last.disposition == "aadvice":
        return Exclusion.AGAINST_ADVICE
    if known_until < discharged + DAYS_30:
        return Exclusion.CENSORED
    if last.feature_set != FEATURE_SET:
        return Exclusion.OTHER_FEATURE_SET
    return following is not None and not following.planned and following.admitted_at <= discharged + DAYS_30
