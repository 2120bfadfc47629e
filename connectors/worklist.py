"""The worklist: what risks there are now, how they came to be, and what people have said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from connectors.score_reading import STORED_COLUMNS, Connection, band_rank, stored_score
from schemas.messages import Band, rank
from schemas.stored_score import StoredScore

Order = Literal["risk", "newest"]

_ORDERS: dict[Order, str] = {"risk": "score.probability DESC", "newest": "score.scored_at DESC"}


@dataclass(frozen=True, slots=True)
class Mark:
    """What people have said of an encounter.

    acknowledged_band: that of the score they have seen; it holds while the risk is in no higher one. None: not seen,
    or that score is gone. snoozed_until: UTC.
    """

    acknowledged_record_id: str | None
    acknowledged_band: Band | None
    acknowledged_at: datetime | None
    snoozed_until: datetime | None

    def is_seen(self, band: str | None) -> bool:
        """Tell whether somebody has seen a risk as high as this."""
        seen = self.acknowledged_band
        return seen is not None and rank(Band(band) if band else None) <= rank(seen)

    def is_quiet(self, band: str | None, now: datetime) -> bool:
        """Tell whether nobody wants to be told of a risk as high as this now."""
        return self.is_seen(band) or (self.snoozed_until is not None and self.snoozed_until > now)


@dataclass(frozen=True, slots=True)
class Listed:
    """A standing score and its encounter's mark."""

    score: StoredScore
    mark: Mark


@dataclass(frozen=True, slots=True)
class Point:
    """A version of an encounter's score; without a probability it was taken back."""

    record_id: str
    scored_at: datetime
    probability: float | None
    band: str | None
    reason: str | None


async def current_risks(
    connection: Connection,
    institution: str,
    since: datetime,
    now: datetime,
    *,
    bands: Sequence[Band] = (),
    inpatient: bool | None = None,
    quiet: bool = False,
    order: Order = "risk",
    most: int = 50,
    encounter: str | None = None,
) -> list[Listed]:
    """Return the standing scores of events received since then, of the bands if any are named, `most` at most.

    quiet: those too that somebody has seen or snoozed. encounter: only this one's, by its pseudonym.
    """
    rows = await connection.fetch(
        f"""WITH mark AS (SELECT worklist_marks.*, seen.band AS acknowledged_band FROM worklist_marks {_SEEN}
                          WHERE worklist_marks.institution = $1)
            SELECT {STORED_COLUMNS}, {_MARK}
            FROM risk_scores AS score LEFT JOIN mark USING (encounter_pseudonym)
            WHERE score.institution = $1 AND score.received_at >= $2
              AND score.superseded_by IS NULL AND score.status <> 'entered-in-error'
              AND (cardinality($3::text[]) = 0 OR score.band = ANY($3))
              AND coalesce(score.inpatient = $4, true)
              AND coalesce(score.encounter_pseudonym = $5, true)
              AND ($6 OR NOT coalesce(mark.snoozed_until > $7, false)
                     AND NOT coalesce({band_rank("score.band")} <= {band_rank("mark.acknowledged_band")}, false))
            ORDER BY {_ORDERS[order]}, score.record_id LIMIT $8""",
        institution,
        since,
        [str(band) for band in bands],
        inpatient,
        encounter,
        quiet,
        now,
        most,
    )
    return [Listed(stored_score(row), _mark(row)) for row in rows]


async def versions_of(
    connection: Connection, institution: str, encounters: Iterable[str]
) -> dict[str, tuple[Point, ...]]:
    """Return all versions of the encounters' scores, by pseudonym, the oldest first."""
    rows = await connection.fetch(
        """SELECT encounter_pseudonym::text AS encounter, record_id::text, scored_at, probability, band, reason
           FROM risk_scores WHERE institution = $1 AND encounter_pseudonym = ANY($2::uuid[])
           ORDER BY scored_at, source_offset""",
        institution,
        list(encounters),
    )
    found: dict[str, tuple[Point, ...]] = {}
    for row in rows:
        point = Point(row["record_id"], row["scored_at"], row["probability"], row["band"], row["reason"])
        found[row["encounter"]] = (*found.get(row["encounter"], ()), point)
    return found


