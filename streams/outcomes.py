"""What a change of a patient's history does to the outcomes of its earlier stays: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from schemas.history import PatientHistory
from schemas.institutions import Institution
from schemas.intake.dispositions import DIED
from schemas.pseudonyms import InstitutionKeys
from schemas.readmission import (
    FOLLOW_UP,
    TRANSFER_WINDOW,
    Followed,
    NoIndex,
    Outcome,
    OutcomeChange,
    Stay,
    StayOutcome,
    follow,
)
from schemas.stays import is_inpatient

Stays = dict[str, Stay]  # by encounter id


def outcome_changes(
    before: PatientHistory,
    after: PatientHistory,
    named: Collection[str],
    patient_pseudonym: str,
    institution: Institution,
    keys: InstitutionKeys,
) -> Iterator[tuple[str, OutcomeChange]]:
    """Yield the changed outcomes by encounter pseudonym, from `before` to `after` an event.

    named: the encounters that may differ between the two. The same histories give the same outcomes, whatever events
    they came from and in whichever order.
    """
    old_stays, new_stays = (_stays(history, named, institution, keys) for history in (before, after))
    died, dies = _deceased_at(before), _deceased_at(after)
    if old_stays == new_stays and died == dies:
        return  # most events
    changed = (*old_stays.values(), *new_stays.values())
    since = min(stay.admitted_at for stay in changed) - FOLLOW_UP - TRANSFER_WINDOW if died == dies else None
    others = _stays(after, after.encounters.keys() - named, institution, keys, since)
    ids = {stay.encounter_pseudonym: id_ for stays in (others, new_stays) for id_, stay in stays.items()}
    old = _discharged(follow((*others.values(), *old_stays.values()), died))
    new = _discharged(follow((*others.values(), *new_stays.values()), dies))
    for pseudonym in old.keys() - new.keys():
        yield pseudonym, OutcomeChange(None, is_new=False)
    for pseudonym, followed in new.items():
        held = old.get(pseudonym)
        if held is None or _told(held) != _told(followed):
            row = _row(followed, ids[pseudonym], after, patient_pseudonym, institution)
            yield pseudonym, OutcomeChange(row, is_new=held is None)


def _stays(
    history: PatientHistory,
    among: Iterable[str],
    institution: Institution,
    keys: InstitutionKeys,
    since: datetime | None = None,
) -> Stays:
    """Pick the inpatient stays among encounters, those that ended before `since` only where the patient died in them.

    One that ended more than the follow-up before a change is neither followed by it nor says anything of those that
    are, unless its patient died in it.
    """
    found: Stays = {}
    for id_ in among:
        held = history.encounters.get(id_)
        facts = held.facts if held is not None else None
        if facts is None or facts.started is None:
            continue
        if since is not None and facts.ended is not None and facts.ended < since and facts.disposition != DIED:
            continue
        if is_inpatient(id_, facts, institution.rules):
            pseudonym = keys.encounter_pseudonym(id_)
            found[id_] = Stay(
                pseudonym, facts.started, facts.ended, facts.disposition, facts.planned, facts.summary_only
            )
    return found


def _discharged(followed: Iterable[Followed]) -> dict[str, Followed]:
    """Keep the stays that have an outcome: nothing ever scored those that are known in summary only."""
    return {
        one.stay.encounter_pseudonym: one
        for one in followed
        if one.stay.discharged_at is not None and not one.stay.summary_only
    }


def _told(followed: Followed) -> tuple[datetime, NoIndex | None, datetime | None]:
    return followed.stay.end, followed.because, followed.readmitted_at


def _row(
    followed: Followed, encounter_id: str, history: PatientHistory, patient_pseudonym: str, institution: Institution
) -> StayOutcome:
    state = history.scores.get(encounter_id)
    scored = state if state is not None and state.record_id else None
    return StayOutcome(
        institution=institution.id,
        encounter_pseudonym=followed.stay.encounter_pseudonym,
        patient_pseudonym=patient_pseudonym,
        discharged_at=followed.stay.end,
        outcome=_outcome(followed.because, followed.readmitted_at),
        because=followed.because,
        readmitted_at=followed.readmitted_at,
        record_id=scored.record_id if scored else None,
        received_at=scored.received_at if scored else None,
    )


def _outcome(because: NoIndex | None, readmitted_at: datetime | None) -> Outcome:
    if because is not None:
        return Outcome.CENSORED
    return Outcome.PENDING if readmitted_at is None else Outcome.READMITTED


def _deceased_at(history: PatientHistory) -> datetime | None:
    return history.patient.facts.deceased_at if history.patient and history.patient.facts else None
