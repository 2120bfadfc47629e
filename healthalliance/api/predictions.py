"""`POST /api/v1/predict`: one score at once, by the champion; nothing is stored or published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from time import perf_counter
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from healthalliance.api import metrics
from healthalliance.api.auditing import Audit, Audited
from healthalliance.api.bodies import media_type, read_body
from healthalliance.api.callers import Caller
from healthalliance.api.fhir_events import MEDIA_TYPE, describes_refusal, histories_of, issues_of, read_event, refusal
from healthalliance.api.predicting import featurize_newest
from healthalliance.api.problems import ProblemError, describes
from healthalliance.api.service import Service, Shared
from schemas.audit import Action
from schemas.explanation import steps
from schemas.features import Features
from schemas.messages import Band
from streams.decision import Sender
from streams.scoring import Prediction, predict

router = APIRouter(prefix="/api/v1", tags=["scores"])

_MOST_BYTES = 10_000  # of features

Count = Annotated[float, Field(ge=0, le=10_000)]


class FeaturesIn(BaseModel):
    """The model's features; docs/alerting.md has their meaning. The first five are enough."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    age_years: Annotated[float, Field(ge=0, le=130)] | None = Field(
        description="full years; null: unknown", validation_alias=AliasChoices("age_years", "age")
    )
    gender_encoded: int = Field(ge=0, le=2, description="0 female, 1 male, 2 other or unknown")
    num_conditions: Count
    num_medications: Count
    recent_encounters: Count = Field(description="in the 365 days before admission")
    prior_inpatient_stays_365d: Count = 0.0
    prior_emergency_visits_180d: Count = 0.0
    length_of_stay_days: Count = 0.0
    emergency_admission: Annotated[int, Field(ge=0, le=1)] = 0


class ModelIdentity(BaseModel):
    """The model that scored."""

    name: str
    version: str
    digest: str = Field(description="SHA-256 of its file")


class PredictionOut(BaseModel):
    """A score that was made on request."""

    institution: str
    encounter: str | None = Field(description="the Bundle's newest encounter, which was scored; null for features")
    as_of: datetime | None = Field(description="the time its features hold for, UTC")
    probability: float = Field(ge=0, le=1, description="calibrated, of a readmission within 30 days of discharge")
    band: Band
    baseline: float = Field(description="with the contributions it adds up to the probability")
    contributions: dict[str, float]
    features: dict[str, float | None]
    reasons: list[str] = Field(description="the way from the baseline to the probability in words")
    assumed: list[str] = Field(description="features that were not given and taken as 0")
    model: ModelIdentity


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": FeaturesIn.model_json_schema()},
            MEDIA_TYPE: {"schema": {"type": "object", "description": "a FHIR R4 Encounter or Bundle"}},
        },
    }
}


@router.post(
    "/predict",
    summary="Score once, without storing anything",
    responses={200: {"model": PredictionOut}, **describes(400, 401, 408, 413, 415, 429, 503), **describes_refusal()},
    openapi_extra=_BODY,
)
async def post_prediction(
    request: Request,
    service: Shared,
    sender: Caller,
    audit: Audited,
    history: Annotated[bool, Query(description="fold the Bundle into the patient's stored history first")] = False,
) -> Response:
    """Score features (`application/json`) or the newest encounter of a FHIR Bundle (`application/fhir+json`)."""
    model = service.model()
    if media_type(request) == MEDIA_TYPE:
        return await _from_fhir(request, service, sender, audit if history else None)
    if media_type(request) != "application/json":
        raise ProblemError(415, "media-type", f"Send application/json or {MEDIA_TYPE}.")
    given = _features_of(await read_body(request, _MOST_BYTES, service.settings.api_body_timeout_s))
    started = perf_counter()
    features = Features(**{name: None if value is None else float(value) for name, value in given})  # type: ignore[arg-type]
    found = predict(features, model)
    assumed = sorted(FeaturesIn.model_fields.keys() - given.model_fields_set)
    return _answer(sender, found, perf_counter() - started, assumed=assumed)


def _features_of(body: bytes) -> FeaturesIn:
    try:
        return FeaturesIn.model_validate_json(body)
    except ValidationError as error:
        # The names of unknown members are the sender's.
        found = {
            "unknown member" if one["type"] == "extra_forbidden" else f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
            for one in error.errors(include_input=False, include_url=False)
            if one["type"] != "json_invalid"
        }
        raise ProblemError(422, "invalid", "; ".join(sorted(found)) or "Not JSON.") from None


async def _from_fhir(request: Request, service: Service, sender: Sender, audit: Audit | None) -> Response:
    """Score an event; with `audit` by what is stored too, which is an access."""
    event = await read_event(request, service, sender, None)
    if issues := issues_of(event.parsed):
        return refusal(issues)
    histories = await histories_of(service, event) if audit else {}
    started = perf_counter()
    found = featurize_newest(event, histories)
    if found is None:
        raise ProblemError(422, "nothing-to-score", "There is no encounter in it that has begun and is scored.")
    prediction = predict(found.message.features, service.model())
    if audit:
        await audit.note(Action.PREDICT, [f"patient:{found.patient_pseudonym}"])
    return _answer(
        sender, prediction, perf_counter() - started, encounter=f"Encounter/{found.encounter_id}", as_of=found.as_of
    )


def _answer(
    sender: Sender,
    found: Prediction,
    seconds: float,
    *,
    encounter: str | None = None,
    as_of: datetime | None = None,
    assumed: list[str] | None = None,
) -> Response:
    metrics.PREDICTIONS.labels(sender.institution.id, str(found.band)).inc()
    metrics.PREDICTION_SECONDS.observe(seconds)
    metrics.CONFIDENCE.observe(max(found.probability, 1.0 - found.probability))
    walk = steps(vars(found.features), found.contributions, found.baseline, found.probability)
    document: Mapping[str, Any] = {
        "institution": sender.institution.id,
        "encounter": encounter,
        "as_of": as_of,
        "probability": found.probability,
        "band": str(found.band),
        "baseline": found.baseline,
        "contributions": found.contributions,
        "features": asdict(found.features),
        "reasons": [one.sentence for one in walk],
        "assumed": assumed or [],
        "model": {"name": found.model_name, "version": found.model_version, "digest": found.model_digest},
    }
    return Response(orjson.dumps(document), media_type="application/json")
