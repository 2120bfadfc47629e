"""What a change of a patient's history does to the outcomes of its earlier stays: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from schemas.history import EncounterFacts, Held, PatientHistory
from schemas.institutions import Institution
from schemas.pseudonyms import InstitutionKeys
from schemas.readmission import Followed, NoIndex, Outcome, OutcomeChange, Stay, StayOutcome, follow
from schemas.stays import is_inpatient


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
    if not _may_matter(before, after, named, institution):
        return
    old, new = _outcomes(before, institution, keys), _outcomes(after, institution, keys)
    for pseudonym in old.keys() - new.keys():
        yield pseudonym, OutcomeChange(None, is_new=False)
    for pseudonym, (encounter_id, followed) in new.items():
        if pseudonym not in old or _told(old[pseudonym][1]) != _told(followed):
            row = _row(followed, encounter_id, after, patient_pseudonym, institution)
            yield pseudonym, OutcomeChange(row, is_new=pseudonym not in old)


def _may_matter(
    before: PatientHistory, after: PatientHistory, named: Collection[str], institution: Institution
) -> bool:
    """Tell quickly whether a stay or the patient's death changed: most events are neither."""
    if _deceased_at(before) != _deceased_at(after):
        return True
    return any(_is_stay(id_, history.encounters.get(id_), institution) for id_ in named for history in (before, after))


def _is_stay(encounter_id: str, held: Held[EncounterFacts] | None, institution: Institution) -> bool:
    return (
        held is not None
        and held.facts is not None
        and held.facts.started is not None
        and is_inpatient(encounter_id, held.facts, institution.rules)
    )


def _outcomes(
    history: PatientHistory, institution: Institution, keys: InstitutionKeys
) -> dict[str, tuple[str, Followed]]:
    """Follow the discharged stays: encounter pseudonym → encounter id and what became of it."""
    ids: dict[str, str] = {}
    stays = []
    for id_, held in history.encounters.items():
        facts = held.facts
        if facts is None or facts.started is None or not is_inpatient(id_, facts, institution.rules):
            continue
        pseudonym = keys.encounter_pseudonym(id_)
        ids[pseudonym] = id_
        stays.append(Stay(pseudonym, facts.started, facts.ended, facts.disposition, facts.planned))
    return {
        one.stay.encounter_pseudonym: (ids[one.stay.encounter_pseudonym], one)
        for one in follow(stays, _deceased_at(history))
        if one.stay.discharged_at is not None
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
