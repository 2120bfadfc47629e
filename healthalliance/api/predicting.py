"""The features of an event on request, by the stream's own core: pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from schemas.history import Kind, PatientHistory
from schemas.messages import EncounterFeatures
from streams.decision import Event, Known, PatientKey, decide, features_message


@dataclass(frozen=True, slots=True)
class Featurized:
    """An encounter of an event, its features, and the time they hold for (UTC)."""

    patient_pseudonym: str
    encounter_id: str
    encounter_pseudonym: str
    message: EncounterFeatures

    @property
    def as_of(self) -> datetime:
        """The time the features hold for."""
        return self.message.as_of


def featurize_newest(event: Event, histories: dict[PatientKey, PatientHistory]) -> Featurized | None:
    """Fold an event into its patients' histories and featurize the newest of the encounters it names.

    None where it names none that would be scored. The histories given are not changed.
    """
    sender, institution_id = event.sender, event.sender.institution.id
    folded = histories | decide([event], Known(histories, {}), None).histories
    found = []
    for entry in event.parsed.entries:
        if entry.kind is not Kind.ENCOUNTER or entry.patient_id is None:
            continue
        patient = sender.keys.patient_pseudonym(entry.patient_id)
        history = folded.get((institution_id, patient))
        if history is None or entry.id not in history.encounters:
            continue
        message = features_message(history, patient, entry.id, sender)
        if message is not None:
            found.append(Featurized(patient, entry.id, message.encounter_pseudonym, message))
    return max(found, key=lambda one: (one.as_of, one.encounter_id), default=None)
