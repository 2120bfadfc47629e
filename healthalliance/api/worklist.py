"""The worklist: who is at risk now, with reasons, and what people say of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from connectors.worklist import (
    Listed,
    Mark,
    Order,
    Point,
    acknowledge,
    current_risks,
    snooze,
    take_back,
    versions_of,
)
from healthalliance.api.auditing import Audited, records
from healthalliance.api.callers import Caller
from healthalliance.api.histories import Known, encounters_of
from healthalliance.api.problems import ProblemError, describes
from healthalliance.api.scores import Moment
from healthalliance.api.service import Service, Shared
from schemas.audit import Action
from schemas.explanation import headline
from schemas.feature_words import Language, phrase
from schemas.messages import Band
from streams.decision import Sender

router = APIRouter(prefix="/api/v1", tags=["worklist"])

_REASONS = 4
_LONGEST_SNOOZE = timedelta(days=30)
_AGE_BAND_YEARS, _OLDEST = 10, 90
_RETRY_MS = 2000
_EVER = datetime(2000, 1, 1, tzinfo=UTC)  # longer than there are scores


class MarkOut(BaseModel):
    """What people have said of an encounter; an acknowledgement holds while the risk is in no higher band."""

    acknowledged: bool = Field(description="somebody has seen a risk as high as now")
    acknowledged_at: datetime | None
    snoozed_until: datetime | None = Field(description="UTC; null or past: not snoozed")


class ReasonOut(BaseModel):
    """A fact and how far it moves the risk."""

    feature: str
    text: str
    points: float = Field(description="part of the probability that it adds; below 0 where it lowers the risk")


class PointOut(BaseModel):
    """A version of the score; times in UTC."""

    record_id: UUID
    scored_at: datetime
    probability: float | None = Field(description="null: taken back")
    band: Band | None
    reason: str | None = Field(description="why it replaced the one before")


class StayOut(BaseModel):
    """The encounter, as far as it is known; times in UTC."""

    inpatient: bool
    admitted_at: datetime | None
    discharged_at: datetime | None = Field(description="null: not discharged")


class EntryOut(BaseModel):
    """An encounter at risk. Of the person it tells an age band and the hospital's own references, no name."""

    record_id: UUID
    encounter_pseudonym: UUID
    patient: str | None = Field(description="the hospital's own reference; null once the patient was erased")
    encounter: str | None
    probability: float
    band: Band
    headline: str
    reasons: list[ReasonOut] = Field(description="the largest effects first")
    stay: StayOut
    age_band: str | None = Field(description="such as 70-79; 90+ is the last")
    scored_at: datetime
    trend: list[PointOut] = Field(description="all versions of its score, the oldest first")
    mark: MarkOut
    model_version: str


class WorklistOut(BaseModel):
    """The institution's current risks, in the order that was asked for; `more`: there are others beside these."""

    institution: str
    entries: list[EntryOut]
    more: bool


class SeenIn(BaseModel, extra="forbid"):
    """Which score somebody has seen."""

    record_id: UUID


class SnoozeIn(BaseModel, extra="forbid"):
    """Until when nobody wants to hear of it: at most 30 days from now, with an offset."""

    until: Moment


class ModelOut(BaseModel):
    """The model that scores now."""

    name: str
    version: str
    digest: str = Field(description="SHA-256 of its file")
    features: list[str]
    calibration: str = Field(description="how its probabilities were calibrated")
    medium_from: float = Field(description="the probability from which on a risk is medium")
    high_from: float


