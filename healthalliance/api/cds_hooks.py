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
from healthalliance.api.auditing import Audited
from healthalliance.api.bodies import read_body
from healthalliance.api.callers import Caller
from healthalliance.api.fhir_events import event_of, histories_of
from healthalliance.api.predicting import featurize_newest
from healthalliance.api.problems import ProblemError, describes
from healthalliance.api.service import Service, Shared
from schemas.audit import Action
from schemas.cds_card import OVERRIDE_REASONS, cds_card
from schemas.messages import Band
from streams.decision import Sender
from streams.scoring import Prediction, predict

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
class _Found:
    """What a card shows, of whom; `record_id`: where it is stored, None where it was scored for the card alone."""

    patient_pseudonym: str
    encounter_pseudonym: str
    record_id: str | None
    shown: Prediction


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
async def call(request: Request, service: Shared, sender: Caller, audit: Audited) -> dict[str, list[dict[str, Any]]]:
    """Return the card of the encounter's standing score, else of what `prefetch` tells, else none."""
    asked = await _read(request, service, HookRequest)
    found = await _standing(service, sender, asked.context) or await _from_prefetch(service, sender, asked)
    if found is None:
        return {"cards": []}
    card_id, shown = str(uuid4()), found.shown
    await keep_card(
        service.pools[sender.institution.id],
        ServedCard(
            card_id, sender.institution.id, found.patient_pseudonym, found.encounter_pseudonym, found.record_id,
            str(shown.band), shown.model_version, datetime.now(UTC),
        ),
    )  # fmt: skip
    subjects = [f"encounter:{found.encounter_pseudonym}"]
    await audit.note(Action.SHOW_CARD, [f"record:{found.record_id}", *subjects] if found.record_id else subjects)
    card = cds_card(
        card_id, shown.probability, shown.band, shown.baseline, shown.contributions, vars(shown.features),
        f"{shown.model_name} version {shown.model_version}",
    )  # fmt: skip
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
        service.pools[sender.institution.id],
        sender.institution.id,
        str(one.card),
        one.outcome,
        known,
        one.outcomeTimestamp,
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


async def _standing(service: Service, sender: Sender, context: Context) -> _Found | None:
    keys = sender.keys
    score = await standing_score(
        service.pools[sender.institution.id], sender.institution.id, keys.encounter_pseudonym(context.encounterId)
    )
    if score is None or score.patient_pseudonym != keys.patient_pseudonym(context.patientId):
        return None
    if score.probability is None or score.baseline is None or score.band is None or score.features is None:
        return None
    shown = Prediction(
        probability=score.probability, band=Band(score.band), baseline=score.baseline,
        contributions=score.contributions, features=score.features, model_name=score.model_name,
        model_version=score.model_version, model_digest=score.model_digest,
    )  # fmt: skip
    return _Found(score.patient_pseudonym, score.encounter_pseudonym, score.record_id, shown)


async def _from_prefetch(service: Service, sender: Sender, asked: HookRequest) -> _Found | None:
    """Fold what the caller knows into what is stored of the patient, and score the encounter it asks for."""
    resources = _resources(asked.prefetch)
    if not resources:
        return None
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}
    event = await event_of(orjson.dumps(bundle), service, sender)
    if event.parsed.issues:
        return None
    found = featurize_newest(event, await histories_of(service, event))
    if found is None or found.encounter_id != asked.context.encounterId:
        return None
    shown = predict(found.message.features, service.model())
    return _Found(found.patient_pseudonym, found.encounter_pseudonym, None, shown)


def _resources(prefetch: dict[str, dict[str, Any] | None]) -> list[Any]:
    found: list[Any] = []
    for one in filter(None, prefetch.values()):
        entries = one.get("entry")
        if one.get("resourceType") == "Bundle" and isinstance(entries, list):
            found += [entry.get("resource") for entry in entries if isinstance(entry, dict)]
        else:
            found.append(one)
    return [one for one in found if one]