# Marks lock the score they are about: who erases the patient waits, and then finds the mark.


async def acknowledge(connection: Connection, institution: str, encounter: str, record_id: str, now: datetime) -> bool:
    """Note that a score was seen; return whether it is one of the encounter's."""
    return await _noted(
        connection,
        """INSERT INTO worklist_marks AS held (institution, encounter_pseudonym, patient_pseudonym,
                                               acknowledged_record_id, acknowledged_at, updated_at)
           SELECT institution, encounter_pseudonym, patient_pseudonym, record_id, $4, $4 FROM risk_scores
           WHERE institution = $1 AND encounter_pseudonym = $2 AND record_id = $3 AND probability IS NOT NULL
           FOR KEY SHARE
           ON CONFLICT (institution, encounter_pseudonym) DO UPDATE
           SET acknowledged_record_id = excluded.acknowledged_record_id, acknowledged_at = $4, updated_at = $4""",
        institution,
        encounter,
        record_id,
        now,
    )


async def snooze(connection: Connection, institution: str, encounter: str, until: datetime, now: datetime) -> bool:
    """Keep an encounter quiet until then; return whether there is a score of it."""
    return await _noted(
        connection,
        """INSERT INTO worklist_marks AS held (institution, encounter_pseudonym, patient_pseudonym, snoozed_until,
                                               updated_at)
           SELECT institution, encounter_pseudonym, patient_pseudonym, $3, $4 FROM risk_scores
           WHERE institution = $1 AND encounter_pseudonym = $2 LIMIT 1 FOR KEY SHARE
           ON CONFLICT (institution, encounter_pseudonym) DO UPDATE SET snoozed_until = $3, updated_at = $4""",
        institution,
        encounter,
        until,
        now,
    )


async def take_back(
    connection: Connection, institution: str, encounter: str, what: Literal["acknowledgement", "snooze"], now: datetime
) -> bool:
    """Take an acknowledgement or a snooze back, if there is one; return whether the encounter has marks at all."""
    columns = {
        "acknowledgement": "acknowledged_record_id = NULL, acknowledged_at = NULL",
        "snooze": "snoozed_until = NULL",
    }
    done = await connection.execute(
        f"""UPDATE worklist_marks SET {columns[what]}, updated_at = $3
            WHERE institution = $1 AND encounter_pseudonym = $2""",
        institution,
        encounter,
        now,
    )
    return str(done) != "UPDATE 0"


async def change_token(connection: Connection, institution: str) -> str:
    """Return a text that is another one once anything was committed or marked.

    Each batch moves the progress of its partitions in the transaction that writes its scores, so that what is
    committed late cannot be missed.
    """
    row = await connection.fetchrow(
        """SELECT (SELECT sum(next_offset) FROM stream_progress WHERE institution = $1) AS applied,
                  (SELECT max(updated_at) FROM worklist_marks WHERE institution = $1) AS marked_at""",
        institution,
    )
    return f"{row['applied'] or 0}.{row['marked_at'].timestamp() if row['marked_at'] else 0}"


async def _noted(connection: Connection, statement: str, *arguments: object) -> bool:
    return str(await connection.execute(statement, *arguments)) != "INSERT 0 0"


def _mark(row: Mapping[str, Any]) -> Mark:
    seen = row["acknowledged_record_id"]
    return Mark(
        acknowledged_record_id=None if seen is None else str(seen),
        acknowledged_band=Band(row["acknowledged_band"]) if row["acknowledged_band"] else None,
        acknowledged_at=row["acknowledged_at"],
        snoozed_until=row["snoozed_until"],
    )


_MARK = "mark.acknowledged_record_id, mark.acknowledged_band, mark.acknowledged_at, mark.snoozed_until"
_SEEN = """
LEFT JOIN LATERAL (SELECT band FROM risk_scores AS one
                   WHERE one.record_id = acknowledged_record_id
                     AND one.institution = worklist_marks.institution
                     AND one.encounter_pseudonym = worklist_marks.encounter_pseudonym) AS seen ON true
"""
