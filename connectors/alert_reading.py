"""Stored scores and outcomes, as a simulation of alerts needs them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from connectors.view_reading import reading
from schemas.alert import Scored, scored

_FIELDS = ("record_id", "encounter_pseudonym", "patient_pseudonym", "topic_id", "source_partition", "source_offset",
           "supersedes", "scored_at", "band", "probability", "inpatient")  # fmt: skip

# As of its features a score may be older than the one that it replaces; it came after it all the same.
_MOMENT = {
    "arrival": "received_at",
    "event": "max(as_of) OVER (PARTITION BY encounter_pseudonym ORDER BY scored_at, source_offset)",
}


async def read_moments(
    database_url: str, institution: str, since: datetime, clock: str
) -> tuple[list[tuple[datetime, Scored]], dict[str, bool]]:
    """Return all scores of encounters scored since then, in order, and who was readmitted, as far as is known.

    clock: `arrival`, when each score's event came, or `event`, the time that its features hold for. Raises
    UnavailableError where PostgreSQL does not answer.
    """
    async with reading(database_url, institution) as connection:
        rows = await connection.fetch(_SCORES.format(moment=_MOMENT[clock]), institution, since)
        outcomes = await connection.fetch(_OUTCOMES, institution)
    known = {str(row["encounter_pseudonym"]): bool(row["readmitted"]) for row in outcomes}
    return [(row["moment"], _scored(row)) for row in rows], known


def _scored(row: Mapping[str, Any]) -> Scored:
    values = {name: row[name] for name in _FIELDS}
    names = ("record_id", "encounter_pseudonym", "patient_pseudonym", "topic_id")
    supersedes = str(row["supersedes"]) if row["supersedes"] else None
    return scored(values | {name: str(row[name]) for name in names} | {"supersedes": supersedes})


_SCORES = f"""
WITH timed AS (
    SELECT {", ".join(_FIELDS)}, {{moment}} AS moment FROM risk_scores WHERE institution = $1
)
SELECT * FROM timed
WHERE encounter_pseudonym IN (SELECT encounter_pseudonym FROM timed WHERE moment >= $2)
ORDER BY moment, scored_at, source_offset
"""

_OUTCOMES = """
SELECT encounter_pseudonym, outcome = 'readmitted' AS readmitted FROM risk_outcomes
WHERE institution = $1 AND matured AND outcome <> 'censored'
"""
