"""What a hospital sends: one Kafka message before it is one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """One event as a hospital publishes it.

    key: the patient as the hospital writes it, `Patient/<id>`; for a tombstone what it deletes,
        `Encounter/<id>` or `Patient/<id>`; empty where nobody can tell.
    value: FHIR JSON, None for a tombstone.
    at: when it would have been sent in the hospital's world, in UTC.
    fault: the name of the simulated sender's fault, None for an event as it should be.
    """

    key: bytes
    value: bytes | None
    at: datetime
    fault: str | None = None