@router.get("/worklist", summary="Who is at risk now", responses=describes(401, 422, 429, 503))
async def get_worklist(
    service: Shared,
    sender: Caller,
    audit: Audited,
    band: Annotated[list[Band] | None, Query(description="only these bands")] = None,
    inpatient: Annotated[bool | None, Query(description="only inpatient stays, or only others")] = None,
    days: Annotated[int, Query(ge=1, le=365, description="only what was received in so many last days")] = 30,
    order: Annotated[Order, Query(description="highest or newest first")] = "risk",
    quiet: Annotated[bool, Query(description="those too that are acknowledged or snoozed")] = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    language: Annotated[Language, Query(description="of the sentences")] = "en",
) -> WorklistOut:
    """Return the caller's standing scores of the last days, the highest first, with reasons and marks."""
    now = datetime.now(UTC)
    found = await current_risks(
        service.pools[sender.institution.id],
        sender.institution.id,
        now - timedelta(days=days),
        now,
        bands=band or (),
        inpatient=inpatient,
        quiet=quiet,
        order=order,
        most=limit + 1,
    )
    entries = await _entries(service, sender, found[:limit], language)
    await audit.note(Action.LIST_WORKLIST, records(one.score for one in found[:limit]))
    return WorklistOut(institution=sender.institution.id, entries=entries, more=len(found) > limit)


