"""Send the results of events again that were applied before: pure.

A worker that dies between its commit and its acknowledgement leaves events that are applied but perhaps not
published. They come again, and only their results are sent: scores as they are stored, features as the history
has them now, which is what a compacted topic is to hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from schemas.features import Features
from schemas.history import PatientHistory
from schemas.messages import RiskScore
from schemas.rejection import Issue, Reason
from streams.decision import Event, FeaturesChange, PatientKey, Rejected, features_message


def stored_scores(
    events: Iterable[Event], rows: Sequence[Mapping[str, Any]], histories: Mapping[PatientKey, PatientHistory]
) -> list[RiskScore]:
    """Rebuild the stored scores with the hospital's own references, which only the histories know."""
    senders = {event.sender.institution.id: event.sender for event in events}
    scores = []
    for row in rows:
        history = histories.get((row["institution"], row["patient_pseudonym"]))
        if history is None or not history.patient_id:
            continue
        keys = senders[row["institution"]].keys
        by_pseudonym = {keys.encounter_pseudonym(id_): id_ for id_ in history.encounters}
        scores.append(
            RiskScore(
                **{**row, "features": Features(**row["features"]) if row["features"] else None},
                patient_reference=f"Patient/{history.patient_id}",
                encounter_reference=f"Encounter/{by_pseudonym[row['encounter_pseudonym']]}",
            )
        )
    return scores


def current_features(
    events: Iterable[Event], histories: Mapping[PatientKey, PatientHistory], patients: Iterable[PatientKey]
) -> list[FeaturesChange]:
    """Say what the features topic is to hold of the given patients' encounters now."""
    senders = {event.sender.institution.id: event.sender for event in events}
    changes = []
    for key in patients:
        history, sender = histories.get(key), senders[key[0]]
        if history is None:
            continue
        changes += [FeaturesChange(key[0], pseudonym, None) for pseudonym in history.erased]
        for encounter_id in history.encounters:
            message = features_message(history, key[1], encounter_id, sender)
            changes.append(FeaturesChange(key[0], sender.keys.encounter_pseudonym(encounter_id), message))
    return changes


def stored_rejections(
    events: Iterable[Event], rows: Mapping[tuple[str, int, int], Sequence[Mapping[str, str]]]
) -> list[Rejected]:
    """Rebuild the rejections; rows by (topic id, partition, offset)."""
    found = []
    for event in events:
        stored = rows.get((event.topic_id, event.raw.partition, event.raw.offset), ())
        issues = tuple(Issue(Reason(one["reason"]), one["path"], one["reason"]) for one in stored)
        if issues:
            found.append(Rejected(event, event.parsed.issues or issues))
    return found
