"""Reading scores for people and programs: what stands now, what stood before, whose it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from connectors.store import SCORE_COLUMNS, score_values
from schemas.features import Features
from schemas.messages import Band
from schemas.stored_score import StoredScore

Connection: TypeAlias = "asyncpg.Pool[Any] | asyncpg.Connection[Any]"

STORED_COLUMNS = (
    ", ".join(f"score.{name}" for name in (*SCORE_COLUMNS, "superseded_by", "superseded_at"))
    # a look-up, not a join, so that a page of standing scores, which have no successor, never leads to a scan
    + """, (SELECT successor.reason FROM risk_scores AS successor
           WHERE score.superseded_by IS NOT NULL AND successor.record_id = score.superseded_by) AS superseded_because"""
)


def band_rank(column: str) -> str:
    """Order a column of bands in SQL as `schemas.messages.rank` does; null where there is none."""
    return f"array_position(ARRAY{[str(band) for band in Band]}, {column})"


@dataclass(frozen=True, slots=True)
class After:
    """Where a page ended: the last row's time of scoring and record."""

    scored_at: datetime
    record_id: str


async def find_score(connection: Connection, record_id: str, institution: str | None = None) -> StoredScore | None:
    """Return a score by its record, None where there is none, or none of the institution."""
    row = await connection.fetchrow(
        f"SELECT {STORED_COLUMNS} FROM risk_scores AS score WHERE record_id = $1 AND coalesce(institution = $2, true)",
        record_id,
        institution,
    )
    return stored_score(row) if row else None


async def standing_score(connection: Connection, institution: str, encounter_pseudonym: str) -> StoredScore | None:
    """Return the score that stands for an encounter, None where there is none or it was retracted."""
    row = await connection.fetchrow(
        f"""SELECT {STORED_COLUMNS} FROM risk_scores AS score
            WHERE institution = $1 AND encounter_pseudonym = $2
              AND superseded_by IS NULL AND probability IS NOT NULL""",
        institution,
        encounter_pseudonym,
    )
    return stored_score(row) if row else None


async def standing_scores(
    connection: Connection,
    institution: str,
    *,
    bands: Sequence[Band] = (),
    since: datetime | None = None,
    after: After | None = None,
    inpatient: bool | None = None,
    most: int = 100,
) -> list[StoredScore]:
    """Return standing scores in the order of their scoring, of the bands if any are named, `most` at most.

    since: only scores made from then on; after: only what follows a page's end.
    """
    rows = await connection.fetch(
        f"""SELECT {STORED_COLUMNS} FROM risk_scores AS score
            WHERE institution = $1 AND superseded_by IS NULL AND probability IS NOT NULL
              AND (cardinality($2::text[]) = 0 OR band = ANY($2))
              AND scored_at >= coalesce($3, '-infinity'::timestamptz)
              AND (scored_at, record_id) > (coalesce($4, '-infinity'::timestamptz), $5::uuid)
              AND coalesce(inpatient = $6, true)
            ORDER BY scored_at, record_id LIMIT $7""",
        institution,
        [str(band) for band in bands],
        since,
        after.scored_at if after else None,
        after.record_id if after else str(UUID(int=0)),
        inpatient,
        most,
    )
    return [stored_score(row) for row in rows]


async def sealed_histories(
    connection: Connection, institution: str, patient_pseudonyms: Iterable[str]
) -> dict[str, bytes]:
    """Return the sealed histories of an institution's patients, by pseudonym, as far as there are any."""
    rows = await connection.fetch(
        """SELECT patient_pseudonym::text, history FROM patient_history
           WHERE institution = $1 AND patient_pseudonym = ANY($2::uuid[])""",
        institution,
        list(set(patient_pseudonyms)),
    )
    return {row["patient_pseudonym"]: row["history"] for row in rows}


async def rejected_since(connection: Connection, institution: str, since: datetime) -> int:
    """Count an institution's events that were rejected among those received from then on."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM rejected_events WHERE institution = $1 AND received_at >= $2", institution, since
        )
    )


def stored_score(row: Mapping[str, Any]) -> StoredScore:
    """Read a row of `STORED_COLUMNS`."""
    values = score_values(row)
    if values["features"] is not None:
        values["features"] = Features(**values["features"])
    successor = row["superseded_by"]
    return StoredScore(
        **values,
        superseded_by=None if successor is None else str(successor),
        superseded_at=row["superseded_at"],
        superseded_because=row["superseded_because"],
    )
