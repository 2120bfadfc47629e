"""Scores as they are stored: one, its explanation, and pages of those that stand."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from connectors.score_reading import After, find_score, standing_scores
from healthalliance.api.auditing import Audited, records
from healthalliance.api.bodies import wants_fhir
from healthalliance.api.callers import Caller, require_own
from healthalliance.api.fhir_events import MEDIA_TYPE
from healthalliance.api.histories import Known, encounters_of
from healthalliance.api.predictions import ModelIdentity
from healthalliance.api.problems import ProblemError, describes
from healthalliance.api.service import Service, Shared
from schemas.audit import Action
from schemas.explanation import cause, headline
from schemas.feature_words import Language
from schemas.messages import Band, ScoreStatus
from schemas.risk_assessment import risk_assessment, searchset
from schemas.stored_score import StoredScore
from streams.decision import Sender

router = APIRouter(prefix="/api/v1", tags=["scores"])


def _no_number(value: object) -> object:
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("a date and a time of day")  # pydantic would read a number as seconds since 1970
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number, json_schema_input_type=AwareDatetime)]


class ScoreOut(BaseModel):
    """A stored score; times in UTC."""

    record_id: UUID
    institution: str
    patient: str | None = Field(description="the hospital's own reference; null once the patient was erased")
    encounter: str | None
    patient_pseudonym: UUID
    encounter_pseudonym: UUID
    encounter_version: str
    status: ScoreStatus
    inpatient: bool
    as_of: datetime
    received_at: datetime
    scored_at: datetime
    probability: float | None = Field(description="null if retracted")
    band: Band | None
    baseline: float | None
    contributions: dict[str, float]
    features: dict[str, float | None] | None
    feature_set: int
    model: ModelIdentity
    supersedes: UUID | None
    superseded_by: UUID | None = Field(description="null: this is the newest")
    superseded_because: str | None = Field(description="why that one does: its reason")
    reason: str | None = Field(description="why it supersedes another")


class StepOut(BaseModel):
    """One fact's part of the way from the baseline to the probability."""

    feature: str
    value: float | None
    contribution: float
    before: float = Field(description="the risk without it")
    after: float = Field(description="the risk with it")
    sentence: str


class ExplanationOut(BaseModel):
    """A score in words a clinician reads; the steps lead from the baseline to the probability."""

    record_id: UUID
    headline: str
    probability: float | None
    baseline: float | None
    steps: list[StepOut]
    supersedes: UUID | None
    because: str | None = Field(description="why it replaces the one before")
    superseded_by: UUID | None
    superseded_because: str | None = Field(description="why it was replaced")


class RiskPage(BaseModel):
    """Standing scores in the order of their scoring; `next` asks for what follows, null at the end."""

    items: list[ScoreOut]
    next: str | None


_FHIR: dict[str, Any] = {
    MEDIA_TYPE: {"schema": {"type": "object", "description": "a FHIR R4 RiskAssessment, or a Bundle"}}
}


@router.get(
    "/scores/{record_id}",
    summary="One score",
    responses={200: {"model": ScoreOut, "content": _FHIR}, **describes(401, 404, 422, 429, 503)},
)
async def get_score(record_id: UUID, request: Request, service: Shared, sender: Caller, audit: Audited) -> Response:
    """Return a score of the caller's institution, by `Accept: application/fhir+json` as a RiskAssessment."""
    score = await own_score(service, sender, record_id)
    encounters = await encounters_of(service, sender, [score])
    await audit.note(Action.READ_SCORE, records([score]))
    if wants_fhir(request):
        return _rendered(_assessment(score, encounters), MEDIA_TYPE)
    return _rendered(score_document(score, encounters))


