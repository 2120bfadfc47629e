"""Add to the audit log from many requests at once, by few commits."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from connectors.audit_log import append
from connectors.store import AWAY
from healthalliance.api.problems import ProblemError, unavailable
from schemas.audit import AuditEntry

NOT_KEPT = (*AWAY, asyncpg.PostgresError)

_Waiting = tuple[AuditEntry, "asyncio.Future[bool]"]


def not_noted() -> ProblemError:
    """Say that there is no answer because the access could not be noted."""
    return unavailable("The access could not be noted in the audit log, so that nothing is shown or changed.")


class AuditLog:
    """Adds to the chains. What comes while a chain is written to goes in together, by one commit."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._waiting: dict[str, list[_Waiting]] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def note(self, entry: AuditEntry) -> None:
        """Return once an entry is committed; raise ProblemError 503 where it cannot be."""
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(entry.institution, []).append((entry, kept))
        if entry.institution not in self._writing:
            self._writing[entry.institution] = asyncio.create_task(self._write(entry.institution))
        if not await kept:
            raise not_noted()

    async def _write(self, institution: str) -> None:
        try:
            while waiting := self._waiting.pop(institution, None):
                await self._append(waiting)
        finally:
            del self._writing[institution]

    async def _append(self, waiting: list[_Waiting]) -> None:
        good = False
        try:
            await append(self._pool, [entry for entry, _ in waiting])
            good = True
        except NOT_KEPT:
            pass
        finally:
            for _, kept in waiting:
                if not kept.done():  # a caller that went away has cancelled it
                    kept.set_result(good)
