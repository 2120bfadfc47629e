"""Events that came over HTTP with an Idempotency-Key, so that asking twice publishes once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal

import asyncpg

KEPT = timedelta(days=1)
# A process that died between publishing and noting it leaves its request open; after this long another may try.
_ABANDONED = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose turn it is: `ours` to publish, `done` before (with where it is), `under-way`, or another `other-body`."""

    state: Literal["ours", "done", "under-way", "other-body"]
    partition: int | None = None
    offset: int | None = None


async def claim(pool: asyncpg.Pool[Any], institution: str, key: str, body: bytes, now: datetime) -> Claim:
    """Claim a key for a body; who gets `ours` must `settle` or `release` it."""
    digest = sha256(body).hexdigest()
    row = await pool.fetchrow(_CLAIM, institution, _hash(key), digest, now, now - _ABANDONED)
    if row is not None:
        return Claim("ours")
    held = await pool.fetchrow(
        """SELECT body_digest, source_partition, source_offset, delivered_at FROM intake_requests
           WHERE institution = $1 AND idempotency_key = $2""",
        institution,
        _hash(key),
    )
    if held is None:
        return Claim("under-way")  # released between the two statements
    if held["body_digest"] != digest:
        return Claim("other-body")
    if held["delivered_at"] is None:
        return Claim("under-way")
    return Claim("done", held["source_partition"], held["source_offset"])


async def settle(
    pool: asyncpg.Pool[Any], institution: str, key: str, partition: int, offset: int, now: datetime
) -> None:
    """Note where the event is."""
    await pool.execute(
        """UPDATE intake_requests SET source_partition = $3, source_offset = $4, delivered_at = $5
           WHERE institution = $1 AND idempotency_key = $2""",
        institution,
        _hash(key),
        partition,
        offset,
        now,
    )


async def release(pool: asyncpg.Pool[Any], institution: str, key: str) -> None:
    """Give a claimed key back: nothing was confirmed."""
    await pool.execute(
        "DELETE FROM intake_requests WHERE institution = $1 AND idempotency_key = $2 AND delivered_at IS NULL",
        institution,
        _hash(key),
    )


async def forget_old(pool: asyncpg.Pool[Any], now: datetime) -> None:
    """Remove what is older than a day."""
    await pool.execute("DELETE FROM intake_requests WHERE requested_at < $1", now - KEPT)


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()


_CLAIM = """
INSERT INTO intake_requests AS held (institution, idempotency_key, body_digest, requested_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (institution, idempotency_key) DO UPDATE SET requested_at = excluded.requested_at
WHERE held.delivered_at IS NULL AND held.requested_at < $5 AND held.body_digest = excluded.body_digest
RETURNING 1
"""
