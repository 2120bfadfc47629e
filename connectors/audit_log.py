"""The audit log in PostgreSQL: rows are added and read, never changed; each institution's are a chain of hashes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from connectors.score_reading import Connection
from connectors.store import AWAY, unanswered
from connectors.view_reading import reading
from schemas.audit import BEGINNING, Action, AuditEntry, AuditRow, Broken, Outcome, digest, fault
from schemas.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class Chain:
    """An institution's rows as they were found: how many are good, the last one's hash, what is broken first."""

    institution: str
    rows: int
    head: str
    broken: Broken | None


@dataclass(frozen=True, slots=True)
class Verified:
    """All chains, and those of the expected hashes that no row has: what they stood for was cut off or written anew."""

    chains: tuple[Chain, ...]
    missing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing was changed, taken out or, as far as hashes are expected, cut off."""
        return not self.missing and all(one.broken is None for one in self.chains)


async def append(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries of one institution, all or none; who adds to the same chain waits until this transaction ends."""
    if len({one.institution for one in entries}) > 1:
        raise ValueError("one chain at a time: two that wait for each other's would never end")
    await connection.executemany(
        "SELECT append_audit_event($1, $2, $3, $4, $5, $6, $7)",
        [
            (one.institution, one.recorded_at, one.agent, str(one.action), json.dumps(one.subjects),
             str(one.outcome), digest(one))
            for one in entries
        ],
    )  # fmt: skip


async def append_once(database_url: str, entries: Sequence[AuditEntry]) -> None:
    """Add entries of one institution by a connection of their own; raise UnavailableError where they cannot be kept."""
    try:
        connection = await asyncpg.connect(database_url, timeout=10, command_timeout=60)
        try:
            await append(connection, entries)
        finally:
            await connection.close()
    except (*AWAY, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise unanswered(error) from error
    except asyncpg.PostgresError as error:
        raise UnavailableError(f"The access could not be noted in audit_events ({type(error).__name__}).") from error


async def verify(database_url: str, expected: Iterable[str] = ()) -> Verified:
    """Walk all chains; raise UnavailableError where PostgreSQL does not answer.

    expected: hashes, hexadecimal, that earlier looks have found at the chains' ends.
    """
    missing = {one.lower() for one in expected}
    async with reading(database_url) as connection:
        names = await connection.fetch("SELECT DISTINCT institution FROM audit_events ORDER BY 1")
        chains = [await _walk(connection, row["institution"], missing) for row in names]
    return Verified(tuple(chains), tuple(sorted(missing)))


async def _walk(connection: asyncpg.Connection[Any], institution: str, missing: set[str]) -> Chain:
    rows, head = 0, BEGINNING
    async for row in read(connection, institution):
        if broken := fault(head, rows + 1, row):
            return Chain(institution, rows, head.hex(), broken)
        rows, head = rows + 1, row.hash
        missing.discard(head.hex())
    return Chain(institution, rows, head.hex(), None)


async def read(
    connection: asyncpg.Connection[Any], institution: str, since: datetime | None = None
) -> AsyncIterator[AuditRow]:
    """Yield an institution's rows in the order of their chain, within the connection's transaction."""
    query = """SELECT * FROM audit_events
               WHERE institution = $1 AND recorded_at >= coalesce($2::timestamptz, '-infinity') ORDER BY sequence"""
    async for row in connection.cursor(query, institution, since, prefetch=1000):
        entry = AuditEntry(
            row["institution"], row["recorded_at"], row["agent"], _word(Action, row["action"]),
            _subjects(row["subjects"]), _word(Outcome, row["outcome"]),
        )  # fmt: skip
        yield AuditRow(row["sequence"], entry, row["login"], row["hash"])


def _subjects(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    return tuple(found) if isinstance(found, list) else (text,)


def _word(kind: Any, text: str) -> Any:
    """Read a stored word; one that this release does not know stays as it is, so that its hash can be checked."""
    try:
        return kind(text)
    except ValueError:
        return text
