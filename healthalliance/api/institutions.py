"""`GET /api/v1/institutions`: who takes part, and how the caller's own topics do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from connectors.kafka import topic_activity
from connectors.score_reading import rejected_since
from healthalliance.api.callers import Caller
from healthalliance.api.problems import describes
from healthalliance.api.service import Service, Shared
from schemas.institutions import Institution, institutions
from schemas.topics import TopicFamily, topic_name

router = APIRouter(prefix="/api/v1", tags=["institutions"])


class Activity(BaseModel):
    """What an institution's topic has received; only the institution itself sees it."""

    topics: dict[str, str] = Field(description="by family: encounters, risk, features, rejected")
    last_event_at: datetime | None = Field(description="arrival of the newest event at the broker, UTC; null: none")
    events_today: int = Field(description="events received since midnight in the institution's time zone")
    rejected_today: int = Field(description="of those rejected so far, as a whole or in part")
    rejected_share: float | None = Field(description="rejected_today of events_today; null where there were none")


class InstitutionEntry(BaseModel):
    """An institution that takes part."""

    id: str
    name: str
    activity: Activity | None = Field(description="null for institutions other than the caller's")


@router.get("/institutions", summary="Who takes part", responses=describes(401, 429, 503))
async def list_institutions(service: Shared, sender: Caller) -> list[InstitutionEntry]:
    """List all institutions, with what its topics received for the caller's own."""
    own = await _activity(service, sender.institution)
    return [
        InstitutionEntry(id=one.id, name=one.name, activity=own if one is sender.institution else None)
        for one in institutions().values()
    ]


async def _activity(service: Service, institution: Institution) -> Activity:
    topics = {str(family): topic_name(family, institution.id) for family in TopicFamily}
    midnight = datetime.now(institution.time_zone).replace(hour=0, minute=0, second=0, microsecond=0)
    encounters = topics[str(TopicFamily.ENCOUNTERS)]
    found = await asyncio.to_thread(topic_activity, service.settings, encounters, midnight)
    rejected = await rejected_since(service.pools[institution.id], institution.id, midnight.astimezone(UTC))
    return Activity(
        topics=topics,
        last_event_at=found.newest_at,
        events_today=found.messages,
        rejected_today=rejected,
        rejected_share=min(1.0, rejected / found.messages) if found.messages else None,
    )
