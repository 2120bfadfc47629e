"""The records on the output topics; their Avro schemas are generated from here (`schemas/avro`)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from schemas.features import Features

_RECORDS = UUID("0d5cf4b6-3a7e-5f5e-9a55-6a1f8f0b7c11")


class Band(StrEnum):
    """How high a risk is, the lowest first; the thresholds are the model's."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


def rank(band: Band | None) -> int:
    """Order bands by risk; no band, as of a retracted score, lies below all.

    >>> rank(None) < rank(Band.LOW) < rank(Band.MEDIUM) < rank(Band.HIGH)
    True
    """
    return 0 if band is None else 1 + list(Band).index(band)


class ScoreStatus(StrEnum):
    """A score's standing, in the words of FHIR's RiskAssessment.status."""

    FINAL = "final"
    AMENDED = "amended"
    ENTERED_IN_ERROR = "entered-in-error"


class Cause(StrEnum):
    """Why a score is written where there was one before: its `reason`."""

    ENCOUNTER_UPDATED = "encounter-updated"
    HISTORY_CHANGED = "history-changed"
    RETRACTED = "retracted"


@dataclass(frozen=True)
class RiskScore:
    """One version of an encounter's readmission risk.

    record_id: deterministic; a repeat carries the same one, so consumers drop what they have seen.
    patient_reference, encounter_reference: the hospital's own; never outside `risk.<institution>`.
    encounter_version: the version of the Encounter that was scored, e.g. `version_id:3`.
    probability: calibrated, of another inpatient stay at the institution that begins within 30 days of discharge,
        0 to 1; None if retracted.
    baseline: the model's probability before it looks at any feature; with `contributions` it adds up to
        `probability`.
    supersedes, reason: the record this one replaces and why (`encounter-updated`, `history-changed`, `retracted`).
    as_of: the time the features hold for; received_at: the event's arrival at the broker; all in UTC.
    topic_id, source_partition, source_offset: the event that caused this score.
    """

    record_id: str
    institution: str
    patient_reference: str
    encounter_reference: str
    patient_pseudonym: str
    encounter_pseudonym: str
    encounter_version: str
    status: str
    inpatient: bool
    as_of: datetime
    received_at: datetime
    scored_at: datetime
    probability: float | None
    band: str | None
    baseline: float | None
    contributions: dict[str, float]
    features: Features | None
    feature_set: int
    model_name: str
    model_version: str
    model_digest: str
    supersedes: str | None
    reason: str | None
    topic_id: str
    source_partition: int
    source_offset: int


@dataclass(frozen=True)
class EncounterFeatures:
    """An encounter's features as scored, and what labels are made of; pseudonyms only.

    admitted_at, discharged_at, as_of: UTC; discharged_at None while the encounter is open.
    disposition: HL7 discharge-disposition code; `exp` died.
    deceased_at: the patient's death as far as is known.
    planned: the admission was elective.
    summary_only: the visit is known in summary only; it counts for others, but its own features are incomplete.
    person_pseudonym: who the patient is, where another Patient stands for the same person; else None.
    """

    institution: str
    patient_pseudonym: str
    encounter_pseudonym: str
    encounter_version: str
    status: str
    class_code: str | None
    inpatient: bool
    admitted_at: datetime
    discharged_at: datetime | None
    as_of: datetime
    disposition: str | None
    deceased_at: datetime | None
    features: Features
    feature_set: int
    planned: bool = False
    person_pseudonym: str | None = None
    summary_only: bool = False


def record_id(topic_id: str, partition: int, offset: int, encounter_pseudonym: str, model_version: str) -> str:
    """Name a score by what it came from: the same event, encounter and model give the same id.

    >>> record_id("t", 0, 5, "e", "1") == record_id("t", 0, 5, "e", "1")
    True
    """
    return str(uuid5(_RECORDS, f"{topic_id}/{partition}/{offset}/{encounter_pseudonym}/{model_version}"))
