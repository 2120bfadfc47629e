"""CDS Hooks 2.0: the risk as a card when an encounter is about to end (https://cds-hooks.hl7.org/2.0/)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID, uuid4

import orjson
from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, ValidationError

from connectors.cds_cards import ServedCard, keep_card, note_outcome
from connectors.score_reading import standing_score
from healthalliance.api.bodies import read_body
from healthalliance.api.callers import Caller
from healthalliance.api.predicting import featurize_newest, predict
from healthalliance.api.predictions import stored_histories
from healthalliance.api.problems import ProblemError, describes
from healthalliance.api.service import Service, Shared
from schemas.cds_card import OVERRIDE_REASONS, cds_card
from schemas.intake.event import RawEvent, parse_event
from schemas.messages import Band
from streams.decision import Event, Sender

router = APIRouter(prefix="/cds-services", tags=["CDS Hooks"])

SERVICE = "readmission-risk"
_HOOK = "encounter-discharge"
_DESCRIPTION = {
    "hook": _HOOK,
    "id": SERVICE,
    "title": "30-day readmission risk",
    "description": "How likely another stay within 30 days of discharge is, and why. Not a medical device.",
    "prefetch": {
        "patient": "Patient/{{context.patientId}}",
        "encounter": "Encounter/{{context.encounterId}}",
        "conditions": "Condition?patient={{context.patientId}}",
        "medications": "MedicationRequest?patient={{context.patientId}}",
    },
}

_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9\-.]{1,64}$")]


class Context(BaseModel):
    """Whose discharge it is."""

    userId: str = Field(max_length=200)  # noqa: N815  # the standard's name
    patientId: _Id  # noqa: N815
    encounterId: _Id  # noqa: N815


class HookRequest(BaseModel):
    """A call of the service; `prefetch` is used where no score of the encounter stands."""

    hook: Literal["encounter-discharge"]
    hookInstance: UUID  # noqa: N815
    context: Context
    prefetch: dict[str, dict[str, Any] | None] = {}


class OverrideCode(BaseModel):
    """A reason that the card offered."""

    code: str = Field(max_length=100)
    system: str | None = Field(None, max_length=200)


class OverrideReason(BaseModel):
    """Why a card was overridden. Comments are not kept: they may be about a patient."""

    reason: OverrideCode | None = None


class CardFeedback(BaseModel):
    """What a clinician did with a card."""

    card: UUID
    outcome: Literal["accepted", "overridden"]
    overrideReason: OverrideReason | None = None  # noqa: N815
    outcomeTimestamp: AwareDatetime  # noqa: N815


class Feedback(BaseModel):
    """Feedback on cards."""

    feedback: list[CardFeedback] = Field(min_length=1, max_length=100)


@dataclass(frozen=True, slots=True)
class _Score:
    encounter_pseudonym: str
    patient_pseudonym: str
    record_id: str | None
    probability: float
    band: Band
    baseline: float
    contributions: dict[str, float]
    features: dict[str, float | None]
    model_name: str
    model_version: str


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Put definitions where they are named, for they are in no other part of the document."""
    definitions = schema.pop("$defs", {})

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return put_in(definitions[value["$ref"].rpartition("/")[2]])
            return {key: put_in(one) for key, one in value.items()}
        return [put_in(one) for one in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = put_in(schema)
    return inlined


@router.get("", summary="Which services there are")
async def discover() -> dict[str, list[dict[str, Any]]]:
    """Describe the service; needs no key, as the standard has it."""
    return {"services": [_DESCRIPTION]}


@router.post(
    f"/{SERVICE}",
    summary="The card of an encounter that is about to end",
    responses=describes(400, 401, 408, 413, 422, 429, 503),
    openapi_extra=_body(HookRequest),
)
async def call(request: Request, service: Shared, sender: Caller) -> dict[str, list[dict[str, Any]]]:
    """Return the card of the encounter's standing score, else of what `prefetch` tells, else none."""
    asked = await _read(request, service, HookRequest)
    score = await _standing(service, sender, asked.context) or await _from_prefetch(service, sender, asked)
    if score is None:
        return {"cards": []}
    card_id, version = str(uuid4()), score.model_version
    await keep_card(
        service.pool,
        ServedCard(
            card_id, sender.institution.id, score.patient_pseudonym, score.encounter_pseudonym, score.record_id,
            str(score.band), version, datetime.now(UTC),
        ),
    )  # fmt: skip
    model = f"{score.model_name} version {version}"
    card = cds_card(card_id, score.probability, score.band, score.baseline, score.contributions, score.features, model)
    return {"cards": [card]}


@router.post(
    f"/{SERVICE}/feedback",
    summary="What became of cards",
    responses=describes(400, 401, 404, 408, 413, 422, 429, 503),
    openapi_extra=_body(Feedback),
)
async def give_feedback(request: Request, service: Shared, sender: Caller) -> dict[str, int]:
    """Store what clinicians did with cards of the caller's institution."""
    given = await _read(request, service, Feedback)
    noted = [await _note(service, sender, one) for one in given.feedback]
    if not any(noted):
        raise ProblemError(404, "unknown-card", "There are no such cards of this institution.")
    return {"noted": sum(noted)}


async def _note(service: Service, sender: Sender, one: CardFeedback) -> bool:
    reason = one.overrideReason.reason.code if one.overrideReason and one.overrideReason.reason else None
    known = reason if reason in OVERRIDE_REASONS or reason is None else "other"
    return await note_outcome(
        service.pool, sender.institution.id, str(one.card), one.outcome, known, one.outcomeTimestamp
    )


_M = TypeVar("_M", bound=BaseModel)


async def _read(request: Request, service: Service, model: type[_M]) -> _M:
    body = await read_body(request, service.limits.max_bytes, service.settings.api_body_timeout_s)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        places = {".".join(map(str, one["loc"][:2])) for one in error.errors(include_input=False, include_url=False)}
        known = sorted(place for place in places if place.partition(".")[0] in model.model_fields)
        raise ProblemError(422, "invalid", f"Not as described: {', '.join(known) or 'the body'}.") from None


async def _standing(service: Service, sender: Sender, context: Context) -> _Score | None:
    found = await standing_score(
        service.pool, sender.institution.id, sender.keys.encounter_pseudonym(context.encounterId)
    )
    own = found is not None and found.patient_pseudonym == sender.keys.patient_pseudonym(context.patientId)
    if found is None or not own or found.probability is None or found.baseline is None or found.band is None:
        return None
    return _Score(
        found.encounter_pseudonym, found.patient_pseudonym, found.record_id, found.probability, Band(found.band),
        found.baseline, found.contributions, vars(found.features) if found.features else {}, found.model_name,
        found.model_version,
    )  # fmt: skip


async def _from_prefetch(service: Service, sender: Sender, asked: HookRequest) -> _Score | None:
    """Fold what the caller knows into what is stored of the patient, and score the encounter it asks for."""
    event = _event(service, sender, asked.prefetch)
    if event is None:
        return None
    found = featurize_newest(event, await stored_histories(service, event))
    if found is None or found.encounter_id != asked.context.encounterId:
        return None
    score = predict(found.message.features, service.model())
    return _Score(
        found.encounter_pseudonym, found.patient_pseudonym, None, score.probability, score.band, score.baseline,
        score.contributions, vars(score.features), score.model_name, score.model_version,
    )  # fmt: skip


def _event(service: Service, sender: Sender, prefetch: dict[str, dict[str, Any] | None]) -> Event | None:
    resources: list[Any] = []
    for one in prefetch.values():
        if one is None:
            continue
        entries = one.get("entry")
        if one.get("resourceType") == "Bundle" and isinstance(entries, list):
            resources += [entry.get("resource") for entry in entries if isinstance(entry, dict)]
        else:
            resources.append(one)
    if not resources:
        return None
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources if one]}
    raw = RawEvent("", 0, 0, None, orjson.dumps(bundle), datetime.now(UTC))
    parsed = parse_event(raw, sender.institution, service.limits, service.validate)
    return None if parsed.issues else Event(raw, parsed, sender, "")
