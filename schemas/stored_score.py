"""A score as it is stored and read again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from schemas.explanation import Step, steps
from schemas.feature_words import Language
from schemas.features import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScore:
    """A score as PostgreSQL holds it: a `RiskScore` without the hospital's own references.

    superseded_by, superseded_at, superseded_because: the record that replaced it, when, and that record's `reason`;
    None: it is the newest.
    """

    record_id: str
    institution: str
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
    superseded_by: str | None
    superseded_at: datetime | None
    superseded_because: str | None

    def steps(self, language: Language = "en") -> tuple[Step, ...]:
        """Say in words how its features lead from the baseline to the probability; nothing for a retracted score."""
        features = vars(self.features) if self.features else {}
        return steps(features, self.contributions, self.baseline, self.probability, language)
