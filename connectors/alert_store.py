"""Alerting's state in PostgreSQL: what stands of each encounter, which alerts wait, what became of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from connectors.roles import one_institution
from connectors.score_reading import band_rank
from connectors.store import open_pool
from schemas.alert import Crossing, Opened, Scored, Told, Waiting, alert_id
from schemas.messages import Band

_SCORED = ("record_id", "encounter_pseudonym", "patient_pseudonym", "topic_id", "source_partition", "source_offset",
           "supersedes", "scored_at", "band", "probability")  # fmt: skip


@dataclass(frozen=True, slots=True)
class AlertWrites:
    """All that a batch of scores changes. left: crossing records → why their alerts leave the queue."""

    now: datetime
    standings: Sequence[Scored]
    opened: Sequence[Opened]
    left: Mapping[str, str]


class Deciding:
    """An open transaction that no other process of the channel decides beside."""

    def __init__(self, connection: asyncpg.Connection[Any], institution: str, channel: str) -> None:
        self._connection, self._of = connection, (institution, channel)

    async def stored(self, record_ids: Collection[str]) -> set[str]:
        """Return which scores are stored, and keep them so until the end; those of erased patients are not."""
        rows = await self._connection.fetch(
            "SELECT record_id FROM risk_scores WHERE institution = $1 AND record_id = ANY($2::uuid[]) "
            "ORDER BY record_id FOR KEY SHARE",
            self._of[0],
            list(record_ids),
        )
        return {str(row["record_id"]) for row in rows}

    async def states(self, encounters: Collection[str]) -> dict[str, tuple[Scored, Crossing | None]]:
        """Return what stands of encounters by pseudonym, with the alert that waits of each."""
        rows = await self._connection.fetch(
            f"""SELECT {", ".join(f"one.{name}" for name in _SCORED)}, alerts.record_id AS crossing, known_band
                FROM alert_standings AS one
                LEFT JOIN alerts ON alerts.institution = one.institution AND alerts.channel = one.channel
                    AND alerts.encounter_pseudonym = one.encounter_pseudonym AND alerts.state = 'waiting'
                WHERE one.institution = $1 AND one.channel = $2 AND one.encounter_pseudonym = ANY($3::uuid[])""",
            *self._of,
            list(encounters),
        )
        return {str(row["encounter_pseudonym"]): (_scored(row), _crossing(row)) for row in rows}

    async def write(self, writes: AlertWrites) -> None:
        """Write what stands now, the alerts that left and those that were opened."""
        if writes.standings:
            await self._connection.executemany(
                _STAND, [(*self._of, *(getattr(one, name) for name in _SCORED)) for one in writes.standings]
            )
        if writes.left:
            await self._connection.execute(_LEAVE, *self._of, list(writes.left), list(writes.left.values()))
        if writes.opened:
            await self._connection.executemany(_OPEN, [self._opened(one, writes.now) for one in writes.opened])

    def _opened(self, one: Opened, now: datetime) -> tuple[object, ...]:
        score, crossing = one.score, one.crossing
        return (
            alert_id(*self._of, crossing.record_id), *self._of, score.encounter_pseudonym, score.patient_pseudonym,
            crossing.record_id, crossing.known, score.band, score.probability, now,
        )  # fmt: skip


class AlertStore:
    """A channel's connections to PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool[Any], institution: str, channel: str) -> None:
        self._pool, self._of = pool, (institution, channel)

    async def begin(self, started_at: datetime) -> datetime:
        """Note when the channel's alerts begin, unless they have before; return since when."""
        await self._pool.execute("INSERT INTO alert_channels VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                                 *self._of, started_at)  # fmt: skip
        found = await self._pool.fetchval(
            "SELECT started_at FROM alert_channels WHERE institution = $1 AND channel = $2", *self._of
        )
        assert isinstance(found, datetime)
        return found

    @asynccontextmanager
    async def deciding(self) -> AsyncIterator[Deciding]:
        """Open a transaction alone with the channel: committed at the end of the block, rolled back if it raises."""
        async with self._alone() as connection:
            yield Deciding(connection, *self._of)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK, *self._of)
            yield connection

    async def waiting(self) -> list[Waiting]:
        """Return the queue, with the worklist's marks; an acknowledgement of a score that is gone holds nothing."""
        return [
            Waiting(
                alert_id=str(row["alert_id"]),
                probability=row["probability"],
                band=Band(row["band"]),
                decided_at=row["decided_at"],
                due_at=row["due_at"],
                given_at=row["given_at"],
                claimed_until=row["claimed_until"],
                snoozed_until=row["snoozed_until"],
                acknowledged=Band(row["acknowledged"]) if row["acknowledged"] else None,
            )
            for row in await self._pool.fetch(_WAITING, *self._of)
        ]

    async def given_since(self, begin: datetime) -> int:
        """Count the alerts that got a place in the budget from then on; one that left the queue gave it back."""
        return int(await self._pool.fetchval(_GIVEN, *self._of, begin))

    async def claim(
        self, alert: str, now: datetime, until: datetime, *, day: datetime, rights: int | None
    ) -> Told | None:
        """Take an alert to send until then, counting the attempt; None if it is no longer to be sent.

        rights: how many may have been given out since the `day` began, None for any number.
        """
        async with self._alone() as connection:
            row = await connection.fetchrow(_CLAIM, *self._of, alert, now, until, day, rights)
            row = await connection.fetchrow(_TOLD, row["alert_id"]) if row else None
        return _told(row) if row else None

    async def delivered(self, told: Told, now: datetime) -> None:
        """Note that the receiver has an alert, and what it was told."""
        await self._pool.execute(
            """UPDATE alerts SET state = 'delivered', delivered_at = $2, band = $3, probability = $4, reason = NULL,
                   claimed_until = NULL WHERE alert_id = $1""",
            told.alert_id,
            now,
            told.band,
            told.probability,
        )

    async def failed(self, told: Told, reason: str, due_at: datetime) -> None:
        """Note that an alert could not be sent, and when it is to be tried again."""
        await self._pool.execute(
            "UPDATE alerts SET due_at = $2, reason = $3, claimed_until = NULL "
            "WHERE alert_id = $1 AND state = 'waiting'",
            told.alert_id,
            due_at,
            reason,
        )

    async def refused(self, told: Told, reason: str) -> None:
        """Note that the receiver will never take an alert."""
        await self._pool.execute(
            "UPDATE alerts SET state = 'refused', reason = $2, claimed_until = NULL "
            "WHERE alert_id = $1 AND state = 'waiting'",
            told.alert_id,
            reason,
        )

    async def expire(self, alerts: Iterable[str], reason: str) -> None:
        """Take alerts out of the queue that waited for too long."""
        await self._pool.execute(
            "UPDATE alerts SET state = 'left', reason = $2 "
            "WHERE alert_id = ANY($1::uuid[]) AND state = 'waiting' AND given_at IS NULL",
            list(alerts),
            reason,
        )

    async def resend(self) -> int:
        """Have refused alerts wait again whose encounters still stand as high; return how many."""
        async with self._alone() as connection:
            return len(await connection.fetch(_RESEND, *self._of))

    async def counts(self) -> dict[str, int]:
        """Count the channel's alerts by state."""
        rows = await self._pool.fetch(
            "SELECT state, count(*) AS number FROM alerts WHERE institution = $1 AND channel = $2 GROUP BY state",
            *self._of,
        )
        return {row["state"]: row["number"] for row in rows}

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


