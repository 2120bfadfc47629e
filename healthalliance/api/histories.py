"""Patients' stored histories, which only the institution's own key opens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from connectors.score_reading import sealed_histories
from healthalliance.api.service import Service
from schemas.history import EncounterFacts, PatientHistory, decode_history
from schemas.stored_score import StoredScore
from streams.decision import Sender


@dataclass(frozen=True, slots=True)
class Known:
    """An encounter as the hospital names it, and what it has said of it; all None where nothing is known any more."""

    patient: str | None = None
    encounter: str | None = None
    facts: EncounterFacts | None = None


async def stored_histories(
    service: Service, sender: Sender, patient_pseudonyms: Iterable[str]
) -> dict[str, PatientHistory]:
    """Read what is stored of the sender's patients, by pseudonym, as far as there is anything."""
    sealed = await sealed_histories(service.pools[sender.institution.id], sender.institution.id, patient_pseudonyms)
    return {pseudonym: decode_history(sender.keys.unseal(one, pseudonym)) for pseudonym, one in sealed.items()}


async def encounters_of(service: Service, sender: Sender, scores: Iterable[StoredScore]) -> dict[str, Known]:
    """Look up what the scores' encounters are, by pseudonym, in the patients' histories, which only its key opens."""
    histories = await stored_histories(service, sender, {one.patient_pseudonym for one in scores})
    return {
        sender.keys.encounter_pseudonym(id_): Known(f"Patient/{history.patient_id}", f"Encounter/{id_}", held.facts)
        for history in histories.values()
        for id_, held in history.encounters.items()
    }
