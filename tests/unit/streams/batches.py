"""Batches of events for the tests of streams, and what a store would keep between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.history import PatientHistory, decode_history, encode_history
from schemas.intake.event import parse_event
from schemas.intake.structure import fhirkit_issues
from schemas.model import Floats, ModelCard, Sigmoid, Thresholds
from schemas.pseudonyms import institution_keys
from schemas.readmission import OutcomeChange, StayOutcome
from streams.decision import Decision, EncounterKey, Event, Known, Outcome, PatientKey, Sender, decide
from tests.unit.schemas.fhir_events import ARRIVAL, LIMITS, dkfz, raw

TOPIC_ID = "00000000-0000-0000-0000-00000000d0f2"
SECRET = "only for tests, and long enough for them"
VERSION = "1"


@cache
def sender() -> Sender:
    return Sender(dkfz(), institution_keys(SECRET, "dkfz"))


def event(value: Any, offset: int, key: bytes | None = b"Patient/p1") -> Event:
    message = raw(value, key=key, offset=offset, received_at=ARRIVAL + timedelta(seconds=offset))
    return Event(message, parse_event(message, dkfz(), LIMITS, fhirkit_issues), sender(), TOPIC_ID)


def events(*values: Any) -> list[Event]:
    """Make consecutive events; a value of bytes is the key of a tombstone."""
    return [event(None, n, one) if isinstance(one, bytes) else event(one, n) for n, one in enumerate(values)]


@dataclass
class Stored:
    """What is kept between batches, as the store keeps it, and all decisions so far."""

    histories: dict[PatientKey, bytes] = field(default_factory=dict)
    patient_of: dict[tuple[str, str], str | None] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def take(self, batch: Iterable[Event], model_version: str | None = VERSION) -> Decision:
        known = Known({key: decode_history(data) for key, data in self.histories.items()}, self.patient_of)
        decision = decide(batch, known, model_version)
        self.histories |= {key: encode_history(history) for key, history in decision.histories.items()}
        self.patient_of |= decision.patient_of
        self.decisions.append(decision)
        return decision

    def outcomes(self) -> list[Outcome]:
        return [outcome for decision in self.decisions for _, outcome in decision.outcomes]

    def history(self, patient_id: str = "p1") -> PatientHistory:
        return decode_history(self.histories["dkfz", sender().keys.patient_pseudonym(patient_id)])

    def features(self) -> dict[str, Any]:
        """Return what the compacted features topic holds in the end."""
        newest = {one.encounter_pseudonym: one.message for decision in self.decisions for one in decision.features}
        return {pseudonym: message for pseudonym, message in newest.items() if message is not None}

    def standing_scores(self) -> set[str]:
        """Return the records that no other supersedes and that are no retractions."""
        all_scores = [one for decision in self.decisions for one in decision.to_score]
        superseded = {one.supersedes.record_id for one in all_scores if one.supersedes}
        return {one.record_id for one in all_scores if one.message} - superseded


def keep_outcomes(table: dict[EncounterKey, StayOutcome], changes: Mapping[EncounterKey, OutcomeChange]) -> None:
    """Change the rows of `score_outcomes` as the store does."""
    for key, change in changes.items():
        if change.row is None:
            table.pop(key, None)
        elif change.is_new:
            table[key] = change.row
        elif key in table and (joined := change.after(OutcomeChange(table[key], False))).row:
            table[key] = joined.row


def taken(*batches: Sequence[Event]) -> Stored:
    stored = Stored()
    for batch in batches:
        stored.take(batch)
    return stored


CARD = ModelCard(
    feature_names=FEATURE_NAMES,
    feature_set=FEATURE_SET,
    raw_baseline=0.3,
    calibration=Sigmoid(slope=4.0, intercept=-2.5),
    thresholds=Thresholds(medium=0.2, high=0.5),
)


@dataclass(frozen=True)
class LinearModel:
    """A model whose forest is a weighted sum."""

    weights: tuple[float, ...] = tuple(0.004 * (n + 1) for n in range(len(FEATURE_NAMES)))
    name: str = "linear"
    version: str = VERSION
    digest: str = "0" * 64
    registered_at: float | None = None
    card: ModelCard = CARD

    def contributions(self, rows: NDArray[np.float32]) -> Floats:
        contributions: Floats = rows.astype(np.float64) * np.array(self.weights)
        return contributions
