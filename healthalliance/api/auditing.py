"""Note in the audit log who reads and changes what over HTTP: what cannot be noted is not answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, Request

from connectors.audit_log import append
from healthalliance.api.audit_log import NOT_KEPT, AuditLog, not_noted
from healthalliance.api.callers import Caller
from healthalliance.api.service import Shared
from schemas.audit import Action, AuditEntry
from schemas.stored_score import StoredScore


@dataclass(frozen=True, slots=True)
class Audit:
    """One request's way into the audit log: for its caller and institution."""

    log: AuditLog
    institution: str
    agent: str

    async def note(self, action: Action, subjects: Sequence[str] = ()) -> None:
        """Note an access before it is answered; raise ProblemError 503 where that is not possible."""
        await self.log.note(self.entry(action, subjects))

    @asynccontextmanager
    async def change(self, pool: asyncpg.Pool[Any]) -> AsyncIterator[Change]:
        """Open a transaction for a change and its entry: both are kept, or none."""
        async with pool.acquire() as connection, connection.transaction():
            yield Change(connection, self)

    def entry(self, action: Action, subjects: Sequence[str]) -> AuditEntry:
        """Make the caller's entry of now."""
        return AuditEntry(self.institution, datetime.now(UTC), self.agent, action, tuple(subjects))


@dataclass(frozen=True, slots=True)
class Change:
    """A change under way: what is written by `connection` and noted here is kept together."""

    connection: Any
    audit: Audit

    async def note(self, action: Action, subjects: Sequence[str]) -> None:
        """Note the change; it comes last, since others of the institution wait until the transaction ends.

        Raises ProblemError 503, which takes the change back, where that is not possible.
        """
        try:
            await append(self.connection, [self.audit.entry(action, subjects)])
        except NOT_KEPT:
            raise not_noted() from None


async def audit_of(request: Request, service: Shared, sender: Caller) -> Audit:
    """Return the caller's way into the audit log."""
    return Audit(service.audit, sender.institution.id, request.state.agent)


Audited = Annotated[Audit, Depends(audit_of)]


def records(scores: Iterable[StoredScore]) -> list[str]:
    """Name scores as an entry's subjects."""
    return [f"record:{one.record_id}" for one in scores]
