"""What alerting knows of a score, of a crossing that waits to be told, and what it tells: pure, pseudonyms only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from schemas.explanation import band_word, headline, main_reasons
from schemas.feature_words import Language
from schemas.messages import Band

_ALERTS = UUID("4c0a4f5e-6b8f-5d0c-8f0e-2d6f0f0f7a53")


class SinkKind(StrEnum):
    """The ways that an alert can go."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"
    STDOUT = "stdout"


def alert_id(institution: str, channel: str, record_id: str) -> str:
    """Name the alert of a crossing, so that whoever decides on it again gives it the same name."""
    return str(uuid5(_ALERTS, f"{institution}/{channel}/{record_id}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What alerting needs of a score.

    band, probability: None where nobody is to be alerted: it was retracted, or is of no inpatient stay.
    """

    record_id: str
    encounter_pseudonym: str
    patient_pseudonym: str
    topic_id: str
    source_partition: int
    source_offset: int
    supersedes: str | None
    scored_at: datetime
    band: Band | None
    probability: float | None


def scored(values: Mapping[str, Any]) -> Scored:
    """Take what alerting needs out of the fields of a `RiskScore`."""
    told = values["inpatient"] and values["band"] is not None
    return Scored(
        record_id=values["record_id"],
        encounter_pseudonym=values["encounter_pseudonym"],
        patient_pseudonym=values["patient_pseudonym"],
        topic_id=values["topic_id"],
        source_partition=values["source_partition"],
        source_offset=values["source_offset"],
        supersedes=values["supersedes"],
        scored_at=values["scored_at"],
        band=Band(values["band"]) if told else None,
        probability=values["probability"] if told else None,
    )


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alert that nobody has been given yet.

    record_id: the score that crossed. known: the band that the encounter was in as far as people were told, None for
    below the least band.
    """

    record_id: str
    known: Band | None


@dataclass(frozen=True, slots=True)
class Opened:
    """An alert that waits from now on: the crossing and the score by which it came."""

    crossing: Crossing
    score: Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An alert in the queue, with what decides whether it is its turn.

    probability, band: of the score that stands now. due_at: not before; later than `decided_at` after a failure.
    given_at: when it got its place in a day's budget, None if it has none yet. claimed_until: some process sends it.
    acknowledged: the highest band that somebody has said to have seen.
    """

    alert_id: str
    probability: float
    band: Band
    decided_at: datetime
    due_at: datetime
    given_at: datetime | None = None
    claimed_until: datetime | None = None
    snoozed_until: datetime | None = None
    acknowledged: Band | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert as it is sent. A receiver that has seen its `alert_id` drops it.

    record_id: the score that stands; reasons: the facts that raise it most, in words. decided_at: when the encounter
    crossed into the band; all times UTC. link: the page to look at, None where there is none.
    """

    alert_id: str
    institution: str
    patient_pseudonym: str
    encounter_pseudonym: str
    record_id: str
    band: str
    probability: float
    headline: str
    reasons: tuple[str, ...]
    scored_at: datetime
    decided_at: datetime
    link: str | None

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        times = {"scored_at": self.scored_at.isoformat(), "decided_at": self.decided_at.isoformat()}
        return asdict(self) | times | {"reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an alert is made of: the standing score's row and the crossing's."""

    alert_id: str
    institution: str
    patient_pseudonym: str
    encounter_pseudonym: str
    record_id: str
    band: Band
    probability: float
    features: Mapping[str, float | None]
    contributions: Mapping[str, float]
    scored_at: datetime
    decided_at: datetime
    attempts: int


def in_words(told: Told, language: Language, page: str = "") -> Alert:
    """Put an alert into words; `page` is the address that it links to, empty for none.

    The stay is named after `#`, which browsers do not send on: it stays out of servers' logs.
    """
    return Alert(
        alert_id=told.alert_id,
        institution=told.institution,
        patient_pseudonym=told.patient_pseudonym,
        encounter_pseudonym=told.encounter_pseudonym,
        record_id=told.record_id,
        band=str(told.band),
        probability=told.probability,
        headline=headline(told.probability, told.band, language),
        reasons=tuple(main_reasons(told.features, told.contributions, language=language)),
        scored_at=told.scored_at,
        decided_at=told.decided_at,
        link=f"{page}#{told.encounter_pseudonym}" if page else None,
    )


_WORDS: dict[Language, dict[str, str]] = {
    "en": {"subject": "Readmission risk {band} at {institution}", "stay": "Stay", "patient": "Patient",
           "score": "Score", "why": "What raises it most", "page": "Worklist"},
    "de": {"subject": "Wiederaufnahmerisiko {band} in {institution}", "stay": "Fall", "patient": "Patient",
           "score": "Bewertung", "why": "Was es am meisten erhöht", "page": "Arbeitsliste"},
}  # fmt: skip


def subject(alert: Alert, language: Language) -> str:
    """Say in a line what the alert is about; nothing in it tells of the patient."""
    return _WORDS[language]["subject"].format(
        band=band_word(alert.band, language), institution=alert.institution.upper()
    )


def text(alert: Alert, language: Language) -> str:
    """Write the alert for people, in a few lines."""
    words = _WORDS[language]
    lines = [alert.headline]
    if alert.reasons:
        lines += ["", f"{words['why']}:", *(f"- {reason}" for reason in alert.reasons)]
    lines += ["", f"{words['stay']}: {alert.encounter_pseudonym}", f"{words['patient']}: {alert.patient_pseudonym}",
              f"{words['score']}: {alert.record_id}"]  # fmt: skip
    if alert.link:
        lines.append(f"{words['page']}: {alert.link}")
    return "\n".join(lines)
