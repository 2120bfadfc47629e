"""CDS Hooks cards that were shown, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg


@dataclass(frozen=True, slots=True)
class ServedCard:
    """A card as it was served; `record_id`: the stored score it shows, None where it was scored for the card alone."""

    card_id: str
    institution: str
    patient_pseudonym: str
    encounter_pseudonym: str
    record_id: str | None
    band: str
    model_version: str
    served_at: datetime


async def keep_card(pool: asyncpg.Pool[Any], card: ServedCard) -> None:
    """Store a card that is about to be served."""
    await pool.execute(
        """INSERT INTO cds_cards (card_id, institution, patient_pseudonym, encounter_pseudonym, record_id, band,
                                  model_version, served_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        card.card_id,
        card.institution,
        card.patient_pseudonym,
        card.encounter_pseudonym,
        card.record_id,
        card.band,
        card.model_version,
        card.served_at,
    )


async def note_outcome(
    pool: asyncpg.Pool[Any],
    institution: str,
    card_id: str,
    outcome: Literal["accepted", "overridden"],
    reason: str | None,
    at: datetime,
) -> bool:
    """Note what a clinician did with a card, unless something later is known; return whether there is such a card."""
    status = await pool.execute(
        """UPDATE cds_cards SET
               outcome = CASE WHEN coalesce(outcome_at <= $5, true) THEN $3 ELSE outcome END,
               override_reason = CASE WHEN coalesce(outcome_at <= $5, true) THEN $4 ELSE override_reason END,
               outcome_at = greatest(outcome_at, $5)
           WHERE card_id = $1 AND institution = $2""",
        card_id,
        institution,
        outcome,
        reason,
        at,
    )
    return bool(status != "UPDATE 0")