@router.get("/worklist/events", summary="When to look again", responses={200: {"content": {"text/event-stream": {}}}})
async def get_events(service: Shared, sender: Caller, audit: Audited) -> StreamingResponse:
    """Send an event `changed` whenever the caller's worklist may look different, `still` while it does not."""
    service.changes.require_room()
    await audit.note(Action.WATCH_WORKLIST)
    return StreamingResponse(
        _events(service, sender),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get(
    "/worklist/{encounter_pseudonym}", summary="One encounter at risk", responses=describes(401, 404, 422, 429, 503)
)
async def get_entry(
    encounter_pseudonym: UUID,
    service: Shared,
    sender: Caller,
    audit: Audited,
    language: Annotated[Language, Query(description="of the sentences")] = "en",
) -> EntryOut:
    """Return an encounter's standing score, whenever it was received."""
    standing = await _standing(service, sender, encounter_pseudonym)
    [entry] = await _entries(service, sender, [standing], language)
    await audit.note(Action.READ_WORKLIST_ENTRY, records([standing.score]))
    return entry


@router.put(
    "/worklist/{encounter_pseudonym}/acknowledgement",
    summary="A score was seen",
    responses=describes(400, 401, 403, 404, 422, 429, 503),
)
async def put_acknowledgement(
    encounter_pseudonym: UUID, seen: SeenIn, service: Shared, sender: Caller, audit: Audited
) -> MarkOut:
    """Note that somebody has seen a score: the encounter is quiet until its risk reaches a higher band."""
    encounter, record = str(encounter_pseudonym), str(seen.record_id)
    async with audit.change(service.pools[sender.institution.id]) as change:
        known = await acknowledge(change.connection, sender.institution.id, encounter, record, datetime.now(UTC))
        if known:
            await change.note(Action.ACKNOWLEDGE, [f"encounter:{encounter}", f"record:{record}"])
    return await _marked(service, sender, encounter_pseudonym, known)


@router.put(
    "/worklist/{encounter_pseudonym}/snooze",
    summary="Not before then",
    responses=describes(400, 401, 403, 404, 422, 429, 503),
)
async def put_snooze(
    encounter_pseudonym: UUID, wish: SnoozeIn, service: Shared, sender: Caller, audit: Audited
) -> MarkOut:
    """Keep an encounter quiet until a time."""
    now = datetime.now(UTC)
    if not now < wish.until <= now + _LONGEST_SNOOZE:
        raise ProblemError(422, "invalid", "`until` lies within the next 30 days.")
    encounter = str(encounter_pseudonym)
    async with audit.change(service.pools[sender.institution.id]) as change:
        known = await snooze(change.connection, sender.institution.id, encounter, wish.until, now)
        if known:
            await change.note(Action.SNOOZE, [f"encounter:{encounter}"])
    return await _marked(service, sender, encounter_pseudonym, known)


@router.delete(
    "/worklist/{encounter_pseudonym}/{what}",
    summary="Take it back",
    status_code=204,
    responses=describes(401, 403, 422, 429, 503),
)
async def delete_mark(
    encounter_pseudonym: UUID,
    what: Literal["acknowledgement", "snooze"],
    service: Shared,
    sender: Caller,
    audit: Audited,
) -> Response:
    """Take an acknowledgement or a snooze back; there need not be one."""
    encounter = str(encounter_pseudonym)
    async with audit.change(service.pools[sender.institution.id]) as change:
        if await take_back(change.connection, sender.institution.id, encounter, what, datetime.now(UTC)):
            await change.note(Action.TAKE_BACK, [f"encounter:{encounter}"])
    return Response(status_code=204)


@router.get("/model", summary="The model that scores", responses=describes(401, 429, 503))
async def get_model(service: Shared, sender: Caller) -> ModelOut:
    """Describe the champion."""
    model = service.model()
    card = model.card
    return ModelOut(
        name=model.name,
        version=model.version,
        digest=model.digest,
        features=list(card.feature_names),
        calibration=type(card.calibration).__name__.lower(),
        medium_from=card.thresholds.medium,
        high_from=card.thresholds.high,
    )


async def _events(service: Service, sender: Sender) -> AsyncIterator[str]:
    yield f"retry: {_RETRY_MS}\n\n"
    async for token in service.changes.of(sender.institution.id):
        # An event, not a comment: a page hears no comment, and could not tell a quiet line from a dead one.
        yield "event: still\ndata: {}\n\n" if token is None else f"event: changed\nid: {token}\ndata: {{}}\n\n"


async def _marked(service: Service, sender: Sender, encounter: UUID, known: bool) -> MarkOut:
    if not known:
        raise _unknown()
    standing = await _standing(service, sender, encounter)
    return _mark(standing.mark, standing.score.band)


async def _standing(service: Service, sender: Sender, encounter: UUID) -> Listed:
    found = await current_risks(
        service.pools[sender.institution.id],
        sender.institution.id,
        _EVER,
        datetime.now(UTC),
        encounter=str(encounter),
        quiet=True,
        most=1,
    )
    if not found:
        raise _unknown()
    return found[0]


async def _entries(service: Service, sender: Sender, found: list[Listed], language: Language) -> list[EntryOut]:
    known = await encounters_of(service, sender, [one.score for one in found])
    trends = await versions_of(
        service.pools[sender.institution.id], sender.institution.id, [one.score.encounter_pseudonym for one in found]
    )
    return [
        _entry(
            one,
            known.get(one.score.encounter_pseudonym, Known()),
            trends.get(one.score.encounter_pseudonym, ()),
            language,
        )
        for one in found
    ]


def _entry(
    listed: Listed,
    known: Known,
    trend: tuple[Point, ...],
    language: Language,
) -> EntryOut:
    score, facts = listed.score, known.facts
    features = vars(score.features) if score.features else {}
    largest = sorted(score.contributions.items(), key=lambda item: (-abs(item[1]), item[0]))[:_REASONS]
    return EntryOut.model_validate(
        {
            "record_id": score.record_id,
            "encounter_pseudonym": score.encounter_pseudonym,
            "patient": known.patient,
            "encounter": known.encounter,
            "probability": score.probability,
            "band": score.band,
            "headline": headline(score.probability, score.band, language),
            "reasons": [
                ReasonOut(feature=name, text=phrase(name, features.get(name), language).text, points=points)
                for name, points in largest
                if points
            ],
            "stay": StayOut(
                inpatient=score.inpatient,
                admitted_at=facts.started if facts else None,
                discharged_at=facts.ended if facts else None,
            ),
            "age_band": _age_band(features),
            "scored_at": score.scored_at,
            "trend": [asdict(point) for point in trend],
            "mark": _mark(listed.mark, score.band),
            "model_version": score.model_version,
        }
    )


def _mark(mark: Mark, band: str | None) -> MarkOut:
    return MarkOut(
        acknowledged=mark.is_seen(band), acknowledged_at=mark.acknowledged_at, snoozed_until=mark.snoozed_until
    )


def _age_band(features: Mapping[str, Any]) -> str | None:
    age = features.get("age_years")
    if age is None:
        return None
    low = int(age) // _AGE_BAND_YEARS * _AGE_BAND_YEARS
    return f"{_OLDEST}+" if low >= _OLDEST else f"{low}-{low + _AGE_BAND_YEARS - 1}"


def _unknown() -> ProblemError:
    return ProblemError(404, "unknown-encounter", "There is no such score of this institution.")
