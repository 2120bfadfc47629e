"""Scores for tests of alerting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_OID, uuid5

from schemas.alert import Scored
from schemas.messages import Band

BEGIN = datetime(2025, 3, 3, 8, tzinfo=UTC)
_USUAL = {Band.LOW: 0.05, Band.MEDIUM: 0.2, Band.HIGH: 0.4}


def a_score(
    offset: int, band: str | None, *, encounter: str = "e", probability: float | None = None, topic_id: str = "t",
    supersedes: str | None = None, at: datetime | None = None,
) -> Scored:  # fmt: skip
    """Make an encounter's score from the event at an offset; band None: it was retracted."""
    known = Band(band) if band else None
    return Scored(
        record_id=str(uuid5(NAMESPACE_OID, f"{topic_id}/{encounter}/{offset}")),
        encounter_pseudonym=encounter,
        patient_pseudonym=f"p-{encounter}",
        topic_id=topic_id,
        source_partition=0,
        source_offset=offset,
        supersedes=supersedes,
        scored_at=at or BEGIN + timedelta(minutes=offset),
        band=known,
        probability=(probability if probability is not None else _USUAL[known]) if known else None,
    )
