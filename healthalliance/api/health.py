"""`GET /health`: whether this process can serve."""

from __future__ import annotations

import asyncio
from typing import Literal

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from connectors.store import AWAY
from healthalliance.api.service import Service, Shared

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """How the API is."""

    status: Literal["healthy", "degraded"]
    database: bool = Field(description="PostgreSQL answers")
    model_version: str | None = Field(description="the version that scores; null while there is none")


@router.get(
    "/health", summary="Whether this process can serve", responses={200: {"model": Health}, 503: {"model": Health}}
)
async def health(service: Shared) -> Response:
    """Answer 200 while the database answers and there is a model, else 503."""
    database = await _answers(service)
    model = service.champion.model
    good = database and model is not None
    found = Health(
        status="healthy" if good else "degraded", database=database, model_version=model.version if model else None
    )
    return Response(orjson.dumps(found.model_dump()), 200 if good else 503, media_type="application/json")


async def _answers(service: Service) -> bool:
    try:
        async with asyncio.timeout(2.0):
            return bool(await service.pool.fetchval("SELECT 1"))
    except AWAY:
        return False
