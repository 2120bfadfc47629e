"""What all requests share: connections, keys, the model; opened once, closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request

from connectors.intake_requests import forget_old
from connectors.kafka import AwaitedPublisher
from connectors.settings import Settings
from connectors.store import AWAY, open_pool
from healthalliance.api.changes import Changes
from healthalliance.api.keys import KeyRing
from healthalliance.api.problems import unavailable
from healthalliance.api.rates import Rates
from healthalliance.api.sessions import Sessions
from schemas.errors import HealthAllianceError
from schemas.institutions import institutions
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import StructureValidator, structure_validator
from schemas.model import Model
from schemas.pseudonyms import institution_keys
from streams.decision import Sender
from streams.models import ModelWatch

_FORGET_EVERY_S = 3600.0
_CONNECTIONS = 8
_ANSWER_S = 10
_SESSION = {"statement_timeout": f"{_ANSWER_S}s", "application_name": "healthalliance-api"}
_REFUSED_KEYS_PER_S = 1.0  # of one address; a key has 256 bits, so this is against noise, not guessing
_REFUSED_KEYS = 100.0  # at once


@dataclass(slots=True)
class Service:
    """The API's connections and what it knows. `senders` are the institutions with their pseudonym keys."""

    settings: Settings
    pool: asyncpg.Pool[Any]
    publisher: AwaitedPublisher
    champion: ModelWatch
    keys: KeyRing
    sessions: Sessions
    changes: Changes
    senders: Mapping[str, Sender]
    limits: Limits
    validate: StructureValidator
    requests: Rates
    refused_keys: Rates
    in_flight: int = 0

    def model(self) -> Model:
        """Return the champion; raise ProblemError 503 while there is none."""
        if self.champion.model is None:
            raise unavailable("There is no model to score with yet.")
        return self.champion.model


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Connect and look after the champion until the block ends; raise as the connectors do."""
    secret = settings.pseudonym_key.get_secret_value()
    keys = KeyRing.of(settings.institution_api_key)
    senders = {id_: Sender(one, institution_keys(secret, id_)) for id_, one in institutions().items()}
    pool = await open_pool(
        settings.database_url, connections=_CONNECTIONS, session=_SESSION, timeout_s=5, answer_s=_ANSWER_S
    )
    service = Service(
        settings=settings,
        pool=pool,
        publisher=AwaitedPublisher(settings),
        champion=ModelWatch(settings, settings.model_alias),
        keys=keys,
        sessions=Sessions(keys, senders),
        changes=Changes(pool),
        senders=senders,
        limits=Limits(settings.event_max_bytes, settings.event_max_depth),
        validate=structure_validator(settings.structure_validator),
        requests=Rates(settings.api_requests_per_s, settings.api_requests_per_s),
        refused_keys=Rates(_REFUSED_KEYS_PER_S, _REFUSED_KEYS),
    )
    beside = [
        asyncio.create_task(_keep_up(service.champion, settings.model_poll_s)),
        asyncio.create_task(_forget_old_requests(service.pool)),
    ]
    try:
        yield service
    finally:
        for task in beside:
            task.cancel()
        service.changes.close()
        await asyncio.to_thread(service.publisher.close)
        await service.pool.close()


async def _keep_up(champion: ModelWatch, every_s: float) -> None:
    while True:
        try:
            if champion.model is None:
                await champion.first()
            else:
                await champion.look()
        except HealthAllianceError:
            pass  # none yet, or the registry is away; /health tells
        await asyncio.sleep(every_s)


async def _forget_old_requests(pool: asyncpg.Pool[Any]) -> None:
    while True:
        with suppress(*AWAY):
            await forget_old(pool, datetime.now(UTC))
        await asyncio.sleep(_FORGET_EVERY_S)


def the_service(request: Request) -> Service:
    """Return what the app opened."""
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(the_service)]