async def open_alert_store(database_url: str, institution: str, channel: str) -> AlertStore:
    """Connect to what is the institution's; raise UnavailableError where there is no answer."""
    session = {
        **one_institution(institution),
        "idle_in_transaction_session_timeout": "20s",
        "application_name": "healthalliance-alerts",
    }
    pool = await open_pool(database_url, connections=3, session=session)
    return AlertStore(pool, institution, channel)


def _scored(row: Mapping[str, Any]) -> Scored:
    return Scored(
        record_id=str(row["record_id"]),
        encounter_pseudonym=str(row["encounter_pseudonym"]),
        patient_pseudonym=str(row["patient_pseudonym"]),
        topic_id=str(row["topic_id"]),
        source_partition=row["source_partition"],
        source_offset=row["source_offset"],
        supersedes=str(row["supersedes"]) if row["supersedes"] else None,
        scored_at=row["scored_at"],
        band=Band(row["band"]) if row["band"] else None,
        probability=row["probability"],
    )


def _crossing(row: Mapping[str, Any]) -> Crossing | None:
    if row["crossing"] is None:
        return None
    return Crossing(str(row["crossing"]), Band(row["known_band"]) if row["known_band"] else None)


def _told(row: Mapping[str, Any]) -> Told:
    return Told(
        alert_id=str(row["alert_id"]),
        institution=row["institution"],
        patient_pseudonym=str(row["patient_pseudonym"]),
        encounter_pseudonym=str(row["encounter_pseudonym"]),
        record_id=str(row["record_id"]),
        band=Band(row["band"]),
        probability=row["probability"],
        features=json.loads(row["features"]) if row["features"] else {},
        contributions=json.loads(row["contributions"]) if row["contributions"] else {},
        scored_at=row["scored_at"],
        decided_at=row["decided_at"],
        attempts=row["attempts"],
    )


