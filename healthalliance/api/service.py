"""What all requests share: connections, keys, the model; opened once, closed at the end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request

from connectors.intake_requests import forget_old
from connectors.kafka import AwaitedPublisher
from connectors.pseudonym_keys import keys_in_force, keys_of_settings
from connectors.roles import one_institution
from connectors.settings import Settings
from connectors.store import AWAY, open_pool
from healthalliance.api.audit_log import AuditLog
from healthalliance.api.changes import Changes
from healthalliance.api.keys import KeyRing
from healthalliance.api.problems import unavailable
from healthalliance.api.rates import Rates
from healthalliance.api.sessions import Sessions
from schemas.errors import ConfigurationError, HealthAllianceError
from schemas.institutions import institutions
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import StructureValidator, structure_validator
from schemas.model import Model
from streams.decision import Sender
from streams.models import ModelWatch

log = logging.getLogger("healthalliance.api")

_LOOK_FOR_KEYS_S = 2.0
_FORGET_EVERY_S = 3600.0
_CONNECTIONS = 8  # of an institution
_CONNECTIONS_OF_NOBODY = 4
_ANSWER_S = 10
_SESSION = {"statement_timeout": f"{_ANSWER_S}s", "application_name": "healthalliance-api"}
_REFUSED_KEYS_PER_S = 1.0  # of one address; a key has 256 bits, so this is against noise, not guessing
_REFUSED_KEYS = 100.0  # at once


@dataclass(slots=True)
class Service:
    """The API's connections and what it knows. `senders` are the institutions with their pseudonym keys.

    `pools` are by institution: what they see and write is that institution's only. `pool` is for what is nobody's.
    """

    settings: Settings
    pool: asyncpg.Pool[Any]
    pools: Mapping[str, asyncpg.Pool[Any]]
    audit: AuditLog
    publisher: AwaitedPublisher
    champion: ModelWatch
    keys: KeyRing
    sessions: Sessions
    changes: Changes
    senders: dict[str, Sender]
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
    keys = KeyRing.of(settings.institution_api_key)
    for id_ in institutions():
        keys_of_settings(settings, id_)
    pool = await _pool(settings)
    try:
        senders = await _senders(pool, settings)
        pools = {id_: await _pool(settings, id_) for id_ in senders}
    except BaseException:
        await pool.close()
        raise
    service = Service(
        settings=settings,
        pool=pool,
        pools=pools,
        audit=AuditLog(pool),
        publisher=AwaitedPublisher(settings),
        champion=ModelWatch(settings, settings.model_alias),
        keys=keys,
        sessions=Sessions(keys, senders),
        changes=Changes(pools),
        senders=senders,
        limits=settings.event_limits,
        validate=structure_validator(settings.structure_validator),
        requests=Rates(settings.api_requests_per_s, settings.api_requests_per_s),
        refused_keys=Rates(_REFUSED_KEYS_PER_S, _REFUSED_KEYS),
    )
    beside = [
        asyncio.create_task(_keep_up(service.champion, settings.model_poll_s)),
        asyncio.create_task(_forget_old_requests(service.pool)),
        asyncio.create_task(_follow_keys(service)),
    ]
    try:
        yield service
    finally:
        for task in beside:
            task.cancel()
        service.changes.close()
        await asyncio.to_thread(service.publisher.close)
        for pool in (service.pool, *service.pools.values()):
            await pool.close()


async def _pool(settings: Settings, institution: str | None = None) -> asyncpg.Pool[Any]:
    session = _SESSION | (one_institution(institution) if institution else {})
    connections = _CONNECTIONS if institution else _CONNECTIONS_OF_NOBODY
    return await open_pool(
        settings.database_url, connections=connections, session=session, timeout_s=5, answer_s=_ANSWER_S
    )


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


async def _senders(pool: asyncpg.Pool[Any], settings: Settings) -> dict[str, Sender]:
    found = await keys_in_force(pool, settings, institutions())
    return {id_: Sender(institutions()[id_], one.keys, one.other) for id_, one in found.items()}


async def _follow_keys(service: Service) -> None:
    """Go over to a new key of pseudonyms when its rotation is finished; end the process where it is not among ours."""
    while True:
        await asyncio.sleep(_LOOK_FOR_KEYS_S)
        try:
            service.senders.update(await _senders(service.pool, service.settings))
        except ConfigurationError as error:
            if await service.pool.fetchval("SELECT EXISTS (SELECT FROM pseudonym_keys WHERE replaces IS NOT NULL)"):
                continue
            log.critical("%s", error)
            signal.raise_signal(signal.SIGTERM)
            return
        except AWAY:
            continue


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
