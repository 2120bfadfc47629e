"""Scores as FHIR RiskAssessments: each is valid R4, and says what the score says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import fhirkit
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.riskassessment import RiskAssessment
from hypothesis import given
from hypothesis import strategies as st

from schemas.features import FEATURE_NAMES, Features
from schemas.messages import Band, ScoreStatus
from schemas.risk_assessment import risk_assessment, searchset
from schemas.stored_score import StoredScore

AS_OF = datetime(2025, 3, 6, 10, tzinfo=UTC)
RECORD = "5f71e0e0-6e38-86ff-aa7a-491f08bbda82"
NEXT = "eda811ca-98b3-86cb-966b-86eceebbfd28"
RETRACTED = {"status": "entered-in-error", "probability": None, "band": None, "features": None}


def score(**changes: Any) -> StoredScore:
    values: dict[str, Any] = {
        "record_id": RECORD, "institution": "ukhd", "patient_pseudonym": RECORD, "encounter_pseudonym": NEXT,
        "status": ScoreStatus.FINAL, "as_of": AS_OF, "probability": 0.24, "band": "high", "baseline": 0.11,
        "contributions": {"prior_inpatient_stays_365d": 0.13},
        "features": Features(*map(float, range(len(FEATURE_NAMES)))), "model_name": "readmission-risk",
        "model_version": "3", "model_digest": "ab" * 32, "superseded_by": None, "encounter_version": "version_id:1",
        "inpatient": True, "received_at": AS_OF, "scored_at": AS_OF, "feature_set": 1, "supersedes": None,
        "reason": None,
        "topic_id": NEXT, "source_partition": 0, "source_offset": 7, "superseded_at": None,
        "superseded_because": None,
    }  # fmt: skip
    return StoredScore(**values | changes)


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """Have both libraries judge it."""
    RiskAssessment.model_validate(document)
    assert [one for one in fhirkit.validate(json.dumps(document).encode()) if one.severity == "error"] == []
    return document


def test_it_says_what_the_score_says() -> None:
    document = checked(risk_assessment(score(), "Patient/123", "Encounter/e1"))
    [prediction] = document["prediction"]
    assert (document["status"], document["occurrenceDateTime"]) == ("final", "2025-03-06T10:00:00.000Z")
    assert (document["subject"]["reference"], document["encounter"]["reference"]) == ("Patient/123", "Encounter/e1")
    assert (prediction["probabilityDecimal"], prediction["qualitativeRisk"]["coding"][0]["code"]) == (0.24, "high")
    assert prediction["whenPeriod"]["end"] == "2025-04-05T10:00:00.000Z"
    assert "from 11 % to 24 %" in prediction["rationale"]
    assert document["method"]["text"] == "readmission-risk version 3"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": "final"}, "final"),
        ({"status": "amended"}, "amended"),
        ({"superseded_by": NEXT, "superseded_because": "history-changed"}, "amended"),
        ({"status": "amended", "superseded_by": NEXT, "superseded_because": "retracted"}, "entered-in-error"),
        (RETRACTED, "entered-in-error"),
        (RETRACTED | {"superseded_by": NEXT, "superseded_because": "encounter-updated"}, "entered-in-error"),
    ],
)
def test_the_status_tells_whether_to_act_on_it(changes: dict[str, Any], status: str) -> None:
    document = checked(risk_assessment(score(**changes), "Patient/123", "Encounter/e1"))
    assert document["status"] == status
    assert ("prediction" in document) == (status != "entered-in-error")
    tags = [(tag["system"], tag["code"]) for tag in document.get("meta", {}).get("tag", [])]
    assert tags == ([("urn:healthalliance:standing", "superseded")] if "superseded_by" in changes else [])


def test_without_the_hospitals_references_it_names_pseudonyms_only() -> None:
    document = checked(risk_assessment(score(), None, None))
    assert document["subject"] == {
        "type": "Patient",
        "identifier": {"system": "urn:healthalliance:ukhd:patient-pseudonym", "value": RECORD},
    }
    assert "basis" not in document


@given(
    probability=st.floats(0, 1),
    baseline=st.floats(0, 1),
    band=st.sampled_from(list(Band)),
    contributions=st.dictionaries(st.sampled_from(FEATURE_NAMES), st.floats(-1, 1)),
    as_of=st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_whatever_a_score_holds_it_is_valid(**values: Any) -> None:
    checked(risk_assessment(score(**values), "Patient/123", "Encounter/e1"))


def test_a_page_of_them_is_a_bundle_with_its_next_page() -> None:
    found = searchset([risk_assessment(score(), None, None)], "https://example.org/next")
    Bundle.model_validate(found)
    assert found["link"] == [{"relation": "next", "url": "https://example.org/next"}]