_LOCK = "SELECT FROM alert_channels WHERE institution = $1 AND channel = $2 FOR UPDATE"

_STAND = f"""
INSERT INTO alert_standings (institution, channel, {", ".join(_SCORED)})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (encounter_pseudonym, institution, channel)
DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _SCORED if name != "encounter_pseudonym")}
"""

_LEAVE = """
UPDATE alerts SET state = 'left', reason = gone.reason
FROM unnest($3::uuid[], $4::text[]) AS gone(record_id, reason)
WHERE institution = $1 AND channel = $2 AND alerts.record_id = gone.record_id AND state = 'waiting'
"""

_OPEN = """
INSERT INTO alerts (alert_id, institution, channel, encounter_pseudonym, patient_pseudonym, record_id, known_band, band,
                    probability, state, decided_at, due_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'waiting', $10, $10) ON CONFLICT (alert_id) DO NOTHING
"""

_WAITING = """
SELECT alert_id, standing.probability, standing.band, decided_at, due_at, given_at, claimed_until, snoozed_until,
       seen.band AS acknowledged
FROM alerts JOIN alert_standings AS standing USING (institution, channel, encounter_pseudonym)
LEFT JOIN worklist_marks AS mark ON mark.institution = alerts.institution
    AND mark.encounter_pseudonym = alerts.encounter_pseudonym
LEFT JOIN risk_scores AS seen ON seen.record_id = mark.acknowledged_record_id AND seen.institution = mark.institution
WHERE alerts.institution = $1 AND alerts.channel = $2 AND state = 'waiting' AND standing.band IS NOT NULL
"""

_GIVEN = """
SELECT count(*) FROM alerts WHERE institution = $1 AND channel = $2 AND given_at >= $3 AND state <> 'left'
"""

_CLAIM = """
UPDATE alerts SET given_at = coalesce(given_at, $4), claimed_until = $5, attempts = attempts + 1
WHERE institution = $1 AND channel = $2 AND alert_id = $3 AND state = 'waiting' AND due_at <= $4
  AND (claimed_until IS NULL OR claimed_until <= $4)
  AND ($7::bigint IS NULL OR given_at IS NOT NULL OR $7 > (
      SELECT count(*) FROM alerts AS given WHERE given.institution = $1 AND given.channel = $2 AND given.given_at >= $6
                                             AND given.state <> 'left'))
RETURNING alert_id
"""

_RESEND = f"""
UPDATE alerts AS refused SET state = 'waiting', reason = NULL, due_at = now(), given_at = NULL
FROM alert_standings AS standing
WHERE refused.institution = $1 AND refused.channel = $2 AND refused.state = 'refused'
  AND standing.institution = $1 AND standing.channel = $2
  AND standing.encounter_pseudonym = refused.encounter_pseudonym
  AND {band_rank("standing.band")} >= {band_rank("refused.band")}
  AND NOT EXISTS (SELECT FROM alerts AS newer WHERE newer.institution = $1 AND newer.channel = $2
                  AND newer.encounter_pseudonym = refused.encounter_pseudonym AND newer.decided_at > refused.decided_at)
RETURNING refused.alert_id
"""

# What is told is the score that stands: it may be a newer one than the one that crossed.
_TOLD = """
SELECT alert_id, alerts.institution, alerts.patient_pseudonym, alerts.encounter_pseudonym, decided_at, attempts,
       standing.record_id, standing.band, standing.probability, standing.scored_at, score.features, score.contributions
FROM alerts JOIN alert_standings AS standing USING (institution, channel, encounter_pseudonym)
LEFT JOIN risk_scores AS score ON score.record_id = standing.record_id AND score.institution = standing.institution
WHERE alert_id = $1 AND standing.band IS NOT NULL
"""