@router.get(
    "/scores/{record_id}/explanation",
    summary="Why a score is what it is",
    responses={200: {"model": ExplanationOut}, **describes(401, 404, 422, 429, 503)},
)
async def get_explanation(
    record_id: UUID,
    service: Shared,
    sender: Caller,
    audit: Audited,
    language: Annotated[Language, Query(description="of the sentences")] = "en",
) -> Response:
    """Explain a score of the caller's institution in sentences, the largest effect first."""
    score = await own_score(service, sender, record_id)
    await audit.note(Action.READ_EXPLANATION, records([score]))
    document = {
        "record_id": score.record_id,
        "headline": headline(score.probability, score.band, language),
        "probability": score.probability,
        "baseline": score.baseline,
        "steps": [asdict(one) for one in score.steps(language)],
        "supersedes": score.supersedes,
        "because": cause(score.reason, language) if score.reason else None,
        "superseded_by": score.superseded_by,
        "superseded_because": cause(score.superseded_because, language) if score.superseded_because else None,
    }
    return _rendered(document)


@router.get(
    "/risk",
    summary="Scores that stand",
    responses={200: {"model": RiskPage, "content": _FHIR}, **describes(401, 403, 422, 429, 503)},
)
async def get_risk(
    request: Request,
    service: Shared,
    sender: Caller,
    audit: Audited,
    institution: Annotated[str | None, Query(description="the caller's own, which is the default")] = None,
    band: Annotated[list[Band] | None, Query(description="only these bands")] = None,
    since: Annotated[Moment | None, Query(description="only scores made from then on; with an offset")] = None,
    inpatient: Annotated[bool | None, Query(description="only inpatient stays, or only others")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
) -> Response:
    """Return a page of standing scores in the order of their scoring, as JSON or as a Bundle of RiskAssessments."""
    if institution is not None:
        require_own(institution, sender)
    found = await standing_scores(
        service.pools[sender.institution.id],
        sender.institution.id,
        bands=band or (),
        since=since,
        after=page_end(after) if after else None,
        inpatient=inpatient,
        most=limit + 1,
    )
    page, more = found[:limit], len(found) > limit
    encounters = await encounters_of(service, sender, page)
    await audit.note(Action.LIST_RISK, records(page))
    following = _cursor(page[-1]) if more else None
    if wants_fhir(request):
        url = str(request.url.include_query_params(after=following)) if following else None
        return _rendered(searchset([_assessment(one, encounters) for one in page], url), MEDIA_TYPE)
    return _rendered({"items": [score_document(one, encounters) for one in page], "next": following})


async def own_score(service: Service, sender: Sender, record_id: UUID) -> StoredScore:
    """Return a score of the caller's; raise ProblemError 404 where there is none, or it is another institution's."""
    score = await find_score(service.pools[sender.institution.id], str(record_id), sender.institution.id)
    if score is None:
        raise ProblemError(404, "unknown-record", "There is no such score of this institution.")
    return score


def score_document(score: StoredScore, encounters: Mapping[str, Known]) -> dict[str, Any]:
    """Render a score as `ScoreOut` describes it."""
    values = asdict(score)
    known = encounters.get(score.encounter_pseudonym, Known())
    model = {name: values.pop(f"model_{name}") for name in ("name", "version", "digest")}
    for name in ("topic_id", "source_partition", "source_offset", "superseded_at"):
        del values[name]
    return values | {"patient": known.patient, "encounter": known.encounter, "model": model}


def _assessment(score: StoredScore, encounters: Mapping[str, Known]) -> dict[str, Any]:
    known = encounters.get(score.encounter_pseudonym, Known())
    return risk_assessment(score, known.patient, known.encounter)


def _rendered(document: object, media_type: str = "application/json") -> Response:
    return Response(orjson.dumps(document), media_type=media_type, headers={"Vary": "Accept"})


def _cursor(score: StoredScore) -> str:
    return base64.urlsafe_b64encode(f"{score.scored_at.isoformat()} {score.record_id}".encode()).decode()


def page_end(text: str) -> After:
    """Read where a page ended, as its `next` says; raise ProblemError 422 for what is none."""
    try:
        at, _, record_id = base64.urlsafe_b64decode(text.encode()).decode().partition(" ")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError(at)
        return After(moment, str(UUID(record_id)))
    except (ValueError, binascii.Error):
        raise ProblemError(422, "invalid", "`after` is not the `next` of a page.") from None
