"""A stored score as a FHIR R4 RiskAssessment: pure.

Source: https://hl7.org/fhir/R4/riskassessment.html
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from schemas.messages import Band, Cause, ScoreStatus
from schemas.stored_score import StoredScore

FOLLOW_UP = timedelta(days=30)
SUPERSEDED = {"system": "urn:healthalliance:standing", "code": "superseded"}

# http://terminology.hl7.org/CodeSystem/risk-probability
_QUALITATIVE = {Band.LOW: "low", Band.MEDIUM: "moderate", Band.HIGH: "high"}
_PSEUDONYM = "urn:healthalliance:{}:{}-pseudonym"
_READMISSION = {"system": "http://snomed.info/sct", "code": "417005", "display": "Hospital re-admission"}


def risk_assessment(score: StoredScore, patient: str | None, encounter: str | None) -> dict[str, Any]:
    """Render a score; `patient`, `encounter` are the hospital's own references, None where only pseudonyms are known.

    status: `final`; `amended` where it replaces another or is replaced; `entered-in-error` where it was retracted or a
    retraction replaces it: whoever finds it must not act on it, so it has no prediction. A score that was replaced has
    the tag `superseded`.
    """
    status = _status(score)
    document = {
        "resourceType": "RiskAssessment",
        "id": score.record_id,
        **({"meta": {"tag": [SUPERSEDED]}} if score.superseded_by else {}),
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{score.record_id}"}],
        "status": status,
        "method": {
            "coding": [
                {
                    "system": f"urn:healthalliance:model:{score.model_name}",
                    "version": score.model_version,
                    "code": score.model_digest,
                }
            ],
            "text": f"{score.model_name} version {score.model_version}",
        },
        "code": {"text": "Risk of another inpatient stay within 30 days of discharge"},
        "subject": _reference("Patient", patient, score.institution, score.patient_pseudonym),
        "encounter": _reference("Encounter", encounter, score.institution, score.encounter_pseudonym),
        "occurrenceDateTime": _instant(score.as_of),
    }
    if encounter:
        document["basis"] = [{"reference": encounter}]
    if score.probability is not None and status != ScoreStatus.ENTERED_IN_ERROR:
        document["prediction"] = [_prediction(score, score.probability)]
    return document


def searchset(assessments: list[dict[str, Any]], next_url: str | None) -> dict[str, Any]:
    """Put RiskAssessments into a Bundle, with where its next page is."""
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        **({"link": [{"relation": "next", "url": next_url}]} if next_url else {}),
        "entry": [
            {"fullUrl": f"urn:uuid:{one['id']}", "resource": one, "search": {"mode": "match"}} for one in assessments
        ],
    }


def _status(score: StoredScore) -> str:
    if score.status == ScoreStatus.ENTERED_IN_ERROR or score.superseded_because == Cause.RETRACTED:
        return ScoreStatus.ENTERED_IN_ERROR
    return ScoreStatus.AMENDED if score.superseded_by else score.status


def _prediction(score: StoredScore, probability: float) -> dict[str, Any]:
    reasons = " ".join(one.sentence for one in score.steps())
    level = _QUALITATIVE[Band(score.band)] if score.band else None
    return {
        "outcome": {"coding": [_READMISSION], "text": "Another inpatient stay at the same institution"},
        "probabilityDecimal": probability,
        **({"qualitativeRisk": _coded(level)} if level else {}),
        "whenPeriod": {"start": _instant(score.as_of), "end": _instant(score.as_of + FOLLOW_UP)},
        **({"rationale": reasons} if reasons else {}),
    }


def _coded(level: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/risk-probability", "code": level}]}


def _reference(type_: str, own: str | None, institution: str, pseudonym: str) -> dict[str, Any]:
    identifier = {"system": _PSEUDONYM.format(institution, type_.lower()), "value": pseudonym}
    return {"type": type_, **({"reference": own} if own else {}), "identifier": identifier}


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
